//! History: snapshots of items, forks, rewinds, replacements, content.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use gander_domain::{
    ContentId, ErrorDetail, ErrorReason, Event, Item, ItemId, PartBody, Payload, Sequence, Session,
    SessionId, TurnId,
    content::Data,
    event::{HistoryChange, HistoryChangeKind, VisibilityChange, recovered_status},
    item::{ItemBody, ItemState, Origin},
    session::{SessionOrigin, TitleSource},
};

use super::{
    Engine, Recorded, RequestContext,
    idempotency::{Keyed, Receipt},
    sessions::busy,
};
use crate::{services::store_error, source::Mint};

/// Snapshots kept for the next pages.
const MAX_SNAPSHOTS: usize = 64;
const SNAPSHOT_LIFE: Duration = Duration::from_secs(120);

/// Which items to read.
#[derive(Debug, Clone, Default)]
pub struct ItemsQuery {
    /// Also those that neither user nor model sees.
    pub include_hidden: bool,
    pub turn_id: Option<TurnId>,
    /// Empty = all.
    pub item_ids: Vec<ItemId>,
    /// Continue a snapshot: its number and the offset of the next item.
    pub from: Option<(u64, usize)>,
    pub max_items: usize,
    pub max_bytes: usize,
}

/// A page of a snapshot. `snapshot(S)` plus the events after S is the state, for all pages of one snapshot.
#[derive(Debug, Clone)]
pub struct ItemsPage {
    pub items: Vec<Arc<Item>>,
    pub through_sequence: Sequence,
    pub next: Option<(u64, usize)>,
}

/// A fork: a copy of the session up to an item.
#[derive(Debug, Clone, Default)]
pub struct ForkRequest {
    /// Exclusive; `None` = everything.
    pub before_item_id: Option<ItemId>,
    pub new_session_id: Option<SessionId>,
    pub title: Option<String>,
    pub working_directory: Option<String>,
}

struct Kept {
    number: u64,
    session_id: SessionId,
    items: Arc<Vec<Arc<Item>>>,
    through: Sequence,
    at: Instant,
}

/// Snapshots whose further pages may be asked for.
#[derive(Default)]
pub(super) struct Snapshots(Mutex<VecDeque<Kept>>);

impl Snapshots {
    fn find(&self, number: u64, session_id: &SessionId) -> Option<(Arc<Vec<Arc<Item>>>, Sequence)> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|k| k.at.elapsed() < SNAPSHOT_LIFE);
        let found = kept.iter_mut().find(|k| k.number == number && k.session_id == *session_id)?;
        found.at = Instant::now();
        Some((found.items.clone(), found.through))
    }

    fn keep(&self, kept: Kept) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|k| k.at.elapsed() < SNAPSHOT_LIFE);
        while all.len() >= MAX_SNAPSHOTS {
            all.pop_front();
        }
        all.push_back(kept);
    }

    pub(super) fn forget(&self, session_id: &SessionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|k| k.session_id != *session_id);
    }
}

impl Engine {
    /// A snapshot of the items, partial ones included.
    pub async fn list_items(
        &self,
        session_id: &SessionId,
        query: ItemsQuery,
    ) -> Result<ItemsPage, ErrorDetail> {
        let (number, offset, items, through) = match query.from {
            Some((number, offset)) => {
                let found = self.snapshots.find(number, session_id).ok_or_else(|| {
                    ErrorDetail::new(
                        ErrorReason::PageTokenInvalid,
                        "the snapshot behind page_token has expired; read again from the first page",
                    )
                })?;
                (number, offset, found.0, found.1)
            }
            None => {
                let (items, through) = self.snapshot(session_id, &query).await?;
                (self.services.next_number(), 0, Arc::new(items), through)
            }
        };
        let mut bytes = 0;
        let mut end = offset.min(items.len());
        while end < items.len() && end - offset < query.max_items.max(1) {
            bytes += item_bytes(&items[end]);
            if bytes > query.max_bytes && end > offset {
                break;
            }
            end += 1;
        }
        let page = items.get(offset..end).unwrap_or_default().to_vec();
        let next = (end < items.len()).then_some((number, end));
        if next.is_some() && query.from.is_none() {
            self.snapshots.keep(Kept {
                number,
                session_id: session_id.clone(),
                items,
                through,
                at: Instant::now(),
            });
        }
        Ok(ItemsPage { items: page, through_sequence: through, next })
    }

