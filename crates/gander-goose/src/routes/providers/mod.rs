//! `/config/providers` and what belongs to them: models, the default model, sign-in, facts about models.
//!
//! Goose counts prices per token here and per million tokens in the model's facts; the API always per million.

mod catalog;
mod custom;

use std::time::Duration;

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use futures::StreamExt as _;
use gander_client::ClientError;
use gander_proto::v1::{
    AuthenticateProviderRequest, AuthenticateProviderResponse, CheckProviderRequest, DetectProviderRequest,
    ErrorReason, GetModelInfoRequest, ListModelsRequest, ListProvidersRequest, ModelInfo, Provider,
    ProviderKind, SetDefaultModelRequest, authenticate_provider_response::Step,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::{Code, Streaming};

use crate::{App, error::ApiError, extract::Json};

type Answer<T = Value> = Result<Json<T>, ApiError>;

/// Window that Goose assumes for a model of which nothing is known.
const ASSUMED_CONTEXT: i64 = 128_000;
/// How long a sign-in may go on after its request was answered.
const SIGN_IN: Duration = Duration::from_secs(600);

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/config/providers", get(list))
        .route("/config/providers/{name}/models", get(models))
        .route("/config/providers/{name}/oauth", post(oauth))
        .route("/config/check_provider", post(check))
        .route("/config/set_provider", post(set_default))
        .route("/config/detect-provider", post(detect))
        .route("/config/canonical-model-info", post(model_info))
        .route("/config/model-info", post(model_info))
        .route("/handle_openrouter", post(openrouter))
        .route("/handle_tetrate", post(tetrate))
        .route("/handle_nanogpt", post(nanogpt))
        .merge(custom::routes())
        .merge(catalog::routes())
}

async fn list(State(app): State<App>) -> Answer {
    let listed = app.client().providers().list_providers(ListProvidersRequest {}).await?.into_inner();
    Ok(Json(listed.providers.iter().map(details).collect()))
}

fn details(provider: &Provider) -> Value {
    let kind = match provider.kind() {
        ProviderKind::Preferred => "Preferred",
        ProviderKind::Declarative => "Declarative",
        ProviderKind::Custom => "Custom",
        ProviderKind::Builtin | ProviderKind::Agent | ProviderKind::Unspecified => "Builtin",
    };
    let keys: Vec<Value> = provider
        .config_keys
        .iter()
        .map(|key| {
            json!({
                "name": key.key,
                "required": key.required,
                "secret": key.secret,
                "default": key.default_value,
                "oauth_flow": key.oauth_flow,
                "primary": key.primary,
            })
        })
        .collect();
    json!({
        "name": provider.provider_id,
        "is_configured": provider.configured,
        "provider_type": kind,
        "metadata": {
            "name": provider.provider_id,
            "display_name": provider.display_name,
            "description": provider.description,
            "default_model": provider.default_model_id,
            "known_models": provider.models.iter().map(known_model).collect::<Vec<_>>(),
            "model_doc_link": provider.doc_url,
            "config_keys": keys,
            "allows_unlisted_models": provider.allows_unlisted_models,
        },
    })
}

fn known_model(model: &ModelInfo) -> Value {
    let price = model.price.as_ref();
    let per_token = |micros: Option<i64>| micros.map(|micros| units(micros) / 1_000_000.0);
    let input = price.and_then(|price| per_token(price.input_micros));
    let output = price.and_then(|price| per_token(price.output_micros));
    json!({
        "name": model.model_id,
        "context_limit": model.context_window_tokens.filter(|tokens| *tokens > 0).unwrap_or(ASSUMED_CONTEXT),
        "input_token_cost": input,
        "output_token_cost": output,
        "currency": price.map(|price| sign(&price.currency)),
        "supports_cache_control": model.supports_cache_control,
    })
}

/// Millionths as units. Prices are far below where a float loses whole numbers.
#[allow(clippy::cast_precision_loss, reason = "prices are far below 2^53 micros")]
fn units(micros: i64) -> f64 {
    micros as f64 / 1_000_000.0
}

/// Goose's clients show the text in front of the number.
fn sign(currency: &str) -> &str {
    if matches!(currency, "" | "USD") { "$" } else { currency }
}

