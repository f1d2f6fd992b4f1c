//! A change of a file as a unified diff with colours.

use gander_proto::v1::FileDiff;

use super::output::{Tint, clean, cut, paint};

/// Lines of unchanged text around a change.
const CONTEXT: usize = 3;
/// Comparing two large texts is given up after this; the diff is then coarser, never wrong.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(200);

/// How a diff is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiffStyle {
    pub(super) width: usize,
    pub(super) color: bool,
    pub(super) max_lines: usize,
}

/// The diff, each line behind `indent` and with its newline.
pub(super) fn render(diff: &FileDiff, indent: &str, style: DiffStyle) -> String {
    let path = clean(&diff.path);
    let lines = body(diff);
    let added = lines.iter().filter(|line| line.starts_with('+')).count();
    let removed = lines.iter().filter(|line| line.starts_with('-')).count();
    let width = style.width.saturating_sub(indent.chars().count()).max(20);
    let mut text = format!(
        "{indent}{} {} {}\n",
        paint(style.color, Tint::Bold, &path),
        paint(style.color, Tint::Green, &format!("+{added}")),
        paint(style.color, Tint::Red, &format!("-{removed}")),
    );
    for line in lines.iter().take(style.max_lines) {
        let line = cut(line, width);
        let line = match line.chars().next() {
            Some('+') => paint(style.color, Tint::Green, &line),
            Some('-') => paint(style.color, Tint::Red, &line),
            Some('@') => paint(style.color, Tint::Cyan, &line),
            _ => line,
        };
        text.push_str(&format!("{indent}{line}\n"));
    }
    if lines.len() > style.max_lines {
        let more = format!("… {} more lines", lines.len() - style.max_lines);
        text.push_str(&format!("{indent}{}\n", paint(style.color, Tint::Dim, &more)));
    }
    text
}

/// Hunks without file headers.
fn body(diff: &FileDiff) -> Vec<String> {
    let unified = match (&diff.patch, &diff.old_text, &diff.new_text) {
        (Some(patch), ..) => patch.clone(),
        (None, None, None) => String::new(),
        (None, old, new) => {
            let (old, new) = (old.as_deref().unwrap_or_default(), new.as_deref().unwrap_or_default());
            similar::TextDiff::configure()
                .timeout(PATIENCE)
                .diff_lines(old, new)
                .unified_diff()
                .context_radius(CONTEXT)
                .missing_newline_hint(false)
                .to_string()
        }
    };
    let mut lines: Vec<String> = clean(&unified).lines().map(str::to_owned).collect();
    // Names of files stand before the first hunk only; later such lines are content.
    let headers = lines.iter().position(|line| line.starts_with("@@")).unwrap_or(0);
    lines.drain(..headers);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(old: Option<&str>, new: Option<&str>, patch: Option<&str>) -> FileDiff {
        FileDiff {
            path: "a.txt".to_owned(),
            old_text: old.map(str::to_owned),
            new_text: new.map(str::to_owned),
            patch: patch.map(str::to_owned),
        }
    }

    const PLAIN: DiffStyle = DiffStyle { width: 80, color: false, max_lines: 100 };

    #[test]
    fn changes_new_files_and_patches() {
        for (change, wanted) in [
            (
                diff(Some("a\nb\nc\n"), Some("a\nB\nc\n"), None),
                "  a.txt +1 -1\n  @@ -1,3 +1,3 @@\n   a\n  -b\n  +B\n   c\n",
            ),
            (diff(None, Some("x\n"), None), "  a.txt +1 -0\n  @@ -0,0 +1 @@\n  +x\n"),
            (diff(Some("x"), Some(""), None), "  a.txt +0 -1\n  @@ -1 +0,0 @@\n  -x\n"),
            (diff(None, None, None), "  a.txt +0 -0\n"),
            (
                diff(None, None, Some("--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-x\n+\x1b[2Jy\n")),
                "  a.txt +1 -1\n  @@ -1 +1 @@\n  -x\n  +y\n",
            ),
            // A removed line that begins with two dashes is not a header.
            (diff(Some("-- x\n"), Some("y\n"), None), "  a.txt +1 -1\n  @@ -1 +1 @@\n  --- x\n  +y\n"),
        ] {
            assert_eq!(render(&change, "  ", PLAIN), wanted);
        }
    }

    #[test]
    fn long_diffs_are_cut_and_coloured() {
        let new: String = (0..50).map(|i| format!("line {i}\n")).collect();
        let style = DiffStyle { width: 30, color: true, max_lines: 5 };
        let text = render(&diff(None, Some(&new), None), "", style);
        assert_eq!(text.lines().count(), 1 + 5 + 1);
        assert!(text.contains("\x1b[32m+line 0\x1b[0m"));
        assert!(text.contains("… 46 more lines"));
    }
}
