//! What every request to a model must hold.

use std::collections::HashSet;

use crate::{
    ModelRequest,
    history::{Block, Entry, convert},
};

/// Checks a request: every call that the model sees has exactly one result and no result stands alone; calls are over
/// before the model is asked again; tools have unique names and JSON schemas.
///
/// # Errors
/// Everything that is wrong.
pub fn check_request(request: &ModelRequest) -> Result<(), Vec<String>> {
    let mut wrong = Vec::new();
    let mut item_ids = HashSet::new();
    for item in request.items.iter().filter(|item| item.visibility.model) {
        if !item_ids.insert(item.item_id.as_str()) {
            wrong.push(format!("item {} is there twice", item.item_id));
        }
        let Some(call) = item.tool_call() else { continue };
        if !call.status.is_terminal() {
            wrong.push(format!("call {} ({}) is still {:?}", call.call_id, call.name, call.status));
        } else if call.result.is_none() {
            wrong.push(format!("call {} ({}) has no result", call.call_id, call.name));
        }
    }
    let mut names = HashSet::new();
    for tool in &request.tools {
        if !names.insert(tool.name.as_str()) {
            wrong.push(format!("tool {} is there twice", tool.name));
        }
        if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&tool.input_schema_json)
            .is_err()
        {
            wrong.push(format!("the input schema of tool {} is no JSON object", tool.name));
        }
    }
    pairs(&convert(&request.items, |_, _| true), &mut wrong);
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Calls and results as they are sent: results follow their calls at once, in their order.
fn pairs(entries: &[Entry], wrong: &mut Vec<String>) {
    let mut open: Vec<&str> = Vec::new();
    let mut seen = HashSet::new();
    for entry in entries {
        match entry {
            Entry::Results(answers) => {
                let given: Vec<&str> = answers.iter().map(|answer| answer.call_id.as_str()).collect();
                if given != open {
                    wrong.push(format!("results {given:?} do not answer calls {open:?}"));
                }
                open.clear();
            }
            Entry::User(_) | Entry::Assistant(_) => {
                if !open.is_empty() {
                    wrong.push(format!("calls {open:?} have no results"));
                    open.clear();
                }
                let Entry::Assistant(blocks) = entry else { continue };
                for block in blocks {
                    if let Block::Call(call) = block {
                        if !seen.insert(call.id.as_str()) {
                            wrong.push(format!("call id {} is there twice", call.id));
                        }
                        open.push(&call.id);
                    }
                }
            }
        }
    }
    if !open.is_empty() {
        wrong.push(format!("calls {open:?} have no results"));
    }
}
