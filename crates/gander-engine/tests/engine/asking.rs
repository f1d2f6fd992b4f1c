//! What servers ask of their session: forms are checked before they count, model calls are paid by who lets them ask.

use std::{path::PathBuf, sync::Arc};

use futures::FutureExt as _;
use gander_domain::{
    ErrorReason, Event, Payload, SessionId, Usage,
    interaction::{Answer, FormAction, Interaction, InteractionState},
    turn::{StopReason, TurnLimits},
    usage::{Cost, CostSource, UsagePurpose},
};
use gander_engine::{ExtensionSelection, InteractionFilter, NewSession, StartTurn};
use gander_mcp::{ElicitAnswer, ElicitKind, ElicitRequest, SampleMessage, SampleRequest, SessionClient};
use gander_model::{ModelEvent, ModelStop, testing::Script};
use serde_json::json;

use crate::harness::{Clients, Harness, assert_log_rules, context, golden, turn};

/// A session whose extension may use the model.
async fn session(harness: &Harness) -> SessionId {
    let config = json!({"type": "builtin", "name": "developer", "sampling": "allow"});
    let config = serde_json::from_value(config).unwrap();
    let config = gander_engine::types::extension_format::from_value(&config).unwrap();
    let extensions = ExtensionSelection { exactly: Some(vec![config]), ..ExtensionSelection::default() };
    let new = NewSession { extensions, ..harness.new_session() };
    harness.engine.create_session(&context("a"), new).await.unwrap().value.session_id
}

fn client(clients: &Clients) -> Arc<dyn SessionClient> {
    clients.lock().unwrap()[0].clone()
}

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

/// A call that runs until the test makes the file `go`.
fn waiting() -> Script {
    let command = "echo begun; until test -e go; do sleep 0.01; done";
    Script::new().call("w", "developer__shell", &json!({ "command": command }).to_string())
}

fn sampling() -> SampleRequest {
    SampleRequest {
        extension_name: "developer".into(),
        system_prompt: Some("be short".into()),
        messages: vec![SampleMessage { role: "user".into(), parts: vec![gander_domain::Part::text("hi")] }],
        max_tokens: 9,
        temperature_millis: None,
    }
}

/// Starts a turn and waits until its call runs.
async fn until_call_runs(
    harness: &Harness,
    session: &SessionId,
    limits: TurnLimits,
) -> gander_domain::TurnId {
    let start = StartTurn { limits, ..turn("go") };
    let started = harness.engine.start_turn(&context("a"), session, start).await.unwrap();
    harness.until(session, |e| matches!(e.payload, Payload::ToolOutputDelta { .. })).await;
    started.turn.turn_id
}

fn go(harness: &Harness) {
    std::fs::write(PathBuf::from(harness.work()).join("go"), "").unwrap();
}

