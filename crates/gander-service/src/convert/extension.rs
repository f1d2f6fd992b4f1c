//! Extensions: configurations, selections, states.
//!
//! Values of `env` and of headers leave the daemon through `ListExtensions` only ([`Reveal::Values`]); everywhere else
//! their keys are there with empty values.

use std::collections::{BTreeMap, HashMap};

use gander_domain::{
    ErrorDetail, ErrorReason,
    extension::{
        ExtensionConfig, ExtensionState, ExtensionStateChange, ExtensionStatus, ExtensionSummary,
        ExtensionTransport, SamplingPolicy, Sandbox, SandboxMode, extension_key,
    },
};
use gander_proto::v1 as pb;

use super::{
    At, Violations, enums, error_to_pb, int32, millis, millis_to_pb, non_empty, or_empty, session,
    time_to_pb, tool,
};

const CAUSE: &str = "EXTENSION_STATE_CAUSE_";

/// Whether values that may be secret are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reveal {
    Values,
    Keys,
}

fn map_to_pb(map: &BTreeMap<String, String>, reveal: Reveal) -> HashMap<String, String> {
    let value = |v: &String| if reveal == Reveal::Values { v.clone() } else { String::new() };
    map.iter().map(|(k, v)| (k.clone(), value(v))).collect()
}

pub(crate) fn config_to_pb(config: &ExtensionConfig, reveal: Reveal) -> pb::ExtensionConfig {
    pb::ExtensionConfig {
        name: config.name.clone(),
        key: extension_key(&config.name),
        description: config.description.clone(),
        display_name: or_empty(config.display_name.as_ref()),
        bundled: config.bundled.then_some(true),
        timeout: config.timeout_ms.map(millis_to_pb),
        tool_allowlist: config.tool_allowlist.clone(),
        env: map_to_pb(&config.env, reveal),
        env_keys: config.env_keys.clone(),
        kind: Some(transport_to_pb(&config.transport, reveal)),
        exec_prefix: config.exec_prefix.clone(),
        protocol: enums::protocol_era_to_pb(config.protocol),
        sampling: Some(sampling_to_pb(config.sampling)),
        sandbox: config.sandbox.as_ref().map(sandbox_to_pb),
        pin_definitions: config.pin_definitions,
        // Fields that this build does not know may hold anything, secrets included.
        raw_json: match reveal {
            Reveal::Values => or_empty(config.unknown_json.as_ref()),
            Reveal::Keys => String::new(),
        },
    }
}

fn sampling_to_pb(policy: SamplingPolicy) -> pb::SamplingPolicy {
    let mode = match policy {
        SamplingPolicy::Off => pb::SamplingMode::Deny,
        SamplingPolicy::Ask => pb::SamplingMode::Ask,
        SamplingPolicy::Allow => pb::SamplingMode::Allow,
    };
    pb::SamplingPolicy { mode: mode as i32, max_output_tokens: None, max_calls_per_turn: None }
}

