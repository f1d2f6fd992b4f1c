//! Terminals for the agent: commands in the session's folders, by the attached host where it can, else as processes of
//! the agent's session, ended with it.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use gander_domain::{
    Part, PartBody,
    host::{HostCallKind, HostCallOutcome},
};
use gander_model::{AgentClient, AgentUpdate};
use gander_process::{SpawnSpec, Spawner, StdinMode, SupervisedChild, signal_name};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::{
    failure::{INTERNAL, NOT_FOUND, RpcError},
    files::{Files, host_failed},
};

/// Terminals of one agent at once.
const MAX_TERMINALS: usize = 64;
/// Output kept where the agent names no limit, and the most it may ask for.
const OUTPUT_BYTES: usize = 1 << 20;
const MAX_OUTPUT_BYTES: usize = 8 << 20;

/// How a command ended.
#[derive(Debug, Clone, Default, PartialEq)]
struct Ended {
    exit_code: Option<i32>,
    signal: Option<String>,
}

impl Ended {
    fn to_value(&self) -> Value {
        let mut status = json!({});
        if let Some(code) = self.exit_code.and_then(|code| u32::try_from(code).ok()) {
            status["exitCode"] = json!(code);
        }
        if let Some(signal) = &self.signal {
            status["signal"] = json!(signal);
        }
        status
    }
}

#[derive(Default)]
struct Output {
    /// The end of the output, at most `limit` bytes.
    bytes: Vec<u8>,
    truncated: bool,
    /// The tool call that shows this terminal.
    shown_in: Option<String>,
}

struct Terminal {
    output: Mutex<Output>,
    limit: usize,
    ended: watch::Sender<Option<Ended>>,
    kill: CancellationToken,
}

impl Terminal {
    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, chunk: &[u8]) -> Option<String> {
        let mut output = self.output();
        output.bytes.extend_from_slice(chunk);
        let excess = output.bytes.len().saturating_sub(self.limit);
        if excess > 0 {
            output.bytes.drain(..excess);
            output.truncated = true;
        }
        output.shown_in.clone()
    }

    fn text(&self) -> (String, bool) {
        let output = self.output();
        let mut bytes = output.bytes.as_slice();
        // What was cut may have left the rest of a character.
        while output.truncated && bytes.first().is_some_and(|byte| (0x80..0xC0).contains(byte)) {
            bytes = &bytes[1..];
        }
        (String::from_utf8_lossy(bytes).into_owned(), output.truncated)
    }
}

/// The terminals of one agent.
pub(crate) struct Terminals {
    spawner: Spawner,
    directory: PathBuf,
    environment: BTreeMap<String, String>,
    files: Files,
    terminals: Mutex<HashMap<String, Arc<Terminal>>>,
    numbers: AtomicU64,
    /// Cancelled with the session.
    close: CancellationToken,
}

impl Terminals {
    /// `environment` is the session's, without the agent's secrets.
    pub(crate) fn new(
        spawner: Spawner,
        directory: PathBuf,
        environment: BTreeMap<String, String>,
        files: Files,
        close: CancellationToken,
    ) -> Self {
        let (terminals, numbers) = (Mutex::default(), AtomicU64::new(1));
        Self { spawner, directory, environment, files, terminals, numbers, close }
    }

