//! The providers that can be used: those that come with gander, those of the user's files, and `demo`.
//!
//! Only what works is listed. A user's file replaces a bundled provider of the same name; a file that cannot be read is
//! reported and hides nothing else. Settings and secrets come through [`Settings`]: nothing here reads the environment.

mod directory;
mod file;
mod resolve;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use directory::{FileProblem, check_provider_id, definition_files, definition_text, engine_of};
pub use file::{EnvVar, ModelEntry, ProviderFile};

use crate::{
    DemoProvider, ModelInfo, ModelProvider, ProviderConfigKey, ProviderInfo, ProviderSetupError,
    ProviderSource, Settings, SignInMethod, Vendor, demo, facts,
    guard::{Brakes, Guarded},
    local::{self, LocalServer},
};

/// The bundled files, in the order of lists.
const BUNDLED: &[&str] = &[
    include_str!("../../providers/anthropic.json"),
    include_str!("../../providers/openai.json"),
    include_str!("../../providers/google.json"),
    include_str!("../../providers/openrouter.json"),
    include_str!("../../providers/ollama.json"),
    include_str!("../../providers/azure_openai.json"),
    include_str!("../../providers/aws_bedrock.json"),
    include_str!("../../providers/groq.json"),
    include_str!("../../providers/mistral.json"),
    include_str!("../../providers/deepseek.json"),
    include_str!("../../providers/xai.json"),
    include_str!("../../providers/together.json"),
    include_str!("../../providers/fireworks.json"),
    include_str!("../../providers/cerebras.json"),
    include_str!("../../providers/nvidia.json"),
    include_str!("../../providers/perplexity.json"),
    include_str!("../../providers/huggingface.json"),
    include_str!("../../providers/moonshot.json"),
    include_str!("../../providers/zai.json"),
    include_str!("../../providers/minimax.json"),
    include_str!("../../providers/lmstudio.json"),
    include_str!("../../providers/llamacpp.json"),
    include_str!("../../providers/vllm.json"),
    include_str!("../../providers/litellm.json"),
];

#[derive(Debug, Clone)]
struct Entry {
    file: ProviderFile,
    info: ProviderInfo,
    custom: bool,
}

/// All known providers.
#[derive(Debug, Clone)]
pub struct ProviderRegistry {
    entries: Vec<Entry>,
    problems: Vec<FileProblem>,
    /// Providers made elsewhere, listed behind the others.
    sources: Vec<Arc<dyn ProviderSource>>,
    /// Shared by all providers of one id, however often one is made.
    brakes: Brakes,
}

impl Default for ProviderRegistry {
    fn default() -> Self {
        Self::bundled()
    }
}

impl ProviderRegistry {
    /// The providers that come with gander.
    pub fn bundled() -> Self {
        let mut registry = Self {
            entries: Vec::new(),
            problems: Vec::new(),
            sources: Vec::new(),
            brakes: Brakes::default(),
        };
        for text in BUNDLED {
            match ProviderFile::parse(text) {
                Ok(file) => registry.insert(file, false),
                // A test parses them all.
                Err(message) => {
                    registry.problems.push(FileProblem { path: PathBuf::from("(bundled)"), message });
                }
            }
        }
        registry
    }

    /// The bundled providers and those of `directory/*.json`; the directory need not exist. Reads files: not for an
    /// async thread under load.
    pub fn with_directory(directory: &Path) -> Self {
        let mut registry = Self::bundled();
        let paths = definition_files(directory).unwrap_or_else(|error| {
            let message = format!("the directory cannot be read: {error}");
            registry.problems.push(FileProblem { path: directory.to_owned(), message });
            Vec::new()
        });
        for path in paths {
            match definition_text(&path).and_then(|text| ProviderFile::parse(&text)) {
                Ok(file) => registry.insert(file, true),
                Err(message) => registry.problems.push(FileProblem { path, message }),
            }
        }
        registry
    }

    fn insert(&mut self, file: ProviderFile, custom: bool) {
        let info = info(&file, custom);
        let entry = Entry { file, info, custom };
        match self.entries.iter_mut().find(|known| known.file.name == entry.file.name) {
            Some(known) => *known = entry,
            None => self.entries.push(entry),
        }
    }

    /// Adds providers that another crate makes. Files of an engine that it takes are its business and no problem.
    #[must_use]
    pub fn with_source(mut self, source: Arc<dyn ProviderSource>) -> Self {
        let engine = |path: &Path| engine_of(&definition_text(path).ok()?);
        let taken = |path: &Path| engine(path).is_some_and(|engine| source.takes_engine(&engine));
        self.problems.retain(|problem| !taken(&problem.path));
        self.sources.push(source);
        self
    }

    /// Files that could not be used.
    pub fn problems(&self) -> &[FileProblem] {
        &self.problems
    }

