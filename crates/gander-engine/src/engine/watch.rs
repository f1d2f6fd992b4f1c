//! Watching: a cursor over a session's log that reads memory, then the store, and waits for more.

use std::sync::Arc;

use gander_domain::{ErrorDetail, ErrorReason, Event, Sequence, SessionId};
use gander_store::{EventPage, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Engine;
use crate::{
    feed::{Feed, FeedClosed, FeedState},
    services::store_error,
};

/// Events handed out at once.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchClosed {
    Drain,
    SessionDeleted,
    StoreLost,
}

/// What a watch gives.
#[derive(Debug, Clone)]
pub enum WatchStep {
    /// The next events, oldest first; never empty.
    Events(Vec<Arc<Event>>),
    Closed(WatchClosed),
}

/// A watcher's place in a log. Dropping it affects nothing else.
pub struct WatchCursor {
    store: Arc<dyn Store>,
    feed: Arc<Feed>,
    changes: watch::Receiver<FeedState>,
    after: Sequence,
    closing: CancellationToken,
}

impl WatchCursor {
    /// Sequence of the last event handed out (or where the watch began).
    pub fn position(&self) -> Sequence {
        self.after
    }

    /// Whether everything that is stored has been handed out.
    pub fn is_caught_up(&self) -> bool {
        self.after >= self.feed.state().last_sequence
    }

    /// The next events; waits for them. Cancel safe.
    pub async fn next(&mut self) -> Result<WatchStep, ErrorDetail> {
        loop {
            let state = *self.changes.borrow_and_update();
            if state.last_sequence > self.after
                && let Some(step) = self.read(state).await?
            {
                return Ok(step);
            }
            match state.closed {
                Some(FeedClosed::SessionDeleted) => {
                    return Ok(WatchStep::Closed(WatchClosed::SessionDeleted));
                }
                Some(FeedClosed::StoreLost) => return Ok(WatchStep::Closed(WatchClosed::StoreLost)),
                None => {}
            }
            tokio::select! {
                changed = self.changes.changed() => {
                    if changed.is_err() {
                        return Ok(WatchStep::Closed(WatchClosed::StoreLost));
                    }
                }
                () = self.closing.cancelled() => {
                    if self.is_caught_up() {
                        return Ok(WatchStep::Closed(WatchClosed::Drain));
                    }
                }
            }
        }
    }

    async fn read(&mut self, state: FeedState) -> Result<Option<WatchStep>, ErrorDetail> {
        let events = match self.feed.read(self.after, BATCH_EVENTS) {
            Some(events) => events,
            None if state.closed.is_some() => return Ok(None),
            None => {
                let read =
                    self.store.read_events(&self.feed.session_id, self.after, BATCH_EVENTS, BATCH_BYTES);
                let EventPage { events, last_sequence } = read.await.map_err(|e| store_error(&e))?;
                if events.is_empty() {
                    // Only dropped deltas lay between here and the end.
                    self.after = self.after.max(last_sequence);
                    return Ok(None);
                }
                events
            }
        };
        Ok(events.last().map(|last| last.sequence).map(|last| {
            self.after = last;
            WatchStep::Events(events)
        }))
    }
}

impl Engine {
    /// Opens a watch. `after`: exclusive cursor, 0 = the whole history, `None` = from now.
    ///
    /// # Errors
    /// `SEQUENCE_AHEAD` for a cursor beyond the log, `SEQUENCE_COMPACTED` for one before what is kept.
    pub async fn watch(
        &self,
        session_id: &SessionId,
        after: Option<Sequence>,
    ) -> Result<WatchCursor, ErrorDetail> {
        let feed = self.feed(session_id).await?;
        let changes = feed.subscribe();
        let last = feed.state().last_sequence;
        let after = match after {
            None => last,
            Some(after) => {
                if (after != 0 || last == 0) && !feed.holds(after) {
                    self.check_cursor(session_id, after, last).await?;
                }
                after
            }
        };
        Ok(WatchCursor {
            store: self.services.store.clone(),
            feed,
            changes,
            after,
            closing: self.closing.clone(),
        })
    }

    async fn check_cursor(
        &self,
        session_id: &SessionId,
        after: Sequence,
        last: Sequence,
    ) -> Result<(), ErrorDetail> {
        if after < 0 {
            return Err(ErrorDetail::invalid("after_sequence", "must not be negative"));
        }
        if after > last {
            return Err(ErrorDetail::new(
                ErrorReason::SequenceAhead,
                format!("after_sequence {after} is beyond the log, which ends at {last}"),
            )
            .with("lastSequence", last));
        }
        let bounds = self.services.store.log_bounds(session_id).await.map_err(|e| store_error(&e))?;
        if after > 0 && after + 1 < bounds.oldest_sequence {
            return Err(ErrorDetail::new(
                ErrorReason::SequenceCompacted,
                format!(
                    "events before {} are gone; read a snapshot with ListItems and watch from there",
                    bounds.oldest_sequence
                ),
            )
            .with("oldestSequence", bounds.oldest_sequence));
        }
        Ok(())
    }

    /// One page of the log; `after` as for [`Engine::watch`].
    pub async fn list_events(
        &self,
        session_id: &SessionId,
        after: Sequence,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<EventPage, ErrorDetail> {
        let bounds = self.services.store.log_bounds(session_id).await.map_err(|e| store_error(&e))?;
        self.check_cursor(session_id, after, bounds.last_sequence).await?;
        self.services
            .store
            .read_events(session_id, after, max_events, max_bytes)
            .await
            .map_err(|e| store_error(&e))
    }
}
