//! Writing through a [`ConfigHandle`]: checks against the policy, one edit under the file's lock, then a new snapshot.

use std::path::Path;

use serde_json::Value;
use serde_yaml_ng::{Mapping, Value as Yaml};

use super::{ConfigHandle, WriteOutcome};
use crate::document::{self, json_kind, to_yaml};
use crate::edit::{self, EditError, Target};
use crate::error::ConfigError;
use crate::file::{self, WriteRules};
use crate::keys::{EXTENSIONS_KEY, MODEL_KEY, PROVIDER_KEY, is_secret_name};
use crate::layers::{Origin, WriteEffect};
use crate::permissions::{RuleDecision, USER_SECTION, project_section, section_with};
use crate::policy::Policy;
use crate::secrets::SecretOrigin;

const LONGEST_KEY: usize = 256;
const SECRET_MODE: u32 = 0o600;

/// What happened to the file.
struct Written {
    changed: bool,
    formatting_kept: bool,
}

impl Written {
    fn outcome(&self, shadowed_by: Option<Origin>) -> WriteOutcome {
        WriteOutcome {
            effective: shadowed_by.is_none(),
            shadowed_by,
            changed: self.changed,
            formatting_kept: self.formatting_kept,
        }
    }
}

impl ConfigHandle {
    /// Stores `value` in the user's `config.yaml`.
    ///
    /// # Errors
    /// The key is locked, names a secret or is not usable; the policy forbids the value; the file is malformed or
    /// cannot be written. Then nothing was changed.
    pub fn set(&self, key: &str, value: &Value) -> Result<WriteOutcome, ConfigError> {
        self.refresh();
        let config = self.current();
        check_key(key)?;
        if key == EXTENSIONS_KEY {
            return Err(own_accessor());
        }
        if is_secret_name(key) {
            return Err(ConfigError::SecretKey { key: key.to_owned() });
        }
        check_lock(config.policy(), key)?;
        match (key, value) {
            (PROVIDER_KEY, Value::String(id)) => config.policy().check_provider(id)?,
            (MODEL_KEY, Value::String(id)) => config.policy().check_model(id)?,
            _ => {}
        }
        self.write_config(Target::Top(key), Some(value), key)
    }

    /// Removes `key` from the user's `config.yaml`. Works for secrets that were put there by mistake, too.
    ///
    /// # Errors
    /// As [`ConfigHandle::set`]. A key that is not there is no error.
    pub fn unset(&self, key: &str) -> Result<WriteOutcome, ConfigError> {
        self.refresh();
        check_key(key)?;
        if key == EXTENSIONS_KEY {
            return Err(own_accessor());
        }
        check_lock(self.current().policy(), key)?;
        self.write_config(Target::Top(key), None, key)
    }

    /// Puts, replaces or (`None`) removes one entry of the mapping below `top_key`, such as one of `extensions`.
    ///
    /// # Errors
    /// As [`ConfigHandle::set`]; the value below `top_key` is not a mapping; the policy does not allow this extension.
    pub fn edit_map_entry(
        &self,
        top_key: &str,
        entry_key: &str,
        value: Option<&Value>,
    ) -> Result<WriteOutcome, ConfigError> {
        self.refresh();
        let config = self.current();
        check_key(top_key)?;
        check_key(entry_key)?;
        if is_secret_name(top_key) {
            return Err(ConfigError::SecretKey { key: top_key.to_owned() });
        }
        check_lock(config.policy(), top_key)?;
        if top_key == EXTENSIONS_KEY
            && let Some(value) = value
        {
            check_extension(config.policy(), &self.paths().config_file(), entry_key, value)?;
        }
        let outcome = self.write_config(Target::Nested(top_key, entry_key), value, top_key)?;
        if top_key == EXTENSIONS_KEY && value.is_none() {
            let left = self.current().extensions().into_iter().find(|(key, _)| key == entry_key);
            let shadowed_by = left.map(|(_, entry)| entry.origin);
            return Ok(WriteOutcome { effective: shadowed_by.is_none(), shadowed_by, ..outcome });
        }
        Ok(outcome)
    }

    /// Stores a secret in `secrets.yaml`, mode 0600.
    ///
    /// # Errors
    /// The name or value is not usable; the file is malformed or cannot be written.
    pub fn set_secret(&self, key: &str, value: &str) -> Result<WriteOutcome, ConfigError> {
        check_key(key)?;
        if value.is_empty() {
            return Err(ConfigError::InvalidKey {
                key: key.to_owned(),
                reason: "its value is empty; use `delete_secret` to remove it".to_owned(),
            });
        }
        self.write_secret(key, Some(&Yaml::String(value.to_owned())))
    }

    /// Removes a secret from `secrets.yaml`. One that is not there is no error; one in the environment stays.
    ///
    /// # Errors
    /// As [`ConfigHandle::set_secret`].
    pub fn delete_secret(&self, key: &str) -> Result<WriteOutcome, ConfigError> {
        check_key(key)?;
        self.write_secret(key, None)
    }

    /// Puts a pattern into exactly one list of `permission.yaml`, or (`None`) into none. Other sections stay.
    ///
    /// # Errors
    /// The pattern is not usable; the file is malformed or cannot be written.
    pub fn set_rule(&self, pattern: &str, decision: Option<RuleDecision>) -> Result<(), ConfigError> {
        self.set_rule_in(USER_SECTION, pattern, decision)
    }

