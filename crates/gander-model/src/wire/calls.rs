//! The tool calls of one reply, for dialects that announce a call before its arguments.
//!
//! A call is completed only when the whole reply is: one of a broken reply is never executed.

use std::collections::VecDeque;

use super::{MAX_ARGUMENTS, MAX_CALLS, finish_arguments, minted_id, too_large};
use crate::{ModelError, ModelEvent};

#[derive(Debug)]
struct Call {
    /// What the dialect knows the call by; never used as a size.
    key: u64,
    id: String,
    name: String,
    arguments: String,
    state: Option<String>,
}

/// Calls in the order in which they began.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    calls: Vec<Call>,
}

impl Calls {
    /// A call begins. Of two with one key the later one gets what follows.
    pub(crate) fn start(
        &mut self,
        key: u64,
        id: Option<&str>,
        name: &str,
        out: &mut VecDeque<ModelEvent>,
    ) -> Result<(), ModelError> {
        if self.calls.len() >= MAX_CALLS {
            return Err(too_large("number of tool calls", MAX_CALLS));
        }
        // Results name their call by it: one that another call has already serves nobody.
        let free = |id: &&str| !id.is_empty() && self.calls.iter().all(|call| call.id != *id);
        let id = id.filter(free).map_or_else(minted_id, str::to_owned);
        out.push_back(ModelEvent::ToolCallStarted {
            index: self.calls.len() as u32,
            call_id: id.clone(),
            name: name.to_owned(),
        });
        self.calls.push(Call { key, id, name: name.to_owned(), arguments: String::new(), state: None });
        Ok(())
    }

    fn at(&self, key: u64) -> Option<usize> {
        self.calls.iter().rposition(|call| call.key == key)
    }

    /// Whether a call of this key began.
    pub(crate) fn has(&self, key: u64) -> bool {
        self.at(key).is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// More of a call's arguments; false if no call of this key began.
    pub(crate) fn push(
        &mut self,
        key: u64,
        text: &str,
        out: &mut VecDeque<ModelEvent>,
    ) -> Result<bool, ModelError> {
        let Some(at) = self.at(key) else { return Ok(false) };
        if text.is_empty() {
            return Ok(true);
        }
        let call = &mut self.calls[at];
        if call.arguments.len() + text.len() > MAX_ARGUMENTS {
            return Err(too_large("arguments of a tool call", MAX_ARGUMENTS));
        }
        call.arguments.push_str(text);
        out.push_back(ModelEvent::ToolArgumentsDelta { index: at as u32, text: text.to_owned() });
        Ok(true)
    }

    /// The whole arguments of a call: streamed if nothing of them was yet, and authoritative.
    pub(crate) fn set(
        &mut self,
        key: u64,
        text: &str,
        out: &mut VecDeque<ModelEvent>,
    ) -> Result<bool, ModelError> {
        match self.at(key) {
            None => Ok(false),
            Some(at) if self.calls[at].arguments.is_empty() => self.push(key, text, out),
            Some(_) if text.len() > MAX_ARGUMENTS => {
                Err(too_large("arguments of a tool call", MAX_ARGUMENTS))
            }
            Some(at) => {
                text.clone_into(&mut self.calls[at].arguments);
                Ok(true)
            }
        }
    }

    /// What the provider needs back with the call.
    pub(crate) fn keep_state(&mut self, key: u64, state: String) {
        if let Some(at) = self.at(key) {
            self.calls[at].state = Some(state);
        }
    }

    /// The reply is complete, and with it all calls; returns how many there are.
    pub(crate) fn complete(&mut self, out: &mut VecDeque<ModelEvent>) -> usize {
        let calls = std::mem::take(&mut self.calls);
        let count = calls.len();
        for (index, call) in calls.into_iter().enumerate() {
            let (arguments_json, invalid_arguments) = finish_arguments(&call.arguments);
            out.push_back(ModelEvent::ToolCallCompleted {
                index: index as u32,
                call_id: call.id,
                name: call.name,
                arguments_json,
                invalid_arguments,
                provider_state_json: call.state,
            });
        }
        count
    }
}

/// Counts what a server sends as text and thoughts.
#[derive(Debug, Default)]
pub(crate) struct TextBudget(usize);

impl TextBudget {
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), ModelError> {
        self.0 += bytes;
        if self.0 > super::MAX_TEXT { Err(too_large("text", super::MAX_TEXT)) } else { Ok(()) }
    }
}
