//! Reads of logs, rows, contents and records. Rows are decoded after their statement has ended.

use std::{collections::HashSet, sync::Arc};

use gander_domain::{ContentId, Event, Payload, Sequence, Session, SessionId, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter, types::Value};

use super::{
    apply::CHUNK_BYTES,
    fault::{Fault, unreadable},
    search,
    work::EventKind,
};
use crate::{
    ArchivedFilter, EventPage, IdempotencyRecord, ListOrder, ListQuery, LogBounds, SessionStats, StoreError,
};

/// Sessions per list page.
pub(super) const MAX_LIST: usize = 1000;

/// The integer key of a session.
pub(super) fn key(conn: &Connection, id: &SessionId) -> Result<i64, Fault> {
    let found = conn
        .prepare_cached("SELECT key FROM session WHERE session_id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    found.ok_or_else(|| StoreError::SessionNotFound(id.clone()).into())
}

fn last_sequence(conn: &Connection, key: i64) -> Result<Sequence, Fault> {
    let last = conn
        .prepare_cached("SELECT max(sequence) FROM event WHERE session = ?1")?
        .query_row([key], |row| row.get::<_, Option<i64>>(0))?;
    Ok(last.unwrap_or(0))
}

/// One page of a log.
pub(super) fn events(
    conn: &Connection,
    id: &SessionId,
    after: Sequence,
    max_events: usize,
    max_bytes: usize,
) -> Result<EventPage, Fault> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    let last_sequence = {
        // One snapshot for both statements.
        let tx = conn.unchecked_transaction()?;
        let key = key(&tx, id)?;
        let last = last_sequence(&tx, key)?;
        let mut statement = tx.prepare_cached(
            "SELECT payload FROM event WHERE session = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3",
        )?;
        let limit = i64::try_from(max_events.max(1)).unwrap_or(i64::MAX);
        let mut rows = statement.query([key, after, limit])?;
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let payload: Vec<u8> = row.get(0)?;
            bytes += payload.len();
            if bytes > max_bytes && !payloads.is_empty() {
                break;
            }
            payloads.push(payload);
        }
        last
    };
    let mut events = Vec::with_capacity(payloads.len());
    for payload in payloads {
        let event: Event = serde_json::from_slice(&payload)
            .map_err(|e| unreadable(&format!("an event of session {id} after sequence {after}"), &e))?;
        events.push(Arc::new(event));
    }
    Ok(EventPage { events, last_sequence })
}

/// First and last sequence of a log.
pub(super) fn bounds(conn: &Connection, id: &SessionId) -> Result<LogBounds, Fault> {
    let tx = conn.unchecked_transaction()?;
    let key = key(&tx, id)?;
    let oldest: Option<i64> = tx
        .prepare_cached("SELECT min(sequence) FROM event WHERE session = ?1")?
        .query_row([key], |row| row.get(0))?;
    Ok(LogBounds { oldest_sequence: oldest.unwrap_or(0), last_sequence: last_sequence(&tx, key)? })
}

fn decode_session(json: &[u8]) -> Result<Session, Fault> {
    serde_json::from_slice(json).map_err(|e| unreadable("a session", &e))
}

