//! The stored conversation as a model may be told it: pure, and the same for every engine.
//!
//! Invariants of the result: every call is followed by exactly one answer, answers stand in call order right after the
//! message with their calls, call ids are unique and short, and nothing is sent that is not visible to the model.
//! Thoughts are kept only with the state that their own provider needs to recognise them.

use std::{collections::HashSet, fmt::Write as _, sync::Arc};

use base64::Engine as _;
use gander_domain::{
    Item, ItemBody, MessageId, Part, PartBody, ToolCall,
    content::Data,
    item::{ToolCallStatus, ToolOutcome, ToolResult},
};
use serde_json::Value;

/// One entry of the conversation as sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    User(Vec<Content>),
    Assistant(Vec<Block>),
    /// The answers to the calls of the entry before.
    Results(Vec<Answer>),
}

/// Content of a user message or of a tool's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Text(String),
    /// Base64 data.
    Image {
        mime_type: String,
        data: String,
    },
    /// Base64 data.
    Audio {
        mime_type: String,
        data: String,
    },
    /// Base64 data.
    Pdf {
        data: String,
    },
}

/// One piece of what the model said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Block {
    Thought { text: String, state: Value },
    Text(String),
    Call(Call),
}

/// Whether a model that must begin what it says with a thought may be asked to think: not in the middle of an answer that
/// it began without one.
pub(crate) fn may_begin_to_think(entries: &[Entry]) -> bool {
    let asked = entries.iter().rposition(|entry| matches!(entry, Entry::User(_)));
    let answer = entries.iter().skip(asked.map_or(0, |asked| asked + 1));
    let first = answer.filter_map(|entry| match entry {
        Entry::Assistant(blocks) => Some(blocks),
        Entry::User(_) | Entry::Results(_) => None,
    });
    first.take(1).all(|blocks| matches!(blocks.first(), Some(Block::Thought { .. })))
}

/// A call as sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    /// A JSON object as the model wrote it, byte for byte: numbers keep their digits, and what the server has in its cache
    /// is what it gets back.
    pub(crate) arguments: String,
    pub(crate) state: Option<Value>,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) call_id: String,
    pub(crate) name: String,
    pub(crate) content: Vec<Content>,
    pub(crate) is_error: bool,
}

/// Converts the conversation. `replays` tells whether the state of an item, made by the given model, may be sent back;
/// thoughts without such a state are left out.
pub(crate) fn convert(items: &[Arc<Item>], replays: impl Fn(&Value, Option<&str>) -> bool) -> Vec<Entry> {
    let mut builder = Builder::default();
    for item in items.iter().filter(|item| item.visibility.model) {
        let state = item
            .provider_state_json
            .as_deref()
            .and_then(|text| serde_json::from_str::<Value>(text).ok())
            .filter(|state| replays(state, item.model_id.as_deref()));
        builder.item(item, state);
    }
    builder.finish()
}

#[derive(Default)]
struct Builder {
    entries: Vec<Entry>,
    group: Option<MessageId>,
    blocks: Vec<Block>,
    answers: Vec<Answer>,
    used_ids: HashSet<String>,
}

impl Builder {
    fn item(&mut self, item: &Item, state: Option<Value>) {
        match &item.body {
            ItemBody::UserMessage(message) => {
                self.flush();
                self.user(contents(&message.parts, item.redacted));
            }
            ItemBody::Compaction(compaction) => {
                self.flush();
                let mut content =
                    vec![Content::Text("Summary of the conversation before this point:".to_owned())];
                content.extend(contents(&compaction.summary_parts, item.redacted));
                self.user(content);
            }
            ItemBody::AgentMessage(message) => {
                let text = contents(&message.parts, item.redacted)
                    .into_iter()
                    .filter_map(|content| match content {
                        Content::Text(text) => Some(text),
                        _ => None,
                    })
                    .collect::<Vec<_>>()
                    .join("\n");
                self.join(item);
                if !text.is_empty() {
                    self.blocks.push(Block::Text(text));
                }
            }
            ItemBody::Thought(thought) => {
                self.join(item);
                if let Some(state) = state
                    && !item.incomplete
                {
                    self.blocks.push(Block::Thought { text: thought.text.clone(), state });
                }
            }
            ItemBody::ToolCall(call) => {
                self.join(item);
                self.call(item, call, state);
            }
            ItemBody::Notice(_) => {}
        }
    }

