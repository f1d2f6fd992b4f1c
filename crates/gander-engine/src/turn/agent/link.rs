//! Running agents, one per session, and the prompts that they work on.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gander_domain::{ErrorDetail, Part, SessionId};
use gander_mcp::Door;
use gander_model::{AgentOpen, AgentPromptEnd, AgentSession};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};

use super::bridge::Bridge;
use crate::services::Services;

/// How long a cancelled agent may go on before its process is ended.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a cancel may take to be written to an agent that does not read.
const CANCEL_WRITE: Duration = Duration::from_millis(100);
/// An agent that has nothing to do for so long is ended; the next turn starts it again.
const IDLE_STOP: Duration = Duration::from_secs(600);

/// What a prompt gives.
type End = Result<AgentPromptEnd, ErrorDetail>;

/// One running agent.
pub(super) struct Link {
    /// Of what it was started with.
    fingerprint: u64,
    pub(super) session: Arc<dyn AgentSession>,
    pub(super) bridge: Arc<Bridge>,
    /// Whether the agent works on a prompt, its turn's or one that was cancelled; counts the prompts.
    busy: watch::Sender<(u64, bool)>,
    /// The user said something while a turn runs.
    pub(super) steered: Notify,
    /// The session's mode is another.
    pub(super) mode_changed: Notify,
    /// To the extensions that the agent was given.
    _door: Option<Door>,
}

/// What an agent is started with: when it differs, the agent has to be started anew.
pub(super) fn fingerprint(provider_id: &str, request: &AgentOpen, offer: Option<u64>) -> u64 {
    let mut hasher = DefaultHasher::new();
    provider_id.hash(&mut hasher);
    offer.hash(&mut hasher);
    request.working_directory.hash(&mut hasher);
    request.additional_directories.hash(&mut hasher);
    request.environment.hash(&mut hasher);
    request.mcp_servers.hash(&mut hasher);
    hasher.finish()
}

impl Link {
    pub(super) fn new(
        fingerprint: u64,
        session: Arc<dyn AgentSession>,
        bridge: Arc<Bridge>,
        door: Option<Door>,
    ) -> Arc<Self> {
        Arc::new(Self {
            fingerprint,
            session,
            bridge,
            busy: watch::Sender::new((0, false)),
            steered: Notify::new(),
            mode_changed: Notify::new(),
            _door: door,
        })
    }

    pub(super) fn agent_session_id(&self) -> &str {
        &self.session.opened().agent_session_id
    }

    /// Whether it lives and was started with the same.
    pub(super) fn fits(&self, fingerprint: u64) -> bool {
        self.session.is_open() && self.fingerprint == fingerprint
    }

    /// Waits for the end of a prompt that was cancelled.
    pub(super) async fn settled(&self) {
        // The sender lives in self.
        let _ = self.busy.subscribe().wait_for(|(_, busy)| !busy).await;
    }

    fn set_busy(&self, busy: bool) {
        self.busy.send_modify(|state| *state = (state.0 + u64::from(busy), busy));
    }

    /// Ends the agent when it has been idle for long.
    async fn stop_when_idle(link: std::sync::Weak<Self>, agents: Arc<AgentLinks>, session_id: SessionId) {
        let mut last = None;
        loop {
            tokio::time::sleep(IDLE_STOP).await;
            let Some(link) = link.upgrade() else { return };
            let now = *link.busy.borrow();
            if !link.session.is_open() {
                return;
            }
            // Whoever has it in hand is about to use it.
            if now.1 || last != Some(now) || !agents.forget_unused(&session_id, &link) {
                last = Some(now);
                continue;
            }
            tracing::info!(%session_id, "the idle agent is stopped");
            link.session.close().await;
            return;
        }
    }
}

/// The running agents of an engine.
#[derive(Default)]
pub(crate) struct AgentLinks {
    links: Mutex<HashMap<SessionId, Arc<Link>>>,
    /// Held while a session's records are read and written again: a turn notes what its agent has seen while a client
    /// chooses a setting.
    pub(super) records: tokio::sync::Mutex<()>,
}

impl AgentLinks {
    fn links(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, session_id: &SessionId) -> Option<Arc<Link>> {
        self.links().get(session_id).cloned()
    }

