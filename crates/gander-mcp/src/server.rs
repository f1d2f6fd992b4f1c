//! One server of a session and the actor that supervises it.
//!
//! The actor is the only one who changes the state. It connects, watches, refetches lists, restarts after a crash
//! with backoff, and gives up when crashes come too fast; every change goes out as an event with its cause.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use gander_domain::{
    ErrorDetail, ErrorReason, Timestamp,
    event::ListChange,
    extension::{
        ExtensionConfig, ExtensionState, ExtensionStateChange, ExtensionStatus, ExtensionSummary,
        ExtensionTransport,
    },
};
use rmcp::model::ServerPeerInfo;
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::{self, Tool, ToolDiff},
    config,
    connect::{self, End, Running, StartError},
    connection::Connection,
    events::{HostEvent, Outbox},
    host::{McpHost, SessionContext},
    lists::{self, LIST_TIMEOUT, List},
    session::SessionInner,
    stderr::StderrRing,
};

/// Crashes within [`CRASH_WINDOW`] after which the server is given up.
const MAX_CRASHES: usize = 5;
const CRASH_WINDOW: Duration = Duration::from_secs(60);
/// Delay before the first restart; doubles with each crash in the window.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Changes of a list within this time are fetched once.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How long a call waits for a server that is being started again.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Requests to the actor.
pub(crate) enum Command {
    Restart(oneshot::Sender<Result<(), ErrorDetail>>),
}

/// What a server is made of.
pub(crate) struct Parts {
    pub(crate) host: Arc<McpHost>,
    pub(crate) context: Arc<SessionContext>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) summary: ExtensionSummary,
    pub(crate) config: ExtensionConfig,
    pub(crate) secrets: BTreeMap<String, String>,
}

/// What changes.
struct Live {
    state: ExtensionState,
    cause: String,
    error: Option<ErrorDetail>,
    attempt: u32,
    state_time: Timestamp,
    info: Option<Arc<ServerPeerInfo>>,
    tools: Vec<Arc<Tool>>,
    generation: u64,
    connection: Option<Arc<Connection>>,
    /// A state was reported before.
    reported: bool,
}

/// One server of a session.
pub(crate) struct Server {
    parts: Parts,
    sensitive: Vec<String>,
    stderr: Arc<StderrRing>,
    live: Mutex<Live>,
    /// Counts changes of state.
    changes: watch::Sender<u64>,
    commands: mpsc::Sender<Command>,
    /// Tells the actor to stop.
    pub(crate) stop: CancellationToken,
    /// The actor has ended and nothing of the server is left.
    pub(crate) done: CancellationToken,
    session: Weak<SessionInner>,
}

fn now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
}

impl Server {
    /// A server that has not been started, and the receiver for its actor.
    pub(crate) fn new(
        parts: Parts,
        session: Weak<SessionInner>,
        stop: CancellationToken,
    ) -> (Arc<Self>, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(8);
        let sensitive = config::sensitive_values(&parts.config, &parts.secrets);
        let mut live = Live {
            state: ExtensionState::Starting,
            cause: String::new(),
            error: None,
            attempt: 0,
            state_time: now(),
            info: None,
            tools: Vec::new(),
            generation: 0,
            connection: None,
            reported: false,
        };
        if let ExtensionTransport::Client { tools, .. } = &parts.config.transport {
            let tools = tools.iter().map(|tool| catalog::from_client(&parts.summary.key, tool)).collect();
            live.tools = catalog::select(tools, &parts.config.tool_allowlist);
        }
        let server = Self {
            stderr: StderrRing::new(sensitive.clone()),
            sensitive,
            parts,
            live: Mutex::new(live),
            changes: watch::Sender::new(0),
            commands,
            stop,
            done: CancellationToken::new(),
            session,
        };
        (Arc::new(server), received)
    }

    pub(crate) fn key(&self) -> &str {
        &self.parts.summary.key
    }

    pub(crate) fn host(&self) -> &McpHost {
        &self.parts.host
    }

    pub(crate) fn context(&self) -> &SessionContext {
        &self.parts.context
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.parts.outbox
    }

    pub(crate) fn summary(&self) -> &ExtensionSummary {
        &self.parts.summary
    }

