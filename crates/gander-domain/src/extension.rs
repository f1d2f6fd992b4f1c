//! Extensions (an extension is an MCP server): configuration, state, and what the log says of them.
//!
//! Configurations may hold secrets in their maps; the log therefore carries summaries with a hash, never a
//! configuration.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{ErrorDetail, Timestamp, tool::ToolDefinition};

/// How to start and treat an extension (Goose's `ExtensionConfig`, with gander's optional fields).
#[derive(Clone, PartialEq, Eq)]
pub struct ExtensionConfig {
    /// Display and lookup name.
    pub name: String,
    pub transport: ExtensionTransport,
    pub description: String,
    pub display_name: Option<String>,
    pub bundled: bool,
    /// Deadline of one call; absent = 300 s.
    pub timeout_ms: Option<u64>,
    /// Goose's `available_tools`; empty = all.
    pub tool_allowlist: Vec<String>,
    /// Plain environment values (not secret by contract, treated as if they were).
    pub env: BTreeMap<String, String>,
    /// Names of secrets that become environment variables.
    pub env_keys: Vec<String>,
    /// Command in front of a stdio command (`docker exec -i NAME`).
    pub exec_prefix: Vec<String>,
    pub protocol: ProtocolEra,
    /// Whether the server may use the session's model.
    pub sampling: SamplingPolicy,
    /// What its process may touch; absent = no sandbox.
    pub sandbox: Option<Sandbox>,
    /// Whether changed tool definitions are quarantined until somebody approves them.
    pub pin_definitions: bool,
    /// Fields that this build does not know, JSON object text; kept on every rewrite.
    pub unknown_json: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum ExtensionTransport {
    Builtin,
    Platform,
    Stdio {
        command: String,
        args: Vec<String>,
    },
    StreamableHttp {
        uri: String,
        headers: BTreeMap<String, String>,
        unix_socket: Option<String>,
    },
    InlinePython {
        code: String,
        dependencies: Vec<String>,
    },
    /// Tools that the attached host executes.
    Client {
        tools: Vec<ToolDefinition>,
        instructions: Option<String>,
    },
    /// Kept for its config; cannot be started.
    Sse {
        uri: String,
    },
    Unknown {
        kind: String,
    },
}

/// Names of variables or headers without their values.
struct Names<'a>(&'a BTreeMap<String, String>);

impl fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Debug for ExtensionConfig {
    /// Without values that may be secret: this ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtensionConfig")
            .field("name", &self.name)
            .field("transport", &self.transport)
            .field("description", &self.description)
            .field("display_name", &self.display_name)
            .field("bundled", &self.bundled)
            .field("timeout_ms", &self.timeout_ms)
            .field("tool_allowlist", &self.tool_allowlist)
            .field("env", &Names(&self.env))
            .field("env_keys", &self.env_keys)
            .field("exec_prefix", &self.exec_prefix)
            .field("protocol", &self.protocol)
            .field("sampling", &self.sampling)
            .field("sandbox", &self.sandbox)
            .field("pin_definitions", &self.pin_definitions)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ExtensionTransport {
    /// Without the values of headers and what may be secret in an address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |uri: &str| uri.split(['?', '#']).next().unwrap_or_default().to_owned();
        let mut shown = f.debug_struct(self.kind());
        match self {
            Self::Builtin | Self::Platform | Self::Unknown { .. } => {}
            Self::Stdio { command, args } => {
                shown.field("command", command).field("args", args);
            }
            Self::StreamableHttp { uri, headers, unix_socket } => {
                shown.field("uri", &bare(uri)).field("headers", &Names(headers));
                shown.field("unix_socket", unix_socket);
            }
            Self::InlinePython { code, dependencies } => {
                shown.field("code_bytes", &code.len()).field("dependencies", dependencies);
            }
            Self::Client { tools, instructions } => {
                shown.field("tools", tools).field("instructions", instructions);
            }
            Self::Sse { uri } => {
                shown.field("uri", &bare(uri));
            }
        }
        shown.finish()
    }
}

impl ExtensionTransport {
    /// Goose's `type`.
    pub fn kind(&self) -> &str {
        match self {
            Self::Builtin => "builtin",
            Self::Platform => "platform",
            Self::Stdio { .. } => "stdio",
            Self::StreamableHttp { .. } => "streamable_http",
            Self::InlinePython { .. } => "inline_python",
            Self::Client { .. } => "frontend",
            Self::Sse { .. } => "sse",
            Self::Unknown { kind } => kind,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProtocolEra {
    #[default]
    Auto,
    Legacy,
    Modern,
}

/// Whether a server may use the session's model (MCP sampling).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingPolicy {
    #[default]
    Off,
    /// Every request is a question to the user.
    Ask,
    Allow,
}

/// What a sandboxed process may touch (Linux).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sandbox {
    pub mode: SandboxMode,
    /// Absolute paths that may be written besides what the mode allows.
    pub writable_paths: Vec<String>,
    /// Absolute paths that may be read besides the session's folders and the system's programs; empty = everything but
    /// the daemon's own files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readable_paths: Vec<String>,
    /// Whether the process may open network connections.
    pub network: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxMode {
    #[default]
    Off,
    /// Nothing but the writable paths.
    ReadOnly,
    /// The session's folders and a private temporary folder.
    WorkspaceWrite,
}

/// Goose's key of a name: lower case, only letters, digits, `_` and `-` kept.
pub fn extension_key(name: &str) -> String {
    name.chars()
        .filter(|c| !c.is_whitespace())
        .map(
            |c| {
                if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c.to_ascii_lowercase() } else { '_' }
            },
        )
        .collect()
}

/// Where a session's extension came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtensionOrigin {
    Config,
    Session,
    Recipe,
    Client,
    Link,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtensionState {
    Starting,
    Ready,
    NeedsAuth,
    Degraded,
    Restarting,
    Failed,
    Stopped,
}

/// What the log says of an extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionSummary {
    pub key: String,
    pub name: String,
    /// Goose's `type`.
    pub kind: String,
    pub config_hash: String,
    pub origin: ExtensionOrigin,
}

/// One change of an extension's state, with its cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionStateChange {
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ExtensionState>,
    pub to: ExtensionState,
    #[serde(default)]
    pub cause: String,
    #[serde(default)]
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Last lines of its standard error, secrets redacted.
    #[serde(default)]
    pub stderr_tail: String,
}

/// Live status of a session's extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionStatus {
    pub summary: ExtensionSummary,
    pub state: ExtensionState,
    pub cause: String,
    pub error: Option<ErrorDetail>,
    /// Environment and header values withheld.
    pub config: ExtensionConfig,
    pub server_name: String,
    pub server_version: String,
    pub protocol_version: String,
    pub instructions: Option<String>,
    pub tool_count: u32,
    pub attempt: u32,
    pub state_time: Timestamp,
    pub stderr_tail: String,
}

#[cfg(test)]
mod tests {
    #[test]
    fn debug_text_of_a_transport_names_headers_without_values() {
        let transport = super::ExtensionTransport::StreamableHttp {
            uri: "https://h.example/mcp?key=hidden".to_owned(),
            headers: [("Authorization".to_owned(), "hidden".to_owned())].into(),
            unix_socket: None,
        };
        let shown = format!("{transport:?}");
        assert!(shown.contains("Authorization") && shown.contains("https://h.example/mcp"), "{shown}");
        assert!(!shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn keys_follow_goose() {
        for (name, key) in
            [("Developer", "developer"), ("My Server", "myserver"), ("a.b/c", "a_b_c"), ("x-y_z", "x-y_z")]
        {
            assert_eq!(super::extension_key(name), key);
        }
    }
}
