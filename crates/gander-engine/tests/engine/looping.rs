//! What a turn does when things go wrong: broken streams, pauses, overflow, repetition, secrets, restarts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gander_domain::{
    ErrorReason, Event, Interaction, ItemBody, Part, PartBody, Payload, SessionId,
    content::{Blob, Data},
    host::{HostCallOutcome, HostCapabilities},
    interaction::{Answer, InteractionKind, PermissionReason},
    item::{Thought, ToolCallStatus, ToolOutcome, ToolResult},
    session::{Mode, SessionKind, ThoughtLevel},
    tool::{ToolAnnotations, ToolDefinition, ToolVisibility},
    turn::TurnState,
};
use gander_engine::{CancelRequest, InteractionFilter, NewSession};
use gander_model::{
    ModelError, ModelErrorClass, ModelEvent, ModelStop,
    testing::{Script, ScriptedProvider},
};

use crate::harness::{Harness, PATIENCE, assert_log_rules, context, golden_turn, start_in, turn};

fn shell(id: &str, command: &str) -> Script {
    let arguments = serde_json::json!({ "command": command }).to_string();
    Script::one_call(id, "developer__shell", &arguments)
}

fn limited(retry_after: Duration) -> Script {
    Script::new().fail(ModelError {
        status: Some(429),
        retry_after: Some(retry_after),
        ..ModelError::new(ModelErrorClass::RateLimited, "slow down")
    })
}

