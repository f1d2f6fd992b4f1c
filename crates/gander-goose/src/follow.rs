//! A turn as a stream, and what the end of the stream means: closing it cancels the turn, as a window's Stop button does;
//! the end of this program, or a lost daemon, does not.

use std::io;

use async_stream::stream;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use gander_client::{Client, ClientError, WatchOptions};
use gander_proto::v1::{CancelTurnRequest, Session, SessionEvent, StreamCloseReason, session_event::Payload};
use tokio::time::{Duration, Interval, MissedTickBehavior, timeout};

use crate::{
    App,
    chat::{
        pump::{STEP, pump},
        snapshot::Snapshot,
        translate::{MessageEvent, Scope, Shown, TokenState, translate},
    },
    error::sentence,
    sse::{self, frame},
    turns::Followed,
};

/// How long a cancel may take to reach the daemon.
const CANCEL_DEADLINE: Duration = Duration::from_secs(10);

/// Cancels a turn when it is dropped before the turn's end.
struct CancelOnClose {
    app: App,
    session_id: String,
    turn_id: String,
    armed: bool,
}

impl CancelOnClose {
    fn new(app: &App, session_id: &str, turn_id: &str) -> Self {
        Self { app: app.clone(), session_id: session_id.to_owned(), turn_id: turn_id.to_owned(), armed: true }
    }

    /// The turn is over, or nobody's wish ends this stream.
    fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for CancelOnClose {
    fn drop(&mut self) {
        if !self.armed || self.app.shutdown().is_cancelled() {
            return;
        }
        let app = self.app.clone();
        let request = CancelTurnRequest {
            session_id: std::mem::take(&mut self.session_id),
            turn_id: std::mem::take(&mut self.turn_id),
            allow_missing: true,
            ..Default::default()
        };
        self.app.spawn(async move {
            let session_id = request.session_id.clone();
            match timeout(CANCEL_DEADLINE, app.client().turns().cancel_turn(request)).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => {
                    let error = ClientError::from(status);
                    tracing::warn!(%session_id, %error, "a turn whose stream was closed could not be cancelled");
                }
                Err(_) => tracing::warn!(%session_id, "a turn whose stream was closed was not cancelled in time"),
            }
        });
    }
}

/// When to ping: not at once, and never in bursts.
pub(crate) fn pings(app: &App) -> Interval {
    let mut pings = tokio::time::interval(app.options().ping_every);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    pings
}

fn cut(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why.to_owned())
}

/// The stream of a turn: pings, what happens, and `Finish`.
pub(crate) fn follow(
    app: App,
    session: Session,
    followed: Followed,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let guard = CancelOnClose::new(&app, &session.session_id, &followed.turn_id);
    stream! {
        let mut guard = guard;
        let client = app.client().clone();
        let session_id = session.session_id.clone();
        let mut shown = Shown::new(Scope::Turn(followed.turn_id.clone()), TokenState::of(&session));
        yield Ok(frame(&MessageEvent::Ping));
        let mut after = followed.after;
        if followed.attach {
            match Snapshot::read(&client, &session_id).await {
                Ok(snapshot) => {
                    after = after.max(snapshot.through);
                    yield Ok(frame(&shown.update(&snapshot)));
                    if snapshot.has_ended(&followed.turn_id) {
                        guard.disarm();
                        yield Ok(frame(&shown.finish()));
                        return;
                    }
                }
                Err(error) => {
                    guard.disarm();
                    yield failed(&error);
                    return;
                }
            }
        }
        let options = WatchOptions {
            after: Some(after),
            exclude_deltas: false,
            until_turn_ends: followed.turn_id.clone(),
        };
        let mut events = client.watch(session_id.clone(), options).ready_chunks(STEP);
        let mut ping = pings(&app);
        loop {
            tokio::select! {
                biased;
                () = app.shutdown().cancelled() => {
                    guard.disarm();
                    yield Err(cut("the server shuts down"));
                    return;
                }
                chunk = events.next() => {
                    let step = step(&client, &session_id, chunk.unwrap_or_default(), &mut shown).await;
                    let ended = step.ended.is_some();
                    if ended {
                        guard.disarm();
                    }
                    if !step.frames.is_empty() {
                        yield Ok(step.frames.into());
                    }
                    match step.ended {
                        Some(End::Failed(error)) => yield failed(&error),
                        Some(End::Deleted) => {
                            let error = "The session was deleted.".to_owned();
                            yield Ok(frame(&MessageEvent::Error { error }));
                        }
                        Some(End::Finished) | None => {}
                    }
                    if ended {
                        return;
                    }
                }
                _ = ping.tick() => yield Ok(frame(&MessageEvent::Ping)),
            }
        }
    }
}

