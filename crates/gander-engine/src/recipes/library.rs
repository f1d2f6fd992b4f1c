//! Stored recipes: the user's directory, those of `GOOSE_RECIPE_PATH`, and `.goose/recipes` of a working directory.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use gander_config::ConfigHandle;
use gander_domain::{ErrorDetail, ErrorReason, error::FieldViolation};
use gander_formats::recipe::{self as format, Severity, Template};
use serde_json::{Value, json};

use super::{
    StoredRecipe, UnreadableRecipe,
    files::{self, RecipeFile},
};
use crate::configuration::config_error;

/// Key of `config.yaml` that maps text commands to recipe files.
const COMMANDS_KEY: &str = "slash_commands";
/// Names of builtin text commands.
const RESERVED: &[&str] =
    &["compact", "clear", "prompts", "prompt", "help", "exit", "quit", "skills", "plan", "mode"];

pub(crate) struct RecipeLibrary {
    config: ConfigHandle,
    /// Where recipes that were listed before are, by id: the directories of projects are not known otherwise.
    known: Mutex<HashMap<String, PathBuf>>,
    /// One change of files and commands at a time.
    writing: Mutex<()>,
}

impl RecipeLibrary {
    pub(crate) fn new(config: ConfigHandle) -> Self {
        Self { config, known: Mutex::default(), writing: Mutex::default() }
    }

    fn directories(&self, working_directory: Option<&Path>) -> Vec<PathBuf> {
        let mut directories = vec![self.config.paths().recipes_dir()];
        let named = self.config.current().get_string("GOOSE_RECIPE_PATH").ok().flatten().unwrap_or_default();
        directories.extend(
            named.split(':').filter(|d| !d.is_empty()).map(PathBuf::from).filter(|d| d.is_absolute()),
        );
        directories.extend(working_directory.map(|d| d.join(".goose").join("recipes")));
        directories
    }

    /// All recipes, latest change first, and the files that are none.
    pub(crate) fn list(
        &self,
        working_directory: Option<&Path>,
    ) -> (Vec<StoredRecipe>, Vec<UnreadableRecipe>) {
        let (mut recipes, mut unreadable) = (Vec::<StoredRecipe>::new(), Vec::new());
        for path in self.directories(working_directory).iter().flat_map(|d| files::recipe_files(d)) {
            if recipes.iter().any(|r| r.file_path == path) {
                continue;
            }
            match files::read_recipe(&path).and_then(|file| self.stored(&file)) {
                Ok(recipe) => recipes.push(recipe),
                Err(error) => unreadable.push(UnreadableRecipe {
                    file_path: path,
                    field: error.metadata.get("field").cloned().unwrap_or_default(),
                    message: error.message,
                }),
            }
        }
        recipes.sort_by(|a, b| (b.modify_time, &a.file_path).cmp(&(a.modify_time, &b.file_path)));
        (recipes, unreadable)
    }

    /// What a file says, and remembers where it is.
    fn stored(&self, file: &RecipeFile) -> Result<StoredRecipe, ErrorDetail> {
        let recipe = file.template.recipe()?;
        let recipe_id = files::recipe_id(&file.path);
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(recipe_id.clone(), file.path.clone());
        let command = self.commands().into_iter().find(|(_, path)| same_file(path, &file.path));
        Ok(StoredRecipe {
            recipe_id,
            recipe,
            file_path: file.path.clone(),
            modify_time: file.modified,
            schedule_cron: None,
            command_name: command.map(|(name, _)| name),
        })
    }

