//! What the model is told beyond the conversation: prompts, hints, summaries, commands, titles; and which rules hold.

use std::sync::Arc;

use gander_domain::{
    ErrorReason, Event, ItemBody, Payload, SessionId, TurnId, Usage,
    extension::{ExtensionConfig, ExtensionTransport, ProtocolEra, SamplingPolicy},
    interaction::Answer,
    permission::{RememberScope, RuleDecision},
    session::{Mode, TitleSource},
    turn::TurnLimits,
    usage::{Cost, CostSource, UsagePurpose},
};
use gander_engine::{
    CancelRequest, ExtensionSelection, ForkRequest, ImportRequest, ImportSource, InteractionFilter,
    ItemsQuery, RuleChange, SessionPatch, StartTurn, SteerTurn,
};
use gander_model::{ModelErrorClass, ModelEvent, ModelStop, testing::Script};
use serde_json::json;

use crate::harness::{Harness, assert_log_rules, context, golden, golden_turn, turn};

pub(crate) fn all_items() -> ItemsQuery {
    ItemsQuery { include_hidden: true, max_items: 10_000, max_bytes: usize::MAX, ..ItemsQuery::default() }
}

fn shell(id: &str, command: &str) -> Script {
    Script::one_call(id, "developer__shell", &json!({ "command": command }).to_string())
}

fn texts(harness: &Harness, request: usize) -> Vec<String> {
    harness.model.requests()[request].items.iter().map(|i| i.text()).collect()
}

#[tokio::test]
async fn a_nearly_full_context_is_summarized_before_the_next_call() {
    let harness = Harness::new([
        // The scripted model's window has 100 000 tokens.
        Script::new().text("long story").usage(79_000, 500).finish(ModelStop::EndTurn),
        Script::new().text("next").usage(80_000, 500).finish(ModelStop::EndTurn),
        Script::new().text("NOTES").usage(80_600, 100).finish(ModelStop::EndTurn),
        Script::new().text("third").usage(2_000, 10).finish(ModelStop::EndTurn),
        Script::reply("fourth"),
    ])
    .await;
    let session = harness.session().await;
    // The kept part may hold a fifth of the window: the history is larger than that.
    harness.run(&session, &format!("one {}", "x".repeat(60_000))).await;
    let log = golden_turn(&harness.run(&session, "two").await);
    assert!(!log.contains("history_changed"), "below the threshold nothing happens");
    let events = harness.run(&session, &format!("three {}", "x".repeat(40_000))).await;
    let log = golden_turn(&events);
    assert!(log.contains("history_changed Compacted"));
    let report = events.iter().find_map(|e| match &e.payload {
        Payload::UsageReported(r) if r.purpose == UsagePurpose::Compaction => Some(r.clone()),
        _ => None,
    });
    let report = report.unwrap();
    assert_eq!(report.call.input_tokens, Some(80_600));
    assert!(report.context_used_tokens.unwrap() < 60_000);
    let told: Vec<String> = texts(&harness, 3).iter().map(|t| t.chars().take(10).collect()).collect();
    assert_eq!(told, ["NOTES", "long story", "two", "next", "three xxxx"]);
    let read = harness.engine.get_session(&session).await.unwrap();
    assert_eq!(read.context_used_tokens, Some(2_010));
    assert_eq!(read.usage.totals.input_tokens, Some(79_000 + 80_000 + 80_600 + 2_000));
    let log = golden_turn(&harness.run(&session, "four").await);
    assert_eq!(log.matches("history_changed").count(), 1, "once is enough");
    assert_log_rules(&harness.log(&session).await);
    harness.finish().await;
}

#[tokio::test]
async fn the_threshold_can_be_switched_off() {
    let harness = Harness::new([
        Script::new().text("a").usage(99_000, 500).finish(ModelStop::EndTurn),
        Script::reply("b"),
    ])
    .await;
    harness.engine.config().set("GOOSE_AUTO_COMPACT_THRESHOLD", &json!(1)).unwrap();
    let session = harness.session().await;
    harness.run(&session, "one").await;
    assert!(!golden(&harness.run(&session, "two").await).contains("history_changed"));
    harness.finish().await;
}

