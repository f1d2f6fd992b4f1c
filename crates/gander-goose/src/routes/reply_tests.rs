use axum::http::{StatusCode, header};
use gander_proto::v1::{
    self as pb, ErrorReason, PermissionDecision, RememberScope, RespondToInteractionRequest,
    StartTurnRequest, TurnState, WatchSessionRequest, WatchSessionResponse, interaction_answer::Answer,
    session_event::Payload,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    testing::{Daemon, Reply},
    turns::{now, turn_id},
};

fn body(content: &Value) -> Value {
    json!({"session_id": "s", "conversation_so_far": "not read", "user_message": {"id": "said0001", "role": "user",
        "created": 1_772_700_000, "content": content,
        "metadata": {"userVisible": true, "agentVisible": true}}})
}

fn text(text: &str) -> Value {
    body(&json!([{"type": "text", "text": text}]))
}

fn session(active_turn_id: &str) -> pb::GetSessionResponse {
    let session = pb::Session {
        session_id: "s".into(),
        active_turn_id: active_turn_id.into(),
        last_sequence: 7,
        ..Default::default()
    };
    pb::GetSessionResponse { session: Some(session) }
}

/// The id of the turn for this very body.
fn id(body: &Value, number: u32) -> String {
    turn_id("s", body.to_string().as_bytes(), number)
}

fn turn(turn_id: &str, state: TurnState, end: Option<i64>) -> pb::Turn {
    pb::Turn {
        turn_id: turn_id.into(),
        state: state as i32,
        first_sequence: 5,
        last_sequence: end.map_or(0, |_| 7),
        start_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        end_time: end.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
        cancelled_by: Some(pb::Actor { protocol: crate::PROTOCOL.into(), ..Default::default() }),
        ..Default::default()
    }
}

fn event(sequence: i64, turn_id: &str, payload: Payload) -> WatchSessionResponse {
    let event = pb::SessionEvent {
        sequence,
        session_id: "s".into(),
        turn_id: turn_id.into(),
        payload: Some(payload),
        ..Default::default()
    };
    WatchSessionResponse { event: Some(event) }
}

fn said(turn_id: &str, text: &str) -> Payload {
    let part = pb::Part { body: Some(pb::part::Body::Text(text.into())), ..Default::default() };
    let item = pb::Item {
        item_id: "a".into(),
        turn_id: turn_id.into(),
        message_id: "m".into(),
        state: pb::ItemState::Completed as i32,
        body: Some(pb::item::Body::AgentMessage(pb::AgentMessage { parts: vec![part], demo: false })),
        visibility: Some(pb::Visibility { user: true, model: true }),
        ..Default::default()
    };
    Payload::ItemCompleted(Box::new(pb::ItemCompleted { item: Some(item) }))
}

fn ended(turn_id: &str, state: TurnState) -> Payload {
    let turn = pb::Turn { turn_id: turn_id.into(), state: state as i32, ..Default::default() };
    Payload::TurnEnded(Box::new(pb::TurnEnded { turn: Some(turn) }))
}

fn no_turn(daemon: Daemon) -> Daemon {
    daemon.fails("TurnService/GetTurn", Code::NotFound, ErrorReason::TurnNotFound, "no such turn")
}

/// A conversation of nothing, as snapshots and the question for the last message read it.
fn empty(daemon: Daemon) -> Daemon {
    daemon
        .on("SessionService/ListItems", &pb::ListItemsResponse { through_sequence: 7, ..Default::default() })
        .on("TurnService/ListTurns", &pb::ListTurnsResponse::default())
        .on("InteractionService/ListInteractions", &pb::ListInteractionsResponse::default())
}

fn started(turn_id: &str, existed: bool) -> pb::StartTurnResponse {
    pb::StartTurnResponse {
        turn: Some(turn(turn_id, TurnState::Running, None)),
        sequence: 5,
        already_existed: existed,
    }
}

/// The events of a stream but pings.
fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.headers[header::CONTENT_TYPE], "text/event-stream");
    assert_eq!(reply.headers[header::CACHE_CONTROL], "no-cache");
    let frames = reply.text().strip_suffix("\n\n").expect("whole frames").split("\n\n");
    let event = |frame: &str| -> Value {
        serde_json::from_str(frame.strip_prefix("data: ").expect("nothing but data")).expect("JSON")
    };
    frames.map(event).filter(|event| event["type"] != "Ping").collect()
}

fn kinds(reply: &Reply) -> Vec<String> {
    events(reply).iter().map(|event| event["type"].as_str().expect("a type").to_owned()).collect()
}

