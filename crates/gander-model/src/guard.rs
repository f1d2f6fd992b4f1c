//! What every call of a provider goes through: the brake that all its callers share, and the price of the call.
//!
//! When a provider told one session to wait, the others learn it without asking: a short wait happens here, a long one is
//! the error that the provider would have given, marked as held back, so that the wait is shown and cancelled by the
//! engine and counts as no attempt. Dropping the stream ends a wait.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, future::BoxFuture};
use tokio::time::Instant;

use crate::{
    CheckResult, ModelError, ModelErrorClass, ModelEvent, ModelInfo, ModelProvider, ModelRequest,
    ModelStream, ProviderInfo, facts,
};

/// A wait up to this long happens without a word.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait that one answer imposes on all callers.
const LONGEST: Duration = Duration::from_secs(3600);
/// First wait when the provider names none; it doubles with every refusal in a row.
const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(30);
/// Callers that wait start one after the other, this far apart.
const STAGGER: Duration = Duration::from_millis(20);
const STAGGER_MOST: u32 = 25;

/// The brakes of all providers of one daemon.
#[derive(Debug, Clone, Default)]
pub(crate) struct Brakes(Arc<Mutex<HashMap<String, Arc<Brake>>>>);

impl Brakes {
    /// The brake of a provider.
    pub(crate) fn of(&self, provider_id: &str) -> Arc<Brake> {
        let mut brakes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(brakes.entry(provider_id.to_owned()).or_default())
    }
}

/// Until when a provider wants no calls.
#[derive(Debug, Default)]
pub(crate) struct Brake(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    until: Option<Instant>,
    /// Callers that wait for `until`.
    waiting: u32,
    /// Refusals since the last complete reply.
    refusals: u32,
}

impl Brake {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a new call should wait; nothing when it may go.
    fn wait(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.state();
        let left = state.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        if left.is_zero() {
            state.until = None;
            state.waiting = 0;
            return None;
        }
        let place = state.waiting.min(STAGGER_MOST);
        state.waiting += 1;
        Some(left + STAGGER * place)
    }

    /// Learns from what a call gave.
    fn saw(&self, item: &Result<ModelEvent, ModelError>) {
        match item {
            Ok(ModelEvent::Finished { .. }) => self.state().refusals = 0,
            Err(error) if slows(error) => {
                let mut state = self.state();
                let doubled = FIRST * 2u32.saturating_pow(state.refusals.min(5));
                let wait = error.retry_after.unwrap_or_else(|| doubled.min(MOST)).min(LONGEST);
                state.refusals = state.refusals.saturating_add(1);
                let until = Instant::now() + wait;
                if state.until.is_none_or(|known| known < until) {
                    state.until = Some(until);
                }
            }
            _ => {}
        }
    }
}

/// Whether an error is about all callers and not about this call.
fn slows(error: &ModelError) -> bool {
    match error.class {
        ModelErrorClass::RateLimited => true,
        ModelErrorClass::Overloaded | ModelErrorClass::Server => error.retry_after.is_some(),
        _ => false,
    }
}

/// A provider behind its brake, with prices.
pub(crate) struct Guarded {
    inner: Arc<dyn ModelProvider>,
    brake: Arc<Brake>,
}

impl Guarded {
    pub(crate) fn new(inner: Arc<dyn ModelProvider>, brake: Arc<Brake>) -> Self {
        Self { inner, brake }
    }

    fn prices(&self, model_id: &str) -> facts::Prices {
        let info = self.inner.info();
        let listed = info.models.iter().find(|model| model.model_id == model_id);
        let listed = listed.map_or([None; 4], |model| model.price_micros_per_million);
        if listed[0].is_some() {
            return listed;
        }
        facts::of(model_id).map_or([None; 4], |facts| facts.prices_at(&info.provider_id))
    }
}

