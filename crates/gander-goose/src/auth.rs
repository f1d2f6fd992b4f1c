//! `X-Secret-Key`, in front of every route and of the answer for unknown paths.
//!
//! A wrong or missing key is 401 with an empty body. The comparison takes the same time wherever the key differs.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use secrecy::ExposeSecret as _;
use subtle::ConstantTimeEq as _;

use crate::App;

/// Answered without the header, by exact path. The pages check a `secret` of their own in the query.
const OPEN: &[&str] = &["/status", "/features", "/mcp-ui-proxy", "/mcp-app-proxy", "/mcp-app-guest"];

pub(crate) async fn require_secret(State(app): State<App>, request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let mut keys = request.headers().get_all("x-secret-key").iter();
    let known = match (keys.next(), keys.next()) {
        (Some(key), None) => is_secret(&app, key.as_bytes()),
        _ => false,
    };
    if known { next.run(request).await } else { StatusCode::UNAUTHORIZED.into_response() }
}

/// Whether this is the secret. Constant time but for the length. An empty secret is none: it opens nothing.
pub(crate) fn is_secret(app: &App, candidate: &[u8]) -> bool {
    let secret = app.options().secret.expose_secret().as_bytes();
    !secret.is_empty() && bool::from(secret.ct_eq(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, testing::Daemon};

    #[tokio::test]
    async fn no_secret_opens_nothing() {
        let client = Daemon::new().client().await;
        let open = App::new(client.clone(), Options::new("".into()));
        assert!(!is_secret(&open, b"") && !is_secret(&open, b"x"));
        let closed = App::new(client, Options::new("right".into()));
        assert!(is_secret(&closed, b"right") && !is_secret(&closed, b"") && !is_secret(&closed, b"wrong"));
    }
}
