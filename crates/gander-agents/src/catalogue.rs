//! The agents that are known: data files that come with gander, and the user's own with `"engine": "acp"`.
//!
//! A user's file replaces a bundled one of the same name; a file that cannot be read hides nothing else.

use std::{collections::BTreeMap, ffi::OsStr, path::Path, sync::Arc, time::Duration};

use gander_model::{
    AGENT_MODEL_CURRENT, FileProblem, ModelInfo, ModelProvider, ProviderConfigKey, ProviderInfo,
    ProviderSetupError, ProviderSource, Settings, check_provider_id, definition_files, definition_text,
    engine_of,
};
use gander_process::{Spawner, find_program};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::provider::{AcpProvider, Launch};

/// The bundled files, in the order of lists.
const BUNDLED: &[&str] = &[
    include_str!("../agents/claude.json"),
    include_str!("../agents/codex.json"),
    include_str!("../agents/gemini.json"),
    include_str!("../agents/goose.json"),
    include_str!("../agents/opencode.json"),
    include_str!("../agents/copilot.json"),
    include_str!("../agents/amp.json"),
    include_str!("../agents/pi.json"),
];
/// How long an agent may take from its start to an open session, where its file says nothing.
const START_BUDGET: Duration = Duration::from_secs(60);
/// Longest budget that a file may ask for.
const MAX_START_SECONDS: u64 = 600;

/// Modes of agents whose file says nothing about them, as those in use call theirs.
const READ_ONLY_MODES: &[&str] = &["plan", "read-only", "read_only", "chat"];
const UNATTENDED_MODES: &[&str] =
    &["bypassPermissions", "yolo", "full-access", "agent-full-access", "autopilot"];

/// One agent as a JSON document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentFile {
    /// Provider id: `[a-z0-9_][a-z0-9_-]*`.
    pub name: String,
    /// `acp`.
    pub engine: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The program, searched in the session's `PATH` if it has no `/`. Never given to a shell.
    pub command: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Whole command lines to try where `command` is not found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<Vec<String>>,
    /// A setting whose value, a command line, replaces `command` and `args`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_env: Option<String>,
    /// Plain variables of the agent's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Secrets that become variables where they are set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_keys: Vec<String>,
    /// Settings that become variables where they are set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_values: Vec<String>,
    /// Variables of the session that the agent must not see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_remove: Vec<String>,
    /// Secret → the agent's authentication method to use when it asks for one and the secret is set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub authenticate: BTreeMap<String, String>,
    /// How long it may take to start; 60 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_seconds: Option<u64>,
    /// How long updates may come behind the end of their prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle_milliseconds: Option<u64>,
    /// Ids of the agent's modes in which it changes nothing, best first: the session's mode chat chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_modes: Option<Vec<String>>,
    /// Ids of its modes in which it asks for no permission: it is in none of them unless the session's mode is auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unattended_modes: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_doc_link: Option<String>,
    /// Whatever else the file says.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl AgentFile {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// What is wrong with it, with the field's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        check_provider_id(&file.name)?;
        if file.engine != "acp" {
            return Err(format!("engine {:?}: an agent's is `acp`", file.engine));
        }
        if file.command.trim().is_empty() {
            return Err("command: it is empty".to_owned());
        }
        if let Some(at) = file.alternatives.iter().position(|line| line.first().is_none_or(String::is_empty))
        {
            return Err(format!("alternatives[{at}]: it is empty"));
        }
        Ok(file)
    }

    /// The secret under which a key that is given with the document is kept: the first that the agent gets.
    fn key_name(&self) -> String {
        let own = || format!("{}_API_KEY", self.name.to_uppercase().replace('-', "_"));
        self.env_keys.first().cloned().unwrap_or_else(own)
    }

    fn info(&self) -> ProviderInfo {
        let key = |name: &String, secret: bool| ProviderConfigKey {
            name: name.clone(),
            required: false,
            secret,
            default: None,
            signs_in: false,
        };
        let keys = self.command_env.iter().map(|name| key(name, false));
        let keys = keys.chain(self.env_keys.iter().map(|name| key(name, true)));
        ProviderInfo {
            provider_id: self.name.clone(),
            display_name: self.display_name.clone().unwrap_or_else(|| self.name.clone()),
            description: self.description.clone().unwrap_or_default(),
            default_model_id: Some(AGENT_MODEL_CURRENT.to_owned()),
            models: vec![ModelInfo {
                model_id: AGENT_MODEL_CURRENT.to_owned(),
                display_name: "The agent's choice".to_owned(),
                context_window_tokens: None,
                max_output_tokens: None,
                price_micros_per_million: [None; 4],
            }],
            doc_url: self.model_doc_link.clone(),
            config_keys: keys.collect(),
            allows_unlisted_models: true,
            kind: "agent".to_owned(),
        }
    }

    /// The command lines to try, best first.
    fn command_lines(&self, settings: &dyn Settings) -> Result<Vec<Vec<String>>, String> {
        let set = |name: &String| settings.value(name).filter(|value| !value.trim().is_empty());
        if let Some((name, value)) = self.command_env.as_ref().and_then(|name| Some((name, set(name)?))) {
            let words = shlex::split(&value).filter(|words| !words.is_empty());
            let words = words.ok_or_else(|| format!("{name}: {value:?} is no command line"))?;
            return Ok(vec![words]);
        }
        let own = std::iter::once(&self.command).chain(&self.args).cloned().collect();
        Ok(std::iter::once(own).chain(self.alternatives.iter().cloned()).collect())
    }

    fn launch(&self, settings: &dyn Settings) -> Result<Launch, String> {
        let mut environment = self.env.clone();
        let values = self.env_values.iter().filter_map(|name| Some((name.clone(), settings.value(name)?)));
        environment.extend(values);
        let mut secrets = Vec::new();
        let mut methods = Vec::new();
        for name in &self.env_keys {
            let Some(secret) = settings.secret(name).filter(|secret| !secret.is_empty()) else { continue };
            methods.extend(self.authenticate.get(name).cloned());
            secrets.push(secret.clone());
            environment.insert(name.clone(), secret);
        }
        Ok(Launch {
            command_lines: self.command_lines(settings)?,
            environment,
            env_remove: self.env_remove.clone(),
            secrets,
            authentication: methods,
            start_budget: self
                .start_seconds
                .map_or(START_BUDGET, |seconds| Duration::from_secs(seconds.clamp(1, MAX_START_SECONDS))),
            settle: Duration::from_millis(self.settle_milliseconds.unwrap_or(0).min(1000)),
            read_only_modes: modes(self.read_only_modes.as_ref(), READ_ONLY_MODES),
            unattended_modes: modes(self.unattended_modes.as_ref(), UNATTENDED_MODES),
        })
    }
}

