//! A provider reached over HTTP, whatever dialect it speaks.
//!
//! The dialect encodes the request and reads the reply; everything else is the same for all: one HTTP client per
//! provider holds the credentials, redirects are refused, so that no key leaves for another host, and errors are
//! classified and redacted in one place.

mod models;
mod options;

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};

pub(crate) use models::parse_models;
pub(crate) use options::header;
pub use options::{Decoder, Format, VendorOptions};

use crate::{
    CheckResult, ModelError, ModelErrorClass, ModelInfo, ModelProvider, ModelRequest, ModelStream,
    ProviderInfo, anthropic, bedrock, google, openai,
    redact::Redactor,
    responses,
    rig_adapter::{self, Profile},
    wire::{self, ReplyDecoder, failure, network_error, read_body},
};

/// Longest model list that is read.
const MAX_LIST_BODY: usize = 16 * 1024 * 1024;

/// A provider that speaks one of the dialects over HTTP.
pub struct Vendor {
    options: VendorOptions,
    profile: Profile,
    client: reqwest::Client,
    redactor: Redactor,
}

impl Vendor {
    /// A provider with its own HTTP client.
    ///
    /// # Errors
    /// The client cannot be built, or the URL is none.
    pub fn new(mut options: VendorOptions) -> Result<Self, ModelError> {
        let invalid = |what: String| ModelError::new(ModelErrorClass::InvalidRequest, what);
        let url = reqwest::Url::parse(&options.url_for("model"))
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
            base_url: options.url.trim_end_matches("/chat/completions").to_owned(),
            stream_usage: options.stream_usage,
            streaming: options.streaming,
            max_tokens_field: options.max_tokens_field.clone(),
            extra_body: options.extra_body.clone(),
            thinking: options.thinking.clone(),
        };
        let redactor = Redactor::new(std::mem::take(&mut options.secrets));
        Ok(Self { options, profile, client, redactor })
    }

    fn encode(&self, request: &ModelRequest) -> Result<Vec<u8>, ModelError> {
        match self.options.format {
            Format::OpenAiChat => rig_adapter::encode(&self.profile, request),
            Format::OpenAiResponses => responses::encode(&self.options, request),
            Format::Anthropic => anthropic::encode(&self.options, request),
            Format::Google => google::encode(&self.options, request),
            Format::Bedrock => bedrock::encode(&self.options, request),
        }
    }

    fn call(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let body = self.encode(request)?;
        let url = self.options.url_for(&request.model_id);
        let mut call = self
            .client
            .post(&url)
            .header("content-type", "application/json")
            .header("accept", self.options.format.accepts());
        if let Some(credentials) = &self.options.aws {
            for (name, value) in bedrock::sign(credentials, &url, &body, std::time::SystemTime::now())? {
                call = call.header(name, value);
            }
        }
        let top_up = self.options.top_up_url.clone().map(Arc::from);
        Ok(wire::stream(
            call.body(body),
            decoder(self.options.format, &self.options.info.provider_id),
            self.redactor.clone(),
            top_up,
        ))
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
                let mut models = models::merge_models(found, &listed);
                for model in &mut models {
                    crate::facts::complete(&self.options.info.provider_id, model);
                }
                Ok(models)
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

impl ModelProvider for Vendor {
    fn info(&self) -> &ProviderInfo {
        &self.options.info
    }

    fn stream(&self, request: ModelRequest) -> ModelStream {
        if self.options.format == Format::OpenAiChat && self.options.decoder == Decoder::Rig {
            return rig_adapter::stream(&self.profile, &self.client, &request, &self.redactor);
        }
        match self.call(&request) {
            Ok(stream) => stream,
            Err(error) => Box::pin(futures::stream::once(async move { Err(error) })),
        }
    }

    fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
        self.fetch_models().boxed()
    }

    fn check(&self) -> BoxFuture<'_, CheckResult> {
        self.prove().boxed()
    }

    fn can_choose_thoughts(&self, model_id: &str) -> bool {
        self.options.thinking.can_choose(self.options.format, model_id)
    }
}

/// The reader of a dialect's replies.
fn decoder(format: Format, provider_id: &str) -> Box<dyn ReplyDecoder> {
    match format {
        Format::OpenAiChat => Box::new(openai::Assembler::new(provider_id)),
        Format::OpenAiResponses => Box::new(responses::Reader::new(provider_id)),
        Format::Anthropic => Box::new(anthropic::Reader::new(provider_id)),
        Format::Google => Box::new(google::Reader::new(provider_id)),
        Format::Bedrock => Box::new(bedrock::Reader::new(provider_id)),
    }
}

fn host(url: &str) -> String {
    reqwest::Url::parse(url)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned))
        .unwrap_or_else(|| "the server".to_owned())
}

#[cfg(test)]
mod tests;
