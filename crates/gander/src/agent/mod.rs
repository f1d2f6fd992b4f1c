//! `gander agent`: what Goose Desktop starts, one per window. It holds the adapters only and shares the daemon of its
//! root with every other window, editor and script; ending it ends no turn.
//!
//! The contract with Desktop: address and secret come from the environment (`GOOSE_HOST`, `GOOSE_PORT`,
//! `GOOSE_SERVER__SECRET_KEY`), stdout carries one line, the fingerprint of the certificate, and one port serves TLS and
//! plain text, since older Desktops speak the one and newer ones the other with the same arguments.

mod certificate;
mod settings;

use std::{io::Write as _, time::Duration};

use anyhow::{Context as _, Result};
use gander_client::{Client, ClientOptions, Endpoint};
use gander_config::Paths;
use gander_goose::App;
use gander_listen::{Front, HttpAuth, HttpRoutes, Limits, Listener, Options, Server, TlsOptions};
use gander_proto::v1::WatchServerRequest;
use secrecy::SecretString;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use settings::{AgentSettings, Tls};

use crate::daemon::{self, BackgroundOptions};

/// Calls that are still on their way to the daemon get this long at the end, and so do connections. Desktop waits for
/// the end of a window's process.
const CLOSE: Duration = Duration::from_secs(1);
/// Between attempts to get a lost daemon back.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// Serves until `shutdown` is cancelled.
///
/// # Errors
/// Settings that cannot work, a taken address, a daemon that cannot be started.
pub async fn serve(
    paths: Paths,
    background: BackgroundOptions,
    settings: AgentSettings,
    shutdown: CancellationToken,
) -> Result<()> {
    let tls = settings
        .tls
        .as_ref()
        .map(|tls| tls_options(tls, &paths, settings.address.ip().is_loopback()))
        .transpose()?;
    let fingerprint = tls.as_ref().map(|tls| certificate::fingerprint(&tls.cert_pem)).transpose()?;
    // The address first: a taken one is told before a daemon is started for nothing.
    let listener = Listener::tcp(settings.address, tls).await?;
    let endpoint = daemon::ensure(&paths, &background).await?;
    let client = connect(endpoint.clone(), "gander-goose", gander_goose::PROTOCOL).await?;
    // Newer Desktops open a WebSocket to `/acp` on the port that they started.
    let acp = gander_acp::remote::App::new(
        connect(endpoint, "gander-acp", "acp").await?,
        gander_acp::remote::RemoteOptions::new(
            settings.options.secret.clone(),
            gander_acp::Options {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                client_environment: daemon::client_environment(&background.environment),
                ..gander_acp::Options::default()
            },
        ),
    );
    let _presence = AbortOnDropHandle::new(tokio::spawn(stay_connected(client.clone(), paths, background)));
    let app = App::new(client, settings.options.clone());
    let front = Front::new(
        gander_listen::App {
            grpc: tonic::service::Routes::default(),
            http: Some(HttpRoutes {
                router: gander_goose::router(app.clone()).merge(gander_acp::remote::router(acp.clone())),
                auth: HttpAuth::Router,
            }),
        },
        Options {
            token: Some(settings.options.secret.clone()),
            // A turn's stream is as long as the turn.
            limits: Limits { default_deadline: None, ..Limits::default() },
            ..Options::default()
        },
    );
    let server = Server::start(listener, &front)?;
    if let Some(fingerprint) = fingerprint {
        announce(&fingerprint);
    }
    shutdown.cancelled().await;
    tokio::join!(app.close(CLOSE), acp.close(CLOSE));
    server.drain(CLOSE).await;
    Ok(())
}

/// The one line on stdout. Nothing may follow it: newer Desktops stop reading.
fn announce(fingerprint: &str) {
    let mut out = std::io::stdout().lock();
    // Older Desktops and people need no fingerprint: that nobody reads it is no reason not to serve.
    let _ = writeln!(out, "GOOSED_CERT_FINGERPRINT={fingerprint}").and_then(|()| out.flush());
}

async fn connect(endpoint: Endpoint, name: &str, protocol: &str) -> Result<Client> {
    let mut options = ClientOptions::new(format!("{name}/{}", env!("CARGO_PKG_VERSION")));
    options.protocol = protocol.to_owned();
    Client::connect(endpoint, options).await.context("cannot connect to the daemon")
}

/// Keeps one stream open, so that the daemon does not end for want of clients between two requests, and starts another
/// daemon when this one is gone. Calls find it by themselves: the socket is the same.
pub(crate) async fn stay_connected(client: Client, paths: Paths, background: BackgroundOptions) {
    let mut failures = 0;
    loop {
        if let Ok(stream) = client.system().watch_server(WatchServerRequest::default()).await {
            failures = 0;
            let mut stream = stream.into_inner();
            while let Ok(Some(_)) = stream.message().await {}
        }
        tokio::time::sleep(PAUSES.get(failures).copied().unwrap_or(PAUSES[PAUSES.len() - 1])).await;
        failures += 1;
        if let Err(error) = daemon::ensure(&paths, &background).await {
            tracing::warn!(%error, "the daemon is gone and could not be started again");
        }
    }
}

/// The certificate that was named, else this root's own. Plain text on the same port is for loopback addresses only.
fn tls_options(tls: &Tls, paths: &Paths, loopback: bool) -> Result<TlsOptions> {
    let (cert_pem, key_pem) = match tls {
        Tls::Own => certificate::load_or_create(&paths.config_dir().join("tls"))?,
        Tls::Files { cert, key } => (certificate::read(cert)?, certificate::read(key)?),
    };
    let key_pem = String::from_utf8(key_pem).context("the private key is not a PEM file")?;
    Ok(TlsOptions {
        cert_pem,
        key_pem: SecretString::from(key_pem),
        client_ca_pem: None,
        allow_plain: loopback,
    })
}
