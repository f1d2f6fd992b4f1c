//! Schedules for clients, and the runs that they start.
//!
//! A run is a session of kind SCHEDULED with one turn. It belongs to the engine: nobody waits for it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use gander_domain::{
    Actor, ErrorDetail, ErrorReason, Part, Payload, Sequence, Session, SessionId, TurnId,
    session::SessionKind,
};
use gander_formats::recipe as format;

use super::{
    CancelRequest, Engine, NewSession, Recorded, RequestContext, StartTurn, WatchStep,
    idempotency::{Keyed, Receipt, Recorder},
};
use crate::{
    recipes::{RecipeOrigin, RecipeRequest},
    schedules::{NewSchedule, Schedule, SchedulePatch, ScheduleRun, not_running},
    services::Change,
    source::Mint,
};

/// Longest pause between two looks at the clock, which may be set.
const LOOK: Duration = Duration::from_secs(15);

/// A request for a schedule.
#[derive(Debug, Clone)]
pub struct CreateSchedule {
    /// Minted when absent.
    pub schedule_id: Option<String>,
    pub recipe: RecipeRequest,
    pub cron: String,
    pub paused: bool,
    /// Where its sessions work; the user's home directory when absent.
    pub working_directory: Option<String>,
}

/// A run that has begun.
#[derive(Debug, Clone)]
pub struct StartedRun {
    pub session_id: SessionId,
    pub turn_id: TurnId,
    /// Of the turn's first event.
    pub sequence: Sequence,
}

impl Engine {
    /// All schedules, by id.
    pub fn list_schedules(&self) -> Result<Vec<Schedule>, ErrorDetail> {
        self.services.schedules.list(self.services.source.now())
    }

    /// Whether a schedule waits for its time or runs.
    pub fn has_active_schedules(&self) -> bool {
        self.list_schedules().is_ok_and(|all| all.iter().any(|s| s.next_run.is_some() || s.run.is_some()))
    }

    /// A schedule.
    pub fn get_schedule(&self, schedule_id: &str) -> Result<Schedule, ErrorDetail> {
        self.services.schedules.get(schedule_id, self.services.source.now())
    }

