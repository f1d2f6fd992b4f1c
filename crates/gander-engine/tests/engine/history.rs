//! Snapshots, forks, rewinds, redaction, export and import, idempotency keys.

use gander_domain::{ErrorReason, ItemBody, Payload, SessionState};
use gander_engine::{
    ForkRequest, IdempotencyKey, ImportRequest, ImportSource, ItemsQuery, RequestContext, SessionPatch,
};
use gander_model::{
    ModelStop,
    testing::{Gate, Script},
};

use crate::{
    harness::{Harness, assert_log_rules, context},
    watching::files_with,
};

fn all() -> ItemsQuery {
    ItemsQuery { max_items: 1000, max_bytes: 1 << 20, ..ItemsQuery::default() }
}

fn keyed(method: &str, key: &str, hash: &str) -> RequestContext {
    let idempotency = IdempotencyKey { method: method.into(), key: key.into(), request_hash: hash.into() };
    RequestContext { idempotency: Some(idempotency), ..context("a") }
}

#[tokio::test]
async fn a_snapshot_plus_later_events_is_the_state() {
    let gates: Vec<Gate> = (0..5).map(|_| Gate::new()).collect();
    let script = gates.iter().fold(Script::new(), |s, g| s.text("word ").gate(g)).finish(ModelStop::EndTurn);
    let harness = Harness::new([script]).await;
    let session = harness.session().await;
    let turn = harness.start(&session, "go").await;
    let mut snapshots = Vec::new();
    for gate in &gates {
        gate.reached().await;
        snapshots.push(harness.engine.list_items(&session, all()).await.unwrap());
        gate.release();
    }
    let log = harness.until_ended(&session, &turn).await;
    for snapshot in snapshots {
        let through = snapshot.through_sequence;
        let before =
            SessionState::from_events(log.iter().filter(|e| e.sequence <= through).map(AsRef::as_ref));
        let items: Vec<_> = before.unwrap().items.iter().map(|e| e.item.clone()).collect();
        assert_eq!(items, snapshot.items, "snapshot through {through}");
    }
    harness.finish().await;
}

#[tokio::test]
async fn snapshots_page_without_change() {
    let harness = Harness::new((0..3).map(|i| Script::reply(&format!("r{i}")))).await;
    let session = harness.session().await;
    for i in 0..3 {
        harness.run(&session, &format!("m{i}")).await;
    }
    let whole = harness.engine.list_items(&session, all()).await.unwrap();
    let mut paged = Vec::new();
    let mut from = None;
    loop {
        let query = ItemsQuery { max_items: 2, from, ..all() };
        let page = harness.engine.list_items(&session, query).await.unwrap();
        assert_eq!(page.through_sequence, whole.through_sequence);
        paged.extend(page.items);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(paged, whole.items);
    let stale = ItemsQuery { from: Some((999_999, 0)), ..all() };
    let error = harness.engine.list_items(&session, stale).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::PageTokenInvalid);
    harness.finish().await;
}

#[tokio::test]
async fn forks_copy_and_rewinds_hide() {
    let harness = Harness::new((0..4).map(|i| Script::reply(&format!("r{i}")))).await;
    let session = harness.session().await;
    harness.run(&session, "m0").await;
    harness.run(&session, "m1").await;
    let items = harness.engine.list_items(&session, all()).await.unwrap().items;
    let second = items.iter().find(|i| i.text() == "m1").unwrap().item_id.clone();
    let request = ForkRequest { before_item_id: Some(second.clone()), ..ForkRequest::default() };
    let fork = harness.engine.fork_session(&context("a"), &session, request).await.unwrap().value;
    let texts =
        |items: &[std::sync::Arc<gander_domain::Item>]| items.iter().map(|i| i.text()).collect::<Vec<_>>();
    let copied = harness.engine.list_items(&fork.session_id, all()).await.unwrap().items;
    assert_eq!(texts(&copied), ["m0", "r0"]);
    assert_eq!(copied[0].item_id, items[0].item_id, "copies keep their ids");
    harness.run(&fork.session_id, "elsewhere").await;
    assert_eq!(
        harness.engine.list_items(&session, all()).await.unwrap().items,
        items,
        "the source is untouched"
    );

    harness.engine.rewind_session(&context("a"), &session, second.clone()).await.unwrap();
    let left = harness.engine.list_items(&session, all()).await.unwrap().items;
    assert_eq!(texts(&left), ["m0", "r0"]);
    let again = harness.engine.rewind_session(&context("a"), &session, second).await.unwrap_err();
    assert_eq!(again.reason, ErrorReason::ItemNotFound, "a rewound item cannot be rewound to again");
    harness.run(&session, "m2").await;
    let request = &harness.model.requests()[3];
    assert_eq!(texts(&request.items), ["m0", "r0", "m2"]);
    assert_log_rules(&harness.log(&session).await);
    harness.finish().await;
}

