//! SessionService.

use gander_domain::{ErrorDetail, ErrorReason, Session, SessionId};
use gander_engine::types::{ListOrder, SearchMessage, SearchQuery};
use gander_proto::v1::{self as pb, session_service_server::SessionService};
use tonic::{Request, Response, Status};

use super::{
    content, filters, history,
    session_requests::{list_query, load_request, new_session, patch},
};
use crate::{
    Api,
    context::incoming,
    convert::{At, Violations, extension, item::item_to_pb, session},
    error::IntoStatus as _,
    paging::{fill, page_size},
    watch::{Answers, Watch},
};

type Answer<T> = Result<Response<T>, Status>;

/// Times that a compare-and-set is tried again because something unrelated was appended in between.
const ETAG_ATTEMPTS: usize = 16;

/// The session that a request names in its field `session_id`.
pub(super) fn session_id(text: &str) -> Result<SessionId, ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), text, |t| SessionId::new(t));
    v.finish(id)
}

#[tonic::async_trait]
impl SessionService for Api {
    async fn create_session(
        &self,
        request: Request<pb::CreateSessionRequest>,
    ) -> Answer<pb::CreateSessionResponse> {
        let (context, request) = incoming(request)?;
        let new = new_session(request).or_status()?;
        let done = self.run(|engine| async move { engine.create_session(&context, new).await }).await?;
        let session = Some(self.session(&done.value).await);
        Ok(Response::new(pb::CreateSessionResponse { session, sequence: done.sequence }))
    }

