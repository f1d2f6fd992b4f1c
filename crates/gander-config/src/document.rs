//! YAML documents that are one mapping at the top: parsing with file, line and column in the error, and
//! conversion to and from JSON values.
//!
//! The YAML mapping keeps the order of keys; nothing here touches the disk.

use std::path::Path;

use serde_json::Value;
use serde_yaml_ng::{Mapping, Value as Yaml};

use crate::error::ConfigError;

/// Parses `bytes` of the file `path`. An empty document is an empty mapping.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Mapping, ConfigError> {
    parse_text(path, text_of(path, bytes)?)
}

/// The bytes as text, or an error that names the place of the first byte which is not UTF-8.
pub(crate) fn text_of<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, ConfigError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        ConfigError::Malformed {
            path: path.to_path_buf(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            column: 1 + before.len() - line_start,
            message: "the text is not UTF-8".to_owned(),
        }
    })
}

pub(crate) fn parse_text(path: &Path, text: &str) -> Result<Mapping, ConfigError> {
    let value: Yaml = serde_yaml_ng::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        ConfigError::Malformed { path: path.to_path_buf(), line, column, message: error.to_string() }
    })?;
    match value {
        Yaml::Null => Ok(Mapping::new()),
        Yaml::Mapping(mapping) => Ok(mapping),
        other => Err(ConfigError::Shape {
            path: path.to_path_buf(),
            field: "the document".to_owned(),
            expected: "a mapping of keys to values",
            found: kind(&other),
        }),
    }
}

/// The name of a value's type, for messages.
pub(crate) fn kind(value: &Yaml) -> &'static str {
    match value {
        Yaml::Null => "nothing",
        Yaml::Bool(_) => "a boolean",
        Yaml::Number(_) => "a number",
        Yaml::String(_) => "a string",
        Yaml::Sequence(_) => "a list",
        Yaml::Mapping(_) => "a mapping",
        Yaml::Tagged(_) => "a tagged value",
    }
}

/// The name of a JSON value's type, for messages.
pub(crate) fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// YAML to JSON. Keys that are not strings become their text, tags are dropped, and numbers that JSON lacks
/// (`.nan`, `.inf`) become strings.
pub(crate) fn to_json(value: &Yaml) -> Value {
    match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(flag) => Value::Bool(*flag),
        Yaml::Number(number) => number_to_json(number),
        Yaml::String(text) => Value::String(text.clone()),
        Yaml::Sequence(items) => Value::Array(items.iter().map(to_json).collect()),
        Yaml::Mapping(mapping) => {
            Value::Object(mapping.iter().map(|(key, value)| (key_text(key), to_json(value))).collect())
        }
        Yaml::Tagged(tagged) => to_json(&tagged.value),
    }
}

fn number_to_json(number: &serde_yaml_ng::Number) -> Value {
    if let Some(unsigned) = number.as_u64() {
        return Value::from(unsigned);
    }
    if let Some(signed) = number.as_i64() {
        return Value::from(signed);
    }
    match number.as_f64().and_then(serde_json::Number::from_f64) {
        Some(float) => Value::Number(float),
        None => Value::String(number.to_string()),
    }
}

/// A mapping key as text.
pub(crate) fn key_text(key: &Yaml) -> String {
    match key {
        Yaml::String(text) => text.clone(),
        Yaml::Null => "null".to_owned(),
        other => match to_json(other) {
            Value::String(text) => text,
            json => json.to_string(),
        },
    }
}

/// JSON to YAML, in the order of the JSON object.
pub(crate) fn to_yaml(value: &Value) -> Yaml {
    match value {
        Value::Null => Yaml::Null,
        Value::Bool(flag) => Yaml::Bool(*flag),
        Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(unsigned), _, _) => Yaml::Number(unsigned.into()),
            (_, Some(signed), _) => Yaml::Number(signed.into()),
            (_, _, Some(float)) => Yaml::Number(float.into()),
            _ => Yaml::String(number.to_string()),
        },
        Value::String(text) => Yaml::String(text.clone()),
        Value::Array(items) => Yaml::Sequence(items.iter().map(to_yaml).collect()),
        Value::Object(map) => Yaml::Mapping(
            map.iter().map(|(key, value)| (Yaml::String(key.clone()), to_yaml(value))).collect(),
        ),
    }
}
