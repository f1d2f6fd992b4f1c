//! One agent's session: its connection, and gander as the client that the agent talks to.

use std::{
    collections::HashMap,
    ffi::OsStr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use gander_domain::{ErrorDetail, ErrorReason, Part, Usage, session::SessionOption};
use gander_model::{
    AgentClient, AgentElicitation, AgentElicitationAnswer, AgentMcpServer, AgentOpen, AgentOpened,
    AgentPermission, AgentPermissionKind, AgentPermissionOption, AgentPromptEnd, AgentSession, AgentStop,
    AgentUpdate,
};
use gander_process::{Spawner, find_program};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{Connection, Handler},
    content::block_of,
    failure::{CANCELLED, Failure, INTERNAL, RpcError, Speaker},
    files::Files,
    handshake::{Capabilities, initialize, left_out, open_session},
    options::Options,
    process::{self, ProcessEnd},
    provider::Launch,
    stderr::StderrRing,
    terminals::Terminals,
    updates::{self, Update},
};

/// How long the agent may take to close its session before its process is ended.
const CLOSE: Duration = Duration::from_millis(500);

/// What the agent's messages need.
struct Shared {
    connection: Arc<Connection>,
    client: Arc<dyn AgentClient>,
    speaker: Speaker,
    files: Files,
    terminals: Terminals,
    options: Mutex<Options>,
    /// The agent's id of the session, once known.
    session_id: OnceLock<String>,
    /// Messages and calls are a replay of what is known.
    replaying: AtomicBool,
    /// Pages that the user was asked to open, by the agent's ids.
    pages: Mutex<HashMap<String, CancellationToken>>,
}

/// A running agent with an open session. Dropping it ends the process.
pub(crate) struct AcpSession {
    shared: Arc<Shared>,
    opened: AgentOpened,
    capabilities: Capabilities,
    end: EndOnDrop,
}

/// How the agent is started.
pub(crate) struct Start<'a> {
    pub(crate) spawner: &'a Spawner,
    pub(crate) launch: &'a Launch,
    pub(crate) speaker: &'a Speaker,
    /// Takes what it writes to its standard error.
    pub(crate) stderr: Arc<StderrRing>,
}

/// Ends the process with its owner.
struct EndOnDrop(ProcessEnd);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.close.cancel();
    }
}

impl AcpSession {
    /// Starts the process and opens the session. Dropping the future ends the process.
    pub(crate) async fn open(
        start: Start<'_>,
        mut request: AgentOpen,
        client: Arc<dyn AgentClient>,
    ) -> Result<Arc<Self>, ErrorDetail> {
        let Start { spawner, launch, speaker, stderr } = start;
        for server in &mut request.mcp_servers {
            // The agent wants absolute paths; what is not found stays as it is and is left out.
            if let AgentMcpServer::Stdio { command, env, .. } = server {
                let mut environment = request.environment.clone();
                environment.extend(env.clone());
                let program = find_program(OsStr::new(command), &request.working_directory, &environment);
                if let Some(path) = program.and_then(|path| path.to_str().map(str::to_owned)) {
                    *command = path;
                }
            }
        }
        let mut environment = request.environment.clone();
        environment.extend(launch.environment.clone());
        environment.retain(|name, _| !launch.env_remove.contains(name));
        let directory = request.working_directory.clone();
        let started = process::start(spawner, &launch.command_lines, &directory, environment, speaker)?;
        let (connection, outgoing) = Connection::new();
        let roots = std::iter::once(&request.working_directory).chain(&request.additional_directories);
        let roots: Vec<PathBuf> = roots.cloned().collect();
        let files = Files::new(roots, &request.denied_paths);
        let terminals_close = CancellationToken::new();
        let shared = Arc::new(Shared {
            connection: connection.clone(),
            client,
            speaker: speaker.clone(),
            terminals: Terminals::new(
                spawner.clone(),
                directory,
                request.environment.clone(),
                files.clone(),
                terminals_close.clone(),
            ),
            files,
            options: Mutex::default(),
            session_id: OnceLock::new(),
            replaying: AtomicBool::new(false),
            pages: Mutex::default(),
        });
        let end = EndOnDrop(started.connect(&connection, outgoing, shared.clone(), speaker.clone(), stderr));
        let gone = end.0.gone.clone();
        let close = end.0.close.clone();
        tokio::spawn(async move {
            // The agent's commands go with the agent, whoever ended it.
            tokio::select! {
                () = gone.cancelled() => {}
                () = close.cancelled() => {}
            }
            terminals_close.cancel();
        });
        let (mut opened, capabilities) = initialize(&connection, speaker, launch).await?;
        let replaying = |on| shared.replaying.store(on, Ordering::Release);
        let (session_id, continued, answer) =
            open_session(&connection, speaker, launch, &capabilities, &request, replaying).await?;
        // Set once, here.
        let _ = shared.session_id.set(session_id.clone());
        shared.options().take_response(&answer);
        opened.agent_session_id = session_id;
        opened.continued = continued;
        opened.servers_left_out = left_out(&capabilities, &request.mcp_servers);
        Ok(Arc::new(Self { shared, opened, capabilities, end }))
    }

