//! Everything that a provider over HTTP needs: data only.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};

use crate::{ModelError, ModelErrorClass, ProviderInfo, Thinking, bedrock::Credentials};

/// Who reads the replies of OpenAI's chat dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decoder {
    /// The typed decoder of this crate.
    #[default]
    Typed,
    /// rig's decoder: slower, an independent reading of the same bytes.
    Rig,
}

/// A dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// OpenAI's chat completions.
    #[default]
    OpenAiChat,
    /// OpenAI's Responses.
    OpenAiResponses,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's `streamGenerateContent`.
    Google,
    /// AWS Bedrock's `converse-stream`.
    Bedrock,
}

impl Format {
    /// The dialect that a provider file's `engine` names.
    pub fn of_engine(engine: &str) -> Option<Self> {
        Some(match engine {
            // Ollama answers OpenAI's chat dialect under /v1.
            "openai" | "openai_compatible" | "ollama" | "ollama_compatible" => Self::OpenAiChat,
            "openai_responses" => Self::OpenAiResponses,
            "anthropic" | "anthropic_compatible" => Self::Anthropic,
            "google" | "gemini" => Self::Google,
            "bedrock" => Self::Bedrock,
            _ => return None,
        })
    }

    /// The end of the URL to which requests go, below the API's root.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::OpenAiChat => "/chat/completions",
            Self::OpenAiResponses => "/responses",
            Self::Anthropic => "/messages",
            Self::Google => "/models/{model}:streamGenerateContent",
            Self::Bedrock => "/model/{model}/converse-stream",
        }
    }

    pub(crate) fn accepts(self) -> &'static str {
        match self {
            Self::Bedrock => "application/vnd.amazon.eventstream",
            _ => "text/event-stream, application/json;q=0.9",
        }
    }
}

/// Everything that a provider needs.
#[derive(Clone)]
pub struct VendorOptions {
    pub info: ProviderInfo,
    pub format: Format,
    /// The full URL to which requests go; `{model}` in it stands for the model's id.
    pub url: String,
    /// The full URL of the model list, if the server has one.
    pub models_url: Option<String>,
    /// A URL that answers 401 or 403 to a wrong key, if the model list does not.
    pub check_url: Option<String>,
    /// Headers of every request, credentials included and marked as sensitive.
    pub headers: HeaderMap,
    /// Values that no message may show.
    pub secrets: Vec<String>,
    /// Requests are signed with these.
    pub aws: Option<Credentials>,
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
    /// Output tokens to ask for where the dialect demands a number and nobody chose one.
    pub max_tokens: Option<u64>,
    /// Whether to mark what the server should cache, in dialects where that is the client's business.
    pub prompt_cache: bool,
    pub extra_body: Map<String, Value>,
    /// How servers of OpenAI's dialects are told how much to think.
    pub thinking: Thinking,
    /// Where to top up.
    pub top_up_url: Option<String>,
    pub decoder: Decoder,
}

impl VendorOptions {
    /// Options with defaults for OpenAI's chat dialect at `url`.
    pub fn new(info: ProviderInfo, url: impl Into<String>) -> Self {
        Self::for_format(info, Format::OpenAiChat, url)
    }

    /// Options with defaults for a server that speaks `format` at `url`.
    pub fn for_format(info: ProviderInfo, format: Format, url: impl Into<String>) -> Self {
        let url = url.into();
        let mut options = Self {
            info,
            format,
            models_url: None,
            url,
            check_url: None,
            headers: HeaderMap::new(),
            secrets: Vec::new(),
            aws: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(120),
            dialect: None,
            stream_usage: true,
            streaming: true,
            max_tokens_field: None,
            max_tokens: None,
            prompt_cache: true,
            extra_body: Map::new(),
            thinking: Thinking::default(),
            top_up_url: None,
            decoder: Decoder::Typed,
        };
        // Both page their lists, and the first page is short.
        let query = match format {
            Format::Anthropic => "?limit=1000",
            Format::Google => "?pageSize=1000",
            Format::OpenAiChat | Format::OpenAiResponses | Format::Bedrock => "",
        };
        if format != Format::Bedrock {
            options.models_url = options.root().map(|root| format!("{root}/models{query}"));
        }
        options
    }

    /// The API's root: the URL without the dialect's path and without a query.
    pub(crate) fn root(&self) -> Option<&str> {
        let url = self.url.split('?').next().unwrap_or_default();
        url.strip_suffix(self.format.path())
    }

    /// The URL for a model.
    pub(crate) fn url_for(&self, model_id: &str) -> String {
        if self.url.contains("{model}") {
            self.url.replace("{model}", &encode_segment(model_id))
        } else {
            self.url.clone()
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

/// Percent-encodes everything but unreserved characters, so that a model's name is one segment of a path.
fn encode_segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_one_segment_of_the_path() {
        for (model, wanted) in [
            ("gemini-2.5-pro", "gemini-2.5-pro"),
            ("anthropic.claude-v1:0", "anthropic.claude-v1%3A0"),
            ("../x?y", "..%2Fx%3Fy"),
        ] {
            assert_eq!(encode_segment(model), wanted);
        }
    }
}
