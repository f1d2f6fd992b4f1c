use axum::http::Method;
use gander_proto::v1::{self as pb, ErrorReason, recipe_source::Source, session_event::Payload};
use serde_json::{Value, json};
use tonic::Code;

use super::id_of;
use crate::testing::Daemon;

fn time(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn schedule(source: Source) -> pb::Schedule {
    pb::Schedule {
        schedule_id: "daily".to_owned(),
        recipe: Some(pb::RecipeSource { source: Some(source), ..Default::default() }),
        cron: "0 9 * * *".to_owned(),
        ..Default::default()
    }
}

fn inline() -> pb::Schedule {
    schedule(Source::RecipeJson(json!({"title": "Daily News"}).to_string()))
}

fn idle(source: &str) -> Value {
    json!({"id": "daily", "source": source, "cron": "0 9 * * *", "last_run": null, "currently_running": false,
        "paused": false, "current_session_id": null, "process_start_time": null})
}

#[test]
fn ids_have_no_blanks() {
    for (name, expected) in
        [("daily", "daily"), (" my job ", "my-job"), ("a/b", "a-b"), ("a.b_c-1", "a.b_c-1")]
    {
        assert_eq!(id_of(name), expected);
    }
}

#[tokio::test]
async fn a_job_is_created_from_a_recipe() {
    let made = pb::CreateScheduleResponse { schedule: Some(inline()) };
    let daemon = Daemon::new().on("ScheduleService/CreateSchedule", &made);
    let recipe = json!({"title": "Daily News", "description": "d", "prompt": "p"});
    let body = json!({"id": "my job", "recipe": recipe, "cron": "0 9 * * *"});
    assert_eq!(daemon.post("/schedule/create", body).await.ok(), idle("Daily News"));
    let request: pb::CreateScheduleRequest = daemon.request("ScheduleService/CreateSchedule");
    assert_eq!((request.schedule_id.as_str(), request.cron.as_str()), ("my-job", "0 9 * * *"));
    let Some(Source::RecipeJson(sent)) = request.recipe.unwrap().source else { panic!("no recipe") };
    assert_eq!(serde_json::from_str::<Value>(&sent).unwrap(), recipe);
}

#[tokio::test]
async fn what_cannot_be_created_has_goose_s_status() {
    let body = |id: &str| json!({"id": id, "recipe": {}, "cron": "x"});
    for id in ["", "  ", "a/b", "ä"] {
        assert_eq!(Daemon::new().post("/schedule/create", body(id)).await.status, 400, "{id:?}");
    }
    for (code, reason, status) in [
        (Code::AlreadyExists, ErrorReason::ScheduleExists, 409),
        (Code::InvalidArgument, ErrorReason::CronInvalid, 400),
        (Code::InvalidArgument, ErrorReason::RecipeInvalid, 400),
    ] {
        let daemon = Daemon::new().fails("ScheduleService/CreateSchedule", code, reason, "why");
        let reply = daemon.post("/schedule/create", body("a")).await;
        assert_eq!(reply.failed(), (status, "why".to_owned()), "{reason:?}");
    }
}

#[tokio::test]
async fn jobs_show_where_their_recipe_is() {
    let schedules = vec![
        inline(),
        schedule(Source::FilePath("/r/a.yaml".to_owned())),
        schedule(Source::RecipeId("known".to_owned())),
        schedule(Source::RecipeId("gone".to_owned())),
    ];
    let recipe =
        pb::Recipe { recipe_id: "known".to_owned(), file_path: "/r/b.yaml".to_owned(), ..Default::default() };
    let daemon =
        Daemon::new().on("ScheduleService/ListSchedules", &pb::ListSchedulesResponse { schedules }).on(
            "RecipeService/ListRecipes",
            &pb::ListRecipesResponse { recipes: vec![recipe], findings: vec![] },
        );
    let expected = json!({"jobs": [idle("Daily News"), idle("/r/a.yaml"), idle("/r/b.yaml"), idle("gone")]});
    assert_eq!(daemon.get("/schedule/list").await.ok(), expected);
}

#[tokio::test]
async fn a_running_job_tells_its_session() {
    let running = pb::Schedule {
        paused: true,
        state: pb::ScheduleState::Running as i32,
        last_run_time: time(1_772_700_000),
        running_session_id: "20260305_1".to_owned(),
        run_start_time: time(1_772_700_060),
        ..inline()
    };
    let answer = pb::ListSchedulesResponse { schedules: vec![running.clone()] };
    let daemon = Daemon::new().on("ScheduleService/ListSchedules", &answer);
    let expected = json!({"jobs": [{"id": "daily", "source": "Daily News", "cron": "0 9 * * *",
        "last_run": "2026-03-05T08:40:00Z", "currently_running": true, "paused": true,
        "current_session_id": "20260305_1", "process_start_time": "2026-03-05T08:41:00Z"}]});
    assert_eq!(daemon.get("/schedule/list").await.ok(), expected);

    let answer = pb::GetScheduleResponse { schedule: Some(running) };
    let daemon = Daemon::new().on("ScheduleService/GetSchedule", &answer);
    let inspected = daemon.get("/schedule/daily/inspect").await.ok();
    assert_eq!(inspected["sessionId"], "20260305_1");
    assert_eq!(inspected["processStartTime"], "2026-03-05T08:41:00Z");
    assert!(inspected["runningDurationSeconds"].as_i64().unwrap() > 0);

    let answer = pb::GetScheduleResponse { schedule: Some(inline()) };
    let daemon = Daemon::new().on("ScheduleService/GetSchedule", &answer);
    let nothing = json!({"sessionId": null, "processStartTime": null, "runningDurationSeconds": null});
    assert_eq!(daemon.get("/schedule/daily/inspect").await.ok(), nothing);
}

#[tokio::test]
async fn changes_name_the_field_they_change() {
    let changed = || {
        let answer = pb::UpdateScheduleResponse { schedule: Some(inline()) };
        Daemon::new().on("ScheduleService/UpdateSchedule", &answer)
    };
    let sent = |daemon: &Daemon| {
        let request: pb::UpdateScheduleRequest = daemon.request("ScheduleService/UpdateSchedule");
        (request.update_mask.unwrap().paths, request.schedule.unwrap())
    };
    let daemon = changed();
    let body = Some(json!({"cron": "0 10 * * *"}));
    assert_eq!(daemon.ask(Method::PUT, "/schedule/my%20job", body).await.ok(), idle("Daily News"));
    let (mask, schedule) = sent(&daemon);
    assert_eq!((mask, schedule.cron.as_str()), (vec!["cron".to_owned()], "0 10 * * *"));
    assert_eq!(schedule.schedule_id, "my-job");

    for (path, paused) in [("pause", true), ("unpause", false)] {
        let daemon = changed();
        let reply = daemon.post(&format!("/schedule/daily/{path}"), Value::Null).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0));
        let (mask, schedule) = sent(&daemon);
        assert_eq!((mask, schedule.paused), (vec!["paused".to_owned()], paused));
    }
}