    fn session_params(&self, mut params: Value) -> Value {
        params["sessionId"] = json!(self.opened.agent_session_id);
        params
    }
}

impl AgentSession for AcpSession {
    fn opened(&self) -> &AgentOpened {
        &self.opened
    }

    fn options(&self) -> Vec<SessionOption> {
        self.shared.options().list()
    }

    fn prompt(&self, parts: Vec<Part>) -> BoxFuture<'static, Result<AgentPromptEnd, ErrorDetail>> {
        let blocks: Result<Vec<Value>, ErrorDetail> =
            parts.iter().map(|part| block_of(part, &self.opened)).collect();
        let params = blocks.map(|blocks| self.session_params(json!({ "prompt": blocks })));
        let (shared, login) = (self.shared.clone(), self.capabilities.login.clone());
        async move {
            let answer = shared.connection.request("session/prompt", params?).await;
            match answer {
                Ok(answer) => prompt_end(&answer, &shared.speaker),
                // Agents of older kinds answer a cancel with an error.
                Err(Failure::Rpc(error)) if error.code == CANCELLED => {
                    Ok(AgentPromptEnd { stop: AgentStop::Cancelled, usage: None })
                }
                Err(failure) => Err(shared.speaker.failed("session/prompt", failure, &login)),
            }
        }
        .boxed()
    }

    fn steer(&self, parts: Vec<Part>) -> BoxFuture<'_, bool> {
        async move {
            let blocks: Result<Vec<Value>, ErrorDetail> =
                parts.iter().map(|part| block_of(part, &self.opened)).collect();
            let (true, Ok(blocks)) = (self.capabilities.steering, blocks) else { return false };
            // Without a running prompt it must not start one by itself.
            let meta = json!({ "steering": { "idleBehavior": "promptRequired" } });
            let params = self.session_params(json!({ "prompt": blocks, "_meta": meta }));
            match self.shared.connection.request("_session/steering", params).await {
                Ok(answer) => answer.get("outcome").and_then(Value::as_str) == Some("injected"),
                Err(failure) => {
                    tracing::debug!(?failure, "the agent did not take input while its prompt runs");
                    false
                }
            }
        }
        .boxed()
    }

    fn cancel(&self) -> BoxFuture<'_, ()> {
        self.shared.connection.notify("session/cancel", self.session_params(json!({}))).boxed()
    }

    fn set_option(
        &self,
        option_id: &str,
        value: &str,
    ) -> BoxFuture<'_, Result<Vec<SessionOption>, ErrorDetail>> {
        let request = self.shared.options().set(option_id, value);
        let (option_id, value) = (option_id.to_owned(), value.to_owned());
        async move {
            let request = request?;
            let answer = self.shared.connection.request(request.method, self.session_params(request.params));
            let answer =
                answer.await.map_err(|failure| self.shared.speaker.failed(request.method, failure, &[]))?;
            let mut options = self.shared.options();
            options.take_set(&option_id, &value, &answer);
            Ok(options.list())
        }
        .boxed()
    }

    fn is_open(&self) -> bool {
        self.shared.connection.ended().is_none()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            if self.is_open() && self.capabilities.close {
                let closing = self.shared.connection.request("session/close", self.session_params(json!({})));
                let _ = tokio::time::timeout(CLOSE, closing).await;
            }
            self.end.0.close.cancel();
            self.end.0.gone.cancelled().await;
        }
        .boxed()
    }
}

