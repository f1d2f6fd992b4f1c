//! Watches and turns that survive cuts.

use super::*;
use crate::{ClientError, EventStream, ReconnectOptions, WatchOptions};

const LENGTH: i64 = 6;

async fn collect(stream: EventStream) -> (Vec<i64>, Option<ClientError>) {
    let mut sequences = Vec::new();
    let mut failed = None;
    let mut stream = stream;
    while let Some(item) = stream.next().await {
        assert!(failed.is_none(), "nothing follows an error");
        match item {
            Ok(event) => sequences.push(event.sequence),
            Err(error) => failed = Some(error),
        }
    }
    (sequences, failed)
}

fn until_end(after: i64) -> WatchOptions {
    WatchOptions { after: Some(after), until_turn_ends: "t".to_owned(), ..WatchOptions::default() }
}

fn log(from: i64) -> Vec<pb::SessionEvent> {
    (from..LENGTH).map(text).chain([ended(LENGTH)]).collect()
}

fn cursors(daemon: &Daemon) -> Vec<Option<i64>> {
    daemon.seen().iter().map(|seen| seen.decode::<pb::WatchSessionRequest>().after_sequence).collect()
}

#[tokio::test(start_paused = true)]
async fn at_every_cut_point_nothing_is_lost_or_repeated() {
    let unavailable = End::Status(Status::unavailable("gone"));
    let deadline = End::Status(Status::deadline_exceeded("a proxy's"));
    for end in [End::Broken, End::Bare, End::Silence, ok(), unavailable, deadline] {
        for cut in 0..LENGTH {
            let daemon = Daemon::default()
                .then(watched((1..=cut).map(text)), end.clone())
                .then(watched(log(cut + 1)), ok());
            let (sequences, error) = collect(daemon.client().await.watch("s", until_end(0))).await;
            assert!(error.is_none(), "{end:?} after {cut}: {error:?}");
            assert_eq!(sequences, (1..=LENGTH).collect::<Vec<_>>(), "{end:?} after {cut}");
            assert_eq!(cursors(&daemon), [Some(0), Some(cut)], "{end:?} after {cut}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_cuts_in_a_row_are_survived() {
    let mut daemon = Daemon::default();
    for sequence in 1..LENGTH {
        daemon = daemon.fails(Status::unavailable("not yet")).then(watched([text(sequence)]), End::Broken);
    }
    let daemon = daemon.then(watched(log(LENGTH)), ok());
    let (sequences, error) = collect(daemon.client().await.watch("s", until_end(0))).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(sequences, (1..=LENGTH).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_is_not_yielded_again_even_if_the_server_sends_it() {
    let daemon =
        Daemon::default().then(watched([text(1), text(2), text(2)]), End::Broken).then(watched(log(1)), ok());
    let (sequences, _) = collect(daemon.client().await.watch("s", until_end(0))).await;
    assert_eq!(sequences, (1..=LENGTH).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_followed_by_a_new_watch_and_a_deletion_is_the_end() {
    let daemon = Daemon::default()
        .then(watched([text(1), closing(1, pb::StreamCloseReason::Drain)]), ok())
        .then(watched([text(2), closing(2, pb::StreamCloseReason::SessionDeleted)]), ok());
    let options = WatchOptions { after: Some(0), ..WatchOptions::default() };
    let (sequences, error) = collect(daemon.client().await.watch("s", options)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(sequences, [1, 2, 2], "the last one tells of the deletion");
    assert_eq!(cursors(&daemon), [Some(0), Some(1)]);
}

#[tokio::test(start_paused = true)]
async fn checkpoints_are_passed_on_and_move_the_cursor() {
    let daemon =
        Daemon::default().then(watched([text(1), checkpoint(4)]), End::Broken).then(watched(log(5)), ok());
    let (sequences, _) = collect(daemon.client().await.watch("s", until_end(0))).await;
    assert_eq!(sequences, [1, 4, 5, 6]);
    assert_eq!(cursors(&daemon), [Some(0), Some(4)]);
}

#[tokio::test(start_paused = true)]
async fn from_now_on_means_now_even_if_the_first_stream_breaks() {
    let session = pb::Session { last_sequence: 4, ..Default::default() };
    let response = pb::GetSessionResponse { session: Some(session) };
    let daemon =
        Daemon::default().then([framed(&response)], ok()).then([], End::Broken).then(watched(log(5)), ok());
    let options = WatchOptions { after: None, ..until_end(0) };
    let (sequences, error) = collect(daemon.client().await.watch("s", options)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(sequences, [5, 6]);
    assert_eq!(cursors(&daemon)[1..], [Some(4), Some(4)]);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_is_too_old_is_told_and_not_repeated() {
    let compacted = failure(Code::OutOfRange, ErrorReason::SequenceCompacted, None);
    let daemon = Daemon::default().then(watched([text(1)]), End::Broken).fails(compacted);
    let (sequences, error) = collect(daemon.client().await.watch("s", until_end(0))).await;
    let error = error.unwrap();
    assert_eq!(sequences, [1]);
    assert!(error.is(ErrorReason::SequenceCompacted) && error.code == Code::OutOfRange, "{error:?}");
    assert_eq!(error.metadata["oldestSequence"], "7");
    assert_eq!(daemon.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_outage_has_an_end() {
    for (max_outage, attempts) in [(Duration::from_secs(30), 8..20), (Duration::ZERO, 1..2)] {
        let daemon = Daemon::default().then([], End::Broken);
        let mut options = ClientOptions::new("test/1");
        options.reconnect = ReconnectOptions { max_outage, ..ReconnectOptions::default() };
        let client = daemon.client_with(options).await;
        let begin = tokio::time::Instant::now();
        let (sequences, error) = collect(client.watch("s", until_end(0))).await;
        assert!(sequences.is_empty() && error.unwrap().is_transport_loss());
        assert!(begin.elapsed() <= max_outage, "{:?}", begin.elapsed());
        assert!(attempts.contains(&daemon.seen().len()), "{}", daemon.seen().len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_asks_to_wait_is_not_asked_before() {
    let pause = Duration::from_secs(9);
    let daemon = Daemon::default()
        .fails(failure(Code::Unavailable, ErrorReason::Overloaded, Some(pause)))
        .then(watched(log(1)), ok());
    let begin = tokio::time::Instant::now();
    let (sequences, _) = collect(daemon.client().await.watch("s", until_end(0))).await;
    assert_eq!(sequences.len(), 6);
    assert!(begin.elapsed() >= pause);
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_attached_to_again_under_the_same_id() {
    let turn = |daemon: &Daemon| -> Vec<pb::RunTurnRequest> {
        daemon.seen().iter().map(Seen::decode::<pb::RunTurnRequest>).collect()
    };
    // The daemon's answers name the turn only once its id is known.
    let daemon = Daemon::default().fails(Status::unavailable("not yet")).then([], End::Broken);
    let request = pb::RunTurnRequest { session_id: "s".to_owned(), ..Default::default() };
    let mut options = ClientOptions::new("test/1");
    options.reconnect.max_outage = Duration::from_millis(300);
    collect(daemon.client_with(options).await.run_turn(request.clone())).await;
    let seen = turn(&daemon);
    assert!(seen.len() > 1 && !seen[0].turn_id.is_empty());
    assert!(
        seen.iter().all(|request| request.turn_id == seen[0].turn_id && request.after_sequence.is_none())
    );

    let sent = |events: Vec<pb::SessionEvent>| {
        events
            .into_iter()
            .map(|event| framed(&pb::RunTurnResponse { event: Some(event) }))
            .collect::<Vec<_>>()
    };
    let daemon = Daemon::default()
        .then(sent(vec![text(11), text(12)]), End::Broken)
        .then(sent(vec![text(13), ended(14), text(15)]), End::Silence);
    let request = pb::RunTurnRequest { turn_id: "t".to_owned(), ..request };
    let (sequences, error) = collect(daemon.client().await.run_turn(request)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(sequences, [11, 12, 13, 14], "it ends with the turn, not with the stream");
    let seen = turn(&daemon);
    assert_eq!((seen[0].after_sequence, seen[1].after_sequence), (None, Some(12)));
}

#[tokio::test(start_paused = true)]
async fn a_refused_turn_is_not_tried_again() {
    let daemon = Daemon::default().fails(failure(Code::Unavailable, ErrorReason::StoreFull, None));
    let (_, error) = collect(daemon.client().await.run_turn(pb::RunTurnRequest::default())).await;
    assert!(error.unwrap().is(ErrorReason::StoreFull));
    assert_eq!(daemon.seen().len(), 1);
}

/// A daemon on a socket, and its connections as they come.
struct OnSocket {
    client: Client,
    connections: tokio::sync::mpsc::Receiver<tokio::task::JoinHandle<()>>,
    accepting: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

async fn on_socket(daemon: Daemon, options: ClientOptions) -> OnSocket {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (connected, connections) = tokio::sync::mpsc::channel(8);
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = tokio::spawn(serve_connection(stream, daemon.clone()));
            connected.send(connection).await.unwrap();
        }
    });
    let client = Client::connect(Endpoint::unix(&path), options).await.unwrap();
    OnSocket { client, connections, accepting, _directory: directory }
}

impl Drop for OnSocket {
    fn drop(&mut self) {
        self.accepting.abort();
        while let Ok(connection) = self.connections.try_recv() {
            connection.abort();
        }
    }
}

fn in_two_parts() -> Daemon {
    Daemon::default().then(watched([text(1), text(2)]), End::Silence).then(watched([text(3), ended(4)]), ok())
}

#[tokio::test]
async fn a_broken_socket_is_replaced() {
    let daemon = in_two_parts();
    let mut socket = on_socket(daemon.clone(), ClientOptions::new("test/1")).await;
    let mut events = socket.client.watch("s", until_end(0));
    let all = async {
        let mut sequences = Vec::new();
        while let Some(event) = events.next().await {
            sequences.push(event.unwrap().sequence);
            if sequences.len() == 2 {
                socket.connections.recv().await.unwrap().abort();
            }
        }
        sequences
    };
    let sequences = tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    assert_eq!(sequences, [1, 2, 3, 4]);
    assert_eq!(cursors(&daemon), [Some(0), Some(2)]);
    assert_eq!(socket.client.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_fell_silent_is_not_used_again() {
    let daemon = in_two_parts();
    let mut options = ClientOptions::new("test/1");
    options.reconnect.max_silence = Duration::from_millis(300);
    let mut socket = on_socket(daemon.clone(), options).await;
    let all = collect(socket.client.watch("s", until_end(0)));
    let (sequences, error) = tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    assert!(error.is_none(), "{error:?}");
    assert_eq!(sequences, [1, 2, 3, 4]);
    let mut connections = 0;
    while let Ok(connection) = socket.connections.try_recv() {
        connection.abort();
        connections += 1;
    }
    assert_eq!(connections, 2);
}
