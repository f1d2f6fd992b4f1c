//! Real child processes.

use std::time::{Duration, Instant};

use gander_domain::{
    ErrorReason,
    extension::{ExtensionState, ExtensionTransport},
    item::ToolOutcome,
};
use gander_mcp::CallProgress;
use gander_process::tree;

use crate::common::{PATIENCE, Session, config, example, request, stdio};

async fn started(args: &[&str]) -> Session {
    let session = Session::new();
    let state = session.add(stdio(args)).await;
    let runs = matches!(state, ExtensionState::Ready | ExtensionState::Degraded);
    assert!(runs, "{:?}", session.extensions.statuses());
    session
}

fn text(result: &gander_domain::item::ToolResult) -> &str {
    result.parts[0].as_text().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_called_and_sees_only_its_environment() {
    let session = started(&["banner"]).await;
    let result = session.call("child__echo", r#"{"a": [1]}"#).await;
    assert_eq!((result.outcome, text(&result)), (ToolOutcome::Ok, r#"{"a":[1]}"#));
    let names = session.call("child__env", "").await;
    let mut names: Vec<&str> = text(&names).split(',').collect();
    names.sort_unstable();
    assert_eq!(names, ["LAB_TOKEN", "PATH"]);
    assert_eq!(session.extensions.list_prompts("child").await.unwrap(), []);
    let error = session.extensions.read_resource("child", "file:///x").await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::CapabilityMissing);
    let status = session.extensions.statuses().remove(0);
    assert_eq!((status.server_name.as_str(), status.protocol_version.as_str()), ("test", "2025-06-18"));
    session.extensions.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_a_child_come_in_order_before_the_result() {
    let session = started(&[]).await;
    let (call, mut progress) = request("child__progress", "");
    assert_eq!(session.extensions.call(call).await.outcome, ToolOutcome::Ok);
    for step in 0..200_u32 {
        let expected =
            CallProgress::Progress { progress: f64::from(step), total: Some(200.0), message: None };
        assert_eq!(progress.try_recv().unwrap(), expected);
    }
    assert!(progress.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_fails_the_call_at_once_and_the_server_comes_back() {
    let mut session = started(&[]).await;
    let before = Instant::now();
    let result = session.call("child__crash", "").await;
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    assert_eq!(result.outcome, ToolOutcome::ProtocolError);
    let error = result.error.unwrap();
    assert_eq!(error.reason, ErrorReason::ExtensionUnavailable);
    assert!(error.message.contains("code 3") && error.message.contains("about to crash"), "{error}");
    assert!(!error.message.contains("hunter22"), "{error}");
    let change = session.change_to(ExtensionState::Restarting).await;
    assert_eq!(change.exit_code, Some(3));
    assert_eq!(change.stderr_tail, "about to crash, token [redacted]");
    session.change_to(ExtensionState::Ready).await;
    assert_eq!(session.call("child__echo", "{}").await.outcome, ToolOutcome::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_written_just_before_the_exit_counts() {
    let mut session = started(&[]).await;
    for _ in 0..3 {
        session.change_to(ExtensionState::Ready).await;
        assert_eq!(text(&session.call("child__leave", "").await), "bye");
        let change = session.change_to(ExtensionState::Restarting).await;
        assert_eq!(change.exit_code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_ends_and_a_restart_helps() {
    let mut session = started(&[]).await;
    for _ in 0..6 {
        assert_eq!(session.call("child__crash", "").await.outcome, ToolOutcome::ProtocolError);
    }
    let change = session.change_to(ExtensionState::Failed).await;
    assert!(change.cause.starts_with("crash_loop"), "{}", change.cause);
    let result = session.call("child__echo", "{}").await;
    assert!(result.error.unwrap().message.contains("failed"));
    session.extensions.restart("child").await.unwrap();
    assert_eq!(session.call("child__echo", "{}").await.outcome, ToolOutcome::Ok);
    assert_eq!(
        session.extensions.restart("nobody").await.unwrap_err().reason,
        ErrorReason::ExtensionNotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_the_handshake_fails_at_the_deadline_and_is_killed() {
    let mut session = Session::with(|options| options.connect_timeout = Duration::from_millis(300));
    assert_eq!(session.add(stdio(&["hang"])).await, ExtensionState::Failed);
    let status = session.extensions.statuses().remove(0);
    assert_eq!(status.error.unwrap().reason, ErrorReason::ExtensionStartTimeout);
    session.change_to(ExtensionState::Failed).await;
    for id in tree::descendants(std::process::id()) {
        let name = std::fs::read_to_string(format!("/proc/{}/cmdline", id.pid)).unwrap_or_default();
        assert!(!name.ends_with("hang\0"), "the child is gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_server_did_not_start_is_told_without_secrets() {
    for (args, reason, parts) in [
        (&["die"], ErrorReason::ExtensionStartFailed, ["code 7", "cannot start"]),
        (&["version"], ErrorReason::ExtensionStartFailed, ["1999-01-01", "2025-11-25"]),
    ] {
        let session = Session::new();
        assert_eq!(session.add(stdio(args)).await, ExtensionState::Failed);
        let error = session.extensions.statuses().remove(0).error.unwrap();
        assert_eq!(error.reason, reason);
        assert!(parts.iter().all(|part| error.message.contains(part)), "{error}");
        assert!(!error.message.contains("hunter22"), "{error}");
    }
    let session = Session::new();
    let absent = config(
        "absent",
        ExtensionTransport::Stdio { command: "echo x; touch P".to_owned(), args: Vec::new() },
    );
    assert_eq!(session.add(absent).await, ExtensionState::Failed);
    let error = session.extensions.statuses().remove(0).error.unwrap();
    assert!(error.message.contains("was not found"), "{error}");
    assert!(!session.directory.path().join("P").exists(), "no shell was involved");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_shell_reads_a_command() {
    let session = Session::new();
    let mark = session.directory.path().join("mark");
    for (command, args) in [
        (format!("echo x; touch {}", mark.display()), Vec::new()),
        (format!("$(touch {})", mark.display()), Vec::new()),
        (
            "true".to_owned(),
            vec![format!("; touch {}", mark.display()), format!("`touch {}`", mark.display())],
        ),
    ] {
        let transport = ExtensionTransport::Stdio { command, args };
        assert_eq!(session.add(config("odd", transport)).await, ExtensionState::Failed);
        assert!(!mark.exists());
        assert!(session.extensions.remove("odd").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_is_repaired_by_a_restart() {
    let session = Session::new();
    let marker = session.directory.path().join("marker");
    assert_eq!(session.add(stdio(&["crash-once", marker.to_str().unwrap()])).await, ExtensionState::Failed);
    session.extensions.restart("child").await.unwrap();
    assert_eq!(session.call("child__echo", "{}").await.outcome, ToolOutcome::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_go_in_circles_end() {
    let session = started(&["circle"]).await;
    let names: Vec<String> = session.extensions.tools().into_iter().map(|tool| tool.tool_name).collect();
    let distinct: std::collections::HashSet<&String> = names.iter().collect();
    assert_eq!(names.len(), distinct.len(), "each tool once: {names:?}");
    let status = session.extensions.statuses().remove(0);
    assert_eq!(status.state, ExtensionState::Degraded);
    assert!(status.cause.contains("repeats a page's cursor"), "{}", status.cause);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_cannot_be_used_fail_their_calls_with_a_reason() {
    let session = started(&[]).await;
    for (tool, reason, part) in [
        ("child__large", ErrorReason::MessageTooLarge, "16 MiB"),
        ("child__batch", ErrorReason::ExtensionUnavailable, "batch"),
        ("child__garbled", ErrorReason::ExtensionUnavailable, "cannot be read"),
    ] {
        let result = session.call(tool, "").await;
        assert_eq!(result.outcome, ToolOutcome::ProtocolError);
        let error = result.error.unwrap();
        assert_eq!(error.reason, reason, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
    assert_eq!(session.call("child__echo", "{}").await.outcome, ToolOutcome::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_stderr_blocks_nothing() {
    let session = started(&[]).await;
    assert_eq!(text(&session.call("child__flood", "").await), "flooded");
    assert!(session.extensions.stderr("child").unwrap().len() <= 64 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_server_takes_its_grandchildren_along() {
    let session = started(&[]).await;
    let pid: u32 = text(&session.call("child__grandchild", "").await).parse().unwrap();
    let id = tree::lookup(pid).unwrap().id;
    assert!(tree::is_alive(id));
    let before = Instant::now();
    assert!(session.extensions.remove("child").await);
    assert!(before.elapsed() < Duration::from_secs(3));
    assert!(!tree::is_alive(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_everything_with_a_call_in_flight() {
    let session = started(&[]).await;
    let pid: u32 = text(&session.call("child__grandchild", "").await).parse().unwrap();
    let id = tree::lookup(pid).unwrap().id;
    let (call, _progress) = request("child__silent", "");
    let stopping = async {
        tokio::task::yield_now().await;
        session.extensions.shutdown(PATIENCE).await;
    };
    let (result, ()) = tokio::join!(session.extensions.call(call), stopping);
    assert_eq!(result.outcome, ToolOutcome::ProtocolError);
    assert!(!tree::is_alive(id));
    let refused = session.extensions.add(
        stdio(&[]),
        gander_domain::extension::ExtensionOrigin::Session,
        crate::common::secrets(),
    );
    assert_eq!(refused.unwrap_err().reason, ErrorReason::ShuttingDown);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_supervisor_exit_codes_and_whole_trees_are_seen_as_well() {
    let supervisor = vec![example("test_supervisor").to_str().unwrap().to_owned()];
    let mut session = Session::with(|options| options.supervisor = Some(supervisor));
    assert_eq!(session.add(stdio(&[])).await, ExtensionState::Ready);
    let pid: u32 = text(&session.call("child__grandchild", "").await).parse().unwrap();
    let id = tree::lookup(pid).unwrap().id;
    let result = session.call("child__crash", "").await;
    assert!(result.error.unwrap().message.contains("code 3"));
    assert_eq!(session.change_to(ExtensionState::Restarting).await.exit_code, Some(3));
    assert!(!tree::is_alive(id), "what the crashed server left behind is gone before it starts again");
    assert_eq!(session.call("child__echo", "{}").await.outcome, ToolOutcome::Ok);
    session.extensions.shutdown(PATIENCE).await;
    let cmdline = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let own = session.directory.path().to_owned();
    let cwd = |pid: u32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == own);
    for id in tree::descendants(std::process::id()) {
        assert!(!cwd(id.pid), "{} is left", cmdline(id.pid));
    }
}
