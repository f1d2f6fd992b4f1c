//! The engine with a scripted model, a real store and the real developer extension.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agents;
mod asking;
mod budgets;
mod context;
mod delegation;
mod harness;
mod history;
mod hosts;
mod interactions;
mod looping;
mod recipes;
mod recovery;
mod schedules;
mod turns;
mod watching;
