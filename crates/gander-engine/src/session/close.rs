//! How turns end: everything they opened is closed in the same commit as their one terminal event.

use gander_domain::{
    ErrorDetail, ErrorReason, Payload, Timestamp, Turn, TurnId,
    event::recovered_status,
    interaction::{InteractionOutcome, Resolution},
    item::{Item, ItemBody, ItemState, ToolCallStatus, ToolOutcome, ToolResult},
    turn::{InterruptCause, TurnOutcome, TurnState},
};

use super::core::Core;

/// Why open items are being closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The turn went its way to the end; items still open were abandoned by it.
    Ended,
    Cancelled,
    /// The daemon stopped: running tools may have had their effect.
    Lost,
}

impl Core {
    /// Appends the end of a turn and of everything it left open.
    pub(super) fn close_turn(&mut self, turn_id: &TurnId, outcome: TurnOutcome) {
        let Some(turn) = self.state.turn(turn_id).cloned() else { return };
        if turn.state.is_terminal() {
            return;
        }
        let outcome = match outcome {
            // A cancelled turn never fails: what broke was being thrown away.
            TurnOutcome::Failed(_) if turn.state == TurnState::Cancelling => TurnOutcome::Cancelled,
            other => other,
        };
        let cut = match &outcome {
            TurnOutcome::Completed(_) | TurnOutcome::Failed(_) => Cut::Ended,
            TurnOutcome::Cancelled => Cut::Cancelled,
            TurnOutcome::Interrupted(_) => Cut::Lost,
        };
        self.close_open(Some(turn_id), cut);
        let mut turn: Turn = self.state.turn(turn_id).cloned().unwrap_or(turn);
        turn.end_time = Some(self.now());
        turn.last_sequence = self.state.last_sequence() + 1;
        match outcome {
            TurnOutcome::Completed(reason) => {
                turn.state = TurnState::Completed;
                turn.stop_reason = Some(reason);
            }
            TurnOutcome::Failed(error) => {
                turn.state = TurnState::Failed;
                turn.error = Some(error);
            }
            TurnOutcome::Cancelled => turn.state = TurnState::Cancelled,
            TurnOutcome::Interrupted(cause) => {
                turn.state = TurnState::Interrupted;
                turn.interrupted_by = Some(cause);
            }
        }
        self.emit(Some(turn_id.clone()), Payload::TurnEnded { turn: Box::new(turn) });
    }

    /// Closes what a stopped daemon left open. Nothing is run again.
    pub(super) fn recover(&mut self) {
        let open: Vec<TurnId> =
            self.state.turns.iter().filter(|t| !t.state.is_terminal()).map(|t| t.turn_id.clone()).collect();
        for turn_id in open {
            self.close_turn(&turn_id, TurnOutcome::Interrupted(InterruptCause::Restart));
        }
        // Whatever belongs to no turn.
        self.close_open(None, Cut::Lost);
        if let Some(ended) = self.state.turns.iter().rev().find(|t| t.last_sequence > 0) {
            let (through, at) = (ended.last_sequence, ended.end_time.unwrap_or(Timestamp(0)));
            let age = u64::try_from(self.now().0 - at.0).unwrap_or(0);
            let left =
                self.services.options.delta_retention.saturating_sub(std::time::Duration::from_micros(age));
            self.drop_deltas = Some((std::time::Instant::now() + left, through));
        }
    }

    fn close_open(&mut self, turn_id: Option<&TurnId>, cut: Cut) {
        let pending: Vec<_> = self
            .state
            .pending_interactions(turn_id)
            .into_iter()
            .map(|i| (i.interaction_id.clone(), i.turn_id.clone()))
            .collect();
        for (interaction_id, of_turn) in pending {
            let resolution = Resolution {
                interaction_id,
                outcome: InteractionOutcome::Voided,
                answer: None,
                answered_by: None,
                rule_created: None,
            };
            self.resolve_interaction(of_turn, resolution);
        }
        for item in self.state.open_items(turn_id) {
            let closed = closed_item(&item, cut, self.now());
            self.emit(item.turn_id.clone(), Payload::ItemCompleted { item: Box::new(closed) });
        }
    }
}

fn closed_item(item: &Item, cut: Cut, now: Timestamp) -> Item {
    let mut item = item.clone();
    item.state = ItemState::Completed;
    item.incomplete = true;
    item.complete_time = Some(now);
    if let ItemBody::ToolCall(call) = &mut item.body {
        let (status, outcome, reason, text) = match cut {
            Cut::Lost if recovered_status(call.status) == ToolCallStatus::OutcomeUnknown => (
                ToolCallStatus::OutcomeUnknown,
                ToolOutcome::OutcomeUnknown,
                ErrorReason::ShuttingDown,
                "the daemon stopped while this tool ran; it may or may not have had its effect",
            ),
            Cut::Lost => (
                ToolCallStatus::Cancelled,
                ToolOutcome::Cancelled,
                ErrorReason::ShuttingDown,
                "the daemon stopped before this tool ran",
            ),
            Cut::Cancelled | Cut::Ended => (
                ToolCallStatus::Cancelled,
                ToolOutcome::Cancelled,
                ErrorReason::TurnNotRunning,
                "cancelled before it completed",
            ),
        };
        call.status = status;
        call.result = Some(ToolResult::failed(outcome, ErrorDetail::new(reason, text)));
    }
    item
}
