//! Goose's own methods, as far as they are one call of the canonical API each. Everything else is unknown.
//!
//! Clients made for Goose send them under `_goose/unstable/`, older ones under `_goose/`.

mod config;
mod custom;
mod extension;
mod interactions;
pub(super) mod meta;
mod prompts;
mod providers;
mod search;
mod sessions;
mod transfer;

use std::sync::Arc;

use gander_client::ClientError;
use serde_json::Value;

use super::{Inner, dispatch::Outcome};
use crate::rpc::RpcError;

impl Inner {
    pub(super) async fn goose(self: &Arc<Self>, id: &Value, method: &str, params: &Value) -> Outcome {
        match method {
            "session/info" | "session/get" => self.goose_info(params).await,
            "session/rename" => self.set_title(params).await.map(|_| done()),
            "session/archive" => self.archive(params, true).await,
            "session/unarchive" => self.archive(params, false).await,
            "session/list" => self.list_sessions(params).await,
            "session/delete" => self.delete_session(params).await,
            "session/working-dir/update" | "working_dir/update" => self.goose_working_dir(params).await,
            "session/project/update" => self.goose_project(params).await,
            "session/system-prompt/set" => self.goose_system_prompt(params).await,
            "session/steer" => self.goose_steer(params).await,
            "session/export" => self.goose_export(params).await,
            "session/import" => self.goose_import(params).await,
            "elicitation/respond" => self.goose_respond(params).await,
            "session/extensions/list" => self.goose_session_extensions(params).await,
            "session/extensions/add" | "extensions/add" => self.goose_add_extension(params).await,
            "session/extensions/remove" | "extensions/remove" => self.goose_remove_extension(params).await,
            "tools/list" | "tools" => self.goose_tools(params).await,
            "tools/call" => self.goose_call(params).await,
            "resources/read" | "resource/read" => self.goose_resource(params).await,
            "config/extensions/list" | "config/extensions" => self.goose_configured().await,
            "config/extensions/add" => self.goose_configure(params).await,
            "config/extensions/remove" => self.goose_unconfigure(params).await,
            "config/extensions/set-enabled" => self.goose_enable(params).await,
            "extensions/available" => self.goose_available().await,
            "config/read" => self.goose_config_read(params).await,
            "config/read-all" => self.goose_config_all().await,
            "config/upsert" => self.goose_config_write(params).await,
            "config/prompts/list" => self.goose_prompts().await,
            "config/prompts/get" => self.goose_prompt(params).await,
            "config/prompts/save" => self.goose_save_prompt(params).await,
            "config/prompts/reset" => self.goose_reset_prompt(params).await,
            "config/remove" => self.goose_config_remove(params).await,
            "preferences/read" => self.goose_preferences(params).await,
            "preferences/save" => self.goose_save_preferences(params).await,
            "preferences/remove" => self.goose_remove_preferences(params).await,
            "defaults/read" => self.goose_defaults().await,
            "defaults/clear" => self.goose_clear_defaults().await,
            "defaults/save" => self.goose_save_defaults(params).await,
            "providers/config/status" => self.goose_provider_status(params).await,
            "providers/config/read" => self.goose_provider_config(params).await,
            "providers/config/save" => self.goose_save_provider(params).await,
            "providers/config/authenticate" => self.goose_sign_in(id, params).await,
            "providers/config/delete" => self.goose_forget_provider(params).await,
            "providers/custom/create" => self.goose_create_provider(params).await,
            "providers/custom/read" => self.goose_read_provider(params).await,
            "providers/custom/update" => self.goose_update_provider(params).await,
            "providers/custom/delete" => self.goose_delete_provider(params).await,
            "providers/readiness/check" => self.goose_readiness(params).await,
            "providers/list" => self.goose_providers(params).await,
            "providers/supported-models/list" => self.goose_models(params).await,
            "providers/inventory/refresh" => self.goose_refresh(params),
            other => Err(RpcError::unknown_method(&format!("_goose/unstable/{other}"))),
        }
    }
}

fn done() -> super::dispatch::Handled {
    super::dispatch::Handled::Reply(serde_json::json!({}))
}

/// An error about a session.
fn about(session_id: &str) -> impl Fn(tonic::Status) -> RpcError {
    move |status| RpcError::of(&ClientError::from(status), Some(session_id))
}

/// A text parameter under one of its names, in camel or snake case.
fn text<'a>(params: &'a Value, names: &[&str]) -> Result<&'a str, RpcError> {
    let found = names.iter().find_map(|name| params.get(*name)?.as_str());
    found.ok_or_else(|| RpcError::params(format!("{} must be a text", names.first().unwrap_or(&"it"))))
}

/// A JSON text of the daemon's.
fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}
