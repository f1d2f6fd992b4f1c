//! The upkeep thread: checkpoints on its own connection, erases deleted sessions in steps, purges erased bytes from the
//! files, makes the reserve again.
//!
//! It holds the database lock for short steps only. An erasing call is answered when a truncating checkpoint and a scrub
//! that began after its transaction have succeeded, or when their time is up.

use std::{
    collections::VecDeque,
    fs::File,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    apply::erase_some,
    fault::Fault,
    scrub,
    writer::{Done, Writer, lock},
};
use crate::{StoreError, StoreResult};

/// The WAL is copied into the database beyond this.
const PASSIVE_BYTES: u64 = 4 << 20;
/// The writer itself makes the WAL start again beyond this: under steady writing PASSIVE alone may never do.
const RESTART_BYTES: u64 = 64 << 20;
/// Bytes of a WAL frame.
const FRAME_BYTES: u64 = 4096 + 24;
/// How long readers may delay an erasure.
const PURGE_PATIENCE: Duration = Duration::from_secs(5);
/// Rows erased per transaction.
const ERASE_ROWS: i64 = 500;

struct Purge {
    done: Option<Done>,
    /// Counted from the first attempt that failed.
    deadline: Option<Instant>,
}

impl Purge {
    fn answer(self, result: StoreResult<i64>) {
        if let Some(done) = self.done {
            // Who asked may have gone.
            drop(done.send(result));
        } else if let Err(error) = result {
            tracing::warn!(%error, "erased bytes were not purged");
        }
    }
}

#[derive(Default)]
struct Tasks {
    erasures: VecDeque<(i64, Option<Done>)>,
    purges: Vec<Purge>,
    checkpoint: bool,
    closing: bool,
}

/// What the thread has to do.
#[derive(Default)]
pub(super) struct Upkeep {
    tasks: Mutex<Tasks>,
    wake: Condvar,
    /// Estimate of bytes written since the last checkpoint.
    written: AtomicU64,
    /// Erasures begun or ended so far. Grows under the database lock only.
    erased: AtomicU64,
    /// The value of `erased` as of which no erased byte is left in the files.
    purged: AtomicU64,
}

impl Upkeep {
    /// Counts written bytes; wakes the thread when the WAL may have grown enough.
    pub(super) fn wrote(&self, bytes: u64) {
        if self.written.fetch_add(bytes, Relaxed) + bytes > PASSIVE_BYTES || bytes == 0 {
            self.written.store(0, Relaxed);
            lock(&self.tasks).checkpoint = true;
            self.wake.notify_one();
        }
    }

    /// Erases the rows of a deleted session, then purges.
    pub(super) fn erase(&self, key: i64, done: Option<Done>) {
        self.erased.fetch_add(1, Relaxed);
        lock(&self.tasks).erasures.push_back((key, done));
        self.wake.notify_one();
    }

    /// Answers when no erased byte is left.
    pub(super) fn purge(&self, done: Option<Done>) {
        self.erased.fetch_add(1, Relaxed);
        lock(&self.tasks).purges.push(Purge { done, deadline: None });
        self.wake.notify_one();
    }

    /// Purges again if an earlier purge failed or is under way; else says that there was nothing to delete.
    pub(super) fn purge_again(&self, done: Done, not_found: StoreError) {
        if self.erased.load(Relaxed) == self.purged.load(Relaxed) {
            drop(done.send(Err(not_found)));
            return;
        }
        self.purge(Some(done));
    }

    pub(super) fn begin_close(&self) {
        lock(&self.tasks).closing = true;
        self.wake.notify_all();
    }

