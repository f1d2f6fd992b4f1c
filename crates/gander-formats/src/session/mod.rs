//! Goose's sessions and messages as documents.
//!
//! Pure data: what a message means in a session's log is for those who know the log (an adapter, an importer).

mod document;
mod message;

#[cfg(test)]
mod tests;

pub use document::{Document, ModelConfig};
pub use message::{Action, Call, CallResult, Content, Message, Metadata, NotificationType, Outcome, Role};
