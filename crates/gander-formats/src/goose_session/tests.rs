//! Documents there and back, and messages on their way in.

use gander_proto::v1::{self as pb, Item, ItemState, item::Body, part};
use serde_json::{Value, json};

use super::{items::history, items::turn_input, *};
use crate::session::Message;

fn message(content: &Value) -> Message {
    serde_json::from_value(json!({"id": "k3j9x0ab", "role": "user", "created": 1_772_700_000,
        "content": content, "metadata": {"userVisible": true, "agentVisible": true}}))
    .expect("a message")
}

fn text_of(parts: &[pb::Part]) -> String {
    let text = |part: &pb::Part| match &part.body {
        Some(part::Body::Text(text)) => Some(text.clone()),
        _ => None,
    };
    parts.iter().filter_map(text).collect()
}

/// A conversation with a thought, a picture, tool calls that worked and that did not, and a remark.
fn conversation_json() -> Value {
    let both = json!({"userVisible": true, "agentVisible": true});
    let request = |id: &str, meta: Value| {
        json!({"type": "toolRequest", "id": id, "_meta": meta,
        "toolCall": {"status": "success", "value": {"name": "developer__shell", "arguments": {"command": "ls"}}}})
    };
    json!([
        {"id": "u", "role": "user", "created": 100, "metadata": both, "content": [
            {"type": "text", "text": "look", "annotations":
                {"audience": ["user"], "priority": 0.5, "lastModified": "2026-01-31T12:00:00Z"}},
            {"type": "image", "data": "aGk=", "mimeType": "image/png"}]},
        {"id": "m", "role": "assistant", "created": 101, "metadata": both, "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redactedThinking", "data": "x"},
            {"type": "text", "text": "Looking"},
            request("t1", json!({"goose_extension": "developer", "ui": {"resourceUri": "ui://a"}})),
            request("t2", json!({"goose_extension": "developer"}))]},
        {"id": "t1-r", "role": "user", "created": 103, "metadata": both, "content": [
            {"type": "toolResponse", "id": "t1", "toolResult": {"status": "success", "value": {"isError": false,
                "structuredContent": {"n": 1}, "_meta": {"k": "v"}, "content": [
                    {"type": "text", "text": "a.txt"},
                    {"type": "resource", "resource": {"uri": "ui://a", "mimeType": "text/html", "text": "<p>"}},
                    {"type": "resource_link", "uri": "file:///b", "name": "b"},
                    {"type": "audio", "data": "aGk=", "mimeType": "audio/wav"}]}}}]},
        {"id": "t2-r", "role": "user", "created": 102, "metadata": both, "content": [
            {"type": "toolResponse", "id": "t2", "toolResult": {"status": "error", "error": "lost"}}]},
        {"id": "n", "role": "assistant", "created": 104, "metadata": {"userVisible": true, "agentVisible": false},
            "content": [{"type": "systemNotification", "notificationType": "inlineMessage", "msg": "Compacted"}]},
        {"id": "v", "role": "assistant", "created": 105, "metadata": both, "content": [
            {"type": "text", "text": "Done"}, {"type": "hologram", "of": ["later", "versions"]},
            {"type": "image", "data": "no base64", "mimeType": "image/png"}]},
    ])
}

fn whole_json() -> Value {
    json!({"id": "20260305_7", "working_dir": "/p", "name": "Mine", "user_set_name": true,
        "session_type": "scheduled", "created_at": "2026-03-05T10:00:00Z", "updated_at": "2026-03-05T10:02:11.5Z",
        "extension_data": {"enabled_extensions.v0": {"extensions": [
            {"type": "builtin", "name": "developer", "description": "", "display_name": null, "timeout": null,
                "bundled": null, "available_tools": []}]}, "todo.v0": {"content": "- [ ] x"}},
        "total_tokens": 8, "input_tokens": 5, "output_tokens": 3, "accumulated_total_tokens": 9,
        "accumulated_input_tokens": 5, "accumulated_output_tokens": 4, "schedule_id": "daily",
        "recipe": {"title": "r"}, "user_recipe_values": {"k": "v"}, "conversation": conversation_json(),
        "message_count": 6, "provider_name": "openai", "goose_mode": "approve", "project_id": "p1",
        "model_config": {"model_name": "gpt-4o", "context_limit": 128_000}})
}

/// What is exported of a document that was imported: everything but the model, which the importing person may lack.
#[test]
fn a_document_comes_back_as_it_went_in() {
    let document = whole_json();
    let imported = import(&document.to_string()).expect("imported");
    let session = Session { message_count: 6, ..imported.session.expect("a session") };
    let extensions: Vec<ExtensionStatus> = imported
        .extensions
        .into_iter()
        .map(|config| ExtensionStatus { config: Some(config), ..ExtensionStatus::default() })
        .collect();
    // The store gives ids to the items that have none.
    let numbered = imported.items.into_iter().enumerate().map(|(index, item)| {
        let item_id = if item.item_id.is_empty() { format!("i{index}") } else { item.item_id.clone() };
        Item { item_id, ..item }
    });
    let items: Vec<Item> = numbered.collect();
    let configured = pb::ModelSelection {
        provider_id: "openai".into(),
        model_id: "gpt-4o".into(),
        context_limit: Some(128_000),
        ..pb::ModelSelection::default()
    };
    let whole = Whole {
        session: &session,
        extensions: &extensions,
        items: &items,
        turns: &[],
        questions: &[],
        default_model: Some(&configured),
    };
    let mut exported: Value = serde_json::from_str(&export(&whole).expect("exported")).expect("JSON");
    let mut wanted = document;
    wanted["archived_at"] = Value::Null;
    wanted["accumulated_cost"] = Value::Null;
    wanted["model_config"] = json!({"model_name": "gpt-4o", "context_limit": 128_000, "temperature": null,
        "max_tokens": null, "toolshim": false, "toolshim_model": null});
    let (got, want) = (exported["conversation"].take(), wanted["conversation"].take());
    assert_eq!(exported, wanted);
    let (got, want) = (got.as_array().expect("messages"), want.as_array().expect("messages"));
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got, want);
    }
    assert_eq!(got.len(), want.len());
}

