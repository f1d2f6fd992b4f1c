//! ScheduleService. The engine runs no schedules yet; every RPC says so.

use gander_proto::v1::{self as pb, schedule_service_server::ScheduleService};
use tonic::{Request, Response, Status};

use crate::{Api, error::not_implemented};

macro_rules! not_yet {
    ($($method:ident: $name:literal, $request:ident => $response:ident;)*) => {
        #[tonic::async_trait]
        impl ScheduleService for Api {$(
            async fn $method(&self, _request: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                Err(not_implemented($name))
            }
        )*}
    };
}

not_yet! {
    create_schedule: "CreateSchedule", CreateScheduleRequest => CreateScheduleResponse;
    get_schedule: "GetSchedule", GetScheduleRequest => GetScheduleResponse;
    list_schedules: "ListSchedules", ListSchedulesRequest => ListSchedulesResponse;
    update_schedule: "UpdateSchedule", UpdateScheduleRequest => UpdateScheduleResponse;
    delete_schedule: "DeleteSchedule", DeleteScheduleRequest => DeleteScheduleResponse;
    run_schedule: "RunSchedule", RunScheduleRequest => RunScheduleResponse;
    cancel_schedule_run: "CancelScheduleRun", CancelScheduleRunRequest => CancelScheduleRunResponse;
}
