//! Clients without a socket: the adapters on the daemon's own TCP port, and the daemon's own work over the API.

use anyhow::Result;
use gander_client::{Client, ClientOptions, Endpoint};
use gander_config::Secret;
use gander_listen::{Front, HttpAuth, HttpRoutes, LocalService, Options, PeerIdentity};
use secrecy::SecretString;
use tonic::service::Routes;

/// The adapters, to be closed before the listeners.
pub(super) struct Adapters {
    goose: gander_goose::App,
    acp: gander_acp::remote::App,
}

impl Adapters {
    /// The adapters over these services. The daemon's token is the secret of their HTTP routes.
    pub(super) async fn new(services: Routes, options: &Options, token: &Secret) -> Result<Self> {
        let secret = || SecretString::from(token.expose().to_owned());
        let goose = client(services.clone(), options, "gander-goose", gander_goose::PROTOCOL).await?;
        let acp = client(services, options, "gander-acp", "acp").await?;
        let connection = gander_acp::Options {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..gander_acp::Options::default()
        };
        let mut remote = gander_acp::remote::RemoteOptions::new(secret(), connection);
        remote.allowed_origins.clone_from(&options.allowed_origins);
        Ok(Self {
            goose: gander_goose::App::new(goose, gander_goose::Options::new(secret())),
            acp: gander_acp::remote::App::new(acp, remote),
        })
    }

    /// What they serve beside gRPC. They check the secret themselves, each in its protocol's way.
    pub(super) fn routes(&self) -> HttpRoutes {
        let goose = gander_goose::router(self.goose.clone());
        let acp = gander_acp::remote::router(self.acp.clone());
        HttpRoutes { router: goose.merge(acp), auth: HttpAuth::Router }
    }

    /// Ends their streams; no turn is cancelled by it.
    pub(super) async fn close(&self, at_most: std::time::Duration) {
        tokio::join!(self.goose.close(at_most), self.acp.close(at_most));
    }
}

/// A client in this process for the daemon's own work over the API.
pub(super) async fn client(
    services: Routes,
    options: &Options,
    name: &str,
    protocol: &str,
) -> Result<Client> {
    let mut client = ClientOptions::new(format!("{name}/{}", env!("CARGO_PKG_VERSION")));
    client.protocol = protocol.to_owned();
    Ok(Client::connect(Endpoint::Local(local(services, options)), client).await?)
}

/// The services for callers that an adapter has let in: whoever has the token.
fn local(services: Routes, options: &Options) -> LocalService {
    let app = gander_listen::App { grpc: services, http: None };
    Front::new(app, options.clone()).local(PeerIdentity::local("token"))
}
