//! A sandbox for one command and everything it starts (Linux: Landlock for files, seccomp for system calls).
//!
//! The supervisor stays outside: it restricts a throw-away thread of its own and starts the command from there, so
//! the whole tree is bound while the supervisor can still signal and collect it. A sandbox that was asked for is
//! there or the command does not start.
//!
//! Covered, for the command and all its descendants, root included:
//! * Writing, creating, renaming, removing and truncating files anywhere but in the writable paths (and a few
//!   devices like `/dev/null`).
//! * Reading and executing files outside the readable paths, or inside the denied ones.
//! * Reading memory, environment and descriptors of processes outside (`ptrace`, `/proc/PID/environ`, …), and, from
//!   Landlock ABI 6 on, signalling them: neither the daemon nor the supervisor can be killed from inside.
//! * With `network: false` every socket, of whatever family, Unix ones included; only connected stream pairs
//!   (`socketpair`) are left. So no daemon, no `docker.sock`, no agent and no resolver can be reached.
//! * No new privileges (setuid programs gain nothing), no new namespaces, no mounts, no tracing, no bpf, no keyrings,
//!   no kernel modules, no `io_uring`, of root's capabilities only those for files and users, no pushing of characters into terminals; no 32-bit programs on 64-bit systems.
//!
//! Not covered:
//! * Names and metadata. Directories can be listed and files be `stat`ed even where their content is denied, and the
//!   owner of a file may change its mode, owner, times and attributes anywhere: Landlock has no such rights.
//! * With `network: true` Unix sockets at a path, before Landlock ABI 9: denying the path does not stop `connect`.
//!   The daemon refuses peers that descend from a tool; other programs that listen on such sockets do not. Abstract
//!   Unix sockets of outsiders are out of reach from ABI 6 on.
//! * A denied file that can be reached by another name: a hard link, or a second mount of its file system.
//! * What is in the pipes of the command, CPU, memory, disk space, the number of processes, and time.
//! * Files that appear beside a denied path after the command has started: they are not readable (the safe side).
//! * `/dev/shm`, `/tmp` and caches in the home directory are not writable unless named; `private_tmp` only sets
//!   `TMPDIR`, it does not replace `/tmp`.

#[cfg(target_os = "linux")]
mod capabilities;
#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "linux")]
mod grants;
#[cfg(target_os = "linux")]
mod linux;
mod plan;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf};

use crate::SpawnError;
pub(crate) use plan::Plan;

/// Without Landlock ABI 3 (Linux 6.2) files can be truncated wherever they are.
pub const REQUIRED_LANDLOCK_ABI: u32 = 3;

/// What a sandboxed command may touch. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Existing directories and files that may be read, written and executed. None of them may contain or lie in a
    /// denied path.
    pub writable: Vec<PathBuf>,
    /// What may be read and executed besides the writable paths and the system's own programs, libraries and
    /// settings (`/usr`, `/etc`, `/proc`, …); `None` for everything but the denied paths.
    pub readable: Option<Vec<PathBuf>>,
    /// What must not be read, written or executed whatever else is allowed; need not exist.
    pub denied: Vec<PathBuf>,
    /// Whether sockets may be made.
    pub network: bool,
    /// A writable directory of this command, made (mode 0700) if missing and given to it as `TMPDIR`, `TMP` and
    /// `TEMP`. It may lie in a denied path. Removing it is up to the caller.
    pub private_tmp: Option<PathBuf>,
    /// Refuse a kernel that cannot restrict every kind of writing ([`REQUIRED_LANDLOCK_ABI`]). Without it older
    /// Landlock is good enough; a kernel without Landlock or seccomp is refused in any case.
    pub require: bool,
}

impl Default for SandboxSpec {
    /// Everything readable, nothing writable, no network, nothing denied, required.
    fn default() -> Self {
        Self {
            writable: Vec::new(),
            readable: None,
            denied: Vec::new(),
            network: false,
            private_tmp: None,
            require: true,
        }
    }
}

/// What the sandbox of a session's process lets it write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxMode {
    /// No sandbox.
    Off,
    /// Nothing but the writable paths.
    ReadOnly,
    /// The session's folders, a private temporary folder, and the writable paths.
    WorkspaceWrite,
}

/// The paths that a session and its configuration name; all absolute.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionPaths<'a> {
    /// The folders of the session.
    pub workspace: &'a [PathBuf],
    /// What the configuration lets be written besides.
    pub writable: &'a [PathBuf],
    /// What the configuration lets be read besides the session's folders and the system; empty for everything.
    pub readable: &'a [PathBuf],
    /// What belongs to the daemon: its data directory, token, secrets and socket.
    pub denied: &'a [PathBuf],
    /// A directory for this process alone.
    pub private_tmp: Option<&'a PathBuf>,
}