    /// All providers, `demo` last, and whether each could be created now.
    pub fn list(&self, settings: &dyn Settings) -> Vec<(ProviderInfo, bool)> {
        let mut list: Vec<(ProviderInfo, bool)> = self
            .entries
            .iter()
            .map(|entry| (entry.info.clone(), resolve::is_configured(&entry.file, entry.custom, settings)))
            .collect();
        list.extend(self.sources.iter().flat_map(|source| source.list(settings)));
        list.push((DemoProvider::new().info().clone(), true));
        list
    }

    /// What is known of one provider.
    pub fn info(&self, provider_id: &str) -> Option<ProviderInfo> {
        if provider_id == demo::PROVIDER_ID {
            return Some(DemoProvider::new().info().clone());
        }
        self.entries.iter().find(|entry| entry.file.name == provider_id).map(|entry| entry.info.clone())
    }

    /// The file of a provider, with the fields that this version does not know.
    pub fn file(&self, provider_id: &str) -> Option<&ProviderFile> {
        self.entries.iter().find(|entry| entry.file.name == provider_id).map(|entry| &entry.file)
    }

    /// Makes a provider with the settings of now.
    ///
    /// # Errors
    /// The provider is unknown, its key is missing, or its settings make no sense.
    pub fn create(
        &self,
        provider_id: &str,
        settings: &dyn Settings,
    ) -> Result<Arc<dyn ModelProvider>, ProviderSetupError> {
        if provider_id == demo::PROVIDER_ID {
            return Ok(Arc::new(DemoProvider::new()));
        }
        let entry = self
            .entries
            .iter()
            .find(|entry| entry.file.name == provider_id)
            .ok_or_else(|| ProviderSetupError::Unknown(provider_id.to_owned()));
        let entry = match entry {
            Ok(entry) => entry,
            Err(unknown) => {
                let made = self.sources.iter().find_map(|source| source.create(provider_id, settings));
                return made.unwrap_or(Err(unknown));
            }
        };
        let options = resolve::options(&entry.file, entry.info.clone(), settings)?;
        let provider = Vendor::new(options).map_err(|error| resolve::invalid(provider_id, error.message))?;
        let brake = self.brakes.of(provider_id);
        Ok(Arc::new(Guarded::new(Arc::new(provider), brake)))
    }

    /// The same registry with the directory's files as they are now. Reads files.
    #[must_use]
    pub fn reloaded(&self, directory: &Path) -> Self {
        let mut fresh = Self::with_directory(directory);
        fresh.brakes = self.brakes.clone();
        let now =
            |source: &Arc<dyn ProviderSource>| source.reloaded(directory).unwrap_or_else(|| source.clone());
        self.sources.iter().map(now).fold(fresh, Self::with_source)
    }

    /// Checks a provider's document, whoever makes it; gives the name of the secret with its key.
    ///
    /// # Errors
    /// What is wrong with it, with the field's name.
    pub fn check_file(&self, text: &str) -> Result<String, String> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let engine = value.get("engine").and_then(serde_json::Value::as_str).unwrap_or_default();
        match self.sources.iter().find(|source| source.takes_engine(engine)) {
            Some(source) => source.check_file(text),
            None => ProviderFile::parse(text).map(|file| file.key_name()),
        }
    }

    /// The document, JSON text, of a provider that another crate makes, and whether it is the user's.
    pub fn source_definition(&self, provider_id: &str) -> Option<(String, bool)> {
        self.sources.iter().find_map(|source| source.definition(provider_id))
    }

    /// Whether the user defined this provider.
    pub fn is_custom(&self, provider_id: &str) -> bool {
        self.entries.iter().any(|entry| entry.custom && entry.file.name == provider_id)
    }

    /// Providers that their key alone makes usable, with the name under which the key was found.
    pub fn with_key(&self, settings: &dyn Settings) -> Vec<(String, String)> {
        let found = |entry: &Entry| {
            let file = &entry.file;
            if !file.needs_key() || file.chosen_by_key == Some(false) {
                return None;
            }
            let name = file
                .key_names()
                .find(|name| settings.secret(name).is_some_and(|key| !key.trim().is_empty()))?;
            resolve::is_configured(file, entry.custom, settings).then(|| (file.name.clone(), name))
        };
        self.entries.iter().filter_map(found).collect()
    }

    /// Where to sign in at a provider, and the name of the secret that this gives.
    pub fn sign_in(&self, provider_id: &str, settings: &dyn Settings) -> Option<(SignInMethod, String)> {
        let file = self.file(provider_id)?;
        Some((resolve::sign_in(file, settings)?, file.key_name()))
    }

    /// A model server on this machine that answers within `deadline`, in the order of lists. Blocks that long.
    pub fn local_server(&self, settings: &dyn Settings, deadline: Duration) -> Option<LocalServer> {
        let candidate = |entry: &Entry| {
            let options = resolve::options(&entry.file, entry.info.clone(), settings).ok()?;
            Some(local::Candidate {
                provider_id: entry.file.name.clone(),
                display_name: entry.info.display_name.clone(),
                models_url: options.models_url?,
                preferred: entry.file.models.iter().map(|model| model.name.clone()).collect(),
            })
        };
        let candidates = self.entries.iter().filter(|entry| entry.file.local).filter_map(candidate).collect();
        local::find(candidates, deadline)
    }

    /// The first agent that is installed.
    pub fn installed_agent(&self, settings: &dyn Settings) -> Option<ProviderInfo> {
        let mut listed = self.sources.iter().flat_map(|source| source.list(settings));
        listed.find(|(info, installed)| *installed && info.kind == "agent").map(|(info, _)| info)
    }

    /// The providers whose keys look like this one, the closest first: a key is shown to nobody else. Ready to be tried
    /// with it; nothing is stored.
    pub fn by_key(&self, key: &str, settings: &dyn Settings) -> Vec<Arc<dyn ModelProvider>> {
        let key = key.trim();
        let mut close: Vec<(usize, &Entry)> = self
            .entries
            .iter()
            .filter_map(|entry| {
                let prefixes =
                    entry.file.key_prefixes.iter().filter(|prefix| key.starts_with(prefix.as_str()));
                Some((prefixes.map(String::len).max()?, entry))
            })
            .collect();
        let longest = close.iter().map(|(length, _)| *length).max().unwrap_or(0);
        close.retain(|(length, _)| *length == longest);
        close
            .into_iter()
            .filter_map(|(_, entry)| {
                let settings = WithKey { name: entry.file.key_name(), key, inner: settings };
                let options = resolve::options(&entry.file, entry.info.clone(), &settings).ok()?;
                Some(Arc::new(Vendor::new(options).ok()?) as Arc<dyn ModelProvider>)
            })
            .collect()
    }
}

