//! `/agent/*`: sessions coming to life, their settings and their extensions.

use axum::{Router, extract::State, http::StatusCode, routing::post};
use gander_client::{Client, ClientError};
use gander_formats::{
    goose_session::{
        document::{document, mode_of},
        extension,
    },
    session::Document,
};
use gander_proto::v1::{
    AddSessionExtensionRequest, CreateSessionRequest, ErrorReason, ExactSelection, ExtensionSelection,
    ExtensionState, ExtensionStatus, LoadSessionRequest, LoadSessionResponse, ModelSelection, RecipeSource,
    RemoveSessionExtensionRequest, Session, ThoughtLevel, UnloadSessionRequest, UpdateSessionRequest,
    add_session_extension_request, extension_selection, recipe_source,
};
use prost_types::FieldMask;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Duration;

use crate::{
    App,
    error::{ApiError, is_unknown_session, sentence},
    extract::Json,
    session, turns,
};

/// What a start or a removal of extensions may take; beyond the daemon's own limit for one of them.
const EXTENSION_DEADLINE: Duration = Duration::from_secs(330);

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/agent/start", post(start))
        .route("/agent/resume", post(resume))
        .route("/agent/restart", post(restart))
        .route("/agent/stop", post(stop))
        .route("/agent/update_working_dir", post(update_working_dir))
        .route("/agent/update_provider", post(update_provider))
        .route("/agent/update_from_session", post(update_from_session))
        .route("/agent/update_session", post(update_session))
        .route("/agent/set_container", post(set_container))
        .route("/agent/add_extension", post(add_extension))
        .route("/agent/remove_extension", post(remove_extension))
}

#[derive(Debug, Deserialize)]
struct StartRequest {
    working_dir: String,
    #[serde(default)]
    recipe: Option<Value>,
    #[serde(default)]
    recipe_id: Option<String>,
    #[serde(default)]
    recipe_deeplink: Option<String>,
    /// Absent: as configured. An empty list: none.
    #[serde(default)]
    extension_overrides: Option<Vec<Value>>,
}

fn extension_config(at: &str, value: &Value) -> Result<gander_proto::v1::ExtensionConfig, ApiError> {
    extension::to_proto(value).map_err(|error| {
        ApiError::text(StatusCode::UNPROCESSABLE_ENTITY, format!("Failed to read the extension: {at}{error}"))
    })
}

fn selection(overrides: Option<&[Value]>) -> Result<Option<ExtensionSelection>, ApiError> {
    let Some(overrides) = overrides else { return Ok(None) };
    let one = |(index, value)| extension_config(&format!("extension_overrides[{index}]."), value);
    let extensions = overrides.iter().enumerate().map(one).collect::<Result<_, _>>()?;
    let selection = extension_selection::Selection::Exactly(ExactSelection { extensions });
    Ok(Some(ExtensionSelection { selection: Some(selection) }))
}

/// Which of several sources is meant: the first that is there, in Goose's order.
fn recipe_source(request: &StartRequest) -> Option<RecipeSource> {
    let source = if let Some(link) = &request.recipe_deeplink {
        recipe_source::Source::Deeplink(link.clone())
    } else if let Some(id) = &request.recipe_id {
        recipe_source::Source::RecipeId(id.clone())
    } else {
        let recipe = request.recipe.as_ref().filter(|recipe| !recipe.is_null())?;
        recipe_source::Source::RecipeJson(recipe.to_string())
    };
    // A window asks for the values after it has made the session.
    Some(RecipeSource { source: Some(source), allow_missing_values: true, ..RecipeSource::default() })
}

async fn start(
    State(app): State<App>,
    Json(request): Json<StartRequest>,
) -> Result<Json<Document>, ApiError> {
    let create = CreateSessionRequest {
        working_directory: request.working_dir.clone(),
        extensions: selection(request.extension_overrides.as_deref())?,
        recipe: recipe_source(&request),
        client_environment: app.options().client_environment.clone(),
        ..CreateSessionRequest::default()
    };
    let created = app.client().sessions().create_session(create).await?.into_inner();
    let created = created.session.unwrap_or_default();
    let extensions = session::extensions(&app, &created.session_id).await?;
    Ok(Json(document(&created, Some(&extensions))))
}

#[derive(Debug, Deserialize)]
struct ResumeRequest {
    session_id: String,
    load_model_and_extensions: bool,
}

