//! A pool of HTTP/2 connections that grows with the number of open streams.
//!
//! A connection carries a bounded number of streams (the daemon allows 256); a watch holds one for hours. A request
//! goes to the first connection that has room, so that the later ones fall idle and are closed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tonic::transport::Channel;

use crate::dial::Dialer;

/// Streams that one connection carries before another one is opened.
const STREAMS_PER_CONNECTION: usize = 100;
/// Connections of one client. With all of them full, requests share the least busy one and may have to wait.
const MAX_CONNECTIONS: usize = 64;
/// A spare connection without streams is closed after this time.
const IDLE: Duration = Duration::from_secs(30);

struct Slot {
    channel: Channel,
    streams: Arc<AtomicUsize>,
    last_used: Instant,
}

/// The connections of one client.
pub(crate) struct Pool {
    dialer: Dialer,
    /// Never empty. Held only for the pick, never across a wait.
    slots: Mutex<Vec<Slot>>,
}

/// Counts one stream of a connection for as long as it lives.
pub(crate) struct StreamGuard(Arc<AtomicUsize>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A pool around a connection that exists already.
    pub(crate) fn new(dialer: Dialer, first: Channel) -> Self {
        Self { dialer, slots: Mutex::new(vec![Slot::new(first)]) }
    }

    /// A connection with room for one more stream.
    pub(crate) fn checkout(&self) -> (Channel, StreamGuard) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut index = 0;
        slots.retain(|slot| {
            index += 1;
            index == 1 || slot.open() > 0 || now.duration_since(slot.last_used) < IDLE
        });
        let free = slots.iter().position(|slot| slot.open() < STREAMS_PER_CONNECTION);
        let picked = match free {
            Some(position) => position,
            None if slots.len() < MAX_CONNECTIONS => {
                slots.push(Slot::new(self.dialer.channel()));
                slots.len() - 1
            }
            None => least_busy(&slots),
        };
        match slots.get_mut(picked) {
            Some(slot) => slot.take(now),
            // Unreachable: the pool is never empty. A fresh connection is a correct answer all the same.
            None => Slot::new(self.dialer.channel()).take(now),
        }
    }

    /// Forgets all connections: one that fell silent may look open for a long time, and so may its neighbours.
    /// Streams that are open on them go on to their own end.
    pub(crate) fn renew(&self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        *slots = vec![Slot::new(self.dialer.channel())];
    }

    /// How many connections there are.
    #[cfg(test)]
    pub(crate) fn connections(&self) -> usize {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Slot {
    fn new(channel: Channel) -> Self {
        Self { channel, streams: Arc::new(AtomicUsize::new(0)), last_used: Instant::now() }
    }

    fn open(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    fn take(&mut self, now: Instant) -> (Channel, StreamGuard) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.last_used = now;
        (self.channel.clone(), StreamGuard(self.streams.clone()))
    }
}

fn least_busy(slots: &[Slot]) -> usize {
    slots.iter().enumerate().min_by_key(|(_, slot)| slot.open()).map_or(0, |(index, _)| index)
}
