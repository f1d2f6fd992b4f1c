//! Start, authentication, sessions that go on, and the end of the process.

use std::{collections::BTreeMap, time::Duration};

use agent_client_protocol_schema::v1::{
    InitializeRequest, LoadSessionRequest, NewSessionRequest, ResumeSessionRequest,
};
use gander_domain::ErrorReason;
use gander_model::AgentMcpServer;
use serde_json::{Value, json};

use crate::harness::{Given, PATIENCE, Rig, is_alive, prompt, read_log, say, stop};

fn initialize(capabilities: &Value, methods: &Value) -> Value {
    json!([[{"result": {"protocolVersion": 1, "agentCapabilities": capabilities, "authMethods": methods}}]])
}

#[tokio::test]
async fn the_handshake_is_valid_and_says_what_gander_can() {
    let mut rig = Rig::new(&json!({}));
    rig.servers = vec![
        AgentMcpServer::Stdio {
            name: "files".into(),
            command: "sh".into(),
            args: vec!["-c".into()],
            env: [("KEY".to_owned(), "v".to_owned())].into(),
        },
        AgentMcpServer::Stdio {
            name: "absent".into(),
            command: "no-such-program".into(),
            args: Vec::new(),
            env: BTreeMap::new(),
        },
        AgentMcpServer::Http {
            name: "web".into(),
            url: "http://localhost:1/".into(),
            headers: [("Authorization".to_owned(), "Bearer x".to_owned())].into(),
        },
    ];
    let session = rig.open().await;
    let opened = session.opened();
    assert_eq!((opened.agent_session_id.as_str(), opened.continued), ("agent-session-1", false));
    assert_eq!((opened.name.as_str(), opened.version.as_str()), ("scripted", "1.0"));
    assert!(opened.accepts_images && opened.accepts_resources && !opened.accepts_audio);
    assert_eq!(opened.servers_left_out, ["absent"]);
    let sent = rig.sent("initialize").remove(0);
    serde_json::from_value::<InitializeRequest>(sent.clone()).expect("valid by the schema");
    for pointer in [
        "/clientCapabilities/fs/readTextFile",
        "/clientCapabilities/fs/writeTextFile",
        "/clientCapabilities/terminal",
        "/clientCapabilities/elicitation/form",
        "/clientCapabilities/elicitation/url",
        "/clientCapabilities/session/configOptions/boolean",
        "/clientCapabilities/session/notices",
        "/clientCapabilities/session/compaction",
        "/clientCapabilities/_meta/terminal_output",
        "/clientInfo/version",
    ] {
        assert!(sent.pointer(pointer).is_some(), "{pointer} in {sent}");
    }
    let new = rig.sent("session/new").remove(0);
    serde_json::from_value::<NewSessionRequest>(new.clone()).expect("valid by the schema");
    assert_eq!(new["cwd"], rig.work().display().to_string());
    assert_eq!(new["additionalDirectories"].as_array().unwrap().len(), 1);
    let servers = new["mcpServers"].as_array().unwrap();
    assert_eq!(servers.len(), 2);
    assert!(servers[0]["command"].as_str().unwrap().ends_with("/sh"), "absolute: {servers:?}");
    assert_eq!(servers[0]["env"], json!([{"name": "KEY", "value": "v"}]));
    assert_eq!((&servers[1]["type"], &servers[1]["name"]), (&json!("http"), &json!("web")));
    session.close().await;
    assert_eq!(rig.sent("session/close"), [json!({"sessionId": "agent-session-1"})]);
    assert!(!session.is_open());
}

#[tokio::test]
async fn http_servers_only_where_the_agent_takes_them() {
    let mut rig = Rig::new(&json!({"initialize": initialize(&json!({}), &json!([]))}));
    let url = "http://localhost:1/".to_owned();
    rig.servers = vec![AgentMcpServer::Http { name: "web".into(), url, headers: BTreeMap::new() }];
    let session = rig.open().await;
    assert_eq!(session.opened().servers_left_out, ["web"]);
    let new = rig.sent("session/new").remove(0);
    assert_eq!((&new["mcpServers"], new.get("additionalDirectories")), (&json!([]), None));
    session.close().await;
}

