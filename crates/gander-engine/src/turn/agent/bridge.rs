//! The session as its agent sees it: what the agent reports becomes events, what it asks becomes interactions.
//!
//! Updates that come while no turn runs are stored without one. After a cancel the agent may talk on for a moment: that
//! is not stored, the cancelled turn has ended.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use gander_domain::{
    ErrorReason, Interaction, ItemId, Payload, TurnId, Usage,
    host::{HostCallKind, HostCallOutcome},
    interaction::{
        Answer, FormAction, InteractionKind, InteractionOutcome, InteractionState, PermissionQuestion,
        PermissionReason, Resolution, UrlPurpose,
    },
    item::{PermissionRecord, ToolCall, ToolCallStatus},
    permission::{self, Verdict},
    session::{Mode, Plan, SessionOption},
    tool::ToolDefinition,
    usage::{Cost, CostSource},
};
use gander_mcp::SessionExtensions;
use gander_model::{AgentClient, AgentElicitation, AgentElicitationAnswer, AgentPermission, AgentUpdate};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    answers::{answered, choose, definition, is_given_tool, offered},
    effects::{report, set_commands, set_options, set_title},
    transcript::{Out, Transcript},
};
use crate::{
    redact::SecretFilter,
    services::Services,
    session::{Core, HostAsk, SessionHandle, Withdraw, ask_able_host},
    source::Mint,
};

/// How long a form or page of an agent stays open.
const ELICIT_EXPIRY: Duration = Duration::from_secs(3600);
/// How long the host may take for a file, and for a command.
const HOST_FILE: Duration = Duration::from_secs(120);
const HOST_TERMINAL: Duration = Duration::from_secs(3600);
/// An agent that is silent for so long between turns has finished what it was saying.
const SILENCE: Duration = Duration::from_millis(300);
/// The most that is held back of what an agent says between turns.
const MAX_HELD: Duration = Duration::from_secs(2);

/// The turn that the agent works for.
struct Turn {
    turn_id: TurnId,
    cancel: CancellationToken,
    /// Cancelled with the turn, and where it is cut for another reason.
    over: CancellationToken,
    /// Cancelled by an answer that ends the turn.
    stop: CancellationToken,
    mode: Option<Mode>,
    transcript: Transcript,
    /// What the agent says that this prompt has cost.
    cost: Option<Cost>,
    /// What it may cost, and what is cancelled once it has.
    allowance_micros: Option<i64>,
    spent: CancellationToken,
}

/// What ends a prompt from outside.
pub(super) struct Signals {
    /// Cancelled by an answer that ends the turn.
    pub(super) stop: CancellationToken,
    /// Cancelled when the turn's money is used up.
    pub(super) spent: CancellationToken,
}

/// What changes while the agent lives.
struct State {
    turn: Option<Turn>,
    between: Transcript,
    flushing: bool,
    /// Counts what is said between turns.
    said: u64,
    /// The agent still ends a turn that was cancelled.
    muted: bool,
    /// Cost of the agent's session as it was last told.
    cost_micros: i64,
    cost_known: bool,
    context: Option<(u64, u64)>,
}

/// One agent's view of one session.
pub(crate) struct Bridge {
    services: Arc<Services>,
    session: SessionHandle,
    /// As the agent calls itself, once it has.
    name: std::sync::OnceLock<String>,
    provider_id: String,
    model_id: String,
    /// The secrets as they were when the last prompt began.
    secrets: std::sync::Mutex<Arc<SecretFilter>>,
    /// What the agent was given.
    extensions: std::sync::OnceLock<std::sync::Weak<SessionExtensions>>,
    state: Mutex<State>,
    me: std::sync::Weak<Bridge>,
}

