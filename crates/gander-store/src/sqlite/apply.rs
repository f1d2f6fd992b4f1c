//! Applies queued work inside the writer's transaction.
//!
//! Commits are validated against the cached row before they write, so that a refused one leaves the transaction as it
//! was; other work runs in a savepoint. The cache is true because this process owns the directory; it is cleared
//! whenever a transaction is rolled back.

use std::collections::HashMap;

use gander_domain::{
    Event, ItemBody, Payload, Sequence, Session, SessionId, Timestamp, event::HistoryChange,
    session::SessionState,
};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    fault::{Fault, unreadable},
    search,
    work::{Encoded, EventKind, Redaction, Work, encode_event, encode_session},
};
use crate::{Commit, IdempotencyRecord, NewContent, StoreError};

/// Bytes of one content row: reads touch only the rows they need.
pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// Cached rows; the cache starts again beyond this.
const MAX_CACHED: usize = 16_384;

/// What the writer remembers of a session.
#[derive(Debug, Clone, Copy)]
struct Entry {
    key: i64,
    epoch: i64,
    last_sequence: Sequence,
}

/// Sessions by id.
#[derive(Debug, Default)]
pub(super) struct Cache(HashMap<SessionId, Entry>);

impl Cache {
    /// Forgets everything: after a rollback it is not known to be true.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn get(&mut self, conn: &Connection, id: &SessionId) -> Result<Entry, Fault> {
        if let Some(entry) = self.0.get(id) {
            return Ok(*entry);
        }
        let row = conn
            .prepare_cached("SELECT key, epoch FROM session WHERE session_id = ?1")?
            .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((key, epoch)) = row else { return Err(StoreError::SessionNotFound(id.clone()).into()) };
        let last = conn
            .prepare_cached("SELECT max(sequence) FROM event WHERE session = ?1")?
            .query_row([key], |row| row.get::<_, Option<i64>>(0))?;
        let entry = Entry { key, epoch, last_sequence: last.unwrap_or(0) };
        self.put(id, entry);
        Ok(entry)
    }

    fn put(&mut self, id: &SessionId, entry: Entry) {
        if self.0.len() >= MAX_CACHED {
            self.0.clear();
        }
        self.0.insert(id.clone(), entry);
    }
}

/// Applies one unit of work. `Err(Fault::Store)`: refused, nothing was written. `Err(Fault::Sqlite)`: the whole
/// transaction must be rolled back.
pub(super) fn apply(conn: &Connection, cache: &mut Cache, work: &Work) -> Result<i64, Fault> {
    if let Work::Commit(encoded) = work {
        return append(conn, cache, encoded).map(|()| 0);
    }
    conn.prepare_cached("SAVEPOINT work")?.execute([])?;
    let result = apply_rare(conn, cache, work);
    if let Err(Fault::Store(_)) = &result {
        conn.prepare_cached("ROLLBACK TO work")?.execute([])?;
        cache.clear();
    }
    if !matches!(result, Err(Fault::Sqlite(_))) {
        conn.prepare_cached("RELEASE work")?.execute([])?;
    }
    result
}

fn apply_rare(conn: &Connection, cache: &mut Cache, work: &Work) -> Result<i64, Fault> {
    match work {
        Work::Create(encoded) => create(conn, cache, encoded),
        Work::Open(id) => open(conn, cache, id),
        Work::Commit(encoded) => append(conn, cache, encoded).map(|()| 0),
        Work::Redact { commit, redaction } => {
            append(conn, cache, commit)?;
            let entry = cache.get(conn, &commit.commit.session_id)?;
            redact(conn, entry.key, redaction).map(|()| 0)
        }
        Work::Delete { session_id, time } => delete(conn, cache, session_id, *time),
        Work::DropDeltas { session_id, epoch, sequences, through } => {
            let entry = owned(conn, cache, session_id, *epoch)?;
            drop_deltas(conn, entry.key, sequences, *through)
        }
        Work::CopyContents { from, to, contents } => {
            let (from, to) = (cache.get(conn, from)?.key, cache.get(conn, to)?.key);
            for content in contents {
                copy_content(conn, from, to, content.as_str())?;
            }
            Ok(0)
        }
        Work::PutIdempotency(record) => put_idempotency(conn, cache, record, false).map(|()| 0),
        Work::ExpireIdempotency(before) => {
            let gone =
                conn.prepare_cached("DELETE FROM idempotency WHERE create_time < ?1")?.execute([before.0])?;
            Ok(i64::try_from(gone).unwrap_or(i64::MAX))
        }
        Work::PutDocument { session_id, name, body } => {
            let key = cache.get(conn, session_id)?.key;
            conn.prepare_cached("DELETE FROM document WHERE session = ?1 AND name = ?2")?
                .execute(params![key, name])?;
            if let Some(body) = body {
                conn.prepare_cached("INSERT INTO document(session, name, body) VALUES (?1, ?2, ?3)")?
                    .execute(params![key, name, body])?;
            }
            Ok(0)
        }
    }
}

