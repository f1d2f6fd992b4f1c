//! What all dialects share: sending a request, splitting the reply into frames, and the rules for a reply's end.
//!
//! Invariants: a stream ends with `Finished` or with one error, and nothing follows either; every amount that the server
//! chooses is bounded; a tool call's arguments are joined verbatim and parsed once, at the end.

mod calls;
mod lenient;
mod reply;
mod sse;

pub(crate) use calls::{Calls, TextBudget};
pub(crate) use lenient::{Text, arguments, count, tolerant};
pub(crate) use reply::stream;
#[cfg(test)]
pub(crate) use sse::SseDecoder;

use serde_json::Value;

use crate::{
    ModelError, ModelErrorClass, ModelEvent,
    classify::{Failure, classify},
    redact::Redactor,
};

/// Arguments of one call, in bytes.
pub(crate) const MAX_ARGUMENTS: usize = 4 * 1024 * 1024;
/// Calls of one response.
pub(crate) const MAX_CALLS: usize = 128;
/// Text and thoughts of one response, in bytes.
pub(crate) const MAX_TEXT: usize = 16 * 1024 * 1024;
/// Longest error body that is read.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// What a frame led to.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    More,
    /// The provider said that nothing follows.
    Done,
    /// An error object inside the stream, for the classifier.
    Failed(String),
    /// The stream cannot go on.
    Broken(ModelError),
}

/// Makes model events of one reply. Pure: it sees bytes and does no IO.
pub(crate) trait ReplyDecoder: Send {
    /// Takes one JSON document of the stream; `is_error` when its event is called `error`.
    fn document(&mut self, text: &str, is_error: bool) -> Step;

    /// Takes the data of one server-sent event; `is_error` when the event is called `error`.
    fn frame(&mut self, data: &[u8], is_error: bool) -> Step {
        match data.trim_ascii() {
            b"" => Step::More,
            // Of OpenAI's dialect; gateways add it to the others out of habit.
            b"[DONE]" => Step::Done,
            data => self.document(&String::from_utf8_lossy(data), is_error),
        }
    }

    /// Takes a reply that is one JSON document.
    fn whole(&mut self, body: &[u8]) -> Step {
        self.frame(body, false)
    }

    /// Takes raw bytes, for dialects that do not use server-sent events. `None`: this one does.
    fn bytes(&mut self, _bytes: &[u8]) -> Option<Step> {
        None
    }

    /// The stream ended cleanly: says the rest.
    fn end(&mut self) -> Result<(), ModelError>;

    /// The next event that is ready.
    fn pop(&mut self) -> Option<ModelEvent>;
}

/// The reply stopped before the provider ended it.
pub(crate) fn truncated() -> ModelError {
    ModelError::new(
        ModelErrorClass::Truncated,
        "the model provider's stream ended before the reply was complete",
    )
}

/// A piece of the stream that no reader of this dialect understands.
pub(crate) fn garbage() -> ModelError {
    ModelError::new(
        ModelErrorClass::Truncated,
        "the model provider sent a piece of its stream that is no JSON",
    )
}

pub(crate) fn too_large(what: &str, limit: usize) -> ModelError {
    ModelError::new(
        ModelErrorClass::InvalidRequest,
        format!("the model's reply was stopped: its {what} exceeds the limit of {limit}"),
    )
}

/// The conversation does not fit, as told by a stop reason.
pub(crate) fn context_exceeded() -> ModelError {
    ModelError::new(
        ModelErrorClass::ContextExceeded,
        "the conversation does not fit into the model's context window",
    )
}

/// The arguments as JSON text, and why they are unusable, if they are. No text at all means no arguments; a string that
/// holds an object is unwrapped once.
pub(crate) fn finish_arguments(text: &str) -> (String, Option<String>) {
    if text.trim().is_empty() {
        return ("{}".to_owned(), None);
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(_)) => (text.to_owned(), None),
        Ok(Value::Null) => ("{}".to_owned(), None),
        Ok(Value::String(inner)) if matches!(serde_json::from_str(&inner), Ok(Value::Object(_))) => {
            (inner, None)
        }
        Ok(_) => (text.to_owned(), Some("the arguments are JSON, but no object".to_owned())),
        Err(error) => (text.to_owned(), Some(format!("the arguments are no valid JSON: {error}"))),
    }
}

/// An id for a call to which the provider gave none.
pub(crate) fn minted_id() -> String {
    format!("call_{}", uuid::Uuid::now_v7().simple())
}

/// The error that a non-success response is.
pub(crate) async fn failure(
    mut response: reqwest::Response,
    redactor: &Redactor,
    top_up_url: Option<&str>,
) -> ModelError {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    // What could be read of the body is better than nothing.
    let body = read_body(&mut response, MAX_ERROR_BODY).await.unwrap_or_default();
    let body = String::from_utf8_lossy(&body);
    let failure = Failure {
        status: Some(status),
        headers: Some(&headers),
        body: &body,
        now: std::time::SystemTime::now(),
    };
    let mut error = classify(&failure, redactor);
    if error.class == ModelErrorClass::QuotaExhausted && error.help_url.is_none() {
        error.help_url = top_up_url.map(str::to_owned);
    }
    error
}

/// At most `limit` bytes of a body.
pub(crate) async fn read_body(
    response: &mut reqwest::Response,
    limit: usize,
) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        body.extend_from_slice(&bytes[..bytes.len().min(limit - body.len())]);
        if body.len() >= limit {
            break;
        }
    }
    Ok(body)
}

/// Host and, where it is not the scheme's own, port: a wrong port is the usual mistake with a local server.
fn address(url: &reqwest::Url) -> String {
    let host = url.host_str().unwrap_or("the model provider");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A failure of the transport, without query strings.
pub(crate) fn network_error(error: &reqwest::Error, redactor: &Redactor) -> ModelError {
    let place = error.url().map_or_else(|| "the model provider".to_owned(), address);
    let text = if error.is_timeout() && error.is_connect() {
        format!("{place} did not accept a connection in time")
    } else if error.is_timeout() {
        format!("{place} sent nothing for too long")
    } else {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let what = if error.is_connect() { "cannot connect to" } else { "the connection failed to" };
        format!("{what} {place}: {cause}")
    };
    ModelError::new(ModelErrorClass::Network, redactor.apply(&text))
}
