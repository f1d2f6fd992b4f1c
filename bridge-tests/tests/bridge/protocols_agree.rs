//! What is sauce for the goose is sauce for the gander: one conversation, held over gRPC, over REST and over ACP, leaves the
//! same items behind; and a session that one protocol began is the other's with its whole history.

use std::{path::Path, process::Stdio};

use gander_bridge_tests::{TestDaemon, child, events, pb, soon, window::Http};
use gander_client::Client;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
};

use crate::goose_window::message;

/// What is said in each session. The model is the builtin one: it calls a real tool.
const PROMPTS: [&str; 2] = ["list the files here", "what is the answer?"];

/// An item without what must differ: ids, times, and the session's own directory.
fn essence(item: &pb::Item) -> String {
    let visibility = item.visibility.unwrap_or_default();
    let seen = format!("user {} model {}", visibility.user, visibility.model);
    match item.body.as_ref().expect("a body") {
        pb::item::Body::UserMessage(message) => format!("user: {} ({seen})", events::text(&message.parts)),
        pb::item::Body::AgentMessage(message) => format!("agent: {} ({seen})", events::text(&message.parts)),
        pb::item::Body::ToolCall(call) => format!(
            "call: {} {} {:?} → {} ({seen})",
            call.name,
            call.arguments_json,
            call.status(),
            events::result_text(call)
        ),
        other => format!("other: {other:?}"),
    }
}

async fn stored(client: &Client, session_id: &str) -> Vec<String> {
    let request = pb::ListItemsRequest { session_id: session_id.to_owned(), ..Default::default() };
    let items = client.sessions().list_items(request).await.expect("items").into_inner().items;
    items.iter().map(essence).collect()
}

/// An editor, as far as it is needed: JSON-RPC lines over the pipes of `gander acp`.
struct Editor {
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    next: u64,
}

impl Editor {
    fn open(root: &Path) -> Self {
        let mut command = child::gander(root, &["acp"]);
        command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("gander starts");
        let stdin = child.stdin.take().expect("its stdin");
        let stdout = BufReader::new(child.stdout.take().expect("its stdout")).lines();
        Self { _child: child, stdin, stdout, next: 0 }
    }

    /// Calls a method; notifications on the way are given as well.
    async fn call(&mut self, method: &str, params: Value) -> (Value, Vec<Value>) {
        self.next += 1;
        let id = self.next;
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.stdin.write_all(format!("{request}\n").as_bytes()).await.expect("written");
        let mut notifications = Vec::new();
        loop {
            let line = soon(method, self.stdout.next_line()).await.expect("a line").expect("an answer");
            let message: Value = serde_json::from_str(&line).expect("JSON");
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return (message["result"].clone(), notifications);
            }
            assert!(message.get("id").is_none(), "the editor offers nothing: {message}");
            notifications.push(message);
        }
    }

    async fn initialize(&mut self) {
        let hello = json!({ "protocolVersion": 1, "clientCapabilities": {} });
        let (answer, _) = self.call("initialize", hello).await;
        assert_eq!(answer["protocolVersion"], 1);
    }
}

async fn over_grpc(client: &Client, directory: &Path) -> String {
    let session_id = events::create(client, events::new_session(directory)).await;
    for prompt in PROMPTS {
        events::complete(client, &session_id, prompt).await;
    }
    session_id
}

async fn over_rest(http: &Http, directory: &Path) -> String {
    let session = http.ok("/agent/start", &json!({ "working_dir": directory })).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    http.ok("/agent/resume", &json!({ "session_id": id, "load_model_and_extensions": true })).await;
    for (number, prompt) in PROMPTS.into_iter().enumerate() {
        let stream = http.text("/reply", &message(&id, &format!("m{number}"), prompt)).await;
        assert!(stream.trim_end().ends_with('}') && stream.contains("\"Finish\""), "{stream}");
    }
    id
}

async fn over_acp(root: &Path, directory: &Path) -> String {
    let mut editor = Editor::open(root);
    editor.initialize().await;
    let (session, _) = editor.call("session/new", json!({ "cwd": directory, "mcpServers": [] })).await;
    let id = session["sessionId"].as_str().expect("an id").to_owned();
    for prompt in PROMPTS {
        let params = json!({ "sessionId": id, "prompt": [{ "type": "text", "text": prompt }] });
        let (answer, _) = editor.call("session/prompt", params).await;
        assert_eq!(answer["stopReason"], "end_turn");
    }
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_conversation_over_each_protocol() {
    let daemon = TestDaemon::start_with(|options| {
        let more =
            [("GOOSE_PROVIDER", "demo"), ("GOOSE_MODE", "auto"), ("GOOSE_DISABLE_SESSION_NAMING", "true")];
        let root = options.root.clone().expect("a root");
        options.environment = gander_bridge_tests::daemon::environment_with(&root, &more);
    })
    .await;
    let directory = daemon.work();
    std::fs::write(directory.join("notes.txt"), "hello").expect("a file");
    let client = daemon.unix().await;
    let http = Http::new(&daemon.url(), daemon.token());

    let grpc = over_grpc(&client, &directory).await;
    let rest = over_rest(&http, &directory).await;
    let acp = over_acp(daemon.root(), &directory).await;
    let wanted = stored(&client, &grpc).await;
    assert_eq!(wanted.iter().filter(|item| item.starts_with("call:")).count(), 1, "{wanted:#?}");
    assert_eq!(stored(&client, &rest).await, wanted, "over REST");
    assert_eq!(stored(&client, &acp).await, wanted, "over ACP");

    // Each one's session is everybody's.
    let mut editor = Editor::open(daemon.root());
    editor.initialize().await;
    let load = json!({ "sessionId": rest, "cwd": directory, "mcpServers": [] });
    let (_, replayed) = editor.call("session/load", load).await;
    let kinds: Vec<&str> =
        replayed.iter().filter_map(|n| n["params"]["update"]["sessionUpdate"].as_str()).collect();
    for kind in ["user_message_chunk", "tool_call", "agent_message_chunk"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    let shown = http.get(&format!("/sessions/{acp}")).await.body;
    let texts = shown["conversation"].to_string();
    assert!(PROMPTS.iter().all(|prompt| texts.contains(prompt)), "{shown}");
    drop(editor);
    daemon.finish().await;
}
