//! Values against JSON Schemas: arguments of a call against the tool's input schema, with readable messages and the
//! conversions of strings that models get wrong; results and forms against theirs. Pure.

mod cost;

use std::sync::OnceLock;

use jsonschema::{
    JsonType, PatternOptions, Validator,
    error::{TypeKind, ValidationErrorKind},
};
use serde_json::{Map, Value};

/// Schemas larger than this are not compiled: the server checks by itself.
const MAX_SCHEMA_BYTES: usize = 512 * 1024;
/// How many problems a message names.
const MAX_PROBLEMS: usize = 5;
/// Rounds of conversion; each may uncover deeper problems.
const MAX_ROUNDS: usize = 4;

/// A schema, compiled at first use.
pub(crate) struct ArgumentSchema {
    schema: Value,
    compiled: OnceLock<Option<Validator>>,
}

impl ArgumentSchema {
    pub(crate) fn new(schema: Value) -> Self {
        Self { schema, compiled: OnceLock::new() }
    }

    /// Absent when the schema is unusable: then nothing is checked here.
    fn validator(&self) -> Option<&Validator> {
        self.compiled
            .get_or_init(|| {
                if self.schema.to_string().len() > MAX_SCHEMA_BYTES {
                    tracing::warn!("a schema is too large to be compiled; nothing is checked against it");
                    return None;
                }
                if !cost::is_flat_enough(&self.schema) {
                    tracing::warn!("a schema nests too deeply to be compiled; nothing is checked against it");
                    return None;
                }
                // Linear-time patterns, and references are never fetched.
                let options = jsonschema::options().with_pattern_options(PatternOptions::regex()).offline();
                match options.build(&self.schema) {
                    Ok(validator) => Some(validator),
                    Err(error) => {
                        tracing::warn!(%error, "a schema does not compile; nothing is checked against it");
                        None
                    }
                }
            })
            .as_ref()
    }

    /// [`Self::validator`], if it is done with `value` soon.
    fn validator_for(&self, value: &Value) -> Option<&Validator> {
        let validator = self.validator()?;
        if !cost::is_affordable(&self.schema, value) {
            tracing::warn!("a value is not checked: by its schema that would take too long");
            return None;
        }
        Some(validator)
    }

    /// Checks `value` without changing it. An unusable schema checks nothing.
    ///
    /// # Errors
    /// A text that names each place and problem; `root` stands for the value itself.
    pub(crate) fn check(&self, root: &str, value: &Value) -> Result<(), String> {
        match self.validator_for(value) {
            Some(validator) if !validator.is_valid(value) => Err(problems(validator, root, value)),
            _ => Ok(()),
        }
    }

    /// Parses, converts and checks.
    ///
    /// # Errors
    /// A text for the model that names each place and problem.
    pub(crate) fn prepare(&self, arguments_json: &str) -> Result<Map<String, Value>, String> {
        let value = Value::Object(parse(arguments_json)?);
        let Some(validator) = self.validator_for(&value) else { return Ok(into_object(value)) };
        let mut value = into_object(value);
        for _ in 0..MAX_ROUNDS {
            let mut instance = Value::Object(value);
            if validator.is_valid(&instance) {
                return Ok(into_object(instance));
            }
            let fixes: Vec<(String, Fix)> = validator
                .iter_errors(&instance)
                .filter_map(|error| Some((error.instance_path().as_str().to_owned(), fix(&error)?)))
                .collect();
            if fixes.is_empty() {
                return Err(describe(validator, &instance));
            }
            for (path, fix) in fixes {
                match fix {
                    Fix::Replace(fixed) => {
                        if let Some(place) = instance.pointer_mut(&path) {
                            *place = fixed;
                        }
                    }
                    Fix::Remove => remove(&mut instance, &path),
                }
            }
            value = into_object(instance);
        }
        let instance = Value::Object(value);
        if validator.is_valid(&instance) {
            Ok(into_object(instance))
        } else {
            Err(describe(validator, &instance))
        }
    }
}

