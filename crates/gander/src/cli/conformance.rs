//! `gander mcp conformance URL`: the client under test of the official MCP conformance suite.
//!
//! The suite starts a server, names the scenario in the environment (`MCP_CONFORMANCE_…`) and runs this once. All that
//! happens goes through the API: a hidden session gets the server as an extension, its tools are listed and called,
//! its questions are answered with the defaults of their forms, and authorization goes the way of a browser, without
//! one. Which scenario it is matters only where the suite cannot say otherwise what it wants.

use std::{collections::HashMap, time::Duration};

use futures::StreamExt as _;
use gander_client::{Client, WatchOptions};
use gander_proto::v1::{
    AddSessionExtensionRequest, CallToolRequest, CreateSessionRequest, DeleteSessionRequest, ExactSelection,
    ExtensionConfig, ExtensionSelection, ExtensionState, FormAction, FormAnswer, Interaction,
    InteractionAnswer, ListSessionExtensionsRequest, McpProtocol, RespondToInteractionRequest, SessionKind,
    StreamableHttpExtension, ToolDefinition, ToolOutcome, UrlAction, UrlAnswer,
    add_session_extension_request::Extension, call_tool_response::Payload as Answered,
    extension_config::Kind, extension_selection::Selection, interaction::Question,
    interaction_answer::Answer, session_event::Payload,
};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};

use super::{
    connect::{Context, Embed},
    error::{CliError, CliResult, exit},
    run::path_text,
    tool,
};

/// The suite ends a client after 30 s.
const PATIENCE: Duration = Duration::from_secs(25);
const CALL_SECONDS: i64 = 15;
/// How long the authorization page may take, and its longest head.
const PAGE_PATIENCE: Duration = Duration::from_secs(5);
const MAX_HEAD: usize = 64 * 1024;
const NAME: &str = "suite";

pub(super) async fn conformance(context: &Context, url: &str) -> CliResult<u8> {
    let wanted = Wanted::read(context)?;
    let connected = context.connect(Embed::Allowed).await?;
    let client = &connected.client;
    let result = async {
        let session_id = session(context, client).await?;
        let work = timeout(PATIENCE, scenario(context, client, &session_id, url, &wanted));
        let result = Box::pin(work).await;
        let result = result.unwrap_or_else(|_| {
            Err(CliError::new(format!("the scenario was not done within {} s", PATIENCE.as_secs())))
        });
        let request =
            DeleteSessionRequest { session_id, allow_missing: true, ..DeleteSessionRequest::default() };
        let _ = client.sessions().delete_session(request).await;
        result
    };
    let result = result.await;
    connected.close().await;
    result.map(|()| exit::OK)
}

/// What the suite said.
struct Wanted {
    /// Identities, keys and calls, as the scenario needs them.
    context: Value,
    modern: bool,
    client_credentials: bool,
}

impl Wanted {
    fn read(context: &Context) -> CliResult<Self> {
        let get = |name: &str| context.environment.get(name).unwrap_or_default();
        let text = get("MCP_CONFORMANCE_CONTEXT");
        let value = if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(text) };
        Ok(Self {
            // Without its text: it holds secrets.
            context: value.map_err(|_| CliError::usage("MCP_CONFORMANCE_CONTEXT is no JSON"))?,
            modern: get("MCP_CONFORMANCE_PROTOCOL_VERSION") == "2026-07-28",
            client_credentials: get("MCP_CONFORMANCE_SCENARIO").contains("client-credentials"),
        })
    }

    fn config(&self, url: &str) -> ExtensionConfig {
        let mut env = HashMap::from([(
            "MCP_OAUTH_CLIENT_METADATA_URL".to_owned(),
            "https://conformance-test.local/client-metadata.json".to_owned(),
        )]);
        for (field, name) in
            [("client_id", "MCP_OAUTH_CLIENT_ID"), ("client_secret", "MCP_OAUTH_CLIENT_SECRET")]
        {
            if let Some(value) = self.context[field].as_str() {
                env.insert(name.to_owned(), value.to_owned());
            }
        }
        if self.client_credentials {
            env.insert("MCP_OAUTH_GRANT".to_owned(), "client_credentials".to_owned());
        }
        let protocol = if self.modern { McpProtocol::Modern } else { McpProtocol::Legacy };
        ExtensionConfig {
            name: NAME.to_owned(),
            timeout: Some(prost_types::Duration { seconds: CALL_SECONDS, nanos: 0 }),
            env,
            protocol: protocol as i32,
            kind: Some(Kind::StreamableHttp(StreamableHttpExtension {
                uri: url.to_owned(),
                ..StreamableHttpExtension::default()
            })),
            ..ExtensionConfig::default()
        }
    }

    /// The scenario's calls, or one of every tool: public name and arguments.
    fn calls(&self, tools: &[ToolDefinition]) -> Vec<(String, String)> {
        // A tool that wants to see another tool's schema as this client sees it.
        let named = |name: &str| tools.iter().find(|tool| tool.tool_name == name);
        if let (Some(echo), Some(shown)) = (named("json_schema_echo"), named("json_schema_2020_12_tool")) {
            let schema = serde_json::from_str(&shown.input_schema_json).unwrap_or(Value::Null);
            return vec![(echo.name.clone(), json!({"schema": schema}).to_string())];
        }
        let listed = self.context["toolCalls"].as_array().or_else(|| self.context["tool_calls"].as_array());
        match listed {
            Some(listed) => listed.iter().map(listed_call).collect(),
            None => tools
                .iter()
                .map(|tool| (tool.name.clone(), arguments(&tool.input_schema_json).to_string()))
                .collect(),
        }
    }
}

