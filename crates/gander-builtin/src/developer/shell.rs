//! The tool `shell`.
//!
//! One call is one tree of processes: it is gone when the call is over, whether the command exits, runs out of time,
//! or is cancelled. Output is sent on while the command runs, in order and before the result; a client that does not
//! take it slows the command down and nothing else. Where an attached editor offers terminals the command runs in one
//! (see `terminal`), once and only there.

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use gander_process::{Exit, SpawnSpec, StdinMode, SupervisedChild, find_program, signal_name};
use rmcp::{
    model::{CallToolResult, ContentBlock, CustomNotification, ProgressToken, ServerNotification},
    service::{Peer, RequestContext, RoleServer},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::{sleep, timeout},
};

use super::{
    Shared, ToolError, ToolResult, cancelled,
    capture::{Capture, Captured, Decoder},
    terminal::{self, Attempt},
};
use crate::{context::OUTPUT_DIRECTORY, paths::Access};

/// The notification that carries live output, to a caller that gave a progress token. Its params are
/// `{"progressToken": token, "stream": "stdout" | "stderr", "text": "..."}`.
pub const OUTPUT_NOTIFICATION: &str = "notifications/gander/output";

pub(super) const DESCRIPTION: &str = "Runs a command in bash (or sh) and returns its output, stdout and stderr \
together, and its exit code. It starts in the working directory each time: `cd` and variables do not carry over. There \
is no input and no terminal, so use flags that avoid questions. Everything that the command starts, background \
processes included, ends when the command does; a server to test against must be started and used in one call. Long \
output is cut in the middle and kept in a file that is named in the result.";

const DEFAULT_TIMEOUT: u64 = 300;
const MAX_TIMEOUT: u64 = 24 * 60 * 60;
/// Bytes read, and sent on, at once.
const CHUNK: usize = 8 * 1024;
/// How long to wait for more after the command has ended: only a process that got away can keep a pipe open then.
const DRAIN: Duration = Duration::from_millis(200);
/// More than two pipes can hold. What comes beyond it was not written by the command.
const MAX_DRAINED: usize = 2 * 1024 * 1024;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// The command line, as for bash -c.
    command: String,
    /// Seconds after which the command is killed, 1 to 86400. Default 300.
    #[schemars(range(min = 1, max = 86400))]
    timeout_seconds: Option<u64>,
    /// The folder to run in. Default: the working directory.
    working_directory: Option<String>,
}

/// Variables that say that nobody is there to turn a page, answer a question, or see colours.
pub(super) const ALONE: [(&str, &str); 4] =
    [("TERM", "dumb"), ("PAGER", "cat"), ("GIT_PAGER", "cat"), ("GIT_TERMINAL_PROMPT", "0")];

enum End {
    Exited(Exit),
    TimedOut,
    Cancelled,
}

pub(super) async fn run(
    shared: &Shared,
    arguments: Arguments,
    call: &RequestContext<RoleServer>,
) -> ToolResult {
    let spec = spec(shared, &arguments)?;
    let seconds = arguments.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT).clamp(1, MAX_TIMEOUT);
    if call.ct.is_cancelled() || shared.closing.is_cancelled() {
        return Err(cancelled());
    }
    let refused = match terminal::run(shared, &spec, seconds, call).await? {
        Attempt::Ran(result) => return Ok(result),
        Attempt::NotStarted(reason) => Some(reason),
        Attempt::Nobody => None,
    };
    let result = here(shared, &spec, seconds, call).await?;
    Ok(match refused {
        Some(reason) => terminal::with_note(result, &reason),
        None => result,
    })
}

