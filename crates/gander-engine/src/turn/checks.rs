//! A recipe's checks: shell commands that must succeed when the model is done, else it tries again.
//!
//! Commands run in the session's directory with its environment, in process trees of their own that end with the turn.

use std::{collections::HashSet, fmt::Write as _, time::Duration};

use gander_domain::{
    ErrorDetail, ErrorReason, ItemBody, ItemId, Payload,
    event::{HistoryChange, HistoryChangeKind, VisibilityChange},
    item::{NoticeLevel, Origin},
    turn::TurnOutcome,
};
use gander_formats::recipe::Retry;
use gander_process::{SpawnSpec, StdinMode};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{TurnResult, TurnTask};

const CHECK_TIMEOUT: Duration = Duration::from_secs(300);
const ON_FAILURE_TIMEOUT: Duration = Duration::from_secs(600);
/// Output of a command that is kept, from its end, in bytes.
const KEPT_OUTPUT: usize = 16 * 1024;

pub(super) struct Checks {
    retry: Retry,
    attempts: u32,
    /// What the model saw before the first attempt.
    kept: HashSet<ItemId>,
}

/// How a command ended.
struct Ran {
    success: bool,
    /// `exited with 1`, `was not finished after 5 s`.
    how: String,
    output: String,
}

impl Checks {
    pub(super) fn new(retry: Retry, kept: HashSet<ItemId>) -> Self {
        Self { retry, attempts: 0, kept }
    }

    /// Runs the checks; `true`: the model tries again.
    pub(super) async fn run(&mut self, task: &TurnTask) -> TurnResult<bool> {
        let timeout =
            limit(task, self.retry.timeout_seconds, "GOOSE_RECIPE_RETRY_TIMEOUT_SECONDS", CHECK_TIMEOUT);
        let mut failed = None;
        for command in &self.retry.checks {
            let ran = shell(task, command, timeout).await?;
            if !ran.success {
                failed = Some((command.clone(), ran));
                break;
            }
        }
        let Some((command, ran)) = failed else { return Ok(false) };
        let why = format!("the check `{command}` {}", ran.how);
        if self.attempts >= self.retry.max_retries {
            let text =
                format!("{why}; it was tried again {} times, no further attempt is made", self.attempts);
            task.emit(vec![task.notice(NoticeLevel::Error, "recipe_checks_failed", text)]).await?;
            return Ok(false);
        }
        self.attempts += 1;
        let text = format!("{why}; attempt {} of {} begins", self.attempts, self.retry.max_retries);
        task.emit(vec![task.notice(NoticeLevel::Warning, "recipe_retry", text)]).await?;
        let recovery = self.recover(task).await?;
        if self.retry.reset_context {
            self.reset(task).await?;
        } else {
            let mut message = format!("{why}. Its output:\n{}", ran.output);
            if let Some(recovery) = recovery {
                // Writing to a String cannot fail.
                let _ = write!(
                    message,
                    "\nThe recovery command {}. Its output:\n{}",
                    recovery.how, recovery.output
                );
            }
            message.push_str("\nFind out what is wrong and try again.");
            task.tell_model(message).await?;
        }
        Ok(true)
    }

    async fn recover(&self, task: &TurnTask) -> TurnResult<Option<Ran>> {
        let Some(command) = &self.retry.on_failure else { return Ok(None) };
        let (own, key) = (self.retry.on_failure_timeout_seconds, "GOOSE_RECIPE_ON_FAILURE_TIMEOUT_SECONDS");
        let timeout = limit(task, own, key, ON_FAILURE_TIMEOUT);
        let ran = shell(task, command, timeout).await?;
        if !ran.success && self.retry.reset_context {
            let message = format!("the recipe's on_failure command `{command}` {}:\n{}", ran.how, ran.output);
            return Err(TurnOutcome::Failed(ErrorDetail::new(ErrorReason::RecipeInvalid, message)));
        }
        Ok(Some(ran))
    }

