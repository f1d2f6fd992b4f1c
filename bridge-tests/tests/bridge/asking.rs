//! What servers ask of a session, what builtins keep with it, and the sandbox: through the API, answered by clients.

use gander_bridge_tests::{TestDaemon, events, pb, skip, soon};
use gander_client::Client;
use pb::{interaction::Question, session_event::Payload};

use crate::extensions::{add, call, called, config, server};

/// Waits for the first question of the session and gives it.
async fn question(client: &Client, session_id: &str) -> pb::Interaction {
    let (mut stream, mut seen) = (events::watch(client, session_id, 0), Vec::new());
    let event = events::until(&mut stream, &mut seen, "a question", |payload| {
        matches!(payload, Payload::InteractionRequested(_))
    })
    .await;
    match event.payload {
        Some(Payload::InteractionRequested(asked)) => asked.interaction.expect("a question"),
        other => panic!("{other:?}"),
    }
}

async fn respond(client: &Client, interaction: &pb::Interaction, answer: pb::interaction_answer::Answer) {
    let request = pb::RespondToInteractionRequest {
        interaction_id: interaction.interaction_id.clone(),
        answer: Some(pb::InteractionAnswer { answer: Some(answer) }),
        ..Default::default()
    };
    soon("RespondToInteraction", client.interactions().respond_to_interaction(request))
        .await
        .expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_asks_the_user_through_any_client() {
    let Some(server) = server() else { return };
    let daemon = TestDaemon::start().await;
    let (caller, other) = (daemon.unix().await, daemon.tcp().await);
    let session_id = events::create(&caller, events::bare_session(&daemon.work())).await;
    add(&caller, &session_id, config(&server, "asking")).await;
    let asking = called(&caller, call(&session_id, "trigger-elicitation-request", "{}"));
    let answering = async {
        let asked = question(&other, &session_id).await;
        let Some(Question::ElicitForm(form)) = &asked.question else { panic!("{asked:?}") };
        assert_eq!(form.extension_name, "everything");
        serde_json::from_str::<serde_json::Value>(&form.schema_json).expect("a schema");
        let answer = pb::FormAnswer {
            action: pb::FormAction::Accept as i32,
            content_json: r#"{"name": "Ada Lovelace", "check": true}"#.into(),
        };
        respond(&other, &asked, pb::interaction_answer::Answer::Form(answer)).await;
    };
    let ((_, result), ()) = tokio::join!(asking, answering);
    assert!(events::text(&result.parts).contains("Ada Lovelace"), "{result:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_uses_the_model_only_when_allowed() {
    let Some(server) = server() else { return };
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let without = add(&client, &session_id, config(&server, "sampling")).await;
    let tools = |status: &pb::ExtensionStatus| status.tool_count;
    let policy = pb::SamplingPolicy { mode: pb::SamplingMode::Ask as i32, ..Default::default() };
    let with = add(
        &client,
        &session_id,
        pb::ExtensionConfig { sampling: Some(policy), ..config(&server, "sampling") },
    )
    .await;
    assert!(
        tools(&with) > tools(&without),
        "sampling tools appear with the capability: {without:?} {with:?}"
    );
    let prompt = r#"{"prompt": "say from the demo", "maxTokens": 50}"#;
    let asking = called(&client, call(&session_id, "trigger-sampling-request", prompt));
    let answering = async {
        let asked = question(&client, &session_id).await;
        assert!(matches!(asked.question, Some(Question::Sampling(_))), "{asked:?}");
        let decision = pb::PermissionAnswer {
            kind: pb::PermissionDecision::Allow as i32,
            remember_scope: pb::RememberScope::Once as i32,
            ..Default::default()
        };
        respond(&client, &asked, pb::interaction_answer::Answer::Decision(decision)).await;
    };
    let ((_, result), ()) = tokio::join!(asking, answering);
    assert!(!result.is_error && events::text(&result.parts).contains("demo"), "{result:?}");
    let (_, roots) = called(&client, call(&session_id, "get-roots-list", "{}")).await;
    let work = daemon.work().display().to_string();
    assert!(events::text(&roots.parts).contains(&work), "{roots:?}");
    daemon.finish().await;
}

fn builtin(name: &str) -> pb::ExtensionConfig {
    pb::ExtensionConfig {
        name: name.into(),
        kind: Some(pb::extension_config::Kind::Builtin(pb::BuiltinExtension {})),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_todo_list_becomes_the_sessions_plan() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    add(&client, &session_id, builtin("todo")).await;
    let prompt = r#"call todo__todo_write {"content": "- [x] first\n- [ ] second"}"#;
    let events = events::complete(&client, &session_id, prompt).await;
    let plan = events.iter().find_map(|event| match &event.payload {
        Some(Payload::PlanUpdated(updated)) => updated.plan.clone(),
        _ => None,
    });
    let entries = plan.expect("a plan").entries;
    assert_eq!(entries.iter().map(|e| e.content.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(entries[0].status(), pb::PlanStatus::Completed);
    let get = pb::GetSessionRequest { session_id: session_id.clone() };
    let session = client.sessions().get_session(get).await.unwrap().into_inner().session.unwrap();
    assert!(session.extension_state_json.contains_key("todo.v0"), "{session:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_manages_extensions_through_the_builtin() {
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    add(&client, &session_id, builtin("extensionmanager")).await;
    let found =
        events::complete(&client, &session_id, "call extensionmanager__search_available_extensions {}").await;
    let text = events::result_text(&events::tool_calls(&found)[0]);
    assert!(text.contains("developer"), "{text}");
    let enable =
        r#"call extensionmanager__manage_extensions {"action": "enable", "extension_name": "developer"}"#;
    events::complete(&client, &session_id, enable).await;
    let output = events::shell_output(&client, &session_id, "echo enabled").await;
    assert!(output.contains("enabled"), "{output}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandboxed_developer_changes_only_what_it_may() {
    if gander_process::sandbox_support().landlock_abi.is_none() {
        skip("this kernel has no Landlock");
        return;
    }
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let sandbox = pb::ExtensionSandbox { mode: pb::SandboxMode::ReadOnly as i32, ..Default::default() };
    add(&client, &session_id, pb::ExtensionConfig { sandbox: Some(sandbox), ..builtin("developer") }).await;
    let work = daemon.work();
    let output =
        events::shell_output(&client, &session_id, "echo x > by-shell; cat /etc/hostname; echo ok").await;
    assert!(output.contains("ok") && !work.join("by-shell").exists(), "{output}");
    let write = r#"call developer__write {"path": "by-tool", "content": "x"}"#;
    events::complete(&client, &session_id, write).await;
    assert!(!work.join("by-tool").exists());
    let token = daemon.ready().token_file.display().to_string();
    let stolen = events::shell_output(&client, &session_id, &format!("cat {token}")).await;
    assert!(!stolen.contains(daemon.token()), "the daemon's token is hidden: {stolen}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_for_another_session_does_not_count() {
    let Some(server) = server() else { return };
    let daemon = TestDaemon::start().await;
    let client = daemon.unix().await;
    let session_id = events::create(&client, events::bare_session(&daemon.work())).await;
    let other = events::create(&client, events::bare_session(&daemon.work())).await;
    add(&client, &session_id, config(&server, "asking")).await;
    let asking = called(&client, call(&session_id, "trigger-elicitation-request", "{}"));
    let answering = async {
        let asked = question(&client, &session_id).await;
        let answer = |name: &str| pb::FormAnswer {
            action: pb::FormAction::Accept as i32,
            content_json: format!(r#"{{"name": "{name}"}}"#),
        };
        let stray = pb::RespondToInteractionRequest {
            interaction_id: asked.interaction_id.clone(),
            answer: Some(pb::InteractionAnswer {
                answer: Some(pb::interaction_answer::Answer::Form(answer("Mallory"))),
            }),
            session_id: other.clone(),
            ..Default::default()
        };
        let error = events::refused(client.interactions().respond_to_interaction(stray).await);
        assert_eq!(error.code, tonic::Code::NotFound, "{error:?}");
        respond(&client, &asked, pb::interaction_answer::Answer::Form(answer("Ada"))).await;
    };
    let ((_, result), ()) = tokio::join!(asking, answering);
    let text = events::text(&result.parts);
    assert!(text.contains("Ada") && !text.contains("Mallory"), "{text}");
    // Nothing of the question is in the other session.
    let log = events::log(&client, &other).await;
    assert!(
        log.iter().all(|event| !matches!(event.payload, Some(Payload::InteractionRequested(_)))),
        "{log:?}"
    );
    daemon.finish().await;
}
