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
    const TOKENS: usize = 100_000;
    const TURNS: u32 = 10;
    /// Were their events kept for the readers, it would be 20 × 10 × 1 MB.
    const READERS_MEMORY: u64 = 64 << 20;
    let root = daemon::new_root();
    let daemon = ChildDaemon::start(root.path()).await;
    let client = daemon.unix().await;
    let work = root.path().join("work");
    let (first, watched) = (
        events::create(&client, events::bare_session(&work)).await,
        events::create(&client, events::bare_session(&work)).await,
    );
    let burst = format!("burst {TOKENS}");
    // The same without readers, to compare with.
    events::complete(&client, &first, &burst).await;
    let (alone, grown_alone) = measured(&client, &daemon, &first, &burst, TURNS).await;
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
    let (while_stuck, grown) = measured(&client, &daemon, &watched, &burst, TURNS).await;
    let (elsewhere, _) = measured(&client, &daemon, &first, &burst, 1).await;
    eprintln!(
        "{READERS} stuck readers of {TURNS} × {TOKENS} tokens: {} KiB more, without readers {} KiB; a turn takes \
         {while_stuck:?}, alone {alone:?}, in another session {elsewhere:?}",
        grown / 1024,
        grown_alone / 1024
    );
    assert!(grown < grown_alone + READERS_MEMORY, "{grown} bytes with and {grown_alone} without readers");
    let slow = alone * 4 + Duration::from_secs(2);
    assert!(
        while_stuck < slow && elsewhere < slow,
        "alone {alone:?}, watched {while_stuck:?}, in another session {elsewhere:?}"
    );
    // A reader that wakes up has lost nothing.
    let (watch, reader) = stuck.pop().expect("a reader");
    let mut watch = watch.into_inner();
    let mut seen = Vec::new();
    within(Duration::from_secs(30), "a reader to catch up", async {
        let mut ends = 0;
        while ends < TURNS {
            let event = watch.message().await.expect("an event").expect("no end").event.expect("an event");
            ends += u32::from(matches!(event.payload, Some(pb::session_event::Payload::TurnEnded(_))));
            seen.push(event);
        }
    })
    .await;
    let seen = events::logged(&seen);
    let log = events::log(&reader, &watched).await;
    events::assert_same("the late reader", &seen, &log[..seen.len()]);
    drop(stuck);
    daemon.finish().await;
}

/// Time per turn, and by how much the daemon grew over all of them.
async fn measured(
    client: &Client,
    daemon: &ChildDaemon,
    session_id: &str,
    prompt: &str,
    turns: u32,
) -> (Duration, u64) {
    let before = processes::resident_bytes(daemon.pid());
    let start = Instant::now();
    for _ in 0..turns {
        events::complete(client, session_id, prompt).await;
    }
    let grown = processes::resident_bytes(daemon.pid()).saturating_sub(before);
    (start.elapsed() / turns, grown)
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
