//! The conversation as it is after a reload, against what its stream showed.

use gander_formats::session::{Outcome, Role};

use super::*;

/// A turn's log and the items that it leaves.
fn a_turn() -> (Vec<SessionEvent>, Vec<Item>) {
    use ToolCallStatus as S;
    let open = |id: &str, status| updated(id, call(status, None));
    let done = |id: &str, text: &str| {
        let result = Some(gave(text, pb::ToolOutcome::Ok));
        item(id, "m", Body::ToolCall(Box::new(call(S::Completed, result))))
    };
    let begin =
        |id: &str| started(item(id, "m", Body::ToolCall(Box::new(call(S::StreamingArguments, None)))));
    let log = log(vec![
        begun(),
        completed(item("u", "u", user("hi"))),
        started(item("a", "m", said(""))),
        delta("a", "Looking"),
        completed(item("a", "m", said("Looking"))),
        begin("t1"),
        begin("t2"),
        open("t1", S::Pending),
        open("t2", S::Pending),
        completed(done("t2", "two")),
        completed(done("t1", "one")),
        started(item("b", "n", said(""))),
        delta("b", "Done"),
        completed(item("b", "n", said("Done"))),
        ended(TurnState::Completed),
    ]);
    let items = vec![
        item("u", "u", user("hi")),
        item("a", "m", said("Looking")),
        done("t1", "one"),
        done("t2", "two"),
        item("b", "n", said("Done")),
    ];
    (log, items)
}

#[test]
fn a_reload_shows_one_message_per_id_and_results_in_the_order_of_the_calls() {
    let (_, items) = a_turn();
    assert_eq!(
        briefly(&folded(&items, &[turn(TurnState::Completed)], &[])),
        [
            "user u: hi",
            "assistant m: Looking, request t1, request t2",
            "user t1-r: response t1 success",
            "user t2-r: response t2 success",
            "assistant n: Done",
        ]
    );
}

#[test]
fn streamed_and_stored_ids_are_the_same() {
    let (log, items) = a_turn();
    let ids = |values: Vec<Value>| {
        let mut ids: Vec<String> = values.iter().filter_map(|m| Some(m["id"].as_str()?.to_owned())).collect();
        ids.sort();
        ids.dedup();
        ids
    };
    let streamed = sent(&mut stream(), &log).into_iter().map(|event| event["message"].clone()).collect();
    let stored = folded(&items, &[], &[]).iter().skip(1).map(|m| serde_json::to_value(m).unwrap()).collect();
    assert_eq!(ids(streamed), ids(stored));
}

#[test]
fn failures_are_there_after_a_reload_and_so_are_open_questions() {
    let failed = Turn {
        error: Some(pb::ErrorDetail { message: "No.".into(), ..Default::default() }),
        ..turn(TurnState::Failed)
    };
    let later = Item { turn_id: "later".into(), ..item("v", "v", user("again")) };
    let items = [item("u", "u", user("hi")), later];
    let form = pb::Interaction {
        interaction_id: "q".into(),
        question: Some(pb::interaction::Question::ElicitForm(pb::FormQuestion::default())),
        ..Default::default()
    };
    let folded = briefly(&folded(&items, std::slice::from_ref(&failed), &[form]));
    assert_eq!(folded[0], "user u: hi");
    assert!(folded[1].starts_with("assistant turn-e: Ran into this error: No."), "{folded:?}");
    assert_eq!(folded[2..], ["user v: again", "assistant q: elicitation q"]);
    let log = log(vec![Payload::TurnEnded(Box::new(pb::TurnEnded { turn: Some(failed) }))]);
    assert_eq!(brief(&sent(&mut stream(), &log))[0], folded[1], "the same words with the same id");
}

#[test]
fn what_was_rewound_or_erased_is_left_out_and_what_goes_on_is_shown_as_far_as_it_is() {
    let mut rewound = item("r", "r", user("gone"));
    rewound.visibility = Some(pb::Visibility::default());
    let redacted = Item { redacted: true, body: None, ..item("x", "x", user("")) };
    let open = Item {
        state: ItemState::InProgress as i32,
        ..item("t", "m", Body::ToolCall(Box::new(call(ToolCallStatus::Running, None))))
    };
    let streaming = Item {
        state: ItemState::InProgress as i32,
        ..item("t2", "m", Body::ToolCall(Box::new(call(ToolCallStatus::StreamingArguments, None))))
    };
    let folded = briefly(&folded(&[rewound, redacted, open, streaming], &[], &[]));
    assert_eq!(folded, ["assistant m: request t"]);
}

#[test]
fn a_persons_message_keeps_its_own_time() {
    let mut said = item("u", "u", user("hi"));
    said.client_create_time = at(42);
    assert_eq!(folded(&[said], &[], &[])[0].created, 42);
}

#[test]
fn roles_and_results_of_a_folded_conversation_are_gooses() {
    let (_, items) = a_turn();
    let messages = folded(&items, &[], &[]);
    let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::User, Role::User, Role::Assistant]);
    let gander_formats::session::Content::ToolResponse { tool_result: Outcome::Success { value }, .. } =
        &messages[2].content[0]
    else {
        panic!("{:?}", messages[2])
    };
    assert_eq!(value.content, [json!({"type": "text", "text": "one"})]);
}
