//! Sessions over the Agent Client Protocol: loaded, resumed, listed, settings; clients that come and go.

use std::time::{Duration, Instant};

use gander_bridge_tests::{TestDaemon, events, eventually, pb};
use gander_model::testing::FakeOpenAi;
use serde_json::{Value, json};

use crate::{
    acp::{code, configure},
    acp_peer::{Peer, prompt, said},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_loaded_with_its_history_and_resumed_without() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "auto").await;
    // Begun by another client.
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    events::complete(&client, &session_id, "say from another client").await;
    events::complete(&client, &session_id, &events::shell("echo shown-again; exit 3")).await;
    events::complete(&client, &session_id, "think hard").await;

    let mut peer = Peer::with(&daemon, json!({"_meta": {"terminal_output": true}})).await;
    let load = json!({"sessionId": session_id, "cwd": daemon.work(), "mcpServers": []});
    let answer = peer.call("session/load", load.clone()).await.expect("loaded");
    assert!(answer["configOptions"].is_array() && answer["modes"]["currentModeId"].is_string(), "{answer}");
    let at = peer.log.iter().position(|m| m["result"]["configOptions"].is_array()).expect("the answer");
    let before: Vec<Value> = peer.log[..at].iter().map(|m| m["params"]["update"].clone()).collect();
    let kinds: Vec<_> = before.iter().filter_map(|u| u["sessionUpdate"].as_str()).collect();
    assert_eq!(kinds.iter().filter(|k| **k == "user_message_chunk").count(), 3, "{kinds:?}");
    assert!(kinds.contains(&"agent_thought_chunk"), "{kinds:?}");
    assert!(said(&before).contains("from another client"));
    let call = before.iter().find(|u| u["sessionUpdate"] == "tool_call").expect("a tool call");
    assert_eq!(call["content"][0]["type"], "terminal", "{call}");
    let exit = before.iter().find_map(|u| u.pointer("/_meta/terminal_exit")).expect("an exit");
    assert_eq!(exit["exit_code"], 3);
    let shown: String =
        before.iter().filter_map(|u| u.pointer("/_meta/terminal_output/data")?.as_str()).collect();
    assert!(shown.contains("shown-again"), "{shown}");
    assert_eq!(peer.run(&session_id, "say and on").await, "end_turn");
    // Loaded again on the same connection: everything once more, and once only afterwards.
    peer.forget();
    peer.call("session/load", load).await.expect("loaded again");
    peer.forget();
    assert_eq!(peer.run(&session_id, "say once").await, "end_turn");
    assert_eq!(peer.said(&session_id).matches("once").count(), 1, "{}", peer.said(&session_id));

    let mut other = Peer::with(&daemon, json!({})).await;
    let resume = json!({"sessionId": session_id, "cwd": daemon.work()});
    other.call("session/resume", resume).await.expect("resumed");
    assert_eq!(other.run(&session_id, "say new").await, "end_turn");
    let updates = other.updates(&session_id);
    assert_eq!(said(&updates).trim(), said(&updates).trim());
    assert!(!said(&updates).contains("another client"), "{updates:?}");
    // The first editor sees what the second one did.
    let seen = peer
        .until("the other's message", |m| m["params"]["update"]["sessionUpdate"] == "user_message_chunk")
        .await;
    assert_eq!(seen["params"]["update"]["content"]["text"], "say new");
    other.close().await;
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_goes_on_while_its_editor_is_away_and_is_seen_again() {
    let daemon = TestDaemon::start().await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let session_id = peer.new_session(&daemon.work()).await;
    peer.prompt(&session_id, "slow 400").await;
    peer.update("agent_message_chunk").await;
    drop(peer);
    let mut peer = Peer::with(&daemon, json!({})).await;
    let load = json!({"sessionId": session_id, "cwd": daemon.work(), "mcpServers": []});
    peer.call("session/load", load).await.expect("loaded");
    // What was there and what comes make the whole text.
    let client = daemon.unix().await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(&mut stream, &mut seen, "the end", |p| {
        matches!(p, pb::session_event::Payload::TurnEnded(_))
    })
    .await;
    let whole = events::agent_text(&seen);
    let deadline = Instant::now() + Duration::from_secs(10);
    while peer.said(&session_id).len() < whole.len() && Instant::now() < deadline {
        let wanted = whole.len() - peer.said(&session_id).len();
        assert!(wanted > 0);
        peer.update("agent_message_chunk").await;
    }
    assert_eq!(peer.said(&session_id), whole);
    drop(stream);
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_listed_titled_copied_closed_and_deleted() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let work = daemon.work();
    let other = work.join("other");
    std::fs::create_dir(&other).expect("a folder");
    let listed = peer.call("session/list", json!({})).await.expect("a list");
    assert_eq!(listed["sessions"], json!([]));
    let session_id = peer.new_session(&work).await;
    peer.run(&session_id, "say something").await;
    let elsewhere = peer.new_session(&other).await;
    let all = peer.call("session/list", json!({})).await.expect("a list");
    assert_eq!(all["sessions"].as_array().map(Vec::len), Some(2));
    let here = peer.call("session/list", json!({"cwd": other, "cursor": null})).await.expect("a list");
    assert_eq!(here["sessions"].as_array().map(Vec::len), Some(1));
    assert_eq!(here["sessions"][0]["sessionId"], elsewhere.as_str());

    let titled = peer.call("session/set_title", json!({"sessionId": session_id, "title": "Named"})).await;
    assert_eq!(titled.expect("titled")["title"], "Named");
    peer.until("the title", |m| m["params"]["update"]["title"] == "Named").await;
    peer.call("session/archive", json!({"sessionId": elsewhere})).await.expect("archived");
    let all = peer.call("session/list", json!({})).await.expect("a list");
    assert_eq!(all["sessions"].as_array().map(Vec::len), Some(1));
    peer.call("session/unarchive", json!({"sessionId": elsewhere})).await.expect("back");

    let copy =
        peer.call("session/fork", json!({"sessionId": session_id, "cwd": work, "mcpServers": []})).await;
    let copy = copy.expect("a copy")["sessionId"].as_str().expect("an id").to_owned();
    assert_ne!(copy, session_id);
    assert_eq!(peer.run(&copy, "say in the copy").await, "end_turn");
    let status = peer.call("session/status", json!({"sessionId": copy})).await.expect("a status");
    assert_eq!(status["status"], "open");

    let turn = peer.prompt(&session_id, "slow 100000").await;
    peer.update("agent_message_chunk").await;
    let closing = peer.send("session/close", json!({"sessionId": session_id})).await;
    assert_eq!(peer.answered(&turn).await, Ok(json!({"stopReason": "cancelled"})));
    peer.answered(&closing).await.expect("closed");
    let get = pb::GetSessionRequest { session_id: session_id.clone() };
    eventually(Duration::from_secs(5), "the session to be unloaded", || async {
        let session = client.sessions().get_session(get.clone()).await.expect("there").into_inner().session;
        (!session.expect("a session").loaded).then_some(())
    })
    .await;
    // It can be prompted again at any time.
    assert_eq!(peer.run(&session_id, "say back").await, "end_turn");
    for id in [session_id.as_str(), session_id.as_str(), "never-there"] {
        peer.call("session/delete", json!({"sessionId": id})).await.expect("deleted");
    }
    assert_eq!(code(&peer.call("session/prompt", prompt(&session_id, "say no")).await), -32002);
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modes_and_options_follow_each_other_and_other_clients() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let new =
        peer.call("session/new", json!({"cwd": daemon.work(), "mcpServers": []})).await.expect("a session");
    let session_id = new["sessionId"].as_str().expect("an id").to_owned();
    let ids: Vec<_> =
        new["configOptions"].as_array().expect("options").iter().map(|o| o["id"].clone()).collect();
    assert!(ids.contains(&json!("mode")) && ids.contains(&json!("model")), "{ids:?}");
    assert_eq!(new["modes"]["currentModeId"], new["configOptions"][0]["currentValue"]);

    peer.call("session/set_mode", json!({"sessionId": session_id, "modeId": "approve"})).await.expect("set");
    let options = peer.update("config_option_update").await;
    assert_eq!(options["configOptions"][0]["currentValue"], "approve");
    let set = json!({"sessionId": session_id, "configId": "mode", "value": "chat"});
    let answer = peer.call("session/set_config_option", set).await.expect("set");
    assert_eq!(answer["configOptions"][0]["currentValue"], "chat");
    peer.until("the mode", |m| m["params"]["update"]["currentModeId"] == "chat").await;
    let model = new["configOptions"]
        .as_array()
        .expect("options")
        .iter()
        .find(|o| o["id"] == "model")
        .expect("a model");
    let set = json!({"sessionId": session_id, "modelId": model["currentValue"]});
    peer.call("session/set_model", set).await.expect("set");

    // Set elsewhere.
    peer.forget();
    let session = pb::Session {
        session_id: session_id.clone(),
        mode: Some(pb::SessionMode::Auto as i32),
        ..Default::default()
    };
    let update = pb::UpdateSessionRequest {
        session: Some(session),
        update_mask: Some(prost_types::FieldMask { paths: vec!["mode".into()] }),
        ..Default::default()
    };
    client.sessions().update_session(update).await.expect("updated");
    let mode = peer.update("current_mode_update").await;
    assert_eq!(mode["currentModeId"], "auto");
    peer.close().await;
    daemon.finish().await;
}

