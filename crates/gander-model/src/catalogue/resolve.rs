//! From a provider file and the settings of now to a provider's options. Pure.

use std::time::Duration;

use serde_json::Value;

use super::ProviderFile;
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    Decoder, Format, ProviderInfo, ProviderSetupError, Settings, SignInMethod, VendorOptions, anthropic,
    bedrock::Credentials, vendor::header,
};

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

/// A setting that has a value.
fn given(settings: &dyn Settings, name: &str) -> Option<String> {
    settings.value(name).filter(|value| !value.trim().is_empty())
}

/// Whether a setting that the file demands has no value. What only the replaced address needed is not missing.
fn is_missing(file: &ProviderFile, settings: &dyn Settings, var: &super::EnvVar) -> bool {
    let replaced = given(settings, &file.base_url_name()).is_some();
    let of_address = names_in(&file.base_url).any(|name| name == var.name);
    var.required && setting(file, settings, &var.name).is_none() && !(replaced && of_address)
}

/// Whether the user gave any of the settings that belong to this provider.
fn touched(file: &ProviderFile, settings: &dyn Settings) -> bool {
    let named = |name: &String| settings.value(name).is_some_and(|value| !value.trim().is_empty());
    file.env_vars.iter().flatten().filter(|var| !var.secret).any(|var| named(&var.name))
        || named(&file.base_url_name())
}

/// Whether the address is not the vendor's own.
fn moved(file: &ProviderFile, settings: &dyn Settings) -> bool {
    let own = |name: &str| {
        let default = file.env_vars.iter().flatten().find(|var| var.name == name)?.default.clone();
        Some(settings.value(name).is_none_or(|value| Some(value) == default))
    };
    given(settings, &file.base_url_name()).is_some()
        || names_in(&file.base_url).any(|name| own(name) == Some(false))
}

/// Whether [`options`] would succeed. A provider without a key counts as configured when the user chose it: by its
/// file, by one of its settings, or as the provider to use.
pub(super) fn is_configured(file: &ProviderFile, custom: bool, settings: &dyn Settings) -> bool {
    if file.env_vars.iter().flatten().any(|var| is_missing(file, settings, var)) {
        return false;
    }
    if key(file, settings).is_some() || access_keys(file, settings).is_some() {
        return true;
    }
    if file.needs_key() {
        return file.key_optional_elsewhere && moved(file, settings);
    }
    custom
        || touched(file, settings)
        || settings.value("GOOSE_PROVIDER").is_some_and(|provider| provider == file.name)
}

/// The key, under whichever of its names it stands.
pub(super) fn key(file: &ProviderFile, settings: &dyn Settings) -> Option<String> {
    let found =
        |name: String| settings.secret(&name).map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
    file.key_names().find_map(found)
}

/// Where to sign in now.
pub(super) fn sign_in(file: &ProviderFile, settings: &dyn Settings) -> Option<SignInMethod> {
    let method = file.sign_in.as_ref()?;
    let filled = |template: &str| fill(template, |name| setting(file, settings, name));
    Some(SignInMethod {
        authorize_url: filled(&method.authorize_url)?,
        exchange_url: filled(&method.exchange_url)?,
    })
}

/// AWS's access keys, for the dialect whose requests can be signed.
fn access_keys(file: &ProviderFile, settings: &dyn Settings) -> Option<Credentials> {
    if Format::of_engine(&file.engine) != Some(Format::Bedrock) {
        return None;
    }
    let secret = |name: &str| settings.secret(name).filter(|value| !value.trim().is_empty());
    let region = || setting(file, settings, "AWS_REGION");
    Some(Credentials {
        access_key_id: secret("AWS_ACCESS_KEY_ID")?,
        secret_access_key: SecretString::from(secret("AWS_SECRET_ACCESS_KEY")?),
        session_token: secret("AWS_SESSION_TOKEN").map(SecretString::from),
        region: region()?,
    })
}

/// The dialect to speak now.
fn format(file: &ProviderFile, settings: &dyn Settings, url: &str) -> Format {
    let own_path = names_in(file.base_path.as_deref().unwrap_or_default())
        .all(|name| given(settings, name).is_none())
        && file.base_path_name().is_none_or(|name| given(settings, &name).is_none());
    let engine = match &file.engine_at_home {
        Some(engine) if own_path && !moved(file, settings) => engine,
        _ => &file.engine,
    };
    let format = Format::of_engine(engine).unwrap_or_default();
    // An address that names the other of OpenAI's dialects means it.
    let path = url.split('?').next().unwrap_or_default();
    match format {
        Format::OpenAiChat if path.ends_with(Format::OpenAiResponses.path()) => Format::OpenAiResponses,
        format => format,
    }
}

