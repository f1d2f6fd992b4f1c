//! One frame of an OpenAI chat stream, typed and borrowed from the bytes.
//!
//! Ordinary frames are parsed once without a JSON tree. Frames of another shape (content as a list of parts, arguments
//! as an object, ids as numbers) take the slow way through a tree; both ways give the same type.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};
use serde_json::{Value, value::RawValue};

/// Text, borrowed from the frame when it holds no escapes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E: Error>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A chunk of a stream, or a whole completion.
#[derive(Debug, Deserialize)]
pub(crate) struct Chunk<'a> {
    #[serde(borrow, default)]
    pub(crate) model: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    pub(crate) usage: Option<WireUsage>,
    #[serde(borrow, default)]
    pub(crate) error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Choice<'a> {
    #[serde(default)]
    pub(crate) index: Option<u64>,
    #[serde(borrow, default, alias = "message")]
    pub(crate) delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    pub(crate) finish_reason: Option<Text<'a>>,
    #[serde(default)]
    pub(crate) usage: Option<WireUsage>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Delta<'a> {
    #[serde(borrow, default)]
    pub(crate) content: Option<Text<'a>>,
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
    #[serde(default)]
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
    #[serde(borrow, default)]
    pub(crate) arguments: Option<Text<'a>>,
}

/// Token counts as vendors spell them.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct WireUsage {
    #[serde(default)]
    pub(crate) prompt_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) completion_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) total_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    pub(crate) completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek.
    #[serde(default)]
    pub(crate) prompt_cache_hit_tokens: Option<u64>,
    /// Gateways in front of Anthropic.
    #[serde(default)]
    pub(crate) cache_read_input_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) cache_creation_input_tokens: Option<u64>,
    /// USD, OpenRouter.
    #[serde(default)]
    pub(crate) cost: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct PromptDetails {
    #[serde(default)]
    pub(crate) cached_tokens: Option<u64>,
    #[serde(default, alias = "cache_creation_tokens")]
    pub(crate) cache_write_tokens: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct CompletionDetails {
    #[serde(default)]
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
pub(crate) fn parse(data: &[u8]) -> Parsed<'_> {
    if let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) {
        return Parsed::Chunk(chunk);
    }
    match serde_json::from_slice::<Value>(data) {
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
        finish_reason: text(value.get("finish_reason")),
        usage: usage(value.get("usage")),
    }
}

fn loose_delta(value: &Value) -> Delta<'static> {
    let (content, thinking) = content_parts(value.get("content"));
    let calls = value.get("tool_calls").and_then(Value::as_array);
    Delta {
        content,
        refusal: text(value.get("refusal")),
        reasoning_content: text(value.get("reasoning_content")).or(thinking),
        reasoning: text(value.get("reasoning")),
        reasoning_text: text(value.get("reasoning_text")),
        reasoning_details: value.get("reasoning_details").and_then(Value::as_array).cloned(),
        tool_calls: calls.map(|calls| calls.iter().map(loose_call).collect()),
    }
}

/// Content as text and thinking; Mistral sends lists of parts.
fn content_parts(value: Option<&Value>) -> (Option<Text<'static>>, Option<Text<'static>>) {
    let Some(Value::Array(parts)) = value else {
        return (text(value), None);
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
    (some(said), some(thought))
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
