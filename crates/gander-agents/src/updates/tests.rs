use agent_client_protocol_schema::v1::SessionUpdate;
use serde_json::json;

use super::*;

fn told(update: &Value) -> Vec<AgentUpdate> {
    match parse(update) {
        Update::Tell(told) => told,
        other => panic!("{update}: {other:?}"),
    }
}

/// The same, and the update is one that the schema knows.
fn valid(update: &Value) -> Vec<AgentUpdate> {
    serde_json::from_value::<SessionUpdate>(update.clone()).expect("valid by the schema");
    told(update)
}

#[test]
fn messages() {
    let text = |kind: &str| json!({"sessionUpdate": kind, "messageId": "m", "content": {"type": "text", "text": "hi"}});
    let id = Some("m".to_owned());
    assert_eq!(
        valid(&text("agent_message_chunk")),
        [AgentUpdate::Text { message_id: id.clone(), text: "hi".into() }]
    );
    assert_eq!(
        valid(&text("agent_thought_chunk")),
        [AgentUpdate::Thought { message_id: id, text: "hi".into() }]
    );
    assert_eq!(parse(&text("user_message_chunk")), Update::Nothing);
    let image = json!({"sessionUpdate": "agent_message_chunk",
        "content": {"type": "image", "data": "AAEC", "mimeType": "image/png"}});
    assert!(matches!(&valid(&image)[..], [AgentUpdate::Part { .. }]));
}

#[test]
fn tool_calls() {
    let told = valid(&json!({
        "sessionUpdate": "tool_call", "toolCallId": "c1", "title": "Run tests", "name": "bash", "kind": "execute",
        "status": "in_progress", "rawInput": {"command": "make"}, "locations": [{"path": "/a", "line": 3}, {"path": "/b"}],
        "content": [
            {"type": "content", "content": {"type": "text", "text": "out"}},
            {"type": "diff", "path": "/a", "oldText": null, "newText": "x"},
            {"type": "terminal", "terminalId": "t1"},
        ],
    }));
    let [AgentUpdate::ToolCall(call)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((call.call_id.as_str(), call.name.as_deref()), ("c1", Some("bash")));
    assert_eq!((call.kind, call.status), (Some(ToolKind::Execute), Some(AgentToolStatus::InProgress)));
    assert_eq!(call.input_json.as_deref(), Some(r#"{"command":"make"}"#));
    assert_eq!(call.locations.as_ref().unwrap()[0].line, Some(3));
    let content = call.content.as_ref().unwrap();
    assert_eq!(content[0].as_text(), Some("out"));
    assert!(
        matches!(&content[1].body, PartBody::Diff { old_text: None, new_text: Some(new), .. } if new == "x")
    );
    assert!(matches!(&content[2].body, PartBody::Terminal { terminal_id, .. } if terminal_id == "t1"));
}

#[test]
fn absent_fields_leave_a_call_as_it_is() {
    let told =
        valid(&json!({"sessionUpdate": "tool_call_update", "toolCallId": "c1", "status": "completed"}));
    let [AgentUpdate::ToolCall(call)] = &told[..] else { panic!("{told:?}") };
    let expected = AgentToolCall {
        call_id: "c1".into(),
        status: Some(AgentToolStatus::Completed),
        ..AgentToolCall::default()
    };
    assert_eq!(**call, expected);
    let emptied = told_call(&json!({"sessionUpdate": "tool_call_update", "toolCallId": "c1", "content": []}));
    assert_eq!(emptied.content, Some(Vec::new()), "an empty list replaces too");
    let null = told_call(&json!({"sessionUpdate": "tool_call_update", "toolCallId": "c1", "content": null}));
    assert_eq!(null.content, None);
    assert_eq!(parse(&json!({"sessionUpdate": "tool_call"})), Update::Nothing, "without an id");
}

fn told_call(update: &Value) -> AgentToolCall {
    match told(update).pop() {
        Some(AgentUpdate::ToolCall(call)) => *call,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_agents_put_into_meta() {
    let call = told_call(&json!({"sessionUpdate": "tool_call", "toolCallId": "c", "title": "t",
        "_meta": {"claudeCode": {"toolName": "Bash"}}}));
    assert_eq!(call.name.as_deref(), Some("Bash"));
    let told = valid(&json!({"sessionUpdate": "tool_call_update", "toolCallId": "c", "status": "completed",
        "_meta": {"terminal_output": {"terminal_id": "c", "data": "line\n"}}}));
    assert_eq!(told[0], AgentUpdate::ToolOutput { call_id: "c".into(), text: "line\n".into() });
    assert!(matches!(told[1], AgentUpdate::ToolCall(_)), "output comes before the end");
}

#[test]
fn state_of_the_session() {
    let plan = valid(&json!({"sessionUpdate": "plan", "entries": [
        {"content": "a", "priority": "high", "status": "in_progress"}]}));
    let entry = PlanEntry { content: "a".into(), priority: "high".into(), status: "in_progress".into() };
    assert_eq!(plan, [AgentUpdate::Plan(vec![entry])]);
    let commands = valid(&json!({"sessionUpdate": "available_commands_update", "availableCommands": [
        {"name": "web", "description": "Search", "input": {"hint": "query"}}, {"name": "x", "description": ""}]}));
    let [AgentUpdate::Commands(commands)] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!((commands[0].input_hint.as_str(), commands[1].kind.as_str()), ("query", "backend"));
    assert_eq!(
        parse(&json!({"sessionUpdate": "current_mode_update", "currentModeId": "plan"})),
        Update::Mode("plan".into())
    );
    assert!(matches!(
        parse(&json!({"sessionUpdate": "config_option_update", "configOptions": []})),
        Update::Options(_)
    ));
    let usage = valid(&json!({"sessionUpdate": "usage_update", "used": 10, "size": 100,
        "cost": {"amount": 0.0125, "currency": "USD"}}));
    let cost = Cost { amount_micros: 12_500, currency: "USD".into(), source: CostSource::Provider };
    assert_eq!(
        usage,
        [AgentUpdate::Usage { context_used_tokens: 10, context_window_tokens: 100, cost: Some(cost) }]
    );
    assert_eq!(
        valid(&json!({"sessionUpdate": "session_info_update", "title": "T"})),
        [AgentUpdate::Title("T".into())]
    );
    assert_eq!(parse(&json!({"sessionUpdate": "session_info_update", "title": null})), Update::Nothing);
}

#[test]
fn notices_and_compaction() {
    for (update, level, text) in [
        (
            json!({"sessionUpdate": "notice", "severity": "warning", "title": "Careful", "description": "hot"}),
            NoticeLevel::Warning,
            "Careful: hot",
        ),
        (json!({"sessionUpdate": "notice", "severity": "_own", "title": "t"}), NoticeLevel::Info, "t"),
        (
            json!({"sessionUpdate": "compaction_update", "compactionId": "c", "status": "failed", "error": "e"}),
            NoticeLevel::Warning,
            "the agent could not shorten its context: e",
        ),
    ] {
        let told = valid(&update);
        let [AgentUpdate::Notice { level: got, text: said, .. }] = &told[..] else { panic!("{told:?}") };
        assert_eq!((*got, said.as_str()), (level, text));
    }
}

#[test]
fn the_unknown_is_left_out() {
    for update in [
        json!({"sessionUpdate": "from_the_future", "x": 1}),
        json!({"sessionUpdate": "usage_update", "used": "many"}),
        json!({"sessionUpdate": "agent_message_chunk"}),
        json!({}),
        json!(null),
    ] {
        assert_eq!(parse(&update), Update::Nothing, "{update}");
    }
}
