//! The choice of the model for a turn.

use std::sync::Arc;

use gander_domain::{ErrorDetail, ErrorReason, session::ModelSelection};
use gander_model::{ModelProvider, ProviderSetupError};

/// A model ready to be called, and why it was chosen.
#[derive(Clone)]
pub struct ResolvedModel {
    pub provider: Arc<dyn ModelProvider>,
    pub selection: ModelSelection,
    /// One line for people, e.g. `configured: GOOSE_PROVIDER`.
    pub reason: String,
}

impl std::fmt::Debug for ResolvedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResolvedModel")
            .field("selection", &self.selection)
            .field("reason", &self.reason)
            .finish()
    }
}

/// Where models come from. Implemented over configuration and provider registry; tests script it.
pub trait Models: Send + Sync + 'static {
    /// The model for a turn: what the request or session wants, else what is configured, else `demo` where allowed.
    ///
    /// # Errors
    /// `PROVIDER_NOT_CONFIGURED` when nothing is; the provider's own error when it is set up wrongly: a configured
    /// provider that fails is an error, never a fallback.
    fn resolve(
        &self,
        wanted: Option<&ModelSelection>,
        demo_allowed: bool,
    ) -> Result<ResolvedModel, ErrorDetail>;

    /// Whether [`Models::resolve`] may wait now, as for a server on this machine that is asked whether it is there: it
    /// must then not run on a thread of the async tasks.
    fn may_wait(&self, _wanted: Option<&ModelSelection>) -> bool {
        false
    }

    /// Providers with whether they are configured.
    fn providers(&self) -> Vec<(gander_model::ProviderInfo, bool)>;

    /// A provider by id, ready to be called.
    ///
    /// # Errors
    /// As for [`Models::resolve`].
    fn provider(&self, provider_id: &str) -> Result<Arc<dyn ModelProvider>, ErrorDetail>;

    /// The document that defines a provider, if one does.
    fn definition(&self, _provider_id: &str) -> Option<CustomDefinition> {
        None
    }

    /// Checks a document that defines a provider; gives the name of the secret with its key.
    ///
    /// # Errors
    /// What is wrong with it, with the field's name.
    fn check_definition(&self, text: &str) -> Result<String, String> {
        gander_model::ProviderFile::parse(text).map(|file| file.key_name())
    }

    /// Where to sign in at a provider, and the name of the secret that this gives.
    fn sign_in(&self, _provider_id: &str) -> Option<(gander_model::SignInMethod, String)> {
        None
    }

    /// The definitions of the user changed.
    fn reload(&self) {}

    /// Providers that this key may belong to, ready to be tried with it. It is shown to nobody else.
    fn by_key(&self, _key: &str) -> Vec<Arc<dyn ModelProvider>> {
        Vec::new()
    }
}

/// A provider's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomDefinition {
    /// Goose's custom provider format, unknown fields included. Holds no key.
    pub definition_json: String,
    /// The user's own; others come with gander and cannot be changed.
    pub custom: bool,
    pub has_key: bool,
    /// Name of the secret with the key.
    pub key: String,
}

/// The error of a provider that cannot be made.
pub fn setup_error(error: &ProviderSetupError) -> ErrorDetail {
    let reason = match error {
        ProviderSetupError::Unknown(_) => ErrorReason::ProviderNotFound,
        ProviderSetupError::MissingKey { .. } => ErrorReason::ProviderNotConfigured,
        ProviderSetupError::Invalid { .. } => ErrorReason::InvalidField,
    };
    let detail = ErrorDetail::new(reason, error.to_string());
    match error {
        ProviderSetupError::Unknown(provider_id) => detail.with("providerId", provider_id),
        ProviderSetupError::MissingKey { provider_id, key } => {
            detail.with("providerId", provider_id).with("key", key)
        }
        ProviderSetupError::Invalid { provider_id, .. } => detail.with("providerId", provider_id),
    }
}

/// The error when no model is configured at all.
pub fn not_configured() -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::ProviderNotConfigured,
        "no model is configured, and neither a provider's key nor a local model server nor an agent was found; set a key, \
         for example ANTHROPIC_API_KEY or OPENAI_API_KEY (`gander config set --secret NAME` stores it), choose a provider \
         with `gander config set GOOSE_PROVIDER openai`, or try `GOOSE_PROVIDER=demo`",
    )
}
