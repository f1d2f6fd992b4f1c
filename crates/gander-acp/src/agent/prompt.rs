//! Prompts: a turn begins, is steered or cancelled, and its prompt is answered when the turn has ended.

use std::{sync::Arc, time::Duration};

use agent_client_protocol_schema::v1 as acp;
use gander_client::ClientError;
use gander_proto::v1::{
    CancelTurnRequest, ErrorReason, GetTurnRequest, InterruptCause, Part, StartTurnRequest, SteerTurnRequest,
    StopReason, Turn, TurnInput, TurnState, WhenBusy,
};
use serde_json::{Value, json};

use super::{
    Inner, Prompt,
    dispatch::{Handled, Outcome, required},
};
use crate::{
    rpc::{self, RpcError},
    translate::content,
};

/// A turn ends within a second of its cancel. If the daemon cannot be reached its prompt is not left open for ever.
pub(super) const CANCEL_DEADLINE: Duration = Duration::from_secs(5);
/// Attempts to start a turn over a connection that breaks. The turn's id keeps it from running twice.
const ATTEMPTS: u32 = 3;

/// How long a prompt waits until it is known whether this connection is the session's host.
const HOST_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

impl Inner {
    pub(super) async fn prompt(self: &Arc<Self>, id: &Value, params: &Value) -> Outcome {
        let outcome = Box::pin(self.start_prompt(id, params)).await;
        let Err(error) = outcome else { return Ok(Handled::Later) };
        // A prompt that was cancelled before it began is cancelled, whatever else went wrong.
        match self.take_prompt(|prompt| prompt.id == *id) {
            Some(prompt) if prompt.cancelled => Ok(Handled::Reply(json!({"stopReason": "cancelled"}))),
            Some(_) => Err(error),
            None if params.get("sessionId").is_some_and(Value::is_string) => Ok(Handled::Later),
            None => Err(error),
        }
    }

    async fn start_prompt(self: &Arc<Self>, id: &Value, params: &Value) -> Result<(), RpcError> {
        let session_id = required(params, "sessionId")?;
        let parts = self.prompt_parts(session_id, params).await?;
        let session = self.attach_if_needed(session_id).await?;
        if self.caps().is_host() {
            // Or the first tool would read from the disk what the editor has not saved.
            let _ = tokio::time::timeout(HOST_WAIT, session.host_settled.cancelled()).await;
        }
        let turn_id = {
            let mut state = self.state();
            let prompt = state.prompts.iter_mut().find(|prompt| prompt.id == *id);
            let prompt = prompt.filter(|prompt| !prompt.cancelled).ok_or_else(RpcError::cancelled)?;
            prompt.asked_for = true;
            prompt.turn_id.clone()
        };
        let message_id = uuid::Uuid::now_v7().to_string();
        session.dialect().expect_own(&message_id);
        session.host_wanted.notify_one();
        // Behind a turn that is being cancelled the next one may wait; behind another one it may not.
        let behind_cancelled = {
            let state = self.state();
            let other = |prompt: &&Prompt| prompt.session_id == session_id && prompt.id != *id;
            state.prompts.iter().filter(other).any(|prompt| prompt.cancelled)
        };
        let request = StartTurnRequest {
            session_id: session_id.to_owned(),
            turn_id: turn_id.clone(),
            input: Some(TurnInput { parts, message_id, client_create_time: None }),
            when_busy: if behind_cancelled { WhenBusy::Queue } else { WhenBusy::Reject } as i32,
            ..StartTurnRequest::default()
        };
        self.start_turn(request).await.map_err(|error| RpcError::of(&error, Some(session_id)))?;
        let cancelled = {
            let mut state = self.state();
            let prompt = state.prompts.iter_mut().find(|prompt| prompt.turn_id == turn_id);
            prompt.is_some_and(|prompt| {
                prompt.started = true;
                prompt.cancelled
            })
        };
        // Who waits for requests to be done with waits no longer for this one.
        self.prompt_answered.notify_waiters();
        self.prompt_answered.notify_one();
        if cancelled {
            self.cancel_turn(session_id, &turn_id).await;
        }
        Ok(())
    }

