use serde_json::{Value, json};

use super::*;
use crate::{
    Format, ModelEvent, VendorOptions,
    encode::state,
    testing::fixtures::{conversation, info, request, tool, user},
    wire::{ReplyDecoder as _, Step},
};

fn body(request: &crate::ModelRequest) -> Value {
    let options = VendorOptions::for_format(info(), Format::Google, "http://127.0.0.1:1/v1beta/models/x");
    serde_json::from_slice(&encode(&options, request).unwrap()).unwrap()
}

#[test]
fn a_conversation_is_told_with_signatures_in_their_place() {
    let thought = state(ENGINE, "fake", &json!({ "text": "", "thoughtSignature": "c2lnMQ==" }));
    let call = state(ENGINE, "fake", &json!({ "thoughtSignature": "c2lnMg==" }));
    let body = body(&request("model-1", conversation(&thought, Some(&call))));
    let picture = json!({ "inlineData": { "mimeType": "image/png", "data": "AQID" } });
    assert_eq!(
        body["contents"],
        json!([
            { "role": "user", "parts": [{ "text": "What is in this picture?" }, picture] },
            { "role": "model", "parts": [{ "text": "", "thoughtSignature": "c2lnMQ==" }, { "text": "I look. " },
                { "functionCall": { "name": "get_weather", "args": { "city": "Rome" } }, "thoughtSignature": "c2lnMg==" },
                { "functionCall": { "name": "get_time", "args": {} } }] },
            { "role": "user", "parts": [
                { "functionResponse": { "name": "get_weather", "response": { "output": "sunny" } } }, picture,
                { "functionResponse": { "name": "get_time", "response": { "error": "Error: no clock" } } },
                { "text": "Go on." }] }
        ])
    );
    assert_eq!(body["systemInstruction"]["parts"][0]["text"], "You are a test.");
    let other = self::body(&request("model-2", conversation(&thought, Some(&call))));
    assert!(!other.to_string().contains("thoughtSignature"), "another model's");
}

#[test]
fn tools_carry_their_schema_and_settings_their_place() {
    let mut asked = request("gemini-2.5-pro", vec![user("hi")]);
    asked.tools =
        vec![tool("bare", "{}"), tool("full", "{\"properties\":{\"a\":{\"$ref\":\"#/x\"}},\"x\":1}")];
    asked.max_output_tokens = Some(9);
    asked.temperature_millis = Some(250);
    asked.extra_params_json = Some("{\"generationConfig\":{\"topP\":0.5}}".to_owned());
    let body = body(&asked);
    let functions = &body["tools"][0]["functionDeclarations"];
    assert_eq!(functions[0].get("parametersJsonSchema"), None, "a tool without parameters has none");
    assert_eq!(functions[1]["parametersJsonSchema"]["properties"]["a"]["$ref"], "#/x");
    assert_eq!(
        body["generationConfig"],
        json!({ "temperature": 0.25, "maxOutputTokens": 9, "topP": 0.5, "thinkingConfig": { "includeThoughts": true } })
    );
}

fn read(chunks: &[Value]) -> (Step, Vec<ModelEvent>, Result<(), crate::ModelError>) {
    let mut reader = Reader::new("fake");
    let mut last = Step::More;
    for chunk in chunks {
        last = reader.frame(chunk.to_string().as_bytes(), false);
    }
    let ended = reader.end();
    (last, std::iter::from_fn(|| reader.pop()).collect(), ended)
}

#[test]
fn signatures_stay_with_the_part_they_came_with() {
    let part = |part: Value, finish: Value| json!({ "candidates": [{ "content": { "parts": [part] }, "finishReason": finish }] });
    let (_, events, ended) = read(&[
        part(json!({ "text": "Hm.", "thought": true }), Value::Null),
        part(
            json!({ "functionCall": { "name": "a", "args": { "n": 9_007_199_254_740_993_u64 } }, "thoughtSignature": "s1" }),
            Value::Null,
        ),
        part(json!({ "functionCall": { "name": "b" } }), json!("STOP")),
    ]);
    ended.unwrap();
    let calls: Vec<(&str, &str, Option<&str>)> = events
        .iter()
        .filter_map(|event| match event {
            ModelEvent::ToolCallCompleted { name, arguments_json, provider_state_json, .. } => {
                Some((name.as_str(), arguments_json.as_str(), provider_state_json.as_deref()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(calls[0].1, "{\"n\":9007199254740993}", "numbers stay exact");
    let kept: Value = serde_json::from_str(calls[0].2.unwrap()).unwrap();
    assert_eq!(kept["item"]["thoughtSignature"], "s1");
    assert_eq!((calls[1].0, calls[1].1, calls[1].2), ("b", "{}", None));
}

#[test]
fn odd_ends_are_told_apart() {
    use crate::{ModelErrorClass as C, ModelStop as S};
    let stop = |reason: &str| read(&[json!({ "candidates": [{ "content": {}, "finishReason": reason }] })]);
    let class = |reason: &str| stop(reason).2.err().map(|error| error.class);
    assert_eq!(class("MALFORMED_FUNCTION_CALL"), Some(C::Server));
    for (reason, wanted) in [("STOP", S::EndTurn), ("FUNCTION_CALL", S::EndTurn), ("RECITATION", S::Refusal)]
    {
        let events = stop(reason).1;
        assert!(
            matches!(events.last(), Some(ModelEvent::Finished { stop, .. }) if *stop == wanted),
            "{reason}"
        );
    }
    let blocked = read(&[json!({ "promptFeedback": { "blockReason": "SAFETY" } })]).1;
    assert!(matches!(blocked.last(), Some(ModelEvent::Finished { stop: S::Refusal, .. })));
    assert_eq!(read(&[json!({ "usageMetadata": {} })]).2.err().map(|error| error.class), Some(C::Truncated));
    let mut whole = Reader::new("fake");
    let list = json!([{ "candidates": [{ "content": { "parts": [{ "text": "a" }] } }] },
        { "candidates": [{ "finishReason": "STOP" }] }]);
    assert_eq!(whole.whole(list.to_string().as_bytes()), Step::Done);
    whole.end().unwrap();
}

#[test]
fn arguments_stay_exact_in_a_list_of_chunks_and_in_either_spelling() {
    let exact = "{\"z\": 12345678901234567890123, \"f\": 1.0}";
    for key in ["functionCall", "function_call"] {
        let body = format!(
            "[{{\"candidates\":[{{\"content\":{{\"parts\":[{{\"{key}\":{{\"name\":\"f\",\"args\":{exact}}},\
             \"thoughtSignature\":\"s\",\"thought_signature\":\"s\"}}]}},\"finishReason\":\"STOP\"}}]}}]"
        );
        let mut reader = Reader::new("fake");
        assert_eq!(reader.whole(body.as_bytes()), Step::Done);
        reader.end().unwrap();
        let call = std::iter::from_fn(|| reader.pop()).find_map(|event| match event {
            ModelEvent::ToolCallCompleted { arguments_json, provider_state_json, .. } => {
                Some((arguments_json, provider_state_json.is_some()))
            }
            _ => None,
        });
        assert_eq!(call, Some((exact.to_owned(), true)), "{key}");
    }
}
