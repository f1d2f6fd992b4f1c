//! Unary calls: metadata, deadlines, repetition, errors.

use tokio::time::Instant;

use super::*;
use crate::{ClientError, FieldViolation, TcpEndpoint, TlsRoots};

fn answered() -> Vec<Bytes> {
    vec![framed(&pb::GetSessionResponse::default())]
}

fn get() -> pb::GetSessionRequest {
    pb::GetSessionRequest { session_id: "s".to_owned() }
}

#[tokio::test]
async fn every_call_says_who_calls_and_how_long_it_waits() {
    let daemon = Daemon::default().then(answered(), ok());
    let mut options = ClientOptions::new("test/1");
    options.protocol = "acp".to_owned();
    options.token = Some("secret".into());
    assert!(!format!("{options:?}").contains("secret"));
    let client = daemon.client_with(options).await;
    client.sessions().get_session(get()).await.unwrap();
    let seen = daemon.seen();
    let header = |name: &str| seen[0].headers[name].to_str().unwrap().to_owned();
    assert_eq!(seen[0].path, "/gander.v1.SessionService/GetSession");
    assert_eq!(header("gander-client"), "test/1");
    assert_eq!(header("gander-protocol"), "acp");
    assert_eq!(header("authorization"), "Bearer secret");
    assert!(header("grpc-timeout").ends_with('u'), "{}", header("grpc-timeout"));
}

#[tokio::test(start_paused = true)]
async fn a_repeatable_call_is_repeated() {
    let pause = Duration::from_secs(3);
    let daemon = Daemon::default()
        .then([], End::Broken)
        .fails(failure(Code::Unavailable, ErrorReason::Overloaded, Some(pause)))
        .then(answered(), ok());
    let begin = Instant::now();
    daemon.client().await.sessions().get_session(get()).await.unwrap();
    assert_eq!(daemon.seen().len(), 3);
    assert!(begin.elapsed() >= pause);
    assert!(daemon.seen().iter().all(|seen| seen.decode::<pb::GetSessionRequest>() == get()));
}

#[tokio::test(start_paused = true)]
async fn three_times_is_enough() {
    let daemon = Daemon::default().fails(Status::unavailable("gone"));
    let error = daemon.client().await.sessions().get_session(get()).await.unwrap_err();
    assert_eq!((error.code(), daemon.seen().len()), (Code::Unavailable, 3));
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_repeated_is_not() {
    let daemon = Daemon::default().fails(Status::unavailable("gone"));
    let client = daemon.client().await;
    client.sessions().create_session(pb::CreateSessionRequest::default()).await.unwrap_err();
    client.turns().start_turn(pb::StartTurnRequest::default()).await.unwrap_err();
    assert_eq!(daemon.seen().len(), 2);
    for status in [
        failure(Code::Unavailable, ErrorReason::StoreFull, None),
        Status::not_found(""),
        Status::internal(""),
    ] {
        let daemon = Daemon::default().fails(status);
        daemon.client().await.sessions().get_session(get()).await.unwrap_err();
        assert_eq!(daemon.seen().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn repetition_stays_inside_the_deadline() {
    let late = failure(Code::Unavailable, ErrorReason::Overloaded, Some(Duration::from_secs(30)));
    let daemon = Daemon::default().fails(late);
    let mut request = tonic::Request::new(get());
    request.set_timeout(Duration::from_secs(5));
    let begin = Instant::now();
    let error = daemon.client().await.sessions().get_session(request).await.unwrap_err();
    assert_eq!((error.code(), daemon.seen().len()), (Code::Unavailable, 1));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn deadlines_are_kept_here_even_if_the_daemon_is_silent() {
    let head = Daemon::default().then([], End::Silence);
    let body = Daemon::default().then(answered(), End::Silence);
    for daemon in [head, body] {
        let begin = Instant::now();
        let error = daemon.client().await.sessions().get_session(get()).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert!((59..=61).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
        assert!(!ClientError::from(error).is_transport_loss());
    }
    let daemon = Daemon::default().then(watched([text(1)]), End::Silence);
    let mut request = tonic::Request::new(pb::WatchSessionRequest::default());
    request.set_timeout(Duration::from_secs(7));
    let begin = Instant::now();
    let mut events = daemon.client().await.sessions().watch_session(request).await.unwrap().into_inner();
    events.next().await.unwrap().unwrap();
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!((error.code(), begin.elapsed().as_secs()), (Code::DeadlineExceeded, 7));
}

#[tokio::test]
async fn errors_are_taken_apart() {
    let mut details = ErrorDetails::with_bad_request_violation("input.parts", "must not be empty");
    details.set_error_info("INVALID_FIELD", "gander.v1", std::collections::HashMap::new());
    let status = Status::with_error_details(Code::InvalidArgument, "input.parts must not be empty", details);
    let daemon = Daemon::default().fails(status);
    let error = daemon.client().await.sessions().get_session(get()).await.unwrap_err();
    let error = ClientError::from(error);
    assert!(error.is(ErrorReason::InvalidField) && !error.is_transport_loss() && !error.is_temporary());
    assert_eq!(error.to_string(), "input.parts must not be empty");
    let violation =
        FieldViolation { field: "input.parts".to_owned(), description: "must not be empty".to_owned() };
    assert_eq!(error.violations, [violation]);
    let mut foreign = ErrorDetails::new();
    foreign.set_error_info("INVALID_FIELD", "other.example", std::collections::HashMap::new());
    let error = ClientError::from(Status::with_error_details(Code::Unavailable, "x", foreign));
    assert!(error.reason.is_empty() && error.is_temporary() && !error.is_transport_loss());
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nobody");
    let error = Client::connect(Endpoint::unix(&path), ClientOptions::new("x")).await.unwrap_err();
    assert!(error.is_transport_loss() && error.code == Code::Unavailable, "{error:?}");
    assert!(error.message.contains("nobody") && error.message.contains("No such file"), "{error}");
}

#[tokio::test]
async fn addresses_that_cannot_work_are_refused_before_dialling() {
    for url in ["localhost:1", "ftp://localhost", "http://localhost/path", "http://", "not a url"] {
        let error = Client::connect(Endpoint::tcp(url), ClientOptions::new("x")).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{url}");
    }
    let mut options = ClientOptions::new("x");
    options.token = Some("secret".into());
    let error = Client::connect(Endpoint::tcp("http://192.0.2.1:7717"), options.clone()).await.unwrap_err();
    assert!(error.message.contains("https") && !error.message.contains("secret"), "{error}");
    let roots = TlsRoots::Pem(b"no certificate".to_vec());
    let endpoint = TcpEndpoint { url: "https://localhost:1".to_owned(), roots, identity: None };
    let error = Client::connect(Endpoint::Tcp(endpoint), options).await.unwrap_err();
    assert!(error.message.contains("CA"), "{error}");
}
