//! `gander session`: what there is, what happened, and what to do with it.

mod log;

use std::{io::Write as _, path::Path, time::Duration};

use futures::StreamExt as _;
use gander_client::{Client, WatchOptions};
use gander_formats::goose_session::{self, ImportError};
use gander_proto::v1::{
    DeleteSessionRequest, ExportSessionRequest, ForkSessionRequest, GetSessionRequest, ImportSessionRequest,
    Item, ListEventsRequest, ListItemsRequest, ListSessionsRequest, Session, SessionKind, SessionState,
    UpdateSessionRequest, import_session_request::Source, session_event::Payload,
};
use prost_types::{FieldMask, Timestamp};
use serde_json::json;

use super::{
    args::SessionCommand,
    connect::{Connected, Context, Embed},
    error::{CliError, CliResult, exit},
    json,
    output::{clean, human_number, one_line, table},
    render::{Options, Piece, Renderer},
    run::path_text,
    terminal,
};
use crate::goose_history;

/// Sessions and events per page.
const PAGE: i32 = 200;
/// As large as the daemon takes it in one request.
const MAX_IMPORT: u64 = 32 * 1024 * 1024;

pub(super) async fn session(context: &Context, command: SessionCommand) -> CliResult<u8> {
    let connected = context.connect(Embed::Allowed).await?;
    let result = Box::pin(apply(context, &connected, command)).await;
    connected.close().await;
    result
}

async fn apply(context: &Context, connected: &Connected, command: SessionCommand) -> CliResult<u8> {
    let client = &connected.client;
    match command {
        SessionCommand::List { limit, all, json } => list(context, client, limit, all, json.json).await?,
        SessionCommand::Show { id, json } => show(context, client, &id, json.json).await?,
        SessionCommand::Events { id, after, follow, no_deltas, json } => {
            let view = log::View { json: json.json, no_deltas };
            if follow {
                watch(context, client, &id, after, view).await?;
            } else {
                events(context, client, &id, after, view).await?;
            }
        }
        SessionCommand::Rename { id, title } => rename(client, id, title).await?,
        SessionCommand::Fork { id, before, title } => {
            let request = ForkSessionRequest {
                session_id: id,
                before_item_id: before.unwrap_or_default(),
                title: title.unwrap_or_default(),
                idempotency_key: uuid::Uuid::now_v7().to_string(),
                ..ForkSessionRequest::default()
            };
            let session = client.sessions().fork_session(request).await?.into_inner().session;
            context.out.line(&session.unwrap_or_default().session_id)?;
        }
        SessionCommand::Export { id, output } => export(context, client, id, output.as_deref()).await?,
        SessionCommand::Import { file: Some(file), keep_id, cwd, .. } => {
            import(context, client, &file, keep_id, cwd.as_deref()).await?;
        }
        SessionCommand::Import { file: None, .. } => return import_goose(context, client).await,
        SessionCommand::Delete { ids, yes } => return delete(context, client, ids, yes).await,
    }
    Ok(exit::OK)
}

// === list and show ===

async fn list(context: &Context, client: &Client, limit: u32, all: bool, as_json: bool) -> CliResult<()> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut sessions: Vec<Session> = Vec::new();
    let mut request =
        ListSessionsRequest { page_size: PAGE, include_archived: all, ..ListSessionsRequest::default() };
    if all {
        let kinds = [
            SessionKind::User,
            SessionKind::Scheduled,
            SessionKind::Subagent,
            SessionKind::Hidden,
            SessionKind::Terminal,
        ];
        request.kinds = kinds.map(|kind| kind as i32).to_vec();
    }
    let more = loop {
        let page = client.sessions().list_sessions(request.clone()).await?.into_inner();
        sessions.extend(page.sessions);
        if sessions.len() >= limit || page.next_page_token.is_empty() {
            break sessions.len() > limit || !page.next_page_token.is_empty();
        }
        request.page_token = page.next_page_token;
    };
    sessions.truncate(limit);
    if as_json {
        return context.out.line(&json::array(&sessions)?);
    }
    if sessions.is_empty() {
        context.out.note("there are no sessions yet; `gander run \"list the files here\"` makes one");
        return Ok(());
    }
    let rows = rows(&sessions, std::time::SystemTime::now());
    context.out.print(&table(&rows, context.out.width, context.out.color))?;
    if more {
        context.out.note("there are more; -n N shows N of them");
    }
    Ok(())
}

