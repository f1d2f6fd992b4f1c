//! Server-sent events as Goose frames them: `data: <JSON>` and an empty line, with nothing else unless an id is asked for.

use std::io;

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::Stream;
use serde::Serialize;

use crate::chat::translate::MessageEvent;

/// One frame.
pub(crate) fn frame(event: &impl Serialize) -> Bytes {
    framed(None, event)
}

/// One frame with an id, which the client sends back as `Last-Event-ID`.
pub(crate) fn frame_with_id(id: i64, event: &impl Serialize) -> Bytes {
    framed(Some(id), event)
}

fn framed(id: Option<i64>, event: &impl Serialize) -> Bytes {
    let mut text = Vec::with_capacity(512);
    write(&mut text, id, event);
    text.into()
}

/// Appends one frame: many of them leave in one piece.
pub(crate) fn write(text: &mut Vec<u8>, id: Option<i64>, event: &impl Serialize) {
    if let Some(id) = id {
        text.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    text.extend_from_slice(b"data: ");
    let start = text.len();
    if let Err(error) = serde_json::to_writer(&mut *text, event) {
        tracing::error!(%error, "an event could not be written as JSON");
        text.truncate(start);
        text.extend_from_slice(br#"{"type":"Error","error":"an event could not be written"}"#);
    }
    text.extend_from_slice(b"\n\n");
}

/// A comment, which clients skip.
pub(crate) fn comment(text: &str) -> Bytes {
    format!(": {text}\n\n").into()
}

/// A comment with an id: nothing happened yet, but a client that comes back knows from where.
pub(crate) fn comment_with_id(id: i64, text: &str) -> Bytes {
    format!("id: {id}\n: {text}\n\n").into()
}

/// A stream as a response. An error cuts the connection, by which clients see that this was not the end.
pub(crate) fn response(frames: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response {
    let mut response = Body::from_stream(frames).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// A stream that says why there is nothing to follow, and ends.
pub(crate) fn refusal(error: impl Into<String>) -> Response {
    let event = MessageEvent::Error { error: error.into() };
    response(futures::stream::iter([Ok(frame(&event))]))
}