fn sandbox_to_pb(sandbox: &Sandbox) -> pb::ExtensionSandbox {
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

/// Bounds that this build cannot keep are refused rather than dropped.
fn sampling_from_pb(policy: Option<pb::SamplingPolicy>, at: &At<'_>, v: &mut Violations) -> SamplingPolicy {
    let Some(policy) = policy else { return SamplingPolicy::Off };
    if policy.max_output_tokens.is_some() || policy.max_calls_per_turn.is_some() {
        v.add(at, "max_output_tokens and max_calls_per_turn are not supported; leave them unset");
    }
    match pb::SamplingMode::try_from(policy.mode) {
        Ok(pb::SamplingMode::Ask) => SamplingPolicy::Ask,
        Ok(pb::SamplingMode::Allow) => SamplingPolicy::Allow,
        _ => SamplingPolicy::Off,
    }
}

fn sandbox_from_pb(
    sandbox: Option<pb::ExtensionSandbox>,
    at: &At<'_>,
    v: &mut Violations,
) -> Option<Sandbox> {
    let sandbox = sandbox?;
    for (field, paths) in
        [("readable_paths", &sandbox.readable_paths), ("writable_paths", &sandbox.writable_paths)]
    {
        if paths.iter().any(|p| !p.starts_with('/')) {
            v.add(&at.field(field), "must be absolute paths");
        }
    }
    let mode = match pb::SandboxMode::try_from(sandbox.mode) {
        Ok(pb::SandboxMode::Unspecified | pb::SandboxMode::Off) => return None,
        Ok(pb::SandboxMode::WorkspaceWrite) => SandboxMode::WorkspaceWrite,
        // The narrower reading of what this build does not know.
        Ok(pb::SandboxMode::ReadOnly) | Err(_) => SandboxMode::ReadOnly,
    };
    Some(Sandbox {
        mode,
        writable_paths: sandbox.writable_paths,
        readable_paths: sandbox.readable_paths,
        network: sandbox.allow_network,
    })
}

fn transport_to_pb(transport: &ExtensionTransport, reveal: Reveal) -> pb::extension_config::Kind {
    use pb::extension_config::Kind;
    match transport {
        ExtensionTransport::Builtin => Kind::Builtin(pb::BuiltinExtension {}),
        ExtensionTransport::Platform => Kind::Platform(pb::PlatformExtension {}),
        ExtensionTransport::Stdio { command, args } => {
            Kind::Stdio(pb::StdioExtension { command: command.clone(), args: args.clone() })
        }
        ExtensionTransport::StreamableHttp { uri, headers, unix_socket } => {
            Kind::StreamableHttp(pb::StreamableHttpExtension {
                uri: uri.clone(),
                headers: map_to_pb(headers, reveal),
                unix_socket: or_empty(unix_socket.as_ref()),
            })
        }
        ExtensionTransport::InlinePython { code, dependencies } => {
            Kind::InlinePython(pb::InlinePythonExtension {
                code: code.clone(),
                dependencies: dependencies.clone(),
            })
        }
        ExtensionTransport::Client { tools, instructions } => Kind::Client(pb::ClientExtension {
            tools: tools.iter().map(tool::host_tool_to_pb).collect(),
            instructions: or_empty(instructions.as_ref()),
        }),
        ExtensionTransport::Sse { uri } => Kind::Sse(pb::SseExtension { uri: uri.clone() }),
        ExtensionTransport::Unknown { kind } => {
            Kind::Unknown(pb::UnknownExtension { kind_name: kind.clone() })
        }
    }
}

/// A configuration that a request brings. Whether it may be used is for the policy; here it only has to make sense.
pub(crate) fn config_from_pb(
    config: pb::ExtensionConfig,
    at: &At<'_>,
    v: &mut Violations,
) -> Option<ExtensionConfig> {
    let sampling = sampling_from_pb(config.sampling, &at.field("sampling"), v);
    let sandbox = sandbox_from_pb(config.sandbox, &at.field("sandbox"), v);
    let name = v.name(&at.field("name"), config.name);
    if !name.is_empty() && !extension_key(&name).chars().any(|c| c.is_ascii_alphanumeric()) {
        v.add(&at.field("name"), "must have at least one letter or digit, which become the key");
    }
    let Some(kind) = config.kind else {
        v.add(at, "must be builtin, platform, stdio, streamable_http, inline_python, client, sse or unknown");
        return None;
    };
    let transport = transport_from_pb(kind, &name, at, v);
    let timeout_ms = v.duration(&at.field("timeout"), config.timeout).map(millis);
    if timeout_ms == Some(0) {
        v.add(&at.field("timeout"), "must be greater than zero; leave it unset for the default of 300 s");
    }
    Some(ExtensionConfig {
        name,
        transport,
        description: v.text(&at.field("description"), config.description),
        display_name: non_empty(config.display_name),
        bundled: config.bundled.unwrap_or(false),
        timeout_ms,
        tool_allowlist: config.tool_allowlist,
        env: session::map_from_pb(config.env, &at.field("env"), v),
        env_keys: config.env_keys,
        exec_prefix: config.exec_prefix,
        protocol: v
            .optional_enum(&at.field("protocol"), config.protocol, enums::protocol_era_from_pb)
            .unwrap_or_default(),
        sampling,
        sandbox,
        pin_definitions: config.pin_definitions,
        unknown_json: v.json_object(&at.field("raw_json"), config.raw_json),
    })
}

fn transport_from_pb(
    kind: pb::extension_config::Kind,
    name: &str,
    at: &At<'_>,
    v: &mut Violations,
) -> ExtensionTransport {
    use pb::extension_config::Kind;
    match kind {
        Kind::Builtin(_) => ExtensionTransport::Builtin,
        Kind::Platform(_) => ExtensionTransport::Platform,
        Kind::Stdio(stdio) => ExtensionTransport::Stdio {
            command: v.name(&at.field("stdio").field("command"), stdio.command),
            args: stdio.args,
        },
        Kind::StreamableHttp(http) => {
            let at = at.field("streamable_http");
            if !http.uri.starts_with("http://") && !http.uri.starts_with("https://") {
                v.add(&at.field("uri"), "must start with http:// or https://");
            }
            ExtensionTransport::StreamableHttp {
                uri: http.uri,
                headers: session::map_from_pb(http.headers, &at.field("headers"), v),
                unix_socket: non_empty(http.unix_socket),
            }
        }
        Kind::InlinePython(python) => ExtensionTransport::InlinePython {
            code: v.text(&at.field("inline_python").field("code"), python.code),
            dependencies: python.dependencies,
        },
        Kind::Client(client) => {
            let at = at.field("client");
            let key = extension_key(name);
            let tools = client.tools.into_iter().enumerate();
            ExtensionTransport::Client {
                tools: tools
                    .map(|(i, t)| tool::host_tool_from_pb(t, &key, &at.element("tools", i), v))
                    .collect(),
                instructions: non_empty(client.instructions),
            }
        }
        Kind::Sse(sse) => ExtensionTransport::Sse { uri: sse.uri },
        Kind::Unknown(unknown) => ExtensionTransport::Unknown {
            kind: v.name(&at.field("unknown").field("kind_name"), unknown.kind_name),
        },
    }
}

/// Configurations of the repeated field `name` below `at`; keys must be unique.
pub(crate) fn configs_from_pb(
    configs: Vec<pb::ExtensionConfig>,
    at: &At<'_>,
    name: &str,
    v: &mut Violations,
) -> Vec<ExtensionConfig> {
    let mut keys = std::collections::BTreeSet::new();
    let mut out = Vec::with_capacity(configs.len().min(64));
    for (index, config) in configs.into_iter().enumerate() {
        let at = at.element(name, index);
        if let Some(config) = config_from_pb(config, &at, v) {
            if !keys.insert(extension_key(&config.name)) {
                v.add(&at.field("name"), "names the same extension as one before it");
            }
            out.push(config);
        }
    }
    out
}

/// Which extensions a new session gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// Those of the configuration or recipe, and more.
    Configured { add: Vec<ExtensionConfig> },
    /// None but these.
    Exactly(Vec<ExtensionConfig>),
}

