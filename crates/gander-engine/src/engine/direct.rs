//! Tool calls outside of turns (`CallTool`): the caller's own act. Never-allow rules and bounds apply, no question is
//! asked; one audit item, hidden from user and model, is appended after the answer.

use std::time::Duration;

use gander_domain::{
    ErrorDetail, ErrorReason, Item, ItemBody, Payload, SessionId,
    host::{HostCallKind, HostCallOutcome},
    item::{
        Executor, ItemState, Origin, PermissionRecord, ToolCall, ToolCallStatus, ToolOutcome, ToolResult,
        Visibility,
    },
    permission::{PermissionRule, RuleDecision},
    tool::ToolDefinition,
};
use gander_mcp::{CallProgress, CallRequest};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Engine, RequestContext,
    extensions::WAIT_FOR_TOOLS,
    idempotency::{Keyed, Receipt, Recorder},
};
use crate::{
    services::store_error,
    session::{SessionHandle, call_host},
    source::Mint,
    spill::{SpillPlace, stored_result},
};

const PROGRESS_QUEUE: usize = 64;

/// A validated direct call.
#[derive(Debug, Clone)]
pub struct DirectCall {
    /// Public name; an unambiguous tool name without its extension will do.
    pub name: String,
    /// JSON object text; empty = `{}`.
    pub arguments_json: String,
    pub timeout: Option<Duration>,
    pub meta_json: Option<String>,
    /// Key of the extension whose user interface calls; it may use its own tools that are meant for apps, and no others.
    pub app_of: Option<String>,
}

impl DirectCall {
    fn may_use(&self, tool: &ToolDefinition) -> Result<(), ErrorDetail> {
        let Some(key) = &self.app_of else { return Ok(()) };
        let text = if tool.extension_name != *key {
            format!("an app of {key} may call tools of {key} only; {} is not one", tool.name)
        } else if !tool.visibility.app {
            format!("the tool {} is not meant for apps, by its server's own word", tool.name)
        } else {
            return Ok(());
        };
        Err(ErrorDetail::new(ErrorReason::ToolNotAllowed, text).with("name", &tool.name))
    }
}

/// A running direct call. Dropping it cancels the call.
pub struct DirectCallStream {
    pub progress: mpsc::Receiver<CallProgress>,
    pub result: oneshot::Receiver<ToolResult>,
    _cancel: DropGuard,
}

