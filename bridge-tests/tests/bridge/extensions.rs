//! An MCP server that others wrote, as a real process.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use gander_bridge_tests::{
    ChildDaemon, TestDaemon, daemon::new_root, events, eventually, pb, processes, skip, soon, unique_digits,
};
use gander_client::Client;
use pb::{ExtensionState, session_event::Payload};
use rustix::process::{Pid, Signal, kill_process};

/// The server's main file; `None` where Node's packages are not installed.
pub(crate) fn server() -> Option<PathBuf> {
    let Some(modules) = std::env::var_os("GANDER_TEST_NODE_DIR") else {
        skip("GANDER_TEST_NODE_DIR is not set: no Node packages to talk to");
        return None;
    };
    let file = PathBuf::from(modules).join("@modelcontextprotocol/server-everything/dist/index.js");
    assert!(file.is_file(), "{} does not exist", file.display());
    Some(file)
}

pub(crate) fn config(server: &std::path::Path, mark: &str) -> pb::ExtensionConfig {
    let stdio = pb::StdioExtension {
        command: "node".into(),
        args: vec![server.display().to_string(), "stdio".into(), format!("--mark={mark}")],
    };
    pb::ExtensionConfig {
        name: "everything".into(),
        kind: Some(pb::extension_config::Kind::Stdio(stdio)),
        ..Default::default()
    }
}

pub(crate) async fn add(
    client: &Client,
    session_id: &str,
    config: pb::ExtensionConfig,
) -> pb::ExtensionStatus {
    let request = pb::AddSessionExtensionRequest {
        session_id: session_id.to_owned(),
        extension: Some(pb::add_session_extension_request::Extension::Config(Box::new(config))),
        wait: true,
        ..Default::default()
    };
    let added = soon("AddSessionExtension", client.extensions().add_session_extension(request)).await;
    added.expect("added").into_inner().extension.expect("a status")
}

pub(crate) fn call(session_id: &str, tool: &str, arguments: &str) -> pb::CallToolRequest {
    pb::CallToolRequest {
        session_id: session_id.to_owned(),
        name: format!("everything__{tool}"),
        arguments_json: arguments.to_owned(),
        ..Default::default()
    }
}

