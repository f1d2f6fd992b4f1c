//! Turns of sessions whose model is an agent: it runs the loop and the tools, gander stores what it does and asks what
//! it asks.
//!
//! One agent process per session. It starts with the first turn, goes on between turns, ends when it is idle for long or
//! the session is unloaded, and is started anew with the same session of its own. A cancelled turn ends at once; the
//! agent gets a moment to stop by itself and is ended if it does not.

mod answers;
mod bridge;
mod doors;
mod effects;
mod link;
mod memory;
mod modes;
mod transcript;

use std::{collections::HashSet, sync::Arc, time::Duration};

use gander_domain::{
    ErrorDetail, ErrorReason, Item, ItemBody, ItemId, Payload,
    item::NoticeLevel,
    turn::{StopReason, TurnOutcome},
    usage::Cost,
};
use gander_model::{AGENT_MODEL_CURRENT, AgentBackend, AgentMcpServer, AgentOpen, AgentPromptEnd, AgentStop};

pub(crate) use self::link::AgentLinks;
use self::{
    bridge::{Bridge, Signals},
    doors::Offer,
    link::{Link, Running},
    memory::{Record, Records},
};
use super::{Snapshot, TurnResult, TurnTask};
use crate::{
    services::{Services, store_error},
    session::ExtensionPlan,
};

/// In front of the ids of an agent's settings, which gander's own must not meet.
pub(crate) const OPTION_PREFIX: &str = "agent.";
/// How long a cancelled turn waits for its agent to say that it stopped.
const CANCEL_WAIT: Duration = Duration::from_millis(350);
/// How long an agent that has ended its prompt may take to say whether it took input in.
const STEER_WAIT: Duration = Duration::from_secs(1);
/// How long an agent may take to change a setting.
const OPTION_WAIT: Duration = Duration::from_secs(30);

/// What a turn needs of its agent.
struct Opened {
    link: Arc<Link>,
    record: Record,
    /// The agent knows nothing of the conversation.
    fresh: bool,
    /// It was started for this turn.
    started: bool,
    /// What the agent took in while it worked.
    injected: HashSet<ItemId>,
}

impl TurnTask {
    /// Runs the turn by the agent.
    pub(super) async fn drive_agent(&mut self, backend: Arc<dyn AgentBackend>) -> TurnResult<StopReason> {
        let max_prompts = self.start.limits.max_model_calls.unwrap_or(u32::MAX);
        let extensions = async {
            match self.start.services.mcp.door_command() {
                Some(_) => self.await_extensions().await,
                None => Ok(()),
            }
        };
        let opening = Box::pin(self.open_agent(backend.as_ref()));
        let (mut opened, ()) = tokio::try_join!(opening, extensions)?;
        self.choose_settings(&mut opened).await?;
        loop {
            if self.model_calls >= max_prompts {
                return Ok(StopReason::MaxModelCalls);
            }
            if self.budget_spent() {
                return Ok(StopReason::Budget);
            }
            let Some((end, cost)) = self.prompt_agent(&mut opened).await? else {
                return Ok(StopReason::Budget);
            };
            self.spent.add(end.usage.unwrap_or_default(), cost.as_ref());
            if let Some(usage) = end.usage {
                opened.link.bridge.report_usage(Some(self.start.turn_id.clone()), usage).await;
            }
            let snapshot = self.snapshot().await?;
            let unheard = steered(&snapshot.items, &opened).first().map(|item| item.item_id.clone());
            let done = match end.stop {
                AgentStop::EndTurn if unheard.is_some() => continue,
                AgentStop::EndTurn => Ok(StopReason::EndTurn),
                AgentStop::MaxTokens => Ok(StopReason::MaxOutputTokens),
                AgentStop::MaxTurnRequests => Ok(StopReason::MaxModelCalls),
                AgentStop::Refusal => Ok(StopReason::Refusal),
                AgentStop::Cancelled => Err(TurnOutcome::Cancelled),
            };
            // What the agent said itself it knows, however it ended.
            let heard = snapshot.items.iter().take_while(|item| Some(&item.item_id) != unheard.as_ref());
            let heard: Vec<_> = heard.cloned().collect();
            self.note_seen(&mut opened, &heard).await;
            return done;
        }
    }

    fn provider_id(&self) -> &str {
        &self.start.model.selection.provider_id
    }

