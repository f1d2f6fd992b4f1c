//! No byte of what was erased is left in any file of the data directory.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gander_domain::{ContentId, Payload};
use gander_store::{
    Commit, NewContent, Store, StoreError,
    conformance::{CLOSE, sample::*},
};

use super::open;

/// Files that contain `marker`, and how often.
fn places(dir: &Path, marker: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let count = bytes.windows(marker.len()).filter(|w| *w == marker.as_bytes()).count();
        if count > 0 {
            found.push((path.display().to_string(), count));
        }
    }
    found
}

/// Deterministic numbers below `bound`.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A commit that leaves the marker in every table.
fn marked(name: &str, epoch: i64, first: i64, marker: &str, numbers: &mut Numbers) -> Commit {
    let mut text = || format!("{marker}{}{marker}", "-".repeat(numbers.below(900) as usize));
    let item = format!("i{first}");
    let mut row = session(name, 1);
    row.title = text();
    row.last_sequence = first + 4;
    row.extension_state.insert("todo".to_owned(), text());
    let mut commit = commit(
        name,
        epoch,
        vec![
            completed(first, user(&format!("u{first}"), 1, &text())),
            started(first + 1, agent(&item, 1, "")),
            delta(first + 2, &item, &text()),
            delta(first + 3, &item, &text()),
            completed(first + 4, agent(&item, 1, &text())),
        ],
    );
    commit.summary = Some(Arc::new(row));
    let bytes: Arc<[u8]> = text().repeat(1 + numbers.below(40) as usize).into_bytes().into();
    let content_id = ContentId::new(format!("c{first}")).unwrap();
    commit.contents.push(NewContent { content_id, mime_type: "text/plain".to_owned(), bytes });
    commit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_leaves_no_byte_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let marker = "QUACK-secret-7731";
    let mut numbers = Numbers(42);
    let epoch = create(&*store, "a").await;
    let other = create(&*store, "b").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        async move {
            let mut sequence = 1;
            while !stop.load(Ordering::Relaxed) {
                sequence += 1;
                store.commit(commit("b", other, vec![delta(sequence, "i", "harmless")])).await.unwrap();
            }
            sequence
        }
    });
    for n in 0..40 {
        store.commit(marked("a", epoch, 2 + 5 * n, marker, &mut numbers)).await.unwrap();
    }
    store.put_document(&id("a"), "env", Some(marker.as_bytes().to_vec())).await.unwrap();
    assert!(!places(dir.path(), marker).is_empty(), "the search finds what is there");
    store.delete_session(&id("a")).await.unwrap();
    assert_eq!(places(dir.path(), marker), [], "while the other session is being written");
    stop.store(true, Ordering::Relaxed);
    let last = writing.await.unwrap();
    assert_eq!(store.log_bounds(&id("b")).await.unwrap().last_sequence, last);
    store.close(CLOSE).await.unwrap();
    assert_eq!(places(dir.path(), marker), [], "nothing comes back");
}

