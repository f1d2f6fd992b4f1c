//! Session events → session updates, as pure functions: an event and what was sent before go in, updates come out.
//!
//! Invariants: nothing gated is sent to a client that did not ask for it; what was sent as deltas is not sent again when
//! its item completes, and what was missed is; a message of this client's own is never echoed. Nothing here waits,
//! reads or writes: contents that are stored beside the log are put into the event before.

pub(crate) mod content;
pub(crate) mod goose;
pub(crate) mod options;
mod partial;
mod replay;
#[cfg(test)]
mod tests;
pub(crate) mod tool;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agent_client_protocol_schema::v1 as acp;
use gander_proto::v1::{
    Command, Compaction, ExtensionState, Item, Notice, NoticeLevel, Part, Session, SessionEvent,
    SessionOption, item, part, session_event::Payload,
};
use prost_types::Timestamp;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use self::{
    content::{blocks, text_block},
    tool::{Frame, Output, View},
};
use crate::caps::ClientCaps;

/// Own messages that are remembered until the log repeats them.
const MAX_OWN_MESSAGES: usize = 64;
/// Terminals that wait for their calls.
const MAX_EARLY_TERMINALS: usize = 64;

/// What a client knows of one session: the state between one event and the next.
#[derive(Debug, Clone)]
pub struct DialectState {
    caps: ClientCaps,
    cwd: String,
    open: HashMap<String, Open>,
    own_messages: BTreeSet<String>,
    /// Terminals of the client's for calls that it has not heard of yet.
    terminals: BTreeMap<String, String>,
    options: Vec<SessionOption>,
    /// Event that the options stand for: older ones tell nothing new.
    options_sequence: i64,
    commands: Vec<Command>,
    title: Option<String>,
    context_used: Option<u64>,
    context_window: Option<u64>,
    cost: Option<acp::Cost>,
    usage_shown: Option<acp::UsageUpdate>,
}

/// An item that is not complete yet.
#[derive(Debug, Clone)]
enum Open {
    /// Bytes that were sent, by part.
    Message {
        message_id: String,
        sent: BTreeMap<i32, usize>,
    },
    Thought {
        message_id: String,
        sent: usize,
    },
    Compaction {
        sent: BTreeMap<i32, usize>,
    },
    Tool(Box<View>),
}

impl DialectState {
    /// A session that the client has just learnt about.
    #[must_use]
    pub fn new(caps: ClientCaps, cwd: impl Into<String>) -> Self {
        Self {
            caps,
            cwd: cwd.into(),
            open: HashMap::new(),
            own_messages: BTreeSet::new(),
            terminals: BTreeMap::new(),
            options: Vec::new(),
            options_sequence: -1,
            commands: Vec::new(),
            title: None,
            context_used: None,
            context_window: None,
            cost: None,
            usage_shown: None,
        }
    }

    /// The client sent this message itself: it is not sent back.
    pub fn expect_own(&mut self, message_id: &str) {
        if self.own_messages.len() >= MAX_OWN_MESSAGES {
            self.own_messages.pop_first();
        }
        self.own_messages.insert(message_id.to_owned());
    }

    /// Messages of the client's own that the log has not repeated yet.
    pub(crate) fn take_own(&mut self, before: &Self) {
        self.own_messages.extend(before.own_messages.iter().cloned());
    }

    /// Options as of an event, in the event itself or in the daemon's answer to a request. Answers and events come on
    /// two ways: whichever is older than what the client knows tells nothing.
    pub(crate) fn options_now(
        &mut self,
        options: &[SessionOption],
        sequence: i64,
    ) -> Vec<acp::SessionUpdate> {
        if sequence <= self.options_sequence {
            return Vec::new();
        }
        let updates = options::changes(&self.options, options, &self.caps);
        self.options = options.to_vec();
        self.options_sequence = sequence;
        updates
    }

    /// The text commands, if they are others than the client knows.
    pub(crate) fn commands_now(&mut self, commands: &[Command]) -> Option<acp::SessionUpdate> {
        if self.commands == commands {
            return None;
        }
        self.commands = commands.to_vec();
        Some(options::commands(commands))
    }

    /// The session's options as the client knows them.
    #[must_use]
    pub fn options(&self) -> &[SessionOption] {
        &self.options
    }

