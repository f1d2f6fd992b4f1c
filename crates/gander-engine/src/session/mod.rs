//! Session actors: one task per live session, the only writer of its log.
//!
//! Everything that changes a session is a closure run by its actor against the current state ([`SessionHandle::edit`]).
//! The actor runs what is queued, commits all events of the batch at once, publishes them, and only then answers the
//! callers: an answer implies that its effect survives `kill -9`.

mod actor;
mod asks;
mod close;
mod core;
mod handle;
mod host;
mod interactions;
mod rules;
mod titles;
mod turns;

pub(crate) use self::core::{Committed, Core, ExtensionPlan, PlannedExtension};
pub(crate) use actor::{SpawnSession, gone, spawn};
pub(crate) use handle::SessionHandle;
pub(crate) use host::{HostAsk, ask_able_host, call_host, host_call_not_found, progress_payload};
pub use host::{HostAttachment, HostRegistration};
pub(crate) use interactions::{Withdraw, interaction_not_found};
pub(crate) use rules::RuleEdits;
pub(crate) use turns::{SteerRequest, TurnStart, title_from, turn_not_found};
