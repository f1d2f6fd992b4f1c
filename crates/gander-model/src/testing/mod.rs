//! Providers for tests: one that follows a script, and a server that speaks all dialects, badly on purpose.

mod check;
pub(crate) mod dialects;
mod fake_openai;
#[cfg(test)]
pub(crate) mod fixtures;
pub(crate) mod scenarios;
mod scripted;

use std::sync::Arc;

pub use check::check_request;
pub use fake_openai::{FakeOpenAi, SeenRequest};
pub use scripted::{Gate, Script, ScriptedProvider};

/// The provider behind a brake of its own, as the registry hands providers out.
pub fn guarded(provider: Arc<dyn crate::ModelProvider>) -> Arc<dyn crate::ModelProvider> {
    Arc::new(crate::guard::Guarded::new(provider, Arc::default()))
}
