//! `/config/custom-providers`: providers that the person defined, in Goose's declarative format.
//!
//! Goose's form knows a part of a definition only; an update keeps the rest.

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use gander_client::ClientError;
use gander_proto::v1::{
    CreateCustomProviderRequest, CustomProvider, DeleteCustomProviderRequest, ErrorReason,
    GetCustomProviderRequest, GetCustomProviderResponse, UpdateCustomProviderRequest,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ASSUMED_CONTEXT, Answer};
use crate::{App, error::ApiError, extract::Json};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/config/custom-providers", post(create))
        .route("/config/custom-providers/{id}", get(read).put(update).delete(remove))
}

#[derive(Deserialize)]
struct Form {
    engine: String,
    display_name: String,
    api_url: String,
    /// Behind `api_url`; absent in forms of the earlier windows.
    #[serde(default)]
    base_path: Option<String>,
    /// The template that the form was filled in from.
    #[serde(default)]
    catalog_provider_id: Option<String>,
    api_key: String,
    models: Vec<String>,
    #[serde(default)]
    supports_streaming: Option<bool>,
    #[serde(default)]
    headers: Option<BTreeMap<String, String>>,
    #[serde(default = "yes")]
    requires_auth: bool,
}

fn yes() -> bool {
    true
}

/// The engine in the words of a definition; forms say `openai_compatible`.
fn engine(word: &str) -> Result<&'static str, ApiError> {
    match word.trim_end_matches("_compatible") {
        "openai" => Ok("openai"),
        "anthropic" => Ok("anthropic"),
        "ollama" => Ok("ollama"),
        _ => Err(ApiError::bad_request(format!(
            "engine: {word:?} is not known; use openai_compatible, anthropic_compatible or ollama_compatible"
        ))),
    }
}

/// Writes the form's fields into a definition. What is known of a model that stays is kept.
fn fill(definition: &mut Map<String, Value>, form: &Form) -> Result<(), ApiError> {
    let known = definition.get("models").and_then(Value::as_array).cloned().unwrap_or_default();
    let model = |name: &String| {
        let stays = known.iter().find(|model| model.get("name").and_then(Value::as_str) == Some(name));
        stays.cloned().unwrap_or_else(|| json!({ "name": name, "context_limit": ASSUMED_CONTEXT }))
    };
    let models: Vec<Value> = form.models.iter().map(model).collect();
    definition.insert("engine".to_owned(), engine(&form.engine)?.into());
    definition.insert("display_name".to_owned(), form.display_name.clone().into());
    definition.insert("base_url".to_owned(), form.api_url.clone().into());
    definition.insert("models".to_owned(), models.into());
    definition.insert("requires_auth".to_owned(), form.requires_auth.into());
    if let Some(streaming) = form.supports_streaming {
        definition.insert("supports_streaming".to_owned(), streaming.into());
    }
    for (field, text) in [("base_path", &form.base_path), ("catalog_provider_id", &form.catalog_provider_id)]
    {
        if let Some(text) = text {
            definition.insert(field.to_owned(), text.clone().into());
        }
    }
    if let Some(headers) = &form.headers {
        let headers: Map<String, Value> =
            headers.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        definition.insert("headers".to_owned(), headers.into());
    }
    Ok(())
}

/// An empty key means "none" in a form, and "keep it" when a definition is changed.
fn key(form: &Form) -> Option<String> {
    (!form.api_key.is_empty()).then(|| form.api_key.clone())
}

/// 404 where the table has 400: here the provider is the resource itself.
fn missing(status: tonic::Status) -> ApiError {
    let error = ClientError::from(status);
    let none = error.is(ErrorReason::ProviderNotFound);
    let answer = ApiError::from(error);
    if none { answer.with_status(StatusCode::NOT_FOUND) } else { answer }
}

fn definition(provider: Option<CustomProvider>) -> Map<String, Value> {
    let Some(provider) = provider else { return Map::new() };
    let mut definition = match serde_json::from_str(&provider.definition_json) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    definition.entry("name").or_insert_with(|| provider.provider_id.into());
    definition
}

/// A definition with everything that Goose's clients rely on.
pub(super) fn complete(provider: Option<CustomProvider>) -> Map<String, Value> {
    let mut definition = definition(provider);
    for (field, default) in [
        ("engine", json!("openai")),
        ("display_name", definition.get("name").cloned().unwrap_or_default()),
        ("base_url", json!("")),
        ("api_key_env", json!("")),
        ("requires_auth", json!(true)),
    ] {
        let entry = definition.entry(field).or_insert(Value::Null);
        if entry.is_null() {
            *entry = default;
        }
    }
    let models = definition.get("models").and_then(Value::as_array).cloned().unwrap_or_default();
    definition.insert("models".to_owned(), models.into_iter().filter_map(model).collect());
    definition
}

/// A model of a definition: files may name it only.
fn model(model: Value) -> Option<Value> {
    let mut map = match model {
        Value::Object(map) => map,
        Value::String(name) => Map::from_iter([("name".to_owned(), Value::from(name))]),
        _ => return None,
    };
    map.get("name")?.as_str()?;
    if !map.get("context_limit").is_some_and(Value::is_u64) {
        map.insert("context_limit".to_owned(), ASSUMED_CONTEXT.into());
    }
    Some(Value::Object(map))
}

pub(super) async fn fetch(app: &App, id: &str) -> Result<GetCustomProviderResponse, ApiError> {
    let request = GetCustomProviderRequest { provider_id: id.to_owned() };
    let found = app.client().providers().get_custom_provider(request).await.map_err(missing)?;
    Ok(found.into_inner())
}

/// The later windows go on to choose a model of the provider that is named here; the earlier ones read nothing.
async fn create(State(app): State<App>, Json(form): Json<Form>) -> Answer {
    let mut definition = Map::new();
    fill(&mut definition, &form)?;
    let description = format!("Custom provider {}", form.display_name.trim());
    definition.insert("description".to_owned(), description.into());
    let request = CreateCustomProviderRequest {
        definition_json: Value::Object(definition).to_string(),
        api_key: key(&form),
        ..Default::default()
    };
    let made = app.client().providers().create_custom_provider(request).await?.into_inner();
    Ok(Json(json!({ "provider_name": made.provider.unwrap_or_default().provider_id })))
}

async fn read(State(app): State<App>, Path(id): Path<String>) -> Answer {
    let found = fetch(&app, &id).await?;
    Ok(Json(json!({ "config": complete(found.provider), "is_editable": found.editable })))
}

async fn update(State(app): State<App>, Path(id): Path<String>, Json(form): Json<Form>) -> Answer<String> {
    let mut definition = definition(fetch(&app, &id).await?.provider);
    fill(&mut definition, &form)?;
    let request = UpdateCustomProviderRequest {
        provider_id: id.clone(),
        definition_json: Value::Object(definition).to_string(),
        api_key: key(&form),
        ..Default::default()
    };
    app.client().providers().update_custom_provider(request).await.map_err(missing)?;
    Ok(Json(format!("Updated custom provider: {id}")))
}

async fn remove(State(app): State<App>, Path(id): Path<String>) -> Answer<String> {
    let request = DeleteCustomProviderRequest { provider_id: id.clone(), ..Default::default() };
    app.client().providers().delete_custom_provider(request).await.map_err(missing)?;
    Ok(Json(format!("Removed custom provider: {id}")))
}
