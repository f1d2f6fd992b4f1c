//! Bound sockets. Everything that can be wrong with an address is said here, before anything is served.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use crate::{ListenError, TlsOptions, procfs};

/// Where a server can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddress {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port; with port 0 asked for, the one that was given.
    Tcp(SocketAddr),
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// A bound socket that nobody serves yet. Connections wait in its backlog.
#[derive(Debug)]
pub struct Listener {
    pub(crate) socket: Socket,
}

pub(crate) enum Socket {
    Unix(UnixListener, SocketFile),
    Tcp { listener: TcpListener, address: SocketAddr, tls: Option<Tls> },
}

pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) allow_plain: bool,
    pub(crate) client_ca: bool,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(_, file) => f.debug_tuple("Unix").field(&file.path).finish(),
            Self::Tcp { address, tls, .. } => {
                f.debug_struct("Tcp").field("address", address).field("tls", &tls.is_some()).finish()
            }
        }
    }
}

impl Listener {
    /// Binds a unix socket with mode 0600. Its directory must exist, belong to this user and have mode 0700. A socket
    /// that a dead process left is replaced, which is found out by a failed connect.
    ///
    /// # Errors
    /// A living holder, a path that is no socket, an open directory, or what the system says.
    pub async fn unix(path: impl Into<PathBuf>) -> Result<Self, ListenError> {
        let path = path.into();
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        let metadata = fs::metadata(&directory).map_err(ListenError::io(directory.display()))?;
        let private = metadata.is_dir()
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.permissions().mode() & 0o077 == 0;
        if !private {
            return Err(ListenError::DirectoryNotPrivate { path: directory });
        }
        refuse_living(&path).await?;
        let failed = || ListenError::io(path.display());
        // Bound beside its place and moved there: no moment with other permissions, and the dead one is replaced.
        let beside = directory.join(format!(".{:x}", uuid::Uuid::now_v7().as_u128() as u32));
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside).map_err(failed())?;
        let placed = fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&beside, &path))
            .and_then(|()| fs::symlink_metadata(&path));
        match placed {
            Ok(metadata) => {
                let file = SocketFile { path, device: metadata.dev(), inode: metadata.ino() };
                Ok(Self { socket: Socket::Unix(listener, file) })
            }
            Err(error) => {
                let _ = fs::remove_file(&beside);
                Err(failed()(error))
            }
        }
    }

    /// Binds a TCP port; port 0 takes a free one.
    ///
    /// # Errors
    /// A non-loopback address without TLS, or with plain text allowed beside it; an unusable certificate; a taken
    /// port.
    pub async fn tcp(address: SocketAddr, tls: Option<TlsOptions>) -> Result<Self, ListenError> {
        let only_tls = tls.as_ref().is_some_and(|tls| !tls.allow_plain);
        if !address.ip().to_canonical().is_loopback() && !only_tls {
            return Err(ListenError::NeedsTls { address });
        }
        let tls = match tls {
            None => None,
            Some(options) => Some(Tls {
                acceptor: options.acceptor()?,
                allow_plain: options.allow_plain,
                client_ca: options.client_ca_pem.is_some(),
            }),
        };
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let holder = procfs::listener_holder(address);
                return Err(ListenError::PortInUse { address, holder });
            }
            Err(error) => return Err(ListenError::io(address)(error)),
        };
        let address = listener.local_addr().map_err(ListenError::io(address))?;
        Ok(Self { socket: Socket::Tcp { listener, address, tls } })
    }

    /// Where it is bound.
    #[must_use]
    pub fn address(&self) -> BoundAddress {
        match &self.socket {
            Socket::Unix(_, file) => BoundAddress::Unix(file.path.clone()),
            Socket::Tcp { address, .. } => BoundAddress::Tcp(*address),
        }
    }
}

/// Errors unless `path` is free or a socket that nobody accepts on.
async fn refuse_living(path: &Path) -> Result<(), ListenError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ListenError::io(path.display())(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        // A full backlog is a living holder that is busy.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            Err(ListenError::io(path.display())(error))
        }
        outcome => {
            let pid = outcome.ok().and_then(|stream| stream.peer_cred().ok()).and_then(|peer| peer.pid());
            let pid = pid.and_then(|pid| u32::try_from(pid).ok());
            let holder = pid.map_or_else(|| "another process".to_owned(), procfs::name);
            Err(ListenError::SocketInUse { path: path.to_owned(), holder })
        }
    }
}

/// The file of a bound unix socket. Dropping it removes the file, unless another one has taken its place.
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.dev() == self.device && metadata.ino() == self.inode);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}
