//! What an agent calls through the door to its session's extensions.

use gander_domain::host::{HostCallKind, HostCapabilities};
use gander_engine::types::extension_format;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

use super::*;
use crate::harness::start_with_door;

/// Calls the tool `shoot` of `camera` as the agent would that was opened like this.
async fn shoot(opened: &AgentOpen) -> Value {
    let [AgentMcpServer::Stdio { args, .. }] = &opened.mcp_servers[..] else { panic!("{opened:?}") };
    let stream = UnixStream::connect(&args[0]).await.unwrap();
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "shoot"}});
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{}\n{call}\n", args[1]).as_bytes()).await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn a_cancelled_turn_ends_what_its_agent_has_called() {
    let (sender, answer) = tokio::sync::oneshot::channel();
    let agent = Arc::new_cyclic(|me: &std::sync::Weak<Fake>| {
        let me = me.clone();
        let play = play(move |stage| async move {
            let opened = me.upgrade().unwrap().opened.lock().unwrap().last().cloned().unwrap();
            // It does not cancel its calls itself.
            sender.send(shoot(&opened).await).unwrap();
            stage.cancelled.cancelled().await;
            end(AgentStop::Cancelled)
        });
        Fake { plays: Mutex::new([play].into()), ..Fake::default() }
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("work")).unwrap();
    let model = Arc::new(ScriptedProvider::new([]));
    let engine = start_with_door(dir.path(), Arc::new(Both(provider(&agent), model.clone()))).await;
    let harness = Harness { dir, engine, model };
    let camera = json!({"type": "frontend", "name": "camera", "description": "",
        "tools": [{"name": "shoot", "description": "", "inputSchema": {"type": "object"}}]});
    let exactly = Some(vec![extension_format::from_value(&camera).unwrap()]);
    let extensions = ExtensionSelection { exactly, ..ExtensionSelection::default() };
    let new = NewSession { extensions, ..harness.new_session() };
    let session = harness.engine.create_session(&context("a"), new).await.unwrap().value.session_id;
    let mut host = harness.engine.attach_host(&session, HostCapabilities::default()).await.unwrap();

    let turn = harness.start(&session, "go").await;
    let asked = tokio::time::timeout(PATIENCE, host.calls.recv()).await.unwrap().unwrap();
    assert!(matches!(&asked.kind, HostCallKind::Tool { name, .. } if name == "shoot"), "{asked:?}");
    harness.engine.cancel_turn(&context("b"), &session, CancelRequest::default()).await.unwrap();
    let withdrawn = tokio::time::timeout(PATIENCE, host.withdrawn.recv()).await.unwrap();
    assert_eq!(withdrawn, Some(asked.host_call_id));
    let events = harness.until_ended(&session, &turn).await;
    assert!(golden_turn(&events).ends_with("turn_ended Cancelled"));
    let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().expect("an answer");
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    drop(host);
    harness.finish().await;
}
