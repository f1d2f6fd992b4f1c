//! What the contract says about each method: does it stream, may it be repeated. Read from the descriptor set, so that
//! it cannot differ from the `.proto` files.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto, method_options::IdempotencyLevel};

/// Properties of one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// Either side streams.
    pub(crate) streaming: bool,
    /// Marked `NO_SIDE_EFFECTS` or `IDEMPOTENT`.
    pub(crate) repeatable: bool,
}

/// A constant, computed once: the descriptor set is part of the program.
static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(gander_proto::FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut methods = HashMap::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods.insert(path, Method::of(method));
            }
        }
    }
    methods
});

impl Method {
    fn of(method: &MethodDescriptorProto) -> Self {
        let level = method.options.as_ref().map_or(IdempotencyLevel::IdempotencyUnknown, |options| {
            IdempotencyLevel::try_from(options.idempotency_level.unwrap_or_default())
                .unwrap_or(IdempotencyLevel::IdempotencyUnknown)
        });
        Self {
            streaming: method.server_streaming() || method.client_streaming(),
            repeatable: level != IdempotencyLevel::IdempotencyUnknown,
        }
    }
}

/// The method of a request path; `None` for one that this version's contract does not have.
pub(crate) fn lookup(path: &str) -> Option<Method> {
    METHODS.get(path).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_tells_what_streams_and_what_may_be_repeated() {
        let method = |path: &str| lookup(path).expect("in the contract");
        let unary = |repeatable| Method { streaming: false, repeatable };
        assert_eq!(method("/gander.v1.SessionService/GetSession"), unary(true));
        assert_eq!(method("/gander.v1.SessionService/CreateSession"), unary(false));
        assert_eq!(method("/gander.v1.TurnService/CancelTurn"), unary(true));
        assert_eq!(method("/gander.v1.TurnService/StartTurn"), unary(false));
        assert!(method("/gander.v1.SessionService/WatchSession").streaming);
        assert!(method("/gander.v1.TurnService/RunTurn").streaming);
        assert_eq!(lookup("/gander.v1.SessionService/NoSuchMethod"), None);
    }
}
