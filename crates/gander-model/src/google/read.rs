//! Reads a stream of Google's `streamGenerateContent`.

use std::collections::VecDeque;

use gander_domain::Usage;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::ENGINE;
use crate::{
    ModelError, ModelErrorClass, ModelEvent, ModelStop,
    encode::state,
    wire::{Calls, ReplyDecoder, Step, TextBudget, count, garbage, tolerant, truncated},
};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chunk<'a> {
    #[serde(default)]
    candidates: Option<Vec<Candidate>>,
    #[serde(default)]
    prompt_feedback: Option<Feedback>,
    #[serde(default, deserialize_with = "tolerant")]
    usage_metadata: Option<WireUsage>,
    #[serde(default)]
    model_version: Option<String>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    #[serde(default, deserialize_with = "count")]
    index: Option<u64>,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    finish_message: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Content {
    #[serde(default)]
    parts: Option<Vec<Part>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    thought: Option<bool>,
    #[serde(default)]
    thought_signature: Option<String>,
    #[serde(default)]
    function_call: Option<FunctionCall>,
    /// The same as gateways spell them; some send both.
    #[serde(default, rename = "thought_signature")]
    snake_signature: Option<String>,
    #[serde(default, rename = "function_call")]
    snake_call: Option<FunctionCall>,
}

#[derive(Debug, Deserialize)]
struct FunctionCall {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    args: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    #[serde(default)]
    block_reason: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireUsage {
    #[serde(default, deserialize_with = "count")]
    prompt_token_count: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    candidates_token_count: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    thoughts_token_count: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    cached_content_token_count: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    total_token_count: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    tool_use_prompt_token_count: Option<u64>,
}

/// The state of one response.
#[derive(Debug)]
pub(crate) struct Reader {
    provider_id: String,
    events: VecDeque<ModelEvent>,
    calls: Calls,
    next_call: u64,
    thinking: bool,
    budget: TextBudget,
    usage: Option<WireUsage>,
    finish: Option<String>,
    finish_message: Option<String>,
    model: Option<String>,
}

impl Reader {
    pub(crate) fn new(provider_id: &str) -> Self {
        Self {
            provider_id: provider_id.to_owned(),
            events: VecDeque::new(),
            calls: Calls::default(),
            next_call: 0,
            thinking: false,
            budget: TextBudget::default(),
            usage: None,
            finish: None,
            finish_message: None,
            model: None,
        }
    }

    fn chunk(&mut self, chunk: Chunk<'_>) -> Result<(), ModelError> {
        if chunk.usage_metadata.is_some() {
            self.usage = chunk.usage_metadata;
        }
        if self.model.is_none() {
            self.model = chunk.model_version;
        }
        if let Some(reason) = chunk.prompt_feedback.and_then(|feedback| feedback.block_reason) {
            // The prompt was refused: there is no candidate to end.
            self.finish = Some("SAFETY".to_owned());
            self.finish_message = Some(reason);
        }
        let candidate =
            chunk.candidates.into_iter().flatten().find(|candidate| candidate.index.is_none_or(|i| i == 0));
        let Some(candidate) = candidate else { return Ok(()) };
        for part in candidate.content.and_then(|content| content.parts).into_iter().flatten() {
            self.part(part)?;
        }
        if let Some(reason) = candidate.finish_reason.filter(|reason| !reason.is_empty()) {
            self.finish = Some(reason);
            self.finish_message = candidate.finish_message;
        }
        Ok(())
    }

    fn part(&mut self, part: Part) -> Result<(), ModelError> {
        let signature = part.thought_signature.or(part.snake_signature);
        if let Some(call) = part.function_call.or(part.snake_call) {
            self.end_thought(None);
            return self.call(call, signature);
        }
        let text = part.text.unwrap_or_default();
        self.budget.take(text.len())?;
        if part.thought == Some(true) {
            if !text.is_empty() {
                self.thinking = true;
                self.events.push_back(ModelEvent::ThoughtDelta(text));
            }
            if let Some(signature) = signature {
                self.end_thought(Some(signature));
            }
            return Ok(());
        }
        match (text.is_empty(), signature) {
            // A signature without text ends the reply's thoughts; it goes back as the empty part that it was.
            (true, Some(signature)) => self.end_thought(Some(signature)),
            (false, Some(signature)) => {
                self.end_thought(Some(signature));
                self.events.push_back(ModelEvent::TextDelta(text));
            }
            (false, None) => {
                self.end_thought(None);
                self.events.push_back(ModelEvent::TextDelta(text));
            }
            (true, None) => {}
        }
        Ok(())
    }

