//! Watches a sub-agent to the end of its turn: its progress, questions and costs become those of the call that it
//! works for, and it ends with that call.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use gander_domain::{
    Actor, ErrorDetail, ErrorReason, Interaction, InteractionId, Item, ItemBody, Payload, SessionId, Turn,
    TurnId,
    event::{SubagentProgress, ToolProgress, UsageReport},
    interaction::{InteractionOutcome, InteractionState, Resolution},
    item::{ToolCallStatus, ToolResult},
    turn::{StopReason, TurnState},
    usage::UsagePurpose,
};

use super::{
    super::{TurnTask, own, usage::CallReport},
    cancelled, failed,
};
use crate::{
    engine::{CancelRequest, Engine, RequestContext, WatchCursor, WatchStep},
    source::Mint,
};

/// How long a cancelled child may take to say that it has ended.
const CANCEL_WAIT: Duration = Duration::from_millis(400);

/// Ends the child's turn when the call ends in any other way than by its result.
pub(super) struct ChildGuard {
    pub(super) engine: Arc<Engine>,
    pub(super) child: Option<(SessionId, TurnId)>,
}

impl ChildGuard {
    pub(super) fn done(mut self) {
        self.child = None;
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let Some((session_id, turn_id)) = self.child.take() else { return };
        let engine = Arc::clone(&self.engine);
        self.engine.services().tasks.spawn(async move { cancel(&engine, &session_id, &turn_id).await });
    }
}

async fn cancel(engine: &Engine, session_id: &SessionId, turn_id: &TurnId) {
    let actor = Actor { client_name: "delegate".to_owned(), ..Actor::default() };
    let context = RequestContext { actor, idempotency: None };
    let request = CancelRequest { turn_id: Some(turn_id.clone()), allow_missing: true };
    if let Err(error) = engine.cancel_turn(&context, session_id, request).await {
        tracing::warn!(%error, %session_id, "a sub-agent could not be cancelled");
    }
}

/// A question of the child that is asked in the parent's session.
type Question = Pin<Box<dyn Future<Output = (InteractionId, Option<Resolution>)> + Send + Sync>>;

/// Watches a child to the end of its turn.
pub(super) struct Following<'a> {
    task: &'a TurnTask,
    item: &'a Item,
    engine: &'a Arc<Engine>,
    child: SessionId,
    turn_id: TurnId,
    /// The child's last message.
    said: String,
    calls: u32,
    questions: FuturesUnordered<Question>,
    /// The child's question → the parent's.
    asked: BTreeMap<InteractionId, InteractionId>,
}

impl<'a> Following<'a> {
    pub(super) fn new(
        task: &'a TurnTask,
        item: &'a Item,
        engine: &'a Arc<Engine>,
        child: SessionId,
        turn_id: TurnId,
    ) -> Self {
        Self {
            task,
            item,
            engine,
            child,
            turn_id,
            said: String::new(),
            calls: 0,
            questions: FuturesUnordered::new(),
            asked: BTreeMap::new(),
        }
    }

    /// The call's result, when the child's turn has ended in whatever way.
    pub(super) async fn run(&mut self) -> Result<ToolResult, ErrorDetail> {
        self.show_child().await;
        let mut cursor = self.engine.watch(&self.child, Some(0)).await?;
        loop {
            tokio::select! {
                biased;
                () = self.task.start.cancel.cancelled() => {
                    self.stop(&mut cursor).await;
                    return Ok(cancelled());
                }
                Some((question, resolution)) = self.questions.next(), if !self.questions.is_empty() => {
                    self.answer(question, resolution).await;
                }
                step = cursor.next() => {
                    let WatchStep::Events(events) = step? else {
                        self.withdraw_all().await;
                        return Err(ErrorDetail::new(
                            ErrorReason::SessionNotFound,
                            "the sub-agent's session has gone before it had an answer",
                        ));
                    };
                    let mut over = false;
                    for event in &events {
                        if let Some(turn) = self.end(&event.payload) {
                            return Ok(self.result(turn));
                        }
                        self.event(&event.payload).await;
                        let calls_on = matches!(event.payload, Payload::ModelCallStarted { .. });
                        over |= calls_on && self.task.budget_spent();
                    }
                    // A child alone stops at its own limit. Those that work at once learn here what the others used.
                    if over {
                        self.stop(&mut cursor).await;
                        self.withdraw_all().await;
                        let said = self.said.trim();
                        return Ok(failed(format!("the turn's budget is spent; the sub-agent was stopped: {said}")));
                    }
                }
            }
        }
    }

    /// Cancels the child and waits a moment for its end, counting what it still used.
    async fn stop(&self, cursor: &mut WatchCursor) {
        cancel(self.engine, &self.child, &self.turn_id).await;
        let end = async {
            while let Ok(WatchStep::Events(events)) = cursor.next().await {
                for event in &events {
                    if let Payload::UsageReported(report) = &event.payload {
                        self.count(report).await;
                    }
                    if self.end(&event.payload).is_some() {
                        return;
                    }
                }
            }
        };
        let _ = tokio::time::timeout(CANCEL_WAIT, end).await;
    }

