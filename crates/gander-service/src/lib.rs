//! The canonical API as tonic services: decode → engine → encode.
//!
//! Invariants: conversion is validation, and all violations of a request come in one error; every error carries
//! `ErrorInfo`, and its code is looked up in one table ([`error::code`]); an effect runs in a task of its own, so that a
//! caller that goes away leaves no half of it; streams are pulled from the engine's cursors, never pushed.
//! It must not decide anything about sessions, turns or extensions: that is the engine's business. It listens to
//! nothing: sockets, TLS, authentication and gRPC-Web belong to the listener.

mod canonical;
mod complete;
mod context;
mod convert;
pub mod error;
mod paging;
mod services;
mod watch;

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use futures::FutureExt as _;
use gander_domain::{ErrorDetail, Session};
use gander_engine::Engine;
use gander_proto::v1 as pb;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body, service::Routes};
use tower::{BoxError, ServiceExt as _, util::BoxCloneSyncService};
use tracing::Instrument as _;

pub use crate::context::Principal;
use crate::error::IntoStatus as _;

/// Largest request in bytes.
pub const MAX_REQUEST_BYTES: usize = 32 * 1024 * 1024;
/// Largest response in bytes: what clients receive without raising their limit.
pub const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that a page of items or events may hold.
pub(crate) const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of one chunk of a streamed value.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// Asks the daemon to drain within the given time; returns at once.
pub type ShutdownHook = Arc<dyn Fn(Duration) + Send + Sync>;

/// An address that the daemon listens on, for `GetServerInfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// `unix:/path` or `host:port`.
    pub address: String,
    /// `grpc`, `grpc-web`, `rest`, `acp`.
    pub protocols: Vec<String>,
}

/// What the composition tells the service.
#[derive(Clone)]
pub struct ServiceOptions {
    /// Version of the daemon.
    pub version: String,
    /// Commit that it was built from; may be empty.
    pub commit: String,
    pub listeners: Vec<Listener>,
    /// Where sessions are kept, for people.
    pub data_directory: String,
    /// Silence after which a stream sends a checkpoint.
    pub checkpoint_interval: Duration,
    /// Watches and host attachments at once; each holds memory.
    pub max_streams: usize,
    /// Reflection tells everyone the API; a hardened daemon leaves it out.
    pub reflection: bool,
    /// `None`: the daemon cannot be stopped over the API (it is embedded in another program).
    pub shutdown: Option<ShutdownHook>,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: String::new(),
            listeners: Vec::new(),
            data_directory: String::new(),
            checkpoint_interval: Duration::from_secs(15),
            max_streams: 8192,
            reflection: true,
            shutdown: None,
        }
    }
}

/// A transport without a socket: the same calls, in one process.
pub type InProcess = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, BoxError>;

/// All services over one engine. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    engine: Arc<Engine>,
    options: Arc<ServiceOptions>,
    streams: Arc<Semaphore>,
}

impl Api {
    pub fn new(engine: Arc<Engine>, options: ServiceOptions) -> Self {
        let streams = Arc::new(Semaphore::new(options.max_streams.min(Semaphore::MAX_PERMITS)));
        Self { engine, options: Arc::new(options), streams }
    }

    /// All services, health and reflection. gRPC-Web, authentication and deadlines are layers of the listener.
    ///
    /// Must be called inside a tokio runtime: a task tells health watchers when the engine drains.
    pub fn routes(&self) -> Routes {
        services::routes(self)
    }

    /// The same services for callers in this process, who act as `principal`.
    ///
    /// See [`Api::routes`] for the runtime.
    pub fn in_process(&self, principal: Principal) -> InProcess {
        let routes = self.routes().prepare();
        BoxCloneSyncService::new(
            routes
                .map_request(move |mut request: http::Request<Body>| {
                    request.extensions_mut().insert(principal.clone());
                    request
                })
                .map_err(|never: Infallible| -> BoxError { match never {} }),
        )
    }

    /// Runs an effect in a task of its own: tonic drops a handler's future when its client goes away, and an effect must
    /// happen wholly or not at all.
    pub(crate) async fn run<T, F>(&self, effect: impl FnOnce(Arc<Engine>) -> F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ErrorDetail>> + Send + 'static,
    {
        let task = tokio::spawn(effect(self.engine.clone()).in_current_span());
        match task.await {
            Ok(result) => result.or_status(),
            Err(failure) => {
                tracing::error!(%failure, "a request's task failed");
                Err(ErrorDetail::internal("the request failed inside the daemon; its log tells more"))
                    .or_status()
            }
        }
    }

    /// Runs blocking work, such as writing the configuration file.
    pub(crate) async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, ErrorDetail> + Send + 'static,
    ) -> Result<T, Status> {
        let engine = self.engine.clone();
        self.run(|_| async move {
            let done = tokio::task::spawn_blocking(move || work(&engine)).await;
            done.unwrap_or_else(|failure| {
                Err(ErrorDetail::internal(format!("a blocking task failed: {failure}")))
            })
        })
        .await
    }

    /// A place for one more open stream.
    pub(crate) fn open_stream(&self) -> Result<OwnedSemaphorePermit, ErrorDetail> {
        self.streams
            .clone()
            .try_acquire_owned()
            .map_err(|_| watch::too_many_streams(self.options.max_streams))
    }

    /// A session with what is not in its row.
    pub(crate) async fn session(&self, session: &Session) -> pb::Session {
        let mut out = self.session_row(session);
        // A session deleted meanwhile has no options; the answer is as of before.
        let options = self.engine.session_options(&session.session_id).await.unwrap_or_default();
        out.options = options.iter().map(convert::session::option_to_pb).collect();
        out
    }

    /// A session as lists show it.
    pub(crate) fn session_row(&self, session: &Session) -> pb::Session {
        pb::Session {
            loaded: self.engine.session_is_loaded(&session.session_id),
            ..convert::session::session_to_pb(session)
        }
    }
}

/// All services over `engine` with health and reflection; see [`Api::routes`].
pub fn routes(engine: Arc<Engine>, options: ServiceOptions) -> Routes {
    Api::new(engine, options).routes()
}

/// The services for callers in this process; see [`Api::in_process`].
pub fn in_process(engine: Arc<Engine>, options: ServiceOptions, principal: Principal) -> InProcess {
    Api::new(engine, options).in_process(principal)
}

/// Polls a future that is known not to wait.
pub(crate) fn immediately(future: impl Future<Output = ()>) {
    if future.now_or_never().is_none() {
        tracing::warn!("a step that should not wait was left undone");
    }
}
