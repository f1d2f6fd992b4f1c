//! From a challenge to a token: in silence where that is possible, else through the user.

use std::{error::Error as _, sync::Arc, time::Duration};

use rmcp::transport::auth::{
    AuthError, AuthorizationManager, AuthorizationMetadata, ClientCredentialsConfig, OAuthClientConfig,
};
use tokio::time::timeout;
use url::{Host, Url};

use super::{
    access::{Challenge, Grant, Kind, renew},
    fetch::{Fetcher, Reach},
    listener::{Listener, has_state},
    settings::Settings,
    store::{Registration, Store},
};
use crate::{
    client::{AuthorizeAnswer, AuthorizeRequest},
    server::Server,
};

/// Discovery, registration and refresh together; also the exchange of the code.
const NETWORK_PATIENCE: Duration = Duration::from_secs(60);
/// How long a question may wait; the session's client may end it earlier.
const QUESTION_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How long the redirect may take after the user said that the page is done.
const REDIRECT_PATIENCE: Duration = Duration::from_secs(15);
/// Longest text of an authorization server in an error.
const MAX_TEXT: usize = 300;

/// Why there is no authorization.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The user declined, or did not answer in time.
    pub(crate) declined: bool,
    /// It came to a question.
    pub(crate) asked: bool,
    pub(crate) text: String,
}

impl Refusal {
    fn declined(text: impl Into<String>) -> Self {
        Self { declined: true, asked: true, text: text.into() }
    }

    fn failed(text: impl Into<String>) -> Self {
        Self { declined: false, asked: false, text: text.into() }
    }
}

/// What comes after a challenge.
pub(crate) enum Step {
    /// There is another token now.
    Authorized,
    /// The user must be asked.
    Ask(Box<Question>),
}

/// An authorization that waits for the user. Dropping it closes the port of the redirect.
pub(crate) struct Question {
    manager: AuthorizationManager,
    store: Store,
    listener: Listener,
    url: String,
    state: String,
}

