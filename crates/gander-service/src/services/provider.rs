//! ProviderService.

use gander_domain::{ErrorDetail, ErrorReason};
use gander_engine::types::{ModelInfo, ProviderInfo, facts_of};
use gander_engine::{CustomDefinition, config_error};
use gander_proto::v1::{
    self as pb, authenticate_provider_response::Step, provider_service_server::ProviderService,
};
use tonic::{Request, Response, Status};

use crate::{
    Api,
    convert::{At, Violations, error_to_pb, int64, or_empty},
    error::IntoStatus as _,
    watch::Answers,
};

type Answer<T> = Result<Response<T>, Status>;

const PROVIDER_KEY: &str = "GOOSE_PROVIDER";
const MODEL_KEY: &str = "GOOSE_MODEL";

#[tonic::async_trait]
impl ProviderService for Api {
    async fn list_providers(
        &self,
        _request: Request<pb::ListProvidersRequest>,
    ) -> Answer<pb::ListProvidersResponse> {
        let providers = self.run_blocking(|engine| Ok(engine.providers())).await?;
        let providers =
            providers.iter().map(|(info, configured)| provider_to_pb(info, *configured)).collect();
        Ok(Response::new(pb::ListProvidersResponse { providers }))
    }

    async fn list_models(&self, request: Request<pb::ListModelsRequest>) -> Answer<pb::ListModelsResponse> {
        let request = request.into_inner();
        let provider_id = name("provider_id", request.provider_id).or_status()?;
        let models = self.engine.list_models(&provider_id, request.live).await.or_status()?;
        Ok(Response::new(pb::ListModelsResponse { models: models.iter().map(model_to_pb).collect() }))
    }

    async fn get_model_info(
        &self,
        request: Request<pb::GetModelInfoRequest>,
    ) -> Answer<pb::GetModelInfoResponse> {
        let request = request.into_inner();
        let model_id = name("model_id", request.model_id).or_status()?;
        let providers = self.run_blocking(|engine| Ok(engine.providers())).await?;
        if !request.provider_id.is_empty()
            && !providers.iter().any(|(info, _)| info.provider_id == request.provider_id)
        {
            return Err(provider_not_found(&request.provider_id)).or_status();
        }
        let (provider_id, model) = known_model(&providers, &request.provider_id, &model_id)
            .ok_or_else(|| {
                let message =
                    format!("nothing is known about model {model_id:?}; ListModels shows the known ones");
                ErrorDetail::new(ErrorReason::ModelUnknown, message).with("modelId", &model_id)
            })
            .or_status()?;
        Ok(Response::new(pb::GetModelInfoResponse { model: Some(model_to_pb(&model)), provider_id }))
    }

    async fn check_provider(
        &self,
        request: Request<pb::CheckProviderRequest>,
    ) -> Answer<pb::CheckProviderResponse> {
        let request = request.into_inner();
        let provider_id = name("provider_id", request.provider_id).or_status()?;
        // That it does not work is an answer; that there is none such is an error.
        let error = match self.engine.check_provider(&provider_id, &request.model_id).await {
            Ok(()) => None,
            Err(e) if e.reason == ErrorReason::ProviderNotFound => return Err(e).or_status(),
            Err(e) => Some(error_to_pb(&e)),
        };
        Ok(Response::new(pb::CheckProviderResponse { working: error.is_none(), error }))
    }

    async fn detect_provider(
        &self,
        request: Request<pb::DetectProviderRequest>,
    ) -> Answer<pb::DetectProviderResponse> {
        let api_key = request.into_inner().api_key;
        if api_key.trim().is_empty() {
            return Err(ErrorDetail::invalid("api_key", "must not be empty")).or_status();
        }
        let (provider_id, models) = self.engine.detect_provider(&api_key).await.or_status()?;
        let models = models.iter().map(model_to_pb).collect();
        Ok(Response::new(pb::DetectProviderResponse { provider_id, models }))
    }

    async fn set_default_model(
        &self,
        request: Request<pb::SetDefaultModelRequest>,
    ) -> Answer<pb::SetDefaultModelResponse> {
        let request = request.into_inner();
        let mut v = Violations::default();
        let provider_id = v.name(&At::root("provider_id"), request.provider_id);
        let model_id = v.name(&At::root("model_id"), request.model_id);
        let (provider_id, model_id) = v.finish(Some((provider_id, model_id))).or_status()?;
        // Also without `verify`: a default that names no provider helps nobody.
        self.engine.list_models(&provider_id, false).await.or_status()?;
        if request.verify {
            self.engine.check_provider(&provider_id, &model_id).await.or_status()?;
        }
        let (provider, model) = (provider_id.clone(), model_id.clone());
        self.run_blocking(move |engine| {
            let config = engine.config();
            config.set(PROVIDER_KEY, &provider.into()).map_err(|e| config_error(&e))?;
            config.set(MODEL_KEY, &model.into()).map_err(|e| config_error(&e))
        })
        .await?;
        Ok(Response::new(pb::SetDefaultModelResponse { provider_id, model_id }))
    }

