//! Sessions whose model is an agent: a fake one that does what a test says.

mod doors;
mod fake;
mod limits;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use gander_domain::{
    ErrorDetail, ErrorReason, Interaction, ItemBody, Part, Payload, SessionId, Usage,
    extension::ExtensionConfig,
    interaction::{Answer, DecisionKind, FormAction, InteractionKind},
    permission::RememberScope,
    session::{Mode, ModelSelection, PlanEntry},
    turn::TurnState,
    usage::{Cost, CostSource},
};
use gander_engine::{
    CancelRequest, EngineOptions, ExtensionSelection, InteractionFilter, Models, NewSession, ResolvedModel,
    SteerTurn,
};
use gander_model::{
    AgentBackend, AgentClient, AgentElicitation, AgentElicitationAnswer, AgentMcpServer, AgentOpen,
    AgentPermission, AgentPermissionKind, AgentPermissionOption, AgentPromptEnd, AgentSession, AgentStop,
    AgentToolCall, AgentToolStatus, AgentUpdate, CheckResult, ModelError, ModelInfo, ModelProvider,
    ModelRequest, ModelStream, ProviderInfo, testing::ScriptedProvider,
};

use self::fake::{Both, Fake, Play, call, end, fake, play, provider, reply, said, tool};
use crate::harness::{Harness, PATIENCE, assert_log_rules, context, golden_turn, start_engine};

async fn harness(fake: &Arc<Fake>) -> Harness {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("work")).unwrap();
    harness_in(dir, fake).await
}

async fn harness_in(dir: tempfile::TempDir, fake: &Arc<Fake>) -> Harness {
    let model = Arc::new(ScriptedProvider::new([gander_model::testing::Script::reply("by a model")]));
    let models = Arc::new(Both(provider(fake), model.clone()));
    let engine = start_engine(dir.path(), models, EngineOptions::default()).await;
    Harness { dir, engine, model }
}

#[tokio::test]
async fn a_turn_of_an_agent() {
    let usage = Usage { input_tokens: Some(20), output_tokens: Some(5), ..Usage::default() };
    let fake = fake([play(move |stage| async move {
        let client = stage.client;
        client.update(AgentUpdate::Thought { message_id: None, text: "hm".into() }).await;
        client.update(said("I will")).await;
        client.update(said(" run it.")).await;
        client.update(tool("c1", AgentToolStatus::Pending)).await;
        client.update(tool("c1", AgentToolStatus::InProgress)).await;
        client.update(AgentUpdate::ToolOutput { call_id: "c1".into(), text: "ok\n".into() }).await;
        let done =
            AgentToolCall { content: Some(vec![Part::text("ok")]), ..call("c1", AgentToolStatus::Completed) };
        client.update(AgentUpdate::ToolCall(Box::new(done))).await;
        let entry = PlanEntry { content: "a".into(), priority: "high".into(), status: "pending".into() };
        client.update(AgentUpdate::Plan(vec![entry])).await;
        let cost = |micros| {
            Some(Cost { amount_micros: micros, currency: "USD".into(), source: CostSource::Provider })
        };
        for micros in [1000, 2500] {
            client
                .update(AgentUpdate::Usage {
                    context_used_tokens: 40,
                    context_window_tokens: 1000,
                    cost: cost(micros),
                })
                .await;
        }
        client.update(said("Done.")).await;
        Ok(AgentPromptEnd { stop: AgentStop::EndTurn, usage: Some(usage) })
    })]);
    let harness = harness(&fake).await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    assert_eq!(
        golden_turn(&events),
        "turn_started\n\
         item_completed user go\n\
         session_options_changed\n\
         model_call_started\n\
         item_started thought\n\
         thought_delta hm\n\
         item_completed thought hm\n\
         item_started agent\n\
         text_delta I will run it.\n\
         item_completed agent I will run it.\n\
         item_started call Bash Pending\n\
         tool_call_updated Bash Running\n\
         tool_output_delta ok\n\
         item_completed call Bash Completed Ok\n\
         plan_updated\n\
         usage_reported\n\
         usage_reported\n\
         item_started agent\n\
         text_delta Done.\n\
         item_completed agent Done.\n\
         usage_reported\n\
         turn_ended Completed EndTurn"
    );
    assert_log_rules(&events);
    let now = harness.engine.get_session(&session).await.unwrap();
    assert_eq!(now.usage.totals, usage);
    assert_eq!(now.usage.cost_totals.unwrap().amount_micros, 2500, "the agent counts the sum");
    assert_eq!((now.context_used_tokens, now.context_window_tokens), (Some(40), Some(1000)));
    assert_eq!(*fake.prompts.lock().unwrap(), [["go"]]);
    harness.finish().await;
    assert_eq!(*fake.closed.lock().unwrap(), 1, "the agent ends with the daemon");
}

