//! Document → [`Recipe`].

use std::{cell::RefCell, collections::BTreeMap};

use serde_json::{Map, Value};

use super::{InputType, Parameter, Recipe, Requirement, Retry, Settings, SubRecipe, text};
use crate::{FormatError, error::json_type};

/// Reads a recipe. A `recipe:` around it is taken off, a missing version is 1.0.0, and text may still hold variables:
/// a number that is written as one is absent.
///
/// # Errors
/// The first field that is missing or has the wrong type.
pub fn read(document: &Value) -> Result<Recipe, FormatError> {
    let all = |mut problems: Vec<FormatError>| problems.swap_remove(0);
    read_all(document).map_err(all)
}

/// Reads a recipe as [`read`] does.
///
/// # Errors
/// Every field that is missing or has the wrong type, in an entry of a list the first one; at least one.
pub(super) fn read_all(document: &Value) -> Result<Recipe, Vec<FormatError>> {
    let Value::Object(map) = text::unwrapped(document.clone()).map_err(|error| vec![error])? else {
        return Err(vec![FormatError::recipe("recipe", "is no map")]);
    };
    let problems = RefCell::default();
    let root = At { map: &map, path: String::new(), problems: &problems };
    let recipe = Recipe {
        title: root.keep(root.required("title", "what the recipe is called")),
        description: root.keep(root.required("description", "what it does, one sentence")),
        version: root.keep(root.text("version")).unwrap_or_else(|| "1.0.0".to_owned()),
        instructions: root.keep(root.text("instructions")),
        prompt: root.keep(root.text("prompt")),
        extensions: extensions(&root),
        settings: settings(&root),
        activities: root.keep(root.texts("activities")),
        parameters: root.objects("parameters", parameter),
        response_schema: root.keep(response(&root)),
        sub_recipes: root.objects("sub_recipes", sub_recipe),
        retry: root.keep(root.object("retry")).map(|at| retry(&at)),
        document: map.clone(),
    };
    let problems = problems.into_inner();
    if problems.is_empty() { Ok(recipe) } else { Err(problems) }
}

/// A map and where it stands.
struct At<'a> {
    map: &'a Map<String, Value>,
    path: String,
    /// What is wrong so far.
    problems: &'a RefCell<Vec<FormatError>>,
}

impl<'a> At<'a> {
    /// Notes what is wrong and goes on with nothing in its place.
    fn keep<T: Default>(&self, result: Result<T, FormatError>) -> T {
        result.unwrap_or_else(|problem| {
            self.problems.borrow_mut().push(problem);
            T::default()
        })
    }

    fn field(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    fn wrong(&self, name: &str, found: &Value, expected: &str) -> FormatError {
        FormatError::recipe(self.field(name), format!("found {}, expected {expected}", json_type(found)))
    }

    fn text(&self, name: &str) -> Result<Option<String>, FormatError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            // YAML reads an unquoted 1.0 or true as something else than text; what was written is clear.
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(other) => Err(self.wrong(name, other, "text")),
        }
    }

    fn required(&self, name: &str, meaning: &str) -> Result<String, FormatError> {
        let text = self.text(name)?.filter(|t| !t.trim().is_empty());
        text.ok_or_else(|| FormatError::recipe(self.field(name), format!("missing; add `{name}`: {meaning}")))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, FormatError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if matches!(text.trim(), "true" | "false") => Ok(text.trim() == "true"),
            Some(Value::String(text)) if is_template(text) => Ok(default),
            Some(other) => Err(self.wrong(name, other, "true or false")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>, FormatError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if is_template(text) => Ok(None),
            Some(value) => {
                let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
                match number.filter(|n| n.is_finite()) {
                    Some(number) if number >= 0.0 => Ok(Some(number)),
                    Some(_) => Err(FormatError::recipe(self.field(name), "must be 0 or more")),
                    None => Err(self.wrong(name, value, "a number, 0 or more")),
                }
            }
        }
    }

    fn whole(&self, name: &str) -> Result<Option<u64>, FormatError> {
        let Some(number) = self.number(name)? else { return Ok(None) };
        if number.fract() != 0.0 || number > 9_007_199_254_740_992.0 {
            return Err(FormatError::recipe(self.field(name), "must be a whole number"));
        }
        Ok(Some(number as u64))
    }

    fn small(&self, name: &str) -> Result<Option<u32>, FormatError> {
        let too_large = |_| FormatError::recipe(self.field(name), "is too large");
        self.whole(name)?.map(u32::try_from).transpose().map_err(too_large)
    }

    fn list(&self, name: &str) -> Result<&'a [Value], FormatError> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(self.wrong(name, other, "a list")),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, FormatError> {
        let text = |(index, value): (usize, &Value)| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
            other => Err(self.wrong(&format!("{name}[{index}]"), other, "text")),
        };
        self.list(name)?.iter().enumerate().map(text).collect()
    }

    fn object(&self, name: &str) -> Result<Option<At<'a>>, FormatError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(At { map, path: self.field(name), problems: self.problems })),
            Some(other) => Err(self.wrong(name, other, "a map")),
        }
    }

    fn objects<T>(&self, name: &str, read: impl Fn(&At<'a>) -> Result<T, FormatError>) -> Vec<T> {
        let one = |(index, value): (usize, &'a Value)| match value {
            Value::Object(map) => {
                let path = format!("{}[{index}]", self.field(name));
                read(&At { map, path, problems: self.problems })
            }
            other => Err(self.wrong(&format!("{name}[{index}]"), other, "a map")),
        };
        let entries = self.keep(self.list(name).map(Some)).unwrap_or_default();
        entries.iter().enumerate().filter_map(|entry| self.keep(one(entry).map(Some))).collect()
    }
}

