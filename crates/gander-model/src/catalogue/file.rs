//! Provider files: a provider as a JSON document.
//!
//! The shape is that of Goose's `custom_providers/*.json`; fields that gander adds are optional. Unknown fields are kept,
//! so that a file written by a newer program survives a rewrite.
//!
//! Beside the settings that a file names, every provider has some of its own name: for one called `mine` they are
//! `MINE_BASE_URL`, `MINE_BASE_PATH`, `MINE_AUTH`, `MINE_CUSTOM_HEADERS` (a secret), `MINE_TIMEOUT` and
//! `MINE_CONNECT_TIMEOUT`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Format;

/// One provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProviderFile {
    /// Id: `[a-z0-9_][a-z0-9_-]*`.
    pub name: String,
    /// The dialect: `openai`, `openai_responses`, `anthropic`, `google`, `bedrock`, `ollama`; `…_compatible` is the same.
    pub engine: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Name of the secret with the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Address with or without `/chat/completions`; may hold `${NAME}` of `env_vars`.
    pub base_url: String,
    /// Path below the address, e.g. `v1/chat/completions`; may hold `${NAME}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_path: Option<String>,
    #[serde(default, deserialize_with = "list")]
    pub models: Vec<ModelEntry>,
    /// Extra headers; a value may hold `${NAME}`, and the header is left out if that has no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Map<String, Value>>,
    /// Longest silence of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supports_streaming: Option<bool>,
    /// Whether a key is needed; true if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires_auth: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<Vec<EnvVar>>,
    /// False: the server's list of models is not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_models: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_doc_link: Option<String>,

    // Fields that gander adds.
    /// `builtin` or `declarative`, for lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How the key is sent: `bearer`, `api_key_header` (`api-key`), `x-api-key`, `x-goog-api-key`, `none`. Absent: as the
    /// dialect's own vendor wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// The dialect to speak while the address is the vendor's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_at_home: Option<String>,
    /// Other names of the key's secret, tried in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_key_aliases: Vec<String>,
    /// How its keys begin, to tell whose key an unknown one is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_prefixes: Vec<String>,
    /// False: that its key is there does not choose this provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_by_key: Option<bool>,
    /// It runs on this machine: whether it answers is worth asking when nothing is configured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
    /// Parameters of every URL; a value may hold `${NAME}`, and the parameter is left out if that has no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_params: Option<Map<String, Value>>,
    /// Full URL that answers 401 to a wrong key; may hold `${NAME}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_url: Option<String>,
    /// Output tokens to ask for where nobody chose a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// Whether to mark prompts for the server's cache, in dialects where the client does that; true if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_cache: Option<bool>,
    /// Quirks of a known vendor, e.g. `mistral`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// A setting whose value replaces `base_url` and `base_path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url_env: Option<String>,
    /// A setting whose value, in seconds, replaces `timeout_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_env: Option<String>,
    /// A secret with more headers: `Name: value` per line, or `Name=value` separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_headers_env: Option<String>,
    /// Port of an address that names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_port: Option<u16>,
    /// The key is optional when the address was changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub key_optional_elsewhere: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout_seconds: Option<u64>,
    /// Whether to ask for the usage chunk; true if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_usage: Option<bool>,
    /// Another name of `max_tokens`, e.g. `max_completion_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_field: Option<String>,
    /// Fields of every request body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_body: Option<Map<String, Value>>,
    /// The field of OpenAI's dialects in which the server reads how much to think: `effort` (default; `reasoning_effort`),
    /// `reasoning` (as at OpenRouter) or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// The words that the server takes there, by the beginning of a model's name; the empty name stands for models whose
    /// own words are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_words: Option<std::collections::BTreeMap<String, Vec<String>>>,
    /// Path below the API's root that answers 401 to a wrong key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_up_url: Option<String>,
    /// `typed` (default) or `rig`: who reads the replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<String>,

    /// How to get a key by signing in with a browser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_in: Option<crate::SignInMethod>,

    /// Whatever else the file says.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A model of a provider file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelEntry {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_limit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A setting of a provider file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    pub name: String,
    #[serde(default)]
    pub required: bool,
    #[serde(default)]
    pub secret: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A list; null is an empty one.
fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<ModelEntry>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Whether a key can be sent like this.
pub(super) fn check_auth(auth: &str) -> Result<(), String> {
    if matches!(auth, "bearer" | "api_key_header" | "x-api-key" | "x-goog-api-key" | "none") {
        return Ok(());
    }
    Err(format!("{auth:?}: use bearer, api_key_header, x-api-key, x-goog-api-key or none"))
}

impl ProviderFile {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// What is wrong with it, with the field's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        super::check_provider_id(&self.name)?;
        for engine in std::iter::once(&self.engine).chain(&self.engine_at_home) {
            if Format::of_engine(engine).is_none() {
                return Err(format!(
                    "engine {engine:?} is not supported; use openai, openai_responses, anthropic, google, bedrock or \
                     ollama"
                ));
            }
        }
        if self.base_url.trim().is_empty() {
            return Err("base_url: it is empty".to_owned());
        }
        if let Some(auth) = &self.auth {
            check_auth(auth).map_err(|what| format!("auth {what}"))?;
        }
        if let Some(thinking) = &self.thinking
            && crate::ThinkingField::parse(thinking).is_none()
        {
            return Err(format!("thinking {thinking:?}: use effort, reasoning or none"));
        }
        if let Some(decoder) = &self.decoder
            && !matches!(decoder.as_str(), "typed" | "rig")
        {
            return Err(format!("decoder {decoder:?}: use typed or rig"));
        }
        Ok(())
    }

    /// Whether a key is needed at the default address.
    pub(super) fn needs_key(&self) -> bool {
        self.requires_auth.unwrap_or(true) && self.auth.as_deref() != Some("none")
    }

    /// Where the key may stand, the usual name first.
    pub(super) fn key_names(&self) -> impl Iterator<Item = String> {
        std::iter::once(self.key_name()).chain(self.api_key_aliases.clone())
    }

    /// The name of a setting that every provider has: `mine` and `TIMEOUT` make `MINE_TIMEOUT`.
    pub(super) fn setting_name(&self, what: &str) -> String {
        format!("{}_{what}", self.name.to_uppercase().replace('-', "_"))
    }

    /// The setting that replaces address and path.
    pub(super) fn base_url_name(&self) -> String {
        self.base_url_env.clone().unwrap_or_else(|| self.setting_name("BASE_URL"))
    }

    /// The setting that replaces the path below the address, unless the file's path is made of settings already.
    pub(super) fn base_path_name(&self) -> Option<String> {
        let made_of_settings = self.base_path.as_ref().is_some_and(|path| path.contains("_BASE_PATH}"));
        (!made_of_settings).then(|| self.setting_name("BASE_PATH"))
    }

    /// The secret with more headers.
    pub(super) fn headers_name(&self) -> String {
        self.custom_headers_env.clone().unwrap_or_else(|| self.setting_name("CUSTOM_HEADERS"))
    }

    /// The setting that replaces `timeout_seconds`.
    pub(super) fn timeout_name(&self) -> String {
        self.timeout_env.clone().unwrap_or_else(|| self.setting_name("TIMEOUT"))
    }

    /// The name of the key's secret.
    pub fn key_name(&self) -> String {
        match &self.api_key_env {
            Some(name) if !name.is_empty() => name.clone(),
            _ => self.setting_name("API_KEY"),
        }
    }
}
