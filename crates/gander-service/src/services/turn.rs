//! TurnService.

use gander_domain::{ErrorDetail, SessionId, Turn, TurnId, turn::TurnState};
use gander_engine::{CancelRequest, StartTurn, SteerTurn};
use gander_proto::v1::{self as pb, turn_service_server::TurnService};
use tonic::{Request, Response, Status};

use super::filters;
use crate::{
    Api, canonical,
    context::{actor, incoming},
    convert::{At, Violations, content, enums, session, turn},
    error::IntoStatus as _,
    paging::{cut_page, page_size},
    watch::{Answers, Watch},
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl TurnService for Api {
    async fn start_turn(&self, request: Request<pb::StartTurnRequest>) -> Answer<pb::StartTurnResponse> {
        let context = gander_engine::RequestContext { actor: actor(&request), idempotency: None };
        let (id, start) = start_turn(request.into_inner()).or_status()?;
        let session_id = id.clone();
        let started = self.run(|engine| async move { engine.start_turn(&context, &id, start).await }).await?;
        Ok(Response::new(pb::StartTurnResponse {
            turn: Some(turn::turn_to_pb(&started.turn, &session_id, started.queue_position)),
            sequence: started.sequence,
            already_existed: started.existed,
        }))
    }

    type RunTurnStream = Answers<pb::RunTurnResponse>;

    async fn run_turn(&self, request: Request<pb::RunTurnRequest>) -> Answer<Self::RunTurnStream> {
        let context = gander_engine::RequestContext { actor: actor(&request), idempotency: None };
        let request = request.into_inner();
        let (exclude_deltas, after) = (request.exclude_deltas, request.after_sequence);
        if after.is_some_and(|s| s < 0) {
            return Err(ErrorDetail::invalid("after_sequence", "must not be negative")).or_status();
        }
        let (session_id, start) = start_turn(start_of(request)).or_status()?;
        // Before the turn is started: a client that cannot watch it should not have started it.
        let permit = self.open_stream().or_status()?;
        let id = session_id.clone();
        let started = self.run(|engine| async move { engine.start_turn(&context, &id, start).await }).await?;
        let after = after.unwrap_or(started.sequence - 1);
        let cursor = self.engine.watch(&session_id, Some(after)).await.or_status()?;
        let ended = started.turn.state.is_terminal() && started.turn.last_sequence <= after;
        let watch = Watch {
            cursor,
            session_id,
            exclude_deltas,
            until: Some(started.turn.turn_id),
            through: ended.then_some(started.turn.last_sequence),
            only_turn: true,
            checkpoint_interval: self.options.checkpoint_interval,
            _permit: permit,
        };
        Ok(Response::new(watch.stream(|event| pb::RunTurnResponse { event: Some(event) })))
    }

    async fn steer_turn(&self, request: Request<pb::SteerTurnRequest>) -> Answer<pb::SteerTurnResponse> {
        let (context, request) = incoming(request)?;
        let (id, steer) = steer_turn(request).or_status()?;
        let done = self.run(|engine| async move { engine.steer_turn(&context, &id, steer).await }).await?;
        let (turn_id, item_id) = done.value;
        Ok(Response::new(pb::SteerTurnResponse {
            turn_id: turn_id.as_str().to_owned(),
            sequence: done.sequence,
            item_id: item_id.as_str().to_owned(),
        }))
    }

    async fn cancel_turn(&self, request: Request<pb::CancelTurnRequest>) -> Answer<pb::CancelTurnResponse> {
        let (context, request) = incoming(request)?;
        let mut v = Violations::default();
        let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
        let turn_id = v.optional_id(&At::root("turn_id"), &request.turn_id, |t| TurnId::new(t));
        let session_id = v.finish(id).or_status()?;
        let cancel = CancelRequest { turn_id, allow_missing: request.allow_missing };
        let id = session_id.clone();
        let done = self.run(|engine| async move { engine.cancel_turn(&context, &id, cancel).await }).await?;
        let ended = done.value.as_ref().filter(|t| t.state.is_terminal()).map(|t| t.last_sequence);
        Ok(Response::new(pb::CancelTurnResponse {
            turn: done.value.as_ref().map(|t| turn::turn_to_pb(t, &session_id, None)),
            sequence: ended.filter(|s| *s > 0).unwrap_or(done.sequence),
        }))
    }

    async fn get_turn(&self, request: Request<pb::GetTurnRequest>) -> Answer<pb::GetTurnResponse> {
        let request = request.into_inner();
        let mut v = Violations::default();
        let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
        let turn_id = v.id(&At::root("turn_id"), &request.turn_id, |t| TurnId::new(t));
        let (id, turn_id) = v.finish(id.zip(turn_id)).or_status()?;
        let (found, position, parts) = self.engine.get_turn(&id, &turn_id).await.or_status()?;
        let parts = if found.state.is_terminal() { content::parts_to_pb(&parts) } else { Vec::new() };
        Ok(Response::new(pb::GetTurnResponse {
            turn: Some(turn::turn_to_pb(&found, &id, position)),
            final_parts: parts,
        }))
    }

    async fn list_turns(&self, request: Request<pb::ListTurnsRequest>) -> Answer<pb::ListTurnsResponse> {
        list_turns(self, request.into_inner()).await.or_status().map(Response::new)
    }
}

/// The start in a `RunTurn`, so that both RPCs with the same content are the same request.
fn start_of(request: pb::RunTurnRequest) -> pb::StartTurnRequest {
    pb::StartTurnRequest {
        session_id: request.session_id,
        turn_id: request.turn_id,
        input: request.input,
        when_busy: request.when_busy,
        limits: request.limits,
        mode: request.mode,
        model: request.model,
        wait_for_extensions: request.wait_for_extensions,
        response_schema_json: request.response_schema_json,
    }
}

fn start_turn(mut request: pb::StartTurnRequest) -> Result<(SessionId, StartTurn), ErrorDetail> {
    let turn_id = std::mem::take(&mut request.turn_id);
    let request_hash = canonical::request_hash("StartTurnRequest", &request);
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let turn_id = v.optional_id(&At::root("turn_id"), &turn_id, |t| TurnId::new(t));
    let queue_when_busy = turn::queue_when_busy(request.when_busy, &mut v);
    let input = turn::input_from_pb(request.input, &At::root("input"), &mut v);
    let schema =
        super::recipe::optional_json(&At::root("response_schema_json"), request.response_schema_json, &mut v);
    let mode = request.mode.and_then(|m| v.required_enum(&At::root("mode"), m, enums::mode_from_pb));
    let start = StartTurn {
        turn_id,
        request_hash,
        input: input.parts,
        message_id: input.message_id,
        client_create_time: input.client_create_time,
        queue_when_busy,
        limits: turn::limits_from_pb(request.limits, &At::root("limits"), &mut v),
        mode,
        model: request.model.map(|m| session::model_from_pb(m, &At::root("model"), &mut v)),
        wait_for_extensions: v.duration(&At::root("wait_for_extensions"), request.wait_for_extensions),
        response_schema_json: schema,
    };
    let id = v.finish(id)?;
    Ok((id, start))
}

fn steer_turn(request: pb::SteerTurnRequest) -> Result<(SessionId, SteerTurn), ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let expected = &At::root("expected_turn_id");
    let expected_turn_id = v.optional_id(expected, &request.expected_turn_id, |t| TurnId::new(t));
    let input = turn::input_from_pb(request.input, &At::root("input"), &mut v);
    if input.parts.is_empty() {
        v.add(&At::root("input").field("parts"), "must not be empty: a steering message says something");
    }
    let steer = SteerTurn {
        expected_turn_id,
        input: input.parts,
        message_id: input.message_id,
        client_create_time: input.client_create_time,
    };
    let id = v.finish(id)?;
    Ok((id, steer))
}