impl Bridge {
    pub(super) fn new(
        services: Arc<Services>,
        session: SessionHandle,
        provider_id: &str,
        model_id: &str,
        cost_micros: Option<i64>,
    ) -> Arc<Self> {
        let secrets = Arc::new(services.secret_filter());
        let between = Transcript::new(services.source.clone(), secrets.clone(), None, model_id);
        Arc::new_cyclic(|me| Self {
            services,
            session,
            name: std::sync::OnceLock::new(),
            provider_id: provider_id.to_owned(),
            model_id: model_id.to_owned(),
            secrets: std::sync::Mutex::new(secrets),
            extensions: std::sync::OnceLock::new(),
            state: Mutex::new(State {
                turn: None,
                between,
                flushing: false,
                said: 0,
                muted: false,
                cost_micros: cost_micros.unwrap_or(0),
                cost_known: cost_micros.is_some(),
                context: None,
            }),
            me: me.clone(),
        })
    }

    /// The agent has said who it is.
    pub(super) fn set_name(&self, name: &str) {
        // Set once, when it is opened.
        let _ = self.name.set(name.to_owned());
    }

    fn name(&self) -> String {
        self.name.get().unwrap_or(&self.provider_id).clone()
    }

    pub(super) fn session(&self) -> &SessionHandle {
        &self.session
    }

    pub(super) fn secrets(&self) -> Arc<SecretFilter> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the agent is given. Set once, before it is opened.
    pub(super) fn set_extensions(&self, extensions: &Arc<SessionExtensions>) {
        let _ = self.extensions.set(Arc::downgrade(extensions));
    }

    pub(super) fn extensions(&self) -> Option<Arc<SessionExtensions>> {
        self.extensions.get()?.upgrade()
    }

    /// The session's mode as it is now.
    pub(super) async fn session_mode(&self) -> Mode {
        let read = self.session.edit(|core| Ok(core.state.session.mode)).await;
        let mode = read.ok().and_then(Result::ok).and_then(|read| read.value);
        mode.unwrap_or_else(|| self.services.configured_mode())
    }

    /// The token that ends what the agent does for its turn; already cancelled where the turn was cut and the agent has
    /// not noticed. Between turns nothing cancels it.
    pub(super) async fn until_cut(&self) -> CancellationToken {
        let state = self.state.lock().await;
        match &state.turn {
            Some(turn) => turn.over.clone(),
            None => {
                let token = CancellationToken::new();
                if state.muted {
                    token.cancel();
                }
                token
            }
        }
    }

    /// Something that the agent did by way of gander, as part of its turn if there is one.
    pub(super) async fn note(&self, payload: Payload) {
        let turn_id = self.state.lock().await.turn.as_ref().map(|turn| turn.turn_id.clone());
        self.emit(turn_id, Out { payloads: vec![payload], ..Out::default() }).await;
    }

    /// What follows belongs to this turn, which may cost so much more.
    pub(super) async fn begin(
        &self,
        turn_id: &TurnId,
        cancel: &CancellationToken,
        mode: Option<Mode>,
        allowance_micros: Option<i64>,
    ) -> Signals {
        let mut state = self.state.lock().await;
        let mut out = Out::default();
        state.between.close_open(&mut out);
        self.emit(None, out).await;
        // An agent may live for longer than a secret is unknown.
        let secrets = Arc::new(self.services.secret_filter());
        *self.secrets.lock().unwrap_or_else(PoisonError::into_inner) = secrets.clone();
        state.between.set_secrets(secrets.clone());
        let transcript =
            Transcript::new(self.services.source.clone(), secrets, Some(turn_id.clone()), &self.model_id);
        let (stop, spent) = (CancellationToken::new(), CancellationToken::new());
        state.muted = false;
        state.turn = Some(Turn {
            turn_id: turn_id.clone(),
            cancel: cancel.clone(),
            over: cancel.child_token(),
            stop: stop.clone(),
            mode,
            transcript,
            cost: None,
            allowance_micros,
            spent: spent.clone(),
        });
        Signals { stop, spent }
    }

    /// Shows the agent's settings as they are now.
    pub(super) async fn show_options(&self, options: Vec<SessionOption>) {
        self.edit(|core| set_options(core, options)).await;
    }

