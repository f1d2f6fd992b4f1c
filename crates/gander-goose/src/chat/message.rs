//! One item → Goose's messages.
//!
//! An item of the model becomes contents of the assistant's message with the item's message id; a call that has ended
//! becomes a user message of its own besides. The ids here are the stored ones: a stream and a reload show the same.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gander_formats::session::{
    Action, Call, CallResult, Content, Message, Metadata, NotificationType, Outcome, Role,
};
use gander_proto::v1::{
    Annotations, ErrorReason, Interaction, Item, Notice, Part, StopReason, Thought, ToolCall, ToolCallStatus,
    ToolOutcome, ToolResult, Turn, TurnState, Visibility, interaction::Question, item::Body, media_part,
    part, resource_contents,
};
use prost_types::Timestamp;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The sentence that Goose's window knows its compacting state by.
pub(crate) const COMPACTING: &str = "goose is compacting the conversation...";

/// Whole seconds, as Goose counts.
pub(crate) fn seconds(time: Option<&Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds)
}

/// RFC 3339 in UTC; empty without a time.
pub(crate) fn rfc3339(time: Option<&Timestamp>) -> String {
    let time = time.and_then(|time| {
        let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
    });
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

pub(crate) fn metadata(visibility: Option<&Visibility>) -> Metadata {
    visibility.map_or(Metadata::BOTH, |v| Metadata { user_visible: v.user, agent_visible: v.model })
}

/// What an item's messages have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) message_id: String,
    pub(crate) created: i64,
    pub(crate) metadata: Metadata,
}

impl Frame {
    pub(crate) fn of(item: &Item) -> Self {
        let time = item.client_create_time.as_ref().or(item.create_time.as_ref());
        Self {
            message_id: item.message_id.clone(),
            created: seconds(time),
            metadata: metadata(item.visibility.as_ref()),
        }
    }

    /// A message of the assistant.
    pub(crate) fn assistant(&self, content: Vec<Content>) -> Message {
        self.message(Role::Assistant, content)
    }