/// A call whose arguments never become complete.
fn half_a_call() -> Script {
    Script::new()
        .event(ModelEvent::ToolCallStarted { index: 0, call_id: "c".into(), name: "developer__shell".into() })
        .event(ModelEvent::ToolArgumentsDelta { index: 0, text: r#"{"command":"touch ma"#.into() })
}

async fn questions(harness: &Harness, session: &SessionId, count: usize) -> Vec<Interaction> {
    let asked = |e: &Event| matches!(e.payload, Payload::InteractionRequested { .. });
    let counter = std::cell::Cell::new(0);
    harness
        .until(session, |e| {
            counter.set(counter.get() + usize::from(asked(e)));
            counter.get() == count
        })
        .await;
    let all = harness.engine.list_interactions(InteractionFilter::default()).await.unwrap();
    all.into_iter().map(|(_, i)| i).collect()
}

async fn answer(harness: &Harness, asked: &Interaction, option: &str) {
    let answer = Answer::Option { option_id: option.into() };
    harness.engine.respond(&context("b"), None, &asked.interaction_id, answer).await.unwrap();
}

fn question(interaction: &Interaction) -> &gander_domain::interaction::PermissionQuestion {
    match &interaction.kind {
        InteractionKind::Permission(question) => question,
        other => panic!("{other:?}"),
    }
}

/// Loop test 1.
#[tokio::test]
async fn two_parallel_calls_one_fails_and_both_are_answered() {
    let calls = Script::new()
        .call("a", "developer__shell", r#"{"command":"echo fine"}"#)
        .call("b", "developer__read", r#"{"path":"no-such-file"}"#)
        .finish(ModelStop::ToolCalls);
    let harness = Harness::new([calls, Script::reply("ok")]).await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    let request = &harness.model.requests()[1];
    let results: Vec<_> = request
        .items
        .iter()
        .filter_map(|i| i.tool_call())
        .map(|c| (c.call_id.as_str(), c.result.as_ref().unwrap().outcome))
        .collect();
    assert_eq!(results, [("a", ToolOutcome::Ok), ("b", ToolOutcome::ToolError)]);
    assert_log_rules(&events);
    harness.finish().await;
}

/// Loop test 2.
#[tokio::test]
async fn arguments_cut_by_length_are_not_run_and_the_model_is_told() {
    let harness = Harness::new([half_a_call().finish(ModelStop::MaxOutputTokens), Script::reply("ok")]).await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    let log = golden_turn(&events);
    assert!(log.contains("item_completed call developer__shell Invalid InvalidArguments"), "{log}");
    assert!(!log.contains("Running") && log.ends_with("turn_ended Completed EndTurn"), "{log}");
    let request = &harness.model.requests()[1];
    let result = request.items.iter().find_map(|i| i.tool_call()?.result.clone()).unwrap();
    let text = result.parts[0].as_text().unwrap();
    assert!(result.is_error && text.contains("limit of output tokens"), "{text}");
    assert_log_rules(&events);
    harness.finish().await;
}

/// Loop test 3.
#[tokio::test]
async fn a_stream_cut_in_a_call_is_asked_for_again_once_nothing_ran() {
    let harness = Harness::new([half_a_call(), Script::reply("whole")]).await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    let log = golden_turn(&events);
    assert_eq!(
        log,
        "turn_started\n\
         item_completed user go\n\
         model_call_started\n\
         item_started call developer__shell StreamingArguments\n\
         arguments_delta {\"command\":\"touch ma\n\
         item_completed call incomplete developer__shell Cancelled\n\
         model_retry_scheduled\n\
         model_call_started\n\
         item_started agent\n\
         text_delta whole\n\
         item_completed agent whole\n\
         turn_ended Completed EndTurn"
    );
    assert_log_rules(&events);
    harness.finish().await;

    let harness = Harness::new([shell("a", "echo ran"), Script::new().text("cut")]).await;
    let session = harness.session().await;
    let log = golden_turn(&harness.run(&session, "go").await);
    assert!(!log.contains("model_retry_scheduled"), "a tool has run: {log}");
    assert!(log.ends_with("turn_ended Failed PROVIDER_STREAM_TRUNCATED"), "{log}");
    harness.finish().await;
}

/// Loop test 4.
#[tokio::test]
async fn a_provider_that_asks_for_a_pause_gets_it_from_all_sessions() {
    let pause = Duration::from_millis(400);
    let harness = Harness::new([limited(pause), Script::reply("a"), Script::reply("b")]).await;
    let (first, second) = (harness.session().await, harness.session().await);
    let began = Instant::now();
    let turn = harness.start(&first, "go").await;
    let scheduled = harness.until(&first, |e| matches!(e.payload, Payload::ModelRetryScheduled { .. })).await;
    let Payload::ModelRetryScheduled { delay_ms, error, attempt } = &scheduled.last().unwrap().payload else {
        unreachable!()
    };
    assert!((400..=440).contains(delay_ms), "{delay_ms}");
    assert_eq!((error.reason, *attempt), (ErrorReason::ProviderRateLimited, 1));
    let log = golden_turn(&harness.run(&second, "me too").await);
    assert!(began.elapsed() >= pause, "{:?}", began.elapsed());
    assert!(!log.contains("status_noted") && log.ends_with("turn_ended Completed EndTurn"), "{log}");
    harness.until_ended(&first, &turn).await;
    harness.finish().await;
}

#[tokio::test]
async fn a_pause_can_be_cancelled_and_has_an_end() {
    let harness = Harness::new([Script::reply("hello"), limited(Duration::from_secs(600))]).await;
    // One that is told to wait, and two that find the provider unwilling: with a question and with a summary.
    let (told, blocked, full) = (harness.session().await, harness.session().await, harness.session().await);
    harness.run(&full, "one").await;
    let first = harness.start(&told, "go").await;
    harness.until(&told, |e| matches!(e.payload, Payload::ModelRetryScheduled { .. })).await;
    let second = harness.start(&blocked, "me too").await;
    let waits =
        |e: &Event| matches!(&e.payload, Payload::StatusNoted { code, .. } if code == "provider_pause");
    harness.until(&blocked, waits).await;
    let third = harness.start(&full, "/compact").await;
    harness.until(&full, waits).await;
    for (session, turn_id) in [(&told, &first), (&blocked, &second), (&full, &third)] {
        let began = Instant::now();
        harness.engine.cancel_turn(&context("b"), session, CancelRequest::default()).await.unwrap();
        let events = harness.until_ended(session, turn_id).await;
        assert!(began.elapsed() < Duration::from_secs(1));
        assert!(golden_turn(&events).ends_with("turn_ended Cancelled"));
        assert_log_rules(&events);
    }
    assert_eq!(harness.model.requests().len(), 2, "a provider that wants no calls is not called");
    harness.finish().await;

    let harness = Harness::new([limited(Duration::from_secs(7200))]).await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    let Payload::TurnEnded { turn } = &events.last().unwrap().payload else { unreachable!() };
    let error = turn.error.as_ref().unwrap();
    assert_eq!(
        (error.reason, error.retry_after_ms),
        (ErrorReason::ProviderRateLimited, Some(7_200_000)),
        "too long to wait, so it is told"
    );
    harness.finish().await;
}

/// Loop test 5.
#[tokio::test]
async fn overflow_is_summarized_once_then_stops_clearly() {
    let full = || Script::error(ModelErrorClass::ContextExceeded, "prompt is too long");
    let harness = Harness::new([
        Script::reply("first answer"),
        full(),
        Script::reply("NOTES").usage(7, 3),
        Script::reply("went on"),
    ])
    .await;
    let session = harness.session().await;
    harness.run(&session, "first question").await;
    let events = harness.run(&session, "second question").await;
    let log = golden_turn(&events);
    assert!(
        log.ends_with(
            "item_completed user second question\n\
             model_call_started\n\
             status_noted\n\
             item_completed compaction\n\
             history_changed Compacted\n\
             usage_reported\n\
             model_call_started\n\
             item_started agent\n\
             text_delta went on\n\
             item_completed agent went on\n\
             turn_ended Completed EndTurn"
        ) || log.contains("history_changed Compacted\nmodel_call_started"),
        "{log}"
    );
    let requests = harness.model.requests();
    assert!(requests[2].system.contains("first question") && requests[2].system.contains("first answer"));
    assert!(requests[2].tools.is_empty());
    let after: Vec<_> = requests[3].items.iter().map(|i| i.text()).collect();
    assert!(after[0].starts_with("NOTES"), "{after:?}");
    assert!(after.iter().any(|t| t.contains("second question")), "{after:?}");
    assert!(!after.iter().any(|t| t.contains("first answer")), "{after:?}");
    // People still see everything.
    let shown = harness.engine.list_items(&session, crate::context::all_items()).await.unwrap().items;
    assert!(shown.iter().any(|i| i.text() == "first answer" && i.visibility.user && !i.visibility.model));
    assert_log_rules(&events);
    harness.finish().await;

    let harness = Harness::new([Script::reply("a"), full(), Script::reply("NOTES"), full()]).await;
    let session = harness.session().await;
    harness.run(&session, "one").await;
    let events = harness.run(&session, "two").await;
    let Payload::TurnEnded { turn } = &events.last().unwrap().payload else { unreachable!() };
    let error = turn.error.as_ref().unwrap();
    assert_eq!(error.reason, ErrorReason::ContextWindowExceeded);
    assert!(error.message.contains("even after it was summarized"), "{}", error.message);
    assert_eq!(harness.model.remaining(), 0);
    assert_log_rules(&events);
    harness.finish().await;
}

/// Loop test 6, third phase; the others are in `turns.rs`.
#[tokio::test]
async fn cancel_during_an_approval() {
    let harness = Harness::new([shell("a", "touch made")]).await;
    let session = harness.session_in(Mode::Approve).await;
    let turn_id = harness.start(&session, "go").await;
    questions(&harness, &session, 1).await;
    harness.engine.cancel_turn(&context("b"), &session, CancelRequest::default()).await.unwrap();
    let events = harness.until_ended(&session, &turn_id).await;
    let log = golden_turn(&events);
    assert!(
        log.ends_with(
            "turn_cancel_requested\n\
             interaction_resolved Voided\n\
             item_completed call incomplete developer__shell Cancelled Cancelled\n\
             turn_ended Cancelled"
        ),
        "{log}"
    );
    assert!(!harness.dir.path().join("work/made").exists());
    assert_log_rules(&events);
    harness.finish().await;
}

/// Loop test 7.
#[tokio::test]
async fn approvals_come_in_any_order_and_results_stand_in_that_of_the_calls() {
    let calls = Script::new()
        .call("a", "developer__shell", r#"{"command":"echo one"}"#)
        .call("b", "developer__shell", r#"{"command":"echo two"}"#)
        .finish(ModelStop::ToolCalls);
    let harness = Harness::new([calls, Script::reply("ok")]).await;
    let session = harness.session_in(Mode::Approve).await;
    let turn_id = harness.start(&session, "go").await;
    let asked = questions(&harness, &session, 2).await;
    let of = |id: &str| asked.iter().find(|i| question(i).tool_call.call_id == id).unwrap();
    answer(&harness, of("b"), "allow_once").await;
    harness
        .until(&session, |e| {
            matches!(&e.payload, Payload::ItemCompleted { item }
                if item.tool_call().is_some_and(|c| c.call_id == "b"))
        })
        .await;
    answer(&harness, of("a"), "allow_once").await;
    let events = harness.until_ended(&session, &turn_id).await;
    let order: Vec<_> = harness.model.requests()[1]
        .items
        .iter()
        .filter_map(|i| i.tool_call().map(|c| c.call_id.clone()))
        .collect();
    assert_eq!(order, ["a", "b"]);
    assert_log_rules(&events);
    harness.finish().await;
}

/// Loop test 8.
#[tokio::test]
async fn calls_of_a_response_run_at_once_up_to_a_bound() {
    let calls = ["a", "b", "c", "d", "e"]
        .iter()
        .fold(Script::new(), |script, id| script.call(id, "developer__shell", r#"{"command":"sleep 0.1"}"#));
    let harness =
        Harness::with_options([calls.finish(ModelStop::ToolCalls), Script::reply("done")], |options| {
            options.parallel_tools = 2;
        })
        .await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    let (mut running, mut most) = (0, 0);
    for event in &events {
        match &event.payload {
            Payload::ToolCallUpdated { call, .. } if call.status == ToolCallStatus::Running => running += 1,
            Payload::ItemCompleted { item } if item.tool_call().is_some() => running -= 1,
            _ => {}
        }
        most = most.max(running);
    }
    assert_eq!((most, running), (2, 0), "{}", golden_turn(&events));
    let results = &harness.model.requests()[1].items;
    let ids: Vec<_> = results.iter().filter_map(|i| i.tool_call().map(|c| c.call_id.as_str())).collect();
    assert_eq!(ids, ["a", "b", "c", "d", "e"], "in the order of the calls");
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn the_same_call_three_times_is_a_question() {
    let same = |id: &str| shell(id, "echo same");
    let harness = Harness::new([same("1"), same("2"), same("3"), same("4"), Script::reply("ok")]).await;
    let session = harness.session().await;
    let turn_id = harness.start(&session, "go").await;
    let asked = questions(&harness, &session, 1).await;
    let asked_about = question(&asked[0]);
    assert_eq!(asked_about.reason, PermissionReason::Repetition);
    assert_eq!(asked_about.tool_call.call_id, "3");
    let options: Vec<_> = asked_about.options.iter().map(|o| o.option_id.as_str()).collect();
    assert_eq!(options, ["allow_once", "deny_once"], "a rule would not help");
    answer(&harness, &asked[0], "allow_once").await;
    let events = harness.until_ended(&session, &turn_id).await;
    let count = events.iter().filter(|e| matches!(e.payload, Payload::InteractionRequested { .. })).count();
    assert_eq!(count, 1, "the count began anew with the answer");
    assert_log_rules(&events);
    harness.finish().await;

    // Where nobody looks on, the model is told.
    let harness = Harness::new([same("1"), same("2"), same("3"), Script::reply("ok")]).await;
    let new = NewSession { kind: SessionKind::Scheduled, ..harness.new_session() };
    let session = harness.engine.create_session(&context("a"), new).await.unwrap().value.session_id;
    let log = golden_turn(&harness.run(&session, "go").await);
    assert!(log.contains("developer__shell Declined") && !log.contains("interaction_requested"), "{log}");
    harness.finish().await;

    // Other results mean that something is going on.
    let grows = |id: &str| shell(id, "echo x >> f; cat f");
    let harness = Harness::new([grows("1"), grows("2"), grows("3"), Script::reply("ok")]).await;
    let session = harness.session().await;
    let log = golden_turn(&harness.run(&session, "go").await);
    assert!(!log.contains("interaction_requested"), "{log}");
    harness.finish().await;
}

fn camera() -> ToolDefinition {
    ToolDefinition {
        name: "camera__shoot".into(),
        extension_name: "camera".into(),
        tool_name: "shoot".into(),
        title: None,
        description: "Takes a picture".into(),
        input_schema_json: r#"{"type":"object"}"#.into(),
        output_schema_json: None,
        annotations: ToolAnnotations::default(),
        icons_json: None,
        meta_json: None,
        visibility: ToolVisibility::default(),
        definition_hash: String::new(),
        quarantined: false,
        trusted: false,
    }
}

/// Loop test 9: how each vendor is told is tested where the vendors are.
#[tokio::test]
async fn an_image_in_a_result_reaches_the_model_whole() {
    let harness = Harness::new([Script::one_call("c", "camera__shoot", "{}"), Script::reply("nice")]).await;
    let session = harness.session().await;
    let tools = HostCapabilities { tools: vec![camera()], ..HostCapabilities::default() };
    let mut host = harness.engine.attach_host(&session, tools).await.unwrap();
    let turn_id = harness.start(&session, "look").await;
    let call = tokio::time::timeout(PATIENCE, host.calls.recv()).await.unwrap().unwrap();
    // Too large for an event: it is stored beside the log.
    let picture = Blob(vec![7; 300 * 1024]);
    let mut result = ToolResult::failed(ToolOutcome::Ok, gander_domain::ErrorDetail::internal(String::new()));
    (result.is_error, result.error) = (false, None);
    result.parts = vec![Part::new(PartBody::Image {
        data: Data::Inline(picture.clone()),
        mime_type: "image/png".into(),
    })];
    let done = HostCallOutcome::Tool(result);
    harness.engine.complete_host_call(&call.host_call_id, done).await.unwrap();
    let events = harness.until_ended(&session, &turn_id).await;
    let stored = events.iter().find_map(|e| match &e.payload {
        Payload::ItemCompleted { item } => item.tool_call()?.result.clone(),
        _ => None,
    });
    assert!(matches!(&stored.unwrap().parts[0].body, PartBody::Image { data: Data::Content(_), .. }));
    let told = harness.model.requests()[1].items.iter().find_map(|i| i.tool_call()?.result.clone()).unwrap();
    assert!(matches!(&told.parts[0].body, PartBody::Image { data: Data::Inline(b), .. } if *b == picture));
    assert_log_rules(&events);
    drop(host);
    harness.finish().await;
}

/// Loop test 10.
#[tokio::test]
async fn signatures_of_thoughts_survive_a_restart() {
    let state = r#"{"provider":"scripted","blocks":[{"k":"ü\u0000 1.0"}]}"#;
    let thinks = Script::new()
        .event(ModelEvent::ThoughtDelta("so ".into()))
        .event(ModelEvent::ThoughtDelta("then".into()))
        .event(ModelEvent::ThoughtCompleted {
            signature: Some("sig==".into()),
            redacted_data: None,
            provider_state_json: Some(state.into()),
        })
        .text("answer")
        .finish(ModelStop::EndTurn);
    let harness = Harness::new([thinks]).await;
    let session = harness.session().await;
    harness.run(&session, "go").await;
    harness.engine.drain(Duration::ZERO).await;
    harness.engine.close().await;
    let model = Arc::new(ScriptedProvider::new([Script::reply("more")]));
    let engine = start_in(harness.dir.path(), model.clone()).await;
    let started = engine.start_turn(&context("a"), &session, turn("again")).await.unwrap();
    let id = started.turn.turn_id;
    let mut cursor = engine.watch(&session, Some(0)).await.unwrap();
    let ended = async {
        loop {
            if let gander_engine::WatchStep::Events(events) = cursor.next().await.unwrap()
                && events
                    .iter()
                    .any(|e| matches!(&e.payload, Payload::TurnEnded { turn } if turn.turn_id == id))
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    let request = &model.requests()[0];
    let thought = request.items.iter().find(|i| matches!(i.body, ItemBody::Thought(_))).unwrap();
    assert_eq!(thought.provider_state_json.as_deref(), Some(state), "byte for byte");
    assert_eq!(
        thought.body,
        ItemBody::Thought(Thought {
            text: "so then".into(),
            signature: Some("sig==".into()),
            redacted_data: None
        })
    );
    engine.drain(Duration::ZERO).await;
    engine.close().await;
}

/// Loop test 11, the engine's part: every item says which model made it, and calls keep their ids.
#[tokio::test]
async fn items_name_their_model_when_it_is_switched() {
    let harness =
        Harness::new([shell("call.with/odd chars", "echo x"), Script::reply("a"), Script::reply("b")]).await;
    let session = harness.session().await;
    harness.run(&session, "one").await;
    harness.engine.set_session_option(&context("a"), &session, "model", "scripted-2").await.unwrap();
    harness.run(&session, "two").await;
    let request = &harness.model.requests()[2];
    assert_eq!(request.model_id, "scripted-2");
    let made: Vec<_> = request.items.iter().filter_map(|i| i.model_id.as_deref()).collect();
    assert_eq!(made, ["scripted-1", "scripted-1"]);
    let call = request.items.iter().find_map(|i| i.tool_call()).unwrap();
    assert_eq!(call.call_id, "call.with/odd chars", "the model layer makes it fit each vendor");
    harness.finish().await;
}

/// The thought level is a setting of sessions whose model can choose, and goes with the calls.
#[tokio::test]
async fn the_thought_level_is_chosen_where_the_model_can() {
    let harness =
        Harness::new([Script::reply("a"), Script::reply("b"), Script::reply("c"), Script::reply("d")]).await;
    let (session, by) = (harness.session().await, context("a"));
    let engine = &harness.engine;
    let set = async |id: &str, value: &str| {
        let options = engine.set_session_option(&by, &session, id, value).await?.value;
        let level = options.iter().find(|o| o.category == "thought_level").map(|o| o.value.clone());
        Ok::<_, gander_domain::ErrorDetail>(level)
    };
    let refused = set("thought_level", "high").await.unwrap_err();
    assert!(refused.message.contains("mode, model, provider"), "{}", refused.message);
    harness.run(&session, "one").await;
    assert_eq!(set("model", "deep-thinking").await.unwrap().as_deref(), Some("default"));
    assert_eq!(set("thought_level", "high").await.unwrap().as_deref(), Some("high"));
    let events = harness.run(&session, "two").await;
    let announced = engine.session_options(&session).await.unwrap();
    let ids: Vec<_> = announced.iter().map(|o| o.option_id.as_str()).collect();
    assert_eq!(ids, ["mode", "model", "thought_level", "provider"]);
    let called = events.iter().rev().find_map(|event| match &event.payload {
        Payload::ModelCallStarted { model, .. } => Some(model.thought_level),
        _ => None,
    });
    assert_eq!(called, Some(Some(ThoughtLevel::High)));
    // It stays with the next model that can choose, and is gone with one that cannot.
    assert_eq!(set("model", "deeper-thinking").await.unwrap().as_deref(), Some("high"));
    harness.run(&session, "three").await;
    let wrong = set("thought_level", "a lot").await.unwrap_err();
    assert!(wrong.message.contains("default, off, low, medium, high, max"), "{}", wrong.message);
    assert_eq!(set("model", "scripted-1").await.unwrap(), None);
    harness.run(&session, "four").await;
    assert_eq!(set("model", "deep-thinking").await.unwrap().as_deref(), Some("default"));
    let levels: Vec<_> = harness.model.requests().iter().map(|request| request.thought_level).collect();
    assert_eq!(levels, [None, Some(ThoughtLevel::High), Some(ThoughtLevel::High), None]);
    harness.finish().await;
}

/// Loop test 12 is `recovery.rs`; loop test 13: nothing that is known as a secret gets into the log.
#[tokio::test]
async fn secrets_stay_out_of_the_log_wherever_they_come_from() {
    let key = "sup3r-secret-va1ue";
    let harness = Harness::new([
        shell("a", "cat key.txt; printf 'sup3r-sec'; sleep 0.2; echo 'ret-va1ue'; cat key.txt >&2"),
        Script::error(ModelErrorClass::Auth, &format!("key {key} is not valid")),
    ])
    .await;
    harness.engine.config().set_secret("SOME_API_KEY", key).unwrap();
    std::fs::write(harness.dir.path().join("work/key.txt"), format!("the key: {key}\n")).unwrap();
    std::fs::write(harness.dir.path().join("work/AGENTS.md"), format!("use {key}\n")).unwrap();
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    let log = serde_json::to_string(&events.iter().map(|e| &**e).collect::<Vec<_>>()).unwrap();
    assert!(!log.contains(key), "{log}");
    assert!(log.contains("[redacted]"), "{log}");
    for request in harness.model.requests() {
        assert!(!format!("{request:?}").contains(key), "the model is not told either");
    }
    let Payload::TurnEnded { turn } = &events.last().unwrap().payload else { unreachable!() };
    assert_eq!(turn.state, TurnState::Failed);
    assert!(turn.error.as_ref().unwrap().message.contains("key [redacted] is not valid"));
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn long_outputs_go_to_a_file_that_the_model_can_read_and_that_goes_with_the_session() {
    let harness = Harness::new([]).await;
    harness.engine.config().set("GOOSE_MAX_TOOL_RESPONSE_SIZE", &serde_json::json!(2_000)).unwrap();
    let session = harness.session().await;
    harness.model.push(shell("a", "seq 1 2000"));
    harness.model.push(Script::reply("ok"));
    let events = harness.run(&session, "go").await;
    let result =
        harness.model.requests()[1].items.iter().find_map(|i| i.tool_call()?.result.clone()).unwrap();
    let text = result.parts[0].as_text().unwrap();
    let dir = harness.dir.path().join("data/sessions").join(session.as_str());
    assert!(text.starts_with("1\n2\n") && text.contains("2000\n"), "{text}");
    assert!(text.contains(dir.join("tool-output").to_str().unwrap()), "{text}");
    let path = text.split("is in the file ").nth(1).unwrap().split(". Read").next().unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 2_000);
    let arguments = serde_json::json!({ "path": path, "limit": 3 }).to_string();
    harness.model.push(Script::one_call("b", "developer__read", &arguments));
    harness.model.push(Script::reply("ok"));
    let more = harness.run(&session, "read it").await;
    let read = more.iter().rev().find_map(|e| match &e.payload {
        Payload::ItemCompleted { item } => item.tool_call().cloned(),
        _ => None,
    });
    assert_eq!(read.unwrap().status, ToolCallStatus::Completed, "the model's tools may read it");
    assert_log_rules(&events);
    harness.engine.delete_session(&context("a"), &session, false).await.unwrap();
    assert!(!dir.exists());
    harness.finish().await;
}

#[tokio::test]
async fn denying_with_cancel_ends_the_turn_and_the_other_questions() {
    let calls = Script::new()
        .call("a", "developer__shell", r#"{"command":"echo one"}"#)
        .call("b", "developer__shell", r#"{"command":"echo two"}"#)
        .finish(ModelStop::ToolCalls);
    let harness = Harness::new([calls]).await;
    let session = harness.session_in(Mode::Approve).await;
    let turn_id = harness.start(&session, "go").await;
    let asked = questions(&harness, &session, 2).await;
    let cancel = Answer::Decision {
        kind: gander_domain::interaction::DecisionKind::Cancel,
        remember_scope: gander_domain::permission::RememberScope::Once,
        comment: None,
    };
    harness.engine.respond(&context("b"), None, &asked[0].interaction_id, cancel).await.unwrap();
    let events = harness.until_ended(&session, &turn_id).await;
    assert!(golden_turn(&events).ends_with("turn_ended Cancelled"));
    assert_log_rules(&events);
    harness.finish().await;
}
