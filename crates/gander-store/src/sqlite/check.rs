//! Checks of the database itself: integrity, references, rows against logs.

use gander_domain::SessionId;
use rusqlite::Connection;

use super::{fault::Fault, schema};
use crate::StoreFinding;

/// Rows that nothing refers to. Sessions that are being erased are expected to have some.
const ORPHANS: &[(&str, &str)] = &[
    ("event", "SELECT DISTINCT session FROM event"),
    ("message", "SELECT DISTINCT session FROM message"),
    ("content", "SELECT DISTINCT session FROM content"),
    ("document", "SELECT DISTINCT session FROM document"),
    ("open_turn", "SELECT DISTINCT session FROM open_turn"),
    ("idempotency", "SELECT DISTINCT session FROM idempotency WHERE session IS NOT NULL"),
];

/// Findings with the session they concern.
const RULES: &[&str] = &[
    "SELECT session_id, 'the session has no event' FROM session s
     WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.session = s.key)",
    "SELECT session_id, 'the row cannot be read' FROM session WHERE NOT json_valid(CAST(summary AS TEXT))",
    "SELECT session_id, 'the row is of session ' || json_extract(CAST(summary AS TEXT), '$.session_id') FROM session
     WHERE json_valid(CAST(summary AS TEXT)) AND json_extract(CAST(summary AS TEXT), '$.session_id') IS NOT session_id",
    "SELECT session_id, 'the row says last sequence ' || json_extract(CAST(summary AS TEXT), '$.last_sequence') || ', the log ends at '
         || (SELECT max(sequence) FROM event e WHERE e.session = s.key)
     FROM session s
     WHERE json_valid(CAST(summary AS TEXT))
       AND json_extract(CAST(summary AS TEXT), '$.last_sequence') > (SELECT max(sequence) FROM event e WHERE e.session = s.key)",
    "SELECT session_id, 'the row says oldest sequence ' || json_extract(CAST(summary AS TEXT), '$.oldest_sequence')
         || ', the log begins at ' || (SELECT min(sequence) FROM event e WHERE e.session = s.key)
     FROM session s
     WHERE json_valid(CAST(summary AS TEXT)) AND json_extract(CAST(summary AS TEXT), '$.oldest_sequence') > 0
       AND json_extract(CAST(summary AS TEXT), '$.oldest_sequence') < (SELECT min(sequence) FROM event e WHERE e.session = s.key)",
    "SELECT session_id, 'the session was deleted but has a row' FROM session
     WHERE session_id IN (SELECT session_id FROM tombstone)",
    "SELECT s.session_id, 'content ' || c.content_id || ' lacks bytes' FROM content c JOIN session s ON s.key = c.session
     WHERE c.size != (SELECT coalesce(sum(length(k.bytes)), 0) FROM content_chunk k WHERE k.content = c.id)",
    "SELECT NULL, count(*) || ' content chunks belong to no content' FROM content_chunk k
     WHERE NOT EXISTS (SELECT 1 FROM content c WHERE c.id = k.content) HAVING count(*) > 0",
];

/// All findings, at most 100 of SQLite's own.
pub(super) fn check(conn: &Connection) -> Result<Vec<StoreFinding>, Fault> {
    let mut findings = Vec::new();
    let lines: Vec<String> = conn
        .prepare("PRAGMA integrity_check(100)")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for text in lines.into_iter().filter(|line| line != "ok") {
        findings.push(StoreFinding { session_id: None, text });
    }
    let found = schema::version(conn)?;
    if found < schema::known_version() {
        let text =
            format!("the schema is version {found}; the next start brings it to {}", schema::known_version());
        findings.push(StoreFinding { session_id: None, text });
        return Ok(findings);
    }
    for (table, keys) in ORPHANS {
        let sql = format!(
            "SELECT count(*) FROM ({keys}) WHERE session NOT IN (SELECT key FROM session)
             AND session NOT IN (SELECT session FROM erasing)"
        );
        let count: i64 = conn.query_row(&sql, [], |row| row.get(0))?;
        if count > 0 {
            let text = format!("table {table} has rows of {count} unknown sessions");
            findings.push(StoreFinding { session_id: None, text });
        }
    }
    for rule in RULES {
        let mut statement = conn.prepare(rule)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: Option<String> = row.get(0)?;
            findings.push(StoreFinding {
                session_id: id.and_then(|id| SessionId::new(id).ok()),
                text: row.get(1)?,
            });
        }
    }
    Ok(findings)
}
