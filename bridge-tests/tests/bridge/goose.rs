//! Goose's REST and SSE surface over a real daemon: the same sessions as over gRPC, and a window's habits acted out.

use std::{collections::BTreeSet, path::Path, time::Duration};

use futures::{StreamExt as _, stream::BoxStream};
use gander::daemon::DaemonOptions;
use gander_bridge_tests::{
    DEADLINE, TestDaemon, client_options, daemon::environment_with, events, eventually, pb, soon, window,
};
use gander_client::{Client, Endpoint};
use gander_goose::{App, Options};
use pb::{TurnState, session_event::Payload};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

const SECRET: &str = "a-secret-of-this-test";

/// A daemon with the demo model, and the surface over it.
pub(crate) struct Surface {
    pub(crate) daemon: TestDaemon,
    app: App,
    url: String,
    http: reqwest::Client,
    server: JoinHandle<()>,
}

fn with_model(options: &mut DaemonOptions) {
    let root = options.root.clone().expect("a root");
    let model = [("GOOSE_PROVIDER", "demo"), ("GOOSE_MODEL", "demo-1")];
    options.environment = environment_with(&root, &model);
}

impl Surface {
    pub(crate) async fn start() -> Self {
        let daemon = TestDaemon::start_with(with_model).await;
        let mut options = client_options(None);
        options.protocol = gander_goose::PROTOCOL.to_owned();
        let client =
            Client::connect(Endpoint::unix(&daemon.ready().socket), options).await.expect("a client");
        let options = Options { ping_every: Duration::from_millis(50), ..Options::new(SECRET.into()) };
        let app = App::new(client, options);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = gander_goose::router(app.clone());
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the server");
        });
        Self { daemon, app, url, http: window::http_client(), server }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).header("x-secret-key", SECRET)
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let request =
            self.request(method, path).header("content-type", "application/json").body(body.to_string());
        let response = soon(path, request.send()).await.expect(path);
        let status = response.status();
        let text = response.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(Method::POST, path, &body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = soon(path, self.request(Method::GET, path).send()).await.expect(path);
        assert_eq!(response.status(), 200, "{path}");
        serde_json::from_str(&response.text().await.expect("a body")).expect("JSON")
    }

    /// A session with the developer tools, where nobody is asked.
    pub(crate) async fn session(&self) -> String {
        let overrides = json!([{"type": "builtin", "name": "developer"}]);
        self.session_with(overrides).await
    }

    pub(crate) async fn session_with(&self, overrides: Value) -> String {
        let start = json!({"working_dir": self.daemon.work(), "extension_overrides": overrides});
        let session = self.post("/agent/start", start).await;
        session["id"].as_str().expect("an id").to_owned()
    }

    async fn stream(&self, path: &str, body: &Value) -> Sse {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        Sse::open(request.body(body.to_string())).await
    }

    pub(crate) async fn reply(&self, body: &Value) -> Sse {
        self.stream("/reply", body).await
    }

    /// The whole stream of a message but pings.
    pub(crate) async fn run(&self, session_id: &str, message_id: &str, text: &str) -> Vec<Value> {
        self.reply(&message(session_id, message_id, text)).await.rest().await
    }

    pub(crate) async fn conversation(&self, session_id: &str) -> Vec<Value> {
        let session = self.get(&format!("/sessions/{session_id}")).await;
        session["conversation"].as_array().expect("a conversation").clone()
    }

    /// Stops the surface and checks the daemon's logs.
    pub(crate) async fn finish(self) {
        self.app.close(DEADLINE).await;
        self.server.abort();
        self.daemon.finish().await;
    }
}

/// What a window sends for a text.
pub(crate) fn message(session_id: &str, id: &str, text: &str) -> Value {
    said(session_id, id, &json!([{"type": "text", "text": text}]))
}

pub(crate) fn said(session_id: &str, id: &str, content: &Value) -> Value {
    json!({"session_id": session_id, "conversation_so_far": [], "recipe_name": null, "user_message": {
        "id": id, "role": "user", "created": 1_772_700_000, "content": content,
        "metadata": {"userVisible": true, "agentVisible": true}}})
}

