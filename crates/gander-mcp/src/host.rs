//! The host: what all sessions of one engine share.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    fmt, io,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures::{Sink, Stream};
use gander_domain::{ErrorDetail, SessionId};
use gander_process::{Spawner, ToolProcesses};
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use tokio::sync::mpsc;

use crate::{
    catalog::ToolCache,
    client::SessionClient,
    events::HostEvent,
    http,
    launch::Container,
    oauth::RefreshLocks,
    session::SessionExtensions,
    wire::{FaultInjector, ReplayCounts},
};

/// How the host works.
pub struct HostOptions {
    /// Makes builtin servers.
    pub builtins: Arc<dyn BuiltinFactory>,
    /// Command line in front of the supervisor's own arguments; absent = process groups only.
    pub supervisor: Option<Vec<String>>,
    /// Where started processes are registered.
    pub processes: ToolProcesses,
    /// Deadline of connecting, the handshake and the first list of tools together.
    pub connect_timeout: Duration,
    /// Deadline of a call where the extension's configuration names none.
    pub call_timeout: Duration,
    /// How often an idle server is pinged; absent = never.
    pub ping_interval: Option<Duration>,
    /// Deadline of one ping.
    pub ping_timeout: Duration,
    /// Idle time after which a builtin server in this process is closed; the next request makes it again, within a
    /// fraction of a millisecond. Absent = never.
    pub builtin_idle: Option<Duration>,
    /// Commands that stdio extensions may start (as configured, or their file names); absent = any.
    pub allowed_commands: Option<Vec<String>>,
    /// Directory that gets one file `KEY-<n>.jsonl` per connection with all its messages, secrets redacted. Builtins of
    /// this process are neither recorded nor replayed.
    pub record: Option<PathBuf>,
    /// Directory of such files that answer in place of the servers, which are not started then.
    pub replay: Option<PathBuf>,
    /// What goes wrong on purpose, in tests.
    pub faults: Option<FaultInjector>,
    /// Gives the W3C `traceparent` of the work at hand, which servers get with each call so that their spans join the
    /// trace (SEP-414); absent = none is sent but what the caller brings.
    pub trace_context: Option<TraceContext>,
    /// Command line in front of a socket and an extension's key that connects a program's pipes to a [`crate::Door`];
    /// absent = programs outside cannot be given a session's extensions.
    pub door: Option<Vec<String>>,
}

impl HostOptions {
    /// 60 s to connect, 300 s per call, a ping every 30 s, builtins closed after 250 ms without use, no supervisor.
    #[must_use]
    pub fn new(builtins: Arc<dyn BuiltinFactory>, processes: ToolProcesses) -> Self {
        Self {
            builtins,
            supervisor: None,
            processes,
            connect_timeout: Duration::from_secs(60),
            call_timeout: Duration::from_secs(300),
            ping_interval: Some(Duration::from_secs(30)),
            ping_timeout: Duration::from_secs(10),
            builtin_idle: Some(Duration::from_millis(250)),
            allowed_commands: None,
            record: None,
            replay: None,
            faults: None,
            trace_context: None,
            door: None,
        }
    }
}

/// See [`HostOptions::trace_context`]. Called on the task that makes the call.
pub type TraceContext = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A builtin extension, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltinInfo {
    /// The name in an extension's configuration.
    pub name: String,
    /// For people; may be empty.
    pub display_name: String,
    /// One sentence; may be empty.
    pub description: String,
}

/// Makes in-process servers.
pub trait BuiltinFactory: Send + Sync {
    /// The names of the builtin extensions.
    fn names(&self) -> Vec<String>;

    /// The same with what there is to say about them.
    fn catalogue(&self) -> Vec<BuiltinInfo> {
        let bare = |name| BuiltinInfo { name, display_name: String::new(), description: String::new() };
        self.names().into_iter().map(bare).collect()
    }

    /// Starts the builtin `name` for one session and returns the client's end. `client` is the session itself, for
    /// builtins that keep state with it or manage its extensions.
    ///
    /// # Errors
    /// When it cannot be started.
    fn connect(
        &self,
        name: &str,
        context: &SessionContext,
        client: &Arc<dyn SessionClient>,
    ) -> Result<BuiltinConnection, ErrorDetail>;
}

/// Messages to a builtin server.
pub(crate) type BuiltinSink = Pin<Box<dyn Sink<ClientJsonRpcMessage, Error = io::Error> + Send>>;
/// Messages from it.
pub(crate) type BuiltinStream = Pin<Box<dyn Stream<Item = ServerJsonRpcMessage> + Send>>;

