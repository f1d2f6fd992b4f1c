//! Backup of `config.yaml` and recovery from it, for the time when the file no longer parses.
//!
//! Works on files only, so that it helps when [`crate::ConfigHandle::open`] refuses to start. Nothing is lost: a
//! file that is replaced is kept beside under another name.

use std::path::{Path, PathBuf};

use crate::document;
use crate::error::{ConfigError, io};
use crate::file::{self, LOCK_DEADLINE, WriteRules};
use crate::layers::Layer;
use crate::paths::Paths;

/// What [`recover`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The file was fine.
    NotNeeded,
    /// The backup took its place; the malformed file is kept at this path.
    Restored {
        /// Where the malformed content is now.
        malformed: PathBuf,
    },
}

/// Checks that `config.yaml` can be used. A missing file is fine.
///
/// # Errors
/// What is wrong, with line and column.
pub fn validate(paths: &Paths) -> Result<(), ConfigError> {
    let path = paths.config_file();
    match file::read(&path)? {
        Some((_, content)) => Layer::parse(&path, &content).map(drop),
        None => Ok(()),
    }
}

/// Copies `config.yaml` to `config.yaml.bak` and returns that path; `None` when there is nothing to copy.
///
/// # Errors
/// The file does not parse (a good backup is not replaced by a bad one), or cannot be copied.
pub fn backup(paths: &Paths) -> Result<Option<PathBuf>, ConfigError> {
    let (path, copy) = (paths.config_file(), backup_file(paths));
    let Some((stamp, content)) = file::read(&path)? else { return Ok(None) };
    Layer::parse(&path, &content)?;
    put(&copy, content, stamp.mode)?;
    Ok(Some(copy))
}

/// Puts the backup in the place of a `config.yaml` that does not parse.
///
/// # Errors
/// There is no backup, or it does not parse either; then nothing was changed.
pub fn recover(paths: &Paths) -> Result<Recovery, ConfigError> {
    let (path, copy) = (paths.config_file(), backup_file(paths));
    let rules = WriteRules { mode: None, deadline: LOCK_DEADLINE };
    file::update(&path, rules, |present| {
        if document::text_of(&path, present).is_ok() && Layer::parse(&path, present).is_ok() {
            return Ok((None, Recovery::NotNeeded));
        }
        let Some((_, content)) = file::read(&copy)? else {
            return Err(io("read", &copy)(std::io::ErrorKind::NotFound.into()));
        };
        Layer::parse(&copy, &content)?;
        let malformed = free_name(paths)?;
        put(&malformed, present.to_vec(), 0o600)?;
        Ok((Some(content), Recovery::Restored { malformed }))
    })
}

fn backup_file(paths: &Paths) -> PathBuf {
    paths.config_dir().join("config.yaml.bak")
}

/// The first free name of `config.yaml.malformed`, `.malformed.1`, …
fn free_name(paths: &Paths) -> Result<PathBuf, ConfigError> {
    const MOST: u32 = 1000;
    let base = paths.config_dir().join("config.yaml.malformed");
    let names =
        std::iter::once(base.clone()).chain((1..MOST).map(|n| base.with_extension(format!("malformed.{n}"))));
    for name in names {
        if file::stamp(&name)?.is_none() {
            return Ok(name);
        }
    }
    Err(io("find a free name for", base)(std::io::ErrorKind::AlreadyExists.into()))
}

fn put(path: &Path, content: Vec<u8>, mode: u32) -> Result<(), ConfigError> {
    file::update(path, WriteRules { mode: Some(mode), deadline: LOCK_DEADLINE }, |_| Ok((Some(content), ())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use std::fs;

    #[test]
    fn a_malformed_file_is_replaced_by_the_backup_and_kept() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::resolve(Some(temp.path()), &Environment::default()).unwrap();
        assert_eq!(backup(&paths).unwrap(), None);
        paths.create_dirs().unwrap();
        fs::write(paths.config_file(), "a: [1\n").unwrap();
        assert!(validate(&paths).unwrap_err().to_string().contains("config.yaml:2:1"));
        assert!(backup(&paths).is_err());
        assert!(recover(&paths).is_err(), "no backup");

        fs::write(paths.config_file(), "a: 1 # good\n").unwrap();
        assert_eq!(recover(&paths).unwrap(), Recovery::NotNeeded);
        assert!(backup(&paths).unwrap().is_some());
        for (round, name) in ["config.yaml.malformed", "config.yaml.malformed.1"].iter().enumerate() {
            let bad = format!("a: [{round}\n");
            fs::write(paths.config_file(), &bad).unwrap();
            let malformed = paths.config_dir().join(name);
            assert_eq!(recover(&paths).unwrap(), Recovery::Restored { malformed: malformed.clone() });
            assert_eq!(fs::read_to_string(malformed).unwrap(), bad);
            assert_eq!(fs::read_to_string(paths.config_file()).unwrap(), "a: 1 # good\n");
            validate(&paths).unwrap();
        }
    }
}
