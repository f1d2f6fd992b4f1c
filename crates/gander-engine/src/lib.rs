//! The engine of gander: session actors, turns, permissions, recovery. The only writer of the event log.
//!
//! Invariants: one actor per live session; an event is stored before anyone sees it; every turn ends with exactly one
//! terminal event, every item started is completed, every question asked is resolved; nothing is run twice after a
//! crash. It names no gRPC, HTTP, MCP or SQL type: adapters and storage are others' business.

mod configuration;
mod content;
mod engine;
mod feed;
mod models;
mod prompt;
mod services;
mod session;
mod source;
mod turn;

pub use configuration::{ConfigModels, config_error};
pub use content::MAX_INLINE_BYTES;
pub use engine::*;
/// What extensions offer besides tools.
pub use gander_mcp::{
    CallProgress, PromptArgument, PromptInfo, PromptMessage, PromptResult, ResourceInfo, ResourceTemplateInfo,
};
pub use models::{Models, ResolvedModel, not_configured, setup_error};
pub use services::{Change, EngineOptions};
pub use session::{HostAttachment, HostRegistration};
pub use source::{Source, SystemSource};