    /// The agent has ended its prompt; gives what it has cost.
    pub(super) async fn end(&self) -> Option<Cost> {
        let mut state = self.state.lock().await;
        let mut turn = state.turn.take()?;
        let mut out = Out::default();
        turn.transcript.finish(&mut out);
        self.emit(Some(turn.turn_id), out).await;
        turn.cost
    }

    /// The turn was cut; its open items are closed with it. Until the agent has noticed nothing is stored.
    pub(super) async fn cut(&self) {
        let mut state = self.state.lock().await;
        if let Some(turn) = state.turn.take() {
            turn.over.cancel();
        }
        state.muted = true;
    }

    /// The agent has noticed.
    pub(super) async fn unmute(&self) {
        self.state.lock().await.muted = false;
    }

    /// What the agent's session has cost so far, as it counts.
    pub(super) async fn cost_micros(&self) -> i64 {
        self.state.lock().await.cost_micros
    }

    async fn emit(&self, turn_id: Option<TurnId>, out: Out) {
        if self.session.emit(turn_id, out.payloads, out.contents).await.is_err() {
            tracing::debug!("an update of the agent came after the session was unloaded");
        }
    }

    async fn edit(&self, edit: impl FnOnce(&mut Core) + Send + 'static) {
        let done = self.session.edit(move |core| {
            edit(core);
            Ok(())
        });
        if done.await.is_err() {
            tracing::debug!("an update of the agent came after the session was unloaded");
        }
    }

    async fn take(&self, update: AgentUpdate) {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        let turn_id = state.turn.as_ref().map(|turn| turn.turn_id.clone());
        match update {
            AgentUpdate::Plan(entries) => {
                let plan = Plan { plan_id: "agent".to_owned(), entries, source_text: String::new() };
                let out = Out { payloads: vec![Payload::PlanUpdated { plan }], ..Out::default() };
                self.emit(turn_id, out).await;
            }
            AgentUpdate::Commands(commands) => self.edit(|core| set_commands(core, commands)).await,
            AgentUpdate::Options(options) => {
                self.edit(|core| set_options(core, options)).await;
            }
            AgentUpdate::Title(title) => self.edit(|core| set_title(core, title)).await,
            AgentUpdate::Usage { context_used_tokens, context_window_tokens, cost } => {
                state.context = Some((context_used_tokens, context_window_tokens));
                let cost = cost.and_then(|cost| self.new_cost(state, cost));
                if let (Some(turn), Some(cost)) = (&mut state.turn, &cost) {
                    turn.spend(cost);
                }
                let context = state.context;
                self.edit(move |core| report(core, turn_id, Usage::default(), cost, context)).await;
            }
            conversation => self.converse(state, conversation).await,
        }
    }

    async fn converse(&self, state: &mut State, update: AgentUpdate) {
        if state.muted {
            tracing::debug!("the agent goes on after a cancel; left out");
            return;
        }
        let of_call = match &update {
            AgentUpdate::ToolCall(call) => Some(call.call_id.clone()),
            AgentUpdate::ToolOutput { call_id, .. } => Some(call_id.clone()),
            _ => None,
        };
        let elsewhere = of_call.is_some_and(|call_id| state.between.has_call(&call_id));
        let (transcript, turn_id) = match &mut state.turn {
            Some(turn) if !elsewhere => (&mut turn.transcript, Some(turn.turn_id.clone())),
            _ => (&mut state.between, None),
        };
        let mut out = Out::default();
        match update {
            AgentUpdate::Text { message_id, text } => transcript.text(message_id.as_deref(), &text, &mut out),
            AgentUpdate::Thought { message_id, text } => {
                transcript.thought(message_id.as_deref(), &text, &mut out);
            }
            AgentUpdate::Part { message_id, part } => transcript.part(message_id.as_deref(), part, &mut out),
            AgentUpdate::ToolCall(call) => {
                transcript.tool_call(*call, &mut out);
            }
            AgentUpdate::ToolOutput { call_id, text } => transcript.tool_output(&call_id, &text, &mut out),
            AgentUpdate::Notice { level, code, text } => transcript.notice(level, &code, text, &mut out),
            _ => {}
        }
        if turn_id.is_none() {
            state.said += 1;
            if !std::mem::replace(&mut state.flushing, true)
                && let Some(me) = self.me.upgrade()
            {
                self.services.tasks.spawn(async move { me.flush_when_silent().await });
            }
        }
        self.emit(turn_id, out).await;
    }

