//! The actor that supervises one server: it connects, watches, restarts after a crash with backoff, and gives up when
//! crashes come too fast.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use gander_domain::{ErrorDetail, ErrorReason, extension::ExtensionState};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    connect::{self, End, Running, StartError},
    connection::Connection,
    oauth::{self, Challenge, Refusal, Step},
    server::{Command, Server},
    upkeep,
};

/// Crashes within [`CRASH_WINDOW`] after which the server is given up.
const MAX_CRASHES: usize = 5;
const CRASH_WINDOW: Duration = Duration::from_secs(60);
/// Delay before the first restart; doubles with each crash in the window.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Why supervision of a running server ended.
enum Over {
    Stopped,
    /// Nobody needs it now.
    Unused,
    Refused(Refusal),
    Ended(End),
    Restart(oneshot::Sender<Result<(), ErrorDetail>>),
}

/// Supervises one server until it is stopped. `previous` is the end of the server that it replaces.
pub(crate) async fn run(
    server: Arc<Server>,
    commands: mpsc::Receiver<Command>,
    previous: Option<CancellationToken>,
) {
    // However this ends, those who wait for it learn of it.
    let _done = server.done.clone().drop_guard();
    if let Some(previous) = previous {
        previous.cancelled().await;
    }
    if server.is_client() {
        server.enter(ExtensionState::Ready, "", None, None);
        server.stop.cancelled().await;
    } else {
        Actor { server: Arc::clone(&server), commands, crashes: VecDeque::new() }.run().await;
    }
    server.enter(ExtensionState::Stopped, "removed", None, None);
}

/// Ends when the server was parked. Both connections that it counts are the caller's.
async fn until_parked(server: &Server, connection: &Arc<Connection>) {
    loop {
        upkeep::unused(server, connection).await;
        if server.park(connection) {
            return;
        }
    }
}

struct Actor {
    server: Arc<Server>,
    commands: mpsc::Receiver<Command>,
    crashes: VecDeque<Instant>,
}

impl Actor {
    async fn run(mut self) {
        let server = Arc::clone(&self.server);
        let mut reply = None;
        server.enter(ExtensionState::Starting, "", None, None);
        loop {
            let started = tokio::select! {
                biased;
                () = server.stop.cancelled() => return,
                started = connect::connect(&server) => started,
            };
            let next = match started {
                Ok(running) => Box::pin(self.ready(running, reply.take())).await,
                Err(error) => self.not_started(error, reply.take()).await,
            };
            match next {
                Next::Stop => return,
                Next::Again(answer) => reply = answer,
            }
        }
    }

    /// From ready to whatever comes after.
    async fn ready(&mut self, mut running: Running, reply: Option<Reply>) -> Next {
        let server = Arc::clone(&self.server);
        let listed_before = !server.tools().is_empty();
        server.live().troubles.clear();
        let tools = std::mem::take(&mut running.tools);
        let diff = server.take_tools(&tools.entries);
        if let Some(cause) = tools.cut {
            server.live().troubles.insert("tools", (cause, None));
        }
        server.live().info = Some(Arc::clone(&running.connection.info));
        if !server.unpark(&running.connection) {
            server.live().connection = Some(Arc::clone(&running.connection));
            server.access().connected();
            server.enter_running();
        }
        server.settle();
        if listed_before && !diff.is_empty() {
            server.report_list("tools", diff);
        }
        if let Some(reply) = reply {
            let _ = reply.send(Ok(()));
        }
        match self.supervise(&mut running).await {
            Over::Stopped => {
                running.close(&format!("extension {} was stopped", server.key())).await;
                Next::Stop
            }
            Over::Unused => {
                running.close(&format!("extension {} is not in use", server.key())).await;
                self.parked().await
            }
            Over::Restart(reply) => {
                self.crashes.clear();
                server.live().attempt = 0;
                server.enter(ExtensionState::Starting, "restart requested", None, None);
                running.close(&format!("extension {} is being restarted", server.key())).await;
                Next::Again(Some(reply))
            }
            Over::Refused(refusal) => {
                let (_, _, error) = oauth::refused(&server, &refusal);
                running.close(&error.message).await;
                self.refused(&refusal, None).await
            }
            Over::Ended(end) => {
                let tail = server.stderr().tail();
                let mut text = format!("extension {} went away during the call: {}", server.key(), end.cause);
                if !tail.is_empty() {
                    text.push_str("; its last words: ");
                    text.push_str(&tail);
                }
                running.connection.end(text);
                drop(running);
                self.crashed(&end.cause, end.exit_code, None).await
            }
        }
    }

    async fn supervise(&mut self, running: &mut Running) -> Over {
        let server = Arc::clone(&self.server);
        let connection = Arc::clone(&running.connection);
        tokio::select! {
            biased;
            () = server.stop.cancelled() => Over::Stopped,
            command = self.commands.recv() => match command {
                Some(Command::Restart(reply)) => Over::Restart(reply),
                None => Over::Stopped,
            },
            end = running.ended() => Over::Ended(end),
            refusal = oauth::answer_challenges(&server, &connection) => Over::Refused(refusal),
            () = Box::pin(upkeep::run(&server, &connection)) => Over::Stopped,
            () = until_parked(&server, &connection) => Over::Unused,
        }
    }

