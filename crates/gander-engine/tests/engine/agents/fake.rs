//! An agent that does what a test says.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use gander_domain::{
    ErrorDetail, ErrorReason, Part,
    item::ToolKind,
    session::{ModelSelection, OptionChoice, SessionOption},
};
use gander_engine::{Models, ResolvedModel};
use gander_model::{
    AgentBackend, AgentClient, AgentOpen, AgentOpened, AgentPromptEnd, AgentSession, AgentStop,
    AgentToolCall, AgentToolStatus, AgentUpdate, CheckResult, ModelError, ModelErrorClass, ModelInfo,
    ModelProvider, ModelRequest, ModelStream, ProviderInfo, testing::ScriptedProvider,
};
use tokio_util::sync::CancellationToken;

pub(super) type Play =
    Box<dyn FnOnce(Stage) -> BoxFuture<'static, Result<AgentPromptEnd, ErrorDetail>> + Send>;

/// What a play gets.
pub(super) struct Stage {
    pub(super) client: Arc<dyn AgentClient>,
    pub(super) cancelled: CancellationToken,
}

/// An agent that plays one script per prompt.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) plays: Mutex<VecDeque<Play>>,
    pub(super) opened: Mutex<Vec<AgentOpen>>,
    pub(super) prompts: Mutex<Vec<Vec<String>>>,
    pub(super) set: Mutex<Vec<(String, String)>>,
    pub(super) cancels: Mutex<u32>,
    pub(super) closed: Mutex<u32>,
    /// Cannot go on with earlier sessions.
    pub(super) forgetful: bool,
    pub(super) offers_model: bool,
    /// Takes input while it works.
    pub(super) steerable: bool,
    pub(super) steered: Mutex<Vec<String>>,
    pub(super) live: Mutex<Option<Arc<dyn AgentClient>>>,
}

pub(super) struct FakeSession {
    fake: Arc<Fake>,
    client: Arc<dyn AgentClient>,
    opened: AgentOpened,
    cancelled: Mutex<CancellationToken>,
    dead: CancellationToken,
}

pub(super) struct FakeProvider(Arc<Fake>, pub(super) ProviderInfo);

pub(super) fn provider(fake: &Arc<Fake>) -> Arc<FakeProvider> {
    let info = ProviderInfo {
        provider_id: "fake-acp".into(),
        display_name: "Fake".into(),
        description: String::new(),
        default_model_id: Some("current".into()),
        models: Vec::new(),
        doc_url: None,
        config_keys: Vec::new(),
        allows_unlisted_models: true,
        kind: "agent".into(),
    };
    Arc::new(FakeProvider(fake.clone(), info))
}

impl ModelProvider for FakeProvider {
    fn info(&self) -> &ProviderInfo {
        &self.1
    }
    fn stream(&self, _request: ModelRequest) -> ModelStream {
        stream::iter([Err(ModelError::new(ModelErrorClass::InvalidRequest, "not a model"))]).boxed()
    }
    fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn check(&self) -> BoxFuture<'_, CheckResult> {
        async { Ok(()) }.boxed()
    }
    fn agent(&self) -> Option<Arc<dyn AgentBackend>> {
        Some(Arc::new(FakeBackend(self.0.clone())))
    }
}

pub(super) struct FakeBackend(Arc<Fake>);

impl AgentBackend for FakeBackend {
    fn open(
        &self,
        request: AgentOpen,
        client: Arc<dyn AgentClient>,
    ) -> BoxFuture<'_, Result<Arc<dyn AgentSession>, ErrorDetail>> {
        async move {
            let fake = self.0.clone();
            let continued = request.resume.is_some() && !fake.forgetful;
            let number = fake.opened.lock().unwrap().len();
            let id = request.resume.clone().filter(|_| continued).unwrap_or(format!("agent-{number}"));
            fake.opened.lock().unwrap().push(request);
            *fake.live.lock().unwrap() = Some(client.clone());
            let opened = AgentOpened {
                agent_session_id: id,
                continued,
                name: "Fake".into(),
                accepts_images: true,
                read_only_modes: vec!["plan".into()],
                unattended_modes: vec!["wild".into()],
                ..AgentOpened::default()
            };
            let cancelled = Mutex::new(CancellationToken::new());
            let session = FakeSession { fake, client, opened, cancelled, dead: CancellationToken::new() };
            Ok(Arc::new(session) as Arc<dyn AgentSession>)
        }
        .boxed()
    }
}

pub(super) fn option(id: &str, category: &str, value: &str) -> SessionOption {
    let choice =
        |value: &str| OptionChoice { value: value.into(), name: value.into(), description: String::new() };
    SessionOption {
        option_id: id.into(),
        name: "Mode".into(),
        description: String::new(),
        category: category.into(),
        kind: "select".into(),
        value: value.into(),
        choices: vec![choice("wild"), choice("ask"), choice("plan"), choice("big")],
    }
}

