//! The engine of gander: session actors, turns, permissions, recovery. The only writer of the event log.
//!
//! Invariants: one actor per live session; an event is stored before anyone sees it; every turn ends with exactly one
//! terminal event, every item started is completed, every question asked is resolved; nothing is run twice after a
//! crash. It names no gRPC, HTTP, MCP or SQL type: adapters and storage are others' business.

mod commands;
mod compaction;
mod completion;
mod config_models;
mod configuration;
mod content;
mod engine;
mod estimate;
mod feed;
mod hints;
mod models;
mod prompt;
mod recipes;
mod redact;
mod schedules;
mod services;
mod session;
mod settings;
mod source;
mod spill;
mod templates;
mod turn;

pub use config_models::ConfigModels;
pub use configuration::config_error;
pub use content::MAX_INLINE_BYTES;
pub use engine::*;
/// What extensions offer besides tools.
pub use gander_mcp::{
    CallProgress, CompletionResult, CompletionTarget, LogFollow, PromptArgument, PromptInfo, PromptMessage,
    PromptResult, ResourceInfo, ResourceTemplateInfo,
};
/// Types of this API that live in the crates below: callers need not name those.
pub mod types {
    pub use gander_config::{
        ConfigError, Origin, RuleDecision as ConfigRule, SecretOrigin, SecretStatus, recovery,
    };
    pub use gander_formats::extension::{self as extension_format, Entry as ConfiguredEntry};
    pub use gander_formats::recipe as recipe_format;
    pub use gander_model::{ModelFacts, ModelInfo, ProviderConfigKey, ProviderInfo, facts_of};
    pub use gander_store::{ArchivedFilter, ListOrder, ListQuery, SearchMessage, SearchQuery};
}

pub use models::{CustomDefinition, Models, ResolvedModel, not_configured, setup_error};
pub use recipes::{RecipeOrigin, RecipeRequest, StoredRecipe, UnreadableRecipe};
pub use schedules::{Schedule, SchedulePatch, ScheduleRun};
pub use services::{Change, EngineOptions};
pub use session::{HostAttachment, HostRegistration};
pub use source::{Source, SystemSource};
pub use templates::PromptTemplate;
