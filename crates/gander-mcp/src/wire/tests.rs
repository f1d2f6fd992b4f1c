//! The wire against scripted lines.

use std::sync::Arc;

use rmcp::{
    model::{
        ClientJsonRpcMessage, ClientNotification, ClientRequest, InitializedNotification, JsonRpcMessage,
        ListToolsRequest, PaginatedRequestParams, ProgressToken, RequestId, ServerResult,
    },
    transport::Transport,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
};

use super::{Route, RouteTag, StdioLink, Wire, WireFailure, WireShared};
use crate::{
    calls::CallProgress,
    events::{HostEvent, Outbox},
};

type TestWire = Wire<StdioLink<DuplexStream>>;

struct Peer {
    wire: TestWire,
    shared: Arc<WireShared>,
    outbox: Arc<Outbox>,
    /// The server's stdout.
    out: DuplexStream,
    /// The server's stdin.
    input: DuplexStream,
}

fn peer(max_line: usize) -> Peer {
    let outbox = Arc::new(Outbox::default());
    let shared = WireShared::new("k", Arc::clone(&outbox));
    let (out, reader) = tokio::io::duplex(1 << 20);
    let (writer, input) = tokio::io::duplex(1 << 20);
    let link = StdioLink::new(reader, writer, Arc::clone(&shared)).with_max_line(max_line);
    Peer { wire: Wire::new(link, Arc::clone(&shared)), shared, outbox, out, input }
}

fn request(id: i64) -> ClientJsonRpcMessage {
    let request = ListToolsRequest::with_param(PaginatedRequestParams::default());
    ClientJsonRpcMessage::request(ClientRequest::ListToolsRequest(request), RequestId::Number(id))
}

/// A request in flight with the given id and token.
fn in_flight(peer: &Peer, id: i64) -> Arc<Route> {
    let route = Arc::new(Route::default());
    let token = ProgressToken(RequestId::Number(id + 100));
    peer.shared.register(RequestId::Number(id), Some(token), Arc::clone(&route));
    route
}

async fn reports(route: &Route) -> Vec<CallProgress> {
    let (sender, mut receiver) = mpsc::channel(2000);
    assert!(route.drain(&sender).await);
    drop(sender);
    let mut all = Vec::new();
    while let Some(report) = receiver.recv().await {
        all.push(report);
    }
    all
}

#[tokio::test]
async fn reports_are_routed_in_order_before_the_answer() {
    let mut peer = peer(1 << 20);
    let (first, second) = (in_flight(&peer, 1), in_flight(&peer, 2));
    let mut text = String::new();
    for step in 0..300 {
        for id in [101, 102] {
            text.push_str(&format!(
                "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":{id},\
                 \"progress\":{step}}}}}\n"
            ));
        }
    }
    text.push_str(
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/gander/output\",\"params\":{\"progressToken\":\"102\",\
         \"stream\":\"stderr\",\"text\":\"a\"}}\n",
    );
    text.push_str("{\"jsonrpc\":\"2.0\",\"id\":\"1\",\"result\":{\"odd\":true}}\n");
    peer.out.write_all(text.as_bytes()).await.unwrap();
    let Some(JsonRpcMessage::Response(response)) = peer.wire.receive().await else { panic!("an answer") };
    let ServerResult::CustomResult(result) = response.result else { panic!("raw results") };
    assert_eq!(result.0, serde_json::json!({"odd": true}));
    for (route, count) in [(&first, 300), (&second, 301)] {
        let reports = reports(route).await;
        assert_eq!(reports.len(), count);
        for (step, report) in reports.iter().take(300).enumerate() {
            let CallProgress::Progress { progress, .. } = report else { panic!("progress") };
            assert!((progress - step as f64).abs() < f64::EPSILON);
        }
    }
    // The first one is over: what comes late belongs to nobody.
    assert_eq!(peer.shared.pending(), [RequestId::Number(2)]);
}

#[tokio::test]
async fn a_line_beyond_the_limit_fails_its_request_and_only_it() {
    let mut peer = peer(1000);
    let (first, second) = (in_flight(&peer, 1), in_flight(&peer, 2));
    let long = "x".repeat(20_000);
    let text = format!(
        "{{\"result\":{{\"t\":\"{long}\"}},\"jsonrpc\":\"2.0\",\"id\":1}}\n{{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{{}}}}\n"
    );
    peer.out.write_all(text.as_bytes()).await.unwrap();
    let Some(JsonRpcMessage::Error(error)) = peer.wire.receive().await else { panic!("an error") };
    assert_eq!(error.id, Some(RequestId::Number(1)));
    assert_eq!(first.failure(), Some(&WireFailure::TooLarge(1000)));
    assert!(matches!(peer.wire.receive().await, Some(JsonRpcMessage::Response(_))));
    assert_eq!(second.failure(), None);
}

#[tokio::test]
async fn a_line_that_never_ends_fails_its_request_at_the_limit() {
    let mut peer = peer(1000);
    let (first, second) = (in_flight(&peer, 1), in_flight(&peer, 2));
    let endless = format!("{{\"jsonrpc\": \"2.0\", \"id\": 1, \"result\": \"{}", "x".repeat(200_000));
    peer.out.write_all(endless.as_bytes()).await.unwrap();
    assert!(matches!(peer.wire.receive().await, Some(JsonRpcMessage::Error(_))));
    assert!(first.failure().is_some());
    peer.out.write_all(b"\"}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":null}\n").await.unwrap();
    assert!(matches!(peer.wire.receive().await, Some(JsonRpcMessage::Response(_))));
    assert_eq!(second.failure(), None);
}

