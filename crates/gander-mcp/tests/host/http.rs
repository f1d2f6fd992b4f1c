//! Streamable HTTP, against sockets that only pretend.

use gander_domain::{
    ErrorReason,
    extension::{ExtensionState, ExtensionTransport},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::common::{Session, config};

/// Reads one HTTP request with its body.
async fn read_request(socket: &mut tokio::net::TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = socket.read(&mut buffer).await.unwrap();
        if count == 0 {
            return text;
        }
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return text;
        }
    }
}

fn http(uri: String) -> ExtensionTransport {
    let headers = [("X-Key".to_owned(), "k-${LAB_TOKEN}".to_owned())].into();
    ExtensionTransport::StreamableHttp { uri, headers, unix_socket: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_http_is_called_with_its_headers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/mcp", listener.local_addr().unwrap());
    // Every POST is answered with JSON; the stream of GET is refused, as a server may.
    let server = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let request = read_request(&mut socket).await;
            let body = request.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let message: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
            assert!(request.to_ascii_lowercase().contains("x-key: k-hunter22"), "{request}");
            // Nothing that came to the daemon, or belongs to another server, goes to this one.
            for foreign in ["\nauthorization:", "\ncookie:", "\nx-secret-key:"] {
                assert!(!request.to_ascii_lowercase().contains(foreign), "{request}");
            }
            let result = match message["method"].as_str() {
                Some("initialize") => Some(serde_json::json!({"protocolVersion": "2025-11-25",
                    "capabilities": {"tools": {}}, "serverInfo": {"name": "web", "version": "1"}})),
                Some("tools/list") => {
                    Some(serde_json::json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}))
                }
                Some("tools/call") => Some(serde_json::json!({"content": [{"type": "hologram", "x": 1}]})),
                _ => None,
            };
            let answer = match (result, request.starts_with("POST")) {
                (Some(result), _) => {
                    let body = serde_json::json!({"jsonrpc": "2.0", "id": message["id"], "result": result})
                        .to_string();
                    format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    )
                }
                (None, true) => {
                    "HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned()
                }
                (None, false) => {
                    "HTTP/1.1 405 Method Not Allowed\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                        .to_owned()
                }
            };
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let session = Session::new();
    let mut web = config("web", http(uri));
    web.env_keys = vec!["LAB_TOKEN".to_owned()];
    let state = session.add(web).await;
    assert_eq!(state, ExtensionState::Ready, "{:?}", session.extensions.statuses());
    let result = session.call("web__t", "{}").await;
    let raw = format!("{:?}", result.parts);
    assert!(raw.contains("hologram"), "{result:?}");
    session.extensions.shutdown(crate::common::PATIENCE).await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_a_state_of_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/mcp", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_request(&mut socket).await;
            let answer = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let session = Session::new();
    assert_eq!(session.add(config("web", http(uri))).await, ExtensionState::NeedsAuth);
    let error = session.extensions.statuses().remove(0).error.unwrap();
    assert_eq!(error.reason, ErrorReason::ExtensionNeedsAuth);
    server.abort();
}
