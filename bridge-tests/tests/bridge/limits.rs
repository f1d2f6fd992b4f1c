//! Load: a reader that does not read, and a thousand sessions.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use gander::daemon::Embedded;
use gander_bridge_tests::{ChildDaemon, TestDaemon, connect, daemon, events, pb, processes, within};
use gander_client::Client;
use pb::TurnState;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_reader_costs_little_and_slows_nobody() {
    const READERS: usize = 20;
    const TOKENS: usize = 30_000;
    let root = daemon::new_root();
    let daemon = ChildDaemon::start(root.path()).await;
    let client = daemon.unix().await;
    let work = root.path().join("work");
    let (watched, other) = (
        events::create(&client, events::bare_session(&work)).await,
        events::create(&client, events::bare_session(&work)).await,
    );
    let burst = format!("burst {TOKENS}");
    // Once without readers: warm, and the time to compare with.
    let start = Instant::now();
    events::complete(&client, &other, &burst).await;
    let alone = start.elapsed();
    let before = processes::resident_bytes(daemon.pid());
    let mut stuck = Vec::new();
    for _ in 0..READERS {
        // A connection of its own each, so that each fills its own window; never polled.
        let reader = daemon.unix().await;
        let request = pb::WatchSessionRequest {
            session_id: watched.clone(),
            after_sequence: Some(0),
            ..Default::default()
        };
        stuck.push((reader.sessions().watch_session(request).await.expect("a watch"), reader));
    }
    let start = Instant::now();
    events::complete(&client, &watched, &burst).await;
    let while_stuck = start.elapsed();
    let start = Instant::now();
    events::complete(&client, &other, &burst).await;
    let elsewhere = start.elapsed();
    let grown = processes::resident_bytes(daemon.pid()).saturating_sub(before);
    eprintln!(
        "{READERS} stuck readers of {TOKENS} tokens: {} KiB more; alone {alone:?}, watched {while_stuck:?}, elsewhere \
         {elsewhere:?}",
        grown / 1024
    );
    assert!(grown < 96 * 1024 * 1024, "grew by {grown} bytes");
    let slow = alone * 4 + Duration::from_secs(2);
    assert!(
        while_stuck < slow && elsewhere < slow,
        "alone {alone:?}, watched {while_stuck:?}, elsewhere {elsewhere:?}"
    );
    // A reader that wakes up has lost nothing.
    let (watch, reader) = stuck.pop().expect("a reader");
    let mut watch = watch.into_inner();
    let mut seen = Vec::new();
    within(Duration::from_secs(30), "a reader to catch up", async {
        loop {
            let event = watch.message().await.expect("an event").expect("no end").event.expect("an event");
            let ended = matches!(event.payload, Some(pb::session_event::Payload::TurnEnded(_)));
            seen.push(event);
            if ended {
                return;
            }
        }
    })
    .await;
    let seen = events::logged(&seen);
    let log = events::log(&reader, &watched).await;
    events::assert_same("the late reader", &seen, &log[..seen.len()]);
    drop(stuck);
    daemon.finish().await;
}

/// Creates sessions and runs a turn in each, all at the same time.
async fn thousand(client: &Client, directory: &std::path::Path) -> Duration {
    const SESSIONS: usize = 1000;
    let start = Instant::now();
    let one = |_| {
        let (client, request) = (client.clone(), events::bare_session(directory));
        async move {
            let created =
                client.sessions().create_session(request).await.map_err(|status| status.to_string())?;
            let session_id = created.into_inner().session.ok_or("no session")?.session_id;
            let mut stream = client.run_turn(events::run_request(events::turn(&session_id, "burst 20")));
            let mut last = None;
            while let Some(event) = stream.next().await {
                last = Some(event.map_err(|error| format!("{error:?}"))?);
            }
            let ended = last.as_ref().and_then(|event| events::ended(std::slice::from_ref(event)));
            match ended {
                Some(turn) if turn.state() == TurnState::Completed => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    };
    let all = futures::future::join_all((0..SESSIONS).map(one));
    let outcomes: Vec<Result<(), String>> = within(Duration::from_secs(120), "a thousand turns", all).await;
    let failed: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of {SESSIONS} failed: {:?}", failed.len(), failed.first());
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_over_tcp() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let took = thousand(&client, &daemon.work()).await;
    eprintln!("1,000 sessions with a turn each over TCP: {took:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_in_process() {
    let root = daemon::new_root();
    let embedded = Embedded::start(daemon::options(root.path())).await.expect("an engine");
    let client = connect(embedded.endpoint(), None).await.expect("a client");
    let took = thousand(&client, &root.path().join("work")).await;
    eprintln!("1,000 sessions with a turn each in process: {took:?}");
    events::check_store(&client).await;
    embedded.stop().await;
}
