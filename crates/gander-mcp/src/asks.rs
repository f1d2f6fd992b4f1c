//! What servers ask of the session: questions to the user, model calls, folders. Requests arrive as JSON, so that a
//! schema reaches the user as the server wrote it, and are handed to the [`SessionClient`].
//!
//! Every question ends with the server: when the connection is over or the server takes its request back, the
//! client's future is dropped, which withdraws the question. Nothing is answered that was not declared.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gander_domain::Part;
use rmcp::{
    ClientHandler, RoleClient,
    model::{
        ClientCapabilities, ClientConfig, CustomRequest, CustomResult, ElicitRequestParams, ElicitResult,
        ElicitationCapability, ErrorCode, ErrorData, FormElicitationCapability, Implementation,
        ProtocolVersion, UrlElicitationCapability,
    },
    service::RequestContext,
};
use serde_json::{Map, Value, json};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    arguments::ArgumentSchema,
    client::{ElicitAnswer, ElicitKind, ElicitRequest, SampleMessage, SampleRequest, SessionClient},
    content,
};

/// Questions of one server that may wait at the same time.
const MAX_WAITING: usize = 8;
/// Largest form (its schema, in bytes).
const MAX_FORM: usize = 64 * 1024;
/// Most output tokens that a server may ask for in one model call.
const MAX_SAMPLE_TOKENS: u64 = 1_000_000;

/// One connection's way to the session.
pub(crate) struct Asks {
    key: String,
    client: Arc<dyn SessionClient>,
    /// Whether model calls were declared.
    sampling: bool,
    /// The connection is over.
    ended: CancellationToken,
    waiting: Semaphore,
    clock: Mutex<Clock>,
}

/// How long the user has been asked on one connection.
#[derive(Default)]
struct Clock {
    waiting: u32,
    since: Option<Instant>,
    total: Duration,
}

/// A question that waits for its answer.
pub(crate) struct Waiting<'a>(&'a Mutex<Clock>);

impl<'a> Waiting<'a> {
    fn new(clock: &'a Mutex<Clock>) -> Self {
        let mut now = clock.lock().unwrap_or_else(PoisonError::into_inner);
        now.waiting += 1;
        now.since.get_or_insert_with(Instant::now);
        Self(clock)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut clock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clock.waiting = clock.waiting.saturating_sub(1);
        if clock.waiting == 0
            && let Some(since) = clock.since.take()
        {
            clock.total += since.elapsed();
        }
    }
}

fn invalid(text: impl Into<String>) -> ErrorData {
    ErrorData::invalid_params(text.into(), None)
}

fn failed(text: impl Into<String>) -> ErrorData {
    ErrorData::internal_error(text.into(), None)
}

impl Asks {
    pub(crate) fn new(key: &str, client: Arc<dyn SessionClient>, ended: CancellationToken) -> Arc<Self> {
        let sampling = client.allows_sampling(key);
        Arc::new(Self {
            key: key.to_owned(),
            client,
            sampling,
            ended,
            waiting: Semaphore::new(MAX_WAITING),
            clock: Mutex::default(),
        })
    }

    /// Time in which at least one question of this connection waited for its answer.
    fn asked(&self) -> Duration {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.total + clock.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The user is being asked, by somebody else, about this connection: the clocks of its requests stand still as long
    /// as this is kept.
    pub(crate) fn pause(&self) -> Waiting<'_> {
        Waiting::new(&self.clock)
    }

    /// Waits until `deadline`, not counting the time in which the user was asked something: people are slower than
    /// servers, and their answers have a deadline of their own.
    pub(crate) async fn deadline(&self, deadline: Instant) {
        let before = self.asked();
        loop {
            let extra = self.asked().saturating_sub(before);
            sleep_until(deadline + extra).await;
            if self.asked().saturating_sub(before) <= extra {
                return;
            }
        }
    }

