use futures::StreamExt as _;
use gander_domain::{
    Item, ItemBody, Part,
    item::{AgentMessage, ToolOutcome},
};

use super::*;
use crate::{
    ModelErrorClass,
    testing::fixtures::{done, item, request, tool, user},
};

async fn ask(items: Vec<Item>, tools: &[(&str, &str)]) -> Vec<Result<ModelEvent, ModelError>> {
    let mut request = request(MODEL_ID, items);
    request.tools = tools.iter().map(|(name, schema)| tool(name, schema)).collect();
    DemoProvider::new().stream(request).collect().await
}

fn text(said: &[Result<ModelEvent, ModelError>]) -> String {
    said.iter()
        .filter_map(|item| match item {
            Ok(ModelEvent::TextDelta(text)) => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

fn calls(said: &[Result<ModelEvent, ModelError>]) -> Vec<(String, String, String)> {
    said.iter()
        .filter_map(|item| match item {
            Ok(ModelEvent::ToolCallCompleted { call_id, name, arguments_json, .. }) => {
                Some((call_id.clone(), name.clone(), arguments_json.clone()))
            }
            _ => None,
        })
        .collect()
}

fn stop(said: &[Result<ModelEvent, ModelError>]) -> Option<ModelStop> {
    match said.last() {
        Some(Ok(ModelEvent::Finished { stop, .. })) => Some(*stop),
        _ => None,
    }
}

const TREE: (&str, &str) =
    ("developer__list", "{\"type\":\"object\",\"properties\":{\"path\":{}},\"required\":[\"path\"]}");
const SHELL: (&str, &str) = ("developer__shell", "{\"type\":\"object\"}");

#[tokio::test]
async fn files_are_listed_with_the_tool_that_is_there() {
    let said = ask(vec![user("list the files here")], &[SHELL, TREE]).await;
    assert_eq!(calls(&said), [("demo_1".into(), "developer__list".into(), "{\"path\":\".\"}".into())]);
    assert_eq!(stop(&said), Some(ModelStop::ToolCalls));
    assert!(text(&said).starts_with(LABEL));
    let said = ask(vec![user("list the files here")], &[SHELL]).await;
    assert_eq!(calls(&said)[0].2, "{\"command\":\"ls -la\"}");
    let said = ask(vec![user("list the files here")], &[]).await;
    assert!(calls(&said).is_empty() && text(&said).contains("No tool"));
}

#[tokio::test]
async fn results_are_summarised_and_the_label_stands_once_per_turn() {
    let long: String = (1..=20).map(|n| format!("file-{n}\n")).collect();
    let said = item(
        "m1",
        ItemBody::AgentMessage(AgentMessage {
            parts: vec![Part::text(format!("{LABEL} I will"))],
            demo: true,
        }),
    );
    let mut declined = done("m1", "demo_2", "developer__shell", "no");
    declined.tool_call_mut().unwrap().result.as_mut().unwrap().outcome = ToolOutcome::Declined;
    let items =
        vec![user("list the files here"), said, done("m1", "demo_1", "developer__list", &long), declined];
    let said = ask(items, &[TREE]).await;
    let text = text(&said);
    assert!(!text.contains(LABEL), "{text}");
    assert!(text.contains("developer__list returned (20 lines):\n  file-1\n"), "{text}");
    assert!(text.contains("… and 8 more") && !text.contains("file-13"), "{text}");
    assert!(text.contains("developer__shell was declined"), "{text}");
    assert_eq!(stop(&said), Some(ModelStop::EndTurn));
}

#[tokio::test]
async fn a_message_in_the_middle_of_a_turn_is_answered_next() {
    let items =
        vec![user("list the files here"), done("m1", "demo_1", "developer__list", "a"), user("say hello")];
    let said = ask(items, &[TREE]).await;
    assert_eq!(text(&said), format!("{LABEL} hello"));
}

#[tokio::test]
async fn calls_name_their_tool_by_its_last_part_and_stream_their_arguments() {
    let json = "{\"command\":\"echo näïve; sleep 1\"}";
    let said = ask(vec![user(&format!("call shell {json}"))], &[SHELL]).await;
    assert_eq!(calls(&said), [("demo_1".into(), "developer__shell".into(), json.to_owned())]);
    let pieces: Vec<&str> = said
        .iter()
        .filter_map(|item| match item {
            Ok(ModelEvent::ToolArgumentsDelta { text, .. }) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert!(pieces.len() > 2);
    assert_eq!(pieces.concat(), json);
    let said = ask(vec![user("call nothing {}")], &[SHELL]).await;
    assert!(calls(&said).is_empty());
    assert!(text(&said).contains("developer__shell"), "{}", text(&said));
    let said = ask(vec![user("call shell {oops")], &[SHELL]).await;
    let invalid = said
        .iter()
        .any(|item| matches!(item, Ok(ModelEvent::ToolCallCompleted { invalid_arguments: Some(_), .. })));
    assert!(invalid);
    let before = vec![done("m0", "demo_1", "developer__shell", "x"), user("parallel shell={\"a\":1} list")];
    let said = ask(before, &[SHELL, TREE]).await;
    let ids: Vec<String> = calls(&said).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, ["demo_2", "demo_3"]);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_slow_or_fast_and_counted() {
    let start = tokio::time::Instant::now();
    let said = ask(vec![user("slow 5")], &[]).await;
    assert!(start.elapsed() >= SLOW_PAUSE * 5);
    assert_eq!(text(&said), format!("{LABEL} tok-1 tok-2 tok-3 tok-4 tok-5 "));
    let start = tokio::time::Instant::now();
    let said = ask(vec![user("burst 1000")], &[]).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(text(&said).ends_with("tok-1000 "));
    let usage = said.iter().find_map(|item| match item {
        Ok(ModelEvent::Usage { usage, .. }) => Some(*usage),
        _ => None,
    });
    assert_eq!(usage.unwrap().output_tokens, Some(1002));
    assert_eq!(usage.unwrap().input_tokens, Some(6));
}

#[tokio::test]
async fn failures_thoughts_and_help() {
    for (message, class) in [
        ("fail", ModelErrorClass::Server),
        ("fail auth", ModelErrorClass::Auth),
        ("fail rate", ModelErrorClass::RateLimited),
        ("fail quota", ModelErrorClass::QuotaExhausted),
        ("fail context", ModelErrorClass::ContextExceeded),
        ("fail truncated", ModelErrorClass::Truncated),
    ] {
        let said = ask(vec![user(message)], &[]).await;
        assert!(matches!(said.last(), Some(Err(error)) if error.class == class), "{message}");
        assert_eq!(said.iter().filter(|item| item.is_err()).count(), 1);
    }
    let said = ask(vec![user("think")], &[]).await;
    assert!(matches!(said[0], Ok(ModelEvent::ThoughtDelta(_))));
    for message in ["what is love?", ""] {
        let said = ask(vec![user(message)], &[]).await;
        let text = text(&said);
        for part in [LABEL, "gander config set GOOSE_PROVIDER", "call TOOL {json}", "slow N"] {
            assert!(text.contains(part), "{text}");
        }
    }
    let said = ask(vec![user("list tools")], &[SHELL]).await;
    assert!(text(&said).contains("developer__shell  developer__shell does things"));
}
