//! From what an agent reports to items: pure but for ids and times.
//!
//! Text and thoughts are items that end when something else begins. A tool call is one item that every update replaces,
//! until the agent says how it ended. A silent transcript (for what an agent does between turns) says nothing before an
//! item is complete, as nobody knows when an agent falls silent.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use gander_domain::{
    ErrorDetail, ErrorReason, Item, ItemBody, ItemId, MessageId, Part, PartBody, Payload, TurnId,
    event::OutputStream,
    item::{
        AgentMessage, Executor, ItemState, Notice, NoticeLevel, Origin, PermissionRecord, Thought, ToolCall,
        ToolCallStatus, ToolKind, ToolOutcome, ToolResult, Visibility,
    },
};
use gander_model::{AgentToolCall, AgentToolStatus};
use gander_store::NewContent;

use crate::{
    content::{MAX_INLINE_BYTES, offload_parts, offload_result},
    redact::SecretFilter,
    source::{Mint, Source},
};

/// Longest text of one delta, in bytes.
const MAX_DELTA: usize = 16 * 1024;
/// Longest text of one part that is shown while a call runs.
const MAX_SHOWN: usize = 64 * 1024;
/// Ended calls of one turn that are remembered.
const MAX_ENDED: usize = 4096;

/// Events to append, with what is stored beside them.
#[derive(Default)]
pub(super) struct Out {
    pub(super) payloads: Vec<Payload>,
    pub(super) contents: Vec<NewContent>,
}

pub(super) struct Transcript {
    source: Arc<dyn Source>,
    /// What must not get into the log.
    secrets: Arc<SecretFilter>,
    turn_id: Option<TurnId>,
    model_id: String,
    silent: bool,
    message_id: MessageId,
    /// The agent's own id of the message that is being written.
    agent_message_id: Option<String>,
    /// A call came since the message began: what follows is another response.
    calls_since: bool,
    /// The text or thought that is being written.
    open: Option<Item>,
    calls: BTreeMap<String, Item>,
    ended: HashSet<String>,
}

impl Transcript {
    /// What has become known as secret since.
    pub(super) fn set_secrets(&mut self, secrets: Arc<SecretFilter>) {
        self.secrets = secrets;
    }

    /// Of a turn, or a silent one of what belongs to none.
    pub(super) fn new(
        source: Arc<dyn Source>,
        secrets: Arc<SecretFilter>,
        turn_id: Option<TurnId>,
        model_id: &str,
    ) -> Self {
        let message_id = source.message_id();
        Self {
            source,
            secrets,
            silent: turn_id.is_none(),
            turn_id,
            model_id: model_id.to_owned(),
            message_id,
            agent_message_id: None,
            calls_since: false,
            open: None,
            calls: BTreeMap::new(),
            ended: HashSet::new(),
        }
    }

    /// Whether a call of this id is open here.
    pub(super) fn has_call(&self, call_id: &str) -> bool {
        self.calls.contains_key(call_id)
    }

    fn item(&self, body: ItemBody) -> Item {
        Item {
            item_id: self.source.item_id(),
            turn_id: self.turn_id.clone(),
            message_id: self.message_id.clone(),
            body,
            state: ItemState::InProgress,
            incomplete: false,
            visibility: Visibility::default(),
            origin: Origin::Backend,
            create_time: self.source.now(),
            client_create_time: None,
            complete_time: None,
            redacted: false,
            model_id: Some(self.model_id.clone()),
            provider_state_json: None,
        }
    }

    fn say(&self, payload: Payload, out: &mut Out) {
        if !self.silent {
            out.payloads.push(payload);
        }
    }

    fn complete(&self, mut item: Item, out: &mut Out) {
        item.state = ItemState::Completed;
        item.complete_time = Some(self.source.now());
        out.payloads.push(Payload::ItemCompleted { item: Box::new(item) });
    }

    /// Another message begins where the agent says so, or where text follows calls.
    fn next_message(&mut self, agent_message_id: Option<&str>, out: &mut Out) {
        let other = match (agent_message_id, self.agent_message_id.as_deref()) {
            (Some(now), Some(before)) => now != before,
            (Some(_), None) | (None, _) => self.calls_since,
        };
        if other {
            self.close_open(out);
            self.message_id = self.source.message_id();
        }
        self.calls_since = false;
        self.agent_message_id = agent_message_id.map(str::to_owned);
    }

