//! The process environment as a value.
//!
//! [`Environment::from_process`] is the only place of the library crates that reads the real environment; all
//! else gets an `Environment` passed in, so that two daemons in one process can have different ones.
//! Its `Debug` form shows no names and no values: environments hold provider keys.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// An immutable set of environment variables; cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(Arc<BTreeMap<String, String>>);

impl Environment {
    /// The variables of this process. Names or values that are not UTF-8 are left out.
    pub fn from_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of `name`. A variable that is set but empty counts as not set, since service managers and
    /// compose files often pass `NAME=` for "nothing".
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables, empty ones included, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(Arc::new(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect()))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

/// The variable that overrides `key`: upper case as in Goose; `.` and `-`, which shells do not allow in
/// names, become `_` (`gander.listen` → `GANDER_LISTEN`).
pub fn variable_for(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '.' | '-' => '_',
            other => other.to_ascii_uppercase(),
        })
        .collect()
}

/// A variable's text as a value, by Goose's rule: JSON if it parses, then booleans in any case and numbers
/// with surrounding blanks or a sign, else the text itself.
pub fn parse_value(text: &str) -> Value {
    if let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    let trimmed = text.trim();
    if trimmed.eq_ignore_ascii_case("true") {
        return Value::Bool(true);
    }
    if trimmed.eq_ignore_ascii_case("false") {
        return Value::Bool(false);
    }
    if let Ok(number) = trimmed.parse::<i64>() {
        return Value::from(number);
    }
    if trimmed.contains('.')
        && let Ok(number) = trimmed.parse::<f64>()
        && number.is_finite()
    {
        return Value::from(number);
    }
    Value::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_parsed_as_goose_does() {
        let cases = [
            ("openai", json!("openai")),
            ("12", json!(12)),
            (" +12 ", json!(12)),
            ("0.5", json!(0.5)),
            ("true", json!(true)),
            ("TRUE", json!(true)),
            ("False", json!(false)),
            ("null", json!(null)),
            ("\"12\"", json!("12")),
            (r#"{"a":[1,2]}"#, json!({"a": [1, 2]})),
            ("{not json", json!("{not json")),
            ("1.2.3", json!("1.2.3")),
            ("127.0.0.1:7717", json!("127.0.0.1:7717")),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_value(text), expected, "{text}");
        }
    }

    #[test]
    fn variable_names() {
        for (key, name) in
            [("GOOSE_MODEL", "GOOSE_MODEL"), ("foo_bar", "FOO_BAR"), ("gander.listen", "GANDER_LISTEN")]
        {
            assert_eq!(variable_for(key), name);
        }
    }

    #[test]
    fn debug_shows_nothing_and_empty_is_unset() {
        let env = Environment::from_iter([("OPENAI_API_KEY", "sk-1234"), ("EMPTY", "")]);
        assert_eq!(format!("{env:?}"), "Environment(2 variables)");
        assert_eq!(env.get("EMPTY"), None);
        assert_eq!(env.get("OPENAI_API_KEY"), Some("sk-1234"));
    }

    #[test]
    fn the_process_environment_can_be_read() {
        assert!(Environment::from_process().get("PATH").is_some());
    }
}
