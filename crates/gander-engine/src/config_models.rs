//! Models by the provider registry and the configuration, and the choice where nothing is configured.
//!
//! The order: what is configured, the one provider whose key is there, a model server on this machine, an installed agent,
//! `demo` where the caller allows it. Whatever is configured and fails is an error, never a reason to go on to the next.
//! Key, server and agent are looked for only while nothing is configured.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use gander_config::{Config, ConfigError, ConfigHandle};
use gander_domain::{ErrorDetail, ErrorReason, session::ModelSelection};
use gander_model::{
    LocalServer, ModelProvider, ProviderInfo, ProviderRegistry, ProviderSetupError, Settings, SignInMethod,
    Tape,
};

use crate::{
    configuration::config_error,
    models::{CustomDefinition, Models, ResolvedModel, not_configured, setup_error},
};

/// How long servers on this machine may take to answer, all together.
const PROBE_DEADLINE: Duration = Duration::from_millis(300);
/// How long an answer of theirs is good for, and how long their silence.
const FOUND_FOR: Duration = Duration::from_secs(60);
const SILENT_FOR: Duration = Duration::from_secs(10);
/// How long a look at the directory of provider files is good for.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Whether to look for a model when none is configured.
const AUTO_KEY: &str = "gander.auto_model";

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
type ReadyProviders = (u64, HashMap<String, Arc<dyn ModelProvider>>);
/// Names, times and sizes of the provider files.
type Listing = Vec<(PathBuf, Option<SystemTime>, u64)>;

/// The registry as of the last look at its directory.
struct Loaded {
    registry: Arc<ProviderRegistry>,
    listing: Listing,
    looked: Instant,
    /// Rises with every change of the files.
    version: u64,
}

/// Models by the provider registry and the configuration.
pub struct ConfigModels {
    config: ConfigHandle,
    loaded: Mutex<Loaded>,
    /// Ready providers of one generation of configuration and files.
    ready: Mutex<ReadyProviders>,
    local: Mutex<Option<(Instant, Option<LocalServer>)>>,
    tape: Option<Arc<Tape>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listing(directory: &Path) -> Listing {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut listing: Listing = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let meta = entry.metadata().ok()?;
            Some((entry.path(), meta.modified().ok(), meta.len()))
        })
        .collect();
    listing.sort();
    listing
}

impl ConfigModels {
    /// Over this configuration; `registry` holds the providers of now, those of the user's directory included.
    pub fn new(config: ConfigHandle, registry: ProviderRegistry) -> Self {
        let listing = listing(&config.paths().custom_providers_dir());
        let loaded = Loaded { registry: Arc::new(registry), listing, looked: Instant::now(), version: 0 };
        Self {
            config,
            loaded: Mutex::new(loaded),
            ready: Mutex::default(),
            local: Mutex::default(),
            tape: None,
        }
    }

    /// Records every model call on this tape, or plays it back.
    #[must_use]
    pub fn with_tape(mut self, tape: Tape) -> Self {
        self.tape = Some(Arc::new(tape));
        self
    }

    /// The registry and its version; files that changed are read again.
    fn registry(&self) -> (Arc<ProviderRegistry>, u64) {
        let mut loaded = locked(&self.loaded);
        if loaded.looked.elapsed() >= LOOK_INTERVAL {
            let directory = self.config.paths().custom_providers_dir();
            let now = listing(&directory);
            loaded.looked = Instant::now();
            if now != loaded.listing {
                loaded.registry = Arc::new(loaded.registry.reloaded(&directory));
                loaded.listing = now;
                loaded.version += 1;
            }
        }
        (Arc::clone(&loaded.registry), loaded.version)
    }

