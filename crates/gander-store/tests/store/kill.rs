//! What was acknowledged survives `kill -9` at any point.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use gander_store::{Store, conformance::sample::*};

use super::open;

/// Names the data directory for the child.
const DIR: &str = "GANDER_STORE_KILL_DIR";
const SESSIONS: i64 = 4;

/// Kills and reaps the child whatever happens.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Body of the child: appends to some sessions at once and prints what was acknowledged, until it is killed.
#[test]
#[ignore = "run as a child process by acknowledged_events_survive_kill"]
fn child_appends_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(dir.as_ref());
        let tasks = (0..SESSIONS).map(|n| tokio::spawn(append(Arc::clone(&store), n)));
        futures::future::join_all(tasks.collect::<Vec<_>>()).await;
    });
}

async fn append(store: Arc<impl Store>, n: i64) {
    let name = format!("s{n}");
    let epoch = match store.open_session(&id(&name)).await {
        Ok(epoch) => epoch,
        Err(_) => create(&*store, &name).await,
    };
    let mut last = store.log_bounds(&id(&name)).await.unwrap().last_sequence;
    loop {
        let size = last % 7 + 1;
        let events = (last + 1..=last + size).map(|s| delta(s, "i", &format!("text {s}"))).collect();
        let mut next = commit(&name, epoch, events);
        let mut row = session(&name, 1);
        row.last_sequence = last + size;
        next.summary = (last % 3 == 0).then(|| Arc::new(row));
        store.commit(next).await.unwrap();
        last += size;
        // One write per line: a killed process leaves whole lines but for the last.
        let line = format!("ack {n} {last}\n");
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        if last % 5 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_events_survive_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = [0_i64; SESSIONS as usize];
    for round in 0..10_usize {
        let dir_path = dir.path().to_owned();
        let lines = tokio::task::spawn_blocking(move || run_child(&dir_path, 20 + round * 397 % 1500));
        let lines = tokio::time::timeout(Duration::from_secs(60), lines).await.unwrap().unwrap();
        for (session, sequence) in lines {
            acknowledged[session] = acknowledged[session].max(sequence);
        }
        let store = open(dir.path());
        for (n, acknowledged) in acknowledged.iter().enumerate() {
            let name = format!("s{n}");
            if *acknowledged == 0 {
                continue;
            }
            let stored = sequences(&*store, &name).await;
            let last = *stored.last().unwrap();
            assert!(
                last >= *acknowledged,
                "round {round}: {acknowledged} was acknowledged, {last} is stored"
            );
            assert_eq!(stored, (1..=last).collect::<Vec<_>>(), "round {round}");
        }
        assert_eq!(store.check().await.unwrap(), [], "round {round}");
    }
    assert!(acknowledged.iter().any(|a| *a > 100), "{acknowledged:?}");
}

/// Starts the child, kills it after some acknowledgements, returns all that it printed.
fn run_child(dir: &std::path::Path, kill_after: usize) -> Vec<(usize, i64)> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "kill::child_appends_until_killed", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = Guard(command.spawn().unwrap());
    let mut lines = Vec::new();
    let mut killed = false;
    for line in BufReader::new(child.0.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        let mut words = line.split(' ');
        if words.next() == Some("ack")
            && let (Some(Ok(n)), Some(Ok(sequence))) =
                (words.next().map(str::parse), words.next().map(str::parse))
        {
            lines.push((n, sequence));
        }
        if lines.len() >= kill_after && !killed {
            child.0.kill().unwrap();
            killed = true;
        }
    }
    assert!(killed, "the child ended by itself after {} acknowledgements", lines.len());
    lines
}
