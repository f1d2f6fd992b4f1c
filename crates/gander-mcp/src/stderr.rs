//! A server's standard error: read continuously (a full pipe would block the server), the last 64 KiB kept.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How much is kept.
const RING_BYTES: usize = 64 * 1024;
/// How much of it goes into an error.
const TAIL_BYTES: usize = 4 * 1024;
const TAIL_LINES: usize = 20;

/// The last bytes of standard error, over all runs of the server. Secrets are taken out on the way out.
#[derive(Default)]
pub(crate) struct StderrRing {
    bytes: Mutex<VecDeque<u8>>,
    sensitive: Vec<String>,
}

impl StderrRing {
    pub(crate) fn new(sensitive: Vec<String>) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::default(), sensitive })
    }

    fn push(&self, chunk: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.extend(chunk);
        let excess = bytes.len().saturating_sub(RING_BYTES);
        bytes.drain(..excess);
    }

    /// Forgets what was said, before a new run.
    pub(crate) fn clear(&self) {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Everything kept, redacted, control characters made visible.
    pub(crate) fn text(&self) -> String {
        let bytes: Vec<u8> = {
            let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            bytes.make_contiguous().to_vec()
        };
        clean(&String::from_utf8_lossy(&bytes), &self.sensitive)
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

#[cfg(test)]
mod tests {
    use super::*;

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
