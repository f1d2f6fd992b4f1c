//! The keychain of macOS. It may ask the person, and then blocks until there is an answer: callers stop waiting at their
//! deadline.

use std::time::Instant;

use security_framework::{base, passwords};

use super::{Entry, KeyringError};
use crate::{environment::Environment, secrets::Secret};

/// `errSecItemNotFound`.
const NOT_FOUND: i32 = -25300;
/// `errSecInteractionNotAllowed`: it is locked, and nobody is there to be asked.
const NO_INTERACTION: i32 = -25308;
/// `errSecAuthFailed` and `errSecUserCanceled`.
const DENIED: [i32; 2] = [-25293, -128];

/// The user's keychains.
pub(super) struct Vault;

fn failed(error: base::Error) -> KeyringError {
    match error.code() {
        NO_INTERACTION => KeyringError::Locked,
        code if DENIED.contains(&code) => KeyringError::Denied,
        _ => KeyringError::Failed { message: error.to_string() },
    }
}

#[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "the same shape as on other systems")]
impl Vault {
    pub(super) fn open(_environment: &Environment, _deadline: Instant) -> Result<Self, KeyringError> {
        Ok(Self)
    }

    pub(super) fn read(&mut self, entry: Entry) -> Result<Option<Secret>, KeyringError> {
        match passwords::get_generic_password(entry.service, entry.user) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Ok(Some(Secret::new(text))),
                Err(_) => Err(KeyringError::Malformed { entry: entry.service }),
            },
            Err(error) if error.code() == NOT_FOUND => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) fn write(&mut self, entry: Entry, value: &Secret) -> Result<(), KeyringError> {
        passwords::set_generic_password(entry.service, entry.user, value.expose().as_bytes()).map_err(failed)
    }

    pub(super) fn delete(&mut self, entry: Entry) -> Result<(), KeyringError> {
        match passwords::delete_generic_password(entry.service, entry.user) {
            Err(error) if error.code() != NOT_FOUND => Err(failed(error)),
            _ => Ok(()),
        }
    }
}
