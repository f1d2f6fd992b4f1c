use gander_proto::v1::{
    FileDiff, ItemCompleted, ItemStarted, PermissionQuestion, StopReason, TextDelta, ThoughtDelta, ToolCall,
    ToolCallStatus, ToolCallUpdated, ToolOutputDelta, ToolResult, TurnState, Visibility,
};
use prost_types::{Duration as ProtoDuration, Timestamp};

use super::*;

fn options() -> Options {
    Options {
        width: 60,
        color: false,
        joint: true,
        clean_answer: true,
        quiet: false,
        verbose: false,
        output_lines: 3,
    }
}

/// The output as one terminal shows it, with the answer's pieces marked when asked for.
fn show(options: Options, payloads: Vec<Payload>, answer_only: bool) -> String {
    let mut renderer = Renderer::new(options);
    let mut text = String::new();
    for payload in payloads {
        let event = SessionEvent { payload: Some(payload), ..SessionEvent::default() };
        for piece in renderer.event(&event) {
            match piece {
                Piece::Answer(piece) => text.push_str(&piece),
                Piece::Chrome(piece) if !answer_only => text.push_str(&piece),
                Piece::Chrome(_) => {}
            }
        }
    }
    text
}

fn part(text: &str) -> Part {
    Part { body: Some(part::Body::Text(text.to_owned())), ..Part::default() }
}

fn delta(item: &str, text: &str) -> Payload {
    Payload::TextDelta(TextDelta { item_id: item.to_owned(), text: text.to_owned(), part_index: 0 })
}

fn item(id: &str, body: item::Body) -> Item {
    Item {
        item_id: id.to_owned(),
        body: Some(body),
        visibility: Some(Visibility { user: true, model: true }),
        ..Item::default()
    }
}

fn said(id: &str, text: &str) -> Payload {
    let body = item::Body::AgentMessage(AgentMessage { parts: vec![part(text)], demo: false });
    Payload::ItemCompleted(Box::new(ItemCompleted { item: Some(item(id, body)) }))
}

fn call(status: ToolCallStatus) -> ToolCall {
    ToolCall { title: "shell: ls".to_owned(), status: status as i32, ..ToolCall::default() }
}

fn updated(id: &str, call: ToolCall) -> Payload {
    Payload::ToolCallUpdated(Box::new(ToolCallUpdated { item_id: id.to_owned(), tool_call: Some(call) }))
}

fn output(id: &str, text: &str) -> Payload {
    Payload::ToolOutputDelta(ToolOutputDelta { item_id: id.to_owned(), text: text.to_owned(), stream: 1 })
}

fn ended(id: &str, status: ToolCallStatus, text: &str) -> Payload {
    let result = ToolResult {
        parts: vec![part(text)],
        duration: Some(ProtoDuration { seconds: 0, nanos: 12_000_000 }),
        ..ToolResult::default()
    };
    let body = item::Body::ToolCall(Box::new(ToolCall { result: Some(result), ..call(status) }));
    Payload::ItemCompleted(Box::new(ItemCompleted { item: Some(item(id, body)) }))
}

#[test]
fn a_turn_with_a_tool_reads_well() {
    use ToolCallStatus as Status;
    let events = vec![
        delta("a", "I will "),
        delta("a", "look."),
        said("a", "I will look."),
        Payload::ItemStarted(Box::new(ItemStarted {
            item: Some(item("t", item::Body::ToolCall(Box::new(call(Status::StreamingArguments))))),
        })),
        updated("t", call(Status::Running)),
        output("t", "one\ntw"),
        output("t", "o\n"),
        ended("t", Status::Completed, "one\ntwo\n"),
        delta("b", "Done."),
        said("b", "Done."),
    ];
    let terminal = "I will look.\n\n● shell: ls\n  │ one\n  │ two\n  ✓ 12 ms\n\nDone.\n";
    assert_eq!(show(options(), events.clone(), false), terminal);
    // In a file the answer stands alone, its messages apart.
    let file = Options { joint: false, clean_answer: false, ..options() };
    assert_eq!(show(file, events.clone(), true), "I will look.\n\nDone.\n");
    let quiet = Options { quiet: true, ..options() };
    assert_eq!(show(quiet, events, false), "I will look.\n\nDone.\n");
}

#[test]
fn the_completed_text_counts_whatever_was_seen_before() {
    for (events, wanted) in [
        (vec![said("a", "all")], "all\n"),
        (vec![delta("a", "al"), said("a", "all of it\n")], "all of it\n"),
        (vec![delta("a", "all"), said("a", "all")], "all\n"),
        (
            vec![delta("a", "my secret"), said("a", "my ***")],
            "my secret\n\nthe message was changed when it was complete; this is how it stays:\nmy ***\n",
        ),
        (vec![said("a", "")], ""),
    ] {
        assert_eq!(show(options(), events, false), wanted);
    }
}

#[test]
fn control_sequences_reach_files_but_no_terminal() {
    let events = vec![delta("a", "x\x1b[2"), delta("a", "Jy"), said("a", "x\x1b[2Jy")];
    assert_eq!(show(options(), events.clone(), false), "xy\n");
    let file = Options { joint: false, clean_answer: false, ..options() };
    assert_eq!(show(file, events, true), "x\x1b[2Jy\n");
    let tool = vec![updated("t", call(ToolCallStatus::Running)), output("t", "a\x1b]0;t\x07b\n")];
    assert_eq!(show(options(), tool, false), "● shell: ls\n  │ ab\n");
}

