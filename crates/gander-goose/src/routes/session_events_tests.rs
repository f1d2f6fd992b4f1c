use axum::{
    body::Body,
    http::{Request, header},
};
use futures::StreamExt as _;
use gander_proto::v1::{
    self as pb, ErrorReason, TurnState, WatchSessionResponse, session_event::Payload as Event,
};
use tonic::Code;
use tower::ServiceExt as _;

use super::*;
use crate::testing::{Daemon, SECRET};

const REQUEST: &str = "0197b6a4-0000-7000-8000-000000000001";
const ANSWER: &str = "0197b6a4-0000-7000-8000-000000000002";

fn json_of(event: &MessageEvent, turn_id: &str) -> Value {
    serde_json::to_value(tagged(event, turn_id)).unwrap()
}

#[test]
fn a_notification_keeps_the_id_of_its_call() {
    let event = MessageEvent::Notification { request_id: "item".into(), message: json!({"method": "m"}) };
    let value = json_of(&event, "turn");
    assert_eq!((&value["chat_request_id"], &value["request_id"]), (&json!("turn"), &json!("item")));
    let value = json_of(&MessageEvent::Ping, "turn");
    assert_eq!(value, json!({"type": "Ping", "chat_request_id": "turn", "request_id": "turn"}));
    assert_eq!(json_of(&MessageEvent::Ping, ""), json!({"type": "Ping"}), "of no request");
    let event = MessageEvent::Error { error: "e".into() };
    let expected = json!({"type": "Error", "error": "e", "chat_request_id": "t", "request_id": "t"});
    assert_eq!(json_of(&event, "t"), expected);
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

fn turn(turn_id: &str, state: TurnState, last_sequence: i64) -> pb::Turn {
    pb::Turn { turn_id: turn_id.into(), state: state as i32, last_sequence, ..Default::default() }
}

fn ended(sequence: i64, turn_id: &str) -> WatchSessionResponse {
    let turn = turn(turn_id, TurnState::Cancelled, sequence);
    let event = pb::SessionEvent {
        sequence,
        session_id: "s".into(),
        turn_id: turn_id.into(),
        payload: Some(Event::TurnEnded(Box::new(pb::TurnEnded { turn: Some(turn) }))),
        ..Default::default()
    };
    WatchSessionResponse { event: Some(event) }
}

fn message(content: &Value) -> Value {
    json!({"request_id": REQUEST, "user_message": {"id": "said0001", "role": "user", "created": 1, "content": content,
        "metadata": {"userVisible": true, "agentVisible": true}}})
}

fn text() -> Value {
    message(&json!([{"type": "text", "text": "hello"}]))
}

/// The first frames of a session's stream.
async fn frames(daemon: &Daemon, count: usize) -> Vec<String> {
    let request = Request::get("/sessions/s/events").header("x-secret-key", SECRET);
    let response = daemon.router().await.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let chunks = response.into_body().into_data_stream().take(count);
    chunks.map(|chunk| String::from_utf8(chunk.unwrap().to_vec()).unwrap()).collect().await
}

fn data(frame: &str) -> Value {
    let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
    serde_json::from_str(data).expect("JSON")
}

#[tokio::test]
async fn a_window_gets_the_end_of_a_turn_that_ended_while_it_came() {
    let over = turn(REQUEST, TurnState::Completed, 9);
    let daemon = Daemon::new()
        .on("SessionService/GetSession", &session(REQUEST))
        .on("SessionService/ListItems", &pb::ListItemsResponse { through_sequence: 9, ..Default::default() })
        .on("TurnService/ListTurns", &pb::ListTurnsResponse { turns: vec![over], ..Default::default() })
        .on("InteractionService/ListInteractions", &pb::ListInteractionsResponse::default())
        .streams_on::<WatchSessionResponse>("SessionService/WatchSession", &[]);
    let frames = frames(&daemon, 4).await;
    assert_eq!(data(&frames[0]), json!({"type": "ActiveRequests", "request_ids": [REQUEST]}));
    assert_eq!(data(&frames[1])["type"], "UpdateConversation");
    assert!(frames[1].starts_with("data: "), "half of what happened has no id");
    let finish = data(&frames[2]);
    assert_eq!((&finish["type"], &finish["chat_request_id"]), (&json!("Finish"), &json!(REQUEST)));
    assert!(frames[2].starts_with("id: 9\n"), "{}", frames[2]);
    assert_eq!(frames[3], "id: 9\n: ping 0\n\n");
}

#[tokio::test]
async fn a_window_knows_its_place_before_anything_happens() {
    let daemon = Daemon::new()
        .on("SessionService/GetSession", &session(""))
        .streams_on("SessionService/WatchSession", &[ended(8, REQUEST)]);
    let frames = frames(&daemon, 2).await;
    assert_eq!(frames[0], "id: 7\n: ping 0\n\n");
    assert!(frames[1].starts_with("id: 8\n"), "{}", frames[1]);
    assert_eq!(data(&frames[1])["type"], "Finish");
}

/// A window's Stop button names the request of the latest answer, which is no turn.
#[tokio::test]
async fn a_stop_after_an_answer_stops_the_turn_that_asked() {
    let filled = pb::Interaction { turn_id: REQUEST.into(), ..Default::default() };
    let daemon = Daemon::new()
        .on("SessionService/GetSession", &session(REQUEST))
        .on(
            "InteractionService/RespondToInteraction",
            &pb::RespondToInteractionResponse { interaction: Some(filled), ..Default::default() },
        )
        .on("TurnService/CancelTurn", &pb::CancelTurnResponse::default());
    let router = daemon.router().await;
    let post = async |path: &str, body: Value| {
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.header("x-secret-key", SECRET).body(Body::from(body.to_string())).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    };
    let mut answer = message(&json!([{"type": "actionRequired", "data":
        {"actionType": "elicitationResponse", "id": "q", "user_data": {"city": "Oslo"}}}]));
    answer["request_id"] = json!(ANSWER);
    assert_eq!(post("/sessions/s/reply", answer).await, StatusCode::OK);
    assert_eq!(post("/sessions/s/cancel", json!({"request_id": ANSWER})).await, StatusCode::OK);
    let cancel: CancelTurnRequest = daemon.request("TurnService/CancelTurn");
    assert_eq!((cancel.session_id.as_str(), cancel.turn_id.as_str()), ("s", REQUEST));
    assert!(!daemon.calls().iter().any(|call| call.ends_with("StartTurn")));
    // The same id in another session is another request.
    assert_eq!(post("/sessions/t/cancel", json!({"request_id": ANSWER})).await, StatusCode::OK);
    let cancels: Vec<CancelTurnRequest> = daemon.requests("TurnService/CancelTurn");
    assert_eq!(cancels[1].turn_id, ANSWER);
}

#[test]
fn few_answers_are_remembered() {
    let answers = Answers::default();
    for number in 0..=MOST_ANSWERS {
        let answered = |id: &str| format!("{id}{number}");
        let (request_id, turn_id) = (answered("request"), answered("turn"));
        answers.keep(Answered { session_id: "s".into(), request_id, turn_id });
    }
    assert_eq!(answers.turn_of("s", "request0"), None);
    assert_eq!(answers.turn_of("s", "request1").as_deref(), Some("turn1"));
    assert_eq!(answers.turn_of("t", "request1"), None);
}

fn unknown(daemon: Daemon) -> Daemon {
    daemon.fails("TurnService/GetTurn", Code::NotFound, ErrorReason::TurnNotFound, "no such turn")
}

/// A message right after Stop must not be lost to the turn that is still ending.
#[tokio::test]
async fn a_request_waits_for_a_turn_that_is_being_cancelled() {
    let ending = turn("old", TurnState::Cancelling, 0);
    let daemon = unknown(Daemon::new().on("SessionService/GetSession", &session("old")))
        .on("TurnService/GetTurn", &pb::GetTurnResponse { turn: Some(ending), ..Default::default() })
        .streams("SessionService/WatchSession", &[ended(9, "old")])
        .on("SessionService/ReplaceHistory", &pb::ReplaceHistoryResponse::default())
        .on("SessionService/ListItems", &pb::ListItemsResponse::default())
        .on("TurnService/ListTurns", &pb::ListTurnsResponse::default())
        .on("TurnService/StartTurn", &pb::StartTurnResponse::default());
    let mut body = text();
    body["override_conversation"] = json!([]);
    assert_eq!(daemon.post("/sessions/s/reply", body).await.ok(), json!({"request_id": REQUEST}));
    let calls = daemon.calls();
    let place = |name: &str| calls.iter().position(|call| call.ends_with(name)).expect(name);
    assert!(place("WatchSession") < place("ReplaceHistory") && place("ReplaceHistory") < place("StartTurn"));
    let watch: pb::WatchSessionRequest = daemon.request("SessionService/WatchSession");
    assert_eq!((watch.after_sequence, watch.until_turn_ends.as_str()), (Some(7), "old"));
}

#[tokio::test]
async fn a_busy_session_says_so_whatever_finds_out() {
    let running = turn("other", TurnState::Running, 0);
    let busy = |method: &str| {
        unknown(Daemon::new().on("SessionService/GetSession", &session("other")))
            .on(
                "TurnService/GetTurn",
                &pb::GetTurnResponse { turn: Some(running.clone()), ..Default::default() },
            )
            .on("SessionService/ListItems", &pb::ListItemsResponse::default())
            .on("TurnService/ListTurns", &pb::ListTurnsResponse::default())
            .fails(method, Code::FailedPrecondition, ErrorReason::TurnAlreadyRunning, "turn other runs")
    };
    let mut replacing = text();
    replacing["override_conversation"] = json!([]);
    for (method, body) in [("TurnService/StartTurn", text()), ("SessionService/ReplaceHistory", replacing)] {
        let failed = busy(method).post("/sessions/s/reply", body).await.failed();
        assert_eq!(failed, (400, BUSY.to_owned()), "{method}");
    }
}
