//! Which variables go where: tools never see a secret of the daemon's, clients send only what their tools need.

use std::collections::BTreeMap;

use gander_config::{Environment, is_secret_name};

/// Variables that a client sends with a session, besides all `LC_*` and `XDG_*`.
const CLIENT_NAMES: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TERM",
    "COLORTERM",
    "TMPDIR",
    "EDITOR",
    "VISUAL",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_TTY",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "CONDA_DEFAULT_ENV",
    "PYENV_ROOT",
    "NVM_DIR",
    "NODE_PATH",
    "GOPATH",
    "GOROOT",
    "GOPROXY",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "JAVA_HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "PKG_CONFIG_PATH",
    "LD_LIBRARY_PATH",
    "MANPATH",
    "DOCKER_HOST",
    "KUBECONFIG",
    "AWS_PROFILE",
    "AWS_REGION",
];

/// What a client may tell the daemon of its environment: a fixed list, never a secret.
pub fn client_environment(environment: &Environment) -> BTreeMap<String, String> {
    let listed =
        |name: &str| CLIENT_NAMES.contains(&name) || name.starts_with("LC_") || name.starts_with("XDG_");
    environment
        .iter()
        .filter(|(name, value)| listed(name) && !is_secret_name(name) && !has_credentials(value))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Whether a value is a URL with a user or password in it, as proxies' addresses may be.
fn has_credentials(value: &str) -> bool {
    let authority = value.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    authority.is_some_and(|authority| authority.contains('@'))
}

/// What tools of sessions without a client's environment get: the daemon's own, without secrets and own settings.
pub fn tool_environment(environment: &Environment) -> BTreeMap<String, String> {
    let own = |name: &str| name.starts_with("GANDER_") || name.starts_with("GOOSE_");
    environment
        .iter()
        .filter(|(name, value)| !is_secret_name(name) && !own(name) && !has_credentials(value))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_nowhere() {
        let environment: Environment = [
            ("PATH", "/bin"),
            ("LC_ALL", "C"),
            ("OPENAI_API_KEY", "sk"),
            ("GITHUB_TOKEN", "gh"),
            ("HTTPS_PROXY", "http://me:secret@proxy:8080"),
            ("http_proxy", "http://proxy:8080/a@b"),
            ("GOOSE_PROVIDER", "openai"),
            ("MY_SETTING", "1"),
        ]
        .into_iter()
        .collect();
        let names = |map: BTreeMap<String, String>| map.into_keys().collect::<Vec<_>>();
        assert_eq!(names(client_environment(&environment)), ["LC_ALL", "PATH", "http_proxy"]);
        assert_eq!(names(tool_environment(&environment)), ["LC_ALL", "MY_SETTING", "PATH", "http_proxy"]);
    }
}
