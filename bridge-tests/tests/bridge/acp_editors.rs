//! Editors beside each other, editors that go, and what only some of them ask for.

use std::{process::Stdio, time::Duration};

use gander_bridge_tests::{TestDaemon, child, daemon, events, eventually, pb, soon};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::{
    acp::{code, configure},
    acp_peer::{Peer, options, prompt},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unstable_parts_are_offered_to_those_who_ask() {
    let daemon = TestDaemon::start().await;
    let unstable = ["fork", "archive", "status", "title"];
    let offered = async |capabilities: Value| {
        let mut peer = Peer::open(daemon.unix().await, options());
        let hello = peer.initialize(capabilities).await;
        peer.close().await;
        let sessions = hello["agentCapabilities"]["sessionCapabilities"].clone();
        assert!(
            ["list", "delete", "resume", "close"].iter().all(|part| sessions[*part].is_object()),
            "{hello}"
        );
        let parts: Vec<_> = unstable.into_iter().filter(|part| sessions[*part].is_object()).collect();
        (parts, hello["_meta"]["steering"]["supported"] == true)
    };
    assert_eq!(offered(json!({"fs": {"readTextFile": true}, "terminal": true})).await, (vec![], false));
    assert_eq!(offered(json!({"session": {"fork": {}}})).await, (vec!["fork"], false));
    let goose = json!({"_meta": {"goose": {"customNotifications": true}}});
    assert_eq!(offered(goose).await, (unstable.to_vec(), true));
    daemon.finish().await;
}

/// The people's words that an editor was shown.
fn shown(peer: &Peer, session_id: &str) -> Vec<String> {
    let updates = peer.updates(session_id).into_iter();
    let user = updates.filter(|update| update["sessionUpdate"] == "user_message_chunk");
    user.map(|update| update["content"]["text"].as_str().expect("text").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_editors_in_one_session_see_each_others_words_once() {
    let daemon = TestDaemon::start().await;
    let mut first = Peer::with(&daemon, json!({})).await;
    let mut second = Peer::with(&daemon, json!({})).await;
    let work = daemon.work();
    let session_id = first.new_session(&work).await;
    let load = json!({"sessionId": session_id, "cwd": work, "mcpServers": []});
    second.call("session/load", load.clone()).await.expect("loaded");

    assert_eq!(first.run(&session_id, "say from the first").await, "end_turn");
    second.until("the first's text", |m| m.to_string().contains("from the first")).await;
    second.update("agent_message_chunk").await;
    assert_eq!(second.run(&session_id, "say from the second").await, "end_turn");
    first.update("user_message_chunk").await;
    first.update("agent_message_chunk").await;
    // Resuming on the same connection changes nothing of that.
    first.call("session/resume", load.clone()).await.expect("resumed");
    assert_eq!(first.run(&session_id, "say once more").await, "end_turn");
    second.until("the last words", |m| m["params"]["update"]["content"]["text"] == "say once more").await;
    assert_eq!(shown(&first, &session_id), ["say from the second"]);
    assert_eq!(shown(&second, &session_id), ["say from the first", "say once more"]);

    // Who loads sees everything, its own words too.
    second.forget();
    second.call("session/load", load).await.expect("loaded");
    let all = ["say from the first", "say from the second", "say once more"];
    assert_eq!(shown(&second, &session_id), all);
    first.close().await;
    second.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_made_for_goose_gets_gooses_updates() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    configure(&client, "auto").await;
    let goose = json!({"_meta": {"goose": {"customNotifications": true}}});
    let mut peer = Peer::with(&daemon, goose).await;
    let session_id = peer.new_session(&daemon.work()).await;
    let turn = peer.prompt(&session_id, "say to a goose").await;
    peer.answered(&turn).await.expect("done");
    let at = |wanted: &dyn Fn(&Value) -> bool| peer.log.iter().position(wanted);
    let run = |m: &Value| m.pointer("/params/update/_meta/goose/activeRunId").cloned();
    let begun = at(&|m| run(m).is_some_and(|id| id.is_string())).expect("its beginning");
    let ended = at(&|m| run(m) == Some(Value::Null)).expect("its end");
    let answer = at(&|m| m["result"]["stopReason"] == "end_turn").expect("its answer");
    let usage = at(&|m| {
        m["method"] == "_goose/unstable/session/update"
            && m["params"]["update"]["sessionUpdate"] == "usage_update"
            && m["params"]["sessionId"] == session_id.as_str()
    });
    let usage = usage.expect("its usage");
    assert!(begun < usage && usage < ended && ended < answer, "{begun} {usage} {ended} {answer}");
    let usage = &peer.log[usage]["params"]["update"];
    assert!(usage["accumulatedOutputTokens"].is_u64() && usage["contextLimit"].is_u64(), "{usage}");

    // A turn is steered by the id that was told.
    let turn = peer.prompt(&session_id, "slow 100000").await;
    let begun = peer.until("the run", |m| run(m).is_some_and(|id| id.is_string())).await;
    peer.update("agent_message_chunk").await;
    let steer = |run_id: &Value| json!({"sessionId": session_id, "expectedRunId": run_id, "prompt": [{"type": "text", "text": "say more"}]});
    let wrong = peer.call("_goose/unstable/session/steer", steer(&json!("another"))).await;
    assert_eq!(code(&wrong), -32602);
    let last = run(peer.log.iter().rfind(|m| run(m).is_some_and(|id| id.is_string())).expect("a run"));
    assert!(run(&begun).is_some());
    let steered = peer.call("_goose/unstable/session/steer", steer(&last.clone().expect("an id"))).await;
    assert_eq!(Some(steered.expect("steered")["runId"].clone()), last);
    peer.notify("session/cancel", json!({"sessionId": session_id})).await;
    assert_eq!(peer.answered(&turn).await, Ok(json!({"stopReason": "cancelled"})));
    peer.close().await;
    daemon.finish().await;
}

/// What Goose Desktop asks before its first message, in its order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goose_desktop_starts() {
    let daemon = TestDaemon::start().await;
    configure(&daemon.unix().await, "auto").await;
    let mut peer = Peer::with(&daemon, json!({"_meta": {"goose": {"mcpHostCapabilities": {}}}})).await;
    let own = "_goose/unstable";
    let mut call = async |method: &str, params: Value| {
        peer.call(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    };
    let defaults = call(&format!("{own}/defaults/read"), json!({})).await;
    assert!(defaults["providerId"].is_string() || defaults["providerId"].is_null(), "{defaults}");
    let extensions = call(&format!("{own}/config/extensions/list"), json!({})).await;
    assert_eq!(extensions["extensions"][0]["extension"]["name"], "developer");
    let providers = call(&format!("{own}/providers/list"), json!({})).await;
    let entry = &providers["entries"][0];
    for field in ["providerId", "configKeys", "models", "configured", "supportsRefresh", "visibleInSetup"] {
        assert!(!entry[field].is_null(), "{field}: {entry}");
    }
    let ready = call(&format!("{own}/providers/readiness/check"), json!({"providerId": "demo"})).await;
    assert_eq!(ready, json!({"providerId": "demo", "ready": true}));
    let effort = call(&format!("{own}/preferences/read"), json!({"keys": ["gooseThinkingEffort"]})).await;
    assert_eq!(effort["values"][0]["key"], "gooseThinkingEffort");

    // Its own choice of extensions, instead of the configured ones.
    let chosen = json!([{"type": "platform", "name": "todo"}, {"type": "platform", "name": "only-gooses"}]);
    let meta = json!({"client": "goose-desktop", "projectId": "p1", "provider": "demo", "enabledExtensions": chosen});
    let made = call("session/new", json!({"cwd": daemon.work(), "mcpServers": [], "_meta": meta})).await;
    assert_eq!(made["_meta"]["workingDir"], json!(daemon.work()));
    let session_id = made["sessionId"].as_str().expect("an id").to_owned();
    let of = json!({"sessionId": session_id});
    let listed = call(&format!("{own}/session/extensions/list"), of.clone()).await;
    assert_eq!(listed["extensions"], json!([{"type": "builtin", "name": "todo"}]));
    let info = call(&format!("{own}/session/info"), of).await["session"]["_meta"].clone();
    assert_eq!((&info["projectId"], &info["providerId"]), (&json!("p1"), &json!("demo")));
    assert_eq!((&info["messageCount"], &info["sessionType"]), (&json!(0), &json!("user")));
    let options: Vec<_> =
        made["configOptions"].as_array().expect("options").iter().map(|o| o["id"].clone()).collect();
    assert!(options.contains(&json!("provider")), "{options:?}");
    let set = json!({"sessionId": session_id, "configId": "provider", "value": "demo"});
    let set = call("session/set_config_option", set).await["configOptions"].clone();
    let provider =
        set.as_array().expect("options").iter().find(|o| o["id"] == "provider").expect("a provider");
    assert_eq!(provider["currentValue"], "demo");

    // Its list is of conversations, by their names or by what is said in them.
    let types = json!(["user", "scheduled"]);
    let list = |query: &str| json!({"_meta": {"types": types, "query": query}});
    assert_eq!(call("session/list", list("")).await["sessions"], json!([]), "nothing is said yet");
    let prompt = json!({"sessionId": session_id, "prompt": [{"type": "text", "text": "say pterodactyl"}]});
    call("session/prompt", prompt).await;
    for (words, found) in [("pterodactyl", 1), ("", 1), ("archaeopteryx", 0)] {
        let sessions = call("session/list", list(words)).await["sessions"].clone();
        assert_eq!(sessions.as_array().map(Vec::len), Some(found), "{words}: {sessions}");
    }
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gooses_preferences_and_custom_providers() {
    let daemon = TestDaemon::start().await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let mut call =
        async |method: &str, params: Value| peer.call(&format!("_goose/unstable/{method}"), params).await;
    let value = |key: &str, value: Value| json!({"key": key, "value": value});
    let both = json!({"values": [value("autoCompactThreshold", json!(0.7)), value("gooseThinkingEffort", json!("high"))]});
    call("preferences/save", both).await.expect("saved");
    let wanted = json!({"keys": ["gooseThinkingEffort", "voiceDictationProvider", "autoCompactThreshold"]});
    let read = call("preferences/read", wanted.clone()).await.expect("read");
    let now = [
        value("gooseThinkingEffort", json!("high")),
        value("voiceDictationProvider", Value::Null),
        value("autoCompactThreshold", json!(0.7)),
    ];
    assert_eq!(read["values"], json!(now));
    call("preferences/remove", json!({"keys": ["gooseThinkingEffort"]})).await.expect("removed");
    let read = call("preferences/read", wanted).await.expect("read");
    assert_eq!(read["values"][0], value("gooseThinkingEffort", Value::Null));
    assert_eq!(
        call("preferences/read", json!({})).await.expect("read")["values"].as_array().map(Vec::len),
        Some(4),
        "older clients know four"
    );
    assert_eq!(code(&call("preferences/read", json!({"keys": ["OPENAI_API_KEY"]})).await), -32602);

    let form = |name: &str, models: &[&str]| {
        json!({"engine": "openai", "displayName": name, "apiUrl": "http://127.0.0.1:9/v1", "apiKey": "sk-custom-test",
            "models": models, "requiresAuth": true, "supportsStreaming": true, "headers": {"x": "y"}})
    };
    let made = call("providers/custom/create", form("My Own", &["a"])).await.expect("made");
    let id = made["providerId"].clone();
    assert_eq!(made["status"], json!({"providerId": id, "isConfigured": true}));
    let mut update = form("My Own", &["a", "b"]);
    update.as_object_mut().expect("object").insert("providerId".into(), id.clone());
    call("providers/custom/update", update).await.expect("updated");
    let read = call("providers/custom/read", json!({"providerId": id})).await.expect("read");
    assert_eq!(
        (&read["provider"]["models"], &read["provider"]["apiKeySet"]),
        (&json!(["a", "b"]), &json!(true))
    );
    assert_eq!(read["editable"], true);
    assert!(!read.to_string().contains("sk-custom-test"), "{read}");
    call("providers/custom/delete", json!({"providerId": id})).await.expect("deleted");
    assert_eq!(code(&call("providers/custom/read", json!({"providerId": id})).await), -32002);
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_is_the_persons_decision() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let key = pb::SetSecretRequest { key: "OPENAI_API_KEY".into(), value: "sk-of-a-test".into() };
    client.config().set_secret(key).await.expect("stored");
    let request = pb::SetDefaultModelRequest {
        provider_id: "openai".into(),
        model_id: "gpt-4o".into(),
        ..Default::default()
    };
    client.providers().set_default_model(request).await.expect("a default model");
    let mut peer = Peer::open(daemon.unix().await, gander_acp::Options { demo_allowed: false, ..options() });
    let hello = peer.initialize(json!({"elicitation": {"form": {}}})).await;
    assert!(hello["agentCapabilities"]["auth"]["logout"].is_object());
    let has_key = async || {
        let request = pb::GetSecretStatusRequest { key: "OPENAI_API_KEY".into() };
        let status = client.config().get_secret_status(request).await.expect("a status").into_inner();
        status.secret.is_some_and(|secret| secret.present)
    };
    for (answer, kept) in [
        (json!({"action": "decline"}), true),
        (json!({"action": "accept", "content": {"erase": false}}), true),
        (json!({"action": "accept", "content": {"erase": true}}), false),
    ] {
        let out = peer.send("logout", json!({})).await;
        let asked = peer.request("elicitation/create").await;
        assert_eq!(asked["params"]["requestId"], out);
        peer.answer(&asked, answer).await;
        assert_eq!(peer.answered(&out).await.is_err(), kept);
        assert_eq!(has_key().await, kept);
    }
    // New sessions need a key again, and the answer says so.
    let new = peer.call("session/new", json!({"cwd": daemon.work(), "mcpServers": []})).await;
    assert_eq!(code(&new), -32000, "{new:?}");
    peer.close().await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_cancelled_by_ids_of_any_kind() {
    let daemon = TestDaemon::start().await;
    let mut peer = Peer::with(&daemon, json!({})).await;
    let session_id = peer.new_session(&daemon.work()).await;
    for id in [json!("a-text"), json!(4711), json!("4711")] {
        peer.forget();
        peer.send_as(id.clone(), "session/prompt", prompt(&session_id, "slow 100000")).await;
        peer.update("agent_message_chunk").await;
        // Ids that are not open, of the other kind, and none at all.
        for other in
            [json!({"requestId": "nobody"}), json!({"requestId": 99}), json!({"requestId": [id]}), json!({})]
        {
            peer.notify("$/cancel_request", other).await;
        }
        peer.notify("$/cancel_request", json!({"requestId": id})).await;
        assert_eq!(peer.answered(&id).await, Ok(json!({"stopReason": "cancelled"})));
    }
    peer.close().await;
    daemon.finish().await;
}

/// The real program: its editor closes the pipe in the middle of a turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_ends_at_once_when_its_editor_goes_and_the_turn_goes_on() {
    let root = daemon::new_root();
    let daemon = gander_bridge_tests::ChildDaemon::start(root.path()).await;
    let client = daemon.unix().await;
    let mut agent =
        child::gander(root.path(), &["acp"]).stdin(Stdio::piped()).spawn().expect("gander starts");
    let mut stdin = agent.stdin.take().expect("stdin");
    let mut lines = BufReader::new(agent.stdout.take().expect("stdout")).lines();
    let session_id = events::create(&client, events::new_session(&root.path().join("work"))).await;
    let resume = json!({"sessionId": session_id, "cwd": root.path().join("work")});
    for (id, method, params) in [
        (1, "initialize", json!({"protocolVersion": 1})),
        (2, "session/resume", resume),
        (3, "session/prompt", prompt(&session_id, "slow 100000")),
    ] {
        let line = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        stdin.write_all(format!("{line}\n").as_bytes()).await.expect("written");
    }
    soon("the turn's first words", async {
        loop {
            let line = lines.next_line().await.expect("readable").expect("a message");
            if line.contains("agent_message_chunk") {
                return;
            }
        }
    })
    .await;
    drop(stdin);
    let status = tokio::time::timeout(Duration::from_secs(5), agent.wait()).await;
    assert_eq!(status.expect("its end").expect("its status").code(), Some(0));
    let get = pb::GetSessionRequest { session_id: session_id.clone() };
    let session = client.sessions().get_session(get.clone()).await.expect("there").into_inner().session;
    let turn_id = session.expect("a session").active_turn_id;
    assert!(!turn_id.is_empty(), "the turn goes on");
    let cancel = pb::CancelTurnRequest { session_id, turn_id, ..Default::default() };
    client.turns().cancel_turn(cancel).await.expect("cancelled");
    eventually(Duration::from_secs(10), "the turn's end", || async {
        let session = client.sessions().get_session(get.clone()).await.expect("there").into_inner().session;
        session.expect("a session").active_turn_id.is_empty().then_some(())
    })
    .await;
    daemon.finish().await;
}

/// What the registry of agents asks of an entry, as far as it can be asked before a release.
#[test]
fn the_entry_for_the_registry_keeps_its_rules() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/acp");
    let text = std::fs::read_to_string(folder.join("agent.json")).expect("the entry");
    let entry: Value = serde_json::from_str(&text).expect("JSON");
    let known = ["id", "name", "version", "description", "authors", "license", "distribution"];
    assert!(entry.as_object().expect("object").keys().all(|key| known.contains(&key.as_str())), "{entry:#}");
    assert_eq!(entry["id"], "gander");
    assert_eq!(entry["version"], env!("CARGO_PKG_VERSION"));
    assert!(!entry["description"].as_str().expect("text").is_empty());
    let targets = entry["distribution"]["binary"].as_object().expect("programs");
    let platforms = ["darwin-aarch64", "darwin-x86_64", "linux-aarch64", "linux-x86_64"];
    assert!(!targets.is_empty() && targets.keys().all(|target| platforms.contains(&target.as_str())));
    for (target, program) in targets {
        let archive = program["archive"].as_str().expect("an address");
        assert!(archive.starts_with("https://") && archive.ends_with(".tar.gz"), "{archive}");
        assert!(archive.contains(target) && archive.contains(env!("CARGO_PKG_VERSION")), "{archive}");
        assert_eq!((&program["cmd"], &program["args"]), (&json!("./gander"), &json!(["acp"])));
    }
    let icon = std::fs::read_to_string(folder.join("icon.svg")).expect("the icon");
    assert!(icon.contains(r#"viewBox="0 0 16 16""#) && icon.contains("currentColor") && !icon.contains('#'));
}