    type AuthenticateProviderStream = Answers<pb::AuthenticateProviderResponse>;

    async fn authenticate_provider(
        &self,
        request: Request<pb::AuthenticateProviderRequest>,
    ) -> Answer<Self::AuthenticateProviderStream> {
        let provider_id = name("provider_id", request.into_inner().provider_id).or_status()?;
        let begun = self.engine.begin_sign_in(&provider_id).await.or_status()?;
        let place = self.open_stream().or_status()?;
        let engine = self.engine.clone();
        // Nothing runs unless somebody reads, and dropping the stream gives up.
        let steps = async_stream::stream! {
            let _place = place;
            let step = |step| Ok(pb::AuthenticateProviderResponse { step: Some(step) });
            let where_to = "The browser comes back to this daemon's machine: open the page there.";
            yield step(Step::StatusText(where_to.to_owned()));
            yield step(Step::OpenUrl(begun.url().to_owned()));
            match engine.finish_sign_in(begun).await {
                Ok(()) => {
                    let listed = tokio::task::spawn_blocking(move || engine.providers()).await.unwrap_or_default();
                    let known = listed.iter().find(|(info, _)| info.provider_id == provider_id);
                    let provider = known.map(|(info, configured)| provider_to_pb(info, *configured));
                    let done = pb::AuthenticationSucceeded { provider };
                    yield step(Step::Succeeded(Box::new(done)));
                }
                Err(error) => yield step(Step::Failed(error_to_pb(&error))),
            }
        };
        Ok(Response::new(Box::pin(steps)))
    }

    async fn create_custom_provider(
        &self,
        request: Request<pb::CreateCustomProviderRequest>,
    ) -> Answer<pb::CreateCustomProviderResponse> {
        let request = request.into_inner();
        let (provider_id, definition) = self
            .run_blocking(move |engine| {
                engine.create_custom_provider(&request.definition_json, request.api_key.as_deref())
            })
            .await?;
        let provider = Some(custom_to_pb(provider_id, definition));
        Ok(Response::new(pb::CreateCustomProviderResponse { provider }))
    }

    async fn get_custom_provider(
        &self,
        request: Request<pb::GetCustomProviderRequest>,
    ) -> Answer<pb::GetCustomProviderResponse> {
        let provider_id = name("provider_id", request.into_inner().provider_id).or_status()?;
        let wanted = provider_id.clone();
        let definition = self.run_blocking(move |engine| engine.custom_provider(&wanted)).await?;
        let editable = definition.custom;
        let provider = Some(custom_to_pb(provider_id, definition));
        Ok(Response::new(pb::GetCustomProviderResponse { provider, editable }))
    }

    async fn update_custom_provider(
        &self,
        request: Request<pb::UpdateCustomProviderRequest>,
    ) -> Answer<pb::UpdateCustomProviderResponse> {
        let request = request.into_inner();
        let provider_id = name("provider_id", request.provider_id).or_status()?;
        let (definition_json, api_key) = (request.definition_json, request.api_key);
        let (provider_id, definition) = self
            .run_blocking(move |engine| {
                engine.update_custom_provider(&provider_id, &definition_json, api_key.as_deref())
            })
            .await?;
        let provider = Some(custom_to_pb(provider_id, definition));
        Ok(Response::new(pb::UpdateCustomProviderResponse { provider }))
    }

    async fn delete_custom_provider(
        &self,
        request: Request<pb::DeleteCustomProviderRequest>,
    ) -> Answer<pb::DeleteCustomProviderResponse> {
        let request = request.into_inner();
        let provider_id = name("provider_id", request.provider_id).or_status()?;
        let wanted = provider_id.clone();
        let removed = self.run_blocking(move |engine| engine.delete_custom_provider(&wanted)).await?;
        if !removed && !request.allow_missing {
            return Err(provider_not_found(&provider_id)).or_status();
        }
        Ok(Response::new(pb::DeleteCustomProviderResponse {}))
    }
}

fn custom_to_pb(provider_id: String, definition: CustomDefinition) -> pb::CustomProvider {
    pb::CustomProvider {
        provider_id,
        definition_json: definition.definition_json,
        has_api_key: definition.has_key,
    }
}

