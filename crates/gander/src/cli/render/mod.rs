//! Events as text for people: pure, one event in, pieces of text out.
//!
//! Pieces are of two kinds: the answer (stdout) and everything else, called chrome (stderr). With both on one
//! terminal the renderer keeps them apart by line ends and blank lines; else the answer stays byte for byte what the
//! model said, messages apart by a blank line.

mod summary;
#[cfg(test)]
mod tests;
mod tool;

use std::{collections::HashMap, time::Duration};

use gander_proto::v1::{
    AgentMessage, Cost, Interaction, InteractionOutcome, InteractionResolved, Item, Notice, NoticeLevel,
    Part, Plan, PlanStatus, SessionEvent, Turn, Usage, UserMessage, interaction::Question, item, part,
    session_event::Payload,
};

use self::{
    summary::{add_usage, ending, summary},
    tool::ToolView,
};
use super::output::{Cleaner, Output, Tint, clean, human_duration, human_number, one_line, paint};

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// What the model says.
    Answer(String),
    /// Everything else.
    Chrome(String),
}

/// How to show things.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) width: usize,
    pub(super) color: bool,
    /// Answer and chrome go to the same terminal.
    pub(super) joint: bool,
    /// The answer goes to a terminal: take control characters out.
    pub(super) clean_answer: bool,
    pub(super) quiet: bool,
    pub(super) verbose: bool,
    /// Most lines of a tool's output, per call.
    pub(super) output_lines: usize,
}

impl Options {
    pub(super) fn new(out: &Output) -> Self {
        Self {
            width: out.width,
            color: out.stderr_color,
            joint: out.stdout_is_terminal && out.stderr_is_terminal,
            clean_answer: out.stdout_is_terminal,
            quiet: out.quiet,
            verbose: out.verbose > 0,
            output_lines: if out.verbose > 0 { 10_000 } else { 40 },
        }
    }
}

/// What was printed last: decides about blank lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Nothing,
    Answer,
    Thought,
    Tool,
    Note,
}

/// A text that grows: what of it was printed.
#[derive(Default)]
struct Growing {
    /// As it came.
    raw: String,
    part_index: i32,
    cleaner: Cleaner,
}

/// Shows the events of one session, in order.
pub(super) struct Renderer {
    options: Options,
    pieces: Vec<Piece>,
    texts: HashMap<String, Growing>,
    tools: HashMap<String, ToolView>,
    last_tool: String,
    tool_count: usize,
    block: Block,
    /// Whether the answer's last line has no end yet.
    answer_open: bool,
    /// The same of the chrome.
    chrome_open: bool,
    /// A message was printed, so that the next one needs a blank line between.
    answered: bool,
    cost: Option<Cost>,
    usage: Usage,
}

