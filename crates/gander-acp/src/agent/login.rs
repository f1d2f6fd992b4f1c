//! The beginning: versions, capabilities, and what signing in means for an agent whose models have keys of their own.

use std::sync::Arc;

use agent_client_protocol_schema::{ProtocolVersion, v1 as acp};
use gander_proto::v1::{DeleteSecretRequest, GetServerInfoRequest, ListProvidersRequest, ServerInfo};
use serde_json::{Value, json};

use super::{
    Inner,
    dispatch::{Handled, Outcome, required},
};
use crate::{
    caps::ClientCaps,
    rpc::{self, RpcError},
};

/// The method that uses whatever model is set up.
const CONFIGURED: &str = "configured-model";
/// The method that sets one up in a terminal.
const SETUP: &str = "gander-setup";

impl Inner {
    /// Answers at once and without the daemon: the first message decides how fast the agent feels.
    pub(super) async fn initialize(self: &Arc<Self>, id: &Value, params: &Value) {
        let outcome = version(params).map(|()| {
            let caps = Arc::new(ClientCaps::read(params));
            tracing::info!(client = caps.client, "client connected");
            let answer = self.introduction(&caps);
            let mut state = self.state();
            state.caps = caps;
            state.initialized = true;
            answer
        });
        let outcome = outcome.and_then(|answer| super::dispatch::to_json(&answer));
        self.queue.push(None, rpc::response(id, outcome)).await;
    }

    fn introduction(&self, caps: &ClientCaps) -> acp::InitializeResponse {
        let unstable = caps.unstable;
        let sessions = acp::SessionCapabilities::new()
            .list(acp::SessionListCapabilities::new())
            .delete(acp::SessionDeleteCapabilities::new())
            .additional_directories(acp::SessionAdditionalDirectoriesCapabilities::new())
            .resume(acp::SessionResumeCapabilities::new())
            .close(acp::SessionCloseCapabilities::new())
            .fork(unstable.fork.then(acp::SessionForkCapabilities::new))
            .archive(unstable.archive.then(acp::SessionArchiveCapabilities::new))
            .status(unstable.status.then(acp::SessionStatusCapabilities::new))
            .title(unstable.title.then(acp::SessionTitleCapabilities::new));
        let mut auth = acp::AgentAuthCapabilities::new();
        // Signing out erases a key, which only the person may decide: without a way to ask it is not offered.
        if caps.elicit_form {
            auth = auth.logout(acp::LogoutCapabilities::new());
        }
        let capabilities = acp::AgentCapabilities::new()
            .load_session(true)
            .prompt_capabilities(acp::PromptCapabilities::new().image(true).embedded_context(true))
            .mcp_capabilities(acp::McpCapabilities::new().http(true))
            .session_capabilities(sessions)
            .auth(auth);
        let version = if self.options.version.is_empty() { "0" } else { &self.options.version };
        let info = acp::Implementation::new("gander", version).title("gander");
        let meta = json!({"steering": {"supported": true}});
        acp::InitializeResponse::new(ProtocolVersion::V1)
            .agent_capabilities(capabilities)
            .auth_methods(self.auth_methods(caps))
            .agent_info(info)
            .meta(meta.as_object().filter(|_| unstable.steering).cloned())
    }

    fn auth_methods(&self, caps: &ClientCaps) -> Vec<acp::AuthMethod> {
        let configured = acp::AuthMethodAgent::new(CONFIGURED, "Use the configured model").description(
            "The model that gander is set up with; `gander acp --setup` in a terminal changes it",
        );
        let mut methods = vec![acp::AuthMethod::Agent(configured)];
        let Some(setup) = &self.options.setup else { return methods };
        let (name, text) =
            ("Set up a model", "Choose a provider, store its key and choose a model, in a terminal");
        if caps.auth_terminal {
            let method =
                acp::AuthMethodTerminal::new(SETUP, name).description(text).args(setup.arguments.clone());
            methods.push(acp::AuthMethod::Terminal(method));
        } else if caps.meta_terminal_auth
            && let Some((command, args)) = setup.full_command.split_first()
        {
            let meta = json!({"terminal-auth": {"command": command, "args": args, "label": name}});
            let method = acp::AuthMethodAgent::new(SETUP, name).description(text);
            methods.push(acp::AuthMethod::Agent(method.meta(meta.as_object().cloned())));
        }
        methods
    }

