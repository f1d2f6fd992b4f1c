//! `/schedule/*`: recipes at given times. The daemon fires them, once however many windows are open.

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{delete, get, post, put},
};
use futures::StreamExt as _;
use gander_client::WatchOptions;
use gander_proto::v1::{
    CancelScheduleRunRequest, CreateScheduleRequest, DeleteScheduleRequest, GetRecipeRequest,
    GetScheduleRequest, ListRecipesRequest, ListSchedulesRequest, ListSessionsRequest, Recipe, RecipeSource,
    RunScheduleRequest, Schedule, ScheduleState, Session, SessionKind, TurnState, UpdateScheduleRequest,
    Usage, recipe_source::Source, session_event::Payload,
};
use serde::Deserialize;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::config::json_value;
use crate::{
    App,
    error::ApiError,
    extract::{Json, Query},
};

type Answer<T = Value> = Result<Json<T>, ApiError>;

/// Most runs that are listed.
const MOST_SESSIONS: usize = 1000;
const PAGE: usize = 100;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/schedule/create", post(create))
        .route("/schedule/list", get(list))
        .route("/schedule/delete/{id}", delete(remove))
        .route("/schedule/{id}", put(update))
        .route("/schedule/{id}/run_now", post(run_now))
        .route("/schedule/{id}/pause", post(pause))
        .route("/schedule/{id}/unpause", post(unpause))
        .route("/schedule/{id}/kill", post(kill))
        .route("/schedule/{id}/inspect", get(inspect))
        .route("/schedule/{id}/sessions", get(sessions))
}

/// Goose allows blanks in ids, the API does not: both sides see the same id with dashes. Anything else that the API
/// does not allow becomes a dash as well; the daemon refuses what is too long.
pub(super) fn id_of(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    name.trim().chars().map(allowed).collect()
}

/// A point in time as Goose writes it.
pub(super) fn rfc3339(time: &prost_types::Timestamp) -> Option<String> {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()
}

