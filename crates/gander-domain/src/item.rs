//! Items: the entries of a conversation.

use serde::{Deserialize, Serialize};

use crate::{
    ContentId, ErrorDetail, ItemId, MessageId, Part, SessionId, Timestamp, TurnId, tool::ToolAnnotations,
};

/// One entry of the conversation. `ItemCompleted` carries it whole and is authoritative.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub item_id: ItemId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<TurnId>,
    /// All items of one model response share it.
    pub message_id: MessageId,
    pub body: ItemBody,
    pub state: ItemState,
    /// Cut by a cancel, an error or a stop of the daemon.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    #[serde(default)]
    pub visibility: Visibility,
    pub origin: Origin,
    pub create_time: Timestamp,
    /// The client's own clock, for user messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_create_time: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_time: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
    /// The model that produced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// What the model layer needs to replay this item byte for byte to the provider that made it (signatures, opaque
    /// blocks): verbatim JSON text, never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_state_json: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    InProgress,
    Completed,
}

/// Who sees an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visibility {
    pub user: bool,
    pub model: bool,
}

impl Default for Visibility {
    fn default() -> Self {
        Self { user: true, model: true }
    }
}

/// Where an item came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Client,
    Model,
    Engine,
    /// An agent used as a back end.
    Backend,
    Import,
}

/// The kinds of items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemBody {
    UserMessage(UserMessage),
    AgentMessage(AgentMessage),
    Thought(Thought),
    ToolCall(Box<ToolCall>),
    Compaction(Compaction),
    Notice(Notice),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UserMessage {
    pub parts: Vec<Part>,
    /// Sent into a running turn by `SteerTurn`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub steered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentMessage {
    pub parts: Vec<Part>,
    /// Written by the embedded `demo` model: no language model was involved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub demo: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Thought {
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redacted_data: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Compaction {
    pub summary_parts: Vec<Part>,
    #[serde(default)]
    pub replaced_through_sequence: i64,
    /// `manual`, `threshold`, `overflow`.
    #[serde(default)]
    pub trigger: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub level: NoticeLevel,
    /// Stable lower_snake code for programs.
    pub code: String,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_json: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeLevel {
    Info,
    Warning,
    Error,
}

/// A call of a tool with its whole story: arguments, permission, output, result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The public name that the model used, e.g. `developer__shell`.
    pub name: String,
    #[serde(default)]
    pub extension_name: String,
    /// The name that the extension knows.
    #[serde(default)]
    pub tool_name: String,
    /// The provider's id of the call; not unique across calls.
    #[serde(default)]
    pub call_id: String,
    /// One line for people.
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub kind: ToolKind,
    pub status: ToolCallStatus,
    /// UTF-8 JSON object, as the model produced it.
    #[serde(default)]
    pub arguments_json: String,
    /// Set instead when the arguments exceed 256 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments_content_id: Option<ContentId>,
    /// Why the arguments are unusable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid_arguments: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<Location>,
    #[serde(default)]
    pub annotations: ToolAnnotations,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_meta_json: Option<String>,
    #[serde(default)]
    pub executor: Executor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<PermissionRecord>,
    /// Display parts: diffs, terminals, text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content: Vec<Part>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ToolResult>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child_session_id: Option<SessionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
}

impl ToolCall {
    /// A call whose arguments are still being streamed.
    pub fn streaming(name: impl Into<String>, call_id: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            extension_name: String::new(),
            tool_name: String::new(),
            call_id: call_id.into(),
            title: String::new(),
            kind: ToolKind::Other,
            status: ToolCallStatus::StreamingArguments,
            arguments_json: String::new(),
            arguments_content_id: None,
            invalid_arguments: None,
            locations: Vec::new(),
            annotations: ToolAnnotations::default(),
            tool_meta_json: None,
            executor: Executor::Engine,
            permission: None,
            content: Vec::new(),
            result: None,
            child_session_id: None,
            start_time: None,
        }
    }

    /// Erases arguments, content and result; names, states and times stay.
    pub fn redact(&mut self) {
        "{}".clone_into(&mut self.arguments_json);
        self.arguments_content_id = None;
        self.invalid_arguments = None;
        self.title.clear();
        self.locations.clear();
        self.content.clear();
        self.tool_meta_json = None;
        if let Some(result) = &mut self.result {
            result.parts.clear();
            result.structured_content_json = None;
            result.meta_json = None;
            result.truncated = None;
            result.error = None;
        }
    }
}

