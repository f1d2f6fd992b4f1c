//! The loop of a session actor: run what is queued, commit once, publish, answer.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use gander_domain::{ErrorDetail, ErrorReason, Payload, SessionState, extension::ExtensionState};
use gander_mcp::HostEvent;
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument, debug, error};

use super::{
    core::Core,
    handle::{Command, Completion, Emission, Liveness, SessionHandle, Shared},
    rules::RuleEdits,
};
use crate::{
    feed::{Feed, FeedClosed},
    services::{Change, Services, store_error},
};

/// Commands waiting for one session; senders wait beyond that.
const MAILBOX: usize = 1024;
/// Events committed at once.
const MAX_BATCH: usize = 256;

/// What a new actor starts from.
pub(crate) struct SpawnSession {
    pub services: Arc<Services>,
    pub state: SessionState,
    pub feed: Arc<Feed>,
    pub epoch: i64,
    /// Whether the log may hold turns that a stopped daemon left open.
    pub recover: bool,
    /// Permission rules that were set for the session.
    pub rule_edits: RuleEdits,
}

/// Starts the actor. It has closed what a stopped daemon left open before it takes its first command.
pub(crate) fn spawn(start: SpawnSession) -> SessionHandle {
    let (mailbox, inbox) = mpsc::channel(MAILBOX);
    let shared = Arc::new(Shared::new(start.feed, &start.state.session));
    let handle = SessionHandle { mailbox, shared };
    let span = tracing::info_span!("session", session_id = %handle.session_id());
    let tasks = start.services.tasks.clone();
    let mut core = Core::new(start.services, start.state, handle.clone(), start.epoch);
    core.set_rule_edits(start.rule_edits);
    if start.recover {
        core.recover();
    }
    tasks.spawn(Actor { core, inbox }.run().instrument(span));
    handle
}

struct Actor {
    core: Core,
    inbox: mpsc::Receiver<Command>,
}

