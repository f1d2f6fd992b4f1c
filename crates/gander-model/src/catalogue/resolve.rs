//! From a provider file and the settings of now to a provider's options. Pure.

use std::time::Duration;

use serde_json::Value;

use super::ProviderFile;
use crate::{Decoder, OpenAiOptions, ProviderInfo, ProviderSetupError, Settings, openai::header};

const CHAT: &str = "/chat/completions";
/// Longest timeout that a file or setting may ask for.
const MAX_TIMEOUT: u64 = 24 * 3600;

pub(super) fn invalid(provider_id: &str, message: impl Into<String>) -> ProviderSetupError {
    ProviderSetupError::Invalid { provider_id: provider_id.to_owned(), message: message.into() }
}

/// The value of a setting of this file, or its default.
fn setting(file: &ProviderFile, settings: &dyn Settings, name: &str) -> Option<String> {
    let var = file.env_vars.iter().flatten().find(|var| var.name == name);
    let given = match var {
        Some(var) if var.secret => settings.secret(name),
        _ => settings.value(name),
    };
    given.filter(|value| !value.trim().is_empty()).or_else(|| var?.default.clone())
}

/// Whether the user gave any of the settings that belong to this provider.
fn touched(file: &ProviderFile, settings: &dyn Settings) -> bool {
    let named = |name: &String| settings.value(name).is_some_and(|value| !value.trim().is_empty());
    file.env_vars.iter().flatten().filter(|var| !var.secret).any(|var| named(&var.name))
        || file.base_url_env.as_ref().is_some_and(named)
}

/// Whether the address is not the vendor's own.
fn moved(file: &ProviderFile, settings: &dyn Settings) -> bool {
    let own = |name: &str| {
        let default = file.env_vars.iter().flatten().find(|var| var.name == name)?.default.clone();
        Some(settings.value(name).is_none_or(|value| Some(value) == default))
    };
    file.base_url_env
        .as_ref()
        .is_some_and(|name| settings.value(name).is_some_and(|value| !value.trim().is_empty()))
        || names_in(&file.base_url).any(|name| own(name) == Some(false))
}

/// Whether [`options`] would succeed. A provider without a key counts as configured when the user chose it: by its
/// file, by one of its settings, or as the provider to use.
pub(super) fn is_configured(file: &ProviderFile, custom: bool, settings: &dyn Settings) -> bool {
    let missing = file
        .env_vars
        .iter()
        .flatten()
        .any(|var| var.required && setting(file, settings, &var.name).is_none());
    if missing {
        return false;
    }
    if settings.secret(&file.key_name()).is_some_and(|key| !key.trim().is_empty()) {
        return true;
    }
    if file.needs_key() {
        return file.key_optional_elsewhere && moved(file, settings);
    }
    custom
        || touched(file, settings)
        || settings.value("GOOSE_PROVIDER").is_some_and(|provider| provider == file.name)
}

/// The options of a provider.
pub(super) fn options(
    file: &ProviderFile,
    info: ProviderInfo,
    settings: &dyn Settings,
) -> Result<OpenAiOptions, ProviderSetupError> {
    let id = file.name.as_str();
    for var in file.env_vars.iter().flatten().filter(|var| var.required) {
        if setting(file, settings, &var.name).is_none() {
            return Err(ProviderSetupError::MissingKey { provider_id: id.to_owned(), key: var.name.clone() });
        }
    }
    let chat_url = chat_url(file, settings)?;
    let mut options = OpenAiOptions::new(info, chat_url);
    if file.dynamic_models == Some(false) {
        options.models_url = None;
    }
    if let Some(path) = &file.check_path {
        options.check_url = options
            .chat_url
            .strip_suffix(CHAT)
            .map(|base| format!("{base}/{}", path.trim_start_matches('/')));
    }
    options = credentials(file, settings, options)?;
    options = extra_headers(file, settings, options)?;
    let seconds = match &file.timeout_env {
        Some(name) => match setting(file, settings, name) {
            Some(text) => Some(
                text.trim()
                    .parse::<u64>()
                    .map_err(|_| invalid(id, format!("{name}: {text:?} is no number of seconds")))?,
            ),
            None => None,
        },
        None => None,
    };
    if let Some(seconds) = seconds.or(file.timeout_seconds) {
        options.read_timeout = Duration::from_secs(seconds.clamp(1, MAX_TIMEOUT));
    }
    if let Some(seconds) = file.connect_timeout_seconds {
        options.connect_timeout = Duration::from_secs(seconds.clamp(1, MAX_TIMEOUT));
    }
    options.dialect.clone_from(&file.dialect);
    options.stream_usage = file.stream_usage.unwrap_or(true);
    options.streaming = file.supports_streaming.unwrap_or(true);
    options.max_tokens_field.clone_from(&file.max_tokens_field);
    options.extra_body = file.extra_body.clone().unwrap_or_default();
    options.top_up_url.clone_from(&file.top_up_url);
    options.decoder = if file.decoder.as_deref() == Some("rig") { Decoder::Rig } else { Decoder::Typed };
    Ok(options)
}

