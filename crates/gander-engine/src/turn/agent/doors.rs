//! The session's extensions in the agent's hands.
//!
//! Where the daemon has a program for it they stay here: the agent is given a door to each (a stdio server in its eyes),
//! so allowed tools, sandbox, pinned definitions, secrets and rules hold as for a model's calls. Elsewhere (an embedder
//! without that program) the agent starts the servers itself, and those that only gander can run as configured are
//! left out.
//!
//! Calls that come through a door are the agent's: it asks for permission before it makes them, so nobody is asked again
//! here, and it reports them itself. What a rule or the mode forbids is refused, and a turn that is cut ends its calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use gander_domain::{
    ErrorDetail, ErrorReason, Payload,
    extension::{ExtensionConfig, ExtensionTransport, SandboxMode},
    host::{HostCallKind, HostCallOutcome},
    item::{ToolOutcome, ToolResult},
    permission::Verdict,
    tool::ToolDefinition,
};
use gander_mcp::{CallRequest, Door, DoorKeeper, SessionExtensions};
use gander_model::AgentMcpServer;

use super::bridge::Bridge;
use crate::{
    services::Services,
    session::{PlannedExtension, call_host},
    turn::describe,
};

/// Builtins that agents are not given: they run commands and edit files by themselves, where their own rules and their
/// client's files and terminals are; and what an agent adds to the session it would only get when it is started again.
const NOT_FOR_AGENTS: [&str; 2] = ["developer", "extensionmanager"];
/// How long a host may take for a tool where the call says nothing.
const HOST_TOOL: Duration = Duration::from_secs(300);

/// What an agent can be given of a session.
pub(super) struct Offer {
    extensions: Arc<SessionExtensions>,
    keys: BTreeSet<String>,
    hash: u64,
}

impl Offer {
    /// `None`: there is no program that could stand in for a server.
    pub(super) fn new(services: &Services, extensions: Option<&Arc<SessionExtensions>>) -> Option<Self> {
        services.mcp.door_command()?;
        let extensions = extensions?.clone();
        let mut hasher = DefaultHasher::new();
        // Extensions that were made anew (the session's folders changed) need other doors.
        Arc::as_ptr(&extensions).hash(&mut hasher);
        let mut keys = BTreeSet::new();
        for status in extensions.statuses() {
            let builtin = matches!(status.summary.kind.as_str(), "builtin" | "platform");
            if builtin && NOT_FOR_AGENTS.contains(&status.summary.key.as_str()) {
                continue;
            }
            status.summary.config_hash.hash(&mut hasher);
            keys.insert(status.summary.key);
        }
        keys.hash(&mut hasher);
        Some(Self { extensions, keys, hash: hasher.finish() })
    }

    /// Differs when the agent has to be started with something else.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// Opens the door; gives the servers that the agent sees.
    ///
    /// # Errors
    /// The names of what the agent has to do without.
    pub(super) fn open(
        self,
        services: &Services,
        bridge: &Arc<Bridge>,
    ) -> Result<(Option<Door>, Vec<AgentMcpServer>), Vec<String>> {
        let command = services.mcp.door_command().and_then(|line| line.split_first());
        let Some((program, arguments)) = command.filter(|_| !self.keys.is_empty()) else {
            return Ok((None, Vec::new()));
        };
        bridge.set_extensions(&self.extensions);
        let door = match Door::open(self.extensions, self.keys.clone(), bridge.clone()) {
            Ok(door) => door,
            Err(error) => {
                tracing::error!(%error, "the agent cannot be given the session's extensions");
                return Err(self.keys.into_iter().collect());
            }
        };
        let socket = door.socket().display().to_string();
        let server = |key: String| AgentMcpServer::Stdio {
            name: key.clone(),
            command: program.clone(),
            args: arguments.iter().cloned().chain([socket.clone(), key]).collect(),
            env: BTreeMap::new(),
        };
        Ok((Some(door), self.keys.into_iter().map(server).collect()))
    }
}

impl DoorKeeper for Bridge {
    fn call(&self, request: CallRequest) -> BoxFuture<'_, ToolResult> {
        self.hand_over(request).boxed()
    }

    fn clean(&self, text: &mut String) {
        self.secrets().clean_json(text);
    }
}

impl Bridge {
    async fn hand_over(&self, mut request: CallRequest) -> ToolResult {
        // The end of the turn ends the call, also where the agent does not.
        let turn = self.until_cut().await;
        if turn.is_cancelled() {
            return cancelled("the turn was cancelled");
        }
        request.cancel = request.cancel.child_token();
        let cancel = request.cancel.clone();
        let working = self.work(request);
        tokio::pin!(working);
        tokio::select! {
            biased;
            result = &mut working => return result,
            () = turn.cancelled() => cancel.cancel(),
        }
        working.await
    }

