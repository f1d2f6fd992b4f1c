//! Tests of the SQLite store: the conformance suite and what only its files can show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod erasure;
mod files;
mod kill;
mod load;

use std::{path::Path, sync::Arc};

use futures::FutureExt as _;
use gander_store::{
    OpenOptions, SqliteStore, Store,
    conformance::{self, Open},
};

fn open(dir: &Path) -> Arc<SqliteStore> {
    SqliteStore::open(OpenOptions::new(dir)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let mut failed = Vec::new();
    for case in conformance::cases() {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let place = Arc::clone(&dir);
        let factory: Open = Arc::new(move || {
            let place = Arc::clone(&place);
            async move { open(place.path()) as Arc<dyn Store> }.boxed()
        });
        if let Err(error) = tokio::spawn((case.run)(factory)).await {
            failed.push(format!("{}: {error}", case.name));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
