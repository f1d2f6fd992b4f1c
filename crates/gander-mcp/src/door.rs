//! A door: the extensions of one session for a program that runs outside and speaks MCP over its pipes, such as an
//! agent in the place of a model.
//!
//! The program starts the door's command ([`crate::HostOptions::door`]) once for each extension, as it would start a
//! stdio server; the command connects its pipes to a socket that only this user can reach and names the extension. What
//! stands behind it is the session's own server with all that its configuration asks: no secret leaves this process,
//! tools that are not allowed are not there, sandbox and pinned definitions hold.
//!
//! Invariants: only the named extensions can be reached; every call goes through the [`DoorKeeper`]; what a visitor
//! began ends with its connection, and all connections end with the door. This module decides about no permission.

mod answer;
mod visit;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use gander_domain::item::ToolResult;
use tempfile::TempDir;
use tokio::{
    io::BufReader,
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{calls::CallRequest, session::SessionExtensions};

/// Programs behind one door at once: one for each extension, and those that are just being replaced.
const MAX_VISITORS: usize = 128;
/// How long a visitor may take to name the extension.
const HELLO: Duration = Duration::from_secs(10);
/// Longest name of an extension.
const MAX_KEY: usize = 1024;
/// Pause after a connection that could not be accepted (no more file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who lets calls through.
pub trait DoorKeeper: Send + Sync + 'static {
    /// Calls a tool by its public name, or refuses with a result that says why. Dropping the future cancels the call.
    fn call(&self, request: CallRequest) -> BoxFuture<'_, ToolResult>;

    /// Takes secrets out of a text, which may be JSON, that a server says beside the results of calls.
    fn clean(&self, text: &mut String);
}

/// An open door. Dropping it ends all connections and removes the socket.
pub struct Door {
    socket: PathBuf,
    _stop: DropGuard,
    _folder: TempDir,
}

/// What every visitor needs.
struct House {
    extensions: Arc<SessionExtensions>,
    keys: BTreeSet<String>,
    keeper: Arc<dyn DoorKeeper>,
}

impl Door {
    /// Opens a door to the extensions of these keys. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(
        extensions: Arc<SessionExtensions>,
        keys: BTreeSet<String>,
        keeper: Arc<dyn DoorKeeper>,
    ) -> io::Result<Self> {
        let private = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("gander-").permissions(private).tempdir()?;
        let socket = folder.path().join("door");
        let listener = UnixListener::bind(&socket)?;
        let stop = CancellationToken::new();
        let house = Arc::new(House { extensions, keys, keeper });
        tokio::spawn(admit(listener, house, stop.clone()));
        Ok(Self { socket, _stop: stop.drop_guard(), _folder: folder })
    }

    /// What the door's command needs to find it.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// Takes visitors in until the door is closed.
async fn admit(listener: UnixListener, house: Arc<House>, stop: CancellationToken) {
    let mut visitors = JoinSet::new();
    loop {
        while visitors.try_join_next().is_some() {}
        let full = visitors.len() >= MAX_VISITORS;
        tokio::select! {
            () = stop.cancelled() => return,
            _ = visitors.join_next(), if full => {}
            accepted = listener.accept(), if !full => match accepted {
                Ok((stream, _)) => drop(visitors.spawn(receive(stream, house.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "a program could not be let through a session's door");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Lets one visitor in: its first line names the extension.
async fn receive(stream: UnixStream, house: Arc<House>) {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    let hello = timeout(HELLO, visit::read_line(&mut reader, &mut line, MAX_KEY)).await;
    if !matches!(hello, Ok(Ok(true))) {
        return;
    }
    let key = String::from_utf8_lossy(&line).trim().to_owned();
    if !house.keys.contains(&key) {
        tracing::warn!(key, "a program asked at a session's door for an extension that is not there");
        return;
    }
    visit::serve(reader, writer, house.extensions.clone(), key, house.keeper.clone()).await;
}