impl SandboxSpec {
    /// The sandbox for a process of a session; `None` if there is to be none. Pure.
    #[must_use]
    pub fn for_session(mode: SandboxMode, network: bool, paths: &SessionPaths<'_>) -> Option<Self> {
        let (workspace, private_tmp) = match mode {
            SandboxMode::Off => return None,
            SandboxMode::ReadOnly => (&[][..], None),
            SandboxMode::WorkspaceWrite => (paths.workspace, paths.private_tmp.cloned()),
        };
        let mut writable: Vec<PathBuf> = Vec::new();
        for path in workspace.iter().chain(paths.writable) {
            if !writable.contains(path) {
                writable.push(path.clone());
            }
        }
        let denied = paths.denied.to_vec();
        let readable = (!paths.readable.is_empty())
            .then(|| paths.workspace.iter().chain(paths.readable).cloned().collect());
        Some(Self { writable, readable, denied, network, private_tmp, require: true })
    }
}

/// What the running kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxSupport {
    /// The version of Landlock, as far as this program knows how to use it; `None` without Landlock.
    pub landlock_abi: Option<u32>,
    /// Whether system calls can be filtered, on this kernel and on this kind of processor.
    pub seccomp: bool,
}

/// What a sandbox cannot prevent on the running kernel although it would on a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SandboxGap {
    /// Files can be truncated anywhere (ABI below 3).
    Truncate,
    /// Devices that can be opened can be controlled (below 5).
    DeviceControl,
    /// Processes outside can be signalled (below 6).
    Signals,
    /// Abstract Unix sockets of outsiders can be connected to (below 6, only with network).
    AbstractSockets,
    /// Unix sockets at denied paths can be connected to (below 9, only with network).
    PathSockets,
}

impl fmt::Display for SandboxGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncate => "files can be truncated anywhere (Linux 6.2 prevents it)",
            Self::DeviceControl => "devices that can be opened can be controlled (Linux 6.10 prevents it)",
            Self::Signals => "processes outside the sandbox can be signalled (Linux 6.12 prevents it)",
            Self::AbstractSockets => "abstract Unix sockets can be connected to (Linux 6.12 prevents it)",
            Self::PathSockets => "Unix sockets at denied paths can be connected to (Linux 7.1 prevents it)",
        })
    }
}

impl SandboxSupport {
    /// What a sandbox with or without network leaves open on this kernel; empty if there is no sandbox at all.
    #[must_use]
    pub fn gaps(self, network: bool) -> Vec<SandboxGap> {
        let Some(abi) = self.landlock_abi else { return Vec::new() };
        [
            (SandboxGap::Truncate, 3, true),
            (SandboxGap::DeviceControl, 5, true),
            (SandboxGap::Signals, 6, true),
            (SandboxGap::AbstractSockets, 6, network),
            (SandboxGap::PathSockets, 9, network),
        ]
        .into_iter()
        .filter(|(_, since, concerned)| abi < *since && *concerned)
        .map(|(gap, ..)| gap)
        .collect()
    }

    /// Whether a sandbox can be had.
    ///
    /// # Errors
    /// [`SpawnError::SandboxUnavailable`] with the remedy.
    pub fn check(self, require: bool) -> Result<(), SpawnError> {
        let remedy = if cfg!(not(target_os = "linux")) {
            "sandboxes exist only on Linux; turn the sandbox off, or use a container"
        } else if !self.seccomp {
            "seccomp filters are missing (CONFIG_SECCOMP_FILTER; x86_64, aarch64 and riscv64 only)"
        } else {
            match self.landlock_abi {
                None => {
                    "Landlock is missing: use Linux 6.2 or later with `landlock` in the boot option `lsm=`, or turn \
                     the sandbox off"
                }
                Some(abi) if require && abi < REQUIRED_LANDLOCK_ABI => {
                    "Landlock is too old: use Linux 6.2 or later, or do not require the whole sandbox"
                }
                Some(_) => return Ok(()),
            }
        };
        Err(SpawnError::SandboxUnavailable { landlock_abi: self.landlock_abi, remedy })
    }
}

/// Asks the running kernel. Cheap, changes nothing.
#[must_use]
pub fn sandbox_support() -> SandboxSupport {
    #[cfg(target_os = "linux")]
    {
        linux::support()
    }
    #[cfg(not(target_os = "linux"))]
    {
        SandboxSupport { landlock_abi: None, seccomp: false }
    }
}

/// Restricts the calling thread, and what will be started from it, for good.
///
/// # Errors
/// A sentence without the words "the sandbox"; the thread may be restricted in part then and must not start anything.
pub(crate) fn restrict_thread(plan: &Plan) -> Result<(), String> {
    sandbox_support().check(plan.require).map_err(|error| error.to_string())?;
    #[cfg(target_os = "linux")]
    {
        linux::restrict_thread(plan)
    }
    #[cfg(not(target_os = "linux"))]
    {
        Err("sandboxes exist only on Linux".to_owned())
    }
}
