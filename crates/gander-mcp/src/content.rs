//! MCP results as parts. Works on the JSON that came, so that nothing a server sends is lost: a kind of content that
//! this build does not know stays as it came. Pure.

use base64::Engine as _;
use gander_domain::{
    Part, PartBody, Timestamp,
    content::{Annotations, Blob, Data},
    item::{ToolOutcome, ToolResult},
};
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Parts of one result. Each costs memory and a row in a log, however short it is.
const MAX_PARTS: usize = 10_000;

/// The result of `tools/call`.
///
/// # Errors
/// A text that says what is wrong with it.
pub(crate) fn tool_result(result: Value) -> Result<ToolResult, String> {
    let Value::Object(mut result) = result else {
        return Err("the server's result is not a JSON object".to_owned());
    };
    match result.get("resultType").and_then(Value::as_str) {
        None | Some("complete") => {}
        Some(other) => {
            return Err(format!("the server answered with a result of the unsupported type {other:?}"));
        }
    }
    let structured = result.remove("structuredContent").filter(|value| !value.is_null());
    let content = match result.remove("content") {
        Some(Value::Array(content)) => content,
        Some(_) => return Err("the server's result has a content that is no list".to_owned()),
        None if structured.is_some() => Vec::new(),
        None => return Err("the server's result has neither content nor structuredContent".to_owned()),
    };
    if content.len() > MAX_PARTS {
        return Err(format!(
            "the server's result has {} parts, more than {MAX_PARTS}; ask for less at once",
            content.len()
        ));
    }
    let is_error = result.get("isError").and_then(Value::as_bool).unwrap_or(false);
    Ok(ToolResult {
        outcome: if is_error { ToolOutcome::ToolError } else { ToolOutcome::Ok },
        parts: content.into_iter().map(part).collect(),
        structured_content_json: structured.map(|value| value.to_string()),
        is_error,
        meta_json: json_text(result.remove("_meta")),
        error: None,
        truncated: None,
        duration_ms: 0,
    })
}

/// One content block.
pub(crate) fn part(block: Value) -> Part {
    let Value::Object(mut fields) = block else { return unknown("", &block) };
    let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let annotations = fields.get("annotations").and_then(annotations);
    let meta_json = json_text(fields.get("_meta").cloned());
    let body = match fields.get_mut("text") {
        // Taken, not copied: this is where large results are.
        Some(Value::String(text)) if kind == "text" => Some(PartBody::Text(std::mem::take(text))),
        _ => body(&kind, &fields),
    };
    match body {
        Some(body) => Part { body, annotations, meta_json },
        None => unknown(&kind, &Value::Object(fields)),
    }
}

fn unknown(kind: &str, block: &Value) -> Part {
    Part::new(PartBody::Unknown { kind: kind.to_owned(), raw_json: block.to_string() })
}

fn body(kind: &str, fields: &Map<String, Value>) -> Option<PartBody> {
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(match kind {
        "image" => PartBody::Image { data: bytes(fields.get("data")?)?, mime_type: text("mimeType")? },
        "audio" => PartBody::Audio { data: bytes(fields.get("data")?)?, mime_type: text("mimeType")? },
        "resource" => resource(fields.get("resource")?)?,
        "resource_link" => PartBody::ResourceLink {
            uri: text("uri")?,
            name: text("name").unwrap_or_default(),
            title: text("title"),
            mime_type: text("mimeType"),
            size_bytes: fields.get("size").and_then(Value::as_u64),
        },
        _ => return None,
    })
}

/// The contents of a resource, as in `resource` blocks and in `resources/read`.
pub(crate) fn resource(contents: &Value) -> Option<PartBody> {
    let text = |name: &str| contents.get(name).and_then(Value::as_str).map(str::to_owned);
    let data = match contents.get("blob") {
        Some(blob) => Some(bytes(blob)?),
        None => None,
    };
    Some(PartBody::Resource { uri: text("uri")?, mime_type: text("mimeType"), text: text("text"), data })
}

/// The contents of one entry of `resources/read`, with its `_meta`.
pub(crate) fn resource_part(contents: &Value) -> Part {
    match resource(contents) {
        Some(body) => Part { body, annotations: None, meta_json: json_text(contents.get("_meta").cloned()) },
        None => unknown("resource", contents),
    }
}

