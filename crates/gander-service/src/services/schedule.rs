//! ScheduleService. Runs are sessions: this service starts and names them, the others show them.

use gander_domain::ErrorDetail;
use gander_engine::{CreateSchedule, Schedule, SchedulePatch};
use gander_proto::v1::{self as pb, schedule_service_server::ScheduleService};
use tonic::{Request, Response, Status};

use super::recipe::source_from_pb;
use crate::{
    Api,
    context::incoming,
    convert::{At, Violations, int32, non_empty, time_to_pb},
    error::IntoStatus as _,
};

type Answer<T> = Result<Response<T>, Status>;

fn schedule_to_pb(schedule: &Schedule) -> pb::Schedule {
    let state = match (&schedule.run, schedule.paused) {
        (Some(_), _) => pb::ScheduleState::Running,
        (None, true) => pb::ScheduleState::Paused,
        (None, false) => pb::ScheduleState::Idle,
    };
    let file_path = schedule.source.to_string_lossy().into_owned();
    pb::Schedule {
        schedule_id: schedule.schedule_id.clone(),
        recipe: Some(pb::RecipeSource {
            source: Some(pb::recipe_source::Source::FilePath(file_path)),
            ..pb::RecipeSource::default()
        }),
        cron: schedule.cron.clone(),
        paused: schedule.paused,
        state: state as i32,
        last_run_time: schedule.last_run.map(time_to_pb),
        next_run_time: schedule.next_run.map(time_to_pb),
        running_session_id: schedule.run.as_ref().map(|r| r.session_id.to_string()).unwrap_or_default(),
        run_start_time: schedule.run.as_ref().map(|r| time_to_pb(r.start_time)),
        create_time: schedule.create_time.map(time_to_pb),
        skipped_run_count: int32(schedule.skipped_runs),
        recipe_id: schedule.recipe_id.clone().unwrap_or_default(),
    }
}

fn schedule_id(text: String) -> Result<String, ErrorDetail> {
    let mut v = Violations::default();
    let id = v.name(&At::root("schedule_id"), text);
    v.finish(Some(id))
}

fn create_schedule(request: pb::CreateScheduleRequest) -> Result<CreateSchedule, ErrorDetail> {
    let mut v = Violations::default();
    let recipe = source_from_pb(request.recipe.unwrap_or_default(), &At::root("recipe"), &mut v);
    let cron = v.name(&At::root("cron"), request.cron);
    let schedule_id = non_empty(v.short(&At::root("schedule_id"), request.schedule_id));
    let recipe = v.finish(recipe)?;
    Ok(CreateSchedule {
        schedule_id,
        recipe,
        cron,
        paused: request.paused,
        working_directory: non_empty(request.working_directory),
    })
}

fn update_schedule(request: pb::UpdateScheduleRequest) -> Result<(String, SchedulePatch), ErrorDetail> {
    let mut v = Violations::default();
    let mask = request.update_mask.unwrap_or_default().paths;
    let wanted = request.schedule.unwrap_or_default();
    let root = At::root("schedule");
    let id = v.name(&root.field("schedule_id"), wanted.schedule_id);
    if mask.is_empty() {
        v.add(&At::root("update_mask"), "must name at least one of cron, paused, recipe");
    }
    let mut patch = SchedulePatch::default();
    for path in &mask {
        match path.as_str() {
            "cron" => patch.cron = Some(v.name(&root.field("cron"), wanted.cron.clone())),
            "paused" => patch.paused = Some(wanted.paused),
            "recipe" => {
                let source = wanted.recipe.clone().unwrap_or_default();
                patch.recipe = source_from_pb(source, &root.field("recipe"), &mut v);
            }
            other => v.add(
                &At::root("update_mask"),
                format!("{other:?} cannot be set; these can: cron, paused, recipe"),
            ),
        }
    }
    v.finish(Some((id, patch)))
}

#[tonic::async_trait]
impl ScheduleService for Api {
    async fn create_schedule(
        &self,
        request: Request<pb::CreateScheduleRequest>,
    ) -> Answer<pb::CreateScheduleResponse> {
        let (context, request) = incoming(request)?;
        let request = create_schedule(request).or_status()?;
        let made = self.run(|engine| async move { engine.create_schedule(&context, request).await }).await?;
        Ok(Response::new(pb::CreateScheduleResponse { schedule: Some(schedule_to_pb(&made)) }))
    }

