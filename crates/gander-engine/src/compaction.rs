//! What of a conversation is summarized, and how it is told to the model that summarizes. Pure.
//!
//! Only visibility changes: summarized items stay in the log for people. A response of a model (its thoughts, text and
//! calls with their results) is summarized whole or not at all, so no call is ever split from its result.

use std::{fmt::Write as _, sync::Arc};

use gander_domain::{Item, ItemBody, Part, PartBody, item::ToolResult};

use crate::estimate;

/// Longest text of one tool result in the transcript, in bytes: the summary needs no more of it.
const MAX_RESULT: usize = 16 * 1024;
/// Longest text of one message in the transcript.
const MAX_MESSAGE: usize = 128 * 1024;

/// Why a conversation is summarized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// Somebody asked for it.
    Manual,
    /// The context is nearly full.
    Threshold,
    /// The provider refused the conversation as too long.
    Overflow,
}

impl Trigger {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Threshold => "threshold",
            Self::Overflow => "overflow",
        }
    }
}

/// What a compaction does: items before `cut` are summarized, the rest stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub cut: usize,
    /// Index of the user's last message, when it is among those that are summarized: it is kept word for word.
    pub last_message: Option<usize>,
}

/// Chooses what to summarize so that about `keep_tokens` of the newest items stay. `None`: there is nothing to gain.
pub(crate) fn plan(items: &[Arc<Item>], keep_tokens: u64, trigger: Trigger) -> Option<Plan> {
    let mut cut = items.len();
    let mut kept = 0u64;
    for start in group_starts(items).into_iter().rev() {
        kept = kept.saturating_add(items[start..cut].iter().map(|i| estimate::of_item(i)).sum());
        if kept > keep_tokens {
            break;
        }
        cut = start;
    }
    if cut == 0 && trigger != Trigger::Threshold {
        // All of it is small, yet it does not fit or somebody wants it short.
        cut = items.len();
    }
    let last_message = items.iter().rposition(|i| matches!(i.body, ItemBody::UserMessage(_)));
    let last_message = last_message.filter(|i| *i < cut && trigger != Trigger::Manual);
    let summarized = &items[..cut];
    // A summary of nothing but the user's last message, or of a summary, gains nothing.
    let gains = summarized
        .iter()
        .enumerate()
        .any(|(i, item)| Some(i) != last_message && !matches!(item.body, ItemBody::Compaction(_)));
    gains.then_some(Plan { cut, last_message })
}

/// Where a response of the model or a message begins.
fn group_starts(items: &[Arc<Item>]) -> Vec<usize> {
    let begins = |i: usize| i == 0 || items[i - 1].message_id != items[i].message_id;
    (0..items.len()).filter(|i| begins(*i)).collect()
}

/// The conversation as text. `drop_results` (percent) of the tool results are left out, those in the middle first.
pub(crate) fn transcript(items: &[Arc<Item>], drop_results: u32) -> String {
    let calls: Vec<usize> = (0..items.len()).filter(|i| items[*i].tool_call().is_some()).collect();
    let dropped = dropped_calls(&calls, drop_results);
    let mut out = String::new();
    for (index, item) in items.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = match &item.body {
            ItemBody::UserMessage(m) => write!(out, "## User\n{}\n\n", parts_text(&m.parts, MAX_MESSAGE)),
            ItemBody::AgentMessage(m) => {
                write!(out, "## Assistant\n{}\n\n", parts_text(&m.parts, MAX_MESSAGE))
            }
            ItemBody::Compaction(c) => {
                write!(
                    out,
                    "## Summary of what came before\n{}\n\n",
                    parts_text(&c.summary_parts, MAX_MESSAGE)
                )
            }
            ItemBody::ToolCall(call) => {
                let result = match &call.result {
                    _ if dropped.contains(&index) => "[left out]".to_owned(),
                    Some(result) => result_text(result),
                    None => "[no result]".to_owned(),
                };
                let arguments = shorten(&call.arguments_json, MAX_RESULT);
                write!(out, "## Tool call {} {arguments}\nResult:\n{result}\n\n", call.name)
            }
            ItemBody::Thought(_) | ItemBody::Notice(_) => Ok(()),
        };
    }
    out
}

/// From the middle outwards: what began the work and what was done last matter most.
fn dropped_calls(calls: &[usize], percent: u32) -> Vec<usize> {
    let wanted = (calls.len() * percent.min(100) as usize).div_ceil(100);
    let middle = calls.len() / 2;
    let mut by_distance: Vec<usize> = (0..calls.len()).collect();
    by_distance.sort_by_key(|i| i.abs_diff(middle));
    by_distance.into_iter().take(wanted).map(|i| calls[i]).collect()
}

fn result_text(result: &ToolResult) -> String {
    let mut text = parts_text(&result.parts, MAX_RESULT);
    if text.is_empty() {
        text = result.structured_content_json.as_deref().map(|j| shorten(j, MAX_RESULT)).unwrap_or_default();
    }
    if result.is_error { format!("(failed) {text}") } else { text }
}

fn parts_text(parts: &[Part], max: usize) -> String {
    let texts: Vec<String> = parts
        .iter()
        .map(|part| match &part.body {
            PartBody::Text(text) => text.clone(),
            PartBody::Image { .. } => "[image]".to_owned(),
            PartBody::Audio { .. } => "[audio]".to_owned(),
            PartBody::TextContent { size_bytes, .. } => format!("[text of {size_bytes} bytes]"),
            PartBody::Resource { uri, text, .. } => match text {
                Some(text) => format!("[{uri}]\n{text}"),
                None => format!("[{uri}]"),
            },
            PartBody::ResourceLink { uri, .. } => format!("[{uri}]"),
            PartBody::Diff { path, .. } => format!("[changes of {path}]"),
            PartBody::Terminal { .. } | PartBody::Unknown { .. } => String::new(),
        })
        .filter(|text| !text.is_empty())
        .collect();
    shorten(&texts.join("\n"), max)
}

