//! Goose's methods about the configuration and the default model.

use gander_proto::v1::{
    DeleteSecretRequest, GetConfigValueRequest, GetSecretStatusRequest, ListConfigValuesRequest,
    SetConfigValueRequest, SetDefaultModelRequest, SetSecretRequest, UnsetConfigValueRequest,
};
use serde_json::{Map, Value, json};

use super::{done, parsed, text};
use crate::{
    agent::{
        Inner,
        dispatch::{Handled, Outcome},
    },
    rpc::RpcError,
};

fn is_secret(params: &Value) -> bool {
    params.get("isSecret").and_then(Value::as_bool).unwrap_or_default()
}

/// Goose's preferences and the settings behind them.
const PREFERENCES: [(&str, &str); 5] = [
    ("autoCompactThreshold", "GOOSE_AUTO_COMPACT_THRESHOLD"),
    ("voiceAutoSubmitPhrases", "VOICE_AUTO_SUBMIT_PHRASES"),
    ("voiceDictationProvider", "VOICE_DICTATION_PROVIDER"),
    ("voiceDictationPreferredMic", "VOICE_DICTATION_PREFERRED_MIC"),
    ("gooseThinkingEffort", "GOOSE_THINKING_EFFORT"),
];

/// The preference that came last.
const NEWEST: &str = "gooseThinkingEffort";

/// The setting behind a preference.
fn preference(key: Option<&Value>) -> Result<(&'static str, &'static str), RpcError> {
    let wanted = key.and_then(Value::as_str).unwrap_or_default();
    let known = PREFERENCES.into_iter().find(|(preference, _)| *preference == wanted);
    known.ok_or_else(|| {
        let known: Vec<&str> = PREFERENCES.iter().map(|(preference, _)| *preference).collect();
        RpcError::params(format!("key must be one of {}", known.join(", ")))
    })
}

/// The preferences that a request names in `keys`.
fn preferences(params: &Value) -> Result<Vec<(&'static str, &'static str)>, RpcError> {
    let keys = params.get("keys").and_then(Value::as_array).into_iter().flatten();
    keys.map(|key| preference(Some(key))).collect()
}

impl Inner {
    /// The named preferences, or all of them; one that is not set is null. One that older clients do not know is among
    /// all of them only if it is set: they refuse a list with a stranger.
    pub(super) async fn goose_preferences(&self, params: &Value) -> Outcome {
        let named = preferences(params)?;
        let all = named.is_empty();
        let wanted = if all { PREFERENCES.to_vec() } else { named };
        let listed = self.client.config().list_config_values(ListConfigValuesRequest::default()).await;
        let listed = listed.map_err(RpcError::from)?.into_inner().values;
        let value = |setting: &str| listed.iter().find(|v| v.key == setting).map(|v| parsed(&v.value_json));
        let values = wanted.iter().map(|(key, setting)| (key, value(setting)));
        let values = values.filter(|(key, value)| !all || **key != NEWEST || value.is_some());
        let values: Vec<Value> = values.map(|(key, value)| json!({"key": key, "value": value})).collect();
        Ok(Handled::Reply(json!({"values": values})))
    }

    pub(super) async fn goose_save_preferences(&self, params: &Value) -> Outcome {
        let values = params.get("values").and_then(Value::as_array);
        let values = values.ok_or_else(|| RpcError::params("values must be a list"))?;
        // All of them are understood before the first is stored.
        let settings: Vec<_> = values
            .iter()
            .map(|value| Ok((preference(value.get("key"))?.1, value.get("value").unwrap_or(&Value::Null))))
            .collect::<Result<_, RpcError>>()?;
        for (setting, value) in settings {
            self.set_or_unset(setting, Some(value).filter(|value| !value.is_null())).await?;
        }
        Ok(done())
    }

    pub(super) async fn goose_remove_preferences(&self, params: &Value) -> Outcome {
        for (_, setting) in preferences(params)? {
            self.set_or_unset(setting, None).await?;
        }
        Ok(done())
    }

