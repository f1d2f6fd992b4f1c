//! Recipes and schedules over the API.

use std::collections::HashMap;

use gander_model::{
    ModelStop,
    testing::{Gate, Script},
};
use gander_proto::v1::{
    self as pb, recipe_service_client::RecipeServiceClient, recipe_source::Source,
    schedule_service_client::ScheduleServiceClient, session_event::Payload,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Harness, next, reason};

fn greeter() -> Value {
    json!({
        "title": "Greeter", "description": "Greets", "prompt": "Greet {{ who }}",
        "instructions": "Be kind to {{ who }}.", "parameters": [{"key": "who"}], "x_kept": {"a": 1},
    })
}

fn source(document: &Value, values: &[(&str, &str)]) -> pb::RecipeSource {
    pb::RecipeSource {
        source: Some(Source::RecipeJson(document.to_string())),
        values: values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Default::default()
    }
}

fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn recipes_change_their_form_and_stay_the_same() {
    let h = Harness::new([]).await;
    let mut recipes = RecipeServiceClient::new(h.transport.clone());
    let recipe_json = greeter().to_string();
    let yaml = recipes
        .format_recipe(pb::FormatRecipeRequest { recipe_json: recipe_json.clone() })
        .await
        .unwrap()
        .into_inner()
        .yaml;
    let parsed = recipes.parse_recipe(pb::ParseRecipeRequest { text: yaml }).await.unwrap().into_inner();
    assert_eq!(document(&parsed.recipe_json), greeter());
    let encoded = recipes.encode_recipe(pb::EncodeRecipeRequest { recipe_json }).await.unwrap().into_inner();
    assert_eq!(encoded.link, format!("goose://recipe?config={}", encoded.payload));
    let link = format!("{}&who=Ada", encoded.link);
    let decoded = recipes.decode_recipe(pb::DecodeRecipeRequest { link }).await.unwrap().into_inner();
    assert_eq!(document(&decoded.recipe_json), greeter());
    assert_eq!(decoded.values, HashMap::from([("who".to_owned(), "Ada".to_owned())]));
    let bad = recipes.decode_recipe(pb::DecodeRecipeRequest { link: "???".into() }).await.unwrap_err();
    assert_eq!(reason(&bad), (Code::InvalidArgument, "LINK_INVALID".into()));
    let bad = recipes.parse_recipe(pb::ParseRecipeRequest { text: "title: x".into() }).await.unwrap_err();
    assert_eq!(reason(&bad), (Code::InvalidArgument, "RECIPE_INVALID".into()));
    let request = pb::ValidateRecipeRequest { recipe: Some(source(&json!({"title": "t"}), &[])) };
    let found = recipes.validate_recipe(request).await.unwrap().into_inner().findings;
    assert_eq!((found[0].code.as_str(), found[0].field_path.as_str()), ("unreadable", "description"));
}

#[tokio::test]
async fn stored_recipes_are_one_effect_per_key() {
    let h = Harness::new([]).await;
    let mut recipes = RecipeServiceClient::new(h.transport.clone());
    let save = pb::SaveRecipeRequest {
        recipe_json: greeter().to_string(),
        idempotency_key: "k".into(),
        ..Default::default()
    };
    let first = recipes.save_recipe(save.clone()).await.unwrap().into_inner();
    let again = recipes.save_recipe(save).await.unwrap().into_inner();
    assert_eq!(first, again);
    let recipe = first.recipe.unwrap();
    assert_eq!(document(&recipe.recipe_json)["x_kept"]["a"], 1);
    let listed = recipes.list_recipes(pb::ListRecipesRequest::default()).await.unwrap().into_inner();
    assert_eq!((listed.recipes.len(), listed.findings.len()), (1, 0));
    let id = recipe.recipe_id;
    let command = pb::SetRecipeCommandRequest {
        recipe_id: id.clone(),
        command_name: "greet".into(),
        ..Default::default()
    };
    let named = recipes.set_recipe_command(command).await.unwrap().into_inner().recipe.unwrap();
    assert_eq!(named.command_name, "greet");
    let got = recipes.get_recipe(pb::GetRecipeRequest { recipe_id: id.clone() }).await.unwrap().into_inner();
    assert_eq!(got.recipe.unwrap().command_name, "greet");
    let keyed =
        pb::DeleteRecipeRequest { recipe_id: id.clone(), idempotency_key: "d".into(), ..Default::default() };
    recipes.delete_recipe(keyed.clone()).await.unwrap();
    recipes.delete_recipe(keyed.clone()).await.unwrap();
    let other = pb::DeleteRecipeRequest { recipe_id: "other".into(), ..keyed };
    let reused = recipes.delete_recipe(other).await.unwrap_err();
    assert_eq!(reason(&reused).1, "REQUEST_ID_REUSED");
    let delete = pb::DeleteRecipeRequest { recipe_id: id.clone(), ..Default::default() };
    let gone = recipes.delete_recipe(delete).await.unwrap_err();
    assert_eq!(reason(&gone), (Code::NotFound, "RECIPE_NOT_FOUND".into()));
    let gone = recipes.get_recipe(pb::GetRecipeRequest { recipe_id: id }).await.unwrap_err();
    assert_eq!(reason(&gone), (Code::NotFound, "RECIPE_NOT_FOUND".into()));
}