#[tokio::test]
async fn a_message_starts_a_turn_and_the_stream_follows_it() {
    let body = text("hello");
    let turn_id = id(&body, 0);
    let log =
        [event(6, &turn_id, said(&turn_id, "hi")), event(7, &turn_id, ended(&turn_id, TurnState::Completed))];
    let daemon = empty(no_turn(Daemon::new()))
        .on("SessionService/GetSession", &session(""))
        .on("TurnService/StartTurn", &started(&turn_id, false))
        .streams("SessionService/WatchSession", &log);
    let reply = daemon.post("/reply", body).await;
    assert_eq!(kinds(&reply), ["Message", "Finish"]);
    assert!(reply.text().starts_with("data: {\"type\":\"Ping\"}\n\n"), "the first frame is a ping");
    let start: StartTurnRequest = daemon.request("TurnService/StartTurn");
    let input = start.input.expect("input");
    assert_eq!((start.turn_id.as_str(), input.message_id.as_str()), (turn_id.as_str(), "said0001"));
    assert_eq!(start.when_busy, pb::WhenBusy::Queue as i32);
    assert_eq!(input.parts[0].body, Some(pb::part::Body::Text("hello".into())));
    let watch: WatchSessionRequest = daemon.request("SessionService/WatchSession");
    assert_eq!((watch.after_sequence, watch.until_turn_ends), (Some(5), turn_id));
    let cancelled = daemon.calls().iter().any(|call| call.ends_with("CancelTurn"));
    assert!(!cancelled, "the turn had ended");
}

#[tokio::test]
async fn the_last_message_again_continues() {
    let body = text("hello");
    let turn_id = id(&body, 0);
    let item = pb::Item {
        message_id: "said0001".into(),
        visibility: Some(pb::Visibility { user: true, model: true }),
        body: Some(pb::item::Body::UserMessage(pb::UserMessage {
            parts: vec![pb::Part { body: Some(pb::part::Body::Text("hello".into())), ..Default::default() }],
            steered: false,
        })),
        ..Default::default()
    };
    let daemon = no_turn(Daemon::new())
        .on("SessionService/GetSession", &session(""))
        .on("SessionService/ListItems", &pb::ListItemsResponse { items: vec![item], ..Default::default() })
        .on("TurnService/ListTurns", &pb::ListTurnsResponse::default())
        .on("TurnService/StartTurn", &started(&turn_id, false))
        .streams("SessionService/WatchSession", &[event(7, &turn_id, ended(&turn_id, TurnState::Completed))]);
    assert_eq!(kinds(&daemon.post("/reply", body).await), ["Finish"]);
    assert_eq!(daemon.request::<StartTurnRequest>("TurnService/StartTurn").input, None);
}

#[tokio::test]
async fn a_request_that_comes_again_attaches_to_its_turn() {
    let body = text("hello");
    let turn_id = id(&body, 0);
    let known =
        pb::GetTurnResponse { turn: Some(turn(&turn_id, TurnState::Running, None)), ..Default::default() };
    let daemon = empty(Daemon::new())
        .on("SessionService/GetSession", &session(&turn_id))
        .on("TurnService/GetTurn", &known)
        .streams("SessionService/WatchSession", &[event(8, &turn_id, ended(&turn_id, TurnState::Completed))]);
    assert_eq!(kinds(&daemon.post("/reply", body).await), ["UpdateConversation", "Finish"]);
    let watch: WatchSessionRequest = daemon.request("SessionService/WatchSession");
    assert_eq!(watch.after_sequence, Some(7), "after the snapshot");
    assert!(!daemon.calls().iter().any(|call| call.ends_with("StartTurn")));
}

#[tokio::test]
async fn a_request_whose_turn_is_over_gets_the_conversation() {
    let body = text("hello");
    let turn_id = id(&body, 0);
    let over = turn(&turn_id, TurnState::Completed, Some(now() - 60));
    let daemon = Daemon::new()
        .on("SessionService/GetSession", &session(""))
        .on("TurnService/GetTurn", &pb::GetTurnResponse { turn: Some(over.clone()), ..Default::default() })
        .on("SessionService/ListItems", &pb::ListItemsResponse { through_sequence: 7, ..Default::default() })
        .on("TurnService/ListTurns", &pb::ListTurnsResponse { turns: vec![over], ..Default::default() })
        .on("InteractionService/ListInteractions", &pb::ListInteractionsResponse::default());
    assert_eq!(kinds(&daemon.post("/reply", body).await), ["UpdateConversation", "Finish"]);
    for call in ["StartTurn", "WatchSession", "CancelTurn"] {
        assert!(!daemon.calls().iter().any(|made| made.ends_with(call)), "{call}");
    }
}

