//! What any gRPC client may rely on: health, reflection, deadlines, unknown methods, gRPC-Web.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use base64::Engine as _;
use futures::StreamExt as _;
use gander_bridge_tests::{TestDaemon, events, pb, soon, wire, within};
use http_body_util::{BodyExt as _, Full};
use pb::{ErrorReason, session_service_client::SessionServiceClient, turn_service_client::TurnServiceClient};
use prost::Message as _;
use tonic::{Code, metadata::MetadataValue};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_serving() {
    let daemon = TestDaemon::start().await;
    for client in [daemon.unix().await, daemon.tcp().await] {
        let mut health = HealthClient::new(client.transport());
        for service in ["", "gander.v1.SessionService"] {
            let request = HealthCheckRequest { service: service.to_owned() };
            let status =
                soon("health", health.check(request)).await.expect("an answer").into_inner().status();
            assert_eq!(status, ServingStatus::Serving, "{service:?}");
        }
    }
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_every_service() {
    let daemon = TestDaemon::start().await;
    let mut reflection = ServerReflectionClient::new(daemon.tcp().await.transport());
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection.server_reflection_info(futures::stream::iter([ask])).await.expect("reflection");
    let answer = soon("a list", answers.into_inner().next()).await.expect("an answer").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let listed: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
    let set = prost_types::FileDescriptorSet::decode(gander_proto::FILE_DESCRIPTOR_SET).expect("descriptors");
    for file in &set.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            assert!(listed.contains(&name), "{name} in {listed:?}");
        }
    }
    assert!(listed.contains("grpc.health.v1.Health"), "{listed:?}");
    daemon.finish().await;
}

/// Methods that come with later versions. What is added to the daemon is taken off here; the list ends empty.
const LATER: &[&str] = &[];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_of_the_contract_is_there_and_no_other() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let set = prost_types::FileDescriptorSet::decode(gander_proto::FILE_DESCRIPTOR_SET).expect("descriptors");
    let mut missing = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package() == "gander.v1") {
        for service in &file.service {
            for method in service.method.iter().filter(|method| method.name() != "Shutdown") {
                let path = format!("/gander.v1.{}/{}", service.name(), method.name());
                // An empty message: refused by most, and harmless. A stream that stays open is there.
                let calling = wire::call(&client, &path, b"");
                if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(2), calling).await
                    && error.code == Code::Unimplemented
                {
                    missing.insert(format!("{}/{}", service.name(), method.name()));
                    assert!(error.is(ErrorReason::NotImplemented), "{path}: {error:?}");
                }
            }
        }
    }
    let later: BTreeSet<String> = LATER.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(missing, later, "left: what this daemon does not implement, right: what it need not yet");
    for path in ["/gander.v1.SessionService/Frobnicate", "/gander.v9.SessionService/GetSession", "/nonsense"]
    {
        let error = wire::call(&client, path, b"").await.expect_err("unknown");
        assert_eq!(error.code, Code::Unimplemented, "{path}: {error:?}");
        assert!(error.is(ErrorReason::NotImplemented), "{path}: {error:?}");
    }
    daemon.finish().await;
}

/// A plain tonic channel, which keeps no deadline of a stream by itself.
async fn channel(daemon: &TestDaemon) -> tonic::transport::Channel {
    tonic::transport::Endpoint::from_shared(daemon.url()).expect("a URL").connect().await.expect("a channel")
}

fn with_token<T>(daemon: &TestDaemon, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let bearer = MetadataValue::try_from(format!("Bearer {}", daemon.token())).expect("a header");
    request.metadata_mut().insert("authorization", bearer);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_holds_for_a_whole_stream() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let channel = channel(&daemon).await;
    let deadline = Duration::from_millis(400);

    let mut request = with_token(&daemon, events::run_request(events::turn(&session_id, "slow 200")));
    request.set_timeout(deadline);
    let turn_id = request.get_ref().turn_id.clone();
    let start = Instant::now();
    let mut stream =
        TurnServiceClient::new(channel.clone()).run_turn(request).await.expect("a stream").into_inner();
    let status = ends_with(&mut stream).await;
    let took = start.elapsed();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(took >= deadline && took < deadline + Duration::from_secs(1), "{took:?}");

    let watch = pb::WatchSessionRequest { session_id: session_id.clone(), ..Default::default() };
    let mut request = with_token(&daemon, watch);
    request.set_timeout(deadline);
    let start = Instant::now();
    let mut stream =
        SessionServiceClient::new(channel).watch_session(request).await.expect("a stream").into_inner();
    let status = ends_with(&mut stream).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(start.elapsed() < deadline + Duration::from_secs(1));

    // The stream's end was not the turn's.
    let mut stream = events::watch(&client, &session_id, 0);
    let mut seen = Vec::new();
    events::until(&mut stream, &mut seen, "the end", |payload| {
        matches!(payload, pb::session_event::Payload::TurnEnded(_))
    })
    .await;
    let ended = events::ended(&seen).expect("its end");
    assert_eq!((ended.turn_id.as_str(), ended.state()), (turn_id.as_str(), pb::TurnState::Completed));
    drop(stream);
    daemon.finish().await;
}

