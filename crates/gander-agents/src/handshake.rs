//! The start of a connection: `initialize`, authentication where a key is at hand, and the agent's session.

use std::path::Path;

use gander_domain::{ErrorDetail, ErrorReason};
use gander_model::{AgentMcpServer, AgentOpen, AgentOpened};
use serde_json::{Map, Value, json};

use crate::{
    connection::Connection,
    failure::{AUTH_REQUIRED, Failure, Speaker},
    provider::Launch,
};

/// The protocol's version that gander speaks.
const VERSION: u64 = 1;

/// What the agent can do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capabilities {
    load: bool,
    resume: bool,
    pub(crate) close: bool,
    additional_directories: bool,
    http_servers: bool,
    /// Takes input while a prompt runs (an extension of the protocol that several agents share).
    pub(crate) steering: bool,
    /// Ways to log in, for people.
    pub(crate) login: Vec<String>,
    /// Ids of authentication methods that the agent runs itself.
    methods: Vec<String>,
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).is_some_and(|v| v.as_bool().unwrap_or(v.is_object()))
}

fn client_capabilities() -> Value {
    json!({
        "fs": { "readTextFile": true, "writeTextFile": true },
        "terminal": true,
        "session": { "configOptions": { "boolean": {} }, "notices": {}, "compaction": {} },
        "elicitation": { "form": {}, "url": {} },
        "_meta": { "terminal_output": true },
    })
}

/// The first request and what its answer says.
pub(crate) async fn initialize(
    connection: &Connection,
    speaker: &Speaker,
    launch: &Launch,
) -> Result<(AgentOpened, Capabilities), ErrorDetail> {
    let params = json!({
        "protocolVersion": VERSION,
        "clientCapabilities": client_capabilities(),
        "clientInfo": { "name": "gander", "title": "gander", "version": env!("CARGO_PKG_VERSION") },
    });
    let answer = connection.request("initialize", params).await;
    let answer = answer.map_err(|failure| speaker.failed("initialize", failure, &[]))?;
    if answer.get("protocolVersion").and_then(Value::as_u64) != Some(VERSION) {
        let version = answer.get("protocolVersion").unwrap_or(&Value::Null);
        let message = format!("speaks version {version} of ACP, gander speaks {VERSION}; update one of them");
        return Err(speaker.error(ErrorReason::ProviderBadRequest, message));
    }
    let agent = answer.get("agentCapabilities").unwrap_or(&Value::Null);
    let info = answer.get("agentInfo").unwrap_or(&Value::Null);
    let methods = answer.get("authMethods").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let capabilities = Capabilities {
        load: flag(agent, "/loadSession"),
        resume: flag(agent, "/sessionCapabilities/resume"),
        close: flag(agent, "/sessionCapabilities/close"),
        additional_directories: flag(agent, "/sessionCapabilities/additionalDirectories"),
        http_servers: flag(agent, "/mcpCapabilities/http"),
        steering: flag(&answer, "/_meta/steering/supported"),
        login: methods.iter().filter_map(login_text).collect(),
        methods: methods
            .iter()
            .filter(|method| text(method, "type").is_none_or(|kind| kind == "agent"))
            .filter_map(|method| text(method, "id"))
            .collect(),
    };
    let opened = AgentOpened {
        name: text(info, "title")
            .or_else(|| text(info, "name"))
            .unwrap_or_else(|| speaker.provider_id.clone()),
        version: text(info, "version").unwrap_or_default(),
        accepts_images: flag(agent, "/promptCapabilities/image"),
        accepts_audio: flag(agent, "/promptCapabilities/audio"),
        accepts_resources: flag(agent, "/promptCapabilities/embeddedContext"),
        settle: launch.settle,
        read_only_modes: launch.read_only_modes.clone(),
        unattended_modes: launch.unattended_modes.clone(),
        ..AgentOpened::default()
    };
    Ok((opened, capabilities))
}

fn login_text(method: &Value) -> Option<String> {
    let name = text(method, "name").or_else(|| text(method, "id"))?;
    Some(match text(method, "description").filter(|more| !more.is_empty() && *more != name) {
        Some(more) => format!("{name}: {more}"),
        None => name,
    })
}

