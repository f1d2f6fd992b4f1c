//! Data and pure functions of gander: ids, sessions, turns, items, events, content, usage and errors; the fold of a
//! session's event log into its state; the rules that a log must obey.
//!
//! No IO, no async, no clock, no randomness: callers pass times and ids in. Names and fields follow the canonical model
//! of `proto/gander/v1`; the service crate converts between the two.

pub mod check;
pub mod content;
pub mod error;
pub mod event;
pub mod extension;
pub mod fold;
pub mod host;
pub mod id;
pub mod interaction;
pub mod item;
pub mod permission;
pub mod session;
pub mod time;
pub mod tool;
pub mod turn;
pub mod usage;

pub use check::{LogFinding, check_log};
pub use content::{Part, PartBody};
pub use error::{ErrorDetail, ErrorReason};
pub use event::{Actor, Event, Payload, Sequence};
pub use fold::SessionState;
pub use id::{ContentId, HostCallId, InteractionId, ItemId, MessageId, SessionId, TurnId};
pub use interaction::Interaction;
pub use item::{Item, ItemBody, ToolCall};
pub use session::Session;
pub use time::Timestamp;
pub use turn::Turn;
pub use usage::Usage;
