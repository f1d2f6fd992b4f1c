//! Goose's messages: what conversations, streams and stored sessions are made of.
//!
//! Field names and their mixed spelling (`requested_schema` among camelCase ones) are Goose's. Reading is strict in the
//! shapes that Goose itself insists on; a content of a type that is not known is kept as it is.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Map, Value};

/// One message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Id. Goose leaves it out of some messages.
    #[serde(default)]
    pub id: Option<String>,
    /// Who speaks. Results of tools speak as the user.
    pub role: Role,
    /// Unix time in whole seconds.
    pub created: i64,
    /// The content, in order.
    #[serde(serialize_with = "write_contents", deserialize_with = "contents")]
    pub content: Vec<Content>,
    /// Who sees it.
    pub metadata: Metadata,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    User,
    Assistant,
}

/// Who sees a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// People.
    pub user_visible: bool,
    /// The model.
    pub agent_visible: bool,
}

impl Metadata {
    /// Seen by people and the model.
    pub const BOTH: Self = Self { user_visible: true, agent_visible: true };
    /// Seen by people only.
    pub const USER_ONLY: Self = Self { user_visible: true, agent_visible: false };
}

/// One piece of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Content {
    /// Text.
    Text {
        text: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        annotations: Option<Value>,
        #[serde(rename = "_meta", default, skip_serializing_if = "Option::is_none")]
        meta: Option<Value>,
    },
    /// A picture, base64.
    Image {
        data: String,
        mime_type: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        annotations: Option<Value>,
        #[serde(rename = "_meta", default, skip_serializing_if = "Option::is_none")]
        meta: Option<Value>,
    },
    /// The model asks for a tool.
    ToolRequest {
        id: String,
        tool_call: Outcome<Call>,
        /// The provider's own data.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Value>,
        /// `_meta` of the tool's definition.
        #[serde(rename = "_meta", default, skip_serializing_if = "Option::is_none")]
        meta: Option<Value>,
    },
    /// What a tool gave.
    ToolResponse {
        id: String,
        tool_result: Outcome<CallResult>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Value>,
    },
    /// Old form of a question about a tool call.
    ToolConfirmationRequest {
        id: String,
        tool_name: String,
        #[serde(default)]
        arguments: Value,
        #[serde(default)]
        prompt: Option<String>,
    },
    /// A question to a person, or the answer to one.
    ActionRequired { data: Action },
    /// A tool that the client is to run.
    FrontendToolRequest { id: String, tool_call: Outcome<Call> },
    /// A thought of the model.
    Thinking {
        thinking: String,
        #[serde(default)]
        signature: String,
    },
    /// A thought that the provider hides.
    RedactedThinking { data: String },
    /// A remark for people.
    SystemNotification {
        notification_type: NotificationType,
        msg: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Value>,
    },
    /// A thought in the form of some providers.
    Reasoning { text: String },
    /// Mark of very old versions; means nothing any more.
    ConversationCompacted {},
    /// A type that is not known, verbatim. Read and written as part of a [`Message`] only.
    #[serde(skip)]
    Unknown(Value),
}

/// Types of [`Content`] that are known.
const KNOWN: &[&str] = &[
    "text",
    "image",
    "toolRequest",
    "toolResponse",
    "toolConfirmationRequest",
    "actionRequired",
    "frontendToolRequest",
    "thinking",
    "redactedThinking",
    "systemNotification",
    "reasoning",
    "conversationCompacted",
];

impl Content {
    /// Plain text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into(), annotations: None, meta: None }
    }

    /// A remark.
    #[must_use]
    pub fn notification(notification_type: NotificationType, msg: impl Into<String>) -> Self {
        Self::SystemNotification { notification_type, msg: msg.into(), data: None }
    }
}

fn contents<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Content>, D::Error> {
    let values = Vec::<Value>::deserialize(deserializer)?;
    let one = |(index, value): (usize, Value)| {
        let kind = value.get("type").and_then(Value::as_str);
        match kind {
            None => Err(D::Error::custom(format!("content[{index}]: missing field `type`"))),
            Some(kind) if !KNOWN.contains(&kind) => Ok(Content::Unknown(value)),
            Some(_) => serde_json::from_value(value)
                .map_err(|error| D::Error::custom(format!("content[{index}]: {error}"))),
        }
    };
    values.into_iter().enumerate().map(one).collect()
}

fn write_contents<S: Serializer>(contents: &[Content], serializer: S) -> Result<S::Ok, S::Error> {
    struct One<'a>(&'a Content);
    impl Serialize for One<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self.0 {
                Content::Unknown(value) => value.serialize(serializer),
                known => known.serialize(serializer),
            }
        }
    }
    serializer.collect_seq(contents.iter().map(One))
}

/// Kinds of remarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NotificationType {
    /// What happens just now.
    ThinkingMessage,
    /// A line between messages.
    InlineMessage,
    /// The provider wants money.
    CreditsExhausted,
}

/// Success or error, as Goose writes results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome<T> {
    /// It worked.
    Success { value: T },
    /// It did not.
    Error { error: String },
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Public name of the tool.
    pub name: String,
    /// The arguments, an object. Whatever else arrives is wrapped as `{"value": …}`, as Goose does.
    #[serde(default, deserialize_with = "arguments", skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Map<String, Value>>,
}

fn arguments<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Map<String, Value>>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::Object(map) => Some(map),
        other => Some(Map::from_iter([("value".to_owned(), other)])),
    })
}

/// What a tool gave.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallResult {
    /// MCP content blocks.
    pub content: Vec<Value>,
    /// Structured content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured_content: Option<Value>,
    /// The tool's own word that it failed.
    pub is_error: bool,
    /// `_meta`.
    #[serde(rename = "_meta", skip_serializing_if = "Option::is_none")]
    pub meta: Option<Value>,
}

impl<'de> Deserialize<'de> for CallResult {
    /// Older documents have the bare list of content blocks.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Whole {
            content: Vec<Value>,
            #[serde(default)]
            structured_content: Option<Value>,
            #[serde(default)]
            is_error: Option<bool>,
            #[serde(rename = "_meta", default)]
            meta: Option<Value>,
        }
        match Value::deserialize(deserializer)? {
            Value::Array(content) => Ok(Self { content, ..Self::default() }),
            value => {
                let whole: Whole = serde_json::from_value(value).map_err(D::Error::custom)?;
                Ok(Self {
                    content: whole.content,
                    structured_content: whole.structured_content,
                    is_error: whole.is_error.unwrap_or(false),
                    meta: whole.meta,
                })
            }
        }
    }
}

/// A question to a person, or the answer to one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "actionType", rename_all = "camelCase")]
pub enum Action {
    /// May this tool call run?
    ToolConfirmation {
        id: String,
        #[serde(rename = "toolName")]
        tool_name: String,
        #[serde(default)]
        arguments: Value,
        /// Why. With a text, Goose's window does not offer to remember the answer.
        #[serde(default)]
        prompt: Option<String>,
    },
    /// A form to fill in.
    Elicitation { id: String, message: String, requested_schema: Value },
    /// The form, filled in.
    ElicitationResponse { id: String, user_data: Value },
}
