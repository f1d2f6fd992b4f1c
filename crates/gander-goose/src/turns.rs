//! How a request becomes a turn exactly once.
//!
//! Goose's client sends an identical request again after a lost connection and never after a person's stop. So the turn
//! id is made from the request's bytes, and what the daemon knows of that turn tells which of the two it was.

use futures::StreamExt as _;
use gander_client::{Client, ClientError, WatchOptions};
use gander_formats::{goose_session::items, session::Message};
use gander_proto::v1::{
    Actor, ErrorReason, GetSessionRequest, GetTurnRequest, ReplaceHistoryRequest, Session, StartTurnRequest,
    Turn, TurnInput, TurnState, WhenBusy,
};
use sha2::{Digest as _, Sha256};
use tokio::time::{Duration, timeout};
use uuid::Uuid;

use crate::{
    chat::snapshot::last_message_id,
    error::{ApiError, is_unknown_session, sentence},
};

/// How long after a turn's end an identical request is about this turn, in seconds. Goose's client comes back after 30
/// seconds at the latest; later somebody says the same once more and means it.
const SAME_REQUEST: i64 = 120;
/// Turns that one request can stand for: each time it comes again after a cancel, one more.
const MAX_CHAIN: u32 = 256;
/// How long a turn that is being cancelled is waited for; the daemon ends it within a second.
const SETTLE: Duration = Duration::from_secs(5);
/// Attempts of a start whose answer was lost.
const START_ATTEMPTS: u32 = 5;

/// Why a request starts nothing.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// To be told in the stream: trying again would not help, and Goose's client tries again on any other answer.
    Told(String),
    /// The daemon cannot be reached: the client is to come back.
    Unreachable(ApiError),
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        if error.is_temporary() {
            Self::Unreachable(ApiError::from(error))
        } else if is_unknown_session(&error) {
            Self::Told("Failed to read session: Session not found".to_owned())
        } else {
            Self::Told(sentence(&error))
        }
    }
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Self {
        ClientError::from(status).into()
    }
}

/// What a stream follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Followed {
    pub(crate) turn_id: String,
    /// Events after this one.
    pub(crate) after: i64,
    /// The conversation comes first, since the client may have lost a part of it.
    pub(crate) attach: bool,
}

/// The session, which must be there.
pub(crate) async fn session(client: &Client, session_id: &str) -> Result<Session, ClientError> {
    let request = GetSessionRequest { session_id: session_id.to_owned() };
    let response = client.sessions().get_session(request).await?.into_inner();
    Ok(response.session.unwrap_or_default())
}

/// Waits for the end of a turn that is being cancelled, if there is one: a window sends its next request right after a
/// person's stop, and history cannot be changed before that turn has ended.
pub(crate) async fn settle(client: &Client, session: &Session) -> Result<(), ClientError> {
    let turn_id = &session.active_turn_id;
    if turn_id.is_empty() {
        return Ok(());
    }
    let request = GetTurnRequest { session_id: session.session_id.clone(), turn_id: turn_id.clone() };
    let turn = match client.turns().get_turn(request).await {
        Ok(response) => response.into_inner().turn,
        Err(status) => {
            let error = ClientError::from(status);
            return if error.is(ErrorReason::TurnNotFound) { Ok(()) } else { Err(error) };
        }
    };
    if turn.is_none_or(|turn| turn.state() != TurnState::Cancelling) {
        return Ok(());
    }
    let options = WatchOptions {
        after: Some(session.last_sequence),
        exclude_deltas: true,
        until_turn_ends: turn_id.clone(),
    };
    let mut events = client.watch(session.session_id.clone(), options);
    let to_the_end = async {
        while let Some(event) = events.next().await {
            event?;
        }
        Ok(())
    };
    // What comes next fails with the reason if it still goes on.
    timeout(SETTLE, to_the_end).await.unwrap_or(Ok(()))
}

/// The id of the turn that a request with these bytes stands for. `number` counts repetitions.
pub(crate) fn turn_id(session_id: &str, body: &[u8], number: u32) -> String {
    let space = Uuid::new_v5(&Uuid::NAMESPACE_OID, session_id.as_bytes());
    let mut digest = Sha256::digest(body).to_vec();
    if number > 0 {
        digest.extend_from_slice(&number.to_be_bytes());
    }
    Uuid::new_v5(&space, &digest).to_string()
}

/// How to start when nothing is to be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Fresh,
    Continue,
}

/// What a known turn means for the request that came again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Attach,
    /// It stopped before its end, and its input is in the history: go on there.
    Continue,
    /// It is over for so long that this is a new message, or nothing of it is in the history.
    Fresh,
}

fn again(turn: &Turn, now: i64) -> Again {
    if let Some(end) = &turn.end_time
        && (turn.start_time.is_none() || now.saturating_sub(end.seconds) > SAME_REQUEST)
    {
        return Again::Fresh;
    }
    match turn.state() {
        // Its stream was lost, by which it was cancelled.
        TurnState::Cancelled | TurnState::Cancelling if is_own(turn.cancelled_by.as_ref()) => Again::Continue,
        _ => Again::Attach,
    }
}

