//! litellm's proxy in front of aimock: a second, independent encoder and decoder between the two.
//!
//! The proxy takes each of four dialects and asks aimock in each of four others, so every reply was read and written again
//! by code that is neither ours nor aimock's. Bedrock's dialect is the one that it forwards and never writes.

use std::{path::Path, process::Stdio, time::Duration};

use gander_model::{ModelErrorClass, ModelProvider, ModelStop};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{
    Given,
    aimock::Aimock,
    conversation::{ask, collect},
    provider, skip, tokens,
};

const START: Duration = Duration::from_secs(180);
/// The proxy wants one of its own.
const KEY: &str = "sk-3f9a1c7e5b2d4860a1b3c5d7e9f02468ace13579bdf02468";

/// A model of the proxy: the fake, asked in one dialect.
struct Upstream {
    model: &'static str,
    /// Whether the fake writes thoughts and counts in its dialect.
    thinks: bool,
    counts: bool,
    /// Whether the fake finds the results of calls in what litellm sends in this dialect.
    sees_results: bool,
    /// Two calls in one piece of the stream: what the proxy makes of it in the Messages dialect is one call with both
    /// arguments glued together.
    glues_calls: bool,
}

const UPSTREAMS: &[Upstream] = &[
    Upstream { model: "via-openai", thinks: true, counts: true, sees_results: true, glues_calls: false },
    Upstream { model: "via-claude", thinks: true, counts: true, sees_results: true, glues_calls: false },
    Upstream { model: "via-gemini", thinks: true, counts: true, sees_results: false, glues_calls: true },
    Upstream { model: "via-ollama", thinks: false, counts: false, sees_results: true, glues_calls: true },
];

/// The running proxy; it ends with the test.
struct Proxy {
    url: String,
    _child: Child,
    _files: tempfile::TempDir,
}

impl Proxy {
    /// Starts it in front of the fake.
    async fn start(python: &Path, fake: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("config.yaml"), config(fake)).unwrap();
        // Only the transcription of speech uses it, and it brings 80 MB along.
        std::fs::write(files.path().join("soundfile.py"), "\"\"\"Not installed.\"\"\"\n").unwrap();
        let mut child = Command::new(python)
            .args(["-m", "uvicorn", "litellm.proxy.proxy_server:app", "--host", "127.0.0.1", "--port", "0"])
            .env("CONFIG_FILE_PATH", files.path().join("config.yaml"))
            .env("PYTHONPATH", files.path())
            .env("HOME", files.path())
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("LITELLM_MASTER_KEY", KEY)
            .env("NO_PROXY", "*")
            .current_dir(files.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("litellm starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = async {
            let mut said = String::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some((_, rest)) = line.split_once("Uvicorn running on ") {
                    return rest.split(' ').next().unwrap_or_default().to_owned();
                }
                said = line;
            }
            panic!("litellm ended before it listened: {said}");
        };
        let url = tokio::time::timeout(START, ready).await.expect("litellm listens");
        // Its log is read to the end, or it would block.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { url, _child: child, _files: files }
    }

    /// The dialects that it writes: a name, and a provider that speaks it.
    fn dialects(&self) -> Vec<(&'static str, std::sync::Arc<dyn ModelProvider>)> {
        let url = self.url.as_str();
        let responses = format!("{url}/v1/responses");
        let given = [
            ("chat", "litellm", Given::of(&[("LITELLM_HOST", url), ("LITELLM_API_KEY", KEY)])),
            ("responses", "openai", Given::of(&[("OPENAI_BASE_URL", &responses), ("OPENAI_API_KEY", KEY)])),
            ("messages", "anthropic", Given::of(&[("ANTHROPIC_HOST", url), ("ANTHROPIC_API_KEY", KEY)])),
            ("gemini", "google", Given::of(&[("GOOGLE_HOST", url), ("GOOGLE_API_KEY", KEY)])),
        ];
        given.into_iter().map(|(name, id, given)| (name, provider(id, &given))).collect()
    }
}

