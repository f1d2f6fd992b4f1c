//! JSON lines over pipes.
//!
//! Results are handed on as they came (the library's typed results would lose what they do not know), except those of
//! the handshake. What the library would drop silently, leaving a call to its timeout, becomes a failure of that call:
//! lines beyond the limit, batches, unreadable answers. Lines that are no JSON (banners) are ignored.

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::{Arc, LazyLock},
};

use regex::bytes::Regex;
use rmcp::{
    RoleClient,
    model::{
        ClientJsonRpcMessage, ClientRequest, CustomNotification, CustomRequest, CustomResult, ErrorCode,
        ErrorData, JsonRpcMessage, RequestId, ServerJsonRpcMessage, ServerNotification, ServerRequest,
        ServerResult,
    },
    transport::Transport,
};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio_util::{
    bytes::Bytes,
    codec::{BytesCodec, FramedWrite},
};

use super::{
    ordered::OrderedSink,
    route::{WireFailure, WireShared},
};

/// Longest line, in bytes: the same as the library's limit of an HTTP message.
pub(crate) const MAX_LINE: usize = 16 * 1024 * 1024;
/// How much of both ends of a dropped line is looked at for its id.
const PEEK: usize = 4 * 1024;
const READ_BUFFER: usize = 64 * 1024;

#[allow(clippy::expect_used, reason = "constant patterns, covered by tests")]
static HEAD_ID: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"^\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(-?\d+|"[^"\\]*")"#).expect("valid")
});
#[allow(clippy::expect_used, reason = "constant patterns, covered by tests")]
static TAIL_ID: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#""id"\s*:\s*(-?\d+|"[^"\\]*")\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$"#).expect("valid")
});
#[allow(clippy::expect_used, reason = "constant patterns, covered by tests")]
static HEAD_METHOD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"^\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"method"\s*:"#).expect("valid")
});

/// A line that is being dropped.
struct Oversized {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    bytes: usize,
    /// Its request was failed already.
    failed: bool,
}

/// One server's pipes.
pub(crate) struct StdioLink<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    oversized: Option<Oversized>,
    max_line: usize,
    sink: OrderedSink<Bytes>,
    /// Messages made from one line.
    ready: VecDeque<ServerJsonRpcMessage>,
    /// Requests whose result the library reads itself.
    typed: HashSet<RequestId>,
    shared: Arc<WireShared>,
}

enum Line {
    Whole,
    /// The limit was passed; the rest of the line is still to come.
    TooLong,
    /// The end of a line that was dropped.
    Oversized(Oversized),
    End,
}

impl<R: AsyncRead + Send + Unpin> StdioLink<R> {
    pub(crate) fn new(
        reader: R,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        shared: Arc<WireShared>,
    ) -> Self {
        let sink = FramedWrite::new(writer, BytesCodec::new());
        Self {
            reader: BufReader::with_capacity(READ_BUFFER, reader),
            line: Vec::new(),
            oversized: None,
            max_line: MAX_LINE,
            sink: OrderedSink::new(Box::pin(sink)),
            ready: VecDeque::new(),
            typed: HashSet::new(),
            shared,
        }
    }