fn prompt_end(answer: &Value, speaker: &Speaker) -> Result<AgentPromptEnd, ErrorDetail> {
    let reason = answer.get("stopReason").and_then(Value::as_str).unwrap_or("end_turn");
    let stop = match reason {
        "end_turn" => AgentStop::EndTurn,
        "max_tokens" => AgentStop::MaxTokens,
        "max_turn_requests" => AgentStop::MaxTurnRequests,
        "refusal" => AgentStop::Refusal,
        "cancelled" => AgentStop::Cancelled,
        other => {
            let message = format!("ended the prompt for the unknown reason {other:?}");
            return Err(speaker.error(ErrorReason::ProviderBadRequest, message));
        }
    };
    let usage = answer.get("usage").filter(|usage| usage.is_object()).map(|usage| {
        let tokens = |key: &str| usage.get(key).and_then(Value::as_u64);
        Usage {
            input_tokens: tokens("inputTokens"),
            output_tokens: tokens("outputTokens"),
            cache_read_tokens: tokens("cachedReadTokens"),
            cache_write_tokens: tokens("cachedWriteTokens"),
            reasoning_tokens: tokens("thoughtTokens"),
            total_tokens: tokens("totalTokens"),
        }
    });
    Ok(AgentPromptEnd { stop, usage })
}

impl Shared {
    fn options(&self) -> MutexGuard<'_, Options> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message speaks of our session: sessions of subagents are not ours to show.
    fn is_ours(&self, params: &Value) -> bool {
        let named = params.get("sessionId").and_then(Value::as_str);
        match (self.session_id.get(), named) {
            (Some(ours), Some(named)) => ours == named,
            _ => true,
        }
    }

    async fn session_update(&self, params: &Value) {
        if !self.is_ours(params) {
            tracing::debug!("an update of another session was left out");
            return;
        }
        let update = updates::parse(params.get("update").unwrap_or(&Value::Null));
        let told = match update {
            Update::Nothing => return,
            Update::Mode(mode) => {
                let mut options = self.options();
                if !options.take_mode(&mode) {
                    return;
                }
                vec![AgentUpdate::Options(options.list())]
            }
            Update::Options(list) => {
                let mut options = self.options();
                options.take_config(&list);
                vec![AgentUpdate::Options(options.list())]
            }
            Update::Tell(told) => told,
        };
        let replaying = self.replaying.load(Ordering::Acquire);
        for mut update in told {
            if replaying && is_conversation(&update) {
                continue;
            }
            if let AgentUpdate::ToolCall(call) = &mut update
                && let Some(content) = &mut call.content
            {
                use gander_model::AgentToolStatus as S;
                let ended = matches!(call.status, Some(S::Completed | S::Failed));
                self.terminals.complete(&call.call_id, content, ended);
            }
            self.client.update(update).await;
        }
    }

    async fn permission(&self, params: &Value) -> Result<Value, RpcError> {
        let call = params.get("toolCall").and_then(updates::tool_call);
        let call = call.ok_or_else(|| RpcError::invalid("toolCall.toolCallId is missing"))?;
        let options = params.get("options").and_then(Value::as_array).into_iter().flatten();
        let options: Vec<AgentPermissionOption> = options.filter_map(permission_option).collect();
        if options.is_empty() {
            return Err(RpcError::invalid("options is empty"));
        }
        let known: Vec<String> = options.iter().map(|option| option.option_id.clone()).collect();
        let answer = self.client.permission(AgentPermission { call, options }).await;
        Ok(match answer.filter(|id| known.contains(id)) {
            Some(id) => json!({ "outcome": { "outcome": "selected", "optionId": id } }),
            None => json!({ "outcome": { "outcome": "cancelled" } }),
        })
    }

    /// A page that the agent asks to open, so that the agent can say when the user is through with it.
    fn note_page(self: &Arc<Self>, params: &Value) -> Option<OpenPage> {
        let id = params.get("elicitationId").and_then(Value::as_str)?.to_owned();
        let done = CancellationToken::new();
        self.pages().insert(id.clone(), done.clone());
        Some(OpenPage { shared: Arc::clone(self), id, done })
    }