fn reports(events: &[Arc<Event>]) -> Vec<(UsagePurpose, bool)> {
    let of = |e: &Arc<Event>| match &e.payload {
        Payload::UsageReported(report) => Some((report.purpose, e.turn_id.is_some())),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

#[tokio::test]
async fn what_a_server_samples_counts_in_turn_and_session() {
    let (harness, clients) = Harness::with_clients([
        paid(waiting(), 10, 100, ModelStop::ToolCalls),
        paid(Script::new().text("sam").text("pled"), 40, 60, ModelStop::MaxOutputTokens),
        paid(Script::new().text("done"), 20, 200, ModelStop::EndTurn),
        paid(Script::new().text("later"), 5, 7, ModelStop::EndTurn),
    ])
    .await;
    let session = session(&harness).await;
    let turn_id = until_call_runs(&harness, &session, TurnLimits::default()).await;
    let sampled = client(&clients).sample(sampling()).await.unwrap();
    assert_eq!((sampled.text.as_str(), sampled.stop_reason.as_str()), ("sampled", "maxTokens"));
    let asked = &harness.model.requests()[1];
    assert_eq!((asked.system.as_str(), asked.max_output_tokens), ("be short", Some(9)));
    go(&harness);
    let events = harness.until_ended(&session, &turn_id).await;
    use UsagePurpose::{Sampling, Turn};
    assert_eq!(reports(&events), [(Turn, true), (Sampling, true), (Turn, true)]);
    let Payload::TurnEnded { turn } = &events.last().unwrap().payload else { panic!() };
    assert_eq!(turn.usage.total_tokens, Some(70));
    let totals = |session: gander_domain::Session| {
        (session.usage.totals.total_tokens, session.usage.cost_totals.unwrap().amount_micros)
    };
    let read = harness.engine.get_session(&session).await.unwrap();
    assert_eq!(read.usage.last_call.total_tokens, Some(20), "what a server asked is not the conversation");
    assert_eq!(totals(read), (Some(70), 360));
    // Without a turn it still is the session's.
    client(&clients).sample(sampling()).await.unwrap();
    assert_eq!(reports(&harness.log(&session).await).last(), Some(&(Sampling, false)));
    assert_eq!(totals(harness.engine.get_session(&session).await.unwrap()), (Some(75), 367));
    harness.finish().await;
}

#[tokio::test]
async fn sampling_is_paid_from_the_turns_budget() {
    let (harness, clients) = Harness::with_clients([
        paid(waiting(), 10, 100, ModelStop::ToolCalls),
        paid(Script::new().text("sampled"), 40, 60, ModelStop::EndTurn),
    ])
    .await;
    let session = session(&harness).await;
    let limits = TurnLimits { max_cost_micros: Some(150), ..TurnLimits::default() };
    let turn_id = until_call_runs(&harness, &session, limits).await;
    client(&clients).sample(sampling()).await.unwrap();
    let refused = client(&clients).sample(sampling()).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::BudgetExceeded);
    go(&harness);
    let events = harness.until_ended(&session, &turn_id).await;
    let Payload::TurnEnded { turn } = &events.last().unwrap().payload else { panic!() };
    assert_eq!(turn.stop_reason, Some(StopReason::Budget));
    assert_eq!(harness.model.requests().len(), 2);
    assert_log_rules(&events);
    harness.finish().await;
}

fn filled(content: &str) -> Answer {
    Answer::Form { action: FormAction::Accept, content_json: Some(content.to_owned()) }
}

async fn pending(harness: &Harness, session: &SessionId) -> Interaction {
    let log = harness.until(session, |e| matches!(e.payload, Payload::InteractionRequested { .. })).await;
    match &log.last().unwrap().payload {
        Payload::InteractionRequested { interaction } => (**interaction).clone(),
        _ => panic!("{}", golden(&log)),
    }
}

#[tokio::test]
async fn a_form_stays_open_until_its_answer_matches() {
    let (harness, clients) = Harness::with_clients([
        Script::one_call("c", "developer__shell", r#"{"command":"true"}"#),
        Script::reply("ok"),
    ])
    .await;
    let session = session(&harness).await;
    harness.run(&session, "start the extension").await;
    let schema = json!({
        "type": "object",
        "required": ["name", "age"],
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 18},
            "mail": {"type": "string", "format": "email"},
            "size": {"type": "string", "enum": ["s", "m"]},
        },
    });
    let client = client(&clients);
    let asking = client.elicit(ElicitRequest {
        extension_name: "developer".into(),
        message: "who are you?".into(),
        kind: ElicitKind::Form { schema_json: schema.to_string() },
    });
    let answering = async {
        let id = pending(&harness, &session).await.interaction_id;
        let respond = |answer| {
            let id = id.clone();
            async { harness.engine.respond(&context("b"), None, &{ id }, answer).await }
        };
        for (content, fields) in [
            ("[]", vec![]),
            ("{}", vec!["name", "age"]),
            (r#"{"name": "A", "age": "20"}"#, vec!["age"]),
            (r#"{"name": "A", "age": 17, "mail": "x", "size": "xl"}"#, vec!["age", "mail", "size"]),
        ] {
            let error = respond(filled(content)).await.unwrap_err();
            assert_eq!(error.reason, ErrorReason::ElicitationContentInvalid, "{content}");
            let mut told: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
            let mut expected: Vec<_> =
                fields.iter().map(|f| format!("answer.form.content_json.{f}")).collect();
            told.sort_unstable();
            expected.sort_unstable();
            assert_eq!(told, expected, "{content}: {error}");
            let filter =
                InteractionFilter { session_id: Some(session.clone()), ..InteractionFilter::default() };
            let open = harness.engine.list_interactions(filter).await.unwrap();
            assert_eq!(open[0].1.state, InteractionState::Pending, "the question stays open");
        }
        let error = respond(filled(r#"{"name": "A", "age": 17}"#)).await.unwrap_err();
        assert!(error.message.contains("age must be at least 18"), "{error}");
        let right = r#"{"name": "A", "age": 20, "mail": "", "size": null}"#;
        respond(filled(right)).await.unwrap();
        respond(filled(right)).await.expect("the same answer again");
        let error = respond(filled(r#"{"name": "B", "age": 20}"#)).await.unwrap_err();
        assert_eq!(error.reason, ErrorReason::InteractionResolved);
    };
    let (answer, ()) = tokio::join!(asking, answering);
    let ElicitAnswer::Accept { content_json: Some(content) } = answer else { panic!("{answer:?}") };
    let content: serde_json::Value = serde_json::from_str(&content).unwrap();
    assert_eq!(content, json!({"name": "A", "age": 20}), "empty boxes are left out");
    assert_log_rules(&harness.log(&session).await);
    harness.finish().await;
}

#[tokio::test]
async fn a_question_whose_asker_leaves_while_it_is_written_is_taken_back() {
    let call = Script::one_call("c", "developer__shell", r#"{"command":"true"}"#);
    let (harness, clients) = Harness::with_clients([call, Script::reply("ok")]).await;
    let session = session(&harness).await;
    harness.run(&session, "start the extension").await;
    let asking = client(&clients);
    let question = ElicitRequest {
        extension_name: "developer".into(),
        message: "who are you?".into(),
        kind: ElicitKind::Form { schema_json: r#"{"type":"object"}"#.into() },
    };
    // It is with the session, which has not said so yet.
    assert!(asking.elicit(question).now_or_never().is_none());
    let log = harness.until(&session, |e| matches!(e.payload, Payload::InteractionResolved(_))).await;
    assert!(golden(&log).contains("interaction_resolved Withdrawn"));
    harness.finish().await;
}

#[tokio::test]
async fn a_form_can_be_declined_whatever_it_demands() {
    let (harness, clients) = Harness::with_clients([
        Script::one_call("c", "developer__shell", r#"{"command":"true"}"#),
        Script::reply("ok"),
    ])
    .await;
    let session = session(&harness).await;
    harness.run(&session, "start the extension").await;
    let client = client(&clients);
    let asking = client.elicit(ElicitRequest {
        extension_name: "developer".into(),
        message: "who are you?".into(),
        kind: ElicitKind::Form { schema_json: r#"{"type":"object","required":["name"]}"#.into() },
    });
    let answering = async {
        let id = pending(&harness, &session).await.interaction_id;
        let answer = Answer::Form { action: FormAction::Decline, content_json: None };
        harness.engine.respond(&context("b"), None, &id, answer).await.unwrap();
    };
    let (answer, ()) = tokio::join!(asking, answering);
    assert_eq!(answer, ElicitAnswer::Decline);
    harness.finish().await;
}
