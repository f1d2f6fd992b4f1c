use std::sync::atomic::{AtomicU64, Ordering};

use gander_domain::{Timestamp, item::Location};

use super::*;

/// Counts instead of clock and randomness.
#[derive(Default)]
struct Counter(AtomicU64);

impl Source for Counter {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
    fn unique(&self) -> String {
        format!("n{}", self.0.fetch_add(1, Ordering::Relaxed))
    }
    fn short(&self) -> String {
        self.unique()
    }
}

fn transcript(turn: bool) -> Transcript {
    let turn_id = turn.then(|| TurnId::new("t").unwrap());
    Transcript::new(Arc::new(Counter::default()), Arc::new(SecretFilter::new(&[])), turn_id, "current")
}

/// One line per event.
fn lines(out: Out) -> Vec<String> {
    let body = |item: &Item| match &item.body {
        ItemBody::ToolCall(call) => {
            let outcome = call.result.as_ref().map(|r| format!(" {:?}", r.outcome)).unwrap_or_default();
            format!("{} {:?}{outcome}", call.name, call.status)
        }
        ItemBody::Thought(_) => format!("thought {}", item.text()),
        _ => item.text(),
    };
    let line = |payload: Payload| match payload {
        Payload::ItemStarted { item } => format!("start {}", body(&item)),
        Payload::ItemCompleted { item } => format!("end {}", body(&item)),
        Payload::ToolCallUpdated { call, .. } => format!("update {} {:?}", call.name, call.status),
        Payload::TextDelta { text, .. } | Payload::ThoughtDelta { text, .. } => format!("+{text}"),
        Payload::ToolOutputDelta { text, .. } => format!("output {text}"),
        other => format!("{other:?}"),
    };
    out.payloads.into_iter().map(line).map(|line| line.trim_end().to_owned()).collect()
}

fn call(id: &str) -> AgentToolCall {
    AgentToolCall { call_id: id.into(), ..AgentToolCall::default() }
}

fn ended(id: &str, status: AgentToolStatus) -> AgentToolCall {
    AgentToolCall { status: Some(status), ..call(id) }
}

#[test]
fn text_ends_where_something_else_begins() {
    let (mut transcript, mut out) = (transcript(true), Out::default());
    transcript.thought(None, "hm", &mut out);
    transcript.text(None, "a", &mut out);
    transcript.text(None, "b", &mut out);
    transcript.text(None, "", &mut out);
    transcript.tool_call(AgentToolCall { name: Some("Bash".into()), ..call("1") }, &mut out);
    transcript.text(None, "c", &mut out);
    transcript.finish(&mut out);
    assert_eq!(
        lines(out),
        [
            "start thought",
            "+hm",
            "end thought hm",
            "start",
            "+a",
            "+b",
            "end ab",
            "start Bash Pending",
            "start",
            "+c",
            "end c",
            "end Bash Cancelled Cancelled"
        ]
    );
}

