//! A daemon in this process, listening on a unix socket and a TCP port of its own.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use gander::daemon::{DaemonOptions, Ready, serve};
use gander_client::{Client, Endpoint};
use gander_config::Environment;
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{connect, events, eventually, gander_binary, pb, soon, within};

/// How long a daemon may take to stop once it was told to, beyond its grace period.
const STOP: Duration = Duration::from_secs(15);

/// How long the directory of a daemon that has stopped may still be locked: whenever another test of this process starts
/// a program, the new process holds a copy of every open file for the moment until it has become that program.
const RELEASE: Duration = Duration::from_secs(2);

/// A running daemon with a root of its own.
pub struct TestDaemon {
    root: Option<TempDir>,
    ready: Ready,
    token: String,
    shutdown: CancellationToken,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

/// A root with the directory `work` in it, for sessions to work in.
///
/// # Panics
/// When the disk does not let it.
#[must_use]
pub fn new_root() -> TempDir {
    let root = tempfile::Builder::new().prefix("gander-").tempdir().expect("a temporary directory");
    std::fs::create_dir(root.path().join("work")).expect("work directory");
    root
}

/// An environment with what programs need and nothing of this process's own.
#[must_use]
pub fn environment(root: &Path) -> Environment {
    environment_with(root, &[])
}

/// The same with more variables.
#[must_use]
pub fn environment_with(root: &Path, more: &[(&str, &str)]) -> Environment {
    let path = std::env::var_os("PATH").and_then(|path| path.into_string().ok()).unwrap_or_default();
    let own = [
        ("PATH", path),
        ("HOME", root.join("work").display().to_string()),
        ("LANG", "C.UTF-8".to_owned()),
        // A model server of whoever runs the tests is none of their business.
        ("GANDER_AUTO_MODEL", "false".to_owned()),
        // Tests count model calls.
        ("GOOSE_DISABLE_SESSION_NAMING", "true".to_owned()),
    ];
    own.into_iter()
        .chain(more.iter().map(|(name, value)| (*name, (*value).to_owned())))
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Options of a daemon below `root`: both sockets, tools supervised by the real program.
#[must_use]
pub fn options(root: &Path) -> DaemonOptions {
    DaemonOptions {
        root: Some(root.to_owned()),
        tcp: Some(([127, 0, 0, 1], 0).into()),
        supervisor: Some(vec![gander_binary().display().to_string(), "__supervise".to_owned()]),
        ..DaemonOptions::new(environment(root))
    }
}

type Started = (Ready, CancellationToken, JoinHandle<anyhow::Result<()>>);

async fn launch(options: DaemonOptions) -> Result<Started, String> {
    let shutdown = CancellationToken::new();
    let (tell, told) = oneshot::channel();
    let stop = shutdown.clone();
    let task = tokio::spawn(async move {
        serve(options, stop, |ready| {
            let _ = tell.send(ready.clone());
        })
        .await
    });
    match soon("a daemon to start", told).await {
        Ok(ready) => Ok((ready, shutdown, task)),
        Err(_) => Err(format!("{:?}", task.await)),
    }
}

impl TestDaemon {
    /// Starts a daemon with a fresh root.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same with other options.
    pub async fn start_with(change: impl FnOnce(&mut DaemonOptions)) -> Self {
        Self::start_in(new_root(), change).await
    }

    /// Starts a daemon in a root that may hold sessions already.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_in(root: TempDir, change: impl FnOnce(&mut DaemonOptions)) -> Self {
        let mut options = options(root.path());
        change(&mut options);
        let (ready, shutdown, task) = eventually(RELEASE, "the data directory to be free", || {
            let options = options.clone();
            async move {
                match launch(options).await {
                    Ok(started) => Some(started),
                    Err(error) if error.contains("in use by another gander") => None,
                    Err(error) => panic!("the daemon did not start: {error}"),
                }
            }
        })
        .await;
        let token = std::fs::read_to_string(&ready.token_file).expect("the token file").trim().to_owned();
        Self { root: Some(root), ready, token, shutdown, task: Some(task) }
    }

    /// The root directory.
    ///
    /// # Panics
    /// Never while the daemon runs.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.as_ref().expect("a running daemon has a root").path()
    }

    /// Where sessions work.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root().join("work")
    }

    /// Its sockets and files.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Its token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// `http://127.0.0.1:PORT`.
    ///
    /// # Panics
    /// When it does not listen on TCP.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.ready.tcp.expect("a TCP port"))
    }

    /// A client over the unix socket.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn unix(&self) -> Client {
        soon("a unix connection", connect(Endpoint::unix(&self.ready.socket), None))
            .await
            .expect("unix client")
    }

    /// A client over TCP with the token.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn tcp(&self) -> Client {
        let connecting = connect(Endpoint::tcp(self.url()), Some(&self.token));
        soon("a TCP connection", connecting).await.expect("TCP client")
    }

    /// Checks every log, then stops the daemon without waiting for turns. Every test ends with this.
    ///
    /// # Panics
    /// When the store is not in order or the daemon does not stop in time.
    pub async fn finish(self) {
        let client = self.unix().await;
        events::check_store(&client).await;
        let _ = self.stop(&client, Duration::ZERO).await;
    }

    /// Stops the daemon over the API and gives its root back and how long it took.
    ///
    /// # Panics
    /// When it fails or takes longer than its grace period and some seconds.
    pub async fn stop(mut self, client: &Client, grace: Duration) -> (TempDir, Duration) {
        let grace_period = Some(events::duration(grace));
        let start = Instant::now();
        let request = pb::ShutdownRequest { grace_period, ..Default::default() };
        client.system().shutdown(request).await.expect("Shutdown is accepted");
        let task = self.task.take().expect("a running daemon");
        let ended = within(grace + STOP, "the daemon to stop", task).await.expect("the daemon did not panic");
        ended.expect("the daemon stops in order");
        (self.root.take().expect("its root"), start.elapsed())
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if self.task.is_some() && !std::thread::panicking() {
            panic!("a test must end with `finish` or `stop`, so that its logs are checked");
        }
    }
}
