//! Events, items and commits for tests of stores and of what is built on them.

use std::sync::Arc;

use gander_domain::{
    Event, Item, ItemBody, ItemId, MessageId, Part, Payload, Sequence, Session, SessionId, Timestamp, Turn,
    TurnId, Usage,
    item::{AgentMessage, ItemState, Origin, UserMessage, Visibility},
    session::SessionOrigin,
    turn::{TurnLimits, TurnState},
};

use crate::{Commit, Store};

/// An id made of `text`.
pub fn id(text: &str) -> SessionId {
    SessionId::new(text).unwrap()
}

/// A user's session, made and updated at `second`.
pub fn session(name: &str, second: i64) -> Session {
    serde_json::from_value(serde_json::json!({
        "session_id": name,
        "title": format!("Title of {name}"),
        "working_directory": "/work",
        "create_time": second * 1_000_000,
        "update_time": second * 1_000_000,
        "oldest_sequence": 1,
        "last_sequence": 1,
    }))
    .unwrap()
}

/// An event.
pub fn event(sequence: Sequence, payload: Payload) -> Arc<Event> {
    Arc::new(Event { sequence, turn_id: None, time: Timestamp::from_seconds(sequence), actor: None, payload })
}

/// A piece of text of `item`.
pub fn delta(sequence: Sequence, item: &str, text: &str) -> Arc<Event> {
    let payload =
        Payload::TextDelta { item_id: ItemId::new(item).unwrap(), part_index: 0, text: text.to_owned() };
    event(sequence, payload)
}

fn item(name: &str, second: i64, state: ItemState, origin: Origin, body: ItemBody) -> Box<Item> {
    Box::new(Item {
        item_id: ItemId::new(name).unwrap(),
        turn_id: None,
        message_id: MessageId::new(name).unwrap(),
        body,
        state,
        incomplete: false,
        visibility: Visibility::default(),
        origin,
        create_time: Timestamp::from_seconds(second),
        client_create_time: None,
        complete_time: None,
        redacted: false,
        model_id: None,
        provider_state_json: None,
    })
}

/// A user's message.
pub fn user(name: &str, second: i64, text: &str) -> Box<Item> {
    let body = ItemBody::UserMessage(UserMessage { parts: vec![Part::text(text)], steered: false });
    item(name, second, ItemState::Completed, Origin::Client, body)
}

/// An agent's message; in progress while it has no text.
pub fn agent(name: &str, second: i64, text: &str) -> Box<Item> {
    let state = if text.is_empty() { ItemState::InProgress } else { ItemState::Completed };
    let parts = if text.is_empty() { Vec::new() } else { vec![Part::text(text)] };
    item(name, second, state, Origin::Model, ItemBody::AgentMessage(AgentMessage { parts, demo: false }))
}

/// The event of a completed item.
pub fn completed(sequence: Sequence, item: Box<Item>) -> Arc<Event> {
    event(sequence, Payload::ItemCompleted { item })
}

/// The event of a started item.
pub fn started(sequence: Sequence, item: Box<Item>) -> Arc<Event> {
    event(sequence, Payload::ItemStarted { item })
}

/// A turn.
pub fn turn(name: &str, state: TurnState) -> Box<Turn> {
    Box::new(Turn {
        turn_id: TurnId::new(name).unwrap(),
        state,
        stop_reason: None,
        error: None,
        started_by: None,
        cancelled_by: None,
        interrupted_by: None,
        limits: TurnLimits::default(),
        model: None,
        usage: Usage::default(),
        model_calls: 0,
        create_time: Timestamp(0),
        start_time: None,
        end_time: None,
        first_sequence: 0,
        last_sequence: 0,
        request_hash: String::new(),
    })
}

/// A commit of events only.
pub fn commit(session: &str, epoch: i64, events: Vec<Arc<Event>>) -> Commit {
    let session_id = id(session);
    Commit { session_id, epoch, events, summary: None, contents: Vec::new(), idempotency: Vec::new() }
}

/// The commit that creates a session.
pub fn creation(session: &Session) -> Commit {
    let payload = Payload::SessionCreated { session: Box::new(session.clone()), origin: SessionOrigin::New };
    let mut commit = commit(session.session_id.as_str(), 0, vec![event(1, payload)]);
    commit.summary = Some(Arc::new(session.clone()));
    commit
}

/// Creates a session with one event.
pub async fn create(store: &dyn Store, name: &str) -> i64 {
    store.create_session(creation(&session(name, 1))).await.unwrap()
}

/// The whole log.
pub async fn log(store: &dyn Store, name: &str) -> Vec<Arc<Event>> {
    let mut events: Vec<Arc<Event>> = Vec::new();
    loop {
        let after = events.last().map_or(0, |e| e.sequence);
        let page = store.read_events(&id(name), after, 100, 1 << 20).await.unwrap();
        let done = page.events.last().is_none_or(|e| e.sequence >= page.last_sequence);
        events.extend(page.events);
        if done {
            return events;
        }
    }
}

/// Sequences of the log.
pub async fn sequences(store: &dyn Store, name: &str) -> Vec<Sequence> {
    log(store, name).await.iter().map(|e| e.sequence).collect()
}
