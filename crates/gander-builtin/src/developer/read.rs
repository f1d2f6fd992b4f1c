//! The tool `read`: numbered lines of a text file, or an image.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
};

use base64::Engine as _;
use rmcp::model::{CallToolResult, ContentBlock};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::MAX_FILE;
use super::{
    Shared, ToolError, ToolResult, answer, cancelled,
    texts::{Held, Texts, unread},
};
use crate::paths::Access;

pub(super) const DESCRIPTION: &str = "Reads a file. Text comes back with line numbers, by default the first 2000 \
lines; use `offset` and `limit` for other parts of a long file. The line number and the tab after it are not part of \
the file. Images (PNG, JPEG, GIF, WebP) come back as images. For folders use `list`.";

const DEFAULT_LINES: u32 = 2000;
/// Bytes of text in one answer.
const MAX_BYTES: usize = 64 * 1024;
/// Bytes of one line; the rest of it is left out.
const MAX_LINE: usize = 4 * 1024;
/// Bytes looked through to get to `offset`.
const MAX_SCAN: u64 = 512 * 1024 * 1024;
const MAX_IMAGE: u64 = 5 * 1024 * 1024;
const PROBE: usize = 8 * 1024;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// The file: absolute, relative to the working directory, or starting with ~/.
    path: String,
    /// The first line to return, counted from 1. Default 1.
    #[schemars(range(min = 1))]
    offset: Option<u64>,
    /// How many lines to return at most. Default 2000.
    #[schemars(range(min = 1))]
    limit: Option<u32>,
}

pub(super) fn run(shared: &Shared, arguments: &Arguments, texts: &Texts<'_>) -> ToolResult {
    let name = &arguments.path;
    let path = shared.guard.check(name, Access::Read)?;
    let failed = |error: io::Error| ToolError::new(format!("{name}: {}", explain(&error)));
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        // An editor may have a file that was never saved.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match texts.held(&path)? {
                Held::Text(text) if !text.is_empty() => paged(arguments, &path, text.as_bytes(), texts),
                _ => Err(failed(error)),
            };
        }
        Err(error) => return Err(failed(error)),
    };
    if metadata.is_dir() {
        return Err(ToolError::new(format!("{name} is a folder; use the tool `list`")));
    }
    if !metadata.is_file() {
        return Err(ToolError::new(format!("{name} is neither a file nor a folder and cannot be read")));
    }
    let mut file = BufReader::with_capacity(PROBE, File::open(&path).map_err(failed)?);
    let probe = file.fill_buf().map_err(failed)?;
    if let Some(mime_type) = image_type(probe) {
        return image(name, &path, file, metadata.len(), mime_type);
    }
    if probe.contains(&0) {
        let size = metadata.len();
        return Err(ToolError::new(format!(
            "{name} is a binary file of {size} bytes; only text and images can be read"
        )));
    }
    // Too large for an editor's answer; changing it through here is refused as well.
    if metadata.len() > MAX_FILE {
        return paged(arguments, &path, file, texts);
    }
    match texts.held(&path)? {
        Held::Nowhere => paged(arguments, &path, file, texts),
        Held::Text(text) => paged(arguments, &path, text.as_bytes(), texts),
        Held::Failed(error) => Err(unread(name, &error)),
    }
}

/// The lines that were asked for.
fn paged(arguments: &Arguments, path: &Path, text: impl io::BufRead, texts: &Texts<'_>) -> ToolResult {
    let Arguments { path: name, offset, limit } = arguments;
    let first = offset.unwrap_or(1).max(1);
    let page = page(text, first, limit.unwrap_or(DEFAULT_LINES).max(1), &|| texts.stopped())
        .map_err(|error| ToolError::new(format!("{name}: {}", explain(&error))))?;
    if texts.stopped() {
        return Err(cancelled());
    }
    page.render(name, path, first)
}

/// The kernel's words without its number.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "the user may not read it".to_owned(),
        _ => error.to_string(),
    }
}

