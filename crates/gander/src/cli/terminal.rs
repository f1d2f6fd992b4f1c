//! Reading from the person at the terminal.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Read as _},
    thread,
};

use rustix::termios::{LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

use super::error::{CliError, CliResult};

/// Lines that may wait. Nobody types faster than they are read.
const WAITING_LINES: usize = 16;
/// More than the daemon takes in one request.
const MAX_STDIN: u64 = 64 * 1024 * 1024;

/// Lines typed at the terminal. The thread that reads them starts with the first question and ends with the process:
/// a read of a terminal cannot be cancelled.
#[derive(Default)]
pub(super) struct Lines {
    receiver: Option<mpsc::Receiver<Option<String>>>,
}

impl Lines {
    /// Forgets what was typed before the question could be read, so that it never answers it.
    pub(super) fn listen_afresh(&mut self) {
        let _ = tcflush(io::stdin(), QueueSelector::IFlush);
        match &mut self.receiver {
            Some(receiver) => while receiver.try_recv().is_ok() {},
            None => self.receiver = Some(start()),
        }
    }

    /// The next line; `None` at the end of the input. Pends for ever before the first question.
    pub(super) async fn next(&mut self) -> Option<String> {
        match &mut self.receiver {
            Some(receiver) => receiver.recv().await.flatten(),
            None => std::future::pending().await,
        }
    }
}

fn start() -> mpsc::Receiver<Option<String>> {
    let (sender, receiver) = mpsc::channel(WAITING_LINES);
    let read = move || {
        for line in io::stdin().lock().lines() {
            if sender.blocking_send(line.ok()).is_err() {
                return;
            }
        }
        let _ = sender.blocking_send(None);
    };
    // Without the thread the channel is closed, which reads as the end of the input.
    let _ = thread::Builder::new().name("terminal".to_owned()).spawn(read);
    receiver
}

/// Everything on stdin as text.
pub(super) fn read_stdin() -> CliResult<String> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(MAX_STDIN)
        .read_to_string(&mut text)
        .map_err(|error| CliError::new(format!("cannot read stdin: {error}")))?;
    Ok(text)
}

/// A line from stdin; on a terminal what is typed is not shown.
pub(super) fn read_secret() -> CliResult<String> {
    let _guard = if io::stdin().is_terminal() { NoEcho::new() } else { None };
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| CliError::new(format!("cannot read stdin: {error}")))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// A line from the terminal.
pub(super) fn read_line() -> CliResult<String> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| CliError::new(format!("cannot read stdin: {error}")))?;
    Ok(line)
}

/// Turns the echo off for its life.
struct NoEcho(Termios);

impl NoEcho {
    fn new() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &quiet).ok()?;
        Some(Self(before))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
