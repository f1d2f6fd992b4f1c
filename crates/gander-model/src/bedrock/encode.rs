//! Requests of Bedrock's `converse-stream`.

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
    let caches = options.prompt_cache
        && crate::facts::of(&request.model_id).is_some_and(|facts| facts.supports_cache_control);
    let entries = history::convert(&request.items, |state, made_by| {
        replays(ENGINE, &options.info.provider_id, state, made_by, &request.model_id)
    });
    let mut body = Map::new();
    let mut tools = Vec::new();
    for tool in &request.tools {
        let description =
            if tool.description.trim().is_empty() { tool.name.as_str() } else { tool.description.as_str() };
        tools.push(json!({ "toolSpec": { "name": tool.name, "description": description,
            "inputSchema": { "json": schema(tool)? } } }));
    }
    if tools.is_empty() {
        // The server refuses a history with calls where no tool is declared.
        tools.extend(tools_of_history(&entries).into_iter().map(|name| {
            json!({ "toolSpec": { "name": name, "description": "Not available now.",
                "inputSchema": { "json": { "type": "object" } } } })
        }));
    }
    if !tools.is_empty() {
        cache_point(caches, &mut tools);
        body.insert("toolConfig".to_owned(), json!({ "tools": tools }));
    }
    if !request.system.trim().is_empty() {
        let mut system = vec![json!({ "text": request.system })];
        cache_point(caches, &mut system);
        body.insert("system".to_owned(), system.into());
    }
    let may_begin = history::may_begin_to_think(&entries);
    let messages = messages(entries, caches)?;
    let mut config = Map::new();
    config.insert("maxTokens".to_owned(), max_tokens(options, request).into());
    if let Some(temperature) = temperature(request) {
        config.insert("temperature".to_owned(), temperature);
    }
    body.insert("inferenceConfig".to_owned(), config.into());
    add_extras(&mut body, options, request)?;
    think(&mut body, options, request, may_begin);
    finish_with(&body, "messages", &messages)
}

/// Tells Claude how much to think, unless the extra parameters did: in the fields of the model's own API.
fn think(body: &mut Map<String, Value>, options: &VendorOptions, request: &ModelRequest, may_begin: bool) {
    let Some(level) = request.thought_level else { return };
    let asked = max_tokens(options, request);
    let fixed = request.max_output_tokens.or(options.max_tokens).is_some();
    let Some((claude, tokens)) = thinking::claude_at_bedrock(&request.model_id, level, asked, fixed) else {
        return;
    };
    if matches!(claude, Claude::Budget(_)) && !may_begin {
        return;
    }
    let fields = body.entry("additionalModelRequestFields").or_insert_with(|| json!({}));
    let Value::Object(fields) = fields else { return };
    if fields.contains_key("thinking") {
        return;
    }
    claude.add_to(fields);
    if claude != Claude::Off
        && let Some(Value::Object(config)) = body.get_mut("inferenceConfig")
    {
        // Thinking and a temperature exclude each other.
        config.remove("temperature");
        if config.get("maxTokens") == Some(&Value::from(asked)) {
            config.insert("maxTokens".to_owned(), tokens.into());
        }
    }
}

fn cache_point<T: From<Value>>(caches: bool, list: &mut Vec<T>) {
    if caches {
        list.push(json!({ "cachePoint": { "type": "default" } }).into());
    }
}

fn messages(entries: Vec<Entry>, caches: bool) -> Result<Turns, ModelError> {
    let mut turns = Turns::new("content");
    let mut documents = 0;
    for entry in entries {
        match entry {
            Entry::User(content) => {
                let blocks = content.into_iter().map(|content| block(content, &mut documents).into());
                turns.say("user", blocks.collect());
            }
            Entry::Results(answers) => {
                let blocks = answers.into_iter().map(|answer| tool_result(answer, &mut documents).into());
                turns.say("user", blocks.collect());
            }
            Entry::Assistant(blocks) => {
                let said: Result<Vec<Json>, ModelError> = blocks.into_iter().filter_map(said).collect();
                turns.say("assistant", said?);
            }
        }
    }
    for pieces in turns.last_of_user() {
        cache_point(caches, pieces);
    }
    Ok(turns)
}

fn block(content: Content, documents: &mut usize) -> Value {
    match content {
        Content::Text(text) if text.trim().is_empty() => json!({ "text": "(empty)" }),
        Content::Text(text) => json!({ "text": text }),
        Content::Image { mime_type, data } => match mime_type.strip_prefix("image/") {
            Some(format @ ("png" | "jpeg" | "gif" | "webp")) => {
                json!({ "image": { "format": format, "source": { "bytes": data } } })
            }
            _ => json!({ "text": format!("[image of type {mime_type}, which cannot be sent]") }),
        },
        Content::Pdf { data } => {
            *documents += 1;
            json!({ "document": { "format": "pdf", "name": format!("document-{documents}"),
                "source": { "bytes": data } } })
        }
        Content::Audio { mime_type, .. } => {
            json!({ "text": format!("[audio of type {mime_type}, which this model cannot be sent]") })
        }
    }
}

fn tool_result(answer: Answer, documents: &mut usize) -> Value {
    let content: Vec<Value> = answer.content.into_iter().map(|content| block(content, documents)).collect();
    let status = if answer.is_error { "error" } else { "success" };
    json!({ "toolResult": { "toolUseId": answer.call_id, "content": content, "status": status } })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToolUse<'a> {
    tool_use_id: &'a str,
    name: &'a str,
    input: Box<RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Use<'a> {
    tool_use: ToolUse<'a>,
}

fn said(block: Block) -> Option<Result<Json, ModelError>> {
    match block {
        Block::Text(text) if text.trim().is_empty() => None,
        Block::Text(text) => Some(Ok(json!({ "text": text.trim_end() }).into())),
        Block::Thought { state, .. } => state.get("item").cloned().map(|item| Ok(item.into())),
        Block::Call(call) => Some(arguments(&call).and_then(|input| {
            text(&Use { tool_use: ToolUse { tool_use_id: &call.id, name: &call.name, input } })
        })),
    }
}
