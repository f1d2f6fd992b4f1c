//! What all parts of the engine share.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gander_config::ConfigHandle;
use gander_domain::{
    ErrorDetail, ErrorReason, HostCallId, Interaction, InteractionId, SessionId, SessionState,
    permission::{PermissionRule, RememberScope, RuleDecision},
    session::{Mode, ModelSelection},
};
use gander_mcp::McpHost;
use gander_store::{Store, StoreError};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    models::{Models, ResolvedModel},
    source::Source,
    turn::AgentLinks,
};

/// Bounds and pauses of the engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// How long a cancelled turn's task may take before it is ended for it.
    pub cancel_grace: Duration,
    /// How long superseded deltas stay in the log after their turn's end.
    pub delta_retention: Duration,
    /// Idle sessions are unloaded after this.
    pub idle_unload: Duration,
    /// How long extensions may take to stop.
    pub extension_stop_timeout: Duration,
    /// How long a permission question stays open.
    pub permission_expiry: Duration,
    /// Tool calls of one model response that run at once.
    pub parallel_tools: usize,
    /// Model calls of one turn, where neither request nor configuration says otherwise.
    pub max_model_calls: u32,
    /// How long idempotency keys are remembered.
    pub idempotency_retention: Duration,
    /// Whether due schedules run by themselves. Only a daemon that stays should say yes.
    pub run_schedules: bool,
    /// Pause before the first repetition of a failed model call, at most twice this; it doubles each time.
    pub retry_base: Duration,
    /// Whether models name sessions; the configuration can switch it off.
    pub generate_titles: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            cancel_grace: Duration::from_millis(800),
            delta_retention: Duration::from_secs(600),
            idle_unload: Duration::from_secs(900),
            extension_stop_timeout: Duration::from_secs(3),
            permission_expiry: Duration::from_secs(24 * 3600),
            parallel_tools: 8,
            max_model_calls: 1000,
            idempotency_retention: Duration::from_secs(24 * 3600),
            run_schedules: false,
            retry_base: Duration::from_millis(500),
            generate_titles: false,
        }
    }
}

/// A hint that something changed; the reader fetches it anew. Hints may be lost by slow readers, who then fetch all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A session was created, changed or deleted.
    Session(SessionId),
    /// A session asked something, or a question was resolved.
    Interactions(SessionId),
    /// A stored recipe or its command changed.
    Recipes,
    /// A schedule changed, or a run of it began or ended.
    Schedules,
}

/// Hints kept for slow readers.
const CHANGES: usize = 256;

/// Store, clock, models, extensions, configuration: handed to every actor and turn.
pub(crate) struct Services {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) models: Arc<dyn Models>,
    pub(crate) mcp: Arc<McpHost>,
    pub(crate) config: ConfigHandle,
    pub(crate) options: EngineOptions,
    pub(crate) tasks: TaskTracker,
    pub(crate) recipes: crate::recipes::RecipeLibrary,
    pub(crate) schedules: crate::schedules::Schedules,
    /// The engine itself, once it has started: turns make sessions of their own through it.
    pub(crate) engine: std::sync::OnceLock<std::sync::Weak<crate::engine::Engine>>,
    /// No new turns are started once it is cancelled.
    pub(crate) draining: CancellationToken,
    /// Wakes the registry's sweep when an actor lost its store.
    pub(crate) sessions_lost: Notify,
    /// Running agents.
    pub(crate) agents: Arc<AgentLinks>,
    /// Where sessions keep files: one folder each.
    pub(crate) spill_dir: PathBuf,
    /// Held while the rules beside a log are changed.
    pub(crate) rules_lock: tokio::sync::Mutex<()>,
    /// Held while what a session has chosen is read and written again.
    pub(crate) selection_lock: tokio::sync::Mutex<()>,
    changes: tokio::sync::broadcast::Sender<Change>,
    numbers: AtomicU64,
    interactions: Mutex<InteractionIndex>,
    pins_lock: Mutex<()>,
    /// Open host calls and whose they are.
    host_calls: Mutex<std::collections::HashMap<HostCallId, SessionId>>,
}

/// Which session asked what; covers live sessions, which is where pending questions are.
#[derive(Default)]
struct InteractionIndex {
    pending: BTreeMap<InteractionId, (SessionId, Interaction)>,
    /// Sessions of resolved ones, oldest first, so that late answers get the right error.
    resolved: std::collections::VecDeque<(InteractionId, SessionId)>,
}

const MAX_RESOLVED: usize = 4096;