    /// Where a recipe is. `projects` are working directories to look in if it has not been listed before.
    pub(crate) fn find(&self, recipe_id: &str, projects: &[PathBuf]) -> Result<PathBuf, ErrorDetail> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(recipe_id).cloned();
        if let Some(path) = known.filter(|p| p.is_file()) {
            return Ok(path);
        }
        let mut directories = self.directories(None);
        directories.extend(projects.iter().map(|d| d.join(".goose").join("recipes")));
        let mut files = directories.iter().flat_map(|d| files::recipe_files(d));
        files.find(|path| files::recipe_id(path) == recipe_id).ok_or_else(|| recipe_not_found(recipe_id))
    }

    pub(crate) fn get(&self, recipe_id: &str, projects: &[PathBuf]) -> Result<StoredRecipe, ErrorDetail> {
        self.stored(&files::read_recipe(&self.find(recipe_id, projects)?)?)
    }

    /// Stores a recipe, in place of another one or as a new file named by its title. `again`: this may be a repetition,
    /// for which a new file with the same text is enough.
    pub(crate) fn save(
        &self,
        recipe_json: &str,
        replace: Option<(&str, &[PathBuf])>,
        again: bool,
    ) -> Result<(StoredRecipe, bool), ErrorDetail> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let document = parse_json(recipe_json)?;
        let template = Template::from_document(document)?;
        let recipe = template.recipe()?;
        refuse_broken(&template)?;
        let document = recipe.document();
        let path = match replace {
            Some((id, projects)) => {
                let path = self.find(id, projects)?;
                let text = match path.extension().and_then(|e| e.to_str()) {
                    Some("json") => serde_json::to_string_pretty(&document).unwrap_or_default() + "\n",
                    _ => format::to_yaml(&document)?,
                };
                files::write_whole(&path, &text, false).map_err(|e| not_written(&path, &e))?;
                path
            }
            None => self.write_new(&recipe.title, &format::to_yaml(&document)?, again)?,
        };
        Ok((self.stored(&files::read_recipe(&path)?)?, replace.is_none()))
    }

    fn write_new(&self, title: &str, yaml: &str, again: bool) -> Result<PathBuf, ErrorDetail> {
        let directory = self.config.paths().recipes_dir();
        let stem = format::file_stem(title);
        for number in 0..10_000u32 {
            let suffix = if number == 0 { String::new() } else { format!("-{number}") };
            let path = directory.join(format!("{stem}{suffix}.yaml"));
            match files::write_whole(&path, yaml, true) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    if again && files::read_text(&path).is_ok_and(|text| text == yaml) {
                        return Ok(path);
                    }
                }
                Err(error) => return Err(not_written(&path, &error)),
            }
        }
        Err(ErrorDetail::invalid("recipe_json.title", "is the title of thousands of recipes; choose another"))
    }

    /// Removes a recipe's file and its command.
    pub(crate) fn delete(&self, recipe_id: &str, projects: &[PathBuf]) -> Result<(), ErrorDetail> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.find(recipe_id, projects)?;
        let commands = self.commands();
        if commands.iter().any(|(_, p)| same_file(p, &path)) {
            let kept = commands.into_iter().filter(|(_, p)| !same_file(p, &path)).collect();
            self.write_commands(kept)?;
        }
        fs::remove_file(&path).map_err(|e| not_written(&path, &e))?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(recipe_id);
        Ok(())
    }

    /// Text commands and the files of their recipes.
    pub(crate) fn commands(&self) -> Vec<(String, PathBuf)> {
        let entry = self.config.current().get(COMMANDS_KEY);
        let list = entry.as_ref().and_then(|e| e.value.as_array()).cloned().unwrap_or_default();
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        list.iter()
            .filter_map(|v| {
                Some((command_name(&text(v, "command")?), PathBuf::from(text(v, "recipe_path")?)))
            })
            .collect()
    }

    /// Gives a recipe a text command, or takes it away.
    pub(crate) fn set_command(
        &self,
        recipe_id: &str,
        name: Option<&str>,
        projects: &[PathBuf],
    ) -> Result<StoredRecipe, ErrorDetail> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.find(recipe_id, projects)?;
        let mut commands = self.commands();
        commands.retain(|(_, p)| !same_file(p, &path));
        if let Some(name) = name {
            let name = command_name(name);
            check_command(&name, &commands)?;
            commands.push((name, path.clone()));
        }
        self.write_commands(commands)?;
        self.stored(&files::read_recipe(&path)?)
    }

    fn write_commands(&self, commands: Vec<(String, PathBuf)>) -> Result<(), ErrorDetail> {
        if commands.is_empty() {
            return self.config.unset(COMMANDS_KEY).map(|_| ()).map_err(|e| config_error(&e));
        }
        let entry = |(command, path): (String, PathBuf)| json!({"command": command, "recipe_path": path.to_string_lossy()});
        let list = Value::Array(commands.into_iter().map(entry).collect());
        self.config.set(COMMANDS_KEY, &list).map(|_| ()).map_err(|e| config_error(&e))
    }
}

/// As it is typed: without the slash, in lower case.
fn command_name(text: &str) -> String {
    text.trim().trim_start_matches('/').to_lowercase()
}

fn check_command(name: &str, others: &[(String, PathBuf)]) -> Result<(), ErrorDetail> {
    const FIELD: &str = "command_name";
    let usable = !name.is_empty()
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !usable {
        return Err(ErrorDetail::invalid(FIELD, "must be 1 to 64 letters, digits, - and _"));
    }
    if RESERVED.contains(&name) {
        return Err(ErrorDetail::invalid(
            FIELD,
            format!("/{name} is a builtin command; choose another name"),
        ));
    }
    if let Some((_, path)) = others.iter().find(|(other, _)| other == name) {
        let message = format!("/{name} runs {} already; choose another name", path.display());
        return Err(ErrorDetail::invalid(FIELD, message));
    }
    Ok(())
}

fn same_file(path: &Path, canonical: &Path) -> bool {
    path == canonical || fs::canonicalize(path).is_ok_and(|p| p == canonical)
}

pub(super) fn parse_json(text: &str) -> Result<Value, ErrorDetail> {
    if text.len() > format::MAX_RECIPE_BYTES {
        let message = format!("recipe_json: is larger than {} bytes", format::MAX_RECIPE_BYTES);
        return Err(ErrorDetail::new(ErrorReason::RecipeInvalid, message).with("field", "recipe_json"));
    }
    serde_json::from_str(text).map_err(|error| {
        ErrorDetail::new(
            ErrorReason::RecipeInvalid,
            format!("recipe_json: is no JSON (line {}, column {})", error.line(), error.column()),
        )
        .with("field", "recipe_json")
    })
}

/// Refuses what does not work, and what might be meant to harm.
fn refuse_broken(template: &Template) -> Result<(), ErrorDetail> {
    let findings = format::validate(template);
    let bad: Vec<_> = findings.into_iter().filter(|f| f.severity >= Severity::Error).collect();
    let Some(first) = bad.first() else { return Ok(()) };
    let mut error =
        ErrorDetail::new(ErrorReason::RecipeInvalid, format!("recipe: {}: {}", first.field, first.message))
            .with("field", &first.field)
            .with("code", first.code);
    error.violations = bad
        .iter()
        .map(|f| FieldViolation { field: f.field.clone(), description: f.message.clone() })
        .collect();
    Err(error)
}

fn not_written(path: &Path, error: &std::io::Error) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::ConfigReadOnly,
        format!("the recipe file {} cannot be written: {error}", path.display()),
    )
    .with("filePath", path.display())
}

pub(crate) fn recipe_not_found(recipe_id: &str) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::RecipeNotFound,
        format!("there is no recipe {recipe_id:?}; ListRecipes shows those that are, per working directory"),
    )
    .with("recipeId", recipe_id)
}
