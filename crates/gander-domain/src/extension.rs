//! Extensions (an extension is an MCP server): configuration, state, and what the log says of them.
//!
//! Configurations may hold secrets in their maps; the log therefore carries summaries with a hash, never a
//! configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ErrorDetail, Timestamp, tool::ToolDefinition};

/// How to start and treat an extension (Goose's `ExtensionConfig`, with gander's optional fields).
#[derive(Debug, Clone, PartialEq, Eq)]
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

#[derive(Debug, Clone, PartialEq, Eq)]
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
    fn keys_follow_goose() {
        for (name, key) in
            [("Developer", "developer"), ("My Server", "myserver"), ("a.b/c", "a_b_c"), ("x-y_z", "x-y_z")]
        {
            assert_eq!(super::extension_key(name), key);
        }
    }
}
