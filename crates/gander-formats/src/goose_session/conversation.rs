//! Items, turns and open questions → the conversation as Goose shows it.
//!
//! One message of the assistant per message id; then one user message per result, in the order of the calls; remarks of
//! the daemon and failed turns for people only; at the end the questions that still wait for an answer, so that a
//! reopened window can answer them.

use std::collections::HashMap;

use gander_proto::v1::{Interaction, Item, ItemState, Turn, item::Body};

use super::message::{Frame, contents, question, tool_response, turn_end};
use crate::session::Message;

/// The conversation. `items` in the order of the log; `turns` in any order.
pub fn conversation(items: &[Item], turns: &[Turn], questions: &[Interaction]) -> Vec<Message> {
    let mut fold = Fold::default();
    let turns: HashMap<&str, &Turn> = turns.iter().map(|turn| (turn.turn_id.as_str(), turn)).collect();
    let last: HashMap<&str, usize> =
        items.iter().enumerate().map(|(index, item)| (item.turn_id.as_str(), index)).collect();
    for (index, item) in items.iter().enumerate() {
        fold.add(item);
        let ends = last.get(item.turn_id.as_str()) == Some(&index);
        if let Some(end) = turns.get(item.turn_id.as_str()).filter(|_| ends).and_then(|turn| turn_end(turn)) {
            fold.flush();
            fold.messages.push(end);
        }
    }
    fold.flush();
    fold.messages.extend(questions.iter().filter_map(question));
    fold.messages
}

#[derive(Default)]
struct Fold {
    messages: Vec<Message>,
    /// Places of messages by id.
    places: HashMap<String, usize>,
    /// Results of the current message's calls.
    responses: Vec<Message>,
    current: String,
}

impl Fold {
    fn add(&mut self, item: &Item) {
        let visible = item.visibility.is_none_or(|visibility| visibility.user || visibility.model);
        if item.redacted || !visible {
            return;
        }
        if self.current != item.message_id {
            self.flush();
            self.current.clone_from(&item.message_id);
        }
        let (role, contents) = contents(item);
        if !contents.is_empty() {
            match self.places.get(&item.message_id) {
                Some(&place) => {
                    if let Some(message) = self.messages.get_mut(place) {
                        message.content.extend(contents);
                    }
                }
                None => {
                    self.places.insert(item.message_id.clone(), self.messages.len());
                    self.messages.push(Frame::of(item).message(role, contents));
                }
            }
        }
        if let Some(Body::ToolCall(call)) = &item.body
            && item.state() == ItemState::Completed
        {
            self.responses.push(tool_response(item, call));
        }
    }

    fn flush(&mut self) {
        self.messages.append(&mut self.responses);
    }
}
