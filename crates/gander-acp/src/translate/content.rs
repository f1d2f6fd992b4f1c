//! Parts of the canonical model ⇄ ACP content blocks.

use std::path::{Component, Path, PathBuf};

use agent_client_protocol_schema::v1 as acp;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use gander_proto::v1::{
    Annotations, MediaPart, Part, ResourceContents, ResourceLink, media_part, part, resource_contents,
};
use serde_json::Value;

/// A block of a prompt that could not be taken over, for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// A kind of block that this version does not know.
    Unknown(String),
    /// A known kind with something missing or damaged.
    Damaged { kind: String, problem: &'static str },
}

impl Unusable {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Unknown(kind) => {
                format!("a piece of the prompt was left out: gander does not know {kind:?}")
            }
            Self::Damaged { kind, problem } => {
                format!("a piece of the prompt of kind {kind:?} was left out: {problem}")
            }
        }
    }
}

/// The blocks for a part: none for what has no form in ACP.
pub(crate) fn blocks(part: &Part) -> Option<acp::ContentBlock> {
    let annotations = part.annotations.as_ref().and_then(annotations);
    if let Some(what) = not_shown(part) {
        return Some(text_block(&format!("[{} bytes of {what}]", part.size_bytes)));
    }
    Some(match part.body.as_ref()? {
        part::Body::Text(text) => {
            acp::ContentBlock::Text(acp::TextContent::new(text.clone()).annotations(annotations))
        }
        part::Body::Image(media) => acp::ContentBlock::Image(
            acp::ImageContent::new(encoded(media)?, media.mime_type.clone()).annotations(annotations),
        ),
        part::Body::Audio(media) => acp::ContentBlock::Audio(
            acp::AudioContent::new(encoded(media)?, media.mime_type.clone()).annotations(annotations),
        ),
        part::Body::Resource(resource) => acp::ContentBlock::Resource(
            acp::EmbeddedResource::new(embedded(resource)?).annotations(annotations),
        ),
        part::Body::ResourceLink(link) => acp::ContentBlock::ResourceLink(
            acp::ResourceLink::new(link.name.clone(), link.uri.clone())
                .title(non_empty(&link.title))
                .description(non_empty(&link.description))
                .mime_type(non_empty(&link.mime_type))
                .size(link.size_bytes)
                .annotations(annotations),
        ),
        part::Body::Unknown(unknown) => text_block(&format!("[content of kind {:?}]", unknown.kind)),
        // These belong to tool calls, where they have a form of their own; the last is told above.
        part::Body::Diff(_) | part::Body::Terminal(_) | part::Body::TextContentId(_) => return None,
    })
}

/// What kind of value it is that is too large to be sent along.
fn not_shown(part: &Part) -> Option<String> {
    let of = |mime_type: &str, kind: &str| {
        if mime_type.is_empty() { kind.to_owned() } else { mime_type.to_owned() }
    };
    let beside = |media: &MediaPart| matches!(media.source, Some(media_part::Source::ContentId(_)));
    match part.body.as_ref()? {
        part::Body::TextContentId(_) => Some("text".to_owned()),
        part::Body::Image(media) if beside(media) => Some(of(&media.mime_type, "image")),
        part::Body::Audio(media) if beside(media) => Some(of(&media.mime_type, "audio")),
        part::Body::Resource(resource)
            if matches!(resource.contents, Some(resource_contents::Contents::ContentId(_))) =>
        {
            Some(format!("{} ({})", of(&resource.mime_type, "data"), resource.uri))
        }
        _ => None,
    }
}

pub(crate) fn text_block(text: &str) -> acp::ContentBlock {
    acp::ContentBlock::Text(acp::TextContent::new(text))
}

fn encoded(media: &MediaPart) -> Option<String> {
    match media.source.as_ref()? {
        media_part::Source::Data(data) => Some(BASE64_STANDARD.encode(data)),
        media_part::Source::ContentId(_) => None,
    }
}

