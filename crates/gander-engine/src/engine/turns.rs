//! Turns: start, steer, cancel, read.

use std::time::Duration;

use gander_domain::{
    ErrorDetail, ErrorReason, ItemId, MessageId, Part, Sequence, SessionId, Timestamp, Turn, TurnId,
    session::{Mode, ModelSelection},
    turn::{TurnLimits, TurnState},
};

use super::{
    Engine, Recorded, RequestContext,
    idempotency::{Keyed, Receipt},
};
use crate::{
    commands,
    content::offload_parts,
    services::store_error,
    session::{SteerRequest, TurnStart, turn_not_found},
    source::Mint,
    turn::TurnWork,
};

/// How long a turn waits for starting extensions where the request says nothing.
pub(super) const WAIT_FOR_EXTENSIONS: Duration = Duration::from_secs(10);

/// A validated request for a turn.
#[derive(Debug, Clone, Default)]
pub struct StartTurn {
    /// The idempotency key of the turn; minted when absent.
    pub turn_id: Option<TurnId>,
    /// Hex SHA-256 of the request without `turn_id`.
    pub request_hash: String,
    pub input: Vec<Part>,
    pub message_id: Option<MessageId>,
    pub client_create_time: Option<Timestamp>,
    pub queue_when_busy: bool,
    pub limits: TurnLimits,
    pub mode: Option<Mode>,
    pub model: Option<ModelSelection>,
    pub wait_for_extensions: Option<Duration>,
    /// JSON Schema that the final answer must match; it is then one text part with JSON.
    pub response_schema_json: Option<String>,
}

#[derive(Debug, Clone)]
pub struct StartedTurn {
    pub turn: Turn,
    /// Of its `TurnStarted` or `TurnQueued`.
    pub sequence: Sequence,
    /// The same request had started it before.
    pub existed: bool,
    /// From 1, while it waits.
    pub queue_position: Option<u32>,
}

/// Input for a running turn.
#[derive(Debug, Clone, Default)]
pub struct SteerTurn {
    pub expected_turn_id: Option<TurnId>,
    pub input: Vec<Part>,
    pub message_id: Option<MessageId>,
    pub client_create_time: Option<Timestamp>,
}

/// Which turns to cancel.
#[derive(Debug, Clone, Default)]
pub struct CancelRequest {
    /// `None`: the running one and all queued ones.
    pub turn_id: Option<TurnId>,
    pub allow_missing: bool,
}

impl Engine {
    /// Starts a turn, or finds the one that the same request started before.
    pub async fn start_turn(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        mut request: StartTurn,
    ) -> Result<StartedTurn, ErrorDetail> {
        self.refuse_when_draining()?;
        let turn_id = request.turn_id.clone().unwrap_or_else(|| self.services.source.turn_id());
        let session = self.session(session_id).await?;
        if let Some(known) = self.known_turn(session_id, &turn_id, &request.request_hash).await? {
            return Ok(known);
        }
        self.refuse_when_full()?;
        let wanted = request.model.as_ref().or(session.model.as_ref());
        if let Some(model) = &request.model {
            self.check_model_policy(model)?;
        }
        let mut model = self.services.resolve_model(wanted, session.demo_allowed).await?;
        crate::recipes::apply_to_turn(&session, &mut model.selection, &mut request)?;
        let agent = model.provider.agent().is_some();
        let plan = if agent {
            Some(self.extension_plan(session_id).await?)
        } else {
            self.extension_plan_if_inactive(session_id).await?
        };
        let work = match commands::work(&request.input, &self.services.recipe_commands()) {
            // An agent keeps its context itself, and has a command for it. A cleared conversation is one that the agent
            // must forget: it gets a new session then.
            TurnWork::Compact { .. } if agent => TurnWork::Model,
            work => work,
        };
        let (input, contents) = offload_parts(request.input)?;
        let start = TurnStart {
            turn_id: turn_id.clone(),
            request_hash: request.request_hash,
            input,
            message_id: request.message_id,
            client_create_time: request.client_create_time,
            contents,
            queue_when_busy: request.queue_when_busy,
            limits: request.limits,
            mode: request.mode,
            model,
            wait_for_extensions: request.wait_for_extensions.unwrap_or(WAIT_FOR_EXTENSIONS),
            extensions: plan,
            work,
            response_schema_json: request.response_schema_json,
            actor: context.actor.clone(),
        };
        let done = self
            .edit(session_id, move |core| {
                let (turn, existed) = core.start_turn(start)?;
                let queue_position = core.queue_position(&turn.turn_id);
                Ok((turn, existed, queue_position))
            })
            .await?;
        let (turn, existed, queue_position) = done.value;
        let sequence = turn.first_sequence;
        Ok(StartedTurn { turn, sequence, existed, queue_position })
    }

