//! A daemon that answers from a script, and requests against the whole surface over it.
//!
//! Answers are given per method. The last answer of a method is repeated, so that the order in which a route makes its
//! calls matters only to tests that ask for it. A method without an answer fails the call, naming it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, Response, StatusCode, header},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use gander_client::{BoxError, Client, ClientOptions, Endpoint, LocalService};
use gander_proto::{reason, v1::ErrorReason};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message;
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::ServiceExt as _;

use crate::{App, Options, router};

/// The secret of the surface in tests.
pub(crate) const SECRET: &str = "0f0e0d0c-test-secret";

#[derive(Clone)]
struct Answer {
    messages: Vec<Bytes>,
    /// `None`: nothing more comes, and the stream stays open.
    end: Option<Status>,
}

/// A scripted daemon. Clones share script and record.
#[derive(Clone, Default)]
pub(crate) struct Daemon {
    script: Arc<Mutex<HashMap<String, VecDeque<Answer>>>>,
    seen: Arc<Mutex<Vec<(String, Bytes)>>>,
}

impl Daemon {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A method (`ConfigService/GetConfigValue`) answers with this message.
    pub(crate) fn on(self, method: &str, answer: &impl Message) -> Self {
        self.then(method, Answer { messages: vec![framed(answer)], end: Some(Status::new(Code::Ok, "")) })
    }

    /// A method fails with a reason of the contract.
    pub(crate) fn fails(self, method: &str, code: Code, reason: ErrorReason, message: &str) -> Self {
        self.then(method, Answer { messages: Vec::new(), end: Some(failure(code, reason, message)) })
    }

    /// A streaming method answers with these messages and ends well.
    pub(crate) fn streams<M: Message>(self, method: &str, answers: &[M]) -> Self {
        let messages = answers.iter().map(|message| framed(message)).collect();
        self.then(method, Answer { messages, end: Some(Status::new(Code::Ok, "")) })
    }

    /// A streaming method answers with these messages and stays open.
    pub(crate) fn streams_on<M: Message>(self, method: &str, answers: &[M]) -> Self {
        self.then(
            method,
            Answer { messages: answers.iter().map(|message| framed(message)).collect(), end: None },
        )
    }

    fn then(self, method: &str, answer: Answer) -> Self {
        self.script.lock().unwrap().entry(method.to_owned()).or_default().push_back(answer);
        self
    }

    /// The methods that were called, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(method, _)| method.clone()).collect()
    }

    /// The requests of one method, in order.
    pub(crate) fn requests<M: Message + Default>(&self, method: &str) -> Vec<M> {
        let seen = self.seen.lock().unwrap();
        let of_method = seen.iter().filter(|(name, _)| name == method);
        of_method.map(|(_, message)| M::decode(message.clone()).unwrap()).collect()
    }

    /// The one request of a method.
    pub(crate) fn request<M: Message + Default>(&self, method: &str) -> M {
        let mut requests = self.requests(method);
        assert_eq!(requests.len(), 1, "calls of {method} among {:?}", self.calls());
        requests.remove(0)
    }

    /// A client of it.
    pub(crate) async fn client(&self) -> Client {
        let daemon = self.clone();
        let service = LocalService::new(tower::service_fn(move |request: Request<tonic::body::Body>| {
            daemon.clone().serve(request)
        }));
        Client::connect(Endpoint::Local(service), ClientOptions::new("test/1")).await.unwrap()
    }

    /// State of the surface over it, with [`SECRET`].
    pub(crate) async fn app(&self) -> App {
        App::new(self.client().await, Options::new(SECRET.into()))
    }

    /// The whole surface over it.
    pub(crate) async fn router(&self) -> Router {
        router(self.app().await)
    }

    /// One request with the secret and, if there is one, a JSON body.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("x-secret-key", SECRET);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.send(request.body(body).unwrap()).await
    }

    /// `GET` with the secret.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask(Method::GET, path, None).await
    }

    /// `POST` of JSON with the secret.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// Any request; nothing is added. The answer is held against the OpenAPI document.
    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let reply = Reply::read(self.router().await.oneshot(request).await.unwrap()).await;
        crate::openapi::conformance::check(&method, &path, &reply);
        reply
    }

    fn next(&self, method: &str) -> Option<Answer> {
        let mut script = self.script.lock().unwrap();
        let answers = script.get_mut(method)?;
        if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
    }

    async fn serve(
        self,
        request: Request<tonic::body::Body>,
    ) -> Result<Response<tonic::body::Body>, BoxError> {
        let method = request.uri().path().trim_start_matches("/gander.v1.").to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let message = if body.len() > 5 { body.slice(5..) } else { Bytes::new() };
        self.seen.lock().unwrap().push((method.clone(), message));
        let Some(answer) = self.next(&method) else {
            let text = format!("the script has no answer for {method}");
            return Ok(failure(Code::Internal, ErrorReason::Internal, &text).into_http());
        };
        if let (true, Some(status)) = (answer.messages.is_empty(), &answer.end)
            && status.code() != Code::Ok
        {
            return Ok(status.clone().into_http());
        }
        let messages =
            stream::iter(answer.messages.into_iter().map(|data| Ok::<_, Status>(Frame::data(data))));
        let end = stream::once(finish(answer.end));
        let mut response = Response::new(tonic::body::Body::new(StreamBody::new(messages.chain(end))));
        response.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
        Ok(response)
    }
}

async fn finish(end: Option<Status>) -> Result<Frame<Bytes>, Status> {
    let Some(status) = end else { std::future::pending().await };
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).unwrap();
    Ok(Frame::trailers(trailers))
}

/// A message in its gRPC frame.
fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

/// A failure as the daemon sends it.
pub(crate) fn failure(code: Code, reason: ErrorReason, message: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason::wire_name(reason), reason::ERROR_DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// What the surface answered, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    async fn read(response: axum::response::Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: parts.status, headers: parts.headers, body }
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON of a success.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The status and, where the body is `{"message": …}`, the message; else the text.
    pub(crate) fn failed(&self) -> (u16, String) {
        let json: Option<Value> = serde_json::from_slice(&self.body).ok();
        let message = json.as_ref().and_then(|json| json["message"].as_str()).map(str::to_owned);
        (self.status.as_u16(), message.unwrap_or_else(|| self.text().to_owned()))
    }
}
