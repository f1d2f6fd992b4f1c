//! Calls of an echo tool on a stdio MCP server: bare, and through gander. The server is this program in another role,
//! so that both call the same one and nothing must be installed.

use std::{
    io::{self, BufRead as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use gander_client::Client;
use gander_proto::v1::{
    BuiltinExtension, CallToolRequest, DeleteSessionRequest, ExtensionConfig, ListToolsRequest,
    StdioExtension, call_tool_response::Payload, extension_config::Kind, part::Body,
};
use rmcp::{ServiceExt as _, model::CallToolRequestParams, transport::TokioChildProcess};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{processes::own_executable, streams::create_session};

/// The role's name on the command line.
pub(crate) const ROLE: &str = "echo-server";
pub(crate) const ARGUMENTS: &str = "{\"text\":\"hello\"}";
/// For a single call.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Calls before the measured ones.
pub(crate) const WARM_UP: usize = 50;
/// Calls that the hung server is given.
const HANGING: usize = 32;

/// The role's name of a server that takes its time before it reads.
pub(crate) const SLOW_ROLE: &str = "slow-echo-server";
/// How long.
const SLOW_START: Duration = Duration::from_secs(1);

/// The server that is slow to start.
pub(crate) fn slow_server_main() -> io::Result<()> {
    std::thread::sleep(SLOW_START);
    server_main()
}

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
        }, {
            "name": "hang",
            "description": "Never answers",
            "inputSchema": { "type": "object" },
        }] }),
        "tools/call" if params["name"] == "hang" => return None,
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
    let session_id = session(client, directory, 1).await?;
    measured(client, &session_id, "echo0__echo", ARGUMENTS, calls).await
}

/// Latencies of calls of a builtin's tool over the API, microseconds. `directory` holds `note.txt`.
pub(crate) async fn builtin(client: &Client, directory: &str, calls: usize) -> Result<Vec<f64>> {
    let developer = ExtensionConfig {
        name: "developer".to_owned(),
        kind: Some(Kind::Builtin(BuiltinExtension {})),
        ..ExtensionConfig::default()
    };
    let session_id = create_session(client, directory, vec![developer]).await?;
    wait_for_tools(client, &session_id, 1).await?;
    measured(client, &session_id, "developer__read", "{\"path\":\"note.txt\"}", calls).await
}

/// Latencies of calls to 7 servers at once, before and after an 8th has stopped to answer.
pub(crate) async fn beside_a_hung_server(
    client: &Client,
    directory: &str,
    calls: usize,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let session_id = session(client, directory, 8).await?;
    let all = async || -> Result<Vec<f64>> {
        let names: Vec<String> = (0..7).map(|number| format!("echo{number}__echo")).collect();
        let servers = names.iter().map(|name| measured(client, &session_id, name, ARGUMENTS, calls));
        Ok(futures::future::try_join_all(servers).await?.concat())
    };
    let alone = all().await?;
    let mut hanging = Vec::new();
    for _ in 0..HANGING {
        let request = CallToolRequest {
            session_id: session_id.clone(),
            name: "echo7__hang".to_owned(),
            arguments_json: "{}".to_owned(),
            ..CallToolRequest::default()
        };
        hanging.push(client.tools().call_tool(request).await?);
    }
    let beside = all().await?;
    drop(hanging);
    end(client, session_id).await?;
    Ok((alone, beside))
}

/// A session with so many echo servers, all ready: `echo0`, `echo1`, …
pub(crate) async fn session(client: &Client, directory: &str, count: usize) -> Result<String> {
    let command = own_executable()?.to_string_lossy().into_owned();
    let server = |number: usize| ExtensionConfig {
        name: format!("echo{number}"),
        kind: Some(Kind::Stdio(StdioExtension { command: command.clone(), args: vec![ROLE.to_owned()] })),
        ..ExtensionConfig::default()
    };
    let session_id = create_session(client, directory, (0..count).map(server).collect()).await?;
    wait_for_tools(client, &session_id, 2 * count).await?;
    Ok(session_id)
}

pub(crate) async fn end(client: &Client, session_id: String) -> Result<()> {
    let request = DeleteSessionRequest { session_id, ..DeleteSessionRequest::default() };
    client.sessions().delete_session(request).await?;
    Ok(())
}

async fn wait_for_tools(client: &Client, session_id: &str, least: usize) -> Result<()> {
    let list = ListToolsRequest {
        session_id: session_id.to_owned(),
        wait_for_extensions: Some(Duration::from_secs(10).try_into()?),
        ..ListToolsRequest::default()
    };
    let tools = client.tools().list_tools(list).await?.into_inner().tools;
    ensure!(tools.len() >= least, "the session has {} tools, not {least}", tools.len());
    Ok(())
}

async fn measured(
    client: &Client,
    session_id: &str,
    tool: &str,
    arguments: &str,
    calls: usize,
) -> Result<Vec<f64>> {
    let mut latencies = Vec::with_capacity(calls);
    for number in 0..WARM_UP + calls {
        let request = CallToolRequest {
            session_id: session_id.to_owned(),
            name: tool.to_owned(),
            arguments_json: arguments.to_owned(),
            ..CallToolRequest::default()
        };
        let started = Instant::now();
        let answered =
            timeout(CALL_DEADLINE, call(client, request)).await.context("a call took too long")??;
        if number >= WARM_UP {
            latencies.push(micros(started));
        }
        ensure!(answered.contains("hello"), "{tool} gave {answered:?}");
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
        assert_eq!(reply(&request("tools/call", json!({ "name": "hang" }))), None);
    }
}
