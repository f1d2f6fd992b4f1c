//! What a stock Desktop does with a window, from its first request to its last, against the real processes.

use std::{path::Path, time::Duration};

use gander_bridge_tests::{child, daemon::new_root, soon, window::Window};
use serde_json::{Value, json};

use crate::goose_window::{Sse, contents, is_finish, message, text};

/// What Desktop puts into the configuration at its first start.
const BUNDLED: [&str; 5] = ["developer", "computercontroller", "autovisualiser", "memory", "tutorial"];

/// Sends a message and reads its stream until `until` holds or it ends.
async fn reply(window: &Window, body: &Value, mut until: impl FnMut(&Value) -> bool) -> Vec<Value> {
    let request = window.request(reqwest::Method::POST, "/reply").header("content-type", "application/json");
    let mut stream = Sse::open(request.body(body.to_string())).await;
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        let last = until(&event);
        events.push(event);
        if last {
            break;
        }
    }
    events
}

/// Start-up, as the main process and the first page do it.
async fn start_up(window: &Window) {
    let provider = json!({ "key": "GOOSE_PROVIDER", "is_secret": false });
    window.ok("/config/read", &json!({ "key": "GOOSE_TELEMETRY_ENABLED", "is_secret": false })).await;
    assert_eq!(window.get("/config").await.status, 200);
    assert_eq!(window.ok("/config/read", &provider).await, Value::Null, "nothing is set up: onboarding");
    let providers = window.get("/config/providers").await.body;
    assert!(providers.as_array().is_some_and(|list| list.iter().any(|p| p["name"] == "anthropic")));
    for name in BUNDLED {
        let entry = json!({
            "name": name, "enabled": name == "developer",
            "config": { "type": "builtin", "name": name, "display_name": name, "timeout": 300, "bundled": true,
                        "description": "" }
        });
        window.ok("/config/extensions", &entry).await;
    }
    let listed = window.get("/config/extensions").await.body;
    let names: Vec<&str> =
        listed["extensions"].as_array().into_iter().flatten().filter_map(|e| e["name"].as_str()).collect();
    assert!(BUNDLED.iter().all(|name| names.contains(name)), "{listed}");
    for (key, value) in [("GOOSE_PROVIDER", "demo"), ("GOOSE_MODE", "auto")] {
        window.ok("/config/upsert", &json!({ "key": key, "value": value, "is_secret": false })).await;
    }
    assert_eq!(window.ok("/config/read", &provider).await, "demo");
    for path in ["/sessions", "/sessions/insights"] {
        assert_eq!(window.get(path).await.status, 200, "{path}");
    }
}

