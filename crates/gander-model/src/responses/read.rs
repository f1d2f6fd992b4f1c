//! Reads a stream of OpenAI's Responses.

use std::collections::VecDeque;

use gander_domain::Usage;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    ENGINE,
    items::{Items, Kind, Name, Place},
};
use crate::{
    ModelError, ModelEvent, ModelStop,
    encode::state,
    wire::{Calls, ReplyDecoder, Step, Text, TextBudget, arguments, count, garbage, truncated},
};

/// Messages of one response that are remembered.
const MAX_MESSAGES: usize = 4096;

#[derive(Debug, Deserialize)]
struct Event<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Text<'a>,
    #[serde(default, deserialize_with = "count")]
    output_index: Option<u64>,
    #[serde(borrow, default)]
    item_id: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "arguments")]
    delta: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "arguments")]
    arguments: Option<Text<'a>>,
    #[serde(default, deserialize_with = "count")]
    summary_index: Option<u64>,
    #[serde(default)]
    item: Option<Value>,
    #[serde(default)]
    response: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Completed,
    OutputLimit,
    Filtered,
}

/// The state of one response.
#[derive(Debug)]
pub(crate) struct Reader {
    provider_id: String,
    events: VecDeque<ModelEvent>,
    calls: Calls,
    items: Items,
    /// Messages of which text came already.
    told: Vec<u64>,
    thinking: bool,
    any_item: bool,
    refused: bool,
    budget: TextBudget,
    usage: Option<Usage>,
    end: Option<End>,
    model: Option<String>,
}

impl Reader {
    pub(crate) fn new(provider_id: &str) -> Self {
        Self {
            provider_id: provider_id.to_owned(),
            events: VecDeque::new(),
            calls: Calls::default(),
            items: Items::default(),
            told: Vec::new(),
            thinking: false,
            any_item: false,
            refused: false,
            budget: TextBudget::default(),
            usage: None,
            end: None,
            model: None,
        }
    }

    fn event(&mut self, event: Event<'_>) -> Result<Step, ModelError> {
        let delta = event.delta.map(|text| text.0).unwrap_or_default();
        let named = |kind| Name {
            kind,
            number: event.output_index,
            id: event.item_id.as_ref().map(|id| id.0.as_ref()),
        };
        match event.kind.0.as_ref() {
            "response.created" | "response.in_progress" => {
                if let Some(response) = &event.response {
                    self.named(response);
                }
            }
            "response.output_item.added" => {
                if let Some(item) = &event.item {
                    let key = self.items.key(whole(item, event.output_index), Place::Begin);
                    self.begun(key, item)?;
                }
            }
            "response.output_item.done" => {
                if let Some(item) = &event.item {
                    let key = self.items.key(whole(item, event.output_index), Place::End);
                    self.item(key, item)?;
                }
            }
            "response.output_text.delta" => {
                let key = self.items.key(named(Kind::Message), Place::Within);
                self.text(key, &delta)?;
            }
            "response.refusal.delta" => {
                self.refused = true;
                let key = self.items.key(named(Kind::Message), Place::Within);
                self.text(key, &delta)?;
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                self.thought(&delta)?;
            }
            "response.reasoning_summary_part.added" if event.summary_index.is_some_and(|index| index > 0) => {
                self.thought("\n\n")?;
            }
            "response.function_call_arguments.delta" => {
                let key = self.items.key(named(Kind::Call), Place::Within);
                let known = self.calls.push(key, &delta, &mut self.events)?;
                // Arguments of a call that never began: there is a hole in the stream.
                return if known || delta.trim().is_empty() { Ok(Step::More) } else { Err(garbage()) };
            }
            "response.function_call_arguments.done" => {
                if let Some(arguments) = &event.arguments {
                    let key = self.items.key(named(Kind::Call), Place::Within);
                    self.calls.set(key, &arguments.0, &mut self.events)?;
                }
            }
            "response.completed" | "response.done" | "response.incomplete" | "response.failed" => {
                return self.over(&event.response.unwrap_or_default());
            }
            "response.cancelled" => return Err(truncated()),
            _ => {}
        }
        Ok(Step::More)
    }

