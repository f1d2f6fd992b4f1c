//! The bridge to the configuration: models by provider registry, configured extensions, policy.

use std::sync::{Arc, Mutex, PoisonError};

use gander_config::{ConfigError, ConfigHandle};
use gander_domain::{
    ErrorDetail, ErrorReason,
    extension::{ExtensionConfig, ExtensionTransport, Sandbox, SandboxMode, extension_key},
    session::ModelSelection,
};
use gander_formats::extension::Entry;
use gander_model::{ModelProvider, ProviderInfo, ProviderRegistry, Settings};

use crate::{
    engine::Engine,
    models::{Models, ResolvedModel, not_configured, setup_error},
    services::Services,
};

/// The API error of a configuration error.
pub fn config_error(error: &ConfigError) -> ErrorDetail {
    let reason = match error {
        ConfigError::Malformed { .. } | ConfigError::Shape { .. } | ConfigError::InvalidPolicy { .. } => {
            ErrorReason::ConfigMalformed
        }
        ConfigError::ReadOnly { .. } => ErrorReason::ConfigReadOnly,
        ConfigError::NotAllowed { .. } => ErrorReason::PolicyDenied,
        ConfigError::InvalidKey { .. } | ConfigError::SecretKey { .. } | ConfigError::WrongType { .. } => {
            ErrorReason::InvalidField
        }
        _ => ErrorReason::SecretStoreUnavailable,
    };
    let detail = ErrorDetail::new(reason, error.to_string());
    match error {
        ConfigError::ReadOnly { key, .. }
        | ConfigError::InvalidKey { key, .. }
        | ConfigError::SecretKey { key }
        | ConfigError::WrongType { key, .. } => detail.with("key", key),
        _ => detail,
    }
}

/// Settings and secrets as providers look them up.
struct ConfigSettings<'a>(&'a ConfigHandle);

impl Settings for ConfigSettings<'_> {
    fn value(&self, key: &str) -> Option<String> {
        self.0.current().get_string(key).ok().flatten()
    }

    fn secret(&self, key: &str) -> Option<String> {
        self.0.secret(key).map(|s| s.expose().to_owned())
    }
}

/// Generation of the configuration and the providers made from it.
type ReadyProviders = (u64, std::collections::HashMap<String, Arc<dyn ModelProvider>>);

/// Models by the provider registry and the configuration.
pub struct ConfigModels {
    config: ConfigHandle,
    registry: ProviderRegistry,
    /// Ready providers of one generation of the configuration.
    ready: Mutex<ReadyProviders>,
}

impl ConfigModels {
    pub fn new(config: ConfigHandle, registry: ProviderRegistry) -> Self {
        Self { config, registry, ready: Mutex::default() }
    }

    fn configured(&self) -> Result<Option<(ModelSelection, String)>, ErrorDetail> {
        let config = self.config.current();
        let text = |key: &str| config.get_string(key).map_err(|e| config_error(&e));
        let Some(provider_id) = text("GOOSE_PROVIDER")?.filter(|p| !p.is_empty()) else { return Ok(None) };
        let model_id = text("GOOSE_MODEL")?.unwrap_or_default();
        let reason = format!("configured: GOOSE_PROVIDER is {provider_id}");
        Ok(Some((ModelSelection { provider_id, model_id, ..ModelSelection::default() }, reason)))
    }
}

impl Models for ConfigModels {
    fn resolve(
        &self,
        wanted: Option<&ModelSelection>,
        demo_allowed: bool,
    ) -> Result<ResolvedModel, ErrorDetail> {
        let (mut selection, reason) = match (wanted, self.configured()?) {
            (Some(wanted), _) if !wanted.provider_id.is_empty() => {
                (wanted.clone(), "chosen for this session or turn".to_owned())
            }
            // A model without a provider belongs to the configured one.
            (Some(wanted), Some((configured, reason))) => {
                (ModelSelection { provider_id: configured.provider_id, ..wanted.clone() }, reason)
            }
            (None, Some(configured)) => configured,
            (_, None) if demo_allowed => (
                ModelSelection { provider_id: "demo".to_owned(), ..ModelSelection::default() },
                "no model is configured: the built-in demo stands in".to_owned(),
            ),
            (_, None) => return Err(not_configured()),
        };
        let config = self.config.current();
        let denied = |e: ConfigError| ErrorDetail::new(ErrorReason::PolicyDenied, e.to_string());
        config.policy().check_provider(&selection.provider_id).map_err(denied)?;
        let provider = self.provider(&selection.provider_id)?;
        if selection.model_id.is_empty() {
            selection.model_id = provider.info().default_model_id.clone().ok_or_else(|| {
                ErrorDetail::new(
                    ErrorReason::ModelUnknown,
                    format!(
                        "no model is chosen and provider {} has no default; set one with `gander config set GOOSE_MODEL NAME`",
                        selection.provider_id
                    ),
                )
            })?;
        }
        config.policy().check_model(&selection.model_id).map_err(denied)?;
        Ok(ResolvedModel { provider, selection, reason })
    }

