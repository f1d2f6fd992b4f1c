//! Withholding values that may be secrets, restoring them, and the hash that tells configurations apart.

use std::collections::BTreeMap;

use gander_domain::extension::{ExtensionConfig, ExtensionTransport};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::to_value;

/// The configuration with the values of `envs` and `headers` replaced by empty strings. Strings and numbers in
/// unknown fields are withheld as well, since nobody can say what they are; names, flags and structure stay.
#[must_use]
pub fn redacted(config: &ExtensionConfig) -> ExtensionConfig {
    let mut config = config.clone();
    config.env.values_mut().for_each(String::clear);
    if let ExtensionTransport::StreamableHttp { headers, .. } = &mut config.transport {
        headers.values_mut().for_each(String::clear);
    }
    if config.unknown_json.is_some() {
        let mut unknown = Value::Object(unknown_fields(&config));
        withhold(&mut unknown);
        config.unknown_json = Some(canonical_text(&unknown));
    }
    config
}

/// Puts the values of `stored` back where `config` has withheld ones (see [`redacted`]): for a client that reads a
/// redacted configuration, edits it and sends it back. Values that the client did set are left alone;
/// so is everything if the program or the address changed.
#[must_use]
pub fn restore_withheld(mut config: ExtensionConfig, stored: &ExtensionConfig) -> ExtensionConfig {
    // A stored credential does not follow the client to another program or server.
    if same_target(&config.transport, &stored.transport) {
        restore_map(&mut config.env, &stored.env);
        if let (
            ExtensionTransport::StreamableHttp { headers, .. },
            ExtensionTransport::StreamableHttp { headers: known, .. },
        ) = (&mut config.transport, &stored.transport)
        {
            restore_map(headers, known);
        }
        if config.unknown_json == redacted(stored).unknown_json {
            config.unknown_json.clone_from(&stored.unknown_json);
        }
    }
    config
}

fn same_target(one: &ExtensionTransport, other: &ExtensionTransport) -> bool {
    use ExtensionTransport::{Stdio, StreamableHttp};
    match (one, other) {
        (Stdio { command, .. }, Stdio { command: known, .. }) => command == known,
        (
            StreamableHttp { uri, unix_socket, .. },
            StreamableHttp { uri: known, unix_socket: known_socket, .. },
        ) => uri == known && unix_socket == known_socket,
        _ => one.kind() == other.kind(),
    }
}

fn restore_map(values: &mut BTreeMap<String, String>, stored: &BTreeMap<String, String>) {
    for (key, value) in values {
        if let (true, Some(known)) = (value.is_empty(), stored.get(key)) {
            value.clone_from(known);
        }
    }
}

/// Hex SHA-256 over the canonical JSON of the document, values included: equal for equal configurations in every
/// build and whatever order their maps were written in.
pub fn config_hash(config: &ExtensionConfig) -> String {
    let digest = Sha256::digest(canonical_text(&to_value(config)).as_bytes());
    digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
        for nibble in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        hex
    })
}

/// The unknown fields; none if the text is no JSON object.
pub(super) fn unknown_fields(config: &ExtensionConfig) -> Map<String, Value> {
    match config.unknown_json.as_deref().map(serde_json::from_str) {
        Some(Ok(Value::Object(map))) => map,
        _ => Map::new(),
    }
}

fn withhold(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::String(_) | Value::Number(_) => *value = Value::String(String::new()),
        Value::Array(list) => list.iter_mut().for_each(withhold),
        Value::Object(map) => map.values_mut().for_each(withhold),
    }
}

/// Compact JSON with sorted keys. Sorted here, since another crate of the build may switch serde_json's maps to
/// insertion order.
pub(super) fn canonical_text(value: &Value) -> String {
    sorted(value).to_string()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            Value::Object(pairs.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        other => other.clone(),
    }
}
