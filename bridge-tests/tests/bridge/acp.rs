//! Editors on the daemon's sessions, over the protocol that they speak. Every message is checked against the protocol's
//! schema by the peer.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use gander_bridge_tests::{TestDaemon, events, pb, processes, soon, unique_digits};
use gander_client::Client;
use serde_json::{Value, json};

use crate::acp_peer::{Peer, options, prompt};

/// Sessions get the developer tools, and ask before they run one.
pub(crate) async fn configure(client: &Client, mode: &str) {
    let developer = pb::ExtensionConfig {
        name: "developer".into(),
        kind: Some(pb::extension_config::Kind::Builtin(pb::BuiltinExtension {})),
        ..Default::default()
    };
    let put = pb::PutExtensionRequest { config: Some(developer), enabled: true, ..Default::default() };
    client.extensions().put_extension(put).await.expect("configured");
    let set = pb::SetConfigValueRequest {
        key: "GOOSE_MODE".into(),
        value_json: json!(mode).to_string(),
        ..Default::default()
    };
    client.config().set_config_value(set).await.expect("set");
}

pub(crate) fn code(answer: &Result<Value, Value>) -> i64 {
    answer.as_ref().expect_err("an error")["code"].as_i64().expect("a code")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_editor_begins_a_session_and_talks() {
    let daemon = TestDaemon::start().await;
    let mut peer = Peer::open(daemon.unix().await, options());
    let hello = peer.initialize(json!({"auth": {"terminal": true}})).await;
    assert_eq!(hello["protocolVersion"], 1);
    assert_eq!(hello["agentInfo"]["name"], "gander");
    assert_eq!(hello["agentCapabilities"]["loadSession"], true);
    let methods: Vec<_> =
        hello["authMethods"].as_array().expect("methods").iter().map(|m| m["type"].clone()).collect();
    assert_eq!(methods, [Value::Null, json!("terminal")]);
    assert_eq!(hello["authMethods"][1]["args"], json!(["--setup"]));
    let mut older = Peer::open(daemon.unix().await, options());
    let hello = older.initialize(json!({"_meta": {"terminal-auth": true}})).await;
    assert_eq!(hello["authMethods"][1]["_meta"]["terminal-auth"]["args"], json!(["acp", "--setup"]));
    older.close().await;

    let session_id = peer.new_session(&daemon.work()).await;
    assert_eq!(peer.run(&session_id, "say hello there").await, "end_turn");
    assert!(peer.said(&session_id).contains("hello there"), "{:?}", peer.log);
    // Every update of the turn came before its answer, and the session's own answer before its first update.
    let at = |wanted: &dyn Fn(&Value) -> bool| peer.log.iter().position(wanted).expect("there");
    let created = at(&|m| m["result"]["sessionId"].is_string());
    let first = at(&|m| m["method"] == "session/update");
    let answer = at(&|m| m["result"]["stopReason"].is_string());
    let last = peer.log.iter().rposition(|m| m["params"]["update"]["sessionUpdate"] == "agent_message_chunk");
    assert!(created < first && last < Some(answer), "{created} {first} {last:?} {answer}");
    assert!(peer.updates(&session_id).iter().all(|u| u["sessionUpdate"] != "user_message_chunk"), "no echo");
    // A second prompt in the same session.
    assert_eq!(peer.run(&session_id, "say again").await, "end_turn");
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_are_refused_and_the_connection_goes_on() {
    let daemon = TestDaemon::start().await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let work = daemon.work();
    for (method, params, wanted) in [
        ("session/new", json!({"cwd": "relative", "mcpServers": []}), -32602),
        ("session/new", json!({"cwd": null, "mcpServers": []}), -32602),
        ("session/new", json!([1]), -32602),
        ("session/new", json!({"cwd": "/does/not/exist", "mcpServers": []}), -32602),
        (
            "session/new",
            json!({"cwd": work, "mcpServers": [{"type": "sse", "name": "x", "url": "http://topsecret"}]}),
            -32602,
        ),
        ("session/prompt", json!({"sessionId": 5, "prompt": []}), -32602),
        (
            "session/prompt",
            json!({"sessionId": "nobody", "prompt": [{"type": "text", "text": "topsecret"}]}),
            -32002,
        ),
        ("session/load", json!({"sessionId": "nobody", "cwd": work, "mcpServers": []}), -32002),
        ("session/resume", json!({"sessionId": "nobody", "cwd": work}), -32002),
        ("session/set_mode", json!({"sessionId": "nobody", "modeId": "auto"}), -32002),
        ("session/list", json!({"cursor": "topsecret"}), -32602),
        ("session/list", json!({"cwd": "relative"}), -32602),
        ("authenticate", json!({"methodId": "topsecret"}), -32602),
        ("no/such_method", json!({}), -32601),
        ("_goose/unstable/dictation/secret/save", json!({}), -32601),
    ] {
        let answer = peer.call(method, params).await;
        assert_eq!(code(&answer), wanted, "{method}: {answer:?}");
        assert!(!answer.expect_err("an error").to_string().contains("topsecret"), "{method}");
    }
    let unknown = peer.call("session/resume", json!({"sessionId": "nobody", "cwd": work})).await;
    assert_eq!(unknown.expect_err("an error")["data"]["sessionId"], "nobody");

    let session_id = peer.new_session(&work).await;
    for (params, wanted) in [
        (json!({"sessionId": session_id, "prompt": "say plain"}), None),
        (
            json!({"sessionId": session_id, "prompt": [{"type": "text", "text": "say a"}, {"type": "hologram"}]}),
            None,
        ),
        (json!({"sessionId": session_id, "prompt": []}), Some(-32602)),
        (json!({"sessionId": session_id}), Some(-32602)),
        (json!({"sessionId": session_id, "prompt": [{"type": "hologram"}]}), Some(-32602)),
    ] {
        let answer = peer.call("session/prompt", params.clone()).await;
        match wanted {
            None => assert_eq!(answer.expect("a stop reason")["stopReason"], "end_turn", "{params}"),
            Some(wanted) => assert_eq!(code(&answer), wanted, "{params}"),
        }
    }
    for (method, params) in [
        ("session/set_mode", json!({"sessionId": session_id, "modeId": "nonsense"})),
        ("session/set_config_option", json!({"sessionId": session_id, "configId": "nonsense", "value": "x"})),
        ("session/set_config_option", json!({"sessionId": session_id, "configId": "mode", "value": 5})),
    ] {
        assert_eq!(code(&peer.call(method, params).await), -32602, "{method}");
    }
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sloppy_clients_are_understood() {
    let daemon = TestDaemon::start().await;
    let mut peer = Peer::open(daemon.unix().await, options());
    let work = daemon.work();
    // Everything at once, before the first answer; blank lines, nonsense, ids of all kinds, missing lists.
    peer.send_as(json!("new-1"), "session/new", json!({"cwd": work})).await;
    peer.raw("").await;
    peer.raw("this is not JSON").await;
    peer.raw("[{\"jsonrpc\":\"2.0\"}]").await;
    peer.write(json!({"method": "initialize", "id": "init", "params": {"protocolVersion": "v1"}})).await;
    peer.notify("_unknown/notification", json!({})).await;
    assert_eq!(peer.answered(&json!("init")).await.expect("welcome")["protocolVersion"], 1);
    let session = peer.answered(&json!("new-1")).await.expect("a session");
    let session_id = session["sessionId"].as_str().expect("an id").to_owned();
    for wanted in [-32700, -32600] {
        let error = peer.until("an error", |m| m["id"].is_null() && m["error"]["code"] == wanted).await;
        assert_eq!(error["error"].get("data"), None);
    }
    peer.write(json!({"id": null, "method": "session/prompt", "params": prompt(&session_id, "say null")}))
        .await;
    let answer = peer.until("the answer", |m| m["id"].is_null() && m["result"].is_object()).await;
    assert_eq!(answer["result"]["stopReason"], "end_turn");
    // Requests for one session, sent at once, are done in their order.
    let mode = peer.send("session/set_mode", json!({"sessionId": session_id, "modeId": "chat"})).await;
    let turn = peer.prompt(&session_id, "say in order").await;
    peer.answered(&mode).await.expect("set");
    assert_eq!(peer.answered(&turn).await.expect("done")["stopReason"], "end_turn");
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_model_the_editor_is_told_to_sign_in() {
    let daemon = TestDaemon::start().await;
    let strict = gander_acp::Options { demo_allowed: false, ..options() };
    let mut peer = Peer::open(daemon.unix().await, strict);
    peer.initialize(json!({})).await;
    let new = json!({"cwd": daemon.work(), "mcpServers": []});
    let refused = peer.call("session/new", new.clone()).await;
    assert_eq!(code(&refused), -32000, "{refused:?}");
    let refused = peer.call("authenticate", json!({"methodId": "configured-model"})).await;
    assert_eq!(code(&refused), -32000);
    assert!(refused.expect_err("an error")["message"].as_str().expect("text").contains("--setup"));

    let request = pb::SetDefaultModelRequest {
        provider_id: "demo".into(),
        model_id: "demo".into(),
        ..Default::default()
    };
    daemon.unix().await.providers().set_default_model(request).await.expect("a default model");
    for _ in 0..2 {
        peer.call("authenticate", json!({"methodId": "configured-model"})).await.expect("signed in");
    }
    peer.call("session/new", new).await.expect("a session");
    assert_eq!(code(&peer.call("logout", json!({})).await), -32601, "not offered without a way to ask");
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_at_the_editor_decides_about_tools() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "approve").await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let work = daemon.work();
    let session_id = peer.new_session(&work).await;
    let file = work.join("made.txt");
    let write = format!("call developer__write {}", json!({"path": file, "content": "hello\n"}));

    // Refused: the file is not there.
    let turn = peer.prompt(&session_id, &write).await;
    let asked = peer.request("session/request_permission").await;
    let call = &asked["params"]["toolCall"];
    assert_eq!(call["content"][0], json!({"type": "diff", "path": file, "newText": "hello\n"}), "{call}");
    assert_eq!(call["rawInput"]["content"], "hello\n");
    assert_eq!(call["kind"], "edit");
    let option = |kind: &str| {
        let options = asked["params"]["options"].as_array().expect("options");
        let found = options.iter().find(|option| option["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind}: {options:?}")).clone()
    };
    assert_eq!(option("allow_once")["name"], "Allow once");
    let select = |option: &Value| json!({"outcome": {"outcome": "selected", "optionId": option["optionId"]}});
    peer.answer(&asked, select(&option("reject_once"))).await;
    assert_eq!(peer.answered(&turn).await.expect("done")["stopReason"], "end_turn");
    assert!(!file.exists());
    let failed = |u: &&Value| u["sessionUpdate"] == "tool_call_update" && u["status"] == "failed";
    assert!(peer.updates(&session_id).iter().any(|u| failed(&u)), "{:#?}", peer.updates(&session_id));

    // Allowed once: it is, and the next time is asked again.
    let turn = peer.prompt(&session_id, &write).await;
    let again = peer.request("session/request_permission").await;
    peer.answer(&again, select(&option("allow_once"))).await;
    assert_eq!(peer.answered(&turn).await.expect("done")["stopReason"], "end_turn");
    assert_eq!(std::fs::read_to_string(&file).expect("written"), "hello\n");
    let updates = peer.updates(&session_id);
    let ran: Vec<_> = updates.iter().filter_map(|u| u["status"].as_str()).collect();
    assert!(ran.contains(&"in_progress") && ran.contains(&"completed"), "{ran:?}");

    // Always: from now on nobody is asked.
    let turn = peer.prompt(&session_id, &write).await;
    let third = peer.request("session/request_permission").await;
    peer.answer(&third, select(&option("allow_always"))).await;
    peer.answered(&turn).await.expect("done");
    peer.forget();
    assert_eq!(peer.run(&session_id, &write).await, "end_turn");
    assert!(!peer.log.iter().any(|m| m["method"] == "session/request_permission"));

    // Answered with "cancelled": the turn is.
    let other = peer.prompt(&session_id, &events::shell("true")).await;
    let asked = peer.request("session/request_permission").await;
    peer.answer(&asked, json!({"outcome": {"outcome": "cancelled"}})).await;
    assert_eq!(peer.answered(&other).await.expect("done")["stopReason"], "cancelled");
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsaved_text_of_the_editor_is_read_and_its_buffer_is_edited() {
    let daemon = TestDaemon::start().await;
    configure(&daemon.unix().await, "auto").await;
    let capabilities = json!({"fs": {"readTextFile": true, "writeTextFile": true}});
    let mut peer = Peer::with(&daemon, capabilities).await;
    let work = daemon.work();
    let file = work.join("notes.txt");
    std::fs::write(&file, "saved\n").expect("a file");
    let session_id = peer.new_session(&work).await;
    let is_read = |m: &Value| m["method"] == "fs/read_text_file";
    let read = format!("call developer__read {}", json!({"path": "notes.txt"}));

    // The agent registers the editor's files beside the session's first requests: until then there is the disk.
    let turn = soon("the editor to be asked", async {
        loop {
            let turn = peer.prompt(&session_id, &read).await;
            let next = peer
                .until("a question or the end", |m| {
                    is_read(m) || (m.get("method").is_none() && m["id"] == turn)
                })
                .await;
            if is_read(&next) {
                assert_eq!(next["params"]["path"], json!(file));
                assert_eq!(next["params"]["sessionId"], session_id);
                peer.answer(&next, json!({"content": "unsaved\n"})).await;
                break turn;
            }
        }
    })
    .await;
    assert_eq!(peer.answered(&turn).await.expect("done")["stopReason"], "end_turn");
    let shown = |peer: &Peer, text: &str| {
        peer.updates(&session_id).iter().any(|u| {
            u["sessionUpdate"] == "tool_call_update"
                && u["status"] == "completed"
                && u.to_string().contains(text)
        })
    };
    assert!(shown(&peer, "unsaved"), "{:#?}", peer.updates(&session_id));

    let edit = json!({"path": "notes.txt", "old_text": "unsaved", "new_text": "edited"});
    let turn = peer.prompt(&session_id, &format!("call developer__edit {edit}")).await;
    let asked = peer.request("fs/read_text_file").await;
    peer.answer(&asked, json!({"content": "unsaved\n"})).await;
    let asked = peer.request("fs/write_text_file").await;
    assert_eq!(asked["params"], json!({"sessionId": session_id, "path": file, "content": "edited\n"}));
    peer.answer(&asked, json!({})).await;
    assert_eq!(peer.answered(&turn).await.expect("done")["stopReason"], "end_turn");
    assert!(shown(&peer, "edited"), "{:#?}", peer.updates(&session_id));
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "saved\n", "the editor writes the disk");

    // What the editor refuses is a failure that says so, and the disk stays as it was.
    let turn = peer.prompt(&session_id, &format!("call developer__edit {edit}")).await;
    let asked = peer.request("fs/read_text_file").await;
    let error = json!({"code": -32000, "message": "the buffer is locked"});
    peer.write(json!({"jsonrpc": "2.0", "id": asked["id"], "error": error})).await;
    assert_eq!(peer.answered(&turn).await.expect("done")["stopReason"], "end_turn");
    let failed = peer.updates(&session_id).into_iter().find(|u| u["status"] == "failed").expect("a failure");
    assert!(failed.to_string().contains("the buffer is locked"), "{failed:#}");
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "saved\n");
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_everybodys() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "approve").await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let session_id = peer.new_session(&daemon.work()).await;

    // Asked in the editor, answered over gRPC: taken down in the editor.
    let turn = peer.prompt(&session_id, &events::shell("echo from-grpc")).await;
    let asked = peer.request("session/request_permission").await;
    respond(&client, &session_id, "allow_once").await;
    let withdrawn = peer.until("the withdrawal", |m| m["method"] == "$/cancel_request").await;
    assert_eq!(withdrawn["params"]["requestId"], asked["id"]);
    // The client's late answer hurts nobody.
    peer.write(
        json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32800, "message": "cancelled"}}),
    )
    .await;
    assert_eq!(peer.answered(&turn).await.expect("done")["stopReason"], "end_turn");

    // Begun over gRPC, answered in the editor; the message is shown, since it is not the editor's own.
    peer.forget();
    let (turn_id, first) = events::start(&client, &session_id, &events::shell("echo from-editor")).await;
    let asked = peer.request("session/request_permission").await;
    let echo = peer.update("user_message_chunk").await;
    assert!(echo["content"]["text"].as_str().expect("text").contains("from-editor"));
    let allow = json!({"outcome": {"outcome": "selected", "optionId": "allow_once"}});
    peer.answer(&asked, allow).await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, first), Vec::new());
    events::until(&mut stream, &mut seen, "the end", |p| {
        matches!(p, pb::session_event::Payload::TurnEnded(_))
    })
    .await;
    let ended = events::ended(&seen).expect("its end");
    assert_eq!((ended.turn_id, ended.state), (turn_id, pb::TurnState::Completed as i32));

    // The editor goes while it is asked: that is no answer, and another editor is asked.
    let turn = peer.prompt(&session_id, &events::shell("echo later")).await;
    peer.request("session/request_permission").await;
    let _ = turn;
    peer.close().await;
    let mut next = Peer::with(&daemon, json!({})).await;
    let load = json!({"sessionId": session_id, "cwd": daemon.work(), "mcpServers": []});
    next.call("session/load", load).await.expect("loaded");
    let asked = next.request("session/request_permission").await;
    next.answer(&asked, json!({"outcome": {"outcome": "selected", "optionId": "allow_once"}})).await;
    let output = next
        .until("the result", |m| {
            let update = &m["params"]["update"];
            update["status"] == "completed" && update.to_string().contains("later")
        })
        .await;
    assert_eq!(output["params"]["sessionId"], session_id.as_str());
    next.close().await;
    drop(stream);
    daemon.finish().await;
}

