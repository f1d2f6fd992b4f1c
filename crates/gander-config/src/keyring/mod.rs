//! Secrets in the keyring of the operating system, where Goose's desktop application keeps them too.
//!
//! An entry is one JSON object of names and values. Ours (service `gander`, user `secrets`) is read and written; Goose's
//! (service `goose`) is only read, since a Goose that runs would put back what it remembers, and ours wins. A `null` in
//! ours hides a name of Goose's that was removed here.
//!
//! - A keyring may ask a person, or hang. It is accessed on threads of its own, whose number is bounded, and nobody waits
//!   longer than [`ANSWER`] for what it holds; no lock that readers need is held meanwhile. Changes take turns.
//! - What was read is kept for a while, and after a failure longer: a keyring that goes away takes nothing with it.
//! - An entry that is no JSON object is never written.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use crate::{environment::Environment, file, secrets::Secret};

#[cfg(target_os = "linux")]
mod bus;
#[cfg(target_os = "macos")]
#[path = "keychain.rs"]
mod system;
#[cfg(target_os = "linux")]
#[path = "secret_service.rs"]
mod system;
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod system {
    //! Systems whose keyring is not known.
    use super::{Entry, Environment, Instant, KeyringError, Secret};

    pub(super) struct Vault;

    impl Vault {
        pub(super) fn open(_: &Environment, _: Instant) -> Result<Self, KeyringError> {
            Err(KeyringError::Unsupported)
        }
        pub(super) fn read(&mut self, _: Entry) -> Result<Option<Secret>, KeyringError> {
            Err(KeyringError::Unsupported)
        }
        pub(super) fn write(&mut self, _: Entry, _: &Secret) -> Result<(), KeyringError> {
            Err(KeyringError::Unsupported)
        }
        pub(super) fn delete(&mut self, _: Entry) -> Result<(), KeyringError> {
            Err(KeyringError::Unsupported)
        }
    }
}

/// How long a keyring may take for one access.
const ANSWER: Duration = Duration::from_secs(3);
/// What the thread of an access needs beside the keyring.
const SLACK: Duration = Duration::from_millis(250);
/// How long what was read is good for. Elsewhere than on Linux every look may ask a person.
const GOOD_FOR: Duration = Duration::from_secs(if cfg!(target_os = "linux") { 60 } else { 24 * 3600 });
/// How long a keyring that did not answer is left alone, and one that refused.
const SILENT_FOR: Duration = Duration::from_secs(30);
const REFUSED_FOR: Duration = Duration::from_secs(2);
/// Most accesses that hang.
const MOST_THREADS: usize = 2;

/// One entry of the keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    service: &'static str,
    user: &'static str,
}

const OWN: Entry = Entry { service: "gander", user: "secrets" };
const GOOSE: Entry = Entry { service: "goose", user: "secrets" };

/// Why the keyring cannot be used, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// There is no bus on which a keyring could be.
    #[error(
        "the keyring cannot be reached, there is no session bus ({tried}); start gander within the desktop's session or \
         set DBUS_SESSION_BUS_ADDRESS, or keep secrets in the file: `gander config set gander.secret_store file`"
    )]
    NoBus {
        /// What was tried.
        tried: String,
    },
    /// Nobody offers a keyring.
    #[error(
        "there is no keyring on this session's bus; install and start GNOME Keyring, KWallet or KeePassXC, or keep \
         secrets in the file: `gander config set gander.secret_store file`"
    )]
    NoService,
    /// It is locked, and unlocking would ask a person.
    #[error("the keyring is locked; unlock it with the desktop's password manager, then try again")]
    Locked,
    /// There is no collection to write to.
    #[error("there is no default keyring; create one with the desktop's password manager, then try again")]
    NoCollection,
    /// The person or the system said no.
    #[error("access to the keyring was denied; allow it and try again")]
    Denied,
    /// It did not answer in time.
    #[error(
        "the keyring did not answer within 3 s; see whether it waits for a password, then try again, or keep secrets in \
         the file: `gander config set gander.secret_store file`"
    )]
    Timeout,
    /// An entry holds something else than one JSON object. It is left as it is.
    #[error(
        "the keyring's entry \"{entry}\" (user \"secrets\") holds no JSON object; correct or delete it with the desktop's \
         password manager, nothing was changed"
    )]
    Malformed {
        /// Its service.
        entry: &'static str,
    },
    /// What was written is not what is read.
    #[error("the keyring did not keep what was written; nothing was removed elsewhere")]
    NotKept,
    /// Something else; the text holds no secret.
    #[error("the keyring failed: {message}")]
    Failed {
        /// What it said.
        message: String,
    },
    /// There is no keyring for this system in this build.
    #[error(
        "this build knows no keyring on this system; keep secrets in the file: `gander config set gander.secret_store file`"
    )]
    Unsupported,
}

