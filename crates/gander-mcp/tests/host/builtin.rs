//! A server in this process, and the host on top of it.
#![allow(deprecated)]

use std::{
    borrow::Cow,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::{SinkExt as _, StreamExt as _};
use gander_domain::{
    ErrorReason,
    event::OutputStream,
    extension::{ExtensionOrigin, ExtensionState, ExtensionTransport},
    item::ToolOutcome,
};
use gander_mcp::{BuiltinConnection, CallProgress, HostEvent};
use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ClientJsonRpcMessage, ContentBlock,
        CustomNotification, ErrorCode, ListToolsResult, LoggingLevel, LoggingMessageNotificationParam,
        PaginatedRequestParams, ProgressNotificationParam, ServerCapabilities, ServerConfig,
        ServerJsonRpcMessage, ServerNotification, Tool,
    },
    service::RequestContext,
};
use serde_json::json;
use tokio::sync::{Barrier, Notify};
use tokio_util::sync::CancellationToken;

use crate::common::{PATIENCE, Session, config, request};

/// What tests see of the server, and what they tell it.
pub struct TestServer {
    extra_tool: Mutex<Option<&'static str>>,
    pub cancelled: Arc<Notify>,
    /// A call of `wait` has begun.
    pub started: Notify,
    /// Two calls of `together` meet here.
    meeting: Barrier,
    /// Ends the connection when cancelled.
    connection: Mutex<CancellationToken>,
}

impl Default for TestServer {
    fn default() -> Self {
        Self {
            extra_tool: Mutex::default(),
            cancelled: Arc::default(),
            started: Notify::new(),
            meeting: Barrier::new(2),
            connection: Mutex::default(),
        }
    }
}

impl TestServer {
    pub fn connect(self: &Arc<Self>) -> BuiltinConnection {
        let (client_sink, server_stream) = futures::channel::mpsc::channel::<ClientJsonRpcMessage>(64);
        let (server_sink, client_stream) = futures::channel::mpsc::channel::<ServerJsonRpcMessage>(64);
        let stop = CancellationToken::new();
        *self.connection.lock().unwrap() = stop.clone();
        let handler = Handler(Arc::clone(self));
        let guard = stop.clone().drop_guard();
        tokio::spawn(async move {
            let transport = (server_sink.sink_map_err(std::io::Error::other), server_stream);
            let service = handler.serve_with_ct(transport, stop).await.unwrap();
            let _ = service.waiting().await;
        });
        BuiltinConnection::new(
            client_sink.sink_map_err(std::io::Error::other),
            client_stream.map(|m| m),
            guard,
        )
    }

    /// Cancelled when the present connection is closed.
    fn connection(&self) -> CancellationToken {
        self.connection.lock().unwrap().clone()
    }

    fn drop_connection(&self) {
        self.connection.lock().unwrap().cancel();
    }
}

struct Handler(Arc<TestServer>);

