//! JSON-RPC over the agent's pipes: one message per line, both ways at once.
//!
//! Notifications are handled in order, one at a time, before the next line is read, so that a slow client slows the agent
//! down. Requests of the agent each get a task: a question that waits for hours holds nothing up. Lines that are no JSON
//! are skipped with a warning, as some agents print to stdout while they start.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::BoxFuture;
use gander_domain::ErrorDetail;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use crate::failure::{CANCELLED, Failure, METHOD_NOT_FOUND, RpcError};

/// Messages waiting to be written.
const OUTBOX: usize = 64;
/// Requests of the agent that are open at once.
const MAX_REQUESTS: usize = 256;
/// Longest line.
pub(crate) const MAX_LINE: usize = 32 << 20;
/// Bytes of a line that is no JSON shown in the log.
const SHOWN: usize = 200;

/// What handles the agent's messages.
pub(crate) trait Handler: Send + Sync + 'static {
    fn notification<'a>(&'a self, method: &'a str, params: &'a Value) -> BoxFuture<'a, ()>;

    /// Called in the order in which the agent sent its messages; what must keep that order happens before the future is
    /// returned. `None`: no such method.
    fn request(
        self: Arc<Self>,
        method: String,
        params: Value,
    ) -> BoxFuture<'static, Option<Result<Value, RpcError>>>;
}

type Answer = oneshot::Sender<Result<Value, Failure>>;

#[derive(Default)]
struct State {
    waiting: HashMap<u64, Answer>,
    /// Requests of the agent, by id as JSON text.
    serving: HashMap<String, (u64, AbortHandle)>,
    ended: Option<ErrorDetail>,
}

/// One connection. Cheap to share.
pub(crate) struct Connection {
    outbox: mpsc::Sender<String>,
    numbers: AtomicU64,
    state: Mutex<State>,
}

/// Forgets a request that nobody waits for any longer.
struct Waiting<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.connection.state().waiting.remove(&self.id);
    }
}

