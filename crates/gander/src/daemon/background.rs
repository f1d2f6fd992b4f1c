//! A daemon in the background: found, or started by whoever needs one, and gone by itself when nobody does.
//!
//! `gander agent` (one per window of Goose Desktop) and `gander acp` (an editor) hold adapters only. They share the daemon
//! of their root; the first one starts it. It gets a session and a log file of its own, the data directory as its working
//! directory and none of the starter's pipes, since programs that start gander wait for those to close. It listens on its
//! unix socket only.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use gander_client::{Client, ClientOptions, Endpoint};
use gander_config::{Environment, Paths};
use gander_proto::v1::{DrainState, ErrorReason, GetServerInfoRequest};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// From the start of the process to its ready line: recovery of a large database included.
const START: Duration = Duration::from_secs(60);
/// How long another starter may take before this one gives up.
const LOCK: Duration = Duration::from_secs(70);
/// Pause between looks at a lock that somebody else holds.
const POLL: Duration = Duration::from_millis(20);
/// How long a daemon may take to answer that it is there.
const PROBE: Duration = Duration::from_secs(3);
/// A log file above this size is begun anew at the next start; the old one is kept beside it.
const LOG_LIMIT: u64 = 16 << 20;
/// What is shown of the log when a start fails.
const LOG_TAIL: u64 = 4096;

/// The daemon of these paths, if one answers on its socket and is not about to stop.
///
/// # Errors
/// The daemon is there but refuses this process (`CALLER_IS_TOOL`).
pub async fn find_running(paths: &Paths) -> Result<Option<Endpoint>, gander_client::ClientError> {
    let socket = paths.socket_path();
    if !socket.exists() {
        return Ok(None);
    }
    let endpoint = Endpoint::unix(socket);
    let probe = async {
        let client = Client::connect(endpoint.clone(), ClientOptions::new("gander-probe")).await?;
        let answer = client.system().get_server_info(GetServerInfoRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(gander_client::ClientError::from)
    };
    match tokio::time::timeout(PROBE, probe).await {
        Ok(Ok(answer)) => {
            let draining = answer.server_info.is_some_and(|info| info.drain_state() == DrainState::Draining);
            Ok((!draining).then_some(endpoint))
        }
        Ok(Err(error)) if error.is(ErrorReason::CallerIsTool) => Err(error),
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

/// How to start a daemon.
#[derive(Debug, Clone)]
pub struct BackgroundOptions {
    /// The program, with its path.
    pub executable: PathBuf,
    /// `--root`, where one was given.
    pub root: Option<PathBuf>,
    /// The starter's environment; what belongs to the starter alone is left out.
    pub environment: Environment,
}

/// The daemon of these paths: the one that runs, else a new one in the background.
///
/// Callers that start at the same moment share one daemon.
///
/// # Errors
/// When it cannot be started; the end of its log is in the message.
pub async fn ensure(paths: &Paths, options: &BackgroundOptions) -> Result<Endpoint> {
    if let Some(endpoint) = find_running(paths).await? {
        return Ok(endpoint);
    }
    paths.create_dirs()?;
    let _turn = lock(&paths.data_dir().join("start.lock")).await?;
    if let Some(endpoint) = find_running(paths).await? {
        return Ok(endpoint);
    }
    start(paths, options).await?;
    match find_running(paths).await? {
        Some(endpoint) => Ok(endpoint),
        None => bail!(
            "the daemon was started but does not answer on {}; see {}",
            paths.socket_path().display(),
            paths.log_file().display()
        ),
    }
}

/// One starter at a time. The lock ends with the file.
async fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let locked = tokio::time::timeout(LOCK, async {
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(POLL).await,
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    });
    match locked.await {
        Ok(result) => result.with_context(|| format!("cannot lock {}", path.display()))?,
        Err(_) => {
            bail!("another process is starting the daemon and does not come to an end ({})", path.display())
        }
    }
    Ok(file)
}

async fn start(paths: &Paths, options: &BackgroundOptions) -> Result<()> {
    let log = open_log(&paths.log_file())?;
    let begin = log.metadata()?.len();
    let mut command = tokio::process::Command::new(&options.executable);
    if let Some(root) = &options.root {
        command.arg("--root").arg(root);
    }
    command
        .args(["serve", "--background"])
        .env_clear()
        .envs(daemon_environment(&options.environment))
        .current_dir(paths.data_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(false);
    let mut child =
        command.spawn().with_context(|| format!("cannot start {} serve", options.executable.display()))?;
    let Some(stdout) = child.stdout.take() else { bail!("the daemon has no stdout") };
    let mut lines = BufReader::new(stdout).lines();
    let ready = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.starts_with("listening on unix:") {
                return true;
            }
        }
        false
    };
    match tokio::time::timeout(START, ready).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            let said = log_tail(&paths.log_file(), begin);
            bail!("the daemon could not be started:\n{said}");
        }
        Err(_) => {
            let _ = child.start_kill();
            bail!("the daemon was not ready within {} s; see {}", START.as_secs(), paths.log_file().display())
        }
    }
}

