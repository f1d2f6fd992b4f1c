//! Model providers behind one port: a request goes in, a stream of model events comes out.
//!
//! Invariants: a reply is complete only when [`ModelEvent::Finished`] was seen; a stream that ends without it is an
//! error; dropping the stream cancels the call. Errors carry a class; whether and when to retry is the engine's decision.

mod agent;
mod anthropic;
mod bedrock;
mod catalogue;
mod classify;
mod demo;
mod encode;
mod facts;
mod google;
mod guard;
mod history;
mod http_client;
mod local;
mod openai;
mod port;
mod redact;
mod responses;
mod rig_adapter;
mod sign_in;
mod tape;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod thinking;
mod vendor;
mod wire;

pub use agent::*;
pub use bedrock::Credentials as AwsCredentials;
pub use catalogue::{
    EnvVar, FileProblem, ModelEntry, ProviderFile, ProviderRegistry, check_provider_id, definition_files,
    definition_text, engine_of,
};
pub use classify::{Failure, classify};
pub use demo::{
    DemoProvider, LABEL as DEMO_LABEL, MODEL_ID as DEMO_MODEL_ID, PROVIDER_ID as DEMO_PROVIDER_ID,
};
pub use facts::{ModelFacts, Prices, cost as cost_of, of as facts_of};
pub use local::LocalServer;
pub use port::*;
pub use redact::Redactor;
pub use sign_in::{SignIn, SignInMethod};
pub use tape::Tape;
pub use thinking::{Thinking, ThinkingField};
pub use vendor::{Decoder, Format, Vendor, VendorOptions};
