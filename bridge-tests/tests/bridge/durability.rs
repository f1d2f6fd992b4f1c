//! Kill -9 at random moments: what a client saw is there after the restart, nothing comes twice, and what ran is told as
//! interrupted.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use gander_bridge_tests::{
    ChildDaemon, child, daemon::new_root, events, eventually, pb, processes, unique_digits,
};
use gander_client::Client;
use pb::{ItemState, SessionEvent, ToolCallStatus, TurnState, session_event::Payload};
use rand::RngExt as _;
use tokio::task::JoinHandle;

const ROUNDS: usize = 9;
const TIME: Duration = Duration::from_secs(38);

/// A watcher that records all it sees, over as many daemons as it takes.
struct Watcher {
    session_id: String,
    seen: Arc<Mutex<Vec<SessionEvent>>>,
    task: JoinHandle<()>,
}

impl Watcher {
    fn new(client: &Client, session_id: &str) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut stream = events::watch(client, session_id, 0);
        let record = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(event) = stream.next().await {
                let event = event.expect("a watch survives the death of its daemon");
                if events::is_logged(&event) {
                    record.lock().expect("lock").push(event);
                }
            }
        });
        Self { session_id: session_id.to_owned(), seen, task }
    }

    fn count(&self) -> usize {
        self.seen.lock().expect("lock").len()
    }

    fn seen(&self) -> Vec<SessionEvent> {
        self.seen.lock().expect("lock").clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What one round started.
struct Round {
    turns: Vec<(String, String)>,
    mark: String,
}

/// One turn of each kind, a different session for each.
async fn start_turns(client: &Client, sessions: &[String], round: usize) -> Round {
    let mark = unique_digits();
    let tool = events::shell(&format!(
        "for i in $(seq 40); do echo line $i; sleep 0.01; done; setsid sleep 300.{mark} & sleep 301.{mark}"
    ));
    let prompts =
        ["slow 2000".to_owned(), "burst 40000".to_owned(), tool, "parallel list list list".to_owned()];
    let mut turns = Vec::new();
    for (at, session_id) in sessions.iter().enumerate() {
        let prompt = &prompts[(at + round) % prompts.len()];
        let (turn_id, _) = events::start(client, session_id, prompt).await;
        turns.push((session_id.clone(), turn_id));
    }
    Round { turns, mark }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_takes_nothing_back() {
    let started = Instant::now();
    let root = new_root();
    let mut daemon = ChildDaemon::start(root.path()).await;
    // One client for all daemons: it finds each new one at the same socket.
    let client = daemon.unix().await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(events::create(&client, events::new_session(&root.path().join("work"))).await);
    }
    let watchers: Vec<Watcher> =
        sessions.iter().chain(&sessions).map(|session_id| Watcher::new(&client, session_id)).collect();
    let total = || watchers.iter().map(Watcher::count).sum::<usize>();
    let (mut kills, mut interrupted, mut unknown) = (0, 0, 0);
    let mut all_turns = Vec::new();
    while kills < ROUNDS && started.elapsed() < TIME {
        let round = start_turns(&client, &sessions, kills).await;
        let enough = total() + rand::rng().random_range(1..600);
        eventually(Duration::from_secs(10), "events to be seen", || async {
            (total() >= enough).then_some(())
        })
        .await;
        daemon.kill().await;
        processes::are_gone(&round.mark, Instant::now(), Duration::from_secs(2)).await;
        let before: Vec<_> = watchers.iter().map(Watcher::seen).collect();
        let doctor = child::run(root.path(), &["doctor"]).await;
        assert_eq!(doctor.code, Some(0), "after kill {kills}: {doctor:?}");
        daemon = ChildDaemon::start(root.path()).await;
        kills += 1;
        for (watcher, before) in watchers.iter().zip(&before) {
            let log = events::log(&client, &watcher.session_id).await;
            events::assert_increasing("the log", &log);
            let until = before.last().map_or(0, |last| last.sequence);
            let kept: Vec<_> = log.iter().filter(|event| event.sequence <= until).cloned().collect();
            events::assert_same(&format!("what was seen before kill {kills}"), before, &kept);
            caught_up(watcher, &log).await;
        }
        for (session_id, turn_id) in &round.turns {
            let found = check_turn(&client, session_id, turn_id).await;
            interrupted += usize::from(found.interrupted);
            unknown += usize::from(found.unknown);
        }
        all_turns.extend(round.turns);
    }
    assert!(kills >= 8, "only {kills} kills in {TIME:?}: the machine is too slow to tell anything");
    for session_id in &sessions {
        let log = events::log(&client, session_id).await;
        let ended = events::all_ended(&log);
        let wanted = all_turns.iter().filter(|(session, _)| session == session_id).count();
        assert_eq!(ended.len(), wanted, "every turn has ended once");
        events::complete(&client, session_id, "say still alive").await;
    }
    eprintln!(
        "{kills} kills, {} events seen, {interrupted} turns interrupted, {unknown} tools unknown, {:?}",
        total(),
        started.elapsed()
    );
    assert!(interrupted >= kills && unknown > 0, "the kills hit running turns and tools");
    drop(watchers);
    daemon.finish().await;
}

/// A watch that was cut goes on without a gap or a repeat, up to the end of this log.
async fn caught_up(watcher: &Watcher, log: &[SessionEvent]) {
    let last = log.last().expect("a log").sequence;
    let seen = eventually(Duration::from_secs(10), "a watch to come back", || async {
        let seen = watcher.seen();
        seen.last().is_some_and(|event| event.sequence >= last).then_some(seen)
    })
    .await;
    let seen: Vec<_> = seen.into_iter().filter(|event| event.sequence <= last).collect();
    events::assert_same("a resumed watch", &seen, log);
}

/// What became of a turn.
struct Found {
    interrupted: bool,
    unknown: bool,
}

/// The turn has ended once; if the daemon died in it, it is interrupted and a running tool's outcome is unknown.
async fn check_turn(client: &Client, session_id: &str, turn_id: &str) -> Found {
    let log = events::log(client, session_id).await;
    let of_turn: Vec<_> = log.into_iter().filter(|event| event.turn_id == turn_id).collect();
    let ended = events::all_ended(&of_turn);
    assert_eq!(ended.len(), 1, "{turn_id} has exactly one end");
    let state = ended[0].state();
    assert!(matches!(state, TurnState::Interrupted | TurnState::Completed), "{:?}", ended[0]);
    let items = events::completed_items(&of_turn);
    assert!(items.iter().all(|item| item.state() == ItemState::Completed));
    let calls = events::tool_calls(&of_turn);
    let interrupted = state == TurnState::Interrupted;
    let unknown = calls.iter().any(|call| call.status() == ToolCallStatus::OutcomeUnknown);
    if interrupted {
        assert_eq!(ended[0].interrupt_cause(), pb::InterruptCause::Restart);
        let ran = of_turn.iter().any(|event| is_running(event) && !is_answered(&of_turn, event));
        assert!(!ran || unknown, "a running tool's outcome is unknown: {calls:?}");
    }
    Found { interrupted, unknown }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turns_stream_outlives_its_daemon() {
    let root = new_root();
    let daemon = ChildDaemon::start(root.path()).await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&root.path().join("work"))).await;
    let mut stream = client.run_turn(events::run_request(events::turn(&session_id, "slow 5000")));
    let mut seen = Vec::new();
    events::until(
        &mut stream,
        &mut seen,
        "some text",
        |payload| matches!(payload, Payload::TextDelta(delta) if delta.text.contains("tok-20")),
    )
    .await;
    daemon.kill().await;
    let daemon = ChildDaemon::start(root.path()).await;
    events::until(&mut stream, &mut seen, "the end", |payload| matches!(payload, Payload::TurnEnded(_)))
        .await;
    let seen = events::logged(&seen);
    let ended = events::ended(&seen).expect("its end");
    assert_eq!(
        (ended.state(), ended.interrupt_cause()),
        (TurnState::Interrupted, pb::InterruptCause::Restart)
    );
    let log = events::log(&client, &session_id).await;
    let from = seen[0].sequence;
    let log: Vec<_> = log.into_iter().filter(|event| event.sequence >= from).collect();
    events::assert_same("the stream over both daemons", &seen, &log);
    let said = events::completed_items(&seen).pop().expect("an item");
    assert!(said.incomplete, "what had arrived is kept, and marked");
    assert!(events::agent_text(&seen).contains("tok-20"));
    daemon.finish().await;
}

fn is_running(event: &SessionEvent) -> bool {
    matches!(&event.payload, Some(Payload::ToolCallUpdated(updated))
        if updated.tool_call.as_ref().is_some_and(|call| call.status() == ToolCallStatus::Running))
}

/// Whether the tool of this event gave a result that was stored.
fn is_answered(events: &[SessionEvent], running: &SessionEvent) -> bool {
    let Some(Payload::ToolCallUpdated(updated)) = &running.payload else { return false };
    events::completed_items(events).iter().any(|item| {
        let Some(pb::item::Body::ToolCall(call)) = &item.body else { return false };
        item.item_id == updated.item_id && call.status() != ToolCallStatus::OutcomeUnknown
    })
}
