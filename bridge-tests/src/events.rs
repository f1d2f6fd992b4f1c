//! Sessions, turns and events, as a test wants them.

use std::{path::Path, time::Duration};

use futures::StreamExt as _;
use gander_client::{Client, ClientError, EventStream, WatchOptions};

use crate::{
    pb::{self, SessionEvent, TurnState, check_store_response, item, part, session_event::Payload},
    soon,
};

/// A duration as the API writes it.
///
/// # Panics
/// Never for what a test uses.
#[must_use]
pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).expect("a duration")
}

/// A text part.
#[must_use]
pub fn text_part(text: &str) -> pb::Part {
    pb::Part { body: Some(part::Body::Text(text.to_owned())), ..Default::default() }
}

/// Input of one text.
#[must_use]
pub fn input(text: &str) -> pb::TurnInput {
    pb::TurnInput { parts: vec![text_part(text)], ..Default::default() }
}

/// A request for a session with the demo model and the developer tools, where nobody is asked.
#[must_use]
pub fn new_session(directory: &Path) -> pb::CreateSessionRequest {
    let developer = pb::ExtensionConfig {
        name: "developer".to_owned(),
        kind: Some(pb::extension_config::Kind::Builtin(pb::BuiltinExtension {})),
        ..Default::default()
    };
    pb::CreateSessionRequest {
        working_directory: directory.display().to_string(),
        demo_allowed: true,
        mode: Some(pb::SessionMode::Auto as i32),
        extensions: Some(exactly(vec![developer])),
        ..Default::default()
    }
}

/// A request for a session without any tools.
#[must_use]
pub fn bare_session(directory: &Path) -> pb::CreateSessionRequest {
    pb::CreateSessionRequest { extensions: Some(exactly(Vec::new())), ..new_session(directory) }
}

fn exactly(extensions: Vec<pb::ExtensionConfig>) -> pb::ExtensionSelection {
    let exactly = pb::ExactSelection { extensions };
    pb::ExtensionSelection { selection: Some(pb::extension_selection::Selection::Exactly(exactly)) }
}

/// Creates a session and gives its id.
///
/// # Panics
/// When it is refused.
pub async fn create(client: &Client, request: pb::CreateSessionRequest) -> String {
    let response = soon("CreateSession", client.sessions().create_session(request)).await;
    response.expect("a session").into_inner().session.expect("a session").session_id
}

/// A request for a turn with a fresh id.
#[must_use]
pub fn turn(session_id: &str, prompt: &str) -> pb::StartTurnRequest {
    pb::StartTurnRequest {
        session_id: session_id.to_owned(),
        turn_id: uuid::Uuid::now_v7().to_string(),
        input: Some(input(prompt)),
        ..Default::default()
    }
}

/// The same turn for `RunTurn`.
#[must_use]
pub fn run_request(turn: pb::StartTurnRequest) -> pb::RunTurnRequest {
    pb::RunTurnRequest {
        session_id: turn.session_id,
        turn_id: turn.turn_id,
        input: turn.input,
        mode: turn.mode,
        ..Default::default()
    }
}

/// Starts a turn and gives its id and first sequence.
///
/// # Panics
/// When it is refused.
pub async fn start(client: &Client, session_id: &str, prompt: &str) -> (String, i64) {
    let response = soon("StartTurn", client.turns().start_turn(turn(session_id, prompt))).await;
    let started = response.expect("a turn").into_inner();
    (started.turn.expect("a turn").turn_id, started.sequence)
}

/// Runs a turn to its end and gives its events.
///
/// # Panics
/// When it fails or does not end in time.
pub async fn run(client: &Client, session_id: &str, prompt: &str) -> Vec<SessionEvent> {
    let mut stream = client.run_turn(run_request(turn(session_id, prompt)));
    let mut events = Vec::new();
    soon("the turn's end", async {
        while let Some(event) = stream.next().await {
            events.push(event.expect("an event"));
        }
    })
    .await;
    logged(&events)
}

