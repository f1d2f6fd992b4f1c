//! What the model is told beyond the conversation, and what stands between it and the tools: compaction on request,
//! commands, permission rules.

use gander_domain::{
    ErrorDetail, ErrorReason, Item, ItemBody, ItemId, Payload, SessionId, TurnId,
    permission::{PermissionRule, RememberScope, RuleDecision},
    session::Command,
    turn::{TurnLimits, TurnState},
};

use super::{
    Engine, Recorded, RequestContext, WatchStep,
    idempotency::{Keyed, Receipt},
};
use crate::{
    commands,
    compaction::{self, Trigger},
    configuration::config_error,
    services::config_decision,
    session::TurnStart,
    source::Mint,
    turn::{TurnWork, ready_prompts},
};

/// Longest instructions for a summary, in bytes.
const MAX_INSTRUCTIONS: usize = 16 * 1024;

/// A rule with what it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopedRule {
    pub rule: PermissionRule,
    /// Of a rule with scope SESSION.
    pub session_id: Option<SessionId>,
    /// Of a rule with scope PROJECT: absolute.
    pub directory: Option<String>,
}

/// A change of one rule; no decision removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleChange {
    pub tool_pattern: String,
    pub decision: Option<RuleDecision>,
    pub scope: RememberScope,
    pub session_id: Option<SessionId>,
    pub directory: Option<String>,
}

impl Engine {
    /// Summarizes a session's conversation for the model. `None`: there was nothing to summarize.
    ///
    /// It is the work of a turn of its own, so it can be watched and cancelled like any other.
    pub async fn compact_session(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        instructions: String,
    ) -> Result<Recorded<Option<Item>>, ErrorDetail> {
        if instructions.len() > MAX_INSTRUCTIONS {
            let message = format!("must be at most {MAX_INSTRUCTIONS} bytes");
            return Err(ErrorDetail::invalid("instructions", message));
        }
        let recorder = match self.keyed(context).await? {
            Keyed::Fresh(recorder) => recorder,
            Keyed::Replay(receipt) => {
                let item = self.item_by_id(session_id, &receipt.id).await?;
                return Ok(Recorded { value: item, sequence: receipt.sequence });
            }
        };
        self.refuse_when_draining()?;
        let session = self.session(session_id).await?;
        let read = self.edit(session_id, |core| {
            if let Some(active) = &core.state.session.active_turn_id {
                return Err(super::sessions::busy("the conversation cannot be summarized")
                    .with("activeTurnId", active));
            }
            Ok(compaction::plan(&core.state.model_items(), 0, Trigger::Manual).is_some())
        });
        let read = read.await?;
        if !read.value {
            return Ok(Recorded { value: None, sequence: read.sequence });
        }
        let model = self.services.resolve_model(session.model.as_ref(), session.demo_allowed).await?;
        if model.provider.agent().is_some() {
            return Err(ErrorDetail::new(
                ErrorReason::CapabilityMissing,
                format!(
                    "{} keeps its conversation itself; use its own command for summaries, if it has one",
                    model.provider.info().display_name
                ),
            ));
        }
        let turn_id = self.services.source.turn_id();
        let start = TurnStart {
            turn_id: turn_id.clone(),
            request_hash: String::new(),
            input: Vec::new(),
            message_id: None,
            client_create_time: None,
            contents: Vec::new(),
            queue_when_busy: false,
            limits: TurnLimits::default(),
            mode: None,
            model,
            wait_for_extensions: super::turns::WAIT_FOR_EXTENSIONS,
            extensions: None,
            work: TurnWork::Compact { instructions },
            response_schema_json: None,
            actor: context.actor.clone(),
        };
        let started = self.edit(session_id, move |core| core.start_turn(start).map(|(turn, _)| turn)).await?;
        self.wait_for_turn(session_id, &turn_id, started.value.first_sequence - 1).await?;
        let id = session_id.clone();
        let done = self
            .edit(session_id, move |core| {
                let turn = core.state.turn(&turn_id).cloned();
                if let Some(error) = turn.as_ref().and_then(|t| t.error.clone()) {
                    return Err(error);
                }
                let found = core.state.items.iter().rev().find(|e| {
                    e.item.turn_id.as_ref() == Some(&turn_id)
                        && matches!(e.item.body, ItemBody::Compaction(_))
                });
                let Some(entry) = found else {
                    let state = turn.map_or(TurnState::Interrupted, |t| t.state);
                    return Err(ErrorDetail::new(
                        ErrorReason::TurnNotRunning,
                        format!("the summary was not finished: its turn ended as {state:?}"),
                    ));
                };
                let item = Item::clone(&entry.item);
                let receipt = Receipt { sequence: entry.first_sequence + 1, id: item.item_id.to_string() };
                let sequence = receipt.sequence;
                let now = core.now();
                core.record(recorder.record(Some(&id), &receipt, now));
                Ok((item, sequence))
            })
            .await?;
        let (item, sequence) = done.value;
        Ok(Recorded { value: Some(item), sequence })
    }

