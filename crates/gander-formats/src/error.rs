//! The error of a document that cannot be read.

use gander_domain::{ErrorDetail, ErrorReason, error::FieldViolation};
use serde_json::Value;

/// A document that does not say what its format demands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FormatError {
    /// The reason that API errors made of it carry.
    pub reason: ErrorReason,
    /// Dotted path in the document, with the document's own field names: `envs.PORT`, `args[2]`.
    pub field: String,
    /// What was found, what was expected, and the remedy. Never holds a value of the document.
    pub message: String,
}

impl FormatError {
    /// An extension configuration that cannot be read.
    pub(crate) fn extension(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: ErrorReason::ExtensionConfigInvalid, field: field.into(), message: message.into() }
    }

    /// A recipe that cannot be read.
    pub(crate) fn recipe(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: ErrorReason::RecipeInvalid, field: field.into(), message: message.into() }
    }

    /// A field of the wrong JSON type.
    pub(crate) fn wrong_type(field: impl Into<String>, found: &Value, expected: &str, remedy: &str) -> Self {
        Self::extension(field, format!("found {}, expected {expected}; {remedy}", json_type(found)))
    }

    /// One error for several of one document; none: something is wrong that nobody named.
    pub fn together(errors: Vec<Self>) -> ErrorDetail {
        let Some(first) = errors.first() else { return ErrorDetail::internal("an error without a problem") };
        let told: Vec<String> = errors.iter().map(Self::to_string).collect();
        let mut detail = ErrorDetail::new(first.reason, told.join("; ")).with("field", &first.field);
        let violation = |error: Self| FieldViolation { field: error.field, description: error.message };
        detail.violations = errors.into_iter().map(violation).collect();
        detail
    }

    /// The same error of a value that lies below `parent`.
    pub(crate) fn below(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}

impl From<FormatError> for ErrorDetail {
    fn from(error: FormatError) -> Self {
        let mut detail = ErrorDetail::new(error.reason, error.to_string()).with("field", &error.field);
        detail.violations.push(FieldViolation { field: error.field, description: error.message });
        detail
    }
}

/// The JSON type of a value, for people.
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing (null)",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn becomes_an_error_detail_that_names_the_field() {
        let error = FormatError::wrong_type("envs.PORT", &Value::from(1), "a string", "put it in quotes");
        assert_eq!(error.to_string(), "envs.PORT: found a number, expected a string; put it in quotes");
        let detail = ErrorDetail::from(error);
        assert_eq!(detail.reason, ErrorReason::ExtensionConfigInvalid);
        assert_eq!(detail.metadata.get("field").map(String::as_str), Some("envs.PORT"));
        assert_eq!(detail.violations.len(), 1);
        assert_eq!(detail.violations[0].field, "envs.PORT");
    }
}
