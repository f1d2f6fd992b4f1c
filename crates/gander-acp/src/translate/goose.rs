//! Session events → Goose's own session updates, which stand beside the protocol's, for clients that ask for them.
//!
//! Questions are not told here: clients get them as the protocol's own requests, or whoever asks shows them in Goose's way.

use gander_proto::v1::{Item, ItemState, NoticeLevel, SessionEvent, item, session_event::Payload};
use serde_json::{Value, json};

use super::{DialectState, visible};

/// Goose's method of these updates.
pub(crate) const METHOD: &str = "_goose/unstable/session/update";

/// The updates for one event that `translate` has seen, as they go into notifications.
pub(crate) fn updates(event: &SessionEvent, state: &DialectState) -> Option<Value> {
    if !state.caps.goose_notifications {
        return None;
    }
    match event.payload.as_ref()? {
        Payload::UsageReported(usage) => {
            let count = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
            let totals = usage.session_totals.unwrap_or_default();
            let mut update = json!({
                "sessionUpdate": "usage_update",
                "used": state.context_used.unwrap_or_default(),
                "contextLimit": state.context_window.unwrap_or_default(),
                "accumulatedInputTokens": count(totals.input_tokens),
                "accumulatedOutputTokens": count(totals.output_tokens),
            });
            if let (Some(cost), Some(update)) = (&state.cost, update.as_object_mut()) {
                update.insert("accumulatedCost".to_owned(), json!(cost.amount));
            }
            Some(update)
        }
        Payload::StatusNoted(status) if !status.text.is_empty() => {
            let kind = match status.level() {
                NoticeLevel::Warning | NoticeLevel::Error => "notice",
                NoticeLevel::Info | NoticeLevel::Unspecified => "progress",
            };
            Some(status_message(kind, &status.text))
        }
        Payload::ItemCompleted(completed) => notice(completed.item.as_ref()?),
        _ => None,
    }
}

fn notice(item: &Item) -> Option<Value> {
    match &item.body {
        Some(item::Body::Notice(notice)) if visible(item) && !notice.text.is_empty() => {
            Some(status_message("notice", &notice.text))
        }
        Some(item::Body::Compaction(_)) if visible(item) && item.state() == ItemState::Completed => {
            let text = if item.incomplete { "Compaction was cancelled" } else { "Compaction complete" };
            Some(status_message("notice", text))
        }
        _ => None,
    }
}

fn status_message(kind: &str, text: &str) -> Value {
    json!({"sessionUpdate": "status_message", "status": {"type": kind, "message": text}})
}
