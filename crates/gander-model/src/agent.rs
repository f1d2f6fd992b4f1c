//! The port between the engine and agents that run a loop and tools of their own (ACP agents).
//!
//! A model is called once per response; an agent is asked once per turn and reports what it does. The engine drives an
//! agent through [`AgentSession`] and is told and asked through [`AgentClient`]. Invariants: updates arrive in the
//! agent's order, one at a time, and all that belong to a prompt before that prompt's future resolves; a slow client
//! slows the agent down, nothing is dropped; dropping the future of a question withdraws the question.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use gander_domain::{
    ErrorDetail, Part, SessionId, Usage,
    host::{HostCallKind, HostCallOutcome},
    item::{Location, NoticeLevel, ToolKind},
    session::{Command, PlanEntry, SessionOption},
    usage::Cost,
};

/// The model id that leaves the choice of the model to the agent.
pub const AGENT_MODEL_CURRENT: &str = "current";

/// An agent that can be started.
pub trait AgentBackend: Send + Sync + 'static {
    /// Starts the agent for one session and opens its session: resumed or loaded where `request.resume` names one and
    /// the agent can, else new. Dropping the future ends what was started.
    fn open(
        &self,
        request: AgentOpen,
        client: Arc<dyn AgentClient>,
    ) -> BoxFuture<'_, Result<Arc<dyn AgentSession>, ErrorDetail>>;
}

/// What an agent needs to know of the session.
#[derive(Clone)]
pub struct AgentOpen {
    /// gander's id.
    pub session_id: SessionId,
    /// Absolute.
    pub working_directory: PathBuf,
    /// Absolute; more folders of the session.
    pub additional_directories: Vec<PathBuf>,
    /// What the agent may read and write no file below, although it lies in the session's folders.
    pub denied_paths: Vec<PathBuf>,
    /// The environment of the session's processes, without secrets.
    pub environment: BTreeMap<String, String>,
    /// The session's extensions.
    pub mcp_servers: Vec<AgentMcpServer>,
    /// The agent's own id of a session that it had before.
    pub resume: Option<String>,
}

impl fmt::Debug for AgentOpen {
    /// Without environment and servers, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentOpen")
            .field("session_id", &self.session_id)
            .field("working_directory", &self.working_directory)
            .field("resume", &self.resume)
            .finish_non_exhaustive()
    }
}

/// An extension that the agent starts or calls itself. Values may be secrets: they go to the agent and nowhere else.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum AgentMcpServer {
    Stdio { name: String, command: String, args: Vec<String>, env: BTreeMap<String, String> },
    Http { name: String, url: String, headers: BTreeMap<String, String> },
}

impl AgentMcpServer {
    /// The extension's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Stdio { name, .. } | Self::Http { name, .. } => name,
        }
    }
}

/// What is known once the agent's session is open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentOpened {
    /// The agent's own id of the session.
    pub agent_session_id: String,
    /// The agent knows the conversation of `AgentOpen::resume`.
    pub continued: bool,
    /// As the agent calls itself.
    pub name: String,
    pub version: String,
    pub accepts_images: bool,
    pub accepts_audio: bool,
    /// Whether files may be embedded in prompts.
    pub accepts_resources: bool,
    /// Servers of the request that this agent cannot use.
    pub servers_left_out: Vec<String>,
    /// How long updates may come behind the end of a prompt that they belong to (zero for agents that keep the order).
    pub settle: Duration,
    /// Values of the agent's setting of category `mode`, best first, in which it changes nothing (it plans or answers).
    pub read_only_modes: Vec<String>,
    /// Those in which it asks for no permission.
    pub unattended_modes: Vec<String>,
}

