//! `gander extension check`: what is wrong with a document, found without a daemon and without starting anything.
//!
//! A finding names its place in the document and never repeats a value of it: values may be secret.

use std::{collections::BTreeMap, path::Path};

use gander_domain::extension::{ExtensionConfig, extension_key};
use gander_formats::extension::{Entry, entry_from_value, from_value, validate, warnings};
use serde_json::{Map, Value, json};

use crate::cli::{
    connect::Context,
    error::{CliError, CliResult, exit},
    json::pretty,
    output::{Tint, clean, paint},
    terminal,
};

/// No configuration is this large.
const MAX_FILE: u64 = 16 * 1024 * 1024;

#[derive(Debug, PartialEq, Eq)]
struct Finding {
    error: bool,
    /// Path in the document, for example `extensions.files.cmd`, or line and column where it cannot be read.
    place: String,
    message: String,
}

/// What a document holds and what is wrong with it.
#[derive(Debug, Default)]
struct Report {
    extensions: usize,
    findings: Vec<Finding>,
}

pub(super) fn check(context: &Context, file: &Path, as_json: bool) -> CliResult<u8> {
    let text = read(context, file)?;
    let report = examine(&text);
    let errors = report.findings.iter().filter(|finding| finding.error).count();
    let warned = report.findings.len() - errors;
    if as_json {
        let findings: Vec<Value> = report
            .findings
            .iter()
            .map(|finding| {
                json!({ "severity": severity(finding), "place": finding.place, "message": finding.message })
            })
            .collect();
        let value = json!({ "extensions": report.extensions, "errors": errors, "warnings": warned,
            "findings": findings });
        context.out.line(&pretty(&value))?;
    } else {
        for finding in &report.findings {
            let tint = if finding.error { Tint::Red } else { Tint::Yellow };
            let word = paint(context.out.color, tint, severity(finding));
            context.out.line(&format!("{word}: {}: {}", clean(&finding.place), clean(&finding.message)))?;
        }
        context.out.note(&format!(
            "{}, {}, {}",
            count(report.extensions, "extension"),
            count(errors, "error"),
            count(warned, "warning")
        ));
    }
    Ok(if errors == 0 { exit::OK } else { exit::ERROR })
}

fn severity(finding: &Finding) -> &'static str {
    if finding.error { "error" } else { "warning" }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn read(context: &Context, file: &Path) -> CliResult<String> {
    if file.as_os_str() == "-" {
        return terminal::read_stdin();
    }
    let path = context.absolute(file);
    let failed = |error: std::io::Error| CliError::new(format!("cannot read {}: {error}", path.display()));
    if std::fs::metadata(&path).map_err(failed)?.len() > MAX_FILE {
        return Err(CliError::new(format!("{} is larger than 16 MiB: no configuration", path.display())));
    }
    std::fs::read_to_string(&path).map_err(failed)
}

fn examine(text: &str) -> Report {
    let mut report = Report::default();
    let document = match parse(text) {
        Ok(document) => document,
        Err(finding) => {
            report.findings.push(finding);
            return report;
        }
    };
    match &document {
        Value::Null => report.warn("the document", "it is empty"),
        Value::Object(map) => match map.get("extensions") {
            Some(extensions) => report.collection("extensions", extensions),
            None if is_one(map) => report.one("", from_value(&document)),
            None if map.values().any(|value| value.as_object().is_some_and(looks_like_entry)) => {
                report.map("", map);
            }
            None => report.warn("the document", "there are no extensions in it"),
        },
        list @ Value::Array(_) => report.collection("", list),
        _ => report.error("the document", "it is neither a map nor a list; write a map of extensions"),
    }
    report
}

fn is_one(map: &Map<String, Value>) -> bool {
    map.get("type").is_some_and(Value::is_string)
}

fn looks_like_entry(map: &Map<String, Value>) -> bool {
    is_one(map) || map.contains_key("enabled")
}

/// YAML, of which JSON is a part. Twice the same key is an error.
fn parse(text: &str) -> Result<Value, Finding> {
    let broken = |error: serde_yaml_ng::Error| {
        let place = error.location().map_or_else(
            || "the document".to_owned(),
            |at| format!("line {}, column {}", at.line(), at.column()),
        );
        Finding { error: true, place, message: error.to_string() }
    };
    let yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(broken)?;
    serde_json::to_value(&yaml).map_err(|error| Finding {
        error: true,
        place: "the document".to_owned(),
        message: error.to_string(),
    })
}

impl Report {
    fn error(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.findings.push(Finding { error: true, place: place.into(), message: message.into() });
    }

    fn warn(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.findings.push(Finding { error: false, place: place.into(), message: message.into() });
    }