    /// The running agent of this session, or a new one.
    async fn open_agent(&self, backend: &dyn AgentBackend) -> TurnResult<Opened> {
        let services = &self.start.services;
        let session_id = self.start.session.session_id().clone();
        let snapshot = self.snapshot().await?;
        let mut record = read_records(services, &session_id).await?.providers.remove(self.provider_id());
        let forgets = record.as_ref().is_some_and(|record| record.unseen(&snapshot.items).is_none());
        let offer = Offer::new(services, self.start.extensions.as_ref());
        let plan = self.start.agent_plan.as_ref().filter(|_| services.mcp.door_command().is_none());
        let (servers, mut left_out) =
            plan.map_or_else(Default::default, |plan| doors::servers(&plan.extensions));
        let mut request = self.open_request(&snapshot, servers);
        let fingerprint = link::fingerprint(self.provider_id(), &request, offer.as_ref().map(Offer::hash));
        let live = services.agents.get(&session_id);
        if let Some(link) = live {
            self.unless_cancelled(link.settled()).await?;
            let known = record.as_ref().is_some_and(|r| r.agent_session_id == link.agent_session_id());
            if link.fits(fingerprint) && !forgets && known {
                let record = record.unwrap_or_default();
                return Ok(Opened { link, record, fresh: false, started: false, injected: HashSet::new() });
            }
            self.unless_cancelled(services.agents.close(&session_id)).await?;
        }
        if forgets && let Some(record) = &mut record {
            // The log was rewritten: what the agent remembers is not this conversation any more.
            *record = Record { chosen: std::mem::take(&mut record.chosen), ..Record::default() };
        }
        let before = record.unwrap_or_default();
        request.resume = Some(before.agent_session_id.clone()).filter(|id| !id.is_empty());
        let resumes = request.resume.is_some();
        let bridge = Bridge::new(
            services.clone(),
            self.start.session.clone(),
            self.provider_id(),
            &self.start.model.selection.model_id,
            resumes.then_some(before.cost_micros),
        );
        let mut door = None;
        match offer.map(|offer| offer.open(services, &bridge)) {
            Some(Ok((opened, servers))) => (door, request.mcp_servers) = (opened, servers),
            Some(Err(names)) => left_out.extend(names),
            None => {}
        }
        let opening = backend.open(request, bridge.clone());
        let session = self.unless_cancelled(opening).await?.map_err(TurnOutcome::Failed)?;
        let agent = session.opened().clone();
        bridge.set_name(&agent.name);
        let options = session.options();
        let link =
            services.agents.insert(services, &session_id, Link::new(fingerprint, session, bridge, door));
        let mut record = before;
        if !agent.continued {
            record = Record { chosen: record.chosen, ..Record::default() };
            agent.agent_session_id.clone_into(&mut record.agent_session_id);
        }
        write_record(services, &session_id, self.provider_id(), &record).await;
        let shown = self.start.session.edit(move |core| {
            effects::set_options(core, options);
            Ok(())
        });
        if shown.await.is_err() {
            return Err(TurnOutcome::Cancelled);
        }
        let lost = resumes && !agent.continued;
        self.say_what_is_missing(&agent.name, lost, left_out, &agent.servers_left_out).await?;
        Ok(Opened { link, record, fresh: !agent.continued, started: true, injected: HashSet::new() })
    }

    fn open_request(&self, snapshot: &Snapshot, mcp_servers: Vec<AgentMcpServer>) -> AgentOpen {
        let session = &snapshot.session;
        let context = self.start.agent_plan.as_ref().map(|plan: &ExtensionPlan| &plan.context);
        AgentOpen {
            session_id: session.session_id.clone(),
            working_directory: session.working_directory.clone().into(),
            additional_directories: session.additional_directories.iter().map(Into::into).collect(),
            denied_paths: context.map(|c| c.denied_paths.clone()).unwrap_or_default(),
            environment: context.map(|c| c.environment.clone()).unwrap_or_default(),
            mcp_servers,
            resume: None,
        }
    }

    async fn say_what_is_missing(
        &self,
        agent: &str,
        lost: bool,
        mut left_out: Vec<String>,
        unusable: &[String],
    ) -> TurnResult<()> {
        let mut payloads: Vec<Payload> = Vec::new();
        if lost {
            let text = format!("{agent} could not go on with its session and was given a transcript");
            payloads.push(self.notice(NoticeLevel::Warning, "agent_session_lost", text));
        }
        left_out.extend(unusable.iter().cloned());
        if !left_out.is_empty() {
            let text = format!("{agent} works without these extensions: {}", left_out.join(", "));
            payloads.push(self.notice(NoticeLevel::Warning, "extension_unavailable", text));
        }
        Ok(self.emit(payloads).await?)
    }

