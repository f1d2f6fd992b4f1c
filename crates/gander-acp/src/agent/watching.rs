//! A session that this connection follows: one watch, one host registration, the questions that are open.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_client_protocol_schema::v1 as acp;
use futures::StreamExt as _;
use gander_client::{ClientError, WatchOptions};
use gander_proto::v1::{
    ErrorReason, GetSessionRequest, Interaction, ListCommandsRequest, SessionEvent, SessionOption,
    session_event::Payload,
};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::{
    caps::ClientCaps,
    rpc::RpcError,
    translate::{DialectState, goose, translate},
};

/// Output that was held back is sent when nothing else came for so long.
const FLUSH: Duration = Duration::from_millis(120);

/// One session of this connection.
pub(super) struct Attached {
    pub(super) session_id: String,
    dialect: Mutex<DialectState>,
    /// Open questions.
    pub(super) questions: Mutex<HashMap<String, Open>>,
    pub(super) stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// A moment to try again to become the session's host.
    pub(super) host_wanted: Notify,
    /// Cancelled once it is known whether this connection is the session's host.
    pub(super) host_settled: CancellationToken,
}

/// A question that is not settled.
pub(super) struct Open {
    /// Cancelling it takes the question down at the client.
    pub(super) settled: CancellationToken,
    /// The request to the client, once it is asked.
    pub(super) request: Option<i64>,
}

/// How following a session begins, once the request that asked for it is answered.
pub(super) struct Start {
    pub(super) session: Arc<Attached>,
    /// Events after this one are new to the client.
    pub(super) after: i64,
    pub(super) updates: Vec<acp::SessionUpdate>,
    pub(super) interactions: Vec<Interaction>,
    /// The request made the session.
    pub(super) created: bool,
}

impl Attached {
    pub(super) fn new(session_id: &str, caps: &ClientCaps, cwd: &str) -> Self {
        Self {
            session_id: session_id.to_owned(),
            dialect: Mutex::new(DialectState::new(caps.clone(), cwd)),
            questions: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
            host_wanted: Notify::new(),
            host_settled: CancellationToken::new(),
        }
    }

    pub(super) fn dialect(&self) -> MutexGuard<'_, DialectState> {
        self.dialect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn questions(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task that ends with the session's attachment.
    pub(super) fn spawn(&self, inner: &Arc<Inner>, task: impl Future<Output = ()> + Send + 'static) {
        let (ours, theirs) = (self.stop.clone(), inner.stop.clone());
        let handle = inner.tasks.spawn(async move {
            tokio::select! {
                () = ours.cancelled() => {}
                () = theirs.cancelled() => {}
                () = task => {}
            }
        });
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle);
    }

    /// Stops following; when this returns nothing more is sent about the session.
    pub(super) async fn detach(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // It ends at its next step; how does not matter.
            let _ = task.await;
        }
    }
}

impl Inner {
    /// Puts a session into the connection's list; one that was there is detached first.
    pub(super) async fn replace_attached(&self, session: &Arc<Attached>) {
        let before = self.state().sessions.insert(session.session_id.clone(), session.clone());
        if let Some(before) = before {
            self.let_go(&before).await;
        }
    }

    /// Stops following a session and takes its open questions down: they are no longer this client's, or will be asked
    /// again.
    pub(super) async fn let_go(&self, session: &Attached) {
        session.detach().await;
        self.take_down(session).await;
    }

    async fn take_down(&self, session: &Attached) {
        let open: Vec<i64> = session.questions().drain().filter_map(|(_, open)| open.request).collect();
        for request in open {
            self.withdraw(request, Some(&session.session_id)).await;
        }
    }

    /// Follows a session from here on.
    pub(super) async fn begin(self: &Arc<Self>, start: Start) {
        let Start { session, after, updates, interactions, .. } = start;
        let session_id = session.session_id.clone();
        for update in updates {
            self.queue.update(&session_id, update).await;
        }
        self.send_commands(&session).await;
        for interaction in &interactions {
            self.question(&session, interaction).await;
        }
        self.settle_prompts(&session_id).await;
        if self.caps().is_host() {
            let (inner, host) = (self.clone(), session.clone());
            session.spawn(self, async move { inner.be_host(&host).await });
        }
        let (inner, followed) = (self.clone(), session.clone());
        session.spawn(self, async move { Box::pin(inner.follow(&followed, after)).await });
    }