/// The thought level is one setting for all clients, and the provider's server is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_thought_level_is_set_by_any_client_and_sent() {
    let fake = FakeOpenAi::start().await.expect("a fake");
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let definition = json!({
        "name": "thinker", "engine": "openai", "display_name": "Thinker", "base_url": fake.chat_url(),
        "requires_auth": false, "models": [{"name": "text"}, {"name": "two_calls"}], "dynamic_models": false,
        "thinking_words": {"text": ["none", "low", "medium", "high"]},
    });
    let create = pb::CreateCustomProviderRequest {
        definition_json: definition.to_string(),
        ..pb::CreateCustomProviderRequest::default()
    };
    let made = client.providers().create_custom_provider(create).await.expect("made").into_inner();
    let provider_id = made.provider.expect("a provider").provider_id;
    for (key, value) in [("GOOSE_PROVIDER", provider_id.as_str()), ("GOOSE_MODEL", "text")] {
        let request = pb::SetConfigValueRequest {
            key: key.to_owned(),
            value_json: json!(value).to_string(),
            ..pb::SetConfigValueRequest::default()
        };
        client.config().set_config_value(request).await.expect("set");
    }
    let mut peer = Peer::with(&daemon, json!({})).await;
    let new =
        peer.call("session/new", json!({"cwd": daemon.work(), "mcpServers": []})).await.expect("a session");
    let session_id = new["sessionId"].as_str().expect("an id").to_owned();
    let options = new["configOptions"].as_array().expect("options");
    let categories: Vec<_> = options.iter().filter_map(|o| o["category"].as_str()).collect();
    assert_eq!(categories, ["mode", "model", "thought_level", "model_config"]);
    assert_eq!(options[2]["currentValue"], "default");
    let told = |fake: &FakeOpenAi| {
        let seen = fake.requests();
        let chats = seen.iter().filter(|seen| seen.body["tools"].is_array());
        chats.map(|seen| seen.body["reasoning_effort"].clone()).collect::<Vec<_>>()
    };
    peer.call("session/prompt", prompt(&session_id, "one")).await.expect("answered");
    assert_eq!(told(&fake), [Value::Null]);

    // Goose's preference holds for sessions that set nothing.
    let high = json!({"values": [{"key": "gooseThinkingEffort", "value": "high"}]});
    peer.call("_goose/unstable/preferences/save", high).await.expect("saved");
    peer.call("session/prompt", prompt(&session_id, "two")).await.expect("answered");
    assert_eq!(told(&fake), [Value::Null, json!("high")]);

    // Over ACP, seen over gRPC.
    let set = json!({"sessionId": session_id, "configId": "thought_level", "value": "low"});
    let answer = peer.call("session/set_config_option", set).await.expect("set");
    assert_eq!(answer["configOptions"][2]["currentValue"], "low");
    let get = pb::GetSessionRequest { session_id: session_id.clone() };
    let session = client.sessions().get_session(get).await.expect("known").into_inner();
    let session = session.session.expect("a session");
    assert_eq!(session.model.expect("a model").thought_level(), pb::ThoughtLevel::Low);
    events::complete(&client, &session_id, "three").await;
    assert_eq!(told(&fake).last(), Some(&json!("low")));

    // Over gRPC, seen over ACP.
    peer.forget();
    let set = pb::SetSessionOptionRequest {
        session_id: session_id.clone(),
        option_id: "thought_level".to_owned(),
        value: Some(pb::SessionOptionValue {
            value: Some(pb::session_option_value::Value::Choice("off".to_owned())),
        }),
        ..pb::SetSessionOptionRequest::default()
    };
    client.sessions().set_session_option(set).await.expect("set");
    let update = peer.update("config_option_update").await;
    assert_eq!(update["configOptions"][2]["currentValue"], "off");
    events::complete(&client, &session_id, "four").await;
    assert_eq!(told(&fake).last(), Some(&json!("none")));
    let gooses = json!({"sessionId": session_id, "configId": "thinking_effort", "value": "max"});
    let answer = peer.call("session/set_config_option", gooses).await.expect("set by Goose's name");
    assert_eq!(answer["configOptions"][2]["currentValue"], "max");
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reconnects_leave_nothing_behind() {
    let Some(server) = crate::extensions::server() else { return };
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "auto").await;
    let work = daemon.work();
    let (starts, mark) = (work.join("starts"), gander_bridge_tests::unique_word());
    // A server that counts how often it is started.
    let program = work.join("counted");
    let (place, server) = (starts.display(), server.display());
    let script = format!("#!/bin/sh\necho start >> '{place}'\nexec node '{server}' stdio --mark={mark}\n");
    std::fs::write(&program, script).expect("a program");
    let runnable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, runnable).expect("its rights");
    let counted = json!([{"name": "counted", "command": program, "args": [], "env": []}]);
    let mut sessions = Vec::new();
    let mut peer = Peer::with(&daemon, json!({})).await;
    for _ in 0..3 {
        let new = json!({"cwd": work, "mcpServers": counted});
        let answer = peer.call("session/new", new).await.expect("a session");
        let session_id = answer["sessionId"].as_str().expect("an id").to_owned();
        let call = "call counted__echo {\"message\": \"once\"}";
        assert_eq!(peer.run(&session_id, call).await, "end_turn");
        sessions.push(session_id);
    }
    peer.forget();
    peer.prompt(&sessions[0], "slow 100000").await;
    peer.update("agent_message_chunk").await;
    drop(peer);
    for round in 0..100 {
        let mut peer = Peer::with(&daemon, json!({"fs": {"readTextFile": true}, "terminal": true})).await;
        for session_id in &sessions {
            let resume = json!({"sessionId": session_id, "cwd": work, "mcpServers": counted});
            peer.call("session/resume", resume).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
        }
        drop(peer);
    }
    // The prompt went on: what was said is there, and more comes.
    let mut peer = Peer::with(&daemon, json!({"fs": {"readTextFile": true}})).await;
    let load = json!({"sessionId": sessions[0], "cwd": work, "mcpServers": counted});
    peer.call("session/load", load).await.expect("loaded");
    let answer = peer.log.iter().position(|m| m["result"]["configOptions"].is_array()).expect("the answer");
    let before: Vec<Value> = peer.log[..answer].iter().map(|m| m["params"]["update"].clone()).collect();
    assert!(said(&before).contains("tok-1 "), "{before:?}");
    peer.until("more of the turn", |m| {
        m["params"]["update"]["sessionUpdate"] == "agent_message_chunk"
            && !before.contains(&m["params"]["update"])
    })
    .await;
    peer.notify("session/cancel", json!({"sessionId": sessions[0]})).await;
    eventually(Duration::from_secs(10), "the turn to end", || async {
        let get = pb::GetSessionRequest { session_id: sessions[0].clone() };
        let session = client.sessions().get_session(get).await.expect("there").into_inner().session?;
        session.active_turn_id.is_empty().then_some(())
    })
    .await;
    let started = std::fs::read_to_string(&starts).expect("starts").lines().count();
    assert_eq!(started, sessions.len(), "one start per session, and none for a reconnect");
    assert_eq!(gander_bridge_tests::processes::with_mark(&mark).len(), sessions.len());
    for session_id in &sessions {
        let log = events::log(&client, session_id).await;
        let added = log.iter().filter(|event| match &event.payload {
            Some(pb::session_event::Payload::ExtensionAdded(added)) => {
                added.extension.as_ref().is_some_and(|extension| extension.name == "counted")
            }
            _ => false,
        });
        assert_eq!(added.count(), 1, "no extension twice");
    }
    // None of the hundred is still the session's host: the one that is here is asked for its files.
    std::fs::write(work.join("notes.txt"), "of the disk\n").expect("a file");
    let turn =
        peer.prompt(&sessions[0], &format!("call developer__read {}", json!({"path": "notes.txt"}))).await;
    let asked = peer.request("fs/read_text_file").await;
    peer.answer(&asked, json!({"content": "of the editor\n"})).await;
    assert_eq!(peer.answered(&turn).await, Ok(json!({"stopReason": "end_turn"})));
    peer.close().await;
    daemon.finish().await;
    assert!(gander_bridge_tests::processes::with_mark(&mark).is_empty(), "its processes end with the daemon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gooses_own_methods_that_have_a_counterpart() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "auto").await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let work = daemon.work();
    let session_id = peer.new_session(&work).await;
    peer.run(&session_id, "say to be exported").await;
    let mut goose = async |method: &str, params: Value| {
        peer.call(&format!("_goose/unstable/{method}"), params)
            .await
            .unwrap_or_else(|e| panic!("{method}: {e}"))
    };
    let of = |more: Value| {
        let mut params = json!({"sessionId": session_id});
        params.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        params
    };
    goose("session/rename", of(json!({"title": "Goose's name"}))).await;
    assert_eq!(goose("session/info", of(json!({}))).await["session"]["title"], "Goose's name");
    let tools = goose("tools/list", of(json!({}))).await;
    assert!(
        tools["tools"].as_array().expect("tools").iter().any(|t| t["name"] == "developer__shell"),
        "{tools}"
    );
    let called =
        goose("tools/call", of(json!({"name": "developer__shell", "arguments": {"command": "echo direct"}})))
            .await;
    assert!(called["content"][0]["text"].as_str().expect("text").contains("direct"), "{called}");
    assert_eq!(called["isError"], false);
    let listed = goose("session/extensions/list", of(json!({}))).await;
    assert_eq!(listed["extensions"][0]["name"], "developer");
    goose("session/extensions/remove", of(json!({"name": "developer"}))).await;
    let builtin = json!({"extension": {"type": "builtin", "name": "todo"}});
    goose("session/extensions/add", of(builtin)).await;
    goose("session/system-prompt/set", of(json!({"mode": "append", "text": "Be brief."}))).await;
    goose("session/project/update", of(json!({"projectId": "p1"}))).await;
    let configured = goose("config/extensions/list", json!({})).await;
    let key = configured["extensions"][0]["configKey"].clone();
    goose("config/extensions/set-enabled", json!({"configKey": key, "enabled": false})).await;
    goose("config/upsert", json!({"key": "GOOSE_MODE", "value": "approve", "isSecret": false})).await;
    assert_eq!(
        goose("config/read", json!({"key": "GOOSE_MODE", "isSecret": false})).await["value"],
        "approve"
    );
    goose("defaults/save", json!({"providerId": "demo", "modelId": "demo"})).await;
    assert_eq!(goose("defaults/read", json!({})).await["providerId"], "demo");
    let listed = goose("providers/list", json!({"providerIds": ["openai"]})).await;
    assert_eq!(listed["entries"][0]["providerId"], "openai");
    assert_eq!(listed["entries"][0]["configured"], false);
    let fields =
        json!({"providerId": "openai", "fields": [{"key": "OPENAI_API_KEY", "value": "sk-of-a-test"}]});
    let saved = goose("providers/config/save", fields).await;
    assert_eq!(saved["status"], json!({"providerId": "openai", "isConfigured": true}));
    let read = goose("providers/config/read", json!({"providerId": "openai"})).await;
    assert!(!read.to_string().contains("sk-of-a-test"), "a secret is never given back: {read}");
    let forgotten = goose("providers/config/delete", json!({"providerId": "openai"})).await;
    assert_eq!(forgotten["status"]["isConfigured"], false);
    let models = goose("providers/supported-models/list", json!({"providerId": "demo"})).await;
    assert!(models["models"].as_array().is_some_and(|models| !models.is_empty()), "{models}");
    // In Goose's own format, there and back.
    let exported = goose("session/export", of(json!({}))).await;
    let document: Value = serde_json::from_str(exported["data"].as_str().expect("text")).expect("JSON");
    assert_eq!((&document["id"], &document["name"]), (&json!(session_id), &json!("Goose's name")));
    assert_eq!(document["conversation"][0]["role"], "user");
    assert_eq!(document["conversation"][0]["content"][0]["text"], "say to be exported");
    let imported = goose("session/import", json!({"input": exported["data"], "source": "json"})).await;
    assert_ne!(imported["sessionId"], session_id.as_str());
    assert_eq!((&imported["title"], &imported["messageCount"]), (&json!("Goose's name"), &json!(2)));
    let again = goose("session/export", json!({"sessionId": imported["sessionId"]})).await;
    let again: Value = serde_json::from_str(again["data"].as_str().expect("text")).expect("JSON");
    let words = |document: &Value| -> Vec<Value> {
        let messages = document["conversation"].as_array().expect("messages").iter();
        messages.map(|message| message["content"].clone()).collect()
    };
    assert_eq!(words(&again), words(&document));
    // gander's own form is read as well.
    let request = pb::ExportSessionRequest { session_id: session_id.clone(), exclude_content: false };
    let mut chunks = client.sessions().export_session(request).await.expect("an export").into_inner();
    let mut own = Vec::new();
    while let Some(chunk) = chunks.message().await.expect("a chunk") {
        own.extend_from_slice(&chunk.data);
    }
    let own = String::from_utf8(own).expect("text");
    assert_eq!(goose("session/import", json!({"input": own, "source": "auto"})).await["messageCount"], 2);
    let session = pb::GetSessionRequest { session_id: session_id.clone() };
    let session =
        client.sessions().get_session(session).await.expect("there").into_inner().session.expect("a session");
    assert_eq!(session.labels.get("goose.project_id").map(String::as_str), Some("p1"));
    assert!(session.instructions.iter().any(|i| i.text == "Be brief."));
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_loses_nothing() {
    let daemon = TestDaemon::start().await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let session_id = peer.new_session(&daemon.work()).await;
    let client = daemon.unix().await;
    let turn = peer.prompt(&session_id, "burst 100000").await;
    // Nothing is read until the turn has ended.
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(&mut stream, &mut seen, "the end", |p| {
        matches!(p, pb::session_event::Payload::TurnEnded(_))
    })
    .await;
    assert_eq!(peer.answered(&turn).await, Ok(json!({"stopReason": "end_turn"})));
    assert_eq!(peer.said(&session_id), events::agent_text(&seen));
    let chunks = peer.updates(&session_id).len();
    assert!(chunks < 20_000, "text that waited grew together: {chunks} updates for 100000 tokens");
    drop(stream);
    peer.close().await;
    daemon.finish().await;
}

/// The real program at an editor that does not read for ten seconds, while several turns and a tool say more than fits
/// into any buffer on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_seconds_of_not_reading_lose_nothing_and_cost_little() {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
    /// What the agent may need beyond what it needed before. Its queue holds 4 MiB; the watches and a debug build's
    /// allocator come on top.
    const MEMORY: u64 = 64 * 1024 * 1024;
    const SESSIONS: usize = 6;
    let root = gander_bridge_tests::daemon::new_root();
    let daemon = gander_bridge_tests::ChildDaemon::start(root.path()).await;
    let client = daemon.unix().await;
    let mut agent = gander_bridge_tests::child::gander(root.path(), &["acp"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("gander starts");
    let pid = agent.id().expect("a process");
    let mut stdin = agent.stdin.take().expect("stdin");
    let mut lines = tokio::io::BufReader::new(agent.stdout.take().expect("stdout")).lines();
    let work = root.path().join("work");
    let mut sessions = Vec::new();
    let mut requests = vec![json!({"id": "init", "method": "initialize", "params": {"protocolVersion": 1}})];
    for number in 0..SESSIONS {
        let session_id = events::create(&client, events::new_session(&work)).await;
        let resume = json!({"sessionId": session_id, "cwd": work});
        requests
            .push(json!({"id": format!("resume-{number}"), "method": "session/resume", "params": resume}));
        sessions.push(session_id);
    }
    let mut texts: Vec<String> = vec![String::new(); SESSIONS];
    let mut answers = 0;
    for request in &requests {
        stdin.write_all(format!("{request}\n").as_bytes()).await.expect("written");
    }
    while answers < requests.len() {
        let line = gander_bridge_tests::soon("an answer", lines.next_line()).await.expect("readable");
        let message: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        answers += usize::from(message.get("method").is_none());
    }
    let before = gander_bridge_tests::processes::resident_bytes(pid);
    for (number, session_id) in sessions.iter().enumerate() {
        let prompt = prompt(session_id, "burst 100000");
        let request = json!({"id": format!("turn-{number}"), "method": "session/prompt", "params": prompt});
        stdin.write_all(format!("{request}\n").as_bytes()).await.expect("written");
    }
    // Not reading is the case itself, not a wait for something.
    let (begin, mut most) = (Instant::now(), before);
    while begin.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        most = most.max(gander_bridge_tests::processes::resident_bytes(pid));
    }
    let mut ended = 0;
    while ended < SESSIONS {
        let line = gander_bridge_tests::soon("the rest", lines.next_line()).await.expect("readable");
        let message: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        if message.get("method").is_none() {
            assert_eq!(message["result"]["stopReason"], "end_turn", "{message}");
            ended += 1;
        } else if message["params"]["update"]["sessionUpdate"] == "agent_message_chunk" {
            let at = sessions.iter().position(|id| message["params"]["sessionId"] == id.as_str());
            let text = message["params"]["update"]["content"]["text"].as_str().expect("text");
            texts[at.expect("one of ours")].push_str(text);
        }
        most = most.max(gander_bridge_tests::processes::resident_bytes(pid));
    }
    let wanted: String = (1..=100_000).map(|number| format!("tok-{number} ")).collect();
    assert!(wanted.len() * SESSIONS > 5 * 1024 * 1024, "more than the queue holds");
    for text in texts {
        assert!(text.ends_with(&wanted), "{} of {} bytes", text.len(), wanted.len());
    }
    assert!(most < before + MEMORY, "{before} bytes before, {most} at the most");
    drop(stdin);
    gander_bridge_tests::soon("the agent's end", agent.wait()).await.expect("its status");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_and_long_texts_are_in_the_history() {
    let daemon = TestDaemon::start().await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let work = daemon.work();
    let session_id = peer.new_session(&work).await;
    // Both are stored beside the log.
    let picture = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, vec![7_u8; 400 * 1024]);
    let long = format!("say {}", "long ".repeat(80_000));
    let prompt = json!({"sessionId": session_id, "prompt": [
        {"type": "text", "text": long},
        {"type": "image", "data": picture, "mimeType": "image/png"},
        {"type": "resource", "resource": {"uri": "file:///a.txt", "mimeType": "text/plain", "text": "embedded"}},
        {"type": "resource_link", "name": "b.txt", "uri": "file:///b.txt"},
    ]});
    let answer = peer.call("session/prompt", prompt).await.expect("done");
    assert_eq!(answer["stopReason"], "end_turn");
    let mut other = Peer::with(&daemon, json!({})).await;
    let load = json!({"sessionId": session_id, "cwd": work, "mcpServers": []});
    other.call("session/load", load).await.expect("loaded");
    let updates = other.updates(&session_id);
    let mine: Vec<_> = updates.iter().filter(|u| u["sessionUpdate"] == "user_message_chunk").collect();
    let kinds: Vec<_> = mine.iter().map(|u| u["content"]["type"].as_str().unwrap_or_default()).collect();
    assert_eq!(kinds, ["text", "image", "resource", "resource_link"]);
    assert_eq!(mine[0]["content"]["text"], long);
    assert_eq!(mine[1]["content"]["data"], picture);
    assert_eq!(mine[2]["content"]["resource"]["text"], "embedded");
    other.close().await;
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_turn_is_steered() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "auto").await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let work = daemon.work();
    let folder = work.join("more");
    std::fs::create_dir(&folder).expect("a folder");
    let new = json!({"cwd": work, "mcpServers": [], "additionalDirectories": [folder]});
    let answer = peer.call("session/new", new).await.expect("a session");
    let session_id = answer["sessionId"].as_str().expect("an id").to_owned();
    let listed = peer.call("session/list", json!({})).await.expect("a list");
    assert_eq!(listed["sessions"][0]["additionalDirectories"], json!([folder]));

    let steer = |words: &str| json!({"sessionId": session_id, "prompt": [{"type": "text", "text": words}]});
    let idle = peer.call("_session/steering", steer("say idle")).await.expect("an outcome");
    assert_eq!(idle["outcome"], "promptRequired");
    let turn = peer.prompt(&session_id, "slow 100000").await;
    peer.update("agent_message_chunk").await;
    let steered = peer.call("_session/steering", steer("say steered")).await.expect("an outcome");
    assert_eq!(steered["outcome"], "injected");
    peer.notify("session/cancel", json!({"sessionId": session_id})).await;
    assert_eq!(peer.answered(&turn).await, Ok(json!({"stopReason": "cancelled"})));
    // Own words are not echoed, steering ones neither.
    assert!(peer.updates(&session_id).iter().all(|u| u["sessionUpdate"] != "user_message_chunk"));
    let log = events::log(&client, &session_id).await;
    let words: Vec<String> = events::completed_items(&log)
        .into_iter()
        .filter_map(|item| match item.body {
            Some(pb::item::Body::UserMessage(message)) => Some(events::text(&message.parts)),
            _ => None,
        })
        .collect();
    assert_eq!(words, ["slow 100000", "say steered"]);
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_begun_over_rest_is_loaded_with_its_history() {
    let daemon = TestDaemon::start_with(|options| {
        let root = options.root.clone().expect("a root");
        let model = [("GOOSE_PROVIDER", "demo"), ("GOOSE_MODEL", "demo-1"), ("GOOSE_MODE", "auto")];
        options.environment = gander_bridge_tests::daemon::environment_with(&root, &model);
    })
    .await;
    let http = gander_bridge_tests::window::http_client();
    let post = async |path: &str, body: Value| {
        let request = http.post(format!("{}{path}", daemon.url())).header("x-secret-key", daemon.token());
        let request = request.header("content-type", "application/json").body(body.to_string());
        let response = gander_bridge_tests::soon(path, request.send()).await.expect(path);
        assert_eq!(response.status(), 200, "{path}");
        gander_bridge_tests::soon(path, response.text()).await.expect("a body")
    };
    let extensions = json!([{"type": "builtin", "name": "developer"}]);
    let start = json!({"working_dir": daemon.work(), "extension_overrides": extensions});
    let session: Value = serde_json::from_str(&post("/agent/start", start).await).expect("JSON");
    let session_id = session["id"].as_str().expect("an id");
    let words = events::shell("echo over-rest");
    let message = json!({
        "role": "user", "id": "m1", "created": 1_700_000_000,
        "content": [{"type": "text", "text": words}],
        "metadata": {"userVisible": true, "agentVisible": true},
    });
    let reply = post("/reply", json!({"session_id": session_id, "user_message": message})).await;
    assert!(reply.contains("Finish"), "{reply}");

    let mut peer = Peer::with(&daemon, json!({})).await;
    let load = json!({"sessionId": session_id, "cwd": daemon.work(), "mcpServers": []});
    peer.call("session/load", load).await.expect("loaded");
    let updates = peer.updates(session_id);
    let user = updates.iter().find(|u| u["sessionUpdate"] == "user_message_chunk").expect("a message");
    assert_eq!(user["content"]["text"], words);
    let call = updates.iter().find(|u| u["sessionUpdate"] == "tool_call").expect("a call");
    assert_eq!(call["status"], "completed");
    assert!(call["content"].to_string().contains("over-rest"), "{call}");
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_editor_outlives_the_daemon() {
    let root = gander_bridge_tests::daemon::new_root();
    let work = root.path().join("work");
    let daemon = gander_bridge_tests::ChildDaemon::start(root.path()).await;
    let mut peer = Peer::open(daemon.unix().await, crate::acp_peer::options());
    peer.initialize(json!({"terminal": true})).await;
    let session_id = peer.new_session(&work).await;
    let turn = peer.prompt(&session_id, "slow 100000").await;
    peer.update("agent_message_chunk").await;
    daemon.kill().await;
    let daemon = gander_bridge_tests::ChildDaemon::start(root.path()).await;
    // What happened to the turn is told as soon as it is known, and the same connection goes on.
    let interrupted = peer.answered(&turn).await.expect_err("an error");
    assert_eq!(interrupted["data"], json!({"reason": "INTERRUPTED", "retryable": true}), "{interrupted}");
    assert_eq!(peer.run(&session_id, "say back again").await, "end_turn");
    assert!(peer.said(&session_id).contains("back again"));
    peer.close().await;
    daemon.finish().await;
}
