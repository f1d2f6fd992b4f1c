//! What a notification means, whether it came typed (in process, HTTP) or as JSON (stdio). Pure.
#![allow(deprecated, reason = "logging is deprecated in the newest revision of MCP and alive in all others")]

use gander_domain::event::OutputStream;
use rmcp::model::{NotificationMetaObject, ProgressToken, ServerNotification};
use serde::Deserialize;
use serde_json::Value;

use crate::calls::CallProgress;

/// gander's own notification: live output of a running command.
const OUTPUT: &str = "notifications/gander/output";

/// A notification, sorted.
pub(crate) enum Notice {
    /// For the call with this token.
    Call(ProgressToken, CallProgress),
    Log {
        token: Option<ProgressToken>,
        level: String,
        logger: String,
        data_json: String,
    },
    ToolsChanged,
    ResourcesChanged,
    PromptsChanged,
    ResourceUpdated(String),
    /// For the protocol library.
    Cancelled(ServerNotification),
    /// Not known, or malformed.
    Ignored,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProgressParams {
    progress_token: ProgressToken,
    #[serde(default)]
    progress: f64,
    total: Option<f64>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutputParams {
    progress_token: ProgressToken,
    #[serde(default)]
    stream: String,
    text: String,
}

impl Notice {
    pub(crate) fn of(notification: ServerNotification) -> Self {
        match notification {
            ServerNotification::ProgressNotification(n) => {
                let p = n.params;
                let progress =
                    CallProgress::Progress { progress: p.progress, total: p.total, message: p.message };
                Self::Call(p.progress_token, progress)
            }
            ServerNotification::LoggingMessageNotification(n) => {
                let meta = n.extensions.get::<NotificationMetaObject>().or(n.params.meta.as_ref());
                Self::Log {
                    token: meta
                        .and_then(|meta| meta.0.get("progressToken"))
                        .and_then(|token| serde_json::from_value(token.clone()).ok()),
                    level: json_string(&n.params.level),
                    logger: n.params.logger.unwrap_or_default(),
                    data_json: n.params.data.to_string(),
                }
            }
            ServerNotification::ToolListChangedNotification(_) => Self::ToolsChanged,
            ServerNotification::ResourceListChangedNotification(_) => Self::ResourcesChanged,
            ServerNotification::PromptListChangedNotification(_) => Self::PromptsChanged,
            ServerNotification::ResourceUpdatedNotification(n) => Self::ResourceUpdated(n.params.uri),
            cancelled @ ServerNotification::CancelledNotification(_) => Self::Cancelled(cancelled),
            ServerNotification::CustomNotification(n) => {
                Self::from_json(&n.method, n.params.unwrap_or(Value::Null))
            }
            _ => Self::Ignored,
        }
    }

    fn from_json(method: &str, params: Value) -> Self {
        match method {
            "notifications/progress" => match serde_json::from_value::<ProgressParams>(params) {
                Ok(p) => Self::Call(
                    p.progress_token,
                    CallProgress::Progress { progress: p.progress, total: p.total, message: p.message },
                ),
                Err(_) => Self::Ignored,
            },
            OUTPUT => match serde_json::from_value::<OutputParams>(params) {
                Ok(p) => {
                    let stream =
                        if p.stream == "stderr" { OutputStream::Stderr } else { OutputStream::Stdout };
                    Self::Call(p.progress_token, CallProgress::Output { stream, text: p.text })
                }
                Err(_) => Self::Ignored,
            },
            "notifications/message" => {
                let text = |name: &str| {
                    params.get(name).and_then(Value::as_str).map(str::to_owned).unwrap_or_default()
                };
                Self::Log {
                    token: token(&params),
                    level: text("level"),
                    logger: text("logger"),
                    data_json: params.get("data").unwrap_or(&Value::Null).to_string(),
                }
            }
            "notifications/tools/list_changed" => Self::ToolsChanged,
            "notifications/resources/list_changed" => Self::ResourcesChanged,
            "notifications/prompts/list_changed" => Self::PromptsChanged,
            "notifications/resources/updated" => match params.get("uri").and_then(Value::as_str) {
                Some(uri) => Self::ResourceUpdated(uri.to_owned()),
                None => Self::Ignored,
            },
            _ => match token(&params) {
                Some(token) => Self::Call(
                    token,
                    CallProgress::Notification { method: method.to_owned(), params_json: params.to_string() },
                ),
                None => Self::Ignored,
            },
        }
    }
}

/// The call that a notification names, in its parameters or in their `_meta`.
fn token(params: &Value) -> Option<ProgressToken> {
    let token = params.get("progressToken").or_else(|| params.get("_meta")?.get("progressToken"))?;
    serde_json::from_value(token.clone()).ok()
}

fn json_string(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        _ => String::new(),
    }
}
