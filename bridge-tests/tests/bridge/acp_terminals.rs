//! Commands over the Agent Client Protocol: in the editor's terminals where it lends them, else run here and shown.

use std::time::{Duration, Instant};

use gander_bridge_tests::{TestDaemon, events, pb, soon};
use serde_json::{Value, json};

use crate::{acp::configure, acp_peer::Peer};

fn shell(command: &str) -> String {
    events::shell(command)
}

/// A terminal that the editor was asked for.
async fn opened(peer: &mut Peer, id: &str) -> Value {
    let asked = peer.request("terminal/create").await;
    peer.answer(&asked, json!({"terminalId": id})).await;
    asked["params"].clone()
}

/// Answers what is asked about a command that ends like this, up to its release.
async fn finish(peer: &mut Peer, output: &str, exit: &Value) {
    loop {
        let asked = peer
            .until("a question about the terminal", |m| {
                m["method"].as_str().is_some_and(|method| method.starts_with("terminal/"))
            })
            .await;
        let answer = match asked["method"].as_str().expect("a method") {
            "terminal/wait_for_exit" => exit.clone(),
            "terminal/output" => json!({"output": output, "truncated": false}),
            _ => json!({}),
        };
        peer.answer(&asked, answer).await;
        if asked["method"] == "terminal/release" {
            return;
        }
    }
}

