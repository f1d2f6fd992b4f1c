//! Sending in order. The protocol library polls the futures of several messages at once, so a message takes its place
//! in the queue when the future is made; whoever gets the sink sends all that waits, with one flush.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Sink, SinkExt as _};
use tokio::{sync::Mutex as AsyncMutex, time::timeout};

/// How long closing waits for a message that is being sent.
const CLOSE_PATIENCE: Duration = Duration::from_millis(50);

type BoxSink<T> = Pin<Box<dyn Sink<T, Error = io::Error> + Send>>;

struct State<T> {
    queue: Mutex<VecDeque<T>>,
    /// Absent once it failed or was closed.
    sink: AsyncMutex<Option<BoxSink<T>>>,
}

/// A sink whose messages leave in the order of the calls of [`OrderedSink::send`].
pub(super) struct OrderedSink<T>(Arc<State<T>>);

impl<T> Clone for OrderedSink<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> OrderedSink<T> {
    pub(super) fn new(sink: BoxSink<T>) -> Self {
        Self(Arc::new(State { queue: Mutex::default(), sink: AsyncMutex::new(Some(sink)) }))
    }

    /// Queues now; the future ends when the message was sent.
    pub(super) fn send(&self, item: T) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let state = Arc::clone(&self.0);
        state.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(item);
        async move {
            let mut guard = state.sink.lock().await;
            let Some(sink) = guard.as_mut() else {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "the connection is closed"));
            };
            let result = send_queued(sink, &state.queue).await;
            if result.is_err() {
                *guard = None;
            }
            result
        }
    }

    /// Ends the stream to the server, which tells a stdio server to exit.
    pub(super) async fn close(&self) {
        if let Ok(mut guard) = timeout(CLOSE_PATIENCE, self.0.sink.lock()).await
            && let Some(mut sink) = guard.take()
        {
            let _ = timeout(CLOSE_PATIENCE, sink.close()).await;
        }
    }
}

async fn send_queued<T>(sink: &mut BoxSink<T>, queue: &Mutex<VecDeque<T>>) -> io::Result<()> {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let mut fed = false;
    while let Some(item) = next() {
        sink.feed(item).await?;
        fed = true;
    }
    if fed { sink.flush().await } else { Ok(()) }
}
