//! The port between the engine and model providers.

use std::{sync::Arc, time::Duration};

use futures::stream::BoxStream;
use gander_domain::{
    Item, Usage,
    error::{ErrorDetail, ErrorReason},
    session::ThoughtLevel,
    tool::ToolDefinition,
    usage::Cost,
};

/// One model call.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    pub model_id: String,
    /// System prompt.
    pub system: String,
    /// The conversation, oldest first. Contents are inline: the engine has loaded what was stored beside the log.
    pub items: Vec<Arc<Item>>,
    pub tools: Vec<ToolDefinition>,
    /// Thousandths.
    pub temperature_millis: Option<u32>,
    pub max_output_tokens: Option<u64>,
    /// Extra body fields, JSON object text.
    pub extra_params_json: Option<String>,
    /// Left out for models that cannot choose. What the extra fields say of it wins.
    pub thought_level: Option<ThoughtLevel>,
}

/// What a model stream says.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelEvent {
    TextDelta(String),
    ThoughtDelta(String),
    /// The current thought is complete; the next thought delta starts a new one.
    ThoughtCompleted {
        signature: Option<String>,
        redacted_data: Option<String>,
        provider_state_json: Option<String>,
    },
    /// A call begins. `index` numbers the calls of this response from 0.
    ToolCallStarted {
        index: u32,
        call_id: String,
        name: String,
    },
    ToolArgumentsDelta {
        index: u32,
        text: String,
    },
    /// Arguments are complete; authoritative.
    ToolCallCompleted {
        index: u32,
        call_id: String,
        name: String,
        arguments_json: String,
        /// Why the arguments are no JSON object, if so.
        invalid_arguments: Option<String>,
        provider_state_json: Option<String>,
    },
    Usage {
        usage: Usage,
        cost: Option<Cost>,
    },
    /// The provider ended the response; always last.
    Finished {
        stop: ModelStop,
        model_id: Option<String>,
        provider_state_json: Option<String>,
    },
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelStop {
    EndTurn,
    ToolCalls,
    MaxOutputTokens,
    Refusal,
}

/// Class of a failed model call (the facts sheet's table): decides retry, compaction, and what the user is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelErrorClass {
    Auth,
    RateLimited,
    QuotaExhausted,
    ContextExceeded,
    Overloaded,
    Server,
    Network,
    /// The stream ended before the provider ended it.
    Truncated,
    InvalidRequest,
    ModelUnknown,
}

/// A failed model call. The message is redacted: it holds no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ModelError {
    pub class: ModelErrorClass,
    pub message: String,
    pub status: Option<u16>,
    pub retry_after: Option<Duration>,
    /// Where to top up, for exhausted quotas.
    pub help_url: Option<String>,
    /// The provider was not asked: it wants no calls for another `retry_after`, as some earlier call was told.
    pub held_back: bool,
}

impl ModelError {
    pub fn new(class: ModelErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            status: None,
            retry_after: None,
            help_url: None,
            held_back: false,
        }
    }

    /// The reason that clients see.
    pub fn reason(&self) -> ErrorReason {
        match self.class {
            ModelErrorClass::Auth => ErrorReason::ProviderUnauthenticated,
            ModelErrorClass::RateLimited => ErrorReason::ProviderRateLimited,
            ModelErrorClass::QuotaExhausted => ErrorReason::ProviderQuotaExhausted,
            ModelErrorClass::ContextExceeded => ErrorReason::ContextWindowExceeded,
            ModelErrorClass::Overloaded => ErrorReason::ProviderOverloaded,
            ModelErrorClass::Server | ModelErrorClass::Network => ErrorReason::ProviderUnavailable,
            ModelErrorClass::Truncated => ErrorReason::ProviderStreamTruncated,
            ModelErrorClass::InvalidRequest => ErrorReason::ProviderBadRequest,
            ModelErrorClass::ModelUnknown => ErrorReason::ModelUnknown,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.class,
            ModelErrorClass::RateLimited
                | ModelErrorClass::Overloaded
                | ModelErrorClass::Server
                | ModelErrorClass::Network
                | ModelErrorClass::Truncated
        )
    }

    /// As an error of a turn or an RPC.
    pub fn to_detail(&self, provider_id: &str) -> ErrorDetail {
        let mut detail =
            ErrorDetail::new(self.reason(), self.message.clone()).with("providerId", provider_id);
        if let Some(status) = self.status {
            detail = detail.with("httpStatus", status);
        }
        if let Some(url) = &self.help_url {
            detail = detail.with("topUpUrl", url);
        }
        if let Some(delay) = self.retry_after {
            detail = detail.retry_after(delay);
        }
        detail
    }
}

