//! The builtin extensions by their behaviour. Every test runs over both links: typed messages and JSON lines.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "suite/extensionmanager.rs"]
mod extensionmanager;
#[path = "suite/files.rs"]
mod files;
#[path = "suite/host_files.rs"]
mod host_files;
#[path = "suite/host_terminals.rs"]
mod host_terminals;
#[path = "suite/link.rs"]
mod link;
#[path = "suite/memory.rs"]
mod memory;
#[path = "suite/server.rs"]
mod server;
#[path = "suite/shell.rs"]
mod shell;
#[path = "suite/todo.rs"]
mod todo;
