//! A server's standard error: read continuously (a full pipe would block the server), the last 64 KiB kept.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// How much is kept.
const RING_BYTES: usize = 64 * 1024;
/// How much of it goes into an error.
const TAIL_BYTES: usize = 4 * 1024;
const TAIL_LINES: usize = 20;

/// A reader gets whole lines, so that a secret is never in two pieces; a longer line comes when it is this long.
const MAX_LINE_BYTES: usize = 16 * 1024;

#[derive(Default)]
struct Ring {
    bytes: VecDeque<u8>,
    /// How much was written in all; the ring ends there.
    written: u64,
}

/// The last bytes of standard error, over all runs of the server. Secrets are taken out on the way out.
pub(crate) struct StderrRing {
    ring: Mutex<Ring>,
    /// `Ring::written`, for those who wait for more.
    written: watch::Sender<u64>,
    sensitive: Vec<String>,
}

impl StderrRing {
    pub(crate) fn new(sensitive: Vec<String>) -> Arc<Self> {
        Arc::new(Self { ring: Mutex::default(), written: watch::Sender::new(0), sensitive })
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, chunk: &[u8]) {
        let written = {
            let mut ring = self.ring();
            ring.bytes.extend(chunk);
            let excess = ring.bytes.len().saturating_sub(RING_BYTES);
            ring.bytes.drain(..excess);
            ring.written += chunk.len() as u64;
            ring.written
        };
        self.written.send_replace(written);
    }

    /// Forgets what was said, before a new run.
    pub(crate) fn clear(&self) {
        self.ring().bytes.clear();
    }

    /// Everything kept, redacted, control characters made visible.
    pub(crate) fn text(&self) -> String {
        let bytes = self.ring().bytes.make_contiguous().to_vec();
        clean(&String::from_utf8_lossy(&bytes), &self.sensitive)
    }

    /// Tells when there is more to read.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// The lines after `position`, as far as they are kept, and the position behind them. `last`: there will be no
    /// more, so the rest of a line counts as one.
    pub(crate) fn lines_after(&self, position: u64, last: bool) -> (String, u64) {
        let (bytes, end) = {
            let mut ring = self.ring();
            let new = usize::try_from(ring.written.saturating_sub(position)).unwrap_or(usize::MAX);
            let start = ring.bytes.len().saturating_sub(new);
            (ring.bytes.make_contiguous()[start..].to_vec(), ring.written)
        };
        let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
            _ if last || bytes.len() >= MAX_LINE_BYTES => bytes.len(),
            Some(at) => at + 1,
            None => 0,
        };
        let text = clean(&String::from_utf8_lossy(&bytes[..whole]), &self.sensitive);
        (text, end - (bytes.len() - whole) as u64)
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> String {
        let text = self.text();
        let text = text.trim_end();
        let start = text.len().saturating_sub(TAIL_BYTES);
        let start = (start..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let lines: Vec<&str> = text[start..].lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// Redacts `sensitive` and shows control characters (terminal sequences) as escapes.
pub(crate) fn clean(text: &str, sensitive: &[String]) -> String {
    let mut text = text.to_owned();
    for value in sensitive {
        if text.contains(value.as_str()) {
            text = text.replace(value.as_str(), "[redacted]");
        }
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            if c != '\r' {
                out.extend(c.escape_unicode());
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Reads `source` until it ends.
pub(crate) async fn collect(mut source: impl AsyncRead + Unpin, ring: Arc<StderrRing>) {
    let mut buffer = vec![0_u8; 8 * 1024];
    while let Ok(count @ 1..) = source.read(&mut buffer).await {
        ring.push(&buffer[..count]);
    }
}

/// What a server writes to its standard error from now on.
pub struct LogFollow {
    ring: Arc<StderrRing>,
    more: watch::Receiver<u64>,
    position: u64,
    /// The server is gone for good.
    ended: CancellationToken,
    over: bool,
}

impl LogFollow {
    /// With all that is kept up to now, and what follows it.
    pub(crate) fn new(ring: &Arc<StderrRing>, ended: CancellationToken) -> (String, Self) {
        let more = ring.watch();
        let (text, position) = ring.lines_after(0, false);
        (text, Self { ring: Arc::clone(ring), more, position, ended, over: false })
    }

    /// The next lines; `None` when the extension is gone. A reader that is too slow misses what the ring no longer
    /// keeps. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if self.over {
                return None;
            }
            self.over = self.ended.is_cancelled();
            self.more.mark_unchanged();
            let (text, position) = self.ring.lines_after(self.position, self.over);
            self.position = position;
            if !text.is_empty() {
                return Some(text);
            }
            tokio::select! {
                // The sender lives as long as the ring, so this cannot fail.
                _ = self.more.changed() => {}
                () = self.ended.cancelled() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn followers_get_whole_lines_once_and_no_half_of_a_secret() {
        let ring = StderrRing::new(vec!["hunter22".to_owned()]);
        ring.push(b"old\nkey=hun");
        let ended = CancellationToken::new();
        let (kept, mut follow) = LogFollow::new(&ring, ended.clone());
        assert_eq!(kept, "old\n");
        let writer = Arc::clone(&ring);
        let writing = async {
            tokio::task::yield_now().await;
            writer.push(b"ter22\nnext");
        };
        let (line, ()) = tokio::join!(follow.next(), writing);
        assert_eq!(line.as_deref(), Some("key=[redacted]\n"));
        ring.clear();
        ring.push(b"after a restart\n");
        assert_eq!(follow.next().await.as_deref(), Some("after a restart\n"));
        ring.push(&[b'x'; 3 * RING_BYTES]);
        assert!(follow.next().await.is_some_and(|text| text.len() <= RING_BYTES));
        ring.push(b"end");
        ended.cancel();
        assert_eq!(follow.next().await.as_deref(), Some("end"));
        assert_eq!(follow.next().await, None);
    }

    #[tokio::test]
    async fn the_ring_keeps_the_end_and_hides_secrets() {
        let ring = StderrRing::new(vec!["hunter22".to_owned()]);
        let text = format!("{}\nkey=hunter22\n\u{1b}[31mred\n", "x".repeat(200_000));
        collect(text.as_bytes(), ring.clone()).await;
        let kept = ring.text();
        assert!(kept.len() < RING_BYTES + 100);
        assert!(!kept.contains("hunter22"));
        assert!(ring.tail().ends_with("key=[redacted]\n\\u{1b}[31mred"), "{}", ring.tail());
        assert!(ring.tail().len() <= TAIL_BYTES);
        ring.clear();
        assert_eq!(ring.tail(), "");
    }
}