    /// Stores what an agent says between turns once it falls silent.
    async fn flush_when_silent(&self) {
        let mut said = 0;
        let mut held = Duration::ZERO;
        loop {
            tokio::time::sleep(SILENCE).await;
            held += SILENCE;
            let mut state = self.state.lock().await;
            if state.said != said && held < MAX_HELD {
                said = state.said;
                continue;
            }
            state.flushing = false;
            let mut out = Out::default();
            state.between.close_open(&mut out);
            self.emit(None, out).await;
            return;
        }
    }

    /// What was spent since the agent last said what its session has cost.
    fn new_cost(&self, state: &mut State, cost: Cost) -> Option<Cost> {
        let before = std::mem::replace(&mut state.cost_micros, cost.amount_micros);
        // An agent that starts to count anew has spent what it says; one that goes on from before we knew has not.
        let known = std::mem::replace(&mut state.cost_known, true);
        let spent = match known {
            true if cost.amount_micros >= before => cost.amount_micros - before,
            true => cost.amount_micros,
            false if state.turn.is_some() => cost.amount_micros,
            false => 0,
        };
        (spent > 0).then_some(Cost { amount_micros: spent, source: CostSource::Provider, ..cost })
    }

    /// Tokens of a whole prompt.
    pub(super) async fn report_usage(&self, turn_id: Option<TurnId>, usage: Usage) {
        let context = self.state.lock().await.context;
        self.edit(move |core| report(core, turn_id, usage, None, context)).await;
    }

    /// Asks and waits. The question is withdrawn when the future is dropped, and when the turn is cancelled.
    async fn ask(
        &self,
        turn: Option<(TurnId, CancellationToken)>,
        item_id: Option<ItemId>,
        kind: InteractionKind,
        expiry: Duration,
    ) -> Option<Resolution> {
        let source = &self.services.source;
        let now = source.now();
        let interaction_id = source.interaction_id();
        let (turn_id, cancel) =
            turn.map_or((None, CancellationToken::new()), |(id, token)| (Some(id), token));
        let interaction = Interaction {
            interaction_id: interaction_id.clone(),
            turn_id: turn_id.clone(),
            item_id,
            kind,
            state: InteractionState::Pending,
            create_time: now,
            expire_time: now.plus(expiry),
            outcome: None,
            answer: None,
            answered_by: None,
        };
        // Before it is asked: an asker that goes away while the question is written has to take it back too.
        let withdraw = Withdraw::new(&self.session, &self.services.tasks, interaction_id);
        let asked = self.session.edit(move |core| {
            // A question of a turn that has just ended would stay open for ever.
            let over = turn_id.is_some() && core.state.session.active_turn_id != turn_id;
            Ok((!over).then(|| core.ask(interaction)))
        });
        let receiver = asked.await.ok()?.ok()?.value?;
        let resolution = tokio::select! {
            biased;
            resolution = receiver => resolution.ok(),
            // The end of the turn resolves it.
            () = cancel.cancelled() => None,
        };
        withdraw.done();
        resolution
    }

