//! The fold of a session's log into its state. `snapshot(S) + events after S = state`, for every S.
//!
//! The fold is tolerant: it applies what it can and never fails. Whether a log obeys the rules is [`crate::check`]'s
//! question.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    Event, Interaction, InteractionId, Item, ItemBody, ItemId, MessageId, Part, Payload, Sequence, Session,
    Turn, TurnId,
    event::{HistoryChange, HistoryChangeKind},
    extension::{ExtensionState, ExtensionSummary},
    interaction::{InteractionState, Resolution},
    item::ItemState,
    permission::{PermissionRule, RememberScope},
    session::{Command, Plan, SessionOption, SessionState as Activity},
    turn::TurnState,
    usage::UsagePurpose,
};

/// An item with what the fold knows about it.
#[derive(Debug, Clone)]
pub struct ItemEntry {
    pub item: Arc<Item>,
    /// Sequence of its first event.
    pub first_sequence: Sequence,
    /// Hidden by a rewind: it cannot be rewound to again.
    pub rewound: bool,
}

/// State of a session's extension as the log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionEntry {
    pub summary: ExtensionSummary,
    pub state: ExtensionState,
}

/// Everything the log says, in memory.
#[derive(Debug, Clone)]
pub struct SessionState {
    pub session: Session,
    pub items: Vec<ItemEntry>,
    index: HashMap<ItemId, usize>,
    messages: HashSet<MessageId>,
    /// What each summary stands for, by the summary's id.
    summarized: HashMap<ItemId, Vec<ItemId>>,
    pub turns: Vec<Turn>,
    pub interactions: BTreeMap<InteractionId, Interaction>,
    pub extensions: BTreeMap<String, ExtensionEntry>,
    /// Rules that answers created for the rest of the session.
    pub rules: Vec<PermissionRule>,
    pub options: Vec<SessionOption>,
    pub commands: Vec<Command>,
    pub plan: Option<Plan>,
}

impl SessionState {
    /// Starts from the first event of a log; `None` when that is no `SessionCreated`.
    pub fn from_first(event: &Event) -> Option<Self> {
        let Payload::SessionCreated { session, .. } = &event.payload else { return None };
        let mut session = (**session).clone();
        session.last_sequence = event.sequence;
        session.oldest_sequence = event.sequence;
        Some(Self {
            session,
            items: Vec::new(),
            index: HashMap::new(),
            messages: HashSet::new(),
            summarized: HashMap::new(),
            turns: Vec::new(),
            interactions: BTreeMap::new(),
            extensions: BTreeMap::new(),
            rules: Vec::new(),
            options: Vec::new(),
            commands: Vec::new(),
            plan: None,
        })
    }

