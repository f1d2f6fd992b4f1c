//! Schedules by a clock that the test sets: nothing here waits for time.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use gander_domain::{ErrorReason, Payload, Timestamp, session::SessionKind, turn::TurnState};
use gander_engine::{
    CreateSchedule, Engine, EngineOptions, RecipeOrigin, RecipeRequest, SchedulePatch, Source, SystemSource,
};
use gander_model::testing::{Gate, Script, ScriptedProvider};
use serde_json::{Value, json};

use crate::harness::{Harness, context, start_at};

struct Clock(AtomicI64);

impl Source for Clock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
    fn unique(&self) -> String {
        SystemSource.unique()
    }
    fn short(&self) -> String {
        SystemSource.short()
    }
}

struct Scheduled {
    harness: Harness,
    clock: Arc<Clock>,
}

impl Scheduled {
    async fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        let model = Arc::new(ScriptedProvider::new(scripts));
        let clock = Arc::new(Clock(AtomicI64::new(1_700_000_030_000_000)));
        let engine = start_at(dir.path(), model.clone(), EngineOptions::default(), clock.clone()).await;
        Self { harness: Harness { dir, engine, model }, clock }
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.harness.engine
    }

    fn advance(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    async fn create(
        &self,
        id: &str,
        cron: &str,
    ) -> Result<gander_engine::Schedule, gander_domain::ErrorDetail> {
        let recipe = json!({
            "title": "t", "description": "d", "prompt": "look at {{ what }}", "parameters": [{"key": "what"}],
        });
        let request = CreateSchedule {
            schedule_id: Some(id.to_owned()),
            recipe: RecipeRequest {
                origin: RecipeOrigin::Json(recipe.to_string()),
                values: [("what".to_owned(), "issues".to_owned())].into(),
                allow_missing_values: false,
            },
            cron: cron.to_owned(),
            paused: false,
            working_directory: Some(self.harness.work()),
        };
        self.engine().create_schedule(&context("c"), request).await
    }

    /// Waits until no run of a schedule is in progress.
    async fn until_idle(&self, id: &str) {
        let mut changes = self.engine().changes();
        let idle = async {
            while self.engine().get_schedule(id).unwrap().run.is_some() {
                let _ = changes.recv().await;
            }
        };
        tokio::time::timeout(crate::harness::PATIENCE, idle).await.unwrap();
    }

    async fn sessions(&self, id: &str) -> Vec<gander_domain::Session> {
        let query = gander_engine::types::ListQuery {
            schedule_id: Some(id.to_owned()),
            ..gander_engine::types::ListQuery::default()
        };
        self.engine().list_sessions(query).await.unwrap()
    }

    fn work(&self) -> String {
        self.harness.work()
    }

    fn file(&self) -> Value {
        let text = std::fs::read_to_string(self.harness.dir.path().join("data/schedule.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

#[tokio::test]
async fn a_due_schedule_runs_once_in_a_session_of_its_own() {
    let s = Scheduled::new([Script::reply("looked"), Script::reply("looked again")]).await;
    let schedule = s.create("daily", "* * * * *").await.unwrap();
    assert_eq!(schedule.next_run, Some(Timestamp(1_700_000_040_000_000)));
    assert_eq!(s.engine().run_due_schedules().await, 0, "not due yet");
    s.advance(10);
    assert_eq!(s.engine().run_due_schedules().await, 1);
    assert_eq!(s.engine().run_due_schedules().await, 0, "once per time");
    s.until_idle("daily").await;
    let sessions = s.sessions("daily").await;
    assert_eq!(sessions.len(), 1);
    assert_eq!(
        (sessions[0].kind, sessions[0].title.as_str()),
        (SessionKind::Scheduled, "Scheduled job: daily")
    );
    assert_eq!(s.harness.model.requests()[0].items[0].text(), "look at issues");
    let now = s.engine().get_schedule("daily").unwrap();
    assert_eq!((now.last_run, now.skipped_runs), (Some(Timestamp(1_700_000_040_000_000)), 0));
    assert_eq!(now.next_run, Some(Timestamp(1_700_000_100_000_000)));
    // Several times that passed by (a suspended machine) are one run.
    s.advance(3600);
    assert_eq!(s.engine().run_due_schedules().await, 1);
    s.until_idle("daily").await;
    let job = &s.file()[0];
    assert_eq!(
        (&job["id"], &job["cron"], &job["currently_running"]),
        (&json!("daily"), &json!("* * * * *"), &json!(false))
    );
    assert!(job["source"].as_str().unwrap().ends_with("data/scheduled_recipes/daily.yaml"), "{job}");
    assert!(job["last_run"].is_string(), "{job}");
    s.harness.finish().await;
}

#[tokio::test]
async fn a_run_that_is_due_while_one_runs_is_skipped_and_counted() {
    let gate = Gate::new();
    let s = Scheduled::new([Script::new().gate(&gate).text("late").finish(gander_model::ModelStop::EndTurn)])
        .await;
    s.create("busy", "* * * * *").await.unwrap();
    s.advance(10);
    assert_eq!(s.engine().run_due_schedules().await, 1);
    let shown = s.engine().get_schedule("busy").unwrap();
    let run = shown.run.clone().unwrap();
    assert_eq!(s.file()[0]["current_session_id"], json!(run.session_id.as_str()));
    s.advance(60);
    assert_eq!(s.engine().run_due_schedules().await, 0);
    assert_eq!(s.engine().get_schedule("busy").unwrap().skipped_runs, 1);
    let twice = s.engine().run_schedule(&context("c"), "busy").await.unwrap_err();
    assert_eq!(twice.reason, ErrorReason::ScheduleRunning);
    gate.release();
    s.until_idle("busy").await;
    assert_eq!(s.sessions("busy").await.len(), 1);
    assert_eq!(s.file()[0]["gander"]["skipped_runs"], 1);
    s.harness.finish().await;
}

#[tokio::test]
async fn runs_are_started_and_cancelled_by_hand() {
    let gate = Gate::new();
    let s = Scheduled::new([Script::new().gate(&gate).hang()]).await;
    s.create("by hand", "0 0 1 1 *").await.unwrap();
    let none = s.engine().cancel_schedule_run(&context("c"), "by hand").await.unwrap_err();
    assert_eq!(none.reason, ErrorReason::ScheduleNotRunning);
    let run = s.engine().run_schedule(&context("c"), "by hand").await.unwrap();
    gate.reached().await;
    let cancelled = s.engine().cancel_schedule_run(&context("c"), "by hand").await.unwrap();
    assert_eq!(cancelled.value, run.session_id);
    let events = s.harness.until_ended(&run.session_id, &run.turn_id).await;
    assert!(
        matches!(&events.last().unwrap().payload, Payload::TurnEnded { turn } if turn.state == TurnState::Cancelled)
    );
    s.until_idle("by hand").await;
    s.harness.finish().await;
}

#[tokio::test]
async fn schedules_are_paused_changed_and_removed() {
    let s = Scheduled::new([]).await;
    s.create("a", "* * * * *").await.unwrap();
    let patch =
        |cron: Option<&str>, paused| SchedulePatch { cron: cron.map(str::to_owned), paused, recipe: None };
    let paused = s.engine().update_schedule(&context("c"), "a", patch(None, Some(true))).await.unwrap();
    assert_eq!((paused.paused, paused.next_run), (true, None));
    s.advance(600);
    assert_eq!(s.engine().run_due_schedules().await, 0);
    let changed = s
        .engine()
        .update_schedule(&context("c"), "a", patch(Some("30 * * * * *"), Some(false)))
        .await
        .unwrap();
    assert_eq!(
        changed.next_run,
        Some(Timestamp(1_700_000_670_000_000)),
        "what passed while paused does not count"
    );
    for (result, reason) in [
        (
            s.engine().update_schedule(&context("c"), "a", patch(Some("nonsense"), None)).await,
            ErrorReason::CronInvalid,
        ),
        (
            s.engine().update_schedule(&context("c"), "b", patch(None, Some(true))).await,
            ErrorReason::ScheduleNotFound,
        ),
        (s.create("a", "* * * * *").await, ErrorReason::ScheduleExists),
        (s.create("../x", "* * * * *").await, ErrorReason::InvalidField),
        (s.create("c", "* * *").await, ErrorReason::CronInvalid),
    ] {
        assert_eq!(result.unwrap_err().reason, reason);
    }
    let copy = s.harness.dir.path().join("data/scheduled_recipes/a.yaml");
    assert!(std::fs::read_to_string(&copy).unwrap().contains("look at issues"));
    s.engine().delete_schedule(&context("c"), "a", false).await.unwrap();
    assert!(!copy.exists());
    let gone = s.engine().delete_schedule(&context("c"), "a", false).await.unwrap_err();
    assert_eq!(gone.reason, ErrorReason::ScheduleNotFound);
    s.engine().delete_schedule(&context("c"), "a", true).await.unwrap();
    assert_eq!(s.engine().list_schedules().unwrap(), []);
    s.harness.finish().await;
}

#[tokio::test]
async fn what_was_due_while_no_engine_lived_is_not_made_up_for() {
    let s = Scheduled::new([]).await;
    s.create("a", "* * * * *").await.unwrap();
    s.engine().drain(std::time::Duration::ZERO).await;
    s.engine().close().await;
    s.advance(3 * 3600);
    let options = EngineOptions::default();
    let engine = start_at(s.harness.dir.path(), s.harness.model.clone(), options, s.clock.clone()).await;
    assert_eq!(engine.run_due_schedules().await, 0);
    let shown = engine.list_schedules().unwrap();
    assert_eq!((shown.len(), shown[0].skipped_runs), (1, 0));
    assert!(shown[0].next_run.unwrap() > s.clock.now());
    engine.drain(std::time::Duration::ZERO).await;
    engine.close().await;
}

#[tokio::test]
async fn another_programs_changes_of_the_file_count_and_survive() {
    let s = Scheduled::new([Script::reply("ok")]).await;
    let recipe = s.harness.dir.path().join("mine.yaml");
    std::fs::write(&recipe, "title: t\ndescription: d\ninstructions: do it\n").unwrap();
    let path = s.harness.dir.path().join("data/schedule.json");
    let jobs = json!([{"id": "goose's", "source": recipe, "cron": "0 * * * * *", "last_run": null,
        "currently_running": true, "paused": false, "execution_mode": "background"}]);
    std::fs::write(&path, jobs.to_string()).unwrap();
    let listed = s.engine().list_schedules().unwrap();
    assert_eq!((listed.len(), &listed[0].run), (1, &None), "its run belongs to another process");
    s.advance(60);
    assert_eq!(s.engine().run_due_schedules().await, 1);
    s.until_idle("goose's").await;
    assert_eq!(s.harness.model.requests()[0].items[0].text(), "do it");
    assert_eq!(s.file()[0]["execution_mode"], "background");
    std::fs::write(&path, "{ broken").unwrap();
    assert_eq!(s.engine().list_schedules().unwrap_err().reason, ErrorReason::ConfigMalformed);
    assert_eq!(s.create("b", "* * * * *").await.unwrap_err().reason, ErrorReason::ConfigMalformed);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{ broken", "nothing is written over it");
    s.harness.finish().await;
}

#[tokio::test]
async fn a_schedule_that_cannot_start_is_free_again() {
    let s = Scheduled::new([]).await;
    s.create("a", "* * * * *").await.unwrap();
    std::fs::remove_file(s.harness.dir.path().join("data/scheduled_recipes/a.yaml")).unwrap();
    let error = s.engine().run_schedule(&context("c"), "a").await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::RecipeNotFound);
    assert_eq!(s.engine().get_schedule("a").unwrap().run, None);
    assert!(s.sessions("a").await.is_empty());
    s.harness.finish().await;
}

fn keyed(method: &str) -> gander_engine::RequestContext {
    let key = gander_engine::IdempotencyKey {
        method: method.to_owned(),
        key: "k".to_owned(),
        request_hash: "h".to_owned(),
    };
    gander_engine::RequestContext { idempotency: Some(key), ..context("c") }
}

fn request(id: Option<&str>, work: &str) -> CreateSchedule {
    let recipe = json!({"title": "t", "description": "d", "prompt": "look"});
    CreateSchedule {
        schedule_id: id.map(str::to_owned),
        recipe: RecipeRequest {
            origin: RecipeOrigin::Json(recipe.to_string()),
            values: Default::default(),
            allow_missing_values: false,
        },
        cron: "* * * * *".to_owned(),
        paused: false,
        working_directory: Some(work.to_owned()),
    }
}

#[tokio::test]
async fn a_repeated_key_changes_no_schedule_again() {
    let s = Scheduled::new([]).await;
    let engine = s.engine();
    let make = || request(None, &s.work());
    let made = engine.create_schedule(&keyed("CreateSchedule"), make()).await.unwrap();
    let again = engine.create_schedule(&keyed("CreateSchedule"), make()).await.unwrap();
    assert_eq!((made.schedule_id.as_str(), engine.list_schedules().unwrap().len()), (&*again.schedule_id, 1));
    let id = made.schedule_id;
    let cron = |cron: &str| SchedulePatch { cron: Some(cron.to_owned()), paused: None, recipe: None };
    engine.update_schedule(&keyed("UpdateSchedule"), &id, cron("0 1 * * *")).await.unwrap();
    engine.update_schedule(&context("other"), &id, cron("0 2 * * *")).await.unwrap();
    let again = engine.update_schedule(&keyed("UpdateSchedule"), &id, cron("0 1 * * *")).await.unwrap();
    assert_eq!(again.cron, "0 2 * * *", "what came in between stays");
    engine.delete_schedule(&keyed("DeleteSchedule"), &id, false).await.unwrap();
    engine.create_schedule(&context("other"), request(Some(&id), &s.work())).await.unwrap();
    engine.delete_schedule(&keyed("DeleteSchedule"), &id, false).await.unwrap();
    assert_eq!(engine.list_schedules().unwrap().len(), 1, "another one of that name is not deleted");
    let mut reused = keyed("DeleteSchedule");
    if let Some(key) = &mut reused.idempotency {
        key.request_hash = "other".to_owned();
    }
    let error = engine.delete_schedule(&reused, "b", true).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::RequestIdReused);
    s.harness.finish().await;
}

#[tokio::test]
async fn a_schedule_that_was_written_before_its_key_was_recorded_is_made_once() {
    let s = Scheduled::new([]).await;
    let engine = s.engine();
    // The state after a crash in between: the schedule is there, the key is not known.
    let first = engine.create_schedule(&context("c"), request(Some("a"), &s.work())).await.unwrap();
    let mut other = request(Some("a"), &s.work());
    other.cron = "0 1 * * *".to_owned();
    let error = engine.create_schedule(&keyed("CreateSchedule"), other).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::ScheduleExists, "another schedule of that name stays as it is");
    for _ in 0..2 {
        let again =
            engine.create_schedule(&keyed("CreateSchedule"), request(Some("a"), &s.work())).await.unwrap();
        assert_eq!(again, first);
    }
    let error = engine.create_schedule(&context("c"), request(Some("a"), &s.work())).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::ScheduleExists, "without a key it is no repetition");
    assert_eq!(engine.list_schedules().unwrap().len(), 1);
    s.harness.finish().await;
}

#[tokio::test]
async fn a_repeated_key_starts_and_cancels_no_second_run() {
    let gate = Gate::new();
    let s = Scheduled::new([Script::new().gate(&gate).hang(), Script::reply("second")]).await;
    s.create("a", "* * * * *").await.unwrap();
    let engine = s.engine();
    let run = engine.run_schedule(&keyed("RunSchedule"), "a").await.unwrap();
    gate.reached().await;
    let again = engine.run_schedule(&keyed("RunSchedule"), "a").await.unwrap();
    let ids = |run: &gander_engine::StartedRun| (run.session_id.clone(), run.turn_id.clone(), run.sequence);
    assert_eq!(ids(&run), ids(&again));
    let cancelled = engine.cancel_schedule_run(&keyed("CancelScheduleRun"), "a").await.unwrap();
    assert_eq!(cancelled.value, run.session_id);
    s.until_idle("a").await;
    let other = engine.run_schedule(&context("c"), "a").await.unwrap();
    let again = engine.cancel_schedule_run(&keyed("CancelScheduleRun"), "a").await.unwrap();
    assert_eq!(cancelled, again, "the outcome of then, also while another run goes on");
    let ended = s.harness.until_ended(&other.session_id, &other.turn_id).await;
    assert!(matches!(&ended.last().unwrap().payload,
        Payload::TurnEnded { turn } if turn.state == TurnState::Completed));
    assert_eq!(s.sessions("a").await.len(), 2);
    s.until_idle("a").await;
    s.harness.finish().await;
}

#[tokio::test]
async fn a_run_that_could_not_start_leaves_its_key_free() {
    let s = Scheduled::new([Script::reply("ok")]).await;
    s.create("a", "* * * * *").await.unwrap();
    let path = s.harness.dir.path().join("data/scheduled_recipes/a.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    s.engine().run_schedule(&keyed("RunSchedule"), "a").await.unwrap_err();
    std::fs::write(&path, text).unwrap();
    let run = s.engine().run_schedule(&keyed("RunSchedule"), "a").await.unwrap();
    s.harness.until_ended(&run.session_id, &run.turn_id).await;
    s.until_idle("a").await;
    s.harness.finish().await;
}