#[test]
fn messages_by_the_agents_ids() {
    let (mut transcript, mut out) = (transcript(true), Out::default());
    for (id, text) in [(Some("m1"), "a"), (Some("m1"), "b"), (Some("m2"), "c"), (None, "d")] {
        transcript.text(id, text, &mut out);
    }
    transcript.finish(&mut out);
    let messages: Vec<_> = out
        .payloads
        .iter()
        .filter_map(|payload| match payload {
            Payload::ItemCompleted { item } => Some((item.text(), item.message_id.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(messages.iter().map(|m| m.0.as_str()).collect::<Vec<_>>(), ["ab", "cd"]);
    assert_ne!(messages[0].1, messages[1].1);
}

#[test]
fn updates_replace_and_the_story_is_legal() {
    let (mut transcript, mut out) = (transcript(true), Out::default());
    let location = Location { path: "/a".into(), line: None };
    transcript.tool_call(
        AgentToolCall {
            title: Some("Read".into()),
            kind: Some(ToolKind::Read),
            content: Some(vec![Part::text("first"), Part::text("second")]),
            input_json: Some("7".into()),
            ..call("1")
        },
        &mut out,
    );
    let before = transcript.call("1").unwrap().clone();
    assert_eq!((before.name.as_str(), before.arguments_json.as_str()), ("read", r#"{"input":7}"#));
    assert_eq!(before.executor, Executor::Backend);
    transcript.tool_call(
        AgentToolCall {
            content: Some(vec![Part::text("third")]),
            locations: Some(vec![location.clone()]),
            input_json: Some(r#"{"path":"/a"}"#.into()),
            ..call("1")
        },
        &mut out,
    );
    let after = transcript.call("1").unwrap().clone();
    assert_eq!((after.content, after.locations), (vec![Part::text("third")], vec![location]));
    assert_eq!((after.title.as_str(), after.arguments_json.as_str()), ("Read", r#"{"path":"/a"}"#));
    transcript.tool_call(call("1"), &mut out);
    transcript.tool_call(
        AgentToolCall { output_json: Some(r#"{"n":1}"#.into()), ..ended("1", AgentToolStatus::Completed) },
        &mut out,
    );
    assert_eq!(transcript.tool_call(ended("1", AgentToolStatus::Failed), &mut out), None, "it has ended");
    let Some(Payload::ItemCompleted { item }) = out.payloads.last() else { panic!("an end") };
    let result = item.tool_call().unwrap().result.clone().unwrap();
    assert_eq!(
        (result.parts, result.structured_content_json),
        (vec![Part::text("third")], Some(r#"{"n":1}"#.into()))
    );
    assert_eq!(
        lines(out),
        ["start read Pending", "update read Pending", "update read Running", "end read Completed Ok"],
        "an update that says nothing new is no event, and what completes has run"
    );
}

#[test]
fn results_without_content() {
    for (output, text) in [(Some(r#""plain \"text\"""#), "plain \"text\""), (Some("[1]"), "[1]"), (None, "")]
    {
        let (mut transcript, mut out) = (transcript(true), Out::default());
        let update =
            AgentToolCall { output_json: output.map(str::to_owned), ..ended("1", AgentToolStatus::Failed) };
        transcript.tool_call(update, &mut out);
        let Some(Payload::ItemCompleted { item }) = out.payloads.last() else { panic!("an end") };
        let result = item.tool_call().unwrap().result.clone().unwrap();
        assert_eq!(gander_domain::content::join_text(&result.parts), text);
        assert!(result.is_error && item.tool_call().unwrap().status == ToolCallStatus::Failed);
    }
}

#[test]
fn refused_calls_are_declined() {
    let record = |allowed| Some(PermissionRecord { allowed, source: "answer".into() });
    let (mut transcript, mut out) = (transcript(true), Out::default());
    for id in ["1", "2", "3"] {
        transcript.tool_call(call(id), &mut out);
        transcript.set_permission(id, ToolCallStatus::AwaitingApproval, None, &mut out);
    }
    transcript.set_permission("1", ToolCallStatus::AwaitingApproval, record(false), &mut out);
    transcript.set_permission("2", ToolCallStatus::AwaitingApproval, record(false), &mut out);
    transcript.set_permission("3", ToolCallStatus::Running, record(true), &mut out);
    transcript.tool_call(ended("1", AgentToolStatus::Failed), &mut out);
    transcript.finish(&mut out);
    let ends: Vec<_> = lines(out).into_iter().filter(|line| line.starts_with("end")).collect();
    assert_eq!(
        ends,
        [
            "end tool Declined Declined",
            "end tool Declined Declined",
            "end tool OutcomeUnknown OutcomeUnknown"
        ]
    );
}

#[test]
fn a_silent_transcript_tells_only_what_is_complete() {
    let (mut transcript, mut out) = (transcript(false), Out::default());
    transcript.text(None, "a", &mut out);
    transcript.tool_call(call("1"), &mut out);
    transcript.tool_output("1", "x", &mut out);
    transcript.tool_call(ended("1", AgentToolStatus::InProgress), &mut out);
    assert!(transcript.has_call("1"));
    transcript.tool_call(ended("1", AgentToolStatus::Completed), &mut out);
    assert_eq!(lines(out), ["end a", "end tool Completed Ok"]);
}

#[test]
fn whatever_the_size_an_event_fits() {
    let (mut transcript, mut out) = (transcript(true), Out::default());
    let big = "ü".repeat(MAX_INLINE_BYTES);
    transcript.text(None, &big, &mut out);
    transcript.tool_call(
        AgentToolCall {
            input_json: Some(format!(r#"{{"text":"{big}"}}"#)),
            content: Some(vec![
                Part::text(big.clone()),
                Part::new(PartBody::Diff {
                    path: "/a".into(),
                    old_text: Some(big.clone()),
                    new_text: Some(big.clone()),
                    patch: None,
                }),
            ]),
            ..call("1")
        },
        &mut out,
    );
    transcript.tool_output("1", &big, &mut out);
    transcript.tool_call(
        AgentToolCall { output_json: Some(format!("\"{big}\"")), ..ended("1", AgentToolStatus::Completed) },
        &mut out,
    );
    assert!(out.contents.len() >= 2, "large values are stored beside the log");
    for payload in &out.payloads {
        // The completed message is the one thing that holds all of what was said.
        if matches!(payload, Payload::ItemCompleted { item } if item.tool_call().is_none()) {
            continue;
        }
        let size = serde_json::to_vec(payload).unwrap().len();
        assert!(size <= MAX_INLINE_BYTES + 64 * 1024, "{size} bytes: {}", &format!("{payload:?}")[..200]);
    }
}

#[test]
fn names_fit_every_model() {
    for (name, public) in [("Bash", "Bash"), ("mcp: tool/x", "mcp__tool_x"), ("", "tool")] {
        assert_eq!(public_name(name), public);
    }
    assert_eq!(public_name(&"x".repeat(100)).len(), 64);
}
