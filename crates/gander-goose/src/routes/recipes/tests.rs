use gander_proto::v1::{self as pb, ErrorReason, recipe_source::Source};
use serde_json::{Value, json};
use tonic::Code;

use crate::testing::Daemon;

fn recipe() -> Value {
    json!({"version": "1.0.0", "title": "Daily News", "description": "d", "prompt": "p", "extra": {"kept": 1}})
}

fn stored() -> pb::Recipe {
    pb::Recipe {
        recipe_id: "0123456789abcdef".to_owned(),
        title: "Daily News".to_owned(),
        description: "d".to_owned(),
        recipe_json: recipe().to_string(),
        file_path: "/r/daily-news.yaml".to_owned(),
        modify_time: Some(prost_types::Timestamp { seconds: 1_772_700_000, nanos: 0 }),
        schedule_cron: String::new(),
        command_name: "daily".to_owned(),
    }
}

fn findings(severities: &[pb::RecipeSeverity]) -> pb::ValidateRecipeResponse {
    let finding = |severity: &pb::RecipeSeverity| pb::RecipeFinding {
        severity: *severity as i32,
        message: "hidden characters".to_owned(),
        ..Default::default()
    };
    pb::ValidateRecipeResponse { findings: severities.iter().map(finding).collect() }
}

