//! Sessions: made, loaded with their history, resumed without, listed, copied, closed, deleted.

use std::{path::Path, sync::Arc};

use agent_client_protocol_schema::v1 as acp;
use gander_client::ClientError;
use gander_proto::v1::{
    ClientExtensions, ConfiguredSelection, CreateSessionRequest, DeleteSessionRequest, DirectoryList,
    ErrorReason, ExactSelection, ExtensionSelection, ForkSessionRequest, GetSessionRequest, InstructionMode,
    Interaction, ListInteractionsRequest, ListItemsRequest, ListSessionsRequest, LoadSessionRequest,
    LoadSessionResponse, NoticeLevel, Session, SessionInstruction, UnloadSessionRequest,
    extension_selection::Selection,
};
use serde_json::{Value, json};

use super::{
    Inner,
    dispatch::{Handled, Outcome, required},
    goose::meta::{self, Wishes},
    servers::{self, Servers},
    watching::{Attached, Start},
};
use crate::{
    rpc::RpcError,
    translate::{content::non_empty, iso, options},
};

/// Sessions of one page.
const PAGE: i32 = 50;

/// Directories of a request.
struct Directories {
    cwd: String,
    /// `None`: not said.
    more: Option<Vec<String>>,
}

impl Directories {
    fn read(params: &Value) -> Result<Self, RpcError> {
        let cwd = absolute(params.get("cwd"), "cwd")?;
        let more = match params.get("additionalDirectories") {
            None | Some(Value::Null) => None,
            Some(Value::Array(list)) => Some(
                list.iter()
                    .map(|path| absolute(Some(path), "additionalDirectories"))
                    .collect::<Result<_, _>>()?,
            ),
            Some(_) => return Err(RpcError::params("additionalDirectories must be a list")),
        };
        Ok(Self { cwd, more })
    }
}

fn absolute(value: Option<&Value>, field: &str) -> Result<String, RpcError> {
    let path = value.and_then(Value::as_str).filter(|path| Path::new(path).is_absolute());
    path.map(str::to_owned).ok_or_else(|| RpcError::params(format!("{field} must be an absolute path")))
}

/// What a client wants in the system prompt: a text instead of it, or `{"append": text}`.
fn instructions(params: &Value) -> Vec<SessionInstruction> {
    let wish = params.pointer("/_meta/systemPrompt").unwrap_or(&Value::Null);
    let (text, mode) = match (wish.as_str(), wish.get("append").and_then(Value::as_str)) {
        (Some(text), _) => (text, InstructionMode::Replace),
        (None, Some(text)) => (text, InstructionMode::Append),
        (None, None) => return Vec::new(),
    };
    if text.is_empty() {
        return Vec::new();
    }
    vec![SessionInstruction { key: "acp.client".to_owned(), text: text.to_owned(), mode: mode as i32 }]
}

/// Whether the daemon refused because of one extension, and which.
fn refused_extension(error: &ClientError, servers: &Servers) -> Option<usize> {
    let of_extension = matches!(
        error.error_reason(),
        Some(
            ErrorReason::ExtensionConfigInvalid
                | ErrorReason::ExtensionTypeUnsupported
                | ErrorReason::EnvKeyDisallowed
                | ErrorReason::SecretMissing
                | ErrorReason::CommandNotAllowed
                | ErrorReason::InvalidField
        )
    );
    if !of_extension {
        return None;
    }
    let named = error.metadata.get("extensionName");
    let by_name = named.and_then(|name| servers.extensions.iter().position(|e| e.name == *name));
    let told = |name: &str| error.message.contains(&format!("extension {name}:"));
    let by_name = by_name.or_else(|| servers.extensions.iter().position(|server| told(&server.name)));
    by_name.or_else(|| {
        // A violation names the place in the list, as in `…extensions[2].name` or `…add[2]`.
        error.violations.iter().find_map(|violation| {
            let (_, rest) = violation.field.split_once(['['])?;
            let number: usize = rest.split_once(']')?.0.parse().ok()?;
            let listed = violation.field.contains("extensions") || violation.field.contains("add");
            (listed && number < servers.extensions.len()).then_some(number)
        })
    })
}

fn drop_server(servers: &mut Servers, number: usize, error: &ClientError) {
    let server = servers.extensions.remove(number);
    let mut text = format!("The MCP server {:?} is left out: {}", server.name, error.message);
    if let Some(violation) = error.violations.first().filter(|v| !error.message.contains(&v.description)) {
        text.push_str(&format!(" ({})", violation.description));
    }
    servers.problems.push(text);
}

