//! The one wrapper around every transport.
//!
//! It sees each message in the order of the wire, before the protocol library does. Notifications are routed here and
//! not handed on: the library would start one task for each, lose their order, and log their content. Only
//! `notifications/cancelled` goes through, as the library needs it for the server's own requests.

mod builtin;
mod notice;
mod ordered;
mod route;
mod stdio;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rmcp::{
    RoleClient,
    model::{ClientJsonRpcMessage, GetExtensions as _, GetMeta as _, JsonRpcMessage, ServerJsonRpcMessage},
    transport::Transport,
};

pub(crate) use builtin::BuiltinLink;
use notice::Notice;
pub(crate) use route::{Route, RouteGuard, RouteTag, WireFailure, WireShared};
pub(crate) use stdio::StdioLink;

/// A transport with order, routing and typed failures.
pub(crate) struct Wire<T> {
    inner: T,
    shared: Arc<WireShared>,
}

impl<T> Wire<T> {
    pub(crate) fn new(inner: T, shared: Arc<WireShared>) -> Self {
        Self { inner, shared }
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
        self.inner.send(item)
    }

    /// Cancel safe as the inner one is: nothing here waits after a message was taken.
    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        loop {
            let Some(message) = self.inner.receive().await else {
                self.shared.input_ended.cancel();
                return None;
            };
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