    /// `extensions` of a configuration (a map of entries) or of a recipe (a list of extensions).
    fn collection(&mut self, place: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Object(map) => self.map(place, map),
            Value::Array(list) => {
                let mut keys = BTreeMap::new();
                for (index, value) in list.iter().enumerate() {
                    let here = format!("{place}[{index}]");
                    let config = from_value(value);
                    let key = config.as_ref().map(|config| extension_key(&config.name)).ok();
                    self.one(&here, config);
                    self.unique(&mut keys, &here, key);
                }
            }
            _ => self.error(place, "it is neither a map nor a list of extensions"),
        }
    }

    fn map(&mut self, place: &str, map: &Map<String, Value>) {
        let mut keys = BTreeMap::new();
        for (key, value) in map {
            let here = join(place, key);
            let entry = entry_from_value(key, value);
            let made = entry.as_ref().map(|Entry { config, .. }| extension_key(&config.name)).ok();
            self.one(&here, entry.map(|entry| entry.config));
            self.unique(&mut keys, &here, made);
        }
    }

    fn one(&mut self, place: &str, config: Result<ExtensionConfig, gander_formats::FormatError>) {
        self.extensions += 1;
        match config {
            Err(error) => self.error(join(place, &error.field), error.message),
            Ok(config) => {
                for violation in validate(&config) {
                    self.error(join(place, &violation.field), violation.description);
                }
                for warning in warnings(&config) {
                    self.warn(join(place, &warning.field), warning.description);
                }
            }
        }
    }

    /// Tools are named after the key, so two extensions of a session cannot share it.
    fn unique(&mut self, keys: &mut BTreeMap<String, String>, place: &str, key: Option<String>) {
        let Some(key) = key.filter(|key| !key.is_empty()) else { return };
        match keys.get(&key) {
            Some(first) => {
                let message = format!("has the same key `{key}` as {first}; give it another name");
                self.error(join(place, "name"), message);
            }
            None => {
                keys.insert(key, place.to_owned());
            }
        }
    }
}

fn join(place: &str, field: &str) -> String {
    if place.is_empty() { field.to_owned() } else { format!("{place}.{field}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<(bool, String)> {
        examine(text).findings.into_iter().map(|finding| (finding.error, finding.place)).collect()
    }

    #[test]
    fn documents_of_every_shape() {
        let good = "{enabled: true, type: stdio, name: a, cmd: srv, args: []}";
        for (text, extensions, wanted) in [
            (format!("GOOSE_MODE: auto\nextensions:\n  a: {good}\n"), 1, &[][..]),
            (format!("a: {good}\n"), 1, &[]),
            ("type: stdio\nname: a\ncmd: srv\n".to_owned(), 1, &[]),
            ("extensions:\n- {type: builtin, name: todo}\n".to_owned(), 1, &[]),
            (r#"{"extensions": {"a": {"enabled": true, "type": "stdio", "cmd": ""}}}"#.to_owned(), 1, &[(
                true,
                "extensions.a.cmd",
            )]),
            ("extensions:\n  a: {type: stdio, cmd: x}\n".to_owned(), 1, &[(true, "extensions.a.enabled")]),
            ("extensions:\n- {type: stdio, name: a, cmd: 3}\n".to_owned(), 1, &[(true, "extensions[0].cmd")]),
            (
                "a: {enabled: true, type: sse, uri: 'http://x'}\nb: {enabled: true, type: stdio, cmd: x, env: {}}"
                    .to_owned(),
                2,
                &[(false, "a.type"), (false, "b.env")],
            ),
            (format!("a: {good}\nA: {good}\n"), 2, &[(true, "A.name")]),
            ("GOOSE_MODE: auto\n".to_owned(), 0, &[(false, "the document")]),
            (String::new(), 0, &[(false, "the document")]),
            ("hello".to_owned(), 0, &[(true, "the document")]),
            ("extensions: 3".to_owned(), 0, &[(true, "extensions")]),
            ("extensions:".to_owned(), 0, &[]),
        ] {
            assert_eq!(examine(&text).extensions, extensions, "{text}");
            let found = findings(&text);
            let found: Vec<(bool, &str)> = found.iter().map(|(error, place)| (*error, &**place)).collect();
            assert_eq!(found, wanted, "{text}: {:?}", examine(&text).findings);
        }
    }

    #[test]
    fn unreadable_documents_name_the_line() {
        for text in ["a: [1\nb: 2\n", "{\"a\": \n\"b\" \"c\"}"] {
            let found = examine(text).findings;
            assert!(found[0].error && found[0].place.starts_with("line "), "{found:?}");
        }
        let twice = examine("a: {enabled: true, type: builtin}\na: {enabled: true, type: builtin}\n");
        assert!(twice.findings[0].message.contains("duplicate"), "{twice:?}");
    }
}
