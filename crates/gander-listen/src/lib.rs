//! The daemon's own accept loop: unix sockets and TCP, TLS, authentication, limits, metrics and drain around a gRPC
//! service and an optional HTTP router.
//!
//! How it fits together: a [`Listener`] is a bound socket, a [`Front`] is the application behind all listeners
//! (routes, limits, metrics), a [`Server`] is one listener that serves a front until it is drained. Per connection:
//! first bytes (with a deadline) → TLS → who is the peer → HTTP/1.1 or HTTP/2. Per request: Host and Origin →
//! dialect (gRPC, gRPC-Web, other HTTP) → panic guard, span and metrics → authentication → load shedding →
//! deadline → routes.
//!
//! Invariants: nothing that a peer does or omits outlives a deadline; a drain ends in time with an open watch, a
//! silent socket, a stuck handler or an open question; bodies, tokens and query strings are never logged.
//! This crate knows the contract's descriptor set but no service and no dialect of REST.

mod body;
mod connection;
mod edge;
mod error;
mod front;
mod grpc;
mod identity;
mod listener;
mod methods;
mod metrics;
mod origin;
mod procfs;
mod server;
mod sniff;
mod status;
mod tls;

#[cfg(test)]
mod tests;

pub use error::ListenError;
pub use front::{App, Front, HttpAuth, HttpRoutes, Identify, Limits, LocalService, Options};
pub use identity::{CallerCheck, PeerIdentity, PeerKind};
pub use listener::{BoundAddress, Listener};
pub use server::{DrainReport, Server};
pub use tls::TlsOptions;
