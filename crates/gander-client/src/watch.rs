//! Streams of events that survive the loss of a connection.
//!
//! The invariant: the events that a caller sees are those of the log after its cursor, in order, none twice and none
//! missing, however often the connection is cut. The cursor moves with every logged event and with a checkpoint that
//! says "caught up". A stream that ends without `StreamClosing` or the awaited `TurnEnded` was cut.
//!
//! A watch holds no state in the daemon: dropping it affects nothing there.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt as _};
use gander_proto::v1::{
    GetSessionRequest, RunTurnRequest, SessionEvent, StreamCloseReason, StreamClosing, WatchSessionRequest,
    session_event::Payload,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use crate::{Client, ClientError, transport::jitter};

/// Events of one session; ends after an error.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<SessionEvent, ClientError>> + Send>>;

type RawStream = Pin<Box<dyn Stream<Item = Result<Option<SessionEvent>, Status>> + Send>>;

/// A stream that stayed open this long counts as a recovered connection even if no event came.
const STABLE: Duration = Duration::from_secs(1);

/// How streams come back after a lost connection.
#[derive(Clone, Debug)]
pub struct ReconnectOptions {
    /// First pause; doubled with every further failure, with jitter.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
    /// How long the daemon may be away, in one piece, before the stream gives up with the last error. Zero: do not
    /// come back at all.
    pub max_outage: Duration,
    /// A stream without a message for this long is dead. The daemon sends a checkpoint about every 15 s.
    pub max_silence: Duration,
}

impl Default for ReconnectOptions {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
            max_outage: Duration::from_secs(60),
            max_silence: Duration::from_secs(60),
        }
    }
}

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Events after this sequence. 0: the whole log. `None`: what comes from now on.
    pub after: Option<i64>,
    /// Leave out deltas and other ignorable events.
    pub exclude_deltas: bool,
    /// End after this turn's `TurnEnded`. Empty: do not end.
    pub until_turn_ends: String,
}

impl Client {
    /// Watches a session. Checkpoints are passed on (they are not log events and repeat a sequence); of the daemon's
    /// `StreamClosing` only "session deleted" is, as the last event.
    ///
    /// # Errors
    /// As the first item after which the stream ends: what the contract lists for `WatchSession`, for example
    /// `SEQUENCE_COMPACTED`, or the last error of an outage that lasted too long.
    #[must_use]
    pub fn watch(&self, session_id: impl Into<String>, options: WatchOptions) -> EventStream {
        let request = WatchSessionRequest {
            session_id: session_id.into(),
            after_sequence: options.after,
            exclude_deltas: options.exclude_deltas,
            until_turn_ends: options.until_turn_ends,
        };
        follow(self.clone(), Source::Watch(request))
    }

    /// Starts a turn and follows it to its `TurnEnded`. A `turn_id` is minted if there is none, so that attaching
    /// again after a loss never starts the turn twice. Dropping the stream does not end the turn.
    ///
    /// # Errors
    /// As with [`Client::watch`], and those of `StartTurn`.
    #[must_use]
    pub fn run_turn(&self, mut request: RunTurnRequest) -> EventStream {
        if request.turn_id.is_empty() {
            request.turn_id = uuid::Uuid::now_v7().to_string();
        }
        follow(self.clone(), Source::Turn(Box::new(request)))
    }
}

enum Source {
    Watch(WatchSessionRequest),
    Turn(Box<RunTurnRequest>),
}

impl Source {
    fn cursor(&self) -> Option<i64> {
        match self {
            Self::Watch(request) => request.after_sequence,
            Self::Turn(request) => request.after_sequence,
        }
    }

    /// The turn with whose end the stream ends.
    fn until(&self) -> &str {
        match self {
            Self::Watch(request) => &request.until_turn_ends,
            Self::Turn(request) => &request.turn_id,
        }
    }

    async fn open(&self, client: &Client, cursor: Option<i64>) -> Result<RawStream, Status> {
        Ok(match self {
            Self::Watch(request) => {
                let mut request = request.clone();
                request.after_sequence = cursor;
                let stream = client.sessions().watch_session(request).await?.into_inner();
                Box::pin(stream.map(|message| message.map(|message| message.event)))
            }
            Self::Turn(request) => {
                let mut request = request.clone();
                request.after_sequence = cursor;
                let stream = client.turns().run_turn(*request).await?.into_inner();
                Box::pin(stream.map(|message| message.map(|message| message.event)))
            }
        })
    }

    /// "From now on" has no cursor to come back with until something arrives; so it is asked for first.
    async fn pin_down(&self, client: &Client) -> Result<Option<i64>, Status> {
        let Self::Watch(request) = self else { return Ok(self.cursor()) };
        if request.after_sequence.is_some() {
            return Ok(request.after_sequence);
        }
        let request = GetSessionRequest { session_id: request.session_id.clone() };
        let session = client.sessions().get_session(request).await?.into_inner().session;
        Ok(session.map(|session| session.last_sequence))
    }
}