#[tokio::test]
async fn a_turn_that_its_own_cut_cancelled_goes_on_without_saying_anything_again() {
    let body = text("hello");
    let (first, second) = (id(&body, 0), id(&body, 1));
    let cut = turn(&first, TurnState::Cancelled, Some(now() - 60));
    let daemon = no_turn(
        empty(Daemon::new())
            .on("SessionService/GetSession", &session(""))
            .on("TurnService/GetTurn", &pb::GetTurnResponse { turn: Some(cut), ..Default::default() }),
    )
    .on("TurnService/StartTurn", &started(&second, false))
    .streams("SessionService/WatchSession", &[event(8, &second, ended(&second, TurnState::Completed))]);
    assert_eq!(kinds(&daemon.post("/reply", body).await), ["UpdateConversation", "Finish"]);
    let start: StartTurnRequest = daemon.request("TurnService/StartTurn");
    assert_eq!((start.turn_id, start.input), (second, None));
}

#[tokio::test]
async fn the_same_words_minutes_later_are_said_again() {
    let body = text("continue");
    let (first, second) = (id(&body, 0), id(&body, 1));
    for state in [TurnState::Completed, TurnState::Failed, TurnState::Cancelled] {
        let over = turn(&first, state, Some(now() - 180));
        let daemon = no_turn(
            empty(Daemon::new())
                .on("SessionService/GetSession", &session(""))
                .on("TurnService/GetTurn", &pb::GetTurnResponse { turn: Some(over), ..Default::default() }),
        )
        .on("TurnService/StartTurn", &started(&second, false))
        .streams("SessionService/WatchSession", &[event(8, &second, ended(&second, TurnState::Completed))]);
        assert_eq!(
            kinds(&daemon.post("/reply", body.clone()).await),
            ["Finish"],
            "{state:?}: nothing was lost"
        );
        let start: StartTurnRequest = daemon.request("TurnService/StartTurn");
        let said = start.input.expect("input").parts[0].body.clone();
        assert_eq!((start.turn_id, said), (second.clone(), Some(pb::part::Body::Text("continue".into()))));
    }
}

#[tokio::test]
async fn conditions_that_do_not_heal_are_told_in_a_stream_and_others_are_not() {
    let refused = |code, reason, text: &str| {
        empty(no_turn(Daemon::new())).on("SessionService/GetSession", &session("")).fails(
            "TurnService/StartTurn",
            code,
            reason,
            text,
        )
    };
    let full = refused(Code::FailedPrecondition, ErrorReason::ProviderNotConfigured, "choose a model");
    let told = events(&full.post("/reply", text("hello")).await);
    assert_eq!(told, [json!({"type": "Error", "error": "choose a model"})], "and no Finish");
    let gone = Daemon::new().fails(
        "SessionService/GetSession",
        Code::NotFound,
        ErrorReason::SessionNotFound,
        "no session s",
    );
    let told = events(&gone.post("/reply", text("hello")).await);
    assert_eq!(told[0]["error"], "Failed to read session: Session not found");
    let draining = refused(Code::Unavailable, ErrorReason::ShuttingDown, "the daemon stops");
    let told = draining.post("/reply", text("hello")).await;
    assert_eq!(told.failed(), (503, "the daemon stops".into()), "the client tries again");
    let empty_message = empty(no_turn(Daemon::new())).on("SessionService/GetSession", &session(""));
    let told = events(&empty_message.post("/reply", body(&json!([]))).await);
    assert_eq!(told[0]["error"], "The message is empty; send text or a picture.");
}

#[tokio::test]
async fn a_closed_stream_cancels_its_turn() {
    use tower::ServiceExt as _;
    let body = text("hello");
    let turn_id = id(&body, 0);
    let daemon = empty(no_turn(Daemon::new()))
        .on("SessionService/GetSession", &session(""))
        .on("TurnService/StartTurn", &started(&turn_id, false))
        .on("TurnService/CancelTurn", &pb::CancelTurnResponse::default())
        .streams_on("SessionService/WatchSession", &[event(6, &turn_id, said(&turn_id, "hi"))]);
    let request = |body: &Value| {
        let request = axum::http::Request::post("/reply").header("content-type", "application/json");
        let request = request.header("x-secret-key", crate::testing::SECRET);
        request.body(axum::body::Body::from(body.to_string())).unwrap()
    };
    let open = async |app: crate::App| {
        let response = crate::router(app).oneshot(request(&body)).await.unwrap();
        let mut frames = response.into_body().into_data_stream();
        // Pings are frames as well: wait for what was said.
        loop {
            let frame = futures::StreamExt::next(&mut frames).await.unwrap().unwrap();
            if frame.starts_with(b"data: {\"type\":\"Message\"") {
                return frames;
            }
        }
    };
    let app = daemon.app().await;
    drop(open(app.clone()).await);
    app.close(std::time::Duration::from_secs(10)).await;
    let cancel: pb::CancelTurnRequest = daemon.request("TurnService/CancelTurn");
    assert_eq!((cancel.session_id.as_str(), cancel.turn_id), ("s", turn_id));

    // The end of the surface is nobody's wish to stop.
    let app = daemon.app().await;
    let frames = open(app.clone()).await;
    app.shutdown().cancel();
    drop(frames);
    app.close(std::time::Duration::from_secs(10)).await;
    assert_eq!(daemon.requests::<pb::CancelTurnRequest>("TurnService/CancelTurn").len(), 1);
}