/// Whether somebody used this surface.
fn is_own(actor: Option<&Actor>) -> bool {
    actor.is_some_and(|actor| actor.protocol == crate::PROTOCOL)
}

/// Finds or starts the turn of a `/reply` request.
pub(crate) async fn start_or_attach(
    client: &Client,
    session_id: &str,
    body: &[u8],
    message: &Message,
    override_conversation: Option<&[Message]>,
) -> Result<Followed, Refusal> {
    let mut start = Start::Fresh;
    // A message without an id comes from no window: each one is meant.
    let anonymous = message.id.as_deref().is_none_or(str::is_empty);
    for number in 0..MAX_CHAIN {
        let turn_id = if anonymous { Uuid::now_v7().to_string() } else { turn_id(session_id, body, number) };
        let Some(turn) = known_turn(client, session_id, &turn_id).await? else {
            let request = match start {
                Start::Continue => {
                    StartTurnRequest { when_busy: WhenBusy::Queue as i32, ..Default::default() }
                }
                Start::Fresh => {
                    if let Some(messages) = override_conversation {
                        settle(client, &session(client, session_id).await?).await?;
                        replace_history(client, session_id, &turn_id, messages).await?;
                    }
                    let input = fresh_input(client, session_id, message).await?;
                    StartTurnRequest { input, when_busy: WhenBusy::Queue as i32, ..Default::default() }
                }
            };
            let request =
                StartTurnRequest { session_id: session_id.to_owned(), turn_id: turn_id.clone(), ..request };
            let (after, existed) = match start_turn(client, request).await {
                // The same request came twice at once: to the later one its message already is the last.
                Err(error) if error.is(ErrorReason::TurnIdReused) => {
                    let turn = known_turn(client, session_id, &turn_id).await?.unwrap_or_default();
                    (turn.first_sequence, true)
                }
                started => started?,
            };
            // After a lost stream the client has shown less, or more, than was kept.
            let attach = existed || number > 0 && start == Start::Continue;
            return Ok(Followed { turn_id, after, attach });
        };
        match again(&turn, now()) {
            // It came to nothing, and somebody asks again.
            Again::Attach
                if turn.state() == TurnState::Completed && is_last(client, session_id, message).await? =>
            {
                start = Start::Continue;
            }
            Again::Attach => return Ok(Followed { turn_id, after: turn.first_sequence, attach: true }),
            Again::Continue => start = Start::Continue,
            Again::Fresh => start = Start::Fresh,
        }
    }
    Err(Refusal::Told("This message was sent too often; change it to send it again.".to_owned()))
}

/// Unix time in whole seconds.
pub(crate) fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// The turn of this id, if there is one.
pub(crate) async fn known_turn(
    client: &Client,
    session_id: &str,
    turn_id: &str,
) -> Result<Option<Turn>, Refusal> {
    let request = GetTurnRequest { session_id: session_id.to_owned(), turn_id: turn_id.to_owned() };
    match client.turns().get_turn(request).await {
        Ok(response) => Ok(response.into_inner().turn),
        Err(status) => {
            let error = ClientError::from(status);
            if error.is(ErrorReason::TurnNotFound) { Ok(None) } else { Err(error.into()) }
        }
    }
}

/// Whether a message is the last one that people see.
async fn is_last(client: &Client, session_id: &str, message: &Message) -> Result<bool, ClientError> {
    let Some(id) = message.id.as_deref().filter(|id| !id.is_empty()) else { return Ok(false) };
    Ok(last_message_id(client, session_id).await?.as_deref() == Some(id))
}

/// What a message is as input; `None` continues. Goose's window continues by sending the last message again.
pub(crate) async fn fresh_input(
    client: &Client,
    session_id: &str,
    message: &Message,
) -> Result<Option<TurnInput>, Refusal> {
    if is_last(client, session_id, message).await? {
        return Ok(None);
    }
    let input = items::turn_input(message).map_err(Refusal::Told)?;
    if input.parts.is_empty() {
        return Err(Refusal::Told("The message is empty; send text or a picture.".to_owned()));
    }
    Ok(Some(input))
}

/// Replaces the conversation, once per turn.
pub(crate) async fn replace_history(
    client: &Client,
    session_id: &str,
    turn_id: &str,
    messages: &[Message],
) -> Result<(), ClientError> {
    let request = ReplaceHistoryRequest {
        session_id: session_id.to_owned(),
        items: items::history(messages, false),
        idempotency_key: format!("history-{turn_id}"),
    };
    client.sessions().replace_history(request).await?;
    Ok(())
}

/// Starts a turn. A lost answer is asked for again: the turn id keeps it from starting twice.
pub(crate) async fn start_turn(
    client: &Client,
    request: StartTurnRequest,
) -> Result<(i64, bool), ClientError> {
    let mut attempt = 1;
    loop {
        match client.turns().start_turn(request.clone()).await {
            Ok(response) => {
                let response = response.into_inner();
                return Ok((response.sequence, response.already_existed));
            }
            Err(status) => {
                let error = ClientError::from(status);
                if !error.is_transport_loss() || attempt >= START_ATTEMPTS {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(200 * u64::from(attempt))).await;
                attempt += 1;
            }
        }
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