fn optional(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A job in Goose's form. `source` is the recipe's file, or its title when it has none.
fn job(schedule: &Schedule, recipes: &[Recipe]) -> Value {
    let source = match schedule.recipe.as_ref().and_then(|recipe| recipe.source.as_ref()) {
        Some(Source::FilePath(path)) => path.clone(),
        Some(Source::RecipeId(id)) => {
            let stored = recipes.iter().find(|recipe| recipe.recipe_id == *id);
            stored.map_or_else(|| id.clone(), |recipe| recipe.file_path.clone())
        }
        Some(Source::RecipeJson(text)) => json_value(text)["title"].as_str().unwrap_or_default().to_owned(),
        Some(Source::Deeplink(_)) | None => String::new(),
    };
    json!({
        "id": schedule.schedule_id,
        "source": source,
        "cron": schedule.cron,
        "last_run": schedule.last_run_time.as_ref().and_then(rfc3339),
        "currently_running": schedule.state() == ScheduleState::Running,
        "paused": schedule.paused,
        "current_session_id": optional(&schedule.running_session_id),
        "process_start_time": schedule.run_start_time.as_ref().and_then(rfc3339),
    })
}

fn names_stored_recipe(schedule: &Schedule) -> Option<&str> {
    match schedule.recipe.as_ref()?.source.as_ref()? {
        Source::RecipeId(id) => Some(id),
        _ => None,
    }
}

/// The same with the file of a stored recipe, if it still is there.
async fn job_of(app: &App, schedule: Option<Schedule>) -> Value {
    let schedule = schedule.unwrap_or_default();
    let mut recipes = Vec::new();
    if let Some(id) = names_stored_recipe(&schedule) {
        let found = app.client().recipes().get_recipe(GetRecipeRequest { recipe_id: id.to_owned() }).await;
        recipes.extend(found.ok().and_then(|answer| answer.into_inner().recipe));
    }
    job(&schedule, &recipes)
}

#[derive(Deserialize)]
struct Create {
    id: String,
    recipe: Value,
    cron: String,
}

async fn create(State(app): State<App>, Json(body): Json<Create>) -> Answer {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.');
    if body.id.trim().is_empty() || !body.id.chars().all(plain) {
        return Err(ApiError::bad_request(
            "id: must be letters, digits, blanks, dots, dashes and underscores",
        ));
    }
    let source = Source::RecipeJson(body.recipe.to_string());
    let request = CreateScheduleRequest {
        schedule_id: id_of(&body.id),
        recipe: Some(RecipeSource { source: Some(source), ..Default::default() }),
        cron: body.cron,
        ..Default::default()
    };
    let made = app.client().schedules().create_schedule(request).await?.into_inner();
    Ok(Json(job_of(&app, made.schedule).await))
}

async fn list(State(app): State<App>) -> Answer {
    let listed =
        app.client().schedules().list_schedules(ListSchedulesRequest {}).await?.into_inner().schedules;
    let mut recipes = Vec::new();
    if listed.iter().any(|schedule| names_stored_recipe(schedule).is_some()) {
        recipes =
            app.client().recipes().list_recipes(ListRecipesRequest::default()).await?.into_inner().recipes;
    }
    let jobs: Vec<Value> = listed.iter().map(|schedule| job(schedule, &recipes)).collect();
    Ok(Json(json!({ "jobs": jobs })))
}

async fn change(app: &App, id: &str, path: &str, schedule: Schedule) -> Result<Option<Schedule>, ApiError> {
    let request = UpdateScheduleRequest {
        schedule: Some(Schedule { schedule_id: id_of(id), ..schedule }),
        update_mask: Some(prost_types::FieldMask { paths: vec![path.to_owned()] }),
        ..Default::default()
    };
    Ok(app.client().schedules().update_schedule(request).await?.into_inner().schedule)
}

#[derive(Deserialize)]
struct Update {
    cron: String,
}

async fn update(State(app): State<App>, Path(id): Path<String>, Json(body): Json<Update>) -> Answer {
    let changed = change(&app, &id, "cron", Schedule { cron: body.cron, ..Default::default() }).await?;
    Ok(Json(job_of(&app, changed).await))
}

async fn pause(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    change(&app, &id, "paused", Schedule { paused: true, ..Default::default() }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unpause(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    change(&app, &id, "paused", Schedule::default()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let request = DeleteScheduleRequest { schedule_id: id_of(&id), ..Default::default() };
    app.client().schedules().delete_schedule(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Answers when the run is over, as Goose's clients expect. A client that goes away ends nothing.
async fn run_now(State(app): State<App>, Path(id): Path<String>) -> Answer {
    let request = RunScheduleRequest { schedule_id: id_of(&id), ..Default::default() };
    let run = app.client().schedules().run_schedule(request).await?.into_inner();
    let options = WatchOptions {
        after: Some(run.sequence.saturating_sub(1)),
        exclude_deltas: true,
        until_turn_ends: run.turn_id.clone(),
    };
    let mut events = app.client().watch(run.session_id.clone(), options);
    let mut cancelled = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // The run goes on without us; what is known of it is its session.
            () = app.shutdown().cancelled() => None,
        };
        let Some(event) = event else { break };
        let event = event?;
        if let (true, Some(Payload::TurnEnded(ended))) = (event.turn_id == run.turn_id, event.payload) {
            cancelled = ended.turn.as_ref().is_some_and(|turn| turn.state() == TurnState::Cancelled);
            break;
        }
    }
    let session_id = if cancelled { "CANCELLED".to_owned() } else { run.session_id };
    Ok(Json(json!({ "session_id": session_id })))
}

async fn kill(State(app): State<App>, Path(id): Path<String>) -> Answer {
    let request = CancelScheduleRunRequest { schedule_id: id_of(&id), ..Default::default() };
    app.client().schedules().cancel_schedule_run(request).await?;
    Ok(Json(json!({ "message": format!("Cancelled the run of {id}") })))
}

async fn inspect(State(app): State<App>, Path(id): Path<String>) -> Answer {
    let request = GetScheduleRequest { schedule_id: id_of(&id) };
    let schedule =
        app.client().schedules().get_schedule(request).await?.into_inner().schedule.unwrap_or_default();
    let start = schedule.run_start_time.as_ref();
    let running = start.map(|start| (OffsetDateTime::now_utc().unix_timestamp() - start.seconds).max(0));
    Ok(Json(json!({
        "sessionId": optional(&schedule.running_session_id),
        "processStartTime": start.and_then(rfc3339),
        "runningDurationSeconds": running,
    })))
}

#[derive(Deserialize)]
struct Limit {
    limit: usize,
}

async fn sessions(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<Limit>,
) -> Answer<Vec<Value>> {
    let limit = query.limit.min(MOST_SESSIONS);
    let mut found: Vec<Value> = Vec::new();
    let mut page_token = String::new();
    while found.len() < limit {
        let request = ListSessionsRequest {
            page_size: i32::try_from(PAGE.min(limit - found.len())).unwrap_or_default(),
            page_token,
            kinds: vec![SessionKind::Scheduled as i32],
            schedule_id: id_of(&id),
            ..Default::default()
        };
        let page = app.client().sessions().list_sessions(request).await?.into_inner();
        found.extend(page.sessions.iter().map(display));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    found.truncate(limit);
    Ok(Json(found))
}

/// A session as the page of schedules shows it.
fn display(session: &Session) -> Value {
    let usage = session.usage.clone().unwrap_or_default();
    let (last, all) = (usage.last_call.unwrap_or_default(), usage.totals.unwrap_or_default());
    json!({
        "id": session.session_id,
        "name": session.title,
        "createdAt": session.create_time.as_ref().and_then(rfc3339).unwrap_or_default(),
        "workingDir": session.working_directory,
        "scheduleId": optional(&session.schedule_id),
        "messageCount": session.message_count.max(0),
        "totalTokens": total(&last).map(int32),
        "inputTokens": last.input_tokens.map(int32),
        "outputTokens": last.output_tokens.map(int32),
        "accumulatedTotalTokens": total(&all).map(int32),
        "accumulatedInputTokens": all.input_tokens.map(int32),
        "accumulatedOutputTokens": all.output_tokens.map(int32),
    })
}

fn total(usage: &Usage) -> Option<i64> {
    let sum = || match (usage.input_tokens, usage.output_tokens) {
        (None, None) => None,
        (input, output) => Some(input.unwrap_or_default().saturating_add(output.unwrap_or_default())),
    };
    usage.total_tokens.or_else(sum)
}

/// Goose counts tokens in 32 bits.
fn int32(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
