//! One connection: its first bytes, TLS, who the peer is, and the HTTP machinery until the end or a drain.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use http::HeaderMap;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

use crate::{
    PeerIdentity, PeerKind, edge,
    front::Inner,
    identity::has_token,
    listener::Tls,
    procfs,
    sniff::{Speech, sniff},
    status::{caller_is_tool, policy_denied, token_invalid},
};

/// A tool's process is registered a moment after it was started. Peers are asked about again until a connection is
/// this old, so that a quick child gains nothing.
const YOUNG: Duration = Duration::from_secs(5);
/// Time between two requests of an HTTP/1.1 connection, and for a request's head.
const HTTP1_HEAD: Duration = Duration::from_secs(30);
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: u32 = 32 * 1024;
const HTTP1_BUFFER: usize = 64 * 1024;
const MAX_FRAME: u32 = 64 * 1024;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    Local(PeerIdentity),
    Unix { uid: u32, pid: Option<u32> },
    Tcp { address: SocketAddr, own: SocketAddr, certificate: bool },
}

/// A connection, as the requests on it see it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    opened: Instant,
    /// The peer was found to be a tool when it connected.
    tool: bool,
}

impl Connection {
    pub(crate) fn local(identity: PeerIdentity) -> Self {
        Self { peer: Peer::Local(identity), opened: Instant::now(), tool: false }
    }

    /// Looks at the peer of a fresh connection. A process that is gone cannot be asked for its ancestors; it may have
    /// left the connection to a child, so it is refused.
    async fn examine(peer: Peer, inner: &Inner) -> Self {
        let tool = match (&inner.options.caller_check, &peer) {
            (None, _) | (_, Peer::Local(_)) => false,
            (Some(check), Peer::Unix { pid: Some(pid), .. }) => check.is_tool(*pid) || !procfs::exists(*pid),
            (Some(_), Peer::Unix { pid: None, .. }) => false,
            (Some(check), Peer::Tcp { address, own, .. }) => {
                let (address, own, check) = (*address, *own, check.clone());
                let local = address.ip().to_canonical().is_loopback() || address.ip() == own.ip();
                let search = move || procfs::tool_holds(address, own, |pid| check.is_tool(pid));
                let wanted =
                    local && inner.options.caller_check.as_ref().is_some_and(|check| check.any_tool());
                // A search that died proves nothing: refuse.
                wanted && tokio::task::spawn_blocking(search).await.unwrap_or(true)
            }
        };
        Self { peer, opened: Instant::now(), tool }
    }

    fn is_tool(&self, inner: &Inner) -> bool {
        if self.tool {
            return true;
        }
        match (&inner.options.caller_check, &self.peer) {
            (Some(check), Peer::Unix { pid: Some(pid), .. }) if self.opened.elapsed() < YOUNG => {
                check.is_tool(*pid)
            }
            _ => false,
        }
    }

    /// Who sends a gRPC request. `open`: no token is needed, a tool is refused all the same.
    pub(crate) fn authenticate(
        &self,
        inner: &Inner,
        headers: &HeaderMap,
        open: bool,
    ) -> Result<PeerIdentity, Status> {
        self.check(inner, headers, open, false)
    }

    /// Who sends a plain HTTP request.
    pub(crate) fn authenticate_http(
        &self,
        inner: &Inner,
        headers: &HeaderMap,
        open: bool,
    ) -> Result<PeerIdentity, Status> {
        self.check(inner, headers, open, true)
    }

    fn check(
        &self,
        inner: &Inner,
        headers: &HeaderMap,
        open: bool,
        secret_header: bool,
    ) -> Result<PeerIdentity, Status> {
        if self.is_tool(inner) {
            inner.metrics.tools_refused.fetch_add(1, Ordering::Relaxed);
            return Err(caller_is_tool());
        }
        let identity = match &self.peer {
            Peer::Local(identity) => identity.clone(),
            Peer::Unix { uid, pid } => {
                if *uid != rustix::process::geteuid().as_raw() {
                    return Err(policy_denied(
                        "socket_owner",
                        "only the user who runs the daemon may use its socket",
                    ));
                }
                let principal = format!("uid:{uid}");
                PeerIdentity { pid: *pid, kind: PeerKind::Unix, ..PeerIdentity::local(principal) }
            }
            Peer::Tcp { address, certificate, .. } => {
                let principal = match &inner.options.token {
                    Some(token) if has_token(headers, token, secret_header) => "token",
                    None if *certificate => "certificate",
                    _ if open => "anonymous",
                    _ => return Err(token_invalid()),
                };
                PeerIdentity {
                    address: Some(*address),
                    kind: PeerKind::Tcp,
                    ..PeerIdentity::local(principal)
                }
            }
        };
        Ok(identity.with_headers(headers))
    }
}

