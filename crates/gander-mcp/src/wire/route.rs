//! Which call a report belongs to, and the queue in which it waits for that call.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use rmcp::model::{ProgressToken, RequestId};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{fault::FaultInjector, notice::Notice, record::Recorder};
use crate::{
    calls::CallProgress,
    events::{HostEvent, Outbox},
};

/// Entries that wait for a slow reader of one call; beyond that progress is merged and notifications are dropped.
const MAX_ENTRIES: usize = 1024;
/// Live output that waits for a slow reader of one call; the result of the call is not affected.
const MAX_OUTPUT_BYTES: usize = 4 * 1024 * 1024;
/// Adjacent output is merged up to this size.
const MERGE_BYTES: usize = 64 * 1024;

/// Why the wire itself failed a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WireFailure {
    /// The answer exceeded the limit (bytes).
    TooLarge(usize),
    /// The answer came inside a JSON-RPC batch.
    Batch,
    /// The answer could not be read.
    Unreadable(String),
}

/// Travels inside the library's request to [`super::Wire::send`].
#[derive(Clone)]
pub(crate) struct RouteTag(pub(crate) Arc<Route>);

/// One request in flight.
#[derive(Default)]
pub(crate) struct Route {
    queue: Mutex<Queue>,
    filled: Notify,
    /// Set before the error that stands for it is handed on.
    failure: OnceLock<WireFailure>,
    /// What was wrong with the stream of the answer; it may still come on another one.
    stream: OnceLock<WireFailure>,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<CallProgress>,
    output_bytes: usize,
}

impl Route {
    pub(crate) fn failure(&self) -> Option<&WireFailure> {
        self.failure.get()
    }

    /// Why the stream of the answer ended, where something was wrong with it.
    pub(crate) fn stream_failure(&self) -> Option<&WireFailure> {
        self.stream.get()
    }

    fn push(&self, report: CallProgress) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let full = queue.entries.len() >= MAX_ENTRIES;
        match report {
            CallProgress::Output { stream, text } => {
                if queue.output_bytes + text.len() > MAX_OUTPUT_BYTES {
                    return;
                }
                queue.output_bytes += text.len();
                match queue.entries.back_mut() {
                    Some(CallProgress::Output { stream: last, text: waiting })
                        if *last == stream && (full || waiting.len() < MERGE_BYTES) =>
                    {
                        waiting.push_str(&text);
                    }
                    _ if full => queue.output_bytes -= text.len(),
                    _ => queue.entries.push_back(CallProgress::Output { stream, text }),
                }
            }
            progress @ CallProgress::Progress { .. } if full => {
                // The newest progress makes the one before it obsolete.
                if let Some(last @ CallProgress::Progress { .. }) = queue.entries.back_mut() {
                    *last = progress;
                }
            }
            CallProgress::Notification { .. } if full => {}
            other => queue.entries.push_back(other),
        }
        drop(queue);
        self.filled.notify_one();
    }

    fn pop(&self) -> Option<CallProgress> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let report = queue.entries.pop_front();
        if let Some(CallProgress::Output { text, .. }) = &report {
            queue.output_bytes -= text.len();
        }
        report
    }

    /// Hands on what waits. Returns whether the receiver still listens. Cancel safe: nothing is taken before there
    /// is room for it.
    pub(crate) async fn drain(&self, progress: &mpsc::Sender<CallProgress>) -> bool {
        loop {
            if self.queue.lock().unwrap_or_else(PoisonError::into_inner).entries.is_empty() {
                return true;
            }
            let Ok(permit) = progress.reserve().await else { return false };
            if let Some(report) = self.pop() {
                permit.send(report);
            }
        }
    }

    /// Hands on everything that comes, for ever.
    pub(crate) async fn pump(&self, progress: &mpsc::Sender<CallProgress>) {
        while self.drain(progress).await {
            self.filled.notified().await;
        }
        std::future::pending::<()>().await;
    }
}

/// What the wire tells the server's actor.
#[derive(Default)]
pub(crate) struct Signals {
    lists: Mutex<[bool; 3]>,
    changed: Notify,
}

/// Indexes of [`Signals`].
pub(crate) const LISTS: [&str; 3] = ["tools", "resources", "prompts"];

impl Signals {
    fn raise(&self, list: usize) {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)[list] = true;
        self.changed.notify_one();
    }

    /// Waits until a list changed, then takes what has.
    pub(crate) async fn lists_changed(&self) -> Vec<&'static str> {
        loop {
            let taken = std::mem::take(&mut *self.lists.lock().unwrap_or_else(PoisonError::into_inner));
            let lists: Vec<&str> =
                LISTS.iter().zip(taken).filter(|(_, raised)| *raised).map(|(name, _)| *name).collect();
            if !lists.is_empty() {
                return lists;
            }
            self.changed.notified().await;
        }
    }
}

#[derive(Default)]
struct Routes {
    by_token: HashMap<ProgressToken, Arc<Route>>,
    by_id: HashMap<RequestId, (Option<ProgressToken>, Arc<Route>)>,
}

/// What the wire of one connection shares with the calls and the actor.
pub(crate) struct WireShared {
    key: String,
    outbox: Arc<Outbox>,
    pub(crate) signals: Signals,
    /// No more messages will come.
    pub(crate) input_ended: CancellationToken,
    /// How long `server/discover` may take before it counts as unknown to the server; absent = as long as anything.
    pub(super) probe_limit: Option<Duration>,
    pub(super) recorder: Option<Recorder>,
    pub(super) faults: Option<FaultInjector>,
    /// The beginning of the first line that was no message.
    noise: OnceLock<String>,
    routes: Mutex<Routes>,
}

