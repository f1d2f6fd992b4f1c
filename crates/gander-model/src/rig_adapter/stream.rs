//! rig's decoder as model events.
//!
//! The id of a call is known to rig's consumers only at the call's end, so that calls appear whole: their arguments are
//! not streamed.

use std::{collections::VecDeque, time::SystemTime};

use futures::StreamExt as _;
use gander_domain::Usage;
use rig_core::{
    completion::{CompletionResponse, FinishReason},
    driver::Model,
    error::ProviderError,
    http_client::{self, DynHttpClient},
    message::{AssistantContent, ToolCall},
    streaming::{CompletionStream, Item, StreamEvent},
};
use rig_reqwest::ReqwestClient;
use serde_json::{Value, json};

use super::Profile;
use crate::{
    ModelError, ModelErrorClass, ModelEvent, ModelRequest, ModelStop, ModelStream,
    classify::{Failure, classify},
    openai::{ENGINE, cost},
    redact::Redactor,
    wire::{finish_arguments, network_error, truncated},
};

/// Starts a call that rig sends and decodes.
pub(crate) fn stream(
    profile: &Profile,
    client: &reqwest::Client,
    request: &ModelRequest,
    redactor: &Redactor,
) -> ModelStream {
    let opened = super::completion_request(profile, request, &mut |text| super::exact::parse(&text))
        .and_then(|completion| {
            let http = DynHttpClient::new(ReqwestClient::from(client.clone()));
            Model::new(profile.chat(&request.model_id), http)
                .stream(completion)
                .map_err(|error| convert_error(&error, redactor))
        });
    let reading = Reading {
        stream: None,
        kept: Vec::new(),
        next_index: 0,
        queue: VecDeque::new(),
        provider_id: profile.provider_id.clone(),
        redactor: redactor.clone(),
    };
    let reading = match opened {
        Ok(stream) => Reading { stream: Some(stream), ..reading },
        Err(error) => Reading { queue: VecDeque::from([Err(error)]), ..reading },
    };
    futures::stream::unfold(Box::new(reading), |mut reading| async move {
        let item = reading.next().await?;
        Some((item, reading))
    })
    .boxed()
}

struct Reading {
    stream: Option<CompletionStream>,
    kept: Vec<(String, String)>,
    next_index: u32,
    queue: VecDeque<Result<ModelEvent, ModelError>>,
    provider_id: String,
    redactor: Redactor,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<ModelEvent, ModelError>> {
        loop {
            if let Some(item) = self.queue.pop_front() {
                return Some(item);
            }
            let stream = self.stream.as_mut()?;
            match stream.next().await {
                Some(Ok(Item::Event(event))) => self.event(event),
                Some(Ok(Item::Unknown(_))) => {}
                Some(Err(error)) => {
                    self.stream = None;
                    self.queue.push_back(Err(convert_error(&error, &self.redactor)));
                }
                None => {
                    let stream = self.stream.take()?;
                    match stream.finish().await {
                        Ok(response) => self.finish(&response),
                        Err(error) => self.queue.push_back(Err(convert_error(&error, &self.redactor))),
                    }
                }
            }
        }
    }

    fn push(&mut self, event: ModelEvent) {
        self.queue.push_back(Ok(event));
    }

