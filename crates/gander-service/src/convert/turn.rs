//! Turns, their input and limits.

use gander_domain::{
    MessageId, Part, SessionId, Timestamp, Turn,
    turn::{TurnLimits, TurnState},
};
use gander_proto::v1 as pb;

use super::{
    At, Violations, actor_to_pb, content, enums, error_to_pb, int32, int64, millis, millis_to_pb, session,
    time_to_pb, usage,
};

/// A turn of the session `session_id`; `queue_position` counts from 1 and is for queued turns only.
pub(crate) fn turn_to_pb(turn: &Turn, session_id: &SessionId, queue_position: Option<u32>) -> pb::Turn {
    pb::Turn {
        turn_id: turn.turn_id.as_str().to_owned(),
        session_id: session_id.as_str().to_owned(),
        state: enums::turn_state_to_pb(turn.state),
        stop_reason: turn.stop_reason.map_or(0, enums::stop_reason_to_pb),
        error: turn.error.as_ref().map(error_to_pb),
        queue_position: queue_position.filter(|_| turn.state == TurnState::Queued).map(int32),
        limits: Some(limits_to_pb(&turn.limits)),
        model: turn.model.as_ref().map(session::model_to_pb),
        usage: Some(usage::usage_to_pb(&turn.usage)),
        started_by: turn.started_by.as_ref().map(actor_to_pb),
        cancelled_by: turn.cancelled_by.as_ref().map(actor_to_pb),
        interrupt_cause: turn.interrupted_by.map_or(0, enums::interrupt_cause_to_pb),
        create_time: Some(time_to_pb(turn.create_time)),
        start_time: turn.start_time.map(time_to_pb),
        end_time: turn.end_time.map(time_to_pb),
        first_sequence: turn.first_sequence,
        last_sequence: turn.last_sequence,
        model_call_count: int32(turn.model_calls),
    }
}

pub(crate) fn limits_to_pb(limits: &TurnLimits) -> pb::TurnLimits {
    pb::TurnLimits {
        max_model_calls: limits.max_model_calls.map(int32),
        max_tokens: limits.max_tokens.map(int64),
        max_cost_micros: limits.max_cost_micros,
        max_duration: limits.max_duration_ms.map(millis_to_pb),
    }
}

pub(crate) fn limits_from_pb(limits: Option<pb::TurnLimits>, at: &At<'_>, v: &mut Violations) -> TurnLimits {
    let Some(limits) = limits else { return TurnLimits::default() };
    let max_duration_ms = v.duration(&at.field("max_duration"), limits.max_duration).map(millis);
    if max_duration_ms == Some(0) {
        v.add(&at.field("max_duration"), "must be at least one millisecond; leave it unset for the default");
    }
    TurnLimits {
        max_model_calls: v.positive(&at.field("max_model_calls"), limits.max_model_calls.map(i64::from)),
        max_tokens: v.positive(&at.field("max_tokens"), limits.max_tokens),
        max_cost_micros: v.positive(&at.field("max_cost_micros"), limits.max_cost_micros),
        max_duration_ms,
    }
}

/// What a turn tells the model. No parts: continue.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Input {
    pub(crate) parts: Vec<Part>,
    pub(crate) message_id: Option<MessageId>,
    pub(crate) client_create_time: Option<Timestamp>,
}

pub(crate) fn input_from_pb(input: Option<pb::TurnInput>, at: &At<'_>, v: &mut Violations) -> Input {
    let Some(input) = input else { return Input::default() };
    Input {
        parts: content::parts_from_pb(input.parts, at, "parts", v),
        message_id: v.optional_id(&at.field("message_id"), &input.message_id, |t| MessageId::new(t)),
        client_create_time: v.time(&at.field("client_create_time"), input.client_create_time),
    }
}

/// Whether to wait behind a running turn.
pub(crate) fn queue_when_busy(when_busy: i32, v: &mut Violations) -> bool {
    match pb::WhenBusy::try_from(when_busy) {
        Ok(pb::WhenBusy::Unspecified | pb::WhenBusy::Reject) => false,
        Ok(pb::WhenBusy::Queue) => true,
        Err(_) => {
            v.add(&At::root("when_busy"), "must be REJECT or QUEUE");
            false
        }
    }
}
