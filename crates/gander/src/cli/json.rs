//! Messages as canonical ProtoJSON with the field names of the `.proto` files: what `buf curl` prints too.

use std::sync::LazyLock;

use gander_proto::v1;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use super::error::{CliError, CliResult};

/// A constant, computed once: the descriptors are part of the program.
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(gander_proto::FILE_DESCRIPTOR_SET).unwrap_or_default());

/// A message that can be printed as JSON.
pub(super) trait ProtoJson: Message {
    /// Full name in the contract.
    const NAME: &'static str;
}

macro_rules! names {
    ($($message:ident),* $(,)?) => {$(
        impl ProtoJson for v1::$message {
            const NAME: &'static str = concat!("gander.v1.", stringify!($message));
        }
    )*};
}

names!(
    AvailableExtension,
    CallToolResponse,
    ConfigValue,
    ConfiguredExtension,
    ExtensionStatus,
    Item,
    ModelInfo,
    Provider,
    Recipe,
    Schedule,
    SecretStatus,
    ServerInfo,
    Session,
    SessionEvent,
    StoreFinding,
    ToolDefinition,
    ToolResult,
);

/// The message as a JSON value.
pub(super) fn value<M: ProtoJson>(message: &M) -> CliResult<Value> {
    let broken =
        |error: &dyn std::fmt::Display| CliError::new(format!("cannot print {} as JSON: {error}", M::NAME));
    let descriptor = POOL.get_message_by_name(M::NAME).ok_or_else(|| broken(&"it is not in the contract"))?;
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(descriptor, bytes.as_slice()).map_err(|e| broken(&e))?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|e| broken(&e))
}

/// The message on one line.
pub(super) fn line<M: ProtoJson>(message: &M) -> CliResult<String> {
    Ok(value(message)?.to_string())
}

/// Messages as a JSON array, indented.
pub(super) fn array<M: ProtoJson>(messages: &[M]) -> CliResult<String> {
    let values = messages.iter().map(value).collect::<CliResult<Vec<_>>>()?;
    Ok(pretty(&Value::Array(values)))
}

pub(super) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_printable_message_is_in_the_contract() {
        fn check<M: ProtoJson + Default>() {
            assert_eq!(value(&M::default()).unwrap(), json!({}), "{}", M::NAME);
        }
        check::<v1::CallToolResponse>();
        check::<v1::ConfigValue>();
        check::<v1::ConfiguredExtension>();
        check::<v1::ExtensionStatus>();
        check::<v1::Item>();
        check::<v1::ModelInfo>();
        check::<v1::Provider>();
        check::<v1::SecretStatus>();
        check::<v1::ServerInfo>();
        check::<v1::Session>();
        check::<v1::SessionEvent>();
        check::<v1::StoreFinding>();
        check::<v1::ToolDefinition>();
        check::<v1::ToolResult>();
    }

    #[test]
    fn events_have_proto_names_and_canonical_values() {
        let event = v1::SessionEvent {
            sequence: 7,
            session_id: "s".to_owned(),
            create_time: Some(prost_types::Timestamp { seconds: 0, nanos: 500_000_000 }),
            payload: Some(v1::session_event::Payload::TurnEnded(Box::new(v1::TurnEnded {
                turn: Some(v1::Turn {
                    turn_id: "t".to_owned(),
                    state: v1::TurnState::Completed as i32,
                    ..v1::Turn::default()
                }),
            }))),
            ..v1::SessionEvent::default()
        };
        assert_eq!(
            value(&event).unwrap(),
            json!({
                "sequence": "7",
                "session_id": "s",
                "create_time": "1970-01-01T00:00:00.500Z",
                "turn_ended": {"turn": {"turn_id": "t", "state": "TURN_STATE_COMPLETED"}},
            })
        );
        assert!(!line(&event).unwrap().contains('\n'));
    }
}
