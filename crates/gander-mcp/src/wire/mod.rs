//! The one wrapper around every transport.
//!
//! It sees each message in the order of the wire, before the protocol library does. Notifications are routed here and
//! not handed on: the library would start one task for each, lose their order, and log their content. Only
//! `notifications/cancelled` goes through, as the library needs it for the server's own requests.

mod builtin;
mod fault;
mod notice;
mod ordered;
mod record;
mod replay;
mod route;
mod stdio;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc};

use rmcp::{
    RoleClient,
    model::{
        ClientJsonRpcMessage, ClientRequest, ErrorCode, ErrorData, GetExtensions as _, GetMeta as _,
        JsonRpcMessage, RequestId, ServerJsonRpcMessage,
    },
    transport::Transport,
};
use tokio::time::{Instant, sleep_until};

pub(crate) use builtin::BuiltinLink;
pub use fault::{Fault, FaultInjector, FaultPoint};
use notice::Notice;
pub(crate) use record::Recorder;
pub(crate) use replay::{Counts as ReplayCounts, Replay};
pub(crate) use route::{Route, RouteGuard, RouteTag, WireFailure, WireShared};
pub(crate) use stdio::{MAX_LINE, StdioLink};

/// A transport with order, routing and typed failures.
pub(crate) struct Wire<T> {
    inner: T,
    shared: Arc<WireShared>,
    /// The question for the newest revision, and until when an answer is waited for.
    probe: Option<(RequestId, Instant)>,
    /// Requests that were given up here; their answers are for nobody.
    given_up: HashSet<RequestId>,
    /// A message that arrives a second time.
    again: Option<ServerJsonRpcMessage>,
}

impl<T> Wire<T> {
    pub(crate) fn new(inner: T, shared: Arc<WireShared>) -> Self {
        Self { inner, shared, probe: None, given_up: HashSet::new(), again: None }
    }

    fn sees(&self, direction: &str, message: &impl serde::Serialize) {
        if let Some(recorder) = &self.shared.recorder {
            recorder.write(direction, message);
        }
    }

    fn fault(&self, incoming: bool, message: &impl serde::Serialize) -> Fault {
        let injector = self.shared.faults.as_ref();
        injector.map_or(Fault::None, |injector| injector.decide(self.shared.key(), incoming, message))
    }

    /// Whether the answer `id` was given up; the probe is over with it otherwise.
    fn is_given_up(&mut self, id: Option<&RequestId>) -> bool {
        if self.probe.as_ref().is_some_and(|(probe, _)| Some(probe) == id) {
            self.probe = None;
        }
        id.is_some_and(|id| self.given_up.remove(id))
    }
}

impl<T> Drop for Wire<T> {
    fn drop(&mut self) {
        self.shared.input_ended.cancel();
    }
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for Wire<T> {
    type Error = T::Error;

    /// Registers the route of a call at the moment at which its request takes its place in the order, so that no
    /// answer can come before it is known.
    fn send(
        &mut self,
        mut item: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        if let JsonRpcMessage::Request(request) = &mut item
            && let Some(RouteTag(route)) = request.request.extensions_mut().remove::<RouteTag>()
        {
            let token = request.request.get_meta().get_progress_token();
            self.shared.register(request.id.clone(), token, route);
        }
        if let Some(limit) = self.shared.probe_limit
            && let JsonRpcMessage::Request(request) = &item
            && matches!(request.request, ClientRequest::DiscoverRequest(_))
        {
            self.probe = Some((request.id.clone(), Instant::now() + limit));
        }
        self.sees("out", &item);
        let sending = (self.fault(false, &item) != Fault::Lose).then(|| self.inner.send(item));
        async move {
            match sending {
                Some(sending) => sending.await,
                None => Ok(()),
            }
        }
    }

    /// Cancel safe as the inner one is: nothing here waits after a message was taken.
    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        loop {
            let repeated = self.again.take();
            let is_repeated = repeated.is_some();
            let received = match self.probe.clone() {
                _ if is_repeated => repeated,
                None => self.inner.receive().await,
                Some((id, deadline)) => tokio::select! {
                    biased;
                    received = self.inner.receive() => received,
                    () = sleep_until(deadline) => {
                        // Silence means an older server; the library would wait much longer.
                        self.probe = None;
                        self.given_up.insert(id.clone());
                        let error = ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "no answer to server/discover", None);
                        return Some(ServerJsonRpcMessage::error(error, Some(id)));
                    }
                },
            };
            let Some(message) = received else {
                self.shared.input_ended.cancel();
                return None;
            };
            match if is_repeated { Fault::None } else { self.fault(true, &message) } {
                Fault::None => {}
                Fault::Lose => continue,
                Fault::Repeat => self.again = Some(message.clone()),
                Fault::Cut => {
                    self.shared.input_ended.cancel();
                    return None;
                }
            }
            self.sees("in", &message);
            let answered = match &message {
                JsonRpcMessage::Response(response) => Some(&response.id),
                JsonRpcMessage::Error(error) => error.id.as_ref(),
                _ => None,
            };
            if self.is_given_up(answered.cloned().as_ref()) {
                continue;
            }
            match message {
                JsonRpcMessage::Notification(notification) => match Notice::of(notification.notification) {
                    Notice::Cancelled(notification) => {
                        return Some(ServerJsonRpcMessage::notification(notification));
                    }
                    notice => self.shared.deliver(notice),
                },
                JsonRpcMessage::Response(response) => {
                    self.shared.answered(&response.id);
                    return Some(JsonRpcMessage::Response(response));
                }
                JsonRpcMessage::Error(error) => {
                    if let Some(id) = &error.id {
                        self.shared.answered(id);
                    }
                    return Some(JsonRpcMessage::Error(error));
                }
                request @ JsonRpcMessage::Request(_) => return Some(request),
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.shared.input_ended.cancel();
        self.inner.close().await
    }
}
