//! Sub-agents: children with logs of their own, their questions, bounds and cancel.

use std::time::Duration;

use gander_domain::{
    Event, Payload, SessionId,
    interaction::{Answer, InteractionOutcome},
    session::{Mode, SessionKind, SessionOrigin},
    turn::TurnState,
};
use gander_engine::{CancelRequest, NewSession, RecipeOrigin, RecipeRequest};
use gander_model::{
    ModelErrorClass, ModelStop,
    testing::{Gate, Script},
};
use serde_json::json;

use crate::harness::{Harness, assert_log_rules, context, golden_turn};

fn delegate(arguments: &serde_json::Value) -> Script {
    Script::one_call("d", "delegate", &arguments.to_string())
}

fn child_of(events: &[std::sync::Arc<Event>]) -> Option<SessionId> {
    events.iter().find_map(|e| match &e.payload {
        Payload::ToolCallUpdated { call, .. } => call.child_session_id.clone(),
        _ => None,
    })
}

fn result_text(events: &[std::sync::Arc<Event>]) -> String {
    let result = events.iter().find_map(|e| match &e.payload {
        Payload::ItemCompleted { item } => item.tool_call()?.result.clone(),
        _ => None,
    });
    result.unwrap().parts[0].as_text().unwrap().to_owned()
}

