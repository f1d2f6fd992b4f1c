//! `/recipes/*`. Recipes travel as JSON; reading, writing and checking them is the daemon's work.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use gander_client::ClientError;
use gander_proto::v1::{
    CreateScheduleRequest, DecodeRecipeRequest, DeleteRecipeRequest, DeleteScheduleRequest,
    DraftRecipeRequest, EncodeRecipeRequest, ErrorReason, FormatRecipeRequest, GetRecipeRequest,
    ListRecipesRequest, ListSchedulesRequest, ParseRecipeRequest, Recipe, RecipeSeverity, RecipeSource,
    SaveRecipeRequest, Schedule, SetRecipeCommandRequest, UpdateScheduleRequest, ValidateRecipeRequest,
    recipe_source::Source,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{config::json_value, schedules};
use crate::{App, error::ApiError, extract::Json};

type Answer<T = Value> = Result<Json<T>, ApiError>;

/// Writing a recipe takes a model call over a whole conversation.
const DRAFT: std::time::Duration = std::time::Duration::from_secs(300);

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/recipes/list", get(list))
        .route("/recipes/save", post(save))
        .route("/recipes/delete", post(delete))
        .route("/recipes/parse", post(parse))
        .route("/recipes/to-yaml", post(to_yaml))
        .route("/recipes/encode", post(encode))
        .route("/recipes/decode", post(decode))
        .route("/recipes/scan", post(scan))
        .route("/recipes/create", post(create))
        .route("/recipes/schedule", post(schedule))
        .route("/recipes/slash-command", post(slash_command))
}

async fn list(State(app): State<App>) -> Answer {
    let listed = app.client().recipes().list_recipes(ListRecipesRequest::default()).await?.into_inner();
    for finding in &listed.findings {
        tracing::debug!(field = finding.field_path, "a file is no recipe: {}", finding.message);
    }
    let manifests: Vec<Value> = listed.recipes.iter().map(manifest).collect();
    Ok(Json(json!({ "manifests": manifests })))
}

fn manifest(recipe: &Recipe) -> Value {
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let modified = recipe.modify_time.as_ref().and_then(schedules::rfc3339);
    json!({
        "id": recipe.recipe_id,
        "recipe": json_value(&recipe.recipe_json),
        "file_path": recipe.file_path,
        "last_modified": modified.unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned()),
        "schedule_cron": optional(&recipe.schedule_cron),
        "slash_command": optional(&recipe.command_name),
    })
}

#[derive(Deserialize)]
struct Save {
    recipe: Value,
    #[serde(default)]
    id: Option<String>,
}

/// Hidden characters are refused here: a person would store what they cannot see.
async fn save(State(app): State<App>, Json(body): Json<Save>) -> Answer {
    if let Some(warning) = security_warning(&app, &body.recipe).await? {
        return Err(ApiError::bad_request(warning));
    }
    let request = SaveRecipeRequest {
        recipe_json: body.recipe.to_string(),
        recipe_id: body.id.unwrap_or_default(),
        ..Default::default()
    };
    let saved = app.client().recipes().save_recipe(request).await?.into_inner();
    let recipe = saved.recipe.unwrap_or_default();
    let file_name = recipe.file_path.rsplit(['/', '\\']).next().unwrap_or_default();
    Ok(Json(json!({ "id": recipe.recipe_id, "file_name": file_name, "file_path": recipe.file_path })))
}

