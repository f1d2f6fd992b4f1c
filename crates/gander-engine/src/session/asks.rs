//! The session as its MCP servers see it: their questions become interactions, their model calls use the session's
//! model, their tokens are kept with the configuration.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use gander_domain::{
    ErrorDetail, ErrorReason, Interaction, Item, ItemBody, Part, Payload,
    extension::{ExtensionOrigin, SamplingPolicy, extension_key},
    host::{HostCallKind, HostCallOutcome},
    interaction::{
        Answer, DecisionKind, FormAction, InteractionKind, InteractionState, Resolution, SamplingMessage,
        UrlPurpose,
    },
    item::{AgentMessage, ItemState, Origin, UserMessage, Visibility},
    usage::UsagePurpose,
};
use gander_mcp::{
    AuthorizeAnswer, AuthorizeRequest, ElicitAnswer, ElicitKind, ElicitRequest, HostCommand, KnownExtension,
    Root, SampleRequest, SampleResult, SessionClient, SessionExtensions,
};
use gander_model::{ModelRequest, ModelStop};

use super::{core::Core, handle::SessionHandle, host::HostAsk, interactions::Withdraw};
use crate::{
    completion::{Completion, collect},
    services::Services,
    source::Mint,
    turn::CallReport,
};

/// How long a form or page waits for an answer: as long as a call may take.
const ELICIT_EXPIRY: Duration = Duration::from_secs(300);
const SAMPLING_EXPIRY: Duration = Duration::from_secs(120);
const OAUTH_EXPIRY: Duration = Duration::from_secs(600);
/// How long an extension that the model enables may take to start.
const ENABLE_DEADLINE: Duration = Duration::from_secs(60);
/// Longest model call for a server.
const SAMPLING_DEADLINE: Duration = Duration::from_secs(120);
/// How long an attached program may take for a file.
const HOST_FILE: Duration = Duration::from_secs(10);
/// What it has after a command's time was over, to end it and to say what it wrote.
const HOST_GRACE: Duration = Duration::from_secs(15);
/// Tokens that all sampling of one session may use.
const SAMPLING_BUDGET: u64 = 200_000;

/// One session, asked by its servers.
pub(super) struct SessionAsks {
    services: Arc<Services>,
    session: SessionHandle,
    roots: Vec<Root>,
    sampled_tokens: std::sync::atomic::AtomicU64,
}