impl KeyringError {
    /// There is nothing that could be asked, or it does not answer.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::NoBus { .. } | Self::NoService | Self::Timeout | Self::Unsupported)
    }

    fn holds_for(&self) -> Duration {
        if *self == Self::Timeout { SILENT_FOR } else { REFUSED_FOR }
    }
}

type Result<T> = std::result::Result<T, KeyringError>;
/// Names and values of one entry.
pub(crate) type Object = Map<String, Value>;

/// What the keyring holds.
pub(crate) struct Values {
    /// Secrets and the service of their entry.
    merged: BTreeMap<String, (Secret, &'static str)>,
    /// Those of Goose's entry that ours hide.
    hidden: Vec<Secret>,
    /// What is wrong with Goose's entry.
    pub(crate) warning: Option<String>,
}

impl Values {
    fn merge(own: &Object, goose: &Result<Object>) -> Self {
        let mut merged = BTreeMap::new();
        let mut hidden = Vec::new();
        for (name, value) in goose.iter().flatten() {
            let Some(secret) = secret(value) else { continue };
            if own.contains_key(name) {
                hidden.push(secret);
            } else {
                merged.insert(name.clone(), (secret, GOOSE.service));
            }
        }
        for (name, value) in own {
            if let Some(secret) = secret(value) {
                merged.insert(name.clone(), (secret, OWN.service));
            }
        }
        Self { merged, hidden, warning: goose.as_ref().err().map(ToString::to_string) }
    }

    /// The secret of this name and its entry.
    pub(crate) fn get(&self, name: &str) -> Option<&(Secret, &'static str)> {
        self.merged.get(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.merged.keys().map(String::as_str)
    }

    /// All values, for redaction.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.merged.values().map(|(secret, _)| secret).chain(&self.hidden)
    }

    fn same(&self, other: &Self) -> bool {
        let pairs = |values: &Self| -> Vec<(String, String)> {
            values
                .merged
                .iter()
                .map(|(name, (secret, _))| (name.clone(), secret.expose().to_owned()))
                .collect()
        };
        pairs(self) == pairs(other)
    }
}

/// A value as a secret's text; nothing for null and empty texts.
fn secret(value: &Value) -> Option<Secret> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(Secret::new(text.as_str())),
        other => Some(Secret::new(other.to_string())),
    }
}

fn parse(entry: Entry, text: Option<Secret>) -> Result<Object> {
    let Some(text) = text else { return Ok(Object::new()) };
    match serde_json::from_str(text.expose()) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(KeyringError::Malformed { entry: entry.service }),
    }
}

#[derive(Default)]
struct State {
    known: Option<Arc<Values>>,
    /// Why the last look failed.
    failure: Option<KeyringError>,
    looked: Option<Instant>,
    looking: bool,
    /// Counts our own changes: what a look found that began before one is older than what is known.
    changes: u64,
}

impl State {
    fn is_fresh(&self) -> bool {
        let good_for = self.failure.as_ref().map_or(GOOD_FOR, KeyringError::holds_for);
        self.looked.is_some_and(|looked| looked.elapsed() < good_for)
    }
}

