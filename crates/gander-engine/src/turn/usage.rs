//! What model calls cost, and how full the context is between a provider's counts.

use std::sync::{Mutex, PoisonError};

use gander_domain::{
    Payload, Sequence, Usage,
    event::UsageReport,
    tool::ToolDefinition,
    turn::TurnLimits,
    usage::{Cost, UsagePurpose},
};

use super::{Snapshot, Stopped, TurnTask, response::ResponseEnd};
use crate::{completion::Completion, estimate, session::Core};

/// Window of models that nobody knows.
const UNKNOWN_WINDOW: u64 = 128_000;
/// Model calls between two compactions of one turn that a full context causes.
const CALLS_BETWEEN: u32 = 4;

/// The last count of a provider in this turn.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Gauge {
    /// Tokens of request and response, and up to which event the request saw the log.
    measured: Option<(u64, Sequence)>,
}

/// What a turn has used so far, with its judge, its sub-agents and what its MCP servers ask the model. Calls of one
/// response run at once and share it.
#[derive(Debug, Default)]
pub(crate) struct Spent(Mutex<Sum>);

#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    tokens: u64,
    cost_micros: i64,
}

impl Spent {
    /// Counts a model call.
    pub(crate) fn add(&self, call: Usage, cost: Option<&Cost>) {
        let parts = || call.input_tokens.unwrap_or(0).saturating_add(call.output_tokens.unwrap_or(0));
        let tokens = call.total_tokens.unwrap_or_else(parts);
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sum.tokens = sum.tokens.saturating_add(tokens);
        sum.cost_micros = sum.cost_micros.saturating_add(cost.map_or(0, |c| c.amount_micros));
    }

    fn sum(&self) -> Sum {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is left of what the limits allow.
    pub(crate) fn reaches(&self, limits: &TurnLimits) -> bool {
        let sum = self.sum();
        limits.max_tokens.is_some_and(|max| sum.tokens >= max)
            || limits.max_cost_micros.is_some_and(|max| sum.cost_micros >= max)
    }

    /// Limits in tokens and money of work that may use what is left of these.
    pub(super) fn left_of(&self, limits: &TurnLimits) -> TurnLimits {
        let sum = self.sum();
        TurnLimits {
            max_tokens: limits.max_tokens.map(|max| max.saturating_sub(sum.tokens).max(1)),
            max_cost_micros: limits.max_cost_micros.map(|max| max.saturating_sub(sum.cost_micros).max(1)),
            ..TurnLimits::default()
        }
    }
}

/// A finished model call, for [`Core::report_usage`].
#[derive(Debug, Clone)]
pub(crate) struct CallReport {
    pub purpose: UsagePurpose,
    pub call: Usage,
    pub cost: Option<Cost>,
    pub context_used_tokens: Option<u64>,
    pub context_window_tokens: Option<u64>,
}

impl CallReport {
    /// Of a call beside the conversation: it says nothing about the context.
    pub(crate) fn beside(purpose: UsagePurpose, done: &Completion) -> Self {
        Self {
            purpose,
            call: done.usage,
            cost: done.cost.clone(),
            context_used_tokens: None,
            context_window_tokens: None,
        }
    }

    /// Whether the provider counted anything.
    pub(crate) fn is_known(&self) -> bool {
        self.call != Usage::default() || self.cost.is_some()
    }
}

impl Core {
    /// Logs what a model call cost, with the session's new totals.
    pub(crate) fn report_usage(&mut self, turn_id: Option<gander_domain::TurnId>, report: CallReport) {
        let CallReport { purpose, call, cost, context_used_tokens, context_window_tokens } = report;
        let usage = &self.state.session.usage;
        let cost_totals = match (&usage.cost_totals, &cost) {
            (Some(total), Some(more)) if total.currency == more.currency => {
                Some(Cost { amount_micros: total.amount_micros + more.amount_micros, ..total.clone() })
            }
            (total, more) => total.clone().or_else(|| more.clone()),
        };
        let report = UsageReport {
            purpose,
            call,
            session_totals: usage.totals.plus(call),
            context_used_tokens,
            context_window_tokens,
            cost,
            cost_totals,
        };
        self.emit(turn_id, Payload::UsageReported(Box::new(report)));
    }
}

impl TurnTask {
    /// The model's window in tokens, if it is known.
    pub(super) fn window(&self) -> Option<u64> {
        let selection = &self.start.model.selection;
        selection.context_limit.or_else(|| {
            let info = self.start.model.provider.info();
            let model = info.models.iter().find(|m| m.model_id == selection.model_id);
            model.and_then(|m| m.context_window_tokens)
        })
    }

