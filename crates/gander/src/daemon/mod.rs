//! The daemon: configuration, store, model providers, extensions, engine, service and listeners put together, and taken
//! apart again in order.
//!
//! Nothing here is process-wide: two daemons with different roots live in one process and do not see each other.

mod adapters;
mod admin;
mod background;
mod builtins;
mod environment;
mod linger;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use gander_agents::Agents;
use gander_client::{Client, Endpoint};
use gander_config::{ConfigHandle, ConfigOptions, Environment, Paths, Secret};
use gander_engine::{ConfigModels, Engine, EngineOptions, EngineParts, SystemSource};
use gander_listen::{App, CallerCheck, Front, Listener, Options, PeerIdentity, Server, TlsOptions};
use gander_mcp::{HostOptions, McpHost};
use gander_model::{ProviderRegistry, Tape};
use gander_process::{Spawner, ToolProcesses};
use gander_service::{Principal, ServiceOptions};
use gander_store::{OpenOptions, SqliteStore, StoreError};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use adapters::Adapters;
pub use background::{BackgroundOptions, ensure, find_running};
pub use environment::{client_environment, tool_environment};
pub use linger::Linger;

/// How long running turns may finish when the daemon is told to stop without saying how long.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// After the turns: for streams and connections to end.
const CONNECTION_GRACE: Duration = Duration::from_secs(8);

/// How long a daemon in the background waits for the one before it to let go of the data directory.
const HANDOVER: Duration = Duration::from_secs(30);
const HANDOVER_POLL: Duration = Duration::from_millis(20);

/// For calls of the adapters that are on their way when the daemon is told to stop.
const ADAPTER_GRACE: Duration = Duration::from_millis(500);

/// Certificate files of the TCP listener, PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate of this authority.
    pub client_ca: Option<PathBuf>,
}

/// What happens to model calls besides being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taping {
    /// They are recorded in this directory.
    Record(PathBuf),
    /// They are not made: the answers of this record are given.
    Replay(PathBuf),
}

/// Folder of a record for what extensions said.
const EXTENSIONS: &str = "extensions";

impl Taping {
    fn record_of_extensions(&self) -> Option<PathBuf> {
        match self {
            Self::Record(directory) => Some(directory.join(EXTENSIONS)),
            Self::Replay(_) => None,
        }
    }

    /// A record without extensions says nothing about them: they are started as ever.
    fn replay_of_extensions(&self) -> Option<PathBuf> {
        match self {
            Self::Replay(directory) => Some(directory.join(EXTENSIONS)).filter(|folder| folder.is_dir()),
            Self::Record(_) => None,
        }
    }
}

/// How to run a daemon.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// Overrides `GANDER_PATH_ROOT` and XDG.
    pub root: Option<PathBuf>,
    /// Listen here besides the unix socket.
    pub tcp: Option<SocketAddr>,
    /// Serve `/metrics` and `/healthz` here (loopback only).
    pub admin: Option<SocketAddr>,
    pub tls: Option<TlsFiles>,
    pub environment: Environment,
    /// Command line in front of `-- COMMAND` that supervises tool processes; `None` = process groups only.
    pub supervisor: Option<Vec<String>>,
    pub engine: EngineOptions,
    /// Exit when nobody has used the daemon for a while, as the setting `gander.linger` says.
    pub background: bool,
    /// Record or replay model calls.
    pub taping: Option<Taping>,
}

impl DaemonOptions {
    /// Unix socket only; tools are supervised by this executable if it is gander.
    pub fn new(environment: Environment) -> Self {
        Self {
            root: None,
            tcp: None,
            admin: None,
            tls: None,
            environment,
            supervisor: own_supervisor(),
            engine: EngineOptions { generate_titles: true, ..EngineOptions::default() },
            background: false,
            taping: None,
        }
    }
}

fn own_supervisor() -> Option<Vec<String>> {
    let executable = std::env::current_exe().ok()?;
    let is_gander = executable.file_stem().is_some_and(|stem| stem == "gander");
    is_gander.then(|| vec![executable.to_string_lossy().into_owned(), "__supervise".to_owned()])
}

