//! The protocol over HTTP: `POST /acp` with answers on server-sent event streams, and `GET /acp` as a WebSocket.
//!
//! The shape is that of the protocol's remote transports: `initialize` makes a connection and answers with its id, every
//! other message is accepted with 202, one stream carries what belongs to the connection and one each what belongs to a
//! session. Nothing is replayed: a client that was cut off makes a new connection and loads or resumes its sessions.
//!
//! Whoever mounts the router gives the secret; it is asked for on every request, and a web page of an unknown origin is
//! refused even with it.

mod access;
mod http;
mod lanes;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gander_client::Client;
use secrecy::SecretString;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::lanes::Remote;
use crate::agent::Options;

/// The path that everything happens under.
pub const PATH: &str = "/acp";
/// Header that names a connection.
pub(crate) const CONNECTION_ID: &str = "acp-connection-id";
/// Header that names a session.
pub(crate) const SESSION_ID: &str = "acp-session-id";

/// Who may connect, and what connections are told.
#[derive(Clone)]
pub struct RemoteOptions {
    /// The secret: as a bearer token, in `X-Secret-Key`, or for WebSockets as `?token=`.
    pub secret: SecretString,
    /// Web origins beside `null`, `file://` and loopback ones whose pages may connect.
    pub allowed_origins: Vec<String>,
    /// Connections at a time.
    pub max_connections: usize,
    /// For every connection.
    pub connection: Options,
}

impl RemoteOptions {
    /// Options with this secret.
    #[must_use]
    pub fn new(secret: SecretString, connection: Options) -> Self {
        Self { secret, allowed_origins: Vec::new(), max_connections: 256, connection }
    }
}

/// The remote clients of one daemon. Cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    options: RemoteOptions,
    connections: Mutex<HashMap<String, Arc<Remote>>>,
    sockets: tokio::sync::Semaphore,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl App {
    /// Nobody is connected yet.
    #[must_use]
    pub fn new(client: Client, options: RemoteOptions) -> Self {
        let inner = Inner {
            client,
            sockets: tokio::sync::Semaphore::new(options.max_connections),
            options,
            connections: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Ends all connections. Turns go on.
    pub async fn close(&self, at_most: Duration) {
        self.inner.stop.cancel();
        self.connections().clear();
        self.inner.tasks.close();
        // Whatever does not end in time ends with the process.
        let _ = tokio::time::timeout(at_most, self.inner.tasks.wait()).await;
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<String, Arc<Remote>>> {
        self.inner.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self, id: &str) -> Option<Arc<Remote>> {
        self.connections().get(id).cloned()
    }

    fn forget(&self, id: &str) -> bool {
        self.connections().remove(id).is_some_and(|remote| {
            remote.stop.cancel();
            true
        })
    }
}

/// The route `/acp`, with its own authentication.
pub fn router(app: App) -> axum::Router {
    let methods = axum::routing::post(http::post)
        .get(socket::get)
        .delete(http::delete)
        .options(|| async { axum::http::StatusCode::NO_CONTENT });
    axum::Router::new()
        .route(PATH, methods)
        .layer(axum::extract::DefaultBodyLimit::max(http::MAX_BODY))
        .layer(axum::middleware::from_fn_with_state(app.clone(), access::check))
        .with_state(app)
}
