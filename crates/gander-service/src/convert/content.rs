//! Content parts.

use bytes::Bytes;
use gander_domain::{
    ContentId, Part, PartBody,
    content::{Annotations, Blob, Data},
};
use gander_proto::v1 as pb;

use super::{At, MAX_TEXT_BYTES, Violations, int64, non_empty, or_empty, time_to_pb};

/// Most parts of one message.
const MAX_PARTS: usize = 1_000;

pub(crate) fn parts_to_pb(parts: &[Part]) -> Vec<pb::Part> {
    parts.iter().map(part_to_pb).collect()
}

pub(crate) fn part_to_pb(part: &Part) -> pb::Part {
    use pb::part::Body;
    let body = match &part.body {
        PartBody::Text(text) => Body::Text(text.clone()),
        PartBody::TextContent { content_id, .. } => Body::TextContentId(content_id.as_str().to_owned()),
        PartBody::Image { data, mime_type } => Body::Image(media_to_pb(data, mime_type)),
        PartBody::Audio { data, mime_type } => Body::Audio(media_to_pb(data, mime_type)),
        PartBody::Resource { uri, mime_type, text, data } => Body::Resource(pb::ResourceContents {
            uri: uri.clone(),
            mime_type: or_empty(mime_type.as_ref()),
            contents: resource_data_to_pb(text.as_ref(), data.as_ref()),
            meta_json: String::new(),
        }),
        PartBody::ResourceLink { uri, name, title, mime_type, size_bytes } => {
            Body::ResourceLink(pb::ResourceLink {
                uri: uri.clone(),
                name: name.clone(),
                title: or_empty(title.as_ref()),
                description: String::new(),
                mime_type: or_empty(mime_type.as_ref()),
                size_bytes: size_bytes.map(int64),
            })
        }
        PartBody::Diff { path, old_text, new_text, patch } => Body::Diff(pb::FileDiff {
            path: path.clone(),
            old_text: old_text.clone(),
            new_text: new_text.clone(),
            patch: patch.clone(),
        }),
        PartBody::Terminal { terminal_id, exit_code, signal } => Body::Terminal(pb::TerminalRef {
            terminal_id: terminal_id.clone(),
            exit_code: *exit_code,
            signal: or_empty(signal.as_ref()),
        }),
        PartBody::Unknown { kind, raw_json } => {
            Body::Unknown(pb::UnknownPart { kind: kind.clone(), raw_json: raw_json.clone() })
        }
    };
    let size_bytes = match &part.body {
        PartBody::TextContent { size_bytes, .. } => int64(*size_bytes),
        _ => i64::try_from(part.size_bytes()).unwrap_or(i64::MAX),
    };
    pb::Part {
        body: Some(body),
        annotations: part.annotations.as_ref().map(annotations_to_pb),
        meta_json: or_empty(part.meta_json.as_ref()),
        size_bytes,
    }
}

fn media_to_pb(data: &Data, mime_type: &str) -> pb::MediaPart {
    use pb::media_part::Source;
    let source = match data {
        Data::Inline(blob) => Source::Data(Bytes::copy_from_slice(&blob.0)),
        Data::Content(id) => Source::ContentId(id.as_str().to_owned()),
    };
    pb::MediaPart { mime_type: mime_type.to_owned(), source: Some(source) }
}

fn resource_data_to_pb(
    text: Option<&String>,
    data: Option<&Data>,
) -> Option<pb::resource_contents::Contents> {
    use pb::resource_contents::Contents;
    match (text, data) {
        (Some(text), _) => Some(Contents::Text(text.clone())),
        (None, Some(Data::Inline(blob))) => Some(Contents::Data(Bytes::copy_from_slice(&blob.0))),
        (None, Some(Data::Content(id))) => Some(Contents::ContentId(id.as_str().to_owned())),
        (None, None) => None,
    }
}

pub(crate) fn annotations_to_pb(annotations: &Annotations) -> pb::Annotations {
    pb::Annotations {
        audience: annotations.audience.clone(),
        priority: annotations.priority_millis.map(|p| f64::from(p) / 1_000.0),
        last_modified: annotations.last_modified.map(time_to_pb),
    }
}

/// Parts of the repeated field `name` below `at`.
pub(crate) fn parts_from_pb(parts: Vec<pb::Part>, at: &At<'_>, name: &str, v: &mut Violations) -> Vec<Part> {
    if parts.len() > MAX_PARTS {
        v.add(&at.field(name), format!("must have at most {MAX_PARTS} parts, has {}", parts.len()));
        return Vec::new();
    }
    parts
        .into_iter()
        .enumerate()
        .filter_map(|(index, part)| part_from_pb(part, &at.element(name, index), v))
        .collect()
}