    fn terminals(&self) -> MutexGuard<'_, HashMap<String, Arc<Terminal>>> {
        self.terminals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, params: &Value) -> Result<Arc<Terminal>, RpcError> {
        let id = params.get("terminalId").and_then(Value::as_str).unwrap_or_default();
        let found = self.terminals().get(id).cloned();
        found.ok_or_else(|| RpcError::new(NOT_FOUND, format!("terminal {id:?} does not exist")))
    }

    /// Handles a `terminal/…` request; `None`: no such method.
    pub(crate) async fn request(
        &self,
        method: &str,
        params: &Value,
        client: &Arc<dyn AgentClient>,
    ) -> Option<Result<Value, RpcError>> {
        Some(match method {
            "terminal/create" => self.create(params, client),
            "terminal/output" => self.get(params).map(|terminal| {
                let (output, truncated) = terminal.text();
                let mut answer = json!({ "output": output, "truncated": truncated });
                if let Some(ended) = &*terminal.ended.borrow() {
                    answer["exitStatus"] = ended.to_value();
                }
                answer
            }),
            "terminal/wait_for_exit" => match self.get(params) {
                Ok(terminal) => wait(&terminal).await,
                Err(error) => Err(error),
            },
            "terminal/kill" => self.get(params).map(|terminal| {
                terminal.kill.cancel();
                json!({})
            }),
            "terminal/release" => self.get(params).map(|terminal| {
                terminal.kill.cancel();
                let id = params.get("terminalId").and_then(Value::as_str).unwrap_or_default();
                self.terminals().remove(id);
                json!({})
            }),
            _ => return None,
        })
    }

    fn create(&self, params: &Value, client: &Arc<dyn AgentClient>) -> Result<Value, RpcError> {
        let text = |key: &str| params.get(key).and_then(Value::as_str);
        let command = text("command").filter(|command| !command.trim().is_empty());
        let command = command.ok_or_else(|| RpcError::invalid("command is missing"))?;
        let args = params.get("args").and_then(Value::as_array).into_iter().flatten();
        let argv = argv(command, args.filter_map(Value::as_str).map(str::to_owned).collect());
        let directory = match text("cwd") {
            Some(cwd) => self.files.allowed(cwd)?,
            None => self.directory.clone(),
        };
        let env: Vec<(String, String)> = params
            .get("env")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                Some((text("name")?, text("value")?))
            })
            .collect();
        let limit = params.get("outputByteLimit").and_then(Value::as_u64);
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(OUTPUT_BYTES);
        let terminal = Arc::new(Terminal {
            output: Mutex::default(),
            limit: limit.min(MAX_OUTPUT_BYTES),
            ended: watch::Sender::new(None),
            kill: self.close.child_token(),
        });
        let id = format!("terminal-{}", self.numbers.fetch_add(1, Ordering::Relaxed));
        {
            let mut terminals = self.terminals();
            if terminals.len() >= MAX_TERMINALS {
                let message = format!("{MAX_TERMINALS} terminals are open; release some first");
                return Err(RpcError::new(INTERNAL, message));
            }
            terminals.insert(id.clone(), terminal.clone());
        }
        let run = Run { terminal, argv, directory, env };
        tokio::spawn(run.start(self.spawner.clone(), self.environment.clone(), client.clone()));
        Ok(json!({ "terminalId": id }))
    }

    /// Completes the terminal parts of a call: how the command ended, and what it wrote. Live output goes to this call
    /// from now on.
    pub(crate) fn complete(&self, call_id: &str, parts: &mut Vec<Part>, with_output: bool) {
        let mut outputs = Vec::new();
        for part in parts.iter_mut() {
            let PartBody::Terminal { terminal_id, exit_code, signal } = &mut part.body else { continue };
            let Some(terminal) = self.terminals().get(terminal_id).cloned() else { continue };
            terminal.output().shown_in = Some(call_id.to_owned());
            if let Some(ended) = &*terminal.ended.borrow() {
                *exit_code = ended.exit_code;
                signal.clone_from(&ended.signal);
            }
            let (text, _) = terminal.text();
            if with_output && !text.is_empty() {
                outputs.push(Part::text(text));
            }
        }
        parts.extend(outputs);
    }
}

/// Several agents send a whole shell line as the command.
fn argv(command: &str, args: Vec<String>) -> Vec<String> {
    let line =
        args.is_empty() && command.contains(|c: char| c.is_whitespace() || "|&;<>()$`\"'*?".contains(c));
    if line {
        return vec!["/bin/sh".to_owned(), "-c".to_owned(), command.to_owned()];
    }
    std::iter::once(command.to_owned()).chain(args).collect()
}

async fn wait(terminal: &Terminal) -> Result<Value, RpcError> {
    let mut ended = terminal.ended.subscribe();
    match ended.wait_for(Option::is_some).await {
        Ok(ended) => Ok(ended.as_ref().map_or_else(|| json!({}), Ended::to_value)),
        // The sender lives in the terminal that we hold.
        Err(_) => Err(RpcError::new(INTERNAL, "the terminal is gone")),
    }
}

struct Run {
    terminal: Arc<Terminal>,
    argv: Vec<String>,
    directory: PathBuf,
    env: Vec<(String, String)>,
}

