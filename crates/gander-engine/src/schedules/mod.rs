//! Schedules: which recipe runs when, kept in Goose's `schedule.json` beside copies of the recipes.
//!
//! Invariants: a schedule has at most one run at a time; a due run while one runs is skipped and counted; what was due
//! while no daemon lived is not made up for. Time comes from the caller, so that tests need not wait. This module
//! starts no sessions: the engine does.

mod cron;
mod table;

use std::path::PathBuf;

use gander_domain::{SessionId, Timestamp, TurnId};

pub(crate) use table::{NewSchedule, Schedules, not_running};

/// Something that runs a recipe again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub schedule_id: String,
    /// The copy of the recipe that it runs.
    pub source: PathBuf,
    /// The stored recipe that the copy was made from.
    pub recipe_id: Option<String>,
    /// As the user wrote it.
    pub cron: String,
    pub paused: bool,
    /// When its latest run began.
    pub last_run: Option<Timestamp>,
    /// When it is due next; `None` while paused.
    pub next_run: Option<Timestamp>,
    pub run: Option<ScheduleRun>,
    pub create_time: Option<Timestamp>,
    pub skipped_runs: u32,
}

/// A run in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRun {
    pub session_id: SessionId,
    pub turn_id: TurnId,
    pub start_time: Timestamp,
}

/// Changes of a schedule; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct SchedulePatch {
    pub cron: Option<String>,
    pub paused: Option<bool>,
    pub recipe: Option<crate::recipes::RecipeRequest>,
}
