//! Wrong requests: each gets an error that names its reason, and the field where there is one.

use gander_bridge_tests::{TestDaemon, events, pb, soon, wire};
use gander_client::{Client, ClientError};
use pb::{ErrorReason, ToolCallStatus};
use prost::Message as _;
use tonic::Code;

fn assert_field(error: &ClientError, field: &str) {
    assert!(error.is(ErrorReason::InvalidField), "{error:?}");
    assert_eq!(error.code, Code::InvalidArgument, "{error:?}");
    let named = error
        .violations
        .iter()
        .any(|violation| violation.field == field && !violation.description.is_empty());
    assert!(named, "{field} is named: {error:?}");
}

fn session(session_id: &str) -> pb::GetSessionRequest {
    pb::GetSessionRequest { session_id: session_id.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let long = "x".repeat(65);
    for bad in ["", "with space", "a/b", "../etc", "naïve", long.as_str()] {
        let error = events::refused(client.sessions().get_session(session(bad)).await);
        assert_field(&error, "session_id");
    }
    let error = events::refused(client.sessions().get_session(session("unknown")).await);
    assert!(error.is(ErrorReason::SessionNotFound) && error.code == Code::NotFound, "{error:?}");
    assert_eq!(error.metadata.get("sessionId").map(String::as_str), Some("unknown"));

    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let turn = pb::GetTurnRequest { session_id: session_id.clone(), turn_id: "none".into() };
    let error = events::refused(client.turns().get_turn(turn).await);
    assert!(error.is(ErrorReason::TurnNotFound), "{error:?}");
    let redact = pb::RedactItemRequest {
        session_id: session_id.clone(),
        item_id: "none".into(),
        ..Default::default()
    };
    let error = events::refused(client.sessions().redact_item(redact).await);
    assert!(error.is(ErrorReason::ItemNotFound), "{error:?}");
    let answer =
        pb::InteractionAnswer { answer: Some(pb::interaction_answer::Answer::OptionId("allow".into())) };
    let respond = pb::RespondToInteractionRequest {
        interaction_id: "none".into(),
        answer: Some(answer),
        ..Default::default()
    };
    let error = events::refused(client.interactions().respond_to_interaction(respond).await);
    assert!(error.is(ErrorReason::InteractionNotFound), "{error:?}");
    let content = pb::ReadContentRequest {
        session_id: session_id.clone(),
        content_id: "none".into(),
        ..Default::default()
    };
    let error = first_error(client.sessions().read_content(content).await).await;
    assert!(error.is(ErrorReason::ContentNotFound), "{error:?}");
    let steer = pb::SteerTurnRequest { session_id, input: Some(events::input("x")), ..Default::default() };
    let error = events::refused(client.turns().steer_turn(steer).await);
    assert!(error.is(ErrorReason::TurnNotRunning), "{error:?}");
    daemon.finish().await;
}

/// The error of a streaming call, at once or as its first message.
async fn first_error<T: std::fmt::Debug>(
    opened: Result<tonic::Response<tonic::Streaming<T>>, tonic::Status>,
) -> ClientError {
    match opened {
        Err(status) => status.into(),
        Ok(stream) => match soon("the first message", stream.into_inner().message()).await {
            Err(status) => status.into(),
            Ok(message) => panic!("should have failed, gave {message:?}"),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    events::complete(&client, &session_id, "say hi").await;
    let watch = |after| pb::WatchSessionRequest {
        session_id: session_id.clone(),
        after_sequence: Some(after),
        ..Default::default()
    };
    let ahead = first_error(client.sessions().watch_session(watch(1 << 40)).await).await;
    assert!(ahead.is(ErrorReason::SequenceAhead) && ahead.code == Code::OutOfRange, "{ahead:?}");
    assert!(ahead.metadata.contains_key("lastSequence"), "{ahead:?}");
    let negative = first_error(client.sessions().watch_session(watch(-1)).await).await;
    assert_field(&negative, "after_sequence");
    let list = pb::ListEventsRequest {
        session_id: session_id.clone(),
        after_sequence: 1 << 40,
        ..Default::default()
    };
    let ahead = events::refused(client.sessions().list_events(list).await);
    assert!(ahead.is(ErrorReason::SequenceAhead), "{ahead:?}");
    let unknown = pb::WatchSessionRequest { session_id: "unknown".into(), ..Default::default() };
    let error = first_error(client.sessions().watch_session(unknown).await).await;
    assert!(error.is(ErrorReason::SessionNotFound), "{error:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_cursor_is_told_and_not_silence() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    events::complete(&client, &session_id, "say hi").await;
    let database = daemon.root().join("data/gander.db");
    let (root, _) = daemon.stop(&client, std::time::Duration::from_secs(5)).await;
    // This version never drops the beginning of a log, a later one may: so it is done by hand.
    let connection = rusqlite::Connection::open(database).expect("the database");
    connection.execute("DELETE FROM event WHERE sequence BETWEEN 1 AND 4", []).expect("events are dropped");
    drop(connection);
    let daemon = TestDaemon::start_in(root, |_| {}).await;
    let client = daemon.unix().await;
    let list = pb::ListEventsRequest { session_id, after_sequence: 2, ..Default::default() };
    let error = events::refused(client.sessions().list_events(list).await);
    assert!(error.is(ErrorReason::SequenceCompacted) && error.code == Code::OutOfRange, "{error:?}");
    assert_eq!(error.metadata.get("oldestSequence").map(String::as_str), Some("5"));
    let (findings, _) = events::store_findings(&client).await;
    assert!(!findings.is_empty(), "a log without its beginning is no log: CheckStore says so");
    let _ = daemon.stop(&client, std::time::Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_masks_and_settings() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let page = pb::ListSessionsRequest { page_token: "forged".into(), ..Default::default() };
    let error = events::refused(client.sessions().list_sessions(page).await);
    assert!(error.is(ErrorReason::PageTokenInvalid) && error.code == Code::InvalidArgument, "{error:?}");
    let page = pb::ListSessionsRequest { page_size: -1, ..Default::default() };
    assert_field(&events::refused(client.sessions().list_sessions(page).await), "page_size");
    let items = pb::ListItemsRequest {
        session_id: session_id.clone(),
        page_token: "forged".into(),
        ..Default::default()
    };
    let error = events::refused(client.sessions().list_items(items).await);
    assert!(error.is(ErrorReason::PageTokenInvalid), "{error:?}");

    let update = |paths: &[&str]| pb::UpdateSessionRequest {
        session: Some(pb::Session {
            session_id: session_id.clone(),
            title: "t".into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
        ..Default::default()
    };
    for paths in [&[][..], &["nonsense"], &["title", "session_id"], &["last_sequence"]] {
        let error = events::refused(client.sessions().update_session(update(paths)).await);
        assert!(error.is(ErrorReason::InvalidField), "{paths:?}: {error:?}");
        assert!(!error.violations.is_empty(), "{paths:?}: {error:?}");
    }
    let get = client.sessions().get_session(session(&session_id)).await.expect("the session").into_inner();
    let found = get.session.expect("the session");
    assert_ne!(found.title, "t", "all or none");
    let mut stale = update(&["title"]);
    stale.session.as_mut().expect("a session").etag = "stale".into();
    let error = events::refused(client.sessions().update_session(stale).await);
    assert!(error.is(ErrorReason::EtagMismatch) && error.code == Code::Aborted, "{error:?}");

    for directory in ["relative/path", "/no/such/directory/anywhere", "/dev/null"] {
        let request = pb::CreateSessionRequest {
            working_directory: directory.into(),
            ..events::bare_session(&daemon.work())
        };
        let error = events::refused(client.sessions().create_session(request).await);
        let named = error.is(ErrorReason::WorkingDirectoryInvalid) || error.is(ErrorReason::InvalidField);
        assert!(named && error.code == Code::InvalidArgument, "{directory}: {error:?}");
    }
    let request = pb::CreateSessionRequest { demo_allowed: false, ..events::bare_session(&daemon.work()) };
    let created = client.sessions().create_session(request).await;
    let error = match created {
        Err(status) => ClientError::from(status),
        // Without a model a session may exist, a turn not.
        Ok(response) => {
            let session_id = response.into_inner().session.expect("a session").session_id;
            events::refused(client.turns().start_turn(events::turn(&session_id, "hi")).await)
        }
    };
    assert!(error.is(ErrorReason::ProviderNotConfigured), "{error:?}");

    // Everything that is wrong comes in one answer.
    let turn = pb::StartTurnRequest {
        when_busy: 99,
        limits: Some(pb::TurnLimits { max_model_calls: Some(0), ..Default::default() }),
        ..events::turn("not an id", "hi")
    };
    let error = events::refused(client.turns().start_turn(turn).await);
    for field in ["session_id", "when_busy", "limits.max_model_calls"] {
        assert_field(&error, field);
    }
    daemon.finish().await;
}

async fn call_tool(client: &Client, session_id: &str, name: &str, arguments: &str) -> ClientError {
    let request = pb::CallToolRequest {
        session_id: session_id.to_owned(),
        name: name.to_owned(),
        arguments_json: arguments.to_owned(),
        ..Default::default()
    };
    first_error(client.tools().call_tool(request).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_of_callers_and_of_models() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    for arguments in ["{not json", "[]", "1", "{\"command\": \"x\"} trailing"] {
        let error = call_tool(&client, &session_id, "developer__shell", arguments).await;
        assert_field(&error, "arguments_json");
    }
    let error = call_tool(&client, &session_id, "developer__nonsense", "{}").await;
    assert!(error.is(ErrorReason::ToolNotFound), "{error:?}");

    // A model's bad arguments are no error of the API: the call is completed as invalid, the turn goes on.
    for arguments in ["{broken", "{\"command\": 7}", "{}"] {
        let events =
            events::complete(&client, &session_id, &format!("call developer__shell {arguments}")).await;
        let calls = events::tool_calls(&events);
        let status = calls[0].status();
        assert!(
            matches!(status, ToolCallStatus::Invalid | ToolCallStatus::Failed),
            "{arguments}: {:?}",
            calls[0]
        );
        assert!(calls[0].result.is_some(), "{arguments}");
    }
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_request() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let path = "/gander.v1.SessionService/GetSession";
    let good = session(&session_id).encode_to_vec();
    wire::call(&client, path, &good).await.expect("the same way works for a correct request");
    // session_id is not UTF-8; a field that ends before its length; a wrong wire type.
    for bad in [&b"\x0a\x02\xff\xfe"[..], b"\x0a\x7fabc", b"\x08\x01"] {
        let error = wire::call(&client, path, bad).await.expect_err("refused");
        assert!(error.is(ErrorReason::InvalidField), "{bad:?}: {error:?}");
        assert_eq!(error.code, Code::InvalidArgument, "{bad:?}: {error:?}");
    }
    let huge = events::turn(&session_id, &"x".repeat(33 * 1024 * 1024));
    let error = events::refused(soon("a refusal", client.turns().start_turn(huge)).await);
    assert!(error.is(ErrorReason::MessageTooLarge) && error.code == Code::ResourceExhausted, "{error:?}");
    assert!(error.metadata.contains_key("maxBytes"), "{error:?}");
    // The connection and the daemon are none the worse for it.
    events::complete(&client, &session_id, "say fine").await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_input_is_stored_beside_the_log_and_read_back() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let text: String = (0..200_000).map(|n| format!("{n} ")).collect();
    assert!(text.len() > 1_000_000);
    let events = events::complete(&client, &session_id, &format!("what is {text}")).await;
    let largest = events.iter().map(prost::Message::encoded_len).max().expect("events");
    assert!(largest <= 1 << 20, "an event of {largest} bytes");
    let items = events::completed_items(&events);
    let Some(pb::item::Body::UserMessage(message)) = &items[0].body else { panic!("{:?}", items[0].item_id) };
    let Some(pb::part::Body::TextContentId(content_id)) = &message.parts[0].body else { panic!("inline") };
    let request = pb::ReadContentRequest {
        session_id,
        content_id: content_id.clone(),
        offset: 8,
        ..Default::default()
    };
    let mut stream = client.sessions().read_content(request).await.expect("content").into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = soon("a chunk", stream.message()).await.expect("a chunk") {
        bytes.extend_from_slice(&chunk.data);
    }
    assert_eq!(bytes, text.as_bytes(), "what is ");
    daemon.finish().await;
}
