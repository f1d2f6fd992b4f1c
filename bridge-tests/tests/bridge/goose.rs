//! Goose's chat over a real daemon, as the windows of 1.24 use it: one stream per message, and what a cut, a stop, a
//! question or a restart does to it.

use std::path::Path;

use gander_bridge_tests::{DEADLINE, events, eventually, pb};
use pb::{TurnState, session_event::Payload};
use reqwest::Method;
use serde_json::{Value, json};

use crate::goose_window::{
    Surface, contents, form, has, idle, is_finish, message, said, shown, states, text, turns,
};

fn kind(item: &pb::Item) -> String {
    match &item.body {
        Some(pb::item::Body::UserMessage(message)) => format!("user: {}", events::text(&message.parts)),
        Some(pb::item::Body::AgentMessage(message)) => format!("agent: {}", events::text(&message.parts)),
        Some(pb::item::Body::ToolCall(call)) => {
            format!("{} {}: {}", call.name, call.arguments_json, events::result_text(call))
        }
        other => format!("{other:?}"),
    }
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_with_a_tool_and_an_approval_is_stored_as_it_was_streamed() {
    let rest = Surface::start().await;
    let session_id = rest.session().await;
    rest.set_mode(&session_id, "approve").await;
    let mut stream = rest.reply(&message(&session_id, "said0001", &events::shell("echo by-rest"))).await;
    let (mut seen, question) = stream.until_question().await;
    assert_eq!(question["toolName"], "developer__shell");
    assert_eq!(question["prompt"], Value::Null);
    let again = rest.conversation(&session_id).await;
    assert_eq!(contents(&again, "actionRequired").len(), 1, "a second window can answer as well");
    let answer = |id: &Value, action: &str| json!({"id": id, "action": action, "sessionId": session_id});
    let confirm = "/action-required/tool-confirmation";
    assert_eq!(rest.post(confirm, answer(&json!("unknown"), "allow_once")).await, json!({}));
    assert_eq!(rest.post(confirm, answer(&question["id"], "allow_once")).await, json!({}));
    seen.extend(stream.rest().await);
    assert_eq!(rest.post(confirm, answer(&question["id"], "deny_once")).await, json!({}), "too late is fine");
    assert!(is_finish(seen.last().expect("events")), "{seen:#?}");
    let results = contents(&seen, "toolResponse");
    assert!(results[0].1["toolResult"].to_string().contains("by-rest"), "{results:?}");
    assert_eq!(contents(&seen, "toolRequest")[0].1["id"], results[0].1["id"]);
    assert_eq!(question["id"], results[0].1["id"]);

    let stored = rest.conversation(&session_id).await;
    assert_eq!(stored[0]["id"], "said0001");
    assert_eq!(stored[0]["created"], 1_772_700_000, "a message keeps its own time");
    assert_eq!(shown(&stored[1..], &[]), shown(&seen, &["actionRequired", "systemNotification"]));
    assert_eq!(text(&stored[1..], "assistant"), text(&seen, "assistant"));

    // The same over gRPC leaves the same items.
    let client = rest.daemon.unix().await;
    let other = events::create(&client, events::new_session(&rest.daemon.work())).await;
    events::complete(&client, &other, &events::shell("echo by-rest")).await;
    let kinds = async |session_id: &str| {
        let request = pb::ListItemsRequest { session_id: session_id.to_owned(), ..Default::default() };
        let items = client.sessions().list_items(request).await.expect("items").into_inner().items;
        items.iter().map(|item| (item.state(), kind(item))).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&session_id).await, kinds(&other).await);
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_begun_here_goes_on_elsewhere_while_both_watch() {
    let rest = Surface::start().await;
    let session_id = rest.session().await;
    let client = rest.daemon.unix().await;
    let mut window = rest.events(&session_id, None).await;
    let mut watch = events::watch(&client, &session_id, 0);
    let here = rest.run(&session_id, "said0001", "say from the window").await;
    assert!(text(&here, "assistant").contains("from the window"), "{here:#?}");
    let in_window = window.until(is_finish).await;
    assert!(text(&in_window, "assistant").contains("from the window"), "{in_window:#?}");
    assert_eq!(text(&in_window, "user"), "", "a window shows its own words itself");
    let turn_id = in_window[0]["chat_request_id"].clone();
    assert_eq!(turn_id, turns(&client, &session_id).await[0].turn_id.as_str());

    let there = events::complete(&client, &session_id, "say from an editor").await;
    let in_window = window.until(is_finish).await;
    assert_eq!(text(&in_window, "user"), "say from an editor");
    assert_eq!(text(&in_window, "assistant"), events::agent_text(&there));
    let mut seen = Vec::new();
    for _ in 0..2 {
        let end = |payload: &Payload| matches!(payload, Payload::TurnEnded(_));
        events::until(&mut watch, &mut seen, "the end of a turn", end).await;
    }
    assert!(events::agent_text(&seen).contains("from the window"));
    let stored = rest.conversation(&session_id).await;
    assert_eq!(text(&stored, "user"), "say from the windowsay from an editor");
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_stream_comes_back_without_loss_or_repetition() {
    let rest = Surface::start().await;
    let session_id = rest.session().await;
    let client = rest.daemon.unix().await;
    let count = rest.daemon.work().join("count");
    let command = "echo once >> count; sleep 20";
    let body = message(&session_id, "said0001", &events::shell(command));
    let mut stream = rest.reply(&body).await;
    stream.until(|event| has(event, "toolRequest")).await;
    eventually(DEADLINE, "the tool to run", async || (lines(&count) == 1).then_some(())).await;
    drop(stream);
    // Closing cancels, as a window expects of its Stop button.
    let cancelled = idle(&client, &session_id).await;
    assert_eq!(states(&cancelled), [TurnState::Cancelled]);
    // The identical request says that it was no Stop.
    let back = rest.reply(&body).await.rest().await;
    assert_eq!(back[0]["type"], "UpdateConversation");
    assert!(is_finish(back.last().expect("events")), "{back:#?}");
    let after = idle(&client, &session_id).await;
    assert_eq!(states(&after), [TurnState::Cancelled, TurnState::Completed]);
    assert_eq!(lines(&count), 1, "the tool did not run again");
    let stored = rest.conversation(&session_id).await;
    let said = stored.iter().filter(|message| message["id"] == "said0001").count();
    assert_eq!(said, 1, "nothing was said twice: {stored:#?}");
    assert_eq!(contents(&stored, "toolRequest").len(), contents(&stored, "toolResponse").len());

    // Once more, now that it is over: the same again and no third turn.
    let over = rest.reply(&body).await.rest().await;
    assert_eq!(over.len(), 2, "{over:#?}");
    assert_eq!(over[0]["conversation"], Value::Array(stored));
    assert!(is_finish(&over[1]));
    assert_eq!(turns(&client, &session_id).await.len(), 2);
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_was_cut_while_it_waited_is_said_once() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let client = rest.daemon.unix().await;
    let (first, _) = events::start(&client, &session_id, "slow 5000").await;
    let body = message(&session_id, "said0001", "say it once");
    let stream = rest.reply(&body).await;
    let count = async |wanted: usize| {
        eventually(DEADLINE, "the turns", async || {
            (turns(&client, &session_id).await.len() == wanted).then_some(())
        })
        .await;
    };
    count(2).await;
    drop(stream);
    eventually(DEADLINE, "the queued turn's end", async || {
        (turns(&client, &session_id).await[1].state() == TurnState::Cancelled).then_some(())
    })
    .await;
    let mut stream = rest.reply(&body).await;
    count(3).await;
    events::cancel(&client, &session_id, &first).await;
    stream.until(is_finish).await;
    let stored = rest.conversation(&session_id).await;
    assert_eq!(stored.iter().filter(|message| message["id"] == "said0001").count(), 1, "{stored:#?}");
    assert!(text(&stored, "assistant").contains("it once"), "{stored:#?}");
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_stream_of_the_same_request_attaches() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let body = message(&session_id, "said0001", "slow 100");
    let mut first = rest.reply(&body).await;
    first.until(|event| event["type"] == "Message").await;
    let second = rest.reply(&body).await.rest().await;
    first.until(is_finish).await;
    assert_eq!(second[0]["type"], "UpdateConversation", "{second:#?}");
    let begun = second[0]["conversation"].as_array().expect("a conversation").clone();
    let whole = format!("{}{}", text(&begun, "assistant"), text(&second[1..], "assistant"));
    let stored = rest.conversation(&session_id).await;
    assert_eq!(whole, text(&stored, "assistant"), "the snapshot and what came after are the whole");
    let client = rest.daemon.unix().await;
    assert_eq!(states(&turns(&client, &session_id).await), [TurnState::Completed]);
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_surface_cancels_nothing() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let mut stream = rest.reply(&message(&session_id, "said0001", "slow 150")).await;
    stream.until(|event| event["type"] == "Message").await;
    rest.close().await;
    loop {
        match stream.try_next().await {
            Ok(Some(event)) => assert!(!is_finish(&event), "it is not the end of the turn"),
            Ok(None) => panic!("a stream that is cut short must not look like one that ended"),
            Err(_) => break,
        }
    }
    let client = rest.daemon.unix().await;
    assert_eq!(states(&idle(&client, &session_id).await), [TurnState::Completed]);
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_a_restart_of_the_daemon() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let mut stream = rest.reply(&message(&session_id, "said0001", "slow 5000")).await;
    stream.until(|event| event["type"] == "Message").await;
    let rest = rest.restart_daemon().await;
    let end = stream.until(is_finish).await;
    let notes = contents(&end, "systemNotification");
    assert!(notes.iter().any(|(_, note)| note["msg"].to_string().contains("was stopped")), "{notes:#?}");
    let client = rest.daemon.unix().await;
    assert_eq!(states(&turns(&client, &session_id).await), [TurnState::Interrupted], "nobody cancelled it");
    let again = rest.run(&session_id, "said0002", "say on").await;
    assert!(text(&again, "assistant").contains("on"), "{again:#?}");
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_heal_is_told_in_the_stream() {
    let rest = Surface::start().await;
    let lost = rest.run("no-such-session", "said0001", "say it").await;
    assert_eq!(lost, [json!({"type": "Error", "error": "Failed to read session: Session not found"})]);
    let session_id = rest.session_of_provider("no-such-provider").await;
    let refused = rest.run(&session_id, "said0000", "say nothing").await;
    assert_eq!((refused.len(), &refused[0]["type"]), (1, &json!("Error")), "{refused:#?}");
    assert_eq!(rest.conversation(&session_id).await, Vec::<Value>::new(), "what cannot be tried is not said");
    rest.choose_model(&session_id, "demo").await;
    let failed = rest.run(&session_id, "said0001", "fail auth").await;
    assert!(is_finish(failed.last().expect("events")), "{failed:#?}");
    let told = text(&failed, "assistant");
    assert!(told.contains("Ran into this error: ") && told.contains("Please retry"), "{told}");
    let stored = rest.conversation(&session_id).await;
    assert!(text(&stored, "assistant").contains(&told), "a reload shows the failure too: {stored:#?}");
    // Sending the last message again continues: nothing is said twice.
    let last = stored.last().expect("messages")["id"].as_str().expect("an id").to_owned();
    rest.run(&session_id, &last, "say this is not to be said").await;
    let stored = rest.conversation(&session_id).await;
    assert!(!text(&stored, "user").contains("not to be said"), "{stored:#?}");
    let (status, answer) = rest.ask(Method::POST, "/reply", &json!({"session_id": session_id})).await;
    assert_eq!(status, 422, "{answer}");
    let stranger = rest.http.get(format!("{}/sessions", rest.url)).send().await.expect("an answer");
    assert_eq!((stranger.status().as_u16(), stranger.content_length()), (401, Some(0)));
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_commands_answer_in_the_stream() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    rest.run(&session_id, "said0001", "say something worth a summary").await;
    let types = |events: &[Value]| -> Vec<String> {
        events.iter().map(|event| event["type"].as_str().expect("a type").to_owned()).collect()
    };
    let listed = rest.run(&session_id, "said0002", "/prompts").await;
    assert_eq!(types(&listed), ["Message", "Finish"], "{listed:#?}");
    assert_eq!(listed[0]["message"]["metadata"], json!({"userVisible": true, "agentVisible": false}));
    let compacted = rest.run(&session_id, "said0003", "/compact").await;
    assert!(types(&compacted).contains(&"UpdateConversation".to_owned()), "{compacted:#?}");
    let notes: Vec<Value> =
        contents(&compacted, "systemNotification").into_iter().map(|(_, note)| note["msg"].clone()).collect();
    assert!(notes.contains(&json!("goose is compacting the conversation...")), "{notes:?}");
    assert_eq!(notes.last(), Some(&json!("Compaction complete")));
    let stored = rest.conversation(&session_id).await;
    let first = stored.iter().find(|message| message["id"] == "said0001").expect("it stays");
    assert_eq!(first["metadata"], json!({"userVisible": true, "agentVisible": false}));
    let cleared = rest.run(&session_id, "said0004", "/clear").await;
    assert_eq!(types(&cleared).last().map(String::as_str), Some("Finish"));
    assert!(types(&cleared).contains(&"UpdateConversation".to_owned()), "{cleared:#?}");
    assert_eq!(text(&rest.conversation(&session_id).await, "user"), "", "{cleared:#?}");
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_values_are_shown_whole() {
    let rest = Surface::start().await;
    let session_id = rest.session().await;
    let long = "word ".repeat(80_000);
    let picture = "QUJD".repeat(100_000);
    let content = json!([{"type": "text", "text": format!("say {long}")},
        {"type": "image", "data": picture, "mimeType": "image/png"}]);
    let said = rest.reply(&said(&session_id, "said0001", &content)).await.rest().await;
    assert!(is_finish(said.last().expect("events")));
    let command = "head -c 300000 /dev/zero | tr '\\0' x";
    let tool = rest.run(&session_id, "said0002", &events::shell(command)).await;
    let result = contents(&tool, "toolResponse")[0].1["toolResult"].to_string();
    assert!(result.contains("xxxx"), "{} bytes", result.len());
    let stored = rest.conversation(&session_id).await;
    assert_eq!(stored[0]["content"][1]["data"].as_str().map(str::len), Some(picture.len()));
    assert!(
        stored[0]["content"][0]["text"]
            .as_str()
            .is_some_and(|text| text.ends_with(long.trim_end()) || text.ends_with(&long))
    );
    assert_eq!(
        contents(&stored, "toolResponse")[0].1["toolResult"].to_string(),
        result,
        "streamed and stored"
    );
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_and_a_retry_are_shown() {
    let rest = Surface::start().await;
    let session_id = rest.session().await;
    rest.set_mode(&session_id, "approve").await;
    let mut stream = rest.reply(&message(&session_id, "said0001", &events::shell("echo never"))).await;
    let (_, question) = stream.until_question().await;
    let deny = json!({"id": question["id"], "action": "deny_once", "sessionId": session_id});
    rest.post("/action-required/tool-confirmation", deny).await;
    let result = contents(&stream.rest().await, "toolResponse")[0].1["toolResult"].clone();
    assert_eq!(
        (&result["status"], &result["value"]["isError"]),
        (&json!("success"), &json!(true)),
        "{result}"
    );
    let failed = rest.run(&session_id, "said0002", "fail overloaded").await;
    let told = text(&failed, "assistant");
    assert!(told.contains("Ran into this error"), "{failed:#?}");
    let notes = contents(&failed, "systemNotification");
    let retries = notes.iter().filter(|(_, note)| note["msg"].to_string().contains("next try in")).count();
    assert!(retries > 0, "{notes:#?}");
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_asks_a_form_in_the_middle_of_a_turn() {
    let Some(server) = crate::extensions::server() else { return };
    let rest = Surface::start().await;
    let session_id = rest.session_of_asking(&server).await;
    let ask = message(&session_id, "said0001", "call everything__trigger-elicitation-request {}");
    let mut stream = rest.reply(&ask).await;
    let (_, question) = stream.until_question().await;
    assert_eq!(question["actionType"], "elicitation");
    assert!(question["requested_schema"]["properties"].is_object(), "{question}");
    let filled = form(&session_id, "said0002", &question, &json!({"name": "Ada Lovelace", "check": true}));
    let answering = rest.reply(&filled).await.rest().await;
    assert_eq!(answering.iter().map(|event| event["type"].clone()).collect::<Vec<_>>(), ["Finish"]);
    let rest_of_it = stream.rest().await;
    let results = contents(&rest_of_it, "toolResponse");
    assert!(results[0].1.to_string().contains("Ada Lovelace"), "{results:?}");
    assert_eq!(
        text(&rest.conversation(&session_id).await, "user"),
        text(&[ask["user_message"].clone()], "user")
    );
    rest.finish().await;
}
