//! The tool `list`: a folder as a tree, folders first.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ignore::WalkBuilder;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Shared, ToolError, ToolResult, answer, cancelled};
use crate::paths::{Access, Denied};

pub(super) const DESCRIPTION: &str = "Lists a folder: its folders first, then its files with their sizes, down to \
`depth` levels. What .gitignore excludes is left out, and hidden entries unless `hidden` is set.";

const DEFAULT_DEPTH: usize = 1;
const MAX_DEPTH: usize = 10;
/// Entries in one answer.
const MAX_ENTRIES: usize = 1000;
/// Bytes of text in one answer.
const MAX_BYTES: usize = 64 * 1024;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// The folder. Default: the working directory.
    path: Option<String>,
    /// How many levels to show, 1 to 10. Default 1.
    #[schemars(range(min = 1, max = 10))]
    depth: Option<usize>,
    /// Also show hidden entries, whose names start with a dot. Default false.
    hidden: Option<bool>,
}

struct Entry {
    name: String,
    path: PathBuf,
    is_dir: bool,
    size: u64,
    link: Option<PathBuf>,
}

pub(super) fn run(shared: &Shared, arguments: &Arguments, stop: &dyn Fn() -> bool) -> ToolResult {
    let name = arguments.path.as_deref().unwrap_or(".");
    let root = shared.guard.check(name, Access::Read)?;
    let metadata = root.metadata().map_err(|error| ToolError::new(format!("{name}: {error}")))?;
    if !metadata.is_dir() {
        return Err(ToolError::new(format!("{name} is not a folder; use the tool `read`")));
    }
    let depth = arguments.depth.unwrap_or(DEFAULT_DEPTH).clamp(1, MAX_DEPTH);
    let hidden = arguments.hidden.unwrap_or(false);
    let (folders, complete) = collect(&root, depth, hidden, shared.guard.denied_now(), stop);
    if stop() {
        return Err(cancelled());
    }
    let mut out = Output { text: format!("{}/\n", root.display()), entries: Vec::new(), full: false };
    out.folder(&root, &folders, 1);
    let truncated = out.full || !complete;
    if out.entries.is_empty() {
        out.text.push_str("  (nothing to show)\n");
    }
    if truncated {
        out.text.push_str("[... more entries are left out; list a folder below, or use less depth]\n");
    }
    let structured =
        json!({ "path": root.display().to_string(), "entries": out.entries, "truncated": truncated });
    Ok(answer(out.text, structured))
}

/// A walk as all tools do it: nothing ignored, nothing denied, no links followed, the same order every time.
pub(super) fn walk(root: &Path, hidden: bool, denied: Denied) -> WalkBuilder {
    let mut builder = WalkBuilder::new(root);
    builder
        .hidden(!hidden)
        // A folder need not be a repository to have a .gitignore.
        .require_git(false)
        // The ignore files of the user who runs the daemon are found by its environment, not the session's.
        .git_global(false)
        .follow_links(false)
        .sort_by_file_name(std::ffi::OsStr::cmp)
        .filter_entry(move |entry| {
            (entry.depth() == 0 || entry.file_name() != ".git") && !denied.denies(entry.path())
        });
    builder
}

/// The entries by folder, and whether that is all of them.
fn collect(
    root: &Path,
    depth: usize,
    hidden: bool,
    denied: Denied,
    stop: &dyn Fn() -> bool,
) -> (BTreeMap<PathBuf, Vec<Entry>>, bool) {
    let mut folders: BTreeMap<PathBuf, Vec<Entry>> = BTreeMap::new();
    let mut count = 0;
    for found in walk(root, hidden, denied).max_depth(Some(depth)).build().flatten() {
        if found.depth() == 0 {
            continue;
        }
        // Some more than are shown: within a folder, folders come first.
        if stop() || count >= 4 * MAX_ENTRIES {
            return (folders, false);
        }
        count += 1;
        let path = found.path().to_path_buf();
        let is_link = found.path_is_symlink();
        let entry = Entry {
            name: found.file_name().to_string_lossy().into_owned(),
            is_dir: !is_link && found.file_type().is_some_and(|kind| kind.is_dir()),
            size: found.metadata().map_or(0, |metadata| metadata.len()),
            link: is_link.then(|| std::fs::read_link(&path).unwrap_or_default()),
            path,
        };
        let folder = entry.path.parent().unwrap_or(root).to_path_buf();
        folders.entry(folder).or_default().push(entry);
    }
    for entries in folders.values_mut() {
        entries.sort_by(|a, b| b.is_dir.cmp(&a.is_dir).then_with(|| a.name.cmp(&b.name)));
    }
    (folders, true)
}

struct Output {
    text: String,
    entries: Vec<serde_json::Value>,
    full: bool,
}

impl Output {
    fn folder(&mut self, path: &Path, folders: &BTreeMap<PathBuf, Vec<Entry>>, level: usize) {
        for entry in folders.get(path).into_iter().flatten() {
            if self.entries.len() >= MAX_ENTRIES || self.text.len() >= MAX_BYTES {
                self.full = true;
                return;
            }
            let indent = "  ".repeat(level);
            let (kind, line) = match (&entry.link, entry.is_dir) {
                (Some(target), _) => ("link", format!("{indent}{} -> {}\n", entry.name, target.display())),
                (None, true) => ("folder", format!("{indent}{}/\n", entry.name)),
                (None, false) => ("file", format!("{indent}{}  {}\n", entry.name, human_size(entry.size))),
            };
            self.text.push_str(&line);
            let size = (kind == "file").then_some(entry.size);
            self.entries
                .push(json!({ "path": entry.path.display().to_string(), "type": kind, "size": size }));
            if entry.is_dir {
                self.folder(&entry.path, folders, level + 1);
            }
        }
    }
}

fn human_size(bytes: u64) -> String {
    // Only shown to a tenth: what a float loses is not seen.
    let exact = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", exact / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", exact / 1_048_576.0),
        _ => format!("{:.1} GiB", exact / 1_073_741_824.0),
    }
}
