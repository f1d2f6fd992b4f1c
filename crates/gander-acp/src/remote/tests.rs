//! The transport's rules, with a daemon that does nothing.

use axum::{
    body::Body,
    http::{Request, Response, StatusCode},
};
use futures::StreamExt as _;
use gander_client::{BoxError, Client, ClientOptions, Endpoint, LocalService};
use http_body_util::BodyExt as _;
use secrecy::SecretString;
use serde_json::{Value, json};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use super::{App, RemoteOptions, router};
use crate::agent::Options;

async fn app() -> App {
    let service = tower::service_fn(|_| async {
        Ok::<_, BoxError>(tonic::Status::unimplemented("nothing here").into_http())
    });
    let service: LocalService = BoxCloneSyncService::new(service);
    let client =
        Client::connect(Endpoint::Local(service), ClientOptions::new("test")).await.expect("a client");
    App::new(client, RemoteOptions::new(SecretString::from("s3cret"), Options::default()))
}

fn request(method: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri("/acp");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).expect("a request")
}

async fn send(app: &App, method: &str, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let with_secret: Vec<_> =
        std::iter::once(("authorization", "Bearer s3cret")).chain(headers.iter().copied()).collect();
    router(app.clone()).oneshot(request(method, &with_secret, body)).await.expect("infallible")
}

async fn post(app: &App, headers: &[(&str, &str)], body: &Value) -> Response<Body> {
    let headers: Vec<_> =
        std::iter::once(("content-type", "application/json")).chain(headers.iter().copied()).collect();
    send(app, "POST", &headers, &body.to_string()).await
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": {"protocolVersion": 1}})
}