    async fn set_or_unset(&self, setting: &str, value: Option<&Value>) -> Result<(), RpcError> {
        let key = setting.to_owned();
        let mut config = self.client.config();
        match value {
            Some(value) => {
                let value_json = value.to_string();
                let request = SetConfigValueRequest { key, value_json, idempotency_key: String::new() };
                config.set_config_value(request).await.map_err(RpcError::from)?;
            }
            None => {
                let request = UnsetConfigValueRequest { key, ..UnsetConfigValueRequest::default() };
                config.unset_config_value(request).await.map_err(RpcError::from)?;
            }
        }
        Ok(())
    }

    pub(super) async fn goose_config_read(&self, params: &Value) -> Outcome {
        let key = text(params, &["key"])?.to_owned();
        if is_secret(params) {
            // A secret's value never leaves the daemon: only that there is one.
            let request = GetSecretStatusRequest { key };
            let status = self.client.config().get_secret_status(request).await.map_err(RpcError::from)?;
            let present = status.into_inner().secret.is_some_and(|status| status.present);
            return Ok(Handled::Reply(json!({"value": {"maskedValue": present.then_some("********")}})));
        }
        let value = self.client.config().get_config_value(GetConfigValueRequest { key }).await;
        let value = value.map_err(RpcError::from)?.into_inner().value;
        let value = value.map(|value| parsed(&value.value_json)).unwrap_or_default();
        Ok(Handled::Reply(json!({"value": value})))
    }

    pub(super) async fn goose_config_all(&self) -> Outcome {
        let listed = self.client.config().list_config_values(ListConfigValuesRequest::default()).await;
        let values = listed.map_err(RpcError::from)?.into_inner().values;
        let config: Map<String, Value> =
            values.into_iter().map(|value| (value.key, parsed(&value.value_json))).collect();
        Ok(Handled::Reply(json!({"config": config})))
    }

    pub(super) async fn goose_config_write(&self, params: &Value) -> Outcome {
        let key = text(params, &["key"])?.to_owned();
        let value = params.get("value").ok_or_else(|| RpcError::params("value is missing"))?;
        if is_secret(params) {
            let value = value.as_str().ok_or_else(|| RpcError::params("a secret must be a text"))?.to_owned();
            let request = SetSecretRequest { key, value };
            self.client.config().set_secret(request).await.map_err(RpcError::from)?;
        } else {
            let request =
                SetConfigValueRequest { key, value_json: value.to_string(), idempotency_key: String::new() };
            self.client.config().set_config_value(request).await.map_err(RpcError::from)?;
        }
        Ok(done())
    }

    pub(super) async fn goose_config_remove(&self, params: &Value) -> Outcome {
        let key = text(params, &["key"])?.to_owned();
        if is_secret(params) {
            let request = DeleteSecretRequest { key, ..DeleteSecretRequest::default() };
            self.client.config().delete_secret(request).await.map_err(RpcError::from)?;
        } else {
            let request = UnsetConfigValueRequest { key, ..UnsetConfigValueRequest::default() };
            self.client.config().unset_config_value(request).await.map_err(RpcError::from)?;
        }
        Ok(done())
    }

    pub(super) async fn goose_defaults(&self) -> Outcome {
        let model = self.server_info().await?.default_model;
        let (provider, model) = model.map(|model| (model.provider_id, model.model_id)).unzip();
        Ok(Handled::Reply(json!({"providerId": provider, "modelId": model})))
    }

    pub(super) async fn goose_clear_defaults(&self) -> Outcome {
        for setting in ["GOOSE_PROVIDER", "GOOSE_MODEL"] {
            self.set_or_unset(setting, None).await?;
        }
        self.goose_defaults().await
    }

    pub(super) async fn goose_save_defaults(&self, params: &Value) -> Outcome {
        let provider_id = text(params, &["providerId"])?.to_owned();
        let model_id = match params.get("modelId").and_then(Value::as_str) {
            Some(model) => model.to_owned(),
            None => self.provider(&provider_id).await?.default_model_id,
        };
        let request = SetDefaultModelRequest { provider_id, model_id, ..SetDefaultModelRequest::default() };
        let saved =
            self.client.providers().set_default_model(request).await.map_err(RpcError::from)?.into_inner();
        Ok(Handled::Reply(json!({"providerId": saved.provider_id, "modelId": saved.model_id})))
    }
}