#[tokio::test]
async fn sessions_go_on_by_resume_or_load() {
    let resume = json!({"sessionCapabilities": {"resume": {}}, "loadSession": true});
    let mut rig = Rig::new(&json!({"initialize": initialize(&resume, &json!([]))}));
    rig.resume = Some("before".into());
    let session = rig.open().await;
    assert_eq!((session.opened().agent_session_id.as_str(), session.opened().continued), ("before", true));
    let sent = rig.sent("session/resume").remove(0);
    serde_json::from_value::<ResumeSessionRequest>(sent).expect("valid by the schema");
    assert_eq!(rig.sent("session/new").len() + rig.sent("session/load").len(), 0);
    session.close().await;

    let replay = json!([[
        say("old words"),
        {"update": {"sessionUpdate": "tool_call", "toolCallId": "1", "title": "old"}},
        {"update": {"sessionUpdate": "available_commands_update", "availableCommands": [{"name": "x", "description": ""}]}},
        {"result": {"modes": {"currentModeId": "ask", "availableModes": [{"id": "ask", "name": "Ask"}]}}},
    ]]);
    let script =
        json!({"initialize": initialize(&json!({"loadSession": true}), &json!([])), "session/load": replay});
    let mut rig = Rig::new(&script);
    rig.resume = Some("before".into());
    let session = rig.open().await;
    assert!(session.opened().continued);
    assert_eq!(session.options()[0].value, "ask");
    prompt(&session, "hi").await.unwrap();
    assert_eq!(rig.client.text(), "you said hi", "what is replayed is known already");
    assert_eq!(rig.client.updates.lock().unwrap().len(), 2, "but not the state that it ends in");
    let sent = rig.sent("session/load").remove(0);
    serde_json::from_value::<LoadSessionRequest>(sent).expect("valid by the schema");
    session.close().await;
}

#[tokio::test]
async fn a_lost_session_becomes_a_new_one() {
    for capabilities in
        [json!({}), json!({"loadSession": true}), json!({"sessionCapabilities": {"resume": {}}})]
    {
        let lost = json!([[{"error": {"code": -32002, "message": "no such session"}}]]);
        let mut rig = Rig::new(&json!({
            "initialize": initialize(&capabilities, &json!([])), "session/load": lost, "session/resume": lost,
        }));
        rig.resume = Some("before".into());
        let session = rig.open().await;
        let opened = session.opened();
        assert_eq!((opened.agent_session_id.as_str(), opened.continued), ("agent-session-1", false));
        session.close().await;
    }
}

#[tokio::test]
async fn a_login_is_asked_for_or_done_with_the_key() {
    let methods = json!([
        {"id": "api-key", "name": "API key"},
        {"id": "login", "name": "Log in", "description": "Run `agent login`"},
    ]);
    let refused = json!({"error": {"code": -32000, "message": "Authentication required"}});
    let script = json!({
        "initialize": initialize(&json!({}), &methods),
        "session/new": [[refused], [{"result": {"sessionId": "s"}}]],
        "authenticate": [[{"result": {}}]],
    });
    let error = Rig::new(&script).try_open().await.err().unwrap();
    assert_eq!(error.reason, ErrorReason::ProviderUnauthenticated);
    assert!(error.message.contains("Run `agent login`"), "{error:?}");

    let fields = json!({"env_keys": ["X_KEY"], "authenticate": {"X_KEY": "api-key"}});
    let given = Given([("X_KEY".to_owned(), "hunter2hunter2".to_owned())].into());
    let rig = Rig::with(&script, &fields, &given);
    let session = rig.open().await;
    assert_eq!(rig.sent("authenticate"), [json!({"methodId": "api-key"})]);
    session.close().await;
}

#[tokio::test]
async fn the_agents_environment() {
    let script = json!({"session/prompt": [[
        {"echo": "env X_KEY"}, say(" "), {"echo": "env SESSION"}, say(" "), {"echo": "env PLAIN"}, say(" "),
        {"echo": "env CLAUDECODE"}, say(" "), {"echo": "env HOME"}, stop("end_turn"),
    ]]});
    let fields = json!({"env_keys": ["X_KEY"], "env": {"PLAIN": "1"}, "env_remove": ["CLAUDECODE"]});
    let given = Given([("X_KEY".to_owned(), "hunter2hunter2".to_owned())].into());
    let rig = Rig::with(&script, &fields, &given);
    let session = rig.open().await;
    prompt(&session, "").await.unwrap();
    assert_eq!(rig.client.text(), "hunter2hunter2 mine 1 (unset) (unset)", "nothing else is inherited");
    session.close().await;
}

