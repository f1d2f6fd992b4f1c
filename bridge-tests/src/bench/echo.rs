//! Calls of an echo tool on a stdio MCP server: bare, and through gander. The server is this program in another role,
//! so that both call the same one and nothing must be installed.

use std::{
    io::{self, BufRead as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use gander_client::Client;
use gander_proto::v1::{
    CallToolRequest, ExtensionConfig, ListToolsRequest, StdioExtension, call_tool_response::Payload,
    extension_config::Kind, part::Body,
};
use rmcp::{ServiceExt as _, model::CallToolRequestParams, transport::TokioChildProcess};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{processes::own_executable, streams::create_session};

/// The role's name on the command line.
pub(crate) const ROLE: &str = "echo-server";
const ARGUMENTS: &str = "{\"text\":\"hello\"}";
/// For a single call.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Calls before the measured ones.
const WARM_UP: usize = 50;

/// The server: JSON lines on standard input and output, one tool `echo`, until the input ends.
pub(crate) fn server_main() -> io::Result<()> {
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        if let Some(reply) = reply(&request) {
            writeln!(output, "{reply}")?;
            output.flush()?;
        }
    }
    Ok(())
}

fn reply(request: &Value) -> Option<Value> {
    let id = request.get("id")?;
    let params = &request["params"];
    let result = match request["method"].as_str()? {
        "initialize" => json!({
            "protocolVersion": "2025-06-18",
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "echo", "version": "1" },
        }),
        "tools/list" => json!({ "tools": [{
            "name": "echo",
            "description": "Gives back its text",
            "inputSchema": {
                "type": "object", "properties": { "text": { "type": "string" } }, "required": ["text"]
            },
        }] }),
        "tools/call" => json!({ "content": [{ "type": "text", "text": params["arguments"]["text"] }] }),
        "ping" => json!({}),
        _ => {
            let error = json!({ "code": -32601, "message": "no such method" });
            return Some(json!({ "jsonrpc": "2.0", "id": id, "error": error }));
        }
    };
    Some(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

fn micros(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e6
}

/// Latencies of calls with rmcp's client alone, microseconds.
pub(crate) async fn bare(calls: usize) -> Result<Vec<f64>> {
    let mut command = tokio::process::Command::new(own_executable()?);
    command.arg(ROLE);
    let starting = ().serve(TokioChildProcess::new(command)?);
    let client =
        timeout(CALL_DEADLINE, starting).await.context("the echo server did not start in time")??;
    let arguments: serde_json::Map<String, Value> = serde_json::from_str(ARGUMENTS)?;
    let mut latencies = Vec::with_capacity(calls);
    for number in 0..WARM_UP + calls {
        let call = CallToolRequestParams::new("echo").with_arguments(arguments.clone());
        let started = Instant::now();
        let result =
            timeout(CALL_DEADLINE, client.call_tool(call)).await.context("a call took too long")??;
        if number >= WARM_UP {
            latencies.push(micros(started));
        }
        ensure!(result.is_error != Some(true), "the echo tool failed");
    }
    client.cancel().await?;
    Ok(latencies)
}

/// Latencies of calls over the API, microseconds: the whole request, its record in the log included.
pub(crate) async fn through_gander(client: &Client, directory: &str, calls: usize) -> Result<Vec<f64>> {
    let kind = StdioExtension {
        command: own_executable()?.to_string_lossy().into_owned(),
        args: vec![ROLE.to_owned()],
    };
    let extension = ExtensionConfig {
        name: "echo".to_owned(),
        kind: Some(Kind::Stdio(kind)),
        ..ExtensionConfig::default()
    };
    let session_id = create_session(client, directory, vec![extension]).await?;
    let list = ListToolsRequest {
        session_id: session_id.clone(),
        wait_for_extensions: Some(Duration::from_secs(10).try_into()?),
        ..ListToolsRequest::default()
    };
    let tools = client.tools().list_tools(list).await?.into_inner().tools;
    let tool =
        tools.iter().find(|tool| tool.name.ends_with("echo")).context("the session has no echo tool")?;
    let mut latencies = Vec::with_capacity(calls);
    for number in 0..WARM_UP + calls {
        let request = CallToolRequest {
            session_id: session_id.clone(),
            name: tool.name.clone(),
            arguments_json: ARGUMENTS.to_owned(),
            ..CallToolRequest::default()
        };
        let started = Instant::now();
        let answered =
            timeout(CALL_DEADLINE, call(client, request)).await.context("a call took too long")??;
        if number >= WARM_UP {
            latencies.push(micros(started));
        }
        ensure!(answered == "hello", "the echo tool gave {answered:?}");
    }
    Ok(latencies)
}

async fn call(client: &Client, request: CallToolRequest) -> Result<String> {
    let mut messages = client.tools().call_tool(request).await?.into_inner();
    let mut text = None;
    while let Some(message) = messages.message().await? {
        if let Some(Payload::Result(result)) = message.payload {
            ensure!(!result.is_error, "the echo tool failed");
            text = result.parts.into_iter().find_map(|part| match part.body {
                Some(Body::Text(text)) => Some(text),
                _ => None,
            });
        }
    }
    text.context("the call gave no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_answers_requests_only() {
        let request = |method: &str, params: Value| json!({"id": 1, "method": method, "params": params});
        let call = request("tools/call", json!({ "name": "echo", "arguments": { "text": "a" } }));
        assert_eq!(reply(&call).unwrap()["result"]["content"][0]["text"], "a");
        assert_eq!(reply(&request("server/discover", json!({}))).unwrap()["error"]["code"], -32601);
        assert_eq!(reply(&json!({ "method": "notifications/initialized" })), None);
    }
}
