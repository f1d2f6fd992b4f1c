//! Results of tools on their way into the log: secrets out, what is too long into files that the model's tools can read.
//!
//! The files lie in the session's folder and are erased with the session; clients read the whole text as content.

use std::path::{Path, PathBuf};

use gander_domain::{
    ItemId, PartBody,
    item::{ToolResult, Truncated},
};
use gander_store::NewContent;

use crate::{
    content::{head_and_tail, offload_result, text_content},
    redact::SecretFilter,
};

/// Tools may read this folder of a session even where the rest of it is denied to them.
const FOLDER: &str = "tool-output";
/// Most bytes of a long text that stay in the result.
const MAX_KEPT: usize = 64 * 1024;

/// Where and from which length on texts are put into files.
pub(crate) struct SpillPlace {
    /// The session's folder.
    pub session_dir: PathBuf,
    pub item_id: ItemId,
    /// Longest text that stays whole, in bytes.
    pub max_bytes: usize,
}

/// A result as the log keeps it, with the contents that it refers to.
pub(crate) async fn stored_result(
    mut result: ToolResult,
    secrets: &SecretFilter,
    place: &SpillPlace,
) -> (ToolResult, Vec<NewContent>) {
    secrets.clean_result(&mut result);
    let mut contents = Vec::new();
    for index in 0..result.parts.len() {
        let PartBody::Text(text) = &mut result.parts[index].body else { continue };
        if text.len() <= place.max_bytes {
            continue;
        }
        let whole = std::mem::take(text);
        let original_bytes = whole.len() as u64;
        let mut short = head_and_tail(&whole, MAX_KEPT.min(place.max_bytes / 2));
        let name = format!("{}-{index}.txt", place.item_id);
        match write(&place.session_dir.join(FOLDER), &name, whole.as_bytes()).await {
            Ok(path) => {
                short.push_str(&format!(
                    "\n[The whole output, {original_bytes} bytes, is in the file {}. Read or search it in pieces.]",
                    path.display()
                ));
            }
            Err(error) => tracing::warn!(%error, "a long tool output could not be put into a file"),
        }
        if let Ok(stored) = text_content(whole) {
            let content_id = Some(stored.content_id.clone());
            result.truncated.get_or_insert(Truncated { original_bytes, content_id });
            contents.push(stored);
        }
        if let PartBody::Text(text) = &mut result.parts[index].body {
            *text = short;
        }
    }
    let (result, more) = offload_result(result);
    contents.extend(more);
    (result, contents)
}

async fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<PathBuf> {
    let path = folder.join(name);
    let mut builder = tokio::fs::DirBuilder::new();
    builder.recursive(true);
    builder.mode(0o700);
    builder.create(folder).await?;
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&path).await?;
    tokio::io::AsyncWriteExt::write_all(&mut file, bytes).await?;
    tokio::io::AsyncWriteExt::flush(&mut file).await?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use gander_domain::{ErrorDetail, Part, item::ToolOutcome};

    use super::*;

    #[tokio::test]
    async fn long_texts_go_to_files_and_the_model_is_told_where() {
        let temp = tempfile::tempdir().unwrap();
        let place = SpillPlace {
            session_dir: temp.path().join("s"),
            item_id: ItemId::new("item1").unwrap(),
            max_bytes: 1_000,
        };
        let mut result = ToolResult::failed(ToolOutcome::Ok, ErrorDetail::internal(""));
        let long = format!("begin{}end", "x".repeat(5_000));
        result.parts = vec![Part::text("short"), Part::text(long.clone())];
        let (result, contents) = stored_result(result, &SecretFilter::default(), &place).await;
        assert_eq!(result.parts[0].as_text(), Some("short"));
        let kept = result.parts[1].as_text().unwrap();
        let file = temp.path().join("s/tool-output/item1-1.txt");
        assert!(kept.starts_with("begin") && kept.contains(file.to_str().unwrap()), "{kept}");
        assert!(kept.len() < 1_200);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), long);
        assert_eq!(contents[0].bytes.as_ref(), long.as_bytes());
        assert_eq!(result.truncated.unwrap().original_bytes, long.len() as u64);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
