//! The engine's API: what the service (and nobody else) calls. All effects go through session actors, so a caller that
//! goes away in the middle leaves no half effect.

mod context;
mod custom_providers;
mod diagnostics;
mod direct;
mod extensions;
mod history;
mod idempotency;
mod interactions;
mod lifecycle;
mod providers;
mod recipes;
mod redaction;
mod registry;
mod resources;
mod schedules;
mod sessions;
mod sign_in;
mod transfer;
mod turns;
mod watch;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, Weak},
};

use gander_config::ConfigHandle;
use gander_domain::{Actor, SessionId};
use gander_mcp::McpHost;
use gander_store::Store;
use tokio_util::sync::CancellationToken;

pub use self::{
    context::{RuleChange, ScopedRule},
    direct::{DirectCall, DirectCallStream},
    extensions::{AddExtension, check_config},
    history::{ForkRequest, ItemsPage, ItemsQuery},
    idempotency::{IdempotencyKey, Receipt},
    interactions::InteractionFilter,
    lifecycle::{EngineInfo, StoreCheck},
    recipes::RenderedRecipe,
    schedules::{CreateSchedule, StartedRun},
    sessions::{ExtensionSelection, LoadRequest, LoadedSession, NewSession, SessionPatch},
    sign_in::ProviderSignIn,
    transfer::{ImportRequest, ImportSource, ImportedHistory},
    turns::{CancelRequest, StartTurn, StartedTurn, SteerTurn},
    watch::{WatchClosed, WatchCursor, WatchStep},
};
pub(crate) use self::{extensions::extension_not_found, providers::mode_option};
use crate::{
    feed::Feed,
    models::Models,
    services::{EngineOptions, Services},
    source::Source,
};

/// Who asks, and under which idempotency key.
#[derive(Debug, Clone, Default)]
pub struct RequestContext {
    pub actor: Actor,
    pub idempotency: Option<IdempotencyKey>,
}

/// What an engine is made of.
pub struct EngineParts {
    pub store: Arc<dyn Store>,
    pub source: Arc<dyn Source>,
    pub models: Arc<dyn Models>,
    pub mcp: Arc<McpHost>,
    pub config: ConfigHandle,
    pub options: EngineOptions,
    /// Where extensions may keep files of a session (`DIR/SESSION_ID/`), erased with it.
    pub spill_dir: PathBuf,
    /// What tools must neither read nor write: token, database, secrets.
    pub denied_paths: Vec<PathBuf>,
    /// The environment that tools inherit where a client sends none: the daemon's own without secrets.
    pub tool_environment: std::collections::BTreeMap<String, String>,
}

/// The engine. Cheap to share; ends with [`Engine::drain`].
pub struct Engine {
    services: Arc<Services>,
    sessions: Mutex<HashMap<SessionId, registry::Slot>>,
    feeds: Mutex<HashMap<SessionId, Weak<Feed>>>,
    key_locks: idempotency::KeyLocks,
    snapshots: history::Snapshots,
    /// Streams end once it is cancelled.
    closing: CancellationToken,
    spill_dir: PathBuf,
    denied_paths: Vec<PathBuf>,
    tool_environment: std::collections::BTreeMap<String, String>,
    started: std::time::Instant,
}

/// A value together with the sequence of the event that recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded<T> {
    pub value: T,
    pub sequence: gander_domain::Sequence,
}