/// What the library says, without what it sent, and short.
fn explain(error: &AuthError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    shorten(&text)
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_TEXT {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(MAX_TEXT).collect();
    short.push('…');
    short
}

/// Answers `challenge` without the user, or prepares the question.
///
/// # Errors
/// When neither is possible.
pub(crate) async fn prepare(server: &Server, challenge: &Challenge) -> Result<Step, Refusal> {
    match timeout(NETWORK_PATIENCE, Box::pin(prepare_now(server, challenge))).await {
        Ok(step) => step,
        Err(_) => Err(Refusal::failed("the authorization server did not answer in time")),
    }
}

async fn prepare_now(server: &Server, challenge: &Challenge) -> Result<Step, Refusal> {
    let access = server.access();
    let client = Arc::clone(server.client());
    let base = access.base().ok_or_else(|| Refusal::failed("the server's address is not known"))?;
    let settings = Settings::new(&server.config().env, server.secrets()).map_err(Refusal::failed)?;
    let fetcher = Fetcher::new(&base).map_err(Refusal::failed)?;
    let failed = |error: AuthError| Refusal::failed(explain(&error));
    let mut manager = AuthorizationManager::new_with_oauth_http_client(base.clone(), Arc::new(fetcher))
        .await
        .map_err(failed)?;
    let header = Some(challenge.header.as_str()).filter(|header| !header.is_empty());
    let metadata = manager.resolve_metadata_from_challenge(header).await.map_err(failed)?.metadata;
    check_endpoints(&metadata, Reach::of(&base))?;
    manager.set_metadata(metadata.clone());

    let key = key_of(&metadata, &base);
    let store = Store::new(client, key, &server.host().refresh_locks);
    manager.set_credential_store(store.clone());
    let known = access.scopes(store.key()).await;
    let scopes = scopes(&manager, &settings, challenge.kind, known, &store).await;

    if settings.client_credentials {
        if !access.may_ask() {
            return Err(too_often());
        }
        return by_client_credentials(server, manager, store, &settings, &base, scopes).await;
    }
    let mut grant = Grant { manager, store };
    if challenge.kind == Kind::Unauthorized && access.may_resume() && resume(&mut grant, challenge).await {
        access.install(grant).await;
        return Ok(Step::Authorized);
    }
    if !access.may_ask() {
        return Err(too_often());
    }
    let Grant { manager, store } = grant;
    Ok(Step::Ask(Box::new(question(manager, store, &settings, &metadata, &scopes).await?)))
}

fn too_often() -> Refusal {
    let text = "the server goes on refusing what its authorization server granted";
    Refusal { declined: false, asked: true, text: text.to_owned() }
}

/// Tokens belong to an issuer and a resource.
fn key_of(metadata: &AuthorizationMetadata, base: &Url) -> String {
    let issuer = metadata.issuer.clone().unwrap_or_else(|| {
        Url::parse(&metadata.token_endpoint).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
    });
    let mut resource = base.clone();
    resource.set_fragment(None);
    format!("{issuer} {resource}")
}

/// Only encrypted addresses, but for servers that are themselves local; and only pages that a browser may open.
fn check_endpoints(metadata: &AuthorizationMetadata, reach: Reach) -> Result<(), Refusal> {
    check_page(&metadata.authorization_endpoint)?;
    let others = [Some(&metadata.token_endpoint), metadata.registration_endpoint.as_ref()];
    for endpoint in others.into_iter().flatten() {
        let url = Url::parse(endpoint).ok();
        let usable = url
            .is_some_and(|url| reach.allows_url(&url) && (url.scheme() == "https" || reach != Reach::Public));
        if !usable {
            return Err(Refusal::failed(
                "the server's authorization metadata names an address that may not be used",
            ));
        }
    }
    Ok(())
}

/// Whether the user may be sent to `page`.
pub(super) fn check_page(page: &str) -> Result<Url, Refusal> {
    let local = |url: &Url| match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    match Url::parse(page) {
        Ok(url) if url.scheme() == "https" || (url.scheme() == "http" && local(&url)) => Ok(url),
        _ => Err(Refusal::failed(
            "the authorization page of the server is not an https address; it will not be opened",
        )),
    }
}

/// What to ask for: what is configured; else what the server names now together with what was granted before.
async fn scopes(
    manager: &AuthorizationManager,
    settings: &Settings,
    kind: Kind,
    known: Vec<String>,
    store: &Store,
) -> Vec<String> {
    let named = manager.select_initial_scopes(&[]).await;
    let mut scopes = match kind {
        Kind::Unauthorized if !settings.scopes.is_empty() => return settings.scopes.clone(),
        Kind::Unauthorized => known,
        // Also what another session of this host was granted.
        Kind::Scope => [settings.scopes.clone(), known, store.scopes()].concat(),
    };
    scopes.extend(named);
    let mut seen = std::collections::HashSet::new();
    scopes.retain(|scope| seen.insert(scope.clone()));
    scopes
}

async fn by_client_credentials(
    server: &Server,
    mut manager: AuthorizationManager,
    store: Store,
    settings: &Settings,
    base: &Url,
    scopes: Vec<String>,
) -> Result<Step, Refusal> {
    let failed = |error: AuthError| Refusal::failed(explain(&error));
    let config = ClientCredentialsConfig::ClientSecret {
        client_id: settings.client_id.clone().unwrap_or_default(),
        client_secret: settings.client_secret.clone().unwrap_or_default(),
        scopes,
        resource: Some(base.to_string()),
    };
    manager.validate_client_credentials_metadata(&config).map_err(failed)?;
    manager.configure_client_credentials(&config).map_err(failed)?;
    manager.exchange_client_credentials(&config).await.map_err(failed)?;
    server.access().install(Grant { manager, store }).await;
    Ok(Step::Authorized)
}

/// Whether what is stored gives a token other than the rejected one.
async fn resume(grant: &mut Grant, challenge: &Challenge) -> bool {
    let entry = grant.store.entry();
    let (Some(registration), Some(_)) = (entry.registration, entry.credentials) else { return false };
    if grant.manager.configure_client(client_config(&registration)).is_err() {
        return false;
    }
    let rejected = challenge.token.as_deref().unwrap_or_default();
    matches!(renew(grant, rejected).await, Ok(Some(_)))
}

fn client_config(registration: &Registration) -> OAuthClientConfig {
    let config = OAuthClientConfig::new(&registration.client_id, &registration.redirect_uri);
    match &registration.client_secret {
        Some(secret) => config.with_client_secret(secret),
        None => config,
    }
}

/// Identifies this client to the authorization server and makes the URL.
async fn question(
    mut manager: AuthorizationManager,
    store: Store,
    settings: &Settings,
    metadata: &AuthorizationMetadata,
    scopes: &[String],
) -> Result<Question, Refusal> {
    let failed = |error: AuthError| Refusal::failed(explain(&error));
    let known = store.entry().registration;
    let listener = listener(settings, known.as_ref()).await?;
    let redirect_uri = listener.redirect_uri().to_owned();
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    let by_document = metadata
        .additional_fields
        .get("client_id_metadata_document_supported")
        .and_then(serde_json::Value::as_bool)
        .unwrap_or(false);
    let registration = if let Some(client_id) = settings.client_id.clone() {
        Registration { client_id, client_secret: settings.client_secret.clone(), redirect_uri }
    } else if let Some(client_id) = settings.client_metadata_url.clone().filter(|_| by_document) {
        if !client_id.starts_with("https://") {
            return Err(Refusal::failed("MCP_OAUTH_CLIENT_METADATA_URL must begin with https://"));
        }
        Registration { client_id, client_secret: None, redirect_uri }
    } else if let Some(known) = known.filter(|known| known.redirect_uri == redirect_uri) {
        known
    } else {
        let config = manager.register_client("gander", &redirect_uri, &scopes).await.map_err(failed)?;
        Registration { client_id: config.client_id, client_secret: config.client_secret, redirect_uri }
    };
    manager.configure_client(client_config(&registration)).map_err(failed)?;
    store.set_registration(Some(registration));
    let url = manager.get_authorization_url(&scopes).await.map_err(failed)?;
    let page = check_page(&url)?;
    let state = page.query_pairs().find(|(name, _)| name == "state").map(|(_, value)| value.into_owned());
    let state = state.ok_or_else(|| Refusal::failed("the authorization URL has no state"))?;
    Ok(Question { manager, store, listener, url, state })
}

/// The configured port, or the one that is registered if it is free, or any.
async fn listener(settings: &Settings, known: Option<&Registration>) -> Result<Listener, Refusal> {
    if let Some(port) = settings.redirect_port {
        let listener = Listener::bind(port).await;
        return listener.map_err(|error| Refusal::failed(format!("MCP_OAUTH_REDIRECT_PORT {port}: {error}")));
    }
    let registered = known.and_then(|known| Url::parse(&known.redirect_uri).ok()).and_then(|url| url.port());
    if let Some(port) = registered
        && let Ok(listener) = Listener::bind(port).await
    {
        return Ok(listener);
    }
    let listener = Listener::bind(0).await;
    listener.map_err(|error| Refusal::failed(format!("no port for the redirect: {error}")))
}

/// Puts the question to the session's client and exchanges what comes of it for a token. Dropping the future
/// withdraws the question.
///
/// # Errors
/// Declined, expired, or not granted.
pub(crate) async fn ask(server: &Server, question: Question) -> Result<(), Refusal> {
    let outcome = Box::pin(ask_now(server, question)).await;
    outcome.map_err(|refusal| Refusal { asked: true, ..refusal })
}

async fn ask_now(server: &Server, question: Question) -> Result<(), Refusal> {
    let Question { manager, store, listener, url, state } = question;
    let client = server.client();
    let request =
        AuthorizeRequest { extension_name: server.key().to_owned(), url, accepts_callback_url: true };
    let answered = async {
        let mut redirect = Box::pin(listener.redirect(&state));
        tokio::select! {
            biased;
            url = &mut redirect => Ok(url),
            answer = client.authorize(request) => match answer {
                AuthorizeAnswer::Declined => Err(Refusal::declined("the authorization was declined")),
                AuthorizeAnswer::Done { callback_url: Some(pasted) } => Url::parse(pasted.trim())
                    .map_err(|_| Refusal::failed("what was handed in as callback_url is not a URL")),
                AuthorizeAnswer::Done { callback_url: None } => {
                    timeout(REDIRECT_PATIENCE, redirect).await.map_err(|_| {
                        Refusal::failed(
                            "the browser's redirect did not reach this machine; hand in its address as callback_url",
                        )
                    })
                }
            },
        }
    };
    let callback = match timeout(QUESTION_PATIENCE, answered).await {
        Ok(callback) => callback?,
        Err(_) => return Err(Refusal::declined("nobody answered the authorization in time")),
    };
    let Callback { code, issuer } = Callback::parse(&callback, &state)?;
    let exchange = manager.exchange_code_for_token_with_issuer(&code, &state, issuer.as_deref());
    let outcome = match timeout(NETWORK_PATIENCE, exchange).await {
        Ok(Ok(_)) => {
            server.access().install(Grant { manager, store }).await;
            return Ok(());
        }
        Ok(Err(error)) => Refusal::failed(explain(&error)),
        Err(_) => Refusal::failed("the authorization server did not answer in time"),
    };
    // The next attempt begins anew: the registration may be the reason.
    store.set_registration(None);
    Err(outcome)
}

/// What a redirect says.
pub(super) struct Callback {
    pub(super) code: String,
    pub(super) issuer: Option<String>,
}

impl Callback {
    pub(super) fn parse(url: &Url, state: &str) -> Result<Self, Refusal> {
        if !has_state(url, state) {
            return Err(Refusal::failed(
                "the redirect does not belong to this authorization (its state differs)",
            ));
        }
        let get = |wanted: &str| {
            url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
        };
        if let Some(error) = get("error") {
            if error == "access_denied" {
                return Err(Refusal::declined("the authorization was not granted"));
            }
            let description = get("error_description").unwrap_or_default();
            return Err(Refusal::failed(shorten(&format!(
                "the authorization server says: {error} {description}"
            ))));
        }
        let code = get("code").ok_or_else(|| Refusal::failed("the redirect has no code"))?;
        Ok(Self { code, issuer: get("iss") })
    }
}