fn listed_call(call: &Value) -> (String, String) {
    let name = call["name"].as_str().unwrap_or_default();
    let arguments = call.get("arguments").filter(|arguments| arguments.is_object());
    (format!("{NAME}__{name}"), arguments.map_or_else(|| "{}".to_owned(), Value::to_string))
}

async fn session(context: &Context, client: &Client) -> CliResult<String> {
    let none = ExtensionSelection { selection: Some(Selection::Exactly(ExactSelection::default())) };
    let request = CreateSessionRequest {
        working_directory: path_text(&context.cwd)?,
        kind: SessionKind::Hidden as i32,
        extensions: Some(none),
        demo_allowed: true,
        idempotency_key: uuid::Uuid::now_v7().to_string(),
        ..CreateSessionRequest::default()
    };
    let session = client.sessions().create_session(request).await?.into_inner().session;
    Ok(session.ok_or_else(|| CliError::new("the daemon answered without a session"))?.session_id)
}

async fn scenario(
    context: &Context,
    client: &Client,
    session_id: &str,
    url: &str,
    wanted: &Wanted,
) -> CliResult<()> {
    let changed = Notify::new();
    let work = async {
        let request = AddSessionExtensionRequest {
            session_id: session_id.to_owned(),
            extension: Some(Extension::Config(Box::new(wanted.config(url)))),
            wait: false,
            idempotency_key: uuid::Uuid::now_v7().to_string(),
        };
        client.extensions().add_session_extension(request).await?;
        ready(client, session_id, &changed).await?;
        let tools = tool::tools(client, session_id).await?;
        let mut failures = Vec::new();
        for (name, arguments) in wanted.calls(&tools) {
            failures.extend(call(context, client, session_id, name, arguments).await?);
        }
        if failures.is_empty() { Ok(()) } else { Err(CliError::new(failures.join("; "))) }
    };
    tokio::select! {
        result = work => result,
        result = answer_questions(context, client, session_id, &changed) => {
            result.and(Err(CliError::new("the session's events ended")))
        }
    }
}

/// Waits until the server is ready or will not be.
async fn ready(client: &Client, session_id: &str, changed: &Notify) -> CliResult<()> {
    loop {
        let request = ListSessionExtensionsRequest { session_id: session_id.to_owned() };
        let list = client.extensions().list_session_extensions(request).await?.into_inner().extensions;
        let status = list.into_iter().next().ok_or_else(|| CliError::new("the extension is gone"))?;
        let asked = status.error.as_ref().is_some_and(|e| e.metadata.contains_key("authorization"));
        match status.state() {
            ExtensionState::Ready | ExtensionState::Degraded => return Ok(()),
            // A question about it is open.
            ExtensionState::NeedsAuth if asked => {}
            ExtensionState::Failed | ExtensionState::NeedsAuth | ExtensionState::Stopped => {
                let error = status.error.as_ref().map(CliError::detail);
                return Err(error.unwrap_or_else(|| CliError::new("the server is not ready")));
            }
            _ => {}
        }
        changed.notified().await;
    }
}

/// One call; what failed about it, if the server was not even asked or did not answer.
async fn call(
    context: &Context,
    client: &Client,
    session_id: &str,
    name: String,
    arguments_json: String,
) -> CliResult<Option<String>> {
    let request = CallToolRequest {
        session_id: session_id.to_owned(),
        name: name.clone(),
        arguments_json,
        ..CallToolRequest::default()
    };
    let mut stream = client.tools().call_tool(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        let Some(Answered::Result(result)) = message.payload else { continue };
        let error = result.error.as_ref();
        context.out.note(&format!("{name}: {}", result.outcome().as_str_name()));
        return Ok(match result.outcome() {
            ToolOutcome::Ok | ToolOutcome::ToolError => None,
            // The server was asked and refused, which is all that some scenarios are about.
            _ if error.is_some_and(|error| error.metadata.contains_key("mcpCode")) => None,
            _ => Some(error.map_or(name, |error| error.message.clone())),
        });
    }
    Err(CliError::new("the call ended without a result"))
}

/// Tells of changes of extensions and answers every question, until the session ends.
async fn answer_questions(
    context: &Context,
    client: &Client,
    session_id: &str,
    changed: &Notify,
) -> CliResult<()> {
    let mut events = client.watch(session_id, WatchOptions { after: Some(0), ..WatchOptions::default() });
    while let Some(event) = events.next().await {
        match event?.payload {
            Some(Payload::ExtensionStateChanged(_)) => changed.notify_one(),
            Some(Payload::InteractionRequested(asked)) => {
                let Some(interaction) = asked.interaction else { continue };
                let request = RespondToInteractionRequest {
                    interaction_id: interaction.interaction_id.clone(),
                    answer: Some(InteractionAnswer { answer: Some(answer(context, interaction).await) }),
                    session_id: session_id.to_owned(),
                    idempotency_key: String::new(),
                };
                // Withdrawn in the meantime: nobody waits for the answer.
                if let Err(status) = client.interactions().respond_to_interaction(request).await {
                    context.out.note(status.message());
                }
            }
            _ => {}
        }
    }
    Ok(())
}

