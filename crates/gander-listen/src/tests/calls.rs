//! What the layers around a handler do: identity, panics, deadlines, limits, counters.

use gander_client::{ClientError, WatchOptions};
use gander_proto::v1::ErrorReason;
use tonic::Code;

use super::*;
use crate::Limits;

#[tokio::test]
async fn the_application_learns_who_calls() {
    let daemon = unix(Options::default()).await;
    let client = client(&daemon.endpoint, None).await;
    let answer = client.system().get_server_info(info()).await.unwrap().into_inner();
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(answer.server_info.unwrap().version, format!("uid:{uid}|test/1|rest"));
    let text = daemon.server.metrics_text();
    let row = "gander_grpc_requests_total{service=\"gander.v1.SystemService\",method=\"GetServerInfo\",code=\"OK\"} 1";
    assert!(text.contains(row), "{text}");
    assert!(text.contains("gander_connections_open 1"), "{text}");
}

#[tokio::test]
async fn a_call_in_the_same_process_passes_the_same_layers() {
    let (front, _heard) = front(Options::default());
    let endpoint = Endpoint::Local(front.local(PeerIdentity::local("embedded")));
    let client = client(&endpoint, None).await;
    let answer = client.system().get_server_info(info()).await.unwrap().into_inner();
    assert_eq!(answer.server_info.unwrap().version, "embedded|test/1|rest");
    let error = client.system().get_server_info(told(info(), "panic")).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
}

#[tokio::test]
async fn a_panic_is_an_internal_error_of_that_call_only() {
    let daemon = unix(Options::default()).await;
    let client = client(&daemon.endpoint, None).await;
    let error = ClientError::from(client.system().get_server_info(told(info(), "panic")).await.unwrap_err());
    assert!(error.is(ErrorReason::Internal) && error.code == Code::Internal, "{error:?}");
    assert!(error.message.contains(&error.metadata["id"]) && !error.message.contains("as told"));
    let mut events = client.system().watch_server(told(watch(), "panic")).await.unwrap().into_inner();
    let error = ClientError::from(first_error(&mut events).await);
    assert!(error.is(ErrorReason::Internal), "{error:?}");
    client.system().get_server_info(info()).await.unwrap();
    assert!(daemon.server.metrics_text().contains("gander_handler_panics_total 2"));
}

async fn first_error(events: &mut tonic::Streaming<pb::WatchServerResponse>) -> Status {
    loop {
        if let Err(error) = soon(events.next()).await.expect("an error before the end") {
            return error;
        }
    }
}

#[tokio::test]
async fn a_deadline_bounds_the_whole_call() {
    let daemon = unix(Options::default()).await;
    let mut client = raw(&daemon.path).await;
    for what in ["question", "endless"] {
        let mut request = told(watch(), what);
        request.set_timeout(Duration::from_millis(200));
        let mut events = client.watch_server(request).await.unwrap().into_inner();
        let error = first_error(&mut events).await;
        assert_eq!(error.code(), Code::DeadlineExceeded, "{what}");
        assert!(error.message().contains("deadline"), "trailers of ours: {error:?}");
    }
}

#[tokio::test]
async fn a_unary_call_without_a_deadline_gets_one_and_a_stream_does_not() {
    let limits = Limits { default_deadline: Some(Duration::from_millis(200)), ..Limits::default() };
    let daemon = unix(Options { limits, ..Options::default() }).await;
    let mut client = raw(&daemon.path).await;
    let mut events = client.watch_server(watch()).await.unwrap().into_inner();
    let error = soon(client.get_server_info(told(info(), "stuck"))).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    soon(events.next()).await.unwrap().unwrap();
    let silence = timeout(Duration::from_millis(300), events.next()).await;
    assert!(silence.is_err(), "the stream outlives the default deadline");
    let mut request = Request::new(info());
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    assert_eq!(client.get_server_info(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn more_than_allowed_is_refused_with_a_time_to_retry() {
    let limits = Limits { max_unary: 1, max_streams: 1, ..Limits::default() };
    let mut daemon = unix(Options { limits, ..Options::default() }).await;
    let client = raw(&daemon.path).await;
    let mut other = client.clone();
    let stuck = tokio::spawn({
        let mut client = client.clone();
        async move { client.get_server_info(told(info(), "stuck")).await.map(|_| ()) }
    });
    soon(daemon.heard.recv()).await.unwrap();
    let error = ClientError::from(other.get_server_info(info()).await.unwrap_err());
    assert!(error.is(ErrorReason::Overloaded) && error.code == Code::Unavailable, "{error:?}");
    assert!(error.retry_after.is_some());
    let held = other.watch_server(watch()).await.unwrap();
    let error = ClientError::from(other.watch_server(watch()).await.unwrap_err());
    assert!(error.is(ErrorReason::Overloaded), "{error:?}");
    assert!(daemon.server.metrics_text().contains("gander_streams_open 1"));
    drop(held);
    stuck.abort();
    // The permits come back once the server has heard of it.
    soon(async { while other.get_server_info(info()).await.is_err() {} }).await;
    soon(async { while other.watch_server(watch()).await.is_err() {} }).await;
    assert!(daemon.server.metrics_text().contains("gander_requests_shed_total"));
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_in_grpc() {
    let daemon = unix(Options::default()).await;
    let client = client(&daemon.endpoint, None).await;
    // The stub's daemon has no SessionService.
    let error =
        soon(client.watch("s", WatchOptions { after: Some(0), ..WatchOptions::default() }).next()).await;
    let error = error.unwrap().unwrap_err();
    assert!(error.is(ErrorReason::NotImplemented) && error.code == Code::Unimplemented, "{error:?}");
    assert_eq!(error.metadata["feature"], "/gander.v1.SessionService/WatchSession");
}

#[tokio::test]
async fn one_client_holds_hundreds_of_streams() {
    let daemon = unix(Options::default()).await;
    let client = client(&daemon.endpoint, None).await;
    let mut held = Vec::new();
    for _ in 0..320 {
        let mut events = soon(client.system().watch_server(watch())).await.unwrap().into_inner();
        soon(events.next()).await.unwrap().unwrap();
        held.push(events);
    }
    soon(client.system().get_server_info(info())).await.unwrap();
    let text = daemon.server.metrics_text();
    assert!(text.contains("gander_streams_open 320"), "{text}");
    assert!(text.contains("gander_connections_open 4"), "{text}");
}
