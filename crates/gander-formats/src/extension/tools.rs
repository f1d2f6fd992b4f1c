//! The MCP tool definitions inside `frontend` extensions.
//!
//! [`ToolDefinition`] has no place for every field that MCP allows (`execution`, further annotations). Those are
//! returned as a remainder, a map from tool name to fields, which the configuration keeps among its unknown fields.

use gander_domain::tool::{ToolAnnotations, ToolDefinition, ToolVisibility};
use serde_json::{Map, Value};

use super::fields::Fields;
use crate::{FormatError, error::json_type};

/// Reads tools of the extension with this key; also returns the fields that have no place in them.
pub(super) fn read(
    list: Option<Vec<Value>>,
    extension_key: &str,
) -> Result<(Vec<ToolDefinition>, Map<String, Value>), FormatError> {
    let Some(list) = list else {
        return Err(FormatError::extension(
            "tools",
            "missing; add `tools`: the list of MCP tools that the client runs, which may be empty",
        ));
    };
    let mut tools: Vec<ToolDefinition> = Vec::with_capacity(list.len());
    let mut remainder = Map::new();
    for (index, value) in list.into_iter().enumerate() {
        let path = format!("tools[{index}]");
        let Value::Object(map) = value else {
            let message =
                format!("found {}, expected a map with `name` and `inputSchema`", json_type(&value));
            return Err(FormatError::extension(path, message));
        };
        let (tool, rest) = tool(map, extension_key).map_err(|error| error.below(&path))?;
        if tools.iter().any(|other| other.tool_name == tool.tool_name) {
            return Err(FormatError::extension(
                format!("{path}.name"),
                "another tool of this extension has the same name; rename one of them",
            ));
        }
        if !rest.is_empty() {
            remainder.insert(tool.tool_name.clone(), Value::Object(rest));
        }
        tools.push(tool);
    }
    Ok((tools, remainder))
}

fn tool(
    map: Map<String, Value>,
    extension_key: &str,
) -> Result<(ToolDefinition, Map<String, Value>), FormatError> {
    let mut fields = Fields(map);
    let tool_name = fields.required_text("name", None, "what the model calls the tool")?;
    let Some(input_schema) = fields.map("inputSchema")? else {
        let near = if fields.0.contains_key("input_schema") { ", found `input_schema`" } else { "" };
        return Err(FormatError::extension(
            "inputSchema",
            format!("missing{near}; add `inputSchema`: a JSON Schema, `{{type: object}}` for no arguments"),
        ));
    };
    let meta = fields.map("_meta")?;
    let (annotations, other_annotations) = annotations(fields.map("annotations")?)?;
    let tool = ToolDefinition {
        name: format!("{extension_key}__{tool_name}"),
        extension_name: extension_key.to_owned(),
        tool_name,
        title: fields.text("title")?,
        description: fields.text("description")?.unwrap_or_default(),
        input_schema_json: Value::Object(input_schema).to_string(),
        output_schema_json: fields.map("outputSchema")?.map(|schema| Value::Object(schema).to_string()),
        annotations,
        icons_json: fields.list("icons")?.map(|icons| Value::Array(icons).to_string()),
        visibility: visibility(meta.as_ref()),
        meta_json: meta.map(|meta| Value::Object(meta).to_string()),
        definition_hash: String::new(),
        quarantined: false,
        trusted: false,
    };
    if !other_annotations.is_empty() {
        fields.0.insert("annotations".to_owned(), Value::Object(other_annotations));
    }
    Ok((tool, fields.0))
}

fn annotations(
    map: Option<Map<String, Value>>,
) -> Result<(ToolAnnotations, Map<String, Value>), FormatError> {
    let mut fields = Fields(map.unwrap_or_default());
    let mut hint = |field: &str| match fields.take(field) {
        None => Ok(None),
        Some(Value::Bool(hint)) => Ok(Some(hint)),
        Some(other) => {
            let path = format!("annotations.{field}");
            Err(FormatError::wrong_type(path, &other, "true or false", "write it without quotes"))
        }
    };
    let annotations = ToolAnnotations {
        read_only: hint("readOnlyHint")?,
        destructive: hint("destructiveHint")?,
        idempotent: hint("idempotentHint")?,
        open_world: hint("openWorldHint")?,
    };
    Ok((annotations, fields.0))
}

/// MCP Apps: `_meta.ui.visibility`, a list of `model` and `app`; absent means both.
fn visibility(meta: Option<&Map<String, Value>>) -> ToolVisibility {
    let list = meta.and_then(|meta| meta.get("ui")?.get("visibility")?.as_array());
    list.map_or_else(ToolVisibility::default, |list| {
        let has = |who: &str| list.iter().any(|entry| entry.as_str() == Some(who));
        ToolVisibility { model: has("model"), app: has("app") }
    })
}

/// Writes tools as MCP does: absent options are left out.
pub(super) fn write(tools: &[ToolDefinition], remainder: Option<&Map<String, Value>>) -> Value {
    let one = |tool: &ToolDefinition| {
        let rest = remainder.and_then(|rest| rest.get(&tool.tool_name)?.as_object()).cloned();
        let mut map = rest.unwrap_or_default();
        let mut annotations = match map.remove("annotations") {
            Some(Value::Object(annotations)) => annotations,
            _ => Map::new(),
        };
        for (field, hint) in [
            ("readOnlyHint", tool.annotations.read_only),
            ("destructiveHint", tool.annotations.destructive),
            ("idempotentHint", tool.annotations.idempotent),
            ("openWorldHint", tool.annotations.open_world),
        ] {
            if let Some(hint) = hint {
                annotations.insert(field.to_owned(), Value::Bool(hint));
            }
        }
        let mut put = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                map.insert(field.to_owned(), value);
            }
        };
        put("name", Some(Value::from(tool.tool_name.as_str())));
        put("title", tool.title.as_deref().map(Value::from));
        let description = Some(tool.description.as_str()).filter(|text| !text.is_empty());
        put("description", description.map(Value::from));
        put("inputSchema", Some(parsed(&tool.input_schema_json)));
        put("outputSchema", tool.output_schema_json.as_deref().map(parsed));
        put("icons", tool.icons_json.as_deref().map(parsed));
        put("_meta", tool.meta_json.as_deref().map(parsed));
        put("annotations", (!annotations.is_empty()).then_some(Value::Object(annotations)));
        Value::Object(map)
    };
    Value::Array(tools.iter().map(one).collect())
}

/// Text that is no JSON stays text: the next reader then names the field instead of losing it.
fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| Value::from(json))
}
