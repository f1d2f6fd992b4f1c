//! Secrets through a [`ConfigHandle`]: looking them up in their order, what may be told of them, changing them, and moving
//! them from one store to the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use serde_yaml_ng::Value as Yaml;

use super::writes::{Written, check_key};
use super::{ConfigHandle, WriteOutcome};
use crate::document;
use crate::edit::Target;
use crate::environment::{Environment, variable_for};
use crate::error::ConfigError;
use crate::file;
use crate::keyring::{Object, Values};
use crate::keys::{KNOWN_KEYS, is_secret_name};
use crate::layers::Origin;
use crate::secret_commands;
use crate::secrets::{Secret, SecretOrigin, SecretStatus, SecretsFile};
use crate::watched::{Health, Problem};

/// The setting that chooses the store.
pub(super) const STORE_KEY: &str = "gander.secret_store";
/// Goose's way to keep away from the keyring.
const DISABLE_KEY: &str = "GOOSE_DISABLE_KEYRING";
const SECRET_MODE: u32 = 0o600;

/// Where secrets are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    File,
    Keyring,
}

impl Store {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "file" => Some(Self::File),
            "keyring" => Some(Self::Keyring),
            _ => None,
        }
    }
}

impl ConfigHandle {
    /// The secret `key`: the environment's, else what its command prints, else the keyring's where that is chosen, else
    /// the file's. Blocks as long as the command or the keyring may take when neither was asked lately. A keyring that
    /// cannot be read has no secrets, and nothing stands in for them: see [`ConfigHandle::secret_trouble`].
    pub fn secret(&self, key: &str) -> Option<Secret> {
        let secrets = Arc::clone(self.looked().secrets.value());
        // Not under the lock: a command may take long.
        if let Some(command) = self.secret_command(key) {
            let name = variable_for(key);
            let secret = match self.0.commands.kept(&name, &command) {
                Some(known) => known?,
                None => beside(|| self.0.commands.secret(&name, &command, &self.0.environment))?,
            };
            self.tell(vec![secret.clone()]);
            return Some(secret);
        }
        if let Some(values) = self.keyring_for(key) {
            let values = values.ok()?;
            if let Some((secret, _)) = values.get(key) {
                return Some(secret.clone());
            }
        }
        Some(secrets.lookup(key, &self.0.environment)?.0)
    }

    /// Why the chosen store cannot be read at present, with the remedy.
    pub fn secret_trouble(&self) -> Option<ConfigError> {
        match self.store() {
            Ok(Store::File) => None,
            Ok(Store::Keyring) => self.keyring().err(),
            Err(error) => Some(error),
        }
    }

    /// Whether looking up a secret may wait for the keyring now.
    pub fn secrets_may_wait(&self) -> bool {
        matches!(self.store(), Ok(Store::Keyring)) && !self.0.keyring.is_fresh()
    }

    /// Tells `listener` all secrets that are known, and from now on every one that becomes known, before it is used.
    /// For logs, which must not show them. There is one listener; later ones are not called.
    pub fn on_secrets(&self, listener: impl Fn(Vec<Secret>) + Send + Sync + 'static) {
        // A second listener is the caller's mistake and harms nobody.
        let _ = self.0.listener.set(Box::new(listener));
        self.tell(self.secret_values());
    }

    pub(super) fn tell(&self, secrets: Vec<Secret>) {
        if let Some(listener) = self.0.listener.get() {
            listener(secrets);
        }
    }

    /// The store that rules.
    pub(super) fn store(&self) -> Result<Store, ConfigError> {
        if self.keyring_disabled() {
            return Ok(Store::File);
        }
        let Some(entry) = self.current().get(STORE_KEY) else { return Ok(Store::File) };
        let known = entry.value.as_str().and_then(Store::parse);
        known.ok_or_else(|| store_error(&entry.value, entry.origin))
    }

    /// Goose's variable says so, or a setting of that name.
    pub(super) fn keyring_disabled(&self) -> bool {
        let value = self.current().get_string(DISABLE_KEY).ok().flatten();
        value.is_some_and(|value| !value.eq_ignore_ascii_case("false"))
    }

    fn keyring(&self) -> Result<Arc<Values>, ConfigError> {
        let values = || self.0.keyring.values();
        let values = if self.0.keyring.is_fresh() { values() } else { beside(values) };
        values.map_err(ConfigError::Keyring)
    }