    async fn snapshot(
        &self,
        session_id: &SessionId,
        query: &ItemsQuery,
    ) -> Result<(Vec<Arc<Item>>, Sequence), ErrorDetail> {
        let read = self
            .edit(session_id, |core| Ok(core.state.items.iter().map(|e| e.item.clone()).collect::<Vec<_>>()))
            .await?;
        let mut items = read.value;
        items.retain(|item| {
            (query.include_hidden || item.visibility.user || item.visibility.model)
                && query.turn_id.as_ref().is_none_or(|t| item.turn_id.as_ref() == Some(t))
                && (query.item_ids.is_empty() || query.item_ids.contains(&item.item_id))
        });
        Ok((items, read.sequence))
    }

    /// Copies a session up to an item. What runs in the source is copied as if it had been interrupted.
    pub async fn fork_session(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        request: ForkRequest,
    ) -> Result<Recorded<Session>, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => return self.replayed_session(&receipt).await,
            Keyed::Fresh(recorder) => recorder,
        };
        self.refuse_when_draining()?;
        let before = request.before_item_id.clone();
        let source = self
            .edit(session_id, move |core| {
                let end = match &before {
                    None => core.state.items.len(),
                    Some(id) => position(core.state.items.iter().map(|e| &e.item.item_id), id)?,
                };
                let copied: Vec<_> = core.state.items[..end].iter().filter(|e| !e.rewound).collect();
                let beyond = core.state.items.get(end).map_or(Sequence::MAX, |e| e.first_sequence);
                let again: HashSet<_> =
                    core.state.unsummarized(beyond).into_iter().map(|e| e.item.item_id.clone()).collect();
                let mut items: Vec<_> = copied.iter().map(|e| placed(&e.item, &copied)).collect();
                for item in items.iter_mut().filter(|i| again.contains(&i.item_id)) {
                    // The summary that stands for it is not copied.
                    Arc::make_mut(item).visibility.model = true;
                }
                Ok((core.state.session.clone(), items))
            })
            .await?;
        let (mut session, items) = source.value;
        let through_sequence = source.sequence;
        let now = self.services.source.now();
        session.session_id = request.new_session_id.unwrap_or_else(|| self.services.source.session_id());
        if let Some(title) = request.title.filter(|t| !t.is_empty()) {
            session.title = title;
            session.title_source = TitleSource::User;
        }
        if let Some(directory) = &request.working_directory {
            session.working_directory = self.directory("working_directory", directory)?;
        }
        session.active_turn_id = None;
        session.state = gander_domain::session::SessionState::Idle;
        session.pending_interaction_count = 0;
        session.message_count = 0;
        session.archive_time = None;
        session.usage = gander_domain::usage::SessionUsage::default();
        (session.create_time, session.update_time) = (now, now);
        let new_id = session.session_id.clone();
        let receipt = Receipt { sequence: 1, id: new_id.to_string() };
        let record = recorder.record(Some(&new_id), &receipt, now);
        let origin = SessionOrigin::Forked { session_id: session_id.clone(), through_sequence };
        let session = self.create_with_items(context, session, origin, items, record, Vec::new()).await?;
        let contents = session.1;
        if !contents.is_empty() {
            let copied = self.services.store.copy_contents(session_id, &new_id, contents);
            copied.await.map_err(|e| store_error(&e))?;
        }
        for name in ["extensions", "client_environment"] {
            let body =
                self.services.store.get_document(session_id, name).await.map_err(|e| store_error(&e))?;
            if body.is_some() {
                let put = self.services.store.put_document(&new_id, name, body);
                put.await.map_err(|e| store_error(&e))?;
            }
        }
        Ok(Recorded { value: session.0, sequence: 1 })
    }

    /// Creates a session that begins with items; gives the contents that they refer to.
    pub(super) async fn create_with_items(
        &self,
        context: &RequestContext,
        session: Session,
        origin: SessionOrigin,
        items: Vec<Arc<Item>>,
        record: Option<gander_store::IdempotencyRecord>,
        contents: Vec<gander_store::NewContent>,
    ) -> Result<(Session, Vec<ContentId>), ErrorDetail> {
        // An imported session's items happened when it was last changed, and not now.
        let now = session.update_time;
        let (mut state, mut commit) = self.first_commit(context, session, origin, record)?;
        let mut references = Vec::new();
        for item in items {
            let item = copied_item(&item, now);
            references.extend(content_ids(&item));
            let sequence = state.last_sequence() + 1;
            let payload = Payload::ItemCompleted { item: Box::new(item) };
            let event = Event { sequence, turn_id: None, time: now, actor: None, payload };
            state.apply(&event);
            commit.events.push(event.into());
        }
        commit.contents = contents;
        commit.summary = Some(state.session.clone().into());
        let session = state.session.clone();
        let slot = self.slot(&session.session_id);
        // Held until the actor is there: nobody may load a second one in between.
        let mut actor = slot.write().await;
        let epoch = self.services.store.create_session(commit).await.map_err(|e| store_error(&e))?;
        *actor = Some(self.adopt(state, epoch));
        drop(actor);
        Ok((session, references))
    }

    /// Hides an item and everything behind it. The log keeps them; a rewound item cannot be rewound to again.
    pub async fn rewind_session(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        before_item_id: ItemId,
    ) -> Result<Recorded<Session>, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => return self.replayed_session(&receipt).await,
            Keyed::Fresh(recorder) => recorder,
        };
        let (by, id) = (context.actor.clone(), session_id.clone());
        let done = self
            .edit(session_id, move |core| {
                if core.state.session.active_turn_id.is_some() {
                    return Err(busy("history cannot be rewound"));
                }
                let entry = core.state.entry(&before_item_id).filter(|e| !e.rewound);
                let from = entry.map(|e| e.first_sequence).ok_or_else(|| item_not_found(&before_item_id))?;
                // What a summary stood for is told to the model again when the summary goes.
                let shown = |e: &gander_domain::fold::ItemEntry| VisibilityChange {
                    item_id: e.item.item_id.clone(),
                    user: e.item.visibility.user,
                    model: true,
                };
                let visibility_changes = core.state.unsummarized(from).into_iter().map(shown).collect();
                core.act_as(by);
                core.emit(
                    None,
                    Payload::HistoryChanged(HistoryChange {
                        kind: HistoryChangeKind::Rewound,
                        visibility_changes,
                        hidden_from_sequence: Some(from),
                        summary_item_id: None,
                    }),
                );
                let receipt = Receipt { sequence: core.state.last_sequence(), id: id.to_string() };
                let now = core.now();
                core.record(recorder.record(Some(&id), &receipt, now));
                Ok(core.state.session.clone())
            })
            .await?;
        Ok(Recorded { value: done.value, sequence: done.sequence })
    }

    /// Hides the whole history and appends the given items in its place.
    pub async fn replace_history(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        items: Vec<Item>,
    ) -> Result<Recorded<Session>, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => return self.replayed_session(&receipt).await,
            Keyed::Fresh(recorder) => recorder,
        };
        let (by, id) = (context.actor.clone(), session_id.clone());
        let done = self
            .edit(session_id, move |core| {
                if core.state.session.active_turn_id.is_some() {
                    return Err(busy("history cannot be replaced"));
                }
                core.act_as(by);
                core.emit(
                    None,
                    Payload::HistoryChanged(HistoryChange {
                        kind: HistoryChangeKind::Replaced,
                        visibility_changes: Vec::new(),
                        hidden_from_sequence: Some(1),
                        summary_item_id: None,
                    }),
                );
                let now = core.now();
                for item in items {
                    let mut item = copied_item(&item, now);
                    item.origin = Origin::Client;
                    item = where_it_stands(item);
                    // Ids of this session's own items cannot be used twice.
                    if core.state.item(&item.item_id).is_some() {
                        item.item_id = core.services.source.item_id();
                    }
                    core.emit(None, Payload::ItemCompleted { item: Box::new(item) });
                }
                let receipt = Receipt { sequence: core.state.last_sequence(), id: id.to_string() };
                core.record(recorder.record(Some(&id), &receipt, now));
                Ok(core.state.session.clone())
            })
            .await?;
        Ok(Recorded { value: done.value, sequence: done.sequence })
    }

    /// Size in bytes and MIME type of content.
    pub async fn content_info(
        &self,
        session_id: &SessionId,
        content_id: &ContentId,
    ) -> Result<(u64, String), ErrorDetail> {
        self.services.store.content_info(session_id, content_id).await.map_err(|e| store_error(&e))
    }

    /// A piece of content.
    pub async fn read_content(
        &self,
        session_id: &SessionId,
        content_id: &ContentId,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, ErrorDetail> {
        let read = self.services.store.read_content(session_id, content_id, offset, length);
        read.await.map_err(|e| store_error(&e))
    }
}

