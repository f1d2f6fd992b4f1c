//! `gander schedule`: recipes that the daemon runs at given times.

use futures::StreamExt as _;
use gander_client::{Client, WatchOptions};
use gander_proto::v1::{
    CancelScheduleRunRequest, CreateScheduleRequest, DeleteScheduleRequest, GetScheduleRequest,
    ListSchedulesRequest, ListSessionsRequest, RunScheduleRequest, Schedule, ScheduleState, SessionKind,
    TurnState, UpdateScheduleRequest, session_event::Payload,
};

use super::{
    connect::{Context, Embed},
    error::{CliError, CliResult, exit},
    json,
    output::{clean, table},
    recipe::{self, args::ScheduleCommand},
    run::path_text,
};

pub(super) async fn schedule(context: &Context, command: ScheduleCommand) -> CliResult<u8> {
    let connected = context.connect(Embed::Allowed).await?;
    let result = Box::pin(run(context, &connected.client, command)).await;
    connected.close().await;
    result
}

async fn run(context: &Context, client: &Client, command: ScheduleCommand) -> CliResult<u8> {
    let mut schedules = client.schedules();
    match command {
        ScheduleCommand::List { json } => {
            let all = schedules.list_schedules(ListSchedulesRequest {}).await?.into_inner().schedules;
            if json.json {
                context.out.line(&json::array(&all)?)?;
            } else if all.is_empty() {
                context.out.note("there are no schedules; `gander schedule add` makes one");
            } else {
                context.out.print(&table(&rows(&all), context.out.width, context.out.color))?;
            }
        }
        ScheduleCommand::Add { id, cron, recipe, params, cwd, paused, trust } => {
            let interactive = context.out.stdin_is_terminal && context.out.stderr_is_terminal;
            let ready = recipe::ready(context, client, &recipe, &params, trust, interactive).await?;
            let directory = cwd.as_deref().map_or_else(|| context.cwd.clone(), |d| context.absolute(d));
            let request = CreateScheduleRequest {
                schedule_id: id.unwrap_or_default(),
                recipe: Some(ready.source),
                cron,
                paused,
                working_directory: path_text(&directory)?,
                idempotency_key: uuid::Uuid::now_v7().to_string(),
            };
            let made = schedules.create_schedule(request).await?.into_inner().schedule.unwrap_or_default();
            context.out.line(&told(&made))?;
            context
                .out
                .note("schedules run while a daemon does: `gander serve`, or the setting gander.linger");
        }
        ScheduleCommand::Show { id, json } => {
            let request = GetScheduleRequest { schedule_id: id };
            let found = schedules.get_schedule(request).await?.into_inner().schedule.unwrap_or_default();
            if json.json {
                context.out.line(&json::pretty(&json::value(&found)?))?;
            } else {
                show(context, client, &found).await?;
            }
        }
        ScheduleCommand::Cron { id, cron } => {
            let wanted = Schedule { schedule_id: id, cron, ..Schedule::default() };
            context.out.line(&told(&update(client, wanted, "cron").await?))?;
        }
        ScheduleCommand::Pause { id } => {
            let wanted = Schedule { schedule_id: id, paused: true, ..Schedule::default() };
            context.out.line(&told(&update(client, wanted, "paused").await?))?;
        }
        ScheduleCommand::Resume { id } => {
            let wanted = Schedule { schedule_id: id, ..Schedule::default() };
            context.out.line(&told(&update(client, wanted, "paused").await?))?;
        }
        ScheduleCommand::Run { id } => return run_now(context, client, id).await,
        ScheduleCommand::Cancel { id } => {
            let request = CancelScheduleRunRequest { schedule_id: id, ..Default::default() };
            let done = schedules.cancel_schedule_run(request).await?.into_inner();
            context.out.line(&format!("session {} is cancelled", done.session_id))?;
        }
        ScheduleCommand::Delete { id } => {
            let request = DeleteScheduleRequest { schedule_id: id, ..Default::default() };
            schedules.delete_schedule(request).await?;
        }
    }
    Ok(exit::OK)
}

async fn update(client: &Client, wanted: Schedule, field: &str) -> CliResult<Schedule> {
    let request = UpdateScheduleRequest {
        schedule: Some(wanted),
        update_mask: Some(prost_types::FieldMask { paths: vec![field.to_owned()] }),
        idempotency_key: String::new(),
    };
    Ok(client.schedules().update_schedule(request).await?.into_inner().schedule.unwrap_or_default())
}

