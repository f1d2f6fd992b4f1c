//! Types of the engine's API that live in the crates below it, named in this one place.

pub(crate) use gander_config::{
    ConfigError, Origin, RuleDecision as ConfigRule, SecretOrigin, SecretStatus, recovery,
};
pub(crate) use gander_formats::extension::Entry as ConfiguredEntry;
pub(crate) use gander_model::{ModelInfo, ProviderInfo};
pub(crate) use gander_store::{ArchivedFilter, ListOrder, ListQuery, SearchMessage, SearchQuery};
