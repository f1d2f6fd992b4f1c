use serde_json::{Value, json};

use super::*;
use crate::{
    Format, ModelProvider as _, Vendor, VendorOptions,
    encode::state,
    testing::{
        FakeOpenAi,
        fixtures::{conversation, done, info, request, user},
    },
};

fn options() -> VendorOptions {
    VendorOptions::for_format(info(), Format::Anthropic, "http://127.0.0.1:1/v1/messages")
}

fn body(options: &VendorOptions, request: &crate::ModelRequest) -> Value {
    serde_json::from_slice(&encode(options, request).unwrap()).unwrap()
}

const THOUGHT: &str = "{\"type\":\"thinking\",\"thinking\":\"Hm\\u00e9.\\n\",\"signature\":\"EqQB+/=\"}";

#[test]
fn a_conversation_is_told_with_its_thoughts_pictures_and_marks() {
    let thought: Value = serde_json::from_str(THOUGHT).unwrap();
    let kept = state(ENGINE, "fake", &thought);
    let mut asked = request("model-1", conversation(&kept, None));
    asked.temperature_millis = Some(500);
    let body = body(&options(), &asked);
    let picture =
        json!({ "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AQID" } });
    let cached = json!({ "type": "ephemeral" });
    assert_eq!(
        body["messages"],
        json!([
            { "role": "user", "content": [{ "type": "text", "text": "What is in this picture?" },
                { "type": "image", "source": picture["source"], "cache_control": cached }] },
            { "role": "assistant", "content": [thought, { "type": "text", "text": "I look." },
                { "type": "tool_use", "id": "call_a", "name": "get_weather", "input": { "city": "Rome" } },
                { "type": "tool_use", "id": "call_b", "name": "get_time", "input": {} }] },
            { "role": "user", "content": [
                { "type": "tool_result", "tool_use_id": "call_a",
                    "content": [{ "type": "text", "text": "sunny" }, picture] },
                { "type": "tool_result", "tool_use_id": "call_b", "is_error": true,
                    "content": [{ "type": "text", "text": "Error: no clock" }] },
                { "type": "text", "text": "Go on.", "cache_control": cached }] }
        ])
    );
    assert_eq!(
        body["system"],
        json!([{ "type": "text", "text": "You are a test.", "cache_control": cached }])
    );
    assert_eq!(body["tools"][0]["input_schema"]["properties"]["city"]["type"], "string");
    assert_eq!(
        (body["tools"][0].get("cache_control"), body["tools"][1].get("cache_control")),
        (None, Some(&cached))
    );
    assert_eq!(body.to_string().matches("cache_control").count(), 4, "the most that the API takes");
    assert_eq!(
        (&body["max_tokens"], &body["stream"], &body["temperature"]),
        (&json!(8192), &json!(true), &json!(0.5))
    );
}

#[test]
fn thoughts_of_others_are_left_out_and_marks_can_be_off() {
    let thought: Value = serde_json::from_str(THOUGHT).unwrap();
    for (engine, provider, model) in
        [("google", "fake", "model-1"), (ENGINE, "other", "model-1"), (ENGINE, "fake", "model-2")]
    {
        let kept = state(engine, provider, &thought);
        let body = body(&options(), &request(model, conversation(&kept, None)));
        assert!(!body.to_string().contains("EqQB"), "{engine} {provider} {model}");
    }
    let mut plain = options();
    plain.prompt_cache = false;
    assert!(!body(&plain, &request("model-1", vec![user("hi")])).to_string().contains("cache_control"));
}