#[tokio::test]
async fn a_summary_that_fails_does_not_stop_the_turn() {
    let harness = Harness::new([
        Script::new().text("a").usage(90_000, 500).finish(ModelStop::EndTurn),
        Script::error(ModelErrorClass::InvalidRequest, "no"),
        Script::reply("b"),
    ])
    .await;
    let session = harness.session().await;
    harness.run(&session, &"x".repeat(200_000)).await;
    let log = golden_turn(&harness.run(&session, "two").await);
    assert!(log.contains("notice compaction_failed") && log.ends_with("Completed EndTurn"), "{log}");
    harness.finish().await;
}

#[tokio::test]
async fn compact_is_a_command_and_a_request() {
    let harness = Harness::new([
        Script::reply("hello"),
        Script::new().text("NOTES 1").usage(10, 5).finish(ModelStop::EndTurn),
        Script::reply("more"),
        Script::reply("NOTES 2"),
        Script::reply("end"),
    ])
    .await;
    let session = harness.session().await;
    let nothing = harness.engine.compact_session(&context("a"), &session, String::new()).await.unwrap();
    assert!(nothing.value.is_none(), "there is nothing yet");
    harness.run(&session, "one").await;
    let turn_id = harness.start(&session, "/compact names matter").await;
    let events = harness.until_ended(&session, &turn_id).await;
    let log = golden_turn(&events);
    assert!(
        log.contains(
            "item_completed user /compact names matter\n\
             status_noted\n\
             item_completed compaction\n\
             history_changed Compacted\n\
             usage_reported\n\
             turn_ended Completed EndTurn"
        ),
        "{log}"
    );
    let request = &harness.model.requests()[1];
    assert!(request.system.contains("pay attention to this: names matter"), "{}", request.system);
    harness.run(&session, "two").await;
    assert_eq!(texts(&harness, 2), ["NOTES 1", "two"], "the command itself is not told");
    let done = harness.engine.compact_session(&context("a"), &session, String::new()).await.unwrap();
    let item = done.value.unwrap();
    assert!(matches!(&item.body, ItemBody::Compaction(c) if c.trigger == "manual"));
    let changed = harness.log(&session).await.into_iter().find(|e| e.sequence == done.sequence).unwrap();
    assert!(matches!(changed.payload, Payload::HistoryChanged(_)));
    harness.run(&session, "three").await;
    assert_eq!(texts(&harness, 4), ["NOTES 2", "three"]);
    let shown = harness.engine.list_items(&session, all_items()).await.unwrap().items;
    let visible: Vec<_> = shown.iter().filter(|i| i.visibility.user).map(|i| i.text()).collect();
    assert_eq!(visible, ["one", "hello", "/compact names matter", "two", "more", "three", "end"]);
    let gone = SessionId::new("none").unwrap();
    let missing = harness.engine.compact_session(&context("a"), &gone, String::new()).await;
    assert_eq!(missing.unwrap_err().reason, ErrorReason::SessionNotFound);
    assert_log_rules(&harness.log(&session).await);
    harness.finish().await;
}

#[tokio::test]
async fn who_types_compact_is_told_when_there_is_nothing_to_summarize() {
    let harness = Harness::new([]).await;
    let session = harness.session().await;
    let log = golden_turn(&harness.run(&session, "/compact").await);
    assert!(
        log.ends_with("item_completed agent There is nothing to summarize.\nturn_ended Completed EndTurn"),
        "{log}"
    );
    assert!(
        harness.engine.compact_session(&context("a"), &session, String::new()).await.unwrap().value.is_none()
    );
    let log = golden(&harness.log(&session).await);
    assert_eq!(log.matches("nothing to summarize").count(), 1, "the request has its answer: {log}");
    harness.finish().await;
}

#[tokio::test]
async fn forks_and_imports_keep_summaries_in_their_place() {
    let harness = Harness::new([
        Script::reply("hello"),
        Script::error(ModelErrorClass::ContextExceeded, "too long"),
        Script::reply("NOTES"),
        Script::reply("a2"),
        Script::reply("a3"),
        Script::reply("fork"),
        Script::reply("import"),
    ])
    .await;
    let session = harness.session().await;
    // Larger than what an overflow keeps, so that the newest items stay behind the summary.
    harness.run(&session, &format!("old {}", "x".repeat(60_000))).await;
    harness.run(&session, "two").await;
    harness.run(&session, "three").await;
    let told = texts(&harness, 4);
    assert_eq!(told, ["NOTES", "hello", "two", "a2", "three"]);
    let fork = harness.engine.fork_session(&context("a"), &session, ForkRequest::default()).await.unwrap();
    let fork = fork.value.session_id;
    harness.run(&fork, "four").await;
    assert_eq!(texts(&harness, 5), ["NOTES", "hello", "two", "a2", "three", "a3", "four"]);
    let bytes = harness.engine.export_session(&session, false).await.unwrap();
    let request = ImportRequest {
        source: ImportSource::Export(bytes),
        session_id: None,
        keep_session_id: false,
        working_directory: None,
    };
    let imported = harness.engine.import_session(&context("a"), request).await.unwrap().value.session_id;
    harness.run(&imported, "five").await;
    assert_eq!(texts(&harness, 6), ["NOTES", "hello", "two", "a2", "three", "a3", "five"]);
    harness.finish().await;
}

