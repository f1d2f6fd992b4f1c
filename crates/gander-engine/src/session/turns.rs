//! The actor's side of turns: start, queue, steer, cancel, end. The work itself is done by a turn task.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gander_domain::{
    Actor, ErrorDetail, ErrorReason, Item, ItemBody, ItemId, MessageId, Part, Payload, Sequence, Timestamp,
    Turn, TurnId, Usage,
    event::UpdateCause,
    item::{ItemState, Origin, UserMessage, Visibility},
    session::{Mode, TitleSource},
    turn::{InterruptCause, TurnLimits, TurnOutcome, TurnState},
};
use gander_store::NewContent;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::core::{Core, ExtensionPlan};
use crate::{
    models::ResolvedModel,
    source::Mint,
    turn::{Spent, TurnTask, TurnTaskStart, TurnWork},
};

/// Turns waiting in one session.
const MAX_QUEUED: usize = 16;

/// A validated request for a turn.
pub(crate) struct TurnStart {
    pub turn_id: TurnId,
    pub request_hash: String,
    /// Empty = continue with the conversation as it is.
    pub input: Vec<Part>,
    pub message_id: Option<MessageId>,
    pub client_create_time: Option<Timestamp>,
    pub contents: Vec<NewContent>,
    pub queue_when_busy: bool,
    pub limits: TurnLimits,
    pub mode: Option<Mode>,
    pub model: ResolvedModel,
    pub wait_for_extensions: Duration,
    pub extensions: Option<ExtensionPlan>,
    pub work: TurnWork,
    pub response_schema_json: Option<String>,
    pub actor: Actor,
}

/// Input for a running turn.
pub(crate) struct SteerRequest {
    pub input: Vec<Part>,
    pub message_id: Option<MessageId>,
    pub client_create_time: Option<Timestamp>,
    pub contents: Vec<NewContent>,
    pub expected_turn_id: Option<TurnId>,
    pub actor: Actor,
}

pub(super) struct QueuedTurn {
    start: TurnStart,
}

pub(super) struct RunningTurn {
    pub(super) turn_id: TurnId,
    cancel: CancellationToken,
    task: Option<AbortHandle>,
    model: ResolvedModel,
    /// What it used, its extensions' model calls included.
    pub(super) spent: Arc<Spent>,
    /// When a cancelled turn is ended without waiting for its task any longer.
    pub(super) abort_at: Option<Instant>,
    interrupt: Option<InterruptCause>,
}

impl Core {
    pub(crate) fn is_running(&self, turn_id: Option<&TurnId>) -> bool {
        self.running.as_ref().map(|r| &r.turn_id) == turn_id
    }

    /// Starts or queues a turn. `true`: the turn existed already with the same request.
    pub(crate) fn start_turn(&mut self, mut start: TurnStart) -> Result<(Turn, bool), ErrorDetail> {
        let turn_id = start.turn_id.clone();
        if let Some(known) = self.state.turn(&turn_id) {
            if known.request_hash == start.request_hash {
                return Ok((known.clone(), true));
            }
            return Err(ErrorDetail::new(
                ErrorReason::TurnIdReused,
                format!("turn_id {turn_id} was used with another request; choose a new one"),
            )
            .with("turnId", &turn_id));
        }
        if self.state.session.archive_time.is_some() {
            return Err(ErrorDetail::new(
                ErrorReason::SessionArchived,
                "the session is archived; clear archive_time with UpdateSession to go on",
            ));
        }
        if start.input.is_empty() && self.state.model_items().is_empty() {
            return Err(ErrorDetail::invalid(
                "input.parts",
                "must not be empty: there is nothing to continue",
            ));
        }
        self.act_as(start.actor.clone());
        if start.model.provider.agent().is_none() {
            if let Some(plan) = start.extensions.take() {
                self.ensure_extensions(plan);
            }
        } else if self.services.mcp.door_command().is_some()
            && let Some(plan) = start.extensions.clone()
        {
            // Agents are given a door to them; without one an agent starts them itself.
            self.ensure_extensions(plan);
        }
        if let Some(active) = self.running.as_ref().map(|r| r.turn_id.clone()) {
            return self.queue_turn(start, &active);
        }
        let turn = new_turn(&start, self.now());
        self.begin(turn, start);
        Ok((self.state.turn(&turn_id).cloned().ok_or_else(lost_turn)?, false))
    }

