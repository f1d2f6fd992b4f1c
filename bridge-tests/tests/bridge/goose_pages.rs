//! The scripts of the pages that show what extensions draw, acted out in Node: who may tell whom what.

use std::{path::Path, process::Stdio};

use gander_bridge_tests::{child, daemon, skip};
use tokio::process::Command;

#[tokio::test]
async fn pages_relay_between_their_two_ends_and_nobody_else() {
    if std::env::var_os("GANDER_TEST_NODE_DIR").is_none() {
        return skip("GANDER_TEST_NODE_DIR is not set: no Node");
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = daemon::new_root();
    let mut node = Command::new("node");
    node.env_clear().kill_on_drop(true).process_group(0).stdin(Stdio::null());
    for (name, value) in daemon::environment(root.path()).iter() {
        node.env(name, value);
    }
    node.arg(here.join("tests/bridge/goose_pages.js"))
        .arg(here.join("../crates/gander-goose/src/routes/proxy"));
    let output = child::finished(&mut node).await;
    assert_eq!((output.code, output.stdout.trim()), (Some(0), "ok"), "{output:?}");
}
