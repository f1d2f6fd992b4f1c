//! The conversation as it is after a reload, and documents on their way in.

use gander_formats::session::{Document, Outcome, Role};

use super::{super::input, *};
use crate::import;

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

fn message(content: impl Into<Value>) -> Message {
    let content: Value = content.into();
    serde_json::from_value(json!({"id": "k3j9x0ab", "role": "user", "created": 1_772_700_000,
        "content": content, "metadata": {"userVisible": true, "agentVisible": true}}))
    .expect("a message")
}

#[test]
fn a_message_becomes_input() {
    let input = input::turn_input(&message(json!([
        {"type": "text", "text": "look\u{E0041}"},
        {"type": "image", "data": "aGk=", "mimeType": "image/png"},
    ])))
    .expect("input");
    assert_eq!(input.parts[0].body, Some(pb::part::Body::Text("look".into())), "no invisible characters");
    let Some(pb::part::Body::Image(image)) = &input.parts[1].body else { panic!("{input:?}") };
    assert_eq!(image.mime_type, "image/png");
    assert_eq!(input.message_id, "k3j9x0ab");
    assert_eq!(input.client_create_time.map(|time| time.seconds), Some(1_772_700_000));
    for content in [
        json!([{"type": "image", "data": "no base64!", "mimeType": "image/png"}]),
        json!([{"type": "hologram"}]),
        json!([{"type": "toolResponse", "id": "c", "toolResult": {"status": "error", "error": "e"}}]),
    ] {
        let error = input::turn_input(&message(content)).expect_err("cannot be sent");
        assert!(error.starts_with("content[0]"), "{error}");
    }
    let compact = message(json!([{"type": "text", "text": "Please compact this conversation"}]));
    let parts = input::turn_input(&compact).expect("input").parts;
    assert_eq!(super::text_of(&parts), "/compact", "an old window's way to say it");
    let strange = Message { id: Some("with blanks".into()), ..message(json!([])) };
    assert_eq!(input::turn_input(&strange).expect("input").message_id, "", "the daemon mints one");
}

#[test]
fn a_conversation_survives_export_and_import() {
    let (_, items) = a_turn();
    let messages = folded(&items, &[], &[]);
    let again = input::items(&messages, true);
    assert_eq!(briefly(&folded(&again, &[], &[])), briefly(&messages));
    let ids: Vec<&str> = again.iter().map(|item| item.item_id.as_str()).collect();
    assert_eq!(ids, ["", "", "t1", "t2", ""], "calls keep their ids");
    assert!(again.iter().all(|item| item.state() == ItemState::Completed));
    assert!(input::items(&messages, false).iter().all(|item| item.item_id.is_empty()));
}

#[test]
fn repeated_ids_of_calls_keep_their_own_results() {
    let messages: Vec<Message> = serde_json::from_value(json!([
        {"role": "assistant", "created": 1, "metadata": {"userVisible": true, "agentVisible": true}, "content": [
            {"type": "toolRequest", "id": "call_0", "toolCall": {"status": "success", "value": {"name": "a__b"}}}]},
        {"role": "user", "created": 2, "metadata": {"userVisible": true, "agentVisible": true}, "content": [
            {"type": "toolResponse", "id": "call_0", "toolResult": {"status": "success", "value":
                {"content": [{"type": "text", "text": "first"}], "isError": false}}}]},
        {"role": "assistant", "created": 3, "metadata": {"userVisible": true, "agentVisible": true}, "content": [
            {"type": "toolRequest", "id": "call_0", "toolCall": {"status": "success", "value": {"name": "a__b"}}},
            {"type": "toolRequest", "id": "lost", "toolCall": {"status": "success", "value": {"name": "a__b"}}}]},
        {"role": "user", "created": 4, "metadata": {"userVisible": true, "agentVisible": true}, "content": [
            {"type": "toolResponse", "id": "call_0", "toolResult": {"status": "error", "error": "second"}}]},
    ]))
    .expect("messages");
    let items = input::items(&messages, true);
    let outcomes: Vec<(String, pb::ToolOutcome)> = items
        .iter()
        .map(|item| match &item.body {
            Some(Body::ToolCall(call)) => {
                let result = call.result.as_ref().expect("every call has a result");
                (super::text_of(&result.parts), result.outcome())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(outcomes[0], ("first".to_owned(), pb::ToolOutcome::Ok));
    assert_eq!(outcomes[1], ("second".to_owned(), pb::ToolOutcome::ProtocolError));
    assert_eq!(outcomes[2].1, pb::ToolOutcome::Cancelled);
    assert_eq!(items[0].item_id, "call_0");
    assert_eq!(items[1].item_id, "", "an id that was there before is not used again");
}

#[test]
fn a_document_is_imported_with_all_that_it_tells() {
    let document = Document::parse(
        &json!({"id": "20260305_7", "working_dir": "/p", "name": "Mine", "user_set_name": true,
            "session_type": "scheduled", "created_at": "2026-03-05T10:00:00Z", "updated_at": "",
            "extension_data": {"enabled_extensions.v0": {"extensions": [
                {"type": "builtin", "name": "developer"}]}, "todo.v0": {"content": "- [ ] x"}},
            "accumulated_total_tokens": 9, "recipe": {"title": "r"}, "user_recipe_values": {"k": "v"},
            "conversation": []})
        .to_string(),
    )
    .expect("a document");
    let imported = import::document(&document).expect("imported");
    let session = imported.session.expect("a session");
    assert_eq!((session.title.as_str(), session.kind()), ("Mine", pb::SessionKind::Scheduled));
    assert_eq!(session.title_source(), pb::TitleSource::User);
    assert_eq!(session.extension_state_json["todo.v0"], r#"{"content":"- [ ] x"}"#);
    assert_eq!(session.create_time.map(|time| time.seconds), Some(1_772_704_800));
    assert_eq!(session.recipe.expect("a recipe").values["k"], "v");
    assert_eq!((imported.extensions.len(), imported.format.as_str()), (1, "goose"));
    let mut wrong = document;
    wrong
        .extension_data
        .insert("enabled_extensions.v0".into(), json!({"extensions": [{"type": "stdio", "name": "x"}]}));
    let error = import::document(&wrong).expect_err("cmd is missing");
    assert!(error.contains("extensions[0].cmd"), "{error}");
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
