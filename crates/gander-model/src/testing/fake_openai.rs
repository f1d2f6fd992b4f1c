//! A server that speaks OpenAI's chat completions, and the other dialects under their paths; the request's `model`
//! chooses what it does.
//!
//! Scenarios are in `scenarios.rs`. `NAME@N` cuts the body of scenario NAME into pieces of N bytes. `bench-COUNT-PACEus`
//! streams COUNT tokens `t<unix nanoseconds> `, one every PACE microseconds (0 or absent: as fast as it can), stamped when
//! written. The server writes HTTP by hand: it must be able to do it wrong.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{JoinHandle, JoinSet},
};

use super::{
    dialects::{self, Dialect},
    scenarios::{self, COMPLETE, Piece, Reply},
};

/// Requests that are remembered.
const KEPT_REQUESTS: usize = 1000;
const MAX_HEAD: usize = 64 * 1024;
const MAX_BODY: usize = 256 * 1024 * 1024;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct SeenRequest {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Null if the body is no JSON.
    pub body: Value,
}

impl SeenRequest {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<VecDeque<SeenRequest>>,
    connections: AtomicUsize,
    gone: tokio::sync::watch::Sender<usize>,
}

/// The running server; it stops when dropped.
#[derive(Debug)]
pub struct FakeOpenAi {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for FakeOpenAi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeOpenAi {
    /// Starts the server on a free port of the loopback interface.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start() -> std::io::Result<Self> {
        Self::start_on("127.0.0.1:0").await
    }

    /// Starts the server on an address.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn start_on(address: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, task })
    }

    /// `http://127.0.0.1:<port>`, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of chat completions.
    pub fn chat_url(&self) -> String {
        format!("{}/v1/chat/completions", self.url())
    }

    /// The last requests, oldest first.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until `count` clients went away in the middle of a reply.
    pub async fn wait_for_hangups(&self, count: usize) {
        let _ = self.shared.gone.subscribe().wait_for(|gone| *gone >= count).await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                shared.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let (mut reader, writer) = stream.into_split();
    let mut writer = BufWriter::with_capacity(16 * 1024, writer);
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut reader, &mut buffer).await {
        {
            let mut requests = shared.requests.lock().unwrap_or_else(PoisonError::into_inner);
            if requests.len() >= KEPT_REQUESTS {
                requests.pop_front();
            }
            requests.push_back(request.clone());
        }
        match answer(&request, &mut reader, &mut writer).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => {
                shared.gone.send_modify(|gone| *gone += 1);
                return;
            }
        }
    }
}