fn shorten(text: &str, max: usize) -> String {
    if text.len() <= max { text.to_owned() } else { crate::content::head_and_tail(text, max) }
}

/// The parts of the summary item: the summary, the todo list as it stands, then the user's last message word for word
/// where it was summarized.
pub(crate) fn summary_parts(summary: &str, plan: Option<&str>, last_message: Option<&Item>) -> Vec<Part> {
    let mut parts = vec![Part::text(summary.trim())];
    if let Some(plan) = plan.map(str::trim).filter(|p| !p.is_empty()) {
        parts.push(Part::text(format!("\n\nThe todo list as it stands:\n{plan}\n")));
    }
    if let Some(ItemBody::UserMessage(message)) = last_message.map(|i| &i.body) {
        parts.push(Part::text("\n\nThe user's last message, word for word; it may not be done with yet:\n"));
        parts.extend(message.parts.iter().cloned());
    }
    parts
}

#[cfg(test)]
mod tests {
    use gander_domain::{
        ItemId, MessageId, Timestamp,
        item::{
            AgentMessage, Compaction, ItemState, Origin, ToolCall, ToolCallStatus, ToolOutcome, UserMessage,
            Visibility,
        },
    };

    use super::*;

    fn item(id: usize, message: &str, body: ItemBody) -> Arc<Item> {
        Arc::new(Item {
            item_id: ItemId::new(format!("i{id}")).unwrap(),
            turn_id: None,
            message_id: MessageId::new(message).unwrap(),
            body,
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

    fn user(id: usize, text: &str) -> Arc<Item> {
        let body = UserMessage { parts: vec![Part::text(text)], steered: false };
        item(id, &format!("u{id}"), ItemBody::UserMessage(body))
    }

    fn agent(id: usize, message: &str, text: &str) -> Arc<Item> {
        item(id, message, ItemBody::AgentMessage(AgentMessage { parts: vec![Part::text(text)], demo: false }))
    }

    fn call(id: usize, message: &str, output: &str) -> Arc<Item> {
        let mut call = ToolCall::streaming("dev__x", format!("c{id}"));
        call.status = ToolCallStatus::Completed;
        call.arguments_json = "{}".into();
        let mut result =
            ToolResult::failed(ToolOutcome::Ok, gander_domain::ErrorDetail::internal(String::new()));
        result.parts = vec![Part::text(output)];
        result.is_error = false;
        call.result = Some(result);
        item(id, message, ItemBody::ToolCall(Box::new(call)))
    }

    #[test]
    fn responses_are_never_split() {
        let big = "x".repeat(400);
        let items = [
            user(0, &big),
            agent(1, "m1", &big),
            call(2, "m1", &big),
            call(3, "m1", &big),
            agent(4, "m2", &big),
            user(5, "go on"),
        ];
        for keep in 0..900 {
            let Some(plan) = plan(&items, keep, Trigger::Threshold) else { continue };
            assert!([1, 4, 5, 6].contains(&plan.cut), "{keep}: {plan:?}");
            assert_eq!(plan.last_message, (plan.cut == 6).then_some(5));
        }
        assert_eq!(
            plan(&items, 200, Trigger::Threshold),
            Some(Plan { cut: 4, last_message: None }),
            "the newest response that fits stays"
        );
    }

    #[test]
    fn there_may_be_nothing_to_gain() {
        let summary = item(
            0,
            "s",
            ItemBody::Compaction(Compaction {
                summary_parts: vec![Part::text("s")],
                ..Compaction::default()
            }),
        );
        assert_eq!(plan(&[], 0, Trigger::Manual), None);
        assert_eq!(plan(&[user(0, "hi")], 0, Trigger::Overflow), None);
        assert_eq!(plan(std::slice::from_ref(&summary), 0, Trigger::Manual), None);
        assert_eq!(plan(&[user(0, "hi"), agent(1, "m", "yes")], 9_999, Trigger::Threshold), None);
        let both = [user(0, "hi"), agent(1, "m", "yes")];
        assert_eq!(plan(&both, 9_999, Trigger::Manual), Some(Plan { cut: 2, last_message: None }));
        assert_eq!(plan(&both, 9_999, Trigger::Overflow), Some(Plan { cut: 2, last_message: Some(0) }));
    }

    #[test]
    fn the_todo_list_and_the_last_message_outlive_the_summary() {
        let last = user(0, "and now?");
        let text = |parts: &[Part]| parts.iter().filter_map(Part::as_text).collect::<String>();
        let all = text(&summary_parts(" notes\n", Some("- [ ] a\n"), Some(&last)));
        assert!(all.starts_with("notes\n\nThe todo list as it stands:\n- [ ] a\n"), "{all}");
        assert!(all.ends_with("\nand now?"), "{all}");
        assert_eq!(text(&summary_parts("notes", Some(" "), None)), "notes");
    }

    #[test]
    fn results_are_dropped_from_the_middle() {
        let items: Vec<_> = (0..5).map(|i| call(i, "m", &format!("out{i}"))).collect();
        let all = transcript(&items, 0);
        assert!((0..5).all(|i| all.contains(&format!("out{i}"))), "{all}");
        let some = transcript(&items, 20);
        assert!(!some.contains("out2") && some.contains("out0") && some.contains("out4"), "{some}");
        let none = transcript(&items, 100);
        assert!(
            (0..5).all(|i| !none.contains(&format!("out{i}")))
                && none.matches("Tool call dev__x").count() == 5,
            "{none}"
        );
    }
}
