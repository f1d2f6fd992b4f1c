//! The later generation's chat: `GET /sessions/{id}/events`, `POST /sessions/{id}/reply`, `POST /sessions/{id}/cancel`.
//!
//! The turn's id is the request's id, so nothing needs to be remembered between the three, but for which turn the
//! answer to a form went into: a window's Stop button names the request of the answer from then on.
//!
//! An id of a frame is the sequence of its event; of several frames for one event only the last has it, so that a
//! client that comes back never misses half an event.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use async_stream::stream;
use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use gander_client::{ClientError, WatchOptions};
use gander_formats::{goose_session::items::form_answer, session::Message};
use gander_proto::v1::{CancelTurnRequest, ErrorReason, Session, StartTurnRequest, WhenBusy};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::reply::fill_in;
use crate::{
    App,
    chat::{
        pump::{STEP, pump},
        snapshot::Snapshot,
        translate::{MessageEvent, Scope, Shown, TokenState},
    },
    error::{ApiError, sentence},
    extract::{Json, REPLY_LIMIT},
    follow::{is_deletion, pings},
    sse,
    turns::{self, Refusal},
};

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/sessions/{session_id}/events", get(events))
        .route("/sessions/{session_id}/reply", post(reply).layer(DefaultBodyLimit::max(REPLY_LIMIT)))
        .route("/sessions/{session_id}/cancel", post(cancel))
        .layer(Extension(Answers::default()))
}

/// Most answers that are remembered; the oldest goes first.
const MOST_ANSWERS: usize = 256;
/// What Goose's windows look for to tell a busy session from a failure.
const BUSY: &str = "Session already has an active request. Cancel it first.";

/// Which turns the latest answers to forms went into.
#[derive(Clone, Debug, Default)]
struct Answers(Arc<Mutex<VecDeque<Answered>>>);

#[derive(Debug)]
struct Answered {
    session_id: String,
    request_id: String,
    turn_id: String,
}

impl Answers {
    fn keep(&self, answered: Answered) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST_ANSWERS {
            answers.pop_front();
        }
        answers.push_back(answered);
    }

    fn turn_of(&self, session_id: &str, request_id: &str) -> Option<String> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = answers.iter().rev().find(|a| a.session_id == session_id && a.request_id == request_id);
        found.map(|answered| answered.turn_id.clone())
    }
}

#[derive(Debug, Deserialize)]
struct ReplyRequest {
    request_id: String,
    user_message: Message,
    #[serde(default)]
    override_conversation: Option<Vec<Message>>,
}

async fn reply(
    State(app): State<App>,
    Extension(answers): Extension<Answers>,
    Path(session_id): Path<String>,
    Json(request): Json<ReplyRequest>,
) -> Result<Json<Value>, ApiError> {
    let Ok(request_id) = Uuid::parse_str(&request.request_id) else {
        return Err(ApiError::bad_request("request_id must be a valid UUID"));
    };
    let request_id = request_id.to_string();
    let client = app.client();
    let session = turns::session(client, &session_id).await?;
    if let Some((id, answer)) = form_answer(&request.user_message) {
        let filled = fill_in(client, &session, id, answer).await?;
        let turn_id = filled.map(|filled| filled.turn_id).filter(|turn_id| !turn_id.is_empty());
        let turn_id = turn_id.unwrap_or(session.active_turn_id);
        if !turn_id.is_empty() {
            answers.keep(Answered { session_id, request_id: request_id.clone(), turn_id });
        }
        return Ok(Json(json!({ "request_id": request_id })));
    }
    // The same request again: its answer was lost.
    if turns::known_turn(client, &session_id, &request_id).await.map_err(refused)?.is_some() {
        return Ok(Json(json!({ "request_id": request_id })));
    }
    turns::settle(client, &session).await?;
    if let Some(messages) = &request.override_conversation {
        turns::replace_history(client, &session_id, &request_id, messages).await.map_err(|error| {
            if error.is(ErrorReason::TurnAlreadyRunning) { ApiError::bad_request(BUSY) } else { error.into() }
        })?;
    }
    let input = turns::fresh_input(client, &session_id, &request.user_message).await.map_err(refused)?;
    let start = StartTurnRequest {
        session_id,
        turn_id: request_id.clone(),
        input,
        when_busy: WhenBusy::Reject as i32,
        ..Default::default()
    };
    match turns::start_turn(client, start).await {
        Ok(_) => Ok(Json(json!({ "request_id": request_id }))),
        // The same request came twice at once: to the later one its message already is the last.
        Err(error) if error.is(ErrorReason::TurnIdReused) => Ok(Json(json!({ "request_id": request_id }))),
        Err(error) if error.is(ErrorReason::TurnAlreadyRunning) => Err(ApiError::bad_request(BUSY)),
        Err(error) => Err(error.into()),
    }
}

fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Told(text) => ApiError::bad_request(text),
        Refusal::Unreachable(error) => error,
    }
}

#[derive(Debug, Deserialize)]
struct CancelRequest {
    request_id: String,
}

