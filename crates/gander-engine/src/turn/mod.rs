//! The turn task: model call, tools, model call, until the model is done or a bound is reached.
//!
//! It owns no history: before each model call it asks its session for the conversation. All it produces goes through
//! the session's actor; it reports exactly one outcome, and the actor writes the end.

mod agent;
mod checks;
mod command;
mod compact;
mod delegate;
mod describe;
mod guard;
mod judge;
mod own;
mod request;
mod response;
mod retry;
mod tools;
mod usage;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use gander_domain::{
    ErrorDetail, ErrorReason, Item, ItemBody, Payload, Sequence, TurnId,
    fold::ItemEntry,
    item::{ItemState, Notice, NoticeLevel, Origin, Visibility},
    session::{Mode, Session},
    tool::ToolDefinition,
    turn::{StopReason, TurnLimits, TurnOutcome},
};
use gander_mcp::SessionExtensions;
use gander_model::{ModelError, ModelErrorClass, ModelRequest, ModelStop};
use gander_store::NewContent;
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    agent::{AgentLinks, OPTION_PREFIX, set_agent_option},
    command::{TurnWork, ready_prompts},
    delegate::EXTENSION as DELEGATE_EXTENSION,
    own::FINAL_OUTPUT_TOOL,
    usage::{CallReport, Spent},
};
use self::{
    request::Material,
    response::{Response, ResponseEnd},
    usage::Gauge,
};
use crate::{
    compaction::Trigger,
    models::ResolvedModel,
    redact::SecretFilter,
    services::Services,
    session::{ExtensionPlan, SessionHandle},
    source::Mint,
};

/// How long running tools may take to wind down when the turn is cancelled.
const WIND_DOWN: Duration = Duration::from_millis(500);
/// Model events handled at once when they are ready at once.
const READY_CHUNK: usize = 128;

pub(crate) struct TurnTaskStart {
    pub services: Arc<Services>,
    pub session: SessionHandle,
    pub turn_id: TurnId,
    pub cancel: CancellationToken,
    pub model: ResolvedModel,
    pub mode: Option<Mode>,
    pub limits: TurnLimits,
    /// What it used, which others may add to.
    pub spent: Arc<Spent>,
    pub extensions: Option<Arc<SessionExtensions>>,
    pub wait_for_extensions: Duration,
    pub work: TurnWork,
    /// The session's extensions, where the model is an agent that is to run them.
    pub agent_plan: Option<ExtensionPlan>,
    /// JSON Schema of the final answer, as the request wants it.
    pub response_schema_json: Option<String>,
}

pub(crate) struct TurnTask {
    spent: Arc<Spent>,
    start: TurnTaskStart,
    model_calls: u32,
    tools_ran: bool,
    gauge: Gauge,
    /// Model calls made when the conversation was last summarized in this turn.
    compacted_after: Option<u32>,
    material: Arc<Material>,
    secrets: Arc<SecretFilter>,
    own: own::Own,
}

/// How one model call ended for the turn.
enum Call {
    Again,
    Done(StopReason),
}

/// The session has gone, or the turn is being cancelled: there is nothing more to do.
struct Stopped;

impl From<Stopped> for TurnOutcome {
    fn from(_: Stopped) -> Self {
        Self::Cancelled
    }
}

type TurnResult<T> = Result<T, TurnOutcome>;

/// What a model call needs to know of its session.
struct Snapshot {
    session: Session,
    entries: Vec<ItemEntry>,
    items: Vec<Arc<Item>>,
    host_tools: Vec<ToolDefinition>,
    through: Sequence,
    /// The agent's todo list, as its extension wrote it.
    plan: Option<String>,
}

/// A response that broke off.
struct Broken {
    error: ModelError,
    /// The provider had begun to answer.
    began: bool,
}

impl TurnTask {
    pub(crate) fn new(start: TurnTaskStart) -> Self {
        let secrets = Arc::new(start.services.secret_filter());
        Self {
            spent: Arc::clone(&start.spent),
            start,
            model_calls: 0,
            tools_ran: false,
            gauge: Gauge::default(),
            compacted_after: None,
            material: Arc::default(),
            secrets,
            own: own::Own::default(),
        }
    }

