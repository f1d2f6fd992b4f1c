//! The client's half of ACP against a scripted agent in a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;
mod prompts;
mod requests;
mod starting;
