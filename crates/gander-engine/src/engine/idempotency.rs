//! Idempotency keys: one effect per key, recorded in the effect's own transaction.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use gander_domain::{ErrorDetail, ErrorReason, Sequence, SessionId, Timestamp};
use gander_store::IdempotencyRecord;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedMutexGuard;

use super::{Engine, RequestContext};
use crate::services::store_error;

/// A client's key for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// RPC name; the same key of another method is another key.
    pub method: String,
    pub key: String,
    /// Hex SHA-256 of the request without the key.
    pub request_hash: String,
}

/// What the first request with a key did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Receipt {
    pub sequence: Sequence,
    /// Id of what was made or changed, if the request did not name it; for a request whose outcome is a text, the text.
    pub id: String,
}

/// One lock per key in use, so that two requests at the same moment have one effect.
#[derive(Default)]
pub(super) struct KeyLocks(Mutex<HashMap<MethodAndKey, Arc<tokio::sync::Mutex<()>>>>);

type MethodAndKey = (String, String);

/// What a key means for a request.
pub(super) enum Keyed {
    /// No key was given, or it is new: do it, and record it with [`Recorder::record`].
    Fresh(Recorder),
    /// It was done before.
    Replay(Receipt),
}

/// Makes the record of a key; holds its lock. The default records nothing.
#[derive(Default)]
pub(super) struct Recorder(Option<(IdempotencyKey, OwnedMutexGuard<()>)>);

impl Recorder {
    /// The record to store with the effect.
    pub(super) fn record(
        &self,
        session_id: Option<&SessionId>,
        receipt: &Receipt,
        now: Timestamp,
    ) -> Option<IdempotencyRecord> {
        let (key, _) = self.0.as_ref()?;
        Some(IdempotencyRecord {
            session_id: session_id.cloned(),
            method: key.method.clone(),
            key: key.key.clone(),
            request_hash: key.request_hash.clone(),
            // A receipt consists of a number and a string.
            response: serde_json::to_vec(receipt).unwrap_or_default(),
            create_time: now,
        })
    }

    /// The id of what a keyed request makes, where the request names none: the same for each attempt, so that one that
    /// comes after a crash between effect and record finds what the first has made.
    pub(super) fn id_of_effect(&self) -> Option<String> {
        let (key, _) = self.0.as_ref()?;
        let text = format!("{}\n{}\n{}", key.method, key.key, key.request_hash);
        let digest = Sha256::digest(text.as_bytes());
        Some(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    pub(super) fn is_keyed(&self) -> bool {
        self.0.is_some()
    }
}

impl Engine {
    /// Records a key whose effect is in no session's log. It follows the effect: a crash in between leaves the effect
    /// without its key.
    pub(super) async fn note_key(&self, recorder: &Recorder, receipt: &Receipt) -> Result<(), ErrorDetail> {
        let Some(record) = recorder.record(None, receipt, self.services.source.now()) else { return Ok(()) };
        self.services.store.put_idempotency(record).await.map_err(|e| store_error(&e))
    }

    /// Looks the request's key up and takes its lock.
    pub(super) async fn keyed(&self, context: &RequestContext) -> Result<Keyed, ErrorDetail> {
        let Some(key) = context.idempotency.clone() else { return Ok(Keyed::Fresh(Recorder(None))) };
        let lock = {
            let mut locks = self.key_locks.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry((key.method.clone(), key.key.clone())).or_default().clone()
        };
        let guard = lock.lock_owned().await;
        let known =
            self.services.store.idempotency(&key.method, &key.key).await.map_err(|e| store_error(&e))?;
        match known {
            None => Ok(Keyed::Fresh(Recorder(Some((key, guard))))),
            Some(record) if record.request_hash != key.request_hash => Err(ErrorDetail::new(
                ErrorReason::RequestIdReused,
                format!("idempotency_key {:?} was used with another request; choose a new one", key.key),
            )
            .with("idempotencyKey", &key.key)),
            Some(record) => Ok(Keyed::Replay(serde_json::from_slice(&record.response).unwrap_or_default())),
        }
    }
}
