//! Starting a command and owning it.
//!
//! With a supervisor (the daemon's own program under its hidden subcommand) the whole tree is bound to the owner,
//! whatever the tree does and however the daemon ends. Without one (library use, tests) the command gets a process
//! group of its own; a process that leaves the group and outlives its parent escapes then, and `kill -9` of the
//! daemon leaves everything running.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt, io,
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::{io::FdFlags, process::Signal};
use tokio::{
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    GRACE,
    exit::Exit,
    registry::{ToolGuard, ToolProcesses},
    sandbox::{Plan, SandboxSpec, sandbox_support},
    supervise::{CONTROL_OPTION, SANDBOX_OPTION},
    tree::{self, ProcessId},
};

/// What the supervisor gets beyond its own [`GRACE`] before its tree is killed over its head.
const SUPERVISOR_SLACK: Duration = Duration::from_millis(700);
/// How long to wait for a process after SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// How often the fallback looks whether its group is gone.
const POLL: Duration = Duration::from_millis(5);

/// Held while a pipe end of ours can be inherited, so that no other command of ours gets a copy. It guards no data:
/// descriptors are shared by the whole process, however many daemons live in it.
static SPAWNING: Mutex<()> = Mutex::new(());

/// Waits until every command that is being started right now is in its table: on a busy machine a child may run before
/// its parent goes on.
pub(crate) fn await_spawning() {
    drop(SPAWNING.lock().unwrap_or_else(PoisonError::into_inner));
}

/// What the command reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdinMode {
    /// Nothing: end of file at once.
    Null,
    /// A pipe, see [`SupervisedChild::take_stdin`].
    Piped,
}

/// What to start. Stdout and stderr are always pipes.
#[derive(Clone)]
pub struct SpawnSpec {
    /// The program and its arguments; never given to a shell. A program without `/` is searched in the `PATH` of
    /// `environment`.
    pub argv: Vec<OsString>,
    /// An existing directory.
    pub working_directory: PathBuf,
    /// The complete environment; nothing is inherited.
    pub environment: BTreeMap<String, String>,
    /// What the command reads from.
    pub stdin: StdinMode,
}

impl fmt::Debug for SpawnSpec {
    /// Names variables without their values, which may be secrets, and no arguments for the same reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpawnSpec")
            .field("program", &self.argv.first())
            .field("working_directory", &self.working_directory)
            .field("environment", &self.environment.keys().collect::<Vec<_>>())
            .field("stdin", &self.stdin)
            .finish_non_exhaustive()
    }
}

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// `argv` is empty or its program is.
    #[error("no command was given")]
    EmptyCommand,
    /// An argument or variable holds a NUL byte, which no process can be given.
    #[error("{0} contains a NUL byte, which cannot be passed to a process")]
    NulByte(String),
    /// The working directory is missing or is no directory.
    #[error("the working directory {0} does not exist or is not a directory")]
    WorkingDirectory(PathBuf),
    /// No such program.
    #[error("the program {program:?} was not found{}", if *.searched_path { " in PATH" } else { "" })]
    NotFound {
        /// What was asked for.
        program: String,
        /// Whether `PATH` was searched.
        searched_path: bool,
    },
    /// The kernel refused.
    #[error("cannot start {program:?}: {source}")]
    Start {
        /// What was asked for.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A sandbox was asked for and this system has none, or not a whole one.
    #[error("the sandbox is not available (Landlock ABI {}): {remedy}",
        landlock_abi.map_or_else(|| "none".to_owned(), |abi| abi.to_string()))]
    SandboxUnavailable {
        /// What the kernel has.
        landlock_abi: Option<u32>,
        /// What is missing and what to do.
        remedy: &'static str,
    },
    /// A sandbox was asked for and there is no supervisor that could set it up.
    #[error(
        "a sandbox needs the supervisor, and this program starts commands without one; turn the sandbox off"
    )]
    SandboxNeedsSupervisor,
    /// A path of the sandbox makes no sense.
    #[error("the sandbox's {field} path {}: {problem}", path.display())]
    SandboxPath {
        /// Which field of [`SandboxSpec`].
        field: &'static str,
        /// The path as given.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Finds `program` as the shell would: as a path (relative to `directory`) if it contains `/`, else in the `PATH` of
/// `environment`.
#[must_use]
pub fn find_program(
    program: &OsStr,
    directory: &Path,
    environment: &BTreeMap<String, String>,
) -> Option<PathBuf> {
    let runnable = |path: &Path| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(directory.join(program)).filter(|path| runnable(path));
    }
    let path = environment.get("PATH").map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
    path.split(':').map(|entry| directory.join(entry).join(program)).find(|candidate| runnable(candidate))
}

