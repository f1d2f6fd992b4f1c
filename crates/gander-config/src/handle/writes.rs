//! Writing through a [`ConfigHandle`]: checks against the policy, one edit under the file's lock, then a new snapshot.

use std::path::Path;

use serde_json::Value;
use serde_yaml_ng::{Mapping, Value as Yaml};

use super::secrets::{STORE_KEY, Store, store_error};
use super::{ConfigHandle, WriteOutcome};
use crate::document::{self, json_kind, to_yaml};
use crate::edit::{self, EditError, Target};
use crate::error::ConfigError;
use crate::file::{self, WriteRules};
use crate::keys::{EXTENSIONS_KEY, KNOWN_KEYS, MODEL_KEY, PROVIDER_KEY, is_secret_name, known_key};
use crate::layers::{Origin, WriteEffect};
use crate::permissions::{RuleDecision, USER_SECTION, project_section, section_with};
use crate::policy::Policy;

const LONGEST_KEY: usize = 256;
/// Settings that no other program has begin so.
const OWN_PREFIX: &str = "gander.";
/// Names that are this alike (Jaro-Winkler, from 0 to 1) are taken for a slip of the pen.
const ALIKE: f64 = 0.93;

/// What happened to the file.
pub(super) struct Written {
    pub(super) changed: bool,
    pub(super) formatting_kept: bool,
}

impl Written {
    pub(super) fn outcome(&self, shadowed_by: Option<Origin>) -> WriteOutcome {
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
        check_value(key, value)?;
        match (key, value) {
            (PROVIDER_KEY, Value::String(id)) => config.policy().check_provider(id)?,
            (MODEL_KEY, Value::String(id)) => config.policy().check_model(id)?,
            (STORE_KEY, value) => return self.set_store(value),
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
        if key == STORE_KEY {
            let config = self.current();
            let default = config.distribution.get(key).and_then(Value::as_str).and_then(Store::parse);
            return self.change_store(default.unwrap_or(Store::File), None);
        }
        self.write_config(Target::Top(key), None, key)
    }

    fn set_store(&self, value: &Value) -> Result<WriteOutcome, ConfigError> {
        let to = value.as_str().and_then(Store::parse);
        let user = || Origin::User { path: self.paths().config_file() };
        self.change_store(to.ok_or_else(|| store_error(value, user()))?, Some(value))
    }

    /// Writes the setting that chooses the store of secrets, and moves them where it rules.
    fn change_store(&self, to: Store, value: Option<&Value>) -> Result<WriteOutcome, ConfigError> {
        let config = self.current();
        let write = || self.write_config(Target::Top(STORE_KEY), value, STORE_KEY);
        let rules = config.get(STORE_KEY).is_none_or(|e| e.origin.write_effect() == WriteEffect::Effective);
        // A setting that nobody understood had the file.
        let now = self.store().unwrap_or(Store::File);
        if rules && now != to && !self.keyring_disabled() { self.move_secrets(to, write) } else { write() }
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

    /// Changes one entry of the file at `path`, then takes the new content into the snapshot.
    pub(super) fn write<'a>(
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

pub(super) fn check_key(key: &str) -> Result<(), ConfigError> {
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

/// A documented setting must make sense, and one of gander's own must exist. Other programs' keys are theirs.
fn check_value(key: &str, value: &Value) -> Result<(), ConfigError> {
    match known_key(key) {
        Some(known) if !known.form.fits(value) => Err(ConfigError::InvalidValue {
            key: key.to_owned(),
            value: shortened(value),
            expected: known.form.phrase(),
        }),
        None if key.starts_with(OWN_PREFIX) => {
            Err(ConfigError::InvalidKey { key: key.to_owned(), reason: no_such_setting(key) })
        }
        _ => Ok(()),
    }
}

fn no_such_setting(key: &str) -> String {
    let own = KNOWN_KEYS.iter().map(|known| known.key).filter(|known| known.starts_with(OWN_PREFIX));
    let nearest = own
        .map(|known| (known, strsim::jaro_winkler(key, known)))
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .filter(|(_, likeness)| *likeness > ALIKE);
    match nearest {
        Some((known, _)) => format!("gander has no such setting; did you mean {known}?"),
        None => "gander has no such setting; `gander config show` lists them".to_owned(),
    }
}

/// A value for a message.
pub(super) fn shortened(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
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
