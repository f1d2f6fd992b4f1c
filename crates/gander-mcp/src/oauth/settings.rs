//! What a user may decide about the authorization of one server, taken from the extension's environment (`envs` and
//! `env_keys`), so that secrets come from the secret store like all others.

use std::{collections::BTreeMap, fmt};

/// Identity issued by the authorization server beforehand.
const CLIENT_ID: &str = "MCP_OAUTH_CLIENT_ID";
const CLIENT_SECRET: &str = "MCP_OAUTH_CLIENT_SECRET";
/// Address of a Client ID Metadata Document, used where the authorization server supports it.
const CLIENT_METADATA_URL: &str = "MCP_OAUTH_CLIENT_METADATA_URL";
/// Scopes instead of those that the server asks for, separated by spaces.
const SCOPES: &str = "MCP_OAUTH_SCOPES";
/// `authorization_code` (default) or `client_credentials`.
const GRANT: &str = "MCP_OAUTH_GRANT";
/// Port of the redirect, for authorization servers that compare it.
const REDIRECT_PORT: &str = "MCP_OAUTH_REDIRECT_PORT";

/// See the module.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) client_id: Option<String>,
    pub(super) client_secret: Option<String>,
    pub(super) client_metadata_url: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) client_credentials: bool,
    pub(super) redirect_port: Option<u16>,
}

impl fmt::Debug for Settings {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

impl Settings {
    /// # Errors
    /// Which variable is wrong.
    pub(super) fn new(
        env: &BTreeMap<String, String>,
        secrets: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let get = |name: &str| {
            let value = secrets.get(name).or_else(|| env.get(name)).map(|value| value.trim().to_owned());
            value.filter(|value| !value.is_empty())
        };
        let client_credentials = match get(GRANT).as_deref() {
            None | Some("authorization_code") => false,
            Some("client_credentials") => true,
            Some(other) => {
                return Err(format!(
                    "{GRANT} is {other:?}; it must be authorization_code or client_credentials"
                ));
            }
        };
        let redirect_port = match get(REDIRECT_PORT).map(|port| port.parse::<u16>()) {
            None => None,
            Some(Ok(port @ 1..)) => Some(port),
            Some(_) => return Err(format!("{REDIRECT_PORT} must be a port number")),
        };
        let settings = Self {
            client_id: get(CLIENT_ID),
            client_secret: get(CLIENT_SECRET),
            client_metadata_url: get(CLIENT_METADATA_URL),
            scopes: get(SCOPES)
                .map(|text| text.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            client_credentials,
            redirect_port,
        };
        if settings.client_secret.is_some() && settings.client_id.is_none() {
            return Err(format!("{CLIENT_SECRET} needs {CLIENT_ID}"));
        }
        if client_credentials && settings.client_secret.is_none() {
            return Err(format!("{GRANT}=client_credentials needs {CLIENT_ID} and {CLIENT_SECRET}"));
        }
        Ok(settings)
    }
}
