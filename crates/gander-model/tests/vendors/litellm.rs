//! litellm's proxy in front of aimock: a second, independent encoder and decoder between the two.
//!
//! It is 700 MB of Python and takes half a minute to start, so the repository's tools do not install it: put it into an
//! environment of its own (`pip install 'litellm[proxy]'`) and name its program in `GANDER_TEST_LITELLM`.

use std::{net::TcpListener, process::Stdio, time::Duration};

use gander_model::ModelStop;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{
    Given,
    aimock::Aimock,
    conversation::{ask, collect},
    provider,
};

const START: Duration = Duration::from_secs(120);
/// The proxy wants one of its own.
const KEY: &str = "sk-3f9a1c7e5b2d4860a1b3c5d7e9f02468ace13579bdf02468";

#[tokio::test]
async fn an_agent_loop_works_through_a_second_encoder() {
    let Some(program) = std::env::var_os("GANDER_TEST_LITELLM") else {
        eprintln!("skipped: GANDER_TEST_LITELLM is not set");
        return;
    };
    let Some(aimock) = Aimock::start().await else { return };
    let files = tempfile::tempdir().unwrap();
    let config = files.path().join("config.yaml");
    let url = &aimock.url;
    std::fs::write(
        &config,
        format!(
            "model_list:\n\
             - model_name: via-openai\n  litellm_params: {{model: openai/gpt-test, api_base: \"{url}/v1\", api_key: sk-1}}\n\
             - model_name: via-claude\n  litellm_params: {{model: anthropic/claude-test, api_base: \"{url}\", api_key: sk-1}}\n"
        ),
    )
    .unwrap();
    // The program takes no port 0; between here and its start somebody else could take this one.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = Command::new(program)
        .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--config"])
        .arg(&config)
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
            if line.contains("Uvicorn running on") {
                return;
            }
            said = line;
        }
        panic!("litellm ended before it listened: {said}");
    };
    tokio::time::timeout(START, ready).await.expect("litellm listens");
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });

    let proxy = format!("http://127.0.0.1:{port}");
    let chat = format!("{proxy}/v1/chat/completions");
    let ways = [
        (
            "chat as Claude",
            "openai",
            "via-claude",
            Given::of(&[("OPENAI_API_KEY", KEY), ("OPENAI_BASE_URL", &chat)]),
        ),
        (
            "chat as OpenAI",
            "litellm",
            "via-openai",
            Given::of(&[("LITELLM_HOST", &proxy), ("LITELLM_API_KEY", KEY)]),
        ),
        (
            "messages as OpenAI",
            "anthropic",
            "via-openai",
            Given::of(&[("ANTHROPIC_API_KEY", KEY), ("ANTHROPIC_HOST", &proxy)]),
        ),
        (
            "messages as Claude",
            "anthropic",
            "via-claude",
            Given::of(&[("ANTHROPIC_API_KEY", KEY), ("ANTHROPIC_HOST", &proxy)]),
        ),
    ];
    for (way, id, model, given) in ways {
        let provider = provider(id, &given);
        let first = collect(&*provider, &ask(model, "weather?", &[])).await.expect(way);
        assert_eq!(first.text, "Let me check.", "{way}");
        assert_eq!(first.stop, Some(ModelStop::ToolCalls), "{way}");
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
        let second = collect(&*provider, &ask(model, "weather?", &[&first])).await.expect(way);
        assert_eq!(second.text, "It is sunny in Rome at noon.", "{way}");
        assert_eq!(second.stop, Some(ModelStop::EndTurn), "{way}");
    }
}