    /// Brings the agent's settings to what was chosen for this session.
    async fn choose_settings(&self, opened: &mut Opened) -> TurnResult<()> {
        self.follow_mode(opened, opened.started).await?;
        let model_id = &self.start.model.selection.model_id;
        let link = &opened.link;
        let mut wanted: Vec<(String, String)> = Vec::new();
        for option in link.session.options() {
            // The mode is set already; the agent may have left the one that was chosen, with the user's consent.
            let chosen = opened.record.chosen.get(&option.option_id).filter(|_| option.category != "mode");
            let model = (option.category == "model" && model_id != AGENT_MODEL_CURRENT).then_some(model_id);
            if let Some(value) = model.or(chosen).filter(|value| **value != option.value) {
                wanted.push((option.option_id.clone(), value.clone()));
            }
        }
        let offers_model = link.session.options().iter().any(|option| option.category == "model");
        if model_id != AGENT_MODEL_CURRENT && !offers_model {
            let message = format!(
                "agent {} offers no choice of models; use the model {AGENT_MODEL_CURRENT:?}",
                self.provider_id()
            );
            return Err(TurnOutcome::Failed(
                ErrorDetail::new(ErrorReason::ModelUnknown, message).with("modelId", model_id),
            ));
        }
        for (option_id, value) in wanted {
            let is_model = Some(&value) == Some(model_id);
            match self.unless_cancelled(link.session.set_option(&option_id, &value)).await? {
                Ok(options) => link.bridge.show_options(options).await,
                Err(error) if is_model => {
                    let reason = ErrorReason::ModelUnknown;
                    return Err(TurnOutcome::Failed(ErrorDetail { reason, ..error }));
                }
                // A choice of earlier that the agent does not offer any more.
                Err(error) => tracing::warn!(%error, option_id, "the agent's setting was not taken over"),
            }
        }
        Ok(())
    }

    /// One prompt with all that the agent has not seen, and what it has cost. `None`: it was ended because the turn's
    /// money is used up.
    async fn prompt_agent(
        &mut self,
        opened: &mut Opened,
    ) -> TurnResult<Option<(AgentPromptEnd, Option<Cost>)>> {
        let snapshot = self.snapshot().await?;
        let mut unseen = opened.record.unseen(&snapshot.items).unwrap_or(&snapshot.items).to_vec();
        unseen.retain(|item| !opened.injected.contains(&item.item_id));
        let unseen = self.inline_contents(&unseen).await;
        let instructions = if opened.fresh { &snapshot.session.instructions[..] } else { &[] };
        let parts = memory::prompt(&unseen, &self.start.turn_id, instructions);
        self.model_calls += 1;
        let started = Payload::ModelCallStarted {
            model: self.start.model.selection.clone(),
            call_index: self.model_calls,
        };
        self.emit(vec![started]).await?;
        // Noted before it is sent: after a crash the agent must not be told twice.
        self.note_seen(opened, &snapshot.items).await;
        opened.fresh = false;
        let link = opened.link.clone();
        let left = self.spent.left_of(&self.start.limits).max_cost_micros;
        let (turn_id, cancel) = (&self.start.turn_id, &self.start.cancel);
        let Signals { stop, spent } = link.bridge.begin(turn_id, cancel, self.start.mode, left).await;
        let mut running = Running::start(self.start.services.clone(), link.clone(), parts);
        let end = loop {
            let mode_changed = tokio::select! {
                biased;
                end = running.end() => break Some(end),
                () = cancel.cancelled() => break None,
                () = stop.cancelled() => break None,
                () = spent.cancelled() => break None,
                () = link.steered.notified() => false,
                () = link.mode_changed.notified() => true,
            };
            let doing = async {
                match mode_changed {
                    true => drop(self.follow_mode(opened, false).await),
                    false => self.inject(opened).await,
                }
            };
            tokio::pin!(doing);
            tokio::select! {
                biased;
                () = cancel.cancelled() => break None,
                () = stop.cancelled() => break None,
                () = spent.cancelled() => break None,
                () = &mut doing => {}
                end = running.end() => {
                    // Whether it took the input decides about another prompt.
                    let _ = tokio::time::timeout(STEER_WAIT, doing).await;
                    break Some(end);
                }
            }
        };
        let Some(end) = end else {
            running.cancel(CANCEL_WAIT).await;
            opened.record.cost_micros = link.bridge.cost_micros().await;
            if let Ok(snapshot) = self.snapshot().await {
                self.note_seen(opened, &snapshot.items).await;
            }
            let out_of_money = spent.is_cancelled() && !cancel.is_cancelled() && !stop.is_cancelled();
            return if out_of_money { Ok(None) } else { Err(TurnOutcome::Cancelled) };
        };
        let settle = link.session.opened().settle;
        if !settle.is_zero() && end.is_ok() {
            tokio::time::sleep(settle).await;
        }
        match end {
            Ok(end) => {
                let cost = link.bridge.end().await;
                opened.record.cost_micros = link.bridge.cost_micros().await;
                Ok(Some((end, cost)))
            }
            Err(error) => {
                // What was spent before is not counted again by the agent that is started next.
                opened.record.cost_micros = link.bridge.cost_micros().await;
                let session_id = self.start.session.session_id();
                write_record(&self.start.services, session_id, self.provider_id(), &opened.record).await;
                link.bridge.cut().await;
                link.bridge.unmute().await;
                Err(TurnOutcome::Failed(error))
            }
        }
    }

