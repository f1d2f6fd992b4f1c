//! Goose's sessions over a real daemon: where their recipe and extensions come from, calls that a client executes, how
//! history is edited and moved, and how many there can be at once.

use std::collections::BTreeSet;

use gander_bridge_tests::pb;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    goose_window::{Surface, contents, has, is_finish, message, text},
    hosts,
};

fn recipe(extensions: Option<Value>) -> Value {
    let mut recipe = json!({"version": "1.0.0", "title": "Greeter", "description": "Greets people",
        "instructions": "Say hello to everyone", "prompt": "say hello"});
    if let Some(extensions) = extensions {
        recipe["extensions"] = extensions;
    }
    recipe
}

async fn extensions(rest: &Surface, session: &Value) -> Vec<String> {
    let id = session["id"].as_str().expect("an id");
    let listed = rest.get(&format!("/sessions/{id}/extensions")).await;
    let listed = listed["extensions"].as_array().expect("a list");
    let mut names: Vec<String> =
        listed.iter().map(|extension| extension["name"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_starts_from_a_recipe_however_it_is_named() {
    let rest = Surface::start().await;
    let start = |field: &str, value: Value, overrides: Value| {
        let mut body = json!({"working_dir": rest.daemon.work(), "extension_overrides": overrides});
        body[field] = value;
        body
    };
    let developer = json!([{"type": "builtin", "name": "developer", "description": ""}]);
    let with_tools = recipe(Some(developer.clone()));

    let session = rest.post("/agent/start", start("recipe", with_tools.clone(), json!([]))).await;
    assert_eq!(session["recipe"]["title"], "Greeter");
    assert_eq!((&session["name"], &session["conversation"]), (&json!("Greeter"), &Value::Null));
    assert_eq!(extensions(&rest, &session).await, ["developer"], "a recipe's list wins");
    let session =
        rest.post("/agent/start", start("recipe", recipe(Some(json!([]))), developer.clone())).await;
    assert_eq!(extensions(&rest, &session).await, Vec::<String>::new(), "an empty list is a list");
    let session = rest.post("/agent/start", start("recipe", recipe(None), developer.clone())).await;
    assert_eq!(extensions(&rest, &session).await, ["developer"], "no list leaves the overrides");
    let session = rest.post("/agent/start", start("recipe", Value::Null, json!([]))).await;
    assert_eq!((&session["recipe"], extensions(&rest, &session).await), (&Value::Null, Vec::new()));
    assert_eq!(session["name"], "New Chat");

    let saved = rest.post("/recipes/save", json!({"recipe": with_tools})).await;
    let session = rest.post("/agent/start", start("recipe_id", saved["id"].clone(), json!([]))).await;
    assert_eq!(session["recipe"]["title"], "Greeter");
    assert_eq!(extensions(&rest, &session).await, ["developer"]);
    let link = rest.post("/recipes/encode", json!({"recipe": with_tools})).await;
    let session =
        rest.post("/agent/start", start("recipe_deeplink", link["deeplink"].clone(), json!([]))).await;
    assert_eq!(session["recipe"]["instructions"], "Say hello to everyone");
    // It is there when the session is opened, and it works.
    let id = session["id"].as_str().expect("an id");
    let resumed =
        rest.post("/agent/resume", json!({"session_id": id, "load_model_and_extensions": true})).await;
    assert_eq!(resumed["session"]["recipe"]["title"], "Greeter");
    assert_eq!(resumed["extension_results"], json!([{"name": "developer", "success": true}]));
    rest.post("/agent/update_from_session", json!({"session_id": id})).await;
    assert!(is_finish(rest.run(id, "said0001", "say hello").await.last().expect("events")));

    for (field, value, status) in [
        ("recipe", json!({"title": "half"}), 400),
        ("recipe_id", json!("0000000000000000"), 404),
        ("recipe_deeplink", json!("goose://recipe?config=%%%"), 400),
    ] {
        let (answered, body) = rest.ask(Method::POST, "/agent/start", &start(field, value, json!([]))).await;
        assert_eq!(answered.as_u16(), status, "{field}: {body}");
        assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{field}: {body}");
    }
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_a_client_is_offered_and_never_hangs() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let client = rest.daemon.unix().await;
    let mut host = hosts::attach(&client, &session_id).await;
    let list = pb::ListToolsRequest { session_id: session_id.clone(), ..Default::default() };
    let tools = client.tools().list_tools(list).await.expect("tools").into_inner().tools;
    let name = &tools.iter().find(|tool| tool.tool_name == "greet").expect("the host's tool").name;
    let ask = message(&session_id, "said0001", &format!("call {name} {{\"name\": \"Ada\"}}"));
    let mut stream = rest.reply(&ask).await;
    let mut seen = stream.until(|event| has(event, "frontendToolRequest")).await;
    let call = hosts::next_call(&mut host).await;
    client.hosts().complete_host_call(hosts::answer(&call, "hello Ada")).await.expect("completed");
    seen.extend(stream.rest().await);
    let ids: Vec<Value> = ["toolRequest", "frontendToolRequest", "toolResponse"]
        .iter()
        .map(|kind| contents(&seen, kind)[0].1["id"].clone())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let offered = &contents(&seen, "frontendToolRequest")[0].1["toolCall"];
    assert_eq!(offered["value"]["arguments"], json!({"name": "Ada"}));
    assert!(contents(&seen, "toolResponse")[0].1.to_string().contains("hello Ada"));
    drop(host);

    // Goose's own server waits forever here.
    let tool = json!({"name": "paint", "description": "Paints", "inputSchema": {"type": "object"}});
    let frontend = json!([{"type": "frontend", "name": "canvas", "description": "", "tools": [tool]}]);
    let session_id = rest.session_with(frontend).await;
    let seen = rest.run(&session_id, "said0001", "call canvas__paint {}").await;
    assert!(is_finish(seen.last().expect("events")), "{seen:#?}");
    let result = contents(&seen, "toolResponse")[0].1["toolResult"].clone();
    assert_eq!(result["status"], "error", "{result}");
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_edited_copied_exported_and_imported() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let mut first = message(&session_id, "said0001", "say first");
    first["user_message"]["created"] = json!(1_772_700_000);
    rest.reply(&first).await.rest().await;
    let mut second = message(&session_id, "said0002", "say second");
    second["user_message"]["created"] = json!(1_772_700_050);
    rest.reply(&second).await.rest().await;
    let whole = rest.conversation(&session_id).await;
    let path = |last: &str| format!("/sessions/{session_id}/{last}");
    let exported = rest.get(&path("export")).await;
    let document: Value = serde_json::from_str(exported.as_str().expect("a string")).expect("JSON");
    assert_eq!(document["conversation"], Value::Array(whole.clone()));
    let imported = rest.post("/sessions/import", json!({"json": exported})).await;
    assert_ne!(imported["id"], session_id.as_str());
    let ids = |messages: &[Value]| messages.iter().map(|m| m["id"].clone()).collect::<Vec<_>>();
    let again = imported["conversation"].as_array().expect("a conversation");
    assert_eq!(ids(again), ids(&whole), "message ids are kept");
    assert_eq!(text(again, "assistant"), text(&whole, "assistant"));

    let fork = json!({"timestamp": 1_772_700_050, "truncate": true, "copy": true});
    let copy = rest.post(&path("fork"), fork).await["sessionId"].as_str().expect("an id").to_owned();
    let copied = rest.conversation(&copy).await;
    assert!(text(&copied, "user").contains("first") && !text(&copied, "user").contains("second"));
    assert_eq!(rest.conversation(&session_id).await, whole, "the original is as it was");
    let edit = json!({"timestamp": 1_772_700_050, "truncate": true, "copy": false});
    assert_eq!(rest.post(&path("fork"), edit).await["sessionId"], session_id.as_str());
    rest.run(&session_id, "said0003", "say instead").await;
    let edited = rest.conversation(&session_id).await;
    assert_eq!(text(&edited, "user"), "say firstsay instead");

    let found = rest.get("/sessions/search?query=instead").await;
    let found: BTreeSet<&str> =
        found.as_array().expect("a list").iter().filter_map(|s| s["id"].as_str()).collect();
    assert!(found.contains(session_id.as_str()), "{found:?}");
    let listed = rest.get("/sessions").await["sessions"].as_array().map_or(0, Vec::len);
    assert_eq!(listed, 3);
    assert_eq!(rest.ask(Method::DELETE, &format!("/sessions/{copy}"), &json!({})).await.0, 200);
    assert_eq!(rest.ask(Method::GET, &format!("/sessions/{copy}"), &json!({})).await.0, 404);
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sessions_at_once() {
    let rest = Surface::start().await;
    let runs = (0..200).map(async |number: usize| {
        let session_id = rest.session_with(json!([])).await;
        let word = format!("say number-{number}.");
        let events = rest.run(&session_id, "said0001", &word).await;
        assert!(is_finish(events.last().expect("events")), "{number}: {events:#?}");
        let said = text(&events, "assistant");
        assert!(said.contains(&format!("number-{number}.")), "{number}: {said}");
        session_id
    });
    let sessions: BTreeSet<String> = futures::future::join_all(runs).await.into_iter().collect();
    assert_eq!(sessions.len(), 200);
    let insights = rest.get("/sessions/insights").await;
    assert_eq!(insights["totalSessions"], 200);
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_is_added_changed_and_refused_with_a_reason() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let add = |config: Value| json!({"session_id": session_id, "config": config});
    let developer = |tools: Value| {
        add(json!({"type": "builtin", "name": "developer", "description": "", "available_tools": tools}))
    };
    let tools = async || {
        let listed =
            rest.get(&format!("/agent/tools?session_id={session_id}&extension_name=developer")).await;
        let names = listed.as_array().expect("a list").iter().filter_map(|tool| tool["name"].as_str());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    rest.post("/agent/add_extension", developer(json!(["shell"]))).await;
    assert_eq!(tools().await, ["developer__shell"]);
    // Goose's own server does nothing here, and says that it worked.
    rest.post("/agent/add_extension", developer(json!(["list", "read"]))).await;
    assert_eq!(tools().await, ["developer__list", "developer__read"]);
    for (config, why) in [
        (json!({"type": "sse", "name": "old", "uri": "http://x"}), "migrate to streamable_http"),
        (json!({"type": "stdio", "name": "n", "cmd": "no-such-program", "args": []}), "no-such-program"),
        (
            json!({"type": "stdio", "name": "n", "cmd": "true", "args": [], "envs": {"Ld_Preload": "x"}}),
            "Ld_Preload",
        ),
        (
            json!({"type": "stdio", "name": "n", "cmd": "true", "args": [], "env_keys": ["NO_SUCH_SECRET"]}),
            "NO_SUCH_SECRET",
        ),
        (json!({"type": "builtin", "name": "no-such-builtin"}), "developer"),
    ] {
        let (status, told) = rest.ask(Method::POST, "/agent/add_extension", &add(config)).await;
        let message = told["message"].as_str().unwrap_or_default();
        assert_eq!(status, 500, "{told}");
        assert!(message.starts_with("Failed to add extension: ") && message.contains(why), "{why}: {told}");
    }
    rest.post("/agent/remove_extension", json!({"session_id": session_id, "name": "developer"})).await;
    assert_eq!(tools().await, Vec::<String>::new());
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_message_waits_for_the_extensions() {
    let Some(server) = crate::extensions::server() else { return };
    let rest = Surface::start().await;
    let config = json!([{"type": "stdio", "name": "everything", "description": "", "cmd": "node",
        "args": [server, "stdio"]}]);
    let session_id = rest.session_with(config).await;
    // A window asks for the session first; a program need not.
    let seen = rest.run(&session_id, "said0001", "call everything__echo {\"message\": \"at once\"}").await;
    assert!(contents(&seen, "toolResponse")[0].1.to_string().contains("at once"), "{seen:#?}");
    rest.finish().await;
}
