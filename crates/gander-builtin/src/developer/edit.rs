//! The tools `write` and `edit`.
//!
//! A file is replaced as a whole by a rename, so that nobody sees half of it and a full disk does not destroy it. Line
//! ends, permissions, the link by which it was named and everything that was not asked for stay as they were.

use std::{
    borrow::Cow,
    fs::{self, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Shared, ToolError, ToolResult, answer, cancelled,
    diff::{self, Change},
    texts::{Held, Texts, unread},
};
use crate::paths::Access;

pub(super) const WRITE_DESCRIPTION: &str = "Creates a file or replaces all of its content, exactly as given. Missing \
folders are created. To change a part of a file use `edit`.";
pub(super) const EDIT_DESCRIPTION: &str = "Replaces text in a file. `old_text` must be exactly what is in the file, \
white space included and without the line numbers that `read` shows, and must occur once: add lines around it until it \
does, or set `replace_all`. Line ends of the file are kept.";

/// Larger files are none that a model should edit.
pub(super) const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Lines compared when `old_text` was not found.
const MAX_COMPARED: usize = 20_000;
/// How alike a line must be, of 1, to be worth mentioning.
const ALIKE: f64 = 0.6;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteArguments {
    /// The file: absolute, relative to the working directory, or starting with ~/.
    path: String,
    /// The complete new content.
    content: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EditArguments {
    /// The file: absolute, relative to the working directory, or starting with ~/.
    path: String,
    /// The exact text to replace.
    old_text: String,
    /// The text to put in its place; empty to delete.
    new_text: String,
    /// Replace every occurrence instead of exactly one. Default false.
    replace_all: Option<bool>,
}

pub(super) fn write(shared: &Shared, arguments: &WriteArguments, texts: &Texts<'_>) -> ToolResult {
    let WriteArguments { path: name, content } = arguments;
    let path = shared.guard.check(name, Access::Write)?;
    let disk = existing(name, &path)?;
    let held = texts.held(&path)?;
    if texts.stopped() {
        return Err(cancelled());
    }
    let failed = |error: io::Error| ToolError::new(format!("{name} could not be written: {error}"));
    if disk.is_none()
        && let Some(folder) = path.parent()
    {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    if !texts.hand_over(name, &path, content)? {
        if let Held::Failed(error) = &held
            && disk.is_some()
        {
            return Err(unread(name, error));
        }
        unless_unsaved(name, &held, disk.as_deref())?;
        replace(&path, content.as_bytes()).map_err(failed)?;
    }
    let before = match held {
        // An editor may say that of a file that it does not know.
        Held::Text(text) if disk.is_some() || !text.is_empty() => Some(text.into_bytes()),
        // An editor that cannot read what is replaced, because it is no text, has nothing of it to lose.
        _ => disk,
    };
    let old = before.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let report = diff::report(&Change { path: &path, old, new: content });
    let text = match &before {
        None => format!("created {} ({} lines)\n", path.display(), content.lines().count()),
        Some(_) if old == Some(content) => format!("{} already had this content\n", path.display()),
        Some(_) => {
            format!("replaced {} (+{} -{})\n{}", path.display(), report.added, report.removed, report.patch)
        }
    };
    Ok(answer(text, report.structured))
}

pub(super) fn edit(shared: &Shared, arguments: &EditArguments, texts: &Texts<'_>) -> ToolResult {
    let EditArguments { path: name, old_text, new_text, replace_all } = arguments;
    let path = shared.guard.check(name, Access::Write)?;
    if old_text.is_empty() {
        return Err(ToolError::new(
            "old_text is empty; use `write` to create a file or to replace all of it",
        ));
    }
    if old_text == new_text {
        return Err(ToolError::new("old_text and new_text are the same; nothing would change"));
    }
    let disk = existing(name, &path)?;
    let held = texts.held(&path)?;
    let before = current(name, &held, disk.as_deref())?;
    let (old_text, new_text) = with_line_ends_of(before, old_text, new_text);
    let count = before.matches(&*old_text).count();
    let all = replace_all.unwrap_or_default();
    match count {
        0 => return Err(not_found(name, before, &old_text)),
        2.. if !all => return Err(ambiguous(name, before, &old_text, count)),
        _ => {}
    }
    if texts.stopped() {
        return Err(cancelled());
    }
    let after = before.replace(&*old_text, &new_text);
    // What was not read from the editor may differ there: it would lose its unsaved changes.
    if matches!(held, Held::Nowhere) || !texts.hand_over(name, &path, &after)? {
        unless_unsaved(name, &held, disk.as_deref())?;
        replace(&path, after.as_bytes())
            .map_err(|error| ToolError::new(format!("{name} could not be written: {error}")))?;
    }
    let report = diff::report(&Change { path: &path, old: Some(before), new: &after });
    let times = if count == 1 { String::new() } else { format!(", {count} places") };
    let text =
        format!("edited {} (+{} -{}{times})\n{}", path.display(), report.added, report.removed, report.patch);
    Ok(answer(text, report.structured))
}

/// The text to edit: the editor's, else the disk's.
fn current<'a>(name: &str, held: &'a Held, disk: Option<&'a [u8]>) -> Result<&'a str, ToolError> {
    match (held, disk) {
        (Held::Text(text), disk) if disk.is_some() || !text.is_empty() => Ok(text),
        (_, None) => Err(ToolError::new(format!("{name}: no such file; use `write` to create it"))),
        (Held::Failed(error), _) => Err(unread(name, error)),
        (_, Some(bytes)) => std::str::from_utf8(bytes)
            .map_err(|_| ToolError::new(format!("{name} is not UTF-8 text and cannot be edited"))),
    }
}

/// An editor that reads but does not write this keeps what it has: the disk may change below a saved file only.
fn unless_unsaved(name: &str, held: &Held, disk: Option<&[u8]>) -> Result<(), ToolError> {
    match held {
        Held::Text(text) if text.as_bytes() != disk.unwrap_or_default() => Err(ToolError::new(format!(
            "{name} has unsaved changes in the attached editor, which cannot be asked to write it; ask the user to \
             save it first"
        ))),
        _ => Ok(()),
    }
}

/// The content of a file that may not exist.
fn existing(name: &str, path: &Path) -> Result<Option<Vec<u8>>, ToolError> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ToolError::new(format!("{name}: {error}"))),
        Ok(metadata) if metadata.is_dir() => return Err(ToolError::new(format!("{name} is a folder"))),
        Ok(metadata) if !metadata.is_file() => {
            return Err(ToolError::new(format!("{name} is not an ordinary file and cannot be changed")));
        }
        Ok(metadata) if metadata.len() > MAX_FILE => {
            let message = format!(
                "{name} has {} bytes; only files up to {MAX_FILE} bytes can be changed",
                metadata.len()
            );
            return Err(ToolError::new(message));
        }
        Ok(_) => {}
    }
    fs::read(path).map(Some).map_err(|error| ToolError::new(format!("{name}: {error}")))
}

