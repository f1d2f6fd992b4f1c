//! Rows for lists, search, recovery and idempotency.

use std::sync::Arc;

use gander_domain::{
    Payload, Session, Timestamp,
    event::{HistoryChange, HistoryChangeKind, VisibilityChange},
    session::{SessionKind, SessionState},
    turn::TurnState,
};

use super::{Open, sample::*};
use crate::{ArchivedFilter, IdempotencyRecord, ListOrder, ListQuery, SearchQuery, Store};

async fn names(store: &dyn Store, query: ListQuery) -> Vec<String> {
    let sessions = store.list_sessions(query).await.unwrap();
    sessions.iter().map(|s| s.session_id.to_string()).collect()
}

pub(super) async fn lists_filter_and_page(open: Open) {
    let store = open().await;
    let make = |name: &str, created: i64, updated: i64, change: fn(&mut Session)| {
        let mut row = session(name, created);
        row.update_time = Timestamp::from_seconds(updated);
        change(&mut row);
        row
    };
    for row in [
        make("a", 1, 9, |s| s.message_count = 2),
        make("b", 2, 8, |s| s.archive_time = Some(Timestamp(1))),
        make("c", 3, 7, |s| s.kind = SessionKind::Subagent),
        make("d", 4, 6, |s| {
            s.kind = SessionKind::Scheduled;
            s.schedule_id = Some("daily".to_owned());
        }),
        make("e", 5, 6, |s| s.working_directory = "/elsewhere".to_owned()),
        make("f", 6, 5, |s| s.title = "Über ÄPFEL 100%".to_owned()),
    ] {
        store.create_session(creation(&row)).await.unwrap();
    }
    let all = ListQuery::default();
    assert_eq!(names(&*store, all.clone()).await, ["a", "e", "d", "f"]);
    let by_create = ListQuery { order: ListOrder::CreateTimeDesc, ..all.clone() };
    assert_eq!(names(&*store, by_create.clone()).await, ["f", "e", "d", "a"]);
    let oldest_first = ListQuery { order: ListOrder::CreateTimeAsc, ..all.clone() };
    assert_eq!(names(&*store, oldest_first.clone()).await, ["a", "d", "e", "f"]);
    for (query, expected) in [
        (ListQuery { kinds: vec![SessionKind::Subagent], ..all.clone() }, vec!["c"]),
        (ListQuery { archived: ArchivedFilter::Only, ..all.clone() }, vec!["b"]),
        (ListQuery { archived: ArchivedFilter::With, ..all.clone() }, vec!["a", "b", "e", "d", "f"]),
        (ListQuery { with_messages_only: true, ..all.clone() }, vec!["a"]),
        (ListQuery { schedule_id: Some("daily".to_owned()), ..all.clone() }, vec!["d"]),
        (ListQuery { working_directory: Some("/elsewhere".to_owned()), ..all.clone() }, vec!["e"]),
        (ListQuery { title_contains: Some("äpfel 1".to_owned()), ..all.clone() }, vec!["f"]),
        (ListQuery { title_contains: Some("%".to_owned()), ..all.clone() }, vec!["f"]),
        (ListQuery { parent_session_id: Some(id("a")), ..all.clone() }, vec![]),
    ] {
        assert_eq!(names(&*store, query.clone()).await, expected, "{query:?}");
    }
    for base in [all, by_create, oldest_first] {
        let expected = names(&*store, base.clone()).await;
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let query = ListQuery { after: after.clone(), limit: 1, ..base.clone() };
            let page = store.list_sessions(query).await.unwrap();
            let Some(last) = page.last() else { break };
            let time =
                if base.order == ListOrder::UpdateTimeDesc { last.update_time } else { last.create_time };
            after = Some((time, last.session_id.clone()));
            paged.push(last.session_id.to_string());
        }
        assert_eq!(paged, expected, "equal times are paged by id");
    }
}

