//! Reads the sessions that Goose keeps in its own SQLite database, for an import. Never writes to it.
//!
//! Gives each session as the JSON document that Goose itself exports: columns become fields, and the messages are in
//! `conversation`. What the fields mean is the format crate's business. Columns that a version of Goose does not have are
//! left out; columns that this build does not know are left in.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Row, types::ValueRef};
use serde_json::{Map, Value};

use crate::{StoreError, StoreResult};

/// Goose may be writing at the same time.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// A session with more than this is damaged or hostile.
const MAX_MESSAGES: usize = 200_000;

/// Goose's database, open for reading.
pub struct GooseSessions {
    connection: Connection,
}

impl std::fmt::Debug for GooseSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GooseSessions")
    }
}

impl GooseSessions {
    /// Opens `sessions.db`. `None` when there is none. Blocks for a moment.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is no database of Goose's, [`StoreError::Io`] when it cannot be read.
    pub fn open(path: &Path) -> StoreResult<Option<Self>> {
        if !path.is_file() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|error| failed(path, &error))?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(|error| failed(path, &error))?;
        let tables: i64 = connection
            .query_row(
                "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('sessions', 'messages')",
                [],
                |row| row.get(0),
            )
            .map_err(|error| failed(path, &error))?;
        if tables != 2 {
            return Err(StoreError::Corrupt(format!("{} holds no sessions of Goose", path.display())));
        }
        Ok(Some(Self { connection }))
    }

    /// Ids of all sessions with a message, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the database cannot be read.
    pub fn session_ids(&self) -> StoreResult<Vec<String>> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection.prepare(
                "SELECT id FROM sessions AS s WHERE EXISTS (SELECT 1 FROM messages WHERE session_id = s.id) \
                 ORDER BY created_at, id",
            )?;
            statement.query_map([], |row| row.get(0))?.collect()
        };
        read().map_err(|error| unreadable(&error))
    }

    /// One session as Goose exports it. `None`: there is none with this id.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it cannot be read; the others can be read all the same.
    pub fn session(&self, session_id: &str) -> StoreResult<Option<Value>> {
        let read = || -> rusqlite::Result<Option<Value>> {
            let mut statement = self.connection.prepare("SELECT * FROM sessions WHERE id = ?1")?;
            let mut rows = statement.query([session_id])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let mut session = object(row)?;
            for (column, field) in [
                ("recipe_json", "recipe"),
                ("user_recipe_values_json", "user_recipe_values"),
                ("model_config_json", "model_config"),
            ] {
                let value = session.remove(column).unwrap_or(Value::Null);
                session.insert(field.to_owned(), parsed(value));
            }
            // Titles have moved from one column to the other; a document has one of them.
            let old_title = session.remove("description");
            if session.get("name").is_none_or(|name| name.as_str().is_none_or(str::is_empty)) {
                session.insert("name".to_owned(), old_title.unwrap_or_else(|| "".into()));
            }
            if let Some(data) = session.remove("extension_data") {
                session.insert("extension_data".to_owned(), parsed(data));
            }
            if let Some(Value::Number(flag)) = session.get("user_set_name") {
                let set = flag.as_i64() != Some(0);
                session.insert("user_set_name".to_owned(), Value::Bool(set));
            }
            for field in ["created_at", "updated_at"] {
                if let Some(Value::String(text)) = session.get(field) {
                    let text = rfc3339(text);
                    session.insert(field.to_owned(), Value::String(text));
                }
            }
            let conversation = self.conversation(session_id)?;
            session.insert("message_count".to_owned(), conversation.len().into());
            session.insert("conversation".to_owned(), Value::Array(conversation));
            Ok(Some(Value::Object(session)))
        };
        read().map_err(|error| unreadable(&error))
    }

    fn conversation(&self, session_id: &str) -> rusqlite::Result<Vec<Value>> {
        // Goose's own order has a resolution of one second; the row number settles the rest.
        let mut statement = self
            .connection
            .prepare("SELECT * FROM messages WHERE session_id = ?1 ORDER BY timestamp, id LIMIT ?2")?;
        let limit = i64::try_from(MAX_MESSAGES).unwrap_or(i64::MAX);
        let mut rows = statement.query((session_id, limit))?;
        let mut messages = Vec::new();
        while let Some(row) = rows.next()? {
            let mut columns = object(row)?;
            let mut take = |name: &str| columns.remove(name).unwrap_or(Value::Null);
            let mut message = Map::new();
            message.insert("id".to_owned(), take("message_id"));
            message.insert("role".to_owned(), take("role"));
            message.insert("created".to_owned(), take("created_timestamp"));
            message.insert("content".to_owned(), parsed(take("content_json")));
            // Rows of old versions have none: everybody sees them.
            let metadata = match parsed(take("metadata_json")) {
                Value::Null => serde_json::json!({ "userVisible": true, "agentVisible": true }),
                metadata => metadata,
            };
            message.insert("metadata".to_owned(), metadata);
            messages.push(Value::Object(message));
        }
        Ok(messages)
    }
}

fn object(row: &Row<'_>) -> rusqlite::Result<Map<String, Value>> {
    let statement: &rusqlite::Statement<'_> = row.as_ref();
    let mut map = Map::new();
    for (index, name) in statement.column_names().enumerate() {
        let value = match row.get_ref(index)? {
            ValueRef::Null | ValueRef::Blob(_) => Value::Null,
            ValueRef::Integer(number) => number.into(),
            ValueRef::Real(number) => number.into(),
            ValueRef::Text(bytes) => Value::String(String::from_utf8_lossy(bytes).into_owned()),
        };
        map.insert(name.to_owned(), value);
    }
    Ok(map)
}

