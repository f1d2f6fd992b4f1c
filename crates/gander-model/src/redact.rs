//! Takes secrets out of texts that people, logs and clients see.
//!
//! Known secrets go wherever they stand; words that look like keys go too, because servers echo what they were sent.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

const HIDDEN: &str = "[redacted]";
/// Shorter secrets would blot out ordinary words.
const MIN_SECRET: usize = 8;
const PREFIXES: &[&str] = &[
    "sk-",
    "sk_",
    "pk-",
    "gsk_",
    "xai-",
    "hf_",
    "nvapi-",
    "pplx-",
    "ghp_",
    "gho_",
    "github_pat_",
    "AKIA",
    "AIza",
    "eyJ",
    "fw_",
    "csk-",
];

/// Knows the secrets of one provider.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Vec<SecretString>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// A redactor of these secrets; those shorter than 8 bytes are ignored.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut secrets: Vec<String> =
            secrets.into_iter().filter(|secret| secret.len() >= MIN_SECRET).collect();
        // The longest first: one may contain another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets: secrets.into_iter().map(SecretString::from).collect() }
    }

    /// `text` without secrets.
    pub fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            if text.contains(secret.expose_secret()) {
                text = text.replace(secret.expose_secret(), HIDDEN);
            }
        }
        hide_key_words(&text)
    }
}

fn hide_key_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let is_key_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_key_char(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        if word.len() >= 12 && PREFIXES.iter().any(|prefix| word.starts_with(prefix)) {
            out.push_str(HIDDEN);
        } else {
            out.push_str(word);
        }
        let mut chars = tail.chars();
        if let Some(c) = chars.next() {
            out.push(c);
        }
        rest = chars.as_str();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_secrets_and_key_like_words_are_hidden() {
        let redactor = Redactor::new(["very-secret-value".to_owned(), "short".to_owned()]);
        for (text, wanted) in [
            ("key very-secret-value!", "key [redacted]!"),
            ("a short word", "a short word"),
            ("Incorrect API key provided: sk-proj-abcdef123456.", "Incorrect API key provided: [redacted]"),
            ("Bearer eyJhbGciOi.payload.sig end", "Bearer [redacted] end"),
            ("the task sk-1 stays", "the task sk-1 stays"),
            ("naïve “sk-abcdefghijkl”", "naïve “[redacted]”"),
        ] {
            assert_eq!(redactor.apply(text), wanted);
        }
        assert!(!format!("{redactor:?}").contains("secret-value"));
    }
}
