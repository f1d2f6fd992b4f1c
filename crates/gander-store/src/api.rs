//! The store trait and its data. Implementations: SQLite here; PostgreSQL later with the same conformance suite.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use gander_domain::{
    ContentId, Event, Payload, Sequence, Session, SessionId, Timestamp, session::SessionKind,
};

/// Result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// Why a store operation failed. Nothing of a failed operation is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("session {0} does not exist")]
    SessionNotFound(SessionId),
    /// Also for ids of deleted sessions: ids are never reused.
    #[error("session {0} exists or has existed")]
    SessionExists(SessionId),
    #[error("session {session_id} is owned by another daemon (epoch {current}, ours is {ours})")]
    Fenced { session_id: SessionId, ours: i64, current: i64 },
    #[error("events of session {session_id} must follow sequence {stored}, got {first}")]
    SequenceConflict { session_id: SessionId, stored: Sequence, first: Sequence },
    #[error("content {0} does not exist")]
    ContentNotFound(ContentId),
    #[error("the disk that holds the database is full")]
    Full,
    #[error("the database cannot be written: {0}")]
    ReadOnly(String),
    #[error("the data directory is in use by process {pid}")]
    Owned { pid: u32 },
    #[error("the database is damaged: {0}; run `gander doctor`")]
    Corrupt(String),
    #[error(
        "the database was written by a newer gander (schema {found}, this build knows {known}); update gander"
    )]
    Newer { found: i64, known: i64 },
    #[error("the store failed: {0}")]
    Unavailable(String),
}

/// One atomic append to a session.
#[derive(Debug, Clone)]
pub struct Commit {
    pub session_id: SessionId,
    /// From [`Store::open_session`]; another value than the stored one is [`StoreError::Fenced`].
    pub epoch: i64,
    /// Contiguous; the first one follows the last stored sequence. May be empty (only side data).
    pub events: Vec<Arc<Event>>,
    /// The session's row for lists, when anything but deltas was appended.
    pub summary: Option<Arc<Session>>,
    /// Content that the events refer to.
    pub contents: Vec<NewContent>,
    /// Recorded with the effect. A record of the same request that was there before ([`Store::put_idempotency`] of a
    /// call that has begun) gets this response; of another request it stays as it is.
    pub idempotency: Vec<IdempotencyRecord>,
}

/// Bytes to store beside the log. Storing the same id again is no error.
#[derive(Debug, Clone)]
pub struct NewContent {
    pub content_id: ContentId,
    pub mime_type: String,
    pub bytes: Arc<[u8]>,
}

/// What an idempotency key did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Erased with the session; `None` for keys of requests without one.
    pub session_id: Option<SessionId>,
    pub method: String,
    pub key: String,
    /// Hex SHA-256 of the request without its key.
    pub request_hash: String,
    /// What the first request answered, in the service's encoding.
    pub response: Vec<u8>,
    pub create_time: Timestamp,
}

/// Which sessions to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// Empty = user and scheduled ones.
    pub kinds: Vec<SessionKind>,
    pub archived: ArchivedFilter,
    pub with_messages_only: bool,
    pub working_directory: Option<String>,
    pub schedule_id: Option<String>,
    pub parent_session_id: Option<SessionId>,
    /// Case-insensitive substring of the title.
    pub title_contains: Option<String>,
    pub order: ListOrder,
    /// Continue behind this (order time, session id).
    pub after: Option<(Timestamp, SessionId)>,
    /// At most 1000; 0 = 1000.
    pub limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArchivedFilter {
    #[default]
    Without,
    Only,
    With,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListOrder {
    /// Newest update first.
    #[default]
    UpdateTimeDesc,
    CreateTimeDesc,
    /// Oldest first.
    CreateTimeAsc,
}

/// A text search over user and agent messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SearchQuery {
    /// Every word must occur, case-insensitively.
    pub words: Vec<String>,
    /// Not older than this.
    pub after: Option<Timestamp>,
    /// Older than this.
    pub before: Option<Timestamp>,
    /// Only in this session.
    pub session_id: Option<SessionId>,
    /// Messages, not sessions.
    pub limit_messages: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchHit {
    pub session: Session,
    /// Newest first.
    pub messages: Vec<SearchMessage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchMessage {
    pub item_id: String,
    /// `user` or `assistant`.
    pub role: String,
    pub time: Timestamp,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionStats {
    pub session_count: u64,
    pub total_tokens: u64,
}

/// One page of a log.
#[derive(Debug, Clone, Default)]
pub struct EventPage {
    pub events: Vec<Arc<Event>>,
    /// Last stored sequence at the time of the read; the page is complete when its last event has it.
    pub last_sequence: Sequence,
}

/// Where a log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    pub oldest_sequence: Sequence,
    pub last_sequence: Sequence,
}

/// A finding of [`Store::check`] on the storage level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFinding {
    pub session_id: Option<SessionId>,
    pub text: String,
}

/// Condition of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreHealth {
    /// The disk was found full; new work is to be refused until it has room again.
    pub full: bool,
    pub read_only: bool,
    pub sessions: u64,
    pub database_bytes: u64,
    pub wal_bytes: u64,
}