/// Starts commands for one daemon. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Spawner {
    supervisor: Option<Arc<[OsString]>>,
    processes: ToolProcesses,
}

impl Spawner {
    /// `supervisor` is the command line in front of the supervisor's own arguments, e.g. the absolute path of the
    /// daemon's program and its hidden subcommand; without one, or with an empty one, commands get a process group
    /// and nothing more. Everything started is registered with `processes`.
    pub fn new(supervisor: Option<Vec<String>>, processes: ToolProcesses) -> Self {
        let supervisor = supervisor.filter(|argv| !argv.is_empty());
        let supervisor = supervisor.map(|argv| argv.into_iter().map(OsString::from).collect());
        Self { supervisor, processes }
    }

    /// The table that knows what this spawner started.
    #[must_use]
    pub fn processes(&self) -> &ToolProcesses {
        &self.processes
    }

    /// Whether commands run under a supervisor.
    #[must_use]
    pub fn is_supervised(&self) -> bool {
        self.supervisor.is_some()
    }

    /// Starts a command. Must be called within a tokio runtime with IO and time enabled.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing runs then. Under a supervisor a program that exists but cannot be executed shows as
    /// exit code 126 instead, with the reason on stderr.
    pub fn spawn(&self, spec: &SpawnSpec) -> Result<SupervisedChild, SpawnError> {
        self.spawn_sandboxed(spec, None)
    }

