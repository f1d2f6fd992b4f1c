//! The chat of Goose's later windows: one stream per session with ids and replay, requests that answer at once.

use gander_bridge_tests::{events, pb::TurnState};
use reqwest::Method;
use serde_json::{Value, json};

use crate::goose_window::{
    Surface, contents, form, is_finish, message, states, text, turns, with_request_id,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_later_generation_resumes_by_id_and_cancels_by_request() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let path = |last: &str| format!("/sessions/{session_id}/{last}");
    let request = |id: &str, words: &str| with_request_id(message(&session_id, id, words));
    let mut window = rest.events(&session_id, None).await;
    let (request_id, body) = request("said0001", "slow 100");
    assert_eq!(rest.post(&path("reply"), body).await, json!({"request_id": request_id}));
    let (_, busy) = request("said0002", "say too early");
    let (status, answer) = rest.ask(Method::POST, &path("reply"), &busy).await;
    assert_eq!(status, 400);
    assert_eq!(answer["message"], "Session already has an active request. Cancel it first.");
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.push(window.next().await.expect("an event"));
    }
    let last = window.id.expect("an id");
    drop(window);
    // A window that was there before goes on after the last id it saw.
    let mut window = rest.events(&session_id, Some(last)).await;
    let rest_of_it = window.until(is_finish).await;
    seen.extend(rest_of_it.iter().filter(|event| event["type"] == "Message").cloned());
    assert!(seen.iter().all(|event| event["chat_request_id"] == request_id.as_str()), "{seen:#?}");
    let stored = rest.conversation(&session_id).await;
    assert_eq!(text(&seen, "assistant"), text(&stored, "assistant"), "nothing lost, nothing twice");

    let (request_id, body) = request("said0003", "slow 5000");
    rest.post(&path("reply"), body).await;
    window.until(|event| event["type"] == "Message").await;
    // A new window gets what there is.
    let mut other = rest.events(&session_id, None).await;
    let first = other.next().await.expect("an event");
    assert_eq!(first, json!({"type": "ActiveRequests", "request_ids": [request_id]}));
    let snapshot = other.next().await.expect("an event");
    assert_eq!(snapshot["type"], "UpdateConversation");
    assert_eq!(snapshot["chat_request_id"], request_id.as_str());
    let cancel = json!({"request_id": request_id});
    let (status, _) = rest.ask(Method::POST, &path("cancel"), &cancel).await;
    assert_eq!(status, 200);
    for window in [&mut window, &mut other] {
        window.until(is_finish).await;
    }
    let unknown = json!({"request_id": uuid::Uuid::now_v7()});
    assert_eq!(rest.ask(Method::POST, &path("cancel"), &unknown).await.0, 200);
    assert_eq!(rest.ask(Method::POST, "/sessions/none/cancel", &unknown).await.0, 404);
    let client = rest.daemon.unix().await;
    let states = states(&turns(&client, &session_id).await);
    assert_eq!(states, [TurnState::Completed, TurnState::Cancelled]);
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_is_answered_over_the_later_generations_route() {
    let Some(server) = crate::extensions::server() else { return };
    let rest = Surface::start().await;
    let session_id = rest.session_of_asking(&server).await;
    let path = |last: &str| format!("/sessions/{session_id}/{last}");
    let mut window = rest.events(&session_id, None).await;
    let asking = message(&session_id, "said0001", "call everything__trigger-elicitation-request {}");
    let (asked, body) = with_request_id(asking);
    rest.post(&path("reply"), body).await;
    let (_, question) = window.until_question().await;
    let filled = |data: Value| with_request_id(form(&session_id, "said0002", &question, &data));
    // The session is busy, which an answer does not mind; what is no form leaves the question open.
    let (_, wrong) = filled(json!("Ada Lovelace"));
    let (status, told) = rest.ask(Method::POST, &path("reply"), &wrong).await;
    assert_eq!(status, 400, "{told}");
    let (_, wrong) = filled(json!({"name": "Ada Lovelace", "email": "nobody"}));
    let (status, told) = rest.ask(Method::POST, &path("reply"), &wrong).await;
    assert_eq!(status, 400, "{told}");
    assert!(told.to_string().contains("email must be an e-mail address"), "{told}");
    let (answered, right) = filled(json!({"name": "Ada Lovelace", "check": true}));
    for _ in 0..2 {
        // The second time it is too late, which is nobody's fault.
        let answer = rest.post(&path("reply"), right.clone()).await;
        assert_eq!(answer, json!({"request_id": answered}));
    }
    let rest_of_it = window.until(is_finish).await;
    assert!(contents(&rest_of_it, "toolResponse")[0].1.to_string().contains("Ada Lovelace"));
    assert!(rest_of_it.iter().all(|event| event["chat_request_id"] == asked.as_str()), "{rest_of_it:#?}");
    let stop = json!({"request_id": answered});
    assert_eq!(rest.ask(Method::POST, &path("cancel"), &stop).await.0, 200, "it is over");
    let stored = rest.conversation(&session_id).await;
    assert_eq!(contents(&stored, "actionRequired").len(), 0, "{stored:#?}");
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_right_after_a_stop_is_not_lost() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let client = rest.daemon.unix().await;
    let path = |last: &str| format!("/sessions/{session_id}/{last}");
    let request = |id: &str, words: &str| with_request_id(message(&session_id, id, words));
    let mut window = rest.events(&session_id, None).await;
    let (first, body) = request("said0001", "slow 5000");
    rest.post(&path("reply"), body).await;
    window.until(|event| event["type"] == "Message").await;
    rest.post(&path("cancel"), json!({"request_id": first})).await;
    let (second, body) = request("said0002", "say after the stop");
    rest.post(&path("reply"), body).await;
    let mut seen = window.until(is_finish).await;
    seen.extend(window.until(is_finish).await);
    let ends: Vec<&Value> =
        seen.iter().filter(|event| is_finish(event)).map(|event| &event["chat_request_id"]).collect();
    assert_eq!(ends, [first.as_str(), second.as_str()]);
    assert!(text(&seen, "assistant").contains("after the stop"), "{seen:#?}");
    events::complete(&client, &session_id, "say it goes on").await;
    rest.finish().await;
}
