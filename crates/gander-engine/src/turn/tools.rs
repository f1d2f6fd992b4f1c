//! Tool calls of one response: permission, execution in parallel with a bound, results.
//!
//! The state RUNNING is stored before the call leaves the process, so that recovery knows what may have happened.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use gander_domain::{
    ErrorDetail, ErrorReason, Interaction, Item, ItemBody, Part, Payload,
    event::OutputStream,
    host::{HostCallKind, HostCallOutcome},
    interaction::{
        DecisionKind, InteractionKind, InteractionOutcome, InteractionState, PermissionOption,
        PermissionQuestion, PermissionReason, Resolution, standard_permission_options,
    },
    item::{Executor, ItemState, PermissionRecord, ToolCall, ToolCallStatus, ToolOutcome, ToolResult},
    permission::{self, RememberScope, Verdict},
    session::{Mode, SessionKind},
    tool::ToolDefinition,
    turn::TurnOutcome,
};
use gander_mcp::{CallProgress, CallRequest};
use tokio::sync::{Semaphore, mpsc};
use tracing::Instrument as _;

use super::{Stopped, TurnResult, TurnTask, describe, guard};
use crate::{
    redact::StreamFilter,
    session::{SessionHandle, call_host, progress_payload},
    source::Mint,
    spill::{SpillPlace, stored_result},
};

/// Progress messages waiting for one call.
const PROGRESS_QUEUE: usize = 64;
/// Key of the extension that lets the model change which extensions there are.
const MANAGEMENT: &str = "extensionmanager";
/// Output kept of a call that was cancelled, in bytes.
const KEPT_OUTPUT: usize = 32 * 1024;

/// Runs the calls of one response. Every one of them gets exactly one result.
pub(super) async fn run_calls(
    task: &TurnTask,
    mode: Mode,
    tools: &[ToolDefinition],
    history: &[Arc<Item>],
    calls: Vec<Item>,
) -> TurnResult<()> {
    let permits = Semaphore::new(task.start.services.options.parallel_tools);
    let mut running: FuturesUnordered<_> = calls
        .into_iter()
        .map(|item| {
            let span = tracing::info_span!("tool_call", item_id = %item.item_id);
            ToolRun { task, mode, tools, history, item }.run(&permits).instrument(span)
        })
        .collect();
    let mut cancel = false;
    while let Some(done) = running.next().await {
        match done {
            Ok(wants_cancel) => {
                cancel |= wants_cancel;
                if wants_cancel {
                    // The others neither go on nor wait for answers.
                    task.start.cancel.cancel();
                }
            }
            // A call that waited has stopped; those that run still say what they had so far.
            Err(Stopped) => cancel = true,
        }
    }
    if cancel { Err(TurnOutcome::Cancelled) } else { Ok(()) }
}

struct ToolRun<'a> {
    task: &'a TurnTask,
    mode: Mode,
    tools: &'a [ToolDefinition],
    /// What the model had seen when it made the call.
    history: &'a [Arc<Item>],
    item: Item,
}

/// What came of the permission check.
enum Permission {
    Granted(PermissionRecord),
    Refused { record: PermissionRecord, message: String, cancel_turn: bool },
}

