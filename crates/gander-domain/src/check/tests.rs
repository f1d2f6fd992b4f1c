//! Every rule is broken once, and the log that keeps all of them is clean.

use super::*;
use crate::{
    Interaction, MessageId, Part, Session, SessionId, Timestamp, Turn, Usage,
    interaction::{InteractionKind, InteractionOutcome, InteractionState, Resolution},
    item::{AgentMessage, Origin, ToolCall, Visibility},
    session::SessionOrigin,
    turn::TurnLimits,
};

fn session() -> Session {
    serde_json::from_value(serde_json::json!({
        "session_id": SessionId::new("s").unwrap(),
        "working_directory": "/", "create_time": 0, "update_time": 0,
    }))
    .unwrap()
}

fn turn(id: &str, state: TurnState) -> Box<Turn> {
    Box::new(Turn {
        turn_id: TurnId::new(id).unwrap(),
        state,
        stop_reason: None,
        error: None,
        started_by: None,
        cancelled_by: None,
        interrupted_by: None,
        limits: TurnLimits::default(),
        model: None,
        usage: Usage::default(),
        model_calls: 0,
        create_time: Timestamp(0),
        start_time: None,
        end_time: None,
        first_sequence: 0,
        last_sequence: 0,
        request_hash: String::new(),
    })
}

fn item(id: &str, state: ItemState, body: ItemBody) -> Box<Item> {
    Box::new(Item {
        item_id: ItemId::new(id).unwrap(),
        turn_id: Some(TurnId::new("t").unwrap()),
        message_id: MessageId::new("m").unwrap(),
        body,
        state,
        incomplete: false,
        visibility: Visibility::default(),
        origin: Origin::Model,
        create_time: Timestamp(0),
        client_create_time: None,
        complete_time: None,
        redacted: false,
        model_id: None,
        provider_state_json: None,
    })
}

fn text(text: &str) -> ItemBody {
    ItemBody::AgentMessage(AgentMessage { parts: vec![Part::text(text)], demo: false })
}

fn call(status: ToolCallStatus) -> ItemBody {
    ItemBody::ToolCall(Box::new(ToolCall { status, ..ToolCall::streaming("x", "c") }))
}

fn created() -> Payload {
    Payload::SessionCreated { session: Box::new(session()), origin: SessionOrigin::New }
}

fn started() -> Payload {
    Payload::TurnStarted { turn: turn("t", TurnState::Running) }
}

fn ended(state: TurnState) -> Payload {
    Payload::TurnEnded { turn: turn("t", state) }
}

fn delta(text: &str) -> Payload {
    Payload::TextDelta { item_id: ItemId::new("i").unwrap(), part_index: 0, text: text.into() }
}

fn open(body: ItemBody) -> Payload {
    Payload::ItemStarted { item: item("i", ItemState::InProgress, body) }
}

fn done(body: ItemBody) -> Payload {
    Payload::ItemCompleted { item: item("i", ItemState::Completed, body) }
}

fn updated(status: ToolCallStatus) -> Payload {
    let ItemBody::ToolCall(call) = call(status) else { unreachable!() };
    Payload::ToolCallUpdated { item_id: ItemId::new("i").unwrap(), call }
}

fn asked() -> Payload {
    Payload::InteractionRequested {
        interaction: Box::new(Interaction {
            interaction_id: InteractionId::new("q").unwrap(),
            turn_id: Some(TurnId::new("t").unwrap()),
            item_id: None,
            kind: InteractionKind::ElicitForm {
                extension_name: "e".into(),
                message: String::new(),
                schema_json: "{}".into(),
            },
            state: InteractionState::Pending,
            create_time: Timestamp(0),
            expire_time: Timestamp(1),
            outcome: None,
            answer: None,
            answered_by: None,
        }),
    }
}

fn answered() -> Payload {
    Payload::InteractionResolved(Box::new(Resolution {
        interaction_id: InteractionId::new("q").unwrap(),
        outcome: InteractionOutcome::Answered,
        answer: None,
        answered_by: None,
        rule_created: None,
    }))
}