    fn event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Start { .. } | StreamEvent::Arguments { .. } => {}
            StreamEvent::Text { text, .. } => self.push(ModelEvent::TextDelta(text)),
            StreamEvent::Reasoning { text, .. } if !text.is_empty() => {
                self.push(ModelEvent::ThoughtDelta(text));
            }
            StreamEvent::Reasoning { .. } => {}
            StreamEvent::End { content, .. } => {
                let item = content.native_item().cloned();
                match content {
                    AssistantContent::Reasoning(_) => {
                        let provider_state_json = item.map(|item| self.state(&item));
                        self.push(ModelEvent::ThoughtCompleted {
                            signature: None,
                            redacted_data: None,
                            provider_state_json,
                        });
                    }
                    AssistantContent::ToolCall(call) => self.call(&call, item.as_ref()),
                    _ => {}
                }
            }
        }
    }

    fn state(&self, item: &Value) -> String {
        json!({ "engine": ENGINE, "version": 1, "provider": self.provider_id, "item": item }).to_string()
    }

    fn call(&mut self, call: &ToolCall, item: Option<&Value>) {
        let text = match &call.function.invalid_arguments {
            Some(raw) => raw.clone(),
            None => Value::Object(call.function.arguments.clone()).to_string(),
        };
        let (arguments_json, invalid_arguments) = finish_arguments(&text);
        let name = String::from(call.function.name.clone());
        let print = (name.clone(), arguments_json.clone());
        if call.id.is_local() && self.kept.contains(&print) {
            return;
        }
        self.kept.push(print);
        let index = self.next_index;
        self.next_index += 1;
        let call_id = call.id.to_string();
        self.push(ModelEvent::ToolCallStarted { index, call_id: call_id.clone(), name: name.clone() });
        self.push(ModelEvent::ToolArgumentsDelta { index, text });
        let extra = item.and_then(|item| item.get("extra_content").cloned());
        let provider_state_json = extra.map(|extra| self.state(&json!({ "extra_content": extra })));
        self.push(ModelEvent::ToolCallCompleted {
            index,
            call_id,
            name,
            arguments_json,
            invalid_arguments,
            provider_state_json,
        });
    }

    fn finish(&mut self, response: &CompletionResponse) {
        let stop = match response.finish_reason() {
            Some(FinishReason::Length) => ModelStop::MaxOutputTokens,
            Some(FinishReason::ContentFilter) => ModelStop::Refusal,
            Some(FinishReason::Other(reason)) if reason == "error" => {
                self.queue.push_back(Err(ModelError::new(
                    ModelErrorClass::Server,
                    "the model provider stopped with finish reason `error`",
                )));
                return;
            }
            _ if response.tool_calls().next().is_some() => ModelStop::ToolCalls,
            _ => ModelStop::EndTurn,
        };
        let usage = &response.usage;
        if usage.is_reported() {
            self.push(ModelEvent::Usage {
                usage: Usage {
                    input_tokens: usage.input_tokens,
                    output_tokens: usage.output_tokens,
                    cache_read_tokens: usage.cached_input_tokens,
                    cache_write_tokens: usage.cache_creation_input_tokens,
                    reasoning_tokens: usage.reasoning_tokens,
                    total_tokens: usage.total_tokens,
                },
                cost: usage.cost.as_ref().and_then(|money| cost(money.total)),
            });
        }
        self.push(ModelEvent::Finished {
            stop,
            model_id: response.model().map(str::to_owned),
            provider_state_json: None,
        });
    }
}

fn convert_error(error: &ProviderError, redactor: &Redactor) -> ModelError {
    if let Some(response) = error.provider_response() {
        return classify(
            &Failure {
                status: response.status.map(|status| status.as_u16()),
                headers: response.headers.as_ref(),
                body: &response.body,
                now: SystemTime::now(),
            },
            redactor,
        );
    }
    match error {
        ProviderError::Truncated => truncated(),
        ProviderError::Http(inner) => match inner.as_ref() {
            http_client::Error::Instance(source) => match source.downcast_ref::<reqwest::Error>() {
                // A body that breaks off is a reply cut short; silence is the network's fault.
                Some(error) if !error.is_timeout() && (error.is_body() || error.is_decode()) => truncated(),
                Some(error) => network_error(error, redactor),
                None => ModelError::new(ModelErrorClass::Network, redactor.apply(&inner.to_string())),
            },
            http_client::Error::StreamEnded => truncated(),
            other => ModelError::new(ModelErrorClass::Network, redactor.apply(&other.to_string())),
        },
        ProviderError::Provider(text) => {
            classify(&Failure { status: None, headers: None, body: text, now: SystemTime::now() }, redactor)
        }
        ProviderError::Request(_) | ProviderError::Url(_) | ProviderError::UnsupportedOption(_) => {
            ModelError::new(ModelErrorClass::InvalidRequest, redactor.apply(&error.to_string()))
        }
        other => ModelError::new(ModelErrorClass::Server, redactor.apply(&other.to_string())),
    }
}