#[tokio::test]
async fn a_task_is_done_by_a_child_with_its_own_log() {
    let harness = Harness::new([
        delegate(&json!({"instructions": "count the files", "context": "be quick"})),
        Script::one_call("s", "developer__shell", r#"{"command":"echo 3"}"#),
        Script::reply("there are 3"),
        Script::reply("three, says the child"),
    ])
    .await;
    let session = harness.session().await;
    let events = harness.run(&session, "how many?").await;
    assert_eq!(result_text(&events), "there are 3");
    let child = child_of(&events).unwrap();
    let progress = events.iter().find_map(|e| match &e.payload {
        Payload::ToolProgress(p) => p.subagent.clone(),
        _ => None,
    });
    let progress = progress.unwrap();
    assert_eq!(progress.child_session_id, child);
    assert!(progress.summary.contains("echo 3"), "{}", progress.summary);
    let made = harness.engine.get_session(&child).await.unwrap();
    assert_eq!(
        (made.kind, made.working_directory.as_str()),
        (SessionKind::Subagent, harness.work().as_str())
    );
    assert_eq!(made.parent.as_ref().map(|p| &p.session_id), Some(&session));
    let log = harness.log(&child).await;
    assert!(matches!(&log[0].payload, Payload::SessionCreated { origin: SessionOrigin::Delegated(_), .. }));
    assert_log_rules(&log);
    assert_log_rules(&events);
    let requests = harness.model.requests();
    assert_eq!(requests[1].items[0].text(), "What you should know:\nbe quick\n\ncount the files");
    assert!(requests[0].tools.iter().any(|t| t.name == "delegate"));
    assert!(!requests[1].tools.iter().any(|t| t.name == "delegate"), "a child does the work itself");
    assert!(golden_turn(&events).ends_with("turn_ended Completed EndTurn"));
    harness.finish().await;
}

#[tokio::test]
async fn what_goes_wrong_in_a_child_is_told() {
    let harness = Harness::new([
        delegate(&json!({})),
        delegate(&json!({"instructions": "x", "extensions": ["nope"]})),
        delegate(&json!({"source": "nope"})),
        delegate(&json!({"instructions": "x"})),
        Script::error(ModelErrorClass::Auth, "bad key"),
        delegate(&json!({"instructions": "x", "max_turns": 1})),
        Script::one_call("s", "developer__shell", r#"{"command":"true"}"#),
        Script::reply("I give up"),
    ])
    .await;
    let session = harness.session().await;
    let events = harness.run(&session, "go").await;
    let results: Vec<_> = events
        .iter()
        .filter_map(|e| match &e.payload {
            Payload::ItemCompleted { item } => item.tool_call()?.result.clone(),
            _ => None,
        })
        .map(|r| r.parts[0].as_text().unwrap().to_owned())
        .collect();
    for (result, part) in results.iter().zip([
        "must say what to do",
        "no extension",
        "no source",
        "bad key",
        "stopped at a limit",
    ]) {
        assert!(result.contains(part), "{part} in {result}");
    }
    assert_eq!(results.len(), 5);
    harness.finish().await;
}

#[tokio::test]
async fn a_cancel_reaches_the_child() {
    let gate = Gate::new();
    let harness =
        Harness::new([delegate(&json!({"instructions": "wait"})), Script::new().gate(&gate).hang()]).await;
    let session = harness.session().await;
    let turn_id = harness.start(&session, "go").await;
    gate.reached().await;
    harness.engine.cancel_turn(&context("c"), &session, CancelRequest::default()).await.unwrap();
    let events = harness.until_ended(&session, &turn_id).await;
    assert!(golden_turn(&events).ends_with("turn_ended Cancelled"));
    let child = child_of(&events).unwrap();
    let log = harness.until(&child, |e| matches!(&e.payload, Payload::TurnEnded { .. })).await;
    assert!(
        matches!(&log.last().unwrap().payload, Payload::TurnEnded { turn } if turn.state == TurnState::Cancelled)
    );
    harness.finish().await;
}

#[tokio::test]
async fn a_childs_question_is_asked_in_the_parents_session() {
    let harness = Harness::new([
        delegate(&json!({"instructions": "touch it"})),
        Script::one_call("s", "developer__shell", r#"{"command":"touch made"}"#),
        Script::reply("touched"),
        Script::reply("done"),
    ])
    .await;
    let session = harness.session_in(Mode::Approve).await;
    let turn_id = harness.start(&session, "go").await;
    // First whether to delegate, then what the child asks.
    for number in 1..=2 {
        let asked = std::cell::Cell::new(0);
        let log = harness
            .until(&session, |e| {
                let asks = matches!(&e.payload, Payload::InteractionRequested { .. });
                asked.set(asked.get() + usize::from(asks));
                asked.get() == number
            })
            .await;
        let Payload::InteractionRequested { interaction } = &log.last().unwrap().payload else { panic!() };
        let answer = Answer::Option { option_id: "allow_once".into() };
        let id = &interaction.interaction_id;
        harness.engine.respond(&context("c"), Some(&session), id, answer).await.unwrap();
    }
    let events = harness.until_ended(&session, &turn_id).await;
    assert_eq!(result_text(&events), "touched");
    assert!(harness.dir.path().join("work/made").exists());
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn a_childs_question_goes_with_the_child() {
    for delete in [false, true] {
        let harness = Harness::new([
            delegate(&json!({"instructions": "touch it"})),
            Script::one_call("s", "developer__shell", r#"{"command":"touch made"}"#),
            Script::reply("then not"),
        ])
        .await;
        let session = harness.session_in(Mode::Approve).await;
        let turn_id = harness.start(&session, "go").await;
        let nth = async |number: usize| {
            let asked = std::cell::Cell::new(0);
            let log = harness
                .until(&session, |e| {
                    let asks = matches!(&e.payload, Payload::InteractionRequested { .. });
                    asked.set(asked.get() + usize::from(asks));
                    asked.get() == number
                })
                .await;
            let Payload::InteractionRequested { interaction } = &log.last().unwrap().payload else {
                panic!()
            };
            (interaction.interaction_id.clone(), child_of(&log))
        };
        let (id, _) = nth(1).await;
        let answer = Answer::Option { option_id: "allow_once".into() };
        harness.engine.respond(&context("c"), Some(&session), &id, answer).await.unwrap();
        let (forwarded, child) = nth(2).await;
        let child = child.unwrap();
        if delete {
            harness.engine.delete_session(&context("c"), &child, false).await.unwrap();
        } else {
            harness.engine.cancel_turn(&context("c"), &child, CancelRequest::default()).await.unwrap();
        }
        // The question must not wait for the end of the parent's turn, which would void it.
        let events = harness.until_ended(&session, &turn_id).await;
        let outcome = events.iter().find_map(|e| match &e.payload {
            Payload::InteractionResolved(r) if r.interaction_id == forwarded => Some(r.outcome),
            _ => None,
        });
        assert_eq!(outcome, Some(InteractionOutcome::Withdrawn), "deleted: {delete}");
        let result = result_text(&events);
        assert!(result.contains(if delete { "has gone" } else { "was cancelled" }), "{result}");
        assert!(golden_turn(&events).ends_with("turn_ended Completed EndTurn"), "the turn goes on");
        assert_log_rules(&events);
        harness.finish().await;
    }
}

#[tokio::test]
async fn sub_recipes_are_sources_with_fixed_values() {
    let harness = Harness::new([
        delegate(&json!({"source": "labels", "parameters": {"repo": "evil/x", "kind": "bugs"}})),
        Script::one_call("f", "recipe__final_output", r#"{"count":2}"#),
        Script::reply("two"),
    ])
    .await;
    let dir = harness.dir.path().join("lib");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(
        dir.join("labels.yaml"),
        "title: Labels\ndescription: d\ninstructions: Work on {{ repo }}.\nprompt: Count {{ kind }}\n\
         parameters: [{key: repo}, {key: kind}]\nresponse: {json_schema: {type: object, required: [count]}}\n",
    )
    .unwrap();
    std::fs::write(
        dir.join("main.yaml"),
        "title: Main\ndescription: d\nprompt: go\nextensions: []\n\
         sub_recipes: [{name: labels, path: labels.yaml, values: {repo: a/b}, description: counts labels}]\n",
    )
    .unwrap();
    let recipe = RecipeRequest {
        origin: RecipeOrigin::File(dir.join("main.yaml").to_str().unwrap().to_owned()),
        values: Default::default(),
        allow_missing_values: false,
    };
    let new = NewSession { recipe_request: Some(recipe), ..harness.new_session() };
    let session = harness.engine.create_session(&context("c"), new).await.unwrap().value.session_id;
    let events = harness.run(&session, "go").await;
    assert_eq!(result_text(&events), r#"{"count":2}"#);
    let requests = harness.model.requests();
    let tools: Vec<_> = requests[0].tools.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(tools, ["delegate"], "the recipe's list of extensions is empty");
    assert!(requests[0].tools[0].description.contains("labels: counts labels"));
    assert!(requests[1].system.contains("Work on a/b."), "{}", requests[1].system);
    assert_eq!(requests[1].items[0].text(), "Count bugs");
    harness.finish().await;
}

#[tokio::test]
async fn several_children_work_at_once() {
    let gates = [Gate::new(), Gate::new()];
    let calls = Script::new()
        .call("a", "delegate", r#"{"instructions":"one"}"#)
        .call("b", "delegate", r#"{"instructions":"two"}"#)
        .finish(ModelStop::ToolCalls);
    let child = |gate: &Gate| Script::new().gate(gate).text("done").finish(ModelStop::EndTurn);
    let harness = Harness::new([calls, child(&gates[0]), child(&gates[1]), Script::reply("both")]).await;
    let session = harness.session().await;
    let turn_id = harness.start(&session, "go").await;
    let both = async {
        for gate in &gates {
            gate.reached().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    gates.iter().for_each(Gate::release);
    let events = harness.until_ended(&session, &turn_id).await;
    assert_log_rules(&events);
    assert!(golden_turn(&events).ends_with("turn_ended Completed EndTurn"));
    harness.finish().await;
}

#[tokio::test]
async fn depth_is_bounded() {
    let down = || delegate(&json!({"source": "self"}));
    let up = || Script::reply("back");
    let harness = Harness::new([down(), down(), down(), up(), up(), up(), up()]).await;
    let path = harness.dir.path().join("self.json");
    let recipe = json!({
        "title": "t", "description": "d", "prompt": "go", "extensions": [],
        "sub_recipes": [{"name": "self", "path": path.to_str().unwrap()}],
    });
    std::fs::write(&path, recipe.to_string()).unwrap();
    let request = RecipeRequest {
        origin: RecipeOrigin::File(path.to_str().unwrap().to_owned()),
        values: Default::default(),
        allow_missing_values: false,
    };
    let new = NewSession { recipe_request: Some(request), ..harness.new_session() };
    let session = harness.engine.create_session(&context("c"), new).await.unwrap().value.session_id;
    let events = harness.run(&session, "go").await;
    assert_eq!(result_text(&events), "back");
    let delegates: Vec<_> =
        harness.model.requests().iter().map(|r| r.tools.iter().any(|t| t.name == "delegate")).collect();
    assert_eq!(delegates, [true, true, true, false, true, true, true]);
    harness.finish().await;
}

/// How many sub-agents there have been.
async fn children(harness: &Harness) -> usize {
    let query = gander_engine::types::ListQuery {
        kinds: vec![SessionKind::Subagent],
        ..gander_engine::types::ListQuery::default()
    };
    harness.engine.list_sessions(query).await.unwrap().len()
}

#[tokio::test]
async fn sub_recipes_that_want_it_work_one_after_the_other() {
    let gate = Gate::new();
    let calls = Script::new()
        .call("a", "delegate", r#"{"source":"one"}"#)
        .call("b", "delegate", r#"{"source":"one"}"#)
        .finish(ModelStop::ToolCalls);
    let first = Script::new().gate(&gate).text("first").finish(ModelStop::EndTurn);
    let harness = Harness::new([calls, first, Script::reply("second"), Script::reply("both")]).await;
    let sub = harness.dir.path().join("sub.yaml");
    std::fs::write(&sub, "title: s\ndescription: d\nprompt: work\n").unwrap();
    let recipe = json!({
        "title": "t", "description": "d", "prompt": "go",
        "sub_recipes": [{"name": "one", "path": sub, "sequential_when_repeated": true}],
    });
    let request = RecipeRequest {
        origin: RecipeOrigin::Json(recipe.to_string()),
        values: Default::default(),
        allow_missing_values: false,
    };
    let new = NewSession { recipe_request: Some(request), ..harness.new_session() };
    let session = harness.engine.create_session(&context("a"), new).await.unwrap().value.session_id;
    let turn_id = harness.start(&session, "go").await;
    gate.reached().await;
    assert_eq!(children(&harness).await, 1);
    gate.release();
    let events = harness.until_ended(&session, &turn_id).await;
    assert_eq!(children(&harness).await, 2);
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn the_number_at_once_is_bounded() {
    let gate = Gate::new();
    let calls = Script::new()
        .call("a", "delegate", r#"{"instructions":"one"}"#)
        .call("b", "delegate", r#"{"instructions":"two"}"#)
        .finish(ModelStop::ToolCalls);
    let first = Script::new().gate(&gate).text("first").finish(ModelStop::EndTurn);
    let harness = Harness::new([calls, first, Script::reply("second"), Script::reply("both")]).await;
    harness.engine.config().set("GOOSE_MAX_BACKGROUND_TASKS", &json!(1)).unwrap();
    let session = harness.session().await;
    let turn_id = harness.start(&session, "go").await;
    gate.reached().await;
    assert_eq!(children(&harness).await, 1);
    gate.release();
    harness.until_ended(&session, &turn_id).await;
    assert_eq!(children(&harness).await, 2);
    harness.finish().await;
}
