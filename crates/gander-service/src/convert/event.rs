//! Events as watchers see them. This is the hot path: one conversion per event and watcher, no copy beyond the strings
//! that the message owns.

use gander_domain::{
    Event, Payload, SessionId,
    event::{HistoryChange, ListChange, ToolProgress, UsageReport},
    session::SessionOrigin,
};
use gander_proto::v1 as pb;
use pb::session_event::Payload as Pb;

use super::{
    actor_to_pb, enums, error_to_pb, extension, int32, int64, interaction, item, millis_to_pb, or_empty,
    session, time_to_pb, tool, turn, usage,
};

const LIST: &str = "LIST_KIND_";
const LEVEL: &str = "LOG_LEVEL_";

/// One event of the session `session_id`.
pub(crate) fn event_to_pb(event: &Event, session_id: &SessionId) -> pb::SessionEvent {
    pb::SessionEvent {
        sequence: event.sequence,
        session_id: session_id.as_str().to_owned(),
        turn_id: or_empty(event.turn_id.as_ref()),
        create_time: Some(time_to_pb(event.time)),
        ignorable: event.payload.ignorable(),
        actor: event.actor.as_ref().map(actor_to_pb),
        payload: Some(payload_to_pb(&event.payload, session_id)),
    }
}

/// Whether `exclude_deltas` leaves it out.
pub(crate) fn is_excludable(payload: &Payload) -> bool {
    payload.is_delta() || payload.ignorable()
}

/// A message that only says how far the log is. It takes no sequence of its own.
pub(crate) fn checkpoint(session_id: &SessionId, sequence: i64, caught_up: bool) -> pb::SessionEvent {
    pb::SessionEvent {
        sequence,
        session_id: session_id.as_str().to_owned(),
        ignorable: true,
        payload: Some(Pb::Checkpoint(pb::Checkpoint { caught_up })),
        ..Default::default()
    }
}

/// The last message of a stream that the daemon ends.
pub(crate) fn stream_closing(
    session_id: &SessionId,
    sequence: i64,
    closing: pb::StreamClosing,
) -> pb::SessionEvent {
    pb::SessionEvent {
        sequence,
        session_id: session_id.as_str().to_owned(),
        ignorable: true,
        payload: Some(Pb::StreamClosing(closing)),
        ..Default::default()
    }
}

fn payload_to_pb(payload: &Payload, session_id: &SessionId) -> Pb {
    let turn = |t| Some(turn::turn_to_pb(t, session_id, None));
    match payload {
        Payload::TextDelta { item_id, part_index, text } => Pb::TextDelta(pb::TextDelta {
            item_id: item_id.as_str().to_owned(),
            text: text.clone(),
            part_index: int32(*part_index),
        }),
        Payload::ThoughtDelta { item_id, text } => Pb::ThoughtDelta(pb::ThoughtDelta {
            item_id: item_id.as_str().to_owned(),
            text: text.clone(),
            part_index: 0,
        }),
        Payload::ArgumentsDelta { item_id, text } => Pb::ArgumentsDelta(pb::ArgumentsDelta {
            item_id: item_id.as_str().to_owned(),
            text: text.clone(),
            part_index: 0,
        }),
        Payload::ToolOutputDelta { item_id, stream, text } => Pb::ToolOutputDelta(pb::ToolOutputDelta {
            item_id: item_id.as_str().to_owned(),
            text: text.clone(),
            stream: enums::output_stream_to_pb(*stream),
        }),
        Payload::ToolProgress(progress) => Pb::ToolProgress(progress_to_pb(progress)),
        Payload::ToolNotification { item_id, method, params_json } => {
            Pb::ToolNotification(pb::ToolNotification {
                item_id: item_id.as_str().to_owned(),
                method: method.clone(),
                params_json: params_json.clone(),
            })
        }
        Payload::ItemStarted { item } => {
            Pb::ItemStarted(Box::new(pb::ItemStarted { item: Some(item::item_to_pb(item)) }))
        }
        Payload::ItemCompleted { item } => {
            Pb::ItemCompleted(Box::new(pb::ItemCompleted { item: Some(item::item_to_pb(item)) }))
        }
        Payload::ItemRedacted { item_id } => {
            Pb::ItemRedacted(pb::ItemRedacted { item_id: item_id.as_str().to_owned() })
        }
        Payload::ToolCallUpdated { item_id, call } => Pb::ToolCallUpdated(Box::new(pb::ToolCallUpdated {
            item_id: item_id.as_str().to_owned(),
            tool_call: Some(tool::call_to_pb(call)),
        })),
        Payload::TurnQueued { turn: t } => Pb::TurnQueued(Box::new(pb::TurnQueued { turn: turn(t) })),
        Payload::TurnStarted { turn: t } => Pb::TurnStarted(Box::new(pb::TurnStarted { turn: turn(t) })),
        Payload::TurnCancelRequested { turn: t } => {
            Pb::TurnCancelRequested(Box::new(pb::TurnCancelRequested { turn: turn(t) }))
        }
        Payload::TurnEnded { turn: t } => Pb::TurnEnded(Box::new(pb::TurnEnded { turn: turn(t) })),
        other => rare_payload_to_pb(other, session_id),
    }
}

