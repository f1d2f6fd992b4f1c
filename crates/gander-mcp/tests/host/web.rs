//! HTTP servers as people meet them: moved, behind a login page, broken in the middle of an answer.

use std::{sync::Arc, time::Instant};

use gander_domain::{
    ErrorDetail, ErrorReason,
    extension::{ExtensionConfig, ExtensionState, ExtensionTransport},
    item::{ToolOutcome, ToolResult},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use crate::common::{PATIENCE, Session, config, request, secrets};

/// How a server answers: from the request's head and message to bytes after which the connection is closed.
type Answer = dyn Fn(&str, &Value) -> Vec<u8> + Send + Sync;

struct Web {
    base: String,
    task: AbortHandle,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Web {
    async fn start(answer: impl Fn(&str, &Value) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let answer: Arc<Answer> = Arc::new(answer);
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, Arc::clone(&answer)));
            }
        });
        Self { base, task: task.abort_handle() }
    }

    /// An address with something in it that must not be repeated.
    fn config(&self) -> ExtensionConfig {
        at(&format!("{}/mcp?key=in-the-query", self.base))
    }
}

fn at(uri: &str) -> ExtensionConfig {
    let headers = [("X-Key".to_owned(), "k-${LAB_TOKEN}".to_owned())].into();
    let transport = ExtensionTransport::StreamableHttp { uri: uri.to_owned(), headers, unix_socket: None };
    let mut config = config("web", transport);
    config.env_keys = vec!["LAB_TOKEN".to_owned()];
    config
}

async fn serve(mut socket: TcpStream, answer: Arc<Answer>) {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count @ 1..) = socket.read(&mut buffer).await else { return };
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) {
            let message = serde_json::from_str(body).unwrap_or_default();
            let _ = socket.write_all(&answer(head, &message)).await;
            let _ = socket.shutdown().await;
            return;
        }
    }
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn page(status: &str) -> Vec<u8> {
    response(status, "content-type: text/html\r\n", b"<html><title>Log in</title></html>")
}

fn result(message: &Value, result: &Value) -> Vec<u8> {
    let body = json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
    response("200 OK", "content-type: application/json\r\n", body.as_bytes())
}

/// What a decent server says to everything but a call.
fn decent(head: &str, message: &Value) -> Vec<u8> {
    match message["method"].as_str() {
        Some("initialize") => result(
            message,
            &json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                "serverInfo": {"name": "web", "version": "1"}}),
        ),
        Some("tools/list") => {
            result(message, &json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}))
        }
        _ if head.starts_with("GET") => response("405 Method Not Allowed", "", b""),
        _ => response("202 Accepted", "", b""),
    }
}

fn is_call(message: &Value) -> bool {
    message["method"] == "tools/call"
}

async fn start_error(config: ExtensionConfig) -> (ExtensionState, ErrorDetail) {
    let session = Session::new();
    let state = session.add(config).await;
    let error = session.extensions.statuses().remove(0).error.expect("an error");
    session.extensions.shutdown(PATIENCE).await;
    (state, error)
}

