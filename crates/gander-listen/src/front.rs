//! The application behind all listeners: routes, options, limits and counters. Everything that one daemon shares
//! between its listeners is here, and nothing is shared between two daemons of one process.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use crate::{CallerCheck, PeerIdentity, connection::Connection, grpc, methods::Methods, metrics::Metrics};

/// A gRPC service in this process, as `gander-client` takes it.
pub type LocalService =
    BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Box<dyn std::error::Error + Send + Sync>>;

/// Tells the application who calls, by putting its own type into the request's extensions.
pub type Identify = Arc<dyn Fn(&mut http::Extensions, &PeerIdentity) + Send + Sync>;

/// What is served.
pub struct App {
    /// The gRPC services.
    pub grpc: Routes,
    /// Other HTTP routes. Without them every other path answers 404.
    pub http: Option<HttpRoutes>,
}

/// HTTP routes beside gRPC.
pub struct HttpRoutes {
    /// The routes. They do CORS for themselves.
    pub router: axum::Router,
    /// Who checks the token on TCP.
    pub auth: HttpAuth,
}

/// Who checks the token of plain HTTP requests on TCP. On unix sockets the peer's uid is the proof.
#[derive(Clone, Debug)]
pub enum HttpAuth {
    /// This crate: `Authorization: Bearer` or `X-Secret-Key`, except on these exact paths.
    Listener {
        /// Paths without a token.
        public: Vec<String>,
    },
    /// The router itself, in its own dialect.
    Router,
}

/// Bounds. Durations are deadlines.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of one listener. Further ones wait in the backlog.
    pub max_connections: usize,
    /// Unary calls at a time, over all listeners.
    pub max_unary: usize,
    /// Streaming calls at a time, over all listeners.
    pub max_streams: usize,
    /// HTTP/2 streams of one connection.
    pub max_streams_per_connection: u32,
    /// From accept to the first bytes that tell the protocol.
    pub first_byte: Duration,
    /// TLS handshake.
    pub handshake: Duration,
    /// Deadline of unary calls that bring none. `None`: no deadline.
    pub default_deadline: Option<Duration>,
    /// Pause between HTTP/2 pings.
    pub keepalive_interval: Duration,
    /// A peer that does not answer a ping in this time is gone.
    pub keepalive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_unary: 1024,
            max_streams: 4096,
            max_streams_per_connection: 256,
            first_byte: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            default_deadline: Some(Duration::from_secs(120)),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

/// How it is served.
#[derive(Clone, Default)]
pub struct Options {
    /// Bounds.
    pub limits: Limits,
    /// The daemon's token, for TCP.
    pub token: Option<SecretString>,
    /// Which processes are tools. `None`: none is.
    pub caller_check: Option<Arc<dyn CallerCheck>>,
    /// Tells the application who calls.
    pub identify: Option<Identify>,
    /// Host names beside the loopback ones under which a loopback port may be addressed.
    pub allowed_hosts: Vec<String>,
    /// Web origins beside `null`, `file://` and loopback ones that may call gRPC and gRPC-Web.
    pub allowed_origins: Vec<String>,
    /// Cancelled when a server of this front begins to drain. Watches end themselves by it.
    pub draining: CancellationToken,
}

/// The application behind listeners. Cheap to clone; clones share limits and counters.
#[derive(Clone)]
pub struct Front {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) routes: Routes,
    pub(crate) http: Option<HttpRoutes>,
    pub(crate) options: Options,
    pub(crate) methods: Methods,
    pub(crate) metrics: Metrics,
    pub(crate) unary: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("limits", &self.inner.options.limits).finish_non_exhaustive()
    }
}

impl Front {
    /// Puts an application and its options together.
    #[must_use]
    pub fn new(app: App, options: Options) -> Self {
        let methods = Methods::new();
        let permits = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        let inner = Inner {
            routes: app.grpc.prepare(),
            http: app.http,
            metrics: Metrics::new(&methods),
            methods,
            unary: permits(options.limits.max_unary),
            streams: permits(options.limits.max_streams),
            options,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The counters in the Prometheus text format.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        self.inner.metrics.render(&self.inner.methods)
    }

    /// Connections that are open, over all listeners.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        let open = self.inner.metrics.connections.load(std::sync::atomic::Ordering::Relaxed);
        u64::try_from(open).unwrap_or(0)
    }

    /// Cancelled once a drain has begun.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.inner.options.draining.clone()
    }

    /// The gRPC services for callers in this process: same limits, deadlines, counters and panic guard, no socket.
    #[must_use]
    pub fn local(&self, identity: PeerIdentity) -> LocalService {
        let inner = self.inner.clone();
        let connection = Arc::new(Connection::local(identity));
        BoxCloneSyncService::new(
            tower::service_fn(move |request: http::Request<Body>| {
                let (inner, connection) = (inner.clone(), connection.clone());
                async move { Ok::<_, Infallible>(grpc::serve(inner, connection, request, None).await) }
            })
            .map_err(|never| match never {}),
        )
    }
}
