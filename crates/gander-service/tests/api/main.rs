//! The services as a client sees them, over the in-process transport.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod context;
mod extensions;
mod harness;
mod hosts;
mod recipes;
mod settings;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::FutureExt as _;
use gander_model::testing::{Gate, Script};
use gander_proto::v1 as pb;
use gander_service::{MAX_REQUEST_BYTES, ServiceOptions};
use harness::{Harness, collect, names, next, reason, run_request};
use pb::session_event::Payload;
use tonic::Code;
use tonic_types::StatusExt as _;

#[tokio::test]
async fn a_turn_streams_from_its_start_to_its_end() {
    let h = Harness::new([Script::reply("hello there")]).await;
    let session_id = h.session().await;
    let events = h.run(&session_id, "t1", "hi").await;
    let stored: Vec<_> =
        events.iter().filter(|e| !matches!(e.payload, Some(Payload::Checkpoint(_)))).cloned().collect();
    let names = names(&stored);
    assert_eq!(names.first().map(String::as_str), Some("TurnStarted"));
    assert_eq!(names.last().map(String::as_str), Some("TurnEnded"));
    assert!(stored.windows(2).all(|w| w[0].sequence < w[1].sequence), "{names:?}");
    let Some(Payload::TurnEnded(ended)) = &stored.last().unwrap().payload else { panic!() };
    let turn = ended.turn.as_ref().unwrap();
    assert_eq!((turn.state(), turn.session_id.as_str()), (pb::TurnState::Completed, session_id.as_str()));
    let started_by = turn.started_by.as_ref().unwrap();
    assert_eq!((started_by.principal.as_str(), started_by.protocol.as_str()), ("uid:7", "grpc"));

    let request = pb::GetTurnRequest { session_id: session_id.clone(), turn_id: "t1".into() };
    let got = h.turns().get_turn(request).await.unwrap().into_inner();
    assert_eq!(got.final_parts[0].body, Some(pb::part::Body::Text("hello there".into())));

    let request = pb::ListItemsRequest { session_id, page_size: 1, ..Default::default() };
    let first = h.sessions().list_items(request.clone()).await.unwrap().into_inner();
    let request = pb::ListItemsRequest { page_token: first.next_page_token, ..request };
    let second = h.sessions().list_items(request).await.unwrap().into_inner();
    let bodies: Vec<_> = first.items.iter().chain(&second.items).map(|i| i.body.clone().unwrap()).collect();
    assert!(matches!(bodies[0], pb::item::Body::UserMessage(_)));
    assert!(matches!(bodies[1], pb::item::Body::AgentMessage(_)));
    assert_eq!((second.next_page_token.as_str(), second.through_sequence), ("", first.through_sequence));
}

#[tokio::test]
async fn running_a_turn_again_attaches_to_it_at_every_cursor() {
    let h = Harness::new([Script::reply("one two three")]).await;
    let session_id = h.session().await;
    let sequences = |events: &[pb::SessionEvent]| {
        let stored = events.iter().filter(|e| !matches!(e.payload, Some(Payload::Checkpoint(_))));
        stored.map(|e| e.sequence).collect::<Vec<_>>()
    };
    let all = sequences(&h.run(&session_id, "t1", "hi").await);
    for cut in 0..=all.len() {
        let after = if cut == 0 { all[0] - 1 } else { all[cut - 1] };
        let request =
            pb::RunTurnRequest { after_sequence: Some(after), ..run_request(&session_id, "t1", "hi") };
        let stream = h.turns().run_turn(request).await.unwrap().into_inner();
        let rest: Vec<_> = collect(stream).await.into_iter().map(|r| r.event.unwrap()).collect();
        assert_eq!(sequences(&rest), all[cut..], "cut after {after}");
    }
    let other = h.turns().run_turn(run_request(&session_id, "t1", "something else")).await.unwrap_err();
    assert_eq!(reason(&other), (Code::AlreadyExists, "TURN_ID_REUSED".into()));
}