    fn settings(&self) -> ConfigSettings<'_> {
        ConfigSettings(&self.config)
    }

    fn configured(&self, config: &Config) -> Result<Option<(ModelSelection, String)>, ErrorDetail> {
        let text = |key: &str| config.get_string(key).map_err(|e| config_error(&e));
        let Some(provider_id) = text("GOOSE_PROVIDER")?.filter(|p| !p.is_empty()) else { return Ok(None) };
        let model_id = text("GOOSE_MODEL")?.unwrap_or_default();
        let reason = format!("configured: GOOSE_PROVIDER is {provider_id}");
        Ok(Some((selection(provider_id, model_id), reason)))
    }

    /// A key that is missing may be in a store that cannot be read.
    fn setup_error(&self, error: &ProviderSetupError) -> ErrorDetail {
        let detail = setup_error(error);
        let missing = matches!(error, ProviderSetupError::MissingKey { .. });
        let Some(trouble) = missing.then(|| self.config.secret_trouble()).flatten() else { return detail };
        let message = format!("{}: {trouble}", detail.message);
        let metadata = detail.metadata.clone();
        let mut detail = ErrorDetail::new(ErrorReason::SecretStoreUnavailable, message);
        detail.metadata = metadata;
        detail
    }

    /// The choice where nothing is configured.
    fn found(&self, config: &Config) -> Result<Option<(ModelSelection, String)>, ErrorDetail> {
        if config.get_bool(AUTO_KEY).map_err(|e| config_error(&e))? == Some(false) {
            return Ok(None);
        }
        let allowed = |provider_id: &str| config.policy().check_provider(provider_id).is_ok();
        let model_id = || {
            let text = config.get_string("GOOSE_MODEL").map_err(|e| config_error(&e))?;
            Ok::<_, ErrorDetail>(text.unwrap_or_default())
        };
        let (registry, _) = self.registry();
        let mut keyed = registry.with_key(&self.settings());
        keyed.retain(|(provider_id, _)| allowed(provider_id));
        match keyed.as_slice() {
            // Keys that cannot be read may be there: neither a guess nor the demo stands in for them.
            [] => {
                if let Some(trouble) = self.config.secret_trouble() {
                    return Err(config_error(&trouble));
                }
            }
            [(provider_id, key)] => {
                let reason = format!("found: {key} is set and no other provider's key is");
                return Ok(Some((selection(provider_id.clone(), model_id()?), reason)));
            }
            several => return Err(ambiguous(several)),
        }
        if let Some(server) = self.local(&registry).filter(|server| allowed(&server.provider_id)) {
            let reason = format!("found: {} answers at {}", server.display_name, server.address);
            return Ok(Some((selection(server.provider_id, server.model_id), reason)));
        }
        let agent = registry.installed_agent(&self.settings()).filter(|agent| allowed(&agent.provider_id));
        Ok(agent.map(|agent| {
            let reason = format!("found: the agent {} is installed", agent.display_name);
            (selection(agent.provider_id, String::new()), reason)
        }))
    }

    /// A server on this machine; asked now and then, not for every turn.
    fn local(&self, registry: &ProviderRegistry) -> Option<LocalServer> {
        let mut known = locked(&self.local);
        if let Some((asked, found)) = known.as_ref()
            && asked.elapsed() < if found.is_some() { FOUND_FOR } else { SILENT_FOR }
        {
            return found.clone();
        }
        let found = registry.local_server(&self.settings(), PROBE_DEADLINE);
        *known = Some((Instant::now(), found.clone()));
        found
    }

    /// What the user, the session or circumstances choose.
    fn choose(
        &self,
        wanted: Option<&ModelSelection>,
        demo_allowed: bool,
    ) -> Result<(ModelSelection, String), ErrorDetail> {
        if let Some(wanted) = wanted.filter(|wanted| !wanted.provider_id.is_empty()) {
            return Ok((wanted.clone(), "chosen for this session or turn".to_owned()));
        }
        if let Some(taped) = self.tape.as_ref().and_then(|tape| tape.selection()) {
            let reason = "played back from a record".to_owned();
            return Ok((selection(taped.0, taped.1), reason));
        }
        let config = self.config.current();
        let mut nothing = "no model is configured".to_owned();
        let chosen = match self.configured(&config)? {
            Some(configured) => Some(configured),
            None => match self.found(&config) {
                // Not to be guessed, but no reason to refuse where the demo was asked for.
                Err(error) if demo_allowed && error.reason == ErrorReason::ProviderNotConfigured => {
                    nothing = error.message;
                    None
                }
                found => found?,
            },
        };
        match (wanted, chosen) {
            // A model without a provider belongs to the chosen one.
            (Some(wanted), Some((chosen, reason))) => {
                Ok((ModelSelection { provider_id: chosen.provider_id, ..wanted.clone() }, reason))
            }
            (None, Some(chosen)) => Ok(chosen),
            (_, None) if demo_allowed => Ok((
                selection("demo".to_owned(), String::new()),
                format!("{nothing}: the built-in demo stands in"),
            )),
            (_, None) => Err(not_configured()),
        }
    }
}

fn selection(provider_id: String, model_id: String) -> ModelSelection {
    ModelSelection { provider_id, model_id, ..ModelSelection::default() }
}