    async fn elicit(&self, params: &Value, page: Option<OpenPage>) -> Result<Value, RpcError> {
        let text = |key: &str| params.get(key).and_then(Value::as_str).map(str::to_owned);
        let message = text("message").unwrap_or_default();
        let question = match text("mode").as_deref() {
            Some("form") | None => {
                let schema = params.get("requestedSchema");
                let schema = schema.ok_or_else(|| RpcError::invalid("requestedSchema is missing"))?;
                AgentElicitation::Form { message, schema_json: schema.to_string() }
            }
            Some("url") => {
                let url = text("url").ok_or_else(|| RpcError::invalid("url is missing"))?;
                AgentElicitation::Url { message, url }
            }
            Some(other) => return Err(RpcError::invalid(format!("mode {other:?} is not known"))),
        };
        let answer = match page {
            Some(page) => tokio::select! {
                biased;
                // The agent has noticed by itself that the user is through.
                () = page.done.cancelled() => AgentElicitationAnswer::Accept(None),
                answer = self.client.elicit(question) => answer,
            },
            None => self.client.elicit(question).await,
        };
        Ok(match answer {
            AgentElicitationAnswer::Accept(content) => {
                let content = content.and_then(|json| serde_json::from_str::<Value>(&json).ok());
                match content {
                    Some(content) => json!({ "action": "accept", "content": content }),
                    None => json!({ "action": "accept" }),
                }
            }
            AgentElicitationAnswer::Decline => json!({ "action": "decline" }),
            AgentElicitationAnswer::Cancel => json!({ "action": "cancel" }),
        })
    }

    async fn dispatch(
        &self,
        method: &str,
        params: &Value,
        page: Option<OpenPage>,
    ) -> Option<Result<Value, RpcError>> {
        if matches!(method, "fs/write_text_file" | "terminal/create")
            && let Some(why) = self.client.forbids_work().await
        {
            return Some(Err(RpcError::new(INTERNAL, why)));
        }
        Some(match method {
            "session/request_permission" => self.permission(params).await,
            "elicitation/create" => self.elicit(params, page).await,
            "fs/read_text_file" => self.files.read(params, self.client.as_ref()).await,
            "fs/write_text_file" => self.files.write(params, self.client.as_ref()).await,
            _ => return self.terminals.request(method, params, &self.client).await,
        })
    }
}

/// Forgets the page when its question ends, in whatever way.
struct OpenPage {
    shared: Arc<Shared>,
    id: String,
    done: CancellationToken,
}

impl Drop for OpenPage {
    fn drop(&mut self) {
        self.shared.pages().remove(&self.id);
    }
}

/// What a replay repeats, as opposed to the state that it ends in.
fn is_conversation(update: &AgentUpdate) -> bool {
    matches!(
        update,
        AgentUpdate::Text { .. }
            | AgentUpdate::Thought { .. }
            | AgentUpdate::Part { .. }
            | AgentUpdate::ToolCall(_)
            | AgentUpdate::ToolOutput { .. }
            | AgentUpdate::Notice { .. }
    )
}

fn permission_option(option: &Value) -> Option<AgentPermissionOption> {
    let text = |key: &str| option.get(key).and_then(Value::as_str);
    let option_id = text("optionId")?.to_owned();
    let kind = match text("kind")? {
        "allow_once" => AgentPermissionKind::AllowOnce,
        "allow_always" => AgentPermissionKind::AllowAlways,
        "reject_once" => AgentPermissionKind::RejectOnce,
        "reject_always" => AgentPermissionKind::RejectAlways,
        // Nobody may be led to allow what they do not understand.
        _ => return None,
    };
    let label = text("name").map_or_else(|| option_id.clone(), str::to_owned);
    Some(AgentPermissionOption { option_id, label, kind })
}

impl Handler for Shared {
    fn notification<'a>(&'a self, method: &'a str, params: &'a Value) -> BoxFuture<'a, ()> {
        async move {
            match method {
                "session/update" => self.session_update(params).await,
                "elicitation/complete" => {
                    let id = params.get("elicitationId").and_then(Value::as_str).unwrap_or_default();
                    if let Some(done) = self.pages().get(id) {
                        done.cancel();
                    }
                }
                other => tracing::debug!(method = other, "a notification that is not used"),
            }
        }
        .boxed()
    }

    fn request(
        self: Arc<Self>,
        method: String,
        params: Value,
    ) -> BoxFuture<'static, Option<Result<Value, RpcError>>> {
        // Before anything else of the agent is read: it may say at once that the user is through.
        let page = if method == "elicitation/create" { self.note_page(&params) } else { None };
        async move { self.dispatch(&method, &params, page).await }.boxed()
    }
}