#[test]
fn what_a_document_tells_becomes_the_session() {
    let imported = import(&whole_json().to_string()).expect("imported");
    let session = imported.session.expect("a session");
    assert_eq!((session.title.as_str(), session.kind()), ("Mine", pb::SessionKind::Scheduled));
    assert_eq!(session.title_source(), pb::TitleSource::User);
    assert_eq!(session.mode(), pb::SessionMode::Approve);
    assert_eq!(session.model, None, "the importing person may not have it");
    assert_eq!(session.extension_state_json["todo.v0"], r#"{"content":"- [ ] x"}"#);
    assert_eq!(session.create_time.map(|time| time.seconds), Some(1_772_704_800));
    assert_eq!(session.recipe.expect("a recipe").values["k"], "v");
    assert_eq!((imported.extensions.len(), imported.format.as_str()), (1, "goose"));
}

#[test]
fn a_file_that_cannot_be_imported_is_refused_with_the_place() {
    let mut wrong = whole_json();
    wrong["extension_data"]["enabled_extensions.v0"]["extensions"] = json!([{"type": "stdio", "name": "x"}]);
    let error = import(&wrong.to_string()).expect_err("cmd is missing").to_string();
    assert!(error.contains("extensions[0].cmd"), "{error}");
    for text in ["", "[]", "{}", r#"{"working_dir": 1}"#] {
        let error = import(text).expect_err("no document").to_string();
        assert!(error.starts_with("The file is no session of Goose: "), "{error}");
    }
    let oldest = import(r#"{"working_dir": "/p", "description": "Old", "conversation": null}"#).expect("old");
    assert_eq!(oldest.session.expect("a session").title, "Old");
    assert!(oldest.items.is_empty());
}

#[test]
fn a_message_becomes_input() {
    let input = turn_input(&message(&json!([
        {"type": "text", "text": "look\u{E0041}"},
        {"type": "image", "data": "aGk=", "mimeType": "image/png"},
    ])))
    .expect("input");
    assert_eq!(input.parts[0].body, Some(part::Body::Text("look".into())), "no invisible characters");
    let Some(part::Body::Image(image)) = &input.parts[1].body else { panic!("{input:?}") };
    assert_eq!(image.mime_type, "image/png");
    assert_eq!(input.message_id, "k3j9x0ab");
    assert_eq!(input.client_create_time.map(|time| time.seconds), Some(1_772_700_000));
    for content in [
        json!([{"type": "image", "data": "no base64!", "mimeType": "image/png"}]),
        json!([{"type": "hologram"}]),
        json!([{"type": "toolResponse", "id": "c", "toolResult": {"status": "error", "error": "e"}}]),
    ] {
        let error = turn_input(&message(&content)).expect_err("cannot be sent");
        assert!(error.starts_with("content[0]"), "{error}");
    }
    let compact = message(&json!([{"type": "text", "text": "Please compact this conversation"}]));
    let parts = turn_input(&compact).expect("input").parts;
    assert_eq!(text_of(&parts), "/compact", "an old window's way to say it");
    let strange = Message { id: Some("with blanks".into()), ..message(&json!([])) };
    assert_eq!(turn_input(&strange).expect("input").message_id, "", "the daemon mints one");
}

#[test]
fn calls_keep_their_ids_only_where_they_are_wanted() {
    let messages: Vec<Message> = serde_json::from_value(conversation_json()).expect("messages");
    let ids = |keep| -> Vec<String> { history(&messages, keep).into_iter().map(|i| i.item_id).collect() };
    assert_eq!(ids(true).iter().filter(|id| !id.is_empty()).collect::<Vec<_>>(), ["t1", "t2"]);
    assert!(ids(false).iter().all(String::is_empty));
    assert!(history(&messages, true).iter().all(|item| item.state() == ItemState::Completed));
}

#[test]
fn repeated_ids_of_calls_keep_their_own_results() {
    let both = json!({"userVisible": true, "agentVisible": true});
    let call = |id: &str| {
        json!({"type": "toolRequest", "id": id,
        "toolCall": {"status": "success", "value": {"name": "a__b"}}})
    };
    let gave = |result: Value| json!([{"type": "toolResponse", "id": "call_0", "toolResult": result}]);
    let first = json!({"status": "success", "value":
        {"content": [{"type": "text", "text": "first"}], "isError": false}});
    let messages: Vec<Message> = serde_json::from_value(json!([
        {"role": "assistant", "created": 1, "metadata": both, "content": [call("call_0")]},
        {"role": "user", "created": 2, "metadata": both, "content": gave(first)},
        {"role": "assistant", "created": 3, "metadata": both, "content": [call("call_0"), call("lost")]},
        {"role": "user", "created": 4, "metadata": both,
            "content": gave(json!({"status": "error", "error": "second"}))},
    ]))
    .expect("messages");
    let items = history(&messages, true);
    let outcomes: Vec<(String, pb::ToolOutcome)> = items
        .iter()
        .map(|item| match &item.body {
            Some(Body::ToolCall(call)) => {
                let result = call.result.as_ref().expect("every call has a result");
                (text_of(&result.parts), result.outcome())
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