    async fn get_schedule(
        &self,
        request: Request<pb::GetScheduleRequest>,
    ) -> Answer<pb::GetScheduleResponse> {
        let id = schedule_id(request.into_inner().schedule_id).or_status()?;
        let found = self.run_blocking(move |engine| engine.get_schedule(&id)).await?;
        Ok(Response::new(pb::GetScheduleResponse { schedule: Some(schedule_to_pb(&found)) }))
    }

    async fn list_schedules(
        &self,
        _request: Request<pb::ListSchedulesRequest>,
    ) -> Answer<pb::ListSchedulesResponse> {
        let all = self.run_blocking(gander_engine::Engine::list_schedules).await?;
        Ok(Response::new(pb::ListSchedulesResponse { schedules: all.iter().map(schedule_to_pb).collect() }))
    }

    async fn update_schedule(
        &self,
        request: Request<pb::UpdateScheduleRequest>,
    ) -> Answer<pb::UpdateScheduleResponse> {
        let (context, request) = incoming(request)?;
        let (id, patch) = update_schedule(request).or_status()?;
        let changed =
            self.run(|engine| async move { engine.update_schedule(&context, &id, patch).await }).await?;
        Ok(Response::new(pb::UpdateScheduleResponse { schedule: Some(schedule_to_pb(&changed)) }))
    }

    async fn delete_schedule(
        &self,
        request: Request<pb::DeleteScheduleRequest>,
    ) -> Answer<pb::DeleteScheduleResponse> {
        let (context, request) = incoming(request)?;
        let id = schedule_id(request.schedule_id).or_status()?;
        let allow_missing = request.allow_missing;
        self.run(|engine| async move { engine.delete_schedule(&context, &id, allow_missing).await }).await?;
        Ok(Response::new(pb::DeleteScheduleResponse {}))
    }

    async fn run_schedule(
        &self,
        request: Request<pb::RunScheduleRequest>,
    ) -> Answer<pb::RunScheduleResponse> {
        let (context, request) = incoming(request)?;
        let id = schedule_id(request.schedule_id).or_status()?;
        let run = self.run(|engine| async move { engine.run_schedule(&context, &id).await }).await?;
        Ok(Response::new(pb::RunScheduleResponse {
            session_id: run.session_id.to_string(),
            turn_id: run.turn_id.to_string(),
            sequence: run.sequence,
        }))
    }

    async fn cancel_schedule_run(
        &self,
        request: Request<pb::CancelScheduleRunRequest>,
    ) -> Answer<pb::CancelScheduleRunResponse> {
        let (context, request) = incoming(request)?;
        let id = schedule_id(request.schedule_id).or_status()?;
        let done = self.run(|engine| async move { engine.cancel_schedule_run(&context, &id).await }).await?;
        Ok(Response::new(pb::CancelScheduleRunResponse {
            session_id: done.value.to_string(),
            sequence: done.sequence,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_told_at_once() {
        let fields = |error: ErrorDetail| error.violations.into_iter().map(|v| v.field).collect::<Vec<_>>();
        let error = create_schedule(pb::CreateScheduleRequest::default()).unwrap_err();
        assert_eq!(fields(error), ["recipe", "cron"]);
        let mask = |paths: &[&str]| {
            Some(prost_types::FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() })
        };
        let request =
            pb::UpdateScheduleRequest { update_mask: mask(&["cron", "state"]), ..Default::default() };
        assert_eq!(
            fields(update_schedule(request).unwrap_err()),
            ["schedule.schedule_id", "schedule.cron", "update_mask"]
        );
        let schedule = pb::Schedule { schedule_id: "a".into(), paused: true, ..Default::default() };
        let request = pb::UpdateScheduleRequest {
            schedule: Some(schedule),
            update_mask: mask(&["paused"]),
            ..Default::default()
        };
        let (id, patch) = update_schedule(request).unwrap();
        assert_eq!((id.as_str(), patch.paused, patch.cron), ("a", Some(true), None));
    }
}
