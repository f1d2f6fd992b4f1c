//! What servers may ask of the session that uses them: the engine's side of elicitation, sampling, roots and
//! authorization. The host asks through this trait and never decides by itself.

#![allow(
    missing_docs,
    reason = "the types say what their fields hold; only what is not obvious is documented"
)]

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use gander_domain::{ErrorDetail, Part, Usage};

use crate::session::SessionExtensions;

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

/// A command for a terminal of an attached program.
#[derive(Debug)]
pub struct HostCommand {
    /// The tool call that the command is; the program shows the terminal there.
    pub item_id: gander_domain::ItemId,
    /// A [`TerminalRun`](gander_domain::host::HostCallKind::TerminalRun).
    pub run: gander_domain::host::HostCallKind,
    /// After it the program ends the command and says what it wrote.
    pub timeout: std::time::Duration,
    /// Gets the output while the command runs. What does not fit in is left out.
    pub progress: tokio::sync::mpsc::Sender<crate::CallProgress>,
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

/// An extension that the session has or could have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownExtension {
    /// Its key.
    pub key: String,
    pub description: String,
    /// Switched on for new sessions by the configuration.
    pub enabled: bool,
    /// This session has it.
    pub active: bool,
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

    /// Approved tool definitions of an extension: the extension's own tool name → definition hash. Empty when
    /// nothing was approved yet.
    fn pinned(&self, _extension: &str) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// A document that a builtin keeps with the session.
    ///
    /// # Errors
    /// When the session cannot be read.
    fn load_state(&self, _key: &str) -> BoxFuture<'_, Result<Option<String>, ErrorDetail>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Keeps a document with the session.
    ///
    /// # Errors
    /// When it cannot be stored.
    fn save_state(&self, _key: &str, _value: String) -> BoxFuture<'_, Result<(), ErrorDetail>> {
        Box::pin(std::future::ready(Err(not_offered("state of the session"))))
    }

    /// The configured and the active extensions.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    fn known_extensions(&self) -> BoxFuture<'_, Result<Vec<KnownExtension>, ErrorDetail>> {
        Box::pin(std::future::ready(Err(not_offered("management of extensions"))))
    }

    /// Adds a configured extension to the session and waits until it is ready, or takes one out.
    ///
    /// # Errors
    /// When it is not configured, does not start, or is not active.
    fn set_extension(&self, _name: &str, _active: bool) -> BoxFuture<'_, Result<(), ErrorDetail>> {
        Box::pin(std::future::ready(Err(not_offered("management of extensions"))))
    }

    /// Work that an attached program may do for the session, files and terminals; `None` when none is attached that
    /// can. Dropping the future withdraws it.
    fn host_call(
        &self,
        _work: gander_domain::host::HostCallKind,
    ) -> BoxFuture<'_, Option<Result<gander_domain::host::HostCallOutcome, ErrorDetail>>> {
        Box::pin(std::future::ready(None))
    }

    /// A command that an attached program may run in a terminal of its own; `None` when none is attached that can, or
    /// none shall. Dropping the future ends the command.
    ///
    /// An error with the reason `CAPABILITY_MISSING` or `OVERLOADED`: nothing was begun.
    fn host_command(
        &self,
        _command: HostCommand,
    ) -> BoxFuture<'_, Option<Result<gander_domain::host::HostCallOutcome, ErrorDetail>>> {
        Box::pin(std::future::ready(None))
    }

    /// The session's extensions, for those that read resources of others.
    fn extensions(&self) -> Option<Arc<SessionExtensions>> {
        None
    }

    /// Keeps the approved tool definitions of an extension.
    fn pin(&self, _extension: &str, _definitions: BTreeMap<String, String>) {}
}

fn not_offered(what: &str) -> ErrorDetail {
    ErrorDetail::new(gander_domain::ErrorReason::CapabilityMissing, format!("{what} is not offered here"))
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
