//! Summarizes older items for the model. Nothing is erased: the items stay for people, and the log says what was hidden.

use std::sync::Arc;

use gander_domain::{
    ErrorDetail, ErrorReason, Item, ItemBody, Payload,
    event::{HistoryChange, HistoryChangeKind, VisibilityChange},
    fold::ItemEntry,
    item::{Compaction, NoticeLevel, Visibility},
    turn::{StopReason, TurnOutcome},
    usage::UsagePurpose,
};
use gander_model::{ModelError, ModelErrorClass};
use rand::RngExt as _;
use serde_json::json;

use super::{
    Snapshot, TurnResult, TurnTask,
    retry::{self, Failed},
    usage::CallReport,
};
use crate::{
    compaction::{self, Plan, Trigger},
    completion::{Completion, complete},
    content::offload_parts,
    estimate, templates,
};

/// Shares of the tool results that are left out, one after the other, until the summary's own request fits.
const DROPPED: [u32; 5] = [0, 10, 20, 50, 100];
const PROMPT: &str = "Write the notes.";

impl TurnTask {
    /// Summarizes before the turn goes on. `false`: there was nothing to gain, or it failed and the user was told.
    pub(super) async fn compact_if_possible(&mut self, trigger: Trigger) -> TurnResult<bool> {
        match self.compact(trigger, "").await? {
            Ok(item) => Ok(item.is_some()),
            Err(error) => {
                self.compacted_after = Some(self.model_calls);
                let text = format!("the conversation could not be summarized: {}", error.message);
                let notice = self.notice(NoticeLevel::Warning, "compaction_failed", text);
                self.emit(vec![notice]).await?;
                Ok(false)
            }
        }
    }

    /// The work of a turn that only summarizes.
    pub(super) async fn compact_on_request(&mut self, instructions: &str) -> TurnResult<StopReason> {
        match self.compact(Trigger::Manual, instructions).await? {
            Ok(Some(_)) => Ok(StopReason::EndTurn),
            Ok(None) if self.was_typed().await? => {
                self.say("There is nothing to summarize.".to_owned()).await
            }
            Ok(None) => Ok(StopReason::EndTurn),
            Err(error) => Err(TurnOutcome::Failed(error)),
        }
    }

    /// Whether a message began this turn: who calls the API gets its answer.
    async fn was_typed(&self) -> TurnResult<bool> {
        let turn_id = self.start.turn_id.clone();
        let read = self.start.session.edit(move |core| {
            let mine = |i: &Item| i.turn_id.as_ref() == Some(&turn_id);
            let typed = |i: &Item| mine(i) && matches!(i.body, ItemBody::UserMessage(_));
            Ok(core.state.items.iter().rev().any(|e| typed(&e.item)))
        });
        match read.await {
            Ok(Ok(read)) => Ok(read.value),
            _ => Err(TurnOutcome::Cancelled),
        }
    }

    /// The outer error ends the turn; the inner one says why there is no summary.
    async fn compact(
        &mut self,
        trigger: Trigger,
        instructions: &str,
    ) -> TurnResult<Result<Option<Item>, ErrorDetail>> {
        let snapshot = self.snapshot().await?;
        let keep = self.tokens_to_keep(trigger);
        let Some(plan) = compaction::plan(&snapshot.items, keep, trigger) else { return Ok(Ok(None)) };
        self.emit(vec![Payload::StatusNoted {
            level: NoticeLevel::Info,
            code: "compaction_started".to_owned(),
            text: status_text(trigger).to_owned(),
        }])
        .await?;
        let summarized = snapshot.items[..plan.cut].to_vec();
        let done = match self.summarize(&summarized, instructions).await? {
            Ok(done) => done,
            Err(error) => return Ok(Err(error)),
        };
        let item = self.store_summary(trigger, &plan, &snapshot, &done).await?;
        Ok(Ok(Some(item)))
    }

