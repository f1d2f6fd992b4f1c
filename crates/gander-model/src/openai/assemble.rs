//! Makes model events of the frames of an OpenAI chat stream.
//!
//! Invariants: a call is known by its provider id first and its index second, so that gateways which leave out, repeat
//! or reuse either lose nothing; fragments are joined verbatim and parsed once at the end; the reply is complete only
//! when a finish reason came *and* the stream ended cleanly. Every amount that the server chooses is bounded.

use std::collections::VecDeque;

use gander_domain::{
    Usage,
    usage::{Cost, CostSource},
};
use serde_json::{Value, json};

use super::chunk::{CallPart, Choice, Chunk, Delta, Parsed, WireUsage, parse};
use crate::{
    ModelError, ModelErrorClass, ModelEvent, ModelStop,
    wire::{
        MAX_ARGUMENTS, MAX_CALLS, MAX_TEXT, ReplyDecoder, Step, context_exceeded, finish_arguments, garbage,
        minted_id, too_large, truncated,
    },
};

/// Name of this engine in stored states.
pub(crate) const ENGINE: &str = "openai_chat";

#[derive(Debug)]
struct OpenCall {
    id: String,
    /// The provider's own id, which it may have given to more than one call.
    wire_id: Option<String>,
    minted: bool,
    wire_index: Option<u64>,
    name: String,
    arguments: String,
    extra: Option<Value>,
    /// Index of the call among the events; absent while it is held back.
    shown: Option<u32>,
}

impl OpenCall {
    /// Whether the arguments are a whole JSON value already.
    fn is_whole(&self) -> bool {
        !self.arguments.trim().is_empty()
            && serde_json::from_str::<serde::de::IgnoredAny>(&self.arguments).is_ok()
    }
}

#[derive(Debug, Default)]
struct Thinking {
    text: String,
    field: Option<&'static str>,
    details: Vec<Value>,
}

/// The state of one response.
#[derive(Debug)]
pub(crate) struct Assembler {
    provider_id: String,
    events: VecDeque<ModelEvent>,
    calls: Vec<OpenCall>,
    next_shown: u32,
    thinking: Option<Thinking>,
    text_bytes: usize,
    usage: Option<WireUsage>,
    finish: Option<String>,
    model: Option<String>,
}

impl Assembler {
    pub(crate) fn new(provider_id: &str) -> Self {
        Self {
            provider_id: provider_id.to_owned(),
            events: VecDeque::new(),
            calls: Vec::new(),
            next_shown: 0,
            thinking: None,
            text_bytes: 0,
            usage: None,
            finish: None,
            model: None,
        }
    }

