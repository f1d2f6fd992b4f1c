//! Extensions of sessions: which ones, with what environment and secrets, and changes to them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gander_domain::{
    ErrorDetail, ErrorReason, Payload, SessionId,
    extension::{ExtensionConfig, ExtensionOrigin, ExtensionStatus, extension_key},
    tool::ToolDefinition,
};
use gander_mcp::{Container, SessionContext, SessionExtensions};
use serde::{Deserialize, Serialize};

use super::{
    Engine, Recorded, RequestContext,
    idempotency::{Keyed, Receipt},
    sessions::ExtensionSelection,
};
use crate::{
    services::{Services, store_error},
    session::{Core, ExtensionPlan, PlannedExtension},
};

const SELECTION: &str = "extensions";
const ENVIRONMENT: &str = "client_environment";
/// Setting: what runs a command in a container, in front of `-e NAME …`, the container's id and the command.
const CONTAINER_EXEC: &str = "gander.container_exec";
/// How long a request that needs tools waits for starting extensions.
pub(super) const WAIT_FOR_TOOLS: Duration = Duration::from_secs(10);

/// Where an added extension comes from.
#[derive(Debug, Clone)]
pub enum AddExtension {
    Config(Box<ExtensionConfig>),
    /// One of the configured ones, enabled or not.
    Configured(String),
}

/// A session's choice of extensions, kept beside the log because configurations may hold secrets.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoredSelection {
    /// `None`: what the configuration enables.
    exactly: Option<Vec<serde_json::Value>>,
    added: Vec<StoredExtension>,
    /// Keys that were removed from the session.
    removed: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredExtension {
    config: serde_json::Value,
    origin: ExtensionOrigin,
}

impl StoredSelection {
    pub(super) fn of(selection: &ExtensionSelection) -> Self {
        let origin = selection.add_origin.unwrap_or(ExtensionOrigin::Client);
        let value = gander_formats::extension::to_value;
        Self {
            exactly: selection.exactly.as_ref().map(|list| list.iter().map(value).collect()),
            added: selection
                .add
                .iter()
                .map(|config| StoredExtension { config: value(config), origin })
                .collect(),
            removed: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, config: &ExtensionConfig, origin: ExtensionOrigin) {
        let key = extension_key(&config.name);
        self.removed.retain(|k| *k != key);
        self.added.retain(|e| key_of(&e.config) != key);
        self.added.push(StoredExtension { config: gander_formats::extension::to_value(config), origin });
    }

    /// Whether it holds an extension of this key; `configured` says so where the configuration chooses.
    fn wants(&self, key: &str, configured: impl FnOnce() -> bool) -> bool {
        let listed = |list: &[serde_json::Value]| list.iter().any(|c| key_of(c) == key);
        let chosen = self.exactly.as_deref().map_or_else(configured, listed);
        let added = self.added.iter().any(|e| key_of(&e.config) == key);
        (chosen || added) && !self.removed.iter().any(|k| k == key)
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.added.retain(|e| key_of(&e.config) != key);
        if !self.removed.iter().any(|k| k == key) {
            self.removed.push(key.to_owned());
        }
    }
}

fn key_of(config: &serde_json::Value) -> String {
    extension_key(config.get("name").and_then(serde_json::Value::as_str).unwrap_or_default())
}

impl Services {
    pub(crate) async fn store_selection(
        &self,
        session_id: &SessionId,
        selection: &StoredSelection,
    ) -> Result<(), ErrorDetail> {
        let body = serde_json::to_vec(selection).map_err(|e| ErrorDetail::internal(e.to_string()))?;
        let store = &self.store;
        store.put_document(session_id, SELECTION, Some(body)).await.map_err(|e| store_error(&e))
    }

    pub(crate) async fn selection(&self, session_id: &SessionId) -> Result<StoredSelection, ErrorDetail> {
        let body = self.store.get_document(session_id, SELECTION).await.map_err(|e| store_error(&e))?;
        Ok(body.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default())
    }

