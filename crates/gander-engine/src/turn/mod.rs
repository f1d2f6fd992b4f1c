//! The turn task: model call, tools, model call, until the model is done or a bound is reached.
//!
//! It owns no history: before each model call it asks its session for the conversation. All it produces goes through
//! the session's actor; it reports exactly one outcome, and the actor writes the end.

mod describe;
mod response;
mod tools;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use gander_domain::{
    ContentId, Item, ItemBody, Part, PartBody, Payload, TurnId, Usage,
    content::{Blob, Data},
    item::{ItemState, Notice, NoticeLevel, Origin, Visibility},
    session::{Mode, Session},
    tool::ToolDefinition,
    turn::{StopReason, TurnLimits, TurnOutcome},
    usage::{Cost, UsagePurpose},
};
use gander_mcp::SessionExtensions;
use gander_model::{ModelError, ModelRequest, ModelStop};
use gander_store::NewContent;
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;

use self::response::{Response, ResponseEnd};
use crate::{
    models::ResolvedModel,
    prompt::{PromptInput, system_prompt},
    services::Services,
    session::SessionHandle,
    source::{Mint, civil_date},
};

/// Attempts of one model call.
const MAX_ATTEMPTS: u32 = 4;
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
    pub extensions: Option<Arc<SessionExtensions>>,
    pub wait_for_extensions: Duration,
}

pub(crate) struct TurnTask {
    start: TurnTaskStart,
    usage: Usage,
    cost_micros: i64,
    model_calls: u32,
    tools_ran: bool,
}

/// How one model call ended for the turn.
enum Call {
    Again,
    Done(StopReason),
}

/// The session has gone, or the turn is being cancelled: there is nothing more to do.
struct Stopped;

type TurnResult<T> = Result<T, TurnOutcome>;

/// What a model call needs to know of its session.
struct Snapshot {
    session: Session,
    items: Vec<Arc<Item>>,
    host_tools: Vec<ToolDefinition>,
}

impl TurnTask {
    pub(crate) fn new(start: TurnTaskStart) -> Self {
        Self { start, usage: Usage::default(), cost_micros: 0, model_calls: 0, tools_ran: false }
    }

    pub(crate) async fn run(mut self) -> TurnOutcome {
        let cancel = self.start.cancel.clone();
        let limit = self.start.limits.max_duration_ms.map(Duration::from_millis);
        let cancelled = async {
            cancel.cancelled().await;
            // Every wait of the work ends with the cancel; this is for the tools, which say what they had so far.
            tokio::time::sleep(WIND_DOWN).await;
        };
        let work = self.work();
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = cancelled => TurnOutcome::Cancelled,
            () = sleep_for(limit) => TurnOutcome::Completed(StopReason::Budget),
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
        match self.loop_calls().await {
            Ok(stop) => TurnOutcome::Completed(stop),
            Err(outcome) => outcome,
        }
    }

    async fn loop_calls(&mut self) -> TurnResult<StopReason> {
        self.await_extensions().await?;
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
        let limits = &self.start.limits;
        let tokens = self.usage.total_tokens.unwrap_or_else(|| {
            self.usage.input_tokens.unwrap_or(0).saturating_add(self.usage.output_tokens.unwrap_or(0))
        });
        limits.max_tokens.is_some_and(|max| tokens >= max)
            || limits.max_cost_micros.is_some_and(|max| self.cost_micros >= max)
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
        self.emit(payloads).await.map_err(|Stopped| TurnOutcome::Cancelled)
    }