#[tokio::test]
async fn an_override_replaces_the_history_once() {
    let mut body = text("hello");
    body["override_conversation"] = json!([{"id": "old", "role": "assistant", "created": 1,
        "content": [{"type": "text", "text": "kept"}], "metadata": {"userVisible": true, "agentVisible": true}}]);
    let turn_id = id(&body, 0);
    let daemon = empty(no_turn(Daemon::new()))
        .on("SessionService/GetSession", &session(""))
        .on("SessionService/ReplaceHistory", &pb::ReplaceHistoryResponse::default())
        .on("TurnService/StartTurn", &started(&turn_id, false))
        .streams("SessionService/WatchSession", &[event(7, &turn_id, ended(&turn_id, TurnState::Completed))]);
    daemon.post("/reply", body).await;
    let replace: pb::ReplaceHistoryRequest = daemon.request("SessionService/ReplaceHistory");
    assert_eq!((replace.items.len(), replace.items[0].message_id.as_str()), (1, "old"));
    assert_eq!(replace.idempotency_key, format!("history-{turn_id}"));
}

#[tokio::test]
async fn messages_without_an_id_are_each_meant() {
    let mut body = text("hello");
    body["user_message"]["id"] = Value::Null;
    let daemon = empty(no_turn(Daemon::new())).on("SessionService/GetSession", &session("")).fails(
        "TurnService/StartTurn",
        Code::FailedPrecondition,
        ErrorReason::SessionArchived,
        "archived",
    );
    for _ in 0..2 {
        daemon.post("/reply", body.clone()).await;
    }
    let starts: Vec<StartTurnRequest> = daemon.requests("TurnService/StartTurn");
    assert_ne!(starts[0].turn_id, starts[1].turn_id);
    assert!(starts.iter().all(|start| start.input.as_ref().is_some_and(|input| input.message_id.is_empty())));
}

fn answered(action: &str) -> Value {
    json!({"id": "item", "action": action, "sessionId": "s"})
}

fn asking(session_id: &str) -> Daemon {
    let interaction =
        pb::Interaction { interaction_id: "q".into(), session_id: session_id.into(), ..Default::default() };
    let found = pb::ListInteractionsResponse { interactions: vec![interaction], ..Default::default() };
    Daemon::new()
        .on("InteractionService/ListInteractions", &found)
        .on("InteractionService/RespondToInteraction", &pb::RespondToInteractionResponse::default())
}

#[tokio::test]
async fn an_answer_goes_to_the_question_about_the_call() {
    use PermissionDecision as D;
    for (action, kind, scope) in [
        ("allow_once", D::Allow, RememberScope::Once),
        ("always_allow", D::Allow, RememberScope::User),
        ("deny_once", D::Deny, RememberScope::Once),
        ("cancel", D::Deny, RememberScope::Once),
        ("always_deny", D::Deny, RememberScope::User),
    ] {
        let daemon = asking("s");
        let answer = daemon.post("/action-required/tool-confirmation", answered(action)).await;
        assert_eq!(answer.ok(), json!({}));
        let respond: RespondToInteractionRequest = daemon.request("InteractionService/RespondToInteraction");
        assert_eq!(respond.interaction_id, "q");
        let Some(Answer::Decision(decision)) = respond.answer.and_then(|answer| answer.answer) else {
            panic!("a decision")
        };
        assert_eq!((decision.kind(), decision.remember_scope()), (kind, scope), "{action}");
    }
    let unknown = asking("s").post("/action-required/tool-confirmation", answered("maybe")).await;
    assert_eq!(unknown.failed().0, 422);
}

