//! Connecting a builtin server to a client.
//!
//! Every server task has one owner, [`BuiltinServer`] (or the caller of [`serve_stdio`]). A server ends when its owner
//! is dropped or its client is gone; in both cases running calls are cancelled at once, which rmcp alone would only do
//! after it has waited for them.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Sink, SinkExt as _, Stream, StreamExt as _, channel::mpsc, stream};
use rmcp::{
    ServiceExt as _,
    model::{ClientJsonRpcMessage, ServerJsonRpcMessage},
    service::RoleServer,
    transport::IntoTransport,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    context::BuiltinContext,
    developer::{self, Developer},
    extensionmanager::{self, Extensions},
    memory::{self, Memory},
    server::Server,
    todo::{self, Todo},
};

/// Messages that may wait in one direction before the sender does.
const CHANNEL_CAPACITY: usize = 64;
/// What calls get to finish after stdin has ended: a script may pipe its requests in and read the answers.
const STDIN_GRACE: Duration = Duration::from_secs(1);

/// The client's way to the server.
pub type ClientSender = Pin<Box<dyn Sink<ClientJsonRpcMessage, Error = io::Error> + Send>>;
/// The server's way to the client.
pub type ClientReceiver = Pin<Box<dyn Stream<Item = ServerJsonRpcMessage> + Send>>;

