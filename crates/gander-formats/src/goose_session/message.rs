//! One item → Goose's messages.
//!
//! An item of the model becomes contents of the assistant's message with the item's message id; a call that has ended
//! becomes a user message of its own besides. The ids here are the stored ones: a stream and a reload show the same.

use gander_proto::v1::{
    ErrorReason, Interaction, Item, Notice, Part, PermissionReason, SamplingQuestion, StopReason, Thought,
    ToolCall, ToolCallStatus, ToolOutcome, ToolResult, Turn, TurnState, Visibility, interaction::Question,
    item::Body, part,
};
use serde_json::{Map, Value, json};

use super::{
    blocks::{block, call_result, parse, parse_object, parts},
    times::seconds,
};
use crate::session::{Action, Call, CallResult, Content, Message, Metadata, NotificationType, Outcome, Role};

fn metadata(visibility: Option<&Visibility>) -> Metadata {
    visibility.map_or(Metadata::BOTH, |v| Metadata { user_visible: v.user, agent_visible: v.model })
}

/// What an item's messages have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub message_id: String,
    pub created: i64,
    pub metadata: Metadata,
}

impl Frame {
    pub fn of(item: &Item) -> Self {
        let time = item.client_create_time.as_ref().or(item.create_time.as_ref());
        Self {
            message_id: item.message_id.clone(),
            created: seconds(time),
            metadata: metadata(item.visibility.as_ref()),
        }
    }

    /// A message of the assistant.
    pub fn assistant(&self, content: Vec<Content>) -> Message {
        self.message(Role::Assistant, content)
    }

    pub fn message(&self, role: Role, content: Vec<Content>) -> Message {
        Message {
            id: Some(self.message_id.clone()),
            role,
            created: self.created,
            content,
            metadata: self.metadata,
        }
    }
}

/// What an item adds to its message. Calls are requests here; see [`tool_response`] for what they gave.
pub fn contents(item: &Item) -> (Role, Vec<Content>) {
    match &item.body {
        None => (Role::Assistant, Vec::new()),
        Some(Body::UserMessage(message)) => (Role::User, parts(&message.parts)),
        Some(Body::AgentMessage(message)) => (Role::Assistant, parts(&message.parts)),
        Some(Body::Thought(thought)) => (Role::Assistant, thought_contents(thought)),
        Some(Body::ToolCall(call)) if is_requested(call) => {
            (Role::Assistant, vec![tool_request(&item.item_id, call)])
        }
        Some(Body::ToolCall(_)) => (Role::Assistant, Vec::new()),
        Some(Body::Compaction(compaction)) => (Role::User, parts(&compaction.summary_parts)),
        Some(Body::Notice(notice)) => (Role::Assistant, vec![notice_content(notice)]),
    }
}

fn notice_content(notice: &Notice) -> Content {
    let data = parse_object(&notice.data_json).map(Value::Object);
    Content::SystemNotification {
        notification_type: NotificationType::InlineMessage,
        msg: notice.text.clone(),
        data,
    }
}

fn thought_contents(thought: &Thought) -> Vec<Content> {
    let mut contents = Vec::new();
    if !thought.text.is_empty() || !thought.signature.is_empty() {
        contents
            .push(Content::Thinking { thinking: thought.text.clone(), signature: thought.signature.clone() });
    }
    if !thought.redacted_data.is_empty() {
        contents.push(Content::RedactedThinking { data: thought.redacted_data.clone() });
    }
    contents
}

/// Whether the arguments are complete, which is when Goose shows a call.
pub fn is_requested(call: &ToolCall) -> bool {
    !matches!(call.status(), ToolCallStatus::Unspecified | ToolCallStatus::StreamingArguments)
}

/// The model's request. Its id is the item's: a provider's own ids repeat, and Goose's windows keep clicks by id.
pub fn tool_request(item_id: &str, call: &ToolCall) -> Content {
    let mut meta = parse_object(&call.tool_meta_json).unwrap_or_default();
    if !call.extension_name.is_empty() {
        meta.insert("goose_extension".to_owned(), Value::from(call.extension_name.as_str()));
    }
    Content::ToolRequest {
        id: item_id.to_owned(),
        tool_call: requested(call),
        metadata: None,
        meta: (!meta.is_empty()).then_some(Value::Object(meta)),
    }
}