fn embedded(resource: &ResourceContents) -> Option<acp::EmbeddedResourceResource> {
    let mime_type = non_empty(&resource.mime_type);
    Some(match resource.contents.as_ref()? {
        resource_contents::Contents::Text(text) => acp::EmbeddedResourceResource::TextResourceContents(
            acp::TextResourceContents::new(text.clone(), resource.uri.clone()).mime_type(mime_type),
        ),
        resource_contents::Contents::Data(data) => acp::EmbeddedResourceResource::BlobResourceContents(
            acp::BlobResourceContents::new(BASE64_STANDARD.encode(data), resource.uri.clone())
                .mime_type(mime_type),
        ),
        resource_contents::Contents::ContentId(_) => return None,
    })
}

fn annotations(from: &Annotations) -> Option<acp::Annotations> {
    let audience: Vec<acp::Role> = from
        .audience
        .iter()
        .filter_map(|role| match role.as_str() {
            "user" => Some(acp::Role::User),
            "assistant" => Some(acp::Role::Assistant),
            _ => None,
        })
        .collect();
    if audience.is_empty() && from.priority.is_none() {
        return None;
    }
    let audience = (!audience.is_empty()).then_some(audience);
    Some(acp::Annotations::new().audience(audience).priority(from.priority))
}

pub(crate) fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Reads a block of a prompt. Blocks come from many clients: what is missing but not needed is forgiven.
pub(crate) fn part(block: &Value) -> Result<Part, Unusable> {
    let kind = block.get("type").and_then(Value::as_str).unwrap_or_default();
    let text = |key: &str| block.get(key).and_then(Value::as_str).map(str::to_owned);
    let damaged = |problem: &'static str| Unusable::Damaged { kind: kind.to_owned(), problem };
    let body = match kind {
        // A block without a type that has a text is one, for clients older than the discriminator.
        "text" | "" if block.get("text").is_some_and(Value::is_string) => {
            part::Body::Text(text("text").unwrap_or_default())
        }
        "text" => return Err(damaged("it has no text")),
        "image" | "audio" => {
            let data = text("data").ok_or_else(|| damaged("it has no data"))?;
            let data = BASE64_STANDARD.decode(data.trim()).map_err(|_| damaged("its data is not base64"))?;
            let mime_type = text("mimeType").ok_or_else(|| damaged("it has no mimeType"))?;
            let media = MediaPart { source: Some(media_part::Source::Data(data.into())), mime_type };
            if kind == "image" { part::Body::Image(media) } else { part::Body::Audio(media) }
        }
        "resource_link" => {
            let uri = text("uri").ok_or_else(|| damaged("it has no uri"))?;
            let last = uri.rsplit('/').find(|part| !part.is_empty()).unwrap_or(&uri).to_owned();
            part::Body::ResourceLink(ResourceLink {
                name: text("name").unwrap_or(last),
                title: text("title").unwrap_or_default(),
                description: text("description").unwrap_or_default(),
                mime_type: text("mimeType").unwrap_or_default(),
                size_bytes: block.get("size").and_then(Value::as_i64).filter(|size| *size >= 0),
                uri,
            })
        }
        "resource" => part::Body::Resource(resource(block.get("resource").unwrap_or(&Value::Null), damaged)?),
        other => return Err(Unusable::Unknown(other.chars().take(80).collect())),
    };
    let annotations = block.get("annotations").map(|value| Annotations {
        audience: value
            .get("audience")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter(|role| matches!(*role, "user" | "assistant"))
            .map(str::to_owned)
            .collect(),
        priority: value.get("priority").and_then(Value::as_f64).filter(|p| (0.0..=1.0).contains(p)),
        last_modified: None,
    });
    Ok(Part { body: Some(body), annotations, ..Part::default() })
}

