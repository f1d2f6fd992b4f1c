//! Faults on purpose: what real servers and networks do rarely, for tests. Nothing happens without an injector.

use std::{fmt, sync::Arc};

/// A message on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultPoint<'a> {
    /// Key of the extension.
    pub key: &'a str,
    /// From the server; else to it.
    pub incoming: bool,
    /// Method of a request or notification; absent for answers.
    pub method: Option<&'a str>,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It arrives.
    None,
    /// It does not arrive.
    Lose,
    /// It arrives twice (incoming ones only).
    Repeat,
    /// It does not arrive, and nothing after it (incoming ones only).
    Cut,
}

type Decide = dyn Fn(&FaultPoint<'_>) -> Fault + Send + Sync;

/// Decides about every message of every extension.
#[derive(Clone)]
pub struct FaultInjector(Arc<Decide>);

impl FaultInjector {
    /// `decide` is called in the order of the wire and must not block.
    pub fn new(decide: impl Fn(&FaultPoint<'_>) -> Fault + Send + Sync + 'static) -> Self {
        Self(Arc::new(decide))
    }

    pub(super) fn decide(&self, key: &str, incoming: bool, message: &impl serde::Serialize) -> Fault {
        let message = serde_json::to_value(message).unwrap_or_default();
        let method = message.get("method").and_then(serde_json::Value::as_str);
        (self.0)(&FaultPoint { key, incoming, method })
    }
}

impl fmt::Debug for FaultInjector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultInjector")
    }
}
