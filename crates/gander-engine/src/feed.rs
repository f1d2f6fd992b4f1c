//! Feeds: how watchers learn of new events.
//!
//! A feed is a bounded ring of the newest committed events and a wake-up signal. Every watcher has its own cursor and
//! reads the ring, then the store: there is no queue per watcher, so a slow one costs nothing and slows nobody.
//! Only committed events enter a feed.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use gander_domain::{Event, Sequence, SessionId};
use tokio::sync::watch;

/// Events kept in memory per feed.
const RING_EVENTS: usize = 512;
/// Events kept while no turn runs: enough for watchers that are a moment behind.
const IDLE_EVENTS: usize = 4;

/// What watchers are woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FeedState {
    /// Last committed sequence.
    pub(crate) last_sequence: Sequence,
    pub(crate) closed: Option<FeedClosed>,
}

/// Why a feed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FeedClosed {
    SessionDeleted,
    StoreLost,
}

/// The newest events of one session.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) session_id: SessionId,
    ring: Mutex<VecDeque<Arc<Event>>>,
    state: watch::Sender<FeedState>,
}

impl Feed {
    /// A feed of a session whose last committed sequence is known.
    pub(crate) fn new(session_id: SessionId, last_sequence: Sequence) -> Arc<Self> {
        let state = watch::Sender::new(FeedState { last_sequence, closed: None });
        Arc::new(Self { session_id, ring: Mutex::new(VecDeque::new()), state })
    }

    /// Publishes events that were just committed.
    pub(crate) fn publish(&self, events: &[Arc<Event>]) {
        let Some(last) = events.last() else { return };
        {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.extend(events.iter().cloned());
            let excess = ring.len().saturating_sub(RING_EVENTS);
            ring.drain(..excess);
        }
        self.state.send_modify(|s| s.last_sequence = last.sequence);
    }

    /// Gives memory back when nothing is going on: those who are behind read the store.
    pub(crate) fn shrink(&self) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let excess = ring.len().saturating_sub(IDLE_EVENTS);
        ring.drain(..excess);
        ring.shrink_to_fit();
    }

    /// Tells watchers of events that were committed before the feed began.
    pub(crate) fn advance(&self, last_sequence: Sequence) {
        self.state.send_if_modified(|s| {
            let newer = last_sequence > s.last_sequence;
            s.last_sequence = s.last_sequence.max(last_sequence);
            newer
        });
    }

    /// Forgets the ring: after stored events were rewritten, readers must not see the old ones.
    pub(crate) fn clear_ring(&self) {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Ends the feed; watchers are told why.
    pub(crate) fn close(&self, reason: FeedClosed) {
        self.clear_ring();
        self.state.send_modify(|s| s.closed = Some(reason));
    }

    /// Last committed sequence and whether the feed ended.
    pub(crate) fn state(&self) -> FeedState {
        *self.state.borrow()
    }

    /// Wakes when the state changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<FeedState> {
        self.state.subscribe()
    }

    /// Whether `after` is a place in the log behind which memory holds everything.
    pub(crate) fn holds(&self, after: Sequence) -> bool {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(first), Some(last)) = (ring.front(), ring.back()) else { return false };
        (first.sequence - 1..=last.sequence).contains(&after)
    }

    /// The events directly behind `after`, if the ring still has the first of them. `None`: ask the store.
    pub(crate) fn read(&self, after: Sequence, max_events: usize) -> Option<Vec<Arc<Event>>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.front()?.sequence;
        if first > after + 1 {
            return None;
        }
        // The ring is contiguous: it holds events as they were appended.
        let skip = usize::try_from(after + 1 - first).ok()?;
        Some(ring.iter().skip(skip).take(max_events).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use gander_domain::{Payload, Timestamp, item::NoticeLevel};

    use super::*;

    fn event(sequence: Sequence) -> Arc<Event> {
        let payload =
            Payload::StatusNoted { level: NoticeLevel::Info, code: "n".into(), text: String::new() };
        Arc::new(Event { sequence, turn_id: None, time: Timestamp(0), actor: None, payload })
    }

    #[test]
    fn reads_from_the_ring_or_sends_to_the_store() {
        let feed = Feed::new(SessionId::new("s").unwrap(), 10);
        assert_eq!(feed.read(10, 5), None, "empty ring");
        let events: Vec<_> = (11..=600).map(event).collect();
        feed.publish(&events);
        assert_eq!(feed.state().last_sequence, 600);
        let seqs = |after| {
            feed.read(after, 3).map(|v: Vec<Arc<Event>>| v.iter().map(|e| e.sequence).collect::<Vec<_>>())
        };
        assert_eq!(seqs(11), None, "dropped from the ring");
        assert_eq!(seqs(600 - 512), Some(vec![89, 90, 91]));
        assert_eq!(seqs(599), Some(vec![600]));
        assert_eq!(seqs(600), Some(vec![]));
        let holds: Vec<_> = [600 - 513, 600 - 512, 600, 601].map(|after| feed.holds(after)).into();
        assert_eq!(holds, [false, true, true, false]);
        feed.clear_ring();
        assert_eq!((seqs(599), feed.holds(599)), (None, false));
    }
}
