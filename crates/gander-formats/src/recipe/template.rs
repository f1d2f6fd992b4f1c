//! Recipes with variables: which ones they use, and the recipe with them filled in.
//!
//! Two ways. Where the text is YAML as it stands, every string of the document is a template of its own: a value with
//! line breaks or quotes cannot break the document, and `indent`, which people write for YAML's sake, does nothing.
//! Where it is not (tags around list items, `{% extends %}`), the text is the template, and `indent` does what it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, value::Rest};
use serde_json::Value;

use super::{Recipe, read, text};
use crate::FormatError;

/// Gives the text of a template that another one names; `None`: there is none. An error is told to the person.
pub type Loader = Arc<dyn Fn(&str) -> Result<Option<String>, String> + Send + Sync>;

/// Instructions that rendering one template may take; far above what a recipe needs.
const FUEL: u64 = 2_000_000;
const NAME: &str = "recipe";
/// Functions of the template language itself.
const GLOBALS: &[&str] =
    &["range", "dict", "namespace", "debug", "lipsum", "cycler", "joiner", "super", "self"];

/// A recipe before its variables are filled in.
#[derive(Clone)]
pub struct Template {
    document: Value,
    /// `Some`: the text as a whole is the template.
    whole: Option<String>,
    variables: BTreeSet<String>,
    loader: Option<Loader>,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").field("variables", &self.variables).finish_non_exhaustive()
    }
}

impl Template {
    /// A template in a text, YAML or JSON.
    ///
    /// # Errors
    /// The text is no template, or no recipe document with or without its tags.
    pub fn from_text(text: &str, loader: Option<Loader>) -> Result<Self, FormatError> {
        if !inherits(text)
            && let Ok(document) = text::document(text)
        {
            return Self::from_document(document);
        }
        if !read::is_template(text) {
            // No tags: what the parser says is the whole truth.
            text::document(text)?;
        }
        let whole = without_nonsense(text);
        let variables = variables_of_text(&whole, loader.as_ref())?;
        // Something to show before there are values: each variable by its name.
        let names: BTreeMap<String, String> =
            variables.iter().map(|name| (name.clone(), format!("<{name}>"))).collect();
        let shown = render(&whole, &names, "recipe", false, Source::Text(loader.as_ref()))?;
        let document = text::document(&shown)?;
        Ok(Self { document, whole: Some(whole), variables, loader })
    }

    /// A template in a document: every string of it is one.
    ///
    /// # Errors
    /// The document is no map.
    pub fn from_document(document: Value) -> Result<Self, FormatError> {
        let document = text::unwrapped(document)?;
        let mut variables = BTreeSet::new();
        let mut wrong = None;
        text::each_string(&rendered_part(&document), "", &mut |field, text| {
            if !read::is_template(text) {
                return;
            }
            match variables_of_string(text, field) {
                Ok(found) => variables.extend(found),
                Err(error) => {
                    wrong.get_or_insert(error);
                }
            }
        });
        match wrong {
            Some(error) => Err(error),
            None => Ok(Self { document, whole: None, variables, loader: None }),
        }
    }

    /// The document before its variables are filled in. Where the text as a whole is the template, its variables
    /// show as `<name>`.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Whether [`Template::document`] can be rendered again. Otherwise only this template can.
    pub fn renders_by_document(&self) -> bool {
        self.whole.is_none()
    }

    /// The recipe before its variables are filled in.
    ///
    /// # Errors
    /// As [`read`].
    pub fn recipe(&self) -> Result<Recipe, FormatError> {
        read(&self.document)
    }

    /// Names of the variables that it uses, `recipe_dir` among them.
    pub fn variables(&self) -> &BTreeSet<String> {
        &self.variables
    }

    /// The document with its variables filled in.
    ///
    /// # Errors
    /// A variable without a value, a template that fails, or a result that is no recipe document.
    pub fn render(&self, values: &BTreeMap<String, String>) -> Result<Value, FormatError> {
        if let Some(whole) = &self.whole {
            let rendered = render(whole, values, "recipe", true, Source::Text(self.loader.as_ref()))?;
            return text::document(&rendered).map_err(|mut error| {
                error
                    .message
                    .push_str("; a value of several lines needs `| indent(n)` where it stands in a block");
                error
            });
        }
        let mut rendered = text::map_strings(&rendered_part(&self.document), "", &mut |field, text| {
            if !read::is_template(text) {
                return Ok(text.to_owned());
            }
            let mut out = render(&without_nonsense(text), values, field, true, Source::String)?;
            if text.ends_with('\n') {
                // As a YAML block ends, whatever tags stood on its last lines.
                out.truncate(out.trim_end_matches('\n').len());
                out.push('\n');
            }
            Ok(out)
        })?;
        if let (Value::Object(map), Some(parameters)) = (&mut rendered, self.document.get("parameters")) {
            map.insert("parameters".to_owned(), parameters.clone());
        }
        Ok(rendered)
    }
}