fn owned(conn: &Connection, cache: &mut Cache, id: &SessionId, epoch: i64) -> Result<Entry, Fault> {
    let entry = cache.get(conn, id)?;
    if entry.epoch != epoch {
        let session_id = id.clone();
        return Err(StoreError::Fenced { session_id, ours: epoch, current: entry.epoch }.into());
    }
    Ok(entry)
}

fn create(conn: &Connection, cache: &mut Cache, encoded: &Encoded) -> Result<i64, Fault> {
    let id = &encoded.commit.session_id;
    let known: i64 = conn
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM session WHERE session_id = ?1)
                 OR EXISTS (SELECT 1 FROM tombstone WHERE session_id = ?1)",
        )?
        .query_row([id.as_str()], |row| row.get(0))?;
    if known != 0 {
        return Err(StoreError::SessionExists(id.clone()).into());
    }
    conn.prepare_cached("INSERT INTO session(session_id, epoch) VALUES (?1, 1)")?.execute([id.as_str()])?;
    let key = conn.last_insert_rowid();
    cache.put(id, Entry { key, epoch: 1, last_sequence: 0 });
    if encoded.summary.is_none() {
        let Some(session) = encoded.commit.events.iter().find_map(|event| match &event.payload {
            Payload::SessionCreated { session, .. } => Some(session),
            _ => None,
        }) else {
            let text = format!("session {id} cannot be created without a summary or session_created event");
            return Err(StoreError::Unavailable(text).into());
        };
        put_summary(conn, key, session, &encode_session(session)?)?;
    }
    append_to(conn, cache, Entry { key, epoch: 1, last_sequence: 0 }, encoded)?;
    Ok(1)
}

fn open(conn: &Connection, cache: &mut Cache, id: &SessionId) -> Result<i64, Fault> {
    let entry = cache.get(conn, id)?;
    let epoch = entry.epoch + 1;
    conn.prepare_cached("UPDATE session SET epoch = ?2 WHERE key = ?1")?.execute([entry.key, epoch])?;
    cache.put(id, Entry { epoch, ..entry });
    Ok(epoch)
}

fn append(conn: &Connection, cache: &mut Cache, encoded: &Encoded) -> Result<(), Fault> {
    let entry = owned(conn, cache, &encoded.commit.session_id, encoded.commit.epoch)?;
    append_to(conn, cache, entry, encoded)
}

fn append_to(conn: &Connection, cache: &mut Cache, mut entry: Entry, encoded: &Encoded) -> Result<(), Fault> {
    let commit: &Commit = &encoded.commit;
    if let Some(first) = commit.events.first()
        && first.sequence != entry.last_sequence + 1
    {
        let session_id = commit.session_id.clone();
        let stored = entry.last_sequence;
        return Err(StoreError::SequenceConflict { session_id, stored, first: first.sequence }.into());
    }
    // Everything that may be refused is looked at before the first write.
    for record in &commit.idempotency {
        if let Some(id) = &record.session_id {
            cache.get(conn, id)?;
        }
    }
    {
        let mut insert = conn
            .prepare_cached("INSERT INTO event(session, sequence, kind, payload) VALUES (?1, ?2, ?3, ?4)")?;
        for (event, json) in encoded.events() {
            let kind = EventKind::of(&event.payload);
            insert.execute(params![entry.key, event.sequence, kind as i64, json])?;
            if kind != EventKind::Delta {
                index_event(conn, entry.key, event)?;
            }
        }
    }
    if let (Some(session), Some(json)) = (commit.summary.as_deref(), encoded.summary.as_deref()) {
        put_summary(conn, entry.key, session, json)?;
    }
    for content in &commit.contents {
        put_content(conn, entry.key, content)?;
    }
    if let Some(last) = commit.events.last()
        && last.sequence > entry.last_sequence
    {
        entry.last_sequence = last.sequence;
        match cache.0.get_mut(&commit.session_id) {
            Some(known) => *known = entry,
            None => cache.put(&commit.session_id, entry),
        }
    }
    for record in &commit.idempotency {
        put_idempotency(conn, cache, record, true)?;
    }
    Ok(())
}

