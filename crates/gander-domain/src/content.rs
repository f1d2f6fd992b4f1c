//! Content parts: what messages and tool results consist of. The vocabulary is MCP's content blocks plus `diff` and
//! `terminal` for display.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ContentId, Timestamp};

/// Binary data; base64 in JSON.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let text = String::deserialize(deserializer)?;
        base64::engine::general_purpose::STANDARD.decode(text).map(Blob).map_err(serde::de::Error::custom)
    }
}

/// Bytes, here or stored beside the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// The bytes themselves, at most 256 KiB.
    Inline(Blob),
    /// Stored beside the log, read by `ReadContent`.
    Content(ContentId),
}

/// One part of a message or of a tool result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    #[serde(flatten)]
    pub body: PartBody,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    /// `_meta` of the source, verbatim JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_json: Option<String>,
}

/// MCP annotations of a part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Annotations {
    /// `user`, `assistant`; empty = both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// Thousandths, 0 (optional) to 1000 (required).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_millis: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<Timestamp>,
}

/// The kinds of parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartBody {
    Text(String),
    /// Text too long for an event; its bytes are UTF-8 content.
    TextContent {
        content_id: ContentId,
        size_bytes: u64,
    },
    Image {
        data: Data,
        mime_type: String,
    },
    Audio {
        data: Data,
        mime_type: String,
    },
    Resource {
        uri: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mime_type: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Data>,
    },
    ResourceLink {
        uri: String,
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mime_type: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_bytes: Option<u64>,
    },
    Diff {
        path: String,
        /// Absent for a new file, or when only the patch is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        old_text: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new_text: Option<String>,
        /// Unified diff.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        patch: Option<String>,
    },
    Terminal {
        terminal_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    /// A part of a kind that this build does not know, kept as it came.
    Unknown {
        kind: String,
        raw_json: String,
    },
}

impl Part {
    /// A part without annotations.
    pub fn new(body: PartBody) -> Self {
        Self { body, annotations: None, meta_json: None }
    }

    /// A text part.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(PartBody::Text(text.into()))
    }

    /// The text of a text part.
    pub fn as_text(&self) -> Option<&str> {
        match &self.body {
            PartBody::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Bytes of text and inline data in this part.
    pub fn size_bytes(&self) -> usize {
        let data = |data: &Data| match data {
            Data::Inline(blob) => blob.0.len(),
            Data::Content(_) => 0,
        };
        let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        match &self.body {
            PartBody::Text(text) => text.len(),
            PartBody::TextContent { .. } => 0,
            PartBody::Image { data: d, .. } | PartBody::Audio { data: d, .. } => data(d),
            PartBody::Resource { uri, text, data: d, .. } => {
                uri.len() + len(text) + d.as_ref().map_or(0, data)
            }
            PartBody::ResourceLink { uri, name, .. } => uri.len() + name.len(),
            PartBody::Diff { path, old_text, new_text, patch } => {
                path.len() + len(old_text) + len(new_text) + len(patch)
            }
            PartBody::Terminal { terminal_id, .. } => terminal_id.len(),
            PartBody::Unknown { raw_json, .. } => raw_json.len(),
        }
    }
}

/// All text parts joined by newlines.
pub fn join_text(parts: &[Part]) -> String {
    let mut out = String::new();
    for text in parts.iter().filter_map(Part::as_text) {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(text);
    }
    out
}