/// Longest part of a line that is no message, for people.
const MAX_NOISE: usize = 160;

impl WireShared {
    #[cfg(test)]
    pub(crate) fn new(key: &str, outbox: Arc<Outbox>) -> Arc<Self> {
        Self::with(key, outbox, None, None, None)
    }

    pub(crate) fn with(
        key: &str,
        outbox: Arc<Outbox>,
        probe_limit: Option<Duration>,
        recorder: Option<Recorder>,
        faults: Option<FaultInjector>,
    ) -> Arc<Self> {
        Arc::new(Self {
            probe_limit,
            recorder,
            faults,
            key: key.to_owned(),
            outbox,
            signals: Signals::default(),
            input_ended: CancellationToken::new(),
            noise: OnceLock::new(),
            routes: Mutex::default(),
        })
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The server wrote a line that is no message.
    pub(super) fn noise(&self, line: &[u8]) {
        self.noise.get_or_init(|| {
            // A character that is cut in two at the end becomes one replacement character.
            let line = &line[..line.len().min(MAX_NOISE * 4)];
            String::from_utf8_lossy(line).chars().take(MAX_NOISE).collect()
        });
    }

    /// The first line that was no message.
    pub(crate) fn first_noise(&self) -> Option<&str> {
        self.noise.get().map(String::as_str)
    }

    pub(super) fn register(&self, id: RequestId, token: Option<ProgressToken>, route: Arc<Route>) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = &token {
            routes.by_token.insert(token.clone(), Arc::clone(&route));
        }
        routes.by_id.insert(id, (token, route));
    }

    /// The request `id` is over: nothing that comes later belongs to it.
    pub(super) fn answered(&self, id: &RequestId) -> Option<Arc<Route>> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, route) = match routes.by_id.remove(id) {
            Some(entry) => entry,
            None => routes.by_id.remove(&numeric(id)?)?,
        };
        if let Some(token) = token {
            routes.by_token.remove(&token);
        }
        Some(route)
    }

    fn forget(&self, route: &Arc<Route>) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.by_id.retain(|_, (_, other)| !Arc::ptr_eq(other, route));
        routes.by_token.retain(|_, other| !Arc::ptr_eq(other, route));
    }

    /// Ends the request `id` with a failure of the wire. Returns whether it was in flight.
    pub(super) fn fail(&self, id: &RequestId, failure: WireFailure) -> bool {
        match self.answered(id) {
            Some(route) => {
                let _ = route.failure.set(failure);
                true
            }
            None => false,
        }
    }

    /// The stream on which the answer to `id` was awaited broke.
    pub(crate) fn stream_broke(&self, id: &RequestId, failure: WireFailure) {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, route)) = routes.by_id.get(id) {
            let _ = route.stream.set(failure);
        }
    }

    /// All requests in flight.
    pub(super) fn pending(&self) -> Vec<RequestId> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).by_id.keys().cloned().collect()
    }

    pub(super) fn deliver(&self, notice: Notice) {
        match notice {
            Notice::Call(token, report) => match self.route(&token) {
                Some(route) => route.push(report),
                None => tracing::debug!(extension = %self.key, "a report for no call in flight was dropped"),
            },
            Notice::Log { token, level, logger, data_json } => {
                match token.and_then(|token| self.route(&token)) {
                    Some(route) => route.push(CallProgress::Notification {
                        method: "notifications/message".to_owned(),
                        params_json: log_params(&level, &logger, &data_json),
                    }),
                    None => self.outbox.push(HostEvent::Notification {
                        extension_name: self.key.clone(),
                        level,
                        logger,
                        data_json,
                    }),
                }
            }
            Notice::ToolsChanged => self.signals.raise(0),
            Notice::ResourcesChanged => self.signals.raise(1),
            Notice::PromptsChanged => self.signals.raise(2),
            Notice::ResourceUpdated(uri) => {
                self.outbox.push(HostEvent::ResourceUpdated { extension_name: self.key.clone(), uri });
            }
            Notice::Cancelled(_) | Notice::Ignored => {}
        }
    }

    fn route(&self, token: &ProgressToken) -> Option<Arc<Route>> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let found = routes.by_token.get(token).or_else(|| {
            let number = numeric(&token.0)?;
            routes.by_token.get(&ProgressToken(number))
        });
        found.cloned()
    }
}

/// Some servers echo a number as a string.
fn numeric(id: &RequestId) -> Option<RequestId> {
    match id {
        RequestId::String(text) => text.parse().ok().map(RequestId::Number),
        RequestId::Number(_) => None,
    }
}

fn log_params(level: &str, logger: &str, data_json: &str) -> String {
    let data: serde_json::Value = serde_json::from_str(data_json).unwrap_or_default();
    serde_json::json!({"level": level, "logger": logger, "data": data}).to_string()
}

/// Takes a route out of the tables when its call is over, however it ended.
pub(crate) struct RouteGuard {
    shared: Arc<WireShared>,
    route: Arc<Route>,
}

impl RouteGuard {
    pub(crate) fn new(shared: &Arc<WireShared>, route: &Arc<Route>) -> Self {
        Self { shared: Arc::clone(shared), route: Arc::clone(route) }
    }
}

impl Drop for RouteGuard {
    fn drop(&mut self) {
        self.shared.forget(&self.route);
    }
}
