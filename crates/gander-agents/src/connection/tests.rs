use std::time::Duration;

use futures::FutureExt as _;
use gander_domain::ErrorReason;
use tokio::{
    io::{AsyncReadExt as _, BufReader, DuplexStream, duplex},
    sync::{Semaphore, mpsc::unbounded_channel},
    time::timeout,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// Notes what it is told; a request waits for a permit.
struct Recorder {
    heard: mpsc::UnboundedSender<String>,
    permits: Arc<Semaphore>,
}

impl Handler for Recorder {
    fn notification<'a>(&'a self, method: &'a str, params: &'a Value) -> BoxFuture<'a, ()> {
        self.heard.send(format!("{method} {params}")).unwrap();
        async {}.boxed()
    }

    fn request(
        self: Arc<Self>,
        method: String,
        params: Value,
    ) -> BoxFuture<'static, Option<Result<Value, RpcError>>> {
        async move {
            self.heard.send(format!("asked {method}")).unwrap();
            if method == "unknown" {
                return None;
            }
            self.permits.acquire().await.unwrap().forget();
            Some(Ok(params))
        }
        .boxed()
    }
}

struct Peer {
    connection: Arc<Connection>,
    agent: BufReader<DuplexStream>,
    heard: mpsc::UnboundedReceiver<String>,
    permits: Arc<Semaphore>,
    reader: tokio::task::JoinHandle<io::Result<()>>,
}

fn peer() -> Peer {
    let (ours, agents) = duplex(1 << 20);
    let (read, written) = tokio::io::split(ours);
    let (connection, outgoing) = Connection::new();
    let (heard, hearing) = unbounded_channel();
    let permits = Arc::new(Semaphore::new(0));
    let handler = Arc::new(Recorder { heard, permits: permits.clone() });
    tokio::spawn(write(written, outgoing));
    let reading = connection.clone();
    let reader = tokio::spawn(async move { reading.read(BufReader::new(read), handler).await });
    Peer { connection, agent: BufReader::new(agents), heard: hearing, permits, reader }
}

impl Peer {
    async fn send(&mut self, line: &str) {
        self.agent.write_all(line.as_bytes()).await.unwrap();
        self.agent.write_all(b"\n").await.unwrap();
    }

    async fn receive(&mut self) -> Value {
        let mut line = String::new();
        timeout(PATIENCE, self.agent.read_line(&mut line)).await.expect("a line").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn heard(&mut self) -> String {
        timeout(PATIENCE, self.heard.recv()).await.expect("something to be heard").unwrap()
    }
}

#[tokio::test]
async fn junk_is_skipped_and_order_is_kept() {
    let mut peer = peer();
    for line in ["Starting up…", "", "[1,2]", "7", "{\"jsonrpc\":\"2.0\"}"] {
        peer.send(line).await;
    }
    for n in 0..20 {
        peer.send(&format!(r#"{{"jsonrpc":"2.0","method":"u","params":{n}}}"#)).await;
    }
    for n in 0..20 {
        assert_eq!(peer.heard().await, format!("u {n}"));
    }
}

#[tokio::test]
async fn answers_find_their_requests() {
    let mut peer = peer();
    let (a, b) = (peer.connection.clone(), peer.connection.clone());
    let first = tokio::spawn(async move { a.request("first", json!({})).await });
    let one = peer.receive().await;
    let second = tokio::spawn(async move { b.request("second", json!({})).await });
    let two = peer.receive().await;
    // In the other order, and the id as text.
    peer.send(&json!({"id": two["id"].to_string(), "result": {"n": 2}}).to_string()).await;
    peer.send(&json!({"id": one["id"], "error": {"code": -32000, "message": "no"}}).to_string()).await;
    peer.send(r#"{"id": 999, "result": {}}"#).await;
    assert_eq!(second.await.unwrap().unwrap(), json!({"n": 2}));
    let Err(Failure::Rpc(error)) = first.await.unwrap() else { panic!("an error") };
    assert_eq!(error.code, -32000);
}

#[tokio::test]
async fn a_question_holds_nothing_up_and_can_be_withdrawn() {
    let mut peer = peer();
    peer.send(r#"{"id":"q1","method":"ask","params":{"x":1}}"#).await;
    peer.send(r#"{"id":2,"method":"ask","params":{"x":2}}"#).await;
    peer.send(r#"{"method":"u","params":null}"#).await;
    let mut heard = vec![peer.heard().await, peer.heard().await, peer.heard().await];
    heard.sort();
    assert_eq!(heard, ["asked ask", "asked ask", "u null"]);
    peer.send(r#"{"method":"$/cancel_request","params":{"requestId":"q1"}}"#).await;
    let withdrawn = peer.receive().await;
    assert_eq!((&withdrawn["id"], &withdrawn["error"]["code"]), (&json!("q1"), &json!(-32800)));
    peer.permits.add_permits(1);
    let answer = peer.receive().await;
    assert_eq!((&answer["id"], &answer["result"]), (&json!(2), &json!({"x": 2})), "the id keeps its type");
    peer.send(r#"{"id":3,"method":"unknown"}"#).await;
    assert_eq!(peer.receive().await["error"]["code"], -32601);
}

#[tokio::test]
async fn the_end_answers_everyone() {
    let mut peer = peer();
    let connection = peer.connection.clone();
    let waiting = tokio::spawn(async move { connection.request("slow", json!({})).await });
    peer.receive().await;
    let error = ErrorDetail::new(ErrorReason::ProviderUnavailable, "gone");
    peer.connection.end(&error);
    let Err(Failure::Ended(ended)) = waiting.await.unwrap() else { panic!("the end") };
    assert_eq!(ended.message, "gone");
    let Err(Failure::Ended(_)) = peer.connection.request("late", json!({})).await else { panic!("the end") };
    drop(peer.agent);
    timeout(PATIENCE, peer.reader).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_forgotten_request_leaves_nothing_behind() {
    let mut peer = peer();
    let request = peer.connection.request("slow", json!({}));
    assert!(timeout(Duration::from_millis(1), request).await.is_err());
    let sent = peer.receive().await;
    assert!(peer.connection.state().waiting.is_empty());
    peer.send(&json!({"id": sent["id"], "result": {}}).to_string()).await;
    peer.send(r#"{"method":"u","params":1}"#).await;
    assert_eq!(peer.heard().await, "u 1");
}

#[tokio::test]
async fn a_line_without_end_is_refused() {
    let endless = tokio::io::repeat(b'x').take(MAX_LINE as u64 + 2);
    let mut line = Vec::new();
    let error = read_line(&mut BufReader::new(endless), &mut line).await.unwrap_err();
    assert!(error.to_string().contains("32 MiB"), "{error}");
}