impl AgentSession for FakeSession {
    fn opened(&self) -> &AgentOpened {
        &self.opened
    }
    fn options(&self) -> Vec<SessionOption> {
        let set = self.fake.set.lock().unwrap();
        let now = |id: &str| {
            set.iter().rev().find(|(set, _)| set == id).map_or("ask", |(_, value)| value).to_owned()
        };
        let model = self.fake.offers_model.then(|| option("model", "model", &now("model")));
        std::iter::once(option("mode", "mode", &now("mode"))).chain(model).collect()
    }
    fn prompt(&self, parts: Vec<Part>) -> BoxFuture<'static, Result<AgentPromptEnd, ErrorDetail>> {
        let text = |part: &Part| part.as_text().unwrap_or("(no text)").to_owned();
        self.fake.prompts.lock().unwrap().push(parts.iter().map(text).collect());
        let token = CancellationToken::new();
        *self.cancelled.lock().unwrap() = token.clone();
        let stage = Stage { client: self.client.clone(), cancelled: token };
        let (play, dead) = (self.fake.plays.lock().unwrap().pop_front().expect("a play"), self.dead.clone());
        async move {
            tokio::select! {
                end = play(stage) => {
                    if end.is_err() {
                        dead.cancel();
                    }
                    end
                }
                () = dead.cancelled() => Err(ErrorDetail::new(ErrorReason::ProviderUnavailable, "it was stopped")),
            }
        }
        .boxed()
    }
    fn steer(&self, parts: Vec<Part>) -> BoxFuture<'_, bool> {
        let text: String = parts.iter().filter_map(Part::as_text).collect();
        self.fake.steered.lock().unwrap().push(text);
        let client = self.client.clone();
        let taken = self.fake.steerable;
        async move {
            client.update(said("(heard)")).await;
            taken
        }
        .boxed()
    }
    fn cancel(&self) -> BoxFuture<'_, ()> {
        *self.fake.cancels.lock().unwrap() += 1;
        self.cancelled.lock().unwrap().cancel();
        async {}.boxed()
    }
    fn set_option(
        &self,
        option_id: &str,
        value: &str,
    ) -> BoxFuture<'_, Result<Vec<SessionOption>, ErrorDetail>> {
        if value == "mad" {
            return async { Err(ErrorDetail::invalid("value", "no")) }.boxed();
        }
        self.fake.set.lock().unwrap().push((option_id.to_owned(), value.to_owned()));
        let options = self.options();
        async move { Ok(options) }.boxed()
    }
    fn is_open(&self) -> bool {
        !self.dead.is_cancelled()
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        if !self.dead.is_cancelled() {
            *self.fake.closed.lock().unwrap() += 1;
        }
        self.dead.cancel();
        async {}.boxed()
    }
}

/// The agent for everyone but those who ask for `scripted`.
pub(super) struct Both(pub(super) Arc<FakeProvider>, pub(super) Arc<ScriptedProvider>);

impl Models for Both {
    fn resolve(&self, wanted: Option<&ModelSelection>, _demo: bool) -> Result<ResolvedModel, ErrorDetail> {
        let mut selection = wanted.cloned().unwrap_or_default();
        if selection.provider_id.is_empty() {
            selection.provider_id = "fake-acp".into();
        }
        if selection.model_id.is_empty() {
            selection.model_id = "current".into();
        }
        let provider = self.provider(&selection.provider_id)?;
        Ok(ResolvedModel { provider, selection, reason: "test".into() })
    }
    fn providers(&self) -> Vec<(ProviderInfo, bool)> {
        vec![(self.0.info().clone(), true)]
    }
    fn provider(&self, provider_id: &str) -> Result<Arc<dyn ModelProvider>, ErrorDetail> {
        Ok(if provider_id == "scripted" { self.1.clone() } else { self.0.clone() })
    }
}

pub(super) fn fake(plays: impl IntoIterator<Item = Play>) -> Arc<Fake> {
    Arc::new(Fake { plays: Mutex::new(plays.into_iter().collect()), ..Fake::default() })
}

pub(super) fn play<F>(work: impl FnOnce(Stage) -> F + Send + 'static) -> Play
where
    F: Future<Output = Result<AgentPromptEnd, ErrorDetail>> + Send + 'static,
{
    Box::new(move |stage| work(stage).boxed())
}

pub(super) fn end(stop: AgentStop) -> Result<AgentPromptEnd, ErrorDetail> {
    Ok(AgentPromptEnd { stop, usage: None })
}

pub(super) fn reply(text: &'static str) -> Play {
    play(move |stage| async move {
        stage.client.update(said(text)).await;
        end(AgentStop::EndTurn)
    })
}

pub(super) fn said(text: &str) -> AgentUpdate {
    AgentUpdate::Text { message_id: None, text: text.into() }
}

pub(super) fn call(id: &str, status: AgentToolStatus) -> AgentToolCall {
    AgentToolCall {
        call_id: id.into(),
        name: Some("Bash".into()),
        title: Some("Run make".into()),
        kind: Some(ToolKind::Execute),
        status: Some(status),
        ..AgentToolCall::default()
    }
}

pub(super) fn tool(id: &str, status: AgentToolStatus) -> AgentUpdate {
    AgentUpdate::ToolCall(Box::new(call(id, status)))
}
