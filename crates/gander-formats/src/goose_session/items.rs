//! Goose's messages → what the API takes: input of a turn, and items of a history.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet, VecDeque},
};

use gander_proto::v1::{
    AgentMessage, Item, ItemOrigin, ItemState, Notice, NoticeLevel, Part, Thought, ToolCall, ToolCallStatus,
    ToolOutcome, ToolResult, TurnInput, UserMessage, Visibility, item::Body, part,
};
use serde_json::Value;

use super::{
    blocks::{bare, block_part, content_part, unknown},
    times::from_seconds,
};
use crate::session::{Action, Call, CallResult, Content, Message, Outcome, Role};

/// What Goose's older windows say where newer ones say `/compact`.
const COMPACT: &str = "Please compact this conversation";

/// Whether this may be an id of the API.
fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn id_or_empty(id: Option<&str>) -> String {
    id.filter(|id| is_id(id)).unwrap_or_default().to_owned()
}

/// The filled-in form in a message, with the id of its question.
pub fn form_answer(message: &Message) -> Option<(&str, &Value)> {
    message.content.iter().find_map(|content| match content {
        Content::ActionRequired { data: Action::ElicitationResponse { id, user_data } } => {
            Some((id.as_str(), user_data))
        }
        _ => None,
    })
}

/// What a message tells the model.
///
/// # Errors
/// A content that no person can send, or a picture that is no base64; the sentence names it.
pub fn turn_input(message: &Message) -> Result<TurnInput, String> {
    let mut parts = Vec::with_capacity(message.content.len());
    for (index, content) in message.content.iter().enumerate() {
        match content {
            Content::Text { .. } | Content::Image { .. } => {
                let part = content_part(content).ok_or_else(|| {
                    format!("content[{index}].data is not base64; send the picture's bytes so")
                })?;
                parts.push(part);
            }
            Content::ConversationCompacted {} => {}
            Content::Unknown(value) => {
                let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
                return Err(format!("content[{index}] has the unknown type `{kind}`; send text or image"));
            }
            _ => return Err(format!("content[{index}] cannot be sent by a person; send text or image")),
        }
    }
    if let [Part { body: Some(part::Body::Text(text)), .. }] = parts.as_mut_slice()
        && text.trim() == COMPACT
    {
        "/compact".clone_into(text);
    }
    Ok(TurnInput {
        parts,
        message_id: id_or_empty(message.id.as_deref()),
        client_create_time: from_seconds(message.created),
    })
}

/// Messages of a document → items, all complete. Message ids are kept; ids of calls become item ids where `keep_ids`
/// says so and they are usable and do not repeat.
pub fn history(messages: &[Message], keep_ids: bool) -> Vec<Item> {
    let results = results(messages);
    let mut seen = HashSet::new();
    let mut items = Vec::new();
    for message in messages {
        message_items(
            message,
            &results,
            &mut |item_id: &str| {
                let usable = keep_ids && is_id(item_id) && seen.insert(item_id.to_owned());
                if usable { item_id.to_owned() } else { String::new() }
            },
            &mut items,
        );
    }
    items
}

/// What calls gave, by id, in order: ids repeat in documents of some providers.
type Results<'a> = HashMap<&'a str, RefCell<VecDeque<(&'a Outcome<CallResult>, i64)>>>;

fn results(messages: &[Message]) -> Results<'_> {
    let mut results: Results<'_> = HashMap::new();
    for message in messages {
        for content in &message.content {
            if let Content::ToolResponse { id, tool_result, .. } = content {
                results.entry(id).or_default().get_mut().push_back((tool_result, message.created));
            }
        }
    }
    results
}

