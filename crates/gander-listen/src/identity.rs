//! Who calls: what a connection proves, what a request adds, and what the application is told.

use std::net::SocketAddr;

use http::{HeaderMap, header::AUTHORIZATION};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

/// Longest client name or protocol that is passed on.
const MAX_NAME: usize = 128;

/// What a connection came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// The same process.
    Local,
    /// A unix socket.
    Unix,
    /// TCP.
    Tcp,
}

/// Who sent a request. Handed to the application's `identify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Who that is: `uid:N` (unix socket), `token`, `certificate`, or `anonymous` where no proof was asked for (the
    /// health check, and HTTP routes that authenticate by themselves).
    pub principal: String,
    /// How it came.
    pub kind: PeerKind,
    /// Its process, on unix sockets.
    pub pid: Option<u32>,
    /// Its address, on TCP.
    pub address: Option<SocketAddr>,
    /// Program that it says it is (metadata `gander-client`). May be empty.
    pub client: String,
    /// Protocol that the program says it translates from (metadata `gander-protocol`). May be empty.
    pub protocol: String,
}

impl PeerIdentity {
    /// A caller in the same process.
    #[must_use]
    pub fn local(principal: impl Into<String>) -> Self {
        Self {
            principal: principal.into(),
            kind: PeerKind::Local,
            pid: None,
            address: None,
            client: String::new(),
            protocol: String::new(),
        }
    }

    /// The same with what the request says about itself.
    pub(crate) fn with_headers(mut self, headers: &HeaderMap) -> Self {
        self.client = text(headers, "gander-client");
        self.protocol = text(headers, "gander-protocol");
        self
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.chars().take(MAX_NAME).collect()
}

/// Tells which processes belong to tools. Such processes may not use the API.
pub trait CallerCheck: Send + Sync {
    /// Whether the process is a tool or descends from one.
    fn is_tool(&self, pid: u32) -> bool;

    /// Whether any tool process lives. While none does, TCP peers need not be looked up.
    fn any_tool(&self) -> bool {
        true
    }
}

impl<F: Fn(u32) -> bool + Send + Sync> CallerCheck for F {
    fn is_tool(&self, pid: u32) -> bool {
        self(pid)
    }
}

/// Whether the request carries the token, as a bearer token or, where `secret_header` allows, as `X-Secret-Key`.
/// The comparison takes the same time wherever the first difference is.
pub(crate) fn has_token(headers: &HeaderMap, token: &SecretString, secret_header: bool) -> bool {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, rest) = value.as_bytes().split_at_checked("bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(rest)
    });
    let key = headers.get("x-secret-key").filter(|_| secret_header).map(http::HeaderValue::as_bytes);
    let token = token.expose_secret().as_bytes();
    let matches = |given: &[u8]| bool::from(given.ct_eq(token));
    !token.is_empty() && (bearer.is_some_and(matches) || key.is_some_and(matches))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_in_its_place_counts() {
        let token = SecretString::from("secret");
        let check = |name: &'static str, value: &'static str, secret_header: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            has_token(&headers, &token, secret_header)
        };
        assert!(check("authorization", "Bearer secret", false));
        assert!(check("authorization", "bearer secret", false));
        assert!(check("x-secret-key", "secret", true));
        for (name, value, secret_header) in [
            ("authorization", "secret", false),
            ("authorization", "Basic secret", false),
            ("authorization", "Bearer secre", false),
            ("authorization", "Bearer secrets", false),
            ("authorization", "Bearer ", false),
            ("x-secret-key", "secret", false),
            ("x-secret-key", "wrong", true),
        ] {
            assert!(!check(name, value, secret_header), "{name}: {value}");
        }
        assert!(!has_token(&HeaderMap::new(), &SecretString::from(""), true));
    }
}