/// The open session of a running agent.
pub trait AgentSession: Send + Sync + 'static {
    /// What the agent said at the start.
    fn opened(&self) -> &AgentOpened;

    /// Settings that the agent offers, as of now.
    fn options(&self) -> Vec<SessionOption>;

    /// Sends a prompt and waits for its end. One at a time. Dropping the future does not cancel the prompt.
    fn prompt(&self, parts: Vec<Part>) -> BoxFuture<'static, Result<AgentPromptEnd, ErrorDetail>>;

    /// Puts more input into the running prompt; whether the agent took it. What it does not take has to be a prompt of
    /// its own.
    fn steer(&self, _parts: Vec<Part>) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    /// Tells the agent to stop the running prompt, whose future then resolves.
    fn cancel(&self) -> BoxFuture<'_, ()>;

    /// Changes a setting; gives all of them.
    fn set_option(
        &self,
        option_id: &str,
        value: &str,
    ) -> BoxFuture<'_, Result<Vec<SessionOption>, ErrorDetail>>;

    /// Whether the agent's process lives.
    fn is_open(&self) -> bool;

    /// Ends the session and the process with everything that it started.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// How a prompt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentPromptEnd {
    pub stop: AgentStop,
    /// Tokens of the whole prompt, where the agent says.
    pub usage: Option<Usage>,
}

/// Why an agent stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentStop {
    EndTurn,
    MaxTokens,
    MaxTurnRequests,
    Refusal,
    Cancelled,
}

/// What an agent reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentUpdate {
    Text {
        message_id: Option<String>,
        text: String,
    },
    Thought {
        message_id: Option<String>,
        text: String,
    },
    /// A part of the agent's message that is no text.
    Part {
        message_id: Option<String>,
        part: Part,
    },
    /// A call begins or changes: a field that is `Some` replaces what was there.
    ToolCall(Box<AgentToolCall>),
    /// Live output of a call, for display.
    ToolOutput {
        call_id: String,
        text: String,
    },
    /// The whole plan.
    Plan(Vec<PlanEntry>),
    Commands(Vec<Command>),
    /// All settings.
    Options(Vec<SessionOption>),
    Title(String),
    /// `cost` is the sum since the agent's session began.
    Usage {
        context_used_tokens: u64,
        context_window_tokens: u64,
        cost: Option<Cost>,
    },
    Notice {
        level: NoticeLevel,
        code: String,
        text: String,
    },
}

/// A tool call as the agent reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentToolCall {
    pub call_id: String,
    pub name: Option<String>,
    pub title: Option<String>,
    pub kind: Option<ToolKind>,
    pub status: Option<AgentToolStatus>,
    pub content: Option<Vec<Part>>,
    pub locations: Option<Vec<Location>>,
    /// JSON text.
    pub input_json: Option<String>,
    /// JSON text.
    pub output_json: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentToolStatus {
    Pending,
    InProgress,
    Completed,
    Failed,
}

/// The agent asks whether it may run a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPermission {
    pub call: AgentToolCall,
    pub options: Vec<AgentPermissionOption>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPermissionOption {
    pub option_id: String,
    pub label: String,
    pub kind: AgentPermissionKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentPermissionKind {
    AllowOnce,
    AllowAlways,
    RejectOnce,
    RejectAlways,
}

/// The agent asks the user something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentElicitation {
    Form { message: String, schema_json: String },
    Url { message: String, url: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentElicitationAnswer {
    /// With the form's content, JSON object text.
    Accept(Option<String>),
    Decline,
    Cancel,
}

/// The session as the agent sees it. Implemented by the engine.
pub trait AgentClient: Send + Sync + 'static {
    /// Takes an update. The agent's next message is read when this has resolved.
    fn update(&self, update: AgentUpdate) -> BoxFuture<'_, ()>;

    /// Why the agent may neither write files nor run commands now; `None`: it may.
    fn forbids_work(&self) -> BoxFuture<'_, Option<String>> {
        Box::pin(std::future::ready(None))
    }

    /// Asks for permission; gives the id of an option, or `None` for cancelled.
    fn permission(&self, question: AgentPermission) -> BoxFuture<'_, Option<String>>;

    /// Asks the user.
    fn elicit(&self, question: AgentElicitation) -> BoxFuture<'_, AgentElicitationAnswer>;

    /// Work for the attached host; `None`: there is none that can do it, and the backend does it itself.
    fn host_call(&self, kind: HostCallKind) -> BoxFuture<'_, Option<HostCallOutcome>>;
}
