//! Parts ⇄ contents of Goose's messages, and ⇄ MCP's content blocks, which results are made of.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gander_proto::v1::{
    Annotations, MediaPart, Part, ResourceContents, ResourceLink, ToolResult, UnknownPart, media_part, part,
    resource_contents,
};
use serde_json::{Map, Value, json};

use super::times::{parsed, rfc3339};
use crate::session::{CallResult, Content};

pub(super) fn parse_object(json: &str) -> Option<Map<String, Value>> {
    if json.is_empty() {
        return None;
    }
    match serde_json::from_str(json) {
        Ok(Value::Object(map)) => Some(map),
        Ok(other) => Some(Map::from_iter([("value".to_owned(), other)])),
        Err(_) => None,
    }
}

pub(super) fn parse(json: &str) -> Option<Value> {
    if json.is_empty() { None } else { serde_json::from_str(json).ok() }
}

/// Parts of a message. Goose's messages hold text and pictures; whatever else there is becomes text that says what it
/// stands for.
pub fn parts(parts: &[Part]) -> Vec<Content> {
    parts.iter().filter_map(part_content).collect()
}

fn part_content(part: &Part) -> Option<Content> {
    let annotations = part.annotations.as_ref().map(annotations);
    let meta = parse(&part.meta_json);
    let text = |text: String| Some(Content::Text { text, annotations: None, meta: None });
    match part.body.as_ref()? {
        part::Body::Text(text) if text.is_empty() => None,
        part::Body::Text(text) => Some(Content::Text { text: text.clone(), annotations, meta }),
        part::Body::Image(image) => Some(Content::Image {
            data: media_data(image.source.as_ref()),
            mime_type: image.mime_type.clone(),
            annotations,
            meta,
        }),
        part::Body::Audio(audio) => text(format!("[audio, {}]", audio.mime_type)),
        part::Body::Resource(resource) => match &resource.contents {
            Some(resource_contents::Contents::Text(contents)) => {
                text(format!("{}\n\n{contents}", resource.uri))
            }
            _ => text(format!("[resource {}]", resource.uri)),
        },
        part::Body::ResourceLink(link) => {
            let name = if link.title.is_empty() { &link.name } else { &link.title };
            text(format!("[{name}]({})", link.uri))
        }
        part::Body::Diff(diff) => text(format!("[change of {}]", diff.path)),
        part::Body::Terminal(_) => None,
        part::Body::TextContentId(id) => text(format!("[a long text that is not available, {id}]")),
        part::Body::Unknown(unknown) => {
            Some(parse(&unknown.raw_json).map_or_else(|| Content::text(&unknown.raw_json), Content::Unknown))
        }
    }
}

fn media_data(source: Option<&media_part::Source>) -> String {
    match source {
        Some(media_part::Source::Data(data)) => STANDARD.encode(data),
        _ => String::new(),
    }
}

fn annotations(annotations: &Annotations) -> Value {
    let mut map = Map::new();
    if !annotations.audience.is_empty() {
        map.insert("audience".to_owned(), Value::from(annotations.audience.clone()));
    }
    if let Some(priority) = annotations.priority {
        map.insert("priority".to_owned(), Value::from(priority));
    }
    if let Some(time) = &annotations.last_modified {
        map.insert("lastModified".to_owned(), Value::from(rfc3339(Some(time))));
    }
    Value::Object(map)
}

/// A result with MCP's content blocks.
pub fn call_result(result: &ToolResult) -> CallResult {
    CallResult {
        content: result.parts.iter().map(block).collect(),
        structured_content: parse(&result.structured_content_json),
        is_error: result.is_error,
        meta: parse(&result.meta_json).map(untrusted),
    }
}

/// Without what Goose's windows take for the host's own word.
fn untrusted(mut meta: Value) -> Value {
    if let Value::Object(map) = &mut meta {
        map.retain(|name, _| name != "goose" && !name.starts_with("goose/") && name != "goose_extension");
    }
    meta
}

/// A part as MCP writes it.
pub fn block(part: &Part) -> Value {
    let mut block = match &part.body {
        None => json!({"type": "text", "text": ""}),
        Some(part::Body::Text(text)) => json!({"type": "text", "text": text}),
        Some(part::Body::Image(media)) => {
            json!({"type": "image", "data": media_data(media.source.as_ref()), "mimeType": media.mime_type})
        }
        Some(part::Body::Audio(media)) => {
            json!({"type": "audio", "data": media_data(media.source.as_ref()), "mimeType": media.mime_type})
        }
        Some(part::Body::Resource(resource)) => {
            json!({"type": "resource", "resource": resource_json(resource)})
        }
        Some(part::Body::ResourceLink(link)) => resource_link(link),
        Some(part::Body::Unknown(unknown)) => {
            parse(&unknown.raw_json).unwrap_or_else(|| json!({"type": "text", "text": unknown.raw_json}))
        }
        Some(_) => {
            let text: Vec<String> = part_content(part)
                .into_iter()
                .filter_map(|content| match content {
                    Content::Text { text, .. } => Some(text),
                    _ => None,
                })
                .collect();
            json!({"type": "text", "text": text.concat()})
        }
    };
    if let Value::Object(map) = &mut block {
        if let Some(hints) = &part.annotations {
            map.insert("annotations".to_owned(), annotations(hints));
        }
        if let Some(meta) = parse(&part.meta_json) {
            map.insert("_meta".to_owned(), meta);
        }
    }
    block
}

