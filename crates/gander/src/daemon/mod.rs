//! The daemon: configuration, store, model providers, extensions, engine, service and listeners put together, and taken
//! apart again in order.
//!
//! Nothing here is process-wide: two daemons with different roots live in one process and do not see each other.

mod admin;
mod builtins;
mod environment;

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
use gander_client::{Client, ClientOptions, Endpoint};
use gander_config::{ConfigHandle, ConfigOptions, Environment, Paths, Secret};
use gander_engine::{ConfigModels, Engine, EngineOptions, EngineParts, SystemSource};
use gander_listen::{App, CallerCheck, Front, Listener, Options, PeerIdentity, Server, TlsOptions};
use gander_mcp::{HostOptions, McpHost};
use gander_model::ProviderRegistry;
use gander_process::ToolProcesses;
use gander_service::{Principal, ServiceOptions};
use gander_store::{OpenOptions, SqliteStore, StoreError};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

pub use environment::{client_environment, tool_environment};

/// How long running turns may finish when the daemon is told to stop without saying how long.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// After the turns: for streams and connections to end.
const CONNECTION_GRACE: Duration = Duration::from_secs(8);

/// Certificate files of the TCP listener, PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate of this authority.
    pub client_ca: Option<PathBuf>,
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
            engine: EngineOptions::default(),
        }
    }
}

fn own_supervisor() -> Option<Vec<String>> {
    let executable = std::env::current_exe().ok()?;
    let is_gander = executable.file_stem().is_some_and(|stem| stem == "gander");
    is_gander.then(|| vec![executable.to_string_lossy().into_owned(), "__supervise".to_owned()])
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
    paths: Paths,
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
        let store = open_store(&paths)?;
        let processes = ToolProcesses::new();
        let mcp = McpHost::new(HostOptions {
            supervisor: options.supervisor.clone(),
            ..HostOptions::new(
                Arc::new(builtins::Builtins::new(
                    options.supervisor.clone(),
                    processes.clone(),
                    paths.config_dir().join("memory"),
                )),
                processes.clone(),
            )
        });
        let registry = ProviderRegistry::with_directory(&paths.custom_providers_dir());
        for problem in registry.problems() {
            tracing::warn!(?problem, "a provider file is left out");
        }
        let engine = Engine::start(EngineParts {
            store,
            source: Arc::new(SystemSource),
            models: Arc::new(ConfigModels::new(config.clone(), registry)),
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
        let front = Front::new(
            App { grpc: gander_service::routes(engine.clone(), service), http: None },
            Options {
                token: token.map(|t| SecretString::from(t.expose().to_owned())),
                caller_check: Some(Arc::new(ToolCheck(processes))),
                identify: Some(Arc::new(|extensions, peer: &PeerIdentity| {
                    let protocol = if peer.protocol.is_empty() { "grpc" } else { &peer.protocol };
                    extensions
                        .insert(Principal { name: peer.principal.clone(), protocol: protocol.to_owned() });
                })),
                ..Options::default()
            },
        );
        Ok(Self { engine, front, paths })
    }
}

fn open_store(paths: &Paths) -> Result<Arc<SqliteStore>> {
    SqliteStore::open(OpenOptions::new(paths.data_dir())).map_err(|error| match error {
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
    options: DaemonOptions,
    shutdown: CancellationToken,
    ready: impl FnOnce(&Ready),
) -> Result<()> {
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
    let mut listeners = vec![gander_service::Listener {
        address: format!("unix:{}", socket.display()),
        protocols: protocols(),
    }];
    let tcp_address = tcp.as_ref().and_then(|l| match l.address() {
        gander_listen::BoundAddress::Tcp(address) => Some(address),
        gander_listen::BoundAddress::Unix(_) => None,
    });
    listeners.extend(
        tcp_address.map(|a| gander_service::Listener { address: a.to_string(), protocols: protocols() }),
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
    shutdown.cancelled().await;
    let grace = Duration::from_millis(grace.load(Ordering::Relaxed));
    tracing::info!(grace_ms = millis(grace), "draining");
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

/// The daemon of these paths, if one answers on its socket.
pub async fn find_running(paths: &Paths) -> Option<Endpoint> {
    let socket = paths.socket_path();
    if !socket.exists() {
        return None;
    }
    let endpoint = Endpoint::unix(socket);
    let probe = async {
        let client = Client::connect(endpoint.clone(), ClientOptions::new("gander-probe")).await.ok()?;
        let request = gander_proto::v1::GetServerInfoRequest {};
        client.system().get_server_info(request).await.ok()
    };
    tokio::time::timeout(Duration::from_secs(3), probe).await.ok().flatten().map(|_| endpoint)
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
