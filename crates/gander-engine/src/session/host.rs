//! Hosts: programs that do work for a session (an editor's file system and terminals, client-side tools).
//!
//! One host per session; the life of its stream is the life of the registration. Without a host a call fails at once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use gander_domain::{
    ErrorDetail, ErrorReason, HostCallId, ItemId, Payload, SessionId,
    event::ToolProgress,
    host::{HostCall, HostCallKind, HostCallOutcome, HostCapabilities},
};
use gander_mcp::CallProgress;
use tokio::sync::{mpsc, oneshot};

use super::{core::Core, handle::SessionHandle};
use crate::source::Mint;

/// Calls waiting for one host.
const MAX_CALLS: usize = 64;

pub(super) struct HostSlot {
    registration: u64,
    pub(super) capabilities: HostCapabilities,
    calls: mpsc::Sender<HostCall>,
    withdrawn: mpsc::Sender<HostCallId>,
}

/// A call that the host has not answered yet. Dropping it tells the caller that nobody will.
pub(super) struct OpenHostCall {
    item_id: Option<ItemId>,
    turn_id: Option<gander_domain::TurnId>,
    answer: oneshot::Sender<HostCallOutcome>,
    /// Who passes the host's reports on; else they go into the log as they are.
    progress: Option<mpsc::Sender<CallProgress>>,
}

/// Work for a host.
pub(crate) struct HostAsk {
    pub(crate) kind: HostCallKind,
    /// The tool call that it is part of.
    pub(crate) item_id: Option<ItemId>,
    /// What the host has for it.
    pub(crate) deadline: Duration,
    /// How much later its answer may come.
    pub(crate) grace: Duration,
    /// Who gets its reports. What does not fit in is lost: nothing may wait for a reader here.
    pub(crate) progress: Option<mpsc::Sender<CallProgress>>,
}

impl HostAsk {
    pub(crate) fn new(kind: HostCallKind, deadline: Duration) -> Self {
        Self { kind, item_id: None, deadline, grace: Duration::ZERO, progress: None }
    }
}

/// An attached host's end: its calls, and the registration that ends with it.
pub struct HostAttachment {
    pub calls: mpsc::Receiver<HostCall>,
    /// Calls that nobody waits for any more. Each was in `calls` before.
    pub withdrawn: mpsc::Receiver<HostCallId>,
    pub registration: HostRegistration,
}

/// Dropping it detaches the host; its open calls fail.
pub struct HostRegistration {
    session: SessionHandle,
    number: u64,
    tasks: tokio_util::task::TaskTracker,
}

impl Drop for HostRegistration {
    fn drop(&mut self) {
        let (session, number) = (self.session.clone(), self.number);
        self.tasks.spawn(async move {
            let _ = session
                .edit(move |core| {
                    core.detach_host(number);
                    Ok(())
                })
                .await;
        });
    }
}

impl Core {
    /// Registers a host; a second one is refused while the first is attached.
    pub(crate) fn attach_host(
        &mut self,
        capabilities: HostCapabilities,
    ) -> Result<HostAttachment, ErrorDetail> {
        if self.host.as_ref().is_some_and(|h| !h.calls.is_closed()) {
            return Err(ErrorDetail::new(
                ErrorReason::HostAlreadyAttached,
                "a host is attached to this session already; close its stream first",
            ));
        }
        // A host whose stream has ended may not be gone yet: nobody will answer its calls.
        if let Some(gone) = self.host.as_ref().map(|h| h.registration) {
            self.detach_host(gone);
        }
        let (sender, calls) = mpsc::channel(MAX_CALLS);
        let (withdraw, withdrawn) = mpsc::channel(MAX_CALLS);
        let number = self.services.next_number();
        self.me.shared.host_shown.show(Some(&capabilities));
        self.host = Some(HostSlot { registration: number, capabilities, calls: sender, withdrawn: withdraw });
        let registration =
            HostRegistration { session: self.me.clone(), number, tasks: self.services.tasks.clone() };
        Ok(HostAttachment { calls, withdrawn, registration })
    }

    fn detach_host(&mut self, number: u64) {
        if self.host.as_ref().is_some_and(|h| h.registration == number) {
            self.host = None;
            self.me.shared.host_shown.show(None);
            // The callers see their sender dropped.
            for (id, _) in self.host_calls.drain() {
                self.services.forget_host_call(&id);
            }
        }
    }

    /// What the attached host can do.
    pub(crate) fn host_capabilities(&self) -> Option<&HostCapabilities> {
        self.host.as_ref().map(|h| &h.capabilities)
    }

