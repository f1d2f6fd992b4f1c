use gander_domain::{
    ContentId, ErrorDetail, ErrorReason, ItemId, Timestamp, TurnId,
    content::{Annotations, Blob},
    item::{
        AgentMessage, Compaction, ItemState, Notice, NoticeLevel, Origin, Thought, UserMessage, Visibility,
    },
};
use serde_json::json;

use super::*;
use crate::testing::fixtures::{call, done, item, user};

fn texts(entries: &[Entry]) -> Vec<String> {
    let content = |content: &Content| match content {
        Content::Text(text) => text.clone(),
        Content::Image { mime_type, data } => format!("<{mime_type} {data}>"),
        other => format!("{other:?}"),
    };
    entries
        .iter()
        .map(|entry| match entry {
            Entry::User(parts) => {
                format!("user: {}", parts.iter().map(content).collect::<Vec<_>>().join("|"))
            }
            Entry::Assistant(blocks) => {
                let blocks: Vec<String> = blocks
                    .iter()
                    .map(|block| match block {
                        Block::Text(text) => text.clone(),
                        Block::Thought { text, .. } => format!("({text})"),
                        Block::Call(call) => {
                            format!("{}={}{}", call.id, call.name, call.arguments)
                        }
                    })
                    .collect();
                format!("assistant: {}", blocks.join("|"))
            }
            Entry::Results(answers) => {
                let answers: Vec<String> = answers
                    .iter()
                    .map(|answer| {
                        let parts: Vec<String> = answer.content.iter().map(content).collect();
                        format!(
                            "{}{}={}",
                            answer.call_id,
                            if answer.is_error { "!" } else { "" },
                            parts.join("|")
                        )
                    })
                    .collect();
                format!("results: {}", answers.join("; "))
            }
        })
        .collect()
}

fn converted(items: Vec<Item>) -> Vec<String> {
    let items: Vec<Arc<Item>> = items.into_iter().map(Arc::new).collect();
    texts(&convert(&items, |_, _| true))
}

fn said(message: &str, text: &str) -> Item {
    item(message, ItemBody::AgentMessage(AgentMessage { parts: vec![Part::text(text)], demo: false }))
}

#[test]
fn one_response_is_one_entry_and_its_results_follow_in_call_order() {
    let mut late = done("m1", "b", "shell", "second");
    late.create_time = Timestamp::from_seconds(1);
    let items = vec![
        user("hi"),
        said("m1", "I look."),
        done("m1", "a", "list", "first"),
        late,
        user("steered"),
        done("m2", "c", "list", "third"),
        said("m3", "Done."),
    ];
    assert_eq!(
        converted(items),
        [
            "user: hi",
            "assistant: I look.|a=list{}|b=shell{}",
            "results: a=first; b=second",
            "user: steered",
            "assistant: c=list{}",
            "results: c=third",
            "assistant: Done.",
        ]
    );
}

#[test]
fn calls_without_a_result_get_one_and_unfinished_calls_are_left_out() {
    for (status, wanted) in [
        (ToolCallStatus::Pending, "No result was recorded for this call."),
        (ToolCallStatus::Running, "No result was recorded for this call."),
        (ToolCallStatus::Declined, "No result: the user declined this call."),
        (ToolCallStatus::Cancelled, "No result: this call was cancelled."),
        (ToolCallStatus::Invalid, "No result: the arguments of this call were not valid."),
        (ToolCallStatus::TimedOut, "No result: this call timed out."),
    ] {
        let open = call("m", "a", "list", status);
        assert_eq!(
            converted(vec![open]),
            ["assistant: a=list{}".to_owned(), format!("results: a!={wanted}")]
        );
    }
    let streaming = call("m", "a", "list", ToolCallStatus::StreamingArguments);
    assert_eq!(converted(vec![user("x"), streaming]), ["user: x"]);
}

#[test]
fn call_ids_are_unique_short_and_stable() {
    let long = "x".repeat(64);
    let items = vec![
        done("m1", "call_0", "list", "1"),
        done("m2", "call_0", "list", "2"),
        done("m3", "", "list", "3"),
        done("m4", &long, "list", "4"),
        done("m5", "a|b", "list", "5"),
    ];
    let arcs: Vec<Arc<Item>> = items.into_iter().map(Arc::new).collect();
    let ids = |entries: &[Entry]| -> Vec<String> {
        entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Results(answers) => Some(answers[0].call_id.clone()),
                _ => None,
            })
            .collect()
    };
    let first = ids(&convert(&arcs, |_, _| true));
    assert_eq!(first[0], "call_0");
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 5);
    assert!(
        first.iter().all(|id| id.len() <= 44 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
    );
    assert_eq!(ids(&convert(&arcs, |_, _| true)), first);
    assert_eq!(ids(&convert(&arcs[..3], |_, _| true)), first[..3]);
}

