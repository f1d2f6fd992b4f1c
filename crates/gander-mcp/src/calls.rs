//! One call of a tool, from public name to result. A call never fails as such: every failure is an outcome.

use std::time::Duration;

use gander_domain::{
    ErrorDetail, ErrorReason, ItemId, Part,
    event::OutputStream,
    item::{ToolOutcome, ToolResult},
};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ErrorCode, InputResponses, JsonObject, RequestMetaObject,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::Tool,
    connection::{Failure, RequestOptions},
    content,
    host::TraceContext,
    rounds,
    server::Server,
    stderr::clean,
    wire::WireFailure,
};

/// A call.
#[derive(Debug)]
pub struct CallRequest {
    /// Public name of the tool.
    pub name: String,
    /// JSON object text; empty = no arguments.
    pub arguments_json: String,
    /// Ends the call as cancelled; the server is told.
    pub cancel: CancellationToken,
    /// Where reports go. A full channel delays reports and, for at most 2 s, the result. Dropping the receiver is
    /// allowed.
    pub progress: mpsc::Sender<CallProgress>,
    /// Deadline; absent = the extension's, else the host's.
    pub timeout: Option<Duration>,
    /// `_meta` of the request, JSON object text. A progress token in it is replaced.
    pub meta_json: Option<String>,
    /// The tool call that this is in the log, if it is there already. Builtins in this process learn of it.
    pub item_id: Option<ItemId>,
}

/// The field of `_meta` by which a builtin in this process knows the tool call that it works on.
pub const ITEM_META_KEY: &str = "gander/itemId";

/// What a server reports while a call runs.
#[derive(Debug, Clone, PartialEq)]
pub enum CallProgress {
    /// Live output of a command.
    Output {
        /// Which stream.
        stream: OutputStream,
        /// As it came, in pieces.
        text: String,
    },
    /// MCP progress.
    Progress {
        /// How far.
        progress: f64,
        /// Of how much.
        total: Option<f64>,
        /// What is being done.
        message: Option<String>,
    },
    /// Any other notification that names this call.
    Notification {
        /// MCP method.
        method: String,
        /// Its parameters.
        params_json: String,
    },
}

/// How long the result waits for a reader of reports that does not read.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// Builtins bound their own work, a command by what its caller allows it (a day at most): they need no other deadline,
/// and one that is shorter would cut what was allowed.
const BUILTIN_TIMEOUT: Duration = Duration::from_secs(25 * 3600);

pub(crate) fn failed(outcome: ToolOutcome, reason: ErrorReason, text: impl Into<String>) -> ToolResult {
    ToolResult::failed(outcome, ErrorDetail::new(reason, text))
}

pub(crate) fn cancelled() -> ToolResult {
    ToolResult {
        outcome: ToolOutcome::Cancelled,
        parts: vec![Part::text("the call was cancelled")],
        structured_content_json: None,
        is_error: true,
        meta_json: None,
        error: None,
        truncated: None,
        duration_ms: 0,
    }
}

/// Calls `tool` of `server`. `default_timeout` is the host's.
pub(crate) async fn call(
    server: &Server,
    tool: &Tool,
    request: CallRequest,
    default_timeout: Duration,
) -> ToolResult {
    let key = server.key();
    if tool.definition.quarantined {
        return failed(
            ToolOutcome::ProtocolError,
            ErrorReason::ToolNotAllowed,
            format!(
                "the definition of the tool {} is not the one that was approved, so it cannot be called; approve \
                 it again",
                request.name
            ),
        );
    }
    if tool.client {
        return failed(
            ToolOutcome::ProtocolError,
            ErrorReason::ExtensionUnavailable,
            format!("the tool {} is executed by an attached host, and no host is attached", request.name),
        );
    }
    let arguments = match tool.schema.prepare(&request.arguments_json) {
        Ok(arguments) => arguments,
        Err(text) => return invalid_arguments(&request.name, &text),
    };
    let mut meta = match parse_meta(request.meta_json.as_deref()) {
        Ok(meta) => meta,
        Err(text) => return failed(ToolOutcome::ProtocolError, ErrorReason::InvalidField, text),
    };
    if server.is_in_process() {
        name_item(&mut meta, request.item_id.as_ref());
    }
    let default_timeout = if server.is_builtin() { BUILTIN_TIMEOUT } else { default_timeout };
    let meta = traced(meta, server.host().options.trace_context.as_ref());
    let timeout = request.timeout.or(server.call_timeout()).unwrap_or(default_timeout);
    let deadline = Instant::now() + timeout;
    let connection = tokio::select! {
        biased;
        () = request.cancel.cancelled() => return cancelled(),
        connection = server.connection(deadline) => connection,
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(error) => return ToolResult::failed(ToolOutcome::ProtocolError, error),
    };
    let params = CallToolRequestParams::new(tool.definition.tool_name.clone()).with_arguments(arguments);
    let make = |responses: Option<InputResponses>, state: Option<String>| {
        let mut params = params.clone();
        (params.input_responses, params.request_state) = (responses, state);
        CallToolRequest::new(params).into()
    };
    let options = RequestOptions {
        deadline,
        timeout,
        cancel: request.cancel.clone(),
        progress: Some(request.progress),
        drain: DRAIN_PATIENCE,
        meta,
    };
    match rounds::request(&connection, options, make).await {
        Ok(value) => {
            content::tool_result(value).and_then(|result| checked(tool, result)).unwrap_or_else(|text| {
                failed(
                    ToolOutcome::ProtocolError,
                    ErrorReason::ExtensionUnavailable,
                    format!("extension {key}, tool {}: {text}", tool.definition.tool_name),
                )
            })
        }
        Err(failure) => outcome(key, &request.name, failure),
    }
}

