//! `/config`: values, secrets and the file's health. Extensions of the configuration are in [`extensions`].
//!
//! Values of secrets never leave the daemon: what is shown of one is `****` and its last four characters.

mod extensions;

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use gander_proto::v1::{
    BackupConfigRequest, ConfigSeverity, DeleteSecretRequest, GetConfigValueRequest, GetSecretStatusRequest,
    ListCommandsRequest, ListConfigValuesRequest, RecoverConfigRequest, SecretStatus, SetConfigValueRequest,
    SetSecretRequest, UnsetConfigValueRequest, ValidateConfigRequest,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{App, error::ApiError, extract::Json};

type Answer<T = Value> = Result<Json<T>, ApiError>;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/config", get(everything))
        .route("/config/read", post(read))
        .route("/config/upsert", post(upsert))
        .route("/config/remove", post(remove))
        .route("/config/slash_commands", get(slash_commands))
        .route("/config/init", post(init))
        .route("/config/backup", post(backup))
        .route("/config/recover", post(recover))
        .route("/config/validate", get(validate))
        .merge(extensions::routes())
}

/// JSON text of the API as a value; what cannot be read (it never should be) is shown as it is.
pub(super) fn json_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

#[derive(Deserialize)]
struct KeyQuery {
    key: String,
    is_secret: bool,
}

#[derive(Deserialize)]
struct Upsert {
    key: String,
    value: Value,
    is_secret: bool,
}

async fn everything(State(app): State<App>) -> Answer {
    let values = app.client().config().list_config_values(ListConfigValuesRequest {}).await?.into_inner();
    let mut config: Map<String, Value> =
        values.values.into_iter().map(|value| (value.key, json_value(&value.value_json))).collect();
    config.insert("extensions".to_owned(), Value::Object(extensions::as_in_the_file(&app).await?));
    Ok(Json(json!({ "config": config })))
}

async fn read(State(app): State<App>, Json(query): Json<KeyQuery>) -> Answer {
    let mut client = app.client().config();
    if query.is_secret {
        let status = client.get_secret_status(GetSecretStatusRequest { key: query.key }).await?.into_inner();
        let masked = status.secret.filter(|secret| secret.present).map(|secret| masked(&secret));
        return Ok(Json(masked.map_or(Value::Null, |masked| json!({ "maskedValue": masked }))));
    }
    let value = client.get_config_value(GetConfigValueRequest { key: query.key }).await?.into_inner().value;
    Ok(Json(value.map_or(Value::Null, |value| json_value(&value.value_json))))
}

fn masked(secret: &SecretStatus) -> String {
    format!("****{}", secret.last_four)
}

/// Null and the empty secret mean "no value", which the daemon has no way to store.
async fn upsert(State(app): State<App>, Json(query): Json<Upsert>) -> Answer<String> {
    let Upsert { key, value, is_secret } = query;
    let done = format!("Upserted key {key}");
    let mut client = app.client().config();
    match (is_secret, value) {
        (true, Value::Null) => {
            client.delete_secret(DeleteSecretRequest { key, ..Default::default() }).await?;
        }
        (true, Value::String(text)) if text.is_empty() => {
            client.delete_secret(DeleteSecretRequest { key, ..Default::default() }).await?;
        }
        (true, value) => {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            client.set_secret(SetSecretRequest { key, value }).await?;
        }
        (false, Value::Null) => {
            client.unset_config_value(UnsetConfigValueRequest { key, ..Default::default() }).await?;
        }
        (false, value) => {
            let value_json = value.to_string();
            client.set_config_value(SetConfigValueRequest { key, value_json, ..Default::default() }).await?;
        }
    }
    Ok(Json(done))
}

async fn remove(State(app): State<App>, Json(query): Json<KeyQuery>) -> Answer<String> {
    let KeyQuery { key, is_secret } = query;
    let done = format!("Removed key {key}");
    let mut client = app.client().config();
    if is_secret {
        client.delete_secret(DeleteSecretRequest { key, ..Default::default() }).await?;
    } else {
        client.unset_config_value(UnsetConfigValueRequest { key, ..Default::default() }).await?;
    }
    Ok(Json(done))
}

/// Goose knows two types; what else a daemon offers acts like a builtin one.
async fn slash_commands(State(app): State<App>) -> Answer {
    let request = ListCommandsRequest { session_id: String::new() };
    let listed = app.client().sessions().list_commands(request).await?.into_inner();
    let commands: Vec<Value> = listed
        .commands
        .iter()
        .map(|command| {
            let recipe = command.kind() == gander_proto::v1::CommandKind::Recipe;
            json!({
                "command": command.name,
                "help": command.help,
                "command_type": if recipe { "Recipe" } else { "Builtin" },
            })
        })
        .collect();
    Ok(Json(json!({ "commands": commands })))
}

/// The daemon makes its files when it first writes to them.
async fn init(State(app): State<App>) -> Answer<&'static str> {
    app.client().config().list_config_values(ListConfigValuesRequest {}).await?;
    Ok(Json("The configuration is ready"))
}

async fn backup(State(app): State<App>) -> Answer<String> {
    let copy = app.client().config().backup_config(BackupConfigRequest::default()).await?.into_inner();
    if copy.file_path.is_empty() {
        return Err(ApiError::not_found("there is no configuration file yet; set a value first"));
    }
    Ok(Json(format!("Copied the configuration to {}", copy.file_path)))
}

async fn recover(State(app): State<App>) -> Answer<String> {
    let done = app.client().config().recover_config(RecoverConfigRequest::default()).await?.into_inner();
    Ok(Json(if done.malformed_file_path.is_empty() {
        "The configuration can be read; nothing to recover".to_owned()
    } else {
        let keys = done.recovered_keys.join(", ");
        format!("Recovered {keys}; the malformed file is kept as {}", done.malformed_file_path)
    }))
}

async fn validate(State(app): State<App>) -> Answer<&'static str> {
    let found = app.client().config().validate_config(ValidateConfigRequest {}).await?.into_inner();
    let errors: Vec<String> = found
        .problems
        .iter()
        .filter(|problem| problem.severity() == ConfigSeverity::Error)
        .map(|problem| match (problem.file_path.as_str(), problem.key.as_str()) {
            ("", "") => problem.message.clone(),
            ("", key) => format!("{key}: {}", problem.message),
            (path, _) => format!("{path}: {}", problem.message),
        })
        .collect();
    if errors.is_empty() {
        Ok(Json("The configuration is valid"))
    } else {
        Err(ApiError::message(StatusCode::UNPROCESSABLE_ENTITY, errors.join("\n")))
    }
}

#[cfg(test)]
mod tests;
