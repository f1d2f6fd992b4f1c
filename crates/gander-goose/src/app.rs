//! What every route shares: the client of the daemon, the secret, and the tasks that outlive a request.
//!
//! Cheap to clone. Holds no state of sessions: whatever two windows must agree on lives in the daemon.

use std::{collections::HashMap, sync::Arc, time::Duration};

use gander_client::Client;
use secrecy::SecretString;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How the surface behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// What `X-Secret-Key` must hold.
    pub secret: SecretString,
    /// Environment of the person's program, for extensions of sessions that it creates. Empty: the daemon's own.
    pub client_environment: HashMap<String, String>,
    /// Pause between two pings of a stream. Clients take a lack of pings for a dead server.
    pub ping_every: Duration,
    /// Longest time that opening a session waits for its extensions; what is not ready by then is reported as such.
    pub wait_for_extensions: Duration,
}

impl Options {
    /// Options with Goose's timing.
    #[must_use]
    pub fn new(secret: SecretString) -> Self {
        Self {
            secret,
            client_environment: HashMap::new(),
            ping_every: Duration::from_millis(500),
            wait_for_extensions: Duration::from_secs(10),
        }
    }
}

/// State of all routes.
#[derive(Clone, Debug)]
pub struct App {
    client: Client,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl App {
    /// A surface over one daemon.
    #[must_use]
    pub fn new(client: Client, options: Options) -> Self {
        let shared = Shared { options, shutdown: CancellationToken::new(), tasks: TaskTracker::new() };
        Self { client, shared: Arc::new(shared) }
    }

    /// The daemon.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Cancelled when the surface is to end: open streams end, and their end cancels no turn.
    #[must_use]
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shared.shutdown
    }

    /// Ends all streams without cancelling a turn and waits, at most this long, for calls that are still on their way
    /// to the daemon. To be called before the listener is closed.
    pub async fn close(&self, at_most: Duration) {
        self.shared.shutdown.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(at_most, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("calls to the daemon were still open at the end");
        }
    }

    /// Runs something whose request may be gone before it is done. It must bring its own deadline.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn(task);
    }
}