#[tokio::test]
async fn what_a_summary_stood_for_comes_back_when_the_summary_goes() {
    let harness = Harness::new([
        Script::reply("a1"),
        Script::reply("NOTES 1"),
        Script::reply("a2"),
        Script::reply("NOTES 2"),
        Script::reply("after"),
        Script::reply("fork"),
    ])
    .await;
    let (session, engine) = (harness.session().await, harness.engine.clone());
    harness.run(&session, "one").await;
    engine.compact_session(&context("a"), &session, String::new()).await.unwrap();
    harness.run(&session, "two").await;
    engine.compact_session(&context("a"), &session, String::new()).await.unwrap();
    let items = engine.list_items(&session, all_items()).await.unwrap().items;
    let id = |text: &str| items.iter().find(|i| i.text() == text).unwrap().item_id.clone();
    let before_second_summary = ForkRequest { before_item_id: Some(id("NOTES 2")), ..ForkRequest::default() };
    let fork = engine.fork_session(&context("a"), &session, before_second_summary).await.unwrap();
    engine.rewind_session(&context("a"), &session, id("NOTES 1")).await.unwrap();
    harness.run(&session, "instead").await;
    assert_eq!(texts(&harness, 4), ["one", "a1", "instead"]);
    harness.run(&fork.value.session_id, "there").await;
    assert_eq!(texts(&harness, 5), ["NOTES 1", "two", "a2", "there"]);
    assert_log_rules(&harness.log(&session).await);
    harness.finish().await;
}

#[tokio::test]
async fn clear_starts_anew_for_everybody() {
    let harness = Harness::new([Script::reply("hello"), Script::reply("fresh")]).await;
    let session = harness.session().await;
    harness.run(&session, "one").await;
    let events = harness.run(&session, "/clear").await;
    let log = golden_turn(&events);
    assert!(
        log.ends_with(
            "item_completed user /clear\n\
             history_changed Cleared\n\
             item_completed agent The conversation was cleared.\n\
             turn_ended Completed EndTurn"
        ),
        "{log}"
    );
    harness.run(&session, "two").await;
    assert_eq!(texts(&harness, 1), ["two"]);
    assert_log_rules(&harness.log(&session).await);
    harness.finish().await;
}

#[tokio::test]
async fn what_is_no_command_is_told_to_the_model() {
    let harness = Harness::new([Script::reply("a"), Script::reply("b")]).await;
    let session = harness.session().await;
    harness.run(&session, "/etc/hosts is odd").await;
    harness.run(&session, "/frobnicate now").await;
    assert_eq!(texts(&harness, 1), ["/etc/hosts is odd", "a", "/frobnicate now"]);
    let events = harness.run(&session, "/prompt nothing x=1").await;
    assert!(golden_turn(&events).contains("item_completed agent There is no prompt \"nothing\""));
    let names: Vec<_> =
        harness.engine.list_commands(Some(&session)).await.unwrap().into_iter().map(|c| c.name).collect();
    assert_eq!(names, ["compact", "clear", "prompts", "prompt"]);
    harness.finish().await;
}

