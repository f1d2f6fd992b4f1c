//! The editor at work for the daemon: its files with their unsaved changes, its terminals (see `terminals`).

use std::{collections::HashMap, sync::Arc, time::Duration};

use gander_client::ClientError;
use gander_proto::v1::{
    AttachHostRequest, CompleteHostCallRequest, ErrorDetail, ErrorReason, FsReadResult, FsWriteResult,
    GetConfigValueRequest, HostCall, HostCapabilities, attach_host_response::Payload,
    complete_host_call_request::Outcome, host_call::Call,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Inner, watching::Attached};
use crate::rpc::RpcError;

/// Pause before the daemon is asked again after its stream ended.
const AGAIN: Duration = Duration::from_secs(1);
/// Says whether commands run in the client's terminals.
const TERMINALS_KEY: &str = "gander.editor_terminals";

impl Inner {
    /// Serves the session's host calls for as long as it is followed.
    pub(super) async fn be_host(self: &Arc<Self>, session: &Arc<Attached>) {
        loop {
            let served = Box::pin(self.serve_host(session)).await;
            session.host_settled.cancel();
            match served {
                // The daemon ended the stream, or was away for a moment.
                Ok(()) => tokio::time::sleep(AGAIN).await,
                Err(error) if error.is_temporary() => tokio::time::sleep(AGAIN).await,
                // Somebody else is the host: perhaps no longer when the next turn begins.
                Err(error) if error.is(ErrorReason::HostAlreadyAttached) => {
                    session.host_wanted.notified().await;
                }
                Err(error) => {
                    tracing::info!(error = %error, "the client's files and terminals are not used");
                    return;
                }
            }
        }
    }

    async fn serve_host(self: &Arc<Self>, session: &Arc<Attached>) -> Result<(), ClientError> {
        let caps = self.caps();
        let capabilities = HostCapabilities {
            fs_read: caps.fs_read,
            fs_write: caps.fs_write,
            terminal: caps.terminal && self.lends_terminals().await,
        };
        let request = AttachHostRequest {
            session_id: session.session_id.clone(),
            capabilities: Some(capabilities),
            ..AttachHostRequest::default()
        };
        let mut calls = self.client.hosts().attach_host(request).await?.into_inner();
        session.host_settled.cancel();
        let mut running: HashMap<String, CancellationToken> = HashMap::new();
        // With its stream the daemon gives up all calls.
        let stream = CancellationToken::new();
        let _over = stream.clone().drop_guard();
        while let Some(message) = calls.message().await? {
            match message.payload {
                Some(Payload::Call(call)) => {
                    running.retain(|_, token| !token.is_cancelled());
                    let withdrawn = stream.child_token();
                    running.insert(call.host_call_id.clone(), withdrawn.clone());
                    let (inner, owner) = (self.clone(), session.clone());
                    session
                        .spawn(self, async move { Box::pin(inner.host_call(&owner, call, withdrawn)).await });
                }
                Some(Payload::Withdrawn(call)) => {
                    if let Some(token) = running.remove(&call.host_call_id) {
                        token.cancel();
                    }
                }
                Some(Payload::StreamClosing(_)) => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }

    /// A client that shows our output as a terminal needs none of its own for it: what the daemon runs itself it can
    /// bound and end for certain.
    async fn lends_terminals(&self) -> bool {
        if !self.caps().meta_terminal_output {
            return true;
        }
        let request = GetConfigValueRequest { key: TERMINALS_KEY.to_owned() };
        let answer = self.client.config().get_config_value(request).await;
        let value = answer.ok().and_then(|answer| answer.into_inner().value);
        value
            .is_some_and(|value| serde_json::from_str(&value.value_json).is_ok_and(|v: String| v == "always"))
    }

    async fn host_call(
        self: &Arc<Self>,
        session: &Arc<Attached>,
        call: HostCall,
        withdrawn: CancellationToken,
    ) {
        let outcome = match &call.call {
            Some(Call::TerminalRun(run)) => {
                match Box::pin(self.run_terminal(session, &call, run, &withdrawn)).await {
                    Some(outcome) => outcome,
                    None => return,
                }
            }
            other => {
                let done = tokio::select! {
                    done = self.file_call(session, other.as_ref()) => done,
                    () = withdrawn.cancelled() => return,
                };
                done.unwrap_or_else(|error| Outcome::Error(detail(&error)))
            }
        };
        if withdrawn.is_cancelled() {
            return;
        }
        // Lets the list of running calls forget this one.
        withdrawn.cancel();
        let request = CompleteHostCallRequest {
            host_call_id: call.host_call_id,
            outcome: Some(outcome),
            idempotency_key: String::new(),
        };
        if let Err(status) = self.client.hosts().complete_host_call(request).await {
            tracing::debug!(error = status.message(), "the result of a host call came too late");
        }
    }

    async fn file_call(
        self: &Arc<Self>,
        session: &Attached,
        call: Option<&Call>,
    ) -> Result<Outcome, RpcError> {
        let session_id = &session.session_id;
        match call {
            Some(Call::FsRead(read)) => {
                let mut params = json!({"sessionId": session_id, "path": read.path});
                for (key, value) in [("line", read.line), ("limit", read.limit)] {
                    if let (Some(value), Some(params)) = (value, params.as_object_mut()) {
                        params.insert(key.to_owned(), json!(value));
                    }
                }
                let answer = self.request(session, "fs/read_text_file", &params).await?;
                let text = answer.get("content").and_then(Value::as_str);
                let text = text.ok_or_else(|| RpcError::internal("the client gave no content"))?.to_owned();
                Ok(Outcome::FsRead(FsReadResult { text }))
            }
            Some(Call::FsWrite(write)) => {
                let params = json!({"sessionId": session_id, "path": write.path, "content": write.text});
                self.request(session, "fs/write_text_file", &params).await?;
                Ok(Outcome::FsWrite(FsWriteResult {}))
            }
            _ => Err(RpcError::unknown_method("this kind of host call")),
        }
    }

    async fn request(
        self: &Arc<Self>,
        session: &Attached,
        method: &str,
        params: &Value,
    ) -> Result<Value, RpcError> {
        self.ask(Some(&session.session_id), method, params).await.answer().await
    }
}

fn detail(error: &RpcError) -> ErrorDetail {
    let reason = if error.code == crate::rpc::METHOD_NOT_FOUND {
        ErrorReason::NotImplemented
    } else {
        ErrorReason::ExtensionUnavailable
    };
    let message =
        if error.message.is_empty() { "the client failed without a reason" } else { &error.message };
    ErrorDetail { reason: reason as i32, message: message.to_owned(), ..ErrorDetail::default() }
}
