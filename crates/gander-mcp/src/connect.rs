//! Connecting one server once: transport, handshake, version check, first list of tools, all within one deadline.

use std::{sync::Arc, time::Duration};

use gander_domain::{ErrorDetail, ErrorReason, extension::ExtensionTransport};
use gander_process::{Exit, SpawnSpec, StdinMode, SupervisedChild, signal_name};
use rmcp::{
    RoleClient,
    model::{ErrorCode, ProtocolVersion},
    service::{ClientInitializeError, ClientLifecycleMode, ClientServiceExt as _, RunningService},
    transport::Transport,
};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    asks::{Asks, Handler},
    config,
    connection::{Connection, Failure},
    explain,
    host::Era,
    http::Target,
    launch::{self, Launch},
    lists::{self, List, Listed},
    sandbox::sandbox_of,
    server::{Server, StartMode},
    stderr,
    wire::{BuiltinLink, Recorder, Replay, StdioLink, Wire, WireFailure, WireShared},
};

/// Revisions with a handshake that this host speaks.
const HANDSHAKE_VERSIONS: [ProtocolVersion; 4] = [
    ProtocolVersion::V_2025_11_25,
    ProtocolVersion::V_2025_06_18,
    ProtocolVersion::V_2025_03_26,
    ProtocolVersion::V_2024_11_05,
];
/// How long a server may take to say whether it speaks the newest revision.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for the exit code and the last words of a child whose connection broke.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a server may take to exit by itself after its stdin was closed.
const EXIT_PATIENCE: Duration = Duration::from_millis(500);
/// How long the connection's own tasks may take to end.
const CLOSE_PATIENCE: Duration = Duration::from_millis(200);

/// How a server's process or connection ended.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) cause: String,
    pub(crate) exit_code: Option<i32>,
}

/// A server that could not be started.
pub(crate) struct StartError {
    pub(crate) error: ErrorDetail,
    pub(crate) exit_code: Option<i32>,
    pub(crate) needs_auth: bool,
}

impl StartError {
    /// Programs that are no MCP servers say so where messages are expected.
    fn with_noise(mut self, server: &Server, noise: Option<&str>) -> Self {
        if let Some(line) = noise {
            let line = stderr::clean(line, server.sensitive());
            self.error.message.push_str("; it wrote to its standard output what is no MCP message: ");
            self.error.message.push_str(&line);
        }
        self
    }

    fn wants_auth(mut self) -> Self {
        self.needs_auth = true;
        self.error.reason = ErrorReason::ExtensionNeedsAuth;
        self
    }
}

/// A child process and the task that reads its stderr.
struct Process {
    child: SupervisedChild,
    stderr: JoinHandle<()>,
    /// Removed when the process is gone.
    _script: Option<TempDir>,
}

impl Process {
    /// The exit and, for a moment, what is still in the pipe.
    async fn exited(&mut self, exit: std::io::Result<Exit>) -> End {
        let _ = timeout(LAST_WORDS, &mut self.stderr).await;
        match exit {
            Ok(exit) => End { cause: describe_exit(exit), exit_code: Some(exit.code) },
            Err(error) => {
                End { cause: format!("the process cannot be waited for: {error}"), exit_code: None }
            }
        }
    }

    async fn kill(&mut self) -> End {
        let exit = self.child.kill().await;
        self.exited(exit).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stderr.abort();
    }
}

fn describe_exit(exit: Exit) -> String {
    match exit.signal {
        Some(signal) => format!("the process was ended by {}", signal_name(signal)),
        None => format!("the process exited with code {}", exit.code),
    }
}

/// A connected server.
pub(crate) struct Running {
    service: RunningService<RoleClient, Handler>,
    process: Option<Process>,
    pub(crate) connection: Arc<Connection>,
    /// The first `tools/list`.
    pub(crate) tools: Listed,
}

impl Running {
    /// Waits until the server is gone. May be dropped while it waits.
    pub(crate) async fn ended(&mut self) -> End {
        let input_ended = self.connection.shared.input_ended.clone();
        let Some(process) = &mut self.process else {
            input_ended.cancelled().await;
            return End { cause: "the connection was closed".to_owned(), exit_code: None };
        };
        tokio::select! {
            exit = process.child.wait() => {
                // What it wrote before it ended still counts.
                let _ = timeout(LAST_WORDS, input_ended.cancelled()).await;
                process.exited(exit).await
            }
            () = input_ended.cancelled() => match timeout(LAST_WORDS, process.child.wait()).await {
                Ok(exit) => process.exited(exit).await,
                Err(_) => {
                    process.kill().await;
                    End { cause: "the process closed its stdout".to_owned(), exit_code: None }
                }
            }
        }
    }