async fn security_warning(app: &App, recipe: &Value) -> Result<Option<String>, ApiError> {
    let source = Source::RecipeJson(recipe.to_string());
    let recipe = Some(RecipeSource { source: Some(source), ..Default::default() });
    let checked =
        app.client().recipes().validate_recipe(ValidateRecipeRequest { recipe }).await?.into_inner();
    let found = checked.findings.into_iter().find(|finding| finding.severity() == RecipeSeverity::Security);
    Ok(found.map(|finding| finding.message))
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

async fn delete(State(app): State<App>, Json(body): Json<Id>) -> Result<StatusCode, ApiError> {
    let request = DeleteRecipeRequest { recipe_id: body.id, ..Default::default() };
    app.client().recipes().delete_recipe(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Parse {
    content: String,
}

async fn parse(State(app): State<App>, Json(body): Json<Parse>) -> Answer {
    let request = ParseRecipeRequest { text: body.content };
    let parsed = app.client().recipes().parse_recipe(request).await?.into_inner();
    Ok(Json(json!({ "recipe": json_value(&parsed.recipe_json) })))
}

#[derive(Deserialize)]
struct Body {
    recipe: Value,
}

async fn to_yaml(State(app): State<App>, Json(body): Json<Body>) -> Answer {
    let request = FormatRecipeRequest { recipe_json: body.recipe.to_string() };
    let formatted = app.client().recipes().format_recipe(request).await?.into_inner();
    Ok(Json(json!({ "yaml": formatted.yaml })))
}

/// Goose calls the payload a link; its clients put it behind `goose://recipe?config=`.
async fn encode(State(app): State<App>, Json(body): Json<Body>) -> Answer {
    let request = EncodeRecipeRequest { recipe_json: body.recipe.to_string() };
    let encoded = app.client().recipes().encode_recipe(request).await?.into_inner();
    Ok(Json(json!({ "deeplink": encoded.payload })))
}

#[derive(Deserialize)]
struct Link {
    deeplink: String,
}

async fn decode(State(app): State<App>, Json(body): Json<Link>) -> Answer {
    let request = DecodeRecipeRequest { link: body.deeplink };
    let decoded = app.client().recipes().decode_recipe(request).await?.into_inner();
    Ok(Json(json!({ "recipe": json_value(&decoded.recipe_json) })))
}

async fn scan(State(app): State<App>, Json(body): Json<Body>) -> Answer {
    let warning = security_warning(&app, &body.recipe).await?;
    Ok(Json(json!({ "has_security_warnings": warning.is_some() })))
}

#[derive(Deserialize)]
struct Create {
    session_id: String,
    #[serde(default)]
    author: Option<Author>,
}

#[derive(Deserialize)]
struct Author {
    #[serde(default)]
    contact: Option<String>,
    #[serde(default)]
    metadata: Option<String>,
}

/// What fails is told in the body: Desktop shows it in its dialog.
async fn create(State(app): State<App>, Json(body): Json<Create>) -> Answer {
    let contact = body.author.as_ref().and_then(|author| author.contact.clone()).unwrap_or_default();
    let request = DraftRecipeRequest { session_id: body.session_id, author: contact, ..Default::default() };
    let mut request = tonic::Request::new(request);
    request.set_timeout(DRAFT);
    match app.client().recipes().draft_recipe(request).await {
        Ok(answer) => {
            let mut recipe = json_value(&answer.into_inner().recipe_json);
            if let (Some(author), Some(recipe)) = (&body.author, recipe.as_object_mut()) {
                let author = json!({ "contact": author.contact, "metadata": author.metadata });
                recipe.insert("author".to_owned(), author);
            }
            Ok(Json(json!({ "recipe": recipe, "error": null })))
        }
        Err(status) => {
            let error = ClientError::from(status);
            Ok(Json(json!({ "recipe": null, "error": crate::error::sentence(&error) })))
        }
    }
}

#[derive(Deserialize)]
struct ScheduleBody {
    id: String,
    #[serde(default)]
    cron_schedule: Option<String>,
}

/// Sets, changes or (without a time) ends the schedule of a stored recipe.
async fn schedule(State(app): State<App>, Json(body): Json<ScheduleBody>) -> Result<(), ApiError> {
    let request = GetRecipeRequest { recipe_id: body.id };
    let recipe = app.client().recipes().get_recipe(request).await?.into_inner().recipe.unwrap_or_default();
    let mut schedules = app.client().schedules();
    let listed = schedules.list_schedules(ListSchedulesRequest {}).await?.into_inner().schedules;
    let mut of_recipe = listed.into_iter().filter(|schedule| runs(schedule, &recipe));
    let cron = body.cron_schedule.filter(|cron| !cron.trim().is_empty());
    match (cron, of_recipe.next()) {
        (None, None) => {}
        (None, Some(first)) => {
            for schedule in std::iter::once(first).chain(of_recipe) {
                let schedule_id = schedule.schedule_id;
                let request =
                    DeleteScheduleRequest { schedule_id, allow_missing: true, ..Default::default() };
                schedules.delete_schedule(request).await?;
            }
        }
        (Some(cron), Some(existing)) => {
            let request = UpdateScheduleRequest {
                schedule: Some(Schedule { schedule_id: existing.schedule_id, cron, ..Default::default() }),
                update_mask: Some(prost_types::FieldMask { paths: vec!["cron".to_owned()] }),
                ..Default::default()
            };
            schedules.update_schedule(request).await?;
        }
        (Some(cron), None) => create_schedule(&app, &recipe, cron).await?,
    }
    Ok(())
}

fn runs(schedule: &Schedule, recipe: &Recipe) -> bool {
    !recipe.recipe_id.is_empty() && schedule.recipe_id == recipe.recipe_id
}

/// Named after the recipe, since the name is what Desktop lists; with the recipe's id when that name is taken.
async fn create_schedule(app: &App, recipe: &Recipe, cron: String) -> Result<(), ApiError> {
    let name = schedules::id_of(&recipe.title);
    let taken = format!("{}-{}", name.chars().take(40).collect::<String>(), recipe.recipe_id);
    let names = if name.is_empty() { vec![recipe.recipe_id.clone()] } else { vec![name, taken] };
    let mut last = ApiError::internal("the recipe has no id");
    for schedule_id in names {
        let source = Source::RecipeId(recipe.recipe_id.clone());
        let request = CreateScheduleRequest {
            schedule_id,
            recipe: Some(RecipeSource { source: Some(source), ..Default::default() }),
            cron: cron.clone(),
            ..Default::default()
        };
        let Err(status) = app.client().schedules().create_schedule(request).await else { return Ok(()) };
        let error = ClientError::from(status);
        let again = error.is(ErrorReason::ScheduleExists);
        last = error.into();
        if !again {
            break;
        }
    }
    Err(last)
}

#[derive(Deserialize)]
struct CommandBody {
    id: String,
    #[serde(default)]
    slash_command: Option<String>,
}

async fn slash_command(State(app): State<App>, Json(body): Json<CommandBody>) -> Result<(), ApiError> {
    let command = body.slash_command.unwrap_or_default();
    let command_name = command.trim().trim_start_matches('/').to_owned();
    let request = SetRecipeCommandRequest { recipe_id: body.id, command_name, ..Default::default() };
    app.client().recipes().set_recipe_command(request).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