impl ToolRun<'_> {
    /// `Ok(true)`: the user wants the whole turn to end.
    async fn run(mut self, permits: &Semaphore) -> Result<bool, Stopped> {
        let name = self.call().name.clone();
        let Some(tool) = self.tools.iter().find(|t| t.name == name).cloned() else {
            return self.refuse_unknown(&name).await;
        };
        self.describe(&tool);
        if let Some(why) = self.call().invalid_arguments.clone() {
            self.update(ToolCallStatus::Pending).await?;
            let error = ErrorDetail::new(
                ErrorReason::InvalidField,
                format!("the arguments are no JSON object: {why}"),
            );
            let result = ToolResult::failed(ToolOutcome::InvalidArguments, error);
            return self.complete(ToolCallStatus::Invalid, result).await.map(|()| false);
        }
        self.update(ToolCallStatus::Pending).await?;
        match self.permission(&tool).await? {
            Permission::Granted(record) => self.set(|call| call.permission = Some(record)),
            Permission::Refused { record, message, cancel_turn } => {
                self.set(|call| call.permission = Some(record));
                let error = ErrorDetail::new(ErrorReason::ToolNotAllowed, message);
                let result = ToolResult::failed(ToolOutcome::Declined, error);
                self.complete(ToolCallStatus::Declined, result).await?;
                return Ok(cancel_turn);
            }
        }
        let permit = self.task.unless_cancelled(permits.acquire()).await.map_err(|_| Stopped)?;
        let Ok(_permit) = permit else { return Err(Stopped) };
        self.execute(&tool).await.map(|()| false)
    }

    fn call(&self) -> &ToolCall {
        match &self.item.body {
            ItemBody::ToolCall(call) => call,
            // `Response` puts nothing but calls into its list of calls.
            _ => unreachable!("a tool run of an item that is no call"),
        }
    }

    fn set(&mut self, edit: impl FnOnce(&mut ToolCall)) {
        if let Some(call) = self.item.tool_call_mut() {
            edit(call);
        }
    }

    fn describe(&mut self, tool: &ToolDefinition) {
        let description = describe::describe(tool, &self.call().arguments_json);
        let executor = if self.is_client_tool(tool) { Executor::Client } else { Executor::Engine };
        let tool = tool.clone();
        self.set(|call| {
            call.extension_name = tool.extension_name;
            call.tool_name = tool.tool_name;
            call.title = description.title;
            call.kind = description.kind;
            call.locations = description.locations;
            call.annotations = tool.annotations;
            call.tool_meta_json = tool.meta_json;
            call.executor = executor;
        });
    }

    fn is_client_tool(&self, tool: &ToolDefinition) -> bool {
        if self.task.own.has(&tool.name) {
            return false;
        }
        match &self.task.start.extensions {
            Some(extensions) if extensions.find_tool(&tool.name).is_some() => {
                extensions.is_client_tool(&tool.name)
            }
            // What no extension offers came from the attached host.
            _ => true,
        }
    }

    async fn emit(&self, payloads: Vec<Payload>) -> Result<(), Stopped> {
        self.task.emit(payloads).await
    }

    fn updated(&mut self, status: ToolCallStatus) -> Payload {
        self.set(|call| call.status = status);
        Payload::ToolCallUpdated { item_id: self.item.item_id.clone(), call: Box::new(self.call().clone()) }
    }

    async fn update(&mut self, status: ToolCallStatus) -> Result<(), Stopped> {
        let payload = self.updated(status);
        self.emit(vec![payload]).await
    }

    async fn refuse_unknown(&mut self, name: &str) -> Result<bool, Stopped> {
        self.update(ToolCallStatus::Pending).await?;
        let known: Vec<_> = self.tools.iter().map(|t| t.name.as_str()).take(50).collect();
        let error = ErrorDetail::new(
            ErrorReason::ToolNotFound,
            format!("there is no tool {name:?}; the tools are: {}", known.join(", ")),
        );
        let result = ToolResult::failed(ToolOutcome::ProtocolError, error);
        self.complete(ToolCallStatus::Failed, result).await.map(|()| false)
    }

    async fn complete(&mut self, status: ToolCallStatus, result: ToolResult) -> Result<(), Stopped> {
        let services = &self.task.start.services;
        let place = SpillPlace {
            session_dir: services.spill_dir.join(self.task.start.session.session_id().as_str()),
            item_id: self.item.item_id.clone(),
            max_bytes: services.max_tool_output(),
        };
        let (result, contents) = stored_result(result, &self.task.secrets, &place).await;
        let now = services.source.now();
        let tool = self.tools.iter().find(|t| t.name == self.call().name).filter(|t| t.trusted);
        let structured = tool.and(result.structured_content_json.as_deref());
        let trusted_display = describe::display_parts(structured);
        let plan = tool.filter(|t| t.extension_name == "todo").and_then(|_| describe::plan(structured));
        self.set(|call| {
            call.status = status;
            call.content = trusted_display;
            call.result = Some(result);
        });
        let secrets = &self.task.secrets;
        if let Some(call) = self.item.tool_call_mut() {
            secrets.clean_content(call);
        }
        self.item.state = ItemState::Completed;
        self.item.complete_time = Some(now);
        self.item.incomplete = status == ToolCallStatus::Cancelled;
        let completed = Payload::ItemCompleted { item: Box::new(self.item.clone()) };
        let plan = plan.map(|plan| Payload::PlanUpdated { plan });
        self.task.emit_with(std::iter::once(completed).chain(plan).collect(), contents).await
    }

    async fn permission(&mut self, tool: &ToolDefinition) -> Result<Permission, Stopped> {
        if self.task.own.needs_no_permission(&tool.name) {
            let record = PermissionRecord { allowed: true, source: "mode".to_owned() };
            return Ok(Permission::Granted(record));
        }
        let session = &self.task.start.session;
        let read = session.edit(|core| {
            let session = &core.state.session;
            Ok((core.applicable_rules(), session.mode, session.kind))
        });
        let Ok(Ok(read)) = read.await else { return Err(Stopped) };
        let (rules, live_mode, kind) = read.value;
        // A mode that was changed since the call began counts at once, unless this turn has its own.
        let services = &self.task.start.services;
        let mode = match self.task.start.mode {
            Some(_) => self.mode,
            None => live_mode.unwrap_or_else(|| services.configured_mode()),
        };
        let granted =
            |source: &str| Permission::Granted(PermissionRecord { allowed: true, source: source.to_owned() });
        match permission::decide(mode, tool, &rules) {
            Verdict::Allow(_) if self.repeats_itself() => match kind {
                SessionKind::User | SessionKind::Terminal => self.ask(PermissionReason::Repetition).await,
                // Nobody looks on: the model is told instead.
                SessionKind::Scheduled | SessionKind::Subagent | SessionKind::Hidden => Ok(self.stuck()),
            },
            Verdict::Allow(source) => Ok(granted(source)),
            Verdict::Deny { source, message } => Ok(Permission::Refused {
                record: PermissionRecord { allowed: false, source: source.to_owned() },
                message,
                cancel_turn: false,
            }),
            Verdict::Ask => {
                // A rule that says so wants a person; the judge only stands in for the mode's caution.
                let by_mode = mode == Mode::SmartApprove && !rules.iter().any(|r| r.matches(&tool.name));
                let judged = by_mode
                    && services.permission_judge()
                    && tool.extension_name != MANAGEMENT
                    && self.task.judges_read_only(tool, self.call()).await;
                if judged && !self.repeats_itself() {
                    return Ok(granted("judge"));
                }
                let reason = if judged {
                    PermissionReason::Repetition
                } else if tool.extension_name == MANAGEMENT {
                    PermissionReason::ExtensionManagement
                } else {
                    PermissionReason::Policy
                };
                self.ask(reason).await
            }
        }
    }

    fn stuck(&self) -> Permission {
        Permission::Refused {
            record: PermissionRecord { allowed: false, source: "policy".to_owned() },
            message: format!(
                "this call of {} was made again and again with the same result and was not run once more; do \
                 something else, or end with what you have",
                self.call().name
            ),
            cancel_turn: false,
        }
    }

    fn repeats_itself(&self) -> bool {
        let limit = self.task.start.services.max_repeats();
        limit > 0 && guard::repeats(self.history, &self.task.start.turn_id, self.call()) + 1 >= limit
    }

    async fn ask(&mut self, reason: PermissionReason) -> Result<Permission, Stopped> {
        let services = &self.task.start.services;
        let (now, expiry) = (services.source.now(), services.options.permission_expiry);
        let updated = self.updated(ToolCallStatus::AwaitingApproval);
        let question = PermissionQuestion {
            tool_call: self.call().clone(),
            reason,
            prompt: prompt(reason, &self.call().name),
            options: options(reason),
        };
        let interaction = Interaction {
            interaction_id: services.source.interaction_id(),
            turn_id: Some(self.task.start.turn_id.clone()),
            item_id: Some(self.item.item_id.clone()),
            kind: InteractionKind::Permission(Box::new(question.clone())),
            state: InteractionState::Pending,
            create_time: now,
            expire_time: now.plus(expiry),
            outcome: None,
            answer: None,
            answered_by: None,
        };
        let turn_id = Some(self.task.start.turn_id.clone());
        let asked = self.task.start.session.edit(move |core| {
            core.emit(turn_id, updated);
            Ok(core.ask(interaction))
        });
        let Ok(Ok(asked)) = asked.await else { return Err(Stopped) };
        let resolution = self.task.unless_cancelled(asked.value).await.map_err(|_| Stopped)?;
        let resolution = resolution.map_err(|_| Stopped)?;
        Ok(decision(&question, &resolution, &self.call().name))
    }

    async fn execute(&mut self, tool: &ToolDefinition) -> Result<(), Stopped> {
        let now = self.task.start.services.source.now();
        self.set(|call| call.start_time = Some(now));
        let running = self.updated(ToolCallStatus::Running);
        let turn_id = Some(self.task.start.turn_id.clone());
        let stored = self.task.start.session.edit(move |core| {
            core.emit(turn_id, running);
            Ok(())
        });
        let Ok(Ok(_)) = stored.await else { return Err(Stopped) };
        let result = if self.task.own.has(&tool.name) {
            let (result, child) = self.task.own.call(self.task, &self.item).await;
            self.set(|call| call.child_session_id = child);
            result
        } else if self.is_client_tool(tool) {
            self.call_host(tool).await
        } else {
            self.call_extension().await
        };
        let status = match result.outcome {
            ToolOutcome::Ok => ToolCallStatus::Completed,
            ToolOutcome::ToolError | ToolOutcome::ProtocolError | ToolOutcome::InvalidArguments => {
                ToolCallStatus::Failed
            }
            ToolOutcome::TimedOut => ToolCallStatus::TimedOut,
            ToolOutcome::OutcomeUnknown => ToolCallStatus::OutcomeUnknown,
            ToolOutcome::Cancelled | ToolOutcome::Declined => ToolCallStatus::Cancelled,
        };
        self.complete(status, result).await
    }

    async fn call_extension(&self) -> ToolResult {
        let Some(extensions) = &self.task.start.extensions else {
            let error = ErrorDetail::new(ErrorReason::ExtensionUnavailable, "no extension is active");
            return ToolResult::failed(ToolOutcome::ProtocolError, error);
        };
        let (progress, inbox) = mpsc::channel(PROGRESS_QUEUE);
        let request = CallRequest {
            name: self.call().name.clone(),
            arguments_json: self.call().arguments_json.clone(),
            cancel: self.task.start.cancel.clone(),
            progress,
            timeout: None,
            meta_json: None,
            item_id: Some(self.item.item_id.clone()),
        };
        let pump = pump_progress(inbox, self.task.start.session.clone(), self);
        // The pump ends when the call drops its sender, so all output is in the log before the result is.
        let (mut result, output) = futures::join!(extensions.call(request), pump);
        if matches!(result.outcome, ToolOutcome::Cancelled | ToolOutcome::TimedOut) && !output.is_empty() {
            result.parts.insert(0, Part::text(output));
        }
        result
    }

    async fn call_host(&self, tool: &ToolDefinition) -> ToolResult {
        const DEADLINE: Duration = Duration::from_secs(300);
        let kind = HostCallKind::Tool {
            name: tool.tool_name.clone(),
            arguments_json: self.call().arguments_json.clone(),
        };
        let item_id = Some(self.item.item_id.clone());
        match call_host(&self.task.start.session, item_id, kind, DEADLINE).await {
            Ok(HostCallOutcome::Tool(result)) => result,
            Ok(HostCallOutcome::Failed { message, .. }) => ToolResult::failed(
                ToolOutcome::ToolError,
                ErrorDetail::new(ErrorReason::ExtensionUnavailable, message),
            ),
            Ok(_) => ToolResult::failed(
                ToolOutcome::ProtocolError,
                ErrorDetail::new(
                    ErrorReason::InvalidField,
                    "the host answered a tool call with another kind of result",
                ),
            ),
            Err(error) if error.reason == ErrorReason::ToolTimedOut => {
                ToolResult::failed(ToolOutcome::TimedOut, error)
            }
            Err(error) => ToolResult::failed(ToolOutcome::ProtocolError, error),
        }
    }
}