fn message_items(
    message: &Message,
    results: &Results<'_>,
    item_id: &mut dyn FnMut(&str) -> String,
    items: &mut Vec<Item>,
) {
    let base = Item {
        message_id: id_or_empty(message.id.as_deref()),
        state: ItemState::Completed as i32,
        visibility: Some(Visibility {
            user: message.metadata.user_visible,
            model: message.metadata.agent_visible,
        }),
        origin: ItemOrigin::Import as i32,
        create_time: from_seconds(message.created),
        complete_time: from_seconds(message.created),
        ..Item::default()
    };
    let mut parts: Vec<Part> = Vec::new();
    let flush = |parts: &mut Vec<Part>, items: &mut Vec<Item>| {
        if parts.is_empty() {
            return;
        }
        let parts = std::mem::take(parts);
        let body = match message.role {
            Role::User => Body::UserMessage(UserMessage { parts, steered: false }),
            Role::Assistant => Body::AgentMessage(AgentMessage { parts, demo: false }),
        };
        let client_create_time = if message.role == Role::User { base.create_time } else { None };
        items.push(Item { body: Some(body), client_create_time, ..base.clone() });
    };
    for content in &message.content {
        let body = match content {
            Content::Text { .. } | Content::Image { .. } => {
                // A picture that is no base64 is kept as it is.
                let raw = || serde_json::to_value(content).ok().map(|value| unknown(&value));
                parts.extend(content_part(content).or_else(raw));
                continue;
            }
            Content::Unknown(value) => {
                parts.push(unknown(value));
                continue;
            }
            Content::ToolRequest { id, tool_call, meta, .. } => {
                flush(&mut parts, items);
                let result = results.get(id.as_str()).and_then(|queue| queue.borrow_mut().pop_front());
                let call = tool_call_body(id, tool_call, meta.as_ref(), result.map(|(result, _)| result));
                let complete_time =
                    result.and_then(|(_, created)| from_seconds(created)).or(base.complete_time);
                let body = Some(Body::ToolCall(Box::new(call)));
                items.push(Item { item_id: item_id(id), body, complete_time, ..base.clone() });
                continue;
            }
            Content::Thinking { thinking, signature } => Body::Thought(Thought {
                text: thinking.clone(),
                signature: signature.clone(),
                redacted_data: String::new(),
            }),
            Content::Reasoning { text } => {
                Body::Thought(Thought { text: text.clone(), ..Thought::default() })
            }
            Content::RedactedThinking { data } => {
                Body::Thought(Thought { redacted_data: data.clone(), ..Thought::default() })
            }
            Content::SystemNotification { msg, data, .. } => Body::Notice(Notice {
                level: NoticeLevel::Info as i32,
                code: "imported".to_owned(),
                text: msg.clone(),
                data_json: data
                    .as_ref()
                    .filter(|data| data.is_object())
                    .map(Value::to_string)
                    .unwrap_or_default(),
            }),
            // Questions are over, and results went to their calls.
            Content::ToolResponse { .. }
            | Content::ToolConfirmationRequest { .. }
            | Content::ActionRequired { .. }
            | Content::FrontendToolRequest { .. }
            | Content::ConversationCompacted {} => continue,
        };
        flush(&mut parts, items);
        items.push(Item { body: Some(body), ..base.clone() });
    }
    flush(&mut parts, items);
}

fn tool_call_body(
    id: &str,
    call: &Outcome<Call>,
    meta: Option<&Value>,
    result: Option<&Outcome<CallResult>>,
) -> ToolCall {
    let (name, arguments_json, invalid_arguments) = match call {
        Outcome::Success { value } => {
            let arguments = value.arguments.clone().unwrap_or_default();
            (value.name.clone(), Value::Object(arguments).to_string(), String::new())
        }
        Outcome::Error { error } => ("unknown".to_owned(), "{}".to_owned(), error.clone()),
    };
    let (extension_name, tool_name) = match name.split_once("__") {
        Some((extension, tool)) => (extension.to_owned(), tool.to_owned()),
        None => (String::new(), name.clone()),
    };
    let (status, result) = match result {
        Some(Outcome::Success { value }) => {
            let (status, outcome) = if value.is_error {
                (ToolCallStatus::Failed, ToolOutcome::ToolError)
            } else {
                (ToolCallStatus::Completed, ToolOutcome::Ok)
            };
            (status, tool_result(outcome, value.content.iter().map(block_part).collect(), Some(value)))
        }
        Some(Outcome::Error { error }) => {
            let parts = vec![bare(part::Body::Text(error.clone()))];
            (ToolCallStatus::Failed, tool_result(ToolOutcome::ProtocolError, parts, None))
        }
        None => {
            let text = "No result was recorded for this call.".to_owned();
            let parts = vec![bare(part::Body::Text(text))];
            (ToolCallStatus::Cancelled, tool_result(ToolOutcome::Cancelled, parts, None))
        }
    };
    ToolCall {
        name,
        extension_name,
        tool_name,
        call_id: id.to_owned(),
        status: status as i32,
        arguments_json,
        invalid_arguments,
        tool_meta_json: meta.filter(|meta| meta.is_object()).map(Value::to_string).unwrap_or_default(),
        result: Some(result),
        ..ToolCall::default()
    }
}

fn tool_result(outcome: ToolOutcome, parts: Vec<Part>, value: Option<&CallResult>) -> ToolResult {
    let json = |value: Option<&Value>| value.map(Value::to_string).unwrap_or_default();
    ToolResult {
        outcome: outcome as i32,
        parts,
        structured_content_json: json(value.and_then(|value| value.structured_content.as_ref())),
        is_error: outcome != ToolOutcome::Ok,
        meta_json: json(value.and_then(|value| value.meta.as_ref()).filter(|meta| meta.is_object())),
        ..ToolResult::default()
    }
}
