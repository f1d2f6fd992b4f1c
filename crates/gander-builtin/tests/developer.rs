//! The `developer` extension by its behaviour. Every test runs over both links: typed messages and JSON lines.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "suite/files.rs"]
mod files;
#[path = "suite/link.rs"]
mod link;
#[path = "suite/server.rs"]
mod server;
#[path = "suite/shell.rs"]
mod shell;