    pub(crate) fn config(&self) -> &ExtensionConfig {
        &self.parts.config
    }

    pub(crate) fn secrets(&self) -> &BTreeMap<String, String> {
        &self.parts.secrets
    }

    pub(crate) fn sensitive(&self) -> &[String] {
        &self.sensitive
    }

    pub(crate) fn stderr(&self) -> &Arc<StderrRing> {
        &self.stderr
    }

    pub(crate) fn is_client(&self) -> bool {
        matches!(self.parts.config.transport, ExtensionTransport::Client { .. })
    }

    pub(crate) fn call_timeout(&self) -> Option<Duration> {
        self.parts.config.timeout_ms.map(Duration::from_millis)
    }

    pub(crate) fn tools(&self) -> Vec<Arc<Tool>> {
        self.live().tools.clone()
    }

    pub(crate) fn state(&self) -> ExtensionState {
        self.live().state
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn live(&self) -> std::sync::MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> ExtensionStatus {
        let live = self.live();
        let info = live.info.as_deref();
        let server = info.and_then(|info| info.server_info.as_ref());
        let instructions = match &self.parts.config.transport {
            ExtensionTransport::Client { instructions, .. } => instructions.clone(),
            _ => info.and_then(|info| info.instructions.clone()),
        };
        ExtensionStatus {
            summary: self.parts.summary.clone(),
            state: live.state,
            cause: live.cause.clone(),
            error: live.error.clone(),
            config: config::withheld(&self.parts.config),
            server_name: server.map(|server| server.name.clone()).unwrap_or_default(),
            server_version: server.map(|server| server.version.clone()).unwrap_or_default(),
            protocol_version: info.map(|info| info.protocol_version.to_string()).unwrap_or_default(),
            instructions,
            tool_count: u32::try_from(live.tools.len()).unwrap_or(u32::MAX),
            attempt: live.attempt,
            state_time: live.state_time,
            stderr_tail: self.stderr.tail(),
        }
    }

    /// A live connection; waits while the server is being started (again).
    pub(crate) async fn connection(&self, deadline: Instant) -> Result<Arc<Connection>, ErrorDetail> {
        let mut changes = self.changes.subscribe();
        let deadline = deadline.min(Instant::now() + RECONNECT_PATIENCE);
        loop {
            let unavailable = {
                let live = self.live();
                if let Some(connection) = live.connection.as_ref().filter(|c| c.is_alive()) {
                    return Ok(Arc::clone(connection));
                }
                let waiting = matches!(live.state, ExtensionState::Starting | ExtensionState::Restarting)
                    || live.connection.is_some();
                let cause = live.error.as_ref().map_or(live.cause.as_str(), |error| error.message.as_str());
                let state = format!("{:?}", live.state).to_lowercase();
                let error = ErrorDetail::new(
                    ErrorReason::ExtensionUnavailable,
                    format!("extension {} is {state}: {cause}", self.key()),
                )
                .with("extensionName", self.key())
                .with("state", state);
                (error, waiting)
            };
            let (error, waiting) = unavailable;
            if !waiting || !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return Err(error);
            }
        }
    }

