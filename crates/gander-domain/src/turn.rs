//! Turns: one request to the agent, from its start to exactly one end.

use serde::{Deserialize, Serialize};

use crate::{ErrorDetail, Timestamp, TurnId, Usage, event::Actor, session::ModelSelection};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub turn_id: TurnId,
    pub state: TurnState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// Set when the state is `Failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<Actor>,
    /// Who asked for the cancel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<Actor>,
    /// Set when the state is `Interrupted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupted_by: Option<InterruptCause>,
    #[serde(default)]
    pub limits: TurnLimits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSelection>,
    #[serde(default)]
    pub usage: Usage,
    /// Model calls made.
    #[serde(default)]
    pub model_calls: u32,
    pub create_time: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// Sequence of its first event; 0 until stored.
    #[serde(default)]
    pub first_sequence: i64,
    /// Sequence of its end; 0 while it has none.
    #[serde(default)]
    pub last_sequence: i64,
    /// Hex SHA-256 of the request that started it, to tell a retry from a reuse of the id.
    #[serde(default)]
    pub request_hash: String,
}

/// `QUEUED → RUNNING ⇄ AWAITING_INPUT → CANCELLING →` one of the four ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnState {
    Queued,
    Running,
    AwaitingInput,
    Cancelling,
    Completed,
    Failed,
    /// By a client.
    Cancelled,
    /// The daemon stopped; never means that a user cancelled.
    Interrupted,
}

impl TurnState {
    /// Whether nothing follows.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Interrupted)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    EndTurn,
    MaxOutputTokens,
    MaxModelCalls,
    Budget,
    Refusal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterruptCause {
    Restart,
    Drain,
    Fenced,
}

/// Bounds of one turn; absent = the configured default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TurnLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_model_calls: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost_micros: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration_ms: Option<u64>,
}

/// How a turn ended, as its task reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnOutcome {
    Completed(StopReason),
    Failed(ErrorDetail),
    Cancelled,
    Interrupted(InterruptCause),
}