#[tokio::test]
async fn late_and_unknown_answers_are_fine() {
    let none = Daemon::new()
        .on("InteractionService/ListInteractions", &pb::ListInteractionsResponse::default())
        .fails("InteractionService/GetInteraction", Code::NotFound, ErrorReason::InteractionNotFound, "no q");
    let answer = none.post("/action-required/tool-confirmation", answered("allow_once")).await;
    assert_eq!(answer.ok(), json!({}));
    let interaction = pb::Interaction { interaction_id: "q".into(), ..Default::default() };
    let found = pb::ListInteractionsResponse { interactions: vec![interaction], ..Default::default() };
    let late = Daemon::new().on("InteractionService/ListInteractions", &found).fails(
        "InteractionService/RespondToInteraction",
        Code::FailedPrecondition,
        ErrorReason::InteractionResolved,
        "answered by another window",
    );
    let answer = late.post("/action-required/tool-confirmation", answered("allow_once")).await;
    assert_eq!(answer.ok(), json!({}));
}

#[tokio::test]
async fn a_filled_in_form_is_an_answer_and_not_a_message() {
    let form = body(&json!([{"type": "actionRequired", "data":
        {"actionType": "elicitationResponse", "id": "q", "user_data": {"city": "Oslo"}}}]));
    let daemon = asking("s").on("SessionService/GetSession", &session("running")).streams(
        "SessionService/WatchSession",
        &[
            event(8, "running", said("running", "x")),
            event(9, "running", ended("running", TurnState::Completed)),
        ],
    );
    let answer = daemon.post("/reply", form.clone()).await;
    assert_eq!(kinds(&answer), ["Finish"], "the turn's own stream shows the rest");
    let respond: RespondToInteractionRequest = daemon.request("InteractionService/RespondToInteraction");
    let Some(Answer::Form(filled)) = respond.answer.and_then(|answer| answer.answer) else {
        panic!("a form")
    };
    assert_eq!(
        (filled.action(), filled.content_json.as_str()),
        (pb::FormAction::Accept, r#"{"city":"Oslo"}"#)
    );
    assert!(!daemon.calls().iter().any(|call| call.ends_with("StartTurn")));

    let wrong = Daemon::new().on("SessionService/GetSession", &session("")).fails(
        "InteractionService/RespondToInteraction",
        Code::InvalidArgument,
        ErrorReason::ElicitationContentInvalid,
        "city must be a number",
    );
    let answer = events(&wrong.post("/reply", form).await);
    let told = &answer[0]["message"]["content"][0]["msg"];
    assert_eq!(told, "The answer was not accepted: city must be a number");
    assert_eq!(answer[1]["type"], "Finish", "no error page");
}

/// To the later of the two its own message already is the last one, so it would continue the turn that it is.
#[tokio::test]
async fn the_same_request_twice_at_once_is_one_turn() {
    let body = text("hello");
    let turn_id = id(&body, 0);
    let known =
        pb::GetTurnResponse { turn: Some(turn(&turn_id, TurnState::Running, None)), ..Default::default() };
    let daemon = empty(no_turn(Daemon::new()))
        .on("SessionService/GetSession", &session(""))
        .on("TurnService/GetTurn", &known)
        .fails("TurnService/StartTurn", Code::AlreadyExists, ErrorReason::TurnIdReused, "used before")
        .streams("SessionService/WatchSession", &[event(8, &turn_id, ended(&turn_id, TurnState::Completed))]);
    assert_eq!(kinds(&daemon.post("/reply", body).await), ["UpdateConversation", "Finish"]);
    let watch: WatchSessionRequest = daemon.request("SessionService/WatchSession");
    assert_eq!((watch.after_sequence, watch.until_turn_ends), (Some(7), turn_id));
}

#[tokio::test]
async fn a_form_that_is_not_accepted_keeps_time_and_tokens() {
    let form = body(&json!([{"type": "actionRequired", "data":
        {"actionType": "elicitationResponse", "id": "q", "user_data": {}}}]));
    let mut with_usage = session("");
    if let Some(session) = &mut with_usage.session {
        let call = pb::Usage { input_tokens: Some(5), ..Default::default() };
        session.usage = Some(pb::SessionUsage { last_call: Some(call), ..Default::default() });
    }
    let daemon = Daemon::new().on("SessionService/GetSession", &with_usage).fails(
        "InteractionService/RespondToInteraction",
        Code::InvalidArgument,
        ErrorReason::ElicitationContentInvalid,
        "city is missing",
    );
    let told = &events(&daemon.post("/reply", form).await)[0];
    assert_eq!(told["token_state"]["inputTokens"], 5, "a window shows the tokens of the latest message");
    assert!(told["message"]["created"].as_i64().is_some_and(|created| created > 1_700_000_000), "{told}");
}