#[tokio::test]
async fn failures_of_the_start() {
    for (script, reason, part) in [
        (
            json!({"initialize": [[{"stderr": "node: not for hunter2hunter2"}, {"exit": 3}]]}),
            "PROVIDER_UNAVAILABLE",
            "code 3",
        ),
        (json!({"initialize": [[{"result": {"protocolVersion": 2}}]]}), "PROVIDER_BAD_REQUEST", "version 2"),
        (
            json!({"initialize": [[{"error": {"code": -32603, "message": "broken"}}]]}),
            "PROVIDER_UNAVAILABLE",
            "broken",
        ),
        (json!({"session/new": [[{"result": {}}]]}), "PROVIDER_BAD_REQUEST", "sessionId"),
        (
            json!({"session/new": [[{"error": {"code": -32602, "message": "bad cwd"}}]]}),
            "PROVIDER_BAD_REQUEST",
            "bad cwd",
        ),
    ] {
        let given = Given([("X_KEY".to_owned(), "hunter2hunter2".to_owned())].into());
        let error =
            Rig::with(&script, &json!({"env_keys": ["X_KEY"]}), &given).try_open().await.err().unwrap();
        assert_eq!(error.reason.as_str(), reason, "{error:?}");
        assert!(error.message.contains(part), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        if part == "code 3" {
            assert!(error.message.contains("node: not for [redacted]"), "{error:?}");
            assert_eq!(
                (&*error.metadata["exitCode"], error.metadata.contains_key("stderrTail")),
                ("3", true)
            );
        }
    }
    let missing = Rig::with(&json!({}), &json!({"command": "no-such-agent"}), &Given::default());
    let error = missing.try_open().await.err().unwrap();
    assert_eq!(error.reason, ErrorReason::ProviderNotConfigured);
    assert!(error.message.contains("no-such-agent"), "{error:?}");
}

#[tokio::test]
async fn a_silent_agent_is_given_up_and_ended() {
    let script = json!({"initialize": [[{"stderr": "waiting for the moon"}, {"hang": true}]]});
    let rig = Rig::with(&script, &json!({"start_seconds": 1}), &Given::default());
    let error = rig.try_open().await.err().unwrap();
    assert!(error.message.contains("not ready within 1 s"), "{error:?}");
    assert!(error.message.ends_with("waiting for the moon"), "{error:?}");
    assert_eq!(error.metadata["stderrTail"], "waiting for the moon");
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_no_process() {
    let script = json!({"initialize": [[{"spawn": ["sleep", "600"]}, {"hang": true}]]});
    let rig = Rig::new(&script);
    let mut opening = Box::pin(rig.try_open());
    // The agent says the number of its child although it has no session yet.
    tokio::select! {
        _ = &mut opening => panic!("it hangs"),
        () = rig.client.until("a number", |client| !client.text().is_empty()) => {}
    }
    let pid = rig.client.text();
    assert!(is_alive(&pid));
    // As when a turn is cancelled.
    drop(opening);
    await_gone(&pid).await;
}

async fn await_gone(pid: &str) {
    let gone = async {
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the process is gone");
}

#[tokio::test]
async fn closing_takes_the_whole_tree_along() {
    let script = json!({"session/prompt": [[{"spawn": ["sleep", "600"]}, stop("end_turn")]]});
    let rig = Rig::new(&script);
    let session = rig.open().await;
    prompt(&session, "").await.unwrap();
    let pid = rig.client.text();
    assert!(is_alive(&pid));
    session.close().await;
    assert!(!is_alive(&pid), "it is gone when close returns");
    let log = read_log(&rig.dir.path().join("log.jsonl"));
    assert_eq!(log.last(), Some(&json!({"end": true})), "the agent could end by itself");
}

#[tokio::test]
async fn what_a_provider_says_of_itself() {
    let script = json!({"session/new": [[{"result": {"sessionId": "s", "configOptions": [
        {"id": "model", "name": "Model", "category": "model", "type": "select", "currentValue": "a",
         "options": [{"value": "a", "name": "A"}, {"value": "b", "name": "B"}]}]}}]]});
    let rig = Rig::new(&script);
    let models = rig.provider.list_models().await.unwrap();
    assert_eq!(models.iter().map(|m| m.model_id.as_str()).collect::<Vec<_>>(), ["current", "a", "b"]);
    rig.provider.check().await.unwrap();
    let broken = Rig::new(&json!({"session/new": [[{"error": {"code": -32000, "message": "log in"}}]]}));
    let error = broken.provider.check().await.unwrap_err();
    assert_eq!(error.reason(), ErrorReason::ProviderUnauthenticated);
}
