//! An engine in a temporary directory, and golden logs: one line per event.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use gander_builtin::BuiltinContext;
use gander_config::{ConfigHandle, ConfigOptions, Environment, Paths};
use gander_domain::{
    Actor, ErrorDetail, ErrorReason, Event, ItemBody, Part, Payload, SessionId, TurnId, check_log,
    session::{Mode, ModelSelection},
};
use gander_engine::{
    Engine, EngineOptions, EngineParts, Models, NewSession, RequestContext, ResolvedModel, StartTurn,
    SystemSource, WatchStep,
};
use gander_mcp::{BuiltinConnection, BuiltinFactory, HostOptions, McpHost, SessionClient, SessionContext};
use gander_model::{
    ModelProvider, ProviderInfo,
    testing::{Script, ScriptedProvider, guarded},
};
use gander_process::{Spawner, ToolProcesses};
use gander_store::{OpenOptions, SqliteStore};

/// Nothing in these tests takes longer unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Harness {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) engine: Arc<Engine>,
    pub(crate) model: Arc<ScriptedProvider>,
}

struct OneModel(Arc<dyn ModelProvider>);

impl Models for OneModel {
    fn resolve(&self, wanted: Option<&ModelSelection>, _demo: bool) -> Result<ResolvedModel, ErrorDetail> {
        let selection = wanted.cloned().unwrap_or_else(|| ModelSelection {
            provider_id: "scripted".into(),
            model_id: "scripted-1".into(),
            ..ModelSelection::default()
        });
        Ok(ResolvedModel { provider: self.0.clone(), selection, reason: "test".into() })
    }
    fn providers(&self) -> Vec<(ProviderInfo, bool)> {
        vec![(self.0.info().clone(), true)]
    }
    fn provider(&self, _provider_id: &str) -> Result<Arc<dyn ModelProvider>, ErrorDetail> {
        Ok(self.0.clone())
    }
}

/// What the extensions of a test were given to ask their sessions with.
pub(crate) type Clients = Arc<Mutex<Vec<Arc<dyn SessionClient>>>>;

#[derive(Default)]
struct Builtins {
    clients: Clients,
    door: Option<Vec<String>>,
}

impl BuiltinFactory for Builtins {
    fn names(&self) -> Vec<String> {
        vec!["developer".into()]
    }
    fn connect(
        &self,
        name: &str,
        context: &SessionContext,
        client: &Arc<dyn SessionClient>,
    ) -> Result<BuiltinConnection, ErrorDetail> {
        self.clients.lock().unwrap().push(client.clone());
        let builtin = BuiltinContext {
            host_files: Some(Arc::new(crate::hosts::Files(client.clone()))),
            host_terminals: Some(Arc::new(crate::hosts::Files(client.clone()))),
            additional_directories: context.additional_directories.clone(),
            environment: context.environment.clone(),
            spawner: Spawner::new(None, ToolProcesses::default()),
            denied_paths: context.denied_paths.clone(),
            ..BuiltinContext::new(&context.working_directory, &context.data_dir)
        };
        let server = gander_builtin::serve_in_process(name, builtin)
            .ok_or_else(|| ErrorDetail::new(ErrorReason::ExtensionTypeUnsupported, "unknown builtin"))?;
        Ok(BuiltinConnection::new(server.sender, server.receiver, server.server))
    }
}

/// Starts an engine over an existing data directory.
pub(crate) async fn start_in(dir: &Path, model: Arc<ScriptedProvider>) -> Arc<Engine> {
    let options = EngineOptions { retry_base: Duration::from_millis(1), ..EngineOptions::default() };
    start_with(dir, model, options).await
}

async fn start_with(dir: &Path, model: Arc<ScriptedProvider>, options: EngineOptions) -> Arc<Engine> {
    start_at(dir, model, options, Arc::new(SystemSource)).await
}

/// Starts an engine with other models.
pub(crate) async fn start_engine(dir: &Path, models: Arc<dyn Models>, options: EngineOptions) -> Arc<Engine> {
    start_over(dir, models, options, Arc::new(SystemSource), Builtins::default()).await
}

/// The same, where agents are given a door to their session's extensions.
pub(crate) async fn start_with_door(dir: &Path, models: Arc<dyn Models>) -> Arc<Engine> {
    let builtins = Builtins { door: Some(vec!["door".into()]), ..Builtins::default() };
    start_over(dir, models, EngineOptions::default(), Arc::new(SystemSource), builtins).await
}

/// Starts an engine with a clock of the test's.
pub(crate) async fn start_at(
    dir: &Path,
    model: Arc<ScriptedProvider>,
    options: EngineOptions,
    source: Arc<dyn gander_engine::Source>,
) -> Arc<Engine> {
    start_over(dir, Arc::new(OneModel(guarded(model))), options, source, Builtins::default()).await
}