#[derive(Debug, Serialize)]
struct ResumeResponse {
    session: Document,
    #[serde(skip_serializing_if = "Option::is_none")]
    extension_results: Option<Vec<ExtensionResult>>,
}

/// How one extension came up.
#[derive(Debug, Serialize)]
struct ExtensionResult {
    name: String,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn results(extensions: &[ExtensionStatus]) -> Vec<ExtensionResult> {
    extensions.iter().map(result).collect()
}

fn result(status: &ExtensionStatus) -> ExtensionResult {
    let error = match status.state() {
        // Stopped ones start at their first use.
        ExtensionState::Ready | ExtensionState::Degraded | ExtensionState::Stopped => None,
        ExtensionState::Starting | ExtensionState::Restarting => {
            Some("is still starting; its tools appear when it is ready".to_owned())
        }
        _ => {
            let error = status.error.as_ref().map(|error| error.message.clone());
            Some(error.unwrap_or_else(|| "is not usable; its log tells why".to_owned()))
        }
    };
    ExtensionResult { name: status.name.clone(), success: error.is_none(), error }
}

async fn load(
    app: &App,
    session_id: &str,
    request: LoadSessionRequest,
) -> Result<LoadSessionResponse, ClientError> {
    let message = LoadSessionRequest {
        session_id: session_id.to_owned(),
        client_environment: app.options().client_environment.clone(),
        ..request
    };
    let mut request = tonic::Request::new(message);
    request.set_timeout(EXTENSION_DEADLINE);
    Ok(app.client().sessions().load_session(request).await?.into_inner())
}

fn wait(app: &App) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(app.options().wait_for_extensions).ok()
}

async fn resume(
    State(app): State<App>,
    Json(request): Json<ResumeRequest>,
) -> Result<Json<ResumeResponse>, ApiError> {
    let told = |error: ClientError| {
        if is_unknown_session(&error) {
            ApiError::not_found(format!("Failed to resume session: {}", sentence(&error)))
        } else if error.is(ErrorReason::ProviderNotConfigured) {
            ApiError::internal(format!("Could not configure agent: {}", sentence(&error)))
        } else {
            ApiError::from(error)
        }
    };
    if !request.load_model_and_extensions {
        turns::session(app.client(), &request.session_id).await.map_err(told)?;
        let session = session::whole(&app, &request.session_id).await?;
        return Ok(Json(ResumeResponse { session, extension_results: None }));
    }
    let loading = LoadSessionRequest { wait_for_extensions: wait(&app), ..LoadSessionRequest::default() };
    let loaded = load(&app, &request.session_id, loading).await.map_err(told)?;
    let session = loaded.session.unwrap_or_default();
    let document = session::with_conversation(&app, &session, &loaded.extensions).await?;
    let extension_results = Some(results(&loaded.extensions));
    Ok(Json(ResumeResponse { session: document, extension_results }))
}

#[derive(Debug, Deserialize)]
struct SessionRequest {
    session_id: String,
}

#[derive(Debug, Serialize)]
struct RestartResponse {
    extension_results: Vec<ExtensionResult>,
}

async fn restart(
    State(app): State<App>,
    Json(request): Json<SessionRequest>,
) -> Result<Json<RestartResponse>, ApiError> {
    let loading = LoadSessionRequest {
        wait_for_extensions: wait(&app),
        restart: true,
        ..LoadSessionRequest::default()
    };
    let loaded = load(&app, &request.session_id, loading).await?;
    Ok(Json(RestartResponse { extension_results: results(&loaded.extensions) }))
}

/// 404 for a session that is not in memory, as Goose answers. While somebody else watches, the session stays.
async fn stop(State(app): State<App>, Json(request): Json<SessionRequest>) -> Result<StatusCode, ApiError> {
    let session = turns::session(app.client(), &request.session_id).await?;
    if !session.loaded {
        return Err(ApiError::not_found(format!("No agent runs for session {}", request.session_id)));
    }
    let unload = UnloadSessionRequest { session_id: request.session_id, ..UnloadSessionRequest::default() };
    app.client().sessions().unload_session(unload).await?;
    Ok(StatusCode::OK)
}

