//! Items of a conversation.

use gander_domain::{
    Item, ItemBody, ItemId, MessageId, TurnId,
    item::{
        AgentMessage, Compaction, ItemState, Notice, NoticeLevel, Origin, Thought, UserMessage, Visibility,
    },
};
use gander_proto::v1 as pb;

use super::{At, Violations, content, enums, non_empty, or_empty, time_to_pb, tool};

const TRIGGER: &str = "COMPACTION_TRIGGER_";

pub(crate) fn item_to_pb(item: &Item) -> pb::Item {
    pb::Item {
        item_id: item.item_id.as_str().to_owned(),
        turn_id: or_empty(item.turn_id.as_ref()),
        message_id: item.message_id.as_str().to_owned(),
        state: enums::item_state_to_pb(item.state),
        body: (!item.redacted).then(|| body_to_pb(&item.body)),
        incomplete: item.incomplete,
        visibility: Some(visibility_to_pb(item.visibility)),
        origin: enums::origin_to_pb(item.origin),
        create_time: Some(time_to_pb(item.create_time)),
        client_create_time: item.client_create_time.map(time_to_pb),
        complete_time: item.complete_time.map(time_to_pb),
        redacted: item.redacted,
        model_id: or_empty(item.model_id.as_ref()),
    }
}

pub(crate) fn visibility_to_pb(visibility: Visibility) -> pb::Visibility {
    pb::Visibility { user: visibility.user, model: visibility.model }
}

fn body_to_pb(body: &ItemBody) -> pb::item::Body {
    use pb::item::Body;
    match body {
        ItemBody::UserMessage(m) => {
            Body::UserMessage(pb::UserMessage { parts: content::parts_to_pb(&m.parts), steered: m.steered })
        }
        ItemBody::AgentMessage(m) => {
            Body::AgentMessage(pb::AgentMessage { parts: content::parts_to_pb(&m.parts), demo: m.demo })
        }
        ItemBody::Thought(t) => Body::Thought(pb::Thought {
            text: t.text.clone(),
            signature: or_empty(t.signature.as_ref()),
            redacted_data: or_empty(t.redacted_data.as_ref()),
        }),
        ItemBody::ToolCall(call) => Body::ToolCall(Box::new(tool::call_to_pb(call))),
        ItemBody::Compaction(c) => Body::Compaction(pb::Compaction {
            summary_parts: content::parts_to_pb(&c.summary_parts),
            replaced_through_sequence: c.replaced_through_sequence,
            trigger: enums::word_to_pb(TRIGGER, &c.trigger, pb::CompactionTrigger::from_str_name),
        }),
        ItemBody::Notice(n) => Body::Notice(pb::Notice {
            level: enums::notice_level_to_pb(n.level),
            code: n.code.clone(),
            text: n.text.clone(),
            data_json: or_empty(n.data_json.as_ref()),
        }),
    }
}

/// What an item needs that a request may leave out.
pub(crate) trait Defaults {
    fn item_id(&self) -> Option<ItemId>;
    fn message_id(&self) -> Option<MessageId>;
    fn now(&self) -> gander_domain::Timestamp;
}

/// A complete item of a request that brings a history. Absent ids and times come from `defaults`; every such item gets
/// the origin `origin`.
pub(crate) fn item_from_pb(
    item: pb::Item,
    origin: Origin,
    defaults: &dyn Defaults,
    at: &At<'_>,
    v: &mut Violations,
) -> Option<Item> {
    let item_id = v.optional_id(&at.field("item_id"), &item.item_id, |t| ItemId::new(t));
    let message_id = v.optional_id(&at.field("message_id"), &item.message_id, |t| MessageId::new(t));
    let turn_id = v.optional_id(&at.field("turn_id"), &item.turn_id, |t| TurnId::new(t));
    if pb::ItemState::try_from(item.state) == Ok(pb::ItemState::InProgress) {
        v.add(&at.field("state"), "must be COMPLETED: only complete items can be brought in");
    }
    let Some(body) = item.body else {
        v.add(at, "must have a body");
        return None;
    };
    let body = body_from_pb(body, at, v)?;
    let create_time = v.time(&at.field("create_time"), item.create_time);
    let visibility =
        item.visibility.map_or_else(Visibility::default, |x| Visibility { user: x.user, model: x.model });
    Some(Item {
        item_id: item_id.or_else(|| defaults.item_id())?,
        turn_id,
        message_id: message_id.or_else(|| defaults.message_id())?,
        body,
        state: ItemState::Completed,
        incomplete: item.incomplete,
        visibility,
        origin,
        create_time: create_time.unwrap_or_else(|| defaults.now()),
        client_create_time: v.time(&at.field("client_create_time"), item.client_create_time),
        complete_time: v.time(&at.field("complete_time"), item.complete_time),
        redacted: item.redacted,
        model_id: non_empty(item.model_id),
        provider_state_json: None,
    })
}

fn body_from_pb(body: pb::item::Body, at: &At<'_>, v: &mut Violations) -> Option<ItemBody> {
    use pb::item::Body;
    Some(match body {
        Body::UserMessage(m) => ItemBody::UserMessage(UserMessage {
            parts: content::parts_from_pb(m.parts, &at.field("user_message"), "parts", v),
            steered: m.steered,
        }),
        Body::AgentMessage(m) => ItemBody::AgentMessage(AgentMessage {
            parts: content::parts_from_pb(m.parts, &at.field("agent_message"), "parts", v),
            demo: m.demo,
        }),
        Body::Thought(t) => ItemBody::Thought(Thought {
            text: v.text(&at.field("thought").field("text"), t.text),
            signature: non_empty(t.signature),
            redacted_data: non_empty(t.redacted_data),
        }),
        Body::ToolCall(call) => {
            let at = at.field("tool_call");
            let call = tool::call_from_pb(*call, &at, v)?;
            if !call.status.is_terminal() {
                v.add(&at.field("status"), "must be final: only calls that have ended can be brought in");
            }
            ItemBody::ToolCall(Box::new(call))
        }
        Body::Compaction(c) => ItemBody::Compaction(Compaction {
            summary_parts: content::parts_from_pb(
                c.summary_parts,
                &at.field("compaction"),
                "summary_parts",
                v,
            ),
            replaced_through_sequence: c.replaced_through_sequence.max(0),
            trigger: pb::CompactionTrigger::try_from(c.trigger)
                .map(|t| enums::word_from_pb(TRIGGER, t.as_str_name()))
                .unwrap_or_default(),
        }),
        Body::Notice(n) => {
            let at = at.field("notice");
            ItemBody::Notice(Notice {
                level: enums::notice_level_from_pb(n.level).unwrap_or(NoticeLevel::Info),
                code: v.short(&at.field("code"), n.code),
                text: v.text(&at.field("text"), n.text),
                data_json: v.json(&at.field("data_json"), n.data_json),
            })
        }
    })
}