    /// Starts it anew; answers when it is ready or has failed.
    pub(crate) async fn restart(&self) -> Result<(), ErrorDetail> {
        let stopped = || {
            ErrorDetail::new(ErrorReason::ExtensionNotFound, format!("extension {} was removed", self.key()))
                .with("extensionName", self.key())
        };
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Restart(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Changes the state and reports it.
    fn enter(&self, to: ExtensionState, cause: &str, error: Option<ErrorDetail>, exit_code: Option<i32>) {
        let cause = crate::stderr::clean(cause, &self.sensitive);
        let change = {
            let mut live = self.live();
            let from = live.reported.then_some(live.state);
            live.reported = true;
            live.state = to;
            live.cause.clone_from(&cause);
            live.error = error;
            live.state_time = now();
            if !matches!(to, ExtensionState::Ready | ExtensionState::Degraded) {
                live.connection = None;
            }
            let troubled =
                matches!(to, ExtensionState::Failed | ExtensionState::Restarting | ExtensionState::NeedsAuth);
            ExtensionStateChange {
                key: self.key().to_owned(),
                from,
                to,
                cause,
                attempt: live.attempt,
                exit_code,
                stderr_tail: if troubled { self.stderr.tail() } else { String::new() },
            }
        };
        self.parts.outbox.push(HostEvent::StateChanged(change));
        self.changes.send_modify(|count| *count += 1);
    }

    /// Takes over a list of tools and returns the difference.
    fn take_tools(&self, entries: &[Value]) -> ToolDiff {
        let trusted = matches!(self.parts.config.transport, ExtensionTransport::Builtin);
        let tools =
            entries.iter().filter_map(|entry| catalog::from_mcp(self.key(), trusted, entry)).collect();
        let tools = catalog::select(tools, &self.parts.config.tool_allowlist);
        let diff = {
            let mut live = self.live();
            let diff = ToolDiff::between(&live.tools, &tools);
            if diff.is_empty() {
                return diff;
            }
            live.tools = tools;
            diff
        };
        if let Some(session) = self.session.upgrade() {
            session.rebuild();
        }
        diff
    }

    fn report_list(&self, list: &str, diff: ToolDiff) {
        let generation = {
            let mut live = self.live();
            live.generation += 1;
            live.generation
        };
        self.parts.outbox.push(HostEvent::ListChanged(ListChange {
            extension_name: self.key().to_owned(),
            list: list.to_owned(),
            added: diff.added,
            removed: diff.removed,
            changed: diff.changed,
            generation,
        }));
    }
}

/// Why supervision of a running server ended.
enum Over {
    Stopped,
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
        Box::pin(Actor { server: Arc::clone(&server), commands, crashes: VecDeque::new() }.run()).await;
    }
    server.enter(ExtensionState::Stopped, "removed", None, None);
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
                Ok(running) => self.ready(running, reply.take()).await,
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
        let diff = server.take_tools(&running.tools);
        {
            let mut live = server.live();
            live.connection = Some(Arc::clone(&running.connection));
            live.info = Some(Arc::clone(&running.connection.info));
        }
        server.enter(ExtensionState::Ready, "", None, None);
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
            Over::Restart(reply) => {
                self.crashes.clear();
                server.live().attempt = 0;
                server.enter(ExtensionState::Starting, "restart requested", None, None);
                running.close(&format!("extension {} is being restarted", server.key())).await;
                Next::Again(Some(reply))
            }
            Over::Ended(end) => {
                let tail = server.stderr.tail();
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
        let lists = async {
            loop {
                let changed = connection.shared.signals.lists_changed().await;
                sleep(DEBOUNCE).await;
                for list in changed {
                    self::refetch(&server, &connection, list).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = server.stop.cancelled() => Over::Stopped,
            command = self.commands.recv() => match command {
                Some(Command::Restart(reply)) => Over::Restart(reply),
                None => Over::Stopped,
            },
            end = running.ended() => Over::Ended(end),
            () = lists => Over::Stopped,
        }
    }

    /// A start that failed: final, unless it was a restart after a crash.
    async fn not_started(&mut self, error: StartError, reply: Option<Reply>) -> Next {
        let server = Arc::clone(&self.server);
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
            command = self.commands.recv() => match command {
                Some(Command::Restart(reply)) => {
                    self.crashes.clear();
                    server.live().attempt = 0;
                    server.enter(ExtensionState::Starting, "restart requested", None, None);
                    Next::Again(Some(reply))
                }
                None => Next::Stop,
            },
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

/// After a server said that a list changed. The last good list stays when it cannot be fetched.
async fn refetch(server: &Server, connection: &Connection, list: &str) {
    if list != "tools" {
        server.report_list(list, ToolDiff::default());
        return;
    }
    match lists::fetch(connection, List::Tools, LIST_TIMEOUT).await {
        Ok(entries) => {
            let diff = server.take_tools(&entries);
            if server.state() == ExtensionState::Degraded {
                server.enter(ExtensionState::Ready, "", None, None);
            }
            if !diff.is_empty() {
                server.report_list(list, diff);
            }
        }
        Err(failure) if connection.is_alive() => {
            let error = crate::calls::error_of(server.key(), "tools/list", failure);
            let cause = format!("the changed list of tools could not be fetched: {}", error.message);
            server.enter(ExtensionState::Degraded, &cause, Some(error), None);
        }
        Err(_) => {}
    }
}
