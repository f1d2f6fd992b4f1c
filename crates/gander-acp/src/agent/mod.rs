//! One client's connection: what it said about itself, its sessions, its open requests and ours.
//!
//! Messages are taken one by one and in order, and nothing here waits for the client or for the daemon while it does:
//! requests run as tasks. Requests about one session run one after the other, in the order in which they came.

mod asks;
mod dispatch;
mod goose;
mod host;
mod hydrate;
mod lifecycle;
mod login;
mod prompt;
mod servers;
mod settings;
mod terminals;
#[cfg(test)]
mod tests;
mod watching;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use gander_client::Client;
use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    caps::ClientCaps,
    queue::{Frame, Queue},
    rpc::{self, RpcError},
};

use self::watching::Attached;

/// How long requests that are being answered may take when the client has closed its end.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How to start gander's set-up in a terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetupCommand {
    /// Arguments to add to those with which the client started the agent.
    pub arguments: Vec<String>,
    /// The program and all of its arguments, for clients that know the older form only. Empty: not offered to them.
    pub full_command: Vec<String>,
}

/// What a connection is told by whoever makes it.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Version of the program.
    pub version: String,
    /// What the client's environment gives to tools, for new and loaded sessions.
    pub client_environment: BTreeMap<String, String>,
    /// The set-up in a terminal. `None`: there is no terminal on this side, as with remote clients.
    pub setup: Option<SetupCommand>,
    /// Use the demo model where none is configured, instead of asking the client to sign in.
    pub demo_allowed: bool,
}

/// One client.
pub struct Connection {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) client: Client,
    pub(crate) options: Options,
    pub(crate) queue: Queue,
    state: Mutex<State>,
    next_id: AtomicI64,
    tasks: TaskTracker,
    stop: CancellationToken,
    prompt_answered: Notify,
}

#[derive(Default)]
struct State {
    caps: Arc<ClientCaps>,
    initialized: bool,
    early: Vec<rpc::Incoming>,
    sessions: HashMap<String, Arc<Attached>>,
    /// The latest request of each session: it must be done before the next one begins.
    lines: HashMap<String, oneshot::Receiver<()>>,
    /// Requests of the client that are being worked on.
    working: HashMap<String, CancellationToken>,
    /// Requests of ours that wait for an answer.
    asked: HashMap<i64, oneshot::Sender<Result<Value, RpcError>>>,
    prompts: Vec<Prompt>,
}

/// A prompt that is not answered yet.
#[derive(Debug, Clone)]
struct Prompt {
    id: Value,
    session_id: String,
    turn_id: String,
    /// The daemon is asked to start it: from here on only the daemon can say how it ended.
    asked_for: bool,
    /// The daemon has taken it.
    started: bool,
    cancelled: bool,
}

impl Connection {
    /// A connection before its first message.
    #[must_use]
    pub fn new(client: Client, options: Options) -> Self {
        let inner = Inner {
            client,
            options,
            queue: Queue::default(),
            state: Mutex::default(),
            next_id: AtomicI64::new(1),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            prompt_answered: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes a message of the client.
    pub async fn receive(&self, text: &str) {
        match rpc::parse(text) {
            Ok(None) => {}
            Ok(Some(message)) => self.inner.dispatch(message).await,
            Err(refused) => self.refuse(&refused.0, refused.1).await,
        }
    }

    /// The same for JSON that was read already.
    pub(crate) async fn receive_value(&self, value: Value) {
        match rpc::from_value(value) {
            Ok(message) => self.inner.dispatch(message).await,
            Err(refused) => self.refuse(&refused.0, refused.1).await,
        }
    }

    pub(crate) async fn refuse(&self, id: &Value, error: RpcError) {
        self.inner.queue.push(None, rpc::response(id, Err(error))).await;
    }

    /// The next message for the client; `None` when there will be none. For one reader.
    pub async fn next(&self) -> Option<Frame> {
        self.inner.queue.next().await
    }

    /// The client sends no more: what it asked is answered as far as that goes quickly, then the queue ends. Turns go on.
    pub async fn finish(&self) {
        // Nothing that it was asked is answered any more, and that is no answer.
        self.inner.state().asked.clear();
        let idle = async {
            while self.inner.busy() {
                self.inner.prompt_answered.notified().await;
            }
        };
        // Whatever takes longer is not waited for: the client is gone.
        let _ = tokio::time::timeout(LAST_ANSWERS, idle).await;
        self.inner.queue.close(false);
    }

    /// Ends everything of this connection. Turns and open questions are not its own and stay.
    pub fn close(&self) {
        self.inner.stop.cancel();
        self.inner.queue.close(true);
        self.inner.state().asked.clear();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn caps(&self) -> Arc<ClientCaps> {
        self.state().caps.clone()
    }

    fn attached(&self, session_id: &str) -> Option<Arc<Attached>> {
        self.state().sessions.get(session_id).cloned()
    }

    /// Whether a request is being worked on that is not a prompt whose turn runs.
    fn busy(&self) -> bool {
        let state = self.state();
        state.working.len() > state.prompts.iter().filter(|prompt| prompt.started).count()
    }

    /// Nobody waits for the client's answer any more: tells it so, unless it has answered.
    pub(crate) async fn withdraw(&self, id: i64, session_id: Option<&str>) {
        if self.state().asked.remove(&id).is_some() {
            let params = serde_json::json!({"requestId": id});
            let json = rpc::notification("$/cancel_request", &params);
            self.queue.push(session_id, json).await;
        }
    }

    /// Runs a task that ends with the connection.
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Asks the client. The request is in the queue when this returns.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        session_id: Option<&str>,
        method: &str,
        params: &Value,
    ) -> Asked {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.state().asked.insert(id, sender);
        self.queue.push(session_id, rpc::request(id, method, params)).await;
        Asked { id, session_id: session_id.map(str::to_owned), answer, inner: self.clone() }
    }

    fn answered(&self, id: &Value, outcome: Result<Value, RpcError>) {
        // Some clients send numbers back as text.
        let number = id.as_i64().or_else(|| id.as_str().and_then(|text| text.parse().ok()));
        let waiting = number.and_then(|id| self.state().asked.remove(&id));
        match waiting {
            // The asker may have gone in the same moment.
            Some(waiting) => drop(waiting.send(outcome)),
            None => tracing::debug!("an answer to a request that is not open is dropped"),
        }
    }
}

/// A request of ours to the client. Dropping it withdraws it.
pub(crate) struct Asked {
    pub(crate) id: i64,
    session_id: Option<String>,
    answer: oneshot::Receiver<Result<Value, RpcError>>,
    inner: Arc<Inner>,
}

impl Asked {
    /// The answer. An error also when the connection ends first.
    pub(crate) async fn answer(&mut self) -> Result<Value, RpcError> {
        (&mut self.answer).await.unwrap_or_else(|_| Err(RpcError::internal("the connection ended")))
    }

    /// The client's answer; `None` when the connection ends first.
    pub(crate) async fn settled(&mut self) -> Option<Result<Value, RpcError>> {
        (&mut self.answer).await.ok()
    }

    /// Nobody waits any more: tells the client so, unless it has answered.
    pub(crate) async fn withdraw(self) {
        self.inner.withdraw(self.id, self.session_id.as_deref()).await;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let open = self.inner.state().asked.contains_key(&self.id);
        if open && tokio::runtime::Handle::try_current().is_ok() {
            let (inner, id, session_id) = (self.inner.clone(), self.id, self.session_id.take());
            self.inner.spawn(async move { inner.withdraw(id, session_id.as_deref()).await });
        }
    }
}
