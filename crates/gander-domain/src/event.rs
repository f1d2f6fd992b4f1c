//! Events: what a session's log consists of. Everything else about a session is a fold of its events.

use serde::{Deserialize, Serialize};

use crate::{
    ErrorDetail, Interaction, InteractionId, Item, ItemId, Session, Timestamp, Turn, TurnId, Usage,
    extension::{ExtensionStateChange, ExtensionSummary},
    interaction::{InteractionKind, Resolution},
    item::{NoticeLevel, ToolCall, ToolCallStatus},
    session::{Command, ModelSelection, Plan, SessionOption, SessionOrigin},
    usage::{Cost, UsagePurpose},
};

/// Position in a session's log: from 1, strictly increasing, contiguous at append, never reused, never above 2^53.
pub type Sequence = i64;

/// One stored event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    #[serde(rename = "seq")]
    pub sequence: Sequence,
    #[serde(rename = "turn", default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<TurnId>,
    pub time: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    #[serde(rename = "p")]
    pub payload: Payload,
}

/// Who caused an event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Actor {
    /// `uid:1000`, `token`, `engine`.
    pub principal: String,
    /// As the client calls itself, e.g. `gander-cli/0.1.0`.
    pub client_name: String,
    /// `grpc`, `acp`, `goose-rest`.
    pub protocol: String,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    SessionCreated { session: Box<Session>, origin: SessionOrigin },
    SessionUpdated { session: Box<Session>, changed_fields: Vec<String>, cause: UpdateCause },
    SessionOptionsChanged { options: Vec<SessionOption> },
    CommandsChanged { commands: Vec<Command> },
    PlanUpdated { plan: Plan },
    HistoryChanged(HistoryChange),
    TurnQueued { turn: Box<Turn> },
    TurnStarted { turn: Box<Turn> },
    TurnCancelRequested { turn: Box<Turn> },
    TurnEnded { turn: Box<Turn> },
    ModelCallStarted { model: ModelSelection, call_index: u32 },
    ModelRetryScheduled { attempt: u32, delay_ms: u64, error: ErrorDetail },
    ItemStarted { item: Box<Item> },
    ItemCompleted { item: Box<Item> },
    ItemRedacted { item_id: ItemId },
    ToolCallUpdated { item_id: ItemId, call: Box<ToolCall> },
    TextDelta { item_id: ItemId, part_index: u32, text: String },
    ThoughtDelta { item_id: ItemId, text: String },
    ArgumentsDelta { item_id: ItemId, text: String },
    ToolOutputDelta { item_id: ItemId, stream: OutputStream, text: String },
    ToolProgress(ToolProgress),
    ToolNotification { item_id: ItemId, method: String, params_json: String },
    InteractionRequested { interaction: Box<Interaction> },
    InteractionResolved(Box<Resolution>),
    ExtensionAdded { extension: ExtensionSummary },
    ExtensionRemoved { key: String },
    ExtensionStateChanged(ExtensionStateChange),
    ListChanged(ListChange),
    ResourceUpdated { extension_name: String, uri: String },
    ExtensionNotification { extension_name: String, level: String, logger: String, data_json: String },
    UsageReported(Box<UsageReport>),
    StatusNoted { level: NoticeLevel, code: String, text: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateCause {
    Client,
    Fallback,
    TitleGenerated,
    Config,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// A change of what user and model see of the history. Nothing is erased by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryChange {
    pub kind: HistoryChangeKind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub visibility_changes: Vec<VisibilityChange>,
    /// Hides every item whose first event has this sequence or a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_from_sequence: Option<Sequence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary_item_id: Option<ItemId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryChangeKind {
    Compacted,
    Rewound,
    Cleared,
    Replaced,
    PairSummarized,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisibilityChange {
    pub item_id: ItemId,
    pub user: bool,
    pub model: bool,
}

/// Progress of a running call. Numbers are kept as JSON text, as servers may send fractions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolProgress {
    pub item_id: ItemId,
    /// Decimal number as text.
    #[serde(default)]
    pub progress: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subagent: Option<SubagentProgress>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubagentProgress {
    pub child_session_id: crate::SessionId,
    pub summary: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListChange {
    pub extension_name: String,
    /// `tools`, `resources`, `prompts`.
    pub list: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    #[serde(default)]
    pub generation: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReport {
    pub purpose: UsagePurpose,
    pub call: Usage,
    pub session_totals: Usage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_used_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_totals: Option<Cost>,
}

impl Payload {
    /// Whether a client that does not know this kind may skip it.
    pub fn ignorable(&self) -> bool {
        matches!(
            self,
            Self::ModelCallStarted { .. }
                | Self::ModelRetryScheduled { .. }
                | Self::ToolNotification { .. }
                | Self::ResourceUpdated { .. }
                | Self::ExtensionNotification { .. }
                | Self::StatusNoted { .. }
        )
    }

    /// Whether the completed item supersedes it, so that it may be dropped from the log after a while.
    pub fn superseded_by(&self) -> Option<&ItemId> {
        match self {
            Self::TextDelta { item_id, .. }
            | Self::ThoughtDelta { item_id, .. }
            | Self::ArgumentsDelta { item_id, .. }
            | Self::ToolOutputDelta { item_id, .. } => Some(item_id),
            Self::ToolProgress(progress) => Some(&progress.item_id),
            _ => None,
        }
    }

    /// Whether it is a delta: one of the frequent, small events of a running item.
    pub fn is_delta(&self) -> bool {
        self.superseded_by().is_some()
    }

    /// Appends `next` to this event if both are deltas of the same kind and item, so that one event says both.
    pub fn try_merge(&mut self, next: &Payload, max_bytes: usize) -> bool {
        let (target, addition) = match (self, next) {
            (
                Self::TextDelta { item_id: a, part_index: i, text },
                Self::TextDelta { item_id: b, part_index: j, text: more },
            ) if a == b && i == j => (text, more),
            (Self::ThoughtDelta { item_id: a, text }, Self::ThoughtDelta { item_id: b, text: more })
            | (Self::ArgumentsDelta { item_id: a, text }, Self::ArgumentsDelta { item_id: b, text: more })
                if a == b =>
            {
                (text, more)
            }
            (
                Self::ToolOutputDelta { item_id: a, stream: s, text },
                Self::ToolOutputDelta { item_id: b, stream: t, text: more },
            ) if a == b && s == t => (text, more),
            _ => return false,
        };
        if target.len() + addition.len() > max_bytes {
            return false;
        }
        target.push_str(addition);
        true
    }

    /// Short lower_snake name, as in the proto oneof.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SessionCreated { .. } => "session_created",
            Self::SessionUpdated { .. } => "session_updated",
            Self::SessionOptionsChanged { .. } => "session_options_changed",
            Self::CommandsChanged { .. } => "commands_changed",
            Self::PlanUpdated { .. } => "plan_updated",
            Self::HistoryChanged(_) => "history_changed",
            Self::TurnQueued { .. } => "turn_queued",
            Self::TurnStarted { .. } => "turn_started",
            Self::TurnCancelRequested { .. } => "turn_cancel_requested",
            Self::TurnEnded { .. } => "turn_ended",
            Self::ModelCallStarted { .. } => "model_call_started",
            Self::ModelRetryScheduled { .. } => "model_retry_scheduled",
            Self::ItemStarted { .. } => "item_started",
            Self::ItemCompleted { .. } => "item_completed",
            Self::ItemRedacted { .. } => "item_redacted",
            Self::ToolCallUpdated { .. } => "tool_call_updated",
            Self::TextDelta { .. } => "text_delta",
            Self::ThoughtDelta { .. } => "thought_delta",
            Self::ArgumentsDelta { .. } => "arguments_delta",
            Self::ToolOutputDelta { .. } => "tool_output_delta",
            Self::ToolProgress(_) => "tool_progress",
            Self::ToolNotification { .. } => "tool_notification",
            Self::InteractionRequested { .. } => "interaction_requested",
            Self::InteractionResolved(_) => "interaction_resolved",
            Self::ExtensionAdded { .. } => "extension_added",
            Self::ExtensionRemoved { .. } => "extension_removed",
            Self::ExtensionStateChanged(_) => "extension_state_changed",
            Self::ListChanged(_) => "list_changed",
            Self::ResourceUpdated { .. } => "resource_updated",
            Self::ExtensionNotification { .. } => "extension_notification",
            Self::UsageReported(_) => "usage_reported",
            Self::StatusNoted { .. } => "status_noted",
        }
    }

    /// The item it is about.
    pub fn item_id(&self) -> Option<&ItemId> {
        match self {
            Self::ItemStarted { item } | Self::ItemCompleted { item } => Some(&item.item_id),
            Self::ItemRedacted { item_id }
            | Self::ToolCallUpdated { item_id, .. }
            | Self::ToolNotification { item_id, .. } => Some(item_id),
            Self::InteractionRequested { interaction } => interaction.item_id.as_ref(),
            other => other.superseded_by(),
        }
    }

    /// The interaction it is about.
    pub fn interaction_id(&self) -> Option<&InteractionId> {
        match self {
            Self::InteractionRequested { interaction } => Some(&interaction.interaction_id),
            Self::InteractionResolved(resolution) => Some(&resolution.interaction_id),
            _ => None,
        }
    }
}

/// What redaction of an item does to one stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedactAction {
    Keep,
    Replace(Box<Payload>),
    /// The event is superseded by the completed item and may vanish.
    Drop,
}

/// Erases what `item_id` said from one event of its session.
pub fn redact_payload(payload: &Payload, item_id: &ItemId) -> RedactAction {
    if payload.item_id() != Some(item_id) {
        return RedactAction::Keep;
    }
    let mut redacted = payload.clone();
    match &mut redacted {
        Payload::ItemStarted { item } | Payload::ItemCompleted { item } => item.redact(),
        Payload::ToolCallUpdated { call, .. } => call.redact(),
        Payload::InteractionRequested { interaction } => {
            if let InteractionKind::Permission(question) = &mut interaction.kind {
                question.tool_call.redact();
                question.prompt.clear();
            }
        }
        Payload::ToolNotification { params_json, .. } => "{}".clone_into(params_json),
        Payload::ItemRedacted { .. } => return RedactAction::Keep,
        _ if payload.is_delta() => return RedactAction::Drop,
        _ => return RedactAction::Keep,
    }
    RedactAction::Replace(Box::new(redacted))
}

/// Whether a tool call that was live when the daemon died may have had an effect.
pub fn recovered_status(status: ToolCallStatus) -> ToolCallStatus {
    match status {
        ToolCallStatus::Running => ToolCallStatus::OutcomeUnknown,
        terminal if terminal.is_terminal() => terminal,
        _ => ToolCallStatus::Cancelled,
    }
}
