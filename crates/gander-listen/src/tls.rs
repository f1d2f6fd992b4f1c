//! TLS of a TCP listener: certificate, optional CA for client certificates, explicit provider, ALPN.

use std::sync::Arc;

use rustls::{RootCertStore, ServerConfig, crypto::CryptoProvider, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_rustls::TlsAcceptor;

use crate::ListenError;

/// How a TCP listener speaks TLS.
#[derive(Clone)]
pub struct TlsOptions {
    /// Certificate chain, PEM, own certificate first.
    pub cert_pem: Vec<u8>,
    /// Private key, PEM (PKCS #8, SEC1 or PKCS #1).
    pub key_pem: SecretString,
    /// CA of client certificates, PEM. With it, every client must show a certificate of this CA.
    pub client_ca_pem: Option<Vec<u8>>,
    /// Serve plain text on the same port to peers that do not begin with a TLS handshake. Loopback addresses only.
    pub allow_plain: bool,
}

impl std::fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsOptions").field("allow_plain", &self.allow_plain).finish_non_exhaustive()
    }
}

impl TlsOptions {
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, ListenError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| ListenError::Tls(format!("{what}: {error}"));
        let chain = certificates("the certificate", &self.cert_pem)?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.expose_secret().as_bytes())
            .map_err(|error| failed("the key is not PEM", &error))?;
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("protocol versions", &error))?;
        let builder = match &self.client_ca_pem {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("the CA of clients", pem)? {
                    roots.add(certificate).map_err(|error| failed("the CA of clients", &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| failed("the CA of clients", &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| failed("the certificate and key do not fit", &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ListenError> {
    let list = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ListenError::Tls(format!("{what} is not PEM: {error}")))?;
    if list.is_empty() {
        return Err(ListenError::Tls(format!("{what}: the PEM text holds no certificate")));
    }
    Ok(list)
}