    /// Closes the connection; a child may exit by itself before it is made to.
    pub(crate) async fn close(mut self, cause: &str) {
        self.connection.end(cause.to_owned());
        let _ = self.service.close_with_timeout(CLOSE_PATIENCE).await;
        if let Some(process) = &mut self.process
            && timeout(EXIT_PATIENCE, process.child.wait()).await.is_err()
        {
            let _ = process.child.kill().await;
        }
    }
}

/// Connects `server`. When it turns out to speak the other revision than was tried, once more.
pub(crate) async fn connect(server: &Server) -> Result<Running, StartError> {
    let tried = server.start_mode();
    let result = Box::pin(connect_once(server)).await;
    if result.is_err() && server.start_mode() != tried {
        return Box::pin(connect_once(server)).await;
    }
    result
}

/// The wire's share of one connection.
fn shared(server: &Server) -> Result<Arc<WireShared>, StartError> {
    let probe = (server.start_mode() == StartMode::Probe).then_some(PROBE_PATIENCE);
    // What runs in this process needs neither: it is always there.
    let recorder = match &server.host().options.record {
        Some(directory) if !server.is_in_process() => {
            let recorder = Recorder::create(directory, server.key(), server.sensitive());
            let recorder = recorder.map_err(|error| {
                failed(server, &format!("it cannot be recorded in {}: {error}", directory.display()), None)
            })?;
            Some(recorder)
        }
        _ => None,
    };
    let faults = server.host().options.faults.clone();
    Ok(WireShared::with(server.key(), Arc::clone(server.outbox()), probe, recorder, faults))
}

async fn connect_once(server: &Server) -> Result<Running, StartError> {
    let shared = shared(server)?;
    let limit = server.host().options.connect_timeout;
    if let Some(directory) = server.host().options.replay.as_ref().filter(|_| !server.is_in_process()) {
        let number = server.host().next_replay(server.key());
        let replay = Replay::open(directory, server.key(), number, server.sensitive());
        let replay = replay.map_err(|error| failed(server, &error.to_string(), None))?;
        let (read, write) = replay.start();
        let wire = Wire::new(StdioLink::new(read, write, Arc::clone(&shared)), Arc::clone(&shared));
        return Box::pin(within(server, limit, establish(server, wire, shared, limit))).await;
    }
    if launch::has_process(server.config(), server.context()) {
        return connect_process(server, shared, limit).await;
    }
    match &server.config().transport {
        ExtensionTransport::Builtin => {
            let name = builtin_name(server);
            let mut context = server.context().clone();
            context.sandbox = sandbox_of(server.config(), server.key(), &context);
            let connection = server.host().options.builtins.connect(&name, &context, server.client());
            let connection =
                connection.map_err(|error| StartError { error, exit_code: None, needs_auth: false })?;
            let wire = Wire::new(BuiltinLink::new(connection), Arc::clone(&shared));
            Box::pin(within(server, limit, establish(server, wire, shared, limit))).await
        }
        ExtensionTransport::StreamableHttp { uri, headers, unix_socket } => {
            let target = Target::new(server, uri, headers).map_err(|text| failed(server, &text, None))?;
            let open = unix_socket.is_none() && !target.is_authenticated();
            server.access().connecting(open.then(|| target.uri.clone()));
            let started = if let Some(socket) = unix_socket {
                let wire = Wire::new(target.unix(socket), Arc::clone(&shared));
                Box::pin(within(server, limit, establish(server, wire, shared, limit))).await
            } else {
                let transport =
                    target.tcp(server, Arc::clone(&shared)).map_err(|text| failed(server, &text, None))?;
                let wire = Wire::new(transport, Arc::clone(&shared));
                Box::pin(within(server, limit, establish(server, wire, shared, limit))).await
            };
            started.map_err(|error| {
                let challenged = server.access().is_challenged();
                if challenged { error.wants_auth() } else { error }
            })
        }
        other => Err(failed(server, &format!("the type {} has no server", other.kind()), None)),
    }
}

/// A builtin's name as the factory spells it; the extension's own for all others.
fn builtin_name(server: &Server) -> String {
    let names = server.host().options.builtins.names();
    let name = config::builtin_name(server.config(), server.key(), &names);
    name.cloned().unwrap_or_else(|| server.config().name.clone())
}

async fn within(
    server: &Server,
    limit: Duration,
    handshake: impl Future<Output = Result<Running, HandshakeError>>,
) -> Result<Running, StartError> {
    match timeout(limit, handshake).await {
        Ok(Ok(running)) => Ok(running),
        Ok(Err(error)) => Err(error.into_start_error(server, None)),
        Err(_) => Err(timed_out(server, limit, None)),
    }
}

