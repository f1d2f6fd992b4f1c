//! The live view on all configuration files of one root.
//!
//! Readers get an immutable snapshot. Files are looked at again when the last look is older than
//! a quarter of a second, or by [`ConfigHandle::refresh`]; whatever changed raises the generation that
//! [`ConfigHandle::subscribe`] shows. A file that became malformed keeps its last good content, and
//! [`ConfigHandle::health`] tells so; at [`ConfigHandle::open`] it is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use crate::environment::{Environment, variable_for};
use crate::error::ConfigError;
use crate::file::LOCK_DEADLINE;
use crate::keys::{KNOWN_KEYS, is_secret_name};
use crate::layers::{Config, Layer, Origin};
use crate::paths::Paths;
use crate::permissions::{PermissionRules, RuleDecision};
use crate::policy::Policy;
use crate::secret_commands::{self, SecretCommands};
use crate::secrets::{Secret, SecretOrigin, SecretStatus, SecretsFile};
use crate::watched::{Health, Watched};

mod custom;
mod writes;

/// How long a look at the files is good for.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(250);

const DISTRIBUTION_FILE: &str = "/etc/gander/defaults.yaml";
const POLICY_FILE: &str = "/etc/gander/policy.yaml";

/// What [`ConfigHandle::open`] needs.
#[derive(Clone, Debug)]
pub struct ConfigOptions {
    /// The directories.
    pub paths: Paths,
    /// The daemon's environment.
    pub environment: Environment,
    /// Values given on the command line, by config key.
    pub flags: BTreeMap<String, Value>,
    /// The distribution's defaults. `None` is `/etc/gander/defaults.yaml`, which may be absent; a file that is named
    /// here must exist.
    pub defaults_file: Option<PathBuf>,
    /// The enforced policy. `None` is `/etc/gander/policy.yaml`, which may be absent; a file that is named here must
    /// exist.
    pub policy_file: Option<PathBuf>,
    /// How long a write waits for another writer.
    pub lock_deadline: Duration,
}

impl ConfigOptions {
    /// The usual options: no flags, files at their usual places.
    pub fn new(paths: Paths, environment: Environment) -> Self {
        Self {
            paths,
            environment,
            flags: BTreeMap::new(),
            defaults_file: None,
            policy_file: None,
            lock_deadline: LOCK_DEADLINE,
        }
    }
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOutcome {
    /// The written value rules now.
    pub effective: bool,
    /// The layer that rules instead, when it does not.
    pub shadowed_by: Option<Origin>,
    /// The file was written; `false` when it already said so.
    pub changed: bool,
    /// Comments and layout outside the entry are as before.
    pub formatting_kept: bool,
}

/// A shared, live configuration. Clones are the same configuration.
#[derive(Clone)]
pub struct ConfigHandle(Arc<Inner>);

struct Inner {
    paths: Paths,
    environment: Environment,
    flags: Arc<BTreeMap<String, Value>>,
    lock_deadline: Duration,
    state: Mutex<State>,
    generation: watch::Sender<u64>,
    commands: SecretCommands,
}

struct State {
    distribution: Watched<Layer>,
    user: Watched<Layer>,
    policy: Watched<Policy>,
    secrets: Watched<SecretsFile>,
    permissions: Watched<PermissionRules>,
    config: Arc<Config>,
    looked: Instant,
}

impl std::fmt::Debug for ConfigHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigHandle").field("config_dir", &self.0.paths.config_dir()).finish_non_exhaustive()
    }
}

impl ConfigHandle {
    /// Reads all files.
    ///
    /// # Errors
    /// The first file that is unreadable or malformed, with the place. [`crate::recovery`] helps with the user's.
    pub fn open(options: ConfigOptions) -> Result<Self, ConfigError> {
        let ConfigOptions { paths, environment, flags, defaults_file, policy_file, lock_deadline } = options;
        let named = |file: Option<PathBuf>, usual: &str| {
            let required = file.is_some();
            (file.unwrap_or_else(|| PathBuf::from(usual)), required)
        };
        let (defaults_file, defaults_required) = named(defaults_file, DISTRIBUTION_FILE);
        let (policy_file, policy_required) = named(policy_file, POLICY_FILE);
        let state = State {
            policy: Watched::open(policy_file, policy_required, false, Policy::parse)?,
            distribution: Watched::open(defaults_file, defaults_required, false, Layer::parse)?,
            user: Watched::open(paths.config_file(), false, false, Layer::parse)?,
            secrets: Watched::open(paths.secrets_file(), false, true, SecretsFile::parse)?,
            permissions: Watched::open(paths.permission_file(), false, false, PermissionRules::parse)?,
            config: Arc::default(),
            looked: Instant::now(),
        };
        let (generation, _) = watch::channel(0);
        let inner = Inner {
            paths,
            environment,
            flags: Arc::new(flags),
            lock_deadline,
            state: Mutex::new(state),
            generation,
            commands: SecretCommands::default(),
        };
        let handle = Self(Arc::new(inner));
        let config = handle.snapshot(&handle.state());
        handle.state().config = config;
        Ok(handle)
    }

    /// The directories.
    pub fn paths(&self) -> &Paths {
        &self.0.paths
    }

    /// The present settings.
    pub fn current(&self) -> Arc<Config> {
        Arc::clone(&self.looked().config)
    }

