//! The other processes: the provider, which is this program again, and the daemon under test. Each has an owner that
//! ends it, and the kernel's figures about it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use gander_client::{Client, ClientOptions, Endpoint};
use gander_config::{Environment, Paths};
use gander_model::testing::FakeOpenAi;
use gander_proto::v1::GetServerInfoRequest;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    time::{sleep, timeout},
};

/// For a process to start or to stop.
const PROCESS_DEADLINE: Duration = Duration::from_secs(20);
/// Between two tries whether the daemon listens; the precision of the start time.
const POLL: Duration = Duration::from_millis(1);
/// Open files that this program and the provider need for a thousand streams.
const OPEN_FILES: u64 = 8192;

/// The provider as a process of its own.
pub(crate) struct Provider {
    child: Child,
    url: String,
}

impl Provider {
    pub(crate) async fn start() -> Result<Self> {
        let mut child = Command::new(own_executable()?)
            .arg("provider")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the provider")?;
        let stdout = child.stdout.take().context("the provider has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let url = timeout(PROCESS_DEADLINE, lines.next_line())
            .await
            .context("the provider did not start in time")??
            .context("the provider ended at once")?;
        Ok(Self { child, url })
    }

    /// `http://127.0.0.1:<port>`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        timeout(PROCESS_DEADLINE, self.child.wait()).await.context("the provider did not stop in time")??;
        Ok(())
    }
}

/// The provider's main program: serves until its input ends, so that it never outlives the benchmark.
pub(crate) async fn provider_main(announce: impl FnOnce(&str)) -> Result<()> {
    raise_open_files()?;
    let server = FakeOpenAi::start().await?;
    announce(&server.url());
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    Ok(())
}

/// This program's path, to start it in another role.
pub(crate) fn own_executable() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own path")
}

/// Raises this process's limit of open files; gives the limit before.
pub(crate) fn raise_open_files() -> Result<Rlimit> {
    let before = getrlimit(Resource::Nofile);
    if before.current.is_some_and(|current| current < OPEN_FILES) {
        let wanted = before.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: before.maximum })
            .context("cannot raise the limit of open files")?;
    }
    Ok(before)
}

/// A root directory with the configuration of a daemon that uses the provider.
pub(crate) struct Root {
    dir: TempDir,
    program: PathBuf,
    /// The limit of open files that a user's daemon would start with.
    open_files: Rlimit,
}

