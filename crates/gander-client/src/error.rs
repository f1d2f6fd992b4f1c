//! What a call can fail with: a gRPC status with its `google.rpc` details taken apart.
//!
//! A status that the server sent and one that the transport made up look the same in tonic but for their source;
//! [`ClientError::is_transport_loss`] keeps the difference, since only the latter says nothing about the request.

use std::{collections::BTreeMap, error::Error as _, time::Duration};

use gander_proto::{reason, v1::ErrorReason};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// One wrong field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field, dotted, for example `input.parts`.
    pub field: String,
    /// What is wrong and what would be right.
    pub description: String,
}

/// A failed call.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    /// The gRPC code.
    pub code: Code,
    /// `ErrorInfo.reason` of the domain `gander.v1`, for example `SESSION_NOT_FOUND`. Empty when the error does not
    /// come from a daemon's own table.
    pub reason: String,
    /// One English sentence.
    pub message: String,
    /// `ErrorInfo.metadata`.
    pub metadata: BTreeMap<String, String>,
    /// How long the daemon asks to wait before trying again.
    pub retry_after: Option<Duration>,
    /// The wrong fields, all of them.
    pub violations: Vec<FieldViolation>,
    transport_loss: bool,
}

impl ClientError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: String::new(),
            message: message.into(),
            metadata: BTreeMap::new(),
            retry_after: None,
            violations: Vec::new(),
            transport_loss: false,
        }
    }

    /// A connection that ended or fell silent, with the sentence for the user.
    pub(crate) fn lost(message: impl Into<String>) -> Self {
        Self { transport_loss: true, ..Self::new(Code::Unavailable, message) }
    }

    /// The reason as the contract's enum. `None` without a reason and for one of a newer version: go by the code.
    #[must_use]
    pub fn error_reason(&self) -> Option<ErrorReason> {
        reason::from_wire_name(&self.reason)
    }

    /// Whether the error has this reason.
    #[must_use]
    pub fn is(&self, reason: ErrorReason) -> bool {
        self.error_reason() == Some(reason)
    }

    /// Whether the connection failed, so that nothing is known about the request.
    #[must_use]
    pub fn is_transport_loss(&self) -> bool {
        self.transport_loss
    }

    /// Whether trying the same again later may work: the connection failed, or the daemon is on its way out or up.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        if self.transport_loss {
            return true;
        }
        let lasting = matches!(
            self.error_reason(),
            Some(
                ErrorReason::StoreFull
                    | ErrorReason::StoreReadOnly
                    | ErrorReason::SecretStoreUnavailable
                    | ErrorReason::ExtensionUnavailable
                    | ErrorReason::ProviderOverloaded
                    | ErrorReason::ProviderUnavailable
                    | ErrorReason::ProviderStreamTruncated
            )
        );
        self.code == Code::Unavailable && !lasting
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let mut error = Self::new(status.code(), status.message());
        if let Ok(details) = status.check_error_details() {
            if let Some(info) = details.error_info()
                && info.domain == reason::ERROR_DOMAIN
            {
                error.reason.clone_from(&info.reason);
                error.metadata = info.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            }
            error.retry_after = details.retry_info().and_then(|info| info.retry_delay);
            if let Some(request) = details.bad_request() {
                error.violations = request
                    .field_violations
                    .iter()
                    .map(|v| FieldViolation { field: v.field.clone(), description: v.description.clone() })
                    .collect();
            }
        }
        error.transport_loss = error.reason.is_empty() && is_loss(&status);
        if error.transport_loss && error.code == Code::Unavailable {
            error.message = describe(&status);
        }
        error
    }
}

/// Whether the transport made this status up. The server's own statuses have no source. A stream that ended without a
/// status was cut: hyper reports a stream reset with NO_ERROR or CANCEL as a clean end.
fn is_loss(status: &Status) -> bool {
    match status.code() {
        Code::DeadlineExceeded => false,
        Code::Unknown => status.source().is_some() || status.message().contains("missing grpc-status"),
        _ => status.source().is_some(),
    }
}

/// "transport error" alone helps nobody: adds the innermost cause.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        let cause = error.to_string();
        source = error.source();
        if source.is_none() && !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