fn into_object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn parse(arguments_json: &str) -> Result<Map<String, Value>, String> {
    if arguments_json.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(arguments_json) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(other) => Err(format!("the arguments must be a JSON object, not {}", kind(&other))),
        Err(error) => Err(format!("the arguments are not valid JSON: {error}")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// What becomes of a value that the schema refuses.
enum Fix {
    Replace(Value),
    /// Models say `null` where they mean nothing. Where a value is required, its absence is the next problem.
    Remove,
}

fn fix(error: &jsonschema::ValidationError<'_>) -> Option<Fix> {
    let refused = matches!(
        error.kind(),
        ValidationErrorKind::Type { .. }
            | ValidationErrorKind::Enum { .. }
            | ValidationErrorKind::Constant { .. }
    );
    if refused && error.instance().is_null() {
        return Some(Fix::Remove);
    }
    convert(error).map(Fix::Replace)
}

/// Removes the member at a JSON pointer; elements of arrays stay.
fn remove(instance: &mut Value, path: &str) {
    let Some((parent, name)) = path.rsplit_once('/') else { return };
    if let Some(Value::Object(members)) = instance.pointer_mut(parent) {
        members.remove(&name.replace("~1", "/").replace("~0", "~"));
    }
}

/// The one value that a string can mean where the schema wants another single type; `None` when it is not certain.
fn convert(error: &jsonschema::ValidationError<'_>) -> Option<Value> {
    let ValidationErrorKind::Type { kind: TypeKind::Single(wanted) } = error.kind() else { return None };
    let Value::String(text) = error.instance().as_ref() else { return None };
    let parsed: Value = serde_json::from_str(text).ok()?;
    match wanted {
        JsonType::Boolean if parsed.is_boolean() => Some(parsed),
        JsonType::Integer if parsed.is_i64() || parsed.is_u64() => Some(parsed),
        JsonType::Number if parsed.is_number() => Some(parsed),
        _ => None,
    }
}

fn describe(validator: &Validator, instance: &Value) -> String {
    let problems = problems(validator, "arguments", instance);
    format!("the arguments do not match the tool's input schema: {problems}")
}

fn problems(validator: &Validator, root: &str, instance: &Value) -> String {
    let mut problems: Vec<String> = validator
        .iter_errors(instance)
        .take(MAX_PROBLEMS + 1)
        .map(|error| {
            let path = error.instance_path().as_str();
            let place = if path.is_empty() { root.to_owned() } else { readable(path) };
            // Without the value itself: it may be long.
            format!("{place}: {}", error.masked_with(shown(error.instance().as_ref())))
        })
        .collect();
    if problems.len() > MAX_PROBLEMS {
        problems.truncate(MAX_PROBLEMS);
        problems.push("and more".to_owned());
    }
    problems.join("; ")
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// `/a/0/b` as `a[0].b`.
fn readable(pointer: &str) -> String {
    let mut out = String::new();
    for segment in pointer.split('/').skip(1) {
        let segment = segment.replace("~1", "/").replace("~0", "~");
        if segment.parse::<usize>().is_ok() {
            out.push('[');
            out.push_str(&segment);
            out.push(']');
        } else {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&segment);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> ArgumentSchema {
        ArgumentSchema::new(json!({
            "type": "object",
            "properties": {
                "count": {"type": "integer"}, "ratio": {"type": "number"}, "on": {"type": "boolean"},
                "text": {"type": "string"}, "either": {"type": ["integer", "string"]},
                "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}}
            },
            "required": ["count"]
        }))
    }

    #[test]
    fn strings_become_what_they_must_mean() {
        for (given, want) in [
            (json!({"count": "3"}), json!({"count": 3})),
            (
                json!({"count": 3, "ratio": "2.5", "on": "true"}),
                json!({"count": 3, "ratio": 2.5, "on": true}),
            ),
            (
                json!({"count": 3, "text": "5", "either": "7"}),
                json!({"count": 3, "text": "5", "either": "7"}),
            ),
            (json!({"count": 1, "list": [{"n": "9"}]}), json!({"count": 1, "list": [{"n": 9}]})),
            (json!({"count": 1, "on": null, "list": [{"n": null}]}), json!({"count": 1, "list": [{}]})),
        ] {
            assert_eq!(Value::Object(schema().prepare(&given.to_string()).unwrap()), want);
        }
    }

    #[test]
    fn problems_name_place_and_reason() {
        for (given, parts) in [
            ("[1]", vec!["must be a JSON object", "an array"]),
            ("{\"count\":", vec!["not valid JSON"]),
            ("{}", vec!["arguments: ", "\"count\" is a required property"]),
            ("{\"count\":\"three\"}", vec!["count: ", "\"three\"", "integer"]),
            ("{\"count\":1,\"list\":[{\"n\":1},{\"n\":true}]}", vec!["list[1].n: true is not of type"]),
            ("{\"count\":\"1.5\"}", vec!["count"]),
        ] {
            let error = schema().prepare(given).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{given}: {error}");
            }
        }
    }

    #[test]
    fn a_pattern_takes_no_more_than_linear_time() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}});
        let schema = ArgumentSchema::new(schema);
        let evil = json!({"a": format!("{}!", "a".repeat(50_000))}).to_string();
        let before = std::time::Instant::now();
        assert!(schema.prepare(&evil).is_err());
        assert!(before.elapsed() < std::time::Duration::from_secs(5), "{:?}", before.elapsed());
    }

    #[test]
    fn a_hostile_schema_takes_neither_time_nor_stack() {
        let double = |level: u32| json!({"anyOf": [{"$ref": format!("#/$defs/{level}")}, {"$ref": format!("#/$defs/{level}")}]});
        let mut defs: Map<String, Value> =
            (0..60).map(|level| (level.to_string(), double(level + 1))).collect();
        defs.insert("60".to_owned(), json!(false));
        let branching = json!({"type": "object", "allOf": [{"$ref": "#/$defs/0"}], "$defs": defs});
        let link = |level: u32| (level.to_string(), json!({"$ref": format!("#/$defs/{}", level + 1)}));
        let mut defs: Map<String, Value> = (0..9000).map(link).collect();
        defs.insert("9000".to_owned(), json!(false));
        let chained = json!({"$ref": "#/$defs/0", "$defs": defs});
        // What is just allowed fits into a thread's stack.
        let mut defs: Map<String, Value> = (0..90).map(link).collect();
        defs.insert("90".to_owned(), json!(true));
        let long = json!({"$ref": "#/$defs/0", "$defs": defs});
        let checking = std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(move || {
            let before = std::time::Instant::now();
            for schema in [branching, chained, json!({"$ref": "#"}), long] {
                assert_eq!(ArgumentSchema::new(schema).prepare("{\"a\":1}").unwrap().len(), 1);
            }
            assert!(before.elapsed() < std::time::Duration::from_secs(10), "{:?}", before.elapsed());
        });
        checking.unwrap().join().unwrap();
    }

    #[test]
    fn no_arguments_are_an_empty_object() {
        let open = ArgumentSchema::new(json!({"type": "object"}));
        for none in ["", "  ", "null", "{}"] {
            assert!(open.prepare(none).unwrap().is_empty());
        }
    }

    #[test]
    fn a_schema_that_does_not_compile_or_points_elsewhere_checks_nothing() {
        for broken in [json!({"type": 7}), json!({"$ref": "https://example.invalid/s.json"})] {
            assert_eq!(ArgumentSchema::new(broken).prepare("{\"a\":1}").unwrap().len(), 1);
        }
    }
}
