//! A recorded call as a JSON document.

use std::time::Duration;

use gander_domain::{Usage, usage::Cost};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::key::Keys;
use crate::{ModelError, ModelErrorClass, ModelEvent, ModelStop};

const VERSION: u64 = 1;

/// A call and all that came of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) provider_id: String,
    pub(super) model_id: String,
    pub(super) keys: Keys,
    pub(super) events: Vec<Result<ModelEvent, ModelError>>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u64,
    provider_id: String,
    model_id: String,
    key: String,
    key_without_system: String,
    key_of_outline: String,
    events: Vec<Event>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Text {
        text: String,
    },
    Thought {
        text: String,
    },
    ThoughtCompleted {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        redacted_data: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<String>,
    },
    CallStarted {
        index: u32,
        call_id: String,
        name: String,
    },
    Arguments {
        index: u32,
        text: String,
    },
    CallCompleted {
        index: u32,
        call_id: String,
        name: String,
        arguments: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        invalid: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<String>,
    },
    Usage {
        usage: Usage,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Cost>,
    },
    Finished {
        stop: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<String>,
    },
    Failed {
        class: String,
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        help_url: Option<String>,
    },
    /// What a newer version recorded.
    #[serde(other)]
    Unknown,
}

const STOPS: [(ModelStop, &str); 4] = [
    (ModelStop::EndTurn, "end_turn"),
    (ModelStop::ToolCalls, "tool_calls"),
    (ModelStop::MaxOutputTokens, "max_output_tokens"),
    (ModelStop::Refusal, "refusal"),
];

const CLASSES: [(ModelErrorClass, &str); 10] = [
    (ModelErrorClass::Auth, "auth"),
    (ModelErrorClass::RateLimited, "rate_limited"),
    (ModelErrorClass::QuotaExhausted, "quota_exhausted"),
    (ModelErrorClass::ContextExceeded, "context_exceeded"),
    (ModelErrorClass::Overloaded, "overloaded"),
    (ModelErrorClass::Server, "server"),
    (ModelErrorClass::Network, "network"),
    (ModelErrorClass::Truncated, "truncated"),
    (ModelErrorClass::InvalidRequest, "invalid_request"),
    (ModelErrorClass::ModelUnknown, "model_unknown"),
];

fn name_of<T: PartialEq>(table: &[(T, &'static str)], value: &T) -> String {
    table.iter().find(|(known, _)| known == value).map_or_else(String::new, |(_, name)| (*name).to_owned())
}

fn value_of<T: Copy>(table: &[(T, &'static str)], name: &str) -> Result<T, String> {
    let found = table.iter().find(|(_, known)| *known == name).map(|(value, _)| *value);
    found.ok_or_else(|| format!("{name:?} is not known"))
}

impl Call {
    /// The document.
    pub(super) fn text(&self) -> String {
        let document = Document {
            version: VERSION,
            provider_id: self.provider_id.clone(),
            model_id: self.model_id.clone(),
            key: self.keys.whole.clone(),
            key_without_system: self.keys.talk.clone(),
            key_of_outline: self.keys.outline.clone(),
            events: self.events.iter().map(write).collect(),
        };
        let value = serde_json::to_value(document).unwrap_or_else(|_| json!({}));
        format!("{value:#}\n")
    }

    /// Reads a document.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let document: Document = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if document.version != VERSION {
            return Err(format!("its version {} is not known; {VERSION} is", document.version));
        }
        let events = document.events.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            provider_id: document.provider_id,
            model_id: document.model_id,
            keys: Keys {
                whole: document.key,
                talk: document.key_without_system,
                outline: document.key_of_outline,
            },
            events,
        })
    }
}

fn write(item: &Result<ModelEvent, ModelError>) -> Event {
    match item.clone() {
        Ok(ModelEvent::TextDelta(text)) => Event::Text { text },
        Ok(ModelEvent::ThoughtDelta(text)) => Event::Thought { text },
        Ok(ModelEvent::ThoughtCompleted { signature, redacted_data, provider_state_json }) => {
            Event::ThoughtCompleted { signature, redacted_data, state: provider_state_json }
        }
        Ok(ModelEvent::ToolCallStarted { index, call_id, name }) => {
            Event::CallStarted { index, call_id, name }
        }
        Ok(ModelEvent::ToolArgumentsDelta { index, text }) => Event::Arguments { index, text },
        Ok(ModelEvent::ToolCallCompleted {
            index,
            call_id,
            name,
            arguments_json,
            invalid_arguments,
            provider_state_json,
        }) => Event::CallCompleted {
            index,
            call_id,
            name,
            arguments: arguments_json,
            invalid: invalid_arguments,
            state: provider_state_json,
        },
        Ok(ModelEvent::Usage { usage, cost }) => Event::Usage { usage, cost },
        Ok(ModelEvent::Finished { stop, model_id, provider_state_json }) => {
            Event::Finished { stop: name_of(&STOPS, &stop), model_id, state: provider_state_json }
        }
        Err(error) => Event::Failed {
            class: name_of(&CLASSES, &error.class),
            message: error.message,
            status: error.status,
            retry_after_ms: error
                .retry_after
                .map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            help_url: error.help_url,
        },
    }
}

fn read(event: Event) -> Result<Result<ModelEvent, ModelError>, String> {
    Ok(Ok(match event {
        Event::Text { text } => ModelEvent::TextDelta(text),
        Event::Thought { text } => ModelEvent::ThoughtDelta(text),
        Event::ThoughtCompleted { signature, redacted_data, state } => {
            ModelEvent::ThoughtCompleted { signature, redacted_data, provider_state_json: state }
        }
        Event::CallStarted { index, call_id, name } => ModelEvent::ToolCallStarted { index, call_id, name },
        Event::Arguments { index, text } => ModelEvent::ToolArgumentsDelta { index, text },
        Event::CallCompleted { index, call_id, name, arguments, invalid, state } => {
            ModelEvent::ToolCallCompleted {
                index,
                call_id,
                name,
                arguments_json: arguments,
                invalid_arguments: invalid,
                provider_state_json: state,
            }
        }
        Event::Usage { usage, cost } => ModelEvent::Usage { usage, cost },
        Event::Finished { stop, model_id, state } => {
            ModelEvent::Finished { stop: value_of(&STOPS, &stop)?, model_id, provider_state_json: state }
        }
        Event::Failed { class, message, status, retry_after_ms, help_url } => {
            let mut error = ModelError::new(value_of(&CLASSES, &class)?, message);
            error.status = status;
            error.retry_after = retry_after_ms.map(Duration::from_millis);
            error.help_url = help_url;
            return Ok(Err(error));
        }
        Event::Unknown => return Err("it holds an event that this version does not know".to_owned()),
    }))
}