/// Opens the agent's session. Gives its id, whether it goes on with the earlier one, and the agent's answer.
pub(crate) async fn open_session(
    connection: &Connection,
    speaker: &Speaker,
    launch: &Launch,
    capabilities: &Capabilities,
    request: &AgentOpen,
    replaying: impl Fn(bool),
) -> Result<(String, bool, Value), ErrorDetail> {
    let mut authenticated = false;
    loop {
        match try_open(connection, capabilities, request, &replaying).await {
            Ok(opened) => {
                let session_id = opened.0.filter(|id| !id.is_empty()).ok_or_else(|| {
                    speaker.error(ErrorReason::ProviderBadRequest, "answered session/new without a sessionId")
                })?;
                return Ok((session_id, opened.1, opened.2));
            }
            Err(Failure::Rpc(error)) if error.code == AUTH_REQUIRED && !authenticated => {
                let known = |method: &&String| capabilities.methods.contains(method);
                let Some(method) = launch.authentication.iter().find(known) else {
                    return Err(speaker.failed("session/new", Failure::Rpc(error), &capabilities.login));
                };
                let params = json!({ "methodId": method });
                let done = connection.request("authenticate", params).await;
                done.map_err(|failure| speaker.failed("authenticate", failure, &capabilities.login))?;
                authenticated = true;
            }
            Err(failure) => return Err(speaker.failed("session/new", failure, &capabilities.login)),
        }
    }
}

type Opened = (Option<String>, bool, Value);

async fn try_open(
    connection: &Connection,
    capabilities: &Capabilities,
    request: &AgentOpen,
    replaying: &impl Fn(bool),
) -> Result<Opened, Failure> {
    let params = session_params(capabilities, request);
    if let Some(session_id) = &request.resume {
        let method = match (capabilities.resume, capabilities.load) {
            (true, _) => Some("session/resume"),
            (false, true) => Some("session/load"),
            (false, false) => None,
        };
        if let Some(method) = method {
            let mut params = params.clone();
            params.insert("sessionId".to_owned(), json!(session_id));
            // What a load replays is in our log already.
            replaying(true);
            let answer = connection.request(method, Value::Object(params)).await;
            replaying(false);
            match answer {
                Ok(answer) => return Ok((Some(session_id.clone()), true, answer)),
                Err(Failure::Rpc(error)) if error.code != AUTH_REQUIRED => {
                    tracing::info!(method, error = %error.message, "the agent has lost its session");
                }
                Err(failure) => return Err(failure),
            }
        }
    }
    let answer = connection.request("session/new", Value::Object(params)).await?;
    Ok((text(&answer, "sessionId"), false, answer))
}

fn session_params(capabilities: &Capabilities, request: &AgentOpen) -> Map<String, Value> {
    let mut params = Map::new();
    params.insert("cwd".to_owned(), json!(request.working_directory));
    let servers = request.mcp_servers.iter().filter(|server| is_usable(capabilities, server));
    params.insert("mcpServers".to_owned(), servers.map(server).collect());
    if capabilities.additional_directories && !request.additional_directories.is_empty() {
        params.insert("additionalDirectories".to_owned(), json!(request.additional_directories));
    }
    params
}

fn is_usable(capabilities: &Capabilities, server: &AgentMcpServer) -> bool {
    match server {
        AgentMcpServer::Stdio { command, .. } => Path::new(command).is_absolute(),
        AgentMcpServer::Http { .. } => capabilities.http_servers,
    }
}

/// Names of the servers that this agent cannot use.
pub(crate) fn left_out(capabilities: &Capabilities, servers: &[AgentMcpServer]) -> Vec<String> {
    let unusable = servers.iter().filter(|server| !is_usable(capabilities, server));
    unusable.map(|server| server.name().to_owned()).collect()
}

fn server(server: &AgentMcpServer) -> Value {
    let pairs = |map: &std::collections::BTreeMap<String, String>| -> Value {
        map.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
    };
    match server {
        AgentMcpServer::Stdio { name, command, args, env } => {
            json!({ "name": name, "command": command, "args": args, "env": pairs(env) })
        }
        AgentMcpServer::Http { name, url, headers } => {
            json!({ "type": "http", "name": name, "url": url, "headers": pairs(headers) })
        }
    }
}