    fn user(&mut self, content: Vec<Content>) {
        if !content.is_empty() {
            self.entries.push(Entry::User(content));
        }
    }

    /// Items of one response share a message id: they become one entry.
    fn join(&mut self, item: &Item) {
        if self.group.as_ref() != Some(&item.message_id) {
            self.flush();
            self.group = Some(item.message_id.clone());
        }
    }

    fn call(&mut self, item: &Item, call: &ToolCall, state: Option<Value>) {
        // The model never finished asking: there is nothing to answer.
        if call.status == ToolCallStatus::StreamingArguments || call.name.is_empty() {
            return;
        }
        let id = self.unique_id(&call.call_id, item);
        let text = call.arguments_json.trim();
        let is_object = serde_json::from_str::<serde_json::Map<String, Value>>(text).is_ok();
        let arguments = if is_object { text } else { "{}" }.to_owned();
        self.blocks.push(Block::Call(Call { id: id.clone(), name: call.name.clone(), arguments, state }));
        let (content, is_error) = answer(call, item.redacted);
        self.answers.push(Answer { call_id: id, name: call.name.clone(), content, is_error });
    }

    /// The provider's id if every vendor takes it and no earlier call has it, else one made from the item's id: stable
    /// from request to request, so that prompt caches hold.
    fn unique_id(&mut self, call_id: &str, item: &Item) -> String {
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let mut id = call_id.to_owned();
        if id.is_empty() || id.len() > 40 || !plain(&id) || self.used_ids.contains(&id) {
            let letters: Vec<char> =
                item.item_id.as_str().chars().filter(char::is_ascii_alphanumeric).collect();
            let tail: String = letters.iter().skip(letters.len().saturating_sub(30)).collect();
            id = format!("call_{tail}");
        }
        let stem = id.clone();
        let mut suffix = 1;
        while !self.used_ids.insert(id.clone()) {
            suffix += 1;
            id = format!("{stem}_{suffix}");
        }
        id
    }

    fn flush(&mut self) {
        self.group = None;
        let blocks = std::mem::take(&mut self.blocks);
        let answers = std::mem::take(&mut self.answers);
        // A thought alone is no message that any vendor takes.
        if blocks.iter().any(|block| !matches!(block, Block::Thought { .. })) {
            self.entries.push(Entry::Assistant(blocks));
        }
        if !answers.is_empty() {
            self.entries.push(Entry::Results(answers));
        }
    }

    fn finish(mut self) -> Vec<Entry> {
        self.flush();
        self.entries
    }
}

/// What the model is told of a call's outcome; never empty.
fn answer(call: &ToolCall, redacted: bool) -> (Vec<Content>, bool) {
    let Some(result) = &call.result else {
        return (vec![Content::Text(missing_result(call).to_owned())], true);
    };
    let mut content = contents(&result.parts, redacted);
    if content.is_empty() {
        content.push(Content::Text(empty_result(result)));
    }
    let is_error = result.is_error || result.outcome != ToolOutcome::Ok;
    if is_error {
        mark_error(&mut content);
    }
    (content, is_error)
}

fn missing_result(call: &ToolCall) -> &'static str {
    match call.status {
        ToolCallStatus::Declined => "No result: the user declined this call.",
        ToolCallStatus::Cancelled => "No result: this call was cancelled.",
        ToolCallStatus::Invalid => "No result: the arguments of this call were not valid.",
        ToolCallStatus::OutcomeUnknown => {
            "No result: this call was interrupted and its outcome is unknown. It may or may not have had its effect."
        }
        ToolCallStatus::TimedOut => "No result: this call timed out.",
        _ => "No result was recorded for this call.",
    }
}

fn empty_result(result: &ToolResult) -> String {
    if let Some(json) = &result.structured_content_json {
        return json.clone();
    }
    match &result.error {
        Some(error) => error.message.clone(),
        None => "(no output)".to_owned(),
    }
}

