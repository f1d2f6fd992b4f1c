//! The history half of SessionService: items, events, forks, imports.

use gander_domain::{
    ErrorDetail, Item, ItemId, MessageId, SessionId, Timestamp, TurnId, item::Origin, session::TitleSource,
    usage::SessionUsage,
};
use gander_engine::{
    ForkRequest, ImportRequest, ImportSource, ImportedHistory, ItemsQuery, NewSession, Source as _,
    SystemSource,
};
use gander_proto::v1 as pb;

use super::filters;
use crate::{
    Api, PAGE_BYTES,
    convert::{
        At, Violations, enums, event,
        item::{Defaults, item_from_pb, item_to_pb},
        non_empty, session,
        usage::usage_from_pb,
    },
    paging::page_size,
};

/// Most items that one request brings in.
const MAX_ITEMS: usize = 100_000;

pub(super) fn session_and_item(
    session_id: &str,
    name: &str,
    item_id: &str,
) -> Result<(SessionId, ItemId), ErrorDetail> {
    let mut v = Violations::default();
    let session = v.id(&At::root("session_id"), session_id, |t| SessionId::new(t));
    let item = v.id(&At::root(name), item_id, |t| ItemId::new(t));
    v.finish(session.zip(item))
}

pub(super) fn fork_request(request: pb::ForkSessionRequest) -> Result<(SessionId, ForkRequest), ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let before = &At::root("before_item_id");
    let fork = ForkRequest {
        before_item_id: v.optional_id(before, &request.before_item_id, |t| ItemId::new(t)),
        new_session_id: v
            .optional_id(&At::root("new_session_id"), &request.new_session_id, |t| SessionId::new(t)),
        title: non_empty(v.short(&At::root("title"), request.title)),
        working_directory: non_empty(request.working_directory),
    };
    let id = v.finish(id)?;
    Ok((id, fork))
}

/// Ids and times that a request leaves out.
struct Minted {
    now: Timestamp,
}

impl Defaults for Minted {
    fn item_id(&self) -> Option<ItemId> {
        ItemId::new(SystemSource.unique()).ok()
    }
    fn message_id(&self) -> Option<MessageId> {
        MessageId::new(SystemSource.unique()).ok()
    }
    fn now(&self) -> Timestamp {
        self.now
    }
}

fn items(items: Vec<pb::Item>, origin: Origin, at: Option<&At<'_>>, v: &mut Violations) -> Vec<Item> {
    let minted = Minted { now: SystemSource.now() };
    let element = |index| match at {
        Some(at) => at.element("items", index),
        None => At::root_element("items", index),
    };
    if items.len() > MAX_ITEMS {
        v.add(
            &element(MAX_ITEMS),
            format!("is too many: at most {MAX_ITEMS} items can be brought in at once"),
        );
        return Vec::new();
    }
    let mut seen = std::collections::HashSet::new();
    let mut out = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let at = element(index);
        if let Some(item) = item_from_pb(item, origin, &minted, &at, v) {
            if !seen.insert(item.item_id.clone()) {
                v.add(&at.field("item_id"), "is the id of an item before it");
            }
            out.push(item);
        }
    }
    out
}

pub(super) fn new_history(request: pb::ReplaceHistoryRequest) -> Result<(SessionId, Vec<Item>), ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let items = items(request.items, Origin::Client, None, &mut v);
    let id = v.finish(id)?;
    Ok((id, items))
}

pub(super) fn import_request(request: pb::ImportSessionRequest) -> Result<ImportRequest, ErrorDetail> {
    use pb::import_session_request::Source;
    let mut v = Violations::default();
    let session_id = v.optional_id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let source = match request.source {
        None => {
            v.add(&At::root("source"), "must be export_data or document");
            None
        }
        Some(Source::ExportData(data)) => Some(ImportSource::Export(data.to_vec())),
        Some(Source::Document(document)) => Some(document_from_pb(*document, &mut v)),
    };
    let source = v.finish(source)?;
    Ok(ImportRequest {
        source,
        session_id,
        keep_session_id: request.keep_session_id,
        working_directory: non_empty(request.working_directory),
    })
}

