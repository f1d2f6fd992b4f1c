//! One visitor: MCP with one JSON message per line, as a stdio server would speak it.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gander_domain::{ErrorDetail, extension::ExtensionState, tool::ToolDefinition};
use rmcp::model::{
    ClientRequest, GetPromptRequest, GetPromptRequestParams, ReadResourceRequest, ReadResourceRequestParams,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{DoorKeeper, answer};
use crate::{
    calls::{CallProgress, CallRequest, error_of},
    connection::{Failure, RequestOptions},
    lists::{self, LIST_TIMEOUT, List},
    rounds,
    server::Server,
    session::SessionExtensions,
};

/// Messages waiting to be written.
const OUTBOX: usize = 64;
/// Requests that are worked on at once.
const MAX_REQUESTS: usize = 64;
/// Longest message.
const MAX_LINE: usize = 32 << 20;
/// How long an answer waits for a server that is starting.
const SETTLE: Duration = Duration::from_secs(8);
/// Revisions with a handshake, newest first.
const REVISIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
const INTERNAL: i32 = -32603;

/// An error answer.
struct Refusal {
    code: i32,
    message: String,
}

impl Refusal {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<ErrorDetail> for Refusal {
    fn from(error: ErrorDetail) -> Self {
        Self::new(INTERNAL, error.message)
    }
}

/// The visit of one program to one extension.
struct Visit {
    extensions: Arc<SessionExtensions>,
    key: String,
    keeper: Arc<dyn DoorKeeper>,
    out: mpsc::Sender<String>,
    /// Requests that are worked on, by id as JSON text.
    running: Mutex<HashMap<String, CancellationToken>>,
    /// The visitor has seen the tools.
    listed: AtomicBool,
}

/// Serves until the visitor closes its end; what it began is cancelled then.
pub(super) async fn serve(
    mut reader: impl AsyncBufRead + Unpin,
    writer: impl AsyncWrite + Unpin + Send + 'static,
    extensions: Arc<SessionExtensions>,
    key: String,
    keeper: Arc<dyn DoorKeeper>,
) {
    let (out, outgoing) = mpsc::channel(OUTBOX);
    let visit = Arc::new(Visit {
        extensions,
        key,
        keeper,
        out,
        running: Mutex::default(),
        listed: AtomicBool::new(false),
    });
    // Ended with this future.
    let mut upkeep = JoinSet::new();
    upkeep.spawn(write(writer, outgoing));
    let watching = visit.clone();
    upkeep.spawn(async move { watching.tell_changes().await });
    let mut requests = JoinSet::new();
    let mut line = Vec::new();
    loop {
        match read_line(&mut reader, &mut line, MAX_LINE).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(%error, key = visit.key, "a visitor of an extension is gone");
                return;
            }
        }
        while requests.try_join_next().is_some() {}
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let Ok(Value::Object(mut message)) = serde_json::from_slice(&line) else {
            visit
                .reply(&Value::Null, Err(Refusal::new(INVALID_REQUEST, "a message is one JSON object")))
                .await;
            continue;
        };
        let id = message.remove("id").filter(|id| !id.is_null());
        let params = message.remove("params").unwrap_or_default();
        let Some(Value::String(method)) = message.remove("method") else { continue };
        match id {
            None if method == "notifications/cancelled" => visit.cancel(&params),
            None => {}
            Some(id) if requests.len() >= MAX_REQUESTS => {
                visit.reply(&id, Err(Refusal::new(INTERNAL, "too many requests are open"))).await;
            }
            Some(id) => {
                let visit = visit.clone();
                let cancel = CancellationToken::new();
                visit.running().insert(id.to_string(), cancel.clone());
                requests.spawn(async move { visit.answer(id, &method, params, cancel).await });
            }
        }
    }
}

impl Visit {
    fn running(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        // No code panics while it holds the lock with the map half changed.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancel(&self, params: &Value) {
        let id = params.get("requestId").unwrap_or(&Value::Null).to_string();
        if let Some(cancel) = self.running().get(&id) {
            cancel.cancel();
        }
    }

    async fn send(&self, message: Value) {
        // A visitor that is gone needs no answer.
        let _ = self.out.send(message.to_string()).await;
    }