/// The options of a provider.
pub(super) fn options(
    file: &ProviderFile,
    info: ProviderInfo,
    settings: &dyn Settings,
) -> Result<VendorOptions, ProviderSetupError> {
    let id = file.name.as_str();
    if let Some(var) = file.env_vars.iter().flatten().find(|var| is_missing(file, settings, var)) {
        return Err(ProviderSetupError::MissingKey { provider_id: id.to_owned(), key: var.name.clone() });
    }
    let (format, url) = address(file, settings)?;
    let mut options = VendorOptions::for_format(info, format, url);
    if file.dynamic_models == Some(false) {
        options.models_url = None;
    }
    if let Some(path) = &file.check_path {
        options.check_url = options.root().map(|root| format!("{root}/{}", path.trim_start_matches('/')));
    }
    if let Some(template) = &file.check_url {
        options.check_url = fill(template, |name| setting(file, settings, name));
    }
    options = credentials(file, settings, options)?;
    options = extra_headers(file, settings, options)?;
    let seconds = |name: &str| match setting(file, settings, name) {
        Some(text) => match text.trim().parse::<u64>() {
            Ok(seconds) => Ok(Some(seconds)),
            Err(_) => Err(invalid(id, format!("{name}: {text:?} is no number of seconds"))),
        },
        None => Ok(None),
    };
    if let Some(seconds) = seconds(&file.timeout_name())?.or(file.timeout_seconds) {
        options.read_timeout = Duration::from_secs(seconds.clamp(1, MAX_TIMEOUT));
    }
    let connect = seconds(&file.setting_name("CONNECT_TIMEOUT"))?;
    if let Some(seconds) = connect.or(file.connect_timeout_seconds) {
        options.connect_timeout = Duration::from_secs(seconds.clamp(1, MAX_TIMEOUT));
    }
    options.dialect.clone_from(&file.dialect);
    options.stream_usage = file.stream_usage.unwrap_or(true);
    options.streaming = file.supports_streaming.unwrap_or(true);
    options.max_tokens_field.clone_from(&file.max_tokens_field);
    options.max_tokens = file.max_tokens;
    options.prompt_cache = file.prompt_cache.unwrap_or(true);
    options.extra_body = file.extra_body.clone().unwrap_or_default();
    let field = file.thinking.as_deref().and_then(crate::ThinkingField::parse).unwrap_or_default();
    options.thinking = crate::Thinking { field, words: file.thinking_words.clone().unwrap_or_default() };
    options.top_up_url.clone_from(&file.top_up_url);
    options.decoder = if file.decoder.as_deref() == Some("rig") { Decoder::Rig } else { Decoder::Typed };
    Ok(options)
}

fn credentials(
    file: &ProviderFile,
    settings: &dyn Settings,
    options: VendorOptions,
) -> Result<VendorOptions, ProviderSetupError> {
    let id = file.name.as_str();
    let auth_name = file.setting_name("AUTH");
    let auth = given(settings, &auth_name).map(|auth| auth.trim().to_owned());
    if let Some(auth) = &auth {
        super::file::check_auth(auth).map_err(|what| invalid(id, format!("{auth_name} {what}")))?;
    }
    let auth = auth.or_else(|| file.auth.clone());
    if auth.as_deref() == Some("none") {
        return Ok(options);
    }
    let key_name = file.key_name();
    let Some(key) = key(file, settings) else {
        if let Some(access_keys) = access_keys(file, settings) {
            let mut options = options;
            for secret in std::iter::once(&access_keys.secret_access_key).chain(&access_keys.session_token) {
                options.secrets.push(secret.expose_secret().to_owned());
            }
            options.secrets.push(access_keys.access_key_id.clone());
            options.aws = Some(access_keys);
            return Ok(options);
        }
        if file.needs_key() && !(file.key_optional_elsewhere && moved(file, settings)) {
            return Err(ProviderSetupError::MissingKey { provider_id: id.to_owned(), key: key_name });
        }
        return Ok(options);
    };
    let usual = match options.format {
        Format::Anthropic => "x-api-key",
        Format::Google => "x-goog-api-key",
        Format::OpenAiChat | Format::OpenAiResponses | Format::Bedrock => "bearer",
    };
    let added = match auth.as_deref().unwrap_or(usual) {
        "api_key_header" => options.with_credential("api-key", &key, &key),
        name @ ("x-api-key" | "x-goog-api-key") => options.with_credential(name, &key, &key),
        _ => options.with_bearer(&key),
    };
    added.map_err(|_| invalid(id, format!("{key_name} holds characters that a key cannot have")))
}