/// The event log and session store.
///
/// All methods are safe to call from any task; a dropped future may or may not have had its effect, never half of it.
pub trait Store: Send + Sync + 'static {
    /// Creates a session with its first events; returns its epoch.
    fn create_session(&self, commit: Commit) -> BoxFuture<'_, StoreResult<i64>>;

    /// Takes the session for this daemon: a new epoch, so that an earlier owner's commits are refused.
    fn open_session(&self, session_id: &SessionId) -> BoxFuture<'_, StoreResult<i64>>;

    /// Appends. When the future resolves with `Ok`, everything in it survives `kill -9`.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, StoreResult<()>>;

    /// Events with sequences above `after`, oldest first, at most `max_events` and about `max_bytes` (at least one).
    fn read_events(
        &self,
        session_id: &SessionId,
        after: Sequence,
        max_events: usize,
        max_bytes: usize,
    ) -> BoxFuture<'_, StoreResult<EventPage>>;

    /// Oldest and last sequence.
    fn log_bounds(&self, session_id: &SessionId) -> BoxFuture<'_, StoreResult<LogBounds>>;

    /// The session's row as of its last commit that carried a summary.
    fn get_session(&self, session_id: &SessionId) -> BoxFuture<'_, StoreResult<Session>>;

    fn list_sessions(&self, query: ListQuery) -> BoxFuture<'_, StoreResult<Vec<Session>>>;

    fn search(&self, query: SearchQuery) -> BoxFuture<'_, StoreResult<Vec<SearchHit>>>;

    /// Counts over sessions of all kinds. Tokens of sub-agents are in their parents' totals and not counted again.
    fn stats(&self) -> BoxFuture<'_, StoreResult<SessionStats>>;

    /// Sessions whose row is not idle, has open questions or queued turns: to be recovered at start.
    fn unfinished_sessions(&self) -> BoxFuture<'_, StoreResult<Vec<SessionId>>>;

    /// Erases everything of the session but a tombstone of its id. No byte of its content is left in the data
    /// directory when the future resolves.
    fn delete_session(&self, session_id: &SessionId) -> BoxFuture<'_, StoreResult<()>>;

    /// Replaces payloads of stored events (`Some`) or removes deltas (`None`), removes contents and the search text
    /// of the item, and appends `commit`, atomically; erased bytes are gone when the future resolves.
    fn redact(
        &self,
        commit: Commit,
        item_id: String,
        replacements: Vec<(Sequence, Option<Payload>)>,
        contents: Vec<ContentId>,
    ) -> BoxFuture<'_, StoreResult<()>>;

    /// Removes deltas with sequences up to `through` whose item has completed at or before it. Returns how many.
    fn drop_deltas(
        &self,
        session_id: &SessionId,
        epoch: i64,
        through: Sequence,
    ) -> BoxFuture<'_, StoreResult<u64>>;

    /// Size in bytes and MIME type.
    fn content_info(
        &self,
        session_id: &SessionId,
        content_id: &ContentId,
    ) -> BoxFuture<'_, StoreResult<(u64, String)>>;

    fn read_content(
        &self,
        session_id: &SessionId,
        content_id: &ContentId,
        offset: u64,
        length: usize,
    ) -> BoxFuture<'_, StoreResult<Vec<u8>>>;

    /// Copies contents of one session to another (forks). Missing ones are skipped.
    fn copy_contents(
        &self,
        from: &SessionId,
        to: &SessionId,
        contents: Vec<ContentId>,
    ) -> BoxFuture<'_, StoreResult<()>>;

    /// Records with the key, if it was used.
    fn idempotency(&self, method: &str, key: &str) -> BoxFuture<'_, StoreResult<Option<IdempotencyRecord>>>;

    /// Records a key whose effect is not a commit of a session.
    fn put_idempotency(&self, record: IdempotencyRecord) -> BoxFuture<'_, StoreResult<()>>;

    /// Forgets records older than `before`.
    fn expire_idempotency(&self, before: Timestamp) -> BoxFuture<'_, StoreResult<u64>>;

    /// A document kept beside the log, erased with its session (extension configurations, client environment).
    /// `None` removes it.
    fn put_document(
        &self,
        session_id: &SessionId,
        name: &str,
        body: Option<Vec<u8>>,
    ) -> BoxFuture<'_, StoreResult<()>>;

    fn get_document(&self, session_id: &SessionId, name: &str)
    -> BoxFuture<'_, StoreResult<Option<Vec<u8>>>>;

    /// Checks the database itself (integrity, references, rows against logs). Log rules are checked by the caller.
    fn check(&self) -> BoxFuture<'_, StoreResult<Vec<StoreFinding>>>;

    /// Ids of all sessions, for checks and exports.
    fn session_ids(&self) -> BoxFuture<'_, StoreResult<Vec<SessionId>>>;

    /// Whether the disk was found full and new work is to be refused. Costs nothing.
    fn is_full(&self) -> bool;

    fn health(&self) -> BoxFuture<'_, StoreResult<StoreHealth>>;

    /// Flushes and closes within the deadline; later calls fail.
    fn close(&self, deadline: Duration) -> BoxFuture<'_, StoreResult<()>>;
}
