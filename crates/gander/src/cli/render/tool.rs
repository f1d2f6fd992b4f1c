//! Tool calls: a title, live output behind a bar, changes as diffs, and how it ended.

use gander_proto::v1::{
    Item, PermissionSource, ToolCall, ToolCallStatus, ToolPermission, ToolProgress, ToolResult, item, part,
};

use super::{Block, Renderer, join};
use crate::cli::{
    diff::{self, DiffStyle},
    output::{Cleaner, Tint, clean, cut, human_duration, one_line, paint},
};

/// Lines of a result that was not seen live.
const RESULT_LINES: usize = 12;
const DIFF_LINES: usize = 200;
/// Longest preview of arguments, in characters.
const ARGUMENTS: usize = 600;

/// What was shown of a call.
#[derive(Default)]
pub(super) struct ToolView {
    title: String,
    /// Place among the calls that were shown, from 1; 0 before.
    number: usize,
    /// Ran beside others: its lines carry its number.
    beside: bool,
    ended: bool,
    live: bool,
    diff_shown: bool,
    cleaner: Cleaner,
    /// Output without its line end.
    partial: String,
    lines: usize,
    hidden: usize,
}

impl Renderer {
    pub(super) fn tool_item(&mut self, item: Option<&Item>) {
        if let Some(item) = item
            && let Some(item::Body::ToolCall(call)) = &item.body
        {
            self.tool_call(&item.item_id, call);
        }
    }

    pub(super) fn tool_call(&mut self, item_id: &str, call: &ToolCall) {
        if self.options.quiet {
            return;
        }
        let mut view = self.tools.remove(item_id).unwrap_or_default();
        if call.status() != ToolCallStatus::StreamingArguments {
            self.announce(item_id, &mut view, call);
            self.show_diffs(item_id, &mut view, call);
            if is_final(call.status()) && !view.ended {
                view.ended = true;
                self.tool_end(item_id, &mut view, call);
            }
        }
        self.tools.insert(item_id.to_owned(), view);
    }

    pub(super) fn tool_output(&mut self, item_id: &str, text: &str) {
        if self.options.quiet {
            return;
        }
        let mut view = self.tools.remove(item_id).unwrap_or_default();
        view.live = true;
        let cleaned = view.cleaner.push(text);
        view.partial.push_str(&cleaned);
        while let Some(end) = view.partial.find('\n') {
            let line: String = view.partial.drain(..=end).collect();
            self.output_line(item_id, &mut view, line.trim_end_matches('\n'));
        }
        self.tools.insert(item_id.to_owned(), view);
    }