#[tokio::test]
async fn recipes_with_a_command() {
    let harness = Harness::new([Script::reply("done")]).await;
    let recipe = harness.dir.path().join("greet.yaml");
    std::fs::write(
        &recipe,
        "version: 1.0.0\ntitle: Greet\ndescription: Greets\nprompt: Say hello to {{ who }}.\n\
         parameters:\n  - key: who\n    input_type: string\n    requirement: required\n    description: who\n",
    )
    .unwrap();
    let commands = json!([{ "command": "greet", "recipe_path": recipe }]);
    harness.engine.config().set("slash_commands", &commands).unwrap();
    let session = harness.session().await;
    harness.run(&session, "/greet the whole world").await;
    let told = texts(&harness, 0);
    assert_eq!(told, ["/greet the whole world", "Say hello to the whole world."]);
    let items = harness.engine.list_items(&session, all_items()).await.unwrap().items;
    assert!(!items[1].visibility.user, "people see what they wrote");
    let listed = harness.engine.list_commands(None).await.unwrap();
    assert!(listed.iter().any(|c| c.name == "greet" && c.kind == "recipe"));
    let events = harness.run(&session, "/greet").await;
    assert!(golden_turn(&events).ends_with("turn_ended Failed RECIPE_PARAMETERS_MISSING"));
    harness.finish().await;
}

#[tokio::test]
async fn hints_templates_and_instructions_make_the_prompt() {
    let harness = Harness::new([Script::reply("a"), Script::reply("b"), Script::reply("c")]).await;
    std::fs::write(harness.dir.path().join("work/AGENTS.md"), "Use tabs.").unwrap();
    std::fs::write(harness.dir.path().join("config/.goosehints"), "Be kind.").unwrap();
    let session = harness.session().await;
    harness.run(&session, "one").await;
    let system = harness.model.requests()[0].system.clone();
    assert!(system.contains("Be kind.") && system.contains("Use tabs."), "{system}");
    assert!(system.find("Be kind.") < system.find("Use tabs."));
    let engine = &harness.engine;
    let bad = engine.set_prompt_template("system.md", "{% if %}").unwrap_err();
    assert_eq!(bad.reason, ErrorReason::InvalidField);
    assert_eq!(engine.set_prompt_template("nope.md", "x").unwrap_err().reason, ErrorReason::PromptNotFound);
    engine.set_prompt_template("system.md", "I work in {{ working_directory }}.").unwrap();
    harness.run(&session, "two").await;
    let system = harness.model.requests()[1].system.clone();
    assert!(system.starts_with(&format!("I work in {}.", harness.work())), "{system}");
    assert!(engine.prompt_template("system.md").unwrap().user_content.is_some());
    assert!(engine.reset_prompt_template("system.md").unwrap().user_content.is_none());
    engine.config().set("CONTEXT_FILE_NAMES", &json!(["OTHER.md"])).unwrap();
    harness.run(&session, "three").await;
    let system = harness.model.requests()[2].system.clone();
    assert!(system.contains("run by gander") && !system.contains("tabs"), "{system}");
    assert_eq!(engine.prompt_templates().unwrap().len(), 8);
    harness.finish().await;
}

async fn ask_count(harness: &Harness, session: &SessionId) -> usize {
    let log = harness.log(session).await;
    log.iter().filter(|e| matches!(e.payload, Payload::InteractionRequested { .. })).count()
}

fn change(scope: RememberScope, decision: Option<RuleDecision>) -> RuleChange {
    RuleChange { tool_pattern: "developer__*".into(), decision, scope, session_id: None, directory: None }
}