async fn answer(context: &Context, interaction: Interaction) -> Answer {
    match interaction.question {
        Some(Question::ElicitForm(form)) => Answer::Form(FormAnswer {
            action: FormAction::Accept as i32,
            content_json: Value::Object(defaults(&form.schema_json)).to_string(),
        }),
        Some(Question::OpenUrl(page)) if page.accepts_callback_url => match redirect(&page.url).await {
            Ok(callback_url) => Answer::Url(UrlAnswer { action: UrlAction::Done as i32, callback_url }),
            Err(problem) => {
                context.out.note(&format!("the authorization page: {problem}"));
                Answer::Url(UrlAnswer { action: UrlAction::Decline as i32, callback_url: String::new() })
            }
        },
        Some(Question::OpenUrl(_)) => {
            Answer::Url(UrlAnswer { action: UrlAction::Done as i32, callback_url: String::new() })
        }
        _ => Answer::OptionId("deny".to_owned()),
    }
}

/// Every default of a form's schema.
fn defaults(schema_json: &str) -> Map<String, Value> {
    let schema: Value = serde_json::from_str(schema_json).unwrap_or_default();
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.filter_map(|(name, field)| Some((name.clone(), field.get("default")?.clone()))).collect()
}

/// The required arguments of a tool, of the types that its schema names.
fn arguments(schema_json: &str) -> Value {
    let schema: Value = serde_json::from_str(schema_json).unwrap_or_default();
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    required.map(|name| (name.to_owned(), sample(&schema["properties"][name]))).collect::<Map<_, _>>().into()
}

fn sample(schema: &Value) -> Value {
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.first().and_then(Value::as_str),
        kind => kind.as_str(),
    };
    match kind {
        Some("number" | "integer") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("object") => json!({}),
        _ => json!("test"),
    }
}

/// Where a page redirects to. The suite's servers are on this machine, without TLS.
async fn redirect(page: &str) -> Result<String, String> {
    let url = url::Url::parse(page).map_err(|error| error.to_string())?;
    let host = url.host_str().filter(|_| url.scheme() == "http").ok_or("is not at an http:// address")?;
    let port = url.port_or_known_default().unwrap_or(80);
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let request =
        format!("GET {}{query} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n", url.path());
    let exchange = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                break;
            }
        }
        Ok::<_, std::io::Error>(head)
    };
    let head = timeout(PAGE_PATIENCE, exchange).await.map_err(|_| "does not answer")?;
    let head = head.map_err(|error| error.to_string())?;
    let head = String::from_utf8_lossy(&head);
    let location = head
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("location"))
        .map(|(_, value)| value.trim());
    let location = location.ok_or_else(|| {
        format!("does not redirect: {}", super::output::clean(head.lines().next().unwrap_or_default()))
    })?;
    url.join(location).map(String::from).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_forms_are_made_from_schemas() {
        let schema = r#"{"properties": {"a": {"type": "number"}, "b": {"type": ["string", "null"]},
            "c": {"type": "boolean"}}, "required": ["a", "b"]}"#;
        assert_eq!(arguments(schema), json!({"a": 1, "b": "test"}));
        assert_eq!(arguments("{}"), json!({}));
        let form =
            r#"{"properties": {"name": {"type": "string", "default": "x"}, "age": {"type": "integer"}}}"#;
        assert_eq!(Value::Object(defaults(form)), json!({"name": "x"}));
    }

    #[test]
    fn listed_calls_come_before_all_tools() {
        let tool = |name: &str| ToolDefinition {
            name: format!("suite__{name}"),
            tool_name: name.to_owned(),
            input_schema_json: r#"{"required": ["x"], "properties": {"x": {"type": "object"}}}"#.to_owned(),
            ..ToolDefinition::default()
        };
        let calls = |context: Value, tools: &[ToolDefinition]| {
            Wanted { context, modern: false, client_credentials: false }.calls(tools)
        };
        let pair = |name: &str, arguments: &str| vec![(name.to_owned(), arguments.to_owned())];
        assert_eq!(calls(Value::Null, &[tool("a")]), pair("suite__a", r#"{"x":{}}"#));
        let listed = json!({"toolCalls": [{"name": "b", "arguments": {"y": 2}}]});
        assert_eq!(calls(listed, &[tool("a")]), pair("suite__b", r#"{"y":2}"#));
        let echo = [tool("json_schema_echo"), tool("json_schema_2020_12_tool")];
        let found = calls(Value::Null, &echo);
        assert_eq!(found.len(), 1);
        assert!(found[0].1.starts_with(r#"{"schema":{"#), "{found:?}");
    }
}