    async fn get_session(&self, request: Request<pb::GetSessionRequest>) -> Answer<pb::GetSessionResponse> {
        let id = session_id(&request.into_inner().session_id).or_status()?;
        let found = self.engine.get_session(&id).await.or_status()?;
        Ok(Response::new(pb::GetSessionResponse { session: Some(self.session(&found).await) }))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Answer<pb::ListSessionsResponse> {
        list_sessions(self, request.into_inner()).await.or_status().map(Response::new)
    }

    async fn update_session(
        &self,
        request: Request<pb::UpdateSessionRequest>,
    ) -> Answer<pb::UpdateSessionResponse> {
        let (context, request) = incoming(request)?;
        let done = self
            .run(|engine| async move {
                let wanted = request.session.unwrap_or_default();
                let mask = request.update_mask.unwrap_or_default().paths;
                let id = session_id(&wanted.session_id).map_err(below_session)?;
                let etag = wanted.etag.clone();
                let present = engine.get_session(&id).await?;
                let mut patch = patch(wanted, &mask, &present)?;
                if etag.is_empty() {
                    return engine.update_session(&context, &id, patch).await;
                }
                let mut present = present;
                for _ in 0..ETAG_ATTEMPTS {
                    // A sequence that no session has: the engine answers a repeated key or refuses.
                    let matches = session::etag(&present) == etag;
                    patch.if_sequence = Some(if matches { present.last_sequence } else { -1 });
                    match engine.update_session(&context, &id, patch.clone()).await {
                        Err(e) if matches && e.reason == ErrorReason::EtagMismatch => {}
                        other => return other,
                    }
                    present = engine.get_session(&id).await?;
                }
                Err(etag_mismatch(&present))
            })
            .await?;
        let session = Some(self.session(&done.value).await);
        Ok(Response::new(pb::UpdateSessionResponse { session, sequence: done.sequence }))
    }

    async fn delete_session(
        &self,
        request: Request<pb::DeleteSessionRequest>,
    ) -> Answer<pb::DeleteSessionResponse> {
        let (context, request) = incoming(request)?;
        let id = session_id(&request.session_id).or_status()?;
        self.run(|engine| async move {
            if !request.etag.is_empty() {
                match engine.get_session(&id).await {
                    Ok(present) if session::etag(&present) != request.etag => {
                        return Err(etag_mismatch(&present));
                    }
                    // The deletion itself tells what is wrong.
                    _ => {}
                }
            }
            engine.delete_session(&context, &id, request.allow_missing).await
        })
        .await?;
        Ok(Response::new(pb::DeleteSessionResponse {}))
    }

    async fn load_session(
        &self,
        request: Request<pb::LoadSessionRequest>,
    ) -> Answer<pb::LoadSessionResponse> {
        let (context, request) = incoming(request)?;
        let (id, load) = load_request(request).or_status()?;
        let loaded = self.run(|engine| async move { engine.load_session(&context, &id, load).await }).await?;
        Ok(Response::new(pb::LoadSessionResponse {
            session: Some(self.session(&loaded.session).await),
            sequence: loaded.through_sequence,
            extensions: loaded.extensions.iter().map(extension::status_to_pb).collect(),
            through_sequence: loaded.through_sequence,
        }))
    }

    async fn unload_session(
        &self,
        request: Request<pb::UnloadSessionRequest>,
    ) -> Answer<pb::UnloadSessionResponse> {
        let id = session_id(&request.into_inner().session_id).or_status()?;
        let unloaded = self.run(|engine| async move { engine.unload_session(&id).await }).await?;
        Ok(Response::new(pb::UnloadSessionResponse { unloaded }))
    }

    async fn fork_session(
        &self,
        request: Request<pb::ForkSessionRequest>,
    ) -> Answer<pb::ForkSessionResponse> {
        let (context, request) = incoming(request)?;
        let (id, fork) = history::fork_request(request).or_status()?;
        let done = self.run(|engine| async move { engine.fork_session(&context, &id, fork).await }).await?;
        let session = Some(self.session(&done.value).await);
        Ok(Response::new(pb::ForkSessionResponse { session, sequence: done.sequence }))
    }

    async fn rewind_session(
        &self,
        request: Request<pb::RewindSessionRequest>,
    ) -> Answer<pb::RewindSessionResponse> {
        let (context, request) = incoming(request)?;
        let (id, item) =
            history::session_and_item(&request.session_id, "before_item_id", &request.before_item_id)
                .or_status()?;
        let done = self.run(|engine| async move { engine.rewind_session(&context, &id, item).await }).await?;
        let session = Some(self.session(&done.value).await);
        Ok(Response::new(pb::RewindSessionResponse { session, sequence: done.sequence }))
    }

    async fn replace_history(
        &self,
        request: Request<pb::ReplaceHistoryRequest>,
    ) -> Answer<pb::ReplaceHistoryResponse> {
        let (context, request) = incoming(request)?;
        let (id, items) = history::new_history(request).or_status()?;
        let done =
            self.run(|engine| async move { engine.replace_history(&context, &id, items).await }).await?;
        let session = Some(self.session(&done.value).await);
        Ok(Response::new(pb::ReplaceHistoryResponse { session, sequence: done.sequence }))
    }

    async fn compact_session(
        &self,
        request: Request<pb::CompactSessionRequest>,
    ) -> Answer<pb::CompactSessionResponse> {
        let (context, request) = incoming(request)?;
        let id = session_id(&request.session_id).or_status()?;
        let done = self
            .run(|engine| async move { engine.compact_session(&context, &id, request.instructions).await })
            .await?;
        let item = done.value.as_ref().map(item_to_pb);
        Ok(Response::new(pb::CompactSessionResponse { item, sequence: done.sequence }))
    }

    async fn search_sessions(
        &self,
        request: Request<pb::SearchSessionsRequest>,
    ) -> Answer<pb::SearchSessionsResponse> {
        search_sessions(self, request.into_inner()).await.or_status().map(Response::new)
    }

    async fn get_session_stats(
        &self,
        _request: Request<pb::GetSessionStatsRequest>,
    ) -> Answer<pb::GetSessionStatsResponse> {
        let stats = self.engine.session_stats().await.or_status()?;
        Ok(Response::new(pb::GetSessionStatsResponse {
            session_count: crate::convert::int64(stats.session_count),
            total_tokens: crate::convert::int64(stats.total_tokens),
        }))
    }

    type ExportSessionStream = Answers<pb::ExportSessionResponse>;

    async fn export_session(
        &self,
        request: Request<pb::ExportSessionRequest>,
    ) -> Answer<Self::ExportSessionStream> {
        let request = request.into_inner();
        let id = session_id(&request.session_id).or_status()?;
        let bytes = self.engine.export_session(&id, request.exclude_content).await.or_status()?;
        Ok(Response::new(content::chunks(bytes.into(), |data| pb::ExportSessionResponse { data })))
    }

    async fn import_session(
        &self,
        request: Request<pb::ImportSessionRequest>,
    ) -> Answer<pb::ImportSessionResponse> {
        let (context, request) = incoming(request)?;
        let import = history::import_request(request).or_status()?;
        let done = self.run(|engine| async move { engine.import_session(&context, import).await }).await?;
        let session = Some(self.session(&done.value).await);
        Ok(Response::new(pb::ImportSessionResponse { session, sequence: done.sequence }))
    }

    async fn list_items(&self, request: Request<pb::ListItemsRequest>) -> Answer<pb::ListItemsResponse> {
        history::list_items(self, request.into_inner()).await.or_status().map(Response::new)
    }

    async fn redact_item(&self, request: Request<pb::RedactItemRequest>) -> Answer<pb::RedactItemResponse> {
        let (context, request) = incoming(request)?;
        let (id, item) =
            history::session_and_item(&request.session_id, "item_id", &request.item_id).or_status()?;
        let sequence =
            self.run(|engine| async move { engine.redact_item(&context, &id, &item).await }).await?;
        Ok(Response::new(pb::RedactItemResponse { sequence }))
    }

    async fn list_events(&self, request: Request<pb::ListEventsRequest>) -> Answer<pb::ListEventsResponse> {
        history::list_events(self, request.into_inner()).await.or_status().map(Response::new)
    }

    type WatchSessionStream = Answers<pb::WatchSessionResponse>;

    async fn watch_session(
        &self,
        request: Request<pb::WatchSessionRequest>,
    ) -> Answer<Self::WatchSessionStream> {
        let watch = watch(self, request.into_inner()).await.or_status()?;
        Ok(Response::new(watch.stream(|event| pb::WatchSessionResponse { event: Some(event) })))
    }

    async fn set_session_option(
        &self,
        request: Request<pb::SetSessionOptionRequest>,
    ) -> Answer<pb::SetSessionOptionResponse> {
        let (context, request) = incoming(request)?;
        let mut v = Violations::default();
        let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
        let option = v.name(&At::root("option_id"), request.option_id);
        let value = session::option_value_from_pb(request.value, &At::root("value"), &mut v);
        let (id, value) = v.finish(id.zip(value)).or_status()?;
        let done = self
            .run(|engine| async move { engine.set_session_option(&context, &id, &option, &value).await })
            .await?;
        Ok(Response::new(pb::SetSessionOptionResponse {
            options: done.value.iter().map(session::option_to_pb).collect(),
            sequence: done.sequence,
        }))
    }

    async fn list_commands(
        &self,
        request: Request<pb::ListCommandsRequest>,
    ) -> Answer<pb::ListCommandsResponse> {
        let mut v = Violations::default();
        let id = v.optional_id(&At::root("session_id"), &request.get_ref().session_id, |t| SessionId::new(t));
        let id = v.finish(Some(id)).or_status()?;
        let commands = self.engine.list_commands(id.as_ref()).await.or_status()?;
        let commands = commands.iter().map(session::command_to_pb).collect();
        Ok(Response::new(pb::ListCommandsResponse { commands }))
    }

    type ReadContentStream = Answers<pb::ReadContentResponse>;

    async fn read_content(
        &self,
        request: Request<pb::ReadContentRequest>,
    ) -> Answer<Self::ReadContentStream> {
        content::read_content(self, request.into_inner()).await.or_status().map(Response::new)
    }
}

fn below_session(mut error: ErrorDetail) -> ErrorDetail {
    for violation in &mut error.violations {
        violation.field = format!("session.{}", violation.field);
    }
    error.message = format!("session.{}", error.message);
    error
}

fn etag_mismatch(present: &Session) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::EtagMismatch,
        "session.etag does not match: its settings were changed meanwhile; read it again and retry",
    )
    .with("sessionId", &present.session_id)
    .with("etag", session::etag(present))
}

