//! Goose's own sessions are there on the first start, under their ids, and are never brought back once deleted.

use std::path::Path;

use gander_bridge_tests::{DEADLINE, TestDaemon, child, daemon::new_root, eventually, pb};
use serde_json::json;

/// A database as Goose 1.24 makes it, with one conversation and one damaged row.
fn goose_database(root: &Path) {
    let directory = root.join("data/sessions");
    std::fs::create_dir_all(&directory).expect("a directory");
    let connection = rusqlite::Connection::open(directory.join("sessions.db")).expect("a database");
    let tables = "
        CREATE TABLE sessions (id TEXT PRIMARY KEY, name TEXT NOT NULL DEFAULT '', description TEXT NOT NULL DEFAULT '',
            user_set_name BOOLEAN DEFAULT FALSE, session_type TEXT NOT NULL DEFAULT 'user', working_dir TEXT NOT NULL,
            created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
            extension_data TEXT DEFAULT '{}', total_tokens INTEGER, input_tokens INTEGER, output_tokens INTEGER,
            accumulated_total_tokens INTEGER, accumulated_input_tokens INTEGER, accumulated_output_tokens INTEGER,
            schedule_id TEXT, recipe_json TEXT, user_recipe_values_json TEXT, provider_name TEXT, model_config_json TEXT);
        CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT, session_id TEXT NOT NULL,
            role TEXT NOT NULL, content_json TEXT NOT NULL, created_timestamp INTEGER NOT NULL,
            timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP, tokens INTEGER, metadata_json TEXT);";
    connection.execute_batch(tables).expect("tables");
    for (id, name) in [("20260305_1", "Tidy up"), ("20260305_2", "Damaged")] {
        let row = (id, name, root.join("work").display().to_string(), 852);
        connection
            .execute(
                "INSERT INTO sessions (id, name, working_dir, created_at, updated_at, accumulated_total_tokens)
                 VALUES (?1, ?2, ?3, '2026-03-05 10:00:00', '2026-03-05 10:02:11', ?4)",
                row,
            )
            .expect("a session");
    }
    let call = json!([{ "type": "toolRequest", "id": "call_1", "toolCall": { "status": "success",
        "value": { "name": "developer__shell", "arguments": { "command": "ls" } } } }]);
    let result = json!([{ "type": "toolResponse", "id": "call_1", "toolResult": { "status": "success",
        "value": { "content": [{ "type": "text", "text": "notes.txt" }], "isError": false } } }]);
    let text = |text: &str| json!([{ "type": "text", "text": text }]);
    for (id, session, role, content) in [
        ("m1", "20260305_1", "user", text("What is here?")),
        ("m2", "20260305_1", "assistant", call),
        ("m3", "20260305_1", "user", result),
        ("m4", "20260305_1", "assistant", text("One file.")),
        ("m5", "20260305_2", "user", json!({ "no": "list" })),
    ] {
        let row = (id, session, role, content.to_string());
        connection
            .execute(
                "INSERT INTO messages (message_id, session_id, role, content_json, created_timestamp, timestamp)
                 VALUES (?1, ?2, ?3, ?4, 1772704800, '2026-03-05 10:00:00')",
                row,
            )
            .expect("a message");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gooses_sessions_are_there_on_the_first_start() {
    let root = new_root();
    goose_database(root.path());
    let before = std::fs::read(root.path().join("data/sessions/sessions.db")).expect("the database");
    let daemon = TestDaemon::start_in(root, |_| {}).await;
    let client = daemon.unix().await;
    let id = "20260305_1".to_owned();
    let session = eventually(DEADLINE, "the import", || async {
        let request = pb::GetSessionRequest { session_id: id.clone() };
        client.sessions().get_session(request).await.ok()?.into_inner().session
    })
    .await;
    assert_eq!(session.title, "Tidy up");
    let created = session.create_time.expect("a time").seconds;
    assert_eq!(created, 1_772_704_800, "the time at which it was begun");
    let updated = session.update_time.expect("a time").seconds;
    assert_eq!(updated, 1_772_704_931, "lists stay in order");
    let tokens = session.usage.and_then(|usage| usage.totals).and_then(|usage| usage.total_tokens);
    assert_eq!(tokens, Some(852));
    let request = pb::ListItemsRequest { session_id: id.clone(), ..pb::ListItemsRequest::default() };
    let items = client.sessions().list_items(request).await.expect("items").into_inner().items;
    let kinds: Vec<&str> = items
        .iter()
        .map(|item| match item.body.as_ref().expect("a body") {
            pb::item::Body::UserMessage(_) => "user",
            pb::item::Body::AgentMessage(_) => "agent",
            pb::item::Body::ToolCall(_) => "call",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["user", "call", "agent"]);

    // Deleted is deleted; the damaged one is named, and Goose's file is as it was.
    let delete = pb::DeleteSessionRequest { session_id: id.clone(), ..pb::DeleteSessionRequest::default() };
    client.sessions().delete_session(delete).await.expect("deleted");
    let again = child::run(daemon.root(), &["session", "import", "--goose"]).await;
    assert!(again.stderr.contains("0 sessions imported, 1 were here already"), "{again:?}");
    assert!(again.stderr.contains("20260305_2 was not imported"), "{again:?}");
    assert_eq!(again.code, Some(1), "{again:?}");
    let after = std::fs::read(daemon.root().join("data/sessions/sessions.db")).expect("the database");
    assert!(before == after, "Goose's database was not touched");
    daemon.finish().await;
}
