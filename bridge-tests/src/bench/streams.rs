//! Streams of stamped tokens, read through gander or straight from the provider, with the same arithmetic.
//!
//! The provider writes each token as `t<unix nanoseconds> `, the time at which it was written. A latency is the time
//! between that and the moment at which this program had the decoded event in its hands; both clocks are the machine's.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures::StreamExt as _;
use gander_client::Client;
use gander_proto::v1::{
    CreateSessionRequest, ExactSelection, ExtensionConfig, ExtensionSelection, ModelSelection, Part,
    RunTurnRequest, TurnInput, TurnState, extension_selection::Selection, part::Body, session_event::Payload,
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::rest::Rest;

pub(crate) const PROMPT: &str = "Tell me the time, again and again.";

/// What one stream carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) streams: usize,
    pub(crate) tokens: usize,
    /// Time between two tokens of a stream. Zero: no pause.
    pub(crate) pace: Duration,
    /// Streams begin spread over one pace, as those of independent users do, and not all in one tick.
    pub(crate) stagger: bool,
}

impl Load {
    pub(crate) fn model(&self) -> String {
        format!("bench-{}-{}us", self.tokens, self.pace.as_micros())
    }

    /// Four times what the provider takes, and some.
    fn deadline(&self) -> Duration {
        self.pace.saturating_mul(u32::try_from(self.tokens).unwrap_or(u32::MAX)) * 4 + Duration::from_secs(60)
    }
}

/// What one stream gave. Times are unix nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    /// One per token, microseconds.
    pub(crate) latencies: Vec<f64>,
    pub(crate) asked: u64,
    pub(crate) first_received: u64,
    pub(crate) first_written: u64,
    pub(crate) last_received: u64,
    /// The beginning of a stamp whose end has not come yet.
    rest: String,
}

/// Unix time in nanoseconds.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Sample {
    pub(crate) fn begin(tokens: usize) -> Self {
        Self { latencies: Vec::with_capacity(tokens), asked: now(), ..Self::default() }
    }

    /// Takes text that was received at `received`. Pieces may be merged or cut anywhere.
    pub(crate) fn take(&mut self, text: &str, received: u64) -> Result<()> {
        self.rest.push_str(text);
        let Some(end) = self.rest.rfind(' ') else { return Ok(()) };
        let tail = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, tail);
        for token in whole.split_ascii_whitespace() {
            let stamp = token.strip_prefix('t').and_then(|digits| digits.parse::<u64>().ok());
            let written = stamp.with_context(|| format!("the text {token:?} is no stamp"))?;
            if self.latencies.is_empty() {
                self.first_received = received;
                self.first_written = written;
            }
            self.last_received = received;
            self.latencies.push((received as f64 - written as f64) / 1000.0);
        }
        Ok(())
    }

    pub(crate) fn finish(self, tokens: usize) -> Result<Self> {
        ensure!(self.latencies.len() == tokens, "{} of {tokens} tokens came", self.latencies.len());
        Ok(self)
    }
}

/// Where streams come from.
#[derive(Clone)]
pub(crate) enum Source {
    Direct { http: reqwest::Client, url: Arc<str> },
    Gander { client: Client, working_directory: Arc<str> },
    Rest(Rest),
}

impl Source {
    /// The provider itself.
    pub(crate) fn direct(provider: &str) -> Result<Self> {
        Ok(Self::Direct { http: http_client()?, url: format!("{provider}/v1/chat/completions").into() })
    }

    /// A session without extensions; an empty id for the provider, which has no sessions.
    pub(crate) async fn session(&self) -> Result<String> {
        match self {
            Self::Direct { .. } => Ok(String::new()),
            Self::Gander { client, working_directory } => {
                create_session(client, working_directory, Vec::new()).await
            }
            Self::Rest(rest) => rest.session().await,
        }
    }
    /// One stream from its request to its end.
    pub(crate) async fn stream(&self, session: String, load: Load) -> Result<Sample> {
        let stream = async {
            match self {
                Self::Direct { http, url } => direct(http, url, load).await,
                Self::Gander { client, .. } => turn(client, session, load).await,
                Self::Rest(rest) => rest.turn(&session, load).await,
            }
        };
        timeout(load.deadline(), stream).await.context("the stream did not end in time")?
    }