    /// Changes what a session has chosen. One change at a time: several calls of one response would each undo the others'.
    pub(crate) async fn change_selection(
        &self,
        session_id: &SessionId,
        change: impl FnOnce(&mut StoredSelection) + Send,
    ) -> Result<(), ErrorDetail> {
        let _one = self.selection_lock.lock().await;
        let mut selection = self.selection(session_id).await?;
        change(&mut selection);
        self.store_selection(session_id, &selection).await
    }

    /// Whether a session may delegate: by its own choice of extensions, else unless the configuration says no.
    pub(crate) async fn wants_delegation(&self, session_id: &SessionId) -> Result<bool, ErrorDetail> {
        let selection = self.selection(session_id).await?;
        let key = crate::turn::DELEGATE_EXTENSION;
        Ok(selection.wants(key, || {
            let configured = self.configured_extensions();
            configured.iter().find(|e| extension_key(&e.config.name) == key).is_none_or(|e| e.enabled)
        }))
    }

    /// Resolves secrets and asks the policy.
    pub(crate) fn planned(&self, mut config: ExtensionConfig, origin: ExtensionOrigin) -> PlannedExtension {
        let left_out = gander_formats::extension::drop_disallowed_env(&mut config);
        if !left_out.is_empty() {
            tracing::warn!(extension = %config.name, keys = ?left_out, "disallowed environment keys were left out");
        }
        self.enforce_sandbox(&mut config);
        let mut secrets = BTreeMap::new();
        let mut refused = self.extension_policy(&config).err();
        for key in &config.env_keys {
            match self.config.secret(key) {
                Some(secret) => {
                    secrets.insert(key.clone(), secret.expose().to_owned());
                }
                None => {
                    refused.get_or_insert_with(|| {
                        if let Some(trouble) = self.config.secret_trouble() {
                            let message = format!("extension {} needs the secret {key}: {trouble}", config.name);
                            return ErrorDetail::new(ErrorReason::SecretStoreUnavailable, message)
                                .with("key", key);
                        }
                        ErrorDetail::new(
                            ErrorReason::SecretMissing,
                            format!(
                                "extension {} needs the secret {key}; set it with `gander config set --secret {key}`",
                                config.name
                            ),
                        )
                        .with("key", key)
                    });
                }
            }
        }
        PlannedExtension { config, origin, secrets, refused, left_out }
    }
}

impl Engine {
    /// Keeps the client's environment, without what may be a secret.
    pub(super) async fn store_environment(
        &self,
        session_id: &SessionId,
        environment: &BTreeMap<String, String>,
    ) -> Result<(), ErrorDetail> {
        if environment.is_empty() {
            return Ok(());
        }
        let kept: BTreeMap<_, _> = environment
            .iter()
            .filter(|(name, _)| !gander_config::is_secret_name(name) && !is_own_variable(name))
            .collect();
        let body = serde_json::to_vec(&kept).map_err(|e| ErrorDetail::internal(e.to_string()))?;
        let store = &self.services.store;
        store.put_document(session_id, ENVIRONMENT, Some(body)).await.map_err(|e| store_error(&e))
    }

    pub(crate) async fn environment(
        &self,
        session_id: &SessionId,
    ) -> Result<BTreeMap<String, String>, ErrorDetail> {
        let body =
            self.services.store.get_document(session_id, ENVIRONMENT).await.map_err(|e| store_error(&e))?;
        let of_client = body.and_then(|b| serde_json::from_slice::<BTreeMap<String, String>>(&b).ok());
        Ok(of_client.unwrap_or_else(|| self.tool_environment.clone()))
    }

    /// What is needed to start the session's extensions, unless they run.
    pub(super) async fn extension_plan_if_inactive(
        &self,
        session_id: &SessionId,
    ) -> Result<Option<ExtensionPlan>, ErrorDetail> {
        if self.loaded(session_id).await.is_some_and(|handle| handle.extensions().is_some()) {
            return Ok(None);
        }
        self.extension_plan(session_id).await.map(Some)
    }

