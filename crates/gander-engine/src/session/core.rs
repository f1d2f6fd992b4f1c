//! The state of a live session inside its actor: the fold, the uncommitted tail, and what runs.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use gander_domain::{
    Actor, ErrorDetail, Event, HostCallId, InteractionId, Payload, Sequence, SessionId, SessionState,
    Timestamp, TurnId,
    extension::{ExtensionConfig, ExtensionOrigin},
    interaction::Resolution,
};
use gander_mcp::SessionExtensions;
use gander_store::{Commit, IdempotencyRecord, NewContent};
use tokio::sync::oneshot;

use super::{
    handle::SessionHandle,
    host::{HostSlot, OpenHostCall},
    rules::RuleEdits,
    turns::{QueuedTurn, RunningTurn},
};
use crate::services::Services;

/// Longest text of one merged delta, in bytes.
const MAX_DELTA_BYTES: usize = 16 * 1024;

/// A value together with the sequence of the last event at that point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Committed<T> {
    pub value: T,
    pub sequence: Sequence,
}

/// Something to do once the batch has been committed.
pub(crate) type Effect = Box<dyn FnOnce(&mut Core) + Send>;

/// An extension to activate, with its secrets resolved.
#[derive(Clone)]
pub(crate) struct PlannedExtension {
    pub config: ExtensionConfig,
    pub origin: ExtensionOrigin,
    pub secrets: std::collections::BTreeMap<String, String>,
    /// Why it cannot be started (a secret is missing, the policy forbids it).
    pub refused: Option<ErrorDetail>,
    /// Variables of its configuration that no extension may set; they are not in `config` any more.
    pub left_out: Vec<String>,
}

/// Everything that a session's extensions need to start.
#[derive(Clone)]
pub(crate) struct ExtensionPlan {
    pub context: gander_mcp::SessionContext,
    pub extensions: Vec<PlannedExtension>,
}

pub(crate) struct Core {
    pub(crate) services: Arc<Services>,
    pub(crate) state: SessionState,
    pub(super) me: SessionHandle,
    pub(super) epoch: i64,
    pending: Vec<Event>,
    contents: Vec<NewContent>,
    idempotency: Vec<IdempotencyRecord>,
    summary_dirty: bool,
    pub(super) effects: Vec<Effect>,
    acting: Option<Actor>,
    pub(super) running: Option<RunningTurn>,
    pub(super) queued: VecDeque<QueuedTurn>,
    pub(super) waiters: HashMap<InteractionId, oneshot::Sender<Resolution>>,
    pub(crate) extensions: Option<Arc<SessionExtensions>>,
    pub(super) host: Option<HostSlot>,
    pub(super) host_calls: HashMap<HostCallId, OpenHostCall>,
    /// When deltas up to a sequence may be dropped.
    pub(super) drop_deltas: Option<(Instant, Sequence)>,
    /// Rules that were set, see [`super::rules`].
    pub(super) rule_edits: RuleEdits,
    /// A title is being looked for.
    pub(super) naming: bool,
}

impl Core {
    pub(super) fn new(services: Arc<Services>, state: SessionState, me: SessionHandle, epoch: i64) -> Self {
        Self {
            services,
            state,
            me,
            epoch,
            pending: Vec::new(),
            contents: Vec::new(),
            idempotency: Vec::new(),
            summary_dirty: false,
            effects: Vec::new(),
            acting: None,
            running: None,
            queued: VecDeque::new(),
            waiters: HashMap::new(),
            extensions: None,
            host: None,
            host_calls: HashMap::new(),
            drop_deltas: None,
            rule_edits: RuleEdits::new(),
            naming: false,
        }
    }

    pub(crate) fn session_id(&self) -> &SessionId {
        &self.state.session.session_id
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.services.source.now()
    }

    /// Who causes the events that the current edit emits.
    pub(crate) fn act_as(&mut self, actor: Actor) {
        self.acting = Some(actor);
    }

    pub(super) fn stop_acting(&mut self) {
        self.acting = None;
    }

    /// Appends an event to the batch and folds it. Adjacent deltas of one item become one event.
    pub(crate) fn emit(&mut self, turn_id: Option<TurnId>, payload: Payload) {
        let is_delta = payload.is_delta();
        if is_delta
            && let Some(last) = self.pending.last_mut()
            && last.turn_id == turn_id
            && last.payload.try_merge(&payload, MAX_DELTA_BYTES)
        {
            let (sequence, time) = (last.sequence, last.time);
            self.state.apply(&Event { sequence, turn_id, time, actor: None, payload });
            return;
        }
        let actor = if is_delta { None } else { self.acting.clone() };
        let event =
            Event { sequence: self.state.last_sequence() + 1, turn_id, time: self.now(), actor, payload };
        self.state.apply(&event);
        self.summary_dirty |= !is_delta;
        self.pending.push(event);
    }

    /// Stores content together with the batch.
    pub(crate) fn attach(&mut self, contents: impl IntoIterator<Item = NewContent>) {
        self.contents.extend(contents);
    }

