//! How answers read, for models and for clients.

use base64::Engine as _;
use rmcp::model::{CallToolResult, ContentBlock};
use schemars::JsonSchema;
use serde::Serialize;

use crate::hooks::{AvailableExtension, Body, ListedResource, ResourceContent};

/// Bytes of text in one answer.
const MAX_TEXT: usize = 256 * 1024;
/// Bytes of an image that is passed on.
const MAX_IMAGE: usize = 5 * 1024 * 1024;

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Found {
    extensions: Vec<Extension>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Extension {
    name: String,
    description: String,
    /// Whether new sessions have it.
    enabled: bool,
    /// Whether this session has it.
    active: bool,
}

impl Found {
    pub(super) fn new(found: Vec<AvailableExtension>) -> Self {
        let extension = |found| {
            let AvailableExtension { name, description, enabled, active } = found;
            Extension { name, description, enabled, active }
        };
        Self { extensions: found.into_iter().map(extension).collect() }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Managed {
    pub(super) extension_name: String,
    /// Whether this session has it now.
    pub(super) active: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listed {
    resources: Vec<Resource>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Resource {
    extension: String,
    uri: String,
    name: String,
    description: String,
    mime_type: String,
}

impl Listed {
    pub(super) fn new(listed: Vec<ListedResource>) -> Self {
        let resource = |listed| {
            let ListedResource { extension, uri, name, description, mime_type } = listed;
            Resource { extension, uri, name, description, mime_type }
        };
        Self { resources: listed.into_iter().map(resource).collect() }
    }
}

pub(super) fn extensions(found: &[AvailableExtension]) -> String {
    let line = |extension: &AvailableExtension| {
        let AvailableExtension { name, description, .. } = extension;
        let about = if description.is_empty() { String::new() } else { format!(": {description}") };
        format!("- {name}{about}\n")
    };
    let part = |title: &str, active: bool| {
        let lines: String = found.iter().filter(|found| found.active == active).map(line).collect();
        if lines.is_empty() { lines } else { format!("{title}\n{lines}") }
    };
    let available = part("Extensions that can be enabled:", false);
    let active = part("Extensions of this session:", true);
    match (available.is_empty(), active.is_empty()) {
        (true, true) => "There are no extensions, neither active nor configured.".to_owned(),
        (true, false) => format!("No further extension can be enabled.\n\n{active}"),
        (false, true) => available,
        (false, false) => format!("{available}\n{active}"),
    }
}

/// One line for each, as Goose writes them.
pub(super) fn resources(listed: &[ListedResource], extension: Option<&str>) -> String {
    if listed.is_empty() {
        return match extension {
            Some(name) => format!("The extension {name} offers no resources."),
            None => "No extension of this session offers resources.".to_owned(),
        };
    }
    let line = |resource: &ListedResource| {
        let ListedResource { extension, uri, name, .. } = resource;
        format!("{extension} - {name}, uri: ({uri})\n")
    };
    listed.iter().map(line).collect()
}

/// Text below its address; images as images; the rest by type and size.
pub(super) fn contents(uri: &str, contents: Vec<ResourceContent>) -> CallToolResult {
    if contents.is_empty() {
        return CallToolResult::success(vec![ContentBlock::text(format!("{uri} is empty."))]);
    }
    let mut room = MAX_TEXT;
    let blocks = contents.into_iter().flat_map(|content| blocks(content, &mut room)).collect();
    CallToolResult::success(blocks)
}

fn blocks(content: ResourceContent, room: &mut usize) -> Vec<ContentBlock> {
    let ResourceContent { uri, mime_type, body } = content;
    match body {
        Body::Text(text) => {
            let end = text.floor_char_boundary(text.len().min(*room));
            *room -= end;
            let (shown, left) = text.split_at(end);
            let note = if left.is_empty() {
                String::new()
            } else {
                format!("\n[... {} more bytes are left out]", left.len())
            };
            vec![ContentBlock::text(format!("{uri}\n\n{shown}{note}"))]
        }
        Body::Bytes(bytes) if mime_type.starts_with("image/") && bytes.len() <= MAX_IMAGE => {
            let data = base64::engine::general_purpose::STANDARD.encode(&bytes);
            let text = format!("{uri}\n\n{mime_type}, {} bytes", bytes.len());
            vec![ContentBlock::text(text), ContentBlock::image(data, mime_type)]
        }
        Body::Bytes(bytes) => {
            let kind = if mime_type.is_empty() { "data of unknown type" } else { &mime_type };
            let text = format!("{uri}\n\n[{kind}, {} bytes, which cannot be shown as text]", bytes.len());
            vec![ContentBlock::text(text)]
        }
    }
}
