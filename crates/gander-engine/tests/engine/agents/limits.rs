//! What holds an agent back: the session's mode and the turn's money.

use gander_domain::{
    ErrorDetail, ErrorReason, Event, Payload, SessionId, Usage,
    session::Mode,
    turn::TurnLimits,
    usage::{Cost, CostSource},
};
use gander_engine::{SessionPatch, StartTurn, SteerTurn};
use gander_model::{AgentPromptEnd, AgentStop, AgentUpdate};

use super::{
    asking,
    fake::{Play, end, fake, play, reply, said},
    harness,
};
use crate::harness::{Harness, assert_log_rules, context, golden_turn, turn};

async fn set_mode(harness: &Harness, session: &SessionId, mode: Mode) {
    let patch = SessionPatch { mode: Some(Some(mode)), ..SessionPatch::default() };
    harness.engine.update_session(&context("m"), session, patch).await.unwrap();
}

async fn agents_mode(harness: &Harness, session: &SessionId) -> String {
    let options = harness.engine.session_options(session).await.unwrap();
    options.into_iter().find(|option| option.option_id == "agent.mode").unwrap().value
}

/// Whether the agent may write files and run commands.
fn working() -> Play {
    play(|stage| async move {
        let why = stage.client.forbids_work().await;
        stage.client.update(said(why.as_deref().unwrap_or("free"))).await;
        end(AgentStop::EndTurn)
    })
}

#[tokio::test]
async fn in_chat_the_agent_only_plans_and_comes_back_afterwards() {
    let fake = fake([asking(), working(), working(), reply("free again")]);
    let harness = harness(&fake).await;
    let session = harness.session_in(Mode::Chat).await;
    let log = golden_turn(&harness.run(&session, "go").await);
    assert!(log.contains("item_completed agent no"), "what it asks is refused: {log}");
    let pair = |value: &str| ("mode".to_owned(), value.to_owned());
    assert_eq!(*fake.set.lock().unwrap(), [pair("plan")]);
    assert_eq!(agents_mode(&harness, &session).await, "plan");
    let log = golden_turn(&harness.run(&session, "write").await);
    assert!(log.contains("tools are off in chat mode"), "neither files nor commands: {log}");

    // The agent is started anew meanwhile: where it belongs is remembered.
    assert!(harness.engine.unload_session(&session).await.unwrap());
    set_mode(&harness, &session, Mode::Approve).await;
    let events = harness.run(&session, "write").await;
    assert!(golden_turn(&events).contains("item_completed agent free\n"), "{}", golden_turn(&events));
    assert_eq!(*fake.set.lock().unwrap(), [pair("plan"), pair("ask")]);
    harness.run(&session, "on").await;
    assert_eq!(fake.set.lock().unwrap().len(), 2, "nothing to change any more");
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn a_turns_own_mode_counts_for_that_turn() {
    let fake = fake([working(), working()]);
    let harness = harness(&fake).await;
    let session = harness.session_in(Mode::Auto).await;
    let start = StartTurn { mode: Some(Mode::Chat), ..turn("go") };
    let started = harness.engine.start_turn(&context("a"), &session, start).await.unwrap();
    let log = golden_turn(&harness.until_ended(&session, &started.turn.turn_id).await);
    assert!(log.contains("tools are off"), "{log}");
    let log = golden_turn(&harness.run(&session, "on").await);
    assert!(log.contains("item_completed agent free\n"), "{log}");
    let set: Vec<_> = fake.set.lock().unwrap().iter().map(|(_, value)| value.clone()).collect();
    assert_eq!(set, ["plan", "ask"]);
    harness.finish().await;
}

#[tokio::test]
async fn another_mode_counts_at_once() {
    let fake = fake([play(|stage| async move {
        stage.client.update(said("working")).await;
        stage.cancelled.cancelled().await;
        end(AgentStop::Cancelled)
    })]);
    let harness = harness(&fake).await;
    let session = harness.session_in(Mode::Auto).await;
    let started = harness.start(&session, "go").await;
    harness.until(&session, |e| matches!(e.payload, Payload::TextDelta { .. })).await;
    set_mode(&harness, &session, Mode::Chat).await;
    let plans = |e: &Event| match &e.payload {
        Payload::SessionOptionsChanged { options } => {
            options.iter().any(|o| o.option_id == "agent.mode" && o.value == "plan")
        }
        _ => false,
    };
    harness.until(&session, plans).await;
    harness.engine.cancel_turn(&context("b"), &session, Default::default()).await.unwrap();
    harness.until_ended(&session, &started).await;
    harness.finish().await;
}

#[tokio::test]
async fn an_agent_that_asks_nobody_needs_mode_auto() {
    let fake = fake([reply("a"), reply("b"), reply("c"), reply("d")]);
    let harness = harness(&fake).await;
    let session = harness.session_in(Mode::Approve).await;
    harness.run(&session, "go").await;
    let set = async |value: &'static str| {
        harness.engine.set_session_option(&context("b"), &session, "agent.mode", value).await.map(drop)
    };
    let refused: ErrorDetail = set("wild").await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::InvalidField);
    assert!(refused.message.contains("mode to auto"), "{refused:?}");
    set_mode(&harness, &session, Mode::Auto).await;
    harness.run(&session, "go").await;
    assert_eq!(*fake.set.lock().unwrap(), [], "auto alone changes nothing: what the agent asks is answered");
    set("wild").await.unwrap();
    set_mode(&harness, &session, Mode::SmartApprove).await;
    harness.run(&session, "go").await;
    assert_eq!(agents_mode(&harness, &session).await, "ask");
    set_mode(&harness, &session, Mode::Auto).await;
    harness.run(&session, "go").await;
    assert_eq!(agents_mode(&harness, &session).await, "wild", "what was chosen holds where it may");
    harness.finish().await;
}