impl Run {
    async fn start(
        self,
        spawner: Spawner,
        mut environment: BTreeMap<String, String>,
        client: Arc<dyn AgentClient>,
    ) {
        let call = HostCallKind::TerminalRun {
            argv: self.argv.clone(),
            cwd: self.directory.display().to_string(),
            env: self.env.clone(),
            output_limit_bytes: self.terminal.limit as u64,
        };
        let by_host = tokio::select! {
            biased;
            () = self.terminal.kill.cancelled() => Some(HostCallOutcome::Failed { message: "killed".to_owned(), refused: false }),
            outcome = client.host_call(call) => outcome,
        };
        let ended = match by_host {
            Some(HostCallOutcome::Terminal { output, truncated, exit_code, signal }) => {
                self.terminal.push(output.as_bytes());
                self.terminal.output().truncated |= truncated;
                Ended { exit_code, signal }
            }
            // The host has begun nothing: it runs here, as without a host.
            None | Some(HostCallOutcome::Failed { refused: true, .. }) => {
                environment.extend(self.env.clone());
                self.process(&spawner, environment, &client).await
            }
            Some(other) => {
                self.terminal.push(host_failed(other).message.as_bytes());
                Ended { exit_code: Some(127), signal: None }
            }
        };
        self.terminal.ended.send_replace(Some(ended));
    }

    async fn process(
        &self,
        spawner: &Spawner,
        environment: BTreeMap<String, String>,
        client: &Arc<dyn AgentClient>,
    ) -> Ended {
        let spec = SpawnSpec {
            argv: self.argv.iter().map(OsString::from).collect(),
            working_directory: self.directory.clone(),
            environment,
            stdin: StdinMode::Null,
        };
        let mut child = match spawner.spawn(&spec) {
            Ok(child) => child,
            Err(error) => {
                self.terminal.push(error.to_string().as_bytes());
                return Ended { exit_code: Some(127), signal: None };
            }
        };
        let (stdout, stderr) = (child.take_stdout(), child.take_stderr());
        let read = async {
            let out = async {
                if let Some(stdout) = stdout {
                    self.pump(stdout, client).await;
                }
            };
            let err = async {
                if let Some(stderr) = stderr {
                    self.pump(stderr, client).await;
                }
            };
            tokio::join!(out, err);
        };
        let exit = tokio::select! {
            biased;
            () = self.terminal.kill.cancelled() => child.kill().await,
            exit = finish(&mut child, read) => exit,
        };
        match exit {
            Ok(exit) => Ended {
                exit_code: exit.signal.is_none().then_some(exit.code),
                signal: exit.signal.map(signal_name),
            },
            Err(error) => {
                self.terminal.push(error.to_string().as_bytes());
                Ended { exit_code: Some(1), signal: None }
            }
        }
    }

    async fn pump(&self, mut source: impl AsyncRead + Unpin, client: &Arc<dyn AgentClient>) {
        let mut chunk = vec![0; 8192];
        while let Ok(count) = source.read(&mut chunk).await {
            if count == 0 {
                return;
            }
            if let Some(call_id) = self.terminal.push(&chunk[..count]) {
                let text = String::from_utf8_lossy(&chunk[..count]).into_owned();
                client.update(AgentUpdate::ToolOutput { call_id, text }).await;
            }
        }
    }
}

/// All output, then the exit status.
async fn finish(
    child: &mut SupervisedChild,
    read: impl Future<Output = ()>,
) -> std::io::Result<gander_process::Exit> {
    let (exit, ()) = tokio::join!(child.wait(), read);
    exit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_lines_are_recognised() {
        let words = |text: &[&str]| text.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        for (command, args, expected) in [
            ("ls", &[][..], &["ls"][..]),
            ("ls -la | wc", &[], &["/bin/sh", "-c", "ls -la | wc"]),
            ("/opt/my tool", &["-x"], &["/opt/my tool", "-x"]),
            ("echo", &["a b"], &["echo", "a b"]),
        ] {
            assert_eq!(argv(command, words(args)), words(expected));
        }
    }

    #[test]
    fn output_is_cut_at_the_front() {
        let terminal = Terminal {
            output: Mutex::default(),
            limit: 5,
            ended: watch::Sender::new(None),
            kill: CancellationToken::new(),
        };
        terminal.push("abü".as_bytes());
        assert_eq!(terminal.text(), ("abü".to_owned(), false));
        terminal.push("cdef".as_bytes());
        assert_eq!(terminal.text(), ("cdef".to_owned(), true), "half a character is left out");
    }
}
