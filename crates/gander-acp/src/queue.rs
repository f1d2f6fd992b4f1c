//! What is on its way to a client: one bounded queue with one reader.
//!
//! Invariants: frames of one session leave in the order in which they came; nothing is dropped. While a client does not
//! read, consecutive pieces of one text grow together and updates of one tool call overwrite each other, so that a fast
//! stream costs the client little; beyond the bound whoever adds has to wait.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use agent_client_protocol_schema::v1 as acp;
use tokio::sync::Notify;

use crate::{rpc, translate};

/// Bytes that may wait; one frame more is let in.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Longest text that pieces grow together to.
const MAX_TEXT: usize = 64 * 1024;
/// How far back a frame of the same session is looked for.
const LOOK_BACK: usize = 32;
/// Rough size of a frame without its text.
const OVERHEAD: usize = 256;

/// A message for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Session that it belongs to. `None`: the connection as a whole.
    pub session_id: Option<String>,
    /// The message, one JSON object without line breaks.
    pub json: String,
}

enum Body {
    Json(String),
    Update(Box<acp::SessionUpdate>),
}

struct Entry {
    session_id: Option<String>,
    body: Body,
    size: usize,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    closed: bool,
}

/// The queue. Adding is shared, taking is for one.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    added: Notify,
    taken: Notify,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message; waits while too much is queued. After `close` it does nothing.
    pub(crate) async fn push(&self, session_id: Option<&str>, json: String) {
        let size = json.len() + OVERHEAD;
        self.add(Entry { session_id: session_id.map(str::to_owned), body: Body::Json(json), size }).await;
    }

    /// Adds an update of a session.
    pub(crate) async fn update(&self, session_id: &str, update: acp::SessionUpdate) {
        if self.merge(session_id, &update) {
            return;
        }
        let size = size(&update) + OVERHEAD;
        let body = Body::Update(Box::new(update));
        self.add(Entry { session_id: Some(session_id.to_owned()), body, size }).await;
    }

    async fn add(&self, entry: Entry) {
        let mut entry = Some(entry);
        loop {
            let room = self.taken.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut state = self.state();
                if state.closed {
                    return;
                }
                if state.bytes < MAX_BYTES
                    && let Some(entry) = entry.take()
                {
                    state.bytes += entry.size;
                    state.entries.push_back(entry);
                    drop(state);
                    self.added.notify_one();
                    return;
                }
            }
            room.await;
        }
    }

    /// Puts an update into the session's last one, if the two can be one.
    fn merge(&self, session_id: &str, update: &acp::SessionUpdate) -> bool {
        let mut state = self.state();
        let State { entries, bytes, .. } = &mut *state;
        let last = entries
            .iter_mut()
            .rev()
            .take(LOOK_BACK)
            .find(|entry| entry.session_id.as_deref() == Some(session_id));
        let Some(Entry { body: Body::Update(last), size: entry_size, .. }) = last else { return false };
        if !join(last, update) {
            return false;
        }
        let now = size(last) + OVERHEAD;
        *bytes = (*bytes + now).saturating_sub(*entry_size);
        *entry_size = now;
        true
    }

    /// The next message; `None` after `close` when all is taken.
    pub(crate) async fn next(&self) -> Option<Frame> {
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            added.as_mut().enable();
            {
                let mut state = self.state();
                if let Some(entry) = state.entries.pop_front() {
                    state.bytes = state.bytes.saturating_sub(entry.size);
                    drop(state);
                    self.taken.notify_waiters();
                    return Some(entry.into_frame());
                }
                if state.closed {
                    return None;
                }
            }
            added.await;
        }
    }

    /// Nothing is added any more. `discard`: nobody takes what is there either.
    pub(crate) fn close(&self, discard: bool) {
        let mut state = self.state();
        state.closed = true;
        if discard {
            state.entries.clear();
            state.bytes = 0;
        }
        drop(state);
        self.taken.notify_waiters();
        self.added.notify_one();
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes
    }
}

impl Entry {
    fn into_frame(self) -> Frame {
        let json = match self.body {
            Body::Json(json) => json,
            Body::Update(update) => {
                let session_id = self.session_id.as_deref().unwrap_or_default();
                rpc::notification("session/update", &translate::params(session_id, &update))
            }
        };
        Frame { session_id: self.session_id, json }
    }
}

