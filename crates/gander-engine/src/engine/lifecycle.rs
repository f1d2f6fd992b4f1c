//! The engine's own life: recovery at start, upkeep, drain.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::StreamExt;
use gander_domain::{
    ErrorDetail, HostCallId, SessionId,
    check::LogChecker,
    host::{HostCallOutcome, HostCapabilities},
    turn::InterruptCause,
};
use gander_mcp::CallProgress;
use tokio_util::sync::CancellationToken;

use super::{Engine, EngineParts};
use crate::{
    services::{Change, Services, store_error},
    session::{HostAttachment, SessionHandle, host_call_not_found},
};

/// Sessions recovered at once.
const RECOVER_AT_ONCE: usize = 8;

/// Facts about the running engine.
#[derive(Debug, Clone, Default)]
pub struct EngineInfo {
    pub uptime: Duration,
    pub draining: bool,
    pub loaded_sessions: usize,
    pub active_turns: usize,
}

/// One finding, or the summary at the end.
#[derive(Debug, Clone)]
pub struct StoreCheck {
    pub findings: Vec<(Option<SessionId>, i64, String, String)>,
    pub sessions: u64,
    pub events: u64,
}

impl Engine {
    /// Starts the engine: sessions that a stopped daemon left open are closed before this returns.
    pub async fn start(parts: EngineParts) -> Result<Arc<Self>, ErrorDetail> {
        let services = Services::new(
            parts.store,
            parts.source,
            parts.models,
            parts.mcp,
            parts.config,
            parts.options,
            parts.spill_dir.clone(),
        );
        let engine = Arc::new(Self {
            services,
            sessions: Mutex::new(HashMap::new()),
            feeds: Mutex::new(HashMap::new()),
            key_locks: super::idempotency::KeyLocks::default(),
            snapshots: super::history::Snapshots::default(),
            closing: CancellationToken::new(),
            spill_dir: parts.spill_dir,
            denied_paths: parts.denied_paths,
            tool_environment: parts.tool_environment,
            started: Instant::now(),
        });
        // Nobody else has seen these services yet.
        let _ = engine.services.engine.set(Arc::downgrade(&engine));
        engine.recover().await?;
        engine.services.tasks.spawn(super::context::follow_config(&engine));
        if engine.services.options.run_schedules {
            engine.watch_the_clock();
        }
        let upkeep = Arc::downgrade(&engine);
        let closing = engine.closing.clone();
        engine.services.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(30)) => {}
                    () = closing.cancelled() => return,
                }
                let Some(engine) = upkeep.upgrade() else { return };
                engine.upkeep().await;
            }
        });
        Ok(engine)
    }

    async fn recover(&self) -> Result<(), ErrorDetail> {
        let open = self.services.store.unfinished_sessions().await.map_err(|e| store_error(&e))?;
        if open.is_empty() {
            return Ok(());
        }
        tracing::info!(sessions = open.len(), "closing what a stopped daemon left open");
        futures::stream::iter(open)
            .for_each_concurrent(RECOVER_AT_ONCE, |session_id| async move {
                // One damaged session must not keep the others from being served.
                if let Err(error) = self.handle(&session_id).await {
                    tracing::error!(%session_id, %error, "the session could not be recovered");
                }
            })
            .await;
        Ok(())
    }

    async fn upkeep(&self) {
        for (session_id, slot) in self.live_slots() {
            let idle = slot.try_read().ok().and_then(|g| g.as_ref().and_then(SessionHandle::idle_for));
            if idle.is_some_and(|idle| idle >= self.services.options.idle_unload) {
                self.unload(&session_id, false).await;
            }
        }
        self.prune();
        let config = self.services.config.clone();
        let _ = tokio::task::spawn_blocking(move || config.refresh()).await;
        let retention =
            i64::try_from(self.services.options.idempotency_retention.as_micros()).unwrap_or(i64::MAX);
        let before = gander_domain::Timestamp(self.services.source.now().0.saturating_sub(retention));
        if let Err(error) = self.services.store.expire_idempotency(before).await {
            tracing::warn!(%error, "old idempotency keys could not be removed");
        }
    }

    /// Facts about the engine.
    pub async fn info(&self) -> EngineInfo {
        let mut info = EngineInfo {
            uptime: self.started.elapsed(),
            draining: self.services.draining.is_cancelled(),
            ..EngineInfo::default()
        };
        for (_, slot) in self.live_slots() {
            let guard = slot.read().await;
            if let Some(handle) = guard.as_ref().filter(|h| h.is_open()) {
                info.loaded_sessions += 1;
                info.active_turns += usize::from(handle.summary().active_turn_id.is_some());
            }
        }
        info
    }

    /// Whether nothing is running, asked or attached.
    pub async fn is_idle(&self) -> bool {
        for (_, slot) in self.live_slots() {
            let guard = slot.read().await;
            if guard.as_ref().is_some_and(|h| h.is_open() && h.idle_for().is_none()) {
                return false;
            }
        }
        true
    }

    /// Hints about changes from now on.
    pub fn changes(&self) -> tokio::sync::broadcast::Receiver<Change> {
        self.services.changes()
    }

    /// Cancelled when streams are to end.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Cancelled when no new work is taken.
    pub fn draining(&self) -> CancellationToken {
        self.services.draining.clone()
    }

    /// Stops the work: no new turns; running ones may finish within `grace` and are then interrupted; streams are told
    /// to end; extensions stop. Finishes within `grace` plus about five seconds. [`Engine::close`] comes last, when no
    /// stream reads the store any more.
    pub async fn drain(&self, grace: Duration) {
        self.services.draining.cancel();
        let until = tokio::time::Instant::now() + grace;
        while tokio::time::Instant::now() < until && self.info().await.active_turns > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (_, slot) in self.live_slots() {
            let guard = slot.read().await;
            if let Some(handle) = guard.as_ref() {
                let interrupted = handle.edit(|core| {
                    core.interrupt(InterruptCause::Drain);
                    Ok(())
                });
                let _ = tokio::time::timeout(Duration::from_secs(1), interrupted).await;
            }
        }
        let until =
            tokio::time::Instant::now() + self.services.options.cancel_grace + Duration::from_millis(300);
        while tokio::time::Instant::now() < until && self.info().await.active_turns > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.closing.cancel();
        let unloads =
            self.live_slots().into_iter().map(|(id, _)| async move { self.unload(&id, true).await });
        let _ = tokio::time::timeout(Duration::from_secs(4), futures::future::join_all(unloads)).await;
    }

    /// Closes the store.
    pub async fn close(&self) {
        self.services.tasks.close();
        if let Err(error) = self.services.store.close(Duration::from_secs(3)).await {
            tracing::warn!(%error, "the store did not close cleanly");
        }
    }

    /// Checks the database and every log in it.
    pub async fn check_store(&self, only: Option<&SessionId>) -> Result<StoreCheck, ErrorDetail> {
        let store = &self.services.store;
        let mut check = StoreCheck { findings: Vec::new(), sessions: 0, events: 0 };
        if only.is_none() {
            for finding in store.check().await.map_err(|e| store_error(&e))? {
                check.findings.push((finding.session_id, 0, "database".to_owned(), finding.text));
            }
        }
        let ids = match only {
            Some(id) => vec![id.clone()],
            None => store.session_ids().await.map_err(|e| store_error(&e))?,
        };
        for session_id in ids {
            check.sessions += 1;
            let mut checker = LogChecker::default();
            let mut after = 0;
            let through = store.log_bounds(&session_id).await.map_err(|e| store_error(&e))?.last_sequence;
            while after < through {
                let read = store.read_events(&session_id, after, 4096, 8 << 20).await;
                let page = read.map_err(|e| store_error(&e))?;
                for event in page.events.iter().filter(|e| e.sequence <= through) {
                    checker.push(event);
                    check.events += 1;
                }
                match page.events.last() {
                    Some(event) => after = event.sequence,
                    None => break,
                }
            }
            // A session that is live may have work open; one that is not must be at rest.
            let at_rest = self.loaded(&session_id).await.is_none_or(|h| h.idle_for().is_some());
            for finding in checker.finish(at_rest) {
                check.findings.push((
                    Some(session_id.clone()),
                    finding.sequence,
                    finding.rule.to_owned(),
                    finding.text,
                ));
            }
        }
        Ok(check)
    }

    /// Attaches a host to a session.
    pub async fn attach_host(
        &self,
        session_id: &SessionId,
        capabilities: HostCapabilities,
    ) -> Result<HostAttachment, ErrorDetail> {
        self.refuse_when_draining()?;
        Ok(self.edit(session_id, move |core| core.attach_host(capabilities)).await?.value)
    }

    /// Takes a host's answer.
    pub async fn complete_host_call(
        &self,
        host_call_id: &HostCallId,
        outcome: HostCallOutcome,
    ) -> Result<(), ErrorDetail> {
        let owner = self.host_call_session(host_call_id)?;
        let id = host_call_id.clone();
        self.edit(&owner, move |core| core.complete_host_call(&id, outcome)).await.map(|_| ())
    }

    /// Takes a host's progress report on an open call.
    pub async fn report_host_progress(
        &self,
        host_call_id: &HostCallId,
        progress: CallProgress,
    ) -> Result<(), ErrorDetail> {
        let owner = self.host_call_session(host_call_id)?;
        let id = host_call_id.clone();
        self.edit(&owner, move |core| core.report_host_progress(&id, progress)).await.map(|_| ())
    }

    fn host_call_session(&self, host_call_id: &HostCallId) -> Result<SessionId, ErrorDetail> {
        self.services.session_of_host_call(host_call_id).ok_or_else(|| host_call_not_found(host_call_id))
    }
}