/// Runs the command on this machine, as a child of the daemon's supervisor.
async fn here(
    shared: &Shared,
    spec: &SpawnSpec,
    seconds: u64,
    call: &RequestContext<RoleServer>,
) -> ToolResult {
    let spawned = shared.context.spawner.spawn_sandboxed(spec, shared.context.sandbox.as_ref());
    let mut child =
        spawned.map_err(|error| ToolError::new(format!("the command was not started: {error}")))?;
    let mut streams = Streams::new(&mut child, capture(shared), call);
    let end = tokio::select! {
        biased;
        () = call.ct.cancelled() => End::Cancelled,
        () = shared.closing.cancelled() => End::Cancelled,
        exit = streams.run(&mut child) => End::Exited(exit.map_err(|error| lost(&error))?),
        () = sleep(Duration::from_secs(seconds)) => End::TimedOut,
    };
    if !matches!(end, End::Exited(_)) {
        if let Err(error) = child.kill().await {
            tracing::warn!(pid = child.pid(), %error, "a command could not be killed");
        }
        // What it wrote before it died is worth having, but nobody waits for a client now.
        streams.live = Live::default();
        streams.drain().await;
    }
    let capture = streams.finish().await;
    if matches!(end, End::Cancelled) {
        return Err(cancelled());
    }
    let ending = match end {
        End::Exited(exit) => {
            Ending { code: Some(exit.code), signal: exit.signal.map(signal_name), timed_out: false }
        }
        End::TimedOut | End::Cancelled => Ending { timed_out: true, ..Ending::default() },
    };
    Ok(render(capture.finish().await, &ending, seconds))
}

/// Where the output of a command is kept.
pub(super) fn capture(shared: &Shared) -> Capture {
    Capture::new(shared.context.data_dir.join(OUTPUT_DIRECTORY))
}

fn lost(error: &io::Error) -> ToolError {
    ToolError::new(format!("the command's end could not be observed: {error}"))
}

/// The command with its shell, folder and environment.
fn spec(shared: &Shared, arguments: &Arguments) -> Result<SpawnSpec, ToolError> {
    if arguments.command.trim().is_empty() {
        return Err(ToolError::new("command is empty"));
    }
    let folder = arguments.working_directory.as_deref().unwrap_or(".");
    let working_directory = shared.guard.check(folder, Access::Read)?;
    if !working_directory.is_dir() {
        return Err(ToolError::new(format!("working_directory: {folder} does not exist or is no folder")));
    }
    let mut environment = shared.context.environment.clone();
    for (name, value) in ALONE {
        environment.insert(name.to_owned(), value.to_owned());
    }
    let shell = shell(&working_directory, &environment);
    let argv = vec![shell.into_os_string(), "-c".into(), arguments.command.clone().into()];
    Ok(SpawnSpec { argv, working_directory, environment, stdin: StdinMode::Null })
}

fn shell(directory: &Path, environment: &std::collections::BTreeMap<String, String>) -> PathBuf {
    let found =
        ["bash", "sh"].into_iter().find_map(|name| find_program(name.as_ref(), directory, environment));
    found.unwrap_or_else(|| PathBuf::from("/bin/sh"))
}

type Pipe = Box<dyn AsyncRead + Send + Unpin>;

/// One of the command's output pipes.
struct Source {
    name: &'static str,
    /// `None` once it has ended.
    pipe: Option<Pipe>,
    decoder: Decoder,
    buffer: Box<[u8]>,
}

impl Source {
    fn new(name: &'static str, pipe: Option<impl AsyncRead + Send + Unpin + 'static>) -> Self {
        let pipe = pipe.map(|pipe| Box::new(pipe) as Pipe);
        Self { name, pipe, decoder: Decoder::default(), buffer: vec![0; CHUNK].into_boxed_slice() }
    }

    /// The next text, possibly empty; waits forever once the pipe has ended. Nothing is lost when this is dropped.
    async fn next(&mut self) -> String {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        match pipe.read(&mut self.buffer).await {
            Ok(0) | Err(_) => {
                self.pipe = None;
                self.decoder.finish()
            }
            Ok(length) => self.decoder.push(&self.buffer[..length]),
        }
    }
}

/// Both pipes and where their text goes.
struct Streams {
    out: Source,
    err: Source,
    capture: Capture,
    live: Live,
}

/// Who listens to live output, as long as it does.
#[derive(Default)]
pub(super) struct Live(Option<(Peer<RoleServer>, ProgressToken)>);

impl Live {
    pub(super) fn new(call: &RequestContext<RoleServer>) -> Self {
        Self(call.meta.get_progress_token().map(|token| (call.peer.clone(), token)))
    }

