//! What a session's servers report besides results, and the queue between them and the engine.
//!
//! Producers never wait: the wire must not stop reading because the engine is busy. Changes of state and of lists are
//! never lost (the restart cap bounds them); log messages and resource updates beyond [`MAX_QUEUED`] are.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use gander_domain::{event::ListChange, extension::ExtensionStateChange};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Queued messages that may be dropped beyond this.
const MAX_QUEUED: usize = 1024;

/// What a session learns from its extensions outside of calls.
#[derive(Debug, Clone, PartialEq)]
pub enum HostEvent {
    /// An extension's state changed.
    StateChanged(ExtensionStateChange),
    /// Its tools, resources or prompts changed.
    ListChanged(ListChange),
    /// A log message that belongs to no call.
    Notification {
        /// Key of the extension.
        extension_name: String,
        /// MCP's (syslog's) level: `debug` … `emergency`.
        level: String,
        /// The server's own name of the source, may be empty.
        logger: String,
        /// Any JSON.
        data_json: String,
    },
    /// A subscribed resource changed.
    ResourceUpdated {
        /// Key of the extension.
        extension_name: String,
        /// Which resource.
        uri: String,
    },
}

/// The queue. Order is kept over all extensions of the session.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: Mutex<VecDeque<HostEvent>>,
    filled: Notify,
}

impl Outbox {
    pub(crate) fn push(&self, event: HostEvent) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let droppable = matches!(event, HostEvent::Notification { .. } | HostEvent::ResourceUpdated { .. });
        if droppable && queue.len() >= MAX_QUEUED {
            tracing::debug!("an extension's notification was dropped: the queue is full");
            return;
        }
        queue.push_back(event);
        drop(queue);
        self.filled.notify_one();
    }

    fn pop(&self) -> Option<HostEvent> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Hands events on until the receiver is gone, or `closed` and nothing is left.
pub(crate) async fn forward(
    outbox: Arc<Outbox>,
    events: mpsc::Sender<Box<HostEvent>>,
    closed: CancellationToken,
) {
    loop {
        while let Some(event) = outbox.pop() {
            if events.send(Box::new(event)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            biased;
            () = outbox.filled.notified() => {}
            () = events.closed() => return,
            () = closed.cancelled() => {
                if outbox.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                    return;
                }
            }
        }
    }
}