    async fn reply(&self, id: &Value, answer: Result<Value, Refusal>) {
        self.send(match answer {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(Refusal { code, message }) => {
                json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
            }
        })
        .await;
    }

    async fn answer(&self, id: Value, method: &str, params: Value, cancel: CancellationToken) {
        let answer = Box::pin(self.dispatch(method, params, &cancel)).await;
        self.running().remove(&id.to_string());
        // Who cancels a request wants no answer.
        if !cancel.is_cancelled() {
            self.reply(&id, answer).await;
        }
    }

    async fn dispatch(
        &self,
        method: &str,
        params: Value,
        cancel: &CancellationToken,
    ) -> Result<Value, Refusal> {
        let text = |key: &str| params.get(key).and_then(Value::as_str).map(str::to_owned);
        let missing = |what: &str| Refusal::new(INVALID_PARAMS, format!("{what} is missing"));
        match method {
            "initialize" => Ok(self.hello(&params).await),
            "ping" => Ok(json!({})),
            "tools/list" => {
                self.settled().await;
                self.listed.store(true, Ordering::Release);
                let tools: Vec<Value> = self.tools().iter().map(answer::tool).collect();
                Ok(json!({ "tools": tools }))
            }
            "tools/call" => self.call(text("name").ok_or_else(|| missing("name"))?, &params, cancel).await,
            "resources/list" => self.list(List::Resources).await,
            "resources/templates/list" => self.list(List::Templates).await,
            "prompts/list" => self.list(List::Prompts).await,
            "resources/read" => {
                let uri = text("uri").ok_or_else(|| missing("uri"))?;
                self.pass(
                    method,
                    cancel,
                    ReadResourceRequest::new(ReadResourceRequestParams::new(uri)).into(),
                )
                .await
            }
            "prompts/get" => {
                let mut request = GetPromptRequestParams::new(text("name").ok_or_else(|| missing("name"))?);
                if let Some(Value::Object(arguments)) = params.get("arguments") {
                    request = request.with_arguments(arguments.clone());
                }
                self.pass(method, cancel, GetPromptRequest::new(request).into()).await
            }
            other => Err(Refusal::new(METHOD_NOT_FOUND, format!("there is no method {other:?} here"))),
        }
    }

    /// The server's own words about itself, as far as they hold here.
    async fn hello(&self, params: &Value) -> Value {
        let asked = params.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
        let revision = REVISIONS.into_iter().find(|known| *known == asked).unwrap_or(REVISIONS[0]);
        let mut capabilities = json!({ "tools": { "listChanged": true } });
        let mut hello = json!({
            "protocolVersion": revision,
            "serverInfo": { "name": self.key, "version": env!("CARGO_PKG_VERSION") },
        });
        if let Some(server) = self.settled().await {
            let info = server.live().info.clone();
            let offers = info.as_ref().map(|info| &info.capabilities);
            if offers.is_some_and(|offers| offers.resources.is_some()) {
                capabilities["resources"] = json!({});
            }
            if offers.is_some_and(|offers| offers.prompts.is_some()) {
                capabilities["prompts"] = json!({});
            }
            if let Some(instructions) = server.status().instructions {
                hello["instructions"] = json!(instructions);
            }
        }
        hello["capabilities"] = capabilities;
        hello
    }

