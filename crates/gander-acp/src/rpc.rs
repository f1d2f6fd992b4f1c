//! JSON-RPC 2.0 as it arrives and as it leaves: tolerant of what clients get wrong, strict in what is written.
//!
//! Invariants: an id is echoed exactly as it came (string, number or null); a notification never gets an answer;
//! errors never repeat the parameters they are about.

use gander_client::ClientError;
use gander_proto::{reason, v1::ErrorDetail, v1::ErrorReason};
use serde_json::{Value, json};
use tonic::Code;

/// A message of the client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Incoming {
    Request { id: Value, method: String, params: Value },
    Notification { method: String, params: Value },
    Response { id: Value, outcome: Result<Value, RpcError> },
}

/// An error as JSON-RPC carries it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RpcError {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) data: Option<Value>,
}

pub(crate) const PARSE_ERROR: i64 = -32700;
pub(crate) const INVALID_REQUEST: i64 = -32600;
pub(crate) const METHOD_NOT_FOUND: i64 = -32601;
pub(crate) const INVALID_PARAMS: i64 = -32602;
pub(crate) const INTERNAL: i64 = -32603;
pub(crate) const AUTH_REQUIRED: i64 = -32000;
pub(crate) const NOT_FOUND: i64 = -32002;
pub(crate) const CANCELLED: i64 = -32800;

impl RpcError {
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub(crate) fn params(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(INTERNAL, message)
    }

    pub(crate) fn unknown_method(method: &str) -> Self {
        // The method's name is no parameter and tells the developer of a client what is missing.
        Self::new(METHOD_NOT_FOUND, format!("gander does not know the method {:?}", shorten(method)))
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(CANCELLED, "the request was cancelled")
    }

    pub(crate) fn with(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    fn to_json(&self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message});
        if let (Some(data), Some(error)) = (&self.data, error.as_object_mut()) {
            error.insert("data".to_owned(), data.clone());
        }
        error
    }

    /// What the daemon refused, about this session if there is one.
    pub(crate) fn of(error: &ClientError, session_id: Option<&str>) -> Self {
        let known = error.error_reason();
        let code = match known {
            Some(reason) => code_of(reason),
            None => match error.code {
                Code::NotFound => NOT_FOUND,
                Code::InvalidArgument => INVALID_PARAMS,
                _ => INTERNAL,
            },
        };
        let mut message = error.message.clone();
        // A message about one field says it already.
        for violation in error.violations.iter().filter(|v| !error.message.contains(&v.description)) {
            message.push_str(&format!("; {}: {}", violation.field, violation.description));
        }
        let mut data = serde_json::Map::new();
        if !error.reason.is_empty() {
            data.insert("reason".to_owned(), json!(error.reason));
        }
        if known == Some(ErrorReason::SessionNotFound)
            && let Some(session_id) = session_id
        {
            data.insert("sessionId".to_owned(), json!(session_id));
        }
        if error.is_temporary() {
            data.insert("retryable".to_owned(), json!(true));
        }
        if let Some(pause) = error.retry_after {
            data.insert(
                "retryAfterMs".to_owned(),
                json!(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
            );
        }
        let data = (!data.is_empty()).then_some(Value::Object(data));
        Self { code, message, data }
    }

    /// What failed inside of a turn.
    pub(crate) fn of_detail(error: &ErrorDetail) -> Self {
        let mut data = json!({"reason": reason::wire_name(error.reason())});
        if let (Some(pause), Some(data)) = (&error.retry_after, data.as_object_mut()) {
            let millis =
                pause.seconds.saturating_mul(1000).saturating_add(i64::from(pause.nanos) / 1_000_000);
            data.insert("retryAfterMs".to_owned(), json!(millis));
        }
        Self { code: code_of(error.reason()), message: error.message.clone(), data: Some(data) }
    }
}

impl From<ClientError> for RpcError {
    fn from(error: ClientError) -> Self {
        Self::of(&error, None)
    }
}

impl From<tonic::Status> for RpcError {
    fn from(status: tonic::Status) -> Self {
        Self::of(&ClientError::from(status), None)
    }
}

/// The code of a reason. Extensions, providers and the store are the agent's own trouble, not the client's.
fn code_of(reason: ErrorReason) -> i64 {
    use ErrorReason as R;
    match reason {
        R::ProviderNotConfigured | R::ProviderUnauthenticated => AUTH_REQUIRED,
        R::SessionNotFound
        | R::TurnNotFound
        | R::ItemNotFound
        | R::InteractionNotFound
        | R::ExtensionNotFound
        | R::RecipeNotFound
        | R::ScheduleNotFound
        | R::ContentNotFound
        | R::ResourceNotFound
        | R::PromptNotFound
        | R::ProviderNotFound => NOT_FOUND,
        R::ToolNotFound
        | R::ToolNotAllowed
        | R::TurnAlreadyRunning
        | R::TurnNotRunning
        | R::SessionArchived
        | R::InteractionResolved
        | R::SessionExists
        | R::InvalidField
        | R::WorkingDirectoryInvalid
        | R::ElicitationContentInvalid
        | R::PageTokenInvalid
        | R::RecipeInvalid
        | R::RecipeParametersMissing
        | R::LinkInvalid
        | R::ImportInvalid
        | R::ModelUnknown
        | R::MessageTooLarge
        | R::ConfigReadOnly => INVALID_PARAMS,
        R::NotImplemented => METHOD_NOT_FOUND,
        _ => INTERNAL,
    }
}