fn held_back(provider: &str, left: Duration) -> ModelError {
    let mut error = ModelError::new(
        ModelErrorClass::RateLimited,
        format!(
            "{provider} asked for fewer calls a moment ago; the next one may start in {} s",
            left.as_secs() + 1
        ),
    );
    // As the provider itself would have answered: nothing of this call happened.
    error.status = Some(429);
    error.retry_after = Some(left);
    error.held_back = true;
    error
}

impl ModelProvider for Guarded {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }

    fn stream(&self, request: ModelRequest) -> ModelStream {
        let prices = self.prices(&request.model_id);
        let (inner, brake) = (Arc::clone(&self.inner), Arc::clone(&self.brake));
        let watching = Arc::clone(&self.brake);
        let opened = async move {
            match brake.wait() {
                None => {}
                Some(left) if left <= PATIENCE => tokio::time::sleep(left).await,
                Some(left) => {
                    let error = held_back(&inner.info().display_name, left);
                    return (futures::stream::once(async move { Err(error) }).boxed(), false);
                }
            }
            (inner.stream(request), true)
        };
        futures::stream::once(opened)
            .flat_map(move |(stream, asked)| {
                let watching = Arc::clone(&watching);
                stream.map(move |item| {
                    if asked {
                        watching.saw(&item);
                    }
                    priced(item, prices)
                })
            })
            .boxed()
    }

    fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
        self.inner.list_models()
    }

    fn check(&self) -> BoxFuture<'_, CheckResult> {
        self.inner.check()
    }

    fn can_choose_thoughts(&self, model_id: &str) -> bool {
        self.inner.can_choose_thoughts(model_id)
    }

    fn agent(&self) -> Option<Arc<dyn crate::AgentBackend>> {
        self.inner.agent()
    }
}

