//! Appending and reading logs, fencing, reopening.

use std::sync::Arc;

use futures::future::join_all;
use gander_domain::{ContentId, Timestamp};

use super::{CLOSE, Open, sample::*};
use crate::{IdempotencyRecord, NewContent, StoreError};

pub(super) async fn commits_are_read_back_in_order(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    let written =
        vec![started(2, agent("i", 2, "")), delta(3, "i", "Hel"), delta(4, "i", "lo \u{0} \u{1f986}")];
    store.commit(commit("a", epoch, written.clone())).await.unwrap();
    let log = log(&*store, "a").await;
    assert_eq!(log.len(), 4);
    assert_eq!(log[1..], written);
    let bounds = store.log_bounds(&id("a")).await.unwrap();
    assert_eq!((bounds.oldest_sequence, bounds.last_sequence), (1, 4));
    assert_eq!(store.read_events(&id("b"), 0, 1, 1).await.unwrap_err(), StoreError::SessionNotFound(id("b")));
}

pub(super) async fn pages_are_bounded_by_events_and_bytes(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    let text = "x".repeat(1000);
    store.commit(commit("a", epoch, (2..=50).map(|n| delta(n, "i", &text)).collect())).await.unwrap();
    let page = store.read_events(&id("a"), 10, 7, 1 << 20).await.unwrap();
    assert_eq!(page.events.iter().map(|e| e.sequence).collect::<Vec<_>>(), (11..=17).collect::<Vec<_>>());
    assert_eq!(page.last_sequence, 50);
    let page = store.read_events(&id("a"), 10, 100, 5000).await.unwrap();
    assert!((3..=4).contains(&page.events.len()), "{} events in 5000 bytes", page.events.len());
    assert_eq!(store.read_events(&id("a"), 10, 100, 1).await.unwrap().events.len(), 1, "at least one");
    let end = store.read_events(&id("a"), 50, 100, 5000).await.unwrap();
    assert!(end.events.is_empty() && end.last_sequence == 50);
}

pub(super) async fn sequences_must_be_contiguous(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    for (events, stored, first) in [
        (vec![delta(1, "i", "again")], 1, 1),
        (vec![delta(3, "i", "gap")], 1, 3),
        (vec![delta(2, "i", "in"), delta(4, "i", "side")], 2, 4),
    ] {
        let error = store.commit(commit("a", epoch, events)).await.unwrap_err();
        assert_eq!(error, StoreError::SequenceConflict { session_id: id("a"), stored, first });
    }
    assert_eq!(sequences(&*store, "a").await, [1]);
    store.commit(commit("a", epoch, vec![delta(2, "i", "right")])).await.unwrap();
    let mut second = creation(&session("b", 1));
    second.events = vec![delta(2, "i", "no first event")];
    assert!(store.create_session(second).await.is_err());
    assert!(matches!(store.get_session(&id("b")).await, Err(StoreError::SessionNotFound(_))));
}

pub(super) async fn a_new_epoch_fences_the_old_one(open: Open) {
    let store = open().await;
    let old = create(&*store, "a").await;
    let new = store.open_session(&id("a")).await.unwrap();
    assert!(new > old);
    let error = store.commit(commit("a", old, vec![delta(2, "i", "late")])).await.unwrap_err();
    assert_eq!(error, StoreError::Fenced { session_id: id("a"), ours: old, current: new });
    assert!(matches!(store.drop_deltas(&id("a"), old, 9).await, Err(StoreError::Fenced { .. })));
    store.commit(commit("a", new, vec![delta(2, "i", "ours")])).await.unwrap();
    store.close(CLOSE).await.unwrap();
    drop(store);
    let store = open().await;
    assert!(store.open_session(&id("a")).await.unwrap() > new, "epochs survive");
    assert_eq!(store.open_session(&id("b")).await, Err(StoreError::SessionNotFound(id("b"))));
}

pub(super) async fn ids_are_never_reused(open: Open) {
    let store = open().await;
    create(&*store, "a").await;
    let again = creation(&session("a", 1));
    assert_eq!(store.create_session(again.clone()).await, Err(StoreError::SessionExists(id("a"))));
    store.delete_session(&id("a")).await.unwrap();
    assert_eq!(store.create_session(again.clone()).await, Err(StoreError::SessionExists(id("a"))));
    store.close(CLOSE).await.unwrap();
    drop(store);
    assert_eq!(open().await.create_session(again).await, Err(StoreError::SessionExists(id("a"))));
}

