//! Requests of Google's `streamGenerateContent`.

use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::ENGINE;
use crate::{
    ModelError, ModelRequest, VendorOptions,
    encode::{Json, Turns, add_extras, arguments, finish_with, replays, schema, temperature, text},
    history::{self, Answer, Block, Content, Entry},
};

/// The body of a request.
///
/// # Errors
/// A tool's schema or the extra parameters are no JSON objects.
pub(crate) fn encode(options: &VendorOptions, request: &ModelRequest) -> Result<Vec<u8>, ModelError> {
    let mut body = Map::new();
    let contents = contents(options, request)?;
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
    let chosen = request.thought_level.and_then(|level| crate::thinking::google(&request.model_id, level));
    if let Some(chosen) = chosen {
        config.insert("thinkingConfig".to_owned(), chosen);
    } else if crate::facts::of(&request.model_id).is_some_and(|facts| facts.supports_reasoning) {
        config.insert("thinkingConfig".to_owned(), json!({ "includeThoughts": true }));
    }
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), config.into());
    }
    add_extras(&mut body, options, request)?;
    finish_with(&body, "contents", &contents)
}

fn contents(options: &VendorOptions, request: &ModelRequest) -> Result<Turns, ModelError> {
    let provider = options.info.provider_id.as_str();
    let entries = history::convert(&request.items, |state, made_by| {
        replays(ENGINE, provider, state, made_by, &request.model_id)
    });
    let mut turns = Turns::new("parts");
    for entry in entries {
        match entry {
            Entry::User(content) => {
                turns.say("user", content.into_iter().map(|content| part(content).into()).collect());
            }
            Entry::Results(answers) => {
                turns.say("user", answers.into_iter().flat_map(function_response).map(Json::from).collect());
            }
            Entry::Assistant(blocks) => {
                let said: Result<Vec<Json>, ModelError> = blocks.into_iter().filter_map(said).collect();
                turns.say("model", said?);
            }
        }
    }
    Ok(turns)
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

#[derive(Serialize)]
struct FunctionCall<'a> {
    name: &'a str,
    args: Box<RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CallPart<'a> {
    function_call: FunctionCall<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thought_signature: Option<&'a Value>,
}

fn said(block: Block) -> Option<Result<Json, ModelError>> {
    match block {
        Block::Text(text) if text.is_empty() => None,
        Block::Text(text) => Some(Ok(json!({ "text": text }).into())),
        // The item is the part as it must go back: with its signature, or nothing.
        Block::Thought { state, .. } => {
            state.get("item").filter(|item| item.is_object()).cloned().map(|item| Ok(item.into()))
        }
        Block::Call(call) => Some(arguments(&call).and_then(|args| {
            text(&CallPart {
                function_call: FunctionCall { name: &call.name, args },
                thought_signature: call
                    .state
                    .as_ref()
                    .and_then(|state| state.pointer("/item/thoughtSignature")),
            })
        })),
    }
}