/// What to do with a message.
enum Step {
    Yield,
    YieldLast,
    Skip,
    /// The daemon closes the stream; come back, after this pause.
    Reopen(Option<Duration>),
}

fn step(event: &SessionEvent, cursor: &mut Option<i64>, until: &str) -> Step {
    match &event.payload {
        Some(Payload::StreamClosing(closing)) => closing_step(closing),
        Some(Payload::Checkpoint(checkpoint)) => {
            if checkpoint.caught_up && cursor.is_none_or(|cursor| event.sequence > cursor) {
                *cursor = Some(event.sequence);
            }
            Step::Yield
        }
        _ if cursor.is_some_and(|cursor| event.sequence <= cursor) => Step::Skip,
        payload => {
            *cursor = Some(event.sequence);
            let ended = matches!(payload, Some(Payload::TurnEnded(_)));
            if ended && !until.is_empty() && event.turn_id == until { Step::YieldLast } else { Step::Yield }
        }
    }
}

fn closing_step(closing: &StreamClosing) -> Step {
    if closing.reason() == StreamCloseReason::SessionDeleted {
        return Step::YieldLast;
    }
    let pause = closing.retry_after.and_then(|pause| Duration::try_from(pause).ok());
    Step::Reopen(pause)
}

/// Keeps the time of one outage: from its first failure to the first sign of life.
struct Outage {
    options: ReconnectOptions,
    since: Option<Instant>,
    failures: u32,
}

impl Outage {
    fn over(&mut self) {
        self.since = None;
        self.failures = 0;
    }

    /// How long to wait after one more failure; `None` when it has lasted too long.
    fn pause(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let factor = 2_u32.saturating_pow(self.failures.min(16));
        self.failures += 1;
        let backoff = (self.options.first_pause.saturating_mul(factor)).min(self.options.longest_pause);
        let pause = jitter(backoff).max(asked.unwrap_or_default());
        (since.elapsed() + pause <= self.options.max_outage).then_some(pause)
    }
}

/// A connection that is cut without a word (a machine that slept, a lost route) stays open on this side; coming back
/// over it would only meet the same silence.
fn silent(client: &Client) -> ClientError {
    client.renew_connections();
    ClientError::lost("the daemon fell silent: no event and no checkpoint came in time")
}

/// Whether the stream may come back after `error`. A deadline or a cancel that the caller did not ask for came from
/// something in between.
fn resumable(error: &ClientError) -> bool {
    error.is_temporary() || (error.reason.is_empty() && error.code == Code::DeadlineExceeded)
}

fn follow(client: Client, source: Source) -> EventStream {
    let options = client.reconnect.clone();
    let mut outage = Outage { options: options.clone(), since: None, failures: 0 };
    Box::pin(async_stream::stream! {
        let mut cursor = source.cursor();
        let mut pinned = false;
        loop {
            let opening = async {
                if !pinned {
                    cursor = source.pin_down(&client).await?;
                    pinned = true;
                }
                source.open(&client, cursor).await
            };
            let opened = match timeout(options.max_silence, opening).await {
                Ok(opened) => opened.map_err(ClientError::from),
                Err(_) => Err(silent(&client)),
            };
            let failure = match opened {
                Err(error) => error,
                Ok(mut events) => {
                    let opened_at = Instant::now();
                    let failure = loop {
                        let event = match timeout(options.max_silence, events.next()).await {
                            Err(_) => break silent(&client),
                            Ok(None) => break ClientError::lost("the daemon ended the stream before its end"),
                            Ok(Some(Err(status))) => break ClientError::from(status),
                            Ok(Some(Ok(None))) => continue,
                            Ok(Some(Ok(Some(event)))) => event,
                        };
                        match step(&event, &mut cursor, source.until()) {
                            Step::Skip => {}
                            Step::Yield => {
                                outage.over();
                                yield Ok(event);
                            }
                            Step::YieldLast => {
                                yield Ok(event);
                                return;
                            }
                            Step::Reopen(pause) => {
                                let mut error = ClientError::lost("the daemon closed the stream");
                                error.retry_after = pause;
                                break error;
                            }
                        }
                    };
                    if opened_at.elapsed() >= STABLE {
                        outage.over();
                    }
                    failure
                }
            };
            if !resumable(&failure) {
                yield Err(failure);
                return;
            }
            let Some(pause) = outage.pause(failure.retry_after) else {
                yield Err(failure);
                return;
            };
            tracing::debug!(after = ?cursor, ?pause, error = %failure, "stream is resumed");
            sleep(pause).await;
        }
    })
}
