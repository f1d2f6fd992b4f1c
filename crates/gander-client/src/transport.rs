//! The service under all generated clients: metadata, deadlines, repetition of repeatable unary calls, pool.
//!
//! Order of one call: stamp metadata → fix the deadline → try (at most three times, inside the deadline) → wrap the
//! response body, which keeps the stream counted and the deadline enforced until its end. Streams are never repeated
//! here: only `watch` knows from where.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt as _};

use crate::{
    ClientError, LocalService,
    methods::{self, Method},
    pool::{Pool, StreamGuard},
};

const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Attempts of one repeatable call, the first included.
const ATTEMPTS: u32 = 3;
/// Pause before the second attempt; doubled for the third.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What carries requests to the daemon.
pub(crate) enum Wire {
    Local(LocalService),
    Pool(Box<Pool>),
}

pub(crate) struct Shared {
    pub(crate) wire: Wire,
    pub(crate) client: HeaderValue,
    pub(crate) protocol: Option<HeaderValue>,
    pub(crate) authorization: Option<HeaderValue>,
    /// Deadline of unary calls that bring none.
    pub(crate) unary: Duration,
}

/// The service that the generated clients call. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Transport {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transport")
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { shared.call(request).await })
    }
}

impl Shared {
    async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let method = methods::lookup(request.uri().path());
        self.stamp(request.headers_mut());
        let limit = match request.headers().get(GRPC_TIMEOUT).and_then(parse_timeout) {
            Some(timeout) => Some(timeout),
            None => method.filter(|method| !method.streaming).map(|_| self.unary),
        };
        let deadline = limit.map(|limit| Instant::now() + limit);
        match method {
            Some(Method { streaming: false, repeatable: true }) => self.repeat(request, deadline).await,
            _ => self.attempt(request, deadline).await,
        }
    }

    fn stamp(&self, headers: &mut HeaderMap) {
        headers.insert("gander-client", self.client.clone());
        if let Some(protocol) = &self.protocol {
            headers.insert("gander-protocol", protocol.clone());
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
    }

    async fn repeat(
        &self,
        request: Request<Body>,
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let request = Request::from_parts(parts.clone(), Body::new(Full::new(bytes.clone())));
            let outcome = self.attempt(request, deadline).await;
            let Some(error) = temporary(&outcome) else { return outcome };
            let wait = error.retry_after.unwrap_or_else(|| jitter(pause));
            let too_late = deadline.is_some_and(|deadline| Instant::now() + wait >= deadline);
            if attempt >= ATTEMPTS || too_late {
                return outcome;
            }
            tracing::debug!(path = parts.uri.path(), attempt, reason = %error.reason, "call is repeated");
            sleep(wait).await;
            pause *= 2;
        }
        Err(Status::internal("no attempt was made"))
    }

    async fn attempt(
        &self,
        mut request: Request<Body>,
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, Status> {
        let Some(deadline) = deadline else { return self.send(request, None).await };
        let left = deadline.saturating_duration_since(Instant::now());
        request.headers_mut().insert(GRPC_TIMEOUT, format_timeout(left));
        let outcome = timeout_at(deadline, self.send(request, Some(deadline))).await;
        match outcome {
            Ok(Ok(response)) => Ok(response),
            // The channel watches the same header and may be a moment faster, with another code.
            Ok(Err(status)) if Instant::now() < deadline || status.code() == Code::DeadlineExceeded => {
                Err(status)
            }
            _ => Err(expired()),
        }
    }

    async fn send(
        &self,
        request: Request<Body>,
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, Status> {
        let (response, guard) = match &self.wire {
            Wire::Local(service) => {
                let response = service.clone().oneshot(request).await.map_err(Status::from_error)?;
                (response, None)
            }
            Wire::Pool(pool) => {
                let (channel, guard) = pool.checkout();
                let response =
                    channel.oneshot(request).await.map_err(|error| Status::from_error(Box::new(error)))?;
                (response, Some(guard))
            }
        };
        if guard.is_none() && deadline.is_none() {
            return Ok(response);
        }
        Ok(response.map(|body| {
            let sleep = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
            Body::new(Guarded { body, sleep, ended: false, _guard: guard })
        }))
    }
}

/// The error of an outcome that may be tried again. A unary error arrives as headers without a body.
fn temporary(outcome: &Result<Response<Body>, Status>) -> Option<ClientError> {
    let status = match outcome {
        Ok(response) => {
            let code = response.headers().get("grpc-status")?;
            if Code::from_bytes(code.as_bytes()) != Code::Unavailable {
                return None;
            }
            Status::from_header_map(response.headers())?
        }
        Err(status) => status.clone(),
    };
    let error = ClientError::from(status);
    error.is_temporary().then_some(error)
}

/// Between half and all of `pause`, so that clients of a daemon that comes back do not come in step.
pub(crate) fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

fn expired() -> Status {
    Status::deadline_exceeded("the daemon did not answer within the call's deadline")
}

/// Parses the header as gRPC over HTTP/2 defines it: up to eight digits and a unit.
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
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

/// The opposite: the finest unit that fits into eight digits.
fn format_timeout(left: Duration) -> HeaderValue {
    let text = match left.as_millis() {
        0..100_000 => format!("{}u", left.as_micros().min(99_999_999)),
        millis @ 100_000..100_000_000 => format!("{millis}m"),
        _ => format!("{}S", left.as_secs().min(99_999_999)),
    };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("99999999S"))
}

pin_project! {
    /// A response body that ends with the call's deadline and counts as an open stream until it is dropped.
    struct Guarded {
        #[pin]
        body: Body,
        sleep: Option<Pin<Box<Sleep>>>,
        ended: bool,
        _guard: Option<StreamGuard>,
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if let Some(sleep) = this.sleep {
            ready!(sleep.as_mut().poll(cx));
            *this.ended = true;
            return Poll::Ready(Some(Err(expired())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_written_as_they_are_read() {
        for (left, text) in [
            (Duration::from_micros(7), "7u"),
            (Duration::from_secs(60), "60000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
        ] {
            let value = format_timeout(left);
            assert_eq!(value.to_str().unwrap(), text);
            assert_eq!(parse_timeout(&value), Some(left));
        }
        for text in ["", "S", "1", "123456789S", "1x", "-1S", "１S"] {
            assert_eq!(HeaderValue::from_str(text).ok().as_ref().and_then(parse_timeout), None, "{text}");
        }
    }
}
