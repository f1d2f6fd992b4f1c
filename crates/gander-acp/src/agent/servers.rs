//! MCP servers that an editor brings, as extensions of the session.

use std::collections::HashMap;

use gander_proto::v1::{ExtensionConfig, StdioExtension, StreamableHttpExtension, extension_config::Kind};
use serde_json::Value;

use crate::rpc::RpcError;

/// The servers that can be used, and what is wrong with the others.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Servers {
    pub(super) extensions: Vec<ExtensionConfig>,
    pub(super) problems: Vec<String>,
}

/// Reads `mcpServers`. One that cannot be used does not cost the session; a transport that gander does not speak and did
/// not offer is the client's mistake.
pub(super) fn read(params: &Value) -> Result<Servers, RpcError> {
    let mut servers = Servers::default();
    let list = match params.get("mcpServers") {
        None | Some(Value::Null) => return Ok(servers),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(RpcError::params("mcpServers must be a list")),
    };
    for (number, server) in list.iter().enumerate() {
        match one(server)? {
            Ok(extension) => servers.extensions.push(extension),
            Err(problem) => {
                let name = server.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
                let name = name.map_or_else(|| format!("number {}", number + 1), |name| format!("{name:?}"));
                servers.problems.push(format!("The MCP server {name} is left out: {problem}"));
            }
        }
    }
    Ok(servers)
}

fn one(server: &Value) -> Result<Result<ExtensionConfig, &'static str>, RpcError> {
    let text = |key: &str| server.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let Some(name) = text("name") else { return Ok(Err("it has no name")) };
    // Without a type it is a program; some clients write that out, others forget the type of a URL.
    let kind = text("type").unwrap_or(if text("url").is_some() { "http" } else { "stdio" });
    let mut config = ExtensionConfig { name: name.to_owned(), ..ExtensionConfig::default() };
    match kind {
        "stdio" => {
            let Some(command) = text("command") else { return Ok(Err("it has no command")) };
            let args = server.get("args").and_then(Value::as_array).into_iter().flatten();
            config.env = pairs(server.get("env"));
            config.kind = Some(Kind::Stdio(StdioExtension {
                command: command.to_owned(),
                args: args.filter_map(Value::as_str).map(str::to_owned).collect(),
            }));
        }
        "http" | "streamable_http" => {
            let Some(uri) = text("url") else { return Ok(Err("it has no url")) };
            config.kind = Some(Kind::StreamableHttp(StreamableHttpExtension {
                uri: uri.to_owned(),
                headers: pairs(server.get("headers")),
                unix_socket: String::new(),
            }));
        }
        "sse" => {
            return Err(RpcError::params(
                "gander does not speak the old HTTP+SSE transport of MCP (mcpCapabilities.sse is false): give the \
                 server's streamable HTTP address with type http",
            ));
        }
        _ => {
            return Err(RpcError::params(
                "gander does not know this type of MCP server; it speaks stdio and http (see mcpCapabilities)",
            ));
        }
    }
    let timeout = server.pointer("/_meta/timeout").and_then(Value::as_i64).filter(|seconds| *seconds > 0);
    config.timeout = timeout.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
    Ok(Ok(config))
}

/// `[{"name": …, "value": …}]`, or the object that some clients send instead.
fn pairs(value: Option<&Value>) -> HashMap<String, String> {
    match value {
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|pair| {
                let text = |key: &str| pair.get(key).and_then(Value::as_str).map(str::to_owned);
                Some((text("name")?, text("value")?))
            })
            .collect(),
        Some(Value::Object(map)) => {
            map.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
        }
        _ => HashMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn editors_servers_become_extensions() {
        let servers = read(&json!({"mcpServers": [
            {"name": "files", "command": "/bin/mcp", "args": ["-x"], "env": [{"name": "A", "value": "1"}]},
            {"name": "bare", "command": "/bin/mcp"},
            {"type": "http", "name": "web", "url": "http://127.0.0.1:1/mcp",
             "headers": [{"name": "Authorization", "value": "Bearer x"}], "_meta": {"timeout": 5}},
            {"name": "broken"},
            {"command": "/bin/nameless"},
        ]}))
        .expect("readable");
        let names: Vec<_> = servers.extensions.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["files", "bare", "web"]);
        assert_eq!(servers.extensions[0].env["A"], "1");
        assert_eq!(servers.extensions[2].timeout, Some(prost_types::Duration { seconds: 5, nanos: 0 }));
        assert!(matches!(&servers.extensions[2].kind,
            Some(Kind::StreamableHttp(http)) if http.headers["Authorization"] == "Bearer x"));
        assert_eq!(servers.problems.len(), 2, "{:?}", servers.problems);
        assert!(servers.problems[0].contains("broken") && servers.problems[1].contains("number 5"));
    }

    #[test]
    fn what_is_missing_is_no_server_and_sse_is_refused() {
        assert_eq!(read(&json!({})), Ok(Servers::default()));
        assert_eq!(read(&json!({"mcpServers": null})), Ok(Servers::default()));
        let sse = json!({"mcpServers": [{"type": "sse", "name": "old", "url": "http://secret"}]});
        let error = read(&sse).expect_err("refused");
        assert_eq!(error.code, crate::rpc::INVALID_PARAMS);
        assert!(!error.message.contains("secret"));
        assert!(read(&json!({"mcpServers": {}})).is_err());
    }
}
