//! Conversations: events of the log in Goose's words.
//!
//! What one item is in Goose's words is `gander_formats::goose_session`'s; here is what is particular to a stream. Nothing
//! but [`translate`] is pure: no call, no clock. What a stream has shown is remembered in [`translate::Shown`] and nowhere
//! else.

pub(crate) mod content;
pub(crate) mod pump;
pub(crate) mod snapshot;
pub(crate) mod translate;

#[cfg(test)]
mod tests;
