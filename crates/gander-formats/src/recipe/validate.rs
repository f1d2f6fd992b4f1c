//! What is wrong with a recipe, all of it at once.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    HiddenKind, InputType, Parameter, RECIPE_DIR, Recipe, Requirement, Template, check_schema,
    hidden_characters, read,
};
use crate::FormatError;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Works, but perhaps not as meant.
    Warning,
    /// Does not work.
    Error,
    /// Might be meant to harm.
    Security,
}

/// Something that a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// Stable, `lower_snake_case`.
    pub code: &'static str,
    /// Dotted path in the document. May be empty.
    pub field: String,
    pub message: String,
}

impl Finding {
    fn new(
        severity: Severity,
        code: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { severity, code, field: field.into(), message: message.into() }
    }

    /// A document that cannot be read.
    pub fn unreadable(error: &FormatError) -> Self {
        Self::new(Severity::Error, "unreadable", &error.field, &error.message)
    }
}

/// Looks for mistakes and for signs of harm.
pub fn validate(template: &Template) -> Vec<Finding> {
    let mut findings = hidden(template.document());
    match read::read_all(template.document()) {
        Err(errors) => findings.extend(errors.iter().map(Finding::unreadable)),
        Ok(recipe) => {
            said(&recipe, &mut findings);
            parameters(&recipe.parameters, template.variables(), &mut findings);
            response(&recipe, &mut findings);
            retry(&recipe, &mut findings);
            sub_recipes(&recipe, &mut findings);
            extensions(&recipe, &mut findings);
        }
    }
    findings
}

fn hidden(document: &Value) -> Vec<Finding> {
    let finding = |hidden: super::Hidden| {
        let (severity, code, what) = match hidden.kind {
            HiddenKind::Tags => (Severity::Security, "hidden_characters", "invisible Unicode tags"),
            HiddenKind::Direction => {
                (Severity::Security, "direction_controls", "controls that change the order of shown text")
            }
            HiddenKind::Invisible => (Severity::Warning, "invisible_characters", "characters without width"),
        };
        let message = format!(
            "holds {} {what}: a model reads what a person does not see. Remove them unless you know why they are there",
            hidden.count
        );
        Finding::new(severity, code, hidden.field, message)
    };
    hidden_characters(document).into_iter().map(finding).collect()
}

fn said(recipe: &Recipe, findings: &mut Vec<Finding>) {
    if recipe.first_message().is_none() {
        let message = "neither `instructions` nor `prompt` says anything; add one of them";
        findings.push(Finding::new(Severity::Error, "nothing_to_do", "instructions", message));
    }
}

fn parameters(parameters: &[Parameter], used: &BTreeSet<String>, findings: &mut Vec<Finding>) {
    let mut seen = BTreeSet::new();
    for (index, parameter) in parameters.iter().enumerate() {
        let field = |name: &str| format!("parameters[{index}].{name}");
        let key = &parameter.key;
        let mut found = |severity, code, name: &str, message: String| {
            findings.push(Finding::new(severity, code, field(name), message));
        };
        if !seen.insert(key.as_str()) {
            found(Severity::Error, "duplicate_parameter", "key", format!("{key} is declared twice"));
        }
        if key == RECIPE_DIR {
            let message = format!("{RECIPE_DIR} is set by itself; choose another name");
            found(Severity::Error, "reserved_parameter", "key", message);
        } else if !used.contains(key) {
            let message = format!("{key} is declared and used nowhere; Goose refuses such a recipe");
            found(Severity::Warning, "unused_parameter", "key", message);
        }
        if parameter.input_type == InputType::File && parameter.default.is_some() {
            let message = format!("{key} is a file: a default would read a file that nobody named");
            found(Severity::Error, "file_default", "default", message);
        }
        let optional = parameter.requirement == Requirement::Optional;
        if optional && parameter.default.is_none() {
            let message = format!("{key} is optional and has no default; without a value it is empty text");
            found(Severity::Warning, "optional_without_default", "default", message);
        }
        if parameter.input_type == InputType::Select {
            if parameter.options.is_empty() {
                found(
                    Severity::Error,
                    "select_without_options",
                    "options",
                    format!("{key} offers no choice"),
                );
            } else if let Some(default) = &parameter.default
                && !parameter.options.contains(default)
            {
                let message = format!("the default of {key} is none of its options");
                found(Severity::Error, "default_not_an_option", "default", message);
            }
        }
    }
    for name in used.iter().filter(|name| *name != RECIPE_DIR && !seen.contains(name.as_str())) {
        let message = format!("the variable {name} is used and not declared; add it to `parameters`");
        findings.push(Finding::new(Severity::Error, "undeclared_variable", "parameters", message));
    }
}

fn response(recipe: &Recipe, findings: &mut Vec<Finding>) {
    if let Some(schema) = &recipe.response_schema
        && let Err(why) = check_schema(schema)
    {
        let message = format!("is no usable JSON Schema: {why}");
        findings.push(Finding::new(Severity::Error, "invalid_schema", "response.json_schema", message));
    }
}

fn retry(recipe: &Recipe, findings: &mut Vec<Finding>) {
    let Some(retry) = &recipe.retry else { return };
    let mut found = |field: &str, message: &str| {
        findings.push(Finding::new(Severity::Error, "invalid_retry", format!("retry.{field}"), message));
    };
    if retry.max_retries == 0 {
        found("max_retries", "must be 1 or more");
    }
    if retry.checks.is_empty() {
        found("checks", "must hold at least one check: without one there is nothing to retry for");
    }
    if retry.timeout_seconds == Some(0) {
        found("timeout_seconds", "must be 1 or more");
    }
    if retry.on_failure_timeout_seconds == Some(0) {
        found("on_failure_timeout_seconds", "must be 1 or more");
    }
}

fn sub_recipes(recipe: &Recipe, findings: &mut Vec<Finding>) {
    let mut seen = BTreeSet::new();
    for (index, sub) in recipe.sub_recipes.iter().enumerate() {
        if !seen.insert(&sub.name) {
            let field = format!("sub_recipes[{index}].name");
            let message = format!("{} is there twice", sub.name);
            findings.push(Finding::new(Severity::Error, "duplicate_sub_recipe", field, message));
        }
    }
}

fn extensions(recipe: &Recipe, findings: &mut Vec<Finding>) {
    for (index, config) in recipe.extensions.iter().flatten().enumerate() {
        for violation in crate::extension::validate(config) {
            let field = format!("extensions[{index}].{}", violation.field);
            findings.push(Finding::new(Severity::Error, "invalid_extension", field, violation.description));
        }
    }
}
