//! Client under test of the official MCP conformance suite: `conformance SERVER_URL`.
//!
//! The suite's environment brings the revision, the context and the name of the scenario; only the one about client
//! credentials is treated as itself. The driver adds the server to a session, lists and calls the tools that the
//! context names (or all, with arguments made from their schemas), answers questions with the schemas' defaults, and
//! authorizes without a browser.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program for tests; the suite speaks through the environment"
)]

use std::{
    collections::{BTreeMap, HashMap},
    env,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use gander_domain::{
    ErrorDetail, ErrorReason, SessionId,
    extension::{
        ExtensionConfig, ExtensionOrigin, ExtensionState, ExtensionTransport, ProtocolEra, SamplingPolicy,
    },
    item::ToolOutcome,
};
use gander_mcp::{
    AuthorizeAnswer, AuthorizeRequest, BuiltinConnection, BuiltinFactory, CallRequest, ElicitAnswer,
    ElicitKind, ElicitRequest, HostEvent, HostOptions, McpHost, Root, SampleRequest, SampleResult,
    SessionClient, SessionContext, SessionExtensions,
};
use gander_process::ToolProcesses;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The suite ends a client after 30 s.
const PATIENCE: Duration = Duration::from_secs(20);

struct NoBuiltins;

impl BuiltinFactory for NoBuiltins {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn connect(
        &self,
        name: &str,
        _: &SessionContext,
        _: &Arc<dyn SessionClient>,
    ) -> Result<BuiltinConnection, ErrorDetail> {
        Err(ErrorDetail::new(ErrorReason::ExtensionNotFound, format!("no builtin {name}")))
    }
}

/// Accepts everything, with defaults.
struct Headless {
    http: reqwest::Client,
    credentials: Mutex<HashMap<String, String>>,
}

impl Headless {
    async fn redirect(&self, url: &str) -> Option<String> {
        let response = self.http.get(url).send().await.ok()?;
        let location = response.headers().get("location")?.to_str().ok()?;
        Some(response.url().join(location).ok()?.to_string())
    }
}

/// Every default of a form's schema.
fn defaults(schema_json: &str) -> Map<String, Value> {
    let schema: Value = serde_json::from_str(schema_json).unwrap_or_default();
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.filter_map(|(name, field)| Some((name.clone(), field.get("default")?.clone()))).collect()
}

impl SessionClient for Headless {
    fn elicit(&self, request: ElicitRequest) -> BoxFuture<'_, ElicitAnswer> {
        let content_json = match request.kind {
            ElicitKind::Form { schema_json } => Some(Value::Object(defaults(&schema_json)).to_string()),
            ElicitKind::Url { .. } => None,
        };
        Box::pin(std::future::ready(ElicitAnswer::Accept { content_json }))
    }

    fn allows_sampling(&self, _: &str) -> bool {
        false
    }

    fn sample(&self, _: SampleRequest) -> BoxFuture<'_, Result<SampleResult, ErrorDetail>> {
        let error = ErrorDetail::new(ErrorReason::CapabilityMissing, "no model");
        Box::pin(std::future::ready(Err(error)))
    }

    fn roots(&self) -> Vec<Root> {
        Vec::new()
    }

    fn authorize(&self, request: AuthorizeRequest) -> BoxFuture<'_, AuthorizeAnswer> {
        Box::pin(async move {
            match self.redirect(&request.url).await {
                Some(url) => AuthorizeAnswer::Done { callback_url: Some(url) },
                None => AuthorizeAnswer::Declined,
            }
        })
    }

    fn load_credentials(&self, key: &str) -> Option<String> {
        self.credentials.lock().unwrap().get(key).cloned()
    }

    fn store_credentials(&self, key: &str, body: Option<String>) {
        let mut credentials = self.credentials.lock().unwrap();
        match body {
            Some(body) => credentials.insert(key.to_owned(), body),
            None => credentials.remove(key),
        };
    }
}

/// A value of the type that a schema names.
fn sample(schema: &Value) -> Value {
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.first().cloned().unwrap_or_default(),
        kind => kind.clone(),
    };
    match kind.as_str() {
        Some("number" | "integer") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("object") => json!({}),
        _ => json!("test"),
    }
}

/// The required arguments of a tool.
fn arguments(schema_json: &str) -> Value {
    let schema: Value = serde_json::from_str(schema_json).unwrap_or_default();
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    required.map(|name| (name.to_owned(), sample(&schema["properties"][name]))).collect::<Map<_, _>>().into()
}

fn config(uri: String, context: &Value, era: ProtocolEra) -> ExtensionConfig {
    let mut env = BTreeMap::from([(
        "MCP_OAUTH_CLIENT_METADATA_URL".to_owned(),
        "https://conformance-test.local/client-metadata.json".to_owned(),
    )]);
    for (field, name) in [("client_id", "MCP_OAUTH_CLIENT_ID"), ("client_secret", "MCP_OAUTH_CLIENT_SECRET")]
    {
        if let Some(value) = context[field].as_str() {
            env.insert(name.to_owned(), value.to_owned());
        }
    }
    let scenario = env::var("MCP_CONFORMANCE_SCENARIO").unwrap_or_default();
    if scenario.contains("client-credentials") {
        env.insert("MCP_OAUTH_GRANT".to_owned(), "client_credentials".to_owned());
    }
    ExtensionConfig {
        name: "suite".to_owned(),
        transport: ExtensionTransport::StreamableHttp { uri, headers: BTreeMap::new(), unix_socket: None },
        description: String::new(),
        display_name: None,
        bundled: false,
        timeout_ms: Some(15_000),
        tool_allowlist: Vec::new(),
        env,
        env_keys: Vec::new(),
        exec_prefix: Vec::new(),
        protocol: era,
        sampling: SamplingPolicy::Off,
        sandbox: None,
        pin_definitions: false,
        unknown_json: None,
    }
}

