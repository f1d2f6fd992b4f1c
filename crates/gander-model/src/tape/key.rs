//! What a request is known by: hashes that say nothing of ids, times and the order of JSON keys.

use std::collections::HashMap;

use gander_domain::{Item, ItemBody, Part};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{ModelRequest, history};

/// A request's hashes, from the strictest to the loosest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// Model, system prompt, tools and messages.
    pub(super) whole: String,
    /// Without the system prompt.
    pub(super) talk: String,
    /// Model, what the user said, and which tools were called.
    pub(super) outline: String,
}

impl Keys {
    pub(super) fn of(request: &ModelRequest) -> Self {
        let tools: Vec<Value> = request
            .tools
            .iter()
            .map(|tool| {
                let schema = serde_json::from_str(&tool.input_schema_json).unwrap_or(Value::Null);
                json!([tool.name, tool.description, schema])
            })
            .collect();
        let messages = messages(request);
        let talk = json!({ "model": request.model_id, "tools": tools, "messages": messages });
        let whole = json!({ "talk": talk, "system": request.system });
        let outline: Vec<Value> = request
            .items
            .iter()
            .filter(|item| item.visibility.model)
            .filter_map(|item| outline(item))
            .collect();
        let outline = json!({ "model": request.model_id, "items": outline });
        Self { whole: hash(&whole), talk: hash(&talk), outline: hash(&outline) }
    }
}

/// The messages with calls numbered in the order in which they were made.
fn messages(request: &ModelRequest) -> Vec<Value> {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut number = |id: &str| {
        let next = numbers.len();
        *numbers.entry(id.to_owned()).or_insert(next)
    };
    let content = |content: &history::Content| match content {
        history::Content::Text(text) => json!(["text", text]),
        history::Content::Image { mime_type, data } => json!(["image", mime_type, data]),
        history::Content::Audio { mime_type, data } => json!(["audio", mime_type, data]),
        history::Content::Pdf { data } => json!(["pdf", data]),
    };
    history::convert(&request.items, |_, _| false)
        .iter()
        .map(|entry| match entry {
            history::Entry::User(parts) => json!(["user", parts.iter().map(content).collect::<Vec<_>>()]),
            history::Entry::Assistant(blocks) => {
                let blocks: Vec<Value> = blocks
                    .iter()
                    .map(|block| match block {
                        history::Block::Text(text) => json!(["text", text]),
                        history::Block::Thought { text, .. } => json!(["thought", text]),
                        history::Block::Call(call) => {
                            let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
                            json!(["call", number(&call.id), call.name, arguments])
                        }
                    })
                    .collect();
                json!(["assistant", blocks])
            }
            history::Entry::Results(answers) => {
                let answers: Vec<Value> = answers
                    .iter()
                    .map(|answer| {
                        let parts: Vec<Value> = answer.content.iter().map(content).collect();
                        json!([number(&answer.call_id), answer.name, answer.is_error, parts])
                    })
                    .collect();
                json!(["results", answers])
            }
        })
        .collect()
}

fn outline(item: &Item) -> Option<Value> {
    let text = |parts: &[Part]| -> Vec<String> {
        parts.iter().filter_map(Part::as_text).map(str::to_owned).collect()
    };
    match &item.body {
        ItemBody::UserMessage(message) => Some(json!(["user", text(&message.parts)])),
        ItemBody::AgentMessage(message) => Some(json!(["agent", text(&message.parts)])),
        ItemBody::ToolCall(call) => Some(json!(["call", call.name])),
        ItemBody::Compaction(_) => Some(json!(["compaction"])),
        ItemBody::Thought(_) | ItemBody::Notice(_) => None,
    }
}

fn hash(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// JSON with the keys of objects in order.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (key, value) in fields {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(list) => {
            out.push('[');
            for value in list {
                write(value, out);
                out.push(',');
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}
