//! Secrets: a type that cannot be shown by accident, and the file that holds them.
//!
//! Order of lookup: the environment variable of the upper-cased name, then the command that is set for it (see
//! `secret_commands`), then the keyring where the setting `gander.secret_store` chose it (see `keyring`), then
//! `secrets.yaml` in the config directory (`NAME: value`, Goose's file fallback), mode 0600. The file is protected by its
//! mode only; it is not encrypted.
//! Values are wiped from memory when the last [`Secret`] is dropped; buffers of the YAML parser are not.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use indexmap::IndexMap;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::document;
use crate::environment::{Environment, variable_for};
use crate::error::ConfigError;

/// Shortest secret of which the last four characters are shown.
const LAST_FOUR_FROM: usize = 12;

/// A secret text. It has no `Serialize`, and its `Debug` form says nothing about the value.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretString::from(value.into()))
    }

    /// The value. Use it where it is needed and keep no copy.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The value and what it looks like where programs write it down: in a URL, as a JSON string, within base64 (at each
    /// of its three alignments, without the characters at the ends that depend on what stands beside it). For redaction.
    pub fn forms(&self) -> Vec<Secret> {
        let value = self.expose();
        let mut forms = vec![value.to_owned()];
        let mut add = |form: String| {
            if !forms.contains(&form) {
                forms.push(form);
            }
        };
        add(percent_encoded(value));
        let quoted = Value::String(value.to_owned()).to_string();
        add(quoted[1..quoted.len() - 1].to_owned());
        if value.len() >= LAST_FOUR_FROM {
            for before in 0..3 {
                let form = inner_base64(value.as_bytes(), before);
                add(form.replace('+', "-").replace('/', "_"));
                add(form);
            }
        }
        forms.into_iter().map(Secret::new).collect()
    }

    /// The last four characters, when the secret is long enough that they tell nothing.
    pub fn last_four(&self) -> Option<String> {
        let value = self.expose();
        let count = value.chars().count();
        (count >= LAST_FOUR_FROM).then(|| value.chars().skip(count - 4).collect())
    }
}

fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// The base64 of `bytes` after so many others, as far as these alone decide it.
fn inner_base64(bytes: &[u8], before: usize) -> String {
    let mut all = vec![0; before];
    all.extend(bytes);
    let encoded = STANDARD_NO_PAD.encode(&all);
    // A character holds six bits.
    let start = (before * 8).div_ceil(6);
    let end = all.len() * 8 / 6;
    encoded[start..end].to_owned()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretOrigin {
    /// A variable of the daemon's environment.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A command prints it; see the setting `gander.secret_commands`.
    Command {
        /// Its program.
        program: String,
    },
    /// The operating system's keyring.
    Keyring {
        /// The service of its entry: `gander`, or `goose` where Goose stored it.
        entry: String,
    },
    /// The secrets file.
    File {
        /// The file.
        path: PathBuf,
    },
}

/// What may be told about a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretStatus {
    /// Its name.
    pub key: String,
    /// Whether there is a value.
    pub set: bool,
    /// Where the value comes from.
    pub origin: Option<SecretOrigin>,
    /// The last four characters of a value of twelve or more.
    pub last_four: Option<String>,
}

/// The parsed secrets file.
#[derive(Debug, Default)]
pub(crate) struct SecretsFile {
    path: PathBuf,
    values: IndexMap<String, Secret>,
}

impl SecretsFile {
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        let mut values = IndexMap::new();
        for (key, value) in document::parse(path, bytes)? {
            let text = match document::to_json(&value) {
                Value::Null => continue,
                Value::String(text) => text,
                other => other.to_string(),
            };
            values.insert(document::key_text(&key), Secret::new(text));
        }
        Ok(Self { path: path.to_path_buf(), values })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// All values.
    pub(crate) fn values(&self) -> Vec<Secret> {
        self.values.values().cloned().collect()
    }