/// The log file for appending. A large one is put aside, so that the disk does not fill over the years.
fn open_log(path: &Path) -> Result<File> {
    let what = || format!("cannot open the log file {}", path.display());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(what)?;
    }
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
        let mut old = path.as_os_str().to_owned();
        old.push(".old");
        std::fs::rename(path, old).with_context(what)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).with_context(what)
}

/// What was logged from `begin` on, its last lines.
fn log_tail(path: &Path, begin: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(begin.max(end.saturating_sub(LOG_TAIL))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let mut lines: VecDeque<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    while lines.len() > 12 {
        lines.pop_front();
    }
    if lines.is_empty() {
        return format!("it said nothing; see {}", path.display());
    }
    Vec::from(lines).join("\n")
}

/// The environment of a daemon that many clients will use: what tells one window's adapter where to listen and what its
/// secret is belongs to that adapter alone, and so does the token of a client.
fn daemon_environment(environment: &Environment) -> impl Iterator<Item = (&str, &str)> {
    environment.iter().filter(|(name, _)| !belongs_to_the_starter(name))
}

fn belongs_to_the_starter(name: &str) -> bool {
    let own = name.starts_with("GOOSE_") || name.starts_with("GANDER_");
    let address = ["GOOSE_PORT", "GOOSE_HOST", "GANDER_SERVER", "GANDER_EMBED"].contains(&name);
    address || name.starts_with("GOOSE_SERVER__") || (own && gander_config::is_secret_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_one_window_is_left_out() {
        let environment: Environment = [
            ("PATH", "/bin"),
            ("GOOSE_PORT", "4000"),
            ("GOOSE_SERVER__SECRET_KEY", "s"),
            ("GANDER_TOKEN", "t"),
            ("GANDER_SERVER", "127.0.0.1:1"),
            ("GOOSE_PROVIDER", "openai"),
            ("GOOSE_PATH_ROOT", "/r"),
            ("OPENAI_API_KEY", "k"),
        ]
        .into_iter()
        .collect();
        let names: Vec<&str> = daemon_environment(&environment).map(|(name, _)| name).collect();
        assert_eq!(names, ["GOOSE_PATH_ROOT", "GOOSE_PROVIDER", "OPENAI_API_KEY", "PATH"]);
    }

    #[test]
    fn a_large_log_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/gander.log");
        drop(open_log(&path).unwrap());
        File::options().write(true).open(&path).unwrap().set_len(LOG_LIMIT + 1).unwrap();
        drop(open_log(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(
            std::fs::metadata(directory.path().join("logs/gander.log.old")).unwrap().len(),
            LOG_LIMIT + 1
        );
    }

    #[tokio::test]
    async fn one_starter_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("start.lock");
        let first = lock(&path).await.unwrap();
        assert!(tokio::time::timeout(POLL * 3, lock(&path)).await.is_err());
        drop(first);
        lock(&path).await.unwrap();
    }
}
