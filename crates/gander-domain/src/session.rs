//! Sessions: the unit of conversation, sharing and storage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    InteractionId, ItemId, Sequence, SessionId, Timestamp, TurnId, event::Actor, usage::SessionUsage,
};

/// A session as clients see it. `active_turn_id` and the counters are folds of the log like everything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub session_id: SessionId,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub title_source: TitleSource,
    #[serde(default)]
    pub kind: SessionKind,
    #[serde(default)]
    pub state: SessionState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_time: Option<Timestamp>,
    /// Principal that made it; recorded, not enforced yet.
    #[serde(default)]
    pub owner: String,
    pub working_directory: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_directories: Vec<String>,
    /// Unset follows the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSelection>,
    /// Unset follows the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Whether the `demo` model may stand in where no model is configured.
    #[serde(default)]
    pub demo_allowed: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instructions: Vec<Instruction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<SessionRecipe>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentCall>,
    /// State documents that extensions keep with the session, key → JSON text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extension_state: BTreeMap<String, String>,
    #[serde(default)]
    pub usage: SessionUsage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_used_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window_tokens: Option<u64>,
    /// Distinct message ids of user-visible items.
    #[serde(default)]
    pub message_count: u64,
    #[serde(default)]
    pub last_sequence: Sequence,
    /// Oldest cursor that a watch accepts plus one; grows only when old events are erased.
    #[serde(default)]
    pub oldest_sequence: Sequence,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_turn_id: Option<TurnId>,
    #[serde(default)]
    pub pending_interaction_count: u32,
    pub create_time: Timestamp,
    /// Moved by items, turns and user settings only; not by titles, usage or extension states.
    pub update_time: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TitleSource {
    #[default]
    Default,
    Generated,
    User,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionKind {
    #[default]
    User,
    Scheduled,
    Subagent,
    Hidden,
    Terminal,
}

impl SessionKind {
    /// Stable text for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Scheduled => "scheduled",
            Self::Subagent => "subagent",
            Self::Hidden => "hidden",
            Self::Terminal => "terminal",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    #[default]
    Idle,
    Running,
    AwaitingInput,
}

/// When tools may run without asking (Goose's `GOOSE_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every tool runs.
    #[default]
    Auto,
    /// Every tool asks.
    Approve,
    /// Read-only tools of trusted extensions run, the others ask.
    SmartApprove,
    /// No tools.
    Chat,
}

impl Mode {
    /// Goose's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Approve => "approve",
            Self::SmartApprove => "smart_approve",
            Self::Chat => "chat",
        }
    }

    /// Parses Goose's name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Auto, Self::Approve, Self::SmartApprove, Self::Chat].into_iter().find(|m| m.as_str() == text)
    }
}

/// How much a model thinks before it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThoughtLevel {
    /// As little as the model allows, nothing where that is possible.
    Off,
    Low,
    Medium,
    High,
    /// As much as the model allows.
    Max,
}

impl ThoughtLevel {
    /// All levels, the least first.
    pub const ALL: [Self; 5] = [Self::Off, Self::Low, Self::Medium, Self::High, Self::Max];

    /// Goose's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Max => "max",
        }
    }

    /// Parses Goose's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == text)
    }
}

/// Which model answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelSelection {
    pub provider_id: String,
    /// Empty = the provider's default model.
    pub model_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_limit: Option<u64>,
    /// Thousandths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_millis: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// Extra body fields for the provider, JSON object text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_params_json: Option<String>,
    /// `None`: the provider's own default. Left out for models that cannot choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thought_level: Option<ThoughtLevel>,
}

/// A piece of system prompt that a client added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    pub key: String,
    pub text: String,
    /// Replaces the built-in system prompt instead of following it.
    #[serde(default)]
    pub replace: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecipe {
    pub recipe_json: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe_id: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// The recipe with its parameters filled in, JSON object text. Absent while required values are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered_json: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentCall {
    pub session_id: SessionId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_id: Option<ItemId>,
}

/// How a session came to be; part of its first event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionOrigin {
    New,
    Forked {
        session_id: SessionId,
        through_sequence: Sequence,
    },
    Imported {
        format: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        original_id: Option<String>,
    },
    Delegated(ParentCall),
}

/// A todo list as the agent keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    pub plan_id: String,
    pub entries: Vec<PlanEntry>,
    pub source_text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanEntry {
    pub content: String,
    /// `high`, `medium`, `low`.
    pub priority: String,
    /// `pending`, `in_progress`, `completed`.
    pub status: String,
}

/// A setting that a client can show and change (`SetSessionOption`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOption {
    pub option_id: String,
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// `mode`, `model`, `thought_level`, or another.
    #[serde(default)]
    pub category: String,
    /// `select` or `boolean`.
    pub kind: String,
    pub value: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<OptionChoice>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionChoice {
    pub value: String,
    pub name: String,
    #[serde(default)]
    pub description: String,
}

/// A command that may start a message (`/name`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub name: String,
    #[serde(default)]
    pub help: String,
    #[serde(default)]
    pub input_hint: String,
    /// `builtin`, `recipe`, `prompt`, `backend`.
    #[serde(default)]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe_id: Option<String>,
}

/// A permission rule that an answer created for the rest of the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCreated {
    pub interaction_id: InteractionId,
    pub rule: crate::permission::PermissionRule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
}
