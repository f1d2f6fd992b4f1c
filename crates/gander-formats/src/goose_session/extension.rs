//! Goose's `ExtensionConfig` JSON ⇄ the API's message, for `/config/extensions`, `/agent/*`, sessions and recipes.
//!
//! The JSON is read and written by `gander-formats`, so that a REST body means what the same entry in `config.yaml`
//! means; here is only the step between that model and the message. Nothing is lost: fields that nobody knows travel as
//! `raw_json`.

use std::collections::HashMap;

use gander_proto::v1::{self as pb, extension_config::Kind};
use serde_json::{Map, Value};

use crate::{
    FormatError,
    extension::{
        self as format, ExtensionConfig, ExtensionTransport, ProtocolEra, SamplingPolicy, Sandbox,
        SandboxMode, ToolAnnotations, ToolDefinition, ToolVisibility, extension_key,
    },
};

/// Reads Goose's JSON.
///
/// # Errors
/// The first field that is missing or has the wrong type; see [`format::from_value`].
pub fn to_proto(json: &Value) -> Result<pb::ExtensionConfig, FormatError> {
    format::from_value(json).map(|config| message(&config))
}

/// Writes Goose's JSON with every field that Goose writes for the kind.
pub fn to_json(config: &pb::ExtensionConfig) -> Value {
    format::to_value(&model(config))
}

/// One entry of Goose's list of configured extensions: the configuration's fields beside `enabled`.
pub fn entry_json(config: &pb::ExtensionConfig, enabled: bool) -> Map<String, Value> {
    let mut map = match to_json(config) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    map.insert("enabled".to_owned(), Value::Bool(enabled));
    map
}

/// What does not prevent a start but probably is not meant, one sentence each.
pub fn warnings(config: &pb::ExtensionConfig) -> Vec<String> {
    format::warnings(&model(config)).into_iter().map(|found| found.description).collect()
}

fn message(config: &ExtensionConfig) -> pb::ExtensionConfig {
    pb::ExtensionConfig {
        name: config.name.clone(),
        key: String::new(),
        description: config.description.clone(),
        display_name: config.display_name.clone().unwrap_or_default(),
        bundled: config.bundled.then_some(true),
        timeout: config.timeout_ms.map(duration),
        tool_allowlist: config.tool_allowlist.clone(),
        env: pairs(&config.env),
        env_keys: config.env_keys.clone(),
        kind: Some(kind(&config.transport)),
        exec_prefix: config.exec_prefix.clone(),
        protocol: match config.protocol {
            ProtocolEra::Auto => pb::McpProtocol::Auto,
            ProtocolEra::Legacy => pb::McpProtocol::Legacy,
            ProtocolEra::Modern => pb::McpProtocol::Modern,
        } as i32,
        sampling: sampling(config.sampling),
        sandbox: config.sandbox.as_ref().map(sandbox),
        pin_definitions: config.pin_definitions,
        raw_json: config.unknown_json.clone().unwrap_or_default(),
    }
}

/// No policy is the message for the strictest one, so that a plain configuration stays a plain message.
fn sampling(policy: SamplingPolicy) -> Option<pb::SamplingPolicy> {
    let mode = match policy {
        SamplingPolicy::Off => return None,
        SamplingPolicy::Ask => pb::SamplingMode::Ask,
        SamplingPolicy::Allow => pb::SamplingMode::Allow,
    };
    Some(pb::SamplingPolicy { mode: mode as i32, ..Default::default() })
}

fn sandbox(sandbox: &Sandbox) -> pb::ExtensionSandbox {
    let mode = match sandbox.mode {
        SandboxMode::Off => pb::SandboxMode::Off,
        SandboxMode::ReadOnly => pb::SandboxMode::ReadOnly,
        SandboxMode::WorkspaceWrite => pb::SandboxMode::WorkspaceWrite,
    };
    pb::ExtensionSandbox {
        mode: mode as i32,
        writable_paths: sandbox.writable_paths.clone(),
        readable_paths: sandbox.readable_paths.clone(),
        allow_network: sandbox.network,
    }
}

