//! How fast the programs are there that other programs start: a window's `gander agent`, an editor's `gander acp`.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::{sleep, timeout},
};

use crate::{
    echo::SLOW_ROLE,
    processes::{Root, own_executable},
    rest::Rest,
    streams::http_client,
};

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_micros(500);
pub(crate) const SECRET: &str = "bench-secret";

/// `gander agent`, as Desktop starts it.
pub(crate) struct Window {
    _child: Child,
    base: String,
    /// From exec to the first 200 of `/status`.
    pub(crate) ready_after: Duration,
}

impl Window {
    pub(crate) async fn open(root: &Root) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let base = format!("http://127.0.0.1:{port}");
        let http = http_client()?;
        let mut command = root.gander(&["agent"]);
        command.env("GOOSE_PORT", port.to_string()).env("GOOSE_SERVER__SECRET_KEY", SECRET);
        command.stdout(Stdio::null()).stderr(Stdio::inherit());
        let started = Instant::now();
        let mut child = command.spawn()?;
        loop {
            if let Ok(answer) = http.get(format!("{base}/status")).send().await
                && answer.status().is_success()
            {
                break;
            }
            if let Some(status) = child.try_wait()? {
                bail!("`gander agent` ended with {status}");
            }
            ensure!(started.elapsed() < DEADLINE, "`gander agent` was not ready in time");
            sleep(POLL).await;
        }
        Ok(Self { _child: child, base, ready_after: started.elapsed() })
    }

    pub(crate) fn rest(&self, working_directory: &str) -> Result<Rest> {
        Rest::new(&self.base, SECRET, working_directory)
    }
}

/// `gander acp`, as an editor starts it.
pub(crate) struct Editor {
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    /// From exec to the answer to `initialize`.
    pub(crate) ready_after: Duration,
    next: u64,
}

impl Editor {
    pub(crate) async fn open(root: &Root) -> Result<Self> {
        let mut command = root.gander(&["acp"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let started = Instant::now();
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().context("no stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut editor = Self { _child: child, stdin, stdout, ready_after: Duration::ZERO, next: 0 };
        editor.call("initialize", json!({ "protocolVersion": 1, "clientCapabilities": {} })).await?;
        editor.ready_after = started.elapsed();
        Ok(editor)
    }

    /// How long `session/new` takes.
    pub(crate) async fn new_session(&mut self, directory: &str) -> Result<Duration> {
        let started = Instant::now();
        self.call("session/new", json!({ "cwd": directory, "mcpServers": [] })).await?;
        Ok(started.elapsed())
    }

    async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.next += 1;
        let request = json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params });
        self.stdin.write_all(format!("{request}\n").as_bytes()).await?;
        loop {
            let line = timeout(DEADLINE, self.stdout.next_line()).await.context("no answer in time")??;
            let message: Value = serde_json::from_str(&line.context("`gander acp` has ended")?)?;
            if message["id"] == self.next {
                ensure!(message.get("error").is_none(), "{method}: {message}");
                return Ok(message);
            }
        }
    }
}

/// Three configured servers of which each takes a second until it answers.
pub(crate) fn slow_servers() -> Result<Value> {
    let command = own_executable()?.to_string_lossy().into_owned();
    let server = |name: &str| json!({ "type": "stdio", "name": name, "enabled": true, "cmd": command, "args": [SLOW_ROLE], "timeout": 30 });
    Ok(json!({ "slow1": server("slow1"), "slow2": server("slow2"), "slow3": server("slow3") }))
}
