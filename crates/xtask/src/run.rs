//! Runs external commands: each in its own process group, with its output in a log file and a deadline.
//!
//! Invariants: no command outlives its deadline, an interrupt of this program or its own end; whatever it left behind
//! in its process group goes with it. Commands never read standard input.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// How often a running command is looked at.
const POLL: Duration = Duration::from_millis(25);
/// How long a command may take to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);
/// How often a long command gets a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// What `cargo run` puts into the environment of this program. Passed on, some build scripts would see a change and
/// build again.
const SET_BY_CARGO: &[&str] = &[
    "CARGO",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "OUT_DIR",
];

/// One external command.
pub(crate) struct Job {
    title: String,
    command: Command,
    deadline: Duration,
}

impl Job {
    /// A command that runs in `folder` for at most `deadline`.
    pub(crate) fn new(
        title: impl Into<String>,
        program: impl AsRef<OsStr>,
        folder: &Path,
        deadline: Duration,
    ) -> Self {
        let mut command = Command::new(program);
        command.current_dir(folder).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if SET_BY_CARGO.contains(&text.as_ref()) || text.starts_with("CARGO_PKG_") {
                command.env_remove(&name);
            }
        }
        Self { title: title.into(), command, deadline }
    }

    /// The same with more arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    /// The same with a variable in its environment.
    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }
}

/// How a command ended.
pub(crate) struct Finished {
    /// `None` when it succeeded, otherwise why it did not: one short sentence.
    pub(crate) failure: Option<String>,
    /// Time from start to end.
    pub(crate) elapsed: Duration,
    /// All that it wrote, both streams in the order of writing. Empty when it wrote to the terminal.
    pub(crate) output: String,
    /// Where `output` is kept.
    pub(crate) log: PathBuf,
}

impl Finished {
    /// Whether it succeeded.
    pub(crate) fn succeeded(&self) -> bool {
        self.failure.is_none()
    }
}

/// Runs jobs one after the other.
pub(crate) struct Runner {
    logs: PathBuf,
    count: AtomicUsize,
    interrupted: Arc<AtomicBool>,
}

impl Runner {
    /// A runner that keeps its logs in the folder `logs`, replacing those of an earlier run, and stops its command when
    /// `interrupted` becomes true.
    pub(crate) fn new(logs: PathBuf, interrupted: Arc<AtomicBool>) -> Result<Self> {
        if logs.exists() {
            fs::remove_dir_all(&logs).with_context(|| format!("cannot empty {}", logs.display()))?;
        }
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self { logs, count: AtomicUsize::new(0), interrupted })
    }

    /// Runs a job with its output in a log file. An error means that it could not be run to any end.
    pub(crate) fn run(&self, job: Job) -> Result<Finished> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let name: String =
            job.title.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let log = self.logs.join(format!("{number:02}-{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let second = file.try_clone().context("cannot share the log file")?;
        let Job { title, mut command, deadline } = job;
        command.stdout(file).stderr(second);
        let (failure, elapsed) = self.wait(&title, &mut command, deadline, Some(&log))?;
        let bytes = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        Ok(Finished { failure, elapsed, output: String::from_utf8_lossy(&bytes).into_owned(), log })
    }

    /// Runs a job with its output on the terminal.
    pub(crate) fn run_visibly(&self, job: Job) -> Result<Finished> {
        let Job { title, mut command, deadline } = job;
        let (failure, elapsed) = self.wait(&title, &mut command, deadline, None)?;
        Ok(Finished { failure, elapsed, output: String::new(), log: PathBuf::new() })
    }

    fn wait(
        &self,
        title: &str,
        command: &mut Command,
        deadline: Duration,
        log: Option<&Path>,
    ) -> Result<(Option<String>, Duration)> {
        use std::os::unix::process::CommandExt as _;

        let start = Instant::now();
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child =
            command.process_group(0).spawn().with_context(|| format!("{title}: cannot start {program}"))?;
        let group = Pid::from_child(&child);
        let mut next_sign = HEARTBEAT;
        let mut timed_out = false;
        // The leader is not collected until its group is gone, so that the group's number stays its own.
        while !has_ended(group)? {
            let elapsed = start.elapsed();
            let interrupted = self.interrupted.load(Ordering::Relaxed);
            timed_out = elapsed > deadline;
            if interrupted || timed_out {
                stop(group)?;
                break;
            }
            if elapsed > next_sign {
                next_sign += HEARTBEAT;
                let line = log.map(last_line).unwrap_or_default();
                println!("    … {title}, {} s: {line}", elapsed.as_secs());
            }
            std::thread::sleep(POLL);
        }
        // Fails only when nothing is left to kill.
        let _ = kill_process_group(group, Signal::KILL);
        let status = child.wait().with_context(|| format!("{title}: lost {program}"))?;
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let failure = if timed_out {
            Some(format!("stopped after its deadline of {} s", deadline.as_secs()))
        } else if status.success() {
            None
        } else {
            Some(status.to_string())
        };
        Ok((failure, start.elapsed()))
    }

    /// The first line that `program` prints, or `None` if it is not there or fails: a look for a toolchain.
    pub(crate) fn probe(&self, program: &str, arguments: &[&str], folder: &Path) -> Option<String> {
        let job =
            Job::new(format!("probe {program}"), program, folder, Duration::from_secs(30)).args(arguments);
        let finished = self.run(job).ok()?;
        finished.succeeded().then(|| finished.output.lines().next().unwrap_or_default().trim().to_owned())
    }
}

