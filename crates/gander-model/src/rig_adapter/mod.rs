//! The only place that names `rig`: request encoding for the OpenAI chat dialects, and rig's own decoder as a second,
//! independent reader of the same streams.
//!
//! Nothing of rig leaks out, and nothing of rig is stored: what a provider needs back travels in our own state objects.
//! rig's process-wide HTTP client is never used; one configured client is handed in.

mod exact;
mod messages;
mod stream;

use rig_core::{
    completion::{CompletionRequest, OnUnsupported, request::ToolDefinition},
    message::ToolName,
    operation::Completion,
    providers::openai::{
        OpenAIConfig,
        wire::{Auth, Chat, Dialect, by_name},
    },
    wire::{Body, Mode, Operation as _, Wire as _},
};
use serde_json::{Map, Value};

use exact::Exact;
pub(crate) use stream::stream;

use crate::{ModelError, ModelErrorClass, ModelRequest, history, openai::ENGINE};

/// How one provider wants its requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Profile {
    pub(crate) provider_id: String,
    /// Name of a dialect that rig knows; its quirks apply.
    pub(crate) dialect: Option<String>,
    /// The endpoint without `/chat/completions`.
    pub(crate) base_url: String,
    /// Ask for the usage chunk.
    pub(crate) stream_usage: bool,
    /// Whether replies are streamed at all.
    pub(crate) streaming: bool,
    /// Another name of `max_tokens`.
    pub(crate) max_tokens_field: Option<String>,
    /// Extra fields of every body.
    pub(crate) extra_body: Map<String, Value>,
    /// How it is told how much to think.
    pub(crate) thinking: crate::Thinking,
}

impl Profile {
    fn dialect(&self) -> Dialect {
        let known = self.dialect.as_deref().and_then(by_name);
        let mut dialect = known.copied().unwrap_or(Dialect::gateway("openai-compatible", "", ""));
        dialect.quirks.hooks = None;
        // The client that is handed in carries the credentials.
        dialect.quirks.auth = Auth::OptionalBearer;
        dialect.quirks.identity = None;
        dialect.quirks.root_relative_routes = &[];
        dialect.quirks.completion_path = "/chat/completions";
        dialect.quirks.stream_include_usage = self.stream_usage;
        dialect
    }

    fn chat(&self, model: &str) -> Chat {
        let dialect = self.dialect();
        let mut config = OpenAIConfig::with_key(&dialect, "").with_base_url(self.base_url.as_str());
        config.auth = Auth::OptionalBearer;
        config.chat(model)
    }

    fn mode(&self) -> Mode {
        if self.streaming { Mode::Streaming } else { Mode::Unary }
    }

    /// Whether a stored state may be sent to this provider for `model`.
    fn replays(&self, state: &Value, made_by: Option<&str>, model: &str) -> bool {
        state.get("engine").and_then(Value::as_str) == Some(ENGINE)
            && state.get("provider").and_then(Value::as_str) == Some(&self.provider_id)
            && made_by.is_none_or(|made_by| made_by == model)
    }
}

/// The body of a chat request, JSON.
///
/// # Errors
/// [`ModelErrorClass::InvalidRequest`] when the request cannot be told in this dialect.
pub(crate) fn encode(profile: &Profile, request: &ModelRequest) -> Result<Vec<u8>, ModelError> {
    let mut exact = Exact::new();
    let body = encode_with(profile, request, &mut |text| exact.take(text))?;
    match exact.restore(body) {
        Some(body) => Ok(body),
        None => encode_with(profile, request, &mut |text| exact::parse(&text)),
    }
}

/// `arguments` gives the tree for the arguments of a call.
fn encode_with(
    profile: &Profile,
    request: &ModelRequest,
    arguments: &mut dyn FnMut(String) -> Map<String, Value>,
) -> Result<Vec<u8>, ModelError> {
    let chat = profile.chat(&request.model_id);
    let request = completion_request(profile, request, arguments)?;
    let prepared = Completion::prepare(request, &chat.describe()).map_err(|error| invalid(&error))?;
    let encoded = chat
        .encode(prepared, profile.mode())
        .map_err(|error| invalid(&rig_core::error::ProviderError::from(error)))?;
    match encoded.request.into_body() {
        Body::Bytes(bytes) => Ok(bytes),
        Body::Multipart(_) => {
            Err(ModelError::new(ModelErrorClass::InvalidRequest, "the chat request is no JSON document"))
        }
    }
}

fn invalid(error: &rig_core::error::ProviderError) -> ModelError {
    ModelError::new(ModelErrorClass::InvalidRequest, format!("the request cannot be encoded: {error}"))
}

fn completion_request(
    profile: &Profile,
    request: &ModelRequest,
    arguments: &mut dyn FnMut(String) -> Map<String, Value>,
) -> Result<CompletionRequest, ModelError> {
    let model = request.model_id.as_str();
    let entries = history::convert(&request.items, |state, made_by| profile.replays(state, made_by, model));
    let mut history = messages::convert(entries, profile.dialect().name, model, arguments);
    if !request.system.is_empty() {
        history.insert(0, rig_core::completion::Message::system(request.system.clone()));
    }
    let mut completion = CompletionRequest::from(history).on_unsupported(OnUnsupported::Ignore);
    completion.model = Some(request.model_id.clone());
    completion.accept_unknown_finish_reasons = true;
    completion.tools = request.tools.iter().map(tool).collect::<Result<_, _>>()?;
    completion.temperature = request.temperature_millis.map(|millis| f64::from(millis) / 1000.0);
    let mut extra = profile.extra_body.clone();
    match &profile.max_tokens_field {
        Some(field) => {
            if let Some(tokens) = request.max_output_tokens {
                extra.insert(field.clone(), tokens.into());
            }
        }
        None => completion.max_tokens = request.max_output_tokens,
    }
    if let Some(text) = &request.extra_params_json {
        match serde_json::from_str(text) {
            Ok(Value::Object(params)) => extra.extend(params),
            _ => {
                return Err(ModelError::new(
                    ModelErrorClass::InvalidRequest,
                    "the extra parameters of the model call are no JSON object",
                ));
            }
        }
    }
    profile.thinking.add_to_chat(&mut extra, model, request.thought_level);
    if !extra.is_empty() {
        completion.additional_params = Some(Value::Object(extra));
    }
    Ok(completion)
}

fn tool(tool: &gander_domain::tool::ToolDefinition) -> Result<ToolDefinition, ModelError> {
    let invalid = |what: &str| {
        ModelError::new(ModelErrorClass::InvalidRequest, format!("tool {:?}: {what}", tool.name))
    };
    let name = ToolName::new(tool.name.clone()).map_err(|_| invalid("its name is empty"))?;
    let mut schema: Value = serde_json::from_str(&tool.input_schema_json)
        .map_err(|error| invalid(&format!("its input schema is no JSON: {error}")))?;
    if let Value::Object(fields) = &mut schema {
        fields.entry("type").or_insert_with(|| Value::from("object"));
        // OpenAI refuses object schemas without it.
        fields.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    } else {
        return Err(invalid("its input schema is no JSON object"));
    }
    Ok(ToolDefinition::new(name, tool.description.clone(), schema))
}

/// Whether rig has quirks under this name.
#[cfg(test)]
pub(crate) fn knows_dialect(name: &str) -> bool {
    by_name(name).is_some()
}

#[cfg(test)]
mod tests;