    async fn item_by_id(&self, session_id: &SessionId, id: &str) -> Result<Option<Item>, ErrorDetail> {
        let Ok(item_id) = ItemId::new(id) else { return Ok(None) };
        let read = self.edit(session_id, move |core| Ok(core.state.item(&item_id).cloned())).await?;
        Ok(read.value.map(|item| Item::clone(&item)))
    }

    /// Waits for the end of a turn.
    async fn wait_for_turn(
        &self,
        session_id: &SessionId,
        turn_id: &TurnId,
        after: i64,
    ) -> Result<(), ErrorDetail> {
        let ended = |p: &Payload| matches!(p, Payload::TurnEnded { turn } if turn.turn_id == *turn_id);
        let mut cursor = self.watch(session_id, Some(after.max(0))).await?;
        loop {
            match cursor.next().await? {
                WatchStep::Events(events) if events.iter().any(|e| ended(&e.payload)) => return Ok(()),
                WatchStep::Events(_) => {}
                WatchStep::Closed(_) => {
                    return Err(ErrorDetail::new(
                        ErrorReason::ShuttingDown,
                        "the daemon stops; what was begun is in the session's log",
                    ));
                }
            }
        }
    }

    /// Commands that a message may begin with: those of every session, and the session's own.
    pub async fn list_commands(&self, session_id: Option<&SessionId>) -> Result<Vec<Command>, ErrorDetail> {
        let (mut prompts, mut of_agent) = (Vec::new(), Vec::new());
        if let Some(session_id) = session_id {
            self.session(session_id).await?;
            // Asking for commands starts nothing.
            if let Some(handle) = self.loaded(session_id).await {
                if let Some(extensions) = handle.extensions() {
                    prompts = ready_prompts(&extensions).await;
                }
                let read = handle.edit(|core| Ok(core.state.commands.clone())).await;
                of_agent = read.ok().and_then(Result::ok).map(|c| c.value).unwrap_or_default();
            }
        }
        let mut commands = commands::all(&self.services.recipe_commands(), &prompts);
        commands.extend(of_agent.into_iter().filter(|c| c.kind == "backend"));
        Ok(commands)
    }

    /// Permission rules: all of the user's and of projects, or those that apply to one session with its own.
    pub async fn permission_rules(
        &self,
        session_id: Option<&SessionId>,
    ) -> Result<Vec<ScopedRule>, ErrorDetail> {
        let mut rules = Vec::new();
        let mut within = None;
        if let Some(session_id) = session_id {
            let read = self.edit(session_id, |core| {
                Ok((core.session_rules(), core.state.session.working_directory.clone()))
            });
            let (own, directory) = read.await?.value;
            let scoped = |rule| ScopedRule { rule, session_id: Some(session_id.clone()), directory: None };
            rules.extend(own.into_iter().map(scoped));
            within = Some(directory);
        }
        let applies =
            |directory: &str| within.as_ref().is_none_or(|w| std::path::Path::new(w).starts_with(directory));
        for directory in self.services.config.project_rules().into_keys().filter(|d| applies(d)) {
            let of = self.services.config.project_rules().remove(&directory).unwrap_or_default();
            let scoped = |(pattern, decision)| ScopedRule {
                rule: crate::services::domain_rule(pattern, decision, RememberScope::Project),
                session_id: None,
                directory: Some(directory.clone()),
            };
            rules.extend(of.into_iter().map(scoped));
        }
        let user = self.services.user_rules().into_iter();
        rules.extend(user.map(|rule| ScopedRule { rule, session_id: None, directory: None }));
        rules.sort_by(|a, b| {
            let key = |r: &ScopedRule| (rank(r.rule.scope), r.directory.clone(), r.rule.tool_pattern.clone());
            key(a).cmp(&key(b))
        });
        Ok(rules)
    }

    /// Sets and removes rules. All are checked before the first is stored.
    pub async fn set_permission_rules(&self, changes: Vec<RuleChange>) -> Result<(), ErrorDetail> {
        for (index, change) in changes.iter().enumerate() {
            self.check_change(index, change).await?;
        }
        for change in changes {
            let RuleChange { tool_pattern, decision, scope, session_id, directory } = change;
            match (scope, session_id, directory) {
                (RememberScope::Session, Some(session_id), _) => {
                    self.set_session_rule(&session_id, tool_pattern, decision).await?;
                }
                (RememberScope::Project, _, Some(directory)) => {
                    self.write_rule(Some(directory), tool_pattern, decision).await?;
                }
                _ => self.write_rule(None, tool_pattern, decision).await?,
            }
        }
        Ok(())
    }