    pub(super) fn tool_progress(&mut self, progress: &ToolProgress) {
        if self.options.quiet {
            return;
        }
        let (summary, tool) = match &progress.subagent {
            Some(subagent) => (subagent.summary.as_str(), subagent.tool_name.as_str()),
            None => (progress.message.as_str(), ""),
        };
        let what = if summary.is_empty() { tool } else { summary };
        let far = match progress.total {
            Some(total) if total > 0.0 => {
                format!("{:.0} %", (progress.progress / total * 100.0).clamp(0.0, 100.0))
            }
            _ => String::new(),
        };
        let words: Vec<&str> = [far.as_str(), what].into_iter().filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return;
        }
        let mut view = self.tools.remove(&progress.item_id).unwrap_or_default();
        let line = one_line(&words.join(" "), self.options.width);
        self.output_line(&progress.item_id, &mut view, &line);
        self.tools.insert(progress.item_id.clone(), view);
    }

    /// A call that a person is asked about: what it is, with what, and what it would change.
    pub(super) fn tool_preview(&mut self, item_id: &str, call: &ToolCall, prompt: &str) {
        let mut view = self.tools.remove(item_id).unwrap_or_default();
        // A question is shown even to those who want quiet.
        self.announce(item_id, &mut view, call);
        if !prompt.is_empty() {
            self.indented(Tint::Yellow, &clean(prompt));
        }
        if !view.diff_shown {
            let arguments = cut(&clean(&call.arguments_json), ARGUMENTS);
            if !arguments.is_empty() && arguments != "{}" {
                self.indented(Tint::Dim, &arguments);
            }
        }
        self.show_diffs(item_id, &mut view, call);
        self.tools.insert(item_id.to_owned(), view);
    }

    fn announce(&mut self, item_id: &str, view: &mut ToolView, call: &ToolCall) {
        if view.number > 0 {
            return;
        }
        self.tool_count += 1;
        view.number = self.tool_count;
        for other in self.tools.values_mut().filter(|other| other.number > 0 && !other.ended) {
            other.beside = true;
            view.beside = true;
        }
        let title = [&call.title, &call.tool_name, &call.name].into_iter().find(|text| !text.is_empty());
        view.title = one_line(title.map_or("tool", String::as_str), self.options.width.saturating_sub(2));
        self.title_line(item_id, view);
    }

    fn title_line(&mut self, item_id: &str, view: &ToolView) {
        self.begin(Block::Tool);
        item_id.clone_into(&mut self.last_tool);
        self.chrome_tinted(Tint::Cyan, "●");
        self.chrome(" ");
        if view.beside {
            self.chrome_tinted(Tint::Dim, &format!("{} ", view.number));
        }
        self.chrome_tinted(Tint::Bold, &view.title);
        self.chrome("\n");
    }

    /// Names the call again when something else was shown in between and its lines alone would not tell.
    fn resume(&mut self, item_id: &str, view: &ToolView) {
        if self.block == Block::Tool && (view.beside || self.last_tool == item_id) {
            item_id.clone_into(&mut self.last_tool);
            self.begin(Block::Tool);
        } else {
            self.title_line(item_id, view);
        }
    }

    fn output_line(&mut self, item_id: &str, view: &mut ToolView, line: &str) {
        if view.lines >= self.options.output_lines {
            view.hidden += 1;
            return;
        }
        view.lines += 1;
        self.resume(item_id, view);
        self.barred(view, line);
    }

    fn barred(&mut self, view: &ToolView, line: &str) {
        let line = cut(&line.replace('\t', "    "), self.options.width.saturating_sub(4));
        self.chrome_tinted(Tint::Dim, &format!("{}│ {line}", margin(view)));
        self.chrome("\n");
    }

    fn indented(&mut self, tint: Tint, text: &str) {
        for line in text.lines() {
            self.chrome_tinted(tint, &format!("  {line}"));
            self.chrome("\n");
        }
    }

    fn show_diffs(&mut self, item_id: &str, view: &mut ToolView, call: &ToolCall) {
        if view.diff_shown {
            return;
        }
        let style = DiffStyle { width: self.options.width, color: self.options.color, max_lines: DIFF_LINES };
        for part in &call.content {
            if let Some(part::Body::Diff(change)) = &part.body {
                view.diff_shown = true;
                self.resume(item_id, view);
                let text = diff::render(change, "  ", style);
                self.chrome(&text);
            }
        }
    }

    fn tool_end(&mut self, item_id: &str, view: &mut ToolView, call: &ToolCall) {
        if !view.partial.is_empty() {
            let line = std::mem::take(&mut view.partial);
            self.output_line(item_id, view, &line);
        }
        self.resume(item_id, view);
        let result = call.result.as_ref();
        let ran = !matches!(call.status(), ToolCallStatus::Declined | ToolCallStatus::Invalid);
        // What a cancelled call did was seen as it came; its result is only told to the model.
        let tells = ran && call.status() != ToolCallStatus::Cancelled;
        if tells && !view.live && !view.diff_shown {
            self.show_result(view, result);
        } else if view.hidden > 0 {
            self.barred(view, &format!("… {} more lines", view.hidden));
        }
        let (good, mut words) = outcome(call, view.live);
        if ran
            && let Some(duration) =
                result.and_then(|r| r.duration).and_then(|d| std::time::Duration::try_from(d).ok())
        {
            words.push(human_duration(duration));
        }
        let on = self.options.color;
        let mark = if good { paint(on, Tint::Green, "✓") } else { paint(on, Tint::Red, "✗") };
        let tint = if good { Tint::Dim } else { Tint::Red };
        self.chrome(&format!("{}{mark} {}\n", margin(view), paint(on, tint, &words.join(" · "))));
        if let Some(truncated) = result.and_then(|r| r.truncated.as_ref()) {
            let text = format!("the output of {} bytes was cut", truncated.original_bytes);
            self.indented(Tint::Dim, &text);
        }
    }

    fn show_result(&mut self, view: &ToolView, result: Option<&ToolResult>) {
        let text = result.map(|r| clean(&join(&r.parts))).unwrap_or_default();
        let limit = if self.options.verbose { self.options.output_lines } else { RESULT_LINES };
        let lines: Vec<&str> = text.trim_end().lines().collect();
        // One more line costs as much as the line that tells of it.
        let shown = if lines.len() <= limit + 1 { lines.len() } else { limit };
        for line in lines.iter().take(shown) {
            self.barred(view, line);
        }
        if lines.len() > shown {
            self.barred(view, &format!("… {} more lines", lines.len() - shown));
        }
    }
}

/// What stands before the lines of a call.
fn margin(view: &ToolView) -> String {
    if view.beside { format!("{:>2} ", view.number) } else { "  ".to_owned() }
}

fn is_final(status: ToolCallStatus) -> bool {
    use ToolCallStatus as Status;
    matches!(
        status,
        Status::Completed
            | Status::Declined
            | Status::Invalid
            | Status::Cancelled
            | Status::Failed
            | Status::TimedOut
            | Status::OutcomeUnknown
    )
}

/// Whether it worked, and the words for it. The last line of a result often says why it failed, and was not seen when
/// the output was shown as it came.
fn outcome(call: &ToolCall, live: bool) -> (bool, Vec<String>) {
    use ToolCallStatus as Status;
    let error = call.result.as_ref().and_then(|result| result.error.as_ref());
    let because = |word: &str| match error {
        Some(error) if !error.message.is_empty() => format!("{word}: {}", one_line(&error.message, 300)),
        _ => word.to_owned(),
    };
    let word = match call.status() {
        Status::Completed => return (true, Vec::new()),
        Status::Declined => {
            let by = match call.permission.as_ref().map(ToolPermission::source) {
                Some(PermissionSource::Answer) => "declined",
                Some(PermissionSource::Rule) => "declined by a permission rule",
                Some(PermissionSource::Mode) => "declined by the session's mode",
                Some(PermissionSource::Expired) => "declined: nobody answered in time",
                Some(PermissionSource::Policy) => "declined by policy",
                _ => "declined",
            };
            by.to_owned()
        }
        Status::Invalid if !call.invalid_arguments.is_empty() => {
            format!("invalid: {}", one_line(&call.invalid_arguments, 300))
        }
        Status::Invalid => because("invalid"),
        Status::Cancelled => "cancelled".to_owned(),
        Status::TimedOut => because("no answer in time"),
        Status::OutcomeUnknown => {
            "outcome unknown: the daemon stopped while it ran; it is not run again by itself".to_owned()
        }
        _ if error.is_none() && live => {
            let text = call.result.as_ref().map(|result| clean(&join(&result.parts))).unwrap_or_default();
            match text.trim_end().lines().last() {
                Some(line) => format!("failed: {}", one_line(line, 300)),
                None => "failed".to_owned(),
            }
        }
        _ => because("failed"),
    };
    (false, vec![word])
}
