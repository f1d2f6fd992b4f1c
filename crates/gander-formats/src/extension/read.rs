//! Document → configuration.

use std::collections::BTreeMap;

use gander_domain::extension::{
    ExtensionConfig, ExtensionTransport, ProtocolEra, SamplingPolicy, Sandbox, SandboxMode, extension_key,
};
use serde_json::{Map, Value};

use super::{fields::Fields, secrets::canonical_text, tools, write};
use crate::FormatError;

/// Fields that every type may have, in groups that make sense only together.
const COMMON: &[&[&str]] = &[
    &["name"],
    &["description"],
    &["display_name"],
    &["bundled"],
    &["timeout", "timeout_ms"],
    &["available_tools"],
    &["envs"],
    &["env_keys"],
    &["exec_prefix"],
    &["protocol"],
    &["sampling"],
    &["sandbox"],
    &["pin_definitions"],
];

/// Reads a configuration from an object's fields.
pub(super) fn config(map: Map<String, Value>) -> Result<ExtensionConfig, FormatError> {
    let mut fields = Fields(map);
    // Only the entry around a configuration may be enabled; see the module's header.
    if fields.0.get("enabled").is_some_and(|flag| flag.is_boolean() || flag.is_null()) {
        fields.0.remove("enabled");
    }
    let kind = kind(&mut fields)?;
    let mut config = empty();
    match kind.as_str() {
        "builtin" | "platform" | "stdio" | "streamable_http" | "inline_python" | "frontend" | "sse" => {
            common(&mut fields, &mut config)?;
            if config.name.is_empty() && kind != "sse" {
                return Err(FormatError::extension(
                    "name",
                    "missing; add `name`: what the extension is called, unique among the extensions",
                ));
            }
            let mut kept = Map::new();
            config.transport = transport(&kind, &config.name, &mut fields, &mut kept)?;
            fields.0.extend(kept);
        }
        _ => {
            lenient(&mut fields, &mut config)?;
            config.transport = ExtensionTransport::Unknown { kind };
        }
    }
    config.unknown_json = (!fields.0.is_empty()).then(|| canonical_text(&Value::Object(fields.0)));
    Ok(config)
}

pub(super) fn empty() -> ExtensionConfig {
    ExtensionConfig {
        name: String::new(),
        transport: ExtensionTransport::Builtin,
        description: String::new(),
        display_name: None,
        bundled: false,
        timeout_ms: None,
        tool_allowlist: Vec::new(),
        env: BTreeMap::new(),
        env_keys: Vec::new(),
        exec_prefix: Vec::new(),
        protocol: ProtocolEra::Auto,
        sampling: SamplingPolicy::Off,
        sandbox: None,
        pin_definitions: false,
        unknown_json: None,
    }
}

/// `sandbox: {mode: read_only|workspace_write|off, writable_paths: [...], readable_paths: [...], network: true|false}`.
fn sandbox(fields: &mut Fields) -> Result<Option<Sandbox>, FormatError> {
    let Some(value) = fields.take("sandbox") else { return Ok(None) };
    let Value::Object(map) = value else {
        return Err(FormatError::wrong_type(
            "sandbox",
            &value,
            "an object",
            "write `sandbox: {mode: workspace_write}`",
        ));
    };
    const KNOWN: [&str; 4] = ["mode", "writable_paths", "readable_paths", "network"];
    if let Some(unknown) = map.keys().find(|k| !KNOWN.contains(&k.as_str())) {
        // A misspelt bound must not become no bound.
        return Err(FormatError::extension(
            format!("sandbox.{unknown}"),
            "not known; the fields are mode, writable_paths, readable_paths and network",
        ));
    }
    let mut fields = Fields(map);
    let mode = match fields.text("mode")?.as_deref() {
        Some("off") => SandboxMode::Off,
        Some("read_only") => SandboxMode::ReadOnly,
        None | Some("workspace_write") => SandboxMode::WorkspaceWrite,
        Some(_) => {
            return Err(FormatError::extension("sandbox.mode", "must be off, read_only or workspace_write"));
        }
    };
    let mut paths = |field: &str| {
        let paths = fields.texts(field)?;
        match paths.iter().find(|p| !p.starts_with('/')) {
            Some(path) => {
                let message = format!("{path:?} must be an absolute path");
                Err(FormatError::extension(format!("sandbox.{field}"), message))
            }
            None => Ok(paths),
        }
    };
    let (writable_paths, readable_paths) = (paths("writable_paths")?, paths("readable_paths")?);
    Ok(Some(Sandbox { mode, writable_paths, readable_paths, network: fields.flag("network")? }))
}

fn kind(fields: &mut Fields) -> Result<String, FormatError> {
    const TYPES: &str = "builtin, platform, stdio, streamable_http, inline_python or frontend";
    match fields.take("type") {
        Some(Value::String(kind)) if !kind.is_empty() => Ok(kind),
        Some(other) if !other.is_string() => {
            Err(FormatError::wrong_type("type", &other, "a string", &format!("use one of {TYPES}")))
        }
        _ => {
            let guess = [
                ("cmd", "stdio"),
                ("command", "stdio"),
                ("uri", "streamable_http"),
                ("url", "streamable_http"),
                ("code", "inline_python"),
            ]
            .into_iter()
            .find(|(field, _)| fields.0.contains_key(*field));
            Err(FormatError::extension(
                "type",
                match guess {
                    Some((field, kind)) => format!("missing; with `{field}` it is probably `type: {kind}`"),
                    None => format!("missing; add `type`: one of {TYPES}"),
                },
            ))
        }
    }
}