    /// The text commands of a session that the client has just learnt about. Changes come as events.
    async fn send_commands(&self, session: &Attached) {
        let request = ListCommandsRequest { session_id: session.session_id.clone() };
        let Ok(response) = self.client.sessions().list_commands(request).await else { return };
        let update = session.dialect().commands_now(&response.into_inner().commands);
        if let Some(update) = update {
            self.queue.update(&session.session_id, update).await;
        }
    }

    async fn follow(self: &Arc<Self>, session: &Arc<Attached>, after: i64) {
        let options = WatchOptions { after: Some(after), ..WatchOptions::default() };
        let mut events = self.client.watch(&session.session_id, options);
        loop {
            let held_back = session.dialect().holds_back();
            let next = tokio::select! {
                next = events.next() => next,
                () = tokio::time::sleep(FLUSH), if held_back => {
                    let updates = session.dialect().flush();
                    self.send(session, updates).await;
                    continue;
                }
            };
            match next {
                Some(Ok(event)) => {
                    if !self.event(session, event).await {
                        return;
                    }
                }
                Some(Err(error)) => return self.lost(session, &error).await,
                None => return,
            }
        }
    }

    pub(super) async fn send(&self, session: &Attached, updates: Vec<acp::SessionUpdate>) {
        for update in updates {
            self.queue.update(&session.session_id, update).await;
        }
    }

    /// One event; false when it was the last.
    async fn event(self: &Arc<Self>, session: &Arc<Attached>, mut event: SessionEvent) -> bool {
        self.hydrate_event(&session.session_id, &mut event).await;
        let (updates, of_goose) = {
            let mut dialect = session.dialect();
            (translate(&event, &mut dialect), goose::updates(&event, &dialect))
        };
        self.send(session, updates).await;
        if let Some(update) = of_goose {
            let params = serde_json::json!({"sessionId": session.session_id, "update": update});
            let json = crate::rpc::notification(goose::METHOD, &params);
            self.queue.push(Some(&session.session_id), json).await;
        }
        match &event.payload {
            Some(Payload::InteractionRequested(requested)) => {
                if let Some(interaction) = &requested.interaction {
                    self.question(session, interaction).await;
                }
            }
            Some(Payload::InteractionResolved(resolved)) => {
                // The task that waits for the client's answer takes the question down.
                if let Some(open) = session.questions().remove(&resolved.interaction_id) {
                    open.settled.cancel();
                }
            }
            Some(Payload::TurnEnded(ended)) => {
                if let Some(turn) = &ended.turn {
                    self.turn_ended(turn).await;
                }
            }
            Some(Payload::StreamClosing(_)) => {
                // The only one that is passed on: the session was deleted.
                let error = RpcError::new(crate::rpc::NOT_FOUND, "the session was deleted")
                    .with(serde_json::json!({"sessionId": session.session_id}));
                self.fail_prompts(&session.session_id, &error).await;
                self.take_down(session).await;
                // Last: it ends this very task.
                self.forget(session);
                return false;
            }
            _ => {}
        }
        true
    }

    pub(super) async fn options_of(&self, session_id: &str) -> Option<Vec<SessionOption>> {
        let request = GetSessionRequest { session_id: session_id.to_owned() };
        let response = self.client.sessions().get_session(request).await.ok()?;
        response.into_inner().session.map(|session| session.options)
    }

    fn forget(&self, session: &Attached) {
        self.state().sessions.remove(&session.session_id);
        // The host's registration ends; the watch ends by itself.
        session.stop.cancel();
    }

    /// The daemon cannot be followed any more.
    async fn lost(self: &Arc<Self>, session: &Arc<Attached>, error: &ClientError) {
        tracing::warn!(session_id = session.session_id, error = %error, "a session is not followed any more");
        self.state().sessions.remove(&session.session_id);
        let gone = error.is(ErrorReason::SessionNotFound);
        let mut error = RpcError::of(error, Some(&session.session_id));
        if !gone {
            error.message = format!("the daemon was lost while the turn ran: {}", error.message);
        }
        self.fail_prompts(&session.session_id, &error).await;
        self.take_down(session).await;
        // Last: it ends this very task, the host and whoever waits for an answer.
        session.stop.cancel();
    }
}