/// Many sessions grow, shrink and go in random order, so that rows move between pages in every way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_rows_leave_no_copies() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut numbers = Numbers(7);
    let marker = |n: usize| format!("<marker-{n:03}>");
    let names: Vec<String> = (0..24).map(|n| format!("s{n}")).collect();
    let mut next = vec![2_i64; names.len()];
    for name in &names {
        create(&*store, name).await;
    }
    let mut alive: Vec<usize> = (0..names.len()).collect();
    while !alive.is_empty() {
        for _ in 0..30 {
            let n = alive[numbers.below(alive.len() as u64) as usize];
            store.commit(marked(&names[n], 1, next[n], &marker(n), &mut numbers)).await.unwrap();
            next[n] += 5;
            if numbers.below(4) == 0 {
                store.drop_deltas(&id(&names[n]), 1, next[n]).await.unwrap();
            }
        }
        let n = alive.swap_remove(numbers.below(alive.len() as u64) as usize);
        store.delete_session(&id(&names[n])).await.unwrap();
        assert_eq!(places(dir.path(), &marker(n)), [], "session {n}");
        for n in &alive {
            assert_eq!(store.log_bounds(&id(&names[*n])).await.unwrap().last_sequence, next[*n] - 1);
        }
    }
    assert_eq!(store.check().await.unwrap(), []);
    store.close(CLOSE).await.unwrap();
    assert_eq!(places(dir.path(), "<marker-"), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redaction_leaves_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let marker = "QUACK-secret-7732";
    let epoch = create(&*store, "a").await;
    store.commit(marked("a", epoch, 2, marker, &mut Numbers(3))).await.unwrap();
    store.commit(commit("a", epoch, (7..500).map(|n| delta(n, "j", "harmless")).collect())).await.unwrap();
    let redacted = |mut item: Box<gander_domain::Item>| {
        item.redact();
        item
    };
    let replacements = vec![
        (2, Some(Payload::ItemCompleted { item: redacted(user("u2", 1, "")) })),
        (4, None),
        (5, None),
        (6, Some(Payload::ItemCompleted { item: redacted(agent("i2", 1, "x")) })),
    ];
    let mut note = commit("a", epoch, vec![delta(500, "j", "redacted")]);
    note.summary = Some(Arc::new(session("a", 1)));
    let contents = vec![ContentId::new("c2").unwrap()];
    store.redact(note, "u2".to_owned(), replacements, contents).await.unwrap();
    let search_text_of_the_other_item = places(dir.path(), marker);
    assert_eq!(search_text_of_the_other_item.len(), 1, "only the given item's search text goes");
    let note = commit("a", epoch, vec![delta(501, "j", "redacted")]);
    store.redact(note, "i2".to_owned(), Vec::new(), Vec::new()).await.unwrap();
    assert_eq!(places(dir.path(), marker), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_holds_the_wal_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let marker = "QUACK-secret-7733";
    for name in ["a", "b"] {
        let epoch = create(&*store, name).await;
        store.commit(marked(name, epoch, 2, marker, &mut Numbers(3))).await.unwrap();
    }
    let reader = rusqlite::Connection::open(dir.path().join("gander.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM event;").unwrap();
    let deleting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.delete_session(&id("a")).await }
    });
    // The session is gone for everyone at once; only the answer waits for the reader.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while store.get_session(&id("a")).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "the session was never deleted");
        tokio::task::yield_now().await;
    }
    assert!(!deleting.is_finished());
    store.commit(commit("b", 1, vec![delta(7, "i", "others go on")])).await.unwrap();
    reader.execute_batch("COMMIT").unwrap();
    deleting.await.unwrap().unwrap();
    // A reader that never lets go is named; the next attempt succeeds without it.
    reader.execute_batch("BEGIN; SELECT count(*) FROM event;").unwrap();
    let error = store.delete_session(&id("b")).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Unavailable(text) if text.contains("gander.db-wal") && text.contains("reader")),
        "{error}"
    );
    reader.execute_batch("COMMIT").unwrap();
    store.delete_session(&id("b")).await.unwrap();
    assert_eq!(places(dir.path(), marker), []);
    assert!(matches!(store.delete_session(&id("b")).await, Err(StoreError::SessionNotFound(_))));
}

/// As after a crash between an erasure and its purge: the next start finishes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_finishes_what_was_being_erased() {
    let dir = tempfile::tempdir().unwrap();
    let marker = "QUACK-secret-7734";
    let store = open(dir.path());
    let epoch = create(&*store, "a").await;
    store.commit(marked("a", epoch, 2, marker, &mut Numbers(3))).await.unwrap();
    store.close(CLOSE).await.unwrap();
    let conn = rusqlite::Connection::open(dir.path().join("gander.db")).unwrap();
    conn.execute_batch(
        "INSERT INTO erasing SELECT key FROM session; INSERT INTO tombstone VALUES ('a', 1); DELETE FROM session;",
    )
    .unwrap();
    drop(conn);
    let store = open(dir.path());
    assert_eq!(store.check().await.unwrap(), [], "rows that are being erased are expected");
    // Closing waits for the erasure.
    store.close(CLOSE).await.unwrap();
    assert_eq!(places(dir.path(), marker), []);
    let conn = rusqlite::Connection::open(dir.path().join("gander.db")).unwrap();
    let left: i64 = conn
        .query_row("SELECT (SELECT count(*) FROM event) + (SELECT count(*) FROM erasing)", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(left, 0);
}