fn kind(transport: &ExtensionTransport) -> Kind {
    match transport {
        ExtensionTransport::Builtin => Kind::Builtin(pb::BuiltinExtension {}),
        ExtensionTransport::Platform => Kind::Platform(pb::PlatformExtension {}),
        ExtensionTransport::Stdio { command, args } => {
            Kind::Stdio(pb::StdioExtension { command: command.clone(), args: args.clone() })
        }
        ExtensionTransport::StreamableHttp { uri, headers, unix_socket } => {
            Kind::StreamableHttp(pb::StreamableHttpExtension {
                uri: uri.clone(),
                headers: pairs(headers),
                unix_socket: unix_socket.clone().unwrap_or_default(),
            })
        }
        ExtensionTransport::InlinePython { code, dependencies } => {
            Kind::InlinePython(pb::InlinePythonExtension {
                code: code.clone(),
                dependencies: dependencies.clone(),
            })
        }
        ExtensionTransport::Client { tools, instructions } => Kind::Client(pb::ClientExtension {
            tools: tools.iter().map(host_tool).collect(),
            instructions: instructions.clone().unwrap_or_default(),
        }),
        ExtensionTransport::Sse { uri } => Kind::Sse(pb::SseExtension { uri: uri.clone() }),
        ExtensionTransport::Unknown { kind } => {
            Kind::Unknown(pb::UnknownExtension { kind_name: kind.clone() })
        }
    }
}

fn host_tool(tool: &ToolDefinition) -> pb::HostTool {
    pb::HostTool {
        name: tool.tool_name.clone(),
        description: tool.description.clone(),
        input_schema_json: tool.input_schema_json.clone(),
        title: tool.title.clone().unwrap_or_default(),
        output_schema_json: tool.output_schema_json.clone().unwrap_or_default(),
        annotations: Some(pb::ToolAnnotations {
            title: String::new(),
            read_only: tool.annotations.read_only,
            destructive: tool.annotations.destructive,
            idempotent: tool.annotations.idempotent,
            open_world: tool.annotations.open_world,
        }),
        meta_json: tool.meta_json.clone().unwrap_or_default(),
    }
}

fn model(config: &pb::ExtensionConfig) -> ExtensionConfig {
    ExtensionConfig {
        name: config.name.clone(),
        transport: transport(config),
        description: config.description.clone(),
        display_name: some(&config.display_name),
        bundled: config.bundled.unwrap_or(false),
        timeout_ms: config.timeout.as_ref().map(millis),
        tool_allowlist: config.tool_allowlist.clone(),
        env: config.env.clone().into_iter().collect(),
        env_keys: config.env_keys.clone(),
        exec_prefix: config.exec_prefix.clone(),
        protocol: match config.protocol() {
            pb::McpProtocol::Legacy => ProtocolEra::Legacy,
            pb::McpProtocol::Modern => ProtocolEra::Modern,
            pb::McpProtocol::Auto | pb::McpProtocol::Unspecified => ProtocolEra::Auto,
        },
        sampling: match config.sampling.as_ref().map(pb::SamplingPolicy::mode) {
            Some(pb::SamplingMode::Ask) => SamplingPolicy::Ask,
            Some(pb::SamplingMode::Allow) => SamplingPolicy::Allow,
            _ => SamplingPolicy::Off,
        },
        sandbox: config.sandbox.as_ref().map(|sandbox| Sandbox {
            mode: match pb::SandboxMode::try_from(sandbox.mode) {
                Ok(pb::SandboxMode::Off | pb::SandboxMode::Unspecified) => SandboxMode::Off,
                Ok(pb::SandboxMode::WorkspaceWrite) => SandboxMode::WorkspaceWrite,
                Ok(pb::SandboxMode::ReadOnly) | Err(_) => SandboxMode::ReadOnly,
            },
            writable_paths: sandbox.writable_paths.clone(),
            readable_paths: sandbox.readable_paths.clone(),
            network: sandbox.allow_network,
        }),
        pin_definitions: config.pin_definitions,
        unknown_json: some(&config.raw_json),
    }
}

fn transport(config: &pb::ExtensionConfig) -> ExtensionTransport {
    match &config.kind {
        Some(Kind::Builtin(_)) => ExtensionTransport::Builtin,
        Some(Kind::Platform(_)) => ExtensionTransport::Platform,
        Some(Kind::Stdio(stdio)) => {
            ExtensionTransport::Stdio { command: stdio.command.clone(), args: stdio.args.clone() }
        }
        Some(Kind::StreamableHttp(http)) => ExtensionTransport::StreamableHttp {
            uri: http.uri.clone(),
            headers: http.headers.clone().into_iter().collect(),
            unix_socket: some(&http.unix_socket),
        },
        Some(Kind::InlinePython(python)) => ExtensionTransport::InlinePython {
            code: python.code.clone(),
            dependencies: python.dependencies.clone(),
        },
        Some(Kind::Client(client)) => ExtensionTransport::Client {
            tools: client.tools.iter().map(|tool| definition(tool, &config.name)).collect(),
            instructions: some(&client.instructions),
        },
        Some(Kind::Sse(sse)) => ExtensionTransport::Sse { uri: sse.uri.clone() },
        Some(Kind::Unknown(unknown)) => ExtensionTransport::Unknown { kind: unknown.kind_name.clone() },
        // A kind of a newer daemon.
        None => ExtensionTransport::Unknown { kind: "unknown".to_owned() },
    }
}

