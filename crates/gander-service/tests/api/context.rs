//! Compaction, commands, diagnostics, order and search over the API.

use std::io::Read as _;

use gander_model::testing::Script;
use gander_proto::v1 as pb;
use tonic::Code;

use crate::harness::{Harness, collect, reason};

#[tokio::test]
async fn a_session_is_compacted_on_request() {
    let h = Harness::new([Script::reply("hello"), Script::reply("NOTES")]).await;
    let session_id = h.session().await;
    let request = |key: &str| pb::CompactSessionRequest {
        session_id: session_id.clone(),
        idempotency_key: key.into(),
        ..Default::default()
    };
    let nothing = h.sessions().compact_session(request("")).await.unwrap().into_inner();
    assert_eq!(nothing.item, None);
    h.run(&session_id, "t1", "hi").await;
    let done = h.sessions().compact_session(request("k1")).await.unwrap().into_inner();
    let item = done.item.clone().unwrap();
    let Some(pb::item::Body::Compaction(compaction)) = item.body else { panic!("{item:?}") };
    assert_eq!(compaction.trigger(), pb::CompactionTrigger::Manual);
    let again = h.sessions().compact_session(request("k1")).await.unwrap().into_inner();
    assert_eq!(again.sequence, done.sequence, "the same key has one effect");
    let list = pb::ListItemsRequest { session_id: session_id.clone(), ..Default::default() };
    let items = h.sessions().list_items(list).await.unwrap().into_inner().items;
    let told: Vec<_> = items.iter().map(|i| i.visibility.as_ref().unwrap().model).collect();
    assert_eq!(told, [false, false, true]);
    let missing = pb::CompactSessionRequest { session_id: "none".into(), ..Default::default() };
    let error = h.sessions().compact_session(missing).await.unwrap_err();
    assert_eq!(reason(&error), (Code::NotFound, "SESSION_NOT_FOUND".into()));
}

#[tokio::test]
async fn commands_are_listed() {
    let h = Harness::new([]).await;
    let list = h.sessions().list_commands(pb::ListCommandsRequest::default()).await.unwrap().into_inner();
    let names: Vec<_> = list.commands.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["compact", "clear", "prompts", "prompt"]);
    assert!(list.commands.iter().all(|c| c.kind() == pb::CommandKind::Builtin && !c.help.is_empty()));
}

#[tokio::test]
async fn diagnostics_are_an_archive_without_secrets() {
    let h = Harness::new([Script::reply("the key is sup3r-secret-va1ue")]).await;
    h.engine.config().set_secret("SOME_API_KEY", "sup3r-secret-va1ue").unwrap();
    let session_id = h.session().await;
    h.run(&session_id, "t1", "hi").await;
    let request = pb::GetDiagnosticsRequest { session_id: session_id.clone() };
    let chunks = collect(h.system().get_diagnostics(request).await.unwrap().into_inner()).await;
    let bytes: Vec<u8> = chunks.iter().flat_map(|c| c.data.to_vec()).collect();
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let mut whole = String::new();
    let names: Vec<String> = archive.file_names().map(|n| n.unwrap().into_owned()).collect();
    for name in &names {
        archive.by_name(name).unwrap().read_to_string(&mut whole).unwrap();
    }
    for name in ["server.json", "config.json", "secrets.json", "session/events.jsonl", "session/session.json"]
    {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    assert!(whole.contains("the key is [redacted]") && whole.contains("SOME_API_KEY"), "{whole}");
    assert!(!whole.contains("sup3r-secret-va1ue"));
    let missing = pb::GetDiagnosticsRequest { session_id: "none".into() };
    let error = h.system().get_diagnostics(missing).await.unwrap_err();
    assert_eq!(reason(&error), (Code::NotFound, "SESSION_NOT_FOUND".into()));
}

#[tokio::test]
async fn sessions_are_listed_oldest_first_and_searched_one_by_one() {
    let h = Harness::new((0..3).map(|_| Script::reply("geese fly"))).await;
    let mut made = Vec::new();
    for index in 0..3 {
        let session_id = h.session().await;
        h.run(&session_id, &format!("t{index}"), "do geese fly?").await;
        made.push(session_id);
    }
    let mut request = pb::ListSessionsRequest {
        order: pb::SessionOrder::CreateTimeAsc as i32,
        page_size: 2,
        ..Default::default()
    };
    let mut listed = Vec::new();
    loop {
        let page = h.sessions().list_sessions(request.clone()).await.unwrap().into_inner();
        listed.extend(page.sessions.into_iter().map(|s| s.session_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(listed, made);
    let search = pb::SearchSessionsRequest {
        query: "geese".into(),
        limit_messages: 1,
        session_id: made[0].clone(),
        ..Default::default()
    };
    let found = h.sessions().search_sessions(search).await.unwrap().into_inner().matches;
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].session.as_ref().unwrap().session_id,
        made[0],
        "newer sessions do not use up the limit"
    );
}
