//! Which engine a command talks to: the one that was named, else the daemon of this root, else one inside of this
//! process. Whatever it is, the command sees a [`Client`].

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use gander_client::{Client, ClientOptions, Endpoint, TcpEndpoint, TlsRoots};
use gander_config::{Environment, Paths, token};
use secrecy::SecretString;

use super::{
    args::Global,
    error::{CliError, CliResult},
    output::Output,
};
use crate::daemon::{self, BackgroundOptions, DaemonOptions, Embedded};

/// What every command gets.
pub(super) struct Context {
    pub(super) global: Global,
    pub(super) environment: Environment,
    /// The directory in which the program was started.
    pub(super) cwd: PathBuf,
    pub(super) out: Output,
    /// What the command is to the daemon: `cli`, or the protocol that it translates.
    pub(super) protocol: &'static str,
}

/// Whether a command may start an engine in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Embed {
    Allowed,
    Never,
}

/// Where the engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The address that was asked for.
    Server(String),
    /// The daemon of this root.
    Daemon,
    /// In this process: it ends with it.
    Embedded,
}

/// A client, and the engine if it is in this process.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) place: Place,
    embedded: Option<Embedded>,
}

impl Connected {
    /// Ends the connection; an engine in this process is stopped in order.
    pub(super) async fn close(self) {
        drop(self.client);
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

impl Context {
    /// A path of the command line, absolute.
    pub(super) fn absolute(&self, path: &Path) -> PathBuf {
        self.cwd.join(path)
    }

    fn root(&self) -> Option<PathBuf> {
        self.global.root.as_deref().map(|root| self.absolute(root))
    }

    pub(super) fn paths(&self) -> CliResult<Paths> {
        Ok(Paths::resolve(self.root().as_deref(), &self.environment)?)
    }

    pub(super) fn daemon_options(&self) -> DaemonOptions {
        DaemonOptions { root: self.root(), ..DaemonOptions::new(self.environment.clone()) }
    }

    /// The engine for a command.
    pub(super) async fn connect(&self, embed: Embed) -> CliResult<Connected> {
        if let Some(connected) = self.running().await? {
            return Ok(connected);
        }
        if embed == Embed::Never {
            return Err(self.no_daemon()?);
        }
        self.embed(self.daemon_options()).await
    }

    /// An engine in this process, whether or not a daemon runs.
    pub(super) async fn embed(&self, options: DaemonOptions) -> CliResult<Connected> {
        let embedded = Embedded::start(options).await?;
        let client = self.client(embedded.endpoint(), None).await?;
        Ok(Connected { client, place: Place::Embedded, embedded: Some(embedded) })
    }

    /// The daemon that was named, else this root's, started in the background if need be; in this process only where
    /// that was asked for. For programs that live as long as a window or an editor.
    pub(super) async fn shared(&self) -> CliResult<Connected> {
        if self.global.embed {
            return self.connect(Embed::Allowed).await;
        }
        if self.global.server.is_none() {
            daemon::ensure(&self.paths()?, &self.background_options()?).await?;
        }
        self.connect(Embed::Never).await
    }

    pub(super) fn background_options(&self) -> CliResult<BackgroundOptions> {
        let executable = std::env::current_exe()
            .map_err(|error| CliError::new(format!("cannot tell which program this is: {error}")))?;
        Ok(BackgroundOptions { executable, root: self.root(), environment: self.environment.clone() })
    }

    /// The daemon that was named or that runs for this root; `None` if none runs or `--embed` was given.
    pub(super) async fn running(&self) -> CliResult<Option<Connected>> {
        // Before --server, which may come from the environment.
        if self.global.embed {
            return Ok(None);
        }
        if let Some(server) = &self.global.server {
            let client = self.client(self.endpoint(server)?, self.token(server)?).await.map_err(|error| {
                let message = format!("cannot reach {server}: {}", error.message);
                CliError { message, ..error }
            })?;
            return Ok(Some(Connected { client, place: Place::Server(server.clone()), embedded: None }));
        }
        let Some(endpoint) = daemon::find_running(&self.paths()?).await? else { return Ok(None) };
        let client = self.client(endpoint, None).await?;
        Ok(Some(Connected { client, place: Place::Daemon, embedded: None }))
    }

    pub(super) fn no_daemon(&self) -> CliResult<CliError> {
        let data = self.paths()?.data_dir().display().to_string();
        Ok(CliError::new(format!("no daemon runs for {data}"))
            .remedy("`gander serve` starts one; most commands work without one"))
    }

    async fn client(&self, endpoint: Endpoint, token: Option<SecretString>) -> CliResult<Client> {
        let mut options =
            ClientOptions::new(format!("gander-{}/{}", self.protocol, env!("CARGO_PKG_VERSION")));
        options.protocol = self.protocol.to_owned();
        options.token = token;
        Ok(Client::connect(endpoint, options).await?)
    }

    fn endpoint(&self, server: &str) -> CliResult<Endpoint> {
        match parse_server(server)? {
            Server::Unix(path) => Ok(Endpoint::unix(self.absolute(&path))),
            Server::Tcp(url) => {
                let roots = match &self.global.tls_ca {
                    None => TlsRoots::Platform,
                    Some(file) => TlsRoots::Pem(std::fs::read(file).map_err(|error| {
                        CliError::usage(format!("--tls-ca: cannot read {}: {error}", file.display()))
                    })?),
                };
                Ok(Endpoint::Tcp(TcpEndpoint { url, roots, identity: None }))
            }
        }
    }

    /// The token that was given, else this root's own for a daemon on this machine.
    fn token(&self, server: &str) -> CliResult<Option<SecretString>> {
        if let Some(token) = self.global.token.as_deref().filter(|token| !token.is_empty()) {
            return Ok(Some(SecretString::from(token)));
        }
        match parse_server(server)? {
            Server::Tcp(url) if is_loopback(&url) => {
                let token = token::load_existing(&self.paths()?)?;
                Ok(token.map(|token| SecretString::from(token.expose())))
            }
            _ => Ok(None),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Server {
    Unix(PathBuf),
    /// A URL without a path.
    Tcp(String),
}

fn parse_server(text: &str) -> CliResult<Server> {
    let usage = || {
        CliError::usage(format!(
            "--server: {text:?} is not an address; write HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:PATH"
        ))
    };
    if let Some(path) = text.strip_prefix("unix:") {
        // unix:///path is how gRPC libraries write it.
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() { Err(usage()) } else { Ok(Server::Unix(PathBuf::from(path))) };
    }
    let (scheme, authority) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), authority)) => (scheme, authority),
        Some(_) => return Err(usage()),
        None => ("http", text),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let port = authority.rsplit_once(':').and_then(|(host, port)| {
        let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
        (!host.is_empty()).then_some(port)
    });
    if authority.contains(['/', '@', ' ']) || (port.is_none() && scheme != "https") || authority.is_empty() {
        return Err(usage());
    }
    Ok(Server::Tcp(format!("{scheme}://{authority}")))
}

fn is_loopback(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        let tcp = |url: &str| Some(Server::Tcp(url.to_owned()));
        for (text, wanted) in [
            ("127.0.0.1:7717", tcp("http://127.0.0.1:7717")),
            ("http://localhost:1/", tcp("http://localhost:1")),
            ("https://gander.example", tcp("https://gander.example")),
            ("[::1]:7717", tcp("http://[::1]:7717")),
            ("unix:/run/x.sock", Some(Server::Unix("/run/x.sock".into()))),
            ("unix:///run/x.sock", Some(Server::Unix("/run/x.sock".into()))),
            ("unix:x.sock", Some(Server::Unix("x.sock".into()))),
            ("unix:", None),
            ("", None),
            ("localhost", None),
            (":7717", None),
            ("localhost:0", None),
            ("localhost:70000", None),
            ("ftp://x:1", None),
            ("http://user:secret@x:1", None),
            ("http://x:1/path", None),
        ] {
            assert_eq!(parse_server(text).ok(), wanted, "{text}");
        }
    }

    #[test]
    fn the_roots_token_goes_to_this_machine_only() {
        for (url, wanted) in [
            ("http://127.0.0.1:7717", true),
            ("http://127.9.9.9:1", true),
            ("http://[::1]:7717", true),
            ("http://localhost:7717", true),
            ("https://localhost", true),
            ("http://10.0.0.1:7717", false),
            ("http://localhost.example:7717", false),
            ("http://0.0.0.0:7717", false),
        ] {
            assert_eq!(is_loopback(url), wanted, "{url}");
        }
    }
}
