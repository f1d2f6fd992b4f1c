//! What an agent knows of a conversation, kept beside the log, and what it has to be told: pure.
//!
//! The agent has a memory of its own, which cannot be edited. So gander notes which items it has seen; where the log says
//! something else now (rewound, cleared, redacted, another model in between), the agent gets a transcript of what it
//! missed, or a new session with a transcript of everything.

use std::{collections::BTreeMap, sync::Arc};

use gander_domain::{
    Item, ItemBody, Part, TurnId,
    content::join_text,
    item::{Origin, ToolCall},
    session::Instruction,
};
use serde::{Deserialize, Serialize};

use crate::content::sha256_hex;

/// Name of the document beside the log.
pub(super) const DOCUMENT: &str = "agent_sessions";
/// Longest transcript, in bytes; the newest part is kept.
const MAX_TRANSCRIPT: usize = 48 * 1024;
/// Longest text of one entry in it.
const MAX_ENTRY: usize = 4 * 1024;

/// The agents' sessions that belong to a session, by provider.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Records {
    pub(super) providers: BTreeMap<String, Record>,
}

/// One agent's session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// The agent's own id; empty while it has none.
    pub(super) agent_session_id: String,
    /// How many items the agent knows, and a hash of their ids.
    pub(super) seen: usize,
    pub(super) seen_hash: String,
    /// What the agent's session has cost so far, as it counts.
    pub(super) cost_micros: i64,
    /// Settings of the agent that a client chose.
    pub(super) chosen: BTreeMap<String, String>,
    /// The mode that the agent was taken out of because the session's own does not allow it.
    pub(super) away_from: Option<String>,
}

impl Record {
    /// Notes that the agent knows all these items.
    pub(super) fn saw(&mut self, items: &[Arc<Item>]) {
        self.seen = items.len();
        self.seen_hash = hash(items);
    }

    /// What the agent has not seen; `None`: it remembers what the log does not say any more.
    pub(super) fn unseen<'a>(&self, items: &'a [Arc<Item>]) -> Option<&'a [Arc<Item>]> {
        let (known, new) = items.split_at_checked(self.seen)?;
        (self.seen == 0 || hash(known) == self.seen_hash).then_some(new)
    }
}

fn hash(items: &[Arc<Item>]) -> String {
    let ids: Vec<&str> = items.iter().map(|item| item.item_id.as_str()).collect();
    sha256_hex(ids.join(" ").as_bytes())
}

/// The prompt for items that the agent has not seen: a transcript of what happened without it, then what the user says.
pub(super) fn prompt(items: &[Arc<Item>], turn_id: &TurnId, instructions: &[Instruction]) -> Vec<Part> {
    let is_input =
        |item: &Item| matches!(item.body, ItemBody::UserMessage(_)) && item.turn_id.as_ref() == Some(turn_id);
    // What the agent itself said, in this turn or between turns, it knows.
    let own = |item: &Item| {
        item.origin == Origin::Backend && item.turn_id.as_ref().is_none_or(|turn| turn == turn_id)
    };
    let items: Vec<Arc<Item>> = items.iter().filter(|item| !own(item)).cloned().collect();
    let input = items.iter().rev().take_while(|item| is_input(item)).count();
    let (before, input) = items.split_at(items.len() - input);
    let mut parts = Vec::new();
    let instructions: Vec<&str> =
        instructions.iter().map(|i| i.text.trim()).filter(|t| !t.is_empty()).collect();
    if !instructions.is_empty() {
        parts.push(Part::text(format!("Instructions for this session:\n\n{}", instructions.join("\n\n"))));
    }
    let transcript = transcript(before);
    if !transcript.is_empty() {
        parts.push(Part::text(format!(
            "This conversation went on without you. Here is what you missed; do not answer it:\n\n{transcript}"
        )));
    }
    for item in input {
        if let ItemBody::UserMessage(message) = &item.body {
            parts.extend(message.parts.iter().cloned());
        }
    }
    if input.is_empty() {
        parts.push(Part::text("Continue."));
    }
    parts
}

fn transcript(items: &[Arc<Item>]) -> String {
    let entries: Vec<String> = items.iter().filter_map(|item| entry(item)).collect();
    let text = entries.join("\n\n");
    if text.len() <= MAX_TRANSCRIPT {
        return text;
    }
    let start = text.ceil_char_boundary(text.len() - MAX_TRANSCRIPT);
    format!("[… {start} bytes left out …]\n{}", &text[start..])
}

