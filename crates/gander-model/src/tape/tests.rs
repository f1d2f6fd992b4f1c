use std::sync::Arc;

use futures::StreamExt as _;
use gander_domain::{
    Usage,
    usage::{Cost, CostSource},
};

use super::*;
use crate::{
    ModelStop,
    testing::fixtures::{done, info, request, user},
};

/// Says everything that can be said, then fails.
struct Talker(ProviderInfo, std::sync::atomic::AtomicUsize);

fn everything() -> Vec<Result<ModelEvent, ModelError>> {
    let text = str::to_owned;
    vec![
        Ok(ModelEvent::ThoughtDelta(text("hm"))),
        Ok(ModelEvent::ThoughtCompleted {
            signature: Some(text("c2ln")),
            redacted_data: Some(text("data")),
            provider_state_json: Some(text("{\"engine\":\"x\"}")),
        }),
        Ok(ModelEvent::TextDelta(text("hello “wörld”\n"))),
        Ok(ModelEvent::ToolCallStarted { index: 0, call_id: text("a"), name: text("get_weather") }),
        Ok(ModelEvent::ToolArgumentsDelta { index: 0, text: text("{\"ci") }),
        Ok(ModelEvent::ToolCallCompleted {
            index: 0,
            call_id: text("a"),
            name: text("get_weather"),
            arguments_json: text("{\"ci"),
            invalid_arguments: Some(text("cut")),
            provider_state_json: None,
        }),
        Ok(ModelEvent::Usage {
            usage: Usage { input_tokens: Some(3), ..Usage::default() },
            cost: Some(Cost { amount_micros: 7, currency: text("USD"), source: CostSource::Table }),
        }),
        Ok(ModelEvent::Finished {
            stop: ModelStop::ToolCalls,
            model_id: Some(text("m-1")),
            provider_state_json: None,
        }),
    ]
}

fn failure() -> Vec<Result<ModelEvent, ModelError>> {
    let mut error = ModelError::new(ModelErrorClass::RateLimited, "slow down");
    error.status = Some(429);
    error.retry_after = Some(std::time::Duration::from_millis(1500));
    error.help_url = Some("https://x.test".to_owned());
    vec![Ok(ModelEvent::TextDelta("par".to_owned())), Err(error)]
}

impl ModelProvider for Talker {
    fn info(&self) -> &ProviderInfo {
        &self.0
    }

    fn stream(&self, _request: ModelRequest) -> ModelStream {
        let first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
        futures::stream::iter(if first { failure() } else { everything() }).boxed()
    }

    fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn check(&self) -> BoxFuture<'_, CheckResult> {
        async { Ok(()) }.boxed()
    }
}

async fn ask(provider: &dyn ModelProvider, request: ModelRequest) -> Vec<Result<ModelEvent, ModelError>> {
    provider.stream(request).collect().await
}

#[tokio::test]
async fn what_was_recorded_is_played_back_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("tape");
    assert!(Tape::replay(&place).is_err());
    let tape = Arc::new(Tape::record(&place).unwrap());
    let talker = Arc::new(Talker(info(), std::sync::atomic::AtomicUsize::new(0)));
    let recorder = Tape::recorder(&tape, talker);
    let first = || request("m", vec![user("hi")]);
    let second = || request("m", vec![user("hi"), done("m1", "call_1", "get_weather", "12:00 sunny")]);
    assert_eq!(ask(&*recorder, first()).await, failure());
    assert_eq!(ask(&*recorder, first()).await, everything());
    assert_eq!(ask(&*recorder, second()).await, everything());
    // Dropped before its end: no record.
    drop(recorder.stream(first()).next().await);

    let tape = Arc::new(Tape::replay(&place).unwrap());
    assert_eq!(tape.selection(), Some(("fake".to_owned(), "m".to_owned())));
    let player = Tape::player(&tape, "fake", None);
    let mut elsewhere = first();
    elsewhere.system = "Another day in another directory.".to_owned();
    assert_eq!(ask(&*player, elsewhere).await, failure());
    // The result of the tool is another one, and so is the call's id.
    let other = request("m", vec![user("hi"), done("m2", "call_9", "get_weather", "13:00 rain")]);
    assert_eq!(ask(&*player, other).await, everything());
    assert_eq!(ask(&*player, first()).await, everything());
    let said = ask(&*player, first()).await;
    let Some(Err(error)) = said.last() else { panic!("{said:?}") };
    assert!(error.message.contains("no further reply"), "{}", error.message);
    assert!(ask(&*player, request("other-model", vec![user("hi")])).await[0].is_err());
}

#[tokio::test]
async fn a_record_goes_on_behind_what_is_there_and_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let tape = Arc::new(Tape::record(directory.path()).unwrap());
        let recorder =
            Tape::recorder(&tape, Arc::new(Talker(info(), std::sync::atomic::AtomicUsize::new(1))));
        ask(&*recorder, request("m", vec![user("hi")])).await;
    }
    let names: Vec<_> = files(directory.path()).unwrap();
    assert_eq!(names.len(), 2);
    let mode = std::fs::metadata(&names[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::write(&names[1], "{\"version\":9}").unwrap();
    let wrong = Tape::replay(directory.path()).unwrap_err();
    assert!(wrong.contains("call-00002.json"), "{wrong}");
}

#[tokio::test]
async fn what_the_provider_was_not_asked_is_not_recorded() {
    /// Holds two calls back, then answers.
    struct Busy(ProviderInfo, std::sync::atomic::AtomicUsize);
    impl ModelProvider for Busy {
        fn info(&self) -> &ProviderInfo {
            &self.0
        }
        fn stream(&self, _request: ModelRequest) -> ModelStream {
            let mut reply = everything();
            if self.1.fetch_add(1, Ordering::SeqCst) < 2 {
                let mut held = ModelError::new(ModelErrorClass::RateLimited, "wait a moment");
                held.held_back = true;
                held.retry_after = Some(std::time::Duration::from_secs(9));
                reply = vec![Err(held)];
            }
            futures::stream::iter(reply).boxed()
        }
        fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
            async { Ok(Vec::new()) }.boxed()
        }
        fn check(&self) -> BoxFuture<'_, CheckResult> {
            async { Ok(()) }.boxed()
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let tape = Arc::new(Tape::record(directory.path()).unwrap());
    let recorder = Tape::recorder(&tape, Arc::new(Busy(info(), std::sync::atomic::AtomicUsize::new(0))));
    for _ in 0..2 {
        let said = ask(&*recorder, request("m", vec![user("hi")])).await;
        assert!(matches!(said.as_slice(), [Err(error)] if error.held_back), "{said:?}");
        assert_eq!(files(directory.path()).unwrap().len(), 0);
    }
    assert_eq!(ask(&*recorder, request("m", vec![user("hi")])).await, everything());
    assert_eq!(files(directory.path()).unwrap().len(), 1);
    // The replay waits for nothing and begins with the answer.
    let player = Tape::player(&Arc::new(Tape::replay(directory.path()).unwrap()), "fake", None);
    assert_eq!(ask(&*player, request("m", vec![user("hi")])).await, everything());
}