    fn call(&mut self, call: FunctionCall, signature: Option<String>) -> Result<(), ModelError> {
        let key = self.next_call;
        self.next_call += 1;
        self.calls.start(key, call.id.as_deref(), &call.name.unwrap_or_default(), &mut self.events)?;
        if let Some(arguments) = call.args {
            self.calls.push(key, arguments.get(), &mut self.events)?;
        }
        if let Some(signature) = signature {
            let item = json!({ "thoughtSignature": signature });
            self.calls.keep_state(key, state(ENGINE, &self.provider_id, &item));
        }
        Ok(())
    }

    /// Thoughts themselves never go back; a signature goes back as an empty part.
    fn end_thought(&mut self, signature: Option<String>) {
        if !std::mem::take(&mut self.thinking) && signature.is_none() {
            return;
        }
        let kept = signature.as_ref().map(|signature| {
            state(ENGINE, &self.provider_id, &json!({ "text": "", "thoughtSignature": signature }))
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
        if is_error {
            return Step::Failed(text.to_owned());
        }
        match serde_json::from_str::<Chunk<'_>>(text) {
            Ok(chunk) if chunk.error.is_some() => Step::Failed(text.to_owned()),
            Ok(chunk) => match self.chunk(chunk) {
                Ok(()) => Step::More,
                Err(error) => Step::Broken(error),
            },
            Err(_) => Step::Broken(garbage()),
        }
    }

    /// Without `alt=sse` the server answers with a list of chunks.
    fn whole(&mut self, body: &[u8]) -> Step {
        let text = String::from_utf8_lossy(body);
        let Ok(chunks) = serde_json::from_str::<Vec<&RawValue>>(&text) else {
            return self.frame(body, false);
        };
        for chunk in chunks {
            match self.document(chunk.get(), false) {
                Step::More => {}
                other => return other,
            }
        }
        Step::Done
    }

    fn end(&mut self) -> Result<(), ModelError> {
        let Some(reason) = self.finish.take() else { return Err(truncated()) };
        let stop = match reason.as_str() {
            "STOP" | "FUNCTION_CALL" | "TOOL_CALLS" if self.calls.is_empty() => ModelStop::EndTurn,
            "STOP" | "FUNCTION_CALL" | "TOOL_CALLS" => ModelStop::ToolCalls,
            "MAX_TOKENS" => ModelStop::MaxOutputTokens,
            "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" | "OTHER" => {
                let said = self.finish_message.take().map_or_else(String::new, |text| format!(": {text}"));
                return Err(ModelError::new(
                    ModelErrorClass::Server,
                    format!("the model provider stopped with finish reason {reason}{said}"),
                ));
            }
            "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "LANGUAGE"
            | "IMAGE_SAFETY" => ModelStop::Refusal,
            _ if self.calls.is_empty() => ModelStop::EndTurn,
            _ => ModelStop::ToolCalls,
        };
        self.end_thought(None);
        self.calls.complete(&mut self.events);
        if let Some(usage) = self.usage.take() {
            self.events.push_back(ModelEvent::Usage { usage: convert(&usage), cost: None });
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

/// Thoughts are billed as output and counted apart.
fn convert(wire: &WireUsage) -> Usage {
    let output = match (wire.candidates_token_count, wire.thoughts_token_count) {
        (None, None) => None,
        (said, thought) => Some(said.unwrap_or(0).saturating_add(thought.unwrap_or(0))),
    };
    let input = wire
        .prompt_token_count
        .map(|prompt| prompt.saturating_add(wire.tool_use_prompt_token_count.unwrap_or(0)));
    Usage {
        input_tokens: input,
        output_tokens: output,
        cache_read_tokens: wire.cached_content_token_count,
        cache_write_tokens: None,
        reasoning_tokens: wire.thoughts_token_count,
        total_tokens: wire.total_token_count.or_else(|| input?.checked_add(output?)),
    }
}