    fn call_host(&mut self, ask: HostAsk) -> Result<MadeCall, ErrorDetail> {
        let HostAsk { kind, item_id, deadline, progress, .. } = ask;
        let Some(host) = &self.host else { return Err(no_host()) };
        let calls = host.calls.clone();
        let host_call_id = self.services.source.host_call_id();
        let (sender, receiver) = oneshot::channel();
        let turn_id = self.state.session.active_turn_id.clone().filter(|_| item_id.is_some());
        let call = HostCall {
            host_call_id: host_call_id.clone(),
            item_id: item_id.clone(),
            deadline: self.services.source.now().plus(deadline),
            kind,
        };
        // Known before it is sent: a quick host answers before this function has returned.
        self.host_calls
            .insert(host_call_id.clone(), OpenHostCall { item_id, turn_id, answer: sender, progress });
        self.services.note_host_call(&host_call_id, self.session_id());
        if let Err(error) = calls.try_send(call) {
            self.host_calls.remove(&host_call_id);
            self.services.forget_host_call(&host_call_id);
            return Err(match error {
                mpsc::error::TrySendError::Full(_) => ErrorDetail::new(
                    ErrorReason::Overloaded,
                    format!("the attached host has {MAX_CALLS} calls open already"),
                ),
                mpsc::error::TrySendError::Closed(_) => no_host(),
            });
        }
        let (session, tasks) = (self.me.clone(), self.services.tasks.clone());
        Ok(MadeCall { open: Some((host_call_id, session)), tasks, receiver })
    }

    /// Gives up on a call. A host that is too slow to hear of it finds the call gone when it completes it.
    fn withdraw_host_call(&mut self, host_call_id: &HostCallId) {
        if self.host_calls.remove(host_call_id).is_some() {
            self.services.forget_host_call(host_call_id);
            if let Some(host) = &self.host {
                let _ = host.withdrawn.try_send(host_call_id.clone());
            }
        }
    }

    /// Takes the host's answer.
    pub(crate) fn complete_host_call(
        &mut self,
        host_call_id: &HostCallId,
        outcome: HostCallOutcome,
    ) -> Result<(), ErrorDetail> {
        let open = self.host_calls.remove(host_call_id).ok_or_else(|| host_call_not_found(host_call_id))?;
        self.services.forget_host_call(host_call_id);
        let _ = open.answer.send(outcome);
        Ok(())
    }

    /// Carries the host's progress into the log; that of a direct call belongs to no item and is dropped.
    pub(crate) fn report_host_progress(
        &mut self,
        host_call_id: &HostCallId,
        progress: CallProgress,
    ) -> Result<(), ErrorDetail> {
        let open = self.host_calls.get(host_call_id).ok_or_else(|| host_call_not_found(host_call_id))?;
        if let Some(reader) = &open.progress {
            // Whoever made the call also cleans what is reported.
            let _ = reader.try_send(progress);
        } else if let Some(item_id) = open.item_id.clone() {
            let turn_id = open.turn_id.clone();
            let mut progress = progress;
            let secrets = self.services.secret_filter();
            match &mut progress {
                CallProgress::Output { text, .. } => {
                    secrets.clean(text);
                }
                CallProgress::Progress { message, .. } => {
                    message.iter_mut().for_each(|m| {
                        secrets.clean(m);
                    });
                }
                CallProgress::Notification { params_json, .. } => secrets.clean_json(params_json),
            }
            self.emit(turn_id, progress_payload(item_id, progress));
        }
        Ok(())
    }
}

pub(crate) fn host_call_not_found(host_call_id: &HostCallId) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::HostCallNotFound,
        format!("host call {host_call_id} is not open: it was answered, cancelled, or timed out"),
    )
    .with("hostCallId", host_call_id)
}

/// Progress of a call as the log says it.
pub(crate) fn progress_payload(item_id: ItemId, progress: CallProgress) -> Payload {
    match progress {
        CallProgress::Output { stream, text } => Payload::ToolOutputDelta { item_id, stream, text },
        CallProgress::Progress { progress, total, message } => {
            let (progress, total) = (progress.to_string(), total.map(|t| t.to_string()));
            Payload::ToolProgress(ToolProgress { item_id, progress, total, message, subagent: None })
        }
        CallProgress::Notification { method, params_json } => {
            Payload::ToolNotification { item_id, method, params_json }
        }
    }
}

fn no_host() -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::CapabilityMissing,
        "no host is attached to this session, so nobody can run this call; attach one with AttachHost",
    )
}

