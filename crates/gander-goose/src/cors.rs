//! Cross-origin headers, on every response and without authentication, as Goose sends them.
//!
//! Any origin is allowed: windows of Goose Desktop have the origin `file://`, `null` or a development server. What
//! protects the surface is the secret, which no other origin knows and which is never a cookie.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

const ANY: HeaderValue = HeaderValue::from_static("*");
const VARY: HeaderValue =
    HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers");

pub(crate) async fn allow_any_origin(request: Request, next: Next) -> Response {
    let preflight = request.method() == Method::OPTIONS;
    let mut response = if preflight { StatusCode::OK.into_response() } else { next.run(request).await };
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    headers.append(header::VARY, VARY);
    if preflight {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, ANY);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ANY);
    } else {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANY);
    }
    response
}