fn harmless(text: &str) {
    for secret in ["in-the-query", "hunter22", "token=abc"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wrong_address_answers_is_told_with_a_remedy() {
    let moved = |status: &'static str| {
        move |_: &str, _: &Value| response(status, "location: http://127.0.0.2:9/other?token=abc\r\n", b"")
    };
    let here = |status: &'static str| {
        move |_: &str, _: &Value| response(status, "location: /other?token=abc\r\n", b"")
    };
    let fixed = |bytes: Vec<u8>| move |_: &str, _: &Value| bytes.clone();
    let far = format!("location: /{}?token=abc\r\n", "far/".repeat(40));
    let kind = "content-type: application/json\r\n";
    let cases: Vec<(Web, &[&str])> = vec![
        (
            Web::start(moved("301 Moved Permanently")).await,
            &["redirects (301) to http://127.0.0.2:9/other,", "set its uri"],
        ),
        (
            Web::start(moved("302 Found")).await,
            &["redirects (302)", "another address, which gets no credentials"],
        ),
        (Web::start(moved("303 See Other")).await, &["redirects (303)", "another address"]),
        (Web::start(moved("307 Temporary Redirect")).await, &["redirects (307)", "another address"]),
        (Web::start(moved("308 Permanent Redirect")).await, &["redirects (308)", "another address"]),
        (Web::start(here("302 Found")).await, &["redirects (302)", "/other,", "would lose the request"]),
        (Web::start(fixed(response("302 Found", &far, b""))).await, &["set its uri to that address"]),
        (Web::start(here("307 Temporary Redirect")).await, &["circles"]),
        (Web::start(fixed(page("403 Forbidden"))).await, &["HTTP 403", "credentials"]),
        (Web::start(fixed(page("404 Not Found"))).await, &["HTTP 404", "often ends in /mcp"]),
        (Web::start(fixed(page("405 Method Not Allowed"))).await, &["HTTP 405", "older SSE transport"]),
        (Web::start(fixed(page("500 Internal Server Error"))).await, &["HTTP 500", "its log"]),
        (Web::start(fixed(page("200 OK"))).await, &["text/html", "login page"]),
        (Web::start(fixed(response("200 OK", kind, b""))).await, &["is not MCP", "check its uri"]),
        (Web::start(fixed(response("200 OK", kind, b"hello"))).await, &["is not MCP", "check its uri"]),
        (Web::start(fixed(b"SSH-2.0-x\r\n".to_vec())).await, &["the connection to http://127.0.0.1:"]),
    ];
    for (web, parts) in cases {
        let (state, error) = start_error(web.config()).await;
        assert_eq!(
            (state, error.reason),
            (ExtensionState::Failed, ErrorReason::ExtensionStartFailed),
            "{error}"
        );
        for part in parts.iter().chain(&["extension web did not start"]) {
            assert!(error.message.contains(part), "{part}: {error}");
        }
        harmless(&error.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_told_with_the_reason() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = format!("http://{}/mcp?key=in-the-query", free.local_addr().unwrap());
    drop(free);
    for (uri, parts) in [
        (closed.as_str(), ["there is no connection to http://127.0.0.1:", "refused"]),
        (
            "http://nobody.invalid/mcp?key=in-the-query",
            ["to http://nobody.invalid/mcp", "check that the server runs"],
        ),
    ] {
        let (state, error) = start_error(at(uri)).await;
        assert_eq!(state, ExtensionState::Failed, "{error}");
        assert!(parts.iter().all(|part| error.message.contains(part)), "{error}");
        harmless(&error.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_without_words_is_a_challenge_and_names_the_remedy() {
    for header in ["", "www-authenticate: Bearer\r\n", "www-authenticate: Basic realm=\"x\"\r\n"] {
        let web = Web::start(move |_, _| response("401 Unauthorized", header, b"")).await;
        let (state, error) = start_error(web.config()).await;
        assert_eq!(state, ExtensionState::NeedsAuth, "{header}");
        assert_eq!(error.reason, ErrorReason::ExtensionNeedsAuth);
        assert!(error.message.contains("extension web is not authorized"), "{error}");
        assert!(error.message.contains("Authorization header"), "{error}");
        harmless(&error.message);
    }
}

async fn call_of(answer: impl Fn(&Value) -> Vec<u8> + Send + Sync + 'static) -> (ToolResult, ToolResult) {
    let broken = std::sync::atomic::AtomicBool::new(true);
    let web = Web::start(move |head: &str, message: &Value| {
        if !is_call(message) {
            return decent(head, message);
        }
        if broken.swap(false, std::sync::atomic::Ordering::Relaxed) {
            return answer(message);
        }
        result(message, &json!({"content": [{"type": "text", "text": "fine"}]}))
    })
    .await;
    let session = Session::new();
    assert_eq!(session.add(web.config()).await, ExtensionState::Ready);
    let before = Instant::now();
    let first = session.call("web__t", "{}").await;
    assert!(before.elapsed() < PATIENCE / 2, "{:?}", before.elapsed());
    let second = session.call("web__t", "{}").await;
    session.extensions.shutdown(PATIENCE).await;
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_fails_its_call_at_once_and_the_next_works() {
    const STREAM: &str = "content-type: text/event-stream\r\n";
    let open =
        |body: &str| format!("HTTP/1.1 200 OK\r\n{STREAM}connection: close\r\n\r\n{body}").into_bytes();
    let large = |message: &Value| {
        let text = "x".repeat(20_000_000);
        json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [{"type": "text", "text": text}]}}).to_string()
    };
    type Case = (Box<dyn Fn(&Value) -> Vec<u8> + Send + Sync>, ErrorReason, &'static str);
    let cases: Vec<Case> = vec![
        (
            Box::new(move |_| open(": hello\n\n")),
            ErrorReason::ExtensionUnavailable,
            "closed the stream of its answer",
        ),
        (Box::new(move |_| open("data: {\"jsonrpc\":\n\n")), ErrorReason::ExtensionUnavailable, "stream"),
        (
            Box::new(|_| {
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{\"js"
                    .to_vec()
            }),
            ErrorReason::ExtensionUnavailable,
            "broke: error reading a body",
        ),
        (Box::new(|_| page("500 Internal Server Error")), ErrorReason::ExtensionUnavailable, "HTTP 500"),
        (Box::new(|_| page("200 OK")), ErrorReason::ExtensionUnavailable, "text/html"),
        (
            Box::new(|_| response("302 Found", "location: http://127.0.0.2:9/?token=abc\r\n", b"")),
            ErrorReason::ExtensionUnavailable,
            "redirects (302)",
        ),
        (
            Box::new(move |message| {
                response("200 OK", "content-type: application/json\r\n", large(message).as_bytes())
            }),
            ErrorReason::MessageTooLarge,
            "16 MiB",
        ),
        (
            Box::new(move |message| {
                response("200 OK", STREAM, format!("data: {}\n\n", large(message)).as_bytes())
            }),
            ErrorReason::MessageTooLarge,
            "16 MiB",
        ),
    ];
    for (answer, reason, part) in cases {
        let (failed, next) = call_of(answer).await;
        assert_eq!(failed.outcome, ToolOutcome::ProtocolError, "{part}: {failed:?}");
        let error = failed.error.unwrap();
        assert_eq!(error.reason, reason, "{error}");
        assert!(error.message.starts_with("extension web, web__t: "), "{error}");
        assert!(error.message.contains(part), "{part}: {error}");
        harmless(&error.message);
        assert_eq!(next.outcome, ToolOutcome::Ok, "{part}: {next:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_within_the_origin_keeps_the_request_and_its_headers() {
    let web = Web::start(|head: &str, message: &Value| {
        if head.starts_with("POST /mcp") {
            return response("307 Temporary Redirect", "location: /v2\r\n", b"");
        }
        assert!(head.to_ascii_lowercase().contains("x-key: k-hunter22"), "{head}");
        if is_call(message) {
            return result(message, &json!({"content": [{"type": "text", "text": "moved"}]}));
        }
        decent(head, message)
    })
    .await;
    let session = Session::new();
    assert_eq!(session.add(web.config()).await, ExtensionState::Ready, "{:?}", session.extensions.statuses());
    assert_eq!(session.call("web__t", "{}").await.parts[0].as_text(), Some("moved"));
    session.extensions.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_over_http_ends_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let session = Session::with(|options| options.connect_timeout = std::time::Duration::from_millis(300));
    let uri = format!("http://{}/mcp", listener.local_addr().unwrap());
    assert_eq!(session.add(at(&uri)).await, ExtensionState::Failed);
    let error = session.extensions.statuses().remove(0).error.unwrap();
    assert_eq!(error.reason, ErrorReason::ExtensionStartTimeout);
    assert!(
        error.message.contains("extension web") && error.message.contains("check that its uri"),
        "{error}"
    );
}

/// A header cannot carry another one, and none of the protocol's own can be replaced.
#[tokio::test(flavor = "multi_thread")]
async fn headers_can_be_neither_split_nor_those_of_the_protocol() {
    let web = Web::start(decent).await;
    let with = |name: &str, value: &str| {
        let headers = [(name.to_owned(), value.to_owned())].into();
        let uri = format!("{}/mcp", web.base);
        let mut config =
            config("web", ExtensionTransport::StreamableHttp { uri, headers, unix_socket: None });
        config.env.insert("SPLIT".to_owned(), "a\r\nX-Injected: yes".to_owned());
        config
    };
    for (name, value) in [
        ("X-Note", "a\r\nX-Injected: yes"),
        ("X-Note", "${SPLIT}"),
        ("X-Note", "a\0b"),
        ("X Note", "a"),
        ("X-Note\r\nX", "a"),
    ] {
        let (state, error) = start_error(with(name, value)).await;
        assert_eq!(state, ExtensionState::Failed, "{name:?} {value:?}");
        assert!(error.message.contains("header"), "{error}");
        assert!(!error.message.contains("Injected"), "the value is not repeated: {error}");
    }
    let session = Session::new();
    for name in
        ["Mcp-Session-Id", "accept", "MCP-Protocol-Version", "Mcp-Param-X", "content-length", "Last-Event-ID"]
    {
        let origin = gander_domain::extension::ExtensionOrigin::Config;
        let error = session.extensions.add(with(name, "x"), origin, secrets()).unwrap_err();
        assert_eq!(error.reason, ErrorReason::ExtensionConfigInvalid, "{name}");
        assert!(error.message.contains(name) && error.message.contains("remove it"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_drips_ends_at_the_calls_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/mcp", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                let count = socket.read(&mut buffer).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
                let message: Value = serde_json::from_str(body).unwrap_or_default();
                if !is_call(&message) {
                    let _ = socket.write_all(&decent(head, &message)).await;
                    return;
                }
                let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
                let _ = socket.write_all(head).await;
                let mut ticks = tokio::time::interval(std::time::Duration::from_millis(20));
                loop {
                    ticks.tick().await;
                    if socket.write_all(b": still here\n\n").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let session = Session::new();
    assert_eq!(session.add(at(&uri)).await, ExtensionState::Ready, "{:?}", session.extensions.statuses());
    let (mut call, _progress) = request("web__t", "{}");
    call.timeout = Some(std::time::Duration::from_millis(400));
    let before = Instant::now();
    let result = session.extensions.call(call).await;
    assert_eq!(result.outcome, ToolOutcome::TimedOut, "{result:?}");
    assert!(before.elapsed() < std::time::Duration::from_secs(3), "{:?}", before.elapsed());
    session.extensions.shutdown(PATIENCE).await;
    task.abort();
}
