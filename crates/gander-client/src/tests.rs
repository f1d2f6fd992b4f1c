//! The client against a scripted daemon: in process for every cut point, over a socket for a real cut.

mod calls;
mod resume;

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use gander_proto::v1::{self as pb, ErrorReason, session_event::Payload};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::util::BoxCloneSyncService;

use crate::{BoxError, Client, ClientOptions, Endpoint, LocalService};

/// How an answer ends.
#[derive(Clone, Debug)]
enum End {
    /// As the contract has it: with a status.
    Status(Status),
    /// The connection breaks.
    Broken,
    /// A reset that looks like a clean end: no trailers.
    Bare,
    /// Nothing more comes.
    Silence,
}

/// One scripted answer: messages, then an end.
struct Answer {
    messages: Vec<Bytes>,
    end: End,
}

/// What the daemon saw of a call.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    headers: HeaderMap,
    message: Bytes,
}

impl Seen {
    fn decode<M: Message + Default>(&self) -> M {
        M::decode(self.message.clone()).unwrap()
    }
}

/// A daemon that answers from a script, and after its end as its last entry says.
#[derive(Clone, Default)]
struct Daemon {
    script: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Daemon {
    fn then(self, messages: impl IntoIterator<Item = Bytes>, end: End) -> Self {
        let answer = Answer { messages: messages.into_iter().collect(), end };
        self.script.lock().unwrap().push_back(answer);
        self
    }

    fn fails(self, status: Status) -> Self {
        self.then([], End::Status(status))
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn next(&self) -> Answer {
        let mut script = self.script.lock().unwrap();
        let last = script.len() == 1;
        match script.pop_front() {
            Some(answer) if last => {
                let again = Answer { messages: answer.messages.clone(), end: answer.end.clone() };
                script.push_back(again);
                answer
            }
            Some(answer) => answer,
            None => Answer { messages: Vec::new(), end: End::Broken },
        }
    }

    async fn serve<B>(self, request: Request<B>) -> Result<Response<Body>, BoxError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: std::fmt::Debug,
    {
        let (parts, body) = request.into_parts();
        let message = body.collect().await.unwrap().to_bytes().slice(5..);
        let path = parts.uri.path().to_owned();
        self.seen.lock().unwrap().push(Seen { path, headers: parts.headers, message });
        let answer = self.next();
        if let (true, End::Broken) = (answer.messages.is_empty(), &answer.end) {
            return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into());
        }
        if let (true, End::Status(status)) = (answer.messages.is_empty(), &answer.end)
            && status.code() != Code::Ok
        {
            return Ok(status.clone().into_http());
        }
        if let (true, End::Silence) = (answer.messages.is_empty(), &answer.end) {
            std::future::pending::<()>().await;
        }
        let messages = stream::iter(answer.messages.into_iter().map(|data| Ok(Frame::data(data))));
        let end = stream::once(finish(answer.end)).filter_map(|frame| async { frame });
        let mut response = Response::new(Body::new(StreamBody::new(messages.chain(end))));
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        Ok(response)
    }

    fn service(&self) -> LocalService {
        let daemon = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
            daemon.clone().serve(request)
        }))
    }

    async fn client(&self) -> Client {
        self.client_with(ClientOptions::new("test/1")).await
    }

    async fn client_with(&self, options: ClientOptions) -> Client {
        Client::connect(Endpoint::Local(self.service()), options).await.unwrap()
    }
}

async fn finish(end: End) -> Option<Result<Frame<Bytes>, std::io::Error>> {
    match end {
        End::Status(status) => {
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers).unwrap();
            Some(Ok(Frame::trailers(trailers)))
        }
        End::Broken => Some(Err(std::io::ErrorKind::ConnectionReset.into())),
        End::Bare => None,
        End::Silence => std::future::pending().await,
    }
}

/// A message in its gRPC frame.
fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

fn ok() -> End {
    End::Status(Status::new(Code::Ok, ""))
}

fn failure(code: Code, reason: ErrorReason, retry: Option<Duration>) -> Status {
    let mut details = ErrorDetails::new();
    let metadata = [("oldestSequence".to_owned(), "7".to_owned())];
    details.set_error_info(
        gander_proto::reason::wire_name(reason),
        gander_proto::reason::ERROR_DOMAIN,
        std::collections::HashMap::from(metadata),
    );
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Status::with_error_details(code, "as scripted", details)
}

fn event(sequence: i64, payload: Option<Payload>) -> pb::SessionEvent {
    pb::SessionEvent {
        sequence,
        session_id: "s".to_owned(),
        turn_id: "t".to_owned(),
        payload,
        ..Default::default()
    }
}

fn text(sequence: i64) -> pb::SessionEvent {
    event(sequence, Some(Payload::TextDelta(pb::TextDelta { text: "x".to_owned(), ..Default::default() })))
}

fn ended(sequence: i64) -> pb::SessionEvent {
    event(sequence, Some(Payload::TurnEnded(Box::default())))
}

fn checkpoint(sequence: i64) -> pb::SessionEvent {
    event(sequence, Some(Payload::Checkpoint(pb::Checkpoint { caught_up: true })))
}

fn closing(sequence: i64, reason: pb::StreamCloseReason) -> pb::SessionEvent {
    let closing = pb::StreamClosing { reason: reason.into(), ..Default::default() };
    event(sequence, Some(Payload::StreamClosing(closing)))
}

/// Events as `WatchSession` sends them.
fn watched(events: impl IntoIterator<Item = pb::SessionEvent>) -> Vec<Bytes> {
    events.into_iter().map(|event| framed(&pb::WatchSessionResponse { event: Some(event) })).collect()
}

/// Serves a connection; what the daemon fails with inside breaks it.
async fn serve_connection(stream: tokio::net::UnixStream, daemon: Daemon) {
    let service = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
        let daemon = daemon.clone();
        async move {
            let answer = daemon.serve(request).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|error| Status::from_error(error).into_http()))
        }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
    let service = hyper_util::service::TowerToHyperService::new(service);
    builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await.ok();
}