fn embedded(peer: &Peer, session_id: &str, terminal: &str) -> bool {
    let wanted = json!({"type": "terminal", "terminalId": terminal});
    peer.updates(session_id).iter().any(|update| update["content"][0] == wanted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_editors_terminal_runs_a_command_that_was_allowed() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "approve").await;
    let mut peer = Peer::with(&daemon, json!({"terminal": true})).await;
    let work = daemon.work();
    let session_id = peer.new_session(&work).await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());

    let turn = peer.prompt(&session_id, &shell("touch here")).await;
    // First the question, then the terminal.
    let asked = peer.request("session/request_permission").await;
    assert!(!peer.log.iter().any(|m| m["method"] == "terminal/create"));
    let allow = json!({"outcome": {"outcome": "selected", "optionId": "allow_once"}});
    let options = asked["params"]["options"].as_array().expect("options").clone();
    let once = options.iter().find(|o| o["kind"] == "allow_once").expect("once");
    let mut answer = allow;
    answer["outcome"]["optionId"] = once["optionId"].clone();
    peer.answer(&asked, answer).await;
    let params = opened(&mut peer, "t1").await;
    assert_eq!((&params["sessionId"], &params["cwd"]), (&json!(session_id), &json!(work)));
    assert_eq!(params["args"], json!(["-c", "touch here"]));
    finish(&mut peer, "out of the editor\r\n", &json!({"exitCode": 4})).await;
    assert_eq!(peer.answered(&turn).await.expect("done")["stopReason"], "end_turn");
    assert!(embedded(&peer, &session_id, "t1"), "{:#?}", peer.updates(&session_id));
    let last = peer.updates(&session_id).into_iter().rfind(|u| u["status"] == "failed").expect("the end");
    assert_eq!(last["rawOutput"]["exit_code"], 4);
    assert!(!work.join("here").exists(), "it ran at the editor only");

    // Whoever else watches sees the same output.
    events::until(&mut stream, &mut seen, "the end", |p| {
        matches!(p, pb::session_event::Payload::TurnEnded(_))
    })
    .await;
    assert_eq!(events::result_text(&events::tool_calls(&seen)[0]), "out of the editor\nexit code 4");
    let live: String = seen
        .iter()
        .filter_map(|event| match &event.payload {
            Some(pb::session_event::Payload::ToolOutputDelta(delta)) => Some(delta.text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(live, "out of the editor\n");

    // Loaded later, the call shows what the terminal held.
    let mut other = Peer::with(&daemon, json!({"terminal": true})).await;
    let load = json!({"sessionId": session_id, "cwd": work, "mcpServers": []});
    other.call("session/load", load).await.expect("loaded");
    let replayed = other.updates(&session_id).into_iter().find(|u| u["sessionUpdate"] == "tool_call");
    let replayed = replayed.expect("the call");
    assert!(replayed["content"].to_string().contains("out of the editor"), "{replayed:#}");
    other.close().await;
    peer.close().await;
    drop(stream);
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_command_is_killed_and_its_terminal_released() {
    let daemon = TestDaemon::start().await;
    configure(&daemon.unix().await, "auto").await;
    let mut peer = Peer::with(&daemon, json!({"terminal": true})).await;
    let session_id = peer.new_session(&daemon.work()).await;
    let turn = peer.prompt(&session_id, &shell("sleep 1000")).await;
    opened(&mut peer, "t").await;
    peer.request("terminal/wait_for_exit").await;
    let begin = Instant::now();
    peer.notify("session/cancel", json!({"sessionId": session_id})).await;
    let kill = peer.request("terminal/kill").await;
    assert_eq!(kill["params"]["terminalId"], "t");
    // What the client does with that is no reason to wait.
    assert_eq!(peer.answered(&turn).await.expect("done")["stopReason"], "cancelled");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    peer.answer(&kill, json!({})).await;
    let release = peer.request("terminal/release").await;
    assert_eq!(release["params"]["terminalId"], "t");
    peer.answer(&release, json!({})).await;
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_the_editor_does_not_take_runs_here_once() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "auto").await;
    let mut peer = Peer::with(&daemon, json!({"terminal": true})).await;
    let session_id = peer.new_session(&daemon.work()).await;
    let turn = peer.prompt(&session_id, &shell("echo x >> ran; echo local")).await;
    let asked = peer.request("terminal/create").await;
    let error = json!({"code": -32603, "message": "no more terminals"});
    peer.write(json!({"jsonrpc": "2.0", "id": asked["id"], "error": error})).await;
    assert_eq!(peer.answered(&turn).await.expect("done")["stopReason"], "end_turn");
    let shown = peer.updates(&session_id).into_iter().rfind(|u| u["status"] == "completed").expect("the end");
    assert!(
        shown.to_string().contains("no more terminals") && shown.to_string().contains("local"),
        "{shown:#}"
    );
    let ran = daemon.work().join("ran");
    assert_eq!(std::fs::read_to_string(&ran).expect("it ran"), "x\n");

    // An editor that goes away in the middle: it may have run there, and is not run again.
    let turn = peer.prompt(&session_id, &shell("echo x >> ran")).await;
    opened(&mut peer, "t").await;
    drop((turn, peer));
    let text = soon("the end of the call", async {
        let mut stream = events::watch(&client, &session_id, 0);
        let mut seen = Vec::new();
        for turn in ["the first turn", "the second turn"] {
            let ended =
                |p: &pb::session_event::Payload| matches!(p, pb::session_event::Payload::TurnEnded(_));
            events::until(&mut stream, &mut seen, turn, ended).await;
        }
        events::result_text(&events::tool_calls(&seen)[1])
    })
    .await;
    assert!(text.contains("may have run"), "{text}");
    assert_eq!(std::fs::read_to_string(&ran).expect("it ran"), "x\n");
    daemon.finish().await;
}

/// Zed offers both: what it shows as a terminal runs here, where it can be bounded and ended for certain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_editor_that_shows_our_output_needs_no_terminal_unless_it_is_wanted() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "auto").await;
    let both = json!({"terminal": true, "_meta": {"terminal_output": true}});
    let mut peer = Peer::with(&daemon, both.clone()).await;
    let session_id = peer.new_session(&daemon.work()).await;
    assert_eq!(peer.run(&session_id, &shell("echo streamed")).await, "end_turn");
    let updates = peer.updates(&session_id);
    let shown: String =
        updates.iter().filter_map(|u| u.pointer("/_meta/terminal_output/data")?.as_str()).collect();
    assert_eq!(shown, "streamed\n");
    assert!(!peer.log.iter().any(|m| m["method"] == "terminal/create"));
    peer.close().await;

    let always = pb::SetConfigValueRequest {
        key: "gander.editor_terminals".into(),
        value_json: "\"always\"".into(),
        ..Default::default()
    };
    client.config().set_config_value(always).await.expect("set");
    let mut peer = Peer::with(&daemon, both).await;
    let session_id = peer.new_session(&daemon.work()).await;
    let turn = peer.prompt(&session_id, &shell("echo at the editor")).await;
    opened(&mut peer, "t").await;
    finish(&mut peer, "at the editor\n", &json!({"exitCode": 0})).await;
    assert_eq!(peer.answered(&turn).await.expect("done")["stopReason"], "end_turn");
    assert!(embedded(&peer, &session_id, "t"));

    let never = pb::SetConfigValueRequest {
        key: "gander.editor_terminals".into(),
        value_json: "\"never\"".into(),
        ..Default::default()
    };
    client.config().set_config_value(never).await.expect("set");
    peer.forget();
    assert_eq!(peer.run(&session_id, &shell("echo here")).await, "end_turn");
    assert!(!peer.log.iter().any(|m| m["method"] == "terminal/create"));
    peer.close().await;
    daemon.finish().await;
}