/// Carries progress into the log; gives the last output for calls that are cut.
async fn pump_progress(
    mut inbox: mpsc::Receiver<CallProgress>,
    session: SessionHandle,
    run: &ToolRun<'_>,
) -> String {
    let item_id = &run.item.item_id;
    let turn_id = Some(run.task.start.turn_id.clone());
    let mut kept = String::new();
    let secrets = &run.task.secrets;
    let mut filters: [StreamFilter; 2] = Default::default();
    let of = |stream: OutputStream| usize::from(stream == OutputStream::Stderr);
    while let Some(mut progress) = inbox.recv().await {
        match &mut progress {
            CallProgress::Output { stream, text } => {
                *text = filters[of(*stream)].push(secrets, std::mem::take(text));
                if text.is_empty() {
                    continue;
                }
                keep_tail(&mut kept, text);
            }
            CallProgress::Progress { message: Some(message), .. } => {
                secrets.clean(message);
            }
            CallProgress::Notification { params_json, .. } => secrets.clean_json(params_json),
            CallProgress::Progress { .. } => {}
        }
        let payload = progress_payload(item_id.clone(), progress);
        if session.emit(turn_id.clone(), vec![payload], Vec::new()).await.is_err() {
            return kept;
        }
    }
    for stream in [OutputStream::Stdout, OutputStream::Stderr] {
        let text = filters[of(stream)].finish();
        if !text.is_empty() {
            keep_tail(&mut kept, &text);
            let payload = progress_payload(item_id.clone(), CallProgress::Output { stream, text });
            let _ = session.emit(turn_id.clone(), vec![payload], Vec::new()).await;
        }
    }
    kept
}