fn sent(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

#[tokio::test]
async fn recipes_are_listed_as_manifests() {
    let answer = pb::ListRecipesResponse { recipes: vec![stored()], findings: vec![] };
    let daemon = Daemon::new().on("RecipeService/ListRecipes", &answer);
    let expected = json!({"manifests": [{"id": "0123456789abcdef", "recipe": recipe(),
        "file_path": "/r/daily-news.yaml", "last_modified": "2026-03-05T08:40:00Z", "schedule_cron": null,
        "slash_command": "daily"}]});
    assert_eq!(daemon.get("/recipes/list").await.ok(), expected);
}

#[tokio::test]
async fn a_recipe_is_checked_and_saved() {
    for (id, expected) in [(Value::Null, ""), (json!("abc"), "abc")] {
        let saved = pb::SaveRecipeResponse { recipe: Some(stored()), created: true };
        let daemon = Daemon::new()
            .on("RecipeService/ValidateRecipe", &findings(&[pb::RecipeSeverity::Warning]))
            .on("RecipeService/SaveRecipe", &saved);
        let reply = daemon.post("/recipes/save", json!({"recipe": recipe(), "id": id})).await;
        let expected_answer = json!({"id": "0123456789abcdef", "file_name": "daily-news.yaml",
            "file_path": "/r/daily-news.yaml"});
        assert_eq!(reply.ok(), expected_answer);
        let request: pb::SaveRecipeRequest = daemon.request("RecipeService/SaveRecipe");
        assert_eq!((sent(&request.recipe_json), request.recipe_id.as_str()), (recipe(), expected));
    }
}

#[tokio::test]
async fn hidden_characters_are_not_saved() {
    let daemon = Daemon::new().on("RecipeService/ValidateRecipe", &findings(&[pb::RecipeSeverity::Security]));
    let reply = daemon.post("/recipes/save", json!({"recipe": recipe()})).await;
    assert_eq!(reply.failed(), (400, "hidden characters".to_owned()));
    assert_eq!(daemon.calls(), ["RecipeService/ValidateRecipe"]);
}

#[tokio::test]
async fn only_security_findings_warn() {
    use pb::RecipeSeverity as S;
    for (severities, expected) in
        [(vec![], false), (vec![S::Warning, S::Error], false), (vec![S::Warning, S::Security], true)]
    {
        let daemon = Daemon::new().on("RecipeService/ValidateRecipe", &findings(&severities));
        let reply = daemon.post("/recipes/scan", json!({"recipe": recipe()})).await;
        assert_eq!(reply.ok(), json!({ "has_security_warnings": expected }));
    }
}

#[tokio::test]
async fn texts_links_and_recipes_turn_into_each_other() {
    let recipe_json = recipe().to_string();
    let parsed = pb::ParseRecipeResponse { recipe_json: recipe_json.clone() };
    let daemon = Daemon::new().on("RecipeService/ParseRecipe", &parsed);
    let reply = daemon.post("/recipes/parse", json!({"content": "title: x"})).await;
    assert_eq!(reply.ok(), json!({"recipe": recipe()}));
    let request: pb::ParseRecipeRequest = daemon.request("RecipeService/ParseRecipe");
    assert_eq!(request.text, "title: x");

    let daemon = Daemon::new()
        .on("RecipeService/FormatRecipe", &pb::FormatRecipeResponse { yaml: "title: x\n".to_owned() });
    let reply = daemon.post("/recipes/to-yaml", json!({"recipe": recipe()})).await;
    assert_eq!(reply.ok(), json!({"yaml": "title: x\n"}));

    let encoded = pb::EncodeRecipeResponse {
        payload: "eyJ9".to_owned(),
        link: "goose://recipe?config=eyJ9".to_owned(),
    };
    let daemon = Daemon::new().on("RecipeService/EncodeRecipe", &encoded);
    let reply = daemon.post("/recipes/encode", json!({"recipe": recipe()})).await;
    assert_eq!(reply.ok(), json!({"deeplink": "eyJ9"}));

    let decoded = pb::DecodeRecipeResponse { recipe_json, values: Default::default() };
    let daemon = Daemon::new().on("RecipeService/DecodeRecipe", &decoded);
    let reply = daemon.post("/recipes/decode", json!({"deeplink": "eyJ9"})).await;
    assert_eq!(reply.ok(), json!({"recipe": recipe()}));
    let request: pb::DecodeRecipeRequest = daemon.request("RecipeService/DecodeRecipe");
    assert_eq!(request.link, "eyJ9");
}

#[tokio::test]
async fn what_is_no_recipe_is_400_and_what_is_not_there_404() {
    let invalid = |method: &str| {
        Daemon::new().fails(method, Code::InvalidArgument, ErrorReason::RecipeInvalid, "title: missing")
    };
    for (method, path, body) in [
        ("ParseRecipe", "/recipes/parse", json!({"content": "x"})),
        ("FormatRecipe", "/recipes/to-yaml", json!({"recipe": {}})),
        ("EncodeRecipe", "/recipes/encode", json!({"recipe": {}})),
    ] {
        let reply = invalid(&format!("RecipeService/{method}")).post(path, body).await;
        assert_eq!(reply.failed(), (400, "title: missing".to_owned()), "{path}");
    }
    let missing = |method: &str| {
        Daemon::new().fails(method, Code::NotFound, ErrorReason::RecipeNotFound, "there is no recipe x")
    };
    for (method, path, body) in [
        ("DeleteRecipe", "/recipes/delete", json!({"id": "x"})),
        ("GetRecipe", "/recipes/schedule", json!({"id": "x", "cron_schedule": "0 9 * * *"})),
        ("SetRecipeCommand", "/recipes/slash-command", json!({"id": "x", "slash_command": "d"})),
    ] {
        let reply = missing(&format!("RecipeService/{method}")).post(path, body).await;
        assert_eq!(reply.status, 404, "{path}");
    }
}

#[tokio::test]
async fn deleting_answers_with_nothing() {
    let daemon = Daemon::new().on("RecipeService/DeleteRecipe", &pb::DeleteRecipeResponse {});
    let reply = daemon.post("/recipes/delete", json!({"id": "x"})).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0));
}

#[tokio::test]
async fn a_draft_carries_its_author_and_a_failure_its_reason() {
    let drafted = pb::DraftRecipeResponse { recipe_json: recipe().to_string(), sequence: 9 };
    let daemon = Daemon::new().on("RecipeService/DraftRecipe", &drafted);
    let body = json!({"session_id": "s", "author": {"contact": "me"}});
    let reply = daemon.post("/recipes/create", body).await.ok();
    assert_eq!(reply["error"], Value::Null);
    assert_eq!(reply["recipe"]["author"], json!({"contact": "me", "metadata": null}));
    assert_eq!(reply["recipe"]["title"], "Daily News");
    let request: pb::DraftRecipeRequest = daemon.request("RecipeService/DraftRecipe");
    assert_eq!((request.session_id.as_str(), request.author.as_str()), ("s", "me"));

    let method = "RecipeService/DraftRecipe";
    let daemon =
        Daemon::new().fails(method, Code::NotFound, ErrorReason::SessionNotFound, "there is no session s");
    let reply = daemon.post("/recipes/create", json!({"session_id": "s"})).await.ok();
    assert_eq!(reply, json!({"recipe": null, "error": "there is no session s"}));
}

