//! What the request encoders of all dialects share.

use gander_domain::tool::ToolDefinition;
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    ModelError, ModelErrorClass, ModelRequest, VendorOptions,
    history::{Block, Call, Entry},
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

/// A piece of a message: a tree, or text that goes out as it is.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Json {
    Tree(Value),
    Text(Box<RawValue>),
}

impl From<Value> for Json {
    fn from(tree: Value) -> Self {
        Self::Tree(tree)
    }
}

/// The arguments of a call, to be part of something that is serialized.
pub(crate) fn arguments(call: &Call) -> Result<Box<RawValue>, ModelError> {
    RawValue::from_string(call.arguments.clone())
        .map_err(|error| invalid(format!("the arguments of call {:?} are no JSON: {error}", call.id)))
}

/// A piece with arguments in it.
pub(crate) fn text(piece: &impl Serialize) -> Result<Json, ModelError> {
    let raw = serde_json::value::to_raw_value(piece);
    raw.map(Json::Text).map_err(|error| invalid(format!("a call cannot be encoded: {error}")))
}

/// The messages of a dialect in which roles take turns.
#[derive(Debug)]
pub(crate) struct Turns {
    /// The field of a message with its pieces.
    key: &'static str,
    turns: Vec<(&'static str, Vec<Json>)>,
}

impl Turns {
    pub(crate) fn new(key: &'static str) -> Self {
        Self { key, turns: Vec::new() }
    }

    /// Adds what one side says; what follows from the same side belongs to the same message.
    pub(crate) fn say(&mut self, role: &'static str, pieces: Vec<Json>) {
        if pieces.is_empty() {
            return;
        }
        match self.turns.last_mut() {
            Some((last, all)) if *last == role => all.extend(pieces),
            _ => self.turns.push((role, pieces)),
        }
    }

    /// The last two messages of the user.
    pub(crate) fn last_of_user(&mut self) -> impl Iterator<Item = &mut Vec<Json>> {
        let users = self.turns.iter_mut().filter(|(role, _)| *role == "user");
        users.rev().take(2).map(|(_, pieces)| pieces)
    }
}

impl Serialize for Turns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Turn<'a>(&'static str, &'static str, &'a [Json]);
        impl Serialize for Turn<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("role", self.1)?;
                map.serialize_entry(self.0, self.2)?;
                map.end()
            }
        }
        serializer.collect_seq(self.turns.iter().map(|(role, pieces)| Turn(self.key, role, pieces)))
    }
}

/// The bytes of a body without such messages.
pub(crate) fn finish(body: &Map<String, Value>) -> Result<Vec<u8>, ModelError> {
    serde_json::to_vec(body).map_err(|error| invalid(format!("the request cannot be encoded: {error}")))
}

/// The bytes of a body with its messages as `key`, unless the caller's extra fields replaced them.
pub(crate) fn finish_with(
    body: &Map<String, Value>,
    key: &'static str,
    turns: &Turns,
) -> Result<Vec<u8>, ModelError> {
    struct Whole<'a>(&'a Map<String, Value>, &'static str, &'a Turns);
    impl Serialize for Whole<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            for (key, value) in self.0 {
                map.serialize_entry(key, value)?;
            }
            if !self.0.contains_key(self.1) {
                map.serialize_entry(self.1, self.2)?;
            }
            map.end()
        }
    }
    serde_json::to_vec(&Whole(body, key, turns))
        .map_err(|error| invalid(format!("the request cannot be encoded: {error}")))
}