    /// Writes the summary and hides what it stands for, in one commit.
    async fn store_summary(
        &mut self,
        trigger: Trigger,
        plan: &Plan,
        snapshot: &Snapshot,
        done: &Completion,
    ) -> TurnResult<Item> {
        let entries = &snapshot.entries;
        let (replaced, kept) = entries.split_at(plan.cut);
        let last_message = plan.last_message.and_then(|i| entries.get(i)).map(|e| &*e.item);
        let parts = compaction::summary_parts(&done.text, snapshot.plan.as_deref(), last_message);
        let (summary_parts, contents) = offload_parts(parts).map_err(TurnOutcome::Failed)?;
        let body = Compaction {
            summary_parts,
            replaced_through_sequence: replaced.last().map_or(0, |e| e.first_sequence),
            trigger: trigger.as_str().to_owned(),
        };
        let mut item = self.item(ItemBody::Compaction(body), Visibility { user: false, model: true });
        item.model_id = Some(self.start.model.selection.model_id.clone());
        let hide = |e: &ItemEntry| VisibilityChange {
            item_id: e.item.item_id.clone(),
            user: e.item.visibility.user,
            model: false,
        };
        let change = HistoryChange {
            kind: HistoryChangeKind::Compacted,
            visibility_changes: replaced.iter().map(hide).collect(),
            hidden_from_sequence: None,
            summary_item_id: Some(item.item_id.clone()),
        };
        let left: u64 = kept.iter().map(|e| estimate::of_item(&e.item)).sum();
        let report = CallReport {
            purpose: UsagePurpose::Compaction,
            call: done.usage,
            cost: done.cost.clone(),
            context_used_tokens: Some(left + estimate::of_item(&item)),
            context_window_tokens: self.window(),
        };
        self.spent.add(report.call, report.cost.as_ref());
        let (turn_id, stored) = (Some(self.start.turn_id.clone()), item.clone());
        let edit = self.start.session.edit(move |core| {
            if core.is_running(turn_id.as_ref()) {
                core.attach(contents);
                core.emit(turn_id.clone(), Payload::ItemCompleted { item: Box::new(stored) });
                core.emit(turn_id.clone(), Payload::HistoryChanged(change));
                core.report_usage(turn_id, report);
            }
            Ok(())
        });
        if !matches!(edit.await, Ok(Ok(_))) {
            return Err(TurnOutcome::Cancelled);
        }
        self.forget_measure();
        Ok(item)
    }

    /// The model's summary of these items.
    async fn summarize(
        &self,
        items: &[Arc<Item>],
        instructions: &str,
    ) -> TurnResult<Result<Completion, ErrorDetail>> {
        let items = self.inline_contents(items).await;
        let provider_id = &self.start.model.selection.provider_id;
        for dropped in DROPPED {
            let values =
                json!({ "messages": compaction::transcript(&items, dropped), "instructions": instructions });
            let system = self.start.services.render_template(templates::COMPACTION, &values);
            match self.call_with_retries(system).await? {
                Ok(done) if done.text.trim().is_empty() => {
                    return Ok(Err(ErrorDetail::new(
                        ErrorReason::ProviderBadRequest,
                        "the model answered with an empty summary",
                    )));
                }
                Ok(done) => return Ok(Ok(done)),
                Err(error) if error.class == ModelErrorClass::ContextExceeded => {}
                Err(error) => return Ok(Err(error.to_detail(provider_id))),
            }
        }
        Ok(Err(ErrorDetail::new(
            ErrorReason::ContextWindowExceeded,
            "the conversation is too long even to be summarized by this model; choose one with a larger context \
             window, or start anew with /clear",
        )))
    }

    async fn call_with_retries(&self, system: String) -> TurnResult<Result<Completion, ModelError>> {
        let services = &self.start.services;
        let mut attempt = 1;
        loop {
            let call =
                complete(&self.start.model, &*services.source, system.clone(), PROMPT.to_owned(), None);
            let error = match self.unless_cancelled(call).await? {
                Ok(done) => return Ok(Ok(done)),
                Err(error) if error.held_back => {
                    self.wait_as_asked(&error).await?;
                    continue;
                }
                Err(error) => error,
            };
            let failed = Failed { error: &error, attempt, began: false, tools_ran: false };
            let random = rand::rng().random_range(0.0..1.0);
            let Some(pause) = retry::pause(failed, services.options.retry_base, random) else {
                return Ok(Err(error));
            };
            self.unless_cancelled(tokio::time::sleep(pause)).await?;
            attempt += 1;
        }
    }
}

fn status_text(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::Manual => "summarizing the conversation",
        Trigger::Threshold => "the context is nearly full; summarizing the conversation",
        Trigger::Overflow => "the conversation is too long for the model; summarizing it to go on",
    }
}