#[tokio::test]
async fn watches_replay_follow_and_end() {
    let gate = Gate::new();
    let h = Harness::new([Script::new().text("one").gate(&gate).text(" two")]).await;
    let session_id = h.session().await;
    let watch = |after, exclude_deltas, until: &str| pb::WatchSessionRequest {
        session_id: session_id.clone(),
        after_sequence: after,
        exclude_deltas,
        until_turn_ends: until.into(),
    };
    let mut live = h.sessions().watch_session(watch(Some(0), false, "")).await.unwrap().into_inner();
    assert_eq!(names(&[next(&mut live).await.event.unwrap()]), ["SessionCreated"]);
    let checkpoint = next(&mut live).await.event.unwrap();
    assert!(matches!(checkpoint.payload, Some(Payload::Checkpoint(pb::Checkpoint { caught_up: true }))));
    assert_eq!((checkpoint.sequence, checkpoint.ignorable), (1, true));

    // Before the turn exists: a client may choose its id.
    let quiet = h.sessions().watch_session(watch(None, true, "t1")).await.unwrap().into_inner();
    let run = h.turns().run_turn(run_request(&session_id, "t1", "hi")).await.unwrap().into_inner();
    drop(run); // Closing a stream affects nothing.
    gate.reached().await;
    gate.release();
    let quiet: Vec<_> = collect(quiet).await.into_iter().map(|r| r.event.unwrap()).collect();
    let quiet_names = names(&quiet);
    assert_eq!(quiet_names.last().map(String::as_str), Some("TurnEnded"));
    assert!(!quiet_names.iter().any(|n| n.ends_with("Delta")), "{quiet_names:?}");
    let mut text = String::new();
    loop {
        match next(&mut live).await.event.unwrap().payload.unwrap() {
            Payload::TextDelta(delta) => text.push_str(&delta.text),
            Payload::TurnEnded(_) => break,
            _ => {}
        }
    }
    assert_eq!(text, "one two");
    // A turn that has ended before the cursor: nothing more comes, and the stream does not hang.
    let last = quiet.last().unwrap().sequence;
    let late = h.sessions().watch_session(watch(Some(last), false, "t1")).await.unwrap().into_inner();
    assert_eq!(collect(late).await, []);
    let ahead = h.sessions().watch_session(watch(Some(10_000), false, "")).await.unwrap_err();
    assert_eq!(reason(&ahead), (Code::OutOfRange, "SEQUENCE_AHEAD".into()));
}

#[tokio::test]
async fn silence_is_broken_by_checkpoints() {
    let options = ServiceOptions { checkpoint_interval: Duration::from_millis(5), ..Default::default() };
    let h = Harness::with([], options).await;
    let request = pb::WatchSessionRequest { session_id: h.session().await, ..Default::default() };
    let mut watch = h.sessions().watch_session(request).await.unwrap().into_inner();
    for _ in 0..3 {
        assert_eq!(names(&[next(&mut watch).await.event.unwrap()]), ["Checkpoint"]);
    }
}

#[tokio::test]
async fn streams_are_limited_and_give_their_place_back() {
    let h = Harness::with([], ServiceOptions { max_streams: 1, ..Default::default() }).await;
    let request = pb::WatchSessionRequest { session_id: h.session().await, ..Default::default() };
    let watch = h.sessions().watch_session(request.clone()).await.unwrap();
    let refused = h.sessions().watch_session(request.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::Unavailable, "OVERLOADED".into()));
    assert!(refused.get_error_details().retry_info().is_some());
    drop(watch);
    h.sessions().watch_session(request).await.unwrap();
}

#[tokio::test]
async fn a_key_has_one_effect() {
    let h = Harness::new([]).await;
    let request = pb::CreateSessionRequest {
        idempotency_key: "k1".into(),
        labels: (0..20).map(|i| (format!("k{i}"), "v".to_owned())).collect(),
        ..h.create_request()
    };
    let first = h.sessions().create_session(request.clone()).await.unwrap().into_inner().session.unwrap();
    for _ in 0..3 {
        // Built anew, so that its map has another order.
        let labels = request.labels.clone().into_iter().collect();
        let again = pb::CreateSessionRequest { labels, ..request.clone() };
        let again = h.sessions().create_session(again).await.unwrap().into_inner().session.unwrap();
        assert_eq!(again.session_id, first.session_id);
    }
    let other = pb::CreateSessionRequest { title: "other".into(), ..request };
    let error = h.sessions().create_session(other).await.unwrap_err();
    assert_eq!(reason(&error), (Code::AlreadyExists, "REQUEST_ID_REUSED".into()));
}