fn ambiguous(several: &[(String, String)]) -> ErrorDetail {
    let keys: Vec<&str> = several.iter().map(|(_, key)| key.as_str()).collect();
    let ids: Vec<&str> = several.iter().map(|(provider_id, _)| provider_id.as_str()).collect();
    ErrorDetail::new(
        ErrorReason::ProviderNotConfigured,
        format!(
            "the keys of several providers are there ({}) and none is chosen; choose one with \
             `gander config set GOOSE_PROVIDER {}` or GOOSE_PROVIDER={}",
            keys.join(", "),
            ids[0],
            ids[0]
        ),
    )
    .with("providerIds", ids.join(","))
}

impl Models for ConfigModels {
    fn resolve(
        &self,
        wanted: Option<&ModelSelection>,
        demo_allowed: bool,
    ) -> Result<ResolvedModel, ErrorDetail> {
        let (mut selection, reason) = self.choose(wanted, demo_allowed)?;
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
        crate::settings::complete_selection(&config, &*provider, &mut selection);
        Ok(ResolvedModel { provider, selection, reason })
    }

    fn may_wait(&self, wanted: Option<&ModelSelection>) -> bool {
        if self.config.secrets_may_wait() {
            return true;
        }
        let chosen = wanted.is_some_and(|wanted| !wanted.provider_id.is_empty())
            || self.tape.as_ref().is_some_and(|tape| tape.selection().is_some());
        if chosen {
            return false;
        }
        let config = self.config.current();
        let configured = config.get_string("GOOSE_PROVIDER").ok().flatten().is_some_and(|p| !p.is_empty());
        if configured || config.get_bool(AUTO_KEY).ok().flatten() == Some(false) {
            return false;
        }
        // Who holds it asks right now.
        let Ok(known) = self.local.try_lock() else { return true };
        // An answer that is about to be too old counts as such: it may be when it is looked at.
        let fresh = known.as_ref().is_some_and(|(asked, found)| {
            asked.elapsed() + PROBE_DEADLINE < if found.is_some() { FOUND_FOR } else { SILENT_FOR }
        });
        !fresh
    }

    fn providers(&self) -> Vec<(ProviderInfo, bool)> {
        self.registry().0.list(&self.settings())
    }

    fn provider(&self, provider_id: &str) -> Result<Arc<dyn ModelProvider>, ErrorDetail> {
        // Reading the present snapshot first notices changes of the files.
        let _ = self.config.current();
        let (registry, version) = self.registry();
        // Both counters only rise, so that their sum tells every state from the one before.
        let generation = *self.config.subscribe().borrow() + version;
        let mut ready = locked(&self.ready);
        if ready.0 != generation {
            *ready = (generation, HashMap::new());
        }
        if let Some(provider) = ready.1.get(provider_id) {
            return Ok(provider.clone());
        }
        if let Some(tape) = &self.tape
            && tape.plays()
        {
            let info = registry.info(provider_id);
            let provider = Tape::player(tape, provider_id, info);
            ready.1.insert(provider_id.to_owned(), provider.clone());
            return Ok(provider);
        }
        let created = registry.create(provider_id, &self.settings());
        let mut provider = created.map_err(|e| self.setup_error(&e))?;
        if let Some(tape) = &self.tape {
            provider = Tape::recorder(tape, provider);
        }
        ready.1.insert(provider_id.to_owned(), provider.clone());
        Ok(provider)
    }

    fn definition(&self, provider_id: &str) -> Option<CustomDefinition> {
        let (registry, _) = self.registry();
        let Some(file) = registry.file(provider_id) else {
            let (definition_json, custom) = registry.source_definition(provider_id)?;
            let key = registry.check_file(&definition_json).ok()?;
            let has_key = self.config.secret(&key).is_some();
            return Some(CustomDefinition { definition_json, custom, has_key, key });
        };
        let key = file.key_name();
        Some(CustomDefinition {
            definition_json: serde_json::to_string_pretty(file).ok()?,
            custom: registry.is_custom(provider_id),
            has_key: self.config.secret(&key).is_some(),
            key,
        })
    }

    fn check_definition(&self, text: &str) -> Result<String, String> {
        self.registry().0.check_file(text)
    }

    fn sign_in(&self, provider_id: &str) -> Option<(SignInMethod, String)> {
        self.registry().0.sign_in(provider_id, &self.settings())
    }

    fn reload(&self) {
        let directory = self.config.paths().custom_providers_dir();
        let mut loaded = locked(&self.loaded);
        loaded.registry = Arc::new(loaded.registry.reloaded(&directory));
        loaded.listing = listing(&directory);
        loaded.looked = Instant::now();
        loaded.version += 1;
    }

    fn by_key(&self, key: &str) -> Vec<Arc<dyn ModelProvider>> {
        self.registry().0.by_key(key, &self.settings())
    }
}

#[cfg(test)]
mod tests;
