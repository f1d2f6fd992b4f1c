//! The program as people use it: the real binary, each test with a root of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod commands;
mod daemon;
mod extensions;
mod support;
mod terminal;
