//! What servers may ask of the session that uses them: the engine's side of elicitation, sampling, roots and
//! authorization. The host asks through this trait and never decides by itself.

#![allow(missing_docs, reason = "the types say what their fields hold; only what is not obvious is documented")]

use futures::future::BoxFuture;
use gander_domain::{ErrorDetail, Part, Usage};

/// A question of a server to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElicitRequest {
    /// The extension's key: users must see who asks.
    pub extension_name: String,
    pub message: String,
    pub kind: ElicitKind,
}

/// Form or page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElicitKind {
    /// JSON Schema of a flat object.
    Form { schema_json: String },
    /// A page that the user opens.
    Url { url: String },
}

/// The three outcomes of an elicitation (MCP 2025-06-18).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElicitAnswer {
    /// JSON object text for forms; `None` for pages.
    Accept {
        content_json: Option<String>,
    },
    Decline,
    Cancel,
}

/// A server asks for a model call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleRequest {
    pub extension_name: String,
    pub system_prompt: Option<String>,
    pub messages: Vec<SampleMessage>,
    pub max_tokens: u64,
    /// Thousandths.
    pub temperature_millis: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleMessage {
    /// `user` or `assistant`.
    pub role: String,
    pub parts: Vec<Part>,
}

/// The model's answer to a sampling request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleResult {
    pub model_id: String,
    pub text: String,
    /// `endTurn`, `maxTokens`, `stopSequence`.
    pub stop_reason: String,
    pub usage: Usage,
}

/// A folder that belongs to the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// `file://` URI.
    pub uri: String,
    pub name: Option<String>,
}

/// An HTTP server wants the user's authorization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizeRequest {
    pub extension_name: String,
    /// The authorization URL to open.
    pub url: String,
    /// Whether the redirect may also be handed in as text, where no browser reaches this machine.
    pub accepts_callback_url: bool,
}

/// What came of an authorization question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorizeAnswer {
    /// The user says that the page was completed, or pasted the redirect's URL.
    Done {
        callback_url: Option<String>,
    },
    Declined,
}

/// The session as its servers may use it. Dropping a returned future withdraws the question.
pub trait SessionClient: Send + Sync + 'static {
    /// Asks the user. Nobody answering in time is a decline.
    fn elicit(&self, request: ElicitRequest) -> BoxFuture<'_, ElicitAnswer>;

    /// Whether `extension_name` may use the session's model at all; decides what is offered to the server.
    fn allows_sampling(&self, extension_name: &str) -> bool;

    /// Calls the session's model for a server.
    ///
    /// # Errors
    /// Not allowed, over budget, refused by the user, or the model's own failure.
    fn sample(&self, request: SampleRequest) -> BoxFuture<'_, Result<SampleResult, ErrorDetail>>;

    /// The session's folders, working directory first.
    fn roots(&self) -> Vec<Root>;

    /// Asks the user to authorize an HTTP server.
    fn authorize(&self, request: AuthorizeRequest) -> BoxFuture<'_, AuthorizeAnswer>;

    /// Stored tokens of (issuer, resource), as opaque JSON text.
    fn load_credentials(&self, key: &str) -> Option<String>;

    /// Keeps or forgets (`None`) tokens.
    fn store_credentials(&self, key: &str, body: Option<String>);
}

/// A session that answers nothing: for tests and one-off calls.
#[derive(Debug, Default)]
pub struct NoClient;

impl SessionClient for NoClient {
    fn elicit(&self, _request: ElicitRequest) -> BoxFuture<'_, ElicitAnswer> {
        Box::pin(std::future::ready(ElicitAnswer::Decline))
    }

    fn allows_sampling(&self, _extension_name: &str) -> bool {
        false
    }

    fn sample(&self, _request: SampleRequest) -> BoxFuture<'_, Result<SampleResult, ErrorDetail>> {
        let error =
            ErrorDetail::new(gander_domain::ErrorReason::CapabilityMissing, "sampling is not offered here");
        Box::pin(std::future::ready(Err(error)))
    }

    fn roots(&self) -> Vec<Root> {
        Vec::new()
    }

    fn authorize(&self, _request: AuthorizeRequest) -> BoxFuture<'_, AuthorizeAnswer> {
        Box::pin(std::future::ready(AuthorizeAnswer::Declined))
    }

    fn load_credentials(&self, _key: &str) -> Option<String> {
        None
    }

    fn store_credentials(&self, _key: &str, _body: Option<String>) {}
}
