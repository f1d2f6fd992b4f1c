//! One line per event of a log.

use gander_proto::v1::{
    Item, SessionEvent, ToolCall, Turn, interaction::Question, item, session_event::Payload,
};

use crate::cli::{
    connect::Context,
    error::CliResult,
    json,
    output::{Tint, one_line, paint},
    render::join,
};

/// How events are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) json: bool,
    pub(super) no_deltas: bool,
}

pub(super) fn print(context: &Context, event: &SessionEvent, view: View) -> CliResult<()> {
    if view.json {
        return context.out.line(&json::line(event)?);
    }
    context.out.line(&line(event, context.out.width, context.out.color))
}

/// "   12  10:22:03.456  tool_call_updated  shell: ls (running)".
pub(super) fn line(event: &SessionEvent, width: usize, color: bool) -> String {
    let (name, text) = describe(event);
    let head = format!("{:>5}  {}  ", event.sequence, clock(event));
    let room = width.saturating_sub(head.chars().count() + name.len().max(23) + 1).max(20);
    let name = paint(color, tint(name), &format!("{name:<23}"));
    format!("{}{name} {}", paint(color, Tint::Dim, &head), one_line(&text, room)).trim_end().to_owned()
}

/// Time of day, UTC.
fn clock(event: &SessionEvent) -> String {
    let Some(time) = event.create_time else { return "            ".to_owned() };
    let day = time.seconds.rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}.{:03}", day / 3_600, day / 60 % 60, day % 60, time.nanos / 1_000_000)
}

fn tint(name: &str) -> Tint {
    match name {
        "turn_started" | "turn_ended" | "session_created" => Tint::Bold,
        "interaction_requested" | "interaction_resolved" => Tint::Yellow,
        name if name.ends_with("_delta") => Tint::Dim,
        _ => Tint::Cyan,
    }
}

/// The payload's name in the contract, and what matters in it.
fn describe(event: &SessionEvent) -> (&'static str, String) {
    let Some(payload) = &event.payload else { return ("(unknown)", "of a newer version".to_owned()) };
    match payload {
        Payload::TextDelta(delta) => ("text_delta", quoted(&delta.text)),
        Payload::ThoughtDelta(delta) => ("thought_delta", quoted(&delta.text)),
        Payload::ArgumentsDelta(delta) => ("arguments_delta", quoted(&delta.text)),
        Payload::ToolOutputDelta(delta) => ("tool_output_delta", quoted(&delta.text)),
        Payload::ToolProgress(progress) => ("tool_progress", progress.message.clone()),
        Payload::ToolCallUpdated(update) => {
            ("tool_call_updated", update.tool_call.as_ref().map_or_else(String::new, call))
        }
        Payload::ItemStarted(started) => {
            ("item_started", started.item.as_ref().map_or_else(String::new, item))
        }
        Payload::ItemCompleted(completed) => {
            ("item_completed", completed.item.as_ref().map_or_else(String::new, item))
        }
        Payload::ItemRedacted(redacted) => ("item_redacted", redacted.item_id.clone()),
        Payload::ToolNotification(notification) => ("tool_notification", notification.method.clone()),
        Payload::TurnQueued(event) => ("turn_queued", turn(event.turn.as_ref())),
        Payload::TurnStarted(event) => ("turn_started", turn(event.turn.as_ref())),
        Payload::TurnCancelRequested(event) => ("turn_cancel_requested", turn(event.turn.as_ref())),
        Payload::TurnEnded(event) => ("turn_ended", turn(event.turn.as_ref())),
        Payload::ModelCallStarted(event) => {
            let model = event.model.as_ref().map(|m| format!("{}/{}", m.provider_id, m.model_id));
            ("model_call_started", format!("{} call {}", model.unwrap_or_default(), event.call_index))
        }
        Payload::ModelRetryScheduled(event) => {
            let message = event.error.as_ref().map_or("", |error| error.message.as_str());
            ("model_retry_scheduled", format!("attempt {}: {message}", event.attempt))
        }
        Payload::InteractionRequested(event) => {
            let question = event.interaction.as_ref().and_then(|interaction| interaction.question.as_ref());
            ("interaction_requested", question.map_or_else(String::new, asked))
        }
        Payload::InteractionResolved(event) => {
            let by = event.answered_by.as_ref().map_or("", |actor| actor.client_name.as_str());
            (
                "interaction_resolved",
                format!("{} {by}", enum_word(event.outcome().as_str_name(), "INTERACTION_OUTCOME_")),
            )
        }
        Payload::SessionCreated(event) => (
            "session_created",
            event.session.as_ref().map_or_else(String::new, |s| s.working_directory.clone()),
        ),
        Payload::SessionUpdated(event) => ("session_updated", event.changed_fields.join(", ")),
        Payload::SessionOptionsChanged(_) => ("session_options_changed", String::new()),
        Payload::CommandsChanged(_) => ("commands_changed", String::new()),
        Payload::PlanUpdated(event) => {
            let entries = event.plan.as_ref().map_or(0, |plan| plan.entries.len());
            ("plan_updated", format!("{entries} entries"))
        }
        Payload::HistoryChanged(event) => {
            ("history_changed", enum_word(event.kind().as_str_name(), "HISTORY_CHANGE_KIND_"))
        }
        Payload::ExtensionAdded(event) => {
            ("extension_added", event.extension.as_ref().map_or_else(String::new, |e| e.name.clone()))
        }
        Payload::ExtensionRemoved(event) => {
            ("extension_removed", event.extension.as_ref().map_or_else(String::new, |e| e.name.clone()))
        }
        Payload::ExtensionStateChanged(event) => {
            let name = event.extension.as_ref().map_or("", |extension| extension.name.as_str());
            let state = enum_word(event.new_state().as_str_name(), "EXTENSION_STATE_");
            let error = event.error.as_ref().map(|error| format!(": {}", error.message)).unwrap_or_default();
            ("extension_state_changed", format!("{name} {state}{error}"))
        }
        Payload::ListChanged(event) => ("list_changed", event.extension_name.clone()),
        Payload::ResourceUpdated(event) => ("resource_updated", event.uri.clone()),
        Payload::ExtensionNotification(event) => {
            ("extension_notification", format!("{} {}", event.extension_name, event.data_json))
        }
        Payload::UsageReported(event) => {
            let usage = event.call.unwrap_or_default();
            let count =
                |number: Option<i64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
            (
                "usage_reported",
                format!("{} in, {} out", count(usage.input_tokens), count(usage.output_tokens)),
            )
        }
        Payload::StatusNoted(event) => ("status_noted", event.text.clone()),
        Payload::Checkpoint(_) => ("checkpoint", String::new()),
        Payload::StreamClosing(_) => ("stream_closing", String::new()),
    }
}