/// Makes one call to the session's host and waits for its answer. Dropping the future withdraws the call.
pub(crate) async fn call_host(
    session: &SessionHandle,
    item_id: Option<ItemId>,
    kind: HostCallKind,
    deadline: Duration,
) -> Result<HostCallOutcome, ErrorDetail> {
    let ask = HostAsk { item_id, ..HostAsk::new(kind, deadline) };
    let asked = session.edit(move |core| core.call_host(ask)).await;
    asked.map_err(|_| super::actor::gone())??.value.answer(deadline).await
}

/// Work on files or terminals by the session's host; `None` when none is attached that can do it. That is the common
/// case and costs nothing: the actor, which may be busy with a commit, is asked only when there is such a host.
/// An error with the reason `CAPABILITY_MISSING` or `OVERLOADED`: no host was reached.
pub(crate) async fn ask_able_host(
    session: &SessionHandle,
    ask: HostAsk,
) -> Option<Result<HostCallOutcome, ErrorDetail>> {
    if !session.shared.host_shown.can(&ask.kind) {
        return None;
    }
    let patience = ask.deadline + ask.grace;
    let asked = session.edit(move |core| {
        let able =
            core.host.as_ref().is_some_and(|h| can(&h.capabilities, &ask.kind) && !h.calls.is_closed());
        if able { core.call_host(ask).map(Some) } else { Ok(None) }
    });
    match asked.await {
        Ok(Ok(asked)) => Some(asked.value?.answer(patience).await),
        Ok(Err(error)) => Some(Err(error)),
        Err(_) => Some(Err(super::actor::gone())),
    }
}

fn can(host: &HostCapabilities, kind: &HostCallKind) -> bool {
    match kind {
        HostCallKind::FsRead { .. } => host.fs_read,
        HostCallKind::FsWrite { .. } => host.fs_write,
        HostCallKind::TerminalRun { .. } => host.terminal,
        HostCallKind::Tool { .. } => false,
    }
}

/// What a session's host can do with files and commands, for those who do not ask the actor. The actor writes it; a
/// host whose stream has just ended is shown for a moment longer.
#[derive(Debug, Default)]
pub(super) struct HostShown {
    fs_read: AtomicBool,
    fs_write: AtomicBool,
    terminal: AtomicBool,
}

impl HostShown {
    fn show(&self, host: Option<&HostCapabilities>) {
        self.fs_read.store(host.is_some_and(|h| h.fs_read), Ordering::Release);
        self.fs_write.store(host.is_some_and(|h| h.fs_write), Ordering::Release);
        self.terminal.store(host.is_some_and(|h| h.terminal), Ordering::Release);
    }

    fn can(&self, kind: &HostCallKind) -> bool {
        let flag = match kind {
            HostCallKind::FsRead { .. } => &self.fs_read,
            HostCallKind::FsWrite { .. } => &self.fs_write,
            HostCallKind::TerminalRun { .. } => &self.terminal,
            HostCallKind::Tool { .. } => return false,
        };
        flag.load(Ordering::Acquire)
    }
}

/// A call that somebody waits for. Dropping it withdraws the call, also where nobody has received it yet.
struct MadeCall {
    /// `None` once there is nothing to withdraw.
    open: Option<(HostCallId, SessionHandle)>,
    tasks: tokio_util::task::TaskTracker,
    receiver: oneshot::Receiver<HostCallOutcome>,
}

impl MadeCall {
    async fn answer(mut self, deadline: Duration) -> Result<HostCallOutcome, ErrorDetail> {
        let Ok(outcome) = tokio::time::timeout(deadline, &mut self.receiver).await else {
            return Err(ErrorDetail::new(
                ErrorReason::ToolTimedOut,
                format!("the host did not answer within {} s", deadline.as_secs()),
            ));
        };
        self.open = None;
        outcome.map_err(|_| {
            ErrorDetail::new(ErrorReason::ExtensionUnavailable, "the host detached before it answered")
        })
    }
}

impl Drop for MadeCall {
    fn drop(&mut self) {
        let Some((id, session)) = self.open.take() else { return };
        self.tasks.spawn(async move {
            // It fails only when the session has ended, and its host with it.
            let _ = session
                .edit(move |core| {
                    core.withdraw_host_call(&id);
                    Ok(())
                })
                .await;
        });
    }
}

impl HostRegistration {
    /// The session that the registration belongs to.
    pub fn session_id(&self) -> &SessionId {
        self.session.session_id()
    }
}