pub(super) fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

fn extensions(root: &At<'_>) -> Option<Vec<gander_domain::extension::ExtensionConfig>> {
    root.get("extensions")?;
    let one = |(index, value): (usize, &Value)| {
        crate::extension::from_value(value).map_err(|error| {
            let mut error = error.below(&format!("extensions[{index}]"));
            error.reason = gander_domain::ErrorReason::RecipeInvalid;
            error
        })
    };
    let entries = root.keep(root.list("extensions").map(Some)).unwrap_or_default();
    Some(entries.iter().enumerate().filter_map(|entry| root.keep(one(entry).map(Some))).collect())
}

fn settings(root: &At<'_>) -> Settings {
    let Some(at) = root.keep(root.object("settings")) else { return Settings::default() };
    let text = |name| at.keep(at.text(name)).filter(|t| !t.trim().is_empty());
    Settings {
        provider: text("goose_provider"),
        model: text("goose_model"),
        temperature: at.keep(at.number("temperature")),
        max_turns: at.keep(at.small("max_turns")),
    }
}

fn response(root: &At<'_>) -> Result<Option<Value>, FormatError> {
    let Some(at) = root.object("response")? else { return Ok(None) };
    match at.get("json_schema") {
        None => Ok(None),
        Some(schema @ Value::Object(map)) => Ok((!map.is_empty()).then(|| schema.clone())),
        Some(other) => Err(at.wrong("json_schema", other, "a JSON Schema, which is a map")),
    }
}

fn parameter(at: &At<'_>) -> Result<Parameter, FormatError> {
    let key = at.required("key", "the name of the variable")?;
    let input_type = at.text("input_type")?.unwrap_or_else(|| "string".to_owned());
    let input_type = match input_type.as_str() {
        "string" => InputType::String,
        "number" => InputType::Number,
        "boolean" => InputType::Boolean,
        "date" => InputType::Date,
        "file" => InputType::File,
        "select" => InputType::Select,
        _ => {
            let message = "must be string, number, boolean, date, file or select";
            return Err(FormatError::recipe(at.field("input_type"), message));
        }
    };
    let requirement = at.text("requirement")?.unwrap_or_else(|| "required".to_owned());
    let requirement = match requirement.as_str() {
        "required" => Requirement::Required,
        "optional" => Requirement::Optional,
        "user_prompt" => Requirement::UserPrompt,
        _ => {
            let message = "must be required, optional or user_prompt";
            return Err(FormatError::recipe(at.field("requirement"), message));
        }
    };
    Ok(Parameter {
        key,
        input_type,
        requirement,
        description: at.text("description")?.unwrap_or_default(),
        default: at.text("default")?,
        options: at.texts("options")?,
    })
}

fn sub_recipe(at: &At<'_>) -> Result<SubRecipe, FormatError> {
    let values = match at.object("values")? {
        None => BTreeMap::new(),
        Some(values) => {
            let one = |key: &String| Ok((key.clone(), values.text(key)?.unwrap_or_default()));
            values.map.keys().map(one).collect::<Result<_, FormatError>>()?
        }
    };
    Ok(SubRecipe {
        name: at.required("name", "what the model calls it by")?,
        path: at.required("path", "the file of the recipe")?,
        values,
        sequential_when_repeated: at.flag("sequential_when_repeated", false)?,
        description: at.text("description")?,
    })
}

fn retry(at: &At<'_>) -> Retry {
    let check = |check: &At<'_>| {
        let kind = check.text("type")?.unwrap_or_else(|| "shell".to_owned());
        if !kind.eq_ignore_ascii_case("shell") {
            return Err(FormatError::recipe(check.field("type"), "must be shell"));
        }
        check.required("command", "the shell command that must succeed")
    };
    Retry {
        max_retries: at.keep(at.small("max_retries")).unwrap_or_default(),
        checks: at.objects("checks", check),
        on_failure: at.keep(at.text("on_failure")).filter(|c| !c.trim().is_empty()),
        timeout_seconds: at.keep(at.whole("timeout_seconds")),
        on_failure_timeout_seconds: at.keep(at.whole("on_failure_timeout_seconds")),
        reset_context: at.keep(at.flag("reset_context", true)),
    }
}