/// Reads one message. `Ok(None)`: a blank line.
///
/// # Errors
/// The answer to send, with the id to send it under.
pub(crate) fn parse(text: &str) -> Result<Option<Incoming>, Box<(Value, RpcError)>> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|_| Box::new((Value::Null, RpcError::new(PARSE_ERROR, "this is not JSON"))))?;
    from_value(value).map(Some)
}

/// The same for JSON that was read already.
pub(crate) fn from_value(value: Value) -> Result<Incoming, Box<(Value, RpcError)>> {
    let refuse = |id: Value, text: &str| Err(Box::new((id, RpcError::new(INVALID_REQUEST, text))));
    let Value::Object(mut message) = value else {
        return refuse(Value::Null, "a message must be one JSON object; batches are not supported");
    };
    let id = message.remove("id");
    if id.as_ref().is_some_and(|id| !matches!(id, Value::Null | Value::Number(_) | Value::String(_))) {
        return refuse(Value::Null, "an id must be a string, a number or null");
    }
    match message.remove("method") {
        Some(Value::String(method)) => {
            let params = match message.remove("params") {
                None | Some(Value::Null) => json!({}),
                Some(params) => params,
            };
            Ok(match id {
                Some(id) => Incoming::Request { id, method, params },
                None => Incoming::Notification { method, params },
            })
        }
        Some(_) => refuse(id.unwrap_or_default(), "the method must be a string"),
        None => {
            let Some(id) = id else { return refuse(Value::Null, "a message needs a method or an id") };
            if let Some(error) = message.remove("error").filter(|error| !error.is_null()) {
                let code = error.get("code").and_then(Value::as_i64).unwrap_or(INTERNAL);
                let text = error.get("message").and_then(Value::as_str).unwrap_or_default();
                return Ok(Incoming::Response { id, outcome: Err(RpcError::new(code, text)) });
            }
            match message.remove("result") {
                Some(result) => Ok(Incoming::Response { id, outcome: Ok(result) }),
                None => refuse(id, "a message needs a method, a result or an error"),
            }
        }
    }
}

/// An answer.
pub(crate) fn response(id: &Value, outcome: Result<Value, RpcError>) -> String {
    match outcome {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": error.to_json()}),
    }
    .to_string()
}

/// A request of ours.
pub(crate) fn request(id: i64, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

/// A notification of ours.
pub(crate) fn notification(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_is_told_apart() {
        let read = |text: &str| parse(text).expect("readable").expect("a message");
        assert_eq!(
            read(r#" {"jsonrpc":"2.0","id":"a-1","method":"x","params":{"y":1}} "#),
            Incoming::Request { id: json!("a-1"), method: "x".into(), params: json!({"y": 1}) }
        );
        assert_eq!(
            read(r#"{"id":null,"method":"x"}"#),
            Incoming::Request { id: Value::Null, method: "x".into(), params: json!({}) }
        );
        assert_eq!(
            read(r#"{"method":"x","params":null}"#),
            Incoming::Notification { method: "x".into(), params: json!({}) }
        );
        assert_eq!(
            read(r#"{"id":7,"result":null}"#),
            Incoming::Response { id: json!(7), outcome: Ok(Value::Null) }
        );
        assert_eq!(
            read(r#"{"id":7,"error":{"code":-1,"message":"no"}}"#),
            Incoming::Response { id: json!(7), outcome: Err(RpcError::new(-1, "no")) }
        );
        assert_eq!(parse("  \r"), Ok(None));
    }

    #[test]
    fn what_cannot_be_understood_is_refused_without_repeating_it() {
        for (text, id, code) in [
            ("{\"secret\":", Value::Null, PARSE_ERROR),
            (r#"[{"id":1,"method":"secret"}]"#, Value::Null, INVALID_REQUEST),
            (r#"{"id":3}"#, json!(3), INVALID_REQUEST),
            (r#"{"id":{"secret":1},"method":"x"}"#, Value::Null, INVALID_REQUEST),
            (r#"{"id":"k","method":5}"#, json!("k"), INVALID_REQUEST),
            (r#""secret""#, Value::Null, INVALID_REQUEST),
        ] {
            let (answered, error) = *parse(text).expect_err(text);
            assert_eq!((&answered, error.code), (&id, code), "{text}");
            assert!(!response(&answered, Err(error)).contains("secret"), "{text}");
        }
    }
}