#[test]
fn results_say_what_the_model_must_know() {
    let with = |change: &dyn Fn(&mut ToolResult)| {
        let mut item = done("m", "a", "list", "text");
        if let Some(result) = item.tool_call_mut().and_then(|call| call.result.as_mut()) {
            change(result);
        }
        converted(vec![item]).pop().unwrap()
    };
    assert_eq!(with(&|result| result.is_error = true), "results: a!=Error: text");
    assert_eq!(with(&|result| result.parts = vec![]), "results: a=(no output)");
    assert_eq!(
        with(&|result| {
            result.parts = vec![];
            result.structured_content_json = Some("{\"n\":1}".to_owned());
        }),
        "results: a={\"n\":1}"
    );
    assert_eq!(
        with(&|result| {
            *result = ToolResult::failed(
                ToolOutcome::TimedOut,
                ErrorDetail::new(ErrorReason::ToolTimedOut, "the tool failed to answer in 5 s"),
            );
        }),
        "results: a!=the tool failed to answer in 5 s"
    );
    let image = Part::new(PartBody::Image {
        data: Data::Inline(Blob(vec![1, 2, 3])),
        mime_type: "image/png".to_owned(),
    });
    let mut for_people = Part::text("for people");
    for_people.annotations =
        Some(Annotations { audience: vec!["user".to_owned()], ..Annotations::default() });
    assert_eq!(
        with(&|result| result.parts = vec![for_people.clone(), Part::text("see"), image.clone()]),
        "results: a=see|<image/png AQID>"
    );
}

#[test]
fn thoughts_need_a_state_that_replays() {
    let thought = |state: Option<Value>, incomplete| {
        let mut item = item("m", ItemBody::Thought(Thought { text: "hm".to_owned(), ..Thought::default() }));
        item.provider_state_json = state.map(|state| state.to_string());
        item.incomplete = incomplete;
        item.model_id = Some("gpt".to_owned());
        item
    };
    let known = json!({ "engine": "mine" });
    let convert = |items: Vec<Item>| {
        let items: Vec<Arc<Item>> = items.into_iter().map(Arc::new).collect();
        texts(&super::convert(&items, |state, model| state["engine"] == "mine" && model == Some("gpt")))
    };
    assert_eq!(convert(vec![thought(Some(known.clone()), false), said("m", "x")]), ["assistant: (hm)|x"]);
    for left_out in [
        thought(None, false),
        thought(Some(json!({ "engine": "other" })), false),
        thought(Some(known.clone()), true),
    ] {
        assert_eq!(convert(vec![left_out, said("m", "x")]), ["assistant: x"]);
    }
    // A thought alone is no message.
    assert!(convert(vec![thought(Some(known), false)]).is_empty());
}

#[test]
fn only_what_the_model_may_see_is_sent() {
    let mut hidden = said("m", "hidden");
    hidden.visibility = Visibility { user: true, model: false };
    let notice = item(
        "n",
        ItemBody::Notice(Notice {
            level: NoticeLevel::Info,
            code: "x".to_owned(),
            text: "note".to_owned(),
            data_json: None,
        }),
    );
    let summary = item(
        "c",
        ItemBody::Compaction(Compaction {
            summary_parts: vec![Part::text("short")],
            ..Compaction::default()
        }),
    );
    let mut redacted = user("secret");
    redacted.redact();
    let mut redacted_call = done("r", "a", "list", "secret");
    redacted_call.redact();
    assert_eq!(
        converted(vec![hidden, notice, summary, redacted, redacted_call]),
        [
            "user: Summary of the conversation before this point:|short",
            "user: [redacted]",
            "assistant: a=list{}",
            "results: a=[redacted]",
        ]
    );
}

#[test]
fn parts_of_every_kind_become_something_to_read() {
    let blob = || Data::Inline(Blob(b"abc".to_vec()));
    let parts = vec![
        Part::new(PartBody::TextContent { content_id: ContentId::new("c1").unwrap(), size_bytes: 9 }),
        Part::new(PartBody::Resource {
            uri: "file:///a".to_owned(),
            mime_type: None,
            text: Some("body".to_owned()),
            data: None,
        }),
        Part::new(PartBody::Resource {
            uri: "file:///b".to_owned(),
            mime_type: Some("application/zip".to_owned()),
            text: None,
            data: Some(blob()),
        }),
        Part::new(PartBody::Resource {
            uri: "file:///c".to_owned(),
            mime_type: Some("image/png".to_owned()),
            text: None,
            data: Some(blob()),
        }),
        Part::new(PartBody::Diff {
            path: "f".to_owned(),
            old_text: None,
            new_text: Some("n".to_owned()),
            patch: None,
        }),
        Part::new(PartBody::Terminal { terminal_id: "t".to_owned(), exit_code: Some(2), signal: None }),
        Part::new(PartBody::Unknown { kind: "hologram".to_owned(), raw_json: "{}".to_owned() }),
    ];
    let message = item("u", ItemBody::UserMessage(UserMessage { parts, steered: false }));
    assert_eq!(
        converted(vec![message]),
        ["user: [text of 9 bytes, not shown]|<resource uri=\"file:///a\">\nbody\n</resource>|\
          [resource of type application/zip, 3 bytes] file:///b|<image/png YWJj>|[f was created]|[exit code 2]|\
          [content of kind hologram]"]
    );
}

#[test]
fn the_fixtures_are_what_they_say() {
    let item = item("m", ItemBody::UserMessage(UserMessage::default()));
    assert_eq!((item.state, item.origin), (ItemState::Completed, Origin::Client));
    assert_eq!(item.turn_id, Some(TurnId::new("turn-1").unwrap()));
    assert_ne!(item.item_id, ItemId::new("x").unwrap());
}
