//! Interactions: questions to a person that any client may answer until they expire.

use serde::{Deserialize, Serialize};

use crate::{
    InteractionId, ItemId, Part, Timestamp, TurnId,
    event::Actor,
    item::ToolCall,
    permission::{PermissionRule, RememberScope},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interaction {
    pub interaction_id: InteractionId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<TurnId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_id: Option<ItemId>,
    pub kind: InteractionKind,
    pub state: InteractionState,
    pub create_time: Timestamp,
    pub expire_time: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<InteractionOutcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<Actor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InteractionState {
    Pending,
    Resolved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InteractionOutcome {
    /// First valid answer.
    Answered,
    /// Nobody answered in time; acts as a decline.
    Expired,
    /// The asker cancelled or died.
    Withdrawn,
    /// The turn ended, or the daemon restarted.
    Voided,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InteractionKind {
    Permission(Box<PermissionQuestion>),
    ElicitForm {
        extension_name: String,
        message: String,
        schema_json: String,
    },
    OpenUrl {
        purpose: UrlPurpose,
        extension_name: String,
        url: String,
        #[serde(default)]
        message: String,
        #[serde(default)]
        accepts_callback_url: bool,
    },
    Sampling {
        extension_name: String,
        messages: Vec<SamplingMessage>,
        max_tokens: u64,
    },
}

impl InteractionKind {
    /// Whether a turn waits for it.
    pub fn blocks_turn(&self) -> bool {
        true
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplingMessage {
    /// `user` or `assistant`.
    pub role: String,
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UrlPurpose {
    Elicitation,
    Oauth,
}

/// A permission question, self-contained: it shows what would run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionQuestion {
    /// Snapshot of the call, preview diff included.
    pub tool_call: ToolCall,
    pub reason: PermissionReason,
    #[serde(default)]
    pub prompt: String,
    pub options: Vec<PermissionOption>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PermissionReason {
    Policy,
    Security,
    ExtensionManagement,
    Repetition,
    DefinitionChanged,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionOption {
    pub option_id: String,
    pub label: String,
    pub kind: DecisionKind,
    /// What an answer with this option is remembered for.
    #[serde(default)]
    pub remember_scope: RememberScope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionKind {
    Allow,
    Deny,
    /// Deny and end the turn.
    Cancel,
}

/// An answer as a client gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// One of the offered options.
    Option { option_id: String },
    Decision {
        kind: DecisionKind,
        #[serde(default)]
        remember_scope: RememberScope,
        /// Told to the model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<String>,
    },
    Form {
        action: FormAction,
        /// JSON object text; required for accept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content_json: Option<String>,
    },
    Url {
        done: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        callback_url: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormAction {
    Accept,
    Decline,
    Cancel,
}

/// The end of an interaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    pub interaction_id: InteractionId,
    pub outcome: InteractionOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<Actor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_created: Option<PermissionRule>,
}

/// The options that gander itself offers for a tool call. Security questions cannot be remembered.
pub fn standard_permission_options(reason: PermissionReason) -> Vec<PermissionOption> {
    let option = |option_id: &str, label: &str, kind, remember_scope| PermissionOption {
        option_id: option_id.to_owned(),
        label: label.to_owned(),
        kind,
        remember_scope,
    };
    let mut options = vec![option("allow_once", "Allow once", DecisionKind::Allow, RememberScope::Once)];
    let rememberable = !matches!(reason, PermissionReason::Security | PermissionReason::DefinitionChanged);
    if rememberable {
        options.push(option(
            "allow_session",
            "Allow for this session",
            DecisionKind::Allow,
            RememberScope::Session,
        ));
        options.push(option("allow_always", "Always allow", DecisionKind::Allow, RememberScope::User));
    }
    options.push(option("deny_once", "Deny", DecisionKind::Deny, RememberScope::Once));
    if rememberable {
        options.push(option("deny_always", "Never allow", DecisionKind::Deny, RememberScope::User));
    }
    options
}

impl PermissionQuestion {
    /// What an answer decides, if it fits this question.
    ///
    /// # Errors
    /// A description of what would have been valid.
    pub fn decide(&self, answer: &Answer) -> Result<(DecisionKind, RememberScope, Option<String>), String> {
        match answer {
            Answer::Option { option_id } => self
                .options
                .iter()
                .find(|o| o.option_id == *option_id)
                .map(|o| (o.kind, o.remember_scope, None))
                .ok_or_else(|| {
                    let known: Vec<_> = self.options.iter().map(|o| o.option_id.as_str()).collect();
                    format!("option_id must be one of {}", known.join(", "))
                }),
            Answer::Decision { kind, remember_scope, comment } => {
                Ok((*kind, *remember_scope, comment.clone()))
            }
            Answer::Form { .. } | Answer::Url { .. } => {
                Err("a permission question is answered by option_id or decision".to_owned())
            }
        }
    }
}
