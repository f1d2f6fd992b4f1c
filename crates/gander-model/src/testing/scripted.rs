//! A provider that plays scripts and remembers what it was asked.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use gander_domain::Usage;
use tokio::sync::watch;

use super::check_request;
use crate::{
    CheckResult, ModelError, ModelErrorClass, ModelEvent, ModelInfo, ModelProvider, ModelRequest, ModelStop,
    ModelStream, ProviderInfo,
};

/// A place in a script where the stream waits until the test says go.
#[derive(Debug, Clone)]
pub struct Gate {
    reached: Arc<watch::Sender<bool>>,
    open: Arc<watch::Sender<bool>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self { reached: Arc::new(watch::Sender::new(false)), open: Arc::new(watch::Sender::new(false)) }
    }

    /// Opens the gate for good.
    pub fn release(&self) {
        self.open.send_replace(true);
    }

    /// Waits until a stream stands at the gate.
    pub async fn reached(&self) {
        // The sender lives in self: waiting cannot fail.
        let _ = self.reached.subscribe().wait_for(|reached| *reached).await;
    }

    async fn pass(&self) {
        self.reached.send_replace(true);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Event(ModelEvent),
    Gate(Gate),
    Fail(ModelError),
    Hang,
}

/// What one model call says.
#[derive(Debug, Clone, Default)]
pub struct Script {
    steps: Vec<Step>,
    calls: u32,
}

impl Script {
    /// A script that says nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A whole reply of text.
    pub fn reply(text: &str) -> Self {
        Self::new().text(text).finish(ModelStop::EndTurn)
    }

    /// A whole reply of one call with these arguments.
    pub fn one_call(call_id: &str, name: &str, arguments_json: &str) -> Self {
        Self::new().call(call_id, name, arguments_json).finish(ModelStop::ToolCalls)
    }

    /// A call that fails.
    pub fn error(class: ModelErrorClass, message: &str) -> Self {
        Self::new().fail(ModelError::new(class, message))
    }

    /// Any event.
    #[must_use]
    pub fn event(mut self, event: ModelEvent) -> Self {
        self.steps.push(Step::Event(event));
        self
    }

    /// A piece of text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.event(ModelEvent::TextDelta(text.to_owned()))
    }

    /// A whole thought.
    #[must_use]
    pub fn thought(self, text: &str) -> Self {
        self.event(ModelEvent::ThoughtDelta(text.to_owned())).event(ModelEvent::ThoughtCompleted {
            signature: None,
            redacted_data: None,
            provider_state_json: None,
        })
    }

    /// A whole call; calls are numbered in order.
    #[must_use]
    pub fn call(mut self, call_id: &str, name: &str, arguments_json: &str) -> Self {
        let index = self.calls;
        self.calls += 1;
        let (call_id, name) = (call_id.to_owned(), name.to_owned());
        let (text, invalid_arguments) = crate::wire::finish_arguments(arguments_json);
        self.event(ModelEvent::ToolCallStarted { index, call_id: call_id.clone(), name: name.clone() })
            .event(ModelEvent::ToolArgumentsDelta { index, text: arguments_json.to_owned() })
            .event(ModelEvent::ToolCallCompleted {
                index,
                call_id,
                name,
                arguments_json: text,
                invalid_arguments,
                provider_state_json: None,
            })
    }

    /// Token counts.
    #[must_use]
    pub fn usage(self, input_tokens: u64, output_tokens: u64) -> Self {
        let usage = Usage {
            input_tokens: Some(input_tokens),
            output_tokens: Some(output_tokens),
            total_tokens: Some(input_tokens + output_tokens),
            ..Usage::default()
        };
        self.event(ModelEvent::Usage { usage, cost: None })
    }

    /// Waits for the test.
    #[must_use]
    pub fn gate(mut self, gate: &Gate) -> Self {
        self.steps.push(Step::Gate(gate.clone()));
        self
    }

    /// Ends with an error.
    #[must_use]
    pub fn fail(mut self, error: ModelError) -> Self {
        self.steps.push(Step::Fail(error));
        self
    }

    /// Says nothing more and never ends; only dropping the stream helps.
    #[must_use]
    pub fn hang(mut self) -> Self {
        self.steps.push(Step::Hang);
        self
    }

    /// Ends the reply.
    #[must_use]
    pub fn finish(self, stop: ModelStop) -> Self {
        self.event(ModelEvent::Finished { stop, model_id: None, provider_state_json: None })
    }
}

/// The provider. A call without a script left fails as `InvalidRequest`.
#[derive(Debug)]
pub struct ScriptedProvider {
    info: ProviderInfo,
    scripts: Mutex<VecDeque<Script>>,
    requests: Mutex<Vec<ModelRequest>>,
    violations: Mutex<Vec<String>>,
    count: watch::Sender<usize>,
    dropped: Arc<AtomicUsize>,
}

impl Default for ScriptedProvider {
    fn default() -> Self {
        Self::new([])
    }
}

