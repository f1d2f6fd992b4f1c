//! What can go wrong inside, and how it is told to callers.

use rusqlite::ErrorCode;

use crate::StoreError;

/// An error of SQLite, or one that already has its final form.
#[derive(Debug)]
pub(super) enum Fault {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fault {
    /// Whether the disk had no room.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Store(StoreError::Full)) || self.code() == Some(ErrorCode::DiskFull)
    }

    /// Whether it may be a full disk in disguise: some writes (the shared memory) fail as plain IO errors.
    pub(super) fn is_io(&self) -> bool {
        self.code() == Some(ErrorCode::SystemIoFailure)
    }

    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) => Some(error.code),
            _ => None,
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Store(error) => error,
            Fault::Sqlite(error) => from_sqlite(&error),
        }
    }
}

fn from_sqlite(error: &rusqlite::Error) -> StoreError {
    use rusqlite::Error as E;
    let text = error.to_string();
    match error {
        E::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DiskFull => StoreError::Full,
            ErrorCode::ReadOnly => StoreError::ReadOnly(text),
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StoreError::Corrupt(text),
            ErrorCode::PermissionDenied => {
                StoreError::ReadOnly(format!("{text}; check who owns the data directory"))
            }
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                StoreError::Unavailable(format!("another program holds the database: {text}"))
            }
            _ => StoreError::Unavailable(text),
        },
        E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::InvalidColumnType(..)
        | E::Utf8Error(..) => StoreError::Corrupt(text),
        _ => StoreError::Unavailable(text),
    }
}

/// The answer of a store that was closed.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

/// Stored JSON that this build cannot read.
pub(super) fn unreadable(what: &str, error: &serde_json::Error) -> Fault {
    StoreError::Corrupt(format!("{what} cannot be read: {error}")).into()
}
