//! Prompts: order, ends, cancel, settings, crashes.

use std::time::Duration;

use agent_client_protocol_schema::v1::{CancelNotification, PromptRequest, SetSessionConfigOptionRequest};
use gander_domain::{
    ErrorReason, Part, PartBody, Usage,
    content::{Blob, Data},
};
use gander_model::{AgentStop, AgentUpdate};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Rig, prompt, say, stop};

#[tokio::test]
async fn everything_of_a_prompt_comes_before_its_end() {
    let mut steps: Vec<Value> = (0..500).map(|n| say(&format!("{n} "))).collect();
    steps.push(json!({"raw": "npm WARN something"}));
    steps.push(stop("end_turn"));
    let rig = Rig::new(&json!({"session/prompt": [steps]}));
    let session = rig.open().await;
    let slow = rig.client.gate.lock().await;
    let running = session.prompt(vec![Part::text("go")]);
    let running = tokio::spawn(running);
    tokio::task::yield_now().await;
    assert!(!running.is_finished());
    drop(slow);
    let end = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    assert_eq!(end.stop, AgentStop::EndTurn);
    let expected: String = (0..500).map(|n| format!("{n} ")).collect();
    assert_eq!(rig.client.text(), expected, "a slow client loses nothing");
    session.close().await;
}

#[tokio::test]
async fn ends_and_usage() {
    let usage = json!({"totalTokens": 30, "inputTokens": 20, "outputTokens": 10, "thoughtTokens": 3,
        "cachedReadTokens": 5, "cachedWriteTokens": 1});
    let script = json!({"session/prompt": [
        [stop("max_tokens")], [stop("max_turn_requests")], [stop("refusal")], [stop("cancelled")],
        [{"result": {"stopReason": "end_turn", "usage": usage}}], [stop("from_the_future")],
        [{"error": {"code": -32800, "message": "cancelled"}}],
        [{"error": {"code": -32603, "message": "overloaded", "data": {"details": "try later"}}}],
    ]});
    let rig = Rig::new(&script);
    let session = rig.open().await;
    for expected in
        [AgentStop::MaxTokens, AgentStop::MaxTurnRequests, AgentStop::Refusal, AgentStop::Cancelled]
    {
        assert_eq!(prompt(&session, "x").await.unwrap().stop, expected);
    }
    let expected = Usage {
        input_tokens: Some(20),
        output_tokens: Some(10),
        cache_read_tokens: Some(5),
        cache_write_tokens: Some(1),
        reasoning_tokens: Some(3),
        total_tokens: Some(30),
    };
    assert_eq!(prompt(&session, "x").await.unwrap().usage, Some(expected));
    let strange = prompt(&session, "x").await.unwrap_err();
    assert!(strange.message.contains("from_the_future"), "{strange:?}");
    assert_eq!(prompt(&session, "x").await.unwrap().stop, AgentStop::Cancelled, "as an error");
    let failed = prompt(&session, "x").await.unwrap_err();
    assert_eq!(failed.reason, ErrorReason::ProviderUnavailable);
    assert!(failed.message.contains("overloaded: try later"), "{failed:?}");
    session.close().await;
}

#[tokio::test]
async fn a_cancel_reaches_the_agent_and_is_awaited() {
    let script = json!({"session/prompt": [
        [say("working"), {"await": "session/cancel"}, say(" stopped"), stop("cancelled")],
        [say(" again"), stop("end_turn")],
    ]});
    let rig = Rig::new(&script);
    let session = rig.open().await;
    let running = tokio::spawn(session.prompt(vec![Part::text("go")]));
    rig.client.until("some work", |client| client.text() == "working").await;
    session.cancel().await;
    let end = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    assert_eq!((end.stop, rig.client.text().as_str()), (AgentStop::Cancelled, "working stopped"));
    serde_json::from_value::<CancelNotification>(rig.sent("session/cancel").remove(0)).expect("valid");
    prompt(&session, "more").await.unwrap();
    assert_eq!(rig.client.text(), "working stopped again", "the same process goes on");
    session.close().await;
}

