//! Files of recipes: bounded reads, writes by rename, templates that stay within their directory.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _, Write as _},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use gander_domain::{ErrorDetail, ErrorReason, Timestamp};
use gander_formats::recipe::{Loader, MAX_RECIPE_BYTES, Template};
use sha2::{Digest as _, Sha256};

/// Extensions of recipe files.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A file that was read.
pub(super) struct RecipeFile {
    /// Canonical.
    pub path: PathBuf,
    pub directory: PathBuf,
    pub template: Template,
    pub modified: Timestamp,
}

/// The id of a recipe at a canonical path.
pub(super) fn recipe_id(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The id of a recipe's file.
pub(crate) fn id_of_file(path: &Path) -> String {
    recipe_id(&fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()))
}

/// Recipe files of a directory, in the order of their names. A directory that is not there has none.
pub(super) fn recipe_files(directory: &Path) -> Vec<PathBuf> {
    const MAX_FILES: usize = 1000;
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let is_recipe = |path: &PathBuf| {
        path.extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e)) && path.is_file()
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|e| e.path()));
    let mut found: Vec<_> =
        paths.filter(is_recipe).filter_map(|p| fs::canonicalize(p).ok()).take(MAX_FILES).collect();
    found.sort();
    found
}

/// Reads a text file of at most a recipe's size.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let told = |error: &std::io::Error| match error.kind() {
        ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    // A pipe would be waited for.
    let meta = fs::metadata(path).map_err(|e| told(&e))?;
    if !meta.is_file() {
        return Err("is no file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| told(&e))?;
    let limit = u64::try_from(MAX_RECIPE_BYTES).unwrap_or(u64::MAX);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| told(&e))?;
    if bytes.len() > MAX_RECIPE_BYTES {
        return Err(format!("is larger than {MAX_RECIPE_BYTES} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is no UTF-8 text".to_owned())
}

/// Reads a recipe's file.
pub(super) fn read_recipe(path: &Path) -> Result<RecipeFile, ErrorDetail> {
    let failed = |reason, why: String| {
        ErrorDetail::new(reason, format!("recipe {}: {why}", path.display())).with("filePath", path.display())
    };
    let canonical = fs::canonicalize(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => failed(ErrorReason::RecipeNotFound, "there is no such file".to_owned()),
        _ => failed(ErrorReason::RecipeInvalid, format!("cannot be read: {error}")),
    })?;
    let text = read_text(&canonical).map_err(|why| failed(ErrorReason::RecipeInvalid, why))?;
    let directory = canonical.parent().unwrap_or(Path::new("/")).to_path_buf();
    let template = Template::from_text(&text, Some(loader(directory.clone()))).map_err(|error| {
        // The file stands for the document as a whole.
        let why = if error.field == "recipe" { error.message.clone() } else { error.to_string() };
        let mut detail = ErrorDetail::from(error);
        detail.message = format!("recipe {}: {why}", path.display());
        detail.with("filePath", path.display())
    })?;
    let modified = fs::metadata(&canonical).and_then(|meta| meta.modified()).ok();
    Ok(RecipeFile { path: canonical, directory, template, modified: timestamp(modified) })
}

fn timestamp(time: Option<std::time::SystemTime>) -> Timestamp {
    let since = time.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Gives templates below `directory`, whatever links lead elsewhere.
fn loader(directory: PathBuf) -> Loader {
    Arc::new(move |name| {
        let outside = || Err(format!("the template {name:?} must stay within the recipe's directory"));
        let plain =
            Path::new(name).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !plain {
            return outside();
        }
        let Ok(path) = fs::canonicalize(directory.join(name)) else { return Ok(None) };
        if !path.starts_with(&directory) {
            return outside();
        }
        read_text(&path).map(Some).map_err(|why| format!("the template {name:?} {why}"))
    })
}

/// Writes a file whole: readers see the old or the new one. `new`: it must not be there.
pub(crate) fn write_whole(path: &Path, text: &str, new: bool) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // A name of its own: another program may write the same file at this moment.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", uuid::Uuid::now_v7().simple()));
    let beside = path.with_file_name(name);
    let written = fs::write(&beside, text);
    if let Err(error) = written {
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    if !new {
        return fs::rename(&beside, path).inspect_err(|_| drop(fs::remove_file(&beside)));
    }
    // Only the first of two writers gets the name, and the name never stands for half a text.
    let linked = fs::hard_link(&beside, path);
    let _ = fs::remove_file(&beside);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            // Some file systems have no links.
            let mut file = File::options().write(true).create_new(true).open(path)?;
            file.write_all(text.as_bytes())
        }
        linked => linked,
    }
}
