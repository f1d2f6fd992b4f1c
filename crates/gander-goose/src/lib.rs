//! Goose's REST and SSE surface over the canonical API.
//!
//! [`router`] turns an [`App`] into an `axum::Router` that speaks what Goose Desktop speaks to its own server. Every
//! operation is a translation into calls of [`gander_client::Client`]; the only things kept here are what a connection
//! itself needs (which frames were sent, which turn a stream started).
//!
//! This crate must not know the engine, the store or the configuration files, and must not read the environment:
//! whatever it can do, a client in another language can do.

pub mod app;
mod auth;
mod chat;
mod cors;
mod error;
mod extract;
mod follow;
mod openapi;
mod routes;
mod session;
mod sse;
#[cfg(test)]
mod testing;
mod turns;

pub use app::{App, Options};

/// What the client of an [`App`] must give as its protocol: events tell by it who cancelled a turn or said something.
pub const PROTOCOL: &str = "rest";

/// The whole surface: routes, authentication and cross-origin headers.
pub fn router(app: App) -> axum::Router {
    routes::all()
        .layer(axum::middleware::from_fn_with_state(app.clone(), auth::require_secret))
        .layer(axum::middleware::from_fn(cors::allow_any_origin))
        .with_state(app)
}
