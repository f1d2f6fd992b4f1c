//! A directory of provider definitions, for everybody who reads some of them: which files it has, their text, and the
//! rules that hold for all.

use std::path::{Path, PathBuf};

/// Longest file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A user's file that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    pub path: PathBuf,
    pub message: String,
}

/// The definitions in a directory (`*.json`), sorted; none where there is no such directory.
///
/// # Errors
/// A directory that cannot be read.
pub fn definition_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    Ok(paths)
}

/// The text of a definition.
///
/// # Errors
/// A file that cannot be read, or that is larger than 1 MiB.
pub fn definition_text(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("the file cannot be read: {error}");
    let size = std::fs::metadata(path).map_err(cannot)?.len();
    if size > MAX_FILE_BYTES {
        return Err(format!("the file is larger than {MAX_FILE_BYTES} bytes"));
    }
    std::fs::read_to_string(path).map_err(cannot)
}

/// The engine that a definition names, whatever else is in it.
pub fn engine_of(text: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(value.get("engine")?.as_str()?.to_owned())
}

/// Whether a definition's name can be a provider's id: `[a-z0-9_][a-z0-9_-]*`.
///
/// # Errors
/// What is allowed.
pub fn check_provider_id(name: &str) -> Result<(), String> {
    let ordinary = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.starts_with(ordinary) && name.chars().all(|c| ordinary(c) || c == '-') {
        return Ok(());
    }
    Err(format!("name {name:?}: use lower-case letters, digits, `_` and `-`"))
}
