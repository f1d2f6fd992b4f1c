//! Goose's methods about providers: what there is, whether it is set up, and setting it up.

use gander_proto::v1::{
    CheckProviderRequest, DeleteSecretRequest, GetConfigValueRequest, GetSecretStatusRequest,
    ListModelsRequest, ListProvidersRequest, Provider, ProviderKind, SetConfigValueRequest, SetSecretRequest,
    UnsetConfigValueRequest,
};
use serde_json::{Value, json};

use super::{parsed, text};
use crate::{
    agent::{
        Inner,
        dispatch::{Handled, Outcome},
    },
    rpc::{self, RpcError},
};

/// Providers that a request names; all of them if it names none.
fn wanted(params: &Value) -> impl Fn(&Provider) -> bool {
    let listed = params.get("providerIds").and_then(Value::as_array).into_iter().flatten();
    let ids: Vec<String> = listed.filter_map(Value::as_str).map(str::to_owned).collect();
    move |provider| ids.is_empty() || ids.contains(&provider.provider_id)
}

fn entry(provider: &Provider) -> Value {
    let kind = match provider.kind() {
        ProviderKind::Preferred => "Preferred",
        ProviderKind::Declarative => "Declarative",
        ProviderKind::Custom => "Custom",
        ProviderKind::Builtin | ProviderKind::Agent | ProviderKind::Unspecified => "Builtin",
    };
    let agent = provider.kind() == ProviderKind::Agent;
    let keys = provider.config_keys.iter().map(|key| {
        json!({
            "name": key.key, "required": key.required, "secret": key.secret, "default": key.default_value,
            "oauthFlow": key.oauth_flow, "deviceCodeFlow": false, "primary": key.primary,
        })
    });
    let models = provider.models.iter().map(|model| {
        let name = if model.display_name.is_empty() { &model.model_id } else { &model.display_name };
        let mut shown = json!({
            "id": model.model_id, "name": name, "recommended": model.model_id == provider.default_model_id,
        });
        if let Some(shown) = shown.as_object_mut() {
            let limits = [("contextLimit", model.context_window_tokens.map(Value::from))];
            let known = limits.into_iter().chain([("reasoning", model.supports_reasoning.map(Value::from))]);
            shown.extend(known.filter_map(|(key, value)| Some((key.to_owned(), value?))));
        }
        shown
    });
    json!({
        "providerId": provider.provider_id,
        "providerName": provider.display_name,
        "description": provider.description,
        "defaultModel": provider.default_model_id,
        "configured": provider.configured,
        "available": true,
        "providerType": kind,
        "acp": agent,
        "category": if agent { "agent" } else { "model" },
        "visibleInSetup": true,
        "deprecated": false,
        "configKeys": keys.collect::<Vec<_>>(),
        "setupSteps": [],
        "supportsRefresh": false,
        "refreshing": false,
        "models": models.collect::<Vec<_>>(),
        "stale": false,
    })
}

impl Inner {
    async fn providers(&self) -> Result<Vec<Provider>, RpcError> {
        let listed = self.client.providers().list_providers(ListProvidersRequest {}).await;
        Ok(listed.map_err(RpcError::from)?.into_inner().providers)
    }

    pub(super) async fn provider(&self, provider_id: &str) -> Result<Provider, RpcError> {
        let found = self.providers().await?.into_iter().find(|provider| provider.provider_id == provider_id);
        found.ok_or_else(|| RpcError::new(rpc::NOT_FOUND, "there is no such provider"))
    }

    pub(super) async fn goose_providers(&self, params: &Value) -> Outcome {
        let wanted = wanted(params);
        let providers = self.providers().await?;
        let entries: Vec<Value> = providers.iter().filter(|provider| wanted(provider)).map(entry).collect();
        Ok(Handled::Reply(json!({"entries": entries})))
    }

    pub(super) async fn goose_models(&self, params: &Value) -> Outcome {
        let provider_id = text(params, &["providerId"])?;
        let request = ListModelsRequest { provider_id: provider_id.to_owned(), live: true };
        let models = self.client.providers().list_models(request).await.map_err(RpcError::from)?.into_inner();
        let ids: Vec<String> = models.models.into_iter().map(|model| model.model_id).collect();
        Ok(Handled::Reply(json!({"providerId": provider_id, "models": ids})))
    }

    /// There is no inventory that could be old: lists are fetched when they are asked for.
    pub(super) fn goose_refresh(&self, params: &Value) -> Outcome {
        let listed = params.get("providerIds").and_then(Value::as_array).cloned().unwrap_or_default();
        let skipped = listed.iter().map(|id| json!({"providerId": id, "reason": "does_not_support_refresh"}));
        Ok(Handled::Reply(json!({"started": [], "skipped": skipped.collect::<Vec<_>>()})))
    }

