//! A watcher that comes back misses nothing and sees nothing twice, wherever it was cut; and a stream's life is not a
//! turn's life.

use std::time::Duration;

use futures::StreamExt as _;
use gander_bridge_tests::{TestDaemon, events, pb, soon};
use gander_client::{Client, WatchOptions};
use pb::{SessionEvent, TurnState, session_event::Payload};

/// What one plain watch gives: up to `count` logged events, or up to "caught up".
async fn part(client: &Client, session_id: &str, after: i64, count: usize) -> Vec<SessionEvent> {
    let request = pb::WatchSessionRequest {
        session_id: session_id.to_owned(),
        after_sequence: Some(after),
        ..Default::default()
    };
    let mut stream =
        soon("WatchSession", client.sessions().watch_session(request)).await.expect("a watch").into_inner();
    let mut seen = Vec::new();
    soon("events", async {
        while seen.len() < count {
            let event = stream.message().await.expect("an event").expect("no end").event.expect("an event");
            if events::is_caught_up(&event) {
                return;
            }
            if events::is_logged(&event) {
                seen.push(event);
            }
        }
    })
    .await;
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cut_point_gives_the_log() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    events::complete(&client, &session_id, "parallel list developer__shell={\"command\":\"echo a; echo b\"}")
        .await;
    let log = events::log(&client, &session_id).await;
    assert!(log.len() > 20, "{} events", log.len());
    for k in 0..=log.len() {
        let mut seen = part(&client, &session_id, 0, k).await;
        assert_eq!(seen.len(), k);
        let cursor = seen.last().map_or(0, |event| event.sequence);
        seen.extend(part(&client, &session_id, cursor, usize::MAX).await);
        events::assert_same(&format!("cut at {k}"), &seen, &log);
    }
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_cut_after_every_event_of_a_running_turn_gives_the_log() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let (turn_id, _) = events::start(&client, &session_id, "slow 60").await;
    let mut seen = Vec::new();
    loop {
        let cursor = seen.last().map_or(0, |event: &SessionEvent| event.sequence);
        let next = part(&client, &session_id, cursor, 1).await;
        if next.is_empty() {
            // Caught up: wait for what comes, on a stream that resumes by itself.
            let mut stream = events::watch(&client, &session_id, cursor);
            let mut until_then = Vec::new();
            let event = events::until(&mut stream, &mut until_then, "the next event", |payload| {
                !matches!(payload, Payload::Checkpoint(_))
            });
            seen.push(event.await);
        }
        seen.extend(next);
        if events::ended(&seen).is_some_and(|turn| turn.turn_id == turn_id) {
            break;
        }
    }
    let log = events::log(&client, &session_id).await;
    let seen_until = seen.last().expect("events").sequence;
    let log: Vec<_> = log.into_iter().filter(|event| event.sequence <= seen_until).collect();
    events::assert_same("cut after every event", &seen, &log);
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_can_leave_out_deltas_and_end_with_a_turn() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let (turn_id, sequence) = events::start(&client, &session_id, "slow 20").await;
    let options =
        WatchOptions { after: Some(sequence - 1), exclude_deltas: true, until_turn_ends: turn_id.clone() };
    let seen: Vec<_> =
        soon("the watch to end with the turn", client.watch(&session_id, options).collect::<Vec<_>>())
            .await
            .into_iter()
            .map(|event| event.expect("an event"))
            .collect();
    assert!(seen.iter().any(events::is_caught_up), "a watcher is told that it caught up");
    let seen = events::logged(&seen);
    let ignorable =
        seen.iter().find(|event| event.ignorable || matches!(event.payload, Some(Payload::TextDelta(_))));
    assert!(ignorable.is_none(), "{ignorable:?}");
    assert!(matches!(&seen.first().expect("events").payload, Some(Payload::TurnStarted(_))));
    let last = seen.last().expect("events");
    assert!(
        matches!(&last.payload, Some(Payload::TurnEnded(ended)) if ended.turn.as_ref().unwrap().turn_id == turn_id)
    );
    let text = events::agent_text(&seen);
    assert!(text.starts_with("[demo model]") && text.contains("tok-20"), "{text}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_turns_stream_does_not_end_it_and_the_same_turn_id_attaches_again() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let request = events::run_request(events::turn(&session_id, "slow 40"));
    let mut seen = Vec::new();
    {
        let mut stream = client.run_turn(request.clone());
        events::until(&mut stream, &mut seen, "a delta", |payload| matches!(payload, Payload::TextDelta(_)))
            .await;
    }
    let cursor = events::logged(&seen).last().expect("events").sequence;
    let again = pb::RunTurnRequest { after_sequence: Some(cursor), ..request.clone() };
    let rest: Vec<_> = soon("the turn's end", client.run_turn(again).collect::<Vec<_>>()).await;
    seen.extend(rest.into_iter().map(|event| event.expect("an event")));
    let seen = events::logged(&seen);
    assert_eq!(events::ended(&seen).expect("its end").state(), TurnState::Completed);
    let log: Vec<_> = events::log(&client, &session_id)
        .await
        .into_iter()
        .filter(|event| event.sequence >= seen[0].sequence && event.sequence <= seen.last().unwrap().sequence)
        .collect();
    events::assert_same("both streams together", &seen, &log);
    let started = log.iter().filter(|event| matches!(event.payload, Some(Payload::TurnStarted(_)))).count();
    assert_eq!(started, 1, "the turn ran once");
    // After its end the same call gives the same events again, and ends.
    let replayed: Vec<_> = soon("a replay", client.run_turn(request).collect::<Vec<_>>()).await;
    let replayed: Vec<_> = replayed.into_iter().map(|event| event.expect("an event")).collect();
    events::assert_same("replay after the end", &events::logged(&replayed), &log);
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_and_the_events_after_it_are_the_state() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let (turn_id, sequence) = events::start(&client, &session_id, "slow 60").await;
    let mut stream = events::watch(&client, &session_id, sequence);
    events::until(&mut stream, &mut Vec::new(), "a delta", |payload| {
        matches!(payload, Payload::TextDelta(_))
    })
    .await;
    let request = pb::ListItemsRequest { session_id: session_id.clone(), ..Default::default() };
    let snapshot = client.sessions().list_items(request).await.expect("ListItems").into_inner();
    let growing = snapshot.items.last().expect("items");
    assert_eq!(growing.state(), pb::ItemState::InProgress);
    let Some(pb::item::Body::AgentMessage(message)) = &growing.body else { panic!("{growing:?}") };
    let mut text = events::text(&message.parts);
    let mut after = events::watch(&client, &session_id, snapshot.through_sequence);
    let mut rest = Vec::new();
    events::until(&mut after, &mut rest, "the end", |payload| matches!(payload, Payload::TurnEnded(_))).await;
    for event in &rest {
        if let Some(Payload::TextDelta(delta)) = &event.payload {
            assert_eq!(delta.item_id, growing.item_id);
            text.push_str(&delta.text);
        }
    }
    let request = pb::GetTurnRequest { session_id: session_id.clone(), turn_id };
    let turn = client.turns().get_turn(request).await.expect("GetTurn").into_inner();
    assert_eq!(text, events::text(&turn.final_parts));
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_is_unloaded_and_comes_back_from_the_log() {
    let daemon =
        TestDaemon::start_with(|options| options.engine.idle_unload = Duration::from_millis(200)).await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    events::complete(&client, &session_id, "say one").await;
    let unload = pb::UnloadSessionRequest { session_id: session_id.clone(), ..Default::default() };
    let unloaded = client.sessions().unload_session(unload).await.expect("UnloadSession").into_inner();
    assert!(unloaded.unloaded);
    let log = events::log(&client, &session_id).await;
    events::complete(&client, &session_id, "say two").await;
    let longer = events::log(&client, &session_id).await;
    events::assert_same("the log before the unload", &longer[..log.len()], &log);
    let request = pb::ListItemsRequest { session_id, ..Default::default() };
    let items = client.sessions().list_items(request).await.expect("ListItems").into_inner().items;
    assert_eq!(items.len(), 4, "two messages and two answers");
    daemon.finish().await;
}
