//! Goose's methods about providers that people define themselves.

use gander_proto::v1::{
    CreateCustomProviderRequest, DeleteCustomProviderRequest, GetCustomProviderRequest,
    GetCustomProviderResponse, UpdateCustomProviderRequest,
};
use serde_json::{Map, Value, json};

use super::{parsed, providers::status, text};
use crate::{
    agent::{
        Inner,
        dispatch::{Handled, Outcome},
    },
    rpc::RpcError,
};

/// Names of what the form and the definition share, where they differ only in spelling.
const SAME: [(&str, &str); 7] = [
    ("engine", "engine"),
    ("displayName", "display_name"),
    ("apiUrl", "base_url"),
    ("requiresAuth", "requires_auth"),
    ("supportsStreaming", "supports_streaming"),
    ("headers", "headers"),
    ("basePath", "base_path"),
];
/// The same for what seldom occurs.
const MORE: [(&str, &str); 3] = [
    ("catalogProviderId", "catalog_provider_id"),
    ("preservesThinking", "preserves_thinking"),
    ("toolshim", "toolshim"),
];
/// What Goose assumes for a model that nobody describes.
const CONTEXT_LIMIT: u64 = 128_000;

fn name_of(model: &Value) -> Option<&str> {
    model.as_str().or_else(|| model.get("name")?.as_str())
}

/// Puts a form over a definition. What the form does not know stays.
fn fill(definition: &mut Map<String, Value>, form: &Value) {
    for (ours, stored) in SAME.into_iter().chain(MORE) {
        if let Some(value) = form.get(ours).filter(|value| !value.is_null()) {
            definition.insert(stored.to_owned(), value.clone());
        }
    }
    let Some(models) = form.get("models").and_then(Value::as_array) else { return };
    let known: Vec<Value> = definition.get("models").and_then(Value::as_array).cloned().unwrap_or_default();
    let models = models.iter().filter_map(name_of).map(|name| {
        let before = known.iter().find(|model| model.is_object() && name_of(model) == Some(name));
        before.cloned().unwrap_or_else(|| json!({"name": name, "context_limit": CONTEXT_LIMIT}))
    });
    definition.insert("models".to_owned(), models.collect());
}

/// The definition as the form shows it.
fn shown(stored: &GetCustomProviderResponse) -> Option<Value> {
    let provider = stored.provider.as_ref()?;
    let definition = parsed(&provider.definition_json);
    let list = definition.get("models").and_then(Value::as_array).into_iter().flatten();
    let mut out = json!({
        "providerId": provider.provider_id,
        "engine": "openai",
        "displayName": provider.provider_id,
        "apiUrl": "",
        "models": list.filter_map(name_of).collect::<Vec<_>>(),
        "headers": {},
        "requiresAuth": true,
        "apiKeySet": provider.has_api_key,
        "preservesThinking": false,
    });
    if let Some(out) = out.as_object_mut() {
        let pairs = SAME.into_iter().chain(MORE).chain([("apiKeyEnv", "api_key_env")]);
        for (ours, stored) in pairs {
            if let Some(value) = definition.get(stored).filter(|value| !value.is_null()) {
                out.insert(ours.to_owned(), value.clone());
            }
        }
    }
    Some(out)
}

/// A key that was typed. An empty field means the one that is stored.
fn key(params: &Value) -> Option<String> {
    params.get("apiKey").and_then(Value::as_str).filter(|key| !key.is_empty()).map(str::to_owned)
}

fn changed(provider_id: &str, status: Option<Value>) -> Handled {
    let mut answer = json!({"providerId": provider_id, "refresh": {"started": [], "skipped": []}});
    if let (Some(status), Some(answer)) = (status, answer.as_object_mut()) {
        answer.insert("status".to_owned(), status);
    }
    Handled::Reply(answer)
}

