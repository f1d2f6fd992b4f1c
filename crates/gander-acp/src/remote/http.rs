//! `POST` and `DELETE`, and the event streams.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde_json::Value;

use super::{App, CONNECTION_ID, SESSION_ID, access::refuse, lanes::Remote};
use crate::{
    agent::Connection,
    rpc::{self, RpcError},
};

/// Largest message. The daemon takes requests of 32 MiB; base64 makes them a third larger.
pub(super) const MAX_BODY: usize = 48 * 1024 * 1024;
/// Longest id of a connection or session that is looked at.
const MAX_ID: usize = 128;
/// Between signs of life on a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Methods that belong to the stream of a session.
const SESSION_SCOPED: &[&str] = &[
    "session/cancel",
    "session/close",
    "session/delete",
    "session/fork",
    "session/load",
    "session/prompt",
    "session/resume",
    "session/set_config_option",
    "session/set_mode",
    "session/set_model",
];

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|id| !id.is_empty() && id.len() <= MAX_ID)
}

/// A message of the client.
pub(super) async fn post(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json");
    }
    let Ok(message) = serde_json::from_slice::<Value>(&body) else {
        return refuse(StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    if !message.is_object() {
        let error = RpcError::new(
            rpc::INVALID_REQUEST,
            "a message must be one JSON object; batches are not supported",
        );
        return json_text(StatusCode::BAD_REQUEST, rpc::response(&Value::Null, Err(error)));
    }
    let method = message.get("method").and_then(Value::as_str).map(str::to_owned);
    let connection_id = header(&headers, CONNECTION_ID);
    match (method.as_deref(), connection_id) {
        (Some("initialize"), None) => begin(&app, message).await,
        (Some("initialize"), Some(_)) => refuse(
            StatusCode::BAD_REQUEST,
            "this connection is initialized; make a new one without Acp-Connection-Id",
        ),
        (_, None) => refuse(StatusCode::BAD_REQUEST, "the header Acp-Connection-Id is missing"),
        (method, Some(id)) => match app.connection(id) {
            None => refuse(StatusCode::NOT_FOUND, "there is no such connection"),
            Some(remote) => pass_on(&remote, method, message, header(&headers, SESSION_ID)).await,
        },
    }
}

async fn begin(app: &App, message: Value) -> Response {
    if !message.get("id").is_some_and(|id| id.is_string() || id.is_number()) {
        return refuse(StatusCode::BAD_REQUEST, "initialize must have an id");
    }
    if app.inner.stop.is_cancelled() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is about to stop");
    }
    if app.connections().len() >= app.inner.options.max_connections {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "there are too many connections");
    }
    let connection = Connection::new(app.inner.client.clone(), app.inner.options.connection.clone());
    connection.receive_value(message).await;
    let Some(answer) = connection.next().await else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the connection gave no answer");
    };
    let failed =
        serde_json::from_str::<Value>(&answer.json).is_ok_and(|answer| answer.get("error").is_some());
    let mut response = json_text(StatusCode::OK, answer.json);
    if failed {
        return response;
    }
    let id = uuid::Uuid::now_v7().to_string();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(CONNECTION_ID, value);
    }
    let remote = Arc::new(Remote::new(id.clone(), connection, app.inner.stop.child_token()));
    app.connections().insert(id, remote.clone());
    app.inner.tasks.spawn(remote.carry(app.clone()));
    response
}

async fn pass_on(remote: &Remote, method: Option<&str>, message: Value, session: Option<&str>) -> Response {
    let named = message.pointer("/params/sessionId").and_then(Value::as_str);
    if method.is_some_and(|method| SESSION_SCOPED.contains(&method)) && session.is_none() {
        return refuse(StatusCode::BAD_REQUEST, "the header Acp-Session-Id is missing");
    }
    if let (Some(session), Some(named)) = (session, named)
        && session != named
    {
        return refuse(StatusCode::BAD_REQUEST, "Acp-Session-Id is not the sessionId of the message");
    }
    remote.used();
    if let (Some(_), None, Some(_), Some(id)) = (method, session, named, message.get("id")) {
        remote.redirect(id);
    }
    remote.connection.receive_value(message).await;
    StatusCode::ACCEPTED.into_response()
}

/// Ends a connection.
pub(super) async fn delete(State(app): State<App>, headers: HeaderMap) -> Response {
    match header(&headers, CONNECTION_ID) {
        None => refuse(StatusCode::BAD_REQUEST, "the header Acp-Connection-Id is missing"),
        Some(id) if app.forget(id) => StatusCode::ACCEPTED.into_response(),
        Some(_) => refuse(StatusCode::NOT_FOUND, "there is no such connection"),
    }
}

/// A stream of messages: those of the connection, or with `Acp-Session-Id` those of a session.
pub(super) fn stream(app: &App, headers: &HeaderMap) -> Response {
    let accept = headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accept.to_ascii_lowercase().contains("text/event-stream") {
        return refuse(StatusCode::NOT_ACCEPTABLE, "this is a stream of events: accept text/event-stream");
    }
    let Some(id) = header(headers, CONNECTION_ID) else {
        return refuse(StatusCode::BAD_REQUEST, "the header Acp-Connection-Id is missing");
    };
    let Some(remote) = app.connection(id) else {
        return refuse(StatusCode::NOT_FOUND, "there is no such connection");
    };
    let session = header(headers, SESSION_ID).map(str::to_owned);
    let Some(reader) = remote.reader(session) else {
        return refuse(StatusCode::CONFLICT, "somebody reads this stream already");
    };
    let events = async_stream::stream! {
        while let Some(message) = reader.next().await {
            yield Ok::<_, Infallible>(Event::default().data(message));
        }
    };
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Proxies that collect answers before they pass them on would stop the stream.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn json_text(status: StatusCode, text: String) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], text).into_response()
}
