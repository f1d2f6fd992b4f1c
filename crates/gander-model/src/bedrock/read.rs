//! Reads a stream of Bedrock's `converse-stream`.

use std::collections::VecDeque;

use gander_domain::Usage;
use serde_json::{Value, json};

use super::{
    ENGINE,
    frames::{Frames, Message},
};
use crate::{
    ModelError, ModelErrorClass, ModelEvent, ModelStop,
    encode::state,
    wire::{Calls, ReplyDecoder, Step, TextBudget, context_exceeded, garbage, truncated},
};

/// The thought that is being written.
#[derive(Debug, Default)]
struct Thinking {
    index: u64,
    text: String,
    signature: String,
    redacted: String,
}

/// The state of one response.
#[derive(Debug)]
pub(crate) struct Reader {
    provider_id: String,
    frames: Frames,
    events: VecDeque<ModelEvent>,
    calls: Calls,
    thinking: Option<Thinking>,
    budget: TextBudget,
    usage: Option<Usage>,
    stop: Option<String>,
}

impl Reader {
    pub(crate) fn new(provider_id: &str) -> Self {
        Self {
            provider_id: provider_id.to_owned(),
            frames: Frames::default(),
            events: VecDeque::new(),
            calls: Calls::default(),
            thinking: None,
            budget: TextBudget::default(),
            usage: None,
            stop: None,
        }
    }

    fn message(&mut self, message: &Message) -> Result<Step, ModelError> {
        if message.kind == "exception" || message.kind == "error" {
            return Ok(Step::Failed(failure(message)));
        }
        let Ok(event) = serde_json::from_slice::<Value>(&message.payload) else { return Err(garbage()) };
        let index = event.get("contentBlockIndex").and_then(Value::as_u64).unwrap_or(0);
        match message.name.as_str() {
            "contentBlockStart" => {
                self.end_thought();
                if let Some(call) = event.pointer("/start/toolUse") {
                    let text = |key: &str| call.get(key).and_then(Value::as_str).unwrap_or_default();
                    self.calls.start(index, Some(text("toolUseId")), text("name"), &mut self.events)?;
                }
            }
            "contentBlockDelta" => self.delta(index, event.get("delta").unwrap_or(&Value::Null))?,
            "contentBlockStop" => self.end_thought(),
            "messageStop" => {
                self.stop = event.get("stopReason").and_then(Value::as_str).map(str::to_owned);
            }
            "metadata" => {
                self.usage = event.get("usage").map(usage);
                if self.stop.is_some() {
                    return Ok(Step::Done);
                }
            }
            _ => {}
        }
        Ok(Step::More)
    }

    fn delta(&mut self, index: u64, delta: &Value) -> Result<(), ModelError> {
        if let Some(text) = delta.get("text").and_then(Value::as_str).filter(|text| !text.is_empty()) {
            self.end_thought();
            self.budget.take(text.len())?;
            self.events.push_back(ModelEvent::TextDelta(text.to_owned()));
        }
        if let Some(input) = delta.pointer("/toolUse/input").and_then(Value::as_str)
            && !self.calls.push(index, input, &mut self.events)?
            && !input.trim().is_empty()
        {
            return Err(garbage());
        }
        if let Some(reasoning) = delta.get("reasoningContent") {
            self.reasoning(index, reasoning)?;
        }
        Ok(())
    }

    fn reasoning(&mut self, index: u64, reasoning: &Value) -> Result<(), ModelError> {
        if self.thinking.as_ref().is_some_and(|thinking| thinking.index != index) {
            self.end_thought();
        }
        let text = |key: &str| reasoning.get(key).and_then(Value::as_str).unwrap_or_default();
        let (thought, signature, redacted) = (text("text"), text("signature"), text("redactedContent"));
        self.budget.take(thought.len() + signature.len() + redacted.len())?;
        let thinking = self.thinking.get_or_insert_with(|| Thinking { index, ..Thinking::default() });
        thinking.text.push_str(thought);
        thinking.signature.push_str(signature);
        thinking.redacted.push_str(redacted);
        if !thought.is_empty() {
            self.events.push_back(ModelEvent::ThoughtDelta(thought.to_owned()));
        }
        Ok(())
    }

