//! The statuses that this crate answers with, in gRPC and in plain HTTP.

use std::{collections::HashMap, time::Duration};

use gander_proto::{reason, v1::ErrorReason};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt as _};

/// When a shed caller may come back.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A refusal with its reason; `metadata` holds every variable part of the message.
pub(crate) fn status<const N: usize>(
    code: Code,
    reason: ErrorReason,
    message: &str,
    metadata: [(&str, &str); N],
) -> Status {
    let metadata: HashMap<_, _> = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let mut details = ErrorDetails::new();
    details.set_error_info(reason::wire_name(reason), reason::ERROR_DOMAIN, metadata);
    if reason == ErrorReason::Overloaded {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    Status::with_error_details(code, message, details)
}

pub(crate) fn caller_is_tool() -> Status {
    let text =
        "the calling process belongs to a tool that this daemon started, and tools may not use the API";
    status(Code::PermissionDenied, ErrorReason::CallerIsTool, text, [])
}

pub(crate) fn token_invalid() -> Status {
    let text = "the token is missing or wrong: send `authorization: Bearer TOKEN` with the daemon's token";
    status(Code::Unauthenticated, ErrorReason::TokenInvalid, text, [])
}

pub(crate) fn policy_denied(policy: &str, message: &str) -> Status {
    status(Code::PermissionDenied, ErrorReason::PolicyDenied, message, [("policy", policy)])
}

pub(crate) fn overloaded(what: &str) -> Status {
    let text = format!("the daemon serves as many {what} as it may: try again later");
    status(Code::Unavailable, ErrorReason::Overloaded, &text, [("limit", what)])
}

/// A defect. The id finds the panic in the log; what it said stays there.
pub(crate) fn internal(id: &str) -> Status {
    let text = format!("a defect of the daemon; its log has more under {id}");
    status(Code::Internal, ErrorReason::Internal, &text, [("id", id)])
}

/// Deadlines have no reason of their own: the code says all.
pub(crate) fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("the call's deadline passed; a change that it made may stand")
}

/// `status` as trailers.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        headers.insert("grpc-status", HeaderValue::from_static("13"));
    }
    headers
}

/// A short plain HTTP answer.
pub(crate) fn plain(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(bytes::Bytes::from(format!("{text}\n")))));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
