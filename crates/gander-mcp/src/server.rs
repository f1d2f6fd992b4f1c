//! One server of a session: what is known of it, and its state. Every change of the state goes out as an event with
//! its cause. Only the server's actor ([`crate::actor`]) and what it runs change the state.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use gander_domain::{
    ErrorDetail, ErrorReason, Timestamp,
    event::ListChange,
    extension::{
        ExtensionConfig, ExtensionState, ExtensionStateChange, ExtensionStatus, ExtensionSummary,
        ExtensionTransport, ProtocolEra,
    },
};
use rmcp::model::ServerPeerInfo;
use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::{self, Tool, ToolDiff},
    client::SessionClient,
    config,
    connection::Connection,
    events::{HostEvent, Outbox},
    host::{Era, McpHost, SessionContext},
    launch,
    lists::List,
    oauth::Access,
    pins,
    session::SessionInner,
    stderr::StderrRing,
    upkeep::{self, Wishes},
};

/// How long a call waits for a server that is being started again.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Requests to the actor.
pub(crate) enum Command {
    Restart(oneshot::Sender<Result<(), ErrorDetail>>),
}

/// Which revision to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartMode {
    Legacy,
    Modern,
    /// Ask first.
    Probe,
}

/// What a server is made of.
pub(crate) struct Parts {
    pub(crate) host: Arc<McpHost>,
    pub(crate) context: Arc<SessionContext>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) client: Arc<dyn SessionClient>,
    pub(crate) summary: ExtensionSummary,
    pub(crate) config: ExtensionConfig,
    pub(crate) secrets: BTreeMap<String, String>,
}

/// What changes.
pub(crate) struct Live {
    state: ExtensionState,
    cause: String,
    error: Option<ErrorDetail>,
    pub(crate) attempt: u32,
    state_time: Timestamp,
    pub(crate) info: Option<Arc<ServerPeerInfo>>,
    tools: Vec<Arc<Tool>>,
    generation: u64,
    pub(crate) connection: Option<Arc<Connection>>,
    /// Ready, but not connected before it is needed.
    pub(crate) parked: bool,
    /// What is wrong with a server that runs: kind → cause.
    pub(crate) troubles: BTreeMap<&'static str, (String, Option<ErrorDetail>)>,
    /// Resources and prompts as last listed, by what identifies them.
    known: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// A state was reported before.
    reported: bool,
}