/// Keeps the side tables that are derived from events: open turns and searchable messages.
fn index_event(conn: &Connection, key: i64, event: &Event) -> Result<(), Fault> {
    match &event.payload {
        Payload::TurnQueued { turn } | Payload::TurnStarted { turn } => {
            conn.prepare_cached("INSERT OR IGNORE INTO open_turn(session, turn_id) VALUES (?1, ?2)")?
                .execute(params![key, turn.turn_id.as_str()])?;
        }
        Payload::TurnEnded { turn } => {
            conn.prepare_cached("DELETE FROM open_turn WHERE session = ?1 AND turn_id = ?2")?
                .execute(params![key, turn.turn_id.as_str()])?;
        }
        // The row of a started message keeps the sequence that a rewind compares with, and has no text yet.
        Payload::ItemStarted { item } => put_message(conn, key, event.sequence, item, false)?,
        Payload::ItemCompleted { item } => put_message(conn, key, event.sequence, item, true)?,
        Payload::HistoryChanged(change) => change_history(conn, key, change)?,
        _ => {}
    }
    Ok(())
}

fn put_message(
    conn: &Connection,
    key: i64,
    sequence: Sequence,
    item: &gander_domain::Item,
    complete: bool,
) -> Result<(), Fault> {
    let role = match &item.body {
        ItemBody::UserMessage(_) => "user",
        ItemBody::AgentMessage(_) => "assistant",
        _ => return Ok(()),
    };
    let text = if complete && !item.redacted { item.text() } else { String::new() };
    conn.prepare_cached(
        "INSERT INTO message(session, item_id, time, first_sequence, hidden, role, text)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (session, item_id) DO UPDATE SET text = excluded.text, hidden = excluded.hidden",
    )?
    .execute(params![
        key,
        item.item_id.as_str(),
        item.create_time.0,
        sequence,
        !item.visibility.user,
        role,
        text
    ])?;
    Ok(())
}

fn change_history(conn: &Connection, key: i64, change: &HistoryChange) -> Result<(), Fault> {
    for item in &change.visibility_changes {
        conn.prepare_cached("UPDATE message SET hidden = ?3 WHERE session = ?1 AND item_id = ?2")?
            .execute(params![key, item.item_id.as_str(), !item.user])?;
    }
    if let Some(from) = change.hidden_from_sequence {
        conn.prepare_cached("UPDATE message SET hidden = 1 WHERE session = ?1 AND first_sequence >= ?2")?
            .execute([key, from])?;
    }
    Ok(())
}

fn put_summary(conn: &Connection, key: i64, session: &Session, json: &[u8]) -> Result<(), Fault> {
    let totals = session.usage.totals;
    let tokens = totals.total_tokens.unwrap_or_else(|| {
        totals.input_tokens.unwrap_or(0).saturating_add(totals.output_tokens.unwrap_or(0))
    });
    let busy = session.state != SessionState::Idle || session.active_turn_id.is_some();
    let as_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "UPDATE session SET owner = ?2, kind = ?3, archived = ?4, busy = ?5, pending = ?6, message_count = ?7,
             total_tokens = ?8, create_time = ?9, update_time = ?10, schedule_id = ?11, parent_session_id = ?12,
             working_directory = ?13, title_folded = ?14, summary = ?15
         WHERE key = ?1",
    )?
    .execute(params![
        key,
        session.owner,
        session.kind.as_str(),
        session.archive_time.is_some(),
        busy,
        session.pending_interaction_count,
        as_i64(session.message_count),
        as_i64(tokens),
        session.create_time.0,
        session.update_time.0,
        session.schedule_id,
        session.parent.as_ref().map(|p| p.session_id.as_str()),
        session.working_directory,
        search::fold(&session.title),
        json
    ])?;
    Ok(())
}