    async fn check_change(&self, index: usize, change: &RuleChange) -> Result<(), ErrorDetail> {
        let invalid = |name: &str, why: &str| ErrorDetail::invalid(&format!("rules[{index}].{name}"), why);
        let pattern = &change.tool_pattern;
        if pattern.is_empty() || pattern.len() > 256 || pattern.chars().any(char::is_control) {
            return Err(invalid(
                "tool_pattern",
                "must be the name of a tool, or the beginning of one followed by *",
            ));
        }
        match (change.scope, &change.session_id, &change.directory) {
            (RememberScope::Session, Some(session_id), None) => self.session(session_id).await.map(|_| ()),
            (RememberScope::Session, ..) => Err(invalid(
                "session_id",
                "must name the session of a rule with scope SESSION, and nothing else may be named",
            )),
            (RememberScope::Project, None, Some(directory)) => {
                let absolute = std::path::Path::new(directory).is_absolute();
                if absolute && !directory.chars().any(char::is_control) {
                    return Ok(());
                }
                Err(invalid("directory", "must be an absolute path"))
            }
            (RememberScope::Project, ..) => Err(invalid(
                "directory",
                "must name the directory of a rule with scope PROJECT, and nothing else may be named",
            )),
            (RememberScope::User, None, None) => Ok(()),
            (RememberScope::User, ..) => {
                Err(invalid("scope", "a rule with scope USER names neither session nor directory"))
            }
            (RememberScope::Once, ..) => Err(invalid("scope", "must be SESSION, PROJECT or USER")),
        }
    }

    async fn set_session_rule(
        &self,
        session_id: &SessionId,
        pattern: String,
        decision: Option<RuleDecision>,
    ) -> Result<(), ErrorDetail> {
        let _one_writer = self.services.rules_lock.lock().await;
        let mut edits = self.services.rule_edits(session_id).await?;
        edits.insert(pattern, decision);
        self.services.store_rule_edits(session_id, &edits).await?;
        self.edit(session_id, move |core| {
            core.set_rule_edits(edits);
            Ok(())
        })
        .await
        .map(|_| ())
    }

    async fn write_rule(
        &self,
        directory: Option<String>,
        pattern: String,
        decision: Option<RuleDecision>,
    ) -> Result<(), ErrorDetail> {
        let config = self.services.config.clone();
        let decision = decision.map(config_decision);
        let written = tokio::task::spawn_blocking(move || match directory {
            Some(directory) => config.set_project_rule(&directory, &pattern, decision),
            None => config.set_rule(&pattern, decision),
        });
        let written = written.await.map_err(|e| ErrorDetail::internal(e.to_string()))?;
        written.map_err(|e| config_error(&e))
    }
}

/// Tells live sessions that follow the configuration when their options change with it.
///
/// What is configured now is known when this returns; the future does the rest.
pub(super) fn follow_config(engine: &std::sync::Arc<Engine>) -> impl Future<Output = ()> + use<> {
    let read = |engine: &Engine| {
        let config = engine.services.config.current();
        ["GOOSE_MODE", "GOOSE_PROVIDER", "GOOSE_MODEL"].map(|key| config.get_string(key).ok().flatten())
    };
    let mut last = read(engine);
    let (mut changes, closing) = (engine.services.config.subscribe(), engine.closing.clone());
    let engine = std::sync::Arc::downgrade(engine);
    async move {
        loop {
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = closing.cancelled() => return,
            }
            let Some(engine) = engine.upgrade() else { return };
            let now = read(&engine);
            if now != last {
                engine.announce_options().await;
                last = now;
            }
        }
    }
}

impl Engine {
    /// Logs the options of live sessions that have a setting of their own in neither mode nor model.
    async fn announce_options(&self) {
        for (session_id, slot) in self.live_slots() {
            let handle = slot.read().await.as_ref().filter(|h| h.is_open()).cloned();
            let Some(handle) = handle else { continue };
            let session = handle.summary();
            if session.mode.is_none() || session.model.is_none() {
                tracing::debug!(%session_id, "the configuration changed the session's options");
                self.announce_options_of(&session).await;
            }
        }
    }

    /// Logs a session's options if they differ from what the log says; gives the event's sequence.
    pub(super) async fn announce_options_of(&self, session: &gander_domain::Session) -> Option<i64> {
        let options = self.options_of(session).await;
        let edit = self.edit(&session.session_id, move |core| {
            let news = core.state.options != options;
            if news {
                core.emit(None, Payload::SessionOptionsChanged { options });
            }
            Ok(news.then(|| core.state.last_sequence()))
        });
        match edit.await {
            Ok(done) => done.value,
            Err(error) => {
                tracing::debug!(%error, "the options of a session could not be logged");
                None
            }
        }
    }
}

fn rank(scope: RememberScope) -> u8 {
    match scope {
        RememberScope::Once => 0,
        RememberScope::Session => 1,
        RememberScope::Project => 2,
        RememberScope::User => 3,
    }
}