    pub(super) fn insert(&self, services: &Services, session_id: &SessionId, link: Arc<Link>) -> Arc<Link> {
        self.links().insert(session_id.clone(), link.clone());
        let idle = Link::stop_when_idle(Arc::downgrade(&link), services.agents.clone(), session_id.clone());
        let closing = services.draining.clone();
        services.tasks.spawn(async move {
            tokio::select! {
                () = idle => {}
                () = closing.cancelled() => {}
            }
        });
        link
    }

    /// Takes it out, unless somebody but the caller has it; nobody can get it after that.
    fn forget_unused(&self, session_id: &SessionId, link: &Arc<Link>) -> bool {
        let mut links = self.links();
        let known = links.get(session_id).is_some_and(|known| Arc::ptr_eq(known, link));
        if Arc::strong_count(link) > 1 + usize::from(known) {
            return false;
        }
        if known {
            links.remove(session_id);
        }
        true
    }

    /// The user said something while a turn of this session runs.
    pub(crate) fn steered(&self, session_id: &SessionId) {
        if let Some(link) = self.get(session_id) {
            link.steered.notify_one();
        }
    }

    /// The session's mode is another: an agent that works learns of it at once, others with their next prompt.
    pub(crate) fn mode_changed(&self, session_id: &SessionId) {
        if let Some(link) = self.get(session_id) {
            link.mode_changed.notify_one();
        }
    }

    /// Ends the session's agent, if it has one.
    pub(crate) async fn close(&self, session_id: &SessionId) {
        let link = self.links().remove(session_id);
        if let Some(link) = link {
            link.session.close().await;
        }
    }

    /// The same without waiting: the process ends with its last owner.
    pub(crate) fn abandon(&self, session_id: &SessionId) {
        self.links().remove(session_id);
    }
}

/// A prompt that the agent works on. Dropping it cancels the prompt in the background.
pub(super) struct Running {
    services: Arc<Services>,
    link: Arc<Link>,
    prompt: Option<JoinHandle<End>>,
    /// The agent was told to stop.
    told: bool,
}

impl Running {
    pub(super) fn start(services: Arc<Services>, link: Arc<Link>, parts: Vec<Part>) -> Self {
        link.set_busy(true);
        let prompt = services.tasks.spawn(link.session.prompt(parts));
        Self { services, link, prompt: Some(prompt), told: false }
    }

    /// Waits for the end.
    pub(super) async fn end(&mut self) -> End {
        let Some(prompt) = &mut self.prompt else {
            return Err(ErrorDetail::internal("the prompt has ended before"));
        };
        let end = prompt.await;
        self.prompt = None;
        self.link.set_busy(false);
        end.unwrap_or_else(|error| Err(ErrorDetail::internal(format!("the prompt's task failed: {error}"))))
    }

    /// Tells the agent to stop and waits a moment; what it takes longer it does in the background.
    pub(super) async fn cancel(&mut self, wait: Duration) {
        self.told = timeout(CANCEL_WRITE, self.link.session.cancel()).await.is_ok();
        let ended = timeout(wait, self.end()).await;
        self.link.bridge.cut().await;
        if let Ok(end) = ended {
            note_usage(&self.link, &end).await;
            self.link.bridge.unmute().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(prompt) = self.prompt.take() else { return };
        let (link, told) = (self.link.clone(), self.told);
        self.services.tasks.spawn(async move {
            if !told {
                let _ = timeout(PATIENCE, link.session.cancel()).await;
            }
            link.bridge.cut().await;
            match timeout(PATIENCE, prompt).await {
                Ok(Ok(end)) => note_usage(&link, &end).await,
                Ok(Err(_)) => {}
                Err(_) => {
                    tracing::warn!("the agent did not stop after a cancel; its process is ended");
                    link.session.close().await;
                }
            }
            link.bridge.unmute().await;
            link.set_busy(false);
        });
    }
}

/// What a prompt that was cut has used counts for the session.
async fn note_usage(link: &Link, end: &End) {
    if let Ok(AgentPromptEnd { usage: Some(usage), .. }) = end {
        link.bridge.report_usage(None, *usage).await;
    }
}
