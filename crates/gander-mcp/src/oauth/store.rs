//! Tokens and the registration of one (issuer, resource), kept by the session's client as opaque text.
//!
//! Sessions share what is stored: a refresh is made under a lock of its key and begins with what is stored then, so
//! that rotation of refresh tokens works with many sessions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use rmcp::transport::auth::{AuthError, CredentialRefreshGuard, CredentialStore, StoredCredentials};
use serde::{Deserialize, Serialize};

use crate::client::SessionClient;

/// One lock per key, for all sessions of a host.
#[derive(Default)]
pub(crate) struct RefreshLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl RefreshLocks {
    fn of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

/// Who the authorization server takes this client for.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Registration {
    pub(super) client_id: String,
    pub(super) client_secret: Option<String>,
    pub(super) redirect_uri: String,
}

/// What is stored.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) registration: Option<Registration>,
    pub(super) credentials: Option<StoredCredentials>,
}

struct Inner {
    client: Arc<dyn SessionClient>,
    key: String,
    /// `None` = look it up.
    cached: Mutex<Option<Entry>>,
    lock: Arc<tokio::sync::Mutex<()>>,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Store(Arc<Inner>);

impl Store {
    pub(super) fn new(client: Arc<dyn SessionClient>, key: String, locks: &RefreshLocks) -> Self {
        let lock = locks.of(&key);
        Self(Arc::new(Inner { client, key, cached: Mutex::new(None), lock }))
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, Option<Entry>> {
        self.0.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn key(&self) -> &str {
        &self.0.key
    }

    pub(super) fn entry(&self) -> Entry {
        let mut cached = self.cached();
        let entry = cached.get_or_insert_with(|| {
            let text = self.0.client.load_credentials(&self.0.key);
            // Text that cannot be read is as good as none.
            text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
        });
        entry.clone()
    }

    /// The next reader sees what other sessions have stored.
    pub(super) fn reload(&self) {
        *self.cached() = None;
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.entry();
        change(&mut entry);
        let empty = entry.registration.is_none() && entry.credentials.is_none();
        let body = if empty { None } else { serde_json::to_string(&entry).ok() };
        *self.cached() = Some(entry);
        self.0.client.store_credentials(&self.0.key, body);
    }

    pub(super) fn set_registration(&self, registration: Option<Registration>) {
        self.change(|entry| entry.registration = registration);
    }

    pub(super) fn scopes(&self) -> Vec<String> {
        self.entry().credentials.map(|credentials| credentials.granted_scopes).unwrap_or_default()
    }
}

#[async_trait::async_trait]
impl CredentialStore for Store {
    async fn load(&self) -> Result<Option<StoredCredentials>, AuthError> {
        Ok(self.entry().credentials)
    }

    async fn save(&self, credentials: StoredCredentials) -> Result<(), AuthError> {
        self.change(|entry| entry.credentials = Some(credentials));
        Ok(())
    }

    async fn clear(&self) -> Result<(), AuthError> {
        self.change(|entry| entry.credentials = None);
        Ok(())
    }

    async fn on_refresh_token_rejected(&self, credentials: &StoredCredentials) -> Result<(), AuthError> {
        self.change(|entry| {
            let same = entry
                .credentials
                .as_ref()
                .is_some_and(|stored| stored.token_received_at == credentials.token_received_at);
            if same {
                entry.credentials = None;
            }
        });
        Ok(())
    }

    async fn acquire_refresh_guard(&self) -> Result<Option<CredentialRefreshGuard>, AuthError> {
        let guard = Arc::clone(&self.0.lock).lock_owned().await;
        self.reload();
        Ok(Some(CredentialRefreshGuard::new(guard)))
    }
}