/// The supervisor's program connects programs to doors as well.
fn door_command(supervisor: Option<&[String]>) -> Option<Vec<String>> {
    let program = supervisor?.first()?;
    Some(vec![program.clone(), crate::DOOR_COMMAND.to_owned()])
}

/// Where a daemon can be reached.
#[derive(Debug, Clone)]
pub struct Ready {
    pub socket: PathBuf,
    pub tcp: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub data_dir: PathBuf,
    pub token_file: PathBuf,
}

/// The parts of a running daemon.
struct Daemon {
    engine: Arc<Engine>,
    front: Front,
    client: Client,
    adapters: Option<Adapters>,
    paths: Paths,
    linger: Linger,
}

/// What is known before the service is made.
struct Announce {
    listeners: Vec<gander_service::Listener>,
    shutdown: Option<gander_service::ShutdownHook>,
}

impl Daemon {
    async fn compose(options: &DaemonOptions, announce: Announce, token: Option<Secret>) -> Result<Self> {
        let paths = Paths::resolve(options.root.as_deref(), &options.environment)?;
        paths.create_dirs()?;
        let config = ConfigHandle::open(ConfigOptions::new(paths.clone(), options.environment.clone()))?;
        config.on_secrets(crate::log_writer::hide);
        let linger = match config.current().get_string(linger::KEY)? {
            // `doctor` tells it as well; no command may fail for it, or it could not be put right.
            Some(text) => Linger::parse(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, "the setting is ignored");
                Linger::default()
            }),
            None => Linger::default(),
        };
        // A daemon that is about to end still holds the directory for a moment.
        let patience = if options.background { HANDOVER } else { Duration::ZERO };
        let store = open_store(&paths, patience).await?;
        let processes = ToolProcesses::new();
        let mcp = McpHost::new(HostOptions {
            supervisor: options.supervisor.clone(),
            trace_context: crate::telemetry::trace_context(),
            record: options.taping.as_ref().and_then(Taping::record_of_extensions),
            replay: options.taping.as_ref().and_then(Taping::replay_of_extensions),
            door: door_command(options.supervisor.as_deref()),
            ..HostOptions::new(
                Arc::new(builtins::Builtins::new(
                    options.supervisor.clone(),
                    processes.clone(),
                    paths.config_dir().join("memory"),
                )),
                processes.clone(),
            )
        });
        let agents = Arc::new(Agents::with_directory(
            &paths.custom_providers_dir(),
            tool_environment(&options.environment),
            Spawner::new(options.supervisor.clone(), processes.clone()),
        ));
        for problem in agents.problems() {
            tracing::warn!(?problem, "an agent's file is left out");
        }
        let registry = ProviderRegistry::with_directory(&paths.custom_providers_dir()).with_source(agents);
        for problem in registry.problems() {
            tracing::warn!(?problem, "a provider file is left out");
        }
        let mut models = ConfigModels::new(config.clone(), registry);
        if let Some(taping) = &options.taping {
            let tape = match taping {
                Taping::Record(directory) => Tape::record(directory),
                Taping::Replay(directory) => Tape::replay(directory),
            };
            models = models.with_tape(tape.map_err(anyhow::Error::msg)?);
        }
        let engine = Engine::start(EngineParts {
            store,
            source: Arc::new(SystemSource),
            models: Arc::new(models),
            mcp,
            config,
            options: options.engine.clone(),
            spill_dir: paths.data_dir().join("sessions"),
            denied_paths: vec![paths.data_dir().to_owned(), paths.token_file(), paths.secrets_file()],
            tool_environment: tool_environment(&options.environment),
        })
        .await?;
        let service = ServiceOptions {
            listeners: announce.listeners,
            data_directory: paths.data_dir().display().to_string(),
            shutdown: announce.shutdown,
            ..ServiceOptions::default()
        };
        let services = gander_service::routes(engine.clone(), service);
        let listening = Options {
            token: token.as_ref().map(|t| SecretString::from(t.expose().to_owned())),
            caller_check: Some(Arc::new(ToolCheck(processes))),
            identify: Some(Arc::new(|extensions, peer: &PeerIdentity| {
                let protocol = if peer.protocol.is_empty() { "grpc" } else { &peer.protocol };
                extensions.insert(Principal { name: peer.principal.clone(), protocol: protocol.to_owned() });
            })),
            ..Options::default()
        };
        let client = adapters::client(services.clone(), &listening, "gander", "").await?;
        let adapters = match &token {
            Some(token) if options.tcp.is_some() => {
                Some(Adapters::new(services.clone(), &listening, token).await?)
            }
            _ => None,
        };
        let http = adapters.as_ref().map(Adapters::routes);
        let front = Front::new(App { grpc: services, http }, listening);
        Ok(Self { engine, front, client, adapters, paths, linger })
    }
}

