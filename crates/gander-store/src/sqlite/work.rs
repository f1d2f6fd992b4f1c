//! What is queued for the writer. Everything is encoded before it is queued: no JSON is made under the lock.

use gander_domain::{ContentId, Event, Payload, Sequence, Session, SessionId, Timestamp};

use crate::{Commit, IdempotencyRecord, StoreError, StoreResult};

/// One unit of writing: it succeeds or fails alone.
#[derive(Debug)]
pub(super) enum Work {
    Create(Box<Encoded>),
    Open(SessionId),
    Commit(Box<Encoded>),
    Redact { commit: Box<Encoded>, redaction: Redaction },
    Delete { session_id: SessionId, time: Timestamp },
    DropDeltas { session_id: SessionId, epoch: i64, sequences: Vec<Sequence>, through: Option<Sequence> },
    CopyContents { from: SessionId, to: SessionId, contents: Vec<ContentId> },
    PutIdempotency(IdempotencyRecord),
    ExpireIdempotency(Timestamp),
    PutDocument { session_id: SessionId, name: String, body: Option<Vec<u8>> },
}

/// What [`Work::Redact`] erases.
#[derive(Debug)]
pub(super) struct Redaction {
    pub(super) item_id: String,
    pub(super) replacements: Vec<(Sequence, Option<Payload>)>,
    pub(super) contents: Vec<ContentId>,
}

/// What an event is to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventKind {
    Other = 0,
    /// May be dropped after its item has completed.
    Delta = 1,
    ItemCompleted = 2,
}

impl EventKind {
    pub(super) fn of(payload: &Payload) -> Self {
        match payload {
            Payload::ItemCompleted { .. } => Self::ItemCompleted,
            other if other.is_delta() => Self::Delta,
            _ => Self::Other,
        }
    }
}

/// A commit with the JSON of its events, one after the other in one buffer.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) commit: Commit,
    json: Vec<u8>,
    ends: Vec<usize>,
    pub(super) summary: Option<Vec<u8>>,
}

impl Encoded {
    /// Encodes a commit; its sequences must be contiguous.
    pub(super) fn new(commit: Commit) -> StoreResult<Self> {
        let mut json = Vec::with_capacity(commit.events.len() * 256);
        let mut ends = Vec::with_capacity(commit.events.len());
        let mut previous: Option<Sequence> = None;
        for event in &commit.events {
            if let Some(stored) = previous
                && event.sequence != stored + 1
            {
                let session_id = commit.session_id.clone();
                return Err(StoreError::SequenceConflict { session_id, stored, first: event.sequence });
            }
            previous = Some(event.sequence);
            serde_json::to_writer(&mut json, event.as_ref()).map_err(|e| not_json("event", &e))?;
            ends.push(json.len());
        }
        let summary = commit.summary.as_deref().map(encode_session).transpose()?;
        Ok(Self { commit, json, ends, summary })
    }

    /// Events with their JSON.
    pub(super) fn events(&self) -> impl Iterator<Item = (&Event, &[u8])> {
        let mut start = 0;
        self.commit.events.iter().zip(&self.ends).map(move |(event, end)| {
            let bytes = self.json.get(start..*end).unwrap_or_default();
            start = *end;
            (event.as_ref(), bytes)
        })
    }

    fn bytes(&self) -> usize {
        let contents: usize = self.commit.contents.iter().map(|c| c.bytes.len()).sum();
        self.json.len() + self.summary.as_ref().map_or(0, Vec::len) + contents
    }
}

/// The JSON of a session's row.
pub(super) fn encode_session(session: &Session) -> StoreResult<Vec<u8>> {
    serde_json::to_vec(session).map_err(|e| not_json("session", &e))
}

/// The JSON of an event.
pub(super) fn encode_event(event: &Event) -> StoreResult<Vec<u8>> {
    serde_json::to_vec(event).map_err(|e| not_json("event", &e))
}

fn not_json(what: &str, error: &serde_json::Error) -> StoreError {
    StoreError::Unavailable(format!("the {what} cannot be encoded: {error}"))
}

impl Work {
    /// Events that it writes, as far as batches are bounded by them.
    pub(super) fn events(&self) -> usize {
        match self {
            Self::Create(e) | Self::Commit(e) | Self::Redact { commit: e, .. } => {
                e.commit.events.len().max(1)
            }
            Self::DropDeltas { sequences, .. } => sequences.len().max(1),
            _ => 1,
        }
    }

    /// About how many bytes it holds in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Create(e) | Self::Commit(e) | Self::Redact { commit: e, .. } => e.bytes(),
            Self::DropDeltas { sequences, .. } => sequences.len() * 8,
            Self::PutIdempotency(record) => record.response.len(),
            Self::PutDocument { body, .. } => body.as_ref().map_or(0, Vec::len),
            _ => 0,
        }
    }

    /// Whether its result may be told only after the erased bytes are gone from the files.
    pub(super) fn erases(&self) -> bool {
        matches!(self, Self::Redact { .. } | Self::Delete { .. })
    }
}