/// Models see and write `\n`. Where the file says `\r\n`, that is what they mean.
fn with_line_ends_of<'a>(text: &str, old_text: &'a str, new_text: &'a str) -> (Cow<'a, str>, Cow<'a, str>) {
    let windows = text.matches("\r\n").count();
    let mostly_windows = windows > 0 && windows * 2 >= text.matches('\n').count();
    if !mostly_windows || old_text.contains('\r') || new_text.contains('\r') {
        return (old_text.into(), new_text.into());
    }
    (old_text.replace('\n', "\r\n").into(), new_text.replace('\n', "\r\n").into())
}

/// Puts `content` in the place of the file in one step. `path` is canonical, so a link to it stays a link.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let old = fs::metadata(path).ok();
    let folder = path.parent().ok_or(io::ErrorKind::NotADirectory)?;
    // Without a file the mask of the process decides, as for any new file.
    let mode = old.as_ref().map_or(0o666, |metadata| metadata.permissions().mode() & 0o7777);
    let mut builder = tempfile::Builder::new();
    let made = builder.prefix(".gander-").permissions(Permissions::from_mode(mode)).tempfile_in(folder);
    let mut file = match made {
        Ok(file) => file,
        // A file may be writable in a folder that is not.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && old.is_some() => {
            return fs::write(path, content);
        }
        Err(error) => return Err(error),
    };
    file.write_all(content)?;
    if old.is_some() {
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
    }
    file.persist(path).map(drop).map_err(|error| error.error)
}

