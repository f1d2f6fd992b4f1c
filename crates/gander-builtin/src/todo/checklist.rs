//! Steps out of a checklist in Markdown.
//!
//! A step is a line like `- [ ] text`, at any depth, with any list marker. Everything else in the text is notes.

use schemars::JsonSchema;
use serde::Serialize;

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Step {
    pub(super) content: String,
    pub(super) priority: Priority,
    pub(super) status: Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Priority {
    High,
    Medium,
    Low,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Pending,
    InProgress,
    Completed,
}

/// The steps, in order.
pub(super) fn parse(text: &str) -> Vec<Step> {
    let mut fence: Option<&str> = None;
    let mut steps = Vec::new();
    for line in text.lines().map(str::trim) {
        match fence {
            Some(end) => {
                if line.starts_with(end) {
                    fence = None;
                }
            }
            None => {
                fence = ["```", "~~~"].into_iter().find(|mark| line.starts_with(mark));
                steps.extend(step(line));
            }
        }
    }
    steps
}

fn step(line: &str) -> Option<Step> {
    let rest = item(line)?.trim_start().strip_prefix('[')?;
    let (mark, rest) = rest.split_once(']')?;
    let status = match mark.trim() {
        "" => Status::Pending,
        "x" | "X" | "✓" | "✔" => Status::Completed,
        "~" | "-" | "/" | ">" => Status::InProgress,
        _ => return None,
    };
    // `[x](link)` is a link.
    if !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
        return None;
    }
    let (content, priority) = priority(rest.trim());
    (!content.is_empty()).then(|| Step { content: content.to_owned(), priority, status })
}

/// What is behind the marker of a list: `-`, `*`, `+`, `1.` or `1)`.
fn item(line: &str) -> Option<&str> {
    if let Some(rest) = line.strip_prefix(['-', '*', '+']) {
        return Some(rest);
    }
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    if rest.len() < line.len() { rest.strip_prefix(['.', ')']) } else { None }
}

/// Takes `(high)`, `(medium)` or `(low)` off either end.
fn priority(text: &str) -> (&str, Priority) {
    let marks = [("(high)", Priority::High), ("(medium)", Priority::Medium), ("(low)", Priority::Low)];
    for (mark, priority) in marks {
        if let Some((start, rest)) = text.split_at_checked(mark.len())
            && start.eq_ignore_ascii_case(mark)
        {
            return (rest.trim(), priority);
        }
        if let Some(at) = text.len().checked_sub(mark.len())
            && let Some((rest, end)) = text.split_at_checked(at)
            && end.eq_ignore_ascii_case(mark)
        {
            return (rest.trim(), priority);
        }
    }
    (text, Priority::Medium)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(content: &str, priority: Priority, status: Status) -> Step {
        Step { content: content.to_owned(), priority, status }
    }

    #[test]
    fn steps_are_found_among_notes() {
        let text = "# Plan\nsome words\n- [x] one\n  - [ ] (HIGH) two\n\t* [~] three (low)\n1. [X] four\n2) [-] five\n\
                    + [] six\n- seven\n- [x](https://example.org) eight\n- [ ]\n- [?] nine\n[ ] ten\n- [ ] é (high)";
        use Priority::{High, Low, Medium};
        use Status::{Completed, InProgress, Pending};
        let expected = [
            step("one", Medium, Completed),
            step("two", High, Pending),
            step("three", Low, InProgress),
            step("four", Medium, Completed),
            step("five", Medium, InProgress),
            step("six", Medium, Pending),
            step("é", High, Pending),
        ];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn code_is_no_plan() {
        let text = "- [ ] a\n```md\n- [ ] b\n~~~\n- [ ] c\n```\n- [x] d\r\n";
        let contents: Vec<String> = parse(text).into_iter().map(|step| step.content).collect();
        assert_eq!(contents, ["a", "d"]);
        assert!(parse("").is_empty() && parse("- [x").is_empty() && parse("-").is_empty());
        assert_eq!(parse("- [ ] ünïcödé")[0].content, "ünïcödé");
    }
}
