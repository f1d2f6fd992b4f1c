//! The hybrid writer: a caller commits inline when the database is free and it has credit (one commit per gap, a few
//! saved up), else the writer thread commits everything queued one gap after the last commit.
//!
//! Work leaves the queue only under the database lock, so its order is the order of submission. A batch is one
//! transaction; work that is refused does not disturb the rest of its batch. Results are told after the commit.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::unconstrained,
};

use super::{
    apply::{Cache, apply},
    fault::{Fault, closed},
    files::{Layout, RESERVE_BYTES},
    upkeep::Upkeep,
    work::Work,
};
use crate::{StoreError, StoreResult};

/// Pause between the commits of the writer thread; also the time in which callers earn one inline commit.
const COMMIT_GAP: Duration = Duration::from_millis(1);
/// Inline commits that may follow each other at once: the few steps of a turn's start or of one call do not wait, a
/// burst soon does.
const INLINE_CREDIT: u32 = 4;
/// Events per transaction: larger batches make everyone wait.
const MAX_BATCH_EVENTS: usize = 256;
/// More than this is left to the writer thread, so that no task's worker is blocked for long.
const MAX_INLINE_BYTES: usize = 256 << 10;
/// What may be queued, in KiB; callers wait beyond it.
const QUEUE_KIB: u32 = 32 << 10;

/// Who waits for a result.
pub(super) type Done = oneshot::Sender<StoreResult<i64>>;

struct Job {
    work: Work,
    done: Done,
    _room: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    closing: bool,
}

/// The writing connection and what is known about the database.
pub(super) struct Db {
    /// `None` once closed.
    pub(super) conn: Option<Connection>,
    pub(super) cache: Cache,
    last_commit: Option<Instant>,
    /// When the credit for inline commits would be zero: the further in the past, the more may follow at once.
    credit_from: Option<Instant>,
    /// From the owner row; another value there means that another daemon has taken the directory.
    instance_epoch: i64,
}

impl Db {
    pub(super) fn new(conn: Connection, instance_epoch: i64) -> Self {
        Self {
            conn: Some(conn),
            cache: Cache::default(),
            last_commit: None,
            credit_from: None,
            instance_epoch,
        }
    }
}

impl Db {
    /// Takes the credit for one inline commit, if there is any.
    fn take_credit(&mut self, now: Instant) -> bool {
        let oldest = now.checked_sub(COMMIT_GAP * INLINE_CREDIT).unwrap_or(now);
        let from = self.credit_from.map_or(oldest, |from| from.max(oldest));
        let has = now.duration_since(from) >= COMMIT_GAP;
        self.credit_from = Some(if has { from + COMMIT_GAP } else { from });
        has
    }
}

/// Queue, database and condition; shared by callers and the two threads.
pub(super) struct Writer {
    pub(super) layout: Layout,
    db: Mutex<Db>,
    queue: Mutex<Queue>,
    wake: Condvar,
    room: Arc<Semaphore>,
    gate: tokio::sync::Mutex<()>,
    pub(super) upkeep: Upkeep,
    full: AtomicBool,
    read_only: AtomicBool,
    /// Somebody but the writer thread wants the database.
    yield_db: AtomicBool,
    /// Test limit in pages; 0 = none.
    pub(super) max_pages: AtomicU64,
}

