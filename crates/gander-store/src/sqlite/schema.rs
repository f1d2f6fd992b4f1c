//! Tables and their migrations. Forward only; a database of a newer build is refused.
//!
//! Content lives in rowid tables without content in any index, so that erasing a row and the free space of its leaf
//! page erases every copy (see `scrub`). `event` is an append-only heap: rows are inserted at its end only.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::fault::Fault;
use crate::StoreError;

/// Marks the file as ours (`gndr`).
const APPLICATION_ID: i64 = 0x676e_6472;

/// One script per schema version, the first one for version 1.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE owner(
        one INTEGER PRIMARY KEY CHECK (one = 1),
        instance_id TEXT NOT NULL,
        epoch INTEGER NOT NULL
    );
    INSERT INTO owner VALUES (1, '', 0);
    CREATE TABLE session(
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        session_id TEXT NOT NULL UNIQUE,
        epoch INTEGER NOT NULL,
        owner TEXT NOT NULL DEFAULT '',
        kind TEXT NOT NULL DEFAULT '',
        archived INTEGER NOT NULL DEFAULT 0,
        busy INTEGER NOT NULL DEFAULT 0,
        pending INTEGER NOT NULL DEFAULT 0,
        message_count INTEGER NOT NULL DEFAULT 0,
        total_tokens INTEGER NOT NULL DEFAULT 0,
        create_time INTEGER NOT NULL DEFAULT 0,
        update_time INTEGER NOT NULL DEFAULT 0,
        dropped_through INTEGER NOT NULL DEFAULT 0,
        schedule_id TEXT,
        parent_session_id TEXT,
        working_directory TEXT NOT NULL DEFAULT '',
        title_folded TEXT NOT NULL DEFAULT '',
        summary BLOB NOT NULL DEFAULT x''
    );
    CREATE INDEX session_by_update ON session(update_time, session_id);
    CREATE INDEX session_by_create ON session(create_time, session_id);
    CREATE INDEX session_by_parent ON session(parent_session_id) WHERE parent_session_id IS NOT NULL;
    CREATE TABLE tombstone(session_id TEXT PRIMARY KEY, time INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE erasing(session INTEGER PRIMARY KEY);
    CREATE TABLE event(
        session INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        payload BLOB NOT NULL
    );
    CREATE UNIQUE INDEX event_by_sequence ON event(session, sequence);
    CREATE TABLE open_turn(session INTEGER NOT NULL, turn_id TEXT NOT NULL, PRIMARY KEY (session, turn_id)) WITHOUT ROWID;
    CREATE TABLE message(
        id INTEGER PRIMARY KEY,
        session INTEGER NOT NULL,
        item_id TEXT NOT NULL,
        time INTEGER NOT NULL,
        first_sequence INTEGER NOT NULL,
        hidden INTEGER NOT NULL,
        role TEXT NOT NULL,
        text TEXT NOT NULL
    );
    CREATE UNIQUE INDEX message_by_item ON message(session, item_id);
    CREATE INDEX message_by_time ON message(time, id);
    CREATE TABLE content(
        id INTEGER PRIMARY KEY,
        session INTEGER NOT NULL,
        content_id TEXT NOT NULL,
        mime_type TEXT NOT NULL,
        size INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX content_by_id ON content(session, content_id);
    CREATE TABLE content_chunk(content INTEGER NOT NULL, start INTEGER NOT NULL, bytes BLOB NOT NULL);
    CREATE UNIQUE INDEX content_chunk_by_start ON content_chunk(content, start);
    CREATE TABLE document(session INTEGER NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL);
    CREATE UNIQUE INDEX document_by_name ON document(session, name);
    CREATE TABLE idempotency(
        session INTEGER,
        create_time INTEGER NOT NULL,
        method TEXT NOT NULL,
        key TEXT NOT NULL,
        request_hash TEXT NOT NULL,
        response BLOB NOT NULL
    );
    CREATE UNIQUE INDEX idempotency_by_key ON idempotency(method, key);
    CREATE INDEX idempotency_by_session ON idempotency(session) WHERE session IS NOT NULL;
    CREATE INDEX idempotency_by_time ON idempotency(create_time);
"];

/// The schema version that this build writes.
pub(super) fn known_version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// The version of the open database; 0 when it is empty.
pub(super) fn version(conn: &Connection) -> Result<i64, Fault> {
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(0);
    }
    let has_meta: i64 =
        conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'meta'", [], |row| row.get(0))?;
    if has_meta == 0 {
        return Err(StoreError::Corrupt("the file is a database of another program".to_owned()).into());
    }
    let found = conn
        .query_row("SELECT value FROM meta WHERE key = 'schema_version'", [], |row| row.get(0))
        .optional()?;
    found.ok_or_else(|| StoreError::Corrupt("the schema version is missing".to_owned()).into())
}

/// Refuses databases of newer builds.
pub(super) fn check_version(conn: &Connection) -> Result<i64, Fault> {
    let (found, known) = (version(conn)?, known_version());
    if found > known {
        return Err(StoreError::Newer { found, known }.into());
    }
    Ok(found)
}

/// Brings the database to the known version, in one transaction.
pub(super) fn migrate(conn: &mut Connection) -> Result<(), Fault> {
    if check_version(conn)? == known_version() {
        return Ok(());
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = check_version(&tx)?;
    if from == 0 {
        tx.execute_batch("CREATE TABLE meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID")?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    for script in MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(0)) {
        tx.execute_batch(script)?;
    }
    tx.execute("INSERT OR REPLACE INTO meta VALUES ('schema_version', ?1)", [known_version()])?;
    tx.commit()?;
    Ok(())
}