impl Root {
    pub(crate) fn new(program: &Path, provider: &str, open_files: Rlimit) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("gander-bench-").tempdir()?;
        let root = Self { dir, program: program.to_owned(), open_files };
        root.paths()?.create_dirs()?;
        fs::create_dir(root.working_directory())?;
        let config = format!(
            "GOOSE_PROVIDER: openai\nGOOSE_MODEL: bench-1-0us\nOPENAI_HOST: {provider}\nextensions: {{}}\n"
        );
        fs::write(root.paths()?.config_file(), config)?;
        Ok(root)
    }

    /// Sets the configured extensions; a running daemon sees them at once.
    pub(crate) fn set_extensions(&self, extensions: &serde_json::Value) -> Result<()> {
        let path = self.paths()?.config_file();
        let text = fs::read_to_string(&path)?;
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("extensions:")).collect();
        // JSON is YAML.
        fs::write(path, format!("{}\nextensions: {extensions}\n", kept.join("\n")))?;
        Ok(())
    }

    fn paths(&self) -> Result<Paths> {
        Ok(Paths::resolve(Some(self.dir.path()), &Environment::default())?)
    }

    /// An empty directory for sessions.
    pub(crate) fn working_directory(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// `gander ARGUMENTS` for this root, in a fixed environment.
    pub(crate) fn gander(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .arg("--root")
            .arg(self.dir.path())
            .current_dir(self.dir.path())
            .env_clear()
            .envs([("PATH", "/usr/local/bin:/usr/bin:/bin"), ("OPENAI_API_KEY", "sk-bench")])
            .env("HOME", self.dir.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts the daemon; returns when it has answered a call.
    pub(crate) async fn serve(&self) -> Result<Daemon> {
        let log = self.dir.path().join("daemon.log");
        let output = File::create(&log)?;
        let mut command = self.gander(&["serve", "--listen", "127.0.0.1:0"]);
        command.stdout(output.try_clone()?).stderr(output);
        let own = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, self.open_files)?;
        let started = Instant::now();
        let child = command.spawn();
        setrlimit(Resource::Nofile, own)?;
        let child = child.with_context(|| format!("cannot start {}", self.program.display()))?;
        let mut daemon = Daemon {
            child,
            log,
            socket: self.paths()?.socket_path(),
            tcp: String::new(),
            token_file: self.paths()?.token_file(),
            ready_after: Duration::ZERO,
        };
        timeout(PROCESS_DEADLINE, daemon.wait_until_ready(started))
            .await
            .unwrap_or_else(|_| bail!("it did not answer in time"))
            .map_err(|error| {
                anyhow!("the daemon did not start: {error:#}\nits output:\n{}", daemon.output())
            })?;
        Ok(daemon)
    }
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
    tcp: String,
    token_file: PathBuf,
    /// From exec to the first answer.
    pub(crate) ready_after: Duration,
}

impl Daemon {
    async fn wait_until_ready(&mut self, started: Instant) -> Result<()> {
        while tokio::net::UnixStream::connect(&self.socket).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            sleep(POLL).await;
        }
        let client = self.unix().await?;
        let info = client.system().get_server_info(GetServerInfoRequest {}).await?.into_inner();
        self.ready_after = started.elapsed();
        let tcp = info.server_info.as_ref().and_then(|info| {
            info.listeners
                .iter()
                .map(|listener| listener.address.trim_start_matches("http://"))
                .find(|address| address.starts_with("127.0.0.1:"))
        });
        self.tcp = format!("http://{}", tcp.context("it names no TCP listener")?);
        Ok(())
    }

    /// Where its TCP port is.
    pub(crate) fn base(&self) -> &str {
        &self.tcp
    }

    pub(crate) fn token(&self) -> Result<String> {
        let token = fs::read_to_string(&self.token_file).context("cannot read the daemon's token")?;
        Ok(token.trim().to_owned())
    }

    /// A client over TCP, with the token.
    pub(crate) async fn tcp(&self) -> Result<Client> {
        let mut options = ClientOptions::new("gander-bench");
        options.token = Some(SecretString::from(self.token()?));
        Ok(Client::connect(Endpoint::tcp(&self.tcp), options).await?)
    }

    /// A client over the unix socket.
    pub(crate) async fn unix(&self) -> Result<Client> {
        Ok(Client::connect(Endpoint::unix(&self.socket), ClientOptions::new("gander-bench")).await?)
    }

    fn pid(&self) -> Result<u32> {
        self.child.id().context("the daemon has ended")
    }

    /// Processor time of all threads so far. The kernel tells it in ticks of 10 ms: measure long stretches.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid()?);
        cpu_of(&fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?)
    }

    /// Resident memory now, in bytes.
    pub(crate) fn memory(&self) -> Result<f64> {
        self.status_bytes("VmRSS:")
    }

    /// The greatest resident memory so far, in bytes.
    pub(crate) fn memory_peak(&self) -> Result<f64> {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, field: &str) -> Result<f64> {
        let path = format!("/proc/{}/status", self.pid()?);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes: f64 = kilobytes.with_context(|| format!("{path} has no {field}"))?.trim().parse()?;
        Ok(kilobytes * 1024.0)
    }

    /// The last lines that it wrote.
    pub(crate) fn output(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Ends it with SIGTERM.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()?).ok().and_then(Pid::from_raw).context("no such process id")?;
        kill_process(pid, Signal::TERM)?;
        let status = timeout(PROCESS_DEADLINE, self.child.wait())
            .await
            .context("the daemon did not stop in time")??;
        ensure!(status.success(), "the daemon ended with {status}\nits output:\n{}", self.output());
        Ok(())
    }
}

/// User and system time in a line of `/proc/PID/stat`.
fn cpu_of(stat: &str) -> Result<Duration> {
    // The program's name, in parentheses, may hold blanks.
    let (_, after_name) = stat.rsplit_once(')').context("/proc/PID/stat was not understood")?;
    let ticks = |position: usize| -> Result<u64> {
        let field = after_name.split_whitespace().nth(position).context("/proc/PID/stat is short")?;
        Ok(field.parse()?)
    };
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64((ticks(11)? + ticks(12)?) as f64 / per_second as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_odd_names() {
        let ticks = rustix::param::clock_ticks_per_second();
        let stat = format!("12 (a) b c) S 1 2 3 4 5 6 7 8 9 10 {} {} 0 0", 2 * ticks, ticks);
        assert_eq!(cpu_of(&stat).unwrap(), Duration::from_secs(3));
        assert!(cpu_of("12 (x) S 1").is_err());
        assert!(cpu_of("").is_err());
    }
}
