//! Lock, modes, schema versions, damage, a full disk, reading beside the owner.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use gander_store::{
    OpenOptions, SqliteStore, Store, StoreError,
    conformance::{CLOSE, sample::*},
};

use super::open;

#[tokio::test]
async fn one_process_owns_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let refused = SqliteStore::open(OpenOptions::new(dir.path()));
    assert_eq!(refused.err(), Some(StoreError::Owned { pid: std::process::id() }));
    store.close(CLOSE).await.unwrap();
    let next = open(dir.path());
    drop(next);
    open(dir.path());
}

#[tokio::test]
async fn files_are_for_their_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("deep/data");
    let store = open(&dir);
    create(&*store, "a").await;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for name in ["gander.db", "gander.db-wal", "gander.db-shm", "gander.lock", "reserve"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    store.close(CLOSE).await.unwrap();
    assert!(!dir.join("gander.db-wal").exists(), "closing leaves one file");
}

#[tokio::test]
async fn newer_foreign_and_damaged_databases_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gander.db");
    let refused = |read_only| {
        let options = OpenOptions { read_only, ..OpenOptions::new(dir.path()) };
        SqliteStore::open(options).err().expect("refused")
    };
    open(dir.path()).close(CLOSE).await.unwrap();
    let conn = rusqlite::Connection::open(&file).unwrap();
    conn.execute("UPDATE meta SET value = 999", []).unwrap();
    drop(conn);
    for read_only in [false, true] {
        assert!(matches!(refused(read_only), StoreError::Newer { found: 999, .. }));
    }
    fs::remove_file(&file).unwrap();
    rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    assert!(matches!(refused(false), StoreError::Corrupt(_)));
    fs::write(&file, "not a database, but long enough to have a header of one hundred bytes".repeat(9))
        .unwrap();
    assert!(matches!(refused(false), StoreError::Corrupt(_)));
}

#[tokio::test]
async fn check_reports_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    create(&*store, "a").await;
    create(&*store, "b").await;
    store.close(CLOSE).await.unwrap();
    let conn = rusqlite::Connection::open(dir.path().join("gander.db")).unwrap();
    conn.execute_batch(
        "INSERT INTO event VALUES (77, 1, 0, x'00');
         UPDATE session SET summary = CAST(replace(summary, '\"last_sequence\":1', '\"last_sequence\":9') AS BLOB) WHERE session_id = 'a';
         DELETE FROM event WHERE session = (SELECT key FROM session WHERE session_id = 'b');",
    )
    .unwrap();
    drop(conn);
    let findings = open(dir.path()).check().await.unwrap();
    let texts: Vec<_> = findings.iter().map(|f| (f.session_id.clone(), f.text.as_str())).collect();
    assert_eq!(
        texts,
        [
            (None, "table event has rows of 1 unknown sessions"),
            (Some(id("b")), "the session has no event"),
            (Some(id("a")), "the row says last sequence 9, the log ends at 1"),
        ]
    );
}

#[tokio::test]
async fn another_program_may_read_beside_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    assert!(SqliteStore::open(OpenOptions::new(dir.path()).read_only()).is_err(), "nothing to read");
    let store = open(dir.path());
    let epoch = create(&*store, "a").await;
    let reader = SqliteStore::open(OpenOptions::new(dir.path()).read_only()).unwrap();
    store.commit(commit("a", epoch, vec![delta(2, "i", "x")])).await.unwrap();
    assert_eq!(sequences(&*reader, "a").await, [1, 2]);
    assert_eq!(reader.check().await.unwrap(), []);
    assert!(reader.health().await.unwrap().read_only);
    let refused = reader.commit(commit("a", epoch, vec![delta(3, "i", "x")])).await;
    assert!(matches!(refused, Err(StoreError::ReadOnly(_))));
    reader.close(CLOSE).await.unwrap();
    store.close(CLOSE).await.unwrap();
    let reader = SqliteStore::open(OpenOptions::new(dir.path()).read_only()).unwrap();
    assert_eq!(sequences(&*reader, "a").await, [1, 2], "after the owner has gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_leaves_room_for_the_end_of_turns() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions { max_pages: Some(1000), ..OpenOptions::new(dir.path()) };
    let store = SqliteStore::open(options).unwrap();
    let epoch = create(&*store, "a").await;
    let text = "x".repeat(100_000);
    let mut sequence = 1;
    while !store.is_full() {
        sequence += 1;
        store.commit(commit("a", epoch, vec![delta(sequence, "i", &text)])).await.unwrap();
        assert!(sequence < 200, "the limit was never met");
    }
    assert!(!dir.path().join("reserve").exists(), "its blocks were given up");
    assert!(store.health().await.unwrap().full);
    store.commit(commit("a", epoch, vec![delta(sequence + 1, "i", "the end")])).await.unwrap();
    let mut last = sequence + 1;
    let error = loop {
        match store.commit(commit("a", epoch, vec![delta(last + 1, "i", &text)])).await {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
        assert!(last < 200, "the reserve was never used up");
    };
    assert_eq!(error, StoreError::Full);
    assert_eq!(sequences(&*store, "a").await, (1..=last).collect::<Vec<_>>(), "nothing of the failed commit");
    // Room is made: the reserve comes back, and with it new work.
    store.set_max_pages(100_000);
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.is_full() {
        assert!(Instant::now() < deadline, "the store never noticed the room");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(dir.path().join("reserve").exists());
    store.commit(commit("a", epoch, vec![delta(last + 1, "i", &text)])).await.unwrap();
    assert_eq!(store.check().await.unwrap(), []);
}
