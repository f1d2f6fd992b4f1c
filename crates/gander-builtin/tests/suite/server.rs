//! The server itself: what it offers, how it is started, how it ends.

use std::process::Stdio;

use gander_builtin::{BuiltinContext, ServeError, catalogue, find, serve_in_process, serve_stdio};
use rmcp::{
    ServiceExt as _,
    model::{CallToolRequestParams, ClientConfig, Implementation, ProtocolVersion},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, time::timeout};

use crate::link::{BOTH, KILLED, Place, SLOW, example};

#[tokio::test]
async fn every_tool_is_described_for_models_and_clients() {
    for link in BOTH {
        let place = Place::new();
        let mut client = place.connect(link).await;
        let id = client.request("tools/list", json!({})).await;
        let answer = client.answer(id).await;
        let tools = answer["result"]["tools"].as_array().unwrap();
        let names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["shell", "read", "write", "edit", "list", "search"]);
        for tool in tools {
            assert!(tool["description"].as_str().unwrap().len() > 80, "{tool}");
            assert!(tool["title"].is_string() && tool["annotations"]["title"].is_string());
            for hint in ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"] {
                assert!(tool["annotations"][hint].is_boolean(), "{hint} of {tool}");
            }
            assert_eq!(tool["inputSchema"]["type"], "object");
            assert_eq!(tool["inputSchema"]["additionalProperties"], false);
            let properties = tool["inputSchema"]["properties"].as_object().unwrap();
            assert!(
                !properties.is_empty() && properties.values().all(|p| p["description"].is_string()),
                "{tool}"
            );
        }
        let read_only: Vec<bool> = tools.iter().map(|t| t["annotations"]["readOnlyHint"] == true).collect();
        assert_eq!(read_only, [false, true, false, false, true, true]);
        assert_eq!(tools[0]["inputSchema"]["required"], json!(["command"]));
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
    assert_eq!(catalogue().iter().map(|info| info.name).collect::<Vec<_>>(), ["developer"]);
    assert_eq!(find("developer").unwrap().display_name, "Developer");
    assert!(find("computercontroller").is_none());
    let context = || BuiltinContext::new("/", "/nowhere");
    assert!(serve_in_process("computercontroller", context()).is_none());
    let error = serve_stdio("nope", context()).await.unwrap_err();
    assert!(matches!(error, ServeError::Unknown(_)));
    assert_eq!(error.to_string(), "there is no builtin extension \"nope\"; there is: developer");
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
    let mut server = tokio::process::Command::new(example())
        .arg("developer")
        .args([place.root.join("work"), place.root.join("data")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let call = |command: &str| json!({"name": "shell", "arguments": {"command": command}});
    let messages = [
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call("cat hello")}),
        json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": call("sleep 1000")}),
    ];
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
    let answer = |id: u64| answers.iter().find(|answer| answer["id"] == json!(id)).unwrap_or(&Value::Null);
    assert_eq!(answer(2)["result"]["content"][0]["text"], "world\n");
    assert_eq!(answer(3)["result"]["isError"], true, "cut off with its client: {answers:?}");
}