#[tokio::test]
async fn an_effect_survives_its_caller() {
    let h = Harness::new([]).await;
    let request = pb::CreateSessionRequest { session_id: "s1".into(), ..h.create_request() };
    let mut client = h.sessions();
    // Polled once, then dropped, as tonic does when a client goes away.
    assert!(
        client.create_session(request).now_or_never().is_none(),
        "creating a session waits for the store"
    );
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let request = pb::GetSessionRequest { session_id: "s1".into() };
        let found = h.sessions().get_session(request).await.ok().and_then(|f| f.into_inner().session);
        // Loaded is the last step of the creation.
        if found.is_some_and(|session| session.loaded) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the session should have been created");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn settings_are_compared_and_set() {
    let h = Harness::new([]).await;
    let session_id = h.session().await;
    let update = |title: &str, etag: &str, key: &str| pb::UpdateSessionRequest {
        session: Some(pb::Session {
            session_id: session_id.clone(),
            title: title.into(),
            etag: etag.into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["title".into()] }),
        idempotency_key: key.into(),
    };
    let get = pb::GetSessionRequest { session_id: session_id.clone() };
    let before = h.sessions().get_session(get.clone()).await.unwrap().into_inner().session.unwrap();
    assert!(before.options.iter().any(|o| o.option_id == "mode"));
    let done = h.sessions().update_session(update("A", &before.etag, "k")).await.unwrap().into_inner();
    assert_eq!(done.session.as_ref().unwrap().title, "A");
    assert_ne!(done.session.unwrap().etag, before.etag);
    let stale = h.sessions().update_session(update("B", &before.etag, "")).await.unwrap_err();
    assert_eq!(reason(&stale), (Code::Aborted, "ETAG_MISMATCH".into()));
    let again = h.sessions().update_session(update("A", &before.etag, "k")).await.unwrap().into_inner();
    assert_eq!(again.sequence, done.sequence, "the repeated request is no stale one");
    let delete = pb::DeleteSessionRequest { session_id, etag: before.etag, ..Default::default() };
    let stale = h.sessions().delete_session(delete.clone()).await.unwrap_err();
    assert_eq!(reason(&stale), (Code::Aborted, "ETAG_MISMATCH".into()));
    h.sessions().delete_session(pb::DeleteSessionRequest { etag: String::new(), ..delete }).await.unwrap();
    let gone = h.sessions().get_session(get).await.unwrap_err();
    assert_eq!(reason(&gone), (Code::NotFound, "SESSION_NOT_FOUND".into()));
}