/// Some dialects have no field for it, so the text must say that the tool failed.
fn mark_error(content: &mut [Content]) {
    let said = content.iter().any(|part| match part {
        Content::Text(text) => {
            let head: String = text.chars().take(40).collect::<String>().to_lowercase();
            head.contains("error") || head.contains("fail") || head.starts_with("no result")
        }
        _ => false,
    });
    if said {
        return;
    }
    if let Some(Content::Text(text)) = content.iter_mut().find(|part| matches!(part, Content::Text(_))) {
        text.insert_str(0, "Error: ");
    }
}

fn contents(parts: &[Part], redacted: bool) -> Vec<Content> {
    if redacted && parts.is_empty() {
        return vec![Content::Text("[redacted]".to_owned())];
    }
    parts.iter().filter(|part| for_model(part)).filter_map(content).collect()
}

/// Parts whose audience leaves the assistant out are for people only.
fn for_model(part: &Part) -> bool {
    part.annotations
        .as_ref()
        .is_none_or(|notes| notes.audience.is_empty() || notes.audience.iter().any(|who| who == "assistant"))
}

fn content(part: &Part) -> Option<Content> {
    let text = match &part.body {
        PartBody::Text(text) => text.clone(),
        PartBody::TextContent { size_bytes, .. } => format!("[text of {size_bytes} bytes, not shown]"),
        PartBody::Image { data, mime_type } => return Some(media(data, mime_type, "image")),
        PartBody::Audio { data, mime_type } => return Some(media(data, mime_type, "audio")),
        PartBody::Resource { uri, mime_type, text, data } => {
            return Some(resource(uri, mime_type.as_deref(), text.as_deref(), data.as_ref()));
        }
        PartBody::ResourceLink { uri, name, title, mime_type, .. } => {
            let mut line = format!("[resource {}: {uri}", title.as_ref().unwrap_or(name));
            if let Some(mime_type) = mime_type {
                let _ = write!(line, " ({mime_type})");
            }
            line.push(']');
            line
        }
        PartBody::Diff { path, old_text, new_text, patch } => match (patch, old_text, new_text) {
            (Some(patch), ..) => format!("Diff of {path}:\n{patch}"),
            (None, None, Some(_)) => format!("[{path} was created]"),
            _ => format!("[{path} was changed]"),
        },
        PartBody::Terminal { exit_code, signal, .. } => match (exit_code, signal) {
            (Some(code), _) => format!("[exit code {code}]"),
            (None, Some(signal)) => format!("[ended by signal {signal}]"),
            (None, None) => return None,
        },
        PartBody::Unknown { kind, .. } => format!("[content of kind {kind}]"),
    };
    (!text.is_empty()).then_some(Content::Text(text))
}

fn media(data: &Data, mime_type: &str, what: &str) -> Content {
    let Data::Inline(blob) = data else {
        return Content::Text(format!("[{what} {mime_type}, not loaded]"));
    };
    let data = base64::engine::general_purpose::STANDARD.encode(&blob.0);
    let mime_type = mime_type.to_owned();
    match mime_type.split('/').next() {
        Some("image") => Content::Image { mime_type, data },
        Some("audio") => Content::Audio { mime_type, data },
        _ if mime_type == "application/pdf" => Content::Pdf { data },
        _ => Content::Text(format!("[{what} of type {mime_type}, {} bytes]", blob.0.len())),
    }
}

fn resource(uri: &str, mime_type: Option<&str>, text: Option<&str>, data: Option<&Data>) -> Content {
    match (text, data) {
        (Some(text), _) => Content::Text(format!("<resource uri=\"{uri}\">\n{text}\n</resource>")),
        (None, Some(data)) => {
            match media(data, mime_type.unwrap_or("application/octet-stream"), "resource") {
                Content::Text(note) => Content::Text(format!("{note} {uri}")),
                media => media,
            }
        }
        (None, None) => Content::Text(format!("[resource {uri}]")),
    }
}

#[cfg(test)]
mod tests;