fn schedule(id: &str, recipe_id: &str) -> pb::Schedule {
    let cron = "0 8 * * *".to_owned();
    pb::Schedule { schedule_id: id.to_owned(), recipe_id: recipe_id.to_owned(), cron, ..Default::default() }
}

fn with_schedules(schedules: Vec<pb::Schedule>) -> Daemon {
    Daemon::new()
        .on("RecipeService/GetRecipe", &pb::GetRecipeResponse { recipe: Some(stored()) })
        .on("ScheduleService/ListSchedules", &pb::ListSchedulesResponse { schedules })
        .on("ScheduleService/UpdateSchedule", &pb::UpdateScheduleResponse::default())
        .on("ScheduleService/DeleteSchedule", &pb::DeleteScheduleResponse {})
}

#[tokio::test]
async fn a_time_makes_a_schedule_or_changes_the_one_there_is() {
    let body = || json!({"id": "0123456789abcdef", "cron_schedule": "0 9 * * *"});
    let other = schedule("other", "another");
    let daemon = with_schedules(vec![other.clone()])
        .on("ScheduleService/CreateSchedule", &pb::CreateScheduleResponse::default());
    let reply = daemon.post("/recipes/schedule", body()).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 0));
    let made: pb::CreateScheduleRequest = daemon.request("ScheduleService/CreateSchedule");
    assert_eq!((made.schedule_id.as_str(), made.cron.as_str()), ("Daily-News", "0 9 * * *"));
    assert_eq!(made.recipe.unwrap().source, Some(Source::RecipeId("0123456789abcdef".to_owned())));

    let own = schedule("mine", "0123456789abcdef");
    let daemon = with_schedules(vec![other.clone(), own.clone()]);
    assert_eq!(daemon.post("/recipes/schedule", body()).await.status, 200);
    let changed: pb::UpdateScheduleRequest = daemon.request("ScheduleService/UpdateSchedule");
    assert_eq!(changed.update_mask.unwrap().paths, ["cron"]);
    let changed = changed.schedule.unwrap();
    assert_eq!((changed.schedule_id.as_str(), changed.cron.as_str()), ("mine", "0 9 * * *"));

    let daemon = with_schedules(vec![other, own]);
    let reply = daemon.post("/recipes/schedule", json!({"id": "x", "cron_schedule": null})).await;
    assert_eq!(reply.status, 200);
    let removed: pb::DeleteScheduleRequest = daemon.request("ScheduleService/DeleteSchedule");
    assert_eq!(removed.schedule_id, "mine");
}

#[tokio::test]
async fn a_taken_name_gets_the_recipe_s_id() {
    let method = "ScheduleService/CreateSchedule";
    let daemon = with_schedules(vec![])
        .fails(method, Code::AlreadyExists, ErrorReason::ScheduleExists, "taken")
        .on(method, &pb::CreateScheduleResponse::default());
    let body = json!({"id": "0123456789abcdef", "cron_schedule": "0 9 * * *"});
    assert_eq!(daemon.post("/recipes/schedule", body).await.status, 200);
    let requests: Vec<pb::CreateScheduleRequest> = daemon.requests(method);
    let names: Vec<_> = requests.iter().map(|request| request.schedule_id.as_str()).collect();
    assert_eq!(names, ["Daily-News", "Daily-News-0123456789abcdef"]);
}

#[tokio::test]
async fn a_command_goes_without_its_slash() {
    for (command, expected) in [(json!("/daily"), "daily"), (json!("daily"), "daily"), (Value::Null, "")] {
        let answer = pb::SetRecipeCommandResponse::default();
        let daemon = Daemon::new().on("RecipeService/SetRecipeCommand", &answer);
        let reply = daemon.post("/recipes/slash-command", json!({"id": "x", "slash_command": command})).await;
        assert_eq!(reply.status, 200);
        let request: pb::SetRecipeCommandRequest = daemon.request("RecipeService/SetRecipeCommand");
        assert_eq!(request.command_name, expected);
    }
}
