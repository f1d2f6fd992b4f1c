//! Small conversations, made of the public types.

use std::sync::Arc;

use futures::StreamExt as _;
use gander_domain::{
    Item, ItemBody, ItemId, MessageId, Part, Timestamp, ToolCall,
    item::{
        AgentMessage, ItemState, Origin, Thought, ToolCallStatus, ToolOutcome, ToolResult, UserMessage,
        Visibility,
    },
    tool::{ToolAnnotations, ToolDefinition, ToolVisibility},
};
use gander_model::{ModelError, ModelEvent, ModelProvider, ModelRequest, ModelStop};

/// A call as the model made it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
    /// Why the arguments cannot be used.
    pub(crate) invalid: Option<String>,
    pub(crate) state: Option<String>,
}

/// What a model said in one response.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) thought: String,
    pub(crate) thought_state: Option<String>,
    pub(crate) calls: Vec<Call>,
    pub(crate) stop: Option<ModelStop>,
    pub(crate) usage: Option<gander_domain::Usage>,
}

/// The whole of a response.
pub(crate) async fn collect(
    provider: &dyn ModelProvider,
    request: &ModelRequest,
) -> Result<Said, ModelError> {
    let mut said = Said::default();
    let mut stream = provider.stream(request.clone());
    let reading = async {
        while let Some(event) = stream.next().await {
            match event? {
                ModelEvent::TextDelta(text) => said.text.push_str(&text),
                ModelEvent::ThoughtDelta(text) => said.thought.push_str(&text),
                ModelEvent::ThoughtCompleted { provider_state_json, .. } => {
                    said.thought_state = provider_state_json;
                }
                ModelEvent::ToolCallCompleted {
                    call_id,
                    name,
                    arguments_json,
                    invalid_arguments,
                    provider_state_json,
                    ..
                } => {
                    said.calls.push(Call {
                        id: call_id,
                        name,
                        arguments: arguments_json,
                        invalid: invalid_arguments,
                        state: provider_state_json,
                    });
                }
                ModelEvent::Usage { usage, .. } => said.usage = Some(usage),
                ModelEvent::Finished { stop, .. } => said.stop = Some(stop),
                ModelEvent::ToolCallStarted { .. } | ModelEvent::ToolArgumentsDelta { .. } => {}
            }
        }
        Ok(())
    };
    tokio::time::timeout(super::DEADLINE, reading).await.expect("the stream ends")?;
    assert!(said.stop.is_some(), "a reply without error is complete");
    Ok(said)
}

/// A request: what the user said, then what the model answered before, with results of its calls.
pub(crate) fn ask(model: &str, text: &str, answers: &[&Said]) -> ModelRequest {
    let mut items = vec![item(
        0,
        "user",
        ItemBody::UserMessage(UserMessage { parts: vec![Part::text(text)], steered: false }),
    )];
    for (round, said) in answers.iter().enumerate() {
        let message = format!("answer-{round}");
        if !said.thought.is_empty() {
            let body = ItemBody::Thought(Thought { text: said.thought.clone(), ..Thought::default() });
            let mut thought = item(items.len(), &message, body);
            thought.provider_state_json.clone_from(&said.thought_state);
            items.push(thought);
        }
        let body = AgentMessage { parts: vec![Part::text(said.text.clone())], demo: false };
        items.push(item(items.len(), &message, ItemBody::AgentMessage(body)));
        for call in &said.calls {
            let mut tool_call = ToolCall::streaming(call.name.clone(), call.id.clone());
            tool_call.status = ToolCallStatus::Completed;
            tool_call.arguments_json.clone_from(&call.arguments);
            tool_call.result = Some(ToolResult {
                outcome: ToolOutcome::Ok,
                parts: vec![Part::text("sunny, 12:00")],
                structured_content_json: None,
                is_error: false,
                meta_json: None,
                error: None,
                truncated: None,
                duration_ms: 1,
            });
            let mut done = item(items.len(), &message, ItemBody::ToolCall(Box::new(tool_call)));
            done.provider_state_json.clone_from(&call.state);
            items.push(done);
        }
    }
    ModelRequest {
        model_id: model.to_owned(),
        system: "You are a test.".to_owned(),
        items: items.into_iter().map(Arc::new).collect(),
        tools: vec![tool("get_weather", "city"), tool("get_time", "zone")],
        temperature_millis: None,
        max_output_tokens: Some(500),
        extra_params_json: None,
        thought_level: None,
    }
}

fn item(number: usize, message: &str, body: ItemBody) -> Item {
    let origin = if matches!(body, ItemBody::UserMessage(_)) { Origin::Client } else { Origin::Model };
    Item {
        item_id: ItemId::new(format!("item-{number}")).unwrap(),
        turn_id: None,
        message_id: MessageId::new(message).unwrap(),
        body,
        state: ItemState::Completed,
        incomplete: false,
        visibility: Visibility::default(),
        origin,
        create_time: Timestamp::from_seconds(0),
        client_create_time: None,
        complete_time: None,
        redacted: false,
        model_id: None,
        provider_state_json: None,
    }
}

fn tool(name: &str, parameter: &str) -> ToolDefinition {
    ToolDefinition {
        name: name.to_owned(),
        extension_name: String::new(),
        tool_name: name.to_owned(),
        title: None,
        description: format!("{name} of a place"),
        input_schema_json: format!(
            "{{\"type\":\"object\",\"properties\":{{\"{parameter}\":{{\"type\":\"string\"}}}},\"required\":[\"{parameter}\"]}}"
        ),
        output_schema_json: None,
        annotations: ToolAnnotations::default(),
        icons_json: None,
        meta_json: None,
        visibility: ToolVisibility::default(),
        definition_hash: String::new(),
        quarantined: false,
        trusted: true,
    }
}
