//! A connection on paper: one JSON line per message, `{"ms": …, "dir": "out"|"in", "message": …}`, secrets redacted.
//! For reports of errors, and for tests without the server (see [`super::replay`]).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde::Serialize;
use serde_json::{Value, json};

/// Recordings of one key in one directory.
const MAX_FILES: usize = 10_000;

/// Writes what goes over one connection. Failing to write ends the recording, never the connection.
pub(crate) struct Recorder {
    file: Mutex<Option<File>>,
    started: Instant,
    sensitive: Vec<String>,
}

impl Recorder {
    /// A new file `KEY-<n>.jsonl` in `directory`, readable by its owner only.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn create(directory: &Path, key: &str, sensitive: &[String]) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        for number in 1..=MAX_FILES {
            let path = directory.join(format!("{key}-{number}.jsonl"));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
                Ok(file) => {
                    let file = Mutex::new(Some(file));
                    return Ok(Self { file, started: Instant::now(), sensitive: sensitive.to_vec() });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("there are {MAX_FILES} recordings of {key} already")))
    }

    pub(super) fn write(&self, direction: &str, message: &impl Serialize) {
        let Ok(mut message) = serde_json::to_value(message) else { return };
        redact(&mut message, &self.sensitive);
        let line = json!({"ms": u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "dir": direction, "message": message});
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = file.as_mut()
            && let Err(error) = open.write_all(format!("{line}\n").as_bytes())
        {
            tracing::warn!(%error, "the recording of a server ends here");
            *file = None;
        }
    }
}

/// Replaces secrets in all texts of `value`, names of fields included.
pub(super) fn redact(value: &mut Value, sensitive: &[String]) {
    let clean = |text: &str| {
        sensitive.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "[redacted]"))
    };
    if sensitive.is_empty() {
        return;
    }
    match value {
        Value::String(text) => *text = clean(text),
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, sensitive)),
        Value::Object(fields) => {
            let old = std::mem::take(fields);
            for (name, mut field) in old {
                redact(&mut field, sensitive);
                fields.insert(clean(&name), field);
            }
        }
        _ => {}
    }
}
