//! Deleting erases: afterwards no byte of what was said is left in the data directory.

use gander_bridge_tests::{TestDaemon, events, files, pb, soon, unique_word};
use gander_client::Client;
use pb::ErrorReason;

/// A session in which the mark stands in every kind of place.
async fn marked_session(client: &Client, daemon: &TestDaemon, mark: &str) -> String {
    let request = pb::CreateSessionRequest {
        title: format!("title {mark}"),
        labels: [("label".to_owned(), mark.to_owned())].into(),
        client_environment: [("PATH".to_owned(), format!("/usr/bin:/bin:/{mark}"))].into(),
        idempotency_key: unique_word(),
        ..events::new_session(&daemon.work())
    };
    let session_id = events::create(client, request).await;
    events::complete(client, &session_id, &format!("say {mark}")).await;
    events::complete(client, &session_id, &format!("think {mark}")).await;
    events::complete(client, &session_id, &events::shell(&format!("echo out-{mark}"))).await;
    // Beyond 256 KiB values are stored beside the log, and a tool's whole output in a file.
    let long = format!("{mark} ").repeat(10_000);
    assert!(long.len() > 300_000);
    events::complete(client, &session_id, &format!("what is this? {long}")).await;
    events::complete(client, &session_id, &events::shell(&format!("yes {mark} | head -c 700000"))).await;
    let update = pb::UpdateSessionRequest {
        session: Some(pb::Session {
            session_id: session_id.clone(),
            title: format!("second {mark}"),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["title".to_owned()] }),
        idempotency_key: unique_word(),
    };
    client.sessions().update_session(update).await.expect("renamed");
    session_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_a_deleted_session_is_left() {
    let daemon = TestDaemon::start().await;
    let client = daemon.tcp().await;
    let (mark, kept) = (unique_word(), unique_word());
    let session_id = marked_session(&client, &daemon, &mark).await;
    let other = events::create(&client, events::new_session(&daemon.work())).await;
    events::complete(&client, &other, &format!("say {kept}")).await;
    let data = daemon.root().join("data");
    assert!(!files::containing(&data, &mark).is_empty(), "the mark was there");

    let (mut watch, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(&mut watch, &mut seen, "the watch to stand", |_| true).await;
    let delete = pb::DeleteSessionRequest { session_id: session_id.clone(), ..Default::default() };
    soon("DeleteSession", client.sessions().delete_session(delete.clone())).await.expect("deleted");
    assert_eq!(files::containing(&data, &mark), Vec::<std::path::PathBuf>::new(), "right after the answer");
    assert!(!files::containing(&data, &kept).is_empty(), "other sessions stay");

    let closing = events::until(&mut watch, &mut seen, "the watch to be told", |payload| {
        matches!(payload, pb::session_event::Payload::StreamClosing(_))
    });
    let closing = closing.await;
    assert!(matches!(closing.payload, Some(pb::session_event::Payload::StreamClosing(c))
        if c.reason() == pb::StreamCloseReason::SessionDeleted));
    let error = events::refused(client.sessions().delete_session(delete.clone()).await);
    assert!(error.is(ErrorReason::SessionNotFound), "{error:?}");
    let twice = pb::DeleteSessionRequest { allow_missing: true, ..delete };
    client.sessions().delete_session(twice).await.expect("missing is fine when that was asked");
    let taken = pb::CreateSessionRequest { session_id, ..events::bare_session(&daemon.work()) };
    let error = events::refused(client.sessions().create_session(taken).await);
    assert!(error.is(ErrorReason::SessionExists), "an id is never used again: {error:?}");
    drop(watch);
    events::check_store(&client).await;
    let (root, _) = daemon.stop(&client, std::time::Duration::ZERO).await;
    assert_eq!(
        files::containing(&root.path().join("data"), &mark),
        Vec::<std::path::PathBuf>::new(),
        "after the stop"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_session_can_be_deleted() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let mark = unique_word();
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    let digits = gander_bridge_tests::unique_digits();
    events::start(&client, &session_id, &events::shell(&format!("echo {mark}; sleep 300.{digits}"))).await;
    gander_bridge_tests::processes::appear(&format!("300.{digits}"), 1).await;
    let delete = pb::DeleteSessionRequest { session_id, ..Default::default() };
    soon("DeleteSession", client.sessions().delete_session(delete)).await.expect("deleted");
    let limit = std::time::Duration::from_secs(2);
    gander_bridge_tests::processes::are_gone(&digits, std::time::Instant::now(), limit).await;
    assert_eq!(files::containing(&daemon.root().join("data"), &mark), Vec::<std::path::PathBuf>::new());
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redacted_item_is_gone_and_nothing_else() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let (secret, kept) = (unique_word(), unique_word());
    let request = pb::CreateSessionRequest { title: "mine".into(), ..events::new_session(&daemon.work()) };
    let session_id = events::create(&client, request).await;
    // The demo model does not repeat what it does not understand.
    events::complete(&client, &session_id, &format!("my password is {secret}, help")).await;
    events::complete(&client, &session_id, &format!("say {kept}")).await;
    let data = daemon.root().join("data");
    assert!(!files::containing(&data, &secret).is_empty());
    let list = pb::ListItemsRequest { session_id: session_id.clone(), ..Default::default() };
    let before = client.sessions().list_items(list.clone()).await.expect("items").into_inner().items;
    let item = before
        .iter()
        .find(|item| matches!(item.body, Some(pb::item::Body::UserMessage(_))))
        .expect("a message");
    let redact = pb::RedactItemRequest {
        session_id: session_id.clone(),
        item_id: item.item_id.clone(),
        ..Default::default()
    };
    let redacted = client.sessions().redact_item(redact).await.expect("redacted").into_inner();
    assert!(redacted.sequence > 0);
    assert_eq!(files::containing(&data, &secret), Vec::<std::path::PathBuf>::new());
    assert!(!files::containing(&data, &kept).is_empty());
    let after = client.sessions().list_items(list).await.expect("items").into_inner().items;
    assert_eq!(after.len(), before.len(), "the item keeps its place");
    for (before, after) in before.iter().zip(&after) {
        if before.item_id == item.item_id {
            assert!(after.redacted && after.body.is_none(), "{after:?}");
        } else {
            assert_eq!(before, after, "others stay as they are");
        }
    }
    let log = events::log(&client, &session_id).await;
    events::assert_increasing("the log", &log);
    assert!(!format!("{log:?}").contains(&secret));
    let search = pb::SearchSessionsRequest { query: secret.clone(), ..Default::default() };
    let found = client.sessions().search_sessions(search).await.expect("a search").into_inner();
    assert_eq!(found.total_message_count, 0);
    daemon.finish().await;
}
