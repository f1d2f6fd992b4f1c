//! Providers for tests: one that follows a script, and a server that speaks OpenAI's chat completions badly on purpose.

mod check;
mod fake_openai;
#[cfg(test)]
pub(crate) mod fixtures;
pub(crate) mod scenarios;
mod scripted;

pub use check::check_request;
pub use fake_openai::{FakeOpenAi, SeenRequest};
pub use scripted::{Gate, Script, ScriptedProvider};