async fn respond(client: &Client, session_id: &str, option: &str) {
    let list = pb::ListInteractionsRequest { session_id: session_id.to_owned(), ..Default::default() };
    let open =
        client.interactions().list_interactions(list).await.expect("questions").into_inner().interactions;
    let answer = pb::interaction_answer::Answer::OptionId(option.into());
    let request = pb::RespondToInteractionRequest {
        interaction_id: open.first().expect("a question").interaction_id.clone(),
        answer: Some(pb::InteractionAnswer { answer: Some(answer) }),
        ..Default::default()
    };
    client.interactions().respond_to_interaction(request).await.expect("answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_is_always_cancelled_and_quick() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "auto").await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let session_id = peer.new_session(&daemon.work()).await;
    let cancel = json!({"sessionId": session_id});

    // A stream of text.
    let turn = peer.prompt(&session_id, "slow 100000").await;
    peer.update("agent_message_chunk").await;
    let start = Instant::now();
    peer.notify("session/cancel", cancel.clone()).await;
    assert_eq!(peer.answered(&turn).await, Ok(json!({"stopReason": "cancelled"})));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());

    // A running command: its processes are gone.
    let mark = unique_digits();
    let turn = peer.prompt(&session_id, &events::shell(&format!("sleep 300.{mark}"))).await;
    processes::appear(&mark, 1).await;
    peer.notify("session/cancel", cancel.clone()).await;
    assert_eq!(peer.answered(&turn).await, Ok(json!({"stopReason": "cancelled"})));
    processes::are_gone(&mark, start, Duration::from_secs(10)).await;

    // Right behind the prompt, before it has begun; many times, since it is a race.
    for _ in 0..20 {
        let turn = peer.prompt(&session_id, "slow 100000").await;
        peer.notify("session/cancel", cancel.clone()).await;
        assert_eq!(peer.answered(&turn).await, Ok(json!({"stopReason": "cancelled"})));
    }
    // By the id of the request.
    let turn = peer.prompt(&session_id, "slow 100000").await;
    peer.notify("$/cancel_request", json!({"requestId": turn})).await;
    assert_eq!(peer.answered(&turn).await, Ok(json!({"stopReason": "cancelled"})));
    // With nothing to cancel, and then on with the conversation.
    peer.notify("session/cancel", cancel.clone()).await;
    peer.notify("session/cancel", json!({"sessionId": "nobody"})).await;
    assert_eq!(peer.run(&session_id, "say still here").await, "end_turn");

    // A second prompt while one runs is refused; the first goes on.
    let first = peer.prompt(&session_id, "slow 100000").await;
    peer.update("agent_message_chunk").await;
    let second = peer.call("session/prompt", prompt(&session_id, "say too early")).await;
    assert_eq!(code(&second), -32602);
    // A prompt behind a cancel runs after what was cancelled.
    peer.notify("session/cancel", cancel).await;
    let follow = peer.prompt(&session_id, "say followed").await;
    assert_eq!(peer.answered(&first).await, Ok(json!({"stopReason": "cancelled"})));
    assert_eq!(peer.answered(&follow).await, Ok(json!({"stopReason": "end_turn"})));
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_errors_with_a_reason() {
    let daemon = TestDaemon::start().await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let session_id = peer.new_session(&daemon.work()).await;
    for (command, wanted, reason) in [
        ("fail auth", -32000, "PROVIDER_UNAUTHENTICATED"),
        ("fail quota", -32603, "PROVIDER_QUOTA_EXHAUSTED"),
    ] {
        let answer = peer.call("session/prompt", prompt(&session_id, command)).await;
        assert_eq!(code(&answer), wanted, "{command}");
        assert_eq!(answer.expect_err("an error")["data"]["reason"], reason);
    }
    assert_eq!(peer.run(&session_id, "say fine").await, "end_turn");
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_the_editor_are_added_and_a_bad_one_costs_nothing() {
    let Some(server) = crate::extensions::server() else { return };
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "auto").await;
    let mut peer =
        Peer::with(&daemon, json!({"session": {"notices": {}}, "elicitation": {"form": {}}})).await;
    let stdio = |name: &str, command: &str| json!({"name": name, "command": command, "args": [server, "stdio"], "env": [{"name": "A", "value": "1"}]});
    let start = Instant::now();
    let new = json!({"cwd": daemon.work(), "mcpServers": [
        stdio("everything", "node"),
        stdio("broken", "/does/not/exist"),
        {"name": "evil", "command": "node", "env": [{"name": "LD_PRELOAD", "value": "x"}]},
        {"name": "nothing"},
    ]});
    let answer = peer.call("session/new", new).await.expect("a session");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let session_id = answer["sessionId"].as_str().expect("an id").to_owned();
    let told =
        peer.until("a word about the nameless one", |m| m.to_string().contains("\\\"nothing\\\"")).await;
    assert_eq!(told["params"]["update"]["sessionUpdate"], "notice");

    assert_eq!(
        peer.run(&session_id, "call everything__echo {\"message\": \"brought along\"}").await,
        "end_turn"
    );
    let updates = peer.updates(&session_id);
    let echoed =
        updates.iter().any(|u| u["status"] == "completed" && u.to_string().contains("brought along"));
    assert!(echoed, "{updates:#?}");
    let list = pb::ListSessionExtensionsRequest { session_id: session_id.clone() };
    let listed = client.extensions().list_session_extensions(list).await.expect("extensions").into_inner();
    let names: Vec<_> = listed.extensions.iter().map(|e| e.name.as_str()).collect();
    assert!(names.contains(&"developer") && names.contains(&"everything"), "{names:?}");

    // A server asks the person at the editor.
    let turn = peer.prompt(&session_id, "call everything__trigger-elicitation-request {}").await;
    let asked = peer.request("elicitation/create").await;
    assert_eq!(asked["params"]["mode"], "form");
    assert_eq!(asked["params"]["sessionId"], session_id.as_str());
    assert!(asked["params"]["requestedSchema"]["properties"].is_object());
    let question = asked["params"]["message"].as_str().expect("a question").to_owned();
    // What does not match is asked for again, with what was wrong this time in front.
    peer.answer(&asked, json!({"action": "accept", "content": {"check": true}})).await;
    let again = peer.request("elicitation/create").await;
    let told = again["params"]["message"].as_str().expect("a message");
    assert_eq!(told, format!("The answer was not accepted: name is missing.\n\n{question}"));
    let content = json!({"name": "Ada Lovelace", "email": "nobody"});
    peer.answer(&again, json!({"action": "accept", "content": content})).await;
    let again = peer.request("elicitation/create").await;
    let told = again["params"]["message"].as_str().expect("a message");
    assert!(told.contains("email must be an e-mail address") && !told.contains("missing"), "{told}");
    assert!(told.ends_with(&question), "{told}");
    peer.answer(&again, json!({"action": "accept", "content": {"name": "Ada Lovelace", "check": true}}))
        .await;
    peer.answered(&turn).await.expect("done");
    let updates = peer.updates(&session_id);
    assert!(updates.iter().any(|u| u.to_string().contains("Ada Lovelace")), "{updates:#?}");
    peer.close().await;
    daemon.finish().await;
}

/// The agent as editors start it: a process, the daemon in the background.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_finds_or_starts_the_daemon() {
    let root = gander_bridge_tests::daemon::new_root();
    let config = root.path().join("config/config.yaml");
    std::fs::create_dir_all(config.parent().expect("a folder")).expect("config folder");
    std::fs::write(&config, "GOOSE_PROVIDER: demo\nGOOSE_MODEL: demo\n").expect("config");
    let talk = |words: &'static str| {
        let (root, work) = (root.path().to_owned(), root.path().join("work"));
        async move { converse(&root, &work, words).await }
    };
    let first = talk("say from the first").await;
    let second = talk("say from the second").await;
    assert_ne!(first, second);
    let stopped = gander_bridge_tests::child::run(root.path(), &["stop"]).await;
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
}

