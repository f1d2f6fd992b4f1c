//! Tools as models and clients see them.

use serde::{Deserialize, Serialize};

/// MCP's hints about a tool. Hints, not promises: a server that is not trusted may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ToolAnnotations {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destructive: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_world: Option<bool>,
}

/// A tool that can be called in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolDefinition {
    /// Public name, unique in the session: `extension__tool`.
    pub name: String,
    pub extension_name: String,
    /// The name that the extension knows.
    pub tool_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default)]
    pub description: String,
    /// JSON Schema of the arguments, verbatim.
    pub input_schema_json: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema_json: Option<String>,
    #[serde(default)]
    pub annotations: ToolAnnotations,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icons_json: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_json: Option<String>,
    #[serde(default)]
    pub visibility: ToolVisibility,
    /// Hex SHA-256 over name, description and schemas.
    #[serde(default)]
    pub definition_hash: String,
    #[serde(default)]
    pub quarantined: bool,
    /// Whether the annotations come from a source that the user trusts (builtin extensions).
    #[serde(default)]
    pub trusted: bool,
}

/// Who may call a tool (MCP Apps `_meta.ui.visibility`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolVisibility {
    pub model: bool,
    pub app: bool,
}

impl Default for ToolVisibility {
    fn default() -> Self {
        Self { model: true, app: true }
    }
}