pub(super) async fn rows_follow_summaries(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    let mut row = session("a", 1);
    row.usage.totals.input_tokens = Some(5);
    row.usage.totals.output_tokens = Some(2);
    row.parent = Some(gander_domain::session::ParentCall { session_id: id("p"), item_id: None });
    let mut update = commit("a", epoch, Vec::new());
    update.summary = Some(Arc::new(row.clone()));
    store.commit(update).await.unwrap();
    assert_eq!(store.get_session(&id("a")).await.unwrap(), row);
    let children = ListQuery { parent_session_id: Some(id("p")), ..ListQuery::default() };
    assert_eq!(names(&*store, children).await, ["a"]);
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.session_count, stats.total_tokens), (1, 7));
    let health = store.health().await.unwrap();
    assert_eq!((health.sessions, health.full, health.read_only), (1, false, false));
}

pub(super) async fn unfinished_sessions_are_found(open: Open) {
    let store = open().await;
    for name in ["idle", "queued", "running", "asked"] {
        create(&*store, name).await;
    }
    let queued = event(2, Payload::TurnQueued { turn: turn("t", TurnState::Queued) });
    store.commit(commit("queued", 1, vec![queued])).await.unwrap();
    let mut row = session("asked", 1);
    row.state = SessionState::AwaitingInput;
    row.pending_interaction_count = 1;
    let mut asked = commit("asked", 1, Vec::new());
    asked.summary = Some(Arc::new(row));
    store.commit(asked).await.unwrap();
    let start = event(2, Payload::TurnStarted { turn: turn("t", TurnState::Running) });
    store.commit(commit("running", 1, vec![start])).await.unwrap();
    assert_eq!(store.unfinished_sessions().await.unwrap(), [id("queued"), id("running"), id("asked")]);
    let end = |sequence| event(sequence, Payload::TurnEnded { turn: turn("t", TurnState::Completed) });
    store.commit(commit("running", 1, vec![end(3)])).await.unwrap();
    let start = event(3, Payload::TurnStarted { turn: turn("t", TurnState::Running) });
    store.commit(commit("queued", 1, vec![start, end(4)])).await.unwrap();
    assert_eq!(store.unfinished_sessions().await.unwrap(), [id("asked")]);
}

async fn found(store: &dyn Store, words: &[&str]) -> Vec<(String, Vec<String>)> {
    let words = words.iter().map(|w| (*w).to_owned()).collect();
    let query = SearchQuery { words, limit_messages: 10, ..SearchQuery::default() };
    let hits = store.search(query).await.unwrap();
    hits.into_iter()
        .map(|h| (h.session.session_id.to_string(), h.messages.into_iter().map(|m| m.item_id).collect()))
        .collect()
}

fn hit(session: &str, items: &[&str]) -> (String, Vec<String>) {
    (session.to_owned(), items.iter().map(|i| (*i).to_owned()).collect())
}

pub(super) async fn search_finds_messages_without_case(open: Open) {
    let store = open().await;
    for name in ["a", "b"] {
        create(&*store, name).await;
    }
    let events = vec![
        completed(2, user("u1", 10, "Where do GEESE fly? 50% of it_all")),
        started(3, agent("m1", 20, "")),
        delta(4, "m1", "geese delta"),
        completed(5, agent("m1", 20, "Geese fly south; Äußerst WEIT")),
    ];
    store.commit(commit("a", 1, events)).await.unwrap();
    store.commit(commit("b", 1, vec![completed(2, user("u1", 15, "geese walk"))])).await.unwrap();
    assert_eq!(found(&*store, &["geese"]).await, [hit("a", &["m1", "u1"]), hit("b", &["u1"])]);
    assert_eq!(found(&*store, &["FLY", "south"]).await, [hit("a", &["m1"])]);
    assert_eq!(found(&*store, &["äUSSERST"]).await, [], "ß has no single capital");
    assert_eq!(found(&*store, &["äußerst", "weit"]).await, [hit("a", &["m1"])]);
    assert_eq!(found(&*store, &["50%", "it_all"]).await, [hit("a", &["u1"])]);
    assert_eq!(found(&*store, &["5_%"]).await, []);
    assert_eq!(found(&*store, &["delta"]).await, [], "only completed messages are found");
    let query = SearchQuery {
        words: vec!["geese".to_owned()],
        after: Some(Timestamp::from_seconds(11)),
        before: Some(Timestamp::from_seconds(20)),
        limit_messages: 10,
        ..SearchQuery::default()
    };
    let hits = store.search(query.clone()).await.unwrap();
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].messages[0].text, "geese walk");
    assert_eq!(hits[0].messages[0].role, "user");
    let one = SearchQuery { after: None, before: None, limit_messages: 1, ..query };
    assert_eq!(store.search(one.clone()).await.unwrap()[0].messages.len(), 1);
    let within = SearchQuery { session_id: Some(id("b")), ..one };
    let hits = store.search(within).await.unwrap();
    assert_eq!(hits[0].session.session_id, id("b"), "the limit counts what is in the session");
}

