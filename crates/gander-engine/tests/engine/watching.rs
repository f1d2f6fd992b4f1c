//! Watches: the same order for all, resumable at every cut, honest about bad cursors.

use std::sync::Arc;

use gander_domain::{ErrorReason, Event};
use gander_engine::{WatchClosed, WatchStep};
use gander_model::{
    ModelStop,
    testing::{Gate, Script},
};

use crate::harness::{Harness, PATIENCE, context};

async fn take(cursor: &mut gander_engine::WatchCursor, count: usize) -> Vec<Arc<Event>> {
    let mut out = Vec::new();
    while out.len() < count {
        match tokio::time::timeout(PATIENCE, cursor.next()).await.unwrap().unwrap() {
            WatchStep::Events(events) => out.extend(events),
            WatchStep::Closed(why) => panic!("{why:?}"),
        }
    }
    out
}

#[tokio::test]
async fn resuming_at_every_cut_gives_the_log() {
    let harness = Harness::new([
        Script::new().text("a").text("b").thought("c").text("d").finish(ModelStop::EndTurn),
        Script::one_call("1", "developer__list", "{}"),
        Script::reply("end"),
    ])
    .await;
    let session = harness.session().await;
    harness.run(&session, "one").await;
    harness.run(&session, "two").await;
    for reload in [false, true] {
        if reload {
            assert!(harness.engine.unload_session(&session).await.unwrap());
        }
        let log = harness.log(&session).await;
        let last = log.last().unwrap().sequence;
        for (cut, event) in log.iter().enumerate() {
            let mut cursor = harness.engine.watch(&session, Some(0)).await.unwrap();
            let mut seen = take(&mut cursor, cut + 1).await;
            seen.truncate(cut + 1);
            drop(cursor);
            assert_eq!(seen.last().unwrap().sequence, event.sequence);
            let mut cursor = harness.engine.watch(&session, Some(event.sequence)).await.unwrap();
            seen.extend(take(&mut cursor, log.len() - cut - 1).await);
            assert_eq!(seen, log, "cut behind {}", event.sequence);
            assert!(cursor.is_caught_up() && cursor.position() == last);
        }
    }
    harness.finish().await;
}

#[tokio::test]
async fn two_watchers_see_the_same() {
    let gate = Gate::new();
    let script =
        (0..300).fold(Script::new().gate(&gate), |s, i| s.text(&format!("{i} "))).finish(ModelStop::EndTurn);
    let harness = Harness::new([script]).await;
    let session = harness.session().await;
    let turn = harness.start(&session, "go").await;
    gate.reached().await;
    let (a, b) = tokio::join!(harness.until_ended(&session, &turn), async {
        gate.release();
        harness.until_ended(&session, &turn).await
    });
    assert_eq!(a, b);
    assert_eq!(a, harness.log(&session).await);
    harness.finish().await;
}

#[tokio::test]
async fn bad_cursors_are_typed_errors() {
    let harness = Harness::new([]).await;
    let session = harness.session().await;
    let ahead = harness.engine.watch(&session, Some(1_000)).await.err().unwrap();
    assert_eq!((ahead.reason, ahead.metadata["lastSequence"].as_str()), (ErrorReason::SequenceAhead, "1"));
    let negative = harness.engine.watch(&session, Some(-1)).await.err().unwrap();
    assert_eq!(negative.reason, ErrorReason::InvalidField);
    let unknown = gander_domain::SessionId::new("nope").unwrap();
    assert_eq!(
        harness.engine.watch(&unknown, None).await.err().unwrap().reason,
        ErrorReason::SessionNotFound
    );
    harness.finish().await;
}

#[tokio::test]
async fn deleting_ends_watches_and_leaves_no_byte() {
    const MARKER: &str = "xyzzy-marker-4711";
    let harness = Harness::new([
        Script::one_call("1", "developer__shell", &format!(r#"{{"command":"echo {MARKER}"}}"#)),
        Script::reply(MARKER),
    ])
    .await;
    let session = harness.session().await;
    let other = harness.session().await;
    harness.run(&session, MARKER).await;
    let mut cursor = harness.engine.watch(&session, None).await.unwrap();
    harness.engine.delete_session(&context("a"), &session, false).await.unwrap();
    let step = tokio::time::timeout(PATIENCE, cursor.next()).await.unwrap().unwrap();
    assert!(matches!(step, WatchStep::Closed(WatchClosed::SessionDeleted)), "{step:?}");
    let gone = harness.engine.get_session(&session).await.unwrap_err();
    assert_eq!(gone.reason, ErrorReason::SessionNotFound);
    assert!(
        files_with(harness.dir.path(), MARKER).is_empty(),
        "{:?}",
        files_with(harness.dir.path(), MARKER)
    );
    let new = gander_engine::NewSession { session_id: Some(session), ..harness.new_session() };
    let reused = harness.engine.create_session(&context("a"), new).await.unwrap_err();
    assert_eq!(reused.reason, ErrorReason::SessionExists, "ids are never reused");
    harness.engine.get_session(&other).await.unwrap();
    harness.finish().await;
}

/// Files below `dir` that contain the text.
pub(crate) fn files_with(dir: &std::path::Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes.windows(text.len()).any(|w| w == text.as_bytes())
        {
            found.push(path);
        }
    }
    found
}
