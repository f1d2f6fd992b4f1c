//! What turns may use: the budget holds for their sub-agents and their judge as well.

use gander_domain::{
    Event, Payload, Usage,
    interaction::{Answer, InteractionKind},
    item::ToolOutcome,
    session::Mode,
    turn::TurnLimits,
    usage::{Cost, CostSource, UsagePurpose},
};
use gander_engine::{CancelRequest, InteractionFilter, StartTurn};
use gander_model::{
    ModelEvent, ModelStop,
    testing::{Gate, Script},
};
use serde_json::json;

use crate::harness::{Harness, assert_log_rules, context, golden_turn, turn};

/// What a call costs: tokens, the output one of them, and micros.
fn paid(script: Script, tokens: u64, micros: i64, stop: ModelStop) -> Script {
    let usage = Usage {
        input_tokens: Some(tokens - 1),
        output_tokens: Some(1),
        total_tokens: Some(tokens),
        ..Usage::default()
    };
    let cost = Cost { amount_micros: micros, currency: "USD".into(), source: CostSource::Provider };
    script.event(ModelEvent::Usage { usage, cost: Some(cost) }).finish(stop)
}

fn delegate(ids: &[&str]) -> Script {
    let call = |script: Script, id: &&str| {
        script.call(id, "delegate", &json!({ "instructions": format!("task {id}") }).to_string())
    };
    ids.iter().fold(Script::new(), call)
}