/// Called with what a look found, when it is something else than before.
pub(crate) type Changed = Box<dyn Fn(&Values) + Send + Sync>;

struct Shared {
    environment: Environment,
    /// Writers of one configuration take turns here.
    lock: PathBuf,
    state: Mutex<State>,
    looked: Condvar,
    /// Changes take turns, so that those that come together do not take each other for a keyring that hangs.
    turn: Mutex<()>,
    threads: AtomicUsize,
    changed: Changed,
}

/// The keyring as one configuration uses it. Nothing is accessed before it is asked.
#[derive(Clone)]
pub(crate) struct Keyring(Arc<Shared>);

impl Keyring {
    pub(crate) fn new(environment: Environment, lock: PathBuf, changed: Changed) -> Self {
        Self(Arc::new(Shared {
            environment,
            lock,
            state: Mutex::default(),
            looked: Condvar::new(),
            turn: Mutex::default(),
            threads: AtomicUsize::new(0),
            changed,
        }))
    }

    /// What it holds. Waits for a look that is due, and not longer than the keyring may take; what is known from an
    /// earlier one stands in for a look that fails.
    ///
    /// # Errors
    /// It cannot be read, and never could.
    pub(crate) fn values(&self) -> Result<Arc<Values>> {
        let until = Instant::now() + ANSWER + SLACK;
        let mut state = self.state();
        if !state.is_fresh() && !state.looking {
            state.looking = true;
            let (shared, changes) = (Arc::clone(&self.0), state.changes);
            let looking = Arc::clone(&self.0);
            let spawned = self.spawn(move || looking.look(), move |found| shared.found(changes, found));
            if let Err(error) = spawned {
                state.looking = false;
                state.settle(Err(error));
            }
        }
        while state.looking {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // The look goes on, and whoever asks next finds that it does.
                state.failure = Some(KeyringError::Timeout);
                state.looked = Some(Instant::now());
                state.looking = false;
                break;
            }
            let waited = self.0.looked.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        match (&state.known, &state.failure) {
            (Some(known), _) => Ok(Arc::clone(known)),
            (None, Some(failure)) => Err(failure.clone()),
            (None, None) => Err(KeyringError::Timeout),
        }
    }

    /// What is known without a look.
    pub(crate) fn known(&self) -> Option<Arc<Values>> {
        self.state().known.clone()
    }

    /// Why the last look failed.
    pub(crate) fn failure(&self) -> Option<KeyringError> {
        self.state().failure.clone()
    }

    /// Whether an answer is at hand.
    pub(crate) fn is_fresh(&self) -> bool {
        self.state().is_fresh()
    }

    /// Changes our entry. `change` gets it and Goose's; when it changed nothing, nothing is written.
    ///
    /// # Errors
    /// The keyring cannot be read or written. After [`KeyringError::Timeout`] it is not known whether it was.
    pub(crate) fn update<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Object, &Object) -> T + Send + 'static,
    ) -> Result<T> {
        let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, receiver) = mpsc::channel();
        let shared = Arc::clone(&self.0);
        self.spawn(
            move || shared.change(change),
            move |changed| {
                // Nobody may be left to hear it.
                let _ = sender.send(changed);
            },
        )?;
        // The lock, reading and writing, each with its deadline.
        receiver.recv_timeout(ANSWER * 2 + SLACK).unwrap_or(Err(KeyringError::Timeout))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state()
    }

    /// Runs an access on a thread that ends with it. When `done` hears of its outcome it is over and counts no more.
    fn spawn<T>(
        &self,
        access: impl FnOnce() -> T + Send + 'static,
        done: impl FnOnce(T) + Send + 'static,
    ) -> Result<()> {
        let shared = Arc::clone(&self.0);
        if shared.threads.fetch_add(1, Ordering::SeqCst) >= MOST_THREADS {
            shared.threads.fetch_sub(1, Ordering::SeqCst);
            return Err(KeyringError::Timeout);
        }
        let counted = Counted(Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("keyring".to_owned());
        let spawned = thread.spawn(move || {
            let outcome = access();
            drop(counted);
            done(outcome);
        });
        spawned.map(drop).map_err(|error| KeyringError::Failed { message: format!("no thread: {error}") })
    }
}

