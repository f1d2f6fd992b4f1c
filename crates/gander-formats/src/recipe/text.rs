//! Text ⇄ document.

use serde_json::{Map, Value};
use serde_yaml_ng::{Mapping, Value as Yaml};

use super::MAX_RECIPE_BYTES;
use crate::{FormatError, error::json_type};

/// Keys in the order in which people read them.
const ORDER: &[&str] = &[
    "version",
    "title",
    "description",
    "instructions",
    "prompt",
    "parameters",
    "extensions",
    "settings",
    "activities",
    "author",
    "response",
    "sub_recipes",
    "retry",
];

/// The document in a text, YAML or JSON.
pub(super) fn document(text: &str) -> Result<Value, FormatError> {
    if text.len() > MAX_RECIPE_BYTES {
        let message = format!("is {} bytes long, at most {MAX_RECIPE_BYTES} are read", text.len());
        return Err(FormatError::recipe("recipe", message));
    }
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str::<Value>(text)
    {
        return unwrapped(value);
    }
    let value: Value = serde_yaml_ng::from_str(text).map_err(|error| {
        let place = error.location().map(|at| format!(" (line {}, column {})", at.line(), at.column()));
        // The parser's own words may quote the text; the place is enough to find it.
        let message = format!(
            "is neither YAML nor JSON{}; look there for a bracket or quote that is not closed, or a wrong indentation",
            place.unwrap_or_default()
        );
        FormatError::recipe("recipe", message)
    })?;
    unwrapped(value)
}

/// Takes a document out of a `recipe:` around it.
pub(super) fn unwrapped(value: Value) -> Result<Value, FormatError> {
    match value {
        Value::Object(mut map) => match map.get("recipe") {
            Some(Value::Object(_)) => Ok(map.remove("recipe").unwrap_or_default()),
            _ => Ok(Value::Object(map)),
        },
        other => Err(FormatError::recipe(
            "recipe",
            format!(
                "found {}, expected a map with `title`, `description` and `instructions` or `prompt`",
                json_type(&other)
            ),
        )),
    }
}

/// The document as YAML, known keys first; what is null is left out.
///
/// # Errors
/// The document is no map.
pub fn to_yaml(document: &Value) -> Result<String, FormatError> {
    let Value::Object(map) = unwrapped(document.clone())? else {
        return Err(FormatError::recipe("recipe", "is no map"));
    };
    let mut ordered = Mapping::new();
    let known = ORDER.iter().filter_map(|key| Some((*key, map.get(*key)?)));
    let unknown = map.iter().map(|(k, v)| (k.as_str(), v)).filter(|(k, _)| !ORDER.contains(k));
    for (key, value) in known.chain(unknown).filter(|(_, value)| !value.is_null()) {
        let value = serde_yaml_ng::to_value(value).map_err(|e| FormatError::recipe(key, e.to_string()))?;
        ordered.insert(Yaml::String(key.to_owned()), value);
    }
    serde_yaml_ng::to_string(&ordered).map_err(|e| FormatError::recipe("recipe", e.to_string()))
}

/// The name of a new file for a recipe of this title, without extension: lower case, words joined by `-`.
pub fn file_stem(title: &str) -> String {
    const MAX_CHARS: usize = 80;
    let lower = title.to_lowercase();
    let words: String = lower
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-')
        .take(MAX_CHARS)
        .collect();
    let stem = words.split_whitespace().collect::<Vec<_>>().join("-");
    let stem = stem.trim_matches('-');
    if stem.is_empty() { "untitled-recipe".to_owned() } else { stem.to_owned() }
}

/// Visits every string of a value with its path.
pub(super) fn each_string(value: &Value, path: &str, visit: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => visit(path, text),
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                each_string(item, &format!("{path}[{index}]"), visit);
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                each_string(item, &below(path, key), visit);
            }
        }
        _ => {}
    }
}

/// Every string of a value replaced.
pub(super) fn map_strings(
    value: &Value,
    path: &str,
    edit: &mut impl FnMut(&str, &str) -> Result<String, FormatError>,
) -> Result<Value, FormatError> {
    Ok(match value {
        Value::String(text) => Value::String(edit(path, text)?),
        Value::Array(list) => {
            let mut out = Vec::with_capacity(list.len());
            for (index, item) in list.iter().enumerate() {
                out.push(map_strings(item, &format!("{path}[{index}]"), edit)?);
            }
            Value::Array(out)
        }
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, item) in map {
                out.insert(key.clone(), map_strings(item, &below(path, key), edit)?);
            }
            Value::Object(out)
        }
        other => other.clone(),
    })
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