async fn question(harness: &Harness, session: &SessionId) -> Interaction {
    harness.until(session, |e| matches!(e.payload, Payload::InteractionRequested { .. })).await;
    let all = harness.engine.list_interactions(InteractionFilter::default()).await.unwrap();
    assert_eq!(all.len(), 1, "pending questions of all sessions");
    all.into_iter().next().unwrap().1
}

fn permission() -> AgentPermission {
    use AgentPermissionKind as K;
    let option = |id: &str, kind| AgentPermissionOption { option_id: id.into(), label: id.into(), kind };
    AgentPermission {
        call: call("c1", AgentToolStatus::Pending),
        options: vec![
            option("yes", K::AllowOnce),
            option("ever", K::AllowAlways),
            option("no", K::RejectOnce),
        ],
    }
}

/// Asks for permission and says what came of it.
fn asking() -> Play {
    play(|stage| async move {
        let answer = stage.client.permission(permission()).await;
        let status = if answer.as_deref() == Some("no") {
            AgentToolStatus::Failed
        } else {
            AgentToolStatus::Completed
        };
        stage.client.update(tool("c1", status)).await;
        stage.client.update(said(answer.as_deref().unwrap_or("cancelled"))).await;
        end(AgentStop::EndTurn)
    })
}

#[tokio::test]
async fn permission_is_asked_with_the_agents_own_options() {
    let fake = fake([asking(), asking()]);
    let harness = harness(&fake).await;
    let session = harness.session_in(Mode::Approve).await;
    for (answer, chosen, ended) in [
        (Answer::Option { option_id: "ever".into() }, "ever", "Completed Ok"),
        (
            Answer::Decision { kind: DecisionKind::Deny, remember_scope: RememberScope::Once, comment: None },
            "no",
            "Declined Declined",
        ),
    ] {
        let turn = harness.start(&session, "go").await;
        let asked = loop {
            let pending = harness.engine.list_interactions(InteractionFilter::default()).await.unwrap();
            if let Some((_, asked)) = pending.into_iter().next() {
                break asked;
            }
            tokio::task::yield_now().await;
        };
        let InteractionKind::Permission(question) = &asked.kind else { panic!("{asked:?}") };
        let ids: Vec<_> = question.options.iter().map(|o| o.option_id.as_str()).collect();
        assert_eq!(ids, ["yes", "ever", "no"]);
        assert_eq!(question.tool_call.title, "Run make");
        assert!(asked.item_id.is_some() && asked.turn_id.is_some());
        harness.engine.respond(&context("b"), None, &asked.interaction_id, answer).await.unwrap();
        let events = harness.until_ended(&session, &turn).await;
        let log = golden_turn(&events);
        assert!(log.contains(&format!("item_completed call Bash {ended}")), "{log}");
        assert!(
            log.ends_with(&format!("item_completed agent {chosen}\nturn_ended Completed EndTurn")),
            "{log}"
        );
        let rules = events
            .iter()
            .filter(|e| matches!(&e.payload, Payload::InteractionResolved(r) if r.rule_created.is_some()));
        assert_eq!(rules.count(), 0, "the agent remembers its own answers");
        assert_log_rules(&events);
    }
    harness.finish().await;
}