    fn named(&mut self, response: &Value) {
        let model = response.get("model").and_then(Value::as_str).filter(|model| !model.is_empty());
        if self.model.is_none() {
            self.model = model.map(str::to_owned);
        }
    }

    fn text(&mut self, key: u64, text: &str) -> Result<(), ModelError> {
        if text.is_empty() {
            return Ok(());
        }
        self.budget.take(text.len())?;
        self.end_thought(None);
        if !self.told.contains(&key) && self.told.len() < MAX_MESSAGES {
            self.told.push(key);
        }
        self.any_item = true;
        self.events.push_back(ModelEvent::TextDelta(text.to_owned()));
        Ok(())
    }

    fn thought(&mut self, text: &str) -> Result<(), ModelError> {
        if !text.is_empty() {
            self.budget.take(text.len())?;
            self.thinking = true;
            self.events.push_back(ModelEvent::ThoughtDelta(text.to_owned()));
        }
        Ok(())
    }

    fn end_thought(&mut self, item: Option<&Value>) {
        if !std::mem::take(&mut self.thinking) && item.is_none() {
            return;
        }
        self.events.push_back(ModelEvent::ThoughtCompleted {
            signature: None,
            redacted_data: None,
            provider_state_json: item.map(|item| state(ENGINE, &self.provider_id, item)),
        });
    }

    fn begun(&mut self, key: u64, item: &Value) -> Result<(), ModelError> {
        if text_of(item, "type") != "function_call" || self.calls.has(key) {
            return Ok(());
        }
        self.any_item = true;
        self.end_thought(None);
        self.calls.start(key, Some(call_id(item)), text_of(item, "name"), &mut self.events)?;
        self.calls.push(key, text_of(item, "arguments"), &mut self.events)?;
        Ok(())
    }