impl Connection {
    /// The connection and what has to be written to the agent.
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<String>) {
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        (Arc::new(Self { outbox, numbers: AtomicU64::new(1), state: Mutex::default() }), outgoing)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn request(&self, method: &str, params: Value) -> Result<Value, Failure> {
        let id = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut state = self.state();
            if let Some(error) = &state.ended {
                return Err(Failure::Ended(error.clone()));
            }
            state.waiting.insert(id, sender);
        }
        let _waiting = Waiting { connection: self, id };
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        // When the writer is gone the end of the connection answers.
        let _ = self.outbox.send(message.to_string()).await;
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Rpc(RpcError::new(CANCELLED, "the connection was dropped"))),
        }
    }

    /// Sends a notification.
    pub(crate) async fn notify(&self, method: &str, params: Value) {
        let message = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        let _ = self.outbox.send(message.to_string()).await;
    }

    /// Why the connection ended, if it has.
    pub(crate) fn ended(&self) -> Option<ErrorDetail> {
        self.state().ended.clone()
    }

    /// Ends it: whoever waits gets `error`, whatever the agent asked is dropped. Only the first end counts.
    pub(crate) fn end(&self, error: &ErrorDetail) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(error.clone());
        let waiting = std::mem::take(&mut state.waiting);
        let serving = std::mem::take(&mut state.serving);
        drop(state);
        for (_, answer) in waiting {
            let _ = answer.send(Err(Failure::Ended(error.clone())));
        }
        for (_, (_, task)) in serving {
            task.abort();
        }
    }

    /// Reads until the agent closes its end.
    ///
    /// # Errors
    /// Of the pipe, or a line that is too long.
    pub(crate) async fn read(
        self: &Arc<Self>,
        mut source: impl AsyncBufRead + Unpin,
        handler: Arc<dyn Handler>,
    ) -> io::Result<()> {
        let mut line = Vec::new();
        while read_line(&mut source, &mut line).await? {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match serde_json::from_slice::<Value>(&line) {
                Ok(Value::Object(message)) => self.receive(Value::Object(message), &handler).await,
                _ => {
                    let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
                    tracing::warn!(line = %shown.escape_debug(), "the agent wrote a line that is no message");
                }
            }
        }
        Ok(())
    }

    async fn receive(self: &Arc<Self>, mut message: Value, handler: &Arc<dyn Handler>) {
        let id = message.get("id").filter(|id| !id.is_null()).cloned();
        let method = message.get("method").and_then(Value::as_str).map(str::to_owned);
        let params = message.get_mut("params").map_or(Value::Null, Value::take);
        match (method, id) {
            (Some(method), Some(id)) => self.serve(id, method, params, handler.clone()),
            (Some(method), None) if method == "$/cancel_request" => {
                self.withdraw(params.get("requestId").unwrap_or(&Value::Null)).await;
            }
            (Some(method), None) => handler.notification(&method, &params).await,
            (None, Some(id)) => self.answered(&id, &mut message),
            (None, None) => tracing::warn!("the agent sent a message without method and id"),
        }
    }

    fn answered(&self, id: &Value, message: &mut Value) {
        // Some agents echo the id as text.
        let number = id.as_u64().or_else(|| id.as_str().and_then(|text| text.parse().ok()));
        let waiting = number.and_then(|number| self.state().waiting.remove(&number));
        let Some(waiting) = waiting else {
            tracing::debug!(%id, "the agent answered a request that nobody waits for");
            return;
        };
        let answer = match message.get("error").filter(|error| !error.is_null()) {
            Some(error) => Err(Failure::Rpc(RpcError::parse(error))),
            None => Ok(message.get_mut("result").map_or(Value::Null, Value::take)),
        };
        let _ = waiting.send(answer);
    }

    fn serve(self: &Arc<Self>, id: Value, method: String, params: Value, handler: Arc<dyn Handler>) {
        let key = id.to_string();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let full = self.state().serving.len() >= MAX_REQUESTS;
        // Called here and not in the task: what the agent sends next may be about this request.
        let work = (!full).then(|| handler.request(method.clone(), params));
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        let connection = Arc::downgrade(self);
        let task_key = key.clone();
        let task = tokio::spawn(async move {
            let unknown = || RpcError::new(METHOD_NOT_FOUND, format!("no method {method:?}"));
            let answer = match work {
                Some(work) => work.await.unwrap_or_else(|| Err(unknown())),
                None => Err(RpcError::new(crate::failure::INTERNAL, "too many requests are open")),
            };
            if let Some(connection) = connection.upgrade() {
                connection.state().serving.remove(&task_key);
                connection.reply(&id, answer).await;
            }
        });
        if !full {
            // A task that is already done has removed nothing yet: it needs this lock first.
            state.serving.insert(key, (number, task.abort_handle()));
        }
    }

    async fn reply(&self, id: &Value, answer: Result<Value, RpcError>) {
        let message = match answer {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error.to_value() }),
        };
        let _ = self.outbox.send(message.to_string()).await;
    }

    /// The agent does not want an answer any more.
    async fn withdraw(&self, id: &Value) {
        let serving = self.state().serving.remove(&id.to_string());
        if let Some((_, task)) = serving {
            task.abort();
            self.reply(id, Err(RpcError::new(CANCELLED, "cancelled"))).await;
        }
    }
}

/// Writes what comes, until nobody can send any more or the pipe breaks.
pub(crate) async fn write(
    mut sink: impl AsyncWrite + Unpin,
    mut outgoing: mpsc::Receiver<String>,
) -> io::Result<()> {
    while let Some(mut line) = outgoing.recv().await {
        line.push('\n');
        sink.write_all(line.as_bytes()).await?;
        sink.flush().await?;
    }
    Ok(())
}

/// Reads a line without its end; `false` at the end of the input. An unfinished last line counts.
async fn read_line(source: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let available = source.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(available.len());
        if line.len() + taken > MAX_LINE {
            return Err(io::Error::other(format!("it sent a message larger than {} MiB", MAX_LINE >> 20)));
        }
        line.extend_from_slice(&available[..taken]);
        source.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests;
