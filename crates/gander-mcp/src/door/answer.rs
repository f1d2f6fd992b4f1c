//! Definitions and results as MCP's JSON. Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gander_domain::{
    Part, PartBody, Timestamp,
    content::{Annotations, Blob, Data},
    item::{ToolOutcome, ToolResult},
    tool::ToolDefinition,
};
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

fn parsed(text: Option<&String>) -> Option<Value> {
    serde_json::from_str(text?).ok()
}

/// Puts in what there is.
fn put(object: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}

/// One entry of `tools/list`, under the extension's own name of the tool.
pub(super) fn tool(tool: &ToolDefinition) -> Value {
    let mut entry = Map::new();
    entry.insert("name".to_owned(), json!(tool.tool_name));
    put(&mut entry, "title", tool.title.clone());
    entry.insert("description".to_owned(), json!(tool.description));
    let schema = parsed(Some(&tool.input_schema_json)).unwrap_or_else(|| json!({ "type": "object" }));
    entry.insert("inputSchema".to_owned(), schema);
    put(&mut entry, "outputSchema", parsed(tool.output_schema_json.as_ref()));
    let mut hints = Map::new();
    put(&mut hints, "readOnlyHint", tool.annotations.read_only);
    put(&mut hints, "destructiveHint", tool.annotations.destructive);
    put(&mut hints, "idempotentHint", tool.annotations.idempotent);
    put(&mut hints, "openWorldHint", tool.annotations.open_world);
    put(&mut entry, "annotations", Some(hints).filter(|hints| !hints.is_empty()));
    put(&mut entry, "icons", parsed(tool.icons_json.as_ref()));
    put(&mut entry, "_meta", parsed(tool.meta_json.as_ref()));
    Value::Object(entry)
}

/// The result of `tools/call`.
pub(super) fn result(result: &ToolResult) -> Value {
    let mut answer = Map::new();
    answer.insert("content".to_owned(), result.parts.iter().map(block).collect());
    put(&mut answer, "structuredContent", parsed(result.structured_content_json.as_ref()));
    let failed = result.is_error || result.outcome != ToolOutcome::Ok;
    answer.insert("isError".to_owned(), json!(failed));
    put(&mut answer, "_meta", parsed(result.meta_json.as_ref()));
    Value::Object(answer)
}

/// A content block.
fn block(part: &Part) -> Value {
    let mut block = match body(&part.body) {
        Value::Object(block) => block,
        other => return other,
    };
    put(&mut block, "annotations", part.annotations.as_ref().map(annotations));
    put(&mut block, "_meta", parsed(part.meta_json.as_ref()));
    Value::Object(block)
}

fn text(text: impl Into<String>) -> Value {
    json!({ "type": "text", "text": text.into() })
}

fn body(body: &PartBody) -> Value {
    match body {
        PartBody::Text(said) => text(said),
        PartBody::Image { data: Data::Inline(Blob(bytes)), mime_type } => {
            json!({ "type": "image", "data": STANDARD.encode(bytes), "mimeType": mime_type })
        }
        PartBody::Audio { data: Data::Inline(Blob(bytes)), mime_type } => {
            json!({ "type": "audio", "data": STANDARD.encode(bytes), "mimeType": mime_type })
        }
        PartBody::Resource { uri, mime_type, text, data } => {
            let mut resource = Map::new();
            resource.insert("uri".to_owned(), json!(uri));
            put(&mut resource, "mimeType", mime_type.clone());
            match data {
                Some(Data::Inline(Blob(bytes))) if text.is_none() => {
                    resource.insert("blob".to_owned(), json!(STANDARD.encode(bytes)));
                }
                _ => drop(resource.insert("text".to_owned(), json!(text.as_deref().unwrap_or_default()))),
            }
            json!({ "type": "resource", "resource": resource })
        }
        PartBody::ResourceLink { uri, name, title, mime_type, size_bytes } => {
            let mut link = Map::new();
            link.insert("type".to_owned(), json!("resource_link"));
            link.insert("uri".to_owned(), json!(uri));
            link.insert("name".to_owned(), json!(name));
            put(&mut link, "title", title.clone());
            put(&mut link, "mimeType", mime_type.clone());
            put(&mut link, "size", *size_bytes);
            Value::Object(link)
        }
        PartBody::Unknown { raw_json, .. } => {
            serde_json::from_str(raw_json).unwrap_or_else(|_| text(raw_json))
        }
        PartBody::Diff { path, patch, new_text, .. } => {
            let change = patch.as_ref().or(new_text.as_ref()).map_or("", String::as_str);
            text(format!("{path}:\n{change}"))
        }
        PartBody::Terminal { terminal_id, .. } => text(format!("(terminal {terminal_id})")),
        // Servers give their bytes inline; only the log keeps them elsewhere.
        PartBody::Image { .. } | PartBody::Audio { .. } | PartBody::TextContent { .. } => {
            text("(content that is stored elsewhere)")
        }
    }
}

fn annotations(annotations: &Annotations) -> Value {
    let mut given = Map::new();
    if !annotations.audience.is_empty() {
        given.insert("audience".to_owned(), json!(annotations.audience));
    }
    put(&mut given, "priority", annotations.priority_millis.map(|millis| f64::from(millis) / 1000.0));
    put(
        &mut given,
        "lastModified",
        annotations.last_modified.and_then(|Timestamp(micros)| {
            let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()?;
            time.format(&Rfc3339).ok()
        }),
    );
    Value::Object(given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalog, content};

    #[test]
    fn results_survive_the_way_there_and_back() {
        let given = json!({
            "content": [
                {"type": "text", "text": "hi", "annotations": {"audience": ["user"], "priority": 0.5,
                    "lastModified": "2025-01-12T15:00:58Z"}, "_meta": {"a": 1}},
                {"type": "image", "data": "AQI=", "mimeType": "image/png"},
                {"type": "audio", "data": "AQI=", "mimeType": "audio/wav"},
                {"type": "resource", "resource": {"uri": "file:///x", "text": "t", "mimeType": "text/plain"}},
                {"type": "resource", "resource": {"uri": "file:///x", "blob": "AQI="}},
                {"type": "resource_link", "uri": "file:///y", "name": "y", "title": "Y", "size": 3},
                {"type": "hologram", "depth": 3},
            ],
            "structuredContent": {"b": 12345678901234567_u64},
            "isError": true,
            "_meta": {"k": "v"},
        });
        assert_eq!(result(&content::tool_result(given.clone()).unwrap()), given);
    }

    #[test]
    fn tools_survive_the_way_there_and_back() {
        let given = json!({
            "name": "read", "title": "Read", "description": "Reads", "inputSchema": {"type": "object"},
            "outputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true, "openWorldHint": false},
            "icons": [{"src": "x"}], "_meta": {"a": 1},
        });
        assert_eq!(tool(&catalog::from_mcp("dev", false, &given).unwrap().definition), given);
        let plain = json!({"name": "read", "description": "", "inputSchema": {"type": "object"}});
        assert_eq!(tool(&catalog::from_mcp("dev", false, &plain).unwrap().definition), plain);
    }
}