pub(super) async fn search_skips_hidden_messages(open: Open) {
    let store = open().await;
    create(&*store, "a").await;
    let mut internal = user("hidden", 1, "goose");
    internal.visibility.user = false;
    let events = vec![
        completed(2, user("u1", 1, "goose")),
        started(3, agent("m1", 2, "")),
        completed(4, user("u2", 3, "goose")),
        completed(5, agent("m1", 2, "goose")),
        completed(6, internal),
    ];
    store.commit(commit("a", 1, events)).await.unwrap();
    assert_eq!(found(&*store, &["goose"]).await, [hit("a", &["u2", "m1", "u1"])]);
    let change = |kind, from, items: Vec<VisibilityChange>| {
        Payload::HistoryChanged(HistoryChange {
            kind,
            visibility_changes: items,
            hidden_from_sequence: from,
            summary_item_id: None,
        })
    };
    // The item that started at 3 and completed at 5 began before the cut.
    let rewound = change(HistoryChangeKind::Rewound, Some(4), Vec::new());
    store.commit(commit("a", 1, vec![event(7, rewound)])).await.unwrap();
    assert_eq!(found(&*store, &["goose"]).await, [hit("a", &["m1", "u1"])]);
    let item = |name: &str, user| VisibilityChange {
        item_id: gander_domain::ItemId::new(name).unwrap(),
        user,
        model: false,
    };
    let compacted = change(HistoryChangeKind::Compacted, None, vec![item("m1", true), item("u1", true)]);
    let cleared = change(HistoryChangeKind::Cleared, None, vec![item("u1", false)]);
    store.commit(commit("a", 1, vec![event(8, compacted), event(9, cleared)])).await.unwrap();
    assert_eq!(found(&*store, &["goose"]).await, [hit("a", &["m1"])]);
}

pub(super) async fn idempotency_records_keep_the_first_answer(open: Open) {
    let store = open().await;
    let epoch = create(&*store, "a").await;
    let record = |key: &str, response: &str, second| IdempotencyRecord {
        session_id: Some(id("a")),
        method: "StartTurn".to_owned(),
        key: key.to_owned(),
        request_hash: "h".to_owned(),
        response: response.as_bytes().to_vec(),
        create_time: Timestamp::from_seconds(second),
    };
    let mut with_key = commit("a", epoch, vec![delta(2, "i", "x")]);
    with_key.idempotency.push(record("k", "first", 5));
    store.commit(with_key).await.unwrap();
    store.put_idempotency(record("k", "second", 6)).await.unwrap();
    store.put_idempotency(IdempotencyRecord { session_id: None, ..record("free", "x", 9) }).await.unwrap();
    assert_eq!(store.idempotency("StartTurn", "k").await.unwrap(), Some(record("k", "first", 5)));
    assert_eq!(store.idempotency("Other", "k").await.unwrap(), None, "keys belong to a method");
    let mut outcome = commit("a", epoch, vec![delta(3, "i", "y")]);
    outcome.idempotency.push(record("k", "outcome", 7));
    outcome.idempotency.push(IdempotencyRecord { request_hash: "other".to_owned(), ..record("k", "no", 8) });
    store.commit(outcome).await.unwrap();
    let known = store.idempotency("StartTurn", "k").await.unwrap();
    assert_eq!(known, Some(record("k", "outcome", 5)), "a commit completes what its own request announced");
    assert_eq!(store.expire_idempotency(Timestamp::from_seconds(6)).await.unwrap(), 1);
    assert_eq!(store.idempotency("StartTurn", "k").await.unwrap(), None);
    assert!(store.idempotency("StartTurn", "free").await.unwrap().is_some_and(|r| r.session_id.is_none()));
}