/// Changes settings of a session.
pub(crate) async fn update(
    client: &Client,
    session: Session,
    paths: &[&str],
) -> Result<Session, ClientError> {
    let request = UpdateSessionRequest {
        session: Some(session),
        update_mask: Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
        ..UpdateSessionRequest::default()
    };
    Ok(client.sessions().update_session(request).await?.into_inner().session.unwrap_or_default())
}

#[derive(Debug, Deserialize)]
struct WorkingDirRequest {
    session_id: String,
    working_dir: String,
}

async fn update_working_dir(
    State(app): State<App>,
    Json(request): Json<WorkingDirRequest>,
) -> Result<StatusCode, ApiError> {
    let working_directory = request.working_dir.trim().to_owned();
    if working_directory.is_empty() {
        return Err(ApiError::bad_request("Working directory cannot be empty"));
    }
    let session = Session { session_id: request.session_id, working_directory, ..Session::default() };
    update(app.client(), session, &["working_directory"]).await.map_err(|error| {
        if error.is(ErrorReason::WorkingDirectoryInvalid) {
            ApiError::bad_request(format!("Invalid directory path: {}", sentence(&error)))
        } else {
            error.into()
        }
    })?;
    Ok(StatusCode::OK)
}

#[derive(Debug, Deserialize)]
struct ProviderRequest {
    session_id: String,
    provider: String,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    context_limit: Option<i64>,
    #[serde(default)]
    request_params: Option<Value>,
}

/// Name of Goose's thinking effort among a model's parameters.
const THINKING_EFFORT: &str = "thinking_effort";

async fn update_provider(
    State(app): State<App>,
    Json(request): Json<ProviderRequest>,
) -> Result<StatusCode, ApiError> {
    let client = app.client();
    let model_id = match request.model.filter(|model| !model.trim().is_empty()) {
        Some(model) => model,
        None => default_model(client).await?.ok_or_else(|| {
            ApiError::text(StatusCode::BAD_REQUEST, "No model specified; choose one or set GOOSE_MODEL")
        })?,
    };
    let mut params = request.request_params.filter(|params| !params.is_null());
    let thought_level = thought_level(params.as_mut());
    let params = params.filter(|params| params.as_object().is_none_or(|params| !params.is_empty()));
    let model = ModelSelection {
        provider_id: request.provider.clone(),
        model_id,
        context_limit: request.context_limit,
        extra_params_json: params.map(|params| params.to_string()).unwrap_or_default(),
        thought_level: thought_level as i32,
        ..ModelSelection::default()
    };
    let session = Session { session_id: request.session_id, model: Some(model), ..Session::default() };
    update(client, session, &["model"]).await.map_err(|error| {
        let refused = matches!(
            error.error_reason(),
            Some(
                ErrorReason::ProviderNotFound
                    | ErrorReason::ProviderNotConfigured
                    | ErrorReason::ProviderUnauthenticated
                    | ErrorReason::ModelUnknown
            )
        );
        let told = ApiError::from(error).into_text();
        if refused {
            let prefix = format!("Failed to create {} provider: ", request.provider);
            told.with_status(StatusCode::BAD_REQUEST).prefixed(&prefix)
        } else {
            told
        }
    })?;
    Ok(StatusCode::OK)
}

/// Takes Goose's thinking effort out of the parameters, where later Desktops keep it: no vendor knows the field.
fn thought_level(params: Option<&mut Value>) -> ThoughtLevel {
    let Some(params) = params.and_then(Value::as_object_mut) else { return ThoughtLevel::Unspecified };
    let word = params.get(THINKING_EFFORT).and_then(Value::as_str).unwrap_or_default();
    let name = format!("THOUGHT_LEVEL_{}", word.to_ascii_uppercase());
    let Some(level) = ThoughtLevel::from_str_name(&name) else { return ThoughtLevel::Unspecified };
    params.remove(THINKING_EFFORT);
    level
}

async fn default_model(client: &Client) -> Result<Option<String>, ApiError> {
    let request = gander_proto::v1::GetConfigValueRequest { key: "GOOSE_MODEL".to_owned() };
    match client.config().get_config_value(request).await {
        Ok(response) => {
            let value = response.into_inner().value.map(|value| value.value_json);
            let value = value.and_then(|json| serde_json::from_str::<Value>(&json).ok());
            Ok(value.and_then(|value| value.as_str().map(str::to_owned)).filter(|model| !model.is_empty()))
        }
        Err(status) => {
            let error = ClientError::from(status);
            if error.code == tonic::Code::NotFound { Ok(None) } else { Err(error.into()) }
        }
    }
}