fn position<'a>(mut ids: impl Iterator<Item = &'a ItemId>, id: &ItemId) -> Result<usize, ErrorDetail> {
    ids.position(|known| known == id).ok_or_else(|| item_not_found(id))
}

pub(super) fn item_not_found(item_id: &ItemId) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::ItemNotFound,
        format!(
            "item {item_id} does not exist in this session, or was rewound; ListItems shows those that do"
        ),
    )
    .with("itemId", item_id)
}

fn item_bytes(item: &Item) -> usize {
    let parts =
        |parts: &[gander_domain::Part]| parts.iter().map(gander_domain::Part::size_bytes).sum::<usize>();
    256 + match &item.body {
        ItemBody::UserMessage(m) => parts(&m.parts),
        ItemBody::AgentMessage(m) => parts(&m.parts),
        ItemBody::Thought(t) => t.text.len() + t.redacted_data.as_ref().map_or(0, String::len),
        ItemBody::Compaction(c) => parts(&c.summary_parts),
        ItemBody::Notice(n) => n.text.len() + n.data_json.as_ref().map_or(0, String::len),
        ItemBody::ToolCall(call) => {
            let result = call
                .result
                .as_ref()
                .map_or(0, |r| parts(&r.parts) + r.structured_content_json.as_ref().map_or(0, String::len));
            call.arguments_json.len() + parts(&call.content) + result
        }
    }
}