    pub(super) async fn extension_plan(&self, session_id: &SessionId) -> Result<ExtensionPlan, ErrorDetail> {
        let session = self.session(session_id).await?;
        let mut environment = self.environment(session_id).await?;
        environment.insert("GANDER_SESSION_ID".to_owned(), session_id.to_string());
        let context = SessionContext {
            session_id: session_id.clone(),
            working_directory: session.working_directory.into(),
            additional_directories: session.additional_directories.into_iter().map(Into::into).collect(),
            environment,
            data_dir: self.session_dir(session_id),
            denied_paths: self.denied_paths.clone(),
            sandbox: None,
            container: self.container(session.container.as_deref())?,
        };
        let chosen = self.chosen_extensions(session_id).await?;
        let extensions =
            chosen.into_iter().map(|(config, origin)| self.services.planned(config, origin)).collect();
        Ok(ExtensionPlan { context, extensions })
    }

    /// The extensions of a session, but for the one that the engine itself is.
    pub(crate) async fn chosen_extensions(
        &self,
        session_id: &SessionId,
    ) -> Result<Vec<(ExtensionConfig, ExtensionOrigin)>, ErrorDetail> {
        let selection = self.services.selection(session_id).await?;
        let mut chosen: Vec<(ExtensionConfig, ExtensionOrigin)> = Vec::new();
        let parse = |value: &serde_json::Value| gander_formats::extension::from_value(value).ok();
        match &selection.exactly {
            Some(list) => chosen.extend(list.iter().filter_map(parse).map(|c| (c, ExtensionOrigin::Session))),
            None => {
                let configured = self.configured_extensions();
                let enabled = configured.into_iter().filter(|e| e.enabled);
                chosen.extend(enabled.map(|e| (e.config, ExtensionOrigin::Config)));
            }
        }
        for added in &selection.added {
            if let Some(config) = parse(&added.config) {
                let key = extension_key(&config.name);
                chosen.retain(|(c, _)| extension_key(&c.name) != key);
                chosen.push((config, added.origin));
            }
        }
        chosen.retain(|(c, _)| !selection.removed.contains(&extension_key(&c.name)));
        chosen.retain(|(c, _)| extension_key(&c.name) != crate::turn::DELEGATE_EXTENSION);
        Ok(chosen)
    }

    /// How the session's extensions run in its container, if it has one.
    fn container(&self, id: Option<&str>) -> Result<Option<Container>, ErrorDetail> {
        let Some(id) = id else { return Ok(None) };
        let config = self.services.config.current();
        let exec = config.get_string(CONTAINER_EXEC).map_err(|e| crate::config_error(&e))?;
        let mut container = Container::docker(id);
        if let Some(exec) = exec.filter(|text| !text.trim().is_empty()) {
            container.exec = exec.split_whitespace().map(str::to_owned).collect();
        }
        let program = container.exec.first().map_or("", String::as_str);
        config.policy().check_command(program).map_err(|e| {
            ErrorDetail::new(ErrorReason::PolicyDenied, format!("the session's container: {e}"))
        })?;
        Ok(Some(container))
    }

    /// The session's extensions, started if need be.
    pub(super) async fn extensions(
        &self,
        session_id: &SessionId,
    ) -> Result<Arc<SessionExtensions>, ErrorDetail> {
        if let Some(active) = self.loaded(session_id).await.and_then(|handle| handle.extensions()) {
            return Ok(active);
        }
        let plan = self.extension_plan(session_id).await?;
        let active = self.edit(session_id, move |core| Ok(core.ensure_extensions(plan))).await?;
        Ok(active.value)
    }

    /// What could be configured: the builtin extensions and whatever is configured already, with whether it is.
    pub fn available_extensions(&self) -> Vec<(ExtensionConfig, bool)> {
        let mut configured = self.configured_extensions();
        let mut available = Vec::new();
        for builtin in self.services.mcp.builtins() {
            let key = extension_key(&builtin.name);
            let is_it = |e: &gander_formats::extension::Entry| extension_key(&e.config.name) == key;
            if let Some(at) = configured.iter().position(is_it) {
                available.push((configured.remove(at).config, true));
                continue;
            }
            let config = ExtensionConfig {
                description: builtin.description,
                display_name: Some(builtin.display_name).filter(|name| !name.is_empty()),
                bundled: true,
                ..gander_formats::extension::builtin(&builtin.name)
            };
            available.push((config, false));
        }
        available.extend(configured.into_iter().map(|entry| (entry.config, true)));
        available
    }

