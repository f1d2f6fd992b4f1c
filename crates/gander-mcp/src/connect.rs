//! Connecting one server once: transport, handshake, version check, first list of tools, all within one deadline.

use std::{collections::HashMap, ffi::OsString, sync::Arc, time::Duration};

use gander_domain::{
    ErrorDetail, ErrorReason,
    extension::{ExtensionTransport, ProtocolEra},
};
use gander_process::{Exit, SpawnSpec, StdinMode, SupervisedChild, signal_name};
use reqwest::header::{HeaderName, HeaderValue};
use rmcp::{
    ClientHandler, RoleClient,
    model::{ClientCapabilities, ClientConfig, ErrorCode, ErrorData, Implementation, ProtocolVersion},
    service::{
        ClientInitializeError, ClientLifecycleMode, ClientServiceExt as _, RequestContext, RunningService,
    },
    transport::{
        StreamableHttpClientTransport, Transport, common::client_side_sse::ExponentialBackoff,
        streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use serde_json::Value;
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    config,
    connection::{Connection, Failure},
    lists::{self, List},
    server::Server,
    stderr,
    wire::{BuiltinLink, StdioLink, Wire, WireShared},
};

/// Revisions with a handshake that this host speaks.
const HANDSHAKE_VERSIONS: [ProtocolVersion; 4] = [
    ProtocolVersion::V_2025_11_25,
    ProtocolVersion::V_2025_06_18,
    ProtocolVersion::V_2025_03_26,
    ProtocolVersion::V_2024_11_05,
];
/// How long to wait for the exit code and the last words of a child whose connection broke.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a server may take to exit by itself after its stdin was closed.
const EXIT_PATIENCE: Duration = Duration::from_millis(500);
/// How long the connection's own tasks may take to end.
const CLOSE_PATIENCE: Duration = Duration::from_millis(200);

/// What the host answers to requests of servers. It declares no capability, so every request but ping is refused;
/// the library would answer some of them as if they were declared.
struct Handler;

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let client = Implementation::new("gander", env!("CARGO_PKG_VERSION"));
        // The library's own default is a revision without a handshake.
        ClientConfig::new(ClientCapabilities::default(), client)
            .with_protocol_version(ProtocolVersion::V_2025_11_25)
    }

    #[allow(deprecated, reason = "roots are deprecated in the newest revision and alive in all others")]
    async fn list_roots(
        &self,
        _: RequestContext<RoleClient>,
    ) -> Result<rmcp::model::ListRootsResult, ErrorData> {
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "roots were not declared", None))
    }
}

/// The one HTTP client: redirects are the transport's business, no total timeout (streams), ring for TLS.
pub(crate) fn http_client() -> Result<reqwest::Client, String> {
    use rustls_platform_verifier::BuilderVerifierExt as _;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(rustls::ConfigBuilder::with_platform_verifier)
        .map_err(|error| error.to_string())?
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(Duration::from_secs(10))
        .tcp_keepalive(Duration::from_secs(30))
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| error.to_string())
}

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

/// A child process and the task that reads its stderr.
struct Process {
    child: SupervisedChild,
    stderr: JoinHandle<()>,
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
    /// Entries of the first `tools/list`.
    pub(crate) tools: Vec<Value>,
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

/// Connects `server`.
pub(crate) async fn connect(server: &Server) -> Result<Running, StartError> {
    let shared = WireShared::new(server.key(), Arc::clone(server.outbox()));
    let limit = server.host().options.connect_timeout;
    match &server.config().transport {
        ExtensionTransport::Stdio { command, args } => {
            connect_stdio(server, shared, command, args, limit).await
        }
        ExtensionTransport::Builtin => {
            let names = server.host().options.builtins.names();
            let name = config::builtin_name(server.config(), server.key(), &names);
            let name = name.cloned().unwrap_or_else(|| server.config().name.clone());
            let connection = server.host().options.builtins.connect(&name, server.context());
            let connection =
                connection.map_err(|error| StartError { error, exit_code: None, needs_auth: false })?;
            let wire = Wire::new(BuiltinLink::new(connection), Arc::clone(&shared));
            Box::pin(within(server, limit, establish(server, wire, shared, limit))).await
        }
        ExtensionTransport::StreamableHttp { uri, headers, .. } => {
            let transport =
                http_transport(server, uri, headers).map_err(|text| failed(server, &text, None))?;
            let wire = Wire::new(transport, Arc::clone(&shared));
            Box::pin(within(server, limit, establish(server, wire, shared, limit))).await
        }
        other => Err(failed(server, &format!("the type {} has no server", other.kind()), None)),
    }
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

async fn connect_stdio(
    server: &Server,
    shared: Arc<WireShared>,
    command: &str,
    args: &[String],
    limit: Duration,
) -> Result<Running, StartError> {
    let mut environment = server.context().environment.clone();
    environment.extend(server.config().env.clone());
    environment.extend(server.secrets().clone());
    let argv = server.config().exec_prefix.iter().map(String::as_str).chain([command]);
    let spec = SpawnSpec {
        argv: argv.chain(args.iter().map(String::as_str)).map(OsString::from).collect(),
        working_directory: server.context().working_directory.clone(),
        environment,
        stdin: StdinMode::Piped,
    };
    server.stderr().clear();
    let mut child =
        server.host().spawner.spawn(&spec).map_err(|error| failed(server, &error.to_string(), None))?;
    let pipes = (child.take_stdin(), child.take_stdout(), child.take_stderr());
    let (Some(stdin), Some(stdout), Some(errors)) = pipes else {
        return Err(failed(server, "the process has no pipes", None));
    };
    let stderr = tokio::spawn(stderr::collect(errors, Arc::clone(server.stderr())));
    let mut process = Process { child, stderr };
    let wire = Wire::new(StdioLink::new(stdout, stdin, Arc::clone(&shared)), Arc::clone(&shared));
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
            Err(error.into_start_error(server, end))
        }
        Err(_) => {
            process.kill().await;
            Err(timed_out(server, limit, None))
        }
    }
}

