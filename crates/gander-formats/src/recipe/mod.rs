//! Goose's recipe document ⇄ a typed view of it, its templates, links and checks.
//!
//! A recipe is a JSON object whatever the format of its file. Invariants:
//! - the document is never rewritten by reading it: unknown keys survive, a typed [`Recipe`] is a view;
//! - rendering never changes `parameters`, so that a rendered recipe can still be explained;
//! - values are text and never become structure: where the document parses before its variables are filled in, each
//!   string is rendered by itself. Only a document that is no YAML without its template tags is rendered as text.
//!
//! It reads no files: what a template includes and what a file parameter names comes from closures of the caller.

mod hidden;
mod link;
mod parameters;
mod read;
mod schema;
mod template;
mod text;
mod validate;

#[cfg(test)]
mod tests;

use gander_domain::extension::ExtensionConfig;
use serde_json::{Map, Value};

pub use hidden::{Hidden, HiddenKind, hidden_characters};
pub use link::{Link, decode_link, encode_link, encode_payload};
pub use parameters::{RECIPE_DIR, Resolved, resolve_values};
pub use read::read;
pub use schema::{check_schema, schema_problems};
pub use template::{Loader, Template};
pub use text::{file_stem, to_yaml};
pub use validate::{Finding, Severity, validate};

/// Largest text of a recipe, in bytes.
pub const MAX_RECIPE_BYTES: usize = 1 << 20;

/// What a recipe says. [`Recipe::document`] is what it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    pub version: String,
    pub title: String,
    pub description: String,
    pub instructions: Option<String>,
    pub prompt: Option<String>,
    /// `None`: those of the configuration. A list wins, even an empty one.
    pub extensions: Option<Vec<ExtensionConfig>>,
    pub settings: Settings,
    pub activities: Vec<String>,
    pub parameters: Vec<Parameter>,
    /// JSON Schema of the final answer.
    pub response_schema: Option<Value>,
    pub sub_recipes: Vec<SubRecipe>,
    pub retry: Option<Retry>,
    document: Map<String, Value>,
}

impl Recipe {
    /// The document, with everything that it says.
    pub fn document(&self) -> Value {
        Value::Object(self.document.clone())
    }

    /// What to tell the model first: the prompt, else the instructions. `None` when both are blank.
    pub fn first_message(&self) -> Option<&str> {
        let said = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.trim().is_empty());
        [&self.prompt, &self.instructions].into_iter().find(|t| said(t)).and_then(|t| t.as_deref())
    }
}

/// Model settings of a recipe.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    pub provider: Option<String>,
    pub model: Option<String>,
    pub temperature: Option<f64>,
    /// Model calls of a turn.
    pub max_turns: Option<u32>,
}

/// A parameter of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub key: String,
    pub input_type: InputType,
    pub requirement: Requirement,
    pub description: String,
    pub default: Option<String>,
    /// Choices of a `select`.
    pub options: Vec<String>,
}

/// What a parameter's value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputType {
    String,
    Number,
    Boolean,
    Date,
    /// The path of a file, whose content becomes the value.
    File,
    Select,
}

/// Whether a parameter needs a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    Required,
    Optional,
    /// The person is asked; without an answer it is required.
    UserPrompt,
}

/// A recipe that the model may delegate to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubRecipe {
    pub name: String,
    pub path: String,
    /// Values that the model cannot change.
    pub values: std::collections::BTreeMap<String, String>,
    pub sequential_when_repeated: bool,
    pub description: Option<String>,
}

/// Checks after the work, and how often to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    pub max_retries: u32,
    /// Shell commands that must exit with 0.
    pub checks: Vec<String>,
    /// Shell command that runs before another attempt.
    pub on_failure: Option<String>,
    pub timeout_seconds: Option<u64>,
    pub on_failure_timeout_seconds: Option<u64>,
    /// Whether another attempt begins as if the failed one had not been.
    pub reset_context: bool,
}