async fn connect_process(
    server: &Server,
    shared: Arc<WireShared>,
    limit: Duration,
) -> Result<Running, StartError> {
    let (config, context) = (server.config(), server.context());
    let environment = launch::environment(config, server.secrets(), context);
    let launch = launch::launch(config, server.key(), &builtin_name(server), &environment, context);
    let Launch { argv, script } =
        launch.map_err(|error| StartError { error, exit_code: None, needs_auth: false })?;
    let spec = SpawnSpec {
        argv,
        working_directory: server.context().working_directory.clone(),
        environment,
        stdin: StdinMode::Piped,
    };
    server.stderr().clear();
    let mut sandbox = sandbox_of(config, server.key(), context);
    if let (Some(readable), Some(script)) =
        (sandbox.as_mut().and_then(|sandbox| sandbox.readable.as_mut()), &script)
    {
        readable.push(script.path().to_owned());
    }
    let spawned = server.host().spawner.spawn_sandboxed(&spec, sandbox.as_ref());
    let mut child = spawned.map_err(|error| failed(server, &error.to_string(), None))?;
    let pipes = (child.take_stdin(), child.take_stdout(), child.take_stderr());
    let (Some(stdin), Some(stdout), Some(errors)) = pipes else {
        return Err(failed(server, "the process has no pipes", None));
    };
    let stderr = tokio::spawn(stderr::collect(errors, Arc::clone(server.stderr())));
    let mut process = Process { child, stderr, _script: script };
    let wire = Wire::new(StdioLink::new(stdout, stdin, Arc::clone(&shared)), Arc::clone(&shared));
    let noise = Arc::clone(&shared);
    let noise = |error: StartError| error.with_noise(server, noise.first_noise());
    match timeout(limit, establish(server, wire, shared, limit)).await {
        Ok(Ok(mut running)) => {
            running.process = Some(process);
            Ok(running)
        }
        Ok(Err(error)) => {
            // The reason is in the exit code and on stderr, if the process ended.
            let end = match timeout(LAST_WORDS, process.child.wait()).await {
                Ok(exit) => Some(process.exited(exit).await),
                Err(_) => {
                    process.kill().await;
                    None
                }
            };
            Err(noise(error.into_start_error(server, end)))
        }
        Err(_) => {
            process.kill().await;
            Err(noise(timed_out(server, limit, None)))
        }
    }
}

enum HandshakeError {
    Initialize(Box<ClientInitializeError>),
    Version(String),
    Tools(Failure),
}

impl HandshakeError {
    /// What it tells about the revision that the server speaks.
    fn teaches(&self, server: &Server) {
        let Self::Initialize(error) = self else { return };
        match (server.start_mode(), error.as_ref()) {
            // Older servers may even exit when they are asked before the handshake.
            (
                StartMode::Probe,
                ClientInitializeError::ConnectionClosed(_)
                | ClientInitializeError::TransportError { .. }
                | ClientInitializeError::UncorrelatedErrorResponse { .. },
            ) => {
                server.learn_era(Some(Era::Legacy));
            }
            (StartMode::Legacy, ClientInitializeError::JsonRpcError(error))
                if matches!(
                    error.code,
                    ErrorCode::METHOD_NOT_FOUND | ErrorCode::UNSUPPORTED_PROTOCOL_VERSION
                ) =>
            {
                server.learn_era(Some(Era::Modern));
            }
            // It may have been exchanged for an older one.
            (StartMode::Modern, _) => server.learn_era(None),
            _ => {}
        }
    }

    fn into_start_error(self, server: &Server, end: Option<End>) -> StartError {
        self.teaches(server);
        let mut needs_auth = false;
        let text = match self {
            Self::Initialize(error) => {
                let error = match *error {
                    ClientInitializeError::LegacyFallbackFailed { fallback, .. } => fallback,
                    other => Box::new(other),
                };
                needs_auth = error.is_authorization_required() || error.auth_challenge().is_some();
                match *error {
                    ClientInitializeError::ConnectionClosed(_) => {
                        "it closed the connection before the handshake was over".to_owned()
                    }
                    ClientInitializeError::JsonRpcError(error) => {
                        format!("it refused the handshake: {} (code {})", error.message, error.code.0)
                    }
                    ClientInitializeError::TransportError { error, .. } => {
                        explain::transport(error.error.as_ref())
                    }
                    // Others would print whole messages of the server.
                    ClientInitializeError::ExpectedInitResult(_) => {
                        "its answer to the handshake is not valid".to_owned()
                    }
                    ClientInitializeError::ExpectedInitResponse(_) => {
                        "it did not answer the handshake".to_owned()
                    }
                    other => other.to_string(),
                }
            }
            Self::Version(version) => format!(
                "it speaks the protocol version {version:?}; supported are 2024-11-05, 2025-03-26, 2025-06-18 and \
                 2025-11-25"
            ),
            Self::Tools(failure) => match failure {
                Failure::TimedOut(_) => "its tools could not be listed in time".to_owned(),
                Failure::Gone(text) | Failure::Asked(text) => {
                    format!("its tools could not be listed: {text}")
                }
                Failure::Rpc(error) => format!("its tools could not be listed: {}", error.message),
                Failure::Wire(WireFailure::TooLarge(limit)) => {
                    format!("its list of tools exceeds the limit of {} MiB", limit / (1024 * 1024))
                }
                Failure::Wire(WireFailure::Batch) => {
                    "it answers with JSON-RPC batches, which MCP has abolished; update it".to_owned()
                }
                Failure::Wire(WireFailure::Unreadable(text)) => {
                    format!("its list of tools cannot be read: {text}")
                }
                Failure::Cancelled => "listing its tools was cancelled".to_owned(),
            },
        };
        let start_error = failed(server, &text, end);
        if needs_auth { start_error.wants_auth() } else { start_error }
    }
}

