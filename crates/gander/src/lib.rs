//! gander: one daemon that owns AI agent sessions and serves them to every client.
//!
//! The binary is `src/main.rs`; this library is what it, the tests and embedders are made of.

pub mod agent;
pub mod cli;
pub mod daemon;
mod door;
pub mod goose_history;
mod log_writer;
pub mod telemetry;

pub use door::{DOOR_COMMAND, door_main};