    async fn known_turn(
        &self,
        session_id: &SessionId,
        turn_id: &TurnId,
        request_hash: &str,
    ) -> Result<Option<StartedTurn>, ErrorDetail> {
        let Some(handle) = self.loaded(session_id).await else { return Ok(None) };
        let (id, hash) = (turn_id.clone(), request_hash.to_owned());
        let read = handle
            .edit(move |core| {
                let known = core.state.turn(&id).filter(|t| t.request_hash == hash).cloned();
                Ok(known.map(|turn| (turn, core.queue_position(&id))))
            })
            .await;
        let found = match read {
            Ok(Ok(committed)) => committed.value,
            _ => None,
        };
        Ok(found.map(|(turn, queue_position)| StartedTurn {
            sequence: turn.first_sequence,
            turn,
            existed: true,
            queue_position,
        }))
    }

    fn refuse_when_full(&self) -> Result<(), ErrorDetail> {
        if self.services.store.is_full() {
            return Err(store_error(&gander_store::StoreError::Full));
        }
        Ok(())
    }

    /// Adds input to the running turn.
    pub async fn steer_turn(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        request: SteerTurn,
    ) -> Result<Recorded<(TurnId, ItemId)>, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Fresh(recorder) => recorder,
            Keyed::Replay(receipt) => {
                let lost = |_| ErrorDetail::internal("a stored receipt names no item");
                let (turn, item) = receipt.id.split_once(' ').unwrap_or_default();
                let value = (TurnId::new(turn).map_err(lost)?, ItemId::new(item).map_err(lost)?);
                return Ok(Recorded { value, sequence: receipt.sequence });
            }
        };
        if request.input.is_empty() {
            return Err(ErrorDetail::invalid("input.parts", "must not be empty"));
        }
        let (input, contents) = offload_parts(request.input)?;
        let steer = SteerRequest {
            input,
            message_id: request.message_id,
            client_create_time: request.client_create_time,
            contents,
            expected_turn_id: request.expected_turn_id,
            actor: context.actor.clone(),
        };
        let id = session_id.clone();
        let done = self
            .edit(session_id, move |core| {
                let (turn, item) = core.steer(steer)?;
                let receipt = Receipt { sequence: core.state.last_sequence(), id: format!("{turn} {item}") };
                let now = core.now();
                core.record(recorder.record(Some(&id), &receipt, now));
                Ok((turn, item))
            })
            .await?;
        Ok(Recorded { value: done.value, sequence: done.sequence })
    }

    /// Cancels turns. The end of a running one follows within a second.
    pub async fn cancel_turn(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        request: CancelRequest,
    ) -> Result<Recorded<Option<Turn>>, ErrorDetail> {
        let by = context.actor.clone();
        let done = self
            .edit(session_id, move |core| {
                if let Some(turn_id) = &request.turn_id {
                    return match core.cancel_turn(turn_id, by) {
                        Ok(turn) => Ok(Some(turn)),
                        Err(e) if request.allow_missing && e.reason == ErrorReason::TurnNotFound => Ok(None),
                        Err(e) => Err(e),
                    };
                }
                let queued: Vec<_> = core.state.queued_turns().map(|t| t.turn_id.clone()).collect();
                let active = core.state.session.active_turn_id.clone();
                if active.is_none() && queued.is_empty() && !request.allow_missing {
                    return Err(ErrorDetail::new(
                        ErrorReason::TurnNotRunning,
                        "no turn runs in this session",
                    ));
                }
                for turn_id in queued {
                    core.cancel_turn(&turn_id, by.clone())?;
                }
                active.map(|turn_id| core.cancel_turn(&turn_id, by.clone())).transpose()
            })
            .await?;
        Ok(Recorded { value: done.value, sequence: done.sequence })
    }

    /// A turn with the parts of its last agent message.
    pub async fn get_turn(
        &self,
        session_id: &SessionId,
        turn_id: &TurnId,
    ) -> Result<(Turn, Option<u32>, Vec<Part>), ErrorDetail> {
        let id = turn_id.clone();
        let read = self
            .edit(session_id, move |core| {
                let turn = core.state.turn(&id).cloned().ok_or_else(|| turn_not_found(&id))?;
                let last = core.state.items.iter().rev().find_map(|entry| match &entry.item.body {
                    gander_domain::ItemBody::AgentMessage(m) if entry.item.turn_id.as_ref() == Some(&id) => {
                        Some(m.parts.clone())
                    }
                    _ => None,
                });
                Ok((turn, core.queue_position(&id), last.unwrap_or_default()))
            })
            .await?;
        Ok(read.value)
    }

    /// All turns, oldest first.
    pub async fn list_turns(
        &self,
        session_id: &SessionId,
        states: Vec<TurnState>,
    ) -> Result<Vec<Turn>, ErrorDetail> {
        let read = self
            .edit(session_id, move |core| {
                let wanted = |t: &&Turn| states.is_empty() || states.contains(&t.state);
                Ok(core.state.turns.iter().filter(wanted).cloned().collect::<Vec<_>>())
            })
            .await?;
        Ok(read.value)
    }
}