    /// Logs the counts of a response; without any nothing is known and nothing is said.
    pub(super) async fn note_usage(&mut self, end: &ResponseEnd, snapshot: &Snapshot) -> Result<(), Stopped> {
        let (call, cost) = (end.usage, end.cost.clone());
        if call == Usage::default() && cost.is_none() {
            return Ok(());
        }
        let used = call.input_tokens.map(|input| input.saturating_add(call.output_tokens.unwrap_or(0)));
        self.gauge.measured = used.map(|used| (used, snapshot.through));
        let report = CallReport {
            purpose: UsagePurpose::Turn,
            call,
            cost,
            context_used_tokens: used,
            context_window_tokens: self.window(),
        };
        self.report(report).await
    }

    /// Logs what a call of this turn cost, and counts it against the turn's budget.
    pub(super) async fn report(&self, report: CallReport) -> Result<(), Stopped> {
        self.spent.add(report.call, report.cost.as_ref());
        let turn_id = Some(self.start.turn_id.clone());
        let posted = self.start.session.post(move |core| {
            if core.is_running(turn_id.as_ref()) {
                core.report_usage(turn_id, report);
            }
        });
        posted.await.map_err(|_| Stopped)
    }

    /// Tokens that the next request will have: the last count and an estimate of what came since.
    pub(super) fn context_tokens(&self, snapshot: &Snapshot, tools: &[ToolDefinition]) -> u64 {
        let since = |from: Sequence| -> u64 {
            let newer = snapshot.entries.iter().filter(|e| e.first_sequence > from);
            newer.map(|e| estimate::after_measure(&e.item)).sum()
        };
        if let Some((used, through)) = self.gauge.measured {
            return used.saturating_add(since(through));
        }
        if let Some(used) = snapshot.session.context_used_tokens {
            let mine = |i: &gander_domain::Item| i.turn_id.as_ref() == Some(&self.start.turn_id);
            let new: u64 = snapshot.items.iter().filter(|i| mine(i)).map(|i| estimate::of_item(i)).sum();
            return used.saturating_add(new);
        }
        let items: u64 = snapshot.items.iter().map(|i| estimate::of_item(i)).sum();
        let material = estimate::of_text(&self.material.hints);
        items.saturating_add(estimate::of_tools(tools)).saturating_add(material)
    }

    /// Whether the conversation should be summarized before the next call.
    pub(super) fn is_nearly_full(&self, snapshot: &Snapshot, tools: &[ToolDefinition]) -> bool {
        let Some(threshold) = self.start.services.compaction_threshold() else { return false };
        if self.compacted_after.is_some_and(|calls| self.model_calls < calls + CALLS_BETWEEN) {
            return false;
        }
        let window = self.window().unwrap_or(UNKNOWN_WINDOW);
        self.context_tokens(snapshot, tools) as f64 > window as f64 * threshold
    }

    /// Tokens of the newest items that a compaction leaves as they are.
    pub(super) fn tokens_to_keep(&self, trigger: crate::compaction::Trigger) -> u64 {
        use crate::compaction::Trigger as T;
        let window = self.window().unwrap_or(UNKNOWN_WINDOW);
        match trigger {
            T::Manual => 0,
            T::Threshold => (window / 5).min(20_000),
            T::Overflow => (window / 10).min(10_000),
        }
    }

    /// After a compaction the old count says nothing.
    pub(super) fn forget_measure(&mut self) {
        self.gauge = Gauge::default();
        self.compacted_after = Some(self.model_calls);
    }
}

#[cfg(test)]
mod tests {
    use gander_domain::usage::CostSource;

    use super::*;

    #[test]
    fn calls_add_up_however_they_are_counted() {
        let spent = Spent::default();
        let limits = TurnLimits { max_tokens: Some(20), max_cost_micros: Some(50), ..TurnLimits::default() };
        spent.add(Usage { total_tokens: Some(7), input_tokens: Some(6), ..Usage::default() }, None);
        spent.add(Usage { input_tokens: Some(3), output_tokens: Some(2), ..Usage::default() }, None);
        let left = spent.left_of(&limits);
        assert_eq!((left.max_tokens, left.max_cost_micros), (Some(8), Some(50)));
        assert!(!spent.reaches(&limits) && !spent.reaches(&TurnLimits::default()));
        let cost = |amount_micros| Cost { amount_micros, currency: "USD".into(), source: CostSource::Table };
        spent.add(Usage::default(), Some(&cost(30)));
        assert!(!spent.reaches(&limits));
        spent.add(Usage::default(), Some(&cost(30)));
        assert!(spent.reaches(&limits), "money alone is enough");
        let left = spent.left_of(&limits);
        assert_eq!(left.max_cost_micros, Some(1), "a limit of nothing would be none");
    }
}
