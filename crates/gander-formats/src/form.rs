//! Answers to forms: flat JSON Schemas with which MCP servers and ACP agents ask people (elicitation).
//!
//! An answer is checked before the question is settled, so that a mistake can be mended. Invariants: a problem names the
//! field and what would be right, and never quotes the answer; a schema that cannot be used is the asker's fault and
//! forbids nothing; a field that nobody has to fill in counts as left out when it is empty and does not fit, since
//! programs that show forms send their empty boxes along. Schemas come from servers and may refer to themselves: one that is
//! not small with all its references followed counts as one that cannot be used.

use jsonschema::{
    PatternOptions, Validator,
    error::{TypeKind, ValidationErrorKind as Kind},
};
use serde_json::{Map, Value};

/// Most problems that are told at once.
const MAX_PROBLEMS: usize = 20;
/// Most options of a choice that are named.
const MAX_OPTIONS: usize = 20;
/// Most values of a schema, references followed, and their deepest nesting.
const MAX_VALUES: usize = 20_000;
const MAX_LEVEL: usize = 64;
/// Fields that refer to other schemas.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// What is wrong with one field of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormProblem {
    /// Name of the field; empty: the answer as a whole.
    pub field: String,
    /// What would be right.
    pub message: String,
}

/// The answer without the boxes that were left empty. Its order is kept.
///
/// # Errors
/// What does not match the schema, one problem per field.
pub fn check_form(
    schema: &Value,
    answer: Map<String, Value>,
) -> Result<Map<String, Value>, Vec<FormProblem>> {
    let Some(validator) = compile(schema) else { return Ok(answer) };
    let required = |field: &str| {
        schema.get("required").and_then(Value::as_array).is_some_and(|all| all.iter().any(|f| f == field))
    };
    let mut answer = answer;
    let found = problems(&validator, schema, &answer);
    let empty: Vec<&str> = found
        .iter()
        .map(|problem| problem.field.as_str())
        .filter(|field| !required(field) && answer.get(*field).is_some_and(is_empty))
        .collect();
    if !empty.is_empty() {
        answer.retain(|field, _| !empty.contains(&field.as_str()));
        let left = problems(&validator, schema, &answer);
        return if left.is_empty() { Ok(answer) } else { Err(left) };
    }
    if found.is_empty() { Ok(answer) } else { Err(found) }
}

/// `None`: the schema cannot be used. References are never fetched and patterns take linear time.
fn compile(schema: &Value) -> Option<Validator> {
    if !is_small(schema, schema, 0, &mut MAX_VALUES.clone()) {
        return None;
    }
    let build = |schema: &Value| {
        let options = jsonschema::options().with_pattern_options(PatternOptions::regex()).offline();
        options.should_validate_formats(true).build(schema).ok()
    };
    build(schema).or_else(|| {
        // Some servers name a dialect that nobody knows.
        let mut plain = schema.clone();
        plain.as_object_mut()?.remove("$schema")?;
        build(&plain)
    })
}

