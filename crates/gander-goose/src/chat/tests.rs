//! Golden pairs: a log in, what Goose's window gets out.

use gander_formats::{goose_session::conversation, session::Message};
use gander_proto::v1::{
    self as pb, Item, ItemState, SessionEvent, ToolCall, ToolCallStatus, Turn, TurnState, item::Body,
    session_event::Payload,
};
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::{
    snapshot::Snapshot,
    translate::{Out, Scope, Shown, TokenState, translate},
};

mod history;
mod stream;

pub(super) const TURN: &str = "turn";

pub(super) fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 999_999_999 })
}

pub(super) fn text_part(text: &str) -> pb::Part {
    pb::Part { body: Some(pb::part::Body::Text(text.into())), ..Default::default() }
}

pub(super) fn item(item_id: &str, message_id: &str, body: Body) -> Item {
    Item {
        item_id: item_id.into(),
        turn_id: TURN.into(),
        message_id: message_id.into(),
        state: ItemState::Completed as i32,
        body: Some(body),
        visibility: Some(pb::Visibility { user: true, model: true }),
        create_time: at(100),
        complete_time: at(101),
        ..Default::default()
    }
}

pub(super) fn said(text: &str) -> Body {
    Body::AgentMessage(pb::AgentMessage { parts: vec![text_part(text)], demo: false })
}

pub(super) fn user(text: &str) -> Body {
    Body::UserMessage(pb::UserMessage { parts: vec![text_part(text)], steered: false })
}

pub(super) fn call(status: ToolCallStatus, result: Option<pb::ToolResult>) -> ToolCall {
    ToolCall {
        name: "developer__shell".into(),
        extension_name: "developer".into(),
        tool_name: "shell".into(),
        call_id: "call_0".into(),
        status: status as i32,
        arguments_json: r#"{"command":"ls"}"#.into(),
        result,
        ..Default::default()
    }
}

pub(super) fn gave(text: &str, outcome: pb::ToolOutcome) -> pb::ToolResult {
    pb::ToolResult {
        outcome: outcome as i32,
        parts: vec![text_part(text)],
        is_error: outcome != pb::ToolOutcome::Ok,
        ..Default::default()
    }
}

pub(super) fn started(item: Item) -> Payload {
    let item = Item { state: ItemState::InProgress as i32, ..item };
    Payload::ItemStarted(Box::new(pb::ItemStarted { item: Some(item) }))
}

pub(super) fn completed(item: Item) -> Payload {
    Payload::ItemCompleted(Box::new(pb::ItemCompleted { item: Some(item) }))
}

pub(super) fn delta(item_id: &str, text: &str) -> Payload {
    Payload::TextDelta(pb::TextDelta { item_id: item_id.into(), text: text.into(), part_index: 0 })
}

pub(super) fn updated(item_id: &str, call: ToolCall) -> Payload {
    Payload::ToolCallUpdated(Box::new(pb::ToolCallUpdated { item_id: item_id.into(), tool_call: Some(call) }))
}

pub(super) fn turn(state: TurnState) -> Turn {
    Turn { turn_id: TURN.into(), state: state as i32, end_time: at(110), ..Default::default() }
}

pub(super) fn begun() -> Payload {
    Payload::TurnStarted(Box::new(pb::TurnStarted { turn: Some(turn(TurnState::Running)) }))
}

pub(super) fn ended(state: TurnState) -> Payload {
    Payload::TurnEnded(Box::new(pb::TurnEnded { turn: Some(turn(state)) }))
}

/// Events of the turn, numbered from 1.
pub(super) fn log(payloads: Vec<Payload>) -> Vec<SessionEvent> {
    log_from(1, payloads)
}

pub(super) fn log_from(first: i64, payloads: Vec<Payload>) -> Vec<SessionEvent> {
    let event = |(sequence, payload)| SessionEvent {
        sequence,
        session_id: "s".into(),
        turn_id: TURN.into(),
        create_time: at(105),
        payload: Some(payload),
        ..Default::default()
    };
    (first..).zip(payloads).map(event).collect()
}

pub(super) fn stream() -> Shown {
    Shown::new(Scope::Turn(TURN.into()), TokenState::default())
}

/// What a stream sends for a log, as JSON; the word `snapshot` where the whole conversation is sent.
pub(super) fn sent(shown: &mut Shown, log: &[SessionEvent]) -> Vec<Value> {
    let mut sent = Vec::new();
    for event in log {
        for out in translate(event, shown) {
            sent.push(match out {
                Out::Event(event) => serde_json::to_value(event).expect("JSON"),
                Out::Snapshot => json!("snapshot"),
            });
        }
    }
    sent
}

/// The same, shortened to what tells one message from another.
pub(super) fn brief(sent: &[Value]) -> Vec<String> {
    sent.iter().map(one).collect()
}

fn one(event: &Value) -> String {
    match event["type"].as_str() {
        None => event.as_str().expect("the word snapshot").to_owned(),
        Some("Message") => of_message(&event["message"]),
        Some("Notification") => {
            format!("notification {} {}", event["request_id"], event["message"]["method"]).replace('"', "")
        }
        Some(kind) => kind.to_owned(),
    }
}

pub(super) fn of_message(message: &Value) -> String {
    let contents: Vec<String> =
        message["content"].as_array().expect("contents").iter().map(content).collect();
    format!("{} {}: {}", message["role"], message["id"], contents.join(", ")).replace('"', "")
}

fn content(content: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match content["type"].as_str().expect("a type") {
        "text" => text(&content["text"]),
        "thinking" => format!("thinking {}", text(&content["thinking"])),
        "toolRequest" => format!("request {}", text(&content["id"])),
        "toolResponse" => {
            format!("response {} {}", text(&content["id"]), text(&content["toolResult"]["status"]))
        }
        "actionRequired" => {
            format!("{} {}", text(&content["data"]["actionType"]), text(&content["data"]["id"]))
        }
        "systemNotification" => {
            format!("{} {}", text(&content["notificationType"]), text(&content["msg"]))
        }
        other => other.to_owned(),
    }
}

pub(super) fn folded(items: &[Item], turns: &[Turn], questions: &[pb::Interaction]) -> Vec<Message> {
    conversation(items, turns, questions)
}

pub(super) fn briefly(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| of_message(&serde_json::to_value(message).expect("JSON"))).collect()
}

pub(super) fn snapshot(items: Vec<Item>, through: i64) -> Snapshot {
    Snapshot { items, turns: Vec::new(), questions: Vec::new(), through }
}
