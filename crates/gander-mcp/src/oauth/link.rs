//! An HTTP client of the transport that adds tokens and reacts to challenges.
//!
//! A rejected token is refreshed once, in silence. What is left is a challenge for the server's actor: while a
//! connection is being made the request fails with it, later the request waits for the outcome (within its caller's
//! deadline) and is made again, which is safe because a challenged request was not executed.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use http::{HeaderName, HeaderValue};
use rmcp::{
    model::{ClientJsonRpcMessage, JsonRpcMessage, RequestId},
    transport::{
        auth::AuthError,
        streamable_http_client::{
            AuthRequiredError, SseError, StreamableHttpClient, StreamableHttpError,
            StreamableHttpPostResponse,
        },
    },
};
use sse_stream::Sse;

use super::access::{Access, Challenge, Kind};
use crate::{explain, wire::WireShared};

type Headers = HashMap<HeaderName, HeaderValue>;
type Events = BoxStream<'static, Result<Sse, SseError>>;

/// Challenges of one request that are answered; more would go on for ever.
const MAX_CHALLENGES: usize = 3;

/// See the module.
#[derive(Clone)]
pub(crate) struct Link<C> {
    inner: C,
    access: Arc<Access>,
    shared: Arc<WireShared>,
}

impl<C: StreamableHttpClient + Sync> Link<C> {
    pub(crate) fn new(inner: C, access: Arc<Access>, shared: Arc<WireShared>) -> Self {
        Self { inner, access, shared }
    }

    /// Notes for the request `id` what is wrong with the stream of its answer, which the library only logs.
    fn listened(
        &self,
        id: Option<RequestId>,
        answer: StreamableHttpPostResponse,
    ) -> StreamableHttpPostResponse {
        match (answer, id) {
            (StreamableHttpPostResponse::Sse(events, session), Some(id)) => {
                let shared = Arc::clone(&self.shared);
                let events =
                    events.inspect_err(move |error| shared.stream_broke(&id, explain::stream(error)));
                StreamableHttpPostResponse::Sse(events.boxed(), session)
            }
            (answer, _) => answer,
        }
    }

    /// Makes a request with the current token. `interactive`: whether a challenge may be put to the user.
    async fn with_token<T, F>(
        &self,
        interactive: bool,
        call: impl Fn(Option<String>) -> F,
    ) -> Result<T, StreamableHttpError<C::Error>>
    where
        F: Future<Output = Result<T, StreamableHttpError<C::Error>>>,
    {
        if !self.access.is_enabled() {
            return call(None).await;
        }
        let mut token = self.access.token().await?;
        let (mut renewed, mut challenged) = (false, false);
        for _ in 0..=MAX_CHALLENGES {
            let error = match call(token.clone()).await {
                Ok(answer) => {
                    if challenged {
                        self.access.worked();
                    }
                    return Ok(answer);
                }
                Err(error) => without_header(error),
            };
            let Some((kind, header)) = challenge_of(&error) else { return Err(error) };
            if kind == Kind::Unauthorized
                && !renewed
                && let Some(sent) = &token
            {
                renewed = true;
                if let Some(fresh) = self.access.renew(sent).await? {
                    token = Some(fresh);
                    continue;
                }
            }
            let challenge = Challenge { kind, header, token: token.clone() };
            if !interactive || !self.access.challenge(challenge).await {
                return Err(error);
            }
            challenged = true;
            token = self.access.token().await?;
        }
        Err(StreamableHttpError::Auth(AuthError::AuthorizationRequired))
    }
}

/// A 401 without a challenge is one, too: the library has no name for it.
fn without_header<E: std::error::Error + Send + Sync + 'static>(
    error: StreamableHttpError<E>,
) -> StreamableHttpError<E> {
    match error {
        StreamableHttpError::UnexpectedServerResponse(text) if text.starts_with("HTTP 401") => {
            StreamableHttpError::AuthRequired(AuthRequiredError::new(String::new()))
        }
        other => other,
    }
}

fn request_id(message: &ClientJsonRpcMessage) -> Option<RequestId> {
    match message {
        JsonRpcMessage::Request(request) => Some(request.id.clone()),
        _ => None,
    }
}

fn challenge_of<E: std::error::Error + Send + Sync + 'static>(
    error: &StreamableHttpError<E>,
) -> Option<(Kind, String)> {
    match error {
        StreamableHttpError::AuthRequired(error) => {
            Some((Kind::Unauthorized, error.www_authenticate_header.clone()))
        }
        StreamableHttpError::InsufficientScope(error)
            if error.required_scope.is_some()
                || error.www_authenticate_header.contains("insufficient_scope") =>
        {
            Some((Kind::Scope, error.www_authenticate_header.clone()))
        }
        _ => None,
    }
}

impl<C: StreamableHttpClient + Sync> StreamableHttpClient for Link<C> {
    type Error = C::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<StreamableHttpPostResponse, StreamableHttpError<C::Error>> {
        let id = request_id(&message);
        let answer = self.with_token(true, |token| {
            let (uri, session, headers) = (Arc::clone(&uri), session.clone(), headers.clone());
            self.inner.post_message(uri, message.clone(), session, token, headers)
        });
        Ok(self.listened(id, answer.await?))
    }

    async fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        _: Option<String>,
        headers: Headers,
        limit: usize,
    ) -> Result<StreamableHttpPostResponse, StreamableHttpError<C::Error>> {
        let id = request_id(&message);
        let answer = self.with_token(true, |token| {
            let (uri, session, headers) = (Arc::clone(&uri), session.clone(), headers.clone());
            let message = message.clone();
            self.inner.post_message_with_max_sse_event_size(uri, message, session, token, headers, limit)
        });
        Ok(self.listened(id, answer.await?))
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<(), StreamableHttpError<C::Error>> {
        self.with_token(false, |token| {
            self.inner.delete_session(Arc::clone(&uri), Arc::clone(&session), token, headers.clone())
        })
        .await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<Events, StreamableHttpError<C::Error>> {
        self.with_token(false, |token| {
            let (uri, session, headers) = (Arc::clone(&uri), session.clone(), headers.clone());
            self.inner.get_stream(uri, session, last_event.clone(), token, headers)
        })
        .await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        _: Option<String>,
        headers: Headers,
        limit: usize,
    ) -> Result<Events, StreamableHttpError<C::Error>> {
        self.with_token(false, |token| {
            let (uri, session, headers) = (Arc::clone(&uri), session.clone(), headers.clone());
            let last_event = last_event.clone();
            self.inner.get_stream_with_max_sse_event_size(uri, session, last_event, token, headers, limit)
        })
        .await
    }
}
