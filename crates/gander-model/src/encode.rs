//! What the request encoders of all dialects share.

use gander_domain::tool::ToolDefinition;
use serde_json::{Map, Value, json};

use crate::{
    ModelError, ModelErrorClass, ModelRequest, VendorOptions,
    history::{Block, Entry},
};

pub(crate) fn invalid(message: impl Into<String>) -> ModelError {
    ModelError::new(ModelErrorClass::InvalidRequest, message)
}

/// A tool's input schema as an object schema, which every vendor demands.
pub(crate) fn schema(tool: &ToolDefinition) -> Result<Value, ModelError> {
    let wrong = |what: String| invalid(format!("tool {:?}: its input schema {what}", tool.name));
    match serde_json::from_str(&tool.input_schema_json) {
        Ok(Value::Object(mut fields)) => {
            fields.entry("type").or_insert_with(|| Value::from("object"));
            fields.entry("properties").or_insert_with(|| Value::Object(Map::new()));
            Ok(Value::Object(fields))
        }
        Ok(_) => Err(wrong("is no JSON object".to_owned())),
        Err(error) => Err(wrong(format!("is no JSON: {error}"))),
    }
}

/// The tools that a conversation called, for servers that refuse calls of tools which are not declared.
pub(crate) fn tools_of_history(entries: &[Entry]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in entries {
        let Entry::Assistant(blocks) = entry else { continue };
        for block in blocks {
            if let Block::Call(call) = block
                && !names.contains(&call.name)
            {
                names.push(call.name.clone());
            }
        }
    }
    names
}

/// Thousandths as a number.
pub(crate) fn temperature(request: &ModelRequest) -> Option<Value> {
    request.temperature_millis.map(|millis| Value::from(f64::from(millis) / 1000.0))
}

/// Output tokens to ask for: what the caller wants, else what the provider's file says, else what is known of the model,
/// within reason.
pub(crate) fn max_tokens(options: &VendorOptions, request: &ModelRequest) -> u64 {
    const USUAL: u64 = 8192;
    const MOST: u64 = 32_000;
    let known = || {
        let listed = options.info.models.iter().find(|model| model.model_id == request.model_id);
        let listed = listed.and_then(|model| model.max_output_tokens);
        listed.or_else(|| crate::facts::of(&request.model_id)?.max_output_tokens)
    };
    request.max_output_tokens.or(options.max_tokens).unwrap_or_else(|| known().unwrap_or(USUAL).min(MOST))
}

/// Merges the fields that the provider's file and the caller add; objects inside of the body are merged one level deep.
pub(crate) fn add_extras(
    body: &mut Map<String, Value>,
    options: &VendorOptions,
    request: &ModelRequest,
) -> Result<(), ModelError> {
    let given = match &request.extra_params_json {
        None => Map::new(),
        Some(text) => match serde_json::from_str(text) {
            Ok(Value::Object(params)) => params,
            _ => return Err(invalid("the extra parameters of the model call are no JSON object")),
        },
    };
    for (key, value) in options.extra_body.clone().into_iter().chain(given) {
        match (body.get_mut(&key), value) {
            (Some(Value::Object(have)), Value::Object(more)) => have.extend(more),
            (_, value) => {
                body.insert(key, value);
            }
        }
    }
    Ok(())
}

/// A state that an item keeps, to be sent back to the provider that made it.
pub(crate) fn state(engine: &str, provider_id: &str, item: &Value) -> String {
    json!({ "engine": engine, "version": 1, "provider": provider_id, "item": item }).to_string()
}

/// Whether a stored state may be sent to this provider for `model`.
pub(crate) fn replays(
    engine: &str,
    provider_id: &str,
    state: &Value,
    made_by: Option<&str>,
    model: &str,
) -> bool {
    state.get("engine").and_then(Value::as_str) == Some(engine)
        && state.get("provider").and_then(Value::as_str) == Some(provider_id)
        && made_by.is_none_or(|made_by| made_by == model)
}

/// The body's bytes.
pub(crate) fn finish(body: &Map<String, Value>) -> Result<Vec<u8>, ModelError> {
    serde_json::to_vec(body).map_err(|error| invalid(format!("the request cannot be encoded: {error}")))
}