    fn chunk(&mut self, chunk: Chunk<'_>) -> Step {
        if self.model.is_none()
            && let Some(model) = chunk.model
            && !model.0.is_empty()
        {
            self.model = Some(model.0.into_owned());
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage);
        }
        // With `n` > 1 candidates interleave; the first is the reply.
        let choice = chunk.choices.into_iter().flatten().find(|choice| choice.index.is_none_or(|i| i == 0));
        match choice {
            Some(choice) => self.choice(choice),
            None => Step::More,
        }
    }

    fn choice(&mut self, choice: Choice<'_>) -> Step {
        if let Some(usage) = choice.usage {
            self.usage = Some(usage);
        }
        if let Some(delta) = choice.delta.or(choice.message)
            && let Err(error) = self.delta(delta)
        {
            return Step::Broken(error);
        }
        if let Some(reason) = choice.finish_reason
            && !reason.0.is_empty()
        {
            self.finish = Some(reason.0.into_owned());
        }
        Step::More
    }

    fn delta(&mut self, delta: Delta<'_>) -> Result<(), ModelError> {
        let content = delta.content.unwrap_or_default();
        let thought = [
            ("reasoning_content", delta.reasoning_content.or(content.thought)),
            ("reasoning", delta.reasoning),
            ("reasoning_text", delta.reasoning_text),
        ]
        .into_iter()
        .find_map(|(field, text)| text.filter(|text| !text.0.is_empty()).map(|text| (field, text)));
        if let Some((field, text)) = thought {
            self.count(text.0.len())?;
            let thinking = self.thinking.get_or_insert_with(Thinking::default);
            thinking.field.get_or_insert(field);
            thinking.text.push_str(&text.0);
            self.events.push_back(ModelEvent::ThoughtDelta(text.0.into_owned()));
        }
        if let Some(details) = delta.reasoning_details.filter(|details| !details.is_empty()) {
            self.count(details.iter().map(|detail| detail.to_string().len()).sum())?;
            let thinking = self.thinking.get_or_insert_with(Thinking::default);
            for detail in details {
                merge_detail(&mut thinking.details, detail);
            }
        }
        let said = content.said.filter(|text| !text.0.is_empty());
        let said = said.or(delta.refusal.filter(|text| !text.0.is_empty()));
        if let Some(text) = said {
            self.count(text.0.len())?;
            self.end_thought();
            self.events.push_back(ModelEvent::TextDelta(text.0.into_owned()));
        }
        for part in delta.tool_calls.into_iter().flatten() {
            self.end_thought();
            self.call_part(part)?;
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<(), ModelError> {
        self.text_bytes += bytes;
        if self.text_bytes > MAX_TEXT { Err(too_large("text", MAX_TEXT)) } else { Ok(()) }
    }

    fn end_thought(&mut self) {
        let Some(thinking) = self.thinking.take() else { return };
        let mut replay = serde_json::Map::new();
        if let Some(field) = thinking.field {
            replay.insert(field.to_owned(), Value::String(thinking.text));
        }
        if !thinking.details.is_empty() {
            replay.insert("reasoning_details".to_owned(), Value::Array(thinking.details));
        }
        self.events.push_back(ModelEvent::ThoughtCompleted {
            signature: None,
            redacted_data: None,
            provider_state_json: Some(self.state(&Value::Object(replay))),
        });
    }

    fn state(&self, item: &Value) -> String {
        json!({ "engine": ENGINE, "version": 1, "provider": self.provider_id, "item": item }).to_string()
    }

    fn call_part(&mut self, part: CallPart<'_>) -> Result<(), ModelError> {
        let function = part.function.unwrap_or_default();
        let id = part.id.map(|id| id.0).filter(|id| !id.is_empty() && id != "null");
        let name = function.name.map(|name| name.0).filter(|name| !name.is_empty());
        let arguments = function.arguments.map(|text| text.0).unwrap_or_default();
        let at = match self.find(part.index, id.as_deref(), name.is_some(), &arguments) {
            Some(at) => at,
            // Nothing that could be a call.
            None if id.is_none() && name.is_none() && arguments.is_empty() => return Ok(()),
            None => self.open(part.index, id.as_deref())?,
        };
        let call = &mut self.calls[at];
        let announced_again = name.as_deref().is_some_and(|name| name == call.name)
            && !arguments.is_empty()
            && arguments == call.arguments
            && call.is_whole();
        if let Some(extra) = part.extra_content {
            call.extra = Some(extra);
        }
        if announced_again {
            return Ok(());
        }
        if call.name.is_empty()
            && let Some(name) = name
        {
            call.name = name.into_owned();
        }
        if call.arguments.len() + arguments.len() > MAX_ARGUMENTS {
            return Err(too_large("arguments of a tool call", MAX_ARGUMENTS));
        }
        call.arguments.push_str(&arguments);
        self.show(at, &arguments);
        Ok(())
    }

    /// The open call that a fragment belongs to.
    fn find(&self, index: Option<u64>, id: Option<&str>, named: bool, arguments: &str) -> Option<usize> {
        if let Some(id) = id {
            let named_so = |call: &OpenCall| call.wire_id.as_deref() == Some(id);
            let here = |call: &OpenCall| index.is_none() || call.wire_index == index;
            let same = self.calls.iter().rposition(|call| named_so(call) && here(call));
            if let Some(at) = same.or_else(|| self.calls.iter().rposition(named_so)) {
                let call = &self.calls[at];
                // An id that was given to two calls: the second begins elsewhere, when the first is whole.
                let elsewhere = index.is_some() && call.wire_index.is_some() && call.wire_index != index;
                let another = elsewhere && named && call.is_whole() && arguments != call.arguments;
                return (!another).then_some(at);
            }
            // A call that was opened without an id, and whose id comes late, is known by its index.
            let at = self.calls.iter().rposition(|call| index.is_some() && call.wire_index == index)?;
            return (self.calls[at].minted && !self.calls[at].is_whole() && !named).then_some(at);
        }
        let starts = named || !arguments.is_empty();
        let at = match index {
            Some(_) => self.calls.iter().rposition(|call| call.wire_index == index)?,
            None => self.calls.len().checked_sub(1)?,
        };
        let call = &self.calls[at];
        let another = match index {
            Some(_) => named && call.is_whole() && !arguments.is_empty() && arguments != call.arguments,
            None => starts && call.is_whole(),
        };
        (!another).then_some(at)
    }

    fn open(&mut self, wire_index: Option<u64>, id: Option<&str>) -> Result<usize, ModelError> {
        if self.calls.len() >= MAX_CALLS {
            return Err(too_large("number of tool calls", MAX_CALLS));
        }
        let own = id.filter(|id| self.calls.iter().all(|call| call.id != *id));
        self.calls.push(OpenCall {
            id: own.map_or_else(minted_id, str::to_owned),
            wire_id: id.map(str::to_owned),
            minted: own.is_none(),
            wire_index,
            name: String::new(),
            arguments: String::new(),
            extra: None,
            shown: None,
        });
        Ok(self.calls.len() - 1)
    }

    /// Streams a call as soon as its name is known. A later call without an id of the provider waits for the end: it may
    /// be the announcement of an earlier one under another index.
    fn show(&mut self, at: usize, fragment: &str) {
        let call = &mut self.calls[at];
        if call.name.is_empty() || (call.minted && at > 0) {
            return;
        }
        let (index, text) = match call.shown {
            Some(index) => (index, fragment.to_owned()),
            None => {
                let index = self.next_shown;
                self.next_shown += 1;
                call.shown = Some(index);
                self.events.push_back(ModelEvent::ToolCallStarted {
                    index,
                    call_id: call.id.clone(),
                    name: call.name.clone(),
                });
                (index, call.arguments.clone())
            }
        };
        if !text.is_empty() {
            self.events.push_back(ModelEvent::ToolArgumentsDelta { index, text });
        }
    }

    /// Completes the calls in order; returns how many there are.
    fn end_calls(&mut self) -> usize {
        let mut calls = std::mem::take(&mut self.calls);
        let mut kept: Vec<(String, String)> = Vec::with_capacity(calls.len());
        // Calls that were shown keep their numbers; those held back come after them.
        calls.sort_by_key(|call| call.shown.unwrap_or(u32::MAX));
        for call in calls {
            if call.name.is_empty() && call.arguments.trim().is_empty() {
                continue;
            }
            let (arguments_json, invalid_arguments) = finish_arguments(&call.arguments);
            let fingerprint = (call.name.clone(), arguments_json.clone());
            if call.minted && kept.contains(&fingerprint) {
                tracing::debug!(name = %call.name, "dropped a tool call that was announced twice");
                continue;
            }
            kept.push(fingerprint);
            let index = call.shown.unwrap_or_else(|| {
                let index = self.next_shown;
                self.next_shown += 1;
                self.events.push_back(ModelEvent::ToolCallStarted {
                    index,
                    call_id: call.id.clone(),
                    name: call.name.clone(),
                });
                self.events.push_back(ModelEvent::ToolArgumentsDelta { index, text: call.arguments.clone() });
                index
            });
            let state = call.extra.map(|extra| self.state(&json!({ "extra_content": extra })));
            self.events.push_back(ModelEvent::ToolCallCompleted {
                index,
                call_id: call.id,
                name: call.name,
                arguments_json,
                invalid_arguments,
                provider_state_json: state,
            });
        }
        kept.len()
    }
}

impl ReplyDecoder for Assembler {
    fn pop(&mut self) -> Option<ModelEvent> {
        self.events.pop_front()
    }

    fn document(&mut self, text: &str, is_error: bool) -> Step {
        if is_error {
            return Step::Failed(text.to_owned());
        }
        match parse(text) {
            Parsed::Chunk(chunk) => match chunk.error {
                Some(error) => Step::Failed(format!("{{\"error\":{}}}", error.get())),
                None => self.chunk(chunk),
            },
            Parsed::Loose(_, Some(error)) => Step::Failed(format!("{{\"error\":{error}}}")),
            Parsed::Loose(chunk, None) => self.chunk(chunk),
            Parsed::Garbage => Step::Broken(garbage()),
        }
    }

    /// The stream ended cleanly: says the rest.
    fn end(&mut self) -> Result<(), ModelError> {
        let Some(reason) = self.finish.take() else {
            return Err(truncated());
        };
        let stop = match reason.as_str() {
            "error" => {
                return Err(ModelError::new(
                    ModelErrorClass::Server,
                    "the model provider stopped with finish reason `error`",
                ));
            }
            "model_context_window_exceeded" => {
                return Err(context_exceeded());
            }
            "length" | "max_tokens" | "model_length" | "max_output_tokens" => ModelStop::MaxOutputTokens,
            "content_filter" | "refusal" | "safety" | "blocklist" | "prohibited_content" => {
                ModelStop::Refusal
            }
            _ => ModelStop::EndTurn,
        };
        self.end_thought();
        let calls = self.end_calls();
        let stop = if stop == ModelStop::EndTurn && calls > 0 { ModelStop::ToolCalls } else { stop };
        if let Some(usage) = self.usage.take() {
            self.events.push_back(usage_event(&usage));
        }
        self.events.push_back(ModelEvent::Finished {
            stop,
            model_id: self.model.take(),
            provider_state_json: None,
        });
        Ok(())
    }
}

fn usage_event(usage: &WireUsage) -> ModelEvent {
    let prompt = usage.prompt_tokens_details.clone().unwrap_or_default();
    let completion = usage.completion_tokens_details.clone().unwrap_or_default();
    let total =
        usage.total_tokens.or_else(|| Some(usage.prompt_tokens?.saturating_add(usage.completion_tokens?)));
    // Most count thinking as output; where the total says that it comes on top (xAI), it is paid as output too.
    let on_top = completion.reasoning_tokens.filter(|thought| {
        let told = usage.prompt_tokens.unwrap_or(0).saturating_add(usage.completion_tokens.unwrap_or(0));
        *thought > 0 && usage.total_tokens == told.checked_add(*thought)
    });
    ModelEvent::Usage {
        usage: Usage {
            input_tokens: usage.prompt_tokens,
            output_tokens: usage.completion_tokens.map(|output| output.saturating_add(on_top.unwrap_or(0))),
            cache_read_tokens: prompt
                .cached_tokens
                .or(usage.cache_read_input_tokens)
                .or(usage.prompt_cache_hit_tokens),
            cache_write_tokens: prompt
                .cache_write_tokens
                .or(prompt.cache_creation_tokens)
                .or(usage.cache_creation_input_tokens),
            reasoning_tokens: completion.reasoning_tokens,
            total_tokens: total,
        },
        cost: usage.cost.and_then(cost),
    }
}

/// USD as a cost; nothing for nonsense.
pub(crate) fn cost(usd: f64) -> Option<Cost> {
    if !usd.is_finite() || !(0.0..1e9).contains(&usd) {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "bounded above")]
    let amount_micros = (usd * 1e6).round() as i64;
    Some(Cost { amount_micros, currency: "USD".to_owned(), source: CostSource::Provider })
}

/// Fragments of one detail (same type and index) are joined: their texts grow, other fields are replaced.
fn merge_detail(details: &mut Vec<Value>, detail: Value) {
    let same = |a: &Value, b: &Value| a.get("type") == b.get("type") && a.get("index") == b.get("index");
    let (Some(Value::Object(last)), Value::Object(new)) =
        (details.last_mut().filter(|last| same(last, &detail)), &detail)
    else {
        details.push(detail);
        return;
    };
    for (key, value) in new {
        match (key.as_str(), last.get_mut(key), value) {
            ("text" | "summary" | "data", Some(Value::String(have)), Value::String(more)) => {
                have.push_str(more);
            }
            (_, Some(_), Value::Null) => {}
            (_, Some(have), value) => *have = value.clone(),
            (_, None, value) => {
                last.insert(key.clone(), value.clone());
            }
        }
    }
}