async fn list_sessions(
    api: &Api,
    mut request: pb::ListSessionsRequest,
) -> Result<pb::ListSessionsResponse, ErrorDetail> {
    let size = page_size(request.page_size, 50, 200)?;
    let token = std::mem::take(&mut request.page_token);
    request.page_size = 0;
    let filters = filters("ListSessions", &request);
    let mut query = list_query(&request)?;
    query.after = match filters.position(&token)? {
        None => None,
        Some(position) => Some(parse_position(&position)?),
    };
    // One more than asked for tells whether there is another page; labels are no part of the store's query.
    query.limit = size + 1;
    let mut found: Vec<Session> = Vec::with_capacity(size + 1);
    loop {
        let batch = api.engine.list_sessions(query.clone()).await?;
        let complete = batch.len() < query.limit;
        query.after = batch.last().map(|last| key(last, query.order));
        found.extend(batch.into_iter().filter(|s| has_labels(s, &request)));
        if complete || found.len() > size {
            break;
        }
    }
    let sessions = fill(found.iter().take(size).map(|s| api.session_row(s)));
    let last = sessions.len().checked_sub(1).filter(|_| sessions.len() < found.len());
    let next = last.and_then(|last| found.get(last)).map(|last| {
        let (time, id) = key(last, query.order);
        filters.token(&format!("{} {id}", time.0))
    });
    Ok(pb::ListSessionsResponse { sessions, next_page_token: next.unwrap_or_default() })
}