fn resource(value: &Value, damaged: impl Fn(&'static str) -> Unusable) -> Result<ResourceContents, Unusable> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let contents = match (text("text"), text("blob")) {
        (Some(text), _) => resource_contents::Contents::Text(text),
        (None, Some(blob)) => {
            let data = BASE64_STANDARD.decode(blob.trim()).map_err(|_| damaged("its blob is not base64"))?;
            resource_contents::Contents::Data(data.into())
        }
        (None, None) => return Err(damaged("its resource has neither text nor blob")),
    };
    Ok(ResourceContents {
        uri: text("uri").ok_or_else(|| damaged("its resource has no uri"))?,
        mime_type: text("mimeType").unwrap_or_default(),
        meta_json: String::new(),
        contents: Some(contents),
    })
}

/// An absolute path below `cwd` for what a tool names; `None` for what only the tool can resolve (`~`).
pub(crate) fn absolute(cwd: &str, path: &str) -> Option<PathBuf> {
    if path.is_empty() || path.starts_with('~') || path.contains('\0') {
        return None;
    }
    let joined = Path::new(cwd).join(path);
    if !joined.is_absolute() {
        return None;
    }
    let mut clean = PathBuf::new();
    for component in joined.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blocks_go_in_and_come_out() {
        for block in [
            json!({"type": "text", "text": "hi"}),
            json!({"type": "image", "data": "AAEC", "mimeType": "image/png"}),
            json!({"type": "audio", "data": "AAEC", "mimeType": "audio/wav"}),
            json!({"type": "resource_link", "name": "a.rs", "uri": "file:///a.rs", "size": 3}),
            json!({"type": "resource", "resource": {"uri": "file:///a", "mimeType": "text/plain", "text": "x"}}),
            json!({"type": "resource", "resource": {"uri": "file:///a", "blob": "AAEC"}}),
            json!({"type": "text", "text": "hi", "annotations": {"audience": ["user"], "priority": 0.5}}),
        ] {
            let part = part(&block).expect("usable");
            assert_eq!(serde_json::to_value(blocks(&part).expect("a block")).expect("JSON"), block);
        }
    }

    #[test]
    fn what_is_incomplete_is_forgiven_or_named() {
        let link = part(&json!({"type": "resource_link", "uri": "file:///x/lib.rs"})).expect("usable");
        assert!(matches!(link.body, Some(part::Body::ResourceLink(link)) if link.name == "lib.rs"));
        assert!(part(&json!({"text": "no type"})).is_ok());
        assert_eq!(part(&json!({"type": "video"})), Err(Unusable::Unknown("video".into())));
        for block in [
            json!({"type": "image", "data": "%", "mimeType": "image/png"}),
            json!({"type": "image", "data": "AAEC"}),
            json!({"type": "resource", "resource": {"uri": "x"}}),
            json!({"type": "text"}),
        ] {
            assert!(matches!(part(&block), Err(Unusable::Damaged { .. })), "{block}");
        }
    }

    #[test]
    fn what_is_too_large_to_be_sent_is_named() {
        let media = |mime_type: &str| MediaPart {
            mime_type: mime_type.into(),
            source: Some(media_part::Source::ContentId("c".into())),
        };
        for (body, wanted) in [
            (part::Body::Image(media("image/png")), "[9 bytes of image/png]"),
            (part::Body::Audio(media("")), "[9 bytes of audio]"),
            (part::Body::TextContentId("c".into()), "[9 bytes of text]"),
        ] {
            let part = Part { body: Some(body), size_bytes: 9, ..Part::default() };
            assert_eq!(blocks(&part), Some(text_block(wanted)));
        }
    }

    #[test]
    fn paths_are_absolute() {
        for (path, wanted) in [
            ("a.rs", Some("/w/a.rs")),
            ("/x/a.rs", Some("/x/a.rs")),
            ("./b/../a.rs", Some("/w/a.rs")),
            ("~/a.rs", None),
            ("", None),
        ] {
            assert_eq!(absolute("/w", path), wanted.map(PathBuf::from), "{path}");
        }
        assert_eq!(absolute("", "a.rs"), None);
    }
}