fn tool(name: &'static str, schema: serde_json::Value) -> Tool {
    let serde_json::Value::Object(schema) = schema else { panic!("a schema") };
    Tool::new(name, Cow::Borrowed("for tests"), Arc::new(schema))
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_tool_list_changed().build();
        ServerConfig::new(capabilities).with_instructions("for tests")
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let any = || json!({"type": "object"});
        let mut tools = vec![
            tool(
                "echo",
                json!({"type": "object", "properties": {"n": {"type": "integer"}, "text": {"type": "string"}}}),
            ),
            tool("report", any()),
            tool("together", any()),
            tool("wait", any()),
            tool("structured", any()),
            tool("refuse", any()),
            tool("change", any()),
            tool("log", any()),
        ];
        tools.extend(self.0.extra_tool.lock().unwrap().map(|name| tool(name, any())));
        Ok(ListToolsResult::with_all_items(tools))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let token = context.meta.get_progress_token().unwrap();
        match request.name.as_ref() {
            "echo" => {
                let text = serde_json::Value::Object(arguments).to_string();
                let meta = serde_json::to_string(&context.meta).unwrap();
                return Ok(
                    CallToolResult::success(vec![ContentBlock::text(text), ContentBlock::text(meta)]).into()
                );
            }
            "report" => {
                for step in 0..300_u32 {
                    let progress = ProgressNotificationParam::new(token.clone(), f64::from(step))
                        .with_message("working");
                    context.peer.notify_progress(progress).await.unwrap();
                }
                let output = json!({"progressToken": token, "stream": "stderr", "text": "last\n"});
                let output = CustomNotification::new("notifications/gander/output", Some(output));
                context.peer.send_notification(ServerNotification::CustomNotification(output)).await.unwrap();
            }
            "together" => {
                self.0.meeting.wait().await;
                for _ in 0..50 {
                    let label = arguments["label"].as_str().unwrap();
                    let progress = ProgressNotificationParam::new(token.clone(), 0.0).with_message(label);
                    context.peer.notify_progress(progress).await.unwrap();
                }
            }
            "wait" => {
                self.0.started.notify_one();
                let progress = ProgressNotificationParam::new(token, 0.0).with_message("waiting");
                context.peer.notify_progress(progress).await.unwrap();
                context.ct.cancelled().await;
                self.0.cancelled.notify_one();
                std::future::pending::<()>().await;
            }
            "structured" => return Ok(CallToolResult::structured(json!({"answer": 42})).into()),
            "refuse" => return Err(ErrorData::new(ErrorCode(-32050), "not today", None)),
            "change" => {
                *self.0.extra_tool.lock().unwrap() = Some("extra");
                context.peer.notify_tool_list_changed().await.unwrap();
            }
            "log" => {
                let message = LoggingMessageNotificationParam::new(LoggingLevel::Warning, json!("hot"))
                    .with_logger("l");
                context.peer.notify_logging_message(message).await.unwrap();
            }
            _ => return Err(ErrorData::invalid_params("no such tool", None)),
        }
        Ok(CallToolResult::success(vec![ContentBlock::text("ok")]).into())
    }
}

