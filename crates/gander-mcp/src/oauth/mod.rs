//! OAuth 2.1 for HTTP servers.
//!
//! A server that answers 401 (or 403 `insufficient_scope`) states what it wants. [`prepare`] discovers its
//! authorization server (RFC 9728, RFC 8414, OpenID Connect), tries what is stored (refreshing it), and otherwise
//! prepares a question: the authorization URL with PKCE (S256), `state` and the resource indicator. [`ask`] hands the
//! URL to the session's client and takes the redirect from a loopback port or from the client, whichever is first.
//!
//! Invariants: tokens are kept per issuer and resource and sent to that resource only; neither a token, a code nor a
//! secret is in an error, an event or a log; everything has a deadline and an end: at most three questions until the
//! server works; the user is never sent to an address that is not `https` (or `http` on this machine).
//!
//! It must not open a browser, and it must not decide anything for the user.

mod access;
mod actor;
mod fetch;
mod flow;
mod link;
mod listener;
mod settings;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use access::{Access, Challenge};
pub(crate) use actor::{answer_challenges, ask_openly, needs_auth, refused};
pub(crate) use flow::{Refusal, Step, prepare};
pub(crate) use link::Link;
pub(crate) use store::RefreshLocks;