#[tokio::test]
async fn lists_page_and_bind_their_tokens() {
    let h = Harness::new([]).await;
    let mut made = Vec::new();
    for i in 0..5 {
        let labels = [("n".to_owned(), (i % 2).to_string())].into_iter().collect();
        let request = pb::CreateSessionRequest { labels, ..h.create_request() };
        let session = h.sessions().create_session(request).await.unwrap().into_inner().session.unwrap();
        made.insert(0, session.session_id);
    }
    let order = pb::SessionOrder::CreateTimeDesc as i32;
    let mut request = pb::ListSessionsRequest { page_size: 2, order, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = h.sessions().list_sessions(request.clone()).await.unwrap().into_inner();
        assert!(page.sessions.len() <= 2);
        seen.extend(page.sessions.into_iter().map(|s| s.session_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, made);
    let changed = pb::ListSessionsRequest { with_messages_only: true, ..request.clone() };
    let error = h.sessions().list_sessions(changed).await.unwrap_err();
    assert_eq!(reason(&error), (Code::InvalidArgument, "PAGE_TOKEN_INVALID".into()));
    let labels = [("n".to_owned(), "1".to_owned())].into_iter().collect();
    let labelled = pb::ListSessionsRequest { labels, page_token: String::new(), ..request };
    assert_eq!(h.sessions().list_sessions(labelled).await.unwrap().into_inner().sessions.len(), 2);
}

#[tokio::test]
async fn every_error_is_complete() {
    let h = Harness::new([]).await;
    let bad = pb::CancelTurnRequest { session_id: "a b".into(), turn_id: "x/y".into(), ..Default::default() };
    let error = h.turns().cancel_turn(bad).await.unwrap_err();
    assert_eq!(reason(&error), (Code::InvalidArgument, "INVALID_FIELD".into()));
    let details = error.get_error_details();
    let fields: Vec<_> =
        details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["session_id", "turn_id"]);

    // Errors that tonic answers before a handler runs.
    let mut raw = tonic::client::Grpc::new(h.transport.clone());
    let codec = || tonic_prost::ProstCodec::<pb::GetSessionRequest, pb::GetSessionResponse>::default();
    let unknown = http::uri::PathAndQuery::from_static("/gander.v1.SessionService/Nothing");
    raw.ready().await.unwrap();
    let request = tonic::Request::new(pb::GetSessionRequest::default());
    let error = raw.unary(request, unknown, codec()).await.unwrap_err();
    assert_eq!(reason(&error), (Code::Unimplemented, "NOT_IMPLEMENTED".into()));
    let huge = pb::GetSessionRequest { session_id: "x".repeat(MAX_REQUEST_BYTES + 1) };
    let error = h.sessions().get_session(huge).await.unwrap_err();
    assert_eq!(reason(&error), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".into()));
}

#[tokio::test]
async fn exports_come_back_as_sessions() {
    let h = Harness::new([Script::reply("hello")]).await;
    let session_id = h.session().await;
    h.run(&session_id, "t1", "hi").await;
    let request = pb::ExportSessionRequest { session_id: session_id.clone(), exclude_content: false };
    let chunks = collect(h.sessions().export_session(request).await.unwrap().into_inner()).await;
    let data: Vec<u8> = chunks.into_iter().flat_map(|c| c.data).collect();
    let request = pb::ImportSessionRequest {
        source: Some(pb::import_session_request::Source::ExportData(data.into())),
        ..Default::default()
    };
    let made = h.sessions().import_session(request).await.unwrap().into_inner().session.unwrap();
    assert_ne!(made.session_id, session_id);
    let items = |session_id| pb::ListItemsRequest { session_id, ..Default::default() };
    let old = h.sessions().list_items(items(session_id)).await.unwrap().into_inner().items;
    let new = h.sessions().list_items(items(made.session_id)).await.unwrap().into_inner().items;
    let ids = |items: &[pb::Item]| items.iter().map(|i| i.message_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&new), ids(&old));
}

#[tokio::test]
async fn a_drain_ends_streams_with_a_reason() {
    let asked = Arc::new(Mutex::new(None));
    let hook = {
        let asked = asked.clone();
        Arc::new(move |grace| *asked.lock().unwrap() = Some(grace))
    };
    let h = Harness::with([], ServiceOptions { shutdown: Some(hook), ..Default::default() }).await;
    let request = pb::WatchSessionRequest { session_id: h.session().await, ..Default::default() };
    let watch = h.sessions().watch_session(request).await.unwrap().into_inner();
    let server = h.system().watch_server(pb::WatchServerRequest::default()).await.unwrap().into_inner();
    let grace_period = Some(prost_types::Duration { seconds: 0, nanos: 5_000_000 });
    let request = pb::ShutdownRequest { grace_period, only_if_idle: true, ..Default::default() };
    h.system().shutdown(request).await.unwrap();
    let grace = asked.lock().unwrap().take().unwrap();
    assert_eq!(grace, Duration::from_millis(5));
    let engine = h.engine.clone();
    let drain = tokio::spawn(async move { engine.drain(grace).await });
    let events: Vec<_> = collect(watch).await.into_iter().map(|r| r.event.unwrap()).collect();
    let Some(Payload::StreamClosing(closing)) = &events.last().unwrap().payload else { panic!("{events:?}") };
    assert_eq!(closing.reason(), pb::StreamCloseReason::Drain);
    assert!(closing.retry_after.is_some());
    let server = collect(server).await;
    assert!(matches!(
        server.last().unwrap().payload,
        Some(pb::watch_server_response::Payload::StreamClosing(_))
    ));
    drain.await.unwrap();
    let refused = h.sessions().create_session(h.create_request()).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::Unavailable, "SHUTTING_DOWN".into()));
    let info = h.system().get_server_info(pb::GetServerInfoRequest::default()).await.unwrap().into_inner();
    assert_eq!(info.server_info.unwrap().drain_state(), pb::DrainState::Draining);
}

#[tokio::test]
async fn tools_find_the_services_and_their_health() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let h = Harness::new([]).await;
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(h.transport.clone());
    let asked = futures::stream::iter([list]);
    let answers = collect(reflection.server_reflection_info(asked).await.unwrap().into_inner()).await;
    let Some(MessageResponse::ListServicesResponse(listed)) = &answers[0].message_response else { panic!() };
    let names: Vec<_> = listed.service.iter().map(|s| s.name.as_str()).collect();
    for name in ["gander.v1.SessionService", "gander.v1.TurnService", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let mut health = HealthClient::new(h.transport.clone());
    let check = |service: &str| HealthCheckRequest { service: service.into() };
    for service in ["", "gander.v1.TurnService"] {
        let status = health.check(check(service)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let mut watch = health.watch(check("")).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await.status(), ServingStatus::Serving);
    h.engine.drain(Duration::ZERO).await;
    assert_eq!(next(&mut watch).await.status(), ServingStatus::NotServing);
}
