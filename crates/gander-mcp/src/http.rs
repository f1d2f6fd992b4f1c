//! HTTP clients and the streamable HTTP transport.
//!
//! Invariants: ring is the only TLS provider; a redirect is followed only to the same origin and only when it keeps
//! the method and the body, so headers with secrets never reach another host; connecting has a deadline, streams have
//! none; reconnecting is bounded.

use std::{collections::HashMap, sync::Arc, time::Duration};

use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, HeaderName, HeaderValue},
    redirect::Policy,
};
use rmcp::transport::{
    StreamableHttpClientTransport, UnixSocketHttpClient, common::client_side_sse::ExponentialBackoff,
    streamable_http_client::StreamableHttpClientTransportConfig,
};
use url::{Position, Url};

use crate::{config, oauth::Link, server::Server, wire::WireShared};

/// Redirects of one request.
const MAX_REDIRECTS: usize = 10;
/// Attempts to resume a broken stream, and the longest delay before one.
const MAX_RECONNECTS: usize = 8;
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(30);
/// How long sent data may stay unacknowledged before a connection counts as dead.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// TLS with ring and the platform's certificates.
pub(crate) fn tls() -> Result<rustls::ClientConfig, String> {
    use rustls_platform_verifier::BuilderVerifierExt as _;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(rustls::ConfigBuilder::with_platform_verifier)
        .map_err(|error| error.to_string())?;
    Ok(config.with_no_client_auth())
}

/// The client of all MCP servers of a host. No total timeout: responses may be streams.
pub(crate) fn client() -> Result<reqwest::Client, String> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls()?)
        .connect_timeout(Duration::from_secs(10))
        .tcp_keepalive(Duration::from_secs(30))
        .redirect(same_origin());
    #[cfg(target_os = "linux")]
    let builder = builder.tcp_user_timeout(UNACKNOWLEDGED);
    builder.build().map_err(|error| error.to_string())
}

/// Follows 307 and 308 within one origin. Everything else is an error that says where it would have led.
fn same_origin() -> Policy {
    Policy::custom(|attempt| {
        let status = attempt.status();
        let keeps = matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        let first = attempt.previous().first();
        let same = first.is_some_and(|first| first.origin() == attempt.url().origin());
        if keeps && same {
            if attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error("it redirects in circles");
            }
            return attempt.follow();
        }
        let target = crate::explain::bare(attempt.url());
        let why =
            if same { "would lose the request" } else { "is another address, which gets no credentials" };
        let text = format!(
            "it redirects ({}) to {target}, which {why}; if that is the right server, set its uri to that address",
            status.as_u16()
        );
        attempt.error(text)
    })
}

/// Where a server is and what is sent to it.
pub(crate) struct Target {
    pub(crate) uri: Url,
    headers: HashMap<HeaderName, HeaderValue>,
}

impl Target {
    /// Fills in variables, once, and checks the result.
    ///
    /// # Errors
    /// What is wrong, without the value.
    pub(crate) fn new(
        server: &Server,
        uri: &str,
        headers: &std::collections::BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let mut values = server.config().env.clone();
        values.extend(server.secrets().clone());
        let uri = Url::parse(&config::substitute(uri, &values))
            .map_err(|error| format!("the uri is not valid: {error}"))?;
        if !matches!(uri.scheme(), "http" | "https") {
            return Err("the uri must begin with http:// or https://".to_owned());
        }
        let mut custom = HashMap::new();
        for (name, value) in headers {
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| format!("{name:?} is no name of an HTTP header"))?;
            let mut value = HeaderValue::from_str(&config::substitute(value, &values)).map_err(|_| {
                format!("the value of the header {name} has characters that HTTP does not allow")
            })?;
            value.set_sensitive(true);
            custom.insert(header, value);
        }
        Ok(Self { uri, headers: custom })
    }

    /// Whether the configuration brings its own credentials, which OAuth must not replace.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.headers.contains_key(&AUTHORIZATION)
    }

    fn config(&self, uri: &str) -> StreamableHttpClientTransportConfig {
        let mut config =
            StreamableHttpClientTransportConfig::with_uri(uri).custom_headers(self.headers.clone());
        let mut retry = ExponentialBackoff::default();
        retry.max_times = Some(MAX_RECONNECTS);
        retry.max_delay = Some(MAX_RECONNECT_DELAY);
        config.retry_config = Arc::new(retry);
        config
    }

    /// Over TCP, with authorization when the server asks for it.
    ///
    /// # Errors
    /// When there is no HTTP client.
    pub(crate) fn tcp(
        &self,
        server: &Server,
        shared: Arc<WireShared>,
    ) -> Result<StreamableHttpClientTransport<Link<reqwest::Client>>, String> {
        let link = Link::new(server.host().http()?, Arc::clone(server.access()), shared);
        Ok(StreamableHttpClientTransport::with_client(link, self.config(self.uri.as_str())))
    }

    /// Over a unix socket; `@name` is an abstract one. Without OAuth: who may open the socket is the socket's matter.
    pub(crate) fn unix(&self, socket: &str) -> StreamableHttpClientTransport<UnixSocketHttpClient> {
        let client = UnixSocketHttpClient::new(socket, self.uri.as_str());
        // The path alone: a whole address in the request line is for proxies, and many servers do not route it.
        let path = &self.uri[Position::BeforePath..Position::AfterQuery];
        StreamableHttpClientTransport::with_client(client, self.config(path))
    }
}