#[tokio::test]
async fn rules_of_sessions_projects_and_users() {
    let script = |id: &str| [shell(id, &format!("echo {id}")), Script::reply("ok")];
    let scripts = ["1", "2", "3", "4"].into_iter().flat_map(script);
    let harness = Harness::new(scripts).await;
    let engine = &harness.engine;
    let session = harness.session_in(Mode::Approve).await;
    let of_session = |decision| RuleChange {
        session_id: Some(session.clone()),
        ..change(RememberScope::Session, decision)
    };
    engine.set_permission_rules(vec![of_session(Some(RuleDecision::AlwaysAllow))]).await.unwrap();
    harness.run(&session, "1").await;
    assert_eq!(ask_count(&harness, &session).await, 0, "the session's rule allows it");
    assert!(engine.unload_session(&session).await.unwrap());
    harness.run(&session, "2").await;
    assert_eq!(ask_count(&harness, &session).await, 0, "also when it comes back");
    let rules = engine.permission_rules(Some(&session)).await.unwrap();
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].session_id.as_ref(), Some(&session));

    engine.set_permission_rules(vec![of_session(None)]).await.unwrap();
    let of_project = RuleChange {
        directory: Some(harness.dir.path().to_str().unwrap().to_owned()),
        ..change(RememberScope::Project, Some(RuleDecision::AlwaysAllow))
    };
    let elsewhere = RuleChange {
        directory: Some("/somewhere/else".into()),
        ..change(RememberScope::Project, Some(RuleDecision::NeverAllow))
    };
    engine.set_permission_rules(vec![of_project, elsewhere]).await.unwrap();
    harness.run(&session, "3").await;
    assert_eq!(ask_count(&harness, &session).await, 0, "the project's rule allows it");
    assert_eq!(engine.permission_rules(Some(&session)).await.unwrap().len(), 1);
    assert_eq!(engine.permission_rules(None).await.unwrap().len(), 2);
    let file = std::fs::read_to_string(harness.dir.path().join("config/permission.yaml")).unwrap();
    assert!(file.contains("project:/somewhere/else"), "{file}");

    let never = change(RememberScope::User, Some(RuleDecision::NeverAllow));
    engine.set_permission_rules(vec![never]).await.unwrap();
    let log = golden_turn(&harness.run(&session, "4").await);
    assert!(log.contains("developer__shell Declined Declined"), "never wins: {log}");
    let wrong = RuleChange { directory: Some("relative".into()), ..change(RememberScope::Project, None) };
    let error = engine.set_permission_rules(vec![wrong]).await.unwrap_err();
    assert_eq!(error.violations[0].field, "rules[0].directory");
    harness.finish().await;
}

#[tokio::test]
async fn an_answer_for_the_project_holds_in_other_sessions_there() {
    let harness =
        Harness::new([shell("1", "echo 1"), Script::reply("ok"), shell("2", "echo 2"), Script::reply("ok")])
            .await;
    let session = harness.session_in(Mode::Approve).await;
    let turn_id = harness.start(&session, "go").await;
    harness.until(&session, |e| matches!(e.payload, Payload::InteractionRequested { .. })).await;
    let asked = harness.engine.list_interactions(InteractionFilter::default()).await.unwrap().remove(0).1;
    let answer = Answer::Decision {
        kind: gander_domain::interaction::DecisionKind::Allow,
        remember_scope: RememberScope::Project,
        comment: None,
    };
    harness.engine.respond(&context("b"), None, &asked.interaction_id, answer).await.unwrap();
    harness.until_ended(&session, &turn_id).await;
    // The rule is written beside the answer.
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    while harness.engine.permission_rules(None).await.unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline, "the rule was not stored");
        tokio::task::yield_now().await;
    }
    let rules = harness.engine.permission_rules(None).await.unwrap();
    assert_eq!(rules[0].directory.as_deref(), Some(harness.work().as_str()));
    let other = harness.session_in(Mode::Approve).await;
    harness.run(&other, "go").await;
    assert_eq!(ask_count(&harness, &other).await, 0);
    harness.finish().await;
}

