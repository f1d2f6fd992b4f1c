//! Content beside the log: what is too large for an event is stored by its hash and referred to.

use gander_domain::{
    ContentId, ErrorDetail, Part, PartBody,
    content::{Blob, Data},
    item::{ToolResult, Truncated},
};
use gander_store::NewContent;
use sha2::{Digest, Sha256};

/// Largest text or data inside an event, in bytes.
pub const MAX_INLINE_BYTES: usize = 256 * 1024;
/// Bytes of a long text that stay in the result for the model.
const KEPT_TEXT: usize = 64 * 1024;

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Hex SHA-256.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn content(bytes: Vec<u8>, mime_type: &str) -> Result<NewContent, ErrorDetail> {
    let content_id =
        ContentId::new(sha256_hex(&bytes)).map_err(|e| ErrorDetail::internal(format!("content id: {e}")))?;
    Ok(NewContent { content_id, mime_type: mime_type.to_owned(), bytes: bytes.into() })
}

/// A text as content beside the log.
pub(crate) fn text_content(text: String) -> Result<NewContent, ErrorDetail> {
    content(text.into_bytes(), "text/plain; charset=utf-8")
}

/// Moves large parts of an input out of the event.
///
/// # Errors
/// Never in practice: the id is a hash.
pub(crate) fn offload_parts(parts: Vec<Part>) -> Result<(Vec<Part>, Vec<NewContent>), ErrorDetail> {
    let mut contents = Vec::new();
    let mut out = Vec::with_capacity(parts.len());
    for mut part in parts {
        match &mut part.body {
            PartBody::Text(text) if text.len() > MAX_INLINE_BYTES => {
                let size_bytes = text.len() as u64;
                let stored = content(std::mem::take(text).into_bytes(), "text/plain; charset=utf-8")?;
                part.body = PartBody::TextContent { content_id: stored.content_id.clone(), size_bytes };
                contents.push(stored);
            }
            PartBody::Image { data, mime_type } | PartBody::Audio { data, mime_type } => {
                offload_data(data, mime_type, &mut contents)?;
            }
            PartBody::Resource { data: Some(data), mime_type, .. } => {
                let mime_type = mime_type.clone().unwrap_or_else(|| "application/octet-stream".to_owned());
                offload_data(data, &mime_type, &mut contents)?;
            }
            _ => {}
        }
        out.push(part);
    }
    Ok((out, contents))
}

fn offload_data(data: &mut Data, mime_type: &str, contents: &mut Vec<NewContent>) -> Result<(), ErrorDetail> {
    if let Data::Inline(Blob(bytes)) = data
        && bytes.len() > MAX_INLINE_BYTES
    {
        let stored = content(std::mem::take(bytes), mime_type)?;
        *data = Data::Content(stored.content_id.clone());
        contents.push(stored);
    }
    Ok(())
}

/// Moves large parts of a tool result out of the event. A long text keeps its beginning and end for the model.
pub(crate) fn offload_result(mut result: ToolResult) -> (ToolResult, Vec<NewContent>) {
    let mut contents = Vec::new();
    for part in &mut result.parts {
        if let PartBody::Text(text) = &mut part.body
            && text.len() > MAX_INLINE_BYTES
        {
            let original_bytes = text.len() as u64;
            let short = head_and_tail(text, KEPT_TEXT);
            if let Ok(stored) = content(std::mem::take(text).into_bytes(), "text/plain; charset=utf-8") {
                result.truncated =
                    Some(Truncated { original_bytes, content_id: Some(stored.content_id.clone()) });
                contents.push(stored);
            }
            *text = short;
        }
    }
    let before = result.parts.clone();
    match offload_parts(std::mem::take(&mut result.parts)) {
        Ok((parts, more)) => {
            result.parts = parts;
            contents.extend(more);
        }
        Err(_) => result.parts = before,
    }
    if result.structured_content_json.as_ref().is_some_and(|json| json.len() > MAX_INLINE_BYTES)
        && let Some(json) = result.structured_content_json.take()
        && let Ok(stored) = content(json.into_bytes(), "application/json")
    {
        let original_bytes = stored.bytes.len() as u64;
        result
            .truncated
            .get_or_insert(Truncated { original_bytes, content_id: Some(stored.content_id.clone()) });
        contents.push(stored);
    }
    (result, contents)
}

pub(crate) fn head_and_tail(text: &str, keep: usize) -> String {
    let (mut head, mut tail) = (keep / 2, text.len() - keep / 2);
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}\n[… {} bytes left out …]\n{}", &text[..head], tail - head, &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_parts_become_references() {
        let big = "ä".repeat(MAX_INLINE_BYTES);
        let (parts, contents) = offload_parts(vec![Part::text("small"), Part::text(big.clone())]).unwrap();
        assert_eq!(parts[0].as_text(), Some("small"));
        let PartBody::TextContent { content_id, size_bytes } = &parts[1].body else {
            panic!("{:?}", parts[1])
        };
        assert_eq!((*size_bytes, &contents[0].content_id), (big.len() as u64, content_id));
        assert_eq!(contents[0].bytes.as_ref(), big.as_bytes());
    }

    #[test]
    fn long_results_keep_head_and_tail() {
        let text = format!("begin{}end", "ß".repeat(MAX_INLINE_BYTES));
        let mut result = ToolResult::failed(gander_domain::item::ToolOutcome::Ok, ErrorDetail::internal(""));
        result.parts = vec![Part::text(text.clone())];
        let (result, contents) = offload_result(result);
        let kept = result.parts[0].as_text().unwrap();
        assert!(kept.starts_with("begin") && kept.ends_with("end") && kept.len() < MAX_INLINE_BYTES);
        assert_eq!(result.truncated.unwrap().original_bytes, text.len() as u64);
        assert_eq!(contents[0].bytes.as_ref(), text.as_bytes());
    }
}