fn entry(item: &Item) -> Option<String> {
    let said = |who: &str, text: &str| {
        let text = text.trim();
        (!text.is_empty()).then(|| format!("{who}: {}", shorten(text)))
    };
    match &item.body {
        ItemBody::UserMessage(message) => said("User", &join_text(&message.parts)),
        ItemBody::AgentMessage(message) => said("Assistant", &join_text(&message.parts)),
        ItemBody::Compaction(compaction) => said("Summary", &join_text(&compaction.summary_parts)),
        ItemBody::ToolCall(call) => Some(tool_entry(call)),
        ItemBody::Thought(_) | ItemBody::Notice(_) => None,
    }
}

fn tool_entry(call: &ToolCall) -> String {
    let result = call.result.as_ref().map(|result| join_text(&result.parts)).unwrap_or_default();
    let (arguments, result) = (shorten(&call.arguments_json), shorten(result.trim()));
    format!("Tool {} {arguments}\nResult: {result}", call.name)
}

fn shorten(text: &str) -> String {
    if text.len() <= MAX_ENTRY {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_ENTRY);
    format!("{} [… {} bytes left out …]", &text[..end], text.len() - end)
}

#[cfg(test)]
mod tests {
    use gander_domain::{
        ItemId, MessageId, Timestamp,
        item::{AgentMessage, ItemState, UserMessage, Visibility},
    };

    use super::*;

    fn item(id: &str, turn: &str, user: bool, text: &str) -> Arc<Item> {
        let parts = vec![Part::text(text)];
        Arc::new(Item {
            item_id: ItemId::new(id).unwrap(),
            turn_id: Some(TurnId::new(turn).unwrap()),
            message_id: MessageId::new(id).unwrap(),
            body: if user {
                ItemBody::UserMessage(UserMessage { parts, steered: false })
            } else {
                ItemBody::AgentMessage(AgentMessage { parts, demo: false })
            },
            state: ItemState::Completed,
            incomplete: false,
            visibility: Visibility::default(),
            origin: if user { Origin::Client } else { Origin::Backend },
            create_time: Timestamp(0),
            client_create_time: None,
            complete_time: None,
            redacted: false,
            model_id: None,
            provider_state_json: None,
        })
    }

    fn texts(parts: &[Part]) -> Vec<&str> {
        parts.iter().filter_map(Part::as_text).collect()
    }

    #[test]
    fn an_agent_is_told_what_it_missed_and_nothing_else() {
        let now = TurnId::new("t2").unwrap();
        let items = [
            item("1", "t1", true, "first"),
            item("2", "t1", false, "answer"),
            item("3", "t2", true, "second"),
            item("4", "t2", true, "more"),
        ];
        let mut record = Record::default();
        record.saw(&items[..2]);
        let unseen = record.unseen(&items).unwrap();
        assert_eq!(texts(&prompt(unseen, &now, &[])), ["second", "more"]);
        let everything = prompt(Record::default().unseen(&items).unwrap(), &now, &[]);
        assert_eq!(everything.len(), 3);
        assert!(texts(&everything)[0].ends_with("User: first\n\nAssistant: answer"), "{everything:?}");
        let instruction = Instruction { key: "k".into(), text: "Be brief.".into(), replace: false };
        let instructed = prompt(&items[2..], &now, &[instruction]);
        assert!(texts(&instructed)[0].ends_with("Be brief."));
        assert_eq!(texts(&prompt(&[], &now, &[])), ["Continue."]);
    }

    #[test]
    fn a_changed_history_is_noticed() {
        let items = [item("1", "t1", true, "a"), item("2", "t1", false, "b"), item("3", "t2", true, "c")];
        let mut record = Record::default();
        record.saw(&items[..2]);
        assert!(record.unseen(&items[..1]).is_none(), "rewound");
        assert!(record.unseen(&[items[1].clone(), items[2].clone()]).is_none(), "the first is hidden");
        assert_eq!(record.unseen(&items).map(<[_]>::len), Some(1));
    }

    #[test]
    fn transcripts_are_bounded() {
        let items: Vec<_> = (0..100).map(|n| item(&n.to_string(), "t", false, &"ß".repeat(3000))).collect();
        let text = transcript(&items);
        assert!(text.len() < MAX_TRANSCRIPT + 100 && text.starts_with("[… "), "{}", text.len());
    }
}
