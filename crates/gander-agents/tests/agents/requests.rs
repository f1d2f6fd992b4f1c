//! What the agent asks: permission, forms, files, terminals.

use agent_client_protocol_schema::v1::{
    CreateElicitationResponse, CreateTerminalResponse, ReadTextFileResponse, RequestPermissionResponse,
    TerminalOutputResponse, WaitForTerminalExitResponse,
};
use gander_domain::{
    PartBody,
    host::{HostCallKind, HostCallOutcome},
};
use gander_model::{AgentElicitationAnswer, AgentPermissionKind, AgentUpdate};
use serde_json::{Value, json};

use crate::harness::{Rig, prompt, say, stop};

fn ask(method: &str, params: &Value) -> Value {
    json!({ "request": { "method": method, "params": params } })
}

fn permission() -> Value {
    json!({
        "sessionId": "$session",
        "toolCall": {"toolCallId": "c1", "title": "rm -rf x", "kind": "execute", "rawInput": {"command": "rm"}},
        "options": [
            {"optionId": "yes", "name": "Yes", "kind": "allow_once"},
            {"optionId": "ever", "name": "Always", "kind": "allow_always"},
            {"optionId": "no", "name": "No", "kind": "reject_once"},
            {"optionId": "odd", "name": "Odd", "kind": "allow_sometimes"},
        ],
    })
}

#[tokio::test]
async fn permission_is_asked_with_the_agents_options() {
    let asked = ask("session/request_permission", &permission());
    let steps = [
        asked.clone(),
        asked.clone(),
        asked,
        ask("session/request_permission", &json!({})),
        stop("end_turn"),
    ];
    let rig = Rig::new(&json!({"session/prompt": [steps]}));
    rig.client.permissions.lock().unwrap().extend([Some("ever".into()), None, Some("odd".into())]);
    let session = rig.open().await;
    prompt(&session, "go").await.unwrap();
    let answers = rig.answers();
    assert_eq!(answers[0], json!({"outcome": {"outcome": "selected", "optionId": "ever"}}));
    assert_eq!(answers[1], json!({"outcome": {"outcome": "cancelled"}}));
    assert_eq!(answers[2], json!({"outcome": {"outcome": "cancelled"}}), "nobody was offered that");
    assert_eq!(answers[3]["code"], -32602);
    for answer in &answers[..3] {
        serde_json::from_value::<RequestPermissionResponse>(answer.clone()).expect("valid by the schema");
    }
    let asked = rig.client.asked.lock().unwrap().clone();
    let kinds: Vec<_> = asked[0].options.iter().map(|o| o.kind).collect();
    use AgentPermissionKind as K;
    assert_eq!(kinds, [K::AllowOnce, K::AllowAlways, K::RejectOnce], "unknown kinds are not offered");
    assert_eq!(asked[0].call.title.as_deref(), Some("rm -rf x"));
    session.close().await;
}

#[tokio::test]
async fn a_question_can_be_withdrawn() {
    let steps = json!([
        {"ask": {"method": "session/request_permission", "params": permission()}},
        say("waiting"),
        {"await": "session/cancel"},
        {"notify": {"method": "$/cancel_request", "params": {"requestId": "agent-1"}}},
        {"wait": true},
        stop("cancelled"),
    ]);
    let rig = Rig::new(&json!({"session/prompt": [steps]}));
    let session = rig.open().await;
    let running = tokio::spawn(session.prompt(vec![gander_domain::Part::text("go")]));
    rig.client
        .until("the question and more", |client| {
            client.text() == "waiting" && !client.asked.lock().unwrap().is_empty()
        })
        .await;
    session.cancel().await;
    running.await.unwrap().unwrap();
    assert_eq!(rig.answers()[0]["code"], -32800);
    session.close().await;
}