    pub(crate) async fn run(mut self) -> TurnOutcome {
        let cancel = self.start.cancel.clone();
        let limit = self.start.limits.max_duration_ms.map(Duration::from_millis);
        let cancelled = async {
            cancel.cancelled().await;
            // Every wait of the work ends with the cancel; this is for the tools, which say what they had so far.
            tokio::time::sleep(WIND_DOWN).await;
        };
        let mut work = std::pin::pin!(self.work());
        tokio::select! {
            biased;
            outcome = &mut work => outcome,
            () = cancelled => TurnOutcome::Cancelled,
            () = sleep_for(limit) => {
                // As with a cancel: tools say what they had so far, and sub-agents end.
                cancel.cancel();
                let _ = tokio::time::timeout(WIND_DOWN, &mut work).await;
                TurnOutcome::Completed(StopReason::Budget)
            }
        }
    }

    /// Waits for something that does not wind down by itself when the turn is cancelled.
    async fn unless_cancelled<T>(&self, wait: impl Future<Output = T>) -> TurnResult<T> {
        tokio::select! {
            biased;
            () = self.start.cancel.cancelled() => Err(TurnOutcome::Cancelled),
            value = wait => Ok(value),
        }
    }

    async fn work(&mut self) -> TurnOutcome {
        let done = match std::mem::take(&mut self.start.work) {
            TurnWork::Model => self.loop_calls().await,
            work => Box::pin(self.run_command(work)).await,
        };
        match done {
            Ok(stop) => TurnOutcome::Completed(stop),
            Err(TurnOutcome::Failed(mut error)) => {
                self.secrets.clean_error(&mut error);
                TurnOutcome::Failed(error)
            }
            Err(outcome) => outcome,
        }
    }

    async fn loop_calls(&mut self) -> TurnResult<StopReason> {
        if let Some(agent) = self.start.model.provider.agent() {
            self.note_what_agents_lack().await?;
            return Box::pin(self.drive_agent(agent)).await;
        }
        self.await_extensions().await?;
        let snapshot = self.snapshot().await?;
        // Both read files: at the same time, as the user waits for the first word.
        let (own, material) = Box::pin(async {
            tokio::try_join!(own::Own::load(self, &snapshot), self.read_material(&snapshot))
        })
        .await?;
        (self.own, self.material) = (own, Arc::new(material));
        let max_calls =
            self.start.limits.max_model_calls.unwrap_or_else(|| self.start.services.max_model_calls());
        loop {
            if self.model_calls >= max_calls {
                return Ok(StopReason::MaxModelCalls);
            }
            if self.budget_spent() {
                return Ok(StopReason::Budget);
            }
            match self.call_model().await? {
                Call::Again => {}
                Call::Done(stop) => return Ok(stop),
            }
        }
    }

    fn budget_spent(&self) -> bool {
        self.spent.reaches(&self.start.limits)
    }

    /// Waits for starting extensions, then goes on without those that are absent and says which.
    async fn await_extensions(&self) -> TurnResult<()> {
        let Some(extensions) = &self.start.extensions else { return Ok(()) };
        let statuses = self.unless_cancelled(extensions.wait_ready(self.start.wait_for_extensions)).await?;
        let mut payloads = Vec::new();
        for status in statuses {
            use gander_domain::extension::ExtensionState as S;
            if matches!(status.state, S::Ready | S::Degraded) {
                continue;
            }
            let why = status.error.as_ref().map_or_else(|| status.cause.clone(), |e| e.message.clone());
            let name = &status.summary.name;
            let text = match status.state {
                S::Starting | S::Restarting => {
                    format!("extension {name} is still starting; the turn goes on without it")
                }
                _ => format!("extension {name} is not available: {why}"),
            };
            payloads.push(self.notice(NoticeLevel::Warning, "extension_unavailable", text));
        }
        Ok(self.emit(payloads).await?)
    }

    fn notice(&self, level: NoticeLevel, code: &str, mut text: String) -> Payload {
        self.secrets.clean(&mut text);
        let notice = Notice { level, code: code.to_owned(), text, data_json: None };
        let visibility = Visibility { user: true, model: false };
        Payload::ItemCompleted { item: Box::new(self.item(ItemBody::Notice(notice), visibility)) }
    }

