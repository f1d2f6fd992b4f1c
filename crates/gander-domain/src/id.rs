//! Identifiers. All are opaque strings of 1 to 64 characters out of `[A-Za-z0-9._-]`, compared byte for byte.
//!
//! The pattern admits ids made elsewhere (Goose's `20250101_3`, UUIDs). Minting needs a clock and randomness and is
//! therefore done by the engine.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest id in bytes.
pub const MAX_ID_LENGTH: usize = 64;

/// Why a string is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("must not be empty")]
    Empty,
    #[error("must have at most {MAX_ID_LENGTH} characters, has {0}")]
    TooLong(usize),
    #[error("must consist of letters, digits, '.', '_' and '-' only")]
    BadCharacter,
}

fn validate(text: &str) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.len() > MAX_ID_LENGTH {
        return Err(InvalidId::TooLong(text.len()));
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(InvalidId::BadCharacter);
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates `text` as an id.
            ///
            /// # Errors
            /// [`InvalidId`] when the text does not match the pattern of ids.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                let text = text.as_ref();
                validate(text)?;
                Ok(Self(text.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// A session. Never reused, not even after the session was deleted.
    SessionId
);
id!(
    /// A turn; chosen by the client (a UUID) or minted by the engine. It is also the idempotency key of the start.
    TurnId
);
id!(
    /// An item. A fork's copies keep theirs, so the key of an item is (session, item).
    ItemId
);
id!(
    /// All items of one model response share a message id.
    MessageId
);
id!(
    /// A question to a person.
    InteractionId
);
id!(
    /// One call to an attached host.
    HostCallId
);
id!(
    /// Content stored beside the log: the lower-case hex SHA-256 of its bytes.
    ContentId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_validated() {
        for good in ["a", "20250101_3", "0199f3e0-7b9e-7c10-8a00-000000000001", &"x".repeat(64)] {
            assert_eq!(SessionId::new(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", InvalidId::Empty),
            (&"x".repeat(65), InvalidId::TooLong(65)),
            ("a b", InvalidId::BadCharacter),
            ("a/b", InvalidId::BadCharacter),
            ("ä", InvalidId::BadCharacter),
        ] {
            assert_eq!(TurnId::new(bad), Err(why), "{bad:?}");
        }
        assert!(serde_json::from_str::<ItemId>("\"a b\"").is_err(), "deserialising validates as well");
    }
}
