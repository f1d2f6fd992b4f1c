//! The embedded store: one SQLite file per data directory, one process that writes it.
//!
//! Writing goes through one connection and one queue (`writer`), reading through a few others (`pool`); checkpoints and
//! erasing run in a thread of their own (`upkeep`). A data directory holds `gander.db` with its `-wal` and `-shm`,
//! `gander.lock` with the owner's process id, and `reserve`, whose blocks are given up when the disk is full.
//! WAL with `synchronous=NORMAL`: what was acknowledged survives the death of the process; a power cut may lose the end.

mod apply;
mod check;
mod fault;
mod files;
mod pool;
mod read;
mod schema;
mod scrub;
mod search;
mod store;
mod upkeep;
mod work;
mod writer;

use std::{
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use self::{
    fault::{Fault, closed},
    files::Layout,
    pool::Pool,
    writer::{Db, Writer, lock},
};
use crate::{StoreError, StoreResult};

/// How long a statement waits for other programs that hold the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How to open a data directory.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Created, for its owner only, unless it is there.
    pub data_dir: PathBuf,
    /// Takes no lock and writes nothing: for checks beside a running daemon. Everything that writes fails.
    pub read_only: bool,
    /// For tests: the database may not have more pages (of 4 KiB), as if the disk ended there.
    pub max_pages: Option<u64>,
}

impl OpenOptions {
    /// Options for reading and writing `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), read_only: false, max_pages: None }
    }

    /// The same for reading only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

/// The SQLite store. Close it with [`crate::Store::close`]; dropping it stops its threads as well, and waits for them.
pub struct SqliteStore {
    layout: Layout,
    pool: Arc<Pool>,
    /// `None` when read-only.
    writer: Option<Arc<Writer>>,
    running: Mutex<Option<Running>>,
}

/// What ends with the store. Fields are dropped in this order; the lock must go last.
struct Running {
    threads: Vec<JoinHandle<()>>,
    writer: Arc<Writer>,
    /// Must outlive every connection of this process: closing it gives up SQLite's locks on the file.
    _raw: Arc<File>,
    _lock: File,
}

impl SqliteStore {
    /// Opens a data directory, bringing its schema up to date. Blocks for some milliseconds, longer after a crash.
    ///
    /// # Errors
    /// [`StoreError::Owned`] when another process has it, [`StoreError::Newer`] when a newer build wrote it,
    /// [`StoreError::ReadOnly`] when it cannot be written, [`StoreError::Corrupt`] when it is damaged.
    pub fn open(options: OpenOptions) -> StoreResult<Arc<Self>> {
        let layout = Layout { dir: options.data_dir };
        if options.read_only {
            return Self::open_read_only(layout);
        }
        layout.create()?;
        let lock_file = layout.take_lock()?;
        let raw = Arc::new(layout.create_database()?);
        let max_pages = options.max_pages.unwrap_or(0);
        let mut conn = open_writer(&layout, max_pages)?;
        let upkeep_conn = open_upkeep(&layout)?;
        schema::migrate(&mut conn)?;
        // What a crash left of erased sessions goes before anything else is written.
        let emptied = match upkeep::truncate_wal(&conn) {
            Err(fault) if fault.is_full() && layout.release_reserve() => upkeep::truncate_wal(&conn)?,
            other => other?,
        };
        if !emptied {
            tracing::warn!("another program reads the database; its write-ahead log was not emptied");
        }
        let (erasing, unpurged) = unfinished_erasures(&conn)?;
        let epoch = take_ownership(&conn)?;
        let pool = Arc::new(Pool::new(layout.database(), false));
        let writer = Arc::new(Writer::new(layout.clone(), Db::new(conn, epoch), max_pages));
        if let Err(error) = layout.make_reserve() {
            tracing::warn!(%error, "the reserve could not be made; the disk counts as full");
            writer.set_full();
        }
        for key in erasing {
            writer.upkeep.erase(key, None);
        }
        if unpurged {
            writer.upkeep.purge(None);
        }
        let threads = vec![
            spawn("gander-store-writer", {
                let writer = Arc::clone(&writer);
                move || writer.run()
            })?,
            spawn("gander-store-upkeep", {
                let (writer, raw) = (Arc::clone(&writer), Arc::clone(&raw));
                move || upkeep::run(&writer, &upkeep_conn, &raw)
            })
            .inspect_err(|_| writer.begin_close())?,
        ];
        let running = Running { threads, writer: Arc::clone(&writer), _raw: raw, _lock: lock_file };
        Ok(Arc::new(Self { layout, pool, writer: Some(writer), running: Mutex::new(Some(running)) }))
    }

