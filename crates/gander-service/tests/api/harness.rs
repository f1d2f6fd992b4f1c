//! The services over an engine in a temporary directory, called in process: no socket, the same generated client.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use gander_config::{ConfigHandle, ConfigOptions, Environment, Paths};
use gander_domain::{ErrorDetail, ErrorReason, session::ModelSelection};
use gander_engine::{Engine, EngineOptions, EngineParts, Models, ResolvedModel, SystemSource};
use gander_mcp::{BuiltinConnection, BuiltinFactory, HostOptions, McpHost, SessionContext};
use gander_model::{
    ModelProvider, ProviderInfo,
    testing::{Script, ScriptedProvider},
};
use gander_process::ToolProcesses;
use gander_proto::v1::{
    self as pb, session_service_client::SessionServiceClient, system_service_client::SystemServiceClient,
    turn_service_client::TurnServiceClient,
};
use gander_service::{Api, InProcess, Principal, ServiceOptions};
use gander_store::{OpenOptions, SqliteStore};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Nothing in these tests takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

struct OneModel(Arc<ScriptedProvider>);

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

struct NoBuiltins;

impl BuiltinFactory for NoBuiltins {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
    fn connect(
        &self,
        name: &str,
        _context: &SessionContext,
        _client: &Arc<dyn gander_mcp::SessionClient>,
    ) -> Result<BuiltinConnection, ErrorDetail> {
        Err(ErrorDetail::new(ErrorReason::ExtensionTypeUnsupported, format!("no builtin {name} here")))
    }
}

pub(crate) struct Harness {
    dir: tempfile::TempDir,
    pub(crate) engine: Arc<Engine>,
    pub(crate) transport: InProcess,
}

impl Harness {
    pub(crate) async fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        Self::with(scripts, ServiceOptions::default()).await
    }

    pub(crate) async fn with(scripts: impl IntoIterator<Item = Script>, options: ServiceOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        let environment: Environment =
            [("HOME", dir.path().to_str().unwrap()), ("PATH", "/usr/bin:/bin")].into_iter().collect();
        let paths = Paths::resolve(Some(dir.path()), &environment).unwrap();
        paths.create_dirs().unwrap();
        let engine = Engine::start(EngineParts {
            store: SqliteStore::open(OpenOptions::new(paths.data_dir())).unwrap(),
            source: Arc::new(SystemSource),
            models: Arc::new(OneModel(Arc::new(ScriptedProvider::new(scripts)))),
            mcp: McpHost::new(HostOptions::new(Arc::new(NoBuiltins), ToolProcesses::default())),
            config: ConfigHandle::open(ConfigOptions::new(paths.clone(), environment.clone())).unwrap(),
            options: EngineOptions::default(),
            spill_dir: paths.data_dir().join("sessions"),
            denied_paths: Vec::new(),
            tool_environment: environment.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        })
        .await
        .unwrap();
        let principal = Principal { name: "uid:7".into(), protocol: "grpc".into() };
        let transport = Api::new(engine.clone(), options).in_process(principal);
        Self { dir, engine, transport }
    }

    pub(crate) fn sessions(&self) -> SessionServiceClient<InProcess> {
        SessionServiceClient::new(self.transport.clone())
    }

    pub(crate) fn turns(&self) -> TurnServiceClient<InProcess> {
        TurnServiceClient::new(self.transport.clone())
    }

    pub(crate) fn system(&self) -> SystemServiceClient<InProcess> {
        SystemServiceClient::new(self.transport.clone())
    }

    pub(crate) fn create_request(&self) -> pb::CreateSessionRequest {
        let nothing = pb::extension_selection::Selection::Exactly(pb::ExactSelection::default());
        pb::CreateSessionRequest {
            working_directory: self.dir.path().join("work").to_str().unwrap().to_owned(),
            extensions: Some(pb::ExtensionSelection { selection: Some(nothing) }),
            ..Default::default()
        }
    }

    pub(crate) async fn session(&self) -> String {
        let made = self.sessions().create_session(self.create_request()).await.unwrap();
        made.into_inner().session.unwrap().session_id
    }

    /// Runs a turn to its end.
    pub(crate) async fn run(&self, session_id: &str, turn_id: &str, text: &str) -> Vec<pb::SessionEvent> {
        collect(self.turns().run_turn(run_request(session_id, turn_id, text)).await.unwrap().into_inner())
            .await
            .into_iter()
            .map(|r| r.event.unwrap())
            .collect()
    }
}

pub(crate) fn run_request(session_id: &str, turn_id: &str, text: &str) -> pb::RunTurnRequest {
    let part = pb::Part { body: Some(pb::part::Body::Text(text.into())), ..Default::default() };
    pb::RunTurnRequest {
        session_id: session_id.into(),
        turn_id: turn_id.into(),
        input: Some(pb::TurnInput { parts: vec![part], ..Default::default() }),
        ..Default::default()
    }
}

/// All messages of a stream that ends.
pub(crate) async fn collect<T>(stream: tonic::Streaming<T>) -> Vec<T> {
    let all = stream.map(|message| message.unwrap()).collect::<Vec<_>>();
    tokio::time::timeout(PATIENCE, all).await.expect("the stream should end")
}

/// The next message of a stream.
pub(crate) async fn next<T>(stream: &mut tonic::Streaming<T>) -> T {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await.expect("a message should come");
    message.unwrap().expect("the stream should go on")
}

/// Names of the events' payloads.
pub(crate) fn names(events: &[pb::SessionEvent]) -> Vec<String> {
    let name = |e: &pb::SessionEvent| {
        let debug = format!("{:?}", e.payload.as_ref().unwrap());
        debug.split('(').next().unwrap().to_owned()
    };
    events.iter().map(name).collect()
}

/// Code and reason of an error.
pub(crate) fn reason(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("without ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "gander.v1");
    (status.code(), info.reason.clone())
}