async fn open_store(paths: &Paths, patience: Duration) -> Result<Arc<SqliteStore>> {
    let deadline = tokio::time::Instant::now() + patience;
    let opened = loop {
        match SqliteStore::open(OpenOptions::new(paths.data_dir())) {
            Err(StoreError::Owned { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(HANDOVER_POLL).await;
            }
            opened => break opened,
        }
    };
    opened.map_err(|error| match error {
        StoreError::Owned { pid } => anyhow::anyhow!(
            "the data directory {} is in use by another gander (process {pid}); stop it with `gander stop`, or give \
             this one another root with --root",
            paths.data_dir().display()
        ),
        other => anyhow::Error::new(other)
            .context(format!("cannot open the data directory {}", paths.data_dir().display())),
    })
}

/// Processes that descend from a tool may not use the API.
struct ToolCheck(ToolProcesses);

impl CallerCheck for ToolCheck {
    fn is_tool(&self, pid: u32) -> bool {
        self.0.is_tool_descendant(pid)
    }

    fn any_tool(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Serves until `shutdown` is cancelled (or a client asks for it), then drains within the grace period.
///
/// # Errors
/// What keeps the daemon from starting: configuration, data directory, a taken address.
pub async fn serve(
    mut options: DaemonOptions,
    shutdown: CancellationToken,
    ready: impl FnOnce(&Ready),
) -> Result<()> {
    // An engine inside of a short command must not start what outlives it.
    options.engine.run_schedules = true;
    let paths = Paths::resolve(options.root.as_deref(), &options.environment)?;
    paths.create_dirs()?;
    let socket = paths.prepare_socket_dir()?;
    // The store's lock first: a second daemon must not even look at the first one's socket.
    let token = gander_config::token::load_or_create(&paths)?;
    let grace = Arc::new(AtomicU64::new(millis(DEFAULT_GRACE)));
    let tls = options.tls.as_ref().map(read_tls).transpose()?;
    let tcp = match options.tcp {
        Some(address) => Some(Listener::tcp(address, tls).await?),
        None => None,
    };
    let protocols = || vec!["grpc".to_owned(), "grpc-web".to_owned()];
    let tcp_protocols = || [protocols(), vec!["goose-rest".to_owned(), "acp".to_owned()]].concat();
    let mut listeners = vec![gander_service::Listener {
        address: format!("unix:{}", socket.display()),
        protocols: protocols(),
    }];
    let tcp_address = tcp.as_ref().and_then(|l| match l.address() {
        gander_listen::BoundAddress::Tcp(address) => Some(address),
        gander_listen::BoundAddress::Unix(_) => None,
    });
    listeners.extend(
        tcp_address.map(|a| gander_service::Listener { address: a.to_string(), protocols: tcp_protocols() }),
    );
    let hook: gander_service::ShutdownHook = {
        let (shutdown, grace) = (shutdown.clone(), grace.clone());
        Arc::new(move |within| {
            grace.store(millis(within), Ordering::Relaxed);
            shutdown.cancel();
        })
    };
    let announce = Announce { listeners, shutdown: Some(hook) };
    let daemon = Daemon::compose(&options, announce, Some(token)).await?;
    let mut servers = vec![Server::start(Listener::unix(&socket).await?, &daemon.front)?];
    if let Some(listener) = tcp {
        servers.push(Server::start(listener, &daemon.front)?);
    }
    let admin = match options.admin {
        Some(address) => {
            Some(admin::Admin::start(address, daemon.front.clone(), daemon.engine.clone()).await?)
        }
        None => None,
    };
    ready(&Ready {
        socket,
        tcp: tcp_address,
        admin: admin.as_ref().map(admin::Admin::address),
        data_dir: daemon.paths.data_dir().to_owned(),
        token_file: daemon.paths.token_file(),
    });
    let history = {
        let (client, paths, stop) = (daemon.client.clone(), daemon.paths.clone(), shutdown.clone());
        tokio::spawn(async move { crate::goose_history::import_once(&client, &paths, &stop).await })
    };
    let unused = async {
        match options.background {
            true => daemon.linger.until_unused(&daemon.front, &daemon.engine).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = unused => tracing::info!("nobody uses this daemon: it ends"),
    }
    shutdown.cancel();
    let grace = Duration::from_millis(grace.load(Ordering::Relaxed));
    tracing::info!(grace_ms = millis(grace), "draining");
    if let Some(adapters) = &daemon.adapters {
        adapters.close(ADAPTER_GRACE).await;
    }
    // It stops between two sessions; what it is in the middle of has its own deadline and is one commit.
    history.abort();
    drain(&daemon.engine, servers, grace).await;
    drop(admin);
    tracing::info!("stopped");
    Ok(())
}

/// Turns and streams end, then connections, then the store.
async fn drain(engine: &Engine, servers: Vec<Server>, grace: Duration) {
    let deadline = grace + CONNECTION_GRACE;
    let connections = futures::future::join_all(servers.into_iter().map(|s| s.drain(deadline)));
    let (_, reports) = tokio::join!(engine.drain(grace), connections);
    for report in reports.iter().filter(|r| r.cut > 0) {
        tracing::warn!(cut = report.cut, stuck = report.stuck, "connections were cut at the deadline");
    }
    engine.close().await;
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn read_tls(files: &TlsFiles) -> Result<TlsOptions> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let key = String::from_utf8(read(&files.key)?)
        .with_context(|| format!("{} is not a PEM file", files.key.display()))?;
    Ok(TlsOptions {
        cert_pem: read(&files.cert)?,
        key_pem: SecretString::from(key),
        client_ca_pem: files.client_ca.as_deref().map(read).transpose()?,
        allow_plain: false,
    })
}

/// An engine in this process, for commands without a daemon, and for tests.
pub struct Embedded {
    daemon: Daemon,
}

impl Embedded {
    /// Starts it over the root's data directory.
    ///
    /// # Errors
    /// As [`serve`].
    pub async fn start(options: DaemonOptions) -> Result<Self> {
        let announce = Announce { listeners: Vec::new(), shutdown: None };
        Ok(Self { daemon: Daemon::compose(&options, announce, None).await? })
    }

    /// Calls without a socket, as this process's user.
    pub fn endpoint(&self) -> Endpoint {
        let uid = rustix::process::geteuid().as_raw();
        Endpoint::Local(self.daemon.front.local(PeerIdentity::local(format!("uid:{uid}"))))
    }

    /// The engine itself, for tests that look behind the API.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.daemon.engine
    }

    /// Ends it; turns that still run are interrupted.
    pub async fn stop(self) {
        self.daemon.engine.drain(Duration::ZERO).await;
        self.daemon.engine.close().await;
    }
}

/// Checks the database of these paths without a daemon and without changing it; gives the findings.
///
/// # Errors
/// When there is no database, or it cannot be read.
pub async fn check_offline(paths: &Paths) -> Result<Vec<String>> {
    use gander_domain::check::LogChecker;
    use gander_store::Store as _;
    if !paths.data_dir().join("gander.db").exists() {
        bail!("there is no database in {} yet: nothing to check", paths.data_dir().display());
    }
    let store = SqliteStore::open(OpenOptions::new(paths.data_dir()).read_only())?;
    let mut findings: Vec<String> = store.check().await?.into_iter().map(|f| f.text).collect();
    for session_id in store.session_ids().await? {
        let mut checker = LogChecker::default();
        let mut after = 0;
        loop {
            let page = store.read_events(&session_id, after, 4096, 8 << 20).await?;
            page.events.iter().for_each(|event| checker.push(event));
            match page.events.last() {
                Some(last) if last.sequence < page.last_sequence => after = last.sequence,
                _ => break,
            }
        }
        // Turns that a killed daemon left open are closed at the next start, so they are no damage.
        findings.extend(checker.finish(false).into_iter().map(|f| format!("session {session_id}: {f}")));
    }
    Ok(findings)
}
