//! Requests that nobody thought of: schemathesis makes them from the surface's own OpenAPI document, malformed ones
//! included, and holds the answers against it. What it must not find fault with is in `goose-fuzz.toml`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use gander_bridge_tests::{
    daemon::{environment, new_root},
    skip, within,
};
use tokio::process::Command;

use crate::goose_window::{SECRET, Surface};

/// Far more than it takes; on a machine that does much else it may take long.
const RUN: Duration = Duration::from_secs(240);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Started by its module: the script beside Python would not survive a move of the environment.
fn schemathesis(python: &std::ffi::OsStr, root: &Path, url: &str) -> Command {
    let mut command = Command::new(python);
    command.env_clear().kill_on_drop(true).process_group(0).stdin(Stdio::null());
    for (name, value) in environment(root).iter() {
        command.env(name, value);
    }
    command
        .current_dir(root.join("work"))
        .args(["-c", "import schemathesis.cli; schemathesis.cli.schemathesis()", "--config-file"])
        .arg(folder().join("goose-fuzz.toml"))
        .arg("run")
        .arg(folder().join("../crates/gander-goose/openapi.json"))
        .args(["--url", url, "--header", &format!("X-Secret-Key: {SECRET}")])
        .args(["--phases", "coverage,fuzzing", "--max-examples", "5", "--workers", "2"])
        .args(["--no-color", "--warnings", "off"]);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_requests_get_the_answers_that_the_document_promises() {
    let Some(python) = std::env::var_os("GANDER_TEST_PYTHON") else {
        return skip("GANDER_TEST_PYTHON is not set: no schemathesis");
    };
    let rest = Surface::start().await;
    let root = new_root();
    let output = within(RUN, "schemathesis", schemathesis(&python, root.path(), &rest.url).output())
        .await
        .expect("schemathesis runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{failed}");
    assert!(said.contains("Tested: "), "nothing was tested: {said}");

    // The log of what they did is held against its rules here.
    rest.finish().await;
}
