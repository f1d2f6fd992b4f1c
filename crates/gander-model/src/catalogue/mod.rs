//! The providers that can be used: those that come with gander, those of the user's files, and `demo`.
//!
//! Only what works is listed. A user's file replaces a bundled provider of the same name; a file that cannot be read is
//! reported and hides nothing else. Settings and secrets come through [`Settings`]: nothing here reads the environment.

mod file;
mod resolve;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use file::{EnvVar, ModelEntry, ProviderFile};

use crate::{
    DemoProvider, ModelInfo, ModelProvider, OpenAiCompatible, ProviderConfigKey, ProviderInfo,
    ProviderSetupError, Settings, demo,
};

/// The bundled files, in the order of lists.
const BUNDLED: &[&str] = &[
    include_str!("../../providers/openai.json"),
    include_str!("../../providers/openrouter.json"),
    include_str!("../../providers/ollama.json"),
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
    include_str!("../../providers/lmstudio.json"),
    include_str!("../../providers/llamacpp.json"),
    include_str!("../../providers/vllm.json"),
    include_str!("../../providers/litellm.json"),
];
/// Longest provider file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A user's file that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    pub path: PathBuf,
    pub message: String,
}

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
}

impl Default for ProviderRegistry {
    fn default() -> Self {
        Self::bundled()
    }
}

impl ProviderRegistry {
    /// The providers that come with gander.
    pub fn bundled() -> Self {
        let mut registry = Self { entries: Vec::new(), problems: Vec::new() };
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
        let mut paths: Vec<PathBuf> = match std::fs::read_dir(directory) {
            Ok(entries) => entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
                .collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let message = format!("the directory cannot be read: {error}");
                registry.problems.push(FileProblem { path: directory.to_owned(), message });
                Vec::new()
            }
        };
        paths.sort();
        for path in paths {
            match read_file(&path) {
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
            .ok_or_else(|| ProviderSetupError::Unknown(provider_id.to_owned()))?;
        let options = resolve::options(&entry.file, entry.info.clone(), settings)?;
        let provider =
            OpenAiCompatible::new(options).map_err(|error| resolve::invalid(provider_id, error.message))?;
        Ok(Arc::new(provider))
    }
}

fn read_file(path: &Path) -> Result<ProviderFile, String> {
    let cannot = |error: std::io::Error| format!("the file cannot be read: {error}");
    let size = std::fs::metadata(path).map_err(cannot)?.len();
    if size > MAX_FILE_BYTES {
        return Err(format!("the file is larger than {MAX_FILE_BYTES} bytes"));
    }
    ProviderFile::parse(&std::fs::read_to_string(path).map_err(cannot)?)
}

fn info(file: &ProviderFile, custom: bool) -> ProviderInfo {
    let models: Vec<ModelInfo> = file
        .models
        .iter()
        .map(|model| ModelInfo {
            model_id: model.name.clone(),
            display_name: model.name.clone(),
            context_window_tokens: model.context_limit,
            max_output_tokens: model.max_output_tokens,
            price_micros_per_million: prices(&model.unknown),
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
    };
    if file.needs_key() || file.api_key_env.as_ref().is_some_and(|name| !name.is_empty()) {
        add(ProviderConfigKey { required: file.needs_key(), ..optional(&file.key_name(), true) });
    }
    for var in file.env_vars.iter().flatten() {
        add(ProviderConfigKey {
            name: var.name.clone(),
            required: var.required,
            secret: var.secret,
            default: var.default.clone(),
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
