//! Child processes with an owner: a tool or a stdio server is started as a whole tree of processes and goes as a
//! whole tree, however the owner ends.
//!
//! * [`Spawner`] starts a command; the [`SupervisedChild`] it returns is the owner. Dropping it kills the tree.
//! * [`supervise_main`] is the body of a small helper process that stands between the daemon and the command. It
//!   collects orphans (Linux: child subreaper) and holds the read end of a pipe whose write end only the daemon has;
//!   when the daemon dies, even by `kill -9`, the pipe ends and the helper takes everything below it down.
//! * [`ToolProcesses`] answers whether some process descends from a tool, so that a tool cannot use the API of the
//!   daemon that runs it.
//! * [`SandboxSpec`] bounds what a supervised command and its descendants may touch (Linux).
//!
//! Invariants: the environment of a child is exactly what the caller gave (nothing is inherited); no child outlives
//! its [`SupervisedChild`] by more than [`GRACE`] plus the time the kernel needs; a number is only signalled while
//! it provably still names the process that was started.
//!
//! This crate knows nothing of MCP, sessions or configuration, and never reads the environment.
#![warn(missing_docs)]

mod child;
mod exit;
mod registry;
mod sandbox;
mod supervise;
pub mod tree;

use std::time::Duration;

pub use child::{SpawnError, SpawnSpec, Spawner, StdinMode, SupervisedChild, find_program};
pub use exit::{Exit, signal_name};
pub use registry::{ToolGuard, ToolProcesses};
pub use sandbox::{
    REQUIRED_LANDLOCK_ABI, SandboxGap, SandboxMode, SandboxSpec, SandboxSupport, SessionPaths,
    sandbox_support,
};
pub use supervise::supervise_main;
pub use tree::descends_from;

/// How long a process may take to end by itself between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_millis(500);
