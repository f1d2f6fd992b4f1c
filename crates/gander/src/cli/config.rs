//! `gander config`: values and secrets. A secret can be set and removed, never read.

use gander_client::Transport;
use gander_config::{environment::parse_value, is_secret_name};
use gander_proto::v1::{
    ConfigOrigin, ConfigValue, DeleteSecretRequest, GetConfigValueRequest, GetSecretStatusRequest,
    ListConfigValuesRequest, ListSecretStatusesRequest, SecretOrigin, SecretStatus, SetConfigValueRequest,
    SetSecretRequest, UnsetConfigValueRequest, config_service_client::ConfigServiceClient,
};
use serde_json::{Value, json};

use super::{
    args::ConfigCommand,
    connect::{Connected, Context, Embed},
    error::{CliError, CliResult, exit},
    json,
    output::{Tint, clean, paint, table},
    terminal,
};

/// The setting that chooses where secrets are; a change moves them.
const SECRET_STORE_KEY: &str = "gander.secret_store";

pub(super) async fn config(context: &Context, command: ConfigCommand) -> CliResult<u8> {
    // A secret is asked for before anything else happens, so that an empty one changes nothing.
    let command = match command {
        ConfigCommand::Set { key, value, secret } if secret || is_secret_name(&key) => {
            if !secret {
                context.out.note(&format!("{key} is stored with the secrets"));
            }
            let value = secret_value(context, &key, value)?;
            ConfigCommand::Set { key, value: Some(value), secret: true }
        }
        other => other,
    };
    let connected = context.connect(Embed::Allowed).await?;
    let result = Box::pin(apply(context, &connected, command)).await;
    connected.close().await;
    result.map(|()| exit::OK)
}

async fn apply(context: &Context, connected: &Connected, command: ConfigCommand) -> CliResult<()> {
    let mut service = connected.client.config();
    match command {
        ConfigCommand::Get { key } if is_secret_name(&key) => {
            let request = GetSecretStatusRequest { key: key.clone() };
            let secret = service.get_secret_status(request).await?.into_inner().secret.unwrap_or_default();
            if !secret.present {
                return Err(not_set(&key));
            }
            context.out.line(&secret_words(&secret))
        }
        ConfigCommand::Get { key } => {
            let request = GetConfigValueRequest { key: key.clone() };
            match service.get_config_value(request).await?.into_inner().value {
                Some(value) => context.out.line(&plain(&value.value_json)),
                None => Err(not_set(&key)),
            }
        }
        ConfigCommand::Set { key, value, secret: true } => {
            let request = SetSecretRequest { key: key.clone(), value: value.unwrap_or_default() };
            let stored = service.set_secret(request).await?.into_inner().secret.unwrap_or_default();
            context.out.note(&format!("{key} is stored"));
            if stored.origin() == SecretOrigin::Environment {
                context.out.note(&format!("but the environment variable {key} wins over it"));
            }
            Ok(())
        }
        ConfigCommand::Set { key, value, secret: false } => {
            let value = value.ok_or_else(|| {
                CliError::usage("there is no value").remedy(format!("write gander config set {key} VALUE"))
            })?;
            let wanted = parse_value(&value);
            let request = SetConfigValueRequest {
                key: key.clone(),
                value_json: wanted.to_string(),
                idempotency_key: String::new(),
            };
            let now = service.set_config_value(request).await?.into_inner().value.unwrap_or_default();
            if now.origin() != ConfigOrigin::User {
                let text = format!(
                    "stored, but the value from {} wins: {}",
                    origin(now.origin()),
                    plain(&now.value_json)
                );
                context.out.note(&text);
            }
            if key == SECRET_STORE_KEY { tell_store(context, &mut service).await } else { Ok(()) }
        }
        ConfigCommand::Unset { key, secret } if secret || is_secret_name(&key) => {
            let request = DeleteSecretRequest { key: key.clone(), idempotency_key: String::new() };
            let left = service.delete_secret(request).await?.into_inner().secret.unwrap_or_default();
            if left.present {
                context.out.note(&format!("removed, but it still has a value: {}", secret_words(&left)));
            }
            Ok(())
        }
        ConfigCommand::Unset { key, .. } => {
            let request = UnsetConfigValueRequest { key: key.clone(), idempotency_key: String::new() };
            if let Some(left) = service.unset_config_value(request).await?.into_inner().value {
                let text = format!("now {} from {}", plain(&left.value_json), origin(left.origin()));
                context.out.note(&text);
            }
            if key == SECRET_STORE_KEY { tell_store(context, &mut service).await } else { Ok(()) }
        }
        ConfigCommand::Show { origin, json } => {
            let values = service.list_config_values(ListConfigValuesRequest {}).await?.into_inner().values;
            let secrets =
                service.list_secret_statuses(ListSecretStatusesRequest {}).await?.into_inner().secrets;
            show(context, &values, &secrets, origin, json.json)
        }
    }
}

/// Says where the secrets are after they may have been moved.
async fn tell_store(context: &Context, service: &mut ConfigServiceClient<Transport>) -> CliResult<()> {
    let secrets = service.list_secret_statuses(ListSecretStatusesRequest {}).await?.into_inner().secrets;
    let count = |origin: SecretOrigin| {
        secrets.iter().filter(|secret| secret.present && secret.origin() == origin).count()
    };
    let (in_keyring, in_file) = (count(SecretOrigin::Keyring), count(SecretOrigin::File));
    context.out.note(&if in_keyring > 0 {
        format!("secrets in the keyring: {in_keyring}, in the file: {in_file}")
    } else {
        format!(
            "secrets in the file: {in_file}; what Goose keeps in the keyring, and all of a keyring that cannot be reached, \
             stays there"
        )
    });
    Ok(())
}

