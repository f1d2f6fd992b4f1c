//! From a request to a recipe with its variables filled in.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use gander_domain::{ErrorDetail, ErrorReason, error::FieldViolation};
use gander_formats::recipe::{self as format, RECIPE_DIR, Recipe, Template};
use serde_json::Value;

use super::{
    RecipeLibrary, RecipeOrigin, RecipeRequest,
    files::{self, RecipeFile},
    library::parse_json,
};

/// Largest recipe with its values, in bytes: the session's events hold it, and those fit any client.
const MAX_RENDERED_BYTES: usize = 512 * 1024;

/// A recipe and what its variables stand for.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// Set for stored recipes.
    pub recipe_id: Option<String>,
    /// Before rendering, paths of sub-recipes made absolute.
    pub document: Value,
    /// The given values, and the directory of the recipe's file where it has one.
    pub values: BTreeMap<String, String>,
    /// With its variables filled in; `None` while required values are missing.
    pub rendered: Option<Recipe>,
    pub missing_required: Vec<String>,
    pub missing_optional: Vec<String>,
}

impl Resolved {
    /// The rendered recipe.
    ///
    /// # Errors
    /// `RECIPE_PARAMETERS_MISSING`.
    pub(crate) fn ready(&self) -> Result<&Recipe, ErrorDetail> {
        self.rendered.as_ref().ok_or_else(|| parameters_missing(&self.missing_required))
    }
}

/// Where relative paths of a recipe begin.
#[derive(Default)]
struct Bases<'a> {
    working_directory: Option<&'a Path>,
    recipe_directory: Option<&'a Path>,
}

impl RecipeLibrary {
    /// Reads what a request names, before anything is filled in.
    pub(crate) fn template(
        &self,
        origin: &RecipeOrigin,
        projects: &[PathBuf],
    ) -> Result<(Template, Option<PathBuf>), ErrorDetail> {
        self.open(origin, projects).map(|opened| (opened.template, opened.directory))
    }

    fn open(&self, origin: &RecipeOrigin, projects: &[PathBuf]) -> Result<Opened, ErrorDetail> {
        let of_file = |file: RecipeFile, recipe_id| Opened {
            template: file.template,
            directory: Some(file.directory),
            recipe_id,
            values: BTreeMap::new(),
        };
        Ok(match origin {
            RecipeOrigin::Json(text) => Opened {
                template: Template::from_document(parse_json(text)?)?,
                directory: None,
                recipe_id: None,
                values: BTreeMap::new(),
            },
            RecipeOrigin::Link(text) => {
                let mut link = format::decode_link(text)?;
                let template = Template::from_document(link.document)?;
                // Who sent a link must not choose which files of the user are read.
                for parameter in template.recipe()?.parameters {
                    if parameter.input_type == format::InputType::File {
                        link.values.remove(&parameter.key);
                    }
                }
                Opened { template, directory: None, recipe_id: None, values: link.values }
            }
            RecipeOrigin::Stored(id) => {
                of_file(files::read_recipe(&self.find(id, projects)?)?, Some(id.clone()))
            }
            RecipeOrigin::File(path) => {
                let path = Path::new(path);
                if !path.is_absolute() {
                    return Err(ErrorDetail::invalid("recipe.file_path", "must be an absolute path"));
                }
                of_file(files::read_recipe(path)?, None)
            }
        })
    }

    /// Reads what a request names and fills it in as far as there are values.
    pub(crate) fn resolve(
        &self,
        request: &RecipeRequest,
        working_directory: Option<&Path>,
        projects: &[PathBuf],
    ) -> Result<Resolved, ErrorDetail> {
        let opened = self.open(&request.origin, projects)?;
        let mut values = opened.values;
        // Who asks may override what a link says; nobody else says where the recipe is.
        values.extend(request.values.clone());
        if let Some(directory) = &opened.directory {
            values.insert(RECIPE_DIR.to_owned(), directory.to_string_lossy().into_owned());
        }
        let bases = Bases { working_directory, recipe_directory: opened.directory.as_deref() };
        let resolved = fill(&opened.template, values, opened.recipe_id, &bases)?;
        if resolved.rendered.is_none()
            && !(request.allow_missing_values && opened.template.renders_by_document())
        {
            return Err(parameters_missing(&resolved.missing_required));
        }
        Ok(resolved)
    }
}

struct Opened {
    template: Template,
    directory: Option<PathBuf>,
    recipe_id: Option<String>,
    values: BTreeMap<String, String>,
}

