//! What a failed request is answered with, in the forms that Goose's clients read.
//!
//! Goose Desktop shows `message` of a JSON body, else the text of the body, else a sentence of its own. The status of
//! a daemon's error comes from its reason; routes whose contract says otherwise change it with
//! [`ApiError::with_status`].

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use gander_client::ClientError;
use gander_proto::v1::ErrorReason;
use serde_json::json;
use tonic::Code;

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {body:?}")]
pub(crate) struct ApiError {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// What the body says.
    pub(crate) body: ErrorBody,
}

/// The body of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ErrorBody {
    /// Nothing, with `Content-Length: 0`.
    Empty,
    /// `text/plain`.
    Text(String),
    /// `{"message": …}`.
    Message(String),
}

impl ApiError {
    /// A status with an empty body.
    pub(crate) fn bare(status: StatusCode) -> Self {
        Self { status, body: ErrorBody::Empty }
    }

    /// A status with a plain text.
    pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, body: ErrorBody::Text(text.into()) }
    }

    /// A status with `{"message": …}`.
    pub(crate) fn message(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, body: ErrorBody::Message(message.into()) }
    }

    /// 400 with `{"message": …}`.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::message(StatusCode::BAD_REQUEST, message)
    }

    /// 404 with `{"message": …}`.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::message(StatusCode::NOT_FOUND, message)
    }

    /// 500 with `{"message": …}`.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::message(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The same with another status.
    #[must_use]
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The same with this text in front of the sentence.
    #[must_use]
    pub(crate) fn prefixed(self, prefix: &str) -> Self {
        let body = match self.body {
            ErrorBody::Empty => ErrorBody::Empty,
            ErrorBody::Text(text) => ErrorBody::Text(format!("{prefix}{text}")),
            ErrorBody::Message(text) => ErrorBody::Message(format!("{prefix}{text}")),
        };
        Self { status: self.status, body }
    }

    /// The same as plain text instead of JSON.
    #[must_use]
    pub(crate) fn into_text(self) -> Self {
        match self.body {
            ErrorBody::Message(text) => Self { status: self.status, body: ErrorBody::Text(text) },
            body => Self { status: self.status, body },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self.body {
            ErrorBody::Empty => self.status.into_response(),
            ErrorBody::Text(text) => (self.status, text).into_response(),
            ErrorBody::Message(message) => {
                (self.status, axum::Json(json!({ "message": message }))).into_response()
            }
        }
    }
}

impl From<tonic::Status> for ApiError {
    fn from(status: tonic::Status) -> Self {
        ClientError::from(status).into()
    }
}

impl From<ClientError> for ApiError {
    fn from(error: ClientError) -> Self {
        Self::message(status_of(&error), sentence(&error))
    }
}

/// The daemon's sentence, with the wrong fields when it does not name them itself.
pub(crate) fn sentence(error: &ClientError) -> String {
    let missing: Vec<String> = error
        .violations
        .iter()
        .filter(|violation| !error.message.contains(&violation.field))
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect();
    if missing.is_empty() {
        error.message.clone()
    } else {
        format!("{} ({})", error.message, missing.join("; "))
    }
}

/// The HTTP status for a daemon's error: by its reason where Goose's differs from what the code suggests.
pub(crate) fn status_of(error: &ClientError) -> StatusCode {
    use ErrorReason as R;
    if is_unknown_session(error) {
        return StatusCode::NOT_FOUND;
    }
    let by_reason = match error.error_reason() {
        Some(R::ToolNotFound | R::ToolNotAllowed | R::ProviderNotConfigured | R::ExtensionUnavailable) => {
            Some(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Some(
            R::ExtensionConfigInvalid
            | R::ExtensionTypeUnsupported
            | R::EnvKeyDisallowed
            | R::SecretMissing
            | R::CommandNotAllowed
            | R::ExtensionStartFailed
            | R::ExtensionStartTimeout
            | R::ExtensionNeedsAuth
            | R::ToolTimedOut
            | R::ProviderOverloaded
            | R::ProviderUnavailable
            | R::ProviderStreamTruncated,
        ) => Some(StatusCode::INTERNAL_SERVER_ERROR),
        Some(R::ProviderNotFound | R::ProviderUnauthenticated) => Some(StatusCode::BAD_REQUEST),
        Some(R::ConfigReadOnly | R::ConfigMalformed) => Some(StatusCode::UNPROCESSABLE_ENTITY),
        Some(R::MessageTooLarge) => Some(StatusCode::PAYLOAD_TOO_LARGE),
        _ => None,
    };
    by_reason.unwrap_or(match error.code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        // Our own token, not the caller's: a 401 would tell the person to check a secret that is right.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    })
}

/// Whether there is no such session. An id that no session can have is one of these: Goose has no rule for ids.
pub(crate) fn is_unknown_session(error: &ClientError) -> bool {
    error.is(ErrorReason::SessionNotFound)
        || (error.is(ErrorReason::InvalidField)
            && error.violations.iter().any(|violation| violation.field.ends_with("session_id")))
}
