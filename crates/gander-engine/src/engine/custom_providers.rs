//! Providers that the user defines, and finding out whose key a key is.
//!
//! A definition is Goose's document: what this version does not know of it survives. Its key goes into the secret store and
//! is never read back.

use std::time::Duration;

use gander_domain::{ErrorDetail, ErrorReason};
use gander_model::{ModelErrorClass, ModelInfo};
use serde_json::{Map, Value};

use super::Engine;
use crate::{config_error, models::CustomDefinition};

/// How long one provider may take to tell whether it knows a key.
const DETECT_DEADLINE: Duration = Duration::from_secs(10);
const LONGEST_DEFINITION: usize = 1024 * 1024;

impl Engine {
    /// Defines a provider; gives its id and what was stored. The same definition again is no error. Blocks for file
    /// operations.
    ///
    /// # Errors
    /// The document is no definition, its name is taken, the policy forbids it, or it cannot be stored.
    pub fn create_custom_provider(
        &self,
        definition_json: &str,
        api_key: Option<&str>,
    ) -> Result<(String, CustomDefinition), ErrorDetail> {
        let mut document = parse(definition_json)?;
        let named = text(&document, "name").filter(|name| !name.is_empty()).map(str::to_owned);
        let provider_id = match named {
            Some(name) => name,
            None => id_of(text(&document, "display_name").unwrap_or_default())?,
        };
        document.insert("name".to_owned(), provider_id.clone().into());
        match self.services.models.definition(&provider_id) {
            Some(known) if !known.custom => return Err(taken(&provider_id, "comes with gander")),
            Some(known) if !same(&known, &document) => return Err(taken(&provider_id, "is defined already")),
            _ => {}
        }
        self.store_custom_provider(&provider_id, document, api_key)
    }

    /// A provider's definition.
    ///
    /// # Errors
    /// `PROVIDER_NOT_FOUND`.
    pub fn custom_provider(&self, provider_id: &str) -> Result<CustomDefinition, ErrorDetail> {
        let found = self.services.models.definition(provider_id);
        found.ok_or_else(|| super::providers::provider_not_found(provider_id))
    }

    /// Replaces a definition; without a key the stored one stays. Blocks for file operations.
    ///
    /// # Errors
    /// As [`Engine::create_custom_provider`]; `PROVIDER_NOT_FOUND` for one that the user did not define.
    pub fn update_custom_provider(
        &self,
        provider_id: &str,
        definition_json: &str,
        api_key: Option<&str>,
    ) -> Result<(String, CustomDefinition), ErrorDetail> {
        let known = self.custom_provider(provider_id)?;
        if !known.custom {
            return Err(not_editable(provider_id));
        }
        let mut document = parse(definition_json)?;
        if let Some(name) = text(&document, "name").filter(|name| !name.is_empty() && *name != provider_id) {
            let message = format!("its name {name:?} is not {provider_id:?}; a provider keeps its name");
            return Err(ErrorDetail::invalid("definition_json", message));
        }
        document.insert("name".to_owned(), provider_id.into());
        self.store_custom_provider(provider_id, document, api_key)
    }

    /// Removes a definition and its key; whether there was one. Blocks for file operations.
    ///
    /// # Errors
    /// The definition comes with gander, or cannot be removed.
    pub fn delete_custom_provider(&self, provider_id: &str) -> Result<bool, ErrorDetail> {
        let Some(known) = self.services.models.definition(provider_id) else { return Ok(false) };
        if !known.custom {
            return Err(not_editable(provider_id));
        }
        let removed =
            self.services.config.remove_custom_provider(provider_id).map_err(|e| config_error(&e))?;
        self.services.models.reload();
        // A key under a vendor's own name may serve other providers as well.
        if known.key == own_key_name(provider_id) {
            self.services.config.delete_secret(&known.key).map_err(|e| config_error(&e))?;
        }
        Ok(removed)
    }

    fn store_custom_provider(
        &self,
        provider_id: &str,
        mut document: Map<String, Value>,
        api_key: Option<&str>,
    ) -> Result<(String, CustomDefinition), ErrorDetail> {
        let wrong = |message: String| ErrorDetail::invalid("definition_json", message);
        if document.remove("api_key").is_some() {
            return Err(wrong(
                "it holds an api_key; keys go into the field api_key of the request".to_owned(),
            ));
        }
        // Goose demands these two.
        document.entry("models").or_insert_with(|| Value::Array(Vec::new()));
        document.entry("api_key_env").or_insert_with(|| own_key_name(provider_id).into());
        let text = serde_json::to_string_pretty(&document).map_err(|error| wrong(error.to_string()))?;
        let key_name = self.services.models.check_definition(&text).map_err(wrong)?;
        let config = &self.services.config;
        let denied =
            |e: gander_config::ConfigError| ErrorDetail::new(ErrorReason::PolicyDenied, e.to_string());
        config.current().policy().check_provider(provider_id).map_err(denied)?;
        if let Some(key) = api_key.map(str::trim).filter(|key| !key.is_empty()) {
            config.set_secret(&key_name, key).map_err(|e| config_error(&e))?;
        }
        config.write_custom_provider(provider_id, &format!("{text}\n")).map_err(|e| config_error(&e))?;
        self.services.models.reload();
        Ok((provider_id.to_owned(), self.custom_provider(provider_id)?))
    }