    /// Succeeds whenever there is a model, however often it is called.
    pub(super) async fn authenticate(&self, params: &Value) -> Outcome {
        let method = required(params, "methodId")?;
        if !matches!(method, CONFIGURED | SETUP) {
            return Err(RpcError::params("methodId must be one of the offered authMethods"));
        }
        self.needs_model().await?;
        Ok(Handled::Reply(json!({})))
    }

    /// Without a model a session is of no use: better the editor offers to set one up.
    pub(super) async fn needs_model(&self) -> Result<(), RpcError> {
        let info = self.server_info().await?;
        if info.default_model.is_some() || self.options.demo_allowed {
            return Ok(());
        }
        let message = match info.default_model_reason.as_str() {
            "" => "no model is set up".to_owned(),
            reason => format!("no model is set up: {reason}"),
        };
        Err(self.not_signed_in(RpcError::new(rpc::AUTH_REQUIRED, message)))
    }

    pub(super) async fn server_info(&self) -> Result<ServerInfo, RpcError> {
        let response = self.client.system().get_server_info(GetServerInfoRequest {}).await;
        response
            .map_err(RpcError::from)?
            .into_inner()
            .server_info
            .ok_or_else(|| RpcError::internal("no facts came back"))
    }

    /// The same error, with the remedy if it is about a missing model.
    pub(super) fn not_signed_in(&self, mut error: RpcError) -> RpcError {
        if error.code == rpc::AUTH_REQUIRED && !error.message.contains("--setup") {
            error.message.push_str("; `gander acp --setup` in a terminal sets one up");
        }
        error
    }

    /// Erases the key of the model's provider, if the person says so.
    pub(super) async fn logout(self: &Arc<Self>, id: &Value) -> Outcome {
        if !self.caps().elicit_form {
            return Err(RpcError::unknown_method("logout"));
        }
        let Some(model) = self.server_info().await?.default_model else {
            return Ok(Handled::Reply(json!({})));
        };
        let providers = self.client.providers().list_providers(ListProvidersRequest {}).await;
        let providers = providers.map_err(RpcError::from)?.into_inner().providers;
        let provider = providers.into_iter().find(|provider| provider.provider_id == model.provider_id);
        let Some(provider) = provider else { return Ok(Handled::Reply(json!({}))) };
        let secrets: Vec<String> =
            provider.config_keys.into_iter().filter(|key| key.secret).map(|key| key.key).collect();
        if secrets.is_empty() {
            return Ok(Handled::Reply(json!({})));
        }
        let params = json!({
            "requestId": id,
            "mode": "form",
            "message": format!("Erase the stored key of {}? All programs that use gander lose it.", provider.display_name),
            "requestedSchema": {
                "type": "object",
                "properties": {"erase": {"type": "boolean", "title": "Erase the key", "default": false}},
                "required": ["erase"],
            },
        });
        let answer = self.ask(None, "elicitation/create", &params).await.answer().await?;
        if answer.pointer("/content/erase") != Some(&Value::Bool(true)) {
            return Err(RpcError::cancelled());
        }
        for key in secrets {
            let request = DeleteSecretRequest { key, ..DeleteSecretRequest::default() };
            self.client.config().delete_secret(request).await.map_err(RpcError::from)?;
        }
        Ok(Handled::Reply(json!({})))
    }
}

/// Whether the client's version can be talked about. Whatever it is, the answer is 1.
fn version(params: &Value) -> Result<(), RpcError> {
    match params.get("protocolVersion") {
        None => Ok(()),
        Some(Value::Number(number)) if number.as_u64().is_some_and(|n| n <= u64::from(u16::MAX)) => Ok(()),
        // Some scripts write "v1" or "1".
        Some(Value::String(text)) if text.trim_start_matches('v').parse::<u16>().is_ok() => Ok(()),
        Some(_) => Err(RpcError::params("protocolVersion must be a whole number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for good in [json!(1), json!(0), json!(99), json!("v1"), json!("1")] {
            assert!(version(&json!({"protocolVersion": good})).is_ok(), "{good}");
        }
        assert!(version(&json!({})).is_ok());
        for bad in [json!(-1), json!(70000), json!(1.5), json!("2025-01-01"), json!({})] {
            assert!(version(&json!({"protocolVersion": bad})).is_err(), "{bad}");
        }
    }
}
