//! The embedded `demo` provider: no language model, but the real loop and the real tools.
//!
//! It looks at the last user message and at what was done since, and answers by fixed rules: the same conversation
//! always gives the same reply. Every turn's text begins with [`LABEL`], so that nobody takes it for a model's.

mod command;
mod plan;

use std::{collections::VecDeque, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use gander_domain::Usage;

use crate::{
    CheckResult, ModelError, ModelEvent, ModelInfo, ModelProvider, ModelRequest, ModelStop, ModelStream,
    ProviderInfo,
};

/// Id of the provider.
pub const PROVIDER_ID: &str = "demo";
/// Id of its only model.
pub const MODEL_ID: &str = "demo-1";
/// How every turn's text begins.
pub const LABEL: &str = "[demo model]";
/// Pause between the tokens of `slow`.
const SLOW_PAUSE: Duration = Duration::from_millis(10);

/// The provider that needs neither key nor network.
#[derive(Debug)]
pub struct DemoProvider {
    info: ProviderInfo,
}

impl Default for DemoProvider {
    fn default() -> Self {
        Self::new()
    }
}

impl DemoProvider {
    pub fn new() -> Self {
        let model = ModelInfo {
            model_id: MODEL_ID.to_owned(),
            display_name: "Demo (no language model)".to_owned(),
            context_window_tokens: Some(1_000_000),
            max_output_tokens: None,
            price_micros_per_million: [Some(0); 4],
        };
        Self {
            info: ProviderInfo {
                provider_id: PROVIDER_ID.to_owned(),
                display_name: "Demo".to_owned(),
                description:
                    "Fixed rules instead of a language model: shows the loop and the tools without a key."
                        .to_owned(),
                default_model_id: Some(MODEL_ID.to_owned()),
                models: vec![model],
                doc_url: None,
                config_keys: Vec::new(),
                allows_unlisted_models: false,
                kind: "demo".to_owned(),
            },
        }
    }
}

impl ModelProvider for DemoProvider {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    fn stream(&self, request: ModelRequest) -> ModelStream {
        let script =
            Script { input_words: input_words(&request), steps: plan::plan(&request), output_words: 0 };
        futures::stream::unfold(Box::new(script), |mut script| async move {
            let item = script.next().await?;
            Some((item, script))
        })
        .boxed()
    }

    fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
        futures::future::ready(Ok(self.info.models.clone())).boxed()
    }

    fn check(&self) -> BoxFuture<'_, CheckResult> {
        futures::future::ready(Ok(())).boxed()
    }
}

/// What is still to be said.
#[derive(Debug)]
enum Step {
    Event(ModelEvent),
    /// `tok-<next>` … `tok-<last>`.
    Tokens {
        next: u64,
        last: u64,
        slow: bool,
    },
    Fail(ModelError),
    Finish(ModelStop),
}

#[derive(Debug)]
struct Script {
    input_words: u64,
    output_words: u64,
    steps: VecDeque<Step>,
}

impl Script {
    async fn next(&mut self) -> Option<Result<ModelEvent, ModelError>> {
        let event = match self.steps.pop_front()? {
            Step::Event(event) => event,
            Step::Tokens { next, last, slow } => {
                if slow {
                    tokio::time::sleep(SLOW_PAUSE).await;
                } else if next % 64 == 0 {
                    // A burst must not keep its thread from everybody else.
                    tokio::task::yield_now().await;
                }
                if next < last {
                    self.steps.push_front(Step::Tokens { next: next + 1, last, slow });
                }
                ModelEvent::TextDelta(format!("tok-{next} "))
            }
            Step::Fail(error) => {
                self.steps.clear();
                return Some(Err(error));
            }
            Step::Finish(stop) => {
                self.steps.push_front(Step::Event(ModelEvent::Finished {
                    stop,
                    model_id: Some(MODEL_ID.to_owned()),
                    provider_state_json: None,
                }));
                ModelEvent::Usage { usage: self.usage(), cost: None }
            }
        };
        if let ModelEvent::TextDelta(text)
        | ModelEvent::ThoughtDelta(text)
        | ModelEvent::ToolArgumentsDelta { text, .. } = &event
        {
            self.output_words += words(text);
        }
        Some(Ok(event))
    }

    /// Words, as an estimate of tokens.
    fn usage(&self) -> Usage {
        Usage {
            input_tokens: Some(self.input_words),
            output_tokens: Some(self.output_words),
            total_tokens: Some(self.input_words + self.output_words),
            ..Usage::default()
        }
    }
}

fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

fn input_words(request: &ModelRequest) -> u64 {
    let items: u64 = request
        .items
        .iter()
        .filter(|item| item.visibility.model)
        .map(|item| {
            let call = item.tool_call().map_or(0, |call| {
                let result = call.result.as_ref();
                words(&call.arguments_json)
                    + result.map_or(0, |result| words(&gander_domain::content::join_text(&result.parts)))
            });
            words(&item.text()) + call
        })
        .sum();
    words(&request.system) + items
}

#[cfg(test)]
mod tests;
