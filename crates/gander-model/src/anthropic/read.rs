//! Reads a stream of Anthropic's Messages.

use std::collections::VecDeque;

use gander_domain::Usage;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::ENGINE;
use crate::{
    ModelError, ModelEvent, ModelStop,
    encode::state,
    wire::{
        Calls, ReplyDecoder, Step, Text, TextBudget, context_exceeded, count, garbage, tolerant, truncated,
    },
};

#[derive(Debug, Deserialize)]
struct Event<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Text<'a>,
    #[serde(default, deserialize_with = "count")]
    index: Option<u64>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(default, deserialize_with = "tolerant")]
    usage: Option<WireUsage>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default)]
    thinking: Option<Text<'a>>,
    #[serde(borrow, default)]
    signature: Option<Text<'a>>,
    #[serde(borrow, default)]
    partial_json: Option<Text<'a>>,
    #[serde(borrow, default)]
    stop_reason: Option<Text<'a>>,
}

/// A block of content, or how it begins.
#[derive(Debug, Default, Deserialize)]
struct Block<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default)]
    thinking: Option<Text<'a>>,
    #[serde(borrow, default)]
    signature: Option<Text<'a>>,
    #[serde(borrow, default)]
    data: Option<Text<'a>>,
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    /// Arguments as the server wrote them: numbers stay exact.
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

/// A whole message, or its head.
#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    model: Option<Text<'a>>,
    #[serde(borrow, default)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    stop_reason: Option<Text<'a>>,
    #[serde(default, deserialize_with = "tolerant")]
    usage: Option<WireUsage>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct WireUsage {
    #[serde(default, deserialize_with = "count")]
    input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    output_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    cache_read_input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    cache_creation_input_tokens: Option<u64>,
}

/// The thought that is being written.
#[derive(Debug)]
struct Thinking {
    index: u64,
    text: String,
    signature: String,
}

/// The state of one response.
#[derive(Debug)]
pub(crate) struct Reader {
    provider_id: String,
    events: VecDeque<ModelEvent>,
    calls: Calls,
    thinking: Option<Thinking>,
    budget: TextBudget,
    usage: WireUsage,
    counted: bool,
    stop: Option<String>,
    model: Option<String>,
}

impl Reader {
    pub(crate) fn new(provider_id: &str) -> Self {
        Self {
            provider_id: provider_id.to_owned(),
            events: VecDeque::new(),
            calls: Calls::default(),
            thinking: None,
            budget: TextBudget::default(),
            usage: WireUsage::default(),
            counted: false,
            stop: None,
            model: None,
        }
    }

    fn event(&mut self, event: Event<'_>) -> Result<Step, ModelError> {
        let index = event.index.unwrap_or(0);
        match event.kind.0.as_ref() {
            "message_start" => {
                if let Some(message) = event.message
                    && let Ok(message) = serde_json::from_str::<Message<'_>>(message.get())
                {
                    self.head(message.model, message.usage);
                }
            }
            "content_block_start" => {
                self.end_thought();
                if let Some(block) = event.content_block {
                    self.block(index, block)?;
                }
            }
            "content_block_delta" => self.delta(index, event.delta.unwrap_or_default())?,
            "content_block_stop"
                if self.thinking.as_ref().is_some_and(|thinking| thinking.index == index) =>
            {
                self.end_thought();
            }
            "message_delta" => {
                if let Some(reason) = event.delta.and_then(|delta| delta.stop_reason) {
                    self.stop = Some(reason.0.into_owned());
                }
                self.count(event.usage);
            }
            "message_stop" => return Ok(Step::Done),
            // Pings, and whatever comes later.
            _ => {}
        }
        Ok(Step::More)
    }

    fn head(&mut self, model: Option<Text<'_>>, usage: Option<WireUsage>) {
        self.model = model.map(|model| model.0.into_owned()).filter(|model| !model.is_empty());
        self.count(usage);
    }

    /// Later counts replace earlier ones: they are totals of the response.
    fn count(&mut self, usage: Option<WireUsage>) {
        let Some(usage) = usage else { return };
        self.counted = true;
        let have = &mut self.usage;
        have.input_tokens = usage.input_tokens.or(have.input_tokens);
        have.output_tokens = usage.output_tokens.or(have.output_tokens);
        have.cache_read_input_tokens = usage.cache_read_input_tokens.or(have.cache_read_input_tokens);
        have.cache_creation_input_tokens =
            usage.cache_creation_input_tokens.or(have.cache_creation_input_tokens);
    }

