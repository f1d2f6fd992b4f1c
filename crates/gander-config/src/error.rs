//! The error type of this crate: every variant names the file or key it is about and what to do.
//!
//! Messages never contain a value from the secrets file.

use std::path::PathBuf;
use std::time::Duration;

use crate::keyring::KeyringError;
use crate::layers::Origin;

/// What can go wrong while reading or changing configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried, as a verb phrase: "read", "create directory".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file exists and cannot be parsed. It is never overwritten in this state.
    #[error("{path}:{line}:{column}: not valid YAML: {message}; correct the file, nothing was changed", path = .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The parser's reason.
        message: String,
    },
    /// A file parses but has the wrong shape.
    #[error("{path}: {field} must be {expected}, found {found}", path = .path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The place in the file: a key, or "the document".
        field: String,
        /// What is needed there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// The policy file is not understood. It is refused as a whole: a misspelt rule must not weaken it.
    #[error("{path}: not a valid policy: {message}", path = .path.display())]
    InvalidPolicy {
        /// The policy file.
        path: PathBuf,
        /// The reason.
        message: String,
    },
    /// The key is locked by an enforced layer.
    #[error("{key} is read-only: it is set by {origin}; {remedy}")]
    ReadOnly {
        /// The key.
        key: String,
        /// The layer that locks it.
        origin: Origin,
        /// What to do.
        remedy: String,
    },
    /// The policy does not allow this value.
    #[error("{field}: {value:?} is not allowed by {origin}; allowed: {allowed}")]
    NotAllowed {
        /// What is restricted: a key, "provider", "model", "extension name", "extension command".
        field: String,
        /// The refused value.
        value: String,
        /// The allowed ones, joined with commas.
        allowed: String,
        /// The layer that restricts it.
        origin: Origin,
    },
    /// The key cannot be used here.
    #[error("{key:?} cannot be used as a key here: {reason}")]
    InvalidKey {
        /// The key.
        key: String,
        /// Why, and what to use instead.
        reason: String,
    },
    /// The key names a secret and was given to a function for plain values.
    #[error("{key} is a secret: store it with `set_secret`, not as a plain configuration value")]
    SecretKey {
        /// The key.
        key: String,
    },
    /// A value has another type than the caller needs.
    #[error("{key} must be {expected}, found {found} (from {origin}); change it there or unset it")]
    WrongType {
        /// The key.
        key: String,
        /// The needed type.
        expected: String,
        /// The type found.
        found: &'static str,
        /// Where the value comes from.
        origin: Origin,
    },
    /// A documented setting cannot have this value.
    #[error("{key} cannot be {value}: it must be {expected}")]
    InvalidValue {
        /// The key.
        key: String,
        /// The refused value as JSON, shortened.
        value: String,
        /// What fits.
        expected: String,
    },
    /// Another writer holds the lock for too long.
    #[error("{path} is locked by another program for more than {waited:?}; try again", path = .path.display())]
    LockTimeout {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The keyring cannot be used.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// No directory could be derived from the environment.
    #[error("no home directory: set HOME, or GANDER_PATH_ROOT to an absolute directory")]
    NoHome,
    /// A path that must be absolute is not.
    #[error("{name} must be an absolute path, found {path:?}", path = .path.display())]
    RelativePath {
        /// The variable or flag.
        name: String,
        /// Its value.
        path: PathBuf,
    },
    /// A file or directory could be used by other users.
    #[error("{path} is not private: {reason}; {remedy}", path = .path.display())]
    NotPrivate {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The token file has other content than this program writes.
    #[error("{path} does not hold a token of 64 hexadecimal digits; delete it to get a new one", path = .path.display())]
    BadToken {
        /// The token file.
        path: PathBuf,
    },
}

pub(crate) fn io(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(std::io::Error) -> ConfigError {
    let path = path.into();
    move |source| ConfigError::Io { action, path, source }
}
