//! Deletion and redaction, as far as the trait shows them. That no byte is left is tested per implementation.

use std::sync::Arc;

use gander_domain::{
    ContentId, ItemId, Payload, Timestamp,
    event::{RedactAction, redact_payload},
};

use super::{CLOSE, Open, sample::*};
use crate::{IdempotencyRecord, NewContent, SearchQuery, StoreError};

fn search(word: &str) -> SearchQuery {
    SearchQuery { words: vec![word.to_owned()], limit_messages: 10, ..SearchQuery::default() }
}

pub(super) async fn deletion_erases_all_but_the_id(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    create(&*store, "b").await;
    let content_id = ContentId::new("c").unwrap();
    let mut full = commit("a", epoch, vec![completed(2, user("u", 1, "needle"))]);
    full.events.extend((3..2000).map(|n| delta(n, "i", "text")));
    let content =
        NewContent { content_id: content_id.clone(), mime_type: String::new(), bytes: Arc::from(*b"x") };
    full.contents.push(content);
    full.idempotency.push(IdempotencyRecord {
        session_id: Some(id("a")),
        method: "m".to_owned(),
        key: "k".to_owned(),
        request_hash: String::new(),
        response: b"answer".to_vec(),
        create_time: Timestamp(1),
    });
    store.commit(full).await.unwrap();
    store.put_document(&id("a"), "env", Some(b"x".to_vec())).await.unwrap();
    store.delete_session(&id("a")).await.unwrap();
    let gone = || StoreError::SessionNotFound(id("a"));
    assert_eq!(store.get_session(&id("a")).await, Err(gone()));
    assert_eq!(store.read_events(&id("a"), 0, 1, 1).await.unwrap_err(), gone());
    assert_eq!(store.get_document(&id("a"), "env").await, Err(gone()));
    assert_eq!(store.content_info(&id("a"), &content_id).await, Err(gone()));
    assert_eq!(store.commit(commit("a", epoch, vec![delta(2000, "i", "late")])).await, Err(gone()));
    assert_eq!(store.delete_session(&id("a")).await, Err(gone()));
    assert_eq!(store.idempotency("m", "k").await.unwrap(), None);
    assert!(store.search(search("needle")).await.unwrap().is_empty());
    assert_eq!(store.session_ids().await.unwrap(), [id("b")]);
    assert_eq!(sequences(&*store, "b").await, [1]);
    assert_eq!(store.check().await.unwrap(), []);
}

pub(super) async fn redaction_replaces_and_appends(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    let item_id = ItemId::new("m").unwrap();
    let events = vec![
        started(2, agent("m", 2, "")),
        delta(3, "m", "needle"),
        completed(4, agent("m", 2, "needle")),
        completed(5, user("u", 3, "keep")),
    ];
    let mut first = commit("a", epoch, events.clone());
    let content_id = ContentId::new("c").unwrap();
    let content =
        NewContent { content_id: content_id.clone(), mime_type: String::new(), bytes: Arc::from(*b"x") };
    first.contents.push(content);
    store.commit(first).await.unwrap();
    let replacements: Vec<_> = events
        .iter()
        .filter_map(|event| match redact_payload(&event.payload, &item_id) {
            RedactAction::Keep => None,
            RedactAction::Replace(payload) => Some((event.sequence, Some(*payload))),
            RedactAction::Drop => Some((event.sequence, None)),
        })
        .collect();
    assert_eq!(replacements.len(), 3);
    let note = || event(6, Payload::ItemRedacted { item_id: item_id.clone() });
    let fenced =
        store.redact(commit("a", epoch - 1, vec![note()]), "m".to_owned(), replacements.clone(), Vec::new());
    assert!(matches!(fenced.await, Err(StoreError::Fenced { .. })));
    assert!(!store.search(search("needle")).await.unwrap().is_empty());
    let done = store.redact(
        commit("a", epoch, vec![note()]),
        "m".to_owned(),
        replacements,
        vec![content_id.clone()],
    );
    done.await.unwrap();
    let log = log(&*store, "a").await;
    assert_eq!(log.iter().map(|e| e.sequence).collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
    assert!(!serde_json::to_string(&log).unwrap().contains("needle"));
    assert!(matches!(&log[2].payload, Payload::ItemCompleted { item } if item.redacted));
    assert!(store.search(search("needle")).await.unwrap().is_empty());
    assert!(!store.search(search("keep")).await.unwrap().is_empty());
    assert_eq!(store.content_info(&id("a"), &content_id).await, Err(StoreError::ContentNotFound(content_id)));
}

pub(super) async fn checks_find_nothing_in_a_used_store(open: Open) {
    let store = open().await;
    for name in ["a", "b", "c"] {
        let epoch = create(&*store, name).await;
        store.commit(commit(name, epoch, (2..100).map(|n| delta(n, "i", "x")).collect())).await.unwrap();
        store.commit(commit(name, epoch, vec![completed(100, agent("i", 1, "x"))])).await.unwrap();
        store.drop_deltas(&id(name), epoch, 100).await.unwrap();
    }
    store.delete_session(&id("b")).await.unwrap();
    assert_eq!(store.check().await.unwrap(), []);
    store.close(CLOSE).await.unwrap();
    drop(store);
    assert_eq!(open().await.check().await.unwrap(), []);
}
