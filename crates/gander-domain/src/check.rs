//! The rules of a log (invariants 4 and 7): used at the end of every test that touched a log, and by `gander doctor`.

use std::collections::{HashMap, HashSet};

use crate::{
    Event, InteractionId, Item, ItemBody, ItemId, Payload, Sequence, TurnId,
    item::{ItemState, ToolCallStatus},
    turn::TurnState,
};

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFinding {
    /// Where; 0 when it concerns the whole log.
    pub sequence: Sequence,
    /// Stable lower_snake name of the rule.
    pub rule: &'static str,
    pub text: String,
}

impl std::fmt::Display for LogFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at sequence {}: {}", self.rule, self.sequence, self.text)
    }
}

/// Checks a whole log. `at_rest`: no turn runs any more, so nothing may be open at its end.
pub fn check_log<'a>(events: impl IntoIterator<Item = &'a Event>, at_rest: bool) -> Vec<LogFinding> {
    let mut checker = LogChecker::default();
    for event in events {
        checker.push(event);
    }
    checker.finish(at_rest)
}

#[derive(Debug, Default)]
struct OpenItem {
    turn_id: Option<TurnId>,
    status: Option<ToolCallStatus>,
    /// Concatenated deltas; `None` once some were dropped.
    text: Option<String>,
}

/// Checks a log event by event.
#[derive(Debug, Default)]
pub struct LogChecker {
    findings: Vec<LogFinding>,
    last_sequence: Sequence,
    turns: HashMap<TurnId, TurnState>,
    active: Option<TurnId>,
    open: HashMap<ItemId, OpenItem>,
    completed: HashSet<ItemId>,
    pending: HashMap<InteractionId, Option<TurnId>>,
    resolved: HashSet<InteractionId>,
}

impl LogChecker {
    fn report(&mut self, sequence: Sequence, rule: &'static str, text: impl Into<String>) {
        self.findings.push(LogFinding { sequence, rule, text: text.into() });
    }

    /// Checks the next event.
    pub fn push(&mut self, event: &Event) {
        self.check_sequence(event);
        let seq = event.sequence;
        match &event.payload {
            Payload::SessionCreated { .. } if seq != 1 => {
                self.report(seq, "created_once", "session_created is not the first event");
            }
            Payload::TurnQueued { turn } => self.turn(seq, &turn.turn_id, turn.state, TurnState::Queued),
            Payload::TurnStarted { turn } => self.turn(seq, &turn.turn_id, turn.state, TurnState::Running),
            Payload::TurnCancelRequested { turn } => {
                self.turn(seq, &turn.turn_id, turn.state, TurnState::Cancelling);
            }
            Payload::TurnEnded { turn } => self.turn_ended(seq, &turn.turn_id, turn.state),
            Payload::ItemStarted { item } => self.item_started(seq, item),
            Payload::ItemCompleted { item } => self.item_completed(seq, item),
            Payload::ToolCallUpdated { item_id, call } => self.tool_updated(seq, item_id, call.status),
            Payload::TextDelta { item_id, text, .. }
            | Payload::ThoughtDelta { item_id, text }
            | Payload::ArgumentsDelta { item_id, text } => match self.open.get_mut(item_id) {
                Some(open) => {
                    if let Some(all) = &mut open.text {
                        all.push_str(text);
                    }
                }
                None => {
                    self.report(seq, "delta_in_item", format!("delta of item {item_id}, which is not open"));
                }
            },
            Payload::InteractionRequested { interaction } => {
                let id = interaction.interaction_id.clone();
                if self.resolved.contains(&id)
                    || self.pending.insert(id.clone(), interaction.turn_id.clone()).is_some()
                {
                    self.report(seq, "interaction_once", format!("interaction {id} was requested twice"));
                }
            }
            Payload::InteractionResolved(resolution) => {
                let id = &resolution.interaction_id;
                if self.pending.remove(id).is_none() {
                    self.report(
                        seq,
                        "interaction_resolved_once",
                        format!("interaction {id} was not pending"),
                    );
                }
                self.resolved.insert(id.clone());
            }
            _ => {}
        }
    }

    fn check_sequence(&mut self, event: &Event) {
        let (last, seq) = (self.last_sequence, event.sequence);
        if last == 0 {
            if seq != 1 {
                self.report(seq, "starts_at_one", "the first event must have sequence 1");
            }
            if !matches!(event.payload, Payload::SessionCreated { .. }) {
                self.report(seq, "created_first", "the first event must be session_created");
            }
        } else if seq <= last {
            self.report(seq, "increasing", format!("sequence {seq} follows {last}"));
        } else if seq > last + 1 {
            // Only deltas of an item may be dropped, so some item was open, or has just been started, at the hole.
            if self.open.is_empty() {
                self.report(seq, "hole", format!("events {} to {} are missing", last + 1, seq - 1));
            }
            for open in self.open.values_mut() {
                open.text = None;
            }
        }
        self.last_sequence = self.last_sequence.max(seq);
    }

    fn turn(&mut self, seq: Sequence, id: &TurnId, state: TurnState, expected: TurnState) {
        if state != expected {
            self.report(seq, "turn_state", format!("turn {id} says {state:?}, the event says {expected:?}"));
        }
        let known = self.turns.insert(id.clone(), expected);
        let legal = match expected {
            TurnState::Queued => known.is_none(),
            TurnState::Running => matches!(known, None | Some(TurnState::Queued)),
            TurnState::Cancelling => matches!(known, Some(TurnState::Running)),
            _ => false,
        };
        if !legal {
            self.report(seq, "turn_transition", format!("turn {id} went from {known:?} to {expected:?}"));
        }
        if expected == TurnState::Running
            && let Some(other) = self.active.replace(id.clone())
        {
            self.report(seq, "one_turn", format!("turn {id} started while turn {other} runs"));
        }
    }

