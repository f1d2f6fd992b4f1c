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

    /// Providers with whether they are configured.
    fn providers(&self) -> Vec<(gander_model::ProviderInfo, bool)>;

    /// A provider by id, ready to be called.
    ///
    /// # Errors
    /// As for [`Models::resolve`].
    fn provider(&self, provider_id: &str) -> Result<Arc<dyn ModelProvider>, ErrorDetail>;
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
        "no model is configured; set one with `gander config set GOOSE_PROVIDER openai` and its key with \
         `gander config set --secret OPENAI_API_KEY`, or try `GOOSE_PROVIDER=demo`",
    )
}