fn http_transport(
    server: &Server,
    uri: &str,
    headers: &std::collections::BTreeMap<String, String>,
) -> Result<StreamableHttpClientTransport<reqwest::Client>, String> {
    let mut values = server.config().env.clone();
    values.extend(server.secrets().clone());
    let mut custom = HashMap::new();
    for (name, value) in headers {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("{name:?} is no name of an HTTP header"))?;
        let mut value = HeaderValue::from_str(&config::substitute(value, &values))
            .map_err(|_| format!("the value of the header {name} has characters that HTTP does not allow"))?;
        value.set_sensitive(true);
        custom.insert(header, value);
    }
    let mut config = StreamableHttpClientTransportConfig::with_uri(config::substitute(uri, &values))
        .custom_headers(custom);
    // The library's default doubles its delay for ever.
    let mut retry = ExponentialBackoff::default();
    retry.max_times = Some(8);
    retry.max_delay = Some(Duration::from_secs(30));
    config.retry_config = Arc::new(retry);
    Ok(StreamableHttpClientTransport::with_client(server.host().http()?, config))
}

enum HandshakeError {
    Initialize(Box<ClientInitializeError>),
    Version(String),
    Tools(Failure),
}

impl HandshakeError {
    fn into_start_error(self, server: &Server, end: Option<End>) -> StartError {
        let mut needs_auth = false;
        let text = match self {
            Self::Initialize(error) => {
                needs_auth = error.is_authorization_required() || error.auth_challenge().is_some();
                match *error {
                    ClientInitializeError::ConnectionClosed(_) => {
                        "it closed the connection before the handshake was over".to_owned()
                    }
                    ClientInitializeError::JsonRpcError(error) => {
                        format!("it refused the handshake: {} (code {})", error.message, error.code.0)
                    }
                    ClientInitializeError::TransportError { error, .. } => {
                        format!("it cannot be reached: {}", chain(error.error.as_ref()))
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
                Failure::Gone(text) => format!("its tools could not be listed: {text}"),
                Failure::Rpc(error) => format!("its tools could not be listed: {}", error.message),
                other => format!("its tools could not be listed: {other:?}"),
            },
        };
        let mut start_error = failed(server, &text, end);
        if needs_auth {
            start_error.needs_auth = true;
            start_error.error.reason = ErrorReason::ExtensionNeedsAuth;
        }
        start_error
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn failed(server: &Server, text: &str, end: Option<End>) -> StartError {
    start_error(server, ErrorReason::ExtensionStartFailed, text, end)
}

fn timed_out(server: &Server, limit: Duration, end: Option<End>) -> StartError {
    let text = format!("it was not ready within {} s", limit.as_secs_f64());
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
    let modern = server.config().protocol == ProtocolEra::Modern;
    let mode = if modern {
        ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
    } else {
        ClientLifecycleMode::Initialize
    };
    let service = Box::pin(Handler.serve_with_lifecycle(wire, mode)).await;
    let service = service.map_err(|error| HandshakeError::Initialize(Box::new(error)))?;
    let Some(info) = service.peer().peer_info() else {
        return Err(HandshakeError::Version(String::new()));
    };
    let version = &info.protocol_version;
    let supported =
        if modern { *version == ProtocolVersion::V_2026_07_28 } else { HANDSHAKE_VERSIONS.contains(version) };
    if !supported {
        return Err(HandshakeError::Version(version.to_string()));
    }
    let connection = Arc::new(Connection::new(service.peer().clone(), shared, info));
    let running = Running { service, process: None, connection, tools: Vec::new() };
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
