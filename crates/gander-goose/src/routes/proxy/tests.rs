use axum::{body::Body, http::Request};

use crate::testing::{Daemon, Reply, SECRET};

/// As a frame asks: without the header.
async fn ask(path: &str) -> Reply {
    Daemon::new().send(Request::get(path).body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_missing_or_wrong_secret_is_401() {
    for page in ["/mcp-ui-proxy", "/mcp-app-proxy"] {
        for query in ["", "?", "?secret=", "?secret=wrong", "?secret=a&secret=b", "?other=1"] {
            let reply = ask(&format!("{page}{query}")).await;
            assert_eq!(reply.failed(), (401, "Unauthorized".to_owned()), "{page}{query}");
        }
        let short = &SECRET[..SECRET.len() - 1];
        assert_eq!(ask(&format!("{page}?secret={short}")).await.status, 401);
    }
}

#[tokio::test]
async fn the_right_secret_opens_pages_that_leak_nothing() {
    for page in ["/mcp-ui-proxy", "/mcp-app-proxy"] {
        let reply = ask(&format!("{page}?secret={SECRET}&url=https%3A%2F%2Fexample.com")).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["content-type"], "text/html; charset=utf-8");
        assert_eq!(reply.headers["referrer-policy"], "no-referrer");
        assert_eq!(reply.headers["cache-control"], "no-store");
        assert!(!reply.text().contains(SECRET));
        assert!(!reply.text().contains("{{"), "a place that was not filled");
    }
}

#[tokio::test]
async fn pages_speak_their_protocols() {
    let ui = ask(&format!("/mcp-ui-proxy?secret={SECRET}")).await;
    for word in ["ui-proxy-iframe-ready", "ui-html-content", "rawhtml", "allow-same-origin allow-scripts"] {
        assert!(ui.text().contains(word), "{word}");
    }
    let app = ask(&format!("/mcp-app-proxy?secret={SECRET}")).await;
    for word in ["ui/notifications/sandbox-proxy-ready", "ui/notifications/sandbox-resource-ready"] {
        assert!(app.text().contains(word), "{word}");
    }
    // An app with our origin could read the secret in our address.
    assert!(!app.text().contains("allow-same-origin"));
}

#[tokio::test]
async fn an_app_s_policy_is_in_header_and_page() {
    let query =
        "connect_domains=https%3A%2F%2Fapi.example.com,wss%3A%2F%2Fx.example.com&frame_domains=f.example.com";
    let reply = ask(&format!("/mcp-app-proxy?secret={SECRET}&{query}")).await;
    let policy = reply.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("connect-src 'self' https://api.example.com wss://x.example.com;"), "{policy}");
    assert!(policy.contains("frame-src f.example.com;"), "{policy}");
    assert!(reply.text().contains(&format!("content=\"{policy}\"")));
}

#[tokio::test]
async fn a_domain_cannot_break_out_of_the_policy() {
    let query = "resource_domains=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E,a.com%3B%20script-src%20*";
    let reply = ask(&format!("/mcp-app-proxy?secret={SECRET}&{query}")).await;
    assert_eq!(reply.status, 200);
    assert!(!reply.text().contains("alert(1)"));
    assert_eq!(reply.headers["content-security-policy"].to_str().unwrap().matches("script-src").count(), 1);
}

#[tokio::test]
async fn pages_need_no_header_but_every_other_path_does() {
    for path in ["/mcp-ui-proxy/", "/config", "/nowhere"] {
        assert_eq!(ask(path).await.status, 401, "{path}");
    }
}