    /// Whose key this is, and the models that it opens. It is shown only to providers whose keys look like it, and is
    /// neither kept nor logged.
    ///
    /// # Errors
    /// `PROVIDER_NOT_FOUND` when none took it, with what kept those that were asked from answering.
    pub async fn detect_provider(&self, api_key: &str) -> Result<(String, Vec<ModelInfo>), ErrorDetail> {
        let candidates = self.services.models.by_key(api_key);
        let mut silent = Vec::new();
        let asked: Vec<String> = candidates.iter().map(|p| p.info().display_name.clone()).collect();
        for provider in candidates {
            let provider_id = provider.info().provider_id.clone();
            match tokio::time::timeout(DETECT_DEADLINE, provider.check()).await {
                Ok(Ok(())) => {
                    let listed = tokio::time::timeout(DETECT_DEADLINE, provider.list_models()).await;
                    let models = listed.ok().and_then(Result::ok);
                    return Ok((provider_id, models.unwrap_or_else(|| provider.info().models.clone())));
                }
                Ok(Err(error)) if error.class == ModelErrorClass::Auth => {}
                Ok(Err(error)) => silent.push(format!("{provider_id}: {error}")),
                Err(_) => silent.push(format!("{provider_id} did not answer in time")),
            }
        }
        let mut message = match asked.as_slice() {
            [] => {
                "no provider whose keys begin like this one is known; choose the provider yourself".to_owned()
            }
            asked => format!("the key was not accepted by {}", asked.join(" or ")),
        };
        if !silent.is_empty() {
            message = format!("{message}; {}", silent.join("; "));
        }
        Err(ErrorDetail::new(ErrorReason::ProviderNotFound, message))
    }
}

fn parse(definition_json: &str) -> Result<Map<String, Value>, ErrorDetail> {
    let wrong = |message: String| ErrorDetail::invalid("definition_json", message);
    if definition_json.len() > LONGEST_DEFINITION {
        return Err(wrong(format!("it is longer than {LONGEST_DEFINITION} bytes")));
    }
    match serde_json::from_str(definition_json) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err(wrong("it is no JSON object".to_owned())),
        Err(error) => Err(wrong(format!("it is no JSON: {error}"))),
    }
}

fn text<'d>(document: &'d Map<String, Value>, key: &str) -> Option<&'d str> {
    document.get(key).and_then(Value::as_str)
}

/// `My Server 2` → `custom_my_server_2`.
fn id_of(display_name: &str) -> Result<String, ErrorDetail> {
    let slug: String = display_name
        .trim()
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' })
        .collect();
    if slug.chars().all(|c| c == '_') {
        let message = "display_name: it must hold a letter or digit, since it gives the provider its id";
        return Err(ErrorDetail::invalid("definition_json", message));
    }
    Ok(format!("custom_{slug}"))
}

fn own_key_name(provider_id: &str) -> String {
    format!("{}_API_KEY", provider_id.to_uppercase().replace('-', "_"))
}

/// Whether a stored definition says the same, but for what was filled in when it was stored.
fn same(known: &CustomDefinition, document: &Map<String, Value>) -> bool {
    let Ok(Value::Object(stored)) = serde_json::from_str(&known.definition_json) else { return false };
    document.iter().all(|(key, value)| stored.get(key) == Some(value))
}

fn taken(provider_id: &str, why: &str) -> ErrorDetail {
    ErrorDetail::invalid("definition_json", format!("the provider {provider_id} {why}; give it another name"))
}

fn not_editable(provider_id: &str) -> ErrorDetail {
    ErrorDetail::invalid(
        "provider_id",
        format!("{provider_id} comes with gander and cannot be changed; define one of your own"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_people_become_ids() {
        for (name, wanted) in [
            ("My Server 2", Some("custom_my_server_2")),
            (" vLLM ", Some("custom_vllm")),
            ("???", None),
            ("", None),
        ] {
            assert_eq!(id_of(name).ok().as_deref(), wanted, "{name}");
        }
        assert_eq!(own_key_name("custom_my-x"), "CUSTOM_MY_X_API_KEY");
    }
}
