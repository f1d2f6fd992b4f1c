//! Commands in the editor's terminals: seen while they run, ended when nobody waits, released in every case.

use gander_proto::v1::{ErrorReason, report_host_progress_request::Report};

use super::*;

fn run() -> pb::TerminalRun {
    pb::TerminalRun { argv: vec!["make".into()], cwd: "/w".into(), ..pb::TerminalRun::default() }
}

fn call(id: &str, item_id: &str) -> pb::HostCall {
    pb::HostCall {
        host_call_id: id.into(),
        session_id: "s".into(),
        item_id: item_id.into(),
        call: Some(host_call::Call::TerminalRun(run())),
        ..pb::HostCall::default()
    }
}

async fn deliver(stage: &Stage, call: pb::HostCall) {
    let payload = Some(attach_host_response::Payload::Call(call));
    stage.calls.send(pb::AttachHostResponse { payload }).await.expect("attached");
}

/// The item of a call that has begun to run.
fn item(id: &str) -> pb::Item {
    let call = pb::ToolCall {
        name: "developer__shell".into(),
        status: pb::ToolCallStatus::Running as i32,
        kind: pb::ToolKind::Execute as i32,
        ..pb::ToolCall::default()
    };
    pb::Item {
        item_id: id.into(),
        body: Some(pb::item::Body::ToolCall(Box::new(call))),
        ..pb::Item::default()
    }
}

async fn announced(stage: &mut Stage, id: &str) -> Value {
    stage.event(Payload::ItemStarted(Box::new(pb::ItemStarted { item: Some(item(id)) }))).await;
    update(stage, "tool_call").await
}

async fn update(stage: &mut Stage, kind: &str) -> Value {
    loop {
        let message = stage.next().await;
        if message["params"]["update"]["sessionUpdate"] == kind {
            return message["params"]["update"].clone();
        }
    }
}

fn reason(outcome: &Outcome) -> ErrorReason {
    match outcome {
        Outcome::Error(error) => error.reason(),
        other => panic!("{other:?}"),
    }
}

/// Answers what comes until a request of this method, which is given back.
async fn serve_until(stage: &mut Stage, method: &str, output: &str) -> Value {
    loop {
        let message = stage.next().await;
        if message["method"] == method {
            return message;
        }
        if message["method"] == "terminal/output" {
            stage.answer(&message, json!({"output": output, "truncated": false})).await;
        }
    }
}

#[tokio::test]
async fn a_command_is_shown_in_its_call_and_its_output_told_while_it_runs() {
    let mut stage = Stage::new(json!({"terminal": true})).await;
    announced(&mut stage, "i").await;
    deliver(&stage, call("1", "i")).await;
    let asked = stage.asked("terminal/create").await;
    stage.answer(&asked, json!({"terminalId": "t"})).await;
    let shown = update(&mut stage, "tool_call_update").await;
    assert_eq!(shown["toolCallId"], "i");
    assert_eq!(shown["content"], json!([{"type": "terminal", "terminalId": "t"}]));
    let wait = stage.asked("terminal/wait_for_exit").await;
    for (output, news) in [("one\n", "one\n"), ("one\ntwo", "two")] {
        let asked = stage.asked("terminal/output").await;
        stage.answer(&asked, json!({"output": output, "truncated": false})).await;
        let report = soon("report", stage.reports.recv()).await.expect("a report");
        assert_eq!(report.host_call_id, "1");
        assert!(matches!(&report.report, Some(Report::Output(o)) if o.text == news), "{report:?}");
    }
    stage.answer(&wait, json!({"exitCode": 0})).await;
    let release = serve_until(&mut stage, "terminal/release", "one\ntwo\nthree\n").await;
    // The release needs no answer for the result.
    let outcome = stage.outcome().await;
    stage.answer(&release, json!({})).await;
    let Outcome::TerminalRun(result) = outcome else { panic!("{outcome:?}") };
    assert_eq!((result.output.as_str(), result.exit_code), ("one\ntwo\nthree\n", Some(0)));
    let report = soon("report", stage.reports.recv()).await.expect("a report");
    assert!(matches!(&report.report, Some(Report::Output(o)) if o.text == "\nthree\n"), "{report:?}");
}

