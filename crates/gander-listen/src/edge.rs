//! The first look at a request: Host, Origin and dialect. gRPC and gRPC-Web go to `grpc`, all else to the HTTP router.
//!
//! gRPC never passes through the HTTP router's fallback, so neither dialect can get the other's "not found".

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt as _;
use http::{
    Method, Request, Response, StatusCode,
    header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, ORIGIN},
};
use hyper::body::Incoming;
use tonic::{Status, body::Body};
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, ServiceExt as _};

use crate::{
    connection::{Connection, Peer},
    front::{HttpAuth, HttpRoutes, Inner},
    grpc,
    origin::{allow, host_allowed, origin_allowed, preflight},
    status::{plain, policy_denied},
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Grpc,
    GrpcWeb,
    Http,
}

fn dialect<B>(request: &Request<B>) -> Dialect {
    let content_type =
        request.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    if content_type.starts_with(b"application/grpc-web") {
        Dialect::GrpcWeb
    } else if content_type.starts_with(b"application/grpc") {
        Dialect::Grpc
    } else {
        Dialect::Http
    }
}

/// Answers one request of a connection.
pub(crate) async fn handle(
    inner: Arc<Inner>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Response<Body> {
    let host_refused = match connection.peer {
        Peer::Tcp { own, .. } => {
            !host_allowed(request.uri(), request.headers(), own, &inner.options.allowed_hosts)
        }
        _ => false,
    };
    let origin_ok = origin_allowed(request.headers(), &inner.options.allowed_origins);
    let refusal = if host_refused {
        Some(policy_denied("host", "the Host header names no loopback host: use 127.0.0.1 or localhost"))
    } else if !origin_ok {
        Some(policy_denied("origin", "this web origin may not call: add it to the allowed origins"))
    } else {
        None
    };
    match dialect(&request) {
        Dialect::Grpc => grpc::serve(inner, connection, request.map(Body::new), refusal).await,
        Dialect::GrpcWeb => web(inner, connection, request, refusal, origin_ok).await,
        Dialect::Http if host_refused => {
            plain(StatusCode::FORBIDDEN, "The Host header names no loopback host.")
        }
        Dialect::Http if is_preflight(&inner, &request) => {
            preflight(request.headers(), &inner.options.allowed_origins)
        }
        Dialect::Http => {
            let response = plain_http(&inner, &connection, request).await;
            inner.metrics.http(response.status());
            response
        }
    }
}

fn is_preflight(inner: &Inner, request: &Request<Incoming>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        && inner.methods.contains(request.uri().path())
}

async fn web(
    inner: Arc<Inner>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
    refusal: Option<Status>,
    origin_ok: bool,
) -> Response<Body> {
    let origin = request.headers().get(ORIGIN).cloned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (inner, connection, refusal) = (inner.clone(), connection.clone(), refusal.clone());
        async move { Ok::<_, Infallible>(grpc::serve(inner, connection, request, refusal).await) }
    });
    let outcome = GrpcWebLayer::new().layer(service).oneshot(request).await;
    let mut response = match outcome {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if origin_ok {
        allow(response.headers_mut(), origin.as_ref());
    }
    response
}

async fn plain_http(inner: &Inner, connection: &Connection, request: Request<Incoming>) -> Response<Body> {
    let Some(routes) = &inner.http else {
        return plain(StatusCode::NOT_FOUND, "This port speaks gRPC (HTTP/2) and gRPC-Web; see gander.v1.");
    };
    let mut request = request.map(axum::body::Body::new);
    let identity = match identify(inner, routes, connection, &request) {
        Ok(identity) => identity,
        Err(response) => return *response,
    };
    if let Some(identify) = &inner.options.identify {
        identify(request.extensions_mut(), &identity);
    }
    let routed = AssertUnwindSafe(routes.router.clone().oneshot(request)).catch_unwind().await;
    match routed {
        Ok(Ok(response)) => response.map(Body::new),
        Ok(Err(never)) => match never {},
        Err(panic) => {
            let status = grpc::panicked(inner, &*panic);
            plain(StatusCode::INTERNAL_SERVER_ERROR, status.message())
        }
    }
}

fn identify<B>(
    inner: &Inner,
    routes: &HttpRoutes,
    connection: &Connection,
    request: &Request<B>,
) -> Result<crate::PeerIdentity, Box<Response<Body>>> {
    let refused = |status: Status| match status.code() {
        tonic::Code::Unauthenticated => Box::new(plain(StatusCode::UNAUTHORIZED, status.message())),
        _ => Box::new(plain(StatusCode::FORBIDDEN, status.message())),
    };
    let open = match &routes.auth {
        HttpAuth::Router => true,
        HttpAuth::Listener { public } => public.iter().any(|path| path == request.uri().path()),
    };
    connection.authenticate_http(inner, request.headers(), open).map_err(refused)
}