fn plain_text(chunk: &acp::ContentChunk) -> Option<&str> {
    match &chunk.content {
        acp::ContentBlock::Text(text)
            if text.annotations.is_none() && text.meta.is_none() && chunk.meta.is_none() =>
        {
            Some(&text.text)
        }
        _ => None,
    }
}

/// Puts `next` into `last`. False: they stay two.
fn join(last: &mut acp::SessionUpdate, next: &acp::SessionUpdate) -> bool {
    use acp::SessionUpdate as U;
    match (last, next) {
        (U::AgentMessageChunk(last), U::AgentMessageChunk(next))
        | (U::AgentThoughtChunk(last), U::AgentThoughtChunk(next)) => join_text(last, next),
        (U::ToolCallUpdate(last), U::ToolCallUpdate(next)) => join_tool(last, next),
        // The latest of these says it all.
        (last @ U::UsageUpdate(_), U::UsageUpdate(_)) | (last @ U::Plan(_), U::Plan(_)) => {
            *last = next.clone();
            true
        }
        _ => false,
    }
}

fn join_text(last: &mut acp::ContentChunk, next: &acp::ContentChunk) -> bool {
    let (Some(before), Some(more)) = (plain_text(last), plain_text(next)) else { return false };
    if last.message_id != next.message_id || before.len() + more.len() > MAX_TEXT {
        return false;
    }
    if let acp::ContentBlock::Text(text) = &mut last.content {
        text.text.push_str(more);
    }
    true
}

fn join_tool(last: &mut acp::ToolCallUpdate, next: &acp::ToolCallUpdate) -> bool {
    if last.tool_call_id != next.tool_call_id {
        return false;
    }
    // Every step of a call is shown, also of one that is over before the peer has read.
    if let (Some(before), Some(after)) = (last.fields.status, next.fields.status)
        && before != after
    {
        return false;
    }
    match (&mut last.meta, &next.meta) {
        (_, None) => {}
        (Some(before), Some(more)) => {
            // Two pieces of one terminal's output grow together; anything else in `_meta` stays on its own.
            let piece = |meta: &acp::Meta| {
                let data = meta.get("terminal_output")?.get("data")?.as_str()?.to_owned();
                (meta.len() == 1).then_some(data)
            };
            let (Some(first), Some(second)) = (piece(before), piece(more)) else { return false };
            if first.len() + second.len() > MAX_TEXT {
                return false;
            }
            if let Some(data) = before.get_mut("terminal_output").and_then(|output| output.get_mut("data")) {
                *data = serde_json::Value::String(first + &second);
            }
        }
        (None, Some(_)) => return false,
    }
    let (into, from) = (&mut last.fields, next.fields.clone());
    into.kind = from.kind.or(into.kind);
    into.status = from.status.or(into.status);
    into.title = from.title.or(into.title.take());
    into.name = from.name.or(into.name.take());
    into.content = from.content.or(into.content.take());
    into.locations = from.locations.or(into.locations.take());
    into.raw_input = from.raw_input.or(into.raw_input.take());
    into.raw_output = from.raw_output.or(into.raw_output.take());
    true
}

