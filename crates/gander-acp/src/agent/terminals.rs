//! Commands of the daemon's in the client's terminals.
//!
//! Invariants: a terminal that was made is released, also when its call is withdrawn, the session is let go, or the
//! client says only later that it made it; a command that nobody waits for is killed first. No call waits for the client
//! without end.

use std::{sync::Arc, time::Duration};

use gander_proto::v1::{
    ErrorDetail, ErrorReason, HostCall, OutputStream, ReportHostProgressRequest, TerminalRun,
    TerminalRunResult, ToolOutputDelta, complete_host_call_request::Outcome,
    report_host_progress_request::Report,
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Asked, Inner, watching::Attached};
use crate::rpc::RpcError;

/// Output that a terminal keeps when the daemon does not say.
const OUTPUT_LIMIT: i64 = 1024 * 1024;
/// How long the client may take to open a terminal.
const CREATE: Duration = Duration::from_secs(10);
/// How long it may take to say what a terminal holds.
const ANSWER: Duration = Duration::from_secs(4);
/// How long it may take to kill a command, and to see it dead.
const KILL: Duration = Duration::from_secs(2);
/// A command without a deadline of its own.
const LONGEST: Duration = Duration::from_secs(25 * 3600);
/// Bytes of output in one report to the daemon.
const REPORT: usize = 64 * 1024;
/// Bytes by which output is found again whose beginning is gone.
const OVERLAP: usize = 1024;

impl Inner {
    /// Runs a command to its end; `None` when nobody waits for it any more.
    pub(super) async fn run_terminal(
        self: &Arc<Self>,
        session: &Arc<Attached>,
        call: &HostCall,
        run: &TerminalRun,
        withdrawn: &CancellationToken,
    ) -> Option<Outcome> {
        let Some((command, args)) = run.argv.split_first() else {
            return Some(failed(ErrorReason::InvalidField, "the command is empty"));
        };
        let env: Vec<Value> =
            run.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let params = json!({
            "sessionId": session.session_id,
            "command": command,
            "args": args,
            "env": env,
            "cwd": run.cwd,
            "outputByteLimit": run.output_limit.unwrap_or(OUTPUT_LIMIT).max(0),
        });
        let deadline = Instant::now() + time_left(call);
        let asked = self.ask(Some(&session.session_id), "terminal/create", &params).await;
        let creating = Creating { asked: Some(asked), inner: self.clone(), session_id: &session.session_id };
        let terminal = match creating.done(withdrawn).await? {
            Ok(terminal) => terminal,
            Err(outcome) => return Some(outcome),
        };
        if !call.item_id.is_empty() {
            let updates = session.dialect().embed_terminal(&call.item_id, &terminal.id);
            self.send(session, updates).await;
        }
        Watch { inner: self, call, terminal, shown: String::new(), polling: None }
            .run(deadline, withdrawn)
            .await
    }
}

/// How long the daemon waits for the command.
fn time_left(call: &HostCall) -> Duration {
    let deadline = call.deadline.as_ref().and_then(|at| {
        let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
        OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
    });
    let left = deadline.and_then(|at| Duration::try_from(at - OffsetDateTime::now_utc()).ok());
    if call.deadline.is_some() { left.unwrap_or_default().min(LONGEST) } else { LONGEST }
}

fn failed(reason: ErrorReason, message: impl Into<String>) -> Outcome {
    Outcome::Error(ErrorDetail { reason: reason as i32, message: message.into(), ..ErrorDetail::default() })
}

/// The command may have run.
fn lost(message: &str) -> Outcome {
    failed(ErrorReason::ExtensionUnavailable, message)
}

/// A terminal that the client is asked for. One that it opens after nobody waits any more is ended.
struct Creating<'a> {
    asked: Option<Asked>,
    inner: Arc<Inner>,
    session_id: &'a str,
}

impl Creating<'_> {
    /// `None`: withdrawn.
    async fn done(mut self, withdrawn: &CancellationToken) -> Option<Result<Terminal, Outcome>> {
        let Some(asked) = &mut self.asked else { return None };
        let answer = tokio::select! {
            biased;
            answer = asked.settled() => answer,
            () = withdrawn.cancelled() => return None,
            () = sleep(CREATE) => {
                let text = format!("the client did not answer terminal/create within {} s", CREATE.as_secs());
                return Some(Err(lost(&text)));
            }
        };
        self.asked = None;
        Some(match answer {
            None => Err(lost("the connection to the client ended")),
            Some(Err(error)) => Err(refused(&error)),
            Some(Ok(answer)) => Terminal::of(&self.inner, self.session_id, &answer)
                .ok_or_else(|| lost("the client gave no terminalId")),
        })
    }
}