/// The daemon applies a recipe when the session is made and when its values change: there is nothing left to do.
async fn update_from_session(
    State(app): State<App>,
    Json(request): Json<SessionRequest>,
) -> Result<StatusCode, ApiError> {
    turns::session(app.client(), &request.session_id).await.map_err(|error| {
        let lost = error.is_temporary();
        let told = ApiError::from(error).prefixed("Failed to get session: ");
        if lost { told } else { told.with_status(StatusCode::INTERNAL_SERVER_ERROR) }
    })?;
    Ok(StatusCode::OK)
}

#[derive(Debug, Deserialize)]
struct SettingsRequest {
    session_id: String,
    #[serde(default)]
    goose_mode: Option<String>,
}

async fn update_session(
    State(app): State<App>,
    Json(request): Json<SettingsRequest>,
) -> Result<StatusCode, ApiError> {
    let Some(word) = request.goose_mode else {
        turns::session(app.client(), &request.session_id).await?;
        return Ok(StatusCode::OK);
    };
    let Some(mode) = mode_of(&word) else {
        return Err(ApiError::bad_request(
            "goose_mode is unknown; expected auto, approve, smart_approve or chat",
        ));
    };
    let session = Session { session_id: request.session_id, mode: Some(mode as i32), ..Session::default() };
    update(app.client(), session, &["mode"]).await?;
    Ok(StatusCode::OK)
}

#[derive(Debug, Deserialize)]
struct ContainerRequest {
    session_id: String,
    #[serde(default)]
    container_id: Option<String>,
}

async fn set_container(
    State(app): State<App>,
    Json(request): Json<ContainerRequest>,
) -> Result<StatusCode, ApiError> {
    let session = Session {
        session_id: request.session_id,
        container: request.container_id.unwrap_or_default(),
        ..Session::default()
    };
    update(app.client(), session, &["container"]).await?;
    Ok(StatusCode::OK)
}

#[derive(Debug, Deserialize)]
struct AddExtensionRequest {
    session_id: String,
    config: Value,
}

/// Goose's sentence for servers of the transport that is gone.
const SSE: &str = "invalid config: SSE is unsupported, migrate to streamable_http";

async fn add_extension(
    State(app): State<App>,
    Json(request): Json<AddExtensionRequest>,
) -> Result<StatusCode, ApiError> {
    const FAILED: &str = "Failed to add extension: ";
    let config = extension_config("config.", &request.config)?;
    if matches!(config.kind, Some(gander_proto::v1::extension_config::Kind::Sse(_))) {
        return Err(ApiError::internal(format!("{FAILED}{SSE}")));
    }
    let mut add = tonic::Request::new(AddSessionExtensionRequest {
        session_id: request.session_id,
        extension: Some(add_session_extension_request::Extension::Config(Box::new(config))),
        wait: true,
        ..AddSessionExtensionRequest::default()
    });
    add.set_timeout(EXTENSION_DEADLINE);
    let told = |error: ClientError| {
        let lost = error.is_temporary();
        let told = ApiError::from(error).prefixed(FAILED);
        if lost { told } else { told.with_status(StatusCode::INTERNAL_SERVER_ERROR) }
    };
    app.client().extensions().add_session_extension(add).await.map_err(|status| told(status.into()))?;
    Ok(StatusCode::OK)
}

#[derive(Debug, Deserialize)]
struct RemoveExtensionRequest {
    session_id: String,
    name: String,
}

async fn remove_extension(
    State(app): State<App>,
    Json(request): Json<RemoveExtensionRequest>,
) -> Result<StatusCode, ApiError> {
    let remove = RemoveSessionExtensionRequest {
        session_id: request.session_id,
        extension_name: request.name,
        ..RemoveSessionExtensionRequest::default()
    };
    let removed = app.client().extensions().remove_session_extension(remove).await;
    removed.map_err(|status| {
        let error = ClientError::from(status);
        let lost = error.is_temporary();
        let told = ApiError::from(error).prefixed("Failed to remove extension: ");
        if lost { told } else { told.with_status(StatusCode::INTERNAL_SERVER_ERROR) }
    })?;
    Ok(StatusCode::OK)
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