async fn read_request(reader: &mut OwnedReadHalf, buffer: &mut Vec<u8>) -> Option<SeenRequest> {
    let head_end = loop {
        if let Some(at) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            break at;
        }
        if buffer.len() > MAX_HEAD || reader.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    buffer.drain(..head_end + 4);
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    if length > MAX_BODY {
        return None;
    }
    while buffer.len() < length {
        if reader.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body: Vec<u8> = buffer.drain(..length).collect();
    Some(SeenRequest { method, path, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

type Writer = BufWriter<OwnedWriteHalf>;

/// Writes the reply; false when the connection is to be closed. An error means that the client went away.
async fn answer(
    request: &SeenRequest,
    reader: &mut OwnedReadHalf,
    writer: &mut Writer,
) -> std::io::Result<bool> {
    let authorization = request.header("authorization").unwrap_or_default();
    let model = request.body.get("model").and_then(Value::as_str).unwrap_or_default();
    let path = request.path.split('?').next().unwrap_or_default();
    if request.method == "GET" && path.ends_with("/models") {
        let reply = if authorization == "Bearer bad-key" {
            scenarios::reply("401", authorization)
        } else {
            Some(models())
        };
        return write_reply(&reply.unwrap_or_else(not_found), reader, writer).await;
    }
    if request.method == "POST"
        && let Some((dialect, model)) = Dialect::of(&request.path, &request.body)
    {
        let key =
            ["x-api-key", "x-goog-api-key", "authorization"].iter().find_map(|name| request.header(name));
        let (name, size) = split_size(&model);
        let mut reply = dialects::reply(dialect, name, key.unwrap_or_default()).unwrap_or_else(not_found);
        if let Some(size) = size {
            recut(&mut reply, size.max(1));
        }
        return write_reply(&reply, reader, writer).await;
    }
    if request.method != "POST" || !request.path.ends_with("/chat/completions") {
        return write_reply(&not_found(), reader, writer).await;
    }
    if let Some((count, pace)) = bench(model) {
        return write_bench(count, pace, writer).await;
    }
    let (name, size) = split_size(model);
    let mut reply = scenarios::reply(name, authorization).unwrap_or_else(not_found);
    if let Some(size) = size {
        recut(&mut reply, size.max(1));
    }
    write_reply(&reply, reader, writer).await
}

/// `NAME@N`.
fn split_size(model: &str) -> (&str, Option<usize>) {
    match model.rsplit_once('@') {
        Some((name, size)) => (name, size.parse::<usize>().ok()),
        None => (model, None),
    }
}

fn not_found() -> Reply {
    let body = json!({ "error": { "message": "no such page or scenario", "type": "not_found" } });
    Reply {
        status: 404,
        headers: vec![("content-type", "application/json".to_owned())],
        body: vec![Piece::Bytes(body.to_string().into_bytes())],
    }
}

fn models() -> Reply {
    let list: Vec<Value> = COMPLETE
        .iter()
        .map(|name| json!({ "id": name, "object": "model", "context_length": 4096 }))
        .collect();
    let body = json!({ "object": "list", "data": list });
    Reply {
        status: 200,
        headers: vec![("content-type", "application/json".to_owned())],
        body: vec![Piece::Bytes(body.to_string().into_bytes())],
    }
}

/// The same bytes in pieces of `size`.
fn recut(reply: &mut Reply, size: usize) {
    let mut pieces = Vec::new();
    let mut bytes = Vec::new();
    let flush = |bytes: &mut Vec<u8>, pieces: &mut Vec<Piece>| {
        pieces.extend(bytes.chunks(size).map(|part| Piece::Bytes(part.to_vec())));
        bytes.clear();
    };
    for piece in reply.body.drain(..) {
        match piece {
            Piece::Bytes(more) => bytes.extend(more),
            other => {
                flush(&mut bytes, &mut pieces);
                pieces.push(other);
            }
        }
    }
    flush(&mut bytes, &mut pieces);
    reply.body = pieces;
}

async fn write_head(
    writer: &mut Writer,
    status: u16,
    headers: &[(&'static str, String)],
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Fake\r\ntransfer-encoding: chunked\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    writer.write_all(head.as_bytes()).await?;
    writer.flush().await
}

async fn write_chunk(writer: &mut Writer, bytes: &[u8]) -> std::io::Result<()> {
    writer.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
    writer.write_all(bytes).await?;
    writer.write_all(b"\r\n").await
}

async fn write_reply(
    reply: &Reply,
    reader: &mut OwnedReadHalf,
    writer: &mut Writer,
) -> std::io::Result<bool> {
    write_head(writer, reply.status, &reply.headers).await?;
    for piece in &reply.body {
        match piece {
            Piece::Bytes(bytes) if bytes.is_empty() => {}
            Piece::Bytes(bytes) => {
                write_chunk(writer, bytes).await?;
                writer.flush().await?;
            }
            Piece::Hang => {
                let mut byte = [0];
                let _ = reader.read(&mut byte).await;
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            Piece::Cut => return Ok(false),
        }
    }
    writer.write_all(b"0\r\n\r\n").await?;
    writer.flush().await?;
    Ok(true)
}

/// `bench-500-2000us` → 500 tokens, one every 2 ms.
fn bench(model: &str) -> Option<(u64, Duration)> {
    let rest = model.strip_prefix("bench-")?;
    let (count, pace) = rest.split_once('-').unwrap_or((rest, "0us"));
    let pace = pace.strip_suffix("us")?.parse().ok()?;
    Some((count.parse().ok()?, Duration::from_micros(pace)))
}

async fn write_bench(count: u64, pace: Duration, writer: &mut Writer) -> std::io::Result<bool> {
    write_head(writer, 200, &[("content-type", "text/event-stream".to_owned())]).await?;
    let frame = |delta: &str, finish: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"bench\",\
             \"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
        )
    };
    write_chunk(writer, frame("{\"role\":\"assistant\",\"content\":\"\"}", "null").as_bytes()).await?;
    writer.flush().await?;
    let start = tokio::time::Instant::now();
    for number in 0..count {
        if !pace.is_zero() {
            let due = start + pace.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
            tokio::time::sleep_until(due).await;
        }
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        write_chunk(writer, frame(&format!("{{\"content\":\"t{nanos} \"}}"), "null").as_bytes()).await?;
        if !pace.is_zero() {
            writer.flush().await?;
        }
    }
    let usage = format!(
        "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"model\":\"bench\",\"choices\":[],\
         \"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{count},\"total_tokens\":{}}}}}\n\n",
        count + 1
    );
    for piece in [frame("{}", "\"stop\"").as_bytes(), usage.as_bytes(), b"data: [DONE]\n\n"] {
        write_chunk(writer, piece).await?;
    }
    writer.write_all(b"0\r\n\r\n").await?;
    writer.flush().await?;
    Ok(true)
}