async fn connect(app: &App) -> String {
    let response = post(app, &[], &initialize()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let id = response.headers()["acp-connection-id"].to_str().expect("text").to_owned();
    let answer: Value = serde_json::from_str(&text(response).await).expect("JSON");
    assert_eq!(answer["id"], "a");
    assert_eq!(answer["result"]["protocolVersion"], 1);
    id
}

#[tokio::test]
async fn nobody_gets_in_without_the_secret_or_from_a_strange_page() {
    let app = app().await;
    let plain = |headers: &[(&str, &str)]| {
        let request = request("POST", headers, &initialize().to_string());
        router(app.clone()).oneshot(request)
    };
    for (headers, wanted) in [
        (vec![], StatusCode::UNAUTHORIZED),
        (vec![("x-secret-key", "wrong")], StatusCode::UNAUTHORIZED),
        (vec![("x-secret-key", "s3cret"), ("origin", "https://evil.example")], StatusCode::FORBIDDEN),
        (vec![("x-secret-key", "s3cret"), ("content-type", "application/json")], StatusCode::OK),
        (
            vec![
                ("x-secret-key", "s3cret"),
                ("content-type", "application/json"),
                ("origin", "http://localhost:1"),
            ],
            StatusCode::OK,
        ),
    ] {
        assert_eq!(plain(&headers).await.expect("infallible").status(), wanted, "{headers:?}");
    }
    let asked = request("OPTIONS", &[("origin", "http://localhost:1")], "");
    let allowed = router(app.clone()).oneshot(asked).await.expect("infallible");
    assert_eq!(allowed.headers()["access-control-allow-origin"], "http://localhost:1");
}

#[tokio::test]
async fn wrong_messages_have_their_status() {
    let app = app().await;
    let id = connect(&app).await;
    let connection = ("acp-connection-id", id.as_str());
    let prompt = json!({"jsonrpc": "2.0", "id": 1, "method": "session/prompt", "params": {"sessionId": "s", "prompt": []}});
    let unsupported = send(&app, "POST", &[("content-type", "text/plain")], "{}").await;
    assert_eq!(unsupported.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let broken = send(&app, "POST", &[("content-type", "application/json")], "{").await;
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
    let batch = post(&app, &[connection], &json!([initialize()])).await;
    assert_eq!(batch.status(), StatusCode::BAD_REQUEST);
    let error: Value = serde_json::from_str(&text(batch).await).expect("JSON");
    assert_eq!((&error["id"], &error["error"]["code"]), (&Value::Null, &json!(-32600)));
    for (headers, body, wanted) in [
        (vec![], prompt.clone(), StatusCode::BAD_REQUEST),
        (vec![("acp-connection-id", "nobody")], prompt.clone(), StatusCode::NOT_FOUND),
        (vec![connection], initialize(), StatusCode::BAD_REQUEST),
        (vec![connection], prompt.clone(), StatusCode::BAD_REQUEST),
        (vec![connection, ("acp-session-id", "other")], prompt.clone(), StatusCode::BAD_REQUEST),
        (vec![connection, ("acp-session-id", "s")], prompt, StatusCode::ACCEPTED),
        (vec![], json!({"jsonrpc": "2.0", "method": "initialize"}), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(post(&app, &headers, &body).await.status(), wanted, "{headers:?} {body}");
    }
    for (headers, wanted) in [
        (vec![connection], StatusCode::NOT_ACCEPTABLE),
        (vec![("accept", "text/event-stream")], StatusCode::BAD_REQUEST),
        (vec![("accept", "text/event-stream"), ("acp-connection-id", "nobody")], StatusCode::NOT_FOUND),
    ] {
        assert_eq!(send(&app, "GET", &headers, "").await.status(), wanted, "{headers:?}");
    }
    assert_eq!(send(&app, "DELETE", &[], "").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(send(&app, "DELETE", &[connection], "").await.status(), StatusCode::ACCEPTED);
    assert_eq!(send(&app, "DELETE", &[connection], "").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(send(&app, "PUT", &[connection], "").await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn answers_come_on_the_stream_that_they_belong_to() {
    let app = app().await;
    let id = connect(&app).await;
    let accept = ("accept", "text/event-stream");
    let connection = ("acp-connection-id", id.as_str());
    let session = ("acp-session-id", "s");
    // What was answered before a stream is opened waits for it.
    let unknown =
        |id: Value, params: Value| json!({"jsonrpc": "2.0", "id": id, "method": "no/such", "params": params});
    assert_eq!(post(&app, &[connection], &unknown(json!(1), json!({}))).await.status(), StatusCode::ACCEPTED);
    let about = json!({"sessionId": "s"});
    post(&app, &[connection, session], &unknown(json!("two"), about.clone())).await;
    post(&app, &[connection], &unknown(json!(3), about)).await;
    let mut first = events(send(&app, "GET", &[accept, connection], "").await);
    let mut ids = vec![first().await["id"].clone(), first().await["id"].clone()];
    ids.sort_by_key(ToString::to_string);
    assert_eq!(ids, [json!(1), json!(3)], "without a session's header the answer is the connection's");
    let mut second = events(send(&app, "GET", &[accept, connection, session], "").await);
    let answer = second().await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("two"), &json!(-32601)));

    // One reader per stream; it may come back.
    assert_eq!(send(&app, "GET", &[accept, connection, session], "").await.status(), StatusCode::CONFLICT);
    drop(second);
    let mut again = events(send(&app, "GET", &[accept, connection, session], "").await);
    post(&app, &[connection, session], &unknown(json!(4), json!({"sessionId": "s"}))).await;
    assert_eq!(again().await["id"], 4);
    app.close(std::time::Duration::from_secs(5)).await;
    assert_eq!(
        post(&app, &[connection], &unknown(json!(5), json!({}))).await.status(),
        StatusCode::NOT_FOUND
    );
}

/// The messages of an event stream, one by one.
fn events(response: Response<Body>) -> impl AsyncFnMut() -> Value {
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body().into_data_stream();
    let mut buffer = String::new();
    async move || loop {
        if let Some((event, rest)) = buffer.split_once("\n\n") {
            let data = event.strip_prefix("data: ").map(str::to_owned);
            buffer = rest.to_owned();
            if let Some(data) = data {
                return serde_json::from_str(&data).expect("JSON");
            }
            continue;
        }
        let chunk = tokio::time::timeout(std::time::Duration::from_secs(10), body.next()).await;
        let chunk = chunk.expect("in time").expect("no end").expect("no error");
        buffer.push_str(&String::from_utf8_lossy(&chunk));
    }
}