#[tokio::test]
async fn the_configured_mode_counts_at_once() {
    let gate = gander_model::testing::Gate::new();
    let script = Script::new()
        .gate(&gate)
        .call("1", "developer__shell", r#"{"command":"echo ran"}"#)
        .finish(ModelStop::ToolCalls);
    let harness = Harness::new([script, Script::reply("done")]).await;
    let new = gander_engine::NewSession { mode: None, ..harness.new_session() };
    let session = harness.engine.create_session(&context("a"), new).await.unwrap().value.session_id;
    let turn_id = harness.start(&session, "go").await;
    gate.reached().await;
    harness.engine.config().set("GOOSE_MODE", &json!("approve")).unwrap();
    gate.release();
    harness.until(&session, |e| matches!(e.payload, Payload::InteractionRequested { .. })).await;
    let asked = harness.engine.list_interactions(InteractionFilter::default()).await.unwrap().remove(0).1;
    let answer = Answer::Option { option_id: "allow_once".into() };
    harness.engine.respond(&context("b"), None, &asked.interaction_id, answer).await.unwrap();
    harness.until_ended(&session, &turn_id).await;
    harness.finish().await;
}

#[tokio::test]
async fn a_judge_may_spare_a_question_and_nothing_else() {
    let judged = |answer: &str| {
        [
            Script::one_call("c", "developer__shell", r#"{"command":"ls"}"#),
            Script::new().text(answer).usage(5, 1).finish(ModelStop::EndTurn),
            Script::reply("done"),
        ]
    };
    let harness = Harness::new(judged("read_only")).await;
    harness.engine.config().set("gander.permission_judge", &json!(true)).unwrap();
    let session = harness.session_in(Mode::SmartApprove).await;
    let events = harness.run(&session, "go").await;
    assert_eq!(ask_count(&harness, &session).await, 0);
    let source = events.iter().find_map(|e| match &e.payload {
        Payload::ItemCompleted { item } => Some(item.tool_call()?.permission.clone()?.source),
        _ => None,
    });
    assert_eq!(source.as_deref(), Some("judge"));
    let purpose =
        |e: &Event| matches!(&e.payload, Payload::UsageReported(r) if r.purpose == UsagePurpose::Judge);
    assert!(events.iter().any(|e| purpose(e)));
    assert!(harness.model.requests()[1].items[0].text().contains(r#"{\"command\":\"ls\"}"#));
    harness.finish().await;

    let harness = Harness::new(judged("It changes nothing, I think.")).await;
    harness.engine.config().set("gander.permission_judge", &json!(true)).unwrap();
    let session = harness.session_in(Mode::SmartApprove).await;
    let turn_id = harness.start(&session, "go").await;
    harness.until(&session, |e| matches!(e.payload, Payload::InteractionRequested { .. })).await;
    let asked = harness.engine.list_interactions(InteractionFilter::default()).await.unwrap().remove(0).1;
    let answer = Answer::Option { option_id: "deny_once".into() };
    harness.engine.respond(&context("b"), None, &asked.interaction_id, answer).await.unwrap();
    harness.until_ended(&session, &turn_id).await;
    harness.finish().await;
}

#[tokio::test]
async fn budgets_of_money_stop_a_turn() {
    let cost = Cost { amount_micros: 600, currency: "USD".into(), source: CostSource::Provider };
    let paid = |id: &str| {
        Script::new()
            .call(id, "developer__shell", &json!({"command": format!("echo {id}")}).to_string())
            .event(ModelEvent::Usage { usage: Usage::default(), cost: Some(cost.clone()) })
            .finish(ModelStop::ToolCalls)
    };
    let harness = Harness::new([paid("1"), paid("2"), paid("3")]).await;
    let session = harness.session().await;
    let limits = TurnLimits { max_cost_micros: Some(1_000), ..TurnLimits::default() };
    let start = StartTurn { limits, ..turn("go") };
    let started = harness.engine.start_turn(&context("a"), &session, start).await.unwrap();
    let events = harness.until_ended(&session, &started.turn.turn_id).await;
    assert!(golden_turn(&events).ends_with("turn_ended Completed Budget"));
    let read = harness.engine.get_session(&session).await.unwrap();
    assert_eq!(read.usage.cost_totals.unwrap().amount_micros, 1_200);
    harness.finish().await;
}

#[tokio::test]
async fn budgets_of_tokens_stop_a_turn() {
    let with_usage = |id: &str| {
        Script::new()
            .call(id, "developer__shell", &json!({"command": format!("echo {id}")}).to_string())
            .usage(100, 10)
            .finish(ModelStop::ToolCalls)
    };
    let harness = Harness::new([with_usage("1"), with_usage("2"), with_usage("3")]).await;
    let session = harness.session().await;
    let limits = TurnLimits { max_tokens: Some(200), ..TurnLimits::default() };
    let start = StartTurn { limits, ..turn("go") };
    let started = harness.engine.start_turn(&context("a"), &session, start).await.unwrap();
    let events = harness.until_ended(&session, &started.turn.turn_id).await;
    assert!(golden_turn(&events).ends_with("turn_ended Completed Budget"));
    assert_eq!(harness.model.requests().len(), 2);
    harness.finish().await;
}

async fn titled(harness: &Harness, session: &SessionId) -> Vec<Arc<Event>> {
    let generated = |e: &Event| {
        matches!(&e.payload, Payload::SessionUpdated { session, .. }
            if session.title_source == TitleSource::Generated)
    };
    harness.until(session, generated).await
}

#[tokio::test]
async fn the_model_names_a_session_but_never_over_a_persons_title() {
    let harness = Harness::with_options(
        [
            Script::reply("hi"),
            Script::new().text("\"Greeting a friend.\"").usage(9, 3).finish(ModelStop::EndTurn),
            Script::reply("more"),
            Script::reply("other"),
        ],
        |o| o.generate_titles = true,
    )
    .await;
    harness.engine.config().set("GOOSE_FAST_MODEL", &json!("small-1")).unwrap();
    let session = harness.session().await;
    harness.run(&session, "hello there").await;
    let events = titled(&harness, &session).await;
    assert_eq!(harness.model.requests()[1].model_id, "small-1");
    let read = harness.engine.get_session(&session).await.unwrap();
    assert_eq!((read.title.as_str(), read.title_source), ("Greeting a friend", TitleSource::Generated));
    let purpose =
        |e: &Event| matches!(&e.payload, Payload::UsageReported(r) if r.purpose == UsagePurpose::Title);
    assert!(events.iter().any(|e| purpose(e)));
    assert_eq!(read.usage.last_call.input_tokens, None, "what a title costs is no call of the conversation");
    harness.run(&session, "again").await;
    assert_eq!(harness.model.requests().len(), 3, "one title is enough");

    let own = harness.session().await;
    let patch = SessionPatch { title: Some("Mine".into()), ..SessionPatch::default() };
    harness.engine.update_session(&context("a"), &own, patch).await.unwrap();
    harness.run(&own, "x").await;
    assert_eq!(harness.model.requests().len(), 4);
    assert_eq!(harness.engine.get_session(&own).await.unwrap().title, "Mine");
    assert_log_rules(&harness.log(&session).await);
    harness.finish().await;
}

#[tokio::test]
async fn a_busy_session_is_not_compacted() {
    let gate = gander_model::testing::Gate::new();
    let harness = Harness::new([
        Script::reply("hello"),
        Script::new().text("x").gate(&gate).finish(ModelStop::EndTurn),
    ])
    .await;
    let session = harness.session().await;
    harness.run(&session, "one").await;
    let turn_id: TurnId = harness.start(&session, "two").await;
    gate.reached().await;
    let busy = harness.engine.compact_session(&context("a"), &session, String::new()).await.unwrap_err();
    assert_eq!(busy.reason, ErrorReason::TurnAlreadyRunning);
    gate.release();
    harness.until_ended(&session, &turn_id).await;
    harness.finish().await;
}

/// A server with one prompt, in a shell: it needs nothing but what every machine has.
const GREETER: &str = r#"while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([^,}]*\).*/\1/p')
  case "$line" in
    *'"initialize"'*) r='"result":{"protocolVersion":"2025-06-18","capabilities":{"prompts":{}},"serverInfo":{"name":"g","version":"1"}}' ;;
    *'"prompts/list"'*) r='"result":{"prompts":[{"name":"hello","description":"Greets","arguments":[{"name":"who","required":true}]}]}' ;;
    *'"prompts/get"'*) who=$(printf '%s' "$line" | sed -n 's/.*"who":"\([^"]*\)".*/\1/p')
      r='"result":{"messages":[{"role":"user","content":{"type":"text","text":"Say hello to '$who'."}}]}' ;;
    *'"notifications/'*) continue ;;
    *) r='"error":{"code":-32601,"message":"no such method"}' ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,%s}\n' "$id" "$r"
