//! Events in, updates out: golden pairs, without an engine.

use gander_proto::v1::{
    AgentMessage, ArgumentsDelta, Compaction, ItemCompleted, ItemStarted, ItemState, PlanEntry, PlanUpdated,
    SessionOptionChoice, SessionOptionValue, SessionUpdated, TextDelta, Thought, ThoughtDelta, ToolCall,
    ToolCallStatus, ToolCallUpdated, ToolKind, ToolOutcome, ToolOutputDelta, ToolProgress, ToolResult,
    UsageReported, UserMessage, Visibility, session_option_value,
};
use serde_json::{Value, json};

use super::*;

fn caps() -> ClientCaps {
    ClientCaps { notices: true, compaction: true, ..ClientCaps::default() }
}

fn state(caps: ClientCaps) -> DialectState {
    DialectState::new(caps, "/w")
}

fn event(payload: Payload) -> SessionEvent {
    SessionEvent { session_id: "s".into(), payload: Some(payload), ..SessionEvent::default() }
}

fn json_of(updates: &[acp::SessionUpdate]) -> Vec<Value> {
    updates.iter().map(|update| serde_json::to_value(update).expect("JSON")).collect()
}

fn run(state: &mut DialectState, payload: Payload) -> Vec<Value> {
    json_of(&translate(&event(payload), state))
}

fn text(text: &str) -> Part {
    Part { body: Some(part::Body::Text(text.into())), ..Part::default() }
}

fn item(id: &str, body: item::Body) -> Item {
    Item {
        item_id: id.into(),
        message_id: format!("m-{id}"),
        state: ItemState::InProgress as i32,
        body: Some(body),
        visibility: Some(Visibility { user: true, model: true }),
        ..Item::default()
    }
}

fn started(item: Item) -> Payload {
    Payload::ItemStarted(Box::new(ItemStarted { item: Some(item) }))
}

fn completed(item: Item) -> Payload {
    let item = Item { state: ItemState::Completed as i32, ..item };
    Payload::ItemCompleted(Box::new(ItemCompleted { item: Some(item) }))
}

fn said(id: &str, texts: &[&str]) -> Item {
    let parts = texts.iter().map(|t| text(t)).collect();
    item(id, item::Body::AgentMessage(AgentMessage { parts, demo: false }))
}

fn delta(id: &str, words: &str) -> Payload {
    Payload::TextDelta(TextDelta { item_id: id.into(), text: words.into(), part_index: 0 })
}

fn call(status: ToolCallStatus) -> ToolCall {
    ToolCall {
        name: "developer__shell".into(),
        extension_name: "developer".into(),
        tool_name: "shell".into(),
        title: "shell: make".into(),
        kind: ToolKind::Execute as i32,
        status: status as i32,
        arguments_json: r#"{"command":"make"}"#.into(),
        ..ToolCall::default()
    }
}

fn tool(id: &str, call: ToolCall) -> Item {
    item(id, item::Body::ToolCall(Box::new(call)))
}

fn updated(id: &str, call: ToolCall) -> Payload {
    Payload::ToolCallUpdated(Box::new(ToolCallUpdated { item_id: id.into(), tool_call: Some(call) }))
}

fn output(id: &str, words: &str) -> Payload {
    Payload::ToolOutputDelta(ToolOutputDelta { item_id: id.into(), text: words.into(), stream: 1 })
}

fn result(outcome: ToolOutcome, words: &str, structured: &str) -> ToolResult {
    ToolResult {
        outcome: outcome as i32,
        parts: if words.is_empty() { Vec::new() } else { vec![text(words)] },
        structured_content_json: structured.into(),
        ..ToolResult::default()
    }
}