/// Fills in a document that a session keeps.
pub(crate) fn fill_document(
    document: Value,
    values: BTreeMap<String, String>,
    recipe_id: Option<String>,
    working_directory: &Path,
) -> Result<Resolved, ErrorDetail> {
    let template = Template::from_document(document)?;
    let directory = values.get(RECIPE_DIR).map(PathBuf::from).filter(|d| d.is_absolute());
    let bases = Bases { working_directory: Some(working_directory), recipe_directory: directory.as_deref() };
    fill(&template, values, recipe_id, &bases)
}

fn fill(
    template: &Template,
    values: BTreeMap<String, String>,
    recipe_id: Option<String>,
    bases: &Bases<'_>,
) -> Result<Resolved, ErrorDetail> {
    let recipe = template.recipe()?;
    let declared = |name: &String| name == RECIPE_DIR || recipe.parameters.iter().any(|p| p.key == *name);
    if let Some(name) = template.variables().iter().find(|name| !declared(name)) {
        let message = format!("the recipe uses the variable {name} and does not declare it in `parameters`");
        return Err(ErrorDetail::new(ErrorReason::RecipeInvalid, message).with("field", "parameters"));
    }
    let filled = format::resolve_values(&recipe.parameters, &values, |path| read_value(path, bases))
        .map_err(gander_formats::FormatError::together)?;
    let mut document = template.document().clone();
    let mut rendered = None;
    if filled.missing_required.is_empty() {
        let mut whole = template.render(&filled.values)?;
        locate_sub_recipes(&mut whole, bases.recipe_directory);
        let recipe = format::read(&whole)?;
        check(&recipe)?;
        let bytes = whole.to_string().len();
        if bytes > MAX_RENDERED_BYTES {
            let message = format!(
                "the recipe has {bytes} bytes with its values, at most {MAX_RENDERED_BYTES} are taken; name large \
                 files in the text instead of holding them"
            );
            return Err(ErrorDetail::new(ErrorReason::RecipeInvalid, message).with("field", "recipe.values"));
        }
        if !template.renders_by_document() {
            document = whole;
        }
        rendered = Some(recipe);
    }
    locate_sub_recipes(&mut document, bases.recipe_directory);
    Ok(Resolved {
        recipe_id,
        document,
        values,
        rendered,
        missing_required: filled.missing_required,
        missing_optional: filled.missing_optional,
    })
}

/// What a recipe needs to be run.
fn check(recipe: &Recipe) -> Result<(), ErrorDetail> {
    let invalid = |field: &str, message: String| {
        ErrorDetail::new(ErrorReason::RecipeInvalid, format!("{field}: {message}")).with("field", field)
    };
    if recipe.first_message().is_none() {
        return Err(invalid("instructions", "neither `instructions` nor `prompt` says anything".to_owned()));
    }
    if let Some(schema) = &recipe.response_schema {
        format::check_schema(schema).map_err(|why| invalid("response.json_schema", why))?;
    }
    Ok(())
}

/// The content of a file parameter's file.
fn read_value(path: &str, bases: &Bases<'_>) -> Result<String, String> {
    let path = Path::new(path);
    if path.is_absolute() {
        return files::read_text(path).map_err(|why| format!("the file {} {why}", path.display()));
    }
    let bases = [bases.working_directory, bases.recipe_directory];
    let found = bases.into_iter().flatten().map(|base| base.join(path)).find(|p| p.is_file());
    match found {
        Some(path) => files::read_text(&path).map_err(|why| format!("the file {} {why}", path.display())),
        None => Err(format!("the file {} does not exist; give an absolute path", path.display())),
    }
}

/// A session knows no directory of the recipe's file, so what is relative to it becomes absolute.
fn locate_sub_recipes(document: &mut Value, directory: Option<&Path>) {
    let Some(directory) = directory else { return };
    let Some(list) = document.get_mut("sub_recipes").and_then(Value::as_array_mut) else { return };
    for sub in list {
        if let Some(path) = sub.get("path").and_then(Value::as_str)
            && !path.contains("{{")
            && Path::new(path).is_relative()
        {
            let absolute = directory.join(path).to_string_lossy().into_owned();
            sub["path"] = Value::String(absolute);
        }
    }
}

/// The error of a recipe without the values that it needs.
pub(crate) fn parameters_missing(names: &[String]) -> ErrorDetail {
    let list = names.join(", ");
    let message = format!("the recipe needs values for its parameters {list}; give them with the recipe");
    let mut error = ErrorDetail::new(ErrorReason::RecipeParametersMissing, message).with("parameters", list);
    let violation = |name: &String| FieldViolation {
        field: format!("recipe.values.{name}"),
        description: "is required and has no value".to_owned(),
    };
    error.violations = names.iter().map(violation).collect();
    error
}