/// Settings with another key.
struct WithKey<'a> {
    name: String,
    key: &'a str,
    inner: &'a dyn Settings,
}

impl Settings for WithKey<'_> {
    fn value(&self, key: &str) -> Option<String> {
        self.inner.value(key)
    }

    fn secret(&self, key: &str) -> Option<String> {
        if key == self.name { Some(self.key.to_owned()) } else { self.inner.secret(key) }
    }
}

fn info(file: &ProviderFile, custom: bool) -> ProviderInfo {
    let models: Vec<ModelInfo> = file
        .models
        .iter()
        .map(|model| {
            let mut info = ModelInfo {
                model_id: model.name.clone(),
                display_name: model.name.clone(),
                context_window_tokens: model.context_limit,
                max_output_tokens: model.max_output_tokens,
                price_micros_per_million: prices(&model.unknown),
            };
            facts::complete(&file.name, &mut info);
            info
        })
        .collect();
    let kind = match &file.kind {
        _ if custom => "custom",
        Some(kind) => kind,
        None => "declarative",
    };
    ProviderInfo {
        provider_id: file.name.clone(),
        display_name: file.display_name.clone().unwrap_or_else(|| file.name.clone()),
        description: file.description.clone().unwrap_or_default(),
        default_model_id: models.first().map(|model| model.model_id.clone()),
        models,
        doc_url: file.model_doc_link.clone(),
        config_keys: config_keys(file),
        allows_unlisted_models: true,
        kind: kind.to_owned(),
    }
}

/// Goose's `input_token_cost` and `output_token_cost`: USD per token.
fn prices(fields: &serde_json::Map<String, serde_json::Value>) -> [Option<u64>; 4] {
    ["input_token_cost", "output_token_cost", "cache_read_token_cost", "cache_write_token_cost"].map(|key| {
        let micros = (fields.get(key)?.as_f64()? * 1e12).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded here")]
        (0.0..1e15).contains(&micros).then_some(micros as u64)
    })
}

fn config_keys(file: &ProviderFile) -> Vec<ProviderConfigKey> {
    let mut keys: BTreeMap<String, ProviderConfigKey> = BTreeMap::new();
    let mut order = Vec::new();
    let mut add = |key: ProviderConfigKey| {
        if !keys.contains_key(&key.name) {
            order.push(key.name.clone());
            keys.insert(key.name.clone(), key);
        }
    };
    let optional = |name: &str, secret: bool| ProviderConfigKey {
        name: name.to_owned(),
        required: false,
        secret,
        default: None,
        signs_in: false,
    };
    if file.needs_key() || file.api_key_env.as_ref().is_some_and(|name| !name.is_empty()) {
        let signs_in = file.sign_in.is_some();
        add(ProviderConfigKey { required: file.needs_key(), signs_in, ..optional(&file.key_name(), true) });
    }
    for var in file.env_vars.iter().flatten() {
        add(ProviderConfigKey {
            name: var.name.clone(),
            required: var.required,
            secret: var.secret,
            default: var.default.clone(),
            signs_in: false,
        });
    }
    for (name, secret) in
        [(&file.base_url_env, false), (&file.custom_headers_env, true), (&file.timeout_env, false)]
    {
        if let Some(name) = name {
            add(optional(name, secret));
        }
    }
    order.iter().filter_map(|name| keys.remove(name)).collect()
}

#[cfg(test)]
mod tests;
