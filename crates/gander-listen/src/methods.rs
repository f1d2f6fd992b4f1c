//! Which methods exist and which of them stream, read from descriptor sets so that it cannot differ from the contract.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// One method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// Full name of the service, for example `gander.v1.TurnService`.
    pub(crate) service: String,
    /// Name of the method.
    pub(crate) name: String,
    /// Either side streams: no default deadline, counted as an open stream.
    pub(crate) streaming: bool,
}

/// Index of the entry that stands for all unknown methods, so that callers cannot grow the metrics.
pub(crate) const UNKNOWN: usize = 0;

/// Standard services that are served beside the contract.
const STANDARD: [(&str, &str, bool); 4] = [
    ("grpc.health.v1.Health", "Check", false),
    ("grpc.health.v1.Health", "Watch", true),
    ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", true),
    ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", true),
];

/// All methods, by path.
pub(crate) struct Methods {
    all: Vec<Method>,
    by_path: HashMap<String, usize>,
}

impl Methods {
    /// The methods of `gander.v1` and the standard services.
    pub(crate) fn new() -> Self {
        let unknown = Method { service: "unknown".to_owned(), name: "unknown".to_owned(), streaming: false };
        let mut methods = Self { all: vec![unknown], by_path: HashMap::new() };
        let set = FileDescriptorSet::decode(gander_proto::FILE_DESCRIPTOR_SET).unwrap_or_default();
        for file in &set.file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                for method in &service.method {
                    let streaming = method.server_streaming() || method.client_streaming();
                    methods.add(&name, method.name(), streaming);
                }
            }
        }
        for (service, name, streaming) in STANDARD {
            methods.add(service, name, streaming);
        }
        methods
    }

    fn add(&mut self, service: &str, name: &str, streaming: bool) {
        self.by_path.insert(format!("/{service}/{name}"), self.all.len());
        self.all.push(Method { service: service.to_owned(), name: name.to_owned(), streaming });
    }

    /// Index of the method of a request path; [`UNKNOWN`] if there is none.
    pub(crate) fn index(&self, path: &str) -> usize {
        self.by_path.get(path).copied().unwrap_or(UNKNOWN)
    }

    /// Whether the path is one of a method.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
    }

    /// All methods, by index.
    pub(crate) fn all(&self) -> &[Method] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_and_the_standard_services_are_known() {
        let methods = Methods::new();
        let streaming = |path: &str| {
            assert!(methods.contains(path), "{path}");
            methods.all()[methods.index(path)].streaming
        };
        assert!(streaming("/gander.v1.SessionService/WatchSession"));
        assert!(streaming("/gander.v1.TurnService/RunTurn"));
        assert!(streaming("/grpc.health.v1.Health/Watch"));
        assert!(!streaming("/gander.v1.TurnService/StartTurn"));
        assert!(!streaming("/grpc.health.v1.Health/Check"));
        assert_eq!(methods.index("/gander.v1.TurnService/Nope"), UNKNOWN);
    }
}
