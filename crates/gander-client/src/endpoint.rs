//! Where a daemon is. Only data: dialling happens in `dial`.

use std::{fmt, path::PathBuf, sync::Arc};

use secrecy::SecretString;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;

use crate::BoxError;

/// A gRPC service in this process: what [`Endpoint::Local`] calls instead of dialling.
pub type LocalService = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, BoxError>;

/// Where a daemon is.
#[derive(Clone)]
pub enum Endpoint {
    /// In this process: no socket and no HTTP/2 between.
    Local(LocalService),
    /// The path of a unix socket. The daemon knows the caller by its uid; no token is needed.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(TcpEndpoint),
}

impl Endpoint {
    /// A unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::Unix(path.into())
    }

    /// A TCP port with the platform's roots and no client certificate.
    #[must_use]
    pub fn tcp(url: impl Into<String>) -> Self {
        Self::Tcp(TcpEndpoint { url: url.into(), roots: TlsRoots::Platform, identity: None })
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(_) => f.write_str("Local"),
            Self::Unix(path) => f.debug_tuple("Unix").field(path).finish(),
            Self::Tcp(tcp) => f.debug_tuple("Tcp").field(&tcp.url).finish(),
        }
    }
}

/// A daemon behind TCP.
#[derive(Clone)]
pub struct TcpEndpoint {
    /// `http://host:port` or `https://host:port`, without a path. A token is sent over `http` to loopback hosts only.
    pub url: String,
    /// Which certificates `https` trusts.
    pub roots: TlsRoots,
    /// Certificate of this client, where the daemon asks for one.
    pub identity: Option<ClientIdentity>,
}

/// Which certificates are trusted.
#[derive(Clone, Debug, Default)]
pub enum TlsRoots {
    /// Those of the platform.
    #[default]
    Platform,
    /// Only these, PEM.
    Pem(Vec<u8>),
}

/// Certificate chain and private key of a client.
#[derive(Clone)]
pub struct ClientIdentity {
    /// The chain, PEM, own certificate first.
    pub certificate_pem: Vec<u8>,
    /// The key, PEM (PKCS #8, SEC1 or PKCS #1).
    pub key_pem: Arc<SecretString>,
}
