//! Signing in at a provider in a browser: the key that comes of it goes into the secret store and nowhere else.

use std::time::Duration;

use gander_domain::{ErrorDetail, ErrorReason};
use gander_model::{ModelError, SignIn};
use secrecy::ExposeSecret as _;

use super::Engine;
use crate::config_error;

/// How long a person may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// A sign-in that waits for a person. Dropped, it is given up.
#[derive(Debug)]
pub struct ProviderSignIn {
    provider_id: String,
    secret: String,
    sign_in: SignIn,
}

impl ProviderSignIn {
    /// The page to open in a browser on the daemon's machine.
    pub fn url(&self) -> &str {
        self.sign_in.url()
    }
}

impl Engine {
    /// Begins to sign in at a provider.
    ///
    /// # Errors
    /// `PROVIDER_NOT_FOUND`; `NOT_IMPLEMENTED` where the provider offers none, with what to do instead; the policy.
    pub async fn begin_sign_in(&self, provider_id: &str) -> Result<ProviderSignIn, ErrorDetail> {
        let providers = self.providers();
        let Some((info, _)) = providers.iter().find(|(info, _)| info.provider_id == provider_id) else {
            return Err(super::providers::provider_not_found(provider_id));
        };
        let denied =
            |e: gander_config::ConfigError| ErrorDetail::new(ErrorReason::PolicyDenied, e.to_string());
        self.config().current().policy().check_provider(provider_id).map_err(denied)?;
        let Some((method, secret)) = self.services().models.sign_in(provider_id) else {
            let secret = info.config_keys.iter().find(|key| key.secret).map(|key| key.name.as_str());
            let remedy = match secret {
                Some(key) => format!("store its key with SetSecret under {key}"),
                None if info.kind == "agent" => "sign in with the agent's own program".to_owned(),
                None => "it needs none".to_owned(),
            };
            let message = format!("provider {provider_id} offers no sign-in; {remedy}");
            return Err(
                ErrorDetail::new(ErrorReason::NotImplemented, message).with("providerId", provider_id)
            );
        };
        let sign_in = SignIn::begin(&method).await.map_err(|e| e.to_detail(provider_id))?;
        Ok(ProviderSignIn { provider_id: provider_id.to_owned(), secret, sign_in })
    }

    /// Waits for the person, at most ten minutes, and stores the key.
    ///
    /// # Errors
    /// The person or the provider refused, the time is over, or the key cannot be stored.
    pub async fn finish_sign_in(&self, begun: ProviderSignIn) -> Result<(), ErrorDetail> {
        let ProviderSignIn { provider_id, secret, sign_in } = begun;
        let key = match tokio::time::timeout(DEADLINE, sign_in.key()).await {
            Ok(key) => key.map_err(|e: ModelError| e.to_detail(&provider_id))?,
            Err(_) => {
                let message = format!("nobody signed in at {provider_id} within ten minutes; try again");
                let error = ErrorDetail::new(ErrorReason::ProviderUnauthenticated, message);
                return Err(error.with("providerId", &provider_id));
            }
        };
        let config = self.config().clone();
        let stored =
            tokio::task::spawn_blocking(move || config.set_secret(&secret, key.expose_secret())).await;
        stored.map_err(|e| ErrorDetail::internal(e.to_string()))?.map(drop).map_err(|e| config_error(&e))
    }
}
