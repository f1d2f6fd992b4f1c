//! Connections for reading: a few, each used by one blocking task at a time, never inside a transaction for longer than
//! one page of a read (an open one keeps the WAL from starting again).

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::{
    fault::{Fault, closed},
    writer::lock,
};
use crate::{StoreError, StoreResult};

/// Reads that run at the same time.
const READERS: usize = 3;

/// Opens and keeps read connections.
pub(super) struct Pool {
    path: PathBuf,
    /// The database cannot change and its directory cannot be written: read the file as it is.
    immutable: bool,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub(super) fn new(path: PathBuf, immutable: bool) -> Self {
        Self { path, immutable, permits: Arc::new(Semaphore::new(READERS)), idle: Mutex::default() }
    }

    /// Opens a connection that cannot write.
    pub(super) fn open(&self) -> Result<Connection, Fault> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = if self.immutable {
            Connection::open_with_flags(immutable_uri(&self.path), flags | OpenFlags::SQLITE_OPEN_URI)?
        } else {
            Connection::open_with_flags(&self.path, flags)?
        };
        conn.busy_timeout(super::BUSY_TIMEOUT)?;
        conn.set_prepared_statement_cache_capacity(64);
        // Sorting must not leave content in temporary files.
        conn.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA cache_size = -1024;")?;
        Ok(conn)
    }

    /// Runs `action` with a connection, on a blocking thread.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        action: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> StoreResult<T> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())?;
        let pool = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let idle = lock(&pool.idle).pop();
            let conn = match idle {
                Some(conn) => conn,
                None => pool.open()?,
            };
            let result = action(&conn);
            if !pool.permits.is_closed() {
                lock(&pool.idle).push(conn);
            }
            drop(permit);
            result
        });
        match task.await {
            Ok(result) => result.map_err(StoreError::from),
            Err(error) => Err(StoreError::Unavailable(format!("a read did not finish: {error}"))),
        }
    }

    /// No reads from now on.
    pub(super) fn close(&self) {
        self.permits.close();
        lock(&self.idle).clear();
    }
}

fn immutable_uri(path: &std::path::Path) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                uri.push(char::from(*byte));
            }
            other => uri.push_str(&format!("%{other:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}
