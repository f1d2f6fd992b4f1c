//! Files on disk: reading with a change stamp, and the one way to write: lock, re-read, change, temporary file in
//! the same directory, fsync, rename.
//!
//! A lock is `flock` on a hidden file beside the real file, so it disappears with its holder. Links are followed
//! first: a linked `config.yaml` stays a link and its target is replaced. Everything here blocks; from async code
//! call it on a blocking thread.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{ConfigError, io};
use crate::paths::create_private_dir;

/// How long a writer waits for another one.
pub(crate) const LOCK_DEADLINE: Duration = Duration::from_secs(5);
/// How often a waiting writer tries again.
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// Mode of files that are made here. Settings may hold values that are nobody else's business.
const NEW_FILE_MODE: u32 = 0o600;
/// Configuration is read whole; a file beyond this is a mistake (a device, a log).
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// What identifies one state of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    pub(crate) modified: (i64, i64),
    changed: (i64, i64),
    pub(crate) mode: u32,
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            mode: meta.mode() & 0o7777,
        }
    }
}

/// The present stamp of `path`; `None` when there is no such file.
pub(crate) fn stamp(path: &Path) -> Result<Option<Stamp>, ConfigError> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(Stamp::of(&meta))),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// The content with the stamp it had when it was opened; `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<(Stamp, Vec<u8>)>, ConfigError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(io("read", path)(error)),
    };
    let stamp = Stamp::of(&file.metadata().map_err(io("read", path))?);
    let mut content = Vec::new();
    let read = (&mut file).take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(io("read", path))?;
    if read as u64 > MAX_FILE_BYTES {
        let error = std::io::Error::new(ErrorKind::FileTooLarge, "it is larger than 8 MiB");
        return Err(io("read", path)(error));
    }
    Ok(Some((stamp, content)))
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// How a file is to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteRules {
    /// Mode of the result; `None` keeps the present one, or 0600 for a new file.
    pub(crate) mode: Option<u32>,
    pub(crate) deadline: Duration,
}

/// Changes the file at `path` under its lock. `change` gets the present content (empty when there is no file) and
/// returns the new one with a result for the caller, or `None` to leave the file alone.
pub(crate) fn update<T>(
    path: &Path,
    rules: WriteRules,
    change: impl FnOnce(&[u8]) -> Result<(Option<Vec<u8>>, T), ConfigError>,
) -> Result<T, ConfigError> {
    let real = follow_links(path)?;
    let dir = real.parent().unwrap_or(Path::new("/"));
    create_private_dir(dir)?;
    let _lock = lock(&real, rules.deadline)?;
    let present = read(&real)?;
    let (mode, content) = match &present {
        Some((stamp, content)) => (stamp.mode, content.as_slice()),
        None => (NEW_FILE_MODE, &[][..]),
    };
    let (new, result) = change(content)?;
    if let Some(new) = new {
        replace(&real, dir, &new, rules.mode.unwrap_or(mode))?;
    }
    Ok(result)
}

/// Replaces `path` by a file with `content`, in one step: a reader sees the old or the new one.
fn replace(path: &Path, dir: &Path, content: &[u8], mode: u32) -> Result<(), ConfigError> {
    let mut temporary = tempfile::Builder::new()
        .prefix(".gander-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(io("create a file in", dir))?;
    temporary.write_all(content).map_err(io("write", path))?;
    let file = temporary.as_file();
    file.set_permissions(Permissions::from_mode(mode)).map_err(io("set the mode of", path))?;
    file.sync_all().map_err(io("write", path))?;
    temporary.persist(path).map_err(|error| io("replace", path)(error.error))?;
    sync_dir(dir)
}

/// Makes a rename or link in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), ConfigError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync directory", dir))
}

/// Takes the lock that stands for `path`, which need not exist itself. It is free again when the result is dropped.
pub(crate) fn lock_for(path: &Path, deadline: Duration) -> Result<File, ConfigError> {
    create_private_dir(path.parent().unwrap_or(Path::new("/")))?;
    lock(path, deadline)
}

fn lock(real: &Path, deadline: Duration) -> Result<File, ConfigError> {
    let name = real.file_name().unwrap_or_default().to_string_lossy();
    let path = real.with_file_name(format!(".{name}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io("open lock file", &path))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => return Err(ConfigError::LockTimeout { path, waited: deadline }),
            Err(TryLockError::Error(error)) => return Err(io("lock", &path)(error)),
        }
    }
}

/// The file that `path` stands for, also when the link's target does not exist yet.
fn follow_links(path: &Path) -> Result<PathBuf, ConfigError> {
    const MOST_LINKS: usize = 40;
    let mut real = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&real) {
            Ok(target) => {
                real = real.parent().map_or_else(|| target.clone(), |dir| dir.join(&target));
            }
            Err(_) => return Ok(real),
        }
    }
    Err(io("follow links of", path)(std::io::Error::other("too many links")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> WriteRules {
        WriteRules { mode: None, deadline: LOCK_DEADLINE }
    }

    #[test]
    fn new_files_are_private_and_modes_are_kept() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("sub/config.yaml");
        let put = |text: &'static str, rules| {
            update(&path, rules, |_| Ok((Some(text.as_bytes().to_vec()), ()))).unwrap();
            stamp(&path).unwrap().unwrap().mode
        };
        assert_eq!(put("a", rules()), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(put("b", rules()), 0o644);
        assert_eq!(put("c", WriteRules { mode: Some(0o600), ..rules() }), 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"c");
        let mut names: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".config.yaml.lock", "config.yaml"], "no temporary file is left");
    }

    #[test]
    fn links_stay_links() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("dotfiles")).unwrap();
        let (link, second) = (temp.path().join("config.yaml"), temp.path().join("second"));
        std::os::unix::fs::symlink("second", &link).unwrap();
        std::os::unix::fs::symlink("dotfiles/real.yaml", &second).unwrap();
        for text in ["one", "two"] {
            update(&link, rules(), |_| Ok((Some(text.as_bytes().to_vec()), ()))).unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert!(fs::symlink_metadata(&second).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(temp.path().join("dotfiles/real.yaml")).unwrap(), text);
        }
        std::os::unix::fs::symlink("loop", temp.path().join("loop")).unwrap();
        assert!(update(&temp.path().join("loop"), rules(), |_| Ok((None, ()))).is_err());
    }

    #[test]
    fn a_held_lock_is_an_error_after_the_deadline() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("config.yaml");
        let short = WriteRules { mode: None, deadline: Duration::from_millis(20) };
        let result = update(&path, rules(), |_| {
            let inner = update(&path, short, |_| Ok((Some(b"x".to_vec()), ())));
            Ok((None, inner))
        })
        .unwrap();
        assert!(matches!(result, Err(ConfigError::LockTimeout { .. })));
        assert!(!path.exists());
        update(&path, short, |_| Ok((Some(b"x".to_vec()), ()))).unwrap();
    }

    #[test]
    fn a_failed_change_leaves_the_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("config.yaml");
        fs::write(&path, "keep").unwrap();
        let result: Result<(), _> = update(&path, rules(), |_| Err(ConfigError::NoHome));
        assert!(result.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"keep");
    }

    #[test]
    fn a_huge_file_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("config.yaml");
        File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("8 MiB"));
    }
}
