//! A connection against a scripted daemon: what a real one does seldom or never.

mod terminals;

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use gander_client::{ClientOptions, Endpoint, LocalService};
use gander_proto::v1::{
    self as pb, attach_host_response,
    complete_host_call_request::Outcome,
    host_call,
    host_service_server::{HostService, HostServiceServer},
    session_event::Payload,
};
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tonic::{Request, Response, Status, body::Body};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use super::{Connection, Options};

/// What the daemon is told to do, and what it was told.
struct Script {
    /// Events of the one session.
    events: Mutex<Option<mpsc::Receiver<pb::SessionEvent>>>,
    /// Messages to the host.
    calls: Mutex<Option<mpsc::Receiver<pb::AttachHostResponse>>>,
    attached: mpsc::Sender<pb::AttachHostRequest>,
    completed: mpsc::Sender<pb::CompleteHostCallRequest>,
    answers: mpsc::Sender<pb::RespondToInteractionRequest>,
    reports: mpsc::Sender<pb::ReportHostProgressRequest>,
}

struct Host(Arc<Script>);

#[tonic::async_trait]
impl HostService for Host {
    type AttachHostStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<pb::AttachHostResponse, Status>> + Send>>;

    async fn attach_host(
        &self,
        request: Request<pb::AttachHostRequest>,
    ) -> Result<Response<Self::AttachHostStream>, Status> {
        self.0.attached.send(request.into_inner()).await.expect("expected");
        let calls = self.0.calls.lock().await.take().expect("one host");
        let calls = stream::unfold(calls, |mut calls| async move { Some((Ok(calls.recv().await?), calls)) });
        Ok(Response::new(Box::pin(calls)))
    }

    async fn report_host_progress(
        &self,
        request: Request<pb::ReportHostProgressRequest>,
    ) -> Result<Response<pb::ReportHostProgressResponse>, Status> {
        self.0.reports.send(request.into_inner()).await.expect("expected");
        Ok(Response::new(pb::ReportHostProgressResponse {}))
    }

    async fn complete_host_call(
        &self,
        request: Request<pb::CompleteHostCallRequest>,
    ) -> Result<Response<pb::CompleteHostCallResponse>, Status> {
        self.0.completed.send(request.into_inner()).await.expect("expected");
        Ok(Response::new(pb::CompleteHostCallResponse {}))
    }
}

fn framed(message: &impl prost::Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).expect("small"));
    message.encode(&mut frame).expect("room");
    frame.freeze()
}

fn answered(messages: impl Stream<Item = Bytes> + Send + 'static) -> http::Response<Body> {
    let end = stream::once(async {
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        http_body::Frame::trailers(trailers)
    });
    let frames = messages.map(http_body::Frame::data).chain(end).map(Ok::<_, Infallible>);
    let body = StreamBody::new(Box::pin(frames) as std::pin::Pin<Box<dyn Stream<Item = _> + Send>>);
    let response = http::Response::builder().header("content-type", "application/grpc");
    response.body(Body::new(body)).expect("a response")
}

fn one(message: &impl prost::Message) -> http::Response<Body> {
    let frame = framed(message);
    answered(stream::once(async move { frame }))
}

fn session() -> pb::Session {
    pb::Session { session_id: "s".into(), working_directory: "/w".into(), ..pb::Session::default() }
}