/// Progress and result of a call.
pub(crate) async fn called(
    client: &Client,
    request: pb::CallToolRequest,
) -> (Vec<pb::ToolProgress>, pb::ToolResult) {
    soon("CallTool", async {
        let mut stream = client.tools().call_tool(request).await.expect("a call").into_inner();
        let mut progress = Vec::new();
        loop {
            match stream.message().await.expect("a message").expect("a result before the end").payload {
                Some(pb::call_tool_response::Payload::Progress(step)) => progress.push(step),
                Some(pb::call_tool_response::Payload::Result(result)) => return (progress, *result),
                _ => {}
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stdio_server_serves_a_session() {
    let Some(server) = server() else { return };
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let mark = unique_digits();
    let status = add(&client, &session_id, config(&server, &mark)).await;
    assert_eq!(status.state(), ExtensionState::Ready, "{status:?}");
    assert!(status.tool_count > 5 && !status.server_name.is_empty(), "{status:?}");

    let list = pb::ListToolsRequest { session_id: session_id.clone(), ..Default::default() };
    let tools = client.tools().list_tools(list).await.expect("tools").into_inner().tools;
    let echo = tools.iter().find(|tool| tool.name == "everything__echo").expect("echo");
    serde_json::from_str::<serde_json::Value>(&echo.input_schema_json).expect("a schema");

    let (_, result) = called(&client, call(&session_id, "echo", r#"{"message": "hällo"}"#)).await;
    assert!(events::text(&result.parts).contains("hällo"), "{result:?}");
    let long = r#"{"duration": 1, "steps": 4}"#;
    let (progress, result) = called(&client, call(&session_id, "trigger-long-running-operation", long)).await;
    assert!(!result.is_error, "{result:?}");
    assert!(progress.len() >= 3, "{progress:?}");
    assert!(progress.windows(2).all(|pair| pair[0].progress < pair[1].progress), "{progress:?}");

    // The same through a model's turn: progress is in the log.
    let prompt = format!("call everything__trigger-long-running-operation {long}");
    let events = events::complete(&client, &session_id, &prompt).await;
    let steps = events.iter().filter(|event| matches!(event.payload, Some(Payload::ToolProgress(_)))).count();
    assert!(steps >= 3, "{steps} progress events");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_comes_back_and_a_removed_one_goes() {
    let Some(server) = server() else { return };
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let mark = unique_digits();
    add(&client, &session_id, config(&server, &mark)).await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    let after_start = events::log(&client, &session_id).await.last().expect("a log").sequence;

    let victim = node_process(&mark).await;
    kill_process(Pid::from_raw(i32::try_from(victim).unwrap()).unwrap(), Signal::KILL).expect("killed");
    events::until(&mut stream, &mut seen, "the loss to be told", |payload| {
        matches!(payload, Payload::ExtensionStateChanged(changed)
            if matches!(changed.new_state(), ExtensionState::Restarting | ExtensionState::Failed | ExtensionState::Stopped))
    })
    .await;
    let back = events::until(
        &mut stream,
        &mut seen,
        "the server to be back",
        |payload| matches!(payload, Payload::ExtensionStateChanged(changed) if changed.new_state() == ExtensionState::Ready),
    );
    let back = back.await;
    let back = if back.sequence > after_start {
        back
    } else {
        events::until(&mut stream, &mut seen, "the server to be back", |payload| {
            matches!(payload, Payload::ExtensionStateChanged(changed) if changed.new_state() == ExtensionState::Ready)
        })
        .await
    };
    assert!(back.sequence > after_start);
    let (_, result) = called(&client, call(&session_id, "echo", r#"{"message": "back"}"#)).await;
    assert!(events::text(&result.parts).contains("back"), "{result:?}");
    assert_ne!(node_process(&mark).await, victim);

    let remove = pb::RemoveSessionExtensionRequest {
        session_id: session_id.clone(),
        extension_name: "everything".into(),
        ..Default::default()
    };
    let start = Instant::now();
    let removed = client.extensions().remove_session_extension(remove).await.expect("removed").into_inner();
    assert!(removed.removed);
    // Asked nicely first: it may take a moment to leave.
    processes::are_gone(&mark, start, Duration::from_secs(8)).await;
    let request = call(&session_id, "echo", "{}");
    let error = match client.tools().call_tool(request).await {
        Err(status) => gander_client::ClientError::from(status),
        Ok(stream) => soon("an error", stream.into_inner().message()).await.expect_err("no such tool").into(),
    };
    assert!(
        error.is(pb::ErrorReason::ToolNotFound) || error.is(pb::ErrorReason::ExtensionNotFound),
        "{error:?}"
    );
    drop(stream);
    daemon.finish().await;
}

/// The server itself, without the supervisor around it.
async fn node_process(mark: &str) -> u32 {
    eventually(Duration::from_secs(10), "the server's process", || async {
        processes::with_mark(mark).into_iter().find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(program).ends_with("node")
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_start_is_told_with_what_it_said() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let script = daemon.work().join("broken.sh");
    std::fs::write(&script, "echo the reason is here >&2\nexit 3\n").expect("a script");
    let stdio = pb::StdioExtension { command: "sh".into(), args: vec![script.display().to_string()] };
    let broken = pb::ExtensionConfig {
        name: "broken".into(),
        kind: Some(pb::extension_config::Kind::Stdio(stdio)),
        ..Default::default()
    };
    let request = pb::AddSessionExtensionRequest {
        session_id: session_id.clone(),
        extension: Some(pb::add_session_extension_request::Extension::Config(Box::new(broken))),
        wait: true,
        ..Default::default()
    };
    // Added or refused: both tell why.
    let told = match soon("an answer", client.extensions().add_session_extension(request)).await {
        Ok(response) => format!("{:?}", response.into_inner().extension),
        Err(status) => format!("{:?}", gander_client::ClientError::from(status)),
    };
    assert!(told.contains("the reason is here"), "{told}");
    // Commands in a configuration's text are refused outright.
    let stdio = pb::StdioExtension { command: "sh".into(), args: vec!["-c".into(), "exit 3".into()] };
    let text = pb::ExtensionConfig {
        name: "text".into(),
        kind: Some(pb::extension_config::Kind::Stdio(stdio)),
        ..Default::default()
    };
    let request = pb::AddSessionExtensionRequest {
        session_id: session_id.clone(),
        extension: Some(pb::add_session_extension_request::Extension::Config(Box::new(text))),
        ..Default::default()
    };
    let error = events::refused(client.extensions().add_session_extension(request).await);
    assert!(error.is(pb::ErrorReason::ExtensionConfigInvalid) && !error.violations.is_empty(), "{error:?}");
    let tools = pb::ListToolsRequest { session_id: session_id.clone(), ..Default::default() };
    assert!(client.tools().list_tools(tools).await.expect("a list").into_inner().tools.is_empty());
    // A turn goes on without it.
    events::complete(&client, &session_id, "say without it").await;
    daemon.finish().await;
}

/// A server as package runners start it: a shell, the server, and what that started.
const TREE: &str = r#"
import json, subprocess, sys
subprocess.Popen(["sh", "-c", "sleep 1000; true # %s" % sys.argv[1]])
for line in sys.stdin:
    m = json.loads(line)
    if "id" in m:
        ok = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "t", "version": "1"}}
        body = {"result": ok} if m["method"] == "initialize" else {"error": {"code": -32601, "message": "no"}}
        print(json.dumps({"jsonrpc": "2.0", "id": m["id"], **body}), flush=True)
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_daemon_takes_the_trees_of_its_servers_down() {
    let root = new_root();
    let daemon = ChildDaemon::start(root.path()).await;
    let client = daemon.unix().await;
    let mark = unique_digits();
    let work = tempfile::tempdir().expect("a folder");
    let (tree, start) = (work.path().join("tree.py"), work.path().join("start.sh"));
    std::fs::write(&tree, TREE).expect("a script");
    std::fs::write(&start, format!("python3 '{}' {mark}\ntrue\n", tree.display())).expect("a script");
    let session_id = events::create(&client, events::bare_session(work.path())).await;
    for name in ["one", "two", "three"] {
        let args = vec![start.display().to_string(), format!("--mark={mark}")];
        let stdio = pb::StdioExtension { command: "sh".into(), args };
        let kind = Some(pb::extension_config::Kind::Stdio(stdio));
        let status =
            add(&client, &session_id, pb::ExtensionConfig { name: name.into(), kind, ..Default::default() })
                .await;
        assert_eq!(status.state(), ExtensionState::Ready, "{status:?}");
    }
    processes::appear(&mark, 9).await;
    let killed = Instant::now();
    daemon.kill().await;
    processes::are_gone(&mark, killed, Duration::from_secs(5)).await;
}
