//! Small conversations for this crate's tests.

use std::sync::Arc;

use gander_domain::{
    Item, ItemBody, ItemId, MessageId, Part, Timestamp, ToolCall, TurnId,
    item::{ItemState, Origin, ToolCallStatus, ToolOutcome, ToolResult, UserMessage, Visibility},
    tool::{ToolAnnotations, ToolDefinition, ToolVisibility},
};

use crate::{ModelRequest, ProviderInfo};

pub(crate) fn info() -> ProviderInfo {
    ProviderInfo {
        provider_id: "fake".to_owned(),
        display_name: "Fake".to_owned(),
        description: String::new(),
        default_model_id: None,
        models: Vec::new(),
        doc_url: None,
        config_keys: Vec::new(),
        allows_unlisted_models: true,
        kind: "custom".to_owned(),
    }
}

pub(crate) fn item(message: &str, body: ItemBody) -> Item {
    let origin = if matches!(body, ItemBody::UserMessage(_)) { Origin::Client } else { Origin::Model };
    Item {
        item_id: ItemId::new(format!("item-{}", uuid::Uuid::now_v7().simple())).unwrap(),
        turn_id: Some(TurnId::new("turn-1").unwrap()),
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

pub(crate) fn user(text: &str) -> Item {
    let body = UserMessage { parts: vec![Part::text(text)], steered: false };
    item("user", ItemBody::UserMessage(body))
}

pub(crate) fn call(message: &str, call_id: &str, name: &str, status: ToolCallStatus) -> Item {
    let mut call = ToolCall::streaming(name, call_id);
    call.status = status;
    "{}".clone_into(&mut call.arguments_json);
    item(message, ItemBody::ToolCall(Box::new(call)))
}

pub(crate) fn done(message: &str, call_id: &str, name: &str, text: &str) -> Item {
    let mut item = call(message, call_id, name, ToolCallStatus::Completed);
    item.tool_call_mut().unwrap().result = Some(ToolResult {
        outcome: ToolOutcome::Ok,
        parts: vec![Part::text(text)],
        structured_content_json: None,
        is_error: false,
        meta_json: None,
        error: None,
        truncated: None,
        duration_ms: 1,
    });
    item
}

pub(crate) fn tool(name: &str, schema: &str) -> ToolDefinition {
    ToolDefinition {
        name: name.to_owned(),
        extension_name: String::new(),
        tool_name: name.to_owned(),
        title: None,
        description: format!("{name} does things"),
        input_schema_json: schema.to_owned(),
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

pub(crate) fn request(model: &str, items: Vec<Item>) -> ModelRequest {
    ModelRequest {
        model_id: model.to_owned(),
        system: "You are a test.".to_owned(),
        items: items.into_iter().map(Arc::new).collect(),
        tools: vec![
            tool("get_weather", "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"}}}"),
            tool("get_time", "{\"type\":\"object\"}"),
        ],
        temperature_millis: None,
        max_output_tokens: None,
        extra_params_json: None,
        thought_level: None,
    }
}

/// A picture of three bytes.
pub(crate) fn picture() -> Part {
    let data = gander_domain::content::Data::Inline(gander_domain::content::Blob(vec![1, 2, 3]));
    Part::new(gander_domain::PartBody::Image { data, mime_type: "image/png".to_owned() })
}

/// A conversation with all that a dialect must carry: a picture, a thought with its state, text, two calls of which one
/// failed and one answered with a picture, and a message after them. `thought` and `call` are the states that the dialect
/// keeps with them.
pub(crate) fn conversation(thought: &str, call_state: Option<&str>) -> Vec<Item> {
    use gander_domain::item::{AgentMessage, Thought};
    let said = |body: ItemBody, state: Option<&str>| {
        let mut item = item("m1", body);
        item.model_id = Some("model-1".to_owned());
        item.provider_state_json = state.map(str::to_owned);
        item
    };
    let mut asked = user("What is in this picture?");
    if let ItemBody::UserMessage(message) = &mut asked.body {
        message.parts.push(picture());
    }
    let text = ItemBody::AgentMessage(AgentMessage { parts: vec![Part::text("I look. ")], demo: false });
    let mut weather = done("m1", "call_a", "get_weather", "sunny");
    weather.model_id = Some("model-1".to_owned());
    weather.provider_state_json = call_state.map(str::to_owned);
    let tool_call = weather.tool_call_mut().unwrap();
    "{\"city\":\"Rome\"}".clone_into(&mut tool_call.arguments_json);
    tool_call.result.as_mut().unwrap().parts.push(picture());
    let mut time = done("m1", "call_b", "get_time", "no clock");
    let result = time.tool_call_mut().unwrap().result.as_mut().unwrap();
    result.is_error = true;
    vec![
        asked,
        said(ItemBody::Thought(Thought { text: "Hm.".to_owned(), ..Thought::default() }), Some(thought)),
        said(text, None),
        weather,
        time,
        user("Go on."),
    ]
}
