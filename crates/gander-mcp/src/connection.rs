//! An established connection and the requests on it. Every request has a deadline, ends when the server ends, and
//! leaves nothing behind when its future is dropped.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use rmcp::{
    RoleClient,
    model::{
        CancelledNotification, CancelledNotificationParam, ClientRequest, ErrorData, GetExtensions as _,
        RequestId, RequestMetaObject, RootsListChangedNotification, ServerPeerInfo, ServerResult,
    },
    service::{Peer, PeerRequestOptions, RequestHandle, ServiceError},
};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    asks::Asks,
    calls::CallProgress,
    explain,
    wire::{Route, RouteGuard, RouteTag, WireFailure, WireShared},
};

/// Requests in flight on one connection; more wait within their deadlines.
const MAX_IN_FLIGHT: usize = 64;
/// How long telling the server to stop may take.
const CANCEL_PATIENCE: Duration = Duration::from_millis(100);
/// How long a failed request waits to learn why the connection ended.
const CAUSE_PATIENCE: Duration = Duration::from_secs(2);

/// Why a request was not answered with a result.
#[derive(Debug)]
pub(crate) enum Failure {
    Cancelled,
    TimedOut(Duration),
    /// The connection ended; says why.
    Gone(String),
    Wire(WireFailure),
    /// The server answered with an error.
    Rpc(ErrorData),
    /// What the server needs from the user cannot be had; says why.
    Asked(String),
}

/// How to make a request.
#[derive(Clone)]
pub(crate) struct RequestOptions {
    pub(crate) deadline: Instant,
    /// What the deadline was made of, for messages.
    pub(crate) timeout: Duration,
    pub(crate) cancel: CancellationToken,
    pub(crate) progress: Option<mpsc::Sender<CallProgress>>,
    /// How long the result may wait for a slow reader of reports.
    pub(crate) drain: Duration,
    pub(crate) meta: Option<RequestMetaObject>,
}

impl RequestOptions {
    /// Only a deadline.
    pub(crate) fn within(timeout: Duration) -> Self {
        Self {
            deadline: Instant::now() + timeout,
            timeout,
            cancel: CancellationToken::new(),
            progress: None,
            drain: Duration::ZERO,
            meta: None,
        }
    }
}

/// One connection to one server.
pub(crate) struct Connection {
    peer: Peer<RoleClient>,
    pub(crate) shared: Arc<WireShared>,
    pub(crate) info: Arc<ServerPeerInfo>,
    pub(crate) asks: Arc<Asks>,
    in_flight: Semaphore,
    requests: AtomicU64,
    /// Set before `ended`.
    end_cause: OnceLock<String>,
    ended: CancellationToken,
}