fn has_labels(session: &Session, request: &pb::ListSessionsRequest) -> bool {
    request.labels.iter().all(|(k, v)| session.labels.get(k) == Some(v))
}

fn key(session: &Session, order: ListOrder) -> (gander_domain::Timestamp, SessionId) {
    let time = match order {
        ListOrder::UpdateTimeDesc => session.update_time,
        ListOrder::CreateTimeDesc | ListOrder::CreateTimeAsc => session.create_time,
    };
    (time, session.session_id.clone())
}

fn parse_position(position: &str) -> Result<(gander_domain::Timestamp, SessionId), ErrorDetail> {
    let parsed = position.split_once(' ').and_then(|(time, id)| {
        Some((gander_domain::Timestamp(time.parse().ok()?), SessionId::new(id).ok()?))
    });
    parsed.ok_or_else(|| ErrorDetail::internal("a page token that was sealed here has no position in it"))
}

async fn search_sessions(
    api: &Api,
    request: pb::SearchSessionsRequest,
) -> Result<pb::SearchSessionsResponse, ErrorDetail> {
    let mut v = Violations::default();
    let limit = match request.limit_messages {
        0 => 10,
        n @ 1..=50 => usize::try_from(n).unwrap_or(50),
        n => {
            v.add(&At::root("limit_messages"), format!("must be between 1 and 50, is {n}"));
            0
        }
    };
    let words: Vec<String> = request.query.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() {
        v.add(&At::root("query"), "must have at least one word");
    }
    let only = v.optional_id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let query = SearchQuery {
        words,
        after: v.time(&At::root("after_time"), request.after_time),
        before: v.time(&At::root("before_time"), request.before_time),
        session_id: only,
        limit_messages: limit,
    };
    let query = v.finish(Some(query))?;
    let hits = api.engine.search_sessions(query).await?;
    let total = hits.iter().map(|h| h.messages.len()).sum::<usize>();
    let matches = hits
        .iter()
        .map(|hit| pb::SessionMatch {
            session: Some(api.session_row(&hit.session)),
            messages: hit.messages.iter().map(message_match).collect(),
        })
        .collect();
    Ok(pb::SearchSessionsResponse { matches, total_message_count: crate::convert::int32(total) })
}

fn message_match(message: &SearchMessage) -> pb::MessageMatch {
    pb::MessageMatch {
        item_id: message.item_id.clone(),
        message_id: String::new(),
        role: message.role.clone(),
        snippet: message.text.clone(),
        create_time: Some(crate::convert::time_to_pb(message.time)),
    }
}

async fn watch(api: &Api, request: pb::WatchSessionRequest) -> Result<Watch, ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let turn = &request.until_turn_ends;
    let until = v.optional_id(&At::root("until_turn_ends"), turn, |t| gander_domain::TurnId::new(t));
    if request.after_sequence.is_some_and(|s| s < 0) {
        v.add(&At::root("after_sequence"), "must not be negative");
    }
    let session_id = v.finish(id)?;
    let permit = api.open_stream()?;
    let cursor = api.engine.watch(&session_id, request.after_sequence).await?;
    // Opened first: a turn that ends from now on is seen by the cursor.
    let mut through = None;
    if let Some(turn_id) = &until {
        match api.engine.get_turn(&session_id, turn_id).await {
            Ok((turn, ..)) if turn.state.is_terminal() && turn.last_sequence <= cursor.position() => {
                through = Some(turn.last_sequence);
            }
            // A turn that is not there yet may be started later.
            Ok(_) => {}
            Err(e) if e.reason == ErrorReason::TurnNotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Watch {
        cursor,
        session_id,
        exclude_deltas: request.exclude_deltas,
        until,
        through,
        only_turn: false,
        checkpoint_interval: api.options.checkpoint_interval,
        _permit: permit,
    })
}