#[tokio::test]
async fn parts_of_a_prompt() {
    let rig = Rig::new(&json!({}));
    let session = rig.open().await;
    let image = PartBody::Image { data: Data::Inline(Blob(vec![1, 2])), mime_type: "image/png".into() };
    let link = PartBody::ResourceLink {
        uri: "file:///a".into(),
        name: "a".into(),
        title: None,
        mime_type: None,
        size_bytes: None,
    };
    session.prompt(vec![Part::text("see"), Part::new(image), Part::new(link)]).await.unwrap();
    let sent = rig.sent("session/prompt").remove(0);
    serde_json::from_value::<PromptRequest>(sent.clone()).expect("valid by the schema");
    let kinds: Vec<_> =
        sent["prompt"].as_array().unwrap().iter().map(|b| b["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["text", "image", "resource_link"]);
    let sound = PartBody::Audio { data: Data::Inline(Blob(vec![1])), mime_type: "audio/wav".into() };
    let error = session.prompt(vec![Part::new(sound)]).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::CapabilityMissing, "said instead of sent");
    session.close().await;
}

#[tokio::test]
async fn settings_are_set_while_a_prompt_runs() {
    let option = |value: &str| {
        json!([{"id": "effort", "name": "Effort", "type": "select", "currentValue": value,
        "options": [{"value": "low", "name": "Low"}, {"value": "high", "name": "High"}]}])
    };
    let script = json!({
        "session/new": [[{"result": {"sessionId": "s", "configOptions": option("low"),
            "modes": {"currentModeId": "ask", "availableModes": [{"id": "ask", "name": "Ask"}, {"id": "plan", "name": "P"}]}}}]],
        "session/set_config_option": [[{"result": {"configOptions": option("high")}}]],
        "session/prompt": [[say("working"), {"await": "session/cancel"},
            {"update": {"sessionUpdate": "current_mode_update", "currentModeId": "plan"}}, stop("cancelled")]],
    });
    let rig = Rig::new(&script);
    let session = rig.open().await;
    let running = tokio::spawn(session.prompt(vec![Part::text("go")]));
    rig.client.until("some work", |client| client.text() == "working").await;
    let options =
        tokio::time::timeout(PATIENCE, session.set_option("effort", "high")).await.unwrap().unwrap();
    assert_eq!(options[0].value, "high");
    let sent = rig.sent("session/set_config_option").remove(0);
    serde_json::from_value::<SetSessionConfigOptionRequest>(sent).expect("valid by the schema");
    assert!(session.set_option("effort", "mad").await.is_err());
    session.cancel().await;
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    let told = rig.client.updates.lock().unwrap().clone();
    let Some(AgentUpdate::Options(options)) = told.last() else { panic!("{told:?}") };
    assert_eq!(options.iter().map(|o| o.value.as_str()).collect::<Vec<_>>(), ["high", "plan"]);
    session.close().await;
}

#[tokio::test]
async fn a_crash_is_an_error_with_the_agents_last_words() {
    let script = json!({"session/prompt": [[say("half"), {"stderr": "panic: out of luck"}, {"exit": 7}]]});
    let rig = Rig::new(&script);
    let session = rig.open().await;
    let error = prompt(&session, "go").await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::ProviderUnavailable);
    assert!(error.message.contains("code 7") && error.message.contains("panic: out of luck"), "{error:?}");
    assert_eq!(error.metadata["stderrTail"], "panic: out of luck");
    assert_eq!((rig.client.text().as_str(), session.is_open()), ("half", false));
    let late = prompt(&session, "again").await.unwrap_err();
    assert_eq!(late.message, error.message);
    session.close().await;
}

#[tokio::test]
async fn updates_come_between_prompts_too() {
    let script = json!({"session/prompt": [[stop("end_turn"), say("still here")]]});
    let rig = Rig::new(&script);
    let session = rig.open().await;
    prompt(&session, "go").await.unwrap();
    rig.client.until("a late word", |client| client.text() == "still here").await;
    session.close().await;
}

#[tokio::test]
async fn other_sessions_of_the_agent_are_not_shown() {
    let foreign = json!({"notify": {"method": "session/update", "params": {"sessionId": "child",
        "update": {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "psst"}}}}});
    let unknown = json!({"notify": {"method": "_vendor/thing", "params": {"x": 1}}});
    let rig = Rig::new(&json!({"session/prompt": [[foreign, unknown, say("mine"), stop("end_turn")]]}));
    let session = rig.open().await;
    prompt(&session, "go").await.unwrap();
    assert_eq!(rig.client.text(), "mine");
    session.close().await;
}

#[tokio::test]
async fn an_agent_that_does_not_listen_can_be_ended() {
    let rig = Rig::new(&json!({"session/prompt": [[say("busy"), {"hang": true}]]}));
    let session = rig.open().await;
    let running = tokio::spawn(session.prompt(vec![Part::text("go")]));
    rig.client.until("some work", |client| client.text() == "busy").await;
    session.cancel().await;
    let start = std::time::Instant::now();
    session.close().await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(running.await.unwrap().is_err());
}

#[tokio::test]
async fn input_for_a_running_prompt() {
    for (supported, outcome, taken) in
        [(true, "injected", true), (true, "promptRequired", false), (false, "injected", false)]
    {
        let script = json!({
            "initialize": [[{"result": {"protocolVersion": 1, "_meta": {"steering": {"supported": supported}}}}]],
            "_session/steering": [[{"result": {"outcome": outcome}}]],
            "session/prompt": [[say("working"), {"await": "session/cancel"}, stop("cancelled")]],
        });
        let rig = Rig::new(&script);
        let session = rig.open().await;
        let running = tokio::spawn(session.prompt(vec![Part::text("go")]));
        rig.client.until("some work", |client| client.text() == "working").await;
        assert_eq!(session.steer(vec![Part::text("left")]).await, taken, "{supported} {outcome}");
        let sent = rig.sent("_session/steering");
        assert_eq!(sent.len(), usize::from(supported));
        for params in sent {
            assert_eq!(params["prompt"][0]["text"], "left");
            assert_eq!(params["_meta"]["steering"]["idleBehavior"], "promptRequired");
        }
        session.cancel().await;
        running.await.unwrap().unwrap();
        session.close().await;
    }
}