    /// Offers the agent what the user said since its prompt began.
    async fn inject(&self, opened: &mut Opened) {
        let Ok(snapshot) = self.snapshot().await else { return };
        for item in self.inline_contents(&steered(&snapshot.items, opened)).await {
            let ItemBody::UserMessage(message) = &item.body else { continue };
            if opened.link.session.steer(message.parts.clone()).await {
                opened.injected.insert(item.item_id.clone());
            }
        }
    }

    async fn note_seen(&self, opened: &mut Opened, items: &[Arc<Item>]) {
        opened.record.saw(items);
        let session_id = self.start.session.session_id();
        write_record(&self.start.services, session_id, self.provider_id(), &opened.record).await;
    }
}

/// What the user said while the agent worked and the agent has not taken in.
fn steered(items: &[Arc<Item>], opened: &Opened) -> Vec<Arc<Item>> {
    let newer = items.get(opened.record.seen..).unwrap_or_default().iter();
    let unheard = newer.filter(|item| !opened.injected.contains(&item.item_id));
    unheard.filter(|item| matches!(&item.body, ItemBody::UserMessage(m) if m.steered)).cloned().collect()
}

async fn read_records(services: &Services, session_id: &gander_domain::SessionId) -> TurnResult<Records> {
    let read = services.store.get_document(session_id, memory::DOCUMENT).await;
    let body = read.map_err(|error| TurnOutcome::Failed(store_error(&error)))?;
    Ok(body.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default())
}

/// Keeps a record. A failure is logged: the agent will be told some things twice.
async fn write_record(
    services: &Services,
    session_id: &gander_domain::SessionId,
    provider_id: &str,
    record: &Record,
) {
    let _one = services.agents.records.lock().await;
    let Ok(mut records) = read_records(services, session_id).await else { return };
    let chosen = records.providers.get(provider_id).map(|known| known.chosen.clone());
    // Settings are written by those who set them.
    let record = Record { chosen: chosen.unwrap_or_else(|| record.chosen.clone()), ..record.clone() };
    records.providers.insert(provider_id.to_owned(), record);
    let Ok(body) = serde_json::to_vec(&records) else { return };
    if let Err(error) = services.store.put_document(session_id, memory::DOCUMENT, Some(body)).await {
        tracing::warn!(%error, "what the agent has seen could not be noted");
    }
}

/// Sets one of the agent's settings: at once where it runs (then it says all of them), and for every start to come.
pub(crate) async fn set_agent_option(
    services: &Services,
    session_id: &gander_domain::SessionId,
    provider_id: &str,
    option_id: &str,
    value: &str,
) -> Result<Option<Vec<gander_domain::session::SessionOption>>, ErrorDetail> {
    let live = services.agents.get(session_id).filter(|link| link.session.is_open());
    let options = match &live {
        Some(link) => {
            let option = link.session.options().into_iter().find(|option| option.option_id == option_id);
            let mode = link.bridge.session_mode().await;
            if option.is_some_and(|option| modes::needs_auto(mode, &option, value, link.session.opened())) {
                let message = format!(
                    "the agent asks for no permission in {value:?}; set the session's mode to auto first"
                );
                return Err(ErrorDetail::invalid("value.choice", message));
            }
            let setting = link.session.set_option(option_id, value);
            let set = tokio::time::timeout(OPTION_WAIT, setting).await;
            Some(set.map_err(|_| {
                let message =
                    format!("agent {provider_id} did not answer within {} s", OPTION_WAIT.as_secs());
                ErrorDetail::new(ErrorReason::ProviderUnavailable, message)
            })??)
        }
        None => None,
    };
    let failed = |error: gander_store::StoreError| store_error(&error);
    let _one = services.agents.records.lock().await;
    let body = services.store.get_document(session_id, memory::DOCUMENT).await.map_err(failed)?;
    let mut records: Records = body.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
    let record = records.providers.entry(provider_id.to_owned()).or_default();
    record.chosen.insert(option_id.to_owned(), value.to_owned());
    let body = serde_json::to_vec(&records).map_err(|error| ErrorDetail::internal(error.to_string()))?;
    services.store.put_document(session_id, memory::DOCUMENT, Some(body)).await.map_err(failed)?;
    Ok(options)
}
