//! Address, secret and TLS of `gander agent`, from the environment as Goose Desktop sets it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use gander_config::{Environment, Paths, token};
use secrecy::SecretString;

use crate::daemon::client_environment;

const HOST: &str = "GOOSE_HOST";
const PORT: &str = "GOOSE_PORT";
const SECRET: &str = "GOOSE_SERVER__SECRET_KEY";
const TLS: &str = "GOOSE_TLS";
const CERT: &str = "GOOSE_TLS_CERT_PATH";
const KEY: &str = "GOOSE_TLS_KEY_PATH";
/// As Goose's server.
const DEFAULT_PORT: u16 = 3000;

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// A self-signed one, kept in the configuration directory.
    Own,
    /// PEM files.
    Files { cert: PathBuf, key: PathBuf },
}

/// What `gander agent` was told.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    pub address: SocketAddr,
    /// `None`: plain text only.
    pub tls: Option<Tls>,
    pub options: gander_goose::Options,
}

impl AgentSettings {
    /// Reads the environment. Without a secret of its own the surface takes the token of the root, which the person who
    /// starts it by hand can read.
    ///
    /// # Errors
    /// A value that cannot work; the message names the variable.
    pub fn from_environment(environment: &Environment, paths: &Paths) -> Result<Self> {
        let address = SocketAddr::new(host(environment)?, port(environment)?);
        let tls = tls(environment)?;
        if tls.is_none() && !address.ip().is_loopback() {
            bail!(
                "{HOST} is {}, which other machines can reach: {TLS}=false is for loopback addresses only",
                address.ip()
            );
        }
        let mut options = gander_goose::Options::new(secret(environment, paths)?);
        options.client_environment = client_environment(environment).into_iter().collect::<HashMap<_, _>>();
        Ok(Self { address, tls, options })
    }
}

fn host(environment: &Environment) -> Result<IpAddr> {
    match environment.get(HOST) {
        None | Some("localhost") => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Some(text) => {
            text.parse().map_err(|_| anyhow::anyhow!("{HOST} is {text:?}; it must be an IP address"))
        }
    }
}

fn port(environment: &Environment) -> Result<u16> {
    match environment.get(PORT) {
        None => Ok(DEFAULT_PORT),
        Some(text) => {
            text.parse().map_err(|_| anyhow::anyhow!("{PORT} is {text:?}; it must be a port number"))
        }
    }
}

fn secret(environment: &Environment, paths: &Paths) -> Result<SecretString> {
    match environment.get(SECRET) {
        // Goose's default of old. Any web page knows it, and the surface answers every origin.
        Some("test") => bail!(
            "{SECRET} is \"test\", which every web page can guess: choose another one and set the same in Desktop's \
             settings of the external server"
        ),
        Some(text) => Ok(SecretString::from(text)),
        None => {
            let token = token::load_or_create(paths).with_context(|| format!("{SECRET} is not set"))?;
            Ok(SecretString::from(token.expose()))
        }
    }
}

fn tls(environment: &Environment) -> Result<Option<Tls>> {
    if environment
        .get(TLS)
        .is_some_and(|text| ["false", "0", "no"].contains(&text.to_ascii_lowercase().as_str()))
    {
        return Ok(None);
    }
    match (environment.get(CERT), environment.get(KEY)) {
        (None, None) => Ok(Some(Tls::Own)),
        (Some(cert), Some(key)) => Ok(Some(Tls::Files { cert: cert.into(), key: key.into() })),
        (Some(_), None) => bail!("{CERT} is set but {KEY} is not: a certificate needs its private key"),
        (None, Some(_)) => bail!("{KEY} is set but {CERT} is not: a private key needs its certificate"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<AgentSettings> {
        let root = tempfile::tempdir().unwrap();
        let environment: Environment = variables.iter().copied().collect();
        let paths = Paths::resolve(Some(root.path()), &environment).unwrap();
        paths.create_dirs().unwrap();
        AgentSettings::from_environment(&environment, &paths)
    }

    #[test]
    fn what_desktop_sets() {
        let settings =
            settings(&[(PORT, "4711"), (SECRET, "s3cret"), ("PATH", "/bin"), ("OPENAI_API_KEY", "k")])
                .unwrap();
        assert_eq!(settings.address.to_string(), "127.0.0.1:4711");
        assert_eq!(settings.tls, Some(Tls::Own));
        assert_eq!(
            settings.options.client_environment,
            HashMap::from([("PATH".to_owned(), "/bin".to_owned())])
        );
    }

    #[test]
    fn certificates() {
        let of =
            |variables: &[(&str, &str)]| settings(&[&[(SECRET, "s")], variables].concat()).map(|s| s.tls);
        assert_eq!(of(&[(TLS, "false")]).unwrap(), None);
        assert_eq!(of(&[(TLS, "true")]).unwrap(), Some(Tls::Own));
        let files = Tls::Files { cert: "c".into(), key: "k".into() };
        assert_eq!(of(&[(CERT, "c"), (KEY, "k")]).unwrap(), Some(files));
    }

    #[test]
    fn what_cannot_work_is_named() {
        for (variables, wanted) in [
            (&[(HOST, "example.com")][..], HOST),
            (&[(PORT, "x")], PORT),
            (&[(PORT, "70000")], PORT),
            (&[(SECRET, "test")], SECRET),
            (&[(CERT, "c")], KEY),
            (&[(KEY, "k")], CERT),
            (&[(HOST, "0.0.0.0"), (TLS, "false")], TLS),
        ] {
            let error = settings(variables).unwrap_err().to_string();
            assert!(error.contains(wanted), "{variables:?}: {error}");
        }
    }

    #[test]
    fn without_a_secret_the_roots_token_is_it() {
        assert!(settings(&[]).is_ok());
    }
}