    pub(crate) fn message(&self, role: Role, content: Vec<Content>) -> Message {
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
pub(crate) fn contents(item: &Item) -> (Role, Vec<Content>) {
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

pub(crate) fn notice_content(notice: &Notice) -> Content {
    let data = parse_object(&notice.data_json).map(Value::Object);
    Content::SystemNotification {
        notification_type: NotificationType::InlineMessage,
        msg: notice.text.clone(),
        data,
    }
}

pub(crate) fn thought_contents(thought: &Thought) -> Vec<Content> {
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
pub(crate) fn is_requested(call: &ToolCall) -> bool {
    !matches!(call.status(), ToolCallStatus::Unspecified | ToolCallStatus::StreamingArguments)
}

/// The model's request. Its id is the item's: a provider's own ids repeat, and Goose's windows keep clicks by id.
pub(crate) fn tool_request(item_id: &str, call: &ToolCall) -> Content {
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
pub(crate) fn frontend_request(item_id: &str, call: &ToolCall, frame: &Frame) -> Message {
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
pub(crate) fn arguments(call: &ToolCall) -> Map<String, Value> {
    parse_object(&call.arguments_json).unwrap_or_default()
}

fn parse_object(json: &str) -> Option<Map<String, Value>> {
    if json.is_empty() {
        return None;
    }
    match serde_json::from_str(json) {
        Ok(Value::Object(map)) => Some(map),
        Ok(other) => Some(Map::from_iter([("value".to_owned(), other)])),
        Err(_) => None,
    }
}

fn parse(json: &str) -> Option<Value> {
    if json.is_empty() { None } else { serde_json::from_str(json).ok() }
}

/// Id of the message that holds what a call gave.
pub(crate) fn response_id(item_id: &str) -> String {
    format!("{item_id}-r")
}

/// What a call that has ended gave, as the user's message that Goose makes of it.
pub(crate) fn tool_response(item: &Item, call: &ToolCall) -> Message {
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

/// A result with MCP's content blocks.
pub(crate) fn call_result(result: &ToolResult) -> CallResult {
    CallResult {
        content: result.parts.iter().map(block).collect(),
        structured_content: parse(&result.structured_content_json),
        is_error: result.is_error,
        meta: parse(&result.meta_json),
    }
}

fn text_of(part: &Part) -> Option<&str> {
    match &part.body {
        Some(part::Body::Text(text)) => Some(text),
        _ => None,
    }
}

/// Parts of a message. Goose's messages hold text and pictures; whatever else there is becomes text that says what it
/// stands for.
pub(crate) fn parts(parts: &[Part]) -> Vec<Content> {
    parts.iter().filter_map(part_content).collect()
}

fn part_content(part: &Part) -> Option<Content> {
    let annotations = part.annotations.as_ref().map(annotations);
    let meta = parse(&part.meta_json);
    let text = |text: String| Some(Content::Text { text, annotations: None, meta: None });
    match part.body.as_ref()? {
        part::Body::Text(text) if text.is_empty() => None,
        part::Body::Text(text) => Some(Content::Text { text: text.clone(), annotations, meta }),
        part::Body::Image(image) => Some(Content::Image {
            data: media_data(image.source.as_ref()),
            mime_type: image.mime_type.clone(),
            annotations,
            meta,
        }),
        part::Body::Audio(audio) => text(format!("[audio, {}]", audio.mime_type)),
        part::Body::Resource(resource) => match &resource.contents {
            Some(resource_contents::Contents::Text(contents)) => {
                text(format!("{}\n\n{contents}", resource.uri))
            }
            _ => text(format!("[resource {}]", resource.uri)),
        },
        part::Body::ResourceLink(link) => {
            let name = if link.title.is_empty() { &link.name } else { &link.title };
            text(format!("[{name}]({})", link.uri))
        }
        part::Body::Diff(diff) => text(format!("[change of {}]", diff.path)),
        part::Body::Terminal(_) => None,
        part::Body::TextContentId(id) => text(format!("[a long text that is not available, {id}]")),
        part::Body::Unknown(unknown) => {
            Some(parse(&unknown.raw_json).map_or_else(|| Content::text(&unknown.raw_json), Content::Unknown))
        }
    }
}

fn media_data(source: Option<&media_part::Source>) -> String {
    match source {
        Some(media_part::Source::Data(data)) => STANDARD.encode(data),
        _ => String::new(),
    }
}

fn annotations(annotations: &Annotations) -> Value {
    let mut map = Map::new();
    if !annotations.audience.is_empty() {
        map.insert("audience".to_owned(), Value::from(annotations.audience.clone()));
    }
    if let Some(priority) = annotations.priority {
        map.insert("priority".to_owned(), Value::from(priority));
    }
    if let Some(time) = &annotations.last_modified {
        map.insert("lastModified".to_owned(), Value::from(rfc3339(Some(time))));
    }
    Value::Object(map)
}

/// A part as MCP writes it.
pub(crate) fn block(part: &Part) -> Value {
    let mut block = match &part.body {
        None => json!({"type": "text", "text": ""}),
        Some(part::Body::Text(text)) => json!({"type": "text", "text": text}),
        Some(part::Body::Image(media)) => {
            json!({"type": "image", "data": media_data(media.source.as_ref()), "mimeType": media.mime_type})
        }
        Some(part::Body::Audio(media)) => {
            json!({"type": "audio", "data": media_data(media.source.as_ref()), "mimeType": media.mime_type})
        }
        Some(part::Body::Resource(resource)) => {
            json!({"type": "resource", "resource": resource_json(resource)})
        }
        Some(part::Body::ResourceLink(link)) => resource_link(link),
        Some(part::Body::Unknown(unknown)) => {
            parse(&unknown.raw_json).unwrap_or_else(|| json!({"type": "text", "text": unknown.raw_json}))
        }
        Some(_) => {
            let text: Vec<String> = part_content(part)
                .into_iter()
                .filter_map(|content| match content {
                    Content::Text { text, .. } => Some(text),
                    _ => None,
                })
                .collect();
            json!({"type": "text", "text": text.concat()})
        }
    };
    if let Value::Object(map) = &mut block {
        if let Some(hints) = &part.annotations {
            map.insert("annotations".to_owned(), annotations(hints));
        }
        if let Some(meta) = parse(&part.meta_json) {
            map.insert("_meta".to_owned(), meta);
        }
    }
    block
}

/// Contents of a resource as MCP writes them.
pub(crate) fn resource_json(resource: &gander_proto::v1::ResourceContents) -> Value {
    let mut map = Map::from_iter([("uri".to_owned(), Value::from(resource.uri.as_str()))]);
    if !resource.mime_type.is_empty() {
        map.insert("mimeType".to_owned(), Value::from(resource.mime_type.as_str()));
    }
    match &resource.contents {
        Some(resource_contents::Contents::Text(text)) => {
            map.insert("text".to_owned(), Value::from(text.as_str()));
        }
        Some(resource_contents::Contents::Data(data)) => {
            map.insert("blob".to_owned(), Value::from(STANDARD.encode(data)));
        }
        _ => {}
    }
    if let Some(meta) = parse(&resource.meta_json) {
        map.insert("_meta".to_owned(), meta);
    }
    Value::Object(map)
}

fn resource_link(link: &gander_proto::v1::ResourceLink) -> Value {
    let mut map = Map::from_iter([
        ("type".to_owned(), Value::from("resource_link")),
        ("uri".to_owned(), Value::from(link.uri.as_str())),
        ("name".to_owned(), Value::from(link.name.as_str())),
    ]);
    for (field, text) in
        [("title", &link.title), ("description", &link.description), ("mimeType", &link.mime_type)]
    {
        if !text.is_empty() {
            map.insert(field.to_owned(), Value::from(text.as_str()));
        }
    }
    if let Some(size) = link.size_bytes {
        map.insert("size".to_owned(), Value::from(size));
    }
    Value::Object(map)
}

/// A question as Goose shows it; `None` for kinds that this version does not know.
pub(crate) fn question(interaction: &Interaction) -> Option<Message> {
    let content = match interaction.question.as_ref()? {
        Question::Permission(question) => {
            let call = question.tool_call.clone().unwrap_or_default();
            // A prompt hides "always allow", which is right only where remembering would be dangerous.
            let once_only = matches!(
                question.reason(),
                gander_proto::v1::PermissionReason::Security
                    | gander_proto::v1::PermissionReason::DefinitionChanged
            );
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

fn sampling_arguments(sampling: &gander_proto::v1::SamplingQuestion) -> Value {
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
pub(crate) fn turn_end(turn: &Turn) -> Option<Message> {
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