/// About how many bytes an update takes.
fn size(update: &acp::SessionUpdate) -> usize {
    use acp::SessionUpdate as U;
    match update {
        U::AgentMessageChunk(chunk) | U::AgentThoughtChunk(chunk) if plain_text(chunk).is_some() => {
            plain_text(chunk).map_or(0, str::len)
        }
        other => serde_json::to_vec(other).map_or(0, |json| json.len()),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use serde_json::{Value, json};

    use super::*;
    use crate::translate::content::text_block;

    fn text(text: &str, id: &str) -> acp::SessionUpdate {
        acp::SessionUpdate::AgentMessageChunk(acp::ContentChunk::new(text_block(text)).message_id(id))
    }

    fn call(id: &str, fields: acp::ToolCallUpdateFields) -> acp::SessionUpdate {
        acp::SessionUpdate::ToolCallUpdate(acp::ToolCallUpdate::new(id.to_owned(), fields))
    }

    async fn all(queue: &Queue) -> Vec<Value> {
        queue.close(false);
        let mut frames = Vec::new();
        while let Some(frame) = queue.next().await {
            let json: Value = serde_json::from_str(&frame.json).expect("JSON");
            frames.push(json.pointer("/params/update").cloned().unwrap_or(json));
        }
        frames
    }

    #[tokio::test]
    async fn text_grows_together_and_keeps_its_place() {
        let queue = Queue::default();
        queue.update("s", text("a", "m")).await;
        queue.update("other", text("x", "m")).await;
        queue.update("s", text("b", "m")).await;
        queue.update("s", text("c", "n")).await;
        queue.push(Some("s"), json!({"id": 1}).to_string()).await;
        queue.update("s", text("d", "n")).await;
        let got = all(&queue).await;
        let texts: Vec<_> = got.iter().map(|frame| frame.pointer("/content/text").cloned()).collect();
        assert_eq!(
            texts,
            [Some(json!("ab")), Some(json!("x")), Some(json!("c")), None, Some(json!("d"))],
            "{got:?}"
        );
    }

    #[tokio::test]
    async fn updates_of_one_call_overwrite_each_other() {
        let fields = acp::ToolCallUpdateFields::new;
        let queue = Queue::default();
        queue.update("s", call("1", fields().title("a").status(acp::ToolCallStatus::InProgress))).await;
        queue.update("s", call("1", fields().title("b"))).await;
        queue.update("s", call("2", fields().title("c"))).await;
        let got = all(&queue).await;
        assert_eq!(got.len(), 2);
        assert_eq!(got[0]["title"], json!("b"));
        assert_eq!(got[0]["status"], json!("in_progress"));
    }

    #[tokio::test]
    async fn no_step_of_a_call_is_overwritten() {
        let step = |status| call("1", acp::ToolCallUpdateFields::new().status(status));
        let queue = Queue::default();
        for status in
            [acp::ToolCallStatus::InProgress, acp::ToolCallStatus::InProgress, acp::ToolCallStatus::Completed]
        {
            queue.update("s", step(status)).await;
        }
        let steps: Vec<_> = all(&queue).await.iter().map(|frame| frame["status"].clone()).collect();
        assert_eq!(steps, [json!("in_progress"), json!("completed")]);
    }

    #[tokio::test]
    async fn terminal_output_is_never_overwritten() {
        let output = |text: &str| {
            let meta = json!({"terminal_output": {"terminal_id": "1", "data": text}});
            let update = acp::ToolCallUpdate::new("1", acp::ToolCallUpdateFields::new());
            acp::SessionUpdate::ToolCallUpdate(update.meta(meta.as_object().cloned()))
        };
        let queue = Queue::default();
        for piece in ["a", "b"] {
            queue.update("s", output(piece)).await;
        }
        let exit = acp::ToolCallUpdate::new("1", acp::ToolCallUpdateFields::new())
            .meta(json!({"terminal_exit": {}}).as_object().cloned());
        queue.update("s", acp::SessionUpdate::ToolCallUpdate(exit)).await;
        let got = all(&queue).await;
        assert_eq!(got[0]["_meta"]["terminal_output"]["data"], json!("ab"));
        assert_eq!(got[1]["_meta"], json!({"terminal_exit": {}}));
    }

    #[tokio::test]
    async fn a_full_queue_makes_its_writers_wait_and_loses_nothing() {
        let queue = Arc::new(Queue::default());
        let writer = {
            let queue = queue.clone();
            tokio::spawn(async move {
                for number in 0..400 {
                    queue.push(Some("s"), format!("{number}:{}", "x".repeat(60_000))).await;
                }
                queue.close(false);
            })
        };
        // The writer runs as far as it can and then waits for us.
        while queue.bytes() < MAX_BYTES {
            tokio::task::yield_now().await;
        }
        assert!(queue.bytes() < MAX_BYTES + 100_000);
        let mut wanted = 0;
        while let Some(frame) = queue.next().await {
            assert!(frame.json.starts_with(&format!("{wanted}:")));
            wanted += 1;
        }
        assert_eq!(wanted, 400);
        tokio::time::timeout(Duration::from_secs(5), writer).await.expect("in time").expect("no panic");
    }

    #[tokio::test]
    async fn closing_lets_waiting_writers_go() {
        let queue = Arc::new(Queue::default());
        queue.push(None, "x".repeat(MAX_BYTES)).await;
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.push(None, "y".to_owned()).await }
        });
        tokio::task::yield_now().await;
        queue.close(true);
        tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("in time").expect("no panic");
        assert_eq!(queue.next().await, None);
    }
}