    pub(super) async fn send(&mut self, stream: &'static str, text: &str) {
        let Some((peer, token)) = &self.0 else { return };
        let params = json!({ "progressToken": token, "stream": stream, "text": text });
        let notification = CustomNotification::new(OUTPUT_NOTIFICATION, Some(params));
        // Sends run side by side inside rmcp: only one that has been waited for is before the next.
        if peer.send_notification(ServerNotification::CustomNotification(notification)).await.is_err() {
            self.0 = None;
        }
    }
}

impl Streams {
    fn new(child: &mut SupervisedChild, capture: Capture, call: &RequestContext<RoleServer>) -> Self {
        Self {
            out: Source::new("stdout", child.take_stdout()),
            err: Source::new("stderr", child.take_stderr()),
            capture,
            live: Live::new(call),
        }
    }

    /// Passes output on until the command has ended and its pipes have, or nothing more comes.
    ///
    /// Only waiting for something may be given up halfway; passing it on may not, or output would be lost or
    /// overtaken.
    async fn run(&mut self, child: &mut SupervisedChild) -> io::Result<Exit> {
        let mut wait = pin!(child.wait());
        loop {
            let (stream, text) = tokio::select! {
                exit = &mut wait => {
                    let exit = exit?;
                    self.drain().await;
                    return Ok(exit);
                }
                piece = self.next() => piece,
            };
            self.emit(stream, text).await;
        }
    }

    /// Passes on what is still in the pipes of a command that has ended.
    async fn drain(&mut self) {
        let mut drained = 0;
        while drained < MAX_DRAINED && (self.out.pipe.is_some() || self.err.pipe.is_some()) {
            let Ok((stream, text)) = timeout(DRAIN, self.next()).await else { return };
            drained += text.len();
            self.emit(stream, text).await;
        }
    }

    /// The next piece of output from wherever there is some.
    async fn next(&mut self) -> (&'static str, String) {
        tokio::select! {
            text = self.out.next() => (self.out.name, text),
            text = self.err.next() => (self.err.name, text),
        }
    }

    async fn emit(&mut self, stream: &'static str, text: String) {
        if text.is_empty() {
            return;
        }
        self.capture.push(&text).await;
        self.live.send(stream, &text).await;
    }

    /// Ends both streams; a character that was begun is now known to be broken.
    async fn finish(mut self) -> Capture {
        for (name, rest) in
            [(self.out.name, self.out.decoder.finish()), (self.err.name, self.err.decoder.finish())]
        {
            self.emit(name, rest).await;
        }
        self.capture
    }
}

/// How a command ended, for its result.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// `None` where there is none, or nobody knows it.
    pub(super) code: Option<i32>,
    /// By name.
    pub(super) signal: Option<String>,
    /// It was ended because its time was over.
    pub(super) timed_out: bool,
}

pub(super) fn render(captured: Captured, ending: &Ending, seconds: u64) -> CallToolResult {
    let Captured { mut text, original_bytes } = captured;
    let Ending { code, signal, timed_out } = ending;
    let last = match (code, signal) {
        _ if *timed_out => Some(format!("killed after {seconds} s: the time was over (see timeout_seconds)")),
        (Some(0), _) => None,
        (Some(code), Some(signal)) => Some(format!("exit code {code} ({signal})")),
        (Some(code), None) => Some(format!("exit code {code}")),
        (None, Some(signal)) => Some(format!("ended by {signal}")),
        (None, None) => Some("ended without an exit code".to_owned()),
    };
    if text.is_empty() && last.is_none() {
        text.push_str("(no output)");
    }
    if let Some(last) = &last {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(last);
    }
    let structured = json!({
        "exit_code": code,
        "signal": signal,
        "timed_out": timed_out,
        "truncated": original_bytes.map_or(Value::Null, |bytes| json!({ "original_bytes": bytes })),
    });
    let content = vec![ContentBlock::text(text)];
    let mut result =
        if last.is_some() { CallToolResult::error(content) } else { CallToolResult::success(content) };
    result.structured_content = Some(structured);
    result
}