fn put_content(conn: &Connection, key: i64, content: &NewContent) -> Result<(), Fault> {
    let added = conn
        .prepare_cached(
            "INSERT OR IGNORE INTO content(session, content_id, mime_type, size) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            key,
            content.content_id.as_str(),
            content.mime_type,
            i64::try_from(content.bytes.len()).unwrap_or(i64::MAX)
        ])?;
    if added == 0 {
        return Ok(());
    }
    let id = conn.last_insert_rowid();
    let mut insert =
        conn.prepare_cached("INSERT INTO content_chunk(content, start, bytes) VALUES (?1, ?2, ?3)")?;
    let mut start = 0_i64;
    for chunk in content.bytes.chunks(CHUNK_BYTES) {
        insert.execute(params![id, start, chunk])?;
        start += i64::try_from(chunk.len()).unwrap_or(0);
    }
    Ok(())
}

fn copy_content(conn: &Connection, from: i64, to: i64, content_id: &str) -> Result<(), Fault> {
    let source: Option<i64> = conn
        .prepare_cached("SELECT id FROM content WHERE session = ?1 AND content_id = ?2")?
        .query_row(params![from, content_id], |row| row.get(0))
        .optional()?;
    let Some(source) = source else { return Ok(()) };
    let added = conn
        .prepare_cached(
            "INSERT OR IGNORE INTO content(session, content_id, mime_type, size)
             SELECT ?2, content_id, mime_type, size FROM content WHERE id = ?1",
        )?
        .execute([source, to])?;
    if added > 0 {
        let id = conn.last_insert_rowid();
        conn.prepare_cached(
            "INSERT INTO content_chunk(content, start, bytes)
             SELECT ?2, start, bytes FROM content_chunk WHERE content = ?1 ORDER BY start",
        )?
        .execute([source, id])?;
    }
    Ok(())
}

/// The first record of a key stays: it tells what the key did.
/// `outcome`: the record comes with the effect and completes what a record of the same request announced.
fn put_idempotency(
    conn: &Connection,
    cache: &mut Cache,
    record: &IdempotencyRecord,
    outcome: bool,
) -> Result<(), Fault> {
    let session = match &record.session_id {
        Some(id) => Some(cache.get(conn, id)?.key),
        None => None,
    };
    conn.prepare_cached(
        "INSERT INTO idempotency(session, create_time, method, key, request_hash, response)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET response = excluded.response
         WHERE ?7 AND request_hash = excluded.request_hash",
    )?
    .execute(params![
        session,
        record.create_time.0,
        record.method,
        record.key,
        record.request_hash,
        record.response,
        outcome
    ])?;
    Ok(())
}

fn redact(conn: &Connection, key: i64, redaction: &Redaction) -> Result<(), Fault> {
    for (sequence, replacement) in &redaction.replacements {
        let Some(payload) = replacement else {
            conn.prepare_cached("DELETE FROM event WHERE session = ?1 AND sequence = ?2 AND kind = ?3")?
                .execute(params![key, sequence, EventKind::Delta as i64])?;
            continue;
        };
        let stored: Option<Vec<u8>> = conn
            .prepare_cached("SELECT payload FROM event WHERE session = ?1 AND sequence = ?2")?
            .query_row([key, *sequence], |row| row.get(0))
            .optional()?;
        let Some(stored) = stored else { continue };
        let mut event: Event = serde_json::from_slice(&stored).map_err(|e| unreadable("an event", &e))?;
        event.payload = payload.clone();
        conn.prepare_cached("UPDATE event SET payload = ?3, kind = ?4 WHERE session = ?1 AND sequence = ?2")?
            .execute(params![key, sequence, encode_event(&event)?, EventKind::of(payload) as i64])?;
    }
    for content in &redaction.contents {
        conn.prepare_cached(
            "DELETE FROM content_chunk
             WHERE content IN (SELECT id FROM content WHERE session = ?1 AND content_id = ?2)",
        )?
        .execute(params![key, content.as_str()])?;
        conn.prepare_cached("DELETE FROM content WHERE session = ?1 AND content_id = ?2")?
            .execute(params![key, content.as_str()])?;
    }
    conn.prepare_cached("DELETE FROM message WHERE session = ?1 AND item_id = ?2")?
        .execute(params![key, redaction.item_id])?;
    mark_unpurged(conn)
}

