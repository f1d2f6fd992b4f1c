//! A server made of a recording. Requests are matched by method and parameters (without `_meta`), in the order of the
//! recording; each brings what the server sent because of it, with the ids and progress tokens of now. Everything but
//! a tool call may be repeated more often than it was recorded.

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};

use super::record::redact;

/// Bytes between the host and the recording, each way.
const BUFFER: usize = 64 * 1024;
/// Largest recording.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// One message of the host and what the server sent because of it.
#[derive(Default)]
struct Exchange {
    method: String,
    params: Value,
    id: Value,
    token: Value,
    then: Vec<Value>,
    answered: bool,
    used: bool,
}

/// What is still to be sent for one message.
struct Active {
    queue: VecDeque<Value>,
    /// Id of the server's own request, whose answer comes first.
    waiting: Option<Value>,
}

/// The server.
pub(crate) struct Replay {
    exchanges: Vec<Exchange>,
    sensitive: Vec<String>,
    active: Vec<Active>,
}

/// The recording for the `number`th connection (from 1) of `key`; the last one there is for later connections.
fn find(directory: &Path, key: &str, number: usize) -> Option<PathBuf> {
    let path = |number: usize| directory.join(format!("{key}-{number}.jsonl"));
    (1..=number).rev().map(path).find(|path| path.is_file())
}

fn comparable(params: Option<&Value>) -> Value {
    let mut params = params.cloned().unwrap_or(Value::Null);
    if let Some(fields) = params.as_object_mut() {
        fields.remove("_meta");
        if fields.is_empty() {
            return Value::Null;
        }
    }
    params
}

fn token_of(message: &Value) -> Value {
    let params = &message["params"];
    let direct = &params["progressToken"];
    if direct.is_null() { params["_meta"]["progressToken"].clone() } else { direct.clone() }
}

impl Replay {
    /// Reads a recording.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub(crate) fn open(directory: &Path, key: &str, number: usize, sensitive: &[String]) -> io::Result<Self> {
        let path = find(directory, key, number).ok_or_else(|| {
            io::Error::other(format!("there is no recording {key}-1.jsonl in {}", directory.display()))
        })?;
        if fs::metadata(&path)?.len() > MAX_BYTES {
            return Err(io::Error::other(format!("{} is too large", path.display())));
        }
        let mut exchanges = Vec::new();
        for line in fs::read_to_string(&path)?.lines() {
            let line: Value = serde_json::from_str(line)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
            let message = &line["message"];
            match line["dir"].as_str() {
                Some("out") => sent(&mut exchanges, message),
                Some("in") => received(&mut exchanges, message),
                _ => {}
            }
        }
        Ok(Self { exchanges, sensitive: sensitive.to_vec(), active: Vec::new() })
    }

    /// The host's ends of the pipes: to read from, to write to. The task ends with them.
    pub(crate) fn start(self) -> (DuplexStream, DuplexStream) {
        let (read, stdout) = tokio::io::duplex(BUFFER);
        let (stdin, write) = tokio::io::duplex(BUFFER);
        tokio::spawn(self.serve(stdin, stdout));
        (read, write)
    }

    async fn serve(mut self, stdin: DuplexStream, mut stdout: DuplexStream) {
        let mut lines = BufReader::new(stdin).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
            self.take(&message);
            let mut out = String::new();
            while let Some(message) = self.next() {
                out.push_str(&message.to_string());
                out.push('\n');
            }
            if stdout.write_all(out.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn take(&mut self, message: &Value) {
        let Some(method) = message["method"].as_str().map(str::to_owned) else {
            // An answer to a request of the server.
            for active in &mut self.active {
                if active.waiting.as_ref() == Some(&message["id"]) {
                    active.waiting = None;
                }
            }
            return;
        };
        let is_request = !message["id"].is_null();
        let mut params = comparable(message.get("params"));
        redact(&mut params, &self.sensitive);
        let any_params = !is_request || matches!(method.as_str(), "initialize" | "server/discover");
        let fits = |e: &Exchange| {
            e.method == method && e.id.is_null() != is_request && (any_params || e.params == params)
        };
        let fresh = self.exchanges.iter().position(|e| !e.used && fits(e));
        let repeatable = is_request && method != "tools/call";
        let found = fresh.or_else(|| if repeatable { self.exchanges.iter().rposition(fits) } else { None });
        let queue = match found {
            Some(at) => {
                let exchange = &mut self.exchanges[at];
                exchange.used = true;
                renamed(exchange, message)
            }
            None if is_request => {
                let text = format!("the recording has no (further) {method} with these parameters: {params}");
                vec![
                    json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32000, "message": text}}),
                ]
            }
            None => return,
        };
        self.active.push(Active { queue: queue.into(), waiting: None });
    }

    fn next(&mut self) -> Option<Value> {
        self.active.retain(|active| !active.queue.is_empty());
        let active = self.active.iter_mut().find(|active| active.waiting.is_none())?;
        let message = active.queue.pop_front()?;
        if !message["id"].is_null() && message["method"].is_string() {
            active.waiting = Some(message["id"].clone());
        }
        Some(message)
    }
}

/// A message of the host in the recording.
fn sent(exchanges: &mut Vec<Exchange>, message: &Value) {
    let Some(method) = message["method"].as_str() else { return };
    exchanges.push(Exchange {
        method: method.to_owned(),
        params: comparable(message.get("params")),
        id: message["id"].clone(),
        token: token_of(message),
        ..Exchange::default()
    });
}

/// A message of the server in the recording: the answer to a request, or something that came because of one.
fn received(exchanges: &mut [Exchange], message: &Value) {
    let is_answer = message["method"].is_null();
    let (id, token) = (&message["id"], token_of(message));
    let at = if is_answer {
        exchanges.iter().rposition(|e| !e.id.is_null() && e.id == *id)
    } else {
        let named = exchanges.iter().rposition(|e| !token.is_null() && e.token == token);
        named
            .or_else(|| exchanges.iter().rposition(|e| !e.id.is_null() && !e.answered))
            .or_else(|| exchanges.len().checked_sub(1))
    };
    if let Some(exchange) = at.and_then(|at| exchanges.get_mut(at)) {
        exchange.then.push(message.clone());
        exchange.answered |= is_answer;
    }
}

/// What was recorded, with the id and the token of the message that asks for it now.
fn renamed(exchange: &Exchange, live: &Value) -> Vec<Value> {
    let token = token_of(live);
    let mut messages = exchange.then.clone();
    for message in &mut messages {
        if message["method"].is_null() {
            message["id"] = live["id"].clone();
        } else if !exchange.token.is_null() && token_of(message) == exchange.token {
            let params = &mut message["params"];
            if params["progressToken"].is_null() {
                params["_meta"]["progressToken"] = token.clone();
            } else {
                params["progressToken"] = token.clone();
            }
        }
    }
    if !exchange.answered && !live["id"].is_null() {
        let text = format!("the recorded server never answered {}", exchange.method);
        messages
            .push(json!({"jsonrpc": "2.0", "id": live["id"], "error": {"code": -32000, "message": text}}));
    }
    messages
}

/// Connections so far, by key: which recording is next.
pub(crate) type Counts = HashMap<String, usize>;
