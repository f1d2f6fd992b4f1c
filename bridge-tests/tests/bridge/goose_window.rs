//! Goose's surface over a real daemon, and a window's habits, for the tests of both generations.

use std::{path::Path, time::Duration};

use futures::{StreamExt as _, stream::BoxStream};
use gander::daemon::DaemonOptions;
use gander_bridge_tests::{
    DEADLINE, TestDaemon, client_options, daemon::environment_with, events, eventually, pb, soon, window,
};
use gander_client::{Client, Endpoint};
use gander_goose::{App, Options};
use pb::TurnState;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// The secret of the surface.
pub(crate) const SECRET: &str = "a-secret-of-this-test";

/// A daemon with the demo model, and the surface over it.
pub(crate) struct Surface {
    pub(crate) daemon: TestDaemon,
    app: App,
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
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

    /// A session with a server that asks forms, where nobody is asked whether a tool may run.
    pub(crate) async fn session_of_asking(&self, server: &Path) -> String {
        let session_id = self.session_with(json!([])).await;
        self.set_mode(&session_id, "auto").await;
        let config = crate::extensions::config(server, "everything");
        crate::extensions::add(&self.daemon.unix().await, &session_id, config).await;
        session_id
    }

    /// Chooses a session's provider over gRPC, which takes any.
    /// A session whose model was chosen when the provider was still there.
    pub(crate) async fn session_of_provider(&self, provider_id: &str) -> String {
        let model = pb::ModelSelection {
            provider_id: provider_id.to_owned(),
            model_id: "m".to_owned(),
            ..Default::default()
        };
        let session =
            pb::CreateSessionRequest { model: Some(model), ..events::bare_session(&self.daemon.work()) };
        events::create(&self.daemon.unix().await, session).await
    }

    pub(crate) async fn choose_model(&self, session_id: &str, provider_id: &str) {
        let model = pb::ModelSelection {
            provider_id: provider_id.to_owned(),
            model_id: "demo-1".to_owned(),
            ..Default::default()
        };
        let request = pb::UpdateSessionRequest {
            session: Some(pb::Session {
                session_id: session_id.to_owned(),
                model: Some(model),
                ..Default::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["model".to_owned()] }),
            ..Default::default()
        };
        self.daemon.unix().await.sessions().update_session(request).await.expect("updated");
    }

    pub(crate) async fn set_mode(&self, session_id: &str, mode: &str) {
        self.post("/agent/update_session", json!({"session_id": session_id, "goose_mode": mode})).await;
    }

    pub(crate) async fn reply(&self, body: &Value) -> Sse {
        let request = self.request(Method::POST, "/reply").header("content-type", "application/json");
        Sse::open(request.body(body.to_string())).await
    }

    /// The stream of a session, as the later generation has it.
    pub(crate) async fn events(&self, session_id: &str, last: Option<i64>) -> Sse {
        let mut request = self.request(Method::GET, &format!("/sessions/{session_id}/events"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        Sse::open(request).await
    }

    /// The whole stream of a message but pings.
    pub(crate) async fn run(&self, session_id: &str, message_id: &str, text: &str) -> Vec<Value> {
        self.reply(&message(session_id, message_id, text)).await.rest().await
    }

    pub(crate) async fn conversation(&self, session_id: &str) -> Vec<Value> {
        let session = self.get(&format!("/sessions/{session_id}")).await;
        session["conversation"].as_array().expect("a conversation").clone()
    }

    /// Ends the surface, but not the daemon.
    pub(crate) async fn close(&self) {
        self.app.close(DEADLINE).await;
    }

    /// Ends the daemon at once and starts another one; the surface stays.
    pub(crate) async fn restart_daemon(self) -> Self {
        let Self { daemon, app, url, http, server } = self;
        let client = daemon.unix().await;
        let (root, _) = daemon.stop(&client, Duration::ZERO).await;
        let daemon = TestDaemon::start_in(root, with_model).await;
        Self { daemon, app, url, http, server }
    }

    /// Stops the surface and checks the daemon's logs.
    pub(crate) async fn finish(self) {
        self.close().await;
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

/// The same as a request of the later generation, and its id.
pub(crate) fn with_request_id(mut body: Value) -> (String, Value) {
    let request_id = uuid::Uuid::now_v7().to_string();
    body["request_id"] = json!(request_id);
    (request_id, body)
}

/// A filled-in form.
pub(crate) fn form(session_id: &str, id: &str, question: &Value, data: &Value) -> Value {
    let data = json!({"actionType": "elicitationResponse", "id": question["id"], "user_data": data});
    said(session_id, id, &json!([{"type": "actionRequired", "data": data}]))
}

/// A stream of frames.
pub(crate) struct Sse {
    chunks: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
    /// The last id.
    pub(crate) id: Option<i64>,
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
    pub(crate) async fn try_next(&mut self) -> Result<Option<Value>, reqwest::Error> {
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

    /// Events until a question, and what it asks.
    pub(crate) async fn until_question(&mut self) -> (Vec<Value>, Value) {
        let seen = self.until(|event| has(event, "actionRequired")).await;
        let data = contents(&seen, "actionRequired")[0].1["data"].clone();
        (seen, data)
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

/// Whether a message event has content of this type.
pub(crate) fn has(event: &Value, kind: &str) -> bool {
    !contents(std::slice::from_ref(event), kind).is_empty()
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
pub(crate) fn shown(values: &[Value], without: &[&str]) -> Vec<(String, String)> {
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

pub(crate) async fn turns(client: &Client, session_id: &str) -> Vec<pb::Turn> {
    let request = pb::ListTurnsRequest { session_id: session_id.to_owned(), ..Default::default() };
    let mut turns = client.turns().list_turns(request).await.expect("turns").into_inner().turns;
    turns.reverse();
    turns
}

/// Waits until no turn runs.
pub(crate) async fn idle(client: &Client, session_id: &str) -> Vec<pb::Turn> {
    eventually(DEADLINE, "the session to be idle", async || {
        let turns = turns(client, session_id).await;
        let live = |turn: &pb::Turn| turn.end_time.is_none();
        (!turns.is_empty() && !turns.iter().any(live)).then_some(turns)
    })
    .await
}

pub(crate) fn states(turns: &[pb::Turn]) -> Vec<TurnState> {
    turns.iter().map(pb::Turn::state).collect()
}