    /// The snapshot of the call that permission is asked for, and the turn that it belongs to.
    async fn asked_call(
        &self,
        call: gander_model::AgentToolCall,
    ) -> Option<(ToolCall, Option<ItemId>, Option<Turned>)> {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        if state.muted {
            return None;
        }
        let call_id = call.call_id.clone();
        let elsewhere = state.between.has_call(&call_id);
        let mut out = Out::default();
        let (transcript, turned) = match &mut state.turn {
            Some(turn) if !elsewhere => {
                let turned = Turned {
                    turn_id: turn.turn_id.clone(),
                    cancel: turn.cancel.clone(),
                    stop: turn.stop.clone(),
                };
                (&mut turn.transcript, Some(turned))
            }
            _ => (&mut state.between, None),
        };
        let item_id = transcript.tool_call(call, &mut out);
        let snapshot = transcript.call(&call_id).cloned();
        self.emit(turned.as_ref().map(|t| t.turn_id.clone()), out).await;
        Some((snapshot?, item_id.filter(|_| turned.is_some()), turned))
    }

    async fn set_permission(&self, call_id: &str, status: ToolCallStatus, record: Option<PermissionRecord>) {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        let mut out = Out::default();
        let turn_id = match &mut state.turn {
            Some(turn) if turn.transcript.has_call(call_id) => {
                turn.transcript.set_permission(call_id, status, record, &mut out);
                Some(turn.turn_id.clone())
            }
            _ => {
                state.between.set_permission(call_id, status, record, &mut out);
                None
            }
        };
        self.emit(turn_id, out).await;
    }

    /// What mode and rules say of an agent's call. Of a tool that the agent was given more is known than its name.
    async fn verdict(&self, call: &ToolCall) -> Verdict {
        let tools = self.extensions().map(|extensions| extensions.tools()).unwrap_or_default();
        let given = tools.into_iter().find(|tool| is_given_tool(call, tool));
        self.verdict_of(&given.unwrap_or_else(|| definition(call))).await
    }

    pub(super) async fn verdict_of(&self, tool: &ToolDefinition) -> Verdict {
        let turns = self.state.lock().await.turn.as_ref().and_then(|turn| turn.mode);
        let read = self.session.edit(|core| Ok((core.applicable_rules(), core.state.session.mode))).await;
        let Ok(Ok(read)) = read else { return Verdict::Ask };
        let (rules, session_mode) = read.value;
        let mode = turns.or(session_mode).unwrap_or_else(|| self.services.configured_mode());
        permission::decide(mode, tool, &rules)
    }

    async fn decide(&self, question: AgentPermission) -> Option<String> {
        let call_id = question.call.call_id.clone();
        let (call, item_id, turned) = self.asked_call(question.call).await?;
        let options = question.options;
        let allowed = |allowed: bool, source: &str| PermissionRecord { allowed, source: source.to_owned() };
        match self.verdict(&call).await {
            Verdict::Allow(source) => {
                if let Some(id) = choose(&options, true, false) {
                    self.set_permission(&call_id, ToolCallStatus::Running, Some(allowed(true, source))).await;
                    return Some(id);
                }
            }
            Verdict::Deny { source, .. } => {
                self.set_permission(&call_id, call.status, Some(allowed(false, source))).await;
                return choose(&options, false, false);
            }
            Verdict::Ask => {}
        }
        self.set_permission(&call_id, ToolCallStatus::AwaitingApproval, None).await;
        let snapshot = ToolCall { status: ToolCallStatus::AwaitingApproval, ..call };
        let asked = PermissionQuestion {
            tool_call: snapshot,
            reason: PermissionReason::Policy,
            prompt: String::new(),
            options: options.iter().map(offered).collect(),
        };
        let expiry = self.services.options.permission_expiry;
        let kind = InteractionKind::Permission(Box::new(asked.clone()));
        let end = turned.as_ref().map(|t| t.stop.clone());
        let turn = turned.map(|t| (t.turn_id, t.cancel));
        let resolution = self.ask(turn, item_id, kind, expiry).await?;
        let (id, record, stop) = answered(&asked, &options, &resolution);
        if let Some(record) = record {
            let status =
                if record.allowed { ToolCallStatus::Running } else { ToolCallStatus::AwaitingApproval };
            self.set_permission(&call_id, status, Some(record)).await;
        }
        if let Some(end) = end.filter(|_| stop) {
            end.cancel();
        }
        id
    }

