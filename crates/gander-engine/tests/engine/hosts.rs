//! An attached host at work: its files are what the developer tools see.

use std::{path::Path, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use gander_builtin::{HookError, HostFiles};
use gander_domain::{
    Event, Payload,
    host::{HostCall, HostCallKind, HostCallOutcome, HostCapabilities},
};
use gander_engine::{CancelRequest, HostAttachment};
use gander_mcp::SessionClient;
use gander_model::testing::Script;

use crate::harness::{Harness, PATIENCE, assert_log_rules, context, golden_turn};

/// The session's host behind the hook of the developer tools.
pub(crate) struct Files(pub(crate) Arc<dyn SessionClient>);

impl Files {
    async fn ask(&self, work: HostCallKind) -> Option<Result<HostCallOutcome, HookError>> {
        Some(match self.0.host_call(work).await? {
            Ok(HostCallOutcome::Failed { message }) => Err(HookError::new(message)),
            other => other.map_err(|error| HookError::new(error.message)),
        })
    }
}

impl HostFiles for Files {
    fn read_text<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Option<Result<String, HookError>>> {
        let path = path.to_str().unwrap().to_owned();
        Box::pin(async move {
            let done = self.ask(HostCallKind::FsRead { path, line: None, limit: None }).await?;
            Some(done.map(|outcome| match outcome {
                HostCallOutcome::FsRead { text } => text,
                other => panic!("{other:?}"),
            }))
        })
    }

    fn write_text<'a>(
        &'a self,
        path: &'a Path,
        text: &'a str,
    ) -> BoxFuture<'a, Option<Result<(), HookError>>> {
        let path = path.to_str().unwrap().to_owned();
        Box::pin(async move {
            let done = self.ask(HostCallKind::FsWrite { path, text: text.to_owned() }).await?;
            Some(done.map(|outcome| assert_eq!(outcome, HostCallOutcome::FsWritten)))
        })
    }
}

fn files() -> HostCapabilities {
    HostCapabilities { fs_read: true, fs_write: true, ..HostCapabilities::default() }
}

fn call(id: &str, tool: &str, arguments: &serde_json::Value) -> Script {
    Script::one_call(id, &format!("developer__{tool}"), &arguments.to_string())
}

async fn next(host: &mut HostAttachment) -> HostCall {
    tokio::time::timeout(PATIENCE, host.calls.recv()).await.unwrap().unwrap()
}

/// Texts of the results, in order.
fn results(events: &[Arc<Event>]) -> Vec<String> {
    let results = events.iter().filter_map(|event| match &event.payload {
        Payload::ItemCompleted { item } => item.tool_call()?.result.clone(),
        _ => None,
    });
    results.map(|result| result.parts.iter().filter_map(|part| part.as_text()).collect()).collect()
}

#[tokio::test]
async fn a_hosts_unsaved_text_is_read_and_its_buffer_is_written() {
    let harness = Harness::new([
        call("a", "read", &serde_json::json!({"path": "a.txt"})),
        call("b", "edit", &serde_json::json!({"path": "a.txt", "old_text": "unsaved", "new_text": "edited"})),
        Script::reply("done"),
    ])
    .await;
    let file = Path::new(&harness.work()).join("a.txt");
    std::fs::write(&file, "saved\n").unwrap();
    let session = harness.session().await;
    let mut host = harness.engine.attach_host(&session, files()).await.unwrap();
    let turn_id = harness.start(&session, "go").await;
    let path = file.to_str().unwrap().to_owned();
    for _ in ["read", "edit"] {
        let asked = next(&mut host).await;
        assert_eq!(asked.kind, HostCallKind::FsRead { path: path.clone(), line: None, limit: None });
        let text = HostCallOutcome::FsRead { text: "unsaved\n".into() };
        harness.engine.complete_host_call(&asked.host_call_id, text).await.unwrap();
    }
    let asked = next(&mut host).await;
    assert_eq!(asked.kind, HostCallKind::FsWrite { path, text: "edited\n".into() });
    harness.engine.complete_host_call(&asked.host_call_id, HostCallOutcome::FsWritten).await.unwrap();
    let events = harness.until_ended(&session, &turn_id).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "saved\n", "the disk is the host's to write");
    assert_eq!(results(&events)[0], "     1\tunsaved\n");
    // The host's part in it is no event of its own: the log is the one of any turn.
    let log = golden_turn(&events);
    // Arguments are left out, as the order of their keys is nobody's promise.
    let log: Vec<&str> = log.lines().filter(|line| !line.starts_with("arguments_delta")).collect();
    assert_eq!(
        log,
        [
            "turn_started",
            "item_completed user go",
            "model_call_started",
            "item_started call developer__read StreamingArguments",
            "tool_call_updated developer__read Pending",
            "tool_call_updated developer__read Running",
            "item_completed call developer__read Completed Ok",
            "model_call_started",
            "item_started call developer__edit StreamingArguments",
            "tool_call_updated developer__edit Pending",
            "tool_call_updated developer__edit Running",
            "item_completed call developer__edit Completed Ok",
            "model_call_started",
            "item_started agent",
            "text_delta done",
            "item_completed agent done",
            "turn_ended Completed EndTurn",
        ]
    );
    assert_log_rules(&events);
    drop(host);
    harness.finish().await;
}

#[tokio::test]
async fn a_hosts_failure_and_its_absence_are_told_apart() {
    let read = |id: &str| call(id, "read", &serde_json::json!({"path": "a.txt"}));
    let harness = Harness::new([read("a"), Script::reply("sorry"), read("b"), Script::reply("there")]).await;
    std::fs::write(Path::new(&harness.work()).join("a.txt"), "saved\n").unwrap();
    let session = harness.session().await;
    let mut host = harness.engine.attach_host(&session, files()).await.unwrap();
    let turn_id = harness.start(&session, "go").await;
    let asked = next(&mut host).await;
    let failed = HostCallOutcome::Failed { message: "the window is closing".into() };
    harness.engine.complete_host_call(&asked.host_call_id, failed).await.unwrap();
    let told = results(&harness.until_ended(&session, &turn_id).await);
    assert!(told[0].contains("the window is closing") && !told[0].contains("saved\n"), "{told:?}");
    drop(host);
    let events = harness.run(&session, "again").await;
    assert_eq!(results(&events)[1], "     1\tsaved\n");
    harness.finish().await;
}

#[tokio::test]
async fn a_cancelled_turn_withdraws_what_its_host_was_asked() {
    let harness = Harness::new([call("a", "read", &serde_json::json!({"path": "a.txt"}))]).await;
    std::fs::write(Path::new(&harness.work()).join("a.txt"), "saved\n").unwrap();
    let session = harness.session().await;
    let mut host = harness.engine.attach_host(&session, files()).await.unwrap();
    let turn_id = harness.start(&session, "go").await;
    let asked = next(&mut host).await;
    harness.engine.cancel_turn(&context("b"), &session, CancelRequest::default()).await.unwrap();
    let events = harness.until_ended(&session, &turn_id).await;
    assert!(golden_turn(&events).ends_with("turn_ended Cancelled"));
    let withdrawn = tokio::time::timeout(Duration::from_secs(5), host.withdrawn.recv()).await.unwrap();
    assert_eq!(withdrawn.as_ref(), Some(&asked.host_call_id));
    let late = HostCallOutcome::FsRead { text: "late\n".into() };
    harness.engine.complete_host_call(&asked.host_call_id, late).await.unwrap_err();
    drop(host);
    harness.finish().await;
}
