//! The MCP host: one actor per server of a session, one wire wrapper for every transport.
//!
//! * [`McpHost`] holds what all sessions share (options, an HTTP client); [`SessionExtensions`] owns the servers of
//!   one session. Nothing is pooled across sessions.
//! * Each server has an actor that connects it within a deadline, watches the child and the connection, starts it
//!   again with backoff after a crash, and reports every change of state with its cause.
//! * The wire wrapper sits below the protocol library: it keeps notifications in order, routes them to the call that
//!   they belong to, limits messages, and turns what the library would wait for in vain into typed failures.
//!
//! Invariants: every request has a deadline; everything that a server reported about a call is delivered before the
//! call's result; a call never sees another call's reports; a child process sees the environment it was given and
//! nothing else, and its whole tree goes with its server; no type of the protocol library leaves this crate except
//! in [`BuiltinConnection`].
//!
//! This crate must not decide about permissions, write events to a log, or read the process environment.
#![warn(missing_docs)]

mod actor;
mod arguments;
mod asks;
mod calls;
mod catalog;
mod client;
mod config;
mod connect;
mod connection;
mod content;
mod door;
mod events;
mod explain;
mod features;
mod host;
mod http;
mod launch;
mod lists;
mod oauth;
mod pins;
mod rounds;
mod sandbox;
mod server;
mod session;
mod stderr;
mod upkeep;
mod wire;

pub use calls::{CallProgress, CallRequest, ITEM_META_KEY};
pub use client::{
    AuthorizeAnswer, AuthorizeRequest, ElicitAnswer, ElicitKind, ElicitRequest, HostCommand, KnownExtension,
    NoClient, Root, SampleMessage, SampleRequest, SampleResult, SessionClient,
};
pub use config::{config_hash, substitute};
pub use door::{Door, DoorKeeper};
pub use events::HostEvent;
pub use features::{CompletionResult, CompletionTarget};
pub use host::{
    BuiltinConnection, BuiltinFactory, BuiltinInfo, HostOptions, McpHost, SessionContext, TraceContext,
};
pub use launch::Container;
pub use lists::{
    PromptArgument, PromptInfo, PromptMessage, PromptResult, ResourceInfo, ResourceTemplateInfo,
};
pub use session::SessionExtensions;
pub use stderr::LogFollow;
pub use wire::{Fault, FaultInjector, FaultPoint};
