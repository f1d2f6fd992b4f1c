//! A session with a factory for test servers, and what tests wait with.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use gander_domain::{
    ErrorDetail, SessionId,
    extension::{
        ExtensionConfig, ExtensionOrigin, ExtensionState, ExtensionStateChange, ExtensionTransport,
        ProtocolEra,
    },
    item::ToolResult,
};
use gander_mcp::{
    BuiltinConnection, BuiltinFactory, CallProgress, CallRequest, HostEvent, HostOptions, McpHost,
    SessionClient, SessionContext, SessionExtensions,
};
use gander_process::ToolProcesses;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::builtin::TestServer;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Factory(pub Arc<TestServer>);

impl BuiltinFactory for Factory {
    fn names(&self) -> Vec<String> {
        vec!["lab".to_owned()]
    }

    fn connect(
        &self,
        name: &str,
        _: &SessionContext,
        _: &Arc<dyn gander_mcp::SessionClient>,
    ) -> Result<BuiltinConnection, ErrorDetail> {
        assert_eq!(name, "lab");
        Ok(self.0.connect())
    }
}

pub struct Session {
    pub extensions: Arc<SessionExtensions>,
    pub events: mpsc::Receiver<Box<HostEvent>>,
    pub server: Arc<TestServer>,
    pub directory: tempfile::TempDir,
}

impl Session {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut HostOptions)) -> Self {
        Self::with_client(change, Arc::new(gander_mcp::NoClient))
    }

    pub fn with_client(change: impl FnOnce(&mut HostOptions), client: Arc<dyn SessionClient>) -> Self {
        Self::whole(change, |_| {}, client)
    }

    /// With another context; its directory is the session's.
    pub fn placed(place: impl FnOnce(&mut SessionContext)) -> Self {
        Self::whole(|_| {}, place, Arc::new(gander_mcp::NoClient))
    }

    fn whole(
        change: impl FnOnce(&mut HostOptions),
        place: impl FnOnce(&mut SessionContext),
        client: Arc<dyn SessionClient>,
    ) -> Self {
        let server = Arc::new(TestServer::default());
        let mut options = HostOptions::new(Arc::new(Factory(Arc::clone(&server))), ToolProcesses::new());
        options.connect_timeout = PATIENCE;
        options.call_timeout = PATIENCE;
        change(&mut options);
        let directory = tempfile::tempdir().unwrap();
        let mut context = SessionContext {
            session_id: SessionId::new("s1").unwrap(),
            working_directory: directory.path().to_owned(),
            additional_directories: Vec::new(),
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())]),
            data_dir: directory.path().to_owned(),
            denied_paths: Vec::new(),
            sandbox: None,
            container: None,
        };
        place(&mut context);
        let (sender, events) = mpsc::channel(64);
        let extensions = McpHost::new(options).open_session(context, client, sender);
        Self { extensions, events, server, directory }
    }

    /// Adds an extension and waits until it has started or failed.
    pub async fn add(&self, config: ExtensionConfig) -> ExtensionState {
        let summary = self.extensions.add(config, ExtensionOrigin::Config, secrets()).unwrap();
        let statuses = self.extensions.wait_ready(PATIENCE).await;
        statuses.iter().find(|status| status.summary.key == summary.key).unwrap().state
    }

    pub async fn event(&mut self) -> HostEvent {
        *tokio::time::timeout(PATIENCE, self.events.recv())
            .await
            .expect("an event in time")
            .expect("an event")
    }

    /// The next change to `state`.
    pub async fn change_to(&mut self, state: ExtensionState) -> ExtensionStateChange {
        loop {
            if let HostEvent::StateChanged(change) = self.event().await
                && change.to == state
            {
                return change;
            }
        }
    }

    pub async fn call(&self, name: &str, arguments: &str) -> ToolResult {
        let (request, _progress) = request(name, arguments);
        self.extensions.call(request).await
    }
}

pub fn secrets() -> BTreeMap<String, String> {
    BTreeMap::from([("LAB_TOKEN".to_owned(), "hunter22".to_owned())])
}

pub fn request(name: &str, arguments: &str) -> (CallRequest, mpsc::Receiver<CallProgress>) {
    let (progress, receiver) = mpsc::channel(4096);
    let request = CallRequest {
        name: name.to_owned(),
        arguments_json: arguments.to_owned(),
        cancel: CancellationToken::new(),
        progress,
        timeout: None,
        meta_json: None,
        item_id: None,
    };
    (request, receiver)
}

pub fn config(name: &str, transport: ExtensionTransport) -> ExtensionConfig {
    ExtensionConfig {
        name: name.to_owned(),
        transport,
        description: String::new(),
        display_name: None,
        bundled: false,
        timeout_ms: None,
        tool_allowlist: Vec::new(),
        env: BTreeMap::new(),
        env_keys: Vec::new(),
        exec_prefix: Vec::new(),
        protocol: ProtocolEra::Auto,
        sampling: gander_domain::extension::SamplingPolicy::Off,
        sandbox: None,
        pin_definitions: false,
        unknown_json: None,
    }
}

pub fn test_server() -> PathBuf {
    example("test_server")
}

pub fn example(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is built by `cargo test`", path.display());
    path
}

pub fn stdio(args: &[&str]) -> ExtensionConfig {
    let mut config = config(
        "child",
        ExtensionTransport::Stdio {
            command: test_server().to_str().unwrap().to_owned(),
            args: args.iter().map(ToString::to_string).collect(),
        },
    );
    config.env_keys = vec!["LAB_TOKEN".to_owned()];
    config
}
