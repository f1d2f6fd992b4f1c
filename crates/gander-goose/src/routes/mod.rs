//! The routes, one module per family.

mod agent;
mod config;
mod misc;
mod permissions;
mod prompts;
mod providers;
mod proxy;
mod recipes;
mod reply;
mod schedules;
mod session_events;
mod sessions;
mod status;
mod tools;

use axum::{Router, http::StatusCode};

use crate::App;

/// All routes. Unknown paths are 404 with an empty body.
pub(crate) fn all() -> Router<App> {
    Router::new()
        .merge(status::routes())
        .merge(config::routes())
        .merge(providers::routes())
        .merge(permissions::routes())
        .merge(prompts::routes())
        .merge(recipes::routes())
        .merge(schedules::routes())
        .merge(proxy::routes())
        .merge(misc::routes())
        .merge(crate::openapi::routes())
        .merge(agent::routes())
        .merge(tools::routes())
        .merge(reply::routes())
        .merge(sessions::routes())
        .merge(session_events::routes())
        .fallback(async || StatusCode::NOT_FOUND)
}
