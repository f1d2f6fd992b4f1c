//! Goose's form of extensions over ACP ⇄ ours, and the methods about them.

use std::{collections::HashMap, sync::Arc};

use gander_proto::v1::{
    AddSessionExtensionRequest, BuiltinExtension, DeleteExtensionRequest, ExtensionConfig,
    ListAvailableExtensionsRequest, ListExtensionsRequest, ListSessionExtensionsRequest, PlatformExtension,
    PutExtensionRequest, RemoveSessionExtensionRequest, SetExtensionEnabledRequest, StdioExtension,
    StreamableHttpExtension, add_session_extension_request::Extension, extension_config::Kind,
};
use serde_json::{Map, Value, json};

use super::{about, done, text};
use crate::{
    agent::{
        Inner,
        dispatch::{Handled, Outcome, required},
    },
    rpc::RpcError,
};

fn names(pairs: &HashMap<String, String>) -> Vec<Value> {
    let mut pairs: Vec<_> = pairs.iter().collect();
    pairs.sort();
    pairs.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

/// Goose's form; `None` for kinds that it has no form for.
pub(super) fn write(config: &ExtensionConfig) -> Option<Value> {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    match config.kind.as_ref()? {
        Kind::Builtin(_) => {
            put("type", json!("builtin"));
            put("name", json!(config.name));
        }
        Kind::Platform(_) => {
            put("type", json!("platform"));
            put("name", json!(config.name));
        }
        Kind::Stdio(stdio) => {
            put("type", json!("mcp"));
            let server = json!({
                "name": config.name, "command": stdio.command, "args": stdio.args, "env": names(&config.env),
            });
            put("server", server);
        }
        Kind::StreamableHttp(http) => {
            put("type", json!("mcp"));
            let server = json!({
                "type": "http", "name": config.name, "url": http.uri, "headers": names(&http.headers),
            });
            put("server", server);
            if !http.unix_socket.is_empty() {
                put("socket", json!(http.unix_socket));
            }
        }
        _ => return None,
    }
    for (key, value) in [("description", &config.description), ("display_name", &config.display_name)] {
        if !value.is_empty() {
            put(key, json!(value));
        }
    }
    if !config.env_keys.is_empty() {
        put("envKeys", json!(config.env_keys));
    }
    if let Some(timeout) = &config.timeout {
        put("timeout", json!(timeout.seconds));
    }
    if let Some(bundled) = config.bundled {
        put("bundled", json!(bundled));
    }
    if !config.tool_allowlist.is_empty() {
        put("available_tools", json!(config.tool_allowlist));
    }
    Some(Value::Object(out))
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn map(value: Option<&Value>) -> HashMap<String, String> {
    match value {
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|pair| {
                Some((pair.get("name")?.as_str()?.to_owned(), pair.get("value")?.as_str()?.to_owned()))
            })
            .collect(),
        Some(Value::Object(object)) => object
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
        _ => HashMap::new(),
    }
}

/// Reads Goose's form, and the flat one of its configuration file.
pub(super) fn read(value: &Value) -> Result<ExtensionConfig, RpcError> {
    let at = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let missing = |field: &str| RpcError::params(format!("extension.{field} is missing"));
    let kind = at(value, "type");
    let server = value.get("server").unwrap_or(value);
    let mut config = ExtensionConfig {
        name: if value.get("server").is_some() { at(server, "name") } else { at(value, "name") },
        description: at(value, "description"),
        display_name: at(value, "display_name"),
        bundled: value.get("bundled").and_then(Value::as_bool),
        timeout: value
            .get("timeout")
            .and_then(Value::as_i64)
            .map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        tool_allowlist: strings(value.get("available_tools")),
        env_keys: strings(value.get("envKeys").or_else(|| value.get("env_keys"))),
        ..ExtensionConfig::default()
    };
    if config.name.is_empty() {
        return Err(missing("name"));
    }
    let http = server.get("url").or_else(|| server.get("uri")).and_then(Value::as_str);
    config.kind = Some(match (kind.as_str(), http) {
        ("builtin", _) => Kind::Builtin(BuiltinExtension {}),
        ("platform", _) => Kind::Platform(PlatformExtension {}),
        ("mcp" | "streamable_http" | "http", Some(uri)) => Kind::StreamableHttp(StreamableHttpExtension {
            uri: uri.to_owned(),
            headers: map(server.get("headers")),
            unix_socket: at(value, "socket"),
        }),
        ("mcp" | "stdio", None) => {
            let command = match (at(server, "command"), at(server, "cmd")) {
                (command, cmd) if command.is_empty() => cmd,
                (command, _) => command,
            };
            if command.is_empty() {
                return Err(missing("server.command"));
            }
            config.env = map(server.get("env").or_else(|| server.get("envs")));
            Kind::Stdio(StdioExtension { command, args: strings(server.get("args")) })
        }
        _ => return Err(RpcError::params("extension.type must be builtin, platform or mcp")),
    });
    Ok(config)
}

fn is_platform(config: &ExtensionConfig) -> bool {
    matches!(config.kind, Some(Kind::Platform(_)))
}

impl Inner {
    /// Parts of Goose's own that are builtin extensions here, under the same name: those are meant.
    pub(in crate::agent) async fn own_parts(
        &self,
        extensions: &mut [ExtensionConfig],
    ) -> Result<(), RpcError> {
        if !extensions.iter().any(is_platform) {
            return Ok(());
        }
        let request = ListAvailableExtensionsRequest {};
        let available = self.client.extensions().list_available_extensions(request).await;
        let available = available.map_err(RpcError::from)?.into_inner().extensions;
        for extension in extensions.iter_mut().filter(|extension| is_platform(extension)) {
            let same = |config: &ExtensionConfig| {
                config.name == extension.name && matches!(config.kind, Some(Kind::Builtin(_)))
            };
            if available.iter().filter_map(|entry| entry.config.as_ref()).any(same) {
                extension.kind = Some(Kind::Builtin(BuiltinExtension {}));
            }
        }
        Ok(())
    }

    pub(super) async fn goose_session_extensions(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let request = ListSessionExtensionsRequest { session_id: session_id.to_owned() };
        let listed =
            self.client.extensions().list_session_extensions(request).await.map_err(about(session_id))?;
        let extensions = listed.into_inner().extensions;
        let shown: Vec<Value> =
            extensions.iter().filter_map(|status| write(status.config.as_ref()?)).collect();
        Ok(Handled::Reply(json!({"extensions": shown})))
    }

    pub(super) async fn goose_add_extension(self: &Arc<Self>, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let given = ["extension", "config"].iter().find_map(|key| params.get(*key));
        let mut config = read(given.ok_or_else(|| RpcError::params("extension is missing"))?)?;
        self.own_parts(std::slice::from_mut(&mut config)).await?;
        let request = AddSessionExtensionRequest {
            session_id: session_id.to_owned(),
            extension: Some(Extension::Config(Box::new(config))),
            wait: true,
            ..AddSessionExtensionRequest::default()
        };
        self.client.extensions().add_session_extension(request).await.map_err(about(session_id))?;
        Ok(done())
    }

    pub(super) async fn goose_remove_extension(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let request = RemoveSessionExtensionRequest {
            session_id: session_id.to_owned(),
            extension_name: text(params, &["name"])?.to_owned(),
            idempotency_key: String::new(),
        };
        self.client.extensions().remove_session_extension(request).await.map_err(about(session_id))?;
        Ok(done())
    }

    pub(super) async fn goose_configured(&self) -> Outcome {
        let listed = self.client.extensions().list_extensions(ListExtensionsRequest {}).await;
        let listed = listed.map_err(RpcError::from)?.into_inner();
        let entries = listed.extensions.iter().filter_map(|entry| {
            let extension = write(entry.config.as_ref()?)?;
            Some(json!({"extension": extension, "enabled": entry.enabled, "configKey": entry.config_key}))
        });
        Ok(Handled::Reply(json!({"extensions": entries.collect::<Vec<_>>(), "warnings": listed.warnings})))
    }

    pub(super) async fn goose_available(&self) -> Outcome {
        let request = ListAvailableExtensionsRequest {};
        let listed = self.client.extensions().list_available_extensions(request).await;
        let listed = listed.map_err(RpcError::from)?.into_inner().extensions;
        let shown: Vec<Value> = listed.iter().filter_map(|entry| write(entry.config.as_ref()?)).collect();
        Ok(Handled::Reply(json!({"extensions": shown})))
    }

    pub(super) async fn goose_configure(&self, params: &Value) -> Outcome {
        let config = read(params.get("extension").unwrap_or(&Value::Null))?;
        let enabled = params.get("enabled").and_then(Value::as_bool).unwrap_or_default();
        let request = PutExtensionRequest { config: Some(config), enabled, idempotency_key: String::new() };
        self.client.extensions().put_extension(request).await.map_err(RpcError::from)?;
        Ok(done())
    }

    pub(super) async fn goose_unconfigure(&self, params: &Value) -> Outcome {
        let request = DeleteExtensionRequest {
            extension_name: text(params, &["configKey", "config_key"])?.to_owned(),
            ..DeleteExtensionRequest::default()
        };
        self.client.extensions().delete_extension(request).await.map_err(RpcError::from)?;
        Ok(done())
    }

    pub(super) async fn goose_enable(&self, params: &Value) -> Outcome {
        let enabled = params.get("enabled").and_then(Value::as_bool);
        let request = SetExtensionEnabledRequest {
            extension_name: text(params, &["configKey", "config_key"])?.to_owned(),
            enabled: enabled.ok_or_else(|| RpcError::params("enabled must be a boolean"))?,
            idempotency_key: String::new(),
        };
        self.client.extensions().set_extension_enabled(request).await.map_err(RpcError::from)?;
        Ok(done())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_go_in_and_come_out() {
        for form in [
            json!({"type": "builtin", "name": "developer", "bundled": true, "available_tools": ["shell"]}),
            json!({"type": "platform", "name": "todo", "description": "x"}),
            json!({"type": "mcp", "server": {"name": "s", "command": "npx", "args": ["-y"],
                "env": [{"name": "A", "value": "1"}]}, "envKeys": ["KEY"], "timeout": 30}),
            json!({"type": "mcp", "server": {"type": "http", "name": "h", "url": "http://x/mcp", "headers": []}}),
        ] {
            assert_eq!(write(&read(&form).expect("readable")), Some(form));
        }
        let flat =
            read(&json!({"type": "stdio", "name": "f", "cmd": "uvx", "args": ["x"], "envs": {"A": "1"}}));
        assert_eq!(flat.expect("readable").env["A"], "1");
        for bad in
            [json!({}), json!({"type": "mcp", "server": {"name": "x"}}), json!({"type": "odd", "name": "x"})]
        {
            assert_eq!(read(&bad).expect_err("refused").code, crate::rpc::INVALID_PARAMS, "{bad}");
        }
    }
}
