//! Anthropic's Messages, and servers that speak them.
//!
//! Thinking blocks are kept as they came and sent back as they were, in their place: the server refuses a history in
//! which one was changed. Blocks of another provider or model are left out.

mod encode;
mod read;

/// Name of this engine in stored states.
pub(crate) const ENGINE: &str = "anthropic";

/// The version of the API that this crate speaks; a provider file may name another.
pub(crate) const VERSION: &str = "2023-06-01";

pub(crate) use encode::encode;
pub(crate) use read::Reader;

#[cfg(test)]
mod tests;
