//! Every dialect against an independent fake: npm's `@copilotkit/aimock`, and litellm's proxy as a second encoder.
//!
//! They need what `GANDER_TEST_NODE_DIR` and `GANDER_TEST_LITELLM` name; without it they say so and pass, unless
//! `GANDER_TEST_REQUIRE` is set.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod aimock;
mod conversation;
mod litellm;

use std::{collections::HashMap, sync::Arc, time::Duration};

use gander_model::{ModelErrorClass, ModelProvider, ModelStop, ProviderRegistry, Settings};

use aimock::Aimock;
use conversation::{ask, collect};

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Says why a test did nothing.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("GANDER_TEST_REQUIRE").is_none(), "{why}");
    eprintln!("skipped: {why}");
}

/// Settings and secrets of one provider.
#[derive(Default)]
pub(crate) struct Given(HashMap<&'static str, String>);

impl Given {
    pub(crate) fn of(pairs: &[(&'static str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
    }
}

impl Settings for Given {
    fn value(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    fn secret(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }
}

pub(crate) fn provider(id: &str, given: &Given) -> Arc<dyn ModelProvider> {
    ProviderRegistry::bundled().create(id, given).unwrap()
}

/// The ways to reach the fake: a name, the provider, and its settings.
fn ways(url: &str) -> Vec<(&'static str, &'static str, Given)> {
    let chat = format!("{url}/v1/chat/completions");
    let responses = format!("{url}/v1/responses");
    vec![
        ("chat", "openai", Given::of(&[("OPENAI_API_KEY", "sk-test-1"), ("OPENAI_BASE_URL", &chat)])),
        (
            "responses",
            "openai",
            Given::of(&[("OPENAI_API_KEY", "sk-test-1"), ("OPENAI_BASE_URL", &responses)]),
        ),
        ("anthropic", "anthropic", Given::of(&[("ANTHROPIC_API_KEY", "sk-ant-1"), ("ANTHROPIC_HOST", url)])),
        ("google", "google", Given::of(&[("GOOGLE_API_KEY", "AIza-1"), ("GOOGLE_HOST", url)])),
        (
            "azure",
            "azure_openai",
            Given::of(&[
                ("AZURE_OPENAI_API_KEY", "key-1"),
                ("AZURE_OPENAI_ENDPOINT", url),
                ("AZURE_OPENAI_DEPLOYMENT_NAME", "mine"),
            ]),
        ),
        (
            "bedrock",
            "aws_bedrock",
            Given::of(&[
                ("AWS_ACCESS_KEY_ID", "AKIA1"),
                ("AWS_SECRET_ACCESS_KEY", "secret-1"),
                ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", url),
            ]),
        ),
        ("ollama", "ollama", Given::of(&[("OLLAMA_HOST", url)])),
    ]
}

/// Input and output.
pub(crate) fn tokens(usage: gander_domain::Usage) -> (Option<u64>, Option<u64>) {
    (usage.input_tokens, usage.output_tokens)
}

#[tokio::test]
async fn an_agent_loop_of_two_calls_works_in_every_dialect() {
    let Some(aimock) = Aimock::start().await else { return };
    for (way, id, given) in ways(&aimock.url) {
        let provider = provider(id, &given);
        let first = collect(&*provider, &ask("gpt-test", "weather?", &[])).await.expect(way);
        assert_eq!(first.text, "Let me check.", "{way}");
        assert_eq!(first.thought, "I should look at both.", "{way}");
        assert_eq!(first.stop, Some(ModelStop::ToolCalls), "{way}");
        let calls: Vec<(&str, &str)> =
            first.calls.iter().map(|call| (call.name.as_str(), call.arguments.as_str())).collect();
        assert_eq!(
            calls,
            [("get_weather", "{\"city\":\"Rome\"}"), ("get_time", "{\"zone\":\"CET\"}")],
            "{way}"
        );
        assert!(first.calls.iter().all(|call| call.invalid.is_none()), "{way}");
        assert_eq!(first.usage.map(tokens), Some((Some(100), Some(20))), "{way}");
        let second = collect(&*provider, &ask("gpt-test", "weather?", &[&first])).await.expect(way);
        assert_eq!(second.text, "It is sunny in Rome at noon.", "{way}");
        assert_eq!(second.stop, Some(ModelStop::EndTurn), "{way}");
        assert!(second.calls.is_empty(), "{way}");
    }
    let seen = aimock.journal().await;
    assert!(!seen.contains("secret-1"), "a signed request never carries the secret");
}

#[tokio::test]
async fn refusals_and_cuts_have_their_class_in_every_dialect() {
    let Some(aimock) = Aimock::start().await else { return };
    for (way, id, given) in ways(&aimock.url) {
        let limited = collect(&*provider(id, &given), &ask("gpt-test", "too fast", &[])).await.unwrap_err();
        assert_eq!((limited.class, limited.status), (ModelErrorClass::RateLimited, Some(429)), "{way}");
        assert_eq!(limited.retry_after, Some(Duration::from_secs(1)), "{way}");
        let cut = collect(&*provider(id, &given), &ask("gpt-test", "cut off", &[])).await.unwrap_err();
        // The server destroys the socket: whether the head got out before is a race.
        let broken = matches!(cut.class, ModelErrorClass::Truncated | ModelErrorClass::Network);
        assert!(broken && cut.is_transient(), "{way}: {cut}");
        let context = collect(&*provider(id, &given), &ask("gpt-test", "too long", &[])).await.unwrap_err();
        assert_eq!(context.class, ModelErrorClass::ContextExceeded, "{way}: {context}");
    }
}
