//! A change of one file as clients and models want to see it.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

/// Above this, both texts together, clients get a patch instead of the texts.
pub(super) const MAX_TEXTS: usize = 256 * 1024;
/// Longest patch given to clients.
const MAX_PATCH: usize = 256 * 1024;
/// Longest patch given to the model.
const MAX_SUMMARY: usize = 4 * 1024;
/// A diff that takes longer is made coarser.
const DIFF_TIME: Duration = Duration::from_millis(300);

/// One file before and after.
pub(super) struct Change<'a> {
    pub(super) path: &'a Path,
    /// `None` for a file that did not exist, or whose content was no text.
    pub(super) old: Option<&'a str>,
    pub(super) new: &'a str,
}

/// How a change is reported.
pub(super) struct Report {
    /// `{"diff": [...]}`, as the diff parts of a result.
    pub(super) structured: Value,
    pub(super) added: usize,
    pub(super) removed: usize,
    /// A unified diff, cut to what a model needs as a receipt.
    pub(super) patch: String,
}

pub(super) fn report(change: &Change<'_>) -> Report {
    let old = change.old.unwrap_or_default();
    let path = change.path.display().to_string();
    let diff = TextDiff::configure().timeout(DIFF_TIME).diff_lines(old, change.new);
    let count = |tag| diff.iter_all_changes().filter(|line| line.tag() == tag).count();
    let patch = diff.unified_diff().context_radius(3).header(&path, &path).to_string();
    let part = if old.len() + change.new.len() <= MAX_TEXTS {
        json!({ "path": path, "old_text": change.old, "new_text": change.new })
    } else {
        let cut = cut(&patch, MAX_PATCH);
        json!({ "path": path, "patch": cut, "patch_truncated": cut.len() < patch.len() })
    };
    let shown = cut(&patch, MAX_SUMMARY);
    let rest = if shown.len() < patch.len() { "... (the rest of the diff is left out)\n" } else { "" };
    Report {
        structured: json!({ "diff": [part] }),
        added: count(ChangeTag::Insert),
        removed: count(ChangeTag::Delete),
        patch: format!("{shown}{rest}"),
    }
}

/// The longest part of `text` that ends with a line and is no longer than `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let head = &text[..text.floor_char_boundary(limit)];
    &head[..head.rfind('\n').map_or(head.len(), |end| end + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_carry_their_texts_and_a_patch_for_the_model() {
        let report = report(&Change { path: Path::new("/w/a"), old: Some("a\nb\nc\n"), new: "a\nx\nc\n" });
        assert_eq!(
            report.structured,
            json!({"diff": [{"path": "/w/a", "old_text": "a\nb\nc\n", "new_text": "a\nx\nc\n"}]})
        );
        assert_eq!((report.added, report.removed), (1, 1));
        assert!(report.patch.contains("-b\n+x\n"), "{}", report.patch);
    }

    #[test]
    fn a_new_file_has_no_old_text() {
        let report = report(&Change { path: Path::new("/w/a"), old: None, new: "a\n" });
        assert_eq!(report.structured["diff"][0]["old_text"], Value::Null);
    }

    #[test]
    fn large_changes_carry_a_patch_and_stay_bounded() {
        let old: String = (0..60_000).map(|n| format!("line {n}\n")).collect();
        let new = old.replace("line 77\n", "line seventy-seven\n");
        let small = report(&Change { path: Path::new("/w/a"), old: Some(&old), new: &new });
        let part = &small.structured["diff"][0];
        assert!(part.get("old_text").is_none() && part.get("new_text").is_none());
        assert!(part["patch"].as_str().expect("patch").contains("+line seventy-seven"));
        assert_eq!(part["patch_truncated"], false);

        let large = report(&Change { path: Path::new("/w/a"), old: None, new: &old });
        let part = &large.structured["diff"][0];
        assert!(part["patch"].as_str().expect("patch").len() <= MAX_PATCH);
        assert_eq!(part["patch_truncated"], true);
        assert!(large.patch.len() < MAX_SUMMARY + 100);
        assert!(large.patch.ends_with("is left out)\n"));
    }
}