#[tokio::test]
async fn forms_and_pages() {
    let form = json!({"sessionId": "$session", "mode": "form", "message": "Name?",
        "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}});
    let page = json!({"sessionId": "$session", "mode": "url", "message": "Log in", "elicitationId": "e", "url": "http://x"});
    let steps = [
        ask("elicitation/create", &form),
        ask("elicitation/create", &page),
        ask("elicitation/create", &form),
        ask("elicitation/create", &json!({"mode": "dance"})),
        stop("end_turn"),
    ];
    let rig = Rig::new(&json!({"session/prompt": [steps]}));
    rig.client.forms.lock().unwrap().extend([
        AgentElicitationAnswer::Accept(Some(r#"{"name":"Ada"}"#.into())),
        AgentElicitationAnswer::Accept(None),
        AgentElicitationAnswer::Decline,
    ]);
    let session = rig.open().await;
    prompt(&session, "go").await.unwrap();
    let answers = rig.answers();
    assert_eq!(answers[0], json!({"action": "accept", "content": {"name": "Ada"}}));
    assert_eq!(answers[1], json!({"action": "accept"}));
    assert_eq!(answers[2], json!({"action": "decline"}));
    assert_eq!(answers[3]["code"], -32602);
    for answer in &answers[..3] {
        serde_json::from_value::<CreateElicitationResponse>(answer.clone()).expect("valid by the schema");
    }
    session.close().await;
}

#[tokio::test]
async fn files_of_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside").display().to_string();
    // The folder is known only once the rig is there, so the agent takes its paths from the prompt.
    let steps = [
        ask(
            "fs/write_text_file",
            &json!({"sessionId": "$session", "path": "$param:/prompt/0/text", "content": "one\ntwo\n"}),
        ),
        ask(
            "fs/read_text_file",
            &json!({"sessionId": "$session", "path": "$param:/prompt/0/text", "line": 2, "limit": 1}),
        ),
        ask("fs/read_text_file", &json!({"sessionId": "$session", "path": outside})),
        ask("fs/read_text_file", &json!({"sessionId": "$session", "path": "relative"})),
        stop("end_turn"),
    ];
    let rig = Rig::new(&json!({"session/prompt": [steps]}));
    std::fs::write(dir.path().join("outside"), "secret").unwrap();
    let session = rig.open().await;
    let file = rig.work().join("new/file.txt");
    prompt(&session, file.to_str().unwrap()).await.unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "one\ntwo\n");
    let answers = rig.answers();
    assert_eq!(answers[1], json!({"content": "two\n"}));
    serde_json::from_value::<ReadTextFileResponse>(answers[1].clone()).expect("valid by the schema");
    assert_eq!((&answers[2]["code"], &answers[3]["code"]), (&json!(-32602), &json!(-32602)));
    assert_eq!(
        rig.client.host_calls.lock().unwrap().len(),
        2,
        "the host is asked first, but not for what is outside"
    );
    session.close().await;
}

#[tokio::test]
async fn the_host_comes_before_the_disk() {
    let steps = [
        ask("fs/read_text_file", &json!({"sessionId": "$session", "path": "$param:/prompt/0/text"})),
        ask("fs/read_text_file", &json!({"sessionId": "$session", "path": "$param:/prompt/0/text"})),
        ask("terminal/create", &json!({"sessionId": "$session", "command": "make", "args": ["test"]})),
        ask("terminal/wait_for_exit", &json!({"sessionId": "$session", "terminalId": "terminal-1"})),
        ask("terminal/output", &json!({"sessionId": "$session", "terminalId": "terminal-1"})),
        stop("end_turn"),
    ];
    let rig = Rig::new(&json!({"session/prompt": [steps]}));
    rig.client.host.lock().unwrap().extend([
        HostCallOutcome::FsRead { text: "unsaved".into() },
        HostCallOutcome::Failed { message: "no such buffer".into(), refused: false },
        HostCallOutcome::Terminal {
            output: "ok\n".into(),
            truncated: true,
            exit_code: Some(0),
            signal: None,
        },
    ]);
    let session = rig.open().await;
    prompt(&session, rig.work().join("a").to_str().unwrap()).await.unwrap();
    let answers = rig.answers();
    assert_eq!(answers[0], json!({"content": "unsaved"}));
    assert_eq!(answers[1]["message"], "no such buffer");
    assert_eq!(answers[3], json!({"exitCode": 0}));
    assert_eq!(answers[4], json!({"output": "ok\n", "truncated": true, "exitStatus": {"exitCode": 0}}));
    let calls = rig.client.host_calls.lock().unwrap().clone();
    assert!(
        matches!(&calls[2], HostCallKind::TerminalRun { argv, .. } if argv == &["make", "test"]),
        "{calls:?}"
    );
    session.close().await;
}

#[tokio::test]
async fn terminals_run_commands_and_show_their_output() {
    let command = "printf 'hello '; printf $WHAT; test -z \"$X_KEY\"; exit 4";
    let terminal = json!({"sessionId": "$session", "terminalId": "terminal-1"});
    let shown = |status: &str| {
        json!({"update": {"sessionUpdate": "tool_call_update", "toolCallId": "c1", "title": "sh", "status": status,
            "content": [{"type": "terminal", "terminalId": "terminal-1"}]}})
    };
    let steps = json!([
        ask(
            "terminal/create",
            &json!({"sessionId": "$session", "command": command,
            "env": [{"name": "WHAT", "value": "world"}], "outputByteLimit": 1000})
        ),
        shown("in_progress"),
        ask("terminal/wait_for_exit", &terminal),
        ask("terminal/output", &terminal),
        shown("completed"),
        ask("terminal/release", &terminal),
        ask("terminal/output", &terminal),
        stop("end_turn"),
    ]);
    let rig = Rig::new(&json!({"session/prompt": [steps]}));
    let session = rig.open().await;
    prompt(&session, "go").await.unwrap();
    let answers = rig.answers();
    serde_json::from_value::<CreateTerminalResponse>(answers[0].clone()).expect("valid by the schema");
    assert_eq!(answers[1], json!({"exitCode": 4}));
    serde_json::from_value::<WaitForTerminalExitResponse>(answers[1].clone()).expect("valid by the schema");
    let expected = json!({"output": "hello world", "truncated": false, "exitStatus": {"exitCode": 4}});
    assert_eq!(answers[2], expected);
    serde_json::from_value::<TerminalOutputResponse>(answers[2].clone()).expect("valid by the schema");
    assert_eq!(answers[4]["code"], -32002, "released");
    let updates = rig.client.updates.lock().unwrap().clone();
    let last = updates.iter().rev().find_map(|update| match update {
        AgentUpdate::ToolCall(call) => call.content.clone(),
        _ => None,
    });
    let content = last.expect("the call's content");
    assert!(matches!(&content[0].body, PartBody::Terminal { exit_code: Some(4), .. }), "{content:?}");
    assert_eq!(content[1].as_text(), Some("hello world"));
    session.close().await;
}

#[tokio::test]
async fn a_command_can_be_killed_and_ends_with_the_session() {
    let terminal = json!({"sessionId": "$session", "terminalId": "terminal-1"});
    let steps = json!([
        ask("terminal/create", &json!({"sessionId": "$session", "command": "sleep", "args": ["600"]})),
        ask("terminal/kill", &terminal),
        ask("terminal/wait_for_exit", &terminal),
        ask("terminal/create", &json!({"sessionId": "$session", "command": "sh", "args": ["-c", "echo $$; sleep 600"]})),
        {"update": {"sessionUpdate": "tool_call", "toolCallId": "c", "title": "t",
            "content": [{"type": "terminal", "terminalId": "terminal-2"}]}},
        ask("terminal/create", &json!({"sessionId": "$session", "command": "true", "cwd": "/"})),
        stop("end_turn"),
    ]);
    let rig = Rig::new(&json!({"session/prompt": [steps]}));
    let session = rig.open().await;
    prompt(&session, "go").await.unwrap();
    let answers = rig.answers();
    assert!(answers[2]["signal"].as_str().is_some_and(|signal| signal.starts_with("SIG")), "{answers:?}");
    assert_eq!(answers[4]["code"], -32602, "outside of the session's folders");
    session.close().await;
}

#[tokio::test]
async fn a_page_is_closed_when_the_agent_says_so() {
    let page = json!({"sessionId": "$session", "mode": "url", "message": "Log in", "elicitationId": "e1", "url": "http://x"});
    let steps = json!([
        {"ask": {"method": "elicitation/create", "params": page}},
        {"notify": {"method": "elicitation/complete", "params": {"elicitationId": "another"}}},
        {"notify": {"method": "elicitation/complete", "params": {"elicitationId": "e1"}}},
        {"wait": true},
        stop("end_turn"),
    ]);
    let rig = Rig::new(&json!({"session/prompt": [steps]}));
    let session = rig.open().await;
    prompt(&session, "go").await.unwrap();
    assert_eq!(rig.answers(), [json!({"action": "accept"})]);
    session.close().await;
}

#[tokio::test]
async fn an_agent_that_may_not_work_still_reads() {
    let path = "$param:/prompt/0/text";
    let steps = [
        ask("fs/write_text_file", &json!({"sessionId": "$session", "path": path, "content": "new"})),
        ask("terminal/create", &json!({"sessionId": "$session", "command": "true"})),
        ask("fs/read_text_file", &json!({"sessionId": "$session", "path": path})),
        stop("end_turn"),
    ];
    let rig = Rig::new(&json!({"session/prompt": [steps]}));
    *rig.client.forbids.lock().unwrap() = Some("tools are off".to_owned());
    let file = rig.work().join("notes.txt");
    std::fs::write(&file, "old").unwrap();
    let session = rig.open().await;
    prompt(&session, file.to_str().unwrap()).await.unwrap();
    let answers = rig.answers();
    for refused in &answers[..2] {
        assert_eq!((&refused["code"], &refused["message"]), (&json!(-32603), &json!("tools are off")));
    }
    assert_eq!(answers[2], json!({"content": "old"}));
    session.close().await;
}
