//! Google's Gemini: `streamGenerateContent`.
//!
//! A thought signature belongs to the part that it came with and goes back with it: the server refuses or forgets
//! otherwise. Calls have no ids on this wire in general; ours are minted and never sent.

mod encode;
mod read;

/// Name of this engine in stored states.
pub(crate) const ENGINE: &str = "google";

pub(crate) use encode::encode;
pub(crate) use read::Reader;

#[cfg(test)]
mod tests;