/// What the provider itself says about the cost stands.
fn priced(item: Result<ModelEvent, ModelError>, prices: facts::Prices) -> Result<ModelEvent, ModelError> {
    match item {
        Ok(ModelEvent::Usage { usage, cost: None }) => {
            Ok(ModelEvent::Usage { usage, cost: facts::cost(&usage, prices) })
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use gander_domain::{Usage, usage::CostSource};

    use super::*;
    use crate::{
        ModelStop,
        testing::fixtures::{info, request, user},
    };

    /// Answers with what it was given, one reply per call.
    struct Given {
        info: ProviderInfo,
        replies: Mutex<Vec<Vec<Result<ModelEvent, ModelError>>>>,
    }

    impl ModelProvider for Given {
        fn info(&self) -> &ProviderInfo {
            &self.info
        }

        fn stream(&self, _request: ModelRequest) -> ModelStream {
            let reply = self.replies.lock().unwrap().remove(0);
            futures::stream::iter(reply).boxed()
        }

        fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn check(&self) -> BoxFuture<'_, CheckResult> {
            Box::pin(async { Ok(()) })
        }
    }

    fn finished() -> Vec<Result<ModelEvent, ModelError>> {
        vec![Ok(ModelEvent::Finished { stop: ModelStop::EndTurn, model_id: None, provider_state_json: None })]
    }

    fn limited(after: Option<u64>) -> Vec<Result<ModelEvent, ModelError>> {
        let mut error = ModelError::new(ModelErrorClass::RateLimited, "slow down");
        error.retry_after = after.map(Duration::from_secs);
        vec![Err(error)]
    }

    fn guarded(brake: &Arc<Brake>, id: &str, replies: Vec<Vec<Result<ModelEvent, ModelError>>>) -> Guarded {
        let info = ProviderInfo { provider_id: id.to_owned(), ..info() };
        Guarded::new(Arc::new(Given { info, replies: Mutex::new(replies) }), Arc::clone(brake))
    }

    async fn ask(provider: &Guarded) -> Result<ModelEvent, ModelError> {
        let said: Vec<_> = provider.stream(request("claude-sonnet-4-5", vec![user("hi")])).collect().await;
        assert_eq!(said.len(), 1);
        said.into_iter().next().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_caller_is_told_slows_the_others() {
        let brake = Arc::new(Brake::default());
        let one = guarded(&brake, "p", vec![limited(Some(60)), finished()]);
        let other = guarded(&brake, "p", vec![finished(), finished()]);
        assert!(!ask(&one).await.unwrap_err().held_back, "the provider's own word");
        let held = ask(&other).await.unwrap_err();
        assert_eq!(
            (held.class, held.status, held.held_back),
            (ModelErrorClass::RateLimited, Some(429), true)
        );
        assert!(held.retry_after.unwrap() > Duration::from_secs(59), "{held:?}");
        // Its own refusal is no news for the brake.
        tokio::time::advance(Duration::from_secs(59)).await;
        let before = Instant::now();
        assert!(ask(&other).await.is_ok(), "a short wait is waited for");
        assert!(before.elapsed() >= Duration::from_secs(1) && before.elapsed() < Duration::from_secs(2));
        assert!(ask(&one).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_hint_the_wait_doubles_and_ends_with_success() {
        let brake = Arc::new(Brake::default());
        let provider = guarded(
            &brake,
            "p",
            vec![limited(None), limited(None), limited(None), finished(), limited(None), finished()],
        );
        for expected in [1, 2, 4] {
            assert!(ask(&provider).await.is_err());
            let left = brake.state().until.unwrap() - Instant::now();
            assert_eq!(left.as_secs_f64().round() as u64, expected);
            tokio::time::advance(left).await;
        }
        assert!(ask(&provider).await.is_ok());
        assert!(ask(&provider).await.is_err());
        assert_eq!((brake.state().until.unwrap() - Instant::now()).as_secs_f64().round() as u64, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_wish_counts() {
        let brake = Arc::new(Brake::default());
        let failed = |class, secs| {
            let mut error = ModelError::new(class, "later");
            error.retry_after = Some(Duration::from_secs(secs));
            Err(error)
        };
        for (class, secs, left) in [
            (ModelErrorClass::Truncated, 50, None),
            (ModelErrorClass::Server, 60, Some(60)),
            (ModelErrorClass::RateLimited, 1, Some(60)),
            (ModelErrorClass::Overloaded, 7200, Some(3600)),
        ] {
            brake.saw(&failed(class, secs));
            let until = brake.state().until;
            assert_eq!(until.map(|until| (until - Instant::now()).as_secs()), left, "{class:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_stream_waits_no_longer() {
        let brake = Arc::new(Brake::default());
        let provider = guarded(&brake, "p", vec![limited(Some(2))]);
        assert!(ask(&provider).await.is_err());
        let mut stream = provider.stream(request("m", vec![user("hi")]));
        assert!(futures::poll!(stream.next()).is_pending());
        drop(stream);
        let brakes = Brakes::default();
        assert!(Arc::ptr_eq(&brakes.of("a"), &brakes.of("a")));
        assert!(!Arc::ptr_eq(&brakes.of("a"), &brakes.of("b")));
    }

    #[tokio::test]
    async fn calls_are_priced_where_the_price_is_known() {
        let usage = Usage { input_tokens: Some(1000), output_tokens: Some(100), ..Usage::default() };
        let reply = || vec![Ok(ModelEvent::Usage { usage, cost: None })];
        let brake = Arc::new(Brake::default());
        let known = ask(&guarded(&brake, "anthropic", vec![reply()])).await.unwrap();
        let ModelEvent::Usage { cost: Some(cost), .. } = known else { panic!("{known:?}") };
        assert_eq!((cost.amount_micros, cost.source), (4500, CostSource::Table));
        let unknown = ask(&guarded(&brake, "elsewhere", vec![reply()])).await.unwrap();
        assert_eq!(unknown, ModelEvent::Usage { usage, cost: None });
    }
}