fn ambiguous(name: &str, text: &str, old_text: &str, count: usize) -> ToolError {
    let lines: Vec<String> =
        text.match_indices(old_text).take(10).map(|(at, _)| line_number(text, at).to_string()).collect();
    let more = if count > lines.len() { ", ..." } else { "" };
    ToolError::new(format!(
        "old_text occurs {count} times in {name}, at lines {}{more}; add lines around it so that it occurs once, or set \
         replace_all",
        lines.join(", ")
    ))
}

fn line_number(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Says what comes nearest: usually white space, or a file that has changed since it was read.
fn not_found(name: &str, text: &str, old_text: &str) -> ToolError {
    let wanted = old_text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let candidates = || text.lines().map(str::trim).zip(1_usize..).take(MAX_COMPARED);
    let hint = if let Some((_, number)) = candidates().find(|(line, _)| !wanted.is_empty() && *line == wanted)
    {
        format!(
            "line {number} matches the first line of old_text apart from white space, but the text around it differs; \
             read the file there and copy the text exactly"
        )
    } else {
        let best = candidates()
            .map(|(line, number)| (likeness(wanted, line), number, line))
            .filter(|(score, ..)| *score >= ALIKE)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((_, number, line)) => {
                let line: String = line.chars().take(200).collect();
                format!("the nearest is line {number}: {line:?}")
            }
            None => "nothing in it is similar; read the file again".to_owned(),
        }
    };
    ToolError::new(format!("old_text was not found in {name}; {hint}"))
}

/// How much two lines have in common, 0 to 1: twice the shared pairs of characters by all pairs.
fn likeness(a: &str, b: &str) -> f64 {
    let pairs = |text: &str| -> Vec<(char, char)> {
        let mut pairs: Vec<_> = text.chars().zip(text.chars().skip(1)).take(400).collect();
        pairs.sort_unstable();
        pairs
    };
    let (a, b) = (pairs(a), pairs(b));
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let (mut i, mut j, mut shared) = (0, 0, 0_u32);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                shared += 1;
                i += 1;
                j += 1;
            }
        }
    }
    // At most 400 pairs each: exact in a float.
    f64::from(2 * shared) / (a.len() + b.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeness_orders_lines() {
        assert!(likeness("let x = 1;", "let x = 1;") > 0.99);
        assert!(likeness("let value = compute(1);", "let value = compute(2);") > ALIKE);
        assert!(likeness("let value = compute(1);", "fn main() {") < ALIKE);
        assert!(likeness("", "") == 0.0);
    }

    #[test]
    fn line_ends_follow_the_file_unless_they_were_given() {
        let to = |text, old, new| {
            let (old, new) = with_line_ends_of(text, old, new);
            (old.into_owned(), new.into_owned())
        };
        assert_eq!(to("a\r\nb\r\n", "a\nb", "c\nd"), ("a\r\nb".to_owned(), "c\r\nd".to_owned()));
        assert_eq!(to("a\nb\n", "a\nb", "c\nd"), ("a\nb".to_owned(), "c\nd".to_owned()));
        assert_eq!(to("a\r\nb\r\n", "a\r\nb", "c\nd"), ("a\r\nb".to_owned(), "c\nd".to_owned()));
    }
}