    fn queue_turn(&mut self, start: TurnStart, active: &TurnId) -> Result<(Turn, bool), ErrorDetail> {
        if !start.queue_when_busy {
            return Err(ErrorDetail::new(
                ErrorReason::TurnAlreadyRunning,
                format!(
                    "turn {active} runs; wait for its end, cancel it, steer it, or ask for when_busy QUEUE"
                ),
            )
            .with("activeTurnId", active));
        }
        if self.queued.len() >= MAX_QUEUED {
            return Err(ErrorDetail::new(
                ErrorReason::Overloaded,
                format!("{MAX_QUEUED} turns wait in this session already; try again when some have ended"),
            )
            .retry_after(Duration::from_secs(5)));
        }
        let mut turn = new_turn(&start, self.now());
        turn.state = TurnState::Queued;
        let turn_id = turn.turn_id.clone();
        self.emit(Some(turn_id.clone()), Payload::TurnQueued { turn: Box::new(turn) });
        self.queued.push_back(QueuedTurn { start });
        Ok((self.state.turn(&turn_id).cloned().ok_or_else(lost_turn)?, false))
    }

    /// Position of a queued turn, from 1.
    pub(crate) fn queue_position(&self, turn_id: &TurnId) -> Option<u32> {
        self.queued.iter().position(|q| q.start.turn_id == *turn_id).and_then(|i| u32::try_from(i + 1).ok())
    }

    /// `TurnStarted`, the input, and the task that does the work, in this order.
    fn begin(&mut self, mut turn: Turn, mut start: TurnStart) {
        let turn_id = turn.turn_id.clone();
        turn.state = TurnState::Running;
        turn.start_time = Some(self.now());
        turn.first_sequence = self.state.last_sequence() + 1;
        self.act_as(start.actor.clone());
        self.emit(Some(turn_id.clone()), Payload::TurnStarted { turn: Box::new(turn) });
        if !start.input.is_empty() {
            let contents = std::mem::take(&mut start.contents);
            let message = NewMessage {
                parts: std::mem::take(&mut start.input),
                message_id: start.message_id.take(),
                client_create_time: start.client_create_time,
                steered: false,
                visibility: Visibility { user: true, model: !start.work.hides_input() },
                contents,
            };
            self.append_user_message(&turn_id, message);
        }
        let cancel = CancellationToken::new();
        self.running = Some(RunningTurn {
            turn_id: turn_id.clone(),
            cancel: cancel.clone(),
            task: None,
            model: start.model.clone(),
            spent: Arc::default(),
            abort_at: None,
            interrupt: None,
        });
        self.after_commit(move |core| core.spawn_turn(turn_id, cancel, start));
    }

    fn spawn_turn(&mut self, turn_id: TurnId, cancel: CancellationToken, start: TurnStart) {
        let span = tracing::info_span!("turn", %turn_id);
        let task = TurnTask::new(TurnTaskStart {
            services: self.services.clone(),
            session: self.me.clone(),
            turn_id: turn_id.clone(),
            cancel,
            model: start.model,
            mode: start.mode,
            limits: start.limits,
            spent: self.running.as_ref().map(|r| Arc::clone(&r.spent)).unwrap_or_default(),
            extensions: self.extensions.clone(),
            wait_for_extensions: start.wait_for_extensions,
            work: start.work,
            response_schema_json: start.response_schema_json,
            agent_plan: start.extensions,
        });
        let session = self.me.clone();
        let task = self.services.tasks.spawn(
            async move {
                let work = std::panic::AssertUnwindSafe(task.run());
                let outcome = futures::FutureExt::catch_unwind(work).await.unwrap_or_else(|_| {
                    TurnOutcome::Failed(ErrorDetail::internal(
                        "the turn stopped because of a defect in gander; its log holds what was produced",
                    ))
                });
                session.turn_done(turn_id, outcome).await;
            }
            .instrument(span),
        );
        if let Some(running) = &mut self.running {
            running.task = Some(task.abort_handle());
        }
    }