fn has_ended(leader: Pid) -> Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    Ok(waitid(WaitId::Pid(leader), options).context("cannot wait for a command")?.is_some())
}

fn stop(group: Pid) -> Result<()> {
    let _ = kill_process_group(group, Signal::TERM);
    let start = Instant::now();
    while start.elapsed() < GRACE && !has_ended(group)? {
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// The last line of a file that is being written, cut to what fits on a line.
fn last_line(path: &Path) -> String {
    let mut tail = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2048)))?;
        file.read_to_end(&mut tail)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&tail);
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
        .trim()
        .chars()
        .take(80)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(folder: &Path) -> Runner {
        Runner::new(folder.join("logs"), Arc::default()).unwrap()
    }

    fn shell(folder: &Path, script: &str, deadline: Duration) -> Job {
        Job::new("script", "/bin/sh", folder, deadline).args(["-c", script])
    }

    #[test]
    fn output_of_both_streams_and_the_failure_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo out; echo err >&2; exit 3";
        let finished =
            runner(folder.path()).run(shell(folder.path(), script, Duration::from_secs(20))).unwrap();
        assert_eq!(finished.output, "out\nerr\n");
        assert!(finished.failure.unwrap().contains('3'));
    }

    #[test]
    fn a_deadline_ends_a_command_and_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let script = "sleep 300 & echo $!; wait";
        let finished =
            runner(folder.path()).run(shell(folder.path(), script, Duration::from_secs(2))).unwrap();
        assert!(finished.failure.unwrap().contains("deadline"));
        let pid: i32 = finished.output.trim().parse().unwrap();
        assert!(gone(pid), "the grandchild lives on");
    }

    #[test]
    fn a_command_that_ends_takes_its_background_children_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let script = "sleep 300 & echo $!";
        let finished =
            runner(folder.path()).run(shell(folder.path(), script, Duration::from_secs(20))).unwrap();
        assert!(finished.succeeded());
        assert!(gone(finished.output.trim().parse().unwrap()), "the background child lives on");
    }

    #[test]
    fn a_missing_program_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(runner(folder.path()).probe("no-such-program-here", &[], folder.path()), None);
    }

    /// Whether a process is gone, or dead and only not collected yet, within some seconds.
    fn gone(pid: i32) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            let state = state_of(pid);
            if state.is_empty() || state.starts_with(b"Z") {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    /// The state letters of a process, empty when there is none.
    fn state_of(pid: i32) -> Vec<u8> {
        if Path::new("/proc/self/stat").exists() {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            return stat.rsplit(") ").next().unwrap_or_default().as_bytes().to_vec();
        }
        Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap().stdout
    }
}
