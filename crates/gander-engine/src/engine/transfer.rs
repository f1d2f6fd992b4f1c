//! Export and import: a session as JSON lines, without loss of what it says.
//!
//! The first line is a header, then one line per event, then one per content. An import is one commit: the session's
//! creation and its items; ids of messages and items are kept, sequences are new.

use std::{collections::BTreeMap, sync::Arc};

use gander_domain::{
    ContentId, ErrorDetail, ErrorReason, Event, Item, Sequence, Session, SessionId, SessionState, Timestamp,
    content::Blob,
    session::{SessionOrigin, TitleSource},
    usage::SessionUsage,
};
use gander_store::NewContent;
use serde::{Deserialize, Serialize};

use super::{
    Engine, NewSession, Recorded, RequestContext,
    history::{content_ids, placed, where_it_stands},
    idempotency::{Keyed, Receipt},
};
use crate::{content::sha256_hex, services::store_error};

const FORMAT: &str = "gander.session";
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "line")]
enum Line {
    Header { format: String, version: u32, session_id: SessionId, last_sequence: Sequence },
    Event(Box<Event>),
    Content { content_id: ContentId, mime_type: String, data: Blob },
}

/// What to import.
#[derive(Debug, Clone)]
pub enum ImportSource {
    /// The bytes of an export.
    Export(Vec<u8>),
    /// A document in another format, already converted.
    Document {
        format: String,
        original_id: Option<String>,
        session: Box<NewSession>,
        history: Box<ImportedHistory>,
        items: Vec<Item>,
    },
}

/// What a converted session has behind it.
#[derive(Debug, Clone, Default)]
pub struct ImportedHistory {
    /// When it was begun, and when something last happened in it. `None`, or a time to come: now.
    pub create_time: Option<Timestamp>,
    pub update_time: Option<Timestamp>,
    pub title_source: TitleSource,
    pub usage: SessionUsage,
    /// State of extensions, key → JSON text.
    pub extension_state: BTreeMap<String, String>,
}

impl ImportedHistory {
    fn apply(self, session: &mut Session) {
        let now = session.create_time;
        session.update_time = self.update_time.map_or(now, |time| time.min(now));
        session.create_time =
            self.create_time.map_or(session.update_time, |time| time.min(session.update_time));
        session.title_source = self.title_source;
        session.usage = self.usage;
        session.extension_state = self.extension_state;
    }
}

#[derive(Debug, Clone)]
pub struct ImportRequest {
    pub source: ImportSource,
    pub session_id: Option<SessionId>,
    /// Keeps the original id (fails when it is taken).
    pub keep_session_id: bool,
    pub working_directory: Option<String>,
}

impl Engine {
    /// The session as JSON lines.
    pub async fn export_session(
        &self,
        session_id: &SessionId,
        exclude_content: bool,
    ) -> Result<Vec<u8>, ErrorDetail> {
        let mut out = Vec::new();
        let bounds = self.services.store.log_bounds(session_id).await.map_err(|e| store_error(&e))?;
        let last_sequence = bounds.last_sequence;
        let header = Line::Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            session_id: session_id.clone(),
            last_sequence,
        };
        push_line(&mut out, &header)?;
        let mut state: Option<SessionState> = None;
        let mut after = 0;
        while after < last_sequence {
            let read = self.services.store.read_events(session_id, after, 1024, 4 << 20);
            let page = read.await.map_err(|e| store_error(&e))?;
            for event in page.events.iter().filter(|e| e.sequence <= last_sequence) {
                match &mut state {
                    Some(state) => state.apply(event),
                    None => state = SessionState::from_first(event),
                }
                push_line(&mut out, &Line::Event(Box::new((**event).clone())))?;
            }
            match page.events.last() {
                Some(event) => after = event.sequence,
                None => break,
            }
        }
        if !exclude_content && let Some(state) = state {
            for entry in &state.items {
                for content_id in content_ids(&entry.item) {
                    self.push_content(&mut out, session_id, content_id).await?;
                }
            }
        }
        Ok(out)
    }

    async fn push_content(
        &self,
        out: &mut Vec<u8>,
        session_id: &SessionId,
        content_id: ContentId,
    ) -> Result<(), ErrorDetail> {
        let (size, mime_type) = self.content_info(session_id, &content_id).await?;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let data = Blob(self.read_content(session_id, &content_id, 0, length).await?);
        push_line(out, &Line::Content { content_id, mime_type, data })
    }

    /// Imports a session.
    pub async fn import_session(
        &self,
        context: &RequestContext,
        request: ImportRequest,
    ) -> Result<Recorded<Session>, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => return self.replayed_session(&receipt).await,
            Keyed::Fresh(recorder) => recorder,
        };
        self.refuse_when_draining()?;
        let directory = request.working_directory.filter(|d| !d.is_empty());
        let mut history = None;
        let (mut new, items, contents, format, original_id) = match request.source {
            ImportSource::Export(bytes) => {
                let imported = parse_export(&bytes)?;
                let new = NewSession {
                    working_directory: imported.session.working_directory.clone(),
                    ..settings_of(imported.session.clone())
                };
                let copied: Vec<_> = imported.items.iter().filter(|e| !e.rewound).collect();
                let items: Vec<Arc<Item>> = copied.iter().map(|e| placed(&e.item, &copied)).collect();
                (
                    new,
                    items,
                    imported.contents,
                    FORMAT.to_owned(),
                    Some(imported.session.session_id.to_string()),
                )
            }
            ImportSource::Document { format, original_id, session, history: behind, items } => {
                history = Some(behind);
                let items = items.into_iter().map(|item| Arc::new(where_it_stands(item))).collect();
                (*session, items, Vec::new(), format, original_id)
            }
        };
        if let Some(directory) = directory {
            new.working_directory = directory;
        } else if self.directory("working_directory", &new.working_directory).is_err() {
            // The directory of another machine: the home directory is the best that is left.
            new.working_directory = String::new();
        }
        new.additional_directories.retain(|d| self.directory("additional_directories", d).is_ok());
        new.session_id = match (request.session_id, request.keep_session_id, &original_id) {
            (Some(id), _, _) => Some(id),
            (None, true, Some(original)) => Some(SessionId::new(original).map_err(|e| {
                ErrorDetail::new(
                    ErrorReason::ImportInvalid,
                    format!("the original session id {original:?} {e}"),
                )
            })?),
            _ => None,
        };
        let mut session = self.new_session(new)?;
        let session_id = session.session_id.clone();
        let receipt = Receipt { sequence: 1, id: session_id.to_string() };
        let record = recorder.record(Some(&session_id), &receipt, session.create_time);
        if let Some(history) = history {
            history.apply(&mut session);
        }
        let origin = SessionOrigin::Imported { format, original_id };
        let (session, _) = self.create_with_items(context, session, origin, items, record, contents).await?;
        Ok(Recorded { value: session, sequence: 1 })
    }
}

