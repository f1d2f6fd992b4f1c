//! Values of a recipe's parameters.

use std::collections::BTreeMap;

use super::{InputType, Parameter, Requirement};
use crate::FormatError;

/// The variable that every recipe has: the directory of its file.
pub const RECIPE_DIR: &str = "recipe_dir";

/// What the variables stand for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolved {
    /// For the template: given values, defaults, contents of files, empty text where an optional value is missing.
    pub values: BTreeMap<String, String>,
    /// Required ones without a value: nothing can be rendered.
    pub missing_required: Vec<String>,
    /// Optional ones without value and default.
    pub missing_optional: Vec<String>,
}

/// Puts together what the parameters stand for. `read_file` gives the content of a file parameter's file. Values that
/// no parameter asks for are left out, [`RECIPE_DIR`] excepted.
///
/// # Errors
/// Values that are not of their parameter's type, and files that cannot be read. Names parameters, not values.
pub fn resolve_values(
    parameters: &[Parameter],
    given: &BTreeMap<String, String>,
    mut read_file: impl FnMut(&str) -> Result<String, String>,
) -> Result<Resolved, Vec<FormatError>> {
    let mut resolved = Resolved::default();
    let mut problems = Vec::new();
    let directory = given.get(RECIPE_DIR).cloned().unwrap_or_default();
    resolved.values.insert(RECIPE_DIR.to_owned(), directory);
    for parameter in parameters {
        let key = &parameter.key;
        let Some(value) = given.get(key).or(parameter.default.as_ref()) else {
            match parameter.requirement {
                Requirement::Optional => {
                    resolved.values.insert(key.clone(), String::new());
                    resolved.missing_optional.push(key.clone());
                }
                Requirement::Required | Requirement::UserPrompt => {
                    resolved.missing_required.push(key.clone());
                }
            }
            continue;
        };
        let checked = check(parameter, value).and_then(|()| match parameter.input_type {
            InputType::File => read_file(value),
            _ => Ok(value.clone()),
        });
        match checked {
            Ok(value) => drop(resolved.values.insert(key.clone(), value)),
            Err(message) => problems.push(FormatError::recipe(format!("values.{key}"), message)),
        }
    }
    if problems.is_empty() { Ok(resolved) } else { Err(problems) }
}

fn check(parameter: &Parameter, value: &str) -> Result<(), String> {
    match parameter.input_type {
        InputType::Number if value.trim().parse::<f64>().is_err() => Err("must be a number".to_owned()),
        InputType::Boolean if !matches!(value.trim(), "true" | "false") => {
            Err("must be true or false".to_owned())
        }
        InputType::Select
            if !parameter.options.is_empty() && !parameter.options.iter().any(|o| o == value) =>
        {
            Err(format!("must be one of: {}", parameter.options.join(", ")))
        }
        _ => Ok(()),
    }
}
