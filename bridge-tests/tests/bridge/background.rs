//! `gander agent` and the daemon that it starts in the background: shared, detached, brought back, and gone by itself.

use std::{path::Path, time::Duration};

use gander_bridge_tests::{
    child, connect,
    daemon::new_root,
    eventually, pb,
    window::{SECRET, Window},
};
use gander_client::{Client, Endpoint};
use gander_process::tree;
use rustix::process::{Pid, Signal, kill_process};

async fn daemon(root: &Path) -> Option<(Client, u32)> {
    let client = connect(Endpoint::unix(root.join("data/gander.sock")), None).await.ok()?;
    let answer = client.system().get_server_info(pb::GetServerInfoRequest {}).await.ok()?;
    let pid = answer.into_inner().server_info?.pid;
    Some((client, u32::try_from(pid).ok()?))
}

async fn stop(root: &Path) {
    let output = child::run(root, &["stop", "--grace", "0s"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_share_one_daemon_that_outlives_them() {
    let root = new_root();
    let root = root.path();
    let (first, second, third) = tokio::join!(Window::open(root), Window::open(root), Window::open(root));
    let windows = [first, second, third];
    for window in &windows {
        assert_eq!(window.status("/status", None).await, 200);
        assert_eq!(window.status("/sessions", None).await, 401);
        assert_eq!(window.status("/sessions", Some("another")).await, 401);
        assert_eq!(window.status("/sessions", Some(SECRET)).await, 200);
        assert_eq!(window.fingerprint, windows[0].fingerprint, "one root has one certificate");
    }
    let (client, pid) = daemon(root).await.expect("a daemon");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
    let after_name: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    assert_eq!(after_name[3], pid.to_string(), "a session of its own: {stat}");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("its environment");
    assert!(!String::from_utf8_lossy(&environment).contains(SECRET), "the window's secret is its own");
    for window in windows {
        assert_eq!(window.close().await, "", "nothing follows the fingerprint");
    }
    let answer = client.system().get_server_info(pb::GetServerInfoRequest {}).await;
    assert!(answer.is_ok(), "the daemon goes on: {answer:?}");
    stop(root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_gets_a_killed_daemon_back() {
    let root = new_root();
    let root = root.path();
    let window = Window::open(root).await;
    let (_, pid) = daemon(root).await.expect("a daemon");
    kill_process(Pid::from_raw(pid.cast_signed()).expect("a process id"), Signal::KILL).expect("a signal");
    let next = eventually(Duration::from_secs(20), "another daemon", || async {
        daemon(root).await.map(|(_, pid)| pid).filter(|next| *next != pid)
    })
    .await;
    assert_ne!(next, pid);
    eventually(Duration::from_secs(20), "requests to work again", || async {
        (window.status("/sessions", Some(SECRET)).await == 200).then_some(())
    })
    .await;
    window.close().await;
    stop(root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_daemon_ends_by_itself() {
    let root = new_root();
    let root = root.path();
    let output = child::run(root, &["config", "set", "gander.linger", "0s"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let window = Window::open(root).await;
    let (client, pid) = daemon(root).await.expect("a daemon");
    let process = tree::lookup(pid).expect("a process").id;
    // As long as the window is there, so is the daemon.
    drop(client);
    assert_eq!(window.status("/sessions", Some(SECRET)).await, 200);
    window.close().await;
    eventually(Duration::from_secs(20), "the daemon to end", || async {
        (!tree::is_alive(process)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_work_are_named() {
    let root = new_root();
    for (variable, value) in
        [("GOOSE_PORT", "many"), ("GOOSE_HOST", "example.com"), ("GOOSE_SERVER__SECRET_KEY", "test")]
    {
        let output = child::finished(child::gander(root.path(), &["agent"]).env(variable, value)).await;
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains(variable), "{output:?}");
    }
}
