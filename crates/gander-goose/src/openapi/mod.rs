//! The OpenAPI document of the surface: made from a table of operations, committed as `openapi.json`, served as
//! `GET /openapi.json`.
//!
//! It says what this adapter does, which is not in all places what Goose's own document says of Goose. Tests hold it
//! against the routes, against every answer of the other tests, and against Goose 1.24's shapes.

#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
mod operation;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod schemas;
#[cfg(test)]
mod tests;

use axum::{Router, http::header, response::IntoResponse, routing::get};

use crate::App;

/// The committed document.
const DOCUMENT: &str = include_str!("../../openapi.json");

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/openapi.json", get(serve))
}

async fn serve() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

/// The document, made anew.
#[cfg(test)]
fn document() -> serde_json::Value {
    use serde_json::json;

    let mut paths = serde_json::Map::new();
    for operation in operations::all() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = operation.document();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "gander: Goose's REST and SSE surface",
            "description": "Made from the adapter. The canonical API is gander.v1 over gRPC.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "securitySchemes": { "secret": { "type": "apiKey", "in": "header", "name": "X-Secret-Key" } },
        },
        "security": [{ "secret": [] }],
    })
}
