//! Who may connect: the secret in constant time, and which web pages.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, AUTHORIZATION, ORIGIN, UPGRADE, VARY,
        },
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use super::App;

const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "content-type,accept,authorization,x-secret-key,acp-connection-id,acp-session-id,acp-protocol-version",
);
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static("acp-connection-id");

/// Lets a request pass, or answers it.
pub(super) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let options = &app.inner.options;
    let origin = request.headers().get(ORIGIN).cloned();
    if !origin_allowed(origin.as_ref(), &options.allowed_origins) {
        return refuse(StatusCode::FORBIDDEN, "this web origin may not connect");
    }
    // A browser asks before it sends the secret.
    let asking = request.method() == Method::OPTIONS;
    if !asking && !has_secret(request.headers(), request.uri().query(), &options.secret) {
        let mut response = refuse(StatusCode::UNAUTHORIZED, "the secret is missing or wrong");
        let challenge = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, challenge);
        allow(&mut response, origin);
        return response;
    }
    let mut response = next.run(request).await;
    if asking && origin.is_some() {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
    }
    allow(&mut response, origin);
    response
}

fn allow(response: &mut Response, origin: Option<HeaderValue>) {
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

pub(super) fn refuse(status: StatusCode, text: &'static str) -> Response {
    (status, text).into_response()
}

fn has_secret(headers: &HeaderMap, query: Option<&str>, secret: &SecretString) -> bool {
    let same = |given: &str| bool::from(given.as_bytes().ct_eq(secret.expose_secret().as_bytes()));
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    if bearer.is_some_and(same) || header("x-secret-key").is_some_and(same) {
        return true;
    }
    // A browser cannot give a WebSocket headers. Elsewhere a secret in an address would end up in logs.
    let socket = headers.contains_key(UPGRADE);
    let given = query.filter(|_| socket).map(|query| url::form_urlencoded::parse(query.as_bytes()));
    given.into_iter().flatten().any(|(name, value)| name == "token" && same(&value))
}

/// Programs send no origin; pages do.
fn origin_allowed(origin: Option<&HeaderValue>, extra: &[String]) -> bool {
    let Some(origin) = origin else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    if origin == "null" || origin.starts_with("file://") || extra.iter().any(|extra| extra == origin) {
        return true;
    }
    let Ok(url) = url::Url::parse(origin) else { return false };
    let loopback = |host: &str| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let allowed = |origin: &str| {
            origin_allowed(
                Some(&HeaderValue::from_str(origin).expect("a header")),
                &["https://ide.example".into()],
            )
        };
        for good in [
            "null",
            "file://",
            "http://localhost:5173",
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "https://ide.example",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "https://evil.example",
            "http://localhost.evil.example",
            "ftp://localhost",
            "http://127.0.0.1.evil.example",
            "",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
        assert!(origin_allowed(None, &[]));
    }

    #[test]
    fn the_secret_comes_in_a_header_or_in_the_address_of_a_socket() {
        let secret = SecretString::from("s3cret");
        let with = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(
                axum::http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )])
        };
        assert!(has_secret(&with("authorization", "Bearer s3cret"), None, &secret));
        assert!(has_secret(&with("authorization", "bearer s3cret"), None, &secret));
        assert!(has_secret(&with("x-secret-key", "s3cret"), None, &secret));
        assert!(has_secret(&with("upgrade", "websocket"), Some("a=1&token=s3cret"), &secret));
        assert!(!has_secret(&HeaderMap::new(), Some("token=s3cret"), &secret));
        assert!(!has_secret(&with("authorization", "Basic s3cret"), None, &secret));
        assert!(!has_secret(&with("x-secret-key", "s3cre"), None, &secret));
        assert!(!has_secret(&with("upgrade", "websocket"), Some("token=other"), &secret));
        assert!(!has_secret(&HeaderMap::new(), None, &secret));
    }
}
