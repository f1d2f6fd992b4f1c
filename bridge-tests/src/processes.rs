//! Which processes live, through `/proc`.

use std::time::{Duration, Instant};

/// Living processes whose command line contains `mark`, without this one. The dead that nobody has collected yet do not
/// count.
#[must_use]
pub fn with_mark(mark: &str) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() && is_alive(*pid))
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(mark)
        })
        .collect()
}

/// Whether a process lives (a zombie does not).
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

/// Waits until at least `count` processes with `mark` live.
///
/// # Panics
/// When they do not come.
pub async fn appear(mark: &str, count: usize) -> Vec<u32> {
    crate::eventually(Duration::from_secs(20), &format!("{count} processes with {mark}"), || async {
        let found = with_mark(mark);
        (found.len() >= count).then_some(found)
    })
    .await
}

/// Waits until no process with `mark` lives; gives the time it took since `start`.
///
/// # Panics
/// When one lives longer than `limit` after `start`.
pub async fn are_gone(mark: &str, start: Instant, limit: Duration) -> Duration {
    loop {
        let left = with_mark(mark);
        if left.is_empty() {
            return start.elapsed();
        }
        assert!(start.elapsed() < limit, "processes {left:?} with {mark} live {limit:?} later");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Resident memory of a process in bytes.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process's status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1024
}