    /// The server, once it is not starting any more, or after a while.
    async fn settled(&self) -> Option<Arc<Server>> {
        use ExtensionState as S;
        let server = self.extensions.server(&self.key)?;
        let mut changes = server.watch();
        let deadline = Instant::now() + SETTLE;
        while matches!(server.state(), S::Starting | S::Restarting) {
            if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        Some(server)
    }

    /// What a model may call.
    fn tools(&self) -> Vec<ToolDefinition> {
        let Some(server) = self.extensions.server(&self.key) else { return Vec::new() };
        let tools = server.tools();
        let usable = tools.iter().map(|tool| &tool.definition);
        usable.filter(|tool| tool.visibility.model && !tool.quarantined).cloned().collect()
    }

    /// Says when the tools are others than before.
    async fn tell_changes(&self) {
        let Some(server) = self.extensions.server(&self.key) else { return };
        let mut changes = server.watch();
        let hashes = |visit: &Self| -> Vec<String> {
            visit.tools().into_iter().map(|tool| tool.definition_hash).collect()
        };
        let mut known = hashes(self);
        while changes.changed().await.is_ok() {
            let now = hashes(self);
            if now != known && self.listed.load(Ordering::Acquire) {
                self.send(json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" })).await;
            }
            known = now;
        }
    }

    async fn call(&self, name: String, params: &Value, cancel: &CancellationToken) -> Result<Value, Refusal> {
        self.settled().await;
        let Some(tool) = self.tools().into_iter().find(|tool| tool.tool_name == name) else {
            return Err(Refusal::new(INVALID_PARAMS, format!("there is no tool {name:?}")));
        };
        let (progress, mut reports) = mpsc::channel(OUTBOX);
        let json = |key: &str| params.get(key).filter(|value| !value.is_null()).map(Value::to_string);
        let calling = self.keeper.call(CallRequest {
            name: tool.name,
            arguments_json: json("arguments").unwrap_or_default(),
            cancel: cancel.clone(),
            progress,
            timeout: None,
            meta_json: json("_meta"),
            item_id: None,
        });
        tokio::pin!(calling);
        let token = params.pointer("/_meta/progressToken");
        let result = loop {
            tokio::select! {
                biased;
                result = &mut calling => break result,
                Some(report) = reports.recv() => self.report(token, report).await,
            }
        };
        while let Ok(report) = reports.try_recv() {
            self.report(token, report).await;
        }
        Ok(answer::result(&result))
    }

    async fn report(&self, token: Option<&Value>, report: CallProgress) {
        let (Some(token), CallProgress::Progress { progress, total, message }) = (token, report) else {
            return;
        };
        let mut params = json!({ "progressToken": token, "progress": progress });
        if let Some(total) = total {
            params["total"] = json!(total);
        }
        if let Some(mut message) = message {
            self.keeper.clean(&mut message);
            params["message"] = json!(message);
        }
        self.send(json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params })).await;
    }

    async fn list(&self, list: List) -> Result<Value, Refusal> {
        let connection = self.extensions.connection(&self.key).await?;
        let listed = lists::fetch(&connection, list, LIST_TIMEOUT).await;
        let listed = listed.map_err(|failure| self.refusal(list.name(), failure))?;
        let mut answer = json!({});
        answer[list.name()] = Value::Array(listed.entries);
        Ok(answer)
    }

    /// Hands a request on and its result back as it came, without secrets.
    async fn pass(
        &self,
        method: &str,
        cancel: &CancellationToken,
        request: ClientRequest,
    ) -> Result<Value, Refusal> {
        let connection = self.extensions.connection(&self.key).await?;
        let options = RequestOptions { cancel: cancel.clone(), ..RequestOptions::within(LIST_TIMEOUT) };
        let result = rounds::request(&connection, options, |_, _| request.clone()).await;
        let result = result.map_err(|failure| self.refusal(method, failure))?;
        let mut text = result.to_string();
        self.keeper.clean(&mut text);
        serde_json::from_str(&text).map_err(|error| Refusal::new(INTERNAL, error.to_string()))
    }

    fn refusal(&self, what: &str, failure: Failure) -> Refusal {
        let code = match &failure {
            Failure::Rpc(error) => error.code.0,
            _ => INTERNAL,
        };
        Refusal::new(code, error_of(&self.key, what, failure).message)
    }
}

/// Writes what comes, until nobody sends any more or the visitor is gone.
async fn write(mut writer: impl AsyncWrite + Unpin, mut outgoing: mpsc::Receiver<String>) {
    while let Some(mut line) = outgoing.recv().await {
        line.push('\n');
        if writer.write_all(line.as_bytes()).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

/// Reads a line without its end; `false` at the end of the input. An unfinished last line counts.
pub(super) async fn read_line(
    source: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    limit: usize,
) -> io::Result<bool> {
    line.clear();
    loop {
        let available = source.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(available.len());
        if line.len() + taken > limit {
            return Err(io::Error::other(format!("it sent a line of more than {limit} bytes")));
        }
        line.extend_from_slice(&available[..taken]);
        source.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(true);
        }
    }
}