    /// Takes over what an answer told about the session, and gives what it did not.
    pub fn session_told(&mut self, session: &Session) -> Vec<acp::SessionUpdate> {
        self.cwd.clone_from(&session.working_directory);
        self.options.clone_from(&session.options);
        self.options_sequence = session.last_sequence;
        let mut updates = self.title(session);
        updates.extend(session.plan.as_ref().filter(|p| !p.entries.is_empty()).map(options::plan));
        if let Some(context) = &session.context {
            self.context_used = context.used_tokens.and_then(|n| u64::try_from(n).ok());
            self.context_window = context.window_tokens.and_then(|n| u64::try_from(n).ok());
        }
        if let Some(cost) = session.usage.as_ref().and_then(|usage| usage.cost_totals.as_ref()) {
            self.cost = Some(money(cost));
        }
        updates.extend(self.usage());
        let turn = &session.active_turn_id;
        updates.extend((!turn.is_empty()).then(|| self.active_turn(Some(turn))).flatten());
        updates
    }

    fn frame(&self) -> Frame<'_> {
        Frame { cwd: &self.cwd, output: self.output_form() }
    }

    fn output_form(&self) -> Output {
        if self.caps.meta_terminal_output { Output::Terminal } else { Output::Text }
    }

    /// What was held back to be sent in larger pieces.
    pub fn flush(&mut self) -> Vec<acp::SessionUpdate> {
        let cwd = self.cwd.clone();
        let frame = Frame { cwd: &cwd, output: self.output_form() };
        let mut updates = Vec::new();
        for (item_id, open) in &mut self.open {
            if let Open::Tool(view) = open {
                updates.extend(view.flush(item_id, frame));
            }
        }
        updates
    }

    /// Whether there is anything to flush.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        self.open.values().any(|open| matches!(open, Open::Tool(view) if view.holds_back()))
    }

    /// A terminal of the client's runs this call. The daemon's events and its calls come on two ways: a call that is not
    /// known yet is announced with its terminal.
    pub fn embed_terminal(&mut self, item_id: &str, terminal_id: &str) -> Vec<acp::SessionUpdate> {
        if !self.open.contains_key(item_id) {
            if self.terminals.len() >= MAX_EARLY_TERMINALS {
                self.terminals.pop_first();
            }
            self.terminals.insert(item_id.to_owned(), terminal_id.to_owned());
        }
        self.with_tool(item_id, |view, frame| view.embed_terminal(item_id, terminal_id, frame))
    }

    /// The call as a permission request shows it.
    #[must_use]
    pub fn snapshot(&self, call: &gander_proto::v1::ToolCall) -> acp::ToolCallUpdateFields {
        View::snapshot(call, self.frame())
    }

    fn with_tool(
        &mut self,
        item_id: &str,
        act: impl FnOnce(&mut View, Frame<'_>) -> Vec<acp::SessionUpdate>,
    ) -> Vec<acp::SessionUpdate> {
        let output = self.output_form();
        let frame = Frame { cwd: &self.cwd, output };
        match self.open.get_mut(item_id) {
            Some(Open::Tool(view)) => act(view, frame),
            _ => Vec::new(),
        }
    }

    fn title(&mut self, session: &Session) -> Vec<acp::SessionUpdate> {
        if session.title.is_empty() || self.title.as_deref() == Some(&session.title) {
            return Vec::new();
        }
        self.title = Some(session.title.clone());
        let updated = session.update_time.as_ref().and_then(iso);
        let mut update = acp::SessionInfoUpdate::new().title(session.title.clone());
        if let Some(updated) = updated {
            update = update.updated_at(updated);
        }
        vec![acp::SessionUpdate::SessionInfoUpdate(update)]
    }

    fn usage(&mut self) -> Option<acp::SessionUpdate> {
        let update = acp::UsageUpdate::new(self.context_used?, self.context_window?).cost(self.cost.clone());
        if self.usage_shown.as_ref() == Some(&update) {
            return None;
        }
        self.usage_shown = Some(update.clone());
        Some(acp::SessionUpdate::UsageUpdate(update))
    }

    /// Goose's clients steer a turn by its id.
    fn active_turn(&self, turn_id: Option<&str>) -> Option<acp::SessionUpdate> {
        let meta = json!({"goose": {"activeRunId": turn_id}});
        let update = acp::SessionInfoUpdate::new().meta(meta.as_object().cloned());
        self.caps.goose_notifications.then_some(acp::SessionUpdate::SessionInfoUpdate(update))
    }

    fn notice(
        &self,
        level: NoticeLevel,
        title: &str,
        description: Option<String>,
    ) -> Option<acp::SessionUpdate> {
        if !self.caps.notices || title.is_empty() {
            return None;
        }
        let severity = match level {
            NoticeLevel::Warning => acp::NoticeSeverity::Warning,
            NoticeLevel::Error => acp::NoticeSeverity::Error,
            NoticeLevel::Info | NoticeLevel::Unspecified => acp::NoticeSeverity::Info,
        };
        Some(acp::SessionUpdate::Notice(acp::Notice::new(severity, title).description(description)))
    }

    /// A remark for the person: as a notice where the client shows those, else as text if it is worth the interruption.
    pub(crate) fn remark(
        &self,
        level: NoticeLevel,
        text: &str,
        message_id: &str,
    ) -> Option<acp::SessionUpdate> {
        if self.caps.notices {
            return self.notice(level, text, None);
        }
        let worth = matches!(level, NoticeLevel::Warning | NoticeLevel::Error) && !text.is_empty();
        worth.then(|| {
            let chunk = acp::ContentChunk::new(text_block(&format!("{text}\n"))).message_id(message_id);
            acp::SessionUpdate::AgentMessageChunk(chunk)
        })
    }
}