/// Waits until the server is ready or will not be.
async fn ready(extensions: &SessionExtensions, events: &mut mpsc::Receiver<HostEvent>) -> Result<(), String> {
    loop {
        let status = extensions.statuses().remove(0);
        let asked = status.error.as_ref().is_some_and(|error| error.metadata.contains_key("authorization"));
        match status.state {
            ExtensionState::Ready | ExtensionState::Degraded => return Ok(()),
            ExtensionState::NeedsAuth if asked => {}
            ExtensionState::Failed | ExtensionState::NeedsAuth | ExtensionState::Stopped => {
                return Err(status.error.map_or(status.cause, |error| error.message));
            }
            ExtensionState::Starting | ExtensionState::Restarting => {}
        }
        events.recv().await.ok_or("the session ended")?;
    }
}

/// A tool that wants to see another tool's schema as this client sees it, and that schema.
fn schema_to_echo(extensions: &SessionExtensions) -> Option<(String, Value)> {
    let tools = extensions.tools();
    let echo = tools.iter().find(|tool| tool.tool_name == "json_schema_echo")?;
    let shown = tools.iter().find(|tool| tool.tool_name == "json_schema_2020_12_tool")?;
    Some((echo.name.clone(), serde_json::from_str(&shown.input_schema_json).ok()?))
}

/// The suite's calls, or one of every tool.
fn calls(extensions: &SessionExtensions, context: &Value) -> Vec<(String, String)> {
    let listed = context["toolCalls"].as_array().or_else(|| context["tool_calls"].as_array());
    match listed {
        Some(listed) => listed
            .iter()
            .map(|call| {
                let name = call["name"].as_str().unwrap_or_default();
                let arguments = call.get("arguments").filter(|arguments| arguments.is_object());
                (format!("suite__{name}"), arguments.map(Value::to_string).unwrap_or_default())
            })
            .collect(),
        None => extensions
            .tools()
            .iter()
            .map(|tool| (tool.name.clone(), arguments(&tool.input_schema_json).to_string()))
            .collect(),
    }
}

async fn call(extensions: &SessionExtensions, name: String, arguments_json: String) -> Result<(), String> {
    let (progress, _reports) = mpsc::channel(64);
    let request = CallRequest {
        name: name.clone(),
        arguments_json,
        cancel: CancellationToken::new(),
        progress,
        timeout: None,
        meta_json: None,
    };
    let result = extensions.call(request).await;
    eprintln!("{name}: {:?} {:?}", result.outcome, result.error.as_ref().map(|error| &error.message));
    match result.outcome {
        ToolOutcome::Ok | ToolOutcome::ToolError => Ok(()),
        // The server was asked and answered, which is all that some scenarios are about.
        _ if result.error.as_ref().is_some_and(|error| error.metadata.contains_key("mcpCode")) => Ok(()),
        _ => Err(format!("{name}: {:?}", result.error.map(|error| error.message))),
    }
}

async fn run(uri: String) -> Result<(), String> {
    let context = env::var("MCP_CONFORMANCE_CONTEXT").unwrap_or_default();
    let context: Value = serde_json::from_str(&context).unwrap_or_default();
    let modern = env::var("MCP_CONFORMANCE_PROTOCOL_VERSION").is_ok_and(|version| version == "2026-07-28");
    let era = if modern { ProtocolEra::Modern } else { ProtocolEra::Legacy };

    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let client = Headless { http, credentials: Mutex::default() };
    let options = HostOptions::new(Arc::new(NoBuiltins), ToolProcesses::new());
    let directory = env::temp_dir();
    let session = SessionContext {
        session_id: SessionId::new("conformance").unwrap(),
        working_directory: directory.clone(),
        additional_directories: Vec::new(),
        environment: BTreeMap::new(),
        data_dir: directory,
        denied_paths: Vec::new(),
        sandbox: None,
        container: None,
    };
    let (sender, mut events) = mpsc::channel(64);
    let extensions = McpHost::new(options).open_session(session, Arc::new(client), sender);
    let config = config(uri, &context, era);
    extensions.add(config, ExtensionOrigin::Config, BTreeMap::new()).map_err(|error| error.message)?;
    let outcome = async {
        ready(&extensions, &mut events).await?;
        let drain = async { while events.recv().await.is_some() {} };
        let calling = async {
            let mut failures = Vec::new();
            if let Some((echo, schema)) = schema_to_echo(&extensions) {
                failures.extend(call(&extensions, echo, json!({"schema": schema}).to_string()).await.err());
                return failures;
            }
            for (name, arguments) in calls(&extensions, &context) {
                failures.extend(call(&extensions, name, arguments).await.err());
            }
            failures
        };
        let failures = tokio::select! {
            failures = calling => failures,
            () = drain => Vec::new(),
        };
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    };
    let outcome = tokio::time::timeout(PATIENCE, outcome).await;
    extensions.shutdown(Duration::from_secs(5)).await;
    outcome.map_err(|_| "not done in time".to_owned())?
}

#[tokio::main]
async fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Some(uri) = env::args().nth(1) else {
        eprintln!("usage: conformance SERVER_URL");
        return ExitCode::from(2);
    };
    match run(uri).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
