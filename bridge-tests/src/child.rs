//! A daemon as a process of its own, which can be killed.

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use gander_client::{Client, Endpoint};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{connect, daemon, gander_binary, pb, soon, within};

/// A child process `gander serve`.
pub struct ChildDaemon {
    child: Child,
    pid: u32,
    root: PathBuf,
    socket: PathBuf,
    tcp: String,
}

/// What a command of `gander` gave.
#[derive(Debug)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// A command `gander …` below `root`, with nothing of this process's environment, in a group of its own.
#[must_use]
pub fn gander(root: &Path, arguments: &[&str]) -> Command {
    gander_through(&[], root, arguments)
}

/// The same behind other words, for example a program that changes the namespace.
#[must_use]
pub fn gander_through(before: &[OsString], root: &Path, arguments: &[&str]) -> Command {
    let binary = gander_binary().into_os_string();
    let mut words = before.iter().cloned().chain([binary, "--root".into(), root.into()]);
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).args(arguments).env_clear();
    for (name, value) in daemon::environment(root).iter() {
        command.env(name, value);
    }
    command
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Runs `gander …` to its end.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub async fn run(root: &Path, arguments: &[&str]) -> Output {
    finished(&mut gander(root, arguments)).await
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub async fn finished(command: &mut Command) -> Output {
    let what = format!("{command:?} to end");
    let output = soon(&what, command.output()).await.expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl ChildDaemon {
    /// Starts `gander serve` on a free port below `root` and waits until it says that it is ready.
    pub async fn start(root: &Path) -> Self {
        Self::start_through(&[], root).await
    }

    /// The same behind other words.
    ///
    /// # Panics
    /// When it does not become ready; its stderr is shown.
    pub async fn start_through(before: &[OsString], root: &Path) -> Self {
        let log = root.join("serve.log");
        let mut command = gander_through(before, root, &["serve", "--listen", "127.0.0.1:0"]);
        command.stderr(File::options().create(true).append(true).open(&log).expect("a log file"));
        let mut child = command.spawn().expect("gander starts");
        let pid = child.id().expect("a process id");
        let lines = BufReader::new(child.stdout.take().expect("its stdout")).lines();
        let tcp = soon("the ready line", ready_line(lines)).await;
        let Some(tcp) = tcp else {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("gander serve ended without a ready line: {:?}\n{said}", child.wait().await);
        };
        let socket = root.join("data/gander.sock");
        Self { child, pid, root: root.to_owned(), socket, tcp }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its unix socket; the same after a restart in the same root.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `HOST:PORT` of its TCP port.
    #[must_use]
    pub fn tcp(&self) -> &str {
        &self.tcp
    }

    /// A file of the daemon, seen through its own mounts.
    #[must_use]
    pub fn through_proc(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap_or(path);
        Path::new("/proc").join(self.pid.to_string()).join("root").join(inside)
    }

    /// A client over the unix socket.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn unix(&self) -> Client {
        let socket = self.through_proc(&self.socket);
        // The plain path stays valid after a restart; the other one is for a root that only the daemon sees.
        let socket = if self.socket.exists() { self.socket.clone() } else { socket };
        soon("a unix connection", connect(Endpoint::unix(socket), None)).await.expect("unix client")
    }

    /// SIGKILL to the daemon alone: what it started must end by itself.
    ///
    /// # Panics
    /// When it does not die.
    pub async fn kill(mut self) {
        kill_process(self.id(), Signal::KILL).expect("the daemon is alive");
        let status = within(Duration::from_secs(10), "the killed daemon", self.child.wait()).await;
        assert_eq!(status.expect("its status").code(), None, "killed by a signal");
    }

    /// SIGTERM, and its exit status.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    pub async fn terminate(mut self, limit: Duration) -> ExitStatus {
        kill_process(self.id(), Signal::TERM).expect("the daemon is alive");
        within(limit, "the daemon to stop", self.child.wait()).await.expect("its status")
    }

    /// Its exit status, once it ends by itself.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    pub async fn ended(mut self, limit: Duration) -> ExitStatus {
        within(limit, "the daemon to end", self.child.wait()).await.expect("its status")
    }

    /// Checks every log and stops the daemon.
    ///
    /// # Panics
    /// When the store is not in order or the daemon fails.
    pub async fn finish(mut self) {
        let client = self.unix().await;
        crate::events::check_store(&client).await;
        let grace_period = Some(crate::events::duration(Duration::ZERO));
        let request = pb::ShutdownRequest { grace_period, ..Default::default() };
        client.system().shutdown(request).await.expect("Shutdown is accepted");
        let status = within(Duration::from_secs(15), "the daemon to stop", self.child.wait()).await;
        let log = std::fs::read_to_string(self.root.join("serve.log")).unwrap_or_default();
        assert!(status.as_ref().is_ok_and(ExitStatus::success), "{status:?}\n{log}");
    }

    fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid).expect("a process id")).expect("a process id")
    }
}

impl Drop for ChildDaemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Fails only if it has just ended.
            let _ = kill_process_group(self.id(), Signal::KILL);
        }
    }
}

/// The TCP address in the ready line; `None` when the output ends before it. Reading goes on in the background, so that
/// the daemon never blocks on a full pipe.
async fn ready_line(mut lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) -> Option<String> {
    let mut found = None;
    while found.is_none() {
        let line = lines.next_line().await.ok()??;
        found = address_in(&line);
    }
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    found
}

/// The first `127.0.0.1:PORT` of a line.
fn address_in(line: &str) -> Option<String> {
    let at = line.find("127.0.0.1:")?;
    let rest = &line[at..];
    let host = "127.0.0.1:".len();
    let digits = rest[host..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - host);
    (digits > 0).then(|| rest[..host + digits].to_owned())
}
