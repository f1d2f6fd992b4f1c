//! Turns: golden logs, bounds, retries, queue, steering, cancel.

use std::time::{Duration, Instant};

use gander_domain::{
    ErrorReason, Payload,
    item::ToolCallStatus,
    session::Mode,
    turn::{TurnLimits, TurnState},
};
use gander_engine::{CancelRequest, StartTurn, SteerTurn};
use gander_model::{
    ModelError, ModelErrorClass, ModelStop,
    testing::{Gate, Script},
};

use crate::harness::{Harness, PATIENCE, assert_log_rules, context, golden_turn, turn, turn_id};

#[tokio::test]
async fn a_reply_is_streamed_into_the_log() {
    let script =
        Script::new().thought("hm").text("Hello ").text("you").usage(10, 2).finish(ModelStop::EndTurn);
    let harness = Harness::new([script]).await;
    let session = harness.session().await;
    let events = harness.run(&session, "hi").await;
    assert_eq!(
        golden_turn(&events),
        "turn_started\n\
         item_completed user hi\n\
         model_call_started\n\
         item_started thought\n\
         thought_delta hm\n\
         item_completed thought hm\n\
         item_started agent\n\
         text_delta Hello you\n\
         item_completed agent Hello you\n\
         usage_reported\n\
         turn_ended Completed EndTurn"
    );
    assert_log_rules(&events);
    let read = harness.engine.get_session(&session).await.unwrap();
    assert_eq!((read.title.as_str(), read.message_count), ("hi", 2));
    assert_eq!(read.usage.totals.total_tokens, Some(12));
    harness.finish().await;
}

