//! `GET /status` and `GET /features`: open to everyone, and saying nothing that not everyone may know.

use axum::{Router, routing::get};
use serde_json::{Value, json};

use crate::{App, extract::Json};

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/status", get(status)).route("/features", get(features))
}

/// Served as soon as the listener is up, which is after the daemon was reached.
async fn status() -> &'static str {
    "ok"
}

/// The parts that Goose may be built without. Windows hide what is missing.
async fn features() -> Json<Value> {
    Json(json!({ "features": { "local-inference": false, "code-mode": false } }))
}