/// The client opened no terminal: nothing has run.
fn refused(error: &RpcError) -> Outcome {
    let message =
        if error.message.is_empty() { "the client failed without a reason" } else { &error.message };
    failed(ErrorReason::CapabilityMissing, message)
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        let Some(mut asked) = self.asked.take() else { return };
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (inner, session_id) = (self.inner.clone(), self.session_id.to_owned());
        self.inner.spawn(async move {
            if let Some(Ok(answer)) = asked.settled().await {
                drop(Terminal::of(&inner, &session_id, &answer));
            }
        });
    }
}

/// A terminal of the client's. Dropping it kills what runs in it and releases it.
struct Terminal {
    inner: Arc<Inner>,
    session_id: String,
    id: String,
    released: bool,
}

impl Terminal {
    fn of(inner: &Arc<Inner>, session_id: &str, created: &Value) -> Option<Self> {
        let id = created.get("terminalId").and_then(Value::as_str)?.to_owned();
        Some(Self { inner: inner.clone(), session_id: session_id.to_owned(), id, released: false })
    }

    async fn ask(&self, method: &str) -> Asked {
        let params = json!({"sessionId": self.session_id, "terminalId": self.id});
        self.inner.ask(Some(&self.session_id), method, &params).await
    }

    async fn kill(&self) {
        let mut asked = self.ask("terminal/kill").await;
        if !matches!(timeout(KILL, asked.settled()).await, Ok(Some(Ok(_)))) {
            tracing::warn!("a command in a terminal of the client's was perhaps not killed");
        }
    }

    /// The request is on its way when this returns; its answer changes nothing.
    async fn release(mut self) {
        self.released = true;
        let mut asked = self.ask("terminal/release").await;
        self.inner.spawn(async move {
            if !matches!(timeout(ANSWER, asked.settled()).await, Ok(Some(Ok(_)))) {
                tracing::debug!("a terminal was perhaps not released");
            }
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::mem::replace(&mut self.released, true) || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let again = Self {
            inner: self.inner.clone(),
            session_id: std::mem::take(&mut self.session_id),
            id: std::mem::take(&mut self.id),
            released: true,
        };
        self.inner.spawn(async move {
            again.kill().await;
            again.release().await;
        });
    }
}

/// A command that runs.
struct Watch<'a> {
    inner: &'a Arc<Inner>,
    call: &'a HostCall,
    terminal: Terminal,
    /// Output that the daemon knows of.
    shown: String,
    /// A request for the output.
    polling: Option<Asked>,
}

enum Next {
    Withdrawn,
    /// What the client says of the end; `None` when it is gone.
    Exit(Option<Result<Value, RpcError>>),
    Deadline,
    Poll,
    Output(Option<Result<Value, RpcError>>),
}

impl Watch<'_> {
    async fn run(mut self, deadline: Instant, withdrawn: &CancellationToken) -> Option<Outcome> {
        let mut wait = Some(self.terminal.ask("terminal/wait_for_exit").await);
        // Nobody sees the output of a call that is no item.
        let mut poll_at = (!self.call.item_id.is_empty()).then(|| Instant::now() + pause(0));
        let exit = loop {
            let next = tokio::select! {
                biased;
                () = withdrawn.cancelled() => Next::Withdrawn,
                exit = answer_of(&mut wait) => Next::Exit(exit),
                () = sleep_until(deadline) => Next::Deadline,
                output = answer_of(&mut self.polling) => Next::Output(output),
                () = at(poll_at), if self.polling.is_none() => Next::Poll,
            };
            match next {
                // Dropping the terminal ends it.
                Next::Withdrawn => return None,
                Next::Exit(Some(Ok(exit))) => break exit,
                // A client that cannot wait may still say with the output that the command has ended.
                Next::Exit(Some(Err(_))) if poll_at.is_some() => wait = None,
                Next::Exit(Some(Err(error))) => return Some(lost(&error.message)),
                Next::Exit(None) | Next::Output(None) => {
                    return Some(lost("the connection to the client ended"));
                }
                Next::Deadline => break self.end(&mut wait).await,
                Next::Poll => self.polling = Some(self.terminal.ask("terminal/output").await),
                Next::Output(Some(Ok(output))) => {
                    self.polling = None;
                    self.show(&output).await;
                    poll_at = Some(Instant::now() + pause(self.shown.len()));
                    if let Some(exit) = output.get("exitStatus").filter(|exit| exit.is_object()) {
                        break self.confirmed(&mut wait, exit).await;
                    }
                }
                Next::Output(Some(Err(error))) => {
                    self.polling = None;
                    poll_at = None;
                    if wait.is_none() {
                        return Some(lost(&error.message));
                    }
                }
            }
        };
        Some(Outcome::TerminalRun(self.result(&exit).await))
    }

    /// The command's time is over.
    async fn end(&mut self, wait: &mut Option<Asked>) -> Value {
        self.terminal.kill().await;
        match timeout(KILL, answer_of(wait)).await {
            Ok(Some(Ok(exit))) => exit,
            _ => Value::Null,
        }
    }

    /// An end that the output told of: what was asked before is answered at the same time.
    async fn confirmed(&mut self, wait: &mut Option<Asked>, exit: &Value) -> Value {
        match timeout(Duration::from_millis(500), answer_of(wait)).await {
            Ok(Some(Ok(confirmed))) => confirmed,
            _ => exit.clone(),
        }
    }

