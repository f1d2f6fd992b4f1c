//! An attached host at work: its files are what the developer tools see.

use std::{path::Path, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use gander_builtin::{HookError, HostFiles, HostTerminals, TerminalCommand, TerminalEnd};
use gander_domain::{
    Event, Payload,
    host::{HostCall, HostCallKind, HostCallOutcome, HostCapabilities},
};
use gander_engine::{CallProgress, CancelRequest, HostAttachment};
use gander_mcp::{HostCommand, SessionClient};
use gander_model::testing::Script;

use crate::harness::{Harness, PATIENCE, assert_log_rules, context, golden_turn};

/// The session's host behind the hook of the developer tools.
pub(crate) struct Files(pub(crate) Arc<dyn SessionClient>);

impl Files {
    async fn ask(&self, work: HostCallKind) -> Option<Result<HostCallOutcome, HookError>> {
        Some(match self.0.host_call(work).await? {
            Ok(HostCallOutcome::Failed { message, .. }) => Err(HookError::new(message)),
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

/// The session's host behind the hook of the tool `shell`.
impl HostTerminals for Files {
    fn run(
        &self,
        command: TerminalCommand,
        output: tokio::sync::mpsc::Sender<String>,
    ) -> BoxFuture<'_, Option<TerminalEnd>> {
        Box::pin(async move {
            let (progress, mut reports) = tokio::sync::mpsc::channel(16);
            let run = HostCallKind::TerminalRun {
                argv: command.argv,
                cwd: command.working_directory.to_str().unwrap().to_owned(),
                env: command.environment.into_iter().collect(),
                output_limit_bytes: command.output_limit,
            };
            let item_id = gander_domain::ItemId::new(command.item_id).unwrap();
            let command = HostCommand { item_id, run, timeout: command.timeout, progress };
            let passed_on = async {
                while let Some(CallProgress::Output { text, .. }) = reports.recv().await {
                    output.send(text).await.unwrap();
                }
            };
            let (end, ()) = futures::join!(self.0.host_command(command), passed_on);
            Some(match end? {
                Ok(HostCallOutcome::Terminal { output, truncated, exit_code, signal }) => {
                    TerminalEnd::Ended { output, truncated, exit_code, signal }
                }
                Ok(HostCallOutcome::Failed { message, refused: true }) => {
                    TerminalEnd::NotStarted(HookError::new(message))
                }
                other => TerminalEnd::Lost(HookError::new(format!("{other:?}"))),
            })
        })
    }
}

fn terminals() -> HostCapabilities {
    HostCapabilities { terminal: true, ..HostCapabilities::default() }
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
    let failed = HostCallOutcome::Failed { message: "the window is closing".into(), refused: false };
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

#[tokio::test]
async fn where_no_host_is_attached_nobody_is_asked() {
    let read = call("a", "read", &serde_json::json!({"path": "a.txt"}));
    let (harness, clients) = Harness::with_clients([read, Script::reply("ok")]).await;
    std::fs::write(Path::new(&harness.work()).join("a.txt"), "saved\n").unwrap();
    let session = harness.session().await;
    harness.run(&session, "go").await;
    let client = clients.lock().unwrap().last().cloned().expect("a builtin");
    let read = || HostCallKind::FsRead { path: "/w/a.txt".into(), line: None, limit: None };
    // At once: the session's actor, which may be writing the log, has no part in it.
    assert_eq!(client.host_call(read()).now_or_never(), Some(None));
    let host = harness.engine.attach_host(&session, terminals()).await.unwrap();
    assert_eq!(client.host_call(read()).now_or_never(), Some(None), "it runs commands only");
    drop(host);
    let host = harness.engine.attach_host(&session, files()).await.unwrap();
    assert!(client.host_call(read()).now_or_never().is_none(), "now there is somebody to ask");
    drop(host);
    harness.finish().await;
}

#[tokio::test]
async fn a_hosts_terminal_runs_the_shell_and_everybody_sees_its_output() {
    let shell = serde_json::json!({"command": "echo never here", "timeout_seconds": 60});
    let harness = Harness::new([call("a", "shell", &shell), Script::reply("done")]).await;
    let session = harness.session().await;
    let mut host = harness.engine.attach_host(&session, terminals()).await.unwrap();
    let turn_id = harness.start(&session, "go").await;
    let asked = next(&mut host).await;
    let HostCallKind::TerminalRun { argv, cwd, .. } = &asked.kind else { panic!("{asked:?}") };
    assert_eq!(
        (&argv[1..], cwd.as_str()),
        (&["-c".to_owned(), "echo never here".to_owned()][..], &*harness.work())
    );
    let item_id = asked.item_id.clone().expect("the call that it is");
    for text in ["from the ", "editor\n"] {
        let output =
            CallProgress::Output { stream: gander_domain::event::OutputStream::Stdout, text: text.into() };
        harness.engine.report_host_progress(&asked.host_call_id, output).await.unwrap();
    }
    let ended = HostCallOutcome::Terminal {
        output: "from the editor\r\n".into(),
        truncated: false,
        exit_code: Some(0),
        signal: None,
    };
    harness.engine.complete_host_call(&asked.host_call_id, ended).await.unwrap();
    let events = harness.until_ended(&session, &turn_id).await;
    assert_eq!(results(&events)[0], "from the editor\n");
    let live: String = events
        .iter()
        .filter_map(|event| match &event.payload {
            Payload::ToolOutputDelta { item_id: of, text, .. } if *of == item_id => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(live, "from the editor\n");
    assert_log_rules(&events);
    drop(host);
    harness.finish().await;
}

#[tokio::test]
async fn a_command_is_never_run_twice_and_a_cancelled_one_is_withdrawn() {
    let shell = |id: &str| call(id, "shell", &serde_json::json!({"command": "echo x >> ran"}));
    let harness =
        Harness::new([shell("a"), Script::reply("1"), shell("b"), Script::reply("2"), shell("c")]).await;
    let session = harness.session().await;
    let ran = || std::fs::read_to_string(Path::new(&harness.work()).join("ran")).unwrap_or_default();

    // Refused: it runs here, once.
    let mut host = harness.engine.attach_host(&session, terminals()).await.unwrap();
    let turn_id = harness.start(&session, "go").await;
    let asked = next(&mut host).await;
    let refused = HostCallOutcome::Failed { message: "no room".into(), refused: true };
    harness.engine.complete_host_call(&asked.host_call_id, refused).await.unwrap();
    let told = results(&harness.until_ended(&session, &turn_id).await);
    assert!(told[0].contains("no room"), "{told:?}");
    assert_eq!(ran(), "x\n");

    // Gone while it ran: nobody knows.
    let turn_id = harness.start(&session, "again").await;
    next(&mut host).await;
    drop(host);
    let told = results(&harness.until_ended(&session, &turn_id).await);
    assert!(told[1].contains("may have run"), "{told:?}");
    assert_eq!(ran(), "x\n");

    // Cancelled: taken back.
    let mut host = harness.engine.attach_host(&session, terminals()).await.unwrap();
    let turn_id = harness.start(&session, "once more").await;
    let asked = next(&mut host).await;
    harness.engine.cancel_turn(&context("c"), &session, CancelRequest::default()).await.unwrap();
    assert!(golden_turn(&harness.until_ended(&session, &turn_id).await).ends_with("turn_ended Cancelled"));
    let withdrawn = tokio::time::timeout(Duration::from_secs(1), host.withdrawn.recv()).await.unwrap();
    assert_eq!(withdrawn.as_ref(), Some(&asked.host_call_id));
    assert_eq!(ran(), "x\n");
    drop(host);
    harness.finish().await;
}

#[tokio::test]
async fn a_host_that_takes_the_place_of_another_ends_its_calls() {
    let shell = call("a", "shell", &serde_json::json!({"command": "echo never here"}));
    let harness = Harness::new([shell, Script::reply("done")]).await;
    let session = harness.session().await;
    let mut host = harness.engine.attach_host(&session, terminals()).await.unwrap();
    let turn_id = harness.start(&session, "go").await;
    next(&mut host).await;
    // Its stream has ended; that the registration has too is not known to the session yet.
    let HostAttachment { calls, registration, .. } = host;
    drop(calls);
    let other = harness.engine.attach_host(&session, terminals()).await.unwrap();
    let told = results(&harness.until_ended(&session, &turn_id).await);
    assert!(told[0].contains("may have run"), "{told:?}");
    drop((registration, other));
    harness.finish().await;
}

#[tokio::test]
async fn the_setting_never_keeps_commands_here() {
    let harness = Harness::new([
        call("a", "shell", &serde_json::json!({"command": "echo here"})),
        Script::reply("done"),
    ])
    .await;
    harness.engine.config().set("gander.editor_terminals", &serde_json::json!("never")).unwrap();
    let session = harness.session().await;
    let host = harness.engine.attach_host(&session, terminals()).await.unwrap();
    let events = harness.run(&session, "go").await;
    assert_eq!(results(&events)[0], "here\n");
    drop(host);
    harness.finish().await;
}