    /// What the child used is used by the parent's turn, too.
    async fn count(&self, used: &UsageReport) {
        let report = CallReport {
            purpose: UsagePurpose::Subagent,
            call: used.call,
            cost: used.cost.clone(),
            context_used_tokens: None,
            context_window_tokens: None,
        };
        // It fails only when the turn ends, which the next wait notices.
        let _ = self.task.report(report).await;
    }

    fn end<'e>(&self, payload: &'e Payload) -> Option<&'e Turn> {
        match payload {
            Payload::TurnEnded { turn } if turn.turn_id == self.turn_id => Some(turn),
            _ => None,
        }
    }

    /// The call names its child before the child has done anything.
    async fn show_child(&self) {
        let Some(call) = self.item.tool_call() else { return };
        let mut call = call.clone();
        call.child_session_id = Some(self.child.clone());
        let updated = Payload::ToolCallUpdated { item_id: self.item.item_id.clone(), call: Box::new(call) };
        // It fails only when the turn ends, which the next wait notices.
        let _ = self.task.emit(vec![updated]).await;
    }

    async fn event(&mut self, payload: &Payload) {
        match payload {
            Payload::ItemCompleted { item } if matches!(item.body, ItemBody::AgentMessage(_)) => {
                self.said = item.text();
            }
            Payload::ToolCallUpdated { call, .. } if call.status == ToolCallStatus::Running => {
                self.calls += 1;
                let title = if call.title.is_empty() { call.name.clone() } else { call.title.clone() };
                self.progress(title).await;
            }
            Payload::UsageReported(report) => self.count(report).await,
            Payload::InteractionRequested { interaction } => self.ask(interaction).await,
            Payload::InteractionResolved(resolution) => self.withdraw(&resolution.interaction_id).await,
            _ => {}
        }
    }

    async fn progress(&self, summary: String) {
        let progress = ToolProgress {
            item_id: self.item.item_id.clone(),
            progress: self.calls.to_string(),
            total: None,
            message: Some(summary.clone()),
            subagent: Some(SubagentProgress { child_session_id: self.child.clone(), summary }),
        };
        let _ = self.task.emit(vec![Payload::ToolProgress(progress)]).await;
    }

    /// Asks in the parent's session what the child asks: who watches the parent need not know of children.
    async fn ask(&mut self, asked: &Interaction) {
        let interaction_id = self.task.start.services.source.interaction_id();
        let interaction = Interaction {
            interaction_id: interaction_id.clone(),
            turn_id: Some(self.task.start.turn_id.clone()),
            item_id: Some(self.item.item_id.clone()),
            kind: asked.kind.clone(),
            state: InteractionState::Pending,
            create_time: self.task.start.services.source.now(),
            expire_time: asked.expire_time,
            outcome: None,
            answer: None,
            answered_by: None,
        };
        let placed = self.task.start.session.edit(move |core| Ok(core.ask(interaction))).await;
        let Ok(Ok(placed)) = placed else { return };
        let (question, receiver) = (asked.interaction_id.clone(), placed.value);
        self.asked.insert(question.clone(), interaction_id);
        self.questions.push(Box::pin(async move { (question, receiver.await.ok()) }));
    }

    /// Somebody answered in the parent's session.
    async fn answer(&mut self, question: InteractionId, resolution: Option<Resolution>) {
        self.asked.remove(&question);
        let Some(resolution) = resolution.filter(|r| r.outcome == InteractionOutcome::Answered) else {
            return;
        };
        let Some(answer) = resolution.answer else { return };
        let actor = resolution.answered_by.unwrap_or_default();
        let context = RequestContext { actor, idempotency: None };
        if let Err(error) = self.engine.respond(&context, Some(&self.child), &question, answer).await {
            // The child's own question may have been answered at the same moment.
            tracing::debug!(%error, "an answer for a sub-agent came too late");
        }
    }

    /// The child's question was resolved there: the parent's is withdrawn.
    async fn withdraw(&mut self, question: &InteractionId) {
        let Some(interaction_id) = self.asked.remove(question) else { return };
        let withdrawn = self.task.start.session.edit(move |core| {
            core.withdraw_interaction(&interaction_id);
            Ok(())
        });
        let _ = withdrawn.await;
    }

    /// Nobody waits for answers any more, and the parent's turn goes on.
    async fn withdraw_all(&mut self) {
        while let Some(question) = self.asked.keys().next().cloned() {
            self.withdraw(&question).await;
        }
    }

    fn result(&self, turn: &Turn) -> ToolResult {
        let said = self.said.trim();
        match turn.state {
            TurnState::Completed => match turn.stop_reason {
                Some(StopReason::EndTurn) | None if said.is_empty() => {
                    own::said("The sub-agent finished without saying anything.")
                }
                Some(StopReason::EndTurn) | None => own::said(said),
                Some(StopReason::Refusal) => failed(format!("the sub-agent's model refused: {said}")),
                Some(_) => own::said(format!(
                    "The sub-agent stopped at a limit after {} model calls, before it was done. Its last words: {said}",
                    turn.model_calls
                )),
            },
            TurnState::Cancelled => failed(format!("the sub-agent was cancelled; its last words: {said}")),
            TurnState::Failed => {
                let why = turn.error.as_ref().map_or("for an unknown reason", |e| e.message.as_str());
                failed(format!("the sub-agent failed: {why}"))
            }
            _ => failed(format!("the sub-agent was interrupted; its last words: {said}")),
        }
    }
}
