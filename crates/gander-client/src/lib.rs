//! The typed client of `gander.v1` over any transport: in process, unix socket or TCP, with the same calls.
//!
//! [`Client::connect`] gives a cheap handle with one accessor per service. Under the generated clients sits
//! [`Transport`], which stamps metadata, sends and enforces deadlines, spreads streams over a pool of HTTP/2
//! connections and repeats unary calls that the contract marks as repeatable. [`Client::watch`] and
//! [`Client::run_turn`] survive the loss of a connection without losing or repeating an event.
//!
//! This crate must not know any other crate of ours but `gander-proto`: whatever it can do, a client in another
//! language can do. It never reads files, the environment or a configuration; values are passed in.

mod client;
mod dial;
mod endpoint;
mod error;
mod methods;
mod pool;
mod transport;
mod watch;

#[cfg(test)]
mod tests;

pub use client::{Client, ClientOptions, Deadlines};
pub use endpoint::{ClientIdentity, Endpoint, LocalService, TcpEndpoint, TlsRoots};
pub use error::{ClientError, FieldViolation};
pub use transport::Transport;
pub use watch::{EventStream, ReconnectOptions, WatchOptions};

/// The error type that [`LocalService`] has.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
