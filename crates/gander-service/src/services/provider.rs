//! ProviderService.

use gander_domain::{ErrorDetail, ErrorReason};
use gander_engine::config_error;
use gander_engine::types::{ModelInfo, ProviderInfo};
use gander_proto::v1::{self as pb, provider_service_server::ProviderService};
use tonic::{Request, Response, Status};

use crate::{
    Api,
    convert::{At, Violations, error_to_pb, int64, or_empty},
    error::{IntoStatus as _, not_implemented},
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
        let wanted =
            |info: &&ProviderInfo| request.provider_id.is_empty() || info.provider_id == request.provider_id;
        let found = providers.iter().map(|(info, _)| info).filter(wanted).find_map(|info| {
            let model = info.models.iter().find(|m| m.model_id == model_id)?;
            Some((info.provider_id.clone(), model_to_pb(model)))
        });
        let (provider_id, model) = found
            .ok_or_else(|| {
                let message =
                    format!("nothing is known about model {model_id:?}; ListModels shows the known ones");
                ErrorDetail::new(ErrorReason::ModelUnknown, message).with("modelId", &model_id)
            })
            .or_status()?;
        Ok(Response::new(pb::GetModelInfoResponse { model: Some(model), provider_id }))
    }

    async fn check_provider(
        &self,
        request: Request<pb::CheckProviderRequest>,
    ) -> Answer<pb::CheckProviderResponse> {
        let provider_id = name("provider_id", request.into_inner().provider_id).or_status()?;
        // That it does not work is an answer; that there is none such is an error.
        let error = match self.engine.check_provider(&provider_id).await {
            Ok(()) => None,
            Err(e) if e.reason == ErrorReason::ProviderNotFound => return Err(e).or_status(),
            Err(e) => Some(error_to_pb(&e)),
        };
        Ok(Response::new(pb::CheckProviderResponse { working: error.is_none(), error }))
    }

    async fn detect_provider(
        &self,
        _request: Request<pb::DetectProviderRequest>,
    ) -> Answer<pb::DetectProviderResponse> {
        Err(not_implemented("DetectProvider"))
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
            self.engine.check_provider(&provider_id).await.or_status()?;
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
        _request: Request<pb::AuthenticateProviderRequest>,
    ) -> Answer<Self::AuthenticateProviderStream> {
        Err(not_implemented("AuthenticateProvider"))
    }

    async fn create_custom_provider(
        &self,
        _request: Request<pb::CreateCustomProviderRequest>,
    ) -> Answer<pb::CreateCustomProviderResponse> {
        Err(not_implemented("CreateCustomProvider"))
    }

    async fn get_custom_provider(
        &self,
        _request: Request<pb::GetCustomProviderRequest>,
    ) -> Answer<pb::GetCustomProviderResponse> {
        Err(not_implemented("GetCustomProvider"))
    }

    async fn update_custom_provider(
        &self,
        _request: Request<pb::UpdateCustomProviderRequest>,
    ) -> Answer<pb::UpdateCustomProviderResponse> {
        Err(not_implemented("UpdateCustomProvider"))
    }

    async fn delete_custom_provider(
        &self,
        _request: Request<pb::DeleteCustomProviderRequest>,
    ) -> Answer<pb::DeleteCustomProviderResponse> {
        Err(not_implemented("DeleteCustomProvider"))
    }
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
        oauth_flow: false,
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
        supports_tools: None,
        supports_images: None,
        supports_reasoning: None,
        supports_cache_control: None,
    }
}
