//! A drain ends in time, whatever is open.

use std::time::Duration;

use gander_bridge_tests::{
    ChildDaemon, TestDaemon, connect, daemon, events, pb, processes, unique_digits, within,
};
use gander_client::{Client, Endpoint};
use pb::{TurnState, session_event::Payload};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

const GRACE: Duration = Duration::from_millis(500);
/// Grace, the kill of what is stuck, and a busy machine.
const LIMIT: Duration = Duration::from_secs(5);

/// Stops the daemon, looks at the log with a new one, and gives it back.
async fn restarted(daemon: TestDaemon, client: &Client, what: &str) -> TestDaemon {
    let (root, took) = daemon.stop(client, GRACE).await;
    eprintln!("drain with {what}: {took:?}");
    assert!(took < LIMIT, "drain with {what}: {took:?}");
    TestDaemon::start_in(root, |_| {}).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_open_watch() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let request = pb::WatchSessionRequest { session_id, after_sequence: Some(0), ..Default::default() };
    let mut watch = client.sessions().watch_session(request).await.expect("a watch").into_inner();
    let stopper = daemon.unix().await;
    let closing = tokio::spawn(async move {
        let mut last = None;
        while let Some(message) = watch.message().await.expect("an orderly end") {
            last = message.event;
        }
        last
    });
    let daemon = restarted(daemon, &stopper, "an open watch").await;
    let last = within(LIMIT, "the watch's end", closing).await.expect("the watcher").expect("a last event");
    let Some(Payload::StreamClosing(closing)) = last.payload else { panic!("{last:?}") };
    assert_eq!(closing.reason(), pb::StreamCloseReason::Drain);
    assert!(closing.retry_after.is_some());
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_idle_socket() {
    let daemon = TestDaemon::start().await;
    let mut silent = TcpStream::connect(daemon.ready().tcp.expect("a port")).await.expect("a connection");
    let idle = daemon.tcp().await;
    idle.sessions().list_sessions(pb::ListSessionsRequest::default()).await.expect("a call");
    let stopper = daemon.unix().await;
    let daemon = restarted(daemon, &stopper, "a silent and an idle connection").await;
    let mut buffer = [0; 64];
    let end = within(LIMIT, "the silent connection's end", silent.read(&mut buffer)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    drop(idle);
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_stuck_tool() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    let mark = unique_digits();
    let command = format!("trap '' TERM INT HUP; sleep 300.{mark}; sleep 301.{mark}");
    let (turn_id, _) = events::start(&client, &session_id, &events::shell(&command)).await;
    processes::appear(&format!("300.{mark}"), 2).await;
    let daemon = restarted(daemon, &client, "a stuck tool").await;
    processes::are_gone(&mark, std::time::Instant::now(), Duration::from_secs(2)).await;
    ended_as(&daemon, &session_id, &turn_id, pb::InterruptCause::Drain).await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_pending_question() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let request = pb::CreateSessionRequest {
        mode: Some(pb::SessionMode::Approve as i32),
        ..events::new_session(&daemon.work())
    };
    let session_id = events::create(&client, request).await;
    let (turn_id, _) = events::start(&client, &session_id, &events::shell("echo x")).await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(&mut stream, &mut seen, "a question", |payload| {
        matches!(payload, Payload::InteractionRequested(_))
    })
    .await;
    drop(stream);
    let daemon = restarted(daemon, &client, "a pending question").await;
    ended_as(&daemon, &session_id, &turn_id, pb::InterruptCause::Drain).await;
    let client = daemon.unix().await;
    let list = pb::ListInteractionsRequest { session_id, ..Default::default() };
    let pending =
        client.interactions().list_interactions(list).await.expect("a list").into_inner().interactions;
    assert!(pending.is_empty(), "nobody asks any more: {pending:?}");
    daemon.finish().await;
}

async fn ended_as(daemon: &TestDaemon, session_id: &str, turn_id: &str, cause: pb::InterruptCause) {
    let client = daemon.unix().await;
    let log = events::log(&client, session_id).await;
    let ended = events::all_ended(&log);
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(ended[0].turn_id, turn_id);
    assert_eq!(ended[0].state(), TurnState::Interrupted);
    assert_eq!(ended[0].interrupt_cause(), cause);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_may_finish_within_the_grace_period() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    events::start(&client, &session_id, "slow 30").await;
    let (root, _) = daemon.stop(&client, Duration::from_secs(10)).await;
    let daemon = TestDaemon::start_in(root, |_| {}).await;
    let client = daemon.unix().await;
    let ended = events::ended(&events::log(&client, &session_id).await).expect("its end");
    assert_eq!(ended.state(), TurnState::Completed, "{ended:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_stops_a_daemon_with_everything_open() {
    let root = daemon::new_root();
    let daemon = ChildDaemon::start(root.path()).await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&root.path().join("work"))).await;
    events::start(&client, &session_id, "slow 20").await;
    let mut watch = events::watch(&client, &session_id, 0);
    events::until(&mut watch, &mut Vec::new(), "the end", |payload| matches!(payload, Payload::TurnEnded(_)))
        .await;
    let _silent = TcpStream::connect(daemon.tcp()).await.expect("a connection");
    let socket = daemon.socket().to_owned();
    let status = daemon.terminate(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0));
    assert!(connect(Endpoint::unix(&socket), None).await.is_err(), "nobody listens any more");
}