    /// Session and stream.
    async fn whole(&self, load: Load) -> Result<Sample> {
        let session = timeout(load.deadline(), self.session()).await.context("no session came in time")??;
        self.stream(session, load).await
    }
}

/// A client for the loopback interface.
pub(crate) fn http_client() -> Result<reqwest::Client> {
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    // Never used: everything is on the loopback interface. reqwest wants one all the same.
    let tls = rustls::ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().tcp_nodelay(true).build()?)
}

/// Creates a session with exactly these extensions.
pub(crate) async fn create_session(
    client: &Client,
    working_directory: &str,
    extensions: Vec<ExtensionConfig>,
) -> Result<String> {
    let request = CreateSessionRequest {
        working_directory: working_directory.to_owned(),
        title: "benchmark".to_owned(),
        extensions: Some(ExtensionSelection {
            selection: Some(Selection::Exactly(ExactSelection { extensions })),
        }),
        ..CreateSessionRequest::default()
    };
    let created = client.sessions().create_session(request).await?.into_inner();
    Ok(created.session.context("the answer holds no session")?.session_id)
}

async fn turn(client: &Client, session_id: String, load: Load) -> Result<Sample> {
    let request = RunTurnRequest {
        session_id,
        input: Some(TurnInput {
            parts: vec![Part { body: Some(Body::Text(PROMPT.to_owned())), ..Part::default() }],
            ..TurnInput::default()
        }),
        model: Some(ModelSelection {
            provider_id: "openai".to_owned(),
            model_id: load.model(),
            ..ModelSelection::default()
        }),
        ..RunTurnRequest::default()
    };
    let mut sample = Sample::begin(load.tokens);
    let mut events = client.turns().run_turn(request).await?.into_inner();
    let mut ended = None;
    while let Some(message) = events.message().await? {
        match message.event.and_then(|event| event.payload) {
            Some(Payload::TextDelta(delta)) => sample.take(&delta.text, now())?,
            Some(Payload::TurnEnded(end)) => ended = end.turn,
            _ => {}
        }
    }
    let turn = ended.context("the stream ended without an end of the turn")?;
    if turn.state() != TurnState::Completed {
        let detail = turn.error.as_ref().map(|error| error.message.as_str()).unwrap_or_default();
        bail!("the turn ended as {}: {detail}", turn.state().as_str_name());
    }
    sample.finish(load.tokens)
}

async fn direct(http: &reqwest::Client, url: &str, load: Load) -> Result<Sample> {
    let body = json!({
        "model": load.model(), "stream": true, "messages": [{ "role": "user", "content": PROMPT }]
    });
    let mut sample = Sample::begin(load.tokens);
    let request = http.post(url).bearer_auth("sk-bench").header("content-type", "application/json");
    let reply = request.body(body.to_string()).send().await?.error_for_status()?;
    let mut chunks = reply.bytes_stream();
    let mut buffer = Vec::new();
    let mut done = false;
    while let Some(chunk) = chunks.next().await {
        buffer.extend_from_slice(&chunk?);
        done |= frames(&mut buffer, |text| sample.take(text, now()))?;
    }
    ensure!(done, "the provider's stream broke off");
    sample.finish(load.tokens)
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Delta<'a>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
}

/// Takes the whole frames out of the buffer; true when the last one was among them.
fn frames(buffer: &mut Vec<u8>, mut text: impl FnMut(&str) -> Result<()>) -> Result<bool> {
    let mut done = false;
    let mut begin = 0;
    while let Some(length) = buffer[begin..].windows(2).position(|pair| pair == b"\n\n") {
        let frame = &buffer[begin..begin + length];
        begin += length + 2;
        let Some(data) = frame.strip_prefix(b"data: ") else { continue };
        if data == b"[DONE]" {
            done = true;
            continue;
        }
        let chunk: Chunk<'_> = serde_json::from_slice(data)?;
        for content in chunk.choices.iter().filter_map(|choice| choice.delta.content.as_deref()) {
            text(content)?;
        }
    }
    buffer.drain(..begin);
    Ok(done)
}

/// What all streams of a load gave.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) samples: Vec<Sample>,
    pub(crate) failures: Vec<anyhow::Error>,
}

