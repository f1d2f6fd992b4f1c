//! Measures the append path: latency from the call of `commit` to its result, for some paces, and a burst.
//!
//! Run with `cargo run --release -p gander-store --example append_bench [directory]`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use gander_store::{
    OpenOptions, SqliteStore, Store,
    conformance::{CLOSE, sample::*},
};

const TEXT: &str =
    "a token or two of text, so that an event has about the usual size of a hundred and fifty bytes";

#[tokio::main]
async fn main() {
    let directory = std::env::args_os().nth(1);
    let dir = directory.map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    println!("{:<34} {:>10} {:>8} {:>8} {:>8}", "", "events/s", "p50 us", "p99 us", "max us");
    burst(dir.path(), "burst, 1 event per commit", 1, 200_000).await;
    burst(dir.path(), "burst, 16 events per commit", 16, 400_000).await;
    paced(dir.path(), "1 producer at 500/s", 1, 500, 2_000).await;
    paced(dir.path(), "50 producers at 50/s", 50, 50, 200).await;
    paced(dir.path(), "1000 producers at 30/s", 1000, 30, 60).await;
}

fn report(name: &str, events: usize, took: Duration, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let at = |part: usize| latencies[(latencies.len() * part / 100).min(latencies.len() - 1)].as_micros();
    let rate = events as f64 / took.as_secs_f64();
    println!("{name:<34} {rate:>10.0} {:>8} {:>8} {:>8}", at(50), at(99), at(100));
}

/// One producer that never waits, with up to 512 commits in flight.
async fn burst(dir: &Path, name: &str, per_commit: i64, events: i64) {
    let store = SqliteStore::open(OpenOptions::new(dir.join(format!("burst{per_commit}")))).unwrap();
    let epoch = create(&*store, "s").await;
    let start = Instant::now();
    let commits = (0..events / per_commit).map(|n| {
        let first = 2 + n * per_commit;
        let events = (first..first + per_commit).map(|s| delta(s, "i", TEXT)).collect();
        let submitted = Instant::now();
        let work = store.commit(commit("s", epoch, events));
        async move {
            work.await.unwrap();
            submitted.elapsed()
        }
    });
    let latencies = stream::iter(commits).buffered(512).collect().await;
    report(name, events as usize, start.elapsed(), latencies);
    store.close(CLOSE).await.unwrap();
}

/// Producers that append one event per interval and wait for each.
async fn paced(dir: &Path, name: &str, producers: u32, per_second: u32, events: i64) {
    let store = SqliteStore::open(OpenOptions::new(dir.join(format!("paced{producers}")))).unwrap();
    let interval = Duration::from_secs(1) / per_second;
    let start = Instant::now();
    let tasks = (0..producers).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let name = format!("s{n}");
            let epoch = create(&*store, &name).await;
            tokio::time::sleep(interval * n / producers).await;
            let mut ticks = tokio::time::interval(interval);
            let mut latencies = Vec::new();
            for sequence in 2..2 + events {
                ticks.tick().await;
                let submitted = Instant::now();
                store.commit(commit(&name, epoch, vec![delta(sequence, "i", TEXT)])).await.unwrap();
                latencies.push(submitted.elapsed());
            }
            latencies
        })
    });
    let mut latencies = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        latencies.extend(task.await.unwrap());
    }
    report(name, latencies.len(), start.elapsed(), latencies);
    store.close(CLOSE).await.unwrap();
}
