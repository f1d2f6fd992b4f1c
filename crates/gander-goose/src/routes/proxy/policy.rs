//! The content security policy of an app, from the domains that its extension declared.
//!
//! The domains come from an extension. Whatever is no plain source expression is left out, so that none can add a
//! directive or end the attribute that the policy stands in.

use serde::Deserialize;

/// Lists of domains, comma separated, as the query has them.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Domains {
    connect_domains: Option<String>,
    resource_domains: Option<String>,
    frame_domains: Option<String>,
    base_uri_domains: Option<String>,
    script_domains: Option<String>,
}

/// The policy: nothing but the page itself and what was declared.
pub(super) fn of(domains: &Domains) -> String {
    let connect = sources(domains.connect_domains.as_deref());
    let resources = sources(domains.resource_domains.as_deref());
    let scripts = sources(domains.script_domains.as_deref());
    let base = sources(domains.base_uri_domains.as_deref());
    let frames = sources(domains.frame_domains.as_deref());
    let frames = if frames.is_empty() { " 'none'".to_owned() } else { frames };
    [
        "default-src 'none'".to_owned(),
        format!("script-src 'self' 'unsafe-inline'{resources}{scripts}"),
        format!("style-src 'self' 'unsafe-inline'{resources}"),
        format!("img-src 'self' data: blob:{resources}"),
        format!("font-src 'self' data:{resources}"),
        format!("media-src 'self' data: blob:{resources}"),
        format!("connect-src 'self'{connect}"),
        format!("frame-src{frames}"),
        "object-src 'none'".to_owned(),
        format!("base-uri 'self'{base}"),
    ]
    .join("; ")
}

/// The list's good entries, each led by a blank.
fn sources(list: Option<&str>) -> String {
    let entries = list.unwrap_or_default().split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let (good, bad): (Vec<&str>, Vec<&str>) = entries.partition(|entry| is_source(entry));
    if !bad.is_empty() {
        tracing::warn!(?bad, "an app declared domains that are none; they are left out");
    }
    good.iter().map(|entry| format!(" {entry}")).collect()
}

/// `[scheme://]host[:port][/path]`, where the host may begin with `*.` and the port may be `*`.
fn is_source(entry: &str) -> bool {
    let rest = match entry.split_once("://") {
        Some(("http" | "https" | "ws" | "wss", rest)) => rest,
        Some(_) => return false,
        None => entry,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let host = host.strip_prefix("*.").unwrap_or(host);
    let label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let port_is_good =
        port.is_none_or(|port| port == "*" || (port.len() <= 5 && port.parse::<u16>().is_ok()));
    let path_is_good = path
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~' | '%' | '+' | '@'));
    host.split('.').all(label) && port_is_good && path_is_good
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(connect: &str) -> Domains {
        Domains { connect_domains: Some(connect.to_owned()), ..Default::default() }
    }

    #[test]
    fn only_source_expressions_pass() {
        let good = [
            "https://api.example.com",
            "*.example.com",
            "wss://x.example.com:8443",
            "http://localhost:*",
            "https://cdn.example.com/lib/v1.2/",
            "example.com",
        ];
        for entry in good {
            assert!(is_source(entry), "{entry}");
        }
        let bad = [
            "'unsafe-eval'",
            "*",
            "https://*",
            "a.com; script-src *",
            "a.com\"><script>",
            "a b",
            "javascript://x",
            "data:",
            "https://",
            "https://a..b",
            "https://a.com:99999",
            "https://user@a.com",
            "https://a.com/?q=1",
            "ä.com",
        ];
        for entry in bad {
            assert!(!is_source(entry), "{entry}");
        }
    }

    #[test]
    fn a_bad_entry_costs_the_others_nothing() {
        let policy = of(&domains("https://a.com, x; script-src *,wss://b.com"));
        assert!(policy.contains("connect-src 'self' https://a.com wss://b.com;"), "{policy}");
        assert_eq!(policy.matches("script-src").count(), 1, "{policy}");
    }

    #[test]
    fn nothing_declared_means_nothing_allowed() {
        let policy = of(&Domains::default());
        for directive in
            ["default-src 'none'", "connect-src 'self';", "frame-src 'none'", "object-src 'none'"]
        {
            assert!(policy.contains(directive), "{directive} in {policy}");
        }
        assert!(!policy.contains("http") && !policy.contains("unsafe-eval"), "{policy}");
    }

    #[test]
    fn every_list_reaches_its_directives() {
        let one = |text: &str| Some(text.to_owned());
        let policy = of(&Domains {
            connect_domains: one("https://c.com"),
            resource_domains: one("https://r.com"),
            frame_domains: one("https://f.com"),
            base_uri_domains: one("https://b.com"),
            script_domains: one("https://s.com"),
        });
        let of_directive = |name: &str| {
            policy.split("; ").find(|directive| directive.starts_with(name)).unwrap_or_default().to_owned()
        };
        assert_eq!(
            of_directive("script-src"),
            "script-src 'self' 'unsafe-inline' https://r.com https://s.com"
        );
        for name in ["style-src", "img-src", "font-src", "media-src"] {
            assert!(of_directive(name).ends_with("https://r.com"), "{name}");
        }
        assert_eq!(of_directive("connect-src"), "connect-src 'self' https://c.com");
        assert_eq!(of_directive("frame-src"), "frame-src https://f.com");
        assert_eq!(of_directive("base-uri"), "base-uri 'self' https://b.com");
    }
}
