//! Watch streams: a cursor over a session's log as a stream of messages.
//!
//! Pull only: an event is read and converted when the transport asks for it, so a slow watcher holds no queue and slows
//! nobody. Dropping the stream drops its cursor and affects nothing else.

use std::{pin::Pin, time::Duration};

use futures::Stream;
use gander_domain::{ErrorDetail, ErrorReason, Event, Payload, Sequence, SessionId, TurnId};
use gander_engine::{WatchClosed, WatchCursor, WatchStep};
use gander_proto::v1 as pb;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tonic::Status;

use crate::{
    convert::{duration_to_pb, event},
    error::status,
};

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// When clients may come back after a drain.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What to watch, and until when.
pub(crate) struct Watch {
    pub(crate) cursor: WatchCursor,
    pub(crate) session_id: SessionId,
    pub(crate) exclude_deltas: bool,
    /// End after this turn's end.
    pub(crate) until: Option<TurnId>,
    /// The turn to end after has ended at or before this sequence; nothing behind it is sent.
    pub(crate) through: Option<Sequence>,
    /// Leave out what belongs to other turns than `until`.
    pub(crate) only_turn: bool,
    /// Silence after which a checkpoint is sent.
    pub(crate) checkpoint_interval: Duration,
    /// Held as long as the stream lives, which owns all of this.
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Watch {
    fn sends(&self, event: &Event) -> bool {
        if self.exclude_deltas && event::is_excludable(&event.payload) {
            return false;
        }
        !(self.only_turn && event.turn_id.is_some() && event.turn_id != self.until)
    }

    fn ends(&self, event: &Event) -> bool {
        matches!(&event.payload, Payload::TurnEnded { turn } if self.until.as_ref() == Some(&turn.turn_id))
    }

    /// The stream; `wrap` makes the method's message out of an event.
    pub(crate) fn stream<T: Send + 'static>(mut self, wrap: fn(pb::SessionEvent) -> T) -> Answers<T> {
        Box::pin(async_stream::stream! {
            let mut caught_up_told = false;
            let mut last_sent = Instant::now();
            loop {
                if self.through.is_some_and(|through| self.cursor.position() >= through) {
                    return;
                }
                let caught_up = self.cursor.is_caught_up();
                if (caught_up && !caught_up_told) || last_sent.elapsed() >= self.checkpoint_interval {
                    caught_up_told |= caught_up;
                    last_sent = Instant::now();
                    yield Ok(wrap(event::checkpoint(&self.session_id, self.cursor.position(), caught_up)));
                    continue;
                }
                let step = tokio::time::timeout_at(last_sent + self.checkpoint_interval, self.cursor.next()).await;
                let events = match step {
                    // Silence: the next round sends a checkpoint.
                    Err(_) => continue,
                    Ok(Err(error)) => {
                        yield Err(status(&error));
                        return;
                    }
                    Ok(Ok(WatchStep::Closed(why))) => {
                        let last = self.cursor.position();
                        yield Ok(wrap(event::stream_closing(&self.session_id, last, closing(why))));
                        return;
                    }
                    Ok(Ok(WatchStep::Events(events))) => events,
                };
                for event in events {
                    if self.sends(&event) {
                        last_sent = Instant::now();
                        yield Ok(wrap(event::event_to_pb(&event, &self.session_id)));
                    }
                    if self.ends(&event) {
                        return;
                    }
                }
            }
        })
    }
}

/// Why a stream ends, as its last message says it.
pub(crate) fn closing(why: WatchClosed) -> pb::StreamClosing {
    let (reason, retry) = match why {
        WatchClosed::Drain => (pb::StreamCloseReason::Drain, true),
        WatchClosed::SessionDeleted => (pb::StreamCloseReason::SessionDeleted, false),
        WatchClosed::StoreLost => (pb::StreamCloseReason::StoreLost, true),
    };
    pb::StreamClosing { reason: reason as i32, retry_after: retry.then(|| duration_to_pb(RETRY_AFTER)) }
}

/// The error of a daemon that has as many streams open as it allows.
pub(crate) fn too_many_streams(limit: usize) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::Overloaded,
        format!("{limit} streams are open, which is the limit; close some, or try again later"),
    )
    .with("limit", limit)
    .retry_after(Duration::from_secs(5))
}