fn bytes(value: &Value) -> Option<Data> {
    let data = base64::engine::general_purpose::STANDARD.decode(value.as_str()?).ok()?;
    Some(Data::Inline(Blob(data)))
}

/// MCP annotations; `None` when there is nothing in them that is known.
pub(crate) fn annotations(value: &Value) -> Option<Annotations> {
    let audience: Vec<String> = value
        .get("audience")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let priority = value.get("priority").and_then(Value::as_f64).filter(|p| (0.0..=1.0).contains(p));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1000 by the filter above"
    )]
    let priority_millis = priority.map(|priority| (priority * 1000.0).round() as u16);
    let last_modified = value.get("lastModified").and_then(Value::as_str).and_then(timestamp);
    let known = Annotations { audience, priority_millis, last_modified };
    (known != Annotations::default()).then_some(known)
}

fn timestamp(text: &str) -> Option<Timestamp> {
    let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    i64::try_from(nanos / 1000).ok().map(Timestamp)
}

/// JSON text of a value that is there and not null.
pub(crate) fn json_text(value: Option<Value>) -> Option<String> {
    value.filter(|value| !value.is_null()).map(|value| value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_content_is_mapped_and_unknown_kinds_stay() {
        let result = tool_result(json!({
            "content": [
                {"type": "text", "text": "hi", "annotations": {"audience": ["user"], "priority": 0.5}, "_meta": {"a": 1}},
                {"type": "image", "data": "AQI=", "mimeType": "image/png"},
                {"type": "audio", "data": "AQI=", "mimeType": "audio/wav"},
                {"type": "resource", "resource": {"uri": "file:///x", "text": "t"}},
                {"type": "resource_link", "uri": "file:///y", "name": "y", "size": 3},
                {"type": "hologram", "depth": 3},
                {"type": "image", "data": "not base64!", "mimeType": "image/png"}
            ],
            "structuredContent": {"b": 12345678901234567_u64},
            "isError": true,
            "_meta": {"k": "v"}
        }))
        .unwrap();
        assert_eq!(result.outcome, ToolOutcome::ToolError);
        assert_eq!(result.structured_content_json.as_deref(), Some("{\"b\":12345678901234567}"));
        assert_eq!(result.meta_json.as_deref(), Some("{\"k\":\"v\"}"));
        let parts = &result.parts;
        assert_eq!(parts[0].as_text(), Some("hi"));
        assert_eq!(parts[0].meta_json.as_deref(), Some("{\"a\":1}"));
        assert_eq!(
            parts[0].annotations,
            Some(Annotations {
                audience: vec!["user".to_owned()],
                priority_millis: Some(500),
                last_modified: None
            })
        );
        assert_eq!(
            parts[1].body,
            PartBody::Image { data: Data::Inline(Blob(vec![1, 2])), mime_type: "image/png".to_owned() }
        );
        assert!(matches!(&parts[3].body, PartBody::Resource { text: Some(text), .. } if text == "t"));
        assert!(matches!(&parts[4].body, PartBody::ResourceLink { size_bytes: Some(3), .. }));
        assert!(matches!(&parts[5].body, PartBody::Unknown { kind, raw_json } if kind == "hologram"
            && raw_json.contains("\"depth\":3")));
        assert!(matches!(&parts[6].body, PartBody::Unknown { kind, .. } if kind == "image"));
    }

    #[test]
    fn what_is_no_result_is_refused_with_a_reason() {
        for (result, part) in [
            (json!([]), "not a JSON object"),
            (json!({}), "neither content"),
            (json!({"content": "x"}), "no list"),
            (json!({"resultType": "input_required", "content": []}), "input_required"),
        ] {
            let error = tool_result(result).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(tool_result(json!({"structuredContent": [1]})).unwrap().parts.is_empty());
    }

    #[test]
    fn times_are_microseconds() {
        assert_eq!(timestamp("1970-01-01T00:00:01.5Z"), Some(Timestamp(1_500_000)));
        assert_eq!(timestamp("yesterday"), None);
    }
}
