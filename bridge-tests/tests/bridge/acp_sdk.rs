//! The official SDKs drive the agent: over stdio as the real program, and over HTTP and WebSocket on the daemon's port.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use gander_bridge_tests::{
    ChildDaemon, child, daemon, gander_binary, skip,
    window::{SECRET, Window},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::acp_peer::node_modules;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// A root whose daemon has the demo model and the developer tools.
fn root() -> TempDir {
    let root = daemon::new_root();
    let config = root.path().join("config/config.yaml");
    std::fs::create_dir_all(config.parent().expect("a folder")).expect("config folder");
    let text = "GOOSE_PROVIDER: demo\nGOOSE_MODEL: demo\nGOOSE_MODE: auto\nextensions:\n  developer:\n    type: builtin\n    \
                name: developer\n    enabled: true\n";
    std::fs::write(&config, text).expect("config");
    root
}

/// Runs a client to its end; gives the id that it printed.
async fn client(
    program: impl Into<OsString>,
    arguments: Vec<OsString>,
    root: &Path,
    token: &str,
) -> Option<String> {
    let mut command = Command::new(program.into());
    command.args(arguments).env_clear().env("ACP_TOKEN", token).kill_on_drop(true);
    for (name, value) in daemon::environment(root).iter() {
        command.env(name, value);
    }
    if let Some(modules) = node_modules() {
        command.env("GANDER_TEST_NODE_DIR", modules);
    }
    let output = child::finished(&mut command).await;
    assert_eq!(output.code, Some(0), "{}\n{}", output.stdout, output.stderr);
    let printed: Option<Value> =
        output.stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
    printed.map(|printed| printed["sessionId"].as_str().expect("an id").to_owned())
}

fn agent(root: &Path) -> Vec<String> {
    vec![gander_binary().display().to_string(), "--root".into(), root.display().to_string(), "acp".into()]
}

async fn typescript(modules: &Path, place: &str, root: &Path, token: &str, stage: &[&str]) -> Option<String> {
    let mut arguments: Vec<OsString> =
        vec![script("acp.mjs").into(), modules.into(), place.into(), root.join("work").into()];
    arguments.extend(stage.iter().map(OsString::from));
    Box::pin(client("node", arguments, root, token)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typescript_sdk_over_stdio() {
    let Some(modules) = node_modules() else {
        return skip("GANDER_TEST_NODE_DIR is not set: no TypeScript SDK");
    };
    let root = root();
    let place = format!("stdio:{}", json!(agent(root.path())));
    // The first agent starts the daemon.
    let session_id = typescript(&modules, &place, root.path(), "", &["first"]).await.expect("a session");
    let stopped = child::run(root.path(), &["stop"]).await;
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    typescript(&modules, &place, root.path(), "", &["second", &session_id]).await;
    child::run(root.path(), &["stop"]).await;
}

async fn remote(scheme: &str) {
    let Some(modules) = node_modules() else {
        return skip("GANDER_TEST_NODE_DIR is not set: no TypeScript SDK");
    };
    let root = root();
    let daemon = ChildDaemon::start(root.path()).await;
    let token =
        std::fs::read_to_string(root.path().join("data/token")).expect("the token file").trim().to_owned();
    let place = format!("{scheme}://{}/acp", daemon.tcp());
    let session_id = typescript(&modules, &place, root.path(), &token, &["first"]).await.expect("a session");
    daemon.finish().await;
    let daemon = ChildDaemon::start(root.path()).await;
    // A browser cannot give a socket headers: there the secret may be in the address.
    let (query, header) =
        if scheme == "ws" { (format!("?token={token}"), "") } else { (String::new(), token.as_str()) };
    let place = format!("{scheme}://{}/acp{query}", daemon.tcp());
    typescript(&modules, &place, root.path(), header, &["second", &session_id]).await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_windows_port_speaks_it_as_well() {
    let Some(modules) = node_modules() else {
        return skip("GANDER_TEST_NODE_DIR is not set: no TypeScript SDK");
    };
    let root = root();
    let window = Window::open(root.path()).await;
    let place = format!("{}/acp", window.base().replacen("http", "ws", 1));
    let session_id = typescript(&modules, &place, root.path(), SECRET, &["first"]).await.expect("a session");
    typescript(&modules, &place, root.path(), SECRET, &["second", &session_id]).await;
    window.close().await;
    child::run(root.path(), &["stop"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typescript_sdk_over_http() {
    remote("http").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typescript_sdk_over_a_websocket() {
    remote("ws").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_sdk_over_stdio() {
    let Some(python) = std::env::var_os("GANDER_TEST_PYTHON") else {
        return skip("GANDER_TEST_PYTHON is not set: no Python SDK");
    };
    let root = root();
    let run = async |stage: &str, session_id: &str| {
        let mut arguments: Vec<OsString> = vec![script("acp.py").into(), root.path().join("work").into()];
        arguments.extend([stage.into(), session_id.into()]);
        arguments.extend(agent(root.path()).into_iter().map(OsString::from));
        client(&python, arguments, root.path(), "").await
    };
    let session_id = run("first", "-").await.expect("a session");
    let stopped = child::run(root.path(), &["stop"]).await;
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    run("second", &session_id).await;
    child::run(root.path(), &["stop"]).await;
}
