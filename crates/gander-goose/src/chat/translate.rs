//! Events of the log → Goose's stream events. Pure: what an event means depends on it and on what was shown before.
//!
//! Order and ids are those of the log. Text is sent as it grows; the completed item adds only what is missing, and where
//! it is not a continuation of what was shown the whole conversation is sent anew, since Goose's stream can append but
//! not replace. What Goose has no word for is left out.

use std::collections::{HashMap, HashSet};

use gander_formats::{
    goose_session::{
        document::{dollars, total_tokens},
        message::{
            Frame, contents, frontend_request, is_requested, question, tool_request, tool_response, turn_end,
        },
        times::seconds,
    },
    session::{Content, Message, Metadata, NotificationType, Role},
};
use gander_proto::v1::{
    CompactionTrigger, HistoryChangeKind, Interaction, Item, ItemState, OutputStream, Session, SessionEvent,
    SessionUpdateCause, ToolCall, ToolCallStatus, ToolExecutor, ToolProgress, Turn, Usage, UsagePurpose,
    item::Body, part, session_event::Payload,
};
use prost_types::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::snapshot::Snapshot;

/// The sentence that Goose's window knows its compacting state by.
const COMPACTING: &str = "goose is compacting the conversation...";

/// One event of Goose's stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type")]
pub(crate) enum MessageEvent {
    Message {
        message: Message,
        token_state: TokenState,
    },
    Error {
        error: String,
    },
    Finish {
        reason: &'static str,
        token_state: TokenState,
    },
    ModelChange {
        model: String,
        mode: &'static str,
    },
    Notification {
        request_id: String,
        message: Value,
    },
    UpdateConversation {
        conversation: Vec<Message>,
    },
    /// Of the later generation: the turns that run while a window attaches.
    ActiveRequests {
        request_ids: Vec<String>,
    },
    Ping,
}

/// Tokens of the latest model call and of the whole session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenState {
    input_tokens: i64,
    output_tokens: i64,
    total_tokens: i64,
    accumulated_input_tokens: i64,
    accumulated_output_tokens: i64,
    accumulated_total_tokens: i64,
    /// In US dollars. Of the later generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    accumulated_cost: Option<f64>,
}

impl TokenState {
    /// Of a session as it is.
    pub(crate) fn of(session: &Session) -> Self {
        let mut tokens = Self::default();
        if let Some(usage) = &session.usage {
            tokens.set_call(usage.last_call.as_ref());
            tokens.set_totals(usage.totals.as_ref());
            tokens.accumulated_cost = usage.cost_totals.as_ref().and_then(dollars);
        }
        tokens
    }

    fn set_call(&mut self, usage: Option<&Usage>) {
        if let Some(usage) = usage {
            self.input_tokens = usage.input_tokens.unwrap_or(0);
            self.output_tokens = usage.output_tokens.unwrap_or(0);
            self.total_tokens = total_tokens(usage).unwrap_or(0);
        }
    }

    fn set_totals(&mut self, usage: Option<&Usage>) {
        if let Some(usage) = usage {
            self.accumulated_input_tokens = usage.input_tokens.unwrap_or(0);
            self.accumulated_output_tokens = usage.output_tokens.unwrap_or(0);
            self.accumulated_total_tokens = total_tokens(usage).unwrap_or(0);
        }
    }
}

/// What to send next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Out {
    /// This.
    Event(MessageEvent),
    /// The whole conversation as it is now, see [`Shown::cover`].
    Snapshot,
}

/// For whom a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// For one turn: what its window wrote itself is not repeated to it.
    Turn(String),
    /// For a session and all its turns.
    Session,
}

/// What was shown of a text that grows.
#[derive(Clone, Debug)]
struct Text {
    frame: Frame,
    sent: String,
    /// What was sent before this stream began is not known.
    beginning_unknown: bool,
}

/// What was shown of a call.
#[derive(Clone, Debug)]
struct Asked {
    frame: Frame,
    request: Request,
    /// The client was told to run it.
    offered: bool,
}

