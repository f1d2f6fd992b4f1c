//! The tool `search`: a regular expression over files.

use std::{fs::File, io::Read as _, path::Path};

use ignore::overrides::{Override, OverrideBuilder};
use regex::bytes::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Shared, ToolError, ToolResult, answer, cancelled, list::walk};
use crate::paths::Access;

pub(super) const DESCRIPTION: &str = "Searches the contents of files line by line for a regular expression (Rust \
syntax: no look-around, no back-references) and returns path, line number and line of every match. Binary files, files \
over 8 MiB, hidden files and what .gitignore excludes are left out. Narrow a search by `path` and `glob`.";

const DEFAULT_RESULTS: usize = 100;
const MAX_RESULTS: usize = 1000;
/// Bytes of text in one answer.
const MAX_BYTES: usize = 64 * 1024;
/// Bytes of one line; the rest of it is left out.
const MAX_LINE: usize = 400;
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// Memory for a compiled expression.
const MAX_PATTERN: usize = 4 * 1024 * 1024;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// The regular expression.
    pattern: String,
    /// The folder or file to search in. Default: the working directory.
    path: Option<String>,
    /// Only files that match this pattern, e.g. *.rs or src/**/*.ts. A leading ! excludes.
    glob: Option<String>,
    /// Whether case matters. Default true.
    case_sensitive: Option<bool>,
    /// How many matching lines to return at most, up to 1000. Default 100.
    #[schemars(range(min = 1, max = 1000))]
    max_results: Option<usize>,
}

struct Search {
    pattern: Regex,
    limit: usize,
    text: String,
    matches: Vec<Value>,
    files: usize,
    skipped: usize,
    full: bool,
}

pub(super) fn run(shared: &Shared, arguments: &Arguments, stop: &dyn Fn() -> bool) -> ToolResult {
    let name = arguments.path.as_deref().unwrap_or(".");
    let root = shared.guard.check(name, Access::Read)?;
    let metadata = root.metadata().map_err(|error| ToolError::new(format!("{name}: {error}")))?;
    if arguments.pattern.is_empty() {
        return Err(ToolError::new("pattern is empty"));
    }
    let pattern = RegexBuilder::new(&arguments.pattern)
        .case_insensitive(!arguments.case_sensitive.unwrap_or(true))
        .size_limit(MAX_PATTERN)
        .build()
        .map_err(|error| ToolError::new(format!("pattern: {error}")))?;
    let limit = arguments.max_results.unwrap_or(DEFAULT_RESULTS).clamp(1, MAX_RESULTS);
    let mut search = Search {
        pattern,
        limit,
        text: String::new(),
        matches: Vec::new(),
        files: 0,
        skipped: 0,
        full: false,
    };
    if metadata.is_file() {
        search.file(&root, &root, stop);
    } else {
        let glob = arguments.glob.as_deref().map(|glob| overrides(&root, glob)).transpose()?;
        let mut builder = walk(&root, false, shared.guard.denied_now());
        if let Some(glob) = glob {
            builder.overrides(glob);
        }
        for found in builder.build().flatten() {
            if search.full || stop() {
                break;
            }
            if found.file_type().is_some_and(|kind| kind.is_file()) {
                search.file(&root, found.path(), stop);
            }
        }
    }
    if stop() {
        return Err(cancelled());
    }
    Ok(search.render())
}

fn overrides(root: &Path, glob: &str) -> Result<Override, ToolError> {
    let mut builder = OverrideBuilder::new(root);
    builder
        .add(glob)
        .and_then(|builder| builder.build())
        .map_err(|error| ToolError::new(format!("glob {glob:?}: {error}")))
}

impl Search {
    fn file(&mut self, root: &Path, path: &Path, stop: &dyn Fn() -> bool) {
        let Some(content) = self.load(path) else { return };
        let shown = path.strip_prefix(root).ok().filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(path);
        let mut any = false;
        for (line, number) in content.split(|byte| *byte == b'\n').zip(1_u64..) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if number % 4096 == 0 && stop() {
                return;
            }
            let Some(found) = self.pattern.find(line) else { continue };
            if self.matches.len() >= self.limit || self.text.len() >= MAX_BYTES {
                self.full = true;
                return;
            }
            let part = around(line, found.start());
            self.text.push_str(&format!("{}:{number}: {part}\n", shown.display()));
            self.matches.push(json!({ "path": path.display().to_string(), "line": number, "text": part }));
            if !any {
                any = true;
                self.files += 1;
            }
        }
    }

    /// The content, unless it is none that lines can be searched in. The end of the last line is no line.
    fn load(&mut self, path: &Path) -> Option<Vec<u8>> {
        let file = File::open(path).ok()?;
        let size = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
        if size > MAX_FILE {
            self.skipped += 1;
            return None;
        }
        let mut content = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut content).ok()?;
        if content.contains(&0) {
            return None;
        }
        if content.last() == Some(&b'\n') {
            content.pop();
        }
        Some(content)
    }

    fn render(mut self) -> rmcp::model::CallToolResult {
        if self.matches.is_empty() {
            self.text.push_str("no matches\n");
        }
        if self.full {
            let note = format!("[... stopped after {} matches; narrow the search]\n", self.matches.len());
            self.text.push_str(&note);
        }
        if self.skipped > 0 {
            self.text.push_str(&format!("[{} files over 8 MiB were not searched]\n", self.skipped));
        }
        let structured = json!({ "files": self.files, "matches": self.matches, "truncated": self.full });
        answer(self.text, structured)
    }
}

/// The line, or where it is long the part of it in which the match is.
fn around(line: &[u8], at: usize) -> String {
    if line.len() <= MAX_LINE {
        return String::from_utf8_lossy(line).into_owned();
    }
    let start = at.saturating_sub(MAX_LINE / 4).min(line.len() - MAX_LINE);
    let part = &line[start..start + MAX_LINE];
    // A cut may split a character; the halves are no text.
    let text = String::from_utf8_lossy(part);
    let text = text.trim_matches(char::REPLACEMENT_CHARACTER);
    let (before, after) =
        (if start > 0 { "..." } else { "" }, if start + MAX_LINE < line.len() { "..." } else { "" });
    format!("{before}{text}{after}")
}
