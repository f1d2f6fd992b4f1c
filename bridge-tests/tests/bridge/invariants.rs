//! What holds for the whole program.

use gander_bridge_tests::{TestDaemon, events, pb};
use pb::ErrorReason;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_in_one_process_do_not_see_each_other() {
    let (one, two) = (TestDaemon::start().await, TestDaemon::start().await);
    let (a, b) = (one.tcp().await, two.tcp().await);
    assert_ne!(one.token(), two.token());
    let session_id = events::create(&a, events::new_session(&one.work())).await;
    events::complete(&a, &session_id, "list the files here").await;
    let error = events::refused(b.sessions().get_session(pb::GetSessionRequest { session_id }).await);
    assert!(error.is(ErrorReason::SessionNotFound), "{error:?}");
    let sessions = b.sessions().list_sessions(pb::ListSessionsRequest::default()).await.expect("a list");
    assert!(sessions.into_inner().sessions.is_empty());

    let set = pb::SetConfigValueRequest {
        key: "GANDER_BRIDGE_TEST".into(),
        value_json: "\"mine-alone\"".into(),
        ..Default::default()
    };
    a.config().set_config_value(set).await.expect("set");
    let get = pb::GetConfigValueRequest { key: "GANDER_BRIDGE_TEST".into() };
    let got = a.config().get_config_value(get.clone()).await.expect("a value").into_inner();
    assert!(format!("{got:?}").contains("mine-alone"), "{got:?}");
    let other = b.config().get_config_value(get).await;
    assert!(!format!("{other:?}").contains("mine-alone"), "{other:?}");

    // The token of one is nothing to the other, and neither ends with it.
    let foreign =
        gander_bridge_tests::connect(gander_client::Endpoint::tcp(two.url()), Some(one.token())).await;
    let foreign = foreign.expect("a connection");
    let error = events::refused(foreign.sessions().list_sessions(pb::ListSessionsRequest::default()).await);
    assert!(error.is(ErrorReason::TokenInvalid), "{error:?}");
    one.finish().await;
    let session_id = events::create(&b, events::new_session(&two.work())).await;
    events::complete(&b, &session_id, "say alone").await;
    two.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exported_session_is_the_same_elsewhere() {
    let (one, two) = (TestDaemon::start().await, TestDaemon::start().await);
    let (a, b) = (one.unix().await, two.tcp().await);
    let session_id = events::create(&a, events::new_session(&one.work())).await;
    events::complete(&a, &session_id, &events::shell("echo exported")).await;
    events::complete(&a, &session_id, &format!("what is {}", "long ".repeat(70_000))).await;
    let request = pb::ExportSessionRequest { session_id: session_id.clone(), ..Default::default() };
    let mut stream = a.sessions().export_session(request).await.expect("an export").into_inner();
    let mut document = Vec::new();
    while let Some(chunk) = stream.message().await.expect("a chunk") {
        document.extend_from_slice(&chunk.data);
    }
    let request = pb::ImportSessionRequest {
        source: Some(pb::import_session_request::Source::ExportData(document.into())),
        keep_session_id: true,
        working_directory: two.work().display().to_string(),
        ..Default::default()
    };
    let imported = b.sessions().import_session(request).await.expect("imported").into_inner();
    assert_eq!(imported.session.expect("a session").session_id, session_id);
    let list = pb::ListItemsRequest { session_id: session_id.clone(), ..Default::default() };
    let items = |client: gander_client::Client, list| async move {
        client.sessions().list_items(list).await.expect("items").into_inner().items
    };
    let (before, after) = (items(a.clone(), list.clone()).await, items(b.clone(), list).await);
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.item_id, &before.body), (&after.item_id, &after.body));
    }
    events::complete(&b, &session_id, "say going on").await;
    one.finish().await;
    two.finish().await;
}
