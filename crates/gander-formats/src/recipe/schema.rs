//! JSON Schemas of final answers. References are never fetched and patterns take linear time.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

fn compile(schema: &Value) -> Result<Validator, String> {
    let options = jsonschema::options().with_pattern_options(PatternOptions::regex()).offline();
    options.build(schema).map_err(|error| error.to_string())
}

/// Whether a schema is usable.
///
/// # Errors
/// What is wrong with it.
pub fn check_schema(schema: &Value) -> Result<(), String> {
    jsonschema::meta::validate(schema).map_err(|error| error.to_string())?;
    compile(schema).map(|_| ())
}

/// What is wrong with a value, one text per place; empty: it matches. A schema that is not usable matches nothing.
pub fn schema_problems(schema: &Value, value: &Value) -> Vec<String> {
    const MAX_PROBLEMS: usize = 20;
    match compile(schema) {
        Err(error) => vec![format!("the schema itself is not usable: {error}")],
        Ok(validator) => validator
            .iter_errors(value)
            .take(MAX_PROBLEMS)
            .map(|error| {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() { "the answer".to_owned() } else { place };
                format!("{place}: {error}")
            })
            .collect(),
    }
}