fn extra_headers(
    file: &ProviderFile,
    settings: &dyn Settings,
    mut options: VendorOptions,
) -> Result<VendorOptions, ProviderSetupError> {
    let id = file.name.as_str();
    if options.format == Format::Anthropic {
        let version = http::HeaderValue::from_static(anthropic::VERSION);
        options.headers.insert("anthropic-version", version);
    }
    for (name, value) in file.headers.iter().flatten() {
        let Value::String(template) = value else {
            return Err(invalid(id, format!("headers.{name}: the value must be text")));
        };
        if let Some(value) = fill(template, |name| setting(file, settings, name)) {
            let (name, value) = header(name, &value).map_err(|error| invalid(id, error.message))?;
            options.headers.insert(name, value);
        }
    }
    let custom = settings.secret(&file.headers_name());
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

/// The dialect, and the URL to which requests go: `base_url` alone if it names the dialect's path, else with `base_path`,
/// else with the dialect's usual path.
fn address(file: &ProviderFile, settings: &dyn Settings) -> Result<(Format, String), ProviderSetupError> {
    let id = file.name.as_str();
    let replaced = given(settings, &file.base_url_name());
    let moved = replaced.is_some();
    let chosen_path = file.base_path_name().and_then(|name| given(settings, &name));
    let lookup = |name: &str| setting(file, settings, name);
    let (base, path) = match replaced {
        Some(base) => (base, chosen_path),
        None => {
            let missing = |template: &str| {
                let name = names_in(template).find(|name| lookup(name).is_none()).unwrap_or_default();
                ProviderSetupError::MissingKey { provider_id: id.to_owned(), key: name.to_owned() }
            };
            let base = fill(&file.base_url, lookup).ok_or_else(|| missing(&file.base_url))?;
            let path = match &file.base_path {
                _ if chosen_path.is_some() => chosen_path,
                Some(path) => Some(fill(path, lookup).ok_or_else(|| missing(path))?),
                None => None,
            };
            (base, path.filter(|path| !path.trim_matches('/').is_empty()))
        }
    };
    let base = with_scheme(base.trim(), file.default_port);
    if base.split_once("://").is_none_or(|(_, rest)| rest.trim_matches('/').is_empty()) {
        return Err(invalid(id, format!("the address {base:?} names no server")));
    }
    let base = base.trim_end_matches('/').to_owned();
    let whole = match &path {
        Some(path) => format!("{base}/{}", path.trim().trim_matches('/')),
        None => base.clone(),
    };
    let format = format(file, settings, &whole);
    let mut url = complete(format, &whole, path.is_some());
    for (name, value) in file.query_params.iter().flatten() {
        // At another address the vendor's own defaults mean nothing.
        let own = |name: &str| if moved { given(settings, name) } else { lookup(name) };
        let value = value.as_str().and_then(|template| fill(template, own));
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&format!("{name}={value}"));
        }
    }
    match reqwest::Url::parse(&url) {
        Ok(parsed) if parsed.has_host() => Ok((format, url)),
        _ => Err(invalid(id, format!("the address {base:?} is no URL"))),
    }
}

/// Adds what an address lacks. One whose path was given is whole, but for the other of OpenAI's dialects.
fn complete(format: Format, given: &str, whole: bool) -> String {
    let usual = format.path();
    let (chat, responses) = (Format::OpenAiChat.path(), Format::OpenAiResponses.path());
    if format == Format::OpenAiResponses
        && let Some(root) = given.strip_suffix(chat)
    {
        return format!("{root}{responses}");
    }
    if whole || given.split('?').next().unwrap_or_default().ends_with(usual) {
        return given.to_owned();
    }
    let bare = given.split_once("://").is_none_or(|(_, rest)| !rest.contains('/'));
    match format {
        Format::OpenAiChat | Format::OpenAiResponses if bare => format!("{given}/v1{usual}"),
        // Anthropic's clients take the address without the version.
        Format::Anthropic if !given.ends_with("/v1") => format!("{given}/v1{usual}"),
        Format::Google if bare => format!("{given}/v1beta{usual}?alt=sse"),
        Format::Google => format!("{given}{usual}?alt=sse"),
        _ => format!("{given}{usual}"),
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