    /// A builtin that is made again when somebody needs it. For all others it is ready as before.
    async fn parked(&mut self) -> Next {
        let server = Arc::clone(&self.server);
        tokio::select! {
            biased;
            () = server.stop.cancelled() => Next::Stop,
            command = self.commands.recv() => self.restarted(command),
            () = server.needed.notified() => Next::Again(None),
        }
    }

    /// A server that wants authorization: from the store if possible, else from the user.
    async fn authorize(&mut self, challenge: Challenge, reply: Option<Reply>) -> Next {
        let server = Arc::clone(&self.server);
        let mut reply = reply;
        let getting = async {
            match oauth::prepare(&server, &challenge).await? {
                Step::Authorized => Ok(()),
                Step::Ask(question) => {
                    if let Some(reply) = reply.take() {
                        // Whoever asked for the start must not wait for a person.
                        let _ = reply.send(Err(oauth::needs_auth(&server, challenge.kind)));
                    }
                    oauth::ask_openly(&server, challenge.kind, *question).await
                }
            }
        };
        let outcome = tokio::select! {
            biased;
            () = server.stop.cancelled() => return Next::Stop,
            command = self.commands.recv() => return self.restarted(command),
            outcome = Box::pin(getting) => outcome,
        };
        match outcome {
            Ok(()) => {
                if server.state() == ExtensionState::NeedsAuth {
                    server.enter(ExtensionState::Starting, "authorized", None, None);
                }
                Next::Again(reply)
            }
            Err(refusal) => self.refused(&refusal, reply).await,
        }
    }

    /// A server that did not get its authorization.
    async fn refused(&mut self, refusal: &Refusal, reply: Option<Reply>) -> Next {
        let (state, cause, error) = oauth::refused(&self.server, refusal);
        self.server.enter(state, &cause, Some(error.clone()), None);
        if let Some(reply) = reply {
            let _ = reply.send(Err(error));
        }
        self.wait_for_restart().await
    }

    fn restarted(&mut self, command: Option<Command>) -> Next {
        let Some(Command::Restart(reply)) = command else { return Next::Stop };
        self.crashes.clear();
        self.server.access().restarted();
        self.server.live().attempt = 0;
        self.server.enter(ExtensionState::Starting, "restart requested", None, None);
        Next::Again(Some(reply))
    }

    /// A start that failed: final, unless it was a restart after a crash.
    async fn not_started(&mut self, error: StartError, reply: Option<Reply>) -> Next {
        let server = Arc::clone(&self.server);
        if error.needs_auth
            && let Some(challenge) = server.access().take_challenge()
        {
            return Box::pin(self.authorize(challenge, reply)).await;
        }
        if server.state() == ExtensionState::Restarting && !error.needs_auth {
            return self.crashed(&error.error.message, error.exit_code, Some(error.error.clone())).await;
        }
        let state = if error.needs_auth { ExtensionState::NeedsAuth } else { ExtensionState::Failed };
        let cause = error.error.message.clone();
        server.enter(state, &cause, Some(error.error.clone()), error.exit_code);
        if let Some(reply) = reply {
            let _ = reply.send(Err(error.error));
        }
        self.wait_for_restart().await
    }

    async fn wait_for_restart(&mut self) -> Next {
        let server = Arc::clone(&self.server);
        tokio::select! {
            biased;
            () = server.stop.cancelled() => Next::Stop,
            command = self.commands.recv() => self.restarted(command),
        }
    }

    /// A running server ended, or one did not come back: again after a delay, or never.
    async fn crashed(&mut self, cause: &str, exit_code: Option<i32>, error: Option<ErrorDetail>) -> Next {
        let server = Arc::clone(&self.server);
        let at = Instant::now();
        self.crashes.push_back(at);
        while self.crashes.front().is_some_and(|crash| at.duration_since(*crash) > CRASH_WINDOW) {
            self.crashes.pop_front();
        }
        if self.crashes.len() > MAX_CRASHES {
            let cause = format!("crash_loop: {} crashes within 60 s; the last: {cause}", self.crashes.len());
            let detail = error.unwrap_or_else(|| {
                ErrorDetail::new(
                    ErrorReason::ExtensionUnavailable,
                    format!(
                        "extension {} keeps crashing ({cause}); restart it when it is repaired",
                        server.key()
                    ),
                )
                .with("extensionName", server.key())
            });
            server.enter(ExtensionState::Failed, &cause, Some(detail), exit_code);
            return self.wait_for_restart().await;
        }
        let exponent = u32::try_from(self.crashes.len()).unwrap_or(1).saturating_sub(1);
        let delay = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(exponent)).min(MAX_BACKOFF);
        server.live().attempt = exponent + 1;
        server.enter(ExtensionState::Restarting, cause, None, exit_code);
        let due = at + delay;
        tokio::select! {
            biased;
            () = server.stop.cancelled() => Next::Stop,
            command = self.commands.recv() => match command {
                Some(Command::Restart(reply)) => Next::Again(Some(reply)),
                None => Next::Stop,
            },
            () = sleep_until(due) => Next::Again(None),
        }
    }
}

type Reply = oneshot::Sender<Result<(), ErrorDetail>>;

enum Next {
    Stop,
    Again(Option<Reply>),
}