    /// Whether this is a part of the daemon that this daemon does not have, and so cannot start.
    pub fn lacks_builtin(&self, config: &ExtensionConfig) -> bool {
        let is_part = matches!(config.transport.kind(), "builtin" | "platform");
        let key = extension_key(&config.name);
        is_part && !self.services.mcp.builtins().iter().any(|builtin| extension_key(&builtin.name) == key)
    }

    /// Whether the organisation's policy allows an extension.
    pub fn check_extension_policy(&self, config: &ExtensionConfig) -> Result<(), ErrorDetail> {
        self.services.extension_policy(config)
    }

    /// Live statuses of the session's extensions; starts them.
    pub async fn session_extensions(
        &self,
        session_id: &SessionId,
    ) -> Result<Vec<ExtensionStatus>, ErrorDetail> {
        Ok(self.extensions(session_id).await?.statuses())
    }

    /// Adds an extension to a session. Adding the same again is fine; another configuration under the same name
    /// replaces it.
    pub async fn add_session_extension(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        extension: AddExtension,
        wait: bool,
    ) -> Result<Recorded<ExtensionStatus>, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Fresh(recorder) => recorder,
            Keyed::Replay(receipt) => {
                let value = self.extension_status(session_id, &receipt.id).await?;
                return Ok(Recorded { value, sequence: receipt.sequence });
            }
        };
        let (config, origin) = match extension {
            AddExtension::Config(config) => (*config, ExtensionOrigin::Session),
            AddExtension::Configured(name) => {
                (self.services.configured_extension(&name)?.config, ExtensionOrigin::Config)
            }
        };
        check_config(&config)?;
        let extensions = self.extensions(session_id).await?;
        let key = extension_key(&config.name);
        let planned = self.services.planned(config.clone(), origin);
        let (starting, id, by, receipt_key) =
            (extensions.clone(), session_id.clone(), context.actor.clone(), key.clone());
        let done = self
            .edit(session_id, move |core| {
                core.act_as(by);
                if let Some(error) = core.activate(&starting, planned) {
                    return Ok(Err(error));
                }
                let receipt = Receipt { sequence: core.state.last_sequence(), id: receipt_key };
                let now = core.now();
                core.record(recorder.record(Some(&id), &receipt, now));
                Ok(Ok(()))
            })
            .await?;
        done.value?;
        self.services.change_selection(session_id, |selection| selection.add(&config, origin)).await?;
        if wait {
            extensions.wait_ready(Duration::from_secs(60)).await;
        }
        let status = self.extension_status(session_id, &key).await?;
        if wait && let Some(error) = &status.error {
            return Err(error.clone());
        }
        Ok(Recorded { value: status, sequence: done.sequence })
    }

    async fn extension_status(
        &self,
        session_id: &SessionId,
        name: &str,
    ) -> Result<ExtensionStatus, ErrorDetail> {
        let key = extension_key(name);
        let statuses = self.extensions(session_id).await?.statuses();
        statuses.into_iter().find(|s| s.summary.key == key).ok_or_else(|| extension_not_found(name))
    }

    /// Removes an extension from a session; `false`: it was not there.
    pub async fn remove_session_extension(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        name: &str,
    ) -> Result<Recorded<bool>, ErrorDetail> {
        let key = extension_key(name);
        let extensions = self.extensions(session_id).await?;
        self.services.change_selection(session_id, |selection| selection.remove(&key)).await?;
        let removed = extensions.remove(&key).await;
        let by = context.actor.clone();
        let done = self
            .edit(session_id, move |core| {
                core.act_as(by);
                let known = core.state.extensions.contains_key(&key);
                if known {
                    core.emit(None, Payload::ExtensionRemoved { key });
                }
                Ok(known)
            })
            .await?;
        Ok(Recorded { value: removed || done.value, sequence: done.sequence })
    }

    /// Restarts an extension of a session.
    pub async fn restart_session_extension(
        &self,
        session_id: &SessionId,
        name: &str,
        wait: bool,
    ) -> Result<Recorded<ExtensionStatus>, ErrorDetail> {
        let key = extension_key(name);
        let extensions = self.extensions(session_id).await?;
        extensions.restart(&key).await?;
        if wait {
            extensions.wait_ready(Duration::from_secs(60)).await;
        }
        let value = self.extension_status(session_id, name).await?;
        let sequence = self.edit(session_id, |_| Ok(())).await?.sequence;
        Ok(Recorded { value, sequence })
    }

    /// This client's extensions, in place of those it brought before.
    pub(super) async fn replace_client_extensions(
        &self,
        session_id: &SessionId,
        extensions: Vec<ExtensionConfig>,
    ) -> Result<(), ErrorDetail> {
        for config in &extensions {
            check_config(config)?;
        }
        let one = self.services.selection_lock.lock().await;
        let mut selection = self.services.selection(session_id).await?;
        let before = serde_json::to_value(&selection).ok();
        selection.added.retain(|e| e.origin != ExtensionOrigin::Client);
        for config in &extensions {
            selection.add(config, ExtensionOrigin::Client);
        }
        if serde_json::to_value(&selection).ok() == before {
            return Ok(());
        }
        self.services.store_selection(session_id, &selection).await?;
        drop(one);
        self.edit(session_id, |core| {
            if core.state.session.active_turn_id.is_some() {
                return Err(super::sessions::busy("the extensions cannot be replaced"));
            }
            core.drop_extensions();
            Ok(())
        })
        .await
        .map(|_| ())
    }

    /// The tools of a session: those of its extensions and of its host.
    pub async fn list_tools(
        &self,
        session_id: &SessionId,
        extension_name: Option<&str>,
        wait: Option<Duration>,
    ) -> Result<Vec<ToolDefinition>, ErrorDetail> {
        let extensions = self.extensions(session_id).await?;
        extensions.wait_ready(wait.unwrap_or(WAIT_FOR_TOOLS)).await;
        let mut tools = extensions.tools();
        let host = self
            .edit(session_id, |core| {
                Ok(core.host_capabilities().map(|h| h.tools.clone()).unwrap_or_default())
            })
            .await?;
        tools.extend(host.value);
        if let Some(name) = extension_name {
            let key = extension_key(name);
            tools.retain(|t| extension_key(&t.extension_name) == key);
        }
        Ok(tools)
    }
}