async fn ends_with<T>(stream: &mut tonic::Streaming<T>) -> tonic::Status {
    within(Duration::from_secs(10), "the stream's end", async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return tonic::Status::ok(""),
                Err(status) => return status,
            }
        }
    })
    .await
}

struct Web {
    status: http::StatusCode,
    headers: http::HeaderMap,
    /// Messages and, last, the trailers.
    frames: Vec<(u8, Vec<u8>)>,
}

impl Web {
    fn trailer(&self, name: &str) -> Option<String> {
        if let Some(value) = self.headers.get(name) {
            return value.to_str().ok().map(str::to_owned);
        }
        let (_, text) = self.frames.iter().find(|(flag, _)| flag & 0x80 != 0)?;
        let text = String::from_utf8_lossy(text).into_owned();
        text.lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")).map(|value| value.trim().to_owned()))
    }
}

/// One gRPC-Web call over HTTP/1.1, as a browser makes it.
async fn web(daemon: &TestDaemon, path: &str, message: &[u8], text: bool, token: bool) -> Web {
    let address = daemon.ready().tcp.expect("a port");
    let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.expect("HTTP/1.1");
    let driver = tokio::spawn(connection);
    let base64 = base64::engine::general_purpose::STANDARD;
    let kind = if text { "application/grpc-web-text" } else { "application/grpc-web+proto" };
    let body = wire::frame(message);
    let body = if text { base64.encode(&body).into() } else { body };
    let mut request = http::Request::post(path)
        .header("host", address.to_string())
        .header("origin", "http://localhost:3000")
        .header("content-type", kind)
        .header("accept", kind)
        .header("x-grpc-web", "1");
    if token {
        request = request.header("authorization", format!("Bearer {}", daemon.token()));
    }
    let request = request.body(Full::new(body)).expect("a request");
    let response = soon("an answer", sender.send_request(request)).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let bytes = soon("the body", body.collect()).await.expect("the body").to_bytes().to_vec();
    driver.abort();
    let bytes = if text {
        // Every piece is encoded by itself, so padding may stand in the middle.
        let compact: Vec<u8> = bytes.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
        compact.chunks(4).flat_map(|four| base64.decode(four).expect("base64")).collect()
    } else {
        bytes
    };
    Web { status: parts.status, headers: parts.headers, frames: frames(&bytes) }
}

fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (body, rest) = rest.split_at(length);
        frames.push((head[0], body.to_vec()));
        bytes = rest;
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_web_over_http_1() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let get = pb::GetSessionRequest { session_id: session_id.clone() }.encode_to_vec();
    for text in [false, true] {
        let path = "/gander.v1.SessionService/GetSession";
        let answer = web(&daemon, path, &get, text, true).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.trailer("grpc-status").as_deref(), Some("0"), "text {text}");
        let got = pb::GetSessionResponse::decode(&*answer.frames[0].1).expect("a message");
        assert_eq!(got.session.expect("a session").session_id, session_id);

        let run = events::run_request(events::turn(&session_id, "say hello web")).encode_to_vec();
        let answer = web(&daemon, "/gander.v1.TurnService/RunTurn", &run, text, true).await;
        let streamed: Vec<_> = answer
            .frames
            .iter()
            .filter(|(flag, _)| flag & 0x80 == 0)
            .filter_map(|(_, body)| pb::RunTurnResponse::decode(&**body).expect("a message").event)
            .collect();
        assert_eq!(events::ended(&streamed).expect("its end").state(), pb::TurnState::Completed);
        assert_eq!(answer.trailer("grpc-status").as_deref(), Some("0"));

        let refused = web(&daemon, path, &get, text, false).await;
        assert_eq!(refused.trailer("grpc-status").as_deref(), Some("16"), "UNAUTHENTICATED");
    }
    let allowed = web(&daemon, "/gander.v1.SessionService/GetSession", &get, false, true).await;
    let origin = allowed.headers.get("access-control-allow-origin").and_then(|value| value.to_str().ok());
    assert_eq!(origin, Some("http://localhost:3000"), "{:?}", allowed.headers);
    daemon.finish().await;
}
