//! HostService: one program works for a session for as long as its stream is open.

use gander_domain::{ErrorDetail, ErrorReason, HostCallId, SessionId, extension::extension_key};
use gander_engine::{HostAttachment, Source as _, SystemSource};
use gander_proto::v1::{self as pb, host_service_server::HostService};
use tonic::{Request, Response, Status};

use crate::{
    Api,
    context::incoming,
    convert::{At, Violations, error_to_pb, host, tool},
    error::IntoStatus as _,
    watch::{Answers, closing},
};
use pb::attach_host_response::Payload;

type Answer<T> = Result<Response<T>, Status>;

/// Extension that a host's tools appear under where it names none.
const DEFAULT_EXTENSION: &str = "client";

#[tonic::async_trait]
impl HostService for Api {
    type AttachHostStream = Answers<pb::AttachHostResponse>;

    async fn attach_host(&self, request: Request<pb::AttachHostRequest>) -> Answer<Self::AttachHostStream> {
        attach(self, request.into_inner()).await.or_status().map(Response::new)
    }

    async fn report_host_progress(
        &self,
        request: Request<pb::ReportHostProgressRequest>,
    ) -> Answer<pb::ReportHostProgressResponse> {
        let (_, request) = incoming(request)?;
        let (id, progress) = progress(request).or_status()?;
        self.run(|engine| async move { engine.report_host_progress(&id, progress).await }).await?;
        Ok(Response::new(pb::ReportHostProgressResponse {}))
    }

    async fn complete_host_call(
        &self,
        request: Request<pb::CompleteHostCallRequest>,
    ) -> Answer<pb::CompleteHostCallResponse> {
        let (_, request) = incoming(request)?;
        let mut v = Violations::default();
        let id = v.id(&At::root("host_call_id"), &request.host_call_id, |t| HostCallId::new(t));
        let outcome = host::outcome_from_pb(request.outcome, &mut v);
        let (id, outcome) = v.finish(id.zip(outcome)).or_status()?;
        self.run(|engine| async move { engine.complete_host_call(&id, outcome).await }).await?;
        Ok(Response::new(pb::CompleteHostCallResponse {}))
    }
}

fn progress(
    request: pb::ReportHostProgressRequest,
) -> Result<(HostCallId, gander_engine::CallProgress), ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("host_call_id"), &request.host_call_id, |t| HostCallId::new(t));
    let report = tool::progress_from_pb(request.report, &mut v);
    v.finish(id.zip(report))
}

fn withdrawal(id: &HostCallId) -> pb::HostCallWithdrawn {
    let why = ErrorDetail::new(
        ErrorReason::HostCallNotFound,
        "nobody waits for this call any more: it was cancelled, or took too long",
    );
    pb::HostCallWithdrawn { host_call_id: id.to_string(), cause: Some(error_to_pb(&why)) }
}

async fn attach(
    api: &Api,
    request: pb::AttachHostRequest,
) -> Result<Answers<pb::AttachHostResponse>, ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let name = if request.extension_name.is_empty() { DEFAULT_EXTENSION } else { &request.extension_name };
    let key = extension_key(name);
    if key.is_empty() || key.contains("__") {
        v.add(&At::root("extension_name"), "must have a letter or digit, and no double underscore");
    }
    let capabilities = host::capabilities_from_pb(request.capabilities, request.tools, &key, &mut v);
    let session_id = v.finish(id)?;
    let permit = api.open_stream()?;
    // Not in a task of its own: a host whose client has gone must not stay attached, and dropping the attachment undoes it.
    let attachment = api.engine.attach_host(&session_id, capabilities).await?;
    let last_sequence = api.engine.get_session(&session_id).await?.last_sequence;
    let interval = api.options.checkpoint_interval;
    let engine = api.engine.clone();
    let wrap = |payload| Ok(pb::AttachHostResponse { payload: Some(payload) });
    Ok(Box::pin(async_stream::stream! {
        let _permit = permit;
        let HostAttachment { mut calls, mut withdrawn, registration } = attachment;
        let closed = engine.closing();
        let attached = pb::HostAttached { host_id: SystemSource.unique(), last_sequence };
        yield wrap(Payload::Attached(attached));
        loop {
            let payload = tokio::select! {
                // A withdrawal must not overtake its call.
                biased;
                call = calls.recv() => match call {
                    Some(call) => Payload::Call(host::call_to_pb(&call, registration.session_id())),
                    // The session was unloaded by force: it is deleted, or the daemon stops.
                    None => break,
                },
                Some(id) = withdrawn.recv() => Payload::Withdrawn(withdrawal(&id)),
                () = closed.cancelled() => break,
                () = tokio::time::sleep(interval) => Payload::Keepalive(pb::HostKeepalive {}),
            };
            yield wrap(payload);
        }
        let why = match engine.get_session(&session_id).await {
            Err(e) if e.reason == ErrorReason::SessionNotFound => gander_engine::WatchClosed::SessionDeleted,
            Err(_) => gander_engine::WatchClosed::StoreLost,
            Ok(_) => gander_engine::WatchClosed::Drain,
        };
        yield wrap(Payload::StreamClosing(closing(why)));
    }))
}