async fn serve(script: Arc<Script>, request: http::Request<Body>) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    if path.starts_with("/gander.v1.HostService/") {
        return HostServiceServer::new(Host(script)).oneshot(request).await.expect("infallible");
    }
    let body = request.into_body().collect().await.expect("a body").to_bytes().slice(5..);
    match path.rsplit('/').next().unwrap_or_default() {
        "CreateSession" => one(&pb::CreateSessionResponse { session: Some(session()), sequence: 1 }),
        "WatchSession" => {
            let events = script.events.lock().await.take();
            let events = stream::unfold(events, |events| async move {
                let mut events = events?;
                let event = events.recv().await?;
                Some((framed(&pb::WatchSessionResponse { event: Some(event) }), Some(events)))
            });
            answered(events.chain(stream::pending()))
        }
        "RespondToInteraction" => {
            let request = prost::Message::decode(body).expect("an answer");
            script.answers.send(request).await.expect("expected");
            one(&pb::RespondToInteractionResponse::default())
        }
        "GetServerInfo" => {
            let default_model = Some(pb::ModelSelection::default());
            let info = pb::ServerInfo { default_model, ..pb::ServerInfo::default() };
            one(&pb::GetServerInfoResponse { server_info: Some(info) })
        }
        "AuthenticateProvider" => {
            use pb::authenticate_provider_response::Step;
            let code = pb::DeviceCode {
                verification_url: "https://sign.in/device".into(),
                user_code: "AB-12".into(),
                ..pb::DeviceCode::default()
            };
            let steps = [
                Step::StatusText("asking".into()),
                Step::OpenUrl("https://sign.in/page".into()),
                Step::DeviceCode(code),
                Step::Succeeded(Box::default()),
            ];
            let steps = steps.map(|step| framed(&pb::AuthenticateProviderResponse { step: Some(step) }));
            answered(stream::iter(steps))
        }
        "ListProviders" => {
            let provider =
                pb::Provider { provider_id: "p".into(), configured: true, ..pb::Provider::default() };
            one(&pb::ListProvidersResponse { providers: vec![provider] })
        }
        "GetSession" => one(&pb::GetSessionResponse { session: Some(session()) }),
        "CallTool" => answered(stream::pending()),
        "StartTurn" => one(&pb::StartTurnResponse::default()),
        "CancelTurn" => one(&pb::CancelTurnResponse::default()),
        _ => Status::unimplemented("not in the script").into_http(),
    }
}

/// The two ends of the script, and an editor at it.
struct Stage {
    connection: Connection,
    events: mpsc::Sender<pb::SessionEvent>,
    calls: mpsc::Sender<pb::AttachHostResponse>,
    attached: mpsc::Receiver<pb::AttachHostRequest>,
    completed: mpsc::Receiver<pb::CompleteHostCallRequest>,
    answers: mpsc::Receiver<pb::RespondToInteractionRequest>,
    reports: mpsc::Receiver<pb::ReportHostProgressRequest>,
    sequence: i64,
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.unwrap_or_else(|_| panic!("no {what}"))
}

impl Stage {
    /// An editor with these capabilities, in the session `s`.
    async fn new(capabilities: Value) -> Self {
        let (events, event_receiver) = mpsc::channel(16);
        let (calls, call_receiver) = mpsc::channel(16);
        let (attached_sender, attached) = mpsc::channel(16);
        let (completed_sender, completed) = mpsc::channel(16);
        let (answer_sender, answers) = mpsc::channel(16);
        let (report_sender, reports) = mpsc::channel(16);
        let script = Arc::new(Script {
            events: Mutex::new(Some(event_receiver)),
            calls: Mutex::new(Some(call_receiver)),
            attached: attached_sender,
            completed: completed_sender,
            answers: answer_sender,
            reports: report_sender,
        });
        let service = tower::service_fn(move |request| {
            let script = script.clone();
            async move { Ok::<_, gander_client::BoxError>(serve(script, request).await) }
        });
        let service: LocalService = BoxCloneSyncService::new(service);
        let client = gander_client::Client::connect(Endpoint::Local(service), ClientOptions::new("test"));
        let connection = Connection::new(client.await.expect("a client"), Options::default());
        let mut stage =
            Self { connection, events, calls, attached, completed, answers, reports, sequence: 1 };
        stage.send(json!({"id": 0, "method": "initialize", "params": {"protocolVersion": 1, "clientCapabilities": capabilities}})).await;
        stage.next().await;
        stage
            .send(json!({"id": 1, "method": "session/new", "params": {"cwd": "/w", "mcpServers": []}}))
            .await;
        let created = stage.next().await;
        assert_eq!(created["result"]["sessionId"], "s", "{created}");
        stage
    }

    async fn send(&mut self, message: Value) {
        soon("room", self.connection.receive(&message.to_string())).await;
    }

    async fn next(&mut self) -> Value {
        let frame = soon("message", self.connection.next()).await.expect("not the end");
        serde_json::from_str(&frame.json).expect("JSON")
    }

