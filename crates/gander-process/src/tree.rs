//! The process table: parents, descendants, and signals to all of them.
//!
//! On Linux this reads `/proc`; elsewhere there is no table that can be read without unsafe code, so descendants
//! are unknown and only process groups work. Numbers are reused by the kernel: [`ProcessId`] therefore carries the
//! start time, and nothing is signalled through it once the number names another process.

use std::collections::HashMap;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// No chain of parents is longer than this; a guard against a table that changes while it is read.
const MAX_DEPTH: usize = 4096;

/// A process number together with its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The number.
    pub pid: u32,
    /// Start time in clock ticks since boot (Linux), 0 where unknown.
    pub start_time: u64,
}

/// What one line of the process table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which process.
    pub id: ProcessId,
    /// Its parent's number.
    pub parent: u32,
    /// The number of its process group.
    pub group: u32,
    /// Dead, but not yet collected by its parent.
    pub zombie: bool,
}

/// Parses `/proc/<pid>/stat`. The command name is in parentheses and may itself contain spaces and parentheses.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn parse_stat(text: &str) -> Option<Entry> {
    let (head, tail) = text.rsplit_once(')')?;
    let pid = head.split_once('(')?.0.trim().parse().ok()?;
    let mut fields = tail.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // A kernel thread has no group; it is not ours to signal either.
    let group = fields.next()?.parse().unwrap_or(0);
    // Field 22 of proc(5); the group was field 5.
    let start_time = fields.nth(16)?.parse().ok()?;
    Some(Entry { id: ProcessId { pid, start_time }, parent, group, zombie: matches!(state, "Z" | "X") })
}

/// Looks one process up; `None` when it does not exist (or the platform has no readable table).
#[must_use]
pub fn lookup(pid: u32) -> Option<Entry> {
    #[cfg(target_os = "linux")]
    {
        parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// All processes that can be seen.
fn table() -> Vec<Entry> {
    #[cfg(target_os = "linux")]
    {
        let Ok(directory) = std::fs::read_dir("/proc") else { return Vec::new() };
        directory
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
            .filter_map(lookup)
            .collect()
    }
    #[cfg(not(target_os = "linux"))]
    {
        Vec::new()
    }
}

/// All living descendants of `root`, nearest first, without `root` itself. Zombies are left out: they are dead.
#[must_use]
pub fn descendants(root: u32) -> Vec<ProcessId> {
    let mut children: HashMap<u32, Vec<Entry>> = HashMap::new();
    for entry in table() {
        children.entry(entry.parent).or_default().push(entry);
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(parent) = next.pop() {
        for entry in children.remove(&parent).unwrap_or_default() {
            next.push(entry.id.pid);
            if !entry.zombie {
                found.push(entry.id);
            }
        }
    }
    found
}

/// Whether `id` still names a living process (zombies do not count).
#[must_use]
pub fn is_alive(id: ProcessId) -> bool {
    lookup(id.pid).is_some_and(|entry| entry.id == id && !entry.zombie)
}

/// Whether `pid` is one of `ancestors` or descends from one of them. Always `false` where the platform has no
/// readable process table.
#[must_use]
pub fn descends_from(pid: u32, ancestors: &[u32]) -> bool {
    walk_up(pid, |entry| ancestors.contains(&entry.id.pid))
}

/// Whether `wanted` holds for `pid` or any process above it.
pub(crate) fn walk_up(pid: u32, wanted: impl Fn(&Entry) -> bool) -> bool {
    let mut current = pid;
    for _ in 0..MAX_DEPTH {
        let Some(entry) = lookup(current) else { return false };
        if wanted(&entry) {
            return true;
        }
        if entry.parent == 0 || entry.parent == current {
            return false;
        }
        current = entry.parent;
    }
    false
}

/// Whether the process group `group` has a living member. Zombies do not count: whoever has to collect an orphan may
/// take seconds. Where there is no readable table the kernel is asked, which counts them.
#[must_use]
pub fn group_lives(group: u32) -> bool {
    let exists = to_pid(group).is_some_and(|pid| rustix::process::test_kill_process_group(pid).is_ok());
    exists
        && (cfg!(not(target_os = "linux"))
            || table().iter().any(|entry| entry.group == group && !entry.zombie))
}

/// Sends `signal` to each of `victims` that still is the process it was.
pub fn signal_each(victims: &[ProcessId], signal: Signal) {
    for victim in victims {
        if is_alive(*victim)
            && let Some(pid) = to_pid(victim.pid)
        {
            // It may end between the check and the signal: then there is nothing left to do.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Sends `signal` to the process group of the number `group`.
pub fn signal_group(group: u32, signal: Signal) {
    if let Some(pid) = to_pid(group) {
        let _ = kill_process_group(pid, signal);
    }
}

/// A number as the kernel interface wants it; `None` for 0 and for numbers out of range, which name no process
/// (and 0 or -1 would name a whole group or everything).
#[must_use]
pub fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_may_contain_spaces_and_parentheses() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9911 1 1";
        let entry = parse_stat(text).expect("parses");
        assert_eq!(
            entry,
            Entry { id: ProcessId { pid: 42, start_time: 9911 }, parent: 7, group: 42, zombie: false }
        );
        assert_eq!(parse_stat("42 no parentheses"), None);
        assert_eq!(parse_stat("42 (short) S 7"), None);
    }

    #[test]
    fn dangerous_numbers_name_no_process() {
        assert!(to_pid(0).is_none());
        assert!(to_pid(1).is_none());
        assert!(to_pid(u32::MAX).is_none());
        assert!(to_pid(2).is_some());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_test_descends_from_its_parent_and_not_from_itself_upside_down() {
        let own = std::process::id();
        let parent = lookup(own).expect("own entry").parent;
        assert!(descends_from(own, &[own]));
        assert!(descends_from(own, &[parent]));
        assert!(!descends_from(parent, &[own]));
        assert!(!descends_from(u32::MAX, &[own]));
    }
}