impl SessionAsks {
    pub(super) fn new(
        services: Arc<Services>,
        session: SessionHandle,
        context: &gander_mcp::SessionContext,
    ) -> Self {
        let folders = std::iter::once(&context.working_directory).chain(&context.additional_directories);
        let roots = folders.map(|f| Root { uri: file_uri(f), name: name_of(f) }).collect();
        Self { services, session, roots, sampled_tokens: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Asks and waits. When the asker goes away before the answer, the question is withdrawn.
    async fn ask(&self, kind: InteractionKind, expiry: Duration) -> Option<Resolution> {
        let source = &self.services.source;
        let now = source.now();
        let interaction_id = source.interaction_id();
        let id = interaction_id.clone();
        // Before it is asked: an asker that goes away while the question is written has to take it back too.
        let withdraw = Withdraw::new(&self.session, &self.services.tasks, interaction_id);
        let asked = self.session.edit(move |core| {
            let interaction = Interaction {
                interaction_id: id,
                turn_id: core.state.session.active_turn_id.clone(),
                item_id: None,
                kind,
                state: InteractionState::Pending,
                create_time: now,
                expire_time: now.plus(expiry),
                outcome: None,
                answer: None,
                answered_by: None,
            };
            Ok(core.ask(interaction))
        });
        let receiver = asked.await.ok()?.ok()?.value;
        let resolution = receiver.await.ok();
        withdraw.done();
        resolution
    }

    async fn model_call(&self, request: &SampleRequest) -> Result<SampleResult, ErrorDetail> {
        let read =
            self.session.edit(|core| Ok((core.state.session.model.clone(), core.state.session.demo_allowed)));
        let gone = |_| super::actor::gone();
        let (wanted, demo_allowed) = read.await.map_err(gone)??.value;
        let model = self.services.resolve_model(wanted.as_ref(), demo_allowed).await?;
        let call = ModelRequest {
            model_id: model.selection.model_id.clone(),
            system: request.system_prompt.clone().unwrap_or_default(),
            items: request.messages.iter().map(|m| Arc::new(self.item(&m.role, &m.parts))).collect(),
            tools: Vec::new(),
            temperature_millis: request.temperature_millis,
            max_output_tokens: Some(request.max_tokens),
            extra_params_json: None,
            thought_level: None,
        };
        let done = collect(&*model.provider, call).await;
        let done = done.map_err(|e| e.to_detail(&model.selection.provider_id))?;
        self.account(&done).await;
        let stop_reason = if done.stop == ModelStop::MaxOutputTokens { "maxTokens" } else { "endTurn" };
        Ok(SampleResult {
            model_id: done.model_id.unwrap_or(model.selection.model_id),
            text: done.text,
            stop_reason: stop_reason.to_owned(),
            usage: done.usage,
        })
    }

    fn item(&self, role: &str, parts: &[Part]) -> Item {
        let source = &self.services.source;
        let now = source.now();
        let parts = parts.to_vec();
        let (body, origin) = if role == "assistant" {
            (ItemBody::AgentMessage(AgentMessage { parts, demo: false }), Origin::Model)
        } else {
            (ItemBody::UserMessage(UserMessage { parts, steered: false }), Origin::Client)
        };
        Item {
            item_id: source.item_id(),
            turn_id: None,
            message_id: source.message_id(),
            body,
            state: ItemState::Completed,
            incomplete: false,
            visibility: Visibility::default(),
            origin,
            create_time: now,
            client_create_time: None,
            complete_time: Some(now),
            redacted: false,
            model_id: None,
            provider_state_json: None,
        }
    }

    /// Counts what a server used: in the session's totals, against its budget for sampling, and against the turn that
    /// runs.
    async fn account(&self, done: &Completion) {
        let report = CallReport::beside(UsagePurpose::Sampling, done);
        let used = done.usage.input_tokens.unwrap_or(0).saturating_add(done.usage.output_tokens.unwrap_or(0));
        self.sampled_tokens.fetch_add(used, std::sync::atomic::Ordering::Relaxed);
        if !report.is_known() {
            return;
        }
        let counted = self.session.edit(move |core: &mut Core| {
            let turn_id = core.running.as_ref().map(|running| {
                running.spent.add(report.call, report.cost.as_ref());
                running.turn_id.clone()
            });
            core.report_usage(turn_id, report);
            Ok(())
        });
        // It fails only when the session has gone.
        let _ = counted.await;
    }

    /// Whether the turn that runs may use no more.
    async fn turn_is_spent(&self) -> bool {
        let read = self.session.edit(|core: &mut Core| {
            let running = core.running.as_ref();
            let turn = running.and_then(|r| Some((r, core.state.turn(&r.turn_id)?)));
            Ok(turn.is_some_and(|(running, turn)| running.spent.reaches(&turn.limits)))
        });
        matches!(read.await, Ok(Ok(read)) if read.value)
    }

    fn policy(&self, extension_name: &str) -> SamplingPolicy {
        let key = extension_key(extension_name);
        let statuses = self.session.extensions().map(|e| e.statuses()).unwrap_or_default();
        statuses.into_iter().find(|s| s.summary.key == key).map(|s| s.config.sampling).unwrap_or_default()
    }

    /// Adds a configured extension to the session.
    async fn enable(&self, name: &str) -> Result<(), ErrorDetail> {
        let key = extension_key(name);
        let entry = self.services.configured_extension(name)?;
        let session_id = self.session.session_id().clone();
        let planned = self.services.planned(entry.config.clone(), ExtensionOrigin::Config);
        let extensions = self.session.extensions().ok_or_else(super::actor::gone)?;
        let starting = extensions.clone();
        // A failure to start is a state of the extension, appended like any other, so the edit itself succeeds.
        let started = self.session.edit(move |core: &mut Core| Ok(core.activate(&starting, planned)));
        if let Some(error) = started.await.map_err(|_| super::actor::gone())??.value {
            return Err(error);
        }
        self.services
            .change_selection(&session_id, |selection| selection.add(&entry.config, ExtensionOrigin::Config))
            .await?;
        let statuses = extensions.wait_ready(ENABLE_DEADLINE).await;
        let status = statuses.into_iter().find(|s| s.summary.key == key);
        match status.and_then(|s| s.error) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Takes an extension out of the session.
    async fn disable(&self, name: &str) -> Result<(), ErrorDetail> {
        let key = extension_key(name);
        let session_id = self.session.session_id().clone();
        self.services.change_selection(&session_id, |selection| selection.remove(&key)).await?;
        let extensions = self.session.extensions().ok_or_else(super::actor::gone)?;
        if !extensions.remove(&key).await {
            return Err(crate::engine::extension_not_found(name));
        }
        let removed = self.session.edit(move |core: &mut Core| {
            if core.state.extensions.contains_key(&key) {
                core.emit(None, Payload::ExtensionRemoved { key });
            }
            Ok(())
        });
        removed.await.map_err(|_| super::actor::gone())?.map(|_| ())
    }

    async fn approved(&self, request: &SampleRequest) -> Result<(), ErrorDetail> {
        let refused = |why: &str| Err(ErrorDetail::new(ErrorReason::CapabilityMissing, why.to_owned()));
        within_budget(self.sampled_tokens.load(std::sync::atomic::Ordering::Relaxed))?;
        if self.turn_is_spent().await {
            let text = "the turn's budget is spent; the model was not asked";
            return Err(ErrorDetail::new(ErrorReason::BudgetExceeded, text));
        }
        match self.policy(&request.extension_name) {
            SamplingPolicy::Off => refused("the configuration does not let this extension use the model"),
            SamplingPolicy::Allow => Ok(()),
            SamplingPolicy::Ask => {
                let messages = request.messages.iter();
                let kind = InteractionKind::Sampling {
                    extension_name: request.extension_name.clone(),
                    messages: messages
                        .map(|m| SamplingMessage { role: m.role.clone(), parts: m.parts.clone() })
                        .collect(),
                    max_tokens: request.max_tokens,
                };
                let allowed = self.ask(kind, SAMPLING_EXPIRY).await.is_some_and(|r| allows(&r));
                if allowed { Ok(()) } else { refused("the user did not allow this use of the model") }
            }
        }
    }
}

/// Whether servers that used so many tokens may use more.
fn within_budget(used: u64) -> Result<(), ErrorDetail> {
    if used < SAMPLING_BUDGET {
        return Ok(());
    }
    let text = format!(
        "this session's servers have used their {SAMPLING_BUDGET} tokens of sampling; a new session begins at zero"
    );
    Err(ErrorDetail::new(ErrorReason::BudgetExceeded, text))
}

fn allows(resolution: &Resolution) -> bool {
    match &resolution.answer {
        Some(Answer::Decision { kind, .. }) => *kind == DecisionKind::Allow,
        Some(Answer::Option { option_id }) => option_id.starts_with("allow"),
        _ => false,
    }
}

impl SessionClient for SessionAsks {
    fn elicit(&self, request: ElicitRequest) -> BoxFuture<'_, ElicitAnswer> {
        Box::pin(async move {
            let kind = match request.kind {
                ElicitKind::Form { schema_json } => InteractionKind::ElicitForm {
                    extension_name: request.extension_name,
                    message: request.message,
                    schema_json,
                },
                ElicitKind::Url { url } => InteractionKind::OpenUrl {
                    purpose: UrlPurpose::Elicitation,
                    extension_name: request.extension_name,
                    url,
                    message: request.message,
                    accepts_callback_url: false,
                },
            };
            match self.ask(kind, ELICIT_EXPIRY).await.and_then(|r| r.answer) {
                Some(Answer::Form { action: FormAction::Accept, content_json }) => {
                    ElicitAnswer::Accept { content_json: content_json.or_else(|| Some("{}".to_owned())) }
                }
                Some(Answer::Form { action: FormAction::Cancel, .. }) => ElicitAnswer::Cancel,
                Some(Answer::Url { done: true, .. }) => ElicitAnswer::Accept { content_json: None },
                _ => ElicitAnswer::Decline,
            }
        })
    }

    fn allows_sampling(&self, extension_name: &str) -> bool {
        self.policy(extension_name) != SamplingPolicy::Off
    }

    fn sample(&self, request: SampleRequest) -> BoxFuture<'_, Result<SampleResult, ErrorDetail>> {
        Box::pin(async move {
            self.approved(&request).await?;
            let call = tokio::time::timeout(SAMPLING_DEADLINE, self.model_call(&request)).await;
            call.unwrap_or_else(|_| {
                let text = format!("the model did not answer within {} s", SAMPLING_DEADLINE.as_secs());
                Err(ErrorDetail::new(ErrorReason::ProviderUnavailable, text))
            })
        })
    }

    fn roots(&self) -> Vec<Root> {
        self.roots.clone()
    }

    fn authorize(&self, request: AuthorizeRequest) -> BoxFuture<'_, AuthorizeAnswer> {
        Box::pin(async move {
            let kind = InteractionKind::OpenUrl {
                purpose: UrlPurpose::Oauth,
                message: format!("{} asks for authorization", request.extension_name),
                extension_name: request.extension_name,
                url: request.url,
                accepts_callback_url: request.accepts_callback_url,
            };
            match self.ask(kind, OAUTH_EXPIRY).await.and_then(|r| r.answer) {
                Some(Answer::Url { done: true, callback_url }) => AuthorizeAnswer::Done { callback_url },
                _ => AuthorizeAnswer::Declined,
            }
        })
    }

