//! The HTTP client of discovery, registration and token requests.
//!
//! The addresses in these requests come from servers, so this is where a hostile one would aim at the inside of a
//! network: a host may be a private or loopback address only when the MCP server itself was configured as one, and
//! link-local and other special addresses are never contacted. Names are checked after they were resolved, and what
//! was checked is what is connected to. Bodies and times are bounded.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use rmcp::transport::auth::{
    OAuthHttpClient, OAuthHttpClientError, OAuthHttpClientFuture, OAuthHttpRedirectPolicy, OAuthHttpRequest,
};
use url::{Host, Url};

use crate::http::tls;

/// Largest body.
const MAX_BODY: usize = 1024 * 1024;
/// One request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_REDIRECTS: usize = 5;

/// What may be contacted, decided by the address that the user configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    Public,
    Private,
    Loopback,
}

impl Reach {
    pub(super) fn of(base: &Url) -> Self {
        match base.host() {
            Some(Host::Domain(name)) if is_localhost(name) => Self::Loopback,
            Some(Host::Ipv4(ip)) => class(IpAddr::V4(ip)).unwrap_or(Self::Public),
            Some(Host::Ipv6(ip)) => class(IpAddr::V6(ip)).unwrap_or(Self::Public),
            _ => Self::Public,
        }
    }

    fn allows(self, ip: IpAddr) -> bool {
        class(ip).is_some_and(|class| class <= self)
    }

    /// Whether a request to `url` may be made, as far as can be told before its name is resolved.
    pub(super) fn allows_url(self, url: &Url) -> bool {
        let known_scheme = matches!(url.scheme(), "http" | "https");
        known_scheme
            && match url.host() {
                Some(Host::Ipv4(ip)) => self.allows(IpAddr::V4(ip)),
                Some(Host::Ipv6(ip)) => self.allows(IpAddr::V6(ip)),
                Some(Host::Domain(name)) => self == Self::Loopback || !is_localhost(name),
                None => false,
            }
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// The class of an address; `None` for those that are never contacted.
fn class(ip: IpAddr) -> Option<Reach> {
    match ip {
        IpAddr::V4(ip) => class_v4(ip),
        IpAddr::V6(ip) => class_v6(ip),
    }
}

fn class_v4(ip: Ipv4Addr) -> Option<Reach> {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b & 0xfe) == 18);
    if special {
        None
    } else if ip.is_loopback() {
        Some(Reach::Loopback)
    } else if ip.is_private() || (a == 100 && (b & 0xc0) == 64) {
        Some(Reach::Private)
    } else {
        Some(Reach::Public)
    }
}

fn class_v6(ip: Ipv6Addr) -> Option<Reach> {
    let segments = ip.segments();
    // Addresses that carry an IPv4 address are what they carry: mapped, NAT64, 6to4.
    let carried = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        class_v4(Ipv4Addr::new(a, b, c, d))
    };
    if ip.is_loopback() {
        return Some(Reach::Loopback);
    }
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => carried(high, low),
        [0x2002, high, low, ..] => carried(high, low),
        [first, ..] if first & 0xfe00 == 0xfc00 => Some(Reach::Private),
        // Only global unicast, without documentation and Teredo.
        [0x2001, 0xdb8 | 0, ..] => None,
        [first, ..] if first & 0xe000 == 0x2000 => Some(Reach::Public),
        _ => None,
    }
}

/// Resolves names and leaves out what may not be contacted.
struct Resolver(Reach);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| reach.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(format!(
                    "{} has no address that a server at a {} address may name for its authorization",
                    name.as_str(),
                    match reach {
                        Reach::Public => "public",
                        Reach::Private => "private",
                        Reach::Loopback => "loopback",
                    }
                )
                .into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// See the module.
pub(super) struct Fetcher {
    reach: Reach,
    follow: reqwest::Client,
    stop: reqwest::Client,
}

impl Fetcher {
    /// For the authorization of the server at `base`.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(base: &Url) -> Result<Self, String> {
        let reach = Reach::of(base);
        let build = |redirect: Policy| {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls()?)
                .connect_timeout(Duration::from_secs(10))
                .timeout(REQUEST_TIMEOUT)
                .dns_resolver(Arc::new(Resolver(reach)))
                .redirect(redirect)
                .build()
                .map_err(|error| error.to_string())
        };
        let follow = Policy::custom(move |attempt| {
            if !reach.allows_url(attempt.url()) {
                attempt.error("a redirect to an address that is not allowed")
            } else if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many redirects")
            } else {
                attempt.follow()
            }
        });
        Ok(Self { reach, follow: build(follow)?, stop: build(Policy::none())? })
    }

    async fn execute_one(
        &self,
        request: OAuthHttpRequest,
    ) -> Result<http::Response<Vec<u8>>, OAuthHttpClientError> {
        let client = match request.redirect_policy {
            OAuthHttpRedirectPolicy::Follow => &self.follow,
            _ => &self.stop,
        };
        let request = reqwest::Request::try_from(request.request)?;
        if !self.reach.allows_url(request.url()) {
            let host = request.url().host_str().unwrap_or_default().to_owned();
            return Err(format!("the address {host} may not be contacted for this server").into());
        }
        let response = client.execute(request).await?;
        let mut builder = http::Response::builder().status(response.status());
        for (name, value) in response.headers() {
            builder = builder.header(name, value);
        }
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            if body.len() + chunk.len() > MAX_BODY {
                return Err("the answer is larger than 1 MiB".into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(builder.body(body)?)
    }
}

impl OAuthHttpClient for Fetcher {
    fn execute(&self, request: OAuthHttpRequest) -> OAuthHttpClientFuture<'_> {
        Box::pin(self.execute_one(request))
    }
}