impl Asked {
    fn new(item: &Item, request: Request) -> Self {
        Self { frame: Frame::of(item), request, offered: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    NotShown,
    Shown,
    /// Perhaps shown before this stream began.
    Unknown,
}

/// What a stream has shown.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    scope: Scope,
    tokens: TokenState,
    texts: HashMap<String, Text>,
    calls: HashMap<String, Asked>,
    questions: HashSet<String>,
    /// The client has everything up to this sequence from a snapshot.
    covered: i64,
    /// Another turn went on before the one that is followed.
    foreign: bool,
    /// It was told that the conversation is being summarized.
    compacting: bool,
}

impl Shown {
    /// Nothing yet.
    pub(crate) fn new(scope: Scope, tokens: TokenState) -> Self {
        Self {
            scope,
            tokens,
            texts: HashMap::new(),
            calls: HashMap::new(),
            questions: HashSet::new(),
            covered: 0,
            foreign: false,
            compacting: false,
        }
    }

    /// The client was sent this snapshot.
    pub(crate) fn cover(&mut self, snapshot: &Snapshot) {
        self.covered = self.covered.max(snapshot.through);
        self.seed(snapshot, false);
    }

    /// The client was sent something of this snapshot's items by an earlier stream, nobody knows how much.
    pub(crate) fn resume(&mut self, snapshot: &Snapshot) {
        self.seed(snapshot, true);
    }

    fn seed(&mut self, snapshot: &Snapshot, unknown: bool) {
        self.foreign = false;
        for item in &snapshot.items {
            match &item.body {
                Some(Body::AgentMessage(_)) if unknown || item.state() == ItemState::InProgress => {
                    let sent = if unknown { String::new() } else { text(item) };
                    let text = Text { frame: Frame::of(item), sent, beginning_unknown: unknown };
                    self.texts.insert(item.item_id.clone(), text);
                }
                Some(Body::ToolCall(call)) => {
                    let request = match (unknown, is_requested(call)) {
                        (true, _) => Request::Unknown,
                        (false, true) => Request::Shown,
                        (false, false) => Request::NotShown,
                    };
                    // Whom it was offered to does not run it again.
                    let offered = call.status() == ToolCallStatus::Running;
                    let asked = Asked { offered, ..Asked::new(item, request) };
                    self.calls.insert(item.item_id.clone(), asked);
                }
                _ => {}
            }
        }
        if !unknown {
            self.questions.extend(snapshot.questions.iter().map(|asked| asked.interaction_id.clone()));
        }
    }

    /// Whether an event is the end of the turn that is followed.
    pub(crate) fn is_end(&self, event: &SessionEvent) -> bool {
        let followed = matches!(&self.scope, Scope::Turn(turn_id) if *turn_id == event.turn_id);
        followed && matches!(event.payload, Some(Payload::TurnEnded(_)))
    }

    /// The whole conversation as an event.
    pub(crate) fn update(&mut self, snapshot: &Snapshot) -> MessageEvent {
        self.cover(snapshot);
        MessageEvent::UpdateConversation { conversation: snapshot.conversation() }
    }

    /// The end of a turn.
    pub(crate) fn finish(&self) -> MessageEvent {
        MessageEvent::Finish { reason: "stop", token_state: self.tokens }
    }