/// A new chat, as its page does it; gives the session's id.
async fn new_chat(window: &Window, directory: &Path) -> String {
    let overrides = json!([{ "type": "builtin", "name": "developer", "timeout": 300, "bundled": true }]);
    let start = json!({ "working_dir": directory, "extension_overrides": overrides });
    let session = window.ok("/agent/start", &start).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    assert_eq!(session["name"], "New Chat");
    let resume = json!({ "session_id": id, "load_model_and_extensions": true });
    let resumed = window.ok("/agent/resume", &resume).await;
    assert_eq!(resumed["session"]["conversation"], json!([]));
    assert_eq!(resumed["extension_results"], json!([{ "name": "developer", "success": true }]));
    window.ok("/agent/update_from_session", &json!({ "session_id": id })).await;
    assert_eq!(window.get(&format!("/agent/list_apps?session_id={id}")).await.status, 200);
    let tools = window.get(&format!("/agent/tools?session_id={id}")).await.body;
    assert!(
        tools.as_array().is_some_and(|tools| tools.iter().any(|t| t["name"] == "developer__shell")),
        "{tools}"
    );
    assert_eq!(window.get(&format!("/sessions/{id}")).await.body["id"], id.as_str());
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_desktop() {
    let root = new_root();
    let directory = root.path().join("work");
    std::fs::write(directory.join("notes.txt"), "hello").expect("a file");
    let window = Window::open(root.path()).await;
    start_up(&window).await;
    let session = new_chat(&window, &directory).await;

    // A turn with a tool.
    let events = reply(&window, &message(&session, "k3j9x0ab", "list the files here"), |_| false).await;
    assert_eq!(events.last().expect("events")["type"], "Finish", "{events:#?}");
    let requests = contents(&events, "toolRequest");
    let responses = contents(&events, "toolResponse");
    assert_eq!((requests.len(), responses.len()), (1, 1), "{events:#?}");
    assert_eq!(requests[0].1["id"], responses[0].1["id"]);
    assert!(responses[0].1["toolResult"]["value"].to_string().contains("notes.txt"), "{responses:?}");
    let streamed: String = contents(&events, "text").iter().filter_map(|(_, c)| c["text"].as_str()).collect();

    // Every call is asked for from now on; the answer comes over another request.
    window
        .ok("/config/upsert", &json!({ "key": "GOOSE_MODE", "value": "approve", "is_secret": false }))
        .await;
    let ask = message(&session, "k3j9x0ac", "list the files here");
    let mut asked = None;
    let until = |event: &Value| {
        asked = contents(std::slice::from_ref(event), "actionRequired").pop();
        asked.is_some()
    };
    // Reading stops at the question, which closes the stream: for Desktop that is its Stop button.
    reply(&window, &ask, until).await;
    let (_, question) = asked.expect("a question");
    assert_eq!(question["data"]["actionType"], "toolConfirmation");
    assert_eq!(question["data"]["toolName"], "developer__list");

    // Stopped: the next message is not refused, and this time the question is answered.
    let mut confirmed = false;
    let ask = message(&session, "k3j9x0ad", "list the files here");
    let (events, ()) = tokio::join!(reply(&window, &ask, |_| false), async {
        let question = pending_question(&window, &session).await;
        let confirm = json!({ "id": question, "action": "allow_once", "sessionId": session });
        assert_eq!(window.ok("/action-required/tool-confirmation", &confirm).await, json!({}));
        confirmed = true;
    });
    assert!(confirmed);
    assert_eq!(contents(&events, "toolResponse").len(), 1, "{events:#?}");

    // The window is closed and opened again: what was streamed is what is stored.
    assert_eq!(window.close().await, "");
    let window = Window::open(root.path()).await;
    let resume = json!({ "session_id": session, "load_model_and_extensions": true });
    let conversation = window.ok("/agent/resume", &resume).await["session"]["conversation"].clone();
    let stored = conversation.as_array().expect("a conversation");
    assert_eq!(stored[0]["id"], "k3j9x0ab");
    let first = |kind: &str| contents(stored, kind)[0].clone();
    assert_eq!(first("toolRequest").0, requests[0].0, "streamed and stored ids are equal");
    assert_eq!(first("toolResponse").0, responses[0].0);
    let said: String = contents(stored, "text").iter().filter_map(|(_, c)| c["text"].as_str()).collect();
    assert!(said.contains(&streamed), "{said:?} and {streamed:?}");

    // History: found, renamed, forked, exported, imported, deleted.
    let listed = window.get("/sessions").await.body;
    assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(1), "{listed}");
    let renamed = window.request(reqwest::Method::PUT, &format!("/sessions/{session}/name"));
    let renamed =
        renamed.header("content-type", "application/json").body(json!({ "name": "Files" }).to_string());
    assert_eq!(soon("an answer", renamed.send()).await.expect("an answer").status(), 200);
    let exported = window.get(&format!("/sessions/{session}/export")).await.body;
    let document = match &exported {
        Value::String(text) => text.clone(),
        document => document.to_string(),
    };
    let imported = window.ok("/sessions/import", &json!({ "json": document })).await;
    assert_eq!(imported["name"], "Files");
    assert_ne!(imported["id"], session.as_str());
    let fork = json!({ "truncate": false, "copy": true });
    let forked = window.ok(&format!("/sessions/{session}/fork"), &fork).await;
    assert!(forked["sessionId"].as_str().is_some_and(|id| id != session), "{forked}");
    let deleted = window.request(reqwest::Method::DELETE, &format!("/sessions/{session}"));
    assert_eq!(soon("an answer", deleted.send()).await.expect("an answer").status(), 200);
    assert_eq!(window.get(&format!("/sessions/{session}")).await.status, 404);
    window.close().await;
    let stopped = child::run(root.path(), &["stop", "--grace", "0s"]).await;
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_closes_at_once_and_ends_nothing_of_another_window() {
    let root = new_root();
    let directory = root.path().join("work");
    let (closing, staying) = tokio::join!(Window::open(root.path()), Window::open(root.path()));
    for (key, value) in [("GOOSE_PROVIDER", "demo"), ("GOOSE_MODE", "auto")] {
        closing.ok("/config/upsert", &json!({ "key": key, "value": value, "is_secret": false })).await;
    }
    let session = new_chat(&closing, &directory).await;
    let post = |window: &Window, body: &Value| {
        let request = window.request(reqwest::Method::POST, "/reply");
        request.header("content-type", "application/json").body(body.to_string())
    };
    let mut cut = Sse::open(post(&closing, &message(&session, "k3j9x0ab", "slow 300"))).await;
    let events = format!("/sessions/{session}/events");
    let mut watching = Sse::open(closing.request(reqwest::Method::GET, &events)).await;
    let mut other = Sse::open(staying.request(reqwest::Method::GET, &events)).await;
    cut.until(|event| event["type"] == "Message").await;
    let began = std::time::Instant::now();
    assert_eq!(closing.close().await, "");
    assert!(began.elapsed() < Duration::from_secs(3), "open streams hold nothing up: {:?}", began.elapsed());
    // What is cut must not look like an end, and a stream of a session has none.
    while let Ok(event) = cut.try_next().await {
        assert_ne!(event.expect("it did not end well")["type"], "Finish");
    }
    while let Ok(Some(event)) = watching.try_next().await {
        assert_ne!(event["type"], "Finish");
    }
    let seen = other.until(is_finish).await;
    assert!(text(&seen, "assistant").contains("tok-300"), "the turn went on to its end");
    staying.close().await;
    let stopped = child::run(root.path(), &["stop", "--grace", "0s"]).await;
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
}

/// The id under which Desktop answers the question that is open, from what it shows.
async fn pending_question(window: &Window, session: &str) -> String {
    gander_bridge_tests::eventually(gander_bridge_tests::DEADLINE, "a question", || async {
        let conversation = window.get(&format!("/sessions/{session}")).await.body["conversation"].clone();
        let stored = conversation.as_array()?.clone();
        let (_, question) = contents(&stored, "actionRequired").pop()?;
        Some(question["data"]["id"].as_str()?.to_owned())
    })
    .await
}