    /// Like [`Self::spawn`], in a sandbox. `None` is no sandbox.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing runs then. What only shows when the supervisor sets the sandbox up (a path that has
    /// vanished since) ends it with exit code 125 and the reason on stderr, before the command starts.
    pub fn spawn_sandboxed(
        &self,
        spec: &SpawnSpec,
        sandbox: Option<&SandboxSpec>,
    ) -> Result<SupervisedChild, SpawnError> {
        let program = check(spec)?;
        let plan = sandbox.map(|sandbox| self.plan(sandbox)).transpose()?;
        let lock = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
        let start = |source| SpawnError::Start { program: lossy(&spec.argv), source };
        let (mut command, control) = match &self.supervisor {
            Some(prefix) => {
                let (command, control) =
                    supervised_command(prefix, &program, spec, plan.as_ref()).map_err(start)?;
                (command, Some(control))
            }
            None => (grouped_command(&program, spec), None),
        };
        command
            .current_dir(&spec.working_directory)
            .env_clear()
            .envs(&spec.environment)
            .envs(temporary(sandbox))
            .stdin(if spec.stdin == StdinMode::Piped { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().map_err(start)?;
        let pid = child.id().unwrap_or_default();
        // The read end may go only now: the child has its copy.
        let control = control.map(|(writer, _reader)| writer);
        // Before the lock goes: whoever asks about a process waits for it, so that no child is faster than its entry.
        let guard = self.processes.register(pid);
        drop(lock);
        let supervised = control.is_some();
        tracing::debug!(pid, supervised, "process started");
        Ok(SupervisedChild { child, pid, control, supervised, exit: None, clean: false, _guard: guard })
    }

    /// Finds out whether there can be a sandbox, and checks it.
    fn plan(&self, sandbox: &SandboxSpec) -> Result<Plan, SpawnError> {
        if !self.is_supervised() {
            return Err(SpawnError::SandboxNeedsSupervisor);
        }
        let support = sandbox_support();
        support.check(sandbox.require)?;
        for gap in support.gaps(sandbox.network) {
            tracing::debug!(%gap, "the sandbox has a gap on this kernel");
        }
        Plan::new(sandbox)
    }
}

/// The variables that lead a command to its private directory.
fn temporary(sandbox: Option<&SandboxSpec>) -> impl Iterator<Item = (&'static str, &Path)> {
    let directory = sandbox.and_then(|sandbox| sandbox.private_tmp.as_deref());
    directory.into_iter().flat_map(|directory| ["TMPDIR", "TMP", "TEMP"].map(|name| (name, directory)))
}

type ControlPipe = (io::PipeWriter, io::PipeReader);

/// The supervisor's command line. The write end of the control pipe stays close-on-exec, so that only the daemon
/// holds it. The read end must be inheritable; should foreign code start a process right now, that process gets a
/// useless copy of a pipe into which nothing is ever written.
fn supervised_command(
    prefix: &[OsString],
    program: &Path,
    spec: &SpawnSpec,
    sandbox: Option<&Plan>,
) -> io::Result<(Command, ControlPipe)> {
    let (reader, writer) = io::pipe()?;
    rustix::io::fcntl_setfd(&reader, FdFlags::empty())?;
    let mut parts = prefix.iter();
    let mut command = Command::new(parts.next().map_or(OsStr::new(""), OsString::as_os_str));
    command.args(parts).arg(CONTROL_OPTION).arg(reader.as_raw_fd().to_string());
    if let Some(plan) = sandbox {
        command.arg(SANDBOX_OPTION).arg(serde_json::to_string(plan)?);
    }
    command.arg("--");
    command.arg(program).args(spec.argv.iter().skip(1));
    Ok((command, (writer, reader)))
}

/// The command itself, in a process group of its own.
fn grouped_command(program: &Path, spec: &SpawnSpec) -> Command {
    let mut command = Command::new(program);
    command.args(spec.argv.iter().skip(1)).process_group(0);
    if let Some(name) = spec.argv.first() {
        command.arg0(name);
    }
    command
}

fn lossy(argv: &[OsString]) -> String {
    argv.first().map_or_else(String::new, |program| program.to_string_lossy().into_owned())
}

/// Finds what the kernel would only refuse with a vague error; returns the program's path.
fn check(spec: &SpawnSpec) -> Result<PathBuf, SpawnError> {
    let program = spec.argv.first().filter(|program| !program.is_empty()).ok_or(SpawnError::EmptyCommand)?;
    if let Some(index) = spec.argv.iter().position(|arg| arg.as_encoded_bytes().contains(&0)) {
        return Err(SpawnError::NulByte(format!("argument {index}")));
    }
    if let Some((name, _)) =
        spec.environment.iter().find(|(name, value)| name.contains('\0') || value.contains('\0'))
    {
        return Err(SpawnError::NulByte(format!("the variable {:?}", name.replace('\0', "\\0"))));
    }
    if !spec.working_directory.is_dir() {
        return Err(SpawnError::WorkingDirectory(spec.working_directory.clone()));
    }
    find_program(program, &spec.working_directory, &spec.environment).ok_or_else(|| SpawnError::NotFound {
        program: lossy(&spec.argv),
        searched_path: !program.as_encoded_bytes().contains(&b'/'),
    })
}

/// A running command and everything it starts. Dropping it kills the tree: through the supervisor within [`GRACE`]
/// and a bit, without one at once by SIGKILL.
#[derive(Debug)]
pub struct SupervisedChild {
    child: Child,
    pid: u32,
    /// Closing it tells the supervisor to end.
    control: Option<io::PipeWriter>,
    supervised: bool,
    exit: Option<Exit>,
    /// What the command left in its group has been dealt with.
    clean: bool,
    _guard: ToolGuard,
}

impl SupervisedChild {
    /// The process number of the supervisor, or of the command where there is none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The pipe to the command's stdin; `None` if taken before or not piped.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The pipe from the command's stdout; `None` if taken before.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// The pipe from the command's stderr; `None` if taken before. It must be read, or the command blocks once the
    /// pipe is full.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Waits until the command has exited and what it left behind has been killed. May be called again, and may be
    /// dropped while it waits.
    ///
    /// # Errors
    /// Only if the process was collected by someone else.
    pub async fn wait(&mut self) -> io::Result<Exit> {
        let exit = match self.exit {
            Some(exit) => exit,
            None => self.wait_main().await?,
        };
        if !self.clean && !self.supervised {
            self.clear_group().await;
        }
        self.clean = true;
        Ok(exit)
    }

    async fn wait_main(&mut self) -> io::Result<Exit> {
        let exit = Exit::from(self.child.wait().await?);
        self.exit = Some(exit);
        Ok(exit)
    }

    /// Ends the command and everything it started: SIGTERM at once, SIGKILL after [`GRACE`]. Returns when all of it
    /// is gone, which takes less than 2 s unless the kernel itself holds a process.
    ///
    /// # Errors
    /// If the process cannot be collected, [`io::ErrorKind::TimedOut`] if it survived SIGKILL for 5 s.
    pub async fn kill(&mut self) -> io::Result<Exit> {
        if self.exit.is_some() {
            return self.wait().await;
        }
        let mut victims = tree::descendants(self.pid);
        self.ask_to_end(&victims);
        let patience = if self.supervised { GRACE + SUPERVISOR_SLACK } else { GRACE };
        let deadline = Instant::now() + patience;
        let ended = timeout_at(deadline, self.wait_main()).await;
        if self.supervised && ended.is_ok() {
            // It exits only after everything below it is gone.
            return self.wait().await;
        }
        while Instant::now() < deadline && victims.iter().any(|victim| tree::is_alive(*victim)) {
            sleep(POLL).await;
        }
        if self.exit.is_none() {
            victims.extend(tree::descendants(self.pid));
        }
        self.force(&victims);
        match timeout(KILL_DEADLINE, self.wait()).await {
            Ok(exit) => exit,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "a process survived SIGKILL for 5 s")),
        }
    }

