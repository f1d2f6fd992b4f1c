//! The pages in which Goose Desktop shows what extensions draw: `/mcp-ui-proxy`, `/mcp-app-proxy`, `/mcp-app-guest`.
//!
//! A frame cannot send `X-Secret-Key`, so the pages take the secret in their query. What an extension draws is put into
//! a frame of its own without an origin: it can neither read the page's address, which holds the secret, nor reach the
//! page of another extension. The pages relay messages and nothing else.

mod guest;
mod policy;

use std::sync::LazyLock;

use axum::{
    Router,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;

use crate::{App, auth::is_secret, error::ApiError, extract::Query};

const UI_PAGE: &str = include_str!("mcp_ui.html");
const APP_PAGE: &str = include_str!("mcp_app.html");
/// Where a page's policy goes.
const POLICY: &str = "{{policy}}";

/// Drawings of MCP-UI may load anything: they have no origin, and their policy is all that older extensions know.
const UI_POLICY: &str = "default-src * data: blob:; script-src * 'unsafe-inline' 'unsafe-eval' data: blob:; \
                         style-src * 'unsafe-inline' data:; object-src 'none'; base-uri 'none'";

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/mcp-ui-proxy", get(ui))
        .route("/mcp-app-proxy", get(app_page))
        .merge(guest::routes())
}

#[derive(Deserialize)]
struct Secret {
    secret: Option<String>,
}

/// 401 for a missing secret as well as for a wrong one, in words that a person who opened the page can read.
fn check(app: &App, secret: Option<&str>) -> Result<(), ApiError> {
    if secret.is_some_and(|secret| is_secret(app, secret.as_bytes())) {
        Ok(())
    } else {
        Err(ApiError::text(StatusCode::UNAUTHORIZED, "Unauthorized"))
    }
}

fn page(html: String, policy: &str) -> Response {
    const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
    let policy = HeaderValue::from_str(policy).ok();
    let headers: [(HeaderName, Option<HeaderValue>); 5] = [
        (header::CONTENT_TYPE, Some(HTML)),
        (header::REFERRER_POLICY, Some(HeaderValue::from_static("no-referrer"))),
        (header::CACHE_CONTROL, Some(HeaderValue::from_static("no-store"))),
        (header::X_CONTENT_TYPE_OPTIONS, Some(HeaderValue::from_static("nosniff"))),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    let mut response = html.into_response();
    for (name, value) in headers {
        if let Some(value) = value {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The extractor would answer a query that it cannot read with 400; what is wrong then is the secret.
async fn ui(State(app): State<App>, query: Result<Query<Secret>, ApiError>) -> Result<Response, ApiError> {
    static HTML: LazyLock<String> = LazyLock::new(|| UI_PAGE.replace(POLICY, UI_POLICY));
    let secret = query.ok().and_then(|Query(query)| query.secret);
    check(&app, secret.as_deref())?;
    Ok(page(HTML.clone(), UI_POLICY))
}

#[derive(Default, Deserialize)]
struct AppQuery {
    secret: Option<String>,
    #[serde(flatten)]
    domains: policy::Domains,
}

async fn app_page(
    State(app): State<App>,
    query: Result<Query<AppQuery>, ApiError>,
) -> Result<Response, ApiError> {
    let query = query.map(|Query(query)| query).unwrap_or_default();
    check(&app, query.secret.as_deref())?;
    let policy = policy::of(&query.domains);
    Ok(page(APP_PAGE.replace(POLICY, &policy), &policy))
}

#[cfg(test)]
mod tests;