#[tokio::test]
async fn unknown_jobs_are_404_everywhere() {
    let none = |method: &str| {
        let method = format!("ScheduleService/{method}");
        Daemon::new().fails(&method, Code::NotFound, ErrorReason::ScheduleNotFound, "there is no schedule x")
    };
    let table = [
        ("UpdateSchedule", Method::PUT, "/schedule/x", Some(json!({"cron": "0 9 * * *"}))),
        ("DeleteSchedule", Method::DELETE, "/schedule/delete/x", None),
        ("RunSchedule", Method::POST, "/schedule/x/run_now", None),
        ("UpdateSchedule", Method::POST, "/schedule/x/pause", None),
        ("UpdateSchedule", Method::POST, "/schedule/x/unpause", None),
        ("CancelScheduleRun", Method::POST, "/schedule/x/kill", None),
        ("GetSchedule", Method::GET, "/schedule/x/inspect", None),
    ];
    for (method, verb, path, body) in table {
        let reply = none(method).ask(verb, path, body).await;
        assert_eq!(reply.failed(), (404, "there is no schedule x".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_job_that_does_not_run_cannot_be_killed() {
    let method = "ScheduleService/CancelScheduleRun";
    let daemon = Daemon::new().on(method, &pb::CancelScheduleRunResponse::default());
    assert!(daemon.post("/schedule/daily/kill", Value::Null).await.ok()["message"].is_string());
    let daemon = Daemon::new().fails(
        method,
        Code::FailedPrecondition,
        ErrorReason::ScheduleNotRunning,
        "does not run",
    );
    assert_eq!(daemon.post("/schedule/daily/kill", Value::Null).await.status, 400);
}

/// The run's end as the daemon's log has it.
fn ended(sequence: i64, turn_id: &str, state: pb::TurnState) -> pb::WatchSessionResponse {
    let turn = pb::Turn { turn_id: turn_id.to_owned(), state: state as i32, ..Default::default() };
    let event = pb::SessionEvent {
        sequence,
        session_id: "s".to_owned(),
        turn_id: turn_id.to_owned(),
        payload: Some(Payload::TurnEnded(Box::new(pb::TurnEnded { turn: Some(turn) }))),
        ..Default::default()
    };
    pb::WatchSessionResponse { event: Some(event) }
}

#[tokio::test]
async fn running_now_waits_for_the_end_of_the_run() {
    for (state, expected) in [
        (pb::TurnState::Completed, "s"),
        (pb::TurnState::Failed, "s"),
        (pb::TurnState::Cancelled, "CANCELLED"),
    ] {
        let run =
            pb::RunScheduleResponse { session_id: "s".to_owned(), turn_id: "t".to_owned(), sequence: 4 };
        let daemon = Daemon::new().on("ScheduleService/RunSchedule", &run).streams(
            "SessionService/WatchSession",
            &[ended(5, "another", pb::TurnState::Failed), ended(6, "t", state)],
        );
        let reply = daemon.post("/schedule/daily/run_now", Value::Null).await;
        assert_eq!(reply.ok(), json!({ "session_id": expected }));
        let watch: pb::WatchSessionRequest = daemon.request("SessionService/WatchSession");
        assert_eq!((watch.session_id.as_str(), watch.after_sequence), ("s", Some(3)));
    }
}

#[tokio::test]
async fn runs_are_listed_to_the_limit_across_pages() {
    let session = |n: usize| pb::Session {
        session_id: format!("s{n}"),
        title: format!("Run {n}"),
        working_directory: "/w".to_owned(),
        schedule_id: "daily".to_owned(),
        message_count: 3,
        create_time: time(1_772_700_000),
        usage: Some(pb::SessionUsage {
            last_call: Some(pb::Usage {
                input_tokens: Some(5),
                output_tokens: Some(2),
                ..Default::default()
            }),
            totals: Some(pb::Usage { total_tokens: Some(5_000_000_000), ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let page = |sessions: Vec<pb::Session>, next: &str| pb::ListSessionsResponse {
        sessions,
        next_page_token: next.to_owned(),
    };
    let daemon = Daemon::new()
        .on("SessionService/ListSessions", &page(vec![session(1), session(2)], "more"))
        .on("SessionService/ListSessions", &page(vec![session(3)], ""));
    let listed = daemon.get("/schedule/daily/sessions?limit=10").await.ok();
    let first = json!({"id": "s1", "name": "Run 1", "createdAt": "2026-03-05T08:40:00Z", "workingDir": "/w",
        "scheduleId": "daily", "messageCount": 3, "totalTokens": 7, "inputTokens": 5, "outputTokens": 2,
        "accumulatedTotalTokens": i32::MAX, "accumulatedInputTokens": null, "accumulatedOutputTokens": null});
    assert_eq!(listed[0], first);
    assert_eq!(listed.as_array().unwrap().len(), 3);
    let requests: Vec<pb::ListSessionsRequest> = daemon.requests("SessionService/ListSessions");
    assert_eq!(
        requests.iter().map(|r| (r.page_size, r.page_token.as_str())).collect::<Vec<_>>(),
        [(10, ""), (8, "more")]
    );
    assert_eq!(requests[0].schedule_id, "daily");

    let daemon = Daemon::new().on("SessionService/ListSessions", &page(vec![session(1), session(2)], "more"));
    assert_eq!(daemon.get("/schedule/daily/sessions?limit=1").await.ok().as_array().unwrap().len(), 1);
    assert_eq!(daemon.get("/schedule/daily/sessions?limit=0").await.ok(), json!([]));
    for query in ["", "?limit=", "?limit=x", "?limit=-1"] {
        assert_eq!(daemon.get(&format!("/schedule/daily/sessions{query}")).await.status, 400, "{query}");
    }
}
