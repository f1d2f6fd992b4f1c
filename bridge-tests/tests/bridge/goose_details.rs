//! Goose's surface over a real daemon, where details decide: where a session's recipe and extensions come from, calls
//! that a client executes, and forms in the later generation of the chat.

use gander_bridge_tests::{events, pb};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    goose::{Sse, Surface, contents, is_finish, message, said, text},
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
    let mut seen =
        stream.until(|event| !contents(std::slice::from_ref(event), "frontendToolRequest").is_empty()).await;
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
async fn a_form_is_answered_over_the_later_generations_route() {
    let Some(server) = crate::extensions::server() else { return };
    let rest = Surface::start().await;
    let client = rest.daemon.unix().await;
    let session_id = rest.session_with(json!([])).await;
    let mode = json!({"session_id": session_id, "goose_mode": "auto"});
    rest.post("/agent/update_session", mode).await;
    let config = crate::extensions::config(&server, "everything");
    crate::extensions::add(&client, &session_id, config).await;
    let path = |last: &str| format!("/sessions/{session_id}/{last}");
    let request = |mut body: Value| {
        let request_id = uuid::Uuid::now_v7().to_string();
        body["request_id"] = json!(request_id);
        (request_id, body)
    };
    let mut window = Sse::open(rest.request(Method::GET, &path("events"))).await;
    let asking = message(&session_id, "said0001", "call everything__trigger-elicitation-request {}");
    let (asked, body) = request(asking);
    rest.post(&path("reply"), body).await;
    let seen =
        window.until(|event| !contents(std::slice::from_ref(event), "actionRequired").is_empty()).await;
    let id = contents(&seen, "actionRequired")[0].1["data"]["id"].clone();
    let filled = |form: Value| {
        let data = json!({"actionType": "elicitationResponse", "id": id, "user_data": form});
        said(&session_id, "said0002", &json!([{"type": "actionRequired", "data": data}]))
    };
    // The session is busy, which an answer does not mind; what is no form leaves the question open.
    let (_, wrong) = request(filled(json!("Ada Lovelace")));
    let (status, told) = rest.ask(Method::POST, &path("reply"), &wrong).await;
    assert_eq!(status, 400, "{told}");
    let (answered, right) = request(filled(json!({"name": "Ada Lovelace", "check": true})));
    for _ in 0..2 {
        // The second time it is too late, which is nobody's fault.
        let answer = rest.post(&path("reply"), right.clone()).await;
        assert_eq!(answer, json!({"request_id": answered}));
    }
    let rest_of_it = window.until(is_finish).await;
    assert!(contents(&rest_of_it, "toolResponse")[0].1.to_string().contains("Ada Lovelace"));
    assert!(rest_of_it.iter().all(|event| event["chat_request_id"] == asked.as_str()), "{rest_of_it:#?}");
    let stop = json!({"request_id": answered});
    assert_eq!(rest.ask(Method::POST, &path("cancel"), &stop).await.0, 200, "it is over");
    let stored = rest.conversation(&session_id).await;
    assert_eq!(contents(&stored, "actionRequired").len(), 0, "{stored:#?}");
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_right_after_a_stop_is_not_lost() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let client = rest.daemon.unix().await;
    let path = |last: &str| format!("/sessions/{session_id}/{last}");
    let request = |id: &str, words: &str| {
        let request_id = uuid::Uuid::now_v7().to_string();
        let mut body = message(&session_id, id, words);
        body["request_id"] = json!(request_id);
        (request_id, body)
    };
    let mut window = Sse::open(rest.request(Method::GET, &path("events"))).await;
    let (first, body) = request("said0001", "slow 5000");
    rest.post(&path("reply"), body).await;
    window.until(|event| event["type"] == "Message").await;
    rest.post(&path("cancel"), json!({"request_id": first})).await;
    let (second, body) = request("said0002", "say after the stop");
    rest.post(&path("reply"), body).await;
    let mut seen = window.until(is_finish).await;
    seen.extend(window.until(is_finish).await);
    let ends: Vec<&Value> =
        seen.iter().filter(|event| is_finish(event)).map(|event| &event["chat_request_id"]).collect();
    assert_eq!(ends, [first.as_str(), second.as_str()]);
    assert!(text(&seen, "assistant").contains("after the stop"), "{seen:#?}");
    events::complete(&client, &session_id, "say it goes on").await;
    rest.finish().await;
}
