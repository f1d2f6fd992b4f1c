//! Tool calls: what the client is shown of one, and what changed since.
//!
//! ACP replaces arrays with every update, so a view keeps what was sent last and sends only fields that differ.

use agent_client_protocol_schema::v1 as acp;
use gander_proto::v1::{Part, ToolCall, ToolCallStatus, ToolKind, ToolOutcome, ToolResult, part};
use serde_json::{Value, json};

use super::{
    content::{absolute, blocks, non_empty, text_block},
    partial,
};

/// Bytes of live output shown at a time; the end of it.
const MAX_OUTPUT: usize = 16 * 1024;
/// Results above this are not repeated as `rawOutput`.
const MAX_RAW: usize = 64 * 1024;
/// Arguments are shown from this size on while they stream, and then whenever they doubled.
const FIRST_ARGUMENTS: usize = 24;

/// How a client shows the output of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// As text of the call.
    Text,
    /// As a terminal that is fed through `_meta`.
    Terminal,
}

/// One open tool call.
#[derive(Debug, Clone)]
pub(crate) struct View {
    call: ToolCall,
    shown: acp::ToolCallUpdateFields,
    arguments: String,
    arguments_shown: usize,
    output: String,
    output_shown: usize,
    withheld: bool,
    terminal: bool,
    /// A terminal of the client's that runs this call.
    client_terminal: Option<String>,
    seen_output: bool,
}

/// What a translation needs to know besides the call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) cwd: &'a str,
    pub(crate) output: Output,
}

impl View {
    pub(crate) fn new(call: &ToolCall) -> Self {
        Self {
            call: call.clone(),
            shown: acp::ToolCallUpdateFields::new(),
            arguments: call.arguments_json.clone(),
            arguments_shown: 0,
            output: String::new(),
            output_shown: 0,
            withheld: false,
            terminal: false,
            client_terminal: None,
            seen_output: false,
        }
    }

    /// The same, run by a terminal of the client's.
    pub(crate) fn in_client_terminal(mut self, terminal_id: Option<String>) -> Self {
        self.client_terminal = terminal_id;
        self
    }

    /// The first message about a call.
    pub(crate) fn announce(&mut self, item_id: &str, frame: Frame<'_>) -> Vec<acp::SessionUpdate> {
        let fields = self.fields(frame);
        let meta = self.terminal_info(item_id, frame);
        let content = self.with_terminal(item_id, fields.content.clone().unwrap_or_default());
        let mut call = acp::ToolCall::new(item_id.to_owned(), fields.title.clone().unwrap_or_default())
            .name(fields.name.clone())
            .kind(fields.kind.unwrap_or(acp::ToolKind::Other))
            .status(fields.status.unwrap_or(acp::ToolCallStatus::Pending))
            .content(content)
            .locations(fields.locations.clone().unwrap_or_default())
            .raw_input(fields.raw_input.clone())
            .raw_output(fields.raw_output.clone());
        if let Some(meta) = meta {
            call = call.meta(meta);
        }
        self.shown = fields;
        let mut updates = vec![acp::SessionUpdate::ToolCall(call)];
        updates.extend(self.terminal_end(item_id));
        updates
    }

    /// The call as it is now.
    pub(crate) fn update(
        &mut self,
        item_id: &str,
        call: &ToolCall,
        frame: Frame<'_>,
    ) -> Vec<acp::SessionUpdate> {
        self.call = call.clone();
        if !call.arguments_json.is_empty() {
            self.arguments.clone_from(&call.arguments_json);
        }
        self.send(item_id, frame)
    }

