//! The state of one server's authorization, shared by its transport and its actor.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rmcp::transport::auth::{AuthError, AuthorizationManager};
use tokio::sync::{Notify, watch};
use url::Url;

use super::store::Store;

/// Questions to the user about one server until it works: one authorization and two for more scopes.
const MAX_QUESTIONS: u32 = 3;

/// What a server wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 401: a token, or another one.
    Unauthorized,
    /// 403: a token with more scopes.
    Scope,
}

/// A request that the server did not execute for lack of authorization.
#[derive(Clone)]
pub(crate) struct Challenge {
    pub(crate) kind: Kind,
    /// `WWW-Authenticate`, may be empty.
    pub(super) header: String,
    /// The token that was sent.
    pub(super) token: Option<String>,
}

impl fmt::Debug for Challenge {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// What an authorization left.
pub(super) struct Grant {
    pub(super) manager: AuthorizationManager,
    pub(super) store: Store,
}

#[derive(Default)]
struct Live {
    /// The server's address; `None` = no OAuth.
    base: Option<Url>,
    /// Requests wait for the outcome of a challenge.
    waiting: bool,
    challenge: Option<Challenge>,
    /// Stored tokens were tried since it last worked.
    resumed: bool,
    /// Questions since it last worked.
    questions: u32,
}

/// See the module.
pub(crate) struct Access {
    live: Mutex<Live>,
    grant: tokio::sync::Mutex<Option<Grant>>,
    raised: Notify,
    /// (count, whether the last challenge was answered)
    settled: watch::Sender<(u64, bool)>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            live: Mutex::default(),
            grant: tokio::sync::Mutex::default(),
            raised: Notify::new(),
            settled: watch::Sender::new((0, false)),
        }
    }
}

impl Access {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to `base` is going to be made; `None` = without OAuth. Challenges fail its requests.
    pub(crate) fn connecting(&self, base: Option<Url>) {
        let mut live = self.live();
        live.base = base;
        live.waiting = false;
        live.challenge = None;
    }

    /// The connection is ready. From now on requests wait for the outcome of challenges.
    pub(crate) fn connected(&self) {
        let mut live = self.live();
        live.waiting = true;
        live.challenge = None;
        live.resumed = false;
        live.questions = 0;
    }

    /// Starts over, after somebody asked for it.
    pub(crate) fn restarted(&self) {
        let mut live = self.live();
        live.resumed = false;
        live.questions = 0;
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.live().base.is_some()
    }

    pub(super) fn base(&self) -> Option<Url> {
        self.live().base.clone()
    }

    /// Whether a stored token may be tried; once until it works.
    pub(super) fn may_resume(&self) -> bool {
        !std::mem::replace(&mut self.live().resumed, true)
    }

    /// Whether the user may be asked again.
    pub(super) fn may_ask(&self) -> bool {
        let mut live = self.live();
        let may = live.questions < MAX_QUESTIONS;
        live.questions += u32::from(may);
        may
    }

    /// A challenged request was executed after all, which ends the count.
    pub(super) fn worked(&self) {
        let mut live = self.live();
        live.questions = 0;
        live.resumed = false;
    }

    /// The token to send; refreshed when it is about to expire.
    pub(super) async fn token(&self) -> Result<Option<String>, AuthError> {
        let grant = self.grant.lock().await;
        let Some(grant) = grant.as_ref() else { return Ok(None) };
        match grant.manager.get_access_token().await {
            Ok(token) => Ok(Some(token)),
            Err(error) if wants_user(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Another token than `rejected`, if there is one without the user.
    pub(super) async fn renew(&self, rejected: &str) -> Result<Option<String>, AuthError> {
        let grant = self.grant.lock().await;
        let Some(grant) = grant.as_ref() else { return Ok(None) };
        renew(grant, rejected).await
    }

    pub(super) async fn install(&self, grant: Grant) {
        *self.grant.lock().await = Some(grant);
    }

    /// Scopes of the current token, if it belongs to `key`.
    pub(super) async fn scopes(&self, key: &str) -> Vec<String> {
        let grant = self.grant.lock().await;
        grant
            .as_ref()
            .filter(|grant| grant.store.key() == key)
            .map(|grant| grant.store.scopes())
            .unwrap_or_default()
    }

    /// Reports a challenge. Returns whether the request should be made again.
    pub(super) async fn challenge(&self, challenge: Challenge) -> bool {
        // Somebody else's challenge may have been answered in the meantime.
        let current = match self.grant.lock().await.as_ref() {
            Some(grant) => grant.manager.get_access_token().await.ok(),
            None => None,
        };
        let mut settled = self.settled.subscribe();
        {
            let mut live = self.live();
            if live.waiting && current.is_some() && current != challenge.token {
                return true;
            }
            live.challenge = Some(challenge);
            if !live.waiting {
                return false;
            }
        }
        self.raised.notify_one();
        settled.changed().await.is_ok() && settled.borrow().1
    }

    pub(crate) fn is_challenged(&self) -> bool {
        self.live().challenge.is_some()
    }

    /// Takes the challenge of a failed connection attempt.
    pub(crate) fn take_challenge(&self) -> Option<Challenge> {
        self.live().challenge.take()
    }

    /// Waits for a challenge on a ready connection. Cancel safe.
    pub(crate) async fn raised(&self) -> Challenge {
        loop {
            {
                let mut live = self.live();
                if live.waiting
                    && let Some(challenge) = live.challenge.take()
                {
                    return challenge;
                }
            }
            self.raised.notified().await;
        }
    }

    /// Lets the requests go on that wait for the outcome of challenges.
    pub(crate) fn settle(&self, authorized: bool) {
        self.live().challenge = None;
        self.settled.send_modify(|(count, outcome)| {
            *count += 1;
            *outcome = authorized;
        });
    }
}

/// Whether only the user can help.
fn wants_user(error: &AuthError) -> bool {
    match error {
        AuthError::AuthorizationRequired | AuthError::TokenRefreshRejected(_) | AuthError::TokenExpired => {
            true
        }
        // The registration is gone; the library takes this for a passing failure.
        AuthError::TokenRefreshFailed(text) => {
            text.contains("invalid_client") || text.contains("unauthorized_client")
        }
        _ => false,
    }
}

pub(super) async fn renew(grant: &Grant, rejected: &str) -> Result<Option<String>, AuthError> {
    // Another session may have refreshed it.
    grant.store.reload();
    let token = match grant.manager.get_access_token().await {
        Ok(token) if token != rejected => Ok(token),
        Ok(_) => match grant.manager.refresh_token().await {
            Ok(_) => grant.manager.get_access_token().await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    match token {
        Ok(token) if token != rejected => Ok(Some(token)),
        Ok(_) => Ok(None),
        Err(error) if wants_user(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