fn failed(server: &Server, text: &str, end: Option<End>) -> StartError {
    start_error(server, ErrorReason::ExtensionStartFailed, text, end)
}

fn timed_out(server: &Server, limit: Duration, end: Option<End>) -> StartError {
    let how = if launch::has_process(server.config(), server.context()) {
        "run its command by hand to see what it waits for"
    } else {
        "check that its uri is right and that it is not overloaded"
    };
    let text = format!("it did not answer the MCP handshake within {} s; {how}", limit.as_secs_f64());
    start_error(server, ErrorReason::ExtensionStartTimeout, &text, end)
}

fn start_error(server: &Server, reason: ErrorReason, text: &str, end: Option<End>) -> StartError {
    let key = server.key();
    let mut message = format!("extension {key} did not start: {}", stderr::clean(text, server.sensitive()));
    let exit_code = end.as_ref().and_then(|end| end.exit_code);
    if let Some(end) = end {
        message.push_str("; ");
        message.push_str(&end.cause);
    }
    let tail = server.stderr().tail();
    if !tail.is_empty() {
        message.push_str("; its last words: ");
        message.push_str(&tail);
    }
    let mut error = ErrorDetail::new(reason, message).with("extensionName", key);
    if let Some(code) = exit_code {
        error = error.with("exitCode", code);
    }
    StartError { error, exit_code, needs_auth: false }
}

/// Handshake, version check and the first list.
async fn establish<T>(
    server: &Server,
    wire: Wire<T>,
    shared: Arc<WireShared>,
    limit: Duration,
) -> Result<Running, HandshakeError>
where
    T: Transport<RoleClient> + Send + 'static,
    T::Error: std::error::Error + Send + Sync + 'static,
{
    let start = server.start_mode();
    let newest = || vec![ProtocolVersion::V_2026_07_28];
    let mode = match start {
        StartMode::Legacy => ClientLifecycleMode::Initialize,
        StartMode::Modern => ClientLifecycleMode::Discover { preferred_versions: newest() },
        StartMode::Probe => ClientLifecycleMode::Auto {
            preferred_versions: newest(),
            legacy_version: Some(ProtocolVersion::V_2025_11_25),
        },
    };
    let asks = Asks::new(server.key(), Arc::clone(server.client()), shared.input_ended.clone());
    let handler = Handler(Arc::clone(&asks));
    let service = Box::pin(handler.serve_with_lifecycle(wire, mode)).await;
    let service = service.map_err(|error| HandshakeError::Initialize(Box::new(error)))?;
    let Some(info) = service.peer().peer_info() else {
        return Err(HandshakeError::Version(String::new()));
    };
    let version = &info.protocol_version;
    let modern = *version == ProtocolVersion::V_2026_07_28;
    let handshake = HANDSHAKE_VERSIONS.contains(version);
    let supported = match start {
        StartMode::Legacy => handshake,
        StartMode::Modern => modern,
        StartMode::Probe => handshake || modern,
    };
    if !supported {
        return Err(HandshakeError::Version(version.to_string()));
    }
    server.learn_era(Some(if modern { Era::Modern } else { Era::Legacy }));
    let connection = Arc::new(Connection::new(service.peer().clone(), shared, info, asks));
    let running = Running { service, process: None, connection, tools: Listed::default() };
    let tools = {
        // The list must not outlive the connection.
        let ended = running.connection.shared.input_ended.clone();
        tokio::select! {
            biased;
            tools = lists::fetch(&running.connection, List::Tools, limit) => tools,
            () = ended.cancelled() => Err(Failure::Gone("the connection was closed".to_owned())),
        }
    };
    match tools {
        Ok(tools) => Ok(Running { tools, ..running }),
        Err(failure) => Err(HandshakeError::Tools(failure)),
    }
}
