//! HTTP/1.1: gRPC-Web, CORS, the Host check, other routes.

use super::*;

const PATH: &str = "/gander.v1.SystemService/GetServerInfo";
/// An empty message in its frame.
const FRAME: &str = "\0\0\0\0\0";

fn grpc_web(host: &str, origin: &str, token: &str) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\ncontent-type: application/grpc-web+proto\r\n\
         authorization: Bearer {token}\r\ncontent-length: 5\r\nconnection: close\r\n\r\n{FRAME}"
    )
}

#[tokio::test]
async fn a_page_of_a_listed_origin_calls_over_grpc_web() {
    let options = Options { allowed_origins: vec!["https://app.example".to_owned()], ..with_token() };
    let (_server, address, _heard) = tcp(options).await;
    let ask = |origin: &str| {
        format!(
            "OPTIONS {PATH} HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\n\
             access-control-request-method: POST\r\nconnection: close\r\n\r\n"
        )
    };
    let answer = http1(address, &ask("https://app.example")).await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert!(answer.contains("access-control-allow-origin: https://app.example\r\n"), "{answer}");
    assert!(answer.contains("x-grpc-web"), "{answer}");
    let answer = http1(address, &ask("https://evil.example")).await;
    assert!(!answer.contains("access-control-allow-origin"), "{answer}");

    let answer = http1(address, &grpc_web("localhost", "https://app.example", TOKEN)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("access-control-allow-origin: https://app.example\r\n"), "{answer}");
    assert!(answer.contains("token||") && answer.contains("grpc-status:0"), "{answer}");
    let answer = http1(address, &grpc_web("localhost", "https://app.example", "wrong")).await;
    assert!(answer.contains("grpc-status: 16") || answer.contains("grpc-status:16"), "{answer}");
}

#[tokio::test]
async fn a_foreign_page_or_a_rebound_name_is_refused() {
    let (_server, address, _heard) = tcp(with_token()).await;
    for (host, origin) in [("localhost", "https://evil.example"), ("evil.example", "http://localhost")] {
        let answer = http1(address, &grpc_web(host, origin, TOKEN)).await;
        assert!(answer.contains("grpc-status: 7") || answer.contains("grpc-status:7"), "{answer}");
        assert!(!answer.contains("token||"), "{answer}");
    }
    let request = format!(
        "GET /hello HTTP/1.1\r\nhost: evil.example\r\nx-secret-key: {TOKEN}\r\nconnection: close\r\n\r\n"
    );
    assert!(http1(address, &request).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn other_routes_live_beside_grpc() {
    let (server, address, _heard) = tcp(with_token()).await;
    let get = |path: &str, token: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nx-secret-key: {token}\r\nconnection: close\r\n\r\n"
        )
    };
    assert!(http1(address, &get("/hello", TOKEN)).await.ends_with("hello"));
    assert!(http1(address, &get("/hello", "wrong")).await.starts_with("HTTP/1.1 401"));
    assert!(http1(address, &get("/nope", TOKEN)).await.starts_with("HTTP/1.1 404"));
    let boom = http1(address, &get("/boom", "")).await;
    assert!(boom.starts_with("HTTP/1.1 500") && !boom.contains("as told"), "{boom}");
    assert!(server.metrics_text().contains("gander_http_responses_total{class=\"2xx\"} 1"));
}

#[tokio::test]
async fn without_other_routes_a_path_is_not_found() {
    let front = Front::new(App { grpc: Routes::default(), http: None }, with_token());
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let server = Server::start(listener, &front).unwrap();
    let BoundAddress::Tcp(address) = *server.address() else { panic!("a TCP address") };
    let answer = http1(address, "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("gRPC"), "{answer}");
}