    async fn form(&self, question: AgentElicitation) -> AgentElicitationAnswer {
        let turn = {
            let state = self.state.lock().await;
            if state.muted {
                return AgentElicitationAnswer::Cancel;
            }
            state.turn.as_ref().map(|turn| (turn.turn_id.clone(), turn.cancel.clone()))
        };
        let extension_name = self.name();
        let kind = match question {
            AgentElicitation::Form { message, schema_json } => {
                InteractionKind::ElicitForm { extension_name, message, schema_json }
            }
            AgentElicitation::Url { message, url } => InteractionKind::OpenUrl {
                purpose: UrlPurpose::Elicitation,
                extension_name,
                url,
                message,
                accepts_callback_url: false,
            },
        };
        let Some(resolution) = self.ask(turn, None, kind, ELICIT_EXPIRY).await else {
            return AgentElicitationAnswer::Cancel;
        };
        match resolution.answer {
            Some(Answer::Form { action: FormAction::Accept, content_json }) => {
                AgentElicitationAnswer::Accept(content_json.or_else(|| Some("{}".to_owned())))
            }
            Some(Answer::Url { done: true, .. }) => AgentElicitationAnswer::Accept(None),
            Some(Answer::Form { action: FormAction::Cancel, .. }) => AgentElicitationAnswer::Cancel,
            None if resolution.outcome == InteractionOutcome::Voided => AgentElicitationAnswer::Cancel,
            _ => AgentElicitationAnswer::Decline,
        }
    }

    async fn host(&self, kind: HostCallKind) -> Option<HostCallOutcome> {
        let terminal = matches!(kind, HostCallKind::TerminalRun { .. });
        if terminal && !self.services.editor_terminals() {
            return None;
        }
        let deadline = if terminal { HOST_TERMINAL } else { HOST_FILE };
        let outcome = ask_able_host(&self.session, HostAsk::new(kind, deadline)).await?;
        Some(outcome.unwrap_or_else(|error| HostCallOutcome::Failed {
            message: error.message,
            refused: error.reason == ErrorReason::CapabilityMissing,
        }))
    }
}

/// What a question needs of its turn.
struct Turned {
    turn_id: TurnId,
    cancel: CancellationToken,
    stop: CancellationToken,
}

impl Turn {
    /// Counts what the agent has spent.
    fn spend(&mut self, cost: &Cost) {
        let before = self.cost.as_ref().map_or(0, |cost| cost.amount_micros);
        let amount_micros = before.saturating_add(cost.amount_micros);
        self.cost = Some(Cost { amount_micros, ..cost.clone() });
        if self.allowance_micros.is_some_and(|allowance| amount_micros >= allowance) {
            self.spent.cancel();
        }
    }
}

impl AgentClient for Bridge {
    fn update(&self, update: AgentUpdate) -> BoxFuture<'_, ()> {
        self.take(update).boxed()
    }

    fn forbids_work(&self) -> BoxFuture<'_, Option<String>> {
        async {
            let turns = self.state.lock().await.turn.as_ref().and_then(|turn| turn.mode);
            let mode = match turns {
                Some(mode) => mode,
                None => self.session_mode().await,
            };
            (mode == Mode::Chat).then(|| "tools are off in chat mode; answer without them".to_owned())
        }
        .boxed()
    }

    fn permission(&self, question: AgentPermission) -> BoxFuture<'_, Option<String>> {
        self.decide(question).boxed()
    }

    fn elicit(&self, question: AgentElicitation) -> BoxFuture<'_, AgentElicitationAnswer> {
        self.form(question).boxed()
    }

    fn host_call(&self, kind: HostCallKind) -> BoxFuture<'_, Option<HostCallOutcome>> {
        self.host(kind).boxed()
    }
}
