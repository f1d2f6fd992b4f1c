//! The server itself: what it offers, how it is started, how it ends.

use std::process::Stdio;

use gander_builtin::{
    BuiltinContext, ServeError, catalogue, find, known_elsewhere, serve_in_process, serve_stdio,
};
use rmcp::{
    ServiceExt as _,
    model::{CallToolRequestParams, ClientConfig, Implementation, ProtocolVersion},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, time::timeout};

use crate::link::{BOTH, KILLED, Place, SLOW, example};

/// Names of tools, and which of them only read.
const TOOLS: [(&str, &[(&str, bool)]); 4] = [
    (
        "developer",
        &[
            ("shell", false),
            ("read", true),
            ("write", false),
            ("edit", false),
            ("list", true),
            ("search", true),
        ],
    ),
    (
        "memory",
        &[
            ("remember_memory", false),
            ("retrieve_memories", true),
            ("remove_memory_category", false),
            ("remove_specific_memory", false),
        ],
    ),
    ("todo", &[("todo_write", false)]),
    (
        "extensionmanager",
        &[
            ("search_available_extensions", true),
            ("manage_extensions", false),
            ("list_resources", true),
            ("read_resource", true),
        ],
    ),
];

#[tokio::test]
async fn every_tool_is_described_for_models_and_clients() {
    for (name, expected) in TOOLS {
        for link in BOTH {
            let mut client = Place::new().connect_to(name, link).await;
            assert_eq!(client.hello["serverInfo"]["name"], format!("gander-{name}"));
            assert_eq!(client.hello["serverInfo"]["title"], find(name).unwrap().display_name);
            assert!(client.instructions().len() > 100);
            let tools = client.tools().await;
            let read_only = |tool: &Value| tool["annotations"]["readOnlyHint"] == true;
            let names: Vec<(&str, bool)> =
                tools.iter().map(|tool| (tool["name"].as_str().unwrap(), read_only(tool))).collect();
            assert_eq!(names, expected);
            for tool in &tools {
                check_description(tool);
            }
        }
    }
    let tools = Place::new().connect(BOTH[0]).await.tools().await;
    assert_eq!(tools[0]["inputSchema"]["required"], json!(["command"]));
}

#[track_caller]
fn check_description(tool: &Value) {
    assert!(tool["description"].as_str().unwrap().len() > 80, "{tool}");
    assert!(tool["title"].is_string() && tool["annotations"]["title"].is_string());
    for hint in ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"] {
        assert!(tool["annotations"][hint].is_boolean(), "{hint} of {tool}");
    }
    assert_eq!(tool["inputSchema"]["type"], "object");
    assert_eq!(tool["inputSchema"]["additionalProperties"], false);
    // Only a search has nothing to ask for.
    let properties = tool["inputSchema"]["properties"].as_object().unwrap();
    assert!(properties.values().all(|property| property["description"].is_string()), "{tool}");
    assert_eq!(properties.is_empty(), tool["name"] == "search_available_extensions", "{tool}");
    if let Some(schema) = tool.get("outputSchema") {
        assert_eq!(schema["type"], "object");
    }
}

#[tokio::test]
async fn an_unknown_tool_is_a_protocol_error_and_wrong_arguments_are_not() {
    for link in BOTH {
        let place = Place::new();
        let mut client = place.connect(link).await;
        let id = client.start("fly", json!({})).await;
        let answer = client.answer(id).await;
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        client.call("read", json!({"path": 7})).await.error("do not fit the tool's schema");
        client.call("read", json!({"path": "x", "offset": -1})).await.error("do not fit the tool's schema");
        client.call("list", json!({"dept": 2})).await.error("unknown field `dept`");
    }
}

#[tokio::test]
async fn a_server_ends_when_asked_and_when_its_client_is_gone() {
    for link in BOTH {
        let place = Place::new();
        let mut client = place.connect(link).await;
        assert!(!client.server.as_ref().unwrap().is_finished());
        assert!(client.server.take().unwrap().shutdown(KILLED).await);

        let mut client = place.connect(link).await;
        let server = client.server.take().unwrap();
        drop(client);
        assert!(server.shutdown(KILLED).await);
    }
    // Nobody ever says hello.
    let parts = serve_in_process("developer", Place::new().context).unwrap();
    assert!(parts.server.shutdown(KILLED).await);
}