impl Services {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        source: Arc<dyn Source>,
        models: Arc<dyn Models>,
        mcp: Arc<McpHost>,
        config: ConfigHandle,
        options: EngineOptions,
        spill_dir: PathBuf,
    ) -> Arc<Self> {
        let recipes = crate::recipes::RecipeLibrary::new(config.clone());
        let schedules = crate::schedules::Schedules::new(config.paths());
        Arc::new(Self {
            store,
            source,
            models,
            mcp,
            config,
            options,
            tasks: TaskTracker::new(),
            recipes,
            schedules,
            engine: std::sync::OnceLock::new(),
            draining: CancellationToken::new(),
            sessions_lost: Notify::new(),
            agents: Arc::default(),
            spill_dir,
            rules_lock: tokio::sync::Mutex::default(),
            selection_lock: tokio::sync::Mutex::default(),
            changes: tokio::sync::broadcast::Sender::new(CHANGES),
            numbers: AtomicU64::new(1),
            interactions: Mutex::default(),
            pins_lock: Mutex::default(),
            host_calls: Mutex::default(),
        })
    }

    /// The engine, while it lives.
    pub(crate) fn engine(&self) -> Option<Arc<crate::engine::Engine>> {
        self.engine.get()?.upgrade()
    }

    /// The model for a turn. What may have to wait for a server does so beside the async tasks.
    pub(crate) async fn resolve_model(
        &self,
        wanted: Option<&ModelSelection>,
        demo_allowed: bool,
    ) -> Result<ResolvedModel, ErrorDetail> {
        if !self.models.may_wait(wanted) {
            return self.models.resolve(wanted, demo_allowed);
        }
        let (models, wanted) = (Arc::clone(&self.models), wanted.cloned());
        let found = tokio::task::spawn_blocking(move || models.resolve(wanted.as_ref(), demo_allowed)).await;
        found.unwrap_or_else(|e| Err(ErrorDetail::internal(format!("the search for a model failed: {e}"))))
    }

    /// Tells those who listen. That nobody does is no error.
    pub(crate) fn announce(&self, change: Change) {
        let _ = self.changes.send(change);
    }

    pub(crate) fn changes(&self) -> tokio::sync::broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// A number that is unique in this daemon.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes over what a session has open.
    pub(crate) fn index_interactions(&self, session_id: &SessionId, state: &SessionState) {
        let mut guard = self.interactions.lock().unwrap_or_else(PoisonError::into_inner);
        let index = &mut *guard;
        if state.session.pending_interaction_count == 0
            && !index.pending.values().any(|(owner, _)| owner == session_id)
        {
            return;
        }
        self.announce(Change::Interactions(session_id.clone()));
        let now: BTreeMap<_, _> = state
            .pending_interactions(None)
            .into_iter()
            .map(|i| (i.interaction_id.clone(), (session_id.clone(), i.clone())))
            .collect();
        let gone: Vec<_> = index
            .pending
            .iter()
            .filter(|(id, (owner, _))| owner == session_id && !now.contains_key(*id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            index.pending.remove(&id);
            index.resolved.push_back((id, session_id.clone()));
        }
        let excess = index.resolved.len().saturating_sub(MAX_RESOLVED);
        index.resolved.drain(..excess);
        index.pending.extend(now);
    }

    /// The session that asked.
    pub(crate) fn session_of_interaction(&self, id: &InteractionId) -> Option<SessionId> {
        let index = self.interactions.lock().unwrap_or_else(PoisonError::into_inner);
        match index.pending.get(id) {
            Some((session, _)) => Some(session.clone()),
            None => index.resolved.iter().find(|(known, _)| known == id).map(|(_, session)| session.clone()),
        }
    }

    /// Open questions of all sessions.
    pub(crate) fn pending_interactions(&self) -> Vec<(SessionId, Interaction)> {
        self.interactions.lock().unwrap_or_else(PoisonError::into_inner).pending.values().cloned().collect()
    }

    /// Forgets a deleted session.
    pub(crate) fn forget_session(&self, session_id: &SessionId) {
        let mut index = self.interactions.lock().unwrap_or_else(PoisonError::into_inner);
        index.pending.retain(|_, (owner, _)| owner != session_id);
        index.resolved.retain(|(_, owner)| owner != session_id);
    }

    pub(crate) fn note_host_call(&self, id: &HostCallId, session_id: &SessionId) {
        let mut calls = self.host_calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.insert(id.clone(), session_id.clone());
    }

    pub(crate) fn forget_host_call(&self, id: &HostCallId) {
        self.host_calls.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn session_of_host_call(&self, id: &HostCallId) -> Option<SessionId> {
        self.host_calls.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// The mode of a session that sets none.
    pub(crate) fn configured_mode(&self) -> Mode {
        let value = self.config.current().get_string("GOOSE_MODE").ok().flatten();
        value.as_deref().and_then(Mode::parse).unwrap_or_default()
    }

    /// The user's permission rules.
    pub(crate) fn user_rules(&self) -> Vec<PermissionRule> {
        self.config.rules().into_iter().map(|(p, d)| domain_rule(p, d, RememberScope::User)).collect()
    }

    /// The user's rules for the projects that a directory lies in, the nearest first.
    pub(crate) fn project_rules(&self, working_directory: &str) -> Vec<PermissionRule> {
        let mut of: Vec<_> = self
            .config
            .project_rules()
            .into_iter()
            .filter(|(directory, _)| std::path::Path::new(working_directory).starts_with(directory))
            .collect();
        of.sort_by_key(|(directory, _)| std::cmp::Reverse(directory.len()));
        of.into_iter()
            .flat_map(|(_, rules)| rules)
            .map(|(p, d)| domain_rule(p, d, RememberScope::Project))
            .collect()
    }

    /// Writes a rule that an answer created, for a project or for all. A failure is logged: the answer itself stands.
    pub(crate) fn remember_rule(&self, rule: &PermissionRule, project: Option<&str>) {
        let (config, pattern) = (self.config.clone(), rule.tool_pattern.clone());
        let (decision, project) = (config_decision(rule.decision), project.map(str::to_owned));
        self.tasks.spawn_blocking(move || {
            let stored = match &project {
                Some(directory) => config.set_project_rule(directory, &pattern, Some(decision)),
                None => config.set_rule(&pattern, Some(decision)),
            };
            if let Err(error) = stored {
                tracing::warn!(%error, %pattern, "the permission rule could not be stored");
            }
        });
    }

    /// Approved tool definitions of an extension.
    pub(crate) fn pins(&self, extension: &str) -> BTreeMap<String, String> {
        self.read_pins().remove(extension).unwrap_or_default()
    }

    /// Keeps approved tool definitions. Pins are per user, like the configuration they belong to.
    pub(crate) fn set_pins(&self, extension: &str, definitions: BTreeMap<String, String>) {
        let _one_writer = self.pins_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pins = self.read_pins();
        pins.insert(extension.to_owned(), definitions);
        let path = self.pins_file();
        let beside = path.with_extension("new");
        let written = serde_json::to_vec_pretty(&pins)
            .map_err(std::io::Error::other)
            .and_then(|bytes| std::fs::write(&beside, bytes))
            .and_then(|()| std::fs::rename(&beside, &path));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "approved tool definitions could not be stored");
        }
    }

    fn pins_file(&self) -> std::path::PathBuf {
        self.config.paths().data_dir().join("tool-pins.json")
    }

    fn read_pins(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let bytes = std::fs::read(self.pins_file()).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Model calls of one turn where the request says nothing.
    pub(crate) fn max_model_calls(&self) -> u32 {
        let configured = self.config.current().get_u64("GOOSE_MAX_TURNS").ok().flatten();
        configured
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n > 0)
            .unwrap_or(self.options.max_model_calls)
    }
}