pub(crate) fn selection_from_pb(
    selection: Option<pb::ExtensionSelection>,
    at: &At<'_>,
    v: &mut Violations,
) -> Selection {
    use pb::extension_selection::Selection as Pb;
    match selection.and_then(|s| s.selection) {
        None => Selection::Configured { add: Vec::new() },
        Some(Pb::Configured(c)) => {
            Selection::Configured { add: configs_from_pb(c.add, &at.field("configured"), "add", v) }
        }
        Some(Pb::Exactly(e)) => {
            Selection::Exactly(configs_from_pb(e.extensions, &at.field("exactly"), "extensions", v))
        }
    }
}

fn kind_to_pb(kind: &str) -> i32 {
    let kind = match kind {
        "builtin" => pb::ExtensionKind::Builtin,
        "platform" => pb::ExtensionKind::Platform,
        "stdio" => pb::ExtensionKind::Stdio,
        "streamable_http" => pb::ExtensionKind::StreamableHttp,
        "inline_python" => pb::ExtensionKind::InlinePython,
        "frontend" => pb::ExtensionKind::Client,
        "sse" => pb::ExtensionKind::Sse,
        _ => pb::ExtensionKind::Unknown,
    };
    kind as i32
}

pub(crate) fn summary_to_pb(summary: &ExtensionSummary) -> pb::ExtensionSummary {
    pb::ExtensionSummary {
        key: summary.key.clone(),
        name: summary.name.clone(),
        kind: kind_to_pb(&summary.kind),
        config_hash: summary.config_hash.clone(),
        origin: enums::extension_origin_to_pb(summary.origin),
    }
}

/// A cause as a word of the proto enum. Causes that are a sentence about a failure become the error beside it.
fn cause_to_pb(cause: &str, state: ExtensionState) -> (i32, Option<pb::ErrorDetail>) {
    let number = enums::word_to_pb(CAUSE, cause, pb::ExtensionStateCause::from_str_name);
    if number != 0 || cause.is_empty() || state != ExtensionState::Failed {
        return (number, None);
    }
    let error = ErrorDetail::new(ErrorReason::ExtensionStartFailed, cause);
    (pb::ExtensionStateCause::StartFailed as i32, Some(error_to_pb(&error)))
}

pub(crate) fn state_change_to_pb(change: &ExtensionStateChange) -> pb::ExtensionStateChanged {
    let (cause, error) = cause_to_pb(&change.cause, change.to);
    pb::ExtensionStateChanged {
        extension: Some(pb::ExtensionSummary {
            key: change.key.clone(),
            name: change.key.clone(),
            ..Default::default()
        }),
        old_state: change.from.map_or(0, enums::extension_state_to_pb),
        new_state: enums::extension_state_to_pb(change.to),
        cause,
        attempt: int32(change.attempt),
        exit_code: change.exit_code,
        stderr_tail: change.stderr_tail.clone(),
        error,
    }
}

pub(crate) fn status_to_pb(status: &ExtensionStatus) -> pb::ExtensionStatus {
    let (cause, error) = cause_to_pb(&status.cause, status.state);
    pb::ExtensionStatus {
        key: status.summary.key.clone(),
        name: status.summary.name.clone(),
        kind: kind_to_pb(&status.summary.kind),
        origin: enums::extension_origin_to_pb(status.summary.origin),
        state: enums::extension_state_to_pb(status.state),
        cause,
        error: status.error.as_ref().map(error_to_pb).or(error),
        config: Some(config_to_pb(&status.config, Reveal::Keys)),
        config_hash: status.summary.config_hash.clone(),
        server_name: status.server_name.clone(),
        server_version: status.server_version.clone(),
        protocol_version: status.protocol_version.clone(),
        capabilities: None,
        tool_count: int32(status.tool_count),
        quarantined_tools: Vec::new(),
        attempt: int32(status.attempt),
        state_time: Some(time_to_pb(status.state_time)),
        stderr_tail: status.stderr_tail.clone(),
        instructions: or_empty(status.instructions.as_ref()),
    }
}
