//! Host and Origin: what keeps a web page from reaching the daemon through the user's browser (DNS rebinding and
//! cross-site requests), and CORS for the pages that may.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, HeaderValue, Response, StatusCode, Uri,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HOST, ORIGIN, VARY,
    },
};
use tonic::body::Body;

const ALLOW_HEADERS: HeaderValue = HeaderValue::from_static(
    "content-type,x-grpc-web,x-user-agent,grpc-timeout,authorization,gander-client,gander-protocol",
);
const EXPOSE_HEADERS: HeaderValue =
    HeaderValue::from_static("grpc-status,grpc-message,grpc-status-details-bin");

/// Whether a request to a loopback port names a loopback host. A page of `evil.example` that resolves to 127.0.0.1
/// names `evil.example`.
pub(crate) fn host_allowed(uri: &Uri, headers: &HeaderMap, own: SocketAddr, extra: &[String]) -> bool {
    if !own.ip().to_canonical().is_loopback() {
        return true;
    }
    let named = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(HOST).and_then(|value| value.to_str().ok()),
    };
    named.is_some_and(|named| {
        let host = without_port(named);
        is_loopback(host) || extra.iter().any(|extra| extra.eq_ignore_ascii_case(host))
    })
}

/// Whether a page of this origin may call. Programs send none.
pub(crate) fn origin_allowed(headers: &HeaderMap, extra: &[String]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    if origin == "null" || origin.starts_with("file://") || extra.iter().any(|extra| extra == origin) {
        return true;
    }
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|rest| is_loopback(without_port(rest)))
}

/// The answer to a browser's question whether it may call.
pub(crate) fn preflight(headers: &HeaderMap, extra: &[String]) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if origin_allowed(headers, extra) {
        let answer = response.headers_mut();
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOW_HEADERS);
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
        allow(answer, headers.get(ORIGIN));
    }
    response
}

/// Lets the page of an origin that was checked read the answer.
pub(crate) fn allow(answer: &mut HeaderMap, origin: Option<&HeaderValue>) {
    if let Some(origin) = origin {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSE_HEADERS);
        answer.append(VARY, HeaderValue::from_static("origin"));
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port` without port and brackets.
fn without_port(named: &str) -> &str {
    if let Some(rest) = named.strip_prefix('[') {
        return rest.split_once(']').map_or("", |(host, _)| host);
    }
    named.rsplit_once(':').map_or(named, |(host, _)| host)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebound_name_is_refused() {
        let own = "127.0.0.1:7717".parse().unwrap();
        let extra = ["box.internal".to_owned()];
        let check = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            host_allowed(&Uri::from_static("/"), &headers, own, &extra)
        };
        for host in
            ["localhost", "LOCALHOST:7717", "127.0.0.1:7717", "127.9.9.9", "[::1]:7717", "box.internal:7717"]
        {
            assert!(check(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7717",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[::2]",
            "",
        ] {
            assert!(!check(host), "{host}");
        }
        let h2 = Uri::from_static("http://evil.example/x");
        assert!(!host_allowed(&h2, &HeaderMap::new(), own, &extra));
        assert!(host_allowed(&h2, &HeaderMap::new(), "10.0.0.1:7717".parse().unwrap(), &extra));
    }

    #[test]
    fn origins_are_listed() {
        let extra = ["https://app.example".to_owned()];
        let check = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, origin.parse().unwrap());
            origin_allowed(&headers, &extra)
        };
        assert!(origin_allowed(&HeaderMap::new(), &extra));
        for origin in [
            "null",
            "file://",
            "http://localhost:5173",
            "https://127.0.0.1",
            "http://[::1]:1",
            "https://app.example",
        ] {
            assert!(check(origin), "{origin}");
        }
        for origin in [
            "https://evil.example",
            "http://localhost.evil.example",
            "https://app.example.evil",
            "ftp://localhost",
        ] {
            assert!(!check(origin), "{origin}");
        }
    }
}
