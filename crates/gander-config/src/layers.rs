//! The layers of configuration and the value that results for a key.
//!
//! Built-in defaults < a distribution's defaults file < the user's `config.yaml` < environment < flags; the enforced
//! policy stands above all. A [`Config`] is an immutable snapshot. Secrets and extensions are not plain values:
//! `get` and `list` never show them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_yaml_ng::Value as Yaml;

use crate::document::{self, json_kind};
use crate::environment::{Environment, parse_value, variable_for};
use crate::error::ConfigError;
use crate::keys::{EXTENSIONS_KEY, KNOWN_KEYS, KnownKey, is_secret_name, known_key};
use crate::policy::Policy;

/// The layer a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The catalogue of this program.
    BuiltIn,
    /// The defaults file of a distribution.
    Distribution {
        /// The file.
        path: PathBuf,
    },
    /// The user's config file.
    User {
        /// The file.
        path: PathBuf,
    },
    /// A variable of the daemon's environment.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag of the command line.
    Flag,
    /// The enforced policy.
    Policy {
        /// The file.
        path: PathBuf,
    },
}

/// What writing to the user's file does while a value comes from an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteEffect {
    /// The new value rules at once.
    Effective,
    /// It is stored, but another layer rules until that one goes away.
    Shadowed,
    /// It is refused.
    Locked,
}

impl Origin {
    /// What a write to the user's file would do.
    pub fn write_effect(&self) -> WriteEffect {
        match self {
            Self::BuiltIn | Self::Distribution { .. } | Self::User { .. } => WriteEffect::Effective,
            Self::Environment { .. } | Self::Flag => WriteEffect::Shadowed,
            Self::Policy { .. } => WriteEffect::Locked,
        }
    }

    /// A fixed word for the layer, for tables and the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BuiltIn => "default",
            Self::Distribution { .. } => "distribution",
            Self::User { .. } => "user",
            Self::Environment { .. } => "environment",
            Self::Flag => "flag",
            Self::Policy { .. } => "policy",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("the built-in default"),
            Self::Distribution { path } => write!(f, "the distribution's defaults {}", path.display()),
            Self::User { path } => write!(f, "{}", path.display()),
            Self::Environment { variable } => write!(f, "the environment variable {variable}"),
            Self::Flag => f.write_str("a command-line flag"),
            Self::Policy { path } => write!(f, "the policy {}", path.display()),
        }
    }
}

/// A value with the layer it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value; never null.
    pub value: Value,
    /// Its layer.
    pub origin: Origin,
}

/// A line of [`Config::list`].
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The key.
    pub key: String,
    /// The value that rules; `None` for a documented key that is not set.
    pub entry: Option<Entry>,
    /// The documentation, for documented keys.
    pub known: Option<&'static KnownKey>,
}

/// The content of one YAML layer.
#[derive(Default, PartialEq)]
pub(crate) struct Layer {
    path: PathBuf,
    values: IndexMap<String, Value>,
    /// `None`: the file does not speak of them.
    extensions: Option<IndexMap<String, Value>>,
}

/// Without values: extensions may hold secrets, and plain keys may by mistake.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.values.keys().collect();
        f.debug_struct("Layer").field("path", &self.path).field("keys", &keys).finish_non_exhaustive()
    }
}

impl Layer {
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        let mut layer = Self { path: path.to_path_buf(), ..Self::default() };
        for (key, value) in document::parse(path, bytes)? {
            let key = document::key_text(&key);
            match (key.as_str(), value) {
                (EXTENSIONS_KEY, Yaml::Null) => {}
                (EXTENSIONS_KEY, Yaml::Mapping(map)) => {
                    let entries = map.iter();
                    let entry = |(key, value)| (document::key_text(key), document::to_json(value));
                    layer.extensions = Some(entries.map(entry).collect());
                }
                (EXTENSIONS_KEY, other) => {
                    return Err(ConfigError::Shape {
                        path: path.to_path_buf(),
                        field: EXTENSIONS_KEY.to_owned(),
                        expected: "a mapping of names to extensions",
                        found: document::kind(&other),
                    });
                }
                (_, value) => {
                    layer.values.insert(key, document::to_json(&value));
                }
            }
        }
        Ok(layer)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }
}

/// An immutable snapshot of all layers.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub(crate) distribution: Arc<Layer>,
    pub(crate) user: Arc<Layer>,
    pub(crate) environment: Environment,
    pub(crate) flags: Arc<BTreeMap<String, Value>>,
    pub(crate) policy: Arc<Policy>,
}

