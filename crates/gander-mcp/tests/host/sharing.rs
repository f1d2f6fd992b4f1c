//! Two sessions of one host that use the same server: neither sees anything of the other's.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use gander_domain::{
    ErrorDetail, SessionId,
    extension::{ExtensionOrigin, ExtensionState, ExtensionTransport},
    item::ToolOutcome,
};
use gander_mcp::{
    AuthorizeAnswer, AuthorizeRequest, CallProgress, ElicitAnswer, ElicitRequest, HostEvent, HostOptions,
    McpHost, Root, SampleRequest, SampleResult, SessionClient, SessionContext, SessionExtensions,
};
use gander_process::ToolProcesses;
use tokio::sync::mpsc;

use crate::{
    asking::feature,
    builtin::TestServer,
    common::{Factory, PATIENCE, config, request},
};

/// Answers every form with its own name.
struct Named(&'static str);

impl SessionClient for Named {
    fn elicit(&self, _: ElicitRequest) -> BoxFuture<'_, ElicitAnswer> {
        let content_json = Some(format!(r#"{{"name": "{}"}}"#, self.0));
        Box::pin(std::future::ready(ElicitAnswer::Accept { content_json }))
    }

    fn allows_sampling(&self, _: &str) -> bool {
        false
    }

    fn sample(&self, _: SampleRequest) -> BoxFuture<'_, Result<SampleResult, ErrorDetail>> {
        Box::pin(std::future::pending())
    }

    fn roots(&self) -> Vec<Root> {
        vec![Root { uri: format!("file:///{}", self.0), name: None }]
    }

    fn authorize(&self, _: AuthorizeRequest) -> BoxFuture<'_, AuthorizeAnswer> {
        Box::pin(std::future::ready(AuthorizeAnswer::Declined))
    }

    fn load_credentials(&self, _: &str) -> Option<String> {
        None
    }

    fn store_credentials(&self, _: &str, _: Option<String>) {}
}

struct Two {
    first: (Arc<SessionExtensions>, mpsc::Receiver<Box<HostEvent>>),
    second: (Arc<SessionExtensions>, mpsc::Receiver<Box<HostEvent>>),
    _directory: tempfile::TempDir,
}

async fn two() -> Two {
    let server = Arc::new(TestServer::default());
    let mut options = HostOptions::new(Arc::new(Factory(server)), ToolProcesses::new());
    options.builtin_idle = None;
    let host = McpHost::new(options);
    let directory = tempfile::tempdir().unwrap();
    let open = async |name: &'static str| {
        let context = SessionContext {
            session_id: SessionId::new(name).unwrap(),
            working_directory: directory.path().to_owned(),
            additional_directories: Vec::new(),
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())]),
            data_dir: directory.path().to_owned(),
            denied_paths: Vec::new(),
            sandbox: None,
            container: None,
        };
        let (sender, events) = mpsc::channel(64);
        let extensions = host.open_session(context, Arc::new(Named(name)), sender);
        for extension in [config("lab", ExtensionTransport::Builtin), feature(&[])] {
            extensions.add(extension, ExtensionOrigin::Config, BTreeMap::new()).unwrap();
        }
        let states = extensions.wait_ready(PATIENCE).await;
        assert!(states.iter().all(|status| status.state == ExtensionState::Ready), "{states:?}");
        (extensions, events)
    };
    let (first, second) = (open("one").await, open("two").await);
    Two { first, second, _directory: directory }
}

async fn echoed_token(extensions: &SessionExtensions) -> serde_json::Value {
    let (call, _progress) = request("lab__echo", "{}");
    let result = extensions.call(call).await;
    let meta: serde_json::Value = serde_json::from_str(result.parts[1].as_text().unwrap()).unwrap();
    meta["progressToken"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_of_two_sessions_with_the_same_token_goes_to_its_own() {
    let two = two().await;
    let (first, second) = (&two.first.0, &two.second.0);
    assert_eq!(echoed_token(first).await, echoed_token(second).await, "both count alike");
    // Both calls are in the server at the same time, and report under the same token.
    let run = async |extensions: &SessionExtensions, label: &str| {
        let (call, mut progress) = request("lab__together", &serde_json::json!({"label": label}).to_string());
        assert_eq!(extensions.call(call).await.outcome, ToolOutcome::Ok);
        let mut count = 0;
        while let Ok(CallProgress::Progress { message, .. }) = progress.try_recv() {
            assert_eq!(message.as_deref(), Some(label));
            count += 1;
        }
        count
    };
    assert_eq!(tokio::join!(run(first, "one"), run(second, "two")), (50, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_roots_and_logs_of_a_session_are_its_own() {
    let mut two = two().await;
    let call = async |extensions: &SessionExtensions, tool: &str| {
        let (call, _progress) = request(tool, "{}");
        let result = extensions.call(call).await;
        assert_eq!(result.outcome, ToolOutcome::Ok, "{result:?}");
        result.parts[0].as_text().unwrap().to_owned()
    };
    let (first, second) = (&two.first.0, &two.second.0);
    let (one, other) = tokio::join!(call(first, "child__ask"), call(second, "child__ask"));
    assert!(one.contains("one") && !one.contains("two"), "{one}");
    assert!(other.contains("two") && !other.contains("one"), "{other}");
    // A log message of the server in one session is no event of the other.
    call(first, "lab__log").await;
    let logs = |event: &HostEvent| matches!(event, HostEvent::Notification { data_json, .. } if data_json.contains("hot"));
    loop {
        let event =
            tokio::time::timeout(PATIENCE, two.first.1.recv()).await.expect("in time").expect("an event");
        if logs(&event) {
            break;
        }
    }
    two.second.0.shutdown(PATIENCE).await;
    drop(two.second.0);
    while let Some(event) = tokio::time::timeout(PATIENCE, two.second.1.recv()).await.expect("in time") {
        assert!(!logs(&event), "{event:?}");
    }
}