async fn list_turns(
    api: &Api,
    mut request: pb::ListTurnsRequest,
) -> Result<pb::ListTurnsResponse, ErrorDetail> {
    let size = page_size(request.page_size, 50, 200)?;
    let token = std::mem::take(&mut request.page_token);
    request.page_size = 0;
    let filters = filters("ListTurns", &request);
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let states = request
        .states
        .iter()
        .enumerate()
        .filter_map(|(i, s)| v.required_enum(&At::root_element("states", i), *s, enums::turn_state_from_pb))
        .collect();
    let id = v.finish(id)?;
    let turns = numbered(api.engine.list_turns(&id, states).await?);
    let key = |(t, _): &(Turn, _)| t.turn_id.as_str().to_owned();
    let encode = |(t, position): &(Turn, _)| turn::turn_to_pb(t, &id, *position);
    let (turns, next_page_token) = cut_page(&turns, key, encode, &filters, &token, size)?;
    Ok(pb::ListTurnsResponse { turns, next_page_token })
}

/// Newest first, queued ones with their place. The list holds all queued turns or none.
fn numbered(turns: Vec<Turn>) -> Vec<(Turn, Option<u32>)> {
    let mut place = 0;
    let mut out: Vec<_> = turns
        .into_iter()
        .map(|turn| {
            let queued = turn.state == TurnState::Queued;
            place += u32::from(queued);
            (turn, queued.then_some(place))
        })
        .collect();
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use gander_domain::ErrorReason;

    use super::*;

    fn start(session_id: &str, turn_id: &str, text: &str) -> pb::StartTurnRequest {
        let part = pb::Part { body: Some(pb::part::Body::Text(text.into())), ..Default::default() };
        pb::StartTurnRequest {
            session_id: session_id.into(),
            turn_id: turn_id.into(),
            input: Some(pb::TurnInput { parts: vec![part], ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn the_hash_covers_the_content_and_not_the_id() {
        let hash = |r| start_turn(r).unwrap().1.request_hash;
        assert_eq!(hash(start("s", "a", "hi")), hash(start("s", "b", "hi")));
        assert_ne!(hash(start("s", "a", "hi")), hash(start("s", "a", "ho")));
        let run = pb::RunTurnRequest {
            session_id: "s".into(),
            turn_id: "a".into(),
            input: start("s", "a", "hi").input,
            exclude_deltas: true,
            after_sequence: Some(7),
            ..Default::default()
        };
        assert_eq!(hash(start_of(run)), hash(start("s", "a", "hi")), "both RPCs start the same turn");
    }

    #[test]
    fn a_bad_start_names_everything() {
        let bad = pb::StartTurnRequest {
            when_busy: 9,
            mode: Some(77),
            limits: Some(pb::TurnLimits { max_tokens: Some(0), ..Default::default() }),
            response_schema_json: "[".into(),
            ..start("", "a b", "hi")
        };
        let error = start_turn(bad).unwrap_err();
        assert_eq!(error.reason, ErrorReason::InvalidField);
        let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            ["session_id", "turn_id", "when_busy", "response_schema_json", "mode", "limits.max_tokens"]
        );
    }
}
