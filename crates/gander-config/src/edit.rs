//! Changing one entry of a YAML mapping in its text, so that comments, order and unknown keys stay.
//!
//! The text is cut by lines, which cannot understand all of YAML. Therefore every result is parsed again and
//! must equal the old document with exactly this one change; if it does not, the document is written anew from
//! its values (order kept, comments lost). Pure: no IO.

use std::ops::Range;

use serde_yaml_ng::{Mapping, Value as Yaml};

/// The place of an entry: a key of the document, or an entry of the mapping below a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    Top(&'a str),
    Nested(&'a str, &'a str),
}

/// A changed text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Edited {
    pub(crate) text: String,
    /// Comments and layout outside the entry are as before.
    pub(crate) formatting_kept: bool,
}

/// Why an edit is impossible.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EditError {
    /// The value below the top key is not a mapping; holds the name of its type.
    NotAMapping(&'static str),
    /// The value cannot be written as YAML.
    Unwritable(String),
}

/// Applies one change to `text`, whose parsed form is `before`. `None` as value removes the entry.
/// Returns `None` when nothing changes.
pub(crate) fn edit(
    text: &str,
    before: &Mapping,
    target: Target<'_>,
    value: Option<&Yaml>,
) -> Result<Option<Edited>, EditError> {
    let mut after = before.clone();
    let top = match target {
        Target::Top(key) => {
            put(&mut after, key, value);
            key
        }
        Target::Nested(top, key) => {
            let mut inner = match before.get(top) {
                None | Some(Yaml::Null) => Mapping::new(),
                Some(Yaml::Mapping(inner)) => inner.clone(),
                Some(other) => return Err(EditError::NotAMapping(crate::document::kind(other))),
            };
            let existed = before.contains_key(top);
            put(&mut inner, key, value);
            if existed || value.is_some() {
                put(&mut after, top, Some(&Yaml::Mapping(inner)));
            }
            top
        }
    };
    if after == *before || (value.is_none() && is_absent(before, target)) {
        return Ok(None);
    }
    let lines = Lines::new(text);
    let candidates = [
        match target {
            Target::Top(_) => None,
            Target::Nested(top, key) => lines.with_nested(top, key, value)?,
        },
        lines.with_top(top, after.get(top))?,
    ];
    for text in candidates.into_iter().flatten() {
        if serde_yaml_ng::from_str::<Yaml>(&text).is_ok_and(|parsed| same_document(&parsed, &after)) {
            return Ok(Some(Edited { text, formatting_kept: true }));
        }
    }
    Ok(Some(Edited { text: render(&Yaml::Mapping(after))?, formatting_kept: false }))
}

fn is_absent(document: &Mapping, target: Target<'_>) -> bool {
    match target {
        Target::Top(key) => !document.contains_key(key),
        Target::Nested(top, key) => {
            !document.get(top).and_then(Yaml::as_mapping).is_some_and(|inner| inner.contains_key(key))
        }
    }
}

fn put(mapping: &mut Mapping, key: &str, value: Option<&Yaml>) {
    match value {
        Some(value) => {
            mapping.insert(Yaml::String(key.to_owned()), value.clone());
        }
        None => {
            mapping.shift_remove(key);
        }
    }
}

fn same_document(parsed: &Yaml, expected: &Mapping) -> bool {
    match parsed {
        Yaml::Null => expected.is_empty(),
        Yaml::Mapping(mapping) => mapping == expected && mapping.keys().eq(expected.keys()),
        _ => false,
    }
}

fn render(value: &Yaml) -> Result<String, EditError> {
    serde_yaml_ng::to_string(value).map_err(|error| EditError::Unwritable(error.to_string()))
}