    fn turn_ended(&mut self, seq: Sequence, id: &TurnId, state: TurnState) {
        if !state.is_terminal() {
            self.report(seq, "turn_state", format!("turn {id} ended in state {state:?}"));
        }
        let known = self.turns.insert(id.clone(), state);
        let legal = match known {
            Some(TurnState::Queued) => matches!(state, TurnState::Cancelled | TurnState::Interrupted),
            Some(TurnState::Running) => true,
            Some(TurnState::Cancelling) => state != TurnState::Failed,
            _ => false,
        };
        if !legal {
            self.report(seq, "turn_transition", format!("turn {id} went from {known:?} to {state:?}"));
        }
        if self.active.as_ref() == Some(id) {
            self.active = None;
        }
        let open: Vec<_> = self
            .open
            .iter()
            .filter(|(_, o)| o.turn_id.as_ref() == Some(id))
            .map(|(i, _)| i.clone())
            .collect();
        for item in open {
            self.report(seq, "items_completed", format!("turn {id} ended while item {item} was open"));
            self.open.remove(&item);
        }
        let pending: Vec<_> =
            self.pending.iter().filter(|(_, t)| t.as_ref() == Some(id)).map(|(i, _)| i.clone()).collect();
        for interaction in pending {
            let text = format!("turn {id} ended while interaction {interaction} was pending");
            self.report(seq, "interactions_resolved", text);
            self.pending.remove(&interaction);
        }
    }

    fn item_started(&mut self, seq: Sequence, item: &Item) {
        let id = item.item_id.clone();
        let open = OpenItem {
            turn_id: item.turn_id.clone(),
            status: item.tool_call().map(|c| c.status),
            text: Some(item_text(item)),
        };
        if item.state != ItemState::InProgress {
            self.report(seq, "item_state", format!("item {id} started in a state other than in progress"));
        }
        if self.completed.contains(&id) || self.open.insert(id.clone(), open).is_some() {
            self.report(seq, "item_once", format!("item {id} started twice"));
        }
    }

    fn item_completed(&mut self, seq: Sequence, item: &Item) {
        let id = &item.item_id;
        if item.state != ItemState::Completed {
            self.report(seq, "item_state", format!("item {id} completed in a state other than completed"));
        }
        if !self.completed.insert(id.clone()) {
            self.report(seq, "item_once", format!("item {id} completed twice"));
        }
        let open = self.open.remove(id);
        if let Some(call) = item.tool_call() {
            if !call.status.is_terminal() {
                self.report(seq, "tool_terminal", format!("call {id} completed as {:?}", call.status));
            }
            if let Some(from) = open.as_ref().and_then(|o| o.status)
                && !from.may_become(call.status)
            {
                self.report(
                    seq,
                    "tool_transition",
                    format!("call {id} went from {from:?} to {:?}", call.status),
                );
            }
        } else if let Some(text) = open.and_then(|o| o.text)
            && !item.redacted
            && text != item_text(item)
        {
            self.report(
                seq,
                "deltas_concatenate",
                format!("deltas of item {id} differ from its completed text"),
            );
        }
    }

    fn tool_updated(&mut self, seq: Sequence, id: &ItemId, status: ToolCallStatus) {
        let from = self.open.get(id).and_then(|o| o.status);
        match from {
            None => self.report(seq, "tool_open", format!("update of call {id}, which is not open")),
            Some(from) if !from.may_become(status) || status.is_terminal() => {
                self.report(seq, "tool_transition", format!("call {id} went from {from:?} to {status:?}"));
            }
            Some(_) => {}
        }
        if let Some(open) = self.open.get_mut(id) {
            open.status = Some(status);
        }
    }

    /// Ends the check. `at_rest`: nothing may be open.
    pub fn finish(mut self, at_rest: bool) -> Vec<LogFinding> {
        if self.last_sequence == 0 {
            self.report(0, "empty", "the log has no event");
        }
        if at_rest {
            let last = self.last_sequence;
            let turns: Vec<_> =
                self.turns.iter().filter(|(_, s)| !s.is_terminal()).map(|(id, _)| id.clone()).collect();
            for id in turns {
                self.report(last, "turn_ends", format!("turn {id} has no end"));
            }
            let items: Vec<_> = self.open.keys().cloned().collect();
            for id in items {
                self.report(last, "items_completed", format!("item {id} was never completed"));
            }
            let pending: Vec<_> = self.pending.keys().cloned().collect();
            for id in pending {
                self.report(last, "interactions_resolved", format!("interaction {id} was never resolved"));
            }
        }
        self.findings
    }
}

fn item_text(item: &Item) -> String {
    let concat = |parts: &[crate::Part]| parts.iter().filter_map(crate::Part::as_text).collect::<String>();
    match &item.body {
        ItemBody::UserMessage(m) => concat(&m.parts),
        ItemBody::AgentMessage(m) => concat(&m.parts),
        ItemBody::Thought(t) => t.text.clone(),
        ItemBody::Compaction(c) => concat(&c.summary_parts),
        ItemBody::ToolCall(_) | ItemBody::Notice(_) => String::new(),
    }
}

#[cfg(test)]
mod tests;
