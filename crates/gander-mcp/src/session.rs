//! The extensions of one session.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant as StdInstant},
};

use futures::future::join_all;
use gander_domain::{
    ErrorDetail, ErrorReason, Part,
    extension::{ExtensionConfig, ExtensionOrigin, ExtensionState, ExtensionStatus, ExtensionSummary},
    item::{ToolOutcome, ToolResult},
    tool::ToolDefinition,
};
use indexmap::IndexMap;
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    actor,
    calls::{self, CallRequest, error_of},
    catalog::{Catalog, Clash, Tool},
    client::SessionClient,
    config,
    connection::Connection,
    events::{self, HostEvent, Outbox},
    features::{self, CompletionResult, CompletionTarget},
    host::{McpHost, SessionContext},
    launch,
    lists::{self, LIST_TIMEOUT, List, PromptInfo, PromptResult, ResourceInfo, ResourceTemplateInfo},
    server::{Parts, Server},
    stderr::LogFollow,
};

/// How long a removed extension may take to go.
const REMOVE_PATIENCE: Duration = Duration::from_secs(5);

/// Clashes of names that are reported in one session.
const MAX_CLASHES: usize = 256;

/// A server and its actor.
struct Entry {
    server: Arc<Server>,
    actor: AbortHandle,
}

/// What actors see of their session.
pub(crate) struct SessionInner {
    host: Arc<McpHost>,
    context: Arc<SessionContext>,
    /// Whom servers may ask.
    pub(crate) client: Arc<dyn SessionClient>,
    outbox: Arc<Outbox>,
    entries: Mutex<IndexMap<String, Entry>>,
    catalog: RwLock<Arc<Catalog>>,
    /// Parent of every server's stop token.
    closing: CancellationToken,
    /// Clashes of names that were reported.
    reported: Mutex<HashSet<Clash>>,
}

impl SessionInner {
    fn entries(&self) -> std::sync::MutexGuard<'_, IndexMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the index anew, after tools changed.
    pub(crate) fn rebuild(&self) {
        // Under the lock of the entries, so that no older view replaces a newer one.
        let entries = self.entries();
        let mut catalog = Catalog::default();
        for (key, entry) in entries.iter() {
            catalog.add(key, &entry.server.tools());
        }
        self.report_clashes(catalog.clashes());
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
        drop(entries);
    }

    /// Says once of each clash that there is one.
    fn report_clashes(&self, clashes: &[Clash]) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        for clash in clashes {
            if reported.len() >= MAX_CLASHES || !reported.insert(clash.clone()) {
                continue;
            }
            let (level, kind) = if clash.public { ("warning", "collision") } else { ("notice", "shadowing") };
            self.outbox.push(HostEvent::Notification {
                extension_name: clash.other.clone(),
                level: level.to_owned(),
                logger: "gander".to_owned(),
                data_json: serde_json::json!({
                    "kind": kind, "tool": clash.name, "kept": clash.kept, "other": clash.other,
                })
                .to_string(),
            });
        }
    }

    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn server(&self, key: &str) -> Option<Arc<Server>> {
        self.entries().get(key).map(|entry| Arc::clone(&entry.server))
    }

    fn servers(&self) -> Vec<Arc<Server>> {
        self.entries().values().map(|entry| Arc::clone(&entry.server)).collect()
    }
}

/// The extensions of one session. Dropping it stops them all in the background; [`SessionExtensions::shutdown`]
/// waits for it.
pub struct SessionExtensions {
    inner: Arc<SessionInner>,
}

impl Drop for SessionExtensions {
    fn drop(&mut self) {
        self.inner.closing.cancel();
    }
}

fn not_found(key: &str) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::ExtensionNotFound,
        format!("the session has no extension {key}; ListSessionExtensions shows those it has"),
    )
    .with("extensionName", key)
}

impl SessionExtensions {
    pub(crate) fn open(
        host: Arc<McpHost>,
        context: SessionContext,
        client: Arc<dyn SessionClient>,
        events: mpsc::Sender<Box<HostEvent>>,
    ) -> Arc<Self> {
        let outbox = Arc::new(Outbox::default());
        let closing = CancellationToken::new();
        // Ends with the receiver, or when the session was closed and everything was handed on.
        tokio::spawn(events::forward(Arc::clone(&outbox), events, closing.clone()));
        let inner = SessionInner {
            host,
            context: Arc::new(context),
            client,
            outbox,
            entries: Mutex::default(),
            catalog: RwLock::default(),
            closing,
            reported: Mutex::default(),
        };
        Arc::new(Self { inner: Arc::new(inner) })
    }

