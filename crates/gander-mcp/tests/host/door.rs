//! A session's extensions for a program outside.

use std::sync::{Arc, Mutex};

use futures::{FutureExt as _, future::BoxFuture};
use gander_domain::{
    ErrorDetail, ErrorReason,
    extension::ExtensionTransport,
    item::{ToolOutcome, ToolResult},
};
use gander_mcp::{CallRequest, Door, DoorKeeper, SessionExtensions};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::common::{PATIENCE, Session, config};

/// Lets through what is not forbidden.
struct Keeper {
    extensions: Arc<SessionExtensions>,
    forbidden: Mutex<Vec<String>>,
}

impl DoorKeeper for Keeper {
    fn call(&self, request: CallRequest) -> BoxFuture<'_, ToolResult> {
        if self.forbidden.lock().unwrap().contains(&request.name) {
            let error = ErrorDetail::new(ErrorReason::ToolNotAllowed, "not for you");
            return async { ToolResult::failed(ToolOutcome::Declined, error) }.boxed();
        }
        self.extensions.call(request).boxed()
    }

    fn clean(&self, text: &mut String) {
        *text = text.replace("working", "[hidden]");
    }
}

/// A program behind the door.
struct Visitor {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    numbers: u64,
    /// Notifications that came while an answer was awaited.
    told: Vec<Value>,
}

impl Visitor {
    async fn enter(door: &Door, key: &str) -> Self {
        let (reader, mut writer) = UnixStream::connect(door.socket()).await.unwrap().into_split();
        writer.write_all(format!("{key}\n").as_bytes()).await.unwrap();
        Self { lines: BufReader::new(reader).lines(), writer, numbers: 0, told: Vec::new() }
    }

    async fn write(&mut self, message: &Value) {
        self.writer.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn read(&mut self) -> Option<Value> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time").ok()??;
        Some(serde_json::from_str(&line).unwrap())
    }

    async fn begin(&mut self, method: &str, params: Value) -> u64 {
        self.numbers += 1;
        let id = self.numbers;
        self.write(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        id
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params).await;
        loop {
            let message = self.read().await.expect("an answer");
            if message["id"] == id {
                return message;
            }
            self.told.push(message);
        }
    }

    async fn call(&mut self, name: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": name, "arguments": arguments})).await["result"].clone()
    }

    async fn tools(&mut self) -> Vec<String> {
        let listed = self.ask("tools/list", json!({})).await;
        let tools = listed["result"]["tools"].as_array().unwrap().iter();
        tools.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }
}

async fn open(session: &Session, allowlist: &[&str]) -> (Door, Arc<Keeper>) {
    let mut lab = config("lab", ExtensionTransport::Builtin);
    lab.tool_allowlist = allowlist.iter().map(|name| (*name).to_owned()).collect();
    session.add(lab).await;
    let extensions = Arc::clone(&session.extensions);
    let keeper = Arc::new(Keeper { extensions: Arc::clone(&extensions), forbidden: Mutex::default() });
    (Door::open(extensions, ["lab".to_owned()].into(), keeper.clone()).unwrap(), keeper)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_is_listed_and_called() {
    let session = Session::new();
    let (door, keeper) = open(&session, &["echo", "structured", "refuse"]).await;
    let mut visitor = Visitor::enter(&door, "lab").await;
    let hello = visitor.ask("initialize", json!({"protocolVersion": "2025-06-18", "capabilities": {}})).await;
    let hello = &hello["result"];
    assert_eq!(
        (&hello["protocolVersion"], &hello["instructions"]),
        (&json!("2025-06-18"), &json!("for tests"))
    );
    assert_eq!(hello["capabilities"], json!({"tools": {"listChanged": true}}), "only what the server offers");
    visitor.write(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    assert_eq!(visitor.tools().await, ["echo", "structured", "refuse"]);

    let echoed = visitor.call("echo", json!({"n": 1, "text": "ü"})).await;
    assert_eq!(echoed["content"][0]["text"], json!(r#"{"n":1,"text":"ü"}"#));
    assert_eq!(echoed["isError"], false);
    assert_eq!(visitor.call("structured", json!({})).await["structuredContent"], json!({"answer": 42}));
    assert_eq!(visitor.call("refuse", json!({})).await["isError"], true);
    let hidden = visitor.ask("tools/call", json!({"name": "change"})).await;
    assert_eq!(hidden["error"]["code"], -32602, "what is not in the list cannot be called: {hidden}");
    let bare = visitor.call("echo", json!({"n": "no number"})).await;
    assert_eq!(bare["isError"], true, "arguments are checked: {bare}");

    keeper.forbidden.lock().unwrap().push("lab__echo".to_owned());
    let refused = visitor.call("echo", json!({})).await;
    assert_eq!((&refused["isError"], &refused["content"][0]["text"]), (&json!(true), &json!("not for you")));
    let unknown = visitor.ask("logging/setLevel", json!({"level": "info"})).await;
    assert_eq!(unknown["error"]["code"], -32601);
    assert_eq!(visitor.ask("ping", json!({})).await["result"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_cancels_and_changes_pass() {
    let session = Session::new();
    let (door, _keeper) = open(&session, &[]).await;
    let mut visitor = Visitor::enter(&door, "lab").await;
    visitor.ask("initialize", json!({"protocolVersion": "2099-01-01"})).await;
    visitor.tools().await;
    let meta = json!({"progressToken": "p"});
    visitor.ask("tools/call", json!({"name": "report", "_meta": meta})).await;
    let steps: Vec<_> = visitor.told.drain(..).collect();
    assert_eq!(steps.len(), 300, "all of them, before the result");
    assert_eq!(steps[299]["params"], json!({"progressToken": "p", "progress": 299.0, "message": "[hidden]"}));

    let waiting = visitor.begin("tools/call", json!({"name": "wait"})).await;
    timeout(PATIENCE, session.server.started.notified()).await.unwrap();
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": waiting}});
    visitor.write(&cancel).await;
    timeout(PATIENCE, session.server.cancelled.notified()).await.unwrap();

    visitor.call("change", json!({})).await;
    let changed = |told: &[Value]| told.iter().any(|m| m["method"] == "notifications/tools/list_changed");
    while !changed(&visitor.told) {
        let message = visitor.read().await.expect("a notice");
        visitor.told.push(message);
    }
    assert!(visitor.tools().await.contains(&"extra".to_owned()));

    visitor.begin("tools/call", json!({"name": "wait"})).await;
    timeout(PATIENCE, session.server.started.notified()).await.unwrap();
    drop(visitor);
    timeout(PATIENCE, session.server.cancelled.notified()).await.expect("a visitor's calls end with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_behind_the_door() {
    let session = Session::new();
    let (door, _keeper) = open(&session, &[]).await;
    let mut stranger = Visitor::enter(&door, "developer").await;
    assert_eq!(stranger.read().await, None, "the connection is closed");
    let mut visitor = Visitor::enter(&door, "lab").await;
    visitor.write(&json!([1])).await;
    assert_eq!(visitor.read().await.unwrap()["error"]["code"], -32600);
    visitor.tools().await;
    let socket = door.socket().to_owned();
    let folder = std::fs::metadata(socket.parent().unwrap()).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&folder) & 0o777, 0o700);
    drop(door);
    assert_eq!(visitor.read().await, None, "visits end with the door");
    assert!(!socket.exists());
}
