//! An archive with what helps to find a fault. It is made to be sent to somebody: secrets are taken out of every file,
//! and environment and header values of extensions are not in it at all.

use std::io::{Cursor, Read as _, Seek as _, SeekFrom, Write as _};

use gander_domain::{
    ErrorDetail, Event, SessionId,
    extension::{ExtensionConfig, ExtensionTransport},
};
use gander_model::Redactor;
use serde_json::{Value, json};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::Engine;
use crate::services::store_error;

/// The end of the log file that is put in, in bytes.
const MAX_LOG: u64 = 2 << 20;
/// Most bytes of a session's events; the newest count.
const MAX_EVENTS: usize = 64 << 20;

const README: &str = "Made by `gander` to help find a fault.\n\n\
server.json      the daemon\n\
config.json      settings with their origin\n\
secrets.json     which secrets are set; no values\n\
extensions.json  configured extensions; environment and header values are left out\n\
problems.json    what is wrong with the configuration files, and what the store's check found\n\
logs/            the end of the daemon's log\n\
session/         one session, if one was chosen: its summary and its events\n\n\
Known secrets and words that look like keys were replaced by [redacted]. A session holds what was said in it: read it\n\
before you pass it on.\n";

impl Engine {
    /// The archive as bytes of a zip file. `server` describes the daemon.
    ///
    /// # Errors
    /// `SESSION_NOT_FOUND`, or a store that cannot be read.
    pub async fn diagnostics(
        &self,
        session_id: Option<&SessionId>,
        server: Value,
    ) -> Result<Vec<u8>, ErrorDetail> {
        let session = match session_id {
            None => None,
            Some(id) => Some((self.session(id).await?, self.recent_events(id).await?)),
        };
        let check = self.check_store(session_id).await?;
        let findings: Vec<Value> = check
            .findings
            .iter()
            .map(|(id, sequence, rule, text)| {
                json!({ "session_id": id, "sequence": sequence, "rule": rule, "text": text })
            })
            .collect();
        let config = self.config().clone();
        let (extensions, unreadable) = self.configured_extensions_with_problems();
        let packed = tokio::task::spawn_blocking(move || {
            let secrets = config.secret_values();
            let secrets =
                secrets.iter().filter(|s| s.expose().len() >= 8).flat_map(gander_config::Secret::forms);
            let secrets = secrets.map(|s| s.expose().to_owned()).collect::<Vec<_>>();
            let mut archive = Archive::new(Redactor::new(secrets));
            archive.add("README.txt", README)?;
            archive.json("server.json", &server)?;
            archive.json("config.json", &settings(&config))?;
            archive.json("secrets.json", &secret_names(&config))?;
            let extensions: Vec<Value> = extensions
                .into_iter()
                .map(|e| json!({ "key": e.key, "enabled": e.enabled, "config": withheld(e.config) }))
                .collect();
            archive.json("extensions.json", &Value::Array(extensions))?;
            archive.json("problems.json", &problems(&config, &unreadable, &findings))?;
            if let Some(log) = tail(&config.paths().log_file()) {
                archive.add("logs/gander.log", &log)?;
            }
            if let Some((session, events)) = session {
                archive.json("session/session.json", &json!(session))?;
                archive.add("session/events.jsonl", &events)?;
            }
            archive.finish()
        });
        let packed = packed.await.map_err(|e| ErrorDetail::internal(e.to_string()))?;
        packed.map_err(|e| ErrorDetail::internal(format!("the archive could not be made: {e}")))
    }

    /// The events of a session as lines of JSON, the oldest left out where there are too many.
    async fn recent_events(&self, session_id: &SessionId) -> Result<String, ErrorDetail> {
        let (mut out, mut after) = (String::new(), 0);
        loop {
            let read = self.services.store.read_events(session_id, after, 4096, 8 << 20).await;
            let page = read.map_err(|e| store_error(&e))?;
            for event in &page.events {
                out.push_str(&line(event));
                after = event.sequence;
            }
            if out.len() > MAX_EVENTS {
                let mut cut = out.len() - MAX_EVENTS / 2;
                while !out.is_char_boundary(cut) {
                    cut += 1;
                }
                let from = out[cut..].find('\n').map_or(cut, |at| cut + at + 1);
                out.drain(..from);
            }
            if page.events.is_empty() || after >= page.last_sequence {
                return Ok(out);
            }
        }
    }
}

fn line(event: &Event) -> String {
    let mut line = serde_json::to_string(event).unwrap_or_default();
    line.push('\n');
    line
}

/// A zip file in memory whose texts have no secrets.
struct Archive {
    zip: ZipWriter<Cursor<Vec<u8>>>,
    redactor: Redactor,
}

impl Archive {
    fn new(redactor: Redactor) -> Self {
        Self { zip: ZipWriter::new(Cursor::new(Vec::new())), redactor }
    }

    fn add(&mut self, name: &str, text: &str) -> std::io::Result<()> {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        self.zip.start_file(name, options).map_err(std::io::Error::other)?;
        self.zip.write_all(self.redactor.apply(text).as_bytes())
    }

    fn json(&mut self, name: &str, value: &Value) -> std::io::Result<()> {
        self.add(name, &serde_json::to_string_pretty(value).map_err(std::io::Error::other)?)
    }

    fn finish(self) -> std::io::Result<Vec<u8>> {
        Ok(self.zip.finish().map_err(std::io::Error::other)?.into_inner())
    }
}

fn settings(config: &gander_config::ConfigHandle) -> Value {
    let listed = config.current().list();
    listed
        .into_iter()
        .filter_map(|l| {
            let entry = l.entry?;
            Some(json!({ "key": l.key, "value": entry.value, "origin": entry.origin.name() }))
        })
        .collect()
}

fn secret_names(config: &gander_config::ConfigHandle) -> Value {
    config.secret_statuses(&[]).into_iter().map(|s| json!({ "key": s.key, "set": s.set })).collect()
}

fn withheld(mut config: ExtensionConfig) -> Value {
    const WITHHELD: &str = "[withheld]";
    for value in config.env.values_mut() {
        WITHHELD.clone_into(value);
    }
    if let ExtensionTransport::StreamableHttp { headers, .. } = &mut config.transport {
        for value in headers.values_mut() {
            WITHHELD.clone_into(value);
        }
    }
    // What this build does not know may be anything.
    config.unknown_json = None;
    gander_formats::extension::to_value(&config)
}

fn problems(config: &gander_config::ConfigHandle, unreadable: &[String], store: &[Value]) -> Value {
    let health = config.health();
    let told = |p: gander_config::Problem| json!({ "path": p.path, "message": p.message });
    json!({
        "config": health.problems.into_iter().map(told).collect::<Vec<_>>(),
        "warnings": health.warnings.into_iter().map(told).collect::<Vec<_>>(),
        "extensions": unreadable,
        "store": store,
    })
}

fn tail(path: &std::path::Path) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG))).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_has_no_secrets() {
        let mut archive = Archive::new(Redactor::new(["very-secret-value".to_owned()]));
        archive.add("a/b.txt", "key very-secret-value and sk-abcdefghijklmnop").unwrap();
        let bytes = archive.finish().unwrap();
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut text = String::new();
        zip.by_name("a/b.txt").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "key [redacted] and [redacted]");
    }
}