    /// Adds an extension and starts it in the background. The same configuration and secrets again change nothing;
    /// another configuration under the same key replaces the extension. `secrets` are the values of `env_keys`.
    ///
    /// # Errors
    /// `EXTENSION_CONFIG_INVALID`, `EXTENSION_TYPE_UNSUPPORTED`, `ENV_KEY_DISALLOWED`, `SECRET_MISSING`,
    /// `COMMAND_NOT_ALLOWED`, `SHUTTING_DOWN`. What goes wrong later is in the extension's state.
    pub fn add(
        &self,
        config: ExtensionConfig,
        origin: ExtensionOrigin,
        secrets: BTreeMap<String, String>,
    ) -> Result<ExtensionSummary, ErrorDetail> {
        if self.inner.closing.is_cancelled() {
            return Err(ErrorDetail::new(
                ErrorReason::ShuttingDown,
                "the session's extensions are being stopped",
            ));
        }
        let key = config::validate(&config, &secrets, &self.inner.host.options.builtins.names())?;
        let allowed = self.inner.host.options.allowed_commands.as_deref();
        config::validate_command(&config, &launch::prefix(&config, &self.inner.context), allowed)?;
        let summary = ExtensionSummary {
            key: key.clone(),
            name: config.name.clone(),
            kind: config.transport.kind().to_owned(),
            config_hash: config::config_hash(&config),
            origin,
        };
        let mut entries = self.inner.entries();
        let mut previous = None;
        if let Some(entry) = entries.get(&key) {
            let known = &entry.server;
            if known.summary().config_hash == summary.config_hash && *known.secrets() == secrets {
                return Ok(known.summary().clone());
            }
            if known.summary().name != summary.name {
                // Two names, one key: said aloud, as one of them is gone now.
                self.inner.outbox.push(HostEvent::Notification {
                    extension_name: key.clone(),
                    level: "warning".to_owned(),
                    logger: "gander".to_owned(),
                    data_json: serde_json::json!({
                        "kind": "replaced", "key": key, "old": known.summary().name, "new": summary.name,
                    })
                    .to_string(),
                });
            }
            known.stop.cancel();
            previous = Some(known.done.clone());
        }
        let parts = Parts {
            host: Arc::clone(&self.inner.host),
            context: Arc::clone(&self.inner.context),
            outbox: Arc::clone(&self.inner.outbox),
            client: Arc::clone(&self.inner.client),
            summary: summary.clone(),
            config,
            secrets,
        };
        let stop = self.inner.closing.child_token();
        let (server, commands) = Server::new(parts, Arc::downgrade(&self.inner), stop);
        let actor = tokio::spawn(actor::run(Arc::clone(&server), commands, previous)).abort_handle();
        entries.insert(key, Entry { server, actor });
        drop(entries);
        self.inner.rebuild();
        Ok(summary)
    }

    /// Stops and forgets an extension. Returns whether there was one.
    pub async fn remove(&self, key: &str) -> bool {
        let Some(entry) = self.inner.entries().shift_remove(key) else { return false };
        self.inner.rebuild();
        entry.server.stop.cancel();
        if timeout(REMOVE_PATIENCE, entry.server.done.cancelled()).await.is_err() {
            entry.actor.abort();
        }
        true
    }

    /// Starts an extension anew and waits until it is ready.
    ///
    /// # Errors
    /// `EXTENSION_NOT_FOUND`, or why it did not start.
    pub async fn restart(&self, key: &str) -> Result<(), ErrorDetail> {
        let server = self.inner.server(key).ok_or_else(|| not_found(key))?;
        if server.is_client() {
            return Ok(());
        }
        server.restart().await
    }