/// ACP's ten kinds, for icons and grouping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolKind {
    Read,
    Edit,
    Delete,
    Move,
    Search,
    Execute,
    Think,
    Fetch,
    SwitchMode,
    #[default]
    Other,
}

/// `STREAMING_ARGUMENTS → PENDING → AWAITING_APPROVAL → RUNNING → COMPLETED`, with side exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolCallStatus {
    StreamingArguments,
    Pending,
    AwaitingApproval,
    /// Stored before the call leaves the process.
    Running,
    Completed,
    Declined,
    Invalid,
    Cancelled,
    Failed,
    TimedOut,
    /// The daemon stopped while it ran: it may or may not have had its effect. Never run again by itself.
    OutcomeUnknown,
}

impl ToolCallStatus {
    /// Whether nothing follows.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::StreamingArguments | Self::Pending | Self::AwaitingApproval | Self::Running)
    }

    /// Whether `next` may follow.
    pub fn may_become(self, next: ToolCallStatus) -> bool {
        use ToolCallStatus as S;
        if self == next {
            return true;
        }
        match (self, next) {
            (from, _) if from.is_terminal() => false,
            (_, S::Cancelled) => true,
            (S::StreamingArguments, S::Pending | S::Invalid | S::Running | S::AwaitingApproval) => true,
            (S::Pending, S::AwaitingApproval | S::Running | S::Declined | S::Invalid | S::Failed) => true,
            (S::AwaitingApproval, S::Running | S::Declined | S::Invalid | S::Failed) => true,
            (S::Running, S::Completed | S::Failed | S::TimedOut | S::OutcomeUnknown) => true,
            _ => false,
        }
    }
}

/// Who runs a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Executor {
    #[default]
    Engine,
    /// The attached host.
    Client,
    /// An agent used as a back end.
    Backend,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

/// How a call came to be allowed or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionRecord {
    pub allowed: bool,
    /// `mode`, `rule`, `answer`, `expired`, `policy`, `caller`, `judge`.
    pub source: String,
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult {
    pub outcome: ToolOutcome,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structured_content_json: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_json: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncated>,
    #[serde(default)]
    pub duration_ms: u64,
}

impl ToolResult {
    /// A result that consists of an error.
    pub fn failed(outcome: ToolOutcome, error: ErrorDetail) -> Self {
        Self {
            outcome,
            parts: vec![Part::text(error.message.clone())],
            structured_content_json: None,
            is_error: true,
            meta_json: None,
            error: Some(error),
            truncated: None,
            duration_ms: 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolOutcome {
    Ok,
    /// The tool ran and says that it failed.
    ToolError,
    ProtocolError,
    TimedOut,
    InvalidArguments,
    Declined,
    Cancelled,
    OutcomeUnknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncated {
    pub original_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_id: Option<ContentId>,
}

impl Item {
    /// The tool call in it, if it is one.
    pub fn tool_call(&self) -> Option<&ToolCall> {
        match &self.body {
            ItemBody::ToolCall(call) => Some(call),
            _ => None,
        }
    }

    /// The tool call in it, if it is one.
    pub fn tool_call_mut(&mut self) -> Option<&mut ToolCall> {
        match &mut self.body {
            ItemBody::ToolCall(call) => Some(call),
            _ => None,
        }
    }

    /// Its text for people and searches: of messages and thoughts, not of tool calls.
    pub fn text(&self) -> String {
        match &self.body {
            ItemBody::UserMessage(m) => crate::content::join_text(&m.parts),
            ItemBody::AgentMessage(m) => crate::content::join_text(&m.parts),
            ItemBody::Thought(t) => t.text.clone(),
            ItemBody::Compaction(c) => crate::content::join_text(&c.summary_parts),
            ItemBody::Notice(n) => n.text.clone(),
            ItemBody::ToolCall(_) => String::new(),
        }
    }

    /// Erases what it says; ids, times and states stay.
    pub fn redact(&mut self) {
        self.redacted = true;
        self.provider_state_json = None;
        match &mut self.body {
            ItemBody::UserMessage(m) => m.parts.clear(),
            ItemBody::AgentMessage(m) => m.parts.clear(),
            ItemBody::Thought(t) => *t = Thought::default(),
            ItemBody::Compaction(c) => c.summary_parts.clear(),
            ItemBody::Notice(n) => {
                n.text.clear();
                n.data_json = None;
            }
            ItemBody::ToolCall(call) => call.redact(),
        }
    }
}