/// The updates for one event.
#[must_use]
pub fn translate(event: &SessionEvent, state: &mut DialectState) -> Vec<acp::SessionUpdate> {
    let Some(payload) = &event.payload else { return Vec::new() };
    match payload {
        Payload::TextDelta(delta) => state.text_delta(&delta.item_id, delta.part_index, &delta.text),
        Payload::ThoughtDelta(delta) => state.thought_delta(&delta.item_id, &delta.text),
        Payload::ArgumentsDelta(delta) => state.with_tool(&delta.item_id, |view, _| {
            view.arguments(&delta.item_id, &delta.text).into_iter().collect()
        }),
        Payload::ToolOutputDelta(delta) => {
            state.with_tool(&delta.item_id, |view, frame| view.output(&delta.item_id, &delta.text, frame))
        }
        Payload::ToolProgress(progress) => state.progress(progress),
        Payload::ToolCallUpdated(updated) => match &updated.tool_call {
            Some(call) => {
                state.with_tool(&updated.item_id, |view, frame| view.update(&updated.item_id, call, frame))
            }
            None => Vec::new(),
        },
        Payload::ItemStarted(started) => {
            started.item.as_ref().map(|item| state.started(item)).unwrap_or_default()
        }
        Payload::ItemCompleted(completed) => {
            completed.item.as_ref().map(|item| state.completed(item)).unwrap_or_default()
        }
        Payload::SessionUpdated(updated) => {
            updated.session.as_ref().map(|session| state.session_updated(session)).unwrap_or_default()
        }
        Payload::SessionOptionsChanged(changed) => state.options_now(&changed.options, event.sequence),
        Payload::CommandsChanged(changed) => state.commands_now(&changed.commands).into_iter().collect(),
        Payload::TurnStarted(started) => {
            let turn = started.turn.as_ref();
            turn.and_then(|turn| state.active_turn(Some(&turn.turn_id))).into_iter().collect()
        }
        Payload::TurnEnded(_) => state.active_turn(None).into_iter().collect(),
        // What shows compactions by themselves needs no remark about them.
        Payload::StatusNoted(status) if state.caps.compaction && status.code.starts_with("compaction") => {
            Vec::new()
        }
        Payload::StatusNoted(status) => {
            state.notice(status.level(), &status.text, None).into_iter().collect()
        }
        Payload::PlanUpdated(updated) => updated.plan.iter().map(options::plan).collect(),
        Payload::UsageReported(usage) => state.usage_reported(usage),
        Payload::ModelRetryScheduled(retry) => {
            let cause = retry.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
            let title = format!("The model call failed; attempt {} follows", retry.attempt);
            let cause = (!cause.is_empty()).then_some(cause);
            state.notice(NoticeLevel::Warning, &title, cause).into_iter().collect()
        }
        Payload::ExtensionStateChanged(changed) if changed.new_state() == ExtensionState::Failed => {
            let cause = changed.error.as_ref().map(|error| error.message.clone());
            let name =
                changed.extension.as_ref().map(|extension| extension.name.as_str()).unwrap_or_default();
            let title = format!("The extension {name} does not work");
            state.notice(NoticeLevel::Warning, &title, cause).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

impl DialectState {
    fn started(&mut self, item: &Item) -> Vec<acp::SessionUpdate> {
        if !visible(item) {
            return Vec::new();
        }
        let id = item.item_id.clone();
        let open = match &item.body {
            Some(item::Body::AgentMessage(_)) => {
                Open::Message { message_id: message_id(item), sent: BTreeMap::new() }
            }
            Some(item::Body::Thought(_)) => Open::Thought { message_id: thought_id(item), sent: 0 },
            Some(item::Body::Compaction(_)) => Open::Compaction { sent: BTreeMap::new() },
            Some(item::Body::ToolCall(call)) => {
                let mut view = View::new(call).in_client_terminal(self.terminals.remove(&id));
                let updates = view.announce(&id, self.frame());
                self.open.insert(id, Open::Tool(Box::new(view)));
                return updates;
            }
            _ => return Vec::new(),
        };
        let mut updates = Vec::new();
        if matches!(open, Open::Compaction { .. }) && self.caps.compaction {
            let update = acp::CompactionUpdate::new(id.clone(), acp::CompactionStatus::InProgress);
            updates.push(acp::SessionUpdate::CompactionUpdate(update));
        }
        self.open.insert(id, open);
        // An item may begin with what is there already.
        updates.extend(self.rest(item));
        updates
    }

    fn completed(&mut self, item: &Item) -> Vec<acp::SessionUpdate> {
        if !visible(item) {
            self.open.remove(&item.item_id);
            return Vec::new();
        }
        let updates = match &item.body {
            Some(item::Body::UserMessage(message)) => {
                if self.own_messages.remove(&item.message_id) {
                    return Vec::new();
                }
                let chunk = |part| chunk(part, &message_id(item)).map(acp::SessionUpdate::UserMessageChunk);
                message.parts.iter().filter_map(chunk).collect()
            }
            Some(item::Body::AgentMessage(_) | item::Body::Thought(_)) => self.rest(item),
            Some(item::Body::Compaction(compaction)) => self.compacted(item, compaction),
            Some(item::Body::Notice(notice)) => self.noticed(item, notice),
            Some(item::Body::ToolCall(call)) => {
                let frame = Frame { cwd: &self.cwd, output: self.output_form() };
                match self.open.get_mut(&item.item_id) {
                    Some(Open::Tool(view)) => view.update(&item.item_id, call, frame),
                    _ => View::new(call)
                        .in_client_terminal(self.terminals.remove(&item.item_id))
                        .announce(&item.item_id, frame),
                }
            }
            None => Vec::new(),
        };
        self.open.remove(&item.item_id);
        updates
    }

    /// What of an item's text was not sent yet. Deltas that were dropped before this client saw them are in it.
    fn rest(&mut self, item: &Item) -> Vec<acp::SessionUpdate> {
        let id = message_id(item);
        match &item.body {
            Some(item::Body::AgentMessage(message)) => {
                let mut nothing = BTreeMap::new();
                let sent = match self.open.get_mut(&item.item_id) {
                    Some(Open::Message { sent, .. }) => sent,
                    _ => &mut nothing,
                };
                let rest = unsent(&message.parts, sent);
                rest.into_iter()
                    .map(|content| acp::ContentChunk::new(content).message_id(id.as_str()))
                    .map(acp::SessionUpdate::AgentMessageChunk)
                    .collect()
            }
            Some(item::Body::Thought(thought)) => {
                let mut nothing = 0;
                let sent = match self.open.get_mut(&item.item_id) {
                    Some(Open::Thought { sent, .. }) => sent,
                    _ => &mut nothing,
                };
                let text = thought.text.get(*sent..).unwrap_or_default();
                *sent = thought.text.len();
                if text.is_empty() {
                    return Vec::new();
                }
                let chunk = acp::ContentChunk::new(text_block(text)).message_id(thought_id(item).as_str());
                vec![acp::SessionUpdate::AgentThoughtChunk(chunk)]
            }
            _ => Vec::new(),
        }
    }

    fn text_delta(&mut self, item_id: &str, part_index: i32, text: &str) -> Vec<acp::SessionUpdate> {
        let compaction = self.caps.compaction;
        match self.open.get_mut(item_id) {
            Some(Open::Message { message_id, sent }) => {
                *sent.entry(part_index).or_default() += text.len();
                let chunk = acp::ContentChunk::new(text_block(text)).message_id(message_id.as_str());
                vec![acp::SessionUpdate::AgentMessageChunk(chunk)]
            }
            Some(Open::Compaction { sent }) => {
                *sent.entry(part_index).or_default() += text.len();
                let chunk = acp::CompactionSummaryChunk::new(item_id.to_owned(), text_block(text));
                let update = acp::SessionUpdate::CompactionSummaryChunk(chunk);
                compaction.then_some(update).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn thought_delta(&mut self, item_id: &str, text: &str) -> Vec<acp::SessionUpdate> {
        let Some(Open::Thought { message_id, sent }) = self.open.get_mut(item_id) else { return Vec::new() };
        *sent += text.len();
        let chunk = acp::ContentChunk::new(text_block(text)).message_id(message_id.as_str());
        vec![acp::SessionUpdate::AgentThoughtChunk(chunk)]
    }

    fn compacted(&mut self, item: &Item, compaction: &Compaction) -> Vec<acp::SessionUpdate> {
        if !self.caps.compaction {
            return Vec::new();
        }
        let status =
            if item.incomplete { acp::CompactionStatus::Cancelled } else { acp::CompactionStatus::Completed };
        let summary: Vec<_> = compaction.summary_parts.iter().filter_map(blocks).collect();
        let mut update = acp::CompactionUpdate::new(item.item_id.clone(), status);
        if !summary.is_empty() {
            update = update.summary(summary);
        }
        vec![acp::SessionUpdate::CompactionUpdate(update)]
    }

    fn noticed(&self, item: &Item, notice: &Notice) -> Vec<acp::SessionUpdate> {
        self.remark(notice.level(), &notice.text, &message_id(item)).into_iter().collect()
    }

    fn progress(&mut self, progress: &gander_proto::v1::ToolProgress) -> Vec<acp::SessionUpdate> {
        let mut line = progress.message.clone();
        if let Some(subagent) = progress.subagent.as_ref().filter(|subagent| !subagent.summary.is_empty()) {
            line.clone_from(&subagent.summary);
        }
        if line.is_empty() {
            return Vec::new();
        }
        if let Some(total) = progress.total.filter(|total| *total > 0.0) {
            line = format!("{line} ({}/{total})", progress.progress);
        }
        line.push('\n');
        self.with_tool(&progress.item_id, |view, frame| view.output(&progress.item_id, &line, frame))
    }

    fn session_updated(&mut self, session: &Session) -> Vec<acp::SessionUpdate> {
        if !session.working_directory.is_empty() {
            self.cwd.clone_from(&session.working_directory);
        }
        self.title(session)
    }

    fn usage_reported(&mut self, usage: &gander_proto::v1::UsageReported) -> Vec<acp::SessionUpdate> {
        let count = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
        self.context_used = count(usage.context_used_tokens).or(self.context_used);
        self.context_window = count(usage.context_window_tokens).or(self.context_window);
        if let Some(cost) = &usage.cost_totals {
            self.cost = Some(money(cost));
        }
        self.usage().into_iter().collect()
    }
}

/// Audit entries, rewound and erased items are not for people.
fn visible(item: &Item) -> bool {
    !item.redacted && item.visibility.as_ref().is_none_or(|visibility| visibility.user)
}

fn message_id(item: &Item) -> String {
    if item.message_id.is_empty() { item.item_id.clone() } else { item.message_id.clone() }
}

/// Thoughts and text of one answer are two bubbles.
fn thought_id(item: &Item) -> String {
    format!("{}-t", message_id(item))
}

fn chunk(part: &Part, message_id: &str) -> Option<acp::ContentChunk> {
    Some(acp::ContentChunk::new(blocks(part)?).message_id(message_id))
}

/// Content of `parts` beyond what was sent; afterwards all of it counts as sent.
fn unsent(parts: &[Part], sent: &mut BTreeMap<i32, usize>) -> Vec<acp::ContentBlock> {
    let mut content = Vec::new();
    for (part, index) in parts.iter().zip(0..) {
        match &part.body {
            Some(part::Body::Text(text)) => {
                let before = sent.insert(index, text.len()).unwrap_or_default();
                match text.get(before..) {
                    Some("") | None => {}
                    Some(_) if before == 0 => content.extend(blocks(part)),
                    Some(rest) => content.push(text_block(rest)),
                }
            }
            _ if sent.insert(index, 0).is_none() => content.extend(blocks(part)),
            _ => {}
        }
    }
    content
}

/// RFC 3339 in UTC.
pub(crate) fn iso(time: &Timestamp) -> Option<String> {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()
}

fn money(cost: &gander_proto::v1::Cost) -> acp::Cost {
    let currency = if cost.currency.is_empty() { "USD" } else { &cost.currency };
    // Micros are exact in a double up to nine billion units.
    #[allow(clippy::cast_precision_loss, reason = "a display value")]
    let amount = cost.amount_micros as f64 / 1_000_000.0;
    acp::Cost::new(amount, currency)
}

/// JSON of an update, as it goes into a notification.
pub(crate) fn params(session_id: &str, update: &acp::SessionUpdate) -> serde_json::Value {
    json!({"sessionId": session_id, "update": update})
}