/// One access that goes on.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.threads.fetch_sub(1, Ordering::SeqCst);
    }
}

impl State {
    /// Takes in what a look found; whether it is something new.
    fn settle(&mut self, found: Result<Values>) -> Option<Arc<Values>> {
        (self.looking, self.looked) = (false, Some(Instant::now()));
        match found {
            Ok(values) => {
                self.failure = None;
                let new = self.known.as_ref().is_none_or(|known| !known.same(&values));
                let values = Arc::new(values);
                self.known = Some(Arc::clone(&values));
                new.then_some(values)
            }
            Err(error) => {
                if self.failure.as_ref() != Some(&error) {
                    tracing::warn!(%error, "secrets are in the keyring");
                }
                self.failure = Some(error);
                None
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Result<Values> {
        let mut vault = system::Vault::open(&self.environment, Instant::now() + ANSWER)?;
        let own = parse(OWN, vault.read(OWN)?)?;
        Ok(Values::merge(&own, &goose(&mut vault)?))
    }

    /// Takes in what a look found that began after so many changes.
    fn found(&self, changes: u64, found: Result<Values>) {
        let new = {
            let mut state = self.state();
            if state.changes == changes {
                state.settle(found)
            } else if state.is_fresh() {
                state.looking = false;
                None
            } else {
                // A change failed meanwhile: nobody knows which of them came first.
                let new = state.settle(found);
                state.looked = None;
                new
            }
        };
        self.tell(new);
    }

    /// Takes in what a change left.
    fn changed_to(&self, values: Values) {
        let new = {
            let mut state = self.state();
            state.changes += 1;
            state.settle(Ok(values))
        };
        self.tell(new);
    }

    /// A change failed while it wrote: what is known may be wrong.
    fn forget(&self) {
        let mut state = self.state();
        state.changes += 1;
        state.looked = None;
    }

    fn tell(&self, new: Option<Arc<Values>>) {
        if let Some(values) = new {
            (self.changed)(&values);
        }
        self.looked.notify_all();
    }

    fn change<T>(&self, change: impl FnOnce(&mut Object, &Object) -> T) -> Result<T> {
        let until = Instant::now() + ANSWER * 2;
        let failed = |error: crate::ConfigError| KeyringError::Failed { message: error.to_string() };
        let _lock = file::lock_for(&self.lock, ANSWER).map_err(failed)?;
        let deadline = until.min(Instant::now() + ANSWER);
        let mut vault = system::Vault::open(&self.environment, deadline)?;
        let before = parse(OWN, vault.read(OWN)?)?;
        let goose = goose(&mut vault)?;
        let mut own = before.clone();
        let result = change(&mut own, goose.as_ref().unwrap_or(&Object::new()));
        if own != before {
            write(&mut vault, &own).inspect_err(|_| self.forget())?;
        }
        self.changed_to(Values::merge(&own, &goose));
        Ok(result)
    }
}

/// Writes our entry and makes sure that it was kept.
fn write(vault: &mut system::Vault, own: &Object) -> Result<()> {
    if own.is_empty() {
        vault.delete(OWN)?;
    } else {
        let text = Secret::new(Value::Object(own.clone()).to_string());
        vault.write(OWN, &text)?;
    }
    if parse(OWN, vault.read(OWN)?)? == *own { Ok(()) } else { Err(KeyringError::NotKept) }
}

/// Goose's entry; one that is malformed is its own affair.
fn goose(vault: &mut system::Vault) -> Result<Result<Object>> {
    match vault.read(GOOSE) {
        Ok(text) => Ok(parse(GOOSE, text)),
        // On macOS every entry has its own permission.
        Err(KeyringError::Denied) => Ok(Err(KeyringError::Denied)),
        Err(KeyringError::Malformed { entry }) => Ok(Err(KeyringError::Malformed { entry })),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