    fn send(&mut self, item_id: &str, frame: Frame<'_>) -> Vec<acp::SessionUpdate> {
        let fields = self.fields(frame);
        let meta = self.terminal_info(item_id, frame);
        let mut changed = changed(&self.shown, &fields);
        if meta.is_some() {
            changed.content = Some(fields.content.clone().unwrap_or_default());
        }
        if let Some(content) = changed.content.take() {
            changed.content = Some(self.with_terminal(item_id, content));
        }
        self.shown = fields;
        self.withheld = false;
        self.output_shown = self.output.len();
        let mut updates = Vec::new();
        if changed != acp::ToolCallUpdateFields::new() || meta.is_some() {
            let mut update = acp::ToolCallUpdate::new(item_id.to_owned(), changed);
            if let Some(meta) = meta {
                update = update.meta(meta);
            }
            updates.push(acp::SessionUpdate::ToolCallUpdate(update));
        }
        updates.extend(self.terminal_end(item_id));
        updates
    }

    /// More of the arguments; shown now and then, so that a long text does not travel again with each of its words.
    pub(crate) fn arguments(&mut self, item_id: &str, text: &str) -> Option<acp::SessionUpdate> {
        self.arguments.push_str(text);
        if self.arguments.len() < FIRST_ARGUMENTS.max(self.arguments_shown * 2) {
            return None;
        }
        let value = partial::complete(&self.arguments)?;
        self.arguments_shown = self.arguments.len();
        if self.shown.raw_input.as_ref() == Some(&value)
            || value.as_object().is_some_and(serde_json::Map::is_empty)
        {
            return None;
        }
        self.shown.raw_input = Some(value.clone());
        let fields = acp::ToolCallUpdateFields::new().raw_input(value);
        Some(acp::SessionUpdate::ToolCallUpdate(acp::ToolCallUpdate::new(item_id.to_owned(), fields)))
    }

    /// More of the output.
    pub(crate) fn output(&mut self, item_id: &str, text: &str, frame: Frame<'_>) -> Vec<acp::SessionUpdate> {
        self.seen_output = true;
        if self.client_terminal.is_some() {
            // The client's own terminal shows it already.
            return Vec::new();
        }
        if self.terminal {
            return vec![terminal_output(item_id, text)];
        }
        self.output.push_str(text);
        if self.output.len() > 2 * MAX_OUTPUT {
            let cut = boundary(&self.output, self.output.len() - MAX_OUTPUT);
            self.output.drain(..cut);
            self.output_shown = self.output_shown.saturating_sub(cut);
        }
        // Each update repeats the whole text: little news waits for more, or for `flush`.
        let news = self.output.len().saturating_sub(self.output_shown);
        if self.output_shown > 2048 && news * 16 < self.output.len() {
            self.withheld = true;
            return Vec::new();
        }
        self.send(item_id, frame)
    }

    /// What `output` held back.
    pub(crate) fn flush(&mut self, item_id: &str, frame: Frame<'_>) -> Vec<acp::SessionUpdate> {
        if self.withheld { self.send(item_id, frame) } else { Vec::new() }
    }

    pub(crate) fn holds_back(&self) -> bool {
        self.withheld
    }

    /// The client runs the command in a terminal of its own.
    pub(crate) fn embed_terminal(
        &mut self,
        item_id: &str,
        terminal_id: &str,
        frame: Frame<'_>,
    ) -> Vec<acp::SessionUpdate> {
        self.client_terminal = Some(terminal_id.to_owned());
        // The content is others now, also where there was none.
        self.shown.content = Some(Vec::new());
        self.send(item_id, frame)
    }

    /// The fields of a call, for a permission request that must speak for itself.
    pub(crate) fn snapshot(call: &ToolCall, frame: Frame<'_>) -> acp::ToolCallUpdateFields {
        let mut fields = Self::new(call).fields(frame);
        fields.status = Some(acp::ToolCallStatus::Pending);
        fields
    }