/// `key: value` as lines at `indent`, each with its line end.
fn render_entry(key: &str, value: &Yaml, indent: usize, newline: &str) -> Result<String, EditError> {
    let entry = Mapping::from_iter([(Yaml::String(key.to_owned()), value.clone())]);
    let mut out = String::new();
    for line in render(&Yaml::Mapping(entry))?.lines() {
        if !line.is_empty() {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(line);
        out.push_str(newline);
    }
    Ok(out)
}

/// The text by lines, line ends included.
struct Lines<'a> {
    lines: Vec<&'a str>,
    newline: &'static str,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
        Self { lines: text.split_inclusive('\n').collect(), newline }
    }

    /// The text with the top-level entry `key` replaced, appended or removed.
    fn with_top(&self, key: &str, value: Option<&Yaml>) -> Result<Option<String>, EditError> {
        let all = 0..self.lines.len();
        let found = self.find(all.clone(), 0, key);
        Ok(Some(match (found, value) {
            (Some(span), Some(value)) => {
                let entry = self.replacement(&span, key, value, 0)?;
                self.splice(span, &entry)
            }
            (Some(span), None) => self.splice(span, ""),
            (None, Some(value)) => self.splice(all.end..all.end, &render_entry(key, value, 0, self.newline)?),
            (None, None) => return Ok(None),
        }))
    }

    /// The text with entry `key` of the block mapping below `top` replaced, appended or removed.
    fn with_nested(&self, top: &str, key: &str, value: Option<&Yaml>) -> Result<Option<String>, EditError> {
        let Some(outer) = self.find(0..self.lines.len(), 0, top) else { return Ok(None) };
        let inner = outer.start + 1..outer.end;
        let first =
            self.lines.get(inner.clone()).unwrap_or_default().iter().find(|line| !is_blank_or_comment(line));
        let indent = match first {
            Some(line) if indent_of(line) > 0 => indent_of(line),
            _ => return Ok(None),
        };
        Ok(match (self.find(inner.clone(), indent, key), value) {
            (Some(span), Some(value)) => {
                let entry = self.replacement(&span, key, value, indent)?;
                Some(self.splice(span, &entry))
            }
            (Some(span), None) => Some(self.splice(span, "")),
            (None, Some(value)) => {
                Some(self.splice(inner.end..inner.end, &render_entry(key, value, indent, self.newline)?))
            }
            (None, None) => None,
        })
    }

    /// The lines of the entry `key` among the entries at `indent` within `range`. Blank lines and comments at
    /// its end belong to what follows.
    fn find(&self, range: Range<usize>, indent: usize, key: &str) -> Option<Range<usize>> {
        let start = range
            .clone()
            .find(|at| self.line(*at).is_some_and(|line| entry_key(line, indent).as_deref() == Some(key)))?;
        let mut end = (start + 1..range.end)
            .find(|at| self.line(*at).is_some_and(|line| ends_entry(line, indent)))
            .unwrap_or(range.end);
        while end > start + 1
            && self.line(end - 1).is_some_and(|line| {
                line.trim().is_empty() || (is_blank_or_comment(line) && indent_of(line) <= indent)
            })
        {
            end -= 1;
        }
        Some(start..end)
    }

    fn line(&self, at: usize) -> Option<&'a str> {
        self.lines.get(at).copied()
    }

    /// The new lines of an entry; a comment at the end of a one-line entry stays on a one-line replacement.
    fn replacement(
        &self,
        span: &Range<usize>,
        key: &str,
        value: &Yaml,
        indent: usize,
    ) -> Result<String, EditError> {
        let entry = render_entry(key, value, indent, self.newline)?;
        let comment = match self.line(span.start) {
            Some(line) if span.len() == 1 => trailing_comment(line),
            _ => None,
        };
        Ok(match comment {
            Some(comment) if entry.lines().count() == 1 => {
                format!("{}{}{}", entry.trim_end(), comment, self.newline)
            }
            _ => entry,
        })
    }

    fn splice(&self, span: Range<usize>, new: &str) -> String {
        let mut out: String = self.lines.get(..span.start).unwrap_or_default().concat();
        if !out.is_empty() && !out.ends_with('\n') && !new.is_empty() {
            out.push_str(self.newline);
        }
        out.push_str(new);
        out.push_str(&self.lines.get(span.end..).unwrap_or_default().concat());
        out
    }
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn is_blank_or_comment(line: &str) -> bool {
    let rest = line.trim();
    rest.is_empty() || rest.starts_with('#')
}

/// Whether `line` ends an entry that started before it at `indent`.
fn ends_entry(line: &str, indent: usize) -> bool {
    if is_blank_or_comment(line) || indent_of(line) > indent {
        return false;
    }
    // A list may stand at the indent of its key, and a closing bracket may, too.
    let rest = line.trim();
    let continues = rest == "-" || rest.starts_with("- ") || rest.starts_with(['}', ']']);
    indent_of(line) < indent || !continues
}

/// The key of the entry that starts on `line` at exactly `indent`.
fn entry_key(line: &str, indent: usize) -> Option<String> {
    if is_blank_or_comment(line) || indent_of(line) != indent {
        return None;
    }
    let rest = line.trim();
    let end = match rest.chars().next()? {
        quote @ ('"' | '\'') => closing_quote(rest, quote)?,
        _ => {
            rest.char_indices()
                .find(|(at, c)| {
                    let next = rest.get(at + 1..).and_then(|tail| tail.chars().next());
                    *c == ':' && next.is_none_or(char::is_whitespace)
                })?
                .0
        }
    };
    rest.get(end..)?.trim_start().strip_prefix(':')?;
    match serde_yaml_ng::from_str(rest.get(..end)?).ok()? {
        Yaml::String(key) => Some(key),
        _ => None,
    }
}

/// The byte offset after the quoted text at the start of `text`.
fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && quote == '"' {
            chars.next();
        } else if c == quote {
            if quote == '\'' && chars.peek().is_some_and(|(_, next)| *next == '\'') {
                chars.next();
            } else {
                return Some(at + 1);
            }
        }
    }
    None
}

/// The comment at the end of a one-line entry, with the blanks before it.
fn trailing_comment(line: &str) -> Option<&str> {
    let line = line.trim_end();
    let whole: Yaml = serde_yaml_ng::from_str(line.trim_start()).ok()?;
    line.match_indices('#').map(|(at, _)| at).find_map(|at| {
        let head = line.get(..at)?;
        let bare = head.trim_end();
        let alone = bare.len() < head.len()
            && serde_yaml_ng::from_str::<Yaml>(bare.trim_start()).is_ok_and(|value| value == whole);
        alone.then(|| line.get(bare.len()..)).flatten()
    })
}

#[cfg(test)]
mod tests;