    /// Waits for something to do; `None` when closing and nothing is left.
    fn next(&self, full: bool) -> Option<Tasks> {
        let mut tasks = lock(&self.tasks);
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            if !tasks.erasures.is_empty() || !tasks.purges.is_empty() || tasks.checkpoint {
                let closing = tasks.closing;
                return Some(std::mem::replace(&mut *tasks, Tasks { closing, ..Tasks::default() }));
            }
            if tasks.closing {
                return None;
            }
            tasks = if full {
                let wait = deadline.saturating_duration_since(Instant::now());
                if wait.is_zero() {
                    return Some(Tasks::default());
                }
                self.wake.wait_timeout(tasks, wait).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.wake.wait(tasks).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }
}

/// Body of the upkeep thread. `raw` is the database file, for the scrub.
pub(super) fn run(writer: &Writer, conn: &Connection, raw: &File) {
    while let Some(mut tasks) = writer.upkeep.next(writer.is_full()) {
        if tasks.checkpoint
            && let Err(fault) = checkpoint(writer, conn)
        {
            let error = StoreError::from(writer.note(fault));
            tracing::warn!(%error, "a checkpoint failed");
        }
        if writer.is_full() {
            // What the WAL no longer needs is room as well.
            if let Err(fault) = writer.with_db(|db| db.conn.as_ref().map_or(Ok(true), truncate_wal)) {
                tracing::debug!(error = %StoreError::from(fault), "the write-ahead log cannot be emptied");
            }
            writer.restore_reserve();
        }
        if let Some((key, done)) = tasks.erasures.pop_front() {
            step_erasure(writer, key, done);
        }
        // A purge covers everything erased before it, so it waits for erasures that are under way.
        if !tasks.purges.is_empty()
            && tasks.erasures.is_empty()
            && lock(&writer.upkeep.tasks).erasures.is_empty()
        {
            purge(writer, raw, &mut tasks.purges);
        }
        give_back(writer, tasks);
    }
}

fn give_back(writer: &Writer, tasks: Tasks) {
    let waiting = !tasks.purges.is_empty();
    let mut current = lock(&writer.upkeep.tasks);
    for erasure in tasks.erasures.into_iter().rev() {
        current.erasures.push_front(erasure);
    }
    current.purges.extend(tasks.purges);
    if waiting && current.erasures.is_empty() {
        // A reader holds the WAL: try again soon.
        drop(writer.upkeep.wake.wait_timeout(current, Duration::from_millis(10)));
    }
}

fn wal_checkpoint(conn: &Connection, mode: &str) -> Result<(bool, u64, u64), Fault> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    let (busy, log, done): (i64, i64, i64) =
        conn.prepare_cached(&sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok((busy != 0, count(log), count(done)))
}

fn checkpoint(writer: &Writer, conn: &Connection) -> Result<(), Fault> {
    let (_, frames, _) = wal_checkpoint(conn, "NOOP")?;
    if frames * FRAME_BYTES <= PASSIVE_BYTES {
        return Ok(());
    }
    let (_, frames, _) = wal_checkpoint(conn, "PASSIVE")?;
    if frames * FRAME_BYTES > RESTART_BYTES {
        writer.with_db(|db| match &db.conn {
            Some(conn) => {
                patient(conn, Duration::from_millis(100), |c| wal_checkpoint(c, "RESTART")).map(drop)
            }
            None => Ok(()),
        })?;
    }
    Ok(())
}

/// Runs `action` with another busy timeout.
fn patient<T>(
    conn: &Connection,
    patience: Duration,
    action: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    conn.busy_timeout(patience)?;
    let result = action(conn);
    conn.busy_timeout(super::BUSY_TIMEOUT)?;
    result
}

/// Copies the whole WAL into the database and empties it; `false` when a reader or another program prevents it.
pub(super) fn truncate_wal(conn: &Connection) -> Result<bool, Fault> {
    match patient(conn, Duration::from_millis(20), |c| wal_checkpoint(c, "TRUNCATE")) {
        Ok((busy, ..)) => Ok(!busy),
        Err(Fault::Sqlite(error)) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
            Ok(false)
        }
        Err(fault) => Err(fault),
    }
}

fn step_erasure(writer: &Writer, key: i64, done: Option<Done>) {
    let step = || {
        writer.with_db(|db| {
            let Some(conn) = db.conn.as_mut() else { return Ok(true) };
            let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let finished = erase_some(&tx, key, ERASE_ROWS)?;
            tx.commit()?;
            Ok::<_, Fault>(finished)
        })
    };
    let result = step().or_else(|fault| {
        let fault = writer.note(fault);
        if fault.is_full() && writer.with_db(|db| writer.give_up_reserve(db)) { step() } else { Err(fault) }
    });
    match result {
        Ok(false) => lock(&writer.upkeep.tasks).erasures.push_back((key, done)),
        Ok(true) => writer.upkeep.purge(done),
        Err(fault) => {
            let error = StoreError::from(fault);
            tracing::error!(%error, "a deleted session could not be erased; the next start tries again");
            if let Some(done) = done {
                drop(done.send(Err(error)));
            }
        }
    }
}

/// Empties the WAL and zeroes what moved rows left behind; `false` when something holds the WAL.
fn try_purge(writer: &Writer, raw: &File) -> Result<bool, Fault> {
    if !writer.with_db(|db| db.conn.as_ref().map_or(Ok(true), truncate_wal))? {
        return Ok(false);
    }
    let erased = writer.upkeep.erased.load(Relaxed);
    // The scan needs no lock: all copies that it has to find are in the file by now, and what it finds is looked at
    // again under the lock.
    let candidates = scrub::find(raw).map_err(|e| io_fault(&e))?;
    writer.with_db(|db| {
        let Some(conn) = &db.conn else { return Ok(true) };
        if !truncate_wal(conn)? {
            return Ok(false);
        }
        scrub::clean(raw, &candidates).map_err(|e| io_fault(&e))?;
        // Pages in the writer's cache still have the old free space.
        conn.execute_batch("PRAGMA shrink_memory")?;
        if writer.upkeep.erased.load(Relaxed) == erased {
            conn.prepare_cached("DELETE FROM meta WHERE key = 'unpurged'")?.execute([])?;
            writer.upkeep.purged.store(erased, Relaxed);
        }
        Ok(true)
    })
}

/// One attempt; answers the purges if it succeeds, and those whose time is up if it does not.
fn purge(writer: &Writer, raw: &File, purges: &mut Vec<Purge>) {
    let held = "a reader holds the write-ahead log";
    let failed = |error: &str| {
        let dir = writer.layout.dir.display();
        let text = format!(
            "erased, but its bytes may still be in gander.db or gander.db-wal in {dir}: {error}; the next deletion or \
             start tries again"
        );
        Err(StoreError::Unavailable(text))
    };
    match try_purge(writer, raw) {
        Ok(true) => purges.drain(..).for_each(|purge| purge.answer(Ok(0))),
        Ok(false) => {
            let now = Instant::now();
            let expired = |p: &mut Purge| *p.deadline.get_or_insert(now + PURGE_PATIENCE) <= now;
            purges.extract_if(.., expired).for_each(|purge| purge.answer(failed(held)));
        }
        Err(fault) => {
            let error = StoreError::from(writer.note(fault)).to_string();
            purges.drain(..).for_each(|purge| purge.answer(failed(&error)));
        }
    }
}

fn io_fault(error: &std::io::Error) -> Fault {
    StoreError::Unavailable(format!("the database file cannot be scrubbed: {error}")).into()
}
