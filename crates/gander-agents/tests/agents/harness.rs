//! A provider whose agent is the scripted one, and a client that remembers what it is told.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use gander_agents::Agents;
use gander_domain::{
    ErrorDetail, Part, SessionId,
    host::{HostCallKind, HostCallOutcome},
};
use gander_model::{
    AgentClient, AgentElicitation, AgentElicitationAnswer, AgentMcpServer, AgentOpen, AgentPermission,
    AgentPromptEnd, AgentSession, AgentUpdate, ModelProvider, ProviderSource as _, Settings,
};
use gander_process::{Spawner, ToolProcesses};
use serde_json::{Value, json};

/// Nothing in these tests takes longer unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What settings and secrets say.
#[derive(Clone, Default)]
pub(crate) struct Given(pub(crate) HashMap<String, String>);

impl Settings for Given {
    fn value(&self, _key: &str) -> Option<String> {
        None
    }
    fn secret(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }
}

/// A client with prepared answers.
#[derive(Default)]
pub(crate) struct Client {
    pub(crate) updates: Mutex<Vec<AgentUpdate>>,
    pub(crate) permissions: Mutex<VecDeque<Option<String>>>,
    pub(crate) asked: Mutex<Vec<AgentPermission>>,
    pub(crate) forms: Mutex<VecDeque<AgentElicitationAnswer>>,
    pub(crate) host: Mutex<VecDeque<HostCallOutcome>>,
    pub(crate) host_calls: Mutex<Vec<HostCallKind>>,
    /// Why the agent may not work.
    pub(crate) forbids: Mutex<Option<String>>,
    told: tokio::sync::Notify,
    /// Held while updates must wait.
    pub(crate) gate: tokio::sync::Mutex<()>,
}

impl AgentClient for Client {
    fn update(&self, update: AgentUpdate) -> BoxFuture<'_, ()> {
        async move {
            let _open = self.gate.lock().await;
            self.updates.lock().unwrap().push(update);
            self.told.notify_waiters();
        }
        .boxed()
    }

    fn permission(&self, question: AgentPermission) -> BoxFuture<'_, Option<String>> {
        self.asked.lock().unwrap().push(question);
        self.told.notify_waiters();
        let answer = self.permissions.lock().unwrap().pop_front();
        async move {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn forbids_work(&self) -> BoxFuture<'_, Option<String>> {
        let why = self.forbids.lock().unwrap().clone();
        async move { why }.boxed()
    }

    /// Without a prepared answer the question stays open.
    fn elicit(&self, _question: AgentElicitation) -> BoxFuture<'_, AgentElicitationAnswer> {
        let answer = self.forms.lock().unwrap().pop_front();
        async move {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn host_call(&self, kind: HostCallKind) -> BoxFuture<'_, Option<HostCallOutcome>> {
        self.host_calls.lock().unwrap().push(kind);
        let answer = self.host.lock().unwrap().pop_front();
        async move { answer }.boxed()
    }
}

impl Client {
    /// Waits until what it was told satisfies a condition.
    pub(crate) async fn until(&self, what: &str, done: impl Fn(&Client) -> bool) {
        let wait = async {
            loop {
                let told = self.told.notified();
                tokio::pin!(told);
                told.as_mut().enable();
                if done(self) {
                    return;
                }
                told.await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("{what} did not come; told: {:?}", self.updates.lock().unwrap());
        }
    }

    /// All text that the agent said.
    pub(crate) fn text(&self) -> String {
        let updates = self.updates.lock().unwrap();
        let text = |update: &AgentUpdate| match update {
            AgentUpdate::Text { text, .. } => Some(text.clone()),
            _ => None,
        };
        updates.iter().filter_map(text).collect()
    }
}

/// A directory with a script, a log, and a place to work.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) client: Arc<Client>,
    pub(crate) provider: Arc<dyn ModelProvider>,
    pub(crate) resume: Option<String>,
    pub(crate) servers: Vec<AgentMcpServer>,
}

impl Rig {
    pub(crate) fn new(script: &Value) -> Self {
        Self::with(script, &json!({}), &Given::default())
    }

    /// With more fields in the agent's file.
    pub(crate) fn with(script: &Value, fields: &Value, settings: &Given) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        for folder in ["work", "providers"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        std::fs::write(path("script.json"), script.to_string()).unwrap();
        let mut file = json!({
            "name": "scripted-acp",
            "engine": "acp",
            "command": env!("CARGO_BIN_EXE_gander-scripted-agent"),
            "args": [path("script.json"), path("log.jsonl")],
        });
        for (key, value) in fields.as_object().unwrap() {
            file[key] = value.clone();
        }
        std::fs::write(path("providers/scripted.json"), file.to_string()).unwrap();
        let environment: BTreeMap<_, _> = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into();
        let spawner = Spawner::new(None, ToolProcesses::new());
        let agents = Agents::with_directory(&dir.path().join("providers"), environment, spawner);
        assert_eq!(agents.problems(), []);
        let provider = agents.create("scripted-acp", settings).unwrap().unwrap();
        Self { dir, client: Arc::default(), provider, resume: None, servers: Vec::new() }
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.dir.path().join("work").canonicalize().unwrap()
    }

    pub(crate) async fn try_open(&self) -> Result<Arc<dyn AgentSession>, ErrorDetail> {
        let request = AgentOpen {
            session_id: SessionId::new("s1").unwrap(),
            working_directory: self.work(),
            additional_directories: vec![self.dir.path().join("providers")],
            denied_paths: Vec::new(),
            environment: [("PATH", "/usr/bin:/bin"), ("SESSION", "mine"), ("CLAUDECODE", "1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            mcp_servers: self.servers.clone(),
            resume: self.resume.clone(),
        };
        let backend = self.provider.agent().expect("an agent");
        tokio::time::timeout(PATIENCE, backend.open(request, self.client.clone())).await.expect("an answer")
    }

    pub(crate) async fn open(&self) -> Arc<dyn AgentSession> {
        self.try_open().await.unwrap()
    }

    /// Messages that the agent got, as far as it is.
    pub(crate) fn log(&self) -> Vec<Value> {
        read_log(&self.dir.path().join("log.jsonl"))
    }

    /// Parameters of the messages of one method.
    pub(crate) fn sent(&self, method: &str) -> Vec<Value> {
        let all = self.log().into_iter().filter(|m| m["method"] == method);
        all.map(|m| m["params"].clone()).collect()
    }

    /// Answers to the agent's own requests, in order.
    pub(crate) fn answers(&self) -> Vec<Value> {
        let answers = self.log().into_iter().filter(|m| m.get("method").is_none() && m.get("id").is_some());
        answers.map(|m| m.get("result").or_else(|| m.get("error")).unwrap().clone()).collect()
    }
}

pub(crate) fn read_log(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) async fn prompt(
    session: &Arc<dyn AgentSession>,
    text: &str,
) -> Result<AgentPromptEnd, ErrorDetail> {
    let prompt = session.prompt(vec![Part::text(text)]);
    tokio::time::timeout(PATIENCE, prompt).await.expect("the prompt ends")
}

/// `{"result": {"stopReason": …}}`.
pub(crate) fn stop(reason: &str) -> Value {
    json!({ "result": { "stopReason": reason } })
}

pub(crate) fn say(text: &str) -> Value {
    json!({ "update": { "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": text } } })
}

/// Whether a process lives.
pub(crate) fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some(None | Some('Z' | 'X')))
}