#[test]
fn limits_and_extras_are_merged() {
    let mut given = options();
    given.extra_body.insert("metadata".to_owned(), json!({ "user_id": "u" }));
    let mut asked = request("claude-sonnet-4-5", vec![user("hi")]);
    assert_eq!(body(&given, &asked)["max_tokens"], 32_000);
    asked.max_output_tokens = Some(10_000);
    asked.temperature_millis = Some(1000);
    asked.extra_params_json = Some(
        "{\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":16000},\"metadata\":{\"x\":1}}".to_owned(),
    );
    let body = body(&given, &asked);
    assert_eq!(body["metadata"], json!({ "user_id": "u", "x": 1 }));
    assert_eq!(body.get("temperature"), None, "excluded by thinking");
    assert_eq!(body["max_tokens"], 24_192, "room behind the budget");
    asked.extra_params_json = Some("[]".to_owned());
    assert!(encode(&given, &asked).is_err());
}

#[test]
fn a_history_with_calls_declares_their_tools_when_none_are_offered() {
    let mut asked = request("model-1", vec![user("hi"), done("m1", "call_a", "get_weather", "sunny")]);
    asked.tools.clear();
    let body = body(&options(), &asked);
    assert_eq!(body["tools"][0]["name"], "get_weather");
    asked.items.truncate(1);
    assert_eq!(
        serde_json::from_slice::<Value>(&encode(&options(), &asked).unwrap()).unwrap().get("tools"),
        None
    );
}

#[tokio::test]
async fn what_came_goes_back_as_it_was() {
    use futures::StreamExt as _;
    let fake = FakeOpenAi::start().await.unwrap();
    let options = VendorOptions::for_format(info(), Format::Anthropic, format!("{}/v1/messages", fake.url()))
        .with_credential("x-api-key", "key-12345678", "key-12345678")
        .unwrap();
    let vendor = Vendor::new(options).unwrap();
    for (scenario, block) in [
        ("plain", json!({ "type": "thinking", "thinking": "Let me think.", "signature": "c2lnbmF0dXJl+/=" })),
        ("redacted", json!({ "type": "redacted_thinking", "data": "b3BhcXVl" })),
    ] {
        let said: Vec<_> = vendor.stream(request(scenario, vec![user("hi")])).collect().await;
        let kept = said.into_iter().find_map(|item| match item {
            Ok(crate::ModelEvent::ThoughtCompleted { provider_state_json, .. }) => provider_state_json,
            _ => None,
        });
        let mut items = conversation(&kept.unwrap(), None);
        items
            .iter_mut()
            .filter(|item| item.model_id.is_some())
            .for_each(|item| item.model_id = Some(scenario.to_owned()));
        let _: Vec<_> = vendor.stream(request(scenario, items)).collect().await;
        let seen = fake.requests().pop().unwrap();
        assert_eq!(seen.body["messages"][1]["content"][0], block);
        assert_eq!(seen.header("x-api-key"), Some("key-12345678"));
    }
}

#[test]
fn whole_answers_are_read_too() {
    use crate::wire::{ReplyDecoder as _, Step};
    let mut reader = Reader::new("fake");
    let body = json!({ "type": "message", "model": "m", "stop_reason": "tool_use", "content": [
        { "type": "thinking", "thinking": "Hm.", "signature": "c2ln" },
        { "type": "text", "text": "Whole" },
        { "type": "tool_use", "id": "call_a", "name": "get_weather", "input": { "city": "Rome" } }],
        "usage": { "input_tokens": 3, "output_tokens": 4 } });
    assert_eq!(reader.whole(body.to_string().as_bytes()), Step::Done);
    reader.end().unwrap();
    let events: Vec<_> = std::iter::from_fn(|| reader.pop()).collect();
    assert!(events.iter().any(|event| matches!(event,
        crate::ModelEvent::ToolCallCompleted { arguments_json, .. } if arguments_json == "{\"city\":\"Rome\"}")));
    assert!(matches!(
        events.last(),
        Some(crate::ModelEvent::Finished { stop: crate::ModelStop::ToolCalls, .. })
    ));
    let failed =
        Reader::new("fake").whole(b"{\"type\":\"error\",\"error\":{\"type\":\"x\",\"message\":\"y\"}}");
    assert!(matches!(failed, Step::Failed(_)));
}