/// The editor's servers beside the configured extensions, or beside those that a client made for Goose has chosen.
fn selection(wishes: &Wishes, servers: &Servers) -> Selection {
    let add = servers.extensions.clone();
    match &wishes.extensions {
        None => Selection::Configured(ConfiguredSelection { add }),
        Some(chosen) => {
            let others = chosen.iter().filter(|one| !add.iter().any(|server| server.name == one.name));
            // The servers come first: a refusal by place is about one of them.
            let extensions = add.iter().chain(others).cloned().collect();
            Selection::Exactly(ExactSelection { extensions })
        }
    }
}

impl Inner {
    pub(super) async fn new_session(self: &Arc<Self>, params: &Value) -> Outcome {
        let Directories { cwd, more } = Directories::read(params)?;
        let mut servers = servers::read(params)?;
        let mut wishes = Wishes::read(params)?;
        self.own_parts(wishes.extensions.as_deref_mut().unwrap_or_default()).await?;
        if wishes.model.is_none() {
            self.needs_model().await?;
        }
        let session = loop {
            let request = CreateSessionRequest {
                working_directory: cwd.clone(),
                additional_directories: more.clone().unwrap_or_default(),
                kind: wishes.kind as i32,
                model: wishes.model.clone(),
                recipe: wishes.recipe.clone(),
                labels: wishes.labels().into_iter().collect(),
                extensions: Some(ExtensionSelection { selection: Some(selection(&wishes, &servers)) }),
                instructions: instructions(params),
                client_environment: self.options.client_environment.clone().into_iter().collect(),
                demo_allowed: self.options.demo_allowed,
                idempotency_key: uuid::Uuid::now_v7().to_string(),
                ..CreateSessionRequest::default()
            };
            match self.client.sessions().create_session(request).await.map_err(ClientError::from) {
                Ok(response) => {
                    let response = response.into_inner();
                    let session =
                        response.session.ok_or_else(|| RpcError::internal("no session came back"))?;
                    break (session, response.sequence);
                }
                Err(error) => match refused_extension(&error, &servers) {
                    Some(number) => drop_server(&mut servers, number, &error),
                    None => return Err(self.not_signed_in(RpcError::from(error))),
                },
            }
        };
        self.started(session.0, session.1, &servers, true).await
    }

    /// The answer for a new or copied session, and how it is followed.
    async fn started(
        self: &Arc<Self>,
        session: Session,
        after: i64,
        servers: &Servers,
        created: bool,
    ) -> Outcome {
        let caps = self.caps();
        let answer = acp::NewSessionResponse::new(session.session_id.clone())
            .modes(options::modes(&session.options))
            .config_options(options::config_options(&session.options, &caps))
            .meta(caps.goose.then(|| meta::of_opened(&session)));
        let attached = Arc::new(Attached::new(&session.session_id, &caps, &session.working_directory));
        let mut updates = attached.dialect().session_told(&session);
        updates.extend(self.problems(&attached, servers));
        self.replace_attached(&attached).await;
        let start = Start { session: attached, after, updates, interactions: Vec::new(), created };
        Ok(Handled::Start(super::dispatch::to_json(&answer)?, Box::new(start)))
    }

    fn problems(&self, session: &Attached, servers: &Servers) -> Vec<acp::SessionUpdate> {
        let dialect = session.dialect();
        let problems = servers.problems.iter().enumerate();
        problems
            .filter_map(|(number, text)| {
                dialect.remark(NoticeLevel::Warning, text, &format!("server-{number}"))
            })
            .collect()
    }

    /// The client withdrew the request that made this session: nobody knows it.
    pub(super) async fn forget_new(&self, start: &Start) {
        let session_id = start.session.session_id.clone();
        self.state().sessions.remove(&session_id);
        self.let_go(&start.session).await;
        let request =
            DeleteSessionRequest { session_id, allow_missing: true, ..DeleteSessionRequest::default() };
        if let Err(status) = self.client.sessions().delete_session(request).await {
            tracing::warn!(error = status.message(), "a session that nobody wants could not be deleted");
        }
    }