/// Asks the provider: this is also how Desktop finds out whether a key that was just saved works.
async fn models(State(app): State<App>, Path(name): Path<String>) -> Answer<Vec<String>> {
    let request = ListModelsRequest { provider_id: name, live: true };
    let listed = app.client().providers().list_models(request).await.map_err(unusable)?.into_inner();
    Ok(Json(listed.models.into_iter().map(|model| model.model_id).collect()))
}

/// A provider without its settings is a state that the person can change, not a failure of the server.
fn unusable(status: tonic::Status) -> ApiError {
    let error = ClientError::from(status);
    let not_set_up = error.is(ErrorReason::ProviderNotConfigured);
    let answer = ApiError::from(error);
    if not_set_up { answer.with_status(StatusCode::BAD_REQUEST) } else { answer }
}

#[derive(Deserialize)]
struct Check {
    provider: String,
}

async fn check(State(app): State<App>, Json(query): Json<Check>) -> Result<(), ApiError> {
    let request = CheckProviderRequest { provider_id: query.provider, model_id: String::new() };
    let checked = app.client().providers().check_provider(request).await.map_err(unusable)?.into_inner();
    if checked.working {
        return Ok(());
    }
    let reason = checked.error.map(|error| error.message).filter(|message| !message.is_empty());
    Err(ApiError::bad_request(reason.unwrap_or_else(|| "the provider does not work".to_owned())))
}

#[derive(Deserialize)]
struct SetDefault {
    provider: String,
    model: String,
}

/// The provider is tried first, and nothing is written if its settings are wrong. That it cannot be reached right now
/// is no such fault: Goose does not ask it at all. Whatever fails is 400 here, as in Goose.
async fn set_default(State(app): State<App>, Json(query): Json<SetDefault>) -> Result<(), ApiError> {
    let SetDefault { provider, model } = query;
    let request = |verify| SetDefaultModelRequest {
        provider_id: provider.clone(),
        model_id: model.clone(),
        verify,
        ..Default::default()
    };
    let mut client = app.client().providers();
    let Err(status) = client.set_default_model(request(true)).await else { return Ok(()) };
    let mut error = ClientError::from(status);
    let unreachable = matches!(
        error.error_reason(),
        Some(
            ErrorReason::ProviderUnavailable
                | ErrorReason::ProviderOverloaded
                | ErrorReason::ProviderRateLimited
                | ErrorReason::ProviderQuotaExhausted
                | ErrorReason::ProviderBadRequest
        )
    );
    if unreachable {
        match client.set_default_model(request(false)).await {
            Ok(_) => return Ok(()),
            Err(status) => error = status.into(),
        }
    }
    let ours = error.is_transport_loss() || error.code == Code::Internal;
    let answer = ApiError::from(error);
    Err(if ours { answer } else { answer.with_status(StatusCode::BAD_REQUEST) })
}

#[derive(Deserialize)]
struct Detect {
    api_key: String,
}

async fn detect(State(app): State<App>, Json(query): Json<Detect>) -> Answer {
    let request = DetectProviderRequest { api_key: query.api_key };
    let found = app.client().providers().detect_provider(request).await.map_err(|status| {
        let error = ClientError::from(status);
        let none = error.is(ErrorReason::ProviderNotFound);
        let answer = ApiError::from(error);
        if none { answer.with_status(StatusCode::NOT_FOUND) } else { answer }
    })?;
    let found = found.into_inner();
    let models: Vec<String> = found.models.into_iter().map(|model| model.model_id).collect();
    Ok(Json(json!({ "provider_name": found.provider_id, "models": models })))
}

#[derive(Deserialize)]
struct ModelQuery {
    provider: String,
    model: String,
}

/// That nothing is known, or not how much fits in, is an answer: Desktop then shows no gauge.
async fn model_info(State(app): State<App>, Json(query): Json<ModelQuery>) -> Answer {
    let ModelQuery { provider, model } = query;
    if provider.is_empty() || model.is_empty() {
        return Ok(Json(json!({ "model_info": null, "source": "canonical" })));
    }
    let request = GetModelInfoRequest { provider_id: provider.clone(), model_id: model.clone() };
    let known = match app.client().providers().get_model_info(request).await {
        Ok(answer) => answer.into_inner().model,
        Err(status) => {
            let error = ClientError::from(status);
            match error.error_reason() {
                Some(ErrorReason::ProviderNotFound | ErrorReason::ModelUnknown) => None,
                _ => return Err(error.into()),
            }
        }
    };
    let info = known.as_ref().and_then(|info| facts(&provider, &model, info));
    Ok(Json(json!({ "model_info": info, "source": "canonical" })))
}

