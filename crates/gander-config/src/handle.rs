//! The live view on all configuration files of one root.
//!
//! Readers get an immutable snapshot. Files are looked at again when the last look is older than
//! a quarter of a second, or by [`ConfigHandle::refresh`]; whatever changed raises the generation that
//! [`ConfigHandle::subscribe`] shows. A file that became malformed keeps its last good content, and
//! [`ConfigHandle::health`] tells so; at [`ConfigHandle::open`] it is an error.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use crate::environment::Environment;
use crate::error::ConfigError;
use crate::file::LOCK_DEADLINE;
use crate::keyring::Keyring;
use crate::keys;
use crate::layers::{Config, Layer, Origin};
use crate::paths::Paths;
use crate::permissions::{PermissionRules, RuleDecision};
use crate::policy::Policy;
use crate::secret_commands::SecretCommands;
use crate::secrets::{Secret, SecretsFile};
use crate::watched::{Health, Problem, Watched};

mod custom;
mod secrets;
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
    keyring: Keyring,
    listener: Arc<OnceLock<SecretListener>>,
}

/// Hears of secrets; see [`ConfigHandle::on_secrets`].
type SecretListener = Box<dyn Fn(Vec<Secret>) + Send + Sync>;

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
        let listener: Arc<OnceLock<SecretListener>> = Arc::default();
        let changed = {
            let (generation, listener) = (generation.clone(), Arc::clone(&listener));
            move |values: &crate::keyring::Values| {
                if let Some(listener) = listener.get() {
                    listener(values.secrets().cloned().collect());
                }
                generation.send_modify(|generation| *generation += 1);
            }
        };
        let lock = paths.config_dir().join("keyring");
        let inner = Inner {
            keyring: Keyring::new(environment.clone(), lock, Box::new(changed)),
            listener,
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
        drop(state);
        self.report_secret_store(&mut health);
        self.report_values(&mut health);
        health
    }

    /// Documented settings whose value makes no sense: their readers take the default.
    fn report_values(&self, health: &mut Health) {
        let config = self.current();
        let own = self.paths().config_file();
        for known in keys::KNOWN_KEYS.iter().filter(|known| !known.secret && known.key != secrets::STORE_KEY)
        {
            let Some(entry) = config.get(known.key).filter(|entry| !known.form.fits(&entry.value)) else {
                continue;
            };
            let (value, expected) = (writes::shortened(&entry.value), known.form.phrase());
            let message = format!("{} is {value}, which is ignored: it must be {expected}", known.key);
            let path = match entry.origin {
                Origin::User { path } | Origin::Distribution { path } | Origin::Policy { path } => path,
                _ => own.clone(),
            };
            health.warnings.push(Problem { path, message });
        }
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
        if others[0] {
            self.tell(state.secrets.value().values());
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
