//! Handles: how everyone else talks to a session actor.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use gander_domain::{
    ErrorDetail, Payload, Sequence, Session, SessionId, TurnId, permission::PermissionRule, turn::TurnOutcome,
};
use gander_mcp::SessionExtensions;
use gander_store::NewContent;
use tokio::sync::{mpsc, oneshot};

use super::core::{Committed, Core};
use crate::feed::Feed;

/// Called with the outcome of the commit that the edit was part of.
pub(super) type Completion = Box<dyn FnOnce(Result<(), ErrorDetail>) + Send>;
/// A change or a question, run by the actor.
pub(super) type Edit = Box<dyn FnOnce(&mut Core) -> Completion + Send>;

/// Events of a running turn, or of no turn.
pub(super) struct Emission {
    pub(super) turn_id: Option<TurnId>,
    pub(super) payloads: Vec<Payload>,
    pub(super) contents: Vec<NewContent>,
}

/// What an actor is told. Kept small: every session's mailbox has room for a block of them.
pub(super) enum Command {
    Edit(Edit),
    Emit(Box<Emission>),
    TurnDone(Box<(TurnId, TurnOutcome)>),
    /// Ends the actor if the session is not live; answers whether it did.
    Unload {
        force: bool,
        done: oneshot::Sender<bool>,
    },
}

/// The actor has ended; the session may be loaded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// Cheap to clone; keeps nothing alive but the mailbox.
#[derive(Clone)]
pub(crate) struct SessionHandle {
    pub(super) mailbox: mpsc::Sender<Command>,
    pub(super) shared: Arc<Shared>,
}

/// What can be read without asking the actor.
pub(super) struct Shared {
    pub(super) feed: Arc<Feed>,
    /// As of the last commit.
    pub(super) summary: Mutex<Arc<Session>>,
    /// Whether the session must not be unloaded, and since when it has been idle.
    pub(super) live: Mutex<Liveness>,
    /// The session's extensions while they are active.
    pub(super) extensions: Mutex<Option<Arc<SessionExtensions>>>,
    /// Rules that answers created for the rest of the session, as of the last commit.
    pub(super) rules: Mutex<Arc<[PermissionRule]>>,
    /// Direct calls (`CallTool`) in flight.
    pub(super) direct_calls: AtomicUsize,
    /// What the attached host can do with files and commands.
    pub(super) host_shown: super::host::HostShown,
}

impl Shared {
    pub(super) fn new(feed: Arc<Feed>, session: &Session) -> Self {
        Self {
            feed,
            summary: Mutex::new(Arc::new(session.clone())),
            live: Mutex::new(Liveness { live: true, since: Instant::now() }),
            extensions: Mutex::default(),
            rules: Mutex::new(Arc::from([])),
            direct_calls: AtomicUsize::new(0),
            host_shown: super::host::HostShown::default(),
        }
    }
}

/// Keeps the session loaded while a direct call runs.
pub(crate) struct CallGuard(Arc<Shared>);

impl Drop for CallGuard {
    fn drop(&mut self) {
        lock(&self.0.live).since = Instant::now();
        self.0.direct_calls.fetch_sub(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is replaced as a whole and always usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Liveness {
    pub(super) live: bool,
    pub(super) since: Instant,
}

impl SessionHandle {
    pub(crate) fn session_id(&self) -> &SessionId {
        &self.shared.feed.session_id
    }

    /// The session as of the last commit.
    pub(crate) fn summary(&self) -> Session {
        let mut session = (**lock(&self.shared.summary)).clone();
        session.last_sequence = session.last_sequence.max(self.shared.feed.state().last_sequence);
        session
    }

    /// For how long the session has had nothing to do; `None` while it is live.
    pub(crate) fn idle_for(&self) -> Option<std::time::Duration> {
        let live = *lock(&self.shared.live);
        let idle = !live.live && self.shared.direct_calls.load(Ordering::Acquire) == 0;
        idle.then(|| live.since.elapsed())
    }

    /// The session's extensions, if they are active.
    pub(crate) fn extensions(&self) -> Option<Arc<SessionExtensions>> {
        lock(&self.shared.extensions).clone()
    }

    /// Rules of the session, as of the last commit.
    pub(crate) fn rules(&self) -> Arc<[PermissionRule]> {
        lock(&self.shared.rules).clone()
    }

    /// Notes that a direct call runs.
    pub(crate) fn begin_call(&self) -> CallGuard {
        self.shared.direct_calls.fetch_add(1, Ordering::AcqRel);
        CallGuard(self.shared.clone())
    }

    /// Whether the actor still takes commands.
    pub(crate) fn is_open(&self) -> bool {
        !self.mailbox.is_closed()
    }

    /// Runs `edit` in the actor. The answer comes after the commit; its sequence is that of the last event then.
    ///
    /// An edit that returns an error must not have emitted anything.
    pub(crate) async fn edit<T: Send + 'static>(
        &self,
        edit: impl FnOnce(&mut Core) -> Result<T, ErrorDetail> + Send + 'static,
    ) -> Result<Result<Committed<T>, ErrorDetail>, Gone> {
        let (reply, answer) = oneshot::channel();
        let edit: Edit = Box::new(move |core| {
            let result = edit(core);
            let sequence: Sequence = core.state.last_sequence();
            Box::new(move |committed| {
                let answer = match committed {
                    Ok(()) => result.map(|value| Committed { value, sequence }),
                    Err(error) => Err(error),
                };
                // The caller may have gone; its effect stands all the same.
                let _ = reply.send(answer);
            })
        });
        self.mailbox.send(Command::Edit(edit)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Runs `edit` in the actor, without waiting for it or for its commit.
    pub(crate) async fn post(&self, edit: impl FnOnce(&mut Core) + Send + 'static) -> Result<(), Gone> {
        let edit: Edit = Box::new(move |core| {
            edit(core);
            Box::new(|_| {})
        });
        self.mailbox.send(Command::Edit(edit)).await.map_err(|_| Gone)
    }

    /// Appends events of a running turn, without waiting for the commit.
    pub(crate) async fn emit(
        &self,
        turn_id: Option<TurnId>,
        payloads: Vec<Payload>,
        contents: Vec<NewContent>,
    ) -> Result<(), Gone> {
        if payloads.is_empty() {
            return Ok(());
        }
        self.mailbox
            .send(Command::Emit(Box::new(Emission { turn_id, payloads, contents })))
            .await
            .map_err(|_| Gone)
    }

    pub(crate) async fn turn_done(&self, turn_id: TurnId, outcome: TurnOutcome) {
        let _ = self.mailbox.send(Command::TurnDone(Box::new((turn_id, outcome)))).await;
    }

    /// Asks the actor to end; `true` when it has, or had before.
    pub(crate) async fn unload(&self, force: bool) -> bool {
        let (done, answer) = oneshot::channel();
        if self.mailbox.send(Command::Unload { force, done }).await.is_err() {
            return true;
        }
        answer.await.unwrap_or(true)
    }
}