    /// Answers one request of the server. `withdrawn` is cancelled when the server takes it back.
    ///
    /// # Errors
    /// What goes back to the server instead of a result.
    pub(crate) async fn answer(
        &self,
        method: &str,
        params: Value,
        withdrawn: &CancellationToken,
    ) -> Result<Value, ErrorData> {
        let Ok(_permit) = self.waiting.try_acquire() else {
            return Err(failed(format!("{MAX_WAITING} questions are waiting already; ask again later")));
        };
        let answer = async {
            let _waiting = Waiting::new(&self.clock);
            match method {
                "elicitation/create" => self.elicit(&params).await,
                "sampling/createMessage" if self.sampling => self.sample(&params).await,
                "sampling/createMessage" => {
                    Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "sampling was not declared", None))
                }
                "roots/list" => Ok(self.roots()),
                other => Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, other.to_owned(), None)),
            }
        };
        tokio::select! {
            biased;
            () = withdrawn.cancelled() => Err(failed("the request was cancelled")),
            () = self.ended.cancelled() => Err(failed("the connection is closed")),
            answer = answer => answer,
        }
    }

    async fn elicit(&self, params: &Value) -> Result<Value, ErrorData> {
        let message = params.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
        match params.get("mode").and_then(Value::as_str) {
            None | Some("form") => {
                let schema = params
                    .get("requestedSchema")
                    .filter(|schema| schema.is_object())
                    .ok_or_else(|| invalid("requestedSchema must be a JSON Schema of an object"))?;
                self.form(message, schema).await
            }
            Some("url") => {
                let url = params.get("url").and_then(Value::as_str).unwrap_or_default();
                let action = match self.page(message, url).await? {
                    ElicitAnswer::Accept { .. } => "accept",
                    ElicitAnswer::Decline => "decline",
                    ElicitAnswer::Cancel => "cancel",
                };
                Ok(json!({"action": action}))
            }
            Some(other) => Err(invalid(format!("the elicitation mode {other:?} was not declared"))),
        }
    }

    async fn form(&self, message: String, schema: &Value) -> Result<Value, ErrorData> {
        let schema_json = schema.to_string();
        if schema_json.len() > MAX_FORM {
            return Err(invalid(format!("the form exceeds {MAX_FORM} bytes")));
        }
        if let Some(field) = secret_field(schema) {
            return Err(invalid(format!(
                "the form asks for a secret ({field}), which MCP forbids: ask for it on a page (mode \"url\"), or let \
                 the user configure it"
            )));
        }
        let kind = ElicitKind::Form { schema_json };
        let request = ElicitRequest { extension_name: self.key.clone(), message, kind };
        match self.client.elicit(request).await {
            ElicitAnswer::Accept { content_json } => {
                let content = form_content(schema, content_json.as_deref()).map_err(failed)?;
                Ok(json!({"action": "accept", "content": content}))
            }
            ElicitAnswer::Decline => Ok(json!({"action": "decline"})),
            ElicitAnswer::Cancel => Ok(json!({"action": "cancel"})),
        }
    }

    /// Asks the user to open a page.
    pub(crate) async fn page(&self, message: String, url: &str) -> Result<ElicitAnswer, ErrorData> {
        let known = reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !known || url.chars().any(char::is_control) {
            return Err(invalid("the url must be a complete http or https address"));
        }
        let kind = ElicitKind::Url { url: url.to_owned() };
        let request = ElicitRequest { extension_name: self.key.clone(), message, kind };
        let _waiting = Waiting::new(&self.clock);
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Ok(ElicitAnswer::Cancel),
            answer = self.client.elicit(request) => Ok(answer),
        }
    }

    async fn sample(&self, params: &Value) -> Result<Value, ErrorData> {
        let text = |name: &str| params.get(name).and_then(Value::as_str).map(str::to_owned);
        if params.get("tools").and_then(Value::as_array).is_some_and(|tools| !tools.is_empty()) {
            return Err(invalid("sampling with tools was not declared"));
        }
        let messages = params.get("messages").and_then(Value::as_array).map(Vec::as_slice);
        let messages = messages.unwrap_or_default().iter().map(sample_message).collect();
        let max_tokens = params.get("maxTokens").and_then(Value::as_u64);
        let max_tokens = max_tokens.filter(|tokens| (1..=MAX_SAMPLE_TOKENS).contains(tokens));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2000 by the filter")]
        let temperature_millis = params
            .get("temperature")
            .and_then(Value::as_f64)
            .filter(|t| (0.0..=2.0).contains(t))
            .map(|t| (t * 1000.0).round() as u32);
        let request = SampleRequest {
            extension_name: self.key.clone(),
            system_prompt: text("systemPrompt"),
            messages,
            max_tokens: max_tokens
                .ok_or_else(|| invalid(format!("maxTokens must be 1 to {MAX_SAMPLE_TOKENS}")))?,
            temperature_millis,
        };
        // A refusal of the user has a code of its own in MCP's examples.
        let result = self.client.sample(request).await;
        let result = result.map_err(|error| ErrorData::new(ErrorCode(-1), error.message, None))?;
        Ok(json!({
            "role": "assistant",
            "content": {"type": "text", "text": result.text},
            "model": result.model_id,
            "stopReason": result.stop_reason,
        }))
    }

    fn roots(&self) -> Value {
        let root = |root: crate::client::Root| match root.name {
            Some(name) => json!({"uri": root.uri, "name": name}),
            None => json!({"uri": root.uri}),
        };
        json!({"roots": self.client.roots().into_iter().map(root).collect::<Vec<_>>()})
    }
}

/// The first field of a form that is there to be given a secret. Answers are kept with the session, in the open.
fn secret_field(schema: &Value) -> Option<&String> {
    const SECRETS: [&str; 14] = [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "apikey",
        "apitoken",
        "accesstoken",
        "authtoken",
        "bearertoken",
        "clientsecret",
        "secretkey",
        "privatekey",
        "accesskey",
        "credentials",
    ];
    let properties = schema.get("properties").and_then(Value::as_object)?;
    let secret = |(name, property): &(&String, &Value)| {
        let plain: String =
            name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        let text = matches!(property.get("type").and_then(Value::as_str), None | Some("string"));
        property.get("format").and_then(Value::as_str) == Some("password")
            || property.get("writeOnly").and_then(Value::as_bool) == Some(true)
            || (text && SECRETS.iter().any(|secret| plain.ends_with(secret)))
    };
    properties.iter().find(secret).map(|(name, _)| name)
}