#[tokio::test]
async fn modes_answer_for_the_user() {
    for (mode, chosen) in [(Mode::Auto, "yes"), (Mode::Chat, "no")] {
        let fake = fake([asking()]);
        let harness = harness(&fake).await;
        let session = harness.session_in(mode).await;
        let log = golden_turn(&harness.run(&session, "go").await);
        assert!(log.contains(&format!("item_completed agent {chosen}")), "{mode:?}: {log}");
        assert!(!log.contains("interaction_requested"), "{mode:?}: {log}");
        harness.finish().await;
    }
}

#[tokio::test]
async fn an_answer_can_end_the_turn() {
    let fake = fake([play(|stage| async move {
        let answer = stage.client.permission(permission()).await;
        assert_eq!(answer, None);
        stage.cancelled.cancelled().await;
        end(AgentStop::Cancelled)
    })]);
    let harness = harness(&fake).await;
    let session = harness.session_in(Mode::Approve).await;
    let turn = harness.start(&session, "go").await;
    let asked = question(&harness, &session).await;
    let answer =
        Answer::Decision { kind: DecisionKind::Cancel, remember_scope: RememberScope::Once, comment: None };
    harness.engine.respond(&context("b"), None, &asked.interaction_id, answer).await.unwrap();
    let events = harness.until_ended(&session, &turn).await;
    assert!(golden_turn(&events).ends_with("turn_ended Cancelled"), "{}", golden_turn(&events));
    assert_eq!(*fake.cancels.lock().unwrap(), 1, "the agent was told");
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn forms_are_asked_and_can_be_withdrawn() {
    let form = || AgentElicitation::Form { message: "Name?".into(), schema_json: "{}".into() };
    let fake = fake([play(move |stage| async move {
        let dropped = tokio::time::timeout(Duration::from_millis(50), stage.client.elicit(form())).await;
        assert!(dropped.is_err());
        let answer = stage.client.elicit(form()).await;
        let AgentElicitationAnswer::Accept(Some(json)) = answer else { panic!("{answer:?}") };
        stage.client.update(said(&json)).await;
        end(AgentStop::EndTurn)
    })]);
    let harness = harness(&fake).await;
    let session = harness.session().await;
    let turn = harness.start(&session, "go").await;
    harness.until(&session, |e| matches!(e.payload, Payload::InteractionResolved(_))).await;
    let asked = loop {
        let pending = harness.engine.list_interactions(InteractionFilter::default()).await.unwrap();
        if let Some((_, asked)) = pending.into_iter().next() {
            break asked;
        }
        tokio::task::yield_now().await;
    };
    let InteractionKind::ElicitForm { extension_name, .. } = &asked.kind else { panic!("{asked:?}") };
    assert_eq!(extension_name, "Fake");
    let answer = Answer::Form { action: FormAction::Accept, content_json: Some(r#"{"n":1}"#.into()) };
    harness.engine.respond(&context("b"), None, &asked.interaction_id, answer).await.unwrap();
    let events = harness.until_ended(&session, &turn).await;
    let log = golden_turn(&events);
    assert!(log.contains("interaction_resolved Withdrawn") && log.contains(r#"agent {"n":1}"#), "{log}");
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn a_cancel_is_told_awaited_and_quick() {
    // One agent stops when told, the other does not.
    for obedient in [true, false] {
        let fake = fake([
            play(move |stage| async move {
                stage.client.update(said("half")).await;
                stage.client.update(tool("c1", AgentToolStatus::InProgress)).await;
                stage.cancelled.cancelled().await;
                if !obedient {
                    std::future::pending::<()>().await;
                }
                stage.client.update(said(" way")).await;
                end(AgentStop::Cancelled)
            }),
            reply("again"),
        ]);
        let harness = harness(&fake).await;
        let session = harness.session().await;
        let turn = harness.start(&session, "go").await;
        harness.until(&session, |e| matches!(e.payload, Payload::ToolCallUpdated { .. })).await;
        let start = Instant::now();
        harness.engine.cancel_turn(&context("b"), &session, CancelRequest::default()).await.unwrap();
        let events = harness.until_ended(&session, &turn).await;
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        let log = golden_turn(&events);
        assert!(log.contains("item_completed call incomplete Bash Cancelled Cancelled"), "{log}");
        assert!(log.ends_with("turn_ended Cancelled"), "{log}");
        let last = harness.engine.get_turn(&session, &turn).await.unwrap().0;
        assert_eq!(last.state, TurnState::Cancelled);
        assert_log_rules(&events);
        assert_eq!(*fake.cancels.lock().unwrap(), 1);
        if obedient {
            let log = golden_turn(&harness.run(&session, "more").await);
            assert!(log.contains("item_completed agent again"), "{log}");
            assert_eq!(fake.opened.lock().unwrap().len(), 1, "the same process goes on");
            assert_eq!(fake.prompts.lock().unwrap()[1], ["more"]);
        }
        harness.finish().await;
    }
}

#[tokio::test]
async fn a_session_goes_on_after_a_restart() {
    let before = fake([reply("first answer")]);
    let harness = harness(&before).await;
    let session = harness.session().await;
    harness.run(&session, "first").await;
    let Harness { dir, engine, model: _ } = harness;
    engine.drain(Duration::ZERO).await;
    engine.close().await;
    drop(engine);

    let after = fake([reply("second answer")]);
    let harness = harness_in(dir, &after).await;
    harness.run(&session, "second").await;
    assert_eq!(after.opened.lock().unwrap()[0].resume.as_deref(), Some("agent-0"));
    assert_eq!(*after.prompts.lock().unwrap(), [["second"]], "the agent knows the rest");
    let Harness { dir, engine, model: _ } = harness;
    engine.drain(Duration::ZERO).await;
    engine.close().await;
    drop(engine);

    let forgetful = Arc::new(Fake {
        forgetful: true,
        plays: Mutex::new([reply("third answer")].into()),
        ..Fake::default()
    });
    let harness = harness_in(dir, &forgetful).await;
    let events = harness.run(&session, "third").await;
    let prompt = forgetful.prompts.lock().unwrap()[0].clone();
    assert_eq!((prompt.len(), prompt[1].as_str()), (2, "third"));
    for text in ["User: first", "Assistant: first answer", "User: second", "Assistant: second answer"] {
        assert!(prompt[0].contains(text), "{prompt:?}");
    }
    assert!(golden_turn(&events).contains("notice agent_session_lost"));
    harness.finish().await;
}

#[tokio::test]
async fn what_happened_without_the_agent_is_told() {
    let fake = fake([reply("one"), reply("three"), reply("four")]);
    let harness = harness(&fake).await;
    let session = harness.session().await;
    harness.run(&session, "first").await;
    let by_model = gander_engine::StartTurn {
        model: Some(ModelSelection { provider_id: "scripted".into(), ..ModelSelection::default() }),
        ..crate::harness::turn("second")
    };
    let turn = harness.engine.start_turn(&context("b"), &session, by_model).await.unwrap().turn.turn_id;
    harness.until_ended(&session, &turn).await;
    harness.run(&session, "third").await;
    let prompts = fake.prompts.lock().unwrap().clone();
    assert_eq!(prompts[1].len(), 2);
    assert!(prompts[1][0].ends_with("User: second\n\nAssistant: by a model"), "{prompts:?}");
    assert_eq!(fake.opened.lock().unwrap().len(), 1, "it went on all the time");
    harness.run(&session, "/clear").await;
    harness.run(&session, "fourth").await;
    let opened = fake.opened.lock().unwrap().clone();
    assert_eq!(
        (opened.len(), opened[1].resume.clone()),
        (2, None),
        "what was cleared must not be remembered"
    );
    assert_eq!(fake.prompts.lock().unwrap()[2], ["fourth"]);
    harness.finish().await;
}

#[tokio::test]
async fn what_comes_between_turns_is_stored() {
    let fake = fake([reply("done"), reply("more")]);
    let harness = harness(&fake).await;
    let session = harness.session().await;
    harness.run(&session, "go").await;
    let client = fake.live.lock().unwrap().clone().unwrap();
    client.update(said("by the ")).await;
    client.update(said("way")).await;
    client.update(tool("late", AgentToolStatus::Completed)).await;
    client.update(said("and this")).await;
    let is = |text: &'static str| move |e: &gander_domain::Event| matches!(&e.payload, Payload::ItemCompleted { item } if item.text() == text && item.turn_id.is_none());
    let events = harness.until(&session, is("and this")).await;
    assert!(events.iter().any(|e| is("by the way")(e)), "{}", crate::harness::golden(&events));
    let calls = events.iter().filter(
        |e| matches!(&e.payload, Payload::ItemCompleted { item } if matches!(item.body, ItemBody::ToolCall(_))),
    );
    assert_eq!(calls.count(), 1);
    let events = harness.run(&session, "again").await;
    assert_log_rules(&events);
    assert_eq!(fake.prompts.lock().unwrap()[1], ["again"], "the agent knows what it did itself");
    harness.finish().await;
}

#[tokio::test]
async fn a_crash_fails_the_turn_and_the_next_starts_anew() {
    let fake = fake([
        play(|stage| async move {
            stage.client.update(said("half")).await;
            Err(ErrorDetail::new(ErrorReason::ProviderUnavailable, "its process exited with code 1"))
        }),
        reply("back"),
    ]);
    let harness = harness(&fake).await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    let log = golden_turn(&events);
    assert!(
        log.ends_with("item_completed agent incomplete half\nturn_ended Failed PROVIDER_UNAVAILABLE"),
        "{log}"
    );
    assert_log_rules(&events);
    let log = golden_turn(&harness.run(&session, "again").await);
    assert!(log.contains("item_completed agent back"), "{log}");
    assert_eq!(fake.opened.lock().unwrap()[1].resume.as_deref(), Some("agent-0"));
    harness.finish().await;
}

#[tokio::test]
async fn settings_pass_through() {
    let fake = Arc::new(Fake {
        plays: Mutex::new([reply("a"), reply("b")].into()),
        offers_model: true,
        ..Fake::default()
    });
    let harness = harness(&fake).await;
    let session = harness.session().await;
    let set = async |id: &'static str, value: &'static str| {
        let by = context("b");
        let done = harness.engine.set_session_option(&by, &session, id, value).await?;
        Ok::<_, ErrorDetail>(done.value.into_iter().map(|o| (o.option_id, o.value)).collect::<Vec<_>>())
    };
    let early = set("agent.mode", "plan").await.unwrap_err();
    assert!(early.message.contains("start a turn first"), "{early:?}");
    harness.run(&session, "go").await;
    let pair = |id: &str, value: &str| (id.to_owned(), value.to_owned());
    let options = set("agent.mode", "plan").await.unwrap();
    assert_eq!(options, [pair("mode", "auto"), pair("agent.mode", "plan"), pair("agent.model", "ask")]);
    assert_eq!(*fake.set.lock().unwrap(), [pair("mode", "plan")]);
    assert_eq!(set("agent.mode", "nope").await.unwrap_err().reason, ErrorReason::InvalidField);
    let names: Vec<_> =
        harness.engine.session_options(&session).await.unwrap().into_iter().map(|o| o.name).collect();
    assert_eq!(names[..2], ["Mode", "Agent's mode"]);

    // A new process of the agent gets the choice of before, and what was chosen while none ran.
    assert!(harness.engine.unload_session(&session).await.unwrap());
    assert_eq!(*fake.closed.lock().unwrap(), 1, "the agent ends with its session");
    fake.set.lock().unwrap().clear();
    set("agent.model", "big").await.unwrap();
    assert_eq!(*fake.set.lock().unwrap(), [], "no agent runs");
    harness.run(&session, "again").await;
    let mut now = fake.set.lock().unwrap().clone();
    now.sort();
    assert_eq!(now, [pair("mode", "plan"), pair("model", "big")]);
    harness.finish().await;
}

#[tokio::test]
async fn a_model_that_the_agent_does_not_have_is_an_error() {
    for offers_model in [true, false] {
        let fake = Arc::new(Fake { offers_model, ..Fake::default() });
        let harness = harness(&fake).await;
        let session = harness.session().await;
        let wanted = gander_engine::StartTurn {
            model: Some(ModelSelection { model_id: "mad".into(), ..ModelSelection::default() }),
            ..crate::harness::turn("go")
        };
        let turn = harness.engine.start_turn(&context("b"), &session, wanted).await.unwrap().turn.turn_id;
        let log = golden_turn(&harness.until_ended(&session, &turn).await);
        assert!(log.ends_with("turn_ended Failed MODEL_UNKNOWN"), "{log}");
        harness.finish().await;
    }
}

#[tokio::test]
async fn what_is_said_meanwhile_is_taken_in_or_becomes_another_prompt() {
    for steerable in [true, false] {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let held = gate.clone();
        let working = play(move |stage| async move {
            stage.client.update(said("working")).await;
            held.acquire().await.unwrap().forget();
            end(AgentStop::EndTurn)
        });
        let plays = Mutex::new([working, reply("turned")].into());
        let fake = Arc::new(Fake { plays, steerable, ..Fake::default() });
        let harness = harness(&fake).await;
        let session = harness.session().await;
        let turn = harness.start(&session, "go").await;
        harness.until(&session, |e| matches!(e.payload, Payload::TextDelta { .. })).await;
        let steer = SteerTurn { input: vec![Part::text("left")], ..SteerTurn::default() };
        harness.engine.steer_turn(&context("b"), &session, steer).await.unwrap();
        let heard = |e: &gander_domain::Event| matches!(&e.payload, Payload::TextDelta { text, .. } if text.contains("(heard)"));
        harness.until(&session, heard).await;
        gate.add_permits(1);
        let events = harness.until_ended(&session, &turn).await;
        assert_eq!(*fake.steered.lock().unwrap(), ["left"]);
        let prompts = fake.prompts.lock().unwrap().clone();
        if steerable {
            assert_eq!(prompts, [["go"]]);
        } else {
            assert_eq!(prompts, [["go"], ["left"]], "and nothing of what the agent said itself");
        }
        assert_log_rules(&events);
        harness.finish().await;
    }
}

fn extension(name: &str, json: &serde_json::Value) -> ExtensionConfig {
    let mut value = json.clone();
    value["name"] = name.into();
    gander_engine::types::extension_format::from_value(&serde_json::from_value(value).unwrap()).unwrap()
}

#[tokio::test]
async fn extensions_are_handed_down() {
    let fake = fake([reply("ok"), reply("ok")]);
    let harness = harness(&fake).await;
    let stdio = serde_json::json!({"type": "stdio", "cmd": "server", "args": ["-v"], "envs": {"A": "1"}});
    let http = serde_json::json!({"type": "streamable_http", "uri": "http://x/", "headers": {"K": "${A}"}, "envs": {"A": "1"}});
    let python = serde_json::json!({"type": "inline_python", "code": "pass"});
    let some = serde_json::json!({"type": "stdio", "cmd": "server", "available_tools": ["a"]});
    let builtin = serde_json::json!({"type": "builtin"});
    let new = NewSession {
        extensions: ExtensionSelection {
            exactly: Some(vec![
                extension("one", &stdio),
                extension("two", &http),
                extension("three", &python),
                extension("four", &some),
                extension("developer", &builtin),
            ]),
            ..ExtensionSelection::default()
        },
        ..harness.new_session()
    };
    let session = harness.engine.create_session(&context("a"), new).await.unwrap().value.session_id;
    let events = harness.run(&session, "go").await;
    let env = || [("A".to_owned(), "1".to_owned())].into();
    let one = AgentMcpServer::Stdio {
        name: "one".into(),
        command: "server".into(),
        args: vec!["-v".into()],
        env: env(),
    };
    let headers = [("K".to_owned(), "1".to_owned())].into();
    let two = AgentMcpServer::Http { name: "two".into(), url: "http://x/".into(), headers };
    assert!(fake.opened.lock().unwrap()[0].mcp_servers == [one, two]);
    let notice = events.iter().find_map(|e| match &e.payload {
        Payload::ItemCompleted { item } => match &item.body {
            ItemBody::Notice(notice) => Some(notice.text.clone()),
            _ => None,
        },
        _ => None,
    });
    assert!(notice.unwrap().ends_with("extensions: three, four"), "what cannot be handed down is said");
    harness.engine.remove_session_extension(&context("b"), &session, "two").await.unwrap();
    harness.run(&session, "again").await;
    let opened = fake.opened.lock().unwrap().clone();
    assert_eq!((opened.len(), opened[1].mcp_servers.len()), (2, 1), "other extensions, another process");
    assert_eq!(opened[1].resume.as_deref(), Some("agent-0"));
    harness.finish().await;
}

#[tokio::test]
async fn a_start_can_be_cancelled() {
    struct Stuck;
    impl AgentBackend for Stuck {
        fn open(
            &self,
            _request: AgentOpen,
            _client: Arc<dyn AgentClient>,
        ) -> BoxFuture<'_, Result<Arc<dyn AgentSession>, ErrorDetail>> {
            std::future::pending().boxed()
        }
    }
    struct StuckProvider(ProviderInfo);
    impl ModelProvider for StuckProvider {
        fn info(&self) -> &ProviderInfo {
            &self.0
        }
        fn stream(&self, _request: ModelRequest) -> ModelStream {
            stream::empty().boxed()
        }
        fn list_models(&self) -> BoxFuture<'_, Result<Vec<ModelInfo>, ModelError>> {
            async { Ok(Vec::new()) }.boxed()
        }
        fn check(&self) -> BoxFuture<'_, CheckResult> {
            async { Ok(()) }.boxed()
        }
        fn agent(&self) -> Option<Arc<dyn AgentBackend>> {
            Some(Arc::new(Stuck))
        }
    }
    struct OnlyStuck(Arc<StuckProvider>);
    impl Models for OnlyStuck {
        fn resolve(&self, _: Option<&ModelSelection>, _: bool) -> Result<ResolvedModel, ErrorDetail> {
            let selection = ModelSelection {
                provider_id: "stuck".into(),
                model_id: "current".into(),
                ..ModelSelection::default()
            };
            Ok(ResolvedModel { provider: self.0.clone(), selection, reason: String::new() })
        }
        fn providers(&self) -> Vec<(ProviderInfo, bool)> {
            Vec::new()
        }
        fn provider(&self, _: &str) -> Result<Arc<dyn ModelProvider>, ErrorDetail> {
            Ok(self.0.clone())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("work")).unwrap();
    let info = provider(&fake([])).1.clone();
    let models = Arc::new(OnlyStuck(Arc::new(StuckProvider(info))));
    let engine = start_engine(dir.path(), models, EngineOptions::default()).await;
    let harness = Harness { dir, engine, model: Arc::new(ScriptedProvider::new([])) };
    let session = harness.session().await;
    let turn = harness.start(&session, "go").await;
    let start = Instant::now();
    harness.engine.cancel_turn(&context("b"), &session, CancelRequest::default()).await.unwrap();
    let cancelled = tokio::time::timeout(PATIENCE, harness.until_ended(&session, &turn)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(golden_turn(&cancelled).ends_with("turn_ended Cancelled"));
    harness.finish().await;
}