    #[cfg(test)]
    pub(crate) fn with_max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes;
        self
    }

    /// Reads one line. Cancel safe: what was read stays in `self`, and no wait lies between copying and consuming.
    async fn read_line(&mut self) -> Line {
        loop {
            let available = match self.reader.fill_buf().await {
                Ok(available) if !available.is_empty() => available,
                Ok(_) => return Line::End,
                Err(error) => {
                    tracing::debug!(%error, "reading from a server failed");
                    return Line::End;
                }
            };
            let end = available.iter().position(|byte| *byte == b'\n');
            let take = end.map_or(available.len(), |at| at + 1);
            let chunk = &available[..take];
            let mut passed = false;
            if let Some(oversized) = &mut self.oversized {
                oversized.extend(chunk);
            } else if self.line.len() + take > self.max_line {
                let mut oversized = Oversized::new(&std::mem::take(&mut self.line));
                oversized.extend(chunk);
                self.oversized = Some(oversized);
                passed = true;
            } else {
                self.line.extend_from_slice(chunk);
            }
            self.reader.consume(take);
            if end.is_some() {
                return self.oversized.take().map_or(Line::Whole, Line::Oversized);
            }
            if passed {
                return Line::TooLong;
            }
        }
    }

    /// Turns the line in `self.line` into messages.
    fn take_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = line.trim_ascii();
        // Some programs begin their output with a byte order mark.
        let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text).trim_ascii_start();
        match text.first() {
            Some(b'{') => match serde_json::from_slice::<Envelope>(text) {
                Ok(envelope) => self.take_envelope(envelope),
                Err(error) => {
                    let (head, tail) = ends(text);
                    match find_id(head, tail) {
                        Some(id) => self.fail(&id, WireFailure::Unreadable(error.to_string())),
                        None => self.shared.noise(text),
                    }
                }
            },
            Some(b'[') => self.take_batch(text),
            Some(_) => self.shared.noise(text),
            None => {}
        }
        // Keep the allocation unless it was an exceptional line.
        if line.capacity() <= 4 * READ_BUFFER {
            self.line = line;
            self.line.clear();
        }
    }

    fn take_envelope(&mut self, envelope: Envelope) {
        let id = envelope.id.and_then(|id| serde_json::from_value::<RequestId>(id).ok());
        match (envelope.method, id) {
            (Some(method), Some(id)) => self.take_request(&method, envelope.params, id),
            (Some(method), None) => {
                if let Some(notification) = notification(method, envelope.params) {
                    self.ready.push_back(ServerJsonRpcMessage::notification(notification));
                }
            }
            (None, Some(id)) => self.take_answer(id, envelope.result, envelope.error),
            (None, None) => {
                if let Some(error) = envelope.error.and_then(|e| serde_json::from_value(e).ok()) {
                    self.ready.push_back(ServerJsonRpcMessage::error(error, None));
                }
            }
        }
    }

    fn take_request(&mut self, method: &str, params: Option<Value>, id: RequestId) {
        // The library's types would lose what they do not know of a form or a message.
        if matches!(method, "elicitation/create" | "sampling/createMessage") {
            let request = ServerRequest::CustomRequest(CustomRequest::new(method, params));
            self.ready.push_back(ServerJsonRpcMessage::request(request, id));
            return;
        }
        let mut message = serde_json::json!({"jsonrpc": "2.0", "id": id, "method": method});
        if let Some(params) = params {
            message["params"] = params;
        }
        match serde_json::from_value(message) {
            Ok(message) => self.ready.push_back(message),
            Err(_) => self.refuse(id, "the parameters do not fit the method"),
        }
    }

    fn take_answer(&mut self, id: RequestId, result: Option<Value>, error: Option<Value>) {
        if let Some(error) = error.filter(|error| !error.is_null()) {
            let error = serde_json::from_value(error.clone())
                .unwrap_or_else(|_| ErrorData::internal_error(error.to_string(), None));
            self.ready.push_back(ServerJsonRpcMessage::error(error, Some(id)));
            return;
        }
        let result = result.unwrap_or(Value::Null);
        let result = if self.typed.remove(&id) {
            match serde_json::from_value::<ServerResult>(result) {
                Ok(result) => result,
                Err(error) => {
                    self.push_error(id, error.to_string());
                    return;
                }
            }
        } else {
            ServerResult::CustomResult(CustomResult(result))
        };
        self.ready.push_back(ServerJsonRpcMessage::response(result, id));
    }

    /// Batches were removed from MCP in 2025-06-18 and are refused under every revision: answers in one fail their
    /// requests, requests in one are refused.
    fn take_batch(&mut self, text: &[u8]) {
        let Ok(batch) = serde_json::from_slice::<Vec<Envelope>>(text) else { return self.shared.noise(text) };
        tracing::warn!("a server sent a JSON-RPC batch, which is refused");
        for envelope in batch {
            let Some(id) = envelope.id.and_then(|id| serde_json::from_value::<RequestId>(id).ok()) else {
                continue;
            };
            if envelope.method.is_some() {
                self.refuse(id, "JSON-RPC batches are not supported");
            } else {
                self.fail(&id, WireFailure::Batch);
            }
        }
    }

    /// A line may never end: where its start names the request, that one need not wait for it.
    fn take_too_long(&mut self) {
        let Some(oversized) = &mut self.oversized else { return };
        if let Some(id) = find_id(&oversized.head, &[]) {
            oversized.failed = true;
            self.fail(&id, WireFailure::TooLarge(self.max_line));
        }
    }

    fn take_oversized(&mut self, line: &Oversized) {
        if line.failed {
            return;
        }
        let tail: Vec<u8> = line.tail.iter().copied().collect();
        let failure = WireFailure::TooLarge(self.max_line);
        tracing::warn!(bytes = line.bytes, limit = self.max_line, "a server's message is too large");
        if let Some(id) = find_id(&line.head, &tail) {
            self.fail(&id, failure);
        } else if !HEAD_METHOD.is_match(&line.head) {
            // An answer to something, but to what? Waiting for the timeout would help nobody.
            for id in self.shared.pending() {
                self.fail(&id, failure.clone());
            }
        }
    }

    fn fail(&mut self, id: &RequestId, failure: WireFailure) {
        let text = format!("{failure:?}");
        if self.shared.fail(id, failure) || self.typed.remove(id) {
            self.push_error(id.clone(), text);
        }
    }

    fn push_error(&mut self, id: RequestId, text: String) {
        let error = ErrorData::new(ErrorCode::INTERNAL_ERROR, text, None);
        self.ready.push_back(ServerJsonRpcMessage::error(error, Some(id)));
    }

    /// Answers a request of the server with an error.
    fn refuse(&mut self, id: RequestId, text: &'static str) {
        let error = ErrorData::new(ErrorCode::INVALID_REQUEST, text, None);
        // Nothing here may wait. The task ends with the message sent or with the connection closed.
        if let Ok(bytes) = encode(&ClientJsonRpcMessage::error(error, Some(id))) {
            tokio::spawn(self.sink.send(bytes));
        }
    }
}