    async fn start_turn(&self, request: StartTurnRequest) -> Result<(), ClientError> {
        let mut attempt = 1;
        loop {
            match self.client.turns().start_turn(request.clone()).await.map_err(ClientError::from) {
                Ok(_) => return Ok(()),
                Err(error) if error.is_transport_loss() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The prompt's blocks. One that cannot be used is told and left out.
    pub(super) async fn prompt_parts(&self, session_id: &str, params: &Value) -> Result<Vec<Part>, RpcError> {
        let blocks = match params.get("prompt") {
            Some(Value::Array(blocks)) => blocks.as_slice(),
            // A bare text is what people write by hand.
            Some(Value::String(text)) => &[json!({"type": "text", "text": text})],
            _ => return Err(RpcError::params("prompt must be a list of content blocks")),
        };
        let mut parts = Vec::new();
        let mut problems = Vec::new();
        for block in blocks {
            match content::part(block) {
                Ok(part) => parts.push(part),
                Err(problem) => problems.push(problem.text()),
            }
        }
        if parts.is_empty() {
            let text = problems.first().map_or("the prompt is empty", String::as_str);
            return Err(RpcError::params(text));
        }
        for problem in problems {
            tracing::debug!(problem, "prompt");
            if self.caps().notices {
                let notice = acp::Notice::new(acp::NoticeSeverity::Warning, problem);
                self.queue.update(session_id, acp::SessionUpdate::Notice(notice)).await;
            }
        }
        Ok(parts)
    }

    fn take_prompt(&self, wanted: impl Fn(&Prompt) -> bool) -> Option<Prompt> {
        let mut state = self.state();
        let at = state.prompts.iter().position(wanted)?;
        Some(state.prompts.swap_remove(at))
    }

    /// Answers the prompt of a turn that has ended. All of the turn's updates are in the queue.
    pub(super) async fn turn_ended(&self, turn: &Turn) {
        if let Some(prompt) = self.take_prompt(|prompt| prompt.turn_id == turn.turn_id) {
            let outcome = if prompt.cancelled { Ok(acp::StopReason::Cancelled) } else { stop_reason(turn) };
            self.answer_prompt(&prompt, outcome).await;
        }
    }

    async fn answer_prompt(&self, prompt: &Prompt, outcome: Result<acp::StopReason, RpcError>) {
        let outcome = outcome.and_then(|reason| super::dispatch::to_json(&acp::PromptResponse::new(reason)));
        self.queue.push(Some(&prompt.session_id), rpc::response(&prompt.id, outcome)).await;
        self.done(&prompt.id);
    }

    /// Nothing more is heard of the session: its prompts are answered with why.
    pub(super) async fn fail_prompts(&self, session_id: &str, error: &RpcError) {
        while let Some(prompt) = self.take_prompt(|prompt| prompt.session_id == session_id && prompt.started)
        {
            let cancelled = prompt.cancelled.then_some(acp::StopReason::Cancelled);
            self.answer_prompt(&prompt, cancelled.ok_or_else(|| error.clone())).await;
        }
    }

    /// Answers prompts whose turns ended while the session was not followed.
    pub(super) async fn settle_prompts(&self, session_id: &str) {
        let started: Vec<String> = {
            let state = self.state();
            let of_session = state.prompts.iter().filter(|p| p.session_id == session_id && p.started);
            of_session.map(|prompt| prompt.turn_id.clone()).collect()
        };
        for turn_id in started {
            let request = GetTurnRequest { session_id: session_id.to_owned(), turn_id };
            let Ok(response) = self.client.turns().get_turn(request).await else { continue };
            if let Some(turn) = response.into_inner().turn.filter(|turn| turn.end_time.is_some()) {
                self.turn_ended(&turn).await;
            }
        }
    }

    /// The client wants everything of this session to stop.
    pub(super) fn cancel_session(self: &Arc<Self>, session_id: &str) {
        let own = self.state().prompts.iter().any(|prompt| prompt.session_id == session_id);
        if own {
            self.cancel_prompts(|prompt| prompt.session_id == session_id);
            return;
        }
        // A turn that this client did not start, or started before it came back: Stop means that one too.
        let (inner, session_id) = (self.clone(), session_id.to_owned());
        self.spawn(async move {
            let Ok(session) = inner.session(&session_id).await else { return };
            let turn_id = session.active_turn_id;
            // A prompt that came right behind is not what was meant.
            let own = inner.state().prompts.iter().any(|prompt| prompt.turn_id == turn_id);
            if !turn_id.is_empty() && !own {
                inner.cancel_turn(&session_id, &turn_id).await;
            }
        });
    }

    pub(super) fn cancel_prompts(self: &Arc<Self>, wanted: impl Fn(&Prompt) -> bool) {
        let prompts: Vec<Prompt> = {
            let mut state = self.state();
            let chosen = state.prompts.iter_mut().filter(|prompt| wanted(prompt));
            chosen
                .map(|prompt| {
                    prompt.cancelled = true;
                    prompt.clone()
                })
                .collect()
        };
        for prompt in prompts {
            let inner = self.clone();
            self.spawn(async move {
                // One that is not started yet is cancelled by whoever starts it.
                let reached = !prompt.started || inner.cancel_turn(&prompt.session_id, &prompt.turn_id).await;
                // One that the daemon has not heard of has left nothing that must end first.
                if reached && prompt.asked_for {
                    tokio::time::sleep(CANCEL_DEADLINE).await;
                }
                if let Some(prompt) = inner.take_prompt(|open| open.turn_id == prompt.turn_id) {
                    inner.answer_prompt(&prompt, Ok(acp::StopReason::Cancelled)).await;
                }
            });
        }
    }

    /// Asks the daemon to cancel; false when it could not be asked.
    async fn cancel_turn(&self, session_id: &str, turn_id: &str) -> bool {
        let request = CancelTurnRequest {
            session_id: session_id.to_owned(),
            turn_id: turn_id.to_owned(),
            allow_missing: true,
            idempotency_key: String::new(),
        };
        match self.client.turns().cancel_turn(request).await {
            Ok(_) => true,
            Err(status) => {
                tracing::warn!(session_id, error = status.message(), "a turn could not be cancelled");
                false
            }
        }
    }

    /// Waits until the session has no open prompts of this client's, but not for ever.
    pub(super) async fn prompts_answered(&self, session_id: &str) {
        let waiting = async {
            loop {
                let answered = self.prompt_answered.notified();
                tokio::pin!(answered);
                answered.as_mut().enable();
                if !self.state().prompts.iter().any(|prompt| prompt.session_id == session_id) {
                    return;
                }
                answered.await;
            }
        };
        let _ = tokio::time::timeout(CANCEL_DEADLINE, waiting).await;
    }

    /// A message for the turn that runs.
    pub(super) async fn steer(self: &Arc<Self>, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let parts = self.prompt_parts(session_id, params).await?;
        let session = self.attach_if_needed(session_id).await?;
        let message_id = uuid::Uuid::now_v7().to_string();
        session.dialect().expect_own(&message_id);
        let input = TurnInput { parts, message_id, client_create_time: None };
        let expected = ["expectedTurnId", "expectedRunId"].iter().find_map(|key| params.get(*key)?.as_str());
        let request = SteerTurnRequest {
            session_id: session_id.to_owned(),
            expected_turn_id: expected.unwrap_or_default().to_owned(),
            input: Some(input.clone()),
            idempotency_key: uuid::Uuid::now_v7().to_string(),
        };
        let steered = self.client.turns().steer_turn(request).await.map_err(ClientError::from);
        let Err(error) = steered else { return Ok(Handled::Reply(json!({"outcome": "injected"}))) };
        if !error.is(ErrorReason::TurnNotRunning) {
            return Err(RpcError::of(&error, Some(session_id)));
        }
        let idle = params.pointer("/_meta/steering/idleBehavior").and_then(Value::as_str);
        if idle.is_none_or(|idle| !idle.to_ascii_lowercase().contains("start")) {
            return Ok(Handled::Reply(json!({"outcome": "promptRequired"})));
        }
        let request = StartTurnRequest {
            session_id: session_id.to_owned(),
            turn_id: uuid::Uuid::now_v7().to_string(),
            input: Some(input),
            ..StartTurnRequest::default()
        };
        self.start_turn(request).await.map_err(|error| RpcError::of(&error, Some(session_id)))?;
        Ok(Handled::Reply(json!({"outcome": "startedNewTurn"})))
    }
}

/// How a turn ended, in ACP's words.
pub(super) fn stop_reason(turn: &Turn) -> Result<acp::StopReason, RpcError> {
    match turn.state() {
        TurnState::Cancelled => Ok(acp::StopReason::Cancelled),
        TurnState::Failed => Err(match &turn.error {
            Some(error) => RpcError::of_detail(error),
            None => RpcError::internal("the turn failed"),
        }),
        TurnState::Interrupted => {
            let text = match turn.interrupt_cause() {
                InterruptCause::Restart => {
                    "the daemon was restarted while the turn ran; what was done is kept"
                }
                _ => "the daemon stopped while the turn ran; what was done is kept",
            };
            Err(RpcError::internal(text).with(json!({"reason": "INTERRUPTED", "retryable": true})))
        }
        _ => Ok(match turn.stop_reason() {
            StopReason::MaxOutputTokens => acp::StopReason::MaxTokens,
            StopReason::MaxModelCalls | StopReason::Budget => acp::StopReason::MaxTurnRequests,
            StopReason::Refusal => acp::StopReason::Refusal,
            StopReason::EndTurn | StopReason::Unspecified => acp::StopReason::EndTurn,
        }),
    }
}