    fn providers(&self) -> Vec<(ProviderInfo, bool)> {
        self.registry.list(&ConfigSettings(&self.config))
    }

    fn provider(&self, provider_id: &str) -> Result<Arc<dyn ModelProvider>, ErrorDetail> {
        // Reading the present snapshot first notices changes of the files.
        let _ = self.config.current();
        let generation = *self.config.subscribe().borrow();
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.0 != generation {
            *ready = (generation, std::collections::HashMap::new());
        }
        if let Some(provider) = ready.1.get(provider_id) {
            return Ok(provider.clone());
        }
        let created = self.registry.create(provider_id, &ConfigSettings(&self.config));
        let provider = created.map_err(|e| setup_error(&e))?;
        ready.1.insert(provider_id.to_owned(), provider.clone());
        Ok(provider)
    }
}

impl Services {
    /// The extensions of the configuration. Without any, the builtin `developer` is there and enabled.
    pub(crate) fn configured_extensions(&self) -> Vec<Entry> {
        self.configured_extensions_with_problems().0
    }

    /// The same, with what could not be read.
    pub(crate) fn configured_extensions_with_problems(&self) -> (Vec<Entry>, Vec<String>) {
        let raw = self.config.current().extensions();
        if raw.is_empty() {
            return (vec![default_extension()], Vec::new());
        }
        let mut entries = Vec::new();
        let mut problems = Vec::new();
        for (key, entry) in raw {
            match gander_formats::extension::entry_from_value(&key, &entry.value) {
                Ok(entry) => entries.push(entry),
                Err(error) => problems.push(format!("extension {key}: {error}")),
            }
        }
        (entries, problems)
    }

    /// The configured extension of this name, enabled or not.
    pub(crate) fn configured_extension(&self, name: &str) -> Result<Entry, ErrorDetail> {
        let key = extension_key(name);
        let configured = self.configured_extensions();
        configured
            .into_iter()
            .find(|e| e.key == key || extension_key(&e.config.name) == key)
            .ok_or_else(|| crate::engine::extension_not_found(name))
    }

    /// Puts an extension into a sandbox where the organisation's policy demands one and its own configuration has none.
    pub(crate) fn enforce_sandbox(&self, config: &mut ExtensionConfig) {
        let none = config.sandbox.as_ref().is_none_or(|s| s.mode == SandboxMode::Off);
        if none && self.config.current().policy().requires_sandbox() {
            config.sandbox = Some(Sandbox { mode: SandboxMode::WorkspaceWrite, ..Sandbox::default() });
        }
    }

    /// Whether the organisation's policy allows an extension.
    pub(crate) fn extension_policy(&self, config: &ExtensionConfig) -> Result<(), ErrorDetail> {
        let (command, uri) = match &config.transport {
            ExtensionTransport::Stdio { command, .. } => (Some(command.as_str()), None),
            ExtensionTransport::StreamableHttp { uri, .. } | ExtensionTransport::Sse { uri } => {
                (None, Some(uri.as_str()))
            }
            _ => (None, None),
        };
        let current = self.config.current();
        current
            .policy()
            .check_extension(&config.name, command, uri)
            .map_err(|e| ErrorDetail::new(ErrorReason::PolicyDenied, e.to_string()))
    }
}

impl Engine {
    /// The extensions of the configuration. Without any, the builtin `developer` is there and enabled.
    pub fn configured_extensions(&self) -> Vec<Entry> {
        self.services().configured_extensions()
    }

    /// The same, with what could not be read.
    pub fn configured_extensions_with_problems(&self) -> (Vec<Entry>, Vec<String>) {
        self.services().configured_extensions_with_problems()
    }
}

fn default_extension() -> Entry {
    let config = ExtensionConfig {
        name: "developer".to_owned(),
        transport: ExtensionTransport::Builtin,
        description: "Shell and files".to_owned(),
        display_name: Some("Developer".to_owned()),
        bundled: true,
        timeout_ms: None,
        tool_allowlist: Vec::new(),
        env: std::collections::BTreeMap::new(),
        env_keys: Vec::new(),
        exec_prefix: Vec::new(),
        protocol: gander_domain::extension::ProtocolEra::Auto,
        sampling: gander_domain::extension::SamplingPolicy::Off,
        sandbox: None,
        pin_definitions: false,
        unknown_json: None,
    };
    Entry { key: "developer".to_owned(), enabled: true, config }
}