    fn block(&mut self, index: u64, block: &RawValue) -> Result<(), ModelError> {
        let block: Block<'_> = match serde_json::from_str(block.get()) {
            Ok(block) => block,
            Err(_) => return not_ours(block.get()),
        };
        let text = |text: Option<Text<'_>>| text.unwrap_or_default().0.into_owned();
        match text(block.kind).as_str() {
            "text" => self.text(&text(block.text))?,
            "thinking" => {
                self.thought(index, &text(block.thinking))?;
                self.sign(index, &text(block.signature));
            }
            "redacted_thinking" => {
                let data = text(block.data);
                self.budget.take(data.len())?;
                let item = json!({ "type": "redacted_thinking", "data": data });
                self.events.push_back(ModelEvent::ThoughtCompleted {
                    signature: None,
                    redacted_data: Some(data),
                    provider_state_json: Some(state(ENGINE, &self.provider_id, &item)),
                });
            }
            "tool_use" => {
                self.calls.start(index, Some(&text(block.id)), &text(block.name), &mut self.events)?;
                // Some servers send the arguments at once; the original sends `{}` here and pieces later.
                let input = block.input.map_or("", RawValue::get);
                let begins = |text: &str| {
                    text.strip_prefix('{').is_some_and(|rest| !rest.trim_start().starts_with('}'))
                };
                if begins(input) {
                    self.calls.push(index, input, &mut self.events)?;
                }
            }
            // What the server's own tools did is not ours to run.
            _ => {}
        }
        Ok(())
    }

    fn delta(&mut self, index: u64, delta: Delta<'_>) -> Result<(), ModelError> {
        if let Some(text) = delta.text {
            self.end_thought();
            self.text(&text.0)?;
        }
        if let Some(thinking) = delta.thinking {
            self.thought(index, &thinking.0)?;
        }
        if let Some(signature) = delta.signature {
            self.sign(index, &signature.0);
        }
        if let Some(json) = delta.partial_json
            && !self.calls.push(index, &json.0, &mut self.events)?
            && !json.0.trim().is_empty()
        {
            // Arguments of a call that never began: there is a hole in the stream.
            return Err(garbage());
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), ModelError> {
        if !text.is_empty() {
            self.budget.take(text.len())?;
            self.events.push_back(ModelEvent::TextDelta(text.to_owned()));
        }
        Ok(())
    }

    fn thought(&mut self, index: u64, text: &str) -> Result<(), ModelError> {
        if self.thinking.as_ref().is_some_and(|thinking| thinking.index != index) {
            self.end_thought();
        }
        self.budget.take(text.len())?;
        let thinking = self.thinking.get_or_insert_with(|| Thinking {
            index,
            text: String::new(),
            signature: String::new(),
        });
        if !text.is_empty() {
            thinking.text.push_str(text);
            self.events.push_back(ModelEvent::ThoughtDelta(text.to_owned()));
        }
        Ok(())
    }

    fn sign(&mut self, index: u64, signature: &str) {
        if let Some(thinking) = self.thinking.as_mut().filter(|thinking| thinking.index == index) {
            thinking.signature.push_str(signature);
        }
    }

    fn end_thought(&mut self) {
        let Some(thinking) = self.thinking.take() else { return };
        // Without a signature the server would refuse the block.
        let signature = (!thinking.signature.is_empty()).then_some(thinking.signature);
        let kept = signature.as_ref().map(|signature| {
            let item = json!({ "type": "thinking", "thinking": thinking.text, "signature": signature });
            state(ENGINE, &self.provider_id, &item)
        });
        self.events.push_back(ModelEvent::ThoughtCompleted {
            signature,
            redacted_data: None,
            provider_state_json: kept,
        });
    }
}

impl ReplyDecoder for Reader {
    fn document(&mut self, text: &str, is_error: bool) -> Step {
        let event = match serde_json::from_str::<Event<'_>>(text) {
            Ok(event) => event,
            Err(_) if is_error => return Step::Failed(text.to_owned()),
            Err(_) => return Step::Broken(garbage()),
        };
        if is_error || event.kind.0 == "error" || (event.kind.0.is_empty() && event.error.is_some()) {
            return Step::Failed(text.to_owned());
        }
        self.event(event).unwrap_or_else(Step::Broken)
    }

    fn whole(&mut self, body: &[u8]) -> Step {
        let text = String::from_utf8_lossy(body);
        let Ok(message) = serde_json::from_str::<Message<'_>>(&text) else { return Step::Broken(garbage()) };
        if message.error.is_some() {
            return Step::Failed(text.into_owned());
        }
        self.head(message.model, message.usage);
        self.stop = message.stop_reason.map(|reason| reason.0.into_owned());
        for (index, block) in message.content.into_iter().flatten().enumerate() {
            self.end_thought();
            if let Err(error) = self.block(index as u64, block) {
                return Step::Broken(error);
            }
        }
        Step::Done
    }

    fn end(&mut self) -> Result<(), ModelError> {
        let stop = match self.stop.take().as_deref() {
            None | Some("") => return Err(truncated()),
            Some("model_context_window_exceeded") => return Err(context_exceeded()),
            Some("max_tokens") => ModelStop::MaxOutputTokens,
            Some("refusal") => ModelStop::Refusal,
            Some(_) if self.calls.is_empty() => ModelStop::EndTurn,
            Some(_) => ModelStop::ToolCalls,
        };
        self.end_thought();
        self.calls.complete(&mut self.events);
        if self.counted {
            self.events.push_back(ModelEvent::Usage { usage: usage(&self.usage), cost: None });
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

/// A block of an unknown shape: of a kind that this reader knows it is damage, else something newer that is not for us.
fn not_ours(block: &str) -> Result<(), ModelError> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow, default, rename = "type")]
        kind: Text<'a>,
    }
    match serde_json::from_str::<Kind<'_>>(block) {
        Ok(kind)
            if !matches!(kind.kind.0.as_ref(), "text" | "thinking" | "redacted_thinking" | "tool_use") =>
        {
            Ok(())
        }
        _ => Err(garbage()),
    }
}

/// The API counts cached tokens apart; ours are part of the input.
fn usage(wire: &WireUsage) -> Usage {
    let cached = wire
        .cache_read_input_tokens
        .unwrap_or(0)
        .saturating_add(wire.cache_creation_input_tokens.unwrap_or(0));
    let input = wire.input_tokens.map(|input| input.saturating_add(cached));
    Usage {
        input_tokens: input,
        output_tokens: wire.output_tokens,
        cache_read_tokens: wire.cache_read_input_tokens,
        cache_write_tokens: wire.cache_creation_input_tokens,
        reasoning_tokens: None,
        total_tokens: input.and_then(|input| Some(input.saturating_add(wire.output_tokens?))),
    }
}