    /// The same for work in and below a directory.
    ///
    /// # Errors
    /// As [`ConfigHandle::set_rule`]; a directory that is no absolute path or too long.
    pub fn set_project_rule(
        &self,
        directory: &str,
        pattern: &str,
        decision: Option<RuleDecision>,
    ) -> Result<(), ConfigError> {
        if !Path::new(directory).is_absolute() {
            let reason = "the directory of a project must be an absolute path".to_owned();
            return Err(ConfigError::InvalidKey { key: directory.to_owned(), reason });
        }
        let section = project_section(directory);
        if section.chars().any(char::is_control) {
            let reason = "the directory of a project must not hold control characters".to_owned();
            return Err(ConfigError::InvalidKey { key: directory.to_owned(), reason });
        }
        self.set_rule_in(&section, pattern, decision)
    }

    fn set_rule_in(
        &self,
        section: &str,
        pattern: &str,
        decision: Option<RuleDecision>,
    ) -> Result<(), ConfigError> {
        check_key(pattern)?;
        let path = self.paths().permission_file();
        self.write(&path, None, |document| {
            if decision.is_none() && document.get(section).is_none() {
                return Ok((Target::Top(section), None));
            }
            let lists = section_with(&path, document, section, pattern, decision)?;
            Ok((Target::Top(section), Some(Yaml::Mapping(lists))))
        })?;
        Ok(())
    }

    fn write_config(
        &self,
        target: Target<'_>,
        value: Option<&Value>,
        top_key: &str,
    ) -> Result<WriteOutcome, ConfigError> {
        let value = value.map(to_yaml);
        let written = self.write(&self.paths().config_file(), None, |_| Ok((target, value)))?;
        let shadowed_by = self
            .current()
            .get(top_key)
            .map(|entry| entry.origin)
            .filter(|origin| origin.write_effect() != WriteEffect::Effective);
        Ok(written.outcome(shadowed_by))
    }

    fn write_secret(&self, key: &str, value: Option<&Yaml>) -> Result<WriteOutcome, ConfigError> {
        let path = self.paths().secrets_file();
        let written = self.write(&path, Some(SECRET_MODE), |_| Ok((Target::Top(key), value.cloned())))?;
        let shadowed_by = match self.secret_status(key).origin {
            Some(SecretOrigin::Environment { variable }) => Some(Origin::Environment { variable }),
            _ => None,
        };
        Ok(written.outcome(shadowed_by))
    }

    /// Changes one entry of the file at `path`, then takes the new content into the snapshot.
    fn write<'a>(
        &self,
        path: &Path,
        mode: Option<u32>,
        change: impl FnOnce(&Mapping) -> Result<(Target<'a>, Option<Yaml>), ConfigError>,
    ) -> Result<Written, ConfigError> {
        let rules = WriteRules { mode, deadline: self.0.lock_deadline };
        let written = file::update(path, rules, |content| {
            let text = document::text_of(path, content)?;
            let before = document::parse_text(path, text)?;
            let (target, value) = change(&before)?;
            let edited = edit::edit(text, &before, target, value.as_ref())
                .map_err(|error| edit_error(path, target, error))?;
            Ok(match edited {
                Some(edited) => {
                    let written = Written { changed: true, formatting_kept: edited.formatting_kept };
                    (Some(edited.text.into_bytes()), written)
                }
                None => (None, Written { changed: false, formatting_kept: true }),
            })
        })?;
        self.look(&mut self.state(), true);
        Ok(written)
    }
}

fn edit_error(path: &Path, target: Target<'_>, error: EditError) -> ConfigError {
    let (Target::Top(key) | Target::Nested(key, _)) = target;
    match error {
        EditError::NotAMapping(found) => ConfigError::Shape {
            path: path.to_path_buf(),
            field: key.to_owned(),
            expected: "a mapping",
            found,
        },
        EditError::Unwritable(reason) => {
            ConfigError::InvalidKey { key: key.to_owned(), reason: format!("it cannot be written: {reason}") }
        }
    }
}

fn check_key(key: &str) -> Result<(), ConfigError> {
    let reason = if key.is_empty() {
        "it is empty"
    } else if key.len() > LONGEST_KEY {
        "it is longer than 256 bytes"
    } else if key.trim() != key || key.chars().any(char::is_control) {
        "it has blanks at an end or control characters"
    } else {
        return Ok(());
    };
    Err(ConfigError::InvalidKey { key: key.to_owned(), reason: reason.to_owned() })
}

fn own_accessor() -> ConfigError {
    ConfigError::InvalidKey {
        key: EXTENSIONS_KEY.to_owned(),
        reason: "extensions are edited one by one, with `edit_map_entry`".to_owned(),
    }
}

fn check_lock(policy: &Policy, key: &str) -> Result<(), ConfigError> {
    if policy.value(key).is_none() {
        return Ok(());
    }
    Err(ConfigError::ReadOnly {
        key: key.to_owned(),
        origin: policy.origin(),
        remedy: "ask the administrator of this machine to change the policy".to_owned(),
    })
}

fn check_extension(policy: &Policy, file: &Path, name: &str, value: &Value) -> Result<(), ConfigError> {
    let Value::Object(fields) = value else {
        return Err(ConfigError::WrongType {
            key: format!("{EXTENSIONS_KEY}.{name}"),
            expected: "a mapping".to_owned(),
            found: json_kind(value),
            origin: Origin::User { path: file.to_path_buf() },
        });
    };
    let text = |field: &str| fields.get(field).and_then(Value::as_str);
    // Inline code starts an interpreter: it counts as a command of that name.
    let command = match text("type") {
        Some("inline_python") => Some("inline_python"),
        _ => text("cmd"),
    };
    policy.check_extension(name, command, text("uri"))
}
