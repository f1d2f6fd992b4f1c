//! A stored conversation as updates, for a client that loads a session.

use std::collections::BTreeMap;

use agent_client_protocol_schema::v1 as acp;
use gander_proto::v1::{Item, ItemState, item};

use super::{DialectState, Open, View, chunk, message_id, thought_id, visible};

impl DialectState {
    /// The updates that show an item of a snapshot. What is in progress stays open, so that its deltas go on from there.
    /// Remarks of the daemon are not repeated.
    pub fn replay(&mut self, item: &Item) -> Vec<acp::SessionUpdate> {
        if !visible(item) {
            return Vec::new();
        }
        match (&item.body, item.state()) {
            (Some(item::Body::UserMessage(message)), _) => {
                let parts = message.parts.iter();
                let chunks = parts.filter_map(|part| chunk(part, &message_id(item)));
                chunks.map(acp::SessionUpdate::UserMessageChunk).collect()
            }
            (Some(item::Body::Notice(_)) | None, _) => Vec::new(),
            (Some(_), ItemState::InProgress) => self.started(item),
            (Some(_), _) => self.completed(item),
        }
    }

    /// Takes an item in progress over without showing it: the client that resumes has it on its screen.
    pub fn adopt(&mut self, item: &Item) {
        if item.state() != ItemState::InProgress || !visible(item) {
            return;
        }
        let sizes = |parts: &[gander_proto::v1::Part]| -> BTreeMap<i32, usize> {
            let size = |part: &gander_proto::v1::Part| match &part.body {
                Some(gander_proto::v1::part::Body::Text(text)) => text.len(),
                _ => 0,
            };
            (0..).zip(parts.iter().map(size)).collect()
        };
        let open = match &item.body {
            Some(item::Body::AgentMessage(message)) => {
                Open::Message { message_id: message_id(item), sent: sizes(&message.parts) }
            }
            Some(item::Body::Thought(thought)) => {
                Open::Thought { message_id: thought_id(item), sent: thought.text.len() }
            }
            Some(item::Body::Compaction(compaction)) => {
                Open::Compaction { sent: sizes(&compaction.summary_parts) }
            }
            Some(item::Body::ToolCall(call)) => {
                let mut view = View::new(call);
                // Whatever it announces was announced before.
                let _ = view.announce(&item.item_id, self.frame());
                Open::Tool(Box::new(view))
            }
            _ => return,
        };
        self.open.insert(item.item_id.clone(), open);
    }
}