async fn start_over(
    dir: &Path,
    models: Arc<dyn Models>,
    options: EngineOptions,
    source: Arc<dyn gander_engine::Source>,
    builtins: Builtins,
) -> Arc<Engine> {
    let environment: Environment =
        [("HOME", dir.to_str().unwrap()), ("PATH", "/usr/bin:/bin")].into_iter().collect();
    let paths = Paths::resolve(Some(dir), &environment).unwrap();
    paths.create_dirs().unwrap();
    let config = ConfigHandle::open(ConfigOptions::new(paths.clone(), environment.clone())).unwrap();
    let store = SqliteStore::open(OpenOptions::new(paths.data_dir())).unwrap();
    let door = builtins.door.clone();
    let mcp =
        McpHost::new(HostOptions { door, ..HostOptions::new(Arc::new(builtins), ToolProcesses::default()) });
    Engine::start(EngineParts {
        store,
        source,
        models,
        mcp,
        config,
        options,
        spill_dir: paths.data_dir().join("sessions"),
        denied_paths: Vec::new(),
        tool_environment: environment.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
    })
    .await
    .unwrap()
}

impl Harness {
    pub(crate) async fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        Self::with_options(scripts, |_| {}).await
    }

    pub(crate) async fn with_options(
        scripts: impl IntoIterator<Item = Script>,
        change: impl FnOnce(&mut EngineOptions),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        let model = Arc::new(ScriptedProvider::new(scripts));
        let mut options = EngineOptions { retry_base: Duration::from_millis(1), ..EngineOptions::default() };
        change(&mut options);
        let engine = start_with(dir.path(), model.clone(), options).await;
        Self { dir, engine, model }
    }

    /// With what its extensions ask their sessions with.
    pub(crate) async fn with_clients(scripts: impl IntoIterator<Item = Script>) -> (Self, Clients) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        let model = Arc::new(ScriptedProvider::new(scripts));
        let builtins = Builtins::default();
        let clients = builtins.clients.clone();
        let models = Arc::new(OneModel(guarded(model.clone())));
        let options = EngineOptions::default();
        let engine = start_over(dir.path(), models, options, Arc::new(SystemSource), builtins).await;
        (Self { dir, engine, model }, clients)
    }

    pub(crate) fn work(&self) -> String {
        self.dir.path().join("work").to_str().unwrap().to_owned()
    }

    pub(crate) fn new_session(&self) -> NewSession {
        NewSession { working_directory: self.work(), mode: Some(Mode::Auto), ..NewSession::default() }
    }

    pub(crate) async fn session(&self) -> SessionId {
        self.session_in(Mode::Auto).await
    }

    pub(crate) async fn session_in(&self, mode: Mode) -> SessionId {
        let new = NewSession { mode: Some(mode), ..self.new_session() };
        self.engine.create_session(&context("creator"), new).await.unwrap().value.session_id
    }

    pub(crate) async fn start(&self, session_id: &SessionId, text: &str) -> TurnId {
        self.engine.start_turn(&context("starter"), session_id, turn(text)).await.unwrap().turn.turn_id
    }

    /// Runs a turn to its end; gives all events of the log.
    pub(crate) async fn run(&self, session_id: &SessionId, text: &str) -> Vec<Arc<Event>> {
        let turn_id = self.start(session_id, text).await;
        self.until_ended(session_id, &turn_id).await
    }

    /// All events up to the end of a turn.
    pub(crate) async fn until_ended(&self, session_id: &SessionId, turn_id: &TurnId) -> Vec<Arc<Event>> {
        self.until(
            session_id,
            |e| matches!(&e.payload, Payload::TurnEnded { turn } if turn.turn_id == *turn_id),
        )
        .await
    }

    /// All events up to the first that matches.
    pub(crate) async fn until(
        &self,
        session_id: &SessionId,
        stop: impl Fn(&Event) -> bool,
    ) -> Vec<Arc<Event>> {
        let mut cursor = self.engine.watch(session_id, Some(0)).await.unwrap();
        let mut all = Vec::new();
        let collect = async {
            loop {
                match cursor.next().await.unwrap() {
                    WatchStep::Events(events) => {
                        for event in events {
                            let done = stop(&event);
                            all.push(event);
                            if done {
                                return;
                            }
                        }
                    }
                    WatchStep::Closed(why) => panic!("the watch ended: {why:?}"),
                }
            }
        };
        if tokio::time::timeout(PATIENCE, collect).await.is_err() {
            panic!("the awaited event did not come; the log:\n{}", golden(&all));
        }
        all
    }

    pub(crate) async fn log(&self, session_id: &SessionId) -> Vec<Arc<Event>> {
        self.engine.list_events(session_id, 0, 100_000, usize::MAX).await.unwrap().events
    }

    /// Checks every log and every model request.
    pub(crate) async fn finish(self) {
        assert_eq!(self.model.violations(), Vec::<String>::new(), "model requests");
        let check = self.engine.check_store(None).await.unwrap();
        assert!(check.findings.is_empty(), "{:?}", check.findings);
        self.engine.drain(Duration::ZERO).await;
        self.engine.close().await;
    }
}