fn config(fake: &str) -> String {
    let model = |name: &str, model: &str, base: &str| {
        format!(
            " - model_name: {name}\n   litellm_params: {{model: {model}, api_base: \"{base}\", api_key: sk-1}}\n"
        )
    };
    format!(
        "model_list:\n{}{}{}{}router_settings:\n  disable_cooldowns: true\n  num_retries: 0\n",
        model("via-openai", "openai/gpt-test", &format!("{fake}/v1")),
        model("via-claude", "anthropic/claude-test", fake),
        model("via-gemini", "gemini/gemini-test", &format!("{fake}/v1beta")),
        model("via-ollama", "ollama_chat/llama", fake),
    )
}

#[tokio::test]
async fn an_agent_loop_works_through_a_second_encoder_in_every_dialect_that_it_writes() {
    let Some(python) = std::env::var_os("GANDER_TEST_LITELLM") else {
        return skip("GANDER_TEST_LITELLM is not set: no litellm");
    };
    let Some(aimock) = Aimock::start().await else { return };
    let proxy = Proxy::start(Path::new(&python), &aimock.url).await;
    for (dialect, provider) in proxy.dialects() {
        for upstream in UPSTREAMS {
            let way = format!("{dialect} {}", upstream.model);
            loop_of_two_calls(&*provider, dialect, upstream, &way).await;
            failures(&*provider, upstream.model, &way).await;
        }
    }
}

async fn loop_of_two_calls(provider: &dyn ModelProvider, dialect: &str, upstream: &Upstream, way: &str) {
    let model = upstream.model;
    let first = collect(provider, &ask(model, "weather?", &[])).await.expect(way);
    assert_eq!(first.text, "Let me check.", "{way}");
    // Written anew in Gemini's dialect, a reply has neither thoughts nor counts.
    let kept = dialect != "gemini" || model == "via-gemini";
    let thought = if upstream.thinks && kept { "I should look at both." } else { "" };
    assert_eq!(first.thought, thought, "{way}");
    assert_eq!(first.stop, Some(ModelStop::ToolCalls), "{way}");
    let counted = if upstream.counts && kept { (Some(100), Some(20)) } else { (Some(0), Some(0)) };
    assert_eq!(first.usage.map(tokens), Some(counted), "{way}");
    if dialect == "messages" && upstream.glues_calls {
        // Nobody can tell what was meant: the call must not be run with half of it.
        let [call] = first.calls.as_slice() else { panic!("{way}: {:?}", first.calls) };
        assert!(call.invalid.is_some(), "{way}: {call:?}");
        return;
    }
    let calls: Vec<(&str, serde_json::Value)> = first
        .calls
        .iter()
        .map(|call| (call.name.as_str(), serde_json::from_str(&call.arguments).unwrap()))
        .collect();
    let wanted = [
        ("get_weather", serde_json::json!({ "city": "Rome" })),
        ("get_time", serde_json::json!({ "zone": "CET" })),
    ];
    assert_eq!(calls, wanted, "{way}");
    assert!(first.calls.iter().all(|call| call.invalid.is_none()), "{way}");
    if upstream.sees_results {
        let second = collect(provider, &ask(model, "weather?", &[&first])).await.expect(way);
        assert_eq!(second.text, "It is sunny in Rome at noon.", "{way}");
        assert_eq!(second.stop, Some(ModelStop::EndTurn), "{way}");
        assert!(second.calls.is_empty(), "{way}");
    }
}

/// What the fake refuses or breaks off arrives in its class, whatever the proxy wraps around it.
async fn failures(provider: &dyn ModelProvider, model: &str, way: &str) {
    let failure = async |text: &str| collect(provider, &ask(model, text, &[])).await.expect_err(way);
    let limited = failure("too fast").await;
    assert_eq!(limited.class, ModelErrorClass::RateLimited, "{way}: {limited}");
    let context = failure("too long").await;
    assert_eq!(context.class, ModelErrorClass::ContextExceeded, "{way}: {context}");
    let cut = failure("cut off").await;
    assert!(cut.is_transient(), "{way}: {:?} {cut}", cut.class);
}