    /// What the keyring holds, where it is chosen and the environment has nothing for `key`.
    fn keyring_for(&self, key: &str) -> Option<Result<Arc<Values>, ConfigError>> {
        if self.0.environment.get(&variable_for(key)).is_some() || self.store().ok()? != Store::Keyring {
            return None;
        }
        Some(self.keyring())
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
        if let Some(command) = self.secret_command(key) {
            let known = self.0.commands.kept(&variable_for(key), &command);
            return SecretStatus {
                key: key.to_owned(),
                set: !matches!(known, Some(None)),
                last_four: known.flatten().and_then(|secret| secret.last_four()),
                origin: Some(SecretOrigin::Command { program: command.first().cloned().unwrap_or_default() }),
            };
        }
        match self.keyring_for(key) {
            Some(Ok(values)) => match values.get(key) {
                Some((secret, entry)) => SecretStatus {
                    key: key.to_owned(),
                    set: true,
                    last_four: secret.last_four(),
                    origin: Some(SecretOrigin::Keyring { entry: (*entry).to_owned() }),
                },
                None => secrets.status(key, &self.0.environment),
            },
            Some(Err(_)) => SecretStatus { key: key.to_owned(), set: false, last_four: None, origin: None },
            None => secrets.status(key, &self.0.environment),
        }
    }

    /// The status of all documented secrets, those in the stores and those in `also`, by name.
    pub fn secret_statuses(&self, also: &[&str]) -> Vec<SecretStatus> {
        let secrets = Arc::clone(self.looked().secrets.value());
        let mut names: BTreeSet<&str> = also.iter().copied().collect();
        names.extend(KNOWN_KEYS.iter().filter(|known| known.secret).map(|known| known.key));
        names.extend(secrets.names());
        let setting = self.current().get(secret_commands::KEY).map(|entry| entry.value);
        let commands = secret_commands::commands(setting.as_ref());
        names.extend(commands.keys().map(String::as_str));
        let keyring = matches!(self.store(), Ok(Store::Keyring)).then(|| self.keyring().ok()).flatten();
        names.extend(keyring.iter().flat_map(|values| values.names()));
        names.into_iter().map(|name| self.status_of(name, &secrets)).collect()
    }

    /// All secret values that are known: those of the file, the variables whose names say so, and what commands and the
    /// keyring gave so far. For redaction; waits for nothing.
    pub fn secret_values(&self) -> Vec<Secret> {
        let secrets = Arc::clone(self.looked().secrets.value());
        let in_file = secrets.names().filter_map(|name| secrets.lookup(name, &Environment::default()));
        let in_environment =
            self.0.environment.iter().filter(|(name, value)| !value.is_empty() && is_secret_name(name));
        let in_environment = in_environment.map(|(_, value)| Secret::new(value));
        let printed = self.0.commands.values();
        let in_keyring = self.0.keyring.known();
        let in_keyring = in_keyring.iter().flat_map(|values| values.secrets().cloned());
        in_file.map(|(secret, _)| secret).chain(in_environment).chain(printed).chain(in_keyring).collect()
    }

    /// What is to be said of the store.
    pub(super) fn report_secret_store(&self, health: &mut Health) {
        let path = self.paths().config_file();
        let mut problem = |message: String| health.problems.push(Problem { path: path.clone(), message });
        match self.store() {
            Err(error) => problem(error.to_string()),
            Ok(Store::File) => {
                let chosen = self.current().get(STORE_KEY);
                if chosen.is_some_and(|entry| entry.value == "keyring") {
                    let message =
                        format!("{STORE_KEY} is keyring, but {DISABLE_KEY} is set: secrets are in the file");
                    health.warnings.push(Problem { path, message });
                }
            }
            Ok(Store::Keyring) => match self.keyring() {
                Err(error) => problem(error.to_string()),
                Ok(values) => {
                    let goose = values.warning.clone();
                    let stale = self.0.keyring.failure().map(|error| error.to_string());
                    for message in goose.into_iter().chain(stale) {
                        health.warnings.push(Problem { path: path.clone(), message });
                    }
                }
            },
        }
    }

    /// Stores a secret: in the keyring where that is chosen, else in `secrets.yaml`, mode 0600.
    ///
    /// # Errors
    /// The name or value is not usable; the file is malformed or the store cannot be written.
    pub fn set_secret(&self, key: &str, value: &str) -> Result<WriteOutcome, ConfigError> {
        check_key(key)?;
        if value.is_empty() {
            return Err(ConfigError::InvalidKey {
                key: key.to_owned(),
                reason: "its value is empty; use `delete_secret` to remove it".to_owned(),
            });
        }
        let store = self.store()?;
        // Before anybody can log it.
        self.tell(vec![Secret::new(value)]);
        if store == Store::File {
            let written = self.write_secret(key, Some(&Yaml::String(value.to_owned())))?;
            return Ok(self.secret_outcome(key, &written));
        }
        let (name, secret) = (key.to_owned(), Secret::new(value));
        let changed = self.0.keyring.update(move |own, _| {
            let new = Value::String(secret.expose().to_owned());
            own.insert(name, new.clone()).is_none_or(|old| old != new)
        })?;
        // An old value must not stay readable in the file.
        let in_file = self.write_secret(key, None)?;
        Ok(self.secret_outcome(key, &Written { changed: changed || in_file.changed, ..in_file }))
    }