fn common(fields: &mut Fields, config: &mut ExtensionConfig) -> Result<(), FormatError> {
    config.name = fields.text("name")?.unwrap_or_default();
    config.description = fields.text("description")?.unwrap_or_default();
    config.display_name = fields.text("display_name")?;
    config.bundled = fields.flag("bundled")?;
    config.timeout_ms = timeout(fields)?;
    config.tool_allowlist = fields.texts("available_tools")?;
    config.env = fields.text_map("envs")?;
    config.env_keys = fields.texts("env_keys")?;
    config.exec_prefix = fields.texts("exec_prefix")?;
    config.protocol = match fields.text("protocol")?.as_deref() {
        None | Some("auto") => ProtocolEra::Auto,
        Some("legacy") => ProtocolEra::Legacy,
        Some("modern") => ProtocolEra::Modern,
        Some(_) => {
            return Err(FormatError::extension(
                "protocol",
                "found another word, expected auto, legacy or modern; leave it out to negotiate",
            ));
        }
    };
    config.sampling = match fields.text("sampling")?.as_deref() {
        None | Some("off") => SamplingPolicy::Off,
        Some("ask") => SamplingPolicy::Ask,
        Some("allow") => SamplingPolicy::Allow,
        Some(_) => return Err(FormatError::extension("sampling", "must be off, ask or allow")),
    };
    config.sandbox = sandbox(fields)?;
    config.pin_definitions = fields.flag("pin_definitions")?;
    Ok(())
}

/// `timeout` is Goose's, in seconds. `timeout_ms` refines it; if the two disagree, somebody edited Goose's.
fn timeout(fields: &mut Fields) -> Result<Option<u64>, FormatError> {
    let seconds = fields.whole("timeout", "seconds")?;
    let millis = fields.whole("timeout_ms", "milliseconds")?;
    match (seconds, millis) {
        (None, millis) => Ok(millis),
        (Some(seconds), Some(millis)) if seconds == millis.div_ceil(1000) => Ok(Some(millis)),
        (Some(seconds), _) => seconds.checked_mul(1000).map(Some).ok_or_else(|| {
            FormatError::extension("timeout", "too large; write seconds, at most 3600 (one hour)")
        }),
    }
}

/// Takes the common fields whose values survive a rewrite unchanged; the others stay among the unknown ones, as
/// nobody can say what they mean in a type that this build does not know.
fn lenient(fields: &mut Fields, config: &mut ExtensionConfig) -> Result<(), FormatError> {
    let mut known = Map::new();
    for group in COMMON {
        let part: Map<String, Value> = group
            .iter()
            .filter_map(|field| Some(((*field).to_owned(), fields.0.get(*field)?.clone())))
            .collect();
        let mut alone = empty();
        let readable = common(&mut Fields(part.clone()), &mut alone).is_ok();
        if readable && write::common(&alone, &[]) == part {
            fields.0.retain(|field, _| !part.contains_key(field));
            known.extend(part);
        }
    }
    common(&mut Fields(known), config)
}

/// Reads the type's own fields. What a modelled field cannot hold goes to `kept`, under that field's name.
fn transport(
    kind: &str,
    name: &str,
    fields: &mut Fields,
    kept: &mut Map<String, Value>,
) -> Result<ExtensionTransport, FormatError> {
    Ok(match kind {
        "builtin" => ExtensionTransport::Builtin,
        "platform" => ExtensionTransport::Platform,
        "stdio" => ExtensionTransport::Stdio {
            command: fields.required_text("cmd", Some("command"), "the program, without its arguments")?,
            args: fields.texts("args")?,
        },
        "streamable_http" => ExtensionTransport::StreamableHttp {
            uri: fields.required_text("uri", Some("url"), "the server's http or https address")?,
            headers: fields.text_map("headers")?,
            unix_socket: unix_socket(fields, kept)?,
        },
        "inline_python" => ExtensionTransport::InlinePython {
            code: fields.required_text("code", None, "the Python source to run")?,
            dependencies: fields.texts("dependencies")?,
        },
        "frontend" => {
            let (tools, remainder) = tools::read(fields.list("tools")?, &extension_key(name))?;
            if !remainder.is_empty() {
                kept.insert("tools".to_owned(), Value::Object(remainder));
            }
            ExtensionTransport::Client { tools, instructions: fields.text("instructions")? }
        }
        _ => ExtensionTransport::Sse { uri: fields.text("uri")?.unwrap_or_default() },
    })
}

/// Goose's later spelling `socket` stays in `kept` as the mark that it is to be written again.
fn unix_socket(fields: &mut Fields, kept: &mut Map<String, Value>) -> Result<Option<String>, FormatError> {
    let own = fields.text("unix_socket")?;
    let goose = fields.text("socket")?;
    match (own, goose) {
        (Some(own), Some(goose)) if own != goose => Err(FormatError::extension(
            "unix_socket",
            "found another path than in `socket`; both name the server's unix socket, keep one of them",
        )),
        (own, Some(goose)) => {
            kept.insert("socket".to_owned(), Value::from(goose.as_str()));
            Ok(own.or(Some(goose)))
        }
        (own, None) => Ok(own),
    }
}
