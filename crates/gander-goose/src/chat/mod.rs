//! Conversations: items and events of the log in Goose's words, and Goose's words as input.
//!
//! Everything but [`snapshot`], [`content`] and [`pump`] is pure: no call, no clock. What a stream has shown is remembered in
//! [`translate::Shown`] and nowhere else.

pub(crate) mod content;
pub(crate) mod fold;
pub(crate) mod input;
pub(crate) mod message;
pub(crate) mod pump;
pub(crate) mod snapshot;
pub(crate) mod translate;

#[cfg(test)]
mod tests;