    async fn load(
        &self,
        session_id: &str,
        directories: Option<&Directories>,
        mut servers: Option<&mut Servers>,
    ) -> Result<LoadSessionResponse, RpcError> {
        loop {
            let request = LoadSessionRequest {
                session_id: session_id.to_owned(),
                client_environment: self.options.client_environment.clone().into_iter().collect(),
                client_extensions: servers
                    .as_ref()
                    .map(|servers| ClientExtensions { extensions: servers.extensions.clone() }),
                working_directory: directories.map(|d| d.cwd.clone()).unwrap_or_default(),
                additional_directories: directories
                    .and_then(|d| d.more.clone())
                    .map(|directories| DirectoryList { directories }),
                idempotency_key: uuid::Uuid::now_v7().to_string(),
                ..LoadSessionRequest::default()
            };
            let error = match self.client.sessions().load_session(request).await.map_err(ClientError::from) {
                Ok(response) => return Ok(response.into_inner()),
                Err(error) => error,
            };
            if let Some(servers) = servers.as_deref_mut()
                && let Some(number) = refused_extension(&error, servers)
            {
                drop_server(servers, number, &error);
                continue;
            }
            return Err(self.not_signed_in(RpcError::of(&error, Some(session_id))));
        }
    }

    /// A load while a turn runs may not move the session: then it stays where it is.
    async fn load_here(
        &self,
        session_id: &str,
        directories: &Directories,
        servers: Option<&mut Servers>,
    ) -> Result<(Session, LoadSessionResponse), RpcError> {
        let known = self.session(session_id).await?;
        let same = Path::new(&known.working_directory) == Path::new(&directories.cwd);
        let moving = (!same).then_some(directories);
        let staying = Directories { cwd: String::new(), more: directories.more.clone() };
        let mut loaded = self.load(session_id, Some(moving.unwrap_or(&staying)), servers).await?;
        let session = loaded.session.take().ok_or_else(|| RpcError::internal("no session came back"))?;
        Ok((session, loaded))
    }

    pub(super) async fn session(&self, session_id: &str) -> Result<Session, RpcError> {
        let request = GetSessionRequest { session_id: session_id.to_owned() };
        let response = self.client.sessions().get_session(request).await;
        let response = response.map_err(|status| RpcError::of(&status.into(), Some(session_id)))?;
        response.into_inner().session.ok_or_else(|| RpcError::internal("no session came back"))
    }

    pub(super) async fn load_session(self: &Arc<Self>, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let directories = Directories::read(params)?;
        let mut servers = servers::read(params)?;
        let given = params.get("mcpServers").is_some_and(Value::is_array);
        let (loaded, _) = self.load_here(session_id, &directories, given.then_some(&mut servers)).await?;
        let caps = self.caps();
        let attached = Arc::new(Attached::new(session_id, &caps, &loaded.working_directory));
        // Nothing about the session may come in between.
        self.replace_attached(&attached).await;
        let replayed = async {
            let after = self.replay(&attached).await?;
            // What changed during a long replay is older than the watch that follows.
            Ok((after, self.session(session_id).await?))
        };
        let (after, session) = match replayed.await {
            Ok(replayed) => replayed,
            Err(error) => {
                self.state().sessions.remove(session_id);
                return Err(error);
            }
        };
        let mut updates = attached.dialect().session_told(&session);
        updates.extend(self.problems(&attached, &servers));
        let answer = acp::LoadSessionResponse::new()
            .modes(options::modes(&session.options))
            .config_options(options::config_options(&session.options, &caps))
            .meta(caps.goose.then(|| meta::of_opened(&session)));
        let interactions = self.pending(session_id).await;
        let start = Start { session: attached, after, updates, interactions, created: false };
        Ok(Handled::Start(super::dispatch::to_json(&answer)?, Box::new(start)))
    }

    /// Sends the whole conversation, page by page; gives the sequence it stands for.
    async fn replay(&self, session: &Arc<Attached>) -> Result<i64, RpcError> {
        let mut page_token = String::new();
        loop {
            let request = ListItemsRequest {
                session_id: session.session_id.clone(),
                page_token: page_token.clone(),
                ..ListItemsRequest::default()
            };
            let page = self.client.sessions().list_items(request).await;
            let page = page.map_err(|s| RpcError::of(&s.into(), Some(&session.session_id)))?.into_inner();
            for mut item in page.items {
                self.hydrate(&session.session_id, &mut item).await;
                let updates = session.dialect().replay(&item);
                self.send(session, updates).await;
            }
            if page.next_page_token.is_empty() {
                return Ok(page.through_sequence);
            }
            page_token = page.next_page_token;
        }
    }