    pub(super) async fn goose_provider_status(&self, params: &Value) -> Outcome {
        let wanted = wanted(params);
        let providers = self.providers().await?;
        let statuses = providers.iter().filter(|provider| wanted(provider)).map(status);
        Ok(Handled::Reply(json!({"statuses": statuses.collect::<Vec<_>>()})))
    }

    pub(super) async fn goose_provider_config(&self, params: &Value) -> Outcome {
        let provider = self.provider(text(params, &["providerId"])?).await?;
        let mut fields = Vec::new();
        for key in provider.config_keys {
            let (value, is_set) = if key.secret {
                let request = GetSecretStatusRequest { key: key.key.clone() };
                let status = self.client.config().get_secret_status(request).await.map_err(RpcError::from)?;
                (None, status.into_inner().secret.is_some_and(|secret| secret.present))
            } else {
                let value = self.config_value(&key.key).await;
                let is_set = value.is_some();
                (value, is_set)
            };
            fields.push(json!({
                "key": key.key, "value": value, "isSet": is_set, "isSecret": key.secret, "required": key.required,
            }));
        }
        Ok(Handled::Reply(json!({"fields": fields})))
    }

    /// A value as text; `None` when it is not set.
    async fn config_value(&self, key: &str) -> Option<String> {
        let request = GetConfigValueRequest { key: key.to_owned() };
        let value = self.client.config().get_config_value(request).await.ok()?.into_inner().value?;
        match parsed(&value.value_json) {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }
    }

    pub(super) async fn goose_save_provider(&self, params: &Value) -> Outcome {
        let provider = self.provider(text(params, &["providerId"])?).await?;
        let fields = params.get("fields").and_then(Value::as_array);
        for field in fields.ok_or_else(|| RpcError::params("fields must be a list"))? {
            let (key, value) = (text(field, &["key"])?, text(field, &["value"])?);
            let known = provider.config_keys.iter().find(|known| known.key == key);
            let known = known.ok_or_else(|| RpcError::params("a field is none of this provider's"))?;
            if known.secret {
                let request = SetSecretRequest { key: key.to_owned(), value: value.to_owned() };
                self.client.config().set_secret(request).await.map_err(RpcError::from)?;
            } else {
                let request = SetConfigValueRequest {
                    key: key.to_owned(),
                    value_json: json!(value).to_string(),
                    idempotency_key: String::new(),
                };
                self.client.config().set_config_value(request).await.map_err(RpcError::from)?;
            }
        }
        self.provider_changed(&provider.provider_id).await
    }

    /// Whether a provider can be used: it is asked for its models.
    pub(super) async fn goose_readiness(&self, params: &Value) -> Outcome {
        let provider_id = text(params, &["providerId"])?;
        let request = CheckProviderRequest { provider_id: provider_id.to_owned(), model_id: String::new() };
        let checked = self.client.providers().check_provider(request).await.map_err(RpcError::from)?;
        let checked = checked.into_inner();
        let mut answer = json!({"providerId": provider_id, "ready": checked.working});
        if let (Some(error), Some(answer)) = (checked.error, answer.as_object_mut()) {
            answer.insert("error".to_owned(), json!(error.message));
        }
        Ok(Handled::Reply(answer))
    }

    pub(super) async fn goose_forget_provider(&self, params: &Value) -> Outcome {
        let provider = self.provider(text(params, &["providerId"])?).await?;
        for key in provider.config_keys {
            if key.secret {
                let request = DeleteSecretRequest { key: key.key, ..DeleteSecretRequest::default() };
                self.client.config().delete_secret(request).await.map_err(RpcError::from)?;
            } else {
                let request = UnsetConfigValueRequest { key: key.key, ..UnsetConfigValueRequest::default() };
                self.client.config().unset_config_value(request).await.map_err(RpcError::from)?;
            }
        }
        self.provider_changed(&provider.provider_id).await
    }

    pub(super) async fn provider_changed(&self, provider_id: &str) -> Outcome {
        let provider = self.provider(provider_id).await?;
        let refresh = json!({"started": [], "skipped": []});
        Ok(Handled::Reply(json!({"status": status(&provider), "refresh": refresh})))
    }
}

pub(super) fn status(provider: &Provider) -> Value {
    json!({"providerId": provider.provider_id, "isConfigured": provider.configured})
}