#[tokio::test]
async fn names_lead_to_servers() {
    let names: Vec<&str> = catalogue().iter().map(|info| info.name).collect();
    assert_eq!(names, ["developer", "memory", "todo", "extensionmanager"]);
    assert_eq!(find("developer").unwrap().display_name, "Developer");
    let context = || BuiltinContext::new("/", "/nowhere");
    for name in ["computercontroller", "autovisualiser", "tutorial"] {
        assert!(find(name).is_none() && serve_in_process(name, context()).is_none());
        let reason = known_elsewhere(name).unwrap();
        assert!(reason.contains(name) && reason.contains("not part of gander"), "{reason}");
        let error = serve_stdio(name, context()).await.unwrap_err();
        assert_eq!(error.to_string(), reason);
    }
    assert!(known_elsewhere("developer").is_none() && known_elsewhere("nope").is_none());
    let error = serve_stdio("nope", context()).await.unwrap_err();
    assert!(matches!(error, ServeError::Unknown(_)));
    let expected =
        "there is no builtin extension \"nope\"; there is: developer, memory, todo, extensionmanager";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn rmcps_own_client_connects_to_the_typed_link() {
    let place = Place::new();
    place.file("hello", "world\n");
    let parts = serve_in_process("developer", place.context.clone()).unwrap();
    let info = ClientConfig::new(Default::default(), Implementation::new("test", "1"))
        .with_protocol_version(ProtocolVersion::V_2025_06_18);
    let client = timeout(SLOW, info.serve((parts.sender, parts.receiver))).await.unwrap().unwrap();
    assert!(client.peer_info().unwrap().instructions.as_ref().unwrap().contains("working directory"));
    let arguments = json!({"path": "hello"}).as_object().unwrap().clone();
    let call = client.call_tool(CallToolRequestParams::new("read").with_arguments(arguments));
    let result = timeout(SLOW, call).await.unwrap().unwrap();
    assert_eq!(result.content[0].as_text().unwrap().text, "     1\tworld\n");
    assert_eq!(result.structured_content.unwrap()["total_lines"], 1);
    timeout(SLOW, client.cancel()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_script_can_pipe_requests_through_stdio() {
    let place = Place::new();
    place.file("hello", "world\n");
    let shell = |command: &str| ("shell", json!({ "command": command }));
    let answers = pipe(&place, "developer", &[shell("cat hello"), shell("sleep 1000")]).await;
    assert_eq!(answers[0]["content"][0]["text"], "world\n");
    assert_eq!(answers[1]["isError"], true, "cut off with its client: {answers:?}");

    let remember = json!({"category": "c", "data": "d", "is_global": false});
    let answers = pipe(&place, "memory", &[("remember_memory", remember)]).await;
    assert_eq!(answers[0]["structuredContent"]["stored"], true, "{answers:?}");
    assert_eq!(std::fs::read_to_string(place.root.join("work/.goose/memory/c.txt")).unwrap(), "d\n\n");
    let answers = pipe(&place, "todo", &[("todo_write", json!({"content": "- [x] a"}))]).await;
    assert_eq!(answers[0]["structuredContent"]["plan"]["entries"][0]["status"], "completed");
    let answers = pipe(&place, "extensionmanager", &[("search_available_extensions", json!({}))]).await;
    assert_eq!(answers[0]["isError"], true);
}

/// The results of calls that are all sent before stdin is closed.
async fn pipe(place: &Place, name: &str, calls: &[(&str, Value)]) -> Vec<Value> {
    let mut server = tokio::process::Command::new(example())
        .arg(name)
        .args([place.root.join("work"), place.root.join("data")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let mut messages = vec![
        json!({"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": hello}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
    ];
    messages.extend(calls.iter().enumerate().map(|(id, (tool, arguments))| {
        let params = json!({"name": tool, "arguments": arguments});
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
    }));
    let mut stdin = server.stdin.take().unwrap();
    for message in messages {
        stdin.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }
    drop(stdin);
    let output = timeout(SLOW, server.wait_with_output()).await.expect("ends after its input").unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    let answers: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let result = |id: usize| answers.iter().find(|answer| answer["id"] == json!(id)).unwrap_or(&Value::Null);
    (0..calls.len()).map(|id| result(id)["result"].clone()).collect()
}
