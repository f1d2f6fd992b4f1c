//! `/mcp-app-guest`: an app's page under an address of its own, for hosts that cannot put it into a frame as text.
//!
//! `POST` keeps a page under a number that nobody can guess, `GET` gives it out once. Pages wait in memory only, few
//! and not for long. Their policy takes their origin away, however they are framed.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{check, page, policy};
use crate::{
    App,
    error::ApiError,
    extract::{Json, Query},
};

/// Longest time between the two requests.
const KEPT: Duration = Duration::from_secs(300);
/// Most pages that wait; the oldest goes first.
const MOST: usize = 64;
/// Added to every policy: scripts and forms, but no origin.
const SANDBOX: &str = "sandbox allow-scripts allow-forms";

#[derive(Debug)]
struct Guest {
    nonce: String,
    html: String,
    policy: String,
    since: Instant,
}

#[derive(Clone, Debug, Default)]
struct Guests(Arc<Mutex<VecDeque<Guest>>>);

impl Guests {
    fn keep(&self, html: String, policy: String) -> String {
        let nonce = format!("{:032x}", rand::random::<u128>());
        let guest = Guest { nonce: nonce.clone(), html, policy, since: Instant::now() };
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guests.retain(|guest| guest.since.elapsed() < KEPT);
        if guests.len() >= MOST {
            guests.pop_front();
        }
        guests.push_back(guest);
        nonce
    }

    fn take(&self, nonce: &str) -> Option<Guest> {
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = guests.iter().position(|guest| guest.nonce == nonce)?;
        guests.remove(at).filter(|guest| guest.since.elapsed() < KEPT)
    }
}

pub(super) fn routes() -> Router<App> {
    let guests = Guests::default();
    let (kept, given) = (guests.clone(), guests);
    let store = move |State(app): State<App>, body: Json<Store>| async move { keep(&app, &kept, body.0) };
    let serve = move |query: Query<Serve>| async move { give(&given, &query.0) };
    Router::new().route("/mcp-app-guest", post(store)).route("/mcp-app-guest", get(serve))
}

#[derive(Deserialize)]
struct Store {
    #[serde(default)]
    secret: Option<String>,
    html: String,
    /// A policy that its proxy computed. Absent: nothing but the page itself.
    #[serde(default)]
    csp: Option<String>,
}

#[derive(Deserialize)]
struct Serve {
    nonce: String,
}

fn keep(app: &App, guests: &Guests, store: Store) -> Result<Json<Value>, ApiError> {
    check(app, store.secret.as_deref())?;
    let policy = match store.csp.filter(|csp| !csp.trim().is_empty()) {
        // What is no header's text cannot be a policy; without one the page would be free.
        Some(csp) if csp.chars().any(char::is_control) => {
            return Err(ApiError::bad_request("csp: must be one line of text"));
        }
        Some(csp) => csp,
        None => policy::of(&policy::Domains::default()),
    };
    let nonce = guests.keep(store.html, format!("{policy}; {SANDBOX}"));
    Ok(Json(json!({ "nonce": nonce })))
}

fn give(guests: &Guests, serve: &Serve) -> Result<Response, ApiError> {
    let guest = guests.take(&serve.nonce).ok_or_else(|| {
        ApiError::text(StatusCode::NOT_FOUND, "There is no such page, or it was shown already")
    })?;
    Ok(page(guest.html, &guest.policy))
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        body::{Body, to_bytes},
        http::{HeaderMap, Request},
    };
    use tower::ServiceExt as _;

    use super::*;
    use crate::testing::{Daemon, SECRET};

    async fn ask(router: &Router, request: Request<Body>) -> (u16, HeaderMap, String) {
        let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    fn store(body: &Value) -> Request<Body> {
        Request::post("/mcp-app-guest")
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap()
    }

    fn serve(nonce: &str) -> Request<Body> {
        Request::get(format!("/mcp-app-guest?nonce={nonce}")).body(Body::empty()).unwrap()
    }

    async fn stored(router: &Router, body: &Value) -> String {
        let (status, _, text) = ask(router, store(body)).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["nonce"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_page_is_shown_once_and_has_no_origin() {
        let router = Daemon::new().router().await;
        let nonce = stored(&router, &json!({"secret": SECRET, "html": "<p>x</p>"})).await;
        let (status, headers, text) = ask(&router, serve(&nonce)).await;
        assert_eq!((status, text.as_str()), (200, "<p>x</p>"));
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.ends_with(SANDBOX), "{policy}");
        assert_eq!(ask(&router, serve(&nonce)).await.0, 404);
        assert_eq!(ask(&router, serve("guess")).await.0, 404);
    }

    #[tokio::test]
    async fn its_own_policy_is_kept() {
        let router = Daemon::new().router().await;
        let body = json!({"secret": SECRET, "html": "", "csp": "default-src https://a.com"});
        let nonce = stored(&router, &body).await;
        let (_, headers, _) = ask(&router, serve(&nonce)).await;
        assert_eq!(headers["content-security-policy"], format!("default-src https://a.com; {SANDBOX}"));
        let body = json!({"secret": SECRET, "html": "", "csp": "a\nb"});
        assert_eq!(ask(&router, store(&body)).await.0, 400);
    }

    #[tokio::test]
    async fn only_who_knows_the_secret_may_leave_a_page() {
        let router = Daemon::new().router().await;
        for body in [json!({"html": ""}), json!({"secret": "wrong", "html": ""})] {
            let (status, _, text) = ask(&router, store(&body)).await;
            assert_eq!((status, text.as_str()), (401, "Unauthorized"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_few_and_do_not_wait_for_long() {
        let guests = Guests::default();
        let first = guests.keep(String::new(), String::new());
        let second = guests.keep(String::new(), String::new());
        for _ in 1..MOST {
            guests.keep(String::new(), String::new());
        }
        assert!(guests.take(&first).is_none());
        assert!(guests.take(&second).is_some());
        let third = guests.keep(String::new(), String::new());
        tokio::time::advance(KEPT).await;
        assert!(guests.take(&third).is_none());
    }
}