/// Runs a turn that must complete, and gives its events.
///
/// # Panics
/// When it does not complete.
pub async fn complete(client: &Client, session_id: &str, prompt: &str) -> Vec<SessionEvent> {
    let events = run(client, session_id, prompt).await;
    let ended = ended(&events).expect("the turn's end");
    assert_eq!(ended.state(), TurnState::Completed, "{ended:?}");
    events
}

/// Asks a turn to stop.
///
/// # Panics
/// When that is refused.
pub async fn cancel(client: &Client, session_id: &str, turn_id: &str) {
    let request = pb::CancelTurnRequest {
        session_id: session_id.to_owned(),
        turn_id: turn_id.to_owned(),
        ..Default::default()
    };
    soon("CancelTurn", client.turns().cancel_turn(request)).await.expect("the cancel is accepted");
}

/// Watches from a cursor, by itself resuming.
#[must_use]
pub fn watch(client: &Client, session_id: &str, after: i64) -> EventStream {
    client.watch(session_id, WatchOptions { after: Some(after), ..Default::default() })
}

/// The next event for which `wanted` holds; the ones before it are added to `seen`.
///
/// # Panics
/// When it does not come in time or the stream ends.
pub async fn until(
    stream: &mut EventStream,
    seen: &mut Vec<SessionEvent>,
    what: &str,
    wanted: impl Fn(&Payload) -> bool,
) -> SessionEvent {
    let found = soon(what, async {
        loop {
            let event = stream.next().await?.unwrap_or_else(|error| panic!("waiting for {what}: {error:?}"));
            let found = event.payload.as_ref().is_some_and(&wanted);
            seen.push(event.clone());
            if found {
                return Some(event);
            }
        }
    })
    .await;
    found.unwrap_or_else(|| panic!("the stream ended before {what}"))
}

/// The whole log.
///
/// # Panics
/// When it cannot be read.
pub async fn log(client: &Client, session_id: &str) -> Vec<SessionEvent> {
    log_after(client, session_id, 0).await
}

/// The log after a sequence, page by page.
///
/// # Panics
/// When it cannot be read.
pub async fn log_after(client: &Client, session_id: &str, after: i64) -> Vec<SessionEvent> {
    let mut events = Vec::new();
    let mut after_sequence = after;
    loop {
        let request = pb::ListEventsRequest {
            session_id: session_id.to_owned(),
            after_sequence,
            page_size: 1000,
            ..Default::default()
        };
        let page =
            soon("ListEvents", client.sessions().list_events(request)).await.expect("a page").into_inner();
        events.extend(page.events);
        if page.next_after_sequence >= page.last_sequence {
            return events;
        }
        assert!(page.next_after_sequence > after_sequence, "a page must make progress");
        after_sequence = page.next_after_sequence;
    }
}

/// Without what is not in the log (`Checkpoint`, `StreamClosing`).
#[must_use]
pub fn logged(events: &[SessionEvent]) -> Vec<SessionEvent> {
    events.iter().filter(|event| is_logged(event)).cloned().collect()
}

/// Whether an event is in the log.
#[must_use]
pub fn is_logged(event: &SessionEvent) -> bool {
    !matches!(event.payload, Some(Payload::Checkpoint(_) | Payload::StreamClosing(_)))
}

/// Whether an event says that the watcher has caught up.
#[must_use]
pub fn is_caught_up(event: &SessionEvent) -> bool {
    matches!(&event.payload, Some(Payload::Checkpoint(checkpoint)) if checkpoint.caught_up)
}

/// Sequences of events.
#[must_use]
pub fn sequences(events: &[SessionEvent]) -> Vec<i64> {
    events.iter().map(|event| event.sequence).collect()
}

/// # Panics
/// When the two are not the same events in the same order; names the first difference.
pub fn assert_same(what: &str, got: &[SessionEvent], wanted: &[SessionEvent]) {
    for (got, wanted) in got.iter().zip(wanted) {
        assert!(got == wanted, "{what}: at {}:\n{got:?}\nshould be\n{wanted:?}", wanted.sequence);
    }
    assert_eq!(sequences(got), sequences(wanted), "{what}");
}

