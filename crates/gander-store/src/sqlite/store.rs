//! The trait, implemented by handing writes to the writer and reads to the pool.

use std::time::{Duration, SystemTime};

use futures::future::{BoxFuture, FutureExt as _};
use gander_domain::{ContentId, Payload, Sequence, Session, SessionId, Timestamp};

use super::{
    SqliteStore, check, check_open, close, files, read, search,
    work::{Encoded, Redaction, Work},
};
use crate::{
    Commit, EventPage, IdempotencyRecord, ListQuery, LogBounds, SearchHit, SearchQuery, SessionStats, Store,
    StoreFinding, StoreHealth, StoreResult,
};

/// Deltas dropped per unit of work.
const DROP_ROWS: usize = 256;

impl SqliteStore {
    async fn write(&self, work: Work) -> StoreResult<i64> {
        self.writer()?.submit(work).await
    }
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

impl Store for SqliteStore {
    fn create_session(&self, commit: Commit) -> BoxFuture<'_, StoreResult<i64>> {
        async move { self.write(Work::Create(Box::new(Encoded::new(commit)?))).await }.boxed()
    }

    fn open_session(&self, session_id: &SessionId) -> BoxFuture<'_, StoreResult<i64>> {
        let work = Work::Open(session_id.clone());
        self.write(work).boxed()
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, StoreResult<()>> {
        async move { self.write(Work::Commit(Box::new(Encoded::new(commit)?))).await.map(drop) }.boxed()
    }