/// Whether a check against `schema` ends soon and needs little stack. References count as what they refer to.
fn is_small(root: &Value, schema: &Value, level: usize, left: &mut usize) -> bool {
    if level > MAX_LEVEL || *left == 0 {
        return false;
    }
    *left -= 1;
    match schema {
        Value::Object(fields) => fields.iter().all(|(name, value)| {
            let target = match value.as_str().filter(|_| REFERENCES.contains(&name.as_str())) {
                Some(place) => place.strip_prefix('#').and_then(|pointer| root.pointer(pointer)),
                None => Some(value),
            };
            target.is_some_and(|target| is_small(root, target, level + 1, left))
        }),
        Value::Array(items) => items.iter().all(|item| is_small(root, item, level + 1, left)),
        _ => true,
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(str::is_empty)
}

fn problems(validator: &Validator, schema: &Value, answer: &Map<String, Value>) -> Vec<FormProblem> {
    let answer = Value::Object(answer.clone());
    let mut found: Vec<FormProblem> = Vec::new();
    for error in validator.iter_errors(&answer) {
        let place: Vec<String> = error.instance_path().segments().map(|s| s.to_string()).collect();
        let (field, item) = (place.first(), place.get(1));
        let (field, message) = match (error.kind(), field) {
            (Kind::Required { property }, None) => {
                (property.as_str().unwrap_or_default().to_owned(), "is missing".to_owned())
            }
            (_, None) => (String::new(), error.masked_with("the answer").to_string()),
            (kind, Some(field)) => {
                let of_field = schema.get("properties").and_then(|p| p.get(field));
                let asked = if item.is_some() { of_field.and_then(|f| f.get("items")) } else { of_field };
                let whole = wanted(kind, asked.unwrap_or(&Value::Null))
                    .unwrap_or_else(|| error.masked_with("the value").to_string());
                let message = match item {
                    Some(number) => format!("entry {number} {whole}"),
                    None => whole,
                };
                (field.clone(), message)
            }
        };
        if !found.iter().any(|known| known.field == field) {
            found.push(FormProblem { field, message });
        }
        if found.len() == MAX_PROBLEMS {
            break;
        }
    }
    found
}

/// What would be right instead; `None`: nothing that a form usually demands.
fn wanted(kind: &Kind, asked: &Value) -> Option<String> {
    if let Some(options) = options(asked) {
        return Some(format!("must be one of {options}"));
    }
    let characters = |count: &u64| if *count == 1 { "character" } else { "characters" };
    Some(match kind {
        Kind::Type { kind } => type_name(kind),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::MinLength { limit } => format!("must have at least {limit} {}", characters(limit)),
        Kind::MaxLength { limit } => format!("must have at most {limit} {}", characters(limit)),
        Kind::MinItems { limit } => format!("must have at least {limit} of the options"),
        Kind::MaxItems { limit } => format!("must have at most {limit} of the options"),
        Kind::UniqueItems => "must not have the same entry twice".to_owned(),
        Kind::Pattern { pattern } => format!("must match the pattern {pattern}"),
        Kind::Format { format } => match format.as_str() {
            "email" => "must be an e-mail address, such as name@example.com".to_owned(),
            "uri" => "must be a URI with its scheme, such as https://example.com".to_owned(),
            "date" => "must be a date, such as 2026-01-31".to_owned(),
            "date-time" => "must be a time with its zone, such as 2026-01-31T12:00:00Z".to_owned(),
            other => format!("must have the format {other}"),
        },
        _ => return None,
    })
}

fn type_name(kind: &TypeKind) -> String {
    let name = match kind {
        TypeKind::Single(only) => only.to_string(),
        TypeKind::Multiple(several) => {
            let names: Vec<String> = several.iter().map(|t| t.to_string()).collect();
            return format!("must be of type {}", names.join(" or "));
        }
    };
    match name.as_str() {
        "integer" => "must be a whole number, without quotes".to_owned(),
        "number" => "must be a number, without quotes".to_owned(),
        "boolean" => "must be true or false, without quotes".to_owned(),
        "string" => "must be a text".to_owned(),
        "array" => "must be a list".to_owned(),
        other => format!("must be of type {other}"),
    }
}

/// The values that a choice allows: plain, or each with a title.
fn options(asked: &Value) -> Option<String> {
    let plain = asked.get("enum").and_then(Value::as_array).map(|all| all.iter().collect::<Vec<_>>());
    let titled = ["oneOf", "anyOf"].iter().find_map(|key| {
        let all = asked.get(key)?.as_array()?;
        all.iter().map(|option| option.get("const")).collect::<Option<Vec<_>>>()
    });
    let all = plain.or(titled)?;
    let shown: Vec<String> = all.iter().take(MAX_OPTIONS).map(ToString::to_string).collect();
    let more = if all.len() > MAX_OPTIONS { ", …" } else { "" };
    Some(format!("{}{more}", shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: &Value, answer: Value) -> Result<Value, Vec<(String, String)>> {
        let Value::Object(answer) = answer else { panic!("an object") };
        check_form(schema, answer)
            .map(Value::Object)
            .map_err(|problems| problems.into_iter().map(|p| (p.field, p.message)).collect())
    }

    fn of(field: &Value) -> Value {
        json!({"type": "object", "properties": {"f": field}, "required": ["f"]})
    }

    #[test]
    fn each_rule_names_its_field_and_what_would_be_right() {
        let titled = json!({"type": "string", "oneOf": [{"const": "r", "title": "Red"}, {"const": "g", "title": "Green"}]});
        let several = json!({"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string", "enum": ["a", "b", "c"]}});
        for (field, right, wrong, message) in [
            (json!({"type": "integer"}), json!(3), json!("3"), "must be a whole number, without quotes"),
            (json!({"type": "integer"}), json!(3.0), json!(3.5), "must be a whole number, without quotes"),
            (json!({"type": "number"}), json!(3.5), json!(true), "must be a number, without quotes"),
            (json!({"type": "boolean"}), json!(false), json!("no"), "must be true or false, without quotes"),
            (json!({"type": "string"}), json!(""), json!(1), "must be a text"),
            (json!({"type": ["string", "null"]}), json!(null), json!(1), "must be of type null or string"),
            (json!({"type": "integer", "minimum": 18}), json!(18), json!(17), "must be at least 18"),
            (json!({"type": "number", "maximum": 2.5}), json!(2.5), json!(2.6), "must be at most 2.5"),
            (json!({"type": "number", "exclusiveMinimum": 0}), json!(0.1), json!(0), "must be more than 0"),
            (
                json!({"type": "string", "minLength": 1}),
                json!("x"),
                json!(""),
                "must have at least 1 character",
            ),
            (
                json!({"type": "string", "maxLength": 2}),
                json!("äö"),
                json!("abc"),
                "must have at most 2 characters",
            ),
            (
                json!({"type": "string", "pattern": "^[a-z]+$"}),
                json!("ab"),
                json!("A"),
                "must match the pattern ^[a-z]+$",
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("b"),
                json!("c"),
                "must be one of \"a\", \"b\"",
            ),
            (titled.clone(), json!("g"), json!("Green"), "must be one of \"r\", \"g\""),
            (several.clone(), json!(["a", "b"]), json!([]), "must have at least 1 of the options"),
            (several.clone(), json!(["a"]), json!(["a", "b", "c"]), "must have at most 2 of the options"),
            (several, json!(["c"]), json!(["a", "x"]), "entry 1 must be one of \"a\", \"b\", \"c\""),
            (
                json!({"type": "string", "format": "email"}),
                json!("a@b.example"),
                json!("a at b"),
                "must be an e-mail address, such as name@example.com",
            ),
            (
                json!({"type": "string", "format": "uri"}),
                json!("https://x.example/a?b"),
                json!("x y"),
                "must be a URI with its scheme, such as https://example.com",
            ),
            (
                json!({"type": "string", "format": "date"}),
                json!("2024-02-29"),
                json!("2025-02-29"),
                "must be a date, such as 2026-01-31",
            ),
            (
                json!({"type": "string", "format": "date-time"}),
                json!("2026-01-31T10:00:00+02:00"),
                json!("2026-01-31"),
                "must be a time with its zone, such as 2026-01-31T12:00:00Z",
            ),
        ] {
            let schema = of(&field);
            assert_eq!(check(&schema, json!({"f": right})), Ok(json!({"f": right})), "{field}");
            let problems = check(&schema, json!({"f": wrong})).unwrap_err();
            assert_eq!(problems, [("f".to_owned(), message.to_owned())], "{field} {wrong}");
        }
    }

    #[test]
    fn all_fields_are_told_at_once() {
        let schema = json!({"type": "object", "required": ["name", "age"], "properties": {
            "name": {"type": "string"}, "age": {"type": "integer"}, "mail": {"type": "string", "format": "email"}}});
        let mut problems = check(&schema, json!({"mail": "x", "age": "old"})).unwrap_err();
        problems.sort();
        let fields: Vec<_> = problems.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["age", "mail", "name"]);
        assert_eq!(problems[2].1, "is missing");
        assert!(check(&schema, json!({"name": "A", "age": 3, "more": 1})).is_ok(), "the schema allows more");
        let closed = json!({"type": "object", "properties": {}, "additionalProperties": false});
        assert_eq!(check(&closed, json!({"x": 1})).unwrap_err()[0].0, "");
    }

    #[test]
    fn empty_boxes_that_nobody_must_fill_in_are_left_out() {
        let schema = json!({"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "minLength": 1}, "note": {"type": "string"},
            "mail": {"type": "string", "format": "email"}, "age": {"type": "integer"},
            "size": {"type": "string", "enum": ["s", "m"]}}});
        let answer = json!({"name": "A", "note": "", "mail": "", "age": null, "size": ""});
        assert_eq!(check(&schema, answer), Ok(json!({"name": "A", "note": ""})), "an empty text is a text");
        let problems = check(&schema, json!({"name": "", "mail": "", "age": 1.5})).unwrap_err();
        let fields: Vec<_> = problems.iter().map(|(field, _)| field.as_str()).collect();
        assert!(
            fields.contains(&"name") && fields.contains(&"age") && !fields.contains(&"mail"),
            "{fields:?}"
        );
    }

    #[test]
    fn a_schema_that_cannot_be_used_forbids_nothing() {
        for schema in [json!({"type": 3}), json!({"$ref": "https://example.com/x.json"}), json!(7)] {
            assert_eq!(check(&schema, json!({"f": 1})), Ok(json!({"f": 1})), "{schema}");
        }
        let mut strange = of(&json!({"type": "integer"}));
        strange["$schema"] = json!("https://example.com/dialect");
        assert!(check(&strange, json!({"f": "x"})).is_err(), "an unknown dialect is read as the usual one");
    }

    #[test]
    fn a_schema_without_end_is_not_followed() {
        let doubled = |level: u32| {
            let next = json!({"$ref": format!("#/$defs/{}", level + 1)});
            (level.to_string(), json!({"anyOf": [next, next]}))
        };
        let mut defs: Map<String, Value> = (0..60).map(doubled).collect();
        defs.insert("60".to_owned(), json!(false));
        let within = json!({"properties": {"f": {"$ref": "#/properties/f"}}});
        for schema in [json!({"$ref": "#"}), json!({"$ref": "#/$defs/0", "$defs": defs}), within] {
            assert_eq!(check(&schema, json!({"f": 1})), Ok(json!({"f": 1})), "{schema}");
        }
        let referred = json!({"properties": {"f": {"$ref": "#/$defs/color"}, "$ref": {"type": "string"}},
            "$defs": {"color": {"enum": ["red"]}}});
        assert!(check(&referred, json!({"f": "blue"})).is_err(), "references that end are followed");
        assert!(check(&referred, json!({"f": "red", "$ref": "x"})).is_ok());
    }

    #[test]
    fn an_answer_is_never_quoted() {
        let schema = json!({"type": "object", "properties": {"f": {"type": "object"}}, "maxProperties": 1,
            "additionalProperties": {"not": {}}});
        let problems = check(&schema, json!({"f": "hunter2", "g": "hunter2"})).unwrap_err();
        assert!(problems.iter().all(|(_, message)| !message.contains("hunter2")), "{problems:?}");
    }
}
