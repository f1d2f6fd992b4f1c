//! The engine with a scripted model, a real store and the real developer extension.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
mod history;
mod interactions;
mod recovery;
mod turns;
mod watching;
