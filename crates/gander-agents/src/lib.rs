//! ACP agents as model back ends: a provider whose "model" is an agent with a loop and tools of its own.
//!
//! An agent is a process that speaks the Agent Client Protocol (version 1, newline-delimited JSON-RPC over its stdin and
//! stdout); gander is its client. [`Agents`] is the catalogue: data files for the known ones, the user's own beside them.
//! Each session gets a process of its own, owned by its [`gander_model::AgentSession`] and ended as a whole tree.
//!
//! Invariants: updates are handed on in order and none is dropped (a slow client slows the agent down); all updates of a
//! prompt are handed on before the prompt ends; a question never holds up the connection; what the agent sends is read
//! leniently, what it is sent is valid by the schema; secrets go into its environment and its servers, and are taken out
//! of everything that it says about itself.
//!
//! This crate knows nothing of the log, of permissions or of configuration files.

mod catalogue;
mod connection;
mod content;
mod failure;
mod files;
mod handshake;
mod options;
mod process;
mod provider;
mod session;
mod stderr;
mod terminals;
mod updates;

pub use catalogue::{AgentFile, Agents};