/// The value that a column of JSON text holds. Text that is no JSON is kept as it is: the reader of the document decides.
fn parsed(value: Value) -> Value {
    match value {
        Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        other => other,
    }
}

/// SQLite's `YYYY-MM-DD HH:MM:SS`, which is UTC, as RFC 3339.
fn rfc3339(text: &str) -> String {
    let plain = text.len() >= 19 && text.as_bytes().get(10) == Some(&b' ');
    match (plain, text.contains(['Z', '+'])) {
        (true, false) => format!("{}Z", text.replacen(' ', "T", 1)),
        (true, true) => text.replacen(' ', "T", 1),
        (false, _) => text.to_owned(),
    }
}

fn failed(path: &Path, error: &rusqlite::Error) -> StoreError {
    StoreError::Corrupt(format!("{} cannot be read: {error}", path.display()))
}

fn unreadable(error: &rusqlite::Error) -> StoreError {
    StoreError::Corrupt(format!("Goose's sessions cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The tables of Goose's schema, version 7.
    const SCHEMA: &str = "
        CREATE TABLE sessions (id TEXT PRIMARY KEY, name TEXT NOT NULL DEFAULT '', description TEXT NOT NULL DEFAULT '',
            user_set_name BOOLEAN DEFAULT FALSE, session_type TEXT NOT NULL DEFAULT 'user', working_dir TEXT NOT NULL,
            created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
            extension_data TEXT DEFAULT '{}', total_tokens INTEGER, recipe_json TEXT, user_recipe_values_json TEXT,
            provider_name TEXT, model_config_json TEXT);
        CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT, session_id TEXT NOT NULL,
            role TEXT NOT NULL, content_json TEXT NOT NULL, created_timestamp INTEGER NOT NULL,
            timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP, tokens INTEGER, metadata_json TEXT);";

    fn database(rows: &str) -> (tempfile::TempDir, GooseSessions) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessions.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        connection.execute_batch(rows).unwrap();
        drop(connection);
        let sessions = GooseSessions::open(&path).unwrap().unwrap();
        (directory, sessions)
    }

    #[test]
    fn a_session_is_read_as_goose_exports_it() {
        let (_directory, sessions) = database(
            r#"INSERT INTO sessions (id, name, user_set_name, working_dir, created_at, updated_at, total_tokens,
                   provider_name, model_config_json) VALUES
                 ('20260305_1', 'Tidy up', 1, '/w', '2026-03-05 10:00:00', '2026-03-05T10:02:11Z', 852, 'openai',
                  '{"model_name":"gpt-4o"}'),
                 ('20260305_2', 'empty', 0, '/w', '2026-03-05 11:00:00', '2026-03-05 11:00:00', NULL, NULL, NULL);
               INSERT INTO messages (message_id, session_id, role, content_json, created_timestamp, timestamp, metadata_json)
               VALUES ('m2', '20260305_1', 'assistant', '[{"type":"text","text":"Hello"}]', 1772704801,
                       '2026-03-05 10:00:01', '{"userVisible":true,"agentVisible":false}'),
                      ('m1', '20260305_1', 'user', '[{"type":"text","text":"Hi"}]', 1772704800, '2026-03-05 10:00:00', NULL);"#,
        );
        assert_eq!(sessions.session_ids().unwrap(), ["20260305_1"], "empty sessions are no history");
        let session = sessions.session("20260305_1").unwrap().unwrap();
        for (field, wanted) in [
            ("id", json!("20260305_1")),
            ("name", json!("Tidy up")),
            ("description", Value::Null),
            ("user_set_name", json!(true)),
            ("created_at", json!("2026-03-05T10:00:00Z")),
            ("updated_at", json!("2026-03-05T10:02:11Z")),
            ("total_tokens", json!(852)),
            ("model_config", json!({"model_name": "gpt-4o"})),
            ("extension_data", json!({})),
            ("recipe", Value::Null),
            ("message_count", json!(2)),
            (
                "conversation",
                json!([
                    {"id": "m1", "role": "user", "created": 1772704800, "content": [{"type": "text", "text": "Hi"}],
                     "metadata": {"userVisible": true, "agentVisible": true}},
                    {"id": "m2", "role": "assistant", "created": 1772704801,
                     "content": [{"type": "text", "text": "Hello"}],
                     "metadata": {"userVisible": true, "agentVisible": false}}
                ]),
            ),
        ] {
            assert_eq!(session[field], wanted, "{field}");
        }
        assert_eq!(sessions.session("none").unwrap(), None);
    }

    #[test]
    fn what_is_no_database_of_goose_is_told() {
        let directory = tempfile::tempdir().unwrap();
        assert!(GooseSessions::open(&directory.path().join("sessions.db")).unwrap().is_none());
        let garbage = directory.path().join("garbage.db");
        std::fs::write(&garbage, "not a database, but long enough to have a header ".repeat(20)).unwrap();
        assert!(matches!(GooseSessions::open(&garbage), Err(StoreError::Corrupt(_))));
        let other = directory.path().join("other.db");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(matches!(GooseSessions::open(&other), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn a_database_that_goose_has_open_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessions.db");
        let goose = Connection::open(&path).unwrap();
        goose.pragma_update(None, "journal_mode", "WAL").unwrap();
        goose.execute_batch(SCHEMA).unwrap();
        goose
            .execute_batch(
                "INSERT INTO sessions (id, working_dir) VALUES ('s', '/w');
                 INSERT INTO messages (session_id, role, content_json, created_timestamp) VALUES ('s', 'user', '[]', 1);",
            )
            .unwrap();
        let sessions = GooseSessions::open(&path).unwrap().unwrap();
        assert_eq!(sessions.session_ids().unwrap(), ["s"]);
    }
}