/// # Panics
/// When the sequences do not strictly increase.
pub fn assert_increasing(what: &str, events: &[SessionEvent]) {
    for pair in events.windows(2) {
        assert!(
            pair[0].sequence < pair[1].sequence,
            "{what}: {} after {}",
            pair[1].sequence,
            pair[0].sequence
        );
    }
}

/// The turns that ended, in order.
#[must_use]
pub fn all_ended(events: &[SessionEvent]) -> Vec<pb::Turn> {
    let ended = |event: &SessionEvent| match &event.payload {
        Some(Payload::TurnEnded(ended)) => ended.turn.clone(),
        _ => None,
    };
    events.iter().filter_map(ended).collect()
}

/// The last turn that ended.
#[must_use]
pub fn ended(events: &[SessionEvent]) -> Option<pb::Turn> {
    all_ended(events).pop()
}

/// Completed items, in order.
#[must_use]
pub fn completed_items(events: &[SessionEvent]) -> Vec<pb::Item> {
    let completed = |event: &SessionEvent| match &event.payload {
        Some(Payload::ItemCompleted(completed)) => completed.item.clone(),
        _ => None,
    };
    events.iter().filter_map(completed).collect()
}

/// Completed tool calls, in order.
#[must_use]
pub fn tool_calls(events: &[SessionEvent]) -> Vec<pb::ToolCall> {
    let call = |item: pb::Item| match item.body {
        Some(item::Body::ToolCall(call)) => Some(*call),
        _ => None,
    };
    completed_items(events).into_iter().filter_map(call).collect()
}

/// What the model said, as the completed items have it.
#[must_use]
pub fn agent_text(events: &[SessionEvent]) -> String {
    let said = |item: pb::Item| match item.body {
        Some(item::Body::AgentMessage(message)) => Some(text(&message.parts)),
        _ => None,
    };
    completed_items(events).into_iter().filter_map(said).collect()
}

/// Text of parts.
#[must_use]
pub fn text(parts: &[pb::Part]) -> String {
    let text = |part: &pb::Part| match &part.body {
        Some(part::Body::Text(text)) => Some(text.clone()),
        _ => None,
    };
    parts.iter().filter_map(text).collect()
}

/// Text of a tool's result.
#[must_use]
pub fn result_text(call: &pb::ToolCall) -> String {
    call.result.as_ref().map(|result| text(&result.parts)).unwrap_or_default()
}

/// `call developer__shell {…}` with this command.
#[must_use]
pub fn shell(command: &str) -> String {
    let quoted = command.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("call developer__shell {{\"command\": \"{quoted}\"}}")
}

/// Runs a shell command in a turn and gives what it wrote.
///
/// # Panics
/// When the turn does not complete.
pub async fn shell_output(client: &Client, session_id: &str, command: &str) -> String {
    let events = complete(client, session_id, &shell(command)).await;
    let calls = tool_calls(&events);
    result_text(calls.first().expect("a tool call"))
}

/// Asks the daemon to check its store.
///
/// # Panics
/// When it finds anything.
pub async fn check_store(client: &Client) {
    let (findings, _) = store_findings(client).await;
    assert!(findings.is_empty(), "the store is not in order: {findings:#?}");
}

/// What the daemon finds in its store, and how much it looked at.
///
/// # Panics
/// When it does not say.
pub async fn store_findings(client: &Client) -> (Vec<pb::StoreFinding>, pb::StoreSummary) {
    soon("CheckStore", async {
        let request = pb::CheckStoreRequest::default();
        let mut stream = client.system().check_store(request).await.expect("CheckStore").into_inner();
        let (mut findings, mut summary) = (Vec::new(), None);
        while let Some(message) = stream.message().await.expect("a finding") {
            match message.payload {
                Some(check_store_response::Payload::Finding(finding)) => findings.push(finding),
                Some(check_store_response::Payload::Summary(last)) => summary = Some(last),
                None => {}
            }
        }
        (findings, summary.expect("a summary"))
    })
    .await
}

/// The error of a call that must fail.
///
/// # Panics
/// When it does not fail.
pub fn refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> ClientError {
    match result {
        Ok(value) => panic!("should have failed, gave {value:?}"),
        Err(status) => status.into(),
    }
}
