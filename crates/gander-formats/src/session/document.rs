//! Goose's session document: what its server answers with, exports and imports.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Message;

/// A session. Optional fields are written as null, as Goose does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    pub id: String,
    /// Absolute path.
    pub working_dir: String,
    /// Title.
    pub name: String,
    /// A person chose the title.
    pub user_set_name: bool,
    /// `user`, `scheduled`, `sub_agent`, `hidden` or `terminal`.
    pub session_type: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC.
    pub updated_at: String,
    /// State of extensions by key such as `enabled_extensions.v0`.
    pub extension_data: Map<String, Value>,
    pub total_tokens: Option<i64>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub accumulated_total_tokens: Option<i64>,
    pub accumulated_input_tokens: Option<i64>,
    pub accumulated_output_tokens: Option<i64>,
    pub schedule_id: Option<String>,
    pub recipe: Option<Value>,
    pub user_recipe_values: Option<Map<String, Value>>,
    /// The messages; null where they were not asked for.
    pub conversation: Option<Vec<Message>>,
    /// Number of messages.
    pub message_count: i64,
    pub provider_name: Option<String>,
    pub model_config: Option<ModelConfig>,
    /// How tool calls are approved: `auto`, `approve`, `smart_approve` or `chat`. Since Goose 1.28, where it is never
    /// null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goose_mode: Option<String>,
    /// In US dollars. Later versions.
    pub accumulated_cost: Option<f64>,
    /// Later versions.
    pub project_id: Option<String>,
    /// RFC 3339, UTC. Later versions.
    pub archived_at: Option<String>,
}

/// The model of a session.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ModelConfig {
    pub model_name: String,
    #[serde(default)]
    pub context_limit: Option<i64>,
    #[serde(default)]
    pub temperature: Option<f64>,
    #[serde(default)]
    pub max_tokens: Option<i64>,
    #[serde(default)]
    pub toolshim: bool,
    #[serde(default)]
    pub toolshim_model: Option<String>,
    /// Parameters for the provider, an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_params: Option<Value>,
}

/// A document that is read. Everything but the directory may be missing: old versions wrote less.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Read {
    #[serde(default)]
    id: String,
    working_dir: String,
    #[serde(default, alias = "description")]
    name: String,
    #[serde(default)]
    user_set_name: bool,
    #[serde(default)]
    session_type: Option<String>,
    #[serde(default)]
    created_at: String,
    #[serde(default)]
    updated_at: String,
    #[serde(default)]
    extension_data: Option<Map<String, Value>>,
    #[serde(default)]
    total_tokens: Option<i64>,
    #[serde(default)]
    input_tokens: Option<i64>,
    #[serde(default)]
    output_tokens: Option<i64>,
    #[serde(default)]
    accumulated_total_tokens: Option<i64>,
    #[serde(default)]
    accumulated_input_tokens: Option<i64>,
    #[serde(default)]
    accumulated_output_tokens: Option<i64>,
    #[serde(default)]
    schedule_id: Option<String>,
    #[serde(default)]
    recipe: Option<Value>,
    #[serde(default)]
    user_recipe_values: Option<Map<String, Value>>,
    #[serde(default)]
    conversation: Option<Vec<Message>>,
    #[serde(default)]
    message_count: i64,
    #[serde(default)]
    provider_name: Option<String>,
    #[serde(default)]
    model_config: Option<ModelConfig>,
    #[serde(default)]
    goose_mode: Option<String>,
    #[serde(default)]
    accumulated_cost: Option<f64>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    archived_at: Option<String>,
}

impl Document {
    /// Reads what an export wrote, of this or an older version.
    ///
    /// # Errors
    /// The text is no JSON, or a field has another type than Goose writes; the message names line and column.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        let read: Read = serde_json::from_str(json)?;
        Ok(Self {
            id: read.id,
            working_dir: read.working_dir,
            name: read.name,
            user_set_name: read.user_set_name,
            session_type: read.session_type.unwrap_or_else(|| "user".to_owned()),
            created_at: read.created_at,
            updated_at: read.updated_at,
            extension_data: read.extension_data.unwrap_or_default(),
            total_tokens: read.total_tokens,
            input_tokens: read.input_tokens,
            output_tokens: read.output_tokens,
            accumulated_total_tokens: read.accumulated_total_tokens,
            accumulated_input_tokens: read.accumulated_input_tokens,
            accumulated_output_tokens: read.accumulated_output_tokens,
            schedule_id: read.schedule_id,
            recipe: read.recipe.filter(|recipe| !recipe.is_null()),
            user_recipe_values: read.user_recipe_values,
            conversation: read.conversation,
            message_count: read.message_count,
            provider_name: read.provider_name,
            model_config: read.model_config,
            goose_mode: read.goose_mode,
            accumulated_cost: read.accumulated_cost,
            project_id: read.project_id,
            archived_at: read.archived_at,
        })
    }

    /// The extension configurations under `enabled_extensions.v0`, as they are written there.
    #[must_use]
    pub fn enabled_extensions(&self) -> Vec<Value> {
        let list = self.extension_data.get("enabled_extensions.v0").and_then(|data| data.get("extensions"));
        list.and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// The document as Goose exports it.
    ///
    /// # Errors
    /// Never for a document that was built by this crate.
    pub fn to_pretty_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}
