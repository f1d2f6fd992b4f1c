//! Definitions of the user's own providers: one JSON document each, written whole.
//!
//! What is in a document is nobody's business here; its name is checked, since it becomes a file's.

use std::path::PathBuf;

use super::ConfigHandle;
use crate::error::ConfigError;
use crate::file::{self, WriteRules};

const MODE: u32 = 0o600;

impl ConfigHandle {
    fn custom_provider_file(&self, name: &str) -> Result<PathBuf, ConfigError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 128 || name.starts_with('-') || !name.chars().all(plain) {
            return Err(ConfigError::InvalidKey {
                key: name.to_owned(),
                reason: "a provider's name has lower-case letters, digits, `_` and `-`".to_owned(),
            });
        }
        Ok(self.paths().custom_providers_dir().join(format!("{name}.json")))
    }

    /// Stores the definition of a provider in a file of its own.
    ///
    /// # Errors
    /// The name is not usable, or the file cannot be written. Then nothing was changed.
    pub fn write_custom_provider(&self, name: &str, document: &str) -> Result<(), ConfigError> {
        let path = self.custom_provider_file(name)?;
        let rules = WriteRules { mode: Some(MODE), deadline: self.0.lock_deadline };
        file::update(&path, rules, |_| Ok((Some(document.as_bytes().to_vec()), ())))
    }

    /// Removes the definition of a provider; whether there was one.
    ///
    /// # Errors
    /// The name is not usable, or the file cannot be removed.
    pub fn remove_custom_provider(&self, name: &str) -> Result<bool, ConfigError> {
        let path = self.custom_provider_file(name)?;
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(ConfigError::Io { action: "remove", path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{ConfigHandle, ConfigOptions, Environment, Paths};

    #[test]
    fn definitions_are_files_with_checked_names() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::resolve(Some(directory.path()), &Environment::default()).unwrap();
        let config = ConfigHandle::open(ConfigOptions::new(paths.clone(), Environment::default())).unwrap();
        config.write_custom_provider("custom_mine", "{\"a\":1}\n").unwrap();
        config.write_custom_provider("custom_mine", "{\"a\":2}\n").unwrap();
        let path = paths.custom_providers_dir().join("custom_mine.json");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":2}\n");
        assert!(config.remove_custom_provider("custom_mine").unwrap());
        assert!(!config.remove_custom_provider("custom_mine").unwrap());
        for name in ["", "../x", "a/b", "UPPER", "-x", "a.b"] {
            assert!(config.write_custom_provider(name, "{}").is_err(), "{name}");
        }
    }
}