    /// The secret `key` and where it stands. An empty text counts as not set.
    pub(crate) fn lookup(&self, key: &str, environment: &Environment) -> Option<(Secret, SecretOrigin)> {
        let variable = variable_for(key);
        if let Some(value) = environment.get(&variable) {
            return Some((Secret::new(value), SecretOrigin::Environment { variable }));
        }
        let value = self.values.get(key).filter(|secret| !secret.expose().is_empty())?;
        Some((value.clone(), SecretOrigin::File { path: self.path.clone() }))
    }

    pub(crate) fn status(&self, key: &str, environment: &Environment) -> SecretStatus {
        let found = self.lookup(key, environment);
        SecretStatus {
            key: key.to_owned(),
            set: found.is_some(),
            last_four: found.as_ref().and_then(|(secret, _)| secret.last_four()),
            origin: found.map(|(_, origin)| origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_last_four() {
        let secret = Secret::new("sk-abcdefgh1234");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(…) Some(Secret(…))");
        for (value, last) in [
            ("sk-abcdefgh1234", Some("1234")),
            ("123456789012", Some("9012")),
            ("12345678901", None),
            ("", None),
            ("ääääääääääää", Some("ääää")),
        ] {
            assert_eq!(Secret::new(value).last_four().as_deref(), last, "{value}");
        }
    }

    #[test]
    fn a_secret_is_known_however_it_is_written_down() {
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        let secret = Secret::new("pass/word+\"0123~ä");
        let forms: Vec<String> = secret.forms().iter().map(|form| form.expose().to_owned()).collect();
        let found = |text: &str| forms.iter().any(|form| text.contains(form.as_str()));
        for before in ["", "u:", "user:", "a", "aa", "aaa"] {
            for after in ["", "\n", "12", "123"] {
                let text = format!("{before}{}{after}", secret.expose());
                for encoded in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    assert!(found(&encoded), "{before} {after}");
                }
                assert!(found(&text));
                assert!(found(&serde_json::json!({ "a": text }).to_string()));
            }
        }
        assert!(found("?key=pass%2Fword%2B%220123~%C3%A4&x"));
        assert!(!found(&STANDARD.encode("something else, of some length")));
        assert_eq!(Secret::new("short").forms().len(), 1);
    }

    #[test]
    fn environment_comes_first() {
        let file =
            SecretsFile::parse(Path::new("/s.yaml"), b"OPENAI_API_KEY: from-the-file\nN: 12\nE: ''\nnone:\n")
                .unwrap();
        let env = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Environment>();
        let set = env(&[("OPENAI_API_KEY", "from-the-environment")]);
        let (secret, origin) = file.lookup("openai_api_key", &set).unwrap();
        assert_eq!(secret.expose(), "from-the-environment");
        assert_eq!(origin, SecretOrigin::Environment { variable: "OPENAI_API_KEY".to_owned() });

        let none = env(&[("OPENAI_API_KEY", "")]);
        assert_eq!(
            file.status("OPENAI_API_KEY", &none),
            SecretStatus {
                key: "OPENAI_API_KEY".to_owned(),
                set: true,
                origin: Some(SecretOrigin::File { path: "/s.yaml".into() }),
                last_four: Some("file".to_owned()),
            }
        );
        assert_eq!(file.lookup("N", &none).unwrap().0.expose(), "12");
        for key in ["E", "none", "absent"] {
            assert!(!file.status(key, &none).set, "{key}");
        }
        assert!(!format!("{file:?}").contains("from-the-file"));
    }

    #[test]
    fn errors_do_not_quote_the_file() {
        for text in
            ["A: sk-very-secret: x\n", "A: 'sk-very-secret\n", "sk-very-secret\n", "- sk-very-secret\n"]
        {
            let error = SecretsFile::parse(Path::new("/s.yaml"), text.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("very-secret"), "{error}");
        }
    }
}
