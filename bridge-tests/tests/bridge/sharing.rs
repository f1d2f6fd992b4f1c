//! Clients of one session over different transports: the same events in the same order, and any of them may answer.

use gander::daemon::Embedded;
use gander_bridge_tests::{TestDaemon, connect, daemon, events, pb};
use gander_client::{Client, EventStream};
use pb::{ErrorReason, SessionEvent, TurnState, session_event::Payload};

fn decision(kind: pb::PermissionDecision) -> pb::InteractionAnswer {
    let answer = pb::PermissionAnswer { kind: kind as i32, ..Default::default() };
    pb::InteractionAnswer { answer: Some(pb::interaction_answer::Answer::Decision(answer)) }
}

async fn question(stream: &mut EventStream, seen: &mut Vec<SessionEvent>) -> pb::Interaction {
    let event = events::until(stream, seen, "a question", |payload| {
        matches!(payload, Payload::InteractionRequested(_))
    });
    match event.await.payload {
        Some(Payload::InteractionRequested(requested)) => requested.interaction.expect("an interaction"),
        other => panic!("{other:?}"),
    }
}

async fn resolution(stream: &mut EventStream, seen: &mut Vec<SessionEvent>) -> pb::InteractionResolved {
    let event = events::until(stream, seen, "an answer", |payload| {
        matches!(payload, Payload::InteractionResolved(_))
    });
    match event.await.payload {
        Some(Payload::InteractionResolved(resolved)) => *resolved,
        other => panic!("{other:?}"),
    }
}

async fn to_end(stream: &mut EventStream, seen: &mut Vec<SessionEvent>) -> pb::Turn {
    events::until(stream, seen, "the end", |payload| matches!(payload, Payload::TurnEnded(_))).await;
    events::ended(seen).expect("its end")
}

fn answer(interaction: &pb::Interaction, kind: pb::PermissionDecision) -> pb::RespondToInteractionRequest {
    pb::RespondToInteractionRequest {
        interaction_id: interaction.interaction_id.clone(),
        answer: Some(decision(kind)),
        ..Default::default()
    }
}