impl ScriptedProvider {
    /// A provider `scripted` with model `scripted-1` that plays these scripts, one per call.
    pub fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        let model = ModelInfo {
            model_id: "scripted-1".to_owned(),
            display_name: "Scripted".to_owned(),
            context_window_tokens: Some(100_000),
            max_output_tokens: None,
            price_micros_per_million: [None; 4],
        };
        Self {
            info: ProviderInfo {
                provider_id: "scripted".to_owned(),
                display_name: "Scripted".to_owned(),
                description: "Plays scripts, for tests".to_owned(),
                default_model_id: Some(model.model_id.clone()),
                models: vec![model],
                doc_url: None,
                config_keys: Vec::new(),
                allows_unlisted_models: true,
                kind: "builtin".to_owned(),
            },
            scripts: Mutex::new(scripts.into_iter().collect()),
            requests: Mutex::default(),
            violations: Mutex::default(),
            count: watch::Sender::new(0),
            dropped: Arc::default(),
        }
    }

    /// The same with other facts about itself: another id, another window.
    #[must_use]
    pub fn with_info(mut self, change: impl FnOnce(&mut ProviderInfo)) -> Self {
        change(&mut self.info);
        self
    }

    /// Adds a script for a later call.
    pub fn push(&self, script: Script) {
        lock(&self.scripts).push_back(script);
    }

    /// Scripts that were not played yet.
    pub fn remaining(&self) -> usize {
        lock(&self.scripts).len()
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<ModelRequest> {
        lock(&self.requests).clone()
    }

    /// What was wrong with the requests so far ([`check_request`]).
    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    /// Streams that were dropped before their script was played to its end.
    pub fn dropped_streams(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    /// Waits until there were `count` requests.
    pub async fn wait_for_requests(&self, count: usize) {
        let _ = self.count.subscribe().wait_for(|seen| *seen >= count).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Playing {
    steps: std::vec::IntoIter<Step>,
    ended: bool,
    dropped: Arc<AtomicUsize>,
}

impl Drop for Playing {
    fn drop(&mut self) {
        if !self.ended {
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Playing {
    async fn next(&mut self) -> Option<Result<ModelEvent, ModelError>> {
        loop {
            match self.steps.next() {
                Some(Step::Event(event)) => {
                    self.ended |= matches!(event, ModelEvent::Finished { .. });
                    return Some(Ok(event));
                }
                Some(Step::Gate(gate)) => gate.pass().await,
                Some(Step::Fail(error)) => {
                    self.ended = true;
                    self.steps = Vec::new().into_iter();
                    return Some(Err(error));
                }
                Some(Step::Hang) => std::future::pending().await,
                None => {
                    self.ended = true;
                    return None;
                }
            }
        }
    }
}

impl ModelProvider for ScriptedProvider {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    fn stream(&self, request: ModelRequest) -> ModelStream {
        if let Err(wrong) = check_request(&request) {
            lock(&self.violations).extend(wrong);
        }
        lock(&self.requests).push(request);
        let script = lock(&self.scripts).pop_front().unwrap_or_else(|| {
            Script::error(ModelErrorClass::InvalidRequest, "the test has no script for this model call")
        });
        self.count.send_modify(|count| *count += 1);
        let playing =
            Playing { steps: script.steps.into_iter(), ended: false, dropped: Arc::clone(&self.dropped) };
        futures::stream::unfold(playing, |mut playing| async move {
            let item = playing.next().await?;
            Some((item, playing))
        })
        .boxed()
    }

    fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
        futures::future::ready(Ok(self.info.models.clone())).boxed()
    }

    fn check(&self) -> BoxFuture<'_, CheckResult> {
        futures::future::ready(Ok(())).boxed()
    }

    /// Of models whose name ends in `-thinking`.
    fn can_choose_thoughts(&self, model_id: &str) -> bool {
        model_id.ends_with("-thinking")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ModelRequest {
        ModelRequest {
            model_id: "scripted-1".to_owned(),
            system: String::new(),
            items: Vec::new(),
            tools: Vec::new(),
            temperature_millis: None,
            max_output_tokens: None,
            extra_params_json: None,
            thought_level: None,
        }
    }

    #[tokio::test]
    async fn plays_scripts_in_order_waits_at_gates_and_counts_drops() {
        let gate = Gate::new();
        let provider = ScriptedProvider::new([
            Script::new().text("a").gate(&gate).text("b").finish(ModelStop::EndTurn),
            Script::new().text("c").hang(),
        ]);
        let mut stream = provider.stream(request());
        assert_eq!(stream.next().await, Some(Ok(ModelEvent::TextDelta("a".to_owned()))));
        assert!(stream.next().now_or_never().is_none());
        gate.reached().await;
        gate.release();
        assert_eq!(stream.next().await, Some(Ok(ModelEvent::TextDelta("b".to_owned()))));
        assert!(matches!(stream.next().await, Some(Ok(ModelEvent::Finished { .. }))));
        assert_eq!(stream.next().await, None);
        drop(stream);
        assert_eq!(provider.dropped_streams(), 0);
        let mut stream = provider.stream(request());
        assert!(stream.next().await.is_some());
        assert!(stream.next().now_or_never().is_none());
        drop(stream);
        assert_eq!(provider.dropped_streams(), 1);
        provider.wait_for_requests(2).await;
        let left = provider.stream(request()).next().await;
        assert!(matches!(left, Some(Err(error)) if error.class == ModelErrorClass::InvalidRequest));
    }
}
