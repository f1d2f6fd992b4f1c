//! The body of a gRPC answer: it keeps the call counted until its last frame, ends it at its deadline with proper
//! trailers, and turns a panic of the stream behind it into INTERNAL.

use std::{
    future::Future as _,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::{sync::OwnedSemaphorePermit, time::Sleep};
use tonic::{Code, Status, body::Body};

use crate::{
    front::Inner,
    grpc,
    metrics::code_name,
    status::{deadline_exceeded, trailers},
};

/// One call, from its head to its last frame. Dropping it without an end means that the caller went away.
pub(crate) struct Call {
    pub(crate) inner: Arc<Inner>,
    pub(crate) method: usize,
    pub(crate) streaming: bool,
    pub(crate) started: Instant,
    pub(crate) code: Option<Code>,
    pub(crate) span: tracing::Span,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Call {
    /// Notes the status that `headers` carry, if any.
    pub(crate) fn note(&mut self, headers: &HeaderMap) {
        if let Some(value) = headers.get("grpc-status") {
            self.code.get_or_insert(Code::from_bytes(value.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        let took = self.started.elapsed();
        self.inner.metrics.ended(self.method, self.streaming, code, took);
        let _entered = self.span.enter();
        let code_text = code_name(code);
        match code {
            Code::Internal | Code::Unknown | Code::DataLoss => {
                tracing::warn!(code = code_text, ?took, "request failed");
            }
            _ => tracing::debug!(code = code_text, ?took, "request ended"),
        }
    }
}

/// See the module.
pub(crate) struct CallBody {
    /// `None` after the end.
    body: Option<Body>,
    deadline: Option<Pin<Box<Sleep>>>,
    call: Call,
}

impl CallBody {
    pub(crate) fn new(body: Body, deadline: Option<Pin<Box<Sleep>>>, call: Call) -> Self {
        Self { body: Some(body), deadline, call }
    }

    fn finish(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.body = None;
        self.call.code = Some(status.code());
        Poll::Ready(Some(Ok(Frame::trailers(trailers(status)))))
    }
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        // The deadline first: a stream that is always ready must not outrun it.
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return this.finish(&deadline_exceeded());
        }
        match catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx))) {
            Err(panic) => {
                let status = grpc::panicked(&this.call.inner, &*panic);
                this.finish(&status)
            }
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(None)) => {
                this.body = None;
                this.call.code.get_or_insert(Code::Unknown);
                Poll::Ready(None)
            }
            Ok(Poll::Ready(Some(Err(status)))) => {
                this.call.code = Some(status.code());
                Poll::Ready(Some(Err(status)))
            }
            Ok(Poll::Ready(Some(Ok(frame)))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.call.note(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}