    fn load_state(&self, key: &str) -> BoxFuture<'_, Result<Option<String>, ErrorDetail>> {
        let key = key.to_owned();
        Box::pin(async move {
            let read =
                self.session.edit(move |core| Ok(core.state.session.extension_state.get(&key).cloned()));
            Ok(read.await.map_err(|_| super::actor::gone())??.value)
        })
    }

    fn save_state(&self, key: &str, value: String) -> BoxFuture<'_, Result<(), ErrorDetail>> {
        let key = key.to_owned();
        Box::pin(async move {
            let write = self.session.edit(move |core: &mut Core| {
                let mut session = core.state.session.clone();
                session.extension_state.insert(key, value);
                core.emit(
                    None,
                    Payload::SessionUpdated {
                        session: Box::new(session),
                        changed_fields: vec!["extension_state_json".to_owned()],
                        cause: gander_domain::event::UpdateCause::Client,
                    },
                );
                Ok(())
            });
            write.await.map_err(|_| super::actor::gone())?.map(|_| ())
        })
    }

    fn known_extensions(&self) -> BoxFuture<'_, Result<Vec<KnownExtension>, ErrorDetail>> {
        Box::pin(async move {
            let active = self.session.extensions().map(|e| e.statuses()).unwrap_or_default();
            let mut known: Vec<KnownExtension> = active
                .into_iter()
                .map(|status| KnownExtension {
                    key: status.summary.key,
                    description: status.config.description,
                    enabled: false,
                    active: true,
                })
                .collect();
            for entry in self.services.configured_extensions() {
                let key = extension_key(&entry.config.name);
                match known.iter_mut().find(|k| k.key == key) {
                    Some(extension) => extension.enabled = entry.enabled,
                    None => known.push(KnownExtension {
                        key,
                        description: entry.config.description,
                        enabled: entry.enabled,
                        active: false,
                    }),
                }
            }
            known.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(known)
        })
    }

    fn set_extension(&self, name: &str, active: bool) -> BoxFuture<'_, Result<(), ErrorDetail>> {
        let name = name.to_owned();
        Box::pin(async move { if active { self.enable(&name).await } else { self.disable(&name).await } })
    }

    fn host_call(&self, work: HostCallKind) -> BoxFuture<'_, Option<Result<HostCallOutcome, ErrorDetail>>> {
        Box::pin(super::host::ask_able_host(&self.session, HostAsk::new(work, HOST_FILE)))
    }

    fn host_command(
        &self,
        command: HostCommand,
    ) -> BoxFuture<'_, Option<Result<HostCallOutcome, ErrorDetail>>> {
        if !self.services.editor_terminals() {
            return Box::pin(std::future::ready(None));
        }
        let ask = HostAsk {
            item_id: Some(command.item_id),
            grace: HOST_GRACE,
            progress: Some(command.progress),
            ..HostAsk::new(command.run, command.timeout)
        };
        Box::pin(super::host::ask_able_host(&self.session, ask))
    }

    fn extensions(&self) -> Option<Arc<SessionExtensions>> {
        self.session.extensions()
    }

    fn pinned(&self, extension: &str) -> BTreeMap<String, String> {
        self.services.pins(extension)
    }

    fn pin(&self, extension: &str, definitions: BTreeMap<String, String>) {
        self.services.set_pins(extension, definitions);
    }

    fn load_credentials(&self, key: &str) -> Option<String> {
        self.services.config.secret(&credential_name(key)).map(|s| s.expose().to_owned())
    }

    fn store_credentials(&self, key: &str, body: Option<String>) {
        let (config, name) = (self.services.config.clone(), credential_name(key));
        self.services.tasks.spawn_blocking(move || {
            let stored = match &body {
                Some(body) => config.set_secret(&name, body).map(|_| ()),
                None => config.delete_secret(&name).map(|_| ()),
            };
            if let Err(error) = stored {
                tracing::warn!(%error, "the tokens of an MCP server could not be stored");
            }
        });
    }
}

/// Name of a server's tokens among the secrets: ids of issuer and resource are long and hold other characters.
fn credential_name(key: &str) -> String {
    format!("MCP_OAUTH_{}", &crate::content::sha256_hex(key.as_bytes())[..32]).to_uppercase()
}

/// `file://` URI of an absolute path; everything but unreserved characters and `/` is percent-encoded.
fn file_uri(path: &Path) -> String {
    use std::{fmt::Write as _, os::unix::ffi::OsStrExt as _};
    path.as_os_str().as_bytes().iter().fold("file://".to_owned(), |mut uri, byte| {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
        uri
    })
}

fn name_of(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_of_servers_ends_with_its_budget() {
        assert!(within_budget(0).is_ok() && within_budget(SAMPLING_BUDGET - 1).is_ok());
        for used in [SAMPLING_BUDGET, u64::MAX] {
            assert_eq!(within_budget(used).unwrap_err().reason, ErrorReason::BudgetExceeded);
        }
    }

    #[test]
    fn folders_become_uris() {
        assert_eq!(file_uri(Path::new("/home/a b/ü")), "file:///home/a%20b/%C3%BC");
    }
}