impl Actor {
    async fn run(mut self) {
        if self.settle(Vec::new()).await.is_err() {
            return self.fail();
        }
        loop {
            let deadline = self.core.next_deadline();
            let first = tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => Some(command),
                    None => return self.close().await,
                },
                () = sleep_until(deadline) => None,
            };
            let mut completions = Vec::new();
            let mut unload = None;
            match first {
                Some(command) => self.run_command(command, &mut completions, &mut unload),
                None => self.core.on_deadline().await,
            }
            while self.core.uncommitted() < MAX_BATCH && unload.is_none() {
                let Ok(command) = self.inbox.try_recv() else { break };
                self.run_command(command, &mut completions, &mut unload);
            }
            if self.settle(completions).await.is_err() {
                return self.fail();
            }
            if let Some((force, done)) = unload {
                let leave = force || !self.core.is_live();
                if leave {
                    // Whoever asks now finds the mailbox closed and loads the session anew.
                    self.inbox.close();
                    self.close().await;
                }
                let _ = done.send(leave);
                if leave {
                    return;
                }
            }
        }
    }

    fn run_command(
        &mut self,
        command: Command,
        completions: &mut Vec<Completion>,
        unload: &mut Option<(bool, oneshot::Sender<bool>)>,
    ) {
        match command {
            Command::Edit(edit) => {
                completions.push(edit(&mut self.core));
                self.core.stop_acting();
            }
            Command::Emit(emission) => {
                let Emission { turn_id, payloads, contents } = *emission;
                // Late events of a turn that has ended have no place in the log.
                if turn_id.is_none() || self.core.is_running(turn_id.as_ref()) {
                    self.core.attach(contents);
                    for payload in payloads {
                        self.core.emit(turn_id.clone(), payload);
                    }
                }
            }
            Command::TurnDone(done) => self.core.turn_done(&done.0, done.1),
            Command::Unload { force, done } => *unload = Some((force, done)),
        }
    }

    /// Commits, publishes, answers, and runs what was to follow the commit, until nothing is left to do.
    async fn settle(&mut self, mut completions: Vec<Completion>) -> Result<(), ()> {
        loop {
            if let Some(commit) = self.core.take_commit() {
                let (events, summary) = (commit.events.clone(), commit.summary.clone());
                if let Err(cause) = self.core.services.store.commit(commit).await {
                    let detail = store_error(&cause);
                    error!(error = %detail, "the session's log cannot be written; the session is unloaded");
                    for completion in completions.drain(..) {
                        completion(Err(detail.clone()));
                    }
                    return Err(());
                }
                if let Some(summary) = summary {
                    self.core.publish_summary(summary);
                }
                self.core.me.shared.feed.publish(&events);
            }
            self.publish_liveness();
            for completion in completions.drain(..) {
                completion(Ok(()));
            }
            let effects = std::mem::take(&mut self.core.effects);
            if effects.is_empty() && self.core.uncommitted() == 0 {
                return Ok(());
            }
            for effect in effects {
                effect(&mut self.core);
            }
        }
    }

    fn publish_liveness(&self) {
        let mut live = self.core.me.shared.live.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.core.is_live();
        if live.live && !now {
            self.core.me.shared.feed.shrink();
        }
        if now || live.live {
            *live = Liveness { live: now, since: Instant::now() };
        }
    }

    /// The store refused: state and log may differ, so the actor ends; the next use loads the log anew.
    fn fail(mut self) {
        self.core.stop_turn();
        self.core.drop_extensions();
        self.core.services.agents.abandon(self.core.session_id());
        self.core.me.shared.feed.close(FeedClosed::StoreLost);
        self.core.services.sessions_lost.notify_one();
        self.inbox.close();
        while let Ok(command) = self.inbox.try_recv() {
            if let Command::Edit(edit) = command {
                drop(edit);
            }
        }
    }

    async fn close(&mut self) {
        debug!("session unloaded");
        self.core.stop_turn();
        let deadline = self.core.services.options.extension_stop_timeout;
        let extensions = self.core.take_extensions();
        let agent = self.core.services.agents.close(self.core.session_id());
        let agent = tokio::time::timeout(deadline, agent);
        match extensions {
            Some(extensions) => drop(tokio::join!(extensions.shutdown(deadline), agent)),
            None => drop(agent.await),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Core {
    fn publish_summary(&self, summary: Arc<gander_domain::Session>) {
        *self.me.shared.summary.lock().unwrap_or_else(PoisonError::into_inner) = summary;
        self.publish_rules();
        self.services.announce(Change::Session(self.session_id().clone()));
        self.services.index_interactions(self.session_id(), &self.state);
    }
}

/// Carries state changes and notifications of extensions into the log.
pub(super) async fn pump_extension_events(
    mut inbox: mpsc::Receiver<Box<HostEvent>>,
    session: SessionHandle,
    services: Arc<Services>,
) {
    while let Some(event) = inbox.recv().await {
        let other_prompts = match &*event {
            HostEvent::StateChanged(change) => change.to == ExtensionState::Ready,
            HostEvent::ListChanged(change) => change.list == "prompts",
            _ => false,
        };
        let secrets = services.secret_filter();
        let payload = match *event {
            HostEvent::StateChanged(mut change) => {
                secrets.clean(&mut change.cause);
                secrets.clean(&mut change.stderr_tail);
                Payload::ExtensionStateChanged(change)
            }
            HostEvent::ListChanged(change) => Payload::ListChanged(change),
            HostEvent::Notification { extension_name, level, logger, mut data_json } => {
                secrets.clean_json(&mut data_json);
                Payload::ExtensionNotification { extension_name, level, logger, data_json }
            }
            HostEvent::ResourceUpdated { extension_name, uri } => {
                Payload::ResourceUpdated { extension_name, uri }
            }
        };
        if session.emit(None, vec![payload], Vec::new()).await.is_err() {
            return;
        }
        if other_prompts {
            // Servers are asked: that must not hold up their events.
            services.tasks.spawn(refresh_commands(session.clone(), services.clone()));
        }
    }
}

/// Logs the session's commands where extensions add to them and they have changed.
async fn refresh_commands(session: SessionHandle, services: Arc<Services>) {
    let Some(extensions) = session.extensions() else { return };
    let prompts = crate::turn::ready_prompts(&extensions).await;
    let mut commands = crate::commands::all(&services.recipe_commands(), &prompts);
    let posted = session.post(move |core| {
        // What every session has is no news.
        let news = !prompts.is_empty() || !core.state.commands.is_empty();
        commands.extend(core.state.commands.iter().filter(|c| c.kind == "backend").cloned());
        if news && core.state.commands != commands {
            core.emit(None, Payload::CommandsChanged { commands });
        }
    });
    // A session that has gone needs no commands.
    let _ = posted.await;
}

/// The error of a request that met a session actor which had just ended, twice.
pub(crate) fn gone() -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::StoreUnavailable,
        "the session was unloaded while the request ran; try again",
    )
    .retry_after(std::time::Duration::from_millis(100))
}