#[tokio::test]
async fn a_tool_call_runs_and_its_result_reaches_the_model() {
    let harness = Harness::new([
        Script::one_call("c1", "developer__shell", r#"{"command":"echo out; echo err >&2"}"#),
        Script::reply("done"),
    ])
    .await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    let log = golden_turn(&events);
    let expected_head = "turn_started\n\
         item_completed user go\n\
         model_call_started\n\
         item_started call developer__shell StreamingArguments\n\
         arguments_delta {\"command\":\"echo out; echo err >&2\"}\n\
         tool_call_updated developer__shell Pending\n\
         tool_call_updated developer__shell Running\n\
         tool_output_delta ";
    assert!(log.starts_with(expected_head), "{log}");
    assert!(
        log.ends_with(
            "item_completed call developer__shell Completed Ok\n\
             model_call_started\n\
             item_started agent\n\
             text_delta done\n\
             item_completed agent done\n\
             turn_ended Completed EndTurn"
        ),
        "{log}"
    );
    let request = &harness.model.requests()[1];
    let result = request.items.iter().find_map(|i| i.tool_call()?.result.clone()).unwrap();
    assert!(result.parts[0].as_text().unwrap().contains("out"), "{result:?}");
    assert!(request.system.contains(&harness.work()), "{}", request.system);
    harness.finish().await;
}

#[tokio::test]
async fn parallel_calls_each_get_their_result() {
    let calls = Script::new()
        .call("a", "developer__shell", r#"{"command":"echo one"}"#)
        .call("b", "no_such_tool", "{}")
        .call("c", "developer__shell", "not json")
        .finish(ModelStop::ToolCalls);
    let harness = Harness::new([calls, Script::reply("ok")]).await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    let mut outcomes: Vec<_> = events
        .iter()
        .filter_map(|e| match &e.payload {
            Payload::ItemCompleted { item } => item.tool_call().map(|c| (c.call_id.clone(), c.status)),
            _ => None,
        })
        .collect();
    outcomes.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        outcomes,
        [
            ("a".into(), ToolCallStatus::Completed),
            ("b".into(), ToolCallStatus::Failed),
            ("c".into(), ToolCallStatus::Invalid)
        ]
    );
    let request = &harness.model.requests()[1];
    let order: Vec<_> =
        request.items.iter().filter_map(|i| i.tool_call().map(|c| c.call_id.clone())).collect();
    assert_eq!(order, ["a", "b", "c"], "results stand in call order");
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn failures_end_the_turn_once_and_transient_ones_are_retried() {
    let overloaded = |text: &str| ModelError {
        status: Some(503),
        retry_after: Some(Duration::from_millis(1)),
        ..ModelError::new(ModelErrorClass::Overloaded, text)
    };
    let harness = Harness::new([
        Script::new().text("half").fail(overloaded("busy")),
        Script::reply("whole"),
        Script::error(ModelErrorClass::Auth, "bad key"),
    ])
    .await;
    let session = harness.session().await;
    let events = harness.run(&session, "first").await;
    assert_eq!(
        golden_turn(&events),
        "turn_started\n\
         item_completed user first\n\
         model_call_started\n\
         item_started agent\n\
         text_delta half\n\
         item_completed agent incomplete half\n\
         model_retry_scheduled\n\
         model_call_started\n\
         item_started agent\n\
         text_delta whole\n\
         item_completed agent whole\n\
         turn_ended Completed EndTurn"
    );
    let retried = &harness.model.requests()[1];
    assert!(!retried.items.iter().any(|i| i.text() == "half"), "the model does not see what broke off");
    let events = harness.run(&session, "second").await;
    assert!(golden_turn(&events).ends_with("turn_ended Failed PROVIDER_UNAUTHENTICATED"));
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn a_stream_without_an_end_is_truncated() {
    let harness = Harness::new((0..5).map(|_| Script::new().text("cut"))).await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    assert!(golden_turn(&events).ends_with("turn_ended Failed PROVIDER_STREAM_TRUNCATED"));
    harness.finish().await;
}

#[tokio::test]
async fn limits_stop_a_turn() {
    let call = || Script::one_call("c", "developer__list", "{}");
    let harness = Harness::new([call(), call(), call().usage(100, 100)]).await;
    let session = harness.session().await;
    let limited = |limits| StartTurn { limits, ..turn("go") };
    let start = limited(TurnLimits { max_model_calls: Some(2), ..TurnLimits::default() });
    let started = harness.engine.start_turn(&context("a"), &session, start).await.unwrap();
    let events = harness.until_ended(&session, &started.turn.turn_id).await;
    assert!(golden_turn(&events).ends_with("turn_ended Completed MaxModelCalls"));
    let hang = Script::new().text("x").hang();
    let harness2 = Harness::new([hang]).await;
    let session2 = harness2.session().await;
    let start = limited(TurnLimits { max_duration_ms: Some(50), ..TurnLimits::default() });
    let started = harness2.engine.start_turn(&context("a"), &session2, start).await.unwrap();
    let events = harness2.until_ended(&session2, &started.turn.turn_id).await;
    assert!(golden_turn(&events).ends_with("item_completed agent incomplete x\nturn_ended Completed Budget"));
    harness.finish().await;
    harness2.finish().await;
}

#[tokio::test]
async fn a_second_turn_is_refused_or_queued() {
    let gate = Gate::new();
    let harness =
        Harness::new([Script::new().text("1").gate(&gate).finish(ModelStop::EndTurn), Script::reply("2")])
            .await;
    let session = harness.session().await;
    let first = harness.start(&session, "one").await;
    gate.reached().await;
    let refused = harness.engine.start_turn(&context("b"), &session, turn("two")).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::TurnAlreadyRunning);
    assert_eq!(refused.metadata["activeTurnId"], first.as_str());
    let queued = StartTurn { queue_when_busy: true, ..turn("two") };
    let second = harness.engine.start_turn(&context("b"), &session, queued).await.unwrap();
    assert_eq!((second.turn.state, second.queue_position), (TurnState::Queued, Some(1)));
    let third = StartTurn { queue_when_busy: true, ..turn("three") };
    let third = harness.engine.start_turn(&context("b"), &session, third).await.unwrap();
    let cancel = CancelRequest { turn_id: Some(third.turn.turn_id.clone()), allow_missing: false };
    let cancelled = harness.engine.cancel_turn(&context("b"), &session, cancel).await.unwrap();
    assert_eq!(cancelled.value.unwrap().state, TurnState::Cancelled, "a queued turn is cancelled at once");
    gate.release();
    let events = harness.until_ended(&session, &second.turn.turn_id).await;
    assert_log_rules(&events);
    assert_eq!(harness.engine.list_turns(&session, vec![TurnState::Completed]).await.unwrap().len(), 2);
    harness.finish().await;
}

#[tokio::test]
async fn a_turn_id_has_one_effect() {
    let harness = Harness::new([Script::reply("once")]).await;
    let session = harness.session().await;
    let start = || StartTurn { turn_id: turn_id("t-1"), ..turn("go") };
    let first = harness.engine.start_turn(&context("a"), &session, start()).await.unwrap();
    let again = harness.engine.start_turn(&context("a"), &session, start()).await.unwrap();
    assert_eq!((first.existed, again.existed, first.sequence), (false, true, again.sequence));
    let other = StartTurn { turn_id: turn_id("t-1"), ..turn("something else") };
    let reused = harness.engine.start_turn(&context("a"), &session, other).await.unwrap_err();
    assert_eq!(reused.reason, ErrorReason::TurnIdReused);
    harness.until_ended(&session, &first.turn.turn_id).await;
    assert!(harness.engine.unload_session(&session).await.unwrap());
    let after = harness.engine.start_turn(&context("a"), &session, start()).await.unwrap();
    assert!(after.existed, "also after the session came back from the log");
    assert_eq!(harness.model.requests().len(), 1);
    harness.finish().await;
}

#[tokio::test]
async fn steering_reaches_the_next_model_call() {
    let gate = Gate::new();
    let harness =
        Harness::new([Script::new().text("1").gate(&gate).finish(ModelStop::EndTurn), Script::reply("2")])
            .await;
    let session = harness.session().await;
    let steer = || SteerTurn { input: vec![gander_domain::Part::text("also this")], ..SteerTurn::default() };
    let refused = harness.engine.steer_turn(&context("b"), &session, steer()).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::TurnNotRunning);
    let turn_id = harness.start(&session, "one").await;
    gate.reached().await;
    harness.engine.steer_turn(&context("b"), &session, steer()).await.unwrap();
    gate.release();
    let events = harness.until_ended(&session, &turn_id).await;
    assert!(harness.model.requests()[1].items.iter().any(|i| i.text() == "also this"));
    assert_log_rules(&events);
    harness.finish().await;
}

async fn cancel_and_wait(harness: &Harness, session: &gander_domain::SessionId) -> String {
    let started = Instant::now();
    let turn = harness.engine.get_session(session).await.unwrap().active_turn_id.unwrap();
    harness.engine.cancel_turn(&context("b"), session, CancelRequest::default()).await.unwrap();
    let events = harness.until_ended(session, &turn).await;
    assert!(started.elapsed() < Duration::from_secs(1), "the turn took {:?} to end", started.elapsed());
    assert_log_rules(&events);
    golden_turn(&events)
}

#[tokio::test]
async fn cancel_during_the_model_stream_keeps_what_came() {
    let gate = Gate::new();
    let harness = Harness::new([Script::new().text("kept").gate(&gate).hang()]).await;
    let session = harness.session().await;
    harness.start(&session, "go").await;
    gate.reached().await;
    let log = cancel_and_wait(&harness, &session).await;
    assert!(
        log.ends_with("turn_cancel_requested\nitem_completed agent incomplete kept\nturn_ended Cancelled"),
        "{log}"
    );
    assert_eq!(harness.model.dropped_streams(), 1);
    harness.finish().await;
}

#[tokio::test]
async fn cancel_during_a_tool_kills_its_whole_tree() {
    let harness = Harness::new([Script::one_call(
        "c",
        "developer__shell",
        r#"{"command":"echo begun; sleep 1000 & echo $! > pids; sh -c 'sleep 1000 & echo $! >> pids; wait' & echo ready; wait"}"#,
    )])
    .await;
    let session = harness.session().await;
    harness.start(&session, "go").await;
    harness
        .until(
            &session,
            |e| matches!(&e.payload, Payload::ToolOutputDelta { text, .. } if text.contains("ready")),
        )
        .await;
    let log = cancel_and_wait(&harness, &session).await;
    assert!(log.contains("item_completed call incomplete developer__shell Cancelled Cancelled"), "{log}");
    let pids = std::fs::read_to_string(harness.dir.path().join("work/pids")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    for pid in pids.lines() {
        let alive = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
        };
        while alive() {
            assert!(Instant::now() < deadline, "process {pid} survived the cancel");
            tokio::task::yield_now().await;
        }
    }
    let turns = harness
        .engine
        .list_items(
            &session,
            gander_engine::ItemsQuery { max_items: 100, max_bytes: 1 << 20, ..Default::default() },
        )
        .await
        .unwrap();
    let result = turns.items.iter().find_map(|i| i.tool_call()?.result.clone()).unwrap();
    assert!(
        gander_domain::content::join_text(&result.parts).contains("begun"),
        "what was produced is kept: {result:?}"
    );
    harness.finish().await;
}

#[tokio::test]
async fn cancel_during_a_question_voids_it() {
    let harness = Harness::new([Script::one_call("c", "developer__shell", r#"{"command":"true"}"#)]).await;
    let session = harness.session_in(Mode::Approve).await;
    harness.start(&session, "go").await;
    harness.until(&session, |e| matches!(e.payload, Payload::InteractionRequested { .. })).await;
    let log = cancel_and_wait(&harness, &session).await;
    assert!(
        log.ends_with(
            "turn_cancel_requested\n\
             interaction_resolved Voided\n\
             item_completed call incomplete developer__shell Cancelled Cancelled\n\
             turn_ended Cancelled"
        ),
        "{log}"
    );
    harness.finish().await;
}

#[tokio::test]
async fn chat_mode_offers_no_tools() {
    let harness = Harness::new([Script::reply("words")]).await;
    let session = harness.session_in(Mode::Chat).await;
    harness.run(&session, "go").await;
    assert!(harness.model.requests()[0].tools.is_empty());
    harness.finish().await;
}