done"#;

fn greeter(harness: &Harness) -> ExtensionConfig {
    let script = harness.dir.path().join("greeter.sh");
    std::fs::write(&script, GREETER).unwrap();
    let (command, args) = ("sh".into(), vec![script.to_str().unwrap().to_owned()]);
    ExtensionConfig {
        name: "greeter".into(),
        transport: ExtensionTransport::Stdio { command, args },
        description: String::new(),
        display_name: None,
        bundled: false,
        timeout_ms: None,
        tool_allowlist: Vec::new(),
        env: std::collections::BTreeMap::new(),
        env_keys: Vec::new(),
        exec_prefix: Vec::new(),
        protocol: ProtocolEra::Auto,
        sampling: SamplingPolicy::Off,
        sandbox: None,
        pin_definitions: false,
        unknown_json: None,
    }
}

#[tokio::test]
async fn prompts_of_extensions_are_commands() {
    let harness = Harness::new([Script::reply("Hello Ann"), Script::reply("b")]).await;
    let extensions =
        ExtensionSelection { exactly: Some(vec![greeter(&harness)]), ..ExtensionSelection::default() };
    let new = gander_engine::NewSession { extensions, ..harness.new_session() };
    let session = harness.engine.create_session(&context("a"), new).await.unwrap().value.session_id;
    let events = harness.run(&session, "/greeter:hello who=\"Ann Lee\"").await;
    assert!(golden_turn(&events).ends_with("turn_ended Completed EndTurn"), "{}", golden(&events));
    assert_eq!(texts(&harness, 0), ["/greeter:hello who=\"Ann Lee\"", "Say hello to Ann Lee."]);
    harness.run(&session, "/hello Bob").await;
    assert_eq!(texts(&harness, 1).last().unwrap(), "Say hello to Bob.", "one argument needs no name");
    let events = harness.run(&session, "/prompts").await;
    assert!(golden_turn(&events).contains("agent - /greeter:hello Greets"), "{}", golden(&events));
    let changed = |e: &Event| matches!(&e.payload, Payload::CommandsChanged { .. });
    let events = harness.until(&session, changed).await;
    let Payload::CommandsChanged { commands } = &events.last().unwrap().payload else { unreachable!() };
    let prompt = commands.last().unwrap();
    assert_eq!(
        (prompt.name.as_str(), prompt.kind.as_str(), prompt.input_hint.as_str()),
        ("greeter:hello", "prompt", "who=…")
    );
    assert_eq!(&harness.engine.list_commands(Some(&session)).await.unwrap(), commands);
    assert_log_rules(&harness.log(&session).await);
    harness.finish().await;
}

