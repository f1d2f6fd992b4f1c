//! The fake from npm as a child of the test.

use std::{path::PathBuf, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{DEADLINE, skip};

const FIXTURES: &str = r#"{"fixtures":[
 {"match":{"userMessage":"weather","hasToolResult":false},"response":{"reasoning":"I should look at both.",
   "content":"Let me check.","toolCalls":[{"id":"call_w","name":"get_weather","arguments":{"city":"Rome"}},
   {"id":"call_t","name":"get_time","arguments":{"zone":"CET"}}],
   "usage":{"input_tokens":100,"output_tokens":20}}},
 {"match":{"hasToolResult":true},"response":{"content":"It is sunny in Rome at noon.",
   "usage":{"input_tokens":100,"output_tokens":20}}},
 {"match":{"userMessage":"too fast"},"response":{"error":{"message":"Rate limit reached","type":"rate_limit_error"},
   "status":429}},
 {"match":{"userMessage":"too long"},"response":{"error":{"message":"prompt is too long: 9 tokens > 8 maximum",
   "type":"invalid_request_error"},"status":400}},
 {"match":{"userMessage":"cut off"},"response":{"content":"This text is cut off somewhere in its middle, always."},
   "truncateAfterChunks":3}
]}"#;

/// The running fake; it ends with the test.
pub(crate) struct Aimock {
    pub(crate) url: String,
    _child: Child,
    _files: tempfile::TempDir,
}

impl Aimock {
    /// Starts it, if the tools are there.
    pub(crate) async fn start() -> Option<Self> {
        let Some(modules) = std::env::var_os("GANDER_TEST_NODE_DIR").map(PathBuf::from) else {
            skip("GANDER_TEST_NODE_DIR is not set: no aimock");
            return None;
        };
        let script = modules.join("@copilotkit/aimock/dist/cli.js");
        if !script.exists() {
            skip("aimock is not installed");
            return None;
        }
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("agent.json"), FIXTURES).unwrap();
        let mut child = Command::new("node")
            .arg(script)
            .args(["--port", "0", "--chunk-size", "12", "--strict", "--fixtures"])
            .arg(files.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node starts");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some((_, address)) = line.split_once("listening on ") {
                    return address.trim().to_owned();
                }
            }
            panic!("aimock ended before it listened");
        };
        let url = tokio::time::timeout(DEADLINE, listening).await.expect("aimock listens");
        // Its log is read to the end, or it would block.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Self { url, _child: child, _files: files })
    }

    /// All requests that it saw, as JSON text.
    pub(crate) async fn journal(&self) -> String {
        reqwest::Client::builder()
            .tls_backend_preconfigured(no_tls())
            .build()
            .unwrap()
            .get(format!("{}/__aimock/journal", self.url))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }
}

fn no_tls() -> rustls::ClientConfig {
    let crypto = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}
