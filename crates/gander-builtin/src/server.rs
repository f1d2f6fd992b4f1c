//! The MCP side that all builtins share: listing tools, dispatching calls, ending.
//!
//! A tool's failure is a result (`isError`) that the model can read; only an unknown tool is a protocol error. A tool
//! that panics answers with an error instead of leaving its caller waiting.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, LazyLock},
};

use futures::{
    FutureExt as _,
    future::{self, BoxFuture},
};
use rmcp::{
    ErrorData, ServerHandler,
    handler::server::tool::{schema_for_input, schema_for_output},
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, DiscoverResult,
        Implementation, InitializeRequestParams, InitializeResult, JsonObject, ListToolsResult,
        PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
    },
    service::{RequestContext, RoleServer},
};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::hooks::HookError;

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

impl From<HookError> for ToolError {
    fn from(error: HookError) -> Self {
        Self(error.to_string())
    }
}

pub(crate) type ToolResult = Result<CallToolResult, ToolError>;

/// What a server says about itself.
pub(crate) struct About {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// For the model, on how to use the tools.
    pub(crate) instructions: String,
}

/// The tools of all servers of one kind: their schemas are the larger part of a server.
pub(crate) type Tools = LazyLock<Arc<[Tool]>>;

/// What is special about one builtin.
pub(crate) trait Builtin: Send + Sync + 'static {
    /// Does no work: what has to be looked up belongs into `recall`.
    fn about(&self) -> About;

    /// What is known from earlier, asked when a client says hello; goes to the model behind the instructions.
    fn recall(&self) -> BoxFuture<'_, Option<String>> {
        future::ready(None).boxed()
    }

    /// The same for every server of its kind; made once.
    fn tools(&self) -> Arc<[Tool]>;

    /// Runs one of `tools`. It ends soon after the call is cancelled or the server closes.
    fn call<'a>(
        &'a self,
        request: CallToolRequestParams,
        context: &'a RequestContext<RoleServer>,
    ) -> BoxFuture<'a, ToolResult>;
}

/// A builtin as an MCP server.
#[derive(Clone)]
pub(crate) struct Server {
    builtin: Arc<dyn Builtin>,
    tools: Arc<[Tool]>,
    calls: TaskTracker,
    closing: CancellationToken,
}

impl Server {
    /// `make` gets the token that is cancelled when the server ends.
    pub(crate) fn new<B: Builtin>(make: impl FnOnce(CancellationToken) -> B) -> Self {
        let closing = CancellationToken::new();
        let builtin = make(closing.clone());
        let tools = builtin.tools();
        Self { builtin: Arc::new(builtin), tools, calls: TaskTracker::new(), closing }
    }

    /// Cancelled when the server ends; every call listens to it.
    pub(crate) fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// The calls that have not ended.
    pub(crate) fn calls(&self) -> TaskTracker {
        self.calls.clone()
    }

    async fn add_recalled(&self, instructions: &mut Option<String>) {
        let recalled = AssertUnwindSafe(self.builtin.recall()).catch_unwind().await;
        if let Some(recalled) = recalled.ok().flatten() {
            let text = instructions.get_or_insert_default();
            text.push_str("\n\n");
            text.push_str(&recalled);
        }
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let about = self.builtin.about();
        let implementation =
            Implementation::new(about.name, env!("CARGO_PKG_VERSION")).with_title(about.title);
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(implementation)
            .with_instructions(about.instructions)
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        context.peer.set_peer_info(request.clone());
        let mut result = self.negotiate_initialize(&request)?;
        self.add_recalled(&mut result.instructions).await;
        Ok(result)
    }

    async fn discover(&self, _context: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let mut info = self.get_info();
        self.add_recalled(&mut info.instructions).await;
        Ok(DiscoverResult::from_server_info(self.supported_protocol_versions().into_owned(), info))
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
        let call = AssertUnwindSafe(self.builtin.call(request, &context)).catch_unwind();
        let outcome = self.calls.track_future(call).await.unwrap_or_else(|_| Err(panicked()));
        let result = outcome.unwrap_or_else(|error| CallToolResult::error(vec![ContentBlock::text(error.0)]));
        Ok(result.into())
    }
}

pub(crate) fn panicked() -> ToolError {
    ToolError::new("the tool failed by an internal error; nothing is known about how far it got")
}

pub(crate) fn cancelled() -> ToolError {
    ToolError::new("cancelled")
}

/// Arguments that do not fit are the model's to correct.
pub(crate) fn parse<A: DeserializeOwned>(arguments: JsonObject) -> Result<A, ToolError> {
    serde_json::from_value(serde_json::Value::Object(arguments))
        .map_err(|error| ToolError::new(format!("the arguments do not fit the tool's schema: {error}")))
}

/// A result of text for the model and data for clients.
pub(crate) fn answer(text: impl Into<String>, structured: serde_json::Value) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(structured);
    result
}

/// An `answer` of a tool that says what its data looks like.
pub(crate) fn answer_as<O: Serialize>(text: impl Into<String>, structured: &O) -> ToolResult {
    let structured = serde_json::to_value(structured)
        .map_err(|error| ToolError::new(format!("the result cannot be written as JSON: {error}")))?;
    Ok(answer(text, structured))
}

/// What a tool does to the world, in MCP's words.
pub(crate) struct Hints {
    pub(crate) read_only: bool,
    pub(crate) destructive: bool,
    pub(crate) idempotent: bool,
    pub(crate) open_world: bool,
}

pub(crate) const READS: Hints =
    Hints { read_only: true, destructive: false, idempotent: true, open_world: false };

/// The definition of a tool with arguments `A`.
pub(crate) fn tool<A: JsonSchema + 'static>(
    name: &'static str,
    title: &'static str,
    description: &'static str,
    hints: &Hints,
) -> Tool {
    // Fails only for a type that is no object, which the tests would show as an empty schema.
    let mut schema = schema_for_input::<A>().unwrap_or_default();
    // Some model providers refuse an object that does not say that it has no properties.
    Arc::make_mut(&mut schema).entry("properties").or_insert_with(|| serde_json::json!({}));
    let annotations = ToolAnnotations::with_title(title)
        .read_only(hints.read_only)
        .destructive(hints.destructive)
        .idempotent(hints.idempotent)
        .open_world(hints.open_world);
    Tool::new(name, description, schema).with_title(title).with_annotations(annotations)
}

/// Like [`tool`], with results that hold an `O` as data.
pub(crate) fn tool_with_output<A: JsonSchema + 'static, O: JsonSchema + 'static>(
    name: &'static str,
    title: &'static str,
    description: &'static str,
    hints: &Hints,
) -> Tool {
    tool::<A>(name, title, description, hints).with_raw_output_schema(schema_for_output::<O>())
}