fn costs(micros: i64) -> AgentUpdate {
    let cost = Cost { amount_micros: micros, currency: "USD".into(), source: CostSource::Provider };
    AgentUpdate::Usage { context_used_tokens: 1, context_window_tokens: 10, cost: Some(cost) }
}

/// Says what its session has cost, then works until it is told to stop.
fn spending(micros: i64) -> Play {
    play(move |stage| async move {
        stage.client.update(said("half")).await;
        stage.client.update(costs(micros)).await;
        stage.cancelled.cancelled().await;
        let usage = Some(Usage { total_tokens: Some(7), ..Usage::default() });
        Ok(AgentPromptEnd { stop: AgentStop::Cancelled, usage })
    })
}

async fn run_within(harness: &Harness, session: &SessionId, max: i64) -> Vec<std::sync::Arc<Event>> {
    let limits = TurnLimits { max_cost_micros: Some(max), ..TurnLimits::default() };
    let start = StartTurn { limits, ..turn("go") };
    let started = harness.engine.start_turn(&context("a"), session, start).await.unwrap();
    harness.until_ended(session, &started.turn.turn_id).await
}

#[tokio::test]
async fn money_that_the_agent_spends_counts() {
    let fake = fake([spending(500), spending(1200)]);
    let harness = harness(&fake).await;
    let session = harness.session().await;
    let events = run_within(&harness, &session, 500).await;
    let log = golden_turn(&events);
    assert!(log.ends_with("turn_ended Completed Budget") && log.contains("agent incomplete half"), "{log}");
    assert_log_rules(&events);
    assert_eq!(*fake.cancels.lock().unwrap(), 1, "the agent is stopped while it works");
    let now = harness.engine.get_session(&session).await.unwrap();
    assert_eq!(now.usage.totals.total_tokens, Some(7), "tokens of a prompt that was cut count as well");

    // The agent counts on; the next turn has a budget of its own.
    let log = golden_turn(&run_within(&harness, &session, 700).await);
    assert!(log.ends_with("turn_ended Completed Budget"), "{log}");
    let now = harness.engine.get_session(&session).await.unwrap();
    assert_eq!(now.usage.cost_totals.map(|cost| cost.amount_micros), Some(1200));
    harness.finish().await;
}

#[tokio::test]
async fn all_prompts_of_a_turn_share_its_money() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let held = gate.clone();
    let first = play(move |stage| async move {
        stage.client.update(costs(600)).await;
        stage.client.update(said("first")).await;
        held.acquire().await.unwrap().forget();
        end(AgentStop::EndTurn)
    });
    let fake = fake([first, spending(1000)]);
    let harness = harness(&fake).await;
    let session = harness.session().await;
    let limits = TurnLimits { max_cost_micros: Some(1000), ..TurnLimits::default() };
    let start = StartTurn { limits, ..turn("go") };
    let started = harness.engine.start_turn(&context("a"), &session, start).await.unwrap();
    harness.until(&session, |e| matches!(e.payload, Payload::TextDelta { .. })).await;
    let steer = SteerTurn { input: vec![gander_domain::Part::text("more")], ..SteerTurn::default() };
    harness.engine.steer_turn(&context("b"), &session, steer).await.unwrap();
    gate.add_permits(1);
    let log = golden_turn(&harness.until_ended(&session, &started.turn.turn_id).await);
    assert!(log.ends_with("turn_ended Completed Budget"), "{log}");
    assert_eq!(fake.prompts.lock().unwrap().len(), 2);
    harness.finish().await;
}

#[tokio::test]
async fn an_agent_that_ends_early_knows_what_it_said() {
    for (stop, reason) in [
        (AgentStop::MaxTokens, "MaxOutputTokens"),
        (AgentStop::MaxTurnRequests, "MaxModelCalls"),
        (AgentStop::Refusal, "Refusal"),
    ] {
        let early = play(move |stage| async move {
            stage.client.update(said("as far as I came")).await;
            end(stop)
        });
        let fake = fake([early, reply("on")]);
        let harness = harness(&fake).await;
        let session = harness.session().await;
        let log = golden_turn(&harness.run(&session, "go").await);
        assert!(log.ends_with(&format!("turn_ended Completed {reason}")), "{log}");
        harness.run(&session, "next").await;
        assert_eq!(fake.prompts.lock().unwrap()[1], ["next"], "{reason}: no transcript of its own words");
        harness.finish().await;
    }
}