fn modes(own: Option<&Vec<String>>, usual: &[&str]) -> Vec<String> {
    own.cloned().unwrap_or_else(|| usual.iter().map(|mode| (*mode).to_owned()).collect())
}

/// A file, and whether the user wrote it.
#[derive(Debug)]
struct Entry {
    file: AgentFile,
    custom: bool,
}

/// The known agents.
#[derive(Debug)]
pub struct Agents {
    files: Vec<Entry>,
    problems: Vec<FileProblem>,
    environment: BTreeMap<String, String>,
    spawner: Spawner,
}

impl Agents {
    /// The bundled agents and those of `directory/*.json`; the directory need not exist. `environment` is that of tools
    /// (its `PATH` tells what is installed). Reads files: not for an async thread under load.
    pub fn with_directory(directory: &Path, environment: BTreeMap<String, String>, spawner: Spawner) -> Self {
        let mut agents = Self { files: Vec::new(), problems: Vec::new(), environment, spawner };
        for text in BUNDLED {
            match AgentFile::parse(text) {
                Ok(file) => agents.insert(file, false),
                // A test parses them all.
                Err(message) => agents.problem(Path::new("(bundled)"), message),
            }
        }
        // A directory that cannot be read is told by the provider registry.
        let paths = definition_files(directory).unwrap_or_default();
        for path in paths {
            // Other engines, and what is no JSON at all, are the provider registry's business.
            let Some(text) = read_agent(&path) else { continue };
            match AgentFile::parse(&text) {
                Ok(file) => agents.insert(file, true),
                Err(message) => agents.problem(&path, message),
            }
        }
        agents
    }

    fn problem(&mut self, path: &Path, message: String) {
        self.problems.push(FileProblem { path: path.to_owned(), message });
    }

    fn insert(&mut self, file: AgentFile, custom: bool) {
        let entry = Entry { file, custom };
        match self.files.iter_mut().find(|known| known.file.name == entry.file.name) {
            Some(known) => *known = entry,
            None => self.files.push(entry),
        }
    }

    fn entry(&self, provider_id: &str) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.file.name == provider_id)
    }

    /// Files that could not be used.
    pub fn problems(&self) -> &[FileProblem] {
        &self.problems
    }

    /// Whether one of the agent's commands is installed.
    fn is_installed(&self, file: &AgentFile, settings: &dyn Settings) -> bool {
        let installed = |line: &Vec<String>| {
            let program = line.first().map_or("", String::as_str);
            find_program(OsStr::new(program), Path::new("/"), &self.environment).is_some()
        };
        file.command_lines(settings).is_ok_and(|lines| lines.iter().any(installed))
    }
}

fn read_agent(path: &Path) -> Option<String> {
    definition_text(path).ok().filter(|text| engine_of(text).as_deref() == Some("acp"))
}

impl ProviderSource for Agents {
    fn list(&self, settings: &dyn Settings) -> Vec<(ProviderInfo, bool)> {
        let files = self.files.iter().map(|entry| &entry.file);
        files.map(|file| (file.info(), self.is_installed(file, settings))).collect()
    }

    fn create(
        &self,
        provider_id: &str,
        settings: &dyn Settings,
    ) -> Option<Result<Arc<dyn ModelProvider>, ProviderSetupError>> {
        let file = &self.entry(provider_id)?.file;
        Some(match file.launch(settings) {
            Ok(launch) => Ok(Arc::new(AcpProvider::new(
                file.info(),
                launch,
                self.environment.clone(),
                self.spawner.clone(),
            ))),
            Err(message) => Err(ProviderSetupError::Invalid { provider_id: provider_id.to_owned(), message }),
        })
    }

    fn takes_engine(&self, engine: &str) -> bool {
        engine == "acp"
    }

    fn check_file(&self, text: &str) -> Result<String, String> {
        AgentFile::parse(text).map(|file| file.key_name())
    }

    fn definition(&self, provider_id: &str) -> Option<(String, bool)> {
        let entry = self.entry(provider_id)?;
        Some((serde_json::to_string_pretty(&entry.file).ok()?, entry.custom))
    }

    fn reloaded(&self, directory: &Path) -> Option<Arc<dyn ProviderSource>> {
        Some(Arc::new(Self::with_directory(directory, self.environment.clone(), self.spawner.clone())))
    }
}

#[cfg(test)]
mod tests;
