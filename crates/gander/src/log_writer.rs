//! The log's way to stderr: known secrets, and words that look like keys, are taken out of every line.
//!
//! Libraries log what passes through them, tool output included. The list of secrets is the subscriber's and therefore the
//! process's: the environment's at the start, those of a daemon's configuration as they become known.

use std::{
    io::{self, Write},
    sync::{PoisonError, RwLock},
};

use gander_config::{Environment, Secret, is_secret_name};
use gander_model::Redactor;
use tracing_subscriber::fmt::MakeWriter;

/// Shorter ones would blot out ordinary words.
const SHORTEST: usize = 8;

/// What is known so far.
static KNOWN: RwLock<Known> = RwLock::new(Known { values: Vec::new(), redactor: None });

struct Known {
    values: Vec<Secret>,
    redactor: Option<Redactor>,
}

/// These secrets are never logged from now on.
pub(crate) fn hide(secrets: Vec<Secret>) {
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    let before = known.values.len();
    for secret in secrets {
        if !known.values.iter().any(|value| value.expose() == secret.expose()) {
            known.values.push(secret);
        }
    }
    if known.values.len() > before || known.redactor.is_none() {
        let forms =
            known.values.iter().filter(|secret| secret.expose().len() >= SHORTEST).flat_map(Secret::forms);
        let forms: Vec<String> = forms.map(|form| form.expose().to_owned()).collect();
        known.redactor = Some(Redactor::new(forms));
    }
}

/// The secrets of an environment are never logged.
pub(crate) fn hide_environment(environment: &Environment) {
    let secret = |(name, value): (&str, &str)| is_secret_name(name).then(|| Secret::new(value));
    hide(environment.iter().filter_map(secret).collect());
}

fn clean(line: &[u8]) -> Vec<u8> {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(line);
    match &known.redactor {
        Some(redactor) => redactor.apply(&text).into_bytes(),
        None => text.into_owned().into_bytes(),
    }
}

/// Writes cleaned lines to stderr.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CleanStderr;

impl<'a> MakeWriter<'a> for CleanStderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for CleanStderr {
    /// The subscriber writes whole lines.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&clean(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A panic's message may quote what it failed on, and goes to stderr without passing the log.
pub(crate) fn hide_in_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let mut text = format!("thread {:?} {panic}\n", thread.name().unwrap_or("unnamed"));
        let backtrace = std::backtrace::Backtrace::capture();
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            text.push_str(&format!("{backtrace}\n"));
        }
        // Nobody is left to be told.
        let _ = CleanStderr.write(text.as_bytes());
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_secrets_and_words_that_look_like_keys() {
        hide(vec![Secret::new("a-very-own-secret")]);
        let environment: Environment =
            [("SOME_API_KEY", "from-the-environment"), ("PATH", "/ordinary/path/here")].into_iter().collect();
        hide_environment(&environment);
        let line = b"text a-very-own-secret from-the-environment sk-ant-0123456789 /ordinary/path/here\n";
        let cleaned = String::from_utf8(clean(line)).unwrap();
        assert_eq!(cleaned, "text [redacted] [redacted] [redacted] /ordinary/path/here\n");
    }
}
