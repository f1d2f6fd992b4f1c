//! A client that speaks raw JSON-RPC, so that order and fields on the wire are what is tested.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures::{SinkExt as _, StreamExt as _};
use gander_builtin::{
    BuiltinContext, BuiltinServer, ClientReceiver, ClientSender, serve_bytes, serve_in_process,
};
use gander_process::{Spawner, ToolProcesses, tree};
use rustix::process::{PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf,
        unix::AsyncFd,
    },
    time::timeout,
};

pub(crate) const SLOW: Duration = Duration::from_secs(30);
pub(crate) const KILLED: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Typed,
    Bytes,
}

pub(crate) const BOTH: [Link; 2] = [Link::Typed, Link::Bytes];

enum Side {
    Typed(ClientSender, ClientReceiver),
    Bytes(WriteHalf<DuplexStream>, Lines<BufReader<ReadHalf<DuplexStream>>>),
}

/// A folder to work in, one for data, and what goes with them.
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) context: BuiltinContext,
    _keep: tempfile::TempDir,
}

impl Place {
    /// `root/work` is the session's folder, `root/data` belongs to the daemon.
    pub(crate) fn new() -> Self {
        let keep = tempfile::tempdir().unwrap();
        let root = keep.path().canonicalize().unwrap();
        for folder in ["work", "data", "home"] {
            std::fs::create_dir(root.join(folder)).unwrap();
        }
        let mut context = BuiltinContext::new(root.join("work"), root.join("data"));
        context.environment.insert("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned());
        context.environment.insert("HOME".to_owned(), root.join("home").display().to_string());
        context.denied_paths = vec![root.join("data"), root.join("token")];
        std::fs::write(root.join("data/database"), "SECRET").unwrap();
        std::fs::write(root.join("token"), "SECRET").unwrap();
        Self { root, context, _keep: keep }
    }

    pub(crate) fn supervised() -> Self {
        let mut place = Self::new();
        let program = example().to_str().unwrap().to_owned();
        place.context.spawner =
            Spawner::new(Some(vec![program, "supervise".to_owned()]), ToolProcesses::new());
        place
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root.join("work").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) async fn connect(&self, link: Link) -> Client {
        self.connect_to("developer", link).await
    }

    pub(crate) async fn connect_to(&self, name: &str, link: Link) -> Client {
        Client::connect(link, name, self.context.clone()).await
    }
}

/// The example program of this crate.
pub(crate) fn example() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().parent().unwrap().join("examples/builtin");
    assert!(
        path.exists(),
        "{} is missing: run `cargo test` without `--test`, or `cargo build --examples`",
        path.display()
    );
    path
}

pub(crate) struct Client {
    side: Side,
    pub(crate) server: Option<BuiltinServer>,
    next_id: u64,
    /// Notifications that came before the last answer.
    pub(crate) notifications: VecDeque<Value>,
    /// What the server said about itself.
    pub(crate) hello: Value,
}

impl Client {
    pub(crate) async fn connect(link: Link, name: &str, context: BuiltinContext) -> Self {
        let (side, server) = match link {
            Link::Typed => {
                let parts = serve_in_process(name, context).unwrap();
                (Side::Typed(parts.sender, parts.receiver), parts.server)
            }
            Link::Bytes => {
                let (ours, theirs) = tokio::io::duplex(64 * 1024);
                let (reader, writer) = tokio::io::split(theirs);
                let server = serve_bytes(name, context, reader, writer).unwrap();
                let (reader, writer) = tokio::io::split(ours);
                (Side::Bytes(writer, BufReader::new(reader).lines()), server)
            }
        };
        let mut client = Self {
            side,
            server: Some(server),
            next_id: 0,
            notifications: VecDeque::new(),
            hello: Value::Null,
        };
        client.handshake().await;
        client
    }