fn numbered(payloads: Vec<Payload>) -> Vec<Event> {
    let event = |(i, payload)| Event {
        sequence: i as i64 + 1,
        turn_id: None,
        time: Timestamp(0),
        actor: None,
        payload,
    };
    payloads.into_iter().enumerate().map(event).collect()
}

fn rules(events: &[Event]) -> Vec<&'static str> {
    check_log(events, true).into_iter().map(|f| f.rule).collect()
}

#[test]
fn a_log_that_keeps_the_rules_is_clean() {
    use ToolCallStatus as S;
    let log = numbered(vec![
        created(),
        started(),
        open(text("")),
        delta("a"),
        delta("b"),
        done(text("ab")),
        asked(),
        answered(),
        ended(TurnState::Completed),
    ]);
    assert_eq!(rules(&log), Vec::<&str>::new());
    let tool = numbered(vec![
        created(),
        started(),
        open(call(S::StreamingArguments)),
        updated(S::Pending),
        updated(S::AwaitingApproval),
        updated(S::Running),
        done(call(S::Completed)),
        Payload::TurnCancelRequested { turn: turn("t", TurnState::Cancelling) },
        ended(TurnState::Cancelled),
    ]);
    assert_eq!(rules(&tool), Vec::<&str>::new());
}

#[test]
fn dropped_deltas_are_an_honest_hole_and_other_holes_are_not() {
    let mut log = numbered(vec![
        created(),
        started(),
        open(text("")),
        delta("a"),
        done(text("a")),
        ended(TurnState::Completed),
    ]);
    let hole = log.remove(3);
    assert_eq!(rules(&log), Vec::<&str>::new(), "the delta {hole:?} is superseded");
    log.remove(1);
    assert!(rules(&log).contains(&"hole"), "{:?}", rules(&log));
}

#[test]
fn every_broken_rule_is_found() {
    use ToolCallStatus as S;
    let cancel = || Payload::TurnCancelRequested { turn: turn("t", TurnState::Cancelling) };
    for (rule, payloads) in [
        ("created_first", vec![started(), ended(TurnState::Completed)]),
        ("created_once", vec![created(), created()]),
        ("turn_ends", vec![created(), started()]),
        (
            "turn_transition",
            vec![created(), started(), ended(TurnState::Completed), ended(TurnState::Completed)],
        ),
        ("turn_transition", vec![created(), started(), cancel(), ended(TurnState::Failed)]),
        ("turn_state", vec![created(), started(), ended(TurnState::Running)]),
        (
            "one_turn",
            vec![created(), started(), Payload::TurnStarted { turn: turn("u", TurnState::Running) }],
        ),
        ("items_completed", vec![created(), started(), open(text("")), ended(TurnState::Completed)]),
        ("item_once", vec![created(), open(text("")), done(text("")), done(text(""))]),
        ("delta_in_item", vec![created(), delta("x")]),
        ("deltas_concatenate", vec![created(), open(text("")), delta("x"), done(text("y"))]),
        (
            "tool_transition",
            vec![created(), open(call(S::Running)), updated(S::Pending), done(call(S::Completed))],
        ),
        ("tool_transition", vec![created(), open(call(S::Pending)), done(call(S::Completed))]),
        ("tool_terminal", vec![created(), open(call(S::Running)), done(call(S::Running))]),
        ("tool_open", vec![created(), updated(S::Running)]),
        ("interactions_resolved", vec![created(), started(), asked(), ended(TurnState::Completed)]),
        ("interaction_once", vec![created(), asked(), asked(), answered()]),
        ("interaction_resolved_once", vec![created(), answered()]),
    ] {
        let log = numbered(payloads);
        assert!(rules(&log).contains(&rule), "{rule} was not found, but {:?}", rules(&log));
    }
    assert_eq!(rules(&[]), ["empty"]);
    let mut twice = numbered(vec![created(), open(text("")), delta("x"), done(text("x"))]);
    twice[2].sequence = 2;
    assert!(rules(&twice).contains(&"increasing"));
    let late = numbered(vec![created()]).into_iter().map(|e| Event { sequence: 2, ..e }).collect::<Vec<_>>();
    assert!(rules(&late).contains(&"starts_at_one"));
}