/// That a client is to run a call now, after whoever had to allow it did. It is for programs: people see the request
/// and the result. Goose has no route for the result; a program gives it as the session's host.
pub fn frontend_request(item_id: &str, call: &ToolCall, frame: &Frame) -> Message {
    let content = Content::FrontendToolRequest { id: item_id.to_owned(), tool_call: requested(call) };
    Message {
        id: Some(format!("{item_id}-f")),
        role: Role::Assistant,
        created: frame.created,
        content: vec![content],
        metadata: Metadata { user_visible: false, agent_visible: true },
    }
}

fn requested(call: &ToolCall) -> Outcome<Call> {
    if !call.invalid_arguments.is_empty() {
        return Outcome::Error {
            error: format!("The arguments of {} are unusable: {}", call.name, call.invalid_arguments),
        };
    }
    Outcome::Success { value: Call { name: call.name.clone(), arguments: Some(arguments(call)) } }
}

/// The arguments; an empty object while there are none.
fn arguments(call: &ToolCall) -> Map<String, Value> {
    parse_object(&call.arguments_json).unwrap_or_default()
}

/// Id of the message that holds what a call gave.
fn response_id(item_id: &str) -> String {
    format!("{item_id}-r")
}

/// What a call that has ended gave, as the user's message that Goose makes of it.
pub fn tool_response(item: &Item, call: &ToolCall) -> Message {
    let ended = item.complete_time.as_ref().or(item.create_time.as_ref());
    Message {
        id: Some(response_id(&item.item_id)),
        role: Role::User,
        created: seconds(ended),
        content: vec![Content::ToolResponse {
            id: item.item_id.clone(),
            tool_result: tool_result(call),
            metadata: None,
        }],
        metadata: metadata(item.visibility.as_ref()),
    }
}

fn tool_result(call: &ToolCall) -> Outcome<CallResult> {
    let Some(result) = &call.result else {
        let error = match call.status() {
            ToolCallStatus::Declined => "The tool call was declined and did not run.",
            ToolCallStatus::OutcomeUnknown => {
                "The daemon stopped while the tool ran; nobody knows whether it took effect."
            }
            _ => "The tool call was cancelled; it may have run in part.",
        };
        return Outcome::Error { error: error.to_owned() };
    };
    match result.outcome() {
        ToolOutcome::Ok | ToolOutcome::ToolError => Outcome::Success { value: call_result(result) },
        // Goose marks these as failed results rather than as errors: the model is to read and obey them.
        ToolOutcome::Declined => {
            Outcome::Success { value: CallResult { is_error: true, ..call_result(result) } }
        }
        // What it wrote before its end is worth showing.
        ToolOutcome::Cancelled | ToolOutcome::OutcomeUnknown if !result.parts.is_empty() => {
            Outcome::Success { value: CallResult { is_error: true, ..call_result(result) } }
        }
        _ => Outcome::Error { error: result_error(result) },
    }
}

fn result_error(result: &ToolResult) -> String {
    if let Some(error) = result.error.as_ref().filter(|error| !error.message.is_empty()) {
        return error.message.clone();
    }
    let text: String = result.parts.iter().filter_map(text_of).collect();
    if text.is_empty() { "The tool failed without saying why.".to_owned() } else { text }
}

fn text_of(part: &Part) -> Option<&str> {
    match &part.body {
        Some(part::Body::Text(text)) => Some(text),
        _ => None,
    }
}