impl Run {
    /// All latencies together, microseconds.
    ///
    /// # Errors
    /// A stream failed.
    pub(crate) fn latencies(self) -> Result<Vec<f64>> {
        let streams = self.samples.len() + self.failures.len();
        let failed = self.failures.len();
        if let Some(first) = self.failures.into_iter().next() {
            return Err(first.context(format!("{failed} of {streams} streams failed, the first one so")));
        }
        Ok(self.samples.into_iter().flat_map(|sample| sample.latencies).collect())
    }

    /// Tokens per second from the first one written to the last one received.
    pub(crate) fn rate(&self) -> Option<f64> {
        let begin = self.samples.iter().map(|sample| sample.first_written).min()?;
        let end = self.samples.iter().map(|sample| sample.last_received).max()?;
        let tokens: usize = self.samples.iter().map(|sample| sample.latencies.len()).sum();
        Some(tokens as f64 * 1e9 / end.saturating_sub(begin).max(1) as f64)
    }
}

/// Runs all streams of a load. With `sessions`, these are used; else each stream makes its own first.
pub(crate) async fn run(source: &Source, load: Load, sessions: Option<Vec<String>>) -> Run {
    let mut sessions = sessions.map(Vec::into_iter);
    let mut tasks = JoinSet::new();
    for number in 0..load.streams {
        let (source, session) = (source.clone(), sessions.as_mut().and_then(Iterator::next));
        let share = number as f64 / load.streams as f64;
        let delay = if load.stagger { load.pace.mul_f64(share) } else { Duration::ZERO };
        tasks.spawn(async move {
            sleep(delay).await;
            match session {
                Some(session) => source.stream(session, load).await,
                None => source.whole(load).await,
            }
        });
    }
    let mut run = Run::default();
    while let Some(outcome) = tasks.join_next().await {
        match outcome.map_err(|error| anyhow!(error)).flatten() {
            Ok(sample) => run.samples.push(sample),
            Err(error) => run.failures.push(error),
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_from_merged_and_cut_text() {
        let mut sample = Sample::begin(3);
        sample.take("t1000 t20", 5000).unwrap();
        assert_eq!(sample.latencies, [4.0]);
        sample.take("00", 6000).unwrap();
        sample.take(" t3000 ", 9000).unwrap();
        assert_eq!(sample.latencies, [4.0, 7.0, 6.0]);
        assert_eq!((sample.first_written, sample.first_received, sample.last_received), (1000, 5000, 9000));
        assert!(sample.take("hello ", 1).is_err());
        assert!(sample.finish(4).is_err());
    }

    #[test]
    fn frames_are_read_however_they_are_cut() {
        let whole = "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"t1 \"}}]}\n\n\
                     data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[]}\n\ndata: [DONE]\n\n";
        for size in [1, 7, whole.len()] {
            let (mut buffer, mut got, mut done) = (Vec::new(), String::new(), false);
            for piece in whole.as_bytes().chunks(size) {
                assert!(!done);
                buffer.extend_from_slice(piece);
                let add = |text: &str| {
                    got.push_str(text);
                    Ok(())
                };
                done = frames(&mut buffer, add).unwrap();
            }
            assert!(done && buffer.is_empty());
            assert_eq!(got, "t1 ");
        }
        assert!(frames(&mut b"data: {no}\n\n".to_vec(), |_| Ok(())).is_err());
    }

    #[tokio::test]
    async fn the_provider_is_read_directly() {
        let server = gander_model::testing::FakeOpenAi::start().await.unwrap();
        let source = Source::direct(&server.url()).unwrap();
        let load = Load { streams: 3, tokens: 50, pace: Duration::ZERO, stagger: false };
        let run = run(&source, load, None).await;
        assert!(run.rate().unwrap() > 0.0);
        let latencies = run.latencies().unwrap();
        assert_eq!(latencies.len(), 150);
        assert!(latencies.iter().all(|latency| *latency >= 0.0));
        let broken = Load { tokens: 0, streams: 1, ..load };
        let gone = Source::direct("http://127.0.0.1:1").unwrap();
        assert!(super::run(&gone, broken, None).await.latencies().is_err());
    }
}
