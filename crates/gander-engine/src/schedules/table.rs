//! The table of schedules and its file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use croner::Cron;
use gander_config::Paths;
use gander_domain::{ErrorDetail, ErrorReason, Timestamp};
use gander_formats::schedule::{Job, JobExtra, read_jobs, write_jobs};
use tokio::sync::Notify;

use super::{Schedule, SchedulePatch, ScheduleRun, cron};
use crate::recipes::write_whole;

/// Schedules of one user; far above what a person keeps.
const MAX_SCHEDULES: usize = 1000;

/// A schedule to be made.
pub(crate) struct NewSchedule {
    pub schedule_id: String,
    pub cron: String,
    pub paused: bool,
    /// The recipe to copy, as YAML.
    pub recipe_yaml: String,
    pub recipe_id: Option<String>,
    pub working_directory: Option<String>,
}

pub(crate) struct Schedules {
    file: PathBuf,
    recipes: PathBuf,
    state: Mutex<State>,
    /// Wakes who waits for the next due run.
    pub(crate) changed: Notify,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    /// The file as it was last seen.
    seen: Option<(SystemTime, u64)>,
    /// Why the file cannot be used. Nothing is written over it.
    broken: Option<ErrorDetail>,
}

struct Entry {
    job: Job,
    /// `None`: another program wrote what cannot be read.
    cron: Option<Cron>,
    next_due: Option<Timestamp>,
    /// A run is being started or in progress.
    busy: bool,
    run: Option<ScheduleRun>,
}

impl Entry {
    fn new(job: Job, now: Timestamp) -> Self {
        let cron = cron::parse(&job.cron)
            .inspect_err(|error| tracing::warn!(%error, schedule = %job.id, "the schedule is never due"))
            .ok();
        let next_due = cron.as_ref().and_then(|c| cron::next(c, now));
        Self { job, cron, next_due, busy: false, run: None }
    }

    fn plan(&mut self, now: Timestamp) {
        self.next_due = self.cron.as_ref().and_then(|c| cron::next(c, now));
    }

    fn shown(&self) -> Schedule {
        let job = &self.job;
        Schedule {
            schedule_id: job.id.clone(),
            source: PathBuf::from(&job.source),
            recipe_id: job.extra.recipe_id.clone(),
            cron: job.cron.clone(),
            paused: job.paused,
            last_run: job.last_run,
            next_run: self.next_due.filter(|_| !job.paused),
            run: self.run.clone(),
            create_time: job.extra.create_time,
            skipped_runs: job.extra.skipped_runs,
        }
    }
}