    /// A completed item of the engine's own.
    fn item(&self, body: ItemBody, visibility: Visibility) -> Item {
        let source = &self.start.services.source;
        let now = source.now();
        Item {
            item_id: source.item_id(),
            turn_id: Some(self.start.turn_id.clone()),
            message_id: source.message_id(),
            body,
            state: ItemState::Completed,
            incomplete: false,
            visibility,
            origin: Origin::Engine,
            create_time: now,
            client_create_time: None,
            complete_time: Some(now),
            redacted: false,
            model_id: None,
            provider_state_json: None,
        }
    }

    async fn emit(&self, payloads: Vec<Payload>) -> Result<(), Stopped> {
        self.emit_with(payloads, Vec::new()).await
    }

    async fn emit_with(&self, payloads: Vec<Payload>, contents: Vec<NewContent>) -> Result<(), Stopped> {
        let turn_id = Some(self.start.turn_id.clone());
        self.start.session.emit(turn_id, payloads, contents).await.map_err(|_| Stopped)
    }

    async fn snapshot(&self) -> Result<Snapshot, Stopped> {
        let read = self.start.session.edit(|core| {
            let entries = core.state.model_entries();
            Ok(Snapshot {
                session: core.state.session.clone(),
                items: entries.iter().map(|e| e.item.clone()).collect(),
                entries,
                host_tools: core.host_capabilities().map(|h| h.tools.clone()).unwrap_or_default(),
                through: core.state.last_sequence(),
                plan: core.state.plan.as_ref().map(|p| p.source_text.clone()),
            })
        });
        match read.await {
            Ok(Ok(committed)) => Ok(committed.value),
            _ => Err(Stopped),
        }
    }

    /// One response of the model with the tools it asks for.
    async fn call_model(&mut self) -> TurnResult<Call> {
        let mut snapshot = self.snapshot().await?;
        let mode = self.mode(&snapshot.session);
        let tools = self.tools(&snapshot, mode);
        if self.is_nearly_full(&snapshot, &tools)
            && Box::pin(self.compact_if_possible(Trigger::Threshold)).await?
        {
            snapshot = self.snapshot().await?;
        }
        let (end, through, history) = self.ask_model(snapshot, mode, &tools).await?;
        if !end.calls.is_empty() {
            self.tools_ran = true;
            tools::run_calls(self, mode, &tools, &history, end.calls).await?;
            if self.start.cancel.is_cancelled() {
                return Err(TurnOutcome::Cancelled);
            }
            return Box::pin(self.after_tools()).await;
        }
        match end.stop {
            ModelStop::MaxOutputTokens => Ok(Call::Done(StopReason::MaxOutputTokens)),
            ModelStop::Refusal => Ok(Call::Done(StopReason::Refusal)),
            ModelStop::EndTurn | ModelStop::ToolCalls => {
                let steered = self.steered_since(through).await?;
                if steered { Ok(Call::Again) } else { Box::pin(self.at_end()).await }
            }
        }
    }

    /// The model's response, whatever attempts it takes; with the sequence up to which it saw the log, and what it saw.
    async fn ask_model(
        &mut self,
        mut snapshot: Snapshot,
        mode: Mode,
        tools: &[ToolDefinition],
    ) -> TurnResult<(ResponseEnd, Sequence, Vec<Arc<Item>>)> {
        let mut request = self.request(&snapshot, mode, tools).await?;
        let (mut attempt, mut compacted) = (1, false);
        let end = loop {
            self.model_calls += 1;
            let started = Payload::ModelCallStarted {
                model: self.start.model.selection.clone(),
                call_index: self.model_calls,
            };
            self.emit(vec![started]).await?;
            match self.stream(request.clone()).await? {
                Ok(end) => break end,
                Err(broken) if broken.error.class == ModelErrorClass::ContextExceeded => {
                    if compacted || !Box::pin(self.compact_if_possible(Trigger::Overflow)).await? {
                        return Err(TurnOutcome::Failed(self.too_long(&broken.error, compacted)));
                    }
                    compacted = true;
                    snapshot = self.snapshot().await?;
                    request = self.request(&snapshot, mode, tools).await?;
                }
                Err(broken) if broken.error.held_back => self.wait_as_asked(&broken.error).await?,
                Err(broken) => self.pause_before_retry(&broken, &mut attempt).await?,
            }
        };
        self.note_usage(&end, &snapshot).await?;
        Ok((end, snapshot.through, snapshot.items))
    }

