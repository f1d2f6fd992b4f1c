//! Dialling: unix sockets and TCP with or without TLS, as a connector for tonic's channel.
//!
//! The crypto provider is named here explicitly; nothing depends on a process-wide default.

use std::{io, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls_platform_verifier::BuilderVerifierExt as _;
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code,
    transport::{Channel, Endpoint as Settings, Uri},
};
use tower::service_fn;

use crate::{ClientError, ClientIdentity, TcpEndpoint, TlsRoots};

/// A dial that takes longer has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that wait for a connection to become writable, per connection.
const BUFFER: usize = 1024;
/// What a peer may send as headers; rich error details travel there.
const MAX_HEADERS: u32 = 64 * 1024;

/// Anything that bytes go through.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

#[derive(Clone)]
enum Target {
    Unix(PathBuf),
    Tcp { host: String, port: u16, tls: Option<(TlsConnector, ServerName<'static>)> },
}

/// Makes connections to one daemon.
#[derive(Clone)]
pub(crate) struct Dialer {
    target: Target,
    settings: Settings,
}

impl Dialer {
    /// A dialer for a unix socket. The authority is always `localhost`: servers reject a socket path there.
    pub(crate) fn unix(path: PathBuf) -> Result<Self, ClientError> {
        Ok(Self { target: Target::Unix(path), settings: settings("http://localhost")? })
    }

    /// A dialer for a TCP port.
    ///
    /// # Errors
    /// A malformed URL or certificate, or a token that would travel in the clear to another machine.
    pub(crate) fn tcp(endpoint: &TcpEndpoint, has_token: bool) -> Result<Self, ClientError> {
        let invalid = |text: &str| {
            ClientError::new(
                Code::InvalidArgument,
                format!("the address `{}` {text}; write http://HOST:PORT or https://HOST:PORT", endpoint.url),
            )
        };
        let uri: Uri = endpoint.url.parse().map_err(|_| invalid("is not a URL"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid("has no scheme http or https")),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid("has a path"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| invalid("has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if has_token && !secure && !is_loopback(&host) {
            return Err(ClientError::new(
                Code::InvalidArgument,
                format!(
                    "a token must not travel unencrypted to `{host}`: use https, or a tunnel to a loopback port"
                ),
            ));
        }
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure { Some(tls(endpoint, &host)?) } else { None };
        Ok(Self { target: Target::Tcp { host, port, tls }, settings: settings(&endpoint.url)? })
    }

    /// A connected channel; it connects again by itself when the connection is lost.
    pub(crate) async fn connect(&self) -> Result<Channel, ClientError> {
        let target = self.target.clone();
        let connector = service_fn(move |_: Uri| dial(target.clone()));
        self.settings.connect_with_connector(connector).await.map_err(|error| {
            let mut lost = ClientError::from(tonic::Status::from_error(Box::new(error)));
            lost.message = format!("cannot reach the daemon at {}: {}", self.target, lost.message);
            lost
        })
    }

    /// A channel that connects at its first request.
    pub(crate) fn channel(&self) -> Channel {
        let target = self.target.clone();
        self.settings.connect_with_connector_lazy(service_fn(move |_: Uri| dial(target.clone())))
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
        }
    }
}

fn settings(origin: &str) -> Result<Settings, ClientError> {
    let failed = |error: tonic::transport::Error| ClientError::new(Code::InvalidArgument, error.to_string());
    let settings = Settings::from_shared(origin.to_owned()).map_err(failed)?;
    Ok(settings
        .user_agent(concat!("gander-client/", env!("CARGO_PKG_VERSION")))
        .map_err(failed)?
        .connect_timeout(CONNECT_TIMEOUT)
        .buffer_size(BUFFER)
        // The windows stay hyper's fixed ones (2 MiB per stream): an adaptive window begins at 64 KiB, which slows
        // the bursts of a local daemon.
        .http2_max_header_list_size(MAX_HEADERS))
}

async fn dial(target: Target) -> io::Result<TokioIo<Box<dyn Io>>> {
    let io: Box<dyn Io> = match target {
        Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Target::Tcp { host, port, tls } => {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            match tls {
                Some((connector, name)) => Box::new(connector.connect(name, stream).await?),
                None => Box::new(stream),
            }
        }
    };
    Ok(TokioIo::new(io))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn tls(endpoint: &TcpEndpoint, host: &str) -> Result<(TlsConnector, ServerName<'static>), ClientError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        ClientError::new(Code::InvalidArgument, format!("{what} for `{}`: {error}", endpoint.url))
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed("unusable host name", &error))?;
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed("TLS cannot be set up", &error))?;
    let builder = match &endpoint.roots {
        TlsRoots::Platform => builder
            .with_platform_verifier()
            .map_err(|error| failed("the platform's certificates cannot be used", &error))?,
        TlsRoots::Pem(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| failed("the CA file is not PEM", &error))?;
                roots.add(certificate).map_err(|error| failed("the CA certificate is unusable", &error))?;
            }
            if roots.is_empty() {
                return Err(failed("the CA file", &"it holds no certificate"));
            }
            builder.with_root_certificates(roots)
        }
    };
    let mut config = match &endpoint.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) =
                load_identity(identity).map_err(|error| failed("client certificate", &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| failed("client certificate", &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((TlsConnector::from(Arc::new(config)), name))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn load_identity(identity: &ClientIdentity) -> Result<Identity, rustls_pki_types::pem::Error> {
    let chain = CertificateDer::pem_slice_iter(&identity.certificate_pem).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose_secret().as_bytes())?;
    Ok((chain, key))
}
