//! One gRPC call: panic guard, span and counters, authentication, load shedding, deadline, routes.

use std::{any::Any, panic::AssertUnwindSafe, pin::Pin, sync::Arc, sync::atomic::Ordering, time::Instant};

use futures::FutureExt as _;
use gander_proto::v1::ErrorReason;
use http::{HeaderMap, Request, Response, StatusCode};
use std::time::Duration;
use tokio::time::{Sleep, sleep_until, timeout_at};
use tonic::{Code, Status, body::Body};
use tower::ServiceExt as _;
use tracing::Instrument as _;

use crate::{
    body::{Call, CallBody},
    connection::Connection,
    front::Inner,
    status::{self, deadline_exceeded, overloaded},
};

/// What a load balancer or a waiting launcher may ask without a token.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Answers one call. `refusal` is what the layers outside decided already; it is answered in the call's own dialect.
pub(crate) async fn serve(
    inner: Arc<Inner>,
    connection: Arc<Connection>,
    request: Request<Body>,
    refusal: Option<Status>,
) -> Response<Body> {
    let index = inner.methods.index(request.uri().path());
    let method = inner.methods.all().get(index);
    let streaming = method.is_some_and(|method| method.streaming);
    let span = tracing::info_span!(
        "request",
        rpc.system = "grpc",
        rpc.service = method.map_or("", |method| &method.service),
        rpc.method = method.map_or("", |method| &method.name),
        client = header(request.headers(), "gander-client"),
    );
    inner.metrics.started(index, streaming);
    let mut call = Call {
        inner: inner.clone(),
        method: index,
        streaming,
        started: Instant::now(),
        code: None,
        span: span.clone(),
        permit: None,
    };
    let handled = async {
        match refusal {
            Some(status) => Err(status),
            None => answer(&inner, &connection, request, &mut call).await,
        }
    };
    let outcome = AssertUnwindSafe(handled).catch_unwind().instrument(span).await;
    let (response, deadline) = match outcome {
        Ok(Ok(answered)) => answered,
        Ok(Err(status)) => (status.into_http(), None),
        Err(panic) => (panicked(&inner, &*panic).into_http(), None),
    };
    call.note(response.headers());
    response.map(|body| Body::new(CallBody::new(body, deadline, call)))
}

type Answer = (Response<Body>, Option<Pin<Box<Sleep>>>);

async fn answer(
    inner: &Inner,
    connection: &Connection,
    mut request: Request<Body>,
    call: &mut Call,
) -> Result<Answer, Status> {
    let path = request.uri().path().to_owned();
    let identity = connection.authenticate(inner, request.headers(), path == HEALTH_CHECK)?;
    let (permits, what) =
        if call.streaming { (&inner.streams, "streams") } else { (&inner.unary, "unary calls") };
    let Ok(permit) = permits.clone().try_acquire_owned() else {
        inner.metrics.shed.fetch_add(1, Ordering::Relaxed);
        return Err(overloaded(what));
    };
    call.permit = Some(permit);
    let default = inner.options.limits.default_deadline.filter(|_| !call.streaming);
    let timeout = timeout_header(request.headers())?.or(default);
    let deadline = timeout.and_then(|timeout| tokio::time::Instant::now().checked_add(timeout));
    if let Some(identify) = &inner.options.identify {
        identify(request.extensions_mut(), &identity);
    }
    let routes = inner.routes.clone().oneshot(request);
    let response = match deadline {
        None => routes.await,
        Some(deadline) => timeout_at(deadline, routes).await.map_err(|_| deadline_exceeded())?,
    };
    let response = match response {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if is_unknown(&response) {
        let text = "this daemon has no such method: check GetServerInfo, or update one side";
        let shown: String = path.chars().take(200).collect();
        let reason = ErrorReason::NotImplemented;
        return Err(status::status(Code::Unimplemented, reason, text, [("feature", &shown)]));
    }
    Ok((response, deadline.map(|deadline| Box::pin(sleep_until(deadline)))))
}

/// tonic's own fallbacks answer without details, a plain router's with an HTTP status that gRPC clients misread. A
/// service that does not offer something says so with details, and is left alone.
fn is_unknown(response: &Response<Body>) -> bool {
    let headers = response.headers();
    match headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes())) {
        Some(code) => code == Code::Unimplemented && !headers.contains_key("grpc-status-details-bin"),
        None => response.status() == StatusCode::NOT_FOUND,
    }
}

/// Counts and logs a panic; the caller learns only the id.
pub(crate) fn panicked(inner: &Inner, panic: &(dyn Any + Send)) -> Status {
    inner.metrics.panics.fetch_add(1, Ordering::Relaxed);
    let id = uuid::Uuid::now_v7().to_string();
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without text");
    tracing::error!(%id, said, "a handler panicked");
    status::internal(&id)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// `grpc-timeout` as gRPC over HTTP/2 defines it: up to eight digits and a unit.
fn timeout_header(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(parse_timeout);
    parsed.map(Some).ok_or_else(|| {
        let text = "grpc-timeout must be 1 to 8 digits and one of the units H, M, S, m, u, n";
        status::status(Code::InvalidArgument, ErrorReason::InvalidField, text, [])
    })
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let valid = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| valid)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_follow_the_protocol() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("m", None),
            ("+1S", None),
            ("123456789m", None),
            ("1s", None),
            ("1é", None),
        ] {
            assert_eq!(parse_timeout(text), expected, "{text}");
        }
    }
}
