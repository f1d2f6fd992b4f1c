//! Which processes were started for tools, so that a peer of the daemon can be recognised as one of theirs.
//!
//! A number stays registered until the process itself is gone, not only until its owner let go: a tree that is just
//! being killed must not get a moment in which it may talk to the daemon as if it were a stranger.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::tree::{self, ProcessId};

#[derive(Default)]
struct Table {
    next: u64,
    /// Bounded by the number of living tool processes: released ones are dropped once they are dead.
    entries: HashMap<u64, (ProcessId, bool)>,
}

/// The tool processes of one daemon. Cheap to clone; clones share the table.
#[derive(Clone, Default)]
pub struct ToolProcesses {
    table: Arc<Mutex<Table>>,
}

impl ToolProcesses {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers the process `pid` and everything that will descend from it, until the guard is dropped and the
    /// process has ended.
    #[must_use]
    pub fn register(&self, pid: u32) -> ToolGuard {
        let id = tree::lookup(pid).map_or(ProcessId { pid, start_time: 0 }, |entry| entry.id);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.entries.retain(|_, (id, released)| !*released || tree::is_alive(*id));
        let key = table.next;
        table.next += 1;
        table.entries.insert(key, (id, false));
        ToolGuard { processes: self.clone(), key }
    }

    /// Whether `pid` is a registered process or descends from one. On platforms without a readable process table
    /// only registered processes themselves are recognised.
    #[must_use]
    pub fn is_tool_descendant(&self, pid: u32) -> bool {
        crate::child::await_spawning();
        let tools: Vec<(ProcessId, bool)> = {
            let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            table.entries.values().copied().collect()
        };
        if tools.iter().any(|(id, released)| !*released && id.pid == pid) {
            return true;
        }
        !tools.is_empty()
            && tree::walk_up(pid, |entry| {
                tools.iter().any(|(id, _)| *id == entry.id || (id.start_time == 0 && id.pid == entry.id.pid))
            })
    }

    /// How many processes are registered by a living guard.
    #[must_use]
    pub fn len(&self) -> usize {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.entries.values().filter(|(_, released)| !released).count()
    }

    /// Whether no process is registered by a living guard.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        crate::child::await_spawning();
        self.len() == 0
    }
}

impl std::fmt::Debug for ToolProcesses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ToolProcesses").field("len", &self.len()).finish()
    }
}

/// Keeps one process registered with its [`ToolProcesses`].
#[derive(Debug)]
pub struct ToolGuard {
    processes: ToolProcesses,
    key: u64,
}

impl Drop for ToolGuard {
    fn drop(&mut self) {
        let mut table = self.processes.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((id, released)) = table.entries.get_mut(&self.key) else { return };
        if id.start_time != 0 && tree::is_alive(*id) {
            *released = true;
        } else {
            table.entries.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_known_while_its_guard_lives() {
        let processes = ToolProcesses::new();
        // Larger than any number the kernel hands out.
        let guard = processes.register(999_999_999);
        assert!(processes.is_tool_descendant(999_999_999));
        assert_eq!(processes.len(), 1);
        drop(guard);
        assert!(processes.is_empty());
        assert!(!processes.is_tool_descendant(999_999_999));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_released_process_stays_known_until_it_is_dead() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("cat starts");
        let processes = ToolProcesses::new();
        drop(processes.register(child.id()));
        assert!(processes.is_tool_descendant(child.id()));
        assert!(!processes.is_tool_descendant(std::process::id()), "the daemon itself is no tool");
        drop(child.stdin.take());
        child.wait().expect("cat ends");
        assert!(!processes.is_tool_descendant(child.id()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_table_does_not_grow_with_dead_processes() {
        let processes = ToolProcesses::new();
        for _ in 0..20 {
            let mut child = std::process::Command::new("true").spawn().expect("true starts");
            let guard = processes.register(child.id());
            drop(guard);
            child.wait().expect("true ends");
        }
        let _last = processes.register(std::process::id());
        assert_eq!(processes.table.lock().expect("lock").entries.len(), 1);
    }
}
