//! Our conversation as rig's messages.

use rig_core::{
    completion::Message,
    message::{
        Api, AssistantContent, AssistantMessage, AudioMediaType, CallId, DocumentMediaType, ImageMediaType,
        MimeType, Origin, Reasoning, ToolCall, ToolFunction, ToolName, ToolResult, ToolResultContent,
        UserContent,
    },
};
use serde_json::{Map, Value};

use crate::history::{Answer, Block, Call, Content, Entry};

/// Converts the entries; `provider` and `model` mark every turn as made by the addressee, since states that it would not
/// know were left out before. `arguments` gives the tree for the arguments of a call.
pub(super) fn convert(
    entries: Vec<Entry>,
    provider: &str,
    model: &str,
    arguments: &mut Arguments<'_>,
) -> Vec<Message> {
    let origin = Origin::new(Api::from_static("openai.chat"), provider, model);
    entries
        .into_iter()
        .filter_map(|entry| match entry {
            Entry::User(content) => {
                let content: Vec<UserContent> = content.into_iter().map(user_content).collect();
                (!content.is_empty()).then_some(Message::User { content })
            }
            Entry::Assistant(blocks) => {
                let said = blocks.into_iter().filter_map(|said| block(said, arguments));
                let content: Vec<AssistantContent> = said.collect();
                let message = AssistantMessage::new(content).with_origin(origin.clone());
                (!message.content.is_empty()).then_some(Message::Assistant(message))
            }
            Entry::Results(answers) => Some(Message::User {
                content: answers.into_iter().filter_map(answer).map(UserContent::ToolResult).collect(),
            }),
        })
        .collect()
}

fn user_content(content: Content) -> UserContent {
    match content {
        Content::Text(text) => UserContent::text(text),
        Content::Image { mime_type, data } => match ImageMediaType::from_mime_type(&mime_type) {
            Some(kind) => UserContent::image_base64(data, Some(kind), None),
            None => UserContent::text(format!("[image of type {mime_type}, which cannot be sent]")),
        },
        Content::Audio { mime_type, data } => match AudioMediaType::from_mime_type(&mime_type) {
            Some(kind) => UserContent::audio_base64(data, Some(kind)),
            None => UserContent::text(format!("[audio of type {mime_type}, which cannot be sent]")),
        },
        Content::Pdf { data } => UserContent::document_base64(data, Some(DocumentMediaType::PDF)),
    }
}

type Arguments<'a> = dyn FnMut(String) -> Map<String, Value> + 'a;

fn block(block: Block, arguments: &mut Arguments<'_>) -> Option<AssistantContent> {
    match block {
        Block::Text(text) => Some(AssistantContent::text(text)),
        Block::Thought { text, state } => {
            let item = state.get("item")?.clone();
            Some(AssistantContent::Reasoning(Reasoning::new(text)).with_native(item))
        }
        Block::Call(call) => tool_call(call, arguments),
    }
}

fn tool_call(call: Call, arguments: &mut Arguments<'_>) -> Option<AssistantContent> {
    let name = ToolName::new(call.name).ok()?;
    let function = ToolFunction::new(name, Value::Object(arguments(call.arguments)));
    let content = AssistantContent::ToolCall(ToolCall::new(CallId::from_wire(call.id), function));
    match call.state.and_then(|state| state.get("item").cloned()) {
        Some(item) => Some(content.with_native(item)),
        None => Some(content),
    }
}

fn answer(answer: Answer) -> Option<ToolResult> {
    let content = answer
        .content
        .into_iter()
        .map(|content| match content {
            Content::Text(text) => ToolResultContent::text(text),
            Content::Image { mime_type, data } => match ImageMediaType::from_mime_type(&mime_type) {
                Some(kind) => ToolResultContent::image_base64(data, Some(kind), None),
                None => ToolResultContent::text(format!("[image of type {mime_type}, which cannot be sent]")),
            },
            Content::Audio { mime_type, .. } => ToolResultContent::text(format!(
                "[audio of type {mime_type}, which a tool result cannot carry]"
            )),
            Content::Pdf { .. } => {
                ToolResultContent::text("[PDF document, which a tool result cannot carry]")
            }
        })
        .collect();
    Some(ToolResult {
        call: CallId::from_wire(answer.call_id),
        name: ToolName::new(answer.name).ok()?,
        content,
        is_error: answer.is_error,
    })
}
