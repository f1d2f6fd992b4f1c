//! What keeps a daemon from starting is told, with the remedy; a disk without room loses nothing.

use std::{ffi::OsString, fs, os::unix::fs::MetadataExt as _, time::Duration};

use gander::daemon::serve;
use gander_bridge_tests::{
    ChildDaemon, TestDaemon, child, connect, daemon, events, pb, soon, unique_word, within,
};
use gander_client::Endpoint;
use pb::ErrorReason;
use tokio_util::sync::CancellationToken;

async fn refusal(options: gander::daemon::DaemonOptions) -> String {
    let serving = serve(options, CancellationToken::new(), |ready| panic!("served {ready:?}"));
    let error = within(Duration::from_secs(10), "a refusal", serving).await.expect_err("refused");
    format!("{error:#}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_has_one_daemon() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let said = refusal(daemon::options(daemon.root())).await;
    assert!(said.contains("in use") && said.contains("--root"), "the holder and the remedy: {said}");
    assert!(said.contains(&std::process::id().to_string()), "the holder: {said}");
    let second = child::run(daemon.root(), &["serve", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("in use"), "{second:?}");
    // The first one never noticed.
    events::complete(&client, &session_id, "say fine").await;
    events::complete(&daemon.unix().await, &session_id, "say still fine").await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_where_a_directory_should_be() {
    let root = daemon::new_root();
    fs::write(root.path().join("data"), "not a directory").expect("a file");
    let said = refusal(daemon::options(root.path())).await;
    assert!(said.contains("data"), "the path is named: {said}");
    let output = child::run(root.path(), &["serve", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("data"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_configuration_is_named_with_its_line() {
    let root = daemon::new_root();
    let config = root.path().join("config");
    fs::create_dir(&config).expect("a directory");
    let text = "GOOSE_PROVIDER: demo\nextensions: [unclosed\n";
    fs::write(config.join("config.yaml"), text).expect("a file");
    let output = child::run(root.path(), &["serve", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("config.yaml"), "the file is named: {output:?}");
    assert_eq!(
        fs::read_to_string(config.join("config.yaml")).expect("the file"),
        text,
        "it is left as it was"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_none() {
    let root = daemon::new_root();
    fs::create_dir(root.path().join("data")).expect("a directory");
    fs::write(root.path().join("data/gander.db"), "these bytes are no database ".repeat(400))
        .expect("a file");
    let output = child::run(root.path(), &["serve", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("data"), "{output:?}");
    let doctor = child::run(root.path(), &["doctor"]).await;
    assert_ne!(doctor.code, Some(0), "{doctor:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let root = daemon::new_root();
    let output = child::run(root.path(), &["serve", "--listen", &address]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains(&address), "{output:?}");
}

/// Words that run a command with a small or read-only file system on `$ROOT/data` that nobody else sees; nothing stays
/// mounted after it.
fn mounted(root: &std::path::Path, options: &str) -> Vec<OsString> {
    let script = format!("mount -t tmpfs -o {options} tmpfs \"$1\" && shift && exec \"$@\"");
    let data = root.join("data");
    ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"]
        .into_iter()
        .map(OsString::from)
        .chain([data.into_os_string()])
        .collect()
}

/// Whether this process may mount; prints why not.
async fn may_mount(root: &std::path::Path) -> bool {
    fs::create_dir_all(root.join("data")).expect("a directory");
    let words = mounted(root, "size=1m");
    let tried = tokio::process::Command::new(&words[0]).args(&words[1..]).arg("true").output().await;
    let may = tried.is_ok_and(|output| output.status.success());
    if !may {
        // Not even where nothing may be skipped: it is a privilege, not a tool.
        eprintln!("skipped: mounting is not permitted here");
    }
    may
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_data_directory() {
    let root = daemon::new_root();
    if !may_mount(root.path()).await {
        return;
    }
    let before = mounted(root.path(), "size=8m,ro");
    let mut command = child::gander_through(&before, root.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let output = child::finished(&mut command).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    let said = output.stderr.to_lowercase();
    assert!(said.contains("read-only") && said.contains("data"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_is_told() {
    let root = daemon::new_root();
    if !may_mount(root.path()).await {
        return;
    }
    let daemon = ChildDaemon::start_through(&mounted(root.path(), "size=24m,mode=0700"), root.path()).await;
    let socket = daemon.through_proc(daemon.socket());
    let client = connect(Endpoint::unix(socket), None).await.expect("a client");
    let session_id = events::create(&client, events::bare_session(&root.path().join("work"))).await;
    let kept = unique_word();
    events::complete(&client, &session_id, &format!("say {kept}")).await;
    let before = events::log(&client, &session_id).await;

    let filler = daemon.through_proc(&root.path().join("data/filler"));
    fill(&filler);
    let mut refused = None;
    for _ in 0..200 {
        let turn = events::turn(&session_id, &format!("what is {}", "x".repeat(100_000)));
        match soon("an answer", client.turns().start_turn(turn)).await {
            Err(status) => {
                refused = Some(gander_client::ClientError::from(status));
                break;
            }
            Ok(_) => wait_idle(&client, &session_id).await,
        }
    }
    let refused = refused.expect("a full disk refuses new turns");
    assert!(refused.is(ErrorReason::StoreFull), "{refused:?}");
    let during = events::log(&client, &session_id).await;
    events::assert_same("what was stored before", &during[..before.len()], &before);

    fs::remove_file(&filler).expect("room again");
    let turn =
        gander_bridge_tests::eventually(Duration::from_secs(30), "turns to be taken again", || async {
            client.turns().start_turn(events::turn(&session_id, "say back again")).await.ok()
        });
    let turn = turn.await.into_inner().turn.expect("a turn");
    wait_idle(&client, &session_id).await;
    let request = pb::GetTurnRequest { session_id: session_id.clone(), turn_id: turn.turn_id };
    let turn = client.turns().get_turn(request).await.expect("the turn").into_inner();
    assert_eq!(turn.turn.expect("a turn").state(), pb::TurnState::Completed);
    let after = events::log(&client, &session_id).await;
    events::assert_same("what was stored when it was full", &after[..during.len()], &during);
    events::check_store(&client).await;
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

async fn wait_idle(client: &gander_client::Client, session_id: &str) {
    gander_bridge_tests::eventually(Duration::from_secs(20), "the session to be idle", || async {
        let request = pb::GetSessionRequest { session_id: session_id.to_owned() };
        let session = client.sessions().get_session(request).await.ok()?.into_inner().session?;
        session.active_turn_id.is_empty().then_some(())
    })
    .await;
}

/// Writes until nothing fits any more.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).expect("a file");
    for size in [1 << 20, 1 << 16, 1 << 12] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
    assert!(fs::metadata(path).expect("the file").size() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_tell_that_no_daemon_runs() {
    let root = daemon::new_root();
    let output = child::run(root.path(), &["status"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("no daemon"), "{output:?}");
    let output = child::run(root.path(), &["frobnicate"]).await;
    assert_eq!(output.code, Some(2), "wrong usage: {output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomers_first_commands() {
    let root = daemon::new_root();
    fs::write(root.path().join("work/hello.txt"), "x").expect("a file");
    let work = root.path().join("work").display().to_string();
    // Without a daemon the engine is in the command's own process.
    let output = child::run(root.path(), &["run", "--cwd", &work, "list the files here"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("[demo model]") && output.stdout.contains("hello.txt"), "{output:?}");
    // With one it is the daemon's session.
    let daemon = ChildDaemon::start(root.path()).await;
    let output = child::run(root.path(), &["run", "--cwd", &work, "--json", "list the files here"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let events: Vec<serde_json::Value> = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("one JSON object per line"))
        .collect();
    assert!(events.len() > 5);
    let list = child::run(root.path(), &["session", "list", "--json"]).await;
    assert_eq!(list.code, Some(0), "{list:?}");
    let client = daemon.unix().await;
    let page = client.sessions().list_sessions(pb::ListSessionsRequest::default()).await.expect("a list");
    assert_eq!(page.into_inner().sessions.len(), 2, "the embedded engine's session is there too");
    let status = child::run(root.path(), &["status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    let failed = child::run(root.path(), &["run", "--cwd", &work, "fail auth"]).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let doctor = child::run(root.path(), &["doctor"]).await;
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    events::check_store(&client).await;
    let stop = child::run(root.path(), &["stop", "--grace", "1s"]).await;
    assert_eq!(stop.code, Some(0), "{stop:?}");
    assert!(daemon.ended(Duration::from_secs(10)).await.success());
}
