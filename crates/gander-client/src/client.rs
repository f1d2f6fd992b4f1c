//! The handle: how to connect, and one accessor per service.

use std::{sync::Arc, time::Duration};

use gander_proto::v1::{
    config_service_client::ConfigServiceClient, extension_service_client::ExtensionServiceClient,
    host_service_client::HostServiceClient, interaction_service_client::InteractionServiceClient,
    provider_service_client::ProviderServiceClient, recipe_service_client::RecipeServiceClient,
    schedule_service_client::ScheduleServiceClient, session_service_client::SessionServiceClient,
    system_service_client::SystemServiceClient, tool_service_client::ToolServiceClient,
    turn_service_client::TurnServiceClient,
};
use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::Code;

use crate::{
    ClientError, Endpoint, ReconnectOptions, Transport,
    dial::Dialer,
    pool::Pool,
    transport::{Shared, Wire},
};

/// The daemon sends at most 4 MiB; the margin is for a newer one.
const MAX_RECEIVE: usize = 8 * 1024 * 1024;

/// Deadlines of calls that bring none of their own (`tonic::Request::set_timeout`).
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// Unary calls. Sent as `grpc-timeout` and enforced here.
    pub unary: Duration,
    /// Dialling and the first answer of the connection.
    pub connect: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { unary: Duration::from_secs(60), connect: Duration::from_secs(10) }
    }
}

/// Who connects, and how.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Name and version of the program, for example `gander-acp/0.1.0`. Shown in the daemon's log and events.
    pub name: String,
    /// Protocol that the program translates from, for example `acp`. Empty: none.
    pub protocol: String,
    /// The daemon's token, for TCP. Unix sockets need none.
    pub token: Option<SecretString>,
    /// Deadlines.
    pub deadlines: Deadlines,
    /// How watches come back after a lost connection.
    pub reconnect: ReconnectOptions,
}

impl ClientOptions {
    /// Options with defaults for a program of this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            protocol: String::new(),
            token: None,
            deadlines: Deadlines::default(),
            reconnect: ReconnectOptions::default(),
        }
    }
}

/// A client of one daemon. Cheap to clone; clones share connections. Dropping the last one, and the streams opened
/// through it, closes them.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
    pub(crate) reconnect: ReconnectOptions,
}

macro_rules! accessors {
    ($($(#[$doc:meta])* $name:ident: $client:ident,)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> $client<Transport> {
            $client::new(self.transport.clone()).max_decoding_message_size(MAX_RECEIVE)
        }
    )*};
}

impl Client {
    /// Connects to a daemon and returns when the connection stands. Later losses are repaired at the next call.
    ///
    /// # Errors
    /// Nobody listens there (`UNAVAILABLE`, [`ClientError::is_transport_loss`]); options that cannot work
    /// (`INVALID_ARGUMENT`).
    pub async fn connect(endpoint: Endpoint, options: ClientOptions) -> Result<Self, ClientError> {
        let header = |name: &str, text: &str| {
            HeaderValue::try_from(text).map_err(|_| {
                ClientError::new(Code::InvalidArgument, format!("the {name} must be printable ASCII"))
            })
        };
        let client = header("client name", &options.name)?;
        let protocol = match options.protocol.as_str() {
            "" => None,
            protocol => Some(header("protocol", protocol)?),
        };
        let authorization = match &options.token {
            None => None,
            Some(token) => {
                let mut value = header("token", &format!("Bearer {}", token.expose_secret()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let dialer = match endpoint {
            Endpoint::Local(service) => {
                let wire = Wire::Local(service);
                return Ok(Self::over(wire, client, protocol, authorization, &options));
            }
            Endpoint::Unix(path) => Dialer::unix(path)?,
            Endpoint::Tcp(tcp) => Dialer::tcp(&tcp, options.token.is_some())?,
        };
        let first = tokio::time::timeout(options.deadlines.connect, dialer.connect())
            .await
            .map_err(|_| ClientError::lost("the daemon did not accept the connection in time"))??;
        let wire = Wire::Pool(Box::new(Pool::new(dialer, first)));
        Ok(Self::over(wire, client, protocol, authorization, &options))
    }

    fn over(
        wire: Wire,
        client: HeaderValue,
        protocol: Option<HeaderValue>,
        authorization: Option<HeaderValue>,
        options: &ClientOptions,
    ) -> Self {
        let shared = Shared { wire, client, protocol, authorization, unary: options.deadlines.unary };
        Self { transport: Transport { shared: Arc::new(shared) }, reconnect: options.reconnect.clone() }
    }

    /// The service under the generated clients, for services outside of `gander.v1` such as health and reflection.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport.clone()
    }

    accessors! {
        /// Sessions, their history and events.
        sessions: SessionServiceClient,
        /// Turns.
        turns: TurnServiceClient,
        /// Questions to a person.
        interactions: InteractionServiceClient,
        /// Work for a host (an editor).
        hosts: HostServiceClient,
        /// Extensions.
        extensions: ExtensionServiceClient,
        /// Tools, resources, prompts, permission rules.
        tools: ToolServiceClient,
        /// Model providers.
        providers: ProviderServiceClient,
        /// Configuration and secrets.
        config: ConfigServiceClient,
        /// Recipes.
        recipes: RecipeServiceClient,
        /// Schedules.
        schedules: ScheduleServiceClient,
        /// The daemon itself.
        system: SystemServiceClient,
    }

    /// Dials anew for further calls; for a connection that is open but dead.
    pub(crate) fn renew_connections(&self) {
        if let Wire::Pool(pool) = &self.transport.shared.wire {
            pool.renew();
        }
    }

    #[cfg(test)]
    pub(crate) fn connections(&self) -> usize {
        match &self.transport.shared.wire {
            Wire::Local(_) => 0,
            Wire::Pool(pool) => pool.connections(),
        }
    }
}