pub(super) fn secret_value(context: &Context, key: &str, value: Option<String>) -> CliResult<String> {
    let value = match value {
        Some(value) => value,
        None => {
            if context.out.stdin_is_terminal {
                let prompt = format!("{key} (is not shown): ");
                context.out.chrome(&paint(context.out.stderr_color, Tint::Bold, &prompt));
            }
            let value = terminal::read_secret()?;
            if context.out.stdin_is_terminal {
                context.out.chrome("\n");
            }
            value
        }
    };
    if value.is_empty() {
        return Err(CliError::usage(format!("{key} is empty; nothing was done")));
    }
    Ok(value)
}

fn not_set(key: &str) -> CliError {
    CliError::new(format!("{key} is not set")).remedy("`gander config show` lists what is")
}

fn show(
    context: &Context,
    values: &[ConfigValue],
    secrets: &[SecretStatus],
    with_origin: bool,
    as_json: bool,
) -> CliResult<()> {
    if as_json {
        let values = values.iter().map(json::value).collect::<CliResult<Vec<_>>>()?;
        let secrets = secrets.iter().map(json::value).collect::<CliResult<Vec<_>>>()?;
        return context.out.line(&json::pretty(&json!({"values": values, "secrets": secrets})));
    }
    // Most people have a key for one or two of the many providers.
    let shown: Vec<SecretStatus> =
        secrets.iter().filter(|secret| secret.present || context.out.verbose > 0).cloned().collect();
    let text = table(&rows(values, &shown, with_origin), context.out.width, context.out.color);
    context.out.print(&text)?;
    if shown.len() < secrets.len() {
        context.out.note(&format!(
            "{} known secrets are not set; -v shows their names",
            secrets.len() - shown.len()
        ));
    }
    Ok(())
}

fn rows(values: &[ConfigValue], secrets: &[SecretStatus], with_origin: bool) -> Vec<Vec<String>> {
    let row = |key: &str, from: &str, value: String| {
        let mut row = vec![clean(key)];
        if with_origin {
            row.push(from.to_owned());
        }
        row.push(value);
        row
    };
    let mut rows = vec![row("KEY", "FROM", "VALUE".to_owned())];
    rows.extend(values.iter().map(|value| row(&value.key, origin(value.origin()), plain(&value.value_json))));
    rows.extend(secrets.iter().map(|secret| {
        let from = if secret.present { secret_origin(secret.origin()) } else { "-" };
        let words = if secret.present { hidden(secret) } else { "(secret, not set)".to_owned() };
        row(&secret.key, from, words)
    }));
    rows
}

fn hidden(secret: &SecretStatus) -> String {
    match secret.last_four.as_str() {
        "" => "(secret)".to_owned(),
        last => format!("(secret, ends with {})", clean(last)),
    }
}

fn secret_words(secret: &SecretStatus) -> String {
    format!("{} from {}", hidden(secret), secret_origin(secret.origin()))
}

fn origin(origin: ConfigOrigin) -> &'static str {
    match origin {
        ConfigOrigin::Builtin => "builtin",
        ConfigOrigin::Distribution => "distribution",
        ConfigOrigin::User => "user",
        ConfigOrigin::Environment => "environment",
        ConfigOrigin::Flag => "flag",
        ConfigOrigin::Policy => "policy",
        ConfigOrigin::Unspecified => "elsewhere",
    }
}

fn secret_origin(origin: SecretOrigin) -> &'static str {
    match origin {
        SecretOrigin::File => "secrets file",
        SecretOrigin::Keyring => "keyring",
        SecretOrigin::Command => "a command",
        SecretOrigin::Environment => "environment",
        SecretOrigin::Unspecified => "elsewhere",
    }
}

/// A text without its quotes, anything else as JSON.
fn plain(value_json: &str) -> String {
    match serde_json::from_str(value_json) {
        Ok(Value::String(text)) => clean(&text),
        _ => clean(value_json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hide_secrets_and_name_origins() {
        let values = [ConfigValue {
            key: "GOOSE_MODE".to_owned(),
            value_json: "\"auto\"".to_owned(),
            origin: ConfigOrigin::Builtin as i32,
        }];
        let secret = |present, last: &str| SecretStatus {
            key: "OPENAI_API_KEY".to_owned(),
            present,
            last_four: last.to_owned(),
            origin: SecretOrigin::File as i32,
        };
        let secrets = [secret(true, "1234"), secret(true, ""), secret(false, "")];
        assert_eq!(
            rows(&values, &secrets, true),
            [
                vec!["KEY", "FROM", "VALUE"],
                vec!["GOOSE_MODE", "builtin", "auto"],
                vec!["OPENAI_API_KEY", "secrets file", "(secret, ends with 1234)"],
                vec!["OPENAI_API_KEY", "secrets file", "(secret)"],
                vec!["OPENAI_API_KEY", "-", "(secret, not set)"],
            ]
        );
        assert_eq!(rows(&values, &[], false)[1], ["GOOSE_MODE", "auto"]);
        assert_eq!(plain("{\"a\":1}"), "{\"a\":1}");
        assert_eq!(plain("\"a\\u001b[2Jb\""), "ab");
    }
}