impl Core {
    /// Ends the session's extensions; the next use starts them anew. Not logged: nothing about the session changed.
    pub(crate) fn drop_extensions(&mut self) {
        if let Some(extensions) = self.take_extensions() {
            let deadline = self.services.options.extension_stop_timeout;
            self.services.tasks.spawn(async move { extensions.shutdown(deadline).await });
        }
    }
}

/// Names that the daemon uses for itself.
pub(super) fn is_own_variable(name: &str) -> bool {
    name.starts_with("GOOSE_SERVER__") || matches!(name, "GANDER_TOKEN" | "GOOSE_PORT")
}

/// Refuses what an extension must not be: invalid, a shell in disguise, or in charge of variables that change what is
/// loaded into processes.
pub fn check_config(config: &ExtensionConfig) -> Result<(), ErrorDetail> {
    let disallowed = gander_formats::extension::disallowed_env_keys(config);
    if !disallowed.is_empty() {
        let keys = disallowed.join(", ");
        let message = format!(
            "extension {}: {keys} may not be set by an extension; remove it from envs and env_keys",
            config.name
        );
        return Err(ErrorDetail::new(ErrorReason::EnvKeyDisallowed, message).with("keys", keys));
    }
    let violations = gander_formats::extension::validate(config);
    let Some(first) = violations.first() else { return Ok(()) };
    let message = format!("extension {}: {}: {}", config.name, first.field, first.description);
    let mut error = ErrorDetail::new(ErrorReason::ExtensionConfigInvalid, message)
        .with("extensionName", &config.name)
        .with("field", &first.field);
    error.violations = violations;
    Err(error)
}

pub(crate) fn extension_not_found(name: &str) -> ErrorDetail {
    ErrorDetail::new(
        ErrorReason::ExtensionNotFound,
        format!("there is no extension {name:?}; `gander config show` lists the configured ones"),
    )
    .with("extensionName", name)
}