    fn say(&self, message: Message) -> Out {
        Out::Event(MessageEvent::Message { message, token_state: self.tokens })
    }
}

fn text(item: &Item) -> String {
    let Some(Body::AgentMessage(message)) = &item.body else { return String::new() };
    let text = |part: &gander_proto::v1::Part| match &part.body {
        Some(part::Body::Text(text)) => Some(text.clone()),
        _ => None,
    };
    message.parts.iter().filter_map(text).collect()
}

/// What to send for one event.
pub(crate) fn translate(event: &SessionEvent, shown: &mut Shown) -> Vec<Out> {
    let Some(payload) = &event.payload else {
        // A payload of a later version: what it changed cannot be known.
        return if event.ignorable { Vec::new() } else { vec![Out::Snapshot] };
    };
    if let Payload::UsageReported(usage) = payload {
        if usage.purpose() == UsagePurpose::Turn {
            shown.tokens.set_call(usage.call.as_ref());
        }
        shown.tokens.set_totals(usage.session_totals.as_ref());
        shown.tokens.accumulated_cost = usage.cost_totals.as_ref().and_then(dollars);
        return Vec::new();
    }
    if let Scope::Turn(turn_id) = &shown.scope
        && !event.turn_id.is_empty()
        && event.turn_id != *turn_id
    {
        shown.foreign = true;
        return Vec::new();
    }
    let covered = event.sequence <= shown.covered;
    if let Payload::TurnEnded(ended) = payload {
        return turn_ended(ended.turn.as_ref(), covered, shown);
    }
    if covered {
        return Vec::new();
    }
    match payload {
        Payload::TurnStarted(_) if std::mem::take(&mut shown.foreign) => vec![Out::Snapshot],
        Payload::ItemRedacted(_) => vec![Out::Snapshot],
        Payload::HistoryChanged(changed) => {
            shown.compacting = false;
            history_changed(changed.kind(), event, shown)
        }
        Payload::InteractionRequested(requested) => asked(requested.interaction.as_ref(), shown),
        Payload::SessionUpdated(updated) => match (&shown.scope, &updated.session) {
            (Scope::Turn(_), Some(session)) if updated.cause() == SessionUpdateCause::Fallback => {
                let model = session.model.as_ref().map(|model| model.model_id.clone()).unwrap_or_default();
                vec![Out::Event(MessageEvent::ModelChange { model, mode: "fallback" })]
            }
            _ => Vec::new(),
        },
        Payload::StatusNoted(status) if status.code == "compaction_started" => {
            shown.compacting = true;
            compacting(
                event.create_time.as_ref(),
                &format!("compact-{}", event.sequence),
                &status.text,
                shown,
            )
        }
        Payload::StatusNoted(status) => vec![thinking(event, &status.text, shown)],
        Payload::ModelRetryScheduled(retry) => {
            let seconds = retry.delay.map_or(0, |delay| delay.seconds);
            let error = retry.error.as_ref().map_or("no reason given", |error| error.message.as_str());
            let error = error.trim_end_matches('.');
            vec![thinking(event, &format!("The model call failed ({error}); next try in {seconds} s"), shown)]
        }
        payload => item_event(payload, event, shown),
    }
}

fn item_event(payload: &Payload, event: &SessionEvent, shown: &mut Shown) -> Vec<Out> {
    match payload {
        Payload::TextDelta(delta) => text_delta(&delta.item_id, &delta.text, shown),
        Payload::ItemStarted(started) => {
            started.item.as_ref().map_or_else(Vec::new, |item| item_started(item, shown))
        }
        Payload::ToolCallUpdated(updated) => updated
            .tool_call
            .as_ref()
            .map_or_else(Vec::new, |call| call_updated(&updated.item_id, call, shown)),
        Payload::ItemCompleted(completed) => {
            completed.item.as_ref().map_or_else(Vec::new, |item| item_completed(item, event, shown))
        }
        Payload::ToolOutputDelta(output) => {
            let stream = if output.stream() == OutputStream::Stderr { "stderr" } else { "stdout" };
            let data = json!({"type": "shell_output", "stream": stream, "output": output.text});
            vec![notification(
                &output.item_id,
                "notifications/message",
                json!({"level": "info", "logger": "shell_tool", "data": data}),
            )]
        }
        Payload::ToolProgress(progress) => vec![tool_progress(progress)],
        Payload::ToolNotification(sent) => {
            let params = serde_json::from_str(&sent.params_json).unwrap_or(Value::Null);
            vec![notification(&sent.item_id, &sent.method, params)]
        }
        _ => Vec::new(),
    }
}

fn notification(item_id: &str, method: &str, params: Value) -> Out {
    let mut message = json!({ "method": method });
    message["params"] = params;
    Out::Event(MessageEvent::Notification { request_id: item_id.to_owned(), message })
}

fn tool_progress(progress: &ToolProgress) -> Out {
    if let Some(sub) = &progress.subagent {
        let arguments: Value = serde_json::from_str(&sub.arguments_json).unwrap_or(Value::Null);
        let mut data = json!({"type": "subagent_tool_request", "subagent_id": sub.child_session_id,
            "tool_call": {"name": sub.tool_name, "arguments": arguments}});
        if sub.tool_name.is_empty() {
            data = json!({"type": "subagent_message", "subagent_id": sub.child_session_id,
                "message": sub.summary});
        }
        let params = json!({"level": "info", "logger": "subagent", "data": data});
        return notification(&progress.item_id, "notifications/message", params);
    }
    let mut params = json!({"progressToken": progress.item_id, "progress": progress.progress});
    if let Some(total) = progress.total {
        params["total"] = json!(total);
    }
    if !progress.message.is_empty() {
        params["message"] = json!(progress.message);
    }
    notification(&progress.item_id, "notifications/progress", params)
}

fn text_delta(item_id: &str, text: &str, shown: &mut Shown) -> Vec<Out> {
    let Some(known) = shown.texts.get_mut(item_id) else { return Vec::new() };
    known.sent.push_str(text);
    let message = known.frame.assistant(vec![Content::text(text)]);
    if message.metadata.user_visible { vec![shown.say(message)] } else { Vec::new() }
}

fn item_started(item: &Item, shown: &mut Shown) -> Vec<Out> {
    match &item.body {
        Some(Body::AgentMessage(_)) => {
            let beginning = text(item);
            let known = Text { frame: Frame::of(item), sent: String::new(), beginning_unknown: false };
            shown.texts.insert(item.item_id.clone(), known);
            if beginning.is_empty() { Vec::new() } else { text_delta(&item.item_id, &beginning, shown) }
        }
        Some(Body::ToolCall(call)) => {
            shown.calls.insert(item.item_id.clone(), Asked::new(item, Request::NotShown));
            call_updated(&item.item_id, call, shown)
        }
        Some(Body::Compaction(compaction)) if !shown.compacting => {
            let note = match compaction.trigger() {
                CompactionTrigger::Threshold => {
                    "Exceeded auto-compact threshold of 80%. Performing auto-compaction..."
                }
                CompactionTrigger::Overflow => {
                    "Context limit reached. Compacting to continue conversation..."
                }
                _ => "",
            };
            compacting(item.create_time.as_ref(), &item.item_id, note, shown)
        }
        _ => Vec::new(),
    }
}

/// That the conversation is being summarized: why, and the sentence that Goose's window waits for.
fn compacting(time: Option<&Timestamp>, id: &str, why: &str, shown: &Shown) -> Vec<Out> {
    let created = seconds(time);
    let why = (!why.is_empty())
        .then(|| remark(format!("{id}-n"), created, NotificationType::InlineMessage, &capitalized(why)));
    let state = remark(format!("{id}-c"), created, NotificationType::ThinkingMessage, COMPACTING);
    why.into_iter().chain([state]).map(|message| shown.say(message)).collect()
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// A remark for people that is not stored.
fn remark(id: String, created: i64, kind: NotificationType, text: &str) -> Message {
    Message {
        id: Some(id),
        role: Role::Assistant,
        created,
        content: vec![Content::notification(kind, text)],
        metadata: Metadata::USER_ONLY,
    }
}

fn thinking(event: &SessionEvent, text: &str, shown: &Shown) -> Out {
    let id = format!("{}-t{}", event.turn_id, event.sequence);
    let created = seconds(event.create_time.as_ref());
    shown.say(remark(id, created, NotificationType::ThinkingMessage, text))
}

/// A call's request, once, as soon as its arguments are complete.
fn call_updated(item_id: &str, call: &ToolCall, shown: &mut Shown) -> Vec<Out> {
    let Some(asked) = shown.calls.get_mut(item_id).filter(|_| is_requested(call)) else { return Vec::new() };
    let before = std::mem::replace(&mut asked.request, Request::Shown);
    let show = match before {
        Request::NotShown => true,
        Request::Shown => false,
        // A later step: the one before it lies before this stream's beginning, where the request was shown.
        Request::Unknown => call.status() == ToolCallStatus::Pending,
    };
    let runs = call.executor() == ToolExecutor::Client && call.status() == ToolCallStatus::Running;
    let offer = runs && !std::mem::replace(&mut asked.offered, true);
    if !asked.frame.metadata.user_visible {
        return Vec::new();
    }
    let request = show.then(|| asked.frame.assistant(vec![tool_request(item_id, call)]));
    let offered = offer.then(|| frontend_request(item_id, call, &asked.frame));
    request.into_iter().chain(offered).map(|message| shown.say(message)).collect()
}

fn item_completed(item: &Item, event: &SessionEvent, shown: &mut Shown) -> Vec<Out> {
    let visible = item.visibility.is_none_or(|visibility| visibility.user);
    match &item.body {
        Some(Body::AgentMessage(_)) => {
            let known = shown.texts.remove(&item.item_id);
            if visible { message_completed(item, known, shown) } else { Vec::new() }
        }
        Some(Body::ToolCall(call)) => {
            let asked = shown.calls.remove(&item.item_id);
            if !visible {
                return Vec::new();
            }
            let mut out = Vec::new();
            if asked.is_none_or(|asked| asked.request == Request::NotShown) && is_requested(call) {
                let frame = Frame::of(item);
                out.push(shown.say(frame.assistant(vec![tool_request(&item.item_id, call)])));
            }
            out.push(shown.say(tool_response(item, call)));
            out
        }
        Some(Body::UserMessage(message)) => {
            let own = match &shown.scope {
                Scope::Turn(_) => !message.steered,
                // A window of this surface has shown what it sent.
                Scope::Session => {
                    !message.steered
                        && event.actor.as_ref().is_some_and(|actor| actor.protocol == crate::PROTOCOL)
                }
            };
            if own || !visible { Vec::new() } else { whole(item, shown) }
        }
        Some(Body::Thought(_) | Body::Notice(_)) if visible => whole(item, shown),
        _ => Vec::new(),
    }
}

fn whole(item: &Item, shown: &Shown) -> Vec<Out> {
    let (role, contents) = contents(item);
    if contents.is_empty() { Vec::new() } else { vec![shown.say(Frame::of(item).message(role, contents))] }
}

fn message_completed(item: &Item, known: Option<Text>, shown: &Shown) -> Vec<Out> {
    let Some(known) = known else { return whole(item, shown) };
    let full = text(item);
    if known.beginning_unknown {
        let complete = !known.sent.is_empty() && full.ends_with(&known.sent);
        return if complete { Vec::new() } else { vec![Out::Snapshot] };
    }
    let Some(rest) = full.strip_prefix(known.sent.as_str()) else { return vec![Out::Snapshot] };
    let (_, all) = contents(item);
    let others = all.into_iter().filter(|content| !matches!(content, Content::Text { .. }));
    let rest = (!rest.is_empty()).then(|| Content::text(rest));
    let missing: Vec<Content> = rest.into_iter().chain(others).collect();
    if missing.is_empty() { Vec::new() } else { vec![shown.say(known.frame.assistant(missing))] }
}

fn history_changed(kind: HistoryChangeKind, event: &SessionEvent, shown: &Shown) -> Vec<Out> {
    match kind {
        HistoryChangeKind::PairSummarized => Vec::new(),
        HistoryChangeKind::Compacted => {
            let id = format!("compacted-{}", event.sequence);
            let created = seconds(event.create_time.as_ref());
            let done = remark(id, created, NotificationType::InlineMessage, "Compaction complete");
            vec![Out::Snapshot, shown.say(done)]
        }
        _ => vec![Out::Snapshot],
    }
}

fn asked(interaction: Option<&Interaction>, shown: &mut Shown) -> Vec<Out> {
    let Some(interaction) = interaction else { return Vec::new() };
    if !shown.questions.insert(interaction.interaction_id.clone()) {
        return Vec::new();
    }
    question(interaction).map(|message| shown.say(message)).into_iter().collect()
}

fn turn_ended(turn: Option<&Turn>, covered: bool, shown: &mut Shown) -> Vec<Out> {
    shown.texts.clear();
    shown.calls.clear();
    shown.questions.clear();
    shown.compacting = false;
    let end = turn.filter(|_| !covered).and_then(turn_end).map(|message| shown.say(message));
    end.into_iter().chain([Out::Event(shown.finish())]).collect()
}
