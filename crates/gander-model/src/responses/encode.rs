//! Requests of OpenAI's Responses.

use serde_json::{Map, Value, json};

use super::ENGINE;
use crate::{
    ModelError, ModelRequest, VendorOptions,
    encode::{add_extras, finish, replays, schema, temperature},
    history::{self, Answer, Block, Content, Entry},
};

/// The body of a request.
///
/// # Errors
/// A tool's schema or the extra parameters are no JSON objects.
pub(crate) fn encode(options: &VendorOptions, request: &ModelRequest) -> Result<Vec<u8>, ModelError> {
    let mut body = Map::new();
    body.insert("model".to_owned(), request.model_id.clone().into());
    body.insert("stream".to_owned(), options.streaming.into());
    body.insert("store".to_owned(), false.into());
    if !request.system.trim().is_empty() {
        body.insert("instructions".to_owned(), request.system.clone().into());
    }
    body.insert("input".to_owned(), input(options, request).into());
    if !request.tools.is_empty() {
        let mut tools = Vec::with_capacity(request.tools.len());
        for tool in &request.tools {
            tools.push(json!({
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": schema(tool)?,
                // Strict mode takes only a part of JSON schema, and tools bring all of it.
                "strict": false,
            }));
        }
        body.insert("tools".to_owned(), tools.into());
    }
    // Models that do not reason refuse the wish.
    if reasons(&request.model_id) {
        body.insert("include".to_owned(), json!(["reasoning.encrypted_content"]));
    }
    let effort = request.thought_level.and_then(|level| options.thinking.effort(&request.model_id, level));
    if let Some(effort) = effort {
        body.insert("reasoning".to_owned(), json!({ "effort": effort }));
    }
    if let Some(tokens) = request.max_output_tokens.or(options.max_tokens) {
        let field = options.max_tokens_field.clone().unwrap_or_else(|| "max_output_tokens".to_owned());
        body.insert(field, tokens.into());
    }
    if let Some(temperature) = temperature(request) {
        body.insert("temperature".to_owned(), temperature);
    }
    add_extras(&mut body, options, request)?;
    finish(&body)
}

fn reasons(model_id: &str) -> bool {
    if let Some(facts) = crate::facts::of(model_id) {
        return facts.supports_reasoning;
    }
    let name = model_id.rsplit('/').next().unwrap_or_default();
    (name.starts_with("gpt-5") && !name.contains("chat"))
        || ["o1", "o3", "o4"].iter().any(|series| name.starts_with(series))
}

fn input(options: &VendorOptions, request: &ModelRequest) -> Vec<Value> {
    let provider = options.info.provider_id.as_str();
    let entries = history::convert(&request.items, |state, made_by| {
        replays(ENGINE, provider, state, made_by, &request.model_id)
    });
    let mut input = Vec::new();
    for entry in entries {
        match entry {
            Entry::User(content) => {
                let parts: Vec<Value> = content.into_iter().map(part).collect();
                input.push(json!({ "type": "message", "role": "user", "content": parts }));
            }
            Entry::Assistant(blocks) => input.extend(blocks.into_iter().filter_map(said)),
            Entry::Results(answers) => input.extend(answers.into_iter().map(output)),
        }
    }
    input
}

fn part(content: Content) -> Value {
    match content {
        Content::Text(text) => json!({ "type": "input_text", "text": text }),
        Content::Image { mime_type, data } => {
            json!({ "type": "input_image", "image_url": format!("data:{mime_type};base64,{data}") })
        }
        Content::Pdf { data } => json!({ "type": "input_file", "filename": "document.pdf",
            "file_data": format!("data:application/pdf;base64,{data}") }),
        Content::Audio { mime_type, .. } => {
            json!({ "type": "input_text",
                "text": format!("[audio of type {mime_type}, which this model cannot be sent]") })
        }
    }
}

fn said(block: Block) -> Option<Value> {
    match block {
        Block::Text(text) if text.is_empty() => None,
        Block::Text(text) => Some(json!({ "type": "message", "role": "assistant",
            "content": [{ "type": "output_text", "text": text }] })),
        Block::Thought { state, .. } => state.get("item").cloned(),
        Block::Call(call) => Some(json!({ "type": "function_call", "call_id": call.id, "name": call.name,
            "arguments": call.arguments })),
    }
}

/// Text alone goes as text: not every server takes a list.
fn output(answer: Answer) -> Value {
    let mut texts = Vec::new();
    let only_text = answer.content.iter().all(|content| match content {
        Content::Text(text) => {
            texts.push(text.clone());
            true
        }
        _ => false,
    });
    let output = if only_text {
        Value::from(texts.join("\n"))
    } else {
        answer.content.into_iter().map(part).collect::<Vec<_>>().into()
    };
    json!({ "type": "function_call_output", "call_id": answer.call_id, "output": output })
}
