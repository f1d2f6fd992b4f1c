//! Live sessions: loading on first use, unloading when idle, one actor per session at any time.

use std::{
    collections::hash_map::Entry,
    sync::{Arc, PoisonError},
};

use gander_domain::{ErrorDetail, Session, SessionId, SessionState};
use tokio::sync::RwLock;

use super::Engine;
use crate::{
    feed::Feed,
    services::{Change, store_error},
    session::{Committed, Core, RuleEdits, SessionHandle, SpawnSession, gone, spawn},
};

/// Readers use the actor, a writer loads or unloads it: so nobody sends to an actor that is about to end.
pub(super) type Slot = Arc<RwLock<Option<SessionHandle>>>;

/// Events read at once while loading.
const LOAD_PAGE: usize = 4096;
const LOAD_PAGE_BYTES: usize = 8 << 20;

impl Engine {
    pub(super) fn slot(&self, session_id: &SessionId) -> Slot {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.entry(session_id.clone()).or_default().clone()
    }

    /// All live sessions.
    pub(super) fn live_slots(&self) -> Vec<(SessionId, Slot)> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().map(|(id, slot)| (id.clone(), slot.clone())).collect()
    }

    /// Forgets slots that nobody uses.
    pub(super) fn prune(&self) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_read().map_or(true, |handle| handle.is_some())
        });
        drop(sessions);
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.retain(|_, feed| feed.strong_count() > 0);
    }

    /// The actor of a session if it is loaded.
    pub(super) async fn loaded(&self, session_id: &SessionId) -> Option<SessionHandle> {
        let slot = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(session_id).cloned()?;
        let guard = slot.read().await;
        guard.as_ref().filter(|h| h.is_open()).cloned()
    }

    /// Runs `edit` in the session's actor, loading the session first if need be.
    pub(super) async fn edit<T: Send + 'static>(
        &self,
        session_id: &SessionId,
        edit: impl FnOnce(&mut Core) -> Result<T, ErrorDetail> + Send + 'static,
    ) -> Result<Committed<T>, ErrorDetail> {
        let slot = self.slot(session_id);
        loop {
            let guard = slot.read().await;
            if let Some(handle) = guard.as_ref().filter(|h| h.is_open()) {
                return handle.edit(edit).await.unwrap_or_else(|_| Err(gone()));
            }
            drop(guard);
            let mut guard = slot.write().await;
            if guard.as_ref().is_none_or(|h| !h.is_open()) {
                *guard = Some(self.load(session_id).await?);
            }
        }
    }

    /// The session's actor, loaded if need be.
    pub(super) async fn handle(&self, session_id: &SessionId) -> Result<SessionHandle, ErrorDetail> {
        let slot = self.slot(session_id);
        let mut guard = slot.write().await;
        if let Some(handle) = guard.as_ref().filter(|h| h.is_open()) {
            return Ok(handle.clone());
        }
        let handle = self.load(session_id).await?;
        *guard = Some(handle.clone());
        Ok(handle)
    }

    /// Reads the log and starts the actor; the caller holds the slot.
    async fn load(&self, session_id: &SessionId) -> Result<SessionHandle, ErrorDetail> {
        let store = &self.services.store;
        // Taking the session first fences an earlier owner: what is read then cannot change any more.
        let epoch = store.open_session(session_id).await.map_err(|e| store_error(&e))?;
        let state = self.fold(session_id).await?;
        let feed = self.feed(session_id).await?;
        let rule_edits = self.services.rule_edits(session_id).await?;
        let services = self.services.clone();
        let start = SpawnSession { services, state, feed, epoch, recover: true, rule_edits };
        let handle = spawn(start);
        // The actor closes what a stopped daemon left open before it answers anything.
        match handle.edit(|_| Ok(())).await {
            Ok(Ok(_)) => Ok(handle),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(gone()),
        }
    }

    /// Starts the actor of a session that was just created.
    pub(super) fn adopt(&self, state: SessionState, epoch: i64) -> SessionHandle {
        let session_id = state.session.session_id.clone();
        self.services.announce(Change::Session(session_id.clone()));
        let feed = Feed::new(session_id.clone(), state.last_sequence());
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner).insert(session_id, Arc::downgrade(&feed));
        let (services, rule_edits) = (self.services.clone(), RuleEdits::new());
        spawn(SpawnSession { services, state, feed, epoch, recover: false, rule_edits })
    }

    /// Folds a session's log without loading it.
    pub(super) async fn fold(&self, session_id: &SessionId) -> Result<SessionState, ErrorDetail> {
        let mut state: Option<SessionState> = None;
        let mut after = 0;
        loop {
            let page = self
                .services
                .store
                .read_events(session_id, after, LOAD_PAGE, LOAD_PAGE_BYTES)
                .await
                .map_err(|e| store_error(&e))?;
            for event in &page.events {
                match &mut state {
                    Some(state) => state.apply(event),
                    None => state = SessionState::from_first(event),
                }
                after = event.sequence;
            }
            if page.events.is_empty() || after >= page.last_sequence {
                break;
            }
        }
        state.ok_or_else(|| {
            ErrorDetail::new(
                gander_domain::ErrorReason::StoreCorrupt,
                format!(
                    "the log of session {session_id} does not start with its creation; run `gander doctor`"
                ),
            )
        })
    }

    /// The feed of a session, shared by its actor and all watchers.
    pub(super) async fn feed(&self, session_id: &SessionId) -> Result<Arc<Feed>, ErrorDetail> {
        if let Some(feed) = self.known_feed(session_id) {
            return Ok(feed);
        }
        let bounds = self.services.store.log_bounds(session_id).await.map_err(|e| store_error(&e))?;
        let feed = {
            let fresh = Feed::new(session_id.clone(), bounds.last_sequence);
            let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
            match feeds.entry(session_id.clone()) {
                Entry::Occupied(mut known) => {
                    match known.get().upgrade().filter(|f| f.state().closed.is_none()) {
                        Some(feed) => return Ok(feed),
                        None => known.insert(Arc::downgrade(&fresh)),
                    };
                }
                Entry::Vacant(vacant) => {
                    vacant.insert(Arc::downgrade(&fresh));
                }
            }
            fresh
        };
        // An actor may have appended between the look and the insertion.
        let bounds = self.services.store.log_bounds(session_id).await.map_err(|e| store_error(&e))?;
        feed.advance(bounds.last_sequence);
        Ok(feed)
    }

    fn known_feed(&self, session_id: &SessionId) -> Option<Arc<Feed>> {
        let feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.get(session_id)?.upgrade().filter(|f| f.state().closed.is_none())
    }

    /// Unloads a session unless it is live (or `force`). `true`: it is not loaded afterwards.
    pub(super) async fn unload(&self, session_id: &SessionId, force: bool) -> bool {
        let slot = self.slot(session_id);
        let mut guard = slot.write().await;
        let Some(handle) = guard.as_ref() else { return true };
        let unloaded = handle.unload(force).await;
        if unloaded {
            *guard = None;
        }
        unloaded
    }

    /// The session as clients see it, live or stored.
    pub(super) async fn session(&self, session_id: &SessionId) -> Result<Session, ErrorDetail> {
        if let Some(handle) = self.loaded(session_id).await {
            return Ok(handle.summary());
        }
        let mut session = self.services.store.get_session(session_id).await.map_err(|e| store_error(&e))?;
        let bounds = self.services.store.log_bounds(session_id).await.map_err(|e| store_error(&e))?;
        session.last_sequence = bounds.last_sequence;
        session.oldest_sequence = bounds.oldest_sequence;
        Ok(session)
    }

    pub(super) fn is_loaded(&self, session_id: &SessionId) -> bool {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(session_id).is_some_and(|slot| {
            slot.try_read().map_or(true, |h| h.as_ref().is_some_and(SessionHandle::is_open))
        })
    }
}