/// One server of a session.
pub(crate) struct Server {
    parts: Parts,
    sensitive: Vec<String>,
    stderr: Arc<StderrRing>,
    live: Mutex<Live>,
    /// Counts changes of state and of tools.
    changes: watch::Sender<u64>,
    commands: mpsc::Sender<Command>,
    /// A parked server is needed.
    pub(crate) needed: Notify,
    /// Tells the actor to stop.
    pub(crate) stop: CancellationToken,
    /// The actor has ended and nothing of the server is left.
    pub(crate) done: CancellationToken,
    pub(crate) wishes: Wishes,
    /// Definitions approved in this session.
    pinned: pins::Memory,
    access: Arc<Access>,
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
            parked: false,
            troubles: BTreeMap::new(),
            known: BTreeMap::new(),
            reported: false,
        };
        if let ExtensionTransport::Client { tools, .. } = &parts.config.transport {
            let from_client = |tool| Arc::new(catalog::from_client(&parts.summary.key, tool));
            let tools = tools.iter().map(from_client).collect();
            live.tools = catalog::select(tools, &parts.config.tool_allowlist);
        }
        let server = Self {
            stderr: StderrRing::new(sensitive.clone()),
            sensitive,
            parts,
            live: Mutex::new(live),
            changes: watch::Sender::new(0),
            commands,
            needed: Notify::new(),
            stop,
            done: CancellationToken::new(),
            wishes: Wishes::default(),
            pinned: pins::Memory::default(),
            access: Arc::default(),
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

    pub(crate) fn client(&self) -> &Arc<dyn SessionClient> {
        &self.parts.client
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

    /// Its authorization.
    pub(crate) fn access(&self) -> &Arc<Access> {
        &self.access
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

    pub(crate) fn live(&self) -> std::sync::MutexGuard<'_, Live> {
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

    /// How to begin with it.
    pub(crate) fn start_mode(&self) -> StartMode {
        match (self.config().protocol, self.host().era(&self.summary().config_hash)) {
            (ProtocolEra::Legacy, _) | (ProtocolEra::Auto, Some(Era::Legacy)) => StartMode::Legacy,
            (ProtocolEra::Modern, _) | (ProtocolEra::Auto, Some(Era::Modern)) => StartMode::Modern,
            // A child answers a probe at once; over HTTP it would cost a round trip, and builtins are known.
            (ProtocolEra::Auto, None) => match &self.config().transport {
                ExtensionTransport::Stdio { .. } | ExtensionTransport::InlinePython { .. } => {
                    StartMode::Probe
                }
                _ => StartMode::Legacy,
            },
        }
    }

    /// Remembers what it speaks, where that was not configured.
    pub(crate) fn learn_era(&self, era: Option<Era>) {
        if self.config().protocol == ProtocolEra::Auto {
            self.host().learn_era(&self.summary().config_hash, era);
        }
    }

    /// The connection, if there is one now.
    pub(crate) fn current_connection(&self) -> Option<Arc<Connection>> {
        self.live().connection.as_ref().filter(|connection| connection.is_alive()).cloned()
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
                    || live.connection.is_some()
                    || live.parked;
                if live.parked {
                    self.needed.notify_one();
                }
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

    /// Ready again on the same connection, after its authorization was renewed.
    pub(crate) fn resumed(&self, connection: &Arc<Connection>) {
        if self.state() != ExtensionState::NeedsAuth {
            return;
        }
        self.live().connection = Some(Arc::clone(connection));
        self.enter(ExtensionState::Ready, "", None, None);
        self.settle();
    }

    /// Ready, or degraded where something is known to be wrong already.
    pub(crate) fn enter_running(&self) {
        let trouble = self.live().troubles.values().next().cloned();
        match trouble {
            Some((cause, error)) => self.enter(ExtensionState::Degraded, &cause, error, None),
            None => self.enter(ExtensionState::Ready, "", None, None),
        }
    }

    /// Changes the state and reports it.
    pub(crate) fn enter(
        &self,
        to: ExtensionState,
        cause: &str,
        error: Option<ErrorDetail>,
        exit_code: Option<i32>,
    ) {
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
                live.parked = false;
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

    /// Gives up the connection of a server that nobody uses, until somebody does. Returns whether that is the case.
    /// `connection` is the actor's, which is the second one.
    pub(crate) fn park(&self, connection: &Arc<Connection>) -> bool {
        let mut live = self.live();
        if live.connection.take_if(|known| Arc::ptr_eq(known, connection)).is_none() {
            return false;
        }
        // New users get it under this lock only, so that the count cannot grow.
        if Arc::strong_count(connection) > 2 {
            live.connection = Some(Arc::clone(connection));
            return false;
        }
        live.parked = true;
        true
    }

    /// The connection of a server that was parked, or `false` if it was not.
    pub(crate) fn unpark(&self, connection: &Arc<Connection>) -> bool {
        let mut live = self.live();
        if !std::mem::take(&mut live.parked) {
            return false;
        }
        live.connection = Some(Arc::clone(connection));
        drop(live);
        self.changes.send_modify(|count| *count += 1);
        true
    }

    /// Whether it is a task of this process.
    pub(crate) fn is_builtin(&self) -> bool {
        matches!(self.parts.config.transport, ExtensionTransport::Builtin)
    }

    /// A builtin that has no process of its own, as it has in a container.
    pub(crate) fn is_in_process(&self) -> bool {
        self.is_builtin() && !launch::has_process(&self.parts.config, &self.parts.context)
    }

    /// Something is wrong with a server that runs.
    pub(crate) fn trouble(&self, kind: &'static str, cause: &str, error: Option<ErrorDetail>) {
        self.live().troubles.insert(kind, (cause.to_owned(), error));
        self.settle();
    }

    /// It is no longer wrong.
    pub(crate) fn recovered(&self, kind: &'static str) {
        self.live().troubles.remove(kind);
        self.settle();
    }

    /// Ready or degraded, as the troubles are; nothing for a server that does not run.
    pub(crate) fn settle(&self) {
        let (to, cause, error) = {
            let live = self.live();
            let first = live.troubles.values().next().cloned();
            let (to, (cause, error)) = match first {
                Some(trouble) => (ExtensionState::Degraded, trouble),
                None => (ExtensionState::Ready, (String::new(), None)),
            };
            let runs = matches!(live.state, ExtensionState::Ready | ExtensionState::Degraded);
            if !runs || (live.state == to && live.cause == cause) {
                return;
            }
            (to, cause, error)
        };
        self.enter(to, &cause, error, None);
    }

    /// Takes over a list of tools and returns the difference.
    pub(crate) fn take_tools(&self, entries: &[Value]) -> ToolDiff {
        // What runs elsewhere under a builtin's name is not known to be it.
        let trusted = self.is_in_process();
        let cache = &self.host().tools;
        let tools = entries.iter().filter_map(|entry| cache.tool(self.key(), trusted, entry)).collect();
        let mut tools = catalog::select(tools, &self.parts.config.tool_allowlist);
        if self.parts.config.pin_definitions {
            pins::apply(self.key(), self.client().as_ref(), &self.pinned, &mut tools);
        }
        self.put_tools(tools)
    }

    fn put_tools(&self, tools: Vec<Arc<Tool>>) -> ToolDiff {
        let trouble = pins::trouble(&tools);
        let diff = {
            let mut live = self.live();
            let diff = ToolDiff::between(&live.tools, &tools);
            match trouble {
                Some(cause) => live.troubles.insert("definitions", (cause, None)),
                None => live.troubles.remove("definitions"),
            };
            if diff.is_empty() {
                return diff;
            }
            live.tools = tools;
            diff
        };
        if let Some(session) = self.session.upgrade() {
            session.rebuild();
        }
        // For those who show the tools to somebody else.
        self.changes.send_modify(|count| *count += 1);
        diff
    }

    /// Lets a quarantined tool be called again. `hash` is the definition that the user saw.
    pub(crate) fn approve(&self, tool: &str, hash: &str) -> Result<(), ErrorDetail> {
        let mut tools = self.tools();
        pins::approve(self.key(), self.client().as_ref(), &self.pinned, &mut tools, tool, hash)?;
        let diff = self.put_tools(tools);
        self.settle();
        if !diff.is_empty() {
            self.report_list("tools", diff);
        }
        Ok(())
    }

    /// Takes over a list of resources or prompts and returns the difference to the one before, if there was one.
    pub(crate) fn take_entries(&self, list: List, entries: &[Value]) -> ToolDiff {
        let new = upkeep::by_id(list, entries);
        let old = self.live().known.insert(list.name(), new.clone());
        old.map_or_else(ToolDiff::default, |old| upkeep::difference(&old, &new))
    }

    pub(crate) fn report_list(&self, list: &str, diff: ToolDiff) {
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