async fn cancel(
    State(app): State<App>,
    Extension(answers): Extension<Answers>,
    Path(session_id): Path<String>,
    Json(request): Json<CancelRequest>,
) -> Result<StatusCode, ApiError> {
    turns::session(app.client(), &session_id).await?;
    let turn_id = Uuid::parse_str(&request.request_id).map_or(request.request_id, |id| id.to_string());
    let turn_id = answers.turn_of(&session_id, &turn_id).unwrap_or(turn_id);
    let cancel =
        CancelTurnRequest { session_id, turn_id, allow_missing: true, ..CancelTurnRequest::default() };
    match app.client().turns().cancel_turn(cancel).await.map_err(ClientError::from) {
        Ok(_) => Ok(StatusCode::OK),
        // An id that no turn can have is an unknown one.
        Err(error) if error.is(ErrorReason::InvalidField) => Ok(StatusCode::OK),
        Err(error) => Err(error.into()),
    }
}

async fn events(
    State(app): State<App>,
    Path(session_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let session = turns::session(app.client(), &session_id).await?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let last = last.and_then(|text| text.trim().parse::<i64>().ok()).filter(|last| *last >= 0);
    // An id from before the session was replaced is beyond its end: there is nothing to replay.
    let last = last.map(|last| last.min(session.last_sequence));
    Ok(sse::response(follow(app, session, last)).into_response())
}

/// A frame of the later generation: which request it belongs to stands beside the event.
#[derive(Serialize)]
struct Tagged<'a> {
    #[serde(flatten)]
    event: &'a MessageEvent,
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_request_id: Option<&'a str>,
    /// A notification has one of its own, which is its call's.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// Of no request while there was none.
fn tagged<'a>(event: &'a MessageEvent, turn_id: &'a str) -> Tagged<'a> {
    let chat_request_id = (!turn_id.is_empty()).then_some(turn_id);
    let own = matches!(event, MessageEvent::Notification { .. });
    Tagged { event, chat_request_id, request_id: chat_request_id.filter(|_| !own) }
}

fn follow(app: App, session: Session, last: Option<i64>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream! {
        let client = app.client().clone();
        let session_id = session.session_id.clone();
        let mut shown = Shown::new(Scope::Session, TokenState::of(&session));
        let mut current = session.active_turn_id.clone();
        if !current.is_empty() {
            let request_ids = vec![current.clone()];
            yield Ok(sse::frame(&MessageEvent::ActiveRequests { request_ids }));
        }
        let mut after = last.unwrap_or(session.last_sequence);
        if !current.is_empty() || last.is_some_and(|last| last < session.last_sequence) {
            match Snapshot::read(&client, &session_id).await {
                // A window that was here before goes on where it was; it has the beginning of what grows.
                Ok(snapshot) if last.is_some() => shown.resume(&snapshot),
                // A new one starts from the whole, or it would show the same text twice.
                Ok(snapshot) => {
                    after = snapshot.through;
                    let update = shown.update(&snapshot);
                    if snapshot.has_ended(&current) {
                        // Its end is behind the snapshot, and the window waits for it.
                        yield Ok(sse::frame(&tagged(&update, &current)));
                        yield Ok(sse::frame_with_id(after, &tagged(&shown.finish(), &current)));
                    } else {
                        yield Ok(sse::frame_with_id(after, &tagged(&update, &current)));
                    }
                }
                Err(error) => {
                    yield failed(&error, &current);
                    return;
                }
            }
        }
        // A window whose connection is lost before anything happened comes back to this place.
        yield Ok(heartbeat_with_id(after));
        let options = WatchOptions { after: Some(after), ..WatchOptions::default() };
        let mut events = client.watch(session_id.clone(), options).ready_chunks(STEP);
        let mut ping = pings(&app);
        let mut number = 1_u64;
        loop {
            tokio::select! {
                biased;
                () = app.shutdown().cancelled() => return,
                chunk = events.next() => {
                    let Some(chunk) = chunk else { return };
                    let deleted = chunk.iter().flatten().any(is_deletion);
                    let mut failure = None;
                    let mut log = Vec::with_capacity(chunk.len());
                    for event in chunk {
                        match event {
                            Ok(event) => log.push(event),
                            Err(error) => failure = Some(error),
                        }
                    }
                    let (sent, lost) = pump(&client, &session_id, log, &mut shown).await;
                    let mut bytes = Vec::new();
                    for sent in sent {
                        if !sent.turn_id.is_empty() {
                            current.clone_from(&sent.turn_id);
                        }
                        sse::write(&mut bytes, sent.sequence, &tagged(&sent.event, &current));
                    }
                    if !bytes.is_empty() {
                        yield Ok(bytes.into());
                    }
                    if let Some(error) = lost.or(failure) {
                        yield failed(&error, &current);
                        return;
                    }
                    if deleted {
                        return;
                    }
                }
                _ = ping.tick() => {
                    yield Ok(heartbeat(number));
                    number += 1;
                }
            }
        }
    }
}

/// A comment that keeps the stream alive.
fn heartbeat(number: u64) -> Bytes {
    sse::comment(&format!("ping {number}"))
}

/// The first of them, with the place from which to go on.
fn heartbeat_with_id(sequence: i64) -> Bytes {
    sse::comment_with_id(sequence, "ping 0")
}

fn failed(error: &ClientError, turn_id: &str) -> io::Result<Bytes> {
    if error.is_temporary() {
        return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the daemon was lost"));
    }
    let error = if error.is(ErrorReason::SequenceCompacted) {
        "Client too far behind — reload conversation".to_owned()
    } else {
        sentence(error)
    };
    Ok(sse::frame(&tagged(&MessageEvent::Error { error }, turn_id)))
}

#[cfg(test)]
#[path = "session_events_tests.rs"]
mod tests;
