//! The user's versions of prompt templates: `<config>/prompts/<name>`, as Goose keeps them.
//!
//! The default texts belong to the engine; this module only stores what replaces them and does not look inside.

use std::fs;
use std::path::PathBuf;

use crate::error::{ConfigError, io};
use crate::file::{self, LOCK_DEADLINE, WriteRules};
use crate::paths::Paths;

/// The directory of replaced templates.
#[derive(Clone, Debug)]
pub struct PromptOverrides {
    dir: PathBuf,
}

impl PromptOverrides {
    /// The templates of this config directory.
    pub fn new(paths: &Paths) -> Self {
        Self { dir: paths.prompts_dir() }
    }

    /// The user's text for a template such as `system.md`.
    ///
    /// # Errors
    /// A bad name, an unreadable file, or text that is not UTF-8.
    pub fn get(&self, name: &str) -> Result<Option<String>, ConfigError> {
        let path = self.path(name)?;
        match file::read(&path)? {
            Some((_, bytes)) => Ok(Some(crate::document::text_of(&path, &bytes)?.to_owned())),
            None => Ok(None),
        }
    }

    /// Replaces a template.
    ///
    /// # Errors
    /// A bad name, or the file cannot be written.
    pub fn set(&self, name: &str, content: &str) -> Result<(), ConfigError> {
        let rules = WriteRules { mode: None, deadline: LOCK_DEADLINE };
        file::update(&self.path(name)?, rules, |_| Ok((Some(content.as_bytes().to_vec()), ())))
    }

    /// Goes back to the default; returns whether there was a replacement.
    ///
    /// # Errors
    /// A bad name, or the file cannot be removed.
    pub fn reset(&self, name: &str) -> Result<bool, ConfigError> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io("remove", path)(error)),
        }
    }

    /// Names become file names: letters, digits, `_` and `-` with the ending `.md` only.
    fn path(&self, name: &str) -> Result<PathBuf, ConfigError> {
        let stem = name.strip_suffix(".md").unwrap_or_default();
        let valid = !stem.is_empty()
            && stem.len() <= 64
            && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if valid {
            return Ok(self.dir.join(name));
        }
        Err(ConfigError::InvalidKey {
            key: name.to_owned(),
            reason: "a template is named like system.md, with letters, digits, _ and -".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;

    #[test]
    fn set_get_reset() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::resolve(Some(temp.path()), &Environment::default()).unwrap();
        let prompts = PromptOverrides::new(&paths);
        assert_eq!(prompts.get("system.md").unwrap(), None);
        assert!(!prompts.reset("system.md").unwrap());
        prompts.set("system.md", "Be {{ kind }}.").unwrap();
        assert_eq!(prompts.get("system.md").unwrap().as_deref(), Some("Be {{ kind }}."));
        assert!(prompts.reset("system.md").unwrap());
        assert_eq!(prompts.get("system.md").unwrap(), None);
        for name in ["", ".md", "../config.yaml", "../x.md", "a/b.md", "system.txt", "a\0.md"] {
            assert!(matches!(prompts.set(name, "x"), Err(ConfigError::InvalidKey { .. })), "{name:?}");
        }
    }
}