/// `asker` runs a turn that asks; `answerer` answers; both see all of it.
async fn ask_and_answer(asker: &Client, answerer: &Client, directory: &std::path::Path) {
    let request = pb::CreateSessionRequest {
        mode: Some(pb::SessionMode::Approve as i32),
        ..events::new_session(directory)
    };
    let session_id = events::create(asker, request).await;
    let (mut one, mut two) = (events::watch(asker, &session_id, 0), events::watch(answerer, &session_id, 0));
    let (mut seen_one, mut seen_two) = (Vec::new(), Vec::new());
    events::start(asker, &session_id, &events::shell("echo permitted")).await;
    let asked = question(&mut two, &mut seen_two).await;
    assert_eq!(asked.state(), pb::InteractionState::Pending);
    let list = pb::ListInteractionsRequest { session_id: session_id.clone(), ..Default::default() };
    let pending =
        asker.interactions().list_interactions(list).await.expect("a list").into_inner().interactions;
    assert_eq!(pending.len(), 1);
    let allow = answer(&asked, pb::PermissionDecision::Allow);
    let given =
        answerer.interactions().respond_to_interaction(allow.clone()).await.expect("answered").into_inner();

    assert_eq!(question(&mut one, &mut seen_one).await, asked, "the other client was asked the same");
    let resolved = resolution(&mut one, &mut seen_one).await;
    assert_eq!(resolved.interaction_id, asked.interaction_id);
    assert_eq!(resolved.outcome(), pb::InteractionOutcome::Answered);
    let by = resolved.answered_by.expect("who answered");
    assert_eq!(by.client_name, "bridge-tests");
    assert_eq!(seen_one.last().map(|event| event.sequence), Some(given.sequence));

    // The same answer late is fine, another one is told who was faster.
    asker.interactions().respond_to_interaction(allow).await.expect("the same answer");
    let deny = answer(&asked, pb::PermissionDecision::Deny);
    let late = events::refused(asker.interactions().respond_to_interaction(deny).await);
    assert!(late.is(ErrorReason::InteractionResolved), "{late:?}");
    assert_eq!(late.metadata.get("outcome").map(String::as_str), Some("ANSWERED"), "{late:?}");
    assert!(late.metadata.get("answeredBy").is_some_and(|by| !by.is_empty()), "{late:?}");

    assert_eq!(to_end(&mut one, &mut seen_one).await.state(), TurnState::Completed);
    to_end(&mut two, &mut seen_two).await;
    let (seen_one, seen_two) = (events::logged(&seen_one), events::logged(&seen_two));
    events::assert_same("both clients", &seen_one, &seen_two);
    let log = events::log(asker, &session_id).await;
    events::assert_same("the log", &seen_one, &log[..seen_one.len()]);
    let calls = events::tool_calls(&seen_one);
    assert!(events::result_text(&calls[0]).contains("permitted"), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_on_different_sockets_share_a_session() {
    let daemon = TestDaemon::start().await;
    let (unix, tcp) = (daemon.unix().await, daemon.tcp().await);
    Box::pin(ask_and_answer(&unix, &tcp, &daemon.work())).await;
    Box::pin(ask_and_answer(&tcp, &unix, &daemon.work())).await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_in_process_are_clients_like_others() {
    let root = daemon::new_root();
    let embedded = Embedded::start(daemon::options(root.path())).await.expect("an engine");
    let one = connect(embedded.endpoint(), None).await.expect("a client");
    let two = connect(embedded.endpoint(), None).await.expect("a client");
    Box::pin(ask_and_answer(&one, &two, &root.path().join("work"))).await;
    events::check_store(&one).await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_reaches_the_model_and_a_cancel_ends_the_turn() {
    let daemon = TestDaemon::start().await;
    let (unix, tcp) = (daemon.unix().await, daemon.tcp().await);
    for (kind, state, status) in [
        (pb::PermissionDecision::Deny, TurnState::Completed, pb::ToolCallStatus::Declined),
        (pb::PermissionDecision::Cancel, TurnState::Cancelled, pb::ToolCallStatus::Declined),
    ] {
        let session_id = events::create(&unix, events::new_session(&daemon.work())).await;
        let request = pb::StartTurnRequest {
            mode: Some(pb::SessionMode::Approve as i32),
            ..events::turn(&session_id, &events::shell("touch forbidden"))
        };
        unix.turns().start_turn(request).await.expect("started");
        let (mut stream, mut seen) = (events::watch(&unix, &session_id, 0), Vec::new());
        let asked = question(&mut stream, &mut seen).await;
        tcp.interactions().respond_to_interaction(answer(&asked, kind)).await.expect("answered");
        assert_eq!(to_end(&mut stream, &mut seen).await.state(), state);
        let calls = events::tool_calls(&seen);
        let got = calls[0].status();
        assert!(
            got == status || (kind == pb::PermissionDecision::Cancel && got == pb::ToolCallStatus::Cancelled),
            "{got:?}"
        );
        assert!(!daemon.work().join("forbidden").exists(), "a refused tool does not run");
    }
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_answers_at_once_have_one_winner() {
    let daemon = TestDaemon::start().await;
    let (unix, tcp) = (daemon.unix().await, daemon.tcp().await);
    let request = pb::CreateSessionRequest {
        mode: Some(pb::SessionMode::Approve as i32),
        ..events::new_session(&daemon.work())
    };
    let session_id = events::create(&unix, request).await;
    for _ in 0..5 {
        let (_, sequence) = events::start(&unix, &session_id, &events::shell("echo ran")).await;
        let (mut stream, mut seen) = (events::watch(&unix, &session_id, sequence), Vec::new());
        let asked = question(&mut stream, &mut seen).await;
        let (mut one, mut two) = (unix.interactions(), tcp.interactions());
        let (allowed, denied) = tokio::join!(
            one.respond_to_interaction(answer(&asked, pb::PermissionDecision::Allow)),
            two.respond_to_interaction(answer(&asked, pb::PermissionDecision::Deny)),
        );
        let won = allowed.is_ok();
        assert_ne!(won, denied.is_ok(), "exactly one answer counts");
        let loser = if won { denied.err() } else { allowed.err() };
        let loser = gander_client::ClientError::from(loser.expect("a loser"));
        assert!(loser.is(ErrorReason::InteractionResolved), "{loser:?}");
        to_end(&mut stream, &mut seen).await;
        let calls = events::tool_calls(&seen);
        assert_eq!(events::result_text(&calls[0]).contains("ran"), won);
    }
    daemon.finish().await;
}