    fn fields(&self, frame: Frame<'_>) -> acp::ToolCallUpdateFields {
        let call = &self.call;
        let raw_input = raw_input(&self.arguments, self.shown.raw_input.as_ref(), call);
        let locations: Vec<_> = call
            .locations
            .iter()
            .filter_map(|location| {
                let line = location.line.and_then(|line| u32::try_from(line).ok()).filter(|line| *line > 0);
                Some(acp::ToolCallLocation::new(absolute(frame.cwd, &location.path)?).line(line))
            })
            .collect();
        acp::ToolCallUpdateFields::new()
            .title(if call.title.is_empty() { call.name.clone() } else { call.title.clone() })
            .name(non_empty(&call.name))
            .kind(kind(call.kind()))
            .status(status(call))
            .locations((!locations.is_empty()).then_some(locations))
            .content(self.content(raw_input.as_ref(), frame))
            .raw_input(raw_input)
            .raw_output(call.result.as_ref().and_then(raw_output))
    }

    fn content(&self, arguments: Option<&Value>, frame: Frame<'_>) -> Option<Vec<acp::ToolCallContent>> {
        let call = &self.call;
        let mut content: Vec<acp::ToolCallContent> =
            call.content.iter().filter_map(|part| displayed(part, frame.cwd)).collect();
        if let Some(result) = &call.result {
            let has_diff = content.iter().any(|c| matches!(c, acp::ToolCallContent::Diff(_)));
            // A terminal shows what ran in it, not that nobody knows how it ended.
            let in_terminal = self.in_terminal(frame)
                && (self.client_terminal.is_none() || !result.structured_content_json.is_empty());
            if !(has_diff && result.outcome() == ToolOutcome::Ok || in_terminal) {
                content.extend(result.parts.iter().filter_map(|part| displayed(part, frame.cwd)));
            }
            if let Some(text) = failure(call, result, content.is_empty() && result.parts.is_empty()) {
                content.push(text_content(&text));
            }
        } else if !self.output.is_empty() {
            let from = boundary(&self.output, self.output.len().saturating_sub(MAX_OUTPUT));
            content.push(text_content(&fenced("", &self.output[from..])));
        } else if content.is_empty() && !self.in_terminal(frame) {
            content.extend(preview(call, arguments, frame.cwd));
        }
        (!content.is_empty()).then_some(content)
    }

    fn in_terminal(&self, frame: Frame<'_>) -> bool {
        self.client_terminal.is_some()
            || (frame.output == Output::Terminal
                && self.call.kind() == ToolKind::Execute
                && (self.terminal || started(&self.call)))
    }

    /// Puts the terminal before everything else, where there is one.
    fn with_terminal(&self, item_id: &str, content: Vec<acp::ToolCallContent>) -> Vec<acp::ToolCallContent> {
        let id = match &self.client_terminal {
            Some(id) => id.clone(),
            None if self.terminal => item_id.to_owned(),
            None => return content,
        };
        let terminal = acp::ToolCallContent::Terminal(acp::Terminal::new(id));
        std::iter::once(terminal).chain(content).collect()
    }

    /// Announces the terminal once, when the command starts.
    fn terminal_info(&mut self, item_id: &str, frame: Frame<'_>) -> Option<acp::Meta> {
        if self.terminal || self.client_terminal.is_some() || !self.in_terminal(frame) {
            return None;
        }
        self.terminal = true;
        meta(json!({"terminal_info": {"terminal_id": item_id, "cwd": frame.cwd}}))
    }

    /// Output that came with the result alone, and the exit.
    fn terminal_end(&mut self, item_id: &str) -> Vec<acp::SessionUpdate> {
        let (true, Some(result)) = (self.terminal, &self.call.result) else { return Vec::new() };
        let mut updates = Vec::new();
        if !self.seen_output {
            let text: String = result.parts.iter().filter_map(text_of).collect();
            if !text.is_empty() {
                updates.push(terminal_output(item_id, &text));
            }
        }
        let structured: Value = serde_json::from_str(&result.structured_content_json).unwrap_or_default();
        let exit_code = structured.get("exit_code").cloned().unwrap_or_default();
        let signal = structured.get("signal").cloned().unwrap_or_default();
        let exit = json!({"terminal_id": item_id, "exit_code": exit_code, "signal": signal});
        if let Some(meta) = meta(json!({"terminal_exit": exit})) {
            let update = acp::ToolCallUpdate::new(item_id.to_owned(), acp::ToolCallUpdateFields::new());
            updates.push(acp::SessionUpdate::ToolCallUpdate(update.meta(meta)));
        }
        updates
    }
}

