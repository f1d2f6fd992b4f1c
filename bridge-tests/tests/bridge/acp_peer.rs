//! An editor for the tests: speaks the protocol by hand, so that it can also speak it badly, and checks every message
//! that it gets against the protocol's official schema.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use gander_acp::{Options, SetupCommand, serve_stdio};
use gander_bridge_tests::{TestDaemon, skip, soon};
use gander_client::Client;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf},
    task::JoinHandle,
};

/// Bytes between agent and editor: small, so that a full pipe is met as well.
const PIPE: usize = 64 * 1024;

/// A folder of Node packages; `None` without them.
pub(crate) fn node_modules() -> Option<PathBuf> {
    std::env::var_os("GANDER_TEST_NODE_DIR").map(PathBuf::from)
}

/// The official schema of version 1, if its package is there.
#[derive(Clone)]
pub(crate) struct Schema {
    stable: Arc<Value>,
    /// The same with the parts that are not stable.
    unstable: Arc<Value>,
    checked: Arc<Mutex<BTreeMap<String, Arc<jsonschema::Validator>>>>,
}

/// Name of the definition of a message: by its method, the side that serves it, and what kind of message it is.
fn definition(whole: &Value, method: &str, side: &str, kind: &str) -> Option<String> {
    let definitions = whole["$defs"].as_object().expect("definitions");
    let mut found = definitions.iter().filter(|(name, value)| {
        value["x-method"] == method && value["x-side"] == side && name.ends_with(kind)
    });
    found.next().map(|(name, _)| name.clone())
}

impl Schema {
    pub(crate) fn load() -> Option<Self> {
        let Some(modules) = node_modules() else {
            skip("GANDER_TEST_NODE_DIR is not set: messages are not checked against the protocol's schema");
            return None;
        };
        let read = |name: &str| -> Arc<Value> {
            let path = modules.join("@agentclientprotocol/sdk/schema/v1").join(name);
            let text = std::fs::read_to_string(path).expect("the protocol's schema");
            Arc::new(serde_json::from_str(&text).expect("the schema is JSON"))
        };
        let (stable, unstable) = (read("schema.json"), read("schema.unstable.json"));
        Some(Self { stable, unstable, checked: Arc::default() })
    }

    fn check(&self, whole: &Value, name: &str, value: &Value) {
        let validator = {
            let mut checked = self.checked.lock().expect("no panic");
            checked
                .entry(name.to_owned())
                .or_insert_with(|| {
                    let schema = json!({
                        "$schema": "https://json-schema.org/draft/2020-12/schema",
                        "$ref": format!("#/$defs/{name}"),
                        "$defs": whole["$defs"],
                    });
                    Arc::new(jsonschema::validator_for(&schema).expect("a schema"))
                })
                .clone()
        };
        let problems: Vec<String> =
            validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(problems.is_empty(), "not a {name}: {problems:#?}\n{value:#}");
    }

    /// Checks a message of the agent's. `asked`: the method that it answers.
    pub(crate) fn message(&self, message: &Value, asked: Option<&str>) {
        assert_eq!(message["jsonrpc"], "2.0", "{message}");
        let kind = match (message.get("method"), message.get("id")) {
            (Some(_), Some(_)) => "Request",
            (Some(_), None) => "Notification",
            (None, _) => "Response",
        };
        match message.get("method").and_then(Value::as_str) {
            Some("$/cancel_request") => {
                self.check(&self.stable, "CancelRequestNotification", &message["params"]);
            }
            // Extensions are not in the protocol's schema.
            Some(method) if method.starts_with('_') => {}
            Some(method) => {
                // What a client gets unasked is never an unstable part.
                let name = definition(&self.stable, method, "client", kind);
                let name = name.unwrap_or_else(|| panic!("{method} is not for clients: {message}"));
                self.check(&self.stable, &name, &message["params"]);
            }
            None => match (message.get("result"), message.get("error")) {
                (Some(result), None) => {
                    // Goose's methods are in neither schema.
                    let find = |whole: &Value| definition(whole, asked?, "agent", kind);
                    if let Some(name) = find(&self.stable) {
                        self.check(&self.stable, &name, result);
                    } else if let Some(name) = find(&self.unstable) {
                        self.check(&self.unstable, &name, result);
                    }
                }
                (None, Some(error)) => self.check(&self.stable, "Error", error),
                _ => panic!("neither a result nor an error: {message}"),
            },
        }
    }
}