fn sample_message(message: &Value) -> SampleMessage {
    let role = message.get("role").and_then(Value::as_str).unwrap_or("user").to_owned();
    let parts: Vec<Part> = match message.get("content") {
        Some(Value::Array(blocks)) => blocks.iter().cloned().map(content::part).collect(),
        Some(block) => vec![content::part(block.clone())],
        None => Vec::new(),
    };
    SampleMessage { role, parts }
}

/// The user's content with the schema's defaults for what they left out, checked.
fn form_content(schema: &Value, content_json: Option<&str>) -> Result<Value, String> {
    let mut content: Map<String, Value> = match content_json.filter(|text| !text.trim().is_empty()) {
        Some(text) => serde_json::from_str(text).map_err(|_| "the user's answer is no JSON object")?,
        None => Map::new(),
    };
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            if let Some(default) = property.get("default").filter(|_| !content.contains_key(name)) {
                content.insert(name.clone(), default.clone());
            }
        }
    }
    let content = Value::Object(content);
    let checked = ArgumentSchema::new(schema.clone()).check("content", &content);
    checked.map_err(|text| format!("the user's answer does not match the form: {text}"))?;
    Ok(content)
}

/// The library's way to [`Asks`].
pub(crate) struct Handler(pub(crate) Arc<Asks>);

impl Handler {
    async fn typed<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        params: Value,
        context: &RequestContext<RoleClient>,
    ) -> Result<T, ErrorData> {
        let answer = self.0.answer(method, params, &context.ct).await?;
        serde_json::from_value(answer).map_err(|error| failed(error.to_string()))
    }
}

fn json_of(params: &impl serde::Serialize) -> Result<Value, ErrorData> {
    serde_json::to_value(params).map_err(|error| failed(error.to_string()))
}

#[allow(deprecated, reason = "deprecated in the newest revision of MCP and alive in all others")]
impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let client = Implementation::new("gander", env!("CARGO_PKG_VERSION"));
        let elicitation = ElicitationCapability::new()
            .with_form(FormElicitationCapability::new())
            .with_url(UrlElicitationCapability::new());
        let mut capabilities = ClientCapabilities::builder()
            .enable_elicitation_with(elicitation)
            .enable_roots()
            .enable_roots_list_changed()
            .build();
        if self.0.sampling {
            capabilities.sampling = Some(rmcp::model::SamplingCapability::default());
        }
        // The library's own default is a revision without a handshake.
        ClientConfig::new(capabilities, client).with_protocol_version(ProtocolVersion::V_2025_11_25)
    }

    async fn create_message(
        &self,
        params: rmcp::model::CreateMessageRequestParams,
        context: RequestContext<RoleClient>,
    ) -> Result<rmcp::model::CreateMessageResult, ErrorData> {
        self.typed("sampling/createMessage", json_of(&params)?, &context).await
    }

    async fn list_roots(
        &self,
        context: RequestContext<RoleClient>,
    ) -> Result<rmcp::model::ListRootsResult, ErrorData> {
        self.typed("roots/list", Value::Null, &context).await
    }

    async fn create_elicitation(
        &self,
        params: ElicitRequestParams,
        context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        self.typed("elicitation/create", json_of(&params)?, &context).await
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: RequestContext<RoleClient>,
    ) -> Result<CustomResult, ErrorData> {
        let params = request.params.unwrap_or(Value::Null);
        self.0.answer(&request.method, params, &context.ct).await.map(CustomResult)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_content_gets_the_defaults_and_is_checked() {
        let schema = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "default": "x"}, "age": {"type": "integer", "default": 3},
                "on": {"type": "boolean"}
            },
            "required": ["name"]
        });
        let content = |text| form_content(&schema, text);
        assert_eq!(content(None).unwrap(), json!({"name": "x", "age": 3}));
        assert_eq!(
            content(Some(r#"{"name": "y", "on": true}"#)).unwrap(),
            json!({"name": "y", "age": 3, "on": true})
        );
        let error = content(Some(r#"{"age": "old"}"#)).unwrap_err();
        assert!(error.contains("age: \"old\""), "{error}");
        assert!(content(Some("[1]")).unwrap_err().contains("JSON object"));
    }

    #[test]
    fn forms_must_not_ask_for_secrets() {
        let form = |name: &str, property: Value| json!({"type": "object", "properties": {name: property}});
        for (name, property) in [
            ("password", json!({"type": "string"})),
            ("API-Key", json!({"type": "string"})),
            ("github_access_token", json!({})),
            ("pin", json!({"type": "string", "format": "password"})),
            ("x", json!({"type": "string", "writeOnly": true})),
        ] {
            assert_eq!(secret_field(&form(name, property)).map(String::as_str), Some(name));
        }
        for (name, property) in [
            ("name", json!({"type": "string"})),
            ("token_count", json!({"type": "integer"})),
            ("use_password", json!({"type": "boolean"})),
            ("secretary", json!({"type": "string"})),
        ] {
            assert_eq!(secret_field(&form(name, property)), None, "{name}");
        }
    }
}