    async fn handshake(&mut self) {
        let params = json!({
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}
        });
        let id = self.request("initialize", params).await;
        let answer = self.answer(id).await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-06-18", "{answer}");
        self.hello = answer["result"].clone();
        self.notify("notifications/initialized", None).await;
    }

    async fn send(&mut self, message: Value) {
        let sent = async {
            match &mut self.side {
                Side::Typed(sender, _) => {
                    sender.send(serde_json::from_value(message).unwrap()).await.unwrap();
                }
                Side::Bytes(writer, _) => writer.write_all(format!("{message}\n").as_bytes()).await.unwrap(),
            }
        };
        timeout(SLOW, sent).await.expect("the server takes messages");
    }

    pub(crate) async fn receive(&mut self) -> Value {
        let received = async {
            match &mut self.side {
                Side::Typed(_, receiver) => {
                    serde_json::to_value(receiver.next().await.expect("open")).unwrap()
                }
                Side::Bytes(_, lines) => {
                    serde_json::from_str(&lines.next_line().await.unwrap().expect("open")).unwrap()
                }
            }
        };
        timeout(SLOW, received).await.expect("the server says something")
    }

    pub(crate) async fn request(&mut self, method: &str, params: Value) -> u64 {
        self.next_id += 1;
        let id = self.next_id;
        self.send(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).await;
        id
    }

    pub(crate) async fn notify(&mut self, method: &str, params: Option<Value>) {
        let mut message = json!({ "jsonrpc": "2.0", "method": method });
        if let Some(params) = params {
            message["params"] = params;
        }
        self.send(message).await;
    }

    /// The answer to `id`; what comes before it is kept in `notifications`.
    pub(crate) async fn answer(&mut self, id: u64) -> Value {
        loop {
            let message = self.receive().await;
            if message["id"] == json!(id) {
                return message;
            }
            self.notifications.push_back(message);
        }
    }

    pub(crate) async fn start(&mut self, tool: &str, arguments: Value) -> u64 {
        self.request("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// Starts a call whose live output is wanted.
    pub(crate) async fn start_live(&mut self, arguments: Value, token: Value) -> u64 {
        let meta = json!({ "progressToken": token });
        self.request("tools/call", json!({ "name": "shell", "arguments": arguments, "_meta": meta })).await
    }

    /// The result of one call of a tool.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Outcome {
        let id = self.start(tool, arguments).await;
        self.outcome(id).await
    }

    pub(crate) async fn outcome(&mut self, id: u64) -> Outcome {
        let answer = self.answer(id).await;
        let result = answer.get("result").unwrap_or_else(|| panic!("no result: {answer}"));
        Outcome {
            text: result["content"][0]["text"].as_str().unwrap_or_default().to_owned(),
            is_error: result["isError"].as_bool().unwrap_or(false),
            data: result["structuredContent"].clone(),
            raw: result.clone(),
        }
    }

    /// The definitions of all tools.
    pub(crate) async fn tools(&mut self) -> Vec<Value> {
        let id = self.request("tools/list", json!({})).await;
        self.answer(id).await["result"]["tools"].as_array().unwrap().clone()
    }

    /// What the model is told about the server.
    pub(crate) fn instructions(&self) -> &str {
        self.hello["instructions"].as_str().unwrap()
    }

    pub(crate) async fn cancel(&mut self, id: u64) {
        self.notify("notifications/cancelled", Some(json!({ "requestId": id, "reason": "test" }))).await;
    }
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) is_error: bool,
    pub(crate) data: Value,
    pub(crate) raw: Value,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(!self.is_error, "{}", self.text);
        self
    }

    #[track_caller]
    pub(crate) fn error(self, part: &str) -> Self {
        assert!(self.is_error && self.text.contains(part), "expected an error with {part:?}: {self:?}");
        self
    }
}

/// A process that can be waited for although it is not ours.
pub(crate) struct Watched(AsyncFd<std::os::fd::OwnedFd>);

impl Watched {
    // The descriptor is owned by the value, which is what the replacement asks its callers to promise.
    #[allow(deprecated)]
    pub(crate) fn new(pid: u32) -> Self {
        let fd = pidfd_open(tree::to_pid(pid).unwrap(), PidfdFlags::NONBLOCK).expect("the process lives");
        Self(AsyncFd::new(fd).unwrap())
    }

    pub(crate) async fn gone(&self, since: Instant) {
        let left = KILLED.saturating_sub(since.elapsed());
        drop(timeout(left, self.0.readable()).await.expect("the process ends in time").unwrap());
    }
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}
