//! An agent as a provider: it is driven, not called.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use gander_domain::{ErrorDetail, ErrorReason, SessionId, host::HostCallKind, host::HostCallOutcome};
use gander_model::{
    AGENT_MODEL_CURRENT, AgentBackend, AgentClient, AgentElicitation, AgentElicitationAnswer, AgentOpen,
    AgentPermission, AgentSession, AgentUpdate, CheckResult, ModelError, ModelErrorClass, ModelInfo,
    ModelProvider, ModelRequest, ModelStream, ProviderInfo, Redactor,
};
use gander_process::Spawner;

use crate::{
    failure::{STDERR_TAIL, Speaker},
    session::{AcpSession, Start},
    stderr::StderrRing,
};

/// How an agent is started.
#[derive(Clone)]
pub(crate) struct Launch {
    /// Best first.
    pub(crate) command_lines: Vec<Vec<String>>,
    /// The agent's own variables, secrets among them.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) env_remove: Vec<String>,
    pub(crate) secrets: Vec<String>,
    /// Authentication methods for which there is a key.
    pub(crate) authentication: Vec<String>,
    pub(crate) start_budget: Duration,
    pub(crate) settle: Duration,
    pub(crate) read_only_modes: Vec<String>,
    pub(crate) unattended_modes: Vec<String>,
}

struct Inner {
    info: ProviderInfo,
    launch: Launch,
    /// Of tools, for when there is no session.
    environment: BTreeMap<String, String>,
    spawner: Spawner,
}

/// One agent, ready to be started.
pub(crate) struct AcpProvider {
    inner: Arc<Inner>,
}

impl AcpProvider {
    pub(crate) fn new(
        info: ProviderInfo,
        launch: Launch,
        environment: BTreeMap<String, String>,
        spawner: Spawner,
    ) -> Self {
        Self { inner: Arc::new(Inner { info, launch, environment, spawner }) }
    }
}

impl Inner {
    async fn open_session(
        &self,
        request: AgentOpen,
        client: Arc<dyn AgentClient>,
    ) -> Result<Arc<dyn AgentSession>, ErrorDetail> {
        // What the agent says about itself may quote any secret that it was given.
        let servers = request.mcp_servers.iter().flat_map(|server| match server {
            gander_model::AgentMcpServer::Stdio { env, .. } => env.values().cloned().collect::<Vec<_>>(),
            gander_model::AgentMcpServer::Http { headers, .. } => headers.values().cloned().collect(),
        });
        let speaker = Speaker {
            provider_id: self.info.provider_id.clone(),
            redactor: Redactor::new(self.launch.secrets.iter().cloned().chain(servers)),
        };
        let budget = self.launch.start_budget;
        let stderr = StderrRing::new(speaker.redactor.clone());
        let start =
            Start { spawner: &self.spawner, launch: &self.launch, speaker: &speaker, stderr: stderr.clone() };
        match tokio::time::timeout(budget, AcpSession::open(start, request, client)).await {
            Ok(Ok(session)) => Ok(session as Arc<dyn AgentSession>),
            Ok(Err(error)) => Err(match stderr.tail() {
                tail if tail.is_empty() || error.metadata.contains_key(STDERR_TAIL) => error,
                tail => error.with(STDERR_TAIL, tail),
            }),
            Err(_) => {
                let message = format!("it was not ready within {} s", budget.as_secs());
                Err(speaker.with_stderr(ErrorReason::ProviderUnavailable, &message, &stderr.tail()))
            }
        }
    }

    /// A session of nobody, to ask the agent about itself.
    async fn probe(&self) -> Result<Arc<dyn AgentSession>, ModelError> {
        let directory = self.environment.get("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let session_id = SessionId::new("probe")
            .map_err(|error| ModelError::new(ModelErrorClass::InvalidRequest, error.to_string()))?;
        let request = AgentOpen {
            session_id,
            working_directory: directory,
            additional_directories: Vec::new(),
            denied_paths: Vec::new(),
            environment: self.environment.clone(),
            mcp_servers: Vec::new(),
            resume: None,
        };
        self.open_session(request, Arc::new(Nobody)).await.map_err(|error| model_error(&error))
    }
}

impl AgentBackend for Inner {
    fn open(
        &self,
        request: AgentOpen,
        client: Arc<dyn AgentClient>,
    ) -> BoxFuture<'_, Result<Arc<dyn AgentSession>, ErrorDetail>> {
        self.open_session(request, client).boxed()
    }
}

impl ModelProvider for AcpProvider {
    fn info(&self) -> &ProviderInfo {
        &self.inner.info
    }

    fn stream(&self, _request: ModelRequest) -> ModelStream {
        let message = format!(
            "{} is an agent: it runs whole turns and cannot be called as a model",
            self.inner.info.provider_id
        );
        stream::iter([Err(ModelError::new(ModelErrorClass::InvalidRequest, message))]).boxed()
    }

    fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
        let inner = self.inner.clone();
        async move {
            let session = inner.probe().await?;
            let options = session.options();
            session.close().await;
            let choices = options.into_iter().filter(|option| option.category == "model");
            let offered = choices.flat_map(|option| option.choices).map(|choice| ModelInfo {
                model_id: choice.value,
                display_name: choice.name,
                context_window_tokens: None,
                max_output_tokens: None,
                price_micros_per_million: [None; 4],
            });
            let current = inner.info.models.iter().filter(|m| m.model_id == AGENT_MODEL_CURRENT).cloned();
            Ok(current.chain(offered).collect())
        }
        .boxed()
    }

    fn check(&self) -> BoxFuture<'_, CheckResult> {
        let inner = self.inner.clone();
        async move {
            inner.probe().await?.close().await;
            Ok(())
        }
        .boxed()
    }

    fn agent(&self) -> Option<Arc<dyn AgentBackend>> {
        Some(self.inner.clone())
    }
}

fn model_error(error: &ErrorDetail) -> ModelError {
    let class = match error.reason {
        ErrorReason::ProviderUnauthenticated => ModelErrorClass::Auth,
        ErrorReason::ProviderBadRequest | ErrorReason::ProviderNotConfigured => {
            ModelErrorClass::InvalidRequest
        }
        _ => ModelErrorClass::Server,
    };
    ModelError::new(class, error.message.clone())
}

/// A client without a session: it takes nothing and allows nothing.
struct Nobody;

impl AgentClient for Nobody {
    fn update(&self, _update: AgentUpdate) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn permission(&self, _question: AgentPermission) -> BoxFuture<'_, Option<String>> {
        async { None }.boxed()
    }

    fn elicit(&self, _question: AgentElicitation) -> BoxFuture<'_, AgentElicitationAnswer> {
        async { AgentElicitationAnswer::Cancel }.boxed()
    }

    fn host_call(&self, _kind: HostCallKind) -> BoxFuture<'_, Option<HostCallOutcome>> {
        async { None }.boxed()
    }
}
