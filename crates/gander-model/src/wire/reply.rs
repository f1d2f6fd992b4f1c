//! One streamed reply: send, read, decode.
//!
//! Invariants: the stream ends with `Finished` or with one error, and nothing follows either; events that were decoded
//! before a failure come before it; dropping the stream drops the connection.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{FutureExt as _, StreamExt as _};

use super::{ReplyDecoder, Step, failure, network_error, sse::SseDecoder, truncated};
use crate::{
    ModelError, ModelErrorClass, ModelEvent, ModelStream,
    classify::{Failure, classify},
    redact::Redactor,
};

/// Longest reply that is not streamed.
const MAX_WHOLE_BODY: usize = 32 * 1024 * 1024;

/// How long a finished reply may take to end its body.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Starts a call. The request has its body and all its headers.
pub(crate) fn stream(
    request: reqwest::RequestBuilder,
    decoder: Box<dyn ReplyDecoder>,
    redactor: Redactor,
    top_up_url: Option<Arc<str>>,
) -> ModelStream {
    let reply = Reply {
        phase: Phase::Start(request),
        sse: SseDecoder::default(),
        decoder,
        queue: VecDeque::new(),
        redactor,
        top_up_url,
    };
    futures::stream::unfold(Box::new(reply), |mut reply| async move {
        let item = reply.next().await?;
        Some((item, reply))
    })
    .boxed()
}

enum Phase {
    Start(reqwest::RequestBuilder),
    Streaming(reqwest::Response),
    /// The server answers with one JSON document.
    Whole(reqwest::Response, Vec<u8>),
    Done,
}

struct Reply {
    phase: Phase,
    sse: SseDecoder,
    decoder: Box<dyn ReplyDecoder>,
    queue: VecDeque<Result<ModelEvent, ModelError>>,
    redactor: Redactor,
    top_up_url: Option<Arc<str>>,
}

impl Reply {
    async fn next(&mut self) -> Option<Result<ModelEvent, ModelError>> {
        loop {
            if let Some(item) = self.queue.pop_front() {
                return Some(item);
            }
            match &mut self.phase {
                Phase::Start(_) => self.start().await,
                Phase::Streaming(response) => match response.chunk().await {
                    Ok(Some(bytes)) => self.bytes(&bytes),
                    Ok(None) => self.end_of_bytes(),
                    Err(error) => self.fail(broken(&error, &self.redactor)),
                },
                Phase::Whole(response, body) => match response.chunk().await {
                    Ok(Some(bytes)) => {
                        body.extend_from_slice(&bytes);
                        if body.len() > MAX_WHOLE_BODY {
                            self.fail(oversized());
                        }
                    }
                    Ok(None) => self.whole(),
                    Err(error) => self.fail(broken(&error, &self.redactor)),
                },
                Phase::Done => return None,
            }
        }
    }

    async fn start(&mut self) {
        let Phase::Start(request) = std::mem::replace(&mut self.phase, Phase::Done) else { return };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return self.fail(network_error(&error, &self.redactor)),
        };
        if !response.status().is_success() {
            let error = failure(response, &self.redactor, self.top_up_url.as_deref()).await;
            return self.fail(error);
        }
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or("text/event-stream").to_ascii_lowercase();
        if kind.starts_with("application/json") {
            self.phase = Phase::Whole(response, Vec::new());
        } else if kind.starts_with("text/html") {
            self.fail(ModelError::new(
                ModelErrorClass::InvalidRequest,
                "the model provider answered with a web page; check the provider's address (base URL)",
            ));
        } else {
            self.phase = Phase::Streaming(response);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let over = match self.decoder.bytes(bytes) {
            Some(step) => self.step(step),
            None => {
                if self.sse.feed(bytes).is_err() {
                    return self.fail(oversized());
                }
                self.frames()
            }
        };
        if over && let Phase::Streaming(response) = std::mem::replace(&mut self.phase, Phase::Done) {
            drain(response);
        }
    }

    /// Takes the frames that are there; true when the reply is over.
    fn frames(&mut self) -> bool {
        loop {
            let Some(frame) = self.sse.next_frame() else { return false };
            let step = self.decoder.frame(frame.data, frame.is_error);
            if self.step(step) {
                return true;
            }
        }
    }

    /// Takes what a piece led to; true when the reply is over.
    fn step(&mut self, step: Step) -> bool {
        while let Some(event) = self.decoder.pop() {
            self.queue.push_back(Ok(event));
        }
        match step {
            Step::More => return false,
            Step::Done => self.complete(),
            Step::Failed(body) => {
                let failure = Failure { status: None, headers: None, body: &body, now: SystemTime::now() };
                let error = classify(&failure, &self.redactor);
                self.fail(error);
            }
            Step::Broken(error) => self.fail(error),
        }
        true
    }

    fn end_of_bytes(&mut self) {
        self.sse.end();
        let over = self.frames();
        if !over {
            self.complete();
        }
        self.phase = Phase::Done;
    }

    fn whole(&mut self) {
        let Phase::Whole(_, body) = std::mem::replace(&mut self.phase, Phase::Done) else { return };
        let step = match self.decoder.whole(&body) {
            Step::More => Step::Done,
            step => step,
        };
        self.step(step);
    }

    fn complete(&mut self) {
        let ended = self.decoder.end();
        while let Some(event) = self.decoder.pop() {
            self.queue.push_back(Ok(event));
        }
        if let Err(error) = ended {
            self.fail(error);
        }
    }

    fn fail(&mut self, mut error: ModelError) {
        self.phase = Phase::Done;
        if error.class == ModelErrorClass::QuotaExhausted && error.help_url.is_none() {
            error.help_url = self.top_up_url.as_deref().map(str::to_owned);
        }
        self.queue.push_back(Err(error));
    }
}

/// Reads what ends the body, so that the connection can be used again; nobody waits for it.
fn drain(mut response: reqwest::Response) {
    match response.chunk().now_or_never() {
        Some(Ok(Some(_))) | None => {
            let rest = async move { while let Ok(Some(_)) = response.chunk().await {} };
            tokio::spawn(tokio::time::timeout(DRAIN_TIME, rest));
        }
        Some(Ok(None) | Err(_)) => {}
    }
}

/// A body that broke off: silence is the network's fault, everything else a reply cut short.
fn broken(error: &reqwest::Error, redactor: &Redactor) -> ModelError {
    if error.is_timeout() { network_error(error, redactor) } else { truncated() }
}

fn oversized() -> ModelError {
    ModelError::new(
        ModelErrorClass::InvalidRequest,
        "the model provider's reply is larger than gander accepts",
    )
}