/// Makes the session unknown and returns its key; its rows are erased in steps afterwards. Returns 0 when that has been
/// done before.
fn delete(conn: &Connection, cache: &mut Cache, id: &SessionId, time: Timestamp) -> Result<i64, Fault> {
    let key = match cache.get(conn, id) {
        Ok(entry) => entry.key,
        Err(Fault::Store(StoreError::SessionNotFound(_))) => {
            let deleted: i64 = conn
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM tombstone WHERE session_id = ?1)")?
                .query_row([id.as_str()], |row| row.get(0))?;
            return if deleted != 0 { Ok(0) } else { Err(StoreError::SessionNotFound(id.clone()).into()) };
        }
        Err(other) => return Err(other),
    };
    conn.prepare_cached("INSERT INTO tombstone(session_id, time) VALUES (?1, ?2)")?
        .execute(params![id.as_str(), time.0])?;
    conn.prepare_cached("INSERT INTO erasing(session) VALUES (?1)")?.execute([key])?;
    conn.prepare_cached("DELETE FROM idempotency WHERE session = ?1")?.execute([key])?;
    conn.prepare_cached("DELETE FROM session WHERE key = ?1")?.execute([key])?;
    cache.0.remove(id);
    Ok(key)
}

/// Erases about `limit` rows of a deleted session; whether nothing is left.
pub(super) fn erase_some(conn: &Connection, key: i64, limit: i64) -> Result<bool, Fault> {
    const STEPS: &[&str] = &[
        "DELETE FROM event WHERE rowid IN (SELECT rowid FROM event WHERE session = ?1 LIMIT ?2)",
        "DELETE FROM message WHERE id IN (SELECT id FROM message WHERE session = ?1 LIMIT ?2)",
        "DELETE FROM content_chunk WHERE rowid IN (SELECT k.rowid FROM content c JOIN content_chunk k ON k.content = c.id
             WHERE c.session = ?1 LIMIT ?2)",
        "DELETE FROM content WHERE id IN (SELECT id FROM content WHERE session = ?1 LIMIT ?2)",
        "DELETE FROM document WHERE rowid IN (SELECT rowid FROM document WHERE session = ?1 LIMIT ?2)",
        "DELETE FROM open_turn WHERE session = ?1 AND ?2 > 0",
        "DELETE FROM idempotency WHERE session = ?1 AND ?2 > 0",
    ];
    for step in STEPS {
        if conn.prepare_cached(step)?.execute([key, limit])? > 0 {
            return Ok(false);
        }
    }
    conn.prepare_cached("DELETE FROM erasing WHERE session = ?1")?.execute([key])?;
    mark_unpurged(conn)?;
    Ok(true)
}

/// Erased bytes are in the files until a purge: should the process die before, the next start purges.
fn mark_unpurged(conn: &Connection) -> Result<(), Fault> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES ('unpurged', 1)")?.execute([])?;
    Ok(())
}

fn drop_deltas(
    conn: &Connection,
    key: i64,
    sequences: &[Sequence],
    through: Option<Sequence>,
) -> Result<i64, Fault> {
    let mut dropped = 0_usize;
    {
        let mut delete =
            conn.prepare_cached("DELETE FROM event WHERE session = ?1 AND sequence = ?2 AND kind = ?3")?;
        for sequence in sequences {
            dropped += delete.execute(params![key, sequence, EventKind::Delta as i64])?;
        }
    }
    if let Some(through) = through {
        conn.prepare_cached("UPDATE session SET dropped_through = max(dropped_through, ?2) WHERE key = ?1")?
            .execute([key, through])?;
    }
    Ok(i64::try_from(dropped).unwrap_or(i64::MAX))
}