#[test]
fn tools_end_in_many_ways() {
    use ToolCallStatus as Status;
    for (status, result, wanted) in [
        (Status::Completed, "", "● shell: ls\n  ✓ 12 ms\n"),
        (Status::Completed, "seen only now", "● shell: ls\n  │ seen only now\n  ✓ 12 ms\n"),
        (Status::Failed, "boom", "● shell: ls\n  │ boom\n  ✗ failed · 12 ms\n"),
        (Status::Declined, "told to the model", "● shell: ls\n  ✗ declined\n"),
        (Status::Invalid, "", "● shell: ls\n  ✗ invalid\n"),
        (Status::Cancelled, "", "● shell: ls\n  ✗ cancelled · 12 ms\n"),
        (Status::TimedOut, "", "● shell: ls\n  ✗ no answer in time · 12 ms\n"),
    ] {
        assert_eq!(show(options(), vec![ended("t", status, result)], false), wanted, "{status:?}");
    }
    let seen_live = vec![
        updated("t", call(Status::Running)),
        output("t", "1\n2\n3\n4\n5"),
        ended("t", Status::Failed, "1\n2\n3\n4\n5\nexit code 4"),
    ];
    assert_eq!(
        show(options(), seen_live, false),
        "● shell: ls\n  │ 1\n  │ 2\n  │ 3\n  │ … 2 more lines\n  ✗ failed: exit code 4 · 12 ms\n"
    );
}

#[test]
fn parallel_calls_carry_numbers() {
    use ToolCallStatus as Status;
    let events = vec![
        updated("t", call(Status::Running)),
        updated("u", ToolCall { title: "shell: ps".to_owned(), ..call(Status::Running) }),
        output("t", "a\n"),
        output("u", "b\n"),
        ended("t", Status::Completed, "a\n"),
        ended("u", Status::Completed, "b\n"),
        ended("v", Status::Completed, ""),
    ];
    assert_eq!(
        show(options(), events, false),
        "● shell: ls\n● 2 shell: ps\n 1 │ a\n 2 │ b\n 1 ✓ 12 ms\n 2 ✓ 12 ms\n● shell: ls\n  ✓ 12 ms\n"
    );
}

#[test]
fn a_question_shows_arguments_and_the_change() {
    let tool_call = ToolCall {
        arguments_json: "{\"path\":\"a\"}".to_owned(),
        content: vec![Part {
            body: Some(part::Body::Diff(FileDiff {
                path: "a".to_owned(),
                old_text: Some("x\n".to_owned()),
                new_text: Some("y\n".to_owned()),
                patch: None,
            })),
            ..Part::default()
        }],
        ..call(ToolCallStatus::AwaitingApproval)
    };
    let question = PermissionQuestion { tool_call: Some(tool_call), ..PermissionQuestion::default() };
    let interaction = Interaction {
        item_id: "t".to_owned(),
        question: Some(Question::Permission(Box::new(question))),
        ..Interaction::default()
    };
    let requested = Payload::InteractionRequested(Box::new(gander_proto::v1::InteractionRequested {
        interaction: Some(interaction),
    }));
    // Also for those who want quiet: a person cannot decide about what is not shown.
    for quiet in [false, true] {
        let text = show(Options { quiet, ..options() }, vec![requested.clone()], false);
        assert_eq!(text, "● shell: ls\n  {\"path\":\"a\"}\n  a +1 -1\n  @@ -1 +1 @@\n  -x\n  +y\n");
    }
}

#[test]
fn thoughts_are_labelled_and_end_their_line() {
    let thought = |text: &str| {
        Payload::ThoughtDelta(ThoughtDelta { item_id: "h".to_owned(), text: text.to_owned(), part_index: 0 })
    };
    let body =
        item::Body::Thought(gander_proto::v1::Thought { text: "well then".to_owned(), ..Default::default() });
    let events = vec![
        thought("well"),
        Payload::ItemCompleted(Box::new(ItemCompleted { item: Some(item("h", body)) })),
        said("a", "yes"),
    ];
    assert_eq!(show(options(), events.clone(), false), "thinking: well then\n\nyes\n");
    let colored = Options { color: true, ..options() };
    assert!(show(colored, events, false).starts_with("\x1b[2mthinking: \x1b[0m"));
}

#[test]
fn unknown_events_are_told_unless_ignorable() {
    let mut renderer = Renderer::new(options());
    let event = |ignorable| SessionEvent { sequence: 9, ignorable, ..SessionEvent::default() };
    assert_eq!(renderer.event(&event(true)), []);
    assert!(matches!(&renderer.event(&event(false))[..], [Piece::Chrome(text)] if text.contains("event 9")));
}

#[test]
fn the_end_tells_state_usage_and_cost() {
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let turn = Turn {
        state: TurnState::Completed as i32,
        stop_reason: StopReason::MaxModelCalls as i32,
        usage: Some(Usage { input_tokens: Some(1_234), output_tokens: Some(5), ..Usage::default() }),
        start_time: time(10),
        end_time: time(12),
        ..Turn::default()
    };
    let cost = Cost { amount_micros: 1_250, currency: "USD".to_owned(), source: 1 };
    assert_eq!(summary(&turn, &Usage::default(), Some(&cost)), "1,234 tokens in · 5 out · $0.0013 · 2.0 s");
    let pieces = Renderer::new(options()).end(&turn);
    let [Piece::Chrome(text)] = &pieces[..] else { panic!("{pieces:?}") };
    assert_eq!(text, "stopped: the limit of model calls is reached\n1,234 tokens in · 5 out · 2.0 s\n");
    // Without the turn's own sum, what was seen counts; clocks that went backwards do not.
    let late = Turn { usage: None, end_time: time(9), ..turn };
    let seen = Usage { output_tokens: Some(7), ..Usage::default() };
    assert_eq!(summary(&late, &seen, None), "7 out · 0 ms");
    assert_eq!(summary(&late, &Usage::default(), None), "");
}