    /// Waits until no extension is starting, at most `deadline`, and returns all states.
    pub async fn wait_ready(&self, deadline: Duration) -> Vec<ExtensionStatus> {
        let deadline = Instant::now() + deadline;
        let waiting = self.inner.servers().into_iter().map(|server| async move {
            let mut changes = server.watch();
            while server.state() == ExtensionState::Starting {
                if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                    break;
                }
            }
        });
        join_all(waiting).await;
        self.statuses()
    }

    /// The state of every extension, in the order in which they were added.
    #[must_use]
    pub fn statuses(&self) -> Vec<ExtensionStatus> {
        self.inner.servers().iter().map(|server| server.status()).collect()
    }

    /// All tools, also those of extensions that are being started again and those that a host executes.
    #[must_use]
    pub fn tools(&self) -> Vec<ToolDefinition> {
        self.inner.catalog().definitions()
    }

    /// A tool by its public name.
    #[must_use]
    pub fn find_tool(&self, public_name: &str) -> Option<ToolDefinition> {
        self.inner.catalog().find(public_name).map(|(_, tool)| tool.definition.clone())
    }

    /// Whether the tool is executed by an attached host.
    #[must_use]
    pub fn is_client_tool(&self, public_name: &str) -> bool {
        self.inner.catalog().find(public_name).is_some_and(|(_, tool)| tool.client)
    }

    /// What is kept of an extension's standard error (64 KiB), redacted.
    #[must_use]
    pub fn stderr(&self, key: &str) -> Option<String> {
        self.inner.server(key).map(|server| server.stderr().text())
    }

    /// The same, and what follows. Whole lines only.
    #[must_use]
    pub fn follow_stderr(&self, key: &str) -> Option<(String, LogFollow)> {
        let server = self.inner.server(key)?;
        Some(LogFollow::new(server.stderr(), server.done.clone()))
    }

    /// Calls a tool. Never fails as such: every failure is an outcome. All reports are in `request.progress` before
    /// this returns. Dropping the future cancels the call.
    pub async fn call(&self, request: CallRequest) -> ToolResult {
        let started = StdInstant::now();
        let mut result = Box::pin(self.dispatch(request)).await;
        result.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        result
    }

    async fn dispatch(&self, request: CallRequest) -> ToolResult {
        let catalog = self.inner.catalog();
        let found: Option<(Arc<Server>, Arc<Tool>)> = catalog
            .find(&request.name)
            .and_then(|(key, tool)| Some((self.inner.server(key)?, Arc::clone(tool))));
        let Some((server, tool)) = found else {
            let names = catalog.names();
            let shown: Vec<&str> = names.iter().take(30).map(String::as_str).collect();
            let rest = if names.len() > shown.len() { ", …" } else { "" };
            let text = format!("there is no tool {}; there are: {}{rest}", request.name, shown.join(", "));
            return calls::failed(ToolOutcome::ProtocolError, ErrorReason::ToolNotFound, text);
        };
        calls::call(&server, &tool, request, self.inner.host.options.call_timeout).await
    }

    /// A server by its key.
    pub(crate) fn server(&self, key: &str) -> Option<Arc<Server>> {
        self.inner.server(key)
    }

    pub(crate) async fn connection(&self, key: &str) -> Result<Arc<Connection>, ErrorDetail> {
        let server = self.inner.server(key).ok_or_else(|| not_found(key))?;
        if server.is_client() {
            return Err(ErrorDetail::new(
                ErrorReason::CapabilityMissing,
                format!("extension {key} consists of a host's tools and has no resources or prompts"),
            )
            .with("extensionName", key));
        }
        server.connection(Instant::now() + LIST_TIMEOUT).await
    }

    async fn list<T>(
        &self,
        key: &str,
        list: List,
        what: &str,
        map: impl Fn(&str, &serde_json::Value) -> Option<T>,
    ) -> Result<Vec<T>, ErrorDetail> {
        let connection = self.connection(key).await?;
        let listed = lists::fetch(&connection, list, LIST_TIMEOUT).await;
        let listed = listed.map_err(|failure| error_of(key, what, failure))?;
        if let Some(server) = self.inner.server(key) {
            server.take_entries(list, &listed.entries);
            match listed.cut {
                Some(cause) => server.trouble(list.name(), &cause, None),
                None => server.recovered(list.name()),
            }
        }
        Ok(listed.entries.iter().filter_map(|entry| map(key, entry)).collect())
    }

    /// The resources that an extension offers, all pages; empty when it has none.
    ///
    /// # Errors
    /// `EXTENSION_NOT_FOUND`, `EXTENSION_UNAVAILABLE`, or what the server says.
    pub async fn list_resources(&self, key: &str) -> Result<Vec<ResourceInfo>, ErrorDetail> {
        self.list(key, List::Resources, "resources/list", lists::resource).await
    }

    /// The families of resources that an extension offers.
    ///
    /// # Errors
    /// As [`SessionExtensions::list_resources`].
    pub async fn list_resource_templates(&self, key: &str) -> Result<Vec<ResourceTemplateInfo>, ErrorDetail> {
        self.list(key, List::Templates, "resources/templates/list", lists::template).await
    }

    /// The contents of a resource. `file:` addresses are the server's, they are never opened here.
    ///
    /// # Errors
    /// As [`SessionExtensions::list_resources`], `RESOURCE_NOT_FOUND`, and `CAPABILITY_MISSING` when it has none.
    pub async fn read_resource(&self, key: &str, uri: &str) -> Result<Vec<Part>, ErrorDetail> {
        let connection = self.connection(key).await?;
        lists::read_resource(&connection, key, uri).await
    }

    /// The prompts that an extension offers.
    ///
    /// # Errors
    /// As [`SessionExtensions::list_resources`].
    pub async fn list_prompts(&self, key: &str) -> Result<Vec<PromptInfo>, ErrorDetail> {
        self.list(key, List::Prompts, "prompts/list", lists::prompt).await
    }

    /// A prompt with its arguments (a JSON object of texts; may be empty) filled in.
    ///
    /// # Errors
    /// As [`SessionExtensions::list_resources`], and `INVALID_FIELD` for bad arguments.
    pub async fn get_prompt(
        &self,
        key: &str,
        name: &str,
        arguments_json: &str,
    ) -> Result<PromptResult, ErrorDetail> {
        let connection = self.connection(key).await?;
        lists::get_prompt(&connection, key, name, arguments_json).await
    }

    /// Follows a resource: its changes come as [`HostEvent::ResourceUpdated`], also after a restart of the server.
    ///
    /// # Errors
    /// As [`SessionExtensions::list_resources`], and `CAPABILITY_MISSING` when the server has no subscriptions.
    pub async fn subscribe_resource(&self, key: &str, uri: &str) -> Result<(), ErrorDetail> {
        let connection = self.connection(key).await?;
        if connection.is_modern() {
            features::require_subscriptions(&connection, key)?;
        } else {
            features::subscribe(&connection, key, uri).await?;
        }
        if let Some(server) = self.inner.server(key) {
            server.wishes.subscribe(uri);
            server.recovered("subscriptions");
        }
        Ok(())
    }

    /// Follows a resource no longer. Nothing happens when it was not followed.
    ///
    /// # Errors
    /// As [`SessionExtensions::subscribe_resource`].
    pub async fn unsubscribe_resource(&self, key: &str, uri: &str) -> Result<(), ErrorDetail> {
        if let Some(server) = self.inner.server(key) {
            server.wishes.unsubscribe(uri);
        }
        let connection = self.connection(key).await?;
        if connection.is_modern() {
            return Ok(());
        }
        features::unsubscribe(&connection, key, uri).await
    }

    /// Proposals for an argument of a prompt or a resource template. `value` is what was typed so far, `context` are
    /// the other arguments.
    ///
    /// # Errors
    /// As [`SessionExtensions::list_resources`], and `CAPABILITY_MISSING` when the server completes nothing.
    pub async fn complete(
        &self,
        key: &str,
        target: &CompletionTarget,
        argument: &str,
        value: &str,
        context: &BTreeMap<String, String>,
    ) -> Result<CompletionResult, ErrorDetail> {
        let connection = self.connection(key).await?;
        features::complete(&connection, key, target, argument, value, context).await
    }

    /// Sets from which level on a server sends log messages, also after a restart of the server.
    ///
    /// # Errors
    /// As [`SessionExtensions::list_resources`], `INVALID_FIELD`, and `CAPABILITY_MISSING`.
    pub async fn set_log_level(&self, key: &str, level: &str) -> Result<(), ErrorDetail> {
        let connection = self.connection(key).await?;
        features::set_log_level(&connection, key, level).await?;
        if let Some(server) = self.inner.server(key) {
            server.wishes.log_level(level);
        }
        Ok(())
    }

    /// Approves the definition of a tool that is quarantined (`ExtensionConfig::pin_definitions`). `hash` is the
    /// `definition_hash` that the user saw; `tool` is the extension's own name of the tool, or the public one.
    ///
    /// # Errors
    /// `EXTENSION_NOT_FOUND`, `TOOL_NOT_FOUND`, and `ETAG_MISMATCH` when the definition changed again.
    pub fn approve(&self, key: &str, tool: &str, hash: &str) -> Result<(), ErrorDetail> {
        self.inner.server(key).ok_or_else(|| not_found(key))?.approve(tool, hash)
    }

    /// Tells all servers that the session's folders ([`SessionClient::roots`]) changed.
    pub async fn roots_changed(&self) {
        let connections = self.inner.servers().into_iter().filter_map(|server| server.current_connection());
        join_all(connections.map(|connection| async move {
            // The newest revision asks when it needs them.
            if !connection.is_modern() {
                connection.notify_roots_changed().await;
            }
        }))
        .await;
    }

    /// Stops all extensions at once. What is left at the deadline is killed. Nothing can be added afterwards.
    pub async fn shutdown(&self, deadline: Duration) {
        self.inner.closing.cancel();
        let entries: Vec<Entry> = self.inner.entries().drain(..).map(|(_, entry)| entry).collect();
        self.inner.rebuild();
        let deadline = Instant::now() + deadline;
        for entry in &entries {
            if timeout_at(deadline, entry.server.done.cancelled()).await.is_err() {
                entry.actor.abort();
            }
        }
    }
}