impl Connection {
    pub(crate) fn new(
        peer: Peer<RoleClient>,
        shared: Arc<WireShared>,
        info: Arc<ServerPeerInfo>,
        asks: Arc<Asks>,
    ) -> Self {
        Self {
            peer,
            shared,
            info,
            asks,
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            requests: AtomicU64::new(0),
            end_cause: OnceLock::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Fails everything in flight with `cause`.
    pub(crate) fn end(&self, cause: String) {
        let _ = self.end_cause.set(cause);
        self.ended.cancel();
    }

    /// Whether requests can still be answered.
    pub(crate) fn is_alive(&self) -> bool {
        !self.ended.is_cancelled()
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.available_permits() == MAX_IN_FLIGHT
    }

    /// How many requests there were.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether the connection speaks the revision without a handshake.
    pub(crate) fn is_modern(&self) -> bool {
        !self.info.protocol_version.has_initialize()
    }

    /// Tells the server that the session's folders changed.
    pub(crate) async fn notify_roots_changed(&self) {
        let notification = RootsListChangedNotification::default();
        let _ = timeout(CANCEL_PATIENCE, self.peer.send_notification(notification.into())).await;
    }

    /// Makes a request and waits for its result as JSON. On the heap: the library's futures are large, and those that
    /// wait for a reason to ask (as every connection's upkeep does) must not hold room for it all the time.
    pub(crate) fn request(
        &self,
        request: ClientRequest,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<Value, Failure>> {
        Box::pin(self.make_request(request, options))
    }

    async fn make_request(
        &self,
        mut request: ClientRequest,
        options: RequestOptions,
    ) -> Result<Value, Failure> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let route = Arc::new(Route::default());
        let _guard = RouteGuard::new(&self.shared, &route);
        request.extensions_mut().insert(RouteTag(Arc::clone(&route)));
        let pump = async {
            match &options.progress {
                Some(progress) => route.pump(progress).await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            biased;
            result = self.exchange(request, &route, &options) => result,
            () = pump => Err(self.gone().await),
        };
        if let Some(progress) = &options.progress
            && !matches!(result, Err(Failure::Cancelled))
        {
            // Reports come before the result, but a reader who does not read must not hold it for ever.
            tokio::select! {
                biased;
                _ = timeout(options.drain, route.drain(progress)) => {}
                () = options.cancel.cancelled() => {}
            }
        }
        result
    }

    async fn exchange(
        &self,
        request: ClientRequest,
        route: &Route,
        options: &RequestOptions,
    ) -> Result<Value, Failure> {
        let mut send = PeerRequestOptions::no_options();
        send.meta.clone_from(&options.meta);
        let sending = async {
            // Held until the answer, below.
            let permit = self.in_flight.acquire().await.ok();
            (permit, self.peer.send_cancellable_request(request, send).await)
        };
        let (_permit, handle) = tokio::select! {
            biased;
            () = options.cancel.cancelled() => return Err(Failure::Cancelled),
            sent = sending => sent,
            () = self.ended.cancelled() => return Err(self.gone().await),
            () = sleep_until(options.deadline) => return Err(Failure::TimedOut(options.timeout)),
        };
        let Ok(handle) = handle else { return Err(self.gone().await) };
        let mut waiting = Waiting::new(handle);
        let answer = tokio::select! {
            biased;
            answer = &mut waiting.handle.rx => answer,
            () = options.cancel.cancelled() => {
                waiting.stop("cancelled by the user").await;
                return Err(Failure::Cancelled);
            }
            () = self.ended.cancelled() => {
                waiting.done = true;
                return Err(self.gone().await);
            }
            () = self.asks.deadline(options.deadline) => {
                waiting.stop("timed out").await;
                return Err(Failure::TimedOut(options.timeout));
            }
        };
        waiting.done = true;
        match answer {
            Ok(Ok(ServerResult::CustomResult(result))) => Ok(result.0),
            Ok(Ok(result)) => serde_json::to_value(result)
                .map_err(|error| Failure::Wire(WireFailure::Unreadable(error.to_string()))),
            Ok(Err(ServiceError::McpError(error))) => {
                Err(route.failure().map_or(Failure::Rpc(error), |failure| Failure::Wire(failure.clone())))
            }
            Ok(Err(ServiceError::TransportSend(error))) => Err(explain::request(error.error.as_ref())),
            // Only this answer's stream ended, not the connection.
            Ok(Err(ServiceError::TransportClosed)) if !self.shared.input_ended.is_cancelled() => {
                Err(route.stream_failure().map_or_else(
                    || {
                        let text = "the server closed the stream of its answer before the result; whether it did the \
                                    work is not known";
                        Failure::Gone(text.to_owned())
                    },
                    |failure| Failure::Wire(failure.clone()),
                ))
            }
            Ok(Err(_)) | Err(_) => Err(self.gone().await),
        }
    }

    /// The failure of everything that was in flight. The cause is known a moment after the connection broke.
    async fn gone(&self) -> Failure {
        let _ = timeout(CAUSE_PATIENCE, self.ended.cancelled()).await;
        let cause = self.end_cause.get().cloned();
        Failure::Gone(cause.unwrap_or_else(|| "the connection was closed".to_owned()))
    }
}

/// A request that the server works on. Dropped before the answer, it tells the server to stop.
struct Waiting {
    handle: RequestHandle<RoleClient>,
    done: bool,
}

impl Waiting {
    fn new(handle: RequestHandle<RoleClient>) -> Self {
        Self { handle, done: false }
    }

    async fn stop(&mut self, reason: &str) {
        self.done = true;
        tell_to_stop(self.handle.peer.clone(), self.handle.id.clone(), reason.to_owned()).await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.done
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Ends by itself within `CANCEL_PATIENCE`.
            let (peer, id) = (self.handle.peer.clone(), self.handle.id.clone());
            runtime.spawn(tell_to_stop(peer, id, "abandoned".to_owned()));
        }
    }
}

async fn tell_to_stop(peer: Peer<RoleClient>, id: RequestId, reason: String) {
    let params = CancelledNotificationParam::new(Some(id), Some(reason));
    let notification = CancelledNotification::new(params);
    let _ = timeout(CANCEL_PATIENCE, peer.send_notification(notification.into())).await;
}