impl Schedules {
    pub(crate) fn new(paths: &Paths) -> Self {
        Self {
            file: paths.data_dir().join("schedule.json"),
            recipes: paths.data_dir().join("scheduled_recipes"),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The table as the file has it now: another program may have written it.
    fn state(&self, now: Timestamp) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = stamp(&self.file);
        if seen != state.seen || (seen.is_none() && !state.entries.is_empty()) {
            self.load(&mut state, seen, now);
        }
        state
    }

    fn load(&self, state: &mut State, seen: Option<(SystemTime, u64)>, now: Timestamp) {
        state.seen = seen;
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                state.broken = Some(self.unusable(&error.to_string()));
                return;
            }
        };
        let jobs = match read_jobs(&text) {
            Ok(jobs) => jobs,
            Err(error) => {
                tracing::warn!(%error, file = %self.file.display(), "the schedules cannot be read");
                state.broken = Some(self.unusable(&error.to_string()));
                return;
            }
        };
        state.broken = None;
        let mut before = std::mem::take(&mut state.entries);
        for job in jobs.into_iter().take(MAX_SCHEDULES) {
            let known = before.remove(&job.id);
            let entry = match known {
                Some(mut known) if known.job.cron == job.cron => {
                    known.job = job;
                    known
                }
                Some(known) => Entry { busy: known.busy, run: known.run, ..Entry::new(job, now) },
                None => Entry::new(job, now),
            };
            state.entries.insert(entry.job.id.clone(), entry);
        }
    }

    fn unusable(&self, why: &str) -> ErrorDetail {
        ErrorDetail::new(
            ErrorReason::ConfigMalformed,
            format!("the file of schedules {} cannot be used: {why}; mend or remove it", self.file.display()),
        )
        .with("filePath", self.file.display())
    }

    fn write(&self, state: &mut State) -> Result<(), ErrorDetail> {
        if let Some(broken) = &state.broken {
            return Err(broken.clone());
        }
        let jobs: Vec<Job> = state.entries.values().map(written).collect();
        let stored = write_whole(&self.file, &write_jobs(&jobs), false);
        stored.map_err(|error| {
            ErrorDetail::new(
                ErrorReason::ConfigReadOnly,
                format!("the schedules cannot be written to {}: {error}", self.file.display()),
            )
        })?;
        state.seen = stamp(&self.file);
        self.changed.notify_one();
        Ok(())
    }

    /// All schedules, by id.
    pub(crate) fn list(&self, now: Timestamp) -> Result<Vec<Schedule>, ErrorDetail> {
        let state = self.state(now);
        match &state.broken {
            Some(broken) => Err(broken.clone()),
            None => Ok(state.entries.values().map(Entry::shown).collect()),
        }
    }

    pub(crate) fn get(&self, id: &str, now: Timestamp) -> Result<Schedule, ErrorDetail> {
        let state = self.state(now);
        state.entries.get(id).map(Entry::shown).ok_or_else(|| not_found(id))
    }

    /// When the schedule of a stored recipe is due.
    pub(crate) fn cron_of_recipe(&self, recipe_id: &str) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let of_recipe = |e: &&Entry| e.job.extra.recipe_id.as_deref() == Some(recipe_id);
        state.entries.values().find(of_recipe).map(|e| e.job.cron.clone())
    }

    pub(crate) fn create(&self, new: NewSchedule, now: Timestamp) -> Result<Schedule, ErrorDetail> {
        check_id(&new.schedule_id)?;
        cron::parse(&new.cron)?;
        let mut state = self.state(now);
        if state.entries.contains_key(&new.schedule_id) {
            return Err(ErrorDetail::new(
                ErrorReason::ScheduleExists,
                format!("there is a schedule {:?} already; choose another id", new.schedule_id),
            )
            .with("scheduleId", &new.schedule_id));
        }
        if state.entries.len() >= MAX_SCHEDULES {
            return Err(ErrorDetail::new(
                ErrorReason::Overloaded,
                format!("there are {MAX_SCHEDULES} schedules already; delete some"),
            ));
        }
        let source = self.store_recipe(&new.schedule_id, &new.recipe_yaml)?;
        let job = Job {
            id: new.schedule_id.clone(),
            source: source.to_string_lossy().into_owned(),
            cron: new.cron,
            paused: new.paused,
            extra: JobExtra {
                create_time: Some(now),
                skipped_runs: 0,
                recipe_id: new.recipe_id,
                working_directory: new.working_directory,
            },
            ..Job::default()
        };
        let entry = Entry::new(job, now);
        let shown = entry.shown();
        state.entries.insert(new.schedule_id.clone(), entry);
        if let Err(error) = self.write(&mut state) {
            state.entries.remove(&new.schedule_id);
            return Err(error);
        }
        Ok(shown)
    }

    /// The schedule of that id, if it is what `new` would make. Whether it pauses may have changed since.
    pub(crate) fn like(&self, new: &NewSchedule, now: Timestamp) -> Option<Schedule> {
        let state = self.state(now);
        let entry = state.entries.get(&new.schedule_id)?;
        let (job, copy) = (&entry.job, self.copy_of(&new.schedule_id));
        let same = job.cron == new.cron
            && job.extra.recipe_id == new.recipe_id
            && job.extra.working_directory == new.working_directory
            && Path::new(&job.source) == copy
            && fs::read_to_string(&copy).is_ok_and(|text| text == new.recipe_yaml);
        same.then(|| entry.shown())
    }

    fn copy_of(&self, id: &str) -> PathBuf {
        self.recipes.join(format!("{id}.yaml"))
    }

    fn store_recipe(&self, id: &str, yaml: &str) -> Result<PathBuf, ErrorDetail> {
        let path = self.copy_of(id);
        write_whole(&path, yaml, false).map_err(|error| {
            ErrorDetail::new(
                ErrorReason::ConfigReadOnly,
                format!("the schedule's recipe cannot be written to {}: {error}", path.display()),
            )
        })?;
        Ok(path)
    }

    /// Changes a schedule. `recipe`: YAML and stored recipe's id of another recipe.
    pub(crate) fn update(
        &self,
        id: &str,
        patch: &SchedulePatch,
        recipe: Option<(String, Option<String>)>,
        now: Timestamp,
    ) -> Result<Schedule, ErrorDetail> {
        let cron = patch.cron.as_deref().map(cron::parse).transpose()?;
        let mut state = self.state(now);
        let entry = state.entries.get_mut(id).ok_or_else(|| not_found(id))?;
        if recipe.is_some() && entry.busy {
            return Err(running(id));
        }
        if let Some((yaml, recipe_id)) = recipe {
            let source = self.store_recipe(id, &yaml)?;
            entry.job.source = source.to_string_lossy().into_owned();
            entry.job.extra.recipe_id = recipe_id;
        }
        if let (Some(text), Some(cron)) = (&patch.cron, cron) {
            entry.job.cron.clone_from(text);
            entry.cron = Some(cron);
            entry.plan(now);
        }
        if let Some(paused) = patch.paused {
            if entry.job.paused && !paused {
                entry.plan(now);
            }
            entry.job.paused = paused;
        }
        let shown = entry.shown();
        self.write(&mut state)?;
        Ok(shown)
    }

    /// Removes a schedule and its copy of the recipe.
    pub(crate) fn delete(&self, id: &str, now: Timestamp) -> Result<(), ErrorDetail> {
        let mut state = self.state(now);
        let entry = state.entries.remove(id).ok_or_else(|| not_found(id))?;
        if let Err(error) = self.write(&mut state) {
            state.entries.insert(id.to_owned(), entry);
            return Err(error);
        }
        let source = Path::new(&entry.job.source);
        // What lies elsewhere belongs to the user.
        if source.starts_with(&self.recipes)
            && let Err(error) = fs::remove_file(source)
        {
            tracing::info!(%error, file = %source.display(), "the recipe of a deleted schedule stays");
        }
        Ok(())
    }

    /// Takes the schedules that are due. Those that run already are skipped and counted.
    pub(crate) fn take_due(&self, now: Timestamp) -> Vec<String> {
        let mut state = self.state(now);
        let (mut due, mut skipped) = (Vec::new(), false);
        for (id, entry) in &mut state.entries {
            if entry.next_due.is_none_or(|at| at > now) {
                continue;
            }
            entry.plan(now);
            if entry.job.paused {
                continue;
            }
            if entry.busy {
                entry.job.extra.skipped_runs = entry.job.extra.skipped_runs.saturating_add(1);
                skipped = true;
                tracing::info!(schedule = %id, "a due run is skipped: the one before still runs");
                continue;
            }
            entry.busy = true;
            due.push(id.clone());
        }
        if skipped && let Err(error) = self.write(&mut state) {
            tracing::warn!(%error, "a skipped run could not be noted");
        }
        due
    }

    /// Takes a schedule that is to run now.
    pub(crate) fn take(&self, id: &str, now: Timestamp) -> Result<(), ErrorDetail> {
        let mut state = self.state(now);
        let entry = state.entries.get_mut(id).ok_or_else(|| not_found(id))?;
        if entry.busy {
            return Err(running(id));
        }
        entry.busy = true;
        Ok(())
    }

    /// Where the run of a schedule works, and what it runs.
    pub(crate) fn job(&self, id: &str, now: Timestamp) -> Result<Job, ErrorDetail> {
        let state = self.state(now);
        state.entries.get(id).map(|e| e.job.clone()).ok_or_else(|| not_found(id))
    }

    /// Notes that a run has begun.
    pub(crate) fn began(&self, id: &str, run: ScheduleRun) {
        let mut state = self.state(run.start_time);
        if let Some(entry) = state.entries.get_mut(id) {
            entry.job.last_run = Some(run.start_time);
            entry.run = Some(run);
        }
        self.note(&mut state);
    }

    /// Notes that a run has ended, or could not begin.
    pub(crate) fn ended(&self, id: &str, now: Timestamp) {
        let mut state = self.state(now);
        if let Some(entry) = state.entries.get_mut(id) {
            entry.busy = false;
            entry.run = None;
        }
        self.note(&mut state);
    }

    fn note(&self, state: &mut State) {
        if let Err(error) = self.write(state) {
            tracing::warn!(%error, "the state of a schedule could not be stored");
        }
    }

    /// When to look again.
    pub(crate) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let state = self.state(now);
        state.entries.values().filter(|e| !e.job.paused).filter_map(|e| e.next_due).min()
    }
}