    /// Folds a whole log; `None` when it does not start with `SessionCreated`.
    pub fn from_events<'a>(events: impl IntoIterator<Item = &'a Event>) -> Option<Self> {
        let mut events = events.into_iter();
        let mut state = Self::from_first(events.next()?)?;
        for event in events {
            state.apply(event);
        }
        Some(state)
    }

    /// Sequence of the last event applied.
    pub fn last_sequence(&self) -> Sequence {
        self.session.last_sequence
    }

    /// The item with this id.
    pub fn item(&self, item_id: &ItemId) -> Option<&Arc<Item>> {
        self.index.get(item_id).map(|&i| &self.items[i].item)
    }

    /// The entry with this id.
    pub fn entry(&self, item_id: &ItemId) -> Option<&ItemEntry> {
        self.index.get(item_id).map(|&i| &self.items[i])
    }

    /// The turn with this id.
    pub fn turn(&self, turn_id: &TurnId) -> Option<&Turn> {
        self.turns.iter().rev().find(|t| t.turn_id == *turn_id)
    }

    /// The turn that runs (not one that waits in the queue).
    pub fn active_turn(&self) -> Option<&Turn> {
        let id = self.session.active_turn_id.as_ref()?;
        self.turn(id)
    }

    /// Turns waiting in the queue, first to start first.
    pub fn queued_turns(&self) -> impl Iterator<Item = &Turn> {
        self.turns.iter().filter(|t| t.state == TurnState::Queued)
    }

    /// Items in progress, of one turn or of all.
    pub fn open_items(&self, turn_id: Option<&TurnId>) -> Vec<Arc<Item>> {
        self.items
            .iter()
            .filter(|e| e.item.state == ItemState::InProgress)
            .filter(|e| turn_id.is_none() || e.item.turn_id.as_ref() == turn_id)
            .map(|e| e.item.clone())
            .collect()
    }

    /// Questions nobody has answered, of one turn or of all.
    pub fn pending_interactions(&self, turn_id: Option<&TurnId>) -> Vec<&Interaction> {
        self.interactions
            .values()
            .filter(|i| i.state == InteractionState::Pending)
            .filter(|i| turn_id.is_none() || i.turn_id.as_ref() == turn_id)
            .collect()
    }

    /// Items that the model is to see, in order.
    pub fn model_items(&self) -> Vec<Arc<Item>> {
        self.model_entries().into_iter().map(|e| e.item).collect()
    }

    /// The same with where they stand in the log. A summary stands where what it replaces stood.
    pub fn model_entries(&self) -> Vec<ItemEntry> {
        let seen = |e: &&ItemEntry| e.item.visibility.model && !e.item.redacted;
        let mut entries: Vec<ItemEntry> = self.items.iter().filter(seen).cloned().collect();
        entries.sort_by_key(|e| match &e.item.body {
            ItemBody::Compaction(c) if c.replaced_through_sequence > 0 => c.replaced_through_sequence,
            _ => e.first_sequence,
        });
        entries
    }

    /// Items that the model should see again once the summaries that stand for them are gone: those whose first event
    /// has `from` as its sequence, or a later one.
    pub fn unsummarized(&self, from: Sequence) -> Vec<&ItemEntry> {
        let gone = |id: &ItemId| self.entry(id).is_some_and(|e| e.first_sequence >= from && !e.rewound);
        let mut stood_for: Vec<&ItemEntry> = self
            .summarized
            .iter()
            .filter(|(summary, _)| gone(summary))
            .flat_map(|(_, items)| items)
            .filter_map(|id| self.entry(id))
            .filter(|e| e.first_sequence < from && !e.item.visibility.model)
            .collect();
        stood_for.sort_by_key(|e| e.first_sequence);
        stood_for
    }

    /// Applies the next event.
    pub fn apply(&mut self, event: &Event) {
        self.session.last_sequence = event.sequence;
        match &event.payload {
            Payload::SessionCreated { .. }
            | Payload::ModelRetryScheduled { .. }
            | Payload::ToolOutputDelta { .. }
            | Payload::ToolProgress(_)
            | Payload::ToolNotification { .. }
            | Payload::ListChanged(_)
            | Payload::ResourceUpdated { .. }
            | Payload::ExtensionNotification { .. }
            | Payload::StatusNoted { .. } => {}
            Payload::ModelCallStarted { .. } => {
                if let Some(turn) = self.turn_mut(event.turn_id.as_ref()) {
                    turn.model_calls += 1;
                }
            }
            Payload::SessionUpdated { session, changed_fields, .. } => {
                self.update_settings(session);
                if changed_fields
                    .iter()
                    .any(|f| f != "title" || session.title_source == crate::session::TitleSource::User)
                {
                    self.session.update_time = event.time;
                }
            }
            Payload::SessionOptionsChanged { options } => self.options.clone_from(options),
            Payload::CommandsChanged { commands } => self.commands.clone_from(commands),
            Payload::PlanUpdated { plan } => self.plan = Some(plan.clone()),
            Payload::HistoryChanged(change) => self.change_history(change, event),
            Payload::TurnQueued { turn }
            | Payload::TurnStarted { turn }
            | Payload::TurnCancelRequested { turn }
            | Payload::TurnEnded { turn } => self.apply_turn(turn, event),
            Payload::ItemStarted { item } => self.put_item(item, event),
            Payload::ItemCompleted { item } => {
                self.put_item(item, event);
                self.session.update_time = event.time;
            }
            Payload::ItemRedacted { item_id } => self.edit_item(item_id, Item::redact),
            Payload::ToolCallUpdated { item_id, call } => {
                self.edit_item(item_id, |item| item.body = ItemBody::ToolCall(call.clone()));
            }
            Payload::TextDelta { item_id, part_index, text } => {
                self.edit_item(item_id, |item| append_text(item, *part_index, text));
            }
            Payload::ThoughtDelta { item_id, text } => self.edit_item(item_id, |item| {
                if let ItemBody::Thought(thought) = &mut item.body {
                    thought.text.push_str(text);
                }
            }),
            Payload::ArgumentsDelta { item_id, text } => self.edit_item(item_id, |item| {
                if let Some(call) = item.tool_call_mut() {
                    call.arguments_json.push_str(text);
                }
            }),
            Payload::InteractionRequested { interaction } => {
                self.interactions.insert(interaction.interaction_id.clone(), (**interaction).clone());
                self.count_interactions();
            }
            Payload::InteractionResolved(resolution) => self.resolve(resolution),
            Payload::ExtensionAdded { extension } => {
                self.extensions.insert(
                    extension.key.clone(),
                    ExtensionEntry { summary: extension.clone(), state: ExtensionState::Starting },
                );
            }
            Payload::ExtensionRemoved { key } => {
                self.extensions.remove(key);
            }
            Payload::ExtensionStateChanged(change) => {
                if let Some(entry) = self.extensions.get_mut(&change.key) {
                    entry.state = change.to;
                }
            }
            Payload::UsageReported(report) => {
                if let Some(turn) = self.turn_mut(event.turn_id.as_ref()) {
                    turn.usage = turn.usage.plus(report.call);
                }
                self.session.usage.totals = report.session_totals;
                self.session.usage.cost_totals.clone_from(&report.cost_totals);
                let purpose = report.purpose;
                if purpose == UsagePurpose::Turn {
                    self.session.usage.last_call = report.call;
                }
                if matches!(purpose, UsagePurpose::Turn | UsagePurpose::Compaction) {
                    self.session.context_used_tokens = report.context_used_tokens;
                    self.session.context_window_tokens = report.context_window_tokens;
                }
            }
        }
    }

    fn turn_mut(&mut self, turn_id: Option<&TurnId>) -> Option<&mut Turn> {
        let id = turn_id?;
        self.turns.iter_mut().rev().find(|t| t.turn_id == *id)
    }

    fn update_settings(&mut self, new: &Session) {
        let session = &mut self.session;
        session.title.clone_from(&new.title);
        session.title_source = new.title_source;
        session.archive_time = new.archive_time;
        session.working_directory.clone_from(&new.working_directory);
        session.additional_directories.clone_from(&new.additional_directories);
        session.model.clone_from(&new.model);
        session.mode = new.mode;
        session.demo_allowed = new.demo_allowed;
        session.instructions.clone_from(&new.instructions);
        session.recipe.clone_from(&new.recipe);
        session.labels.clone_from(&new.labels);
        session.container.clone_from(&new.container);
        session.schedule_id.clone_from(&new.schedule_id);
        session.extension_state.clone_from(&new.extension_state);
    }

    fn apply_turn(&mut self, turn: &Turn, event: &Event) {
        let mut turn = turn.clone();
        if turn.state.is_terminal() {
            turn.last_sequence = event.sequence;
        }
        self.session.update_time = event.time;
        match self.turns.iter_mut().rev().find(|t| t.turn_id == turn.turn_id) {
            Some(known) => {
                turn.first_sequence = known.first_sequence;
                *known = turn.clone();
            }
            None => {
                turn.first_sequence = event.sequence;
                self.turns.push(turn.clone());
            }
        }
        match turn.state {
            TurnState::Queued => {}
            state if state.is_terminal() => {
                if self.session.active_turn_id.as_ref() == Some(&turn.turn_id) {
                    self.session.active_turn_id = None;
                }
            }
            _ => self.session.active_turn_id = Some(turn.turn_id.clone()),
        }
        self.count_interactions();
    }

    fn put_item(&mut self, item: &Item, event: &Event) {
        let item = Arc::new(item.clone());
        if item.visibility.user && self.messages.insert(item.message_id.clone()) {
            self.session.message_count += 1;
        }
        match self.index.get(&item.item_id) {
            Some(&i) => self.items[i].item = item,
            None => {
                self.index.insert(item.item_id.clone(), self.items.len());
                self.items.push(ItemEntry { item, first_sequence: event.sequence, rewound: false });
            }
        }
    }

    fn edit_item(&mut self, item_id: &ItemId, edit: impl FnOnce(&mut Item)) {
        if let Some(&i) = self.index.get(item_id) {
            edit(Arc::make_mut(&mut self.items[i].item));
        }
    }

    fn change_history(&mut self, change: &HistoryChange, event: &Event) {
        for v in &change.visibility_changes {
            self.edit_item(&v.item_id, |item| {
                item.visibility.user = v.user;
                item.visibility.model = v.model;
            });
        }
        if let Some(from) = change.hidden_from_sequence {
            for entry in self.items.iter_mut().filter(|e| e.first_sequence >= from) {
                let item = Arc::make_mut(&mut entry.item);
                item.visibility = crate::item::Visibility { user: false, model: false };
                entry.rewound |= change.kind == HistoryChangeKind::Rewound;
            }
        }
        if let (HistoryChangeKind::Compacted, Some(summary)) = (change.kind, &change.summary_item_id) {
            let hidden = change.visibility_changes.iter().map(|v| v.item_id.clone()).collect();
            self.summarized.insert(summary.clone(), hidden);
        }
        self.recount_messages();
        // What was counted is not what the model is told from now on.
        self.session.context_used_tokens = None;
        self.session.update_time = event.time;
    }

    fn recount_messages(&mut self) {
        self.messages =
            self.items.iter().filter(|e| e.item.visibility.user).map(|e| e.item.message_id.clone()).collect();
        self.session.message_count = self.messages.len() as u64;
    }

    fn resolve(&mut self, resolution: &Resolution) {
        if let Some(interaction) = self.interactions.get_mut(&resolution.interaction_id) {
            interaction.state = InteractionState::Resolved;
            interaction.outcome = Some(resolution.outcome);
            interaction.answer.clone_from(&resolution.answer);
            interaction.answered_by.clone_from(&resolution.answered_by);
        }
        if let Some(rule) = &resolution.rule_created
            && rule.scope == RememberScope::Session
        {
            self.rules.retain(|r| r.tool_pattern != rule.tool_pattern);
            self.rules.push(rule.clone());
        }
        self.count_interactions();
    }

    fn count_interactions(&mut self) {
        let pending = |i: &&Interaction| i.state == InteractionState::Pending;
        self.session.pending_interaction_count = self.interactions.values().filter(pending).count() as u32;
        let active = self.session.active_turn_id.clone();
        let waiting = active.is_some()
            && self
                .interactions
                .values()
                .filter(pending)
                .any(|i| i.turn_id == active && i.kind.blocks_turn());
        self.session.state = match (&active, waiting) {
            (None, _) => Activity::Idle,
            (Some(_), true) => Activity::AwaitingInput,
            (Some(_), false) => Activity::Running,
        };
        if let Some(turn) = active.and_then(|id| self.turns.iter_mut().rev().find(|t| t.turn_id == id)) {
            match (turn.state, waiting) {
                (TurnState::Running, true) => turn.state = TurnState::AwaitingInput,
                (TurnState::AwaitingInput, false) => turn.state = TurnState::Running,
                _ => {}
            }
        }
    }
}

