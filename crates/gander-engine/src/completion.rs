//! A model call whose answer is one short text: summaries, titles, judgements, what MCP servers ask. It has no tools and
//! leaves no items.

use std::sync::Arc;

use futures::StreamExt as _;
use gander_domain::{
    Item, ItemBody, Part, Usage,
    item::{ItemState, Origin, UserMessage, Visibility},
    usage::Cost,
};
use gander_model::{ModelError, ModelErrorClass, ModelEvent, ModelProvider, ModelRequest, ModelStop};

use crate::{
    models::ResolvedModel,
    source::{Mint, Source},
};

/// Longest answer, in bytes: whatever comes beyond is not wanted.
const MAX_ANSWER: usize = 256 * 1024;

/// What the model said, and what it cost.
#[derive(Debug, Clone)]
pub(crate) struct Completion {
    pub text: String,
    pub stop: ModelStop,
    /// The model that answered, where the provider says so.
    pub model_id: Option<String>,
    pub usage: Usage,
    pub cost: Option<Cost>,
}

/// Asks a model for a text. Dropping the future ends the call.
pub(crate) async fn complete(
    model: &ResolvedModel,
    source: &dyn Source,
    system: String,
    prompt: String,
    max_output_tokens: Option<u64>,
) -> Result<Completion, ModelError> {
    let selection = &model.selection;
    let request = ModelRequest {
        model_id: selection.model_id.clone(),
        system,
        items: vec![Arc::new(message(source, prompt))],
        tools: Vec::new(),
        temperature_millis: selection.temperature_millis,
        max_output_tokens,
        extra_params_json: selection.extra_params_json.clone(),
        // Chosen for the conversation, not for short texts beside it.
        thought_level: None,
    };
    collect(&*model.provider, request).await
}

/// Collects the text of a reply. Dropping the future ends the call.
pub(crate) async fn collect(
    provider: &dyn ModelProvider,
    request: ModelRequest,
) -> Result<Completion, ModelError> {
    let (mut text, mut used, mut paid) = (String::new(), Usage::default(), None);
    let mut stream = provider.stream(request);
    while let Some(event) = stream.next().await {
        match event? {
            ModelEvent::TextDelta(more) if text.len() < MAX_ANSWER => text.push_str(&more),
            ModelEvent::Usage { usage, cost } => {
                used = usage;
                paid = cost.or(paid);
            }
            ModelEvent::Finished { stop, model_id, .. } => {
                return Ok(Completion { text, stop, model_id, usage: used, cost: paid });
            }
            _ => {}
        }
    }
    Err(ModelError::new(ModelErrorClass::Truncated, "the model's reply ended before the provider ended it"))
}

fn message(source: &dyn Source, text: String) -> Item {
    let now = source.now();
    Item {
        item_id: source.item_id(),
        turn_id: None,
        message_id: source.message_id(),
        body: ItemBody::UserMessage(UserMessage { parts: vec![Part::text(text)], steered: false }),
        state: ItemState::Completed,
        incomplete: false,
        visibility: Visibility { user: false, model: true },
        origin: Origin::Engine,
        create_time: now,
        client_create_time: None,
        complete_time: Some(now),
        redacted: false,
        model_id: None,
        provider_state_json: None,
    }
}
