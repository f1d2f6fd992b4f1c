//! Servers that are not what they should be, each as people meet them: the failure is typed and quick, its text names
//! the server and what to do, and memory stays bounded.

use std::time::{Duration, Instant};

use gander_domain::{
    ErrorReason,
    extension::{ExtensionState, ExtensionTransport},
    item::ToolOutcome,
};
use gander_mcp::HostEvent;
use gander_process::tree;

use crate::common::{PATIENCE, Session, config, stdio};

/// Memory of this process, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_no_server_is_told_by_what_it_wrote() {
    let session = Session::with(|options| options.connect_timeout = Duration::from_millis(500));
    assert_eq!(session.add(stdio(&["usage"])).await, ExtensionState::Failed);
    let error = session.extensions.statuses().remove(0).error.unwrap();
    assert_eq!(error.reason, ErrorReason::ExtensionStartTimeout);
    for part in ["extension child", "0.5 s", "by hand", "usage: server [options], key [redacted]"] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
    let echo = ExtensionTransport::Stdio { command: "echo".to_owned(), args: vec!["hello there".to_owned()] };
    assert_eq!(session.add(config("greeter", echo)).await, ExtensionState::Failed);
    let error = session.extensions.statuses().remove(1).error.unwrap();
    assert_eq!(error.reason, ErrorReason::ExtensionStartFailed);
    for part in ["extension greeter", "code 0", "no MCP message: hello there"] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_without_end_are_cut_and_said_to_be() {
    for (mode, count, part) in [("endless", 64, "64 pages"), ("many", 10_000, "more than 10000 entries")] {
        let session = Session::new();
        let before = Instant::now();
        assert_eq!(session.add(stdio(&[mode])).await, ExtensionState::Degraded, "{mode}");
        assert!(before.elapsed() < PATIENCE / 2, "{mode}: {:?}", before.elapsed());
        let status = session.extensions.statuses().remove(0);
        assert_eq!(status.tool_count, count, "{mode}");
        assert!(status.cause.contains(part), "{mode}: {}", status.cause);
        session.extensions.shutdown(PATIENCE).await;
    }
    let session = Session::new();
    assert_eq!(session.add(stdio(&["vast"])).await, ExtensionState::Failed);
    let error = session.extensions.statuses().remove(0).error.unwrap();
    assert!(error.message.contains("its list of tools exceeds the limit of 16 MiB"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_and_deep_results_fail_their_call_alone_in_bounded_memory() {
    let session = Session::new();
    assert_eq!(session.add(stdio(&[])).await, ExtensionState::Ready);
    let before = resident();
    for (tool, reason, part) in [
        ("parts", ErrorReason::ExtensionUnavailable, "50000 parts"),
        ("deep", ErrorReason::ExtensionUnavailable, "cannot be read: recursion limit"),
        ("large", ErrorReason::MessageTooLarge, "16 MiB"),
        ("lone", ErrorReason::ExtensionUnavailable, "cannot be read: lone"),
    ] {
        let result = session.call(&format!("child__{tool}"), "{}").await;
        assert_eq!(result.outcome, ToolOutcome::ProtocolError, "{tool}");
        let error = result.error.unwrap();
        assert_eq!(error.reason, reason, "{error}");
        assert!(error.message.contains(part) && error.message.contains("extension child"), "{tool}: {error}");
    }
    assert_eq!(session.call("child__echo", "{}").await.outcome, ToolOutcome::Ok);
    // Other tests of this process run beside this one: a bound that only a leak of whole messages would break.
    let now = resident();
    assert!(now < before + 400, "{before} MiB before, {now} MiB now");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_are_no_messages_are_passed_over_however_many() {
    let session = Session::new();
    assert_eq!(session.add(stdio(&[])).await, ExtensionState::Ready);
    let noise = session.call("child__noise", "{}").await;
    assert_eq!((noise.outcome, noise.parts[0].as_text()), (ToolOutcome::Ok, Some("done")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_order_mark_windows_lines_and_odd_characters_do_no_harm() {
    let session = Session::new();
    assert_eq!(
        session.add(stdio(&["bom"])).await,
        ExtensionState::Ready,
        "{:?}",
        session.extensions.statuses()
    );
    let odd = session.call("child__odd", "{}").await;
    assert_eq!(odd.parts[0].as_text(), Some("a\u{2028}b\u{0}c\r\nd\u{1F600}\u{202E}e\u{FEFF}"));
    let echo = session.call("child__echo", r#"{"text": "ä\u2028\r\n\ud83d\ude00"}"#).await;
    let echoed: serde_json::Value = serde_json::from_str(echo.parts[0].as_text().unwrap()).unwrap();
    assert_eq!(echoed["text"], "ä\u{2028}\r\n\u{1F600}");
}

/// What a server says cannot move the cursor, name the window or forge a line of a log.
#[tokio::test(flavor = "multi_thread")]
async fn terminal_sequences_of_a_server_are_shown_and_not_obeyed() {
    let mut session = Session::new();
    session.add(stdio(&[])).await;
    let error = session.call("child__ansi", "{}").await.error.unwrap();
    assert!(error.message.contains("\\u{1b}[2J") && error.message.ends_with("gone (code -32000)"), "{error}");
    assert!(!error.message.contains('\u{1b}') && !error.message.contains('\u{7}'), "{error}");
    let logged = loop {
        if let HostEvent::Notification { data_json, .. } = session.event().await {
            break data_json;
        }
    };
    assert!(!logged.chars().any(char::is_control), "{logged:?}");
}

/// The command line of a process is readable by every user of the machine.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_command_line_no_status_and_no_debug_text() {
    let mut session = Session::new();
    let mut secretive = stdio(&[]);
    secretive.env.insert("OTHER_KEY".to_owned(), "swordfish".to_owned());
    let debug = format!("{secretive:?}");
    assert!(debug.contains("OTHER_KEY"), "{debug}");
    session.add(secretive).await;
    assert_eq!(session.call("child__echo", "{}").await.outcome, ToolOutcome::Ok);
    let children = tree::descendants(std::process::id());
    assert!(!children.is_empty());
    for child in children {
        let line = std::fs::read(format!("/proc/{}/cmdline", child.pid)).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        assert!(!line.contains("hunter22") && !line.contains("swordfish"), "{line}");
    }
    let crashed = session.call("child__crash", "{}").await;
    let change = session.change_to(ExtensionState::Restarting).await;
    let shown = format!("{debug} {crashed:?} {change:?} {:?}", session.extensions.statuses());
    assert!(shown.contains("[redacted]"), "{shown}");
    assert!(!shown.contains("hunter22") && !shown.contains("swordfish"), "{shown}");
}