    fn too_long(&self, error: &ModelError, compacted: bool) -> ErrorDetail {
        let mut detail = error.to_detail(&self.start.model.selection.provider_id);
        let what =
            if compacted { "even after it was summarized" } else { "and there is nothing to summarize" };
        detail.message = format!(
            "the conversation does not fit into the context window of {}, {what}; use a model with a larger window, \
             shorten the message, or start anew with /clear ({})",
            self.start.model.selection.model_id, detail.message
        );
        debug_assert_eq!(detail.reason, ErrorReason::ContextWindowExceeded);
        detail
    }

    /// Whether the user said something that the last model call did not see.
    async fn steered_since(&self, through: Sequence) -> Result<bool, Stopped> {
        let read = self.start.session.edit(move |core| {
            let mut newer = core.state.items.iter().rev().take_while(|e| e.first_sequence > through);
            Ok(newer.any(|e| matches!(&e.item.body, ItemBody::UserMessage(m) if m.steered)))
        });
        match read.await {
            Ok(Ok(committed)) => Ok(committed.value),
            _ => Err(Stopped),
        }
    }

    /// Waits for a provider that was not asked, since it wants to be left alone; that is no attempt.
    async fn wait_as_asked(&self, held_back: &ModelError) -> TurnResult<()> {
        let provider_id = &self.start.model.selection.provider_id;
        let wait = held_back.retry_after.unwrap_or(Duration::from_secs(1));
        // Not all at the same moment.
        let wait = wait.mul_f64(1.0 + rand::rng().random_range(0.0..0.1));
        let text =
            format!("{provider_id} asked for a pause; the model is called in {} s", wait.as_secs() + 1);
        self.emit(vec![Payload::StatusNoted {
            level: NoticeLevel::Info,
            code: "provider_pause".to_owned(),
            text,
        }])
        .await?;
        self.unless_cancelled(tokio::time::sleep(wait)).await
    }

    async fn pause_before_retry(&self, broken: &Broken, attempt: &mut u32) -> TurnResult<()> {
        let (error, services) = (&broken.error, &self.start.services);
        let provider_id = &self.start.model.selection.provider_id;
        let mut detail = error.to_detail(provider_id);
        self.secrets.clean_error(&mut detail);
        let failed =
            retry::Failed { error, attempt: *attempt, began: broken.began, tools_ran: self.tools_ran };
        let pause = retry::pause(failed, services.options.retry_base, rand::rng().random_range(0.0..1.0));
        let Some(pause) = pause else { return Err(TurnOutcome::Failed(detail)) };
        let scheduled = Payload::ModelRetryScheduled {
            attempt: *attempt,
            delay_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            error: detail,
        };
        self.emit(vec![scheduled]).await?;
        self.unless_cancelled(tokio::time::sleep(pause)).await?;
        *attempt += 1;
        Ok(())
    }

    /// Streams one response into the log. The outer error ends the turn, the inner one may be retried.
    async fn stream(&self, request: ModelRequest) -> TurnResult<Result<ResponseEnd, Broken>> {
        let mut response = Response::new(
            self.start.services.source.clone(),
            self.start.turn_id.clone(),
            self.start.model.selection.provider_id == "demo",
            &self.start.model.selection.model_id,
        );
        let mut began = false;
        let mut stream = self.start.model.provider.stream(request).ready_chunks(READY_CHUNK);
        while let Some(chunk) = self.unless_cancelled(stream.next()).await? {
            let mut payloads = Vec::new();
            for event in chunk {
                match event {
                    Ok(event) => {
                        began = true;
                        response.event(event, &mut payloads);
                    }
                    Err(error) => {
                        response.abandon(&mut payloads);
                        self.emit(payloads).await?;
                        return Ok(Err(Broken { error, began }));
                    }
                }
            }
            self.emit(payloads).await?;
            if response.is_finished() {
                break;
            }
        }
        let mut payloads = Vec::new();
        let end = response.finish(&mut payloads);
        self.emit(payloads).await?;
        Ok(end.map_err(|error| Broken { error, began }))
    }

    fn mode(&self, session: &Session) -> Mode {
        self.start.mode.or(session.mode).unwrap_or_else(|| self.start.services.configured_mode())
    }
}

async fn sleep_for(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