/// A stream of frames.
pub(crate) struct Sse {
    chunks: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
    /// The last id.
    id: Option<i64>,
}

impl Sse {
    pub(crate) async fn open(request: RequestBuilder) -> Self {
        let response = soon("the stream's head", request.send()).await.expect("a response");
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().expect("text");
        assert_eq!(kind, "text/event-stream");
        Self { chunks: response.bytes_stream().boxed(), text: String::new(), id: None }
    }

    /// The next event but pings and comments. `Ok(None)`: the stream ended well.
    async fn try_next(&mut self) -> Result<Option<Value>, reqwest::Error> {
        loop {
            while let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (mut frame, rest) = (frame.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some((id, data)) = frame.strip_prefix("id: ").and_then(|frame| frame.split_once('\n'))
                {
                    self.id = Some(id.parse().expect("a sequence"));
                    frame = data.to_owned();
                }
                if frame.starts_with(": ") {
                    continue;
                }
                let data =
                    frame.strip_prefix("data: ").unwrap_or_else(|| panic!("a strange frame {frame:?}"));
                let event: Value = serde_json::from_str(data).expect("one line of JSON");
                if event["type"] != "Ping" {
                    return Ok(Some(event));
                }
            }
            match soon("a frame", self.chunks.next()).await {
                None => {
                    assert_eq!(self.text, "", "the stream ends after a frame");
                    return Ok(None);
                }
                Some(chunk) => self.text.push_str(std::str::from_utf8(&chunk?).expect("whole frames")),
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Option<Value> {
        self.try_next().await.expect("the stream is not cut")
    }

    /// Events until one of this type, with it.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            let found = wanted(&event);
            events.push(event);
            if found {
                return events;
            }
        }
        panic!("the stream ended before what was waited for: {events:#?}");
    }

    pub(crate) async fn rest(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

pub(crate) fn is_finish(event: &Value) -> bool {
    event["type"] == "Finish"
}

/// Contents of one type among messages or message events, each with its message's id.
pub(crate) fn contents(values: &[Value], kind: &str) -> Vec<(Value, Value)> {
    let of = |value: &Value| {
        let message = if value["message"].is_object() { value["message"].clone() } else { value.clone() };
        let list = message["content"].as_array().cloned().unwrap_or_default();
        list.into_iter().map(move |content| (message["id"].clone(), content)).collect::<Vec<_>>()
    };
    values.iter().flat_map(of).filter(|(_, content)| content["type"] == kind).collect()
}

pub(crate) fn text(values: &[Value], role: &str) -> String {
    let of_role = |value: &&Value| {
        let message = if value["message"].is_object() { &value["message"] } else { *value };
        message["role"] == role
    };
    let of_role: Vec<Value> = values.iter().filter(of_role).cloned().collect();
    contents(&of_role, "text").iter().filter_map(|(_, content)| content["text"].as_str()).collect()
}

/// Id and type of everything shown, deltas taken together.
fn shown(values: &[Value], without: &[&str]) -> Vec<(String, String)> {
    let mut shown: Vec<(String, String)> = Vec::new();
    for value in values {
        let message = if value["message"].is_object() { &value["message"] } else { value };
        for content in message["content"].as_array().into_iter().flatten() {
            let one = (message["id"].as_str().expect("an id").to_owned(), content["type"].to_string());
            if shown.last() != Some(&one) && !without.contains(&content["type"].as_str().unwrap_or_default())
            {
                shown.push(one);
            }
        }
    }
    shown
}

async fn turns(client: &Client, session_id: &str) -> Vec<pb::Turn> {
    let request = pb::ListTurnsRequest { session_id: session_id.to_owned(), ..Default::default() };
    let mut turns = client.turns().list_turns(request).await.expect("turns").into_inner().turns;
    turns.reverse();
    turns
}

/// Waits until no turn runs.
async fn idle(client: &Client, session_id: &str) -> Vec<pb::Turn> {
    eventually(DEADLINE, "the session to be idle", async || {
        let turns = turns(client, session_id).await;
        let live = |turn: &pb::Turn| turn.end_time.is_none();
        (!turns.is_empty() && !turns.iter().any(live)).then_some(turns)
    })
    .await
}

fn states(turns: &[pb::Turn]) -> Vec<TurnState> {
    turns.iter().map(pb::Turn::state).collect()
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_with_a_tool_and_an_approval_is_stored_as_it_was_streamed() {
    let rest = Surface::start().await;
    let session_id = rest.session().await;
    let mode = json!({"session_id": session_id, "goose_mode": "approve"});
    rest.post("/agent/update_session", mode).await;
    let mut stream = rest.reply(&message(&session_id, "said0001", &events::shell("echo by-rest"))).await;
    let mut seen =
        stream.until(|event| !contents(std::slice::from_ref(event), "actionRequired").is_empty()).await;
    let question = contents(&seen, "actionRequired")[0].1["data"].clone();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_begun_here_goes_on_elsewhere_while_both_watch() {
    let rest = Surface::start().await;
    let session_id = rest.session().await;
    let client = rest.daemon.unix().await;
    let path = format!("/sessions/{session_id}/events");
    let mut window = Sse::open(rest.request(Method::GET, &path)).await;
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
    stream.until(|event| !contents(std::slice::from_ref(event), "toolRequest").is_empty()).await;
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
    rest.app.close(DEADLINE).await;
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
    let Surface { daemon, app, url, http, server } = rest;
    let client = daemon.unix().await;
    let (root, _) = daemon.stop(&client, Duration::ZERO).await;
    let daemon = TestDaemon::start_in(root, with_model).await;
    let rest = Surface { daemon, app, url, http, server };
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
async fn the_later_generation_resumes_by_id_and_cancels_by_request() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let path = |last: &str| format!("/sessions/{session_id}/{last}");
    let request = |text: &str| {
        let request_id = uuid::Uuid::now_v7().to_string();
        let mut body = message(&session_id, &request_id[..8], text);
        body["request_id"] = json!(request_id);
        (request_id, body)
    };
    let mut window = Sse::open(rest.request(Method::GET, &path("events"))).await;
    let (request_id, body) = request("slow 100");
    assert_eq!(rest.post(&path("reply"), body).await, json!({"request_id": request_id}));
    let (_, busy) = request("say too early");
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
    let back = rest.request(Method::GET, &path("events")).header("last-event-id", last);
    let mut window = Sse::open(back).await;
    let rest_of_it = window.until(is_finish).await;
    seen.extend(rest_of_it.iter().filter(|event| event["type"] == "Message").cloned());
    assert!(seen.iter().all(|event| event["chat_request_id"] == request_id.as_str()), "{seen:#?}");
    let stored = rest.conversation(&session_id).await;
    assert_eq!(text(&seen, "assistant"), text(&stored, "assistant"), "nothing lost, nothing twice");

    let (request_id, body) = request("slow 5000");
    rest.post(&path("reply"), body).await;
    window.until(|event| event["type"] == "Message").await;
    // A new window gets what there is.
    let mut other = Sse::open(rest.request(Method::GET, &path("events"))).await;
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
async fn history_is_edited_copied_exported_and_imported() {
    let rest = Surface::start().await;
    let session_id = rest.session_with(json!([])).await;
    let mut first = message(&session_id, "said0001", "say first");
    first["user_message"]["created"] = json!(1_772_700_000);
    rest.reply(&first).await.rest().await;
    let mut second = message(&session_id, "said0002", "say second");
    second["user_message"]["created"] = json!(1_772_700_050);
    rest.reply(&second).await.rest().await;
    let whole = rest.conversation(&session_id).await;
    let path = |last: &str| format!("/sessions/{session_id}/{last}");
    let exported = rest.get(&path("export")).await;
    let document: Value = serde_json::from_str(exported.as_str().expect("a string")).expect("JSON");
    assert_eq!(document["conversation"], Value::Array(whole.clone()));
    let imported = rest.post("/sessions/import", json!({"json": exported})).await;
    assert_ne!(imported["id"], session_id.as_str());
    let ids = |messages: &[Value]| messages.iter().map(|m| m["id"].clone()).collect::<Vec<_>>();
    let again = imported["conversation"].as_array().expect("a conversation");
    assert_eq!(ids(again), ids(&whole), "message ids are kept");
    assert_eq!(text(again, "assistant"), text(&whole, "assistant"));

    let fork = json!({"timestamp": 1_772_700_050, "truncate": true, "copy": true});
    let copy = rest.post(&path("fork"), fork).await["sessionId"].as_str().expect("an id").to_owned();
    let copied = rest.conversation(&copy).await;
    assert!(text(&copied, "user").contains("first") && !text(&copied, "user").contains("second"));
    assert_eq!(rest.conversation(&session_id).await, whole, "the original is as it was");
    let edit = json!({"timestamp": 1_772_700_050, "truncate": true, "copy": false});
    assert_eq!(rest.post(&path("fork"), edit).await["sessionId"], session_id.as_str());
    rest.run(&session_id, "said0003", "say instead").await;
    let edited = rest.conversation(&session_id).await;
    assert_eq!(text(&edited, "user"), "say firstsay instead");

    let found = rest.get("/sessions/search?query=instead").await;
    let found: BTreeSet<&str> =
        found.as_array().expect("a list").iter().filter_map(|s| s["id"].as_str()).collect();
    assert!(found.contains(session_id.as_str()), "{found:?}");
    let listed = rest.get("/sessions").await["sessions"].as_array().map_or(0, Vec::len);
    assert_eq!(listed, 3);
    assert_eq!(rest.ask(Method::DELETE, &format!("/sessions/{copy}"), &json!({})).await.0, 200);
    assert_eq!(rest.ask(Method::GET, &format!("/sessions/{copy}"), &json!({})).await.0, 404);
    rest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_heal_is_told_in_the_stream() {
    let rest = Surface::start().await;
    let lost = rest.run("no-such-session", "said0001", "say it").await;
    assert_eq!(lost, [json!({"type": "Error", "error": "Failed to read session: Session not found"})]);
    let session_id = rest.session_with(json!([])).await;
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
    rest.post("/agent/update_session", json!({"session_id": session_id, "goose_mode": "approve"})).await;
    let mut stream = rest.reply(&message(&session_id, "said0001", &events::shell("echo never"))).await;
    let seen =
        stream.until(|event| !contents(std::slice::from_ref(event), "actionRequired").is_empty()).await;
    let id = contents(&seen, "actionRequired")[0].1["data"]["id"].clone();
    let deny = json!({"id": id, "action": "deny_once", "sessionId": session_id});
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
    let client = rest.daemon.unix().await;
    let session_id = rest.session_with(json!([])).await;
    let mode = json!({"session_id": session_id, "goose_mode": "auto"});
    rest.post("/agent/update_session", mode).await;
    let config = crate::extensions::config(&server, "everything");
    crate::extensions::add(&client, &session_id, config).await;
    let ask = message(&session_id, "said0001", "call everything__trigger-elicitation-request {}");
    let mut stream = rest.reply(&ask).await;
    let seen =
        stream.until(|event| !contents(std::slice::from_ref(event), "actionRequired").is_empty()).await;
    let data = contents(&seen, "actionRequired")[0].1["data"].clone();
    assert_eq!(data["actionType"], "elicitation");
    assert!(data["requested_schema"]["properties"].is_object(), "{data}");
    let form = json!({"name": "Ada Lovelace", "check": true});
    let content = json!([{"type": "actionRequired", "data":
        {"actionType": "elicitationResponse", "id": data["id"], "user_data": form}}]);
    let answering = rest.reply(&said(&session_id, "said0002", &content)).await.rest().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sessions_at_once() {
    let rest = Surface::start().await;
    let runs = (0..200).map(async |number: usize| {
        let session_id = rest.session_with(json!([])).await;
        let word = format!("say number-{number}.");
        let events = rest.run(&session_id, "said0001", &word).await;
        assert!(is_finish(events.last().expect("events")), "{number}: {events:#?}");
        let said = text(&events, "assistant");
        assert!(said.contains(&format!("number-{number}.")), "{number}: {said}");
        session_id
    });
    let sessions: BTreeSet<String> = futures::future::join_all(runs).await.into_iter().collect();
    assert_eq!(sessions.len(), 200);
    let insights = rest.get("/sessions/insights").await;
    assert_eq!(insights["totalSessions"], 200);
    rest.finish().await;
}
