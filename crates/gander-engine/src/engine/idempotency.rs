//! Idempotency keys: one effect per key, recorded in the effect's own transaction.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use gander_domain::{ErrorDetail, ErrorReason, Sequence, SessionId, Timestamp};
use gander_store::IdempotencyRecord;
use serde::{Deserialize, Serialize};
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
    /// Id of what was made or changed, if the request did not name it.
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

/// Makes the record of a key; holds its lock.
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

    pub(super) fn is_keyed(&self) -> bool {
        self.0.is_some()
    }
}

impl Engine {
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