/// The editor's end of a connection.
pub(crate) struct Peer {
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    writer: Option<WriteHalf<DuplexStream>>,
    agent: Option<JoinHandle<std::io::Result<()>>>,
    schema: Option<Schema>,
    capabilities: Value,
    next_id: i64,
    asked: BTreeMap<String, String>,
    /// Everything that came, in order.
    pub(crate) log: Vec<Value>,
    waiting: VecDeque<Value>,
}

pub(crate) fn options() -> Options {
    Options {
        version: "0.0.0-test".into(),
        setup: Some(SetupCommand {
            arguments: vec!["--setup".into()],
            full_command: vec!["gander".into(), "acp".into(), "--setup".into()],
        }),
        demo_allowed: true,
        ..Options::default()
    }
}

impl Peer {
    /// An editor at an agent of its own, not yet introduced.
    pub(crate) fn open(client: Client, options: Options) -> Self {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let (reader, writer) = tokio::io::split(theirs);
        let agent = tokio::spawn(serve_stdio(client, reader, writer, options));
        let (reader, writer) = tokio::io::split(ours);
        Self {
            lines: BufReader::new(reader).lines(),
            writer: Some(writer),
            agent: Some(agent),
            schema: Schema::load(),
            capabilities: Value::Null,
            next_id: 1,
            asked: BTreeMap::new(),
            log: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// An editor with these capabilities that has been introduced.
    pub(crate) async fn with(daemon: &TestDaemon, capabilities: Value) -> Self {
        let mut peer = Self::open(daemon.unix().await, options());
        peer.initialize(capabilities).await;
        peer
    }

    pub(crate) async fn initialize(&mut self, capabilities: Value) -> Value {
        self.capabilities = capabilities.clone();
        let params = json!({
            "protocolVersion": 1,
            "clientInfo": {"name": "test", "version": "1"},
            "clientCapabilities": capabilities,
        });
        self.call("initialize", params).await.expect("an introduction")
    }

    pub(crate) async fn raw(&mut self, line: &str) {
        let writer = self.writer.as_mut().expect("open");
        soon("a write", writer.write_all(format!("{line}\n").as_bytes())).await.expect("written");
    }

    pub(crate) async fn write(&mut self, message: Value) {
        self.raw(&message.to_string()).await;
    }

    /// Sends a request and gives its id.
    pub(crate) async fn send(&mut self, method: &str, params: Value) -> Value {
        let id = json!(self.next_id);
        self.next_id += 1;
        self.send_as(id.clone(), method, params).await;
        id
    }

    pub(crate) async fn send_as(&mut self, id: Value, method: &str, params: Value) {
        self.asked.insert(id.to_string(), method.to_owned());
        self.write(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
    }

    pub(crate) async fn notify(&mut self, method: &str, params: Value) {
        self.write(json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }

    /// Answers a request of the agent's.
    pub(crate) async fn answer(&mut self, request: &Value, result: Value) {
        self.write(json!({"jsonrpc": "2.0", "id": request["id"], "result": result})).await;
    }

    async fn read(&mut self) -> Option<Value> {
        let line = self.lines.next_line().await.expect("readable")?;
        let message: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        let asked = if message.get("method").is_none() {
            self.asked.remove(&message["id"].to_string())
        } else {
            None
        };
        if let Some(schema) = &self.schema {
            schema.message(&message, asked.as_deref());
        }
        self.was_asked_for(&message);
        self.log.push(message.clone());
        Some(message)
    }

    /// Nothing comes that needs a capability of the client's which it has not.
    fn was_asked_for(&self, message: &Value) {
        let has = |path: &str| {
            let capability = self.capabilities.pointer(path).unwrap_or(&Value::Null);
            !matches!(capability, Value::Null | Value::Bool(false))
        };
        let update = &message["params"]["update"];
        let needed = match (message["method"].as_str(), update["sessionUpdate"].as_str()) {
            (Some("fs/read_text_file"), _) => "/fs/readTextFile",
            (Some("fs/write_text_file"), _) => "/fs/writeTextFile",
            (Some(method), _) if method.starts_with("terminal/") => "/terminal",
            (Some("elicitation/create"), _) if message["params"]["mode"] == "url" => "/elicitation/url",
            (Some("elicitation/create"), _) => "/elicitation/form",
            (Some("elicitation/complete"), _) => "/elicitation/url",
            (Some(method), _) if method.starts_with("_goose/") => "/_meta/goose/customNotifications",
            (_, Some("notice")) => "/session/notices",
            (_, Some("compaction_update" | "compaction_summary_chunk")) => "/session/compaction",
            _ if update.pointer("/_meta/terminal_output").is_some() => "/_meta/terminal_output",
            _ => "",
        };
        assert!(needed.is_empty() || has(needed), "{needed} was not offered: {message}");
        let options = [&update["configOptions"], &message["result"]["configOptions"]];
        let boolean = options.iter().filter_map(|o| o.as_array()).flatten().any(|o| o["type"] == "boolean");
        assert!(!boolean || has("/session/configOptions/boolean"), "{message}");
    }

    /// The next message for which `wanted` holds; others wait for later.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.waiting.iter().position(&wanted) {
            return self.waiting.remove(at).expect("there");
        }
        soon(what, async {
            loop {
                let message = self.read().await.unwrap_or_else(|| panic!("the agent went before {what}"));
                if wanted(&message) {
                    return message;
                }
                self.waiting.push_back(message);
            }
        })
        .await
    }

    /// The answer to a request.
    pub(crate) async fn answered(&mut self, id: &Value) -> Result<Value, Value> {
        let message = self
            .until(&format!("the answer to {id}"), |message| {
                message.get("method").is_none() && message["id"] == *id
            })
            .await;
        match message.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(message["result"].clone()),
        }
    }

    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.send(method, params).await;
        self.answered(&id).await
    }