/// With its line ends visible: a delta is often one.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// `TURN_STATE_COMPLETED` without its prefix, in small letters.
fn enum_word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', " ")
}

fn turn(turn: Option<&Turn>) -> String {
    let Some(turn) = turn else { return String::new() };
    let state = enum_word(turn.state().as_str_name(), "TURN_STATE_");
    match &turn.error {
        Some(error) => format!("{state}: {}", error.message),
        None => state,
    }
}

fn item(item: &Item) -> String {
    match &item.body {
        Some(item::Body::UserMessage(message)) => format!("user: {}", join(&message.parts)),
        Some(item::Body::AgentMessage(message)) => format!("agent: {}", join(&message.parts)),
        Some(item::Body::Thought(thought)) => format!("thought: {}", thought.text),
        Some(item::Body::ToolCall(tool_call)) => call(tool_call),
        Some(item::Body::Compaction(_)) => "compaction".to_owned(),
        Some(item::Body::Notice(notice)) => format!("notice: {}", notice.text),
        None if item.redacted => "(redacted)".to_owned(),
        None => String::new(),
    }
}

fn call(call: &ToolCall) -> String {
    let title = if call.title.is_empty() { &call.name } else { &call.title };
    format!("{title} ({})", enum_word(call.status().as_str_name(), "TOOL_CALL_STATUS_"))
}

fn asked(question: &Question) -> String {
    match question {
        Question::Permission(question) => question.tool_call.as_ref().map_or_else(String::new, call),
        Question::ElicitForm(form) => format!("form: {}", form.message),
        Question::OpenUrl(url) => format!("page: {}", url.url),
        Question::Sampling(sampling) => format!("sampling for {}", sampling.extension_name),
    }
}

#[cfg(test)]
mod tests {
    use gander_proto::v1::{ItemCompleted, TextDelta, ToolCallStatus, TurnEnded, TurnState, UserMessage};
    use gander_proto::v1::{Part, part};
    use prost_types::Timestamp;

    use super::*;

    fn event(payload: Option<Payload>) -> SessionEvent {
        SessionEvent {
            sequence: 12,
            create_time: Some(Timestamp { seconds: 86_400 + 37_323, nanos: 456_000_000 }),
            payload,
            ..SessionEvent::default()
        }
    }

    #[test]
    fn one_line_per_event() {
        let text = |text: &str| Part { body: Some(part::Body::Text(text.to_owned())), ..Part::default() };
        let user = Item {
            body: Some(item::Body::UserMessage(UserMessage {
                parts: vec![text("hi\nthere")],
                steered: false,
            })),
            ..Item::default()
        };
        let tool = Item {
            body: Some(item::Body::ToolCall(Box::new(ToolCall {
                title: "shell: ls".to_owned(),
                status: ToolCallStatus::TimedOut as i32,
                ..ToolCall::default()
            }))),
            ..Item::default()
        };
        let completed =
            |item: Item| Some(Payload::ItemCompleted(Box::new(ItemCompleted { item: Some(item) })));
        let ended = Turn { state: TurnState::Completed as i32, ..Turn::default() };
        for (payload, wanted) in [
            (
                Some(Payload::TextDelta(TextDelta { text: "a\n\x1b[2J".to_owned(), ..TextDelta::default() })),
                "   12  10:22:03.456  text_delta              \"a\\n\\u{1b}[2J\"",
            ),
            (completed(user), "   12  10:22:03.456  item_completed          user: hi"),
            (completed(tool), "   12  10:22:03.456  item_completed          shell: ls (timed out)"),
            (
                Some(Payload::TurnEnded(Box::new(TurnEnded { turn: Some(ended) }))),
                "   12  10:22:03.456  turn_ended              completed",
            ),
            (None, "   12  10:22:03.456  (unknown)               of a newer version"),
        ] {
            assert_eq!(line(&event(payload), 100, false), wanted);
        }
        assert!(line(&event(None), 100, true).contains("\x1b["));
    }
}