    /// An item is complete; what it says is authoritative.
    fn item(&mut self, key: u64, item: &Value) -> Result<(), ModelError> {
        self.any_item = true;
        match text_of(item, "type") {
            "function_call" => {
                if !self.calls.has(key) {
                    self.end_thought(None);
                    self.calls.start(key, Some(call_id(item)), text_of(item, "name"), &mut self.events)?;
                }
                match item.get("arguments") {
                    Some(Value::String(text)) => {
                        self.calls.set(key, text, &mut self.events)?;
                    }
                    // Not as a text, which some servers forget.
                    Some(object @ Value::Object(_)) => {
                        self.calls.set(key, &object.to_string(), &mut self.events)?;
                    }
                    _ => {}
                }
            }
            "reasoning" => {
                if !self.thinking {
                    let summary = texts(item, "summary").or_else(|| texts(item, "content"));
                    self.thought(&summary.unwrap_or_default())?;
                }
                self.end_thought(kept(item).as_ref());
            }
            "message" if !self.told.contains(&key) => {
                for part in item.get("content").and_then(Value::as_array).into_iter().flatten() {
                    if text_of(part, "type") == "refusal" {
                        self.refused = true;
                        self.text(key, text_of(part, "refusal"))?;
                    } else {
                        self.text(key, text_of(part, "text"))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn over(&mut self, response: &Value) -> Result<Step, ModelError> {
        self.named(response);
        if let Some(error) = response.get("error").filter(|error| !error.is_null()) {
            return Ok(Step::Failed(json!({ "error": error }).to_string()));
        }
        let reason = response.pointer("/incomplete_details/reason").and_then(Value::as_str);
        self.end = Some(match (text_of(response, "status"), reason) {
            ("failed", _) => {
                return Ok(Step::Failed(
                    json!({ "error": { "message": "the response failed" } }).to_string(),
                ));
            }
            ("cancelled" | "queued" | "in_progress", _) => return Err(truncated()),
            (_, Some("content_filter")) => End::Filtered,
            ("incomplete", _) | (_, Some(_)) => End::OutputLimit,
            _ => End::Completed,
        });
        if !self.any_item {
            let output = response.get("output").and_then(Value::as_array).cloned().unwrap_or_default();
            for (number, item) in output.iter().enumerate() {
                let key = self.items.key(whole(item, Some(number as u64)), Place::End);
                self.item(key, item)?;
            }
        }
        self.usage = response.get("usage").filter(|usage| usage.is_object()).map(usage);
        Ok(Step::Done)
    }
}

impl ReplyDecoder for Reader {
    fn document(&mut self, text: &str, is_error: bool) -> Step {
        let event = match serde_json::from_str::<Event<'_>>(text) {
            Ok(event) => event,
            Err(_) if is_error => return Step::Failed(text.to_owned()),
            Err(_) => return Step::Broken(garbage()),
        };
        let kind = event.kind.0.as_ref();
        if is_error || kind == "error" || (kind.is_empty() && event.error.is_some()) {
            return Step::Failed(text.to_owned());
        }
        self.event(event).unwrap_or_else(Step::Broken)
    }

    fn whole(&mut self, body: &[u8]) -> Step {
        match serde_json::from_slice::<Value>(body) {
            Ok(response) => self.over(&response).unwrap_or_else(Step::Broken),
            Err(_) => Step::Broken(garbage()),
        }
    }

    fn end(&mut self) -> Result<(), ModelError> {
        let stop = match self.end.take() {
            None => return Err(truncated()),
            Some(End::OutputLimit) => ModelStop::MaxOutputTokens,
            Some(End::Filtered) => ModelStop::Refusal,
            Some(End::Completed) if !self.calls.is_empty() => ModelStop::ToolCalls,
            Some(End::Completed) if self.refused => ModelStop::Refusal,
            Some(End::Completed) => ModelStop::EndTurn,
        };
        self.end_thought(None);
        self.calls.complete(&mut self.events);
        if let Some(usage) = self.usage.take() {
            self.events.push_back(ModelEvent::Usage { usage, cost: None });
        }
        self.events.push_back(ModelEvent::Finished {
            stop,
            model_id: self.model.take(),
            provider_state_json: None,
        });
        Ok(())
    }

    fn pop(&mut self) -> Option<ModelEvent> {
        self.events.pop_front()
    }
}

fn text_of<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// How a whole item names itself.
fn whole(item: &Value, number: Option<u64>) -> Name<'_> {
    Name { kind: Kind::of(text_of(item, "type")), number, id: item.get("id").and_then(Value::as_str) }
}

/// The id that the answer must name; `id` is the item's own.
fn call_id(item: &Value) -> &str {
    match text_of(item, "call_id") {
        "" => text_of(item, "id"),
        id => id,
    }
}

fn texts(item: &Value, key: &str) -> Option<String> {
    let parts = item.get(key)?.as_array()?;
    let texts: Vec<&str> = parts.iter().map(|part| text_of(part, "text")).collect();
    (!texts.is_empty()).then(|| texts.join("\n\n"))
}

/// The reasoning item as it goes back. Without its encrypted content the server, which keeps nothing, would not know it.
fn kept(item: &Value) -> Option<Value> {
    item.get("encrypted_content").and_then(Value::as_str).filter(|content| !content.is_empty())?;
    let mut kept = Map::new();
    for key in ["type", "id", "summary", "content", "encrypted_content"] {
        if let Some(value) = item.get(key).filter(|value| !value.is_null()) {
            kept.insert(key.to_owned(), value.clone());
        }
    }
    kept.entry("summary").or_insert_with(|| json!([]));
    Some(Value::Object(kept))
}

fn usage(wire: &Value) -> Usage {
    let number = |path: &str| wire.pointer(path).and_then(Value::as_u64);
    let (input, output) = (number("/input_tokens"), number("/output_tokens"));
    Usage {
        input_tokens: input,
        output_tokens: output,
        cache_read_tokens: number("/input_tokens_details/cached_tokens"),
        cache_write_tokens: None,
        reasoning_tokens: number("/output_tokens_details/reasoning_tokens"),
        total_tokens: number("/total_tokens").or_else(|| input?.checked_add(output?)),
    }
}