    /// Text of the agent's message.
    pub(super) fn text(&mut self, message_id: Option<&str>, text: &str, out: &mut Out) {
        if text.is_empty() {
            return;
        }
        self.next_message(message_id, out);
        if !matches!(self.open.as_ref().map(|i| &i.body), Some(ItemBody::AgentMessage(_))) {
            self.close_open(out);
            let item =
                self.item(ItemBody::AgentMessage(AgentMessage { parts: vec![Part::text("")], demo: false }));
            self.say(Payload::ItemStarted { item: Box::new(item.clone()) }, out);
            self.open = Some(item);
        }
        let Some(item) = &mut self.open else { return };
        if let ItemBody::AgentMessage(message) = &mut item.body
            && let Some(PartBody::Text(all)) = message.parts.first_mut().map(|p| &mut p.body)
        {
            all.push_str(text);
        }
        let item_id = item.item_id.clone();
        for piece in pieces(text) {
            let text = piece.to_owned();
            self.say(Payload::TextDelta { item_id: item_id.clone(), part_index: 0, text }, out);
        }
    }

    /// Text of a thought.
    pub(super) fn thought(&mut self, message_id: Option<&str>, text: &str, out: &mut Out) {
        if text.is_empty() {
            return;
        }
        self.next_message(message_id, out);
        if !matches!(self.open.as_ref().map(|i| &i.body), Some(ItemBody::Thought(_))) {
            self.close_open(out);
            let item = self.item(ItemBody::Thought(Thought::default()));
            self.say(Payload::ItemStarted { item: Box::new(item.clone()) }, out);
            self.open = Some(item);
        }
        let Some(item) = &mut self.open else { return };
        if let ItemBody::Thought(thought) = &mut item.body {
            thought.text.push_str(text);
        }
        let item_id = item.item_id.clone();
        for piece in pieces(text) {
            self.say(Payload::ThoughtDelta { item_id: item_id.clone(), text: piece.to_owned() }, out);
        }
    }

    /// A part that is no text: a message of its own, complete at once.
    pub(super) fn part(&mut self, message_id: Option<&str>, part: Part, out: &mut Out) {
        self.next_message(message_id, out);
        self.close_open(out);
        let parts = store_parts(vec![part], out);
        let item = self.item(ItemBody::AgentMessage(AgentMessage { parts, demo: false }));
        self.complete(item, out);
    }

    /// Ends the text or thought that is being written.
    pub(super) fn close_open(&mut self, out: &mut Out) {
        if let Some(item) = self.open.take() {
            self.complete(item, out);
        }
    }

    /// A notice for people.
    pub(super) fn notice(&mut self, level: NoticeLevel, code: &str, text: String, out: &mut Out) {
        self.close_open(out);
        let body = Notice { level, code: code.to_owned(), text, data_json: None };
        let mut item = self.item(ItemBody::Notice(body));
        item.message_id = self.source.message_id();
        item.visibility = Visibility { user: true, model: false };
        self.complete(item, out);
    }

    /// A call begins, changes or ends. Gives its item while it is open.
    pub(super) fn tool_call(&mut self, update: AgentToolCall, out: &mut Out) -> Option<ItemId> {
        let call_id = update.call_id.clone();
        if self.ended.contains(&call_id) {
            tracing::debug!(call_id, "an update of a call that has ended was left out");
            return None;
        }
        self.calls_since = true;
        let begins = !self.calls.contains_key(&call_id);
        let mut item = match self.calls.remove(&call_id) {
            Some(item) => item,
            None => {
                self.close_open(out);
                let mut call = ToolCall::streaming("", call_id.as_str());
                call.status = ToolCallStatus::Pending;
                call.executor = Executor::Backend;
                "{}".clone_into(&mut call.arguments_json);
                self.item(ItemBody::ToolCall(Box::new(call)))
            }
        };
        let status = update.status;
        let mut update = update;
        for json in [&mut update.input_json, &mut update.output_json].into_iter().flatten() {
            self.secrets.clean_json(json);
        }
        let output_json = update.output_json.clone();
        let call = item.tool_call_mut()?;
        let changed = apply(call, update, out);
        self.secrets.clean(&mut call.title);
        self.secrets.clean_content(call);
        if begins {
            self.say(Payload::ItemStarted { item: Box::new(item.clone()) }, out);
        }
        let item_id = item.item_id.clone();
        match status {
            Some(AgentToolStatus::Completed | AgentToolStatus::Failed) => {
                let failed = status == Some(AgentToolStatus::Failed);
                self.end_call(item, failed, output_json, out);
                return None;
            }
            Some(AgentToolStatus::InProgress) => {
                let moved = self.set_status(&mut item, ToolCallStatus::Running);
                if moved || (changed && !begins) {
                    self.say_call(&item, out);
                }
            }
            Some(AgentToolStatus::Pending) | None => {
                if changed && !begins {
                    self.say_call(&item, out);
                }
            }
        }
        self.calls.insert(call_id, item);
        Some(item_id)
    }