    /// Records an idempotency key together with the batch.
    pub(crate) fn record(&mut self, record: impl IntoIterator<Item = IdempotencyRecord>) {
        self.idempotency.extend(record);
    }

    /// Does something once the batch has been committed.
    pub(crate) fn after_commit(&mut self, effect: impl FnOnce(&mut Core) + Send + 'static) {
        self.effects.push(Box::new(effect));
    }

    pub(super) fn uncommitted(&self) -> usize {
        self.pending.len()
    }

    /// Takes the batch for the store; `None` when there is nothing to store.
    pub(super) fn take_commit(&mut self) -> Option<Commit> {
        if self.pending.is_empty() && self.contents.is_empty() && self.idempotency.is_empty() {
            return None;
        }
        let summary = std::mem::take(&mut self.summary_dirty).then(|| Arc::new(self.state.session.clone()));
        Some(Commit {
            session_id: self.session_id().clone(),
            epoch: self.epoch,
            events: std::mem::take(&mut self.pending).into_iter().map(Arc::new).collect(),
            summary,
            contents: std::mem::take(&mut self.contents),
            idempotency: std::mem::take(&mut self.idempotency),
        })
    }

    /// A session with work or a question open is never unloaded (invariant 9).
    pub(super) fn is_live(&self) -> bool {
        self.running.is_some()
            || !self.queued.is_empty()
            || self.host.is_some()
            || self.me.shared.direct_calls.load(std::sync::atomic::Ordering::Acquire) > 0
            || self.state.session.pending_interaction_count > 0
    }

    /// Starts the session's extensions if they are not active yet.
    pub(crate) fn ensure_extensions(&mut self, plan: ExtensionPlan) -> Arc<SessionExtensions> {
        if let Some(active) = &self.extensions {
            return active.clone();
        }
        let (events, inbox) = tokio::sync::mpsc::channel(256);
        let client = super::asks::SessionAsks::new(self.services.clone(), self.me.clone(), &plan.context);
        let extensions = self.services.mcp.open_session(plan.context, Arc::new(client), events);
        let pump = super::actor::pump_extension_events(inbox, self.me.clone(), self.services.clone());
        self.services.tasks.spawn(pump);
        self.extensions = Some(extensions.clone());
        self.show_extensions();
        for planned in plan.extensions {
            self.activate(&extensions, planned);
        }
        extensions
    }

    /// Tells those who do not ask the actor which extensions are active.
    fn show_extensions(&self) {
        let mut shown = self.me.shared.extensions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shown.clone_from(&self.extensions);
    }

    /// The extensions, which are not the session's any more.
    pub(crate) fn take_extensions(&mut self) -> Option<Arc<SessionExtensions>> {
        let extensions = self.extensions.take();
        self.show_extensions();
        extensions
    }

    /// Adds one extension; its failure is a state of the extension, not of the session.
    pub(crate) fn activate(
        &mut self,
        extensions: &Arc<SessionExtensions>,
        planned: PlannedExtension,
    ) -> Option<ErrorDetail> {
        let key = gander_domain::extension::extension_key(&planned.config.name);
        let kind = planned.config.transport.kind().to_owned();
        let name = planned.config.name.clone();
        let (origin, hash) = (planned.origin, gander_mcp::config_hash(&planned.config));
        let left_out = planned.left_out;
        let result = match planned.refused {
            Some(error) => Err(error),
            None => extensions.add(planned.config, planned.origin, planned.secrets),
        };
        let summary = match &result {
            Ok(summary) => summary.clone(),
            Err(_) => gander_domain::extension::ExtensionSummary {
                key: key.clone(),
                name,
                kind,
                config_hash: hash,
                origin,
            },
        };
        if self.state.extensions.get(&key).is_none_or(|known| known.summary != summary) {
            self.emit(None, Payload::ExtensionAdded { extension: summary });
        }
        if !left_out.is_empty() {
            let message = format!("{} may not be set for an extension and was left out", left_out.join(", "));
            let data = serde_json::json!({ "kind": "env_left_out", "keys": left_out, "message": message });
            let notification = Payload::ExtensionNotification {
                extension_name: key.clone(),
                level: "warning".to_owned(),
                logger: "gander".to_owned(),
                data_json: data.to_string(),
            };
            self.emit(None, notification);
        }
        let error = result.err()?;
        self.emit(
            None,
            Payload::ExtensionStateChanged(gander_domain::extension::ExtensionStateChange {
                key,
                from: None,
                to: gander_domain::extension::ExtensionState::Failed,
                cause: error.message.clone(),
                attempt: 0,
                exit_code: None,
                stderr_tail: String::new(),
            }),
        );
        Some(error)
    }

    /// When the actor has to act by itself next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let now = self.now();
        let expiry = self
            .state
            .pending_interactions(None)
            .into_iter()
            .map(|i| i.expire_time)
            .min()
            .map(|t| Instant::now() + Duration::from_micros(u64::try_from(t.0 - now.0).unwrap_or(0)));
        let cancel = self.running.as_ref().and_then(|r| r.abort_at);
        let deltas = self.drop_deltas.map(|(at, _)| at);
        [expiry, cancel, deltas].into_iter().flatten().min()
    }
}
