//! The files of a data directory: the lock, the database file, the reserve.
//!
//! The lock file keeps a second daemon out. The reserve keeps real blocks that are given up when the disk is full, so
//! that running turns can still be ended in the log.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use crate::{StoreError, StoreResult};

/// Bytes of the reserve.
pub(super) const RESERVE_BYTES: u64 = 4 << 20;

/// Names in the data directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
}

impl Layout {
    pub(super) fn database(&self) -> PathBuf {
        self.dir.join("gander.db")
    }

    pub(super) fn wal(&self) -> PathBuf {
        self.dir.join("gander.db-wal")
    }

    fn lock(&self) -> PathBuf {
        self.dir.join("gander.lock")
    }

    fn reserve(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    /// Creates the directory for its owner only.
    pub(super) fn create(&self) -> StoreResult<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.dir).map_err(|e| io_error(&e, "create", &self.dir))
    }

    /// Creates the database file for its owner only; SQLite gives its companions the same mode.
    ///
    /// The handle must outlive every connection: closing any descriptor of the file gives up SQLite's locks on it.
    pub(super) fn create_database(&self) -> StoreResult<File> {
        let path = self.database();
        let file = private().open(&path).map_err(|e| io_error(&e, "open", &path))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode =
                file.metadata().map_err(|e| io_error(&e, "read the mode of", &path))?.permissions().mode();
            if mode & 0o077 != 0 {
                file.set_permissions(fs::Permissions::from_mode(0o600))
                    .map_err(|e| io_error(&e, "restrict the mode of", &path))?;
            }
        }
        Ok(file)
    }

    /// Takes the directory for this process, until the file is dropped.
    ///
    /// # Errors
    /// [`StoreError::Owned`] with the holder's process id, 0 when the holder has not written it yet.
    pub(super) fn take_lock(&self) -> StoreResult<File> {
        let path = self.lock();
        let mut file = private().open(&path).map_err(|e| io_error(&e, "open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(StoreError::Owned { pid: pid.unwrap_or(0) });
            }
            Err(TryLockError::Error(e)) => return Err(io_error(&e, "lock", &path)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        // A full disk must not keep the daemon from starting: the pid is for people, the lock itself holds.
        if let Err(error) = write(&mut file) {
            tracing::warn!(%error, path = %path.display(), "the process id was not written to the lock file");
        }
        Ok(file)
    }

    /// Makes the reserve unless it is there. Fails without leaving anything when the disk has less than twice its room.
    pub(super) fn make_reserve(&self) -> io::Result<()> {
        let path = self.reserve();
        if fs::metadata(&path).is_ok_and(|m| m.len() == RESERVE_BYTES) {
            return Ok(());
        }
        if self.free_bytes().is_some_and(|free| free < 2 * RESERVE_BYTES) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let made = private().truncate(true).open(&path).and_then(|mut file| {
            // Not zeros: file systems that compress or skip them would set no blocks aside.
            let mut block = vec![0_u8; 64 << 10];
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            for _ in 0..RESERVE_BYTES / block.len() as u64 {
                for chunk in block.chunks_exact_mut(8) {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    chunk.copy_from_slice(&state.to_le_bytes());
                }
                file.write_all(&block)?;
            }
            file.sync_all()
        });
        if made.is_err() {
            let _ = fs::remove_file(&path);
        }
        made
    }

    /// Gives the reserve up; whether there was one.
    pub(super) fn release_reserve(&self) -> bool {
        fs::remove_file(self.reserve()).is_ok()
    }

    /// Room for this user on the file system, where that is known.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        #[cfg(unix)]
        {
            let stat = rustix::fs::statvfs(&self.dir).ok()?;
            Some(stat.f_bavail.saturating_mul(stat.f_frsize))
        }
        #[cfg(not(unix))]
        None
    }
}

/// Bytes of a file, 0 when there is none. Never opens it.
pub(super) fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

fn private() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn io_error(error: &io::Error, what: &str, path: &Path) -> StoreError {
    let text = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => StoreError::ReadOnly(text),
        _ => StoreError::Unavailable(text),
    }
}