fn settings_of(session: Session) -> NewSession {
    NewSession {
        session_id: None,
        working_directory: session.working_directory,
        additional_directories: session.additional_directories,
        title: session.title,
        kind: session.kind,
        model: session.model,
        mode: session.mode,
        extensions: super::ExtensionSelection::default(),
        recipe: session.recipe,
        recipe_request: None,
        labels: session.labels,
        client_environment: BTreeMap::new(),
        demo_allowed: session.demo_allowed,
        instructions: session.instructions,
        container: None,
        parent: None,
        schedule_id: None,
    }
}

fn push_line(out: &mut Vec<u8>, line: &Line) -> Result<(), ErrorDetail> {
    serde_json::to_writer(&mut *out, line).map_err(|e| ErrorDetail::internal(e.to_string()))?;
    out.push(b'\n');
    Ok(())
}

struct Imported {
    session: Session,
    items: Vec<gander_domain::fold::ItemEntry>,
    contents: Vec<NewContent>,
}

fn parse_export(bytes: &[u8]) -> Result<Imported, ErrorDetail> {
    let invalid = |line: usize, why: String| {
        ErrorDetail::new(ErrorReason::ImportInvalid, format!("export_data line {line}: {why}"))
            .with("line", line)
    };
    let mut state: Option<SessionState> = None;
    let mut contents = Vec::new();
    let mut header = false;
    for (number, text) in bytes.split(|b| *b == b'\n').enumerate() {
        let number = number + 1;
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let line: Line = serde_json::from_slice(text).map_err(|e| invalid(number, e.to_string()))?;
        match line {
            Line::Header { format, version, .. } => {
                if format != FORMAT || version > VERSION {
                    return Err(invalid(
                        number,
                        format!("{format} version {version} is not known to this gander"),
                    ));
                }
                header = true;
            }
            _ if !header => return Err(invalid(number, "the first line must be a header".to_owned())),
            Line::Event(event) => match &mut state {
                Some(state) => state.apply(&event),
                None => {
                    state = Some(SessionState::from_first(&event).ok_or_else(|| {
                        invalid(number, "the first event must be the session's creation".to_owned())
                    })?);
                }
            },
            Line::Content { content_id, mime_type, data } => {
                if sha256_hex(&data.0) != content_id.as_str() {
                    return Err(invalid(number, format!("content {content_id} does not match its hash")));
                }
                contents.push(NewContent { content_id, mime_type, bytes: data.0.into() });
            }
        }
    }
    let state = state
        .ok_or_else(|| invalid(1, "no session found; expected the output of ExportSession".to_owned()))?;
    Ok(Imported { session: state.session, items: state.items, contents })
}