fn shell(id: &str) -> Script {
    Script::new().call(id, "developer__shell", r#"{"command":"true"}"#)
}

fn purposes(events: &[std::sync::Arc<Event>]) -> Vec<UsagePurpose> {
    let of = |e: &std::sync::Arc<Event>| match &e.payload {
        Payload::UsageReported(r) => Some(r.purpose),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

async fn run(harness: &Harness, mode: Mode, limits: TurnLimits) -> Vec<std::sync::Arc<Event>> {
    let session = harness.session_in(mode).await;
    let start = StartTurn { limits, ..turn("go") };
    let started = harness.engine.start_turn(&context("a"), &session, start).await.unwrap();
    harness.until_ended(&session, &started.turn.turn_id).await
}

fn money(max: i64) -> TurnLimits {
    TurnLimits { max_cost_micros: Some(max), ..TurnLimits::default() }
}

#[tokio::test]
async fn what_a_sub_agent_used_is_in_its_parents_totals() {
    let harness = Harness::new([
        paid(delegate(&["d"]), 10, 100, ModelStop::ToolCalls),
        paid(shell("s"), 50, 20, ModelStop::ToolCalls),
        paid(Script::new().text("did it"), 70, 30, ModelStop::EndTurn),
        paid(Script::new().text("done"), 20, 200, ModelStop::EndTurn),
    ])
    .await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    use UsagePurpose::{Subagent, Turn};
    assert_eq!(purposes(&events), [Turn, Subagent, Subagent, Turn]);
    let read = harness.engine.get_session(&session).await.unwrap();
    assert_eq!(read.usage.totals.total_tokens, Some(150));
    assert_eq!(read.usage.cost_totals.unwrap().amount_micros, 350);
    assert_eq!(read.usage.last_call.total_tokens, Some(20), "a sub-agent's call is not the parent's");
    assert_eq!(read.context_used_tokens, Some(20), "nor is its context");
    let Payload::TurnEnded { turn } = &events.last().unwrap().payload else { panic!() };
    assert_eq!(turn.usage.total_tokens, Some(150));
    let child = events.iter().find_map(|e| match &e.payload {
        Payload::ToolCallUpdated { call, .. } => call.child_session_id.clone(),
        _ => None,
    });
    let child = harness.engine.get_session(&child.unwrap()).await.unwrap();
    assert_eq!(child.usage.totals.total_tokens, Some(120));
    let stats = harness.engine.session_stats().await.unwrap();
    assert_eq!((stats.session_count, stats.total_tokens), (2, 150), "counted once");
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn a_sub_agent_spends_its_parents_budget() {
    let harness = Harness::new([
        paid(delegate(&["d"]), 10, 100, ModelStop::ToolCalls),
        paid(Script::new().text("an answer"), 70, 950, ModelStop::EndTurn),
    ])
    .await;
    let events = run(&harness, Mode::Auto, money(1_000)).await;
    let log = golden_turn(&events);
    assert!(log.contains("item_completed call delegate Completed Ok"), "its answer was paid for: {log}");
    assert!(log.ends_with("turn_ended Completed Budget"), "{log}");
    harness.finish().await;
}

#[tokio::test]
async fn sub_agents_that_work_at_once_share_what_is_left() {
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let [first, second, third] = &gates;
    let harness = Harness::new([
        delegate(&["a", "b"]).finish(ModelStop::ToolCalls),
        paid(shell("s").gate(first), 10, 600, ModelStop::ToolCalls),
        paid(shell("s").gate(second), 10, 600, ModelStop::ToolCalls),
        Script::new().gate(third).text("in time").finish(ModelStop::EndTurn),
        Script::new().hang(),
    ])
    .await;
    let session = harness.session().await;
    let start = StartTurn { limits: money(1_000), ..turn("go") };
    let started = harness.engine.start_turn(&context("a"), &session, start).await.unwrap();
    first.reached().await;
    second.reached().await;
    first.release();
    third.reached().await;
    second.release();
    let stopped = |e: &Event| match &e.payload {
        Payload::ItemCompleted { item } => {
            let result = item.tool_call().and_then(|c| c.result.as_ref());
            result.and_then(|r| r.error.as_ref()).is_some_and(|e| e.message.contains("budget is spent"))
        }
        _ => false,
    };
    harness.until(&session, stopped).await;
    third.release();
    let events = harness.until_ended(&session, &started.turn.turn_id).await;
    let log = golden_turn(&events);
    assert!(log.contains("item_completed call delegate Completed Ok"), "{log}");
    assert!(log.ends_with("turn_ended Completed Budget"), "{log}");
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn the_judge_is_paid_from_the_same_budget() {
    let harness = Harness::new([
        paid(shell("s"), 10, 100, ModelStop::ToolCalls),
        paid(Script::new().text("read_only"), 10, 950, ModelStop::EndTurn),
    ])
    .await;
    harness.engine.config().set("gander.permission_judge", &json!(true)).unwrap();
    let events = run(&harness, Mode::SmartApprove, money(1_000)).await;
    let log = golden_turn(&events);
    assert!(log.contains("item_completed call developer__shell Completed Ok"), "{log}");
    assert!(log.ends_with("turn_ended Completed Budget"), "{log}");
    assert_eq!(purposes(&events), [UsagePurpose::Turn, UsagePurpose::Judge]);
    harness.finish().await;
}

#[tokio::test]
async fn a_running_call_keeps_its_output_when_another_waits_for_an_answer() {
    let calls = Script::new()
        .call("a", "developer__shell", r#"{"command":"echo kept; sleep 30"}"#)
        .call("b", "developer__shell", r#"{"command":"true"}"#)
        .finish(ModelStop::ToolCalls);
    let harness = Harness::new([calls]).await;
    let session = harness.session_in(Mode::Approve).await;
    let turn_id = harness.start(&session, "go").await;
    let asked = std::cell::Cell::new(0);
    harness
        .until(&session, |e| {
            asked.set(asked.get() + usize::from(matches!(e.payload, Payload::InteractionRequested { .. })));
            asked.get() == 2
        })
        .await;
    let open = harness.engine.list_interactions(InteractionFilter::default()).await.unwrap();
    let slow = open.iter().map(|(_, i)| i).find(|i| match &i.kind {
        InteractionKind::Permission(question) => question.tool_call.arguments_json.contains("kept"),
        _ => false,
    });
    let answer = Answer::Option { option_id: "allow_once".into() };
    let id = &slow.unwrap().interaction_id;
    harness.engine.respond(&context("b"), Some(&session), id, answer).await.unwrap();
    let says =
        |e: &Event| matches!(&e.payload, Payload::ToolOutputDelta { text, .. } if text.contains("kept"));
    harness.until(&session, says).await;
    let began = std::time::Instant::now();
    harness.engine.cancel_turn(&context("b"), &session, CancelRequest::default()).await.unwrap();
    let events = harness.until_ended(&session, &turn_id).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(1));
    let kept = events.iter().any(|e| match &e.payload {
        Payload::ItemCompleted { item } => {
            let result = item.tool_call().and_then(|c| c.result.as_ref());
            result.is_some_and(|r| r.parts.iter().any(|p| p.as_text().is_some_and(|t| t.contains("kept"))))
        }
        _ => false,
    });
    assert!(kept, "{}", golden_turn(&events));
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn at_the_time_limit_calls_say_what_they_had_and_sub_agents_end() {
    let command = r#"{"command":"echo begun; exec sleep 600"}"#;
    let both = Script::new().call("s", "developer__shell", command);
    let both = both.call("d", "delegate", r#"{"instructions":"wait"}"#).finish(ModelStop::ToolCalls);
    let harness = Harness::new([both, Script::new().text("thinking").hang()]).await;
    // Long enough for the shell to begin on a busy machine.
    let limits = TurnLimits { max_duration_ms: Some(3_000), ..TurnLimits::default() };
    let events = run(&harness, Mode::Auto, limits).await;
    assert!(golden_turn(&events).ends_with("turn_ended Completed Budget"), "{}", golden_turn(&events));
    let calls: Vec<_> = events
        .iter()
        .filter_map(|e| match &e.payload {
            Payload::ItemCompleted { item } => item.tool_call().map(|call| (item.incomplete, call.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(calls.len(), 2);
    for (incomplete, call) in &calls {
        let result = call.result.as_ref().unwrap();
        assert!(*incomplete && result.outcome == ToolOutcome::Cancelled, "{call:?}");
        let begun = result.parts.iter().any(|p| p.as_text().is_some_and(|text| text.contains("begun")));
        assert_eq!(begun, call.name == "developer__shell", "{result:?}");
    }
    let child = calls.iter().find_map(|(_, call)| call.child_session_id.clone()).unwrap();
    let log = harness.until(&child, |e| matches!(e.payload, Payload::TurnEnded { .. })).await;
    assert_log_rules(&log);
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn at_the_time_limit_questions_are_voided() {
    let harness = Harness::new([shell("s").finish(ModelStop::ToolCalls)]).await;
    let limits = TurnLimits { max_duration_ms: Some(300), ..TurnLimits::default() };
    let events = run(&harness, Mode::Approve, limits).await;
    let golden = golden_turn(&events);
    assert!(golden.contains("interaction_resolved Voided"), "{golden}");
    assert!(golden.ends_with("turn_ended Completed Budget"), "{golden}");
    assert_log_rules(&events);
    harness.finish().await;
}
