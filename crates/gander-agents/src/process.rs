//! The agent's process: started in the session's folder, ended as a whole tree.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::Path,
    sync::Arc,
    time::Duration,
};

use gander_domain::{ErrorDetail, ErrorReason};
use gander_process::{Exit, SpawnSpec, Spawner, StdinMode, SupervisedChild, find_program, signal_name};
use tokio::{
    io::BufReader,
    process::{ChildStderr, ChildStdin, ChildStdout},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{Connection, Handler, write},
    failure::Speaker,
    stderr::StderrRing,
};

/// How long the agent may take to end by itself after its stdin was closed.
const LEAVE: Duration = Duration::from_millis(300);
/// How long to wait for the exit status, and the rest of stderr, of an agent that closed its stdout.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A started process, not connected yet.
pub(crate) struct Started {
    child: SupervisedChild,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// Starts the first of the command lines whose program is found.
///
/// # Errors
/// `PROVIDER_NOT_CONFIGURED` when there is none, `PROVIDER_UNAVAILABLE` when it cannot be started.
pub(crate) fn start(
    spawner: &Spawner,
    command_lines: &[Vec<String>],
    directory: &Path,
    environment: BTreeMap<String, String>,
    speaker: &Speaker,
) -> Result<Started, ErrorDetail> {
    let found = command_lines.iter().find(|line| {
        let program = line.first().map_or("", String::as_str);
        find_program(OsStr::new(program), directory, &environment).is_some()
    });
    let Some(line) = found else {
        let wanted: Vec<&str> =
            command_lines.iter().filter_map(|line| Some(line.first()?.as_str())).collect();
        let message =
            format!("the program {} was not found in PATH; install it or set its path", wanted.join(" or "));
        return Err(speaker.error(ErrorReason::ProviderNotConfigured, message));
    };
    let spec = SpawnSpec {
        argv: line.iter().map(OsString::from).collect(),
        working_directory: directory.to_owned(),
        environment,
        stdin: StdinMode::Piped,
    };
    let cannot = |why: &str| speaker.error(ErrorReason::ProviderUnavailable, why);
    let mut child = spawner.spawn(&spec).map_err(|error| cannot(&error.to_string()))?;
    match (child.take_stdin(), child.take_stdout(), child.take_stderr()) {
        (Some(stdin), Some(stdout), Some(stderr)) => Ok(Started { child, stdin, stdout, stderr }),
        _ => Err(cannot("its pipes are missing")),
    }
}

/// Ends a process: tells it to go, and what to do once it has gone.
#[derive(Clone)]
pub(crate) struct ProcessEnd {
    /// Cancel it to end the process.
    pub(crate) close: CancellationToken,
    /// Cancelled once the process and everything below it is gone.
    pub(crate) gone: CancellationToken,
}

impl Started {
    /// Connects the pipes. The returned token owns the process; `on_end` is told why it ended.
    pub(crate) fn connect(
        self,
        connection: &Arc<Connection>,
        outgoing: tokio::sync::mpsc::Receiver<String>,
        handler: Arc<dyn Handler>,
        speaker: Speaker,
        stderr: Arc<StderrRing>,
    ) -> ProcessEnd {
        let end = ProcessEnd { close: CancellationToken::new(), gone: CancellationToken::new() };
        let ring = stderr.clone();
        let errors = tokio::spawn(async move { ring.fill(self.stderr).await });
        let writer = tokio::spawn(write(self.stdin, outgoing));
        let (connection, close, gone) = (connection.clone(), end.close.clone(), end.gone.clone());
        let (mut child, stdout) = (self.child, self.stdout);
        tokio::spawn(async move {
            let read = tokio::select! {
                biased;
                () = close.cancelled() => None,
                read = connection.read(BufReader::new(stdout), handler) => Some(read),
            };
            // Dropping the writer closes the agent's stdin, which tells it to leave.
            writer.abort();
            let (error, exit) = match read {
                None => (speaker.error(ErrorReason::ProviderUnavailable, "it was stopped"), None),
                Some(Err(error)) => {
                    (speaker.error(ErrorReason::ProviderUnavailable, error.to_string()), None)
                }
                Some(Ok(())) => {
                    let exit = timeout(LAST_WORDS, child.wait()).await.ok().and_then(Result::ok);
                    let _ = timeout(LAST_WORDS, errors).await;
                    (ended(&speaker, exit, &stderr.tail()), exit)
                }
            };
            connection.end(&error);
            if exit.is_none() && timeout(LEAVE, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
            gone.cancel();
        });
        end
    }
}

fn ended(speaker: &Speaker, exit: Option<Exit>, stderr: &str) -> ErrorDetail {
    let how = match exit {
        Some(Exit { signal: Some(signal), .. }) => format!("was killed by {}", signal_name(signal)),
        Some(Exit { code, .. }) => format!("exited with code {code}"),
        None => "closed its connection".to_owned(),
    };
    let error = speaker.with_stderr(ErrorReason::ProviderUnavailable, &format!("its process {how}"), stderr);
    match exit {
        Some(exit) => error.with("exitCode", exit.code),
        None => error,
    }
}