    /// Moves a call on, if it may; `true`: it moved.
    fn set_status(&self, item: &mut Item, next: ToolCallStatus) -> bool {
        let now = self.source.now();
        let Some(call) = item.tool_call_mut() else { return false };
        if call.status == next || !call.status.may_become(next) {
            return false;
        }
        call.status = next;
        if next == ToolCallStatus::Running {
            call.start_time.get_or_insert(now);
        }
        true
    }

    fn say_call(&self, item: &Item, out: &mut Out) {
        if let Some(call) = item.tool_call() {
            let (item_id, call) = (item.item_id.clone(), Box::new(call.clone()));
            self.say(Payload::ToolCallUpdated { item_id, call }, out);
        }
    }

    fn end_call(&mut self, mut item: Item, failed: bool, output_json: Option<String>, out: &mut Out) {
        let now = self.source.now();
        let Some(call) = item.tool_call_mut() else { return };
        let declined = call.permission.as_ref().is_some_and(|record| !record.allowed);
        let (status, outcome) = match (failed, declined) {
            (false, _) => (ToolCallStatus::Completed, ToolOutcome::Ok),
            // A refused call that the agent started all the same did fail.
            (true, true) if call.status != ToolCallStatus::Running => {
                (ToolCallStatus::Declined, ToolOutcome::Declined)
            }
            (true, _) => (ToolCallStatus::Failed, ToolOutcome::ToolError),
        };
        let started = call.start_time.unwrap_or(now);
        let (content, mut parts): (Vec<Part>, Vec<Part>) = std::mem::take(&mut call.content)
            .into_iter()
            .partition(|p| matches!(p.body, PartBody::Diff { .. } | PartBody::Terminal { .. }));
        if parts.is_empty()
            && let Some(json) = &output_json
        {
            parts.push(Part::text(plain(json)));
        }
        let is_object = |json: &String| json.trim_start().starts_with('{');
        let error = (outcome == ToolOutcome::Declined)
            .then(|| ErrorDetail::new(ErrorReason::ToolNotAllowed, "the call was not allowed"));
        let result = ToolResult {
            outcome,
            parts,
            structured_content_json: output_json.filter(is_object),
            is_error: outcome != ToolOutcome::Ok,
            meta_json: None,
            error,
            truncated: None,
            duration_ms: u64::try_from((now.0 - started.0) / 1000).unwrap_or(0),
        };
        let (result, contents) = offload_result(result);
        out.contents.extend(contents);
        call.content = content;
        call.result = Some(result);
        // The log says that a call ran before it says that it completed.
        if !item.tool_call().is_some_and(|call| call.status.may_become(status)) {
            self.set_status(&mut item, ToolCallStatus::Running);
            self.say_call_without_result(&item, out);
        }
        if let Some(call) = item.tool_call_mut() {
            if self.ended.len() < MAX_ENDED {
                self.ended.insert(call.call_id.clone());
            }
            call.status = status;
        }
        self.complete(item, out);
    }

    fn say_call_without_result(&self, item: &Item, out: &mut Out) {
        let mut item = item.clone();
        if let Some(call) = item.tool_call_mut() {
            call.result = None;
        }
        self.say_call(&item, out);
    }

    /// Live output of a call.
    pub(super) fn tool_output(&mut self, call_id: &str, text: &str, out: &mut Out) {
        let Some(item) = self.calls.get(call_id) else { return };
        let mut text = text.to_owned();
        self.secrets.clean(&mut text);
        for piece in pieces(&text) {
            let payload = Payload::ToolOutputDelta {
                item_id: item.item_id.clone(),
                stream: OutputStream::Stdout,
                text: piece.to_owned(),
            };
            self.say(payload, out);
        }
    }

    /// The snapshot of an open call.
    pub(super) fn call(&self, call_id: &str) -> Option<&ToolCall> {
        self.calls.get(call_id).and_then(Item::tool_call)
    }

    /// A question about a call was asked or answered.
    pub(super) fn set_permission(
        &mut self,
        call_id: &str,
        status: ToolCallStatus,
        record: Option<PermissionRecord>,
        out: &mut Out,
    ) {
        let Some(mut item) = self.calls.remove(call_id) else { return };
        let moved = self.set_status(&mut item, status);
        let recorded = record.is_some();
        if let (Some(call), Some(record)) = (item.tool_call_mut(), record) {
            call.permission = Some(record);
        }
        if moved || recorded {
            self.say_call(&item, out);
        }
        self.calls.insert(call_id.to_owned(), item);
    }

