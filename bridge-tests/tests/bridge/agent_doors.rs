//! The extensions of a session whose model is an agent: they stay with the daemon, and the agent is given a door to each.

use std::{collections::HashMap, path::Path, process::Stdio};

use gander_bridge_tests::{TestDaemon, daemon::environment_with, events, gander_binary, pb, skip, soon};
use pb::{extension_config::Kind, session_event::Payload};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::agents::{root, sent, session};

/// A server with two tools that needs nothing but Python.
const CODE: &str = r#"
import json, os, sys
def answer(method):
    if method == "initialize":
        return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                "serverInfo": {"name": "inline", "version": "1"}}
    if method == "tools/list":
        return {"tools": [{"name": "level", "inputSchema": {"type": "object"}},
                          {"name": "danger", "inputSchema": {"type": "object"}}]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": "level " + os.environ.get("LEVEL_API_KEY", "none")}]}
for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        result = answer(request["method"])
        reply = {"result": result} if result else {"error": {"code": -32601, "message": "no"}}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **reply}), flush=True)
"#;

const SECRET: &str = "hunter2-hunter2-hunter2";

fn builtin(name: &str) -> pb::ExtensionConfig {
    let kind = Some(Kind::Builtin(pb::BuiltinExtension {}));
    pb::ExtensionConfig { name: name.into(), kind, ..Default::default() }
}

/// An extension with the two tools.
pub(crate) fn snippet(name: &str) -> pb::ExtensionConfig {
    let code = pb::InlinePythonExtension { code: CODE.into(), dependencies: Vec::new() };
    pb::ExtensionConfig { name: name.into(), kind: Some(Kind::InlinePython(code)), ..Default::default() }
}

/// What an agent starts in the place of a server.
struct Server {
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    numbers: u64,
}