pub(crate) fn part_from_pb(part: pb::Part, at: &At<'_>, v: &mut Violations) -> Option<Part> {
    use pb::part::Body;
    let Some(body) = part.body else {
        v.add(at, "must hold text, image, audio, resource, resource_link, diff, terminal or text_content_id");
        return None;
    };
    let mut meta_json = v.json_object(&at.field("meta_json"), part.meta_json);
    let body = match body {
        Body::Text(text) => PartBody::Text(v.text(&at.field("text"), text)),
        Body::Image(media) => {
            let (data, mime_type) = media_from_pb(media, &at.field("image"), v)?;
            PartBody::Image { data, mime_type }
        }
        Body::Audio(media) => {
            let (data, mime_type) = media_from_pb(media, &at.field("audio"), v)?;
            PartBody::Audio { data, mime_type }
        }
        Body::Resource(mut resource) => {
            let meta = std::mem::take(&mut resource.meta_json);
            let at = at.field("resource");
            // MCP has one `_meta` here and one on the block; the domain keeps the outer one, else the inner one.
            let inner = v.json_object(&at.field("meta_json"), meta);
            meta_json = meta_json.or(inner);
            resource_from_pb(resource, &at, v)?
        }
        Body::ResourceLink(link) => {
            let at = at.field("resource_link");
            PartBody::ResourceLink {
                uri: v.text(&at.field("uri"), link.uri),
                name: v.short(&at.field("name"), link.name),
                title: non_empty(link.title),
                mime_type: non_empty(link.mime_type),
                size_bytes: link.size_bytes.map(|n| v.count(&at.field("size_bytes"), n)),
            }
        }
        Body::Diff(diff) => {
            let at = at.field("diff");
            PartBody::Diff {
                path: v.name(&at.field("path"), diff.path),
                old_text: diff.old_text.map(|t| v.text(&at.field("old_text"), t)),
                new_text: diff.new_text.map(|t| v.text(&at.field("new_text"), t)),
                patch: diff.patch.map(|t| v.text(&at.field("patch"), t)),
            }
        }
        Body::Terminal(terminal) => PartBody::Terminal {
            terminal_id: v.name(&at.field("terminal").field("terminal_id"), terminal.terminal_id),
            exit_code: terminal.exit_code,
            signal: non_empty(terminal.signal),
        },
        Body::TextContentId(id) => PartBody::TextContent {
            content_id: v.id(&at.field("text_content_id"), &id, |t| ContentId::new(t))?,
            size_bytes: v.count(&at.field("size_bytes"), part.size_bytes),
        },
        Body::Unknown(unknown) => {
            let at = at.field("unknown");
            PartBody::Unknown {
                kind: v.name(&at.field("kind"), unknown.kind),
                raw_json: v.json(&at.field("raw_json"), unknown.raw_json).unwrap_or_default(),
            }
        }
    };
    let annotations = part.annotations.map(|a| annotations_from_pb(a, &at.field("annotations"), v));
    Some(Part { body, annotations, meta_json })
}

fn media_from_pb(media: pb::MediaPart, at: &At<'_>, v: &mut Violations) -> Option<(Data, String)> {
    use pb::media_part::Source;
    let data = match media.source {
        None => {
            v.add(at, "must have data or content_id");
            return None;
        }
        Some(Source::Data(bytes)) => inline(&bytes, &at.field("data"), v)?,
        Some(Source::ContentId(id)) => {
            Data::Content(v.id(&at.field("content_id"), &id, |t| ContentId::new(t))?)
        }
    };
    Some((data, v.name(&at.field("mime_type"), media.mime_type)))
}

fn inline(bytes: &Bytes, at: &At<'_>, v: &mut Violations) -> Option<Data> {
    if bytes.len() > MAX_TEXT_BYTES {
        v.add(at, format!("must have at most {MAX_TEXT_BYTES} bytes, has {}", bytes.len()));
        return None;
    }
    // Copied on purpose: a slice would keep the whole request buffer alive as long as the part.
    Some(Data::Inline(Blob(bytes.to_vec())))
}

fn resource_from_pb(resource: pb::ResourceContents, at: &At<'_>, v: &mut Violations) -> Option<PartBody> {
    use pb::resource_contents::Contents;
    let (text, data) = match resource.contents {
        None => (None, None),
        Some(Contents::Text(text)) => (Some(v.text(&at.field("text"), text)), None),
        Some(Contents::Data(bytes)) => (None, Some(inline(&bytes, &at.field("data"), v)?)),
        Some(Contents::ContentId(id)) => {
            (None, Some(Data::Content(v.id(&at.field("content_id"), &id, |t| ContentId::new(t))?)))
        }
    };
    Some(PartBody::Resource {
        uri: v.text(&at.field("uri"), resource.uri),
        mime_type: non_empty(resource.mime_type),
        text,
        data,
    })
}

fn annotations_from_pb(annotations: pb::Annotations, at: &At<'_>, v: &mut Violations) -> Annotations {
    let priority_millis = annotations.priority.and_then(|p| {
        if (0.0..=1.0).contains(&p) {
            // In range by the check above.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some((p * 1_000.0).round() as u16)
        } else {
            v.add(&at.field("priority"), format!("must be between 0 and 1, is {p}"));
            None
        }
    });
    Annotations {
        audience: annotations.audience,
        priority_millis,
        last_modified: v.time(&at.field("last_modified"), annotations.last_modified),
    }
}
