//! One connection over HTTP: what leaves the agent's queue waits in lanes, one for the connection and one per session,
//! until the client's stream for that lane takes it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::App;
use crate::{agent::Connection, queue::Frame};

/// Bytes that may wait in one lane; one message more is let in.
const MAX_LANE: usize = 1024 * 1024;
/// A full lane that nobody reads blocks the others only so long.
const ABANDONED: Duration = Duration::from_secs(30);
/// A connection without streams and messages for so long is gone.
const IDLE: Duration = Duration::from_secs(300);
/// How often is looked for that.
const LOOK: Duration = Duration::from_secs(15);
/// Streams of sessions per connection.
const MAX_LANES: usize = 1024;

/// A connection.
pub(super) struct Remote {
    pub(super) id: String,
    pub(super) connection: Connection,
    lanes: Mutex<Lanes>,
    changed: Notify,
    pub(super) stop: CancellationToken,
}

struct Lanes {
    lanes: HashMap<Option<String>, Lane>,
    /// Requests about a session that came without naming its stream: their answers go to the connection's.
    redirected: HashSet<String>,
    used: Instant,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<String>,
    bytes: usize,
    read: bool,
}

/// The right to read a lane; given back when dropped.
pub(super) struct Reader {
    remote: Arc<Remote>,
    lane: Option<String>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut lanes = self.remote.lanes();
        if let Some(lane) = lanes.lanes.get_mut(&self.lane) {
            lane.read = false;
        }
        lanes.used = Instant::now();
    }
}

impl Remote {
    pub(super) fn new(id: String, connection: Connection, stop: CancellationToken) -> Self {
        let lanes = Lanes { lanes: HashMap::new(), redirected: HashSet::new(), used: Instant::now() };
        Self { id, connection, lanes: Mutex::new(lanes), changed: Notify::new(), stop }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn used(&self) {
        self.lanes().used = Instant::now();
    }

    /// The answer to this request goes to the connection's stream, whatever session it is about.
    pub(super) fn redirect(&self, id: &Value) {
        self.lanes().redirected.insert(id.to_string());
    }

    /// Takes a lane for reading. `None`: somebody reads it already, or there are too many.
    pub(super) fn reader(self: &Arc<Self>, session_id: Option<String>) -> Option<Reader> {
        let mut lanes = self.lanes();
        if lanes.lanes.len() >= MAX_LANES && !lanes.lanes.contains_key(&session_id) {
            return None;
        }
        let lane = lanes.lanes.entry(session_id.clone()).or_default();
        if lane.read {
            return None;
        }
        lane.read = true;
        Some(Reader { remote: self.clone(), lane: session_id })
    }

    /// Carries messages from the agent's queue into the lanes, until the connection ends.
    pub(super) async fn carry(self: Arc<Self>, app: App) {
        let carrying = async {
            while let Some(frame) = self.connection.next().await {
                if !self.put(frame).await {
                    return;
                }
            }
        };
        let idle = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let lanes = self.lanes();
                if !lanes.lanes.values().any(|lane| lane.read) && lanes.used.elapsed() > IDLE {
                    return;
                }
            }
        };
        tokio::select! {
            () = carrying => {}
            () = idle => {}
            () = self.stop.cancelled() => {}
        }
        app.forget(&self.id);
        self.connection.close();
        self.stop.cancel();
        self.changed.notify_waiters();
    }

    /// Puts a message into its lane; false when that lane is full and abandoned.
    async fn put(&self, frame: Frame) -> bool {
        let key = self.lanes().key(&frame);
        let mut frame = Some(frame);
        let begin = Instant::now();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let read = {
                let mut lanes = self.lanes();
                let lane = lanes.lanes.entry(key.clone()).or_default();
                if lane.bytes < MAX_LANE
                    && let Some(frame) = frame.take()
                {
                    lane.bytes += frame.json.len();
                    lane.waiting.push_back(frame.json);
                    drop(lanes);
                    self.changed.notify_waiters();
                    return true;
                }
                lane.read
            };
            if read {
                changed.await;
            } else if tokio::time::timeout(ABANDONED, changed).await.is_err() && begin.elapsed() >= ABANDONED
            {
                return false;
            }
        }
    }
}

impl Lanes {
    /// The lane of a message.
    fn key(&mut self, frame: &Frame) -> Option<String> {
        let session_id = frame.session_id.clone()?;
        if !self.redirected.is_empty()
            && let Ok(message) = serde_json::from_str::<Value>(&frame.json)
            && message.get("method").is_none()
            && message.get("id").is_some_and(|id| self.redirected.remove(&id.to_string()))
        {
            return None;
        }
        Some(session_id)
    }
}

impl Reader {
    /// The next message; `None` when the connection has ended.
    pub(super) async fn next(&self) -> Option<String> {
        loop {
            let changed = self.remote.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut lanes = self.remote.lanes();
                let lane = lanes.lanes.entry(self.lane.clone()).or_default();
                if let Some(message) = lane.waiting.pop_front() {
                    lane.bytes = lane.bytes.saturating_sub(message.len());
                    drop(lanes);
                    self.remote.changed.notify_waiters();
                    return Some(message);
                }
            }
            tokio::select! {
                () = changed => {}
                () = self.remote.stop.cancelled() => return None,
            }
        }
    }
}