/// All but `parameters`, which say what variables are and use none.
fn rendered_part(document: &Value) -> Value {
    let mut part = document.clone();
    if let Value::Object(map) = &mut part {
        map.remove("parameters");
    }
    part
}

/// Whether a text builds on other templates.
fn inherits(text: &str) -> bool {
    let tags = text.split("{%").skip(1).map(|tag| tag.trim_start_matches('-').trim_start());
    tags.into_iter()
        .any(|tag| ["extends", "include", "import", "from"].iter().any(|word| tag.starts_with(word)))
}

/// What a template is.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// A string of a document.
    String,
    /// The text of a whole file.
    Text(Option<&'a Loader>),
}

fn environment(strict: bool, source: Source<'_>) -> Environment<'static> {
    let mut environment = Environment::new();
    let behavior = if strict { UndefinedBehavior::Strict } else { UndefinedBehavior::Chainable };
    environment.set_undefined_behavior(behavior);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    match source {
        Source::String => environment.add_filter("indent", |text: String, _: Rest<minijinja::Value>| text),
        Source::Text(None) => {}
        Source::Text(Some(loader)) => {
            let loader = loader.clone();
            environment.set_loader(move |name| {
                loader(name).map_err(|why| Error::new(ErrorKind::InvalidOperation, why))
            });
        }
    }
    environment
}

fn render(
    template: &str,
    values: &BTreeMap<String, String>,
    field: &str,
    strict: bool,
    source: Source<'_>,
) -> Result<String, FormatError> {
    let failed = |error: &Error| FormatError::recipe(field, explain(error));
    let mut environment = environment(strict, source);
    environment.add_template_owned(NAME, template.to_owned()).map_err(|e| failed(&e))?;
    let template = environment.get_template(NAME).map_err(|e| failed(&e))?;
    template.render(minijinja::Value::from(values.clone())).map_err(|e| failed(&e))
}

fn variables_of_string(text: &str, field: &str) -> Result<BTreeSet<String>, FormatError> {
    let mut environment = environment(false, Source::String);
    let added = environment.add_template_owned(NAME, without_nonsense(text));
    added.map_err(|e| FormatError::recipe(field, explain(&e)))?;
    let template = environment.get_template(NAME).map_err(|e| FormatError::recipe(field, explain(&e)))?;
    Ok(named(template.undeclared_variables(false)))
}

/// Variables of a text and of all templates that it builds on.
fn variables_of_text(text: &str, loader: Option<&Loader>) -> Result<BTreeSet<String>, FormatError> {
    let failed = |error: &Error| FormatError::recipe("recipe", explain(error));
    let mut environment = environment(false, Source::Text(loader));
    environment.add_template_owned(NAME, text.to_owned()).map_err(|e| failed(&e))?;
    // Rendering is what loads the others.
    let template = environment.get_template(NAME).map_err(|e| failed(&e))?;
    template.render(()).map_err(|e| failed(&e))?;
    let mut names = template.undeclared_variables(false);
    for (_, other) in environment.templates() {
        names.extend(other.undeclared_variables(false));
    }
    Ok(named(names))
}

fn named(names: std::collections::HashSet<String>) -> BTreeSet<String> {
    names.into_iter().filter(|name| !GLOBALS.contains(&name.as_str())).collect()
}

/// Keeps `{{ … }}` that is no expression as it stands, as texts for people hold such things.
fn without_nonsense(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        if let Some((begin, end)) = raw_block(rest).filter(|(begin, _)| *begin < start) {
            // What stands between raw tags is text already.
            debug_assert!(begin < end);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let Some(length) = rest[start..].find("}}") else { break };
        let end = start + length + 2;
        let inner = &rest[start + 2..end - 2];
        out.push_str(&rest[..start]);
        // An expression of several lines is left to the real parser.
        let nonsense =
            !inner.contains('\n') && Environment::new().compile_expression(trimmed(inner)).is_err();
        if nonsense {
            out.push_str("{% raw %}");
            out.push_str(&rest[start..end]);
            out.push_str("{% endraw %}");
        } else {
            out.push_str(&rest[start..end]);
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// Where the next `{% raw %}` begins and its `{% endraw %}` ends.
fn raw_block(text: &str) -> Option<(usize, usize)> {
    let (begin, after) = tag(text, "raw")?;
    let (_, end) = tag(&text[after..], "endraw")?;
    Some((begin, after + end))
}

/// Where the next tag of this name begins and ends.
fn tag(text: &str, name: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    while let Some(start) = text[from..].find("{%").map(|at| from + at) {
        let end = start + text[start..].find("%}")? + 2;
        if trimmed(&text[start + 2..end - 2]) == name {
            return Some((start, end));
        }
        from = end;
    }
    None
}

/// An expression without the marks that cut white space.
fn trimmed(inner: &str) -> &str {
    inner.trim_start_matches('-').trim_end_matches('-').trim()
}

/// What is wrong, without the values.
fn explain(error: &Error) -> String {
    let what = match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, _) => "uses a variable that has no value".to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("the template fails at line {line}: {what}"),
        None => format!("the template fails: {what}"),
    }
}
