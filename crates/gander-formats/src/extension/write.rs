//! Configuration → document.

use gander_domain::extension::{
    ExtensionConfig, ExtensionTransport, ProtocolEra, SamplingPolicy, Sandbox, SandboxMode,
};
use serde_json::{Map, Value};

use super::{secrets::unknown_fields, tools};

/// Common fields that Goose writes for a type, whatever their values.
fn always(transport: &ExtensionTransport) -> &'static [&'static str] {
    match transport {
        ExtensionTransport::Builtin => {
            &["name", "description", "display_name", "timeout", "bundled", "available_tools"]
        }
        ExtensionTransport::Platform => {
            &["name", "description", "display_name", "bundled", "available_tools"]
        }
        ExtensionTransport::Stdio { .. } | ExtensionTransport::StreamableHttp { .. } => {
            &["name", "description", "envs", "env_keys", "timeout", "bundled", "available_tools"]
        }
        ExtensionTransport::InlinePython { .. } => &["name", "description", "timeout", "available_tools"],
        ExtensionTransport::Client { .. } => &["name", "description", "bundled", "available_tools"],
        ExtensionTransport::Sse { .. } => &["name", "description"],
        ExtensionTransport::Unknown { .. } => &[],
    }
}

/// All fields of a configuration. Known fields win over unknown ones of the same name.
pub(super) fn config(config: &ExtensionConfig) -> Map<String, Value> {
    let mut unknown = unknown_fields(config);
    let mut map = Map::new();
    map.insert("type".to_owned(), Value::from(config.transport.kind()));
    map.extend(common(config, always(&config.transport)));
    transport(&config.transport, &mut unknown, &mut map);
    unknown.retain(|field, _| !map.contains_key(field));
    map.extend(unknown);
    map
}

/// The fields that every type may have: those of `always`, and those that are not at their defaults.
pub(super) fn common(config: &ExtensionConfig, always: &[&str]) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |field: &str, is_set: bool, value: Value| {
        if is_set || always.contains(&field) {
            map.insert(field.to_owned(), value);
        }
    };
    put("name", !config.name.is_empty(), Value::from(config.name.as_str()));
    put("description", !config.description.is_empty(), Value::from(config.description.as_str()));
    put("display_name", config.display_name.is_some(), Value::from(config.display_name.clone()));
    put("bundled", config.bundled, if config.bundled { Value::Bool(true) } else { Value::Null });
    // Goose knows whole seconds only; rounding up never cuts a call short.
    let seconds = config.timeout_ms.map(|millis| millis.div_ceil(1000));
    put("timeout", seconds.is_some(), Value::from(seconds));
    let fraction = config.timeout_ms.is_some_and(|millis| millis % 1000 != 0);
    put("timeout_ms", fraction, Value::from(config.timeout_ms));
    put("available_tools", !config.tool_allowlist.is_empty(), Value::from(config.tool_allowlist.clone()));
    let envs = config.env.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    put("envs", !config.env.is_empty(), Value::Object(envs.collect()));
    put("env_keys", !config.env_keys.is_empty(), Value::from(config.env_keys.clone()));
    put("exec_prefix", !config.exec_prefix.is_empty(), Value::from(config.exec_prefix.clone()));
    let protocol = match config.protocol {
        ProtocolEra::Auto => "auto",
        ProtocolEra::Legacy => "legacy",
        ProtocolEra::Modern => "modern",
    };
    put("protocol", config.protocol != ProtocolEra::Auto, Value::from(protocol));
    let sampling = match config.sampling {
        SamplingPolicy::Off => "off",
        SamplingPolicy::Ask => "ask",
        SamplingPolicy::Allow => "allow",
    };
    put("sampling", config.sampling != SamplingPolicy::Off, Value::from(sampling));
    put("sandbox", config.sandbox.is_some(), config.sandbox.as_ref().map_or(Value::Null, sandbox));
    put("pin_definitions", config.pin_definitions, Value::Bool(true));
    map
}

fn sandbox(sandbox: &Sandbox) -> Value {
    let mode = match sandbox.mode {
        SandboxMode::Off => "off",
        SandboxMode::ReadOnly => "read_only",
        SandboxMode::WorkspaceWrite => "workspace_write",
    };
    let mut map = Map::from_iter([("mode".to_owned(), Value::from(mode))]);
    if !sandbox.writable_paths.is_empty() {
        map.insert("writable_paths".to_owned(), Value::from(sandbox.writable_paths.clone()));
    }
    if !sandbox.readable_paths.is_empty() {
        map.insert("readable_paths".to_owned(), Value::from(sandbox.readable_paths.clone()));
    }
    if sandbox.network {
        map.insert("network".to_owned(), Value::Bool(true));
    }
    Value::Object(map)
}

fn transport(transport: &ExtensionTransport, unknown: &mut Map<String, Value>, map: &mut Map<String, Value>) {
    let mut put = |field: &str, value: Value| {
        map.insert(field.to_owned(), value);
    };
    match transport {
        ExtensionTransport::Builtin | ExtensionTransport::Platform | ExtensionTransport::Unknown { .. } => {}
        ExtensionTransport::Stdio { command, args } => {
            put("cmd", Value::from(command.as_str()));
            put("args", Value::from(args.clone()));
        }
        ExtensionTransport::StreamableHttp { uri, headers, unix_socket } => {
            put("uri", Value::from(uri.as_str()));
            let headers = headers.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
            put("headers", Value::Object(headers.collect()));
            let spelling = if unknown.remove("socket").is_some() { "socket" } else { "unix_socket" };
            if let Some(path) = unix_socket {
                put(spelling, Value::from(path.as_str()));
            }
        }
        ExtensionTransport::InlinePython { code, dependencies } => {
            put("code", Value::from(code.as_str()));
            let dependencies = (!dependencies.is_empty()).then(|| dependencies.clone());
            put("dependencies", Value::from(dependencies));
        }
        ExtensionTransport::Client { tools, instructions } => {
            let remainder = unknown.remove("tools");
            put("tools", tools::write(tools, remainder.as_ref().and_then(Value::as_object)));
            put("instructions", Value::from(instructions.clone()));
        }
        ExtensionTransport::Sse { uri } => {
            put("uri", if uri.is_empty() { Value::Null } else { Value::from(uri.as_str()) });
        }
    }
}
