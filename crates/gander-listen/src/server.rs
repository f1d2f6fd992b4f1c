//! The accept loop of one listener, and its drain.
//!
//! Every task belongs to the server's tracker and hears its kill token; dropping the server kills them. A drain runs
//! in this order: no more connections, silent ones dropped, the application told, GOAWAY on the others, then waiting,
//! and at the deadline everything that is left is dropped.

use std::{io, sync::Arc, sync::atomic::Ordering, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    BoundAddress, Front, ListenError, Listener,
    connection::{self, Scope},
    front::Inner,
    listener::{Socket, Tls},
};

/// After the deadline tasks only have to be dropped; one that blocks its thread even then is left behind.
const DROP_TIME: Duration = Duration::from_millis(500);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One listener that serves. Dropping it ends everything at once; [`Server::drain`] is the polite way.
#[derive(Debug)]
pub struct Server {
    address: BoundAddress,
    draining: CancellationToken,
    kill: CancellationToken,
    tasks: TaskTracker,
    accepting: Option<JoinHandle<()>>,
    pub(crate) front: Front,
}

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Tasks (connections and handlers) that were cut at the deadline. 0: everybody left by themselves.
    pub cut: usize,
    /// Tasks that block a thread and could not even be dropped.
    pub stuck: usize,
}

impl Server {
    /// Begins to accept connections.
    ///
    /// # Errors
    /// A TCP listener without a token in the front's options and without a CA for client certificates.
    pub fn start(listener: Listener, front: &Front) -> Result<Self, ListenError> {
        let address = listener.address();
        if let Socket::Tcp { address, tls, .. } = &listener.socket {
            let certificates = tls.as_ref().is_some_and(|tls| tls.client_ca && !tls.allow_plain);
            if front.inner.options.token.is_none() && !certificates {
                return Err(ListenError::NeedsToken { address: *address });
            }
        }
        let scope = Scope {
            inner: front.inner.clone(),
            draining: front.inner.options.draining.clone(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (draining, kill, tasks) = (scope.draining.clone(), scope.kill.clone(), scope.tasks.clone());
        let accepting = tokio::spawn(accept_all(listener.socket, scope));
        tracing::info!(%address, "listening");
        Ok(Self { address, draining, kill, tasks, accepting: Some(accepting), front: front.clone() })
    }

    /// Where it can be reached.
    #[must_use]
    pub fn address(&self) -> &BoundAddress {
        &self.address
    }

    /// The counters of its front, see [`Front::metrics_text`].
    #[must_use]
    pub fn metrics_text(&self) -> String {
        self.front.metrics_text()
    }

    /// Stops accepting, lets what runs come to its end, and cuts what is left after `deadline`. Returns within
    /// `deadline` and half a second. The front's other servers stop accepting too and should be drained likewise.
    pub async fn drain(mut self, deadline: Duration) -> DrainReport {
        self.draining.cancel();
        if let Some(accepting) = self.accepting.take()
            && accepting.await.is_err()
        {
            tracing::warn!(address = %self.address, "the accept loop had died");
        }
        self.tasks.close();
        if timeout(deadline, self.tasks.wait()).await.is_ok() {
            tracing::info!(address = %self.address, "drained");
            return DrainReport { cut: 0, stuck: 0 };
        }
        let cut = self.tasks.len();
        self.kill.cancel();
        let stuck = match timeout(DROP_TIME, self.tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tasks.len(),
        };
        tracing::warn!(address = %self.address, cut, stuck, "drain deadline passed");
        DrainReport { cut, stuck }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

async fn accept_all(socket: Socket, scope: Scope) {
    let connections = Arc::new(Semaphore::new(scope.inner.options.limits.max_connections));
    let ended = async {
        tokio::select! {
            () = scope.draining.cancelled() => {}
            () = scope.kill.cancelled() => {}
        }
    };
    tokio::select! {
        biased;
        () = ended => {}
        () = accept_forever(&socket, &scope, &connections) => {}
    }
}

async fn accept_forever(socket: &Socket, scope: &Scope, connections: &Arc<Semaphore>) {
    let tls = match socket {
        Socket::Tcp { tls: Some(tls), .. } => Some(Arc::new(Tls {
            acceptor: tls.acceptor.clone(),
            allow_plain: tls.allow_plain,
            client_ca: tls.client_ca,
        })),
        _ => None,
    };
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let accepted = match socket {
            Socket::Unix(listener, _) => listener.accept().await.map(|(stream, _)| {
                track(scope, permit, connection::unix(stream, scope.clone()));
            }),
            Socket::Tcp { listener, .. } => listener.accept().await.map(|(stream, _)| {
                track(scope, permit, connection::tcp(stream, tls.clone(), scope.clone()));
            }),
        };
        if let Err(error) = accepted {
            pause_after(&error).await;
        }
    }
}

/// A peer that gave up in the backlog is nothing; anything else would spin.
async fn pause_after(error: &io::Error) {
    let harmless =
        [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset, io::ErrorKind::Interrupted];
    if !harmless.contains(&error.kind()) {
        tracing::warn!(%error, "a connection could not be accepted");
        sleep(ACCEPT_PAUSE).await;
    }
}

/// Counts one connection for as long as its task lives.
struct Counted {
    inner: Arc<Inner>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.inner.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

fn track(scope: &Scope, permit: OwnedSemaphorePermit, task: impl Future<Output = ()> + Send + 'static) {
    let counted = Counted { inner: scope.inner.clone(), _permit: permit };
    counted.inner.metrics.accepted.fetch_add(1, Ordering::Relaxed);
    counted.inner.metrics.connections.fetch_add(1, Ordering::Relaxed);
    scope.tasks.spawn(async move {
        task.await;
        drop(counted);
    });
}