fn text_of(part: &Part) -> Option<&str> {
    match &part.body {
        Some(part::Body::Text(text)) => Some(text),
        _ => None,
    }
}

fn meta(value: Value) -> Option<acp::Meta> {
    match value {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

fn terminal_output(item_id: &str, text: &str) -> acp::SessionUpdate {
    let mut update = acp::ToolCallUpdate::new(item_id.to_owned(), acp::ToolCallUpdateFields::new());
    if let Some(meta) = meta(json!({"terminal_output": {"terminal_id": item_id, "data": text}})) {
        update = update.meta(meta);
    }
    acp::SessionUpdate::ToolCallUpdate(update)
}

/// The fields of `now` that differ from `before`.
fn changed(before: &acp::ToolCallUpdateFields, now: &acp::ToolCallUpdateFields) -> acp::ToolCallUpdateFields {
    fn pick<T: PartialEq + Clone>(before: &Option<T>, now: &Option<T>) -> Option<T> {
        if before == now { None } else { now.clone() }
    }
    let mut content = pick(&before.content, &now.content);
    if now.content.is_none() && before.content.is_some() {
        content = Some(Vec::new());
    }
    acp::ToolCallUpdateFields::new()
        .title(pick(&before.title, &now.title))
        .name(pick(&before.name, &now.name))
        .kind(pick(&before.kind, &now.kind))
        .status(pick(&before.status, &now.status))
        .locations(pick(&before.locations, &now.locations))
        .content(content)
        .raw_input(pick(&before.raw_input, &now.raw_input))
        .raw_output(pick(&before.raw_output, &now.raw_output))
}

fn raw_input(arguments: &str, shown: Option<&Value>, call: &ToolCall) -> Option<Value> {
    if arguments.is_empty() {
        return None;
    }
    match serde_json::from_str(arguments) {
        Ok(value) => Some(value),
        // Still streaming: what was shown stays.
        Err(_) if call.status() == ToolCallStatus::StreamingArguments => shown.cloned(),
        Err(_) => Some(Value::String(arguments.to_owned())),
    }
}

fn raw_output(result: &ToolResult) -> Option<Value> {
    if !result.structured_content_json.is_empty() {
        if result.structured_content_json.len() > MAX_RAW {
            return None;
        }
        return serde_json::from_str(&result.structured_content_json).ok();
    }
    let content: Vec<Value> =
        result.parts.iter().filter_map(text_of).map(|text| json!({"type": "text", "text": text})).collect();
    let size: usize = result.parts.iter().filter_map(text_of).map(str::len).sum();
    if content.is_empty() || size > MAX_RAW {
        return None;
    }
    Some(json!({"content": content, "isError": result.is_error}))
}

pub(crate) fn kind(kind: ToolKind) -> acp::ToolKind {
    match kind {
        ToolKind::Read => acp::ToolKind::Read,
        ToolKind::Edit => acp::ToolKind::Edit,
        ToolKind::Delete => acp::ToolKind::Delete,
        ToolKind::Move => acp::ToolKind::Move,
        ToolKind::Search => acp::ToolKind::Search,
        ToolKind::Execute => acp::ToolKind::Execute,
        ToolKind::Think => acp::ToolKind::Think,
        ToolKind::Fetch => acp::ToolKind::Fetch,
        ToolKind::SwitchMode => acp::ToolKind::SwitchMode,
        ToolKind::Other | ToolKind::Unspecified => acp::ToolKind::Other,
    }
}

fn started(call: &ToolCall) -> bool {
    let ran = !matches!(call.status(), ToolCallStatus::Declined | ToolCallStatus::Invalid);
    call.status() == ToolCallStatus::Running || (call.result.is_some() && ran)
}

fn status(call: &ToolCall) -> acp::ToolCallStatus {
    use ToolCallStatus as S;
    match call.status() {
        S::Unspecified | S::StreamingArguments | S::Pending | S::AwaitingApproval => {
            acp::ToolCallStatus::Pending
        }
        S::Running => acp::ToolCallStatus::InProgress,
        S::Completed => acp::ToolCallStatus::Completed,
        S::Declined | S::Invalid | S::Cancelled | S::Failed | S::TimedOut | S::OutcomeUnknown => {
            acp::ToolCallStatus::Failed
        }
    }
}

/// Why a call that gave nothing to read did not succeed.
fn failure(call: &ToolCall, result: &ToolResult, nothing_else: bool) -> Option<String> {
    if let Some(error) = result.error.as_ref().filter(|error| !error.message.is_empty()) {
        return nothing_else.then(|| error.message.clone());
    }
    if !nothing_else {
        return None;
    }
    let text = match call.status() {
        ToolCallStatus::Declined => "The call was refused.",
        ToolCallStatus::Invalid => "The call's arguments were not usable.",
        ToolCallStatus::Cancelled => "The call was cancelled.",
        ToolCallStatus::TimedOut => "The tool did not answer in time.",
        ToolCallStatus::OutcomeUnknown => {
            "The daemon stopped while the tool ran; whether it took effect is not known."
        }
        ToolCallStatus::Failed => "The tool failed.",
        _ => return None,
    };
    Some(text.to_owned())
}

fn text_content(text: &str) -> acp::ToolCallContent {
    acp::ToolCallContent::Content(acp::Content::new(text_block(text)))
}

fn displayed(part: &Part, cwd: &str) -> Option<acp::ToolCallContent> {
    match part.body.as_ref()? {
        part::Body::Diff(diff) => {
            let path = absolute(cwd, &diff.path)?;
            match (&diff.old_text, &diff.new_text, &diff.patch) {
                (None, None, Some(patch)) => Some(text_content(&fenced("diff", patch))),
                (old, new, _) => {
                    let new = new.clone().unwrap_or_default();
                    Some(acp::ToolCallContent::Diff(acp::Diff::new(path, new).old_text(old.clone())))
                }
            }
        }
        // Terminals are put in by their view, which knows who shows them.
        part::Body::Terminal(_) => None,
        _ => blocks(part).map(|block| acp::ToolCallContent::Content(acp::Content::new(block))),
    }
}

/// What a call is about to do, for a person who decides about it: the change of a file, the command.
fn preview(call: &ToolCall, arguments: Option<&Value>, cwd: &str) -> Option<acp::ToolCallContent> {
    let arguments = arguments?.as_object()?;
    let text = |keys: &[&str]| keys.iter().find_map(|key| arguments.get(*key)?.as_str());
    match call.kind() {
        ToolKind::Execute => Some(text_content(&fenced("sh", text(&["command", "cmd"])?))),
        ToolKind::Edit => {
            let path = absolute(cwd, text(&["path", "file_path"])?)?;
            let old = text(&["old_text", "old_string", "old_str", "before"]);
            let new = text(&["new_text", "new_string", "new_str", "after", "content", "file_text"])?;
            let diff = acp::Diff::new(path, new).old_text(old.map(str::to_owned));
            Some(acp::ToolCallContent::Diff(diff))
        }
        _ => None,
    }
}

/// A code block that `text` cannot end early.
pub(crate) fn fenced(language: &str, text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest.max(2) + 1);
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{fence}{language}\n{text}{end}{fence}")
}

/// The first character boundary at or after `at`.
fn boundary(text: &str, at: usize) -> usize {
    (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}