/// A poisoned lock is taken all the same: every state behind the locks is valid between statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    pub(super) fn new(layout: Layout, db: Db, max_pages: u64) -> Self {
        Self {
            layout,
            db: Mutex::new(db),
            queue: Mutex::default(),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            gate: tokio::sync::Mutex::default(),
            upkeep: Upkeep::default(),
            full: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            yield_db: AtomicBool::new(false),
            max_pages: AtomicU64::new(max_pages),
        }
    }

    /// Queues work and waits for its result.
    pub(super) async fn submit(&self, work: Work) -> StoreResult<i64> {
        let kib = u32::try_from(work.bytes() / 1024 + 1).unwrap_or(QUEUE_KIB).min(QUEUE_KIB);
        let (done, result) = oneshot::channel();
        {
            // First come, first queued, also when many have to wait: the gate lets one at a time wait for room.
            // Unconstrained, as giving way to other tasks here would lose the place.
            let _gate = unconstrained(self.gate.lock()).await;
            let room = Arc::clone(&self.room);
            let room = unconstrained(room.acquire_many_owned(kib)).await.map_err(|_| closed())?;
            let mut queue = lock(&self.queue);
            if queue.closing {
                return Err(closed());
            }
            queue.bytes += work.bytes();
            queue.jobs.push_back(Job { work, done, _room: room });
        }
        self.kick();
        result.await.map_err(|_| closed())?
    }

    /// Commits what is queued at once if nobody else does and the gap has passed; else leaves it to the thread.
    fn kick(&self) {
        if let Ok(mut db) = self.db.try_lock()
            && lock(&self.queue).bytes <= MAX_INLINE_BYTES
            && db.take_credit(Instant::now())
        {
            self.run_batch(&mut db);
        }
        if !lock(&self.queue).jobs.is_empty() {
            self.wake.notify_one();
        }
    }

    /// Body of the writer thread; returns when closing and nothing is queued.
    pub(super) fn run(&self) {
        while self.wait_for_work() {
            let last = lock(&self.db).last_commit;
            if let Some(wait) = last.and_then(|at| COMMIT_GAP.checked_sub(at.elapsed())) {
                std::thread::sleep(wait);
            }
            while self.run_batch_of_thread() > 0 {
                // Mutexes are not fair: without a pause the upkeep would wait for the end of a burst.
                if self.yield_db.load(Relaxed) {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        }
    }

    fn run_batch_of_thread(&self) -> usize {
        let mut db = lock(&self.db);
        // The thread's commits use up the credit as well, else a burst would see both.
        db.take_credit(Instant::now());
        self.run_batch(&mut db)
    }

    fn wait_for_work(&self) -> bool {
        let mut queue = lock(&self.queue);
        while queue.jobs.is_empty() {
            if queue.closing {
                return false;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// No new work is taken from now on; the thread ends when the queue is empty.
    pub(super) fn begin_close(&self) {
        lock(&self.queue).closing = true;
        self.room.close();
        self.wake.notify_all();
        self.upkeep.begin_close();
    }

    /// Runs `action` with the database locked, before further batches of the writer thread.
    pub(super) fn with_db<T>(&self, action: impl FnOnce(&mut Db) -> T) -> T {
        self.yield_db.store(true, Relaxed);
        let mut db = lock(&self.db);
        self.yield_db.store(false, Relaxed);
        action(&mut db)
    }

    fn take_batch(&self) -> Vec<Job> {
        let mut queue = lock(&self.queue);
        let (mut events, mut count, mut bytes) = (0, 0, 0);
        for job in &queue.jobs {
            if count > 0 && events + job.work.events() > MAX_BATCH_EVENTS {
                break;
            }
            count += 1;
            events += job.work.events();
            bytes += job.work.bytes();
        }
        queue.bytes = queue.bytes.saturating_sub(bytes);
        queue.jobs.drain(..count).collect()
    }

    /// Commits one batch and tells the results; returns how much work it was.
    fn run_batch(&self, db: &mut Db) -> usize {
        let jobs = self.take_batch();
        if jobs.is_empty() {
            return 0;
        }
        let works: Vec<&Work> = jobs.iter().map(|job| &job.work).collect();
        let results = match self.transact_with_reserve(db, &works) {
            Ok(results) => results,
            // One broken unit must not fail the others.
            Err(_) if works.len() > 1 => works
                .iter()
                .map(|work| {
                    let one = self.transact_with_reserve(db, &[work]);
                    one.map_err(StoreError::from).and_then(|mut r| r.pop().unwrap_or_else(|| Err(closed())))
                })
                .collect(),
            Err(fault) => vec![Err(fault.into())],
        };
        db.last_commit = Some(Instant::now());
        let written: usize = jobs.iter().map(|job| job.work.bytes() + 8192).sum();
        self.upkeep.wrote(written as u64);
        let count = jobs.len();
        for (job, result) in jobs.into_iter().zip(results) {
            self.tell(job, result);
        }
        count
    }

    fn tell(&self, job: Job, result: StoreResult<i64>) {
        match (&job.work, result) {
            // Deleted before. If its bytes could not be erased then, this call tries again.
            (Work::Delete { session_id, .. }, Ok(0)) => {
                self.upkeep.purge_again(job.done, StoreError::SessionNotFound(session_id.clone()));
            }
            (Work::Delete { .. }, Ok(key)) => self.upkeep.erase(key, Some(job.done)),
            (work, Ok(_)) if work.erases() => self.upkeep.purge(Some(job.done)),
            // The caller may have gone; its work is stored all the same.
            (_, result) => drop(job.done.send(result)),
        }
    }

    /// One transaction; if the disk is full, once more with the reserve's blocks given up.
    pub(super) fn transact_with_reserve(
        &self,
        db: &mut Db,
        works: &[&Work],
    ) -> Result<Vec<StoreResult<i64>>, Fault> {
        let result = transact(db, works);
        let Err(fault) = result else { return result };
        let fault = self.note(fault);
        if fault.is_full() && self.give_up_reserve(db) {
            return transact(db, works).map_err(|fault| self.note(fault));
        }
        Err(fault)
    }

    /// Remembers what a failure says about the disk, and recognises a full one that looks like an IO error.
    pub(super) fn note(&self, fault: Fault) -> Fault {
        let fault = match fault {
            io if io.is_io() && self.layout.free_bytes().is_some_and(|free| free < 1 << 20) => {
                StoreError::Full.into()
            }
            other => other,
        };
        if fault.is_full() && !self.full.swap(true, Relaxed) {
            tracing::error!(dir = %self.layout.dir.display(), "the disk is full; free some space");
        }
        if let Fault::Sqlite(error) = &fault
            && error.sqlite_error_code() == Some(rusqlite::ErrorCode::ReadOnly)
        {
            self.read_only.store(true, Relaxed);
        }
        fault
    }

    pub(super) fn give_up_reserve(&self, db: &Db) -> bool {
        let released = self.layout.release_reserve();
        if released {
            tracing::warn!("the reserve was given up so that running turns can be ended");
            self.upkeep.wrote(0);
            if let (Some(conn), max @ 1..) = (&db.conn, self.max_pages.load(Relaxed)) {
                let more = max + RESERVE_BYTES / 4096;
                let _ = conn.pragma_update(None, "max_page_count", i64::try_from(more).unwrap_or(i64::MAX));
            }
        }
        released
    }

    /// Tries to make the reserve again; the store is not full any more when that succeeds.
    /// Called only while it is full.
    pub(super) fn restore_reserve(&self) {
        if let max @ 1.. = self.max_pages.load(Relaxed) {
            // The test limit stands for the disk: count free pages in it as free space.
            let used = self.with_db(|db| db.conn.as_ref().and_then(used_pages));
            if used.is_none_or(|used| used + 2 * RESERVE_BYTES / 4096 > max) {
                return;
            }
            let max = i64::try_from(max).unwrap_or(i64::MAX);
            self.with_db(|db| db.conn.as_ref().map(|c| c.pragma_update(None, "max_page_count", max)));
        }
        if self.layout.make_reserve().is_ok() {
            self.full.store(false, Relaxed);
            tracing::info!("the disk has room again");
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    pub(super) fn set_full(&self) {
        self.full.store(true, Relaxed);
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only.load(Relaxed)
    }
}

fn used_pages(conn: &Connection) -> Option<u64> {
    let page = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).ok();
    u64::try_from(page("page_count")? - page("freelist_count")?).ok()
}

/// Runs the work in one transaction; `Err` when none of it was stored.
fn transact(db: &mut Db, works: &[&Work]) -> Result<Vec<StoreResult<i64>>, Fault> {
    let Db { conn, cache, instance_epoch, .. } = db;
    let Some(conn) = conn.as_ref() else { return Err(closed().into()) };
    let result = (|| {
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let current: i64 = conn.prepare_cached("SELECT epoch FROM owner")?.query_row([], |row| row.get(0))?;
        if current != *instance_epoch {
            let text = "another daemon has taken the data directory; restart this one";
            return Err(StoreError::Unavailable(text.to_owned()).into());
        }
        let mut results = Vec::with_capacity(works.len());
        for work in works {
            results.push(match apply(conn, cache, work) {
                Ok(value) => Ok(value),
                Err(Fault::Store(error)) => Err(error),
                Err(fault) => return Err(fault),
            });
        }
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(results)
    })();
    if result.is_err() {
        cache.clear();
        if !conn.is_autocommit()
            && let Err(error) = conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }
    result
}