fn append_text(item: &mut Item, part_index: u32, text: &str) {
    let parts = match &mut item.body {
        ItemBody::UserMessage(m) => &mut m.parts,
        ItemBody::AgentMessage(m) => &mut m.parts,
        ItemBody::Compaction(c) => &mut c.summary_parts,
        ItemBody::Thought(t) => {
            t.text.push_str(text);
            return;
        }
        ItemBody::ToolCall(_) | ItemBody::Notice(_) => return,
    };
    let index = part_index as usize;
    // Deltas arrive in order, so a new index is the next one.
    if index >= parts.len() {
        parts.push(Part::text(""));
    }
    if let Some(crate::PartBody::Text(target)) = parts.get_mut(index).map(|p| &mut p.body) {
        target.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Timestamp,
        event::VisibilityChange,
        item::{Compaction, Origin, UserMessage, Visibility},
        session::SessionOrigin,
    };

    fn event(sequence: Sequence, payload: Payload) -> Event {
        Event { sequence, turn_id: None, time: Timestamp(sequence), actor: None, payload }
    }

    fn item(id: &str, body: ItemBody) -> Payload {
        let item = Item {
            item_id: ItemId::new(id).unwrap(),
            turn_id: None,
            message_id: MessageId::new(id).unwrap(),
            body,
            state: ItemState::Completed,
            incomplete: false,
            visibility: Visibility::default(),
            origin: Origin::Client,
            create_time: Timestamp(0),
            client_create_time: None,
            complete_time: None,
            redacted: false,
            model_id: None,
            provider_state_json: None,
        };
        Payload::ItemCompleted { item: Box::new(item) }
    }

    fn message(id: &str) -> Payload {
        item(id, ItemBody::UserMessage(UserMessage::default()))
    }

    fn compacted(summary: &str, hidden: &[&str]) -> Payload {
        let hide =
            |id: &&str| VisibilityChange { item_id: ItemId::new(*id).unwrap(), user: true, model: false };
        Payload::HistoryChanged(HistoryChange {
            kind: HistoryChangeKind::Compacted,
            visibility_changes: hidden.iter().map(hide).collect(),
            hidden_from_sequence: None,
            summary_item_id: Some(ItemId::new(summary).unwrap()),
        })
    }

    #[test]
    fn a_summary_stands_where_what_it_stands_for_stood() {
        let session = serde_json::from_value(serde_json::json!({
            "session_id": "s", "working_directory": "/w", "create_time": 0, "update_time": 0,
            "context_used_tokens": 7,
        }));
        let created =
            Payload::SessionCreated { session: Box::new(session.unwrap()), origin: SessionOrigin::New };
        let mut state = SessionState::from_first(&event(1, created)).unwrap();
        let summary = |id: &str, through| {
            let body = Compaction { replaced_through_sequence: through, ..Compaction::default() };
            item(id, ItemBody::Compaction(body))
        };
        for (sequence, payload) in [
            (2, message("a")),
            (3, message("b")),
            (4, message("kept")),
            (5, summary("one", 3)),
            (6, compacted("one", &["a", "b"])),
            (7, message("c")),
        ] {
            state.apply(&event(sequence, payload));
        }
        let told = |state: &SessionState| {
            state.model_items().iter().map(|i| i.item_id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(told(&state), ["one", "kept", "c"]);
        assert_eq!(state.session.context_used_tokens, None, "what was counted is not told any more");
        let again =
            |from| state.unsummarized(from).iter().map(|e| e.item.item_id.to_string()).collect::<Vec<_>>();
        assert_eq!(again(7), Vec::<String>::new(), "the summary stays");
        assert_eq!(again(5), ["a", "b"]);
        assert_eq!(again(3), ["a"], "what goes itself does not come back");
    }
}