async fn converse(root: &Path, work: &Path, words: &str) -> String {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
    let mut child = gander_bridge_tests::child::gander(root, &["acp"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("gander starts");
    let mut stdin = child.stdin.take().expect("stdin");
    let mut lines = tokio::io::BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut session_id = String::new();
    for (id, method) in [(1, "initialize"), (2, "session/new"), (3, "session/prompt")] {
        let params = match id {
            1 => json!({"protocolVersion": 1, "clientCapabilities": {}}),
            2 => json!({"cwd": work, "mcpServers": []}),
            _ => prompt(&session_id, words),
        };
        let line = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        stdin.write_all(format!("{line}\n").as_bytes()).await.expect("written");
        let answer = soon(method, async {
            loop {
                let line = lines.next_line().await.expect("readable").expect("an answer");
                let message: Value = serde_json::from_str(&line).expect("stdout carries the protocol only");
                if message["id"] == id && message.get("method").is_none() {
                    return message;
                }
            }
        })
        .await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        if id == 2 {
            session_id = answer["result"]["sessionId"].as_str().expect("an id").to_owned();
        }
    }
    drop(stdin);
    let status = soon("the agent's end", child.wait()).await.expect("its status");
    assert!(status.success(), "{status:?}");
    session_id
}

/// What editors run in a terminal: asks, tries, and keeps what works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_set_up_asks_tries_and_keeps() {
    let root = gander_bridge_tests::daemon::new_root();
    let daemon = gander_bridge_tests::ChildDaemon::start(root.path()).await;
    let nobody = answer_setup(root.path(), "nobody\n").await;
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.stderr.contains("There is no such provider."), "{nobody:?}");
    let done = answer_setup(root.path(), "demo\n\n").await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.stdout, "", "stdout belongs to the protocol");
    let client = daemon.unix().await;
    let info =
        client.system().get_server_info(pb::GetServerInfoRequest {}).await.expect("facts").into_inner();
    let model = info.server_info.expect("facts").default_model.expect("a model");
    assert_eq!(model.provider_id, "demo");
    daemon.finish().await;
}

async fn answer_setup(root: &Path, answers: &str) -> gander_bridge_tests::child::Output {
    let file = root.join("answers");
    std::fs::write(&file, answers).expect("answers");
    let mut command = gander_bridge_tests::child::gander(root, &["acp", "--setup"]);
    command.stdin(std::fs::File::open(&file).expect("answers"));
    gander_bridge_tests::child::finished(&mut command).await
}