#[tokio::test]
async fn redaction_erases_one_body() {
    const MARKER: &str = "secret-marker-815";
    let harness = Harness::new([Script::reply("fine")]).await;
    let session = harness.session().await;
    harness.run(&session, MARKER).await;
    let patch = SessionPatch { title: Some("plain".into()), ..SessionPatch::default() };
    harness.engine.update_session(&context("a"), &session, patch).await.unwrap();
    let items = harness.engine.list_items(&session, all()).await.unwrap().items;
    harness.engine.redact_item(&context("a"), &session, &items[0].item_id).await.unwrap();
    let log = harness.log(&session).await;
    assert_log_rules(&log);
    assert!(matches!(log.last().unwrap().payload, Payload::ItemRedacted { .. }));
    let after = harness.engine.list_items(&session, all()).await.unwrap().items;
    assert!(after[0].redacted && after[0].text().is_empty());
    assert_eq!(after[1], items[1]);
    let left = files_with(harness.dir.path(), MARKER);
    assert!(left.is_empty(), "{left:?}");
    harness.finish().await;
}

#[tokio::test]
async fn who_redacts_is_told_of_summaries_that_may_quote_it() {
    let harness =
        Harness::new([Script::reply("fine"), Script::reply("NOTES"), Script::reply("and now?")]).await;
    let session = harness.session().await;
    harness.run(&session, "the word is swordfish").await;
    let before = harness.engine.list_items(&session, all()).await.unwrap().items;
    let summary = harness.engine.compact_session(&context("a"), &session, String::new()).await.unwrap();
    let summary = summary.value.unwrap();
    harness.run(&session, "after").await;
    let sequence = harness.engine.redact_item(&context("a"), &session, &before[0].item_id).await.unwrap();
    let log = harness.log(&session).await;
    let redacted = log.iter().find(|e| e.sequence == sequence).unwrap();
    assert!(matches!(redacted.payload, Payload::ItemRedacted { .. }));
    let Payload::ItemCompleted { item } = &log.last().unwrap().payload else { panic!() };
    let ItemBody::Notice(notice) = &item.body else { panic!() };
    assert_eq!(notice.code, "summary_may_quote");
    let data: serde_json::Value = serde_json::from_str(notice.data_json.as_deref().unwrap()).unwrap();
    assert_eq!(data["item_id"], summary.item_id.as_str());
    assert_eq!(data["redacted_item_id"], before[0].item_id.as_str());
    assert_log_rules(&log);
    // What came after the summary is quoted by none, and neither is what a redacted summary said.
    harness.engine.redact_item(&context("a"), &session, &summary.item_id).await.unwrap();
    harness.engine.redact_item(&context("a"), &session, &before[1].item_id).await.unwrap();
    let log = harness.log(&session).await;
    let told = log.iter().filter(|e| {
        matches!(&e.payload, Payload::ItemCompleted { item }
        if matches!(&item.body, ItemBody::Notice(n) if n.code == "summary_may_quote"))
    });
    assert_eq!(told.count(), 1);
    harness.finish().await;
}

#[tokio::test]
async fn an_export_can_be_imported() {
    let harness = Harness::new([
        Script::one_call("1", "developer__list", "{}"),
        Script::reply("listed"),
        Script::reply("more"),
    ])
    .await;
    let session = harness.session().await;
    let big = "x".repeat(300 * 1024);
    harness.run(&session, &big).await;
    let bytes = harness.engine.export_session(&session, false).await.unwrap();
    let import =
        |source| ImportRequest { source, session_id: None, keep_session_id: false, working_directory: None };
    let imported = harness
        .engine
        .import_session(&context("a"), import(ImportSource::Export(bytes.clone())))
        .await
        .unwrap()
        .value;
    let (a, b) = (
        harness.engine.list_items(&session, all()).await.unwrap().items,
        harness.engine.list_items(&imported.session_id, all()).await.unwrap().items,
    );
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(&b).all(|(a, b)| a.item_id == b.item_id && a.body == b.body));
    harness.run(&imported.session_id, "go on").await;
    let seen = &harness.model.requests()[2].items[0];
    assert!(matches!(&seen.body, ItemBody::UserMessage(m) if m.parts[0].as_text() == Some(big.as_str())));
    let broken = import(ImportSource::Export(b"{\"line\":\"header\"}".to_vec()));
    let error = harness.engine.import_session(&context("a"), broken).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::ImportInvalid);
    harness.finish().await;
}

#[tokio::test]
async fn an_idempotency_key_has_one_effect() {
    let harness = Harness::new([]).await;
    let create = |hash: &str| {
        let (engine, new, context) =
            (harness.engine.clone(), harness.new_session(), keyed("CreateSession", "k1", hash));
        async move { engine.create_session(&context, new).await }
    };
    let (a, b) = tokio::join!(create("h1"), create("h1"));
    let (a, b) = (a.unwrap().value, b.unwrap().value);
    assert_eq!(a.session_id, b.session_id, "two at once have one effect");
    let reused = create("h2").await.unwrap_err();
    assert_eq!(reused.reason, ErrorReason::RequestIdReused);
    let other = harness.engine.create_session(&keyed("ForkSession", "k1", "h3"), harness.new_session()).await;
    assert_ne!(other.unwrap().value.session_id, a.session_id, "keys belong to a method");
    harness.finish().await;
}
