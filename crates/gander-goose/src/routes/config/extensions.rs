//! `/config/extensions`: the extensions that new sessions get, in Goose's `ExtensionConfig`.
//!
//! This is the one place where values of environment variables are shown: Desktop writes back what it read.

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{delete, get},
};
use gander_client::ClientError;
use gander_formats::goose_session::extension;
use gander_proto::v1::{
    ConfiguredExtension, DeleteExtensionRequest, ErrorReason, ListExtensionsRequest, ListExtensionsResponse,
    PutExtensionRequest, extension_config::Kind,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Answer;
use crate::{App, error::ApiError, extract::Json};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/config/extensions", get(list).post(put))
        .route("/config/extensions/{name}", delete(remove))
}

async fn listed(app: &App) -> Result<ListExtensionsResponse, ApiError> {
    Ok(app.client().extensions().list_extensions(ListExtensionsRequest {}).await?.into_inner())
}

/// The `extensions` map as `config.yaml` holds it.
pub(super) async fn as_in_the_file(app: &App) -> Result<Map<String, Value>, ApiError> {
    let entry = |configured: ConfiguredExtension| {
        let config = configured.config.unwrap_or_default();
        (configured.config_key, Value::Object(extension::entry_json(&config, configured.enabled)))
    };
    Ok(listed(app).await?.extensions.into_iter().map(entry).collect())
}

/// Kinds that Goose's clients do not know are left out, since their forms fail on them; a warning tells of each.
async fn list(State(app): State<App>) -> Answer {
    let listed = listed(&app).await?;
    let mut extensions = Vec::with_capacity(listed.extensions.len());
    let mut warnings = listed.warnings;
    for configured in &listed.extensions {
        let key = &configured.config_key;
        let Some(config) = &configured.config else { continue };
        let in_goose_s_words = extension::warnings(config);
        // The daemon says the same of some, led by the field.
        let said = |warning: &&String| !in_goose_s_words.iter().any(|own| warning.ends_with(own.as_str()));
        let others = configured.warnings.iter().filter(said).cloned().collect::<Vec<_>>();
        let all = in_goose_s_words.into_iter().chain(others);
        warnings.extend(all.map(|warning| format!("'{key}': {warning}")));
        if !matches!(config.kind, None | Some(Kind::Unknown(_))) {
            extensions.push(extension::entry_json(config, configured.enabled));
        }
    }
    Ok(Json(json!({ "extensions": extensions, "warnings": warnings })))
}

#[derive(Deserialize)]
struct Put {
    name: String,
    config: Value,
    enabled: bool,
}

/// The configuration's own name gives the key; the name beside it is what the answer repeats, as in Goose.
async fn put(State(app): State<App>, Json(query): Json<Put>) -> Answer<String> {
    let config = extension::to_proto(&query.config)
        .map_err(|error| ApiError::message(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
    let request = PutExtensionRequest { config: Some(config), enabled: query.enabled, ..Default::default() };
    let done = app.client().extensions().put_extension(request).await.map_err(refused)?.into_inner();
    let what = if done.created { "Added" } else { "Updated" };
    Ok(Json(format!("{what} extension {}", query.name)))
}

/// A configuration that may not be is the client's mistake here; it is a failure of the server only where one starts.
fn refused(status: tonic::Status) -> ApiError {
    let error = ClientError::from(status);
    let mistake = matches!(
        error.error_reason(),
        Some(
            ErrorReason::ExtensionConfigInvalid
                | ErrorReason::ExtensionTypeUnsupported
                | ErrorReason::EnvKeyDisallowed
                | ErrorReason::CommandNotAllowed
        )
    );
    let answer = ApiError::from(error);
    if mistake { answer.with_status(StatusCode::UNPROCESSABLE_ENTITY) } else { answer }
}

/// The daemon knows an extension by its key and by every name that gives this key.
async fn remove(State(app): State<App>, Path(name): Path<String>) -> Answer<String> {
    let extension_name = name.clone();
    let request = DeleteExtensionRequest { extension_name, allow_missing: true, ..Default::default() };
    app.client().extensions().delete_extension(request).await?;
    Ok(Json(format!("Removed extension {name}")))
}
