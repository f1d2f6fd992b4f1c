//! Commands of `shell` in a terminal of an attached editor.
//!
//! A command runs once: here only when the editor has certainly not begun it. Whoever is asked ends it with the call,
//! by the terminal's own means; the daemon has no hold of its processes.

use std::{path::Path, time::Duration};

use gander_process::SpawnSpec;
use rmcp::{
    model::{CallToolResult, ContentBlock},
    service::{RequestContext, RoleServer},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Shared, ToolError, cancelled,
    plain::{Plain, Return},
    shell::{ALONE, Ending, Live, capture, render},
};
use crate::hooks::{HookError, HostTerminals, TerminalCommand, TerminalEnd};

/// The field of a call's `_meta` with the id of the tool call that it is, for an editor that shows a terminal there.
/// Without it a command runs here.
pub const ITEM_META_KEY: &str = "gander/itemId";

/// Where bash is on most machines; the editor's may not be this one.
const BASH: &str = "/bin/bash";
/// Bytes of output that are asked for: what the common limit of a gRPC message, 4 MiB, has room for.
const OUTPUT_LIMIT: u64 = 2 * 1024 * 1024;
/// Pieces of live output that may wait.
const PIECES: usize = 256;
/// Bytes of live output that are given when nothing else is left.
const KEPT: usize = 16 * 1024;

/// What became of the wish to run a command at the editor.
pub(super) enum Attempt {
    /// There is no editor for it.
    Nobody,
    /// It does not run there, for this reason.
    NotStarted(HookError),
    Ran(CallToolResult),
}

/// Runs the command in the editor's terminal, if there is one for it.
pub(super) async fn run(
    shared: &Shared,
    spec: &SpawnSpec,
    seconds: u64,
    call: &RequestContext<RoleServer>,
) -> Result<Attempt, ToolError> {
    let item_id = call.meta.get(ITEM_META_KEY).and_then(Value::as_str);
    let (Some(terminals), Some(item_id), None) =
        (shared.context.host_terminals.as_deref(), item_id, &shared.context.sandbox)
    else {
        return Ok(Attempt::Nobody);
    };
    let Some(command) = command(spec, item_id, seconds) else { return Ok(Attempt::Nobody) };
    tokio::select! {
        biased;
        // Dropping the work has the editor end the command.
        () = call.ct.cancelled() => Err(cancelled()),
        () = shared.closing.cancelled() => Err(cancelled()),
        attempt = attempt(shared, terminals, command, call) => attempt,
    }
}

/// `None` for what a protocol of text cannot say.
fn command(spec: &SpawnSpec, item_id: &str, seconds: u64) -> Option<TerminalCommand> {
    let argv: Option<Vec<String>> = spec.argv.iter().map(|word| word.to_str().map(str::to_owned)).collect();
    spec.working_directory.to_str()?;
    let mut argv = argv?;
    if let Some(shell) = argv.first_mut().filter(|shell| shell.ends_with("/bash"))
        && Path::new(BASH).exists()
    {
        BASH.clone_into(shell);
    }
    Some(TerminalCommand {
        item_id: item_id.to_owned(),
        argv,
        working_directory: spec.working_directory.clone(),
        // The rest is the editor's: the daemon's PATH means nothing on another machine.
        environment: ALONE.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        output_limit: OUTPUT_LIMIT,
        timeout: Duration::from_secs(seconds),
    })
}

async fn attempt(
    shared: &Shared,
    terminals: &dyn HostTerminals,
    command: TerminalCommand,
    call: &RequestContext<RoleServer>,
) -> Result<Attempt, ToolError> {
    let timeout = command.timeout;
    let began = Instant::now();
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let mut shown = Shown { live: Live::new(call), plain: Plain::default(), kept: String::new() };
    let mut run = terminals.run(command, sender);
    let end = loop {
        tokio::select! {
            biased;
            Some(piece) = pieces.recv() => shown.push(&piece).await,
            end = &mut run => break end,
        }
    };
    while let Ok(piece) = pieces.try_recv() {
        shown.push(&piece).await;
    }
    match end {
        None => Ok(Attempt::Nobody),
        Some(TerminalEnd::NotStarted(reason)) => Ok(Attempt::NotStarted(reason)),
        Some(TerminalEnd::Lost(reason)) => Err(lost(&reason, &shown.kept)),
        Some(TerminalEnd::Ended { output, truncated, exit_code, signal }) => {
            let timed_out = began.elapsed() >= timeout;
            let ending = Ending { code: exit_code.filter(|_| !timed_out), signal, timed_out };
            let mut capture = capture(shared);
            if truncated {
                capture.push("[... the editor's terminal has not kept the beginning ...]\n").await;
            }
            capture.push(&Plain::default().push(&output, Return::Overwrites)).await;
            let mut result = render(capture.finish().await, &ending, timeout.as_secs());
            if let Some(Value::Object(data)) = &mut result.structured_content {
                data.insert("ran_in".to_owned(), json!("editor"));
            }
            Ok(Attempt::Ran(result))
        }
    }
}

/// Live output on its way to whoever watches.
struct Shown {
    live: Live,
    plain: Plain,
    /// The end of it.
    kept: String,
}

impl Shown {
    async fn push(&mut self, piece: &str) {
        let text = self.plain.push(piece, Return::Ends);
        if text.is_empty() {
            return;
        }
        self.kept.push_str(&text);
        if self.kept.len() > 2 * KEPT {
            let cut = self.kept.ceil_char_boundary(self.kept.len() - KEPT);
            self.kept.drain(..cut);
        }
        self.live.send("stdout", &text).await;
    }
}

fn lost(reason: &HookError, kept: &str) -> ToolError {
    let kept = &kept[kept.ceil_char_boundary(kept.len().saturating_sub(KEPT))..];
    let written =
        if kept.is_empty() { String::new() } else { format!("; what was seen of its output:\n{kept}") };
    ToolError::new(format!(
        "the command was given to a terminal of the attached editor, which did not say how it ended: {reason}. It may \
         have run, or still do; look before you run it again{written}"
    ))
}

/// The result of a command that the editor did not take.
pub(super) fn with_note(mut result: CallToolResult, reason: &HookError) -> CallToolResult {
    result.content.push(ContentBlock::text(format!(
        "[the attached editor opened no terminal ({reason}); the command ran in gander's own shell]"
    )));
    result
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gander_process::StdinMode;

    use super::*;

    fn spec(directory: &str) -> SpawnSpec {
        SpawnSpec {
            argv: vec!["/bin/sh".into(), "-c".into(), "make".into()],
            working_directory: directory.into(),
            environment: BTreeMap::from([("PATH".to_owned(), "/here".to_owned())]),
            stdin: StdinMode::Null,
        }
    }

    #[test]
    fn a_command_takes_only_what_holds_anywhere_with_it() {
        let command = command(&spec("/w"), "item", 7).expect("text");
        assert_eq!(command.argv, ["/bin/sh", "-c", "make"]);
        assert_eq!(command.timeout, Duration::from_secs(7));
        assert!(command.environment.contains_key("GIT_PAGER") && !command.environment.contains_key("PATH"));
    }

    #[test]
    fn what_was_seen_of_a_lost_command_is_told() {
        let error = lost(&HookError::new("the window closed"), "half\n").to_string();
        assert!(error.contains("the window closed") && error.ends_with("half\n"), "{error}");
        assert!(!lost(&HookError::new("x"), "").to_string().contains("output"));
    }
}
