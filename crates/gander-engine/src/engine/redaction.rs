//! Redaction: what one item says is erased everywhere, while its place in the log stays.
//!
//! Summaries that were written from the item are the model's own text and stay; who redacts is told which they are.

use std::sync::Arc;

use gander_domain::{
    ErrorDetail, Event, Item, ItemId, Payload, Sequence, SessionId,
    event::{RedactAction, redact_payload},
    item::{ItemBody, ItemState, Notice, NoticeLevel, Origin, Visibility},
};
use gander_store::Commit;

use super::{
    Engine, RequestContext,
    history::{content_ids, item_not_found},
    sessions::busy,
};
use crate::{services::store_error, session::title_from, source::Mint};

impl Engine {
    /// Erases what one item says from log, content, search and memory; its place in the log stays.
    pub async fn redact_item(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        item_id: &ItemId,
    ) -> Result<Sequence, ErrorDetail> {
        // The session is out of the way while its stored events are rewritten.
        self.session(session_id).await?;
        if !self.unload(session_id, false).await {
            let id = item_id.clone();
            self.edit(session_id, move |core| {
                core.state.item(&id).map(|_| ()).ok_or_else(|| item_not_found(&id))?;
                Err::<(), _>(busy("an item cannot be redacted"))
            })
            .await?;
        }
        let slot = self.slot(session_id);
        let guard = slot.write().await;
        if guard.as_ref().is_some_and(crate::session::SessionHandle::is_open) {
            return Err(busy("an item cannot be redacted"));
        }
        let store = &self.services.store;
        let epoch = store.open_session(session_id).await.map_err(|e| store_error(&e))?;
        let mut state = self.fold(session_id).await?;
        let item = state.item(item_id).cloned().ok_or_else(|| item_not_found(item_id))?;
        if item.redacted {
            return Ok(state.last_sequence());
        }
        if item.state == ItemState::InProgress {
            return Err(busy("an item cannot be redacted"));
        }
        // The first message lends its beginning to the provisional title.
        let title = title_from(&item.text()).filter(|_| matches!(item.body, ItemBody::UserMessage(_)));
        let replacements = self.replacements(session_id, item_id, title.as_deref()).await?;
        if title.as_ref() == Some(&state.session.title) {
            state.session.title.clear();
        }
        let contents = content_ids(&item);
        let sequence = state.last_sequence() + 1;
        let redacted = Payload::ItemRedacted { item_id: item_id.clone() };
        let warnings = summaries_of(&state, item_id);
        let warnings = warnings.into_iter().map(|summary| self.may_quote(item_id, &summary));
        let mut events = Vec::new();
        for payload in std::iter::once(redacted).chain(warnings) {
            let event = Event {
                sequence: state.last_sequence() + 1,
                turn_id: None,
                time: self.services.source.now(),
                actor: Some(context.actor.clone()),
                payload,
            };
            state.apply(&event);
            events.push(Arc::new(event));
        }
        let through = state.last_sequence();
        let commit = Commit {
            session_id: session_id.clone(),
            epoch,
            events,
            summary: Some(state.session.clone().into()),
            contents: Vec::new(),
            idempotency: Vec::new(),
        };
        let redacted = store.redact(commit, item_id.to_string(), replacements, contents);
        redacted.await.map_err(|e| store_error(&e))?;
        self.snapshots.forget(session_id);
        let feed = self.feed(session_id).await?;
        feed.clear_ring();
        feed.advance(through);
        drop(guard);
        Ok(sequence)
    }

    /// A summary is the model's own text: what of it comes from a redacted item nobody can tell.
    fn may_quote(&self, item_id: &ItemId, summary: &ItemId) -> Payload {
        let source = &self.services.source;
        let now = source.now();
        let notice = Notice {
            level: NoticeLevel::Warning,
            code: "summary_may_quote".to_owned(),
            text: "an item was redacted from which a summary had been written; the summary may quote it and is what \
                   the model still sees: redact it as well where that matters"
                .to_owned(),
            data_json: Some(
                serde_json::json!({ "item_id": summary, "redacted_item_id": item_id }).to_string(),
            ),
        };
        Payload::ItemCompleted {
            item: Box::new(Item {
                item_id: source.item_id(),
                turn_id: None,
                message_id: source.message_id(),
                body: ItemBody::Notice(notice),
                state: ItemState::Completed,
                incomplete: false,
                visibility: Visibility { user: true, model: false },
                origin: Origin::Engine,
                create_time: now,
                client_create_time: None,
                complete_time: Some(now),
                redacted: false,
                model_id: None,
                provider_state_json: None,
            }),
        }
    }

    async fn replacements(
        &self,
        session_id: &SessionId,
        item_id: &ItemId,
        title: Option<&str>,
    ) -> Result<Vec<(Sequence, Option<Payload>)>, ErrorDetail> {
        let mut out = Vec::new();
        let mut after = 0;
        loop {
            let page = self
                .services
                .store
                .read_events(session_id, after, 4096, 8 << 20)
                .await
                .map_err(|e| store_error(&e))?;
            for event in &page.events {
                match redact_payload(&event.payload, item_id) {
                    RedactAction::Keep => {
                        let without = title.and_then(|title| without_title(&event.payload, title));
                        out.extend(without.map(|payload| (event.sequence, Some(payload))));
                    }
                    RedactAction::Replace(payload) => out.push((event.sequence, Some(*payload))),
                    RedactAction::Drop => out.push((event.sequence, None)),
                }
                after = event.sequence;
            }
            if page.events.is_empty() || after >= page.last_sequence {
                return Ok(out);
            }
        }
    }
}

/// Summaries, still readable, that were written when the item was there: from it, or from a summary of it.
fn summaries_of(state: &gander_domain::SessionState, item_id: &ItemId) -> Vec<ItemId> {
    let Some(own) = state.items.iter().find(|e| e.item.item_id == *item_id) else { return Vec::new() };
    let from_it = |entry: &&gander_domain::fold::ItemEntry| match &entry.item.body {
        ItemBody::Compaction(c) => {
            entry.first_sequence > own.first_sequence && c.replaced_through_sequence >= own.first_sequence
        }
        _ => false,
    };
    let readable = state.items.iter().filter(from_it).filter(|e| !e.item.redacted);
    readable.map(|e| e.item.item_id.clone()).collect()
}

/// The event without a title that a redacted message had lent.
fn without_title(payload: &Payload, title: &str) -> Option<Payload> {
    let mut payload = payload.clone();
    match &mut payload {
        Payload::SessionCreated { session, .. } | Payload::SessionUpdated { session, .. }
            if session.title == title =>
        {
            session.title.clear();
            Some(payload)
        }
        _ => None,
    }
}