/// What all connections of one server share.
#[derive(Clone)]
pub(crate) struct Scope {
    pub(crate) inner: Arc<Inner>,
    /// Cancelled: stop being open for more.
    pub(crate) draining: CancellationToken,
    /// Cancelled: the deadline has passed, drop everything.
    pub(crate) kill: CancellationToken,
    /// Every task of the server: connections and the handlers that HTTP/2 runs beside them.
    pub(crate) tasks: TaskTracker,
}

impl<F> hyper::rt::Executor<F> for Scope
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let kill = self.kill.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = kill.cancelled() => {}
                _ = task => {}
            }
        });
    }
}

/// Serves a connection of a unix socket.
pub(crate) async fn unix(stream: UnixStream, scope: Scope) {
    let Ok(credentials) = stream.peer_cred() else { return };
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let peer = Peer::Unix { uid: credentials.uid(), pid };
    until_drained(&scope, async {
        let connection = Connection::examine(peer, &scope.inner).await;
        open(stream, connection, &scope).await
    })
    .await;
}

/// Serves a connection of a TCP port.
pub(crate) async fn tcp(stream: TcpStream, tls: Option<Arc<Tls>>, scope: Scope) {
    let (Ok(address), Ok(own)) = (stream.peer_addr(), stream.local_addr()) else { return };
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let peer = Peer::Tcp { address, own, certificate: false };
    until_drained(&scope, async {
        let connection = Connection::examine(peer, &scope.inner).await;
        match tls {
            None => open(stream, connection, &scope).await,
            Some(tls) => open_tls(stream, connection, &tls, &scope).await,
        }
    })
    .await;
}

/// Runs until the connection has a protocol, then serves it; gives up at once on a drain before that.
async fn until_drained<F, IO>(scope: &Scope, opening: F)
where
    F: Future<Output = io::Result<Opened<IO>>>,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let opened = tokio::select! {
        biased;
        () = scope.draining.cancelled() => return,
        () = scope.kill.cancelled() => return,
        // Boxed: it is over, and its state freed, before the long life of the connection begins.
        opened = Box::pin(opening) => opened,
    };
    match opened {
        Ok(opened) => serve(opened, scope).await,
        Err(error) => {
            if error.kind() == io::ErrorKind::TimedOut {
                scope.inner.metrics.silent.fetch_add(1, Ordering::Relaxed);
            }
            tracing::debug!(%error, "a connection ended before its first request");
        }
    }
}

/// Anything that HTTP goes through.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

struct Opened<IO> {
    io: IO,
    http2: bool,
    connection: Connection,
}

type AnyIo = Box<dyn Io>;

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn open<IO: Io + 'static>(io: IO, connection: Connection, scope: &Scope) -> io::Result<Opened<AnyIo>> {
    let (speech, io) = within(scope.inner.options.limits.first_byte, sniff(io)).await?;
    match speech {
        Speech::Tls => Err(io::Error::other("TLS on a plain port")),
        speech => Ok(Opened { io: Box::new(io), http2: speech == Speech::Http2, connection }),
    }
}

async fn open_tls(
    stream: TcpStream,
    mut connection: Connection,
    tls: &Tls,
    scope: &Scope,
) -> io::Result<Opened<AnyIo>> {
    let limits = &scope.inner.options.limits;
    let (speech, io) = within(limits.first_byte, sniff(stream)).await?;
    if speech != Speech::Tls {
        if !tls.allow_plain {
            return Err(io::Error::other("plain text on a TLS port"));
        }
        return Ok(Opened { io: Box::new(io), http2: speech == Speech::Http2, connection });
    }
    let io = within(limits.handshake, tls.acceptor.accept(io)).await?;
    if let Peer::Tcp { certificate, .. } = &mut connection.peer {
        *certificate = tls.client_ca && io.get_ref().1.peer_certificates().is_some();
    }
    open(io, connection, scope).await
}

async fn serve<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(opened: Opened<IO>, scope: &Scope) {
    let builder = builder(scope, opened.http2);
    let shared = Arc::new(opened.connection);
    let inner = scope.inner.clone();
    let service = hyper::service::service_fn(move |request| {
        let (inner, connection) = (inner.clone(), shared.clone());
        async move { Ok::<_, Infallible>(edge::handle(inner, connection, request).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(opened.io), service);
    let mut connection = pin!(connection);
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            () = scope.kill.cancelled() => return,
            () = scope.draining.cancelled(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, "a connection ended with an error");
                }
                return;
            }
        }
    }
}

fn builder(scope: &Scope, http2: bool) -> Builder<Scope> {
    let limits = &scope.inner.options.limits;
    let mut builder = Builder::new(scope.clone());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP1_HEAD)
        .max_headers(MAX_HEADERS)
        .max_buf_size(HTTP1_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .adaptive_window(true)
        .max_concurrent_streams(limits.max_streams_per_connection)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_frame_size(MAX_FRAME);
    if http2 { builder.http2_only() } else { builder.http1_only() }
}