/// Stream of one model call.
pub type ModelStream = BoxStream<'static, Result<ModelEvent, ModelError>>;

/// A model as a provider offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    pub model_id: String,
    pub display_name: String,
    pub context_window_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
    /// Millionths of USD per million tokens: input, output, cache read, cache write.
    pub price_micros_per_million: [Option<u64>; 4],
}

/// What is known of a provider without calling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderInfo {
    pub provider_id: String,
    pub display_name: String,
    pub description: String,
    pub default_model_id: Option<String>,
    pub models: Vec<ModelInfo>,
    pub doc_url: Option<String>,
    pub config_keys: Vec<ProviderConfigKey>,
    pub allows_unlisted_models: bool,
    /// `builtin`, `declarative`, `custom`, `demo`.
    pub kind: String,
}

/// A setting of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderConfigKey {
    pub name: String,
    pub required: bool,
    pub secret: bool,
    pub default: Option<String>,
    /// Signing in with a browser gives it.
    pub signs_in: bool,
}

/// Result of a cheap call that proves that the provider can be used.
pub type CheckResult = Result<(), ModelError>;

/// A ready provider: configured, with its key.
pub trait ModelProvider: Send + Sync + 'static {
    fn info(&self) -> &ProviderInfo;

    /// Starts a call. Errors before the first byte arrive as the stream's first item.
    fn stream(&self, request: ModelRequest) -> ModelStream;

    /// The provider's own list of models.
    fn list_models(&self) -> futures::future::BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>>;

    /// Proves address and key without cost.
    fn check(&self) -> futures::future::BoxFuture<'_, CheckResult>;

    /// Whether how much this model thinks is known to be the caller's choice.
    fn can_choose_thoughts(&self, _model_id: &str) -> bool {
        false
    }

    /// The agent, if this is one: it runs its own loop and is driven instead of called.
    fn agent(&self) -> Option<Arc<dyn crate::AgentBackend>> {
        None
    }
}

/// Providers that another crate makes (agents).
pub trait ProviderSource: std::fmt::Debug + Send + Sync + 'static {
    /// What it makes, and whether each could be made now.
    fn list(&self, settings: &dyn Settings) -> Vec<(ProviderInfo, bool)>;

    /// Makes one; `None`: it is not one of this source's.
    fn create(
        &self,
        provider_id: &str,
        settings: &dyn Settings,
    ) -> Option<Result<Arc<dyn ModelProvider>, ProviderSetupError>>;

    /// Whether a provider file is this source's business, by its `engine`.
    fn takes_engine(&self, engine: &str) -> bool;

    /// Checks a document of an engine that it takes; gives the name of the secret with its key.
    ///
    /// # Errors
    /// What is wrong with it, with the field's name.
    fn check_file(&self, _text: &str) -> Result<String, String> {
        Err("providers of this engine are not defined by files".to_owned())
    }

    /// A provider's document, JSON text, and whether it is the user's; `None`: it is not one of this source's.
    fn definition(&self, _provider_id: &str) -> Option<(String, bool)> {
        None
    }

    /// The same source with the directory's files as they are now; `None`: it has none. Reads files.
    fn reloaded(&self, _directory: &std::path::Path) -> Option<Arc<dyn ProviderSource>> {
        None
    }
}

/// Why a provider could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderSetupError {
    #[error("provider {0} is not known; `gander provider list` shows those that are")]
    Unknown(String),
    #[error(
        "provider {provider_id} needs {key}; set it with `gander config set {key} --secret` or in the environment"
    )]
    MissingKey { provider_id: String, key: String },
    #[error("provider {provider_id}: {message}")]
    Invalid { provider_id: String, message: String },
}

/// Looks settings and secrets up by name (`OPENAI_API_KEY`, `OPENAI_HOST`); environment, config and secret store are
/// the caller's business.
pub trait Settings: Send + Sync {
    fn value(&self, key: &str) -> Option<String>;
    fn secret(&self, key: &str) -> Option<String>;
}