/// What the file says of an entry.
fn written(entry: &Entry) -> Job {
    let run = entry.run.as_ref();
    Job {
        currently_running: run.is_some(),
        current_session_id: run.map(|r| r.session_id.to_string()),
        run_start: run.map(|r| r.start_time),
        ..entry.job.clone()
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// The id names a file.
fn check_id(id: &str) -> Result<(), ErrorDetail> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ' ');
    if id.is_empty() || id.len() > 64 || !id.chars().all(plain) || id.starts_with('.') || id.trim() != id {
        let message =
            "must be 1 to 64 letters, digits, '-', '_', '.' and blanks, and must not begin with '.'";
        return Err(ErrorDetail::invalid("schedule_id", message));
    }
    Ok(())
}

fn not_found(id: &str) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::ScheduleNotFound,
        format!("there is no schedule {id:?}; ListSchedules shows those that are"),
    )
    .with("scheduleId", id)
}

fn running(id: &str) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::ScheduleRunning,
        format!("schedule {id:?} runs; wait for the end of its run or cancel it"),
    )
    .with("scheduleId", id)
}

/// The error of a cancel without a run.
pub(crate) fn not_running(id: &str) -> ErrorDetail {
    ErrorDetail::new(ErrorReason::ScheduleNotRunning, format!("schedule {id:?} does not run"))
        .with("scheduleId", id)
}