impl Engine {
    /// Starts a direct call.
    pub async fn call_tool(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        call: DirectCall,
    ) -> Result<DirectCallStream, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Fresh(recorder) => recorder,
            Keyed::Replay(receipt) => return replayed(&receipt),
        };
        self.refuse_when_draining()?;
        let extensions = self.extensions(session_id).await?;
        let tool = match extensions.find_tool(&call.name) {
            Some(tool) => tool,
            None => self.find_tool(session_id, &call.name).await?,
        };
        call.may_use(&tool)?;
        self.note_start(&recorder, session_id).await?;
        let (progress, inbox) = mpsc::channel(PROGRESS_QUEUE);
        let (sender, result) = oneshot::channel();
        let cancel = CancellationToken::new();
        // Nothing on this path waits for a commit of the session: the call's latency is the tool's.
        let handle = match self.loaded(session_id).await {
            Some(handle) => handle,
            None => self.handle(session_id).await?,
        };
        let guard = handle.begin_call();
        let rules = handle.rules();
        let place = SpillPlace {
            session_dir: self.session_dir(session_id),
            item_id: self.services.source.item_id(),
            max_bytes: crate::content::MAX_INLINE_BYTES,
        };
        let secrets = self.services.secret_filter();
        let run = DirectRun {
            session: handle.clone(),
            tool,
            arguments_json: if call.arguments_json.is_empty() {
                "{}".to_owned()
            } else {
                call.arguments_json.clone()
            },
            rules: rules
                .iter()
                .cloned()
                .chain(self.services.project_rules(&handle.summary().working_directory))
                .chain(self.services.user_rules())
                .collect(),
            recorder,
            actor: context.actor.clone(),
            started: self.services.source.now(),
            item_id: place.item_id.clone(),
        };
        let request = CallRequest {
            name: run.tool.name.clone(),
            arguments_json: run.arguments_json.clone(),
            cancel: cancel.clone(),
            progress,
            timeout: call.timeout,
            meta_json: call.meta_json,
            item_id: None,
        };
        let client_tool =
            extensions.find_tool(&run.tool.name).is_none() || extensions.is_client_tool(&run.tool.name);
        self.services.tasks.spawn(async move {
            let outcome = match run.refusal() {
                Some(refused) => refused,
                None if client_tool => run.call_host(request.timeout).await,
                None => extensions.call(request).await,
            };
            let (outcome, contents) = stored_result(outcome, &secrets, &place).await;
            if run.recorder.is_keyed() {
                // A caller that has the result may repeat the call, and must then find it.
                run.record(outcome.clone(), contents).await;
                let _ = sender.send(outcome);
            } else {
                // The answer first: the audit item is not part of the caller's latency.
                let _ = sender.send(outcome.clone());
                run.record(outcome, contents).await;
                drop(guard);
            }
        });
        Ok(DirectCallStream { progress: inbox, result, _cancel: cancel.drop_guard() })
    }

    /// A key without an outcome tells a retry that the call may have run.
    async fn note_start(&self, recorder: &Recorder, session_id: &SessionId) -> Result<(), ErrorDetail> {
        if !recorder.is_keyed() {
            return Ok(());
        }
        let now = self.services.source.now();
        match recorder.record(Some(session_id), &Receipt::default(), now) {
            Some(record) => self.services.store.put_idempotency(record).await.map_err(|e| store_error(&e)),
            None => Ok(()),
        }
    }

    async fn find_tool(&self, session_id: &SessionId, name: &str) -> Result<ToolDefinition, ErrorDetail> {
        let tools = self.list_tools(session_id, None, Some(WAIT_FOR_TOOLS)).await?;
        let mut matching = tools.iter().filter(|t| t.name == name || t.tool_name == name);
        match (matching.next(), matching.next()) {
            (Some(tool), None) => Ok(tool.clone()),
            (Some(a), Some(b)) => {
                let exact = tools.iter().find(|t| t.name == name).cloned();
                exact.ok_or_else(|| {
                    ErrorDetail::new(
                        ErrorReason::ToolNotFound,
                        format!("tool name {name:?} is ambiguous: {} or {}", a.name, b.name),
                    )
                    .with("name", name)
                })
            }
            (None, _) => {
                let known: Vec<_> = tools.iter().map(|t| t.name.as_str()).take(50).collect();
                Err(ErrorDetail::new(
                    ErrorReason::ToolNotFound,
                    format!("there is no tool {name:?} in this session; there are: {}", known.join(", ")),
                )
                .with("name", name))
            }
        }
    }
}

/// A retry of a call that was recorded.
fn replayed(receipt: &Receipt) -> Result<DirectCallStream, ErrorDetail> {
    let (progress, inbox) = mpsc::channel(1);
    drop(progress);
    let (sender, result) = oneshot::channel();
    let outcome = if receipt.id.is_empty() {
        let error = ErrorDetail::new(
            ErrorReason::StoreUnavailable,
            "the daemon stopped while this call ran; it may or may not have had its effect, and is not run again",
        );
        ToolResult::failed(ToolOutcome::OutcomeUnknown, error)
    } else {
        serde_json::from_str(&receipt.id)
            .map_err(|e| ErrorDetail::internal(format!("a stored result cannot be read: {e}")))?
    };
    let _ = sender.send(outcome);
    Ok(DirectCallStream { progress: inbox, result, _cancel: CancellationToken::new().drop_guard() })
}

struct DirectRun {
    session: SessionHandle,
    tool: ToolDefinition,
    arguments_json: String,
    rules: Vec<PermissionRule>,
    recorder: Recorder,
    actor: gander_domain::Actor,
    started: gander_domain::Timestamp,
    item_id: gander_domain::ItemId,
}

