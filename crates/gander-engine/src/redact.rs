//! Keeps known secrets out of the log: in whole texts, and in streams whose pieces may cut a secret in two.
//!
//! A stream holds back only what may still become a secret, so ordinary output is not delayed.

use gander_config::Secret;
use gander_domain::{
    ErrorDetail, Part, PartBody,
    item::{ToolCall, ToolResult},
};

const HIDDEN: &str = "[redacted]";
/// Shorter secrets would blot out ordinary words.
const MIN_SECRET: usize = 8;
/// Shorter ones of small letters only are words.
const MIN_WORD: usize = 16;

/// A password such as `postgres` is a word, too: without it no output could be read, and hiding it protects nothing.
fn is_plain_word(text: &str) -> bool {
    text.trim().is_empty() || (text.len() < MIN_WORD && text.bytes().all(|b| b.is_ascii_lowercase()))
}

/// The secrets of this moment. It has no printable form.
#[derive(Clone, Default)]
pub(crate) struct SecretFilter {
    /// The longest first: one may contain another.
    secrets: Vec<String>,
}

impl SecretFilter {
    pub(crate) fn new(secrets: &[Secret]) -> Self {
        let secret = |s: &&Secret| s.expose().len() >= MIN_SECRET && !is_plain_word(s.expose());
        let mut secrets: Vec<String> = secrets
            .iter()
            .filter(secret)
            .flat_map(Secret::forms)
            .map(|form| form.expose().to_owned())
            .collect();
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        Self { secrets }
    }

    /// Takes the secrets out; whether there were any.
    pub(crate) fn clean(&self, text: &mut String) -> bool {
        let mut found = false;
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                *text = text.replace(secret.as_str(), HIDDEN);
                found = true;
            }
        }
        found
    }

    /// Takes the secrets out of a JSON text, where they may stand with their escapes.
    pub(crate) fn clean_json(&self, json: &mut String) {
        self.clean(json);
    }

    pub(crate) fn clean_error(&self, error: &mut ErrorDetail) {
        self.clean(&mut error.message);
        for value in error.metadata.values_mut() {
            self.clean(value);
        }
    }

    fn clean_parts(&self, parts: &mut [Part]) {
        for part in parts {
            match &mut part.body {
                PartBody::Text(text) => {
                    self.clean(text);
                }
                PartBody::Resource { text: Some(text), .. } => {
                    self.clean(text);
                }
                PartBody::Diff { old_text, new_text, patch, .. } => {
                    for text in [old_text, new_text, patch].into_iter().flatten() {
                        self.clean(text);
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes the secrets out of a tool's answer.
    pub(crate) fn clean_result(&self, result: &mut ToolResult) {
        if self.secrets.is_empty() {
            return;
        }
        self.clean_parts(&mut result.parts);
        for json in [&mut result.structured_content_json, &mut result.meta_json].into_iter().flatten() {
            self.clean_json(json);
        }
        if let Some(error) = &mut result.error {
            self.clean_error(error);
        }
    }

    /// Takes the secrets out of what a call shows.
    pub(crate) fn clean_content(&self, call: &mut ToolCall) {
        if !self.secrets.is_empty() {
            self.clean_parts(&mut call.content);
        }
    }

    /// How many bytes at the end of `text` may be the beginning of a secret.
    fn unsure(&self, text: &str) -> usize {
        let bytes = text.as_bytes();
        let mut held = 0;
        for secret in &self.secrets {
            let longest = (secret.len() - 1).min(bytes.len());
            if let Some(n) =
                (held + 1..=longest).rev().find(|n| secret.as_bytes().starts_with(&bytes[bytes.len() - n..]))
            {
                held = n;
            }
        }
        // A cut inside a character cannot happen at the start of a secret, which is text itself; be safe all the same.
        while held < bytes.len() && !text.is_char_boundary(bytes.len() - held) {
            held += 1;
        }
        held
    }
}

/// One stream of text, such as a command's standard output.
#[derive(Default)]
pub(crate) struct StreamFilter {
    held: String,
}

impl StreamFilter {
    /// The next piece as it may be shown now; what is held back comes with a later piece.
    pub(crate) fn push(&mut self, filter: &SecretFilter, text: String) -> String {
        if filter.secrets.is_empty() {
            return text;
        }
        let mut all = std::mem::take(&mut self.held);
        all.push_str(&text);
        filter.clean(&mut all);
        let held = filter.unsure(&all);
        self.held = all.split_off(all.len() - held);
        all
    }

    /// What was held back, at the end of the stream.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> SecretFilter {
        SecretFilter { secrets: vec!["sk-abcdef-123456".into(), "hunter2hunter2".into()] }
    }

    #[test]
    fn a_secret_is_found_wherever_the_stream_is_cut() {
        let text = "start sk-abcdef-123456 mid hunter2hunter2 sk-abc end é";
        let wanted = "start [redacted] mid [redacted] sk-abc end é";
        let cuts: Vec<usize> = (0..=text.len()).filter(|i| text.is_char_boundary(*i)).collect();
        for &a in &cuts {
            for &b in cuts.iter().filter(|b| **b >= a) {
                let mut stream = StreamFilter::default();
                let mut out = String::new();
                for piece in [&text[..a], &text[a..b], &text[b..]] {
                    out += &stream.push(&filter(), piece.to_owned());
                }
                out += &stream.finish();
                assert_eq!(out, wanted, "{a} {b}");
            }
        }
    }

    #[test]
    fn words_are_no_secrets() {
        let secrets = ["postgres", "short", "correcthorsebattery", "p0stgres", "        "].map(Secret::new);
        let filter = SecretFilter::new(&secrets);
        assert!(filter.secrets.iter().any(|s| s == "correcthorsebattery"));
        assert!(!filter.secrets.iter().any(|s| s == "postgres" || s == "short"));
    }

    #[test]
    fn a_secret_is_found_in_base64_and_urls_too() {
        let filter = SecretFilter::new(&[Secret::new("sk-abc/def+123456")]);
        // `user:sk-abc/def+123456`, as in a header of basic authentication.
        let mut text = "Basic dXNlcjpzay1hYmMvZGVmKzEyMzQ1Ng== ?key=sk-abc%2Fdef%2B123456&n=1".to_owned();
        assert!(filter.clean(&mut text));
        assert!(!text.contains("YmMvZGVmKzEyMz") && !text.contains("def"), "{text}");
        assert!(text.starts_with("Basic dXNl") && text.ends_with("?key=[redacted]&n=1"), "{text}");
    }

    #[test]
    fn ordinary_output_is_not_delayed() {
        let mut stream = StreamFilter::default();
        assert_eq!(stream.push(&filter(), "compiling foo\n".into()), "compiling foo\n");
        assert_eq!(stream.push(&filter(), "a s".into()), "a ");
        assert_eq!(stream.push(&filter(), "o".into()), "so");
    }

    #[test]
    fn escaped_secrets_are_found_in_json() {
        let filter = SecretFilter::new(&[Secret::new("pass\"word\"x")]);
        let mut json = serde_json::json!({"out": "the pass\"word\"x here"}).to_string();
        filter.clean_json(&mut json);
        assert_eq!(json, r#"{"out":"the [redacted] here"}"#);
    }
}
