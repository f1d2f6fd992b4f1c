//! Work for one executor: the host's tools are the session's, and a session that is in use is never unloaded.

use gander_bridge_tests::{TestDaemon, events, eventually, pb, processes, soon, unique_digits};
use gander_client::Client;
use pb::{ErrorReason, attach_host_response, complete_host_call_request, session_event::Payload};

pub(crate) type Host = tonic::Streaming<pb::AttachHostResponse>;

fn greet() -> pb::AttachHostRequest {
    let tool = pb::HostTool {
        name: "greet".into(),
        description: "Greets".into(),
        input_schema_json: r#"{"type": "object", "properties": {"name": {"type": "string"}}}"#.into(),
        ..Default::default()
    };
    pb::AttachHostRequest { tools: vec![tool], extension_name: "desk".into(), ..Default::default() }
}

pub(crate) async fn attach(client: &Client, session_id: &str) -> Host {
    let request = pb::AttachHostRequest { session_id: session_id.to_owned(), ..greet() };
    let mut host =
        soon("AttachHost", client.hosts().attach_host(request)).await.expect("attached").into_inner();
    let first = soon("the answer", host.message()).await.expect("an answer").expect("an answer").payload;
    assert!(matches!(first, Some(attach_host_response::Payload::Attached(_))), "{first:?}");
    host
}

