//! `/config/provider-catalog`: templates for a custom provider, which Desktops from 1.25 on offer.
//!
//! The templates are the definitions that come with the daemon.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use futures::{StreamExt as _, stream};
use gander_proto::v1::{ListProvidersRequest, Provider, ProviderKind};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Answer, custom};
use crate::{
    App,
    error::ApiError,
    extract::{Json, Query},
};

/// Definitions that are read at a time.
const AT_A_TIME: usize = 8;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/config/provider-catalog", get(list))
        .route("/config/provider-catalog/{id}", get(template))
}

#[derive(Deserialize)]
struct Filter {
    #[serde(default)]
    format: Format,
}

/// Which dialect a template speaks.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Openai,
    Anthropic,
    Ollama,
}

impl Format {
    fn word(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
        }
    }
}

async fn offered(app: &App) -> Result<Vec<Provider>, ApiError> {
    let listed = app.client().providers().list_providers(ListProvidersRequest {}).await?.into_inner();
    Ok(listed.providers.into_iter().filter(|provider| provider.kind() == ProviderKind::Declarative).collect())
}

async fn list(State(app): State<App>, Query(filter): Query<Filter>) -> Answer<Vec<Value>> {
    let offered = offered(&app).await?;
    let definitions = stream::iter(offered)
        .map(|provider| {
            let app = app.clone();
            // One that vanished in between is no reason to show none.
            async move {
                let found = custom::fetch(&app, &provider.provider_id).await.ok()?;
                Some((provider, custom::complete(found.provider)))
            }
        })
        .buffered(AT_A_TIME)
        .filter_map(|found| async { found })
        .collect::<Vec<_>>()
        .await;
    let wanted = |format: &Value| format == filter.format.word();
    let entries = definitions.iter().map(|(provider, definition)| {
        let mut entry = head(provider, definition);
        let count = definition.get("models").and_then(Value::as_array).map_or(0, Vec::len);
        entry.insert("model_count".to_owned(), count.into());
        entry
    });
    Ok(Json(entries.filter(|entry| wanted(&entry["format"])).map(Value::Object).collect()))
}

fn head(provider: &Provider, definition: &Map<String, Value>) -> Map<String, Value> {
    let text = |field: &str| definition.get(field).cloned().unwrap_or_default();
    Map::from_iter([
        ("id".to_owned(), provider.provider_id.clone().into()),
        ("name".to_owned(), provider.display_name.clone().into()),
        ("format".to_owned(), text("engine")),
        ("api_url".to_owned(), address(definition).into()),
        ("doc_url".to_owned(), provider.doc_url.clone().into()),
        ("env_var".to_owned(), text("api_key_env")),
    ])
}

/// Where requests go, in one piece: what a form takes over from a template is this address alone. Settings in it have
/// their defaults.
fn address(definition: &Map<String, Value>) -> String {
    let text = |field: &str| definition.get(field).and_then(Value::as_str).unwrap_or_default();
    let (base, path) = (text("base_url").trim_end_matches('/'), text("base_path").trim_matches('/'));
    let mut address = if path.is_empty() { base.to_owned() } else { format!("{base}/{path}") };
    for setting in definition.get("env_vars").and_then(Value::as_array).into_iter().flatten() {
        if let (Some(name), Some(default)) = (setting["name"].as_str(), setting["default"].as_str()) {
            address = address.replace(&format!("${{{name}}}"), default.trim_end_matches('/'));
        }
    }
    address
}

async fn template(State(app): State<App>, Path(id): Path<String>) -> Answer {
    let offered = offered(&app).await?;
    let provider = offered.iter().find(|provider| provider.provider_id == id).ok_or_else(|| {
        ApiError::not_found(format!("there is no template {id:?}; GET /config/provider-catalog lists them"))
    })?;
    let definition = custom::complete(custom::fetch(&app, &id).await?.provider);
    let streaming = definition.get("supports_streaming").and_then(Value::as_bool).unwrap_or(true);
    let models = definition.get("models").and_then(Value::as_array).cloned().unwrap_or_default();
    let models: Vec<Value> = models.iter().map(|model| known(model, provider)).collect();
    let mut template = head(provider, &definition);
    template.insert("supports_streaming".to_owned(), streaming.into());
    template.insert("models".to_owned(), models.into());
    Ok(Json(Value::Object(template)))
}

fn known(model: &Value, provider: &Provider) -> Value {
    let name = model["name"].as_str().unwrap_or_default();
    let info = provider.models.iter().find(|info| info.model_id == name);
    let display = info.map(|info| info.display_name.as_str()).filter(|display| !display.is_empty());
    json!({
        "id": name,
        "name": display.unwrap_or(name),
        "context_limit": model["context_limit"],
        "capabilities": {
            "tool_call": info.and_then(|info| info.supports_tools).unwrap_or(true),
            "reasoning": info.and_then(|info| info.supports_reasoning).unwrap_or(false),
            "attachment": info.and_then(|info| info.supports_images).unwrap_or(false),
            "temperature": true,
        },
        "deprecated": false,
    })
}
