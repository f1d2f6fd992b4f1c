//! One frame of an OpenAI chat stream, typed and borrowed from the bytes.
//!
//! Frames are parsed once without a JSON tree, in the shapes that servers are known to write: content as a list of parts,
//! arguments as an object, ids and counts of another type. What is odder still takes the slow way through a tree, where
//! only what is understood is kept; both ways give the same type.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::wire::{Text, arguments, count, tolerant};

/// A chunk of a stream, or a whole completion.
#[derive(Debug, Deserialize)]
pub(crate) struct Chunk<'a> {
    #[serde(borrow, default)]
    pub(crate) model: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) choices: Option<Vec<Choice<'a>>>,
    #[serde(default, deserialize_with = "tolerant")]
    pub(crate) usage: Option<WireUsage>,
    #[serde(borrow, default)]
    pub(crate) error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Choice<'a> {
    #[serde(default, deserialize_with = "count")]
    pub(crate) index: Option<u64>,
    #[serde(borrow, default)]
    pub(crate) delta: Option<Delta<'a>>,
    /// In the place of `delta` when the reply is not streamed; some servers send both.
    #[serde(borrow, default)]
    pub(crate) message: Option<Delta<'a>>,
    #[serde(borrow, default)]
    pub(crate) finish_reason: Option<Text<'a>>,
    #[serde(default, deserialize_with = "tolerant")]
    pub(crate) usage: Option<WireUsage>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Delta<'a> {
    #[serde(borrow, default)]
    pub(crate) content: Option<Content<'a>>,
    #[serde(borrow, default)]
    pub(crate) refusal: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) reasoning_content: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) reasoning: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) reasoning_text: Option<Text<'a>>,
    #[serde(default)]
    pub(crate) reasoning_details: Option<Vec<Value>>,
    #[serde(borrow, default)]
    pub(crate) tool_calls: Option<Vec<CallPart<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct CallPart<'a> {
    #[serde(default, deserialize_with = "count")]
    pub(crate) index: Option<u64>,
    #[serde(borrow, default)]
    pub(crate) id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) function: Option<FunctionPart<'a>>,
    /// Google's thought signatures.
    #[serde(default)]
    pub(crate) extra_content: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct FunctionPart<'a> {
    #[serde(borrow, default)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "arguments")]
    pub(crate) arguments: Option<Text<'a>>,
}

/// Content: a text, or a list of parts of which some are thoughts (Mistral).
#[derive(Debug, Default)]
pub(crate) struct Content<'a> {
    pub(crate) said: Option<Text<'a>>,
    pub(crate) thought: Option<Text<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of parts")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Content<'de>, E> {
                Ok(Content { said: Some(Text(Cow::Borrowed(text))), thought: None })
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Content<'de>, E> {
                Ok(Content { said: Some(Text(Cow::Owned(text.to_owned()))), thought: None })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content<'de>, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = list.next_element::<Value>()? {
                    parts.push(part);
                }
                Ok(content_parts(Some(&Value::Array(parts))))
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

/// Token counts as vendors spell them.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct WireUsage {
    #[serde(default, deserialize_with = "count")]
    pub(crate) prompt_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) completion_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) total_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    pub(crate) completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek.
    #[serde(default, deserialize_with = "count")]
    pub(crate) prompt_cache_hit_tokens: Option<u64>,
    /// Gateways in front of Anthropic.
    #[serde(default, deserialize_with = "count")]
    pub(crate) cache_read_input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) cache_creation_input_tokens: Option<u64>,
    /// USD, OpenRouter.
    #[serde(default)]
    pub(crate) cost: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct PromptDetails {
    #[serde(default, deserialize_with = "count")]
    pub(crate) cached_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) cache_write_tokens: Option<u64>,
    /// The same, as LiteLLM calls it; it sends both.
    #[serde(default, deserialize_with = "count")]
    pub(crate) cache_creation_tokens: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct CompletionDetails {
    #[serde(default, deserialize_with = "count")]
    pub(crate) reasoning_tokens: Option<u64>,
}

