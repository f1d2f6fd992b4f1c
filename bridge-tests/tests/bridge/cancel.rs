//! Cancelling: the turn has ended within a second, its processes are gone within two, what was produced is kept.

use std::time::{Duration, Instant};

use gander_bridge_tests::{TestDaemon, events, pb, processes, unique_digits};
use gander_client::{Client, EventStream};
use pb::{SessionEvent, ToolCallStatus, TurnState, session_event::Payload};

/// The promise is one second; a machine that runs eight tests at a time gets some more. The measured time is printed.
const ENDED: Duration = Duration::from_secs(2);
const GONE: Duration = Duration::from_secs(2);

struct Cancelled {
    at: Instant,
    seen: Vec<SessionEvent>,
    turn: pb::Turn,
}

/// Cancels and waits for the end.
async fn cancel(
    client: &Client,
    stream: &mut EventStream,
    mut seen: Vec<SessionEvent>,
    what: &str,
) -> Cancelled {
    let first = seen.iter().find(|event| !event.turn_id.is_empty()).expect("a turn");
    let (session_id, turn_id) = (first.session_id.clone(), first.turn_id.clone());
    let at = Instant::now();
    events::cancel(client, &session_id, &turn_id).await;
    events::until(stream, &mut seen, "the end", |payload| matches!(payload, Payload::TurnEnded(_))).await;
    let took = at.elapsed();
    eprintln!("cancel {what}: ended after {took:?}");
    assert!(took < ENDED, "{what}: ended after {took:?}");
    let log: Vec<_> =
        events::log(client, &session_id).await.into_iter().filter(|event| event.turn_id == turn_id).collect();
    let ended = events::all_ended(&log);
    assert_eq!(ended.len(), 1, "{what}: exactly one terminal event");
    let turn = ended[0].clone();
    assert_eq!(turn.state(), TurnState::Cancelled, "{what}");
    let requested =
        log.iter().filter(|event| matches!(event.payload, Some(Payload::TurnCancelRequested(_)))).count();
    assert_eq!(requested, 1, "{what}");
    let started = log.iter().filter_map(|event| match &event.payload {
        Some(Payload::ItemStarted(started)) => started.item.as_ref().map(|item| item.item_id.clone()),
        _ => None,
    });
    let completed = events::completed_items(&log);
    for item_id in started {
        let count = completed.iter().filter(|item| item.item_id == item_id).count();
        assert_eq!(count, 1, "{what}: {item_id} is completed once");
    }
    // Again is fine and changes nothing.
    events::cancel(client, &session_id, &turn_id).await;
    assert_eq!(events::all_ended(&events::log(client, &session_id).await).len(), 1);
    Cancelled { at, seen: log, turn }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_the_model_stream_what_was_said_is_kept() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    events::start(&client, &session_id, "slow 5000").await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(
        &mut stream,
        &mut seen,
        "some text",
        |payload| matches!(payload, Payload::TextDelta(delta) if delta.text.contains("tok-10")),
    )
    .await;
    let cancelled = cancel(&client, &mut stream, seen, "during the model stream").await;
    let deltas: String = cancelled
        .seen
        .iter()
        .filter_map(|event| match &event.payload {
            Some(Payload::TextDelta(delta)) => Some(delta.text.as_str()),
            _ => None,
        })
        .collect();
    assert!(deltas.contains("tok-10"));
    let said = events::completed_items(&cancelled.seen).pop().expect("an item");
    assert!(said.incomplete, "it was cut short");
    assert_eq!(events::agent_text(&cancelled.seen), deltas, "what was produced is kept");
    assert!(cancelled.turn.error.is_none());
    // The session goes on.
    events::complete(&client, &session_id, "say on we go").await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_tool_its_whole_tree_goes() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    let mark = unique_digits();
    // A child, a grandchild whose parent has gone, one in a session of its own, one that ignores SIGTERM.
    let command = format!(
        "echo before; sleep 300.{mark} & (sleep 301.{mark} &) ; setsid sleep 302.{mark} & \
         (trap '' TERM; exec sleep 303.{mark}) & setsid sh -c 'sleep 304.{mark} & sleep 305.{mark}' & \
         echo started; wait"
    );
    events::start(&client, &session_id, &events::shell(&command)).await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(
        &mut stream,
        &mut seen,
        "output",
        |payload| matches!(payload, Payload::ToolOutputDelta(delta) if delta.text.contains("started")),
    )
    .await;
    // Six sleeps, and the shells and supervisor around them.
    processes::appear(&format!("305.{mark}"), 1).await;
    processes::appear(&mark, 7).await;
    let cancelled = cancel(&client, &mut stream, seen, "during a tool").await;
    let took = processes::are_gone(&mark, cancelled.at, GONE).await;
    eprintln!("cancel during a tool: all processes gone after {took:?}");
    let calls = events::tool_calls(&cancelled.seen);
    assert_eq!(calls[0].status(), ToolCallStatus::Cancelled, "{calls:?}");
    events::complete(&client, &session_id, &events::shell("echo again")).await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_parallel_tools_all_of_them_go() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    let mark = unique_digits();
    let one = |n: u32| format!("developer__shell={{\"command\":\"sleep {n}.{mark}\"}}");
    let prompt = format!("parallel {} {} {}", one(300), one(301), one(302));
    events::start(&client, &session_id, &prompt).await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(&mut stream, &mut seen, "the start", |payload| matches!(payload, Payload::TurnStarted(_)))
        .await;
    for n in 300..303 {
        processes::appear(&format!("{n}.{mark}"), 1).await;
    }
    let cancelled = cancel(&client, &mut stream, seen, "during three tools").await;
    processes::are_gone(&mark, cancelled.at, GONE).await;
    let calls = events::tool_calls(&cancelled.seen);
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|call| call.status() == ToolCallStatus::Cancelled), "{calls:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_question_it_is_voided() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let request = pb::CreateSessionRequest {
        mode: Some(pb::SessionMode::Approve as i32),
        ..events::new_session(&daemon.work())
    };
    let session_id = events::create(&client, request).await;
    events::start(&client, &session_id, &events::shell("touch forbidden")).await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(&mut stream, &mut seen, "a question", |payload| {
        matches!(payload, Payload::InteractionRequested(_))
    })
    .await;
    let cancelled = cancel(&client, &mut stream, seen, "during a question").await;
    let outcomes: Vec<_> = cancelled
        .seen
        .iter()
        .filter_map(|event| match &event.payload {
            Some(Payload::InteractionResolved(resolved)) => Some(resolved.outcome()),
            _ => None,
        })
        .collect();
    assert_eq!(outcomes, [pb::InteractionOutcome::Voided]);
    assert!(!daemon.work().join("forbidden").exists());
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_direct_call_ends_its_processes() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    let mark = unique_digits();
    let request = pb::CallToolRequest {
        session_id,
        name: "developer__shell".into(),
        arguments_json: format!("{{\"command\": \"echo on; setsid sleep 300.{mark} & sleep 301.{mark}\"}}"),
        ..Default::default()
    };
    let stream = client.tools().call_tool(request).await.expect("a call");
    processes::appear(&format!("300.{mark}"), 1).await;
    drop(stream);
    processes::are_gone(&mark, Instant::now(), GONE + Duration::from_secs(1)).await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_known_who_cancelled() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let (turn_id, _) = events::start(&client, &session_id, "slow 5000").await;
    events::cancel(&client, &session_id, &turn_id).await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(&mut stream, &mut seen, "the end", |payload| matches!(payload, Payload::TurnEnded(_)))
        .await;
    let by = events::ended(&seen).expect("its end").cancelled_by.expect("who cancelled");
    assert_eq!(by.client_name, "bridge-tests");
    drop(stream);
    daemon.finish().await;
}