/// Why a builtin server did not run or ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// No such builtin extension.
    Unknown(String),
    /// The client did not get through the handshake.
    Handshake(String),
    /// The server's task died.
    Task(String),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(name) => {
                if let Some(reason) = crate::known_elsewhere(name) {
                    return f.write_str(reason);
                }
                let known: Vec<&str> = crate::catalogue().iter().map(|info| info.name).collect();
                write!(f, "there is no builtin extension {name:?}; there is: {}", known.join(", "))
            }
            Self::Handshake(reason) => write!(f, "the client did not initialize: {reason}"),
            Self::Task(reason) => write!(f, "the server failed: {reason}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// The owner of a server task. Dropping it cancels what runs and ends the server.
#[derive(Debug)]
pub struct BuiltinServer {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl BuiltinServer {
    /// Ends the server and waits until its calls have cleaned up after themselves; gives up after `deadline`.
    /// Returns whether it had ended by then.
    pub async fn shutdown(mut self, deadline: Duration) -> bool {
        self.stop.cancel();
        match self.task.take() {
            Some(task) => tokio::time::timeout(deadline, task).await.is_ok(),
            None => true,
        }
    }

    /// Whether the server has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for BuiltinServer {
    fn drop(&mut self) {
        // Not aborted: a running call still has to kill its processes.
        self.stop.cancel();
    }
}

/// The client's side of a server in this process. `(sender, receiver)` is a transport for rmcp's client.
pub struct InProcess {
    /// Client to server.
    pub sender: ClientSender,
    /// Server to client.
    pub receiver: ClientReceiver,
    /// Keep it as long as the server is needed.
    pub server: BuiltinServer,
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcess").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Starts the builtin server `name` and connects it by bounded channels of typed messages. Must be called within a
/// tokio runtime. `None` if there is no such builtin.
#[must_use]
pub fn serve_in_process(name: &str, context: BuiltinContext) -> Option<InProcess> {
    let server = start(name, context)?;
    let (client_sender, server_receiver) = mpsc::channel::<ClientJsonRpcMessage>(CHANNEL_CAPACITY);
    let (server_sender, client_receiver) = mpsc::channel::<ServerJsonRpcMessage>(CHANNEL_CAPACITY);
    let incoming = cancel_at_end(server_receiver, server.closing());
    let transport = (server_sender.sink_map_err(io::Error::other), incoming);
    Some(InProcess {
        sender: Box::pin(client_sender.sink_map_err(io::Error::other)),
        receiver: Box::pin(client_receiver),
        server: spawn(server, transport),
    })
}

/// Starts the builtin server `name` on two byte streams with one JSON message per line. `None` if there is no such
/// builtin.
#[must_use]
pub fn serve_bytes<R, W>(name: &str, context: BuiltinContext, reader: R, writer: W) -> Option<BuiltinServer>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let server = start(name, context)?;
    let reader = CancelAtEof { inner: reader, end: server.closing() };
    Some(spawn(server, (reader, writer)))
}

/// Runs the builtin server `name` on this process's stdin and stdout until stdin ends.
///
/// # Errors
/// [`ServeError`].
pub async fn serve_stdio(name: &str, context: BuiltinContext) -> Result<(), ServeError> {
    let server = start(name, context).ok_or_else(|| ServeError::Unknown(name.to_owned()))?;
    let (stop, closing) = (CancellationToken::new(), server.closing());
    let end = CancellationToken::new();
    let (reader, writer) = rmcp::transport::stdio();
    let reader = CancelAtEof { inner: reader, end: end.clone() };
    let run = run(server, (reader, writer), stop);
    let grace = async {
        end.cancelled().await;
        tokio::time::sleep(STDIN_GRACE).await;
        closing.cancel();
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        result = run => result,
        never = grace => match never {},
    }
}

fn start(name: &str, context: BuiltinContext) -> Option<Server> {
    Some(match name {
        developer::NAME => Server::new(|closing| Developer::new(context, closing)),
        memory::NAME => Server::new(|closing| Memory::new(&context, closing)),
        todo::NAME => Server::new(|closing| Todo::new(&context, closing)),
        extensionmanager::NAME => Server::new(|closing| Extensions::new(&context, closing)),
        _ => return None,
    })
}

fn spawn<T, E, A>(server: Server, transport: T) -> BuiltinServer
where
    T: IntoTransport<RoleServer, E, A> + Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
    A: 'static,
{
    let stop = CancellationToken::new();
    let run = run(server, transport, stop.clone());
    let task = tokio::spawn(async move {
        if let Err(error) = run.await {
            tracing::debug!(%error, "builtin server ended");
        }
    });
    BuiltinServer { stop, task: Some(task) }
}

/// Serves until the client is gone or `stop` is cancelled, then waits for the calls that are still cleaning up.
async fn run<T, E, A>(server: Server, transport: T, stop: CancellationToken) -> Result<(), ServeError>
where
    T: IntoTransport<RoleServer, E, A>,
    E: std::error::Error + Send + Sync + 'static,
{
    let (closing, calls) = (server.closing(), server.calls());
    // On the heap, so that what the handshake needed is given back after it.
    let serve = Box::pin(server.serve_with_ct(transport, stop.child_token()));
    let running = tokio::select! {
        running = serve => running.map_err(|error| ServeError::Handshake(error.to_string()))?,
        () = stop.cancelled() => return Ok(()),
    };
    let waiting = running.waiting();
    let stopped = async {
        stop.cancelled().await;
        closing.cancel();
        std::future::pending::<Infallible>().await
    };
    let reason = tokio::select! {
        reason = waiting => reason,
        never = stopped => match never {},
    };
    closing.cancel();
    calls.close();
    calls.wait().await;
    reason.map(drop).map_err(|error| ServeError::Task(error.to_string()))
}

/// Passes a stream on and cancels `token` when it has ended.
fn cancel_at_end<S: Stream + Unpin>(
    stream: S,
    token: CancellationToken,
) -> impl Stream<Item = S::Item> + Unpin {
    stream.chain(stream::poll_fn(move |_| {
        token.cancel();
        Poll::Ready(None)
    }))
}

/// Passes bytes on and cancels a token when they have ended.
struct CancelAtEof<R> {
    inner: R,
    end: CancellationToken,
}

impl<R: AsyncRead + Unpin> AsyncRead for CancelAtEof<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let room = buffer.remaining() > 0;
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let ended = match &result {
            Poll::Ready(Ok(())) => room && buffer.filled().len() == before,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            self.end.cancel();
        }
        result
    }
}
