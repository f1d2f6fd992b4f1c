use gander_domain::{
    Item, ItemBody, Part, PartBody,
    content::{Blob, Data},
    item::{AgentMessage, Thought, ToolCallStatus, UserMessage},
};
use serde_json::json;

use super::*;
use crate::testing::fixtures::{call, done, item, request, user};

fn profile(dialect: Option<&str>) -> Profile {
    Profile {
        provider_id: "fake".to_owned(),
        dialect: dialect.map(str::to_owned),
        base_url: "http://localhost/v1".to_owned(),
        stream_usage: true,
        streaming: true,
        ..Profile::default()
    }
}

fn body(profile: &Profile, items: Vec<Item>) -> Value {
    serde_json::from_slice(&encode(profile, &request("m-1", items)).unwrap()).unwrap()
}

fn image() -> Part {
    Part::new(PartBody::Image { data: Data::Inline(Blob(vec![1, 2, 3])), mime_type: "image/png".to_owned() })
}

#[test]
fn calls_results_and_steering_keep_their_order() {
    let mut asked = done("m1", "call_b", "get_time", "noon");
    asked.tool_call_mut().unwrap().arguments_json = "{\"n\":9007199254740993,\"z\":1,\"a\":2}".to_owned();
    let said =
        item("m1", ItemBody::AgentMessage(AgentMessage { parts: vec![Part::text("I look.")], demo: false }));
    let items = vec![
        user("weather?"),
        said,
        done("m1", "call_a", "get_weather", "sunny"),
        asked,
        call("m1", "call_c", "get_time", ToolCallStatus::Running),
        user("and now?"),
    ];
    let body = body(&profile(None), items);
    let messages = body["messages"].as_array().unwrap();
    let roles: Vec<&str> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "tool", "tool", "user"]);
    assert_eq!(messages[2]["content"], "I look.");
    let ids: Vec<&Value> =
        messages[2]["tool_calls"].as_array().unwrap().iter().map(|call| &call["id"]).collect();
    assert_eq!(ids, ["call_a", "call_b", "call_c"]);
    assert_eq!(
        messages[2]["tool_calls"][1]["function"]["arguments"], "{\"n\":9007199254740993,\"z\":1,\"a\":2}",
        "arguments go back as they came"
    );
    assert_eq!(messages[3], json!({ "role": "tool", "tool_call_id": "call_a", "content": "sunny" }));
    assert_eq!(messages[5]["content"], "No result was recorded for this call.");
    assert_eq!(messages[6]["content"], "and now?");
}

#[test]
fn images_are_sent_in_messages_and_after_tool_results() {
    let asked = item(
        "u",
        ItemBody::UserMessage(UserMessage {
            parts: vec![Part::text("what is it?"), image()],
            steered: false,
        }),
    );
    let mut shot = done("m1", "call_a", "get_weather", "a picture:");
    shot.tool_call_mut().unwrap().result.as_mut().unwrap().parts.push(image());
    let body = body(&profile(None), vec![asked, shot]);
    let messages = body["messages"].as_array().unwrap();
    assert_eq!(messages[1]["content"][0]["text"], "what is it?");
    assert_eq!(messages[1]["content"][1]["image_url"]["url"], "data:image/png;base64,AQID");
    let tool = messages.iter().position(|message| message["role"] == "tool").unwrap();
    assert!(messages[tool]["content"].as_str().unwrap().contains("a picture:"));
    let after = serde_json::to_string(&messages[tool + 1]).unwrap();
    assert!(after.contains("data:image/png;base64,AQID"), "{after}");
}

#[test]
fn thoughts_go_back_only_to_who_made_them() {
    let thought = |provider: &str, model: &str| {
        let mut item = item("m1", ItemBody::Thought(Thought { text: "hm".to_owned(), ..Thought::default() }));
        item.model_id = Some(model.to_owned());
        item.provider_state_json = Some(
            json!({ "engine": ENGINE, "version": 1, "provider": provider,
                "item": { "reasoning_content": "hm", "reasoning_details": [{ "type": "reasoning.text", "signature": "s" }] } })
            .to_string(),
        );
        item
    };
    for (provider, model, wanted) in [("fake", "m-1", true), ("other", "m-1", false), ("fake", "m-2", false)]
    {
        let items = vec![user("x"), thought(provider, model), done("m1", "call_a", "get_time", "noon")];
        let message = body(&profile(None), items)["messages"][2].clone();
        assert_eq!(message["reasoning_content"] == "hm", wanted, "{message}");
        assert_eq!(message["reasoning_details"][0]["signature"] == "s", wanted, "{message}");
        assert!(!message["content"].as_str().unwrap_or_default().contains("hm"), "{message}");
    }
}

#[test]
fn states_of_calls_go_back_with_their_call() {
    let mut asked = done("m1", "call_a", "get_time", "noon");
    asked.model_id = Some("m-1".to_owned());
    asked.provider_state_json = Some(
        json!({ "engine": ENGINE, "version": 1, "provider": "fake",
            "item": { "extra_content": { "google": { "thought_signature": "abc" } } } })
        .to_string(),
    );
    let message = body(&profile(None), vec![user("x"), asked])["messages"][2].clone();
    let sent = &message["tool_calls"][0];
    assert_eq!(sent["extra_content"]["google"]["thought_signature"], "abc");
    assert_eq!((&sent["id"], &sent["type"]), (&json!("call_a"), &json!("function")));
    assert_eq!(sent["function"], json!({ "name": "get_time", "arguments": "{}" }));
}

#[test]
fn bodies_follow_the_dialect() {
    let mut openai = request("o3", vec![user("x")]);
    openai.max_output_tokens = Some(9);
    let encoded = |profile: &Profile, request: &ModelRequest| -> Value {
        serde_json::from_slice(&encode(profile, request).unwrap()).unwrap()
    };
    let body = encoded(&profile(Some("openai")), &openai);
    assert_eq!((&body["max_completion_tokens"], body.get("max_tokens")), (&json!(9), None));
    let body = encoded(&profile(None), &openai);
    assert_eq!(body["max_tokens"], 9);
    let quiet = Profile { streaming: false, ..profile(None) };
    assert_ne!(encoded(&quiet, &openai)["stream"], true);
    let no_usage = Profile { stream_usage: false, ..profile(None) };
    assert!(encoded(&no_usage, &openai).get("stream_options").is_none());
}

#[test]
fn what_cannot_be_sent_is_refused_with_its_name() {
    let mut bad_tool = request("m", vec![user("x")]);
    bad_tool.tools[0].input_schema_json = "nonsense".to_owned();
    let mut bad_params = request("m", vec![user("x")]);
    bad_params.extra_params_json = Some("[1]".to_owned());
    for (request, part) in [(bad_tool, "get_weather"), (bad_params, "extra parameters")] {
        let error = encode(&profile(None), &request).unwrap_err();
        assert_eq!(error.class, ModelErrorClass::InvalidRequest);
        assert!(error.message.contains(part), "{}", error.message);
    }
}
