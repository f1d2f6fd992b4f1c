//! Goose's `schedule.json`: a list of jobs, each running a recipe's file again and again.
//!
//! What a job says and this build does not know is kept. gander's own facts stand below the key `gander`; that Goose
//! drops them when it writes the file costs nothing that runs depend on.

use gander_domain::{ErrorReason, Timestamp};
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{FormatError, error::json_type};

/// One job.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Job {
    pub id: String,
    /// Absolute path of the recipe's file.
    pub source: String,
    /// As the user wrote it: five fields, or six with seconds first.
    pub cron: String,
    pub last_run: Option<Timestamp>,
    pub paused: bool,
    /// Whether a run was in progress when the file was written.
    pub currently_running: bool,
    pub current_session_id: Option<String>,
    pub run_start: Option<Timestamp>,
    pub extra: JobExtra,
    /// Fields that this build does not know.
    pub unknown: Map<String, Value>,
}

/// Facts that Goose does not keep.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobExtra {
    pub create_time: Option<Timestamp>,
    /// Due runs that were skipped.
    pub skipped_runs: u32,
    /// The stored recipe that it was made from.
    pub recipe_id: Option<String>,
    /// Where its sessions work.
    pub working_directory: Option<String>,
}

/// Reads the file. An empty text is an empty list.
///
/// # Errors
/// The text is no list of jobs; names the job and field.
pub fn read_jobs(text: &str) -> Result<Vec<Job>, FormatError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|e| wrong("schedule", format!("line {}: the text is no JSON", e.line())))?;
    let Value::Array(list) = value else {
        return Err(wrong("schedule", format!("found {}, expected a list of jobs", json_type(&value))));
    };
    list.into_iter().enumerate().map(|(index, job)| read_job(index, job)).collect()
}

fn wrong(field: impl Into<String>, message: impl Into<String>) -> FormatError {
    FormatError { reason: ErrorReason::ConfigMalformed, field: field.into(), message: message.into() }
}

fn read_job(index: usize, value: Value) -> Result<Job, FormatError> {
    let Value::Object(mut map) = value else {
        return Err(wrong(format!("[{index}]"), format!("found {}, expected a job", json_type(&value))));
    };
    let mut take = |key: &str| map.remove(key).filter(|v| !v.is_null());
    let mut text = |key: &str| match take(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => {
            Err(wrong(format!("[{index}].{key}"), format!("found {}, expected text", json_type(&other))))
        }
    };
    let required =
        |key: &str, value: Option<String>| value.ok_or_else(|| wrong(format!("[{index}].{key}"), "missing"));
    let id = text("id")?;
    let source = text("source")?;
    let cron = text("cron")?;
    let last_run = text("last_run")?;
    let run_start = text("process_start_time")?;
    let current_session_id = text("current_session_id")?;
    let mut flag = |key: &str| map.remove(key).and_then(|v| v.as_bool()).unwrap_or(false);
    let (paused, currently_running) = (flag("paused"), flag("currently_running"));
    let extra = map.remove("gander").map(|v| read_extra(&v)).unwrap_or_default();
    Ok(Job {
        id: required("id", id)?,
        source: required("source", source)?,
        cron: required("cron", cron)?,
        // A time that cannot be read is one that is not known; it decides nothing.
        last_run: last_run.as_deref().and_then(parse_time),
        paused,
        currently_running,
        current_session_id,
        run_start: run_start.as_deref().and_then(parse_time),
        extra,
        unknown: map,
    })
}

fn read_extra(value: &Value) -> JobExtra {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    JobExtra {
        create_time: text("create_time").as_deref().and_then(parse_time),
        skipped_runs: value
            .get("skipped_runs")
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        recipe_id: text("recipe_id"),
        working_directory: text("working_directory"),
    }
}

/// Writes the file.
pub fn write_jobs(jobs: &[Job]) -> String {
    let list: Vec<Value> = jobs.iter().map(write_job).collect();
    // A value of texts, numbers and flags can always be written.
    let mut text = serde_json::to_string_pretty(&list).unwrap_or_default();
    text.push('\n');
    text
}

fn write_job(job: &Job) -> Value {
    let time = |t: Option<Timestamp>| t.and_then(format_time);
    let mut map = job.unknown.clone();
    let known = json!({
        "id": job.id,
        "source": job.source,
        "cron": job.cron,
        "last_run": time(job.last_run),
        "currently_running": job.currently_running,
        "paused": job.paused,
        "current_session_id": job.current_session_id,
        "process_start_time": time(job.run_start),
        "gander": {
            "create_time": time(job.extra.create_time),
            "skipped_runs": job.extra.skipped_runs,
            "recipe_id": job.extra.recipe_id,
            "working_directory": job.extra.working_directory,
        },
    });
    if let Value::Object(known) = known {
        map.extend(known);
    }
    Value::Object(map)
}

fn parse_time(text: &str) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000).ok().map(Timestamp)
}

fn format_time(time: Timestamp) -> Option<String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.0) * 1_000).ok()?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_goose_survives() {
        let text = r#"[{"id":"daily","source":"/d/daily.yaml","cron":"0 9 * * *","last_run":"2026-01-02T03:04:05.123456Z",
            "currently_running":false,"paused":true,"current_session_id":null,"process_start_time":null,
            "execution_mode":"background"}]"#;
        let jobs = read_jobs(text).unwrap();
        assert_eq!((jobs[0].id.as_str(), jobs[0].paused), ("daily", true));
        assert_eq!(jobs[0].last_run, Some(Timestamp(1_767_323_045_123_456)));
        let again = read_jobs(&write_jobs(&jobs)).unwrap();
        assert_eq!(again, jobs);
        assert_eq!(again[0].unknown["execution_mode"], "background");
    }

    #[test]
    fn our_own_facts_survive() {
        let extra = JobExtra {
            create_time: Some(Timestamp(1_000_000)),
            skipped_runs: 3,
            recipe_id: Some("abc".into()),
            working_directory: Some("/w".into()),
        };
        let job =
            Job { id: "a".into(), source: "/s".into(), cron: "* * * * *".into(), extra, ..Job::default() };
        assert_eq!(read_jobs(&write_jobs(std::slice::from_ref(&job))).unwrap(), [job]);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, field) in [
            ("{}", "schedule"),
            ("[1]", "[0]"),
            (r#"[{"id":"a","source":"s"}]"#, "[0].cron"),
            (r#"[{"id":1,"source":"s","cron":"c"}]"#, "[0].id"),
            ("[", "schedule"),
        ] {
            assert_eq!(read_jobs(text).unwrap_err().field, field, "{text}");
        }
        assert_eq!(read_jobs(" ").unwrap(), []);
    }
}