#[tokio::test]
async fn changes_of_options_are_logged_wherever_they_are_made() {
    let harness = Harness::new([]).await;
    let new = gander_engine::NewSession { mode: None, ..harness.new_session() };
    let session = harness.engine.create_session(&context("a"), new).await.unwrap().value.session_id;
    let says = |mode: &'static str| {
        move |e: &Event| {
            matches!(&e.payload, Payload::SessionOptionsChanged { options }
                if options.iter().any(|o| o.option_id == "mode" && o.value == mode))
        }
    };
    // The session follows the configuration.
    harness.engine.config().set("GOOSE_MODE", &json!("approve")).unwrap();
    harness.until(&session, says("approve")).await;
    harness.engine.set_session_option(&context("a"), &session, "mode", "chat").await.unwrap();
    harness.until(&session, says("chat")).await;
    // Now it has a mode of its own.
    harness.engine.config().set("GOOSE_MODE", &json!("smart_approve")).unwrap();
    harness.engine.set_session_option(&context("a"), &session, "mode", "auto").await.unwrap();
    let events = harness.until(&session, says("auto")).await;
    assert!(!events.iter().any(|e| says("smart_approve")(e)));
    harness.finish().await;
}

#[tokio::test]
async fn what_is_said_during_a_compaction_is_answered() {
    let gate = gander_model::testing::Gate::new();
    let harness = Harness::new([
        Script::reply("hello"),
        Script::new().gate(&gate).text("NOTES").finish(ModelStop::EndTurn),
        Script::reply("answer"),
    ])
    .await;
    let session = harness.session().await;
    harness.run(&session, "one").await;
    let turn_id = harness.start(&session, "/compact").await;
    gate.reached().await;
    let steer = SteerTurn { input: vec![gander_domain::Part::text("and this?")], ..SteerTurn::default() };
    harness.engine.steer_turn(&context("b"), &session, steer).await.unwrap();
    gate.release();
    let events = harness.until_ended(&session, &turn_id).await;
    assert_eq!(texts(&harness, 2), ["NOTES", "and this?"]);
    assert!(golden_turn(&events).ends_with("item_completed agent answer\nturn_ended Completed EndTurn"));
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn a_cancelled_compaction_changes_nothing() {
    let harness =
        Harness::new([Script::reply("hello"), Script::new().text("NO").hang(), Script::reply("b")]).await;
    let session = harness.session().await;
    harness.run(&session, "one").await;
    let turn_id = harness.start(&session, "/compact").await;
    harness.model.wait_for_requests(2).await;
    harness.engine.cancel_turn(&context("b"), &session, CancelRequest::default()).await.unwrap();
    let events = harness.until_ended(&session, &turn_id).await;
    assert!(!golden(&events).contains("history_changed"));
    assert_eq!(harness.model.dropped_streams(), 1);
    harness.run(&session, "two").await;
    assert_eq!(texts(&harness, 2), ["one", "hello", "two"]);
    assert_log_rules(&harness.log(&session).await);
    harness.finish().await;
}
