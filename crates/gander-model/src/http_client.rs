//! The HTTP client of a provider: rustls with ring, no redirects, no process-wide state.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::{ModelError, ModelErrorClass};

/// Connections kept for the next call; more than these are closed after a burst, as each costs tens of kilobytes.
const IDLE_CONNECTIONS: usize = 32;

/// A client that sends `headers` with every request. `read_timeout` bounds the silence before and between bytes.
pub(crate) fn build(
    headers: &HeaderMap,
    connect_timeout: Duration,
    read_timeout: Duration,
    loopback: bool,
) -> Result<reqwest::Client, ModelError> {
    let failed = |error: &dyn std::fmt::Display| {
        ModelError::new(ModelErrorClass::Network, format!("the HTTP client cannot be built: {error}"))
    };
    let tls = tls_config().map_err(|error| failed(&error))?;
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .default_headers(headers.clone())
        .connect_timeout(connect_timeout)
        .read_timeout(read_timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .tcp_nodelay(true)
        .user_agent(concat!("gander/", env!("CARGO_PKG_VERSION")));
    if loopback {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| failed(&error))
}

fn tls_config() -> Result<ClientConfig, rustls::Error> {
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let verified = versions(&crypto)?.with_platform_verifier();
    match verified {
        Ok(builder) => Ok(builder.with_no_client_auth()),
        Err(error) => {
            // Local servers without TLS must work on machines without certificates too.
            tracing::warn!(%error, "no root certificates: https addresses of model providers will fail");
            Ok(versions(&crypto)?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
        }
    }
}

fn versions(
    crypto: &Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::clone(crypto)).with_safe_default_protocol_versions()
}

/// Whether the URL names this machine.
pub(crate) fn is_loopback(url: &reqwest::Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}
