//! The hash of a request, for idempotency.
//!
//! Two requests with the same content must have the same hash, but Rust's maps are encoded in random order. So the
//! encoded request is walked along the descriptor set and the entries of every map are sorted; everything else is taken
//! byte for byte. The field `idempotency_key` of the request itself is left out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::OnceLock,
};

use prost::Message;
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use sha2::{Digest as _, Sha256};

/// What to do with the length-delimited field of a number.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    /// A message of this type, which has maps somewhere below.
    Message(String),
    /// An entry of a map.
    MapEntry,
    /// The request's own key.
    Skip,
}

/// Fields that need attention, by message type. Types that are absent are taken as they are.
type Schema = HashMap<String, BTreeMap<u32, Field>>;

/// Hex SHA-256 of a request of the type `gander.v1.NAME`, without its idempotency key.
pub(crate) fn request_hash<M: Message>(name: &str, request: &M) -> String {
    let bytes = request.encode_to_vec();
    let type_name = format!(".gander.v1.{name}");
    let mut out = Vec::with_capacity(bytes.len());
    // prost encodes what it can decode, so the walk cannot fail; the bytes themselves would be a stricter hash.
    let canonical = if walk(&bytes, &type_name, schema(), &mut out).is_some() { &out } else { &bytes };
    hex(&Sha256::digest(canonical))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn schema() -> &'static Schema {
    // A constant in all but name: computed from the embedded descriptor set.
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        build(&FileDescriptorSet::decode(gander_proto::FILE_DESCRIPTOR_SET).unwrap_or_default())
    })
}

fn build(set: &FileDescriptorSet) -> Schema {
    let mut types = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            collect(&format!(".{}", file.package()), message, &mut types);
        }
    }
    let mut schema = Schema::new();
    // Fixed point: a message needs attention if a field of it does.
    loop {
        let mut changed = false;
        for (name, message) in &types {
            let fields = attention(message, &types, &schema);
            if !fields.is_empty() && schema.get(name) != Some(&fields) {
                schema.insert(name.clone(), fields);
                changed = true;
            }
        }
        if !changed {
            return schema;
        }
    }
}

fn collect<'a>(
    prefix: &str,
    message: &'a DescriptorProto,
    types: &mut BTreeMap<String, &'a DescriptorProto>,
) {
    let name = format!("{prefix}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested, types);
    }
    types.insert(name, message);
}

fn attention(
    message: &DescriptorProto,
    types: &BTreeMap<String, &DescriptorProto>,
    schema: &Schema,
) -> BTreeMap<u32, Field> {
    let mut fields = BTreeMap::new();
    for field in &message.field {
        let number = u32::try_from(field.number()).unwrap_or_default();
        if field.name() == "idempotency_key" {
            fields.insert(number, Field::Skip);
        } else if field.r#type() == Type::Message {
            let target = types.get(field.type_name());
            let is_map = field.label() == Label::Repeated
                && target
                    .and_then(|t| t.options.as_ref())
                    .is_some_and(prost_types::MessageOptions::map_entry);
            if is_map {
                fields.insert(number, Field::MapEntry);
            } else if schema.contains_key(field.type_name()) {
                fields.insert(number, Field::Message(field.type_name().to_owned()));
            }
        }
    }
    fields
}

/// Copies one encoded message, maps sorted. `None` when the bytes are no message.
fn walk(mut bytes: &[u8], type_name: &str, schema: &Schema, out: &mut Vec<u8>) -> Option<()> {
    let Some(fields) = schema.get(type_name) else {
        out.extend_from_slice(bytes);
        return Some(());
    };
    let mut maps: BTreeMap<u32, Vec<&[u8]>> = BTreeMap::new();
    while !bytes.is_empty() {
        let start = bytes;
        let key = varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).ok()?;
        let body = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                None
            }
            1 => {
                bytes = bytes.get(8..)?;
                None
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (body, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Some(body)
            }
            5 => {
                bytes = bytes.get(4..)?;
                None
            }
            _ => return None,
        };
        match (fields.get(&number), body) {
            (Some(Field::Skip), _) => {}
            (Some(Field::MapEntry), Some(entry)) => maps.entry(number).or_default().push(entry),
            (Some(Field::Message(name)), Some(body)) => {
                let mut inner = Vec::with_capacity(body.len());
                walk(body, name, schema, &mut inner)?;
                put(number, &inner, out);
            }
            _ => out.extend_from_slice(&start[..start.len() - bytes.len()]),
        }
    }
    for (number, mut entries) in maps {
        entries.sort_unstable();
        for entry in entries {
            put(number, entry, out);
        }
    }
    Some(())
}

fn put(number: u32, body: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, out);
    prost::encoding::encode_varint(body.len() as u64, out);
    out.extend_from_slice(body);
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
}

#[cfg(test)]
mod tests {
    use gander_proto::v1 as pb;

    use super::*;

    fn create(key: &str, labels: &[(&str, &str)], env: &[(&str, &str)]) -> pb::CreateSessionRequest {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let config = pb::ExtensionConfig { name: "x".into(), env: map(env), ..Default::default() };
        let exactly = pb::ExactSelection { extensions: vec![config.clone(), config] };
        pb::CreateSessionRequest {
            idempotency_key: key.into(),
            working_directory: "/w".into(),
            labels: map(labels),
            extensions: Some(pb::ExtensionSelection {
                selection: Some(pb::extension_selection::Selection::Exactly(exactly)),
            }),
            ..Default::default()
        }
    }

    fn hash(request: &pb::CreateSessionRequest) -> String {
        request_hash("CreateSessionRequest", request)
    }

    #[test]
    fn order_of_maps_and_the_key_do_not_matter() {
        let pairs: Vec<(String, String)> = (0..40).map(|i| (format!("k{i}"), format!("v{i}"))).collect();
        let forward: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let backward: Vec<_> = forward.iter().rev().copied().collect();
        let first = hash(&create("one", &forward, &forward));
        // Each map has its own random order.
        for _ in 0..8 {
            assert_eq!(hash(&create("two", &backward, &backward)), first);
        }
    }

    #[test]
    fn everything_else_matters() {
        let base = create("k", &[("a", "b")], &[("P", "1")]);
        let mut others = vec![
            create("k", &[("a", "c")], &[("P", "1")]),
            create("k", &[("a", "b")], &[("P", "2")]),
            create("k", &[], &[("P", "1")]),
        ];
        others.push(pb::CreateSessionRequest { title: "t".into(), ..base.clone() });
        others.push(pb::CreateSessionRequest { demo_allowed: true, ..base.clone() });
        for other in others {
            assert_ne!(hash(&other), hash(&base));
        }
        let steer = |text: &str| pb::SteerTurnRequest {
            idempotency_key: text.into(),
            expected_turn_id: "t".into(),
            ..Default::default()
        };
        let hash = |r: &pb::SteerTurnRequest| request_hash("SteerTurnRequest", r);
        assert_eq!(hash(&steer("a")), hash(&steer("b")));
    }

    #[test]
    fn requests_without_maps_and_keys_are_taken_as_they_are() {
        let request =
            pb::StartTurnRequest { session_id: "s".into(), turn_id: "t".into(), ..Default::default() };
        assert_eq!(request_hash("StartTurnRequest", &request), hex(&Sha256::digest(request.encode_to_vec())));
    }
}