/// A question as Goose shows it; `None` for kinds that this version does not know.
pub fn question(interaction: &Interaction) -> Option<Message> {
    let content = match interaction.question.as_ref()? {
        Question::Permission(question) => {
            let call = question.tool_call.clone().unwrap_or_default();
            // A prompt hides "always allow", which is right only where remembering would be dangerous.
            let once_only =
                matches!(question.reason(), PermissionReason::Security | PermissionReason::DefinitionChanged);
            let prompt = if question.prompt.is_empty() {
                "This call looks dangerous. Allow it this time?"
            } else {
                &question.prompt
            };
            Content::ActionRequired {
                data: Action::ToolConfirmation {
                    id: interaction.item_id.clone(),
                    tool_name: call.name.clone(),
                    arguments: Value::Object(arguments(&call)),
                    prompt: once_only.then(|| prompt.to_owned()),
                },
            }
        }
        Question::ElicitForm(form) => Content::ActionRequired {
            data: Action::Elicitation {
                id: interaction.interaction_id.clone(),
                message: form.message.clone(),
                requested_schema: parse(&form.schema_json).unwrap_or_else(|| json!({"type": "object"})),
            },
        },
        Question::OpenUrl(page) => {
            let message =
                if page.message.is_empty() { "Please open this page:" } else { page.message.as_str() };
            Content::notification(NotificationType::InlineMessage, format!("{message} {}", page.url))
        }
        // Goose has no question of this kind; its question about a tool asks the same: may this run?
        Question::Sampling(sampling) => Content::ActionRequired {
            data: Action::ToolConfirmation {
                id: interaction.interaction_id.clone(),
                tool_name: format!("{}__sampling", sampling.extension_name),
                arguments: sampling_arguments(sampling),
                prompt: Some(format!("{} wants to ask the model. Allow it?", sampling.extension_name)),
            },
        },
    };
    Some(Message {
        id: Some(interaction.interaction_id.clone()),
        role: Role::Assistant,
        created: seconds(interaction.create_time.as_ref()),
        content: vec![content],
        metadata: Metadata::USER_ONLY,
    })
}

fn sampling_arguments(sampling: &SamplingQuestion) -> Value {
    let messages: Vec<Value> = sampling
        .messages
        .iter()
        .map(|message| {
            let blocks: Vec<Value> = message.parts.iter().map(block).collect();
            json!({"role": message.role, "content": blocks})
        })
        .collect();
    json!({"messages": messages, "systemPrompt": sampling.system_prompt})
}

/// What is said about the end of a turn that did not end as it should; the same in a stream and after a reload.
pub fn turn_end(turn: &Turn) -> Option<Message> {
    let (content, metadata) = match turn.state() {
        TurnState::Failed => failure(turn),
        TurnState::Interrupted => {
            let text = "The daemon was stopped while it worked on this. Say \"continue\" to go on.";
            (Content::notification(NotificationType::InlineMessage, text), Metadata::USER_ONLY)
        }
        TurnState::Completed => match turn.stop_reason() {
            StopReason::MaxModelCalls => {
                let text = "I have done as many steps as I may without asking. Shall I go on?";
                (Content::text(text), Metadata::USER_ONLY)
            }
            StopReason::Budget => {
                let text = "The limit of tokens, money or time for this turn is used up.";
                (Content::notification(NotificationType::InlineMessage, text), Metadata::USER_ONLY)
            }
            _ => return None,
        },
        _ => return None,
    };
    Some(Message {
        id: Some(format!("{}-e", turn.turn_id)),
        role: Role::Assistant,
        created: seconds(turn.end_time.as_ref()),
        content: vec![content],
        metadata,
    })
}

fn failure(turn: &Turn) -> (Content, Metadata) {
    let error = turn.error.clone().unwrap_or_default();
    if error.reason() == ErrorReason::ProviderQuotaExhausted {
        let data = error.metadata.get("topUpUrl").map(|url| json!({"top_up_url": url}));
        let content = Content::SystemNotification {
            notification_type: NotificationType::CreditsExhausted,
            msg: error.message,
            data,
        };
        return (content, Metadata::USER_ONLY);
    }
    let text = format!(
        "Ran into this error: {}.\n\nPlease retry if you think this is a transient or recoverable error.",
        error.message.trim_end_matches('.')
    );
    (Content::text(text), Metadata::USER_ONLY)
}