/// What some events come to.
struct Step {
    frames: Vec<u8>,
    ended: Option<End>,
}

/// Why there is nothing more.
enum End {
    /// The turn, or the watch of it, ended.
    Finished,
    Deleted,
    Failed(ClientError),
}

/// Translates what a watch of one turn gave. Nothing at all is its end.
async fn step(
    client: &Client,
    session_id: &str,
    chunk: Vec<Result<SessionEvent, ClientError>>,
    shown: &mut Shown,
) -> Step {
    let mut ended = if chunk.is_empty() { Some(End::Finished) } else { None };
    let mut events = Vec::with_capacity(chunk.len());
    for event in chunk {
        match event {
            Ok(event) if is_deletion(&event) => ended = Some(End::Deleted),
            Ok(event) => {
                if shown.is_end(&event) {
                    ended = Some(End::Finished);
                }
                events.push(event);
            }
            Err(error) => ended = Some(End::Failed(error)),
        }
    }
    let (sent, error) = pump(client, session_id, events, shown).await;
    let mut frames = Vec::new();
    for sent in sent {
        sse::write(&mut frames, None, &sent.event);
    }
    Step { frames, ended: error.map(End::Failed).or(ended) }
}

/// What a failed call of a stream is: told when it stays so, a cut connection when coming back helps.
fn failed(error: &ClientError) -> io::Result<Bytes> {
    if error.is_temporary() {
        return Err(cut("the daemon was lost"));
    }
    Ok(frame(&MessageEvent::Error { error: sentence(error) }))
}

/// Whether an event says that the session is gone.
pub(crate) fn is_deletion(event: &SessionEvent) -> bool {
    matches!(&event.payload, Some(Payload::StreamClosing(closing))
        if closing.reason() == StreamCloseReason::SessionDeleted)
}

/// The stream of an answer to a question: pings until the turn ends. It shows nothing, since the turn's own stream
/// does; but it is the one that the window closes to stop the turn.
pub(crate) fn hold(
    app: App,
    session: Session,
    first: Option<MessageEvent>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let turn_id = session.active_turn_id.clone();
    let guard = (!turn_id.is_empty()).then(|| CancelOnClose::new(&app, &session.session_id, &turn_id));
    stream! {
        let mut guard = guard;
        let mut shown = Shown::new(Scope::Turn(turn_id.clone()), TokenState::of(&session));
        yield Ok(frame(&MessageEvent::Ping));
        if let Some(first) = first {
            yield Ok(frame(&first));
        }
        if turn_id.is_empty() {
            yield Ok(frame(&shown.finish()));
            return;
        }
        let options = WatchOptions {
            after: Some(session.last_sequence),
            exclude_deltas: true,
            until_turn_ends: turn_id.clone(),
        };
        let mut events = app.client().watch(session.session_id.clone(), options);
        let mut ping = pings(&app);
        let mut disarm = || if let Some(guard) = &mut guard { guard.disarm() };
        loop {
            tokio::select! {
                biased;
                () = app.shutdown().cancelled() => {
                    disarm();
                    yield Err(cut("the server shuts down"));
                    return;
                }
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        if matches!(event.payload, Some(Payload::UsageReported(_))) {
                            translate(&event, &mut shown);
                        }
                        if shown.is_end(&event) || is_deletion(&event) {
                            disarm();
                            yield Ok(frame(&shown.finish()));
                            return;
                        }
                    }
                    Some(Err(error)) => {
                        disarm();
                        yield failed(&error);
                        return;
                    }
                    None => {
                        disarm();
                        return;
                    }
                },
                _ = ping.tick() => yield Ok(frame(&MessageEvent::Ping)),
            }
        }
    }
}