#[test]
fn deltas_are_sent_once_and_what_was_missed_comes_with_the_completed_item() {
    let mut state = state(caps());
    assert_eq!(run(&mut state, started(said("1", &[]))), Vec::<Value>::new());
    assert_eq!(
        run(&mut state, delta("1", "hel")),
        [json!({"sessionUpdate": "agent_message_chunk", "messageId": "m-1",
            "content": {"type": "text", "text": "hel"}})]
    );
    // Nothing was missed: nothing more is said.
    let mut whole = state.clone();
    assert_eq!(run(&mut whole, delta("1", "lo")).len(), 1);
    assert_eq!(run(&mut whole, completed(said("1", &["hello"]))), Vec::<Value>::new());
    // The second delta was dropped from the log before this client saw it.
    let rest = run(&mut state, completed(said("1", &["hello", "!"])));
    let texts: Vec<_> = rest.iter().map(|update| update["content"]["text"].clone()).collect();
    assert_eq!(texts, ["lo", "!"]);
    // An item that was never seen beginning.
    assert_eq!(run(&mut state, completed(said("2", &["whole"])))[0]["content"]["text"], "whole");
    assert_eq!(run(&mut state, delta("unknown", "x")), Vec::<Value>::new());
}

#[test]
fn thoughts_are_a_message_of_their_own() {
    let mut state = state(caps());
    let thought =
        |text: &str| item("1", item::Body::Thought(Thought { text: text.into(), ..Thought::default() }));
    run(&mut state, started(thought("")));
    let delta = ThoughtDelta { item_id: "1".into(), text: "hm".into(), part_index: 0 };
    assert_eq!(
        run(&mut state, Payload::ThoughtDelta(delta)),
        [json!({"sessionUpdate": "agent_thought_chunk", "messageId": "m-1-t",
            "content": {"type": "text", "text": "hm"}})]
    );
    assert_eq!(run(&mut state, completed(thought("hmm")))[0]["content"]["text"], "m");
}

#[test]
fn own_messages_are_not_echoed_and_those_of_others_are_shown() {
    let mut state = state(caps());
    let message = |id: &str| {
        let parts = vec![text("hi")];
        completed(item(id, item::Body::UserMessage(UserMessage { parts, steered: false })))
    };
    state.expect_own("m-1");
    assert_eq!(run(&mut state, message("1")), Vec::<Value>::new());
    assert_eq!(
        run(&mut state, message("2")),
        [json!({"sessionUpdate": "user_message_chunk", "messageId": "m-2",
            "content": {"type": "text", "text": "hi"}})]
    );
    // The log repeats a message once; later ones of the same id are others'.
    assert_eq!(run(&mut state, message("1")).len(), 1);
}