    fn end_thought(&mut self) {
        let Some(thinking) = self.thinking.take() else { return };
        let some = |text: String| (!text.is_empty()).then_some(text);
        let (signature, redacted) = (some(thinking.signature), some(thinking.redacted));
        let item = match (&signature, &redacted) {
            (_, Some(data)) => Some(json!({ "reasoningContent": { "redactedContent": data } })),
            (Some(signature), None) => Some(json!({ "reasoningContent": { "reasoningText":
                { "text": thinking.text, "signature": signature } } })),
            (None, None) => None,
        };
        self.events.push_back(ModelEvent::ThoughtCompleted {
            signature,
            redacted_data: redacted,
            provider_state_json: item.map(|item| state(ENGINE, &self.provider_id, &item)),
        });
    }
}

impl ReplyDecoder for Reader {
    fn bytes(&mut self, bytes: &[u8]) -> Option<Step> {
        self.frames.feed(bytes);
        loop {
            let step = match self.frames.next() {
                Ok(None) => return Some(Step::More),
                Ok(Some(message)) => self.message(&message).unwrap_or_else(Step::Broken),
                Err(bad) => Step::Broken(ModelError::new(
                    ModelErrorClass::Truncated,
                    format!("the model provider's event stream is damaged: {}", bad.0),
                )),
            };
            if step != Step::More {
                return Some(step);
            }
        }
    }

    fn document(&mut self, text: &str, _is_error: bool) -> Step {
        // One JSON document instead of a stream is an error's.
        Step::Failed(text.to_owned())
    }

    fn end(&mut self) -> Result<(), ModelError> {
        if !self.frames.is_empty() {
            return Err(truncated());
        }
        let stop = match self.stop.take().as_deref() {
            None => return Err(truncated()),
            Some("model_context_window_exceeded") => return Err(context_exceeded()),
            Some(reason @ ("malformed_model_output" | "malformed_tool_use")) => {
                return Err(ModelError::new(
                    ModelErrorClass::Server,
                    format!("the model provider stopped with reason {reason}"),
                ));
            }
            Some("max_tokens") => ModelStop::MaxOutputTokens,
            Some("guardrail_intervened" | "content_filtered") => ModelStop::Refusal,
            Some(_) if self.calls.is_empty() => ModelStop::EndTurn,
            Some(_) => ModelStop::ToolCalls,
        };
        self.end_thought();
        self.calls.complete(&mut self.events);
        if let Some(usage) = self.usage.take() {
            self.events.push_back(ModelEvent::Usage { usage, cost: None });
        }
        self.events.push_back(ModelEvent::Finished { stop, model_id: None, provider_state_json: None });
        Ok(())
    }

    fn pop(&mut self) -> Option<ModelEvent> {
        self.events.pop_front()
    }
}

/// An exception as an error body that the classifier knows.
fn failure(message: &Message) -> String {
    let payload = serde_json::from_slice::<Value>(&message.payload).unwrap_or_default();
    let said = payload.get("message").or_else(|| payload.get("Message")).and_then(Value::as_str);
    let text = said.map_or_else(|| message.error.clone(), str::to_owned);
    let code = match message.name.as_str() {
        "validationException" => "invalid_request_error",
        "modelTimeoutException" => "timeout",
        name => name,
    };
    json!({ "error": { "type": code, "message": text } }).to_string()
}

/// Cached tokens are counted apart; ours are part of the input.
fn usage(wire: &Value) -> Usage {
    let number = |key: &str| wire.get(key).and_then(Value::as_u64);
    let (read, written) = (number("cacheReadInputTokens"), number("cacheWriteInputTokens"));
    let cached = read.unwrap_or(0).saturating_add(written.unwrap_or(0));
    let input = number("inputTokens").map(|input| input.saturating_add(cached));
    let output = number("outputTokens");
    Usage {
        input_tokens: input,
        output_tokens: output,
        cache_read_tokens: read,
        cache_write_tokens: written,
        reasoning_tokens: None,
        total_tokens: input.and_then(|input| Some(input.saturating_add(output?))),
    }
}
