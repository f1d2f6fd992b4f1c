//! Requests of Anthropic's Messages.

use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::ENGINE;
use crate::{
    ModelError, ModelRequest, VendorOptions,
    encode::{
        Json, Turns, add_extras, arguments, finish_with, max_tokens, replays, schema, temperature, text,
        tools_of_history,
    },
    history::{self, Answer, Block, Content, Entry},
    thinking::{self, Claude},
};

/// The body of a request.
///
/// # Errors
/// A tool's schema or the extra parameters are no JSON objects.
pub(crate) fn encode(options: &VendorOptions, request: &ModelRequest) -> Result<Vec<u8>, ModelError> {
    let mut body = Map::new();
    body.insert("model".to_owned(), request.model_id.clone().into());
    body.insert("max_tokens".to_owned(), max_tokens(options, request).into());
    body.insert("stream".to_owned(), options.streaming.into());
    let entries = history::convert(&request.items, |state, made_by| {
        replays(ENGINE, &options.info.provider_id, state, made_by, &request.model_id)
    });
    let marks = Marks { on: options.prompt_cache };
    // The server refuses a history with calls where no tool is declared.
    let called = if request.tools.is_empty() { tools_of_history(&entries) } else { Vec::new() };
    if !request.tools.is_empty() || !called.is_empty() {
        let mut tools: Vec<Value> = called
            .into_iter()
            .map(|name| {
                json!({ "name": name, "description": "Not available now.", "input_schema": { "type": "object" } })
            })
            .collect();
        for tool in &request.tools {
            let mut shape = json!({ "name": tool.name, "input_schema": schema(tool)? });
            if !tool.description.is_empty() {
                shape["description"] = tool.description.clone().into();
            }
            tools.push(shape);
        }
        marks.last(&mut tools);
        body.insert("tools".to_owned(), tools.into());
    }
    if !request.system.trim().is_empty() {
        let mut system = vec![json!({ "type": "text", "text": request.system })];
        marks.last(&mut system);
        body.insert("system".to_owned(), system.into());
    }
    let may_begin = history::may_begin_to_think(&entries);
    let messages = messages(entries, &marks)?;
    if let Some(temperature) = temperature(request) {
        body.insert("temperature".to_owned(), temperature);
    }
    add_extras(&mut body, options, request)?;
    think(&mut body, options, request, may_begin);
    let kind = body.get("thinking").and_then(|thinking| thinking.get("type")?.as_str());
    if matches!(kind, Some("enabled" | "adaptive")) {
        // Thinking and a temperature exclude each other; the budget must fit.
        body.remove("temperature");
        let budget = body.get("thinking").and_then(|thinking| thinking.get("budget_tokens")?.as_u64());
        let most = body.get("max_tokens").and_then(Value::as_u64).unwrap_or(0);
        if let Some(budget) = budget.filter(|budget| *budget >= most) {
            body.insert("max_tokens".to_owned(), budget.saturating_add(8192).into());
        }
    }
    finish_with(&body, "messages", &messages)
}

/// Tells how much to think, unless the extra parameters did.
fn think(body: &mut Map<String, Value>, options: &VendorOptions, request: &ModelRequest, may_begin: bool) {
    let Some(level) = request.thought_level else { return };
    let asked = max_tokens(options, request);
    let fixed = request.max_output_tokens.or(options.max_tokens).is_some();
    match thinking::claude(&request.model_id, level, asked, fixed) {
        Some((Claude::Budget(_), _)) if !may_begin => {}
        Some((claude, tokens)) if !body.contains_key("thinking") => {
            claude.add_to(body);
            if body.get("max_tokens") == Some(&Value::from(asked)) {
                body.insert("max_tokens".to_owned(), tokens.into());
            }
        }
        _ => {}
    }
}

/// Marks what the server should cache: tools, system and the last two user messages, four in all, which is the most that
/// the API takes.
struct Marks {
    on: bool,
}

impl Marks {
    fn last(&self, blocks: &mut [Value]) {
        if self.on
            && let Some(Value::Object(block)) = blocks.last_mut()
        {
            block.insert("cache_control".to_owned(), json!({ "type": "ephemeral" }));
        }
    }
}

fn messages(entries: Vec<Entry>, marks: &Marks) -> Result<Turns, ModelError> {
    let mut turns = Turns::new("content");
    for entry in entries {
        match entry {
            Entry::User(content) => {
                turns.say("user", content.into_iter().map(|content| content_block(content).into()).collect());
            }
            Entry::Results(answers) => {
                turns.say("user", answers.into_iter().map(|answer| tool_result(answer).into()).collect());
            }
            Entry::Assistant(blocks) => {
                let said: Result<Vec<Json>, ModelError> = blocks.into_iter().filter_map(said).collect();
                turns.say("assistant", said?);
            }
        }
    }
    for pieces in turns.last_of_user() {
        if let Some(Json::Tree(last)) = pieces.last_mut() {
            marks.last(std::slice::from_mut(last));
        }
    }
    Ok(turns)
}

fn content_block(content: Content) -> Value {
    match content {
        Content::Text(text) => text_block(&text),
        Content::Image { mime_type, data } => {
            json!({ "type": "image", "source": { "type": "base64", "media_type": mime_type, "data": data } })
        }
        Content::Pdf { data } => json!({ "type": "document",
            "source": { "type": "base64", "media_type": "application/pdf", "data": data } }),
        Content::Audio { mime_type, .. } => {
            text_block(&format!("[audio of type {mime_type}, which this model cannot be sent]"))
        }
    }
}

/// The API refuses empty texts.
fn text_block(text: &str) -> Value {
    json!({ "type": "text", "text": if text.trim().is_empty() { "(empty)" } else { text } })
}

fn tool_result(answer: Answer) -> Value {
    let content: Vec<Value> = answer.content.into_iter().map(content_block).collect();
    let mut block = json!({ "type": "tool_result", "tool_use_id": answer.call_id, "content": content });
    if answer.is_error {
        block["is_error"] = true.into();
    }
    block
}

#[derive(Serialize)]
struct ToolUse<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    name: &'a str,
    input: Box<RawValue>,
}

fn said(block: Block) -> Option<Result<Json, ModelError>> {
    match block {
        Block::Text(text) if text.trim().is_empty() => None,
        // A last message that ends with blanks is refused, and blanks at an end say nothing.
        Block::Text(text) => Some(Ok(json!({ "type": "text", "text": text.trim_end() }).into())),
        Block::Thought { state, .. } => state.get("item").cloned().map(|item| Ok(item.into())),
        Block::Call(call) => Some(
            arguments(&call)
                .and_then(|input| text(&ToolUse { kind: "tool_use", id: &call.id, name: &call.name, input })),
        ),
    }
}
