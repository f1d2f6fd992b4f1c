//! Generates the Rust code and the descriptor set from `proto/`, without `protoc`, and checks that the committed files
//! are just that, and that the contract keeps its rules.
//! With `GANDER_PROTO_WRITE=1` it writes them instead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodOptions, method_options::IdempotencyLevel,
};

const CODE: &str = "gander.v1.rs";
const DESCRIPTOR: &str = "descriptor.binpb";

/// Variants that are much larger than the others of their oneof.
const BOXED: &[&str] = &[
    "gander.v1.Item.body.tool_call",
    "gander.v1.Interaction.question.permission",
    "gander.v1.SessionEvent.payload.item_started",
    "gander.v1.SessionEvent.payload.item_completed",
    "gander.v1.SessionEvent.payload.tool_call_updated",
    "gander.v1.SessionEvent.payload.interaction_requested",
    "gander.v1.SessionEvent.payload.interaction_resolved",
    "gander.v1.SessionEvent.payload.session_created",
    "gander.v1.SessionEvent.payload.session_updated",
    "gander.v1.SessionEvent.payload.turn_queued",
    "gander.v1.SessionEvent.payload.turn_started",
    "gander.v1.SessionEvent.payload.turn_cancel_requested",
    "gander.v1.SessionEvent.payload.turn_ended",
    "gander.v1.SessionEvent.payload.extension_state_changed",
    "gander.v1.SessionEvent.payload.usage_reported",
    "gander.v1.ImportSessionRequest.source.document",
    "gander.v1.AddSessionExtensionRequest.extension.config",
    "gander.v1.AuthenticateProviderResponse.step.succeeded",
    "gander.v1.CallToolResponse.payload.result",
    "gander.v1.CompleteHostCallRequest.outcome.tool",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn proto_files(folder: &Path) -> Vec<String> {
    let mut files: Vec<String> = fs::read_dir(folder.join("gander/v1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".proto"))
        .map(|name| format!("gander/v1/{name}"))
        .collect();
    files.sort();
    files
}

fn compile() -> FileDescriptorSet {
    let folder = repository().join("proto");
    protox::Compiler::new([&folder])
        .unwrap()
        .include_imports(true)
        .include_source_info(true)
        .open_files(proto_files(&folder))
        .unwrap()
        .file_descriptor_set()
}

/// Writes the code and the descriptor set into `folder`.
fn generate(set: &FileDescriptorSet, folder: &Path) {
    let mut builder = tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .bytes(".")
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .out_dir(folder);
    for path in BOXED {
        builder = builder.boxed(path);
    }
    builder.compile_fds(set.clone()).unwrap();

    let mut bare = set.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    fs::write(folder.join(DESCRIPTOR), bare.encode_to_vec()).unwrap();
}

#[test]
#[allow(clippy::disallowed_methods)] // The one switch of this test; `cargo xtask gen` sets it.
fn generated_code_is_up_to_date() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    let fresh = tempfile::tempdir().unwrap();
    generate(&compile(), fresh.path());

    let write = std::env::var("GANDER_PROTO_WRITE").is_ok_and(|value| value == "1");
    for name in [CODE, DESCRIPTOR] {
        let new = fs::read(fresh.path().join(name)).unwrap();
        let path = committed.join(name);
        if fs::read(&path).is_ok_and(|old| old == new) {
            continue;
        }
        assert!(write, "{name} does not match proto/: run `cargo xtask gen` and commit the result");
        fs::write(&path, new).unwrap();
    }
}

fn ours(set: &FileDescriptorSet) -> impl Iterator<Item = &FileDescriptorProto> {
    set.file.iter().filter(|file| file.package() == "gander.v1")
}

#[test]
fn names_are_usable_in_every_language() {
    const FIELDS: &[&str] = &[
        "string",
        "reset",
        "descriptor",
        "from",
        "import",
        "async",
        "await",
        "global",
        "type",
        "class",
        "default",
        "interface",
        "package",
        "match",
        "id",
        "request_id",
    ];
    const MESSAGES: &[&str] =
        &["Error", "Process", "Record", "Module", "Object", "Empty", "Option", "Result"];
    let set = compile();
    for file in ours(&set) {
        for message in &file.message_type {
            assert!(!MESSAGES.contains(&message.name()), "{} clashes in some language", message.name());
            for field in &message.field {
                assert!(
                    !FIELDS.contains(&field.name()),
                    "{}.{} clashes in some language",
                    message.name(),
                    field.name()
                );
            }
        }
        for import in &file.dependency {
            let allowed = import.starts_with("gander/v1/")
                || ["timestamp", "duration", "field_mask"]
                    .iter()
                    .any(|name| *import == format!("google/protobuf/{name}.proto"));
            assert!(allowed, "{} imports {import}", file.name());
        }
    }
}

#[test]
fn boxed_paths_exist() {
    let set = compile();
    for path in BOXED {
        let [_, _, message, oneof, field] = path.split('.').collect::<Vec<_>>()[..] else { panic!("{path}") };
        let known = ours(&set).flat_map(|file| &file.message_type).filter(|m| m.name() == message).any(|m| {
            m.field.iter().any(|f| {
                let index = f.oneof_index.and_then(|index| usize::try_from(index).ok());
                f.name() == field && index.is_some_and(|index| m.oneof_decl[index].name() == oneof)
            })
        });
        assert!(known, "{path} names no variant");
    }
}

/// Idempotent by their own id, kept out of the table of outcomes because they carry secrets, or bound to their stream.
const WITHOUT_KEY: &[&str] =
    &["StartTurn", "RunTurn", "AttachHost", "SetSecret", "DetectProvider", "AuthenticateProvider"];

#[test]
fn every_change_can_be_made_idempotent() {
    let set = compile();
    let with_key: BTreeSet<&str> = ours(&set)
        .flat_map(|file| &file.message_type)
        .filter(|message| {
            message.field.iter().any(|field| field.name() == "idempotency_key" && field.number() == 15)
        })
        .map(DescriptorProto::name)
        .collect();
    let mut changing = 0;
    for method in ours(&set).flat_map(|file| &file.service).flat_map(|service| &service.method) {
        let level = method.options.as_ref().map(MethodOptions::idempotency_level);
        let reads = level == Some(IdempotencyLevel::NoSideEffects);
        let request = format!("{}Request", method.name());
        let wants_key = !reads && !WITHOUT_KEY.contains(&method.name());
        assert_eq!(with_key.contains(request.as_str()), wants_key, "idempotency_key = 15 in {request}");
        changing += usize::from(wants_key);
    }
    assert_eq!(changing, with_key.len());
}
