//! Questions: any client answers, the first valid answer wins, rules are remembered.

use gander_domain::{
    ErrorReason, Interaction, Payload, SessionId,
    interaction::{Answer, DecisionKind},
    permission::RememberScope,
    session::Mode,
};
use gander_engine::InteractionFilter;
use gander_model::testing::Script;

use crate::harness::{Harness, assert_log_rules, context, golden_turn};

fn shell(id: &str) -> Script {
    Script::one_call(id, "developer__shell", r#"{"command":"echo ran"}"#)
}

fn option(id: &str) -> Answer {
    Answer::Option { option_id: id.into() }
}

async fn question(harness: &Harness, session: &SessionId) -> Interaction {
    harness.until(session, |e| matches!(e.payload, Payload::InteractionRequested { .. })).await;
    let all = harness.engine.list_interactions(InteractionFilter::default()).await.unwrap();
    assert_eq!(all.len(), 1, "pending questions of all sessions");
    all.into_iter().next().unwrap().1
}

#[tokio::test]
async fn one_client_asks_another_answers() {
    let harness = Harness::new([shell("1"), Script::reply("done")]).await;
    let session = harness.session_in(Mode::Approve).await;
    let turn = harness.start(&session, "go").await;
    let asked = question(&harness, &session).await;
    let invalid =
        harness.engine.respond(&context("b"), None, &asked.interaction_id, option("nonsense")).await;
    assert_eq!(invalid.unwrap_err().reason, ErrorReason::InvalidField, "an invalid answer resolves nothing");
    harness.engine.respond(&context("b"), None, &asked.interaction_id, option("allow_once")).await.unwrap();
    let events = harness.until_ended(&session, &turn).await;
    let log = golden_turn(&events);
    assert!(
        log.contains(
            "tool_call_updated developer__shell AwaitingApproval\n\
             interaction_requested\n\
             interaction_resolved Answered\n\
             tool_call_updated developer__shell Running"
        ),
        "{log}"
    );
    let resolved = events.iter().find_map(|e| match &e.payload {
        Payload::InteractionResolved(r) => r.answered_by.clone(),
        _ => None,
    });
    assert_eq!(resolved.unwrap().client_name, "b");
    harness.engine.respond(&context("c"), None, &asked.interaction_id, option("allow_once")).await.unwrap();
    let late = harness.engine.respond(&context("c"), None, &asked.interaction_id, option("deny_once")).await;
    let late = late.unwrap_err();
    assert_eq!((late.reason, late.metadata["answeredBy"].as_str()), (ErrorReason::InteractionResolved, "b"));
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn a_denial_is_told_to_the_model() {
    let harness = Harness::new([shell("1"), Script::reply("pity")]).await;
    let session = harness.session_in(Mode::Approve).await;
    let turn = harness.start(&session, "go").await;
    let asked = question(&harness, &session).await;
    let answer = Answer::Decision {
        kind: DecisionKind::Deny,
        remember_scope: RememberScope::Once,
        comment: Some("use rg".into()),
    };
    harness.engine.respond(&context("b"), Some(&session), &asked.interaction_id, answer).await.unwrap();
    let log = golden_turn(&harness.until_ended(&session, &turn).await);
    assert!(log.contains("item_completed call developer__shell Declined Declined"), "{log}");
    assert!(!log.contains("Running"), "{log}");
    let result =
        harness.model.requests()[1].items.iter().find_map(|i| i.tool_call()?.result.clone()).unwrap();
    assert!(result.parts[0].as_text().unwrap().contains("use rg"));
    harness.finish().await;
}

#[tokio::test]
async fn session_rules_survive_an_unload_and_user_rules_a_session() {
    let harness = Harness::new([shell("1"), Script::reply("a"), shell("2"), Script::reply("b")]).await;
    let session = harness.session_in(Mode::Approve).await;
    let turn = harness.start(&session, "go").await;
    let asked = question(&harness, &session).await;
    harness
        .engine
        .respond(&context("b"), None, &asked.interaction_id, option("allow_session"))
        .await
        .unwrap();
    harness.until_ended(&session, &turn).await;
    assert!(harness.engine.unload_session(&session).await.unwrap());
    let events = harness.run(&session, "again").await;
    let questions =
        events.iter().filter(|e| matches!(e.payload, Payload::InteractionRequested { .. })).count();
    assert_eq!(questions, 1, "the second call ran by the rule of the first answer");
    harness.finish().await;
}

#[tokio::test]
async fn a_mode_change_counts_at_once() {
    let gate = gander_model::testing::Gate::new();
    let script = Script::new()
        .gate(&gate)
        .call("1", "developer__shell", r#"{"command":"echo ran"}"#)
        .finish(gander_model::ModelStop::ToolCalls);
    let harness = Harness::new([script, Script::reply("done")]).await;
    let session = harness.session_in(Mode::Auto).await;
    let turn = harness.start(&session, "go").await;
    gate.reached().await;
    harness.engine.set_session_option(&context("b"), &session, "mode", "approve").await.unwrap();
    gate.release();
    let asked = question(&harness, &session).await;
    harness.engine.respond(&context("b"), None, &asked.interaction_id, option("allow_once")).await.unwrap();
    harness.until_ended(&session, &turn).await;
    harness.finish().await;
}
