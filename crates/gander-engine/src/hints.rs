//! Hints for the model that lie in files: `.goosehints` and `AGENTS.md` of the user and of the project.
//!
//! They are read from the config directory, then from the root of the repository down to the working directory, so that
//! the nearest stands last. A line's `@file` is replaced by that file, if it lies in the same project. Everything is
//! bounded; what was cut says so. Blocks for short file operations.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs::File,
    io::Read as _,
    path::{Component, Path, PathBuf},
};

/// Names of hint files where the configuration says nothing.
pub(crate) const DEFAULT_NAMES: [&str; 2] = [".goosehints", "AGENTS.md"];
/// Key with a list of other names.
pub(crate) const NAMES_KEY: &str = "CONTEXT_FILE_NAMES";
/// Most bytes of one file.
const MAX_FILE: usize = 64 * 1024;
/// Most bytes of all hints.
const MAX_TOTAL: usize = 192 * 1024;
/// Imports in imports in imports.
const MAX_DEPTH: usize = 3;
/// Folders looked at above the working directory.
const MAX_PARENTS: usize = 32;

/// The hints for a session; empty when there are none.
pub(crate) fn load(config_dir: &Path, working_directory: &Path, names: &[String]) -> String {
    let mut out = String::new();
    let global = files(config_dir, names);
    section(&mut out, "Hints of the user", &global, config_dir, false);
    let folders = project_folders(working_directory);
    let root = folders.first().cloned().unwrap_or_else(|| working_directory.to_owned());
    let project: Vec<PathBuf> = folders.iter().flat_map(|folder| files(folder, names)).collect();
    section(&mut out, "Hints of the project", &project, &root, true);
    out
}

/// From the root of the repository down to the working directory; only the latter outside of a repository.
fn project_folders(working_directory: &Path) -> Vec<PathBuf> {
    let up: Vec<&Path> = working_directory.ancestors().take(MAX_PARENTS).collect();
    match up.iter().position(|folder| folder.join(".git").exists()) {
        Some(root) => up[..=root].iter().rev().map(|f| (*f).to_owned()).collect(),
        None => vec![working_directory.to_owned()],
    }
}

fn files(folder: &Path, names: &[String]) -> Vec<PathBuf> {
    // Names, not paths: a hint file lies in the folder itself.
    let plain = |name: &&String| matches!(Path::new(name).components().next(), Some(Component::Normal(_)));
    names.iter().filter(plain).map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
}

/// `confined`: a link must not lead out of the boundary, since a project may come from anywhere.
fn section(out: &mut String, heading: &str, files: &[PathBuf], boundary: &Path, confined: bool) {
    let mut seen = HashSet::new();
    let real_boundary = boundary.canonicalize().unwrap_or_else(|_| boundary.to_owned());
    let mut text = String::new();
    for file in files {
        let Ok(real) = file.canonicalize() else { continue };
        if confined && !real.starts_with(&real_boundary) {
            tracing::warn!(path = %file.display(), "the hint file is a link out of the project; it was left out");
            continue;
        }
        // Two names may be links to one file.
        if !seen.insert(real) {
            continue;
        }
        if out.len() + text.len() >= MAX_TOTAL {
            tracing::warn!(path = %file.display(), "hints are too long; this file was left out");
            break;
        }
        let content = expand(file, boundary, MAX_DEPTH, &mut HashSet::new());
        if content.trim().is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(content.trim());
        text.push('\n');
    }
    if text.is_empty() {
        return;
    }
    let left = MAX_TOTAL.saturating_sub(out.len());
    cut(&mut text, left);
    if !out.is_empty() {
        out.push('\n');
    }
    // Writing to a String cannot fail.
    let _ = write!(out, "## {heading}\n{}", text.trim_end());
    out.push('\n');
}

/// The file's text with its imports in place.
fn expand(file: &Path, boundary: &Path, depth: usize, open: &mut HashSet<PathBuf>) -> String {
    let Ok(real) = file.canonicalize() else { return String::new() };
    if !open.insert(real.clone()) {
        return String::new();
    }
    let folder = file.parent().unwrap_or(boundary);
    let mut out = String::new();
    for line in read(file).lines() {
        expand_line(&mut out, line, folder, boundary, depth, open);
        out.push('\n');
        if out.len() > MAX_TOTAL {
            break;
        }
    }
    open.remove(&real);
    out
}