/// A session's row.
pub(super) fn session(conn: &Connection, id: &SessionId) -> Result<Session, Fault> {
    let json: Option<Vec<u8>> = conn
        .prepare_cached("SELECT summary FROM session WHERE session_id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    decode_session(&json.ok_or_else(|| StoreError::SessionNotFound(id.clone()))?)
}

/// A session's row by its key; `None` when it was deleted meanwhile.
pub(super) fn session_by_key(conn: &Connection, key: i64) -> Result<Option<Session>, Fault> {
    let json: Option<Vec<u8>> = conn
        .prepare_cached("SELECT summary FROM session WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    json.map(|json| decode_session(&json)).transpose()
}

/// One page of sessions.
pub(super) fn list(conn: &Connection, query: &ListQuery) -> Result<Vec<Session>, Fault> {
    let (sql, values) = list_sql(query);
    let rows: Vec<Vec<u8>> = conn
        .prepare_cached(&sql)?
        .query_map(params_from_iter(values), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    rows.iter().map(|json| decode_session(json)).collect()
}

fn list_sql(query: &ListQuery) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = Vec::new();
    let mut conditions: Vec<String> = Vec::new();
    if query.kinds.is_empty() {
        conditions.push("kind IN ('user', 'scheduled')".to_owned());
    } else {
        let kinds: Vec<String> = query.kinds.iter().map(|kind| format!("'{}'", kind.as_str())).collect();
        conditions.push(format!("kind IN ({})", kinds.join(", ")));
    }
    match query.archived {
        ArchivedFilter::Without => conditions.push("archived = 0".to_owned()),
        ArchivedFilter::Only => conditions.push("archived = 1".to_owned()),
        ArchivedFilter::With => {}
    }
    if query.with_messages_only {
        conditions.push("message_count > 0".to_owned());
    }
    let parent = query.parent_session_id.as_ref().map(|id| id.as_str().to_owned());
    for (column, value) in [
        ("working_directory", query.working_directory.clone()),
        ("schedule_id", query.schedule_id.clone()),
        ("parent_session_id", parent),
    ] {
        if let Some(value) = value {
            conditions.push(format!("{column} = ?"));
            values.push(Value::Text(value));
        }
    }
    if let Some(text) = &query.title_contains {
        conditions.push("instr(title_folded, ?) > 0".to_owned());
        values.push(Value::Text(search::fold(text)));
    }
    let time = match query.order {
        ListOrder::UpdateTimeDesc => "update_time",
        ListOrder::CreateTimeDesc | ListOrder::CreateTimeAsc => "create_time",
    };
    let (beyond, direction) = match query.order {
        ListOrder::CreateTimeAsc => (">", "ASC"),
        ListOrder::UpdateTimeDesc | ListOrder::CreateTimeDesc => ("<", "DESC"),
    };
    if let Some((at, id)) = &query.after {
        conditions.push(format!("({time}, session_id) {beyond} (?, ?)"));
        values.push(Value::Integer(at.0));
        values.push(Value::Text(id.as_str().to_owned()));
    }
    let limit = if query.limit == 0 { MAX_LIST } else { query.limit.min(MAX_LIST) };
    let filter = conditions.join(" AND ");
    let sql = format!(
        "SELECT summary FROM session WHERE {filter}
         ORDER BY {time} {direction}, session_id {direction} LIMIT {limit}"
    );
    (sql, values)
}

/// Counts over all sessions.
pub(super) fn stats(conn: &Connection) -> Result<SessionStats, Fault> {
    let (count, tokens): (i64, i64) = conn
        .prepare_cached(
            "SELECT count(*), coalesce(sum(CASE WHEN kind = 'subagent' THEN 0 ELSE total_tokens END), 0) FROM session",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(SessionStats { session_count: unsigned(count), total_tokens: unsigned(tokens) })
}

fn ids(conn: &Connection, sql: &str) -> Result<Vec<SessionId>, Fault> {
    let texts: Vec<String> =
        conn.prepare_cached(sql)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let parse = |text: &String| {
        SessionId::new(text).map_err(|e| StoreError::Corrupt(format!("session id {text:?} {e}")).into())
    };
    texts.iter().map(parse).collect()
}

/// Sessions that a daemon has to look at when it starts.
pub(super) fn unfinished(conn: &Connection) -> Result<Vec<SessionId>, Fault> {
    ids(
        conn,
        "SELECT session_id FROM session s
         WHERE busy != 0 OR pending > 0 OR EXISTS (SELECT 1 FROM open_turn t WHERE t.session = s.key)
         ORDER BY key",
    )
}

/// All sessions in the order of their creation.
pub(super) fn session_ids(conn: &Connection) -> Result<Vec<SessionId>, Fault> {
    ids(conn, "SELECT session_id FROM session ORDER BY key")
}

struct Content {
    id: i64,
    size: u64,
    mime_type: String,
}

fn content(conn: &Connection, session: &SessionId, id: &ContentId) -> Result<Content, Fault> {
    let key = key(conn, session)?;
    let found = conn
        .prepare_cached("SELECT id, size, mime_type FROM content WHERE session = ?1 AND content_id = ?2")?
        .query_row(params![key, id.as_str()], |row| {
            let size: i64 = row.get(1)?;
            Ok(Content { id: row.get(0)?, size: u64::try_from(size).unwrap_or(0), mime_type: row.get(2)? })
        })
        .optional()?;
    found.ok_or_else(|| StoreError::ContentNotFound(id.clone()).into())
}

/// Size and type of a content.
pub(super) fn content_info(
    conn: &Connection,
    session: &SessionId,
    id: &ContentId,
) -> Result<(u64, String), Fault> {
    let content = content(conn, session, id)?;
    Ok((content.size, content.mime_type))
}

/// A range of a content; shorter at its end.
pub(super) fn read_content(
    conn: &Connection,
    session: &SessionId,
    id: &ContentId,
    offset: u64,
    length: usize,
) -> Result<Vec<u8>, Fault> {
    let tx = conn.unchecked_transaction()?;
    let content = content(&tx, session, id)?;
    let end = offset.saturating_add(length as u64).min(content.size);
    if offset >= end {
        return Ok(Vec::new());
    }
    let chunk = CHUNK_BYTES as u64;
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut statement = tx.prepare_cached(
        "SELECT start, bytes FROM content_chunk WHERE content = ?1 AND start >= ?2 AND start < ?3 ORDER BY start",
    )?;
    let mut rows = statement.query([content.id, signed(offset / chunk * chunk), signed(end)])?;
    let mut out = Vec::with_capacity(usize::try_from(end - offset).unwrap_or(0));
    while let Some(row) = rows.next()? {
        let start: i64 = row.get(0)?;
        let bytes = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        let start = u64::try_from(start).unwrap_or(0);
        let local =
            |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
        out.extend_from_slice(bytes.get(local(offset)..local(end)).unwrap_or_default());
    }
    if out.len() as u64 != end - offset {
        return Err(StoreError::Corrupt(format!("content {id} lacks bytes")).into());
    }
    Ok(out)
}

/// The record of a key.
pub(super) fn idempotency(
    conn: &Connection,
    method: &str,
    key: &str,
) -> Result<Option<IdempotencyRecord>, Fault> {
    let found = conn
        .prepare_cached(
            "SELECT s.session_id, i.request_hash, i.response, i.create_time
             FROM idempotency i LEFT JOIN session s ON s.key = i.session
             WHERE i.method = ?1 AND i.key = ?2",
        )?
        .query_row([method, key], |row| {
            Ok((row.get::<_, Option<String>>(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    let Some((session_id, request_hash, response, time)) = found else { return Ok(None) };
    let session_id = session_id
        .map(SessionId::new)
        .transpose()
        .map_err(|e| StoreError::Corrupt(format!("the session id of key {key:?} {e}")))?;
    let (method, key) = (method.to_owned(), key.to_owned());
    Ok(Some(IdempotencyRecord {
        session_id,
        method,
        key,
        request_hash,
        response,
        create_time: Timestamp(time),
    }))
}

/// A document of a session.
pub(super) fn document(conn: &Connection, id: &SessionId, name: &str) -> Result<Option<Vec<u8>>, Fault> {
    let key = key(conn, id)?;
    Ok(conn
        .prepare_cached("SELECT body FROM document WHERE session = ?1 AND name = ?2")?
        .query_row(params![key, name], |row| row.get(0))
        .optional()?)
}

/// Deltas that may be dropped, and how far the log has none after that.
pub(super) fn droppable(
    conn: &Connection,
    id: &SessionId,
    through: Sequence,
) -> Result<(Vec<Sequence>, Sequence), Fault> {
    let (key, mut position): (i64, Sequence) = conn
        .prepare_cached("SELECT key, dropped_through FROM session WHERE session_id = ?1")?
        .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .ok_or_else(|| StoreError::SessionNotFound(id.clone()))?;
    let mut deltas: Vec<(Sequence, gander_domain::ItemId)> = Vec::new();
    let mut completed = HashSet::new();
    loop {
        let rows: Vec<(Sequence, Vec<u8>)> = conn
            .prepare_cached(
                "SELECT sequence, payload FROM event
                 WHERE session = ?1 AND sequence > ?2 AND sequence <= ?3 AND kind IN (?4, ?5)
                 ORDER BY sequence LIMIT 500",
            )?
            .query_map(
                params![key, position, through, EventKind::Delta as i64, EventKind::ItemCompleted as i64],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?
            .collect::<Result<_, _>>()?;
        let Some((last, _)) = rows.last() else { break };
        position = *last;
        for (sequence, json) in &rows {
            let event: Event = serde_json::from_slice(json).map_err(|e| unreadable("an event", &e))?;
            match &event.payload {
                Payload::ItemCompleted { item } => {
                    completed.insert(item.item_id.clone());
                }
                delta => {
                    if let Some(item) = delta.superseded_by() {
                        deltas.push((*sequence, item.clone()));
                    }
                }
            }
        }
    }
    let kept = deltas.iter().find(|(_, item)| !completed.contains(item)).map(|(sequence, _)| *sequence);
    deltas.retain(|(_, item)| completed.contains(item));
    Ok((deltas.into_iter().map(|(sequence, _)| sequence).collect(), kept.map_or(through, |s| s - 1)))
}