impl Config {
    /// The value that rules for `key`, with its layer. Null counts as not set. Secrets and `extensions` are not
    /// served here, wherever they stand.
    pub fn get(&self, key: &str) -> Option<Entry> {
        if key == EXTENSIONS_KEY || is_secret_name(key) {
            return None;
        }
        let entry = |value: &Value, origin: Origin| Some(Entry { value: value.clone(), origin });
        if let Some(value) = self.policy.value(key) {
            return entry(value, self.policy.origin());
        }
        if let Some(value) = self.flags.get(key) {
            return entry(value, Origin::Flag);
        }
        let variable = variable_for(key);
        if let Some(value) = self.environment.get(&variable).map(parse_value).filter(|value| !value.is_null())
        {
            return Some(Entry { value, origin: Origin::Environment { variable } });
        }
        if let Some(value) = self.user.get(key) {
            return entry(value, Origin::User { path: self.user.path.clone() });
        }
        if let Some(value) = self.distribution.get(key) {
            return entry(value, Origin::Distribution { path: self.distribution.path.clone() });
        }
        let value = known_key(key)?.default_value()?;
        Some(Entry { value, origin: Origin::BuiltIn })
    }

    /// Documented keys first, then all other keys of any file or flag, sorted. Secrets and `extensions` are left out.
    pub fn list(&self) -> Vec<Listed> {
        let documented = KNOWN_KEYS.iter().filter(|known| !known.secret);
        let others: BTreeSet<&str> = self
            .distribution
            .values
            .keys()
            .chain(self.user.values.keys())
            .chain(self.flags.keys())
            .map(String::as_str)
            .chain(self.policy.locked_keys())
            .filter(|key| known_key(key).is_none())
            .collect();
        documented
            .map(|known| Listed { key: known.key.to_owned(), entry: self.get(known.key), known: Some(known) })
            .chain(others.into_iter().filter_map(|key| {
                let entry = self.get(key)?;
                Some(Listed { key: key.to_owned(), entry: Some(entry), known: None })
            }))
            .collect()
    }

    /// The configured extensions as they stand in the files, in order: the distribution's first, entries of the user
    /// in their place or behind. Values may hold secrets in `envs` and `headers`.
    pub fn extensions(&self) -> Vec<(String, Entry)> {
        let mut merged: IndexMap<String, Entry> = IndexMap::new();
        for (layer, origin) in [
            (&self.distribution, Origin::Distribution { path: self.distribution.path.clone() }),
            (&self.user, Origin::User { path: self.user.path.clone() }),
        ] {
            for (key, value) in layer.extensions.iter().flatten() {
                merged.insert(key.clone(), Entry { value: value.clone(), origin: origin.clone() });
            }
        }
        merged.into_iter().collect()
    }

    /// Whether any file says which extensions there are; an empty list is a choice as well.
    pub fn lists_extensions(&self) -> bool {
        self.distribution.extensions.is_some() || self.user.extensions.is_some()
    }

    /// The enforced rules.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The daemon's environment.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Text; numbers and booleans are taken as they are written.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`] for lists and mappings.
    pub fn get_string(&self, key: &str) -> Result<Option<String>, ConfigError> {
        self.typed(key, "a string", |entry| match (&entry.value, &entry.origin) {
            (Value::String(text), _) => Some(text.clone()),
            // A model may be called "4.10": the variable's text, not the number's.
            (Value::Number(_) | Value::Bool(_), Origin::Environment { variable }) => {
                self.environment.get(variable).map(str::to_owned)
            }
            (Value::Number(number), _) => Some(number.to_string()),
            (Value::Bool(flag), _) => Some(flag.to_string()),
            _ => None,
        })
    }

    /// A whole number from 0, also when it is written as text.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`] for anything else.
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        self.typed(key, "a whole number from 0", |entry| match &entry.value {
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_u64(),
        })
    }

    /// A number, also when it is written as text.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`] for anything else.
    pub fn get_f64(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.typed(key, "a number", |entry| match &entry.value {
            Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            value => value.as_f64(),
        })
    }

    /// A boolean; `1`, `0`, `"true"` and `"false"` are accepted, since variables have no booleans.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`] for anything else.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(key, "true or false", |entry| match &entry.value {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => match number.as_u64() {
                Some(0) => Some(false),
                Some(1) => Some(true),
                _ => None,
            },
            Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        })
    }

    /// Any type that serde can make of the value.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`] with serde's reason.
    pub fn get_as<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        let Some(entry) = self.get(key) else { return Ok(None) };
        let found = json_kind(&entry.value);
        serde_json::from_value(entry.value).map(Some).map_err(|error| ConfigError::WrongType {
            key: key.to_owned(),
            expected: format!("of another shape ({error})"),
            found,
            origin: entry.origin,
        })
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&Entry) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(entry) = self.get(key) else { return Ok(None) };
        match convert(&entry) {
            Some(value) => Ok(Some(value)),
            None => Err(ConfigError::WrongType {
                key: key.to_owned(),
                expected: expected.to_owned(),
                found: json_kind(&entry.value),
                origin: entry.origin,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