pub(super) async fn a_refused_commit_leaves_nothing(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    let content_id = ContentId::new("c").unwrap();
    let record = IdempotencyRecord {
        session_id: Some(id("a")),
        method: "m".to_owned(),
        key: "k".to_owned(),
        request_hash: String::new(),
        response: Vec::new(),
        create_time: Timestamp(1),
    };
    let mut refused = commit("a", epoch + 1, vec![completed(2, user("u", 1, "needle"))]);
    let content =
        NewContent { content_id: content_id.clone(), mime_type: String::new(), bytes: Arc::from(*b"x") };
    refused.contents.push(content);
    refused.idempotency.push(record.clone());
    let mut changed = session("a", 1);
    changed.title = "changed".to_owned();
    refused.summary = Some(Arc::new(changed));
    assert!(store.commit(refused.clone()).await.is_err());
    // A record of an unknown session is refused with everything beside it.
    refused.epoch = epoch;
    refused.idempotency[0].session_id = Some(id("unknown"));
    assert_eq!(store.commit(refused).await, Err(StoreError::SessionNotFound(id("unknown"))));
    assert_eq!(sequences(&*store, "a").await, [1]);
    assert_eq!(store.get_session(&id("a")).await.unwrap().title, "Title of a");
    assert!(store.content_info(&id("a"), &content_id).await.is_err());
    assert_eq!(store.idempotency("m", "k").await.unwrap(), None);
}

pub(super) async fn commits_in_flight_keep_their_order(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    // All are submitted before the first is awaited; a bad one in their midst fails alone.
    let commits = (2..500).flat_map(|n| {
        let good = store.commit(commit("a", epoch, vec![delta(n, "i", "x")]));
        let bad = (n % 50 == 0).then(|| store.commit(commit("a", epoch - 1, vec![delta(n + 1, "i", "x")])));
        std::iter::once((true, good)).chain(bad.map(|b| (false, b)))
    });
    let results = join_all(commits.map(|(good, f)| async move { (good, f.await) })).await;
    for (good, result) in results {
        assert_eq!(good, result.is_ok(), "{result:?}");
    }
    assert_eq!(sequences(&*store, "a").await, (1..500).collect::<Vec<_>>());
}

pub(super) async fn concurrent_sessions_do_not_disturb_each_other(open: Open) {
    let store = open().await;
    let tasks = (0..20).map(|n| {
        let store = Arc::clone(&store);
        async move {
            let name = format!("s{n}");
            let epoch = create(&*store, &name).await;
            for sequence in 2..50 {
                store.commit(commit(&name, epoch, vec![delta(sequence, "i", &name)])).await.unwrap();
                if sequence % 10 == 0 {
                    assert_eq!(sequences(&*store, &name).await.len() as i64, sequence, "read your writes");
                }
            }
            name
        }
    });
    for name in join_all(tasks).await {
        assert_eq!(sequences(&*store, &name).await, (1..50).collect::<Vec<_>>());
    }
    assert_eq!(store.session_ids().await.unwrap().len(), 20);
}

pub(super) async fn everything_is_there_after_reopening(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    let mut row = session("a", 7);
    row.last_sequence = 3;
    let mut last = commit("a", epoch, vec![delta(2, "i", "x"), completed(3, user("u", 1, "Hello"))]);
    last.summary = Some(Arc::new(row.clone()));
    store.commit(last).await.unwrap();
    let before = log(&*store, "a").await;
    store.close(CLOSE).await.unwrap();
    drop(store);
    let store = open().await;
    assert_eq!(log(&*store, "a").await, before);
    assert_eq!(store.get_session(&id("a")).await.unwrap(), row);
    let epoch = store.open_session(&id("a")).await.unwrap();
    store.commit(commit("a", epoch, vec![delta(4, "j", "more")])).await.unwrap();
}

pub(super) async fn deltas_are_dropped_after_completion_only(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    let events = vec![
        started(2, agent("done", 2, "")),
        delta(3, "done", "x"),
        started(4, agent("open", 2, "")),
        delta(5, "open", "y"),
        delta(6, "done", "z"),
        completed(7, agent("done", 2, "xz")),
        delta(8, "open", "y"),
        completed(9, agent("open", 2, "yy")),
    ];
    store.commit(commit("a", epoch, events)).await.unwrap();
    assert_eq!(store.drop_deltas(&id("a"), epoch, 6).await.unwrap(), 0, "nothing has completed by then");
    assert_eq!(store.drop_deltas(&id("a"), epoch, 8).await.unwrap(), 2);
    assert_eq!(sequences(&*store, "a").await, [1, 2, 4, 5, 7, 8, 9]);
    assert_eq!(store.drop_deltas(&id("a"), epoch, 8).await.unwrap(), 0);
    assert_eq!(store.drop_deltas(&id("a"), epoch, 9).await.unwrap(), 2, "deltas kept before are found again");
    assert_eq!(sequences(&*store, "a").await, [1, 2, 4, 7, 9]);
    let page = store.read_events(&id("a"), 3, 10, 1 << 20).await.unwrap();
    assert_eq!(page.events[0].sequence, 4, "a cursor in a hole continues behind it");
    store.commit(commit("a", epoch, vec![delta(10, "next", "x")])).await.unwrap();
}

pub(super) async fn a_closed_store_fails(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    store.close(CLOSE).await.unwrap();
    store.close(CLOSE).await.unwrap();
    assert!(store.commit(commit("a", epoch, vec![delta(2, "i", "x")])).await.is_err());
    assert!(store.get_session(&id("a")).await.is_err());
}
