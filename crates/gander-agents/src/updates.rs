//! `session/update` as updates of the port. Pure. Unknown kinds and malformed fields are left out with a debug line:
//! agents are newer and older than this code.

use gander_domain::{
    Part, PartBody,
    item::{Location, NoticeLevel, ToolKind},
    session::{Command, PlanEntry},
    usage::{Cost, CostSource},
};
use gander_model::{AgentToolCall, AgentToolStatus, AgentUpdate};
use serde_json::Value;

use crate::content::part_of;

/// What an update says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Update {
    /// For the client.
    Tell(Vec<AgentUpdate>),
    /// The agent's mode has changed.
    Mode(String),
    /// All settings of the agent.
    Options(Value),
    Nothing,
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Reads the `update` of a notification.
pub(crate) fn parse(update: &Value) -> Update {
    let kind = update.get("sessionUpdate").and_then(Value::as_str).unwrap_or_default();
    match kind {
        "agent_message_chunk" => message_chunk(update, false),
        "agent_thought_chunk" => message_chunk(update, true),
        "tool_call" | "tool_call_update" => tool_call_updates(update),
        "plan" => Update::Tell(vec![AgentUpdate::Plan(list(update, "entries").map(plan_entry).collect())]),
        "available_commands_update" => {
            let commands = list(update, "availableCommands").filter_map(command).collect();
            Update::Tell(vec![AgentUpdate::Commands(commands)])
        }
        "current_mode_update" => {
            let mode = text(update, "currentModeId").or_else(|| text(update, "modeId"));
            mode.map_or(Update::Nothing, Update::Mode)
        }
        "config_option_update" => {
            update.get("configOptions").cloned().map_or(Update::Nothing, Update::Options)
        }
        "session_info_update" => match text(update, "title").filter(|title| !title.trim().is_empty()) {
            Some(title) => Update::Tell(vec![AgentUpdate::Title(title)]),
            None => Update::Nothing,
        },
        "usage_update" => usage(update),
        "notice" => notice(update),
        "compaction_update" => compaction(update),
        // What the user wrote is in the log already.
        "user_message_chunk" => Update::Nothing,
        other => {
            tracing::debug!(kind = other, "an update of the agent that this version does not know");
            Update::Nothing
        }
    }
}

fn message_chunk(update: &Value, thought: bool) -> Update {
    let message_id = text(update, "messageId");
    let Some(content) = update.get("content") else { return Update::Nothing };
    let part = part_of(content);
    let said = match (part.body, thought) {
        (PartBody::Text(text), false) => AgentUpdate::Text { message_id, text },
        (PartBody::Text(text), true) => AgentUpdate::Thought { message_id, text },
        (body, _) => AgentUpdate::Part { message_id, part: Part::new(body) },
    };
    Update::Tell(vec![said])
}

/// A tool call, whole or partial.
pub(crate) fn tool_call(value: &Value) -> Option<AgentToolCall> {
    let meta = value.get("_meta");
    let claude = meta.and_then(|meta| meta.get("claudeCode"));
    let json = |key: &str| value.get(key).filter(|v| !v.is_null()).map(Value::to_string);
    let array = |key: &str| value.get(key).and_then(Value::as_array);
    Some(AgentToolCall {
        call_id: text(value, "toolCallId")?,
        name: text(value, "name").or_else(|| text(claude?, "toolName")),
        title: text(value, "title"),
        kind: value.get("kind").and_then(Value::as_str).map(tool_kind),
        status: value.get("status").and_then(Value::as_str).and_then(tool_status),
        content: array("content").map(|items| items.iter().map(tool_content).collect()),
        locations: array("locations").map(|items| items.iter().filter_map(location).collect()),
        input_json: json("rawInput"),
        output_json: json("rawOutput"),
    })
}

fn tool_call_updates(update: &Value) -> Update {
    let Some(call) = tool_call(update) else { return Update::Nothing };
    let call_id = call.call_id.clone();
    let mut told = vec![AgentUpdate::ToolCall(Box::new(call))];
    // Agents that run shells themselves show live output this way to clients that say they want it.
    let meta = update.get("_meta");
    for key in ["terminal_output", "terminal_output_delta"] {
        let output = meta.and_then(|meta| meta.get(key)).and_then(|output| text(output, "data"));
        if let Some(text) = output.filter(|text| !text.is_empty()) {
            told.push(AgentUpdate::ToolOutput { call_id: call_id.clone(), text });
        }
    }
    if told.len() > 1 {
        // Output comes before the end that the same update may tell.
        told.rotate_left(1);
    }
    Update::Tell(told)
}

