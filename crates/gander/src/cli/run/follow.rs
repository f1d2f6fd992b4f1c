//! A running turn on the terminal: its events, its questions, its interrupts, how it ended.
//!
//! Calls that answer or cancel run beside the stream of events, so that neither waits for the other.

use std::collections::{HashMap, HashSet, VecDeque};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use gander_client::{Client, ClientError};
use gander_proto::v1::{
    CancelTurnRequest, ErrorReason, Interaction, InteractionAnswer, RespondToInteractionRequest,
    RunTurnRequest, SessionEvent, StopReason, Turn, TurnState, interaction::Question, item::Body,
    session_event::Payload,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{
    args::RunArgs,
    ask::{self, Asking, Step},
    connect::{Connected, Context, Place},
    error::{CliError, CliResult, exit},
    json,
    output::{Tint, clean, paint},
    render::{Piece, Renderer},
    terminal::Lines,
};

/// Calls beside the stream.
enum Reply {
    Answered { interaction_id: String, result: Result<(), ClientError> },
    Cancelled(Result<(), ClientError>),
}

enum Interrupt {
    Cancel,
    Leave,
}

/// Ctrl-C, and the signals that ask a program to go.
struct Interrupts {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Interrupts {
    fn new() -> CliResult<Self> {
        let listen =
            |kind| signal(kind).map_err(|error| CliError::new(format!("cannot listen for signals: {error}")));
        Ok(Self {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.int.recv() => Interrupt::Cancel,
            _ = self.term.recv() => Interrupt::Leave,
            _ = self.hup.recv() => Interrupt::Leave,
        }
    }
}

/// A turn that is shown.
pub(super) struct Run<'a> {
    context: &'a Context,
    client: Client,
    place: Place,
    json: bool,
    /// There is a person to ask.
    interactive: bool,
    session_id: String,
    turn_id: String,
    renderer: Renderer,
    waiting: VecDeque<Interaction>,
    asking: Option<Asking>,
    /// Questions that were answered from here.
    answered: HashSet<String>,
    /// Open forms that were asked here: an answer that does not match is asked for again.
    forms: HashMap<String, Interaction>,
    /// The checks of the session's recipe failed for good.
    checks_failed: bool,
    lines: Lines,
    calls: FuturesUnordered<BoxFuture<'static, Reply>>,
    interrupts: u32,
}

impl<'a> Run<'a> {
    /// The turn that `request` starts, not asked for yet.
    pub(super) fn new(
        context: &'a Context,
        connected: &Connected,
        request: &RunTurnRequest,
        args: &RunArgs,
        renderer: Renderer,
    ) -> Self {
        Self {
            context,
            client: connected.client.clone(),
            place: connected.place.clone(),
            json: args.json,
            interactive: !args.no_interactive
                && context.out.stdin_is_terminal
                && context.out.stderr_is_terminal,
            session_id: request.session_id.clone(),
            turn_id: request.turn_id.clone(),
            renderer,
            waiting: VecDeque::new(),
            asking: None,
            answered: HashSet::new(),
            forms: HashMap::new(),
            checks_failed: false,
            lines: Lines::default(),
            calls: FuturesUnordered::new(),
            interrupts: 0,
        }
    }

    pub(super) async fn follow(&mut self, request: RunTurnRequest) -> CliResult<u8> {
        let mut interrupts = Interrupts::new()?;
        let mut events = self.client.run_turn(request);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        if let Some(turn) = self.event(&event)? {
                            return self.ended(&turn);
                        }
                    }
                    Some(Err(error)) => return Err(self.lost(error)),
                    None => return Err(CliError::new("the stream of events ended before the turn")),
                },
                interrupt = interrupts.next() => {
                    if self.interrupt(&interrupt)? {
                        return Ok(exit::LEFT);
                    }
                }
                line = self.lines.next(), if self.asking.is_some() => self.line(line)?,
                Some(reply) = self.calls.next(), if !self.calls.is_empty() => self.reply(reply)?,
            }
        }
    }

    /// Shows an event. Returns the turn when it is its last.
    fn event(&mut self, event: &SessionEvent) -> CliResult<Option<Turn>> {
        // Not logged: they say nothing about the session.
        if matches!(event.payload, Some(Payload::Checkpoint(_) | Payload::StreamClosing(_))) {
            return Ok(None);
        }
        if self.json {
            self.context.out.line(&json::line(event)?)?;
        }
        let ours = event.turn_id == self.turn_id;
        match &event.payload {
            Some(Payload::InteractionRequested(requested)) if ours => {
                if let Some(interaction) = requested.interaction.clone() {
                    self.requested(event, interaction)?;
                }
                return Ok(None);
            }
            Some(Payload::InteractionResolved(resolved)) => {
                self.forms.remove(&resolved.interaction_id);
                self.waiting.retain(|waiting| waiting.interaction_id != resolved.interaction_id);
                let was_asked =
                    self.asking.as_ref().is_some_and(|a| a.interaction_id == resolved.interaction_id);
                if was_asked {
                    self.asking = None;
                }
                // Who cancelled the turn knows why the question is gone.
                let expected = self.answered.contains(&resolved.interaction_id) || self.interrupts > 0;
                if was_asked && !expected {
                    let pieces = self.renderer.resolved_elsewhere(resolved);
                    self.context.out.chrome("\n");
                    self.write(pieces)?;
                }
                self.ask_next()?;
            }
            Some(Payload::ItemCompleted(done)) if ours => {
                let body = done.item.as_ref().and_then(|item| item.body.as_ref());
                self.checks_failed |=
                    matches!(body, Some(Body::Notice(n)) if n.code == "recipe_checks_failed");
            }
            Some(Payload::TurnEnded(ended)) if ours => return Ok(ended.turn.clone()),
            _ => {}
        }
        if !self.json {
            let pieces = self.renderer.event(event);
            self.write(pieces)?;
        }
        Ok(None)
    }

    fn requested(&mut self, event: &SessionEvent, interaction: Interaction) -> CliResult<()> {
        // A person who is asked must see what about, also with --json; that goes to stderr.
        if self.interactive || !self.json {
            let pieces = self.renderer.event(event);
            self.write(pieces)?;
        }
        if self.interactive {
            if matches!(interaction.question, Some(Question::ElicitForm(_))) {
                self.forms.insert(interaction.interaction_id.clone(), interaction.clone());
            }
            self.waiting.push_back(interaction);
            return self.ask_next();
        }
        if let Some(answer) = ask::refusal(&interaction) {
            let text =
                "  answered with no: there is nobody to ask (run it in a terminal, or with --mode auto)";
            let color = self.context.out.stderr_color;
            self.context.out.chrome(&format!("{}\n", paint(color, Tint::Yellow, text)));
            self.answer(interaction.interaction_id, answer);
        }
        Ok(())
    }

    /// Asks the next question that waits.
    fn ask_next(&mut self) -> CliResult<()> {
        while self.asking.is_none() {
            let Some(interaction) = self.waiting.pop_front() else { return Ok(()) };
            self.asking = Asking::new(&interaction);
            if self.asking.is_some() {
                self.lines.listen_afresh();
                self.prompt();
            }
        }
        Ok(())
    }

    fn prompt(&self) {
        if let Some(asking) = &self.asking {
            let color = self.context.out.stderr_color;
            self.context.out.chrome(&paint(color, Tint::Yellow, &asking.prompt()));
        }
    }

    /// A line that was typed; `None` at the end of the input.
    fn line(&mut self, line: Option<String>) -> CliResult<()> {
        let Some(line) = line else {
            // Nobody types any more: whoever else watches may still answer.
            self.interactive = false;
            self.asking = None;
            self.context.out.note(
                "\n  (the end of the input: the question stays open for other clients; Ctrl-C cancels)",
            );
            return Ok(());
        };
        let Some(asking) = &mut self.asking else { return Ok(()) };
        match asking.line(&line) {
            Step::Ask(text) => {
                if !text.is_empty() {
                    self.context.out.chrome(&format!("{text}\n"));
                }
                self.prompt();
            }
            Step::Answer(answer) => {
                let interaction_id = asking.interaction_id.clone();
                self.asking = None;
                self.answer(interaction_id, answer);
                self.ask_next()?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, interaction_id: String, answer: InteractionAnswer) {
        self.answered.insert(interaction_id.clone());
        let request = RespondToInteractionRequest {
            interaction_id: interaction_id.clone(),
            answer: Some(answer),
            session_id: self.session_id.clone(),
            idempotency_key: String::new(),
        };
        let mut interactions = self.client.interactions();
        let call = async move {
            let result = interactions.respond_to_interaction(request).await;
            Reply::Answered { interaction_id, result: result.map(|_| ()).map_err(ClientError::from) }
        };
        self.calls.push(call.boxed());
    }

    fn reply(&mut self, reply: Reply) -> CliResult<()> {
        match reply {
            Reply::Answered { result: Ok(()), .. } | Reply::Cancelled(Ok(())) => Ok(()),
            Reply::Answered { result: Err(error), .. } if error.is(ErrorReason::InteractionResolved) => {
                let by = error
                    .metadata
                    .get("answeredBy")
                    .map(|by| format!(" ({})", clean(by)))
                    .unwrap_or_default();
                let pieces = self.renderer.remark(&format!("someone else answered first{by}"));
                self.write(pieces)
            }
            Reply::Answered { interaction_id, result: Err(error) } => {
                self.answered.remove(&interaction_id);
                let wrong = error.is(ErrorReason::ElicitationContentInvalid);
                self.context.out.error(&error.into());
                if let Some(form) = self.forms.get(&interaction_id).filter(|_| wrong) {
                    self.waiting.push_front(form.clone());
                    return self.ask_next();
                }
                Ok(())
            }
            Reply::Cancelled(Err(error)) => {
                self.context.out.error(&error.into());
                Ok(())
            }
        }
    }

    /// Returns whether to leave.
    fn interrupt(&mut self, interrupt: &Interrupt) -> CliResult<bool> {
        self.interrupts += 1;
        if self.context.out.stderr_is_terminal && self.renderer.at_line_start() {
            // Behind the ^C that the terminal shows.
            self.context.out.chrome("\n");
        }
        if matches!(interrupt, Interrupt::Leave) || self.interrupts > 1 {
            let text = match self.place {
                Place::Embedded => {
                    "left; the engine was in this process, so the turn ends with it".to_owned()
                }
                _ => format!("left; the turn goes on: gander session events {} --follow", self.session_id),
            };
            let mut pieces = self.renderer.finish_line();
            pieces.extend(self.renderer.remark(&text));
            self.write(pieces)?;
            return Ok(true);
        }
        let pieces = self.renderer.remark("cancelling the turn; Ctrl-C again leaves at once");
        self.write(pieces)?;
        let request = CancelTurnRequest {
            session_id: self.session_id.clone(),
            turn_id: self.turn_id.clone(),
            allow_missing: true,
            idempotency_key: String::new(),
        };
        let mut turns = self.client.turns();
        let call = async move {
            let result = turns.cancel_turn(request).await;
            Reply::Cancelled(result.map(|_| ()).map_err(ClientError::from))
        };
        self.calls.push(call.boxed());
        Ok(false)
    }

    fn ended(&mut self, turn: &Turn) -> CliResult<u8> {
        if !self.json {
            let pieces = self.renderer.end(turn);
            self.write(pieces)?;
        }
        match (exit_code(turn), &turn.error) {
            (exit::ERROR | exit::LIMIT, Some(error)) if turn.state() == TurnState::Failed => {
                Err(CliError { exit: exit_code(turn), ..CliError::detail(error) })
            }
            (exit::ERROR, None) => Err(CliError::new("the turn failed without a reason")),
            (exit::OK, _) if self.checks_failed => Ok(exit::ERROR),
            (code, _) => Ok(code),
        }
    }

    /// The stream broke for good. The turn does not depend on it.
    fn lost(&mut self, error: ClientError) -> CliError {
        let pieces = self.renderer.finish_line();
        let _ = self.write(pieces);
        let lost = error.is_transport_loss();
        let mut error = CliError::from(error);
        if lost {
            error.remedy = Some(format!(
                "nothing that happened is lost: `gander session events {}` shows it, `gander run --session {}` goes on",
                self.session_id, self.session_id
            ));
        }
        error
    }

    fn write(&self, pieces: Vec<Piece>) -> CliResult<()> {
        write(self.context, self.json, pieces)
    }
}

pub(super) fn write(context: &Context, json: bool, pieces: Vec<Piece>) -> CliResult<()> {
    for piece in pieces {
        match piece {
            // JSON is all that stdout gets then.
            Piece::Answer(_) if json => {}
            Piece::Answer(text) => context.out.print(&text)?,
            Piece::Chrome(text) => context.out.chrome(&text),
        }
    }
    Ok(())
}

/// The exit code of a turn that has ended.
fn exit_code(turn: &Turn) -> u8 {
    match turn.state() {
        TurnState::Completed => match turn.stop_reason() {
            StopReason::MaxModelCalls | StopReason::Budget | StopReason::MaxOutputTokens => exit::LIMIT,
            StopReason::EndTurn | StopReason::Refusal | StopReason::Unspecified => exit::OK,
        },
        TurnState::Cancelled => exit::CANCELLED,
        TurnState::Interrupted => exit::INTERRUPTED,
        _ if turn.error.as_ref().is_some_and(|e| e.reason() == ErrorReason::BudgetExceeded) => exit::LIMIT,
        _ => exit::ERROR,
    }
}

#[cfg(test)]
mod tests {
    use gander_proto::v1::ErrorDetail;

    use super::*;

    #[test]
    fn exit_codes_tell_the_outcome() {
        use StopReason as Stop;
        use TurnState as State;
        for (state, stop, reason, code) in [
            (State::Completed, Stop::EndTurn, None, 0),
            (State::Completed, Stop::Refusal, None, 0),
            (State::Completed, Stop::MaxModelCalls, None, 5),
            (State::Completed, Stop::Budget, None, 5),
            (State::Completed, Stop::MaxOutputTokens, None, 5),
            (State::Cancelled, Stop::Unspecified, None, 3),
            (State::Interrupted, Stop::Unspecified, None, 4),
            (State::Failed, Stop::Unspecified, Some(ErrorReason::ProviderUnavailable), 1),
            (State::Failed, Stop::Unspecified, Some(ErrorReason::BudgetExceeded), 5),
            (State::Unspecified, Stop::Unspecified, None, 1),
        ] {
            let error = reason.map(|reason| ErrorDetail { reason: reason as i32, ..ErrorDetail::default() });
            let turn = Turn { state: state as i32, stop_reason: stop as i32, error, ..Turn::default() };
            assert_eq!(exit_code(&turn), code, "{state:?} {stop:?}");
        }
    }
}
