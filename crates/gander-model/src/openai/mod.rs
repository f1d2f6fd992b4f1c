//! Providers that speak OpenAI's chat completions.
//!
//! rig encodes the requests; replies are read by the decoder of this module, which parses every frame once and without a
//! JSON tree, or by rig's own decoder where a provider asks for it. One HTTP client per provider holds the credentials:
//! redirects are refused, so that no key leaves for another host.

mod assemble;
mod chunk;
mod reply;
mod sse;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};

pub(crate) use assemble::{ENGINE, cost, finish_arguments, truncated};

use crate::{
    CheckResult, ModelError, ModelErrorClass, ModelInfo, ModelProvider, ModelRequest, ModelStream,
    ProviderInfo,
    classify::{Failure, classify},
    redact::Redactor,
    rig_adapter::{self, Profile},
};

/// Longest error body that is read.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// Longest model list that is read.
const MAX_LIST_BODY: usize = 16 * 1024 * 1024;

/// Who reads the replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decoder {
    /// The typed decoder of this crate.
    #[default]
    Typed,
    /// rig's decoder: slower, an independent reading of the same bytes.
    Rig,
}

/// Everything that an OpenAI-compatible provider needs.
#[derive(Clone)]
pub struct OpenAiOptions {
    pub info: ProviderInfo,
    /// The full URL of `…/chat/completions`.
    pub chat_url: String,
    /// The full URL of the model list, if the server has one.
    pub models_url: Option<String>,
    /// A URL that answers 401 or 403 to a wrong key, if the model list does not.
    pub check_url: Option<String>,
    /// Headers of every request, credentials included and marked as sensitive.
    pub headers: HeaderMap,
    /// Values that no message may show.
    pub secrets: Vec<String>,
    pub connect_timeout: Duration,
    /// Longest silence of the server, also before its first byte.
    pub read_timeout: Duration,
    /// A dialect that rig knows by this name.
    pub dialect: Option<String>,
    pub stream_usage: bool,
    /// Whether the server can stream.
    pub streaming: bool,
    /// Another name of `max_tokens`.
    pub max_tokens_field: Option<String>,
    pub extra_body: Map<String, Value>,
    /// Where to top up.
    pub top_up_url: Option<String>,
    pub decoder: Decoder,
}

impl OpenAiOptions {
    /// Options with defaults for a server at `chat_url`.
    pub fn new(info: ProviderInfo, chat_url: impl Into<String>) -> Self {
        let chat_url = chat_url.into();
        let models_url = chat_url.strip_suffix("/chat/completions").map(|base| format!("{base}/models"));
        Self {
            info,
            chat_url,
            models_url,
            check_url: None,
            headers: HeaderMap::new(),
            secrets: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(120),
            dialect: None,
            stream_usage: true,
            streaming: true,
            max_tokens_field: None,
            extra_body: Map::new(),
            top_up_url: None,
            decoder: Decoder::Typed,
        }
    }

    /// Sends `key` as a bearer token.
    ///
    /// # Errors
    /// The key holds bytes that no header may hold.
    pub fn with_bearer(self, key: &str) -> Result<Self, ModelError> {
        self.with_credential("authorization", &format!("Bearer {key}"), key)
    }

    /// Sends `value` as header `name` and hides `secret`.
    ///
    /// # Errors
    /// The name or value is no valid header.
    pub fn with_credential(mut self, name: &str, value: &str, secret: &str) -> Result<Self, ModelError> {
        let (name, mut value) = header(name, value)?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        self.secrets.push(secret.to_owned());
        Ok(self)
    }
}

/// Parses a header without repeating its value in the error.
pub(crate) fn header(name: &str, value: &str) -> Result<(http::HeaderName, HeaderValue), ModelError> {
    let invalid = |what: &str| {
        ModelError::new(ModelErrorClass::InvalidRequest, format!("header {name:?}: its {what} is not valid"))
    };
    let header_name = name.parse().map_err(|_| invalid("name"))?;
    let header_value = HeaderValue::from_str(value.trim()).map_err(|_| invalid("value"))?;
    Ok((header_name, header_value))
}

/// A provider that speaks OpenAI's chat completions.
pub struct OpenAiCompatible {
    options: OpenAiOptions,
    profile: Profile,
    client: reqwest::Client,
    redactor: Redactor,
}