    async fn asked(&mut self, method: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["method"] == method {
                return message;
            }
        }
    }

    async fn answer(&mut self, request: &Value, result: Value) {
        self.send(json!({"id": request["id"], "result": result})).await;
    }

    async fn event(&mut self, payload: Payload) {
        self.sequence += 1;
        let event = pb::SessionEvent {
            sequence: self.sequence,
            session_id: "s".into(),
            payload: Some(payload),
            ..pb::SessionEvent::default()
        };
        self.events.send(event).await.expect("watched");
    }

    async fn call(&mut self, id: &str, call: host_call::Call) {
        let call = pb::HostCall {
            host_call_id: id.into(),
            session_id: "s".into(),
            call: Some(call),
            ..pb::HostCall::default()
        };
        let payload = Some(attach_host_response::Payload::Call(call));
        self.calls.send(pb::AttachHostResponse { payload }).await.expect("attached");
    }

    async fn outcome(&mut self) -> Outcome {
        soon("result", self.completed.recv()).await.expect("a result").outcome.expect("an outcome")
    }

    /// Waits until the daemon has taken the first prompt.
    async fn started(&self) {
        soon("start", async {
            while !self.connection.inner.state().prompts[0].started {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn asks(&mut self, question: pb::interaction::Question) {
        let interaction = pb::Interaction {
            interaction_id: "i".into(),
            session_id: "s".into(),
            state: pb::InteractionState::Pending as i32,
            question: Some(question),
            ..pb::Interaction::default()
        };
        let requested = pb::InteractionRequested { interaction: Some(interaction) };
        self.event(Payload::InteractionRequested(Box::new(requested))).await;
    }

    async fn resolved(&mut self) {
        let resolved =
            pb::InteractionResolved { interaction_id: "i".into(), ..pb::InteractionResolved::default() };
        self.event(Payload::InteractionResolved(Box::new(resolved))).await;
    }
}

#[tokio::test]
async fn the_editor_reads_and_writes_files_for_the_daemon() {
    let mut stage = Stage::new(json!({"fs": {"readTextFile": true, "writeTextFile": true}})).await;
    let attached = soon("host", stage.attached.recv()).await.expect("attached");
    let capabilities = attached.capabilities.expect("capabilities");
    assert!(capabilities.fs_read && capabilities.fs_write && !capabilities.terminal);

    stage
        .call("1", host_call::Call::FsRead(pb::FsRead { path: "/w/a.rs".into(), line: Some(2), limit: None }))
        .await;
    let asked = stage.asked("fs/read_text_file").await;
    assert_eq!(asked["params"], json!({"sessionId": "s", "path": "/w/a.rs", "line": 2}));
    stage.answer(&asked, json!({"content": "unsaved"})).await;
    assert_eq!(stage.outcome().await, Outcome::FsRead(pb::FsReadResult { text: "unsaved".into() }));

    stage
        .call("2", host_call::Call::FsWrite(pb::FsWrite { path: "/w/a.rs".into(), text: "new".into() }))
        .await;
    let asked = stage.asked("fs/write_text_file").await;
    assert_eq!(asked["params"], json!({"sessionId": "s", "path": "/w/a.rs", "content": "new"}));
    stage.answer(&asked, Value::Null).await;
    assert_eq!(stage.outcome().await, Outcome::FsWrite(pb::FsWriteResult {}));

    // A refusal of the editor's is an error of the call.
    stage.call("3", host_call::Call::FsRead(pb::FsRead { path: "/x".into(), line: None, limit: None })).await;
    let asked = stage.asked("fs/read_text_file").await;
    stage.send(json!({"id": asked["id"], "error": {"code": -32002, "message": "no such file"}})).await;
    assert!(matches!(stage.outcome().await, Outcome::Error(error) if error.message == "no such file"));
}

#[tokio::test]
async fn the_editor_runs_commands_and_every_terminal_is_released() {
    let mut stage = Stage::new(json!({"terminal": true})).await;
    let run = || {
        host_call::Call::TerminalRun(pb::TerminalRun {
            argv: vec!["make".into(), "all".into()],
            cwd: "/w".into(),
            env: [("A".to_owned(), "1".to_owned())].into(),
            output_limit: Some(99),
        })
    };
    stage.call("1", run()).await;
    let asked = stage.asked("terminal/create").await;
    assert_eq!(
        asked["params"],
        json!({"sessionId": "s", "command": "make", "args": ["all"], "env": [{"name": "A", "value": "1"}],
            "cwd": "/w", "outputByteLimit": 99})
    );
    stage.answer(&asked, json!({"terminalId": "t"})).await;
    let asked = stage.asked("terminal/wait_for_exit").await;
    stage.answer(&asked, json!({"exitCode": 2})).await;
    let asked = stage.asked("terminal/output").await;
    stage.answer(&asked, json!({"output": "made", "truncated": false})).await;
    let asked = stage.asked("terminal/release").await;
    assert_eq!(asked["params"]["terminalId"], "t");
    stage.answer(&asked, json!({})).await;
    let wanted = pb::TerminalRunResult {
        output: "made".into(),
        truncated: false,
        exit_code: Some(2),
        signal: String::new(),
        terminal_id: "t".into(),
    };
    assert_eq!(stage.outcome().await, Outcome::TerminalRun(wanted));

    // Withdrawn while it runs: killed, released, and not answered.
    stage.call("2", run()).await;
    let asked = stage.asked("terminal/create").await;
    stage.answer(&asked, json!({"terminalId": "u"})).await;
    stage.asked("terminal/wait_for_exit").await;
    let withdrawn = pb::HostCallWithdrawn { host_call_id: "2".into(), cause: None };
    let payload = Some(attach_host_response::Payload::Withdrawn(withdrawn));
    stage.calls.send(pb::AttachHostResponse { payload }).await.expect("attached");
    let asked = stage.asked("terminal/kill").await;
    assert_eq!(asked["params"]["terminalId"], "u");
    stage.answer(&asked, json!({})).await;
    let asked = stage.asked("terminal/release").await;
    stage.answer(&asked, json!({})).await;
    stage.call("3", host_call::Call::FsRead(pb::FsRead::default())).await;
    let asked = stage.asked("fs/read_text_file").await;
    stage.answer(&asked, json!({"content": ""})).await;
    assert_eq!(
        stage.outcome().await,
        Outcome::FsRead(pb::FsReadResult::default()),
        "the withdrawn one has none"
    );
}

#[tokio::test]
async fn a_page_is_shown_and_done_when_the_asker_says_so() {
    for purpose in [pb::UrlPurpose::Oauth, pb::UrlPurpose::Elicitation] {
        let mut stage = Stage::new(json!({"elicitation": {"url": {}}})).await;
        let page = pb::interaction::Question::OpenUrl(pb::UrlQuestion {
            purpose: purpose as i32,
            extension_name: "mail".into(),
            url: "https://sign.in".into(),
            message: "Sign in, please.".into(),
            ..pb::UrlQuestion::default()
        });
        stage.asks(page).await;
        let asked = stage.asked("elicitation/create").await;
        assert_eq!(
            asked["params"],
            json!({"sessionId": "s", "mode": "url", "elicitationId": "i", "url": "https://sign.in",
                "message": "Sign in, please."})
        );
        stage.answer(&asked, json!({"action": "accept"})).await;
        if purpose == pb::UrlPurpose::Elicitation {
            let answer = soon("answer", stage.answers.recv()).await.expect("an answer");
            assert_eq!(answer.interaction_id, "i");
        }
        stage.resolved().await;
        assert_eq!(stage.asked("elicitation/complete").await["params"], json!({"elicitationId": "i"}));
        // Who signs in takes a while: that the page was opened does not end the waiting for the browser.
        assert!(stage.answers.try_recv().is_err(), "{purpose:?}");
    }
}

#[tokio::test]
async fn who_cannot_be_asked_is_told_in_words() {
    let mut stage = Stage::new(json!({})).await;
    stage
        .asks(pb::interaction::Question::OpenUrl(pb::UrlQuestion {
            url: "https://sign.in".into(),
            ..pb::UrlQuestion::default()
        }))
        .await;
    let told = stage.asked("session/update").await;
    assert!(told.to_string().contains("https://sign.in"), "{told}");
}

fn form() -> pb::interaction::Question {
    pb::interaction::Question::ElicitForm(pb::FormQuestion {
        message: "Your name?".into(),
        schema_json: r#"{"type":"object","properties":{"name":{"type":"string"}}}"#.into(),
        ..pb::FormQuestion::default()
    })
}

#[tokio::test]
async fn a_client_made_for_goose_gets_forms_in_gooses_way_and_answers_with_a_request() {
    let mut stage = Stage::new(json!({"_meta": {"goose": {"customNotifications": true}}})).await;
    let method = "_goose/unstable/session/update";
    for (data, action, content) in [
        (json!({"name": "Ada"}), pb::FormAction::Accept, r#"{"name":"Ada"}"#),
        (Value::Null, pb::FormAction::Cancel, ""),
    ] {
        stage.asks(form()).await;
        let shown = stage.asked(method).await;
        assert_eq!(
            shown["params"],
            json!({"sessionId": "s", "update": {"sessionUpdate": "interaction_update", "interaction": {
                "type": "elicitation", "id": "i", "state": "pending", "message": "Your name?",
                "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
            }}})
        );
        let respond = json!({"sessionId": "s", "elicitationId": "i", "userData": data});
        stage
            .send(json!({"id": "r", "method": "_goose/unstable/elicitation/respond", "params": respond}))
            .await;
        let answer =
            soon("answer", stage.answers.recv()).await.expect("an answer").answer.expect("an answer");
        let Some(pb::interaction_answer::Answer::Form(form)) = answer.answer else { panic!("{answer:?}") };
        assert_eq!((form.action(), form.content_json.as_str()), (action, content));
        stage.resolved().await;
        let mut settled = Value::Null;
        while settled.is_null() {
            let message = stage.next().await;
            if message["method"] == method {
                settled = message["params"]["update"]["interaction"].clone();
            }
        }
        assert_eq!(settled, json!({"type": "elicitation", "id": "i", "state": "submitted"}));
    }
    // Whoever knows the protocol's own way is asked in that one alone.
    let both = json!({"_meta": {"goose": {"customNotifications": true}}, "elicitation": {"form": {}}});
    let mut stage = Stage::new(both).await;
    stage.asks(form()).await;
    let next = stage.asked("elicitation/create").await;
    assert_eq!(next["params"]["mode"], "form");
}

#[tokio::test]
async fn signing_in_has_the_client_open_pages_until_it_is_done() {
    let method = "_goose/unstable/providers/config/authenticate";
    let mut stage = Stage::new(json!({"elicitation": {"url": {}}})).await;
    stage.send(json!({"id": "in", "method": method, "params": {"providerId": "p"}})).await;
    let mut pages = Vec::new();
    for (url, words) in [("https://sign.in/page", "Sign in"), ("https://sign.in/device", "AB-12")] {
        let page = stage.asked("elicitation/create").await;
        let params = &page["params"];
        assert_eq!(
            (&params["url"], &params["mode"], &params["requestId"]),
            (&json!(url), &json!("url"), &json!("in"))
        );
        assert!(params["message"].as_str().expect("text").contains(words), "{params}");
        pages.push(params["elicitationId"].clone());
        stage.answer(&page, json!({"action": "accept"})).await;
    }
    for page in pages {
        assert_eq!(stage.asked("elicitation/complete").await["params"]["elicitationId"], page);
    }
    let status = json!({"providerId": "p", "isConfigured": true});
    assert_eq!(stage.next().await["result"]["status"], status);

    stage.send(json!({"id": "no", "method": method, "params": {"providerId": "p"}})).await;
    let page = stage.asked("elicitation/create").await;
    stage.answer(&page, json!({"action": "decline"})).await;
    assert_eq!(stage.next().await["error"]["code"], -32800);

    // Without pages the person is told what to open.
    let mut stage = Stage::new(json!({})).await;
    stage.send(json!({"id": "in", "method": method, "params": {"providerId": "p"}})).await;
    let mut refused = stage.next().await;
    while refused["id"] != "in" {
        refused = stage.next().await;
    }
    assert_eq!(refused["error"]["data"]["url"], "https://sign.in/page", "{refused}");
    assert!(refused["error"]["message"].as_str().expect("text").contains("https://sign.in/page"));
}

#[tokio::test]
async fn sampling_is_asked_like_a_tool_call_and_withdrawn_when_it_is_settled_elsewhere() {
    let mut stage = Stage::new(json!({})).await;
    let text = pb::Part { body: Some(pb::part::Body::Text("tell me".into())), ..pb::Part::default() };
    let messages = vec![pb::PromptMessage { role: "user".into(), parts: vec![text] }];
    let question =
        pb::SamplingQuestion { extension_name: "mail".into(), messages, ..pb::SamplingQuestion::default() };
    stage.asks(pb::interaction::Question::Sampling(question)).await;
    let asked = stage.asked("session/request_permission").await;
    assert!(asked["params"]["toolCall"].to_string().contains("tell me"), "{asked}");
    stage.resolved().await;
    assert_eq!(stage.asked("$/cancel_request").await["params"]["requestId"], asked["id"]);
    let end = stage.asked("session/update").await;
    assert_eq!(end["params"]["update"]["status"], "completed");
    // Nothing was answered.
    assert!(stage.answers.try_recv().is_err());
}

#[tokio::test]
async fn a_question_that_the_client_cannot_show_stays_open() {
    let mut stage = Stage::new(json!({})).await;
    let option = pb::PermissionOption {
        option_id: "yes".into(),
        label: "Yes".into(),
        kind: 1,
        ..pb::PermissionOption::default()
    };
    let question = pb::PermissionQuestion {
        tool_call: Some(pb::ToolCall { name: "t".into(), ..pb::ToolCall::default() }),
        options: vec![option],
        ..pb::PermissionQuestion::default()
    };
    stage.asks(pb::interaction::Question::Permission(Box::new(question))).await;
    let asked = stage.asked("session/request_permission").await;
    assert_eq!(asked["params"]["options"], json!([{"optionId": "yes", "name": "Yes", "kind": "allow_once"}]));
    stage.send(json!({"id": asked["id"], "error": {"code": -32601, "message": "what?"}})).await;
    stage.resolved().await;
    // What follows is handled: the error was no answer and nothing is withdrawn that was answered.
    let title = pb::Session { title: "After".into(), ..session() };
    let updated = pb::SessionUpdated { session: Some(title), ..pb::SessionUpdated::default() };
    stage.event(Payload::SessionUpdated(Box::new(updated))).await;
    let next = stage.next().await;
    assert_eq!(next["params"]["update"]["title"], "After", "{next}");
    assert!(stage.answers.try_recv().is_err());
}

#[tokio::test]
async fn a_cancelled_prompt_is_cancelled_however_its_turn_ended() {
    for state in [pb::TurnState::Completed, pb::TurnState::Failed, pb::TurnState::Cancelled] {
        let mut stage = Stage::new(json!({})).await;
        let prompt = json!({"sessionId": "s", "prompt": [{"type": "text", "text": "x"}]});
        stage.send(json!({"id": 7, "method": "session/prompt", "params": prompt})).await;
        stage.started().await;
        stage.send(json!({"method": "session/cancel", "params": {"sessionId": "s"}})).await;
        let turn_id = stage.connection.inner.state().prompts[0].turn_id.clone();
        let turn = pb::Turn { turn_id, state: state as i32, ..pb::Turn::default() };
        stage.event(Payload::TurnEnded(Box::new(pb::TurnEnded { turn: Some(turn) }))).await;
        let answer = stage.next().await;
        assert_eq!(
            answer,
            json!({"jsonrpc": "2.0", "id": 7, "result": {"stopReason": "cancelled"}}),
            "{state:?}"
        );
    }
}

#[tokio::test]
async fn a_turn_that_is_interrupted_is_an_error_that_may_be_tried_again() {
    let mut stage = Stage::new(json!({})).await;
    let prompt = json!({"sessionId": "s", "prompt": [{"type": "text", "text": "x"}]});
    stage.send(json!({"id": 7, "method": "session/prompt", "params": prompt})).await;
    let turn_id = stage.connection.inner.state().prompts[0].turn_id.clone();
    let turn = pb::Turn { turn_id, state: pb::TurnState::Interrupted as i32, ..pb::Turn::default() };
    stage.event(Payload::TurnEnded(Box::new(pb::TurnEnded { turn: Some(turn) }))).await;
    let answer = stage.next().await;
    assert_eq!(answer["error"]["code"], -32603);
    assert_eq!(answer["error"]["data"], json!({"reason": "INTERRUPTED", "retryable": true}));
}

#[tokio::test]
async fn closing_ends_everything_of_the_connection() {
    let mut stage = Stage::new(json!({"terminal": true})).await;
    soon("host", stage.attached.recv()).await.expect("attached");
    stage.connection.close();
    assert_eq!(stage.connection.next().await, None);
    soon("end of the watch", stage.events.closed()).await;
    soon("end of the host", stage.calls.closed()).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_prompt_is_answered_even_if_its_turn_never_ends() {
    let mut stage = Stage::new(json!({})).await;
    let prompt = json!({"sessionId": "s", "prompt": [{"type": "text", "text": "x"}]});
    stage.send(json!({"id": 7, "method": "session/prompt", "params": prompt})).await;
    stage.started().await;
    stage.send(json!({"method": "session/cancel", "params": {"sessionId": "s"}})).await;
    let begin = tokio::time::Instant::now();
    let answer = stage.next().await;
    assert_eq!(answer["result"], json!({"stopReason": "cancelled"}));
    assert!(begin.elapsed() >= super::prompt::CANCEL_DEADLINE);
    assert!(stage.connection.inner.state().prompts.is_empty());
}

#[tokio::test]
async fn every_request_has_one_answer_whatever_it_says() {
    let mut stage = Stage::new(json!({"elicitation": {"form": {}}})).await;
    let methods = [
        "initialize",
        "authenticate",
        "logout",
        "session/new",
        "session/load",
        "session/resume",
        "session/list",
        "session/close",
        "session/delete",
        "session/prompt",
        "session/set_mode",
        "session/set_config_option",
        "session/set_model",
        "session/fork",
        "session/set_title",
        "session/archive",
        "session/status",
        "session/cancel",
        "_session/steering",
        "_goose/unstable/tools/call",
        "_goose/unstable/session/import",
        "_goose/unstable/config/upsert",
        "_goose/unstable/providers/config/save",
        "",
        "a",
        "_goose/",
        "$/x",
    ];
    let wrong = [
        json!(null),
        json!([]),
        json!([{}]),
        json!(5),
        json!("text"),
        json!({}),
        json!({"sessionId": 5}),
        json!({"sessionId": ""}),
        json!({"sessionId": {"deep": []}}),
        json!({"cwd": 1, "mcpServers": "x"}),
        json!({"sessionId": "\u{0}", "prompt": [[]]}),
        json!({"cwd": "/w", "mcpServers": [5, null, [], {"name": []}]}),
        json!({"protocolVersion": [], "clientCapabilities": 5}),
    ];
    let mut number = 100;
    for method in methods {
        for params in &wrong {
            number += 1;
            let id = if number % 2 == 0 { json!(number) } else { json!(format!("id-{number}")) };
            stage.send(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
            let answer = loop {
                let message = stage.next().await;
                if message.get("method").is_none() {
                    break message;
                }
            };
            assert_eq!(answer["id"], id, "{method} {params}: {answer}");
            let error =
                answer.get("error").map(|error| error["code"].is_i64() && error["message"].is_string());
            assert!(answer.get("result").is_some() != error.is_some() && error != Some(false), "{answer}");
        }
    }
    soon("end of the work", async {
        while !stage.connection.inner.state().working.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_session_that_is_closed_takes_its_question_down() {
    let mut stage = Stage::new(json!({})).await;
    let question = pb::PermissionQuestion {
        tool_call: Some(pb::ToolCall { name: "t".into(), ..pb::ToolCall::default() }),
        ..pb::PermissionQuestion::default()
    };
    stage.asks(pb::interaction::Question::Permission(Box::new(question))).await;
    let asked = stage.asked("session/request_permission").await;
    stage.send(json!({"id": 9, "method": "session/close", "params": {"sessionId": "s"}})).await;
    let withdrawn = stage.asked("$/cancel_request").await;
    assert_eq!(withdrawn["params"]["requestId"], asked["id"]);
    assert_eq!(stage.next().await["id"], 9);
    // Late, and to nobody: no answer of the person's.
    stage.answer(&asked, json!({"outcome": {"outcome": "selected", "optionId": "x"}})).await;
    assert!(stage.answers.try_recv().is_err());
    assert!(stage.connection.inner.state().asked.is_empty());
}

#[tokio::test]
async fn an_id_is_used_for_one_request_at_a_time() {
    let mut stage = Stage::new(json!({})).await;
    let prompt = json!({"sessionId": "s", "prompt": [{"type": "text", "text": "x"}]});
    stage.send(json!({"id": "a", "method": "session/prompt", "params": prompt})).await;
    stage.send(json!({"id": "a", "method": "session/prompt", "params": prompt})).await;
    let refused = stage.next().await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("a"), &json!(-32600)));
    stage.send(json!({"method": "$/cancel_request", "params": {"requestId": "a"}})).await;
    let turn_id = stage.connection.inner.state().prompts[0].turn_id.clone();
    let turn = pb::Turn { turn_id, ..pb::Turn::default() };
    stage.event(Payload::TurnEnded(Box::new(pb::TurnEnded { turn: Some(turn) }))).await;
    let answer = stage.next().await;
    assert_eq!(answer, json!({"jsonrpc": "2.0", "id": "a", "result": {"stopReason": "cancelled"}}));
}

#[tokio::test]
async fn a_long_tool_call_holds_up_no_prompt_and_is_cancelled_by_its_id() {
    let mut stage = Stage::new(json!({})).await;
    let call = json!({"sessionId": "s", "name": "t"});
    stage.send(json!({"id": 5, "method": "_goose/unstable/tools/call", "params": call})).await;
    let prompt = json!({"sessionId": "s", "prompt": [{"type": "text", "text": "x"}]});
    stage.send(json!({"id": 6, "method": "session/prompt", "params": prompt})).await;
    stage.started().await;
    stage.send(json!({"method": "$/cancel_request", "params": {"requestId": 5}})).await;
    let answer = stage.next().await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(5), &json!(-32800)));
}

#[tokio::test]
async fn a_prompt_that_is_cancelled_before_it_began_is_answered_at_once() {
    let mut stage = Stage::new(json!({})).await;
    let prompt = json!({"sessionId": "s", "prompt": [{"type": "text", "text": "x"}]});
    stage.send(json!({"id": 7, "method": "session/prompt", "params": prompt})).await;
    stage.send(json!({"method": "session/cancel", "params": {"sessionId": "s"}})).await;
    let answer = stage.next().await;
    assert_eq!(answer["result"], json!({"stopReason": "cancelled"}));
    assert!(stage.connection.inner.state().prompts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_more_is_asked_no_more() {
    let mut stage = Stage::new(json!({"elicitation": {"form": {}}})).await;
    let question = pb::PermissionQuestion {
        tool_call: Some(pb::ToolCall { name: "t".into(), ..pb::ToolCall::default() }),
        ..pb::PermissionQuestion::default()
    };
    stage.asks(pb::interaction::Question::Permission(Box::new(question))).await;
    stage.asked("session/request_permission").await;
    let prompt = json!({"sessionId": "s", "prompt": [{"type": "text", "text": "x"}]});
    stage.send(json!({"id": 6, "method": "session/prompt", "params": prompt})).await;
    let begin = tokio::time::Instant::now();
    soon("the end", stage.connection.finish()).await;
    assert!(begin.elapsed() < super::LAST_ANSWERS, "a running turn is not waited for");
    // The prompt reached the daemon before the end, and the question has no answer.
    assert!(stage.connection.inner.state().prompts[0].started);
    assert!(stage.answers.try_recv().is_err());
}