    /// The failed attempt stays visible for people and is hidden from the model.
    async fn reset(&self, task: &TurnTask) -> TurnResult<()> {
        let kept = self.kept.clone();
        let (turn_id, of_turn) = (task.start.turn_id.clone(), Some(task.start.turn_id.clone()));
        let done = task.start.session.edit(move |core| {
            let attempt = |item: &gander_domain::Item| {
                let stays = match &item.body {
                    ItemBody::UserMessage(_) => item.origin == Origin::Client,
                    // A summary stands for what was before the attempt, too.
                    ItemBody::Compaction(_) => true,
                    _ => false,
                };
                item.turn_id.as_ref() == Some(&turn_id) && !stays && !kept.contains(&item.item_id)
            };
            let items = core.state.model_items();
            let visibility_changes: Vec<_> = items
                .iter()
                .filter(|item| attempt(item))
                .map(|item| VisibilityChange {
                    item_id: item.item_id.clone(),
                    user: item.visibility.user,
                    model: false,
                })
                .collect();
            if !visibility_changes.is_empty() {
                let change = HistoryChange {
                    kind: HistoryChangeKind::Replaced,
                    visibility_changes,
                    hidden_from_sequence: None,
                    summary_item_id: None,
                };
                core.emit(of_turn, Payload::HistoryChanged(change));
            }
            Ok(())
        });
        match done.await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(TurnOutcome::Cancelled),
        }
    }
}

/// How long a command may take: by the recipe, else by the configuration.
fn limit(task: &TurnTask, own: Option<u64>, key: &str, default: Duration) -> Duration {
    let configured = || task.start.services.config.current().get_u64(key).ok().flatten();
    own.or_else(configured).filter(|s| *s > 0).map_or(default, Duration::from_secs)
}

/// Runs a shell command to its end. The outer error ends the turn.
async fn shell(task: &TurnTask, command: &str, timeout: Duration) -> TurnResult<Ran> {
    let services = &task.start.services;
    let failed = |reason, text: String| TurnOutcome::Failed(ErrorDetail::new(reason, text));
    if services.config.current().policy().requires_sandbox() {
        let text = "the recipe's checks are shell commands outside of a sandbox, which the policy forbids";
        return Err(failed(ErrorReason::PolicyDenied, text.to_owned()));
    }
    let Some(engine) = services.engine() else { return Err(TurnOutcome::Cancelled) };
    let session_id = task.start.session.session_id().clone();
    let mut environment = engine.environment(&session_id).await.map_err(TurnOutcome::Failed)?;
    environment.insert("GANDER_SESSION_ID".to_owned(), session_id.to_string());
    let directory = task.snapshot().await?.session.working_directory;
    let spec = SpawnSpec {
        argv: ["sh", "-c", command].map(Into::into).to_vec(),
        working_directory: directory.into(),
        environment,
        stdin: StdinMode::Null,
    };
    let spawned = services.mcp.spawner().spawn(&spec);
    let mut child =
        spawned.map_err(|e| failed(ErrorReason::RecipeInvalid, format!("a check cannot run: {e}")))?;
    let (stdout, stderr) = (child.take_stdout(), child.take_stderr());
    let work = async {
        let (out, err, exit) = futures::join!(tail(stdout), tail(stderr), child.wait());
        (out, err, exit)
    };
    let ended = task.unless_cancelled(tokio::time::timeout(timeout, work)).await;
    match ended {
        Ok(Ok((out, err, exit))) => {
            let output = [out, err].iter().filter(|t| !t.is_empty()).cloned().collect::<Vec<_>>().join("\n");
            let exit = exit.map_err(|e| failed(ErrorReason::Internal, format!("a check was lost: {e}")))?;
            let how = match exit.signal {
                Some(signal) => format!("was ended by {}", gander_process::signal_name(signal)),
                None => format!("exited with {}", exit.code),
            };
            Ok(Ran { success: exit.success(), how, output })
        }
        Ok(Err(_)) => {
            let _ = child.kill().await;
            let how = format!("was not finished after {} s", timeout.as_secs());
            Ok(Ran { success: false, how, output: String::new() })
        }
        Err(outcome) => {
            let _ = child.kill().await;
            Err(outcome)
        }
    }
}

/// Reads to the end and keeps the last part.
async fn tail(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 8192]);
    while let Ok(count) = pipe.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 2 * KEPT_OUTPUT {
            kept.drain(..kept.len() - KEPT_OUTPUT);
        }
    }
    let start = kept.len().saturating_sub(KEPT_OUTPUT);
    String::from_utf8_lossy(&kept[start..]).trim_end().to_owned()
}
