//! The event log and session store: one trait, an embedded SQLite implementation, one conformance suite for every
//! implementation.
//!
//! Invariants: a commit is atomic and durable against `kill -9` before its future resolves; sequences of a session are
//! contiguous at append and never reused; an epoch that is not the session's current one is refused (fencing).
//! The store never interprets a conversation; it knows events only by their envelope and the few fields it indexes.

mod api;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod goose;
pub mod sqlite;

pub use api::*;
pub use sqlite::{OpenOptions, SqliteStore};
