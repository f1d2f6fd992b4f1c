//! Lists with pages (tools, resources, templates, prompts) and the reading of resources and prompts.

use std::{collections::HashSet, time::Duration};

use gander_domain::{ErrorDetail, ErrorReason, Part, content::Annotations};
use rmcp::model::{
    ClientRequest, GetPromptRequest, GetPromptRequestParams, InputResponses, JsonObject, ListPromptsRequest,
    ListResourceTemplatesRequest, ListResourcesRequest, ListToolsRequest, PaginatedRequestParams,
    ReadResourceRequest, ReadResourceRequestParams,
};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    calls::error_of,
    connection::{Connection, Failure, RequestOptions},
    content::{self, json_text},
    rounds,
};

/// Pages of one list.
const MAX_PAGES: usize = 64;
/// Entries of one list.
const MAX_ENTRIES: usize = 10_000;
/// Deadline of a whole list, a resource or a prompt.
pub(crate) const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// A resource that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceInfo {
    /// Key of the extension.
    pub extension_name: String,
    /// Identifies it.
    pub uri: String,
    /// The server's name for it.
    pub name: String,
    /// For people.
    pub title: Option<String>,
    /// For people and models.
    pub description: Option<String>,
    /// Its media type.
    pub mime_type: Option<String>,
    /// Its size in bytes, where known.
    pub size_bytes: Option<u64>,
    /// For whom, how important.
    pub annotations: Option<Annotations>,
    /// `_meta`, verbatim.
    pub meta_json: Option<String>,
}

/// A family of resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceTemplateInfo {
    /// Key of the extension.
    pub extension_name: String,
    /// RFC 6570.
    pub uri_template: String,
    /// The server's name for it.
    pub name: String,
    /// For people.
    pub title: Option<String>,
    /// For people and models.
    pub description: Option<String>,
    /// Media type of all of them, if there is one.
    pub mime_type: Option<String>,
    /// `_meta`, verbatim.
    pub meta_json: Option<String>,
}

/// A prompt that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptInfo {
    /// Key of the extension.
    pub extension_name: String,
    /// Identifies it within the extension.
    pub name: String,
    /// For people.
    pub title: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// What it takes.
    pub arguments: Vec<PromptArgument>,
    /// `_meta`, verbatim.
    pub meta_json: Option<String>,
}

/// An argument of a prompt; all values are text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptArgument {
    /// Its name.
    pub name: String,
    /// For people.
    pub title: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Whether it must be given.
    pub required: bool,
}

/// A prompt with its arguments filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptResult {
    /// For people.
    pub description: Option<String>,
    /// The conversation that it stands for.
    pub messages: Vec<PromptMessage>,
    /// `_meta`, verbatim.
    pub meta_json: Option<String>,
}

/// One message of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptMessage {
    /// `user` or `assistant`.
    pub role: String,
    /// What it says.
    pub part: Part,
}

/// Which list.
#[derive(Debug, Clone, Copy)]
pub(crate) enum List {
    Tools,
    Resources,
    Templates,
    Prompts,
}

impl List {
    /// Name of the method and field of its result.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Tools => ("tools/list", "tools"),
            Self::Resources => ("resources/list", "resources"),
            Self::Templates => ("resources/templates/list", "resourceTemplates"),
            Self::Prompts => ("prompts/list", "prompts"),
        }
    }

    /// MCP's word for it.
    pub(crate) fn name(self) -> &'static str {
        self.names().1
    }

    fn request(self, cursor: Option<String>) -> ClientRequest {
        let params = PaginatedRequestParams::default().with_cursor(cursor);
        match self {
            Self::Tools => ListToolsRequest::with_param(params).into(),
            Self::Resources => ListResourcesRequest::with_param(params).into(),
            Self::Templates => ListResourceTemplatesRequest::with_param(params).into(),
            Self::Prompts => ListPromptsRequest::with_param(params).into(),
        }
    }

    fn is_offered(self, connection: &Connection) -> bool {
        let capabilities = &connection.info.capabilities;
        match self {
            Self::Tools => capabilities.tools.is_some(),
            Self::Resources | Self::Templates => capabilities.resources.is_some(),
            Self::Prompts => capabilities.prompts.is_some(),
        }
    }
}

fn options(deadline: Instant, timeout: Duration) -> RequestOptions {
    RequestOptions {
        deadline,
        timeout,
        cancel: CancellationToken::new(),
        progress: None,
        drain: Duration::ZERO,
        meta: None,
    }
}

/// What a server lists.
#[derive(Default)]
pub(crate) struct Listed {
    pub(crate) entries: Vec<Value>,
    /// Why there may be more than these.
    pub(crate) cut: Option<String>,
}

/// All pages of a list, empty when the server does not offer it. One deadline for all pages; a server that goes in
/// circles or on for ever gets what it sent so far taken.
pub(crate) async fn fetch(connection: &Connection, list: List, timeout: Duration) -> Result<Listed, Failure> {
    if !list.is_offered(connection) {
        return Ok(Listed::default());
    }
    let (method, field) = list.names();
    let deadline = Instant::now() + timeout;
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let page = connection.request(list.request(cursor.take()), options(deadline, timeout)).await?;
        let Value::Object(mut page) = page else {
            return Err(Failure::Gone(format!("the answer to {method} is not a JSON object")));
        };
        match page.remove(field) {
            Some(Value::Array(found)) => entries.extend(found),
            _ => return Err(Failure::Gone(format!("the answer to {method} has no list {field:?}"))),
        }
        let next = page.get("nextCursor").and_then(Value::as_str).map(str::to_owned);
        if entries.len() > MAX_ENTRIES {
            entries.truncate(MAX_ENTRIES);
            return Ok(cut(method, entries, &format!("has more than {MAX_ENTRIES} entries")));
        }
        let Some(next) = next else { return Ok(Listed { entries, cut: None }) };
        if !seen.insert(next.clone()) {
            return Ok(cut(method, entries, "repeats a page's cursor"));
        }
        cursor = Some(next);
    }
    Ok(cut(method, entries, &format!("does not end after {MAX_PAGES} pages")))
}