/// Contents of a resource as MCP writes them.
pub fn resource_json(resource: &ResourceContents) -> Value {
    let mut map = Map::from_iter([("uri".to_owned(), Value::from(resource.uri.as_str()))]);
    if !resource.mime_type.is_empty() {
        map.insert("mimeType".to_owned(), Value::from(resource.mime_type.as_str()));
    }
    match &resource.contents {
        Some(resource_contents::Contents::Text(text)) => {
            map.insert("text".to_owned(), Value::from(text.as_str()));
        }
        Some(resource_contents::Contents::Data(data)) => {
            map.insert("blob".to_owned(), Value::from(STANDARD.encode(data)));
        }
        _ => {}
    }
    if let Some(meta) = parse(&resource.meta_json) {
        map.insert("_meta".to_owned(), meta);
    }
    Value::Object(map)
}

fn resource_link(link: &ResourceLink) -> Value {
    let mut map = Map::from_iter([
        ("type".to_owned(), Value::from("resource_link")),
        ("uri".to_owned(), Value::from(link.uri.as_str())),
        ("name".to_owned(), Value::from(link.name.as_str())),
    ]);
    for (field, text) in
        [("title", &link.title), ("description", &link.description), ("mimeType", &link.mime_type)]
    {
        if !text.is_empty() {
            map.insert(field.to_owned(), Value::from(text.as_str()));
        }
    }
    if let Some(size) = link.size_bytes {
        map.insert("size".to_owned(), Value::from(size));
    }
    Value::Object(map)
}

/// Text without the invisible "tag" characters, which people cannot see and models obey.
fn visible(text: &str) -> String {
    text.chars().filter(|c| !('\u{E0000}'..='\u{E007F}').contains(c)).collect()
}

pub(super) fn content_part(content: &Content) -> Option<Part> {
    let (body, annotations, meta) = match content {
        Content::Text { text, annotations, meta } => (part::Body::Text(visible(text)), annotations, meta),
        Content::Image { data, mime_type, annotations, meta } => {
            let data = STANDARD.decode(data).ok()?;
            (part::Body::Image(media(data, mime_type)), annotations, meta)
        }
        _ => return None,
    };
    Some(Part {
        body: Some(body),
        annotations: annotations.as_ref().and_then(hints),
        meta_json: meta.as_ref().filter(|meta| meta.is_object()).map(Value::to_string).unwrap_or_default(),
        size_bytes: 0,
    })
}

fn media(data: Vec<u8>, mime_type: &str) -> MediaPart {
    MediaPart { source: Some(media_part::Source::Data(data.into())), mime_type: mime_type.to_owned() }
}

fn hints(value: &Value) -> Option<Annotations> {
    let map = value.as_object()?;
    let audience = map.get("audience").and_then(Value::as_array).into_iter().flatten();
    Some(Annotations {
        audience: audience.filter_map(|who| who.as_str().map(str::to_owned)).collect(),
        priority: map.get("priority").and_then(Value::as_f64),
        last_modified: map.get("lastModified").and_then(Value::as_str).and_then(parsed),
    })
}

pub(super) fn unknown(value: &Value) -> Part {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("unknown").to_owned();
    bare(part::Body::Unknown(UnknownPart { kind, raw_json: value.to_string() }))
}

pub(super) fn bare(body: part::Body) -> Part {
    Part { body: Some(body), ..Part::default() }
}

/// One of MCP's content blocks → a part; what is not understood is kept verbatim.
pub(super) fn block_part(block: &Value) -> Part {
    let text = |field: &str| block.get(field).and_then(Value::as_str);
    let bytes = |field: &str| text(field).and_then(|data| STANDARD.decode(data).ok());
    let mime_type = text("mimeType").unwrap_or_default();
    let body = match text("type") {
        Some("text") => text("text").map(|text| part::Body::Text(text.to_owned())),
        Some("image") => bytes("data").map(|data| part::Body::Image(media(data, mime_type))),
        Some("audio") => bytes("data").map(|data| part::Body::Audio(media(data, mime_type))),
        Some("resource") => block.get("resource").and_then(Value::as_object).map(resource_part),
        Some("resource_link") => text("uri").map(|uri| {
            part::Body::ResourceLink(ResourceLink {
                uri: uri.to_owned(),
                name: text("name").unwrap_or_default().to_owned(),
                title: text("title").unwrap_or_default().to_owned(),
                description: text("description").unwrap_or_default().to_owned(),
                mime_type: mime_type.to_owned(),
                size_bytes: block.get("size").and_then(Value::as_i64),
            })
        }),
        _ => None,
    };
    match body {
        None => unknown(block),
        Some(body) => Part {
            body: Some(body),
            annotations: block.get("annotations").and_then(hints),
            meta_json: block.get("_meta").filter(|m| m.is_object()).map(Value::to_string).unwrap_or_default(),
            size_bytes: 0,
        },
    }
}

fn resource_part(map: &Map<String, Value>) -> part::Body {
    let text = |field: &str| map.get(field).and_then(Value::as_str);
    let contents = match (text("text"), text("blob").and_then(|blob| STANDARD.decode(blob).ok())) {
        (Some(text), _) => Some(resource_contents::Contents::Text(text.to_owned())),
        (None, Some(data)) => Some(resource_contents::Contents::Data(data.into())),
        (None, None) => None,
    };
    part::Body::Resource(ResourceContents {
        uri: text("uri").unwrap_or_default().to_owned(),
        mime_type: text("mimeType").unwrap_or_default().to_owned(),
        contents,
        meta_json: map.get("_meta").filter(|m| m.is_object()).map(Value::to_string).unwrap_or_default(),
    })
}