fn document_from_pb(document: pb::SessionDocument, v: &mut Violations) -> ImportSource {
    let at = At::root("document");
    let settings = document.session.unwrap_or_default();
    let session_at = at.field("session");
    let title_source = match settings.title_source() {
        pb::TitleSource::User => TitleSource::User,
        pb::TitleSource::Generated => TitleSource::Generated,
        pb::TitleSource::Default | pb::TitleSource::Unspecified => TitleSource::Default,
    };
    let original_id = non_empty(settings.session_id);
    let format = v.name(&at.field("format"), document.format);
    let kind = v.optional_enum(&session_at.field("kind"), settings.kind, enums::session_kind_from_pb);
    let extensions = crate::convert::extension::configs_from_pb(document.extensions, &at, "extensions", v);
    let mode = settings.mode.and_then(|m| v.required_enum(&session_at.field("mode"), m, enums::mode_from_pb));
    let usage = settings.usage.unwrap_or_default();
    let history = ImportedHistory {
        create_time: v.time(&session_at.field("create_time"), settings.create_time),
        update_time: v.time(&session_at.field("update_time"), settings.update_time),
        title_source,
        usage: SessionUsage {
            last_call: usage.last_call.as_ref().map(usage_from_pb).unwrap_or_default(),
            totals: usage.totals.as_ref().map(usage_from_pb).unwrap_or_default(),
            cost_totals: None,
        },
        extension_state: session::map_from_pb(
            settings.extension_state_json,
            &session_at.field("extension_state_json"),
            v,
        ),
    };
    let session = NewSession {
        working_directory: settings.working_directory,
        title: v.short(&session_at.field("title"), settings.title),
        kind: kind.unwrap_or_default(),
        model: settings.model.map(|m| session::model_from_pb(m, &session_at.field("model"), v)),
        mode,
        recipe: settings.recipe.map(|r| session::recipe_from_pb(r, &session_at.field("recipe"), v)),
        schedule_id: non_empty(settings.schedule_id),
        labels: session::map_from_pb(settings.labels, &session_at.field("labels"), v),
        extensions: gander_engine::ExtensionSelection {
            // A document without extensions says nothing about them.
            exactly: (!extensions.is_empty()).then_some(extensions),
            ..Default::default()
        },
        ..NewSession::default()
    };
    let items = items(document.items, Origin::Import, Some(&at), v);
    ImportSource::Document {
        format,
        original_id,
        session: Box::new(session),
        history: Box::new(history),
        items,
    }
}

pub(super) async fn list_items(
    api: &Api,
    mut request: pb::ListItemsRequest,
) -> Result<pb::ListItemsResponse, ErrorDetail> {
    let max_items = page_size(request.page_size, 200, 1_000)?;
    let token = std::mem::take(&mut request.page_token);
    request.page_size = 0;
    let filters = filters("ListItems", &request);
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let turn_id = v.optional_id(&At::root("turn_id"), &request.turn_id, |t| TurnId::new(t));
    let item_ids = request
        .item_ids
        .iter()
        .enumerate()
        .filter_map(|(i, text)| v.id(&At::root_element("item_ids", i), text, |t| ItemId::new(t)))
        .collect();
    let id = v.finish(id)?;
    let from = match filters.position(&token)? {
        None => None,
        Some(position) => Some(parse_position(&position)?),
    };
    let query = ItemsQuery {
        include_hidden: request.include_hidden,
        turn_id,
        item_ids,
        from,
        max_items,
        max_bytes: PAGE_BYTES,
    };
    let page = api.engine.list_items(&id, query).await?;
    Ok(pb::ListItemsResponse {
        items: page.items.iter().map(|i| item_to_pb(i)).collect(),
        next_page_token: page
            .next
            .map(|(number, offset)| filters.token(&format!("{number}:{offset}")))
            .unwrap_or_default(),
        through_sequence: page.through_sequence,
    })
}

fn parse_position(position: &str) -> Result<(u64, usize), ErrorDetail> {
    let parsed = position.split_once(':').and_then(|(n, o)| Some((n.parse().ok()?, o.parse().ok()?)));
    parsed.ok_or_else(|| ErrorDetail::internal("a page token that was sealed here has no position in it"))
}

pub(super) async fn list_events(
    api: &Api,
    request: pb::ListEventsRequest,
) -> Result<pb::ListEventsResponse, ErrorDetail> {
    let id = super::session::session_id(&request.session_id)?;
    let size = page_size(request.page_size, 200, 1_000)?;
    let page = api.engine.list_events(&id, request.after_sequence, size, PAGE_BYTES).await?;
    let next_after_sequence = match page.events.last() {
        Some(last) => last.sequence,
        // Nothing but dropped deltas lies between the cursor and the end.
        None => page.last_sequence.max(request.after_sequence),
    };
    let events = page
        .events
        .iter()
        .filter(|e| !(request.exclude_deltas && event::is_excludable(&e.payload)))
        .map(|e| event::event_to_pb(e, &id))
        .collect();
    Ok(pb::ListEventsResponse { events, next_after_sequence, last_sequence: page.last_sequence })
}