fn rare_payload_to_pb(payload: &Payload, session_id: &SessionId) -> Pb {
    match payload {
        Payload::ModelCallStarted { model, call_index } => Pb::ModelCallStarted(pb::ModelCallStarted {
            model: Some(session::model_to_pb(model)),
            call_index: int32(*call_index),
        }),
        Payload::ModelRetryScheduled { attempt, delay_ms, error } => {
            Pb::ModelRetryScheduled(pb::ModelRetryScheduled {
                attempt: int32(*attempt),
                delay: Some(millis_to_pb(*delay_ms)),
                error: Some(error_to_pb(error)),
            })
        }
        Payload::InteractionRequested { interaction } => {
            Pb::InteractionRequested(Box::new(pb::InteractionRequested {
                interaction: Some(interaction::interaction_to_pb(interaction, session_id)),
            }))
        }
        Payload::InteractionResolved(resolution) => {
            Pb::InteractionResolved(Box::new(interaction::resolution_to_pb(resolution, session_id)))
        }
        Payload::UsageReported(report) => Pb::UsageReported(Box::new(usage_report_to_pb(report))),
        Payload::StatusNoted { level, code, text } => Pb::StatusNoted(pb::StatusNoted {
            level: enums::notice_level_to_pb(*level),
            text: text.clone(),
            code: code.clone(),
        }),
        Payload::ExtensionAdded { extension: e } => {
            Pb::ExtensionAdded(pb::ExtensionAdded { extension: Some(extension::summary_to_pb(e)) })
        }
        Payload::ExtensionRemoved { key } => Pb::ExtensionRemoved(pb::ExtensionRemoved {
            extension: Some(pb::ExtensionSummary { key: key.clone(), ..Default::default() }),
        }),
        Payload::ExtensionStateChanged(change) => {
            Pb::ExtensionStateChanged(Box::new(extension::state_change_to_pb(change)))
        }
        Payload::ListChanged(change) => Pb::ListChanged(list_change_to_pb(change)),
        Payload::ResourceUpdated { extension_name, uri } => Pb::ResourceUpdated(pb::ResourceUpdated {
            extension_name: extension_name.clone(),
            uri: uri.clone(),
        }),
        Payload::ExtensionNotification { extension_name, level, logger, data_json } => {
            Pb::ExtensionNotification(pb::ExtensionNotification {
                extension_name: extension_name.clone(),
                level: enums::word_to_pb(LEVEL, level, pb::LogLevel::from_str_name),
                logger: logger.clone(),
                data_json: data_json.clone(),
            })
        }
        other => session_payload_to_pb(other),
    }
}