fn expand_line(
    out: &mut String,
    line: &str,
    folder: &Path,
    boundary: &Path,
    depth: usize,
    open: &mut HashSet<PathBuf>,
) {
    let mut rest = line;
    let mut before = ' ';
    while let Some(at) = rest.find('@') {
        let (head, tail) = rest.split_at(at);
        before = head.chars().last().unwrap_or(before);
        out.push_str(head);
        let name: String = tail[1..].chars().take_while(|c| !c.is_whitespace()).collect();
        // `name@host` is an address, not an import.
        let import = (depth > 0 && before.is_whitespace())
            .then(|| imported(folder, boundary, name.trim_end_matches([',', ';', ')'])))
            .flatten();
        match import {
            Some((path, length)) => {
                let _ = write!(out, "\n--- {} ---\n", path.file_name().unwrap_or_default().to_string_lossy());
                out.push_str(expand(&path, boundary, depth - 1, open).trim_end());
                out.push_str("\n---\n");
                rest = &tail[1 + length..];
            }
            None => {
                out.push('@');
                rest = &tail[1..];
            }
        }
        before = '@';
    }
    out.push_str(rest);
}

/// The file that an import names, if it exists inside the boundary, with the length of the name.
fn imported(folder: &Path, boundary: &Path, name: &str) -> Option<(PathBuf, usize)> {
    // A sentence may end behind the name.
    [name, name.trim_end_matches('.')].into_iter().filter(|n| !n.is_empty()).find_map(|name| {
        let path = folder.join(name);
        let (real, boundary) = (path.canonicalize().ok()?, boundary.canonicalize().ok()?);
        (real.starts_with(boundary) && real.is_file()).then_some((path, name.len()))
    })
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|f| f.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::warn!(%error, path = %path.display(), "a hint file cannot be read");
        return String::new();
    }
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    cut(&mut text, MAX_FILE);
    text
}

fn cut(text: &mut String, max: usize) {
    if text.len() <= max {
        return;
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str("\n[… the rest was left out: too long]");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        DEFAULT_NAMES.map(str::to_owned).to_vec()
    }

    fn write(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_nearest_hint_stands_last_and_the_repository_is_the_bound() {
        let temp = tempfile::tempdir().unwrap();
        let (config, repo) = (temp.path().join("config"), temp.path().join("outer/repo"));
        write(config.join(".goosehints"), "global");
        write(temp.path().join("outer/AGENTS.md"), "outside");
        write(repo.join(".git/HEAD"), "ref");
        write(repo.join("AGENTS.md"), "root");
        write(repo.join("a/b/.goosehints"), "near");
        write(repo.join("a/b/AGENTS.md"), "agents");
        let text = load(&config, &repo.join("a/b"), &names());
        assert_eq!(text, "## Hints of the user\nglobal\n\n## Hints of the project\nroot\n\nnear\n\nagents\n");
        let other = load(&temp.path().join("none"), &temp.path().join("outer"), &names());
        assert_eq!(other, "## Hints of the project\noutside\n");
        assert_eq!(load(&temp.path().join("none"), &repo, &["NONE.md".into(), "../AGENTS.md".into()]), "");
    }

    #[test]
    fn imports_stay_inside_and_end() {
        let temp = tempfile::tempdir().unwrap();
        let repo = temp.path().join("repo");
        write(temp.path().join("secret.txt"), "outside");
        write(
            repo.join("AGENTS.md"),
            "See @docs/style.md. Mail me@docs/style.md or @../secret.txt\n@docs/loop.md",
        );
        write(repo.join("docs/style.md"), "tabs");
        write(repo.join("docs/loop.md"), "loop @loop.md @../AGENTS.md end");
        let text = load(&temp.path().join("none"), &repo, &names());
        assert!(text.contains("See \n--- style.md ---\ntabs\n---\n."), "{text}");
        assert!(text.contains("me@docs/style.md or @../secret.txt"), "{text}");
        assert!(!text.contains("outside") && text.contains("end"), "{text}");
        std::fs::remove_file(repo.join("AGENTS.md")).unwrap();
        std::os::unix::fs::symlink(temp.path().join("secret.txt"), repo.join("AGENTS.md")).unwrap();
        assert_eq!(load(&temp.path().join("none"), &repo, &names()), "", "a link out of the project");
        std::fs::remove_file(repo.join("AGENTS.md")).unwrap();
        std::os::unix::fs::symlink("docs/style.md", repo.join("AGENTS.md")).unwrap();
        assert!(load(&temp.path().join("none"), &repo, &names()).contains("tabs"));
    }

    #[test]
    fn long_files_are_cut() {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path().join("AGENTS.md"), &"ä".repeat(MAX_FILE));
        let text = load(&temp.path().join("none"), temp.path(), &names());
        assert!(text.len() < MAX_FILE + 200 && text.contains("too long"));
    }
}
