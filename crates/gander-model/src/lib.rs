//! Model providers behind one port: a request goes in, a stream of model events comes out.
//!
//! Invariants: a reply is complete only when [`ModelEvent::Finished`] was seen; a stream that ends without it is an
//! error; dropping the stream cancels the call. Errors carry a class; whether and when to retry is the engine's decision.

mod catalogue;
mod classify;
mod demo;
mod history;
mod http_client;
mod openai;
mod port;
mod redact;
mod rig_adapter;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use catalogue::{EnvVar, FileProblem, ModelEntry, ProviderFile, ProviderRegistry};
pub use classify::{Failure, classify};
pub use demo::{
    DemoProvider, LABEL as DEMO_LABEL, MODEL_ID as DEMO_MODEL_ID, PROVIDER_ID as DEMO_PROVIDER_ID,
};
pub use openai::{Decoder, OpenAiCompatible, OpenAiOptions};
pub use port::*;
pub use redact::Redactor;
