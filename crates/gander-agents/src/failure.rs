//! What goes wrong with an agent, as errors that clients see.

use gander_domain::{ErrorDetail, ErrorReason};
use gander_model::Redactor;
use serde_json::Value;

/// JSON-RPC and ACP error codes.
pub(crate) const INVALID_PARAMS: i64 = -32602;
pub(crate) const METHOD_NOT_FOUND: i64 = -32601;
pub(crate) const INTERNAL: i64 = -32603;
pub(crate) const AUTH_REQUIRED: i64 = -32000;
pub(crate) const NOT_FOUND: i64 = -32002;
pub(crate) const CANCELLED: i64 = -32800;
/// Under which key an error has the end of the agent's standard error.
pub(crate) const STDERR_TAIL: &str = "stderrTail";
/// Longest text of an agent's error that is passed on.
const MAX_TEXT: usize = 2048;

/// An error answer, of the agent or to it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RpcError {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) data: Option<Value>,
}

impl RpcError {
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, message)
    }

    /// Reads an `error` object leniently.
    pub(crate) fn parse(value: &Value) -> Self {
        Self {
            code: value.get("code").and_then(Value::as_i64).unwrap_or(INTERNAL),
            message: value.get("message").and_then(Value::as_str).unwrap_or("no message").to_owned(),
            data: value.get("data").filter(|data| !data.is_null()).cloned(),
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        let mut error = serde_json::json!({ "code": self.code, "message": self.message });
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        error
    }

    /// Message and what `data` adds to it.
    fn text(&self) -> String {
        let more = self.data.as_ref().and_then(|data| {
            let text = |key: &str| data.get(key).and_then(Value::as_str).map(str::to_owned);
            let plain = data.as_str().map(str::to_owned);
            plain.or_else(|| text("message")).or_else(|| text("details")).or_else(|| text("error"))
        });
        match more {
            Some(more) if !more.is_empty() && !self.message.contains(&more) => {
                format!("{}: {more}", self.message)
            }
            _ => self.message.clone(),
        }
    }
}

/// Why a request has no result.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The agent answered with an error.
    Rpc(RpcError),
    /// The agent is gone.
    Ended(ErrorDetail),
}

/// Who the errors are about.
#[derive(Clone)]
pub(crate) struct Speaker {
    pub(crate) provider_id: String,
    pub(crate) redactor: Redactor,
}

impl Speaker {
    pub(crate) fn error(&self, reason: ErrorReason, message: impl AsRef<str>) -> ErrorDetail {
        let text = format!("agent {}: {}", self.provider_id, self.redactor.apply(message.as_ref()));
        let end = text.floor_char_boundary(MAX_TEXT + 256);
        ErrorDetail::new(reason, &text[..end]).with("providerId", &self.provider_id)
    }

    /// An error with the last words of the agent's standard error.
    pub(crate) fn with_stderr(&self, reason: ErrorReason, message: &str, stderr: &str) -> ErrorDetail {
        if stderr.is_empty() {
            return self.error(reason, message);
        }
        let last = stderr.lines().last().unwrap_or_default();
        self.error(reason, format!("{message}; its standard error ends with: {last}"))
            .with(STDERR_TAIL, stderr)
    }

    /// The error of a request that failed. `login` names the agent's ways to log in.
    pub(crate) fn failed(&self, method: &str, failure: Failure, login: &[String]) -> ErrorDetail {
        let error = match failure {
            Failure::Ended(error) => return error,
            Failure::Rpc(error) => error,
        };
        let text = error.text();
        let text = &text[..text.floor_char_boundary(MAX_TEXT)];
        let (reason, message) = match error.code {
            AUTH_REQUIRED => {
                let ways = match login {
                    [] => "log in with its own program".to_owned(),
                    ways => format!("log in with its own program ({})", ways.join("; ")),
                };
                (ErrorReason::ProviderUnauthenticated, format!("needs a login: {text}; {ways}"))
            }
            INVALID_PARAMS | METHOD_NOT_FOUND | NOT_FOUND => {
                (ErrorReason::ProviderBadRequest, format!("refused {method}: {text}"))
            }
            _ => (ErrorReason::ProviderUnavailable, format!("{method} failed: {text}")),
        };
        self.error(reason, message).with("agentErrorCode", error.code)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn agent_errors_by_code() {
        let speaker =
            Speaker { provider_id: "x-acp".into(), redactor: Redactor::new(["very-secret-key".to_owned()]) };
        let login = ["Log in: run `x login`".to_owned()];
        for (error, reason, part) in [
            (json!({"code": -32000, "message": "Auth"}), "PROVIDER_UNAUTHENTICATED", "run `x login`"),
            (json!({"code": -32602, "message": "Bad mode"}), "PROVIDER_BAD_REQUEST", "Bad mode"),
            (
                json!({"code": -32603, "message": "Internal error", "data": {"details": "quota very-secret-key"}}),
                "PROVIDER_UNAVAILABLE",
                "Internal error: quota [redacted]",
            ),
            (json!({"code": "odd"}), "PROVIDER_UNAVAILABLE", "no message"),
        ] {
            let detail = speaker.failed("session/prompt", Failure::Rpc(RpcError::parse(&error)), &login);
            assert_eq!(detail.reason.as_str(), reason);
            assert!(detail.message.contains(part), "{detail:?}");
            assert_eq!(detail.metadata["providerId"], "x-acp");
        }
    }
}