/// A result whose structured content is not what the tool promised is none.
fn checked(tool: &Tool, result: ToolResult) -> Result<ToolResult, String> {
    if let (Some(schema), Some(text), false) =
        (&tool.output, &result.structured_content_json, result.is_error)
    {
        let value = serde_json::from_str(text).unwrap_or_default();
        let checked = schema.check("structuredContent", &value);
        checked.map_err(|text| {
            format!("the server's structured result does not match the tool's output schema: {text}")
        })?;
    }
    Ok(result)
}

fn invalid_arguments(name: &str, text: &str) -> ToolResult {
    let mut error = ErrorDetail::invalid("arguments_json", text);
    error.message = format!("{name}: {text}");
    ToolResult::failed(ToolOutcome::InvalidArguments, error)
}

/// Only the caller's own word about the item counts, not what came from outside with `_meta`.
fn name_item(meta: &mut Option<RequestMetaObject>, item_id: Option<&ItemId>) {
    if let Some(meta) = meta {
        meta.0.0.remove(ITEM_META_KEY);
    }
    if let Some(item_id) = item_id {
        let name = serde_json::Value::from(item_id.as_str());
        meta.get_or_insert_default().0.0.insert(ITEM_META_KEY.to_owned(), name);
    }
}

pub(crate) fn parse_meta(meta_json: Option<&str>) -> Result<Option<RequestMetaObject>, String> {
    let Some(text) = meta_json.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    match serde_json::from_str::<JsonObject>(text) {
        Ok(object) => Ok(Some(RequestMetaObject::from(object))),
        Err(error) => Err(format!("meta_json must be a JSON object: {error}")),
    }
}

/// Adds where the call belongs in a trace, unless its caller said so.
fn traced(meta: Option<RequestMetaObject>, context: Option<&TraceContext>) -> Option<RequestMetaObject> {
    const FIELD: &str = "traceparent";
    let known = meta.as_ref().is_some_and(|meta| meta.0.contains_key(FIELD));
    let Some(parent) = context.filter(|_| !known).and_then(|context| context()) else { return meta };
    let mut object = meta.map(|meta| meta.0).unwrap_or_default();
    object.insert(FIELD.to_owned(), parent.into());
    Some(RequestMetaObject::from(object))
}

/// The outcome of a request that was not answered with a result.
fn outcome(key: &str, name: &str, failure: Failure) -> ToolResult {
    match failure {
        Failure::Cancelled => cancelled(),
        Failure::TimedOut(timeout) => ToolResult::failed(
            ToolOutcome::TimedOut,
            error_of(key, name, Failure::TimedOut(timeout)).with("timeoutMs", timeout.as_millis()),
        ),
        Failure::Asked(text) => {
            ToolResult::failed(ToolOutcome::ToolError, error_of(key, name, Failure::Asked(text)))
        }
        other => ToolResult::failed(ToolOutcome::ProtocolError, error_of(key, name, other)),
    }
}

/// The error of a request that was not answered with a result. `what` names it.
pub(crate) fn error_of(key: &str, what: &str, failure: Failure) -> ErrorDetail {
    let (reason, text) = match failure {
        Failure::Cancelled => (ErrorReason::ExtensionUnavailable, "the request was cancelled".to_owned()),
        Failure::TimedOut(timeout) => (
            ErrorReason::ToolTimedOut,
            format!("no answer within {} s; the server was told to stop", timeout.as_secs_f64()),
        ),
        Failure::Gone(text) | Failure::Asked(text) => (ErrorReason::ExtensionUnavailable, text),
        Failure::Wire(WireFailure::TooLarge(limit)) => (
            ErrorReason::MessageTooLarge,
            format!("the server's answer exceeds the limit of {} MiB", limit / (1024 * 1024)),
        ),
        Failure::Wire(WireFailure::Batch) => (
            ErrorReason::ExtensionUnavailable,
            "the server answered with a JSON-RPC batch, which MCP has abolished; update the server"
                .to_owned(),
        ),
        Failure::Wire(WireFailure::Unreadable(text)) => {
            (ErrorReason::ExtensionUnavailable, format!("the server's answer cannot be read: {text}"))
        }
        Failure::Rpc(error) => {
            let reason = match error.code {
                ErrorCode::METHOD_NOT_FOUND => ErrorReason::NotImplemented,
                ErrorCode::INVALID_PARAMS => ErrorReason::InvalidField,
                ErrorCode::RESOURCE_NOT_FOUND => ErrorReason::ResourceNotFound,
                _ => ErrorReason::ExtensionUnavailable,
            };
            let detail = ErrorDetail::new(
                reason,
                format!(
                    "extension {key}, {what}: the server says: {} (code {})",
                    clean(&error.message, &[]),
                    error.code.0
                ),
            )
            .with("mcpCode", error.code.0);
            return detail.with("extensionName", key);
        }
    };
    ErrorDetail::new(reason, format!("extension {key}, {what}: {text}")).with("extensionName", key)
}