#[test]
fn a_tool_call_from_its_beginning_to_its_end() {
    let mut state = state(ClientCaps::default());
    let begun = ToolCall {
        arguments_json: String::new(),
        title: String::new(),
        ..call(ToolCallStatus::StreamingArguments)
    };
    assert_eq!(
        run(&mut state, started(tool("1", begun))),
        [json!({"sessionUpdate": "tool_call", "toolCallId": "1", "title": "developer__shell",
            "name": "developer__shell", "kind": "execute"})]
    );
    let arguments = |text: &str| {
        Payload::ArgumentsDelta(ArgumentsDelta { item_id: "1".into(), text: text.into(), part_index: 0 })
    };
    assert_eq!(run(&mut state, arguments(r#"{"comm"#)), Vec::<Value>::new());
    assert_eq!(
        run(&mut state, arguments(r#"and": "make everything"#)),
        [json!({"sessionUpdate": "tool_call_update", "toolCallId": "1",
            "rawInput": {"command": "make everything"}})]
    );
    let asking = run(&mut state, updated("1", call(ToolCallStatus::AwaitingApproval)));
    assert_eq!(
        asking,
        [json!({"sessionUpdate": "tool_call_update", "toolCallId": "1", "title": "shell: make",
            "rawInput": {"command": "make"},
            "content": [{"type": "content", "content": {"type": "text", "text": "```sh\nmake\n```"}}]})]
    );
    assert_eq!(
        run(&mut state, updated("1", call(ToolCallStatus::Running))),
        [json!({"sessionUpdate": "tool_call_update", "toolCallId": "1", "status": "in_progress"})]
    );
    assert_eq!(
        run(&mut state, output("1", "cc a.c\n")),
        [json!({"sessionUpdate": "tool_call_update", "toolCallId": "1",
            "content": [{"type": "content", "content": {"type": "text", "text": "```\ncc a.c\n```"}}]})]
    );
    let done = ToolCall {
        result: Some(result(ToolOutcome::Ok, "cc a.c\nexit code 0", r#"{"exit_code":0}"#)),
        ..call(ToolCallStatus::Completed)
    };
    assert_eq!(
        run(&mut state, completed(tool("1", done))),
        [json!({"sessionUpdate": "tool_call_update", "toolCallId": "1", "status": "completed",
            "rawOutput": {"exit_code": 0},
            "content": [{"type": "content", "content": {"type": "text", "text": "cc a.c\nexit code 0"}}]})]
    );
    assert!(state.open.is_empty(), "what is complete is forgotten");
}

#[test]
fn a_client_that_shows_terminals_gets_one() {
    let mut state = state(ClientCaps { meta_terminal_output: true, ..ClientCaps::default() });
    run(&mut state, started(tool("1", call(ToolCallStatus::Pending))));
    assert_eq!(
        run(&mut state, updated("1", call(ToolCallStatus::Running))),
        [json!({"sessionUpdate": "tool_call_update", "toolCallId": "1", "status": "in_progress",
            "content": [{"type": "terminal", "terminalId": "1"}],
            "_meta": {"terminal_info": {"terminal_id": "1", "cwd": "/w"}}})]
    );
    assert_eq!(
        run(&mut state, output("1", "out\n")),
        [json!({"sessionUpdate": "tool_call_update", "toolCallId": "1",
            "_meta": {"terminal_output": {"terminal_id": "1", "data": "out\n"}}})]
    );
    let done = ToolCall {
        result: Some(result(ToolOutcome::Ok, "out\nexit code 3", r#"{"exit_code":3,"signal":null}"#)),
        ..call(ToolCallStatus::Completed)
    };
    let end = run(&mut state, completed(tool("1", done.clone())));
    assert_eq!(end[0]["status"], "completed");
    assert_eq!(end[0].get("content"), None, "the terminal stays");
    assert_eq!(
        end[1],
        json!({"sessionUpdate": "tool_call_update", "toolCallId": "1",
            "_meta": {"terminal_exit": {"terminal_id": "1", "exit_code": 3, "signal": null}}})
    );
    // The same call out of the log: terminal, output and exit, in this order.
    let replayed = json_of(&state.replay(&Item { state: ItemState::Completed as i32, ..tool("1", done) }));
    assert_eq!(replayed[0]["content"], json!([{"type": "terminal", "terminalId": "1"}]));
    assert_eq!(replayed[0]["status"], "completed");
    assert_eq!(replayed[1]["_meta"]["terminal_output"]["data"], "out\nexit code 3");
    assert_eq!(replayed[2]["_meta"]["terminal_exit"]["exit_code"], 3);
}

#[test]
fn output_is_the_end_of_what_was_written_and_nothing_is_held_back_for_ever() {
    let mut state = state(ClientCaps::default());
    run(&mut state, started(tool("1", call(ToolCallStatus::Running))));
    let line = format!("{}\n", "x".repeat(99));
    let mut sent = 0;
    let mut bytes = 0;
    for _ in 0..2000 {
        for update in run(&mut state, output("1", &line)) {
            sent += 1;
            bytes += update.to_string().len();
        }
    }
    run(&mut state, output("1", "the end"));
    let last = if state.holds_back() { json_of(&state.flush()) } else { Vec::new() };
    assert!(!state.holds_back());
    if let Some(last) = last.first() {
        let shown = last["content"][0]["content"]["text"].as_str().expect("text");
        assert!(shown.ends_with("the end\n```") && shown.len() < 20_000, "{}", shown.len());
    }
    assert!(sent > 20, "{sent}");
    assert!(bytes < 200_000 * 40, "{bytes} bytes for 200 kB of output");
}

#[test]
fn edits_show_their_change_before_and_after() {
    let mut state = state(ClientCaps::default());
    let edit = |status| ToolCall {
        name: "developer__edit".into(),
        title: "edit: a.rs".into(),
        kind: ToolKind::Edit as i32,
        arguments_json: r#"{"path":"a.rs","old_text":"one","new_text":"two"}"#.into(),
        locations: vec![gander_proto::v1::ToolLocation { path: "a.rs".into(), line: Some(7) }],
        ..call(status)
    };
    let diff =
        |old: &str, new: &str| json!([{"type": "diff", "path": "/w/a.rs", "oldText": old, "newText": new}]);
    let begun = run(&mut state, started(tool("1", edit(ToolCallStatus::Pending))));
    assert_eq!(begun[0]["locations"], json!([{"path": "/w/a.rs", "line": 7}]));
    assert_eq!(begun[0]["content"], diff("one", "two"));
    let shown = state.snapshot(&edit(ToolCallStatus::AwaitingApproval));
    assert_eq!(serde_json::to_value(&shown).expect("JSON")["content"], diff("one", "two"));
    let change = gander_proto::v1::FileDiff {
        path: "a.rs".into(),
        old_text: Some("one\n".into()),
        new_text: Some("two\n".into()),
        patch: None,
    };
    let done = ToolCall {
        content: vec![Part { body: Some(part::Body::Diff(change)), ..Part::default() }],
        result: Some(result(ToolOutcome::Ok, "replaced a.rs", "")),
        ..edit(ToolCallStatus::Completed)
    };
    let end = run(&mut state, completed(tool("1", done)));
    assert_eq!(end[0]["content"], diff("one\n", "two\n"));
}

#[test]
fn a_call_that_did_not_succeed_says_why() {
    for (status, outcome, words, wanted) in [
        (ToolCallStatus::Declined, ToolOutcome::Declined, "", "The call was refused."),
        (ToolCallStatus::Cancelled, ToolOutcome::Cancelled, "", "The call was cancelled."),
        (ToolCallStatus::Failed, ToolOutcome::ToolError, "no such file", "no such file"),
        (ToolCallStatus::TimedOut, ToolOutcome::TimedOut, "", "The tool did not answer in time."),
    ] {
        let mut state = state(ClientCaps::default());
        let ended = ToolCall { result: Some(result(outcome, words, "")), ..call(status) };
        let shown = run(&mut state, completed(tool("1", ended)));
        assert_eq!(shown[0]["sessionUpdate"], "tool_call");
        assert_eq!(shown[0]["status"], "failed", "{status:?}");
        assert_eq!(shown[0]["content"][0]["content"]["text"], wanted, "{status:?}");
    }
}

#[test]
fn gated_updates_need_their_capability() {
    let notice = |level: NoticeLevel| {
        let notice =
            Notice { level: level as i32, code: "x".into(), text: "Look".into(), data_json: String::new() };
        completed(item("n", item::Body::Notice(notice)))
    };
    let compaction = |text_of: &str| {
        let body = Compaction { summary_parts: vec![text(text_of)], ..Compaction::default() };
        item("c", item::Body::Compaction(body))
    };
    let mut able = state(caps());
    assert_eq!(
        run(&mut able, notice(NoticeLevel::Warning)),
        [json!({"sessionUpdate": "notice", "severity": "warning", "title": "Look"})]
    );
    assert_eq!(
        run(&mut able, started(compaction(""))),
        [json!({"sessionUpdate": "compaction_update", "compactionId": "c", "status": "in_progress"})]
    );
    assert_eq!(run(&mut able, delta("c", "sum"))[0]["sessionUpdate"], "compaction_summary_chunk");
    let end = run(&mut able, completed(compaction("sum")));
    assert_eq!(end[0]["status"], "completed");
    assert_eq!(end[0]["summary"], json!([{"type": "text", "text": "sum"}]));

    let mut unable = state(ClientCaps::default());
    assert_eq!(run(&mut unable, notice(NoticeLevel::Info)), Vec::<Value>::new());
    // What must not be missed comes as text.
    assert_eq!(run(&mut unable, notice(NoticeLevel::Error))[0]["content"]["text"], "Look\n");
    assert_eq!(run(&mut unable, started(compaction(""))), Vec::<Value>::new());
    assert_eq!(run(&mut unable, delta("c", "sum")), Vec::<Value>::new());
    assert_eq!(run(&mut unable, completed(compaction("sum"))), Vec::<Value>::new());
}

fn option(id: &str, category: &str, value: &str, choices: &[&str]) -> SessionOption {
    let choice = |value: &&str| SessionOptionChoice {
        value: (*value).into(),
        name: value.to_uppercase(),
        ..SessionOptionChoice::default()
    };
    SessionOption {
        option_id: id.into(),
        name: id.into(),
        category: category.into(),
        value: Some(SessionOptionValue { value: Some(session_option_value::Value::Choice(value.into())) }),
        choices: choices.iter().map(choice).collect(),
        ..SessionOption::default()
    }
}

#[test]
fn modes_and_options_say_the_same() {
    let options = |mode: &str| {
        vec![option("mode", "mode", mode, &["auto", "approve"]), option("model", "model", "m", &["m"])]
    };
    let on = SessionOption {
        value: Some(SessionOptionValue { value: Some(session_option_value::Value::Enabled(true)) }),
        ..option("fast", "speed", "", &[])
    };
    let all = [options("auto"), vec![on]].concat();
    let plain = ClientCaps::default();
    let shown = serde_json::to_value(options::config_options(&all, &plain)).expect("JSON");
    assert_eq!(shown.as_array().map(Vec::len), Some(2), "a switch needs its capability: {shown}");
    assert_eq!(shown[0]["type"], "select");
    assert_eq!(shown[0]["currentValue"], "auto");
    assert_eq!(shown[0]["category"], "mode");
    let able = ClientCaps { boolean_options: true, ..ClientCaps::default() };
    let shown = serde_json::to_value(options::config_options(&all, &able)).expect("JSON");
    assert_eq!(
        shown[2],
        json!({"id": "fast", "name": "fast", "category": "_speed", "type": "boolean", "currentValue": true})
    );
    let modes = serde_json::to_value(options::modes(&all)).expect("JSON");
    assert_eq!(modes["currentModeId"], "auto");
    assert_eq!(modes["availableModes"][1], json!({"id": "approve", "name": "APPROVE"}));

    let changed = json_of(&options::changes(&options("auto"), &options("approve"), &plain));
    assert_eq!(changed[0], json!({"sessionUpdate": "current_mode_update", "currentModeId": "approve"}));
    assert_eq!(changed[1]["configOptions"][0]["currentValue"], "approve");
    assert_eq!(options::changes(&options("auto"), &options("auto"), &plain), []);
}

#[test]
fn what_is_said_about_the_session() {
    let mut state = state(ClientCaps::default());
    let session = |title: &str| Session {
        session_id: "s".into(),
        title: title.into(),
        update_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        ..Session::default()
    };
    let update = |title: &str| {
        let updated = SessionUpdated { session: Some(session(title)), ..SessionUpdated::default() };
        Payload::SessionUpdated(Box::new(updated))
    };
    assert_eq!(
        run(&mut state, update("A title")),
        [
            json!({"sessionUpdate": "session_info_update", "title": "A title", "updatedAt": "2023-11-14T22:13:20Z"})
        ]
    );
    assert_eq!(run(&mut state, update("A title")), Vec::<Value>::new());

    let usage = |used: Option<i64>, window: Option<i64>| {
        let cost = gander_proto::v1::Cost { amount_micros: 1_500_000, currency: String::new(), source: 2 };
        Payload::UsageReported(Box::new(UsageReported {
            context_used_tokens: used,
            context_window_tokens: window,
            cost_totals: Some(cost),
            ..UsageReported::default()
        }))
    };
    assert_eq!(run(&mut state, usage(Some(10), None)), Vec::<Value>::new(), "a part says nothing");
    assert_eq!(
        run(&mut state, usage(Some(20), Some(100))),
        [
            json!({"sessionUpdate": "usage_update", "used": 20, "size": 100, "cost": {"amount": 1.5, "currency": "USD"}})
        ]
    );
    assert_eq!(run(&mut state, usage(None, None)), Vec::<Value>::new(), "nothing changed");

    let entry = PlanEntry { content: "do it".into(), priority: 1, status: 2 };
    let plan = gander_proto::v1::Plan { entries: vec![entry], ..gander_proto::v1::Plan::default() };
    assert_eq!(
        run(&mut state, Payload::PlanUpdated(PlanUpdated { plan: Some(plan) })),
        [
            json!({"sessionUpdate": "plan", "entries": [{"content": "do it", "priority": "high", "status": "in_progress"}]})
        ]
    );
}

#[test]
fn what_people_do_not_see_is_not_shown() {
    let mut state = state(caps());
    let hidden = Item { visibility: Some(Visibility { user: false, model: true }), ..said("1", &["x"]) };
    assert_eq!(run(&mut state, started(hidden.clone())), Vec::<Value>::new());
    assert_eq!(run(&mut state, delta("1", "x")), Vec::<Value>::new());
    assert_eq!(run(&mut state, completed(hidden.clone())), Vec::<Value>::new());
    assert_eq!(state.replay(&hidden), []);
    let redacted = Item { redacted: true, body: None, ..said("2", &["x"]) };
    assert_eq!(state.replay(&redacted), []);
}

#[test]
fn a_conversation_is_shown_again_as_far_as_it_is() {
    let mut state = state(caps());
    let user = item(
        "0",
        item::Body::UserMessage(UserMessage { parts: vec![text("go"), text("on")], steered: false }),
    );
    let kinds = |updates: Vec<acp::SessionUpdate>| -> Vec<String> {
        json_of(&updates).iter().map(|u| u["sessionUpdate"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(kinds(state.replay(&user)), ["user_message_chunk", "user_message_chunk"]);
    let notice = Notice { level: 3, code: "x".into(), text: "old".into(), data_json: String::new() };
    assert_eq!(kinds(state.replay(&item("1", item::Body::Notice(notice)))), Vec::<String>::new());
    // In progress: what there is, and then its deltas.
    assert_eq!(json_of(&state.replay(&said("2", &["hal"])))[0]["content"]["text"], "hal");
    assert_eq!(run(&mut state, delta("2", "f"))[0]["content"]["text"], "f");
    assert_eq!(run(&mut state, completed(said("2", &["half"]))), Vec::<Value>::new());
    let running = state.replay(&tool("3", call(ToolCallStatus::Running)));
    assert_eq!(json_of(&running)[0]["status"], "in_progress");
    let progress = ToolProgress {
        item_id: "3".into(),
        progress: 1.0,
        total: Some(2.0),
        message: "half".into(),
        subagent: None,
    };
    let shown = run(&mut state, Payload::ToolProgress(progress));
    assert_eq!(shown[0]["content"][0]["content"]["text"], "```\nhalf (1/2)\n```");
}

#[test]
fn a_client_that_resumes_is_shown_only_what_is_new() {
    let mut state = state(caps());
    state.adopt(&said("1", &["hel"]));
    state.adopt(&tool("2", call(ToolCallStatus::Running)));
    state.adopt(&Item { state: ItemState::Completed as i32, ..said("3", &["old"]) });
    assert_eq!(run(&mut state, completed(said("1", &["hello"])))[0]["content"]["text"], "lo");
    let done =
        ToolCall { result: Some(result(ToolOutcome::Ok, "ok", "")), ..call(ToolCallStatus::Completed) };
    let end = run(&mut state, completed(tool("2", done)));
    assert_eq!(end[0]["sessionUpdate"], "tool_call_update");
    assert_eq!(end[0]["status"], "completed");
}

#[test]
fn a_terminal_of_the_clients_shows_its_own_output() {
    let mut state = state(ClientCaps { terminal: true, ..ClientCaps::default() });
    run(&mut state, started(tool("1", call(ToolCallStatus::Running))));
    let shown = json_of(&state.embed_terminal("1", "term-9"));
    assert_eq!(shown[0]["content"], json!([{"type": "terminal", "terminalId": "term-9"}]));
    assert_eq!(run(&mut state, output("1", "x")), Vec::<Value>::new());
}

#[test]
fn what_is_changed_most_comes_first() {
    let given = ["model_config", "thought_level", "", "model", "mode", "special"]
        .map(|category| option(&format!("o-{category}"), category, "x", &["x"]));
    let shown = serde_json::to_value(options::config_options(&given, &ClientCaps::default())).expect("JSON");
    let categories: Vec<_> =
        shown.as_array().expect("options").iter().map(|option| option["category"].as_str()).collect();
    let wanted =
        [Some("mode"), Some("model"), Some("thought_level"), Some("model_config"), None, Some("_special")];
    assert_eq!(categories, wanted);
}

fn options_changed(sequence: i64, mode: &str) -> SessionEvent {
    let choices =
        ["auto", "chat"].map(|value| SessionOptionChoice { value: value.into(), ..Default::default() });
    let option = SessionOption {
        option_id: "mode".into(),
        category: "mode".into(),
        value: Some(SessionOptionValue { value: Some(session_option_value::Value::Choice(mode.into())) }),
        choices: choices.to_vec(),
        ..SessionOption::default()
    };
    let changed = gander_proto::v1::SessionOptionsChanged { options: vec![option] };
    SessionEvent { sequence, ..event(Payload::SessionOptionsChanged(changed)) }
}

#[test]
fn options_of_older_events_and_older_answers_tell_nothing() {
    let options = |mode: &str| match options_changed(0, mode).payload {
        Some(Payload::SessionOptionsChanged(changed)) => changed.options,
        other => panic!("{other:?}"),
    };
    let mut state = state(caps());
    let told = translate(&options_changed(5, "auto"), &mut state);
    assert_eq!(json_of(&told)[0]["currentModeId"], "auto");
    // The answer to a later request overtakes the events of an earlier and of its own.
    assert_eq!(json_of(&state.options_now(&options("chat"), 9))[0]["currentModeId"], "chat");
    assert_eq!(translate(&options_changed(7, "auto"), &mut state), []);
    assert_eq!(translate(&options_changed(9, "chat"), &mut state), []);
    // An answer that is itself overtaken by an event.
    assert_eq!(translate(&options_changed(12, "auto"), &mut state).len(), 2);
    assert_eq!(state.options_now(&options("chat"), 11), []);
    assert_eq!(state.options(), options("auto"));
    // What a snapshot says holds as far as the snapshot.
    let session = Session { options: options("chat"), last_sequence: 20, ..Session::default() };
    state.session_told(&session);
    assert_eq!(translate(&options_changed(20, "auto"), &mut state), []);
    assert_eq!(translate(&options_changed(21, "auto"), &mut state).len(), 2);
}

#[test]
fn commands_are_told_once() {
    let command = Command { name: "review".into(), help: "Reviews".into(), ..Command::default() };
    let changed = gander_proto::v1::CommandsChanged { commands: vec![command.clone()] };
    let mut state = state(caps());
    assert_eq!(state.commands_now(&[]), None);
    let told = run(&mut state, Payload::CommandsChanged(changed.clone()));
    assert_eq!(told[0]["availableCommands"][0]["name"], "review");
    assert!(run(&mut state, Payload::CommandsChanged(changed)).is_empty());
    assert_eq!(state.commands_now(&[command]), None);
}

/// Events of the kinds that Goose has updates of its own for.
fn for_goose() -> Vec<SessionEvent> {
    let turn = gander_proto::v1::Turn { turn_id: "t".into(), ..Default::default() };
    let started = gander_proto::v1::TurnStarted { turn: Some(turn.clone()) };
    let ended = gander_proto::v1::TurnEnded { turn: Some(turn) };
    let totals =
        gander_proto::v1::Usage { input_tokens: Some(10), output_tokens: Some(2), ..Default::default() };
    let usage = UsageReported {
        session_totals: Some(totals),
        context_used_tokens: Some(12),
        context_window_tokens: Some(100),
        cost_totals: Some(gander_proto::v1::Cost { amount_micros: 500_000, ..Default::default() }),
        ..UsageReported::default()
    };
    let status = gander_proto::v1::StatusNoted {
        level: NoticeLevel::Info as i32,
        text: "waiting".into(),
        code: "provider_pause".into(),
    };
    let notice = Notice { level: NoticeLevel::Warning as i32, text: "careful".into(), ..Notice::default() };
    let compaction = Compaction { summary_parts: vec![text("short")], ..Compaction::default() };
    vec![
        event(Payload::TurnStarted(Box::new(started))),
        event(Payload::UsageReported(Box::new(usage))),
        event(Payload::StatusNoted(status)),
        event(completed(item("n", item::Body::Notice(notice)))),
        event(completed(item("c", item::Body::Compaction(compaction)))),
        event(Payload::TurnEnded(Box::new(ended))),
    ]
}

#[test]
fn goose_updates_are_for_those_who_ask() {
    let mut plain = state(caps());
    let goose = ClientCaps { goose_notifications: true, ..ClientCaps::default() };
    let mut asking = state(goose);
    let (mut theirs, mut standard) = (Vec::new(), Vec::new());
    for event in for_goose() {
        let updates = json_of(&translate(&event, &mut plain));
        assert!(!updates.iter().any(|update| update.to_string().contains("goose")), "{updates:?}");
        assert_eq!(goose::updates(&event, &plain), None);
        standard.extend(json_of(&translate(&event, &mut asking)));
        theirs.extend(goose::updates(&event, &asking));
    }
    let status = |kind: &str, text: &str| json!({"sessionUpdate": "status_message", "status": {"type": kind, "message": text}});
    let usage = json!({"sessionUpdate": "usage_update", "used": 12, "contextLimit": 100,
        "accumulatedInputTokens": 10, "accumulatedOutputTokens": 2, "accumulatedCost": 0.5});
    let wanted = [
        usage,
        status("progress", "waiting"),
        status("notice", "careful"),
        status("notice", "Compaction complete"),
    ];
    assert_eq!(theirs, wanted);
    let runs: Vec<_> =
        standard.iter().filter_map(|update| update.pointer("/_meta/goose/activeRunId")).collect();
    assert_eq!(runs, [&json!("t"), &Value::Null]);
}

#[test]
fn a_status_is_a_notice_for_those_who_show_them() {
    let pause = for_goose().remove(2);
    assert_eq!(json_of(&translate(&pause, &mut state(caps())))[0]["title"], "waiting");
    assert_eq!(translate(&pause, &mut state(ClientCaps::default())), []);
    let status = gander_proto::v1::StatusNoted {
        text: "compacting".into(),
        code: "compaction_started".into(),
        ..Default::default()
    };
    assert_eq!(run(&mut state(caps()), Payload::StatusNoted(status)), Vec::<Value>::new());
}