impl Oversized {
    fn new(start: &[u8]) -> Self {
        let mut oversized = Self { head: Vec::new(), tail: VecDeque::new(), bytes: 0, failed: false };
        oversized.extend(start);
        oversized
    }

    fn extend(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len();
        let missing = PEEK.saturating_sub(self.head.len()).min(chunk.len());
        self.head.extend_from_slice(&chunk[..missing]);
        self.tail.extend(&chunk[chunk.len().saturating_sub(PEEK)..]);
        let excess = self.tail.len().saturating_sub(PEEK);
        self.tail.drain(..excess);
    }
}

/// A message before it is known what it is. A duplicate key makes it unreadable.
#[derive(Deserialize)]
struct Envelope {
    id: Option<Value>,
    method: Option<String>,
    params: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    result: Option<Value>,
    error: Option<Value>,
}

/// Keeps an explicit `null` apart from an absent field.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn notification(method: String, params: Option<Value>) -> Option<ServerNotification> {
    if method == "notifications/cancelled" {
        let message = serde_json::json!({"method": method, "params": params});
        return serde_json::from_value(message).ok();
    }
    Some(ServerNotification::CustomNotification(CustomNotification::new(method, params)))
}

fn ends(text: &[u8]) -> (&[u8], &[u8]) {
    (&text[..text.len().min(PEEK)], &text[text.len().saturating_sub(PEEK)..])
}

/// The id of an answer of which only the ends are known.
fn find_id(head: &[u8], tail: &[u8]) -> Option<RequestId> {
    let found = HEAD_ID.captures(head).or_else(|| {
        let answer = !HEAD_METHOD.is_match(head);
        TAIL_ID.captures(tail).filter(|_| answer)
    })?;
    serde_json::from_slice(&found[1]).ok()
}

fn encode(message: &ClientJsonRpcMessage) -> io::Result<Bytes> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(Bytes::from(line))
}

impl<R: AsyncRead + Send + Unpin + 'static> Transport<RoleClient> for StdioLink<R> {
    type Error = io::Error;

    fn send(
        &mut self,
        item: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<(), io::Error>> + Send + 'static {
        let mut is_first = false;
        if let JsonRpcMessage::Request(request) = &item
            && matches!(
                request.request,
                ClientRequest::InitializeRequest(_) | ClientRequest::DiscoverRequest(_)
            )
        {
            self.typed.insert(request.id.clone());
            is_first = true;
        }
        let sending = encode(&item).map(|bytes| self.sink.send(bytes));
        async move {
            match sending?.await {
                // It has exited already. What it wrote before that says why, and is still to be read.
                Err(error) if is_first && error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                sent => sent,
            }
        }
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            match self.read_line().await {
                Line::Whole => self.take_line(),
                Line::TooLong => self.take_too_long(),
                Line::Oversized(line) => self.take_oversized(&line),
                Line::End => return None,
            }
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        self.sink.close().await;
        Ok(())
    }
}