    /// Questions that are open now. One that came after the snapshot comes again with the watch and is known by its id.
    async fn pending(&self, session_id: &str) -> Vec<Interaction> {
        self.open_questions(session_id).await.unwrap_or_default()
    }

    /// The same, or why they cannot be told.
    pub(super) async fn open_questions(&self, session_id: &str) -> Result<Vec<Interaction>, RpcError> {
        let mut questions = Vec::new();
        let mut request = ListInteractionsRequest {
            session_id: session_id.to_owned(),
            ..ListInteractionsRequest::default()
        };
        loop {
            let page = self.client.interactions().list_interactions(request.clone()).await;
            let page = page.map_err(|s| RpcError::of(&s.into(), Some(session_id)))?.into_inner();
            questions.extend(page.interactions);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(questions);
            }
        }
    }

    pub(super) async fn resume_session(self: &Arc<Self>, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let directories = Directories::read(params)?;
        let mut servers = servers::read(params)?;
        let given = params.get("mcpServers").is_some_and(Value::is_array);
        let (session, loaded) =
            self.load_here(session_id, &directories, given.then_some(&mut servers)).await?;
        let caps = self.caps();
        let answer = acp::ResumeSessionResponse::new()
            .modes(options::modes(&session.options))
            .config_options(options::config_options(&session.options, &caps));
        let mut start = self.resume(session, loaded.through_sequence).await?;
        let problems = self.problems(&start.session, &servers);
        start.updates.extend(problems);
        Ok(Handled::Start(super::dispatch::to_json(&answer)?, Box::new(start)))
    }

    /// Follows a session from its latest event on; items in progress go on where they are.
    async fn resume(self: &Arc<Self>, mut session: Session, after: i64) -> Result<Start, RpcError> {
        let session_id = session.session_id.clone();
        let attached = Arc::new(Attached::new(&session_id, &self.caps(), &session.working_directory));
        let mut after = after;
        if !session.active_turn_id.is_empty() {
            let request = ListItemsRequest {
                session_id: session_id.clone(),
                turn_id: session.active_turn_id.clone(),
                page_size: 1000,
                ..ListItemsRequest::default()
            };
            let page = self.client.sessions().list_items(request).await;
            let page = page.map_err(|s| RpcError::of(&s.into(), Some(&session_id)))?.into_inner();
            after = page.through_sequence;
            {
                let mut dialect = attached.dialect();
                page.items.iter().for_each(|item| dialect.adopt(item));
            }
            session = self.session(&session_id).await?;
        }
        if let Some(before) = self.attached(&session_id) {
            attached.dialect().take_own(&before.dialect());
        }
        let updates = attached.dialect().session_told(&session);
        let interactions = self.pending(&session_id).await;
        self.replace_attached(&attached).await;
        Ok(Start { session: attached, after, updates, interactions, created: false })
    }

    /// The session as this connection follows it; one that it does not follow yet is resumed.
    pub(super) async fn attach_if_needed(
        self: &Arc<Self>,
        session_id: &str,
    ) -> Result<Arc<Attached>, RpcError> {
        if let Some(session) = self.attached(session_id) {
            return Ok(session);
        }
        let mut loaded = self.load(session_id, None, None).await?;
        let session = loaded.session.take().ok_or_else(|| RpcError::internal("no session came back"))?;
        let start = self.resume(session, loaded.through_sequence).await?;
        let attached = start.session.clone();
        Box::pin(self.begin(start)).await;
        Ok(attached)
    }

    pub(super) async fn list_sessions(&self, params: &Value) -> Outcome {
        let cwd = match params.get("cwd") {
            None | Some(Value::Null) => String::new(),
            cwd => absolute(cwd, "cwd")?,
        };
        let cursor = match params.get("cursor") {
            None | Some(Value::Null) => "",
            Some(cursor) => cursor.as_str().ok_or_else(|| RpcError::params("cursor must be a text"))?,
        };
        let archived = params.get("archived").and_then(Value::as_str).unwrap_or("exclude");
        let kinds = meta::kinds(params);
        let request = ListSessionsRequest {
            page_size: PAGE,
            page_token: cursor.to_owned(),
            working_directory: cwd,
            include_archived: archived != "exclude",
            kinds: kinds.iter().map(|kind| *kind as i32).collect(),
            // Goose's list is of conversations.
            with_messages_only: !kinds.is_empty(),
            ..ListSessionsRequest::default()
        };
        let (sessions, next) = match meta::query(params) {
            Some(query) => (self.search(query, request).await?, None),
            None => {
                let page = self.client.sessions().list_sessions(request).await;
                let page = page.map_err(RpcError::from)?.into_inner();
                (page.sessions, non_empty(&page.next_page_token))
            }
        };
        let goose = self.caps().goose;
        let default_model = if goose { self.server_info().await?.default_model } else { None };
        let shown = sessions.iter().filter(|s| archived != "only" || s.archive_time.is_some());
        let shown = shown.map(|session| {
            let told = goose.then(|| meta::of_session(session, default_model.as_ref()));
            session_info(session).meta(told)
        });
        Handled::reply(&acp::ListSessionsResponse::new(shown.collect::<Vec<_>>()).next_cursor(next))
    }

    pub(super) async fn close_session(self: &Arc<Self>, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let Some(attached) = self.attached(session_id) else {
            // Not followed here: nothing to close, but an unknown one is worth a word.
            self.session(session_id).await?;
            return Ok(Handled::Reply(json!({})));
        };
        self.cancel_prompts(|prompt| prompt.session_id == session_id);
        self.prompts_answered(session_id).await;
        self.state().sessions.remove(session_id);
        self.let_go(&attached).await;
        // Others may watch it or use it: then it stays, and the daemon says so.
        let request =
            UnloadSessionRequest { session_id: session_id.to_owned(), ..UnloadSessionRequest::default() };
        if let Err(status) = self.client.sessions().unload_session(request).await {
            tracing::debug!(session_id, error = status.message(), "a closed session stays loaded");
        }
        Ok(Handled::Reply(json!({})))
    }

    pub(super) async fn delete_session(self: &Arc<Self>, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        self.cancel_prompts(|prompt| prompt.session_id == session_id);
        self.prompts_answered(session_id).await;
        let request = DeleteSessionRequest {
            session_id: session_id.to_owned(),
            allow_missing: true,
            ..DeleteSessionRequest::default()
        };
        let deleted = self.client.sessions().delete_session(request).await.map_err(ClientError::from);
        match deleted {
            Ok(_) => {}
            // An id that could never be one is as unknown as any other.
            Err(error) if matches!(error.error_reason(), Some(ErrorReason::InvalidField)) => {}
            Err(error) => return Err(RpcError::of(&error, Some(session_id))),
        }
        let attached = self.state().sessions.remove(session_id);
        if let Some(attached) = attached {
            self.let_go(&attached).await;
        }
        Ok(Handled::Reply(json!({})))
    }

    pub(super) async fn fork_session(self: &Arc<Self>, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let directories = Directories::read(params)?;
        let mut servers = servers::read(params)?;
        let request = ForkSessionRequest {
            session_id: session_id.to_owned(),
            working_directory: directories.cwd.clone(),
            idempotency_key: uuid::Uuid::now_v7().to_string(),
            ..ForkSessionRequest::default()
        };
        let forked = self.client.sessions().fork_session(request).await;
        let forked = forked.map_err(|s| RpcError::of(&s.into(), Some(session_id)))?.into_inner();
        let copy = forked.session.ok_or_else(|| RpcError::internal("no session came back"))?;
        let staying = Directories { cwd: String::new(), more: directories.more };
        let mut loaded = self.load(&copy.session_id, Some(&staying), Some(&mut servers)).await?;
        let session = loaded.session.take().unwrap_or(copy);
        self.started(session, loaded.through_sequence, &servers, true).await
    }

    pub(super) async fn session_status(&self, params: &Value) -> Outcome {
        let session_id = required(params, "sessionId")?;
        let session = self.session(session_id).await?;
        let open = session.loaded || self.attached(session_id).is_some();
        let status = if open { acp::SessionStatus::Open } else { acp::SessionStatus::Saved };
        Handled::reply(&acp::SessionStatusResponse::new(status))
    }
}

pub(super) fn session_info(session: &Session) -> acp::SessionInfo {
    acp::SessionInfo::new(session.session_id.clone(), session.working_directory.clone())
        .additional_directories(session.additional_directories.iter().map(Into::into).collect::<Vec<_>>())
        .title(non_empty(&session.title))
        .updated_at(session.update_time.as_ref().and_then(iso))
        .archived(session.archive_time.is_some().then_some(true))
}