#[test]
fn arguments_stay_exact_wherever_they_stand() {
    use crate::wire::{ReplyDecoder as _, Step};
    let exact = "{\"z\": 12345678901234567890123, \"a\": 0.1000000000000000055511151231257827, \"f\": 1.0}";
    let block =
        |input: &str| format!("{{\"type\":\"tool_use\",\"id\":\"call_a\",\"name\":\"f\",\"input\":{input}}}");
    let stop = "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"}}";
    let start = |input: &str| {
        format!("{{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{}}}", block(input))
    };
    let arguments = |reader: &mut Reader| {
        reader.end().unwrap();
        std::iter::from_fn(|| reader.pop()).find_map(|event| match event {
            crate::ModelEvent::ToolCallCompleted { arguments_json, .. } => Some(arguments_json),
            _ => None,
        })
    };
    let mut at_once = Reader::new("fake");
    for event in [start(exact).as_str(), stop] {
        assert_eq!(at_once.frame(event.as_bytes(), false), Step::More);
    }
    assert_eq!(arguments(&mut at_once).as_deref(), Some(exact));
    let mut whole = Reader::new("fake");
    let body = format!("{{\"stop_reason\":\"tool_use\",\"content\":[{}]}}", block(exact));
    assert_eq!(whole.whole(body.as_bytes()), Step::Done);
    assert_eq!(arguments(&mut whole).as_deref(), Some(exact));
    // The empty object with which a call begins is not the start of its arguments.
    for empty in ["{}", "{ }", "null"] {
        let mut pieces = Reader::new("fake");
        let delta = json!({ "type": "content_block_delta", "index": 0,
            "delta": { "type": "input_json_delta", "partial_json": exact } })
        .to_string();
        for event in [start(empty).as_str(), delta.as_str(), stop] {
            assert_eq!(pieces.frame(event.as_bytes(), false), Step::More);
        }
        assert_eq!(arguments(&mut pieces).as_deref(), Some(exact));
    }
}

#[test]
fn blocks_of_new_kinds_are_skipped_and_damaged_ones_are_not() {
    use crate::wire::{ReplyDecoder as _, Step};
    let start = |block: Value| {
        json!({ "type": "content_block_start", "index": 0, "content_block": block }).to_string()
    };
    let mut reader = Reader::new("fake");
    for block in [
        json!({ "type": "web_search_tool_result", "tool_use_id": "x", "content": [{ "url": "u" }], "data": {} }),
        json!({ "type": "server_tool_use", "id": "x", "name": "web_search", "input": {} }),
    ] {
        assert_eq!(reader.frame(start(block).as_bytes(), false), Step::More);
    }
    assert!(reader.pop().is_none());
    let damaged = start(json!({ "type": "tool_use", "id": {}, "name": "f" }));
    assert!(matches!(reader.frame(damaged.as_bytes(), false), Step::Broken(_)));
}

#[test]
fn an_id_that_two_calls_share_is_given_to_one() {
    use crate::wire::ReplyDecoder as _;
    let block =
        |city: &str| json!({ "type": "tool_use", "id": "same", "name": "f", "input": { "city": city } });
    let body = json!({ "stop_reason": "tool_use", "content": [block("Rome"), block("Paris")] });
    let mut reader = Reader::new("fake");
    reader.whole(body.to_string().as_bytes());
    reader.end().unwrap();
    let calls: Vec<(String, String)> = std::iter::from_fn(|| reader.pop())
        .filter_map(|event| match event {
            crate::ModelEvent::ToolCallCompleted { call_id, arguments_json, .. } => {
                Some((call_id, arguments_json))
            }
            _ => None,
        })
        .collect();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert_eq!((calls[0].0.as_str(), calls[0].1.as_str()), ("same", "{\"city\":\"Rome\"}"));
    assert!(calls[1].0 != "same" && calls[1].1 == "{\"city\":\"Paris\"}", "{calls:?}");
}
