//! A drain ends in time, whatever is open.

use std::time::Instant;

use gander_proto::v1::watch_server_response::Payload;
use tokio::net::UnixStream;

use super::*;
use crate::DrainReport;

const LONG: Duration = Duration::from_secs(15);
const SHORT: Duration = Duration::from_millis(100);
const CLEAN: DrainReport = DrainReport { cut: 0, stuck: 0 };

#[tokio::test]
async fn an_open_watch_is_told_and_ends_by_itself() {
    let daemon = unix(Options::default()).await;
    let client = client(&daemon.endpoint, None).await;
    let mut events = client.system().watch_server(watch()).await.unwrap().into_inner();
    soon(events.next()).await.unwrap().unwrap();
    let (report, last) = tokio::join!(soon(daemon.server.drain(LONG)), soon(events.next()));
    let last = last.unwrap().unwrap();
    assert!(matches!(last.payload, Some(Payload::StreamClosing(_))));
    assert!(soon(events.next()).await.is_none(), "and then it ends with OK");
    assert_eq!(report, CLEAN);
    assert!(!daemon.path.exists(), "the socket's file is gone");
}

#[tokio::test]
async fn silent_sockets_do_not_hold_it_up() {
    let daemon = unix(Options::default()).await;
    let mut silent = UnixStream::connect(&daemon.path).await.unwrap();
    let mut halfway = UnixStream::connect(&daemon.path).await.unwrap();
    halfway.write_all(b"PRI * HT").await.unwrap();
    // The third connection is served, so the first two have been accepted.
    client(&daemon.endpoint, None).await.system().get_server_info(info()).await.unwrap();
    let begin = Instant::now();
    assert_eq!(soon(daemon.server.drain(LONG)).await, CLEAN);
    assert!(begin.elapsed() < LONG / 2);
    assert_eq!(soon(silent.read(&mut [0; 8])).await.unwrap_or(0), 0);
    assert_eq!(soon(halfway.read(&mut [0; 8])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_stuck_handler_is_cut_at_the_deadline() {
    let mut daemon = unix(Options::default()).await;
    let client = client(&daemon.endpoint, None).await;
    let call = tokio::spawn(async move { client.stuck_call().await });
    soon(daemon.heard.recv()).await.unwrap();
    let begin = Instant::now();
    let report = soon(daemon.server.drain(SHORT)).await;
    assert!(report.cut > 0 && report.stuck == 0, "{report:?}");
    assert!(begin.elapsed() >= SHORT);
    assert!(soon(call).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_does_not_hold_it_up() {
    let (open_gate, gate) = std::sync::mpsc::channel();
    let mut daemon = unix_for(front_behind(gate, Options::default())).await;
    let mut client = raw(&daemon.path).await;
    let call = tokio::spawn(async move { client.get_server_info(told(info(), "block")).await.map(|_| ()) });
    soon(daemon.heard.recv()).await.unwrap();
    let report = soon(daemon.server.drain(SHORT)).await;
    // Its connection may be stuck with it, waiting for the same thread of the runtime.
    assert!((1..=2).contains(&report.stuck), "{report:?}");
    drop(open_gate);
    assert!(soon(call).await.unwrap().is_err());
}

#[tokio::test]
async fn an_open_question_is_cut_at_the_deadline() {
    let daemon = unix(Options::default()).await;
    let client = client(&daemon.endpoint, None).await;
    let mut events = client.system().watch_server(told(watch(), "question")).await.unwrap().into_inner();
    soon(events.next()).await.unwrap().unwrap();
    let report = soon(daemon.server.drain(SHORT)).await;
    assert!(report.cut > 0 && report.stuck == 0, "{report:?}");
    assert!(soon(events.next()).await.unwrap().is_err());
}

#[tokio::test]
async fn idle_http_connections_are_closed() {
    let (server, address, _heard) = tcp(with_token()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /hello HTTP/1.1\r\nhost: localhost\r\nx-secret-key: {TOKEN}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        soon(stream.read_buf(&mut answer)).await.unwrap();
    }
    let metrics = server.front.clone();
    assert_eq!(soon(server.drain(LONG)).await, CLEAN);
    assert_eq!(soon(stream.read(&mut [0; 8])).await.unwrap(), 0);
    assert!(metrics.metrics_text().contains("gander_connections_open 0"));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_dropped_server_leaves_nothing_behind() {
    let mut daemon = unix(Options::default()).await;
    let client = client(&daemon.endpoint, None).await;
    let call = tokio::spawn(async move { client.stuck_call().await });
    soon(daemon.heard.recv()).await.unwrap();
    drop(daemon.server);
    assert!(soon(call).await.unwrap().is_err());
}

/// A call that the stub never answers, tried once.
trait Stuck {
    async fn stuck_call(&self) -> Result<(), Status>;
}

impl Stuck for Client {
    async fn stuck_call(&self) -> Result<(), Status> {
        let mut request = told(info(), "stuck");
        request.set_timeout(Duration::from_secs(19));
        self.system().get_server_info(request).await.map(|_| ())
    }
}