/// What the person who is asked should know beyond the call itself.
fn prompt(reason: PermissionReason, tool: &str) -> String {
    match reason {
        PermissionReason::Repetition => {
            format!("The model has made this call of {tool} again and again, with the same result each time.")
        }
        PermissionReason::ExtensionManagement => {
            "Enabling and disabling extensions changes what the model can do.".to_owned()
        }
        _ => String::new(),
    }
}

fn options(reason: PermissionReason) -> Vec<PermissionOption> {
    let mut options = standard_permission_options(reason);
    if reason == PermissionReason::Repetition {
        // A rule would not help: it is asked although the call is allowed.
        options.retain(|o| o.remember_scope == RememberScope::Once);
    }
    options
}

fn keep_tail(kept: &mut String, text: &str) {
    kept.push_str(text);
    if kept.len() > 2 * KEPT_OUTPUT {
        let mut cut = kept.len() - KEPT_OUTPUT;
        while !kept.is_char_boundary(cut) {
            cut += 1;
        }
        kept.drain(..cut);
    }
}

fn decision(question: &PermissionQuestion, resolution: &Resolution, tool: &str) -> Permission {
    let refused = |source: &str, message: String, cancel_turn| Permission::Refused {
        record: PermissionRecord { allowed: false, source: source.to_owned() },
        message,
        cancel_turn,
    };
    match (resolution.outcome, &resolution.answer) {
        (InteractionOutcome::Answered, Some(answer)) => match question.decide(answer) {
            Ok((DecisionKind::Allow, _, _)) => {
                Permission::Granted(PermissionRecord { allowed: true, source: "answer".to_owned() })
            }
            Ok((kind, _, comment)) => {
                let comment = comment.filter(|c| !c.trim().is_empty());
                let message = match comment {
                    Some(comment) => format!("the user declined this call of {tool}: {comment}"),
                    None => {
                        format!("the user declined this call of {tool}; do not try it again without asking")
                    }
                };
                refused("answer", message, kind == DecisionKind::Cancel)
            }
            Err(why) => refused("answer", why, false),
        },
        (InteractionOutcome::Expired, _) => refused(
            "expired",
            format!("nobody answered in time whether {tool} may run; it did not run"),
            false,
        ),
        _ => refused(
            "answer",
            format!("the question whether {tool} may run was withdrawn; it did not run"),
            false,
        ),
    }
}