    fn append_user_message(&mut self, turn_id: &TurnId, message: NewMessage) -> ItemId {
        let NewMessage { parts, message_id, client_create_time, steered, visibility, contents } = message;
        let now = self.now();
        let item_id = self.services.source.item_id();
        // A command says nothing about what the session is for.
        let first_message = visibility.model && !self.state.items.iter().any(|e| is_user_message(&e.item));
        let item = Item {
            item_id: item_id.clone(),
            turn_id: Some(turn_id.clone()),
            message_id: message_id.unwrap_or_else(|| self.services.source.message_id()),
            body: ItemBody::UserMessage(UserMessage { parts, steered }),
            state: ItemState::Completed,
            incomplete: false,
            visibility,
            origin: Origin::Client,
            create_time: now,
            client_create_time,
            complete_time: Some(now),
            redacted: false,
            model_id: None,
            provider_state_json: None,
        };
        self.attach(contents);
        let title = first_message.then(|| title_from(&item.text())).flatten();
        self.emit(Some(turn_id.clone()), Payload::ItemCompleted { item: Box::new(item) });
        if let Some(title) = title
            && self.state.session.title_source == TitleSource::Default
            && self.state.session.title.is_empty()
        {
            let mut session = self.state.session.clone();
            session.title = title;
            self.emit(
                None,
                Payload::SessionUpdated {
                    session: Box::new(session),
                    changed_fields: vec!["title".to_owned()],
                    cause: UpdateCause::TitleGenerated,
                },
            );
        }
        item_id
    }

    /// Adds input to the running turn; the next model call sees it.
    pub(crate) fn steer(&mut self, request: SteerRequest) -> Result<(TurnId, ItemId), ErrorDetail> {
        let active = self.running.as_ref().filter(|r| r.abort_at.is_none()).map(|r| r.turn_id.clone());
        let Some(turn_id) = active else {
            return Err(ErrorDetail::new(
                ErrorReason::TurnNotRunning,
                "no turn runs in this session; start one with StartTurn",
            ));
        };
        if let Some(expected) = &request.expected_turn_id
            && *expected != turn_id
        {
            return Err(ErrorDetail::new(
                ErrorReason::TurnNotRunning,
                format!("turn {expected} does not run; turn {turn_id} does"),
            )
            .with("activeTurnId", &turn_id));
        }
        self.act_as(request.actor);
        let message = NewMessage {
            parts: request.input,
            message_id: request.message_id,
            client_create_time: request.client_create_time,
            steered: true,
            visibility: Visibility::default(),
            contents: request.contents,
        };
        let item = self.append_user_message(&turn_id, message);
        self.after_commit(|core| core.services.agents.steered(core.session_id()));
        Ok((turn_id, item))
    }

    /// First phase of a cancel: the request is logged and the work told to stop. The end follows within a second.
    pub(crate) fn cancel_turn(&mut self, turn_id: &TurnId, by: Actor) -> Result<Turn, ErrorDetail> {
        let Some(turn) = self.state.turn(turn_id).cloned() else {
            return Err(turn_not_found(turn_id));
        };
        self.act_as(by.clone());
        if turn.state == TurnState::Queued {
            self.queued.retain(|q| q.start.turn_id != *turn_id);
            self.note_cancelled_by(turn_id, by);
            self.close_turn(turn_id, TurnOutcome::Cancelled);
        } else if !turn.state.is_terminal() && turn.state != TurnState::Cancelling {
            let mut turn = turn;
            turn.state = TurnState::Cancelling;
            turn.cancelled_by = Some(by);
            self.emit(Some(turn_id.clone()), Payload::TurnCancelRequested { turn: Box::new(turn) });
            self.stop_work(None);
        }
        self.state.turn(turn_id).cloned().ok_or_else(|| turn_not_found(turn_id))
    }

    /// For a turn whose only event about its cancel is its end.
    fn note_cancelled_by(&mut self, turn_id: &TurnId, by: Actor) {
        if let Some(turn) = self.state.turns.iter_mut().find(|t| t.turn_id == *turn_id) {
            turn.cancelled_by = Some(by);
        }
    }

    /// Ends the running turn and the queue because the daemon stops.
    pub(crate) fn interrupt(&mut self, cause: InterruptCause) {
        while let Some(queued) = self.queued.pop_front() {
            self.close_turn(&queued.start.turn_id, TurnOutcome::Interrupted(cause));
        }
        self.stop_work(Some(cause));
    }

    fn stop_work(&mut self, interrupt: Option<InterruptCause>) {
        let grace = self.services.options.cancel_grace;
        if let Some(running) = &mut self.running {
            running.interrupt = running.interrupt.or(interrupt);
            running.abort_at.get_or_insert_with(|| Instant::now() + grace);
            let cancel = running.cancel.clone();
            self.after_commit(move |_| cancel.cancel());
        }
    }

