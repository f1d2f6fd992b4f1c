//! Configuration of gander: where files live, layers of settings, secrets, permission rules.
//!
//! [`Paths`] finds the directories, [`ConfigHandle`] is the live view on all files in them: snapshots for readers,
//! edits that change one key and nothing else, and a generation counter for those who must know of changes.
//!
//! Invariants:
//! - The process environment is read in [`Environment::from_process`] only.
//! - A file is written under its lock, after reading it again, by rename; a file that does not parse is never
//!   written. Unknown keys and the order of keys survive; comments survive wherever the edit can be done in the text.
//! - The enforced policy stands above every layer, and a policy that is not understood stops the start.
//! - A secret has no printable form; plain values and lists never contain one.
//!
//! All functions block for short file operations; those of secrets for as long as the keyring or a command may take. The crate does not know what an extension, provider or recipe is.

mod document;
mod edit;
pub mod environment;
mod error;
mod file;
mod forms;
mod handle;
mod keyring;
pub mod keys;
mod layers;
mod paths;
mod permissions;
mod policy;
mod prompts;
pub mod recovery;
mod secret_commands;
mod secrets;
pub mod token;
mod watched;

pub use environment::Environment;
pub use error::ConfigError;
pub use forms::Form;
pub use handle::{ConfigHandle, ConfigOptions, WriteOutcome};
pub use keyring::KeyringError;
pub use keys::{KNOWN_KEYS, KnownKey, is_secret_name};
pub use layers::{Config, Entry, Listed, Origin, WriteEffect};
pub use paths::{MAX_SOCKET_PATH, Paths};
pub use permissions::RuleDecision;
pub use policy::Policy;
pub use prompts::PromptOverrides;
pub use secrets::{Secret, SecretOrigin, SecretStatus};
pub use watched::{Health, Problem};