#[tokio::test]
async fn a_session_is_made_from_a_recipe_and_its_values_changed() {
    let h = Harness::new([]).await;
    let mut recipes = RecipeServiceClient::new(h.transport.clone());
    let create = |recipe| pb::CreateSessionRequest { recipe: Some(recipe), ..h.create_request() };
    let error = h.sessions().create_session(create(source(&greeter(), &[]))).await.unwrap_err();
    assert_eq!(reason(&error), (Code::InvalidArgument, "RECIPE_PARAMETERS_MISSING".into()));
    let later = pb::RecipeSource { allow_missing_values: true, ..source(&greeter(), &[]) };
    let made = h.sessions().create_session(create(later)).await.unwrap().into_inner().session.unwrap();
    assert_eq!(made.title, "Greeter");
    let recipe = pb::SessionRecipe {
        values: [("who".to_owned(), "Ada".to_owned())].into(),
        ..made.recipe.clone().unwrap()
    };
    let update = pb::UpdateSessionRequest {
        session: Some(pb::Session { recipe: Some(recipe), ..made.clone() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["recipe.values".into()] }),
        ..Default::default()
    };
    let updated = h.sessions().update_session(update).await.unwrap().into_inner().session.unwrap();
    assert_eq!(updated.instructions[0].text, "Be kind to Ada.");
    let render = pb::RenderRecipeRequest { recipe: None, session_id: made.session_id };
    let rendered = recipes.render_recipe(render).await.unwrap().into_inner();
    assert_eq!(document(&rendered.recipe_json)["prompt"], "Greet Ada");
    let render =
        pb::RenderRecipeRequest { recipe: Some(source(&greeter(), &[("who", "Bo")])), ..Default::default() };
    let rendered = recipes.render_recipe(render).await.unwrap().into_inner();
    assert_eq!(document(&rendered.recipe_json)["prompt"], "Greet Bo");
    let nothing = recipes.render_recipe(pb::RenderRecipeRequest::default()).await.unwrap_err();
    assert_eq!(reason(&nothing), (Code::InvalidArgument, "INVALID_FIELD".into()));
}

#[tokio::test]
async fn schedules_are_made_run_and_cancelled() {
    let gate = Gate::new();
    let held = Script::new().gate(&gate).text("done").finish(ModelStop::EndTurn);
    let h = Harness::new([held]).await;
    let mut schedules = ScheduleServiceClient::new(h.transport.clone());
    let mut hints = h.system().watch_server(pb::WatchServerRequest::default()).await.unwrap().into_inner();
    let request = pb::CreateScheduleRequest {
        schedule_id: "daily".into(),
        recipe: Some(source(&greeter(), &[("who", "Ada")])),
        cron: "0 9 * * *".into(),
        idempotency_key: "k".into(),
        ..Default::default()
    };
    let made = schedules.create_schedule(request.clone()).await.unwrap().into_inner().schedule.unwrap();
    assert_eq!(made.state(), pb::ScheduleState::Idle);
    assert!(made.next_run_time.is_some() && made.create_time.is_some());
    let again = schedules.create_schedule(request.clone()).await.unwrap().into_inner().schedule.unwrap();
    assert_eq!(again.create_time, made.create_time);
    let twice = pb::CreateScheduleRequest { idempotency_key: String::new(), ..request };
    let error = schedules.create_schedule(twice).await.unwrap_err();
    assert_eq!(reason(&error), (Code::AlreadyExists, "SCHEDULE_EXISTS".into()));
    loop {
        let Some(pb::watch_server_response::Payload::Change(change)) = next(&mut hints).await.payload else {
            continue;
        };
        if change.kind() == pb::ServerChangeKind::Schedules {
            break;
        }
    }
    let run = pb::RunScheduleRequest { schedule_id: "daily".into(), idempotency_key: "r".into() };
    let started = schedules.run_schedule(run.clone()).await.unwrap().into_inner();
    assert_eq!(schedules.run_schedule(run).await.unwrap().into_inner(), started, "the key names the run");
    gate.reached().await;
    let get = pb::GetScheduleRequest { schedule_id: "daily".into() };
    let shown = schedules.get_schedule(get).await.unwrap().into_inner().schedule.unwrap();
    assert_eq!((shown.state(), &shown.running_session_id), (pb::ScheduleState::Running, &started.session_id));
    let cancel = pb::CancelScheduleRunRequest { schedule_id: "daily".into(), ..Default::default() };
    let cancelled = schedules.cancel_schedule_run(cancel).await.unwrap().into_inner();
    assert_eq!(cancelled.session_id, started.session_id);
    let watch = pb::WatchSessionRequest {
        session_id: started.session_id.clone(),
        after_sequence: Some(0),
        ..Default::default()
    };
    let mut events = h.sessions().watch_session(watch).await.unwrap().into_inner();
    let ended = loop {
        if let Some(Payload::TurnEnded(ended)) = next(&mut events).await.event.unwrap().payload {
            break ended.turn.unwrap();
        }
    };
    assert_eq!(ended.state(), pb::TurnState::Cancelled);
    let list = pb::ListSessionsRequest { schedule_id: "daily".into(), ..Default::default() };
    let sessions = h.sessions().list_sessions(list).await.unwrap().into_inner().sessions;
    assert_eq!((sessions.len(), sessions[0].kind()), (1, pb::SessionKind::Scheduled));
    let delete = pb::DeleteScheduleRequest { schedule_id: "daily".into(), ..Default::default() };
    schedules.delete_schedule(delete).await.unwrap();
    let listed = schedules.list_schedules(pb::ListSchedulesRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.schedules, []);
}