impl Renderer {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            pieces: Vec::new(),
            texts: HashMap::new(),
            tools: HashMap::new(),
            last_tool: String::new(),
            tool_count: 0,
            block: Block::Nothing,
            answer_open: false,
            chrome_open: false,
            answered: false,
            cost: None,
            usage: Usage::default(),
        }
    }

    /// What an event adds to the output.
    pub(super) fn event(&mut self, event: &SessionEvent) -> Vec<Piece> {
        match &event.payload {
            Some(payload) => self.payload(payload),
            None if event.ignorable => {}
            None => self.note(
                Tint::Yellow,
                &format!(
                    "event {} is of a kind that this version does not know; a newer gander shows it",
                    event.sequence
                ),
            ),
        }
        std::mem::take(&mut self.pieces)
    }

    /// A completed item of a stored conversation.
    pub(super) fn item(&mut self, item: &Item) -> Vec<Piece> {
        if let Some(item::Body::UserMessage(message)) = &item.body {
            self.user_message(message);
        } else {
            self.completed(item);
        }
        std::mem::take(&mut self.pieces)
    }

    /// A remark in the flow of the output.
    pub(super) fn remark(&mut self, text: &str) -> Vec<Piece> {
        self.note(Tint::Dim, text);
        std::mem::take(&mut self.pieces)
    }

    fn payload(&mut self, payload: &Payload) {
        match payload {
            Payload::TextDelta(delta) => self.text(&delta.item_id, delta.part_index, &delta.text),
            Payload::ThoughtDelta(delta) => self.thought(&delta.item_id, &delta.text),
            Payload::ItemStarted(event) => self.tool_item(event.item.as_ref()),
            Payload::ItemCompleted(event) => {
                if let Some(item) = &event.item {
                    self.completed(item);
                }
            }
            Payload::ToolCallUpdated(event) => {
                if let Some(call) = &event.tool_call {
                    self.tool_call(&event.item_id, call);
                }
            }
            Payload::ToolOutputDelta(delta) => self.tool_output(&delta.item_id, &delta.text),
            Payload::ToolProgress(progress) => self.tool_progress(progress),
            Payload::InteractionRequested(event) => {
                if let Some(interaction) = &event.interaction {
                    self.question(interaction);
                }
            }
            Payload::TurnQueued(event) => {
                let position = event.turn.as_ref().and_then(|turn| turn.queue_position).unwrap_or(0);
                self.note(
                    Tint::Dim,
                    &format!("waiting for the turn before (place {} in the queue)", position + 1),
                );
            }
            Payload::ModelRetryScheduled(event) => {
                let message = event.error.as_ref().map_or("", |error| error.message.as_str());
                let delay = event.delay.and_then(|delay| Duration::try_from(delay).ok()).unwrap_or_default();
                let text = format!(
                    "the model failed ({}); attempt {} in {}",
                    one_line(message, 200),
                    event.attempt,
                    human_duration(delay)
                );
                self.note(Tint::Yellow, &text);
            }
            Payload::UsageReported(event) => {
                self.add_cost(event.cost.as_ref());
                if let Some(call) = &event.call {
                    add_usage(&mut self.usage, call);
                }
            }
            Payload::StatusNoted(status) if self.options.verbose => {
                self.note(Tint::Dim, &one_line(&status.text, self.options.width));
            }
            Payload::PlanUpdated(event) => {
                if let Some(plan) = &event.plan {
                    self.plan(plan);
                }
            }
            Payload::ExtensionStateChanged(event) => {
                if let (Some(extension), Some(error)) = (&event.extension, &event.error) {
                    let text = format!("extension {}: {}", clean(&extension.name), clean(&error.message));
                    self.note(Tint::Yellow, &text);
                }
            }
            // What the daemon itself has to say about an extension; servers say more than anybody wants to read.
            Payload::ExtensionNotification(event) if event.logger == "gander" => {
                let data: serde_json::Value = serde_json::from_str(&event.data_json).unwrap_or_default();
                if let Some(message) = data.get("message").and_then(serde_json::Value::as_str) {
                    let text = format!("extension {}: {}", clean(&event.extension_name), clean(message));
                    self.note(Tint::Yellow, &text);
                }
            }
            _ => {}
        }
    }

    // Texts of the model.

    fn text(&mut self, item_id: &str, part_index: i32, delta: &str) {
        let known = self.texts.remove(item_id);
        match &known {
            None => self.begin_answer(),
            // Something else was shown in between.
            Some(_) if self.options.joint && self.block != Block::Answer => self.begin(Block::Answer),
            Some(_) => self.close_chrome(),
        }
        let mut growing = known.unwrap_or_default();
        let mut text = String::new();
        if part_index != growing.part_index {
            growing.part_index = part_index;
            text.push('\n');
            growing.raw.push('\n');
        }
        text.push_str(delta);
        growing.raw.push_str(delta);
        let text = if self.options.clean_answer { growing.cleaner.push(&text) } else { text };
        self.texts.insert(item_id.to_owned(), growing);
        self.answer(&text);
    }

    fn begin_answer(&mut self) {
        if self.options.joint {
            self.begin(Block::Answer);
            if self.block == Block::Answer && self.answered {
                self.chrome("\n");
            }
        } else {
            self.close_chrome();
            if self.answered {
                self.answer("\n");
            }
        }
        self.block = Block::Answer;
        self.answered = true;
    }

    fn agent_message(&mut self, item: &Item, message: &AgentMessage) {
        let whole = join(&message.parts);
        let shown = self.texts.remove(&item.item_id).unwrap_or_default();
        let rest = match whole.strip_prefix(shown.raw.as_str()) {
            Some(rest) => rest.to_owned(),
            None => {
                // The completed text counts, for example when something in it was hidden.
                self.note(
                    Tint::Yellow,
                    "the message was changed when it was complete; this is how it stays:",
                );
                whole
            }
        };
        if shown.raw.is_empty() && rest.is_empty() {
            return;
        }
        if shown.raw.is_empty() {
            self.begin_answer();
        }
        let mut cleaner = shown.cleaner;
        let rest = if self.options.clean_answer { cleaner.push(&rest) } else { rest };
        self.answer(&rest);
        if self.answer_open {
            self.answer("\n");
        }
        if item.incomplete {
            self.note(Tint::Dim, "(the message was cut off here)");
        }
    }

    fn thought(&mut self, item_id: &str, delta: &str) {
        if self.options.quiet {
            return;
        }
        let first = !self.texts.contains_key(item_id);
        if first {
            self.begin(Block::Thought);
            self.chrome_tinted(Tint::Dim, "thinking: ");
        }
        let growing = self.texts.entry(item_id.to_owned()).or_default();
        growing.raw.push_str(delta);
        let text = growing.cleaner.push(delta);
        self.chrome_tinted(Tint::Dim, &text);
    }

    fn completed(&mut self, item: &Item) {
        match &item.body {
            Some(item::Body::AgentMessage(message)) => self.agent_message(item, message),
            Some(item::Body::Thought(thought)) => {
                let shown = self.texts.get(&item.item_id).map_or("", |growing| growing.raw.as_str());
                if let Some(rest) = thought.text.strip_prefix(shown).map(str::to_owned)
                    && !rest.is_empty()
                {
                    self.thought(&item.item_id, &rest);
                }
                self.texts.remove(&item.item_id);
                self.close_chrome();
            }
            Some(item::Body::ToolCall(_)) => self.tool_item(Some(item)),
            Some(item::Body::Notice(notice)) => self.notice(notice),
            Some(item::Body::Compaction(_)) => {
                self.note(
                    Tint::Dim,
                    "older messages were summarized for the model; they stay in the session",
                );
            }
            // What the caller said is not told again.
            Some(item::Body::UserMessage(_)) => {}
            None if item.redacted => self.note(Tint::Dim, "(redacted)"),
            None => {}
        }
    }

    fn user_message(&mut self, message: &UserMessage) {
        self.begin(Block::Note);
        let text = clean(&join(&message.parts));
        for (number, line) in text.lines().enumerate() {
            let mark = if number == 0 { "›" } else { " " };
            self.chrome_tinted(Tint::Bold, &format!("{mark} {line}"));
            self.chrome("\n");
        }
    }

    // Remarks.

    fn notice(&mut self, notice: &Notice) {
        let (tint, word) = match notice.level() {
            NoticeLevel::Error => (Tint::Red, "error"),
            NoticeLevel::Warning => (Tint::Yellow, "warning"),
            NoticeLevel::Info | NoticeLevel::Unspecified => (Tint::Dim, "note"),
        };
        self.note(tint, &format!("{word}: {}", clean(&notice.text)));
    }

    fn plan(&mut self, plan: &Plan) {
        if plan.entries.is_empty() || self.options.quiet {
            return;
        }
        self.begin(Block::Note);
        self.chrome("plan\n");
        for entry in &plan.entries {
            let (mark, tint) = match entry.status() {
                PlanStatus::Completed => ("✓", Tint::Green),
                PlanStatus::InProgress => ("▸", Tint::Cyan),
                PlanStatus::Pending | PlanStatus::Unspecified => ("·", Tint::Dim),
            };
            let line = format!("  {mark} {}", one_line(&entry.content, self.options.width.saturating_sub(4)));
            self.chrome_tinted(tint, &line);
            self.chrome("\n");
        }
    }

    fn question(&mut self, interaction: &Interaction) {
        match &interaction.question {
            Some(Question::Permission(question)) => {
                let Some(call) = &question.tool_call else { return };
                self.tool_preview(&interaction.item_id, call, &question.prompt);
            }
            Some(Question::ElicitForm(form)) => {
                let from =
                    if form.extension_name.is_empty() { "gander" } else { form.extension_name.as_str() };
                self.forced_note(Tint::Bold, &format!("{} asks: {}", clean(from), clean(&form.message)));
            }
            Some(Question::OpenUrl(url)) => {
                let message =
                    if url.message.is_empty() { "a page is to be opened in a browser" } else { &url.message };
                self.forced_note(Tint::Bold, &format!("{}\n  {}", clean(message), clean(&url.url)));
            }
            Some(Question::Sampling(sampling)) => {
                let text = format!("extension {} wants to ask the model:", clean(&sampling.extension_name));
                self.forced_note(Tint::Bold, &text);
                for message in &sampling.messages {
                    let line = one_line(&join(&message.parts), self.options.width.saturating_sub(4));
                    self.chrome_tinted(Tint::Dim, &format!("  {line}"));
                    self.chrome("\n");
                }
            }
            None => {
                self.forced_note(
                    Tint::Yellow,
                    "a question of a kind that this version does not know is open",
                );
            }
        }
    }

    /// How a question was settled by others. The own answer needs no remark.
    pub(super) fn resolved_elsewhere(&mut self, event: &InteractionResolved) -> Vec<Piece> {
        let text = match event.outcome() {
            InteractionOutcome::Answered => {
                let by = event.answered_by.as_ref().map(|actor| match actor.client_name.as_str() {
                    "" => actor.principal.clone(),
                    name => name.to_owned(),
                });
                format!("answered by {}", one_line(&by.unwrap_or_else(|| "another client".to_owned()), 60))
            }
            InteractionOutcome::Expired => "nobody answered in time, which counts as no".to_owned(),
            InteractionOutcome::Withdrawn => "the question was taken back".to_owned(),
            InteractionOutcome::Voided | InteractionOutcome::Unspecified => {
                "the question is void: its turn has ended".to_owned()
            }
        };
        self.close_chrome();
        self.chrome_tinted(Tint::Dim, &format!("  ({text})"));
        self.chrome("\n");
        std::mem::take(&mut self.pieces)
    }

    /// The last lines: how the turn ended, what it used.
    pub(super) fn end(&mut self, turn: &Turn) -> Vec<Piece> {
        if let Some((tint, text)) = ending(turn) {
            self.note(tint, &text);
        }
        if !self.options.quiet {
            let line = summary(turn, &self.usage, self.cost.as_ref());
            if !line.is_empty() {
                self.begin(Block::Note);
                self.chrome_tinted(Tint::Dim, &line);
                self.chrome("\n");
            }
        }
        std::mem::take(&mut self.pieces)
    }

    /// Whether the next text begins a line, as far as the renderer knows.
    pub(super) fn at_line_start(&self) -> bool {
        !(self.chrome_open || self.answer_open && self.options.joint)
    }

    /// Ends an open line, for example before leaving.
    pub(super) fn finish_line(&mut self) -> Vec<Piece> {
        if self.answer_open {
            self.answer("\n");
        }
        self.close_chrome();
        std::mem::take(&mut self.pieces)
    }

    fn add_cost(&mut self, cost: Option<&Cost>) {
        let Some(cost) = cost else { return };
        match &mut self.cost {
            Some(sum) if sum.currency == cost.currency => {
                sum.amount_micros = sum.amount_micros.saturating_add(cost.amount_micros);
            }
            Some(_) => {}
            None => self.cost = Some(cost.clone()),
        }
    }

    // The flow of lines.

    fn note(&mut self, tint: Tint, text: &str) {
        if self.options.quiet && tint == Tint::Dim {
            return;
        }
        self.forced_note(tint, text);
    }

    fn forced_note(&mut self, tint: Tint, text: &str) {
        self.begin(Block::Note);
        self.chrome_tinted(tint, text);
        self.chrome("\n");
    }

    /// Starts a block of chrome (or, on a terminal, of the answer) on a fresh line.
    fn begin(&mut self, block: Block) {
        self.close_chrome();
        if self.options.joint {
            if self.answer_open {
                self.chrome("\n");
                self.answer_open = false;
            }
            if self.block != block && self.block != Block::Nothing {
                self.chrome("\n");
                if block == Block::Answer {
                    self.answered = false;
                }
            }
        }
        self.block = block;
    }

    fn close_chrome(&mut self) {
        if self.chrome_open {
            self.chrome("\n");
        }
    }

    fn answer(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.answer_open = !text.ends_with('\n');
        match self.pieces.last_mut() {
            Some(Piece::Answer(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Answer(text.to_owned())),
        }
    }

    fn chrome(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.chrome_open = !text.ends_with('\n');
        match self.pieces.last_mut() {
            Some(Piece::Chrome(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Chrome(text.to_owned())),
        }
    }

    fn chrome_tinted(&mut self, tint: Tint, text: &str) {
        let painted = paint(self.options.color, tint, text);
        self.chrome(&painted);
    }
}

/// The texts of parts; other parts are named.
pub(super) fn join(parts: &[Part]) -> String {
    let texts: Vec<String> = parts.iter().filter_map(part_text).collect();
    texts.join("\n")
}

fn part_text(part: &Part) -> Option<String> {
    Some(match part.body.as_ref()? {
        part::Body::Text(text) => text.clone(),
        part::Body::Image(media) => format!("[image {}]", media.mime_type),
        part::Body::Audio(media) => format!("[audio {}]", media.mime_type),
        part::Body::Resource(resource) => match &resource.contents {
            Some(gander_proto::v1::resource_contents::Contents::Text(text)) => text.clone(),
            _ => format!("[resource {}]", resource.uri),
        },
        part::Body::ResourceLink(link) => format!("[link {} {}]", link.name, link.uri),
        part::Body::Diff(diff) => format!("[change of {}]", diff.path),
        part::Body::Terminal(terminal) => format!("[terminal {}]", terminal.terminal_id),
        part::Body::TextContentId(_) => format!("[a text of {} bytes]", human_number(part.size_bytes)),
        part::Body::Unknown(unknown) => format!("[{}]", unknown.kind),
    })
}
