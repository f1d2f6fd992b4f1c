//! Makes errors that tonic itself answers as complete as ours: every error carries `ErrorInfo`.
//!
//! Tonic answers some errors before a handler runs: a message above the limit, bytes that are no message, an unknown
//! method. Its `OUT_OF_RANGE` for a message above the limit would also look like a cursor error.

use gander_domain::{ErrorDetail, ErrorReason};
use http::{HeaderMap, Response};
use tonic::{Code, Status};

use crate::{MAX_REQUEST_BYTES, error::status};

const STATUS_HEADERS: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];

/// Replaces an error without details in the head of a response.
pub(crate) fn complete<B>(mut response: Response<B>) -> Response<B> {
    if let Some(complete) = completed(response.headers()) {
        let headers = response.headers_mut();
        for name in STATUS_HEADERS {
            headers.remove(name);
        }
        // Our own messages and details are valid header values.
        if let Err(error) = complete.add_header(headers) {
            tracing::warn!(%error, "an error could not be written");
        }
    }
    response
}

fn completed(headers: &HeaderMap) -> Option<Status> {
    if !headers.contains_key("grpc-status") || headers.contains_key("grpc-status-details-bin") {
        return None;
    }
    let bare = Status::from_header_map(headers)?;
    let reason = match bare.code() {
        Code::Ok => return None,
        Code::OutOfRange | Code::ResourceExhausted => ErrorReason::MessageTooLarge,
        Code::Unimplemented => ErrorReason::NotImplemented,
        Code::Internal | Code::InvalidArgument => ErrorReason::InvalidField,
        Code::Cancelled | Code::DeadlineExceeded => return None,
        _ => ErrorReason::Internal,
    };
    let message = match reason {
        ErrorReason::MessageTooLarge => {
            format!(
                "the request is too large ({}); ServerInfo.limits tells how large it may be",
                bare.message()
            )
        }
        ErrorReason::NotImplemented => {
            "this daemon does not know the method; it may be older than the client".to_owned()
        }
        ErrorReason::InvalidField => format!("the request cannot be decoded: {}", bare.message()),
        _ => bare.message().to_owned(),
    };
    let detail = ErrorDetail::new(reason, message);
    let too_large = reason == ErrorReason::MessageTooLarge;
    Some(status(&if too_large { detail.with("maxBytes", MAX_REQUEST_BYTES) } else { detail }))
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn answer(bare: &Status) -> Status {
        let mut response = Response::new(());
        bare.add_header(response.headers_mut()).unwrap();
        Status::from_header_map(complete(response).headers()).unwrap()
    }

    #[test]
    fn bare_errors_get_a_reason() {
        for (bare, code, reason) in [
            (Status::out_of_range("too large"), Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
            (Status::unimplemented(""), Code::Unimplemented, "NOT_IMPLEMENTED"),
            (Status::internal("failed to decode"), Code::InvalidArgument, "INVALID_FIELD"),
        ] {
            let got = answer(&bare);
            assert_eq!(got.code(), code);
            assert_eq!(got.get_error_details().error_info().unwrap().reason, reason);
        }
    }

    #[test]
    fn complete_errors_and_successes_stay() {
        let own = status(&ErrorDetail::new(ErrorReason::SequenceAhead, "ahead"));
        assert_eq!(answer(&own).code(), Code::OutOfRange);
        assert_eq!(answer(&own).message(), "ahead");
        let response = complete(Response::new(()));
        assert!(response.headers().is_empty());
    }
}