    /// SIGTERM, to the supervisor or to the tree.
    fn ask_to_end(&mut self, victims: &[ProcessId]) {
        if self.supervised {
            drop(self.control.take());
            self.signal_own(Signal::TERM);
        } else {
            tree::signal_group(self.pid, Signal::TERM);
            tree::signal_each(victims, Signal::TERM);
        }
    }

    /// SIGKILL to everything known.
    fn force(&self, victims: &[ProcessId]) {
        tree::signal_each(victims, Signal::KILL);
        if self.exit.is_none() {
            if !self.supervised {
                tree::signal_group(self.pid, Signal::KILL);
            }
            self.signal_own(Signal::KILL);
        }
    }

    /// The number is ours as long as the process has not been collected.
    fn signal_own(&self, signal: Signal) {
        if self.exit.is_none()
            && self.child.id() == Some(self.pid)
            && let Some(pid) = tree::to_pid(self.pid)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Ends what an exited command left in its group. A group lives on under its number as long as it has members,
    /// so the number is not reused while there is anything to signal.
    async fn clear_group(&self) {
        let exists = || tree::group_lives(self.pid);
        if !exists() {
            return;
        }
        tree::signal_group(self.pid, Signal::TERM);
        let started = Instant::now();
        while exists() && started.elapsed() < GRACE {
            sleep(POLL).await;
        }
        while exists() && started.elapsed() < GRACE + KILL_DEADLINE {
            tree::signal_group(self.pid, Signal::KILL);
            sleep(POLL).await;
        }
    }
}

impl Drop for SupervisedChild {
    fn drop(&mut self) {
        if self.clean || (self.supervised && self.exit.is_some()) {
            return;
        }
        if self.supervised {
            self.ask_to_end(&[]);
        } else {
            let victims = if self.exit.is_none() { tree::descendants(self.pid) } else { Vec::new() };
            tree::signal_group(self.pid, Signal::KILL);
            tree::signal_each(&victims, Signal::KILL);
        }
    }
}