fn credentials(
    file: &ProviderFile,
    settings: &dyn Settings,
    options: OpenAiOptions,
) -> Result<OpenAiOptions, ProviderSetupError> {
    let id = file.name.as_str();
    if file.auth.as_deref() == Some("none") {
        return Ok(options);
    }
    let key_name = file.key_name();
    let key = settings.secret(&key_name).map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
    let Some(key) = key else {
        if file.needs_key() && !(file.key_optional_elsewhere && moved(file, settings)) {
            return Err(ProviderSetupError::MissingKey { provider_id: id.to_owned(), key: key_name });
        }
        return Ok(options);
    };
    let added = match file.auth.as_deref() {
        Some("api_key_header") => options.with_credential("api-key", &key, &key),
        Some("x-api-key") => options.with_credential("x-api-key", &key, &key),
        _ => options.with_bearer(&key),
    };
    added.map_err(|_| invalid(id, format!("{key_name} holds characters that a key cannot have")))
}

fn extra_headers(
    file: &ProviderFile,
    settings: &dyn Settings,
    mut options: OpenAiOptions,
) -> Result<OpenAiOptions, ProviderSetupError> {
    let id = file.name.as_str();
    for (name, value) in file.headers.iter().flatten() {
        let Value::String(template) = value else {
            return Err(invalid(id, format!("headers.{name}: the value must be text")));
        };
        if let Some(value) = fill(template, |name| setting(file, settings, name)) {
            let (name, value) = header(name, &value).map_err(|error| invalid(id, error.message))?;
            options.headers.insert(name, value);
        }
    }
    let custom = file.custom_headers_env.as_ref().and_then(|name| settings.secret(name));
    for (name, value) in custom.as_deref().map(split_headers).unwrap_or_default() {
        options =
            options.with_credential(&name, &value, &value).map_err(|error| invalid(id, error.message))?;
    }
    Ok(options)
}

/// `Name: value` per line, or `Name=value` separated by commas.
fn split_headers(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> =
        if text.contains('\n') { text.lines().collect() } else { text.split(',').collect() };
    lines
        .into_iter()
        .filter_map(|line| line.split_once([':', '=']))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .collect()
}

/// The URL of chat completions: `base_url` alone if it names them, else with `base_path`, else with the usual path.
fn chat_url(file: &ProviderFile, settings: &dyn Settings) -> Result<String, ProviderSetupError> {
    let id = file.name.as_str();
    let replaced = file
        .base_url_env
        .as_ref()
        .and_then(|name| settings.value(name))
        .filter(|value| !value.trim().is_empty());
    let lookup = |name: &str| setting(file, settings, name);
    let (base, path) = match replaced {
        Some(base) => (base, None),
        None => {
            let missing = |template: &str| {
                let name = names_in(template).find(|name| lookup(name).is_none()).unwrap_or_default();
                ProviderSetupError::MissingKey { provider_id: id.to_owned(), key: name.to_owned() }
            };
            let base = fill(&file.base_url, lookup).ok_or_else(|| missing(&file.base_url))?;
            let path = match &file.base_path {
                Some(path) => Some(fill(path, lookup).ok_or_else(|| missing(path))?),
                None => None,
            };
            (base, path)
        }
    };
    let base = with_scheme(base.trim(), file.default_port);
    if base.split_once("://").is_none_or(|(_, rest)| rest.trim_matches('/').is_empty()) {
        return Err(invalid(id, format!("the address {base:?} names no server")));
    }
    let base = base.trim_end_matches('/').to_owned();
    let url = match path {
        Some(path) if !path.trim_matches('/').is_empty() => {
            format!("{base}/{}", path.trim().trim_matches('/'))
        }
        _ if base.ends_with(CHAT) => base.clone(),
        _ => format!("{base}{CHAT}"),
    };
    match reqwest::Url::parse(&url) {
        Ok(parsed) if parsed.has_host() => Ok(url),
        _ => Err(invalid(id, format!("the address {base:?} is no URL"))),
    }
}

/// `localhost` → `http://localhost:<port>`; addresses with a scheme get the port only if they have neither port nor path.
fn with_scheme(base: &str, default_port: Option<u16>) -> String {
    let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
    let Some(port) = default_port else { return base };
    match reqwest::Url::parse(&base) {
        Ok(url) if url.port().is_none() && url.scheme() == "http" && url.path() == "/" => {
            format!("{}:{port}", base.trim_end_matches('/'))
        }
        _ => base,
    }
}

/// Replaces `${NAME}`; nothing if a name has no value.
fn fill(template: &str, lookup: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(start) = rest.find("${") {
        let end = rest[start..].find('}')? + start;
        out.push_str(&rest[..start]);
        out.push_str(&lookup(&rest[start + 2..end])?);
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Some(out)
}

fn names_in(template: &str) -> impl Iterator<Item = &str> {
    template.split("${").skip(1).filter_map(|piece| piece.split_once('}').map(|(name, _)| name))
}
