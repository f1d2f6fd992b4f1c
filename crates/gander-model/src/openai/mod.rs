//! OpenAI's chat completions, and the many servers that speak them.
//!
//! rig encodes the requests; replies are read by the decoder of this module, which parses every frame once and without a
//! JSON tree, or by rig's own decoder where a provider asks for it.

mod assemble;
mod chunk;

pub(crate) use assemble::{Assembler, ENGINE, cost};

#[cfg(test)]
mod tests;