/// What a frame's data is.
#[derive(Debug)]
pub(crate) enum Parsed<'a> {
    Chunk(Chunk<'a>),
    /// A chunk that took the slow way, with the error object it may hold.
    Loose(Chunk<'static>, Option<String>),
    /// No JSON object.
    Garbage,
}

/// Parses a frame's data.
pub(crate) fn parse(data: &str) -> Parsed<'_> {
    if let Ok(chunk) = serde_json::from_str::<Chunk<'_>>(data) {
        return Parsed::Chunk(chunk);
    }
    match serde_json::from_str::<Value>(data) {
        Ok(value) if value.is_object() => {
            let error = value.get("error").filter(|error| !error.is_null()).map(Value::to_string);
            Parsed::Loose(loose_chunk(&value), error)
        }
        _ => Parsed::Garbage,
    }
}

fn loose_chunk(value: &Value) -> Chunk<'static> {
    let choices = value.get("choices").and_then(Value::as_array);
    Chunk {
        model: text(value.get("model")),
        choices: choices.map(|choices| choices.iter().map(loose_choice).collect()),
        usage: usage(value.get("usage")),
        error: None,
    }
}

fn loose_choice(value: &Value) -> Choice<'static> {
    let delta = value.get("delta").or_else(|| value.get("message"));
    Choice {
        index: number(value.get("index")),
        delta: delta.filter(|delta| delta.is_object()).map(loose_delta),
        message: None,
        finish_reason: text(value.get("finish_reason")),
        usage: usage(value.get("usage")),
    }
}

fn loose_delta(value: &Value) -> Delta<'static> {
    let content = content_parts(value.get("content"));
    let calls = value.get("tool_calls").and_then(Value::as_array);
    Delta {
        content: Some(content),
        refusal: text(value.get("refusal")),
        reasoning_content: text(value.get("reasoning_content")),
        reasoning: text(value.get("reasoning")),
        reasoning_text: text(value.get("reasoning_text")),
        reasoning_details: value.get("reasoning_details").and_then(Value::as_array).cloned(),
        tool_calls: calls.map(|calls| calls.iter().map(loose_call).collect()),
    }
}

/// Content as text and thinking.
fn content_parts(value: Option<&Value>) -> Content<'static> {
    let Some(Value::Array(parts)) = value else {
        return Content { said: text(value), thought: None };
    };
    let (mut said, mut thought) = (String::new(), String::new());
    for part in parts {
        match part.get("type").and_then(Value::as_str) {
            Some("thinking") => match part.get("thinking") {
                Some(Value::String(text)) => thought.push_str(text),
                Some(Value::Array(texts)) => {
                    texts
                        .iter()
                        .filter_map(|text| text.get("text")?.as_str())
                        .for_each(|text| thought.push_str(text));
                }
                _ => {}
            },
            _ => said.push_str(part.get("text").and_then(Value::as_str).unwrap_or_default()),
        }
    }
    let some = |text: String| (!text.is_empty()).then_some(Text(Cow::Owned(text)));
    Content { said: some(said), thought: some(thought) }
}

fn loose_call(value: &Value) -> CallPart<'static> {
    let function = value.get("function").map(|function| FunctionPart {
        name: text(function.get("name")),
        arguments: match function.get("arguments") {
            Some(object @ (Value::Object(_) | Value::Array(_))) => Some(Text(Cow::Owned(object.to_string()))),
            other => text(other),
        },
    });
    CallPart {
        index: number(value.get("index")),
        id: text(value.get("id")),
        function,
        extra_content: value.get("extra_content").filter(|extra| !extra.is_null()).cloned(),
    }
}

fn usage(value: Option<&Value>) -> Option<WireUsage> {
    WireUsage::deserialize(value.filter(|value| value.is_object())?).ok()
}

fn text(value: Option<&Value>) -> Option<Text<'static>> {
    match value? {
        Value::String(text) => Some(Text(Cow::Owned(text.clone()))),
        Value::Number(number) => Some(Text(Cow::Owned(number.to_string()))),
        _ => None,
    }
}

fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    }
}