    /// Makes a schedule; the recipe is copied with its parameters filled in. With a key, a schedule of that id that is
    /// there already with the same times, recipe and directory counts as made: a first attempt may have ended between
    /// the schedule and the record of its key.
    pub async fn create_schedule(
        &self,
        context: &RequestContext,
        request: CreateSchedule,
    ) -> Result<Schedule, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => return self.get_schedule(&receipt.id),
            Keyed::Fresh(recorder) => recorder,
        };
        let of_key = recorder.id_of_effect();
        let schedule_id = match (request.schedule_id, of_key) {
            (Some(named), _) => named,
            (None, Some(of_key)) => {
                if let Ok(made) = self.get_schedule(&of_key) {
                    self.note_key(&recorder, &Receipt { sequence: 0, id: of_key }).await?;
                    return Ok(made);
                }
                of_key
            }
            (None, None) => self.services.source.short(),
        };
        let working_directory = request
            .working_directory
            .as_deref()
            .map(|d| self.directory("working_directory", d))
            .transpose()?;
        let (recipe_yaml, recipe_id) =
            self.recipe_to_copy(request.recipe, working_directory.as_deref()).await?;
        let new = NewSchedule {
            schedule_id,
            cron: request.cron,
            paused: request.paused,
            recipe_yaml,
            recipe_id,
            working_directory,
        };
        let now = self.services.source.now();
        let made = recorder.is_keyed().then(|| self.services.schedules.like(&new, now)).flatten();
        let schedule = match made {
            Some(made) => made,
            None => self.services.schedules.create(new, now)?,
        };
        let receipt = Receipt { sequence: 0, id: schedule.schedule_id.clone() };
        self.note_key(&recorder, &receipt).await?;
        self.services.announce(Change::Schedules);
        Ok(schedule)
    }

    async fn recipe_to_copy(
        &self,
        mut request: RecipeRequest,
        working_directory: Option<&str>,
    ) -> Result<(String, Option<String>), ErrorDetail> {
        request.allow_missing_values = false;
        let resolved = self.resolve_recipe(request, working_directory.map(Into::into)).await?;
        let mut document = resolved.ready()?.document();
        if let Some(map) = document.as_object_mut() {
            // They are filled in; what looks like a variable now is text.
            map.remove("parameters");
        }
        let template = format::Template::from_document(document.clone());
        if template.is_ok_and(|t| !t.variables().is_empty()) {
            let message = "a value of its parameters looks like a variable ({{…}}), which a copy cannot keep";
            return Err(ErrorDetail::new(ErrorReason::RecipeInvalid, message).with("field", "recipe.values"));
        }
        Ok((format::to_yaml(&document)?, resolved.recipe_id))
    }

    /// Changes a schedule.
    pub async fn update_schedule(
        &self,
        context: &RequestContext,
        schedule_id: &str,
        patch: SchedulePatch,
    ) -> Result<Schedule, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => return self.get_schedule(&receipt.id),
            Keyed::Fresh(recorder) => recorder,
        };
        self.get_schedule(schedule_id)?;
        let recipe = match patch.recipe.clone() {
            Some(recipe) => Some(self.recipe_to_copy(recipe, None).await?),
            None => None,
        };
        let now = self.services.source.now();
        let schedule = self.services.schedules.update(schedule_id, &patch, recipe, now)?;
        self.services.announce(Change::Schedules);
        self.note_key(&recorder, &Receipt { sequence: 0, id: schedule_id.to_owned() }).await?;
        Ok(schedule)
    }

    /// Removes a schedule. A run in progress goes on, sessions stay.
    pub async fn delete_schedule(
        &self,
        context: &RequestContext,
        schedule_id: &str,
        allow_missing: bool,
    ) -> Result<(), ErrorDetail> {
        let Keyed::Fresh(recorder) = self.keyed(context).await? else { return Ok(()) };
        let id = schedule_id.to_owned();
        let deleted =
            self.with_recipes(move |services| services.schedules.delete(&id, services.source.now())).await;
        match deleted {
            Err(e) if allow_missing && e.reason == ErrorReason::ScheduleNotFound => {}
            Err(e) => return Err(e),
            Ok(()) => self.services.announce(Change::Schedules),
        }
        self.note_key(&recorder, &Receipt { sequence: 0, id: schedule_id.to_owned() }).await
    }

    /// Starts a run now.
    pub async fn run_schedule(
        self: &Arc<Self>,
        context: &RequestContext,
        schedule_id: &str,
    ) -> Result<StartedRun, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => return self.replayed_run(context, &receipt).await,
            Keyed::Fresh(recorder) => recorder,
        };
        self.refuse_when_draining()?;
        self.services.schedules.take(schedule_id, self.services.source.now())?;
        self.begin_run(context, schedule_id, &recorder).await
    }

    /// What a request with this key started. The key is recorded with the run's session: should the daemon have ended
    /// before its turn began, it begins now.
    async fn replayed_run(
        &self,
        context: &RequestContext,
        receipt: &Receipt,
    ) -> Result<StartedRun, ErrorDetail> {
        let lost = |_| ErrorDetail::internal("a stored receipt names no run");
        let (session, turn) = receipt.id.split_once(' ').unwrap_or_default();
        let (session_id, turn_id) =
            (SessionId::new(session).map_err(lost)?, TurnId::new(turn).map_err(lost)?);
        match self.get_turn(&session_id, &turn_id).await {
            Ok((turn, ..)) => Ok(StartedRun { session_id, turn_id, sequence: turn.first_sequence }),
            Err(error) if error.reason == ErrorReason::TurnNotFound => {
                let session = self.session(&session_id).await?;
                self.start_turn_of_run(context, &session, turn_id).await
            }
            Err(error) => Err(error),
        }
    }

    /// Cancels the run in progress.
    pub async fn cancel_schedule_run(
        &self,
        context: &RequestContext,
        schedule_id: &str,
    ) -> Result<Recorded<SessionId>, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => {
                let lost = |_| ErrorDetail::internal("a stored receipt names no session");
                let value = SessionId::new(&receipt.id).map_err(lost)?;
                return Ok(Recorded { value, sequence: receipt.sequence });
            }
            Keyed::Fresh(recorder) => recorder,
        };
        let run = self.get_schedule(schedule_id)?.run.ok_or_else(|| not_running(schedule_id))?;
        let request = CancelRequest { turn_id: Some(run.turn_id), allow_missing: true };
        let sequence = self.cancel_turn(context, &run.session_id, request).await?.sequence;
        self.note_key(&recorder, &Receipt { sequence, id: run.session_id.to_string() }).await?;
        Ok(Recorded { value: run.session_id, sequence })
    }

    /// Starts what is due by the engine's clock; the number of runs that began. The engine does so by itself where
    /// its options say so.
    pub async fn run_due_schedules(self: &Arc<Self>) -> usize {
        if self.services.draining.is_cancelled() {
            return 0;
        }
        let now = self.services.source.now();
        let actor = Actor { client_name: "schedule".to_owned(), ..Actor::default() };
        let context = RequestContext { actor, idempotency: None };
        let mut began = 0;
        for id in self.services.schedules.take_due(now) {
            match self.begin_run(&context, &id, &Recorder::default()).await {
                Ok(run) => {
                    tracing::info!(schedule = %id, session_id = %run.session_id, "a scheduled run began");
                    began += 1;
                }
                Err(error) => tracing::warn!(schedule = %id, %error, "a scheduled run could not begin"),
            }
        }
        began
    }

    /// The schedule has been taken and is given back when its run ends.
    async fn begin_run(
        self: &Arc<Self>,
        context: &RequestContext,
        schedule_id: &str,
        recorder: &Recorder,
    ) -> Result<StartedRun, ErrorDetail> {
        let started = self.start_run(context, schedule_id, recorder).await;
        match &started {
            Err(_) => self.services.schedules.ended(schedule_id, self.services.source.now()),
            Ok(run) => {
                let start_time = self.services.source.now();
                let run = ScheduleRun {
                    session_id: run.session_id.clone(),
                    turn_id: run.turn_id.clone(),
                    start_time,
                };
                self.services.schedules.began(schedule_id, run.clone());
                let (engine, id) = (Arc::downgrade(self), schedule_id.to_owned());
                self.services.tasks.spawn(async move { follow(&engine, &id, &run).await });
            }
        }
        self.services.announce(Change::Schedules);
        started
    }

    async fn start_run(
        &self,
        context: &RequestContext,
        schedule_id: &str,
        recorder: &Recorder,
    ) -> Result<StartedRun, ErrorDetail> {
        let job = self.services.schedules.job(schedule_id, self.services.source.now())?;
        let recipe = RecipeRequest {
            origin: RecipeOrigin::File(job.source),
            values: std::collections::BTreeMap::new(),
            allow_missing_values: false,
        };
        let new = NewSession {
            working_directory: job.extra.working_directory.unwrap_or_default(),
            title: format!("Scheduled job: {schedule_id}"),
            kind: SessionKind::Scheduled,
            schedule_id: Some(schedule_id.to_owned()),
            recipe_request: Some(recipe),
            ..NewSession::default()
        };
        let turn_id = self.services.source.turn_id();
        let receipt = |session_id: &SessionId| Receipt { sequence: 0, id: format!("{session_id} {turn_id}") };
        let session = self.make_session(context, new, recorder, receipt).await?.value;
        let started = self.start_turn_of_run(context, &session, turn_id).await;
        if started.is_err() {
            // A session that never ran tells nobody anything; the key goes with it.
            let unkeyed = RequestContext { actor: context.actor.clone(), idempotency: None };
            let _ = self.delete_session(&unkeyed, &session.session_id, true).await;
        }
        started
    }

    async fn start_turn_of_run(
        &self,
        context: &RequestContext,
        session: &Session,
        turn_id: TurnId,
    ) -> Result<StartedRun, ErrorDetail> {
        let recipe = crate::recipes::parsed(session)?;
        let message = recipe.as_ref().and_then(|r| r.first_message()).unwrap_or_default().to_owned();
        let turn =
            StartTurn { turn_id: Some(turn_id), input: vec![Part::text(message)], ..StartTurn::default() };
        let unkeyed = RequestContext { actor: context.actor.clone(), idempotency: None };
        let started = self.start_turn(&unkeyed, &session.session_id, turn).await?;
        Ok(StartedRun {
            session_id: session.session_id.clone(),
            turn_id: started.turn.turn_id,
            sequence: started.sequence,
        })
    }

    /// Runs schedules by themselves until the engine closes.
    pub(super) fn watch_the_clock(self: &Arc<Self>) {
        let (engine, closing) = (Arc::downgrade(self), self.services.draining.clone());
        self.services.tasks.spawn(async move {
            loop {
                let Some(alive) = engine.upgrade() else { return };
                alive.run_due_schedules().await;
                let services = Arc::clone(&alive.services);
                drop(alive);
                let now = services.source.now();
                let due = services.schedules.next_due(now);
                let pause = due.map_or(LOOK, |at| {
                    let micros = u64::try_from(at.0.saturating_sub(now.0)).unwrap_or(0);
                    Duration::from_micros(micros).clamp(Duration::from_millis(5), LOOK)
                });
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = services.schedules.changed.notified() => {}
                    () = closing.cancelled() => return,
                }
            }
        });
    }
}

/// Waits for the end of a run.
async fn follow(engine: &Weak<Engine>, schedule_id: &str, run: &ScheduleRun) {
    let cursor = match engine.upgrade() {
        Some(engine) => engine.watch(&run.session_id, Some(0)).await,
        None => return,
    };
    if let Ok(mut cursor) = cursor {
        while let Ok(WatchStep::Events(events)) = cursor.next().await {
            let ends = |p: &Payload| matches!(p, Payload::TurnEnded { turn } if turn.turn_id == run.turn_id);
            if events.iter().any(|e| ends(&e.payload)) {
                break;
            }
        }
    }
    if let Some(engine) = engine.upgrade() {
        engine.services.schedules.ended(schedule_id, engine.services.source.now());
        engine.services.announce(Change::Schedules);
    }
}