fn rows(sessions: &[Session], now: std::time::SystemTime) -> Vec<Vec<String>> {
    let mut rows = vec![["ID", "CHANGED", "MESSAGES", "STATE", "TITLE"].map(str::to_owned).to_vec()];
    rows.extend(sessions.iter().map(|session| {
        vec![
            clean(&session.session_id),
            ago(session.update_time, now),
            session.message_count.to_string(),
            state(session).to_owned(),
            one_line(&session.title, 200),
        ]
    }));
    rows
}

fn state(session: &Session) -> &'static str {
    match session.state() {
        _ if session.archive_time.is_some() => "archived",
        SessionState::Running => "running",
        SessionState::AwaitingInput => "asks",
        SessionState::Idle | SessionState::Unspecified => "idle",
    }
}

/// "5 min ago".
fn ago(time: Option<Timestamp>, now: std::time::SystemTime) -> String {
    let time = time.and_then(|time| std::time::SystemTime::try_from(time).ok());
    let Some(age) = time.map(|time| now.duration_since(time).unwrap_or_default()) else {
        return "-".to_owned();
    };
    let seconds = age.as_secs();
    match seconds {
        0..60 => "just now".to_owned(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

async fn get(client: &Client, id: &str) -> CliResult<Session> {
    let request = GetSessionRequest { session_id: id.to_owned() };
    let session = client.sessions().get_session(request).await?.into_inner().session;
    session.ok_or_else(|| CliError::new("the daemon answered without the session"))
}

async fn items(client: &Client, id: &str) -> CliResult<Vec<Item>> {
    let mut items = Vec::new();
    let mut request =
        ListItemsRequest { session_id: id.to_owned(), page_size: PAGE, ..ListItemsRequest::default() };
    loop {
        let page = client.sessions().list_items(request.clone()).await?.into_inner();
        items.extend(page.items);
        if page.next_page_token.is_empty() {
            return Ok(items);
        }
        request.page_token = page.next_page_token;
    }
}

async fn show(context: &Context, client: &Client, id: &str, as_json: bool) -> CliResult<()> {
    let session = get(client, id).await?;
    let items = items(client, id).await?;
    if as_json {
        let items = items.iter().map(json::value).collect::<CliResult<Vec<_>>>()?;
        let value = json!({"session": json::value(&session)?, "items": items});
        return context.out.line(&json::pretty(&value));
    }
    context.out.print(&headline(&session))?;
    // All of it is what was asked for, so all of it goes to stdout.
    let options = Options {
        color: context.out.color,
        joint: true,
        clean_answer: true,
        quiet: false,
        ..Options::new(&context.out)
    };
    let mut renderer = Renderer::new(options);
    for item in &items {
        for piece in renderer.item(item) {
            let (Piece::Answer(text) | Piece::Chrome(text)) = piece;
            context.out.print(&text)?;
        }
    }
    Ok(())
}

fn headline(session: &Session) -> String {
    let model = session.model.as_ref().map(|model| format!("{}/{}", model.provider_id, model.model_id));
    let totals = session.usage.as_ref().and_then(|usage| usage.totals.as_ref());
    let tokens = totals.and_then(|totals| totals.total_tokens).map(human_number);
    let lines = [
        ("title", Some(session.title.clone())),
        ("session", Some(session.session_id.clone())),
        ("state", Some(state(session).to_owned())),
        ("directory", Some(session.working_directory.clone())),
        ("model", model),
        ("tokens", tokens),
        ("events", Some(human_number(session.last_sequence))),
    ];
    let mut text: String = lines
        .iter()
        .filter_map(|(name, value)| Some((name, value.as_deref().filter(|value| !value.is_empty())?)))
        .map(|(name, value)| format!("{name:<10} {}\n", clean(value)))
        .collect();
    text.push('\n');
    text
}

// === events ===

async fn events(context: &Context, client: &Client, id: &str, after: i64, view: log::View) -> CliResult<()> {
    let mut request = ListEventsRequest {
        session_id: id.to_owned(),
        after_sequence: after,
        page_size: PAGE,
        exclude_deltas: view.no_deltas,
    };
    loop {
        let page = client.sessions().list_events(request.clone()).await?.into_inner();
        for event in &page.events {
            log::print(context, event, view)?;
        }
        if page.next_after_sequence >= page.last_sequence
            || page.next_after_sequence <= request.after_sequence
        {
            return Ok(());
        }
        request.after_sequence = page.next_after_sequence;
    }
}

async fn watch(context: &Context, client: &Client, id: &str, after: i64, view: log::View) -> CliResult<()> {
    let options =
        WatchOptions { after: Some(after), exclude_deltas: view.no_deltas, ..WatchOptions::default() };
    let mut events = client.watch(id, options);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // Watching has no end of its own: Ctrl-C is how it ends.
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        match event {
            None => return Ok(()),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(event)) => match &event.payload {
                Some(Payload::Checkpoint(_)) => {}
                Some(Payload::StreamClosing(_)) => {
                    context.out.note("the session was deleted");
                    return Ok(());
                }
                _ => log::print(context, &event, view)?,
            },
        }
    }
}

// === changes ===

async fn rename(client: &Client, id: String, title: String) -> CliResult<()> {
    let request = UpdateSessionRequest {
        session: Some(Session { session_id: id, title, ..Session::default() }),
        update_mask: Some(FieldMask { paths: vec!["title".to_owned()] }),
        idempotency_key: String::new(),
    };
    client.sessions().update_session(request).await?;
    Ok(())
}

async fn export(context: &Context, client: &Client, id: String, output: Option<&Path>) -> CliResult<()> {
    let request = ExportSessionRequest { session_id: id, exclude_content: false };
    let mut stream = client.sessions().export_session(request).await?.into_inner();
    // The file is made once the daemon has agreed, so that an unknown session leaves none behind.
    let mut file: Option<std::fs::File> = None;
    let mut size: u64 = 0;
    while let Some(chunk) = stream.message().await? {
        size += chunk.data.len() as u64;
        match output {
            None => context.out.bytes(&chunk.data)?,
            Some(path) => {
                let path = context.absolute(path);
                let failed = |error: std::io::Error| {
                    CliError::new(format!("cannot write {}: {error}", path.display()))
                };
                let file = match &mut file {
                    Some(file) => file,
                    None => file.insert(create_private(&path).map_err(failed)?),
                };
                file.write_all(&chunk.data).map_err(failed)?;
            }
        }
    }
    if let Some(path) = output {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        context.out.note(&format!("{} bytes in {}", human_number(size), path.display()));
    }
    Ok(())
}

/// A conversation is nobody else's business.
fn create_private(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

async fn import(
    context: &Context,
    client: &Client,
    file: &Path,
    keep_id: bool,
    cwd: Option<&Path>,
) -> CliResult<()> {
    let data = if file == Path::new("-") {
        terminal::read_stdin()?.into_bytes()
    } else {
        let path = context.absolute(file);
        let failed =
            |error: std::io::Error| CliError::new(format!("cannot read {}: {error}", path.display()));
        let size = std::fs::metadata(&path).map_err(failed)?.len();
        if size > MAX_IMPORT {
            let text = format!("{} has {size} bytes; at most {MAX_IMPORT} can be imported", path.display());
            return Err(CliError::new(text));
        }
        std::fs::read(&path).map_err(failed)?
    };
    let working_directory = match cwd {
        Some(directory) => path_text(&context.absolute(directory))?,
        None => String::new(),
    };
    let request = ImportSessionRequest {
        source: Some(source(data)?),
        keep_session_id: keep_id,
        working_directory,
        idempotency_key: uuid::Uuid::now_v7().to_string(),
        ..ImportSessionRequest::default()
    };
    let mut request = tonic::Request::new(request);
    request.set_timeout(Duration::from_secs(300));
    let session = client.sessions().import_session(request).await?.into_inner().session;
    context.out.line(&session.unwrap_or_default().session_id)
}

/// An export of gander's is lines of JSON, the first one a header; Goose's is one document with a conversation.
fn source(data: Vec<u8>) -> CliResult<Source> {
    let is_goose =
        serde_json::from_slice::<serde_json::Value>(&data).is_ok_and(|value| value.get("line").is_none());
    let Some(text) = is_goose.then(|| std::str::from_utf8(&data).ok()).flatten() else {
        return Ok(Source::ExportData(data.into()));
    };
    let document = goose_session::import(text).map_err(|error| match error {
        ImportError::Document(error) => {
            CliError::new(format!("the file is no session of gander's or Goose's: {error}"))
        }
        error => CliError::new(error.to_string()),
    })?;
    Ok(Source::Document(Box::new(document)))
}

/// All sessions of Goose's own database.
async fn import_goose(context: &Context, client: &Client) -> CliResult<u8> {
    let database = goose_history::database(&context.paths()?);
    let stop = tokio_util::sync::CancellationToken::new();
    let Some(done) = goose_history::import(client, &database, &stop).await? else {
        return Err(CliError::new(format!(
            "Goose has stored no sessions: {} does not exist",
            database.display()
        )));
    };
    for (session_id, error) in &done.failed {
        context.out.note(&format!("{} was not imported: {}", clean(session_id), clean(error)));
    }
    context.out.note(&format!("{} sessions imported, {} were here already", done.imported, done.known));
    Ok(if done.failed.is_empty() { exit::OK } else { exit::ERROR })
}

async fn delete(context: &Context, client: &Client, ids: Vec<String>, yes: bool) -> CliResult<u8> {
    if !yes && context.out.stdin_is_terminal && context.out.stderr_is_terminal {
        let mut names = Vec::new();
        for id in &ids {
            let session = get(client, id).await?;
            names.push(format!("  {}  {}", clean(&session.session_id), one_line(&session.title, 60)));
        }
        context.out.chrome(&format!("{}\nerase for good? [y/N] ", names.join("\n")));
        if !matches!(terminal::read_line()?.trim().to_lowercase().as_str(), "y" | "yes") {
            context.out.note("nothing was erased");
            return Ok(exit::CANCELLED);
        }
    }
    for session_id in ids {
        let request = DeleteSessionRequest { session_id, ..DeleteSessionRequest::default() };
        client.sessions().delete_session(request).await?;
    }
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_in_a_table() {
        let now = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let session = |age: i64, state: SessionState| Session {
            session_id: "s1".to_owned(),
            title: "Two\nlines\x1b[1m".to_owned(),
            state: state as i32,
            message_count: 4,
            update_time: Some(Timestamp { seconds: 1_000_000 - age, nanos: 0 }),
            ..Session::default()
        };
        let sessions = [session(5, SessionState::Running), session(-50, SessionState::Idle)];
        let rows = rows(&sessions, now);
        assert_eq!(rows[1], ["s1", "just now", "4", "running", "Two"]);
        assert_eq!(rows[2], ["s1", "just now", "4", "idle", "Two"]);
        for (age, text) in [(90, "1 min ago"), (7_300, "2 h ago"), (200_000, "2 days ago")] {
            assert_eq!(ago(Some(Timestamp { seconds: 1_000_000 - age, nanos: 0 }), now), text);
        }
        assert_eq!(ago(None, now), "-");
        let archived = Session { archive_time: Some(Timestamp::default()), ..Session::default() };
        assert_eq!(state(&archived), "archived");
    }

    #[test]
    fn the_headline_leaves_out_what_is_not_known() {
        let text =
            headline(&Session { session_id: "s1".to_owned(), last_sequence: 1_200, ..Session::default() });
        assert_eq!(text, "session    s1\nstate      idle\nevents     1,200\n\n");
    }
}