    async fn result(mut self, exit: &Value) -> TerminalRunResult {
        // It was asked before the end: there may be more.
        let answers = self.polling.is_none() || timeout(ANSWER, answer_of(&mut self.polling)).await.is_ok();
        let mut truncated = false;
        if answers {
            let mut asked = self.terminal.ask("terminal/output").await;
            if let Ok(Some(Ok(output))) = timeout(ANSWER, asked.settled()).await {
                truncated = output.get("truncated").and_then(Value::as_bool).unwrap_or_default();
                self.show(&output).await;
            }
        }
        let code = exit.get("exitCode").and_then(Value::as_i64);
        let result = TerminalRunResult {
            output: std::mem::take(&mut self.shown),
            truncated,
            exit_code: code.and_then(|code| i32::try_from(code).ok()),
            signal: text_of(exit, "signal"),
            terminal_id: self.terminal.id.clone(),
        };
        self.terminal.release().await;
        result
    }

    /// Tells the daemon what is new in the output.
    async fn show(&mut self, output: &Value) {
        let Some(now) = output.get("output").and_then(Value::as_str) else { return };
        let news = news(&self.shown, now);
        now.clone_into(&mut self.shown);
        if self.call.item_id.is_empty() {
            return;
        }
        for piece in pieces(&news) {
            let delta = ToolOutputDelta {
                stream: OutputStream::Stdout as i32,
                text: piece.to_owned(),
                ..ToolOutputDelta::default()
            };
            let request = ReportHostProgressRequest {
                host_call_id: self.call.host_call_id.clone(),
                report: Some(Report::Output(delta)),
                idempotency_key: String::new(),
            };
            if let Err(status) = self.inner.client.hosts().report_host_progress(request).await {
                tracing::debug!(error = status.message(), "output of a terminal came too late");
                return;
            }
        }
    }
}

fn text_of(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Waits for an answer; for ever where nothing was asked.
async fn answer_of(asked: &mut Option<Asked>) -> Option<Result<Value, RpcError>> {
    match asked {
        Some(asked) => asked.settled().await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Until the output is asked for again: each answer repeats all of it.
fn pause(length: usize) -> Duration {
    Duration::from_millis(match length {
        0..=16_384 => 200,
        16_385..=131_072 => 500,
        131_073..=524_288 => 1_500,
        _ => 4_000,
    })
}

/// What `now` says beyond `before`. A terminal drops the beginning of a long output, and changes its last line.
fn news(before: &str, now: &str) -> String {
    if let Some(rest) = now.strip_prefix(before) {
        return rest.to_owned();
    }
    let last_line = before.rfind('\n').map_or(0, |end| end + 1);
    if let Some(line) = now.strip_prefix(&before[..last_line]) {
        return format!("\r{line}");
    }
    let tail = &before[before.ceil_char_boundary(before.len().saturating_sub(OVERLAP))..];
    match now.rfind(tail) {
        Some(found) => now[found + tail.len()..].to_owned(),
        None => format!("\n[...]\n{now}"),
    }
}

/// Text in pieces that a message has room for.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(REPORT));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_are_reported() {
        for (before, now, wanted) in [
            ("", "a\n", "a\n"),
            ("a\n", "a\n", ""),
            ("a\nb", "a\nb\nc", "\nc"),
            ("a\n10%", "a\n20%", "\r20%"),
            ("one\ntwo\nthree\n", "three\nfour\n", "\n[...]\nthree\nfour\n"),
            ("a", "xyz", "\rxyz"),
        ] {
            assert_eq!(news(before, now), wanted, "{before:?} {now:?}");
        }
        // The beginning was dropped: the end of what is known is found again.
        let line = |n: usize| format!("line {n} é\n");
        let text = |lines: std::ops::Range<usize>| lines.map(line).collect::<String>();
        assert_eq!(news(&text(0..500), &text(100..503)), text(500..503));
    }

    #[test]
    fn pieces_are_bounded_and_whole() {
        let text = "é".repeat(REPORT);
        let all: Vec<&str> = pieces(&text).collect();
        assert!(all.len() == 2 && all.iter().all(|piece| piece.len() <= REPORT));
        assert_eq!(all.concat(), text);
        assert_eq!(pieces("").count(), 0);
    }

    #[test]
    fn a_call_has_the_time_that_the_daemon_gives_it() {
        let mut call = HostCall::default();
        assert_eq!(time_left(&call), LONGEST);
        call.deadline = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
        assert_eq!(time_left(&call), Duration::ZERO);
        let soon = OffsetDateTime::now_utc().unix_timestamp() + 60;
        call.deadline = Some(prost_types::Timestamp { seconds: soon, nanos: 0 });
        assert!(time_left(&call) > Duration::from_secs(50) && time_left(&call) <= Duration::from_secs(60));
    }
}
