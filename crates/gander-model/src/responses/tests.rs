use serde_json::{Value, json};

use super::*;
use crate::{
    Format, ModelEvent, VendorOptions,
    encode::state,
    testing::fixtures::{conversation, info, request, user},
    wire::{ReplyDecoder as _, Step},
};

fn body(request: &crate::ModelRequest) -> Value {
    let options =
        VendorOptions::for_format(info(), Format::OpenAiResponses, "http://127.0.0.1:1/v1/responses");
    serde_json::from_slice(&encode(&options, request).unwrap()).unwrap()
}

#[test]
fn a_conversation_is_told_with_its_reasoning() {
    let item = json!({ "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA+/=" });
    let kept = state(ENGINE, "fake", &item);
    let body = body(&request("model-1", conversation(&kept, None)));
    assert_eq!(
        body["input"],
        json!([
            { "type": "message", "role": "user", "content": [
                { "type": "input_text", "text": "What is in this picture?" },
                { "type": "input_image", "image_url": "data:image/png;base64,AQID" }] },
            item,
            { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "I look. " }] },
            { "type": "function_call", "call_id": "call_a", "name": "get_weather", "arguments": "{\"city\":\"Rome\"}" },
            { "type": "function_call", "call_id": "call_b", "name": "get_time", "arguments": "{}" },
            { "type": "function_call_output", "call_id": "call_a", "output": [
                { "type": "input_text", "text": "sunny" },
                { "type": "input_image", "image_url": "data:image/png;base64,AQID" }] },
            { "type": "function_call_output", "call_id": "call_b", "output": "Error: no clock" },
            { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "Go on." }] }
        ])
    );
    assert_eq!((&body["store"], &body["instructions"]), (&json!(false), &json!("You are a test.")));
    assert_eq!(body["tools"][0]["strict"], false);
    assert_eq!(body.get("include"), None, "model-1 is not known to reason");
    let other = self::body(&request("model-2", conversation(&kept, None)));
    assert!(!other.to_string().contains("gAAA"), "another model's");
}

#[test]
fn only_models_that_reason_are_asked_for_it() {
    for (model, wanted) in [
        ("gpt-5", true),
        ("o3", true),
        ("gpt-5.9-new", true),
        ("openai/o4-mini", true),
        ("gpt-4o", false),
        ("gpt-4.1", false),
    ] {
        let body = body(&request(model, vec![user("hi")]));
        assert_eq!(body.get("include").is_some(), wanted, "{model}");
    }
}

fn read(events: &[Value]) -> (Vec<Step>, Vec<ModelEvent>, Result<(), crate::ModelError>) {
    let mut reader = Reader::new("fake");
    let steps = events.iter().map(|event| reader.frame(event.to_string().as_bytes(), false)).collect();
    let ended = reader.end();
    (steps, std::iter::from_fn(|| reader.pop()).collect(), ended)
}

fn calls(events: &[ModelEvent]) -> Vec<(String, String, String)> {
    let call = |event: &ModelEvent| match event {
        ModelEvent::ToolCallCompleted { call_id, name, arguments_json, .. } => {
            Some((call_id.clone(), name.clone(), arguments_json.clone()))
        }
        _ => None,
    };
    events.iter().filter_map(call).collect()
}

#[test]
fn servers_that_leave_numbers_or_pieces_out_lose_nothing() {
    // No output_index: items are known by their ids.
    let (_, events, ended) = read(&[
        json!({ "type": "response.output_item.added", "item": { "type": "function_call", "id": "fc_1", "call_id": "a", "name": "one" } }),
        json!({ "type": "response.output_item.added", "item": { "type": "function_call", "id": "fc_2", "call_id": "b", "name": "two" } }),
        json!({ "type": "response.function_call_arguments.delta", "item_id": "fc_2", "delta": "{\"x\":" }),
        json!({ "type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": "{}" }),
        json!({ "type": "response.function_call_arguments.delta", "item_id": "fc_2", "delta": "1}" }),
        json!({ "type": "response.completed", "response": { "status": "completed" } }),
    ]);
    ended.unwrap();
    let call = |id: &str, name: &str, arguments: &str| (id.to_owned(), name.to_owned(), arguments.to_owned());
    assert_eq!(calls(&events), [call("a", "one", "{}"), call("b", "two", "{\"x\":1}")]);
    // Only whole items, or only the whole response.
    let item = json!({ "type": "function_call", "call_id": "a", "name": "one", "arguments": "{\"y\":2}" });
    let message = json!({ "type": "message", "content": [{ "type": "output_text", "text": "Hi" }] });
    for stream in [
        vec![
            json!({ "type": "response.output_item.done", "output_index": 0, "item": message }),
            json!({ "type": "response.output_item.done", "output_index": 1, "item": item }),
            json!({ "type": "response.completed", "response": { "status": "completed" } }),
        ],
        vec![
            json!({ "type": "response.completed", "response": { "status": "completed", "output": [message, item] } }),
        ],
    ] {
        let (_, events, ended) = read(&stream);
        ended.unwrap();
        assert_eq!(calls(&events), [call("a", "one", "{\"y\":2}")]);
        assert!(events.contains(&ModelEvent::TextDelta("Hi".to_owned())));
    }
}

#[test]
fn failed_responses_are_failures() {
    let failed = json!({ "type": "response.failed", "response": { "status": "failed",
        "error": { "code": "rate_limit_exceeded", "message": "slow down" } } });
    let (steps, _, _) = read(&[failed]);
    assert!(matches!(&steps[0], Step::Failed(body) if body.contains("rate_limit_exceeded")));
    let (steps, _, _) = read(&[json!({ "type": "response.cancelled", "response": {} })]);
    assert!(matches!(&steps[0], Step::Broken(_)));
    let mut reader = Reader::new("fake");
    let whole = json!({ "object": "response", "status": "completed", "model": "m",
        "output": [{ "type": "message", "content": [{ "type": "refusal", "refusal": "No." }] }] });
    assert_eq!(reader.whole(whole.to_string().as_bytes()), Step::Done);
    reader.end().unwrap();
    let events: Vec<_> = std::iter::from_fn(|| reader.pop()).collect();
    assert!(matches!(events.last(), Some(ModelEvent::Finished { stop: crate::ModelStop::Refusal, .. })));
}

#[test]
fn reasoning_without_its_content_is_not_sent_back() {
    let done = |item: Value| {
        read(&[json!({ "type": "response.output_item.done", "output_index": 0, "item": item })]).1
    };
    let state = |events: &[ModelEvent]| {
        events.iter().find_map(|event| match event {
            ModelEvent::ThoughtCompleted { provider_state_json, .. } => provider_state_json.clone(),
            _ => None,
        })
    };
    let summary = json!([{ "type": "summary_text", "text": "Hm." }]);
    let without = done(json!({ "type": "reasoning", "id": "rs_1", "summary": summary }));
    assert_eq!(state(&without), None);
    assert!(without.contains(&ModelEvent::ThoughtDelta("Hm.".to_owned())));
    let with = done(
        json!({ "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e", "status": null }),
    );
    let kept: Value = serde_json::from_str(&state(&with).unwrap()).unwrap();
    assert_eq!(
        kept["item"],
        json!({ "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e" })
    );
}