impl Inner {
    pub(super) async fn goose_create_provider(&self, params: &Value) -> Outcome {
        text(params, &["displayName"])?;
        text(params, &["apiUrl"])?;
        let mut definition = Map::new();
        fill(&mut definition, params);
        let request = CreateCustomProviderRequest {
            definition_json: Value::Object(definition).to_string(),
            api_key: key(params),
            idempotency_key: uuid::Uuid::now_v7().to_string(),
        };
        let made = self.client.providers().create_custom_provider(request).await.map_err(RpcError::from)?;
        let provider = made.into_inner().provider.unwrap_or_default();
        let status = status(&self.provider(&provider.provider_id).await?);
        Ok(changed(&provider.provider_id, Some(status)))
    }

    async fn custom_provider(&self, provider_id: &str) -> Result<GetCustomProviderResponse, RpcError> {
        let request = GetCustomProviderRequest { provider_id: provider_id.to_owned() };
        let found = self.client.providers().get_custom_provider(request).await.map_err(RpcError::from)?;
        Ok(found.into_inner())
    }

    pub(super) async fn goose_read_provider(&self, params: &Value) -> Outcome {
        let provider_id = text(params, &["providerId"])?;
        let found = self.custom_provider(provider_id).await?;
        let status = status(&self.provider(provider_id).await?);
        let provider = shown(&found).ok_or_else(|| RpcError::internal("no provider came back"))?;
        Ok(Handled::Reply(json!({"provider": provider, "editable": found.editable, "status": status})))
    }

    pub(super) async fn goose_update_provider(&self, params: &Value) -> Outcome {
        let provider_id = text(params, &["providerId"])?;
        let stored = self.custom_provider(provider_id).await?.provider.unwrap_or_default();
        let mut definition = parsed(&stored.definition_json).as_object().cloned().unwrap_or_default();
        fill(&mut definition, params);
        let request = UpdateCustomProviderRequest {
            provider_id: provider_id.to_owned(),
            definition_json: Value::Object(definition).to_string(),
            api_key: key(params),
            idempotency_key: uuid::Uuid::now_v7().to_string(),
        };
        self.client.providers().update_custom_provider(request).await.map_err(RpcError::from)?;
        let status = status(&self.provider(provider_id).await?);
        Ok(changed(provider_id, Some(status)))
    }

    pub(super) async fn goose_delete_provider(&self, params: &Value) -> Outcome {
        let provider_id = text(params, &["providerId"])?;
        let request = DeleteCustomProviderRequest {
            provider_id: provider_id.to_owned(),
            ..DeleteCustomProviderRequest::default()
        };
        self.client.providers().delete_custom_provider(request).await.map_err(RpcError::from)?;
        Ok(changed(provider_id, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_put_over_a_definition_and_shown_again() {
        let stored = json!({
            "name": "custom_x", "engine": "openai", "display_name": "Old", "base_url": "http://old",
            "models": [{"name": "a", "context_limit": 5}, {"name": "gone", "context_limit": 6}], "timeout": 9,
        });
        let mut definition = stored.as_object().cloned().expect("an object");
        let form = json!({
            "displayName": "New", "apiUrl": "http://new", "models": ["a", "b"], "headers": {"h": "v"},
            "requiresAuth": false, "apiKey": "secret", "basePath": null,
        });
        fill(&mut definition, &form);
        let wanted = json!({
            "name": "custom_x", "engine": "openai", "display_name": "New", "base_url": "http://new", "timeout": 9,
            "models": [{"name": "a", "context_limit": 5}, {"name": "b", "context_limit": CONTEXT_LIMIT}],
            "headers": {"h": "v"}, "requires_auth": false,
        });
        assert_eq!(Value::Object(definition.clone()), wanted, "and no key");
        let provider = gander_proto::v1::CustomProvider {
            provider_id: "custom_x".into(),
            definition_json: Value::Object(definition).to_string(),
            has_api_key: true,
        };
        let shown =
            shown(&GetCustomProviderResponse { provider: Some(provider), editable: true }).expect("a form");
        assert_eq!(shown["models"], json!(["a", "b"]));
        assert_eq!((&shown["displayName"], &shown["apiUrl"]), (&json!("New"), &json!("http://new")));
        assert_eq!((&shown["apiKeySet"], &shown["requiresAuth"]), (&json!(true), &json!(false)));
        assert_eq!(key(&json!({"apiKey": ""})), None);
    }
}
