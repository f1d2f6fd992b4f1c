//! Why a listener cannot be opened or served. Every text names the remedy.

use std::{io, net::SocketAddr, path::PathBuf};

/// A listener that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A living process accepts connections on this socket.
    #[error("{} is in use by {holder}: stop it, or choose another directory", path.display())]
    SocketInUse {
        /// The socket.
        path: PathBuf,
        /// Number and name of the process, where the system tells.
        holder: String,
    },
    /// Something that is not a socket stands where the socket should be.
    #[error("{} exists and is not a socket: move it away", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Others could reach the socket through its directory.
    #[error("the directory {} must belong to this user with mode 0700: run `chmod 700` on it", path.display())]
    DirectoryNotPrivate {
        /// The directory.
        path: PathBuf,
    },
    /// The port is taken.
    #[error("{address} is in use by {holder}: stop it, or choose another port (port 0 takes a free one)")]
    PortInUse {
        /// The address.
        address: SocketAddr,
        /// Number and name of the process, where the system tells.
        holder: String,
    },
    /// A non-loopback address without TLS.
    #[error(
        "{address} can be reached from other machines, so it needs TLS: give a certificate and key, or listen on a \
         loopback address such as 127.0.0.1"
    )]
    NeedsTls {
        /// The address.
        address: SocketAddr,
    },
    /// A TCP port without a way to tell callers apart.
    #[error(
        "{address} needs a token, or TLS with a CA for client certificates: any local user can reach a TCP port"
    )]
    NeedsToken {
        /// The address.
        address: SocketAddr,
    },
    /// Certificate or key cannot be used.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The system refused.
    #[error("cannot listen on {what}: {source}")]
    Io {
        /// Path or address.
        what: String,
        /// Its reason.
        source: io::Error,
    },
}

impl ListenError {
    pub(crate) fn io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { what, source }
    }
}
