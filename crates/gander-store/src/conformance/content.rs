//! Contents and documents beside the log.

use std::sync::Arc;

use gander_domain::ContentId;

use super::{Open, sample::*};
use crate::{NewContent, StoreError};

/// Some bytes that differ at every place.
fn bytes(length: usize) -> Arc<[u8]> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn content(name: &str, bytes: &Arc<[u8]>) -> NewContent {
    let content_id = ContentId::new(name).unwrap();
    NewContent { content_id, mime_type: "image/png".to_owned(), bytes: Arc::clone(bytes) }
}

pub(super) async fn contents_are_read_in_ranges(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    let (big, empty) = (bytes(300_001), bytes(0));
    let mut with = commit("a", epoch, vec![delta(2, "i", "x")]);
    with.contents = vec![content("big", &big), content("empty", &empty), content("big", &big)];
    store.commit(with).await.unwrap();
    let (a, id_big, id_empty) = (id("a"), ContentId::new("big").unwrap(), ContentId::new("empty").unwrap());
    assert_eq!(store.content_info(&a, &id_big).await.unwrap(), (300_001, "image/png".to_owned()));
    assert_eq!(store.content_info(&a, &id_empty).await.unwrap().0, 0);
    for (offset, length) in
        [(0, 10), (65_530, 12), (65_536, 65_536), (1, 300_000), (299_999, 100), (300_001, 5), (0, 0)]
    {
        let end = (offset + length).min(big.len());
        let read = store.read_content(&a, &id_big, offset as u64, length).await.unwrap();
        assert!(read == big[offset..end], "range {offset}+{length}");
    }
    assert!(store.read_content(&a, &id_big, u64::MAX, usize::MAX).await.unwrap().is_empty());
    assert!(store.read_content(&a, &id_empty, 0, 9).await.unwrap().is_empty());
    let missing = ContentId::new("missing").unwrap();
    assert_eq!(store.read_content(&a, &missing, 0, 1).await, Err(StoreError::ContentNotFound(missing)));
}

pub(super) async fn contents_are_copied(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    create(&*store, "b").await;
    let big = bytes(100_000);
    let mut with = commit("a", epoch, Vec::new());
    with.contents = vec![content("big", &big)];
    store.commit(with).await.unwrap();
    let ids = vec![ContentId::new("big").unwrap(), ContentId::new("missing").unwrap()];
    store.copy_contents(&id("a"), &id("b"), ids.clone()).await.unwrap();
    store.copy_contents(&id("a"), &id("b"), ids).await.unwrap();
    store.delete_session(&id("a")).await.unwrap();
    let read = store.read_content(&id("b"), &ContentId::new("big").unwrap(), 0, 1 << 20).await.unwrap();
    assert!(read == big[..], "the copy does not depend on the original");
}

pub(super) async fn documents_are_kept_beside_the_log(open: Open) {
    let store = open().await;
    create(&*store, "a").await;
    let a = id("a");
    assert_eq!(store.get_document(&a, "env").await.unwrap(), None);
    for body in [b"one".to_vec(), b"two".to_vec()] {
        store.put_document(&a, "env", Some(body.clone())).await.unwrap();
        assert_eq!(store.get_document(&a, "env").await.unwrap(), Some(body));
    }
    store.put_document(&a, "env", None).await.unwrap();
    assert_eq!(store.get_document(&a, "env").await.unwrap(), None);
    let unknown = id("unknown");
    assert!(matches!(store.put_document(&unknown, "env", None).await, Err(StoreError::SessionNotFound(_))));
}