fn image_type(start: &[u8]) -> Option<&'static str> {
    let is_webp = start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP");
    match start {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        _ if is_webp => Some("image/webp"),
        _ => None,
    }
}

fn image(name: &str, path: &Path, file: BufReader<File>, size: u64, mime_type: &str) -> ToolResult {
    let mut bytes = Vec::new();
    let read = file.take(MAX_IMAGE + 1).read_to_end(&mut bytes);
    read.map_err(|error| ToolError::new(format!("{name}: {error}")))?;
    if bytes.len() as u64 > MAX_IMAGE {
        let message =
            format!("{name} is an image of {size} bytes; only images up to {MAX_IMAGE} bytes can be read");
        return Err(ToolError::new(message));
    }
    let data = base64::engine::general_purpose::STANDARD.encode(&bytes);
    let text = format!("{name}: {mime_type}, {} bytes", bytes.len());
    let content = vec![ContentBlock::text(text), ContentBlock::image(data, mime_type)];
    let mut result = CallToolResult::success(content);
    result.structured_content =
        Some(json!({ "path": path.display().to_string(), "mime_type": mime_type, "bytes": bytes.len() }));
    Ok(result)
}

/// A part of a file.
struct Page {
    text: String,
    /// Lines in `text`.
    lines: u64,
    /// Lines seen in the whole file; all there are if `complete`.
    seen: u64,
    complete: bool,
    long_lines: bool,
}

fn page(mut file: impl io::BufRead, first: u64, limit: u32, stop: &dyn Fn() -> bool) -> io::Result<Page> {
    let mut page = Page { text: String::new(), lines: 0, seen: 0, complete: false, long_lines: false };
    let (mut line, mut scanned) = (Vec::new(), 0);
    while !stop() {
        let full = page.lines >= u64::from(limit) || page.text.len() >= MAX_BYTES;
        if full {
            page.complete = file.fill_buf()?.is_empty();
            break;
        }
        let wanted = page.seen + 1 >= first;
        line.clear();
        let length = next_line(&mut file, if wanted { MAX_LINE } else { 0 }, &mut line)?;
        scanned += length;
        if length == 0 {
            page.complete = true;
            break;
        }
        if scanned > MAX_SCAN {
            break;
        }
        page.seen += 1;
        if wanted {
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            page.lines += 1;
            page.text.push_str(&format!("{:>6}\t{}", page.seen, String::from_utf8_lossy(line)));
            if length > MAX_LINE as u64 {
                page.long_lines = true;
                page.text.push_str(" [... rest of the line left out]");
            }
            page.text.push('\n');
        }
    }
    Ok(page)
}

/// Consumes one line, keeps its first `keep` bytes, and returns how long it was with its end. 0 at the end.
fn next_line(file: &mut impl io::BufRead, keep: usize, line: &mut Vec<u8>) -> io::Result<u64> {
    let mut length = 0;
    loop {
        let buffer = file.fill_buf()?;
        if buffer.is_empty() {
            return Ok(length);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        let room = keep.saturating_sub(line.len());
        line.extend_from_slice(&buffer[..used.min(room)]);
        file.consume(used);
        length += used as u64;
        if end.is_some() {
            return Ok(length);
        }
    }
}

impl Page {
    fn render(self, name: &str, path: &Path, first: u64) -> ToolResult {
        if self.lines == 0 && first > 1 && self.seen < first {
            let message = format!("{name} has only {} lines; there is no line {first}", self.seen);
            return Err(ToolError::new(message));
        }
        let last = first + self.lines.saturating_sub(1);
        let mut text = self.text;
        if self.seen == 0 {
            text.push_str("(the file is empty)\n");
        } else if !self.complete {
            text.push_str(&format!("[lines {first} to {last}; go on with offset {}]\n", last + 1));
        }
        let total = self.complete.then_some(self.seen);
        let structured = json!({
            "path": path.display().to_string(),
            "first_line": first,
            "lines": self.lines,
            "total_lines": total,
            "truncated": !self.complete || self.long_lines,
        });
        Ok(answer(text, structured))
    }
}