pub(crate) fn domain_rule(
    tool_pattern: String,
    decision: gander_config::RuleDecision,
    scope: RememberScope,
) -> PermissionRule {
    let decision = match decision {
        gander_config::RuleDecision::AlwaysAllow => RuleDecision::AlwaysAllow,
        gander_config::RuleDecision::AskBefore => RuleDecision::Ask,
        gander_config::RuleDecision::NeverAllow => RuleDecision::NeverAllow,
    };
    PermissionRule { tool_pattern, decision, scope }
}

pub(crate) fn config_decision(decision: RuleDecision) -> gander_config::RuleDecision {
    match decision {
        RuleDecision::AlwaysAllow => gander_config::RuleDecision::AlwaysAllow,
        RuleDecision::Ask => gander_config::RuleDecision::AskBefore,
        RuleDecision::NeverAllow => gander_config::RuleDecision::NeverAllow,
    }
}

/// The API error of a store error.
pub(crate) fn store_error(error: &StoreError) -> ErrorDetail {
    let detail = |reason| ErrorDetail::new(reason, error.to_string());
    match error {
        StoreError::SessionNotFound(id) => ErrorDetail::session_not_found(id),
        StoreError::SessionExists(id) => detail(ErrorReason::SessionExists).with("sessionId", id),
        StoreError::Fenced { .. } => detail(ErrorReason::StoreFenced),
        StoreError::ContentNotFound(id) => detail(ErrorReason::ContentNotFound).with("contentId", id),
        StoreError::Full => ErrorDetail::new(
            ErrorReason::StoreFull,
            "the disk that holds the data directory is full; free some space and try again",
        )
        .retry_after(Duration::from_secs(10)),
        StoreError::ReadOnly(_) => detail(ErrorReason::StoreReadOnly),
        StoreError::Corrupt(_) => detail(ErrorReason::StoreCorrupt),
        StoreError::SequenceConflict { .. }
        | StoreError::Owned { .. }
        | StoreError::Newer { .. }
        | StoreError::Unavailable(_) => detail(ErrorReason::StoreUnavailable),
    }
}