impl Server {
    /// As the agent was told to.
    async fn start(told: &Value) -> Self {
        let words = |value: &Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
        };
        let mut child = Command::new(told["command"].as_str().unwrap())
            .args(words(&told["args"]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut server = Self { _child: child, stdin, lines: BufReader::new(stdout).lines(), numbers: 0 };
        let hello =
            server.ask("initialize", json!({"protocolVersion": "2025-06-18", "capabilities": {}})).await;
        assert_eq!(hello["result"]["protocolVersion"], "2025-06-18", "{hello}");
        server
    }

    async fn line(&mut self) -> Option<Value> {
        let line = soon("a line", self.lines.next_line()).await.expect("readable")?;
        Some(serde_json::from_str(&line).expect("JSON"))
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.numbers += 1;
        let message = json!({"jsonrpc": "2.0", "id": self.numbers, "method": method, "params": params});
        self.stdin.write_all(format!("{message}\n").as_bytes()).await.expect("written");
        loop {
            let answer = self.line().await.expect("an answer");
            if answer["id"] == self.numbers {
                return answer;
            }
        }
    }

    async fn tools(&mut self) -> Vec<String> {
        let listed = self.ask("tools/list", json!({})).await;
        let tools = listed["result"]["tools"].as_array().expect("a list").iter();
        tools.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Text of the result, and whether it is an error.
    async fn call(&mut self, name: &str, arguments: Value) -> (String, bool) {
        let answer = self.ask("tools/call", json!({"name": name, "arguments": arguments})).await;
        let result = &answer["result"];
        (result["content"][0]["text"].as_str().unwrap().to_owned(), result["isError"] == true)
    }
}

fn server<'a>(told: &'a Value, name: &str) -> &'a Value {
    let all = told["mcpServers"].as_array().expect("servers");
    all.iter().find(|server| server["name"] == name).expect("the server")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_works_with_the_sessions_extensions() {
    if !["/usr/bin/python3", "/usr/local/bin/python3"].iter().any(|path| Path::new(path).exists()) {
        return skip("python3 not found");
    }
    let daemon = TestDaemon::start_in(root(&json!({})), |options| {
        options.environment =
            environment_with(options.root.as_deref().unwrap(), &[("LEVEL_API_KEY", SECRET)]);
    })
    .await;
    let client = daemon.unix().await;
    let snippet = pb::ExtensionConfig {
        env_keys: vec!["LEVEL_API_KEY".into()],
        tool_allowlist: vec!["level".into()],
        ..snippet("snippet")
    };
    let extensions = vec![builtin("developer"), builtin("memory"), builtin("todo"), snippet];
    let exactly = pb::extension_selection::Selection::Exactly(pb::ExactSelection { extensions });
    let request = pb::CreateSessionRequest {
        extensions: Some(pb::ExtensionSelection { selection: Some(exactly) }),
        client_environment: HashMap::from([("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())]),
        ..session(&daemon.work(), "scripted-acp", pb::SessionMode::Auto)
    };
    let session_id = events::create(&client, request).await;
    events::complete(&client, &session_id, "hi").await;

    let told = sent(daemon.root(), "session/new").remove(0);
    let servers = told["mcpServers"].as_array().expect("servers");
    let names: Vec<_> = servers.iter().map(|server| server["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["memory", "snippet", "todo"], "it has commands and files of its own");
    for server in servers {
        assert_eq!(server["command"], gander_binary().display().to_string());
        assert_eq!(server["env"], json!([]), "no secret is handed on");
    }

    let mut snippet = Server::start(server(&told, "snippet")).await;
    assert_eq!(snippet.tools().await, ["level"], "what is not allowed is not there");
    let (said, failed) = snippet.call("level", json!({})).await;
    assert!(!failed && said.starts_with("level ") && !said.contains(SECRET), "{said}");
    assert_ne!(said, "level none", "the server itself has its secret");
    let hidden = snippet.ask("tools/call", json!({"name": "danger"})).await;
    assert_eq!(hidden["error"]["code"], -32602, "{hidden}");

    let mut todo = Server::start(server(&told, "todo")).await;
    let (said, failed) = todo.call("todo_write", json!({"content": "- [x] first\n- [ ] second"})).await;
    assert!(!failed, "{said}");
    let plans = |event: &pb::SessionEvent| match &event.payload {
        Some(Payload::PlanUpdated(updated)) => updated.plan.clone(),
        _ => None,
    };
    let log = events::log(&client, &session_id).await;
    let plan = log.iter().find_map(plans).expect("the plan is the session's");
    assert_eq!(plan.entries.len(), 2, "{plan:?}");

    // Mode and rules hold for what the agent was given.
    let patch = pb::UpdateSessionRequest {
        session: Some(pb::Session {
            session_id: session_id.clone(),
            mode: Some(pb::SessionMode::Chat as i32),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["mode".into()] }),
        ..Default::default()
    };
    client.sessions().update_session(patch).await.expect("updated");
    let (said, failed) = snippet.call("level", json!({})).await;
    assert!(failed && said.contains("chat mode"), "{said}");

    let told = std::fs::read_to_string(daemon.root().join("agent.jsonl")).unwrap();
    let log = format!("{:?}", events::log(&client, &session_id).await);
    assert!(!told.contains(SECRET) && !log.contains(SECRET));
    daemon.finish().await;
    assert_eq!(todo.line().await, None, "it ends with the daemon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_extension_is_there_with_the_next_turn() {
    let daemon = TestDaemon::start_in(root(&json!({})), |_| {}).await;
    let client = daemon.unix().await;
    let request = session(&daemon.work(), "scripted-acp", pb::SessionMode::Auto);
    let session_id = events::create(&client, request).await;
    events::complete(&client, &session_id, "one").await;
    crate::extensions::add(&client, &session_id, builtin("memory")).await;
    events::complete(&client, &session_id, "two").await;
    let (first, then) = (sent(daemon.root(), "session/new"), sent(daemon.root(), "session/resume"));
    assert_eq!(first[0]["mcpServers"], json!([]));
    let mut memory = Server::start(server(&then[0], "memory")).await;
    let tools = memory.tools().await;
    assert!(!tools.is_empty());
    assert_eq!(sent(daemon.root(), "session/prompt").len(), 2, "the same conversation");
    daemon.finish().await;
}