impl OpenAiCompatible {
    /// A provider with its own HTTP client.
    ///
    /// # Errors
    /// The client cannot be built, or the URL is none.
    pub fn new(mut options: OpenAiOptions) -> Result<Self, ModelError> {
        let invalid = |what: String| ModelError::new(ModelErrorClass::InvalidRequest, what);
        let url = reqwest::Url::parse(&options.chat_url)
            .map_err(|error| invalid(format!("the provider's address is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("the provider's address must begin with http:// or https://".to_owned()));
        }
        let loopback = crate::http_client::is_loopback(&url);
        if url.scheme() == "http" && !loopback && !options.secrets.is_empty() {
            tracing::warn!(
                provider = %options.info.provider_id,
                host = url.host_str().unwrap_or_default(),
                "the key of this provider travels unencrypted: its address is http://"
            );
        }
        let client = crate::http_client::build(
            &options.headers,
            options.connect_timeout,
            options.read_timeout,
            loopback,
        )?;
        let profile = Profile {
            provider_id: options.info.provider_id.clone(),
            dialect: options.dialect.clone(),
            base_url: options.chat_url.trim_end_matches("/chat/completions").to_owned(),
            stream_usage: options.stream_usage,
            streaming: options.streaming,
            max_tokens_field: options.max_tokens_field.clone(),
            extra_body: options.extra_body.clone(),
        };
        let redactor = Redactor::new(std::mem::take(&mut options.secrets));
        Ok(Self { options, profile, client, redactor })
    }

    async fn get(&self, url: &str, limit: usize) -> Result<(u16, Vec<u8>), ModelError> {
        let sent = self.client.get(url).header("accept", "application/json").send().await;
        let mut response = sent.map_err(|error| network_error(&error, &self.redactor))?;
        let status = response.status();
        if !status.is_success() {
            return Err(failure(response, &self.redactor, self.options.top_up_url.as_deref()).await);
        }
        let body =
            read_body(&mut response, limit).await.map_err(|error| network_error(&error, &self.redactor))?;
        Ok((status.as_u16(), body))
    }

    async fn fetch_models(&self) -> Result<Vec<ModelInfo>, ModelError> {
        let listed = self.options.info.models.clone();
        let Some(url) = &self.options.models_url else { return Ok(listed) };
        match self.get(url, MAX_LIST_BODY).await {
            Ok((_, body)) => {
                let found = parse_models(&body).ok_or_else(|| {
                    ModelError::new(
                        ModelErrorClass::Server,
                        format!("{} answered with something that is no list of models", host(url)),
                    )
                })?;
                Ok(merge_models(found, &listed))
            }
            Err(error) if matches!(error.status, Some(404 | 405 | 501)) => Ok(listed),
            Err(error) => Err(error),
        }
    }

    async fn prove(&self) -> CheckResult {
        let Some(url) = self.options.check_url.as_ref().or(self.options.models_url.as_ref()) else {
            return Ok(());
        };
        match self.get(url, MAX_LIST_BODY).await {
            Ok(_) => Ok(()),
            // The address answers; it merely has no such page.
            Err(error) if matches!(error.status, Some(404 | 405 | 501)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl ModelProvider for OpenAiCompatible {
    fn info(&self) -> &ProviderInfo {
        &self.options.info
    }

    fn stream(&self, request: ModelRequest) -> ModelStream {
        match self.options.decoder {
            Decoder::Rig => rig_adapter::stream(&self.profile, &self.client, &request, &self.redactor),
            Decoder::Typed => match rig_adapter::encode(&self.profile, &request) {
                Ok(body) => reply::stream(
                    self.client.post(&self.options.chat_url).body(body),
                    &self.options.info.provider_id,
                    self.redactor.clone(),
                    self.options.top_up_url.clone().map(Arc::from),
                ),
                Err(error) => Box::pin(futures::stream::once(async move { Err(error) })),
            },
        }
    }

    fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
        self.fetch_models().boxed()
    }

    fn check(&self) -> BoxFuture<'_, CheckResult> {
        self.prove().boxed()
    }
}

/// The error that a non-success response is.
pub(crate) async fn failure(
    mut response: reqwest::Response,
    redactor: &Redactor,
    top_up_url: Option<&str>,
) -> ModelError {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    // What could be read of the body is better than nothing.
    let body = read_body(&mut response, MAX_ERROR_BODY).await.unwrap_or_default();
    let body = String::from_utf8_lossy(&body);
    let failure = Failure {
        status: Some(status),
        headers: Some(&headers),
        body: &body,
        now: std::time::SystemTime::now(),
    };
    let mut error = classify(&failure, redactor);
    if error.class == ModelErrorClass::QuotaExhausted && error.help_url.is_none() {
        error.help_url = top_up_url.map(str::to_owned);
    }
    error
}

async fn read_body(response: &mut reqwest::Response, limit: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        body.extend_from_slice(&bytes[..bytes.len().min(limit - body.len())]);
        if body.len() >= limit {
            break;
        }
    }
    Ok(body)
}

/// A failure of the transport, without query strings.
pub(crate) fn network_error(error: &reqwest::Error, redactor: &Redactor) -> ModelError {
    let place = error.url().and_then(reqwest::Url::host_str).unwrap_or("the model provider").to_owned();
    let text = if error.is_timeout() && error.is_connect() {
        format!("{place} did not accept a connection in time")
    } else if error.is_timeout() {
        format!("{place} sent nothing for too long")
    } else {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let what = if error.is_connect() { "cannot connect to" } else { "the connection failed to" };
        format!("{what} {place}: {cause}")
    };
    ModelError::new(ModelErrorClass::Network, redactor.apply(&text))
}

fn host(url: &str) -> String {
    reqwest::Url::parse(url)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned))
        .unwrap_or_else(|| "the server".to_owned())
}

/// Reads `{"data": [{"id": …}]}`, `{"models": […]}` or a bare list.
fn parse_models(body: &[u8]) -> Option<Vec<ModelInfo>> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let list = document
        .as_array()
        .or_else(|| document.get("data").and_then(Value::as_array))
        .or_else(|| document.get("models").and_then(Value::as_array))?;
    let number = |model: &Value, paths: &[&str]| paths.iter().find_map(|path| model.pointer(path)?.as_u64());
    let models = list.iter().filter_map(|model| {
        let id = ["id", "model", "name"].iter().find_map(|key| model.get(*key)?.as_str())?;
        let name = ["display_name", "name"].iter().find_map(|key| model.get(*key)?.as_str());
        Some(ModelInfo {
            model_id: id.to_owned(),
            display_name: name.unwrap_or(id).to_owned(),
            context_window_tokens: number(
                model,
                &[
                    "/context_length",
                    "/context_window",
                    "/max_context_length",
                    "/max_model_len",
                    "/meta/n_ctx_train",
                ],
            ),
            max_output_tokens: number(
                model,
                &["/max_completion_tokens", "/max_output_tokens", "/top_provider/max_completion_tokens"],
            ),
            price_micros_per_million: prices(model.get("pricing")),
        })
    });
    Some(models.collect())
}

/// OpenRouter's prices: USD per token, as decimal strings.
fn prices(pricing: Option<&Value>) -> [Option<u64>; 4] {
    ["prompt", "completion", "input_cache_read", "input_cache_write"].map(|key| {
        let usd: f64 = pricing?.get(key)?.as_str()?.parse().ok()?;
        // USD per token → micro-USD per million tokens.
        let micros = (usd * 1e12).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded here")]
        (0.0..1e15).contains(&micros).then_some(micros as u64)
    })
}

/// What the server lists, completed by what the provider file knows.
fn merge_models(mut found: Vec<ModelInfo>, listed: &[ModelInfo]) -> Vec<ModelInfo> {
    for model in &mut found {
        let Some(known) = listed.iter().find(|known| known.model_id == model.model_id) else { continue };
        model.context_window_tokens = model.context_window_tokens.or(known.context_window_tokens);
        model.max_output_tokens = model.max_output_tokens.or(known.max_output_tokens);
        for (price, known) in model.price_micros_per_million.iter_mut().zip(known.price_micros_per_million) {
            *price = price.or(known);
        }
        if model.display_name == model.model_id {
            model.display_name.clone_from(&known.display_name);
        }
    }
    found
}

#[cfg(test)]
mod tests;
