//! Goose's `ExtensionConfig` document ⇄ [`ExtensionConfig`].
//!
//! One reader and one writer for `config.yaml`, recipes, REST bodies and links. Invariants:
//! - `from_value(&to_value(c)) == Ok(c)` for every configuration whose derived tool fields (public name, extension
//!   name, visibility) are those that [`from_value`] sets;
//! - `to_value(&from_value(d)?)` equals `d` except for normalisation: Goose's fields are all present (absent options
//!   are null), an empty `dependencies` and `bundled: false` become null, and defaults of gander's own fields go;
//! - what Goose reads, this module reads. It is more lenient in that `description`, `args` and nulls may be missing.
//!
//! gander's own optional fields: `exec_prefix`, `protocol`, `unix_socket` (Goose ≥ 1.37 calls it `socket`; the
//! spelling found is the spelling written) and `timeout_ms`, written only if a timeout is no whole second.

mod env;
mod fields;
mod link;
mod packages;
mod read;
mod secrets;
mod tools;
mod validate;
mod write;

#[cfg(test)]
mod tests;

pub use gander_domain::extension::ExtensionConfig;
use serde_json::{Map, Value};

pub use env::{DISALLOWED_ENV_KEYS, disallowed_env_keys, drop_disallowed_env, is_disallowed_env_key};
pub use link::{ExtensionLink, LINK_COMMANDS, LinkError, LinkKey, is_link, parse_link};
pub use packages::unpinned_package;
pub use secrets::{config_hash, redacted, restore_withheld};
pub use validate::{command_violation, validate, warnings};

/// What adapters name when they convert a configuration; they may not use the domain crate itself.
pub use gander_domain::{
    extension::{ExtensionTransport, ProtocolEra, SamplingPolicy, Sandbox, SandboxMode, extension_key},
    tool::{ToolAnnotations, ToolDefinition, ToolVisibility},
};

use crate::{FormatError, error::json_type};

/// One entry of the `extensions` map of `config.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Key in the map, as written there.
    pub key: String,
    /// Whether new sessions start it.
    pub enabled: bool,
    pub config: ExtensionConfig,
}

/// Reads one configuration. An `enabled` flag belongs to the [`Entry`] around it and is skipped.
///
/// # Errors
/// The first field that is missing or has the wrong type. An unknown `type` is no error: it becomes
/// `ExtensionTransport::Unknown` and keeps everything.
pub fn from_value(value: &Value) -> Result<ExtensionConfig, FormatError> {
    read::config(object(value)?.clone())
}

/// The configuration of a builtin extension, with nothing else said.
pub fn builtin(name: &str) -> ExtensionConfig {
    ExtensionConfig { name: name.to_owned(), ..read::empty() }
}

/// Writes one configuration with every field that Goose writes for its type. `unknown_json` that is no JSON object
/// is left out; [`validate`] reports it.
pub fn to_value(config: &ExtensionConfig) -> Value {
    Value::Object(write::config(config))
}

/// Reads one entry of the `extensions` map. A missing name is the key; `enabled` is required, as in Goose: an entry
/// that Goose does not start must not start here.
///
/// # Errors
/// As [`from_value`], and for a missing or wrong `enabled`.
pub fn entry_from_value(key: &str, value: &Value) -> Result<Entry, FormatError> {
    let mut map = object(value)?.clone();
    let enabled = match map.remove("enabled") {
        Some(Value::Bool(enabled)) => enabled,
        Some(other) if !other.is_null() => {
            return Err(FormatError::wrong_type(
                "enabled",
                &other,
                "true or false",
                "write it without quotes: `enabled: true`",
            ));
        }
        _ => {
            return Err(FormatError::extension(
                "enabled",
                "missing; write `enabled: true` to start it in new sessions, or `enabled: false`",
            ));
        }
    };
    let unnamed = map.get("name").is_none_or(|name| name.is_null() || name.as_str() == Some(""));
    if unnamed {
        map.insert("name".to_owned(), Value::from(key));
    }
    Ok(Entry { key: key.to_owned(), enabled, config: read::config(map)? })
}

/// Writes one entry's value; its key is [`Entry::key`].
pub fn entry_to_value(entry: &Entry) -> Value {
    let mut map = write::config(&entry.config);
    map.insert("enabled".to_owned(), Value::Bool(entry.enabled));
    Value::Object(map)
}

/// Reads the whole `extensions` map. Entries that cannot be read are returned beside the others, under their keys;
/// if the value is no map at all, the one error has the key `extensions`. Null is an empty map.
pub fn entries(map: &Value) -> (Vec<Entry>, Vec<(String, FormatError)>) {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    match map {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                match entry_from_value(key, value) {
                    Ok(entry) => good.push(entry),
                    Err(error) => bad.push((key.clone(), error)),
                }
            }
        }
        other => {
            let remedy = "write one `key: {enabled: true, type: ...}` per extension";
            let error = FormatError::wrong_type("extensions", other, "a map of extensions", remedy);
            bad.push(("extensions".to_owned(), error));
        }
    }
    (good, bad)
}

fn object(value: &Value) -> Result<&Map<String, Value>, FormatError> {
    value.as_object().ok_or_else(|| {
        FormatError::extension(
            "extension",
            format!(
                "found {}, expected a map with `type`, `name` and the fields of the type",
                json_type(value)
            ),
        )
    })
}