    /// The turn's task has ended, or is not waited for any longer.
    pub(super) fn turn_done(&mut self, turn_id: &TurnId, outcome: TurnOutcome) {
        if !self.is_running(Some(turn_id)) {
            return;
        }
        let Some(running) = self.running.take() else { return };
        if let Some(task) = running.task {
            task.abort();
        }
        running.cancel.cancel();
        let outcome = match (running.interrupt, outcome) {
            (Some(cause), TurnOutcome::Cancelled | TurnOutcome::Failed(_)) => TurnOutcome::Interrupted(cause),
            (_, outcome) => outcome,
        };
        let answered = matches!(outcome, TurnOutcome::Completed(_));
        self.close_turn(turn_id, outcome);
        if answered {
            self.name_session(&running.model);
        }
        let through = self.state.last_sequence();
        self.drop_deltas = Some((Instant::now() + self.services.options.delta_retention, through));
        if let Some(next) = self.queued.pop_front()
            && let Some(turn) = self.state.turn(&next.start.turn_id).cloned()
        {
            self.begin(turn, next.start);
        }
        self.stop_acting();
    }

    /// Stops the turn's task without a word in the log (the actor ends; recovery closes the turn).
    pub(super) fn stop_turn(&mut self) {
        if let Some(running) = self.running.take() {
            running.cancel.cancel();
            if let Some(task) = running.task {
                task.abort();
            }
        }
    }

    pub(super) async fn on_deadline(&mut self) {
        self.expire_interactions();
        let now = Instant::now();
        if let Some(turn_id) = self
            .running
            .as_ref()
            .filter(|r| r.abort_at.is_some_and(|at| at <= now))
            .map(|r| r.turn_id.clone())
        {
            tracing::warn!(%turn_id, "the turn's task did not stop in time and was ended");
            self.turn_done(&turn_id, TurnOutcome::Cancelled);
        }
        if let Some((at, through)) = self.drop_deltas
            && at <= now
        {
            self.drop_deltas = None;
            self.drop_superseded(through).await;
        }
    }

    async fn drop_superseded(&mut self, through: Sequence) {
        let store = Arc::clone(&self.services.store);
        let session_id = self.session_id().clone();
        match store.drop_deltas(&session_id, self.epoch, through).await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "dropped deltas that completed items supersede"),
            Err(error) => tracing::warn!(%error, "deltas could not be dropped"),
        }
    }
}

/// A message of a person.
struct NewMessage {
    parts: Vec<Part>,
    message_id: Option<MessageId>,
    client_create_time: Option<Timestamp>,
    steered: bool,
    visibility: Visibility,
    contents: Vec<NewContent>,
}

/// Whether it is a message to the model.
fn is_user_message(item: &Item) -> bool {
    matches!(item.body, ItemBody::UserMessage(_)) && item.visibility.model
}

fn new_turn(start: &TurnStart, now: Timestamp) -> Turn {
    Turn {
        turn_id: start.turn_id.clone(),
        state: TurnState::Running,
        stop_reason: None,
        error: None,
        started_by: Some(start.actor.clone()),
        cancelled_by: None,
        interrupted_by: None,
        limits: start.limits,
        model: Some(start.model.selection.clone()),
        usage: Usage::default(),
        model_calls: 0,
        create_time: now,
        start_time: None,
        end_time: None,
        first_sequence: 0,
        last_sequence: 0,
        request_hash: start.request_hash.clone(),
    }
}

fn lost_turn() -> ErrorDetail {
    ErrorDetail::internal("the turn that was just appended is not in the session's state")
}

pub(crate) fn turn_not_found(turn_id: &TurnId) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::TurnNotFound,
        format!("turn {turn_id} does not exist in this session; ListTurns shows those that do"),
    )
    .with("turnId", turn_id)
}

/// A provisional title: the beginning of the first message.
pub(crate) fn title_from(text: &str) -> Option<String> {
    const MAX_CHARS: usize = 60;
    let line = text.lines().map(str::trim).find(|l| !l.is_empty())?;
    let mut title: String = line.chars().take(MAX_CHARS).collect();
    if title.len() < line.len() {
        title.push('…');
    }
    Some(title)
}
