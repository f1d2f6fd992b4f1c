//! The `developer` extension: a shell and files.
//!
//! Tools report what went wrong as results (`isError`), in words that let a model correct itself; only an unknown
//! tool is a protocol error. Blocking work runs off the reactor and looks at its cancel token. A tool that panics
//! answers with an error instead of leaving its caller waiting.

mod capture;
mod diff;
mod edit;
mod list;
mod read;
mod search;
mod shell;

use std::{fmt, panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt as _;
use rmcp::{
    ErrorData, ServerHandler,
    handler::server::tool::schema_for_input,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, JsonObject,
        ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
    },
    service::{RequestContext, RoleServer},
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{context::BuiltinContext, paths::PathGuard};

pub use shell::OUTPUT_NOTIFICATION;

/// The name in an extension's config.
pub(crate) const NAME: &str = "developer";

/// A failure that the model should read.
#[derive(Debug)]
pub(crate) struct ToolError(String);

impl ToolError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type ToolResult = Result<CallToolResult, ToolError>;

/// What all calls of one server share.
#[derive(Debug)]
struct Shared {
    context: BuiltinContext,
    guard: PathGuard,
    closing: CancellationToken,
}

/// The server.
#[derive(Clone, Debug)]
pub(crate) struct Developer {
    shared: Arc<Shared>,
    tools: Arc<[Tool]>,
    calls: TaskTracker,
}

impl Developer {
    pub(crate) fn new(context: BuiltinContext) -> Self {
        let guard = PathGuard::new(&context);
        let shared = Shared { guard, context, closing: CancellationToken::new() };
        Self { shared: Arc::new(shared), tools: tools().into(), calls: TaskTracker::new() }
    }

    /// Cancelled when the server ends; every call listens to it.
    pub(crate) fn closing(&self) -> CancellationToken {
        self.shared.closing.clone()
    }

    /// The calls that have not ended.
    pub(crate) fn calls(&self) -> TaskTracker {
        self.calls.clone()
    }

    async fn run(&self, request: CallToolRequestParams, context: &RequestContext<RoleServer>) -> ToolResult {
        let arguments = request.arguments.unwrap_or_default();
        match &*request.name {
            "shell" => shell::run(&self.shared, parse(arguments)?, context).await,
            "read" => self.blocking(context, parse(arguments)?, read::run).await,
            "write" => self.blocking(context, parse(arguments)?, edit::write).await,
            "edit" => self.blocking(context, parse(arguments)?, edit::edit).await,
            "list" => self.blocking(context, parse(arguments)?, list::run).await,
            "search" => self.blocking(context, parse(arguments)?, search::run).await,
            other => Err(ToolError::new(format!("there is no tool {other:?}"))),
        }
    }

    /// Runs file work off the reactor.
    async fn blocking<A: Send + 'static>(
        &self,
        context: &RequestContext<RoleServer>,
        arguments: A,
        work: fn(&Shared, &A, &dyn Fn() -> bool) -> ToolResult,
    ) -> ToolResult {
        let (shared, token) = (Arc::clone(&self.shared), context.ct.clone());
        let task = tokio::task::spawn_blocking(move || {
            let cancelled = || token.is_cancelled() || shared.closing.is_cancelled();
            work(&shared, &arguments, &cancelled)
        });
        task.await.unwrap_or_else(|_| Err(panicked()))
    }
}

fn panicked() -> ToolError {
    ToolError::new("the tool failed by an internal error; nothing is known about how far it got")
}

fn cancelled() -> ToolError {
    ToolError::new("cancelled")
}

/// Arguments that do not fit are the model's to correct.
fn parse<A: DeserializeOwned>(arguments: JsonObject) -> Result<A, ToolError> {
    serde_json::from_value(serde_json::Value::Object(arguments))
        .map_err(|error| ToolError::new(format!("the arguments do not fit the tool's schema: {error}")))
}

/// A result of text for the model and data for clients.
fn answer(text: impl Into<String>, structured: serde_json::Value) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(structured);
    result
}

impl ServerHandler for Developer {
    fn get_info(&self) -> ServerConfig {
        let directory = self.shared.context.working_directory.display();
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("gander-developer", env!("CARGO_PKG_VERSION")).with_title("Developer"))
            .with_instructions(format!(
                "Tools to work on files and to run commands. The working directory is {directory}; relative paths \
                 start there. Prefer `read`, `edit`, `list` and `search` to shell commands that do the same: they \
                 bound their output and say what went wrong. Read a file before you edit it."
            ))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.to_vec()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if !self.tools.iter().any(|tool| tool.name == request.name) {
            return Err(ErrorData::invalid_params(format!("unknown tool {:?}", request.name), None));
        }
        let call = AssertUnwindSafe(self.run(request, &context)).catch_unwind();
        let outcome = self.calls.track_future(call).await.unwrap_or_else(|_| Err(panicked()));
        let result = outcome.unwrap_or_else(|error| CallToolResult::error(vec![ContentBlock::text(error.0)]));
        Ok(result.into())
    }
}

/// What a tool does to the world, in MCP's words.
struct Hints {
    read_only: bool,
    destructive: bool,
    idempotent: bool,
    open_world: bool,
}

const READS: Hints = Hints { read_only: true, destructive: false, idempotent: true, open_world: false };
const OVERWRITES: Hints = Hints { read_only: false, destructive: true, idempotent: true, open_world: false };
const CHANGES: Hints = Hints { read_only: false, destructive: true, idempotent: false, open_world: false };
const ANYTHING: Hints = Hints { read_only: false, destructive: true, idempotent: false, open_world: true };

fn tools() -> Vec<Tool> {
    vec![
        tool::<shell::Arguments>("shell", "Run a command", shell::DESCRIPTION, &ANYTHING),
        tool::<read::Arguments>("read", "Read a file", read::DESCRIPTION, &READS),
        tool::<edit::WriteArguments>("write", "Write a file", edit::WRITE_DESCRIPTION, &OVERWRITES),
        tool::<edit::EditArguments>("edit", "Edit a file", edit::EDIT_DESCRIPTION, &CHANGES),
        tool::<list::Arguments>("list", "List a folder", list::DESCRIPTION, &READS),
        tool::<search::Arguments>("search", "Search in files", search::DESCRIPTION, &READS),
    ]
}

fn tool<A: JsonSchema + 'static>(
    name: &'static str,
    title: &'static str,
    description: &'static str,
    hints: &Hints,
) -> Tool {
    // Fails only for a type that is no object, which the tests would show as an empty schema.
    let schema = schema_for_input::<A>().unwrap_or_default();
    let annotations = ToolAnnotations::with_title(title)
        .read_only(hints.read_only)
        .destructive(hints.destructive)
        .idempotent(hints.idempotent)
        .open_world(hints.open_world);
    Tool::new(name, description, schema).with_title(title).with_annotations(annotations)
}
