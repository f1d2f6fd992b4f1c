//! Requests of Google's `streamGenerateContent`.

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
    body.insert("contents".to_owned(), contents(options, request).into());
    if !request.system.trim().is_empty() {
        body.insert("systemInstruction".to_owned(), json!({ "parts": [{ "text": request.system }] }));
    }
    if !request.tools.is_empty() {
        let mut functions = Vec::with_capacity(request.tools.len());
        for tool in &request.tools {
            let parameters = schema(tool)?;
            let mut function = json!({ "name": tool.name, "description": tool.description });
            // The full JSON schema, which this field takes and `parameters` does not.
            if parameters
                .get("properties")
                .and_then(Value::as_object)
                .is_some_and(|fields| !fields.is_empty())
            {
                function["parametersJsonSchema"] = parameters;
            }
            functions.push(function);
        }
        body.insert("tools".to_owned(), json!([{ "functionDeclarations": functions }]));
    }
    let mut config = Map::new();
    if let Some(temperature) = temperature(request) {
        config.insert("temperature".to_owned(), temperature);
    }
    if let Some(tokens) = request.max_output_tokens.or(options.max_tokens) {
        config.insert("maxOutputTokens".to_owned(), tokens.into());
    }
    if crate::facts::of(&request.model_id).is_some_and(|facts| facts.supports_reasoning) {
        config.insert("thinkingConfig".to_owned(), json!({ "includeThoughts": true }));
    }
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), config.into());
    }
    add_extras(&mut body, options, request)?;
    finish(&body)
}

fn contents(options: &VendorOptions, request: &ModelRequest) -> Vec<Value> {
    let provider = options.info.provider_id.as_str();
    let entries = history::convert(&request.items, |state, made_by| {
        replays(ENGINE, provider, state, made_by, &request.model_id)
    });
    let mut turns: Vec<(&'static str, Vec<Value>)> = Vec::new();
    for entry in entries {
        let (role, parts) = match entry {
            Entry::User(content) => ("user", content.into_iter().map(part).collect::<Vec<_>>()),
            Entry::Results(answers) => ("user", answers.into_iter().flat_map(function_response).collect()),
            Entry::Assistant(blocks) => ("model", blocks.into_iter().filter_map(said).collect()),
        };
        if parts.is_empty() {
            continue;
        }
        match turns.last_mut() {
            Some((last, all)) if *last == role => all.extend(parts),
            _ => turns.push((role, parts)),
        }
    }
    turns.into_iter().map(|(role, parts)| json!({ "role": role, "parts": parts })).collect()
}

fn part(content: Content) -> Value {
    let inline =
        |mime_type: &str, data: &str| json!({ "inlineData": { "mimeType": mime_type, "data": data } });
    match content {
        Content::Text(text) => json!({ "text": text }),
        Content::Image { mime_type, data } | Content::Audio { mime_type, data } => inline(&mime_type, &data),
        Content::Pdf { data } => inline("application/pdf", &data),
    }
}

/// The response itself holds text; pictures follow it as parts of the same message.
fn function_response(answer: Answer) -> Vec<Value> {
    let mut texts = Vec::new();
    let mut media = Vec::new();
    for content in answer.content {
        match content {
            Content::Text(text) => texts.push(text),
            other => media.push(part(other)),
        }
    }
    let key = if answer.is_error { "error" } else { "output" };
    let text = if texts.is_empty() { "(see the attached content)".to_owned() } else { texts.join("\n") };
    let mut parts = vec![json!({ "functionResponse": { "name": answer.name, "response": { key: text } } })];
    parts.extend(media);
    parts
}

fn said(block: Block) -> Option<Value> {
    match block {
        Block::Text(text) if text.is_empty() => None,
        Block::Text(text) => Some(json!({ "text": text })),
        // The item is the part as it must go back: with its signature, or nothing.
        Block::Thought { state, .. } => state.get("item").filter(|item| item.is_object()).cloned(),
        Block::Call(call) => {
            let mut part = json!({ "functionCall": { "name": call.name, "args": call.arguments } });
            if let Some(signature) =
                call.state.as_ref().and_then(|state| state.pointer("/item/thoughtSignature"))
            {
                part["thoughtSignature"] = signature.clone();
            }
            Some(part)
        }
    }
}