#[tokio::test]
async fn a_terminal_may_be_there_before_its_call() {
    let mut stage = Stage::new(json!({"terminal": true})).await;
    deliver(&stage, call("1", "i")).await;
    let asked = stage.asked("terminal/create").await;
    stage.answer(&asked, json!({"terminalId": "t"})).await;
    stage.asked("terminal/wait_for_exit").await;
    let call = announced(&mut stage, "i").await;
    assert_eq!(call["content"], json!([{"type": "terminal", "terminalId": "t"}]));
}

#[tokio::test]
async fn a_terminal_that_is_refused_is_told_apart_from_one_that_fails() {
    let mut stage = Stage::new(json!({"terminal": true})).await;
    deliver(&stage, call("1", "")).await;
    let asked = stage.asked("terminal/create").await;
    let error = json!({"code": -32603, "message": "no more terminals"});
    stage.send(json!({"id": asked["id"], "error": error})).await;
    let outcome = stage.outcome().await;
    assert_eq!(reason(&outcome), ErrorReason::CapabilityMissing);
    assert!(matches!(outcome, Outcome::Error(error) if error.message == "no more terminals"));

    // Once it was opened nobody knows what ran: it is ended.
    deliver(&stage, call("2", "")).await;
    let asked = stage.asked("terminal/create").await;
    stage.answer(&asked, json!({"terminalId": "t"})).await;
    let asked = stage.asked("terminal/wait_for_exit").await;
    stage.send(json!({"id": asked["id"], "error": {"code": -32603, "message": "gone"}})).await;
    assert_eq!(reason(&stage.outcome().await), ErrorReason::ExtensionUnavailable);
    let asked = stage.asked("terminal/kill").await;
    stage.send(json!({"id": asked["id"], "error": {"code": -32603, "message": "gone"}})).await;
    assert_eq!(stage.asked("terminal/release").await["params"]["terminalId"], "t");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_opens_the_terminal_is_not_waited_for() {
    let mut stage = Stage::new(json!({"terminal": true})).await;
    deliver(&stage, call("1", "")).await;
    let asked = stage.asked("terminal/create").await;
    let given_up = tokio::time::timeout(Duration::from_secs(60), stage.completed.recv()).await;
    let given_up = given_up.expect("in time").expect("a result").outcome.expect("an outcome");
    assert_eq!(reason(&given_up), ErrorReason::ExtensionUnavailable, "it may come to run");
    // One that comes late is ended and given back.
    stage.answer(&asked, json!({"terminalId": "late"})).await;
    let kill = stage.asked("terminal/kill").await;
    assert_eq!(kill["params"]["terminalId"], "late");
    stage.answer(&kill, json!({})).await;
    assert_eq!(stage.asked("terminal/release").await["params"]["terminalId"], "late");
}

#[tokio::test]
async fn a_client_that_cannot_wait_tells_the_end_with_the_output() {
    let mut stage = Stage::new(json!({"terminal": true})).await;
    announced(&mut stage, "i").await;
    deliver(&stage, call("1", "i")).await;
    let asked = stage.asked("terminal/create").await;
    stage.answer(&asked, json!({"terminalId": "t"})).await;
    let asked = stage.asked("terminal/wait_for_exit").await;
    stage.send(json!({"id": asked["id"], "error": {"code": -32601, "message": "unknown"}})).await;
    let ended =
        json!({"output": "x", "truncated": true, "exitStatus": {"exitCode": null, "signal": "SIGTERM"}});
    for _ in 0..2 {
        let asked = stage.asked("terminal/output").await;
        stage.answer(&asked, ended.clone()).await;
    }
    stage.asked("terminal/release").await;
    let outcome = stage.outcome().await;
    let Outcome::TerminalRun(result) = outcome else { panic!("{outcome:?}") };
    assert_eq!((result.exit_code, result.signal.as_str(), result.truncated), (None, "SIGTERM", true));
}

#[tokio::test]
async fn a_command_whose_time_is_over_is_killed_and_its_output_kept() {
    let mut stage = Stage::new(json!({"terminal": true})).await;
    let deadline = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    deliver(&stage, pb::HostCall { deadline, ..call("1", "") }).await;
    let asked = stage.asked("terminal/create").await;
    stage.answer(&asked, json!({"terminalId": "t"})).await;
    let wait = stage.asked("terminal/wait_for_exit").await;
    let kill = stage.asked("terminal/kill").await;
    stage.answer(&kill, json!({})).await;
    stage.answer(&wait, json!({"exitCode": null, "signal": "SIGKILL"})).await;
    let release = serve_until(&mut stage, "terminal/release", "so far").await;
    assert_eq!(release["params"]["terminalId"], "t");
    let outcome = stage.outcome().await;
    let Outcome::TerminalRun(result) = outcome else { panic!("{outcome:?}") };
    assert_eq!((result.output.as_str(), result.signal.as_str()), ("so far", "SIGKILL"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_falls_silent_is_not_waited_for() {
    let mut stage = Stage::new(json!({"terminal": true})).await;
    let deadline = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    deliver(&stage, pb::HostCall { deadline, ..call("1", "") }).await;
    let asked = stage.asked("terminal/create").await;
    stage.answer(&asked, json!({"terminalId": "t"})).await;
    let begin = tokio::time::Instant::now();
    let outcome = tokio::time::timeout(Duration::from_secs(60), stage.completed.recv()).await;
    let outcome = outcome.expect("in time").expect("a result").outcome.expect("an outcome");
    let Outcome::TerminalRun(result) = outcome else { panic!("{outcome:?}") };
    assert_eq!((result.exit_code, result.output.as_str()), (None, ""));
    assert!(begin.elapsed() < Duration::from_secs(15), "before the daemon gives up");
    stage.asked("terminal/kill").await;
    stage.asked("terminal/release").await;
}

#[tokio::test]
async fn a_session_that_is_let_go_leaves_no_terminal() {
    let mut stage = Stage::new(json!({"terminal": true})).await;
    deliver(&stage, call("1", "")).await;
    let asked = stage.asked("terminal/create").await;
    stage.answer(&asked, json!({"terminalId": "t"})).await;
    stage.asked("terminal/wait_for_exit").await;
    stage.send(json!({"id": 9, "method": "session/close", "params": {"sessionId": "s"}})).await;
    let kill = stage.asked("terminal/kill").await;
    stage.answer(&kill, json!({})).await;
    assert_eq!(stage.asked("terminal/release").await["params"]["terminalId"], "t");
}

#[tokio::test]
async fn a_command_does_not_outlive_the_stream_that_asked_for_it() {
    let mut stage = Stage::new(json!({"terminal": true})).await;
    deliver(&stage, call("1", "")).await;
    let asked = stage.asked("terminal/create").await;
    stage.answer(&asked, json!({"terminalId": "t"})).await;
    stage.asked("terminal/wait_for_exit").await;
    // The daemon has told its caller that the host is gone.
    let payload = Some(attach_host_response::Payload::StreamClosing(pb::StreamClosing::default()));
    stage.calls.send(pb::AttachHostResponse { payload }).await.expect("attached");
    let kill = stage.asked("terminal/kill").await;
    stage.answer(&kill, json!({})).await;
    assert_eq!(stage.asked("terminal/release").await["params"]["terminalId"], "t");
}

#[tokio::test]
async fn a_client_that_shows_our_output_lends_no_terminal() {
    let caps = json!({"terminal": true, "_meta": {"terminal_output": true}, "fs": {"readTextFile": true}});
    let mut stage = Stage::new(caps).await;
    let attached = soon("host", stage.attached.recv()).await.expect("attached");
    let capabilities = attached.capabilities.expect("capabilities");
    assert!(capabilities.fs_read && !capabilities.terminal);
}
