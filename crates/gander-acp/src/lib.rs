//! The Agent Client Protocol over the canonical API: gander as the agent of editors and of remote clients.
//!
//! [`Connection`] is one client's side of the protocol, whatever carries it: messages go in as text, messages come out of
//! one queue. [`serve_stdio`] puts it on two byte streams, [`remote::router`] on HTTP (POST and server-sent events) and
//! WebSocket. Every method is a translation into calls of [`gander_client::Client`], every session is followed by a watch
//! that resumes by itself, and [`translate`](translate::translate) turns its events into updates without doing anything
//! else.
//!
//! What always holds: one writer per connection and a bounded queue in which text grows together instead of being dropped;
//! the answer of a request that makes a session leaves before anything about that session; all updates of a turn leave
//! before the answer of its prompt; a cancelled prompt is answered `cancelled` and nothing else; a client that goes away
//! has neither answered a question nor cancelled a turn; what a client did not offer is not used.
//!
//! This crate must not know the engine, the store or the configuration files, and must not read the environment:
//! whatever it can do, a client in another language can do.

mod agent;
mod caps;
mod queue;
pub mod remote;
mod rpc;
mod stdio;
pub mod translate;

pub use agent::{Connection, Options, SetupCommand};
pub use caps::ClientCaps;
pub use queue::Frame;
pub use stdio::serve_stdio;
