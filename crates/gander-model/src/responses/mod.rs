//! OpenAI's Responses.
//!
//! Nothing is stored at the server: reasoning travels encrypted in our history and goes back as it came, in its place.

mod encode;
mod items;
mod read;

/// Name of this engine in stored states.
pub(crate) const ENGINE: &str = "openai_responses";

pub(crate) use encode::encode;
pub(crate) use read::Reader;

#[cfg(test)]
mod tests;
