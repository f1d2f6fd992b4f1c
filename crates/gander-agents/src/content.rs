//! Content blocks to and from parts. Reading is lenient: a block that makes no sense becomes an unknown part.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gander_domain::{
    ErrorDetail, ErrorReason, Part, PartBody,
    content::{Blob, Data},
};
use gander_model::AgentOpened;
use serde_json::{Value, json};

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn data(value: &Value, key: &str) -> Option<Data> {
    let bytes = STANDARD.decode(value.get(key)?.as_str()?).ok()?;
    Some(Data::Inline(Blob(bytes)))
}

/// A content block as a part.
pub(crate) fn part_of(block: &Value) -> Part {
    let kind = block.get("type").and_then(Value::as_str).unwrap_or("unknown");
    let mime = |fallback: &str| text(block, "mimeType").unwrap_or_else(|| fallback.to_owned());
    let body = match kind {
        "text" => text(block, "text").map(PartBody::Text),
        "image" => data(block, "data").map(|data| PartBody::Image { data, mime_type: mime("image/png") }),
        "audio" => data(block, "data").map(|data| PartBody::Audio { data, mime_type: mime("audio/wav") }),
        "resource" => block.get("resource").and_then(|resource| {
            Some(PartBody::Resource {
                uri: text(resource, "uri")?,
                mime_type: text(resource, "mimeType"),
                text: text(resource, "text"),
                data: data(resource, "blob"),
            })
        }),
        "resource_link" => text(block, "uri").map(|uri| PartBody::ResourceLink {
            name: text(block, "name").unwrap_or_else(|| uri.clone()),
            title: text(block, "title"),
            mime_type: text(block, "mimeType"),
            size_bytes: block.get("size").and_then(Value::as_u64),
            uri,
        }),
        _ => None,
    };
    let unknown = || PartBody::Unknown { kind: kind.to_owned(), raw_json: block.to_string() };
    Part::new(body.unwrap_or_else(unknown))
}

/// A part as a content block of a prompt.
///
/// # Errors
/// `CAPABILITY_MISSING` for what this agent does not take.
pub(crate) fn block_of(part: &Part, agent: &AgentOpened) -> Result<Value, ErrorDetail> {
    let refused = |what: &str| {
        let message = format!(
            "agent {} takes no {what} in prompts; leave it out or choose another provider",
            agent.name
        );
        Err(ErrorDetail::new(ErrorReason::CapabilityMissing, message))
    };
    match &part.body {
        PartBody::Text(text) => Ok(json!({ "type": "text", "text": text })),
        PartBody::Image { data: Data::Inline(Blob(bytes)), mime_type } if agent.accepts_images => {
            Ok(json!({ "type": "image", "data": STANDARD.encode(bytes), "mimeType": mime_type }))
        }
        PartBody::Audio { data: Data::Inline(Blob(bytes)), mime_type } if agent.accepts_audio => {
            Ok(json!({ "type": "audio", "data": STANDARD.encode(bytes), "mimeType": mime_type }))
        }
        PartBody::Resource { uri, mime_type, text, data } => {
            resource(uri, mime_type.as_deref(), text.as_deref(), data.as_ref(), agent)
                .map_or_else(|| refused("embedded binary files"), Ok)
        }
        PartBody::ResourceLink { uri, name, title, mime_type, size_bytes } => {
            let mut link = json!({ "type": "resource_link", "uri": uri, "name": name });
            if let Some(title) = title {
                link["title"] = json!(title);
            }
            if let Some(mime_type) = mime_type {
                link["mimeType"] = json!(mime_type);
            }
            if let Some(size) = size_bytes {
                link["size"] = json!(size);
            }
            Ok(link)
        }
        PartBody::Diff { path, patch, new_text, .. } => {
            let body = patch.as_ref().or(new_text.as_ref()).map_or("", String::as_str);
            Ok(json!({ "type": "text", "text": format!("{path}:\n{body}") }))
        }
        PartBody::Terminal { terminal_id, .. } => {
            Ok(json!({ "type": "text", "text": format!("(terminal {terminal_id})") }))
        }
        PartBody::Image { .. } => refused("images"),
        PartBody::Audio { .. } => refused("audio"),
        PartBody::TextContent { .. } => refused("text that is stored elsewhere"),
        PartBody::Unknown { kind, .. } => refused(&format!("parts of kind {kind}")),
    }
}

/// An embedded file; as plain text where the agent takes no embedded ones. `None`: it cannot be said in text.
fn resource(
    uri: &str,
    mime_type: Option<&str>,
    text: Option<&str>,
    data: Option<&Data>,
    agent: &AgentOpened,
) -> Option<Value> {
    if !agent.accepts_resources {
        return text.map(|text| json!({ "type": "text", "text": format!("{uri}:\n{text}") }));
    }
    let mut resource = json!({ "uri": uri });
    match (text, data) {
        (Some(text), _) => resource["text"] = json!(text),
        (None, Some(Data::Inline(Blob(bytes)))) => resource["blob"] = json!(STANDARD.encode(bytes)),
        (None, _) => return None,
    }
    if let Some(mime_type) = mime_type {
        resource["mimeType"] = json!(mime_type);
    }
    Some(json!({ "type": "resource", "resource": resource }))
}

#[cfg(test)]
mod tests {
    use agent_client_protocol_schema::v1::ContentBlock;

    use super::*;

    fn all() -> AgentOpened {
        AgentOpened {
            accepts_images: true,
            accepts_audio: true,
            accepts_resources: true,
            ..AgentOpened::default()
        }
    }

    #[test]
    fn blocks_survive_the_way_there_and_back() {
        for block in [
            json!({"type": "text", "text": "hi"}),
            json!({"type": "image", "data": "AAEC", "mimeType": "image/png"}),
            json!({"type": "audio", "data": "AAEC", "mimeType": "audio/wav"}),
            json!({"type": "resource", "resource": {"uri": "file:///a", "text": "x", "mimeType": "text/plain"}}),
            json!({"type": "resource", "resource": {"uri": "file:///a", "blob": "AAEC"}}),
            json!({"type": "resource_link", "uri": "file:///a", "name": "a", "title": "A", "mimeType": "t", "size": 3}),
        ] {
            let written = block_of(&part_of(&block), &all()).unwrap();
            assert_eq!(written, block);
            serde_json::from_value::<ContentBlock>(written).expect("valid by the schema");
        }
    }

    #[test]
    fn strange_blocks_are_kept() {
        for block in [json!({"type": "hologram", "x": 1}), json!({"type": "image"}), json!(7)] {
            let PartBody::Unknown { raw_json, .. } = part_of(&block).body else { panic!("{block}") };
            assert_eq!(raw_json, block.to_string());
        }
    }

    #[test]
    fn what_an_agent_does_not_take_is_said() {
        let none = AgentOpened { name: "x".into(), ..AgentOpened::default() };
        let image = part_of(&json!({"type": "image", "data": "AAEC", "mimeType": "image/png"}));
        let error = block_of(&image, &none).unwrap_err();
        assert_eq!((error.reason.as_str(), error.message.contains("images")), ("CAPABILITY_MISSING", true));
        let file = part_of(&json!({"type": "resource", "resource": {"uri": "file:///a", "text": "x"}}));
        assert_eq!(block_of(&file, &none).unwrap(), json!({"type": "text", "text": "file:///a:\nx"}));
        let blob = part_of(&json!({"type": "resource", "resource": {"uri": "file:///a", "blob": "AAEC"}}));
        assert!(block_of(&blob, &none).is_err());
    }
}