/// The client's end of a typed in-process connection.
pub struct BuiltinConnection {
    pub(crate) sink: BuiltinSink,
    pub(crate) stream: BuiltinStream,
    pub(crate) guard: Box<dyn Any + Send>,
}

impl BuiltinConnection {
    /// `guard` is dropped when the connection has closed; it should end the server's task.
    pub fn new(
        sink: impl Sink<ClientJsonRpcMessage, Error = io::Error> + Send + 'static,
        stream: impl Stream<Item = ServerJsonRpcMessage> + Send + 'static,
        guard: impl Any + Send,
    ) -> Self {
        Self { sink: Box::pin(sink), stream: Box::pin(stream), guard: Box::new(guard) }
    }
}

/// What servers of a session get to know.
#[derive(Clone)]
pub struct SessionContext {
    /// Whose servers these are.
    pub session_id: SessionId,
    /// Where child processes start.
    pub working_directory: PathBuf,
    /// More directories that belong to the session.
    pub additional_directories: Vec<PathBuf>,
    /// The complete environment of children, already allow-listed.
    pub environment: BTreeMap<String, String>,
    /// Where builtins keep files.
    pub data_dir: PathBuf,
    /// Paths that tools must not touch.
    pub denied_paths: Vec<PathBuf>,
    /// What the processes of a builtin are bound by. The host sets it for each extension by its configuration; what
    /// the session gives here is not used.
    pub sandbox: Option<gander_process::SandboxSpec>,
    /// Where commands and builtins of extensions run that have no exec prefix of their own; absent = on this machine.
    pub container: Option<Container>,
}

impl fmt::Debug for SessionContext {
    /// Names variables without their values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionContext")
            .field("session_id", &self.session_id)
            .field("working_directory", &self.working_directory)
            .field("environment", &self.environment.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Remembered configurations.
const MAX_ERAS: usize = 10_000;

/// With a handshake (until 2025-11-25), or without (2026-07-28).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    Legacy,
    Modern,
}

/// The MCP host of one engine.
pub struct McpHost {
    pub(crate) options: HostOptions,
    pub(crate) spawner: Spawner,
    http: OnceLock<Result<reqwest::Client, String>>,
    pub(crate) refresh_locks: RefreshLocks,
    /// Which revision servers turned out to speak, by the hash of their configuration.
    eras: Mutex<HashMap<String, Era>>,
    replays: Mutex<ReplayCounts>,
    pub(crate) tools: ToolCache,
}

impl McpHost {
    /// A host without sessions.
    #[must_use]
    pub fn new(options: HostOptions) -> Arc<Self> {
        let spawner = Spawner::new(options.supervisor.clone(), options.processes.clone());
        Arc::new(Self {
            options,
            spawner,
            http: OnceLock::new(),
            refresh_locks: RefreshLocks::default(),
            eras: Mutex::default(),
            replays: Mutex::default(),
            tools: ToolCache::default(),
        })
    }

    /// What connects a program's pipes to a [`crate::Door`], where there is something.
    #[must_use]
    pub fn door_command(&self) -> Option<&[String]> {
        self.options.door.as_deref().filter(|line| !line.is_empty())
    }

    /// The builtin extensions.
    #[must_use]
    pub fn builtins(&self) -> Vec<BuiltinInfo> {
        self.options.builtins.catalogue()
    }

    /// What starts the processes of extensions; other commands of a session are started by it as well.
    #[must_use]
    pub fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// What a server of this configuration spoke before.
    pub(crate) fn era(&self, config_hash: &str) -> Option<Era> {
        self.eras.lock().unwrap_or_else(PoisonError::into_inner).get(config_hash).copied()
    }

    pub(crate) fn learn_era(&self, config_hash: &str, era: Option<Era>) {
        let mut eras = self.eras.lock().unwrap_or_else(PoisonError::into_inner);
        match era {
            Some(era) if eras.len() < MAX_ERAS => {
                eras.insert(config_hash.to_owned(), era);
            }
            _ => {
                eras.remove(config_hash);
            }
        }
    }

    /// Counts the replayed connections of a key, from 1.
    pub(crate) fn next_replay(&self, key: &str) -> usize {
        let mut replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
        let count = replays.entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// The extensions of one session, empty at first. Dropping what is returned stops them all. Must be called
    /// within a tokio runtime.
    pub fn open_session(
        self: &Arc<Self>,
        context: SessionContext,
        client: Arc<dyn SessionClient>,
        events: mpsc::Sender<Box<HostEvent>>,
    ) -> Arc<SessionExtensions> {
        SessionExtensions::open(Arc::clone(self), context, client, events)
    }

    /// The one HTTP client, made at first use.
    pub(crate) fn http(&self) -> Result<reqwest::Client, String> {
        self.http.get_or_init(http::client).clone()
    }
}