fn session_payload_to_pb(payload: &Payload) -> Pb {
    match payload {
        Payload::SessionCreated { session, origin } => Pb::SessionCreated(Box::new(pb::SessionCreated {
            session: Some(session::session_to_pb(session)),
            origin: Some(origin_to_pb(origin)),
        })),
        Payload::SessionUpdated { session, changed_fields, cause } => {
            Pb::SessionUpdated(Box::new(pb::SessionUpdated {
                session: Some(session::session_to_pb(session)),
                changed_fields: changed_fields.clone(),
                cause: enums::update_cause_to_pb(*cause),
            }))
        }
        Payload::SessionOptionsChanged { options } => Pb::SessionOptionsChanged(pb::SessionOptionsChanged {
            options: options.iter().map(session::option_to_pb).collect(),
        }),
        Payload::CommandsChanged { commands } => Pb::CommandsChanged(pb::CommandsChanged {
            commands: commands.iter().map(session::command_to_pb).collect(),
        }),
        Payload::PlanUpdated { plan } => {
            Pb::PlanUpdated(pb::PlanUpdated { plan: Some(session::plan_to_pb(plan)) })
        }
        Payload::HistoryChanged(change) => Pb::HistoryChanged(history_change_to_pb(change)),
        // The families above are complete (tested for every name); a checkpoint is what clients may always skip.
        _ => Pb::Checkpoint(pb::Checkpoint { caught_up: false }),
    }
}

pub(crate) fn progress_to_pb(progress: &ToolProgress) -> pb::ToolProgress {
    // Kept as text in the log, so that a server's number is not changed there; proto has a double.
    let number = |text: &String| text.parse::<f64>().ok().filter(|n| n.is_finite());
    pb::ToolProgress {
        item_id: progress.item_id.as_str().to_owned(),
        progress: number(&progress.progress).unwrap_or_default(),
        total: progress.total.as_ref().and_then(number),
        message: or_empty(progress.message.as_ref()),
        subagent: progress.subagent.as_ref().map(|s| pb::SubagentProgress {
            child_session_id: s.child_session_id.as_str().to_owned(),
            summary: s.summary.clone(),
            tool_name: String::new(),
            arguments_json: String::new(),
        }),
    }
}

fn usage_report_to_pb(report: &UsageReport) -> pb::UsageReported {
    pb::UsageReported {
        purpose: enums::usage_purpose_to_pb(report.purpose),
        call: Some(usage::usage_to_pb(&report.call)),
        session_totals: Some(usage::usage_to_pb(&report.session_totals)),
        context_used_tokens: report.context_used_tokens.map(int64),
        context_window_tokens: report.context_window_tokens.map(int64),
        cost: report.cost.as_ref().map(usage::cost_to_pb),
        cost_totals: report.cost_totals.as_ref().map(usage::cost_to_pb),
    }
}

fn list_change_to_pb(change: &ListChange) -> pb::ListChanged {
    pb::ListChanged {
        extension_name: change.extension_name.clone(),
        list_kind: enums::word_to_pb(LIST, &change.list, pb::ListKind::from_str_name),
        added: change.added.clone(),
        removed: change.removed.clone(),
        changed: change.changed.clone(),
        generation: int64(change.generation),
    }
}

fn history_change_to_pb(change: &HistoryChange) -> pb::HistoryChanged {
    let visibility = |user, model| Some(pb::Visibility { user, model });
    pb::HistoryChanged {
        kind: enums::history_change_to_pb(change.kind),
        visibility_changes: change
            .visibility_changes
            .iter()
            .map(|v| pb::VisibilityChange {
                item_id: v.item_id.as_str().to_owned(),
                visibility: visibility(v.user, v.model),
            })
            .collect(),
        hidden_from_sequence: change.hidden_from_sequence,
        summary_item_id: or_empty(change.summary_item_id.as_ref()),
    }
}

fn origin_to_pb(origin: &SessionOrigin) -> pb::session_created::Origin {
    use pb::session_created::Origin;
    match origin {
        SessionOrigin::New => Origin::NewSession(pb::NewOrigin {}),
        SessionOrigin::Forked { session_id, through_sequence } => Origin::Forked(pb::ForkOrigin {
            session_id: session_id.as_str().to_owned(),
            through_sequence: *through_sequence,
        }),
        SessionOrigin::Imported { format, original_id } => Origin::Imported(pb::ImportOrigin {
            format: format.clone(),
            original_id: or_empty(original_id.as_ref()),
        }),
        SessionOrigin::Delegated(parent) => Origin::Delegated(pb::DelegateOrigin {
            session_id: parent.session_id.as_str().to_owned(),
            item_id: or_empty(parent.item_id.as_ref()),
        }),
    }
}