async fn lab() -> Session {
    let session = Session::new();
    assert_eq!(session.add(config("Lab", ExtensionTransport::Builtin)).await, ExtensionState::Ready);
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builtin_is_listed_and_called() {
    let session = lab().await;
    let status = session.extensions.statuses().remove(0);
    assert_eq!((status.summary.key.as_str(), status.tool_count), ("lab", 8));
    assert_eq!(status.protocol_version, "2025-11-25");
    assert_eq!(status.instructions.as_deref(), Some("for tests"));
    let tool = session.extensions.find_tool("lab__echo").unwrap();
    assert!(tool.trusted && !session.extensions.is_client_tool("lab__echo"));
    let (mut call, _progress) = request("lab__echo", r#"{"n": "7", "text": "x"}"#);
    call.meta_json = Some(r#"{"traceparent": "t", "progressToken": "forged"}"#.to_owned());
    let result = session.extensions.call(call).await;
    assert_eq!(result.outcome, ToolOutcome::Ok, "{result:?}");
    let echoed: serde_json::Value = serde_json::from_str(result.parts[0].as_text().unwrap()).unwrap();
    assert_eq!(echoed, json!({"n": 7, "text": "x"}));
    let meta: serde_json::Value = serde_json::from_str(result.parts[1].as_text().unwrap()).unwrap();
    assert_eq!(meta["traceparent"], "t");
    assert_ne!(meta["progressToken"], "forged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_tells_its_server_where_it_belongs_in_a_trace() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let session = Session::with(|options| options.trace_context = Some(Arc::new(|| Some(PARENT.to_owned()))));
    session.add(config("lab", ExtensionTransport::Builtin)).await;
    let given = async |meta: Option<&str>| {
        let (mut call, _progress) = request("lab__echo", "{}");
        call.meta_json = meta.map(str::to_owned);
        let result = session.extensions.call(call).await;
        let meta: serde_json::Value = serde_json::from_str(result.parts[1].as_text().unwrap()).unwrap();
        meta["traceparent"].clone()
    };
    assert_eq!(given(None).await, PARENT);
    assert_eq!(given(Some(r#"{"traceparent": "the caller's own"}"#)).await, "the caller's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_outcomes() {
    let session = lab().await;
    for (name, arguments, outcome, reason, text) in [
        ("lab__echo", r#"{"n": "x"}"#, ToolOutcome::InvalidArguments, ErrorReason::InvalidField, "n: \"x\""),
        ("lab__none", "{}", ToolOutcome::ProtocolError, ErrorReason::ToolNotFound, "lab__echo"),
        ("lab__refuse", "{}", ToolOutcome::ProtocolError, ErrorReason::ExtensionUnavailable, "not today"),
    ] {
        let result = session.call(name, arguments).await;
        assert_eq!(result.outcome, outcome, "{result:?}");
        let error = result.error.unwrap();
        assert_eq!(error.reason, reason);
        assert!(error.message.contains(text), "{error}");
        assert!(result.is_error && !result.parts.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn structured_content_is_kept() {
    let result = lab().await.call("lab__structured", "").await;
    assert_eq!(result.structured_content_json.as_deref(), Some("{\"answer\":42}"));
    assert_eq!(result.outcome, ToolOutcome::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_report_comes_in_order_and_before_the_result() {
    let session = lab().await;
    for _ in 0..5 {
        let (call, mut progress) = request("lab__report", "{}");
        assert_eq!(session.extensions.call(call).await.outcome, ToolOutcome::Ok);
        for step in 0..300_u32 {
            let report = progress.try_recv().expect("reports are there when the call returns");
            let expected = CallProgress::Progress {
                progress: f64::from(step),
                total: None,
                message: Some("working".to_owned()),
            };
            assert_eq!(report, expected);
        }
        let output = CallProgress::Output { stream: OutputStream::Stderr, text: "last\n".to_owned() };
        assert_eq!(progress.try_recv().unwrap(), output);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_calls_see_only_their_own_reports() {
    let session = lab().await;
    let run = async |label: &str| {
        let (call, mut progress) = request("lab__together", &json!({"label": label}).to_string());
        let result = session.extensions.call(call).await;
        assert_eq!(result.outcome, ToolOutcome::Ok);
        let mut count = 0;
        while let Ok(CallProgress::Progress { message, .. }) = progress.try_recv() {
            assert_eq!(message.as_deref(), Some(label));
            count += 1;
        }
        count
    };
    assert_eq!(tokio::join!(run("a"), run("b")), (50, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_returns_at_once_and_reaches_the_server() {
    let session = lab().await;
    let (call, mut progress) = request("lab__wait", "{}");
    let cancel = call.cancel.clone();
    let cancelling = async {
        progress.recv().await.unwrap();
        cancel.cancel();
        Instant::now()
    };
    let (result, at) = tokio::join!(session.extensions.call(call), cancelling);
    assert!(at.elapsed() < Duration::from_millis(300));
    assert_eq!(result.outcome, ToolOutcome::Cancelled);
    tokio::time::timeout(PATIENCE, session.server.cancelled.notified()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_and_a_dropped_call_tell_the_server_to_stop() {
    let session = lab().await;
    let (mut call, _progress) = request("lab__wait", "{}");
    call.timeout = Some(Duration::from_millis(50));
    let result = session.extensions.call(call).await;
    assert_eq!(result.outcome, ToolOutcome::TimedOut);
    assert_eq!(result.error.unwrap().reason, ErrorReason::ToolTimedOut);
    assert!(result.duration_ms >= 50);
    tokio::time::timeout(PATIENCE, session.server.cancelled.notified()).await.unwrap();
    let (call, mut progress) = request("lab__wait", "{}");
    tokio::select! {
        _ = session.extensions.call(call) => panic!("it waits for ever"),
        report = progress.recv() => assert!(report.is_some()),
    }
    tokio::time::timeout(PATIENCE, session.server.cancelled.notified()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_list_is_fetched_and_reported() {
    let mut session = lab().await;
    session.call("lab__change", "{}").await;
    let change = loop {
        if let HostEvent::ListChanged(change) = session.event().await {
            break change;
        }
    };
    assert_eq!((change.extension_name.as_str(), change.list.as_str()), ("lab", "tools"));
    assert_eq!(
        (change.added, change.removed.len(), change.changed.len()),
        (vec!["lab__extra".to_owned()], 0, 0)
    );
    assert!(session.extensions.find_tool("lab__extra").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_message_of_no_call_is_an_event() {
    let mut session = lab().await;
    session.call("lab__log", "{}").await;
    loop {
        if let HostEvent::Notification { extension_name, level, logger, data_json } = session.event().await {
            assert_eq!((extension_name.as_str(), level.as_str()), ("lab", "warning"));
            assert_eq!((logger.as_str(), data_json.as_str()), ("l", "\"hot\""));
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_builtin_comes_back() {
    let mut session = lab().await;
    session.server.drop_connection();
    let change = session.change_to(ExtensionState::Restarting).await;
    assert_eq!((change.from, change.attempt), (Some(ExtensionState::Ready), 1));
    // The tools stay, and a call waits for the restart.
    assert_eq!(session.call("lab__structured", "").await.outcome, ToolOutcome::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_again_changes_nothing_unless_the_configuration_did() {
    let mut session = lab().await;
    let mut same = config("Lab", ExtensionTransport::Builtin);
    session.change_to(ExtensionState::Ready).await;
    assert_eq!(session.add(same.clone()).await, ExtensionState::Ready);
    assert!(session.events.is_empty(), "nothing was restarted");
    same.tool_allowlist = vec!["echo".to_owned()];
    assert_eq!(session.add(same).await, ExtensionState::Ready);
    session.change_to(ExtensionState::Stopped).await;
    session.change_to(ExtensionState::Ready).await;
    let names: Vec<String> = session.extensions.tools().into_iter().map(|tool| tool.name).collect();
    assert_eq!(names, ["lab__echo"]);
    assert!(session.extensions.remove("lab").await);
    assert!(!session.extensions.remove("lab").await);
    session.change_to(ExtensionState::Stopped).await;
    assert!(session.extensions.tools().is_empty());
    assert_eq!(session.call("lab__echo", "").await.error.unwrap().reason, ErrorReason::ToolNotFound);
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_with_a_remedy() {
    let session = Session::new();
    let stdio = |command: &str| ExtensionTransport::Stdio { command: command.to_owned(), args: Vec::new() };
    let sse = ExtensionTransport::Sse { uri: "http://x/sse".to_owned() };
    let python = ExtensionTransport::InlinePython { code: " ".to_owned(), dependencies: Vec::new() };
    let http = ExtensionTransport::StreamableHttp {
        uri: "ftp://x".to_owned(),
        headers: Default::default(),
        unix_socket: None,
    };
    for (name, transport, reason, text) in [
        ("x", sse, ErrorReason::ExtensionTypeUnsupported, "streamable_http"),
        ("x", python, ErrorReason::ExtensionConfigInvalid, "code"),
        ("x", ExtensionTransport::Platform, ErrorReason::ExtensionTypeUnsupported, "platform"),
        (
            "x",
            ExtensionTransport::Unknown { kind: "q".into() },
            ErrorReason::ExtensionTypeUnsupported,
            "\"q\"",
        ),
        ("x", ExtensionTransport::Builtin, ErrorReason::ExtensionConfigInvalid, "lab"),
        ("x", stdio(" "), ErrorReason::ExtensionConfigInvalid, "cmd"),
        ("x", stdio("a\nb"), ErrorReason::ExtensionConfigInvalid, "line breaks"),
        (" ", stdio("a"), ErrorReason::ExtensionConfigInvalid, "name"),
        ("x", http, ErrorReason::ExtensionConfigInvalid, "http"),
    ] {
        let result =
            session.extensions.add(config(name, transport), ExtensionOrigin::Config, Default::default());
        let error = result.unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        assert!(error.message.contains(text), "{error}");
    }
    let mut env = config("x", stdio("a"));
    env.env.insert("ld_preload".to_owned(), "/tmp/x.so".to_owned());
    let error = session.extensions.add(env, ExtensionOrigin::Config, Default::default()).unwrap_err();
    assert_eq!(error.reason, ErrorReason::EnvKeyDisallowed);
    let mut secret = config("x", stdio("a"));
    secret.env_keys = vec!["NEEDED".to_owned()];
    let error = session.extensions.add(secret, ExtensionOrigin::Config, Default::default()).unwrap_err();
    assert_eq!(error.reason, ErrorReason::SecretMissing);
    assert!(error.message.contains("NEEDED"));
    assert!(session.extensions.statuses().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builtin_that_nobody_uses_is_closed_and_made_again_without_a_word() {
    let mut session = Session::with(|options| options.builtin_idle = Some(Duration::from_millis(20)));
    let lab = || config("lab", ExtensionTransport::Builtin);
    assert_eq!(session.add(lab()).await, ExtensionState::Ready);
    session.change_to(ExtensionState::Ready).await;
    for _ in 0..3 {
        let closed = session.server.connection();
        tokio::time::timeout(PATIENCE, closed.cancelled()).await.expect("closed for idleness");
        let status = session.extensions.statuses().remove(0);
        assert_eq!((status.state, status.tool_count), (ExtensionState::Ready, 8));
        let calls = (0..8).map(|_| session.call("lab__echo", "{}"));
        for result in futures::future::join_all(calls).await {
            assert_eq!(result.outcome, ToolOutcome::Ok, "{result:?}");
        }
    }
    // A call in flight keeps it.
    let (call, _reports) = request("lab__wait", "{}");
    let cancel = call.cancel.clone();
    let waiting = async {
        session.server.started.notified().await;
        let closed = session.server.connection();
        let early = tokio::time::timeout(Duration::from_millis(200), closed.cancelled()).await;
        cancel.cancel();
        early.is_err()
    };
    let (result, kept) = tokio::join!(session.extensions.call(call), waiting);
    assert!(kept && result.outcome == ToolOutcome::Cancelled, "{result:?}");
    let closed = session.server.connection();
    tokio::time::timeout(PATIENCE, closed.cancelled()).await.expect("closed for idleness");
    assert!(session.events.try_recv().is_err(), "none of this is news");
    session.extensions.restart("lab").await.unwrap();
    assert!(session.extensions.remove("lab").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builtin_has_the_time_that_its_caller_allows() {
    let session = Session::with(|options| options.call_timeout = Duration::from_millis(10));
    assert_eq!(session.add(config("lab", ExtensionTransport::Builtin)).await, ExtensionState::Ready);
    let (call, _reports) = request("lab__wait", "{}");
    let cancel = call.cancel.clone();
    let mut result = std::pin::pin!(session.extensions.call(call));
    tokio::select! {
        result = &mut result => panic!("cut: {result:?}"),
        () = tokio::time::sleep(Duration::from_millis(300)) => {}
    }
    cancel.cancel();
    assert_eq!(result.await.outcome, ToolOutcome::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builtin_knows_the_tool_call_that_it_works_on_from_the_engine_only() {
    let session = lab().await;
    let key = gander_mcp::ITEM_META_KEY;
    let forged = json!({ key: "forged", "other": 1 }).to_string();
    for (item_id, wanted) in [(Some("item-1"), json!("item-1")), (None, serde_json::Value::Null)] {
        let (mut call, _reports) = request("lab__echo", "{}");
        call.meta_json = Some(forged.clone());
        call.item_id = item_id.map(|id| gander_domain::ItemId::new(id).unwrap());
        let result = session.extensions.call(call).await;
        let meta: serde_json::Value = serde_json::from_str(result.parts[1].as_text().unwrap()).unwrap();
        assert_eq!((&meta[key], &meta["other"]), (&wanted, &json!(1)), "{meta}");
    }
}

#[tokio::test]
async fn client_tools_are_listed_and_need_a_host() {
    let session = Session::new();
    let given = serde_json::from_value(json!({
        "name": "pick", "extension_name": "", "tool_name": "pick", "description": "d", "input_schema_json": "{}"
    }))
    .unwrap();
    let transport = ExtensionTransport::Client { tools: vec![given], instructions: Some("ask".to_owned()) };
    assert_eq!(session.add(config("desk", transport)).await, ExtensionState::Ready);
    assert!(session.extensions.is_client_tool("desk__pick"));
    let result = session.call("desk__pick", "{}").await;
    assert_eq!(result.outcome, ToolOutcome::ProtocolError);
    assert!(result.error.unwrap().message.contains("no host is attached"));
    let error = session.extensions.list_prompts("desk").await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::CapabilityMissing);
}