fn cut(method: &str, entries: Vec<Value>, how: &str) -> Listed {
    tracing::warn!(method, how, "a server's list is cut");
    let text = format!("the server's {method} {how}; its first {} entries are used", entries.len());
    Listed { entries, cut: Some(text) }
}

fn text(entry: &Value, name: &str) -> Option<String> {
    entry.get(name).and_then(Value::as_str).map(str::to_owned)
}

fn meta(entry: &Value) -> Option<String> {
    json_text(entry.get("_meta").cloned())
}

pub(crate) fn resource(key: &str, entry: &Value) -> Option<ResourceInfo> {
    let uri = text(entry, "uri")?;
    Some(ResourceInfo {
        extension_name: key.to_owned(),
        name: text(entry, "name").unwrap_or_else(|| uri.clone()),
        uri,
        title: text(entry, "title"),
        description: text(entry, "description"),
        mime_type: text(entry, "mimeType"),
        size_bytes: entry.get("size").and_then(Value::as_u64),
        annotations: entry.get("annotations").and_then(content::annotations),
        meta_json: meta(entry),
    })
}

pub(crate) fn template(key: &str, entry: &Value) -> Option<ResourceTemplateInfo> {
    let uri_template = text(entry, "uriTemplate")?;
    Some(ResourceTemplateInfo {
        extension_name: key.to_owned(),
        name: text(entry, "name").unwrap_or_else(|| uri_template.clone()),
        uri_template,
        title: text(entry, "title"),
        description: text(entry, "description"),
        mime_type: text(entry, "mimeType"),
        meta_json: meta(entry),
    })
}

pub(crate) fn prompt(key: &str, entry: &Value) -> Option<PromptInfo> {
    let arguments = entry.get("arguments").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let argument = |entry: &Value| {
        Some(PromptArgument {
            name: text(entry, "name")?,
            title: text(entry, "title"),
            description: text(entry, "description"),
            required: entry.get("required").and_then(Value::as_bool).unwrap_or(false),
        })
    };
    Some(PromptInfo {
        extension_name: key.to_owned(),
        name: text(entry, "name")?,
        title: text(entry, "title"),
        description: text(entry, "description"),
        arguments: arguments.iter().filter_map(argument).collect(),
        meta_json: meta(entry),
    })
}

/// Nothing may be asked of a server that it did not declare.
fn require(connection: &Connection, list: List, key: &str, what: &str) -> Result<(), ErrorDetail> {
    if list.is_offered(connection) {
        return Ok(());
    }
    Err(ErrorDetail::new(ErrorReason::CapabilityMissing, format!("extension {key} offers no {what}"))
        .with("extensionName", key))
}

pub(crate) async fn read_resource(
    connection: &Connection,
    key: &str,
    uri: &str,
) -> Result<Vec<Part>, ErrorDetail> {
    require(connection, List::Resources, key, "resources")?;
    let make = |responses: Option<InputResponses>, state: Option<String>| {
        let mut params = ReadResourceRequestParams::new(uri);
        (params.input_responses, params.request_state) = (responses, state);
        ReadResourceRequest::new(params).into()
    };
    let result = rounds::request(connection, RequestOptions::within(LIST_TIMEOUT), make).await;
    let result = result.map_err(|failure| {
        let error = error_of(key, &format!("resource {uri}"), failure).with("uri", uri);
        // -32002 until 2025-11-25, -32602 since.
        if error.reason == ErrorReason::InvalidField {
            ErrorDetail { reason: ErrorReason::ResourceNotFound, ..error }
        } else {
            error
        }
    })?;
    match result.get("contents") {
        Some(Value::Array(contents)) => Ok(contents.iter().map(content::resource_part).collect()),
        _ => Err(ErrorDetail::new(
            ErrorReason::ExtensionUnavailable,
            format!("extension {key}: the answer for the resource {uri} has no contents"),
        )),
    }
}

pub(crate) async fn get_prompt(
    connection: &Connection,
    key: &str,
    name: &str,
    arguments_json: &str,
) -> Result<PromptResult, ErrorDetail> {
    require(connection, List::Prompts, key, "prompts")?;
    let mut params = GetPromptRequestParams::new(name);
    if !arguments_json.trim().is_empty() {
        let arguments = serde_json::from_str::<JsonObject>(arguments_json).map_err(|error| {
            ErrorDetail::invalid("arguments_json", format!("must be a JSON object: {error}"))
        })?;
        params = params.with_arguments(arguments);
    }
    let make = |responses: Option<InputResponses>, state: Option<String>| {
        let mut params = params.clone();
        (params.input_responses, params.request_state) = (responses, state);
        GetPromptRequest::new(params).into()
    };
    let result = rounds::request(connection, RequestOptions::within(LIST_TIMEOUT), make).await;
    let result = result.map_err(|failure| error_of(key, &format!("prompt {name}"), failure))?;
    let messages = result.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(PromptResult {
        description: text(&result, "description"),
        messages: messages
            .iter()
            .map(|message| PromptMessage {
                role: text(message, "role").unwrap_or_else(|| "user".to_owned()),
                part: content::part(message.get("content").cloned().unwrap_or(Value::Null)),
            })
            .collect(),
        meta_json: meta(&result),
    })
}
