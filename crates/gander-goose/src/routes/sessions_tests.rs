use axum::http::{Method, StatusCode};
use gander_proto::v1::{
    self as pb, ErrorReason, ForkSessionRequest, ImportSessionRequest, ListSessionsRequest,
    RewindSessionRequest, SearchSessionsRequest, StartTurnRequest, import_session_request::Source,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::testing::Daemon;

fn session(id: &str) -> pb::Session {
    pb::Session {
        session_id: id.into(),
        title: "Mine".into(),
        title_source: pb::TitleSource::User as i32,
        kind: pb::SessionKind::User as i32,
        message_count: 2,
        model: Some(pb::ModelSelection {
            provider_id: "openai".into(),
            model_id: "m".into(),
            extra_params_json: r#"{"top_p":1}"#.into(),
            thought_level: pb::ThoughtLevel::High as i32,
            ..Default::default()
        }),
        mode: Some(pb::SessionMode::SmartApprove as i32),
        usage: Some(pb::SessionUsage {
            last_call: Some(pb::Usage {
                input_tokens: Some(5),
                output_tokens: Some(2),
                ..Default::default()
            }),
            totals: Some(pb::Usage { total_tokens: Some(90), ..Default::default() }),
            cost_totals: None,
        }),
        extension_state_json: [("todo.v0".to_owned(), r#"{"content":"x"}"#.to_owned())].into(),
        ..Default::default()
    }
}

fn there() -> Daemon {
    Daemon::new()
        .on("SessionService/GetSession", &pb::GetSessionResponse { session: Some(session("s")) })
        .on("ExtensionService/ListSessionExtensions", &pb::ListSessionExtensionsResponse::default())
        .on("SessionService/ListItems", &pb::ListItemsResponse { items: items(), ..Default::default() })
        .on("TurnService/ListTurns", &pb::ListTurnsResponse::default())
        .on("InteractionService/ListInteractions", &pb::ListInteractionsResponse::default())
}

fn items() -> Vec<pb::Item> {
    let item = |id: &str, seconds: i64, parts: Vec<pb::Part>| pb::Item {
        item_id: id.into(),
        message_id: format!("m-{id}"),
        visibility: Some(pb::Visibility { user: true, model: true }),
        client_create_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        body: Some(pb::item::Body::UserMessage(pb::UserMessage { parts, steered: false })),
        ..Default::default()
    };
    let text = |text: &str| pb::Part { body: Some(pb::part::Body::Text(text.into())), ..Default::default() };
    vec![item("i1", 100, vec![text("one")]), item("i2", 200, vec![text("two")])]
}

#[tokio::test]
async fn a_session_is_shown_as_gooses_document() {
    let document = there().get("/sessions/s").await.ok();
    assert_eq!((&document["name"], &document["user_set_name"]), (&json!("Mine"), &json!(true)));
    assert_eq!(document["session_type"], "user");
    assert_eq!((&document["input_tokens"], &document["total_tokens"]), (&json!(5), &json!(7)));
    assert_eq!(document["accumulated_total_tokens"], 90);
    assert_eq!(document["accumulated_input_tokens"], Value::Null, "not reported is not zero");
    assert_eq!(document["extension_data"]["todo.v0"], json!({"content": "x"}));
    assert_eq!(document["provider_name"], "openai");
    assert_eq!(document["model_config"]["request_params"], json!({"top_p": 1, "thinking_effort": "high"}));
    assert_eq!(document["goose_mode"], "smart_approve");
    assert_eq!(document["conversation"].as_array().map(Vec::len), Some(2));
    let gone = Daemon::new().fails(
        "SessionService/GetSession",
        Code::NotFound,
        ErrorReason::SessionNotFound,
        "no session s",
    );
    assert_eq!(gone.get("/sessions/s").await.failed(), (404, "no session s".into()));
}

#[tokio::test]
async fn an_id_that_no_session_can_have_is_an_unknown_one() {
    let mut details = tonic_types::ErrorDetails::new();
    let reason = gander_proto::reason::wire_name(ErrorReason::InvalidField);
    details.set_error_info(reason, gander_proto::reason::ERROR_DOMAIN, std::collections::HashMap::new());
    details.add_bad_request_violation("session.session_id", "must have at most 64 characters");
    let status = <tonic::Status as tonic_types::StatusExt>::with_error_details(
        Code::InvalidArgument,
        "wrong",
        details,
    );
    let error = gander_client::ClientError::from(status);
    assert!(crate::error::is_unknown_session(&error));
    assert_eq!(crate::error::status_of(&error), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn all_pages_are_one_list() {
    let page = |ids: &[&str], next: &str| pb::ListSessionsResponse {
        sessions: ids.iter().map(|id| session(id)).collect(),
        next_page_token: next.into(),
    };
    let daemon = Daemon::new()
        .on("SessionService/ListSessions", &page(&["a", "b"], "more"))
        .on("SessionService/ListSessions", &page(&["c"], ""));
    let listed = daemon.get("/sessions").await.ok();
    let ids: Vec<&str> =
        listed["sessions"].as_array().unwrap().iter().filter_map(|s| s["id"].as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    let requests: Vec<ListSessionsRequest> = daemon.requests("SessionService/ListSessions");
    assert!(requests.iter().all(|request| request.with_messages_only));
    assert_eq!(requests[1].page_token, "more");
    assert_eq!(requests[0].kinds, [pb::SessionKind::User as i32, pb::SessionKind::Scheduled as i32]);
}

#[tokio::test]
async fn a_search_takes_dates_in_both_spellings() {
    let matches = vec![
        pb::SessionMatch { session: Some(session("s")), ..Default::default() },
        pb::SessionMatch {
            session: Some(pb::Session { kind: pb::SessionKind::Subagent as i32, ..session("sub") }),
            ..Default::default()
        },
    ];
    let daemon = Daemon::new()
        .on("SessionService/SearchSessions", &pb::SearchSessionsResponse { matches, total_message_count: 2 });
    let documented = "/sessions/search?query=a%20b&limit=500&after_date=1970-01-01T00:00:05Z";
    let found = daemon.get(documented).await.ok();
    assert_eq!(found.as_array().map(Vec::len), Some(1), "only what is listed is found");
    daemon.get("/sessions/search?query=a&beforeDate=1970-01-01T00:00:09Z").await.ok();
    let requests: Vec<SearchSessionsRequest> = daemon.requests("SessionService/SearchSessions");
    assert_eq!((requests[0].query.as_str(), requests[0].limit_messages), ("a b", 50));
    assert_eq!(requests[0].after_time.map(|time| time.seconds), Some(5));
    assert_eq!(requests[1].before_time.map(|time| time.seconds), Some(9));
    for wrong in
        ["/sessions/search?query=%20", "/sessions/search", "/sessions/search?query=a&after_date=soon"]
    {
        assert_eq!(daemon.get(wrong).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn names_are_trimmed_and_bounded_and_unknown_sessions_fine() {
    let daemon = Daemon::new().fails(
        "SessionService/UpdateSession",
        Code::NotFound,
        ErrorReason::SessionNotFound,
        "no session s",
    );
    let rename = async |name: &str| {
        let body = Some(json!({ "name": name }));
        daemon.ask(Method::PUT, "/sessions/s/name", body).await.status
    };
    assert_eq!(rename("  New name ").await, StatusCode::OK);
    let request: pb::UpdateSessionRequest = daemon.request("SessionService/UpdateSession");
    assert_eq!(request.session.unwrap().title, "New name");
    for wrong in ["", "   ", &"ä".repeat(101)] {
        assert_eq!(rename(wrong).await, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_fork_cuts_at_the_edited_message() {
    let copied = pb::ForkSessionResponse { session: Some(session("copy")), sequence: 1 };
    let daemon = || there().on("SessionService/ForkSession", &copied);
    let forked = async |body: Value| {
        let daemon = daemon();
        let answer = daemon.post("/sessions/s/fork", body).await.ok();
        (answer["sessionId"].clone(), daemon.request::<ForkSessionRequest>("SessionService/ForkSession"))
    };
    let (id, fork) = forked(json!({"truncate": false, "copy": true})).await;
    assert_eq!((id, fork.before_item_id.as_str(), fork.title.as_str()), (json!("copy"), "", "Mine"));
    let (_, fork) = forked(json!({"timestamp": 200, "truncate": true, "copy": true})).await;
    assert_eq!(fork.before_item_id, "i2");

    let daemon = there().on("SessionService/RewindSession", &pb::RewindSessionResponse::default());
    let answer =
        daemon.post("/sessions/s/fork", json!({"timestamp": 100, "truncate": true, "copy": false})).await;
    assert_eq!(answer.ok(), json!({"sessionId": "s"}));
    let rewind: RewindSessionRequest = daemon.request("SessionService/RewindSession");
    assert_eq!(rewind.before_item_id, "i1");
    let wrong = there().post("/sessions/s/fork", json!({"truncate": true, "copy": true})).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_export_is_a_string_that_an_import_takes() {
    let exported = there().get("/sessions/s/export").await.ok();
    let imported = pb::ImportSessionResponse { session: Some(session("new")), sequence: 1 };
    let daemon = there().on("SessionService/ImportSession", &imported);
    daemon.post("/sessions/import", json!({ "json": exported })).await.ok();
    let request: ImportSessionRequest = daemon.request("SessionService/ImportSession");
    let Some(Source::Document(document)) = request.source else { panic!("a document") };
    assert_eq!(document.session.unwrap().title, "Mine");
    let ids: Vec<String> = document.items.iter().map(|item| item.message_id.clone()).collect();
    assert_eq!(ids, ["m-i1", "m-i2"]);
    for wrong in ["", "{}", "[]", "{\"working_dir\": \"/p\", \"conversation\": 3}"] {
        let answer = daemon.post("/sessions/import", json!({ "json": wrong })).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn the_later_generation_starts_turns_by_request_id() {
    let message = json!({"id": "said0001", "role": "user", "created": 1,
        "content": [{"type": "text", "text": "hello"}], "metadata": {"userVisible": true, "agentVisible": true}});
    let request_id = "0193a1b2-0000-7000-8000-000000000001";
    let body = |id: &str| json!({"request_id": id, "user_message": message});
    let new =
        || there().fails("TurnService/GetTurn", Code::NotFound, ErrorReason::TurnNotFound, "no such turn");
    let daemon = new().on("TurnService/StartTurn", &pb::StartTurnResponse::default());
    let answer = daemon.post("/sessions/s/reply", body(request_id)).await;
    assert_eq!(answer.ok(), json!({"request_id": request_id}));
    let start: StartTurnRequest = daemon.request("TurnService/StartTurn");
    assert_eq!((start.turn_id.as_str(), start.when_busy), (request_id, pb::WhenBusy::Reject as i32));
    assert_eq!(daemon.post("/sessions/s/reply", body("no-uuid")).await.failed().0, 400);
    let known = pb::GetTurnResponse { turn: Some(pb::Turn::default()), ..Default::default() };
    let repeated = there().on("TurnService/GetTurn", &known);
    let answer = repeated.post("/sessions/s/reply", body(request_id)).await;
    assert_eq!(answer.ok(), json!({"request_id": request_id}), "its answer was lost");
    let busy = new().fails(
        "TurnService/StartTurn",
        Code::FailedPrecondition,
        ErrorReason::TurnAlreadyRunning,
        "a turn runs",
    );
    let (status, text) = busy.post("/sessions/s/reply", body(request_id)).await.failed();
    assert_eq!((status, text.as_str()), (400, "Session already has an active request. Cancel it first."));
}