    fn read_events(
        &self,
        session_id: &SessionId,
        after: Sequence,
        max_events: usize,
        max_bytes: usize,
    ) -> BoxFuture<'_, StoreResult<EventPage>> {
        let id = session_id.clone();
        self.pool.read(move |conn| read::events(conn, &id, after, max_events, max_bytes)).boxed()
    }

    fn log_bounds(&self, session_id: &SessionId) -> BoxFuture<'_, StoreResult<LogBounds>> {
        let id = session_id.clone();
        self.pool.read(move |conn| read::bounds(conn, &id)).boxed()
    }

    fn get_session(&self, session_id: &SessionId) -> BoxFuture<'_, StoreResult<Session>> {
        let id = session_id.clone();
        self.pool.read(move |conn| read::session(conn, &id)).boxed()
    }

    fn list_sessions(&self, query: ListQuery) -> BoxFuture<'_, StoreResult<Vec<Session>>> {
        self.pool.read(move |conn| read::list(conn, &query)).boxed()
    }

    fn search(&self, query: SearchQuery) -> BoxFuture<'_, StoreResult<Vec<SearchHit>>> {
        self.pool.read(move |conn| search::search(conn, &query)).boxed()
    }

    fn stats(&self) -> BoxFuture<'_, StoreResult<SessionStats>> {
        self.pool.read(read::stats).boxed()
    }

    fn unfinished_sessions(&self) -> BoxFuture<'_, StoreResult<Vec<SessionId>>> {
        self.pool.read(read::unfinished).boxed()
    }

    fn delete_session(&self, session_id: &SessionId) -> BoxFuture<'_, StoreResult<()>> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let work = Work::Delete { session_id: session_id.clone(), time: Timestamp(0).plus(now) };
        async move { self.write(work).await.map(drop) }.boxed()
    }

    fn redact(
        &self,
        commit: Commit,
        item_id: String,
        replacements: Vec<(Sequence, Option<Payload>)>,
        contents: Vec<ContentId>,
    ) -> BoxFuture<'_, StoreResult<()>> {
        async move {
            let commit = Box::new(Encoded::new(commit)?);
            let redaction = Redaction { item_id, replacements, contents };
            self.write(Work::Redact { commit, redaction }).await.map(drop)
        }
        .boxed()
    }

    fn drop_deltas(
        &self,
        session_id: &SessionId,
        epoch: i64,
        through: Sequence,
    ) -> BoxFuture<'_, StoreResult<u64>> {
        let session_id = session_id.clone();
        async move {
            let id = session_id.clone();
            let (deltas, dropped_through) =
                self.pool.read(move |conn| read::droppable(conn, &id, through)).await?;
            // In steps, so that turns of other sessions are not held up; each step is consistent by itself.
            let (mut dropped, mut rest) = (0, deltas.as_slice());
            loop {
                let (step, later) = rest.split_at(rest.len().min(DROP_ROWS));
                rest = later;
                let through = rest.is_empty().then_some(dropped_through);
                let (session_id, sequences) = (session_id.clone(), step.to_vec());
                dropped +=
                    unsigned(self.write(Work::DropDeltas { session_id, epoch, sequences, through }).await?);
                if rest.is_empty() {
                    return Ok(dropped);
                }
            }
        }
        .boxed()
    }

    fn content_info(
        &self,
        session_id: &SessionId,
        content_id: &ContentId,
    ) -> BoxFuture<'_, StoreResult<(u64, String)>> {
        let (session, id) = (session_id.clone(), content_id.clone());
        self.pool.read(move |conn| read::content_info(conn, &session, &id)).boxed()
    }

    fn read_content(
        &self,
        session_id: &SessionId,
        content_id: &ContentId,
        offset: u64,
        length: usize,
    ) -> BoxFuture<'_, StoreResult<Vec<u8>>> {
        let (session, id) = (session_id.clone(), content_id.clone());
        self.pool.read(move |conn| read::read_content(conn, &session, &id, offset, length)).boxed()
    }

    fn copy_contents(
        &self,
        from: &SessionId,
        to: &SessionId,
        contents: Vec<ContentId>,
    ) -> BoxFuture<'_, StoreResult<()>> {
        let work = Work::CopyContents { from: from.clone(), to: to.clone(), contents };
        async move { self.write(work).await.map(drop) }.boxed()
    }

    fn idempotency(&self, method: &str, key: &str) -> BoxFuture<'_, StoreResult<Option<IdempotencyRecord>>> {
        let (method, key) = (method.to_owned(), key.to_owned());
        self.pool.read(move |conn| read::idempotency(conn, &method, &key)).boxed()
    }

    fn put_idempotency(&self, record: IdempotencyRecord) -> BoxFuture<'_, StoreResult<()>> {
        async move { self.write(Work::PutIdempotency(record)).await.map(drop) }.boxed()
    }

    fn expire_idempotency(&self, before: Timestamp) -> BoxFuture<'_, StoreResult<u64>> {
        async move { self.write(Work::ExpireIdempotency(before)).await.map(unsigned) }.boxed()
    }

    fn put_document(
        &self,
        session_id: &SessionId,
        name: &str,
        body: Option<Vec<u8>>,
    ) -> BoxFuture<'_, StoreResult<()>> {
        let work = Work::PutDocument { session_id: session_id.clone(), name: name.to_owned(), body };
        async move { self.write(work).await.map(drop) }.boxed()
    }

    fn get_document(
        &self,
        session_id: &SessionId,
        name: &str,
    ) -> BoxFuture<'_, StoreResult<Option<Vec<u8>>>> {
        let (id, name) = (session_id.clone(), name.to_owned());
        self.pool.read(move |conn| read::document(conn, &id, &name)).boxed()
    }

    fn check(&self) -> BoxFuture<'_, StoreResult<Vec<StoreFinding>>> {
        self.pool.read(check::check).boxed()
    }

    fn session_ids(&self) -> BoxFuture<'_, StoreResult<Vec<SessionId>>> {
        self.pool.read(read::session_ids).boxed()
    }

    fn is_full(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.is_full())
    }

    fn health(&self) -> BoxFuture<'_, StoreResult<StoreHealth>> {
        async move {
            check_open(self)?;
            let sessions = self.pool.read(read::stats).await?.session_count;
            Ok(StoreHealth {
                full: Store::is_full(self),
                read_only: self.writer.as_ref().is_none_or(|writer| writer.is_read_only()),
                sessions,
                database_bytes: files::file_bytes(&self.layout.database()),
                wal_bytes: files::file_bytes(&self.layout.wal()),
            })
        }
        .boxed()
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, StoreResult<()>> {
        close(self, deadline).boxed()
    }
}
