//! The queue, the batches and the checkpoints under load.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, future::join_all, stream};
use gander_store::{
    Store,
    conformance::{CLOSE, sample::*},
};

use super::open;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wal_stays_bounded_under_steady_writing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let text = "x".repeat(200_000);
    let tasks = (0..4).map(|n| {
        let (store, text) = (Arc::clone(&store), text.clone());
        async move {
            let name = format!("s{n}");
            let epoch = create(&*store, &name).await;
            for sequence in 2..200 {
                store.commit(commit(&name, epoch, vec![delta(sequence, "i", &text)])).await.unwrap();
            }
        }
    });
    join_all(tasks).await;
    let health = store.health().await.unwrap();
    assert!(health.database_bytes > 100 << 20, "{health:?}: most of it was copied meanwhile");
    assert!(health.wal_bytes < 100 << 20, "{health:?}: 160 MB were written");
    store.close(CLOSE).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let epoch = create(&*store, "a").await;
    // 80 MB are submitted at once, more than may be queued.
    let text = "x".repeat(1 << 20);
    let commits = (2..82).map(|n| store.commit(commit("a", epoch, vec![delta(n, "i", &text)])));
    let results = tokio::time::timeout(Duration::from_secs(60), join_all(commits)).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "order is kept while waiting");
    assert_eq!(store.log_bounds(&id("a")).await.unwrap().last_sequence, 81);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_finishes_what_was_queued() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let epoch = create(&*store, "a").await;
    let pending: Vec<_> = (2..2000)
        .map(|n| {
            let (store, event) = (Arc::clone(&store), delta(n, "i", "x"));
            async move { store.commit(commit("a", epoch, vec![event])).await.is_ok() }
        })
        .collect();
    let writing = tokio::spawn(stream::iter(pending).buffered(500).collect::<Vec<bool>>());
    while store.log_bounds(&id("a")).await.unwrap().last_sequence < 100 {
        tokio::task::yield_now().await;
    }
    store.close(CLOSE).await.unwrap();
    let results = writing.await.unwrap();
    let accepted = results.iter().take_while(|ok| **ok).count();
    assert!(results[accepted..].iter().all(|ok| !ok), "no commit after the first refused one");
    let store = open(dir.path());
    assert_eq!(store.log_bounds(&id("a")).await.unwrap().last_sequence, accepted as i64 + 1);
}