    /// Ends everything at the regular end of a turn.
    pub(super) fn finish(&mut self, out: &mut Out) {
        self.close_open(out);
        for (_, mut item) in std::mem::take(&mut self.calls) {
            let Some(call) = item.tool_call_mut() else { continue };
            let declined = call.permission.as_ref().is_some_and(|record| !record.allowed);
            let (status, outcome, text) = match call.status {
                ToolCallStatus::Running => (
                    ToolCallStatus::OutcomeUnknown,
                    ToolOutcome::OutcomeUnknown,
                    "the agent ended its turn without saying how this call ended",
                ),
                ToolCallStatus::Pending | ToolCallStatus::AwaitingApproval if declined => {
                    (ToolCallStatus::Declined, ToolOutcome::Declined, "the call was not allowed")
                }
                _ => (ToolCallStatus::Cancelled, ToolOutcome::Cancelled, "the agent did not run this call"),
            };
            call.status = status;
            let error = ErrorDetail::new(ErrorReason::TurnNotRunning, text);
            call.result = Some(ToolResult::failed(outcome, error));
            item.incomplete = !declined;
            self.complete(item, out);
        }
    }
}

/// Replaces what the update says; `true`: something is different now.
fn apply(call: &mut ToolCall, update: AgentToolCall, out: &mut Out) -> bool {
    let before = call.clone();
    if let Some(kind) = update.kind {
        call.kind = kind;
    }
    match update.name {
        Some(name) => call.tool_name = name,
        None if call.tool_name.is_empty() || update.kind.is_some() && call.name == kind_name(before.kind) => {
            kind_name(call.kind).clone_into(&mut call.tool_name);
        }
        None => {}
    }
    call.name = public_name(&call.tool_name);
    if let Some(title) = update.title {
        call.title = title;
    }
    if let Some(locations) = update.locations {
        call.locations = locations;
    }
    if let Some(json) = update.input_json {
        set_arguments(call, json, out);
    }
    if let Some(content) = update.content {
        call.content = store_parts(content.into_iter().map(shown).collect(), out);
    }
    *call != before
}

fn set_arguments(call: &mut ToolCall, json: String, out: &mut Out) {
    // Other models expect an object when they read this call later.
    let json = if json.trim_start().starts_with('{') { json } else { format!("{{\"input\":{json}}}") };
    call.arguments_content_id = None;
    if json.len() <= MAX_INLINE_BYTES {
        call.arguments_json = json;
        return;
    }
    "{}".clone_into(&mut call.arguments_json);
    if let Ok((parts, contents)) = offload_parts(vec![Part::text(json)]) {
        if let Some(PartBody::TextContent { content_id, .. }) = parts.first().map(|part| &part.body) {
            call.arguments_content_id = Some(content_id.clone());
        }
        out.contents.extend(contents);
    }
}

/// Moves large parts beside the log.
fn store_parts(parts: Vec<Part>, out: &mut Out) -> Vec<Part> {
    match offload_parts(parts) {
        Ok((parts, contents)) => {
            out.contents.extend(contents);
            parts
        }
        // An id out of a hash is always valid.
        Err(_) => Vec::new(),
    }
}

/// A display part that fits an event whatever the agent sends.
fn shown(mut part: Part) -> Part {
    let size = part.size_bytes();
    match &mut part.body {
        PartBody::Diff { path, old_text, new_text, .. } if size > 2 * MAX_SHOWN => {
            let cut = |text: &mut Option<String>| {
                if let Some(text) = text
                    && text.len() > MAX_SHOWN
                {
                    text.truncate(text.floor_char_boundary(MAX_SHOWN));
                    text.push_str("\n[… the rest is left out …]\n");
                }
            };
            cut(old_text);
            cut(new_text);
            tracing::debug!(%path, size, "a diff was cut for display");
        }
        PartBody::Unknown { kind, raw_json } if raw_json.len() > MAX_SHOWN => {
            part.body = PartBody::Text(format!("[{kind} of {} bytes]", raw_json.len()));
        }
        _ => {}
    }
    part
}

/// What a raw output says: a string itself, anything else as JSON.
fn plain(json: &str) -> String {
    serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned())
}

fn kind_name(kind: ToolKind) -> &'static str {
    match kind {
        ToolKind::Read => "read",
        ToolKind::Edit => "edit",
        ToolKind::Delete => "delete",
        ToolKind::Move => "move",
        ToolKind::Search => "search",
        ToolKind::Execute => "execute",
        ToolKind::Think => "think",
        ToolKind::Fetch => "fetch",
        ToolKind::SwitchMode => "switch_mode",
        ToolKind::Other => "tool",
    }
}

/// A name that every model's API takes.
fn public_name(name: &str) -> String {
    let ordinary = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let name: String = name.chars().map(|c| if ordinary(c) { c } else { '_' }).take(64).collect();
    if name.is_empty() { "tool".to_owned() } else { name }
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, more) = rest.split_at(rest.floor_char_boundary(MAX_DELTA.min(rest.len())));
        rest = more;
        Some(piece)
    })
}

#[cfg(test)]
mod tests;
