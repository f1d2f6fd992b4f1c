//! A typed channel to a server in this process.

use std::{any::Any, io};

use futures::StreamExt as _;
use rmcp::{
    RoleClient,
    model::{ClientJsonRpcMessage, ServerJsonRpcMessage},
    transport::Transport,
};

use super::ordered::OrderedSink;
use crate::host::{BuiltinConnection, BuiltinStream};

/// The client's end of a builtin server's connection.
pub(crate) struct BuiltinLink {
    sink: OrderedSink<ClientJsonRpcMessage>,
    stream: BuiltinStream,
    _guard: Box<dyn Any + Send + Sync>,
}

impl BuiltinLink {
    pub(crate) fn new(connection: BuiltinConnection) -> Self {
        // The mutex only makes it shareable; nobody looks inside.
        let guard = Box::new(std::sync::Mutex::new(connection.guard));
        Self { sink: OrderedSink::new(connection.sink), stream: connection.stream, _guard: guard }
    }
}

impl Transport<RoleClient> for BuiltinLink {
    type Error = io::Error;

    fn send(
        &mut self,
        item: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<(), io::Error>> + Send + 'static {
        self.sink.send(item)
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        self.stream.next().await
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        self.sink.close().await;
        Ok(())
    }
}
