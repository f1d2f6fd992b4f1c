//! The same key twice has one effect; the same key with another body is an error that says so.

use gander_bridge_tests::{TestDaemon, events, pb, soon, unique_word};
use gander_client::{Client, ClientError};
use pb::{ErrorReason, session_event::Payload};

fn key() -> String {
    unique_word()
}

async fn count_sessions(client: &Client) -> usize {
    let page =
        client.sessions().list_sessions(pb::ListSessionsRequest::default()).await.expect("ListSessions");
    page.into_inner().sessions.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creating_and_forking() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let request = pb::CreateSessionRequest { idempotency_key: key(), ..events::bare_session(&daemon.work()) };
    let first = client.sessions().create_session(request.clone()).await.expect("created").into_inner();
    let again = client.sessions().create_session(request.clone()).await.expect("again").into_inner();
    assert_eq!(first, again, "the same outcome");
    assert_eq!(count_sessions(&client).await, 1);
    let other = pb::CreateSessionRequest { title: "another".into(), ..request.clone() };
    let error = events::refused(client.sessions().create_session(other).await);
    assert!(error.is(ErrorReason::RequestIdReused), "{error:?}");
    let session_id = first.session.expect("a session").session_id;

    // Many at once are one as well.
    let racing = pb::CreateSessionRequest { idempotency_key: key(), ..request };
    let calls = (0..8).map(|_| {
        let (mut sessions, racing) = (client.sessions(), racing.clone());
        async move { sessions.create_session(racing).await }
    });
    let made: Vec<_> = soon("racing creations", futures::future::join_all(calls)).await;
    let mut ids = Vec::new();
    for outcome in made {
        match outcome {
            Ok(response) => ids.push(response.into_inner().session.expect("a session").session_id),
            // One that is still on its way cannot give its outcome yet; a client comes again.
            Err(status) => assert!(ClientError::from(status.clone()).is_temporary(), "{status:?}"),
        }
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(count_sessions(&client).await, 2);

    events::complete(&client, &session_id, "say hello").await;
    let fork = pb::ForkSessionRequest {
        session_id,
        title: "copy".into(),
        idempotency_key: key(),
        ..Default::default()
    };
    let one = client.sessions().fork_session(fork.clone()).await.expect("forked").into_inner();
    let two = client.sessions().fork_session(fork.clone()).await.expect("again").into_inner();
    assert_eq!(one, two);
    assert_eq!(count_sessions(&client).await, 3);
    let other = pb::ForkSessionRequest { title: "another copy".into(), ..fork };
    let error = events::refused(client.sessions().fork_session(other).await);
    assert!(error.is(ErrorReason::RequestIdReused), "{error:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_and_steering() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    let request = events::turn(&session_id, "slow 200");
    let first = client.turns().start_turn(request.clone()).await.expect("started").into_inner();
    assert!(!first.already_existed);
    let again = client.turns().start_turn(request.clone()).await.expect("again").into_inner();
    assert!(again.already_existed);
    assert_eq!(first.sequence, again.sequence);
    let other = pb::StartTurnRequest { input: Some(events::input("say other")), ..request.clone() };
    let error = events::refused(client.turns().start_turn(other).await);
    assert!(error.is(ErrorReason::TurnIdReused), "{error:?}");
    assert_eq!(error.metadata.get("turnId"), Some(&request.turn_id));
    let busy = events::refused(client.turns().start_turn(events::turn(&session_id, "say busy")).await);
    assert!(busy.is(ErrorReason::TurnAlreadyRunning), "{busy:?}");

    let steer = pb::SteerTurnRequest {
        session_id: session_id.clone(),
        expected_turn_id: request.turn_id.clone(),
        input: Some(events::input("and be quick")),
        idempotency_key: key(),
    };
    let one = client.turns().steer_turn(steer.clone()).await.expect("steered").into_inner();
    let two = client.turns().steer_turn(steer.clone()).await.expect("again").into_inner();
    assert_eq!(one, two);
    let other = pb::SteerTurnRequest { input: Some(events::input("and be slow")), ..steer };
    let error = events::refused(client.turns().steer_turn(other).await);
    assert!(error.is(ErrorReason::RequestIdReused), "{error:?}");
    events::cancel(&client, &session_id, &request.turn_id).await;
    let mut stream = events::watch(&client, &session_id, 0);
    let mut log = Vec::new();
    events::until(&mut stream, &mut log, "the end", |payload| matches!(payload, Payload::TurnEnded(_))).await;
    let steered = events::completed_items(&log)
        .into_iter()
        .filter(|item| matches!(&item.body, Some(pb::item::Body::UserMessage(message)) if message.steered))
        .count();
    assert_eq!(steered, 1, "one effect");
    let started = log.iter().filter(|event| matches!(event.payload, Some(Payload::TurnStarted(_)))).count();
    assert_eq!(started, 1, "one effect");
    drop(stream);
    daemon.finish().await;
}

async fn call(client: &Client, request: pb::CallToolRequest) -> Result<pb::ToolResult, ClientError> {
    soon("CallTool", async {
        let mut stream = client.tools().call_tool(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            if let Some(pb::call_tool_response::Payload::Result(result)) = message.payload {
                return Ok(*result);
            }
        }
        panic!("the stream ended without a result");
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calling_a_tool() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    let request = pb::CallToolRequest {
        session_id: session_id.clone(),
        name: "developer__shell".into(),
        arguments_json: r#"{"command": "echo once >> ran.txt; wc -l < ran.txt"}"#.into(),
        idempotency_key: key(),
        ..Default::default()
    };
    let first = call(&client, request.clone()).await.expect("a result");
    let again = call(&client, request.clone()).await.expect("the recorded result");
    let ran = std::fs::read_to_string(daemon.work().join("ran.txt")).expect("the tool ran");
    assert_eq!(ran, "once\n");
    let other = pb::CallToolRequest { arguments_json: r#"{"command": "echo twice"}"#.into(), ..request };
    let error = call(&client, other).await.expect_err("another body");
    assert!(error.is(ErrorReason::RequestIdReused), "{error:?}");
    assert_eq!(first.parts, again.parts, "the recorded result");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_remembered_by_the_next_daemon() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let request = pb::CreateSessionRequest { idempotency_key: key(), ..events::bare_session(&daemon.work()) };
    let first = client.sessions().create_session(request.clone()).await.expect("created").into_inner();
    let turn = events::turn(&first.session.as_ref().expect("a session").session_id, "say hi");
    client.turns().start_turn(turn.clone()).await.expect("started");
    let (root, _) = daemon.stop(&client, std::time::Duration::from_secs(5)).await;
    let daemon = TestDaemon::start_in(root, |_| {}).await;
    let client = daemon.unix().await;
    let again = client.sessions().create_session(request).await.expect("again").into_inner();
    assert_eq!(first.session.map(|s| s.session_id), again.session.map(|s| s.session_id));
    let again = client.turns().start_turn(turn).await.expect("again").into_inner();
    assert!(again.already_existed);
    daemon.finish().await;
}