/// Runs a schedule and waits for its end: the run belongs to the daemon, leaving does not end it.
async fn run_now(context: &Context, client: &Client, id: String) -> CliResult<u8> {
    let idempotency_key = uuid::Uuid::now_v7().to_string();
    let request = RunScheduleRequest { schedule_id: id, idempotency_key };
    let run = client.schedules().run_schedule(request).await?.into_inner();
    context.out.note(&format!("session {}", run.session_id));
    let options = WatchOptions { after: Some(0), exclude_deltas: true, until_turn_ends: run.turn_id.clone() };
    let mut events = client.watch(&run.session_id, options);
    while let Some(event) = events.next().await {
        let Some(Payload::TurnEnded(ended)) = event?.payload else { continue };
        let turn = ended.turn.unwrap_or_default();
        if turn.turn_id != run.turn_id {
            continue;
        }
        return match (turn.state(), turn.error) {
            (TurnState::Completed, _) => {
                context.out.line(&run.session_id)?;
                Ok(exit::OK)
            }
            (_, Some(error)) => Err(CliError::detail(&error)),
            (state, None) => Err(CliError::new(format!("the run ended as {}", state.as_str_name()))),
        };
    }
    Err(CliError::new("the stream of events ended before the run"))
}

fn state(schedule: &Schedule) -> &'static str {
    match schedule.state() {
        ScheduleState::Running => "running",
        ScheduleState::Paused => "paused",
        _ => "waiting",
    }
}

fn time(at: Option<&prost_types::Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn told(schedule: &Schedule) -> String {
    match &schedule.next_run_time {
        Some(next) => format!("{} is due next at {next}", clean(&schedule.schedule_id)),
        None => format!("{} is {}", clean(&schedule.schedule_id), state(schedule)),
    }
}

fn rows(all: &[Schedule]) -> Vec<Vec<String>> {
    let mut rows = vec![["ID", "WHEN", "STATE", "NEXT", "LAST"].map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|s| {
        let (next, last) = (time(s.next_run_time.as_ref()), time(s.last_run_time.as_ref()));
        vec![clean(&s.schedule_id), clean(&s.cron), state(s).to_owned(), next, last]
    }));
    rows
}

async fn show(context: &Context, client: &Client, schedule: &Schedule) -> CliResult<()> {
    let source = schedule.recipe.as_ref().and_then(|r| r.source.clone());
    let file = match source {
        Some(gander_proto::v1::recipe_source::Source::FilePath(path)) => path,
        _ => String::new(),
    };
    let mut lines = vec![
        format!("{}: {} · {}", clean(&schedule.schedule_id), clean(&schedule.cron), state(schedule)),
        format!("recipe   {}", clean(&file)),
        format!("next     {}", time(schedule.next_run_time.as_ref())),
        format!("last     {}", time(schedule.last_run_time.as_ref())),
        format!("skipped  {}", schedule.skipped_run_count),
    ];
    let request = ListSessionsRequest {
        schedule_id: schedule.schedule_id.clone(),
        kinds: vec![SessionKind::Scheduled as i32],
        page_size: 10,
        ..ListSessionsRequest::default()
    };
    let sessions = client.sessions().list_sessions(request).await?.into_inner().sessions;
    lines.extend(
        sessions.iter().map(|s| format!("session  {}  {}", s.session_id, time(s.create_time.as_ref()))),
    );
    for line in lines {
        context.out.line(&line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_tells_when_it_is_due() {
        let at = prost_types::Timestamp { seconds: 1_700_000_040, nanos: 0 };
        let waiting = Schedule { schedule_id: "a".into(), next_run_time: Some(at), ..Schedule::default() };
        assert_eq!(told(&waiting), "a is due next at 2023-11-14T22:14:00Z");
        let paused =
            Schedule { schedule_id: "a".into(), state: ScheduleState::Paused as i32, ..Schedule::default() };
        assert_eq!(told(&paused), "a is paused");
        assert_eq!(rows(&[waiting])[1], ["a", "", "waiting", "2023-11-14T22:14:00Z", "-"]);
    }
}