    /// The next request of the agent's with this method.
    pub(crate) async fn request(&mut self, method: &str) -> Value {
        self.until(method, |message| message["method"] == method && message.get("id").is_some()).await
    }

    pub(crate) async fn update(&mut self, kind: &str) -> Value {
        let message = self
            .until(kind, |message| {
                message["method"] == "session/update" && message["params"]["update"]["sessionUpdate"] == kind
            })
            .await;
        message["params"]["update"].clone()
    }

    pub(crate) async fn new_session(&mut self, cwd: &Path) -> String {
        let answer =
            self.call("session/new", json!({"cwd": cwd, "mcpServers": []})).await.expect("a session");
        answer["sessionId"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn prompt(&mut self, session_id: &str, text: &str) -> Value {
        self.send("session/prompt", prompt(session_id, text)).await
    }

    /// A prompt to its end; gives the stop reason.
    pub(crate) async fn run(&mut self, session_id: &str, text: &str) -> String {
        let id = self.prompt(session_id, text).await;
        let answer = self.answered(&id).await.expect("a stop reason");
        answer["stopReason"].as_str().expect("a stop reason").to_owned()
    }

    /// Updates of a session so far.
    pub(crate) fn updates(&self, session_id: &str) -> Vec<Value> {
        let of_session = self.log.iter().filter(|message| {
            message["method"] == "session/update" && message["params"]["sessionId"] == session_id
        });
        of_session.map(|message| message["params"]["update"].clone()).collect()
    }

    /// What the agent said in a session so far.
    pub(crate) fn said(&self, session_id: &str) -> String {
        said(&self.updates(session_id))
    }

    /// Forgets what came so far.
    pub(crate) fn forget(&mut self) {
        self.log.clear();
        self.waiting.clear();
    }

    /// Closes this end, and gives what the agent still had to say.
    pub(crate) async fn close(mut self) -> Vec<Value> {
        if let Some(mut writer) = self.writer.take() {
            let _ = writer.shutdown().await;
        }
        let rest = soon("the agent's end", async {
            let mut rest = Vec::new();
            while let Some(message) = self.read().await {
                rest.push(message);
            }
            rest
        })
        .await;
        let agent = self.agent.take().expect("running");
        soon("the agent to end", agent).await.expect("no panic").expect("no error");
        rest
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.abort();
        }
    }
}

pub(crate) fn prompt(session_id: &str, text: &str) -> Value {
    json!({"sessionId": session_id, "prompt": [{"type": "text", "text": text}]})
}

/// Text of the agent's messages in these updates.
pub(crate) fn said(updates: &[Value]) -> String {
    let chunks = updates.iter().filter(|update| update["sessionUpdate"] == "agent_message_chunk");
    chunks.filter_map(|update| update["content"]["text"].as_str()).collect()
}
