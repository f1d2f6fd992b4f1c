//! The promises of the whole, through the API and with real processes: one program, one module per promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod asking;
mod bad_input;
mod cancel;
mod durability;
mod erasure;
mod examples;
mod extensions;
mod hosts;
mod idempotency;
mod invariants;
mod limits;
mod protocol;
mod resume;
mod security;
mod sharing;
mod shutdown;
mod startup;
mod tls;