fn facts(provider: &str, model: &str, info: &ModelInfo) -> Option<Value> {
    let context = info.context_window_tokens.filter(|tokens| *tokens > 0)?;
    let price = info.price.clone().unwrap_or_default();
    Some(json!({
        "provider": provider,
        "model": model,
        "context_limit": context,
        "max_output_tokens": info.max_output_tokens,
        "input_token_cost": price.input_micros.map(units),
        "output_token_cost": price.output_micros.map(units),
        "cache_read_token_cost": price.cache_read_micros.map(units),
        "cache_write_token_cost": price.cache_write_micros.map(units),
        "currency": sign(&price.currency),
    }))
}

async fn oauth(State(app): State<App>, Path(name): Path<String>) -> Answer<&'static str> {
    match sign_in(&app, name).await? {
        SignIn::Done => Ok(Json("OAuth configuration completed")),
        SignIn::Refused(message) => Err(ApiError::bad_request(message)),
    }
}

async fn openrouter(State(app): State<App>) -> Answer {
    set_up(&app, "openrouter").await
}

async fn tetrate(State(app): State<App>) -> Answer {
    set_up(&app, "tetrate").await
}

async fn nanogpt(State(app): State<App>) -> Answer {
    set_up(&app, "nanogpt").await
}

/// Always 200: Desktop shows the message.
async fn set_up(app: &App, provider_id: &str) -> Answer {
    let (success, message) = match sign_in(app, provider_id.to_owned()).await {
        Ok(SignIn::Done) => (true, format!("{provider_id} is set up")),
        Ok(SignIn::Refused(message)) => (false, message),
        Err(error) => match error.body {
            crate::error::ErrorBody::Message(text) | crate::error::ErrorBody::Text(text) => (false, text),
            crate::error::ErrorBody::Empty => (false, "the sign-in failed".to_owned()),
        },
    };
    Ok(Json(json!({ "success": success, "message": message })))
}

enum SignIn {
    Done,
    /// With the sentence for the person.
    Refused(String),
}

/// Follows a sign-in. A page to open cannot be shown by an answer that blocks until the end, so the first one ends the
/// answer while the sign-in goes on in the background.
async fn sign_in(app: &App, provider_id: String) -> Result<SignIn, ApiError> {
    let request = AuthenticateProviderRequest { provider_id };
    let mut steps = match app.client().providers().authenticate_provider(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            let error = ClientError::from(status);
            if error.is_transport_loss() {
                return Err(error.into());
            }
            return Ok(SignIn::Refused(crate::error::sentence(&error)));
        }
    };
    loop {
        let Some(step) = steps.next().await else {
            return Ok(SignIn::Refused("the sign-in ended without an outcome; try again".to_owned()));
        };
        let message = match step.map_err(ClientError::from)?.step {
            Some(Step::Succeeded(_)) => return Ok(SignIn::Done),
            Some(Step::Failed(error)) => return Ok(SignIn::Refused(error.message)),
            Some(Step::OpenUrl(url)) => format!("To sign in, open {url} in a browser, then try again"),
            Some(Step::DeviceCode(code)) => format!(
                "To sign in, open {} in a browser and enter the code {}, then try again",
                code.verification_url, code.user_code
            ),
            Some(Step::StatusText(_)) | None => continue,
        };
        finish_in_background(app, steps);
        return Ok(SignIn::Refused(message));
    }
}

fn finish_in_background(app: &App, mut steps: Streaming<AuthenticateProviderResponse>) {
    let shutdown = app.shutdown().clone();
    app.spawn(async move {
        let to_the_end = async { while let Some(Ok(_)) = steps.next().await {} };
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = tokio::time::timeout(SIGN_IN, to_the_end) => {}
        }
    });
}

#[cfg(test)]
mod tests;
