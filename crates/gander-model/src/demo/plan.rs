//! From a conversation to what the demo provider says next. Pure.

use std::{collections::VecDeque, fmt::Write as _, sync::Arc, time::Duration};

use gander_domain::{Item, ItemBody, ToolCall, content::join_text, item::ToolOutcome, tool::ToolDefinition};
use serde_json::{Value, json};

use super::{
    LABEL, Step,
    command::{Command, parse},
};
use crate::{ModelError, ModelErrorClass, ModelEvent, ModelRequest, ModelStop};

/// Lines of a result that a summary shows.
const SHOWN_LINES: usize = 12;
/// Characters of such a line.
const SHOWN_CHARS: usize = 200;
/// Bytes of one piece of streamed arguments.
const ARGUMENTS_PIECE: usize = 12;

const HELP: &str = "There is no language model behind this conversation: gander answers by fixed rules until you \
    configure one.\n\nTo use a real model:\n  gander config set GOOSE_PROVIDER openai\n  gander config set \
    OPENAI_API_KEY --secret\n(`gander provider list` shows all providers; a local Ollama needs no key.)\n\nWhat the demo \
    understands:\n  list the files here\n  list tools\n  call TOOL {json}\n  parallel TOOL TOOL={json} …\n  say TEXT\n  \
    think TEXT\n  slow N | burst N\n  fail [auth|rate|quota|context|overloaded|network|truncated]\n";

/// The steps of one model call.
pub(super) fn plan(request: &ModelRequest) -> VecDeque<Step> {
    let visible: Vec<&Arc<Item>> = request.items.iter().filter(|item| item.visibility.model).collect();
    let asked = visible.iter().rposition(|item| matches!(item.body, ItemBody::UserMessage(_)));
    let since = &visible[asked.map_or(0, |at| at + 1)..];
    let mut plan = Plan {
        tools: &request.tools,
        calls_before: visible.iter().filter(|item| item.tool_call().is_some()).count(),
        labelled: labelled(&visible, since),
        steps: VecDeque::new(),
        next_call: 0,
    };
    let done: Vec<&ToolCall> = since.iter().filter_map(|item| item.tool_call()).collect();
    if done.is_empty() {
        let message = asked.map(|at| visible[at].text()).unwrap_or_default();
        plan.command(parse(&message));
    } else {
        plan.summary(&done);
    }
    plan.steps
}

/// Whether this turn has its label already.
fn labelled(visible: &[&Arc<Item>], since: &[&Arc<Item>]) -> bool {
    let turn = visible.last().and_then(|item| item.turn_id.as_ref());
    let says = |item: &Item| matches!(item.body, ItemBody::AgentMessage(_)) && item.text().contains(LABEL);
    match turn {
        Some(turn) => visible.iter().any(|item| item.turn_id.as_ref() == Some(turn) && says(item)),
        None => since.iter().any(|item| says(item)),
    }
}

struct Plan<'a> {
    tools: &'a [ToolDefinition],
    calls_before: usize,
    labelled: bool,
    steps: VecDeque<Step>,
    next_call: u32,
}

