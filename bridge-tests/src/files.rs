//! Bytes in files.

use std::path::{Path, PathBuf};

/// Files below `folder`, those that cannot be read left out, that contain `text` anywhere.
#[must_use]
pub fn containing(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && contains(&path, text) {
                found.push(path);
            }
        }
    }
    found
}

fn contains(path: &Path, text: &str) -> bool {
    let bytes = std::fs::read(path).unwrap_or_default();
    memchr::memmem::find(&bytes, text.as_bytes()).is_some()
}
