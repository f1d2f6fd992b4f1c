//! Notices when a model makes the same call again and again. Pure.

use std::sync::Arc;

use gander_domain::{Item, TurnId, item::ToolCall};
use serde_json::Value;

/// How often the turn has just made this very call with the same outcome, one call after the other.
///
/// A call that a person allowed ends the count: they have been asked.
pub(super) fn repeats(items: &[Arc<Item>], turn_id: &TurnId, call: &ToolCall) -> usize {
    let before = items
        .iter()
        .rev()
        .filter(|i| i.turn_id.as_ref() == Some(turn_id))
        .filter_map(|i| i.tool_call())
        .take_while(|c| c.permission.as_ref().is_none_or(|p| p.source != "answer"));
    let mut count = 0;
    let mut last: Option<&ToolCall> = None;
    for earlier in before {
        if !same_request(earlier, call) || last.is_some_and(|l| !same_answer(l, earlier)) {
            break;
        }
        last = Some(earlier);
        count += 1;
    }
    count
}

fn same_request(a: &ToolCall, b: &ToolCall) -> bool {
    a.name == b.name && arguments(a) == arguments(b)
}

/// Compared as values: key order and blanks do not count.
fn arguments(call: &ToolCall) -> Value {
    serde_json::from_str(&call.arguments_json).unwrap_or_else(|_| Value::String(call.arguments_json.clone()))
}

fn same_answer(a: &ToolCall, b: &ToolCall) -> bool {
    match (&a.result, &b.result) {
        (Some(a), Some(b)) => {
            a.outcome == b.outcome
                && a.parts == b.parts
                && a.structured_content_json == b.structured_content_json
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use gander_domain::{
        ErrorDetail, ItemBody, ItemId, MessageId, Part, Timestamp,
        item::{ItemState, Origin, PermissionRecord, ToolCallStatus, ToolOutcome, ToolResult, Visibility},
    };

    use super::*;

    fn made(arguments: &str, output: &str, source: &str) -> Arc<Item> {
        let mut call = ToolCall::streaming("x__y", "c");
        call.arguments_json = arguments.into();
        call.status = ToolCallStatus::Completed;
        call.permission = Some(PermissionRecord { allowed: true, source: source.into() });
        let mut result = ToolResult::failed(ToolOutcome::Ok, ErrorDetail::internal(String::new()));
        result.parts = vec![Part::text(output)];
        call.result = Some(result);
        Arc::new(Item {
            item_id: ItemId::new("i").unwrap(),
            turn_id: Some(TurnId::new("t").unwrap()),
            message_id: MessageId::new("m").unwrap(),
            body: ItemBody::ToolCall(Box::new(call)),
            state: ItemState::Completed,
            incomplete: false,
            visibility: Visibility::default(),
            origin: Origin::Model,
            create_time: Timestamp(0),
            client_create_time: None,
            complete_time: None,
            redacted: false,
            model_id: None,
            provider_state_json: None,
        })
    }

    #[test]
    fn only_the_same_call_with_the_same_answer_counts() {
        let call = made(r#"{"a":1,"b":2}"#, "", "mode").tool_call().unwrap().clone();
        let same = || made(r#"{ "b": 2, "a": 1 }"#, "out", "mode");
        let count = |items: &[Arc<Item>]| repeats(items, &TurnId::new("t").unwrap(), &call);
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[same(), same()]), 2, "key order does not count");
        assert_eq!(count(&[same(), made("{}", "out", "mode"), same()]), 1, "another call between");
        assert_eq!(count(&[made(r#"{"a":1,"b":2}"#, "other", "mode"), same()]), 1, "progress was made");
        assert_eq!(count(&[same(), made(r#"{"a":1,"b":2}"#, "out", "answer"), same()]), 1, "was asked");
        assert_eq!(repeats(&[same(), same()], &TurnId::new("u").unwrap(), &call), 0, "another turn");
    }
}