impl DirectRun {
    fn refusal(&self) -> Option<ToolResult> {
        let never =
            self.rules.iter().any(|r| r.decision == RuleDecision::NeverAllow && r.matches(&self.tool.name));
        never.then(|| {
            let message = format!("a permission rule never allows {}", self.tool.name);
            ToolResult::failed(ToolOutcome::Declined, ErrorDetail::new(ErrorReason::ToolNotAllowed, message))
        })
    }

    async fn call_host(&self, timeout: Option<Duration>) -> ToolResult {
        let kind = HostCallKind::Tool {
            name: self.tool.tool_name.clone(),
            arguments_json: self.arguments_json.clone(),
        };
        let deadline = timeout.unwrap_or(Duration::from_secs(300));
        match call_host(&self.session, None, kind, deadline).await {
            Ok(HostCallOutcome::Tool(result)) => result,
            Ok(HostCallOutcome::Failed { message, .. }) => {
                let error = ErrorDetail::new(ErrorReason::ExtensionUnavailable, message);
                ToolResult::failed(ToolOutcome::ToolError, error)
            }
            Ok(_) => {
                let error =
                    ErrorDetail::internal("the host answered a tool call with another kind of result");
                ToolResult::failed(ToolOutcome::ProtocolError, error)
            }
            Err(error) => ToolResult::failed(ToolOutcome::ProtocolError, error),
        }
    }

    /// The audit item, the outcome under its key, and the end of the session's duty to stay loaded.
    async fn record(self, result: ToolResult, contents: Vec<gander_store::NewContent>) {
        let session = self.session.clone();
        let recorded = session
            .edit(move |core| {
                let now = core.now();
                let receipt = Receipt {
                    sequence: core.state.last_sequence() + 1,
                    id: serde_json::to_string(&result).unwrap_or_default(),
                };
                let id = core.session_id().clone();
                let record = self.recorder.record(Some(&id), &receipt, now);
                let item = self.audit_item(core, result);
                core.act_as(self.actor.clone());
                core.attach(contents);
                core.emit(None, Payload::ItemCompleted { item: Box::new(item) });
                core.record(record);
                Ok(())
            })
            .await;
        if !matches!(recorded, Ok(Ok(_))) {
            tracing::warn!("a direct tool call could not be recorded");
        }
    }

    fn audit_item(&self, core: &crate::session::Core, result: ToolResult) -> Item {
        let status = match result.outcome {
            ToolOutcome::Ok => ToolCallStatus::Completed,
            ToolOutcome::Declined => ToolCallStatus::Declined,
            ToolOutcome::Cancelled => ToolCallStatus::Cancelled,
            ToolOutcome::TimedOut => ToolCallStatus::TimedOut,
            ToolOutcome::InvalidArguments => ToolCallStatus::Invalid,
            ToolOutcome::OutcomeUnknown => ToolCallStatus::OutcomeUnknown,
            ToolOutcome::ToolError | ToolOutcome::ProtocolError => ToolCallStatus::Failed,
        };
        let mut call = ToolCall::streaming(self.tool.name.clone(), String::new());
        call.extension_name.clone_from(&self.tool.extension_name);
        call.tool_name.clone_from(&self.tool.tool_name);
        call.arguments_json.clone_from(&self.arguments_json);
        call.status = status;
        call.executor = Executor::Engine;
        call.permission = Some(PermissionRecord {
            allowed: status != ToolCallStatus::Declined,
            source: "caller".to_owned(),
        });
        call.start_time = Some(self.started);
        call.result = Some(result);
        Item {
            item_id: self.item_id.clone(),
            turn_id: None,
            message_id: core.services.source.message_id(),
            body: ItemBody::ToolCall(Box::new(call)),
            state: ItemState::Completed,
            incomplete: false,
            visibility: Visibility { user: false, model: false },
            origin: Origin::Client,
            create_time: self.started,
            client_create_time: None,
            complete_time: Some(core.now()),
            redacted: false,
            model_id: None,
            provider_state_json: None,
        }
    }
}