fn definition(tool: &pb::HostTool, extension_name: &str) -> ToolDefinition {
    let key = extension_key(extension_name);
    let annotations = tool.annotations.clone().unwrap_or_default();
    ToolDefinition {
        name: format!("{key}__{}", tool.name),
        extension_name: key,
        tool_name: tool.name.clone(),
        title: some(&tool.title),
        description: tool.description.clone(),
        input_schema_json: tool.input_schema_json.clone(),
        output_schema_json: some(&tool.output_schema_json),
        annotations: ToolAnnotations {
            read_only: annotations.read_only,
            destructive: annotations.destructive,
            idempotent: annotations.idempotent,
            open_world: annotations.open_world,
        },
        icons_json: None,
        meta_json: some(&tool.meta_json),
        visibility: ToolVisibility::default(),
        definition_hash: String::new(),
        quarantined: false,
        trusted: false,
    }
}

fn pairs(map: &std::collections::BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn duration(millis: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000).unwrap_or_default() * 1_000_000,
    }
}

fn millis(duration: &prost_types::Duration) -> u64 {
    let seconds = u64::try_from(duration.seconds).unwrap_or_default();
    let nanos = u64::try_from(duration.nanos).unwrap_or_default();
    seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Every kind, with all fields that Goose writes, comes back as it went in.
    #[test]
    fn every_kind_survives_the_way_there_and_back() {
        let documents = [
            json!({"type": "builtin", "name": "developer", "description": "d", "display_name": "Developer",
                "timeout": 300, "bundled": true, "available_tools": []}),
            json!({"type": "platform", "name": "todo", "description": "", "display_name": null, "bundled": null,
                "available_tools": ["todo_write"]}),
            json!({"type": "stdio", "name": "My Server", "description": "", "cmd": "npx", "args": ["-y", "x"],
                "envs": {"A": "1"}, "env_keys": ["TOKEN"], "timeout": null, "bundled": null, "available_tools": []}),
            json!({"type": "streamable_http", "name": "h", "description": "", "uri": "https://x/mcp", "envs": {},
                "env_keys": [], "headers": {"Authorization": "Bearer $T"}, "timeout": 5, "bundled": null,
                "available_tools": [], "socket": "@s"}),
            json!({"type": "inline_python", "name": "p", "description": "", "code": "print(1)", "timeout": null,
                "dependencies": ["mcp"], "available_tools": []}),
            json!({"type": "frontend", "name": "f", "description": "", "tools": [{"name": "t",
                "inputSchema": {"type": "object"}}], "instructions": null, "bundled": null, "available_tools": []}),
            json!({"type": "sse", "name": "s", "description": "", "uri": "http://x"}),
            json!({"type": "of_later", "name": "n", "anything": [1, {"deep": true}]}),
        ];
        for document in documents {
            let message = to_proto(&document).unwrap();
            assert_eq!(to_json(&message), document);
        }
    }

    #[test]
    fn fields_of_ours_and_unknown_ones_are_kept() {
        let document = json!({"type": "stdio", "name": "x", "description": "", "cmd": "c", "args": [], "envs": {},
            "env_keys": [], "timeout": 2, "timeout_ms": 1500, "bundled": null, "available_tools": [],
            "exec_prefix": ["docker", "exec"], "protocol": "legacy", "sampling": "ask",
            "sandbox": {"mode": "read_only", "writable_paths": ["/tmp"], "network": true}, "pin_definitions": true,
            "from_elsewhere": {"a": 1}});
        let message = to_proto(&document).unwrap();
        assert_eq!(message.timeout, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
        assert_eq!(to_json(&message), document);
    }

    #[test]
    fn errors_name_the_field() {
        let error = to_proto(&json!({"type": "stdio", "name": "x", "args": []})).unwrap_err();
        assert_eq!(error.field, "cmd");
        assert!(to_proto(&json!("developer")).is_err());
    }

    #[test]
    fn sse_warns_in_goose_s_words() {
        let message = to_proto(&json!({"type": "sse", "name": "old", "uri": "http://x"})).unwrap();
        assert_eq!(warnings(&message), ["SSE is unsupported, migrate to streamable_http"]);
    }
}