impl Plan<'_> {
    fn event(&mut self, event: ModelEvent) {
        self.steps.push_back(Step::Event(event));
    }

    /// Streams text word by word, behind the label if this turn has none yet.
    fn say(&mut self, text: &str) {
        if !self.labelled {
            self.labelled = true;
            self.event(ModelEvent::TextDelta(format!("{LABEL} ")));
        }
        for piece in text.split_inclusive(char::is_whitespace) {
            self.event(ModelEvent::TextDelta(piece.to_owned()));
        }
    }

    fn finish(&mut self, stop: ModelStop) {
        self.steps.push_back(Step::Finish(stop));
    }

    fn answer(&mut self, text: &str) {
        self.say(text);
        self.finish(ModelStop::EndTurn);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Help => self.answer(HELP),
            Command::Say(text) => self.answer(&text),
            Command::ListTools => {
                let text = self.tool_list();
                self.answer(&text);
            }
            Command::ListFiles => self.list_files(),
            Command::Call(tool, arguments) => self.calls(vec![(tool, arguments)]),
            Command::Parallel(calls) => self.calls(calls),
            Command::Tokens { count, slow } => {
                self.say("");
                self.steps.push_back(Step::Tokens { next: 1, last: count, slow });
                self.finish(ModelStop::EndTurn);
            }
            Command::Think(about) => {
                let about = if about.is_empty() { "what was asked".to_owned() } else { about };
                let thought = format!("Thinking about {about}: this is a rule, not a thought.");
                for piece in thought.split_inclusive(' ') {
                    self.event(ModelEvent::ThoughtDelta(piece.to_owned()));
                }
                self.event(ModelEvent::ThoughtCompleted {
                    signature: None,
                    redacted_data: None,
                    provider_state_json: None,
                });
                self.answer(&format!("I thought about {about}."));
            }
            Command::Fail(class) => self.fail(class),
        }
    }

    fn fail(&mut self, class: ModelErrorClass) {
        if class == ModelErrorClass::Truncated {
            self.say("This reply will be cut off in the mid");
        }
        let mut error = ModelError::new(class, format!("the demo provider was asked to fail ({class:?})"));
        match class {
            ModelErrorClass::Auth => error.status = Some(401),
            ModelErrorClass::RateLimited => {
                error.status = Some(429);
                error.retry_after = Some(Duration::from_secs(1));
            }
            ModelErrorClass::QuotaExhausted => error.status = Some(402),
            ModelErrorClass::ContextExceeded => error.status = Some(400),
            ModelErrorClass::Overloaded => error.status = Some(503),
            ModelErrorClass::Server => error.status = Some(500),
            _ => {}
        }
        self.steps.push_back(Step::Fail(error));
    }

    fn find(&self, name: &str) -> Option<&ToolDefinition> {
        let exact = self.tools.iter().find(|tool| tool.name == name);
        exact.or_else(|| self.tools.iter().find(|tool| tool.name.rsplit("__").next() == Some(name)))
    }

    fn tool_list(&self) -> String {
        if self.tools.is_empty() {
            return "No tools are available in this session.".to_owned();
        }
        let mut text = format!("{} tools are available:\n", self.tools.len());
        for tool in self.tools {
            let first = tool.description.lines().next().unwrap_or_default();
            let _ = writeln!(text, "  {}  {}", tool.name, clip(first, 80));
        }
        text
    }

    fn list_files(&mut self) {
        let call = match (self.find("list"), self.find("shell")) {
            (Some(tool), _) => (tool.name.clone(), directory_arguments(tool)),
            (None, Some(shell)) => (shell.name.clone(), json!({ "command": "ls -la" }).to_string()),
            (None, None) => {
                let text = "No tool of this session can list files: enable the developer extension.";
                return self.answer(text);
            }
        };
        self.calls(vec![call]);
    }

    fn calls(&mut self, calls: Vec<(String, String)>) {
        let missing: Vec<&str> = calls
            .iter()
            .filter(|(tool, _)| self.find(tool).is_none())
            .map(|(tool, _)| tool.as_str())
            .collect();
        if !missing.is_empty() {
            let text = format!("There is no tool {}.\n{}", missing.join(", "), self.tool_list());
            return self.answer(&text);
        }
        let calls: Vec<(String, String)> = calls
            .into_iter()
            .filter_map(|(tool, arguments)| Some((self.find(&tool)?.name.clone(), arguments)))
            .collect();
        let names: Vec<&str> = calls.iter().map(|(name, _)| name.as_str()).collect();
        let text = format!("I will call {}.", names.join(" and "));
        self.say(&text);
        for (name, arguments) in calls {
            self.call(name, &arguments);
        }
        self.finish(ModelStop::ToolCalls);
    }

    fn call(&mut self, name: String, arguments: &str) {
        let index = self.next_call;
        self.next_call += 1;
        let call_id = format!("demo_{}", self.calls_before + index as usize + 1);
        self.event(ModelEvent::ToolCallStarted { index, call_id: call_id.clone(), name: name.clone() });
        let mut rest = arguments;
        while !rest.is_empty() {
            let mut end = rest.len().min(ARGUMENTS_PIECE);
            while !rest.is_char_boundary(end) {
                end += 1;
            }
            let (piece, tail) = rest.split_at(end);
            self.event(ModelEvent::ToolArgumentsDelta { index, text: piece.to_owned() });
            rest = tail;
        }
        let (arguments_json, invalid_arguments) = crate::wire::finish_arguments(arguments);
        self.event(ModelEvent::ToolCallCompleted {
            index,
            call_id,
            name,
            arguments_json,
            invalid_arguments,
            provider_state_json: None,
        });
    }

    /// Says what the calls of this turn gave.
    fn summary(&mut self, calls: &[&ToolCall]) {
        let texts: Vec<String> = calls.iter().map(|call| summary(call)).collect();
        self.answer(&texts.join("\n"));
    }
}

fn summary(call: &ToolCall) -> String {
    let Some(result) = &call.result else {
        return format!("{} gave no result.", call.name);
    };
    let text = join_text(&result.parts);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let what = match result.outcome {
        ToolOutcome::Ok if result.is_error => "reported an error",
        ToolOutcome::Ok => "returned",
        ToolOutcome::ToolError => "reported an error",
        ToolOutcome::Declined => "was declined",
        ToolOutcome::Cancelled => "was cancelled",
        ToolOutcome::TimedOut => "timed out",
        ToolOutcome::InvalidArguments => "was not run, its arguments are not valid",
        ToolOutcome::ProtocolError => "could not be called",
        ToolOutcome::OutcomeUnknown => "was interrupted; its outcome is unknown",
    };
    let plural = if lines.len() == 1 { "" } else { "s" };
    let mut out = format!("{} {what} ({} line{plural})", call.name, lines.len());
    out.push_str(if lines.is_empty() { "." } else { ":\n" });
    for line in lines.iter().take(SHOWN_LINES) {
        let _ = writeln!(out, "  {}", clip(line, SHOWN_CHARS));
    }
    if lines.len() > SHOWN_LINES {
        let _ = writeln!(out, "  … and {} more", lines.len() - SHOWN_LINES);
    }
    out
}

/// `{"path": "."}` under the name that the tool's schema requires, else nothing.
fn directory_arguments(tool: &ToolDefinition) -> String {
    let schema: Value = serde_json::from_str(&tool.input_schema_json).unwrap_or_default();
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let fields: serde_json::Map<String, Value> = required
        .filter_map(Value::as_str)
        .filter(|name| ["path", "directory", "dir"].contains(name))
        .map(|name| (name.to_owned(), Value::from(".")))
        .collect();
    Value::Object(fields).to_string()
}

fn clip(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