    /// Looks at all files now; returns whether anything changed.
    pub fn refresh(&self) -> bool {
        self.look(&mut self.state(), false)
    }

    /// A counter that rises with every change of settings, secrets or rules that was noticed. Changes by other
    /// programs are noticed when somebody reads or refreshes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// What is wrong with the files at present.
    pub fn health(&self) -> Health {
        let state = self.looked();
        let mut health = Health::default();
        state.policy.report(&mut health);
        state.distribution.report(&mut health);
        state.user.report(&mut health);
        state.secrets.report(&mut health);
        state.permissions.report(&mut health);
        health
    }

    /// The secret `key`: the environment's, else what its command prints, else the file's. Blocks as long as the command
    /// takes when it was not run lately.
    pub fn secret(&self, key: &str) -> Option<Secret> {
        let secrets = Arc::clone(self.looked().secrets.value());
        // Not under the lock: a command may take long.
        if let Some(command) = self.secret_command(key) {
            return self.0.commands.secret(&variable_for(key), &command, &self.0.environment);
        }
        Some(secrets.lookup(key, &self.0.environment)?.0)
    }

    /// The command that prints a secret, unless the environment has it.
    fn secret_command(&self, key: &str) -> Option<Vec<String>> {
        let name = variable_for(key);
        if self.0.environment.get(&name).is_some() {
            return None;
        }
        let setting = self.current().get(secret_commands::KEY)?.value;
        secret_commands::commands(Some(&setting)).remove(&name)
    }

    /// What may be told about the secret `key`.
    pub fn secret_status(&self, key: &str) -> SecretStatus {
        let secrets = Arc::clone(self.looked().secrets.value());
        self.status_of(key, &secrets)
    }

    /// Runs no command to tell: one that is there counts as set until it failed.
    fn status_of(&self, key: &str, secrets: &SecretsFile) -> SecretStatus {
        let Some(command) = self.secret_command(key) else {
            return secrets.status(key, &self.0.environment);
        };
        let known = self.0.commands.kept(&variable_for(key), &command);
        SecretStatus {
            key: key.to_owned(),
            set: !matches!(known, Some(None)),
            last_four: known.flatten().and_then(|secret| secret.last_four()),
            origin: Some(SecretOrigin::Command { program: command.first().cloned().unwrap_or_default() }),
        }
    }

    /// The status of all documented secrets, those in the file and those in `also`, by name.
    pub fn secret_statuses(&self, also: &[&str]) -> Vec<SecretStatus> {
        let secrets = Arc::clone(self.looked().secrets.value());
        let mut names: BTreeSet<&str> = also.iter().copied().collect();
        names.extend(KNOWN_KEYS.iter().filter(|known| known.secret).map(|known| known.key));
        names.extend(secrets.names());
        let setting = self.current().get(secret_commands::KEY).map(|entry| entry.value);
        let commands = secret_commands::commands(setting.as_ref());
        names.extend(commands.keys().map(String::as_str));
        names.into_iter().map(|name| self.status_of(name, &secrets)).collect()
    }

    /// All secret values that are known: those of the file and the variables whose names say so. For redaction.
    pub fn secret_values(&self) -> Vec<Secret> {
        let secrets = Arc::clone(self.looked().secrets.value());
        let in_file = secrets.names().filter_map(|name| secrets.lookup(name, &Environment::default()));
        let in_environment =
            self.0.environment.iter().filter(|(name, value)| !value.is_empty() && is_secret_name(name));
        let printed = self.0.commands.values();
        let in_environment = in_environment.map(|(_, value)| Secret::new(value));
        in_file.map(|(secret, _)| secret).chain(in_environment).chain(printed).collect()
    }

    /// The user's permission rules, the strictest first; every pattern stands here once.
    pub fn rules(&self) -> Vec<(String, RuleDecision)> {
        self.looked().permissions.value().rules.clone()
    }

    /// The user's rules for projects, by directory; within one as in [`ConfigHandle::rules`].
    pub fn project_rules(&self) -> BTreeMap<String, Vec<(String, RuleDecision)>> {
        self.looked().permissions.value().projects.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is replaced field by field and always usable, so a panic elsewhere does not spoil it.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looked(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if state.looked.elapsed() >= LOOK_INTERVAL {
            self.look(&mut state, false);
        }
        state
    }

    /// Looks at all files, reading the user's in any case with `force`.
    fn look(&self, state: &mut State, force: bool) -> bool {
        state.looked = Instant::now();
        let layers =
            [state.policy.refresh(false), state.distribution.refresh(false), state.user.refresh(force)];
        let others = [state.secrets.refresh(force), state.permissions.refresh(force)];
        if layers.contains(&true) {
            state.config = self.snapshot(state);
        }
        let changed = layers.contains(&true) || others.contains(&true);
        if changed {
            self.0.generation.send_modify(|generation| *generation += 1);
        }
        changed
    }

    fn snapshot(&self, state: &State) -> Arc<Config> {
        Arc::new(Config {
            distribution: Arc::clone(state.distribution.value()),
            user: Arc::clone(state.user.value()),
            environment: self.0.environment.clone(),
            flags: Arc::clone(&self.0.flags),
            policy: Arc::clone(state.policy.value()),
        })
    }
}

#[cfg(test)]
mod tests;
