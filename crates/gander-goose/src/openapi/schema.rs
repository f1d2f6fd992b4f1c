//! Words to write JSON schemas with (draft 2020-12, as OpenAPI 3.1 uses them).

#![allow(clippy::needless_pass_by_value, reason = "schemas are written as nested expressions")]

use serde_json::{Map, Value, json};

pub(super) fn string() -> Value {
    json!({ "type": "string" })
}

pub(super) fn integer() -> Value {
    json!({ "type": "integer" })
}

/// Not negative.
pub(super) fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

pub(super) fn number() -> Value {
    json!({ "type": "number" })
}

pub(super) fn boolean() -> Value {
    json!({ "type": "boolean" })
}

pub(super) fn any() -> Value {
    json!({})
}

pub(super) fn word(word: &str) -> Value {
    json!({ "type": "string", "const": word })
}

pub(super) fn words(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

pub(super) fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

pub(super) fn map(values: Value) -> Value {
    json!({ "type": "object", "additionalProperties": values })
}

pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The same or null.
pub(super) fn nullable(schema: Value) -> Value {
    match schema.get("type").and_then(Value::as_str) {
        Some(kind) if schema.get("enum").is_none() => {
            let kind = json!([kind, "null"]);
            let mut schema = schema;
            if let Some(map) = schema.as_object_mut() {
                map.insert("type".to_owned(), kind);
            }
            schema
        }
        _ => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

/// An object; the names of fields that may be missing end in `?`. Further fields are allowed.
pub(super) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, schema) in fields {
        let name = match name.strip_suffix('?') {
            Some(name) => name,
            None => {
                required.push(name);
                name
            }
        };
        properties.insert(name.to_owned(), schema);
    }
    let mut object = json!({ "type": "object", "properties": properties });
    if let (false, Some(map)) = (required.is_empty(), object.as_object_mut()) {
        map.insert("required".to_owned(), json!(required));
    }
    object
}

/// An object that may be several things, told apart by the constant in its field `type`.
pub(super) fn one_of<const N: usize>(variants: [Value; N]) -> Value {
    json!({ "oneOf": variants.to_vec(), "discriminator": { "propertyName": "type" } })
}