    /// Removes a secret from the stores. One that is not there is no error; one in the environment stays. What Goose has in
    /// its entry of the keyring stays for Goose, and is not seen here any more.
    ///
    /// # Errors
    /// As [`ConfigHandle::set_secret`].
    pub fn delete_secret(&self, key: &str) -> Result<WriteOutcome, ConfigError> {
        check_key(key)?;
        let mut changed = false;
        if self.store()? == Store::Keyring {
            let name = key.to_owned();
            changed = self.0.keyring.update(move |own, goose| {
                let of_goose = goose.get(&name).is_some_and(|value| !value.is_null());
                let before = own.get(&name).cloned();
                match of_goose {
                    true => own.insert(name, Value::Null) != Some(Value::Null),
                    false => {
                        own.remove(&name);
                        before.is_some()
                    }
                }
            })?;
        }
        let in_file = self.write_secret(key, None)?;
        Ok(self.secret_outcome(key, &Written { changed: changed || in_file.changed, ..in_file }))
    }

    fn write_secret(&self, key: &str, value: Option<&Yaml>) -> Result<Written, ConfigError> {
        let path = self.paths().secrets_file();
        self.write(&path, Some(SECRET_MODE), |_| Ok((Target::Top(key), value.cloned())))
    }

    fn secret_outcome(&self, key: &str, written: &Written) -> WriteOutcome {
        let variable = variable_for(key);
        let shadowed_by =
            self.0.environment.get(&variable).is_some().then_some(Origin::Environment { variable });
        written.outcome(shadowed_by)
    }

    /// Moves all secrets to `to` around a write of the setting: first they are in both, then the setting is written, then
    /// they are removed where they were. Cut anywhere, nothing is lost. Away from a keyring that is not there nothing is
    /// moved.
    pub(super) fn move_secrets(
        &self,
        to: Store,
        write: impl FnOnce() -> Result<WriteOutcome, ConfigError>,
    ) -> Result<WriteOutcome, ConfigError> {
        match to {
            Store::Keyring => {
                let moved = self.secrets_in_file()?;
                let inserted = moved.clone();
                self.0.keyring.update(move |own, _| own.extend(inserted))?;
                let outcome = write()?;
                let left = self.secrets_in_file()?;
                for (key, _) in moved.iter().filter(|(key, value)| left.get(*key) == Some(*value)) {
                    self.write_secret(key, None)?;
                }
                Ok(outcome)
            }
            Store::File => {
                let moved = match self.0.keyring.update(|own, _| own.clone()) {
                    Ok(moved) => moved,
                    // What is not there to be asked must not keep anybody in it. Its secrets stay where they are.
                    Err(error) if error.is_absence() => {
                        tracing::warn!(%error, "the secrets of the keyring stay there");
                        return write();
                    }
                    Err(error) => return Err(error.into()),
                };
                for (key, value) in moved.iter().filter(|(_, value)| !value.is_null()) {
                    self.write_secret(key, Some(&document::to_yaml(value)))?;
                }
                let outcome = write()?;
                self.0
                    .keyring
                    .update(move |own, _| own.retain(|key, value| moved.get(key) != Some(value)))?;
                Ok(outcome)
            }
        }
    }

    /// The file's secrets as they are, of whatever type.
    fn secrets_in_file(&self) -> Result<Object, ConfigError> {
        let path = self.paths().secrets_file();
        let Some((_, content)) = file::read(&path)? else { return Ok(Object::new()) };
        let document = document::parse(&path, &content)?;
        let values = document.iter().map(|(key, value)| (document::key_text(key), document::to_json(value)));
        Ok(values.filter(|(_, value)| !value.is_null()).collect())
    }
}

/// Waits, and lets the tasks of a runtime's thread go on elsewhere meanwhile.
fn beside<T>(wait: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    }
}

pub(super) fn store_error(value: &Value, origin: Origin) -> ConfigError {
    ConfigError::WrongType {
        key: STORE_KEY.to_owned(),
        expected: "\"file\" or \"keyring\"".to_owned(),
        found: if value.is_string() { "another text" } else { document::json_kind(value) },
        origin,
    }
}