    fn open_read_only(layout: Layout) -> StoreResult<Arc<Self>> {
        let path = layout.database();
        if !path.is_file() {
            return Err(StoreError::Unavailable(format!("there is no database at {}", path.display())));
        }
        let open = |immutable| {
            let pool = Pool::new(layout.database(), immutable);
            let conn = pool.open()?;
            schema::check_version(&conn)?;
            Ok::<_, Fault>(pool)
        };
        // Without a WAL and in a directory that cannot be written, only the file itself can be read.
        let pool = match open(false) {
            Err(Fault::Sqlite(error))
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::CannotOpen)
                    && files::file_bytes(&layout.wal()) == 0 =>
            {
                open(true)?
            }
            other => other?,
        };
        Ok(Arc::new(Self { layout, pool: Arc::new(pool), writer: None, running: Mutex::new(None) }))
    }

    /// For tests: changes the limit of [`OpenOptions::max_pages`], as if the disk had grown.
    #[doc(hidden)]
    pub fn set_max_pages(&self, pages: u64) {
        if let Some(writer) = &self.writer {
            writer.max_pages.store(pages, Relaxed);
        }
    }

    fn writer(&self) -> StoreResult<&Arc<Writer>> {
        self.writer.as_ref().ok_or_else(|| StoreError::ReadOnly("it was opened for reading only".to_owned()))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.pool.close();
        if let Some(running) = lock(&self.running).take() {
            running.stop();
        }
    }
}

impl Running {
    /// Waits for the threads, closes the database (which empties and removes the WAL), releases the lock.
    fn stop(self) {
        self.writer.begin_close();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        let conn = self.writer.with_db(|db| db.conn.take());
        if let Some(conn) = conn {
            if let Err(fault) = upkeep::truncate_wal(&conn) {
                let error = StoreError::from(fault);
                tracing::warn!(%error, "the write-ahead log was not emptied; the next start does it");
            }
            conn.flush_prepared_statement_cache();
            if let Err((_, error)) = conn.close() {
                tracing::warn!(%error, "the database was not closed cleanly");
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> StoreResult<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|e| StoreError::Unavailable(format!("thread {name} cannot be started: {e}")))
}

fn open_connection(layout: &Layout) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(layout.database(), flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

fn open_writer(layout: &Layout, max_pages: u64) -> Result<Connection, Fault> {
    let conn = open_connection(layout)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let text = format!("the file system of {} cannot hold a write-ahead log", layout.dir.display());
        return Err(StoreError::Unavailable(text).into());
    }
    conn.execute_batch(
        "PRAGMA synchronous = NORMAL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA secure_delete = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -4096;",
    )?;
    if max_pages > 0 {
        conn.pragma_update(None, "max_page_count", i64::try_from(max_pages).unwrap_or(i64::MAX))?;
    }
    Ok(conn)
}

fn open_upkeep(layout: &Layout) -> Result<Connection, Fault> {
    let conn = open_connection(layout)?;
    conn.execute_batch(
        "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -256;",
    )?;
    Ok(conn)
}

/// Sessions that were deleted but not erased, and whether erased bytes may be left in the file.
fn unfinished_erasures(conn: &Connection) -> Result<(Vec<i64>, bool), Fault> {
    let keys = conn
        .prepare("SELECT session FROM erasing")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let unpurged =
        conn.query_row("SELECT EXISTS (SELECT 1 FROM meta WHERE key = 'unpurged')", [], |row| row.get(0))?;
    Ok((keys, unpurged))
}

/// Marks the directory as ours; an earlier owner that still lives finds another epoch.
fn take_ownership(conn: &Connection) -> Result<i64, Fault> {
    let instance = uuid::Uuid::now_v7().to_string();
    let epoch = conn.query_row(
        "UPDATE owner SET instance_id = ?1, epoch = epoch + 1 RETURNING epoch",
        [instance],
        |row| row.get(0),
    )?;
    Ok(epoch)
}

/// Closes within the deadline, on a blocking thread.
async fn close(store: &SqliteStore, deadline: Duration) -> StoreResult<()> {
    store.pool.close();
    let Some(running) = lock(&store.running).take() else { return Ok(()) };
    running.writer.begin_close();
    let stop = tokio::task::spawn_blocking(move || running.stop());
    match tokio::time::timeout(deadline, stop).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(StoreError::Unavailable(format!("closing failed: {error}"))),
        Err(_) => {
            let text =
                format!("the store did not close within {} ms; it goes on closing", deadline.as_millis());
            Err(StoreError::Unavailable(text))
        }
    }
}

/// The answer of reads after [`crate::Store::close`].
fn check_open(store: &SqliteStore) -> StoreResult<()> {
    match (&store.writer, lock(&store.running).is_none()) {
        (Some(_), true) => Err(closed()),
        _ => Ok(()),
    }
}