fn provider_not_found(provider_id: &str) -> ErrorDetail {
    let message = format!("provider {provider_id:?} is not known; ListProviders shows those that are");
    ErrorDetail::new(ErrorReason::ProviderNotFound, message).with("providerId", provider_id)
}

/// A model by its name, whatever stands around it: `anthropic/claude-sonnet-4.5` is Anthropic's `claude-sonnet-4-5`. What is
/// known of it in general counts where no provider lists it.
fn known_model(
    providers: &[(ProviderInfo, bool)],
    provider_id: &str,
    model_id: &str,
) -> Option<(String, ModelInfo)> {
    let prefix = model_id.split_once('/').map(|(prefix, _)| prefix);
    let searched: Vec<&ProviderInfo> = providers
        .iter()
        .map(|(info, _)| info)
        .filter(|info| provider_id.is_empty() || info.provider_id == provider_id)
        .collect();
    let exact = searched.iter().find_map(|info| {
        let model = info.models.iter().find(|m| m.model_id == model_id)?;
        Some((info.provider_id.clone(), model.clone()))
    });
    let facts = facts_of(model_id);
    let near = |info: &&&ProviderInfo| {
        let same =
            |m: &ModelInfo| facts.is_some() && facts_of(&m.model_id).map(|f| &f.id) == facts.map(|f| &f.id);
        info.models.iter().find(|m| same(m)).map(|m| (info.provider_id.clone(), m.clone()))
    };
    exact
        .or_else(|| {
            searched.iter().filter(|info| Some(info.provider_id.as_str()) == prefix).find_map(|i| near(&i))
        })
        .or_else(|| searched.iter().find_map(|info| near(&info)))
        .or_else(|| {
            let facts = facts?;
            let seller = if provider_id.is_empty() { prefix.unwrap_or_default() } else { provider_id };
            let info = ModelInfo {
                model_id: model_id.to_owned(),
                display_name: facts.display_name.clone(),
                context_window_tokens: facts.context_window_tokens,
                max_output_tokens: facts.max_output_tokens,
                price_micros_per_million: facts.prices_at(seller),
            };
            Some((provider_id.to_owned(), info))
        })
}

fn name(field: &str, text: String) -> Result<String, ErrorDetail> {
    let mut v = Violations::default();
    let text = v.name(&At::root(field), text);
    v.finish(Some(text))
}

fn provider_to_pb(info: &ProviderInfo, configured: bool) -> pb::Provider {
    let kind = match info.kind.as_str() {
        "builtin" | "demo" => pb::ProviderKind::Builtin,
        "declarative" => pb::ProviderKind::Declarative,
        "custom" => pb::ProviderKind::Custom,
        "agent" => pb::ProviderKind::Agent,
        _ => pb::ProviderKind::Unspecified,
    };
    let key = |k: &gander_engine::types::ProviderConfigKey| pb::ProviderConfigKey {
        key: k.name.clone(),
        required: k.required,
        secret: k.secret,
        default_value: k.default.clone(),
        oauth_flow: k.signs_in,
        primary: k.required,
    };
    pb::Provider {
        provider_id: info.provider_id.clone(),
        display_name: info.display_name.clone(),
        description: info.description.clone(),
        default_model_id: or_empty(info.default_model_id.as_ref()),
        models: info.models.iter().map(model_to_pb).collect(),
        doc_url: or_empty(info.doc_url.as_ref()),
        config_keys: info.config_keys.iter().map(key).collect(),
        allows_unlisted_models: info.allows_unlisted_models,
        configured,
        kind: kind as i32,
    }
}

fn model_to_pb(model: &ModelInfo) -> pb::ModelInfo {
    let facts = facts_of(&model.model_id);
    let [input, output, cache_read, cache_write] = model.price_micros_per_million.map(|p| p.map(int64));
    let price = pb::ModelPrice {
        input_micros: input,
        output_micros: output,
        cache_read_micros: cache_read,
        cache_write_micros: cache_write,
        currency: "USD".to_owned(),
    };
    pb::ModelInfo {
        model_id: model.model_id.clone(),
        display_name: model.display_name.clone(),
        context_window_tokens: model.context_window_tokens.map(int64),
        max_output_tokens: model.max_output_tokens.map(int64),
        price: model.price_micros_per_million.iter().any(Option::is_some).then_some(price),
        supports_tools: facts.map(|f| f.supports_tools),
        supports_images: facts.map(|f| f.supports_images),
        supports_reasoning: facts.map(|f| f.supports_reasoning),
        supports_cache_control: facts.map(|f| f.supports_cache_control),
    }
}