    async fn work(&self, request: CallRequest) -> ToolResult {
        let found = self.extensions().and_then(|all| Some((all.find_tool(&request.name)?, all)));
        let Some((tool, extensions)) = found else {
            let text = format!("the session has no tool {} any more", request.name);
            let error = ErrorDetail::new(ErrorReason::ToolNotFound, text);
            return ToolResult::failed(ToolOutcome::ProtocolError, error);
        };
        if let Verdict::Deny { message, .. } = self.verdict_of(&tool).await {
            let error = ErrorDetail::new(ErrorReason::ToolNotAllowed, message);
            return ToolResult::failed(ToolOutcome::Declined, error);
        }
        let _busy = self.session().begin_call();
        let mut result = match extensions.is_client_tool(&tool.name) {
            true => self.call_client_tool(&tool, request).await,
            false => extensions.call(request).await,
        };
        drop(extensions);
        self.secrets().clean_result(&mut result);
        if tool.trusted
            && tool.extension_name == "todo"
            && let Some(plan) = describe::plan(result.structured_content_json.as_deref())
        {
            self.note(Payload::PlanUpdated { plan }).await;
        }
        result
    }

    /// A tool that the attached host executes.
    async fn call_client_tool(&self, tool: &ToolDefinition, request: CallRequest) -> ToolResult {
        let arguments = Some(request.arguments_json).filter(|text| !text.trim().is_empty());
        let kind = HostCallKind::Tool {
            name: tool.tool_name.clone(),
            arguments_json: arguments.unwrap_or_else(|| "{}".to_owned()),
        };
        let deadline = request.timeout.unwrap_or(HOST_TOOL);
        let outcome = tokio::select! {
            biased;
            () = request.cancel.cancelled() => return cancelled("the call was cancelled"),
            outcome = call_host(self.session(), None, kind, deadline) => outcome,
        };
        match outcome {
            Ok(HostCallOutcome::Tool(result)) => result,
            Ok(HostCallOutcome::Failed { message, .. }) => ToolResult::failed(
                ToolOutcome::ToolError,
                ErrorDetail::new(ErrorReason::ExtensionUnavailable, message),
            ),
            Ok(_) => ToolResult::failed(
                ToolOutcome::ProtocolError,
                ErrorDetail::internal("the host answered a tool call with another kind of result"),
            ),
            Err(error) => ToolResult::failed(ToolOutcome::ProtocolError, error),
        }
    }
}

fn cancelled(why: &str) -> ToolResult {
    ToolResult::failed(ToolOutcome::Cancelled, ErrorDetail::new(ErrorReason::TurnNotRunning, why))
}

/// The session's extensions as servers that an agent starts or calls itself, and the names of those that only gander can
/// run as their configuration asks.
pub(super) fn servers(extensions: &[PlannedExtension]) -> (Vec<AgentMcpServer>, Vec<String>) {
    let (mut servers, mut left_out) = (Vec::new(), Vec::new());
    for planned in extensions {
        let config = &planned.config;
        let builtin = matches!(config.transport, ExtensionTransport::Builtin | ExtensionTransport::Platform);
        if builtin && NOT_FOR_AGENTS.contains(&gander_domain::extension::extension_key(&config.name).as_str())
        {
            continue;
        }
        // Only gander hides tools, binds processes and watches definitions.
        let guarded = config.pin_definitions
            || !config.tool_allowlist.is_empty()
            || config.sandbox.as_ref().is_some_and(|sandbox| sandbox.mode != SandboxMode::Off);
        match server(config, &planned.secrets).filter(|_| planned.refused.is_none() && !guarded) {
            Some(server) => servers.push(server),
            None => left_out.push(config.name.clone()),
        }
    }
    (servers, left_out)
}

fn server(config: &ExtensionConfig, secrets: &BTreeMap<String, String>) -> Option<AgentMcpServer> {
    let mut values = config.env.clone();
    values.extend(secrets.clone());
    let name = config.name.clone();
    match &config.transport {
        ExtensionTransport::Stdio { command, args } => {
            let mut words = config.exec_prefix.iter().chain([command]).chain(args).cloned();
            Some(AgentMcpServer::Stdio { name, command: words.next()?, args: words.collect(), env: values })
        }
        ExtensionTransport::StreamableHttp { uri, headers, unix_socket: None } => {
            let fill = |text: &String| gander_mcp::substitute(text, &values);
            let headers = headers.iter().map(|(name, value)| (name.clone(), fill(value))).collect();
            Some(AgentMcpServer::Http { name, url: fill(uri), headers })
        }
        _ => None,
    }
}
