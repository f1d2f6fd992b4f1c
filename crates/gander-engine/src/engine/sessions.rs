//! Sessions: create, read, change, load, unload, delete.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use gander_domain::{
    ErrorDetail, ErrorReason, Payload, Sequence, Session, SessionId, SessionState,
    event::{Event, UpdateCause},
    extension::{ExtensionConfig, ExtensionOrigin, ExtensionStatus},
    session::{
        Instruction, Mode, ModelSelection, ParentCall, SessionKind, SessionOption, SessionOrigin,
        SessionRecipe, TitleSource,
    },
    usage::SessionUsage,
};
use gander_store::{Commit, ListQuery, SearchHit, SearchQuery, SessionStats};

use super::{
    Engine, Recorded, RequestContext,
    extensions::{StoredSelection, check_config},
    idempotency::{Keyed, Receipt, Recorder},
};
use crate::{
    services::{Change, store_error},
    source::Mint,
};

/// Which extensions a session has.
#[derive(Debug, Clone, Default)]
pub struct ExtensionSelection {
    /// `None`: those that the configuration enables.
    pub exactly: Option<Vec<ExtensionConfig>>,
    /// On top of those.
    pub add: Vec<ExtensionConfig>,
    pub add_origin: Option<ExtensionOrigin>,
}

/// A validated request for a session.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    pub session_id: Option<SessionId>,
    /// Empty = the user's home directory.
    pub working_directory: String,
    pub additional_directories: Vec<String>,
    pub title: String,
    pub kind: SessionKind,
    pub model: Option<ModelSelection>,
    pub mode: Option<Mode>,
    pub extensions: ExtensionSelection,
    /// As it was, for imports.
    pub recipe: Option<SessionRecipe>,
    /// A recipe to make the session from. What the request itself says wins, but for the recipe's extensions.
    pub recipe_request: Option<crate::recipes::RecipeRequest>,
    pub labels: BTreeMap<String, String>,
    /// The client's environment for shells and stdio servers; kept beside the log, never in it.
    pub client_environment: BTreeMap<String, String>,
    pub demo_allowed: bool,
    pub instructions: Vec<Instruction>,
    pub container: Option<String>,
    pub parent: Option<ParentCall>,
    pub schedule_id: Option<String>,
}

/// Changes of a session; `None` leaves a field as it is, `Some(None)` clears it.
#[derive(Debug, Clone, Default)]
pub struct SessionPatch {
    pub title: Option<String>,
    pub archived: Option<bool>,
    pub working_directory: Option<String>,
    pub additional_directories: Option<Vec<String>>,
    pub model: Option<Option<ModelSelection>>,
    pub mode: Option<Option<Mode>>,
    pub instructions: Option<Vec<Instruction>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub container: Option<Option<String>>,
    pub recipe: Option<Option<SessionRecipe>>,
    pub extension_state: Option<BTreeMap<String, String>>,
    /// Refuses the change when the session has changed since this sequence.
    pub if_sequence: Option<Sequence>,
}

/// How to load a session.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    pub wait_for_extensions: Duration,
    /// Restarts its extensions.
    pub restart: bool,
    /// Replaces the stored environment when not empty.
    pub client_environment: BTreeMap<String, String>,
    /// Replaces this client's extensions.
    pub client_extensions: Option<Vec<ExtensionConfig>>,
    pub working_directory: Option<String>,
    pub additional_directories: Option<Vec<String>>,
}

#[derive(Debug, Clone)]
pub struct LoadedSession {
    pub session: Session,
    pub extensions: Vec<ExtensionStatus>,
    pub through_sequence: Sequence,
}