#[tokio::test]
async fn a_too_long_notification_fails_nothing_and_an_anonymous_answer_fails_all() {
    let mut peer = peer(1000);
    let (first, second) = (in_flight(&peer, 1), in_flight(&peer, 2));
    let long = "x".repeat(20_000);
    let text = format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"data\":\"{long}\"}}}}\n\
         {{\"what\":\"{long}\"}}\n"
    );
    peer.out.write_all(text.as_bytes()).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(peer.wire.receive().await, Some(JsonRpcMessage::Error(_))));
    }
    assert!(first.failure().is_some() && second.failure().is_some());
}

#[tokio::test]
async fn batches_and_unreadable_answers_fail_their_requests() {
    let mut peer = peer(1 << 20);
    let (first, second) = (in_flight(&peer, 1), in_flight(&peer, 2));
    peer.out
        .write_all(b"banner\n[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}},{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"ping\"}]\n")
        .await
        .unwrap();
    assert!(matches!(peer.wire.receive().await, Some(JsonRpcMessage::Error(_))));
    assert_eq!(first.failure(), Some(&WireFailure::Batch));
    let mut refusal = vec![0; 200];
    let count = peer.input.read(&mut refusal).await.unwrap();
    let refusal: serde_json::Value = serde_json::from_slice(&refusal[..count]).unwrap();
    assert_eq!((&refusal["id"], &refusal["error"]["code"]), (&9.into(), &(-32600).into()));
    let deep =
        format!("{{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}{}}}\n", "[".repeat(200), "]".repeat(200));
    peer.out.write_all(deep.as_bytes()).await.unwrap();
    assert!(matches!(peer.wire.receive().await, Some(JsonRpcMessage::Error(_))));
    assert!(matches!(second.failure(), Some(WireFailure::Unreadable(_))));
}

#[tokio::test]
async fn requests_of_the_server_and_cancellations_reach_the_library_and_nothing_else() {
    let mut peer = peer(1 << 20);
    peer.out
        .write_all(
            b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"logger\":\"l\",\"data\":{\"a\":1}}}\n\
              {\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/updated\",\"params\":{\"uri\":\"u\"}}\n\
              {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\
              {\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"ping\"}\n\
              {\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":\"x\"}}\n",
        )
        .await
        .unwrap();
    assert!(matches!(peer.wire.receive().await, Some(JsonRpcMessage::Request(_))));
    assert!(matches!(peer.wire.receive().await, Some(JsonRpcMessage::Notification(_))));
    assert_eq!(peer.shared.signals.lists_changed().await, ["tools"]);
    let (sender, mut events) = mpsc::channel(8);
    let closed = tokio_util::sync::CancellationToken::new();
    closed.cancel();
    crate::events::forward(Arc::clone(&peer.outbox), sender, closed).await;
    assert_eq!(
        *events.recv().await.unwrap(),
        HostEvent::Notification {
            extension_name: "k".to_owned(),
            level: "info".to_owned(),
            logger: "l".to_owned(),
            data_json: "{\"a\":1}".to_owned()
        }
    );
    assert!(matches!(*events.recv().await.unwrap(), HostEvent::ResourceUpdated { uri, .. } if uri == "u"));
    peer.out.shutdown().await.unwrap();
    assert!(peer.wire.receive().await.is_none());
    assert!(peer.shared.input_ended.is_cancelled());
}

#[tokio::test]
async fn messages_leave_in_the_order_in_which_they_were_handed_over() {
    let mut peer = peer(1 << 20);
    let mut sending = Vec::new();
    for id in 0..50 {
        sending.push(peer.wire.send(request(id)));
    }
    let last = ClientNotification::InitializedNotification(InitializedNotification::default());
    sending.push(peer.wire.send(ClientJsonRpcMessage::notification(last)));
    // Polled backwards: the order of polling must not matter.
    for future in sending.into_iter().rev() {
        future.await.unwrap();
    }
    peer.wire.close().await.unwrap();
    drop(peer.wire);
    let mut text = String::new();
    peer.input.read_to_string(&mut text).await.unwrap();
    let ids: Vec<i64> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_i64())
        .collect();
    assert_eq!(ids, (0..50).collect::<Vec<_>>());
    assert!(text.lines().last().unwrap().contains("notifications/initialized"));
}

#[tokio::test]
async fn a_route_is_known_from_the_moment_the_request_is_handed_over() {
    let mut peer = peer(1 << 20);
    let JsonRpcMessage::Request(mut message) = request(5) else { panic!("a request") };
    let route = Arc::new(Route::default());
    {
        use rmcp::model::GetExtensions as _;
        message.request.extensions_mut().insert(RouteTag(Arc::clone(&route)));
    }
    let future = peer.wire.send(JsonRpcMessage::Request(message));
    assert_eq!(peer.shared.pending(), [RequestId::Number(5)]);
    future.await.unwrap();
    drop(super::RouteGuard::new(&peer.shared, &route));
    assert!(peer.shared.pending().is_empty());
}