pub(crate) fn context(client: &str) -> RequestContext {
    RequestContext {
        actor: Actor { principal: "uid:1".into(), client_name: client.into(), protocol: "grpc".into() },
        idempotency: None,
    }
}

pub(crate) fn turn(text: &str) -> StartTurn {
    StartTurn {
        request_hash: request_hash(text),
        input: if text.is_empty() { Vec::new() } else { vec![Part::text(text)] },
        ..StartTurn::default()
    }
}

fn request_hash(text: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

pub(crate) fn turn_id(text: &str) -> Option<TurnId> {
    Some(TurnId::new(text).unwrap())
}

/// A log as text without ids and times: one line per event. Deltas of one item are joined, as merging depends on time.
pub(crate) fn golden(events: &[Arc<Event>]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for event in events {
        let line = line(&event.payload);
        let delta = event.payload.is_delta();
        match lines.last_mut() {
            Some(last) if delta && last.split(' ').next() == line.split(' ').next() => {
                last.push_str(line.split_once(' ').map_or("", |(_, text)| text));
            }
            _ => lines.push(line),
        }
    }
    lines.join("\n")
}

fn line(payload: &Payload) -> String {
    let name = payload.name();
    match payload {
        Payload::TurnEnded { turn } => {
            let reason = turn.error.as_ref().map(|e| e.reason.as_str().to_owned());
            let stop = turn.stop_reason.map(|s| format!("{s:?}"));
            format!("{name} {:?} {}", turn.state, reason.or(stop).unwrap_or_default()).trim_end().to_owned()
        }
        Payload::ItemStarted { item } | Payload::ItemCompleted { item } => {
            let cut = if item.incomplete { " incomplete" } else { "" };
            match &item.body {
                ItemBody::UserMessage(_) => format!("{name} user{cut} {}", item.text()),
                ItemBody::AgentMessage(_) => format!("{name} agent{cut} {}", item.text()),
                ItemBody::Thought(_) => format!("{name} thought{cut} {}", item.text()),
                ItemBody::Notice(n) => format!("{name} notice {}", n.code),
                ItemBody::Compaction(_) => format!("{name} compaction"),
                ItemBody::ToolCall(call) => {
                    let outcome =
                        call.result.as_ref().map(|r| format!(" {:?}", r.outcome)).unwrap_or_default();
                    format!("{name} call{cut} {} {:?}{outcome}", call.name, call.status)
                }
            }
            .trim_end()
            .to_owned()
        }
        Payload::ToolCallUpdated { call, .. } => format!("{name} {} {:?}", call.name, call.status),
        Payload::TextDelta { text, .. }
        | Payload::ThoughtDelta { text, .. }
        | Payload::ArgumentsDelta { text, .. }
        | Payload::ToolOutputDelta { text, .. } => format!("{name} {}", text.trim_end()),
        Payload::InteractionResolved(r) => format!("{name} {:?}", r.outcome),
        Payload::ExtensionStateChanged(change) => format!("{name} {} {:?}", change.key, change.to),
        Payload::ExtensionAdded { extension } => format!("{name} {}", extension.key),
        Payload::HistoryChanged(change) => format!("{name} {:?}", change.kind),
        _ => name.to_owned(),
    }
}

/// A golden log from the start of its first turn on, without what extensions report about their start.
pub(crate) fn golden_turn(events: &[Arc<Event>]) -> String {
    let start = events.iter().position(|e| matches!(e.payload, Payload::TurnStarted { .. })).unwrap();
    let events: Vec<_> = events[start..]
        .iter()
        .filter(|e| {
            !matches!(
                e.payload,
                Payload::ExtensionStateChanged(_)
                    | Payload::ExtensionAdded { .. }
                    | Payload::SessionUpdated { .. }
            )
        })
        .cloned()
        .collect();
    golden(&events)
}

pub(crate) fn assert_log_rules(events: &[Arc<Event>]) {
    let findings = check_log(events.iter().map(AsRef::as_ref), true);
    assert!(findings.is_empty(), "{findings:?}\n{}", golden(events));
}