    fn notice(&self, level: NoticeLevel, code: &str, text: String) -> Payload {
        let source = &self.start.services.source;
        let now = source.now();
        let notice = Notice { level, code: code.to_owned(), text, data_json: None };
        Payload::ItemCompleted {
            item: Box::new(Item {
                item_id: source.item_id(),
                turn_id: Some(self.start.turn_id.clone()),
                message_id: source.message_id(),
                body: ItemBody::Notice(notice),
                state: ItemState::Completed,
                incomplete: false,
                visibility: Visibility { user: true, model: false },
                origin: Origin::Engine,
                create_time: now,
                client_create_time: None,
                complete_time: Some(now),
                redacted: false,
                model_id: None,
                provider_state_json: None,
            }),
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
            Ok(Snapshot {
                session: core.state.session.clone(),
                items: core.state.model_items(),
                host_tools: core.host_capabilities().map(|h| h.tools.clone()).unwrap_or_default(),
            })
        });
        match read.await {
            Ok(Ok(committed)) => Ok(committed.value),
            _ => Err(Stopped),
        }
    }

    /// One response of the model with the tools it asks for.
    async fn call_model(&mut self) -> TurnResult<Call> {
        let stopped = |Stopped| TurnOutcome::Cancelled;
        let snapshot = self.snapshot().await.map_err(stopped)?;
        let mode = self.mode(&snapshot.session);
        let tools = self.tools(&snapshot, mode);
        let request = self.request(&snapshot, &tools).await;
        let seen = snapshot.items.len();
        let mut attempt = 1;
        let end = loop {
            self.model_calls += 1;
            let started = Payload::ModelCallStarted {
                model: self.start.model.selection.clone(),
                call_index: self.model_calls,
            };
            self.emit(vec![started]).await.map_err(stopped)?;
            match self.stream(request.clone()).await? {
                Ok(end) => break end,
                Err(error) => self.pause_before_retry(&error, &mut attempt).await?,
            }
        };
        self.report_usage(&snapshot.session, end.usage, end.cost.clone()).await.map_err(stopped)?;
        if !end.calls.is_empty() {
            self.tools_ran = true;
            tools::run_calls(self, mode, &tools, end.calls).await?;
            if self.start.cancel.is_cancelled() {
                return Err(TurnOutcome::Cancelled);
            }
            return Ok(Call::Again);
        }
        match end.stop {
            ModelStop::MaxOutputTokens => Ok(Call::Done(StopReason::MaxOutputTokens)),
            ModelStop::Refusal => Ok(Call::Done(StopReason::Refusal)),
            ModelStop::EndTurn | ModelStop::ToolCalls => {
                let steered = self.steered_since(seen).await.map_err(stopped)?;
                Ok(if steered { Call::Again } else { Call::Done(StopReason::EndTurn) })
            }
        }
    }

    /// Whether the user said something that the last model call did not see.
    async fn steered_since(&self, seen: usize) -> Result<bool, Stopped> {
        let items = self.snapshot().await?.items;
        let newer = items.get(seen..).unwrap_or_default();
        Ok(newer.iter().any(|i| matches!(&i.body, ItemBody::UserMessage(m) if m.steered)))
    }

    async fn pause_before_retry(&self, error: &ModelError, attempt: &mut u32) -> TurnResult<()> {
        let provider_id = &self.start.model.selection.provider_id;
        let detail = error.to_detail(provider_id);
        // A reply that broke off is asked for again only while nothing has happened because of this turn.
        let retry = error.is_transient() && *attempt < MAX_ATTEMPTS && !self.tools_ran;
        let retry = retry || (error.is_transient() && *attempt < MAX_ATTEMPTS && error.status.is_some());
        if !retry {
            return Err(TurnOutcome::Failed(detail));
        }
        let ceiling = Duration::from_millis(500) * 2u32.pow(*attempt);
        let jitter = rand::rng().random_range(0.5..1.0);
        let delay = error.retry_after.unwrap_or_else(|| ceiling.mul_f64(jitter));
        if delay > Duration::from_secs(120) {
            return Err(TurnOutcome::Failed(detail));
        }
        let scheduled = Payload::ModelRetryScheduled {
            attempt: *attempt,
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            error: detail,
        };
        self.emit(vec![scheduled]).await.map_err(|Stopped| TurnOutcome::Cancelled)?;
        self.unless_cancelled(tokio::time::sleep(delay)).await?;
        *attempt += 1;
        Ok(())
    }

    /// Streams one response into the log. The outer error ends the turn, the inner one may be retried.
    async fn stream(&self, request: ModelRequest) -> TurnResult<Result<ResponseEnd, ModelError>> {
        let stopped = |Stopped| TurnOutcome::Cancelled;
        let mut response = Response::new(
            self.start.services.source.clone(),
            self.start.turn_id.clone(),
            self.start.model.selection.provider_id == "demo",
            &self.start.model.selection.model_id,
        );
        let mut stream = self.start.model.provider.stream(request).ready_chunks(READY_CHUNK);
        while let Some(chunk) = self.unless_cancelled(stream.next()).await? {
            let mut payloads = Vec::new();
            for event in chunk {
                match event {
                    Ok(event) => response.event(event, &mut payloads),
                    Err(error) => {
                        response.abandon(&mut payloads);
                        self.emit(payloads).await.map_err(stopped)?;
                        return Ok(Err(error));
                    }
                }
            }
            self.emit(payloads).await.map_err(stopped)?;
            if response.is_finished() {
                break;
            }
        }
        let mut payloads = Vec::new();
        let end = response.finish(&mut payloads);
        self.emit(payloads).await.map_err(stopped)?;
        Ok(end)
    }

    fn mode(&self, session: &Session) -> Mode {
        self.start.mode.or(session.mode).unwrap_or_else(|| self.start.services.configured_mode())
    }

    fn tools(&self, snapshot: &Snapshot, mode: Mode) -> Vec<ToolDefinition> {
        if mode == Mode::Chat {
            return Vec::new();
        }
        let mut tools = self.start.extensions.as_ref().map(|e| e.tools()).unwrap_or_default();
        tools.retain(|t| t.visibility.model && !t.quarantined);
        for tool in &snapshot.host_tools {
            if !tools.iter().any(|t| t.name == tool.name) {
                tools.push(tool.clone());
            }
        }
        tools
    }

    async fn request(&self, snapshot: &Snapshot, tools: &[ToolDefinition]) -> ModelRequest {
        let session = &snapshot.session;
        let (year, month, day) = civil_date(self.start.services.source.now().seconds().div_euclid(86_400));
        let date = format!("{year:04}-{month:02}-{day:02}");
        let extensions: Vec<_> = self
            .start
            .extensions
            .as_ref()
            .map(|e| e.statuses().into_iter().map(|s| (s.summary.name, s.instructions)).collect())
            .unwrap_or_default();
        let system = system_prompt(&PromptInput {
            working_directory: &session.working_directory,
            additional_directories: &session.additional_directories,
            date: &date,
            os: std::env::consts::OS,
            extensions: &extensions,
            instructions: &session.instructions,
            tools_available: !tools.is_empty(),
        });
        let selection = &self.start.model.selection;
        ModelRequest {
            model_id: selection.model_id.clone(),
            system,
            items: self.inline_contents(&snapshot.items).await,
            tools: tools.to_vec(),
            temperature_millis: selection.temperature_millis,
            max_output_tokens: selection.max_output_tokens,
            extra_params_json: selection.extra_params_json.clone(),
        }
    }

    /// Items whose user-message parts are stored beside the log get them inline, as models cannot follow references.
    async fn inline_contents(&self, items: &[Arc<Item>]) -> Vec<Arc<Item>> {
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            let mut item = Arc::clone(item);
            if references_content(&item) {
                let edited = Arc::make_mut(&mut item);
                match &mut edited.body {
                    ItemBody::UserMessage(message) => self.inline_parts(&mut message.parts).await,
                    ItemBody::ToolCall(call) => {
                        if let Some(result) = &mut call.result {
                            self.inline_parts(&mut result.parts).await;
                        }
                    }
                    _ => {}
                }
            }
            out.push(item);
        }
        out
    }

    async fn inline_parts(&self, parts: &mut [Part]) {
        for part in parts {
            match &mut part.body {
                PartBody::TextContent { content_id, .. } => {
                    let bytes = self.read_content(content_id).await;
                    part.body = PartBody::Text(String::from_utf8_lossy(&bytes).into_owned());
                }
                PartBody::Image { data, .. } | PartBody::Audio { data, .. } => {
                    if let Data::Content(content_id) = data {
                        *data = Data::Inline(Blob(self.read_content(content_id).await));
                    }
                }
                _ => {}
            }
        }
    }

    async fn read_content(&self, content_id: &ContentId) -> Vec<u8> {
        const MAX_BYTES: usize = 32 << 20;
        let store = &self.start.services.store;
        store.read_content(self.start.session.session_id(), content_id, 0, MAX_BYTES).await.unwrap_or_else(
            |error| {
                tracing::warn!(%error, %content_id, "content that a message refers to cannot be read");
                Vec::new()
            },
        )
    }

    async fn report_usage(
        &mut self,
        session: &Session,
        call: Usage,
        cost: Option<Cost>,
    ) -> Result<(), Stopped> {
        if call == Usage::default() && cost.is_none() {
            return Ok(());
        }
        self.usage = self.usage.plus(call);
        self.cost_micros += cost.as_ref().map_or(0, |c| c.amount_micros);
        let cost_totals = match (&session.usage.cost_totals, &cost) {
            (Some(total), Some(more)) if total.currency == more.currency => {
                Some(Cost { amount_micros: total.amount_micros + more.amount_micros, ..total.clone() })
            }
            (total, more) => total.clone().or_else(|| more.clone()),
        };
        let window = self.start.model.selection.context_limit.or_else(|| {
            let info = self.start.model.provider.info();
            let models = info.models.iter().find(|m| m.model_id == self.start.model.selection.model_id);
            models.and_then(|m| m.context_window_tokens)
        });
        let used = call.input_tokens.map(|input| input.saturating_add(call.output_tokens.unwrap_or(0)));
        let report = gander_domain::event::UsageReport {
            purpose: UsagePurpose::Turn,
            call,
            session_totals: session.usage.totals.plus(call),
            context_used_tokens: used,
            context_window_tokens: window,
            cost,
            cost_totals,
        };
        self.emit(vec![Payload::UsageReported(report)]).await
    }
}

fn references_content(item: &Item) -> bool {
    let parts = match &item.body {
        ItemBody::UserMessage(m) => &m.parts,
        ItemBody::ToolCall(call) => match &call.result {
            Some(result) => &result.parts,
            None => return false,
        },
        _ => return false,
    };
    parts.iter().any(|p| match &p.body {
        PartBody::TextContent { .. } => true,
        PartBody::Image { data, .. } | PartBody::Audio { data, .. } => matches!(data, Data::Content(_)),
        _ => false,
    })
}

async fn sleep_for(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
