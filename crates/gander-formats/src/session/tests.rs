use serde_json::{Value, json};

use super::{Action, Content, Document, Message, Metadata, Outcome, Role};

fn message(content: impl Into<Value>) -> Result<Message, serde_json::Error> {
    let content: Value = content.into();
    serde_json::from_value(json!({
        "id": "m", "role": "user", "created": 1_772_700_000, "content": content,
        "metadata": {"userVisible": true, "agentVisible": true},
    }))
}

#[test]
fn every_content_that_goose_writes_is_read_and_written_back() {
    let contents = json!([
        {"type": "text", "text": "hello"},
        {"type": "image", "data": "aGk=", "mimeType": "image/png"},
        {"type": "toolRequest", "id": "c", "toolCall": {"status": "success", "value":
            {"name": "developer__shell", "arguments": {"command": "ls"}}}, "_meta": {"goose_extension": "developer"}},
        {"type": "toolRequest", "id": "d", "toolCall": {"status": "error", "error": "no JSON"}},
        {"type": "toolResponse", "id": "c", "toolResult": {"status": "success", "value":
            {"content": [{"type": "text", "text": "a"}], "structuredContent": {"n": 1}, "isError": false}}},
        {"type": "toolConfirmationRequest", "id": "c", "toolName": "t", "arguments": {}, "prompt": null},
        {"type": "actionRequired", "data": {"actionType": "toolConfirmation", "id": "c", "toolName": "t",
            "arguments": {}, "prompt": null}},
        {"type": "actionRequired", "data": {"actionType": "elicitation", "id": "e", "message": "m",
            "requested_schema": {"type": "object"}}},
        {"type": "actionRequired", "data": {"actionType": "elicitationResponse", "id": "e", "user_data": {"a": 1}}},
        {"type": "frontendToolRequest", "id": "c", "toolCall": {"status": "success", "value": {"name": "t"}}},
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redactedThinking", "data": "x"},
        {"type": "systemNotification", "notificationType": "inlineMessage", "msg": "m"},
        {"type": "reasoning", "text": "r"},
        {"type": "conversationCompacted"},
        {"type": "hologram", "anything": [1, 2]},
    ]);
    let read = message(contents.clone()).expect("all of them");
    assert!(matches!(&read.content[8], Content::ActionRequired { data: Action::ElicitationResponse { .. } }));
    assert!(matches!(&read.content[15], Content::Unknown(_)));
    assert_eq!(serde_json::to_value(&read).expect("JSON")["content"], contents);
}

#[test]
fn what_goose_insists_on_is_insisted_on() {
    let error = |content: Value| message(content).expect_err("refused").to_string();
    assert!(error(json!([{"type": "text"}])).contains("content[0]: missing field `text`"));
    assert!(
        error(json!([{"type": "text", "text": "a"}, {"text": "b"}]))
            .contains("content[1]: missing field `type`")
    );
    assert!(error(json!("text")).contains("sequence"));
    let without = json!({"role": "user", "created": 1, "content": [], "metadata": {"userVisible": true}});
    let error = serde_json::from_value::<Message>(without).expect_err("both flags are needed").to_string();
    assert!(error.contains("agentVisible"), "{error}");
    for created in [json!("2026-01-01T00:00:00Z"), json!(1.5), Value::Null] {
        let value = json!({"role": "user", "created": created, "content": [],
            "metadata": {"userVisible": true, "agentVisible": true}});
        serde_json::from_value::<Message>(value).expect_err("whole seconds only");
    }
}

#[test]
fn older_forms_are_understood() {
    let read = message(json!([
        {"type": "toolRequest", "id": "c", "toolCall": {"status": "success", "value": {"name": "t", "arguments": [1]}}},
        {"type": "toolResponse", "id": "c", "toolResult": {"status": "success", "value": [{"type": "text", "text": "a"}]}},
    ]))
    .expect("old forms");
    let Content::ToolRequest { tool_call: Outcome::Success { value: call }, .. } = &read.content[0] else {
        panic!("{read:?}")
    };
    assert_eq!(call.arguments.as_ref().and_then(|map| map.get("value")), Some(&json!([1])));
    let Content::ToolResponse { tool_result: Outcome::Success { value: result }, .. } = &read.content[1]
    else {
        panic!("{read:?}")
    };
    assert_eq!((result.content.len(), result.is_error), (1, false));
}

#[test]
fn a_document_comes_back_as_it_went() {
    let document = Document::parse(
        r#"{"id": "20260305_7", "working_dir": "/p", "description": "Old name", "extension_data":
            {"enabled_extensions.v0": {"extensions": [{"type": "builtin", "name": "developer"}]}},
            "conversation": [{"role": "assistant", "created": 1, "content": [{"type": "text", "text": "hi"}],
            "metadata": {"userVisible": true, "agentVisible": false}}], "recipe": null, "later_field": 1}"#,
    )
    .expect("a document");
    assert_eq!((document.name.as_str(), document.session_type.as_str()), ("Old name", "user"));
    assert_eq!(document.enabled_extensions().len(), 1);
    let messages = document.conversation.as_deref().expect("messages");
    assert_eq!((messages[0].role, messages[0].metadata), (Role::Assistant, Metadata::USER_ONLY));
    let again = Document::parse(&document.to_pretty_json().expect("JSON")).expect("its own output");
    assert_eq!(again, document);
    let error = Document::parse("{\n\"working_dir\": 3}").expect_err("a wrong type").to_string();
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn absent_options_are_null_and_messages_are_null_unless_given() {
    let document = Document::parse(r#"{"working_dir": "/p"}"#).expect("the least");
    let value = serde_json::to_value(&document).expect("JSON");
    for field in ["conversation", "recipe", "provider_name", "model_config", "schedule_id", "total_tokens"] {
        assert_eq!(value.get(field), Some(&Value::Null), "{field}");
    }
}
