//! The canonical API, `gander.v1`, as Rust: messages always, tonic clients and servers behind the features `client`
//! and `server`.
//!
//! The `.proto` files below `proto/gander/v1` are the contract. Everything in [`v1`] is generated from them and
//! committed; the test `generate` compares it, and rewrites it when `GANDER_PROTO_WRITE=1` is set. This crate must not
//! depend on any other crate of ours and must not hold conversions or behaviour.

/// Messages and, by feature, clients and servers of the package `gander.v1`. Generated.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unreachable_pub,
    rust_2018_idioms,
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls,
    rustdoc::invalid_html_tags
)]
pub mod v1 {
    include!("generated/gander.v1.rs");
}

/// Serialized `google.protobuf.FileDescriptorSet` of the package and its imports, without comments. For reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptor.binpb");

/// Names for `google.rpc.ErrorInfo`.
pub mod reason {
    use crate::v1::ErrorReason;

    /// `ErrorInfo.domain` of every error that the daemon sends.
    pub const ERROR_DOMAIN: &str = "gander.v1";

    const PREFIX: &str = "ERROR_REASON_";

    /// `ErrorInfo.reason` for a value: its name without the prefix, such as `SESSION_NOT_FOUND`.
    pub fn wire_name(reason: ErrorReason) -> &'static str {
        let name = reason.as_str_name();
        name.strip_prefix(PREFIX).unwrap_or(name)
    }

    /// The value for an `ErrorInfo.reason`. `None` for a reason of a newer version, which a client treats by its gRPC code.
    pub fn from_wire_name(name: &str) -> Option<ErrorReason> {
        ErrorReason::from_str_name(&format!("{PREFIX}{name}"))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::{FileDescriptorSet, ServiceDescriptorProto};

    use crate::{FILE_DESCRIPTOR_SET, reason, v1};

    #[test]
    fn reasons_go_out_and_come_back() {
        assert_eq!(reason::wire_name(v1::ErrorReason::SequenceCompacted), "SEQUENCE_COMPACTED");
        assert_eq!(reason::from_wire_name("SEQUENCE_COMPACTED"), Some(v1::ErrorReason::SequenceCompacted));
        assert_eq!(reason::from_wire_name("OF_A_LATER_VERSION"), None);
    }

    #[test]
    fn descriptor_set_names_every_service() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let mut services: Vec<_> =
            set.file.iter().flat_map(|file| &file.service).map(ServiceDescriptorProto::name).collect();
        services.sort_unstable();
        assert_eq!(
            services,
            [
                "ConfigService",
                "ExtensionService",
                "HostService",
                "InteractionService",
                "ProviderService",
                "RecipeService",
                "ScheduleService",
                "SessionService",
                "SystemService",
                "ToolService",
                "TurnService",
            ]
        );
    }
}