pub(crate) async fn next_call(host: &mut Host) -> pb::HostCall {
    soon("a call", async {
        loop {
            match host.message().await.expect("a message").expect("no end").payload {
                Some(attach_host_response::Payload::Call(call)) => return call,
                Some(attach_host_response::Payload::Keepalive(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await
}

pub(crate) fn answer(call: &pb::HostCall, text: &str) -> pb::CompleteHostCallRequest {
    let result = pb::ToolResult {
        outcome: pb::ToolOutcome::Ok as i32,
        parts: vec![events::text_part(text)],
        ..Default::default()
    };
    pb::CompleteHostCallRequest {
        host_call_id: call.host_call_id.clone(),
        outcome: Some(complete_host_call_request::Outcome::Tool(Box::new(result))),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_calls_a_hosts_tool_and_without_a_host_it_fails_at_once() {
    let daemon = TestDaemon::start().await;
    let (editor, other) = (daemon.tcp().await, daemon.unix().await);
    let session_id = events::create(&editor, events::bare_session(&daemon.work())).await;
    let mut host = attach(&editor, &session_id).await;
    let second = pb::AttachHostRequest { session_id: session_id.clone(), ..greet() };
    let refused = match other.hosts().attach_host(second).await {
        Err(status) => gander_client::ClientError::from(status),
        Ok(stream) => soon("a refusal", stream.into_inner().message()).await.expect_err("one host").into(),
    };
    assert!(refused.is(ErrorReason::HostAlreadyAttached), "{refused:?}");

    let list = pb::ListToolsRequest { session_id: session_id.clone(), ..Default::default() };
    let tools = other.tools().list_tools(list).await.expect("tools").into_inner().tools;
    let name = tools.iter().find(|tool| tool.tool_name == "greet").expect("the host's tool").name.clone();
    let (turn_id, _) =
        events::start(&other, &session_id, &format!("call {name} {{\"name\": \"Ada\"}}")).await;
    let call = next_call(&mut host).await;
    assert!(
        matches!(&call.call, Some(pb::host_call::Call::Tool(call)) if call.arguments_json.contains("Ada")),
        "{call:?}"
    );
    editor.hosts().complete_host_call(answer(&call, "hello Ada")).await.expect("completed");
    let (mut stream, mut seen) = (events::watch(&other, &session_id, 0), Vec::new());
    events::until(&mut stream, &mut seen, "the end", |payload| matches!(payload, Payload::TurnEnded(_)))
        .await;
    let ended = events::ended(&seen).expect("its end");
    assert_eq!((ended.turn_id, ended.state), (turn_id, pb::TurnState::Completed as i32));
    let calls = events::tool_calls(&seen);
    assert_eq!(calls[0].executor(), pb::ToolExecutor::Client);
    assert_eq!(events::result_text(&calls[0]), "hello Ada");

    // A host that goes away in a call fails it at once; the turn goes on.
    let start = std::time::Instant::now();
    events::start(&other, &session_id, &format!("call {name} {{}}")).await;
    next_call(&mut host).await;
    drop(host);
    events::until(&mut stream, &mut seen, "the end", |payload| matches!(payload, Payload::TurnEnded(_)))
        .await;
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(events::ended(&seen).expect("its end").state(), pb::TurnState::Completed);
    drop(stream);
    daemon.finish().await;
}

async fn attach_files(client: &Client, session_id: &str) -> Host {
    let capabilities = pb::HostCapabilities { fs_read: true, fs_write: true, terminal: false };
    let request = pb::AttachHostRequest {
        session_id: session_id.to_owned(),
        capabilities: Some(capabilities),
        ..Default::default()
    };
    let mut host =
        soon("AttachHost", client.hosts().attach_host(request)).await.expect("attached").into_inner();
    let first = soon("the answer", host.message()).await.expect("an answer").expect("an answer").payload;
    assert!(matches!(first, Some(attach_host_response::Payload::Attached(_))), "{first:?}");
    host
}

async fn complete(client: &Client, call: &pb::HostCall, outcome: complete_host_call_request::Outcome) {
    let request = pb::CompleteHostCallRequest {
        host_call_id: call.host_call_id.clone(),
        outcome: Some(outcome),
        ..Default::default()
    };
    client.hosts().complete_host_call(request).await.expect("completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_editors_unsaved_text_is_read_and_edited_in_its_buffer() {
    use complete_host_call_request::Outcome;
    use pb::host_call::Call;
    let daemon = TestDaemon::start().await;
    let (editor, other) = (daemon.tcp().await, daemon.unix().await);
    let file = daemon.work().join("notes.txt");
    std::fs::write(&file, "saved\n").expect("a file");
    let session_id = events::create(&editor, events::new_session(&daemon.work())).await;
    let mut host = attach_files(&editor, &session_id).await;
    let mut buffer = "unsaved\n".to_owned();
    let (mut stream, mut seen) = (events::watch(&other, &session_id, 0), Vec::new());
    for (prompt, asks) in [
        (r#"call developer__read {"path": "notes.txt"}"#, 1),
        (r#"call developer__edit {"path": "notes.txt", "old_text": "unsaved", "new_text": "edited"}"#, 2),
    ] {
        events::start(&other, &session_id, prompt).await;
        for _ in 0..asks {
            let call = next_call(&mut host).await;
            let outcome = match call.call.as_ref().expect("work") {
                Call::FsRead(read) => {
                    assert_eq!(read.path, file.display().to_string());
                    Outcome::FsRead(pb::FsReadResult { text: buffer.clone() })
                }
                Call::FsWrite(write) => {
                    assert_eq!(write.path, file.display().to_string());
                    buffer.clone_from(&write.text);
                    Outcome::FsWrite(pb::FsWriteResult {})
                }
                call => panic!("{call:?}"),
            };
            complete(&editor, &call, outcome).await;
        }
        events::until(&mut stream, &mut seen, "the end", |payload| matches!(payload, Payload::TurnEnded(_)))
            .await;
    }
    let calls = events::tool_calls(&seen);
    assert_eq!(events::result_text(&calls[0]), "     1\tunsaved\n");
    assert!(events::result_text(&calls[1]).contains("+edited"), "{:?}", calls[1]);
    assert_eq!(buffer, "edited\n");
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "saved\n", "the editor writes the disk");

    // A cancelled turn takes its question back.
    let (turn_id, _) =
        events::start(&other, &session_id, r#"call developer__read {"path": "notes.txt"}"#).await;
    let asked = next_call(&mut host).await;
    events::cancel(&other, &session_id, &turn_id).await;
    let withdrawn = soon("the withdrawal", async {
        loop {
            match host.message().await.expect("a message").expect("no end").payload {
                Some(attach_host_response::Payload::Withdrawn(call)) => return call.host_call_id,
                Some(attach_host_response::Payload::Keepalive(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    assert_eq!(withdrawn, asked.host_call_id);

    // Without the editor there is the disk.
    drop(host);
    eventually(std::time::Duration::from_secs(10), "the host to be gone", || async {
        let seen =
            events::complete(&other, &session_id, r#"call developer__read {"path": "notes.txt"}"#).await;
        (events::result_text(&events::tool_calls(&seen)[0]) == "     1\tsaved\n").then_some(())
    })
    .await;
    drop(stream);
    daemon.finish().await;
}

async fn unload(client: &Client, session_id: &str) -> bool {
    let request = pb::UnloadSessionRequest { session_id: session_id.to_owned(), ..Default::default() };
    client.sessions().unload_session(request).await.expect("UnloadSession").into_inner().unloaded
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_in_use_is_not_unloaded() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::new_session(&daemon.work())).await;
    assert!(unload(&client, &session_id).await, "nothing keeps it");

    let (turn_id, _) = events::start(&client, &session_id, "slow 5000").await;
    assert!(!unload(&client, &session_id).await, "a turn runs");
    events::cancel(&client, &session_id, &turn_id).await;
    eventually_unloaded(&client, &session_id).await;

    let asking = pb::StartTurnRequest {
        mode: Some(pb::SessionMode::Approve as i32),
        ..events::turn(&session_id, &events::shell("true"))
    };
    client.turns().start_turn(asking.clone()).await.expect("started");
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(&mut stream, &mut seen, "a question", |payload| {
        matches!(payload, Payload::InteractionRequested(_))
    })
    .await;
    drop(stream);
    assert!(!unload(&client, &session_id).await, "a question is pending");
    events::cancel(&client, &session_id, &asking.turn_id).await;
    eventually_unloaded(&client, &session_id).await;

    let host = attach(&client, &session_id).await;
    assert!(!unload(&client, &session_id).await, "a host is attached");
    drop(host);
    eventually_unloaded(&client, &session_id).await;

    let mark = unique_digits();
    let call = pb::CallToolRequest {
        session_id: session_id.clone(),
        name: "developer__shell".into(),
        arguments_json: format!("{{\"command\": \"sleep 300.{mark}\"}}"),
        ..Default::default()
    };
    let running = client.tools().call_tool(call).await.expect("a call");
    processes::appear(&mark, 1).await;
    assert!(!unload(&client, &session_id).await, "a call is in flight");
    drop(running);
    eventually_unloaded(&client, &session_id).await;
    events::complete(&client, &session_id, "say back again").await;
    daemon.finish().await;
}

/// What kept the session has ended or is about to.
async fn eventually_unloaded(client: &Client, session_id: &str) {
    eventually(std::time::Duration::from_secs(5), "the session to be unloaded", || async {
        unload(client, session_id).await.then_some(())
    })
    .await;
}