impl Engine {
    /// Creates a session.
    pub async fn create_session(
        &self,
        context: &RequestContext,
        new: NewSession,
    ) -> Result<Recorded<Session>, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => return self.replayed_session(&receipt).await,
            Keyed::Fresh(recorder) => recorder,
        };
        let receipt = |session_id: &SessionId| Receipt { sequence: 1, id: session_id.to_string() };
        self.make_session(context, new, &recorder, receipt).await
    }

    /// Creates a session and records the key of what it is made for, in one commit.
    pub(super) async fn make_session(
        &self,
        context: &RequestContext,
        mut new: NewSession,
        recorder: &Recorder,
        receipt: impl FnOnce(&SessionId) -> Receipt + Send,
    ) -> Result<Recorded<Session>, ErrorDetail> {
        self.refuse_when_draining()?;
        self.apply_recipe(&mut new).await?;
        for config in new.extensions.exactly.iter().flatten().chain(&new.extensions.add) {
            check_config(config)?;
        }
        let selection = StoredSelection::of(&new.extensions);
        let environment = new.client_environment.clone();
        let session = self.new_session(new)?;
        let origin = match (&session.kind, &session.parent) {
            (SessionKind::Subagent, Some(parent)) => SessionOrigin::Delegated(parent.clone()),
            _ => SessionOrigin::New,
        };
        let session_id = session.session_id.clone();
        let record = recorder.record(Some(&session_id), &receipt(&session_id), session.create_time);
        let (state, commit) = self.first_commit(context, session, origin, record)?;
        let session = state.session.clone();
        let slot = self.slot(&session_id);
        // Held until the actor is there: nobody may load a second one in between.
        let mut actor = slot.write().await;
        let epoch = self.services.store.create_session(commit).await.map_err(|e| store_error(&e))?;
        self.services.store_selection(&session_id, &selection).await?;
        self.store_environment(&session_id, &environment).await?;
        *actor = Some(self.adopt(state, epoch));
        drop(actor);
        Ok(Recorded { value: session, sequence: 1 })
    }

    pub(super) async fn replayed_session(&self, receipt: &Receipt) -> Result<Recorded<Session>, ErrorDetail> {
        let session_id = SessionId::new(&receipt.id)
            .map_err(|e| ErrorDetail::internal(format!("a stored receipt names no session: {e}")))?;
        Ok(Recorded { value: self.session(&session_id).await?, sequence: receipt.sequence })
    }

    /// The first event of a session and its commit.
    pub(super) fn first_commit(
        &self,
        context: &RequestContext,
        session: Session,
        origin: SessionOrigin,
        record: Option<gander_store::IdempotencyRecord>,
    ) -> Result<(SessionState, Commit), ErrorDetail> {
        let event = Event {
            sequence: 1,
            turn_id: None,
            time: session.create_time,
            actor: Some(context.actor.clone()),
            payload: Payload::SessionCreated { session: Box::new(session), origin },
        };
        let state = SessionState::from_first(&event)
            .ok_or_else(|| ErrorDetail::internal("the first event of a session does not fold"))?;
        let commit = Commit {
            session_id: state.session.session_id.clone(),
            epoch: 0,
            events: vec![event.into()],
            summary: Some(state.session.clone().into()),
            contents: Vec::new(),
            idempotency: record.into_iter().collect(),
        };
        Ok((state, commit))
    }

    pub(super) fn new_session(&self, new: NewSession) -> Result<Session, ErrorDetail> {
        let now = self.services.source.now();
        let home = || self.tool_environment.get("HOME").cloned().unwrap_or_else(|| "/".to_owned());
        let requested = if new.working_directory.is_empty() { home() } else { new.working_directory };
        let working_directory = self.directory("working_directory", &requested)?;
        let additional_directories = self.directories(&new.additional_directories)?;
        if let Some(model) = &new.model {
            self.check_model_policy(model)?;
        }
        Ok(Session {
            session_id: new.session_id.unwrap_or_else(|| self.services.source.session_id()),
            title_source: if new.title.is_empty() { TitleSource::Default } else { TitleSource::User },
            title: new.title,
            kind: new.kind,
            state: gander_domain::session::SessionState::Idle,
            archive_time: None,
            owner: String::new(),
            working_directory,
            additional_directories,
            model: new.model,
            mode: new.mode,
            demo_allowed: new.demo_allowed,
            instructions: new.instructions,
            recipe: new.recipe,
            labels: new.labels,
            container: new.container,
            schedule_id: new.schedule_id,
            parent: new.parent,
            extension_state: BTreeMap::new(),
            usage: SessionUsage::default(),
            context_used_tokens: None,
            context_window_tokens: None,
            message_count: 0,
            last_sequence: 0,
            oldest_sequence: 0,
            active_turn_id: None,
            pending_interaction_count: 0,
            create_time: now,
            update_time: now,
        })
    }

    /// An existing directory as an absolute path; `~` stands for the home directory.
    pub(super) fn directory(&self, field: &str, text: &str) -> Result<String, ErrorDetail> {
        let invalid = |why: String| {
            let mut error = ErrorDetail::invalid(field, why);
            error.reason = ErrorReason::WorkingDirectoryInvalid;
            error.with("path", text)
        };
        let expanded: PathBuf = match text.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                let home = self.tool_environment.get("HOME").cloned().unwrap_or_else(|| "/".to_owned());
                Path::new(&home).join(rest.trim_start_matches('/'))
            }
            _ => PathBuf::from(text),
        };
        if !expanded.is_absolute() {
            return Err(invalid(format!("{text:?} must be an absolute path (or start with ~)")));
        }
        match std::fs::metadata(&expanded) {
            Ok(meta) if meta.is_dir() => Ok(expanded.to_string_lossy().into_owned()),
            Ok(_) => Err(invalid(format!("{text:?} is not a directory"))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(invalid(format!("{text:?} does not exist; create it or choose another directory")))
            }
            Err(e) => Err(invalid(format!("{text:?} cannot be used: {e}"))),
        }
    }

    fn directories(&self, texts: &[String]) -> Result<Vec<String>, ErrorDetail> {
        let directory =
            |(i, text): (usize, &String)| self.directory(&format!("additional_directories[{i}]"), text);
        texts.iter().enumerate().map(directory).collect()
    }

    /// The session as it is now. Never loads it.
    pub async fn get_session(&self, session_id: &SessionId) -> Result<Session, ErrorDetail> {
        self.session(session_id).await
    }

    /// Whether the session has an actor at the moment.
    pub fn session_is_loaded(&self, session_id: &SessionId) -> bool {
        self.is_loaded(session_id)
    }

    pub async fn list_sessions(&self, query: ListQuery) -> Result<Vec<Session>, ErrorDetail> {
        let mut sessions = self.services.store.list_sessions(query).await.map_err(|e| store_error(&e))?;
        for session in &mut sessions {
            if let Some(handle) = self.loaded(&session.session_id).await {
                *session = handle.summary();
            }
        }
        Ok(sessions)
    }

    pub async fn search_sessions(&self, query: SearchQuery) -> Result<Vec<SearchHit>, ErrorDetail> {
        self.services.store.search(query).await.map_err(|e| store_error(&e))
    }

    pub async fn session_stats(&self) -> Result<SessionStats, ErrorDetail> {
        self.services.store.stats().await.map_err(|e| store_error(&e))
    }

    /// Changes settings of a session; they take effect at once, also in a running turn.
    pub async fn update_session(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        mut patch: SessionPatch,
    ) -> Result<Recorded<Session>, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => return self.replayed_session(&receipt).await,
            Keyed::Fresh(recorder) => recorder,
        };
        let working_directory = patch
            .working_directory
            .as_deref()
            .map(|d| self.directory("session.working_directory", d))
            .transpose()?;
        let additional_directories =
            patch.additional_directories.as_deref().map(|d| self.directories(d)).transpose()?;
        if let Some(Some(model)) = &patch.model {
            self.check_model_policy(model)?;
            if !model.provider_id.is_empty() {
                // Whoever chooses is to hear of it now that this cannot work, and not with the next message.
                let demo_allowed = self.session(session_id).await?.demo_allowed;
                self.services.resolve_model(Some(model), demo_allowed).await?;
            }
        }
        let recipe = self.recipe_again(session_id, &mut patch).await?;
        let selection = recipe.as_ref().and_then(|given| given.extensions.clone());
        let (actor, id) = (context.actor.clone(), session_id.clone());
        let sets_options = patch.mode.is_some() || patch.model.is_some();
        let edit = self.edit(session_id, move |core| {
            let mut session = core.state.session.clone();
            if let Some(expected) = patch.if_sequence
                && expected != session.last_sequence
            {
                return Err(etag_mismatch(session.last_sequence));
            }
            let mut changed = Vec::new();
            let mut note = |field: &str, differs: bool| {
                if differs {
                    changed.push(field.to_owned());
                }
            };
            if let Some(title) = patch.title {
                note("title", session.title != title || session.title_source != TitleSource::User);
                session.title = title;
                session.title_source = TitleSource::User;
            }
            if let Some(archived) = patch.archived {
                note("archive_time", session.archive_time.is_some() != archived);
                session.archive_time = archived.then(|| session.archive_time.unwrap_or_else(|| core.now()));
            }
            if let Some(directory) = working_directory {
                let differs = session.working_directory != directory;
                if differs && session.active_turn_id.is_some() {
                    return Err(busy("the working directory cannot be changed"));
                }
                note("working_directory", differs);
                session.working_directory = directory;
            }
            let directories = &mut session.additional_directories;
            set(directories, additional_directories, |d| note("additional_directories", d));
            set(&mut session.model, patch.model, |d| note("model", d));
            set(&mut session.mode, patch.mode, |d| note("mode", d));
            let pieces = session.instructions.clone();
            set(&mut session.instructions, patch.instructions, |d| note("instructions", d));
            crate::recipes::keep_pieces(&pieces, &mut session.instructions);
            if let Some(given) = &recipe {
                given.place(&mut session.instructions);
            }
            set(&mut session.labels, patch.labels, |d| note("labels", d));
            if session.active_turn_id.is_some()
                && patch.container.as_ref().is_some_and(|container| *container != session.container)
            {
                return Err(busy("the container cannot be changed"));
            }
            set(&mut session.container, patch.container, |d| note("container", d));
            set(&mut session.recipe, patch.recipe, |d| note("recipe", d));
            set(&mut session.extension_state, patch.extension_state, |d| note("extension_state_json", d));
            core.act_as(actor);
            let place_changed = changed
                .iter()
                .any(|f| f.ends_with("_directory") || f.ends_with("_directories") || f == "container");
            if changed.iter().any(|field| field == "mode") {
                core.after_commit(|core| core.services.agents.mode_changed(core.session_id()));
            }
            if !changed.is_empty() {
                let payload = Payload::SessionUpdated {
                    session: Box::new(session),
                    changed_fields: changed,
                    cause: UpdateCause::Client,
                };
                core.emit(None, payload);
            }
            if place_changed {
                // Extensions know their directories and container from their start; the next turn starts them anew.
                core.drop_extensions();
            }
            let receipt = Receipt { sequence: core.state.last_sequence(), id: id.to_string() };
            let now = core.now();
            core.record(recorder.record(Some(&id), &receipt, now));
            Ok(core.state.session.clone())
        });
        let done = edit.await?;
        if let Some(selection) = selection {
            self.replace_selection(session_id, &selection).await?;
        }
        let mut sequence = done.sequence;
        if sets_options && let Some(announced) = self.announce_options_of(&done.value).await {
            // Who waits for this sequence has seen the options, too.
            sequence = announced;
        }
        Ok(Recorded { value: done.value, sequence })
    }

    /// Loads a session with its extensions and says up to which sequence the answer holds.
    pub async fn load_session(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        request: LoadRequest,
    ) -> Result<LoadedSession, ErrorDetail> {
        let patch = SessionPatch {
            working_directory: request.working_directory,
            additional_directories: request.additional_directories,
            ..SessionPatch::default()
        };
        if patch.working_directory.is_some() || patch.additional_directories.is_some() {
            let unkeyed = RequestContext { actor: context.actor.clone(), idempotency: None };
            self.update_session(&unkeyed, session_id, patch).await?;
        }
        self.session(session_id).await?;
        if !request.client_environment.is_empty() {
            self.store_environment(session_id, &request.client_environment).await?;
        }
        if let Some(extensions) = request.client_extensions {
            self.replace_client_extensions(session_id, extensions).await?;
        }
        if request.restart {
            self.edit(session_id, |core| {
                if core.state.session.active_turn_id.is_some() {
                    return Err(busy("the session cannot be restarted"));
                }
                core.drop_extensions();
                Ok(())
            })
            .await?;
        }
        let extensions = self.extensions(session_id).await?;
        let statuses = if request.wait_for_extensions.is_zero() {
            extensions.statuses()
        } else {
            extensions.wait_ready(request.wait_for_extensions).await
        };
        let read = self.edit(session_id, |core| Ok(core.state.session.clone())).await?;
        Ok(LoadedSession { session: read.value, extensions: statuses, through_sequence: read.sequence })
    }

    /// Unloads a session unless it is live. `false`: it stays loaded.
    pub async fn unload_session(&self, session_id: &SessionId) -> Result<bool, ErrorDetail> {
        self.session(session_id).await?;
        Ok(self.unload(session_id, false).await)
    }

    /// Deletes a session: cancels what runs, ends its extensions, erases every byte of it but its id.
    pub async fn delete_session(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        allow_missing: bool,
    ) -> Result<(), ErrorDetail> {
        match self.session(session_id).await {
            Ok(_) => {}
            Err(e) if allow_missing && e.reason == ErrorReason::SessionNotFound => return Ok(()),
            Err(e) => return Err(e),
        }
        tracing::info!(%session_id, client = %context.actor.client_name, "deleting session");
        let feed = self.feed(session_id).await?;
        let slot = self.slot(session_id);
        // Holding the slot keeps everyone from loading it again in between.
        let mut guard = slot.write().await;
        if let Some(handle) = guard.take() {
            handle.unload(true).await;
        }
        self.services.store.delete_session(session_id).await.map_err(|e| store_error(&e))?;
        let spill = self.session_dir(session_id);
        match tokio::fs::remove_dir_all(&spill).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(error = %e, "files of a deleted session could not be removed");
            }
            _ => {}
        }
        self.services.forget_session(session_id);
        self.services.announce(Change::Session(session_id.clone()));
        feed.close(crate::feed::FeedClosed::SessionDeleted);
        Ok(())
    }

    /// Where extensions keep files of a session.
    pub(super) fn session_dir(&self, session_id: &SessionId) -> PathBuf {
        self.spill_dir.join(session_id.as_str())
    }

    /// Settings that a client can show and change.
    pub async fn session_options(&self, session_id: &SessionId) -> Result<Vec<SessionOption>, ErrorDetail> {
        let session = self.session(session_id).await?;
        Ok(self.options_of(&session).await)
    }

    pub(super) fn refuse_when_draining(&self) -> Result<(), ErrorDetail> {
        if self.services.draining.is_cancelled() {
            return Err(ErrorDetail::new(
                ErrorReason::ShuttingDown,
                "the daemon is shutting down; start it again and retry",
            )
            .retry_after(Duration::from_secs(2)));
        }
        Ok(())
    }
}

fn set<T: PartialEq>(field: &mut T, value: Option<T>, note: impl FnOnce(bool)) {
    if let Some(value) = value {
        note(*field != value);
        *field = value;
    }
}

pub(super) fn busy(what: &str) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::TurnAlreadyRunning,
        format!("{what} while a turn runs; wait for its end or cancel it"),
    )
}

pub(super) fn etag_mismatch(current: Sequence) -> ErrorDetail {
    ErrorDetail::new(ErrorReason::EtagMismatch, "the session has changed since; read it again and retry")
        .with("lastSequence", current)
}
