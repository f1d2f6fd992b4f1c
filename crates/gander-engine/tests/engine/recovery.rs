//! What a stopped daemon left open is closed, and nothing is run again.

use std::{path::Path, sync::Arc, time::Duration};

use gander_domain::{ErrorReason, Payload, session::Mode, turn::TurnState};
use gander_model::{
    ModelStop,
    testing::{Gate, Script, ScriptedProvider},
};

use crate::harness::{Harness, assert_log_rules, context, golden_turn, start_in, turn};

/// Copies a live data directory, as `kill -9` would leave it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[tokio::test]
async fn an_open_turn_is_interrupted_and_a_running_tool_unknown() {
    let harness =
        Harness::new([Script::one_call("c", "developer__shell", r#"{"command":"echo x; sleep 1000"}"#)])
            .await;
    let session = harness.session().await;
    let turn_id = harness.start(&session, "go").await;
    harness.until(&session, |e| matches!(&e.payload, Payload::ToolOutputDelta { .. })).await;
    let crashed = tempfile::tempdir().unwrap();
    copy(harness.dir.path(), crashed.path());

    let model = Arc::new(ScriptedProvider::new([]));
    let engine = start_in(crashed.path(), model.clone()).await;
    let log = engine.list_events(&session, 0, 10_000, usize::MAX).await.unwrap().events;
    assert_log_rules(&log);
    let text = golden_turn(&log);
    assert!(
        text.ends_with(
            "item_completed call incomplete developer__shell OutcomeUnknown OutcomeUnknown\n\
             turn_ended Interrupted"
        ),
        "{text}"
    );
    assert_eq!(model.requests().len(), 0, "nothing is started by itself");
    let (turn, _, _) = engine.get_turn(&session, &turn_id).await.unwrap();
    assert_eq!(turn.state, TurnState::Interrupted);
    engine.drain(Duration::ZERO).await;
    harness
        .engine
        .cancel_turn(&context("a"), &session, gander_engine::CancelRequest::default())
        .await
        .unwrap();
    harness.until_ended(&session, &turn_id).await;
    harness.finish().await;
}

#[tokio::test]
async fn open_questions_are_voided_at_restart() {
    let harness = Harness::new([Script::one_call("c", "developer__shell", r#"{"command":"true"}"#)]).await;
    let session = harness.session_in(Mode::Approve).await;
    harness.start(&session, "go").await;
    harness.until(&session, |e| matches!(e.payload, Payload::InteractionRequested { .. })).await;
    let crashed = tempfile::tempdir().unwrap();
    copy(harness.dir.path(), crashed.path());
    let engine = start_in(crashed.path(), Arc::new(ScriptedProvider::new([]))).await;
    let log = engine.list_events(&session, 0, 10_000, usize::MAX).await.unwrap().events;
    assert_log_rules(&log);
    let text = golden_turn(&log);
    assert!(
        text.ends_with(
            "interaction_resolved Voided\n\
             item_completed call incomplete developer__shell Cancelled Cancelled\n\
             turn_ended Interrupted"
        ),
        "{text}"
    );
    assert_eq!(engine.get_session(&session).await.unwrap().pending_interaction_count, 0);
    engine.drain(Duration::ZERO).await;
    harness
        .engine
        .cancel_turn(&context("a"), &session, gander_engine::CancelRequest::default())
        .await
        .unwrap();
    harness.until(&session, |e| matches!(e.payload, Payload::TurnEnded { .. })).await;
    harness.finish().await;
}

#[tokio::test]
async fn a_drain_interrupts_what_does_not_finish() {
    let gate = Gate::new();
    let harness = Harness::new([Script::new().text("half").gate(&gate).finish(ModelStop::EndTurn)]).await;
    let session = harness.session().await;
    harness.start(&session, "go").await;
    gate.reached().await;
    let mut cursor = harness.engine.watch(&session, Some(0)).await.unwrap();
    harness.engine.drain(Duration::from_millis(50)).await;
    let mut log = Vec::new();
    loop {
        match tokio::time::timeout(crate::harness::PATIENCE, cursor.next()).await.unwrap().unwrap() {
            gander_engine::WatchStep::Events(events) => log.extend(events),
            gander_engine::WatchStep::Closed(why) => {
                assert_eq!(why, gander_engine::WatchClosed::Drain);
                break;
            }
        }
    }
    assert!(golden_turn(&log).ends_with("item_completed agent incomplete half\nturn_ended Interrupted"));
    assert_log_rules(&log);
    let refused = harness.engine.start_turn(&context("a"), &session, turn("more")).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::ShuttingDown);
}

#[tokio::test]
async fn a_reloaded_session_is_the_same() {
    let harness = Harness::new([
        Script::one_call("1", "developer__list", "{}"),
        Script::new().thought("t").text("done").usage(5, 5).finish(ModelStop::EndTurn),
    ])
    .await;
    let session = harness.session().await;
    harness.run(&session, "go").await;
    let before = harness.engine.get_session(&session).await.unwrap();
    assert!(harness.engine.unload_session(&session).await.unwrap());
    assert!(!harness.engine.session_is_loaded(&session));
    assert_eq!(harness.engine.get_session(&session).await.unwrap(), before, "from the store");
    let loaded =
        harness.engine.load_session(&context("a"), &session, gander_engine::LoadRequest::default()).await;
    let loaded = loaded.unwrap().session;
    assert_eq!(
        gander_domain::Session { last_sequence: before.last_sequence, ..loaded },
        before,
        "from the log"
    );
    harness.finish().await;
}

#[tokio::test]
async fn extensions_that_are_added_at_the_same_time_are_all_kept() {
    let harness = Harness::new([]).await;
    let session = harness.session().await;
    let add = async |name: &str, key: &str| {
        let tool = serde_json::json!({"name": "see", "description": "", "inputSchema": {"type": "object"}});
        let config =
            serde_json::json!({"type": "frontend", "name": name, "description": "", "tools": [tool]});
        let config = gander_engine::types::extension_format::from_value(&config).unwrap();
        let extension = gander_engine::AddExtension::Config(Box::new(config));
        harness.engine.add_session_extension(&context(key), &session, extension, false).await.unwrap();
    };
    tokio::join!(add("camera", "k1"), add("radar", "k2"), add("sonar", "k3"));
    harness.engine.drain(Duration::ZERO).await;
    harness.engine.close().await;
    let engine = start_in(harness.dir.path(), Arc::new(ScriptedProvider::new([]))).await;
    let kept = engine.session_extensions(&session).await.unwrap();
    let mut keys: Vec<_> = kept.into_iter().map(|status| status.summary.key).collect();
    keys.retain(|key| key != "developer");
    keys.sort();
    assert_eq!(keys, ["camera", "radar", "sonar"]);
    engine.drain(Duration::ZERO).await;
    engine.close().await;
}