/// A summary that a client brings stands where the client put it: sequences of another log mean nothing here.
pub(super) fn where_it_stands(mut item: Item) -> Item {
    if let ItemBody::Compaction(compaction) = &mut item.body {
        compaction.replaced_through_sequence = 0;
    }
    item
}

/// A summary stands where what it replaces stands, which has other sequences in a copy: item `i` gets `i + 2`.
pub(super) fn placed(item: &Arc<Item>, copied: &[&gander_domain::fold::ItemEntry]) -> Arc<Item> {
    let ItemBody::Compaction(compaction) = &item.body else { return item.clone() };
    let through = compaction.replaced_through_sequence;
    let before = copied.iter().filter(|e| e.first_sequence <= through).count();
    let mut item = Item::clone(item);
    if let ItemBody::Compaction(compaction) = &mut item.body {
        // Nothing that it replaces was copied: it stands at the beginning of what was.
        compaction.replaced_through_sequence = Sequence::try_from(before + 1).unwrap_or(1);
    }
    Arc::new(item)
}

/// An item as a copy carries it: what was running is copied as interrupted.
fn copied_item(item: &Item, now: gander_domain::Timestamp) -> Item {
    let mut copy = item.clone();
    copy.turn_id = None;
    if copy.state == ItemState::InProgress {
        copy.state = ItemState::Completed;
        copy.incomplete = true;
        copy.complete_time = Some(now);
    }
    if let Some(call) = copy.tool_call_mut() {
        call.status = recovered_status(call.status);
    }
    copy
}

/// Contents that an item refers to.
pub(super) fn content_ids(item: &Item) -> Vec<ContentId> {
    let mut ids = Vec::new();
    let mut parts = |parts: &[gander_domain::Part]| {
        for part in parts {
            match &part.body {
                PartBody::TextContent { content_id, .. } => ids.push(content_id.clone()),
                PartBody::Image { data: Data::Content(id), .. }
                | PartBody::Audio { data: Data::Content(id), .. }
                | PartBody::Resource { data: Some(Data::Content(id)), .. } => ids.push(id.clone()),
                _ => {}
            }
        }
    };
    match &item.body {
        ItemBody::UserMessage(m) => parts(&m.parts),
        ItemBody::AgentMessage(m) => parts(&m.parts),
        ItemBody::Compaction(c) => parts(&c.summary_parts),
        ItemBody::ToolCall(call) => {
            parts(&call.content);
            if let Some(result) = &call.result {
                parts(&result.parts);
            }
            let truncated = call.result.as_ref().and_then(|r| r.truncated.as_ref());
            ids.extend(truncated.and_then(|t| t.content_id.clone()));
            ids.extend(call.arguments_content_id.clone());
        }
        ItemBody::Thought(_) | ItemBody::Notice(_) => {}
    }
    ids
}
