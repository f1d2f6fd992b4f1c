//! Error kinds: one closed vocabulary for API errors and for failures inside turns.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $wire:literal,)*) => {
        /// Why something failed. The name on the wire is that of the proto enum `ErrorReason` without its prefix.
        /// A pair (reason, domain `gander.v1`) calls for one action of the client; the service holds the one table
        /// that maps reasons to gRPC codes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum ErrorReason {
            $($(#[$doc])* #[serde(rename = $wire)] $name,)*
        }

        impl ErrorReason {
            /// All reasons, in declaration order.
            pub const ALL: &'static [ErrorReason] = &[$(ErrorReason::$name,)*];

            /// UPPER_SNAKE name, as in `google.rpc.ErrorInfo.reason`.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorReason::$name => $wire,)* }
            }
        }
    };
}

reasons! {
    SessionNotFound => "SESSION_NOT_FOUND",
    TurnNotFound => "TURN_NOT_FOUND",
    ItemNotFound => "ITEM_NOT_FOUND",
    InteractionNotFound => "INTERACTION_NOT_FOUND",
    ExtensionNotFound => "EXTENSION_NOT_FOUND",
    RecipeNotFound => "RECIPE_NOT_FOUND",
    ScheduleNotFound => "SCHEDULE_NOT_FOUND",
    ContentNotFound => "CONTENT_NOT_FOUND",
    ResourceNotFound => "RESOURCE_NOT_FOUND",
    PromptNotFound => "PROMPT_NOT_FOUND",
    ProviderNotFound => "PROVIDER_NOT_FOUND",
    HostCallNotFound => "HOST_CALL_NOT_FOUND",
    ToolNotFound => "TOOL_NOT_FOUND",
    ToolNotAllowed => "TOOL_NOT_ALLOWED",
    TurnAlreadyRunning => "TURN_ALREADY_RUNNING",
    TurnNotRunning => "TURN_NOT_RUNNING",
    SessionArchived => "SESSION_ARCHIVED",
    SessionExists => "SESSION_EXISTS",
    InteractionResolved => "INTERACTION_RESOLVED",
    ScheduleRunning => "SCHEDULE_RUNNING",
    ScheduleNotRunning => "SCHEDULE_NOT_RUNNING",
    TurnIdReused => "TURN_ID_REUSED",
    RequestIdReused => "REQUEST_ID_REUSED",
    ScheduleExists => "SCHEDULE_EXISTS",
    HostAlreadyAttached => "HOST_ALREADY_ATTACHED",
    InvalidField => "INVALID_FIELD",
    WorkingDirectoryInvalid => "WORKING_DIRECTORY_INVALID",
    ElicitationContentInvalid => "ELICITATION_CONTENT_INVALID",
    PageTokenInvalid => "PAGE_TOKEN_INVALID",
    RecipeInvalid => "RECIPE_INVALID",
    RecipeParametersMissing => "RECIPE_PARAMETERS_MISSING",
    LinkInvalid => "LINK_INVALID",
    CronInvalid => "CRON_INVALID",
    ImportInvalid => "IMPORT_INVALID",
    ExtensionConfigInvalid => "EXTENSION_CONFIG_INVALID",
    ExtensionTypeUnsupported => "EXTENSION_TYPE_UNSUPPORTED",
    EnvKeyDisallowed => "ENV_KEY_DISALLOWED",
    SecretMissing => "SECRET_MISSING",
    CommandNotAllowed => "COMMAND_NOT_ALLOWED",
    ExtensionStartFailed => "EXTENSION_START_FAILED",
    ExtensionStartTimeout => "EXTENSION_START_TIMEOUT",
    ExtensionNeedsAuth => "EXTENSION_NEEDS_AUTH",
    ExtensionUnavailable => "EXTENSION_UNAVAILABLE",
    ToolTimedOut => "TOOL_TIMED_OUT",
    ProviderNotConfigured => "PROVIDER_NOT_CONFIGURED",
    ProviderUnauthenticated => "PROVIDER_UNAUTHENTICATED",
    ModelUnknown => "MODEL_UNKNOWN",
    ProviderBadRequest => "PROVIDER_BAD_REQUEST",
    ProviderRateLimited => "PROVIDER_RATE_LIMITED",
    ProviderQuotaExhausted => "PROVIDER_QUOTA_EXHAUSTED",
    ProviderOverloaded => "PROVIDER_OVERLOADED",
    ProviderUnavailable => "PROVIDER_UNAVAILABLE",
    ProviderStreamTruncated => "PROVIDER_STREAM_TRUNCATED",
    ContextWindowExceeded => "CONTEXT_WINDOW_EXCEEDED",
    BudgetExceeded => "BUDGET_EXCEEDED",
    SequenceCompacted => "SEQUENCE_COMPACTED",
    SequenceAhead => "SEQUENCE_AHEAD",
    EtagMismatch => "ETAG_MISMATCH",
    ConfigReadOnly => "CONFIG_READ_ONLY",
    ConfigMalformed => "CONFIG_MALFORMED",
    PolicyDenied => "POLICY_DENIED",
    SecretStoreUnavailable => "SECRET_STORE_UNAVAILABLE",
    StoreFull => "STORE_FULL",
    StoreReadOnly => "STORE_READ_ONLY",
    StoreFenced => "STORE_FENCED",
    StoreCorrupt => "STORE_CORRUPT",
    StoreUnavailable => "STORE_UNAVAILABLE",
    ShuttingDown => "SHUTTING_DOWN",
    Overloaded => "OVERLOADED",
    MessageTooLarge => "MESSAGE_TOO_LARGE",
    TokenInvalid => "TOKEN_INVALID",
    CallerIsTool => "CALLER_IS_TOOL",
    CapabilityMissing => "CAPABILITY_MISSING",
    NotImplemented => "NOT_IMPLEMENTED",
    Internal => "INTERNAL",
}

impl fmt::Display for ErrorReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One violated field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldViolation {
    /// Dotted path below the request message.
    pub field: String,
    /// What is wrong and what would be right.
    pub description: String,
}

/// An error with its reason, a message for people, and facts for programs. Also the error of a failed turn in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorDetail {
    pub reason: ErrorReason,
    /// Names the field or thing and the remedy. Never holds a secret.
    pub message: String,
    /// Every dynamic part of the message that a program may want; lowerCamelCase keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// When a retry may help: how long to wait, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// For `INVALID_FIELD` and its kin: all violations of the request at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<FieldViolation>,
}

impl ErrorDetail {
    /// An error without metadata.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            retry_after_ms: None,
            violations: Vec::new(),
        }
    }

    /// Adds one fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Says when a retry may help.
    #[must_use]
    pub fn retry_after(mut self, delay: std::time::Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// One invalid field.
    pub fn invalid(field: &str, description: impl Into<String>) -> Self {
        let description = description.into();
        let mut error = Self::new(ErrorReason::InvalidField, format!("{field}: {description}"));
        error.violations.push(FieldViolation { field: field.to_owned(), description });
        error.with("field", field)
    }

    /// The session does not exist.
    pub fn session_not_found(session_id: impl fmt::Display) -> Self {
        Self::new(
            ErrorReason::SessionNotFound,
            format!("session {session_id} does not exist; ListSessions shows those that do"),
        )
        .with("sessionId", session_id)
    }

    /// A defect of gander itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorReason::Internal, message)
    }
}