fn tool_kind(kind: &str) -> ToolKind {
    match kind {
        "read" => ToolKind::Read,
        "edit" => ToolKind::Edit,
        "delete" => ToolKind::Delete,
        "move" => ToolKind::Move,
        "search" => ToolKind::Search,
        "execute" => ToolKind::Execute,
        "think" => ToolKind::Think,
        "fetch" => ToolKind::Fetch,
        "switch_mode" => ToolKind::SwitchMode,
        _ => ToolKind::Other,
    }
}

fn tool_status(status: &str) -> Option<AgentToolStatus> {
    Some(match status {
        "pending" => AgentToolStatus::Pending,
        "in_progress" => AgentToolStatus::InProgress,
        "completed" => AgentToolStatus::Completed,
        "failed" => AgentToolStatus::Failed,
        _ => return None,
    })
}

fn tool_content(item: &Value) -> Part {
    match item.get("type").and_then(Value::as_str) {
        Some("content") => part_of(item.get("content").unwrap_or(&Value::Null)),
        Some("diff") => Part::new(PartBody::Diff {
            path: text(item, "path").unwrap_or_default(),
            old_text: text(item, "oldText"),
            new_text: text(item, "newText"),
            patch: None,
        }),
        Some("terminal") => Part::new(PartBody::Terminal {
            terminal_id: text(item, "terminalId").unwrap_or_default(),
            exit_code: None,
            signal: None,
        }),
        // A content block without its wrapper, or something new.
        _ => part_of(item),
    }
}

fn location(item: &Value) -> Option<Location> {
    let line = item.get("line").and_then(Value::as_u64).and_then(|line| u32::try_from(line).ok());
    Some(Location { path: text(item, "path")?, line })
}

fn plan_entry(entry: &Value) -> PlanEntry {
    let or = |key: &str, fallback: &str| text(entry, key).unwrap_or_else(|| fallback.to_owned());
    PlanEntry {
        content: or("content", ""),
        priority: or("priority", "medium"),
        status: or("status", "pending"),
    }
}

fn command(command: &Value) -> Option<Command> {
    Some(Command {
        name: text(command, "name")?,
        help: text(command, "description").unwrap_or_default(),
        input_hint: command.get("input").and_then(|input| text(input, "hint")).unwrap_or_default(),
        kind: "backend".to_owned(),
        recipe_id: None,
    })
}

fn usage(update: &Value) -> Update {
    let number = |key: &str| update.get(key).and_then(Value::as_u64);
    let (Some(context_used_tokens), Some(context_window_tokens)) = (number("used"), number("size")) else {
        return Update::Nothing;
    };
    let cost = update.get("cost").and_then(|cost| {
        let micros = (cost.get("amount")?.as_f64()? * 1e6).round();
        #[allow(clippy::cast_possible_truncation, reason = "bounded here")]
        let amount_micros = (0.0..1e15).contains(&micros).then_some(micros as i64)?;
        let currency = text(cost, "currency").unwrap_or_else(|| "USD".to_owned());
        Some(Cost { amount_micros, currency, source: CostSource::Provider })
    });
    Update::Tell(vec![AgentUpdate::Usage { context_used_tokens, context_window_tokens, cost }])
}

fn notice(update: &Value) -> Update {
    let level = match update.get("severity").and_then(Value::as_str) {
        Some("error") => NoticeLevel::Error,
        Some("warning") => NoticeLevel::Warning,
        _ => NoticeLevel::Info,
    };
    let title = text(update, "title").unwrap_or_default();
    let text = match text(update, "description") {
        Some(more) if !more.is_empty() => format!("{title}: {more}"),
        _ => title,
    };
    Update::Tell(vec![AgentUpdate::Notice { level, code: "agent_notice".to_owned(), text }])
}

fn compaction(update: &Value) -> Update {
    let (level, said) = match update.get("status").and_then(Value::as_str) {
        Some("in_progress") => (NoticeLevel::Info, "the agent shortens its context".to_owned()),
        Some("completed") => (NoticeLevel::Info, "the agent has shortened its context".to_owned()),
        Some("cancelled") => (NoticeLevel::Info, "the agent did not shorten its context".to_owned()),
        Some("failed") => {
            let why = text(update, "error").map(|why| format!(": {why}")).unwrap_or_default();
            (NoticeLevel::Warning, format!("the agent could not shorten its context{why}"))
        }
        _ => return Update::Nothing,
    };
    Update::Tell(vec![AgentUpdate::Notice { level, code: "agent_compaction".to_owned(), text: said }])
}

#[cfg(test)]
mod tests;
